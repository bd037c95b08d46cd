"""The newest items of a stream, sorted by when they happened, for each key that is asked for."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from operator import attrgetter
from typing import Generic, TypeVar

from ....codecs.record import Flag
from ...recent import Item, Recent

T = TypeVar("T")
_REPEATED = int(Flag.REPEATED)
_when = attrgetter("event_ns")
ALL = ()  # the key of everything


class Shelf(Generic[T]):
    """Items by key, each list oldest first by the producers' time.

    Args:
        recent: where they come from.
        keys: the keys under which an item is found, beside `ALL`.
        identity: items of one identity are one: the first that came counts. None = each is its own.

    Attributes:
        known_from_ns: an item counts unless its like was received from then on; our wall clock, 0 before there is one.
        began_ns: when the first item was received, 0 before there is one.
        begins: partition -> offset of its first item.
    """

    def __init__(
        self,
        recent: Recent[T],
        keys: Callable[[T], Iterable[Hashable]],
        identity: Callable[[T], Hashable] | None = None,
    ) -> None:
        self.recent = recent
        self._keys, self.identity = keys, identity
        self._lists: dict[Hashable, list[Item[T]]] = {}
        self._arrived: deque[Item[T]] = deque(maxlen=recent.size)  # those that count, in the order of their arrival
        # identities of the newest items: once there are many, the older half is forgotten
        self._seen: set[Hashable] = set()
        self._seen_before: set[Hashable] = set()
        self._seen_from = self.known_from_ns = self.began_ns = 0
        self.begins: dict[int, int] = {}
        self._taken = 0
        self.next = 0  # sequence of the first item that was not looked at

    def refresh(self) -> None:
        """Take what has come since."""
        items = self.recent.refresh()
        if not items or items[-1].sequence < self.next:
            return
        fresh = []
        for item in reversed(items):
            if item.sequence < self.next:
                break
            fresh.append(item)
        self.next = items[-1].sequence + 1
        for item in reversed(fresh):
            self._take(item)
        if self._taken > self.recent.size:
            self._forget(items[0].sequence)

    def _take(self, item: Item[T]) -> None:
        self._taken += 1
        self.began_ns = self.began_ns or item.recv_ns
        self.begins.setdefault(item.partition, item.offset)
        if item.flags & _REPEATED:
            return
        if self.identity is not None:
            identity = self.identity(item.value)
            if identity in self._seen or identity in self._seen_before:
                return
            self._seen.add(identity)
            self._seen_from = self._seen_from or item.recv_ns
            self.known_from_ns = self.known_from_ns or item.recv_ns
        self._arrived.append(item)
        for key in (ALL, *self._keys(item.value)):
            known = self._lists.setdefault(key, [])
            if not known or known[-1].event_ns <= item.event_ns:
                known.append(item)
            else:
                insort(known, item, key=_when)

    def _forget(self, oldest: int) -> None:
        """Let go of what the stream's newest items no longer hold."""
        kept = {key: [item for item in known if item.sequence >= oldest] for key, known in self._lists.items()}
        self._lists = {key: known for key, known in kept.items() if known}
        self._seen, self._seen_before = set(), self._seen
        self._seen_from, self.known_from_ns = 0, self._seen_from
        self._taken = 0

    @property
    def since_ns(self) -> int:
        """Everything that was received from then on is here; our wall clock."""
        items = self.recent.items
        # of those that were received together with the oldest one some may be gone
        return items[0].recv_ns + (not self.recent.whole) if items else 0

    def holds(self, sequence: int) -> bool:
        """Whether everything from a sequence of the stream on is here."""
        items = self.recent.items
        return sequence >= self.next or bool(items and items[0].sequence <= sequence)

    def arrived(self, sequence: int, key: Hashable = ALL) -> list[Item[T]]:
        """What came from a sequence of the stream on, in the order of arrival."""
        found = []
        for item in reversed(self._arrived):
            if item.sequence < sequence:
                break
            if key == ALL or key in self._keys(item.value):
                found.append(item)
        return found[::-1]

    def span(self, key: Hashable, start_ns: int, end_ns: int) -> tuple[list[Item[T]], int, int]:
        """`(items, first, stop)`: the key's list, and the part of it that happened in the range."""
        self.refresh()
        known = self._lists.get(key, [])
        return known, bisect_left(known, start_ns, key=_when), bisect_left(known, end_ns, key=_when)

    def newest_first(self, key: Hashable, start_ns: int, end_ns: int) -> Iterator[Item[T]]:
        """Items of a range."""
        known, first, stop = self.span(key, start_ns, end_ns)
        for index in range(stop - 1, first - 1, -1):
            yield known[index]

    def latest(self, key: Hashable = ALL) -> Item[T] | None:
        """The newest item of a key."""
        self.refresh()
        known = self._lists.get(key)
        return known[-1] if known else None
