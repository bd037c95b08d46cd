"""What a range adds up to, kept up to date as items arrive: each is added once, however many ask.

ClickHouse is asked for what came before the seam, memory adds the rest, and from then on what arrives. What leaves a
moving range at its beginning is in it for a while, until it is asked for by itself and taken off, behind those who ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from ...recent import Item
from ..kept import Keeper
from ..stamps import NS
from .seam import NO_MEMORY, Seam
from .shelf import Shelf

A = TypeVar("A")
CHUNK = 1024  # items that are added between two turns of the event loop
WHOLE_S = (600.0, 1200.0)  # after so long one is worked out anew; not all at the same time
DOUBT_NS = 5 * NS  # what happened before memory began, by clocks that differ by less


@dataclass(frozen=True)
class Sum(Generic[A]):
    """What is added up, and how.

    Args:
        name: of what is added up.
        empty: of no items.
        add: one value more; returns the aggregate, which may be the same object.
        older: that of everything before a seam, in a range of the items' own time; None without an answer. None = there
            is no history.
        less: one without what another one holds of it; None where they do not say that. None = they never do.
    """

    name: Hashable
    empty: Callable[[], A]
    add: Callable[[A, Any], A]
    older: Callable[[Seam, int, int], Awaitable[A | None]] | None = None
    less: Callable[[A, A], A | None] | None = None


@dataclass(frozen=True)
class Span:
    """The items of a range.

    Args:
        name: of the range as it was asked for, with everything that `fits` depends on: spans of one name are the same
            but for the time that has passed.
        key: of the shelf.
        start_ns, end_ns: of the items' own time, UNIX ns.
        moving: whether the end is now.
        fits: what the key does not tell apart.
    """

    name: Hashable
    key: Hashable
    start_ns: int
    end_ns: int
    moving: bool = True
    fits: Callable[[Any], bool] | None = None

    def has(self, item: Item[Any]) -> bool:
        """Whether an item of the key belongs to it, unless it is too new."""
        return item.event_ns >= self.start_ns and (self.fits is None or self.fits(item.value))


class Running(Generic[A]):
    """One aggregate.

    What was told of before memory began and is told of again counts twice in it, until it is worked out anew.

    Attributes:
        doubtful: something in it may have been told of before memory began, or was in neither place.
    """

    def __init__(
        self, what: Sum[A], span: Span, shelf: Shelf[Any] | None, value: A, next_: int, generation: Hashable
    ) -> None:
        self.value, self.doubtful = value, False
        self._anew_at = time.monotonic() + random.uniform(*WHOLE_S)
        self._what, self._span, self._shelf = what, span, shelf
        self._next = next_  # sequence of the first item that was not looked at
        self._generation = generation
        self._ahead: list[Item[Any]] = []  # of clocks that are ahead of ours: not in the range yet

    def follows(self, shelf: Shelf[Any] | None) -> bool:
        """Whether everything that it needs is still there, and the seam where it was."""
        if shelf is None or shelf is not self._shelf:
            return shelf is self._shelf
        return shelf.holds(self._next) and shelf.generation == self._generation

    def bring(self, end_ns: int) -> A:
        """Add what has come since."""
        shelf = self._shelf
        if shelf is not None and (self._next < shelf.next or self._ahead):
            items = [*self._ahead, *shelf.arrived(self._next, self._span.key)]
            self._next, self._ahead = shelf.next, []
            known_ns = shelf.knows_ns + DOUBT_NS
            self.doubtful = self.doubtful or any(item.event_ns < known_ns for item in items)
            self.take(items, end_ns)
        return self.value

    def left(self, span: Span) -> Span | None:
        """What has left it when it becomes that of a later span of the same name; None where it is worked out anew."""
        start = self._span.start_ns
        if self._what.less is None or self.doubtful or span.start_ns < start or time.monotonic() > self._anew_at:
            return None
        return replace(self._span, end_ns=span.start_ns, moving=False)

    def leave(self, gone: Running[A], span: Span) -> bool:
        """Take off what another one holds and become that of a later span; False where that cannot be said."""
        assert self._what.less is not None
        value = self._what.less(self.bring(span.end_ns), gone.bring(span.start_ns))
        if value is None or self.doubtful or gone.doubtful:
            return False
        self.value, self._span = value, span
        return True

    def take(self, items: list[Item[Any]], end_ns: int) -> None:
        """Add those that belong to it."""
        span, add, value = self._span, self._what.add, self.value
        for item in items:
            if span.has(item):
                if item.event_ns < end_ns:
                    value = add(value, item.value)
                elif span.moving:
                    self._ahead.append(item)
        self.value = value


class Totals:
    """The aggregates of one worker.

    Args:
        keep_s: after so long one is worked out anew; it is still handed out meanwhile.
        entries_max: kept at once.
        wait_s: a request waits at most so long for one; after that, until it is there, none does.
        turns: questions to ClickHouse at once.
    """

    def __init__(self, keep_s: float, entries_max: int, wait_s: float, turns: asyncio.Semaphore) -> None:
        self._kept: Keeper[Running[Any]] = Keeper(keep_s, entries_max, stale_s=keep_s)
        self._wait_s = wait_s
        self._turns = turns

    async def of(self, what: Sum[A], span: Span, shelf: Shelf[Any] | None) -> tuple[A, bool]:
        """`(aggregate, whether history is in it)`. The aggregate goes on changing: read it at once."""
        if shelf is not None:
            shelf.refresh()
        name = what.name, span.name
        running = await self._running((*name, what.older is not None), what, span, shelf)
        answered = running is not None
        if running is None:  # memory alone, and that is kept too: many may ask while ClickHouse does not answer
            without = Sum(what.name, what.empty, what.add)
            running = await self._running((*name, False), without, span, shelf)
            assert running is not None, "memory always answers"
        return running.bring(span.end_ns), answered

    async def _running(self, name: Hashable, what: Sum[A], span: Span, shelf: Shelf[Any] | None) -> Running[A] | None:
        kept = await self._kept.get(name, lambda: self._make(name, what, span, shelf), self._wait_s)
        if kept is not None and not kept[0].follows(shelf):
            # nobody asked for long, or the stream was made anew
            self._kept.drop(name)
            kept = await self._kept.get(name, lambda: self._make(name, what, span, shelf), self._wait_s)
        return None if kept is None else kept[0]

    async def _make(self, name: Hashable, what: Sum[A], span: Span, shelf: Shelf[Any] | None) -> Running[A] | None:
        async with contextlib.nullcontext() if what.older is None else self._turns:
            return await self._renewed(self._kept.last(name), what, span, shelf)

    async def _renewed(
        self, old: Running[A] | None, what: Sum[A], span: Span, shelf: Shelf[Any] | None
    ) -> Running[A] | None:
        """The old one without what has left its range, or else one that is worked out anew."""
        left = old.left(span) if old is not None and old.follows(shelf) else None
        if old is not None and left is not None:
            gone = await self._worked_out(what, left, shelf)
            if gone is None:
                return None
            if shelf is not None:
                shelf.refresh()
            if old.follows(shelf) and gone.follows(shelf) and old.leave(gone, span):
                return old
        return await self._worked_out(what, span, shelf)

    async def _worked_out(self, what: Sum[A], span: Span, shelf: Shelf[Any] | None) -> Running[A] | None:
        held: list[Item[Any]] = []
        seam, following, value = NO_MEMORY, 0, what.empty()
        generation: Hashable = None
        behind = False
        if shelf is not None:
            known, first, stop = shelf.span(span.key, span.start_ns, span.end_ns)
            held, seam, behind = known[first : None if span.moving else stop], shelf.seam(), shelf.behind()
            following, generation = shelf.next, shelf.generation
        if what.older is not None and span.start_ns < span.end_ns:
            found = await what.older(seam, span.start_ns, span.end_ns)
            if found is None:
                return None
            value = found
        running = Running(what, span, shelf, value, following, generation)
        running.doubtful = behind
        for at in range(0, len(held), CHUNK):
            running.take(held[at : at + CHUNK], span.end_ns)
            await asyncio.sleep(0)
        return running

    async def close(self) -> None:
        """Stop what is being worked out."""
        await self._kept.close()
