"""All markets of the model and the arrival of their events, in virtual time.

Market events arrive as one Poisson process over all symbols, each going to a symbol by its Zipf weight. The same seed
gives the same content: arrivals, factor, coins and symbols each draw from their own generator, so that nothing depends
on who is subscribed. No clock and no input or output: the caller says how far time has come.
"""

from __future__ import annotations

import numpy as np

from .coins import Coin, Factor
from .config import SPOT
from .instruments import Instrument
from .market import Market

ARRIVALS_BLOCK = 4096
IDS_SINCE_S = 1_760_000_000  # UNIX time from which ids are counted


class MarketModel:
    """All markets and the arrival of their events. Time is the caller's: UNIX nanoseconds, from `epoch_ns` on."""

    def __init__(
        self,
        instruments: list[Instrument],
        *,
        seed: int,
        rate: float,
        speed: float = 1.0,
        epoch_ns: int = 0,
        activity_exponent: float = 1.0,
        levels: int = 200,
        history: int = 1000,
        off_book: float = 0.0,
        liquidations: float = 0.0,
    ) -> None:
        factor = Factor(seed, epoch_ns)
        coins: dict[str, Coin] = {}
        ranks: dict[str, int] = {}
        ids_before = max(0, epoch_ns // 1_000_000_000 - IDS_SINCE_S) * (int(2 * rate * max(1.0, speed)) + 1)
        self.markets: list[Market] = []
        weights = []
        for instrument in instruments:
            if instrument.base not in coins:
                coins[instrument.base] = Coin(seed, instrument.base, factor, epoch_ns)
                ranks[instrument.base] = len(coins)
            market = Market(
                instrument,
                coins[instrument.base],
                seed=seed,
                levels=levels,
                history=history,
                off_book=off_book,
                liquidations=liquidations,
                ids_before=ids_before,
                epoch_ns=epoch_ns,
            )
            self.markets.append(market)
            share = 1.0 if instrument.product == SPOT else 1.5  # futures are the busier half
            weights.append(share / ranks[instrument.base] ** activity_exponent)
        self._cumulative = np.cumsum(np.array(weights) / sum(weights))
        self._mean_ns = 1e9 / rate
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._arrivals: list[int] = []
        self._chosen: list[int] = []
        self._at = 0
        self._block_end_ns = epoch_ns
        self._pause_ns = 0  # by how much all arrivals to come are late, after the process could not run
        self._draw()

    @property
    def next_ns(self) -> int:
        """Time of the next event."""
        return self._arrivals[self._at] + self._pause_ns

    def begin(self, time_ns: int) -> None:
        """Let the past end at `time_ns`: nothing has happened before it."""
        for market in self.markets:
            market.tape.start_ms = time_ns // 1_000_000

    def pause(self, nanoseconds: int) -> None:
        """Move all events to come by so much: the market stood still for that long."""
        self._pause_ns += nanoseconds

    def step(self) -> Market:
        """Let the next event happen and return its market."""
        at = self._at
        market = self.markets[self._chosen[at]]
        market.event(self._arrivals[at] + self._pause_ns)
        self._at = at + 1
        if self._at == ARRIVALS_BLOCK:
            self._draw()
        return market

    def _draw(self) -> None:
        waits = self._generator.exponential(self._mean_ns, ARRIVALS_BLOCK)
        arrivals = self._block_end_ns + np.cumsum(waits).astype(np.int64) + np.arange(1, ARRIVALS_BLOCK + 1)
        self._block_end_ns = int(arrivals[-1])
        self._arrivals = arrivals.tolist()
        chosen = np.searchsorted(self._cumulative, self._generator.random(ARRIVALS_BLOCK), side="right")
        self._chosen = np.minimum(chosen, len(self.markets) - 1).tolist()
        self._at = 0
