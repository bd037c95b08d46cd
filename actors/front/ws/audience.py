"""Who gets each frame of a channel as it is: the one loop in which a record is written to many sockets.

With a thousand clients the time goes into touching what belongs to each of them, not into the work. So the loop knows
of a client that keeps up nothing but the `write` of its transport; a connection says by itself when it no longer keeps
up, or does so again, and is then sorted anew before the next frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import length_hint
from typing import TYPE_CHECKING

from .meters import Meters
from .wire import Encoding, Frame

if TYPE_CHECKING:
    from .connection import Connection
    from .subscription import Subscription

Write = Callable[[bytes], None]


class _Group:
    """Those that take the same bytes at once."""

    __slots__ = ("connections", "writes")

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.writes: list[Write] = []  # of their transports, in the same order


class Audience:
    """Live subscriptions of one channel without filters and without a least interval."""

    __slots__ = ("_behind", "_groups", "_meters", "_sorted", "_subs")

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._subs: dict[Subscription, None] = {}
        self._groups: tuple[_Group, ...] = ()  # by encoding
        self._behind: list[Subscription] = []  # those for whom a frame has to wait
        self._sorted = False

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._subs)

    def add(self, sub: Subscription) -> None:
        self._subs[sub] = None
        self.resort()

    def discard(self, sub: Subscription) -> None:
        self._subs.pop(sub, None)
        self.resort()

    def resort(self) -> None:
        """Somebody came, went, fell behind or caught up."""
        self._groups, self._behind, self._sorted = (), [], False

    def _sort(self) -> None:
        groups = tuple(_Group() for _ in Encoding)
        for sub in self._subs:
            connection = sub.connection
            if connection.clear:
                group = groups[connection.encoding]
                group.connections.append(connection)
                group.writes.append(connection.transport.write)
            else:
                self._behind.append(sub)
        self._groups, self._sorted = groups, True

    def send_small(self, json: Callable[[], bytes], frame: Callable[[], Frame], seq: int) -> None:
        """Send one record: `json` makes its bytes for those who take them at once, `frame` its frame for all others."""
        if not self._sorted:
            self._sort()
        plain, packed, deflate = self._groups
        behind = self._behind  # as it is now: a connection that falls behind on the way has got this frame
        if plain.writes or deflate.writes:
            wire = json()
            self._write(plain, wire)
            self._write(deflate, wire)  # too small to be compressed
        if packed.writes or behind:
            whole = frame()
            if packed.writes:
                self._write(packed, whole.wire(Encoding.MSGPACK))
            for sub in behind:
                sub.connection.send(sub, whole, seq, seq)

    def send(self, frame: Frame, first: int, last: int) -> None:
        """Send a frame with the seqs `first` to `last`."""
        if not self._sorted:
            self._sort()
        groups, behind = self._groups, self._behind
        for encoding, group in zip(Encoding, groups, strict=True):
            if group.writes:
                self._write(group, frame.wire(encoding))
        for sub in behind:
            sub.connection.send(sub, frame, first, last)

    def _write(self, group: _Group, wire: bytes) -> None:
        """Write to all of a group. Whoever fails is out, and nobody else notices."""
        writes, failed = group.writes, 0
        rest = iter(writes)
        while True:
            try:
                for write in rest:
                    write(wire)
                break
            except Exception as error:  # noqa: BLE001 - the connection logs it and ends
                failed += 1
                group.connections[len(writes) - length_hint(rest) - 1].write_failed(error)
        meters, sent = self._meters, len(writes) - failed
        meters.sent.value += sent
        meters.bytes.value += sent * len(wire)
