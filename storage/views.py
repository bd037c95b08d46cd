"""Views under the table and column names that MarketPrism had, for queries and dashboards that know those.

They lie in databases of their own (there: `marketprism_hot`, `marketprism_cold`), each with its number of days, and
read our tables. A view carries a mark in its comment; what stands under the same name without it is somebody else's and
is left alone.

`timestamp` is the exchange's time (ours where it sends none) in milliseconds. Prices and quantities are Float64 as in
our tables; what a record leaves out (0) is NULL.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..codecs.record import Flag, RecordType
from .client import Client, quote_name, quote_text
from .schema import DDL_TIMEOUT_S, EVENT_TIME, qualified_table

log = logging.getLogger("tickring.storage.views")

MARK = "tickring view "
_TIME = f"toDateTime64({EVENT_TIME}, 3, 'UTC')"
_SIDE = f"if(bitAnd(flags, {int(Flag.SELL)}) != 0, 'sell', 'buy')"
_COMMON = f"{_TIME} AS timestamp, exchange, market_type, symbol"


def _side_of_book(side: str) -> str:
    """JSON text ``[["67000.1","0.5"],...]``, best first."""
    used = ", ".join(f"arraySlice({side}_{what}, 1, {side}s_count)" for what in ("price", "qty"))
    return f"toJSONString(arrayMap((p, q) -> [toString(p), toString(q)], {used}))"


@dataclass(frozen=True)
class View:
    """One view: its name, the record types it can be made of (the first that is stored), and its columns of each."""

    name: str
    sources: Mapping[str, str]


VIEWS = (
    View("trades", {
        "trade": f"toString(trade_id) AS trade_id, price, quantity, {_SIDE} AS side, "
                 f"bitAnd(flags, {int(Flag.SELL)}) != 0 AS is_maker, {_TIME} AS trade_time",
    }),
    View("orderbooks", {
        "book_top": "update_id AS last_update_id, bids_count, asks_count, "
                    "bid_price[1] AS best_bid_price, ask_price[1] AS best_ask_price, "
                    "bid_qty[1] AS best_bid_quantity, ask_qty[1] AS best_ask_quantity, "
                    f"{_side_of_book('bid')} AS bids, {_side_of_book('ask')} AS asks",
        "quote": "toInt64(0) AS last_update_id, toUInt32(1) AS bids_count, toUInt32(1) AS asks_count, "
                 "bid AS best_bid_price, ask AS best_ask_price, bid_qty AS best_bid_quantity, "
                 "ask_qty AS best_ask_quantity, toJSONString([[toString(bid), toString(bid_qty)]]) AS bids, "
                 "toJSONString([[toString(ask), toString(ask_qty)]]) AS asks",
    }),
    # The time of a rate is that of its payment.
    View("funding_rates", {
        "funding": "rate AS funding_rate, "
                   f"if(bitAnd(flags, {int(Flag.SETTLED)}) != 0, {_TIME}, next_funding_ts) AS funding_time, "
                   "next_funding_ts AS next_funding_time, nullIf(mark_price, 0) AS mark_price, "
                   "nullIf(index_price, 0) AS index_price",
    }),
    View("open_interests", {
        "open_interest": "open_interest, nullIf(usd_value, 0) AS open_interest_value",
    }),
    View("liquidations", {
        "liquidation": f"{_SIDE} AS side, price, quantity, {_TIME} AS liquidation_time",
    }),
)  # fmt: skip


def create_view(view: View, database: str, days: int, source: RecordType, source_database: str) -> str:
    """The statement that makes a view of the last `days` (0 = all) of a record type's table."""
    # A name in WHERE means the view's own column where both have it: the table's are asked for by their full name.
    where = f" WHERE t.ts_recv_ns >= now64(9, 'UTC') - toIntervalDay({days})" if days else ""
    select = (
        f"SELECT {_COMMON}, {view.sources[source.name]} FROM {qualified_table(source_database, source)} AS t{where}"
    )
    return marked(f"CREATE OR REPLACE VIEW {quote_name(database)}.{quote_name(view.name)} AS {select}")


async def ensure_views(
    client: Client, records: Collection[RecordType], source_database: str, databases: Mapping[str, int]
) -> list[str]:
    """Make the views of all record types that are stored; returns the statements that were run.

    Args:
        records: whose tables are there.
        source_database: where they are.
        databases: where the views go -> days they show, 0 = all.

    Raises:
        Unavailable, Refused
    """
    run: list[str] = []
    by_name = {record.name: record for record in records}
    for database, days in databases.items():
        wanted = {}
        for view in VIEWS:
            source = next((by_name[name] for name in view.sources if name in by_name), None)
            if source is not None:
                wanted[view.name] = create_view(view, database, days, source, source_database)
        run += await ensure_marked(client, database, wanted)
    return run


def marked(statement: str) -> str:
    """A CREATE statement of a view with our mark, by which its text is known again."""
    return f"{statement} COMMENT {quote_text(f'{MARK}{zlib.crc32(statement.encode()):08x}')}"


async def ensure_marked(client: Client, database: str, views: Mapping[str, str]) -> list[str]:
    """Make views that are not there, and replace ours that were made by another statement; returns what was run.

    Args:
        database: made if need be.
        views: name -> statement, see `marked`.

    Raises:
        Unavailable, Refused
    """
    there = {
        name: (engine, comment)
        for name, engine, comment in await client.rows(
            "SELECT name, engine, comment FROM system.tables WHERE database = {database:String}",
            {"database": database},
        )
    }
    run = [f"CREATE DATABASE IF NOT EXISTS {quote_name(database)}"] if not there else []
    for name, statement in views.items():
        engine, comment = there.get(name, ("View", MARK))
        if not engine.endswith("View") or not comment.startswith(MARK):
            log.warning("view=%s.%s not made: there is a %s of that name already", database, name, engine)
        elif not statement.endswith(quote_text(comment)):
            if engine == "MaterializedView" and name in there:
                run.append(f"DROP VIEW {quote_name(database)}.{quote_name(name)}")
            run.append(statement)
    for statement in run:
        await client.command(statement, DDL_TIMEOUT_S)
        log.info("clickhouse=%s ran=%s", client.url, statement[:300])
    return run
