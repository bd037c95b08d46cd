"""A stream between real processes: readers beside a writer at full speed, kills at every store, sleeping readers."""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import time

import numpy as np
import pytest

from tickring.ringbuf import ReaderKind, StreamReader, StreamWriter, create_stream, full_barrier, make_bell
from tickring.ringbuf.doorbell import drain
from tickring.ringbuf.inspect import inspect_stream
from tickring.ringbuf.readers import CURSOR_IN_LINE, LINE_SIZE, LINES_AT, ReaderFile

from .processes import ROW_DTYPE, ROW_FORMAT, assert_whole, fork, join, join_all, kill, spec_of, values_of

ROW = struct.Struct(ROW_FORMAT)
KEYS = 5


def attach_writer(shm, spec, doorbells=()) -> StreamWriter:
    writer = StreamWriter(shm, spec, doorbells, 1)
    for key in range(spec.keys_max):
        writer.add_key(key)
    return writer


@pytest.mark.timeout(900)
@pytest.mark.parametrize("chunked", [False, True], ids=["publish", "append"])
def test_readers_beside_a_writer_flat_out_accept_no_torn_record_and_count_every_lap(shm, chunked):
    """Four readers, over 10^7 records read in both cases; each one dozes now and then until it has been lapped."""
    spec = spec_of(capacity=1 << 12, tail=1024 if chunked else 16, keys_max=8)
    create_stream(shm, spec, 1)
    wanted = 1_500_000
    done = shm / "done"

    def read(seed: int) -> None:
        chance = random.Random(seed)
        reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
        cursor = accepted = lost_total = 0
        while accepted < wanted:
            dozes = chance.random() < 0.01
            while dozes and reader.published() - cursor <= spec.capacity:
                time.sleep(0.001)
            before = cursor
            rows, cursor, lost = reader.read(cursor, chance.choice([64, 1024, 1 << 12]))
            assert lost or not dozes
            if len(rows):
                assert_whole(rows)
                # Exactly the sequences after what was lost, without a hole and without one twice.
                assert rows["a"][0] == before + lost, (rows["a"][0], before, lost)
                assert rows["a"][-1] == cursor - 1
                assert len(rows) == cursor - before - lost
                assert (np.diff(rows["a"].astype(np.int64)) == 1).all()
                assert (rows["nth"] == rows["a"] // KEYS).all()
            accepted += len(rows)
            lost_total += lost
            if chance.random() < 0.05:
                key = chance.randrange(KEYS)
                tail = reader.last(key, 100)
                assert_whole(tail)
                assert (tail["a"] % KEYS == key).all()
                assert (np.diff(tail["a"].astype(np.int64)) == KEYS).all()
        assert accepted + lost_total == cursor
        (shm / f"laps{seed}").write_text(str(lost_total))

    def append() -> None:
        chunked = attach_writer(shm, spec).chunked(ROW, ["a", "b", "c", "d"])
        sequence = 0
        while not done.exists():
            for length in (1, 2, 64, 5, 500):
                for _ in range(length):
                    chunked.append(sequence % KEYS, 1, 2, 0, *values_of(sequence))
                    sequence += 1
                chunked.flush()

    def write() -> None:
        writer = attach_writer(shm, spec)
        publish = writer.publisher(ROW, ["a", "b", "c", "d"])
        sequence = 0
        while not done.exists():
            for _ in range(4000):  # between two looks at the disk, at full speed
                publish(sequence % KEYS, 1, 2, 0, *values_of(sequence))
                sequence += 1

    readers = [fork(lambda seed=seed: read(seed)) for seed in range(4)]
    writer = fork(append if chunked else write)
    try:
        join_all(readers)
    finally:
        done.touch()
    assert join(writer) == 0
    assert all(int((shm / f"laps{seed}").read_text()) for seed in range(4)), "each reader dozed until it was lapped"


class KillAtStore:
    """Stands before a mapping and ends the process at the n-th store, before or after it happens."""

    def __init__(self, memory, countdown: list[int], before: bool) -> None:
        self.memory, self.countdown, self.before = memory, countdown, before

    def __getitem__(self, at):
        return self.memory[at]

    def __setitem__(self, at, value) -> None:
        self.countdown[0] -= 1
        due = self.countdown[0] == 0
        if due and self.before:
            kill(os.getpid())
        if due and isinstance(at, slice):  # half of the slot only
            half = (at.stop - at.start) // 2
            self.memory[at.start : at.start + half] = value[:half]
            kill(os.getpid())
        self.memory[at] = value
        if due:
            kill(os.getpid())


def write_until_killed(shm, spec, seed: int) -> None:
    """Publish from where the stream stands; die at a random store of a random one."""
    chance = random.Random(seed)
    writer = attach_writer(shm, spec)
    countdown = [chance.randrange(1, 120)]
    before = chance.random() < 0.5
    for name in ("_memory", "counts", "_claim", "_publish"):
        setattr(writer, name, KillAtStore(getattr(writer, name), countdown, before))
    publish = writer.publisher(ROW, ["a", "b", "c", "d"])
    while True:
        sequence = writer.sequence
        publish(sequence % KEYS, 1, 2, 0, *values_of(sequence))


def check_stream(shm, spec) -> int:
    """Everything a reader may conclude after a crash and a mend; returns the published sequence."""
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    published = reader.published()
    rows, _, lost = reader.read(0, spec.capacity)
    assert_whole(rows)
    assert rows["a"].tolist() == list(range(lost, published))
    for key in range(KEYS):
        mine = list(range(key, published, KEYS))
        assert reader.count(key) == len(mine)
        tail = reader.last(key, 1000)
        assert_whole(tail)
        assert tail["a"].tolist() == mine[len(mine) - len(tail) :]
        assert len(tail) >= min(len(mine), spec.tail - 256 if spec.tail >= 1024 else spec.tail - 1)
        assert tail["nth"].tolist() == list(range(len(mine) - len(tail), len(mine)))
    reader.close()
    return published


def test_writer_killed_at_any_store_leaves_a_stream_that_its_successor_mends(shm):
    """200 deaths: between claim and publish, between publish and tail, in the middle of a slot."""
    spec = spec_of(capacity=64, tail=8, keys_max=8)
    create_stream(shm, spec, 1)
    claims_left_open = 0
    previous = 0
    for seed in range(200):
        assert join(fork(lambda seed=seed: write_until_killed(shm, spec, seed))) == -9
        reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
        rows, _, lost = reader.read(0, spec.capacity)  # before any mend: readers are right at any moment
        assert_whole(rows)
        assert rows["a"].tolist() == list(range(lost, reader.published()))
        claims_left_open += reader.claimed() > reader.published()
        claimed = reader.claimed()
        reader.close()
        attach_writer(shm, spec).close()
        published = check_stream(shm, spec)
        assert published >= previous
        again = StreamReader(shm, "feed", "rec", ROW_DTYPE)
        assert again.claimed() >= claimed, "claim never decreases"
        again.close()
        previous = published
    assert claims_left_open > 20, "the kills should hit between claim and publish often"


def append_until_killed(shm, spec, seed: int) -> None:
    """The same through `append` and `flush`, in chunks of random length."""
    chance = random.Random(seed)
    chunked = attach_writer(shm, spec).chunked(ROW, ["a", "b", "c", "d"])
    countdown = [chance.randrange(1, 120)]
    before = chance.random() < 0.5
    for name in ("_claim", "_published", "_tail_batch", "_counts", "_tails", "_counts_array"):
        setattr(chunked, name, KillAtStore(getattr(chunked, name), countdown, before))
    sequence = chunked._flushed
    while True:
        for _ in range(chance.randrange(1, 100)):
            chunked.append(sequence % KEYS, 1, 2, 0, *values_of(sequence))
            sequence += 1
        chunked.flush()


def test_chunked_writer_killed_at_any_store_leaves_a_stream_that_its_successor_mends(shm):
    spec = spec_of(capacity=1024, tail=1024, keys_max=8)
    create_stream(shm, spec, 1)
    previous = 0
    for seed in range(200):
        assert join(fork(lambda seed=seed: append_until_killed(shm, spec, seed))) == -9
        reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
        rows, _, lost = reader.read(0, spec.capacity)
        assert_whole(rows)
        assert rows["a"].tolist() == list(range(lost, reader.published()))
        reader.close()
        attach_writer(shm, spec).close()
        published = check_stream(shm, spec)
        assert published >= previous
        previous = published
    assert previous > 5000


def test_writer_killed_from_outside_at_random_moments_loses_nothing_published(shm):
    spec = spec_of(capacity=256, tail=8, keys_max=8)
    create_stream(shm, spec, 1)

    def write() -> None:
        writer = attach_writer(shm, spec)
        publish = writer.publisher(ROW, ["a", "b", "c", "d"])
        while True:
            sequence = writer.sequence
            publish(sequence % KEYS, 1, 2, 0, *values_of(sequence))

    chance = random.Random(3)
    previous = 0
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    for _ in range(60):
        pid = fork(write)
        while reader.published() == previous:  # it has begun
            time.sleep(0.001)
        time.sleep(chance.random() * 0.02)
        kill(pid)
        assert join(pid) == -9
        attach_writer(shm, spec).close()
        published = check_stream(shm, spec)
        assert published >= previous
        previous = published
    assert previous > 1000


@pytest.mark.timeout(900)
def test_sleeping_readers_never_miss_a_ring_of_the_bell(shm):
    """A million sleeps: each reader arms, looks again, and then sleeps without the usual bound until it is rung."""
    readers, sleeps_each = 4, 250_000
    spec = spec_of(capacity=1 << 10, tail=0, keys_max=1)
    create_stream(shm, spec, 1)
    bells = [make_bell() for _ in range(readers)]
    cursor_words = [(LINES_AT + i * LINE_SIZE + CURSOR_IN_LINE) // 8 for i in range(readers)]

    def read(index: int) -> None:
        reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
        line = reader.register(f"reader{index}", ReaderKind.LOSSY, index)
        poll = select.poll()
        poll.register(bells[index], select.POLLIN)
        sequence = sleeps = 0
        while True:
            line.cursor = sequence
            line.arm(sequence + 1)
            full_barrier()
            if reader.published() <= sequence:
                sleeps += 1
                while reader.published() <= sequence:  # the first ring may be left over from an earlier wish
                    assert poll.poll(20_000), f"reader {index} slept through record {sequence}"
                    drain(bells[index])
            sequence += 1
            if sleeps == sleeps_each:
                line.cursor = 1 << 62  # all others may go on
                return

    def write() -> None:
        writer = attach_writer(shm, spec, bells)
        publish = writer.publisher(ROW, ["a", "b", "c", "d"])
        words = writer._readers.words
        sequence = 0
        while True:
            # Publish while the readers are between their arming and their sleep: as soon as all want this record.
            deadline = time.monotonic() + 30
            while (slowest := min(words[at] for at in cursor_words)) < sequence:
                assert time.monotonic() < deadline
                os.sched_yield()
            if slowest == 1 << 62:
                return
            publish(0, 1, 2, 0, *values_of(sequence))
            sequence += 1

    pids = [fork(lambda i=i: read(i)) for i in range(readers)]
    deadline = time.monotonic() + 30
    while len(inspect_stream(shm / spec.filename)["readers"]) < readers:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pids.append(fork(write))
    join_all(pids)
    for bell in bells:
        os.close(bell)


def test_durable_line_of_a_killed_reader_is_taken_over_although_nobody_has_waited_for_it(shm):
    create_stream(shm, spec_of(capacity=16, tail=0, keys_max=8), 1)
    ready, said = os.pipe()
    pid = os.fork()
    if not pid:
        StreamReader(shm, "feed", "rec", ROW_DTYPE).register("portfolio", ReaderKind.DURABLE, None, 5)
        os.write(said, b"x")
        os.kill(os.getpid(), signal.SIGKILL)
    os.read(ready, 1)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still in the table of processes
    reader = StreamReader(shm, "feed", "rec", ROW_DTYPE)
    assert reader.register("portfolio", ReaderKind.DURABLE).cursor == 5
    file = ReaderFile(shm / spec_of().readers_filename)
    assert [line["name"] for line in file.lines()] == ["portfolio"]
    file.close()
    reader.close()
    os.waitpid(pid, 0)
    os.close(ready)
    os.close(said)
