"""What a market did before the simulator started, as a pure function of seed, symbol and time.

Any minute can be asked for by itself, in any order and by any process: bars, funding rates and open interest are the
same each time. Prices are a sum of interpolated noise of several periods, within 3 % of the instrument's own price;
all products of a coin share it. Where the live market takes over, it begins at the price that this leaves off with.
"""

from __future__ import annotations

import functools
import random

import numpy as np

from .instruments import Instrument

MINUTE_MS = 60_000
LISTED_MS = 1_759_276_800_000  # 2025-10-01: nothing is older
FUNDING_INTERVAL_MS = 8 * 3_600_000
TRADES_PER_MINUTE = 60  # on average
IDS_FROM = 5 * 10**10  # below every id of the live markets

# Columns of a bar, int64. Prices in ticks, quantities in lots, quote quantities in ticks times lots.
OPEN_MS, OPEN, HIGH, LOW, CLOSE, LOTS, QUOTE, COUNT, TAKER_LOTS, TAKER_QUOTE, FIRST_ID, LAST_ID = range(12)
COLUMNS = 12

# (period in minutes, amplitude of the logarithm of the price)
_WAVES = ((1, 3e-4), (7, 6e-4), (45, 1.5e-3), (360, 4e-3), (2880, 1e-2), (20_160, 1.2e-2))
_SPREAD = 3e-4  # how far a bar reaches beyond its open and close, at most


@functools.cache  # a few names for each symbol
def _key(text: str) -> int:
    return random.Random(text).getrandbits(63)


def _noise(key: int, index: np.ndarray) -> np.ndarray:
    """Return a number in [0, 1) for each index (splitmix64 of key and index)."""
    with np.errstate(over="ignore"):
        mixed = (index.astype(np.uint64) + np.uint64(key)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def _wave(key: int, at: np.ndarray, period: int) -> np.ndarray:
    """Return noise in [-1, 1) that takes `period` steps of `at` from one value to the next."""
    if period == 1 or not len(at):
        return 2.0 * _noise(key, at) - 1.0
    index = at // period
    first = int(index.min())
    values = _noise(key, np.arange(first, int(index.max()) + 2))  # far fewer than `at` where those are neighbours
    begin = values[index - first]
    return 2.0 * (begin + (values[index - first + 1] - begin) * ((at - index * period) / period)) - 1.0


def price_levels(seed: int, base: str, minutes: np.ndarray) -> np.ndarray:
    """Return the logarithm of a coin's price relative to its start at the beginning of each minute since 1970."""
    key = _key(f"{seed}:history:{base}")
    return sum((size * _wave(key + number, minutes, period) for number, (period, size) in enumerate(_WAVES)), 0.0)  # type: ignore[return-value]


class Past:
    """The past of one market. `ticks` is the price that the noise moves around."""

    __slots__ = ("_base", "_key", "_lots", "_seed", "ticks")

    def __init__(self, instrument: Instrument, seed: int, ticks: float, lots_typical: float) -> None:
        self._seed = seed
        self._base = instrument.base
        self._key = f"{seed}:history:{instrument.product}:{instrument.native}"
        self._lots = lots_typical
        self.ticks = ticks

    def prices(self, minutes: np.ndarray) -> np.ndarray:
        """Return the price at the beginning of each minute in ticks, at least 2."""
        ticks = self.ticks * np.exp(price_levels(self._seed, self._base, minutes))
        return np.maximum(2, np.rint(ticks)).astype(np.int64)

    def price(self, time_ms: int) -> int:
        return int(self.prices(np.array([time_ms // MINUTE_MS]))[0])

    def bars(self, first_ms: int, stop_ms: int) -> np.ndarray:
        """Return the bars of one minute that begin in `first_ms <= t < stop_ms`, shape (n, 12), oldest first."""
        minutes = np.arange(-(-first_ms // MINUTE_MS), -(-stop_ms // MINUTE_MS), dtype=np.int64)
        edges = np.arange(minutes[0], minutes[-1] + 2) if len(minutes) else minutes
        rows = np.empty((len(minutes), COLUMNS), dtype=np.int64)
        if not len(minutes):
            return rows
        key = _key(self._key)
        prices = self.prices(edges)
        ids = TRADES_PER_MINUTE * (edges - LISTED_MS // MINUTE_MS) + (
            _noise(key, edges) * (TRADES_PER_MINUTE // 2)
        ).astype(np.int64)
        reach = self.ticks * _SPREAD
        rows[:, OPEN_MS] = minutes * MINUTE_MS
        rows[:, OPEN], rows[:, CLOSE] = prices[:-1], prices[1:]
        rows[:, HIGH] = np.maximum(prices[:-1], prices[1:]) + (reach * _noise(key + 1, minutes)).astype(np.int64)
        low = np.minimum(prices[:-1], prices[1:]) - (reach * _noise(key + 2, minutes)).astype(np.int64)
        rows[:, LOW] = np.maximum(1, low)
        rows[:, COUNT] = ids[1:] - ids[:-1]
        rows[:, FIRST_ID], rows[:, LAST_ID] = IDS_FROM + ids[:-1], IDS_FROM + ids[1:] - 1
        rows[:, LOTS] = rows[:, COUNT] * (1 + (self._lots * (0.5 + _noise(key + 3, minutes)))).astype(np.int64)
        rows[:, TAKER_LOTS] = (rows[:, LOTS] * (0.3 + 0.4 * _noise(key + 4, minutes))).astype(np.int64)
        typical = rows[:, (OPEN, HIGH, LOW, CLOSE)].sum(axis=1) // 4
        rows[:, QUOTE], rows[:, TAKER_QUOTE] = rows[:, LOTS] * typical, rows[:, TAKER_LOTS] * typical
        return rows

    # These two go on after the start: nothing in the live market decides them.

    def funding_rates(self, times_ms: list[int]) -> list[float]:
        """Return the rates that are settled at these times, each announced for the eight hours before it."""
        periods = np.array(times_ms, dtype=np.int64) // FUNDING_INTERVAL_MS
        return (1e-4 + 2e-4 * _wave(_key(self._key + ":funding"), periods, 3)).tolist()

    def open_interest(self, time_ms: int) -> int:
        """Return the open interest in lots."""
        key = _key(self._key + ":interest")
        return int(self._lots * 20_000 * (1.0 + 0.2 * float(_wave(key, np.array([time_ms // 1000]), 7200)[0])))
