"""Layout of a stream segment: one file, one record type, one producer, any number of readers.

A stream holds two views of the same records. The *ring* is all keys together in order of arrival: what follows the
stream reads. The *tails* are a small ring for each key: "the last n of BTC-USDT" is one slice, however quiet the key.

File: ``<producer>.<record>.ring``, little-endian, mapped shared.

| offset | size | field | writer | ordering and meaning |
|---|---|---|---|---|
| 0 | 8 | magic | creator, once | the file appears under its name only when complete |
| 8 | 4 | layout_version | creator, once | readers refuse any other value |
| 12 | 4 | slot_size | creator, once | bytes of a record, a multiple of 64 |
| 16 | 8 | capacity | creator, once | slots of the ring, a power of two; 0 = tails only |
| 24 | 8 | tail | creator, once | records kept for each key, a power of two; 0 = counts only |
| 32 | 8 | keys_max | creator, once | rows of counts and tails |
| 40 | 8 | fingerprint | creator, once | hash of the record declaration |
| 48 | 8 | epoch_ns | creator, once | wall clock at creation, UNIX ns; numbering restarts only with a new epoch |
| 64 | 8 | producer_pid | producer, at attach | 0 = never attached |
| 72 | 8 | live_since_ns | producer, at attach and when it loses its source | wall clock; rows before it may be stale |
| 80 | 8 | keys_ready | producer | one more than the highest key whose tail has its memory reserved |
| 88 | 8 | tail_batch | producer | slots of one tail that may be in the making now; stored BEFORE the first; 0 means 1 |
| 96 | 8 | sampled_recv_ns | producer, at times | ts_recv_ns of records that it timed; stored AFTER the next field |
| 104 | 8 | sampled_publish_ns | producer, at times | our wall clock when those had been published; 0 = never |
| 128 | 8 | claim | producer | end of the batch being written; stored BEFORE its first slot byte; never decreases |
| 192 | 8 | publish | producer | end of the readable range; stored AFTER the last slot byte |
| 256 | 96 | producer | creator, once | UTF-8, zero padded |
| 352 | 32 | record | creator, once | UTF-8, zero padded |
| 4096 | 8 x keys_max | counts | producer | records of the key so far; stored AFTER the tail's slot |
| slots_at | slot_size x capacity | slots | producer | load publish, copy, load claim; good: claim <= s + capacity |
| tails_at | slot_size x tail x keys_max | tails | same | copy, load tail_batch, count: good: count <= s + tail - it |

``slots_at`` and ``tails_at`` are rounded up to whole pages. Memory of a key's tail is reserved when the key is added,
so the file may be sparse behind the last key.

Every record begins with the same 32 bytes:

| offset | size | field | meaning |
|---|---|---|---|
| 0 | 8 | nth | u64, how many records of this key came before it |
| 8 | 8 | ts_recv_ns | i64, our wall clock when the bytes arrived, UNIX ns |
| 16 | 8 | ts_event_ns | i64, the exchange's or producer's own time, UNIX ns; 0 = it sends none |
| 24 | 4 | key_id | u32, row in the producer's key directory |
| 28 | 4 | flags | u32 |

The order of stores above is what readers rely on. x86-64 keeps stores in order and loads in order; CPython offers no
fences, so `require_ordered_stores` refuses other machines.
"""

from __future__ import annotations

import mmap
import platform
import struct
from dataclasses import dataclass

from .errors import RingError, UnsupportedMachine

MAGIC = int.from_bytes(b"TICKRING", "little")
LAYOUT_VERSION = 2
PAGE = mmap.PAGESIZE

ROW_HEADER = struct.Struct("<QqqII")
ROW_NTH, ROW_KEY_ID = 0, 24
ROW_ALIGN = 64
assert ROW_HEADER.size == 32

