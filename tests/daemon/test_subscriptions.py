"""Subscriptions over a configuration, without processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tickring.actors.feed.config import Config as FeedConfig
from tickring.actors.feed.keys import cache_path, save_instruments
from tickring.actors.feed.protocol import streams_of
from tickring.codecs.symbols import Instrument
from tickring.daemon.errors import ConfigError, FolderUnusable, NotConfigured, NotReady, UnknownName
from tickring.daemon.loading import check, parse
from tickring.daemon.markets import feed_shards
from tickring.daemon.plan import Plan, make_plan
from tickring.daemon.subscriptions import FILE, Subscriptions

SPOT = {"symbols": ["BTC-USDT", "ETH-USDT"], "channels": ["trade", "quote"]}
USDM = {"symbols": ["BTC-USDT-PERP"], "channels": ["agg_trade", "book"]}


def listed(data: Path) -> None:
    spot = [("BTC", "USDT"), ("ETH", "USDT"), ("SOL", "USDT"), ("USDT", "USD")]
    for product, market_type in (("spot", "spot"), ("usdm", "perpetual")):
        save_instruments(cache_path(data, "binance", product), [
            Instrument(exchange="binance", product=product, native=base + quote, base=base, quote=quote,
                       market_type=market_type) for base, quote in spot
        ])  # fmt: skip


def subscriptions(tmp_path: Path, *, spot: Any = SPOT, usdm: Any = USDM) -> Subscriptions:
    markets = {name: market for name, market in (("spot", spot), ("usdm", usdm)) if market}
    raw = {"instance": {"folder": str(tmp_path), "data": str(tmp_path)}, "exchanges": {"binance": markets}}
    return Subscriptions(check(raw, "test"), lambda settings: make_plan(settings, "test"))


def carried(plan: Plan) -> dict[str, dict[str, list[str]]]:
    return {
        actor.name: {symbol: list(actor.config.channels_of(symbol)) for symbol in actor.config.symbols}
        for actor in plan.actors
        if actor.kind == "feed"
    }  # fmt: skip


def change(over: Subscriptions, action: str, symbols: list[str], *data_types: str, **more: str) -> list[dict[str, Any]]:
    """Carry a request out; the symbols as they are then."""
    request = {"exchange": "binance", "action": action, "symbols": symbols, "data_types": list(data_types), **more}
    wanted = over.change(request)
    plan = wanted.plan()
    assert plan.adopt is not None
    plan.adopt()
    return wanted.now()


@pytest.fixture
def over(tmp_path: Path) -> Subscriptions:
    listed(tmp_path)
    return subscriptions(tmp_path)


def test_symbol_with_other_channels_stays_with_its_shard_and_the_feed_has_what_any_of_them_has(over):
    change(over, "subscribe", ["solusdt"], "orderbook")
    change(over, "subscribe", ["ETH/USDT"], "kline")
    change(over, "unsubscribe", ["BTC-USDT"], "quote")
    plan = over.plan()
    assert carried(plan)["feed-binance-spot-0"] == {
        "BTC-USDT": ["trade"], "ETH-USDT": ["trade", "quote", "kline"], "SOL-USDT": ["book"],
    }  # fmt: skip
    [feed] = [actor.config for actor in plan.actors if actor.name == "feed-binance-spot-0"]
    assert feed.channels == ["trade", "quote", "book", "kline"] or set(feed.channels) == {
        "trade", "quote", "book", "kline",
    }  # fmt: skip
    streams = streams_of(feed, {symbol: symbol.replace("-", "") for symbol in feed.symbols})
    assert sorted(streams) == [
        "btcusdt@trade", "ethusdt@bookTicker", "ethusdt@kline_1m", "ethusdt@trade", "solusdt@depth@100ms",
    ]  # fmt: skip


def test_what_is_as_the_file_says_again_leaves_nothing_behind(over):
    change(over, "subscribe", ["SOL-USDT"])
    assert change(over, "unsubscribe", ["BTC-USDT-PERP"], "trades", "orderbook")[0]["channels"] == []
    kept = json.loads((over.path).read_text())
    assert kept == {
        "binance.spot": {"SOL-USDT": {"added": ["trade", "quote"]}},
        "binance.usdm": {"BTC-USDT-PERP": {"removed": ["agg_trade", "book"]}},
    }
    assert [name for name in carried(over.plan()) if "usdm" in name] == [], "a feed for nothing"
    change(over, "unsubscribe", ["SOL-USDT"])
    assert change(over, "subscribe", ["BTC-USDT-PERP"])[0]["channels"] == ["agg_trade", "book"]
    assert json.loads(over.path.read_text()) == {}
    assert over.overlay == {}


def test_change_of_the_file_counts_for_what_was_not_subscribed(over, tmp_path):
    change(over, "subscribe", ["SOL-USDT"], "trade")
    change(over, "unsubscribe", ["ETH-USDT"], "quote")
    changed = subscriptions(tmp_path, spot={**SPOT, "channels": ["trade", "quote", "ticker"]})
    assert carried(changed.plan())["feed-binance-spot-0"] == {
        "BTC-USDT": ["trade", "quote", "ticker"], "ETH-USDT": ["trade", "ticker"], "SOL-USDT": ["trade"],
    }  # fmt: skip
    without = subscriptions(tmp_path, spot=None)
    assert all("usdm" in name for name in carried(without.plan())), "a market that the file does not have any more"


def test_names_of_futures_alone_mean_the_perpetual(over):
    [now] = change(over, "subscribe", ["BTCUSDT"], "funding_rate", "open_interest", "liquidation")
    assert (now["instrument"], now["market_type"]) == ("BTC-USDT-PERP", "perpetual")
    assert now["channels"] == ["agg_trade", "book", "mark_price", "open_interest", "liquidation"]
    feeds = carried(over.plan())
    assert feeds["feed-binance-usdm-public-0"] == {"BTC-USDT-PERP": ["book"]}
    market = feeds["feed-binance-usdm-market-0"]["BTC-USDT-PERP"]
    assert market == ["agg_trade", "mark_price", "open_interest", "liquidation"]


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        ({"symbols": ["NOPEUSDT"]}, UnknownName, "'NOPEUSDT' is not listed on binance"),
        ({"symbols": ["BTC-USDT", "!"]}, UnknownName, "names no instrument"),
        ({"data_types": ["trade", "tirade"]}, UnknownName, "data type 'tirade': expected one of agg_trade"),
        ({"data_types": ["trade", "funding"]}, UnknownName, "BTC-USDT is a spot market"),
        ({"action": "drop"}, UnknownName, "action"),
        ({"exchange": "okx"}, NotConfigured, "nothing listens to okx"),
        ({"symbols": ["BTC-USD-20261225-100000-C"]}, NotConfigured, "option markets"),
    ],
)  # fmt: skip
def test_request_that_cannot_be_understood_is_refused(over, request_, error, words):
    usual = {"exchange": "binance", "action": "subscribe", "symbols": ["BTC-USDT"], "data_types": ["trade"]}
    with pytest.raises(error, match=words):
        over.change({**usual, **request_})


def test_market_whose_instruments_were_not_read_yet_is_not_ready(tmp_path):
    over = subscriptions(tmp_path)
    with pytest.raises(NotReady):
        over.change({"exchange": "binance", "action": "subscribe", "symbols": ["BTC-USDT"]})


def test_change_that_no_connection_can_carry_is_refused_and_not_kept(over):
    for data_types, words in ((["agg_trade"], "both tell of the same trades"),):
        wanted = over.change(
            {"exchange": "binance", "action": "subscribe", "symbols": ["BTC-USDT"], "data_types": data_types}
        )
        with pytest.raises(ConfigError, match=words):
            wanted.plan()
    assert not over.path.exists()


def test_damaged_file_and_a_disk_that_takes_nothing_are_named(over, tmp_path):
    for damaged in (b'{"binance.spot": {"BTC-USDT": {"added": ["trades"]}}}', b'{"binance.spot": {"\xff": {}}}'):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"(?s)subscriptions\.json.*mend it, or remove it"):
            over.plan()
    (tmp_path / FILE).unlink()
    wanted = over.change({"exchange": "binance", "action": "unsubscribe", "symbols": ["BTC-USDT"]})
    plan = wanted.plan()
    (tmp_path / f".{FILE}.new").mkdir()
    with pytest.raises(FolderUnusable, match="cannot be written"):
        plan.adopt()
    assert over.overlay == {}


def test_file_may_name_other_channels_of_a_symbol_itself():
    text = """
    [exchanges.binance.spot]
    symbols = ["BTC-USDT"]
    channels = ["trade"]
    symbol_channels = { "ETH-USDT" = ["quote"], "BTC-USDT" = [] }
    """
    [(name, fields)] = feed_shards(parse(text, "text"))
    assert (name, fields["symbols"], fields["channels"]) == ("feed-binance-spot-0", ["ETH-USDT"], ["quote"])
    assert FeedConfig(**fields).channels_of("ETH-USDT") == ["quote"]
    with pytest.raises(ConfigError) as caught:
        parse(text.replace('"ETH-USDT" = ["quote"]', '"eth" = ["mark_price"]'), "text")
    lines = [str(mistake) for mistake in caught.value.mistakes]
    assert lines[0].startswith("exchanges.binance.spot.symbol_channels.eth") and "a pair such as" in lines[0]
    assert "only futures have these" in lines[1]
