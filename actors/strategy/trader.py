"""Orders, executions and the strategy's own book. Pure: chance, prices and times are given by the caller."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

ZERO = Decimal(0)
UNIT = Decimal("1e-8")
FEE_RATE = Decimal("0.00005")
FEE_ASSET = "BNB"
CAPITAL = Decimal(100_000)  # what the strategy says it began with, quote currency
POSITION_ORDERS_MAX = 4  # a position of more than so many usual orders is made smaller
REJECTED, CANCELED = 0.03, 0.05  # shares of orders that are not executed
REPORTERS = ("api", "dashboard", "mon-flat")  # whose reports tell of an order


@dataclass(frozen=True, slots=True)
class Quote:
    """Best prices of a symbol."""

    bid: Decimal
    ask: Decimal

    @property
    def mid(self) -> Decimal:
        return (self.bid + self.ask) / 2


@dataclass(slots=True)
class Position:
    """By average cost."""

    quantity: Decimal = ZERO  # base units, negative where short
    cost: Decimal = ZERO  # of the open quantity, quote currency; negative where short
    opened_ms: int = 0
    number: int = 0  # one more for each time it was opened

    @property
    def average(self) -> Decimal:
        return self.cost / self.quantity if self.quantity else ZERO

    def take(self, signed: Decimal, price: Decimal, time_ms: int) -> Decimal:
        """Execute a signed quantity; returns the realised PnL."""
        held, realized = self.quantity, ZERO
        if held * signed < 0:
            closed = min(abs(held), abs(signed)).copy_sign(held)
            realized = closed * price - closed * self.cost / held
            self.cost -= self.cost * closed / held
            self.quantity -= closed
            signed += closed
        if signed and not self.quantity:
            self.opened_ms, self.cost = time_ms, ZERO
            self.number += 1
        self.quantity += signed
        self.cost += signed * price
        return realized


@dataclass(frozen=True, slots=True)
class Order:
    order_id: str
    signal_id: str
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    time_ms: int
    reporter: str
    outcome: str  # FILLED, CANCELED, REJECTED


@dataclass(frozen=True, slots=True)
class Execution:
    """A part of an order that was executed."""

    order: Order
    fill_id: str
    quantity: Decimal
    price: Decimal
    commission: Decimal
    commission_asset: str
    realized: Decimal
    time_ms: int
    last: bool  # nothing of the order is left


@dataclass(slots=True)
class Trader:
    """What the strategy decides and holds.

    Args:
        run: goes into every id, so that another life of the strategy names nothing as this one did.
    """

    rng: random.Random
    symbols: list[str]
    notional: Decimal
    run: str
    positions: dict[str, Position] = field(default_factory=dict)
    realized: Decimal = ZERO
    wins: list[Decimal] = field(default_factory=list)  # realised PnL of executions that closed something
    losses: list[Decimal] = field(default_factory=list)
    orders: int = 0
    fills: int = 0
    peak: Decimal = CAPITAL
    drawdown: Decimal = ZERO  # the largest so far, a fraction of the peak

    def __post_init__(self) -> None:
        for symbol in self.symbols:
            self.positions.setdefault(symbol, Position())

    def order(self, quotes: Mapping[str, Quote], time_ms: int) -> Order | None:
        """The next order; None where the symbol that chance chose has no quote."""
        rng = self.rng
        symbol = rng.choice(self.symbols)
        wanted, against, part, buys = rng.uniform(0.3, 1.5), rng.random(), rng.randrange(3), rng.random() < 0.5
        reporter, outcome = rng.choice(REPORTERS), rng.random()
        quote = quotes.get(symbol)
        if quote is None:
            return None
        held = self.positions[symbol].quantity
        quantity = _short(self.notional * Decimal(wanted) / quote.mid)
        full = abs(held) * quote.mid > POSITION_ORDERS_MAX * self.notional
        if held and (full or against < 0.5):
            buys = held < 0
            quantity = (_short(abs(held) / 2), abs(held), abs(held) + quantity)[0 if full else part]
        self.orders += 1
        number = f"{self.run}-{self.orders}"
        return Order(
            f"o-{number}", f"sg-{number}", symbol, "BUY" if buys else "SELL", quantity,
            quote.ask if buys else quote.bid, time_ms, reporter,
            "REJECTED" if outcome < REJECTED else "CANCELED" if outcome < REJECTED + CANCELED else "FILLED",
        )  # fmt: skip

    def execute(self, order: Order, quotes: Mapping[str, Quote], time_ms: int) -> list[Execution]:
        """Execute an order at the quotes of now, in one part or two."""
        rng = self.rng
        in_two, in_asset = rng.random() < 0.25, rng.random() < 0.4
        quote = quotes[order.symbol]
        price = quote.ask if order.side == "BUY" else quote.bid
        first = _short(order.quantity * Decimal("0.6")) if in_two else order.quantity
        parts = [first, order.quantity - first] if 0 < first < order.quantity else [order.quantity]
        # flat reports name no commission asset
        rate = quotes.get(f"{FEE_ASSET}USDT") if in_asset and order.reporter != "mon-flat" else None
        found = []
        for number, quantity in enumerate(parts):
            fee = quantity * price * FEE_RATE
            signed = quantity if order.side == "BUY" else -quantity
            realized = self._take(order.symbol, signed, price, time_ms + number)
            self.fills += 1
            found.append(Execution(
                order, f"x-{self.run}-{self.fills}", quantity, price, (fee / rate.mid if rate else fee).quantize(UNIT),
                FEE_ASSET if rate else "USDT", realized, time_ms + number, number == len(parts) - 1,
            ))  # fmt: skip
        self._see(quotes)
        return found

    def _take(self, symbol: str, signed: Decimal, price: Decimal, time_ms: int) -> Decimal:
        position = self.positions[symbol]
        reduces = position.quantity * signed < 0
        realized = position.take(signed, price, time_ms)
        self.realized += realized
        if reduces:
            (self.wins if realized > 0 else self.losses).append(realized)
        return realized

    def _see(self, quotes: Mapping[str, Quote]) -> None:
        equity = CAPITAL + self.realized + self.unrealized(quotes)
        self.peak = max(self.peak, equity)
        self.drawdown = max(self.drawdown, (self.peak - equity) / self.peak)

    def unrealized(self, quotes: Mapping[str, Quote]) -> Decimal:
        """Of all positions at the quotes of now, quote currency."""
        return sum((self.value(symbol, quotes) - one.cost for symbol, one in self.held()), ZERO)

    def exposure(self, quotes: Mapping[str, Quote]) -> Decimal:
        """Market values without their signs, quote currency."""
        return sum((abs(self.value(symbol, quotes)) for symbol, _ in self.held()), ZERO)

    def value(self, symbol: str, quotes: Mapping[str, Quote]) -> Decimal:
        """Market value of a position; its cost where the symbol has no quote."""
        position, quote = self.positions[symbol], quotes.get(symbol)
        return position.quantity * quote.mid if quote else position.cost

    def held(self) -> list[tuple[str, Position]]:
        """Positions that are not flat, by symbol."""
        return [(symbol, position) for symbol, position in self.positions.items() if position.quantity]


def _short(value: Decimal) -> Decimal:
    """Three significant digits, at most eight decimals, without an exponent."""
    return max(UNIT, Decimal(f"{Decimal(f'{value:.3g}'):f}").quantize(UNIT)).normalize()
