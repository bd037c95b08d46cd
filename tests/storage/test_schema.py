"""Tables made, kept up and refused, on the real engine."""

from __future__ import annotations

import asyncio
import time

import pytest

from tickring.codecs.record import Field, RecordType
from tickring.codecs.records import FUNDING, KLINE, MARKET_RECORDS, PRICE, QUANTITY, QUOTE, TRADE
from tickring.storage.schema import SchemaOptions, create_table, ensure_schema, table_spec


def options(client, **more):
    return SchemaOptions(database=client.server.database, **more)


async def engine_of(client, table):
    rows = await client.rows(
        "SELECT engine_full FROM system.tables WHERE database = {d:String} AND name = {t:String}",
        {"d": client.server.database, "t": table},
    )
    return rows[0][0]


def test_schema_on_an_empty_server_makes_every_table_and_the_second_time_nothing(with_client):
    async def work(client):
        first = await ensure_schema(client, MARKET_RECORDS, options(client))
        second = await ensure_schema(client, MARKET_RECORDS, options(client))
        columns = await client.rows(
            "SELECT name, type, comment FROM system.columns "
            "WHERE database = {d:String} AND table = 'trades' ORDER BY position",
            {"d": client.server.database},
        )
        return first, second, columns

    first, second, columns = with_client(work)
    assert len(first) == 1 + len(MARKET_RECORDS)
    assert second == []
    assert columns == TRADE.columns()


def test_schema_remembers_tokens_and_drops_expired_days_whole(with_client):
    async def work(client):
        await ensure_schema(client, [TRADE], options(client))
        return await engine_of(client, "trades")

    definition = with_client(work)
    assert "non_replicated_deduplication_window = 10000" in definition
    assert "ttl_only_drop_parts = 1" in definition
    assert "TTL toDateTime(ts_recv_ns) + toIntervalDay(90)" in definition
    assert "PARTITION BY toYYYYMMDD(ts_recv_ns) ORDER BY (exchange, instrument, epoch, nth)" in definition


def test_schema_of_a_cluster_names_its_engine_and_window():
    options = SchemaOptions(engine="ReplicatedMergeTree", retention_days={"trade": 0})
    ddl = create_table(table_spec(TRADE, options), options)
    assert "ENGINE = ReplicatedMergeTree\n" in ddl
    assert "replicated_deduplication_window = 10000" in ddl
    assert "TTL" not in ddl


def test_schema_of_few_rows_that_are_kept_long_has_monthly_partitions(with_client):
    async def work(client):
        await ensure_schema(client, [FUNDING], options(client, retention_days={"funding": 3}))
        return await engine_of(client, "fundings")

    definition = with_client(work)
    assert "PARTITION BY toYYYYMM(ts_recv_ns)" in definition
    assert "toIntervalDay(3)" in definition


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "interval = '15m', 180, interval = '30m', 365, interval = '1h', 365, interval = '2h', 730, interval = "),
        ({"kline": 10}, "toIntervalDay(10)"),
        ({"kline": 0, "kline.1m": 7}, "multiIf(interval = '1m', 7, 20000)"),
        ({"kline": 0}, None),
    ],
)  # fmt: skip
def test_schema_of_bars_keeps_each_interval_for_its_own_time(with_client, chosen, expected):
    async def work(client):
        chosen_options = options(client, retention_days=chosen)
        await ensure_schema(client, [KLINE], chosen_options)
        assert await ensure_schema(client, [KLINE], chosen_options) == []
        back = await ensure_schema(client, [KLINE], options(client))
        assert await ensure_schema(client, [KLINE], options(client)) == []
        assert len(back) == bool(chosen)
        await ensure_schema(client, [KLINE], chosen_options)
        return await engine_of(client, "klines")

    definition = with_client(work)
    assert "ORDER BY (exchange, instrument, interval, epoch, nth)" in definition
    assert "ttl_only_drop_parts = 0" in definition
    assert (expected in definition) if expected else (" TTL " not in definition)


