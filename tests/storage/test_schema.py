"""Tables made, kept up and refused, on the real engine."""

from __future__ import annotations

import pytest

from tickring.codecs.record import Field, RecordType
from tickring.codecs.records import MARKET_RECORDS, PRICE, QUANTITY, QUOTE, TRADE, UPDATE_ID
from tickring.storage.errors import SchemaConflict
from tickring.storage.schema import SchemaOptions, create_table, ensure_schema


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
    ddl = create_table(TRADE, SchemaOptions(engine="ReplicatedMergeTree", retention_days={"trade": 0}))
    assert "ENGINE = ReplicatedMergeTree\n" in ddl
    assert "replicated_deduplication_window = 10000" in ddl
    assert "TTL" not in ddl


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


def test_schema_with_a_column_of_another_type_says_what_to_do(with_client):
    async def work(client):
        await ensure_schema(client, [QUOTE], options(client))
        await ensure_schema(client, [variant(Field("bid", UPDATE_ID, "x"), *QUOTE.fields[1:])], options(client))

    with pytest.raises(
        SchemaConflict, match=r"'bid' is Float64.*declares Int64.*RENAME TABLE.*MODIFY COLUMN `bid` Int64"
    ):
        with_client(work)


def test_schema_with_a_field_given_up_says_what_to_do(with_client):
    async def work(client):
        await ensure_schema(client, [QUOTE], options(client))
        await ensure_schema(client, [variant(*QUOTE.fields[:3])], options(client))

    with pytest.raises(SchemaConflict, match=r"no longer declares ask_qty: ALTER TABLE .* DROP COLUMN `ask_qty`"):
        with_client(work)


def test_schema_leaves_columns_with_a_default_of_a_persons_own(with_client):
    async def work(client):
        await ensure_schema(client, [QUOTE], options(client))
        await client.command(
            f"ALTER TABLE {client.server.database}.quotes ADD COLUMN mid Float64 MATERIALIZED (bid + ask) / 2"
        )
        return await ensure_schema(client, [QUOTE], options(client))

    assert with_client(work) == []


def test_kinds_of_the_catalogue_have_a_codec():
    ddl = create_table(variant(Field("a", PRICE, "p"), Field("b", QUANTITY, "it's", length=3)), SchemaOptions())
    assert "`a` Float64 COMMENT 'p' CODEC(ZSTD(1))" in ddl
    assert r"`b` Array(Float64) COMMENT 'it\'s' CODEC(ZSTD(1))" in ddl
