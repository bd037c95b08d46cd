"""Blocks of rows of Python values, read back from the engine."""

from __future__ import annotations

import random
import time
from decimal import Decimal

import numpy as np
import pytest

from tickring.codecs.desk.money import AMOUNT_MAX, amount_bytes
from tickring.codecs.desk.records import PNL, POSITION
from tickring.ringbuf import Key
from tickring.storage.native import column_names, encode_block
from tickring.storage.nativerows import encode_rows
from tickring.storage.schema import SchemaOptions, ensure_schema, qualified_table

NOW = 1_741_080_000_123_456_789


def amount(units):
    return Decimal(f"{units}e-8")


# type -> values with what a query gives for them
VALUES = {
    "String": [("", ""), ("a", "a"), ("Ü" * 100, "Ü" * 100), (b"x" * 20_000, "x" * 20_000)],
    "LowCardinality(String)": [("BTC", "BTC"), ("", ""), ("BTC", "BTC"), ("ETH", "ETH")],
    "LowCardinality(Nullable(String))": [(None, None), ("", ""), ("BUY", "BUY"), ("SELL", "SELL")],
    "Nullable(String)": [(None, None), ("", ""), ("x", "x"), (None, None)],
    "Decimal(38, 8)": [(0, amount(0)), (-1, amount(-1)), (AMOUNT_MAX, None), (-(5 * 10**27), amount(-(5 * 10**27)))],
    "Nullable(Decimal(38, 8))": [(None, None), (150_000_000, Decimal("1.5")), (None, None), (0, amount(0))],
    "DateTime64(3, 'UTC')": [(NOW, 1_741_080_000_123), (0, 0), (10**6, 1), (999_999, 0)],
    "DateTime64(9, 'UTC')": [(NOW, NOW), (0, 0), (1, 1), (2**60, 2**60)],
    "Nullable(DateTime64(3, 'UTC'))": [(None, None), (NOW, 1_741_080_000_123), (0, 0), (None, None)],
    "Float64": [(0.0, 0.0), (-1.5, -1.5), (1e300, 1e300), (0.1, 0.1)],
    "Nullable(Float64)": [(None, None), (0.1, 0.1), (None, None), (-0.5, -0.5)],
    "Int64": [(-(2**63), -(2**63)), (0, 0), (1, 1), (2**63 - 1, 2**63 - 1)],
    "Nullable(Int64)": [(None, None), (-7, -7), (0, 0), (None, None)],
    "UInt16": [(0, 0), (65_535, 65_535), (1, 1), (2, 2)],
    "UInt32": [(0, 0), (2**32 - 1, 2**32 - 1), (1, 1), (2, 2)],
    "UInt64": [(0, 0), (2**64 - 1, 2**64 - 1), (1, 1), (2, 2)],
    "Bool": [(True, True), (False, False), (1, True), (0, False)],
    "Nullable(Bool)": [(None, None), (False, False), (True, True), (None, None)],
    "Array(Tuple(String, Nullable(String)))": [
        ((), []),
        ((("a", b"1"),), [("a", "1")]),
        ((("a", None), ("a", b"")), [("a", None), ("a", "")]),
        ([], []),
    ],
}


def shown(name, type_name):
    if "DateTime64(3" in type_name:
        return f"toUnixTimestamp64Milli({name})"
    return f"toUnixTimestamp64Nano({name})" if "DateTime64(9" in type_name else name


async def store_and_read(client, columns, rows):
    table = f"{client.server.database}.r"
    await client.command(f"CREATE DATABASE IF NOT EXISTS {client.server.database}")
    ddl = ", ".join(f"{name} {type_name}" for name, type_name in columns)
    await client.command(f"CREATE TABLE {table} (i UInt32, {ddl}) ENGINE = MergeTree ORDER BY i")
    named = [("i", "UInt32"), *columns]
    block = encode_rows(named, [(i, *row) for i, row in enumerate(rows)])
    await client.insert(table, [name for name, _ in named], block, "token")
    return await client.rows(f"SELECT {', '.join(shown(*c) for c in columns)} FROM {table} ORDER BY i")


def test_block_of_every_column_type_is_stored_value_for_value(with_client):
    columns = [(f"c{i}", type_name) for i, type_name in enumerate(VALUES)]
    rows = [tuple(values[i][0] for values in VALUES.values()) for i in range(4)]
    found = with_client(lambda client: store_and_read(client, columns, rows))
    for i, (type_name, values) in enumerate(VALUES.items()):
        expected = [amount(AMOUNT_MAX) if value[0] == AMOUNT_MAX else value[1] for value in values]
        got = [row[i] for row in found]
        if type_name.startswith("Array"):
            got = [[tuple(pair.values()) if isinstance(pair, dict) else tuple(pair) for pair in row] for row in got]
        assert got == expected, type_name


@pytest.mark.parametrize("type_name", [name for name in VALUES if "Nullable" in name and "Array" not in name])
def test_block_of_a_column_without_any_value_or_without_null_is_stored(with_client, type_name):
    some = next(value for value in VALUES[type_name] if value[0])
    rows = [(None, some[0])] * 3
    found = with_client(lambda client: store_and_read(client, [("a", type_name), ("b", type_name)], rows))
    assert found == [(None, some[1])] * 3


@pytest.mark.parametrize("distinct", [255, 256, 257, 70_000])
def test_block_of_many_different_words_names_each_row_by_its_own(with_client, distinct):
    words = [f"w{i}" for i in range(distinct)]
    rows = [(word, word if i % 3 else None) for i, word in enumerate(words)]
    columns = [("a", "LowCardinality(String)"), ("b", "LowCardinality(Nullable(String))")]
    assert with_client(lambda client: store_and_read(client, columns, rows)) == rows


@pytest.mark.parametrize("record", [POSITION, PNL], ids=lambda record: record.name)
def test_block_of_records_with_amounts_is_stored_value_for_value(with_client, record):
    rng = random.Random(7)
    rows = np.zeros(60, record.dtype)
    rows["nth"] = np.arange(60)
    rows["key_id"] = np.arange(60) % 3
    rows["ts_recv_ns"] = time.time_ns() + np.arange(60)
    rows["ts_event_ns"] = rows["ts_recv_ns"] - 5
    units = {}
    for field in record.fields:
        if field.kind.name == "amount":
            units[field.name] = [rng.randrange(-(10**30), 10**30) for _ in range(60)]
            rows[field.name] = [amount_bytes(value) for value in units[field.name]]
        else:
            rows[field.name] = np.arange(60) % 4
    names = record.key_names
    keys = {i: Key(i, f"k{i}", {name: f"{name}{i}" for name in names}) for i in range(3)}

    async def work(client):
        options = SchemaOptions(database=client.server.database)
        await ensure_schema(client, [record], options)
        table = qualified_table(options.database, record)
        await client.insert(table, column_names(record), encode_block(record, rows, keys, 5), "token")
        fields = [shown(field.name, field.kind.clickhouse) for field in record.fields]
        return await client.rows(f"SELECT nth, {', '.join((*names, *fields))} FROM {table} ORDER BY nth")

    expected = [
        (i, *(f"{name}{i % 3}" for name in names),
         *(amount(units[f.name][i]) if f.name in units else i % 4 for f in record.fields))
        for i in range(60)
    ]  # fmt: skip
    assert with_client(work) == expected
