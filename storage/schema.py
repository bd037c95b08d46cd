"""ClickHouse tables, derived from the record types, and kept up with them.

One table for each record type, named in the plural: `trades`, `quotes`, `book_levels`, `book_tops`. Those of the desk's
events are declared in `deskschema` and kept up by the same code.

A record type's table is sorted by the identity of a row, which is the order in which it came: ``(exchange, instrument,
epoch, nth)``, with whatever else a key of the type is made of behind the instrument. "The newest n of an instrument
below this one" is then a read from the end of one range, and times, which rise with `nth`, are found through their
minimum and maximum in each granule. Partitions are days of receipt, months where rows are few and kept long, so that
what has expired is dropped whole and an insert, which ends with the UTC day, stays in one.

What a table of an earlier version needs is found by comparing its columns with the declaration:

| difference | what is done |
|---|---|
| a field was added | its column is added; old rows read the column's default |
| a field was given up | its column stays for the old rows, with a default for the new ones |
| a type holds more than before | the column is converted in place |
| another type, or another sorting key | the table is renamed and a new one made; the log says how to bring rows over |
| the last, but the table is replicated or none of ours | `SchemaConflict`: batches wait in the spool for a person |
| another retention | its TTL is changed, for the rows that are there too |
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..codecs.record import RecordType
from .client import Client, quote_name, quote_text
from .errors import SchemaConflict

log = logging.getLogger("tickring.storage.schema")

PARTITION_DAY = "toYYYYMMDD(ts_recv_ns)"
PARTITION_MONTH = "toYYYYMM(ts_recv_ns)"
DAYS_IN_DAYS_MAX = 120  # records that are kept longer by default are few, and are partitioned by month
# The exchange's time, ours where it sends none. A query must use the same text for the index to serve it.
EVENT_TIME = "if(toUnixTimestamp64Nano(ts_event_ns) = 0, ts_recv_ns, ts_event_ns)"
_TIME_INDICES = (("received", "ts_recv_ns"), ("event_time", EVENT_TIME))
DEDUPLICATION_WINDOW = 10_000  # inserts whose tokens a table remembers
DDL_TIMEOUT_S = 60.0

# Days after receipt; 0 = for ever. Trades, bars, funding, open interest and liquidations are history, the rest is
# sampled or off and grows fast.
RETENTION_DAYS: Mapping[str, int] = {
    "trade": 90, "quote": 30, "book_top": 30, "book_level": 3, "book_depth": 3, "ticker": 30, "mark_price": 30,
    "kline": 1095, "kline_open": 3, "funding": 365, "open_interest": 365, "liquidation": 180,
    "position": 182, "pnl": 7,
}  # fmt: skip
RETENTION_DAYS_DEFAULT = 90
# Of record types whose keys differ in one column: its values that are kept for other than the record's own days.
RETENTION_SPLITS: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "kline": (
        "interval",
        {"1s": 30, "1m": 30, "3m": 90, "5m": 90, "15m": 180, "30m": 365, "1h": 365, "2h": 730, "4h": 730},
    ),
}
DAYS_MAX = 20_000  # stands for ever beside other values; a table's own time would overflow in 2106

_TABLE_NAMES: Mapping[str, str] = {"pnl": "pnl_samples"}
_TIME_MS = f"DateTime64(3, 'UTC') MATERIALIZED toDateTime64({EVENT_TIME}, 3, 'UTC')"
# Columns under names that people already query, computed from ours.
_POSITION_SIDE = "String ALIAS multiIf(quantity < 0, 'SHORT', quantity > 0, 'LONG', 'FLAT')"
_COMPUTED: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "position": (
        ("timestamp", _TIME_MS, "when it changed"),
        ("side", _POSITION_SIDE, "LONG, SHORT, FLAT"),
        ("position_side", _POSITION_SIDE, "the same"),
    ),
    "pnl": (("timestamp", _TIME_MS, "when it changed"),),
}

_WIDER = frozenset((("UInt32", "UInt64"), ("Int32", "Int64"), ("UInt32", "Int64")))  # (before, after)
TTL_CLAUSE = re.compile(r" TTL (.+?)(?: SETTINGS |$)")
_OUR_TTL = "toDateTime(ts_recv_ns) + toIntervalDay("


def days_ttl(days: int) -> str:
    """The TTL expression of rows that are kept for so many days after receipt; 0 = for ever."""
    return f"{_OUR_TTL}{days})" if days else ""


@dataclass(frozen=True, kw_only=True)
class SchemaOptions:
    """Where the tables are made and how long they keep rows."""

    database: str = "tickring"
    engine: str = "MergeTree"  # on a cluster for instance ReplicatedMergeTree
    # By record type, or record type and value of its split (`kline.1m`), over the defaults; 0 = for ever.
    retention_days: Mapping[str, int] = field(default_factory=dict)

    def ttl(self, record: RecordType) -> str:
        """The TTL expression of a record type's table; empty when all rows are kept for ever."""
        chosen, own = self.retention_days, RETENTION_DAYS.get(record.name, RETENTION_DAYS_DEFAULT)
        days = chosen.get(record.name, own)
        column, split = RETENTION_SPLITS.get(record.name, ("", {}))
        if record.name in chosen:
            split = {}
        named = {name.partition(".")[2]: n for name, n in chosen.items() if name.startswith(f"{record.name}.")}
        by_value = {value: n for value, n in {**split, **named}.items() if n != days}
        if not by_value:
            return days_ttl(days)
        cases = "".join(f"{column} = {quote_text(value)}, {n or DAYS_MAX}, " for value, n in by_value.items())
        return f"{_OUR_TTL}multiIf({cases}{days or DAYS_MAX}))"


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """A table as it is declared."""

    name: str
    doc: str
    columns: Sequence[tuple[str, str, str]]  # (name, type, comment), in the order of the blocks
    order: Sequence[str]  # sorting key
    partition: str
    ttl: str  # expression; "" = rows are kept for ever
    codecs: Mapping[str, str] = field(default_factory=dict)
    indices: Sequence[tuple[str, str]] = _TIME_INDICES  # (name, expression): minimum and maximum in each granule
    looked_up: Sequence[str] = ()  # columns by one value of which rows are looked for
    computed: Sequence[tuple[str, str, str]] = ()  # (name, type and MATERIALIZED or ALIAS expression, comment)
    variant: str = ""  # of the engine: Replacing, Aggregating
    version: str = ""  # column whose highest value wins among rows of one key, for Replacing
    splits: bool = False  # rows of one part are kept for different times


