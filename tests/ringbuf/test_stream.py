"""A stream by itself: what a writer stores, readers read, and what is refused."""

from __future__ import annotations

import os
import random
import resource
import struct

import numpy as np
import pytest

from tickring.ringbuf import (
    LayoutMismatch,
    ReaderKind,
    RingError,
    SegmentBusy,
    SegmentMissing,
    StreamReader,
    StreamSpec,
    StreamWriter,
    create_stream,
    layout,
)

from .processes import ROW_DTYPE, ROW_FORMAT, assert_whole, fork, join, packed_run, spec_of, values_of

ROW = struct.Struct(ROW_FORMAT)


def writer_of(shm, spec, now_ns=1) -> StreamWriter:
    writer = StreamWriter(shm, spec, [], now_ns)
    for key in range(spec.keys_max):
        writer.add_key(key)
    return writer


@pytest.fixture
def stream(shm):
    spec = spec_of()
    create_stream(shm, spec, epoch_ns=5)
    writer = writer_of(shm, spec)
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE, spec.fingerprint)
    yield writer, writer.publisher(ROW, ["a", "b", "c", "d"]), reader
    reader.close()
    writer.close()


def publish_many(publish, first, n, keys=4):
    for sequence in range(first, first + n):
        publish(sequence % keys, 1, 2, 0, *values_of(sequence))


def test_reader_on_empty_ring_returns_no_records(stream):
    _, _, reader = stream
    rows, cursor, lost = reader.read(0, 10)
    assert (len(rows), cursor, lost) == (0, 0, 0)
    assert len(reader.last(0, 5)) == 0
    assert reader.latest(0) is None


