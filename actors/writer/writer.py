"""Finds the streams of the instance, follows each, and ends in order."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass

from ...codecs.record import RecordType, Store
from ...codecs.records import BY_NAME, MARKET_RECORDS
from ...ringbuf import LayoutMismatch, RingError, StreamReader
from ...storage.batch import BatchHead
from ...storage.client import Client
from ...storage.errors import StorageError
from ...storage.gaps import GapLedger
from ...storage.spool import Spool
from ..runtime import BEAT_INTERVAL_S, ActorContext
from .config import Config
from .delivery import Delivery
from .follower import Follower
from .metrics import Metrics
from .sampler import Sampler, leave_lines

log = logging.getLogger("tickring.writer")

DISCOVERY_INTERVAL_S = 0.5
FIRST_TRY_S = 3.0  # ClickHouse starts beside us: rows wait in the rings for so long before they go to the spool
RING_SUFFIX = ".ring"


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
        self.folder = ctx.data / "writer"
        self.metrics = Metrics(ctx.page)
        self.client = Client(self.config.clickhouse, ctx.folder, ctx.data)
        self.spool = Spool(self.folder / "spool", self.config.spool_max_bytes)
        self.ledger = GapLedger(self.folder)
        records = [record for record in MARKET_RECORDS if self.config.store_of(record) is not Store.OFF]
        self.delivery = Delivery(
            self.config, self.client, self.spool, self.ledger, records, self.metrics, self._acknowledged
        )
        self._inherited = self.spool.heads()  # of earlier lives, for the streams as they are found
        self._replayed: set[str] = set()  # tokens of those that ClickHouse has meanwhile
        self._attached: dict[str, _Attached] = {}
        self._refused: dict[str, int] = {}  # file name -> inode that could not be read

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
            worker = self._worker(reader, record, store)
        except (RingError, StorageError) as error:
            log.warning("stream=%s not yet followed: %s", stream, error)
            reader.close()
            return
        task = asyncio.create_task(worker.run(), name=stream)
        self._attached[stream] = _Attached(inode, worker, task)

    def _worker(self, reader: StreamReader, record: RecordType, store: Store) -> Follower | Sampler:
        reader.keys.refresh()
        if store is Store.SAMPLED or not reader.capacity:
            return Sampler(reader, record, self.folder, self.delivery, self.metrics)
        stream = f"{reader.producer}.{reader.record}"
        inherited = [head for head in self._inherited if head.stream == stream]
        follower = Follower(
            reader, record, self.folder, self.delivery, self.metrics, inherited, self._replayed, self.ctx.doorbell_index
        )
        # A ring made anew later has nothing in the spool of an earlier life.
        self._inherited = [head for head in self._inherited if head.stream != stream]
        self._replayed -= {head.token for head in inherited}
        return follower

    def show(self) -> None:
        """Bring the page up to date."""
        self.delivery.show()
        self.ctx.page.detail = {**self.delivery.detail(), "streams": len(self._attached)}

    async def run(self) -> None:
        """Until the stop; then empty the rings."""
        if self.ctx.doorbell_index is not None:
            self.ctx.on_bell(self.wake)
        back = asyncio.create_task(self.delivery.run(), name="delivery")
        try:
            await self._wait_first_try(back)
            self.ctx.running()
            while not self.ctx.stopping.is_set():
                await self.discover()
                self.ledger.flush()
                self.show()
                if back.done():
                    back.result()
                await self.ctx.stopped_within(DISCOVERY_INTERVAL_S)
            await self._drain()
        finally:
            back.cancel()
            await self._close(back)

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
            _, late = await asyncio.wait(tasks, timeout=self.config.drain_timeout_s)
            for task in late:
                log.warning(
                    "stream=%s not empty after %g s: the rest stays in its ring",
                    task.get_name(),
                    self.config.drain_timeout_s,
                )
        self.show()

    async def _close(self, back: asyncio.Task[None]) -> None:
        tasks = [attached.task for attached in self._attached.values()]
        await _cancel([back, *tasks])
        for attached in self._attached.values():
            attached.worker.close()
        self._attached.clear()
        await self.client.close()
        self.ledger.close()
        self.spool.close()


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
