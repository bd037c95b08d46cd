"""The hot path of a producer that reads its input in chunks: rows are packed one by one and published once a chunk.

`append` packs a record into a claimed slot. `flush` makes all appended records visible with one store, looks at the
alarm, and then brings counts and tails up to date, with numpy where there are several. The producer calls it when the
bytes that it received are used up, so a lone record is published at once, and under load records share the work: 395 ns
a record with 20 keys and 487 with 2,000, where `publish` takes 626 and 836 (same run).

At most `BATCH_MAX` records are pending; then `append` flushes by itself. So many slots of a tail may be in the making
at once, which the header tells the readers (`tail_batch`): of a full tail they trust all but that many.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .layout import ROW_KEY_ID, ROW_NTH, StreamSpec
from .publish import Store

BATCH_MAX = 64
TAIL_MIN = 4 * BATCH_MAX  # a shorter tail would be of no use while a batch is written
VECTOR_MIN = 6  # from so many records on numpy is cheaper than a loop

_APPEND = """\
def append(key_id, ts_recv_ns, ts_event_ns, flags, {values}):
    global sequence
    if sequence >= claimed:
        claim_more()
    nth = counts[key_id]
    at = {slots_at} + (sequence & {slot_mask}) * {slot_size}
    pack_into(memory, at, nth, ts_recv_ns, ts_event_ns, key_id, flags, {values})
    counts[key_id] = nth + 1
    sequence += 1
"""
_NTH_KEY = struct.Struct(f"<Q{ROW_KEY_ID - ROW_NTH - 8}xI")


class ChunkedPublisher:
    """`append` and `flush` of one stream; it must be the stream's only way of publishing.

    Attributes:
        append: ``append(key_id, ts_recv_ns, ts_event_ns, flags, <values>)``. Values that do not fit raise
            `struct.error` and leave the stream as it was.
    """

    append: Callable[..., None]

    def __init__(
        self,
        spec: StreamSpec,
        row: struct.Struct,
        values: Sequence[str],
        store: Store,
    ) -> None:
        memory, counts = store.memory, store.counts
        name = f"{spec.producer}.{spec.record}"
        assert row.size == spec.slot_size, f"row of {row.size} bytes for slots of {spec.slot_size}"
        assert spec.capacity >= 4 * BATCH_MAX, f"stream {name}: capacity {spec.capacity}, chunks need {4 * BATCH_MAX}"
        assert not spec.tail or spec.tail >= TAIL_MIN, f"stream {name}: tail {spec.tail}, chunks need 0 or {TAIL_MIN}"
        self._spec, self._memory = spec, memory
        self._counts, self._claim, self._published = counts, store.claim, store.published
        self._claim_floor, self._alarm, self._ring_due = store.claim_floor, store.alarm, store.ring_due
        self._flushed = self._published[0]
        void = np.dtype(f"V{spec.slot_size}")
        header = np.dtype(
            {
                "names": ["nth", "key_id"],
                "formats": ["<u8", "<u4"],
                "offsets": [ROW_NTH, ROW_KEY_ID],
                "itemsize": spec.slot_size,
            }
        )
        self._slots = np.frombuffer(memory, void, spec.capacity, spec.slots_at)
        self._headers = np.frombuffer(memory, header, spec.capacity, spec.slots_at)
        self._tails = np.frombuffer(memory, void, spec.tail * spec.keys_max, spec.tails_at)
        self._counts_array = np.asarray(counts)
        source = _APPEND.format(
            values=", ".join(values), slots_at=spec.slots_at, slot_mask=spec.capacity - 1, slot_size=spec.slot_size
        )
        self._scope: dict[str, Any] = {
            "pack_into": row.pack_into, "memory": memory, "counts": counts.tolist(), "sequence": self._flushed,
            "claimed": self._flushed, "claim_more": self._claim_more,
        }  # fmt: skip
        exec(compile(source, f"<append {name}>", "exec"), self._scope)  # our own text
        self.append = self._scope["append"]

    def _claim_more(self) -> None:
        self.flush()
        end = self._flushed + BATCH_MAX
        self._claim[0] = max(end, self._claim_floor)  # pairs with the claim load in `StreamReader.read`
        self._scope["claimed"] = end

    def flush(self) -> None:
        """Publish what was appended; ring the doorbells that are due; then counts and tails.

        The bells come first: while a reader wakes up on another CPU, the tails are written here.
        """
        first, end = self._flushed, self._scope["sequence"]
        if first == end:
            return
        self._published[0] = end  # pairs with the publish load in `StreamReader.read`
        self._flushed = end
        if end > self._alarm[0]:  # pairs with `ReaderLine.arm`
            self._ring_due(end)
        if end - first < VECTOR_MIN:
            for sequence in range(first, end):
                self._count_one(sequence)
        else:
            mask, capacity = self._spec.capacity - 1, self._spec.capacity
            at = first & mask
            stop = at + end - first
            self._count_many(at, min(stop, capacity))
            if stop > capacity:
                self._count_many(0, stop - capacity)

    def _count_one(self, sequence: int) -> None:
        spec, memory = self._spec, self._memory
        size = spec.slot_size
        source = spec.slots_at + (sequence & (spec.capacity - 1)) * size
        nth, key_id = _NTH_KEY.unpack_from(memory, source)
        if spec.tail:
            at = spec.tails_at + key_id * spec.tail_bytes + (nth & (spec.tail - 1)) * size
            memory[at : at + size] = memory[source : source + size]
        self._counts[key_id] = nth + 1  # pairs with the count loads in `StreamReader.last`

    def _count_many(self, at: int, stop: int) -> None:
        headers, tail = self._headers[at:stop], self._spec.tail
        keys, nths = headers["key_id"].astype(np.intp), headers["nth"]
        if tail:
            self._tails[keys * tail + (nths & np.uint64(tail - 1)).astype(np.intp)] = self._slots[at:stop]
        self._counts_array[keys] = nths + np.uint64(1)  # of a key that comes several times the last value stays
