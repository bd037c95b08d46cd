"""Batches of the spool that are sent together: an insert of twenty rows costs as much as one of twenty thousand.

An insert may hold several Native blocks, one after the other. The server squashes blocks into one until that has
`min_insert_block_size_rows` rows, so an insert of fewer is one block, and within one partition one part: it is stored
whole or not at all, and its first row tells whether all of it is there. (Measured on engine 26.9; sources:
https://clickhouse.com/docs/reference/settings/session-settings/min-insert and
https://github.com/ClickHouse/ClickHouse/issues/9195, read 2026-11.)

What went together is only ever repeated together, with the same token: a server that still carries out an insert whose
answer was lost then drops one of the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from .batch import DAY_NS, Batch
from .native import ROWS_MAX
from .spoolfile import Entry

BATCHES_MAX = 256
BYTES_MAX = 16 << 20


def joinable(entries: Iterable[Entry]) -> int:
    """How many of the first entries may go together: the first always, and those behind it as long as

    - they lie in one file of the spool, which yields as a whole,
    - none may have been sent before: such a batch goes alone, with its own token,
    - their rows were received on one UTC day, so that those of a table lie in one partition,
    - those of a table have the same columns, so that a table gets its batches in their order,
    - each names its first row, and they are not too many.
    """
    count = size = rows = 0
    columns: dict[str, list[str]] = {}
    place: tuple[int, int] | None = None  # file, and day of receipt
    for entry in entries:
        head = entry.head
        size, rows = size + entry.size, rows + head.rows
        place = place or (entry.segment, head.ts_first_ns // DAY_NS)
        if (
            count == BATCHES_MAX or size > BYTES_MAX or rows > ROWS_MAX
            or any((entry.segment, ts_ns // DAY_NS) != place for ts_ns in (head.ts_first_ns, head.ts_last_ns))
            or columns.setdefault(head.table, head.columns) != head.columns
            or entry.uncertain or not head.identity
        ):  # fmt: skip
            break
        count += 1
    return max(count, 1)


def joined(batches: Sequence[Batch], last: str) -> Iterator[Batch]:
    """One batch for each table, in the order in which they are to be sent.

    A batch of table `last` follows from none of the others, and says that all before it in the queue are there. So that
    table comes last, and wherever the queue was cut, what belongs before its rows is stored before them.

    Args:
        batches: of one window of the spool, in their order; all are uncertain or none is.
    """
    of_table: dict[str, list[Batch]] = {}
    for batch in batches:
        of_table.setdefault(batch.head.table, []).append(batch)
    for table in sorted(of_table, key=lambda name: name == last):
        yield _one(of_table[table])


def _one(batches: Sequence[Batch]) -> Batch:
    """All as one: its head is the first's, with rows and token of all."""
    first = batches[0]
    if len(batches) == 1:
        return first
    tokens = hashlib.sha256("\n".join(batch.head.token for batch in batches).encode()).hexdigest()
    head = msgspec.structs.replace(
        first.head, rows=sum(batch.head.rows for batch in batches), token=f"{first.head.token}+{len(batches)}/{tokens}"
    )
    return Batch(head, b"".join(batch.block for batch in batches), first.uncertain)
