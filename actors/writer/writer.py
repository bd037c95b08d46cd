"""Finds the streams of the instance, follows each, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from ...codecs.desk.records import ALERT_STATE, EVENT
from ...codecs.desk.records import BY_NAME as DESK_RECORDS
from ...codecs.record import RecordType, Store
from ...codecs.records import BY_NAME as MARKET_BY_NAME
from ...codecs.records import MARKET_RECORDS
from ...ringbuf import LayoutMismatch, RingError, StreamReader
from ...storage.batch import BatchHead
from ...storage.client import Client
from ...storage.deskbatch import topic_deriver
from ...storage.deskschema import ensure_desk
from ...storage.errors import Refused, StorageError
from ...storage.gaps import GapLedger
from ...storage.offsets import DESK_SPOOL, WRITER_FOLDER
from ...storage.schema import SchemaOptions, ensure_schema
from ...storage.spool import Spool
from ...storage.views import ensure_views
from ..runtime import BEAT_INTERVAL_S, ActorContext
from .config import Config
from .delivery import FIRST_TRY_S, Delivery
from .follower import Follower
from .metrics import Metrics
from .sampler import Sampler, leave_lines
from .texts import AlertFollower, EventFollower

log = logging.getLogger("tickring.writer")

DISCOVERY_INTERVAL_S = 0.5
DRAIN_SHARE = 0.9  # of the time for the stop; the rest is for what is closed after it
RING_SUFFIX = ".ring"
BY_NAME = {**MARKET_BY_NAME, **DESK_RECORDS}


@dataclass
class _Attached:
    """A stream that is followed."""

    inode: int
    worker: Follower | Sampler
    task: asyncio.Task[None]


class Writer:
    """Everything between the rings and ClickHouse."""

    def __init__(self, ctx: ActorContext) -> None:
        self.ctx = ctx
        self.config: Config = ctx.config
        self.folder = ctx.data / WRITER_FOLDER
        self.metrics = Metrics(ctx.page)
        self.client = Client(self.config.clickhouse, ctx.folder, ctx.data)
        self.ledger = GapLedger(self.folder)
        self._options = SchemaOptions(
            database=self.config.clickhouse.database,
            engine=self.config.engine,
            retention_days=self.config.retention_days,
        )
        self.spool = Spool(self.folder / "spool", self.config.spool_max_bytes)
        self.delivery = self._make_delivery(self.spool, self._prepare_market, self.metrics)
        self.desk: Delivery | None = None  # made with the first stream of the desk
        self._running: list[asyncio.Task[None]] = []
        self._inherited = self.spool.heads()  # of earlier lives, for the streams as they are found
        self._replayed: set[str] = set()  # tokens of those that ClickHouse has meanwhile
        self._attached: dict[str, _Attached] = {}
        self._refused: dict[str, int] = {}  # file name -> inode that could not be read
        if (self.folder / DESK_SPOOL).exists():
            self._desk_delivery()

    def _make_delivery(self, spool: Spool, prepare: Callable[[], Awaitable[None]], metrics: Metrics) -> Delivery:
        return Delivery(self.config, self.client, spool, self.ledger, prepare, metrics, self._acknowledged)

    def _desk_delivery(self) -> Delivery:
        """The way of the desk's streams, whose spool never yields."""
        if self.desk is None:
            spool = Spool(self.folder / DESK_SPOOL, self.config.desk_spool_max_bytes, yields=False)
            self._inherited += spool.heads()
            self.desk = self._make_delivery(spool, self._prepare_desk, Metrics(self.ctx.page, "desk"))
            if self._running:
                self._running.append(asyncio.create_task(self.desk.run(), name="desk delivery"))
        return self.desk

    async def _prepare_market(self) -> None:
        records = [record for record in MARKET_RECORDS if self.config.store_of(record) is not Store.OFF]
        await ensure_schema(self.client, records, self._options)
        try:
            await ensure_views(self.client, records, self._options.database, self.config.views)
        except Refused as error:
            # Storing rows comes first: a server that does not take the views still gets them.
            log.error("views=%s not made: %s", ",".join(self.config.views), error)

    async def _prepare_desk(self) -> None:
        await ensure_desk(self.client, self._options)

    def _acknowledged(self, head: BatchHead) -> None:
        attached = self._attached.get(head.stream)
        if attached is not None:
            attached.worker.acknowledged(head)
        else:
            self._replayed.add(head.token)

    def wake(self) -> None:
        """A stream has a full batch."""
        for attached in self._attached.values():
            if isinstance(attached.worker, Follower):
                attached.worker.woken.set()

    async def discover(self) -> None:
        """Attach what is new, replace what was made anew, leave what is gone."""
        found: dict[str, int] = {}
        for entry in os.scandir(self.ctx.folder):
            stream = entry.name.removesuffix(RING_SUFFIX)
            if stream != entry.name and not entry.name.startswith(".") and stream.rpartition(".")[2] in BY_NAME:
                found[stream] = entry.inode()
        for stream, attached in list(self._attached.items()):
            if found.get(stream) != attached.inode:
                attached.worker.leave()  # what was written before the file was replaced is still in the old one
            if attached.task.done():
                del self._attached[stream]
                attached.worker.close()
                attached.task.result()
        for stream, inode in found.items():
            if stream not in self._attached and self._refused.get(stream) != inode:
                self._attach(stream, inode)

    def _attach(self, stream: str, inode: int) -> None:
        producer, _, name = stream.rpartition(".")
        record = BY_NAME[name]
        store = self.config.store_of(record)
        try:
            reader = StreamReader(self.ctx.folder, producer, name, record.dtype, record.fingerprint)
        except LayoutMismatch as error:
            log.error("stream=%s not stored: %s", stream, error)
            self.metrics.streams_refused.inc()
            self._refused[stream] = inode
            return
        except RingError:
            return  # it is being made or removed: next time
        try:
            if store is Store.OFF:
                leave_lines(reader)
                reader.close()
                self._refused[stream] = inode
                return
            if record is EVENT and not reader.keys.refresh():
                reader.close()
                return  # its actor has not said yet which topic it is
            worker = self._worker(reader, record, store)
        except (RingError, StorageError) as error:
            log.warning("stream=%s not yet followed: %s", stream, error)
            reader.close()
            return
        task = asyncio.create_task(worker.run(), name=stream)
        self._attached[stream] = _Attached(inode, worker, task)

    def _worker(self, reader: StreamReader, record: RecordType, store: Store) -> Follower | Sampler:
        reader.keys.refresh()
        desk = record.name in DESK_RECORDS
        delivery = self._desk_delivery() if desk else self.delivery
        if store is Store.SAMPLED or not reader.capacity:
            return Sampler(reader, record, self.folder, delivery, delivery.metrics)
        stream = f"{reader.producer}.{reader.record}"
        inherited = [head for head in self._inherited if head.stream == stream]
        batch_rows = self.config.desk_batch_rows if desk else self.config.batch_rows
        arguments = (
            reader, record, self.folder, delivery, delivery.metrics, inherited, self._replayed,
            self.ctx.doorbell_index, batch_rows,
        )  # fmt: skip
        if record is EVENT:
            topic = str(reader.keys[0].attributes["topic"])
            deriver = topic_deriver(topic, self.config.default_account, self.config.default_strategy)
            follower = EventFollower(*arguments, deriver=deriver)
        elif record is ALERT_STATE:
            follower = AlertFollower(*arguments)
        else:
            follower = Follower(*arguments)
        # A ring made anew later has nothing in the spool of an earlier life.
        self._inherited = [head for head in self._inherited if head.stream != stream]
        self._replayed -= {head.token for head in inherited}
        return follower

    def show(self) -> None:
        """Bring the page up to date."""
        detail = {**self.delivery.detail(), "streams": len(self._attached)}
        self.delivery.show()
        if self.desk is not None:
            self.desk.show()
            detail["desk"] = self.desk.detail()
        self.ctx.page.detail = detail

    async def run(self) -> None:
        """Until the stop; then empty the rings."""
        if self.ctx.doorbell_index is not None:
            self.ctx.on_bell(self.wake)
        back = asyncio.create_task(self.delivery.run(), name="delivery")
        self._running.append(back)
        if self.desk is not None:
            self._running.append(asyncio.create_task(self.desk.run(), name="desk delivery"))
        try:
            await self._wait_first_try(back)
            self.ctx.running()
            while not self.ctx.stopping.is_set():
                await self.discover()
                self.ledger.flush()
                self.show()
                for task in self._running:
                    if task.done():
                        task.result()
                await self.ctx.stopped_within(DISCOVERY_INTERVAL_S)
            await self._drain()
        finally:
            await self._close()

    async def _wait_first_try(self, back: asyncio.Task[None]) -> None:
        waits = (asyncio.ensure_future(self.delivery.tried.wait()), asyncio.ensure_future(self.ctx.stopping.wait()))
        await asyncio.wait((back, *waits), timeout=FIRST_TRY_S, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _drain(self) -> None:
        await self.discover()
        workers = [attached.worker for attached in self._attached.values()]
        tasks = [attached.task for attached in self._attached.values()]
        for worker in workers:
            worker.leave()
        if tasks:
            timeout_s = min(self.config.drain_timeout_s, DRAIN_SHARE * self.ctx.drain_s)
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                log.warning(
                    "stream=%s not empty after %g s: the rest stays in its ring",
                    task.get_name(),
                    timeout_s,
                )
        self.show()

    async def _close(self) -> None:
        tasks = [attached.task for attached in self._attached.values()]
        await _cancel([*self._running, *tasks])
        for attached in self._attached.values():
            attached.worker.close()
        self._attached.clear()
        await self.client.close()
        self.ledger.close()
        self.spool.close()
        if self.desk is not None:
            self.desk.spool.close()


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome


async def main(ctx: ActorContext) -> None:
    """Store until the stop, then empty the rings. Raises `DiskUnusable` when the data folder cannot be used."""
    running = asyncio.create_task(Writer(ctx).run())
    while not running.done():
        ctx.beat()
        await asyncio.wait([running], timeout=BEAT_INTERVAL_S)
    running.result()
