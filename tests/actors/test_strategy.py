"""The demo's strategy: what it decides, its own book, and what it tells of both."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from tickring.actors.strategy.told import ALERTS, Message, Teller
from tickring.actors.strategy.trader import Execution, Order, Quote, Trader
from tickring.codecs.desk.canonical import DEFAULT_ACCOUNT, DEFAULT_STRATEGY
from tickring.codecs.desk.decoder import Defaults, decoder

from ..desk.messages import TrueFill
from ..desk.portfolio_oracle import Oracle

SYMBOLS = ["BTCUSDT", "ETHUSDT", "XRPUSDT"]
START = {"BTCUSDT": Decimal(61_800), "ETHUSDT": Decimal(2650), "XRPUSDT": Decimal("0.61"), "BNBUSDT": Decimal(512)}
START_MS = 1_795_000_000_000
SOME = 300


def market(seed: int) -> Iterator[tuple[dict[str, Quote], int]]:
    """Quotes that wander, and a time for each."""
    rng, time_ms = random.Random(seed), START_MS
    while True:
        time_ms += rng.randint(100, 900)
        mids = {symbol: price * Decimal(f"{rng.uniform(0.97, 1.03):.4f}") for symbol, price in START.items()}
        yield {symbol: Quote(mid * Decimal("0.9999"), mid * Decimal("1.0001")) for symbol, mid in mids.items()}, time_ms


def trades(seed: int, count: int = SOME, run: str = "r") -> tuple[Trader, list[tuple[Order, list[Execution]]]]:
    trader = Trader(random.Random(seed), SYMBOLS, Decimal(2000), run)
    found = []
    for quotes, time_ms in market(seed):
        order = trader.order(quotes, time_ms)
        assert order is not None
        found.append((order, trader.execute(order, quotes, time_ms) if order.outcome == "FILLED" else []))
        if len(found) == count:
            return trader, found
    raise AssertionError


def true_fill(one: Execution) -> TrueFill:
    return TrueFill(
        DEFAULT_ACCOUNT, DEFAULT_STRATEGY, "binance", one.fill_id, one.order.order_id, one.order.symbol,
        one.order.side, one.quantity, one.price, one.commission, one.commission_asset, one.time_ms,
    )  # fmt: skip


def test_trader_of_one_seed_decides_the_same_again() -> None:
    (_, first), (_, again), (_, other) = trades(5), trades(5), trades(6)
    assert first == again
    assert first != other


def test_trader_of_another_life_gives_other_ids() -> None:
    ids = [{one.fill_id for _, parts in trades(5, run=run)[1] for one in parts} for run in ("a", "b")]
    assert ids[0] and not ids[0] & ids[1]


def test_trader_goes_long_and_short_turns_over_and_ends_flat() -> None:
    sides, turned, flat, held = set(), 0, 0, dict.fromkeys(SYMBOLS, Decimal(0))
    for _, parts in trades(1)[1]:
        for one in parts:
            before = held[one.order.symbol]
            after = before + (one.quantity if one.order.side == "BUY" else -one.quantity)
            held[one.order.symbol] = after
            sides.add(after > 0) if after else None
            turned += before * after < 0
            flat += bool(before) and not after
    assert sides == {True, False} and turned > 5 and flat > 5


def test_trader_pays_fees_in_both_assets_and_flat_reports_only_in_the_quote_currency() -> None:
    paid = {(one.order.reporter, one.commission_asset) for _, parts in trades(1)[1] for one in parts}
    assert paid == {("api", "USDT"), ("api", "BNB"), ("dashboard", "USDT"), ("dashboard", "BNB"), ("mon-flat", "USDT")}


def test_book_of_the_trader_equals_an_independent_fold() -> None:
    trader, found = trades(2)
    oracles = {symbol: Oracle() for symbol in SYMBOLS}
    for _, parts in found:
        for one in parts:
            oracles[one.order.symbol].add(true_fill(one))
    for symbol, oracle in oracles.items():
        position = trader.positions[symbol]
        assert Fraction(position.quantity) == oracle.quantity
        assert abs(Fraction(position.average) - oracle.average) < Fraction(1, 10**12)
    assert abs(Fraction(trader.realized) - sum(one.realized for one in oracles.values())) < Fraction(1, 10**12)


def told(seed: int) -> Iterator[Message]:
    """One of everything that the strategy can tell, and all of its executions."""
    trader = Trader(random.Random(seed), SYMBOLS, Decimal(2000), "r")
    teller = Teller(trader, DEFAULT_ACCOUNT, DEFAULT_STRATEGY, START_MS)
    yield teller.performance(START_MS)  # of nothing yet
    for count, (quotes, time_ms) in enumerate(market(seed)):
        order = trader.order(quotes, time_ms)
        assert order is not None
        yield teller.signal(order, 0.7)
        yield from teller.order(order, "NEW", time_ms)
        if order.outcome == "FILLED":
            parts = trader.execute(order, quotes, time_ms)
            yield from teller.executions(order, parts)
            yield teller.position(order.symbol, parts[-1].realized, quotes, time_ms)
        else:
            yield from teller.order(order, order.outcome, time_ms)
        for message in (teller.risk, teller.risk_of_portfolio, teller.balance):
            yield message(quotes, time_ms)
        yield teller.health(time_ms)
        yield teller.performance(time_ms)
        yield teller.alert("al-1", ALERTS[count % len(ALERTS)], order.symbol, bool(count % 2), time_ms)
        if count == SOME:
            return


def test_everything_the_strategy_tells_is_understood() -> None:
    defaults = Defaults(DEFAULT_ACCOUNT, DEFAULT_STRATEGY)
    variants: dict[str, set[str]] = {}
    fills = 0
    for offset, (topic, _, body) in enumerate(told(3)):
        event = decoder(topic, defaults)(json.dumps(body).encode(), 0, offset, START_MS)
        variants.setdefault(topic, set()).add(event.variant)
        assert not event.rounded, body
        fills += len(getattr(event, "fills", ()))
    assert variants["exec.reports.v1"] == {"api", "dashboard", "mon-flat"} == variants["risk.metrics.v1"]
    assert set(variants) == {
        "exec.reports.v1", "risk.metrics.v1", "alerts.v1", "system.health.v1", "strategy.performance.v1",
        "trade.signals.v1", "position.updates.v1",
    }  # fmt: skip
    assert fills > SOME / 2


def test_told_fills_are_those_that_were_executed() -> None:
    trader, found = trades(4)
    teller = Teller(trader, DEFAULT_ACCOUNT, DEFAULT_STRATEGY, START_MS)
    decode = decoder("exec.reports.v1", Defaults(DEFAULT_ACCOUNT, DEFAULT_STRATEGY))
    for order, parts in found:
        if not parts:
            continue
        events = [
            decode(json.dumps(body).encode(), 0, n, START_MS)
            for n, (_, _, body) in enumerate(teller.executions(order, parts))
        ]
        fills = [fill for event in events for fill in event.fills]
        assert [
            (fill.fill_id, fill.symbol, fill.side, Decimal(fill.quantity).scaleb(-8), fill.commission_asset,
             Decimal(fill.commission).scaleb(-8), fill.timestamp) for fill in fills
        ] == [
            (one.fill_id, order.symbol, order.side, one.quantity, one.commission_asset, one.commission,
             one.time_ms * 1_000_000) for one in parts
        ]  # fmt: skip
