"""Pages over what memory and ClickHouse hold together.

The seam is the time of receipt, by our own clock: memory holds everything that was received from `Shelf.since_ns` on,
ClickHouse is asked for what was received before. An item cannot be received before it happened, so that a range which
begins after the seam is memory's alone, and so are the newest items, down to those that happened after the seam.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

from ...recent import Item
from ..merge import stored_sequence
from ..paging import pagination
from .shelf import Shelf


class Happened(Protocol):
    """What has a time."""

    @property
    def timestamp(self) -> int: ...


T = TypeVar("T", bound=Happened)
_when = attrgetter("event_ns")


class Older(Protocol[T]):  # pyright: ignore[reportInvalidTypeVarUse] - a list of them is neither co- nor contravariant
    """What ClickHouse holds of a range and a filter: items received before a time."""

    async def rows(self, before_recv_ns: int, start_ns: int, end_ns: int, limit: int) -> list[T] | None:
        """The newest of them, newest first; None without an answer."""
        ...

    async def count(self, before_recv_ns: int, start_ns: int, end_ns: int) -> tuple[int, int] | None:
        """`(time of receipt, how many came before it)`: the time as given or before it; None without an answer."""
        ...


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a range, newest first."""

    items: list[T]
    total: int | None  # in the whole range; None where ClickHouse did not say
    more: bool  # whether there are older ones
    data_source: str  # memory, database, mixed
    completeness: float  # percent of what the page should hold, as far as that is known
    note: str = ""

    def pagination(self, page: int, size: int) -> dict[str, Any]:
        """Its member of an envelope."""
        return dict(pagination(size, page=page, total=self.total, has_next=self.more, has_prev=page > 1))

    def metadata(self) -> dict[str, Any]:
        """Where it comes from."""
        told: dict[str, Any] = {"data_source": self.data_source, "completeness": self.completeness}
        return {**told, "note": self.note} if self.note else told


@dataclass(frozen=True)
class Range(Generic[T]):
    """What is asked for.

    Args:
        key: of the shelf.
        start_ns, end_ns: of the items' own time, UNIX ns.
        page, size: from 1.
        fits: what the key does not tell apart.
    """

    key: Hashable
    start_ns: int
    end_ns: int
    page: int = 1
    size: int = 100
    fits: Callable[[T], bool] | None = None

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.size


def page_of(shelf: Shelf[T] | None, asked: Range[T], older: Older[T] | None) -> Page[T] | Awaitable[Page[T]]:
    """A page of a key's items, newest first; awaitable where ClickHouse must be asked.

    Args:
        shelf: None where nobody produces such items now.
        older: asked for what memory does not hold; None = there is no history.
    """
    if shelf is not None:
        shelf.refresh()
        since = shelf.since_ns
        alone = older is None or (since and asked.start_ns >= since)
        if alone:
            return _from_memory(shelf, asked, since, older is None and not shelf.recent.whole)
    elif older is None:
        return Page([], 0, False, "memory", 100.0)
    return _from_both(shelf, asked, older)


def _from_memory(shelf: Shelf[T], asked: Range[T], since: int, cut: bool) -> Page[T]:
    wanted, offset = asked.offset + asked.size + 1, asked.offset
    held = _newest(shelf, asked, since, wanted)
    total = len(held) if len(held) < wanted else _count(shelf, asked, since)
    items = [item.value for item in held[offset : offset + asked.size]]
    note = "memory only: no history is configured" if cut else ""
    return Page(items, total, len(held) == wanted, "memory", 99.99 if cut else 100.0, note)


async def _from_both(shelf: Shelf[T] | None, asked: Range[T], older: Older[T] | None) -> Page[T]:
    assert older is not None
    wanted, offset, size = asked.offset + asked.size + 1, asked.offset, asked.size
    since = shelf.since_ns if shelf is not None else 0
    before = since or asked.end_ns
    held = _newest(shelf, asked, since, wanted) if shelf is not None else []
    # what happened after the seam was received after it, so that nothing older can come before these
    safe = sum(item.event_ns >= since for item in held) if since else 0
    counting = older.count(before, asked.start_ns, asked.end_ns)
    rows: list[T] | None = []
    if safe < wanted:
        counted, rows = await asyncio.gather(counting, older.rows(before, asked.start_ns, asked.end_ns, wanted - safe))
    else:
        counted = await counting
    values = [item.value for item in held]
    everything: list[T] = [*values, *(rows or [])]
    if rows:
        everything.sort(key=lambda value: -value.timestamp)
    items = everything[offset : offset + size]
    total = None
    if counted is not None:
        total = counted[1] + (_count(shelf, asked, counted[0]) if shelf is not None else 0)
    more = len(everything) > offset + size
    if rows is None:
        share = min(99.99, round(100.0 * len(items) / size, 2))
        return Page(items, total, more, "memory", share, "memory only: ClickHouse did not answer")
    mine = {id(value) for value in values}
    from_memory = sum(id(value) in mine for value in items)
    source = "mixed" if 0 < from_memory < len(items) else "memory" if from_memory else "database"
    note = _behind(shelf) if len(rows) or safe < wanted else ""
    return Page(items, total, more, source if items else "mixed", 99.99 if note else 100.0, note)


def _behind(shelf: Shelf[T] | None) -> str:
    """Why something may be in neither place; empty when nothing can be."""
    if shelf is None or not shelf.recent.items:
        return ""
    stored = stored_sequence(shelf.recent.reader)
    if stored is not None and stored < shelf.recent.items[0].sequence:
        return "the writer is behind: what lies between memory and ClickHouse is missing for now"
    return ""


def _newest(shelf: Shelf[T], asked: Range[T], since: int, wanted: int) -> list[Item[T]]:
    found = []
    fits = asked.fits
    for item in shelf.newest_first(asked.key, asked.start_ns, asked.end_ns):
        if item.recv_ns >= since and (fits is None or fits(item.value)):
            found.append(item)
            if len(found) == wanted:
                break
    return found


def _count(shelf: Shelf[T], asked: Range[T], since: int) -> int:
    """How many items of the range were received from a time on."""
    known, first, stop = shelf.span(asked.key, asked.start_ns, asked.end_ns)
    fits = asked.fits
    if fits is not None:
        return sum(item.recv_ns >= since and fits(item.value) for item in known[first:stop])
    certain = min(max(first, bisect_left(known, since, key=_when)), stop)
    return stop - certain + sum(item.recv_ns >= since for item in known[first:certain])
