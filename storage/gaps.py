"""The gap ledger: what history lacks, with its exact extent, so that it can be repaired and is never passed over.

One JSON line for each gap in ``gaps.jsonl``, oldest first, fsynced. When the file reaches its bound it becomes
``gaps.1.jsonl`` and a new one is begun.

The ledger is a set of extents: after a crash a gap may be entered a second time, alone or with what came behind it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from .batch import BatchHead
from .errors import DiskUnusable

log = logging.getLogger("tickring.storage.gaps")

BYTES_MAX = 16 << 20
PENDING_MAX = 10_000  # gaps held in memory while the disk takes none

LAPPED = "lapped"  # the producer overwrote them before the writer could read them
SPOOL_FULL = "spool_full"  # they yielded to newer ones
SPOOL_BROKEN = "spool_broken"  # their bytes on disk were damaged
SAY_INTERVAL_S = 60.0  # of a stream and reason: one line at once, then their sum at most so often

REFUSED = "refused"  # ClickHouse does not take them; the block lies in the spool's folder `refused`
RING_GONE = "ring_gone"  # the ring vanished with an insert under way, or with rows not yet read

REASONS = (LAPPED, SPOOL_FULL, SPOOL_BROKEN, REFUSED, RING_GONE)

# What an operator can do about it.
_ADVICE = {
    LAPPED: "ring=overrun before the writer read it: give the feed a larger ring, or see what held the writer up",
    SPOOL_FULL: "spool=full, its oldest rows yield to new ones: bring ClickHouse back or raise writer.spool_max_bytes",
    SPOOL_BROKEN: "spool=damaged on disk: check that disk",
    REFUSED: "clickhouse=refuses the rows: their blocks lie in the spool's folder refused",
    RING_GONE: "ring=gone with rows that were not stored: by a reboot, or by hand",
}


class Gap(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sequences ``[first, stop)`` of a stream's ring that are not in ClickHouse."""

    noticed_ns: int  # wall clock
    stream: str
    epoch: int
    first: int
    stop: int | None  # None = unknown: up to the end of a ring that is no more
    reason: str
    certain: bool = True  # False: an insert of them was under way, and may have been carried out
    kind: str = "range"  # range, or sample: then first and stop count samples
    rows: int | None = None  # where it differs from the extent
    # Receipt of the rows around the gap, the last before and the first behind it, where known. Where a batch was lost
    # (`of_batch`), receipt of its own first and last row.
    after_ns: int | None = None
    before_ns: int | None = None

    @classmethod
    def of_batch(cls, head: BatchHead, reason: str, noticed_ns: int, *, certain: bool = True) -> Gap:
        return cls(
            noticed_ns=noticed_ns, stream=head.stream, epoch=head.epoch, first=head.first, stop=head.stop,
            reason=reason, certain=certain, kind=head.kind, rows=head.rows,
            after_ns=head.ts_first_ns, before_ns=head.ts_last_ns,
        )  # fmt: skip

    def joined(self, following: Gap) -> Gap | None:
        """One gap for both when the other one begins where this one ends."""
        ours = (self.stream, self.epoch, self.kind, self.reason, self.certain, self.stop)
        if ours != (
            following.stream,
            following.epoch,
            following.kind,
            following.reason,
            following.certain,
            following.first,
        ):
            return None
        rows = None if self.rows is None or following.rows is None else self.rows + following.rows
        return msgspec.structs.replace(self, stop=following.stop, rows=rows, before_ns=following.before_ns)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Gap).decode


@dataclass
class _Unsaid:
    """Gaps of one stream and reason that no line in the log has told of yet."""

    due: float  # monotonic s
    gaps: list[Gap] = field(default_factory=list)


