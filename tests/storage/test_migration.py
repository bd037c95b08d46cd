"""Stores filled by an earlier version, or with tables that no longer fit, taken over by this one."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tickring.codecs.record import COUNT, Field, RecordType
from tickring.codecs.records import QUOTE, SMALL, TRADE, UPDATE_ID
from tickring.ringbuf import Key
from tickring.storage.errors import SchemaConflict
from tickring.storage.native import column_names, encode_block
from tickring.storage.schema import SchemaOptions, ensure_schema, qualified_table

from .processes import fetch_rows, key_attributes, random_rows

KEYS = {0: Key(0, "binance.S0-USDT", key_attributes(0))}
EPOCH = 1_795_000_000_000_000_000

# As version 0.1.0 made it.
TRADES_BEFORE = """
CREATE TABLE {database}.trades
(
    `exchange` LowCardinality(String) COMMENT 'binance, okx, deribit',
    `market_type` LowCardinality(String) COMMENT 'spot, perpetual, future, option',
    `symbol` LowCardinality(String) COMMENT 'pair, BTC-USDT',
    `instrument` LowCardinality(String) COMMENT 'canonical name in one string, BTC-USDT-PERP',
    `epoch` UInt64 CODEC(Delta(8), ZSTD(1)), `nth` UInt64 CODEC(Delta(8), ZSTD(1)),
    `ts_recv_ns` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
    `ts_event_ns` DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)), `flags` UInt32 CODEC(ZSTD(1)),
    `trade_id` Int64 CODEC(Delta(8), ZSTD(1)), `price` Float64 CODEC(ZSTD(1)), `quantity` Float64 CODEC(ZSTD(1)),
    `first_trade_id` Int64 CODEC(Delta(8), ZSTD(1)), `last_trade_id` Int64 CODEC(Delta(8), ZSTD(1)),
    `quantity_ex_rpi` Float64 CODEC(ZSTD(1)),
    INDEX received ts_recv_ns TYPE minmax GRANULARITY 1,
    INDEX event_time if(toUnixTimestamp64Nano(ts_event_ns) = 0, ts_recv_ns, ts_event_ns) TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree PARTITION BY toYYYYMMDD(ts_recv_ns) ORDER BY (exchange, instrument, epoch, nth)
