"""Pages over what memory and ClickHouse hold together.

Memory holds what came from a `Seam` on, ClickHouse is asked for what came before. An item cannot be received before it
happened, so that a range which begins after the seam was received is memory's alone, and so are the newest items, down
to those that happened after it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from operator import attrgetter, sub
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ...recent import Item
from .cursors import Cursor, Identity, Place
from .running import Span, Sum, Totals
from .seam import NO_MEMORY, Seam
from .shelf import Shelf

if TYPE_CHECKING:
    from .desk import Desk


class Happened(Protocol):
    """What has a time."""

    @property
    def timestamp(self) -> int: ...


T = TypeVar("T", bound=Happened)
_time = attrgetter("timestamp")
Identify = Callable[[T], Identity]
KEPT_LIMIT = 1001  # newest rows of a range that ends now: a page of 1,000, and one to see that it goes on


class Older(Protocol[T]):  # pyright: ignore[reportInvalidTypeVarUse] - a list of them is neither co- nor contravariant
    """What ClickHouse holds of a range and a filter: items that came before a seam."""

    async def rows(
        self, seam: Seam, start_ns: int, end_ns: int, limit: int, offset: int = 0, before: Cursor | None = None,
        *, patient: bool = False,
    ) -> list[T] | None:  # fmt: skip
        """The newest of them, newest first, from an offset on; None without an answer."""
        ...

    async def count(self, seam: Seam, start_ns: int, end_ns: int) -> int | None:
        """How many there are; None without an answer."""
        ...


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a range, newest first."""

    items: list[T]
    total: int | None  # in the whole range; None where ClickHouse did not say
    more: bool  # whether there are older ones
    data_source: str  # memory, database, mixed
    completeness: float  # percent of what the page should hold, as far as that is known
    last: Cursor | None  # of its oldest item
    note: str = ""

    def pagination(self, place: Place) -> dict[str, Any]:
        """Its member of an envelope."""
        return place.told(self.total, self.more, self.last)

    def metadata(self) -> dict[str, Any]:
        """Where it comes from."""
        told: dict[str, Any] = {"data_source": self.data_source, "completeness": self.completeness}
        return {**told, "note": self.note} if self.note else told


def page_of(
    shelf: Shelf[T] | None, asked: Span, place: Place, older: Older[T] | None, desk: Desk, identify: Identify[T]
) -> Page[T] | Awaitable[Page[T]]:
    """A page of a range, newest first; awaitable where ClickHouse must be asked.

    Args:
        shelf: None where nobody produces such items now.
        older: asked for what memory does not hold; None = there is no history.
        desk: keeps what ClickHouse said.
        identify: what tells items of one time apart.
    """
    if shelf is not None:
        shelf.refresh()
        since = shelf.since_ns
        if older is None:
            return _from_memory(shelf, asked, place, not shelf.recent.whole)
        if since and asked.start_ns >= since:
            return _from_memory(shelf, asked, place, False)
    elif older is None:
        return Page([], 0, False, "memory", 100.0, None)
    return _from_both(shelf, asked, place, older, desk, identify)


def _rank(value: T, identify: Identify[T]) -> Cursor:
    return Cursor(value.timestamp, identify(value))


def _from_memory(shelf: Shelf[T], asked: Span, place: Place, cut: bool) -> Page[T]:
    offset, size = place.offset, place.size
    wanted = offset + size + 1
    held = _newest(shelf, asked, place.before, wanted)
    total = len(held) if len(held) < wanted and place.before is None else _count(shelf, asked)
    items = [item.value for item in held[offset : offset + size]]
    last = _rank(items[-1], shelf.identity) if items else None
    note = "memory only: no history is configured" if cut else ""
    return Page(items, total, len(held) == wanted, "memory", 99.99 if cut else 100.0, last, note)


