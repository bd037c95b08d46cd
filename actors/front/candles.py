"""Candles: rows of a range, arrays, statistics, intervals, and the form that FreqTrade reads.

Rows are newest first, in pages; arrays are oldest first. The bar of now stands among them with `closed` false, unless
`closed_only` is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import numpy as np

from ...codecs.records import KLINE
from ..catalog import Source
from .aggregates import AGGREGATE_METADATA, Writer
from .backfill import BACKFILL_METADATA, filled_bars
from .bars import (
    NAMES,
    ONE_KEY,
    PARTIAL,
    Bars,
    Wanted,
    bars_between,
    bars_in_memory,
    key_parameters,
    open_bar,
    recorded_intervals,
    servable,
    source_of,
)
from .candle_statistics import STATS_SCHEMA, candle_statistics
from .endpoints import Answer, Answerer, Arguments, Endpoint
from .envelope import encode, joined_rows, members
from .newest_bars import newest_members
from .paging import BAR_CURSOR, LIMIT, PAGE, PAGE_SIZE, empty_range, pagination, window_of
from .params import choice, flag, integer, moment
from .ranges import Form, shown_time
from .resolve import DECIMALS, EXCHANGE_QUERY, MARKET_TYPE, SYMBOL_PATH, SYMBOL_QUERY, TIME, as_perpetual
from .rows import Alias
from .shapes import METADATA_SCHEMA, TEXT, key_text, names_of, options_of
from .state import FrontState

CANDLES = Form(KLINE, {"timestamp": Alias("open_ts", as_time=True)})
ARRAYS_MAX = 5000
BASIS = ("open", "high", "low", "close")
MS = 1_000_000

# Intervals differ in case alone: 1m is a minute, 1M a month.
_INTERVAL_SCHEMA = {"type": "string", "enum": list(NAMES), "description": "one of " + ", ".join(NAMES)}


def _interval(text: str) -> str:
    if text not in NAMES:
        raise ValueError("one of " + ", ".join(NAMES))
    return text


INTERVAL = replace(
    choice("interval", NAMES, "Length of the bars; one that is not recorded is made of shorter ones.", "1m"),
    parse=_interval,
)
INTERVAL_PATH = replace(INTERVAL, where="path", required=True, default=None, example="1m")
INTERVAL_REQUIRED = replace(INTERVAL, required=True, default=None, example="1m")
START = moment(
    "start_time",
    "Start of the range by `open_ts`, inclusive; as far back as the limit reaches by default.",
    ("startTime",),
)
END = moment("end_time", "End of the range by `open_ts`, exclusive; now by default.", ("endTime",))
ARRAYS_LIMIT = integer(
    "limit", 1000, 1, ARRAYS_MAX, "Most bars: the first ones where a start is given, else the newest."
)
CLOSED_ONLY = flag("closed_only", False, "Without the bar of now.")

ARRAY_SCHEMA: dict[str, Any] = {
    "type": "array", "description": "[epoch ms, open, high, low, close, volume], oldest first",
    "items": {"type": "array", "minItems": 6, "maxItems": 6, "items": {"type": ["number", "string"]}},
}  # fmt: skip
CANDLES_METADATA = {**METADATA_SCHEMA, **BACKFILL_METADATA, "interval": TEXT}


def candle_endpoints(state: FrontState) -> list[Endpoint]:
    where = (EXCHANGE_QUERY, MARKET_TYPE)
    pages = (START, END, LIMIT, PAGE, PAGE_SIZE, BAR_CURSOR, CLOSED_ONLY, DECIMALS, TIME)
    arrays = (START, END, ARRAYS_LIMIT, CLOSED_ONLY, DECIMALS_OF_ARRAYS)
    rows: dict[str, Any] = {
        "data": {"type": "array", "items": CANDLES.schema()}, "metadata": CANDLES_METADATA, "errors": (400, 404),
    }  # fmt: skip
    as_arrays: dict[str, Any] = {"data": ARRAY_SCHEMA, "metadata": CANDLES_METADATA, "errors": (400, 404)}

    def ranged(arguments: Arguments) -> Answerer:
        return candle_rows(state, arguments)

    def newest(arguments: Arguments) -> Answerer:
        fixed = dict.fromkeys(("start_time", "end_time", "page", "page_size", "cursor"))
        return candle_rows(state, {**arguments, **fixed})

    def ohlcv(arguments: Arguments) -> Answerer:
        return candle_arrays(state, arguments)

    def klines(arguments: Arguments) -> Answerer:
        return candle_arrays(state, as_perpetual(arguments))

    return [
        Endpoint(
            "/api/v1/candles", ranged, "Candles of a range, newest first",
            (SYMBOL_QUERY, *where, INTERVAL, *pages), **rows,
        ),
        Endpoint(
            "/api/v1/candles/{symbol}/{interval}", ranged, "Candles of a range, newest first",
            (SYMBOL_PATH, INTERVAL_PATH, *where, *pages), **rows,
        ),
        Endpoint(
            "/api/v1/candles/latest", newest, "The newest candles, newest first",
            (SYMBOL_QUERY, *where, INTERVAL, LIMIT, CLOSED_ONLY, DECIMALS, TIME), **rows,
        ),
        Endpoint(
            "/api/v1/candles/ohlcv", ohlcv, "Candles as arrays, oldest first",
            (SYMBOL_QUERY, *where, INTERVAL, *arrays), **as_arrays,
        ),
        Endpoint(
            "/api/v1/klines", klines, "Candles as FreqTrade reads them; perpetuals unless said otherwise",
            (SYMBOL_QUERY, *where, INTERVAL_REQUIRED, *arrays), **as_arrays,
        ),
        Endpoint(
            "/api/v1/candles/stats", lambda arguments: candle_statistics(state, arguments),
            "What is held of an interval", (SYMBOL_QUERY, *where, INTERVAL, DECIMALS, TIME), data=STATS_SCHEMA,
            metadata={**AGGREGATE_METADATA, "interval": TEXT}, errors=(400, 404),
        ),
        Endpoint(
            "/api/v1/candles/intervals", lambda arguments: intervals(state, arguments), "Intervals of an instrument",
            (SYMBOL_QUERY, *where), data={"type": "array", "items": _INTERVAL_SCHEMA},
            metadata={"recorded": {"type": "array", "items": TEXT}}, errors=(400, 404),
        ),
    ]  # fmt: skip


DECIMALS_OF_ARRAYS = choice("decimals", ("string", "number"), "Prices and volume as numbers or as strings.", "number")


def _range(arguments: Arguments) -> tuple[int | None, int]:
    """`(start, end)`, UNIX ms. Raises InvalidTimeRange."""
    start, end = arguments["start_time"], arguments["end_time"]
    if start is not None and start >= (time.time_ns() if end is None else end):
        raise empty_range(start, time.time_ns() if end is None else end)
    return None if start is None else -(-start // MS), (time.time_ns() if end is None else end) // MS + 1


async def _bars(state: FrontState, source: Source, base: str, wanted: Wanted, *, closed_only: bool) -> Bars:
    """Bars of a range with the one of now, where it belongs there; oldest first."""
    bars = await filled_bars(state, source, base, wanted)
    if closed_only or base != wanted.interval:
        return bars
    now = open_bar(state, source)
    inside = now[(now["open_ts"] >= (wanted.start_ms or 0)) & (now["open_ts"] < wanted.end_ms)]
    if not len(inside) or (len(bars.rows) and inside["open_ts"][0] <= bars.rows["open_ts"][-1]):
        return bars
    if wanted.oldest_first and len(bars.rows) >= wanted.limit:
        return bars
    rows = np.concatenate((bars.rows, inside))[-wanted.limit :]
    return replace(bars, rows=rows, expected=bars.expected + len(rows) - len(bars.rows))


def _metadata(
    source: Source, arguments: Arguments, bars: Bars, start_ms: int | None, end_ms: int, count: int, show: Any
) -> dict[str, Any]:
    first = start_ms if start_ms is not None or not len(bars.rows) else int(bars.rows["open_ts"][0])
    note = bars.note if bars.answered else "memory only: history did not answer"
    told = {name: text for name, text in (("backfill", bars.backfill), ("note", note)) if text}
    return {
        **names_of(source, arguments["symbol"]), "interval": arguments["interval"], "count": count,
        "start_time": None if first is None else show(first * MS), "end_time": show(end_ms * MS),
        "data_source": bars.data_source, "completeness": bars.completeness, **told,
    }  # fmt: skip


def candle_rows(state: FrontState, arguments: Arguments) -> Answerer:
    interval = arguments["interval"]
    source, base = source_of(state, arguments, interval)
    options, before = options_of(arguments), arguments["cursor"]
    window = window_of({**arguments, "cursor": None, **({"page": None} if before is not None else {})})
    paged = window.page is not None and before is None
    _range(arguments)
    key = {**source.key.attributes, "interval": interval}
    renderer, constant = CANDLES.renderer(source, options, key), key_text(source, arguments["symbol"])
    newest = None
    if window.is_newest and before is None and base == interval:

        def write(rows: np.ndarray) -> list[bytes]:
            return [b"{" + constant + text + b"}" for text in renderer.rows(rows)]

        newest = newest_members(state, source, arguments, window.size, write, shown_time(options), newest_first=True)

    def answer() -> Answer | Awaitable[Answer]:
        return (newest() if newest is not None else None) or merged()

    async def merged() -> Answer:
        start, end = _range(arguments)
        until = end if before is None else min(end, before)
        wanted = Wanted(interval, start, until, window.offset + window.size + 1)
        bars = await _bars(state, source, base, wanted, closed_only=arguments["closed_only"])
        rows = bars.rows[::-1][window.offset : window.offset + window.size]
        texts = renderer.rows(rows)
        metadata = _metadata(source, arguments, bars, start, end, len(texts), shown_time(options))
        data = joined_rows(constant, texts)
        has_next = len(bars.rows) > window.offset + window.size or (bars.more and len(rows) > 0)
        total = await _total(state, source, interval, start, end, len(bars.rows), has_next) if paged else None
        told = pagination(
            window.size, page=window.page if paged else None, total=total, has_next=has_next,
            has_prev=(window.page or 1) > 1 or before is not None,
            next_cursor=_cursor_after(rows[-1], bars) if len(rows) else None,
        )  # fmt: skip
        return members(data, metadata=metadata, count=total if paged else len(texts), pagination=told)

    return answer


def _cursor_after(row: np.void, bars: Bars) -> str:
    """Behind the oldest bar of a page; a bar of which parts are yet to be fetched comes once more, whole."""
    again = bars.backfill == "partial" and int(row["flags"]) & PARTIAL
    return str(int(row["open_ts"]) + bool(again))


async def _total(
    state: FrontState, source: Source, interval: str, start: int | None, end: int, found: int, has_next: bool
) -> int | None:
    """How many bars the range has. One that was never held is counted with the others: pages are cut by bars held."""
    if not has_next:
        return found
    if start is None:
        first = await _earliest(state, source)
        if first is None:
            return None
        start = first
    return max(found, bars_between(interval, start, end))


async def _earliest(state: FrontState, source: Source) -> int | None:
    """`open_ts` of the first bar that is held, UNIX ms."""

    async def ask() -> int | None:
        found = await state.history.values(
            KLINE, "toUnixTimestamp64Milli(min(open_ts)), count()", ONE_KEY, key_parameters(source)
        )
        memory = bars_in_memory(source)
        stored = [int(first) for first, count in found or () if int(count)]
        return min([*stored, *memory["open_ts"][:1].tolist()], default=None)

    kept = await state.history.firsts.get((source.exchange, source.instrument, source.interval), ask)
    return None if kept is None else kept[0]


def candle_arrays(state: FrontState, arguments: Arguments) -> Answerer:
    interval = arguments["interval"]
    source, base = source_of(state, arguments, interval)
    _range(arguments)
    write = Writer(source, options_of({**arguments, "time": "ms"}))
    as_text = arguments["decimals"] == "string"

    def arrays(rows: np.ndarray) -> list[tuple[Any, ...]]:
        columns = [rows[name].tolist() for name in ("open_ts", *BASIS, "volume")]
        if as_text:
            columns[1:5] = [[*map(write.price, column)] for column in columns[1:5]]
            columns[5] = [*map(write.quantity, columns[5])]
        return list(zip(*columns, strict=True))

    def texts(rows: np.ndarray) -> list[bytes]:
        return [encode(row) for row in arrays(rows)]

    newest = None
    if base == interval and arguments["start_time"] is arguments["end_time"] is None:
        newest = newest_members(
            state, source, arguments, arguments["limit"], texts, lambda ns: ns // MS, newest_first=False, paged=False
        )

    def answer() -> Answer | Awaitable[Answer]:
        return (newest() if newest is not None else None) or merged()

    async def merged() -> Answer:
        start, end = _range(arguments)
        wanted = Wanted(interval, start, end, arguments["limit"], oldest_first=start is not None)
        bars = await _bars(state, source, base, wanted, closed_only=arguments["closed_only"])
        metadata = _metadata(source, arguments, bars, start, end, len(bars.rows), lambda ns: ns // MS)
        return members(encode(arrays(bars.rows)), metadata=metadata, count=len(bars.rows))

    return answer


def intervals(state: FrontState, arguments: Arguments) -> Answerer:
    recorded = recorded_intervals(state, arguments)
    possible = servable(recorded)
    text = members(encode(possible), metadata={"recorded": recorded}, count=len(possible))
    return lambda: text
