"""Trades: the newest of a key, and merged ranges."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ...codecs.record import Flag
from ...codecs.records import TRADE
from .catalog import Source
from .endpoints import Answer, Answerer, Arguments, Endpoint
from .envelope import encode, joined_rows, members
from .errors import InvalidTimeRange
from .merge import merge, times_of
from .params import Param, integer, moment
from .resolve import DECIMALS, EXCHANGE_QUERY, MARKET_TYPE, SYMBOL_PATH, SYMBOL_QUERY, TIME
from .rows import Alias, Options, RowRenderer, row_schema
from .stamps import NS, rfc3339
from .state import FrontState, Kept
from .ws.epochs import epoch_text

LIMIT_MAX = 1000
RANGE_DEFAULT_NS = 24 * 3600 * NS
OFFSET_MAX = 100_000  # records that paging may step over
# Further names of members; agg_trade_id stands only where the record is an aggregate.
ALIASES = {"amount": Alias("quantity"), "agg_trade_id": Alias("trade_id", Flag.AGGREGATED)}

LIMIT = integer("limit", 100, 1, LIMIT_MAX, "Most rows to return; the newest ones.")
START = moment("start_time", "Start of the range, inclusive; 24 hours before its end by default.", ("startTime",))
END = moment("end_time", "End of the range, exclusive; now by default.", ("endTime",))
PAGE = integer("page", None, 1, OFFSET_MAX, "Page, from 1; the first holds the newest rows.")
PAGE_SIZE = integer("page_size", None, 1, LIMIT_MAX, "Rows of a page (100 by default).", aliases=("size",))

KEY_SCHEMA: dict[str, Any] = {
    "symbol": {"type": "string", "description": "as the request wrote it"},
    "exchange": {"type": "string"},
    "market_type": {"enum": ["spot", "perpetual", "future", "option"]},
    "instrument": {"type": "string", "description": "canonical name, BTC-USDT-PERP"},
    "instrument_id": {"type": "string", "description": "the exchange's own name"},
}
METADATA_SCHEMA: dict[str, Any] = {
    "symbol": {"type": "string"}, "instrument": {"type": "string"}, "exchange": {"type": "string"},
    "market_type": {"type": "string"}, "count": {"type": "integer", "description": "rows returned"},
    "epoch": {"type": "string", "description": "changes only when `seq` starts anew"},
    "start_time": {"type": ["string", "integer", "null"]}, "end_time": {"type": ["string", "integer", "null"]},
    "data_source": {"enum": ["memory", "database", "mixed"]},
    "completeness": {
        "type": "number", "minimum": 0, "maximum": 100,
        "description": "percent of what the range should hold, as far as that is known",
    },
    "note": {"type": "string", "description": "why it is not complete"},
}  # fmt: skip


def options_of(arguments: Arguments) -> Options:
    return Options(arguments["decimals"], arguments["time"])


def key_members(source: Source, symbol: str) -> dict[str, Any]:
    """What every row says of its key; `symbol` in the form the request used."""
    return {
        "symbol": symbol, "exchange": source.exchange, "market_type": source.market_type,
        "instrument": source.instrument, "instrument_id": source.native,
    }  # fmt: skip


def key_metadata(source: Source, shown: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `metadata` that says what was asked for."""
    names = ("symbol", "instrument", "exchange", "market_type")
    return {**{name: shown[name] for name in names}, "epoch": epoch_text(source.reader)}


def trade_endpoints(state: FrontState) -> list[Endpoint]:
    row = row_schema(TRADE, ALIASES, **KEY_SCHEMA)
    rows = {"type": "array", "items": row, "description": "newest first"}
    common = {"data": rows, "metadata": METADATA_SCHEMA, "errors": (400, 404)}
    ranged: tuple[Param, ...] = (EXCHANGE_QUERY, MARKET_TYPE, START, END, LIMIT, PAGE, PAGE_SIZE, DECIMALS, TIME)

    def latest(arguments: Arguments) -> Answerer:
        return newest_trades(state, arguments)

    def history(arguments: Arguments) -> Answerer:
        return trades_in_range(state, arguments)

    return [
        Endpoint(
            "/api/v1/trades/latest", latest, "The newest trades of a symbol, from memory alone",
            (SYMBOL_QUERY, EXCHANGE_QUERY, MARKET_TYPE, LIMIT, DECIMALS, TIME), **common,
        ),
        Endpoint("/api/v1/trades", history, "Trades of a symbol in a range", (SYMBOL_QUERY, *ranged), **common),
        Endpoint("/api/v1/trades/{symbol}", history, "Trades of a symbol in a range", (SYMBOL_PATH, *ranged), **common),
    ]  # fmt: skip