def test_reader_gets_what_was_published_in_order(stream):
    _, publish, reader = stream
    publish_many(publish, 0, 10)
    rows, cursor, lost = reader.read(0, 100)
    assert rows["a"].tolist() == list(range(10))
    assert (cursor, lost) == (10, 0)
    assert rows["nth"].tolist() == [i // 4 for i in range(10)]
    assert_whole(rows)


def test_reader_limit_cuts_and_continues_across_the_wrap(stream):
    _, publish, reader = stream
    publish_many(publish, 0, 60)
    rows, cursor, _ = reader.read(55, 3)
    assert rows["a"].tolist() == [55, 56, 57]
    publish_many(publish, 60, 10)
    rows, cursor, lost = reader.read(cursor, 100)
    assert rows["a"].tolist() == list(range(58, 70))
    assert (cursor, lost) == (70, 0)


def test_reader_overtaken_knows_exactly_what_it_missed(stream):
    _, publish, reader = stream
    publish_many(publish, 0, 200)
    rows, cursor, lost = reader.read(3, 1000)
    assert lost == 200 - 64 - 3
    assert rows["a"].tolist() == list(range(136, 200))
    assert cursor == 200


def test_reader_discards_slots_under_an_open_claim(stream):
    writer, publish, reader = stream
    publish_many(publish, 0, 64)
    writer._claim[0] = 64 + 10  # a batch of ten is being written over the ten oldest
    rows, cursor, lost = reader.read(0, 1000)
    assert (lost, cursor) == (10, 64)
    assert rows["a"].tolist() == list(range(10, 64))


def test_tail_gives_last_of_a_quiet_key_after_the_ring_moved_on(stream):
    _, publish, reader = stream
    publish(7, 1, 2, 0, *values_of(0))
    publish_many(publish, 1, 300)
    assert reader.last(7, 5)["a"].tolist() == [0]
    assert reader.count(7) == 1


def test_tail_holds_one_less_than_its_size_when_full(stream):
    _, publish, reader = stream
    for sequence in range(20):
        publish(1, 1, 2, 0, *values_of(sequence))
    # The oldest slot is the next to be overwritten: a reader cannot trust it.
    assert reader.last(1, 100)["a"].tolist() == list(range(13, 20))


def test_since_answers_from_tail_then_ring_then_not_at_all(stream):
    _, publish, reader = stream
    for sequence in range(40):
        publish(2, 1, 2, 0, *values_of(sequence))
    assert reader.since(2, 35, 100)["nth"].tolist() == [35, 36, 37, 38, 39]
    assert reader.since(2, 3, 4)["nth"].tolist() == [3, 4, 5, 6]
    assert len(reader.since(2, 40, 10)) == 0
    publish_many(publish, 40, 64, keys=2)
    assert reader.since(2, 3, 4) is None


def test_packed_publish_equals_single_publish(shm):
    spec = spec_of(capacity=256, tail=0)
    create_stream(shm, spec, 1)
    writer = writer_of(shm, spec)
    publish = writer.packed_publisher()
    publish(0, packed_run(writer, 0, 0, 100))
    publish(0, packed_run(writer, 0, 100, 200))  # more than a claim may have, and across the wrap
    publish(1, packed_run(writer, 1, 300, 1))
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    rows, cursor, lost = reader.read(0, 1000)
    assert (cursor, lost) == (301, 45)
    assert_whole(rows)
    assert rows["a"].tolist() == list(range(45, 301))
    assert rows["nth"].tolist() == [*range(45, 300), 0]
    assert [reader.count(key) for key in (0, 1)] == [300, 1]


def test_latest_value_without_ring_keeps_the_newest(shm):
    spec = spec_of(capacity=0, tail=4)
    create_stream(shm, spec, 1)
    writer = writer_of(shm, spec)
    publish = writer.publisher(ROW, ["a", "b", "c", "d"])
    for sequence in range(9):
        publish(3, 1, 2, 0, *values_of(sequence))
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    latest = reader.latest(3)
    assert latest is not None
    assert (latest["a"], latest["nth"]) == (8, 8)


def test_latest_value_whose_tail_is_overwritten_while_it_is_copied_is_the_newer_one(shm, monkeypatch):
    spec = spec_of(capacity=0, tail=4)
    create_stream(shm, spec, 1)
    writer = writer_of(shm, spec)
    publish = writer.publisher(ROW, ["a", "b", "c", "d"])
    sequences = iter(range(1000))

    def publish_a_tail():
        for _ in range(4):
            publish(3, 1, 2, 0, *values_of(next(sequences)))

    publish_a_tail()
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    copy, overtaken = reader._copy, iter([True, True, False])

    def slow_copy(at, size, start, stop):
        if next(overtaken):
            publish_a_tail()
        return copy(at, size, start, stop)

    monkeypatch.setattr(reader, "_copy", slow_copy)
    latest = reader.latest(3)
    assert latest is not None
    assert latest["nth"] == 11


def test_publish_of_values_that_do_not_fit_changes_nothing(stream):
    writer, publish, reader = stream
    publish(0, 1, 2, 0, *values_of(0))
    with pytest.raises(struct.error):
        publish(0, 1, 2, 0, -1, 0.0, 0, 0.0)
    assert (writer.sequence, reader.count(0), reader.claimed()) == (1, 1, 1)


def test_writer_attach_continues_numbering_in_the_same_epoch(shm):
    spec = spec_of()
    create_stream(shm, spec, 77)
    writer = writer_of(shm, spec, now_ns=1000)
    publish_many(writer.publisher(ROW, ["a", "b", "c", "d"]), 0, 10)
    writer.close()
    assert create_stream(shm, spec, 78) is False
    writer = writer_of(shm, spec, now_ns=2000)
    publish_many(writer.publisher(ROW, ["a", "b", "c", "d"]), 10, 5)
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    assert reader.epoch == 77
    assert reader.live_since_ns == 2000
    writer.mind_clock(2001)
    assert reader.live_since_ns == 2000
    writer.mind_clock(1999)  # it was set back
    assert reader.live_since_ns == 1999
    assert reader.read(0, 100)[0]["a"].tolist() == list(range(15))


def test_create_with_another_declaration_makes_a_new_epoch(shm):
    create_stream(shm, spec_of(), 1)
    writer = writer_of(shm, spec_of())
    publish_many(writer.publisher(ROW), 0, 3)
    old = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    assert create_stream(shm, spec_of(fingerprint=8), 2) is True
    new = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    assert (new.epoch, new.published()) == (2, 0)
    assert old.published() == 3  # who has the old file mapped keeps it


def test_second_writer_is_refused_while_the_first_lives(stream, shm):
    def attach():
        with pytest.raises(SegmentBusy, match="stop that one first"):
            StreamWriter(shm, spec_of(), [], 1)

    assert join(fork(attach)) == 0


def test_stale_segment_of_a_dead_owner_is_taken_over(shm):
    spec = spec_of()
    create_stream(shm, spec, 1)

    def die():
        publish_many(writer_of(shm, spec).publisher(ROW), 0, 7)
        os.kill(os.getpid(), 9)

    assert join(fork(die)) == -9
    writer = writer_of(shm, spec)
    assert writer.sequence == 7
    assert StreamReader(shm, "feed", "rec", ROW_DTYPE).producer_pid == os.getpid()


def test_reader_knows_whether_a_producer_holds_the_stream(shm):
    spec = spec_of()
    create_stream(shm, spec, 1)
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    assert not reader.has_producer()
    writer = writer_of(shm, spec)
    assert reader.has_producer()
    writer.close()
    assert not reader.has_producer()
    writer_of(shm, spec).close()  # the question has left nothing behind


def test_missing_segment_is_named(shm):
    with pytest.raises(SegmentMissing, match=r"feed\.rec\.ring"):
        StreamReader(shm, "feed", "rec", ROW_DTYPE)


def test_other_layout_version_is_refused_and_replaced_by_create(shm):
    spec = spec_of()
    create_stream(shm, spec, 1)
    with open(shm / spec.filename, "r+b") as file:
        file.seek(layout.VERSION_AT)
        file.write(struct.pack("<I", layout.LAYOUT_VERSION + 1))
    for attach in (lambda: StreamReader(shm, "feed", "rec", ROW_DTYPE), lambda: StreamWriter(shm, spec, [], 1)):
        with pytest.raises(
            LayoutMismatch, match=f"layout_version is {layout.LAYOUT_VERSION + 1}, expected {layout.LAYOUT_VERSION}"
        ):
            attach()
    assert create_stream(shm, spec, 2) is True
    assert StreamReader(shm, "feed", "rec", ROW_DTYPE).epoch == 2


@pytest.mark.parametrize("content", [b"", b"x" * 10, b"\0" * 8192, os.urandom(8192)])
def test_rubbish_file_is_refused_with_its_name(shm, content):
    (shm / "feed.rec.ring").write_bytes(content)
    with pytest.raises(LayoutMismatch, match=r"feed\.rec\.ring"):
        StreamReader(shm, "feed", "rec", ROW_DTYPE)


def test_other_record_declaration_is_refused_by_readers(stream, shm):
    with pytest.raises(LayoutMismatch, match="declared differently"):
        StreamReader(shm, "feed", "rec", ROW_DTYPE, fingerprint=99)
    with pytest.raises(LayoutMismatch, match="slots of 64 bytes"):
        StreamReader(shm, "feed", "rec", np.dtype([("x", "<u8", (16,))]))


def test_readers_that_are_refused_again_and_again_leave_nothing_open(shm, stream, nothing_left_open):
    for _ in range(3):
        with pytest.raises(LayoutMismatch):
            StreamReader(shm, "feed", "rec", ROW_DTYPE, fingerprint=99)
        with pytest.raises(LayoutMismatch):
            StreamReader(shm, "feed", "rec", np.dtype([("x", "<u8", (16,))]))


@pytest.mark.parametrize(("field", "value"), [("slot_size", 65), ("capacity", 100), ("tail", 3), ("keys_max", 0)])
def test_geometry_that_cannot_work_is_refused(field, value):
    arguments = {
        "producer": "p",
        "record": "r",
        "slot_size": 64,
        "capacity": 64,
        "tail": 8,
        "keys_max": 4,
        "fingerprint": 1,
    }
    with pytest.raises(RingError, match=field):
        StreamSpec(**{**arguments, field: value})


def test_layout_table_names_the_offsets_that_the_code_uses():
    from tickring.ringbuf.inspect import layout_table

    offsets = {name: at for at, _, name, _, _ in layout_table()}
    names = ("claim", "publish", "producer_pid", "live_since_ns", "keys_ready", "epoch_ns")
    assert {name: offsets[name] for name in names} == {
        "claim": layout.CLAIM_AT, "publish": layout.PUBLISH_AT, "producer_pid": layout.PRODUCER_PID_AT,
        "live_since_ns": layout.LIVE_SINCE_AT, "keys_ready": layout.KEYS_READY_AT, "epoch_ns": layout.EPOCH_AT,
    }  # fmt: skip


def test_reader_line_of_a_dead_durable_reader_is_kept_for_its_successor(stream, shm):
    _, _, reader = stream

    def read_and_die():
        line = StreamReader(shm, "feed", "rec", ROW_DTYPE).register("writer", ReaderKind.DURABLE)
        line.cursor = 42
        os.kill(os.getpid(), 9)

    join(fork(read_and_die))
    assert reader.register("writer", ReaderKind.DURABLE).cursor == 42


def test_reader_lines_of_dead_lossy_readers_are_reclaimed(stream, shm):
    _, _, reader = stream
    for i in range(40):  # more than there are lines
        join(
            fork(lambda i=i: StreamReader(shm, "feed", "rec", ROW_DTYPE).register(f"bot{i}", ReaderKind.LOSSY) and None)
        )
    reader.register("me", ReaderKind.LOSSY)


def test_chunked_append_is_visible_only_after_flush_and_equals_publish(shm):
    spec = spec_of(capacity=1024, tail=1024)
    create_stream(shm, spec, 1)
    chunked = writer_of(shm, spec).chunked(ROW, ["a", "b", "c", "d"])
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    for sequence in range(10):
        chunked.append(sequence % 3, 1, 2, 0, *values_of(sequence))
    assert reader.published() == 0
    chunked.flush()
    rows, _, _ = reader.read(0, 100)
    assert rows["a"].tolist() == list(range(10))
    assert rows["nth"].tolist() == [i // 3 for i in range(10)]
    for sequence in range(10, 6000):
        chunked.append(sequence % 3, 1, 2, 0, *values_of(sequence))
    chunked.flush()
    assert reader.published() == 6000
    for key in range(3):
        mine = list(range(key, 6000, 3))
        assert reader.count(key) == len(mine)
        assert reader.last(key, 1024)["a"].tolist() == mine[-912:], "the last chunk had 112 records"
        assert reader.since(key, len(mine) - 900, 1000)["a"].tolist() == mine[-900:]
    chunked.append(0, 1, 2, 0, *values_of(6000))
    chunked.flush()
    assert len(reader.last(0, 1024)) == 1023, "a lone record takes one slot"


def test_chunked_extend_and_append_in_turn_equal_publish_one_by_one(shm):
    spec, rng = spec_of(capacity=1024, tail=1024), random.Random(4)
    create_stream(shm, spec, 1)
    chunked = writer_of(shm, spec).chunked(ROW, ["a", "b", "c", "d"])
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    keys: list[int] = []
    while len(keys) < 9000:
        end = len(keys) + rng.choice((1, 2, 5, 6, 7, 255, 256, 257, 700))
        new = range(len(keys), end)
        keys += (rng.randrange(3) for _ in new)
        if rng.random() < 0.5:
            chunked.extend(bytearray().join(ROW.pack(0, 1, 2, keys[i], 0, *values_of(i)) for i in new))
        else:
            for i in new:
                chunked.append(keys[i], 1, 2, 0, *values_of(i))
            if rng.random() < 0.5:
                chunked.flush()
    chunked.extend(bytearray())
    chunked.flush()
    assert reader.published() == len(keys)
    rows, _, lost = reader.read(reader.oldest(), spec.capacity)
    first = len(keys) - len(rows)
    assert not lost and len(rows) > 500
    assert rows["a"].tolist() == list(range(first, len(keys)))
    assert rows["key_id"].tolist() == keys[first:]
    for key in range(3):
        mine = [i for i, other in enumerate(keys) if other == key]
        assert reader.count(key) == len(mine)
        assert rows["nth"][rows["key_id"] == key].tolist() == [n for n, i in enumerate(mine) if i >= first]
        tail = reader.last(key, 1024)["a"].tolist()
        assert tail and tail == mine[-len(tail) :]


def test_chunked_append_of_values_that_do_not_fit_changes_nothing(shm):
    spec = spec_of(capacity=1024, tail=1024)
    create_stream(shm, spec, 1)
    chunked = writer_of(shm, spec).chunked(ROW, ["a", "b", "c", "d"])
    chunked.append(0, 1, 2, 0, *values_of(0))
    with pytest.raises(struct.error):
        chunked.append(0, 1, 2, 0, -1, 0.0, 0, 0.0)
    chunked.append(0, 1, 2, 0, *values_of(1))
    chunked.flush()
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    assert reader.read(0, 10)[0]["a"].tolist() == [0, 1]
    assert reader.last(0, 10)["nth"].tolist() == [0, 1]


def test_writer_finds_all_of_its_memory_mapped_after_attach(shm):
    spec = spec_of(capacity=1 << 14)
    create_stream(shm, spec, epoch_ns=5)
    writer = writer_of(shm, spec)
    publish = writer.publisher(ROW, ["a", "b", "c", "d"])
    pages = spec.capacity * spec.slot_size // layout.PAGE
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    publish_many(publish, 0, spec.capacity)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < pages // 4
    writer.close()
