"""`tickring run` as a whole: reload, warm restart, drain, top, on real actors."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from tickring.actors.latency import EXCHANGE_TO_SOCKET, SOCKET_TO_RING
from tickring.daemon.errors import NotRunning

from ..system.client import Client, trade_channels
from ..system.test_resume import COINS, FEEDS, check_channel, check_table, listening, until_settled
from ..system.tree import Tree, alive, merged, spot, toml, until
from .exchange import Exchange

pytest.importorskip("chdb", reason="the embedded engine is not installed: pip install 'tickring[embedded]'")
RESTARTS = 2


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    shm = Path(tempfile.mkdtemp(prefix="tickring-test-", dir="/dev/shm"))
    tree = Tree(f"daemon-{os.getpid()}", shm, tmp_path)
    try:
        yield tree
    finally:
        with contextlib.suppress(NotRunning):  # one that took over is no child of ours
            os.kill(tree.status()["pid"], signal.SIGKILL)
        tree.clean_up()
        shutil.rmtree(shm, ignore_errors=True)


@pytest.fixture
def open_exchange() -> Iterator[Callable[..., Exchange]]:
    opened: list[Exchange] = []

    def make(*arguments, **config) -> Exchange:
        opened.append(Exchange(*arguments, **config))
        return opened[-1]

    yield make
    for exchange in opened:
        exchange.close()


def tickring(tree: Tree, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tickring", *arguments, "--instance", tree.name, "--folder", str(tree.shm)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def pids(tree: Tree) -> dict[str, int]:
    return {actor["name"]: actor["pid"] for actor in tree.status()["actors"]}


def test_symbols_added_and_removed_restart_their_feed_alone_and_mistakes_change_nothing(tree, open_exchange):
    exchange = open_exchange(tree, ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"])
    markets = {"spot": {"symbols": ["BTC-USDT", "ETH-USDT"]}, "usdm": {"symbols": ["BTC-USDT-PERP"]}}
    tree.start(exchanges=exchange.markets(**markets)).ready()
    until("records", lambda: all(tree.published().values()))
    before, published = pids(tree), tree.published()

    def reload(**fields) -> subprocess.CompletedProcess[str]:
        tree.config = merged(tree.config, {"exchanges": exchange.markets(**fields)})
        tree.file.write_text(toml(tree.config))
        return tickring(tree, "reload")

    result = reload(spot={"symbols": ["BTC-USDT", "SOL-USDT"]})
    assert result.returncode == 0, result.stderr
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["restarted"] == "feed-binance-spot-0"
    assert set(lines["unchanged"].split(", ")) == before.keys() - {"feed-binance-spot-0"}
    after = pids(tree)
    assert {name for name in before if before[name] != after[name]} == {"feed-binance-spot-0"}
    until("trades of the new symbol", lambda: trades(tree, "SOL-USDT"))
    stream = "feed-binance-spot-0.trade"
    assert tree.published()[stream] >= published[stream], "the ring is the same, its numbering goes on"

    tree.config["feed"]["trade_capacity"] *= 2
    tree.file.write_text(toml(tree.config))
    result = json.loads(tickring(tree, "reload", "--json").stdout)
    assert result["restarted"] == [name for name in before if name.startswith("feed")]
    until("trades in the new ring", lambda: trades(tree, "SOL-USDT"))
    after = pids(tree)

    tree.file.write_text(toml(tree.config) + "[feeed]\n[front.ws]\nping_s = -1\n")
    result = tickring(tree, "reload")
    assert result.returncode == 78
    assert "2 mistakes" in result.stderr and "feeed" in result.stderr and "front.ws.ping_s" in result.stderr
    assert pids(tree) == after and "the running configuration stays" in tree.logged()

    tree.file.write_text(toml(merged(tree.config, {"instance": {"name": "other"}, "front": {"workers": 1}})))
    result = json.loads(tickring(tree, "reload", "--json").stdout)
    assert (result["removed"], result["needs_restart"]) == (["front-1"], ["instance.name"])
    assert tree.get("/api/v1/status").status == 200
    assert tree.stop() == 0


def trades(tree: Tree, symbol: str) -> list:
    response = tree.get(f"/api/v1/trades/{symbol}?limit=5")
    return response.data if response.status == 200 else []


def test_rings_of_a_market_that_is_taken_out_are_removed_after_the_writer_stored_them(tree, open_exchange):
    exchange = open_exchange(tree, ["BTCUSDT"], rate=2000.0)
    both = exchange.markets(spot={"symbols": ["BTC-USDT"]}, usdm={"symbols": ["BTC-USDT-PERP"]})
    tree.start(exchanges=both).ready()
    until("trades of both", lambda: len([name for name in tree.published() if name.endswith(".trade")]) == 2)
    until("trades", lambda: all(tree.published().values()))
    perpetual = tree.folder / "feed-binance-usdm-market-0.trade.ring"
    seen = tree.published()[perpetual.stem]
    tree.config["exchanges"] = exchange.markets(spot={"symbols": ["BTC-USDT"]})
    tree.file.write_text(toml(tree.config))
    assert tickring(tree, "reload").returncode == 0
    assert not perpetual.exists() and not list(tree.folder.glob("feed-binance-usdm*"))
    where = "FROM tickring.trades WHERE market_type = 'perpetual'"
    until("the stored rows", lambda: tree.select(f"SELECT count() {where}")[0][0] >= seen)
    [[rows, highest]] = tree.select(f"SELECT count(), max(nth) {where}")
    assert rows == highest + 1, "every record up to the last"
    assert tree.stop() == 0


def test_client_resumes_through_restarts_of_the_daemon_and_sees_every_record_once_or_a_named_gap(tree, open_exchange):
    exchange = open_exchange(
        tree, list(COINS), rate=500.0, activity_exponent=2.5, ledger_frames_max=1_000_000, start="command"
    )
    pairs = list(COINS.values())
    markets = exchange.markets(
        spot={"symbols": pairs, "channels": ["trade"]},
        usdm={"symbols": [f"{pair}-PERP" for pair in pairs], "channels": ["agg_trade"]},
    )
    tree.start(exchanges=markets).ready()
    tree.config["simulator"] = exchange.config  # where `listening` looks
    client = Client(tree.front_port, trade_channels(pairs))
    client.start()
    with listening(tree):
        tree.sim("start", {})
        try:
            until("records on every channel", lambda: len(client.seen()) == 8 and all(client.seen().values()))
            for _ in range(RESTARTS):
                assert tree.stop() == 0
                tree.launch("run", "-c", str(tree.file))
                tree.ready()
                until_settled(client)
            assert not client.errors
        finally:
            client.ending.set()
            client.join(10)
        assert client.connections > RESTARTS and client.resumed >= 8 * RESTARTS
        for feed, (product, stream) in FEEDS.items():
            for native, pair in COINS.items():
                check_channel(tree, client, feed, product, stream, native, pair)
        check_table(tree, client)


def test_client_resumes_without_a_gap_through_take_overs_and_no_row_is_lost_or_doubled(tree, open_exchange):
    exchange = open_exchange(
        tree, list(COINS), rate=500.0, activity_exponent=2.5, ledger_frames_max=1_000_000, start="command"
    )
    pairs = list(COINS.values())
    markets = exchange.markets(
        spot={"symbols": pairs, "channels": ["trade"]},
        usdm={"symbols": [f"{pair}-PERP" for pair in pairs], "channels": ["agg_trade"]},
    )
    tree.start(exchanges=markets).ready()
    tree.config["simulator"] = exchange.config  # where `listening` looks
    client = Client(tree.front_port, trade_channels(pairs))
    client.start()
    supervisors = [tree.process.pid]
    with listening(tree):
        tree.sim("start", {})
        try:
            until("records on every channel", lambda: len(client.seen()) == 8 and all(client.seen().values()))
            for _ in range(RESTARTS):
                result = tickring(tree, "restart")
                assert result.returncode == 0, result.stderr + tree.logged()
                supervisors.append(tree.status()["pid"])
                assert f"process {supervisors[-1]} has taken over" in result.stdout
                until_settled(client)
            assert not client.errors
        finally:
            client.ending.set()
            client.join(10)
            tree.seen.update(pids(tree).values())
        assert len(set(supervisors)) == RESTARTS + 1 and client.resumed >= 8 * RESTARTS
        for feed, (product, stream) in FEEDS.items():
            for native, pair in COINS.items():
                check_channel(tree, client, feed, product, stream, native, pair)
        assert not any(channel.gaps for channel in client.channels.values()), "the rings hold all"
        check_table(tree, client)
    assert tree.process.wait(60) == 0
    stop_successor(tree, supervisors[-1])


def stop_successor(tree: Tree, pid: int) -> None:
    """Stop a daemon that is no child of ours."""
    assert tickring(tree, "stop").returncode == 0
    until("its end", lambda: not alive(pid))


def test_restart_with_a_mistake_in_the_configuration_leaves_the_daemon_running_and_names_it(tree):
    tree.start(exchanges=spot(["BTC-USDT"]), simulator={"symbols": ["BTCUSDT"]}).ready()
    before = pids(tree)
    tree.file.write_text(toml(tree.config) + "[feeed]\n")
    result = tickring(tree, "restart")
    assert result.returncode == 78
    assert "the running one goes on" in result.stderr and "feeed" in result.stderr
    assert pids(tree) == before
    assert tree.stop() == 0


def test_drain_ends_although_a_client_never_reads(tree, open_exchange):
    exchange = open_exchange(tree, ["BTCUSDT"], rate=5000.0)
    tree.start(exchanges=exchange.markets(spot={"symbols": ["BTC-USDT"]})).ready()
    until("trades", lambda: all(tree.published().values()))
    raw = socket.create_connection(("127.0.0.1", tree.front_port))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with connect(f"ws://127.0.0.1:{tree.front_port}/ws/v1", sock=raw, max_queue=1, close_timeout=1) as client:
        channels = [
            {"channel": name, "exchange": "binance", "market_type": "spot", "symbol": "BTC-USDT"}
            for name in ("trades", "orderbook")
        ]
        client.send(json.dumps({"op": "subscribe", "channels": channels}))
        client.recv(10)
        until("frames to be held back", lambda: unsent_bytes(tree.front_port) > 50_000)
        assert tree.stop() == 0
    assert not any(map(os.path.exists, (f"/proc/{pid}" for pid in tree.seen)))


def unsent_bytes(port: int) -> int:
    """Bytes that the kernel holds for clients of a port."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    return sum(int(row[4].partition(":")[0], 16) for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01")


