"""The file ``head`` of a spool: which batch is the next, and which may have been sent already.

| offset | size | field | meaning |
|---|---|---|---|
| 0 | 16 | next | number of a file and offset in it: the batch that is the next to be sent |
| 16 | 16 | tried | up to there batches may have been sent; not beyond `next` = none |
| 32 | 8 | together | so many batches, all from `next` to `tried`, are sent together; 0 = each alone |
| 40 | 4 | crc | CRC-32 of the 40 bytes before it |
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from .batch import BatchHead
from .spoolfile import CRC, scan

HEAD_FILE = "head"
HEAD = struct.Struct("<QQQQQ")


class SpoolHead(NamedTuple):
    """What the file says; a place is the number of a file and an offset in it."""

    next: tuple[int, int] = (0, 0)
    tried: tuple[int, int] = (0, 0)
    together: int = 0

    def encode(self) -> bytes:
        data = HEAD.pack(*self.next, *self.tried, self.together)
        return data + CRC.pack(zlib.crc32(data))


def decode_head(data: bytes) -> SpoolHead | None:
    """What the file ``head`` says; None where it is damaged or empty."""
    if len(data) < HEAD.size + CRC.size or zlib.crc32(data[: HEAD.size]) != CRC.unpack_from(data, HEAD.size)[0]:
        return None
    segment, offset, tried_segment, tried_offset, together = HEAD.unpack_from(data)
    return SpoolHead((segment, offset), (tried_segment, tried_offset), together)


def waiting_heads(folder: Path) -> list[BatchHead]:
    """What a spool holds and may not have been sent yet, for somebody other than its process."""
    heads: list[BatchHead] = []
    try:
        data = (folder / HEAD_FILE).read_bytes()
    except FileNotFoundError:
        return heads
    head_segment, head_offset = (decode_head(data) or SpoolHead()).next
    for path in sorted(folder.glob("*.spool"), key=lambda path: int(path.stem)):
        number = int(path.stem)
        if number < head_segment:
            continue
        with contextlib.suppress(FileNotFoundError):  # it was sent meanwhile
            entries, _, _ = scan(path, number, head_offset if number == head_segment else 0, last=False)
            heads += [entry.head for entry in entries]
    return heads


def spool_bytes(folder: Path) -> int:
    """The size of a spool's files, for somebody other than its process."""
    return sum(path.stat().st_size for path in folder.glob("*.spool"))
