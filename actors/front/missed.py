"""What of a range of trades never came: from the ledgers in which feeds write down what they missed."""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from pathlib import Path

import msgspec

from ..catalog import Source
from ..gaps import GAPS_FOLDER, Gap
from .merge import percent

LOOK_S = 1.0  # a gap is known to requests so soon
GAPS_MAX = 4096  # of an instrument, the newest
READ_MAX = 1 << 20  # bytes of a file, its end: what is far back is data-integrity's to tell
TRADES = frozenset(("trade", "agg_trade"))

_decode = msgspec.json.Decoder(Gap).decode


class Missed:
    """The gaps of all feeds in their trades, by instrument. A request costs a look at a dictionary.

    Args:
        data: the data folder.

    Attributes:
        version: changes when a gap was found.
    """

    def __init__(self, data: Path) -> None:
        self._folder = data / GAPS_FOLDER
        self._gaps: dict[tuple[str, str], deque[Gap]] = defaultdict(lambda: deque(maxlen=GAPS_MAX))
        self._read: dict[str, tuple[int, int]] = {}  # file -> (inode, bytes read)
        self._looked = float("-inf")
        self._version = 0

    @property
    def version(self) -> int:
        if time.monotonic() - self._looked >= LOOK_S:
            self._look()
        return self._version

    def trades(self, source: Source, first_ns: int, last_ns: int) -> int:
        """How many trades of an instrument are missing between two times of receipt: wall clock, UNIX ns."""
        missing = 0
        if not self.version:
            return missing
        for gap in reversed(self._gaps.get((source.exchange, source.instrument), ())):
            if gap.to_ns <= first_ns:
                break
            if first_ns <= gap.from_ns and gap.to_ns <= last_ns:
                missing += gap.last_id - gap.first_id + 1
        return missing

    def judge(
        self, source: Source, first_ns: int, last_ns: int, rows: int, completeness: float = 100.0, note: str = ""
    ) -> tuple[float, str]:
        """`(completeness, note)` of so many trades, percent, where it was that before those that never came."""
        missing = self.trades(source, first_ns, last_ns)
        if not missing:
            return completeness, note
        told = f"{missing} trades never came: see data-integrity"
        return min(completeness, percent(rows, rows + missing)), f"{note}; {told}" if note else told

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            files = [entry for entry in os.scandir(self._folder) if entry.name.endswith(".jsonl")]
        except OSError:
            return
        for entry in files:
            try:
                found = entry.stat()
                inode, at = self._read.get(entry.name, (found.st_ino, 0))
                if inode != found.st_ino:
                    at = 0  # begun anew
                if found.st_size > at:
                    self._read[entry.name] = (
                        found.st_ino,
                        self._take(Path(entry.path), max(at, found.st_size - READ_MAX)),
                    )
            except OSError:
                continue  # renamed just now

    def _take(self, path: Path, start: int) -> int:
        """Read from an offset on; returns where the last whole line ends."""
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(READ_MAX)
        stop = data.rfind(b"\n") + 1
        for line in data[:stop].splitlines():
            try:
                gap = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if gap.kind in TRADES:
                self._gaps[gap.exchange, gap.instrument].append(gap)
                self._version += 1
        return start + stop
