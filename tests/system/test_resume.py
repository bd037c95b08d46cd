"""One client that resumes through the deaths of feeds and fronts, and what the exchange says that it sent."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from .client import Client, trade_channels
from .tree import Tree, until

ROUNDS = 25  # in each a feed and a front worker are killed
SEED = 20_261_121
COINS = {"BTCUSDT": "BTC-USDT", "ETHUSDT": "ETH-USDT", "SOLUSDT": "SOL-USDT", "XRPUSDT": "XRP-USDT"}
FEEDS = {"feed-binance-spot-0": ("spot", "trade"), "feed-binance-usdm-market-0": ("usdm", "aggTrade")}
AFTER_THE_LAST_KILL = 3  # records of each channel: the second one proves the gap before the first


@contextmanager
def listening(tree: Tree) -> Iterator[None]:
    """A client of the exchange itself, so that it goes on sending, and keeping what it sent, while no feed listens."""
    ending = threading.Event()
    config = tree.config["simulator"]
    names = {
        f"ws://127.0.0.1:{config['spot_ws_port']}/ws/": "trade",
        f"ws://127.0.0.1:{config['usdm_ws_port']}/market/ws/": "aggTrade",
    }

    def listen(url: str) -> None:
        with connect(url, max_size=None) as socket:
            while not ending.is_set():
                try:
                    socket.recv(0.2)
                except TimeoutError:
                    continue

    threads = []
    for base, channel in names.items():
        url = base + "/".join(f"{native.lower()}@{channel}" for native in COINS)
        threads.append(threading.Thread(target=listen, args=(url,), daemon=True))
        threads[-1].start()
    try:
        until("both listeners", lambda: sum(not each["combined"] for each in tree.sim("connections")) == len(threads))
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join(10)


def serving(tree: Tree, client_port: int) -> str | None:
    """Name of the front worker at the other end of a connection."""
    ours = f":{tree.front_port:04X}", f":{client_port:04X}"
    with open("/proc/net/tcp") as table:
        inodes = {
            f"socket:[{f[9]}]"
            for f in map(str.split, table)
            if f[1].endswith(ours[0]) and f[2].endswith(ours[1]) and f[3] == "01"
        }
    for actor in tree.status()["actors"]:
        if actor["name"].startswith("front"):
            try:
                open_files = [os.readlink(link.path) for link in os.scandir(f"/proc/{actor['pid']}/fd")]
            except OSError:
                continue
            if inodes & set(open_files):
                return actor["name"]
    return None


def gap_ranges(tree: Tree, feed: str, instrument: str, kind: str) -> list[tuple[int, int]]:
    """Trade ids, both ends inclusive, that a feed says it missed; read as plain JSON lines."""
    path: Path = tree.data / "gaps" / f"{feed}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(x["first_id"], x["last_id"]) for x in lines if (x["instrument"], x["kind"]) == (instrument, kind)]


def sent(tree: Tree, product: str, stream: str) -> dict[int, dict[str, Any]]:
    """What the exchange sent on a stream, by trade id."""
    response = tree.sim_raw(f"sent?product={product}&stream={stream}")
    assert response.headers["X-Complete"] == "1"
    messages = [json.loads(line) for line in response.body.splitlines()]
    return {x["a" if x["e"] == "aggTrade" else "t"]: x for x in messages}


@pytest.mark.timeout(900)
def test_client_resuming_through_fifty_kills_sees_every_record_once_less_the_named_gaps(tree):
    pairs = list(COINS.values())
    tree.start(
        exchanges={
            "binance": {
                "spot": {"symbols": pairs, "channels": ["trade"]},
                "usdm": {"symbols": [f"{pair}-PERP" for pair in pairs], "channels": ["agg_trade"]},
            }
        },
        # busy and quiet symbols: of a quiet one a feed may see a single trade, or none, between two deaths
        simulator={
            "source": "model", "symbols": list(COINS), "rate": 500.0, "activity_exponent": 2.5,
            "ledger_frames_max": 1_000_000, "start": "command",
        },
    ).ready()  # fmt: skip
    rng = random.Random(SEED)
    client = Client(tree.front_port, trade_channels(pairs))
    client.start()
    kills: Counter[str] = Counter()
    with listening(tree):
        tree.sim("start", {})
        try:
            until("records on every channel", lambda: len(client.seen()) == 8 and all(client.seen().values()))
            for round_ in range(ROUNDS):
                feed = list(FEEDS)[round_ % 2]
                front = until("a worker to serve the client", lambda: client.port and serving(tree, client.port))
                victims = [feed, front] if rng.random() < 0.5 else [front, feed]
                pids = {}
                for victim in victims:
                    pids[victim] = tree.signal(victim, signal.SIGKILL)
                    kills[victim.partition("-")[0]] += 1
                    signal.sigtimedwait([], rng.random() * 0.3)
                for victim in victims:
                    tree.back(victim, pids[victim])
                if rng.random() < 0.7:
                    await_data(client, feed)
            until_settled(client)
            assert not client.errors
        finally:
            client.ending.set()
            client.join(10)
        assert kills == {"feed": ROUNDS, "front": ROUNDS}
        # a worker may die between a connection and its answer
        assert client.connections > ROUNDS and client.answered > ROUNDS // 2
        assert client.resumed >= 8 * (client.answered - 1), "only the first connection has nothing to resume"
        missed = [
            check_channel(tree, client, feed, product, stream, native, pair)
            for feed, (product, stream) in FEEDS.items()
            for native, pair in COINS.items()
        ]
        assert sum(missed) > ROUNDS, "a feed that is away misses something each time"
        check_table(tree, client)


def await_data(client: Client, feed: str) -> None:
    """Wait until a feed's busiest symbol moves again."""
    market_type = "spot" if FEEDS[feed][0] == "spot" else "perpetual"
    name = f"trades.binance.{market_type}.BTC-USDT"
    before = client.seen()[name]
    until(f"a new record on {name}", lambda: client.seen()[name] > before or client.errors)


