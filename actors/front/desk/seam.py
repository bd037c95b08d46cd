"""Where memory begins: which of a topic's items it holds, and of which things it knows that they were told of."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

from msgspec import Struct

from ...recent import Item
from .cursors import Identity

ALL_RECEIVED = (1 << 63) - 1  # UNIX ns: where memory holds nothing, whatever was received is elsewhere
ITEMS = 1 << 16  # of one event, at most
Positions = Mapping[int, int]  # by partition; each is an offset times `ITEMS`, and which item of the event


@dataclass(frozen=True)
class Seam:
    """Where memory begins, at one moment: what came before it in its topic is ClickHouse's.

    Positions in the topic say it exactly. Times of receipt do not: an event that came again after shared memory was
    lost has two of them, many items share one, and our clock may be set back.

    Attributes:
        began: the first item that was taken; a partition that brought nothing is not named.
        holds: from there on everything that counts is here.
        knows: from there on it is known of what things an item has told.
        began_ns, holds_ns, knows_ns: when those were received, at the earliest; our wall clock.
    """

    began: Positions = field(default_factory=dict)
    holds: Positions = field(default_factory=dict)
    knows: Positions = field(default_factory=dict)
    began_ns: int = ALL_RECEIVED
    holds_ns: int = ALL_RECEIVED
    knows_ns: int = ALL_RECEIVED


NO_MEMORY = Seam()


class _Place(Struct, frozen=True, gc=False):  # there are many: each tuple would be looked at by the garbage collector
    sequence: int
    partition: int
    position: int
    recv_ns: int


class Border:
    """Moves the seam as items come and go, and tells which of them count: the first telling of each thing.

    What counts of a thing must stand on one side. Memory leaves out a telling whose first one it remembers, though that
    one may have left it: ClickHouse then has to count that, so it must not be behind `knows`. Nor may a thing be
    forgotten of which a telling is still in memory, or is not behind `knows`.

    Args:
        things_max: remembered at once; more only as long as memory itself holds so many.
    """

    def __init__(self, things_max: int) -> None:
        self._things_max = things_max
        self._began_ns = self._left_ns = 0  # receipt of the first item, and of the newest that left; 0 = none
        self.began: dict[int, int] = {}
        self._holds: dict[int, int] = {}
        self._knows: dict[int, int] = {}
        self._inside, self._outside = deque[_Place](), deque[_Place]()  # in memory; no longer, but not behind `knows`
        self._last: dict[Identity, int] = {}  # sequence of the newest telling of each thing that is remembered
        self._anchors: list[tuple[int, Identity]] = []  # heap: an older telling of each

    def take(self, item: Item[Any], identity: Identity | None) -> bool:
        """Whether an item counts. None = it is known to be told of before."""
        place = _Place(item.sequence, item.partition, item.offset * ITEMS + item.item, item.recv_ns)
        if place.partition not in self.began:
            self._began_ns = self._began_ns or place.recv_ns
            for positions in (self.began, self._holds, self._knows):
                positions[place.partition] = place.position
        self._inside.append(place)
        if identity is None:
            return False
        known = identity in self._last
        self._last[identity] = place.sequence
        if not known:
            heappush(self._anchors, (place.sequence, identity))
        return not known

    def leave(self, sequence: int) -> None:
        """Memory begins at a sequence of the stream now."""
        inside, outside, anchors = self._inside, self._outside, self._anchors
        while inside and inside[0].sequence < sequence:
            place = inside.popleft()
            self._holds[place.partition] = place.position + 1
            self._left_ns = max(self._left_ns, place.recv_ns)
            outside.append(place)
        while len(self._last) > self._things_max:
            anchor, identity = anchors[0]
            last = self._last[identity]
            if last >= sequence:
                break
            heappop(anchors)
            if last > anchor:
                heappush(anchors, (last, identity))
            else:
                del self._last[identity]
        oldest = anchors[0][0] if anchors else sequence
        while outside and outside[0].sequence < oldest:
            place = outside.popleft()
            self._knows[place.partition] = place.position + 1

    @property
    def since_ns(self) -> int:
        """Everything that was received from then on is in memory; our wall clock, 0 where nothing is."""
        # of those that were received together with that one some may have left, or have come before it
        return max(self._began_ns, self._left_ns) + 1 if self._began_ns else 0

    @property
    def knows_ns(self) -> int:
        """When the first item behind `Seam.knows` was received."""
        first = self._outside or self._inside
        return first[0].recv_ns if first else self._began_ns or ALL_RECEIVED

    def seam(self) -> Seam:
        """Of one moment with what memory tells until items are taken."""
        if not self._began_ns:
            return NO_MEMORY
        positions = dict(self.began), dict(self._holds), dict(self._knows)
        return Seam(*positions, self._began_ns, self.since_ns, self.knows_ns)
