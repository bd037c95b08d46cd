"""Where batches go: to ClickHouse, or, while it is away, to the spool, from which they follow in order.

What must not be lost (the desk's events) has a delivery with a spool of its own, which takes no more when it is full:
its followers then wait in their rings.

States: AWAY at the start and after an insert that got no acknowledgement: every batch goes to the spool, and a task
knocks, brings the tables up to date and replays, which is CATCHING UP: many small batches go in few inserts, and new
ones still queue behind them. UP once the spool is empty and nobody is writing to it: so the batches of a stream reach
ClickHouse in the order of its sequences.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from ...storage.batch import Batch, BatchHead, insert_batch
from ...storage.client import SCHEMA_CODES, Client
from ...storage.errors import DiskUnusable, Refused, SchemaConflict, StorageError, Unavailable
from ...storage.gaps import REFUSED, SPOOL_BROKEN, SPOOL_FULL, Gap, GapLedger
from ...storage.joining import joined
from ...storage.offsets import RAW_TABLE
from ...storage.spool import Spool, SpoolRecordBroken, Window
from .config import Config
from .metrics import Metrics

log = logging.getLogger("tickring.writer.delivery")

FIRST_TRY_S = 3.0  # ClickHouse starts beside us: rows wait in the rings for so long before they go to the spool
ACKNOWLEDGED = Callable[[BatchHead], None]


class Delivery:
    """Takes batches and answers where they are safe.

    Args:
        prepare: brings the tables up to date, before batches are sent to a ClickHouse that was away.
        acknowledged: called for each batch that ClickHouse has, in the order of each stream.
    """

    def __init__(
        self,
        config: Config,
        client: Client,
        spool: Spool,
        ledger: GapLedger,
        prepare: Callable[[], Awaitable[None]],
        metrics: Metrics,
        acknowledged: ACKNOWLEDGED,
    ) -> None:
        self.config, self.client, self.spool, self.ledger, self.metrics = config, client, spool, ledger, metrics
        self._prepare = prepare
        self._acknowledged = acknowledged
        self.up = False
        self.catching_up = False  # ClickHouse answers, and the spool is being sent
        self.tried = asyncio.Event()  # the first attempt to reach ClickHouse is over
        self._away = asyncio.Event()
        self._away.set()
        self._spooling = 0  # batches on their way into the spool
        self._reason = "starting"
        self._refusals: dict[str, int] = {}  # token -> refusals after the tables were brought up to date
        metrics.spool_limit.set(spool.bytes_max)
        metrics.spool_torn.inc(spool.counters.torn)
        metrics.spool_broken.inc(spool.counters.broken)
        self._enter_yielded()

    # -- from the followers -------------------------------------------------------------------------------------

    async def deliver(self, batch: Batch) -> None:
        """Return once a batch is safe: acknowledged by ClickHouse, or on disk.

        Raises:
            DiskUnusable: it is neither; it may be delivered again, as it now is.
        """
        if self.up and await self._insert_now(batch):
            self._acknowledged(batch.head)
            return
        self._spooling += 1
        try:
            await asyncio.to_thread(self.spool.append, batch)
        finally:
            self._spooling -= 1
            self._enter_yielded()
        self.metrics.spooled_rows.inc(batch.head.rows)
        self.show()

    async def _insert_now(self, batch: Batch) -> bool:
        try:
            await self._insert(batch, self.config.insert_timeout_s)
            return True
        except Unavailable as error:
            batch.uncertain = True
            self._go_away(str(error))
        except Refused as error:
            self._go_away(str(error))  # the tables are looked at on the way back, and the batch is tried from the spool
        return False

    async def _insert(self, batch: Batch, timeout_s: float) -> None:
        started = time.monotonic()
        try:
            if not await insert_batch(self.client, self.config.clickhouse.database, batch, timeout_s):
                self.metrics.repeated.inc()
        except StorageError:
            self.metrics.outcome(False)
            raise
        self.metrics.outcome(True)
        self.metrics.insert_seconds.observe(time.monotonic() - started)
        self.metrics.insert_bytes.inc(batch.size)

    def _go_away(self, reason: str) -> None:
        if self.up:
            log.warning("clickhouse=away: batches go to spool=%s: %s", self.spool.folder.name, reason)
        self.up, self._reason = False, reason
        self.metrics.up.set(0)
        self._away.set()

    def _lose(self, head: BatchHead, reason: str) -> None:
        self.metrics.lost(head.stream, reason).inc(head.rows)
        self.ledger.add(Gap.of_batch(head, reason, time.time_ns()))

    def _enter_yielded(self) -> None:
        """Enter what had to yield to newer batches, and only then let its bytes go."""
        if not (yielded := self.spool.take_yielded()):
            return
        now_ns, entries = time.time_ns(), [entry for one in yielded for entry in one.entries]
        for entry in entries:
            self.metrics.lost(entry.head.stream, SPOOL_FULL).inc(entry.head.rows)
        self.ledger.add(*(Gap.of_batch(e.head, SPOOL_FULL, now_ns, certain=not e.uncertain) for e in entries))
        for one in yielded:
            one.forget()
        self.ledger.flush()  # where the disk was full there is room for it now

    # -- the way back -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring ClickHouse back whenever it is away. Runs until cancelled."""
        delay = self.config.retry_delay_s
        while True:
            await self._away.wait()
            try:
                await self._prepare()
                if await self._replay():
                    delay = self.config.retry_delay_s
                    self.tried.set()
                    continue
            except (Unavailable, Refused, SchemaConflict, DiskUnusable) as error:
                if str(error) != self._reason:
                    level = logging.ERROR if isinstance(error, SchemaConflict) else logging.WARNING
                    log.log(level, "clickhouse=away: %s", error)
                self._reason = str(error)
            finally:
                self.catching_up = False
            self.tried.set()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, self.config.retry_delay_max_s)

    async def _replay(self) -> bool:
        """Send what the spool holds, oldest first; True when ClickHouse is up and the spool empty."""
        replayed = 0
        while True:
            try:
                window = await asyncio.to_thread(self.spool.first)
            except SpoolRecordBroken as error:
                log.error("%s", error)
                self.metrics.spool_broken.inc()
                self._lose(error.entry.head, SPOOL_BROKEN)
                await asyncio.to_thread(self.spool.sent, (error.entry,))
                continue
            if window is None:
                if self._spooling or len(self.spool):
                    await asyncio.sleep(0.01)  # a batch is being written to the spool, or was since we looked
                    continue
                self._come_back(replayed)
                return True
            if not self.catching_up:
                log.info("clickhouse=catching up spool=%s batches=%d", self.spool.folder.name, len(self.spool))
                self.catching_up = True
            if not await self._send(window):
                continue
            await asyncio.to_thread(self.spool.sent, window.entries)
            for batch in window.batches:
                replayed += batch.head.rows
                self.metrics.replayed_rows.inc(batch.head.rows)
                self._acknowledged(batch.head)
            self.show()

    async def _send(self, window: Window) -> bool:
        """Send a window; False when what ClickHouse does not take of it was put out of the way.

        Raises:
            Unavailable, Refused: the window is the spool's first again.
        """
        for batch in joined(window.batches, last=RAW_TABLE):
            try:
                await self._insert(batch, 2 * self.config.insert_timeout_s)
            except BaseException as error:
                if isinstance(error, Refused) and self._is_final(batch, error):
                    if len(window.entries) > 1:
                        log.error("%d batches refused, each is tried alone: %s", len(window.entries), error)
                        await asyncio.to_thread(self.spool.part)
                    else:
                        await self._put_aside(window, error)
                    return False
                self.spool.yield_back()
                raise
        return True

    def _come_back(self, replayed: int) -> None:
        log.info("clickhouse=up spool=%s replayed=%d rows", self.spool.folder.name, replayed)
        self.up, self._reason = True, ""
        self._refusals.clear()
        self.metrics.up.set(1)
        self._away.clear()
        self.show()

    def _is_final(self, batch: Batch, error: Refused) -> bool:
        """Whether a refusal is to stay.

        The first may come from a table that somebody changed, which the next round mends.
        """
        token = batch.head.token
        refusals = self._refusals[token] = self._refusals.get(token, 0) + 1
        return refusals > 2 or (refusals == 2 and error.code not in SCHEMA_CODES)

    async def _put_aside(self, window: Window, error: Refused) -> None:
        """Take a batch that ClickHouse will never take out of everybody's way."""
        (batch,) = window.batches
        head = batch.head
        kept = await asyncio.to_thread(self._keep_refused, batch)
        log.error("batch=%s rows=%d refused: %s; block kept=%s", head.token, head.rows, error, kept or "no room")
        self.metrics.refused.inc()
        self._lose(head, REFUSED)
        await asyncio.to_thread(self.spool.sent, window.entries)
        self._acknowledged(head)

    def _keep_refused(self, batch: Batch) -> Path | None:
        folder = self.spool.folder / "refused"
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            used = sum(path.stat().st_size for path in folder.iterdir())
            if used + batch.size <= self.config.refused_max_bytes:
                path = folder / (batch.head.token.replace("/", "_") + ".native")
                path.write_bytes(batch.block)
                return path
        return None

    # -- for the page -------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Bring the gauges up to date."""
        metrics = self.metrics
        metrics.spool_bytes.set(self.spool.size)
        metrics.spool_batches.set(len(self.spool))
        metrics.gaps_pending.set(len(self.ledger.pending))
        metrics.gaps_unrecorded.inc(self.ledger.unrecorded - metrics.gaps_unrecorded.value)

    def _state(self) -> str:
        """Why batches do not go to ClickHouse at once; empty where they do."""
        return f"catching up: {len(self.spool)} batches left" if self.catching_up else self._reason

    def detail(self) -> dict[str, object]:
        """For the actor's page."""
        server, oldest = self.config.clickhouse, self.spool.oldest()
        return {
            "clickhouse": {
                "url": self.client.url, "user": server.user, "password_file": server.password_file,
                "database": server.database, "up": self.up, "catching_up": self.catching_up,
                "reason": self._state()[:300],
            },
            "spool": {
                "bytes": self.spool.size, "batches": len(self.spool), "bytes_max": self.spool.bytes_max,
                "oldest": oldest and {"stream": oldest.stream, "rows": oldest.rows, "ts_first_ns": oldest.ts_first_ns},
            },
        }  # fmt: skip
