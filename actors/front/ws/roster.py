"""The open connections of all workers, so that limits hold over them together.

File: ``<worker>.ws``, made anew at each start of a worker, which is its only writer.

| offset | size | field | meaning |
|---|---|---|---|
| 0 | 8 | magic | |
| 8 | 8 | layout_version | |
| 16 | 8 | pid | of the worker |
| 24 | 8 | start_time | of that process, in clock ticks since boot: with the pid it names a process for good |
| 32 | 8 | seats | rows behind the header |
| 4096 | 16 × seats | rows | address: a hash of the client's; connected_ns: wall clock, UNIX ns, 0 = free |

A worker takes a seat first and counts all of them then. So two that take the last one at the same moment both see one
too many and both refuse: the limit is never exceeded. The kernel closes the sockets of a worker that was killed, and
its file counts no more from that moment on.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import time
from pathlib import Path

import numpy as np

from ....ringbuf import LayoutMismatch, SegmentMissing, full_barrier
from ....ringbuf.readers import process_start_time
from ....ringbuf.segment import create_segment, open_segment

SUFFIX = ".ws"
MAGIC = int.from_bytes(b"TICKSEAT", "little")
LAYOUT_VERSION = 1
HEADER = struct.Struct("<QQQQQ")
ROWS_AT = 4096
ROW = np.dtype([("address", "<u8"), ("connected_ns", "<u8")])
assert ROW.itemsize == 16


class Table:
    """One worker's file, mapped."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self._fd, self._memory = open_segment(path, writable=writable)
        self.inode = os.fstat(self._fd).st_ino
        magic, version, self.pid, self.start_time, seats = HEADER.unpack_from(self._memory)
        if magic != MAGIC or version != LAYOUT_VERSION:
            self.close()
            raise LayoutMismatch(f"{path}: layout_version {version}, expected {LAYOUT_VERSION}: restart the daemon")
        self.rows = np.frombuffer(self._memory, ROW, seats, ROWS_AT)

    @property
    def alive(self) -> bool:
        return process_start_time(self.pid) == self.start_time

    def close(self) -> None:
        self.rows = np.empty(0, ROW)
        self._memory.close()
        os.close(self._fd)


class Roster:
    """One worker's seats, and its view of all others'.

    Args:
        seats: most connections of this worker; at least the limit over all.
        per_address_max: most connections from one address over all workers; 0 = no limit of its own.
    """

    def __init__(self, folder: Path, worker: str, seats: int, per_address_max: int) -> None:
        self.folder = folder
        self.worker = worker
        self.total_max, self.per_address_max = seats, per_address_max
        self.path = folder / f"{worker}{SUFFIX}"

        def fill(memory: mmap.mmap) -> None:
            pid = os.getpid()
            memory[: HEADER.size] = HEADER.pack(MAGIC, LAYOUT_VERSION, pid, process_start_time(pid), seats)

        create_segment(self.path, ROWS_AT + seats * ROW.itemsize, fill)
        self._mine = Table(self.path, writable=True)
        self._others: dict[str, Table] = {}
        self._free = list(range(seats - 1, -1, -1))

    def enter(self, address: str) -> tuple[int, str]:
        """`(seat, "")`, or `(-1, why not)`."""
        if not self._free:
            return -1, "Too many connections"
        seat, hashed = self._free.pop(), _hash(address)
        rows = self._mine.rows
        rows["address"][seat] = hashed
        rows["connected_ns"][seat] = time.time_ns()
        full_barrier()  # pairs with the same one in every other worker: of two at once, at least one sees the other
        total, of_address = self._count(hashed)
        if total > self.total_max:
            refusal = "Too many connections"
        elif self.per_address_max and of_address > self.per_address_max:
            refusal = "Too many connections from this address"
        else:
            return seat, ""
        self.leave(seat)
        return -1, refusal

    def leave(self, seat: int) -> None:
        """Give a seat back; also after the file is gone, for connections that outlast it."""
        if seat < len(self._mine.rows):
            self._mine.rows["connected_ns"][seat] = 0
            self._free.append(seat)

    def total(self) -> int:
        """Open connections of all workers."""
        return self._count(0)[0]

    def others(self) -> list[str]:
        """Names of the other workers that run."""
        return sorted(self._look())

    def _count(self, hashed: int) -> tuple[int, int]:
        total = of_address = 0
        for table in (self._mine, *self._look().values()):
            taken = table.rows["connected_ns"] != 0
            total += int(np.count_nonzero(taken))
            of_address += int(np.count_nonzero(taken & (table.rows["address"] == hashed)))
        return total, of_address

    def _look(self) -> dict[str, Table]:
        """The other workers' tables as they are now."""
        found: dict[str, Table] = {}
        for entry in os.scandir(self.folder):
            if not entry.name.endswith(SUFFIX) or entry.name == self.path.name or entry.name.startswith("."):
                continue
            name = entry.name.removesuffix(SUFFIX)
            table = self._others.pop(name, None)
            if table is not None and table.inode != entry.inode():
                table.close()
                table = None
            try:
                found[name] = table or Table(Path(entry.path))
            except (SegmentMissing, LayoutMismatch):
                continue  # it goes just now, or belongs to another version
        for table in self._others.values():
            table.close()
        self._others = found
        return {name: table for name, table in found.items() if table.alive}

    def close(self) -> None:
        """Take the file away."""
        self.path.unlink(missing_ok=True)
        for table in (self._mine, *self._others.values()):
            table.close()
        self._others = {}


def _hash(address: str) -> int:
    return int.from_bytes(hashlib.blake2b(address.encode(), digest_size=8).digest(), "little")
