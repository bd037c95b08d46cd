"""The writer and the desk's events: every event once in the raw table, each thing it says once in the derived ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from tickring.actors.writer.config import Config
from tickring.actors.writer.metrics import Metrics
from tickring.actors.writer.sampler import SampleFile, Sampler
from tickring.codecs.desk.canonical import Alert
from tickring.codecs.desk.records import PNL
from tickring.ringbuf import MetricsPage, StreamReader
from tickring.storage.batch import Batch, BatchHead
from tickring.storage.client import Server
from tickring.storage.errors import SpoolFull

from ..desk.desk_rig import Alerts, Portfolio, Topic
from ..desk.messages import NO_SCHEMA, mixture
from ..storage.conftest import engine, new_database, server  # noqa: F401
from ..storage.processes import wait_for
from .desk_log import ACTOR, Log, TopicPlayer, ask_stored, check_stored
from .writer_instance import Instance, nursery  # noqa: F401

INTEND = "tickring.storage.journal:Journal.intend"
MARK = "tickring.storage.journal:Journal.mark"
INSERT = "tickring.storage.client:Client.insert"
APPEND = "tickring.storage.spool:Spool.append"
SENT = "tickring.storage.spool:Spool.sent"


class Desk(Instance):
    """An instance whose only producer is the player of one topic."""

    def begin(self, fills: int = 150) -> Log:
        self.log = Log()
        self.log.produce(fills)
        return self.log

    def play(self, stored: dict[int, int] | None = None, **options) -> TopicPlayer:
        player = TopicPlayer(self.shm, self.log, stored, **options)
        self.producers.append(player)
        player.play()
        return player

    def reboot(self) -> None:
        """Nothing in shared memory survives; the disk does."""
        while self.producers:
            self.producers.pop().close()
        for path in self.shm.iterdir():
            path.unlink()

    def config(self, **more):
        # A life whose ring is new waits for so long, where the last one may have left an insert under way.
        return super().config(**{"desk_batch_rows": 60, "insert_timeout_s": 1.0, **more})

    def start_to_die(self, target: str, when: str, call: int, **more) -> None:
        """A life that ends at a call. The inserts have time: one that gives up sends the rest to the spool, and from
        there in fewer calls."""
        self.writer.start(self.config(insert_timeout_s=60.0, **more), {"target": target, "when": when, "call": call})
        self.writer.wait()

    def empty(self) -> None:
        """Take the rows out of the tables, which takes less time than to make them anew."""
        self.query(f"CREATE DATABASE IF NOT EXISTS {self.server.database}")
        self.query(f"TRUNCATE ALL TABLES FROM {self.server.database}")

    def finish(self) -> None:
        """Play what is left and wait until it is stored."""
        player = self.producers[-1]

        def all_played() -> bool:
            player.play()
            return player.done

        wait_for(f"the rest to be played; log: {self.writer.log.read_text()[-2000:]}", all_played)
        self.wait_stored(player)

    def check(self) -> None:
        check_stored(self.query, self.server.database, self.log)


@pytest.fixture
def fresh_desk(nursery, shm, tmp_path, server) -> Iterator[Desk]:  # noqa: F811
    """With a database of its own, in which no table is yet."""
    made = Desk(nursery, shm, tmp_path / "data", server)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_server(engine) -> Server:  # noqa: F811
    """The engine, with one database for the tests of this file."""
    return new_database(engine)


@pytest.fixture
def desk(nursery, shm, tmp_path, shared_server) -> Iterator[Desk]:  # noqa: F811
    """With tables that are empty, but were made by the first test of this file that asked for them."""
    made = Desk(nursery, shm, tmp_path / "data", shared_server)
    made.empty()
    yield made
    made.close()


def test_events_of_a_topic_reach_the_raw_table_and_all_that_they_say_the_derived_ones(fresh_desk):
    desk = fresh_desk
    desk.begin(400)
    desk.play()
    desk.writer.start(desk.config(desk_batch_rows=100))
    desk.finish()
    desk.check()
    assert desk.gaps() == []
    assert ask_stored(desk.server, desk.data) == desk.log.ends


def test_ring_smaller_than_the_topic_holds_the_topic_up_and_loses_nothing(desk):
    desk.begin(400)
    desk.play(capacity=64)
    desk.writer.start(desk.config(desk_batch_rows=50))
    desk.finish()
    desk.check()
    assert desk.gaps() == []


def test_batches_of_large_events_are_bounded_by_their_bytes(desk, shm):
    producer = Topic(shm, NO_SCHEMA, texts_bytes=1 << 26)
    desk.producers.append(producer)
    values = [bytes([n]) * (3 << 20) for n in range(12)]
    for value in values:
        producer.raw(value)
    desk.writer.start(desk.config())
    wait_for("all stored", lambda: count(desk, "raw_events") == len(values))
    found = desk.query(f"SELECT offset, length(value), hex(cityHash64(value)) FROM {desk.server.database}.raw_events")
    assert sorted(row[:2] for row in found) == [(n, len(value)) for n, value in enumerate(values)]
    assert len({row[2] for row in found}) == len(values)
    wait_for("three batches", lambda: desk.writer.metric("tickring_storage_batch_inserts_total") == 3)


def test_events_whose_bytes_were_overwritten_are_in_the_ledger_and_the_rest_is_stored(desk, shm):
    producer = Topic(shm, NO_SCHEMA, texts_bytes=1 << 16)
    desk.producers.append(producer)
    for n in range(100):
        producer.raw(bytes([n]) * 1000)  # nobody waits for the writer here, as a topic would
    desk.writer.start(desk.config())
    wait_for("what is left", lambda: count(desk, "raw_events") > 0 and desk.gaps())
    gaps = desk.gaps()
    assert [(gap.first, gap.reason) for gap in gaps] == [(0, "lapped")]
    wait_for("the rest", lambda: count(desk, "raw_events") == 100 - gaps[0].stop)
    offsets = desk.query(f"SELECT offset FROM {desk.server.database}.raw_events ORDER BY offset")
    assert [offset for (offset,) in offsets] == list(range(gaps[0].stop, 100))


# 1 orders, 2 fills, 3 exec_reports, 4 dead_letters, 5 raw_events: the inserts of a batch, in their order
STEPS = [
    (INTEND, "after", 2), (INSERT, "before", 1), (INSERT, "after", 1), (INSERT, "after", 3), (INSERT, "before", 5),
    (INSERT, "after", 5), (MARK, "before", 2), (MARK, "after", 2), (INSERT, "after", 7), (INSERT, "before", 10),
]  # fmt: skip


@pytest.mark.parametrize(("target", "when", "call"), STEPS)
def test_writer_killed_at_a_step_of_a_batch_repeats_it(desk, target, when, call):
    desk.begin()
    desk.play()
    desk.start_to_die(target, when, call)
    desk.writer.start(desk.config(desk_batch_rows=33))
    desk.finish()
    desk.check()


@pytest.mark.parametrize(("target", "when", "call"), STEPS)
def test_writer_killed_at_a_step_of_a_batch_by_a_reboot_stores_what_comes_again_once(desk, target, when, call):
    desk.begin()
    desk.play()
    desk.start_to_die(target, when, call)
    desk.reboot()
    desk.play(ask_stored(desk.server, desk.data))
    desk.writer.start(desk.config(desk_batch_rows=33))
    desk.finish()
    desk.check()
    assert desk.gaps() == [], "the topic still has its events"


@pytest.mark.parametrize(
    "again", [(INTEND, "after", 1), (INSERT, "after", 1), (INSERT, "after", 2), (MARK, "before", 2)]
)
def test_writer_killed_again_after_a_reboot_still_leaves_out_what_the_tables_have(desk, again):
    desk.begin()
    desk.play()
    desk.start_to_die(INSERT, "after", 3, desk_batch_rows=100)
    desk.reboot()
    desk.play(ask_stored(desk.server, desk.data))
    for config in ({"desk_batch_rows": 20}, {"desk_batch_rows": 20}):
        desk.writer.start(desk.config(**config), dict(zip(("target", "when", "call"), again, strict=True)))
        desk.writer.wait()
    desk.writer.start(desk.config())
    desk.finish()
    desk.check()


def filled_once(desk: Desk, **config) -> None:
    """Tables and the first events are there, so that the ring is settled."""
    desk.writer.start(desk.config(**config))
    desk.producers[-1].play(40)
    desk.wait_stored(desk.producers[-1])
    desk.writer.stop()


def paused(desk: Desk) -> TopicPlayer:
    player = TopicPlayer(desk.shm, desk.log)
    desk.producers.append(player)
    return player


SPOOL_STEPS = [(APPEND, "before", 3), (APPEND, "after", 4), (APPEND, "after", 5), (MARK, "before", 1)]


@pytest.mark.parametrize("wiped", [False, True], ids=["ring kept", "ring wiped"])
@pytest.mark.parametrize(("target", "when", "call"), SPOOL_STEPS)
def test_writer_killed_while_spooling_stores_every_event_once(desk, wiped, target, when, call):
    desk.begin()
    player = paused(desk)
    filled_once(desk)
    player.play()
    desk.writer.start(desk.away(desk_batch_rows=60), {"target": target, "when": when, "call": call})
    desk.writer.wait()
    if wiped:
        desk.reboot()
        desk.writer.start(desk.config())
        desk.play(ask_stored(desk.server, desk.data))
    else:
        desk.writer.start(desk.config())
    desk.finish()
    desk.check()


@pytest.mark.parametrize("wiped", [False, True], ids=["ring kept", "ring wiped"])
@pytest.mark.parametrize(("target", "when", "call"), [
    (INSERT, "before", 2), (INSERT, "after", 2), (INSERT, "after", 4), (INSERT, "after", 5), (INSERT, "before", 9),
    (SENT, "before", 1), (SENT, "after", 1), (SENT, "before", 2),
])  # fmt: skip
def test_writer_killed_while_replaying_the_spool_stores_every_event_once(desk, wiped, target, when, call):
    desk.begin(300)
    player = paused(desk)
    filled_once(desk)
    player.play()
    desk.writer.start(desk.away(desk_batch_rows=3))  # so many batches that they go in two windows
    wait_for("all spooled", lambda: desk.cursors(player).get("writer") == player.sequence)
    desk.writer.kill()
    desk.start_to_die(target, when, call)
    database = desk.server.database
    early = desk.query(
        f"SELECT count() FROM {database}.raw_events WHERE (partition, offset) NOT IN (SELECT partition, offset "
        f"FROM {database}.exec_reports UNION ALL SELECT partition, offset FROM {database}.dead_letters)"
    )
    assert early == [(0,)], "an event is stored before what follows from it"
    if wiped:
        desk.reboot()
        desk.writer.start(desk.config())
        desk.play(ask_stored(desk.server, desk.data))
    else:
        desk.writer.start(desk.config())
    desk.finish()
    desk.check()


def test_spool_of_many_small_batches_is_replayed_in_few_inserts(desk):
    desk.begin(500)
    player = paused(desk)
    filled_once(desk)
    player.play()
    desk.writer.start(desk.away(desk_batch_rows=3))
    wait_for("all spooled", lambda: desk.cursors(player).get("writer") == player.sequence)
    wait_for("the count", lambda: desk.writer.metric("tickring_storage_spool_batches", lane="desk") > 300)
    batches = desk.writer.metric("tickring_storage_spool_batches", lane="desk")
    desk.writer.kill()
    desk.writer.start(desk.config())
    desk.finish()
    desk.check()
    inserts = desk.writer.metric("tickring_storage_insert_seconds", lane="desk")
    assert inserts <= 5 * (batches // 256 + 1) + 5, "five tables; and perhaps a last range that came behind"


def test_spool_at_its_bound_holds_the_topic_up_and_nothing_yields(desk):
    desk.begin(1500)
    player = TopicPlayer(desk.shm, desk.log, capacity=1024)
    desk.producers.append(player)
    filled_once(desk)
    desk.writer.start(desk.away(desk_spool_max_bytes=1 << 20, desk_batch_rows=100))

    def full() -> bool:
        player.play()
        return desk.writer.metric("tickring_storage_disk_errors_total", lane="desk") > 0

    wait_for("a full spool", full)
    wait_for("a topic that pauses", lambda: player.play() or not player._has_room())
    assert not player.done
    desk.writer.kill()
    desk.writer.start(desk.config(desk_spool_max_bytes=1 << 20))
    desk.finish()
    desk.check()
    assert desk.gaps() == []


def test_tokens_that_are_forgotten_do_not_double_an_interrupted_batch(fresh_desk):
    desk = fresh_desk
    desk.begin()
    desk.play()
    desk.start_to_die(INSERT, "after", 5)
    for table in ("fills", "exec_reports", "dead_letters", "raw_events"):
        desk.query(f"ALTER TABLE {desk.server.database}.{table} MODIFY SETTING non_replicated_deduplication_window = 0")
    desk.writer.start(desk.config())
    desk.finish()
    desk.check()


def test_topic_made_anew_while_the_writer_runs_goes_on_without_doubling(desk):
    desk.begin()
    player = TopicPlayer(desk.shm, desk.log)
    desk.producers.append(player)
    desk.writer.start(desk.config())
    player.play(100)
    desk.producers.remove(player)
    player.close()
    (desk.shm / f"{ACTOR}.event.ring").unlink()  # as for another capacity; what it held is on its way
    desk.play(ask_stored(desk.server, desk.data), capacity=1 << 12)
    desk.finish()
    desk.check()


@pytest.mark.parametrize("seed", [1, 2])
def test_writer_killed_many_times_at_random_with_and_without_its_ring_stores_every_event_once(desk, seed):
    rng = random.Random(seed)
    desk.begin(300)
    player = paused(desk)
    filled_once(desk)
    for _ in range(8):
        target, when = rng.choice((INTEND, INSERT, INSERT, MARK, APPEND, SENT)), rng.choice(("before", "after"))
        away = target is APPEND or (target is not SENT and rng.random() < 0.3)
        die = {"target": APPEND if away else target, "when": when, "call": rng.randint(1, 9)}
        player.play(rng.randint(30, 120))
        rows = rng.choice((7, 20, 60))
        desk.writer.start((desk.away if away else desk.config)(desk_batch_rows=rows), die)
        with contextlib.suppress(AssertionError):  # it may have had less to do than that
            wait_for("a kill", lambda: not desk.writer.alive(), 1.5)
        desk.writer.kill()
        if rng.random() < 0.5:
            desk.reboot()
            desk.writer.start(desk.config())
            stored = ask_stored(desk.server, desk.data)
            desk.writer.kill()
            player = TopicPlayer(desk.shm, desk.log, stored)
            desk.producers.append(player)
    desk.writer.start(desk.config())
    desk.finish()
    desk.check()
    assert desk.gaps() == []


# -- the other streams ------------------------------------------------------------------------------------------------

# topic -> the table of what its events say
SAID = {
    "risk.metrics.v1": "risk_metrics", "system.health.v1": "system_health",
    "strategy.performance.v1": "strategy_performance", "trade.signals.v1": "trade_signals",
    "position.updates.v1": "position_updates", "market.data.v1": "market_data",
}  # fmt: skip


def test_events_of_every_other_topic_are_in_the_raw_table_and_in_their_own(desk, shm):
    rng = random.Random(3)
    produced: dict[str, list[bytes]] = {}
    for topic in (*SAID, "alerts.v1", NO_SCHEMA):
        values = [m.value for m in mixture(rng, 40, topics=(topic,))] if topic != NO_SCHEMA else [b"\xff\x00", b"{}"]
        produced[topic] = values
        producer = Topic(shm, topic)
        desk.producers.append(producer)
        for value in values:
            producer.raw(value)
    desk.writer.start(desk.config())
    database = desk.server.database
    wait_for("all stored", lambda: sum(map(len, produced.values())) == count(desk, "raw_events"))
    for topic, values in produced.items():
        found = desk.query(
            f"SELECT lower(hex(value)) FROM {database}.raw_events WHERE topic = '{topic}' ORDER BY offset"
        )
        assert [value for (value,) in found] == [value.hex() for value in values]
    for topic, table in SAID.items():
        ids = desk.query(f"SELECT topic, event_id FROM {database}.{table} ORDER BY offset")
        assert ids == [(topic, json.loads(value)["event_id"]) for value in produced[topic]]
    assert count(desk, "dead_letters") == 0
    assert count(desk, "alerts") == 0, "their state is the alerts actor's to say"


def count(desk: Desk, table: str) -> int:
    found = desk.query(
        f"SELECT total_rows FROM system.tables WHERE database = '{desk.server.database}' AND name = '{table}'"
    )
    return int(found[0][0]) if found else 0


def test_newest_state_of_an_alert_wins(desk, shm):
    alerts = Alerts(shm)
    desk.producers.append(alerts)
    raised = Alert(
        event_id="e", timestamp=1_741_080_000_000_000_000, variant="api", alert_id="al-1", severity="HIGH", code="VAR",
        current_value=2**70, context='{"a": 1}',
    )  # fmt: skip
    alerts.put(raised)
    alerts.put(msgspec.structs.replace(raised, alert_id="al-2", account_id="acct-7"))
    desk.writer.start(desk.config())
    wait_for("both stored", lambda: count(desk, "alerts") == 2)
    alerts.put(msgspec.structs.replace(raised, acknowledged=True, status="ACKNOWLEDGED"))
    wait_for("the third stored", lambda: count(desk, "alerts") == 3)
    desk.writer.kill()
    desk.writer.start(desk.config())
    alerts.put(msgspec.structs.replace(raised, acknowledged=True, resolved=True, status="RESOLVED"))
    states = f"SELECT alert_id, account_id, status, resolved, current_value FROM {desk.server.database}.alerts FINAL"
    value = Decimal(f"{2**70}e-8")
    expected = [("al-1", "default", "RESOLVED", True, value), ("al-2", "acct-7", "ACTIVE", False, value)]
    wait_for("the last state", lambda: sorted(desk.query(states)) == expected)


def test_positions_and_pnl_are_sampled_and_make_the_curve(desk, shm):
    portfolio = Portfolio(shm)
    desk.producers.append(portfolio)
    portfolio.position("a", "s", "binance", "BTCUSDT", quantity=-(5 * 10**19), cost=-(10**30))
    portfolio.pnl("a", realized_pnl=7 * 10**8, total_pnl=5 * 10**8, fees=2 * 10**8, fill_count=3)
    desk.writer.start(desk.config())
    wait_for("both stored", lambda: count(desk, "positions") == 1 and count(desk, "pnl_samples") == 1)
    database = desk.server.database
    assert desk.query(f"SELECT account_id, symbol, quantity, cost, position_side FROM {database}.positions") == [
        ("a", "BTCUSDT", Decimal("-500000000000"), Decimal("-1e22"), "SHORT")
    ]
    curve = f"SELECT interval_type, realized_pnl, cumulative_pnl, trade_count FROM {database}.pnl_curve ORDER BY 1"
    expected = [(interval, Decimal(7), Decimal(5), 3) for interval in ("15m", "1d", "1h", "1m", "5m")]
    wait_for("the curve", lambda: desk.query(curve) == expected)


def test_sample_of_the_last_life_that_finds_no_room_ends_nothing(shm, tmp_path):
    """The desk's spool does not yield, and the writer must not end each time it begins while that is full."""
    portfolio = Portfolio(shm)
    portfolio.pnl("a", fill_count=3)
    batch = Batch(
        BatchHead(
            stream="portfolio.pnl", record="pnl", table="pnl_samples", columns=[], kind="sample", epoch=1, first=0,
            stop=1, rows=1, token="t", ts_first_ns=0, ts_last_ns=0,
        ),
        b"block",
    )  # fmt: skip
    SampleFile(tmp_path, "portfolio.pnl").store(1, 0, np.zeros(1, np.uint64), batch)
    page = MetricsPage(shm, "writer", time.time_ns())
    tried = []

    async def deliver(given: Batch) -> None:
        tried.append(given.head.token)
        raise SpoolFull("full")

    reader = StreamReader(shm, "portfolio", PNL.name, PNL.dtype, PNL.fingerprint)
    delivery = SimpleNamespace(config=Config(), deliver=deliver)
    sampler = Sampler(reader, PNL, tmp_path, delivery, Metrics(page))
    sampler.leave()
    asyncio.run(sampler.run())
    assert len(tried) == 2 and tried[0] == "t", "what was left is given up, and the next one is tried"
    for part in (sampler, page, portfolio):
        part.close()
