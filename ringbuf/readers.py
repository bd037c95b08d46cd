"""Who reads a stream: cursors, kinds and wake-up wishes, in a file of its own.

Data files map read-only everywhere but in their producer; readers write here. File: ``<producer>.<record>.readers``.

| offset | size | field | writer | meaning |
|---|---|---|---|---|
| 0 | 8 | magic | creator | |
| 8 | 8 | layout_version | creator | |
| 64 | 8 | alarm | producer; readers store 0 | the producer looks at the lines once ``publish > alarm`` |
| 72 | 8 | lines_used | who takes a line, under the lock | no line from here on was ever taken |
| 128 | 8 x 32 | wake_at | the line's reader | sequence at which it wants its doorbell; 0 = never |
| 512 | 64 x 32 | lines | the line's reader, under the file's lock when it takes or leaves one | see below |

A line:

| offset | size | field | meaning |
|---|---|---|---|
| 0 | 4 | kind | 0 = free, 1 = lossy, 2 = durable |
| 4 | 4 | pid | |
| 8 | 8 | start_time | of that process, in clock ticks since boot: with the pid it names a process for good |
| 16 | 4 | doorbell | number of the reader's doorbell; 2^32-1 = none |
| 24 | 8 | cursor | next sequence the reader wants |
| 32 | 32 | name | UTF-8, zero padded |

A reader that wants to sleep stores ``wake_at``, then 0 into ``alarm``, makes a full barrier and looks at ``publish``
once more. The producer compares ``publish`` with ``alarm`` after each record; when it passes, it rings whom it must,
stores the smallest outstanding wish into ``alarm``, makes a barrier and looks at the lines again: a wish stored
before that barrier is seen now, and one stored after it leaves 0 in ``alarm`` and is seen at the next record.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from . import doorbell
from .errors import DirectoryFull, LayoutMismatch, SegmentMissing
from .segment import SHARED_MODE, create_segment, locked, open_segment

MAGIC = int.from_bytes(b"TICKREAD", "little")
LAYOUT_VERSION = 2
FILE_SIZE = mmap.PAGESIZE
ALARM_AT = 64
LINES_USED_AT = 72
WAKE_AT = 128
LINES = 32
LINES_AT = 512
LINE = struct.Struct("<IIQIIQ32s")
LINE_SIZE = 64
DOORBELL_IN_LINE = 16
CURSOR_IN_LINE = 24
NO_DOORBELL = 0xFFFFFFFF
NEVER = 2**64 - 1
assert LINE.size == LINE_SIZE
assert WAKE_AT + 8 * LINES <= LINES_AT
assert LINES_AT + LINE_SIZE * LINES <= FILE_SIZE


class ReaderKind(IntEnum):
    FREE = 0
    LOSSY = 1
    DURABLE = 2


def process_start_time(pid: int) -> int:
    """Start of a process in clock ticks since boot; 0 when there is none, or when it has ended and nobody knows yet."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def create_readers(path: Path, *, group: str | None = None) -> None:
    """Make an empty reader file."""

    def fill(memory: mmap.mmap) -> None:
        memory[0:16] = struct.pack("<QQ", MAGIC, LAYOUT_VERSION)
        memory[ALARM_AT : ALARM_AT + 8] = NEVER.to_bytes(8, "little")

    create_segment(path, FILE_SIZE, fill, mode=SHARED_MODE, group=group)


def is_reader_file(path: Path) -> bool:
    """Whether there is one of this version."""
    try:
        ReaderFile(path).close()
    except (SegmentMissing, LayoutMismatch):
        return False
    return True


