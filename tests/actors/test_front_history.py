"""One answer from two places: memory above the seam, a real embedded ClickHouse below it, and that one stopped."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickring.actors.front.config import Config
from tickring.actors.front.history import History
from tickring.actors.front.merge import Older, Seam, merge, stored_sequence
from tickring.actors.runtime import ActorContext
from tickring.codecs.records import TRADE
from tickring.ringbuf import MetricsPage, ReaderKind, StreamReader
from tickring.storage.client import Server
from tickring.storage.errors import Unavailable

from ..storage.processes import Actor
from .front_rig import (  # noqa: F401 - fixtures
    PRODUCER,
    FrontThread,
    Producer,
    engine_fixture,
    instance_folder,
    instrument,
    many_trades,
    server_fixture,
    store,
)
from .test_front_rest import eventually

TAIL = TRADE.tail
DAY_NS = 86_400 * 10**9


@pytest.fixture
def folder() -> Iterator[Path]:
    with instance_folder() as folder:
        yield folder


@pytest.fixture
def producer(folder: Path) -> Iterator[Producer]:
    producer = Producer(folder, records=(TRADE,), capacity=1 << 12)
    yield producer
    producer.close()


@pytest.fixture
def reader(folder: Path, producer: Producer) -> Iterator[StreamReader]:
    reader = StreamReader(folder, PRODUCER, "trade", TRADE.dtype)
    yield reader
    reader.close()


class Table:
    """Stands for ClickHouse: rows it has, and what it was asked."""

    def __init__(self, rows: np.ndarray, epoch: int) -> None:
        self.rows, self.epoch = rows, epoch
        self.asked: list[tuple[int, int, int, int, int]] = []
        self.answers = True

    async def older(self, seam: Seam, start_ns: int, end_ns: int, limit: int) -> Older | None:
        nth = seam.nth
        self.asked.append((seam.epoch, nth, start_ns, end_ns, limit))
        if not self.answers:
            return None
        times = self.rows["ts_event_ns"]
        fitting = self.rows[(self.rows["nth"] < nth) & (times >= start_ns) & (times < end_ns)]
        newest = fitting[-limit:]
        return Older(newest, np.full(len(newest), self.epoch, np.uint64))


def merged(reader: StreamReader, key_id: int, table: Table, wanted: int, start_ns: int = 0) -> Any:
    return asyncio.run(merge(reader, key_id, start_ns, time.time_ns() + 10**9, wanted, table.older))


def everything(reader: StreamReader) -> np.ndarray:
    rows, _, lost = reader.read(0, 1 << 20)
    assert not lost
    return rows


def test_newest_rows_come_from_memory_without_a_question(producer: Producer, reader: StreamReader) -> None:
    key_id = producer.add(instrument("BTC"))
    many_trades(producer, [key_id], 500)
    table = Table(everything(reader)[:0], reader.epoch)
    found = merged(reader, key_id, table, 400)
    assert (found.data_source, found.completeness, len(found.rows)) == ("memory", 100.0, 400)
    assert found.rows["nth"].tolist() == list(range(499, 99, -1))
    assert not table.asked


def test_rows_that_are_not_stored_yet_come_from_the_ring(producer: Producer, reader: StreamReader) -> None:
    key_id, other = producer.add(instrument("BTC")), producer.add(instrument("ETH"))
    many_trades(producer, [key_id], 1500)
    many_trades(producer, [other], 100)
    rows = everything(reader)
    line = reader.register("writer.stored", ReaderKind.LOSSY, None, 200)
    assert stored_sequence(reader) == 200
    table = Table(rows[(rows["key_id"] == key_id)][:200], reader.epoch)  # what the writer has stored: nth 0 to 199
    found = merged(reader, key_id, table, 1500)
    assert found.rows["nth"].tolist() == list(range(1499, -1, -1))
    assert (found.data_source, found.completeness) == ("mixed", 100.0)
    assert table.asked[0][:2] == (reader.epoch, 200)
    line.close()


def test_seam_that_moves_loses_and_doubles_no_row(producer: Producer, reader: StreamReader) -> None:
    key_id = producer.add(instrument("BTC"))
    many_trades(producer, [key_id], 3000)
    rows = everything(reader)
    line = reader.register("writer.stored", ReaderKind.LOSSY)
    for stored in (0, 1, 500, 1975, 1976, 1977, 1978, 2500, 3000):
        line.cursor = stored
        found = merged(reader, key_id, Table(rows[:stored], reader.epoch), 3000)
        assert found.rows["nth"].tolist() == list(range(2999, -1, -1)), stored
        assert found.completeness == 100.0
    line.close()


def test_range_that_is_over_lacks_nothing_that_came_after_it(producer: Producer, reader: StreamReader) -> None:
    key_id = producer.add(instrument("BTC"))
    now = time.time_ns()
    for i in range(2000):
        producer.trade(key_id, at_ns=now - (2000 - i) * 10**9)
    rows = everything(reader)
    line = reader.register("writer.stored", ReaderKind.LOSSY, None, 2000)
    start, end = now - 1800 * 10**9, now - 1700 * 10**9
    found = asyncio.run(merge(reader, key_id, start, end, 1000, Table(rows, reader.epoch).older))
    assert (len(found.rows), found.data_source, found.completeness, found.note) == (100, "database", 100.0, "")
    holed = np.delete(rows, np.s_[250:260])
    found = asyncio.run(merge(reader, key_id, start, end, 1000, Table(holed, reader.epoch).older))
    assert (len(found.rows), found.completeness) == (90, 90.0)
    after = Seam(reader.epoch, 300, int(rows["ts_recv_ns"][300]))
    found = asyncio.run(merge(reader, key_id, start, now, 1000, Table(rows[:290], reader.epoch).older, None, after))
    assert (len(found.rows), found.completeness) == (90, 90.0), "behind a cursor nothing may be missing"
    line.close()


def test_hole_between_memory_and_history_is_counted(producer: Producer, reader: StreamReader) -> None:
    key_id = producer.add(instrument("BTC"))
    many_trades(producer, [key_id], 1000)
    early = everything(reader)
    line = reader.register("writer.stored", ReaderKind.LOSSY, None, 1000)
    for _ in range(5):
        many_trades(producer, [key_id], 1000)  # laps the ring: the writer never saw what came between
    assert reader.oldest() > 1000
    found = merged(reader, key_id, Table(early, reader.epoch), 6000)
    memory = reader.capacity
    assert len(found.rows) == memory + 1000
    assert found.completeness == round(100 * (memory + 1000) / 6000, 2)
    assert "neither place" in found.note
    unknown = merged(reader, key_id, Table(early[:0], reader.epoch), 6000)
    assert unknown.completeness < 100
    line.close()


def test_history_without_an_answer_leaves_memory_and_says_so(producer: Producer, reader: StreamReader) -> None:
    key_id = producer.add(instrument("BTC"))
    now = time.time_ns()
    for i in range(10):
        producer.trade(key_id, at_ns=now - (10 - i) * 60 * 10**9)
    table = Table(everything(reader)[:0], reader.epoch)
    table.answers = False
    found = asyncio.run(merge(reader, key_id, now - 20 * 60 * 10**9, now, 100, table.older))
    assert len(found.rows) == 10
    assert found.completeness == 50.0
    assert "did not answer" in found.note


@pytest.mark.parametrize(("patient", "takes_s", "alive"), [(False, 0.0, False), (True, 0.0, False), (True, 0.1, True)])
def test_question_that_may_take_long_and_fails_late_does_not_tell_that_clickhouse_is_away(
    tmp_path: Path, patient: bool, takes_s: float, alive: bool
) -> None:
    page = MetricsPage(tmp_path, "front-0", time.time_ns())
    config = Config(history=True, history_timeout_s=0.05)
    history = History(ActorContext("front-0", "front", tmp_path, tmp_path, config, page))

    async def fails(*_: Any, **__: Any) -> bytes:
        await asyncio.sleep(takes_s)
        raise Unavailable("no answer")

    async def asked() -> bool | None:
        history._client.fetch = fails  # type: ignore[method-assign]
        history.alive = True
        assert await history.ask("SELECT 1", patient=patient) is None
        return history.alive

    assert asyncio.run(asked()) is alive
    page.close()


def test_range_that_memory_covers_needs_no_history(producer: Producer, reader: StreamReader) -> None:
    key_id = producer.add(instrument("BTC"))
    now = time.time_ns()
    for i in range(10):
        producer.trade(key_id, at_ns=now - (10 - i) * 60 * 10**9)
    table = Table(everything(reader)[:0], reader.epoch)
    found = merged(reader, key_id, table, 100, start_ns=now - 5 * 60 * 10**9 - 1)
    assert (len(found.rows), found.completeness, table.asked) == (5, 100.0, [])


# -- a real engine ------------------------------------------------------------------------------------------------


def earlier_epoch(n: int, now_ns: int) -> np.ndarray:
    """Trades of yesterday's stream."""
    rows = np.zeros(n, TRADE.dtype)
    rows["nth"] = np.arange(n)
    rows["ts_event_ns"] = now_ns - DAY_NS // 2 + np.arange(n) * 10**9
    rows["ts_recv_ns"] = rows["ts_event_ns"] + 1
    rows["trade_id"] = np.arange(n) + 1
    rows["price"], rows["quantity"] = 10.5, 0.25
    return rows


