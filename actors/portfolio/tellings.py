"""From a topic's live rows to tellings of fills."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from ...codecs.desk.canonical import VARIANTS, Fill
from ...codecs.desk.decoder import EXECUTION_REPORTS
from ...codecs.desk.records import FILL, TEXTS, VARIANT_SHIFT
from ...ringbuf import ByteRingReader, ReaderKind, StreamReader, bytes_filename, full_barrier
from .book import Telling
from .fold import Execution
from .store import Store

log = logging.getLogger(__name__)

LINE = "portfolio"

_decode = msgspec.json.Decoder(Fill).decode


def telling(fill: Fill, variant: int) -> Telling:
    """A canonical fill of an event of a variant (its index in `canonical.VARIANTS`)."""
    execution = Execution(
        fill.timestamp, fill.fill_id, fill.side == "SELL", fill.quantity, fill.price, fill.commission,
        fill.commission_asset, 0, fill.realized_pnl, variant,
    )  # fmt: skip
    return Telling((fill.account_id, fill.strategy_id, fill.venue, fill.symbol), execution)


class FillRing:
    """The `fill` stream of one topic: what is new in it, and where its past has to be asked for.

    The store knows how far the ring was folded. A ring that was made anew, or that went on without us, leaves a *hole*
    in each partition: from the last offset seen before to the first seen now, both included, since an event may have
    been cut in two. A hole whose end is not known yet has the end None. Fills that come twice count once.

    Raises:
        SegmentMissing, LayoutMismatch
    """

    def __init__(self, folder: Path, producer: str, store: Store, doorbell_index: int | None) -> None:
        self.producer, self.store = producer, store
        self.reader = StreamReader(folder, producer, FILL.name, FILL.dtype, FILL.fingerprint)
        try:
            self.texts = ByteRingReader(folder / bytes_filename(producer, TEXTS))
        except BaseException:
            self.reader.close()
            raise
        self.inode = self.reader.path.stat().st_ino
        self.topic = EXECUTION_REPORTS
        self.seen = store.seen(self.topic)
        self.holes = store.holes(self.topic)
        self.lost = 0  # rows overwritten before they were read
        self._changed: set[int] = set()  # partitions whose highest offset is not stored
        found = store.source(producer)
        if found is not None and found[0] == self.reader.epoch:
            self.cursor, self.searched = found[1], bool(found[2])
        else:
            self.cursor, self.searched = 0, False
            store.begin()
            self.forget()
            log.info("producer=%s epoch=%d new: the past of %d partitions is asked for", producer, self.reader.epoch,
                     len(self.seen))  # fmt: skip
        self.line = self.reader.register(LINE, ReaderKind.DURABLE, doorbell_index, self.cursor)
        self.line.cursor = self.cursor

    def forget(self) -> None:
        """The ring does not follow on what was read of it: what lies between is a hole of unknown end."""
        for partition, offset in self.seen.items():
            self.add_hole(partition, offset, None)

    def add_hole(self, partition: int, first: int, last: int | None) -> None:
        """A range of offsets to be asked for, beside what is to be asked for already."""
        known = self.holes.get(partition)
        if known is not None:
            first = min(first, known[0])
            last = None if last is None or known[1] is None else max(last, known[1])
        if known != (first, last):
            self.holes[partition] = (first, last)
            self.store.put_hole(self.topic, partition, first, last)

    def saw(self, partition: int, offset: int) -> None:
        """Everything up to this offset is folded, or in a hole."""
        if offset > self.seen.get(partition, -1):
            self.seen[partition] = offset
            self._changed.add(partition)

    def read(self, limit: int) -> list[Telling]:
        """What is new, at most so many rows."""
        rows, following, lost = self.reader.read(self.cursor, limit)
        if following == self.cursor:
            return []
        self.store.begin()
        if lost:
            self.lost += lost
            log.warning("producer=%s lost=%d before=%d: asked for in ClickHouse", self.producer, lost, following)
            self.forget()
        found: list[Telling] = []
        newest: dict[int, int] = {}
        columns = (rows[name].tolist() for name in ("text_at", "text_size", "partition", "offset", "flags"))
        read = self.texts.read
        for at, size, partition, offset, flags in zip(*columns, strict=True):
            if partition not in newest:
                self._join(partition, offset)
            newest[partition] = offset
            text = read(at, size)
            if text is None:
                self.lost += 1
                self.add_hole(partition, offset, offset)
            else:
                found.append(telling(_decode(text), min(flags >> VARIANT_SHIFT, len(VARIANTS) - 1)))
        for partition, offset in newest.items():
            self.saw(partition, offset)
        self.cursor = following
        return found

    def _join(self, partition: int, offset: int) -> None:
        """The next offset of a partition is known: the end of its hole, if it has one."""
        hole = self.holes.get(partition)
        if hole is not None and hole[1] is None:
            self.holes[partition] = hole[0], max(offset, hole[0])
            self.store.put_hole(self.topic, partition, *self.holes[partition])
        elif partition not in self.seen and offset > 0:
            self.add_hole(partition, 0, offset)

    def save(self) -> None:
        """Store how far it has been read, with what was read."""
        self.store.put_source(self.producer, self.reader.epoch, self.cursor, self.searched)
        self.store.put_seen(self.topic, [(partition, self.seen[partition]) for partition in self._changed])
        self._changed.clear()

    def saved(self) -> None:
        """The transaction is closed: the producer may go over it."""
        self.line.cursor = self.cursor

    def waiting(self) -> bool:
        return self.reader.published() > self.cursor

    def sleep(self) -> bool:
        """Ask to be woken; False where there is something already."""
        self.line.arm(self.cursor + 1)
        full_barrier()
        return not self.waiting()

    def close(self) -> None:
        """Unmap. The durable line stays with its cursor, for the next one."""
        self.reader.close()
        self.texts.close()
