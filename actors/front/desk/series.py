"""Long series that grow at their end. What follows from them is kept by the piece: only what changed is redone."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Hashable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

PIECE = 64  # values of a piece; a late one may make it longer
PIECES_A_TURN = 8  # worked out between two turns of the event loop


class Happened(Protocol):
    @property
    def timestamp(self) -> int: ...


T = TypeVar("T", bound=Happened)
R = TypeVar("R")
_when = attrgetter("timestamp")


class _Piece(Generic[T]):
    __slots__ = ("kept", "values")

    def __init__(self, values: list[T]) -> None:
        self.values = values
        self.kept: dict[Hashable, Any] = {}  # what followed from the values, by its name

    def of(self, name: Hashable, make: Callable[[list[T]], R]) -> R:
        if name not in self.kept:
            self.kept[name] = make(self.values)
        return self.kept[name]


class Series(Generic[T]):
    """Values in order of their times.

    Args:
        values: those to begin with, in this order.
    """

    def __init__(self, values: Sequence[T] = ()) -> None:
        self._pieces = [_Piece(list(values[at : at + PIECE])) for at in range(0, len(values), PIECE)]
        self._count = len(values)
        self._inner = 0  # changes with what lies between the first piece and the last
        self._inner_texts: dict[Hashable, tuple[int, bytes]] = {}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for piece in self._pieces:
            yield from piece.values

    def add(self, value: T) -> None:
        """One value more, mostly the newest."""
        self._count += 1
        pieces = self._pieces
        if not pieces or pieces[-1].values[-1].timestamp <= value.timestamp:
            if not pieces or len(pieces[-1].values) >= PIECE:
                pieces.append(_Piece([value]))
                self._inner += 1
                return
            piece = pieces[-1]
            piece.values.append(value)
        else:
            piece = pieces[max(0, bisect_right(pieces, value.timestamp, key=_first) - 1)]
            insort(piece.values, value, key=_when)
            self._inner += 1
        piece.kept.clear()

    def cut(self, start_ns: int, most: int) -> None:
        """Let go of what happened before a time, and of the oldest above a number."""
        pieces, gone = self._pieces, 0
        while gone < len(pieces) and pieces[gone].values[-1].timestamp < start_ns:
            self._count -= len(pieces[gone].values)
            gone += 1
        while gone < len(pieces) and self._count - len(pieces[gone].values) >= most:
            self._count -= len(pieces[gone].values)
            gone += 1
        del pieces[:gone]
        self._inner += gone > 0
        if not pieces:
            return
        values = pieces[0].values
        over = max(bisect_left(values, start_ns, key=_when), self._count - most)
        if over > 0:
            pieces[0] = _Piece(values[over:])
            self._count -= over

    def each(self, name: Hashable, make: Callable[[list[T]], R]) -> list[R]:
        """What follows from each piece, oldest first. A name stands for one `make`, which changes nothing."""
        return [piece.of(name, make) for piece in self._pieces]

    def text(self, name: Hashable, make: Callable[[list[T]], bytes]) -> tuple[bytes, ...]:
        """A JSON array in parts, of items that `make` writes of each piece with commas between them."""
        pieces = self._pieces
        known = self._inner_texts.get(name)
        if known is None or known[0] != self._inner:
            inner = b",".join(filter(None, (piece.of(name, make) for piece in pieces[1:-1])))
            known = self._inner_texts[name] = self._inner, inner
        first, last = ([piece.of(name, make) for piece in end] for end in (pieces[:1], pieces[1:][-1:]))
        parts = [part for text in (*first, known[1], *last) if text for part in (b",", text)]
        return (b"[", *parts[1:], b"]")

    async def prepare(self, name: Hashable, make: Callable[[list[T]], Any]) -> None:
        """Work out what `each` will ask for, a few pieces at a time. The series may change meanwhile."""
        missing = [piece for piece in self._pieces if name not in piece.kept]
        for at in range(0, len(missing), PIECES_A_TURN):
            for piece in missing[at : at + PIECES_A_TURN]:
                piece.kept[name] = make(piece.values)
            if at + PIECES_A_TURN < len(missing):
                await asyncio.sleep(0)

    def last(self, name: Hashable, find: Callable[[list[T]], T | None]) -> T | None:
        """The newest value that `find` finds in a piece."""
        return next((value for value in reversed(self.each(name, find)) if value is not None), None)


def _first(piece: _Piece[Any]) -> int:
    return piece.values[0].timestamp
