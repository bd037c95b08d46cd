"""Rows that did not come through a ring: the exchange's REST history, stored beside what the writer stores.

Such rows belong to no stream. Their `epoch` is `BACKFILL_EPOCH`, above every stream's (which is a time in ns), and
their `nth` is the time of their own that names them, in ms: so the same row has the same identity whoever stores it
and however often, and questions for what came before a stream's row never meet them. Rows of a temporary range have an
epoch of their own above that, by which they are taken away again.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..codecs.record import Flag, RecordType
from ..codecs.records import FUNDING, KLINE
from ..ringbuf import Key
from .client import Client, quote_text
from .native import column_names, encode_block
from .schema import qualified_table

BACKFILL_EPOCH = 1 << 63
DELETE_TIMEOUT_S = 60.0  # the server rewrites the parts that hold the rows
_UNSOUND = int(Flag.PARTIAL) | int(Flag.VOID)


async def insert_rows(
    client: Client, database: str, record: RecordType, rows: np.ndarray, attributes: Mapping[str, Any], epoch: int
) -> None:
    """Insert `(n,)` rows of one key, which `attributes` describe.

    Raises:
        Unavailable, Refused
    """
    block = encode_block(record, rows, [Key(0, "", attributes)], epoch)
    await client.insert(qualified_table(database, record), column_names(record), block, f"backfill/{uuid.uuid4().hex}")


def _one_key(attributes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    condition = "exchange = {exchange:String} AND instrument = {instrument:String} AND interval = {interval:String}"
    return condition, {name: attributes[name] for name in ("exchange", "instrument", "interval")}


async def held_bars(
    client: Client, database: str, attributes: Mapping[str, Any], start_ms: int, stop_ms: int, *, temporary: bool
) -> np.ndarray:
    """`open_ts` of the whole bars that are stored of a key and begin in ``[start_ms, stop_ms)``: `(n,)` i8, UNIX ms.

    Args:
        temporary: those of temporary ranges too.

    Raises:
        Unavailable, Refused
    """
    condition, parameters = _one_key(attributes)
    rows = await client.rows(
        f"SELECT DISTINCT toUnixTimestamp64Milli(open_ts) FROM {qualified_table(database, KLINE)} WHERE {condition} "
        "AND open_ts >= fromUnixTimestamp64Milli({start:Int64}, 'UTC') "
        "AND open_ts < fromUnixTimestamp64Milli({stop:Int64}, 'UTC') "
        "AND ts_recv_ns >= fromUnixTimestamp64Milli({start:Int64}, 'UTC') "
        f"AND bitAnd(flags, {_UNSOUND}) = 0" + ("" if temporary else f" AND epoch <= {BACKFILL_EPOCH}"),
        {**parameters, "start": start_ms, "stop": stop_ms},
    )
    return np.array([row[0] for row in rows], np.int64)


async def delete_bars(client: Client, database: str, attributes: Mapping[str, Any], epoch: int) -> None:
    """Take away the bars of a key that have this epoch; returns when they are gone.

    Raises:
        Unavailable, Refused
    """
    assert epoch > BACKFILL_EPOCH, f"epoch {epoch} is not that of a temporary range"
    _, parameters = _one_key(attributes)
    condition = " AND ".join(f"{name} = {quote_text(text)}" for name, text in parameters.items())
    await client.command(
        f"ALTER TABLE {qualified_table(database, KLINE)} DELETE WHERE {condition} AND epoch = {epoch} "
        "SETTINGS mutations_sync = 1",
        DELETE_TIMEOUT_S,
    )


async def last_settlements(client: Client, database: str) -> dict[tuple[str, str], list[int]]:
    """By `(exchange, instrument)` the times of the last two settled funding rates that are stored, UNIX ms, newest
    first.

    Raises:
        Unavailable, Refused
    """
    rows = await client.rows(
        "SELECT exchange, instrument, arraySlice(arrayReverseSort(groupUniqArray(nth)), 1, 2) "
        f"FROM {qualified_table(database, FUNDING)} WHERE epoch = {BACKFILL_EPOCH} GROUP BY exchange, instrument"
    )
    return {(exchange, instrument): [int(time) for time in times] for exchange, instrument, times in rows}
