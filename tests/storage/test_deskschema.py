"""The desk's tables and views on the real engine."""

from __future__ import annotations

import time
from decimal import Decimal

import msgspec
import numpy as np
import pytest

from tickring.codecs.desk.money import UNIT, amount_bytes
from tickring.codecs.desk.records import EVENT, NO_KEY, PNL, POSITION
from tickring.ringbuf import Key
from tickring.storage.deskbatch import RawEvents, topic_deriver
from tickring.storage.deskcurve import CURVE, CURVE_STATES
from tickring.storage.deskschema import DESK_TABLES, ensure_desk
from tickring.storage.native import column_names, encode_block
from tickring.storage.schema import SchemaOptions, create_table, qualified_table

HOUR_NS = 3600 * 10**9
# Names under which people query; `topic` and so on are ours and come beside them.
QUERIED = {
    "exec_reports": "event_id timestamp strategy_id account_id venue source version total_realized_pnl "
    "total_unrealized_pnl total_commission total_cost slippage market_impact execution_time_ms order_count fill_count "
    "metadata order_id client_order_id symbol side order_type order_status exec_type exec_id quantity price last_qty "
    "last_price cum_qty avg_price commission commission_asset realized_pnl unrealized_pnl position_qty position_side "
    "order_time trade_time",
    "fills": "fill_id trade_id order_id symbol side quantity price commission commission_asset timestamp strategy_id "
    "account_id venue",
    "orders": "order_id client_order_id symbol side type quantity price stop_price status filled_quantity "
    "remaining_quantity create_time update_time strategy_id account_id venue",
    "positions": "timestamp account_id strategy_id venue symbol quantity avg_price market_value unrealized_pnl "
    "realized_pnl side position_side",
    "risk_metrics": "event_id timestamp strategy_id account_id source version max_drawdown daily_pnl risk_score "
    "total_exposure max_position_size var_1d var_5d sharpe_ratio volatility daily_loss_limit max_positions "
    "current_positions position_concentration risk_metrics_detail correlation_matrix metadata portfolio_value "
    "cash_balance margin_balance total_pnl realized_pnl unrealized_pnl leverage num_positions position_limit "
    "loss_limit market_exposure var_95 var_99 expected_shortfall",
    "alerts": "event_id alert_id timestamp severity code alert_type title message description source strategy_id "
    "account_id symbol order_id auto_resolved resolution_action status acknowledged resolved threshold_value "
    "current_value context metrics metadata",
    "system_health": "event_id timestamp overall_status strategy_id total_cpu_usage total_memory_usage "
    "active_connections total_positions daily_trades daily_pnl market_data_delay_ms execution_delay_ms components "
    "websocket_connections metadata",
    "pnl_curve": "timestamp time_bucket interval_type strategy_id account_id symbol realized_pnl unrealized_pnl "
    "total_pnl cumulative_pnl trade_count commission volume drawdown var_1d",
    "strategy_performance": "event_id timestamp strategy_id strategy_name account_id total_trades winning_trades "
    "losing_trades win_rate total_pnl gross_profit gross_loss profit_factor avg_win avg_loss largest_win largest_loss "
    "sharpe_ratio sortino_ratio calmar_ratio max_drawdown max_drawdown_duration avg_hold_time avg_win_time "
    "avg_loss_time daily_returns monthly_returns symbol_distribution time_distribution max_capital_used "
    "avg_capital_used capital_efficiency",
    "risk_summary_mv": "hour_bucket strategy_id account_id max_risk_score avg_exposure max_positions min_daily_pnl "
    "max_daily_pnl",
}


def options(client, **more):
    return SchemaOptions(database=client.server.database, **more)


def test_tables_that_people_query_have_the_columns_they_know_and_are_made_once(with_client):
    async def work(client):
        first = await ensure_desk(client, options(client))
        second = await ensure_desk(client, options(client))
        columns = await client.rows(
            "SELECT table, groupArray((name, type)) FROM system.columns WHERE database = {d:String} GROUP BY table",
            {"d": client.server.database},
        )
        return first, second, {table: dict(of_table) for table, of_table in columns}

    first, second, columns = with_client(work)
    assert len(first) > len(DESK_TABLES)
    assert second == []
    for table, names in QUERIED.items():
        assert set(names.split()) <= columns[table].keys(), table
        if "timestamp" in columns[table]:
            assert columns[table]["timestamp"] == "DateTime64(3, 'UTC')", table
    money = [kind for of_table in columns.values() for name, kind in of_table.items() if name.endswith("_pnl")]
    assert set(money) <= {"Decimal(38, 8)", "Nullable(Decimal(38, 8))"}


