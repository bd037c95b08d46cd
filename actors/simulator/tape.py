"""Trades of one market folded into bars of a minute, and longer bars rolled up from those.

Trades outside the book (USD-M insurance fund, deleveraging) are no part of a bar: the exchange leaves them out too.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from .history import (
    CLOSE,
    COLUMNS,
    COUNT,
    FIRST_ID,
    HIGH,
    LAST_ID,
    LISTED_MS,
    LOTS,
    LOW,
    MINUTE_MS,
    OPEN,
    OPEN_MS,
    QUOTE,
    TAKER_LOTS,
    TAKER_QUOTE,
    Past,
)

HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
BARS_MAX = 7 * 24 * 60  # traded minutes kept for each market; older ones are no longer served
_SUMS = [LOTS, QUOTE, COUNT, TAKER_LOTS, TAKER_QUOTE]
_NO_ID = -1

# Bar lengths by name. A month has none; `1s` would need more than bars of a minute and is not served.
INTERVALS_MS: dict[str, int] = {
    "1m": MINUTE_MS, "3m": 3 * MINUTE_MS, "5m": 5 * MINUTE_MS, "15m": 15 * MINUTE_MS, "30m": 30 * MINUTE_MS,
    "1h": HOUR_MS, "2h": 2 * HOUR_MS, "4h": 4 * HOUR_MS, "6h": 6 * HOUR_MS, "8h": 8 * HOUR_MS, "12h": 12 * HOUR_MS,
    "1d": DAY_MS, "3d": 3 * DAY_MS, "1w": 7 * DAY_MS, "1M": 0,
}  # fmt: skip
# When the first bar began: on a Monday; on the day of the symbol's listing, as if all had come with BTCUSDT.
_PHASES_MS = {"1w": 4 * DAY_MS, "3d": DAY_MS}


def bar_start(interval: str, time_ms: int) -> int:
    """Return when the bar that holds `time_ms` begins."""
    length = INTERVALS_MS[interval]
    if not length:
        moment = datetime.fromtimestamp(time_ms / 1000, UTC)
        return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp()) * 1000
    return time_ms - (time_ms - _PHASES_MS.get(interval, 0)) % length


def bar_stop(interval: str, start_ms: int) -> int:
    """Return when the bar after the one that begins at `start_ms` begins."""
    length = INTERVALS_MS[interval]
    return start_ms + length if length else bar_start(interval, start_ms + 32 * DAY_MS)


def roll_up(rows: np.ndarray, interval: str) -> np.ndarray:
    """Join bars of a minute, oldest first and without a hole, to bars of `interval`, shape (n, 12)."""
    if interval == "1m" or not len(rows):
        return rows
    opens = rows[:, OPEN_MS]
    if length := INTERVALS_MS[interval]:
        starts = opens - (opens - _PHASES_MS.get(interval, 0)) % length
    else:
        starts = opens.astype("M8[ms]").astype("M8[M]").astype("M8[ms]").astype(np.int64)
    first = np.flatnonzero(np.diff(starts, prepend=starts[0] - 1))
    last = np.append(first[1:], len(rows)) - 1
    joined = np.empty((len(first), COLUMNS), dtype=np.int64)
    joined[:, OPEN_MS] = starts[first]
    joined[:, OPEN], joined[:, CLOSE] = rows[first, OPEN], rows[last, CLOSE]
    joined[:, HIGH] = np.maximum.reduceat(rows[:, HIGH], first)
    joined[:, LOW] = np.minimum.reduceat(rows[:, LOW], first)
    joined[:, _SUMS] = np.add.reduceat(rows[:, _SUMS], first)
    joined[:, LAST_ID] = np.maximum.reduceat(rows[:, LAST_ID], first)
    ids = np.where(rows[:, FIRST_ID] < 0, np.iinfo(np.int64).max, rows[:, FIRST_ID])
    joined[:, FIRST_ID] = np.where(joined[:, COUNT] > 0, np.minimum.reduceat(ids, first), _NO_ID)
    return joined


class Tape:
    """The bars of one market: its past until `start_ms`, then what its trades make."""

    __slots__ = ("_day", "_day_ms", "_floor_ms", "_kept", "_rows", "last_lots", "last_trade", "open_row", "past",
                 "start_ms")  # fmt: skip

    def __init__(self, past: Past, start_ms: int) -> None:
        self.past = past
        self.start_ms = start_ms
        self.open_row: list[int] = [_NO_ID] + [0] * (COLUMNS - 1)  # of the minute of the last trade; COUNT 0 = none yet
        self.last_trade = self.last_lots = 0
        self._rows = np.empty((0, COLUMNS), dtype=np.int64)  # traded minutes before that, `_kept` of them
        self._kept = 0
        self._floor_ms = LISTED_MS
        self._day: np.ndarray | None = None
        self._day_ms = 0

    def add(self, number: int, tick: int, lots: int, time_ns: int, buyer_is_maker: bool) -> None:
        """Take in one trade of the book."""
        row = self.open_row
        minute_ms = time_ns // 60_000_000_000 * MINUTE_MS
        quote = tick * lots
        if row[OPEN_MS] != minute_ms:
            if row[COUNT]:
                self._keep(row)
            self.open_row = row = [minute_ms, tick, tick, tick, tick, 0, 0, 0, 0, 0, number, number]
        elif tick > row[HIGH]:
            row[HIGH] = tick
        elif tick < row[LOW]:
            row[LOW] = tick
        row[CLOSE] = tick
        row[LOTS] += lots
        row[QUOTE] += quote
        row[COUNT] += 1
        if not buyer_is_maker:
            row[TAKER_LOTS] += lots
            row[TAKER_QUOTE] += quote
        row[LAST_ID] = number
        self.last_trade = number
        self.last_lots = lots

    def _keep(self, row: list[int]) -> None:
        if self._kept == len(self._rows):
            if self._kept >= BARS_MAX:
                self._rows[: BARS_MAX // 2] = self._rows[BARS_MAX // 2 :]
                self._kept = BARS_MAX // 2
                self._floor_ms = int(self._rows[0, OPEN_MS])
            else:
                grown = np.empty((min(BARS_MAX, max(64, 2 * self._kept)), COLUMNS), dtype=np.int64)
                grown[: self._kept] = self._rows[: self._kept]
                self._rows = grown
        self._rows[self._kept] = row
        self._kept += 1

    def live(self, first_ms: int, stop_ms: int) -> np.ndarray:
        """Return the bars of the traded minutes in `first_ms <= t < stop_ms`, oldest first."""
        opens = self._rows[: self._kept, OPEN_MS]
        rows = self._rows[np.searchsorted(opens, first_ms) : np.searchsorted(opens, stop_ms)]
        if self.open_row[COUNT] and first_ms <= self.open_row[OPEN_MS] < stop_ms:
            rows = np.vstack([rows, np.array([self.open_row], dtype=np.int64)])
        return rows

    def minutes(self, first_ms: int, stop_ms: int) -> np.ndarray:
        """Return the bars of all minutes that begin in `first_ms <= t < stop_ms`; flat ones where nobody traded."""
        first_ms = -(-max(first_ms, self._floor_ms) // MINUTE_MS) * MINUTE_MS
        begin_ms = min(max(first_ms, bar_start("1m", self.start_ms)), stop_ms)
        past = self.past.bars(first_ms, begin_ms)
        count = max(0, -(-(stop_ms - max(begin_ms, first_ms)) // MINUTE_MS))
        rows = np.zeros((count, COLUMNS), dtype=np.int64)
        if not count:
            return past
        traded = self.live(begin_ms, stop_ms)
        places = (traded[:, OPEN_MS] - begin_ms) // MINUTE_MS
        rows[:, FIRST_ID] = rows[:, LAST_ID] = _NO_ID
        rows[places] = traded
        rows[:, OPEN_MS] = begin_ms + MINUTE_MS * np.arange(count)
        # A minute without a trade stays at the price before it.
        newest = np.full(count, -1)
        newest[places] = places
        newest = np.maximum.accumulate(newest)
        flat = np.flatnonzero(rows[:, COUNT] == 0)
        before = self._close_before(begin_ms)
        closes = np.where(newest[flat] < 0, before, rows[newest[flat], CLOSE])
        for column in (OPEN, HIGH, LOW, CLOSE):
            rows[flat, column] = closes
        return np.vstack([past, rows]) if len(past) else rows

    def _close_before(self, time_ms: int) -> int:
        at = int(np.searchsorted(self._rows[: self._kept, OPEN_MS], time_ms)) - 1
        if self.open_row[COUNT] and self.open_row[OPEN_MS] < time_ms:
            return self.open_row[CLOSE]
        return int(self._rows[at, CLOSE]) if at >= 0 else self.past.price(min(time_ms, self.start_ms))

    def prices_at(self, times_ms: list[int]) -> list[int]:
        """Return the last price before each of these times."""
        past = self.past.prices(np.array(times_ms, dtype=np.int64) // MINUTE_MS).tolist()
        return [
            price if time_ms <= self.start_ms else self._close_before(time_ms)
            for time_ms, price in zip(times_ms, past, strict=True)
        ]

    def bar(self, interval: str, start_ms: int, now_ms: int) -> list[int]:
        """Return the bar that begins at `start_ms` as far as it has come by `now_ms`."""
        if interval == "1m" and self.open_row[OPEN_MS] == start_ms:
            return self.open_row
        stop_ms = min(now_ms + 1, bar_stop(interval, start_ms))
        return roll_up(self.minutes(start_ms, stop_ms), interval)[-1].tolist()

    def bars(self, interval: str, first_ms: int, stop_ms: int) -> np.ndarray:
        """Return the bars of `interval` that begin in `first_ms <= t < stop_ms`; the caller sees to whole bars."""
        return roll_up(self.minutes(first_ms, stop_ms), interval)

    @property
    def last_price(self) -> int:
        """Price of the last trade in ticks, or what the past left off with."""
        return self.open_row[CLOSE] if self.open_row[COUNT] else self.past.price(self.start_ms)

    def day(self, now_ms: int) -> tuple[list[int], int]:
        """Return the bar of the last 24 hours, or since the start if that is later, and when it begins.

        The window's edge moves by whole minutes. Without a trade in it all prices are the last one.
        """
        minute_ms = bar_start("1m", now_ms)
        edge_ms = max(minute_ms - DAY_MS + MINUTE_MS, self.start_ms)
        if self._day is None or self._day_ms != minute_ms:
            self._day = self.live(bar_start("1m", edge_ms), minute_ms)
            self._day = _join(self._day) if len(self._day) else self._day
            self._day_ms = minute_ms
        rows = self._day
        if self.open_row[COUNT] and self.open_row[OPEN_MS] >= minute_ms:
            rows = np.vstack([rows, np.array([self.open_row], dtype=np.int64)])
        if not len(rows):
            price = self.last_price
            return [edge_ms, price, price, price, price, 0, 0, 0, 0, 0, _NO_ID, _NO_ID], edge_ms
        return _join(rows)[0].tolist(), edge_ms


def _join(rows: np.ndarray) -> np.ndarray:
    """Join traded bars to one, shape (1, 12)."""
    joined = rows[:1].copy()
    joined[0, HIGH], joined[0, LOW] = rows[:, HIGH].max(), rows[:, LOW].min()
    joined[0, _SUMS] = rows[:, _SUMS].sum(axis=0)
    joined[0, CLOSE], joined[0, LAST_ID] = rows[-1, CLOSE], rows[-1, LAST_ID]
    return joined
