"""Records of the spool's files.

| offset | size | field | meaning |
|---|---|---|---|
| 0 | 4 | magic | |
| 4 | 4 | flags | bit 0: the batch had been sent before and no answer came |
| 8 | 4 | head_size | |
| 12 | 4 | body_size | |
| 16 | 4 | body_crc | CRC-32 of the body |
| 20 | 4 | head_crc | CRC-32 of the 20 bytes before it and of the head |
| 24 | head_size | head | JSON of `BatchHead` |
| | body_size | body | the Native block, exactly as it will be sent |
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .batch import Batch, BatchHead

log = logging.getLogger("tickring.storage.spool")

RECORD = struct.Struct("<IIIII")
CRC = struct.Struct("<I")
MAGIC_BYTES = b"TRSP"
MAGIC = int.from_bytes(MAGIC_BYTES, "little")
UNCERTAIN = 1
HEAD_SIZE_MAX = 1 << 20

_encode_head = msgspec.json.Encoder().encode
_decode_head = msgspec.json.Decoder(BatchHead).decode


@dataclass(frozen=True)
class Entry:
    """Where a batch lies."""

    segment: int  # number of the file
    offset: int
    size: int  # of the whole record
    head: BatchHead
    uncertain: bool


def encode_record(batch: Batch) -> tuple[bytes, ...]:
    """A record in pieces, so that the block is not copied."""
    text = _encode_head(batch.head)
    flags = UNCERTAIN if batch.uncertain else 0
    fixed = RECORD.pack(MAGIC, flags, len(text), len(batch.block), zlib.crc32(batch.block))
    return fixed, CRC.pack(zlib.crc32(text, zlib.crc32(fixed))), text, batch.block


def read_head(fd: int, segment: int, offset: int) -> Entry | None:
    """The record that begins at `offset`, whose body may be anything; None when none begins there."""
    fixed = os.pread(fd, RECORD.size + CRC.size, offset)
    if len(fixed) < RECORD.size + CRC.size:
        return None
    magic, flags, head_size, body_size, _ = RECORD.unpack_from(fixed)
    if magic != MAGIC or head_size > HEAD_SIZE_MAX:
        return None
    text = os.pread(fd, head_size, offset + len(fixed))
    if zlib.crc32(text, zlib.crc32(fixed[: RECORD.size])) != CRC.unpack_from(fixed, RECORD.size)[0]:
        return None
    size = len(fixed) + head_size + body_size
    return Entry(segment, offset, size, _decode_head(text), bool(flags & UNCERTAIN))


def read_body(fd: int, entry: Entry) -> bytes | None:
    """The block of a record; None when it is not what was written."""
    _, _, head_size, body_size, crc = RECORD.unpack(os.pread(fd, RECORD.size, entry.offset))
    body = os.pread(fd, body_size, entry.offset + RECORD.size + CRC.size + head_size)
    return body if len(body) == body_size and zlib.crc32(body) == crc else None


def next_record(fd: int, segment: int, start: int, end: int) -> int | None:
    """Offset of the next whole head in ``[start, end)``."""
    data = os.pread(fd, end - start, start)
    at = data.find(MAGIC_BYTES)
    while at >= 0:
        if read_head(fd, segment, start + at) is not None:
            return start + at
        at = data.find(MAGIC_BYTES, at + 1)
    return None


def scan(path: Path, segment: int, start: int, *, last: bool) -> tuple[list[Entry], int, int]:
    """The records of a file from offset `start` on, how many damaged places were gone over, and where they end.

    Only the last one of the last file can be torn by a crash: each was fsynced before the next. Damage before that is
    the disk's; what follows it is looked for and kept.
    """
    entries, damaged, offset = [], 0, start
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        while offset < size:
            found = read_head(fd, segment, offset)
            if found is None or (last and _is_torn(fd, found, size)):
                following = next_record(fd, segment, offset + 1, size)
                if following is None:
                    break
                damaged += 1
                log.error("spool=%s damaged=%d bytes at=%d", path, following - offset, offset)
                offset = following
                continue
            entries.append(found)
            offset += found.size
    finally:
        os.close(fd)
    return entries, damaged, offset


def _is_torn(fd: int, entry: Entry, size: int) -> bool:
    end = entry.offset + entry.size
    return end > size or (end == size and read_body(fd, entry) is None)
