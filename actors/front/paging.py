"""Ranges and pages: the parameters that say which rows are meant, and what an answer says of the rest.

Pages are for people: the first holds the newest rows, and each further one steps over all before it. A cursor is for
programs: it names the last row that was returned, so that the next page costs the same however deep it lies, and no
row is skipped or repeated while new ones arrive.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .endpoints import Arguments
from .errors import InvalidTimeRange
from .merge import Seam
from .params import Param, integer, moment
from .stamps import NS, rfc3339

LIMIT_MAX = 1000
OFFSET_MAX = 100_000  # rows that paging may step over
DAY_NS = 24 * 3600 * NS

LIMIT = integer("limit", 100, 1, LIMIT_MAX, "Most rows to return; the newest ones.")
START = moment("start_time", "Start of the range, inclusive; 24 hours before its end by default.", ("startTime",))
END = moment("end_time", "End of the range, exclusive; now by default.", ("endTime",))
PAGE = integer("page", None, 1, OFFSET_MAX, "Page, from 1; the first holds the newest rows.")
PAGE_SIZE = integer("page_size", None, 1, LIMIT_MAX, "Rows of a page (100 by default).", aliases=("size",))

PAGINATION: dict[str, Any] = {
    "type": "object",
    "properties": {
        "page": {"type": ["integer", "null"], "description": "null where a cursor or only a limit was given"},
        "page_size": {"type": "integer"},
        **{
            name: {"type": ["integer", "null"], "description": "null where it is not known, or was not asked for"}
            for name in ("total", "total_count", "total_pages")
        },
        **{name: {"type": "boolean"} for name in ("has_next", "has_prev")},
        "next_cursor": {"type": ["string", "null"], "description": "`cursor` of the next older page; null at the end"},
    },
    "required": ["page", "page_size", "has_next", "has_prev"],
}  # fmt: skip


def cursor_text(seam: Seam) -> str:
    return f"{seam.epoch:x}.{seam.nth:x}.{seam.recv_ns // NS:x}"


_CURSOR = re.compile("([0-9a-f]{1,16})\\.([0-9a-f]{1,16})\\.([0-9a-f]{1,8})")


def _cursor(text: str) -> Seam:
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise ValueError("a `next_cursor` of an earlier answer")
    # of its receipt the second: a row older than it was received in that second at the latest
    return Seam(int(match[1], 16), int(match[2], 16), int(match[3], 16) * NS)


CURSOR = Param(
    "cursor", _cursor, {"type": "string", "pattern": f"^{_CURSOR.pattern}$"},
    "`next_cursor` of the answer before: only rows older than its last one. Not together with `page`.",
)  # fmt: skip
BAR_CURSOR_MAX = 10**13  # UNIX ms


def _bar_cursor(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < BAR_CURSOR_MAX:
        raise ValueError("a `next_cursor` of an earlier answer")
    return int(text)


# Of bars: `open_ts` of the last one, UNIX ms, which names it in whatever order its versions were stored.
BAR_CURSOR = Param(
    "cursor", _bar_cursor, {"type": "string", "pattern": "^[0-9]{1,13}$"},
    "`next_cursor` of the answer before: only bars older than its last one. Not together with `page`.",
)  # fmt: skip
RANGE_PARAMS = (START, END, LIMIT, PAGE, PAGE_SIZE, CURSOR)


@dataclass(frozen=True)
class Window:
    """Which rows of a range are meant.

    Attributes:
        start, end: as asked for, UNIX ns; None = the default.
        size: rows of the answer.
        page: None where none was asked for.
        before: of a cursor.
        span_ns: length of the range where no start was given.
    """

    start: int | None
    end: int | None
    size: int
    page: int | None
    before: Seam | None
    span_ns: int = DAY_NS

    @property
    def offset(self) -> int:
        return ((self.page or 1) - 1) * self.size

    @property
    def is_newest(self) -> bool:
        """Whether the usual thing is asked for: the newest rows."""
        return self.start is self.end is self.page is self.before is None

    def bounds(self, now_ns: int | None = None) -> tuple[int, int]:
        """`(start, end)` of the range, UNIX ns. Raises InvalidTimeRange."""
        end = (time.time_ns() if now_ns is None else now_ns) if self.end is None else self.end
        start = end - self.span_ns if self.start is None else self.start
        if start >= end:
            raise empty_range(start, end)
        return max(0, start), end


def window_of(arguments: Arguments, span_ns: int = DAY_NS) -> Window:
    """Raises InvalidTimeRange."""
    size = arguments["page_size"] or arguments["limit"]
    paged = arguments["page"] is not None or arguments["page_size"] is not None
    before = arguments["cursor"]
    page = (arguments["page"] or 1) if paged and before is None else None
    window = Window(arguments["start_time"], arguments["end_time"], size, page, before, span_ns)
    if window.offset > OFFSET_MAX:
        raise too_far(page, size)
    if window.start is not None and window.end is not None:
        window.bounds()
    return window


def too_far(page: int | None, size: int) -> InvalidTimeRange:
    return InvalidTimeRange(
        f"page {page} of {size} rows steps over more than {OFFSET_MAX:,} rows: follow next_cursor, or give a "
        "narrower range of time",
        code="TIME_RANGE_TOO_LARGE", details={"field": "page", "value": page},
    )  # fmt: skip


def empty_range(start: int, end: int) -> InvalidTimeRange:
    return InvalidTimeRange(
        f"start_time {rfc3339(start)} is not before end_time {rfc3339(end)}",
        details={"field": "start_time", "start_time": rfc3339(start), "end_time": rfc3339(end)},
    )


def pagination(
    size: int, *, page: int | None = None, total: int | None = None, has_next: bool = False, has_prev: bool = False,
    next_cursor: Seam | str | None = None,
) -> Mapping[str, Any]:  # fmt: skip
    """What an answer says of the rows that it does not hold.

    Args:
        next_cursor: the last row of the answer, or what names it.
    """
    cursor = cursor_text(next_cursor) if isinstance(next_cursor, Seam) else next_cursor
    known = {
        "page": page, "page_size": size, "has_next": has_next, "has_prev": has_prev,
        "next_cursor": cursor if has_next else None,
    }  # fmt: skip
    if page is None:
        return known
    return {**known, "total": total, "total_count": total, "total_pages": None if total is None else -(-total // size)}


def listed(rows: list[Any], page: int, size: int) -> tuple[list[Any], Mapping[str, Any]]:
    """One page of a whole list, and its pagination."""
    pages = -(-len(rows) // size)
    told = pagination(size, page=page, total=len(rows), has_next=page < pages, has_prev=page > 1)
    return rows[(page - 1) * size : page * size], told
