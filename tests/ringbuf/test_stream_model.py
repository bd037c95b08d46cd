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

from .processes import ROW_DTYPE, ROW_FORMAT, assert_whole, rows_of, spec_of, values_of

ROW = struct.Struct(ROW_FORMAT)


class StreamAgainstLists(RuleBasedStateMachine):
    """The model: every record ever published in one list, and one list for each key."""

    @initialize(capacity=st.sampled_from([4, 16, 64]), tail=st.sampled_from([0, 1, 2, 8, 32]))
    def create(self, capacity: int, tail: int) -> None:
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
        self.publish = self.writer.publisher(ROW, ["a", "b", "c", "d"])

    @rule(key=st.integers(0, 3), n=st.integers(1, 5))
    def publish_single(self, key: int, n: int) -> None:
        for _ in range(n):
            sequence = len(self.ring)
            self.publish(key, 1, 2, 0, *values_of(sequence))
            self.ring.append(sequence)
            self.keys[key].append(sequence)

    @rule(n=st.integers(1, 150))
    def publish_bulk(self, n: int) -> None:
        first = len(self.ring)
        self.writer.publish_rows(rows_of(first, n, 4))
        for sequence in range(first, first + n):
            self.ring.append(sequence)
            self.keys[sequence % 4].append(sequence)

    @rule(who=st.integers(0, 2), limit=st.integers(1, 100))
    def read(self, who: int, limit: int) -> None:
        before = self.cursors[who]
        rows, cursor, lost = self.reader.read(before, limit)
        assert_whole(rows)
        assert lost == max(0, len(self.ring) - self.spec.capacity - before)
        assert rows["a"].tolist() == self.ring[before + lost : before + lost + limit]
        assert cursor == before + lost + len(rows)
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
            assert self.keys[key][nth] < len(self.ring) - self.spec.capacity
            assert nth <= len(self.keys[key]) - self.spec.tail
        else:
            # A tail may end before the ring does not: never more, never other records, and never none of several.
            assert rows["a"].tolist() == expected

    @invariant()
    def tails_hold_the_last_of_each_key(self) -> None:
        if not hasattr(self, "reader") or not self.spec.tail:
            return
        for key in range(4):
            assert self.reader.count(key) == len(self.keys[key])
            kept = min(
                len(self.keys[key]), self.spec.tail - 1 if len(self.keys[key]) >= self.spec.tail else self.spec.tail
            )
            rows = self.reader.last(key, 1000)
            assert rows["a"].tolist() == self.keys[key][len(self.keys[key]) - kept :]
            assert rows["nth"].tolist() == list(range(len(self.keys[key]) - kept, len(self.keys[key])))

    def teardown(self) -> None:
        if hasattr(self, "reader"):
            self.reader.close()
            self.writer.close()
            shutil.rmtree(self.folder)


StreamAgainstLists.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStreamAgainstLists = StreamAgainstLists.TestCase
