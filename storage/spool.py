"""Batches on disk while ClickHouse is away.

A queue of batches in files ``<number>.spool`` of one folder. `append` returns when the batch is safe (fsync); batches
leave in the order in which they came.

The file ``head`` says which record is the next to be sent. It is not fsynced: if it is lost, records are sent again,
and their tokens and the table itself keep them from being stored twice.

The size is bounded. At the bound the oldest file yields: of market data the newest is worth most. It is renamed to
``<number>-<offset of the first that waited>.yielded`` and stays until its batches are in the gap ledger, so that a
crash leaves no batch in neither. A record that a crash cut short is cut off at the next start.

A spool that does not yield takes no more at its bound: what can wait at its source does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import struct
import threading
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .batch import Batch, BatchHead
from .errors import DiskUnusable, SpoolFull, StorageError
from .spoolfile import CRC, Entry, encode_record, next_record, read_body, read_head

log = logging.getLogger("tickring.storage.spool")

POSITION = struct.Struct("<QQ")
SEGMENT_BYTES = 64 << 20
SEGMENT_BYTES_MIN = 1 << 20
SEGMENTS_MIN = 8  # the bound holds at least so many files, so that little yields at a time
YIELDED_SUFFIX = ".yielded"


class SpoolRecordBroken(StorageError):
    """A record on disk is not what was written. It stays the first until `sent`; `entry` says which batch it was."""

    def __init__(self, message: str, entry: Entry) -> None:
        super().__init__(message)
        self.entry = entry


@dataclass(frozen=True)
class Yielded:
    """Batches that had to yield, oldest first; an uncertain one may have been stored all the same."""

    entries: Sequence[Entry]
    path: Path | None  # where their bytes are

    def forget(self) -> None:
        """They are in the gap ledger: their bytes may go."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


@dataclass
class _Segment:
    number: int
    path: Path
    size: int
    waiting: int = 0  # entries not yet sent


@dataclass
class SpoolCounters:
    """What went wrong since the start."""

    torn: int = 0  # records cut short by a crash, cut off
    broken: int = 0  # damaged places in which no record was found
    disk_errors: int = 0  # appends that the disk refused


