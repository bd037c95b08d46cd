"""The views under MarketPrism's names, queried on the real engine."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest

from tickring.codecs.record import Flag
from tickring.codecs.records import BOOK_TOP, FUNDING, LIQUIDATION, OPEN_INTEREST, QUOTE, TRADE
from tickring.ringbuf import Key
from tickring.storage.client import quote_name
from tickring.storage.native import column_names, encode_block
from tickring.storage.schema import SchemaOptions, ensure_schema, qualified_table
from tickring.storage.views import ensure_views

from .processes import key_attributes

KEYS = {0: Key(0, "binance.S0-USDT", key_attributes(0))}
DAY_NS = 86_400 * 10**9
NOW_NS = time.time_ns() // 10**6 * 10**6
COMMON = ["timestamp", "exchange", "market_type", "symbol"]


@pytest.fixture
def view_database(server):
    return f"{server.database}_hot"


def filled(record, *, ts_recv_ns=NOW_NS, flags=0, **values):
    made = np.zeros(1, record.dtype)
    made["ts_recv_ns"], made["ts_event_ns"], made["flags"] = ts_recv_ns, ts_recv_ns - 5 * 10**6, int(flags)
    for name, value in values.items():
        if isinstance(value, list):
            made[name][0, : len(value)] = value
        else:
            made[name] = value
    return made


async def fill(client, record, *rows):
    for nth, rows_ in enumerate(rows):
        rows_["nth"] = nth
        await client.insert(
            qualified_table(client.server.database, record), column_names(record),
            encode_block(record, rows_, KEYS, 1), f"{record.name}-{nth}",
        )  # fmt: skip


async def select(client, database, view):
    """All rows as dicts, every column by its name."""
    answer = await client.fetch(
        f"SELECT * FROM {quote_name(database)}.{view} ORDER BY timestamp", fmt="JSONEachRow",
        settings={"output_format_json_quote_64bit_integers": 0},
    )  # fmt: skip
    return [msgspec.json.decode(line) for line in answer.splitlines()]


def query(with_client, database, records, rows, view, days=0):
    async def work(client):
        await ensure_schema(client, records, SchemaOptions(database=client.server.database))
        for record in records:
            await fill(client, record, *(one for of, one in rows if of is record))
        await ensure_views(client, records, client.server.database, {database: days})
        return await select(client, database, view)

    return with_client(work)


def stamp(ts_ns):
    seconds, millis = divmod(ts_ns // 10**6, 1000)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds)) + f".{millis:03d}"


def test_trades_have_the_columns_that_queries_know(with_client, view_database):
    rows = [(TRADE, filled(TRADE, trade_id=7, price=67000.1, quantity=0.5, flags=Flag.SELL))]
    (found,) = query(with_client, view_database, [TRADE], rows, "trades")
    at = stamp(NOW_NS - 5 * 10**6)
    assert found == {
        "timestamp": at, "exchange": "binance", "market_type": "spot", "symbol": "S0-USDT", "trade_id": "7",
        "price": 67000.1, "quantity": 0.5, "side": "sell", "is_maker": 1, "trade_time": at,
    }  # fmt: skip


def test_orderbooks_come_from_the_best_levels(with_client, view_database):
    rows = [
        (QUOTE, filled(QUOTE, bid=1.0, ask=2.0)),
        (BOOK_TOP, filled(
            BOOK_TOP, update_id=9, bids_count=2, asks_count=1, bid_price=[10.5, 10.25], bid_qty=[1.5, 2.0],
            ask_price=[10.75], ask_qty=[1e-8],
        )),
    ]  # fmt: skip
    (found,) = query(with_client, view_database, [QUOTE, BOOK_TOP], rows, "orderbooks")
    assert list(found)[:4] == COMMON
    assert list(found.values())[4:] == [
        9, 2, 1, 10.5, 10.75, 1.5, 1e-8, '[["10.5","1.5"],["10.25","2"]]', '[["10.75","1e-8"]]',
    ]  # fmt: skip


def test_orderbooks_come_from_quotes_where_no_levels_are_stored(with_client, view_database):
    rows = [(QUOTE, filled(QUOTE, bid=10.5, bid_qty=1.5, ask=10.75, ask_qty=2.0))]
    (found,) = query(with_client, view_database, [QUOTE], rows, "orderbooks")
    assert list(found.values())[4:] == [0, 1, 1, 10.5, 10.75, 1.5, 2.0, '[["10.5","1.5"]]', '[["10.75","2"]]']


def test_funding_rates_have_the_time_of_the_payment(with_client, view_database):
    coming = NOW_NS // 10**6 + 3_600_000
    rows = [
        (FUNDING, filled(FUNDING, rate=0.0001, next_funding_ts=coming, mark_price=10.5)),
        (FUNDING, filled(FUNDING, rate=-2e-5, next_funding_ts=coming, flags=Flag.SETTLED, ts_recv_ns=NOW_NS + 10**9)),
    ]
    found = query(with_client, view_database, [FUNDING], rows, "funding_rates")
    assert list(found[0]) == [
        *COMMON, "funding_rate", "funding_time", "next_funding_time", "mark_price", "index_price",
    ]  # fmt: skip
    assert [one["funding_rate"] for one in found] == [0.0001, -2e-5]
    assert [one["funding_time"] for one in found] == [stamp(coming * 10**6), found[1]["timestamp"]]
    assert [one["next_funding_time"] for one in found] == [stamp(coming * 10**6)] * 2
    assert [(one["mark_price"], one["index_price"]) for one in found] == [(10.5, None), (None, None)]


def test_open_interests_and_liquidations_have_the_columns_that_queries_know(with_client, view_database):
    records = [OPEN_INTEREST, LIQUIDATION]
    rows = [
        (OPEN_INTEREST, filled(OPEN_INTEREST, open_interest=1234.5)),
        (LIQUIDATION, filled(LIQUIDATION, price=10.5, quantity=3.0)),
    ]

    async def work(client):
        await ensure_schema(client, records, SchemaOptions(database=client.server.database))
        for record, one in rows:
            await fill(client, record, one)
        await ensure_views(client, records, client.server.database, {view_database: 0})
        return [await select(client, view_database, view) for view in ("open_interests", "liquidations")]

    (interest,), (liquidation,) = with_client(work)
    assert (interest["open_interest"], interest["open_interest_value"]) == (1234.5, None)
    assert list(liquidation) == [*COMMON, "side", "price", "quantity", "liquidation_time"]
    assert (liquidation["side"], liquidation["liquidation_time"]) == ("buy", liquidation["timestamp"])


def test_hot_view_shows_its_days_and_a_changed_number_of_them(with_client, view_database):
    rows = [filled(TRADE, trade_id=days, ts_recv_ns=NOW_NS - days * DAY_NS) for days in (10, 2, 0)]

    async def work(client):
        database = client.server.database
        await ensure_schema(client, [TRADE], SchemaOptions(database=database))
        await fill(client, TRADE, *rows)
        seen = []
        for days in (3, 1, 1, 0):
            run = await ensure_views(client, [TRADE], database, {view_database: days})
            seen.append((len(run), [one["trade_id"] for one in await select(client, view_database, "trades")]))
        return seen

    assert with_client(work) == [(2, ["2", "0"]), (1, ["0"]), (0, ["0"]), (1, ["10", "2", "0"])]


def test_view_of_records_that_are_not_stored_is_not_made(with_client, view_database):
    async def work(client):
        await ensure_schema(client, [TRADE], SchemaOptions(database=client.server.database))
        await ensure_views(client, [TRADE], client.server.database, {view_database: 0})
        return await client.rows(f"SELECT name FROM system.tables WHERE database = '{view_database}'")

    assert with_client(work) == [("trades",)]


def test_view_leaves_a_table_or_view_of_somebody_else_alone(with_client, view_database, caplog):
    async def work(client):
        records = [TRADE, LIQUIDATION]
        await ensure_schema(client, records, SchemaOptions(database=client.server.database))
        await client.command(f"CREATE DATABASE {view_database}")
        await client.command(f"CREATE TABLE {view_database}.trades (x UInt8) ENGINE = Memory")
        await client.command(f"CREATE VIEW {view_database}.liquidations AS SELECT 42 AS x")
        run = await ensure_views(client, records, client.server.database, {view_database: 0})
        return run, await select_all(client)

    async def select_all(client):
        return await client.rows(f"SELECT x FROM {view_database}.liquidations")

    assert with_client(work) == ([], [(42,)])
    assert f"view={view_database}.trades not made: there is a Memory of that name already" in caplog.text
