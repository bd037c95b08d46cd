"""Instruments: every key that some producer numbers, with what its directory row says."""

from __future__ import annotations

from typing import Any

from ...codecs.records import MARKET_RECORDS
from ..catalog import ANY, Source
from .endpoints import Answerer, Arguments, Endpoint
from .envelope import encode, members
from .errors import NotFound
from .paging import listed
from .params import integer
from .resolve import EXCHANGE_QUERY, MARKET_TYPE, SYMBOL_PATH
from .state import FrontState

PAGE = integer("page", 1, 1, 1_000_000, "Page, from 1.")
PAGE_SIZE = integer("page_size", 100, 1, 1000, "Rows of a page.", aliases=("size", "limit"))

_TEXT = {"type": "string"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "instrument": {**_TEXT, "description": "canonical name, BTC-USDT-PERP"},
        "symbol": {**_TEXT, "description": "pair, BTC-USDT"},
        "exchange": _TEXT, "market_type": _TEXT, "native": {**_TEXT, "description": "the exchange's own name"},
        "base": _TEXT, "quote": _TEXT, "tick": {**_TEXT, "description": "smallest price step, quote currency"},
        "lot": {**_TEXT, "description": "smallest quantity step"},
        "contract_value": {"type": ["string", "null"], "description": "null = quantities are base units"},
        "inverse": {"type": "boolean"}, "status": _TEXT,
        "expiry": {"type": ["string", "null"], "description": "date of a dated future or option, YYYY-MM-DD"},
        "price_precision": {"type": "integer"}, "quantity_precision": {"type": "integer"},
        "records": {"type": "array", "items": _TEXT, "description": "record types that are produced for it"},
    },
    "required": ["instrument", "symbol", "exchange", "market_type", "native", "base", "quote", "records"],
}  # fmt: skip


def instrument_endpoints(state: FrontState) -> list[Endpoint]:
    def many(arguments: Arguments) -> Answerer:
        return lambda: list_instruments(state, arguments)

    def one(arguments: Arguments) -> Answerer:
        found = _one(state, arguments)
        return lambda: members(encode(found))

    return [
        Endpoint(
            "/api/v1/instruments", many, "All instruments", (EXCHANGE_QUERY, MARKET_TYPE, PAGE, PAGE_SIZE),
            data={"type": "array", "items": SCHEMA}, tag="instruments",
        ),
        Endpoint(
            "/api/v1/instruments/{symbol}", one, "One instrument", (SYMBOL_PATH, EXCHANGE_QUERY, MARKET_TYPE),
            data=SCHEMA, errors=(400, 404), tag="instruments",
        ),
    ]  # fmt: skip


def describe(source: Source, records: list[str]) -> dict[str, Any]:
    """What the directory row of a key says about its instrument."""
    attributes = source.key.attributes
    base, _, quote = source.symbol.partition("-")
    last = source.instrument.split("-")
    expiry = last[2] if len(last) >= 3 and last[2].isdigit() else ""
    contract_value = attributes.get("contract_value")
    return {
        "instrument": source.instrument, "symbol": source.symbol, "exchange": source.exchange,
        "market_type": source.market_type, "native": source.native, "base": base, "quote": quote,
        "tick": attributes.get("tick", "0"), "lot": attributes.get("lot", "0"),
        "contract_value": None if contract_value is None else f"{contract_value:g}",
        "inverse": bool(attributes.get("inverse", False)), "status": str(attributes.get("status", "TRADING")),
        "expiry": f"{expiry[:4]}-{expiry[4:6]}-{expiry[6:8]}" if expiry else None,
        "price_precision": attributes.get("price_precision", 0),
        "quantity_precision": attributes.get("quantity_precision", 0), "records": records,
    }  # fmt: skip


def _all(state: FrontState, exchange: str, market_type: str) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], tuple[Source, list[str]]] = {}
    for record in MARKET_RECORDS:
        for source in state.catalog.match(record.name, exchange, market_type):
            records = found.setdefault((source.exchange, source.instrument), (source, []))[1]
            if record.name not in records:
                records.append(record.name)
    return [describe(source, records) for _, (source, records) in sorted(found.items())]


def list_instruments(state: FrontState, arguments: Arguments) -> bytes:
    exchange, venue_market = arguments["exchange"] or (ANY, None)
    rows = _all(state, exchange, arguments["market_type"] or venue_market or ANY)
    shown, told = listed(rows, arguments["page"], arguments["page_size"])
    return members(encode(shown), metadata={"count": len(shown)}, count=len(rows), pagination=told)


def _one(state: FrontState, arguments: Arguments) -> dict[str, Any]:
    for record in MARKET_RECORDS:
        try:
            found = state.source(record, arguments)
        except NotFound:
            continue
        names = [
            other.name
            for other in MARKET_RECORDS
            for source in state.catalog.match(other.name, found.exchange, found.market_type)
            if source.instrument == found.instrument
        ]
        return describe(found, list(dict.fromkeys(names)))
    raise NotFound(
        f"no instrument {arguments['symbol'][:64]!r}: see /api/v1/instruments for what there is",
        details={"symbol": arguments["symbol"][:64]},
    )
