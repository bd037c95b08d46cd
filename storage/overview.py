"""What lies in ClickHouse, table by table, for a person."""

from __future__ import annotations

from dataclasses import dataclass

from .client import Client, quote_name
from .schema import TTL_CLAUSE

_TABLES = """
SELECT name, engine, engine_full, held_rows, partitions, parts, compressed, uncompressed, on_disk,
       (database, name) IN (SELECT database, table FROM system.columns WHERE name = 'ts_recv_ns') AS received
FROM system.tables
LEFT JOIN
(
    SELECT table AS name, sum(rows) AS held_rows, uniqExact(partition) AS partitions, count() AS parts,
           sum(bytes_on_disk) AS on_disk, sum(data_compressed_bytes) AS compressed,
           sum(data_uncompressed_bytes) AS uncompressed
    FROM system.parts WHERE active AND database = {database:String} GROUP BY table
) AS held USING (name)
WHERE database = {database:String} ORDER BY name
"""


@dataclass(frozen=True)
class TableStatus:
    """One table. Times are receipts, wall clock UNIX ns; 0 = it is empty, or has no such column."""

    table: str
    engine: str
    rows: int
    bytes_compressed: int
    bytes_uncompressed: int
    bytes_on_disk: int  # with marks and indices
    partitions: int
    parts: int
    oldest_ns: int
    newest_ns: int
    ttl: str  # as the server prints it; empty = rows are kept for ever


async def table_statuses(client: Client, database: str) -> list[TableStatus]:
    """The tables of a database, by name; views are left out.

    Raises:
        Unavailable, Refused
    """
    found = []
    for (
        name,
        engine,
        definition,
        rows,
        partitions,
        parts,
        compressed,
        uncompressed,
        on_disk,
        received,
    ) in await client.rows(_TABLES, {"database": database}):
        if engine.endswith("View"):
            continue
        oldest = newest = 0
        if received and rows:
            # from the minima and maxima of the parts, whose rows are not read
            ((oldest, newest),) = await client.rows(
                "SELECT toUnixTimestamp64Nano(min(ts_recv_ns)), toUnixTimestamp64Nano(max(ts_recv_ns)) "
                f"FROM {quote_name(database)}.{quote_name(name)}"
            )
        ttl = TTL_CLAUSE.search(definition)
        found.append(TableStatus(
            name, engine, rows, compressed, uncompressed, on_disk, partitions, parts, oldest, newest,
            ttl.group(1) if ttl else "",
        ))  # fmt: skip
    return found