@dataclass(frozen=True)
class _Table:
    """A table as the server has it. `columns` is name -> (type, kind of its default or "")."""

    name: str
    engine: str
    definition: str
    sorting_key: str
    columns: Mapping[str, tuple[str, str]]

    @property
    def replaceable(self) -> bool:
        return self.engine.endswith("MergeTree") and not self.engine.startswith(("Replicated", "Shared"))


def table_name(record: RecordType) -> str:
    return _TABLE_NAMES.get(record.name, f"{record.name}s")


def qualified(database: str, table: str) -> str:
    """A table in quotes, with its database."""
    return f"{quote_name(database)}.{quote_name(table)}"


def qualified_table(database: str, record: RecordType) -> str:
    """A record type's table in quotes, with its database."""
    return qualified(database, table_name(record))


def column_ddl(name: str, type_name: str, comment: str, codec: str | None) -> str:
    """One column of a CREATE or ADD COLUMN statement."""
    return f"{quote_name(name)} {type_name} COMMENT {quote_text(comment)}{f' CODEC({codec})' if codec else ''}"


def partition_of(record: RecordType) -> str:
    """The partition expression of a record type's table: by day or by month, whatever retention is configured."""
    few = RETENTION_DAYS.get(record.name, 0) > DAYS_IN_DAYS_MAX
    return PARTITION_MONTH if few else PARTITION_DAY


def table_spec(record: RecordType, options: SchemaOptions) -> TableSpec:
    """The table of a record type."""
    return TableSpec(
        name=table_name(record), doc=record.doc, columns=record.columns(), order=record.identity,
        partition=partition_of(record), ttl=options.ttl(record), codecs=record.codecs(),
        computed=_COMPUTED.get(record.name, ()), splits=record.name in RETENTION_SPLITS,
    )  # fmt: skip


