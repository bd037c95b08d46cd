"""The hot path of a producer: one function that publishes one record, written out for its stream.

The function is generated from a template, as `collections.namedtuple` generates its `__new__`: the offsets are
constants in it and the record's values plain parameters, which takes 590 ns for a trade where closures over the
geometry and ``*values`` take 750 (same run, beside a typed decode of 410 ns).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .layout import PUBLISH_BYTES_MAX, StreamSpec

_HEAD = """\
def publish(key_id, ts_recv_ns, ts_event_ns, flags, {values}):
    nth = counts[key_id]
    data = pack(nth, ts_recv_ns, ts_event_ns, key_id, flags, {values})
"""
# The claim store pairs with the claim load in `StreamReader.read`, the publish store with its publish load.
_RING = """\
    sequence = published[0]
    end = sequence + 1
    claim[0] = end if end > {claim_floor} else {claim_floor}
    at = {slots_at} + (sequence & {slot_mask}) * {slot_size}
    memory[at : at + {slot_size}] = data
    published[0] = end
"""
_TAIL = """\
    at = {tails_at} + key_id * {tail_bytes} + (nth & {tail_mask}) * {slot_size}
    memory[at : at + {slot_size}] = data
"""
# Pairs with the count loads in `StreamReader.last`.
_COUNT = """\
    counts[key_id] = nth + 1
"""
# Pairs with `ReaderLine.arm`.
_BELL = """\
    if sequence >= alarm[0]:
        ring_due(end)
"""


@dataclass(frozen=True)
class Store:
    """What a producer writes to: the mapped file, its counters, and the alarm that its readers set."""

    memory: Any  # the mapped stream file
    counts: memoryview  # u64 for each key
    claim: memoryview  # one u64
    published: memoryview  # one u64
    tail_batch: memoryview  # one u64
    claim_floor: int  # a batch cut short by a crash claimed up to here: `claim` must not fall below it
    alarm: memoryview  # one u64
    ring_due: Callable[[int], None]


def make_publisher(
    spec: StreamSpec,
    row: struct.Struct,
    values: Sequence[str],
    store: Store,
) -> Callable[..., None]:
    """Build ``publish(key_id, ts_recv_ns, ts_event_ns, flags, <values>)`` for one stream.

    The values are packed before anything is claimed: values that do not fit raise `struct.error` and leave the stream
    as it was.
    """
    assert row.size == spec.slot_size, f"row of {row.size} bytes for slots of {spec.slot_size}"
    parts = [_HEAD]
    if spec.capacity:
        parts.append(_RING)
    if spec.tail:
        parts.append(_TAIL)
    parts.append(_COUNT)
    if spec.capacity:
        parts.append(_BELL)
    source = "".join(parts).format(
        values=", ".join(values),
        claim_floor=store.claim_floor,
        slots_at=spec.slots_at,
        slot_mask=spec.capacity - 1,
        slot_size=spec.slot_size,
        tails_at=spec.tails_at,
        tail_bytes=spec.tail_bytes,
        tail_mask=spec.tail - 1,
    )
    scope: dict[str, Any] = {
        "pack": row.pack, "memory": store.memory, "counts": store.counts, "claim": store.claim,
        "published": store.published, "alarm": store.alarm, "ring_due": store.ring_due,
    }  # fmt: skip
    exec(compile(source, f"<publish {spec.producer}.{spec.record}>", "exec"), scope)  # our own text
    return scope["publish"]


def make_packed_publisher(
    spec: StreamSpec,
    store: Store,
) -> Callable[[int, bytes], None]:
    """Build ``publish(key_id, data)`` for records of one key that the caller has packed and numbered from its count on.

    For short records in runs of tens this is the cheapest way (levels of a book, mean 68 for each event: 85 ns a level
    to pack and publish, numpy columns 105, one call of `make_publisher` for each 420, same run). For a stream without
    tails.
    """
    assert spec.capacity and not spec.tail, (
        f"stream {spec.producer}.{spec.record}: packed runs need a ring and no tails"
    )
    slots_at, slot_size, capacity, slot_mask = spec.slots_at, spec.slot_size, spec.capacity, spec.capacity - 1
    step = max(1, min(capacity // 4, PUBLISH_BYTES_MAX // slot_size))
    memory, counts, claim, published = store.memory, store.counts, store.claim, store.published
    claim_floor, alarm, ring_due = store.claim_floor, store.alarm, store.ring_due

    def publish(key_id: int, data: bytes) -> None:
        n = len(data) // slot_size
        if n > step:
            for start in range(0, len(data), step * slot_size):
                publish(key_id, data[start : start + step * slot_size])
            return
        sequence = published[0]
        end = sequence + n
        claim[0] = end if end > claim_floor else claim_floor
        first = sequence & slot_mask
        at = slots_at + first * slot_size
        if first + n <= capacity:
            memory[at : at + n * slot_size] = data
        else:
            before_wrap = (capacity - first) * slot_size
            memory[at : at + before_wrap] = data[:before_wrap]
            memory[slots_at : slots_at + len(data) - before_wrap] = data[before_wrap:]
        published[0] = end
        counts[key_id] += n
        if end > alarm[0]:
            ring_due(end)

    return publish