def test_merged_answer_reaches_back_into_clickhouse_and_survives_its_stop(
    engine: Actor, server: Server, folder: Path, producer: Producer, reader: StreamReader
) -> None:
    now = time.time_ns()
    busy, quiet = producer.add(instrument("BTC")), producer.add(instrument("ETH"))
    keys = [reader.keys[busy], reader.keys[quiet]]
    old = earlier_epoch(300, now)
    store(server, TRADE, old, keys, now - DAY_NS)
    many_trades(producer, [busy], 1200)
    for i in range(3):
        producer.trade(quiet, trade_id=1000 + i)
    rows = everything(reader)
    line = reader.register("writer.stored", ReaderKind.LOSSY, None, len(rows))
    store(server, TRADE, rows, keys, reader.epoch)
    patience = {"history_timeout_s": 10.0, "history_total_timeout_s": 10.0}
    with FrontThread(folder, history=True, clickhouse=server, history_probe_s=0.1, **patience) as front:
        # the first question also makes the connection, which may take longer than a hint may
        eventually(lambda: front.front.history.alive, "the engine answers the probe")
        path = "/api/v1/trades/BTC-USDT?start_time=0&limit=1000"
        body = front.get(f"{path}&page=2&page_size=1000").json
        assert [row["seq"] for row in body["data"]] == [*range(200, 0, -1), *range(300, 0, -1)]
        assert body["pagination"]["total"] == 1500
        assert body["metadata"]["data_source"] == "mixed"
        assert body["metadata"]["completeness"] == 100
        first = front.get(path).json
        assert (first["metadata"]["data_source"], len(first["data"])) == ("memory", 1000)
        both = eventually(
            lambda: len((found := front.get("/api/v1/trades/ETH-USDT?start_time=0").json)["data"]) == 3 and found,
            "the quiet symbol is read",
        )
        assert both["metadata"]["completeness"] == 100
        yesterday = (now - DAY_NS // 2) // 10**6
        ranged = front.get(f"/api/v1/trades/BTC-USDT?start_time={yesterday}&end_time={yesterday + 10_000}").json
        assert [row["trade_id"] for row in ranged["data"]] == [str(i) for i in range(10, 0, -1)]
        assert (ranged["metadata"]["data_source"], ranged["metadata"]["completeness"]) == ("database", 100)
        assert ranged["data"][0]["price"] == "10.50"

        assert engine.process is not None
        front.front.history._timeout_s = 2.0  # no answer comes from here on, so nothing is gained by waiting for it
        engine.process.send_signal(signal.SIGSTOP)
        try:
            for path in (
                "/api/v1/trades/latest?symbol=BTC-USDT", "/api/v1/trades/latest?symbol=ETH-USDT",
                "/api/v1/trades/BTC-USDT", "/api/v1/status", "/health", "/metrics", "/api/v1/instruments",
            ):  # fmt: skip
                assert front.get(path).status == 200
            eventually(lambda: front.front.history.alive is False, "the probe notices")
            before = front.front.history._skipped.value
            quiet_now = front.get("/api/v1/trades/ETH-USDT").json
            assert [row["trade_id"] for row in quiet_now["data"]] == ["1002", "1001", "1000"]
            assert quiet_now["metadata"]["completeness"] < 100
            assert "did not answer" in quiet_now["metadata"]["note"]
            old_range = front.get(f"/api/v1/trades/BTC-USDT?start_time={yesterday}&end_time={yesterday + 10_000}").json
            assert (old_range["data"], old_range["metadata"]["completeness"]) == ([], 0)
            assert front.front.history._skipped.value == before + 2  # nobody waited
            assert front.get("/health").json["dependencies"]["clickhouse"] == "unhealthy"
        finally:
            engine.process.send_signal(signal.SIGCONT)
            front.front.history._timeout_s = 10.0
        eventually(lambda: front.front.history.alive, "the engine is back")
        again = front.get(f"/api/v1/trades/BTC-USDT?start_time={yesterday}&end_time={yesterday + 10_000}").json
        assert len(again["data"]) == 10
    line.close()
