"""The writer under SIGKILL, with ClickHouse away, with a full disk, behind its rings: no row lost or doubled unsaid."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tickring.actors.writer.sampler import SampleFile
from tickring.codecs.records import QUOTE, TRADE
from tickring.ringbuf import read_page
from tickring.storage.batch import Batch
from tickring.storage.client import Server
from tickring.storage.gaps import LAPPED, RING_GONE, SPOOL_FULL
from tickring.storage.spoolfile import encode_record, scan

from ..ports import free_port
from ..rings import publish_rows
from ..storage.conftest import engine, server  # noqa: F401
from ..storage.processes import Actor, random_rows, wait_for
from .writer_instance import Instance, nursery  # noqa: F401

ROUNDS = 25


@pytest.fixture
def instance(nursery, shm, tmp_path, server) -> Iterator[Instance]:  # noqa: F811
    made = Instance(nursery, shm, tmp_path / "data", server)
    yield made
    made.close()


@pytest.fixture
def own_engine(tmp_path) -> Iterator[Actor]:
    """An engine that a test may stop and kill."""
    pytest.importorskip("chdb", reason="the embedded engine is not installed: pip install 'tickring[embedded]'")
    shm = tmp_path / "engine-shm"
    shm.mkdir()
    actor = Actor("clickhouse", shm, tmp_path / "engine", {"port": free_port()})
    yield actor.start()
    actor.kill()


def own_server(actor: Actor) -> Server:
    return Server(url=actor.detail()["url"], password_file=str(actor.data / "clickhouse" / "password"))


class Load:
    """Publishes in the background, in bursts, until told to stop, and at most so many rows."""

    def __init__(self, producer, pause_s: float = 0.01, rows_max: int | None = None) -> None:
        self.producer, self.pause_s, self.rows_max = producer, pause_s, rows_max
        self.rows: list[np.ndarray] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        burst = 0
        while not self._stop.is_set() and (self.rows_max is None or self.producer.sequence < self.rows_max):
            burst += 1
            self.rows.append(self.producer.publish(random.randint(1, 250), seed=burst))
            time.sleep(self.pause_s)

    def stop(self) -> np.ndarray:
        self._stop.set()
        self._thread.join()
        return np.concatenate(self.rows)


# -- SIGKILL ----------------------------------------------------------------------------------------------------------


def test_writer_killed_at_random_under_load_stores_every_row_once(instance):
    producer = instance.producer(capacity=1 << 18)
    config = instance.config(batch_rows=400, flush_interval_ms=10)
    load = Load(producer, rows_max=100_000)  # the ring holds more, however slowly the lives follow each other
    try:
        for _ in range(ROUNDS):
            instance.writer.start(config)
            time.sleep(random.uniform(0.02, 0.35))
            instance.writer.kill()
    finally:
        rows = load.stop()
    instance.writer.start(instance.config(batch_rows=20_000))
    instance.wait_stored()
    instance.check_content((producer, rows))
    assert instance.gaps() == []


INTEND = "tickring.storage.journal:Journal.intend"
MARK = "tickring.storage.journal:Journal.mark"
INSERT = "tickring.storage.client:Client.insert"
APPEND = "tickring.storage.spool:Spool.append"
WRITE = "tickring.storage.spool:os.fdatasync"
SENT = "tickring.storage.spool:Spool.sent"


@pytest.mark.parametrize(
    ("target", "when", "call"),
    [
        (INTEND, "before", 2), (INTEND, "after", 2), (INSERT, "before", 2), (INSERT, "after", 1), (INSERT, "after", 3),
        (MARK, "before", 3), (MARK, "after", 3),
    ],
)  # fmt: skip
def test_writer_killed_around_an_insert_repeats_it_with_the_same_token(instance, target, when, call):
    producer = instance.producer()
    instance.start_to_insert(instance.config(batch_rows=200), {"target": target, "when": when, "call": call})
    rows = [producer.publish(1000)]
    instance.writer.wait()
    rows.append(producer.publish(50, seed=1))
    instance.writer.start(instance.config(batch_rows=333))  # another size: the open range keeps its own
    instance.wait_stored()
    instance.check_content((producer, np.concatenate(rows)))
    assert instance.gaps() == []


@pytest.mark.parametrize(
    ("target", "when", "call"), [(APPEND, "before", 2), (WRITE, "before", 2), (APPEND, "after", 2), (MARK, "before", 3)]
)
def test_writer_killed_around_the_spool_keeps_every_row(instance, target, when, call):
    producer = instance.producer()
    rows = producer.publish(1000)
    instance.writer.start(instance.away(batch_rows=200), {"target": target, "when": when, "call": call})
    instance.writer.wait()
    instance.writer.start(instance.config(batch_rows=250))
    instance.wait_stored()
    instance.check_content((producer, rows))


@pytest.mark.parametrize(
    ("target", "when", "call"),
    [(INSERT, "before", 1), (INSERT, "after", 1), (INSERT, "after", 2), (SENT, "before", 2), (SENT, "after", 1)],
)
def test_writer_killed_while_replaying_sends_the_rest_once(instance, target, when, call):
    producer = instance.producer()
    rows = producer.publish(1000)
    instance.writer.start(instance.away(batch_rows=3))  # so many batches that they go in two inserts
    wait_for("all spooled", lambda: instance.cursors(producer).get("writer") == 1000)
    assert instance.cursors(producer)["writer.stored"] == 0
    instance.writer.kill()
    instance.writer.start(instance.config(), {"target": target, "when": when, "call": call})
    instance.writer.wait()
    instance.writer.start(instance.config())
    instance.wait_stored()
    instance.check_content((producer, rows))


@pytest.mark.parametrize(("target", "when"), [(INSERT, "before"), (INSERT, "after"), (MARK, "before")])
def test_writer_killed_around_a_sample_stores_it_once(instance, target, when):
    producer = instance.producer(QUOTE, keys=3)
    rows = [producer.publish(9)]
    instance.writer.start(instance.config(), {"target": target, "when": when, "call": 1})
    instance.writer.wait()
    rows.append(producer.publish(1, seed=5))
    instance.writer.start(instance.config())
    wait_for("both samples", lambda: len(instance.table(QUOTE)) == 4)
    instance.writer.stop()
    first = np.concatenate([rows[0][rows[0]["key_id"] == key][-1:] for key in range(3)])
    instance.check_content((producer, np.concatenate([first, rows[1]])), record=QUOTE)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_samples_that_are_held_are_stored_once_however_the_writer_ends(instance, end):
    producer = instance.producer(QUOTE, keys=3)
    held = producer.publish(9)
    instance.writer.start(instance.config(flush_interval_ms=60_000))
    stored = [np.concatenate([held[held["key_id"] == key][-1:] for key in range(3)])]

    def rows_in_file():
        last = SampleFile(instance.data / "writer", f"{producer.name}.quote").load()
        return last.batch.head.rows if last is not None and last.batch is not None else 0

    for n in range(3, 6):
        wait_for("a held sample", lambda n=n: rows_in_file() == n)
        stored.append(producer.publish(1, seed=n))
    wait_for("the last held sample", lambda: rows_in_file() == 6)
    assert len(instance.table(QUOTE)) == 0
    getattr(instance.writer, end)()
    if end == "kill":
        instance.writer.start(instance.config())
    wait_for("all samples", lambda: len(instance.table(QUOTE)) == 6)
    instance.check_content((producer, np.concatenate(stored)), record=QUOTE)


def test_writer_whose_open_range_was_overwritten_asks_the_table(instance):
    for target, when, lost in ((INSERT, "after", False), (INSERT, "before", True)):
        producer = instance.producer(name=f"feed-{when}", capacity=1024)
        rows = producer.publish(300)
        instance.writer.start(instance.config(), {"target": target, "when": when, "call": 1})
        instance.writer.wait()
        later = producer.publish(1000, seed=1)  # sequences 0 to 275 are gone
        instance.writer.start(instance.config())
        instance.wait_stored(producer)
        instance.writer.kill()
        found = {row[2:4] for row in instance.table() if row[1] == producer.writer.epoch}
        expected = np.concatenate([rows[276:] if lost else rows, later])
        assert found == set(zip(expected["nth"].tolist(), expected["ts_recv_ns"].tolist(), strict=True))
        gaps = [(gap.first, gap.stop, gap.reason) for gap in instance.gaps() if gap.stream.startswith(producer.name)]
        assert gaps == ([(0, 276, LAPPED)] if lost else [])


# -- ClickHouse away --------------------------------------------------------------------------------------------------


def test_writer_with_the_engine_stopped_and_killed_under_load_stores_every_row_once(nursery, shm, tmp_path, own_engine):  # noqa: F811
    instance = Instance(nursery, shm, tmp_path / "data", own_server(own_engine))
    producer = instance.producer(capacity=1 << 18)
    instance.writer.start(instance.config(batch_rows=500, insert_timeout_s=1.0))
    wait_for("ClickHouse up", lambda: instance.writer.metric("tickring_storage_clickhouse_up") == 1)
    load = Load(producer, pause_s=0.05)  # slow enough that a replay catches up with it on a busy machine too
    try:
        for fault in ("stop", "kill", "stop"):
            spooled = instance.writer.metric("tickring_storage_spooled_rows_total")
            if fault == "stop":
                own_engine.send(signal.SIGSTOP)
            else:
                own_engine.kill()
            wait_for(
                "rows in the spool",
                lambda spooled=spooled: instance.writer.metric("tickring_storage_spooled_rows_total") > spooled + 1000,
            )
            if fault == "stop":
                own_engine.send(signal.SIGCONT)
            else:
                own_engine.start()
            wait_for("ClickHouse up", lambda: instance.writer.metric("tickring_storage_clickhouse_up") == 1)
    finally:
        rows = load.stop()
    try:
        instance.wait_stored()
        wait_for("an empty spool", lambda: instance.writer.metric("tickring_storage_spool_bytes") == 0)
        instance.check_content((producer, rows))
        assert instance.gaps() == []
    finally:
        instance.close()


def test_writer_with_the_engine_hung_beats_and_its_durable_cursor_goes_on(nursery, shm, tmp_path, own_engine):  # noqa: F811
    instance = Instance(nursery, shm, tmp_path / "data", own_server(own_engine))
    producer = instance.producer()
    instance.writer.start(instance.config(insert_timeout_s=600.0))
    rows = [producer.publish(100)]
    instance.wait_stored()
    own_engine.send(signal.SIGSTOP)
    try:
        rows.append(producer.publish(100, seed=1))
        beats = set()

        def beating() -> bool:
            beats.add(read_page(shm / "writer.page").beat_ns)
            return len(beats) > 4

        wait_for("beats beside an insert without an answer", beating)
        assert instance.cursors(producer)["writer"] == 100, "the insert still waits"
        instance.writer.kill()
        instance.writer.start(instance.config(insert_timeout_s=0.5, clickhouse={"timeout_s": 0.5}))
        wait_for("the rows on disk", lambda: instance.cursors(producer)["writer"] == 200)
        assert instance.cursors(producer)["writer.stored"] == 100
        instance.writer.stop()  # a stop does not wait for it either
    finally:
        own_engine.send(signal.SIGCONT)
    instance.writer.start(instance.config())
    instance.wait_stored()
    instance.check_content((producer, np.concatenate(rows)))
    instance.close()


def test_writer_at_the_spools_bound_enters_what_yields_into_the_ledger(instance):
    producer = instance.producer()
    rows = random_rows(TRADE, 60_000, producer.count)
    instance.writer.start(instance.away(batch_rows=2000, spool_max_bytes=4 << 20))
    publish_rows(producer.writer, rows)
    wait_for("all safe or given up", lambda: instance.cursors(producer).get("writer") == 60_000)
    instance.writer.kill()
    gaps = instance.gaps()
    assert gaps[0].first == 0
    assert {gap.reason for gap in gaps} == {SPOOL_FULL}
    kept_from = gaps[-1].stop
    assert [(gap.first, gap.stop) for gap in gaps] == [
        (a, b) for a, b in zip([0, *(gap.stop for gap in gaps[:-1])], [gap.stop for gap in gaps], strict=True)
    ]
    instance.writer.start(instance.config())
    instance.wait_stored()
    instance.check_content((producer, rows[kept_from:]))


def test_writer_overtaken_by_the_producer_enters_the_exact_extent(instance):
    producer = instance.producer(capacity=1024)
    rows = [producer.publish(100)]
    instance.writer.start(instance.config())
    instance.wait_stored()
    instance.writer.kill()
    missed = producer.publish(5000, seed=1)
    instance.writer.start(instance.config())
    instance.wait_stored()
    rows.append(missed[-1024:])
    instance.check_content((producer, np.concatenate(rows)))
    (gap,) = instance.gaps()
    assert (gap.first, gap.stop, gap.reason, gap.certain) == (100, 5100 - 1024, LAPPED, True)
    wait_for(
        "the count", lambda: instance.writer.metric("tickring_storage_lost_rows_total", reason=LAPPED) == 5000 - 1024
    )


def test_writer_without_room_on_disk_lives_and_stores_all_once_clickhouse_is_back(nursery, shm, tmp_path, own_engine):  # noqa: F811
    instance = Instance(nursery, shm, tmp_path / "data", own_server(own_engine))
    producer = instance.producer()
    # As on a full disk, every write beyond the limit fails: 6,000 rows do not fit.
    instance.writer.start(
        instance.config(insert_timeout_s=0.3, flush_interval_ms=300),
        {"target": "fsize", "when": "before", "call": 450_000},
    )
    rows = [producer.publish(100)]
    instance.wait_stored()
    own_engine.send(signal.SIGSTOP)
    try:
        rows.append(producer.publish(6000, seed=1))
        wait_for("failed writes", lambda: instance.writer.metric("tickring_storage_disk_errors_total") > 1)
        assert instance.cursors(producer)["writer"] < 6100
        assert instance.writer.alive()
    finally:
        own_engine.send(signal.SIGCONT)
    instance.wait_stored()
    instance.check_content((producer, np.concatenate(rows)))
    assert instance.writer.log.read_text().count("make room") == 1
    instance.close()


def test_writer_after_a_reboot_enters_what_the_lost_ring_may_have_held(instance):
    producer = instance.producer()
    rows = producer.publish(100)
    instance.writer.start(instance.config())
    instance.wait_stored()
    instance.writer.kill()
    for path in instance.shm.glob("feed*"):
        path.unlink()
    again = instance.producer()
    more = again.publish(70)
    instance.writer.start(instance.config())
    instance.wait_stored(again)
    instance.check_content((producer, rows), (again, more))
    (gap,) = instance.gaps()
    assert (gap.epoch, gap.first, gap.stop, gap.reason) == (producer.writer.epoch, 100, None, RING_GONE)


def test_writer_after_a_table_was_dropped_makes_it_again_and_loses_nothing_new(instance):
    producer = instance.producer()
    instance.writer.start(instance.config())
    producer.publish(100)
    instance.wait_stored()
    import clickhouse_connect

    host, port = instance.server.url.removeprefix("http://").split(":")
    client = clickhouse_connect.get_client(
        host=host, port=int(port), password=Path(instance.server.password_file).read_text().strip()
    )
    client.command(f"DROP TABLE {instance.server.database}.trades")
    rows = producer.publish(100, seed=1)
    instance.wait_stored()
    client.close()
    instance.check_content((producer, rows))


def replace_block(folder: Path, number: int, block: bytes) -> Path:
    """Make a batch's block one that is whole on disk but nonsense to ClickHouse: as of another version's format."""
    path = next(folder.glob("*.spool"))
    data = path.read_bytes()
    entry = scan(path, int(path.stem), 0, last=True)[0][number]
    record = b"".join(encode_record(Batch(entry.head, block)))
    path.write_bytes(data[: entry.offset] + record + data[entry.offset + entry.size :])
    return path


def test_writer_puts_a_batch_that_is_never_taken_aside_and_goes_on(instance):
    producer = instance.producer()
    rows = producer.publish(1000)
    instance.writer.start(instance.away(batch_rows=500))
    wait_for("all spooled", lambda: instance.cursors(producer).get("writer") == 1000)
    instance.writer.kill()
    path = replace_block(instance.data / "writer" / "spool", 0, b"\xff" * 300)
    instance.writer.start(instance.config())
    instance.wait_stored()
    instance.check_content((producer, rows[500:]))
    (gap,) = instance.gaps()
    assert (gap.first, gap.stop, gap.reason) == (0, 500, "refused")
    assert [one.read_bytes() for one in (path.parent / "refused").iterdir()] == [b"\xff" * 300]


def test_writer_replays_many_small_batches_in_few_inserts(instance):
    producer = instance.producer()
    rows = producer.publish(3000)
    instance.writer.start(instance.away(batch_rows=2))
    wait_for("all spooled", lambda: instance.cursors(producer).get("writer") == 3000)
    instance.writer.kill()
    instance.writer.start(instance.config())
    instance.wait_stored()
    instance.check_content((producer, rows))
    wait_for("the count", lambda: instance.writer.metric("tickring_storage_insert_seconds") == 6)


def test_writer_puts_one_batch_of_many_aside_and_stores_the_others_once(instance):
    producer = instance.producer()
    rows = producer.publish(1000)
    instance.writer.start(instance.away(batch_rows=50))
    wait_for("all spooled", lambda: instance.cursors(producer).get("writer") == 1000)
    instance.writer.kill()
    replace_block(instance.data / "writer" / "spool", 7, b"\xff" * 300)
    instance.writer.start(instance.config())
    instance.wait_stored()
    instance.check_content((producer, np.delete(rows, np.s_[350:400])))
    (gap,) = instance.gaps()
    assert (gap.first, gap.stop, gap.reason) == (350, 400, "refused")