@pytest.mark.parametrize(("before", "after", "kept"), [(90, 7, 1), (90, 0, 2), (0, 7, 1), (31, 90, 2)])
def test_schema_changes_the_retention_of_rows_that_are_there(with_client, before, after, kept):
    async def work(client):
        table = f"{client.server.database}.trades"
        await ensure_schema(client, [TRADE], options(client, retention_days={"trade": before}))
        for days in (1, 30):
            await client.command(f"INSERT INTO {table} (ts_recv_ns) SELECT now64(9) - toIntervalDay({days})")
        await ensure_schema(client, [TRADE], options(client, retention_days={"trade": after}))
        await client.command(f"OPTIMIZE TABLE {table}")  # what has expired goes with a merge, some time
        until = time.monotonic() + 30
        while time.monotonic() < until:
            rows = (await client.rows(f"SELECT count() FROM {table}"))[0][0]
            expiries = await client.rows(
                "SELECT min(dateDiff('day', min_time, delete_ttl_info_min)) FROM system.parts "
                "WHERE active AND database = {d:String} AND rows", {"d": client.server.database},
            )  # fmt: skip
            if rows == kept and (not after or expiries[0][0] >= after - 1):
                break
            await asyncio.sleep(0.05)
        return rows, expiries[0][0]

    rows, expiry = with_client(work)
    assert rows == kept
    assert not after or expiry in (after - 1, after, after + 1)


@pytest.mark.parametrize(("before", "after"), [(90, 7), (90, 0), (0, 30)])
def test_schema_follows_a_changed_retention(with_client, before, after):
    async def work(client):
        await ensure_schema(client, [TRADE], options(client, retention_days={"trade": before}))
        changed = await ensure_schema(client, [TRADE], options(client, retention_days={"trade": after}))
        again = await ensure_schema(client, [TRADE], options(client, retention_days={"trade": after}))
        return changed, again, await engine_of(client, "trades")

    changed, again, definition = with_client(work)
    assert len(changed) == 1
    assert again == []
    assert (f"toIntervalDay({after})" in definition) == bool(after)
    assert ("TTL" in definition) == bool(after)


def test_schema_leaves_a_retention_that_a_person_wrote(with_client):
    async def work(client):
        await ensure_schema(client, [TRADE], options(client))
        own = "toDateTime(ts_recv_ns) + toIntervalMonth(2)"
        await client.command(f"ALTER TABLE {client.server.database}.trades MODIFY TTL {own}")
        assert await ensure_schema(client, [TRADE], options(client, retention_days={"trade": 3})) == []
        return await engine_of(client, "trades")

    assert "toIntervalMonth(2)" in with_client(work)


def test_schema_gives_a_table_made_by_hand_its_deduplication_window(with_client):
    async def work(client):
        database = client.server.database
        await client.command(f"CREATE DATABASE {database}")
        columns = ", ".join(f"{name} {type_name}" for name, type_name, _ in QUOTE.columns())
        await client.command(
            f"CREATE TABLE {database}.quotes ({columns}) ENGINE = MergeTree ORDER BY (exchange, instrument, epoch, nth)"
        )
        await ensure_schema(client, [QUOTE], options(client, retention_days={"quote": 0}))
        return await engine_of(client, "quotes")

    assert "non_replicated_deduplication_window = 10000" in with_client(work)


def variant(*fields):
    return RecordType("quote", "Best bid and ask, at each change.", list(fields), tail=4)


def test_schema_leaves_columns_with_a_default_of_a_persons_own(with_client):
    async def work(client):
        await ensure_schema(client, [QUOTE], options(client))
        await client.command(
            f"ALTER TABLE {client.server.database}.quotes ADD COLUMN mid Float64 MATERIALIZED (bid + ask) / 2"
        )
        return await ensure_schema(client, [QUOTE], options(client))

    assert with_client(work) == []


def test_kinds_of_the_catalogue_have_a_codec():
    record = variant(Field("a", PRICE, "p"), Field("b", QUANTITY, "it's", length=3))
    ddl = create_table(table_spec(record, SchemaOptions()), SchemaOptions())
    assert "`a` Float64 COMMENT 'p' CODEC(Delta(8), ZSTD(1))" in ddl
    assert r"`b` Array(Float64) COMMENT 'it\'s' CODEC(ZSTD(1))" in ddl
