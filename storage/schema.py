"""ClickHouse tables, derived from the record types, and kept up with them.

One table for each record type, named in the plural: `trades`, `quotes`, `book_levels`, `book_tops`. A field that was
added to a record type is added to its filled table; old rows read the column's default. What cannot be done without a
person (a column of another type, a field that was removed and has no default) is an error that says what to do.

A table is sorted by ``(exchange, instrument, epoch, nth)``: the identity of a row, and the order in which it came. "The
newest n of an instrument below this one" is then a read from the end of one range, and times, which rise with `nth`,
are found through their minimum and maximum in each granule. Partitions are days of receipt, so that expired days are
dropped whole and an insert, which is no older than its ring, stays in one partition.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..codecs.record import RecordType
from .client import Client, quote_name, quote_text
from .errors import SchemaConflict

log = logging.getLogger("tickring.storage.schema")

SORTING_KEY = ("exchange", "instrument", "epoch", "nth")
PARTITION = "toYYYYMMDD(ts_recv_ns)"
# The exchange's time, ours where it sends none. A query must use the same text for the index to serve it.
EVENT_TIME = "if(toUnixTimestamp64Nano(ts_event_ns) = 0, ts_recv_ns, ts_event_ns)"
_TIME_INDICES = (("received", "ts_recv_ns"), ("event_time", EVENT_TIME))
DEDUPLICATION_WINDOW = 10_000  # inserts whose tokens a table remembers
DDL_TIMEOUT_S = 60.0

# Days; 0 = for ever. Trades are history, the rest is sampled or off and grows fast.
RETENTION_DAYS: Mapping[str, int] = {"trade": 90, "quote": 30, "book_top": 30, "book_level": 3, "book_depth": 3}
RETENTION_DAYS_DEFAULT = 90

# Measured on 100,000 trades of 2,000 keys (bytes a row; ms an insert): no codec 30.6, 53; Delta and ZSTD 19.9, 48;
# DoubleDelta for times and Gorilla for prices 24.7, 54; Delta and LZ4 27.8, 40.
_CODECS: Mapping[str, str] = {
    "DateTime64(9, 'UTC')": "Delta(8), ZSTD(1)",
    "Int64": "Delta(8), ZSTD(1)",
    "UInt64": "Delta(8), ZSTD(1)",
    "UInt32": "ZSTD(1)",
    "Float64": "ZSTD(1)",
    "Array(Float64)": "ZSTD(1)",
}
_TTL_DAYS = re.compile(r"TTL toDateTime\(ts_recv_ns\) \+ toIntervalDay\((\d+)\)(?= |$)")


@dataclass(frozen=True, kw_only=True)
class SchemaOptions:
    """Where the tables are made and how long they keep rows."""

    database: str = "tickring"
    engine: str = "MergeTree"  # on a cluster for instance ReplicatedMergeTree
    retention_days: Mapping[str, int] = field(default_factory=dict)  # by record type, over the defaults; 0 = for ever

    def days(self, record: RecordType) -> int:
        return self.retention_days.get(record.name, RETENTION_DAYS.get(record.name, RETENTION_DAYS_DEFAULT))


def table_name(record: RecordType) -> str:
    return f"{record.name}s"


def qualified_table(database: str, record: RecordType) -> str:
    """The table in quotes, with its database."""
    return f"{quote_name(database)}.{quote_name(table_name(record))}"


def column_ddl(name: str, type_name: str, comment: str) -> str:
    """One column of a CREATE or ADD COLUMN statement."""
    codec = _CODECS.get(type_name)
    return f"{quote_name(name)} {type_name} COMMENT {quote_text(comment)}{f' CODEC({codec})' if codec else ''}"


def create_table(record: RecordType, options: SchemaOptions) -> str:
    """The CREATE TABLE statement of a record type."""
    parts = [column_ddl(*column) for column in record.columns()]
    parts += [f"INDEX {name} {expression} TYPE minmax GRANULARITY 1" for name, expression in _TIME_INDICES]
    days = options.days(record)
    ttl = f"TTL toDateTime(ts_recv_ns) + toIntervalDay({days})\n" if days else ""
    return (
        f"CREATE TABLE IF NOT EXISTS {qualified_table(options.database, record)}\n(\n    "
        + ",\n    ".join(parts)
        + f"\n)\nENGINE = {options.engine}\nPARTITION BY {PARTITION}\nORDER BY ({', '.join(SORTING_KEY)})\n{ttl}"
        f"SETTINGS {_deduplication(options.engine)}, ttl_only_drop_parts = 1\nCOMMENT {quote_text(record.doc)}"
    )


def _deduplication(engine: str) -> str:
    """A plain MergeTree forgets tokens unless told otherwise; a replicated one forgets them after an hour."""
    if engine.startswith("Replicated"):
        window = f"replicated_deduplication_window = {DEDUPLICATION_WINDOW}"
        return f"{window}, replicated_deduplication_window_seconds = {7 * 86_400}"
    return f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}"


async def ensure_schema(client: Client, records: Iterable[RecordType], options: SchemaOptions) -> list[str]:
    """Make what is missing and add what is new; returns the statements that were run.

    Raises:
        SchemaConflict: a table differs in a way that needs a decision.
        Unavailable, Refused
    """
    run: list[str] = []

    async def execute(statement: str) -> None:
        await client.command(statement, DDL_TIMEOUT_S)
        log.info("clickhouse=%s ran=%s", client.url, " ".join(statement.split())[:300])
        run.append(statement)

    existing = await _existing(client, options.database)
    if not existing and not await client.rows(
        "SELECT 1 FROM system.databases WHERE name = {database:String}", {"database": options.database}
    ):
        await execute(f"CREATE DATABASE IF NOT EXISTS {quote_name(options.database)}")
    for record in records:
        definition = existing.get(table_name(record))
        if definition is None:
            await execute(create_table(record, options))
            continue
        for statement in await _changes(client, record, options, definition):
            await execute(statement)
    return run


async def _existing(client: Client, database: str) -> dict[str, str]:
    """Engine clause of each table of the database, by name."""
    rows = await client.rows(
        "SELECT name, engine_full FROM system.tables WHERE database = {database:String}", {"database": database}
    )
    return dict(rows)


async def _changes(client: Client, record: RecordType, options: SchemaOptions, definition: str) -> list[str]:
    """The ALTER statements that bring a table up to its record type."""
    table = qualified_table(options.database, record)
    columns = await client.rows(
        "SELECT name, type, default_kind FROM system.columns "
        "WHERE database = {database:String} AND table = {table:String}",
        {"database": options.database, "table": table_name(record)},
    )
    found = {name: type_name for name, type_name, _ in columns}
    changes, previous = [], ""
    for name, type_name, comment in record.columns():
        if name not in found:
            place = f" AFTER {quote_name(previous)}" if previous else " FIRST"
            changes.append(f"ADD COLUMN IF NOT EXISTS {column_ddl(name, type_name, comment)}{place}")
        elif found[name] != type_name:
            raise SchemaConflict(
                f"table {table}: column {name!r} is {found[name]}, record type {record.name!r} declares {type_name}: "
                f"rename the table (RENAME TABLE {table} TO ...) and start again, which makes a new one, "
                f"or convert it: ALTER TABLE {table} MODIFY COLUMN {quote_name(name)} {type_name}"
            )
        previous = name
    declared = {name for name, _, _ in record.columns()}
    # A column with a default expression is a person's own and stays; one without is a field that was given up.
    if extra := [name for name, _, default_kind in columns if name not in declared and not default_kind]:
        raise SchemaConflict(
            f"table {table}: record type {record.name!r} no longer declares {', '.join(extra)}: "
            + "; ".join(f"ALTER TABLE {table} DROP COLUMN {quote_name(name)}" for name in extra)
            + " removes what is stored, MODIFY COLUMN ... DEFAULT 0 in its place keeps it"
        )
    statements = [f"ALTER TABLE {table} {', '.join(changes)}"] if changes else []
    if "MergeTree" in definition and "deduplication_window" not in definition:
        statements.append(f"ALTER TABLE {table} MODIFY SETTING {_deduplication(definition)}")
    return statements + _retention_change(table, definition, options.days(record))


def _retention_change(table: str, definition: str, days: int) -> list[str]:
    """Bring a TTL of our own form up to the configuration; one that a person wrote is left alone."""
    ours = _TTL_DAYS.search(definition)
    if ours is None and (" TTL " in definition or not days):
        return []
    if ours is not None and int(ours.group(1)) == days:
        return []
    if not days:
        return [f"ALTER TABLE {table} REMOVE TTL"]
    ttl = f"toDateTime(ts_recv_ns) + toIntervalDay({days})"
    return [f"ALTER TABLE {table} MODIFY TTL {ttl} SETTINGS materialize_ttl_after_modify = 0"]
