"""Trades of a range in one figure each: what memory holds, folded here, and what ClickHouse holds, folded there.

Both parts meet at the writer's cursor, like rows do, so that each trade counts once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from ...codecs.record import Flag
from ...codecs.records import TRADE
from ..catalog import Source
from .history import Span, missing_of
from .merge import Recent, coverage, percent, recent, within
from .paging import DAY_NS
from .state import FrontState

_SELL, _VOID = int(Flag.SELL), int(Flag.VOID)
NOT_VOID = f"bitAnd(flags, {_VOID}) = 0"
T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """The two parts of a range.

    Attributes:
        memory: `(n,)` trades, oldest first, without void ones.
        stored: what ClickHouse told of the rest, None where it was not asked or gave no answer.
    """

    memory: np.ndarray
    stored: Any
    start_ns: int
    end_ns: int
    data_source: str
    completeness: float
    note: str
    answered: bool = True  # False: ClickHouse was asked in vain

    def told(self) -> dict[str, Any]:
        """Members of `metadata`."""
        told = {"data_source": self.data_source, "completeness": self.completeness}
        return {**told, "note": self.note} if self.note else told


Ask = Callable[[Recent, int, int], Awaitable[T | None]]


async def parts_of(state: FrontState, source: Source, span_ns: int, ask: Ask[T]) -> Parts:
    """Take the trades of the last `span_ns` apart, and ask ClickHouse for its share where it has one."""
    end_ns = time.time_ns()
    start_ns = end_ns - span_ns
    held = await recent(source.reader, source.key_id)
    memory = within(held.rows, start_ns, end_ns + DAY_NS)  # an exchange's clock may be ahead of ours
    memory = memory[(memory["flags"] & _VOID) == 0]
    reaches = len(memory) < len(held.rows) or not held.seam.nth
    if (reaches and len(held.rows) and held.rows["ts_recv_ns"][0] < start_ns) or not state.history.configured:
        share = 100.0 if reaches else coverage(held.rows, start_ns, end_ns)
        note = "" if reaches else "memory only: no history is configured"
        return Parts(memory, None, start_ns, end_ns, "memory", share, note)
    stored = await ask(held, start_ns, end_ns)
    if stored is None:
        share = coverage(held.rows, start_ns, end_ns)
        return Parts(memory, None, start_ns, end_ns, "memory", share, "memory only: history did not answer", False)
    return Parts(memory, stored, start_ns, end_ns, "mixed", 100.0, "")


@dataclass
class Fold:
    """Trades of a range."""

    count: int = 0
    quantity: float = 0.0  # base units
    notional: float = 0.0  # quote currency
    price_sum: float = 0.0
    low: float = float("inf")
    high: float = 0.0
    first: float = 0.0  # prices
    last: float = 0.0
    buys: int = 0  # by aggressor
    buy_quantity: float = 0.0
    spans: list[Span] = field(default_factory=list)
    data_source: str = "memory"
    completeness: float = 100.0
    note: str = ""
    answered: bool = True
    start_ns: int = 0
    end_ns: int = 0

    def add(self, later: Fold) -> None:
        """Fold in trades that came behind these."""
        if not later.count:
            return
        self.first = self.first if self.count else later.first
        self.last = later.last
        self.low, self.high = min(self.low, later.low), max(self.high, later.high)
        for name in ("count", "quantity", "notional", "price_sum", "buys", "buy_quantity"):
            setattr(self, name, getattr(self, name) + getattr(later, name))

    def day_values(self) -> dict[str, float | None]:
        """As fields of a ticker."""
        if not self.count:
            return {"volume_24h": 0.0, "quote_volume_24h": 0.0, "trade_count_24h": 0}
        return {
            "last": self.last, "open_24h": self.first, "high_24h": self.high, "low_24h": self.low,
            "volume_24h": rounded(self.quantity), "quote_volume_24h": rounded(self.notional),
            "change_pct": (self.last / self.first - 1) * 100 if self.first else None, "trade_count_24h": self.count,
        }  # fmt: skip


def rounded(value: float) -> float:
    """A sum of decimals without the last bits' noise."""
    return float(f"{value:.15g}")


def fold_rows(rows: np.ndarray) -> Fold:
    """Fold `(n,)` trades, oldest first."""
    if not len(rows):
        return Fold()
    prices, quantities = rows["price"], rows["quantity"]
    buys = (rows["flags"] & _SELL) == 0
    return Fold(
        len(rows), float(quantities.sum()), float((prices * quantities).sum()), float(prices.sum()),
        float(prices.min()), float(prices.max()), float(prices[0]), float(prices[-1]),
        int(buys.sum()), float(quantities[buys].sum()),
    )  # fmt: skip


_STORED = (
    "epoch, count(), count(), min(nth), max(nth), sum(quantity), sum(price * quantity), sum(price), min(price), "
    f"max(price), argMin(price, nth), argMax(price, nth), countIf(bitAnd(flags, {_SELL}) = 0), "
    f"sumIf(quantity, bitAnd(flags, {_SELL}) = 0)"
)


def _stored_fold(rows: list[tuple[Any, ...]]) -> Fold:
    """Fold ClickHouse's answer to `_STORED`, one row for each epoch."""
    total = Fold()
    for (
        epoch,
        count,
        shown,
        first_nth,
        last_nth,
        quantity,
        notional,
        prices,
        low,
        high,
        first,
        last,
        buys,
        bought,
    ) in rows:
        total.add(Fold(count, quantity, notional, prices, low, high, first, last, buys, bought))
        total.spans.append(Span(epoch, count, shown, first_nth, last_nth))
    return total


async def fold_trades(state: FrontState, source: Source, span_ns: int) -> Fold:
    """The trades of the last `span_ns`."""
    seams = []

    async def ask(held: Recent, start_ns: int, end_ns: int) -> Fold | None:
        seams.append(held.seam)
        rows = await state.history.select(
            TRADE, source, _STORED, held.seam, start_ns, end_ns, where=NOT_VOID, tail="GROUP BY epoch ORDER BY epoch"
        )
        return None if rows is None else _stored_fold(rows)

    parts = await parts_of(state, source, span_ns, ask)
    total: Fold = parts.stored or Fold()
    stored = total.count
    total.add(fold_rows(parts.memory))
    total.data_source, total.completeness, total.note = parts.data_source, parts.completeness, parts.note
    total.start_ns, total.end_ns, total.answered = parts.start_ns, parts.end_ns, parts.answered
    if parts.stored is not None:
        missing = missing_of(total.spans, seams[0])
        total.completeness = percent(total.count, total.count + missing)
        total.note = f"{missing} records are in neither place" if missing else ""
        total.data_source = "mixed" if stored and len(parts.memory) else "database" if stored else "memory"
    total.completeness, total.note = state.missed.judge(
        source, total.start_ns, total.end_ns, total.count, total.completeness, total.note
    )
    return total
