"""A stream in shared memory: the producer's side and the readers' side of one `.ring` file (see `layout`).

`create_stream` makes the files, `StreamWriter` is the one producer, `StreamReader` any of the others.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import doorbell, layout
from .chunked import ChunkedPublisher
from .errors import LayoutMismatch, SegmentMissing
from .keys import KeyReader, keys_filename
from .layout import StreamSpec
from .publish import Store, make_packed_publisher, make_publisher
from .readers import ReaderFile, ReaderKind, ReaderLine, Ringer, create_readers, is_reader_file
from .segment import create_segment, is_locked, lock_exclusive, open_segment, populate, reserve, unlock

HEADER_DTYPE = np.dtype([
    ("nth", "<u8"), ("ts_recv_ns", "<i8"), ("ts_event_ns", "<i8"), ("key_id", "<u4"), ("flags", "<u4"),
])  # fmt: skip
assert HEADER_DTYPE.itemsize == layout.ROW_HEADER.size


# A reader that lost its CPU for a moment finds a short tail of a busy key overwritten: it looks again. Only a producer
# that publishes nothing but that key, flat out, can make it fail more than once or twice.
COPIES_MAX = 1000


def _name_field(memory: mmap.mmap, at: int, size: int) -> str:
    return memory[at : at + size].rstrip(b"\0").decode("utf-8", "replace")


def read_spec(path: Path) -> tuple[StreamSpec, int]:
    """The geometry a stream file declares, and its epoch.

    Raises:
        SegmentMissing, LayoutMismatch
    """
    fd, memory = open_segment(path)
    try:
        return _spec_of(path, memory)
    finally:
        memory.close()
        os.close(fd)


def _spec_of(path: Path, memory: mmap.mmap) -> tuple[StreamSpec, int]:
    magic, version, slot_size, capacity, tail, keys_max, fingerprint, epoch = layout.ONCE.unpack_from(memory, 0)
    if magic != layout.MAGIC:
        raise LayoutMismatch(f"segment {path}: magic is {magic:#x} at offset 0, no tickring stream: remove the file")
    if version != layout.LAYOUT_VERSION:
        raise LayoutMismatch(
            f"segment {path}: layout_version is {version}, expected {layout.LAYOUT_VERSION} "
            f"(offset {layout.VERSION_AT}): another version made it: stop that daemon, then start this one"
        )
    spec = StreamSpec(
        producer=_name_field(memory, layout.PRODUCER_NAME_AT, layout.PRODUCER_NAME_SIZE),
        record=_name_field(memory, layout.RECORD_NAME_AT, layout.RECORD_NAME_SIZE),
        slot_size=slot_size, capacity=capacity, tail=tail, keys_max=keys_max, fingerprint=fingerprint,
    )  # fmt: skip
    if len(memory) != spec.file_size:
        raise LayoutMismatch(
            f"segment {path}: {len(memory)} bytes, its header asks for {spec.file_size}: remove the file"
        )
    return spec, epoch


def _attach(path: Path, *, writable: bool, expect: StreamSpec | None = None) -> tuple[int, mmap.mmap, StreamSpec, int]:
    fd, memory = open_segment(path, writable=writable)
    try:
        spec, epoch = _spec_of(path, memory)
        if expect is not None and spec != expect:
            differing = ", ".join(
                f"{name} {getattr(spec, name)} instead of {getattr(expect, name)}"
                for name in expect.__dataclass_fields__
                if getattr(spec, name) != getattr(expect, name)
            )
            raise LayoutMismatch(f"segment {path}: {differing}: made for another configuration, restart the daemon")
    except BaseException:
        memory.close()
        os.close(fd)
        raise
    return fd, memory, spec, epoch


def create_stream(folder: Path, spec: StreamSpec, epoch_ns: int, *, group: str | None = None) -> bool:
    """Make a stream's files unless files of the same declaration and geometry are there; True when it made new ones.

    A kept stream keeps its records, numbering and epoch: that is a warm restart.

    Raises:
        NoSpace: the file system cannot hold it.
    """
    path, readers = folder / spec.filename, folder / spec.readers_filename
    with contextlib.suppress(SegmentMissing, LayoutMismatch):
        if read_spec(path)[0] == spec:
            if not is_reader_file(readers):
                create_readers(readers, group=group)
            return False

    def fill(memory: mmap.mmap) -> None:
        once = (
            layout.LAYOUT_VERSION,
            spec.slot_size,
            spec.capacity,
            spec.tail,
            spec.keys_max,
            spec.fingerprint,
            epoch_ns,
        )
        memory[0 : layout.ONCE.size] = layout.ONCE.pack(layout.MAGIC, *once)
        for at, text in ((layout.PRODUCER_NAME_AT, spec.producer), (layout.RECORD_NAME_AT, spec.record)):
            encoded = text.encode()
            memory[at : at + len(encoded)] = encoded

    create_readers(readers, group=group)
    create_segment(path, spec.file_size, fill, reserved=spec.tails_at, group=group)
    return True


class StreamWriter:
    """The one producer of a stream.

    Attach mends what a crash left behind: the tails are completed from the ring's last slots, and `claim` is kept until
    `publish` has passed it, because the interrupted batch has already destroyed the slots it claimed.

    Args:
        folder: the instance's folder.
        spec: what the stream must be.
        doorbells: eventfds by doorbell number, to wake sleeping readers.
        now_ns: wall clock, stored as `live_since_ns`.

    Raises:
        SegmentMissing, LayoutMismatch: see `create_stream`.
        SegmentBusy: another live process produces it.
    """

    def __init__(self, folder: Path, spec: StreamSpec, doorbells: Sequence[int], now_ns: int) -> None:
        layout.require_ordered_stores()
        doorbell.register_producer()
        self.spec = spec
        self.path = folder / spec.filename
        self._fd, self._memory, _, self.epoch = _attach(self.path, writable=True, expect=spec)
        self._words = memoryview(self._memory).cast("Q")
        lock_exclusive(self._fd, f"stream {spec.producer}.{spec.record}", self._words[layout.PRODUCER_PID_AT // 8])
        self._readers = ReaderFile(folder / spec.readers_filename)
        self.ringer = Ringer(self._readers, doorbells)
        self._claim = self._words[layout.CLAIM_AT // 8 : layout.CLAIM_AT // 8 + 1]
        self._publish = self._words[layout.PUBLISH_AT // 8 : layout.PUBLISH_AT // 8 + 1]
        self.counts = self._words[layout.COUNTS_AT // 8 : layout.COUNTS_AT // 8 + spec.keys_max]
        self._tail_batch = self._words[layout.TAIL_BATCH_AT // 8 : layout.TAIL_BATCH_AT // 8 + 1]
        # `[0]` ts_recv_ns, `[1]` when it was published: for a producer that times its publishing. Store [1] first.
        self.sampled = self._words[layout.SAMPLED_RECV_AT // 8 : layout.SAMPLED_PUBLISH_AT // 8 + 1]
        # A batch cut short by a crash claimed up to here; `claim` must not fall below it.
        self._claim_floor = self._claim[0]
        populate(self._memory, 0, spec.tails_at)
        self._mend_tails()
        self._words[layout.PRODUCER_PID_AT // 8] = os.getpid()
        self._tail_batch[0] = 1
        self.set_live_since(now_ns)

    def set_live_since(self, now_ns: int) -> None:
        """Say that what was received before this may be stale: the source of the records was lost. Wall clock."""
        self._words[layout.LIVE_SINCE_AT // 8] = now_ns

    def mind_clock(self, now_ns: int) -> None:
        """Begin `live_since_ns` anew where the clock was set back: else what comes is stale until it has caught up.

        To be called now and then, with the wall clock. What was received by the clock as it was counts as live.
        """
        if now_ns < self._words[layout.LIVE_SINCE_AT // 8]:
            self.set_live_since(now_ns)

    @property
    def sequence(self) -> int:
        """Sequence of the next record."""
        return self._publish[0]

    def add_key(self, key_id: int) -> None:
        """Reserve the memory of a key's tail, before its first record. Keys of other streams' records take none here.

        Raises:
            NoSpace: the file system is full.
        """
        size = self.spec.tail_bytes
        at = self.spec.tails_at + key_id * size
        reserve(self._fd, at, size, self.path)
        first = at - at % mmap.PAGESIZE
        populate(self._memory, first, at + size - first)
        self._words[layout.KEYS_READY_AT // 8] = max(key_id + 1, self._words[layout.KEYS_READY_AT // 8])

    def _store(self) -> Store:
        return Store(
            self._memory,
            self.counts,
            self._claim,
            self._publish,
            self._tail_batch,
            self._claim_floor,
            self.ringer.alarm,
            self.ringer.ring_due,
        )

    def publisher(self, row: struct.Struct, values: Sequence[str] = ("*values",)) -> Callable[..., None]:
        """A function that publishes one record: ``publish(key_id, ts_recv_ns, ts_event_ns, flags, <values>)``.

        Args:
            row: packs a whole slot, header first.
            values: names of the record's own values, in the order of `row`.
        """
        return make_publisher(self.spec, row, values, self._store())

    def packed_publisher(self) -> Callable[[int, bytes], None]:
        """A function that publishes records of one key: ``publish(key_id, data)``.

        `data` is whole slots, packed by the caller, numbered from ``counts[key_id]`` on. For a stream without tails.
        """
        return make_packed_publisher(self.spec, self._store())

    def chunked(self, row: struct.Struct, values: Sequence[str]) -> ChunkedPublisher:
        """`append` and `flush` for a producer that reads its input in chunks (see `chunked`).

        From then on it is the stream's only way of publishing.
        """
        return ChunkedPublisher(self.spec, row, values, self._store())

    def _mend_tails(self) -> None:
        """Complete counts and tails from the ring: a crash may have come between publish and tail."""
        spec = self.spec
        if not spec.capacity or not self._publish[0]:
            return
        dtype = np.dtype({
            "names": list(HEADER_DTYPE.names or ()), "formats": [HEADER_DTYPE[i] for i in range(5)],
            "offsets": [0, 8, 16, 24, 28], "itemsize": spec.slot_size,
        })  # fmt: skip
        slots = np.frombuffer(self._memory, dtype, spec.capacity, spec.slots_at)
        published = self._publish[0]
        oldest = max(0, self._claim[0] - spec.capacity)
        # One chunk, or run of packed records, is the most that can be published but not yet counted.
        step = max(1, min(spec.capacity // 4, layout.PUBLISH_BYTES_MAX // spec.slot_size))
        sequences = np.arange(max(oldest, published - step), published)
        recent = slots[sequences & (spec.capacity - 1)]
        counts = np.frombuffer(self._memory, "<u8", spec.keys_max, layout.COUNTS_AT)
        missing = np.flatnonzero(recent["nth"] >= counts[np.minimum(recent["key_id"], spec.keys_max - 1)])
        for i in missing.tolist():
            key_id, nth = int(recent["key_id"][i]), int(recent["nth"][i])
            if spec.tail:
                source = spec.slots_at + (int(sequences[i]) & (spec.capacity - 1)) * spec.slot_size
                at = spec.tails_at + key_id * spec.tail_bytes + (nth & (spec.tail - 1)) * spec.slot_size
                self._memory[at : at + spec.slot_size] = self._memory[source : source + spec.slot_size]
            self.counts[key_id] = nth + 1
        del slots, counts

    def durable_cursor(self) -> int | None:
        """The oldest sequence that a durable reader still needs; None without one."""
        return self._readers.durable_cursor()

    def close(self) -> None:
        """Give up the lock and unmap; the files stay."""
        unlock(self._fd)  # said aloud: a mapping that is still in use keeps a copy of the descriptor, and so the lock
        for view in (
            self._claim,
            self._publish,
            self._tail_batch,
            self.sampled,
            self.counts,
            self.ringer.alarm,
            self._words,
        ):
            view.release()
        self._readers.close()
        with contextlib.suppress(BufferError):
            self._memory.close()
        os.close(self._fd)


class StreamReader:
    """Any number of these read a stream; none of them ever holds up its producer.

    Args:
        folder: the instance's folder.
        producer, record: which stream.
        dtype: of its records; the header's 32 bytes only, when None.
        fingerprint: of the record declaration the caller was built with; 0 = do not compare.

    Raises:
        SegmentMissing, LayoutMismatch
    """

    def __init__(
        self, folder: Path, producer: str, record: str, dtype: np.dtype | None = None, fingerprint: int = 0
    ) -> None:
        self.folder = folder
        self.path = folder / f"{producer}.{record}.ring"
        self._fd, self._memory, self.spec, self.epoch = _attach(self.path, writable=False)
        try:
            self.dtype = self._checked(record, dtype, fingerprint)
        except BaseException:  # it is tried again and again
            self._memory.close()
            os.close(self._fd)
            raise
        self.producer, self.record = producer, record
        self._words = memoryview(self._memory).cast("Q")
        self._none = np.empty(0, self.dtype)
        self._publish_word = layout.PUBLISH_AT // 8
        self._claim_word = layout.CLAIM_AT // 8
        self._counts_word = layout.COUNTS_AT // 8
        self._key_reader: KeyReader | None = None
        self._reader_file: ReaderFile | None = None

    def _checked(self, record: str, dtype: np.dtype | None, fingerprint: int) -> np.dtype:
        """The dtype of the records, which must be those of the file."""
        spec = self.spec
        if fingerprint and spec.fingerprint != fingerprint:
            raise LayoutMismatch(
                f"segment {self.path}: record {record!r} was declared differently by the daemon that made it "
                f"(fingerprint {spec.fingerprint:#x}, here {fingerprint:#x}): use one version of tickring on both sides"
            )
        if dtype is None:
            names = list(HEADER_DTYPE.names or ())
            dtype = np.dtype({"names": names, "formats": [HEADER_DTYPE[n] for n in names], "itemsize": spec.slot_size})
        assert dtype is not None
        if dtype.itemsize != spec.slot_size:
            raise LayoutMismatch(
                f"segment {self.path}: slots of {spec.slot_size} bytes, the reader's records have {dtype.itemsize}"
            )
        return dtype

    @property
    def keys(self) -> KeyReader:
        """The producer's key directory."""
        if self._key_reader is None:
            self._key_reader = KeyReader(self.folder / keys_filename(self.producer))
        return self._key_reader

    @property
    def capacity(self) -> int:
        return self.spec.capacity

    @property
    def live_since_ns(self) -> int:
        """When the producer attached or lost its source last, wall clock; rows received before it may be stale."""
        return self._words[layout.LIVE_SINCE_AT // 8]

    @property
    def producer_pid(self) -> int:
        return self._words[layout.PRODUCER_PID_AT // 8]

    def has_producer(self) -> bool:
        """Whether a process may publish. It is refused if it attaches in the moment of this call: ask rarely."""
        return is_locked(self._fd)

    def published_at_ns(self, ts_recv_ns: int) -> int:
        """When records received at that time were published, wall clock; 0 where the producer did not sample it."""
        words, at = self._words, layout.SAMPLED_RECV_AT // 8
        return words[at + 1] if words[at] == ts_recv_ns else 0

    def published(self) -> int:
        """Sequence of the next record to be written: all before it have been."""
        return self._words[self._publish_word]

    def claimed(self) -> int:
        """Sequence behind the last one that is written or being written."""
        return self._words[self._claim_word]

    def oldest(self) -> int:
        """The oldest sequence that can still be read, as of now."""
        return max(0, self.claimed() - self.spec.capacity)

    def count(self, key_id: int) -> int:
        """Records of the key so far."""
        return self._words[self._counts_word + key_id]

    def read_raw(self, cursor: int, limit: int) -> tuple[bytes, int, int]:
        """`read`, with the rows as they are in their slots: for a handful of rows `struct` is faster than numpy."""
        assert self.spec.capacity, f"stream {self.path.name} has no ring, only tails"
        words, capacity = self._words, self.spec.capacity
        published = words[self._publish_word]  # pairs with the publish store in `publish.make_publisher`
        if cursor >= published:
            return b"", cursor, 0
        start = max(cursor, published - capacity)
        stop = min(published, start + limit)
        data = self._copy(self.spec.slots_at, capacity, start, stop)
        # pairs with the claim store in `publish.make_publisher`: older slots may have been overwritten while copying
        good_from = words[self._claim_word] - capacity
        if good_from > start:
            torn = min(good_from, stop) - start
            data, start = data[torn * self.spec.slot_size :], start + torn
        return data, stop, start - cursor

    def read(self, cursor: int, limit: int) -> tuple[np.ndarray, int, int]:
        """Copy the next records from `cursor` on.

        Returns:
            `(rows, next_cursor, lost)`: rows is `(n,)` of the stream's dtype, a read-only copy, `n <= limit`; `lost`
            is how many records between `cursor` and the first row were overwritten before they could be copied:
            exactly the sequences ``[next_cursor - n - lost, next_cursor - n)``.
        """
        data, following, lost = self.read_raw(cursor, limit)
        return np.frombuffer(data, self.dtype), following, lost

    def lone_reader(self, row: struct.Struct) -> Callable[[int], tuple[Any, ...] | None]:
        """Build ``lone(cursor)``: the record at `cursor`, if it is the only new one, unpacked by `row`.

        None where nothing is new, where several records are, or where it was overwritten meanwhile: `read` tells.
        Who follows a stream of single records is woken for each, and then the time is in the first touch of code and
        memory, not in the work: this touches the least.
        """
        words, memory, unpack_from = self._words, self._memory, row.unpack_from
        publish_word, claim_word = self._publish_word, self._claim_word
        slots_at, mask, slot_size, capacity = (
            self.spec.slots_at, self.spec.capacity - 1, self.spec.slot_size, self.spec.capacity,
        )  # fmt: skip

        def lone(cursor: int) -> tuple[Any, ...] | None:
            if words[publish_word] - cursor != 1:
                return None
            found = unpack_from(memory, slots_at + (cursor & mask) * slot_size)
            return found if words[claim_word] <= cursor + capacity else None

        return lone

    def last(self, key_id: int, n: int) -> np.ndarray:
        """Up to `n` newest records of a key, oldest first, a read-only copy: `(m,)` of the stream's dtype, `m <= n`.

        Empty only when the key has none, or when its whole tail was overwritten in each of `COPIES_MAX` tries.
        """
        for _ in range(COPIES_MAX):
            count = self.count(key_id)  # pairs with the count store in `publish.make_publisher`
            rows = self._copy_tail(key_id, max(0, count - n), count)
            if len(rows) or not count or n < 1:
                return rows
        return self._none

    def latest(self, key_id: int) -> np.void | None:
        """The newest record of a key, a copy; None when it has none, as `last` says."""
        rows = self.last(key_id, 1)
        return rows[-1] if len(rows) else None

    def since(self, key_id: int, nth: int, limit: int) -> np.ndarray | None:
        """Records of a key from its `nth` on, oldest first, at most `limit`; None when they are no longer held.

        The key's tail answers if it reaches back far enough, else the ring is searched.
        """
        count = self.count(key_id)
        if nth >= count:
            return np.empty(0, self.dtype)
        if self.spec.tail and nth >= count - self._tail_kept():
            rows = self._copy_tail(key_id, nth, min(count, nth + limit))
            if len(rows) and rows["nth"][0] == nth:
                return rows
        return self._search_ring(key_id, nth, limit)

    def _copy_tail(self, key_id: int, start: int, stop: int) -> np.ndarray:
        assert self.spec.tail, f"stream {self.path.name} keeps no tails"
        size = self.spec.tail
        start = max(start, stop - size)
        if stop <= start:
            return self._none
        rows = np.frombuffer(
            self._copy(self.spec.tails_at + key_id * self.spec.tail_bytes, size, start, stop), self.dtype
        )
        kept = self._tail_kept()  # before the count: what this chunk overwrote is then counted, or still in the making
        good_from = self.count(key_id) - kept
        return rows[good_from - start :] if good_from > start else rows

    def _copy(self, at: int, size: int, start: int, stop: int) -> bytes:
        """Rows `start` to `stop` of a ring of `size` slots that begins at byte `at`: `size` rows at most, at least one.

        Bytes are copied, and looked at as rows later: a tenth of what numpy takes to copy structured rows.
        """
        slot, memory = self.spec.slot_size, self._memory
        first, behind = start & (size - 1), ((stop - 1) & (size - 1)) + 1
        if first < behind:
            return memory[at + first * slot : at + behind * slot]
        return memory[at + first * slot : at + size * slot] + memory[at : at + behind * slot]

    def _tail_kept(self) -> int:
        """Records of a full tail that are not in the making."""
        return self.spec.tail - max(1, self._words[layout.TAIL_BATCH_AT // 8])

    def _search_ring(self, key_id: int, nth: int, limit: int) -> np.ndarray | None:
        if not self.spec.capacity:
            return None
        cursor, found = self.oldest(), []
        while True:
            rows, cursor, lost = self.read(cursor, 1 << 16)
            if lost:
                found = []
            if not len(rows):
                break
            found.append(rows[(rows["key_id"] == key_id) & (rows["nth"] >= nth)])
        rows = np.concatenate(found) if found else np.empty(0, self.dtype)
        return rows[:limit] if len(rows) and rows["nth"][0] == nth else None

    def register(self, name: str, kind: ReaderKind, doorbell_index: int | None = None, cursor: int = 0) -> ReaderLine:
        """Take a line in the reader file, which needs write access to that file alone."""
        if self._reader_file is None:
            self._reader_file = ReaderFile(self.folder / self.spec.readers_filename)
        return self._reader_file.take(name, kind, doorbell_index, cursor)

    def close(self) -> None:
        """Unmap; rows handed out before are copies and stay valid."""
        self._words.release()
        self._memory.close()
        os.close(self._fd)
        for part in (self._key_reader, self._reader_file):
            if part is not None:
                part.close()