TTL toDateTime(ts_recv_ns) + toIntervalDay(90)
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1
"""


def rows_of(record, n, start=0):
    rows = random_rows(record, n, 1, seed=3, start=start)
    rows["nth"] = np.arange(start, start + n)
    return rows


async def fill(client, record, rows):
    await client.insert(
        qualified_table(client.server.database, record), column_names(record),
        encode_block(record, rows, KEYS, EPOCH), f"{record.name}-{rows['nth'][0]}",
    )  # fmt: skip


async def stored(client, record):
    return (await fetch_rows(client, record)).rows


def same(record, found, expected):
    return all(np.array_equal(found[f.name], expected[f.name]) for f in record.fields)


def quote(*fields):
    return RecordType("quote", "Best bid and ask, at each change.", list(fields), tail=4)


def test_store_filled_by_the_first_version_is_taken_over_as_it_is(with_client):
    async def work(client):
        options = SchemaOptions(database=client.server.database)
        await client.command(f"CREATE DATABASE {client.server.database}")
        await client.command(TRADES_BEFORE.format(database=client.server.database))
        old, new = rows_of(TRADE, 500), rows_of(TRADE, 100, start=500)
        await fill(client, TRADE, old)
        run = await ensure_schema(client, [TRADE], options)
        await fill(client, TRADE, new)
        await fill(client, TRADE, old)  # its token is still known
        return run, await stored(client, TRADE), np.concatenate([old, new])

    run, found, expected = with_client(work)
    assert run == []
    assert same(TRADE, found, expected)


def test_store_filled_by_the_first_version_follows_another_retention(with_client):
    async def work(client):
        options = SchemaOptions(database=client.server.database, retention_days={"trade": 7})
        await client.command(f"CREATE DATABASE {client.server.database}")
        await client.command(TRADES_BEFORE.format(database=client.server.database))
        await fill(client, TRADE, rows_of(TRADE, 5))
        return await ensure_schema(client, [TRADE], options), await ensure_schema(client, [TRADE], options)

    run, again = with_client(work)
    assert ["materialize_ttl_recalculate_only = 1" in run[0], "toIntervalDay(7)" in run[1]] == [True, True]
    assert again == []


def test_field_given_up_stays_with_its_old_rows_and_may_come_back(with_client):
    after = quote(*QUOTE.fields[:3])

    async def work(client):
        options = SchemaOptions(database=client.server.database)
        await ensure_schema(client, [QUOTE], options)
        old, new = rows_of(QUOTE, 20), rows_of(after, 20, start=20)
        await fill(client, QUOTE, old)
        run = await ensure_schema(client, [after], options)
        again = await ensure_schema(client, [after], options)
        await fill(client, after, new)
        return run, again, await ensure_schema(client, [QUOTE], options), await stored(client, QUOTE), old, new

    run, again, back, found, old, new = with_client(work)
    assert len(run) == 1
    assert "MODIFY COLUMN `ask_qty` Float64 DEFAULT" in run[0]
    assert again == back == []
    assert found["ask_qty"].tolist() == old["ask_qty"].tolist() + [0.0] * 20
    assert same(after, found, np.concatenate([old[list(after.values)], new[list(after.values)]]))


def test_column_that_now_holds_more_is_converted_in_place(with_client):
    before, after = (quote(*QUOTE.fields, Field("orders", kind, "resting orders")) for kind in (SMALL, COUNT))

    async def work(client):
        options = SchemaOptions(database=client.server.database)
        await ensure_schema(client, [before], options)
        old = rows_of(before, 20)
        await fill(client, before, old)
        run = await ensure_schema(client, [after], options)
        return run, await ensure_schema(client, [after], options), await stored(client, after), old

    run, again, found, old = with_client(work)
    assert len(run) == 1
    assert "MODIFY COLUMN `orders` UInt64" in run[0]
    assert again == []
    assert found["orders"].tolist() == old["orders"].tolist()


def test_table_with_another_type_is_set_aside_and_its_rows_can_be_brought_over(with_client, caplog):
    before = quote(Field("bid", UPDATE_ID, "in ticks"), *QUOTE.fields[1:])

    async def work(client):
        options = SchemaOptions(database=client.server.database)
        await ensure_schema(client, [before], options)
        old = rows_of(before, 20)
        await fill(client, before, old)
        run = await ensure_schema(client, [QUOTE], options)
        new = rows_of(QUOTE, 10, start=20)
        await fill(client, QUOTE, new)
        only_new = await stored(client, QUOTE)
        (copy,) = re.findall(r"To bring the rows over: (.+)", caplog.text)
        for _ in range(2):  # the second time there is nothing left to copy
            await client.command(copy)
        return run, await ensure_schema(client, [QUOTE], options), only_new, await stored(client, QUOTE), old, new

    run, again, only_new, found, old, new = with_client(work)
    assert len(run) == 2
    assert re.match(r"RENAME TABLE .*quotes` TO .*`quotes_until_\d{8}T\d{6}`$", run[0])
    assert "column 'bid' is Int64, declared is Float64" in caplog.text
    assert again == []
    assert same(QUOTE, only_new, new)
    assert found["bid"].tolist() == [*map(float, old["bid"]), *new["bid"]]
    assert found["ask"].tolist() == [*old["ask"], *new["ask"]]


def test_table_with_another_sorting_key_is_set_aside(with_client, caplog):
    async def work(client):
        database = client.server.database
        await client.command(f"CREATE DATABASE {database}")
        ordered = TRADES_BEFORE.replace("ORDER BY (exchange, instrument, epoch, nth)", "ORDER BY (ts_recv_ns)")
        await client.command(ordered.format(database=database))
        old = rows_of(TRADE, 30)
        await fill(client, TRADE, old)
        run = await ensure_schema(client, [TRADE], SchemaOptions(database=database))
        await client.command(re.findall(r"To bring the rows over: (.+)", caplog.text)[0])
        return run, await stored(client, TRADE), old

    run, found, old = with_client(work)
    assert run[0].startswith("RENAME TABLE")
    assert "it is sorted by (ts_recv_ns), declared is exchange, instrument, epoch, nth" in caplog.text
    assert same(TRADE, found, old)


def test_table_of_a_foreign_engine_that_does_not_fit_is_left_alone_with_a_named_error(with_client):
    async def work(client):
        database = client.server.database
        await client.command(f"CREATE DATABASE {database}")
        columns = ", ".join(f"{name} {type_name}" for name, type_name, _ in QUOTE.columns() if name != "bid")
        await client.command(f"CREATE TABLE {database}.quotes ({columns}, bid String) ENGINE = Log")
        with pytest.raises(SchemaConflict, match=r"'bid' is String.*engine is Log.*run RENAME TABLE.*INSERT INTO"):
            await ensure_schema(client, [QUOTE], SchemaOptions(database=database))
        return await client.rows(f"SELECT name FROM system.tables WHERE database = '{database}'")

    assert with_client(work) == [("quotes",)]


def test_table_that_a_person_sorted_more_finely_is_kept(with_client):
    async def work(client):
        database = client.server.database
        await client.command(f"CREATE DATABASE {database}")
        finer = TRADES_BEFORE.replace("epoch, nth)", "epoch, nth, ts_recv_ns)")
        await client.command(finer.format(database=database))
        return await ensure_schema(client, [TRADE], SchemaOptions(database=database))

    assert with_client(work) == []
