"""Random writes, reads and restarts of a stream against plain lists."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tickring.ringbuf import StreamReader, StreamWriter, create_stream
from tickring.ringbuf.chunked import BATCH_MAX

from .processes import ROW_DTYPE, ROW_FORMAT, assert_whole, packed_run, spec_of, values_of

VALUES = ["a", "b", "c", "d"]
ROW = struct.Struct(ROW_FORMAT)


class StreamAgainstLists(RuleBasedStateMachine):
    """The model: every record ever published in one list, and one list for each key."""

    in_making = 1  # slots of a full tail that a reader may be refused

    @initialize(capacity=st.sampled_from([4, 16, 64]), tail=st.sampled_from([0, 1, 2, 8, 32]))
    def create(self, capacity: int, tail: int) -> None:
        self.begin(capacity, tail)

    def begin(self, capacity: int, tail: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tickring-test-", dir="/dev/shm"))
        self.spec = spec_of(capacity=capacity, tail=tail, keys_max=4)
        create_stream(self.folder, self.spec, 1)
        self.ring: list[int] = []
        self.keys: list[list[int]] = [[] for _ in range(4)]
        self.cursors = [0, 0, 0]
        self.seen = [0, 0, 0]
        self.lost = [0, 0, 0]
        self.attach()
        self.reader = StreamReader(self.folder, "feed", "rec", ROW_DTYPE)

    def attach(self) -> None:
        self.writer = StreamWriter(self.folder, self.spec, [], 1)
        for key in range(4):
            self.writer.add_key(key)
        self.publish = self.writer.publisher(ROW, VALUES)

    @rule(key=st.integers(0, 3), n=st.integers(1, 5))
    def publish_single(self, key: int, n: int) -> None:
        for _ in range(n):
            sequence = len(self.ring)
            self.publish(key, 1, 2, 0, *values_of(sequence))
            self.note(key, sequence)

    @rule(key=st.integers(0, 3), n=st.integers(1, 150))
    def publish_packed(self, key: int, n: int) -> None:
        if self.spec.tail:
            return  # such runs are for streams without
        first = len(self.ring)
        self.writer.packed_publisher()(key, packed_run(self.writer, key, first, n))
        for sequence in range(first, first + n):
            self.note(key, sequence)

    def note(self, key: int, sequence: int) -> None:
        self.ring.append(sequence)
        self.keys[key].append(sequence)

    @rule(who=st.integers(0, 2), limit=st.integers(1, 100))
    def read(self, who: int, limit: int) -> None:
        before = self.cursors[who]
        rows, cursor, lost = self.reader.read(before, limit)
        assert_whole(rows)
        oldest = len(self.ring) - self.spec.capacity
        assert max(0, oldest - before) <= lost <= max(0, self.reader.oldest() - before)  # a claim may reach ahead
        assert cursor == max(before, min(len(self.ring), max(before, oldest) + limit)) == before + lost + len(rows)
        assert rows["a"].tolist() == self.ring[before + lost : cursor]
        self.cursors[who] = cursor

    @rule()
    def restart_writer(self) -> None:
        self.writer.close()
        assert create_stream(self.folder, self.spec, 2) is False
        self.attach()

    @rule(key=st.integers(0, 3), nth=st.integers(0, 400), limit=st.integers(1, 50))
    def since(self, key: int, nth: int, limit: int) -> None:
        rows = self.reader.since(key, nth, limit)
        expected = self.keys[key][nth : nth + limit]
        if rows is None:  # only what has left both tail and ring may be refused
            assert self.keys[key][nth] < self.reader.oldest()
            assert nth < len(self.keys[key]) - self.spec.tail + self.in_making
        else:
            # A tail may end before the ring does not: never more, never other records, and never none of several.
            assert rows["a"].tolist() == expected

    @invariant()
    def tails_hold_the_last_of_each_key(self) -> None:
        if not hasattr(self, "reader"):
            return
        for key, mine in enumerate(self.keys):
            assert self.reader.count(key) == len(mine)
            if not self.spec.tail:
                continue
            rows = self.reader.last(key, 10_000)
            first = len(mine) - len(rows)
            assert min(len(mine), self.spec.tail - self.in_making) <= len(rows) <= min(len(mine), self.spec.tail - 1)
            assert rows["a"].tolist() == mine[first:]
            assert rows["nth"].tolist() == list(range(first, len(mine)))

    def teardown(self) -> None:
        if hasattr(self, "reader"):
            self.reader.close()
            self.writer.close()
            shutil.rmtree(self.folder)


class ChunkedStreamAgainstLists(StreamAgainstLists):
    """The same, published in chunks: appended one by one, and packed before."""

    in_making = BATCH_MAX

    @initialize(capacity=st.sampled_from([1024, 2048]), tail=st.sampled_from([0, 1024]))
    def create(self, capacity: int, tail: int) -> None:
        self.begin(capacity, tail)

    def attach(self) -> None:
        super().attach()
        self.chunked = self.writer.chunked(ROW, VALUES)

    @rule(key=st.integers(0, 3), n=st.integers(1, 600))
    def publish_single(self, key: int, n: int) -> None:
        for sequence in range(len(self.ring), len(self.ring) + n):
            self.chunked.append(key, 1, 2, 0, *values_of(sequence))
            self.note(key, sequence)
        self.chunked.flush()

    @rule(key=st.integers(0, 3), n=st.integers(1, 1500))
    def publish_packed(self, key: int, n: int) -> None:
        """Records of four keys in turn; `extend` numbers them."""
        first = len(self.ring)
        keys = [(key + i) % 4 for i in range(n)]
        self.chunked.extend(
            bytearray().join(ROW.pack(0, 1, 2, k, 0, *values_of(first + i)) for i, k in enumerate(keys))
        )
        for i, each in enumerate(keys):
            self.note(each, first + i)


for machine in (StreamAgainstLists, ChunkedStreamAgainstLists):
    machine.TestCase.settings = settings(
        max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
TestStreamAgainstLists = StreamAgainstLists.TestCase
TestChunkedStreamAgainstLists = ChunkedStreamAgainstLists.TestCase
