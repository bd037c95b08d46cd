"""The collector's view: exchanges, their connections and counters, and a look at the newest data of all symbols."""

from __future__ import annotations

import time
from typing import Any

from ...codecs.records import BOOK_TOP, MARKET_RECORDS, TRADE
from ..catalog import ANY, Source
from .activity import SERVICE, describe, exchanges_of, totals_of
from .endpoints import Answerer, Arguments, Endpoint
from .envelope import encode, members
from .errors import NotFound, ServiceUnavailable
from .exposition import published_of
from .health import coverage
from .params import choice, integer
from .resolve import EXCHANGE_PATH
from .rows import Options, RowRenderer
from .shapes import INTEGER, TEXT, key_text, schema_of
from .stamps import NS, rfc3339
from .state import FrontState
from .trades import ALIASES

EXCHANGE = choice("exchange", ("all", "binance", "okx", "deribit"), "Exchange, or all of them.", "all")
TYPE = choice("type", ("all", "orderbooks", "trades"), "What to show.", "all")
LIMIT = integer("limit", 10, 1, 100, "Most rows of each type.")

_OBJECT: dict[str, Any] = {"type": "object"}
EXCHANGE_SCHEMA = schema_of({
    "exchange": TEXT, "connected": {"type": "boolean"}, "messages_count": INTEGER, "errors_count": INTEGER,
    "feeds": {"type": "array", "items": TEXT}, "symbols": INTEGER,
    "records": {
        "type": "object", "description": "record type -> records published and keys",
        "additionalProperties": schema_of({"published": INTEGER, "keys": INTEGER}),
    },
    "coverage": _OBJECT,
})  # fmt: skip


def collector_endpoints(state: FrontState, told: str) -> list[Endpoint]:
    def value(make: Any) -> Any:
        return lambda _: lambda: members(encode(make()))

    common: dict[str, Any] = {"tag": "operation"}
    return [
        Endpoint(
            "/api/v1/exchanges", value(lambda: [_exchange(state, name) for name in sorted(_known(state))]),
            "All exchanges that are listened to", data={"type": "array", "items": EXCHANGE_SCHEMA}, errors=(), **common,
        ),
        Endpoint(
            "/api/v1/exchanges/{exchange}/stats", lambda arguments: exchange_stats(state, arguments),
            "Connections and counters of an exchange", (EXCHANGE_PATH,), data=EXCHANGE_SCHEMA, errors=(400, 404),
            **common,
        ),
        Endpoint(
            "/api/v1/collector/stats", value(lambda: _stats(state)), "Counters of all producers", data=_OBJECT,
            errors=(503,), **common,
        ),
        Endpoint(
            "/api/v1/collector/status", value(lambda: _status(state, told)), "Whether data is collected", data=_OBJECT,
            errors=(503,), **common,
        ),
        Endpoint(
            "/api/v1/collector/exchanges", value(lambda: _started(state, _known(state))), "Exchanges by name",
            data={"type": "object", "additionalProperties": _OBJECT}, errors=(503,), **common,
        ),
        Endpoint(
            "/api/v1/collector/data", lambda arguments: recent_data(state, arguments),
            "The newest trades and books over all symbols", (EXCHANGE, TYPE, LIMIT), data=_OBJECT, errors=(400, 503),
            **common,
        ),
    ]  # fmt: skip


def _known(state: FrontState) -> dict[str, dict[str, Any]]:
    return exchanges_of(state, state.tree.actors())


def _started(state: FrontState, value: Any) -> Any:
    if not state.catalog.all_streams():
        raise ServiceUnavailable(
            f"no stream in {state.catalog.folder}: the producers have not started",
            details={"legacy_code": "COLLECTOR_NOT_INITIALIZED"},
        )
    return value


def exchange_stats(state: FrontState, arguments: Arguments) -> Answerer:
    exchange, _ = arguments["exchange"]

    def answer() -> bytes:
        if exchange not in _known(state):
            raise NotFound(f"nothing listens to {exchange}", details={"exchange": exchange})
        return members(encode(_exchange(state, exchange)))

    return answer


