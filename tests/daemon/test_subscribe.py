"""Subscriptions at run time, on the whole daemon and a simulated exchange."""

from __future__ import annotations

import json

import pytest

from tickring.daemon.control import ask

from ..system.tree import Response, Tree, fetch, until
from .test_daemon import open_exchange, pids, tickring, trades, tree  # noqa: F401 - fixtures

# ruff: noqa: F811 - a fixture's name is a parameter's

FEED = "feed-binance-spot-0"


def subscribe(tree: Tree, action: str, symbols: list[str], data_types: list[str] | None = None, **more) -> Response:
    body = {"action": action, "symbols": symbols, **({"data_types": data_types} if data_types else {}), **more}
    url = f"{tree.url}/api/v1/exchanges/{more.pop('exchange', 'binance')}/subscribe"
    return fetch(url, json.dumps(body).encode(), {"Content-Type": "application/json"}, 60.0)


def channels(answer: Response) -> dict[str, list[str]]:
    assert answer.status == 200, answer.body
    return {one["instrument"]: one["channels"] for one in answer.data["symbols"]}


def test_what_is_subscribed_arrives_and_outlasts_a_reload_and_a_restart_and_only_its_feed_is_restarted(
    tree, open_exchange
):  # fmt: skip
    exchange = open_exchange(tree, ["BTCUSDT", "ETHUSDT", "SOLUSDT"], rate=500.0)
    markets = {
        "spot": {"symbols": ["BTC-USDT", "ETH-USDT"], "channels": ["trade", "quote"]},
        "usdm": {"symbols": ["BTC-USDT-PERP"], "channels": ["agg_trade"]},
    }
    tree.start(exchanges=exchange.markets(**markets)).ready()
    before = pids(tree)

    answer = subscribe(tree, "subscribe", ["solusdt"], ["trade"])
    assert channels(answer) == {"SOL-USDT": ["trade"]}
    assert answer.data["changed"] is True
    assert answer.data["actors"] == {"added": [], "restarted": [FEED], "removed": []}
    after = pids(tree)
    assert {name for name in before if before[name] != after[name]} == {FEED}
    until("trades of the new symbol", lambda: trades(tree, "SOL-USDT"))
    assert tree.get("/api/v1/ticker/binance/SOL-USDT").status == 404

    again = subscribe(tree, "subscribe", ["SOL-USDT"], ["trades"])
    assert (again.data["changed"], again.data["actors"]["restarted"]) == (False, [])
    assert pids(tree) == after

    answer = subscribe(tree, "unsubscribe", ["ETH-USDT"], ["quote"])
    assert channels(answer) == {"ETH-USDT": ["trade"]}
    answer = subscribe(tree, "subscribe", ["BTC-USDT-PERP"], ["funding_rate", "trade"])
    assert channels(answer) == {"BTC-USDT-PERP": ["agg_trade", "mark_price"]}
    assert answer.data["actors"]["restarted"] == ["feed-binance-usdm-market-0"]
    until("rates", lambda: tree.get("/api/v1/mark-price/binance/BTC-USDT-PERP").status == 200)

    running = pids(tree)
    assert tickring(tree, "reload").returncode == 0
    assert pids(tree) == running, "a reload keeps what was subscribed"
    tree.stop()
    tree.start().ready()
    feeds = {name: feed for name, feed in planned(tree).items() if name.startswith("feed")}
    assert feeds[FEED] == ["BTC-USDT", "ETH-USDT", "SOL-USDT"]
    count = len(trades(tree, "SOL-USDT"))
    assert count
    kept = json.loads((tree.data / "subscriptions.json").read_text())
    assert kept == {
        "binance.spot": {"SOL-USDT": {"added": ["trade"]}, "ETH-USDT": {"removed": ["quote"]}},
        "binance.usdm": {"BTC-USDT-PERP": {"added": ["mark_price"]}},
    }

    for symbol in ("SOL-USDT", "ETH-USDT"):
        subscribe(tree, "unsubscribe" if symbol == "SOL-USDT" else "subscribe", [symbol])
    answer = subscribe(tree, "unsubscribe", ["BTC-USDT-PERP"], ["mark_price"])
    assert channels(answer) == {"BTC-USDT-PERP": ["agg_trade"]}
    assert json.loads((tree.data / "subscriptions.json").read_text()) == {}, "as the file says"
    assert tree.stop() == 0


def planned(tree: Tree) -> dict[str, list[str]]:
    """Symbols that each feed's rings have keys of."""
    streams = tree.get("/api/v1/instruments").data
    found: dict[str, list[str]] = {}
    for one in streams:
        found.setdefault(FEED if one["market_type"] == "spot" else "feed-binance-usdm", []).append(one["instrument"])
    return {name: sorted(symbols) for name, symbols in found.items()}


def test_what_cannot_be_subscribed_is_refused_with_its_reason_and_changes_nothing(tree, open_exchange):
    exchange = open_exchange(tree, ["BTCUSDT"])
    tree.start(exchanges=exchange.markets(spot={"symbols": ["BTC-USDT"], "channels": ["trade"]})).ready()
    before = pids(tree)
    for status, words, arguments in (
        (400, "not listed", ("subscribe", ["NOPE-USDT"], ["trade"])),
        (400, "names no instrument", ("subscribe", ["?"], ["trade"])),
        (400, "data type 'tade'", ("subscribe", ["BTC-USDT"], ["tade"])),
        (400, "only futures", ("subscribe", ["BTC-USDT"], ["trade", "liquidation"])),
        (400, "both tell of the same trades", ("subscribe", ["BTC-USDT"], ["agg_trade"])),
        (404, "perpetual markets of binance", ("subscribe", ["BTC-USDT-PERP"], ["trade"])),
        (404, "perpetual markets of binance", ("subscribe", ["BTC-USDT"], ["funding_rate"])),
    ):  # fmt: skip
        answer = subscribe(tree, *arguments)
        assert (answer.status, words in answer.json["error_message"]) == (status, True), answer.body
    assert subscribe(tree, "subscribe", ["BTC-USDT"], exchange="okx").status == 404
    assert subscribe(tree, "subscribe", ["BTC-USDT"], exchange="mtgox").status == 400
    assert pids(tree) == before and not (tree.data / "subscriptions.json").exists()
    with pytest.raises(Exception, match="unknown field"):
        ask(tree.folder / "control.sock", "subscribe", exchange="binance", action="subscribe", symbols=[], nonsense=1)
    assert tree.stop() == 0
