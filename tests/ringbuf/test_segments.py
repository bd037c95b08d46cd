"""Key directory, byte ring, metrics page, and a file system without room."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tickring.ringbuf import (
    ByteRingReader,
    ByteRingWriter,
    DirectoryFull,
    KeyReader,
    KeyTooLong,
    KeyWriter,
    LayoutMismatch,
    MetricsPage,
    NoSpace,
    RingError,
    SegmentBusy,
    State,
    StreamWriter,
    create_byte_ring,
    create_keys,
    create_stream,
    read_page,
    read_pages,
)
from tickring.ringbuf.inspect import inspect_folder
from tickring.ringbuf.page import STATE_AT, VALUES_USED_AT

from .processes import ROW_FORMAT, fork, join, spec_of, values_of

ROW = struct.Struct(ROW_FORMAT)


def test_key_directory_gives_each_text_one_row_for_good(shm):
    create_keys(shm / "feed.keys", 16)
    writer = KeyWriter(shm / "feed.keys")
    reader = KeyReader(shm / "feed.keys")
    assert writer.add("binance.BTC-USDT", {"native": "BTCUSDT", "price_precision": 2}) == 0
    assert writer.add("binance.币安-USDT", {"native": "币安USDT"}) == 1
    assert writer.add("binance.BTC-USDT", {"native": "BTCUSDT", "price_precision": 2}) == 0
    assert reader.id_of("binance.币安-USDT") == 1
    assert reader[0]["price_precision"] == 2
    assert reader.id_of("nothing") is None
    writer.close()
    again = KeyWriter(shm / "feed.keys")
    assert again.add("binance.ETH-USDT", {}) == 2


def test_key_directory_shows_changed_attributes_after_refresh(shm):
    create_keys(shm / "feed.keys", 16)
    writer, reader = KeyWriter(shm / "feed.keys"), KeyReader(shm / "feed.keys")
    writer.add("a", {"tick": "0.1"})
    reader.refresh()
    writer.add("a", {"tick": "0.01"})
    reader.refresh()
    assert reader[0]["tick"] == "0.01"


def test_key_directory_full_and_too_long_are_named_errors(shm):
    create_keys(shm / "feed.keys", 2)
    writer = KeyWriter(shm / "feed.keys")
    writer.add("a", {})
    writer.add("b", {})
    with pytest.raises(DirectoryFull, match="all 2 rows"):
        writer.add("c", {})
    with pytest.raises(KeyTooLong, match="a row holds"):
        writer.add("x" * 600, {})


@pytest.mark.parametrize("at", [8, 4096 + 8], ids=["version", "row"])
def test_key_directory_that_is_refused_again_and_again_leaves_nothing_open(shm, nothing_left_open, at):
    path = shm / "feed.keys"
    create_keys(path, 16)
    writer = KeyWriter(path)
    writer.add("a", {})
    writer.close()
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff")
    for _ in range(3):
        with pytest.raises(LayoutMismatch):
            KeyReader(path)


def test_byte_ring_gives_back_spans_until_they_are_overwritten(shm):
    path = shm / "topic.raw.bytes"
    assert create_byte_ring(path, 1 << 12, 1)
    writer, reader = ByteRingWriter(path), ByteRingReader(path)
    kept: list[tuple[int, bytes]] = []
    for i in range(500):
        data = os.urandom(i % 300)
        kept.append((writer.append(data), data))
        for position, expected in kept:
            found = reader.read(position, len(expected))
            if position + (1 << 12) >= reader.published():
                assert found == expected
            else:
                assert found is None
    assert reader.read(reader.published(), 1) is None
    with pytest.raises(RingError, match="a quarter"):
        writer.append(bytes(2000))


def test_byte_ring_survives_its_writer_and_refuses_a_second(shm):
    path = shm / "topic.raw.bytes"
    create_byte_ring(path, 1 << 12, 1)

    def die():
        ByteRingWriter(path).append(b"hello")
        os.kill(os.getpid(), 9)

    assert join(fork(die)) == -9
    assert create_byte_ring(path, 1 << 12, 2) is False
    writer = ByteRingWriter(path)
    assert ByteRingReader(path).read(0, 5) == b"hello"
    with pytest.raises(SegmentBusy):
        ByteRingWriter(path)
    assert writer.append(b"next") == 5


def test_metrics_page_shows_what_its_actor_counted(shm):
    page = MetricsPage(shm, "feed-x", started_ns=123)
    frames = page.counter("tickring_frames_total", "frames", channel="trade")
    assert page.counter("tickring_frames_total", "frames", channel="trade") is frames
    frames.inc(3)
    page.gauge("tickring_lag_rows", "lag").set(2.5)
    latency = page.histogram("tickring_wait_seconds", "wait", [0.1, 1.0])
    for value in (0.05, 0.1, 0.5, 7):
        latency.observe(value)
    page.state = State.RUNNING
    page.detail = {"url": "ws://x"}
    page.beat(99)
    view = read_page(shm / "feed-x.page")
    assert (view.actor, view.pid, view.beat_ns, view.state, view.started_ns) == (
        "feed-x",
        os.getpid(),
        99,
        State.RUNNING,
        123,
    )
    assert view.detail == {"url": "ws://x"}
    samples = {s.name: s for s in view.samples}
    assert samples["tickring_frames_total"].values == (3.0,)
    assert samples["tickring_frames_total"].labels == {"channel": "trade"}
    assert samples["tickring_wait_seconds"].values == (2.0, 1.0, 1.0, 7.65)
    assert [v.actor for v in read_pages(shm)] == ["feed-x"]


def test_metrics_page_without_room_counts_on_and_shows_how_many_it_hides(shm, caplog):
    page = MetricsPage(shm, "a", 1)
    for i in range(10_000):
        page.counter("tickring_x_total", "x", symbol=f"S{i}").inc()
    last = page.counter("tickring_x_total", "x", symbol="S9999")
    assert last.value == 1, "it is the same one, though not shown"
    page.histogram("tickring_y_seconds", "y", (1.0,)).observe(0.5)
    page.beat(1)
    samples = read_page(shm / "a.page").samples
    shown = [one.values[0] for one in samples if one.name == "tickring_x_total"]
    [hidden] = [one.values[0] for one in samples if one.name == "tickring_page_hidden_metrics"]
    assert shown and set(shown) == {1.0} and len(shown) + hidden == 10_000 + 1
    assert len(samples) == len(shown) + 1
    [line] = [record for record in caplog.records if "no room" in record.getMessage()]
    assert line.levelname == "WARNING"
    page.close()


def test_metrics_made_by_many_threads_at_once_have_each_its_place(shm, monkeypatch):
    page, threads, each = MetricsPage(shm, "writer", 1), 8, 20
    start, dumps, made = threading.Barrier(threads), json.dumps, []

    def slow(*args, **options):
        time.sleep(1e-4)  # let the others come in between
        return dumps(*args, **options)

    def count() -> None:
        start.wait()
        made.append([page.counter("rows_total", "rows", stream=str(n)) for n in range(each)])

    monkeypatch.setattr("tickring.ringbuf.page.json.dumps", slow)
    running = [threading.Thread(target=count) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert len(made) == threads
    for n, counters in enumerate(zip(*made, strict=True)):
        assert all(counter is counters[0] for counter in counters)
        counters[0].inc(n)
    page.beat(1)
    samples = read_page(shm / "writer.page").samples
    assert sorted((int(sample.labels["stream"]), *sample.values) for sample in samples) == [(n, n) for n in range(each)]
    page.close()


def test_pages_that_cannot_be_read_are_left_out(shm, monkeypatch):
    for actor in ("a", "b", "c", "d"):
        MetricsPage(shm, actor, 1).close()
    for actor, at in (("a", STATE_AT), ("b", VALUES_USED_AT)):
        with (shm / f"{actor}.page").open("r+b") as file:
            file.seek(at)
            file.write(b"\xff" * 8)
    (shm / "c.page").write_bytes(b"short")
    assert [view.actor for view in read_pages(shm)] == ["d"]
    paths = [*shm.glob("*.page")]
    (shm / "d.page").unlink()  # after it was listed
    monkeypatch.setattr(Path, "glob", lambda *_: paths)
    assert read_pages(shm) == []


def test_inspection_shows_everything_and_survives_rubbish(shm):
    create_stream(shm, spec_of(), 1)
    create_keys(shm / "feed.keys", 4)
    create_byte_ring(shm / "feed.raw.bytes", 4096, 1)
    MetricsPage(shm, "feed", 1)
    (shm / "bad.rec.ring").write_bytes(b"rubbish")
    found = {entry["file"]: entry for entry in inspect_folder(shm)}
    assert found["feed.rec.ring"]["capacity"] == 64
    assert "too short" in found["bad.rec.ring"]["error"]
    assert set(found) == {"feed.rec.ring", "feed.keys", "feed.raw.bytes", "feed.page", "bad.rec.ring"}


@pytest.fixture
def small_tmpfs(tmp_path) -> Path:
    """A tmpfs of 64 MB, as a default container has it."""
    folder = tmp_path / "shm"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting a tmpfs needs root: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_tmpfs_is_an_error_with_both_numbers_and_no_file(small_tmpfs):
    with pytest.raises(NoSpace, match=r"bytes are needed .* free"):
        create_stream(small_tmpfs, spec_of(capacity=1 << 21), 1)
    assert [p.name for p in small_tmpfs.iterdir() if p.suffix == ".ring"] == []


def test_full_tmpfs_at_a_new_key_leaves_the_writer_working(small_tmpfs):
    spec = spec_of(capacity=1 << 10, tail=1 << 18, keys_max=64)  # 16 MiB of tail for each key
    create_stream(small_tmpfs, spec, 1)
    writer = StreamWriter(small_tmpfs, spec, [], 1)
    added = 0
    with contextlib.suppress(NoSpace):
        for key in range(64):
            writer.add_key(key)
            added += 1
    assert 1 <= added <= 3
    publish = writer.publisher(ROW, ["a", "b", "c", "d"])
    for sequence in range(5000):
        publish(sequence % added, 1, 2, 0, *values_of(sequence))
    assert writer.sequence == 5000
