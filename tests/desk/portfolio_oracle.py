"""A second opinion on positions: plain fractions, an average price instead of a cost, and nothing shared with ours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from tickring.actors.portfolio.book import Telling
from tickring.actors.portfolio.fold import RATE_UNIT, Execution
from tickring.codecs.desk.canonical import VARIANTS

from .messages import Message, TrueFill

UNIT = 10**8
BNB = 600


def units(value: Decimal) -> int:
    """An amount in units of 1e-8; test data has no more decimals."""
    scaled = value.scaleb(8)
    assert scaled == scaled.to_integral_value(), value
    return int(scaled)


def telling_of(fill: TrueFill, variant: str) -> Telling:
    """What our side is given of a true fill, with the rate of its fee."""
    execution = Execution(
        fill.time_ms * 1_000_000, fill.fill_id, fill.side == "SELL", units(fill.quantity), units(fill.price),
        units(fill.commission), fill.commission_asset, 0, None, VARIANTS.index(variant),
    )  # fmt: skip
    rate = BNB * RATE_UNIT if fill.commission_asset == "BNB" else RATE_UNIT
    return Telling((fill.account, fill.strategy, fill.venue, fill.symbol), execution, rate)


def tellings_of(messages: Iterable[Message]) -> list[Telling]:
    return [telling_of(fill, message.variant) for message in messages for fill in message.fills]


def true_set(messages: Iterable[Message]) -> list[TrueFill]:
    """Each fill once, in the order of a fold."""
    once = {fill.key: fill for message in messages for fill in message.fills}
    return sorted(once.values(), key=lambda fill: (fill.time_ms, fill.venue, fill.fill_id))


@dataclass
class Oracle:
    """One position."""

    quantity: Fraction = Fraction(0)
    average: Fraction = Fraction(0)
    realized: Fraction = Fraction(0)
    fees: Fraction = Fraction(0)
    cash: Fraction = Fraction(0)  # in less out, without fees
    trip: Fraction = Fraction(0)  # of the open round trip, after fees
    trips: list[Fraction] = field(default_factory=list)
    fills: int = 0

    def add(self, fill: TrueFill) -> None:
        """Add a fill."""
        price, quantity = Fraction(fill.price), Fraction(fill.quantity)
        fee = Fraction(fill.commission) * (BNB if fill.commission_asset == "BNB" else 1)
        sign = 1 if fill.side == "BUY" else -1
        self.fills += 1
        self.fees += fee
        self.cash -= sign * quantity * price
        if self.quantity * sign < 0:
            part = min(quantity, abs(self.quantity))
            gain = part * (price - self.average) * -sign
            self.realized += gain
            self.trip += gain - fee * part / quantity
            self.quantity += sign * part
            if not self.quantity:
                self.trips.append(self.trip)
                self.average = self.trip = Fraction(0)
            fee, quantity = fee * (quantity - part) / quantity, quantity - part
        if quantity:
            value = self.average * self.quantity + sign * quantity * price
            self.quantity += sign * quantity
            self.average = value / self.quantity
            self.trip -= fee


def fold_all(fills: Iterable[TrueFill]) -> dict[tuple[str, str, str, str], Oracle]:
    """All positions of a set of fills in order."""
    found: dict[tuple[str, str, str, str], Oracle] = {}
    for fill in fills:
        found.setdefault((fill.account, fill.strategy, fill.venue, fill.symbol), Oracle()).add(fill)
    return found


def rounded(value: Fraction) -> int:
    """In units of 1e-8, half to even."""
    return round(value * UNIT)