async def _from_both(
    shelf: Shelf[T] | None, asked: Span, place: Place, older: Older[T], desk: Desk, identify: Identify[T]
) -> Page[T]:
    offset, size, before = place.offset, place.size, place.before
    wanted = offset + size + 1
    held = _newest(shelf, asked, before, wanted) if shelf is not None else []
    seam = shelf.seam() if shelf is not None else NO_MEMORY
    # what happened after the seam was received came after it, so that nothing older can come before these
    safe = len(held)
    if held and held[-1].event_ns < seam.holds_ns:
        safe = sum(item.event_ns >= seam.holds_ns for item in held)
    counting = desk.totals.of(Sum("count", int, _one_more, older.count, sub), asked, shelf)
    values = [item.value for item in held]
    everything: list[T] | None = values
    skipped = 0  # rows of ClickHouse that come before all that is told, and are not fetched
    if safe >= wanted:
        total, counted = await counting
    elif asked.moving and before is None and wanted <= KEPT_LIMIT:
        keeping = _kept(shelf, asked, wanted, older, desk.lists, identify)
        (total, counted), everything = await asyncio.gather(counting, keeping)
    else:
        # of the items of memory that are not safe each may come before or behind those that are skipped
        skipped = max(0, offset - len(held))
        asking = older.rows(seam, asked.start_ns, asked.end_ns, wanted - safe - skipped, skipped, before)
        (total, counted), rows = await asyncio.gather(counting, asking)
        everything = None
        if rows is not None:
            mixed = sorted([*values[safe:], *rows], key=lambda value: _rank(value, identify), reverse=True)
            everything = [*values[:safe], *mixed]
    answered = everything is not None
    everything, skipped = (values, 0) if everything is None else (everything, skipped)
    items = everything[offset - skipped : offset - skipped + size]
    last = _rank(items[-1], identify) if items else None
    known = total if counted else None
    more = len(everything) > offset - skipped + size
    if not answered:
        share = min(99.99, round(100.0 * len(items) / size, 2))
        return Page(items, known, more, "memory", share, last, "memory only: ClickHouse did not answer")
    from_memory = len(items)
    if everything is not values:
        # more may have come meanwhile
        held = _newest(shelf, asked, before, wanted) if shelf is not None else []
        mine = {id(item.value) for item in held}
        from_memory = sum(id(value) in mine for value in items)
    source = "mixed" if 0 < from_memory < len(items) else "memory" if from_memory else "database"
    note = _behind(shelf) if safe < wanted else ""
    return Page(items, known, more, source if items else "mixed", 99.99 if note else 100.0, last, note)


async def _kept(
    shelf: Shelf[T] | None, asked: Span, wanted: int, older: Older[T], lists: Totals, identify: Identify[T]
) -> list[T] | None:
    """The newest of a range from both places, newest first: asked for once, and kept up to date with what comes."""

    async def rows(seam: Seam, start_ns: int, end_ns: int) -> list[T] | None:
        found = await older.rows(seam, start_ns, end_ns, KEPT_LIMIT, patient=True)
        return None if found is None else found[::-1]

    def add(kept: list[T], value: T) -> list[T]:
        if kept and kept[-1].timestamp >= value.timestamp:
            insort(kept, value, key=lambda value: _rank(value, identify))
        else:
            kept.append(value)
        if len(kept) > 2 * KEPT_LIMIT:
            del kept[:-KEPT_LIMIT]
        return kept

    kept, answered = await lists.of(Sum("rows", list[T], add, rows), asked, shelf)
    if not answered:
        return None
    newest = kept[bisect_left(kept, asked.start_ns, key=_time) :][::-1]
    # what was told of before the seam may have been told of again since: the later telling comes first
    found: dict[Identity, T] = {}
    for value in newest:
        found.setdefault(identify(value), value)
        if len(found) == wanted:
            break
    return list(found.values())


def _one_more(count: int, _: object) -> int:
    return count + 1


def _behind(shelf: Shelf[T] | None) -> str:
    """Why something may be in neither place; empty when nothing can be."""
    if shelf is None or not shelf.behind():
        return ""
    return "the writer is behind: what lies between memory and ClickHouse is missing for now"


def _newest(shelf: Shelf[T], asked: Span, before: Cursor | None, wanted: int) -> list[Item[T]]:
    fits = asked.fits
    if fits is None:
        known, first, stop = shelf.span(asked.key, asked.start_ns, asked.end_ns, before)
        return known[max(first, stop - wanted) : stop][::-1]
    found = []
    for item in shelf.newest_first(asked.key, asked.start_ns, asked.end_ns, before):
        if fits(item.value):
            found.append(item)
            if len(found) == wanted:
                break
    return found


def _count(shelf: Shelf[T], asked: Span) -> int:
    """How many items there are of the range."""
    known, first, stop = shelf.span(asked.key, asked.start_ns, asked.end_ns)
    fits = asked.fits
    return stop - first if fits is None else sum(fits(item.value) for item in known[first:stop])
