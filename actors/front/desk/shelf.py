"""The newest items of a stream, sorted by when they happened, for each key that is asked for."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from operator import attrgetter
from typing import Generic, TypeVar

from ....codecs.record import Flag
from ...recent import Item, Recent
from ..merge import stored_sequence
from .cursors import Cursor, Identity
from .seam import Border, Seam

T = TypeVar("T")
_REPEATED = int(Flag.REPEATED)
_when = attrgetter("event_ns")
ALL = ()  # the key of everything


class Shelf(Generic[T]):
    """Items by key, each list oldest first by the producers' time, and by identity within it.

    Args:
        recent: where they come from.
        keys: the keys under which an item is found, beside `ALL`.
        identity: items of one identity are one: the first that came counts.

    Attributes:
        next: sequence of the first item that was not looked at.
    """

    def __init__(
        self, recent: Recent[T], keys: Callable[[T], Iterable[Hashable]], identity: Callable[[T], Identity]
    ) -> None:
        self.recent = recent
        self._keys, self.identity = keys, identity
        self._begin(0)

    def _begin(self, sequence: int) -> None:
        """Hold nothing, and go on from a sequence of the stream: of what lies before it something is missing."""
        self.next = self._first = sequence
        self._lists: dict[Hashable, list[Item[T]]] = {}
        self._arrived: deque[Item[T]] = deque()  # those that count, in the order of their arrival
        self._border = Border(2 * self.recent.size)

    def _rank(self, item: Item[T]) -> tuple[int, Identity]:
        return item.event_ns, self.identity(item.value)

    def refresh(self) -> None:
        """Take what has come since, and let go of as much."""
        items = self.recent.refresh()
        if self.recent.unbroken > self.next:
            self._begin(self.recent.unbroken)
        if not items or items[-1].sequence < self.next:
            return
        fresh = []
        for item in reversed(items):
            if item.sequence < self.next:
                break
            fresh.append(item)
        self.next = items[-1].sequence + 1
        oldest, arrived = max(items[0].sequence, self._first), self._arrived
        for item in reversed(fresh):
            self._take(item)
        while arrived and arrived[0].sequence < oldest:
            self._drop(arrived.popleft())
        self._border.leave(oldest)

    def _take(self, item: Item[T]) -> None:
        if not self._border.take(item, None if item.flags & _REPEATED else self.identity(item.value)):
            return
        self._arrived.append(item)
        for key in (ALL, *self._keys(item.value)):
            known = self._lists.setdefault(key, [])
            if not known or known[-1].event_ns < item.event_ns:
                known.append(item)
            else:
                insort(known, item, key=self._rank)

    def _drop(self, item: Item[T]) -> None:
        """Let go of an item that the stream's newest ones no longer hold: mostly the first of its lists."""
        rank = self._rank(item)
        for key in (ALL, *self._keys(item.value)):
            known = self._lists[key]
            at = 0 if known[0] is item else bisect_left(known, rank, key=self._rank)
            del known[at]
            if not known:
                del self._lists[key]

    def seam(self) -> Seam:
        """Where it begins; of one moment with what it tells until it is refreshed."""
        return self._border.seam()

    @property
    def generation(self) -> Hashable:
        """Changes when it begins anew, and when a partition brings its first item: the seam was elsewhere before."""
        return self._first, len(self._border.began)

    @property
    def since_ns(self) -> int:
        """Everything that was received from then on is here; our wall clock, 0 where nothing is."""
        return self._border.since_ns

    @property
    def knows_ns(self) -> int:
        """Of what was received before, it is not known of what things it told; our wall clock."""
        return self._border.knows_ns

    def behind(self) -> bool:
        """Whether the writer has not stored yet what memory no longer holds."""
        items = self.recent.items
        if not items:
            return False
        stored = stored_sequence(self.recent.reader)
        return stored is not None and stored < items[0].sequence

    def holds(self, sequence: int) -> bool:
        """Whether everything from a sequence of the stream on is here."""
        items = self.recent.items
        return sequence >= self.next or bool(items and max(items[0].sequence, self._first) <= sequence)

    def arrived(self, sequence: int, key: Hashable = ALL) -> list[Item[T]]:
        """What came from a sequence of the stream on, in the order of arrival."""
        found = []
        for item in reversed(self._arrived):
            if item.sequence < sequence:
                break
            if key == ALL or key in self._keys(item.value):
                found.append(item)
        return found[::-1]

    def span(
        self, key: Hashable, start_ns: int, end_ns: int, before: Cursor | None = None
    ) -> tuple[list[Item[T]], int, int]:
        """`(items, first, stop)`: the key's list, and the part of it that is in a range and below a cursor."""
        self.refresh()
        known = self._lists.get(key, [])
        stop = bisect_left(known, end_ns, key=_when)
        if before is not None:
            stop = min(stop, bisect_left(known, before, key=self._rank))
        return known, bisect_left(known, start_ns, key=_when), stop

    def newest_first(
        self, key: Hashable, start_ns: int, end_ns: int, before: Cursor | None = None
    ) -> Iterator[Item[T]]:
        """Items of a range."""
        known, first, stop = self.span(key, start_ns, end_ns, before)
        for index in range(stop - 1, first - 1, -1):
            yield known[index]

    def latest(self, key: Hashable = ALL) -> Item[T] | None:
        """The newest item of a key."""
        self.refresh()
        known = self._lists.get(key)
        return known[-1] if known else None
