"""What producers claim, beside what we have: the difference is a metric, and nothing here follows from it."""

from __future__ import annotations

from collections.abc import Collection

from ...codecs.desk.canonical import ALL_SYMBOLS as ALL
from ...codecs.desk.money import UNIT
from .book import Position
from .fold import VALUE_UNIT
from .marks import pair_of
from .metrics import Metrics

Place = tuple[str, str, str]  # account, strategy, pair


class Claims:
    """Quantities as risk events state them, and realised PnL as fills do."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._quantities: dict[Place, tuple[int, int]] = {}  # units of 1e-8, and the event's time

    def told(self, account: str, strategy: str, symbol: str, quantity: int, ts_ns: int) -> None:
        """A risk event states a position."""
        self._quantities[account, strategy, pair_of(symbol)] = quantity, ts_ns

    def compare(self, positions: Collection[Position]) -> None:
        """Bring the metrics up to date: quantities by account and pair, realised PnL by account."""
        if self._quantities:
            self._compare_quantities(positions)
        realized: dict[str, tuple[int, int]] = {}  # of the fills that carry a claim
        for position in positions:
            state = position.state
            if state.claimed or state.claimed_of:
                ours, claimed = realized.get(position.key[0], (0, 0))
                realized[position.key[0]] = ours + state.claimed_of, claimed + state.claimed
        for account, (ours, claimed) in realized.items():
            self._metrics.claim("realized_pnl", account, ALL, ours / VALUE_UNIT, claimed / UNIT)

    def _compare_quantities(self, positions: Collection[Position]) -> None:
        """What was claimed before a fill is not what there is now: its figure stays until the next claim."""
        held: dict[Place, tuple[int, int]] = {}  # quantity, and the newest fill
        for position in positions:
            place, state = (position.key[0], position.key[1], pair_of(position.key[3])), position.state
            if place in self._quantities:
                quantity, ts_ns = held.get(place, (0, 0))
                held[place] = quantity + state.quantity, max(ts_ns, state.ts_ns)
        by_symbol: dict[tuple[str, str], tuple[int, int]] = {}
        outdated: set[tuple[str, str]] = set()
        for place, (quantity, told_ns) in self._quantities.items():
            whose = place[0], place[2]
            ours, claimed = by_symbol.get(whose, (0, 0))
            now, ts_ns = held.get(place, (0, 0))
            by_symbol[whose] = ours + now, claimed + quantity
            if ts_ns > told_ns:
                outdated.add(whose)
        for (account, symbol), (ours, claimed) in by_symbol.items():
            if (account, symbol) not in outdated:
                self._metrics.claim("quantity", account, symbol, ours / UNIT, claimed / UNIT)
