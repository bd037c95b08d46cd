"""Follows streams of the desk, whose records have texts in their producer's byte ring.

What is derived from them goes to several tables, the raw events last (see `storage.deskbatch`). Nothing of it yields:
when the spool is full the cursor stays where it is, and the topic pauses before its ring would go over what is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...codecs.desk.records import NO_KEY, TEXTS
from ...codecs.record import Flag
from ...ringbuf import ByteRingReader, StreamReader, bytes_filename
from ...storage.batch import Batch, BatchHead, rows_of_one_partition
from ...storage.deskbatch import HEADERS_SIZE_BYTES, Deriver, RawEvents, alert_batches
from ...storage.errors import DiskUnusable, StorageError
from ...storage.journal import Position
from ...storage.offsets import RAW_TABLE, Overlap
from .delivery import FIRST_TRY_S
from .follower import RETRY_S, Follower, Prepared

log = logging.getLogger("tickring.writer.texts")

BATCH_BYTES = 16 << 20  # of texts; one event is sent whatever its size
_HEADERS = int(Flag.HEADERS)


class TextFollower(Follower):
    """A stream whose records have texts."""

    rows_on_loop = 50

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        reader: StreamReader = args[0]
        self._texts = ByteRingReader(reader.folder / bytes_filename(reader.producer, TEXTS))
        try:
            super().__init__(*args, **kwargs)
        except BaseException:  # it is tried again and again
            self._texts.close()
            raise

    async def _settled(self) -> bool:
        # ClickHouse may start beside us: what waits in the ring for a moment need not go to the spool.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TRY_S):
                await self.delivery.tried.wait()
        return True

    def _read(self, cursor: int, limit: int) -> Prepared:
        reader = self.reader
        rows, stop, lost = reader.read(cursor, limit)
        first = stop - len(rows)
        rows = rows[: rows_of_one_partition(rows)]
        found = [self._texts.read(*span) for span in self._spans(rows)]
        gone = next((i + 1 for i in reversed(range(len(found))) if found[i] is None), 0)
        # What is overwritten is so from the oldest on: these rows say nothing any more.
        rows, first, lost = rows[gone : len(found)], first + gone, lost + gone
        texts = [text for text in found[gone:] if text is not None]
        batches = self._encode_texts(rows, texts, first) if len(rows) else ()
        return Prepared(first, first + len(rows), lost, rows, batches, self.metrics.count(rows, reader.keys))

    def _spans(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """Position and size of the texts of the rows, from the first on, at most `BATCH_BYTES`."""
        sizes = self._sizes(rows)
        n = max(1, int(np.searchsorted(np.cumsum(sizes), BATCH_BYTES, "right")))
        return list(zip(rows["text_at"][:n].tolist(), sizes[:n].tolist(), strict=True))

    def _sizes(self, rows: np.ndarray) -> np.ndarray:
        return rows["text_size"].astype(np.int64)

    @abstractmethod
    def _encode_texts(self, rows: np.ndarray, texts: Sequence[bytes], first: int) -> Sequence[Batch]:
        """The batches of a range of the ring."""

    def close(self) -> None:
        self._texts.close()
        super().close()


class EventFollower(TextFollower):
    """The raw events of a topic, and all tables that follow from them.

    A ring that is new begins where the raw table ends; what an interrupted batch of the ring before had brought to a
    table is asked for once, and left out. An insert that the server was still carrying out at that moment would be
    missed, so where one was interrupted its time limit is waited for first. (A server that carries it out even later,
    without its client, would store derived rows twice; their keys tell.)
    """

    def __init__(self, *args: Any, deriver: Deriver, **kwargs: Any) -> None:
        self.deriver = deriver
        self._interrupted = False  # an insert of the ring before may still be on its way
        super().__init__(*args, **kwargs)
        self._overlap = Overlap(self.journal.path.parent, self.stream)
        self._knows = self._overlap.load(self.reader.epoch)

    def _leave_old_epoch(self, found: Position, inherited: Sequence[BatchHead]) -> None:
        self._interrupted = found.open  # nothing is lost: the topic still has its events

    def _begin(self) -> None:
        pass  # what the journal says of the ring before counts until the tables have been asked

    def _final(self, head: BatchHead) -> bool:
        return head.table == RAW_TABLE

    async def _settled(self) -> bool:
        if self._knows:
            return await super()._settled()
        loop = asyncio.get_running_loop()
        quiet_at = loop.time() + (self.config.insert_timeout_s if self._interrupted else 0.0)
        while not self.leaving:
            if self.delivery.up and loop.time() >= quiet_at:
                try:
                    await self._overlap.ask(
                        self.delivery.client, self.deriver.table_names, self.deriver.topic, self.reader.epoch
                    )
                    super()._begin()
                    return True
                except (StorageError, DiskUnusable) as error:
                    log.warning("stream=%s does not know yet what is stored: %s", self.stream, error)
                    await asyncio.sleep(RETRY_S)
            await asyncio.sleep(0.02)
        return False

    def _sizes(self, rows: np.ndarray) -> np.ndarray:
        key_sizes = rows["key_size"].astype(np.int64)
        sizes = rows["value_size"] + np.where(key_sizes == NO_KEY, 0, key_sizes)
        for i in np.flatnonzero(rows["flags"] & np.uint32(_HEADERS)).tolist():
            head = self._texts.read(int(rows["text_at"][i]), HEADERS_SIZE_BYTES)
            sizes[i] += HEADERS_SIZE_BYTES + int.from_bytes(head or b"", "little")
        return sizes

    def _encode_texts(self, rows: np.ndarray, texts: Sequence[bytes], first: int) -> Sequence[Batch]:
        raw = RawEvents(self.deriver.topic, self.stream, self.reader.epoch, first, rows, texts)
        batches = self.deriver.batches(raw, self._overlap.ends)
        self.delivery.metrics.malformed.inc(self.deriver.malformed)
        return batches

    async def _hand_over(self, prepared: Prepared) -> None:
        await super()._hand_over(prepared)
        if self._overlap.ends:
            partitions, offsets = prepared.rows["partition"].tolist(), prepared.rows["offset"].tolist()
            # Ends are of the event behind the last one; offsets of a partition rise, so its last one counts.
            try:
                self._overlap.passed(self.reader.epoch, {p: o + 1 for p, o in zip(partitions, offsets, strict=True)})
            except DiskUnusable:
                self._all_metrics.disk_errors.inc()  # a next life leaves out nothing that comes behind

    def _probe(self, prepared: Prepared) -> tuple[int, int]:
        row = prepared.rows[0]
        return int(row["partition"]), int(row["offset"])

    def _identity(self, intent: Position) -> tuple[str, dict[str, str | int]]:
        where = {"partition": intent.probe_key, "offset": intent.probe_nth}
        return RAW_TABLE, {"topic": self.deriver.topic, **where}


class AlertFollower(TextFollower):
    """Changes of alerts, whose table keeps the newest state of each."""

    def _probe(self, prepared: Prepared) -> tuple[int, int]:
        row = prepared.rows[-1]  # which none of the same insert replaces
        return int(row["key_id"]), int(row["nth"])

    def _encode_texts(self, rows: np.ndarray, texts: Sequence[bytes], first: int) -> Sequence[Batch]:
        return alert_batches(self.stream, self.reader.epoch, first, rows, texts, self.reader.keys)
