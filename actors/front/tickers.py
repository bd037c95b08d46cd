"""Best bid and ask, and the ticker: these with the last price and the figures of the last 24 hours.

Where the exchange sends a ticker, its record has the 24 hours. Elsewhere they are worked out of the trades in memory
and in ClickHouse, and kept for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

import numpy as np

from ...codecs.numbers import decimal_text
from ...codecs.record import PRICE, QUANTITY, RATE, Field
from ...codecs.records import QUOTE, TICKER, TRADE
from ..catalog import Source
from .endpoints import Answer, Answerer, Arguments, Endpoint, Enveloped
from .envelope import members
from .errors import NotFound
from .folding import DAY_NS, Fold, fold_trades
from .resolve import DECIMALS, TIME
from .rows import Options, RowRenderer, decimal_of, row_schema
from .shapes import PAIR_SCHEMA, TEXT, VALUE_METADATA, key_metadata, key_text, options_of
from .state import FrontState
from .values import PATH, latest_value

DAY_FIELDS = (
    "last", "open_24h", "high_24h", "low_24h", "volume_24h", "quote_volume_24h", "change_pct", "trade_count_24h",
)  # fmt: skip
_FIELDS: dict[str, Field] = {field.name: field for field in TICKER.fields}
assert set(DAY_FIELDS) <= _FIELDS.keys()


def ticker_schema() -> dict[str, Any]:
    """A quote, and the members of the last 24 hours; these are null while they are not known."""
    quote = row_schema(QUOTE, **PAIR_SCHEMA)
    day = {
        name: {"type": ["string", "number", "null"], "description": _FIELDS[name].doc}
        for name in DAY_FIELDS
    }  # fmt: skip
    optional = {name: {**schema, "type": ["string", "number", "null"]} for name, schema in quote["properties"].items()
                if name in ("bid", "bid_qty", "ask", "ask_qty")}  # fmt: skip
    source = {"enum": ["ticker", "trades"], "description": "where the last 24 hours come from"}
    properties = {**quote["properties"], **optional, **day, "source_24h": source}
    return {**quote, "properties": properties, "required": [*quote["required"], *day, "source_24h"]}


def ticker_endpoints(state: FrontState) -> list[Endpoint]:
    def quoted(arguments: Arguments) -> Answerer:
        source = state.source(QUOTE, arguments)
        renderer = RowRenderer(QUOTE, source.key.attributes, options_of(arguments))
        return latest_value(state, source, arguments["symbol"], renderer.row)

    def tickered(arguments: Arguments) -> Answerer:
        return current_ticker(state, arguments)

    common: dict[str, Any] = {"metadata": {**VALUE_METADATA, "note": TEXT}, "errors": (400, 404)}
    return [
        Endpoint(
            "/api/v1/ticker/{exchange}/{symbol}", tickered, "Best bid and ask, the last price and the last 24 hours",
            (*PATH, DECIMALS, TIME), data=ticker_schema(), **common,
        ),
        Endpoint(
            "/api/v1/quote/{exchange}/{symbol}", quoted, "Best bid and ask now", (*PATH, DECIMALS, TIME),
            data=row_schema(QUOTE, **PAIR_SCHEMA), **common,
        ),
    ]  # fmt: skip


def day_text(values: dict[str, float | None], source: Source, options: Options, origin: str) -> bytes:
    """The members of the last 24 hours, as JSON with a comma in front."""
    parts = []
    for name in DAY_FIELDS:
        value, kind = values.get(name), _FIELDS[name].kind
        if value is None:
            parts.append(f',"{name}":null')
        elif kind in (PRICE, QUANTITY, RATE):
            formatter = decimal_of(kind, source.key.attributes)
            assert formatter is not None
            text = decimal_text(round(value, 3), 0) if kind is RATE else formatter(value)
            parts.append(f',"{name}":"{text}"' if options.decimals == "string" else f',"{name}":{text}')
        else:
            parts.append(f',"{name}":{int(value)}')
    return ("".join(parts) + f',"source_24h":"{origin}"').encode()


def current_ticker(state: FrontState, arguments: Arguments) -> Answerer:
    options = options_of(arguments)
    try:
        source = state.source(QUOTE, arguments)
    except NotFound:
        return _ticker_alone(state, arguments)
    renderer = RowRenderer(QUOTE, source.key.attributes, options)
    ticker = state.catalog.find_instrument(TICKER.name, source.exchange, source.instrument)
    trades = state.catalog.find_instrument(TRADE.name, source.exchange, source.instrument)

    def sent(row: np.void) -> bytes:
        """With the ticker that the exchange sends, and a later trade's price."""
        assert ticker is not None
        day = ticker.reader.latest(ticker.key_id)
        values: dict[str, float | None] = {} if day is None else {name: day[name].item() for name in DAY_FIELDS}
        if trades is not None and (last := trades.reader.latest(trades.key_id)) is not None:
            values["last"] = last["price"].item()
        return renderer.row(row) + day_text(values, source, options, "ticker")

    if ticker is not None and ticker.reader.count(ticker.key_id):
        return latest_value(state, source, arguments["symbol"], sent, (ticker, trades))

    def render(row: np.void, fold: Fold | None) -> bytes:
        values = {} if fold is None else fold.day_values()
        if trades is not None and (last := trades.reader.latest(trades.key_id)) is not None:
            values["last"] = last["price"].item()
        return renderer.row(row) + day_text(values, source, options, "trades")

    bare = latest_value(state, source, arguments["symbol"], lambda row: render(row, None))
    if trades is None:
        return bare
    identity = ("ticker", source.exchange, source.instrument)

    def answer() -> Answer | Awaitable[Answer]:
        bare()  # says that there is nothing yet
        kept = state.aggregates.fresh(identity)
        return told(*kept) if kept is not None else working_out()

    async def working_out() -> Answer:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(state.config.history_hint_timeout_s):
                made = await state.aggregates.get(identity, lambda: fold_trades(state, trades, DAY_NS))
            if made is not None:
                return told(*made)
        return bare()  # what memory holds does not wait; the next one gets the rest

    def told(fold: Fold, age_s: float) -> Answer:
        row = source.reader.latest(source.key_id)
        if row is None:
            return bare()
        metadata = {**key_metadata(source, arguments["symbol"]), "data_source": "memory"}
        metadata["state"] = "live" if int(row["ts_recv_ns"]) >= source.reader.live_since_ns else "stale"
        if fold.note:
            metadata["note"] = fold.note
        body = members(b"{" + key_text(source, source.symbol) + render(row, fold) + b"}", metadata=metadata)
        return Enveloped(body, headers=state.cache_headers(age_s))

    return answer


def _ticker_alone(state: FrontState, arguments: Arguments) -> Answerer:
    """Where the exchange sends a ticker and no quotes."""
    options = options_of(arguments)
    source = state.source(TICKER, arguments)
    renderer = RowRenderer(TICKER, source.key.attributes, options)
    no_sizes = b',"bid_qty":null,"ask_qty":null,"source_24h":"ticker"'

    def render(row: np.void) -> bytes:
        sides = "".join(f',"{side}":null' for side in ("bid", "ask") if not row[side])
        return renderer.row(row) + sides.encode() + no_sizes

    return latest_value(state, source, arguments["symbol"], render)
