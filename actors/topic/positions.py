"""How far each partition is published: the position behind its last `event` row.

The ring itself says so for partitions with rows in it, but a quiet partition's last row may long have been overwritten.
The file lives beside the ring, in shared memory, and belongs to it: another epoch of the ring makes it void.

File: ``<actor>.positions``.

| offset | size | field | meaning |
|---|---|---|---|
| 0 | 8 | magic | |
| 8 | 8 | epoch_ns | of the `event` ring |
| 4096 | 8 x PARTITIONS_MAX | positions | one more than the position; 0 = not known; stored AFTER the `event` rows |
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

from ...ringbuf import SegmentMissing
from ...ringbuf.segment import create_segment, open_segment

MAGIC = int.from_bytes(b"TICKPOSN", "little")
PARTITIONS_MAX = 65_536  # a partition takes 16 bits in a row
RESERVED = 1024  # of them have memory at once
POSITIONS_AT = 4096
SIZE = POSITIONS_AT + 8 * PARTITIONS_MAX
SUFFIX = ".positions"


class Positions:
    """The file of one topic, whose actor is its only writer."""

    def __init__(self, folder: Path, actor: str, epoch: int) -> None:
        path = folder / f"{actor}{SUFFIX}"
        if not _belongs(path, epoch):

            def fill(memory: mmap.mmap) -> None:
                memory[0:16] = MAGIC.to_bytes(8, "little") + epoch.to_bytes(8, "little")

            create_segment(path, SIZE, fill, reserved=POSITIONS_AT + 8 * RESERVED)
        self._fd, self._memory = open_segment(path, writable=True)
        self._words = memoryview(self._memory).cast("Q")

    def __getitem__(self, partition: int) -> int | None:
        """Offset of the partition's next event; None where it is not known."""
        word = self._words[POSITIONS_AT // 8 + partition]
        return word - 1 if word else None

    def __setitem__(self, partition: int, position: int) -> None:
        self._words[POSITIONS_AT // 8 + partition] = position + 1

    def close(self) -> None:
        self._words.release()
        self._memory.close()
        os.close(self._fd)


def read_positions(path: Path) -> dict[int, int]:
    """Positions of a topic's partitions, as far as they are known, for whoever is not its actor."""
    try:
        fd, memory = open_segment(path)
    except SegmentMissing:
        return {}
    try:
        words = memoryview(memory[POSITIONS_AT : POSITIONS_AT + 8 * RESERVED]).cast("Q")
        return {partition: word - 1 for partition, word in enumerate(words) if word}
    finally:
        memory.close()
        os.close(fd)


def _belongs(path: Path, epoch: int) -> bool:
    with contextlib.suppress(SegmentMissing):
        fd, memory = open_segment(path)
        words = memory[0:16]
        size = len(memory)
        memory.close()
        os.close(fd)
        return size == SIZE and words == MAGIC.to_bytes(8, "little") + epoch.to_bytes(8, "little")
    return False