@pytest.mark.parametrize(
    ("table", "days"),
    [("exec_reports", 365), ("fills", 365), ("orders", 365), ("risk_metrics", 182), ("alerts", 92),
     ("system_health", 31), ("strategy_performance", 365), ("raw_events", 365)],
)  # fmt: skip
def test_retention_of_a_table_is_its_default_or_the_chosen_one(table, days):
    spec = DESK_TABLES[table].spec
    assert spec(SchemaOptions()).ttl == f"toDateTime(ts_recv_ns) + toIntervalDay({days})"
    assert "toIntervalDay(9)" in spec(SchemaOptions(retention_days={table: 9})).ttl
    assert spec(SchemaOptions(retention_days={table: 0})).ttl == ""


def test_retention_of_the_others_is_changed_in_place(with_client):
    async def work(client):
        await ensure_desk(client, options(client))
        changed = await ensure_desk(client, options(client, retention_days={"fills": 30, CURVE: 10, "position": 7}))
        again = await ensure_desk(client, options(client, retention_days={"fills": 30, CURVE: 10, "position": 7}))
        return changed, again

    changed, again = with_client(work)
    assert sorted(s.split()[2].split(".")[1].strip("`") for s in changed) == ["fills", CURVE_STATES, "positions"]
    assert again == []


def test_one_fill_is_found_without_reading_the_others(with_client):
    async def work(client):
        await ensure_desk(client, options(client))
        table = f"{client.server.database}.fills"
        await client.command(
            f"INSERT INTO {table} (topic, partition, offset, item, ts_recv_ns, ts_event_ns, fill_id, order_id, "
            "account_id, timestamp) SELECT 'exec.reports.v1', 0, number, 0, now64(9), now64(9) - number % 7777, "
            "concat('f-', toString(number)), concat('o-', toString(number)), 'a', now64(3) FROM numbers(200000)"
        )
        found = {}
        for column, value in (("fill_id", "f-77777"), ("order_id", "o-123456")):
            rows = await client.rows(f"EXPLAIN indexes = 1 SELECT * FROM {table} WHERE {column} = '{value}'")
            granules = [row[0].split()[1] for row in rows if "Granules:" in row[0]]
            found[column] = tuple(map(int, granules[-1].split("/")))
            assert await client.rows(f"SELECT count() FROM {table} WHERE {column} = '{value}'") == [(1,)]
        return found

    for column, (read, granules) in with_client(work).items():
        assert granules > 20 and read <= 3, column


def test_tables_of_a_cluster_are_replicated_in_their_variant():
    chosen = SchemaOptions(engine="ReplicatedMergeTree('/t/{table}', '{replica}')")
    orders = create_table(DESK_TABLES["orders"].spec(chosen), chosen)
    assert "ENGINE = ReplicatedReplacingMergeTree('/t/{table}', '{replica}', ts_event_ns)" in orders
    assert "ORDER BY (account_id, venue, order_id)" in orders
    fills = create_table(DESK_TABLES["fills"].spec(SchemaOptions()), SchemaOptions())
    assert "ENGINE = MergeTree\n" in fills
    assert "ORDER BY (account_id, ts_event_ns, topic, partition, offset, item)" in fills
    assert "INDEX by_offset offset TYPE minmax" in fills


@pytest.mark.parametrize("newest_first", [False, True])
def test_newest_state_of_an_order_is_told_by_less_than_a_millisecond(with_client, newest_first):
    order = {"order_id": "1", "symbol": "SOLUSDT", "side": "BUY", "type": "LIMIT", "quantity": "2"}
    states = [("NEW", "27.4000001"), ("FILLED", "27.4000002")]
    values = [
        msgspec.json.encode({
            "event_id": status, "timestamp": "2025-03-04T09:15:28Z", "account_id": "a",
            "orders": [{**order, "status": status, "update_time": f"2025-03-04T09:15:{second}Z"}],
        })
        for status, second in (reversed(states) if newest_first else states)
    ]  # fmt: skip
    rows = np.zeros(len(values), EVENT.dtype)
    rows["offset"], rows["key_size"], rows["ts_recv_ns"] = np.arange(len(values)), NO_KEY, time.time_ns()

    async def work(client):
        await ensure_desk(client, options(client))
        table = f"{client.server.database}.orders"
        for n, value in enumerate(values):
            deriver = topic_deriver("exec.reports.v1", "default", "dipmaster")
            batch = deriver.batches(RawEvents("exec.reports.v1", "t", 7, n, rows[n : n + 1], [value]), {})[0]
            await client.insert(table, batch.head.columns, batch.block, batch.head.token)
        return await client.rows(
            f"SELECT status, toUnixTimestamp64Nano(ts_event_ns) % 1000000000, "
            f"toUnixTimestamp64Milli(update_time) % 1000 FROM {table} FINAL"
        )

    assert with_client(work) == [("FILLED", 400_000_200, 400)]


