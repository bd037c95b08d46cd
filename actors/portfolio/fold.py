"""The arithmetic of a position: one fill after the other, average cost, exact integers.

Quantities and prices are integers in units of 1e-8. Their product, and every sum of money here, is an integer in units
of 1e-16 (`VALUE_UNIT`), so that no cash is ever rounded. One division remains: a part of a position that is closed
takes its share of the cost with it, rounded half to even; what the rounding leaves stays in the cost of the rest. A
flat position therefore has cost 0, and its realised PnL is exactly what came in less what went out.

Money is in the *settlement currency*: the quote currency, or the base currency of an inverse contract, whose quantity
counts contracts worth a fixed amount of the quote currency. There the value of a long position falls as the price
rises, so it is kept with the other sign (see `Terms.value`) and everything else is the same.

A fold depends on nothing but the fills and their order, which is (event time, fill id) within a key: positions are a
pure function of the set of fills. What is not in a fill itself, the rate that its fee is converted with, is kept with
it.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from ...codecs.desk.money import UNIT, divide

VALUE_UNIT = UNIT * UNIT  # of money here
RATE_UNIT = 10**16  # of conversion rates
DAY_NS = 86_400 * 10**9

Order = tuple[int, str]  # what fills of a key are sorted by: event time in UNIX ns, fill id
FIRST: Order = (-(1 << 63), "")


class Terms(Struct, frozen=True, array_like=True):
    """What a quantity of an instrument is worth."""

    inverse: bool = False  # the quantity counts contracts of `contract_value` quote units, settled in the base
    contract_value: int = UNIT  # units of 1e-8; of a linear contract: base units of one unit of quantity

    def value(self, quantity: int, price: int) -> int:
        """Value of a quantity at a price, settlement currency, units of 1e-16; negative for an inverse long."""
        if self.inverse:
            return -divide(quantity * self.contract_value * VALUE_UNIT, price * UNIT) if price else 0
        if self.contract_value == UNIT:
            return quantity * price
        return divide(quantity * price * self.contract_value, UNIT)

    def average(self, quantity: int, cost: int) -> int:
        """Price at which a quantity is worth what it cost, units of 1e-8; 0 where flat."""
        if not quantity or not cost:
            return 0
        if self.inverse:
            return divide(quantity * self.contract_value * UNIT, -cost)
        return divide(cost * UNIT, quantity * self.contract_value)


class Execution(NamedTuple):
    """What of a fill is folded."""

    ts_ns: int  # when it happened, UNIX ns
    fill_id: str
    sell: bool
    quantity: int  # units of 1e-8, above 0
    price: int  # units of 1e-8
    commission: int = 0  # units of 1e-8 of `asset`; negative for a rebate
    asset: str = ""
    rate: int = RATE_UNIT  # settlement currency for one of `asset` at that time, units of 1e-16; 0 = not known
    claim: int | None = None  # realised PnL as the producer claims it, units of 1e-8
    variant: int = 0

    @property
    def order(self) -> Order:
        return self.ts_ns, self.fill_id


class State(Struct, array_like=True):
    """A position after a number of fills. Money in units of 1e-16 of the settlement currency, quantities of 1e-8."""

    quantity: int = 0  # negative where short
    cost: int = 0  # what the open quantity was bought for; negative where short; exactly 0 where flat
    realized: int = 0  # of all closed quantity, without fees
    fees: int = 0
    volume: int = 0  # value of all fills without their signs
    claimed: int = 0  # realised PnL that producers claim in their fills
    claimed_of: int = 0  # our realised PnL of just those fills
    fills: int = 0
    price: int = 0  # of the last fill, units of 1e-8
    ts_ns: int = 0  # of the last fill
    opened_ns: int = 0  # first fill of the open position; 0 where flat, and where it was there before the first fill
    trip_realized: int = 0  # since the position was last flat
    trip_fees: int = 0
    gross_profit: int = 0  # of winning round trips, after fees
    gross_loss: int = 0  # of losing ones, without its sign
    largest_win: int = 0
    largest_loss: int = 0  # without its sign
    wins: int = 0
    losses: int = 0
    holding_ns: int = 0  # sum of the lengths of all round trips; of one that began before the first fill none is known

    def copy(self) -> State:
        return State(*(getattr(self, name) for name in self.__struct_fields__))

    def unrealized(self, terms: Terms, price: int) -> int:
        """Of the open quantity at a price."""
        return terms.value(self.quantity, price) - self.cost if self.quantity else 0

    def equity(self, terms: Terms) -> int:
        """What the key has earned so far, after fees, with what is open valued at the price of the last fill."""
        return self.realized - self.fees + self.unrealized(terms, self.price)


def opened(quantity: int, price: int, ts_ns: int, terms: Terms) -> State:
    """The state of a position that was there before the first fill. No fill, no fee, no volume."""
    cost = terms.value(quantity, price)
    return State(quantity=quantity, cost=cost, price=price, ts_ns=ts_ns, opened_ns=ts_ns if quantity else 0)


def fold(state: State, execution: Execution, terms: Terms) -> None:
    """Add one fill to a position.

    A round trip lasts from flat to flat; a fill that turns a position over ends one and begins the next, and its fee is
    divided between them by quantity. A round trip whose realised PnL exceeds its fees is a win, one below them a loss;
    one that comes out even is neither.
    """
    ts_ns, _, sell, quantity, price, commission, _, rate, claim, _ = execution
    signed = -quantity if sell else quantity
    value = terms.value(signed, price)
    fee = divide(commission * rate, UNIT) if commission else 0
    state.fills += 1
    state.price, state.ts_ns = price, ts_ns
    state.fees += fee
    state.volume += abs(value)
    held = state.quantity
    realized = 0
    if held and (held > 0) != (signed > 0):
        open_quantity = abs(held)
        if quantity < open_quantity:
            released = divide(state.cost * quantity, open_quantity)
            realized = -value - released
            state.cost -= released
            state.quantity = held + signed
            state.trip_realized += realized
            state.trip_fees += fee
            signed = 0
        else:
            closing = terms.value(-held, price)
            closing_fee = divide(fee * open_quantity, quantity)
            realized = -closing - state.cost
            state.trip_realized += realized
            state.trip_fees += closing_fee
            _end_trip(state, ts_ns)
            signed += held
            value -= closing
            fee -= closing_fee
        state.realized += realized
    if signed:
        if not state.quantity:
            state.opened_ns = ts_ns
        state.quantity += signed
        state.cost += value
        state.trip_fees += fee
    if claim is not None:
        state.claimed += claim
        state.claimed_of += realized


def _end_trip(state: State, ts_ns: int) -> None:
    """Flat: count the round trip and begin anew."""
    profit = state.trip_realized - state.trip_fees
    if profit > 0:
        state.wins += 1
        state.gross_profit += profit
        state.largest_win = max(state.largest_win, profit)
    elif profit < 0:
        state.losses += 1
        state.gross_loss -= profit
        state.largest_loss = max(state.largest_loss, -profit)
    state.holding_ns += max(0, ts_ns - state.opened_ns) if state.opened_ns else 0
    state.quantity = state.cost = state.trip_realized = state.trip_fees = state.opened_ns = 0


def to_units(value: int) -> int:
    """Units of 1e-16 to units of 1e-8, half to even."""
    return divide(value, UNIT)