class ReaderFile:
    """A reader file mapped for reading and writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd, self._memory = open_segment(path, writable=True)
        self.words = memoryview(self._memory).cast("Q")
        if self.words[0] != MAGIC or self.words[1] != LAYOUT_VERSION:
            found = self.words[1]
            self.close()
            raise LayoutMismatch(f"reader file {path}: version {found}, expected {LAYOUT_VERSION}: restart the daemon")

    def close(self) -> None:
        self.words.release()
        self._memory.close()
        os.close(self._fd)

    def lines(self) -> list[dict[str, object]]:
        """The lines in use, dead readers among them, for inspection."""
        found: list[dict[str, object]] = []
        for i in range(LINES):
            kind, pid, start, bell, _, cursor, name = LINE.unpack_from(self._memory, LINES_AT + i * LINE_SIZE)
            if kind != ReaderKind.FREE:
                found.append({
                    "line": i, "kind": ReaderKind(kind).name.lower(), "pid": pid, "name": name.rstrip(b"\0").decode(),
                    "alive": process_start_time(pid) == start, "doorbell": None if bell == NO_DOORBELL else bell,
                    "cursor": cursor, "wake_at": self.words[WAKE_AT // 8 + i],
                })  # fmt: skip
        return found

    def durable_cursor(self) -> int | None:
        """The oldest sequence a durable reader still needs; None without one."""
        oldest = None
        for i in range(LINES):
            at = LINES_AT + i * LINE_SIZE
            if LINE.unpack_from(self._memory, at)[0] == ReaderKind.DURABLE:
                cursor = self.words[(at + CURSOR_IN_LINE) // 8]
                oldest = cursor if oldest is None else min(oldest, cursor)
        return oldest

    def take(self, name: str, kind: ReaderKind, doorbell_index: int | None, cursor: int) -> ReaderLine:
        """Take a line: the one this name had before if its owner is dead, else a free one, else a dead lossy one.

        A durable line of a dead reader is kept for its successor of the same name, with its cursor.

        Raises:
            DirectoryFull: every line belongs to a live reader.
        """
        me = os.getpid()
        label = name.encode()[:32]
        with locked(self._fd):
            same = free = dead = None
            for i in range(LINES):
                k, pid, start, _, _, _, text = LINE.unpack_from(self._memory, LINES_AT + i * LINE_SIZE)
                if k == ReaderKind.FREE:
                    free = i if free is None else free
                elif pid == me or process_start_time(pid) != start:
                    if text.rstrip(b"\0") == label:
                        same = i
                    elif k == ReaderKind.LOSSY and pid != me:
                        dead = i if dead is None else dead
            chosen = next((i for i in (same, free, dead) if i is not None), None)
            if chosen is None:
                raise DirectoryFull(f"reader file {self.path}: all {LINES} lines belong to live readers: stop one")
            at = LINES_AT + chosen * LINE_SIZE
            if chosen == same and kind == ReaderKind.DURABLE:
                cursor = max(cursor, self.words[(at + CURSOR_IN_LINE) // 8])
            self.words[WAKE_AT // 8 + chosen] = 0
            bell = NO_DOORBELL if doorbell_index is None else doorbell_index
            self._memory[at : at + LINE_SIZE] = LINE.pack(kind, me, process_start_time(me), bell, 0, cursor, label)
            self.words[LINES_USED_AT // 8] = max(self.words[LINES_USED_AT // 8], chosen + 1)
        return ReaderLine(self, chosen)

    def leave(self, line: int) -> None:
        at = LINES_AT + line * LINE_SIZE
        with locked(self._fd):
            self.words[WAKE_AT // 8 + line] = 0
            self._memory[at : at + LINE_SIZE] = bytes(LINE_SIZE)


class ReaderLine:
    """One reader's line: its cursor, and its wish to be woken."""

    def __init__(self, file: ReaderFile, line: int) -> None:
        self.file = file
        self.line = line
        self._words = file.words
        self._wake = WAKE_AT // 8 + line
        self._cursor = (LINES_AT + line * LINE_SIZE + CURSOR_IN_LINE) // 8

    @property
    def cursor(self) -> int:
        return self._words[self._cursor]

    @cursor.setter
    def cursor(self, sequence: int) -> None:
        self._words[self._cursor] = sequence

    def arm(self, wake_at: int) -> None:
        """Ask for the doorbell once `publish` reaches `wake_at`; then `full_barrier()`, then look at it again."""
        self._words[self._wake] = wake_at
        self._words[ALARM_AT // 8] = 0  # pairs with the alarm load in `Ringer`

    def disarm(self) -> None:
        self._words[self._wake] = 0

    def close(self) -> None:
        """Give the line back; a durable one that should keep its place is simply left."""
        self.file.leave(self.line)


class Ringer:
    """The producer's side: rings the doorbells that are due.

    `alarm` is the word to compare after each record: call `ring_due` when ``publish > alarm[0]``.
    """

    def __init__(self, file: ReaderFile, doorbells: Sequence[int]) -> None:
        self._words = file.words
        self._doorbells = doorbells
        self._rung = [0] * LINES  # the wish that was last answered, so that a wish is answered once
        self.alarm = file.words[ALARM_AT // 8 : ALARM_AT // 8 + 1]
        self.rings = 0
        self.failed = 0  # wishes that named a doorbell this process does not have

    def ring_due(self, publish: int) -> None:
        """Ring every reader whose wish is reached and set the alarm to the next wish."""
        words, rung, first = self._words, self._rung, WAKE_AT // 8
        wishes = words[first : first + words[LINES_USED_AT // 8]].tolist()
        while True:
            following = NEVER
            for i, wish in enumerate(wishes):
                if not wish or wish == rung[i]:
                    continue
                if wish <= publish:
                    rung[i] = wish
                    self._ring(i)
                elif wish < following:
                    following = wish
            # `publish > alarm` must hold when the wish is reached, so the alarm is one below it.
            words[ALARM_AT // 8] = following - 1 if following != NEVER else NEVER
            doorbell.local_barrier()  # pairs with the barrier between `arm` and the reader's second look
            again = words[first : first + words[LINES_USED_AT // 8]].tolist()
            if again == wishes:
                return
            wishes = again

    def _ring(self, line: int) -> None:
        bell = self._words[(LINES_AT + line * LINE_SIZE + DOORBELL_IN_LINE) // 8] & 0xFFFFFFFF
        if bell < len(self._doorbells):
            doorbell.ring(self._doorbells[bell])
            self.rings += 1
        elif bell != NO_DOORBELL:
            self.failed += 1
