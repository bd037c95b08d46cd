"""The portfolio as a process: killed, restarted, its shared memory wiped, its past read from ClickHouse."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tickring.actors.portfolio import portfolio
from tickring.codecs.desk.canonical import ALL_SYMBOLS as ALL
from tickring.codecs.desk.canonical import ClaimedPosition, MarketData, Risk
from tickring.codecs.desk.money import UNIT
from tickring.codecs.desk.records import MARKS
from tickring.codecs.record import Flag
from tickring.codecs.records import QUOTE
from tickring.codecs.symbols import Instrument
from tickring.ringbuf import ReaderKind, StreamReader
from tickring.storage.client import Client, Server
from tickring.storage.deskschema import RAW_EVENTS, ensure_desk
from tickring.storage.nativerows import encode_rows
from tickring.storage.schema import SchemaOptions, qualified

from ..storage.processes import running_engine
from . import broker as kafka
from .desk_rig import DeskProducer, Topic
from .messages import Message, execution_stream
from .portfolio_oracle import fold_all, rounded, true_set
from .portfolio_process import EXECUTIONS, PortfolioRig, Reports, wipe

PARTITIONS = 3
SETTINGS = {"rates": {"BNB-USDT": "600"}, "commit_interval_ms": 20}


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def server(engine: Any) -> dict[str, Any]:
    """The engine, with a database that no other test uses."""
    password = str(engine.data / "clickhouse" / "password")
    return {"url": engine.detail()["url"], "password_file": password, "database": f"t{uuid.uuid4().hex[:10]}"}


@pytest.fixture
def make(shm: Path, tmp_path: Path, server: dict[str, Any]) -> Iterator[Callable[..., PortfolioRig]]:
    """``make(**settings)``: a portfolio whose process is not started yet."""
    made: list[PortfolioRig] = []

    def rig(**settings: Any) -> PortfolioRig:
        made.append(PortfolioRig(shm, tmp_path, **{"clickhouse": server, **SETTINGS, **settings}))
        return made[-1]

    yield rig
    for one in made:
        one.kill()


@pytest.fixture
def eventually(wait_for: Callable[..., None]) -> Callable[..., None]:
    return wait_for


def stream(seed: int, fills: int) -> list[tuple[int, Message]]:
    """Messages and the partitions they go to."""
    rng = random.Random(seed)
    messages = execution_stream(rng, fills, late=0.2, told_twice=0.2, repeated=0.1)
    return [(rng.randrange(PARTITIONS), message) for message in messages]


def differences(rig: PortfolioRig, messages: Iterable[Message]) -> list[str]:
    """What is published and is not what the fills say."""
    oracles, found = fold_all(true_set(messages)), rig.positions()
    wrong = [f"{key} missing" for key in oracles.keys() - found.keys()]
    wrong += [f"{key} too many" for key, row in found.items() if key not in oracles and row["trade_count"]]
    for key in oracles.keys() & found.keys():
        oracle, row = oracles[key], found[key]  # type: ignore[index]
        expected = {
            "quantity": rounded(oracle.quantity), "fees": rounded(oracle.fees), "trade_count": oracle.fills,
        }  # fmt: skip
        wrong += [f"{key} {name} {row[name]} != {value}" for name, value in expected.items() if row[name] != value]
        if abs(row["realized_pnl"] - rounded(oracle.realized)) > 1:
            wrong.append(f"{key} realized {row['realized_pnl']} != {rounded(oracle.realized)}")
        if abs(row["cost"] - rounded(oracle.quantity * oracle.average)) > 1:
            wrong.append(f"{key} cost {row['cost']}")
    return wrong


STEADY = ("quantity", "cost", "realized_pnl", "fees", "trade_count", "claimed_pnl", "opened_ns", "avg_price")


def steady(rig: PortfolioRig) -> dict[Any, Any]:
    """What follows from the fills alone, of positions and groups."""
    figures = ("realized_pnl", "fees", "volume", "fill_count", "winning_trips", "gross_loss", "largest_win")
    return {
        "positions": {key: [row[name] for name in STEADY] for key, row in rig.positions().items()},
        "pnl": {key: [row[name] for name in figures] for key, row in rig.pnl().items()},
    }


def settled(rig: PortfolioRig, messages: Iterable[Message]) -> bool:
    """Whether the groups are published with the last fill."""
    fills, rows = len(true_set(messages)), rig.pnl()
    kinds: dict[tuple[bool, bool], int] = {}
    for (_, strategy, symbol), row in rows.items():
        kind = (strategy == ALL, symbol == ALL)
        kinds[kind] = kinds.get(kind, 0) + row["fill_count"]
    return list(kinds.values()) == [fills] * 4


def test_positions_equal_the_fills_through_kills(make, shm, eventually):
    rig = make()
    reports = Reports(shm, rig.bell)
    messages = stream(1, 400)
    rig.start()
    rng = random.Random(2)
    for start in range(0, len(messages), 50):
        for partition, message in messages[start : start + 50]:
            reports.publish_message(message, partition)
        if start % 100 == 0:
            time.sleep(rng.random() / 20)  # somewhere in its work
            rig.kill()
            rig.start()
    told = [message for _, message in messages]
    eventually(lambda: not differences(rig, told), "the positions of the oracle")
    eventually(lambda: settled(rig, told), "its PnL")
    before = steady(rig)
    rig.kill()
    rig.start()
    eventually(lambda: rig.running(), "a restart")
    assert steady(rig) == before
    assert rig.stop() == 0
    reports.close()


def test_restart_begins_where_it_was_and_folds_nothing_twice(make, shm, eventually):
    rig = make()
    reports = Reports(shm, rig.bell)
    rig.start()
    messages = stream(3, 100)
    for partition, message in messages:
        reports.publish_message(message, partition)
    told = [message for _, message in messages]
    eventually(lambda: not differences(rig, told) and settled(rig, told), "positions")
    assert rig.stop() == 0
    reader = StreamReader(shm, reports.name, "fill")
    line = reader.register("portfolio", ReaderKind.DURABLE)
    assert line.cursor == reader.published()
    reader.close()
    before = steady(rig)
    rig.start()
    eventually(lambda: rig.running(), "a restart")
    assert rig.metric("fills_total") == 0
    assert steady(rig) == before
    reports.close()


async def store_events(server: Server, events: list[tuple[int, int, Message]]) -> None:
    """What the writer does with raw events: rows of (partition, offset, message)."""
    client = Client(server)
    try:
        await ensure_desk(client, SchemaOptions(database=server.database))
        names = [name for name, _, _ in RAW_EVENTS.columns]
        rows = []
        for partition, offset, message in events:
            given = {
                "topic": EXECUTIONS, "partition": partition, "offset": offset, "value": message.value, "event_id": "",
                "variant": message.variant, "key": None, "headers": (), "flags": 0,
            }  # fmt: skip
            rows.append(tuple(given.get(name, time.time_ns()) for name in names))
        block = encode_rows([(name, kind) for name, kind, _ in RAW_EVENTS.columns], rows)
        await client.insert(qualified(server.database, RAW_EVENTS.name), names, block, f"t{len(rows)}-{events[0][:2]}")
    finally:
        await client.close()


def test_wiped_shared_memory_is_made_good_from_clickhouse(make, shm, server, eventually):
    rig = make()
    reports = Reports(shm, rig.bell)
    messages = stream(5, 300)
    rig.start()
    for partition, message in messages[:200]:
        reports.publish_message(message, partition)
    eventually(lambda: rig.metric("fills_total") > 50, "some fills")
    rig.kill()  # perhaps before it has seen all of them
    reports.close()
    wipe(shm)
    offsets = [0] * PARTITIONS
    stored = []
    for partition, message in messages[:250]:  # 50 of which it has never seen
        stored.append((partition, offsets[partition], message))
        offsets[partition] += 1
    rig.make_streams()
    reports = Reports(shm, rig.bell, offsets)
    rig.start()
    for partition, message in messages[250:]:
        reports.publish_message(message, partition)
    eventually(lambda: rig.metric("past_failures_total") > 0 or rig.metric("holes") > 0, "a hole")
    eventually(lambda: all(row["flags"] & Flag.PARTIAL for row in rig.positions().values()), "rows that say so")
    asyncio.run(store_events(Server(**server), stored))
    asyncio.run(store_events(Server(**server), _rest(messages, 250)))
    told = [message for _, message in messages]
    eventually(lambda: not differences(rig, told), "the positions of the oracle")
    eventually(lambda: rig.metric("holes") == 0 and settled(rig, told), "no holes")
    # Without any state of its own it comes to the same.
    before = steady(rig)
    rig.kill()
    reports.close()
    wipe(shm)
    for path in (rig.data / "portfolio").iterdir():
        path.unlink()
    rig.make_streams()
    reports = Reports(shm, rig.bell, [0] * PARTITIONS)
    rig.start()
    eventually(lambda: not differences(rig, told) and settled(rig, told), "the positions of the oracle once more")
    assert steady(rig) == before
    reports.close()


@pytest.mark.parametrize("past_first", [100, 100_000], ids=["past-first", "side-by-side"])
def test_flood_is_left_to_clickhouse_and_comes_to_the_same(make, shm, server, eventually, monkeypatch, past_first):
    monkeypatch.setattr(portfolio, "PAST_FIRST", past_first)  # the process is forked
    rig = make()
    reports = Reports(shm, rig.bell, capacity=1 << 11)
    messages, told = stream(21, 4000)[:4500], []
    assert len(messages) == 4500
    asyncio.run(store_events(Server(**server), _rest(messages, 0)[:1]))
    rng = random.Random(22)
    for start in range(0, len(messages), 1500):
        rig.start()
        eventually(lambda: rig.running() and rig.metric("clickhouse_up"), "an answer of ClickHouse")
        eventually(lambda: rig.metric("holes") == 0, "no holes")
        os.kill(rig.process.pid, signal.SIGSTOP)
        for partition, message in messages[start : start + 1500]:
            reports.publish_message(message, partition)
            told.append(message)
        os.kill(rig.process.pid, signal.SIGCONT)
        eventually(lambda: rig.metric("skipped_rows_total") > 0, "rows that are left out")
        assert rig.metric("lost_rows_total") == 0
        asyncio.run(store_events(Server(**server), _rest(messages, max(1, start))[: len(told) - max(1, start)]))
        time.sleep(rng.random() / 10)  # somewhere in its work
        rig.kill()
    rig.start()
    eventually(lambda: not differences(rig, told), "the positions of the oracle")
    eventually(lambda: rig.metric("holes") == 0 and settled(rig, told), "no holes")
    reports.close()


def _rest(messages: list[tuple[int, Message]], first: int) -> list[tuple[int, int, Message]]:
    offsets = [0] * PARTITIONS
    found = []
    for partition, message in messages:
        found.append((partition, offsets[partition], message))
        offsets[partition] += 1
    return found[first:]


def test_positions_follow_a_real_topic_in_any_order(make, shm, any_broker, topic, make_rig, eventually):
    messages = stream(7, 300)
    kafka.produce(any_broker.bootstrap, topic, [
        (partition, message.key, message.value, list(message.headers)) for partition, message in messages
    ])  # fmt: skip
    rig, source = make(), make_rig(topic, bootstrap_servers=any_broker.bootstrap)
    source.start()
    rig.start()
    told = [message for _, message in messages]
    eventually(lambda: not differences(rig, told) and settled(rig, told), "the positions of the oracle")
    source.kill()
    rig.kill()
    source.start()
    rig.start()
    more = stream(8, 100)
    kafka.produce(any_broker.bootstrap, topic, [(part, None, message.value, None) for part, message in _later(more)])
    told += [message for _, message in _later(more)]
    eventually(lambda: not differences(rig, told) and settled(rig, told), "the positions of the oracle again")
    source.stop()
    assert rig.stop() == 0


def _later(messages: list[tuple[int, Message]]) -> list[tuple[int, Message]]:
    """The same under other fill ids."""
    changed = []
    for partition, message in messages:
        fills = tuple(replace(fill, fill_id=f"again-{fill.fill_id}") for fill in message.fills)
        value = message.value
        for fill in message.fills:
            value = value.replace(f'"{fill.fill_id}"'.encode(), f'"again-{fill.fill_id}"'.encode())
        changed.append((partition, replace(message, value=value, fills=fills)))
    return changed


class QuoteFeed(DeskProducer):
    """A feed that quotes spot pairs."""

    def __init__(self, shm: Path) -> None:
        super().__init__(shm, "feed-binance-spot-0", (QUOTE,))

    def quote(self, base: str, bid: float, ask: float) -> None:
        one = Instrument(exchange="binance", product="spot", native=f"{base}USDT", base=base, quote="USDT")
        key_id = self.key(one.key, **one.attributes())
        now = time.time_ns()
        self.publish["quote"](key_id, now, now, 0, bid, 1.0, ask, 1.0)


def fill(reports: Reports, symbol: str, quantity: int, price: int, fill_id: str, **members: Any) -> None:
    from tickring.codecs.desk.canonical import Fill

    given = {
        "fill_id": fill_id, "symbol": symbol, "side": "SELL" if quantity < 0 else "BUY",
        "quantity": abs(quantity) * UNIT, "price": price * UNIT, "timestamp": time.time_ns(), "strategy_id": "s",
        "account_id": "a", "venue": "binance", **members,
    }  # fmt: skip
    offset = reports.offsets.get(0, 0)
    reports.offsets[0] = offset + 1
    reports._fill(Fill(**given), 2, 0, offset, 0)


def test_positions_follow_live_quotes_and_say_when_they_are_stale(make, shm, eventually):
    rig = make(marks_per_second=50, stale_after_s=1.0)
    reports, feed = Reports(shm, rig.bell), QuoteFeed(shm)
    feed.quote("BTC", 100.0, 102.0)
    feed.quote("BNB", 500.0, 500.0)
    rig.start()
    for n, symbol in enumerate(("BTCUSDT", "BTC-USDT", "btc/usdt")):
        fill(reports, symbol, 2, 90, f"f{n}", commission=UNIT // 100, commission_asset="BNB")
    key = ("a", "s", "binance", "BTC-USDT")
    eventually(lambda: len(rig.positions()) == 3, "three positions")
    for row in rig.positions().values():
        assert row["mark"] == MARKS.index("quote")
        assert (row["mark_price"], row["unrealized_pnl"], row["fees"]) == (101 * UNIT, 22 * UNIT, 5 * UNIT)
    feed.quote("BTC", 110.0, 110.0)
    eventually(lambda: rig.positions()[key]["unrealized_pnl"] == 40 * UNIT, "the new mark")
    eventually(lambda: rig.pnl()["a", ALL, ALL]["unrealized_pnl"] == 120 * UNIT, "the new PnL")
    eventually(lambda: rig.pnl()["a", ALL, ALL]["peak_pnl"] == (120 - 15) * UNIT, "its peak")
    row = rig.pnl()["a", ALL, ALL]
    assert row["total_pnl"] == (120 - 15) * UNIT
    assert (row["long_exposure"], row["positions"]) == (660 * UNIT, 3)
    eventually(lambda: rig.positions()[key]["state"] == 0, "a stale mark")

    def live() -> bool:
        feed.quote("BTC", 110.0, 110.0)
        return rig.positions()[key]["state"] == 1

    eventually(live, "a live mark")
    feed.close()
    reports.close()


def test_symbols_that_nobody_collects_are_valued_by_the_last_event(make, shm, eventually):
    rig = make(marks_per_second=50)
    reports = Reports(shm, rig.bell)
    market = Topic(shm, "market.data.v1")
    rig.start()
    fill(reports, "XYZUSDT", -2, 90, "f")
    key = ("a", "s", "binance", "XYZUSDT")
    eventually(lambda: key in rig.positions(), "the position")
    assert rig.positions()[key]["mark"] == MARKS.index("fill")
    market.say(MarketData(
        event_id="m", timestamp=time.time_ns(), variant="mon-flat", symbol="XYZ-USDT", price=80 * UNIT,
    ))  # fmt: skip
    eventually(lambda: rig.positions()[key]["mark"] == MARKS.index("event"), "the event's price")
    assert rig.positions()[key]["unrealized_pnl"] == 20 * UNIT
    market.close()
    reports.close()


def test_fill_of_absurd_numbers_is_cut_off_and_ends_nothing(make, shm, eventually):
    rig = make()
    reports = Reports(shm, rig.bell)
    rig.start()
    fill(reports, "BTCUSDT", 10**27, 10**28, "f1", commission=10**37, commission_asset="BTC")
    fill(reports, "BTCUSDT", -(10**26), 1, "f2", timestamp=2261 * 365 * 86_400 * 10**9 - 1970 * 365 * 86_400 * 10**9)
    key = ("a", "s", "binance", "BTCUSDT")
    eventually(lambda: key in rig.positions() and rig.positions()[key]["trade_count"] == 2, "both fills")
    before = rig.positions()[key]
    assert (before["quantity"], before["fees"]) == (9 * 10**34, 10**38 - 1)
    rig.kill()
    rig.start()
    eventually(lambda: rig.running(), "a restart")
    assert rig.positions()[key]["realized_pnl"] == before["realized_pnl"] == 1 - 10**38
    reports.close()


def test_claims_stay_apart_and_their_difference_is_a_metric(make, shm, eventually):
    rig = make()
    reports = Reports(shm, rig.bell)
    risk = Topic(shm, "risk.metrics.v1")
    rig.start()
    fill(reports, "BTCUSDT", 2, 100, "f1")
    fill(reports, "BTCUSDT", -1, 110, "f2", realized_pnl=12 * UNIT)
    claimed = [ClaimedPosition(symbol="BTC-USDT", quantity=5 * UNIT)]
    risk.say(
        Risk(event_id="r", timestamp=time.time_ns(), variant="api", strategy_id="s", account_id="a", positions=claimed),
        "a",
    )
    eventually(lambda: rig.metric("claim_difference", figure="quantity", symbol="BTC-USDT") == 4, "the quantity")
    eventually(lambda: rig.metric("claim_difference", figure="realized_pnl", account="a") == 2, "the realised PnL")
    row = rig.positions()["a", "s", "binance", "BTCUSDT"]
    assert (row["realized_pnl"], row["claimed_pnl"]) == (10 * UNIT, 12 * UNIT)
    risk.close()
    reports.close()


def test_configured_openings_are_there_without_a_fill(make, eventually):
    opening = {"symbol": "BTCUSDT", "quantity": "-1.5", "price": "100", "account": "a", "strategy": "s"}
    rig = make(openings=[opening], capital={"a": "1000"})
    rig.start()
    eventually(lambda: rig.positions(), "the position")
    row = rig.positions()["a", "s", "binance", "BTCUSDT"]
    assert (row["quantity"], row["cost"], row["avg_price"]) == (-3 * UNIT // 2, -150 * UNIT, 100 * UNIT)


def test_equity_curve_goes_on_while_positions_are_open(make, shm, eventually):
    rig = make(curve_interval_s=0.5)
    reports = Reports(shm, rig.bell)
    rig.start()
    fill(reports, "XYZUSDT", 1, 90, "f1")
    eventually(lambda: rig.pnl(), "its PnL")
    first = rig.pnl()["a", ALL, ALL]["nth"]
    eventually(lambda: rig.pnl()["a", ALL, ALL]["nth"] >= first + 3, "samples without a change")
    reports.close()


def test_peak_and_close_of_day_survive_a_kill(make, shm, eventually):
    rig = make(marks_per_second=50)
    reports, feed = Reports(shm, rig.bell), QuoteFeed(shm)
    feed.quote("BTC", 100.0, 100.0)
    rig.start()
    fill(reports, "BTCUSDT", 1, 100, "f1")
    eventually(lambda: rig.positions() and ("a", ALL, ALL) in rig.pnl(), "the position and its PnL")
    feed.quote("BTC", 150.0, 150.0)
    eventually(lambda: rig.pnl()["a", ALL, ALL]["peak_pnl"] == 50 * UNIT, "the peak")
    feed.quote("BTC", 125.0, 125.0)
    eventually(lambda: rig.pnl()["a", ALL, ALL]["total_pnl"] == 25 * UNIT, "the fall")
    rig.kill()
    rig.start()
    eventually(lambda: rig.running(), "a restart")
    row = rig.pnl()["a", ALL, ALL]
    assert (row["peak_pnl"], row["max_drawdown"]) == (50 * UNIT, 0.5)
    feed.close()
    reports.close()
