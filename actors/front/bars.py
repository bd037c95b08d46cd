"""Closed bars of one instrument and interval: from memory, from ClickHouse, and rolled up from shorter ones.

A bar is known by its `open_ts`. Of several records of one bar the exchange's history wins over a bar seen whole on the
stream, that one over a bar seen in part, and among equals the newer.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...codecs.klines import DAY_MS, INTERVALS, bar_start, bar_stop, rolls_up
from ...codecs.record import Flag
from ...codecs.records import KLINE, KLINE_OPEN
from ...storage.schema import EVENT_TIME
from ..catalog import Source
from .endpoints import Arguments
from .errors import InvalidParameter, NotFound
from .folding import rounded
from .merge import percent
from .state import FrontState

BACKFILL, PARTIAL, CLOSED, ROLLED_UP = int(Flag.BACKFILL), int(Flag.PARTIAL), int(Flag.CLOSED), int(Flag.ROLLED_UP)
VOID = int(Flag.VOID)
NAMES = tuple(name for name in INTERVALS if name != "1s")
BASE_BARS_MAX = 20_000  # that one answer is rolled up from, unless one bar takes more
OPEN_STALE_MS = 60_000  # an open bar that should have closed so long ago is of a feed that does not run
_MS = 1_000_000
_SUMS = ("volume", "quote_volume", "trade_count", "taker_buy_volume", "taker_buy_quote_volume")
_RANK = f"multiIf(bitAnd(flags, {BACKFILL}) != 0, 3, bitAnd(flags, {PARTIAL}) != 0, 1, 2)"
_BEST = "ORDER BY open_ts {order}, " + _RANK + " DESC, epoch DESC, nth DESC LIMIT 1 BY open_ts LIMIT {{limit:UInt64}}"
ONE_KEY = "exchange = {exchange:String} AND instrument = {instrument:String} AND interval = {interval:String}"


@dataclass(frozen=True)
class Bars:
    """Bars of a range, oldest first.

    Attributes:
        rows: `(n,)` KLINE, each `open_ts` once.
        expected: how many there should be in the part of the range that `rows` answers.
        backfill: complete, partial, pending or unavailable, where missing ones were asked for.
        more: whether the range goes on beyond `rows`, with bars that are held or may still be fetched.
    """

    rows: np.ndarray
    data_source: str = "memory"
    expected: int = 0
    answered: bool = True
    backfill: str = ""
    note: str = ""
    more: bool = False

    @property
    def completeness(self) -> float:
        return percent(min(len(self.rows), self.expected), self.expected)


@dataclass(frozen=True)
class Wanted:
    """A range of bars by `open_ts`, UNIX ms, and how many of it: the newest, or from its start on."""

    interval: str
    start_ms: int | None
    end_ms: int
    limit: int
    oldest_first: bool = False


def best(rows: np.ndarray) -> np.ndarray:
    """One row for each `open_ts`, oldest bar first; `rows` is `(n,)`, older versions before newer ones."""
    if not len(rows):
        return rows
    flags = rows["flags"]
    rank = np.where(flags & BACKFILL, 3, np.where(flags & PARTIAL, 1, 2))
    order = np.lexsort((np.arange(len(rows)), rank, rows["open_ts"]))
    ordered = rows[order]
    last = np.append(ordered["open_ts"][1:] != ordered["open_ts"][:-1], True)
    chosen = ordered[last]
    return chosen[(chosen["flags"] & VOID) == 0]


def bars_in_memory(source: Source) -> np.ndarray:
    """`(n,)` closed bars of a key, oldest first."""
    return best(source.reader.last(source.key_id, source.reader.spec.tail))


def open_bar(state: FrontState, source: Source) -> np.ndarray:
    """The bar of now as `(1,)` or `(0,)` KLINE."""
    nothing = np.empty(0, KLINE.dtype)
    found = state.catalog.find_instrument(KLINE_OPEN.name, source.exchange, source.instrument, source.interval)
    row = None if found is None else found.reader.latest(found.key_id)
    if row is None or int(row["close_ts"]) + OPEN_STALE_MS < time.time_ns() // _MS:
        return nothing
    return np.frombuffer(row.tobytes(), KLINE.dtype) if row.dtype.itemsize == KLINE.dtype.itemsize else nothing


def unbroken_since(rows: np.ndarray) -> int:
    """`open_ts` from which on no bar is missing in `rows`; 0 for none."""
    if not len(rows):
        return 0
    starts, stops = rows["open_ts"], rows["close_ts"] + 1
    holes = np.flatnonzero(starts[1:] != stops[:-1])
    return int(starts[holes[-1] + 1 if len(holes) else 0])


def bars_between(interval: str, start_ms: int, end_ms: int) -> int:
    """How many bars begin in ``[start_ms, end_ms)`` and are over."""
    first = bar_start(interval, start_ms)
    first = first if first >= start_ms else bar_stop(interval, first)
    end = min(end_ms, bar_start(interval, time.time_ns() // _MS))
    if interval == "1M":
        count = 0
        while first < end:
            first, count = bar_stop(interval, first), count + 1
        return count
    return max(0, -(-(end - first) // INTERVALS[interval]))


async def closed_bars(state: FrontState, source: Source, wanted: Wanted) -> Bars:
    """Closed bars of a produced interval, from memory and, where it does not reach, from ClickHouse."""
    memory = bars_in_memory(source)
    limit = wanted.limit
    since = unbroken_since(memory)
    inside = memory[memory["open_ts"] < wanted.end_ms]
    if wanted.start_ms is not None:
        inside = inside[inside["open_ts"] >= wanted.start_ms]
    whole = inside[inside["open_ts"] >= since] if since else inside[:0]
    reached = bool(since) and wanted.start_ms is not None and since <= wanted.start_ms
    if reached or (not wanted.oldest_first and len(whole) >= limit):
        return _answered(Bars(whole), wanted)
    if not state.history.configured:
        return _answered(Bars(inside), wanted)
    stored = await _stored(state, source, wanted)
    if stored is None:
        return replace(_answered(Bars(inside), wanted), answered=False)
    both = best(np.concatenate((stored, inside)))
    origin = "mixed" if len(inside) and len(stored) else "database" if len(stored) else "memory"
    return _answered(Bars(both, origin), wanted)


def _answered(bars: Bars, wanted: Wanted) -> Bars:
    """Cut to the limit, and say how many bars there should be."""
    rows = bars.rows[: wanted.limit] if wanted.oldest_first else bars.rows[-wanted.limit :]
    start, end = wanted.start_ms, wanted.end_ms
    if len(rows) and (bars.more or len(rows) == wanted.limit):  # the rest of the range was not asked for
        if wanted.oldest_first:
            end = int(rows["close_ts"][-1]) + 1
        else:
            start = int(rows["open_ts"][0])
    if start is None:
        start = int(rows["open_ts"][0]) if len(rows) else end
    return replace(bars, rows=rows, expected=max(len(rows), bars_between(wanted.interval, start, end)))


async def _stored(state: FrontState, source: Source, wanted: Wanted) -> np.ndarray | None:
    """Bars that ClickHouse holds, oldest first; None where it did not answer."""
    length = INTERVALS[wanted.interval]
    # Neither a bar nor its receipt comes before its begin, so both times close the older partitions and granules; and
    # the time of a bar is that of its end, whenever it was received, which closes the newer granules.
    guesses = [wanted.start_ms]
    if wanted.start_ms is None:
        guesses = [wanted.end_ms - (wanted.limit + 2) * length, 0]
    found: np.ndarray | None = None
    for guess in guesses:
        start = max(0, guess or 0)
        condition = (
            f"{ONE_KEY} AND open_ts >= fromUnixTimestamp64Milli({{start:Int64}}, 'UTC')"
            " AND open_ts < fromUnixTimestamp64Milli({end:Int64}, 'UTC')"
            " AND ts_recv_ns >= fromUnixTimestamp64Milli({start:Int64}, 'UTC')"
            f" AND {EVENT_TIME} >= fromUnixTimestamp64Milli({{start:Int64}}, 'UTC')"
            f" AND {EVENT_TIME} < fromUnixTimestamp64Milli({{told:Int64}}, 'UTC') "
            + _BEST.format(order="ASC" if wanted.oldest_first else "DESC")
        )
        parameters = {
            **key_parameters(source), "start": start, "end": wanted.end_ms, "limit": wanted.limit,
            "told": wanted.end_ms + length + DAY_MS,
        }  # fmt: skip
        answer = await state.history.rows_where(KLINE, condition, parameters)
        if answer is None:
            return None
        found = answer.rows if wanted.oldest_first else answer.rows[::-1]
        if len(found) >= wanted.limit:
            break
    return found


def source_of(state: FrontState, arguments: Arguments, interval: str) -> tuple[Source, str]:
    """The key of an interval; where it is not produced, of the longest one that it can be made of.

    Raises NotFound where there are no bars of the instrument, InvalidParameter where there are of other intervals.
    """
    shorter = sorted((one for one in INTERVALS if rolls_up(one, interval)), key=INTERVALS.__getitem__, reverse=True)
    try:
        return _first_source(state, arguments, (interval, *shorter))
    except NotFound:
        recorded = recorded_intervals(state, arguments)
    possible = ", ".join(servable(recorded))
    raise InvalidParameter("interval", interval, f"one that is recorded, or made of such: {possible}")


def _first_source(state: FrontState, arguments: Arguments, intervals: Iterable[str]) -> tuple[Source, str]:
    failure: NotFound | None = None
    for produced in intervals:
        try:
            return state.source(KLINE, {**arguments, "interval": produced}), produced
        except NotFound as error:
            failure = failure or error
    assert failure is not None
    raise failure


def recorded_intervals(state: FrontState, arguments: Arguments) -> list[str]:
    """Intervals that are produced of an instrument, the shortest first. Raises NotFound where there is none."""
    source, _ = _first_source(state, arguments, INTERVALS)
    recorded = {
        one.interval
        for one in state.catalog.match(KLINE.name, source.exchange, source.market_type)
        if one.instrument == source.instrument
    }
    return [name for name in INTERVALS if name in recorded]


def servable(recorded: Collection[str]) -> list[str]:
    """Intervals whose bars are there, or can be made of those that are, the shortest first."""
    return [name for name in NAMES if name in recorded or any(rolls_up(one, name) for one in recorded)]


def key_parameters(source: Source) -> dict[str, Any]:
    return {"exchange": source.exchange, "instrument": source.instrument, "interval": source.interval}


async def bars_of(state: FrontState, source: Source, base: str, wanted: Wanted) -> Bars:
    """Closed bars of any interval: as they are produced, or rolled up from those of `base`."""
    if base == wanted.interval:
        return await closed_bars(state, source, wanted)
    ratio = -(-INTERVALS[wanted.interval] // INTERVALS[base])
    start = None if wanted.start_ms is None else first_start(wanted.interval, wanted.start_ms)
    end = bar_stop(wanted.interval, bar_start(wanted.interval, wanted.end_ms - 1))
    end = min(end, bar_start(wanted.interval, time.time_ns() // _MS))  # of the bar of now nothing is shown
    count = min(max(BASE_BARS_MAX, ratio), (wanted.limit + 1) * ratio)
    shorter = await closed_bars(state, source, Wanted(base, start, end, count, wanted.oldest_first))
    rows = roll_up(shorter.rows, base, wanted.interval)
    rows = rows[(rows["open_ts"] < wanted.end_ms) & (rows["close_ts"] < time.time_ns() // _MS)]
    edge = -1 if wanted.oldest_first else 0
    more = len(shorter.rows) == count
    if (more or start is None) and len(rows) > 1 and rows["flags"][edge] & PARTIAL:
        rows = rows[:-1] if wanted.oldest_first else rows[1:]  # the cut through that one is ours
    return _answered(replace(shorter, rows=rows, more=more), wanted)


def first_start(interval: str, start_ms: int) -> int:
    """Begin of the first bar that does not begin before `start_ms`."""
    first = bar_start(interval, start_ms)
    return first if first >= start_ms else bar_stop(interval, first)


def roll_up(rows: np.ndarray, base: str, interval: str) -> np.ndarray:
    """Bars of `interval` from `(n,)` bars of `base`, oldest first; one that lacks a part is PARTIAL."""
    if not len(rows):
        return rows
    starts = np.array([bar_start(interval, at) for at in rows["open_ts"].tolist()], np.int64)
    first = np.flatnonzero(np.append(True, starts[1:] != starts[:-1]))
    stop = np.append(first[1:], len(rows))
    longer = np.zeros(len(first), rows.dtype)
    for name in ("nth", "ts_recv_ns", "ts_event_ns", "key_id", "close"):
        longer[name] = rows[name][stop - 1]
    longer["open_ts"] = starts[first]
    longer["close_ts"] = [bar_stop(interval, at) - 1 for at in starts[first].tolist()]
    longer["open"] = rows["open"][first]
    longer["high"] = np.maximum.reduceat(rows["high"], first)
    longer["low"] = np.minimum.reduceat(rows["low"], first)
    for name in _SUMS:
        sums = np.add.reduceat(rows[name], first)
        longer[name] = sums if rows[name].dtype.kind == "u" else [rounded(value) for value in sums.tolist()]
    parts = stop - first
    expected = [
        bars_between(base, int(at), int(over) + 1)
        for at, over in zip(longer["open_ts"], longer["close_ts"], strict=True)
    ]
    partial = np.bitwise_or.reduceat(rows["flags"] & PARTIAL, first)
    partial = np.where(parts < np.array(expected), PARTIAL, partial)
    longer["flags"] = CLOSED | ROLLED_UP | partial
    return longer