# Fields by byte offset; the u64 ones are used as index // 8 of a memoryview("Q").
MAGIC_AT = 0
VERSION_AT = 8
EPOCH_AT = 48
PRODUCER_PID_AT = 64
LIVE_SINCE_AT = 72
KEYS_READY_AT = 80
TAIL_BATCH_AT = 88
SAMPLED_RECV_AT = 96
SAMPLED_PUBLISH_AT = 104
CLAIM_AT = 128
PUBLISH_AT = 192
PRODUCER_NAME_AT, PRODUCER_NAME_SIZE = 256, 96
RECORD_NAME_AT, RECORD_NAME_SIZE = 352, 32
COUNTS_AT = 4096

ONCE = struct.Struct("<QIIQQQQQ")  # magic .. epoch_ns, written by the creator in one piece before the file has its name
assert ONCE.size == EPOCH_AT + 8
assert CLAIM_AT // 64 != PUBLISH_AT // 64, "claim and publish on a cache line each"
assert all(
    at % 8 == 0
    for at in (PRODUCER_PID_AT, LIVE_SINCE_AT, KEYS_READY_AT, TAIL_BATCH_AT, CLAIM_AT, PUBLISH_AT, COUNTS_AT)
)
assert SAMPLED_PUBLISH_AT == SAMPLED_RECV_AT + 8 < CLAIM_AT and SAMPLED_RECV_AT % 8 == 0
assert RECORD_NAME_AT + RECORD_NAME_SIZE <= COUNTS_AT

PUBLISH_BYTES_MAX = 256 * 1024  # a bulk publish claims at most this much at a time


def require_ordered_stores() -> None:
    """Refuse CPUs on which another process may see our stores out of order.

    Raises:
        UnsupportedMachine: anything but x86-64.
    """
    machine = platform.machine().lower()
    if machine not in ("x86_64", "amd64"):
        raise UnsupportedMachine(
            f"shared-memory rings need a CPU that keeps stores in order (x86-64), this one is {machine!r}: "
            "run tickring on an x86-64 machine"
        )


def is_power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def pages(size: int) -> int:
    """`size` rounded up to whole pages."""
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True)
class StreamSpec:
    """What a stream is and how large: from it follows every offset of its file."""

    producer: str  # name of the producing actor
    record: str  # name of the record type
    slot_size: int  # bytes
    capacity: int  # slots of the ring; 0 = tails only
    tail: int  # records kept for each key; 0 = counts only
    keys_max: int  # keys the producer may ever add
    fingerprint: int  # u64, hash of the record declaration

    def __post_init__(self) -> None:
        where = f"stream {self.producer}.{self.record}"
        if self.slot_size % ROW_ALIGN or self.slot_size <= 0:
            raise RingError(f"{where}: slot_size is {self.slot_size}, expected a multiple of {ROW_ALIGN}")
        for name, value in (("capacity", self.capacity), ("tail", self.tail)):
            if value and not is_power_of_two(value):
                raise RingError(f"{where}: {name} is {value}, expected a power of two or 0")
        if self.keys_max <= 0:
            raise RingError(f"{where}: keys_max is {self.keys_max}, expected at least 1")
        if len(self.producer.encode()) > PRODUCER_NAME_SIZE or len(self.record.encode()) > RECORD_NAME_SIZE:
            raise RingError(
                f"{where}: the name is too long (producer {PRODUCER_NAME_SIZE}, record {RECORD_NAME_SIZE} bytes)"
            )

    @property
    def filename(self) -> str:
        return f"{self.producer}.{self.record}.ring"

    @property
    def readers_filename(self) -> str:
        return f"{self.producer}.{self.record}.readers"

    @property
    def slots_at(self) -> int:
        return pages(COUNTS_AT + 8 * self.keys_max)

    @property
    def tails_at(self) -> int:
        return pages(self.slots_at + self.slot_size * self.capacity)

    @property
    def file_size(self) -> int:
        return pages(self.tails_at + self.tail_bytes * self.keys_max)

    @property
    def tail_bytes(self) -> int:
        """Bytes of one key's tail."""
        return self.slot_size * self.tail

    def bytes_needed(self, keys: int) -> int:
        """Memory that the stream takes once `keys` keys are added, its reader file included."""
        return self.tails_at + pages(self.tail_bytes * keys) + PAGE
