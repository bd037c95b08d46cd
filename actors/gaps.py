"""The gap ledger of a feed: what the exchange sent and we did not get, exactly, until somebody fetches it.

Two files of JSON lines in the data folder, appended and never rewritten; one that grows over its limit is renamed to
``.1`` (which replaces an older one) and begun anew. In ``gaps/`` is a line for each hole in the exchange's own
numbering. Tickers, mark prices and liquidations have no numbers: of them nobody can say what was missed, only when.
That is in ``outages/``.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

log = logging.getLogger(__name__)

PENDING_MAX = 10_000  # gaps held in memory while the disk takes none


class Gap(msgspec.Struct, frozen=True):
    """A hole in the exchange's own numbering. Both ids belong to it: ``first_id <= missing <= last_id``."""

    exchange: str
    instrument: str
    kind: str  # trade | agg_trade | book
    first_id: int
    last_id: int
    from_ns: int  # our wall clock at the last record before it; 0 = unknown
    to_ns: int  # ... at the first one after it


class Outage(msgspec.Struct, frozen=True):
    """A time in which streams were not subscribed. Our wall clock; whatever was missed was sent in it.

    Where both times are one, it is the first time that the feed was ever connected, and nothing is missing.
    """

    exchange: str
    stream: str  # the exchange's name; "*" = all of the feed
    from_ns: int  # receipt of the last record before it; 0 = unknown
    to_ns: int  # when all were subscribed again; 0 = it lasts, and a later line with the same beginning says how long


ALL = "*"
GAPS_FOLDER, OUTAGES_FOLDER = "gaps", "outages"


def gaps_path(data: Path, producer: str) -> Path:
    return data / GAPS_FOLDER / f"{producer}.jsonl"


def outages_path(data: Path, producer: str) -> Path:
    return data / OUTAGES_FOLDER / f"{producer}.jsonl"


LineT = TypeVar("LineT", Gap, Outage)


class GapLedger(Generic[LineT]):
    """Appends lines. While the disk takes none, `PENDING_MAX` of them wait in memory; those beyond are counted."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self.path = path
        self.bytes_max = bytes_max
        self.written = 0
        self.failed = 0
        self._encode = msgspec.json.Encoder().encode
        self._pending: deque[bytes] = deque()  # lines
        self._said = False
        self._fd: int | None = None  # kept open: a stream full of holes must not cost an open for each of them
        self._size = 0

    def add(self, line: LineT) -> None:
        if len(self._pending) < PENDING_MAX:
            self._pending.append(self._encode(line) + b"\n")
        else:
            self.failed += 1
        self.flush()

    def flush(self) -> None:
        """Write what waits; a disk that takes nothing leaves it waiting. Call it now and then."""
        while self._pending:
            line = self._pending[0]
            try:
                if self._fd is None:
                    self._open()
                if self._size and self._size + len(line) > self.bytes_max:
                    self._close_file()
                    os.replace(self.path, self.path.with_suffix(".jsonl.1"))
                    self._open()
                assert self._fd is not None
                if os.write(self._fd, line) < len(line):  # one write: a kill leaves the line whole or absent
                    os.ftruncate(self._fd, self._size)
                    raise OSError("short write")
            except OSError as error:
                self._close_file()
                if not self._said:
                    log.warning("ledger=%s waiting=%d: %s", self.path, len(self._pending), error)
                self._said = True
                return
            self._said = False
            self._pending.popleft()
            self._size += len(line)
            self.written += 1

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size

    def close(self) -> None:
        self.flush()
        self._close_file()

    def _close_file(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def read_gaps(path: Path) -> list[Gap]:
    """All gaps of a feed, oldest first; lines that are no gaps (a torn last line) are skipped."""
    return _read(path, Gap)


def read_outages(path: Path) -> list[Outage]:
    """All outages of a feed, oldest first, each as its newest line tells it."""
    found: list[Outage] = []
    lasting: dict[tuple[str, int], int] = {}  # place of those that were not over
    for one in _read(path, Outage):
        place = lasting.pop((one.stream, one.from_ns), len(found))
        found[place : place + 1] = [one]
        if not one.to_ns:
            lasting[one.stream, one.from_ns] = place
    return found


def _read(path: Path, kind: type[LineT]) -> list[LineT]:
    decode = msgspec.json.Decoder(kind).decode
    found = []
    for part in (path.with_suffix(".jsonl.1"), path):
        try:
            lines = part.read_bytes().splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                found.append(decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                log.warning("ledger=%s skipped an unreadable line of %d bytes", part, len(line))
    return found
