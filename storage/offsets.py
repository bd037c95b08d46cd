"""How far a topic is stored, by partition.

A topic whose ring is gone goes on behind what the table has. The writer that follows it asks the same, once for each
ring, before its first batch: an interrupted batch of the ring before may have reached the derived tables and not yet
the raw one, and its events come again. Since a batch reaches a table whole, and events come in the order of their
offsets, what a table has of a partition is all up to one offset.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from .client import SCHEMA_CODES, Client
from .errors import DiskUnusable, Refused, SpoolWaits
from .schema import qualified
from .spoolhead import waiting_heads

RAW_TABLE = "raw_events"
WRITER_FOLDER = "writer"  # in the instance's data folder
DESK_SPOOL = "spool-desk"  # in the writer's folder
ASK_TIMEOUT_S = 60.0

Ends = dict[int, int]  # partition -> offset of the next event


async def table_ends(client: Client, table: str, topic: str) -> Ends:
    """The offset behind the highest that a table has of a topic, for each partition; empty without such a table.

    Raises:
        Unavailable, Refused
    """
    query = (
        f"SELECT partition, max(offset) + 1 FROM {qualified(client.server.database, table)} "
        "WHERE topic = {topic:String} GROUP BY partition"
    )
    try:
        return {
            int(partition): int(end) for partition, end in await client.rows(query, {"topic": topic}, ASK_TIMEOUT_S)
        }
    except Refused as refused:
        if refused.code in SCHEMA_CODES:
            return {}
        raise


async def stored_offsets(client: Client, data_folder: Path, topic: str, epoch: int = 1 << 64) -> Ends:
    """Where a topic goes on of which shared memory knows nothing: for each partition the offset of the next event.

    A partition that is not named has no event stored.

    Args:
        client: of the database in which the tables are.
        data_folder: the instance's, on disk.
        epoch: what waits on disk counts as far as its ring was made before it, UNIX ns.

    Raises:
        SpoolWaits: events of the topic wait on disk for ClickHouse: ask again when they have been replayed.
        Unavailable: ClickHouse gives no answer.
        Refused
    """
    folder = data_folder / WRITER_FOLDER / DESK_SPOOL
    if waiting := sum(head.identity.get("topic") == topic and head.epoch < epoch for head in waiting_heads(folder)):
        raise SpoolWaits(f"topic {topic}: {waiting} batches wait in {folder}: they are sent when ClickHouse takes them")
    return await table_ends(client, RAW_TABLE, topic)


class _File(msgspec.Struct):
    epoch: int
    ends: dict[str, Ends]


class Overlap:
    """What the tables had of a topic when its ring began: rows below that are left out.

    File ``<stream>.overlap`` in the writer's folder, JSON. It belongs to one epoch of the ring and is as durable.
    """

    def __init__(self, folder: Path, stream: str) -> None:
        self.path = folder / f"{stream}.overlap"
        self.ends: dict[str, Ends] = {}

    def load(self, epoch: int) -> bool:
        """Take up what an earlier life asked for this epoch; False when none has."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            found = msgspec.json.decode(self.path.read_bytes(), type=_File)
            if found.epoch == epoch:
                self.ends = found.ends
                return True
        return False

    async def ask(self, client: Client, tables: Iterable[str], topic: str, epoch: int) -> None:
        """Ask the tables and keep the answer.

        Raises:
            Unavailable, Refused, DiskUnusable
        """
        ends = {table: await table_ends(client, table, topic) for table in tables}
        self._store(epoch, {table: of_table for table, of_table in ends.items() if of_table})

    def passed(self, epoch: int, offsets: Ends) -> None:
        """Events up to these offsets are stored: a partition that is beyond its end is asked about no more.

        A topic that was deleted and made anew begins at 0, and nothing of that may be left out.

        Raises:
            DiskUnusable
        """
        if not self.ends:
            return
        left = {
            table: {partition: end for partition, end in ends.items() if offsets.get(partition, -1) < end}
            for table, ends in self.ends.items()
        }
        if left != self.ends:
            self._store(epoch, {table: ends for table, ends in left.items() if ends})

    def _store(self, epoch: int, ends: dict[str, Ends]) -> None:
        temporary = self.path.with_suffix(".new")
        try:
            temporary.write_bytes(msgspec.json.encode(_File(epoch, ends)))
            os.replace(temporary, self.path)
        except OSError as error:
            raise DiskUnusable(f"{self.path}: {error.strerror}: make room on that disk") from error
        self.ends = ends