def _exchange(state: FrontState, name: str) -> dict[str, Any]:
    records: dict[str, dict[str, int]] = {}
    instruments = set()
    for record in MARKET_RECORDS:
        sources = state.catalog.match(record.name, name)
        if not sources:
            continue
        readers = {id(source.reader): source.reader for source in sources}
        published = sum(published_of(reader) for reader in readers.values())
        records[record.name] = {"published": published, "keys": len(sources)}
        instruments |= {source.instrument for source in sources}
    now_ns = time.time_ns()
    covered = {kind: by[name] for kind, by in coverage(state, now_ns).items() if name in by}
    return {
        "exchange": name, **_known(state)[name], "symbols": len(instruments), "records": records, "coverage": covered,
    }  # fmt: skip


def _stats(state: FrontState) -> dict[str, Any]:
    totals = totals_of(state)
    newest = 0
    for by_exchange in coverage(state, time.time_ns()).values():
        newest = max(newest, *(one["last_success_ts"] or 0 for one in by_exchange.values()))
    started = state.tree.started_ns() or state.started_ns
    return _started(state, {
        "messages_received": totals["messages_processed"], **totals,
        "data_points_processed": totals["messages_published"],
        "last_message_time": rfc3339(newest * 1_000_000) if newest else None,
        "uptime_seconds": round(max(0, time.time_ns() - started) / NS, 3), "exchange_stats": _known(state),
    })  # fmt: skip


def _status(state: FrontState, told: str) -> dict[str, Any]:
    seen = describe(state, told, detailed=False)
    names = (
        "service", "status", "running", "uptime_seconds", "version", "environment", "features", "supported_exchanges",
        "collection_stats",
    )  # fmt: skip
    return _started(state, {name: seen[name] for name in names})


def recent_data(state: FrontState, arguments: Arguments) -> Answerer:
    wanted, kind, limit = arguments["exchange"], arguments["type"], arguments["limit"]
    exchange = ANY if wanted == "all" else wanted

    def answer() -> bytes:
        _started(state, None)
        trades = _newest_trades(state, exchange, limit) if kind != "orderbooks" else []
        books = _newest_books(state, exchange, limit) if kind != "trades" else []
        recent = b'{"trades":[%b],"orderbooks":%b}' % (b",".join(trades), encode(books))
        parameters = encode({"exchange": wanted, "type": kind, "limit": limit})
        summary = encode({"trades": len(trades), "orderbooks": len(books), **totals_of(state)})
        metadata = encode({"service": SERVICE, "timestamp": rfc3339(time.time_ns()), "data_source": "memory"})
        return members(
            b'{"query_parameters":%b,"summary":%b,"recent_data":%b,"metadata":%b}'
            % (parameters, summary, recent, metadata)
        )

    return answer


def _newest(sources: list[Source], limit: int) -> list[tuple[int, Source, Any]]:
    """`(receipt, source, newest row)` of the keys with the newest records, newest first."""
    found = []
    for source in sources:
        row = source.reader.latest(source.key_id)
        if row is not None:
            found.append((int(row["ts_recv_ns"]), source, row))
    return sorted(found, key=lambda one: -one[0])[:limit]


def _newest_trades(state: FrontState, exchange: str, limit: int) -> list[bytes]:
    """The newest trade of each of the `limit` liveliest symbols."""
    texts = []
    for _, source, row in _newest(state.catalog.match(TRADE.name, exchange), limit):
        renderer = RowRenderer(TRADE, source.key.attributes, Options(), ALIASES)
        texts.append(b"{" + key_text(source, source.symbol) + renderer.row(row) + b"}")
    return texts


def _newest_books(state: FrontState, exchange: str, limit: int) -> list[dict[str, Any]]:
    return [
        {
            "exchange": source.exchange, "market_type": source.market_type, "symbol": source.symbol,
            "instrument": source.instrument, "timestamp": rfc3339(received),
            "best_bid": float(row["bid_price"][0]), "best_ask": float(row["ask_price"][0]),
            "bids_count": int(row["bids_count"]), "asks_count": int(row["asks_count"]),
            "last_update_id": int(row["update_id"]),
        }
        for received, source, row in _newest(state.catalog.match(BOOK_TOP.name, exchange), limit)
    ]  # fmt: skip