class GapLedger:
    """Appends to the ledger. Never raises for a full disk: gaps then wait in memory, and are counted.

    Raises:
        DiskUnusable: the file cannot be opened at all.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gaps.jsonl"
        self.pending: list[Gap] = []
        self.unrecorded = 0  # gaps that found no place on disk nor in memory
        self._unsaid: dict[tuple[str, str], _Unsaid] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = self._open()
        except OSError as error:
            raise DiskUnusable(f"gap ledger {self.path}: {error.strerror}: make room or mend its rights") from error

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def add(self, *gaps: Gap) -> None:
        """Enter gaps, and those that had to wait. Adjacent ones become one."""
        for gap in _join(gaps):
            if len(self.pending) >= PENDING_MAX:
                self.unrecorded += 1
            else:
                self.pending.append(gap)
            self._unsaid.setdefault((gap.stream, gap.reason), _Unsaid(0.0)).gaps.append(gap)
        self.flush()

    def _say(self, now: float) -> None:
        for (stream, reason), unsaid in self._unsaid.items():
            gaps = unsaid.gaps
            if not gaps or now < unsaid.due:
                continue
            rows = "unknown" if gaps[-1].stop is None else sum(_rows(gap) for gap in gaps)
            log.warning(
                "stream=%s lost=%s rows gaps=%d from=%d to=%s epoch=%d reason=%s %s", stream, rows, len(gaps),
                gaps[0].first, gaps[-1].stop, gaps[-1].epoch, reason, _ADVICE.get(reason, ""),
            )  # fmt: skip
            unsaid.gaps, unsaid.due = [], now + SAY_INTERVAL_S

    def flush(self) -> None:
        """Write what waits, and say what is due; a disk that takes nothing leaves it waiting. Call it now and then."""
        self._say(time.monotonic())
        if not self.pending:
            return
        text = b"".join(_encode(gap) + b"\n" for gap in self.pending)
        size = os.fstat(self._fd).st_size
        try:
            if size + len(text) > BYTES_MAX and size:
                older = self.path.with_name("gaps.1.jsonl")
                if older.exists():
                    log.warning("ledger=%s reached its bound: the older half of its gaps is forgotten", self.path)
                with contextlib.suppress(FileNotFoundError):  # moved already, and then no new one could be made
                    os.replace(self.path, older)
                fresh = self._open()
                os.close(self._fd)
                self._fd, size = fresh, 0
            if os.write(self._fd, text) < len(text):
                raise OSError("short write")
            os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, size)
            return
        self.pending.clear()

    def close(self) -> None:
        self._say(float("inf"))
        self.flush()
        os.close(self._fd)


def read_gaps(folder: Path) -> list[Gap]:
    """The ledger, oldest first. A line that a crash cut short is left out."""
    gaps: list[Gap] = []
    for name in ("gaps.1.jsonl", "gaps.jsonl"):
        with contextlib.suppress(FileNotFoundError):
            for line in (folder / name).read_bytes().splitlines():
                with contextlib.suppress(msgspec.DecodeError):
                    gaps.append(_decode(line))
    return gaps


def _join(gaps: Iterable[Gap]) -> list[Gap]:
    joined: dict[tuple[str, str], list[Gap]] = {}
    for gap in gaps:
        of_stream = joined.setdefault((gap.stream, gap.reason), [])
        if of_stream and (longer := of_stream[-1].joined(gap)):
            of_stream[-1] = longer
        else:
            of_stream.append(gap)
    return [gap for of_stream in joined.values() for gap in of_stream]


def _rows(gap: Gap) -> int:
    return gap.rows if gap.rows is not None else (gap.stop or gap.first) - gap.first


@dataclass
class GapTotal:
    """The gaps of one stream for one reason, each extent counted once."""

    stream: str
    reason: str
    gaps: int = 0
    rows: int = 0  # without those of open gaps
    open: int = 0  # gaps whose end is unknown
    uncertain: int = 0  # gaps of rows that may have been stored all the same
    first_noticed_ns: int = 0  # wall clock
    last_noticed_ns: int = 0


def gap_totals(gaps: Sequence[Gap]) -> list[GapTotal]:
    """The ledger in numbers, by stream and reason."""
    totals: dict[tuple[str, str], GapTotal] = {}
    covered: dict[tuple[str, str, int, str], int] = {}  # up to where an epoch's extents have been counted
    for gap in sorted(gaps, key=lambda gap: (gap.stream, gap.reason, gap.epoch, gap.kind, gap.first)):
        total = totals.setdefault((gap.stream, gap.reason), GapTotal(gap.stream, gap.reason))
        total.first_noticed_ns = min(total.first_noticed_ns or gap.noticed_ns, gap.noticed_ns)
        total.last_noticed_ns = max(total.last_noticed_ns, gap.noticed_ns)
        extent = (gap.stream, gap.reason, gap.epoch, gap.kind)
        start = max(gap.first, covered.get(extent, 0))
        if gap.stop is None:
            total.gaps, total.open = total.gaps + 1, total.open + 1
        elif gap.stop > start:
            total.gaps += 1
            total.uncertain += not gap.certain
            total.rows += _rows(gap) if start == gap.first else gap.stop - start
            covered[extent] = gap.stop
    return list(totals.values())
