"""Processes that die, and daemons that are told to end."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from .tree import Demo, Response, Tree, alive, spot, until, usdm

ACTORS = (
    "simulator", "clickhouse", "feed-binance-spot-0", "feed-binance-usdm-public-0", "feed-binance-usdm-market-0",
    "keeper", "writer", "front-0", "front-1",
)  # fmt: skip
COINS = ("BTC-USDT", "ETH-USDT")
SIMULATED = {"symbols": [coin.replace("-", "") for coin in COINS], "rate": 300.0}
WHOLE = {
    "exchanges": {
        "binance": spot(COINS)["binance"]
        | usdm([f"{coin}-PERP" for coin in COINS], ["agg_trade", "quote", "book"])["binance"]
    },
    "simulator": SIMULATED,
    "feed": {"trade_capacity": 1 << 14, "quote_capacity": 1 << 14, "level_capacity": 1 << 16},
    "supervisor": {"restarts_max": 20},  # as it is without our harness
}


def moves(tree: Tree) -> None:
    """Every ring gets records, and all trades that it has by then reach the table."""
    before = tree.published()
    until("records in every ring", lambda: all(now > before[ring] for ring, now in tree.published().items()))
    trades = sum(count for ring, count in tree.published().items() if ring.endswith(".trade"))
    until(f"{trades} trades in the table", lambda: stored_trades(tree) >= trades)


def stored_trades(tree: Tree) -> int:
    try:
        return tree.count("trades")
    except (OSError, AssertionError):  # the engine is on its way back
        return 0


def assert_table_is_whole(tree: Tree) -> None:
    """The numbering of every symbol goes on through all deaths: nothing is there twice, and nothing was left out."""
    rows = tree.select(
        "SELECT instrument, count(), uniqExact(epoch, nth), max(nth) + 1, uniqExact(epoch) "
        "FROM tickring.trades GROUP BY instrument"
    )
    assert len(rows) == 2 * len(COINS)
    assert all(count == different == last and epochs == 1 for _, count, different, last, epochs in rows), rows


@pytest.mark.timeout(900)
def test_each_process_killed_comes_back_by_itself_on_its_cpus_and_the_tree_goes_on(tree):
    cpus = sorted(os.sched_getaffinity(0))
    wanted = {name: [cpus[number % len(cpus)]] for number, name in enumerate(ACTORS)}
    tree.start(**WHOLE, cpus=wanted).ready()
    assert set(tree.names()) == set(ACTORS)
    until("a healthy tree", tree.healthy)
    first = {name: tree.actor(name)["pid"] for name in ACTORS}
    assert {name: sorted(os.sched_getaffinity(pid)) for name, pid in first.items()} == wanted
    for name in ACTORS:
        os.kill(first[name], signal.SIGKILL)
        pid = tree.back(name, first[name])
        assert sorted(os.sched_getaffinity(pid)) == wanted[name], name
        moves(tree)
        until(f"a healthy tree after the death of {name}", tree.healthy)
    assert_table_is_whole(tree)
    actors = {actor["name"]: actor for actor in tree.status()["actors"]}
    assert {name: actor["restarts"] for name, actor in actors.items()} == dict.fromkeys(ACTORS, 1)
    assert all(actors[name]["pid"] != pid for name, pid in first.items())
    assert tree.stop() == 0
    assert not any(map(alive, tree.seen))


def test_processes_killed_all_at_once_come_back_by_themselves(tree):
    tree.start(**WHOLE).ready()
    first = {name: tree.signal(name, signal.SIGKILL) for name in ACTORS}
    for name, pid in first.items():
        tree.back(name, pid)
    moves(tree)
    until("a healthy tree", tree.healthy)
    assert_table_is_whole(tree)


def test_supervisor_killed_leaves_no_process_and_the_next_one_goes_on_with_its_rings(tree):
    tree.start(**WHOLE).ready()
    until("trades in the table", lambda: tree.count("trades") > 0)
    pids = tree.pids()
    assert len(pids) == len(ACTORS)
    epochs = ring_epochs(tree)
    before = tree.published()
    tree.process.kill()
    tree.process.wait()
    until("all processes to end", lambda: not any(map(alive, pids)))
    tree.start().ready()
    assert ring_epochs(tree) == epochs
    assert all(now >= before[ring] for ring, now in tree.published().items())
    moves(tree)
    assert_table_is_whole(tree)
    assert tree.stop() == 0


def ring_epochs(tree: Tree) -> set[Any]:
    streams = tree.get("/api/v1/status").data["streams"]
    return {(one["producer"], one["record"], one["epoch_ns"]) for one in streams}


# -- the demo


def quote_changes(demo: Demo) -> None:
    def bid() -> Response:
        return demo.get("/api/v1/ticker/binance/BTC-USDT")

    first = until("a quote", lambda: (found := bid()).status == 200 and found.body)
    until("another quote", lambda: bid().body != first)


@pytest.mark.parametrize(("number", "whom"), [(signal.SIGTERM, "the supervisor"), (signal.SIGINT, "the whole group")])
def test_demo_told_to_end_ends_in_order_and_leaves_nothing_behind(demo, number, whom):
    quote_changes(demo)
    assert len(demo.pids()) >= len(ACTORS)
    if whom == "the supervisor":
        demo.process.send_signal(number)
    else:
        os.killpg(demo.process.pid, number)  # Ctrl-C in a terminal reaches every process of the job
    assert demo.process.wait(120) == 0, demo.logged()
    assert "nothing left behind" in demo.out.read_text()
    assert demo.left_behind() == []
    lines = demo.logged(500).splitlines()
    # one that had no CPU for seconds may be late, and is killed as the rest of the drain wants its time
    wrong = [line for line in lines if " ERROR " in line and not line.endswith("killed: did not stop in time")]
    assert not wrong and not any("Traceback" in line for line in lines), lines


def test_demo_whose_supervisor_was_killed_leaves_no_process_and_the_next_demo_tidies_up(demo):
    pids = demo.pids()
    demo.process.kill()
    demo.process.wait()
    until("all processes to end", lambda: not any(map(alive, pids)))
    first = demo.folder
    assert first.is_dir()
    demo.begin()
    quote_changes(demo)
    assert not first.exists()
    assert demo.stop(signal.SIGINT) == 0
    assert demo.left_behind() == []
