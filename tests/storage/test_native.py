"""Native blocks, read back from the engine."""

from __future__ import annotations

import numpy as np
import pytest

from tickring.codecs.record import Flag
from tickring.codecs.records import BOOK_TOP, MARKET_RECORDS, QUOTE, TRADE
from tickring.ringbuf import Key
from tickring.storage.batch import DAY_NS, make_batch, rows_of_one_partition
from tickring.storage.native import column_names, encode_block, leb128
from tickring.storage.schema import SchemaOptions, ensure_schema, qualified_table, table_name

from .processes import key_attributes, random_rows, stored_columns

EPOCH = 1_700_000_000_123_456_789


def keys_for(n):
    return {i: Key(i, f"binance.S{i}-USDT", key_attributes(i)) for i in range(n)}


async def store_and_read(client, record, rows, keys):
    options = SchemaOptions(database=client.server.database)
    await ensure_schema(client, [record], options)
    table = qualified_table(options.database, record)
    await client.insert(table, column_names(record), encode_block(record, rows, keys, EPOCH), "token")
    names = [
        "instrument",
        "epoch",
        "nth",
        "toUnixTimestamp64Nano(ts_recv_ns)",
        "toUnixTimestamp64Nano(ts_event_ns)",
        "flags",
    ]
    names += [
        f"toUnixTimestamp64Milli({field.name})" if "DateTime64" in field.kind.clickhouse else field.name
        for field in record.fields
    ]
    return await client.rows(f"SELECT {', '.join(names)} FROM {table}")


@pytest.mark.parametrize("record", MARKET_RECORDS, ids=lambda record: record.name)
def test_block_of_every_record_type_is_stored_value_for_value(with_client, record):
    rows = random_rows(record, 200, 5)
    rows["nth"] = np.arange(200)
    found = with_client(lambda client: store_and_read(client, record, rows, keys_for(5)))
    assert {tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in found} == stored_columns(
        record, rows, EPOCH
    )


@pytest.mark.parametrize("keys", [1, 2, 256, 257, 3000])
def test_block_of_many_keys_names_each_row_by_its_key(with_client, keys):
    rows = random_rows(TRADE, max(5000, keys), keys)
    rows["key_id"][:keys] = np.arange(keys)
    rows["nth"] = np.arange(len(rows))

    async def work(client):
        await store_and_read(client, TRADE, rows, keys_for(keys))
        return await client.rows(
            f"SELECT exchange, market_type, symbol, instrument, nth FROM {client.server.database}.trades ORDER BY nth"
        )

    expected = [("binance", "spot", f"S{k}-USDT", f"S{k}-USDT", i) for i, k in enumerate(rows["key_id"].tolist())]
    assert with_client(work) == expected


def test_block_with_missing_and_unusual_key_attributes_is_stored(with_client):
    keys = {3: Key(3, "x", {"exchange": "ex'change`", "instrument": "Ü-" + "x" * 300})}
    rows = random_rows(QUOTE, 3, 1)
    rows["key_id"] = 3

    async def work(client):
        await store_and_read(client, QUOTE, rows, keys)
        return await client.rows(
            f"SELECT DISTINCT exchange, market_type, instrument FROM {client.server.database}.quotes"
        )

    assert with_client(work) == [("ex'change`", "", "Ü-" + "x" * 300)]


def test_block_sent_again_with_its_token_is_stored_once_and_other_rows_with_it_are_dropped(with_client):
    rows = random_rows(TRADE, 50, 2)

    async def work(client):
        await store_and_read(client, TRADE, rows, keys_for(2))
        await store_and_read(client, TRADE, rows, keys_for(2))
        found = await store_and_read(client, TRADE, random_rows(TRADE, 7, 2, seed=9), keys_for(2))
        return len(found)

    assert with_client(work) == 50


def test_batch_leaves_withdrawn_rows_out_and_keeps_its_token():
    rows = random_rows(TRADE, 10, 2)
    rows["nth"] = np.arange(10)
    whole = make_batch(TRADE, "p.trade", "trades", rows, keys_for(2), epoch=1, first=5, stop=15)
    rows["flags"][:4] |= np.uint32(Flag.VOID)
    batch = make_batch(TRADE, "p.trade", "trades", rows, keys_for(2), epoch=1, first=5, stop=15)
    assert (batch.head.rows, batch.head.identity["nth"]) == (6, 4)
    assert batch.head.token == whole.head.token == "p.trade/1/5-15"
    rows["flags"] |= np.uint32(Flag.VOID)
    assert make_batch(TRADE, "p.trade", "trades", rows, keys_for(2), epoch=1, first=5, stop=15) is None


def test_batch_ends_where_the_partition_changes():
    rows = random_rows(TRADE, 10, 1)
    rows["ts_recv_ns"] = 20_000 * DAY_NS - 3 + np.arange(10)
    assert rows_of_one_partition(rows) == 3
    assert rows_of_one_partition(rows[3:]) == 7
    assert rows_of_one_partition(rows[:0]) == 0
    rows["ts_recv_ns"][1] = 20_000 * DAY_NS  # a clock that was set back
    assert rows_of_one_partition(rows) == 1


@pytest.mark.parametrize(("value", "expected"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")])
def test_leb128_of_known_values(value, expected):
    assert leb128(value) == expected


def test_table_names_are_plurals():
    assert [table_name(record) for record in MARKET_RECORDS] == [
        "trades",
        "quotes",
        "book_levels",
        "book_tops",
        "book_depths",
        "klines",
        "kline_opens",
        "tickers",
        "mark_prices",
        "fundings",
        "open_interests",
        "liquidations",
    ]
    assert BOOK_TOP.columns()[0][0] == "exchange"
