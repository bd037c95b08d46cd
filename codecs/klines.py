"""Bars: their intervals, their bounds, and longer ones made of shorter ones.

All times are UNIX ms, all buckets UTC: minutes, hours and days are counted from the epoch, weeks begin on Monday,
months on their first day. Bars of three days begin with the day on which Binance listed the symbol, and go on from
there: those of BTCUSDT on 2017-08-17, of XRPUSDT on 2018-05-04, of SOLUSDT on 2020-08-11, each of another phase (its
spot klines of 2017 to 2026 as kept in https://github.com/finom/static-klines, read 2026-11-21). So they are taken from
the exchange and never made here; `bar_start` gives them slots, counted from the epoch, in each of which one bar begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from .record import Flag

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS
MONDAY_MS = 4 * DAY_MS  # the epoch was a Thursday

# Lengths in ms; a month has none of its own and is given the longest.
INTERVALS: dict[str, int] = {
    "1s": 1000, "1m": MINUTE_MS, "3m": 3 * MINUTE_MS, "5m": 5 * MINUTE_MS, "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS, "1h": HOUR_MS, "2h": 2 * HOUR_MS, "4h": 4 * HOUR_MS, "6h": 6 * HOUR_MS, "8h": 8 * HOUR_MS,
    "12h": 12 * HOUR_MS, "1d": DAY_MS, "3d": 3 * DAY_MS, "1w": WEEK_MS, "1M": 31 * DAY_MS,
}  # fmt: skip
MONTH = "1M"
THREE_DAYS = "3d"
PARTIAL = int(Flag.PARTIAL)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class Bar(NamedTuple):
    """One bar, in the order of the fields of its record type."""

    open_ts: int  # first ms
    close_ts: int  # last ms
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float
    trade_count: int
    taker_buy_volume: float
    taker_buy_quote_volume: float


def bar_start(interval: str, ts_ms: int) -> int:
    """First ms of the bar that `ts_ms` falls into; of three days: of the slot."""
    if interval == MONTH:
        at = _EPOCH + ts_ms * _MS
        return (at.replace(day=1, hour=0, minute=0, second=0, microsecond=0) - _EPOCH) // _MS
    length = INTERVALS[interval]
    phase = MONDAY_MS if length == WEEK_MS else 0
    return ts_ms - (ts_ms - phase) % length


def bar_stop(interval: str, open_ts: int) -> int:
    """First ms after the bar that begins at `open_ts`."""
    return bar_start(interval, open_ts + INTERVALS[interval]) if interval == MONTH else open_ts + INTERVALS[interval]


def bar_starts(interval: str, start_ms: int, stop_ms: int) -> Sequence[int]:
    """First ms of each bar that begins in ``[start_ms, stop_ms)``."""
    first = bar_start(interval, start_ms)
    first = first if first >= start_ms else bar_stop(interval, first)
    if interval != MONTH:
        return range(first, max(first, stop_ms), INTERVALS[interval])
    starts = []
    while first < stop_ms:
        starts.append(first)
        first = bar_stop(interval, first)
    return starts


def over_before(interval: str, now_ms: int) -> int:
    """No bar that begins later than this is over at `now_ms`."""
    return now_ms if interval == THREE_DAYS else bar_start(interval, now_ms)


def rolls_up(shorter: str, longer: str) -> bool:
    """Whether bars of `longer` consist of whole bars of `shorter`, and are known to begin where those begin."""
    if THREE_DAYS in (shorter, longer) or shorter == MONTH or INTERVALS[shorter] >= INTERVALS[longer]:
        return False
    if longer == MONTH:
        return INTERVALS[shorter] <= DAY_MS
    return INTERVALS[longer] % INTERVALS[shorter] == 0


def merge(first: Bar, second: Bar) -> Bar:
    """The bar of two neighbours. Volumes are added as decimals: what was exact stays exact."""
    return Bar(
        first.open_ts, second.close_ts, first.open, max(first.high, second.high), min(first.low, second.low),
        second.close, _sum(first.volume, second.volume), _sum(first.quote_volume, second.quote_volume),
        first.trade_count + second.trade_count, _sum(first.taker_buy_volume, second.taker_buy_volume),
        _sum(first.taker_buy_quote_volume, second.taker_buy_quote_volume),
    )  # fmt: skip


def _sum(a: float, b: float) -> float:
    return float(Decimal(repr(a)) + Decimal(repr(b)))


RELATIVE_DIFFERENCE = 1e-9  # of volumes: the exchange adds more digits than a float64 has


def same(a: Bar, b: Bar) -> bool:
    """Whether two sources tell of the same bar."""
    if a[:6] != b[:6] or a.trade_count != b.trade_count:
        return False
    pairs = zip(a[6:8] + a[9:], b[6:8] + b[9:], strict=True)
    return all(abs(x - y) <= RELATIVE_DIFFERENCE * max(x, y) for x, y in pairs)


class Fold:
    """Makes bars of one interval from closed ones of a shorter interval, in order.

    A bar that lacks one of its parts, or has a part that is itself partial, is PARTIAL.
    """

    def __init__(self, interval: str) -> None:
        self.interval = interval
        self._start = self._stop = 0  # of the bar in the making
        self._next = 0  # first ms that no part has covered yet
        self._bar: Bar | None = None
        self._flags = 0

    def add(self, bar: Bar, flags: int) -> list[tuple[Bar, int]]:
        """Take a closed bar; returns the longer bars that it completes or leaves behind, with PARTIAL or 0.

        One that is older than the last is ignored.
        """
        done: list[tuple[Bar, int]] = []
        if bar.open_ts >= self._stop:
            done += self._end()
            self._begin(bar_start(self.interval, bar.open_ts))
        if bar.open_ts < self._next:
            return done
        if bar.open_ts > self._next:
            self._flags |= PARTIAL
        self._flags |= flags & PARTIAL
        self._bar = merge(self._bar, bar) if self._bar else bar
        self._next = bar.close_ts + 1
        if self._next >= self._stop:
            done += self._end()
        return done

    def state(self, newest: Bar | None = None) -> tuple[Bar, int] | None:
        """The bar so far, with the open bar of the shorter interval on top; None where nothing is known of it."""
        if newest is not None and (self._bar is None or newest.open_ts >= self._next):
            start = bar_start(self.interval, newest.open_ts)
            known = self._bar if start == self._start else None
            missing = newest.open_ts > (self._next if start == self._start else start)
            flags = (self._flags if known else 0) | (PARTIAL if missing else 0)
            bar = merge(known, newest) if known else newest
        elif self._bar is not None:
            start, bar, flags = self._start, self._bar, self._flags
        else:
            return None
        return bar._replace(open_ts=start, close_ts=bar_stop(self.interval, start) - 1), flags

    def _begin(self, start: int) -> None:
        self._start = self._next = start
        self._stop = bar_stop(self.interval, start)
        self._bar, self._flags = None, 0

    def _end(self) -> list[tuple[Bar, int]]:
        bar, flags = self._bar, self._flags
        if bar is not None and self._next < self._stop:
            flags |= PARTIAL
        start, stop = self._start, self._stop
        self._begin(stop)
        return [(bar._replace(open_ts=start, close_ts=stop - 1), flags)] if bar is not None else []
