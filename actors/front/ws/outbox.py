"""What waits for a connection that reads more slowly than the market moves.

A connection that keeps up never has anything here: its frames go straight to the transport. When the transport is full
the frames wait here, 1,000 of them or 8 MiB. Then each channel yields in the way of its class: conflating channels keep
their newest frame, books drop theirs and start over with a snapshot, ordered ones drop their oldest and say which; what
waits of a protected channel is let go here and read back from its ring when there is room. A frame that is `urgent` (a
bar that was closed) is treated as one of an ordered channel, whatever its own is. The outbox stays *full* until it is
half empty again by reading.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from .wire import Frame, Gap

if TYPE_CHECKING:
    from .subscription import Subscription


class Delivery(Enum):
    """What a channel does when a reader cannot take all of it."""

    CONFLATING = "conflating"  # only the newest value counts
    REBUILDABLE = "rebuildable"  # a snapshot makes up for everything before it
    ORDERED = "ordered"  # each record counts, and a missing one is named
    PROTECTED = "protected"  # each record counts, and is sent as long as its ring holds it


class Entry:
    """One waiting frame; a gap that stands where frames were dropped; or nothing, dropped itself."""

    __slots__ = ("first", "frame", "keep", "last", "sub", "wire")

    def __init__(self, sub: Subscription | None, frame: Frame, wire: bytes, first: int, last: int) -> None:
        self.sub = sub  # None: not of a channel (a reply, an error)
        self.frame: Frame | None = frame
        self.wire: bytes | None = wire  # None: a gap over [first, last], or nothing where `first` is 0
        self.first = first
        self.last = last
        self.keep = sub is not None and (sub.delivery is Delivery.ORDERED or frame.urgent)  # dropped only as a gap


class Outbox:
    """The waiting frames of one connection.

    Args:
        frames_max, bytes_max: when it is full.
        encoding: of the connection.
        on_drop: called with a class's name and how many of its frames were dropped.
        on_gap: called for each gap frame that goes out.
    """

    def __init__(
        self, frames_max: int, bytes_max: int, encoding: int,
        on_drop: Callable[[str, int], None], on_gap: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.frames = 0
        self.size = 0  # bytes
        self.full_since: float | None = None
        self.overflowed = False  # full of frames that cannot be dropped: nothing helps but to close
        self.rebuild: dict[Subscription, int] = {}  # those that start over or read back -> first seq dropped
        self._frames_max, self._bytes_max = frames_max, bytes_max
        self._encoding = encoding
        self._on_drop, self._on_gap = on_drop, on_gap
        self._entries: deque[Entry] = deque()
        self._ordered: deque[Entry] = deque()  # those to keep, oldest first

    def __bool__(self) -> bool:
        return bool(self._entries)

    def put(self, sub: Subscription | None, frame: Frame, first: int, last: int, now: float) -> None:
        """Keep a frame for later.

        Args:
            sub: whose it is; None for replies, which are never dropped.
            first, last: the seqs in it.
            now: monotonic, s.
        """
        if sub is not None and (self.full_since is not None or sub in self.rebuild):
            replaceable = sub.waiting and not sub.waiting[-1].keep and not frame.urgent
            if sub.delivery is Delivery.CONFLATING and replaceable:
                self._replace(sub, frame, last)
                return
            if sub.delivery is Delivery.REBUILDABLE:
                self._on_drop(sub.delivery.value, 1)
                self.rebuild.setdefault(sub, first)
                return
            if sub.delivery is Delivery.PROTECTED:
                self.rebuild.setdefault(sub, first)
                return
        wire = frame.wire(self._encoding)
        entry = Entry(sub, frame, wire, first, last)
        self._entries.append(entry)
        self.frames += 1
        self.size += len(wire)
        if sub is not None:
            sub.waiting.append(entry)
            if entry.keep:
                self._ordered.append(entry)
        if self._over():
            self._relieve(now)
            if len(self._entries) > 2 * self._frames_max:
                self._compact()

    def pop(self) -> bytes | None:
        """The next bytes to write; None when nothing waits."""
        entries = self._entries
        while entries:
            entry = entries.popleft()
            sub, wire = entry.sub, entry.wire
            if wire is None:
                if entry.first and sub is not None:
                    sub.gap = None
                    self._on_gap("slow_consumer")
                    return Frame(Gap(sub.topic.name, entry.first, entry.last, "slow_consumer")).wire(self._encoding)
                continue
            self.frames -= 1
            self.size -= len(wire)
            if sub is not None:
                sub.waiting.popleft()
                if entry.keep:
                    self._ordered.popleft()
            return wire
        return None

    def relax(self) -> None:
        """Called after reading made room: no longer full once half of it is free."""
        if self.full_since is not None and self.frames * 2 <= self._frames_max and self.size * 2 <= self._bytes_max:
            self.full_since = None

    def forget(self, sub: Subscription) -> None:
        """Drop what waits for a channel that was unsubscribed."""
        self._drop_waiting(sub, count=False)
        self.rebuild.pop(sub, None)
        if sub.gap is not None:
            sub.gap.first = 0
            sub.gap = None

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self._ordered.clear()
        self.rebuild.clear()
        self.frames = self.size = 0

    def _over(self) -> bool:
        return self.frames > self._frames_max or self.size > self._bytes_max

    def _relieve(self, now: float) -> None:
        if self.full_since is None:
            self.full_since = now
            for sub in {entry.sub: None for entry in self._entries if entry.sub is not None}:
                if sub.delivery is Delivery.CONFLATING:
                    self._conflate(sub)
                elif sub.delivery in (Delivery.REBUILDABLE, Delivery.PROTECTED) and sub.waiting:
                    self.rebuild.setdefault(sub, sub.waiting[0].first)
                    self._drop_waiting(sub, count=sub.delivery is Delivery.REBUILDABLE)
        while self._over():
            if not self._ordered:
                self.overflowed = True
                return
            self._drop_oldest(self._ordered[0])

    def _conflate(self, sub: Subscription) -> None:
        """Let the newest waiting frame stand for all of the channel but those to keep."""
        entries, first, dropped = list(sub.waiting), 0, 0
        sub.waiting.clear()
        for entry in entries:
            if entry is not entries[-1] and not entry.keep:
                first = first or entry.first
                self._empty(entry)
                dropped += 1
                continue
            if first:
                assert entry.frame is not None
                entry.first, first = first, 0
                self._store(entry, entry.frame.conflated())
            sub.waiting.append(entry)
        if dropped:
            self._on_drop(sub.delivery.value, dropped)

    def _replace(self, sub: Subscription, frame: Frame, last: int) -> None:
        """Put a newer value in the place of the one that waits."""
        self._conflate(sub)
        entry = sub.waiting[-1]
        entry.last = last
        self._store(entry, frame.conflated())
        self._on_drop(sub.delivery.value, 1)

    def _store(self, entry: Entry, frame: Frame) -> None:
        wire = frame.wire(self._encoding)
        self.size += len(wire) - len(entry.wire or b"")
        entry.frame, entry.wire = frame, wire

    def _compact(self) -> None:
        """Let go of the entries that were dropped."""
        self._entries = deque(entry for entry in self._entries if entry.wire is not None or entry.first)

    def _empty(self, entry: Entry) -> None:
        """Let go of an entry's frame; the entry itself stays where it is, as nothing."""
        assert entry.wire is not None
        self.frames -= 1
        self.size -= len(entry.wire)
        entry.wire, entry.frame, entry.first = None, None, 0

    def _drop_waiting(self, sub: Subscription, *, count: bool = True) -> None:
        waiting = sub.waiting
        if not waiting:
            return
        if any(entry.keep for entry in waiting):
            self._ordered = deque(entry for entry in self._ordered if entry.sub is not sub)
        if count:
            self._on_drop(sub.delivery.value, len(waiting))
        for entry in waiting:
            self._empty(entry)
        waiting.clear()

    def _drop_oldest(self, entry: Entry) -> None:
        """Let a gap stand where the frame was, or lengthen the channel's gap in front of it."""
        sub = entry.sub
        assert sub is not None
        self._ordered.popleft()
        first, dropped = entry.first, 0
        while sub.waiting[0] is not entry:  # what it would overtake
            first = min(first, sub.waiting[0].first)
            self._empty(sub.waiting.popleft())
            dropped += 1
        sub.waiting.popleft()
        self._empty(entry)
        if sub.gap is None:
            sub.gap, entry.first = entry, first
        else:
            sub.gap.last = entry.last
        self._on_drop(sub.delivery.value, dropped + 1)
