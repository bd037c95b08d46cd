"""Byte ring: text and everything of variable length that records point to with a position and a length.

The same claim and publish as a stream's ring, counted in bytes. File: ``<producer>.<name>.bytes``.

| offset | size | field | writer | ordering and meaning |
|---|---|---|---|---|
| 0 | 8 | magic | creator, once | |
| 8 | 8 | layout_version | creator, once | |
| 16 | 8 | capacity | creator, once | bytes, a power of two |
| 24 | 8 | epoch_ns | creator, once | wall clock at creation, UNIX ns |
| 128 | 8 | claim | producer | end of the bytes being written; stored BEFORE the first of them; never decreases |
| 192 | 8 | publish | producer | end of the readable range; stored AFTER the last byte |
| 4096 | capacity | bytes | producer | position p is good when claim <= p + capacity |
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from pathlib import Path

from . import layout
from .errors import LayoutMismatch, RingError, SegmentMissing
from .segment import create_segment, lock_exclusive, open_segment, populate, unlock

MAGIC = int.from_bytes(b"TICKBYTE", "little")
LAYOUT_VERSION = 1
HEADER = struct.Struct("<QQQQ")
CLAIM, PUBLISH = layout.CLAIM_AT // 8, layout.PUBLISH_AT // 8
BYTES_AT = 4096


def bytes_filename(producer: str, name: str) -> str:
    return f"{producer}.{name}.bytes"


def create_byte_ring(path: Path, capacity: int, epoch_ns: int, *, group: str | None = None) -> bool:
    """Make a byte ring unless one of that capacity is there; True when it made a new one."""
    if not layout.is_power_of_two(capacity):
        raise RingError(f"byte ring {path.name}: capacity is {capacity}, expected a power of two")
    with contextlib.suppress(SegmentMissing, LayoutMismatch):
        ring = ByteRingReader(path)
        kept = ring.capacity == capacity
        ring.close()
        if kept:
            return False

    def fill(memory: mmap.mmap) -> None:
        memory[0 : HEADER.size] = HEADER.pack(MAGIC, LAYOUT_VERSION, capacity, epoch_ns)

    create_segment(path, BYTES_AT + capacity, fill, group=group)
    return True


class ByteRingReader:
    """Reads spans of a byte ring by position."""

    _writable = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd, self._memory = open_segment(path, writable=self._writable)
        magic, version, self.capacity, self.epoch = HEADER.unpack_from(self._memory, 0)
        if magic != MAGIC or version != LAYOUT_VERSION or len(self._memory) != BYTES_AT + self.capacity:
            self._memory.close()
            os.close(self._fd)
            raise LayoutMismatch(
                f"byte ring {path}: layout_version {version}, expected {LAYOUT_VERSION}: restart the daemon"
            )
        self._words = memoryview(self._memory).cast("Q")

    def published(self) -> int:
        """Position behind the last byte written."""
        return self._words[PUBLISH]

    def read(self, position: int, length: int) -> bytes | None:
        """Copy a span; None when it is not written yet or has been overwritten."""
        words, capacity = self._words, self.capacity
        if position + length > words[PUBLISH]:  # pairs with the publish store in `ByteRingWriter.append`
            return None
        at = position & (capacity - 1)
        before_wrap = min(length, capacity - at)
        data = self._memory[BYTES_AT + at : BYTES_AT + at + before_wrap]
        if before_wrap < length:
            data += self._memory[BYTES_AT : BYTES_AT + length - before_wrap]
        return data if words[CLAIM] <= position + capacity else None  # pairs with the claim store in `append`

    def close(self) -> None:
        self._words.release()
        self._memory.close()
        os.close(self._fd)


class ByteRingWriter(ByteRingReader):
    """The one producer of a byte ring."""

    _writable = True

    def __init__(self, path: Path) -> None:
        layout.require_ordered_stores()
        super().__init__(path)
        lock_exclusive(self._fd, f"byte ring {path.name}")
        populate(self._memory, 0, len(self._memory))

    def close(self) -> None:
        """Give up the lock and unmap."""
        unlock(self._fd)  # see `KeyWriter.close`
        super().close()

    def append(self, data: bytes) -> int:
        """Write a span and return its position.

        Raises:
            RingError: longer than a quarter of the ring, which would leave readers no time.
        """
        words, capacity, length = self._words, self.capacity, len(data)
        if length > capacity // 4:
            raise RingError(
                f"byte ring {self.path.name}: {length} bytes at once, at most {capacity // 4} (a quarter) fit"
            )
        position = words[PUBLISH]
        end = position + length
        words[CLAIM] = max(end, words[CLAIM])  # a crash may have left a claim that publish has not passed yet
        at = position & (capacity - 1)
        before_wrap = min(length, capacity - at)
        self._memory[BYTES_AT + at : BYTES_AT + at + before_wrap] = data[:before_wrap]
        if before_wrap < length:
            self._memory[BYTES_AT : BYTES_AT + length - before_wrap] = data[before_wrap:]
        words[PUBLISH] = end
        return position