def create_table(spec: TableSpec, options: SchemaOptions) -> str:
    """The CREATE TABLE statement."""
    parts = [column_ddl(*column, spec.codecs.get(column[0])) for column in spec.columns]
    parts += [column_ddl(*column, None) for column in spec.computed]
    parts += [f"INDEX {name} {expression} TYPE minmax GRANULARITY 1" for name, expression in spec.indices]
    parts += [f"INDEX has_{name} {name} TYPE bloom_filter(0.01) GRANULARITY 1" for name in spec.looked_up]
    return (
        f"CREATE TABLE IF NOT EXISTS {qualified(options.database, spec.name)}\n(\n    "
        + ",\n    ".join(parts)
        + f"\n)\nENGINE = {_engine(options.engine, spec)}\nPARTITION BY {spec.partition}\n"
        + f"ORDER BY {_order(spec)}\n{f'TTL {spec.ttl}' if spec.ttl else ''}\n"
        + f"SETTINGS {_deduplication(options.engine)}, {_expiry(spec)}\nCOMMENT {quote_text(spec.doc)}"
    )


def _order(spec: TableSpec) -> str:
    """The sorting key as the server shows it: in brackets where it is more than one column."""
    return spec.order[0] if len(spec.order) == 1 else f"({', '.join(spec.order)})"


def _engine(configured: str, spec: TableSpec) -> str:
    """The configured engine, replicated or not, in the variant of the table."""
    name, _, arguments = configured.partition("(")
    every = ", ".join(filter(None, (arguments.removesuffix(")"), spec.version)))
    return name.replace("MergeTree", f"{spec.variant}MergeTree") + (f"({every})" if every else "")


def _expiry(spec: TableSpec) -> str:
    """Expired parts are dropped and not rewritten, unless rows of one part are kept for different times."""
    return f"ttl_only_drop_parts = {int(not spec.splits)}, materialize_ttl_recalculate_only = 1"


def _deduplication(engine: str) -> str:
    """A plain MergeTree forgets tokens unless told otherwise; a replicated one forgets them after an hour."""
    if engine.startswith("Replicated"):
        window = f"replicated_deduplication_window = {DEDUPLICATION_WINDOW}"
        return f"{window}, replicated_deduplication_window_seconds = {7 * 86_400}"
    return f"non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}"


