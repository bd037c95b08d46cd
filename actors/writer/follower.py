"""Follows one ring to ClickHouse: reads by rows or age, and hands over closed ranges.

Two lines in the ring's reader file say how far it is:

- `writer` (durable): the first sequence that is not safe yet, neither in ClickHouse nor in the spool;
- `writer.stored` (lossy): the first that ClickHouse has not acknowledged. A merged answer takes what lies below it
  from ClickHouse and the rest from memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...codecs.record import RecordType
from ...ringbuf import ReaderKind, StreamReader, full_barrier
from ...storage.batch import Batch, BatchHead, identity_of, is_stored, make_batch, rows_of_one_partition
from ...storage.errors import DiskUnusable, StorageError
from ...storage.gaps import LAPPED, RING_GONE, Gap
from ...storage.journal import Journal, Position
from ...storage.schema import table_name
from .delivery import Delivery
from .metrics import Metrics, StreamMetrics

log = logging.getLogger("tickring.writer.follower")

DURABLE_LINE = "writer"
STORED_LINE = "writer.stored"
RETRY_S = 0.5


@dataclass(frozen=True)
class Prepared:
    """The next batch of a stream, read and encoded."""

    first: int
    stop: int
    lost: int  # rows before `first` that the producer overwrote
    rows: np.ndarray
    batches: Sequence[Batch]  # in the order in which they are sent; none when there is nothing to store in the range
    counts: np.ndarray  # of the rows, by label; see `StreamMetrics.count`


class Follower:
    """One ring with one epoch.

    Attributes:
        rows_on_loop: fewer are read and encoded in less time than it takes to ask a thread.

    Args:
        reader: attached to the ring; closed with the follower.
        record: its record type.
        folder: of the journals.
        inherited: what the spool held of this stream at the start, oldest first.
        replayed: tokens of those that ClickHouse has meanwhile.
        doorbell_index: the writer's own; None = look at every flush interval only.
        batch_rows: at most so many are sent at once.
    """

    rows_on_loop = 2000

    def __init__(
        self,
        reader: StreamReader,
        record: RecordType,
        folder: Path,
        delivery: Delivery,
        metrics: Metrics,
        inherited: Sequence[BatchHead],
        replayed: Collection[str],
        doorbell_index: int | None,
        batch_rows: int,
    ) -> None:
        self.reader, self.record, self.delivery = reader, record, delivery
        self.config, self.batch_rows = delivery.config, batch_rows
        self.stream = f"{reader.producer}.{reader.record}"
        self.metrics = StreamMetrics(metrics, self.stream, record.name)
        self._all_metrics = metrics
        self.journal = Journal(folder, self.stream)
        self.woken = asyncio.Event()
        self.leaving = False  # the ring was replaced or the daemon stops: empty it and return
        self._leave_at = 0  # sequence up to which the ring is emptied then
        self._last_receipt: int | None = None
        self._has_doorbell = doorbell_index is not None
        try:
            self._take_up(inherited, replayed, doorbell_index)
        except BaseException:  # it is tried again and again
            self.journal.close()
            raise

    def _take_up(
        self, inherited: Sequence[BatchHead], replayed: Collection[str], doorbell_index: int | None
    ) -> None:  # fmt: skip
        """Take the lines, and begin where the last life ended."""
        reader = self.reader
        found = self.journal.position
        mine = [head for head in inherited if head.epoch == reader.epoch and self._final(head)]
        if found is not None and found.epoch != reader.epoch:
            self._leave_old_epoch(found, inherited)
            found = None
        safe = max([found.safe if found else 0, *(head.stop for head in mine)])
        self.line = reader.register(DURABLE_LINE, ReaderKind.DURABLE, doorbell_index, safe)
        if found:
            self.line.cursor = safe  # the journal knows better than the line, which is for a lost journal
        self.safe = self.line.cursor
        self._open = found if found and found.open and found.stop > self.safe else None  # else it is in the spool
        self.stored = next((head.first for head in mine if head.token not in replayed), self.safe)
        self.stored_line = reader.register(STORED_LINE, ReaderKind.LOSSY, None, self.stored)
        if found is None:
            self._begin()

    def _begin(self) -> None:
        """First life of this ring."""
        self.journal.mark(self.reader.epoch, self.safe)

    def _leave_old_epoch(self, found: Position, inherited: Sequence[BatchHead]) -> None:
        """The ring of the last life is gone, with all that was not safe by then."""
        safe = max([found.safe, *(head.stop for head in inherited if head.epoch == found.epoch)])
        if found.stop > safe:
            self._enter_gap(safe, found.stop, RING_GONE, epoch=found.epoch, certain=False)
        if not found.drained:
            self._enter_gap(max(safe, found.stop), None, RING_GONE, epoch=found.epoch)

    # -- the work -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow until told to leave, then empty the ring of what is in it by then and return."""
        if not await self._settled():
            return
        log.info("stream=%s epoch=%d following from=%d", self.stream, self.reader.epoch, self.safe)
        if self._open is not None and not await self._repeat(self._open):
            return
        interval = self.config.flush_interval_ms / 1000
        while True:
            await self._empty(at_least=1 if self.leaving else self.batch_rows)
            if self.leaving and self.safe >= self._leave_at:
                if not self.reader.has_producer() and not self._waiting():  # in this order: nothing comes after
                    self.journal.mark(self.reader.epoch, self.safe, drained=True)
                return
            await self._sleep(interval)
            await self._empty(at_least=1)

    async def _settled(self) -> bool:
        """Wait for what must be known before the first batch; False when we are to leave first."""
        return True

    async def _empty(self, at_least: int) -> None:
        """Hand over batches until fewer than `at_least` rows wait; at 1 whatever is there, once.

        The next full batch is prepared on a thread while the one before it is on its way: half of the work is numpy's,
        and the answer of ClickHouse takes longer than the other half.
        """
        prepared = await self._prepare(self.safe) if self._waiting() >= at_least else None
        while prepared is not None:
            following: asyncio.Future[Prepared] | None = None
            if self.reader.published() - prepared.stop >= self.batch_rows:
                following = asyncio.ensure_future(self._prepare(prepared.stop))
            try:
                await self._hand_over(prepared)
            except BaseException:
                if following is not None:
                    following.cancel()
                raise
            prepared = await following if following is not None else None
        self._show()

    async def _prepare(self, cursor: int) -> Prepared:
        if self.reader.published() - cursor < self.rows_on_loop:
            return self._read(cursor, self.batch_rows)
        return await asyncio.to_thread(self._read, cursor, self.batch_rows)

    def _read(self, cursor: int, limit: int) -> Prepared:
        """Copy and encode the next rows. Runs on a thread, never twice at a time for one stream."""
        reader = self.reader
        rows, stop, lost = reader.read(cursor, limit)
        first = stop - len(rows)
        rows = rows[: rows_of_one_partition(rows)]
        batches = self._encode(rows, first) if len(rows) else ()
        return Prepared(first, first + len(rows), lost, rows, batches, self.metrics.count(rows, reader.keys))

    def _encode(self, rows: np.ndarray, first: int) -> Sequence[Batch]:
        """The batches of a range of the ring."""
        batch = make_batch(
            self.record, self.stream, table_name(self.record), rows, self.reader.keys,
            epoch=self.reader.epoch, first=first, stop=first + len(rows),
        )  # fmt: skip
        return () if batch is None else (batch,)

    def _waiting(self) -> int:
        return self.reader.published() - self.safe

    async def _sleep(self, seconds: float) -> None:
        """Until the interval is over, a full batch has come, or the follower is to leave."""
        self.woken.clear()
        if self._has_doorbell:
            self.line.arm(self.safe + self.batch_rows)
            full_barrier()
        if self._waiting() < self.batch_rows and not self.leaving:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not self.leaving and self._waiting() < self.batch_rows:
                        await self.woken.wait()
                        self.woken.clear()
        self.line.disarm()

    async def _hand_over(self, prepared: Prepared) -> None:
        rows, stop = prepared.rows, prepared.stop
        if prepared.lost:
            self._lapped(prepared.lost, rows)
        if not len(rows):
            return
        if prepared.batches:
            await self._deliver(prepared)
        elif self.stored >= prepared.first:
            self._advance_stored(stop)  # nothing but withdrawn rows
        self.metrics.add(prepared.counts)
        self._last_receipt = int(rows["ts_recv_ns"][-1])
        self.metrics.last_message.set(self._last_receipt / 1e9)
        self._advance(stop)

    def _probe(self, prepared: Prepared) -> tuple[int, int]:
        """Two numbers by which `_identity` finds the row that tells whether an intent was carried out."""
        rows, head = prepared.rows, prepared.batches[-1].head
        at = int(np.argmax(rows["nth"] == head.identity["nth"])) if head.rows != len(rows) else 0
        return int(rows["key_id"][at]), int(rows["nth"][at])

    def _identity(self, intent: Position) -> tuple[str, dict[str, str | int]]:
        """The table and the identity of the row that is there if and only if the intent was carried out."""
        key_id, nth = intent.probe_key, intent.probe_nth
        return table_name(self.record), identity_of(self.record, self.reader.keys, key_id, intent.epoch, nth)

    async def _deliver(self, prepared: Prepared) -> None:
        said = False
        waiting = list(prepared.batches)
        while waiting:
            try:
                self.journal.intend(self.reader.epoch, prepared.first, prepared.stop, *self._probe(prepared))
                while waiting:
                    await self.delivery.deliver(waiting[0])
                    del waiting[0]
            except DiskUnusable as error:
                self._all_metrics.disk_errors.inc()
                # The rows wait in the ring as long as it holds them; what is overwritten meanwhile is a lap.
                if not said:
                    log.error("stream=%s waits in its ring, there is no other place: %s", self.stream, error)
                    said = True
                self._show()
                await asyncio.sleep(RETRY_S)

    def _final(self, head: BatchHead) -> bool:
        """Whether a batch is the last of its range: with it, all of the range is there."""
        return True

    def acknowledged(self, head: BatchHead) -> None:
        """ClickHouse has a batch of this stream."""
        self.metrics.batches.inc()
        if head.epoch == self.reader.epoch and self._final(head):
            self._advance_stored(head.stop)

    def _advance_stored(self, stop: int) -> None:
        self.stored = max(self.stored, stop)
        self.stored_line.cursor = self.stored

    def _advance(self, stop: int) -> None:
        try:
            self.journal.mark(self.reader.epoch, stop)
        except DiskUnusable:  # the intent stands: a next life would look for the batch, and find it
            self._all_metrics.disk_errors.inc()
        self.safe = stop
        self.line.cursor = stop
        self._show()

    # -- after a crash ------------------------------------------------------------------------------------------

    async def _repeat(self, intent: Position) -> bool:
        """An insert was under way when the last life ended: repeat it, with the same rows and the same token.

        False when we are to leave before its fate is known: then it is left to the next life.
        """
        prepared = self._read(intent.safe, intent.stop - intent.safe)
        if not prepared.lost and prepared.stop == intent.stop and prepared.batches:
            log.info("stream=%s repeating from=%d to=%d", self.stream, intent.safe, intent.stop)
            for batch in prepared.batches:
                batch.uncertain = True
            await self._hand_over(prepared)
            return True
        # The ring has gone on over the batch. If it was stored, it was stored whole; if not, a part of it is lost.
        stored = await self._ask(intent)
        if stored is None:
            return False
        if stored:
            self._advance(intent.stop)
            self._advance_stored(intent.stop)
        else:
            start = min(max(intent.safe, self.reader.oldest()), intent.stop)
            self._enter_gap(intent.safe, start, LAPPED)
            self.metrics.failed.inc(start - intent.safe)
            self._advance(start)
        return True

    async def _ask(self, intent: Position) -> bool | None:
        """Whether ClickHouse has the batch of an intent; None when it gives no answer until we are to leave."""
        client, database = self.delivery.client, self.config.clickhouse.database
        table, identity = self._identity(intent)
        while not self.leaving:
            with contextlib.suppress(StorageError):
                return await is_stored(client, database, table, identity)
            await asyncio.sleep(RETRY_S)
        return None

    # -- what was missed ----------------------------------------------------------------------------------------

    def _lapped(self, lost: int, rows: np.ndarray) -> None:
        before = int(rows["ts_recv_ns"][0]) if len(rows) else None
        self._enter_gap(self.safe, self.safe + lost, LAPPED, before_ns=before)
        self.metrics.failed.inc(lost)
        self._advance(self.safe + lost)

    def _enter_gap(
        self,
        first: int,
        stop: int | None,
        reason: str,
        *,
        epoch: int | None = None,
        certain: bool = True,
        before_ns: int | None = None,
    ) -> None:
        if stop is not None:
            self._all_metrics.lost(self.stream, reason).inc(stop - first)
        self.delivery.ledger.add(
            Gap(
                noticed_ns=time.time_ns(), stream=self.stream, epoch=epoch or self.reader.epoch, first=first, stop=stop,
                reason=reason, certain=certain, after_ns=self._last_receipt, before_ns=before_ns,
            )
        )  # fmt: skip

    # -- the end ------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Store what is in the ring by now and return from `run`."""
        self.leaving = True
        self._leave_at = self.reader.published()
        self.woken.set()

    def _show(self) -> None:
        waiting = self._waiting()
        self.metrics.queue_rows.set(waiting)
        self.metrics.queue_bytes.set(waiting * self.record.slot_size)
        self.metrics.behind.set(max(0, self.reader.published() - self.stored))

    def close(self) -> None:
        """Unmap. The durable line stays with its cursor, for the next writer."""
        self.journal.close()
        self.reader.close()
