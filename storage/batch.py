"""Batches: closed ranges of a stream, encoded for ClickHouse, with what it takes to send them once and only once."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from ..codecs.record import RecordType
from .client import Client, quote_name
from .errors import Refused, Unavailable
from .native import ROWS_MAX, Keys, column_names, encode_block, stored_rows

log = logging.getLogger("tickring.storage.batch")

DAY_NS = 86_400 * 10**9
LATE_S = 1.0  # a row that an insert under way brings may be visible so late
TOKENS_MAX = 3  # under which a batch is sent that the server acknowledges and does not have

SAMPLE = "sample"
RANGE = "range"


class BatchHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch is; travels with it into the spool."""

    stream: str  # <producer>.<record>
    record: str
    table: str  # without its database
    columns: list[str]  # of the block, in its order
    kind: str = RANGE  # range: sequences [first, stop) of the ring; sample: sample number `first`
    epoch: int
    first: int
    stop: int
    rows: int
    token: str  # deduplication token: the same rows have the same token, other rows another
    # Columns that name the first row: by them a table tells whether it has the batch. Empty where that does not matter.
    identity: dict[str, str | int] = {}
    replaces: bool = False  # the table keeps the newest row of a key: twice is as good as once
    ts_first_ns: int  # receipt of the first and the last row
    ts_last_ns: int


@dataclass
class Batch:
    """A batch and its Native block."""

    head: BatchHead
    block: bytes
    uncertain: bool = False  # it was sent before and no answer came

    @property
    def size(self) -> int:
        return len(self.block)


def rows_of_one_partition(rows: np.ndarray) -> int:
    """How many rows from the start on lie in one partition of the table (a UTC day of receipt); at most `ROWS_MAX`."""
    rows = rows[:ROWS_MAX]
    if not len(rows):
        return 0
    days = rows["ts_recv_ns"] // DAY_NS
    other = np.flatnonzero(days != days[0])
    return int(other[0]) if len(other) else len(rows)


def make_batch(
    record: RecordType,
    stream: str,
    table: str,
    rows: np.ndarray,
    keys: Keys,
    *,
    epoch: int,
    first: int,
    stop: int,
    kind: str = RANGE,
) -> Batch | None:
    """Encode the rows of a range; None when none of them is to be stored.

    Withdrawn rows are left out; the range, and with it the token, stays the same.
    """
    rows = stored_rows(rows)
    if not len(rows):
        return None
    receipts = np.sort(rows["ts_recv_ns"]) if kind == SAMPLE else rows["ts_recv_ns"]
    middle = "sample/" if kind == SAMPLE else ""
    head = BatchHead(
        stream=stream, record=record.name, table=table, columns=column_names(record), kind=kind,
        epoch=epoch, first=first, stop=stop, rows=len(rows), token=f"{stream}/{epoch}/{middle}{first}-{stop}",
        identity=identity_of(record, keys, int(rows["key_id"][0]), epoch, int(rows["nth"][0])),
        ts_first_ns=int(receipts[0]), ts_last_ns=int(receipts[-1]),
    )  # fmt: skip
    return Batch(head, encode_block(record, rows, keys, epoch))


def identity_of(record: RecordType, keys: Keys, key_id: int, epoch: int, nth: int) -> dict[str, str | int]:
    """The columns that name a record for good, and their values."""
    attributes = keys[key_id].attributes
    text = {name: str(attributes.get(name, "")) for name in record.identity[:-2]}
    return {**text, "epoch": epoch, "nth": nth}


async def is_stored(client: Client, database: str, table: str, identity: Mapping[str, str | int]) -> bool:
    """Whether a table holds the row of that identity, and so the whole batch whose first row it is.

    Raises:
        Unavailable: the table could not be read. Also where the server refused the query (a full disk gives that): it
            says nothing about the batch, which must be asked for again.
    """
    conditions = " AND ".join(
        f"{quote_name(name)} = {{{name}:{'String' if isinstance(value, str) else 'Int64'}}}"
        for name, value in identity.items()
    )
    try:
        answer = await client.fetch(
            f"SELECT count() FROM {quote_name(database)}.{quote_name(table)} WHERE {conditions}", identity,
            fmt="TabSeparated",
        )  # fmt: skip
    except Refused as refused:
        raise Unavailable(str(refused), refused.code) from refused
    return int(answer) > 0


async def insert_batch(client: Client, database: str, batch: Batch, timeout_s: float | None = None) -> bool:
    """Insert a batch once; False when an earlier attempt whose answer was lost had stored it.

    The server drops a repeated token as long as it remembers it; a batch that may have been sent long ago is looked for
    in the table first, and afterwards as well: a server without replication remembers a token before it commits the
    rows. Killed in between, it has the token without the rows, and acknowledges the repetition that it drops. (Seen on
    engine 26.9; `MergeTreeSink::commitPart` calls `MergeTreeDeduplicationLog::addPart` before it renames the part.)

    Raises:
        Unavailable: also where a repetition was acknowledged, and the table does not show it.
        Refused
    """
    head, table = batch.head, f"{quote_name(database)}.{quote_name(batch.head.table)}"

    async def insert(token: str) -> None:
        await client.insert(table, head.columns, batch.block, token, timeout_s)

    async def there() -> bool:
        return await is_stored(client, database, head.table, head.identity)

    if not (batch.uncertain and head.identity):
        await insert(head.token)
        return True
    if head.replaces:  # its first row may have been replaced: there is nothing to look for
        await insert(f"{head.token}~{uuid.uuid4().hex}")
        return True
    if await there():
        return False
    for attempt in range(TOKENS_MAX):
        # Numbered, so that these too are the same in every repetition.
        token = f"{head.token}~{attempt}" if attempt else head.token
        await insert(token)
        if await there():
            return True
        await asyncio.sleep(LATE_S)
        if await there():
            return True
        log.warning("batch=%s rows=%d acknowledged, but not in table=%s", token, head.rows, head.table)
        if not await _alone(client, database, head.table):
            break  # another replica has it, and this one will
    raise Unavailable(f"batch {head.token}: acknowledged, but not in table {head.table}; asked for again later")


async def _alone(client: Client, database: str, table: str) -> bool:
    """Whether a table keeps its tokens by itself, and not together with other replicas."""
    query = "SELECT engine FROM system.tables WHERE database = {database:String} AND name = {table:String}"
    try:
        engine = await client.fetch(query, {"database": database, "table": table}, fmt="TabSeparated")
    except Refused as refused:
        raise Unavailable(str(refused), refused.code) from refused
    return engine.strip() == b"MergeTree"
