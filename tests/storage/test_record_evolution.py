"""One line added to a record's declaration: everything that follows from it, on a store that already has rows."""

from __future__ import annotations

import struct

import msgspec
import numpy as np

from tickring.codecs.record import Field, RecordType, Store
from tickring.codecs.records import COUNT, PRICE, QUANTITY
from tickring.ringbuf import Key
from tickring.storage.native import column_names, encode_block
from tickring.storage.schema import SchemaOptions, create_table, ensure_schema, qualified_table, table_spec

from .processes import fetch_rows, key_attributes

FIELDS = [
    Field("bid", PRICE, "quote currency"),
    Field("bid_qty", QUANTITY, "base units"),
]
ADDED = Field("orders", COUNT, "resting orders at the best bid; 0 = not sent", optional=True)  # the one changed line

BEFORE = RecordType("quote", "Best bid.", FIELDS, tail=4, store=Store.SAMPLED)
AFTER = RecordType("quote", "Best bid.", [*FIELDS, ADDED], tail=4, store=Store.SAMPLED)
KEY = Key(0, "binance.S0-USDT", key_attributes(0))


def row(record, nth, **values):
    rows = np.zeros(1, record.dtype)
    for name, value in {
        "nth": nth,
        "ts_recv_ns": 1_795_000_000_000_000_000 + nth,
        "bid": 10.5,
        "bid_qty": 1.25,
        **values,
    }.items():
        rows[name] = value
    return rows


def test_field_added_by_one_line_appears_in_slot_and_struct():
    assert "orders" not in BEFORE.dtype.names
    assert AFTER.dtype["orders"] == np.dtype("<u8")
    assert AFTER.dtype.fields["orders"][1] == 48
    assert AFTER.struct.pack(1, 2, 3, 4, 5, 10.5, 1.25, 7)[48:56] == struct.pack("<Q", 7)
    assert AFTER.fingerprint != BEFORE.fingerprint
    assert AFTER.slot_size == 64


def test_field_added_by_one_line_appears_in_text_and_schema():
    members = AFTER.to_dict(row(AFTER, 0, orders=7)[0], KEY.attributes)
    assert members == {"bid": "10.50", "bid_qty": "1.25000", "orders": 7}
    assert msgspec.json.decode(msgspec.json.encode(members)) == members
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(members)) == members
    schema = AFTER.json_schema()
    assert schema["properties"]["orders"] == {"type": "integer", "minimum": 0, "description": ADDED.doc}
    assert schema["required"] == ["bid", "bid_qty"]


def test_field_added_by_one_line_alters_a_filled_store_and_old_rows_read_its_default(with_client, server):
    options = SchemaOptions(database=server.database)
    assert "`orders` UInt64" in create_table(table_spec(AFTER, options), options)

    async def insert(client, record, nth, **values):
        block = encode_block(record, row(record, nth, **values), {0: KEY}, 1)
        await client.insert(qualified_table(server.database, record), column_names(record), block, f"{nth}")

    async def work(client):
        await ensure_schema(client, [BEFORE], options)
        for nth in range(3):
            await insert(client, BEFORE, nth)
        run = await ensure_schema(client, [AFTER], options)
        await insert(client, AFTER, 3, orders=7)
        await insert(client, BEFORE, 4)  # a spool filled before the change is replayed after it
        found = await fetch_rows(client, AFTER)
        return run, found, await ensure_schema(client, [AFTER], options)

    run, found, again = with_client(work)
    assert len(run) == 1
    assert "ADD COLUMN IF NOT EXISTS `orders` UInt64" in run[0]
    assert run[0].endswith("AFTER `bid_qty`")
    assert again == []
    assert found.rows["nth"].tolist() == [0, 1, 2, 3, 4]
    assert found.rows["orders"].tolist() == [0, 0, 0, 7, 0]
    assert found.rows["bid"].tolist() == [10.5] * 5
