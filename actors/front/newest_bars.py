"""The newest bars of a key as text: closed ones are written once, and the bar of now at each change of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...codecs.records import KLINE_OPEN
from ..catalog import Source
from .bars import OPEN_STALE_MS, bars_in_memory, open_bar, unbroken_since
from .endpoints import Arguments
from .envelope import members
from .paging import pagination
from .shapes import names_of
from .state import FrontState, Kept

MS = 1_000_000


@dataclass(frozen=True)
class Shown:
    """Bars as a JSON array, and what they cover."""

    data: bytes
    count: int
    start_ms: int
    end_ms: int
    version: object  # of the text: it is the same as long as this is


class NewestBars:
    """Bars of one key in one form.

    Args:
        write: `(n,)` KLINE, oldest first, to their texts.
        newest_first: order of the array.
    """

    def __init__(
        self,
        state: FrontState,
        source: Source,
        limit: int,
        write: Callable[[np.ndarray], list[bytes]],
        *,
        newest_first: bool,
        closed_only: bool,
    ) -> None:
        self._state, self._source, self._limit = state, source, limit
        self._write, self._newest_first = write, newest_first
        found = state.catalog.find_instrument(KLINE_OPEN.name, source.exchange, source.instrument, source.interval)
        self._open = None if closed_only else found
        self._closed_count = -1
        self._whole = 0  # newest closed bars without a hole between them
        self._texts: list[bytes] = []
        self._starts: list[int] = []
        self._last_open = 0  # open_ts of the newest closed bar
        self._end = 0
        self._shown: Shown | None = None
        self.more = False  # whether there may be older ones

    def shown(self) -> Shown | None:
        """The newest `limit` bars; None where memory does not hold them all."""
        reader, key_id = self._source.reader, self._source.key_id
        closed_count = reader.count(key_id)
        if closed_count != self._closed_count:
            self._read(closed_count)
        if self._whole < self._limit:
            return None
        opened = 0 if self._open is None else self._open.reader.count(self._open.key_id)
        shown = self._shown
        version = (closed_count, opened)
        if shown is None or shown.version != version or time.time_ns() // MS > shown.end_ms + OPEN_STALE_MS:
            shown = self._shown = self._join(version)
        return shown

    def _read(self, count: int) -> None:
        rows = bars_in_memory(self._source)
        since = unbroken_since(rows)
        rows = rows[rows["open_ts"] >= since] if since else rows[:0]
        self.more = len(rows) > self._limit or self._state.history.configured
        rows = rows[-self._limit :]
        self._closed_count, self._whole, self._shown = count, len(rows), None
        if self._whole == self._limit:
            self._texts, self._starts = self._write(rows), rows["open_ts"].tolist()
            self._last_open, self._end = int(rows["open_ts"][-1]), int(rows["close_ts"][-1]) + 1

    def _join(self, version: object) -> Shown:
        texts, first, end = self._texts, self._starts[0], self._end
        now = open_bar(self._state, self._source) if self._open is not None else None
        if now is not None and len(now) and int(now["open_ts"][0]) > self._last_open:
            texts = [*texts[1:], *self._write(now)]
            first = self._starts[1] if len(self._starts) > 1 else int(now["open_ts"][0])
            end = int(now["close_ts"][0]) + 1
        ordered = texts[::-1] if self._newest_first else texts
        return Shown(b"[" + b",".join(ordered) + b"]", len(texts), first, end, version)


def newest_members(
    state: FrontState,
    source: Source,
    arguments: Arguments,
    limit: int,
    write: Callable[[np.ndarray], list[bytes]],
    show: Callable[[int], Any],
    *,
    newest_first: bool,
    paged: bool = True,
) -> Callable[[], bytes | None]:
    """The usual request: the newest bars, from memory alone. The answer is None where that does not hold them."""
    bars = NewestBars(
        state, source, limit, write, newest_first=newest_first, closed_only=arguments["closed_only"]
    )  # fmt: skip
    kept = Kept(state)

    def answer() -> bytes | None:
        shown = bars.shown()
        if shown is None:
            return None
        text = kept.get((shown.version, shown.end_ms))
        if text is not None:
            return text
        metadata = {
            **names_of(source, arguments["symbol"]), "interval": arguments["interval"], "count": shown.count,
            "start_time": show(shown.start_ms * MS), "end_time": show(shown.end_ms * MS), "data_source": "memory",
            "completeness": 100,
        }  # fmt: skip
        more = {"pagination": pagination(limit, has_next=bars.more, next_cursor=str(shown.start_ms))} if paged else {}
        return kept.put(
            (shown.version, shown.end_ms), members(shown.data, metadata=metadata, count=shown.count, **more)
        )

    return answer
