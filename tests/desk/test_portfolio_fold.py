"""The arithmetic of a position, against fractions."""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickring.actors.portfolio import statistics
from tickring.actors.portfolio.fold import RATE_UNIT, VALUE_UNIT, Execution, State, Terms, fold, opened, to_units
from tickring.codecs.desk.money import UNIT

from .messages import TrueFill, true_fills
from .portfolio_oracle import Oracle, fold_all, telling_of

PLAIN = Terms()
DAY = 86_400 * 10**9


def run(*trades: tuple[int | str, str], terms: Terms = PLAIN, fee: str = "0") -> State:
    """Signed quantities at prices, a second apart."""
    state = State()
    for n, (quantity, price) in enumerate(trades, 1):
        signed = Decimal(quantity)
        execution = Execution(
            n * 10**9, str(n), signed < 0, int(abs(signed) * UNIT), int(Decimal(price) * UNIT), int(Decimal(fee) * UNIT)
        )
        fold(state, execution, terms)
    return state


def money(value: int) -> Decimal:
    return Decimal(value) / VALUE_UNIT


def test_long_position_closed_in_parts_realizes_by_average_cost():
    state = run((2, "100"), (2, "110"), (-1, "120"))
    assert (state.quantity, money(state.cost), money(state.realized)) == (3 * UNIT, 315, 15)
    assert PLAIN.average(state.quantity, state.cost) == 105 * UNIT


def test_short_position_earns_when_price_falls():
    state = run((-4, "50"), (1, "40"))
    assert (state.quantity, money(state.cost), money(state.realized)) == (-3 * UNIT, -150, 10)
    assert state.unrealized(PLAIN, 45 * UNIT) == 15 * VALUE_UNIT


def test_flip_through_zero_ends_one_trip_and_begins_another():
    state = run((1, "100"), (-3, "110"), (2, "105"), fee="0.3")
    assert state.quantity == state.cost == state.opened_ns == 0
    assert money(state.realized) == 20
    # the flip's fee belongs for a third to the first trip: 10 - 0.3 - 0.1 and 10 - 0.2 - 0.3
    assert (state.wins, state.losses, money(state.gross_profit)) == (2, 0, Decimal("19.1"))
    assert state.holding_ns == 2 * 10**9


def test_division_remainder_stays_in_the_cost_until_flat():
    state = run((3, "0.00000001"), (-1, "1"), (-1, "1"))
    assert money(state.cost) == Decimal("0.00000001")
    state = run(("3", "0.1"), ("0.00000007", "0.3"), ("-0.00000013", "0.7"), ("-2.99999994", "0.7"))
    assert state.quantity == state.cost == 0
    cash = sum(Decimal(q) * Decimal(p) for q, p in (
        ("-3", "0.1"), ("-0.00000007", "0.3"), ("0.00000013", "0.7"), ("2.99999994", "0.7"),
    ))  # fmt: skip
    assert money(state.realized) == cash


def test_inverse_contract_settles_in_base_currency():
    terms = Terms(inverse=True, contract_value=100 * UNIT)
    state = run((10, "50000"), terms=terms)
    assert terms.average(state.quantity, state.cost) == 50_000 * UNIT
    assert money(state.unrealized(terms, 60_000 * UNIT)) == Decimal("0.0033333333333333")
    state = run((10, "50000"), (-25, "60000"), (15, "50000"), terms=terms)
    assert state.quantity == state.cost == 0
    exact = 1000 * (Fraction(1, 50_000) - Fraction(1, 60_000)) + 1500 * (Fraction(1, 50_000) - Fraction(1, 60_000))
    assert abs(Fraction(state.realized, VALUE_UNIT) - exact) <= Fraction(4, VALUE_UNIT)