def moving(tree: Tree) -> Any:
    """What `top` shows of a second in which frames came, trades were published and rows were stored."""
    view = json.loads(tickring(tree, "top", "--once", "--json").stdout)
    [trades] = [ring["per_s"] for ring in view["rings"] if ring["stream"] == "feed-binance-spot-0.trade"]
    return view if all((view["rates"]["frames_in"], view["rates"]["rows_stored"], trades)) else None


def test_top_shows_actors_rates_lags_and_latencies_also_while_the_daemon_hangs(tree):
    tree.start(exchanges=spot(["BTC-USDT"]), simulator={"symbols": ["BTCUSDT"]}).ready()
    until("trades stored", lambda: tree.count("trades"))
    os.kill(tree.process.pid, signal.SIGSTOP)
    try:
        # The rates are of one second, in which a busy machine may have stored nothing.
        view = until("a second in which everything moves", lambda: moving(tree))
    finally:
        os.kill(tree.process.pid, signal.SIGCONT)
    actors = {actor["name"]: actor for actor in view["actors"]}
    expected = pids(tree) | {"supervisor": tree.process.pid}
    assert {name: actor["pid"] for name, actor in actors.items()} == expected
    assert all(actor["rss_bytes"] > 1 << 20 and actor["cpus"] for actor in actors.values())
    rings = {ring["stream"]: ring for ring in view["rings"]}
    assert "writer" in [reader["name"] for reader in rings["feed-binance-spot-0.trade"]["readers"]]
    stages = {
        (row["name"], row["labels"].get("channel")) for row in view["latencies"] if row["p99_s"] >= row["p50_s"] > 0
    }
    of_feeds = {(name, channel) for name in (EXCHANGE_TO_SOCKET, SOCKET_TO_RING) for channel in ("trade", "book")}
    assert of_feeds <= stages, stages
    text = tickring(tree, "top", "--once").stdout
    assert "socket_to_ring" in text and "channel=trade exchange=binance" in text
    assert "feed-binance-spot-0.trade" in text and "records" in text.splitlines()[0]
    assert tree.stop() == 0


@pytest.mark.parametrize("table", ["simulator", "clickhouse"])
def test_port_that_is_taken_ends_the_start_with_one_line_that_names_its_owner(tree, table):
    tree.config = merged(tree.config, {"exchanges": spot(["BTC-USDT"]), "simulator": {"symbols": ["BTCUSDT"]}})
    tree.file.write_text(toml(tree.config))
    name = "port" if table == "clickhouse" else "rest_port"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", tree.config[table][name]))
        taken.listen()
        command = [sys.executable, "-m", "tickring", "--log-level", "WARNING", "run", "-c", str(tree.file)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 75
    [line] = result.stderr.splitlines()
    assert f"process {os.getpid()}" in line and table in line
    assert not tree.folder.exists()
