"""What positions are valued at, and what fees are converted with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.actors.portfolio.book import Position
from tickring.actors.portfolio.config import Config, Contract
from tickring.actors.portfolio.fold import FIRST, RATE_UNIT, Execution, State, Terms
from tickring.actors.portfolio.marks import EVENT, FILL, QUOTE, Marks
from tickring.actors.portfolio.statements import Statements
from tickring.codecs.desk.canonical import MarketData
from tickring.codecs.desk.money import UNIT
from tickring.codecs.records import QUOTE as QUOTES
from tickring.codecs.symbols import Instrument

from .desk_rig import DeskProducer, Topic

NOW = time.time_ns()


class Feed(DeskProducer):
    def __init__(self, shm: Path, product: str) -> None:
        super().__init__(shm, f"feed-binance-{product}-0", (QUOTES,))
        self.product = product

    def quote(self, base: str, quote: str, bid: float, ask: float, **more: Any) -> None:
        one = Instrument(
            exchange="binance", product=self.product, base=base, quote=quote,
            **{"native": f"{base}{quote}", "market_type": "spot" if self.product == "spot" else "perpetual", **more},
        )  # fmt: skip
        key_id = self.key(one.key, **one.attributes())
        self.publish["quote"](key_id, NOW, NOW, 0, bid, 1.0, ask, 1.0)


@pytest.fixture
def feeds(shm: Path) -> Iterator[dict[str, Feed]]:
    """Quotes of two markets."""
    made = {product: Feed(shm, product) for product in ("spot", "usdm", "coinm")}
    made["spot"].quote("BTC", "USDT", 100.0, 102.0)
    made["spot"].quote("BNB", "USDT", 500.0, 500.0)
    made["usdm"].quote("BTC", "USDT", 110.0, 112.0)
    made["usdm"].quote("ONLY", "USDT", 5.0, 7.0)
    made["coinm"].quote("BTC", "USD", 120.0, 120.0, native="BTCUSD_PERP", inverse=True, contract_value=100.0)
    yield made
    for feed in made.values():
        feed.close()


@pytest.fixture
def marks(shm: Path, feeds: dict[str, Feed]) -> Iterator[Marks]:
    found = Marks(shm, Config(rates={"XAU-USDT": "2000", "USDT-XYZ": "4"}))
    yield found
    found.close()


def position(symbol: str, venue: str = "binance", terms: Terms = Terms(), **state: int) -> Position:  # noqa: B008
    return Position(1, ("a", "s", venue, symbol), terms, State(), State(**state), FIRST)


@pytest.mark.parametrize(
    ("venue", "symbol", "price"),
    [
        ("binance", "BTCUSDT", 101), ("binance", "BTC-USDT", 101), ("Binance", "btc/usdt", 101),
        ("binance", "BTC_USDT", 101), ("binance", "BTC-USDT-PERP", 111), ("BINANCE_FUTURES", "BTCUSDT", 111),
        ("paper", "BTCUSDT", 101), ("binance", "BTCUSD_PERP", 120), ("binance", "ONLYUSDT", 6),
        ("binance", "ONLY-USDT", 6), ("binance", "only/usdt", 6), ("binance", "BTC/USDT:USDT", 111),
    ],
)  # fmt: skip
def test_symbol_in_any_form_finds_its_quotes(marks, venue, symbol, price):
    found = marks.mark(position(symbol, venue))
    assert (found.price, found.kind, found.seen_ns) == (price * UNIT, QUOTE, NOW)


def test_perpetual_quotes_value_plain_symbols_where_configured(shm, feeds):
    marks = Marks(shm, Config(mark_market="perpetual"))
    assert marks.mark(position("BTCUSDT")).price == 111 * UNIT
    marks.close()


def test_inverse_contract_does_not_value_a_pair(marks):
    assert marks.mark(position("BTC-USD", price=90 * UNIT)).price == 90 * UNIT
    assert marks.terms("binance", "BTC-USD") == (Terms(), False)


def test_symbol_without_quotes_takes_the_newest_of_event_and_fill(marks):
    one = position("ZZZUSDT", price=3 * UNIT, ts_ns=100)
    assert marks.mark(one) == (3 * UNIT, 100, FILL)
    marks.told("ZZZ-USDT", 4 * UNIT, 99)
    assert marks.mark(one) == (3 * UNIT, 100, FILL)
    marks.told("ZZZ-USDT", 5 * UNIT, 101)
    marks.told("ZZZ-USDT", 6 * UNIT, 100)  # an older one
    assert marks.mark(one) == (5 * UNIT, 101, EVENT)


def test_price_of_the_future_is_replaced_by_the_next(shm, marks):
    topic, now = Topic(shm, "market.data.v1"), time.time_ns()
    statements = Statements(shm, marks.told, lambda *_: None)
    held = position("SOLUSDT", "nasdaq", ts_ns=now - 1)
    for ahead_ns, price in ((3600 * 10**9, 90 * UNIT), (0, 100 * UNIT)):
        ts_ns = time.time_ns() + ahead_ns
        topic.say(MarketData(event_id=f"e{price}", timestamp=ts_ns, variant="api", symbol="SOLUSDT", price=price))
        statements.refresh()
        statements.read()
        mark = marks.mark(held)
        assert mark.price == price
        assert now <= mark.seen_ns <= time.time_ns()
    statements.close()
    topic.close()


def test_quotes_that_appear_later_are_found(shm, feeds, marks):
    assert marks.mark(position("NEWUSDT", price=UNIT)).kind == FILL
    feeds["spot"].quote("NEW", "USDT", 2.0, 2.0)
    marks.refresh()
    assert marks.mark(position("NEWUSDT", price=UNIT)).price == 2 * UNIT


def test_terms_are_those_configured_else_those_of_the_instrument(shm, feeds, marks):
    assert marks.terms("binance", "BTCUSD_PERP") == (Terms(True, 100 * UNIT), False)
    assert marks.terms("binance", "BTCUSDT") == (Terms(), False)
    other = Marks(shm, Config(contracts=[Contract(symbol="BTCUSDT", value="0.01")]))
    assert other.terms("binance", "BTCUSDT") == (Terms(False, UNIT // 100), True)
    other.close()


def fill(ts_ns: int = NOW, price: int = 100) -> Execution:
    return Execution(ts_ns, "f", False, UNIT, price * UNIT)


@pytest.mark.parametrize(
    ("asset", "ts_ns", "rate"),
    [
        ("USDT", NOW, 1), ("", NOW, 1), ("USDC", NOW, 1),  # one to one
        ("BTC", NOW - 10**18, 100),  # the fill's own price
        ("BNB", NOW, 500),  # the quotes of now
        ("BNB", NOW - 10**18, 500),  # and they are better than nothing
        ("XAU", NOW, 2000), ("NOPE", NOW, 0),
    ],
    ids=["settlement", "none", "same", "base", "now", "long-ago", "configured", "unknown"],
)  # fmt: skip
def test_fee_is_converted_with_the_best_rate_known(marks, asset, ts_ns, rate):
    assert marks.fee_rate(asset, position("BTCUSDT"), fill(ts_ns), NOW) == rate * RATE_UNIT


def test_fee_of_an_old_fill_takes_the_last_fill_of_its_pair(marks):
    marks.traded(position("BNBUSDT", price=400 * UNIT, ts_ns=5))
    assert marks.fee_rate("BNB", position("BTCUSDT"), fill(NOW - 10**18), NOW) == 400 * RATE_UNIT
    assert marks.fee_rate("BNB", position("BTCUSDT"), fill(NOW), NOW) == 500 * RATE_UNIT
    # nor is a quote of long ago the rate of a fill of now
    later = NOW + 3 * 86_400 * 10**9
    assert marks.fee_rate("BNB", position("BTCUSDT"), fill(later), later) == 400 * RATE_UNIT
    # and in the settlement currency of an inverse contract
    inverse = position("BTCUSD_PERP", terms=Terms(True, 100 * UNIT))
    assert marks.fee_rate("BTC", inverse, fill(), NOW) == RATE_UNIT
    assert marks.fee_rate("USDT", inverse, fill(), NOW) == RATE_UNIT // 100


def test_settlement_currencies_are_converted_either_way_round(marks):
    assert marks.rate("USDC") == RATE_UNIT
    assert marks.rate("BTC") == 101 * RATE_UNIT
    assert marks.rate("XYZ") == RATE_UNIT // 4
    assert marks.rate("NOPE") == marks.rate("") == 0