class Spool:
    """The queue. Methods block on the disk and may be called from any thread.

    Args:
        folder: made if need be; one process uses it.
        bytes_max: bound of all files together; may be exceeded by one file while its first batch is being sent.
        yields: whether the oldest make room for the newest.

    Raises:
        DiskUnusable: the folder cannot be made or read.
    """

    def __init__(self, folder: Path, bytes_max: int, *, yields: bool = True) -> None:
        self.folder, self.bytes_max, self.yields = folder, bytes_max, yields
        self.segment_bytes = max(SEGMENT_BYTES_MIN, min(SEGMENT_BYTES, bytes_max // SEGMENTS_MIN))
        self.counters = SpoolCounters()
        self._lock = threading.Lock()
        self._segments: deque[_Segment] = deque()
        self._entries: deque[Entry] = deque()
        self._yielded: deque[Yielded] = deque()
        self._last_number = 0  # numbers never come again, even when every file is gone: the position refers to them
        self._sending: Entry | None = None
        self._fd = -1  # of the last segment, for appending
        self.size = 0  # bytes on disk
        self._unsure = 0  # so many of the first entries may have been sent by an earlier life
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._position_fd = os.open(folder / "head", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._open()
        except OSError as error:
            raise DiskUnusable(f"spool {folder}: {error.strerror}: make room or mend its rights") from error

    # -- at start -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._find_yielded()
        paths = sorted(self.folder.glob("*.spool"), key=lambda path: int(path.stem))
        position = self._load_position()
        if position is None and not paths:
            self._store_position(0, 0)
        head_segment, head_offset = position or (0, 0)
        self._last_number = max([self._last_number, head_segment, *(int(path.stem) for path in paths)])
        for path in paths:
            number = int(path.stem)
            if number < head_segment:
                path.unlink()
                continue
            start = head_offset if number == head_segment else 0
            segment = _Segment(number, path, path.stat().st_size)
            self._scan(segment, start, last=path is paths[-1])
            self._segments.append(segment)
            self.size += segment.size
        if self._entries:
            self._unsure = 1 if position is not None else len(self._entries)
        self._drop_finished()

    def _find_yielded(self) -> None:
        """Batches that an earlier life let yield, and perhaps had no time to enter into the gap ledger."""
        for path in sorted(self.folder.glob(f"*{YIELDED_SUFFIX}")):
            number, start = map(int, path.stem.split("-"))
            self._scan(_Segment(number, path, path.stat().st_size), start, last=False)
            if self._entries:
                # whether the first had been tried is not known any more
                self._entries[0] = dataclasses.replace(self._entries[0], uncertain=True)
            self._yielded.append(Yielded(list(self._entries), path))
            self._entries.clear()
            self._last_number = max(self._last_number, number)

    def _load_position(self) -> tuple[int, int] | None:
        return _position_of(os.pread(self._position_fd, POSITION.size + CRC.size, 0))

    def _scan(self, segment: _Segment, start: int, *, last: bool) -> None:
        """Find the records of a file.

        Only the last one of the last file can be torn by a crash: each was fsynced before the next. Damage before that
        is the disk's; what follows it is looked for and kept.
        """
        fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            offset = 0
            while offset < segment.size:
                found = read_head(fd, segment.number, offset)
                if found is None or (last and self._is_torn(fd, segment, found)):
                    if following := next_record(fd, segment.number, offset + 1, segment.size):
                        self.counters.broken += 1
                        log.error("spool=%s damaged=%d bytes at=%d", segment.path, following - offset, offset)
                        offset = following
                        continue
                    self.counters.torn += 1
                    log.warning("spool=%s torn=%d bytes at=%d: cut off", segment.path, segment.size - offset, offset)
                    os.ftruncate(fd, offset)
                    segment.size = offset
                    break
                if offset >= start:
                    self._entries.append(found)
                    segment.waiting += 1
                offset += found.size
        finally:
            os.close(fd)

    def _is_torn(self, fd: int, segment: _Segment, entry: Entry) -> bool:
        end = entry.offset + entry.size
        return end > segment.size or (end == segment.size and read_body(fd, entry) is None)

    # -- in life ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._entries)

    def heads(self) -> list[BatchHead]:
        """The batches that wait, oldest first."""
        with self._lock:
            return [entry.head for entry in self._entries]

    def oldest(self) -> BatchHead | None:
        """The batch that waits longest; waits for no disk."""
        try:
            return self._entries[0].head
        except IndexError:
            return None

    def append(self, batch: Batch) -> None:
        """Store a batch at the end. Afterwards, whatever the outcome, some may have had to yield: see `take_yielded`.

        Raises:
            SpoolFull: it is not stored, and nothing yields here.
            DiskUnusable: it is not stored.
        """
        record = encode_record(batch)
        size = sum(map(len, record))
        with self._lock:
            if not self.yields and self.size + size > self.bytes_max:
                raise SpoolFull(
                    f"spool {self.folder}: holds {self.size} of {self.bytes_max} bytes, {size} more do not fit: "
                    "bring ClickHouse back, or raise its bound"
                )
            if size > self.bytes_max:
                self._yielded.append(Yielded([Entry(-1, 0, size, batch.head, batch.uncertain)], None))
                return
            try:
                self._make_room(size)
                segment = self._tail(size)
                offset = segment.size
                self._write(segment, record)
            except OSError as error:
                self.counters.disk_errors += 1
                self._drop_finished()
                raise DiskUnusable(f"spool {self.folder}: {error.strerror}: make room on that disk") from error
            segment.size += size
            self.size += size
            segment.waiting += 1
            self._entries.append(Entry(segment.number, offset, size, batch.head, batch.uncertain))

    def take_yielded(self) -> list[Yielded]:
        """What had to yield since the last call, and in an earlier life; waits for no disk.

        The caller enters it into the gap ledger and calls `Yielded.forget`; until then a restart finds it again.
        """
        return [self._yielded.popleft() for _ in range(len(self._yielded))]

    def _make_room(self, size: int) -> None:
        kept = self._sending.segment if self._sending is not None else -1
        for segment in [s for s in self._segments if s.number != kept]:
            if self.size + size <= self.bytes_max:
                break
            if segment is self._segments[-1]:
                self._close_tail()
            if entries := [entry for entry in self._entries if entry.segment == segment.number]:
                aside = self.folder / f"{segment.number:010d}-{entries[0].offset}{YIELDED_SUFFIX}"
                segment.path.rename(aside)
                if entries[0] is self._entries[0] and self._unsure:
                    entries[0] = dataclasses.replace(entries[0], uncertain=True)
                self._yielded.append(Yielded(entries, aside))
                self._entries = deque(entry for entry in self._entries if entry.segment != segment.number)
            else:
                segment.path.unlink(missing_ok=True)  # its first record found no room on the disk
            self._segments.remove(segment)
            self.size -= segment.size

    def _tail(self, size: int) -> _Segment:
        """The file to append to, a new one when the last is full."""
        if self._segments and self._segments[-1].size + size <= self.segment_bytes:
            if self._fd < 0:
                self._fd = os.open(self._segments[-1].path, os.O_WRONLY | os.O_CLOEXEC)
            return self._segments[-1]
        self._close_tail()
        self._last_number = number = self._last_number + 1
        path = self.folder / f"{number:010d}.spool"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        self._segments.append(_Segment(number, path, 0))
        self._sync_folder()
        return self._segments[-1]

    def _sync_folder(self) -> None:
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _write(self, segment: _Segment, record: tuple[bytes, ...]) -> None:
        try:
            at = segment.size
            for part in record:
                view = memoryview(part)
                while view:
                    written = os.pwrite(self._fd, view, at)
                    at, view = at + written, view[written:]
            os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, segment.size)
            raise

    def _close_tail(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def first(self) -> tuple[Entry, Batch] | None:
        """The batch to be sent next; it stays where it is until `sent` or `yield_back`. None when the spool is empty.

        Raises:
            SpoolRecordBroken: its bytes are not what was written; `sent` takes it out.
        """
        with self._lock:
            if not self._entries:
                return None
            entry = self._entries[0]
            path = next(segment.path for segment in self._segments if segment.number == entry.segment)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    body = read_body(fd, entry)
                finally:
                    os.close(fd)
            except OSError as error:
                log.error("spool=%s at=%d: %s", path, entry.offset, error)
                body = None
            self._sending = entry
            if body is None:
                raise SpoolRecordBroken(
                    f"spool {path}: the record at {entry.offset} does not match its CRC: skipped", entry
                )
            return entry, Batch(entry.head, body, uncertain=entry.uncertain or self._unsure > 0)

    def sent(self, entry: Entry) -> None:
        """The batch is in ClickHouse, or given up and in the gap ledger: forget it."""
        with self._lock:
            assert self._entries and self._entries[0] is entry, f"spool {self.folder}: sent out of order"
            self._sending = None
            self._forget_first()

    def yield_back(self, entry: Entry) -> None:
        """It was tried and may or may not be in ClickHouse: keep it, and look before the next attempt."""
        with self._lock:
            self._sending = None
            self._unsure = max(self._unsure, 1)

    def _forget_first(self) -> None:
        entry = self._entries.popleft()
        self._unsure = max(0, self._unsure - 1)
        segment = next(segment for segment in self._segments if segment.number == entry.segment)
        segment.waiting -= 1
        following = self._entries[0] if self._entries else None
        if following is not None:
            self._store_position(following.segment, following.offset)
        else:
            self._store_position(entry.segment, entry.offset + entry.size)
        self._drop_finished()

    def _store_position(self, segment: int, offset: int) -> None:
        data = POSITION.pack(segment, offset)
        with contextlib.suppress(OSError):  # then records are sent again, and found to be there
            os.pwrite(self._position_fd, data + CRC.pack(zlib.crc32(data)), 0)

    def _drop_finished(self) -> None:
        while self._segments and not self._segments[0].waiting:
            segment = self._segments.popleft()
            self.size -= segment.size
            if not self._segments:
                self._close_tail()
                self._store_position(segment.number + 1, 0)
            segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; everything stays on disk."""
        with self._lock:
            self._close_tail()
            os.close(self._position_fd)


def _position_of(data: bytes) -> tuple[int, int] | None:
    """What the file `head` says; None where it is damaged or empty."""
    if len(data) < POSITION.size + CRC.size:
        return None
    whole = zlib.crc32(data[: POSITION.size]) == CRC.unpack_from(data, POSITION.size)[0]
    return POSITION.unpack_from(data) if whole else None


def waiting_heads(folder: Path) -> list[BatchHead]:
    """What a spool holds and may not have been sent yet, for somebody other than its process."""
    heads: list[BatchHead] = []
    try:
        data = (folder / "head").read_bytes()
    except FileNotFoundError:
        return heads
    head_segment, head_offset = _position_of(data) or (0, 0)
    for path in sorted(folder.glob("*.spool"), key=lambda path: int(path.stem)):
        number = int(path.stem)
        if number < head_segment:
            continue
        with contextlib.suppress(FileNotFoundError):  # it was sent meanwhile
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                offset, end = head_offset if number == head_segment else 0, os.fstat(fd).st_size
                while offset < end:
                    if (entry := read_head(fd, number, offset)) is not None:
                        heads.append(entry.head)
                        offset += entry.size
                    else:
                        offset = next_record(fd, number, offset + 1, end) or end
            finally:
                os.close(fd)
    return heads


def spool_bytes(folder: Path) -> int:
    """The size of a spool's files, for somebody other than its process."""
    return sum(path.stat().st_size for path in folder.glob("*.spool"))
