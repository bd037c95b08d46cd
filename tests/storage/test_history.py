"""Rows that come back from a table as memory had them."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest

from tickring.codecs.records import BOOK_TOP, TRADE
from tickring.ringbuf import Key
from tickring.storage.batch import DAY_NS
from tickring.storage.client import Client
from tickring.storage.history import parse_rows
from tickring.storage.native import column_names, encode_block
from tickring.storage.schema import SchemaOptions, ensure_schema, qualified_table

from .processes import fetch_rows, key_attributes, random_rows

NOW = 1_795_000_000_000_000_000
OLD, NEW = 100, 200  # epochs
KEYS = {0: Key(0, "binance.S0-USDT", key_attributes(0))}


def rows_of(record, n, first_ns):
    rows = random_rows(record, n, 1, start=first_ns % 1000)
    rows["nth"] = np.arange(n)
    rows["ts_recv_ns"] = first_ns + np.arange(n) * 10**6
    rows["ts_event_ns"] = rows["ts_recv_ns"] - 5 * 10**5
    return rows


def there_and_back(server, record):
    """Two epochs stored, 50 rows of three days ago and 100 of today: what the table holds then, and these rows."""
    old, new = rows_of(record, 50, NOW - 3 * DAY_NS), rows_of(record, 100, NOW)

    async def inside():
        client = Client(server)
        await ensure_schema(client, [record], SchemaOptions(database=server.database, retention_days={record.name: 0}))
        table = qualified_table(server.database, record)
        for epoch, rows in ((NEW, new), (OLD, old)):
            await client.insert(table, column_names(record), encode_block(record, rows, KEYS, epoch), f"{epoch}")
        found = await fetch_rows(client, record)
        await client.close()
        return found

    return asyncio.run(inside()), np.concatenate((old, new))


@pytest.mark.parametrize("record", [TRADE, BOOK_TOP], ids=lambda record: record.name)
@pytest.mark.parametrize("compress", [False, True])
def test_rows_come_back_byte_for_byte_with_their_epochs(server, record, compress):
    found, expected = there_and_back(msgspec.structs.replace(server, compress=compress), record)
    assert found.rows.tobytes() == expected.tobytes()
    assert found.epochs.tolist() == [OLD] * 50 + [NEW] * 100
    assert len(found) == 150


def test_empty_answer_is_no_rows():
    assert len(parse_rows(TRADE, b"")) == 0
