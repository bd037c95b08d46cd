"""What ClickHouse knows of an instrument: the part of a merged answer that memory no longer holds.

Rows come back in the layout of their record type, as memory has them, so that one encoder serves both. They are asked
for in RowBinary, whose rows are the record's own bytes, and are not parsed.

The seam between the two parts is a row's identity, never a time: ask for rows before ``(epoch, nth)`` of the first row
that memory gave. Every call has a deadline; when it passes, `Unavailable` is raised and the answer is
memory's part alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..codecs.record import RecordType
from ..codecs.records import TRADE
from .client import Client, Server, quote_name
from .errors import Unavailable
from .schema import EVENT_TIME, qualified_table

DEADLINE_S = 2.0
CONCURRENT_MAX = 4
QUEUE_MAX = 64  # further calls are refused at once: answers without history beat answers that wait
LIMIT_MAX = 100_000
DAY_NS = 86_400 * 10**9
CLOCK_SKEW_NS = 3600 * 10**9  # between an exchange's clock and ours, at most
# Newest rows are looked for in the last day first: else the partitions of all days would be opened.
HORIZONS_NS = (DAY_NS, 30 * DAY_NS, None)
_HEADER = ("nth", "ts_recv_ns", "ts_event_ns", "flags")


@dataclass(frozen=True)
class Seam:
    """Rows are wanted from before this one: the first that memory holds."""

    epoch: int
    nth: int


@dataclass(frozen=True)
class Rows:
    """Rows of one instrument, in the order asked for.

    `rows` is `(n,)` of the record's dtype with `key_id` 0, `epochs` is `(n,)` u64.
    """

    record: RecordType
    rows: np.ndarray
    epochs: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@lru_cache(maxsize=32)
def _layout(record: RecordType) -> tuple[str, np.dtype, tuple[str, ...]]:
    """Select list, dtype of a RowBinary row, and names of the fields that are copied as they are."""
    select = ["epoch", "nth", "toUnixTimestamp64Nano(ts_recv_ns)", "toUnixTimestamp64Nano(ts_event_ns)", "flags"]
    packed: list[tuple[Any, ...]] = [
        ("epoch", "<u8"), ("nth", "<u8"), ("ts_recv_ns", "<i8"), ("ts_event_ns", "<i8"), ("flags", "<u4"),
    ]  # fmt: skip
    for field in record.fields:
        name = quote_name(field.name)
        if field.length == 1:
            select.append(name)
            packed.append((field.name, field.kind.dtype))
        else:
            # Rows from before the field was added have an empty array; the length is one or two bytes of LEB128.
            select.append(f"arrayResize({name}, {field.length})")
            packed.append((f"{field.name}.length", f"V{1 if field.length < 128 else 2}"))
            packed.append((field.name, field.kind.dtype, (field.length,)))
            assert field.length < 1 << 14, f"{record.name}.{field.name}: length {field.length}"
    return ", ".join(select), np.dtype(packed), (*_HEADER, *(field.name for field in record.fields))


def row_columns(record: RecordType) -> str:
    """Select list of whole rows, for a query in RowBinary whose answer `parse_rows` reads."""
    return _layout(record)[0]


def parse_rows(record: RecordType, answer: bytes) -> Rows:
    """Rows of a RowBinary answer to a query of `row_columns`."""
    _, packed, names = _layout(record)
    raw = np.frombuffer(answer, packed)
    rows = np.zeros(len(raw), record.dtype)
    for name in names:
        rows[name] = raw[name]
    return Rows(record, rows, raw["epoch"].copy())


class History:
    """Queries with deadlines, a bounded number of them at once. For one event loop.

    Args:
        server: ClickHouse.
        folder, data: of the instance, to find its embedded engine.
        deadline_s: of a call, waiting included.
    """

    def __init__(
        self,
        server: Server,
        folder: Path | None = None,
        data: Path | None = None,
        *,
        deadline_s: float = DEADLINE_S,
        concurrent_max: int = CONCURRENT_MAX,
        queue_max: int = QUEUE_MAX,
    ) -> None:
        self.client = Client(server, folder, data)
        self.database = server.database
        self.deadline_s = deadline_s
        self._slots = asyncio.Semaphore(concurrent_max)
        self._queue_max = concurrent_max + queue_max
        self._calls = 0
        self.refused = 0  # calls that found the queue full
        self.failed = 0  # calls without an answer

    async def trades(self, exchange: str, instrument: str, **conditions: Any) -> Rows:
        """Trades of an instrument; conditions as in `rows`."""
        return await self.rows(TRADE, exchange, instrument, **conditions)

    async def rows(
        self,
        record: RecordType,
        exchange: str,
        instrument: str,
        *,
        before: Seam | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
        limit: int = 1000,
        newest_first: bool = True,
        now_ns: int | None = None,
        deadline_s: float | None = None,
    ) -> Rows:
        """Rows of an instrument, in the order in which they came or its reverse.

        Args:
            before: only rows that came before this one, in its epoch or an earlier one.
            start_ns, end_ns: only rows with ``start_ns <= ts_event_ns < end_ns`` (the exchange's time; our own where it
                sends none), UNIX ns.
            limit: at most so many, `LIMIT_MAX` at most.
            newest_first: the newest `limit` rows, newest first; else the oldest, oldest first.
            now_ns: wall clock, where the search for the newest begins; None = no such shortcut.
            deadline_s: instead of the object's own.

        Raises:
            Unavailable: no answer in time, or too many calls wait already.
            Refused: the table is not there or not as the record type asks for.
        """
        limit = max(0, min(limit, LIMIT_MAX))
        if not limit:
            return self._parse(record, b"")
        if self._calls >= self._queue_max:
            self.refused += 1
            raise Unavailable(f"clickhouse {self.client.url}: {self._calls} queries wait already: try again later")
        seconds = self.deadline_s if deadline_s is None else deadline_s
        self._calls += 1
        try:
            async with asyncio.timeout(seconds), self._slots:
                return await self._search(
                    record, exchange, instrument, before, start_ns, end_ns, limit, newest_first, now_ns
                )
        except TimeoutError:
            self.failed += 1
            raise Unavailable(f"clickhouse {self.client.url}: no answer within {seconds:g} s") from None
        except Unavailable:
            self.failed += 1
            raise
        finally:
            self._calls -= 1

    async def _search(
        self, record: RecordType, exchange: str, instrument: str, before: Seam | None, start_ns: int | None,
        end_ns: int | None, limit: int, newest_first: bool, now_ns: int | None,
    ) -> Rows:  # fmt: skip
        bounded = newest_first and now_ns is not None and start_ns is None and end_ns is None
        found = self._parse(record, b"")
        for horizon in HORIZONS_NS if bounded else (None,):
            received_from = None if horizon is None or now_ns is None else now_ns - horizon
            query, parameters = _query(
                record,
                self.database,
                exchange,
                instrument,
                before,
                start_ns,
                end_ns,
                received_from,
                limit,
                newest_first,
            )
            answer = await self.client.fetch(query, parameters, fmt="RowBinary", settings=self._settings())
            found = self._parse(record, answer)
            if len(found) >= limit:
                break
        return found

    def _settings(self) -> dict[str, Any]:
        # The server gives up too: a client that has left is not always noticed.
        return {"max_execution_time": max(1, round(self.deadline_s * 2)), "optimize_read_in_order": 1}

    @staticmethod
    def _parse(record: RecordType, answer: bytes) -> Rows:
        return parse_rows(record, answer)

    async def close(self) -> None:
        """Drop the connections."""
        await self.client.close()


def _query(
    record: RecordType, database: str, exchange: str, instrument: str, before: Seam | None, start_ns: int | None,
    end_ns: int | None, received_from_ns: int | None, limit: int, newest_first: bool,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """The statement and its parameters; nothing of the caller's becomes part of the text."""
    select, _, _ = _layout(record)
    conditions = ["exchange = {exchange:String}", "instrument = {instrument:String}"]
    parameters: dict[str, Any] = {"exchange": exchange, "instrument": instrument, "limit": limit}
    if before is not None:
        conditions.append("(epoch < {epoch:UInt64} OR (epoch = {epoch:UInt64} AND nth < {nth:UInt64}))")
        parameters |= {"epoch": before.epoch, "nth": before.nth}
    if start_ns is not None and received_from_ns is None:
        received_from_ns = (
            start_ns - CLOCK_SKEW_NS
        )  # what was sent then cannot have come before: older days stay closed
    for name, sign, value in (("start", ">=", start_ns), ("end", "<", end_ns)):
        if value is not None:
            conditions.append(f"{EVENT_TIME} {sign} fromUnixTimestamp64Nano({{{name}:Int64}}, 'UTC')")
            parameters[name] = value
    if received_from_ns is not None:
        conditions.append("ts_recv_ns >= fromUnixTimestamp64Nano({received:Int64}, 'UTC')")
        parameters["received"] = received_from_ns
    order = "DESC" if newest_first else "ASC"
    return (
        f"SELECT {select} FROM {qualified_table(database, record)} WHERE {' AND '.join(conditions)} "
        f"ORDER BY exchange {order}, instrument {order}, epoch {order}, nth {order} LIMIT {{limit:UInt64}}"
    ), parameters
