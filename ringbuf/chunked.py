"""The hot path of a producer that reads its input in chunks: rows are packed one by one and published once a chunk.

`append` packs a record into a claimed slot. `flush` makes all appended records visible with one store, looks at the
alarm, and then brings counts and tails up to date, with numpy where there are several. The producer calls it when the
bytes that it received are used up, so a lone record is published at once, and under load records share the work:
`bench/decode.py` prints what a record costs beside one that is published by itself. `extend` publishes many
that are packed already.

At most `BATCH_MAX` records are pending; then `append` flushes by itself. While numpy writes the tails of a chunk, as
many slots of one tail may be in the making as the chunk has records. The header word `tail_batch` says so: it is stored
before the first of those slots, and of a full tail readers trust all but that many. It keeps the number of the last
chunk, so at a quiet time a tail shows all but one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .layout import ROW_KEY_ID, ROW_NTH, StreamSpec
from .publish import Store

BATCH_MAX = 256
TAIL_MIN = 4 * BATCH_MAX  # a shorter tail would be of little use while a batch is written
VECTOR_MIN = 6  # from so many records on numpy is cheaper than a loop

# The position is kept in cells, which are cheaper to store than globals of the generated module.
_APPEND = """\
def make(pack_into, memory, counts, at, claim_more):
    end = at

    def append(key_id, ts_recv_ns, ts_event_ns, flags, {values}):
        nonlocal at, end
        if at == end:
            at, end = claim_more()
        nth = counts[key_id]
        pack_into(memory, at, nth, ts_recv_ns, ts_event_ns, key_id, flags, {values})
        counts[key_id] = nth + 1
        at += {slot_size}

    def move(to):
        nonlocal at, end
        at = end = to

    return append, lambda: at, move
"""
_NTH_KEY = struct.Struct(f"<Q{ROW_KEY_ID - ROW_NTH - 8}xI")


class ChunkedPublisher:
    """`append` and `flush` of one stream; it must be the stream's only way of publishing.

    Attributes:
        append: ``append(key_id, ts_recv_ns, ts_event_ns, flags, <values>)``. Values that do not fit raise
            `struct.error` and leave the stream as it was.
    """

    append: Callable[..., None]

    def __init__(self, spec: StreamSpec, row: struct.Struct, values: Sequence[str], store: Store) -> None:
        memory, counts = store.memory, store.counts
        name = f"{spec.producer}.{spec.record}"
        assert row.size == spec.slot_size, f"row of {row.size} bytes for slots of {spec.slot_size}"
        assert spec.capacity >= 4 * BATCH_MAX, f"stream {name}: capacity {spec.capacity}, chunks need {4 * BATCH_MAX}"
        assert not spec.tail or spec.tail >= TAIL_MIN, f"stream {name}: tail {spec.tail}, chunks need 0 or {TAIL_MIN}"
        self._spec, self._memory = spec, memory
        self._counts, self._claim, self._published = counts, store.claim, store.published
        self._tail_batch = store.tail_batch
        self._claim_floor, self._alarm, self._ring_due = store.claim_floor, store.alarm, store.ring_due
        self._flushed = self._published[0]
        self._flushed_at = self._slot_at(self._flushed)
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
        self._next: list[int] = counts.tolist()  # of each key, what `append` numbers by
        scope: dict[str, Any] = {}
        source = _APPEND.format(values=", ".join(values), slot_size=spec.slot_size)
        exec(compile(source, f"<append {name}>", "exec"), scope)  # our own text
        self.append, self._at, self._move = scope["make"](
            row.pack_into, memory, self._next, self._flushed_at, self._claim_more
        )

    def _slot_at(self, sequence: int) -> int:
        """Offset of a slot; the end of the ring for the one that follows its last."""
        spec = self._spec
        return spec.slots_at + (sequence & (spec.capacity - 1)) * spec.slot_size

    def _claim_more(self) -> tuple[int, int]:
        """Offsets of the next slots to pack into: as many as a chunk may have, not beyond the end of the ring."""
        self.flush()
        spec, first = self._spec, self._flushed
        n = min(BATCH_MAX, spec.capacity - (first & (spec.capacity - 1)))
        self._claim[0] = max(first + n, self._claim_floor)  # pairs with the claim load in `StreamReader.read`
        self._flushed_at = self._slot_at(first)
        return self._flushed_at, self._flushed_at + n * spec.slot_size

    def extend(self, data: bytearray) -> None:
        """Publish whole slots, packed by the caller, behind what was appended. Their `nth` is written here."""
        following, slot_size = self._next, self._spec.slot_size
        headers, slots = np.frombuffer(data, self._headers.dtype), np.frombuffer(data, self._slots.dtype)
        numbers = []
        for key_id in headers["key_id"].tolist():
            number = following[key_id]
            numbers.append(number)
            following[key_id] = number + 1
        headers["nth"] = numbers
        done = 0
        while done < len(slots):
            at, end = self._claim_more()
            index = (at - self._spec.slots_at) // slot_size
            part = slots[done : done + (end - at) // slot_size]
            self._slots[index : index + len(part)] = part
            self._move(at + len(part) * slot_size)
            self.flush()
            done += len(part)

    def flush(self) -> None:
        """Publish what was appended; ring the doorbells that are due; then counts and tails.

        The bells come first: while a reader wakes up on another CPU, the tails are written here.
        """
        at = self._at()
        n = (at - self._flushed_at) // self._spec.slot_size
        if not n:
            return
        first = self._flushed
        end = first + n
        self._published[0] = end  # pairs with the publish load in `StreamReader.read`
        self._flushed, self._flushed_at = end, at
        if end > self._alarm[0]:  # pairs with `ReaderLine.arm`
            self._ring_due(end)
        if n < VECTOR_MIN:
            self._tail_batch[0] = 1  # pairs with the load in `StreamReader._copy_tail`
            for sequence in range(first, end):
                self._count_one(sequence)
        else:
            self._tail_batch[0] = n
            index = first & (self._spec.capacity - 1)
            self._count_many(index, index + n)

    def _count_one(self, sequence: int) -> None:
        spec, memory = self._spec, self._memory
        size, source = spec.slot_size, self._slot_at(sequence)
        nth, key_id = _NTH_KEY.unpack_from(memory, source)
        if spec.tail:
            at = spec.tails_at + key_id * spec.tail_bytes + (nth & (spec.tail - 1)) * size
            memory[at : at + size] = memory[source : source + size]
        self._counts[key_id] = nth + 1  # pairs with the count loads in `StreamReader.last`

    def _count_many(self, index: int, stop: int) -> None:
        headers, tail = self._headers[index:stop], self._spec.tail
        keys, nths = headers["key_id"].astype(np.intp), headers["nth"]
        if tail:
            self._tails[keys * tail + (nths & np.uint64(tail - 1)).astype(np.intp)] = self._slots[index:stop]
        self._counts_array[keys] = nths + np.uint64(1)  # of a key that comes several times the last value stays
