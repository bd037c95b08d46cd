"""ClickHouse's process stands still, and nobody who asks for recent data notices; then nothing is missing in it."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator

from websockets.sync.client import ClientConnection, connect

from tickring.codecs.records import TRADE
from tickring.ringbuf import StreamReader

from . import oracle
from .tree import Tree, spot, until

# No answer may wait for the engine: a client gives up long before the deadline that a request to the engine has.
HISTORY_TIMEOUT_S = 20.0
CLIENT_TIMEOUT_S = 15.0

BUSY, QUIET = "BTC-USDT", "DOGE-USDT"
NATIVE = {"BTC-USDT": "BTCUSDT", "ETH-USDT": "ETHUSDT", "DOGE-USDT": "DOGEUSDT"}
WORKERS = 2
NOTICE_S = 120.0  # until a probe of each has waited in vain
SKIPPED = 4  # questions in a row that ClickHouse was not asked
QUIET_TRADES = 3  # that the quiet symbol has had before it fell silent, of the 100 that are asked for


def paths(symbol: str) -> list[str]:
    return [
        f"/api/v1/trades/{symbol}", f"/api/v1/trades/{symbol}?limit=2", f"/api/v1/trades?symbol={symbol}",
        f"/api/v1/trades/latest?symbol={symbol}", f"/api/v1/orderbook/binance/{symbol}",
        f"/api/v1/orderbook/binance/{symbol}?depth=400", f"/api/v1/ticker/binance/{symbol}",
    ]  # fmt: skip


OF_THE_TREE = (
    "/api/v1/status", "/api/v1/status?detailed=true", "/api/v1/health", "/health", "/livez", "/readyz", "/metrics",
    "/openapi.json", "/api/v1/instruments", "/",
)  # fmt: skip


RING = "feed-binance-spot-0.trade"


def start(tree: Tree, trade_capacity: int, published: int) -> Tree:
    """A daemon with a busy symbol, and one whose few trades lie behind `published` ones of the others."""
    tree.start(
        exchanges=spot(list(NATIVE)),
        simulator={"source": "model", "symbols": list(NATIVE.values()), "rate": 1500.0, "activity_exponent": 2.0},
        supervisor={"heartbeat_timeout_s": 600.0},  # else a process that stands still is killed
        feed={"trade_capacity": trade_capacity},
        writer={"insert_timeout_s": 1.0, "flush_interval_ms": 100},
        front={"workers": WORKERS, "history_timeout_s": HISTORY_TIMEOUT_S},
    ).ready()
    until("trades of the quiet symbol", lambda: len(trades(tree, QUIET)) >= QUIET_TRADES)
    tree.sim("faults", {"fault": "silent_stream", "product": "spot", "stream": "dogeusdt@trade"})
    more = tree.published()[RING] + published
    until("many trades of others", lambda: tree.published()[RING] > more)
    until("stored trades", lambda: tree.count("trades") > published)
    return tree


def trades(tree: Tree, symbol: str) -> list[dict]:
    response = tree.get(f"/api/v1/trades/latest?symbol={symbol}&limit=1000")
    return response.data if response.status == 200 else []


@contextlib.contextmanager
def engine_stopped(tree: Tree) -> Iterator[Callable[[], None]]:
    """Until the block ends or calls what it got."""
    pid = tree.signal("clickhouse", signal.SIGSTOP)

    def go_on() -> None:
        if pid in tree.pids():
            tree.signal("clickhouse", signal.SIGCONT)

    try:
        yield go_on
    finally:
        go_on()


def all_noticed(tree: Tree) -> bool:
    """Whether each worker knows that ClickHouse does not answer; which one is asked is chance."""
    told = [tree.get("/api/v1/status").data for _ in range(8 * WORKERS)]
    states = {one["worker"]: one["history"]["status"] for one in told}
    return len(states) == WORKERS and set(states.values()) == {"unhealthy"}


def ask_for_everything(tree: Tree) -> None:
    held = [trade["trade_id"] for trade in trades(tree, QUIET)]
    for path in (*paths(BUSY), *paths(QUIET), *OF_THE_TREE):
        response = tree.get(path, timeout_s=CLIENT_TIMEOUT_S)
        assert response.status == 200, (path, response)
        if path.startswith("/api/v1"):
            assert response.json["success"], (path, response.json)
    assert tree.get("/livez").body == b"ok" == tree.get("/readyz").body
    assert len(tree.get(f"/api/v1/trades/{BUSY}").data) == 100
    quiet = tree.get(f"/api/v1/trades/{QUIET}?limit=1000", timeout_s=CLIENT_TIMEOUT_S).json
    assert [trade["trade_id"] for trade in quiet["data"]] == held
    assert quiet["metadata"]["data_source"] == "memory"
    for symbol in (BUSY, QUIET):
        book = tree.get(f"/api/v1/orderbook/binance/{symbol}").data
        assert book["state"] == "synced" and book["bids"] and book["asks"]


@contextlib.contextmanager
def subscribed(tree: Tree, symbol: str) -> Iterator[ClientConnection]:
    channels = [
        {"channel": kind, "exchange": "binance", "market_type": "spot", "symbol": symbol}
        for kind in ("trades", "quote", "book")
    ]
    with connect(f"ws://127.0.0.1:{tree.front_port}/ws/v1", open_timeout=CLIENT_TIMEOUT_S) as socket:
        socket.send(json.dumps({"op": "subscribe", "channels": channels}))
        yield socket


def kinds_until(socket: ClientConnection, wanted: set[tuple[str, str]]) -> None:
    """Read until each (frame type, kind of channel) has been there."""
    while wanted:
        frame = json.loads(socket.recv(CLIENT_TIMEOUT_S))
        kind = "update" if frame["type"] == "batch" else frame["type"]
        wanted.discard((kind, frame.get("channel", "").partition(".")[0]))


def test_engine_stopped_leaves_every_answer_from_memory_as_it_was(tree):
    capacity = 1024
    start(tree, capacity, published=2 * capacity)  # the quiet symbol's trades have left the ring: its tail has them
    with engine_stopped(tree):
        ask_for_everything(tree)  # before anybody can know
        until("the fronts to notice", lambda: all_noticed(tree), NOTICE_S)
        for _ in range(WORKERS):
            ask_for_everything(tree)
        an_hour_ago = int(time.time() - 3600)
        for symbol in (BUSY, QUIET):
            answer = tree.get(f"/api/v1/trades/{symbol}?start_time={an_hour_ago}", timeout_s=CLIENT_TIMEOUT_S).json
            assert answer["data"] and answer["metadata"]["data_source"] == "memory"
            assert (answer["metadata"]["completeness"] < 100) == (len(answer["data"]) < 100), answer["metadata"]
        # since the first failure, or the first probe without an answer, a worker does not even ask
        since = {"failed": -1.0, "skipped": 0.0}

        def only_skipped() -> bool:
            # a page has a total, which memory alone does not tell, and of an end that nobody has named before it is new
            end = time.time_ns() // 1_000_000
            path = f"/api/v1/trades/{BUSY}?start_time={an_hour_ago}&end_time={end}&page=1"
            assert tree.get(path, timeout_s=CLIENT_TIMEOUT_S).status == 200
            now = {outcome: tree.metric("tickring_front_history_total", outcome=outcome) for outcome in since}
            if now["failed"] != since["failed"]:  # at the first look, or a question of before its worker knew
                since.update(now)
            return now["skipped"] >= since["skipped"] + SKIPPED

        until("questions that were not asked", only_skipped)
        with subscribed(tree, BUSY) as busy, subscribed(tree, QUIET) as quiet:
            every = {(what, kind) for what in ("snapshot", "update") for kind in ("trades", "quote", "book")}
            kinds_until(busy, set(every))
            kinds_until(quiet, every - {("update", "trades")})


def test_engine_stopped_and_continued_has_every_record_of_the_ring_once(tree):
    start(tree, 1 << 17, published=500)
    with engine_stopped(tree) as go_on:
        published = tree.published()[RING]
        until("trades that went to the spool", lambda: tree.metric("tickring_storage_spooled_rows_total") > 100)
        until("more trades", lambda: tree.published()[RING] > published + 500)
        go_on()
        until("trades inserted directly again", lambda: tree.metric("tickring_storage_clickhouse_up") == 1)
    tree.signal("simulator", signal.SIGSTOP)
    until("an empty spool", lambda: tree.metric("tickring_storage_spool_batches") == 0)

    def ring_and_table() -> tuple[list[oracle.TradeRow], list[oracle.TradeRow]] | None:
        expected = rows_of_ring(tree)  # the feed may still have something in its sockets
        stored = oracle.table_rows(tree.select(oracle.SELECT_TRADES))
        return (expected, stored) if len(stored) == len(expected) > published else None

    expected, stored = until("the whole ring in the table", ring_and_table)
    assert oracle.digest(stored) == oracle.digest(expected)
    assert tree.metric("tickring_storage_lost_rows_total") == 0


def rows_of_ring(tree: Tree) -> list[oracle.TradeRow]:
    """Everything that the spot feed has published so far, as the table should have it."""
    reader = StreamReader(tree.folder, *RING.split("."), TRADE.dtype)
    try:
        rows, _, lost = reader.read(0, 1 << 20)
        assert lost == 0
        pairs = {key.key_id: key.attributes["symbol"] for key in reader.keys}
        return [
            oracle.TradeRow(
                "binance", "spot", pairs[int(row["key_id"])], pairs[int(row["key_id"])], int(row["nth"]),
                int(row["ts_event_ns"]), int(row["flags"]), int(row["trade_id"]), float(row["price"]),
                float(row["quantity"]), 0, 0, 0.0,
            )
            for row in rows
        ]  # fmt: skip
    finally:
        reader.close()
