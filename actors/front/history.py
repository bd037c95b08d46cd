"""ClickHouse behind the front: asked under a deadline, and not at all while it is known not to answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from ...codecs.record import Flag, RecordType
from ...storage.client import Client
from ...storage.errors import StorageError, Unavailable
from ...storage.history import CLOCK_SKEW_NS, Rows, parse_rows, row_columns
from ...storage.schema import EVENT_TIME, qualified_table
from ..catalog import Source
from ..runtime import ActorContext
from .config import Config
from .kept import Keeper
from .merge import CountAll, FetchOlder, Older, Seam
from .stamps import NS

log = logging.getLogger(__name__)

LOOKS_PER_PROBE = 5  # while it answers: a query that fails meanwhile tells just as well, unless it may take long
ERROR_MAX = 300  # characters of the last error that status shows
TOTALS_MAX = 4096  # kept at once
TOOK_MAX = 1000  # questions whose times are remembered
ROWS_A_TURN = 256  # of an answer of ClickHouse, read between two turns of the event loop
NEARBY_NS = 86_400 * NS
NEWEST_FIRST = (
    f"bitAnd(flags, {int(Flag.VOID)}) = 0 "
    "ORDER BY exchange DESC, instrument DESC, epoch DESC, nth DESC LIMIT {limit:UInt64}"
)
PATIENT_S = 30.0
FOREVER_NS = (1 << 63) - 1
SETTLED_NS = 60 * NS  # so late a record comes at most, by the exchange's clock and ours
decode = msgspec.json.decode
T = TypeVar("T")


async def in_turns(make: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """Every item made into something else, some at a time: others are served between."""
    made: list[T] = []
    for at in range(0, len(items), ROWS_A_TURN):
        if at:
            await asyncio.sleep(0)
        made += map(make, items[at : at + ROWS_A_TURN])
    return made


@dataclass(frozen=True)
class Span:
    """What ClickHouse holds of one epoch in a range."""

    epoch: int
    rows: int
    shown: int  # without void ones
    first_nth: int
    last_nth: int


def missing_of(spans: Sequence[Span], seam: Seam) -> int:
    """Records that `nth` says there were before the seam and that ClickHouse does not hold."""
    missing = sum(span.last_nth - span.first_nth + 1 - span.rows for span in spans)
    if spans and spans[-1].epoch == seam.epoch:
        missing += seam.nth - 1 - spans[-1].last_nth
    return max(0, missing)


def older_than(
    record: RecordType, source: Source, seam: Seam, start_ns: int, end_ns: int
) -> tuple[str, dict[str, Any]]:
    """Condition and parameters for a key's records before a seam, in ``[start_ns, end_ns)``."""
    conditions = [
        "exchange = {exchange:String} AND instrument = {instrument:String}",
        "(epoch < {epoch:UInt64} OR (epoch = {epoch:UInt64} AND nth < {nth:UInt64}))",
        f"{EVENT_TIME} >= fromUnixTimestamp64Nano({{start:Int64}}, 'UTC')",
        f"{EVENT_TIME} < fromUnixTimestamp64Nano({{end:Int64}}, 'UTC')",
        "ts_recv_ns >= fromUnixTimestamp64Nano({received:Int64}, 'UTC')",
        "ts_recv_ns <= fromUnixTimestamp64Nano({until:Int64}, 'UTC')",
    ]
    return " AND ".join(conditions), {
        "exchange": source.exchange, "instrument": source.instrument, "epoch": seam.epoch, "nth": seam.nth,
        "start": start_ns, "end": end_ns, "received": max(0, start_ns - CLOCK_SKEW_NS),
        "until": seam.recv_ns + CLOCK_SKEW_NS if seam.recv_ns else FOREVER_NS,
    }  # fmt: skip


