"""Where a page goes on: below the last row of the one before, by time and identity, which tells rows of one time apart.

Nothing is skipped or repeated while new rows arrive, and a page costs the same however deep it lies.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..endpoints import Arguments
from ..paging import OFFSET_MAX, pagination, too_far
from ..params import Param

T = TypeVar("T")
Identity = tuple[str, ...]
TEXT_MAX = 2000
_PATTERN = "^[A-Za-z0-9_-]{4,2000}$"
_DOC = "`next_cursor` of the answer before: only rows older than its last one. Not together with `page`."


class Cursor(NamedTuple):
    """The last row that was told. Compares as rows do."""

    at_ns: int
    identity: Identity

    @property
    def text(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode([self.at_ns, *self.identity])).decode().rstrip("=")


def cursor_param(names: int) -> Param:
    """The parameter of lists whose rows have an identity of so many texts; the value is a `Cursor`."""

    def parse(text: str) -> Cursor:
        try:
            found = msgspec.json.decode(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
            at_ns, *identity = msgspec.convert(found, list[int | str])
        except (binascii.Error, msgspec.MsgspecError, UnicodeError, ValueError, RecursionError):
            raise ValueError("a `next_cursor` of an earlier answer") from None
        texts = tuple(name for name in identity if isinstance(name, str))
        if not isinstance(at_ns, int) or not 0 <= at_ns < 1 << 62 or not len(texts) == len(identity) == names:
            raise ValueError("a `next_cursor` of an earlier answer of the same list")
        return Cursor(at_ns, texts)

    return Param("cursor", parse, {"type": "string", "pattern": _PATTERN}, _DOC, length_max=TEXT_MAX)


class Place(NamedTuple):
    """Which part of a list is asked for."""

    page: int | None  # None where a cursor was given
    size: int
    before: Cursor | None

    @property
    def offset(self) -> int:
        """Rows before the page, below the cursor."""
        return 0 if self.page is None else (self.page - 1) * self.size

    def told(self, total: int | None, more: bool, last: Cursor | None) -> dict[str, Any]:
        """The `pagination` of an answer whose last row is `last`."""
        has_prev = self.page is None or self.page > 1
        next_cursor = last.text if last is not None and more else None
        found = dict(pagination(self.size, page=self.page, has_next=more, has_prev=has_prev, next_cursor=next_cursor))
        pages = None if total is None else -(-total // self.size)
        return {**found, "total": total, "total_count": total, "total_pages": pages}


def place_of(arguments: Arguments) -> Place:
    """Raises InvalidTimeRange: the page lies too deep to be counted off."""
    before = arguments.get("cursor")
    size = arguments.get("limit") or arguments["page_size"]
    place = Place(None if before is not None else arguments["page"], size, before)
    if place.offset > OFFSET_MAX:
        raise too_far(arguments["page"], size)
    return place


def cut(rows: Sequence[T], rank: Callable[[T], Cursor], place: Place) -> tuple[Sequence[T], dict[str, Any]]:
    """A page of a whole list, newest first, and its pagination."""
    before, first = place.before, place.offset
    if before is not None:
        first = bisect_left(range(len(rows)), True, key=lambda index: rank(rows[index]) < before)
    shown, more = rows[first : first + place.size], len(rows) > first + place.size
    return shown, place.told(len(rows), more, rank(shown[-1]) if shown else None)
