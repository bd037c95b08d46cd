"""From a topic's live rows to tellings of fills."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import numpy as np

from ...codecs.desk.canonical import VARIANTS, Fill
from ...codecs.desk.decoder import EXECUTION_REPORTS
from ...codecs.desk.records import FILL, TEXTS, VARIANT_SHIFT
from ...ringbuf import ByteRingReader, ReaderKind, StreamReader, bytes_filename, full_barrier
from ..topic.positions import SUFFIX as POSITIONS
from ..topic.positions import read_positions
from .book import Telling
from .fold import Execution
from .store import Store

log = logging.getLogger(__name__)

LINE = "portfolio"
CROWDED = 0.5  # share of the ring or of its texts that is unread
SKIP_ROWS_MIN = 1024  # fewer are folded faster than they are asked for

_decode = msgspec.json.Decoder(Fill).decode


def telling(fill: Fill, variant: int) -> Telling:
    """A canonical fill of an event of a variant (its index in `canonical.VARIANTS`)."""
    execution = Execution(
        fill.timestamp, fill.fill_id, fill.side == "SELL", fill.quantity, fill.price, fill.commission,
        fill.commission_asset.upper(), 0, fill.realized_pnl, variant,
    )  # fmt: skip
    return Telling((fill.account_id, fill.strategy_id, fill.venue, fill.symbol), execution)


class FillRing:
    """The `fill` stream of one topic: what is new in it, and where its past has to be asked for.

    The store knows how far the ring was folded. A ring that was made anew, or that went on without us, leaves a *hole*
    in each partition: from the last offset seen before to the first seen now, both included, since an event may have
    been cut in two. A hole whose end is not known yet has the end None. Fills that come twice count once.

    The ring's producer waits for us, unless we leave what is unread to ClickHouse (`skip`): that is a hole too.

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
        try:
            self._take_up(folder, doorbell_index)
        except BaseException:  # it is tried again and again
            self.close()
            raise

    def _take_up(self, folder: Path, doorbell_index: int | None) -> None:
        """Take the line, and begin where the store says that the last life ended."""
        producer, store = self.producer, self.store
        self.inode = self.reader.path.stat().st_ino
        self._positions = folder / f"{producer}{POSITIONS}"
        self.topic = EXECUTION_REPORTS
        self.seen = store.seen(self.topic)
        self.holes = store.holes(self.topic)
        self.lost = 0  # rows overwritten before they were read, or unreadable
        self.skipped = 0  # rows left to ClickHouse
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

    def _miss(self) -> None:
        """Rows were overwritten: what was published of each partition by now, and not seen, is a hole."""
        published = read_positions(self._positions)
        self.searched = False  # nor is it known which partitions they were of
        for partition, first in self.seen.items():
            end = published.get(partition)
            if end is None or end > first:
                self.add_hole(partition, first, None if end is None else end - 1)

    @property
    def gap(self) -> int:
        """Offsets in holes whose end is known."""
        return sum(last - first + 1 for first, last in self.holes.values() if last is not None)

    @property
    def uncertain(self) -> bool:
        """Whether it is not known up to where some partition is missing."""
        return not self.searched or any(last is None for _, last in self.holes.values())

    def filled(self, partition: int, first: int, stop: int) -> bool:
        """What a hole had from its first offset up to this one is folded; the rest, and what came to it, stays.

        Returns:
            False where it reaches further back by now: nothing has changed then.
        """
        known, last = self.holes[partition]
        if known != first:
            return False
        if last is not None and stop > last:
            del self.holes[partition]
            self.store.drop_hole(self.topic, partition)
        else:
            # one of unknown end keeps the last offset there is: when its end is known it must be one that comes
            self.holes[partition] = stop if last is not None else max(first, stop - 1), last
            self.store.put_hole(self.topic, partition, *self.holes[partition])
        return True

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
            self._miss()
        found: list[Telling] = []
        newest: dict[int, int] = {}
        unreadable, why = 0, "their texts were overwritten"
        columns = (rows[name].tolist() for name in ("text_at", "text_size", "partition", "offset", "flags"))
        read = self.texts.read
        for at, size, partition, offset, flags in zip(*columns, strict=True):
            if partition not in newest:
                self._join(partition, offset)
            newest[partition] = offset
            text = read(at, size)
            try:
                fill = _decode(text) if text is not None else None
            except (msgspec.DecodeError, UnicodeDecodeError) as error:  # of another version, or damaged
                fill, why = None, str(error)
            if fill is None:
                unreadable += 1
                self.add_hole(partition, offset, offset)
            else:
                found.append(telling(fill, min(flags >> VARIANT_SHIFT, len(VARIANTS) - 1)))
        if unreadable:
            self.lost += unreadable
            log.warning("producer=%s unreadable=%d: %s: asked for in ClickHouse", self.producer, unreadable, why)
        for partition, offset in newest.items():
            self.saw(partition, offset)
        self.cursor = following
        return found

    def crowded(self) -> bool:
        """Whether so much is unread that the ring's producer is soon held up by us."""
        unread = self.reader.published() - self.cursor
        if unread < SKIP_ROWS_MIN:
            return False
        if unread > self.reader.capacity * CROWDED:
            return True
        rows, _, _ = self.reader.read(self.cursor, 1)
        return bool(len(rows)) and self.texts.published() - int(rows["text_at"][0]) > self.texts.capacity * CROWDED

    def skip(self) -> None:
        """Leave what is unread to ClickHouse."""
        rows, following, lost = self.reader.read(self.cursor, self.reader.capacity)
        self.store.begin()
        if lost:
            self.lost += lost
            self._miss()
        for partition in np.unique(rows["partition"]).tolist():
            offsets = rows["offset"][rows["partition"] == partition]
            first, last = int(offsets[0]), int(offsets[-1])
            self._join(partition, first)
            self.add_hole(partition, first, last)
            self.saw(partition, last)
        self.cursor = following
        self.skipped += len(rows)
        log.info("producer=%s rows=%d left to ClickHouse: more than can be folded", self.producer, len(rows))

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
