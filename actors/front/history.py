"""ClickHouse behind the front: asked under a deadline, and not at all while it is known not to answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from ...codecs.record import Flag, RecordType
from ...storage import history as storage_history
from ...storage.errors import StorageError, Unavailable
from ...storage.schema import EVENT_TIME, qualified_table
from ..runtime import ActorContext
from .catalog import Source
from .config import Config
from .merge import CountOlder, FetchOlder, Older

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 0.5
ERROR_MAX = 300  # characters of the last error that status shows
T = TypeVar("T")


class History:
    """Older records of a key.

    A background probe asks ClickHouse for its life once a second; from a failed probe or call on, until the next good
    probe, requests are answered from memory at once. Requests that name no range (*hints*) wait only shortly, and when
    one waited in vain, the others do not wait until the next probe is due.

    Attributes:
        alive: what the last probe or call found; None = not asked yet.
        checked_ns: wall clock of the last probe.
        response_s: what the last good probe took.
        error: the last failure, as text.
    """

    def __init__(self, ctx: ActorContext) -> None:
        config: Config = ctx.config
        self.configured = config.history
        self.alive: bool | None = None
        self.checked_ns = 0
        self.response_s = 0.0
        self.error = ""
        self._probe_interval_s = config.history_probe_s
        self._timeout_s, self._hint_timeout_s = config.history_timeout_s, config.history_hint_timeout_s
        self._no_hints_until = 0.0  # monotonic, s
        self._store = storage_history.History(
            config.clickhouse, ctx.folder, ctx.data, deadline_s=config.history_timeout_s
        )
        self._answered, self._failed, self._skipped = (
            ctx.page.counter("tickring_front_history_total", "Questions to ClickHouse", outcome=outcome)
            for outcome in ("answered", "failed", "skipped")
        )

    @property
    def status(self) -> str:
        """healthy, unhealthy, unknown, disabled."""
        if not self.configured:
            return "disabled"
        return {None: "unknown", True: "healthy", False: "unhealthy"}[self.alive]

    async def probe_until(self, stopping: asyncio.Event) -> None:
        """Look at intervals whether ClickHouse answers."""
        while self.configured and not stopping.is_set():
            started = time.monotonic()
            alive = await self._store.client.ping(PROBE_TIMEOUT_S)
            self.checked_ns = time.time_ns()
            if alive:
                self.response_s = time.monotonic() - started
                self.error = ""
            if alive != self.alive:
                answers = "answers" if alive else "does not answer"
                # at the start of the tree it may simply come up later than we do
                level = logging.WARNING if self.alive else logging.INFO
                log.log(level, "clickhouse=%s %s", self._store.client.url, answers)
            self.alive = alive
            try:
                await asyncio.wait_for(stopping.wait(), self._probe_interval_s)
            except TimeoutError:
                continue

    def fetcher(self, record: RecordType, source: Source, *, hint: bool) -> FetchOlder | None:
        """The function that asks for older records of a key; None without a history."""
        if not self.configured:
            return None

        async def fetch(epoch: int, nth: int, start_ns: int, end_ns: int, limit: int) -> Older | None:
            found = await self._ask(
                self._store.rows(
                    record, source.exchange, source.instrument, before=storage_history.Seam(epoch, nth),
                    start_ns=start_ns, end_ns=end_ns, limit=limit,
                    deadline_s=self._hint_timeout_s if hint else self._timeout_s,
                ),
                hint,
            )  # fmt: skip
            return None if found is None else Older(found.rows[::-1], found.epochs[::-1])

        return fetch

    def counter(self, record: RecordType, source: Source) -> CountOlder:
        """The function that counts older records of a key; None as its answer where that is not known."""
        table = qualified_table(self._store.database, record)
        query = (
            f"SELECT count() FROM {table} WHERE exchange = {{exchange:String}} AND instrument = {{instrument:String}}"
            " AND (epoch < {epoch:UInt64} OR (epoch = {epoch:UInt64} AND nth < {nth:UInt64}))"
            f" AND {EVENT_TIME} >= fromUnixTimestamp64Nano({{start:Int64}}, 'UTC')"
            f" AND {EVENT_TIME} < fromUnixTimestamp64Nano({{end:Int64}}, 'UTC')"
            " AND ts_recv_ns >= fromUnixTimestamp64Nano({received:Int64}, 'UTC')"
            f" AND bitAnd(flags, {int(Flag.VOID)}) = 0"
        )

        async def count(epoch: int, nth: int, start_ns: int, end_ns: int) -> int | None:
            if not self.configured:
                return 0
            parameters = {
                "exchange": source.exchange, "instrument": source.instrument, "epoch": epoch, "nth": nth,
                "start": start_ns, "end": end_ns, "received": max(0, start_ns - storage_history.CLOCK_SKEW_NS),
            }  # fmt: skip
            answer = self._store.client.fetch(query, parameters, fmt="TabSeparated", timeout_s=self._timeout_s)
            counted = await self._ask(answer, hint=False)
            return None if counted is None else int(counted)

        return count

    async def _ask(self, question: Coroutine[Any, Any, T], hint: bool) -> T | None:
        if not self.alive or (hint and time.monotonic() < self._no_hints_until):
            question.close()
            self._skipped.inc()
            return None
        try:
            answer = await question
        except StorageError as error:
            self._failed.inc()
            self.error = str(error)[:ERROR_MAX]
            if hint:
                self._no_hints_until = time.monotonic() + self._probe_interval_s
            elif isinstance(error, Unavailable):
                self.alive = False  # until the next good probe nobody else waits
            return None
        self._answered.inc()
        return answer

    async def close(self) -> None:
        await self._store.close()