class History:
    """Older records of a key.

    A background probe asks ClickHouse for its life once a second; from a failed probe or call on, until the next good
    probe, requests are answered from memory at once. Requests that name no range (*hints*) wait only shortly, and when
    one waited in vain, the others do not wait until the next probe is due.

    Attributes:
        alive: what the last probe or call found; None = not asked yet.
        checked_ns: wall clock of the last probe.
        response_s: what the last good probe took.
        took_s: what the newest questions took, also those that failed; the newest at the end.
        error: the last failure, as text.
    """

    def __init__(self, ctx: ActorContext) -> None:
        config: Config = ctx.config
        self.configured = config.history
        self.alive: bool | None = None
        self.checked_ns = 0
        self.response_s = 0.0
        self.took_s = deque[float](maxlen=TOOK_MAX)
        self.error = ""
        self._probe_interval_s = config.history_probe_s
        self._timeout_s, self._hint_timeout_s = config.history_timeout_s, config.history_hint_timeout_s
        self._total_timeout_s = config.history_total_timeout_s
        self._no_hints_until = 0.0  # monotonic, s
        self._patient = 0  # questions under way that may take long
        self.totals: Keeper[tuple[Seam, int]] = Keeper(config.history_total_keep_s, TOTALS_MAX)
        self.firsts: Keeper[int] = Keeper(config.history_total_keep_s, TOTALS_MAX)  # open_ts of a key's first bar
        self._client = Client(config.clickhouse, ctx.folder, ctx.data)
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
        """Look at intervals whether ClickHouse answers: at each while it does not."""
        looks = 0
        while self.configured and not stopping.is_set():
            if not self.alive or self._patient or looks % LOOKS_PER_PROBE == 0:
                await self._probe()
            looks += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._probe_interval_s):
                    await stopping.wait()

    async def _probe(self) -> None:
        started = time.monotonic()
        alive = await self._client.ping(self._timeout_s)  # later than a request waits is as good as never
        self.checked_ns = time.time_ns()
        if alive:
            self.response_s = time.monotonic() - started
            self.error = ""
        if alive != self.alive:
            answers = "answers" if alive else "does not answer"
            # at the start of the tree it may simply come up later than we do
            level = logging.WARNING if self.alive else logging.INFO
            log.log(level, "clickhouse=%s %s", self._client.url, answers)
        self.alive = alive

    def fetcher(self, record: RecordType, source: Source, *, hint: bool) -> FetchOlder | None:
        """The function that asks for older records of a key; None without a history."""
        if not self.configured:
            return None

        async def fetch(seam: Seam, start_ns: int, end_ns: int, limit: int) -> Older | None:
            condition, parameters = older_than(record, source, seam, start_ns, end_ns)
            condition += f" AND {NEWEST_FIRST}"
            last = min(end_ns, seam.recv_ns or end_ns)
            # Newest rows are mostly found in the day before: else a granule of every older partition would be read.
            nearby = max(parameters["received"], last - NEARBY_NS)
            found = None
            for received in sorted({nearby, parameters["received"]}, reverse=True):
                whole = {**parameters, "received": received, "limit": limit}
                found = await self.rows_where(record, condition, whole, hint=hint)
                if found is None:
                    return None
                if len(found) >= limit:
                    break
            assert found is not None
            return Older(found.rows[::-1], found.epochs[::-1])

        return fetch

    async def select(
        self, record: RecordType, source: Source, columns: str, seam: Seam, start_ns: int, end_ns: int, *,
        where: str = "", tail: str = "", **parameters: Any,
    ) -> list[tuple[Any, ...]] | None:  # fmt: skip
        """Columns of a key's records before a seam; None where ClickHouse did not answer.

        Args:
            columns: the select list.
            start_ns, end_ns: of the records' time, UNIX ns.
            where: a further condition, `tail`: GROUP BY, ORDER BY, LIMIT. Parameters are bound, never pasted.
        """
        condition, bound = older_than(record, source, seam, start_ns, end_ns)
        whole = f"{condition}{' AND ' + where if where else ''} {tail}"
        return await self.values(record, columns, whole, {**bound, **parameters})

    async def rows_where(
        self, record: RecordType, condition: str, parameters: Mapping[str, Any], *, hint: bool = False
    ) -> Rows | None:
        """Whole rows that fit a condition, which may go on with ORDER BY and LIMIT; None without an answer."""
        query = self._query(record, row_columns(record), condition)
        answer = await self._fetch(query, parameters, "RowBinary", hint=hint)
        return None if answer is None else parse_rows(record, answer)

    async def values(
        self, record: RecordType, columns: str, condition: str, parameters: Mapping[str, Any]
    ) -> list[tuple[Any, ...]] | None:
        """Columns of all records that fit a condition; None without an answer."""
        answer = await self._fetch(self._query(record, columns, condition), parameters, "JSONCompactEachRow")
        return None if answer is None else [tuple(decode(line)) for line in answer.splitlines()]

    async def ask(
        self, query: str, parameters: Mapping[str, Any] | None = None, *, patient: bool = False
    ) -> list[list[Any]] | None:
        """The rows of a query as JSON values, decimals as texts; None without an answer.

        Args:
            patient: no request waits for the end of it, so that it may take `PATIENT_S`.
        """
        answer = await self._fetch(query, parameters or {}, "JSONCompactEachRow", patient=patient)
        return None if answer is None else await in_turns(decode, answer.splitlines())

    @property
    def asked(self) -> int:
        """Questions that were answered or failed."""
        return int(self._answered.value + self._failed.value)

    @property
    def database(self) -> str:
        """Where our tables are."""
        return self._client.server.database

    def _query(self, record: RecordType, columns: str, condition: str) -> str:
        return f"SELECT {columns} FROM {qualified_table(self.database, record)} WHERE {condition}"

    async def _fetch(
        self, query: str, parameters: Mapping[str, Any], fmt: str, *, hint: bool = False, patient: bool = False
    ) -> bytes | None:
        if not self.configured:
            return None
        longest = PATIENT_S if patient else self._timeout_s
        seconds = self._hint_timeout_s if hint else longest
        settings = {"max_execution_time": max(1, round(longest * 2)), "optimize_read_in_order": 1}
        if fmt.startswith("JSON"):
            settings |= {"output_format_json_quote_64bit_integers": 0, "output_format_json_quote_decimals": 1}
        question = self._client.fetch(query, parameters, fmt=fmt, timeout_s=seconds, settings=settings)
        return await self._ask(question, hint, patient)

    async def spans(
        self, record: RecordType, source: Source, seam: Seam, start_ns: int, end_ns: int
    ) -> list[Span] | None:
        """What ClickHouse holds of a range, by epoch."""
        columns = f"epoch, count(), countIf(bitAnd(flags, {int(Flag.VOID)}) = 0), min(nth), max(nth)"
        rows = await self.select(record, source, columns, seam, start_ns, end_ns, tail="GROUP BY epoch ORDER BY epoch")
        return None if rows is None else [Span(*map(int, row)) for row in rows]

    def counter(self, record: RecordType, source: Source, window: tuple[int | None, int | None]) -> CountAll:
        """The function that counts a key's records; None as its answer where that is not known in time.

        A count is kept for a while, by the range as it was asked for. A range whose end has passed keeps its total,
        wherever the seam goes. Of one that ends now the part below the seam is kept: nothing there changes, so it is
        brought up to a later seam by the difference of their numbers.
        """
        identity = (record.name, source.exchange, source.instrument, window)

        async def counted(seam: Seam, start_ns: int, end_ns: int, held: int) -> tuple[Seam, int] | None:
            shown = f"countIf(bitAnd(flags, {int(Flag.VOID)}) = 0)"
            found = await self.select(record, source, shown, seam, start_ns, end_ns)
            return None if found is None else (seam, held + int(found[0][0]))

        async def count(seam: Seam, start_ns: int, end_ns: int, held: int) -> int | None:
            if not self.configured:
                return held
            moving = window[1] is None
            # records of the last moments may still come, so a total of theirs is good for the same seam alone
            settled = moving or end_ns < time.time_ns() - SETTLED_NS
            mine = identity if settled else (*identity, seam)
            try:
                async with asyncio.timeout(self._total_timeout_s):
                    kept = await self.totals.get(mine, lambda: counted(seam, start_ns, end_ns, 0 if moving else held))
            except TimeoutError:
                return None  # the answer does not wait for it; the question goes on, and the next page has it
            if kept is None:
                return None
            (at, total), _ = kept
            if not moving:
                return total
            return max(0, held + total + seam.nth - at.nth) if at.epoch == seam.epoch else None

        return count

    async def _ask(self, question: Coroutine[Any, Any, T], hint: bool, patient: bool = False) -> T | None:
        if not self.alive or (hint and time.monotonic() < self._no_hints_until):
            question.close()
            self._skipped.inc()
            return None
        started = time.monotonic()
        self._patient += patient
        try:
            answer = await question
        except StorageError as error:
            self.took_s.append(time.monotonic() - started)
            self._failed.inc()
            self.error = str(error)[:ERROR_MAX]
            if hint:
                self._no_hints_until = time.monotonic() + self._probe_interval_s
            elif isinstance(error, Unavailable) and (not patient or time.monotonic() - started < self._timeout_s):
                self.alive = False  # until the next good probe nobody else waits
            return None
        finally:
            self._patient -= patient
        self.took_s.append(time.monotonic() - started)
        self._answered.inc()
        return answer

    async def close(self) -> None:
        await self.totals.close()
        await self.firsts.close()
        await self._client.close()
