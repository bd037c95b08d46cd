"""The order book now: 1 to 400 levels of each side."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...codecs.book import BookState
from ...codecs.records import BOOK_DEPTH, BOOK_TOP
from ..catalog import Source
from .endpoints import Answerer, Arguments, Endpoint
from .errors import NotFound
from .params import integer
from .resolve import DECIMALS, TIME
from .rows import HEADER_SCHEMA, levels_text, time_text
from .shapes import PAIR_SCHEMA, VALUE_METADATA, options_of, schema_of
from .state import FrontState
from .values import PATH, latest_value

TOP_DEPTH = 20
DEPTH = integer("depth", 20, 1, 400, "Levels of each side.")
LEVELS_SCHEMA: dict[str, Any] = {
    "type": "array", "items": {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": ["string", "number"]}},
    "description": "[price, quantity], best first",
}  # fmt: skip
BOOK_SCHEMA: dict[str, Any] = schema_of({
    **PAIR_SCHEMA, **HEADER_SCHEMA, "bids": LEVELS_SCHEMA, "asks": LEVELS_SCHEMA,
    "last_update_id": {"type": "integer"}, "update_type": {"enum": ["snapshot"]},
    "depth": {"type": "integer", "description": "levels asked for"},
    "state": {"enum": [state.name.lower() for state in BookState], "description": "trust in the book"},
    "seq": {"type": "integer", "minimum": 0, "description": "changed levels so far: `seq` of the book channel"},
})  # fmt: skip


def book_endpoints(state: FrontState) -> list[Endpoint]:
    def orderbook(arguments: Arguments) -> Answerer:
        return current_book(state, arguments)

    return [
        Endpoint(
            "/api/v1/orderbook/{exchange}/{symbol}", orderbook, "The order book now", (*PATH, DEPTH, DECIMALS, TIME),
            data=BOOK_SCHEMA, metadata=VALUE_METADATA, errors=(400, 404),
        ),
    ]  # fmt: skip


def current_book(state: FrontState, arguments: Arguments) -> Answerer:
    depth: int = arguments["depth"]
    options = options_of(arguments)
    source = _book_source(state, arguments, depth)
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

    return latest_value(state, source, arguments["symbol"], render)


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