def samples(record, times, **values):
    rows = np.zeros(len(times), record.dtype)
    rows["nth"] = np.arange(len(times))
    rows["ts_recv_ns"] = rows["ts_event_ns"] = times
    for name, of_name in values.items():
        rows[name] = [amount_bytes(value * UNIT) for value in of_name] if rows[name].dtype.kind == "V" else of_name
    return rows


async def insert(client, record, rows, key, token):
    block = encode_block(record, rows, {0: Key(0, "k", key)}, 1)
    await client.insert(qualified_table(client.server.database, record), column_names(record), block, token)


def test_equity_curve_is_aggregated_as_it_arrives_and_counts_nothing_twice(with_client):
    start = time.time_ns() // HOUR_NS * HOUR_NS - 24 * HOUR_NS
    times = [start, start + 10**9, start + HOUR_NS // 2, start + HOUR_NS + 5, start + 5 * HOUR_NS]
    rows = samples(
        PNL, times, realized_pnl=[0, 1, 5, 4, 9], unrealized_pnl=[1, 1, 1, 2, 0], total_pnl=[1, 2, 6, 6, 9],
        peak_pnl=[1, 2, 7, 7, 9], fees=[0, 0, 1, 1, 2], volume=[10, 20, 30, 40, 50], fill_count=[1, 2, 3, 4, 7],
    )  # fmt: skip
    key = {"account_id": "a", "strategy_id": "ALL", "symbol": "ALL"}

    async def work(client):
        await ensure_desk(client, options(client))
        await insert(client, PNL, rows[3:], key, "later")  # in no order
        await insert(client, PNL, rows[:3], key, "first")
        await insert(client, PNL, rows[:3], key, "first")  # dropped
        await insert(client, PNL, rows[2:4], key, "again")  # and what is not changes nothing
        curve = await client.rows(
            "SELECT toUnixTimestamp(time_bucket), realized_pnl, unrealized_pnl, total_pnl, cumulative_pnl, "
            f"trade_count, commission, volume, drawdown, var_1d FROM {client.server.database}.{CURVE} "
            "WHERE interval_type = '1h' AND account_id = 'a' ORDER BY time_bucket"
        )
        buckets = await client.rows(
            f"SELECT interval_type, uniqExact(time_bucket) FROM {client.server.database}.{CURVE_STATES} GROUP BY 1"
        )
        return curve, dict(buckets)

    curve, buckets = with_client(work)
    hour = start // 10**9
    expected = [
        (hour, 5, 1, 6, 6, 3, 1, 30, 1, None),
        (hour + 3600, -1, 2, 0, 6, 1, 0, 10, 1, None),
        (hour + 5 * 3600, 5, 0, 3, 9, 3, 1, 10, 0, None),
    ]
    assert curve == [tuple(Decimal(v) if i > 0 and v is not None else v for i, v in enumerate(row)) for row in expected]
    assert buckets == {"1m": 4, "5m": 4, "15m": 4, "1h": 3, "1d": len({t // (24 * HOUR_NS) for t in times})}


def test_equity_curve_is_fed_by_the_table_that_took_the_place_of_another(with_client):
    key = {"account_id": "a", "strategy_id": "ALL", "symbol": "ALL"}

    async def work(client):
        await ensure_desk(client, options(client))
        table = qualified_table(client.server.database, PNL)
        await client.command(f"RENAME TABLE {table} TO {client.server.database}.aside")
        await ensure_desk(client, options(client))
        await insert(client, PNL, samples(PNL, [time.time_ns()], total_pnl=[3]), key, "t")
        return await client.rows(f"SELECT uniqExact(interval_type) FROM {client.server.database}.{CURVE}")

    assert with_client(work) == [(5,)]


def test_positions_have_side_and_time_as_people_query_them(with_client):
    now = time.time_ns()
    rows = samples(POSITION, [now, now + 1, now + 2], quantity=[3, -2, 0])
    key = {"account_id": "a", "strategy_id": "s", "venue": "binance", "symbol": "BTCUSDT"}

    async def work(client):
        await ensure_desk(client, options(client))
        await insert(client, POSITION, rows, key, "t")
        return await client.rows(
            "SELECT toUnixTimestamp64Milli(timestamp), quantity, side, position_side "
            f"FROM {client.server.database}.positions ORDER BY nth"
        )

    ms = now // 10**6
    assert with_client(work) == [
        (ms, Decimal(3), "LONG", "LONG"), ((now + 1) // 10**6, Decimal(-2), "SHORT", "SHORT"),
        ((now + 2) // 10**6, Decimal(0), "FLAT", "FLAT"),
    ]  # fmt: skip
