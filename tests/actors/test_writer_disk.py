"""The writer with its spool at the bound, and on disks that are really full: what yields, and what comes back."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tickring.codecs.records import TRADE
from tickring.ringbuf import read_page
from tickring.storage.client import Server
from tickring.storage.gaps import LAPPED, SPOOL_FULL

from ..ports import free_port
from ..rings import publish_rows
from ..storage.conftest import engine, server  # noqa: F401
from ..storage.processes import Actor, random_rows, wait_for
from .writer_instance import Instance, nursery  # noqa: F401


@pytest.fixture
def instance(nursery, shm, tmp_path, server) -> Iterator[Instance]:  # noqa: F811
    made = Instance(nursery, shm, tmp_path / "data", server)
    yield made
    made.close()


class SmallDisk:
    """A file system of its own with a size that can change."""

    def __init__(self, path: Path, size: str) -> None:
        self.path = path
        path.mkdir(parents=True)
        self._mount("-t", "tmpfs", "-o", f"size={size}", "tickring-test", str(path))

    def resize(self, size: str) -> None:
        self._mount("-o", f"remount,size={size}", str(self.path))

    @staticmethod
    def _mount(*arguments: str) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this user may not mount a small file system: {done.stderr.strip()}")

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], check=True)


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, str], SmallDisk]]:
    disks: list[SmallDisk] = []

    def make(path: Path, size: str) -> SmallDisk:
        disks.append(SmallDisk(path, size))
        return disks[-1]

    yield make
    for disk in disks:
        disk.close()


@pytest.fixture
def own_engine(tmp_path) -> Iterator[Actor]:
    """An engine that a test may stop, not yet started."""
    pytest.importorskip("chdb", reason="the embedded engine is not installed: pip install 'tickring[embedded]'")
    shm = tmp_path / "engine-shm"
    shm.mkdir()
    actor = Actor("clickhouse", shm, tmp_path / "engine", {"port": free_port()})
    yield actor
    actor.kill()


def server_of(actor: Actor) -> Server:
    return Server(url=actor.detail()["url"], password_file=str(actor.data / "clickhouse" / "password"))


RENAME = "tickring.storage.spool:Path.rename"
ENTER = "tickring.storage.gaps:GapLedger.add"
FORGET = "tickring.storage.spool:Yielded.forget"


@pytest.mark.parametrize(
    ("target", "when"), [(RENAME, "before"), (ENTER, "before"), (ENTER, "after"), (FORGET, "before"), (FORGET, "after")]
)
def test_writer_killed_while_batches_yield_has_each_in_the_table_or_in_the_ledger(instance, target, when):
    producer = instance.producer()
    rows = random_rows(TRADE, 60_000, producer.count)
    publish_rows(producer.writer, rows)
    settings = {"batch_rows": 2000, "spool_max_bytes": 2 << 20}
    instance.writer.start(instance.away(**settings), {"target": target, "when": when, "call": 3})
    instance.writer.wait()
    instance.writer.start(instance.config(**settings))
    instance.wait_stored()
    gaps = instance.check_exactly(producer, rows)
    assert {gap.reason for gap in gaps} == {SPOOL_FULL}
    assert not list(instance.data.glob("writer/spool/*.yielded"))


def test_writer_at_the_spools_bound_says_it_once_with_what_to_do(instance):
    producer = instance.producer()
    publish_rows(producer.writer, random_rows(TRADE, 60_000, producer.count))
    instance.writer.start(instance.away(batch_rows=2000, spool_max_bytes=2 << 20))
    wait_for("all safe or given up", lambda: instance.cursors(producer).get("writer") == 60_000)
    lost = wait_for("the count", lambda: instance.writer.metric("tickring_storage_lost_rows_total", reason=SPOOL_FULL))
    assert lost < 60_000
    lines = [line for line in instance.writer.log.read_text().splitlines() if "reason=spool_full" in line]
    assert len(lines) == 1
    assert "raise writer.spool_max_bytes" in lines[0]
    instance.writer.stop()
    lines = [line for line in instance.writer.log.read_text().splitlines() if "reason=spool_full" in line]
    assert len(lines) == 2, "the end tells of the rest"


def test_writer_on_a_full_disk_goes_on_counts_and_recovers(nursery, shm, tmp_path, own_engine, small_disk):  # noqa: F811
    disk = small_disk(tmp_path / "data" / "writer", "1m")
    instance = Instance(nursery, shm, tmp_path / "data", server_of(own_engine.start()))
    producer = instance.producer(capacity=1 << 14)
    rows = random_rows(TRADE, 120_000, producer.count)
    metric = instance.writer.metric
    instance.writer.start(instance.config(insert_timeout_s=0.3, batch_rows=1000))
    try:
        publish_rows(producer.writer, rows[:1000])
        instance.wait_stored()
        own_engine.send(signal.SIGSTOP)
        publish_rows(producer.writer, rows[1000:14_000])
        wait_for("a full disk", lambda: metric("tickring_storage_disk_errors_total") > 1)
        assert instance.cursors(producer)["writer"] < 14_000
        disk.resize("4m")
        wait_for("room used", lambda: instance.cursors(producer)["writer"] == 14_000)
        assert instance.gaps() == []
        errors = metric("tickring_storage_disk_errors_total")
        for start in range(14_000, 120_000, 2000):
            publish_rows(producer.writer, rows[start : start + 2000])
        wait_for("a full disk again", lambda: metric("tickring_storage_disk_errors_total") > errors + 1)
        beat_ns = read_page(shm / "writer.page").beat_ns
        wait_for("a beat", lambda: read_page(shm / "writer.page").beat_ns > beat_ns)
        own_engine.send(signal.SIGCONT)
        instance.wait_stored()
        gaps = instance.check_exactly(producer, rows)
        assert {gap.reason for gap in gaps} == {LAPPED}
        assert metric("tickring_storage_lost_rows_total", reason=LAPPED) == sum(gap.stop - gap.first for gap in gaps)
        assert gaps[-1].stop <= 120_000 - (1 << 14), "the newest rows are kept"
    finally:
        own_engine.send(signal.SIGCONT)
        instance.close()


def test_writer_with_the_engines_disk_full_spools_and_recovers(nursery, shm, tmp_path, own_engine, small_disk):  # noqa: F811
    disk = small_disk(tmp_path / "engine", "12m")
    instance = Instance(nursery, shm, tmp_path / "data", server_of(own_engine.start()))
    producer = instance.producer(capacity=1 << 20)
    published = []
    metric = instance.writer.metric
    instance.writer.start(instance.config(batch_rows=10_000))

    def spooled() -> bool:
        if len(published) < 40:
            published.append(producer.publish(20_000, seed=len(published)))
        return metric("tickring_storage_spooled_rows_total") > 0

    try:
        wait_for("rows in the spool", spooled)
        rows = np.concatenate(published)
        wait_for("all safe", lambda: instance.cursors(producer)["writer"] == len(rows))
        assert metric("tickring_storage_clickhouse_up") == 0
        disk.resize("512m")
        instance.wait_stored()
        assert instance.check_exactly(producer, rows) == []
        assert metric("tickring_storage_refused_batches_total") == 0
    finally:
        instance.close()
