"""The gap ledger: what history lacks, with its exact extent, so that it can be repaired and is never passed over.

One JSON line for each gap in ``gaps.jsonl``, oldest first, fsynced. When the file reaches its bound it becomes
``gaps.1.jsonl`` and a new one is begun.
"""

from __future__ import annotations

import contextlib
import logging
import os
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
REFUSED = "refused"  # ClickHouse does not take them; the block lies in the spool's folder `refused`
RING_GONE = "ring_gone"  # the ring vanished with an insert under way, or with rows not yet read


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
    after_ns: int | None = None  # receipt of the last row before the gap, where known
    before_ns: int | None = None  # receipt of the first row behind it

    @classmethod
    def of_batch(cls, head: BatchHead, reason: str, noticed_ns: int, *, certain: bool = True) -> Gap:
        return cls(
            noticed_ns=noticed_ns, stream=head.stream, epoch=head.epoch, first=head.first, stop=head.stop,
            reason=reason, certain=certain, kind=head.kind, rows=head.rows,
            after_ns=head.ts_first_ns, before_ns=head.ts_last_ns,
        )  # fmt: skip


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Gap).decode


class GapLedger:
    """Appends to the ledger. Never raises for a full disk: gaps then wait in memory, and are counted.

    Raises:
        DiskUnusable: the file cannot be opened at all.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "gaps.jsonl"
        self.pending: list[Gap] = []
        self.unrecorded = 0  # gaps that found no place on disk nor in memory
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = self._open()
        except OSError as error:
            raise DiskUnusable(f"gap ledger {self.path}: {error.strerror}: make room or mend its rights") from error

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def add(self, gap: Gap) -> None:
        """Enter a gap, and those that had to wait."""
        if len(self.pending) >= PENDING_MAX:
            self.unrecorded += 1
        else:
            self.pending.append(gap)
        log.warning(
            "stream=%s lost=%s from=%d to=%s epoch=%d reason=%s", gap.stream,
            "unknown" if gap.stop is None else gap.stop - gap.first, gap.first, gap.stop, gap.epoch, gap.reason,
        )  # fmt: skip
        self.flush()

    def flush(self) -> None:
        """Write what waits; a disk that takes nothing leaves it waiting."""
        if not self.pending:
            return
        text = b"".join(_encode(gap) + b"\n" for gap in self.pending)
        size = os.fstat(self._fd).st_size
        try:
            if size + len(text) > BYTES_MAX and size:
                os.replace(self.path, self.path.with_name("gaps.1.jsonl"))
                os.close(self._fd)
                self._fd, size = self._open(), 0
            if os.write(self._fd, text) < len(text):
                raise OSError("short write")
            os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, size)
            return
        self.pending.clear()

    def close(self) -> None:
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
