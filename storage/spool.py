"""Batches on disk while ClickHouse is away.

A queue of batches in files ``<number>.spool`` of one folder. `append` returns when the batch is safe (fsync); batches
leave in the order in which they came.

Batches leave in windows: as many of the first as may be sent together (see `joining`), so that what gathered while
ClickHouse was away follows in few inserts. Before a window is handed out its extent is in the file ``head``, fsynced: a
window that was perhaps sent is handed out again with just the same batches, and so with the same tokens, also in a next
life. If that file is lost all batches are handed out singly, each to be looked for in its table first.

The size is bounded. At the bound the oldest file yields: of market data the newest is worth most. It is renamed to
``<number>-<offset of the first that waited>.yielded`` and stays until its batches are in the gap ledger, so that a
crash leaves no batch in neither. A record that a crash cut short is cut off at the next start.

A spool that does not yield takes no more at its bound: what can wait at its source does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from .batch import Batch, BatchHead
from .errors import DiskUnusable, SpoolFull, StorageError
from .joining import joinable
from .spoolfile import Entry, encode_record, read_body, scan
from .spoolhead import HEAD, HEAD_FILE, SpoolHead, decode_head

log = logging.getLogger("tickring.storage.spool")

SEGMENT_BYTES = 64 << 20
SEGMENT_BYTES_MIN = 1 << 20
SEGMENTS_MIN = 8  # the bound holds at least so many files, so that little yields at a time
YIELDED_SUFFIX = ".yielded"
GONE = (errno.EIO, errno.ENOENT)  # what was written will not come back; any other error of a read may pass


class SpoolRecordBroken(StorageError):
    """A record on disk is not what was written. It stays the first until `sent`; `entry` says which batch it was."""

    def __init__(self, message: str, entry: Entry) -> None:
        super().__init__(message)
        self.entry = entry


@dataclass(frozen=True)
class Window:
    """Batches to be sent next, in their order; several go together. Uncertain ones may have been sent before."""

    entries: Sequence[Entry]
    batches: Sequence[Batch]


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
        self._sending = -1  # number of the file of the window that is being sent
        self._fd = -1  # of the last segment, for appending
        self.size = 0  # bytes on disk
        # Of the first entries so many are one window, or else so many may have been sent and go alone.
        self._together = self._alone = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._head_fd = os.open(folder / HEAD_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._open()
        except OSError as error:
            raise DiskUnusable(f"spool {folder}: {error.strerror}: make room or mend its rights") from error

    # -- at start -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._find_yielded()
        paths = sorted(self.folder.glob("*.spool"), key=lambda path: int(path.stem))
        head = decode_head(os.pread(self._head_fd, HEAD.size + 4, 0))
        if head is None and not paths:
            self._show_head((0, 0))
        head_segment, head_offset = (head or SpoolHead()).next
        self._last_number = max([self._last_number, head_segment, *(int(path.stem) for path in paths)])
        for path in paths:
            number = int(path.stem)
            if number < head_segment:
                path.unlink()
                continue
            start = head_offset if number == head_segment else 0
            segment = _Segment(number, path, path.stat().st_size)
            self._entries += self._scan(segment, start, last=path is paths[-1])
            self._segments.append(segment)
            self.size += segment.size
        if head is None:
            self._alone = len(self._entries)
        elif tried := sum((entry.segment, entry.offset) < head.tried for entry in self._entries):
            if tried == head.together:
                self._together = tried
            else:  # one of them is damaged, and the rest is another insert than theirs
                self._alone = tried
        self._drop_finished()

    def _find_yielded(self) -> None:
        """Batches that an earlier life let yield, and perhaps had no time to enter into the gap ledger."""
        for path in sorted(self.folder.glob(f"*{YIELDED_SUFFIX}")):
            number, start, tried = map(int, path.stem.split("-"))
            entries = self._scan(_Segment(number, path, path.stat().st_size), start, last=False)
            self._yielded.append(Yielded(_tried(entries, tried), path))
            self._last_number = max(self._last_number, number)

    def _scan(self, segment: _Segment, start: int, *, last: bool) -> list[Entry]:
        """The records of a file from `start` on; what a crash cut short is cut off."""
        entries, damaged, end = scan(segment.path, segment.number, start, last=last)
        self.counters.broken += damaged
        if end < segment.size:
            self.counters.torn += 1
            log.warning("spool=%s torn=%d bytes at=%d: cut off", segment.path, segment.size - end, end)
            os.truncate(segment.path, end)
            segment.size = end
        segment.waiting = len(entries)
        return entries

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
        for segment in [s for s in self._segments if s.number != self._sending]:
            if self.size + size <= self.bytes_max:
                break
            if segment is self._segments[-1]:
                self._close_tail()
            if entries := [entry for entry in self._entries if entry.segment == segment.number]:
                # a window lies in one file, the first; those that go alone may lie in several
                before = next(i for i, entry in enumerate(self._entries) if entry.segment == segment.number)
                tried = min(len(entries), max(0, max(self._together, self._alone) - before))
                aside = self.folder / f"{segment.number:010d}-{entries[0].offset}-{tried}{YIELDED_SUFFIX}"
                segment.path.rename(aside)
                self._yielded.append(Yielded(_tried(entries, tried), aside))
                self._entries = deque(entry for entry in self._entries if entry.segment != segment.number)
                if self._together:
                    self._together -= tried
                else:
                    self._alone -= tried
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

    def first(self) -> Window | None:
        """What is to be sent next; it stays where it is until `sent` or `yield_back`. None when the spool is empty.

        Raises:
            SpoolRecordBroken: the first batch's bytes are not what was written; `sent` takes it out.
            DiskUnusable: what is to be sent could not be read just now, or not be entered into the file ``head``.
        """
        with self._lock:
            if not self._entries:
                return None
            tried = bool(self._together or self._alone)
            count = self._together or (1 if self._alone else joinable(self._entries))
            entries = list(islice(self._entries, count))
            bodies = self._read(entries)
            if self._together and len(bodies) < count:
                log.error("spool=%s %d batches went together, not all can be read: each alone", self.folder, count)
                self._enter(alone=count)
                entries, bodies = entries[:1], bodies[:1]
            self._sending = entries[0].segment
            if not bodies:
                raise SpoolRecordBroken(
                    f"spool {self.folder}: the record at {entries[0].offset} of file {entries[0].segment} does not "
                    "match its CRC: skipped", entries[0],
                )  # fmt: skip
            if not tried:
                self._enter(together=len(bodies))
            entries = entries[: len(bodies)]
            batches = [Batch(e.head, body, tried or e.uncertain) for e, body in zip(entries, bodies, strict=True)]
            return Window(entries, batches)

    def _read(self, entries: Sequence[Entry]) -> list[bytes]:
        """The blocks of entries of one file, up to the first that is not what was written.

        Raises:
            DiskUnusable: no descriptor, no rights, no memory: what was written may be there all the same.
        """
        path = next(segment.path for segment in self._segments if segment.number == entries[0].segment)
        bodies = []
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                for entry in entries:
                    if (body := read_body(fd, entry)) is None:
                        break
                    bodies.append(body)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno not in GONE:
                raise DiskUnusable(f"spool {path}: {error.strerror}: it waits until it can be read") from error
            log.error("spool=%s: %s", path, error)
        return bodies

    def sent(self, entries: Sequence[Entry]) -> None:
        """Batches are in ClickHouse, or given up and in the gap ledger: forget them."""
        with self._lock:
            self._sending = -1
            for entry in entries:
                assert self._entries and self._entries[0] is entry, f"spool {self.folder}: sent out of order"
                self._entries.popleft()
                next(segment for segment in self._segments if segment.number == entry.segment).waiting -= 1
            self._together, self._alone = 0, max(0, self._alone - len(entries))
            end = entries[-1]
            self._show_head((end.segment, end.offset + end.size))
            self._drop_finished()

    def yield_back(self) -> None:
        """What `first` gave was tried and may or may not be in ClickHouse: the same again, and look before."""
        with self._lock:
            self._sending = -1

    def part(self) -> None:
        """What `first` gave does not go together: from now on each of it alone, after a look.

        Raises:
            DiskUnusable: it was not parted.
        """
        with self._lock:
            self._sending = -1
            self._enter(alone=self._together)

    def _enter(self, *, together: int = 0, alone: int = 0) -> None:
        """Say which batches are tried now, and how, so that no next life takes it for something else."""
        before = self._together, self._alone
        self._together, self._alone = together, alone
        try:
            self._store_head()
            os.fdatasync(self._head_fd)
        except OSError as error:
            self._together, self._alone = before
            raise DiskUnusable(f"spool {self.folder / HEAD_FILE}: {error.strerror}: make room on that disk") from error

    def _store_head(self, end: tuple[int, int] = (0, 0)) -> None:
        """Write the file ``head``; `end` is the next place where no batch waits."""
        place = tried = (self._entries[0].segment, self._entries[0].offset) if self._entries else end
        if count := self._together or self._alone:
            last = self._entries[count - 1]
            tried = last.segment, last.offset + last.size
        os.pwrite(self._head_fd, SpoolHead(place, tried, self._together).encode(), 0)

    def _show_head(self, end: tuple[int, int]) -> None:
        with contextlib.suppress(OSError):  # then a next life takes what was sent for tried, and finds it
            self._store_head(end)

    def _drop_finished(self) -> None:
        while self._segments and not self._segments[0].waiting:
            segment = self._segments.popleft()
            self.size -= segment.size
            if not self._segments:
                self._close_tail()
                self._show_head((segment.number + 1, 0))
            segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files; everything stays on disk."""
        with self._lock:
            self._close_tail()
            os.close(self._head_fd)


def _tried(entries: Sequence[Entry], count: int) -> list[Entry]:
    """Entries of which the first so many may have been sent."""
    return [dataclasses.replace(entry, uncertain=True) if i < count else entry for i, entry in enumerate(entries)]