async def ensure_schema(
    client: Client, records: Iterable[RecordType], options: SchemaOptions, specs: Iterable[TableSpec] = ()
) -> list[str]:
    """Make what is missing and bring up to date what is there; returns the statements that were run.

    Args:
        records: whose tables there are to be.
        specs: further tables.

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
    for spec in (*(table_spec(record, options) for record in records), *specs):
        table = existing.get(spec.name)
        if table is not None and (reasons := _conflicts(spec, table)):
            await execute(_set_aside(spec, options, table, reasons))
            table = None
        for statement in [create_table(spec, options)] if table is None else _changes(spec, options, table):
            await execute(statement)
    return run


async def _existing(client: Client, database: str) -> dict[str, _Table]:
    """The tables of the database, by name."""
    tables = await client.rows(
        "SELECT name, engine, engine_full, sorting_key FROM system.tables WHERE database = {database:String}",
        {"database": database},
    )
    columns: dict[str, dict[str, tuple[str, str]]] = {name: {} for name, *_ in tables}
    for table, name, type_name, default_kind in await client.rows(
        "SELECT table, name, type, default_kind FROM system.columns WHERE database = {database:String}",
        {"database": database},
    ):
        columns.setdefault(table, {})[name] = (type_name, default_kind)
    return {name: _Table(name, *rest, columns=columns[name]) for name, *rest in tables}


def _conflicts(spec: TableSpec, table: _Table) -> list[str]:
    """What keeps a table from ever holding rows of this declaration, in words."""
    reasons = [
        f"column {name!r} is {table.columns[name][0]}, declared is {type_name}"
        for name, type_name, _ in spec.columns
        if name in table.columns and table.columns[name][0] != type_name
        and (table.columns[name][0], type_name) not in _WIDER
    ]  # fmt: skip
    declared = ", ".join(spec.order)
    if table.sorting_key and not f"{table.sorting_key}, ".startswith(f"{declared}, "):
        reasons.append(f"it is sorted by {table.sorting_key}, declared is {declared}")
    if spec.variant not in table.engine:
        reasons.append(f"its engine is {table.engine}, declared is {spec.variant}MergeTree")
    return reasons


def _set_aside(spec: TableSpec, options: SchemaOptions, table: _Table, reasons: list[str]) -> str:
    """The RENAME statement for a table that a new one takes the place of."""
    name = qualified(options.database, spec.name)
    aside_name = f"{table.name}_until_{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    aside = f"{quote_name(options.database)}.{quote_name(aside_name)}"
    shared = ", ".join(quote_name(column) for column, _, _ in spec.columns if column in table.columns)
    key = ", ".join(spec.order)
    copy = f"INSERT INTO {name} ({shared}) SELECT {shared} FROM {aside}"
    if all(column in table.columns for column in spec.order):
        # rows whose acknowledgement was lost before the change may have been sent to the new table again
        copy += f" WHERE ({key}) NOT IN (SELECT {key} FROM {name})"
    if not table.replaceable:
        raise SchemaConflict(
            f"table {name}: {'; '.join(reasons)}; its engine is {table.engine}, so it is left alone: on every replica "
            f"run RENAME TABLE {name} TO {aside}, and start again, which makes a new one; then {copy}"
        )
    log.warning(
        "table=%s set aside as %s, a new one is made: %s. To bring the rows over: %s",
        name, aside, "; ".join(reasons), copy,
    )  # fmt: skip
    return f"RENAME TABLE {name} TO {aside}"


def _changes(spec: TableSpec, options: SchemaOptions, table: _Table) -> list[str]:
    """The ALTER statements that bring a table up to its declaration."""
    name = qualified(options.database, spec.name)
    codecs, previous, changes = spec.codecs, "", []
    for column, type_name, comment in spec.columns:
        if column not in table.columns:
            place = f" AFTER {quote_name(previous)}" if previous else " FIRST"
            definition = column_ddl(column, type_name, comment, codecs.get(column))
            changes.append(f"ADD COLUMN IF NOT EXISTS {definition}{place}")
        elif table.columns[column][0] != type_name:
            changes.append(f"MODIFY COLUMN {quote_name(column)} {type_name}")
        previous = column
    for column, definition, comment in spec.computed:
        if column not in table.columns:
            changes.append(f"ADD COLUMN IF NOT EXISTS {column_ddl(column, definition, comment, None)}")
    declared = {column for column, _, _ in spec.columns}
    for column, (type_name, default_kind) in table.columns.items():
        # A column with a default is given up already, or a person's own.
        if column not in declared and not default_kind:
            default = f"defaultValueOfTypeName({quote_text(type_name)})"
            changes.append(f"MODIFY COLUMN {quote_name(column)} {type_name} DEFAULT {default}")
    statements = [f"ALTER TABLE {name} {', '.join(changes)}"] if changes else []
    if "MergeTree" in table.engine and "deduplication_window" not in table.definition:
        statements.append(f"ALTER TABLE {name} MODIFY SETTING {_deduplication(table.engine)}")
    return statements + _retention_changes(spec, name, table.definition)


def _retention_changes(spec: TableSpec, table: str, definition: str) -> list[str]:
    """Bring a TTL of our own form up to the configuration; one that a person wrote is left alone."""
    ttl = spec.ttl
    match = TTL_CLAUSE.search(definition)
    found = match.group(1) if match else ""
    if found == ttl or (found and not found.startswith(_OUR_TTL)):
        return []
    if not ttl:
        return [f"ALTER TABLE {table} REMOVE TTL"]
    # Parts carry the time at which they expire. Unless it is computed again, rows that are there keep the old one: they
    # would stay longer than asked, or go earlier. That runs in the background, reads two columns and writes no rows.
    statements = []
    if "materialize_ttl_recalculate_only" not in definition:
        statements.append(f"ALTER TABLE {table} MODIFY SETTING {_expiry(spec)}")
    statements.append(f"ALTER TABLE {table} MODIFY TTL {ttl} SETTINGS materialize_ttl_after_modify = 1")
    return statements