def until_settled(client: Client) -> None:
    before = client.seen()
    until(
        "new records on every channel",
        lambda: all(now >= before[name] + AFTER_THE_LAST_KILL for name, now in client.seen().items()) or client.errors,
    )


def check_channel(tree: Tree, client: Client, feed: str, product: str, stream: str, native: str, pair: str) -> int:
    """Number of trades that the feed missed and said so."""
    market_type = "spot" if product == "spot" else "perpetual"
    name = f"trades.binance.{market_type}.{pair}"
    channel = client.channels[name]
    assert len(channel.epochs) == 1, (name, channel.epochs)
    # every number once: as a record, or inside a gap frame
    hidden = [seq for first, last in channel.gaps for seq in range(first, last + 1)]
    numbers = [record.seq for record in channel.records]
    assert numbers == sorted(numbers), name
    assert sorted(numbers + hidden) == list(range(1, len(numbers) + len(hidden) + 1)), name
    # every trade once: as a record, or inside a gap that the feed wrote down
    by_id = sent(tree, product, f"{native.lower()}@{stream}")
    ids = [record.trade_id for record in channel.records]
    assert ids == sorted(set(ids)), name
    for record, number in zip(channel.records, ids, strict=True):
        x = by_id[number]
        assert (record.price, record.quantity) == (float(x["p"]), float(x["q"])), (name, record, x)
        assert (record.side, record.exchange_ts) == ("sell" if x["m"] else "buy", x["T"]), (name, record, x)
    not_seen = {number for number in by_id if ids[0] < number < ids[-1]} - set(ids)
    instrument = pair if product == "spot" else f"{pair}-PERP"
    ranges = gap_ranges(tree, feed, instrument, "trade" if product == "spot" else "agg_trade")
    named = {number for first, last in ranges for number in range(first, last + 1)}
    assert not named & set(ids), (name, "in the feed's gaps, but seen", sorted(named & set(ids)), ranges)
    assert named <= not_seen, (name, "in the feed's gaps, but never sent", sorted(named - not_seen), ranges)
    # what a front did not show has a number, so the feed had it: gap frames can name no more than these
    assert len(not_seen - named) == len(hidden), (name, "nobody names these", sorted(not_seen - named), ranges)
    return len(named)


def check_table(tree: Tree, client: Client) -> None:
    """ClickHouse has what the client saw, record by record."""
    for name, channel in client.channels.items():
        _, _, market_type, pair = name.split(".")
        last = channel.records[-1].seq
        where = f"FROM tickring.trades WHERE symbol = '{pair}' AND market_type = '{market_type}' AND nth < {last}"
        until(f"{last} records of {name} in the table", lambda: tree.select(f"SELECT count() {where}") == [[last]])  # noqa: B023
        rows = tree.select(f"SELECT nth + 1, toString(trade_id), price, quantity {where} ORDER BY nth")
        seen = {record.seq: record for record in channel.records}
        assert [row[0] for row in rows] == list(range(1, last + 1)), name
        for seq, trade_id, price, quantity in rows:
            if record := seen.get(seq):
                assert (str(record.trade_id), record.price, record.quantity) == (trade_id, price, quantity), (
                    name,
                    record,
                )
