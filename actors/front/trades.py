"""Trades: the newest of a key, and merged ranges."""

from __future__ import annotations

from typing import Any

from ...codecs.record import Flag
from ...codecs.records import TRADE
from .endpoints import Answerer, Arguments, Endpoint
from .paging import LIMIT, RANGE_PARAMS
from .ranges import Form, newest_rows, rows_in_range
from .resolve import DECIMALS, EXCHANGE_QUERY, MARKET_TYPE, SYMBOL_PATH, SYMBOL_QUERY, TIME
from .rows import Alias
from .shapes import METADATA_SCHEMA
from .state import FrontState

# Further names of members; agg_trade_id stands only where the record is an aggregate.
ALIASES = {"amount": Alias("quantity"), "agg_trade_id": Alias("trade_id", Flag.AGGREGATED)}
TRADES = Form(TRADE, ALIASES)
WHERE = (EXCHANGE_QUERY, MARKET_TYPE)
WRITING = (DECIMALS, TIME)


def trade_endpoints(state: FrontState) -> list[Endpoint]:
    def newest(arguments: Arguments) -> Answerer:
        return newest_rows(state, TRADES, arguments)

    def ranged(arguments: Arguments) -> Answerer:
        return rows_in_range(state, TRADES, arguments)

    common: dict[str, Any] = {
        "data": {"type": "array", "items": TRADES.schema()}, "metadata": METADATA_SCHEMA, "errors": (400, 404),
    }  # fmt: skip
    return [
        Endpoint(
            "/api/v1/trades/latest", newest, "The newest trades, newest first",
            (SYMBOL_QUERY, *WHERE, LIMIT, *WRITING), **common,
        ),
        Endpoint(
            "/api/v1/trades", ranged, "Trades of a range, newest first",
            (SYMBOL_QUERY, *WHERE, *RANGE_PARAMS, *WRITING), **common,
        ),
        Endpoint(
            "/api/v1/trades/{symbol}", ranged, "Trades of a range, newest first",
            (SYMBOL_PATH, *WHERE, *RANGE_PARAMS, *WRITING), **common,
        ),
    ]  # fmt: skip
