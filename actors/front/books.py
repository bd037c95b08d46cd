"""Current values: order book, quote, ticker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...codecs.book import BookState
from ...codecs.record import RecordType
from ...codecs.records import BOOK_DEPTH, BOOK_TOP, QUOTE, TRADE
from .catalog import Source
from .endpoints import Answerer, Arguments, Endpoint
from .envelope import encode, members
from .errors import NotFound
from .params import integer
from .resolve import DECIMALS, EXCHANGE_PATH, MARKET_TYPE, SYMBOL_PATH, TIME
from .rows import HEADER_SCHEMA, Options, RowRenderer, levels_text, row_schema, time_text
from .state import FrontState, Kept
from .trades import KEY_SCHEMA, key_metadata, options_of

TOP_DEPTH = 20
DEPTH = integer("depth", 20, 1, 400, "Levels of each side.")
PATH = (EXCHANGE_PATH, SYMBOL_PATH, MARKET_TYPE)
PAIR_SCHEMA = {**KEY_SCHEMA, "symbol": {"type": "string", "description": "pair, BTC-USDT"}}
VALUE_METADATA: dict[str, Any] = {
    "symbol": {"type": "string"}, "instrument": {"type": "string"}, "exchange": {"type": "string"},
    "market_type": {"type": "string"}, "epoch": {"type": "string"},
    "state": {"enum": ["live", "stale"], "description": "stale: received before the producer last started"},
    "data_source": {"enum": ["memory"]},
}  # fmt: skip
LEVELS_SCHEMA: dict[str, Any] = {
    "type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": ["string", "number"]}},
    "description": "[price, quantity], best first",
}  # fmt: skip
BOOK_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **PAIR_SCHEMA, **HEADER_SCHEMA, "bids": LEVELS_SCHEMA, "asks": LEVELS_SCHEMA,
        "last_update_id": {"type": "integer"}, "update_type": {"enum": ["snapshot"]},
        "depth": {"type": "integer", "description": "levels asked for"},
        "state": {"enum": [state.name.lower() for state in BookState], "description": "trust in the book"},
    },
    "required": [
        *PAIR_SCHEMA, *HEADER_SCHEMA, "bids", "asks", "last_update_id", "update_type", "depth", "state",
    ],
}  # fmt: skip


def pair_members(source: Source) -> bytes:
    """What a current value says of its key, as JSON members with a comma behind."""
    shown = {
        "symbol": source.symbol, "exchange": source.exchange, "market_type": source.market_type,
        "instrument": source.instrument, "instrument_id": source.native,
    }  # fmt: skip
    return encode(shown)[1:-1] + b","


def book_endpoints(state: FrontState) -> list[Endpoint]:
    quote = row_schema(QUOTE, **PAIR_SCHEMA)
    last = {"type": ["string", "number", "null"], "description": "price of the last trade; null without one"}
    ticker = {**quote, "properties": {**quote["properties"], "last": last}, "required": [*quote["required"], "last"]}

    def orderbook(arguments: Arguments) -> Answerer:
        return current_book(state, arguments)

    def quoted(arguments: Arguments) -> Answerer:
        return current_quote(state, arguments, with_last=False)

    def tickered(arguments: Arguments) -> Answerer:
        return current_quote(state, arguments, with_last=True)

    common: dict[str, Any] = {"metadata": VALUE_METADATA, "errors": (400, 404)}
    return [
        Endpoint(
            "/api/v1/orderbook/{exchange}/{symbol}", orderbook, "The order book now",
            (*PATH, DEPTH, DECIMALS, TIME), data=BOOK_SCHEMA, **common,
        ),
        Endpoint(
            "/api/v1/ticker/{exchange}/{symbol}", tickered, "Best bid and ask and the last price now",
            (*PATH, DECIMALS, TIME), data=ticker, **common,
        ),
        Endpoint(
            "/api/v1/quote/{exchange}/{symbol}", quoted, "Best bid and ask now", (*PATH, DECIMALS, TIME),
            data=quote, **common,
        ),
    ]  # fmt: skip


def current_book(state: FrontState, arguments: Arguments) -> Answerer:
    depth: int = arguments["depth"]
    options = options_of(arguments)
    source = _book_source(state, arguments, depth)
    key = pair_members(source)
    show_time = time_text(options)

    def render(row: np.void) -> bytes:
        bids, asks = min(depth, int(row["bids_count"])), min(depth, int(row["asks_count"]))
        attributes = source.key.attributes
        book_state = BookState(int(row["state"])).name.lower()
        event, recv = int(row["ts_event_ns"]), int(row["ts_recv_ns"])
        bid = levels_text(row["bid_price"][:bids].tolist(), row["bid_qty"][:bids].tolist(), attributes, options)
        ask = levels_text(row["ask_price"][:asks].tolist(), row["ask_qty"][:asks].tolist(), attributes, options)
        return (
            f'"timestamp":{show_time(event or recv)},"bids":{bid},"asks":{ask},'
            f'"last_update_id":{int(row["update_id"])},"update_type":"snapshot","depth":{depth},'
            f'"state":"{book_state}","exchange_ts":{event // 1_000_000 or "null"},"recv_ts":{recv // 1_000_000},'
            f'"seq":{int(row["level_count"])}'
        ).encode()

    return _latest(state, source, arguments["symbol"], key, render)


def _book_source(state: FrontState, arguments: Arguments, depth: int) -> Source:
    """The record that holds enough levels, or the other one where it is not produced. Raises NotFound."""
    first, second = (BOOK_TOP, BOOK_DEPTH) if depth <= TOP_DEPTH else (BOOK_DEPTH, BOOK_TOP)
    try:
        source = state.source(first, arguments)
        if source.reader.count(source.key_id):
            return source
    except NotFound:
        return state.source(second, arguments)
    other = state.catalog.find_instrument(second.name, source.exchange, source.instrument)
    return other if other is not None and other.reader.count(other.key_id) else source


def current_quote(state: FrontState, arguments: Arguments, *, with_last: bool) -> Answerer:
    options = options_of(arguments)
    source = state.source(QUOTE, arguments)
    attributes = source.key.attributes
    renderer = RowRenderer(QUOTE, attributes, options)
    trades = state.catalog.find_instrument(TRADE.name, source.exchange, source.instrument) if with_last else None
    price = _last_price(TRADE, trades, options)

    def render(row: np.void) -> bytes:
        return renderer.row(row) + (price() if with_last else b"")

    return _latest(state, source, arguments["symbol"], pair_members(source), render, trades)


def _last_price(record: RecordType, source: Source | None, options: Options) -> Callable[[], bytes]:
    """The member `last` with a comma in front."""

    def nothing() -> bytes:
        return b',"last":null'

    if source is None:
        return nothing
    price = next(field for field in record.fields if field.name == "price")

    def last() -> bytes:
        row = source.reader.latest(source.key_id)
        if row is None:
            return nothing()
        text = price.kind.render(row["price"].item(), source.key.attributes)
        return f',"last":"{text}"'.encode() if options.decimals == "string" else f',"last":{text}'.encode()

    return last


def _latest(
    state: FrontState,
    source: Source,
    symbol: str,
    key: bytes,
    render: Callable[[np.void], bytes],
    also: Source | None = None,
) -> Answerer:
    """Answer with the newest record of a key; its text is kept until a newer one comes."""
    reader, key_id = source.reader, source.key_id
    metadata = {**key_metadata(source, {"symbol": symbol, **_names(source)}), "data_source": "memory"}
    kept = Kept(state)

    def answer() -> bytes:
        now = (reader.count(key_id), reader.live_since_ns, also.reader.count(also.key_id) if also is not None else 0)
        text = kept.get(now)
        if text is not None:
            return text
        row = reader.latest(key_id)
        if row is None:
            raise NotFound(
                f"{source.key.text}: no {reader.record.replace('_', ' ')} has come yet",
                details={"symbol": symbol, "instrument": source.instrument, "record": reader.record},
            )
        said = "live" if int(row["ts_recv_ns"]) >= reader.live_since_ns else "stale"
        return kept.put(now, members(b"{" + key + render(row) + b"}", metadata={**metadata, "state": said}))

    return answer


def _names(source: Source) -> dict[str, Any]:
    return {"instrument": source.instrument, "exchange": source.exchange, "market_type": source.market_type}