def test_linear_contract_counts_by_its_value():
    state = run((5, "100"), (-5, "110"), terms=Terms(contract_value=UNIT // 100))
    assert money(state.realized) == Decimal("0.5")


def test_opening_position_is_no_fill_and_costs_no_fee():
    state = opened(-2 * UNIT, 100 * UNIT, 0, PLAIN)
    assert state.equity(PLAIN) == 0
    fold(state, Execution(10, "a", False, 2 * UNIT, 90 * UNIT), PLAIN)
    assert (state.quantity, money(state.realized), state.fills, state.wins) == (0, 20, 1, 1)
    assert state.holding_ns == 0  # nobody knows since when it was held


def test_fee_in_another_asset_is_converted_by_the_rate_it_came_with():
    state = State()
    fold(state, Execution(0, "a", False, UNIT, UNIT, 1000, "BNB", 600 * RATE_UNIT), PLAIN)
    assert to_units(state.fees) == 600_000
    fold(state, Execution(1, "b", True, UNIT, UNIT, 1000, "BNB", 0), PLAIN)
    assert to_units(state.fees) == 600_000


def test_quantities_of_5e11_stay_exact():
    state = run(("500000000000.00000001", "0.00000714"), ("-499999999999.00000001", "0.00000715"), ("-1", "0.00000713"))
    assert state.quantity == state.cost == 0
    assert money(state.realized) == (
        Decimal("499999999999.00000001") * Decimal("0.00000715")
        + Decimal("0.00000713")
        - Decimal("500000000000.00000001") * Decimal("0.00000714")
    )


@pytest.mark.parametrize("seed", range(12))
def test_streams_of_fills_agree_with_fractions(seed):
    fills = list(true_fills(random.Random(seed), 400))
    states: dict[tuple[str, str, str, str], State] = {}
    for fill in fills:
        key, execution, rate = telling_of(fill, "api")
        assert rate is not None
        fold(states.setdefault(key, State()), execution._replace(rate=rate), PLAIN)
    for key, oracle in fold_all(fills).items():
        assert_agrees(states[key], oracle)


def assert_agrees(state: State, oracle: Oracle) -> None:
    """Equal where nothing is divided, and to a unit of 1e-16 for each fill elsewhere."""
    off = Fraction(state.fills + 1, VALUE_UNIT)
    assert Fraction(state.quantity, UNIT) == oracle.quantity
    assert Fraction(state.fees, VALUE_UNIT) == oracle.fees
    assert abs(Fraction(state.realized, VALUE_UNIT) - oracle.realized) <= off
    assert abs(Fraction(state.cost, VALUE_UNIT) - oracle.quantity * oracle.average) <= off
    # what nothing takes away: realised PnL and cost are the cash that went through, to the last digit
    assert Fraction(state.realized - state.cost, VALUE_UNIT) == oracle.cash
    clear = [trip for trip in oracle.trips if abs(trip) > off]
    assert state.wins >= sum(trip > 0 for trip in clear)
    assert state.losses >= sum(trip < 0 for trip in clear)
    assert state.wins + state.losses <= len(oracle.trips)
    profit = sum((trip for trip in oracle.trips if trip > 0), Fraction(0))
    assert abs(Fraction(state.gross_profit, VALUE_UNIT) - profit) <= off


amounts = st.integers(1, 5 * 10**19)
trades = st.tuples(st.booleans(), amounts, st.integers(1, 10**13), st.integers(0, 10**10))


@settings(max_examples=150, deadline=None)
@given(st.lists(trades, max_size=40))
def test_any_trades_keep_cash_and_agree_with_fractions(found):
    state, oracle = State(), Oracle()
    for n, (sell, quantity, price, fee) in enumerate(found):
        fold(state, Execution(n, str(n), sell, quantity, price, fee), PLAIN)
        oracle.add(TrueFill(
            "a", "s", "v", str(n), "", "X", "SELL" if sell else "BUY", Decimal(quantity).scaleb(-8),
            Decimal(price).scaleb(-8), Decimal(fee).scaleb(-8), "USDT", n,
        ))  # fmt: skip
    assert_agrees(state, oracle)
    if not state.quantity:
        assert state.cost == 0
        assert Fraction(state.realized, VALUE_UNIT) == oracle.cash


def test_statistics_of_known_series():
    assert statistics.win_rate(3, 1) == 0.75
    assert statistics.win_rate(0, 0) == 0
    assert statistics.profit_factor(30, 20) == 1.5
    assert statistics.profit_factor(30, 0) == 0
    assert statistics.sharpe_ratio([1, 2, 3]) == pytest.approx(2 * 365**0.5)
    assert statistics.sharpe_ratio([5]) == statistics.sharpe_ratio([5, 5]) == 0
    assert statistics.drawdown(1000, 500, 300) == pytest.approx(200 / 1500)
    assert statistics.drawdown(0, 0, -5) == 0
    assert statistics.equities({3: 10, 5: -4}, {4: 1}, 6) == (3, [10, 11, 6, 6])
    assert statistics.equities({}, {}, 6) == (6, [])