def newest_trades(state: FrontState, arguments: Arguments) -> Answerer:
    """The hot path: while no trade came, the same bytes again; else one join of kept texts."""
    source = state.source(TRADE, arguments)
    text = _NewestText(state, source, arguments)

    def answer() -> Answer:
        return text.members(arguments["limit"])[0]

    return answer


class _NewestText:
    """Envelope members with the newest trades of one key in one form."""

    def __init__(self, state: FrontState, source: Source, arguments: Arguments) -> None:
        self.source = source
        self._cache = state.row_cache(TRADE, source, options_of(arguments), ALIASES)
        shown = key_members(source, arguments["symbol"])
        self._constant = encode(shown)[1:-1] + b","
        self._metadata = key_metadata(source, shown)
        self._kept = Kept(state)
        self._rows = 0

    def members(self, limit: int) -> tuple[bytes, int]:
        """`(members, rows)`."""
        kept = self._kept.get(self.source.reader.count(self.source.key_id))
        if kept is not None:
            return kept, self._rows
        texts = self._cache.newest(limit)
        self._rows = len(texts)
        metadata = {**self._metadata, "count": len(texts), "data_source": "memory", "completeness": 100}
        rows = joined_rows(self._constant, texts)
        text = b'"data":%b,"metadata":%b,"count":%d' % (rows, encode(metadata), len(texts))
        return self._kept.put(self._cache.count, text), self._rows


def trades_in_range(state: FrontState, arguments: Arguments) -> Answerer:
    source = state.source(TRADE, arguments)
    size = arguments["page_size"] or arguments["limit"]
    page = arguments["page"] or 1
    offset = (page - 1) * size
    if offset > OFFSET_MAX:
        raise InvalidTimeRange(
            f"page {page} of {size} rows steps over more than {OFFSET_MAX:,} rows: give a narrower range of time",
            code="TIME_RANGE_TOO_LARGE", details={"field": "page", "value": page},
        )  # fmt: skip
    start, end = arguments["start_time"], arguments["end_time"]
    if start is not None and end is not None and start >= end:
        raise _empty_range(start, end)
    paged = arguments["page"] is not None or arguments["page_size"] is not None
    newest = _NewestText(state, source, arguments) if start is end is None and not paged else None

    def answer() -> Answer | Awaitable[Answer]:
        if newest is not None:
            # the usual request: the newest rows, as long as all of them are of the last day
            kept, rows = newest.members(size)
            if rows == size:
                oldest = source.reader.last(source.key_id, size)[:1]
                if len(oldest) and int(times_of(oldest)[0]) >= time.time_ns() - RANGE_DEFAULT_NS:
                    return kept
        return _merged(state, source, arguments, size, offset, page if paged else None)

    return answer


def _empty_range(start: int, end: int) -> InvalidTimeRange:
    return InvalidTimeRange(
        f"start_time {rfc3339(start)} is not before end_time {rfc3339(end)}",
        details={"field": "start_time", "start_time": rfc3339(start), "end_time": rfc3339(end)},
    )


async def _merged(
    state: FrontState, source: Source, arguments: Arguments, size: int, offset: int, page: int | None
) -> Answer:
    options = options_of(arguments)
    end = arguments["end_time"] or time.time_ns()
    start = arguments["start_time"]
    hint = start is None and arguments["end_time"] is None and page is None
    start = end - RANGE_DEFAULT_NS if start is None else start
    if start >= end:
        raise _empty_range(start, end)
    fetch = state.history.fetcher(TRADE, source, hint=hint)
    count = state.history.counter(TRADE, source) if page is not None else None
    # one row more than the page holds says whether there is another page
    found = await merge(source.reader, source.key_id, start, end, offset + size + 1, fetch, count)
    rows = found.rows[offset : offset + size]
    texts = RowRenderer(TRADE, source.key.attributes, options, ALIASES).rows(rows)
    show: Callable[[int], Any] = (lambda ns: ns // 1_000_000) if options.time == "ms" else rfc3339
    shown = key_members(source, arguments["symbol"])
    metadata: Mapping[str, Any] = {
        **key_metadata(source, shown), "count": len(texts), "start_time": show(start), "end_time": show(end),
        "data_source": found.data_source, "completeness": found.completeness,
        **({"note": found.note} if found.note else {}),
    }  # fmt: skip
    data = joined_rows(encode(shown)[1:-1] + b",", texts)
    if page is None:
        return members(data, metadata=metadata, count=len(texts))
    total = found.total
    pages = None if total is None else -(-total // size)
    pagination = {
        "page": page, "page_size": size, "total": total, "total_count": total, "total_pages": pages,
        "has_next": len(found.rows) > offset + size, "has_prev": page > 1,
    }  # fmt: skip
    return members(data, metadata=metadata, count=total, pagination=pagination)
