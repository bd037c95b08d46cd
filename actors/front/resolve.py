"""From what a request says to the key that holds the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...codecs.errors import UnknownExchange, UnknownSymbol
from ...codecs.symbols import EXCHANGES, MARKET_TYPES, parse_exchange, parse_symbol
from ..catalog import Catalog, Source
from .errors import NotFound
from .params import Param, choice, text

REFRESH_AFTER_S = 0.1  # a flood of unknown symbols does not become a flood of looks at the folder

_MARKET_ALIASES = {"perp": "perpetual", "swap": "perpetual", "futures": "future", "options": "option"}


def _market_type(value: str) -> str:
    word = value.lower()
    word = _MARKET_ALIASES.get(word, word)
    if word not in MARKET_TYPES:
        raise ValueError("one of " + ", ".join(MARKET_TYPES))
    return word


MARKET_TYPE = Param(
    "market_type", _market_type, {"type": "string", "enum": list(MARKET_TYPES), "description": "a market type"},
    "Market of a symbol that does not say it itself; spot unless the exchange's name says otherwise.",
)  # fmt: skip
_SYMBOL_DOC = (
    "`BTC-USDT`, `BTCUSDT`, `BTC/USDT`, `BTC_USDT`, each also with `-PERP`, `-PERPETUAL`, `-SWAP` or a date; or the "
    "exchange's own name. In any case."
)
SYMBOL_PATH = text("symbol", _SYMBOL_DOC, "a symbol", where="path", required=True, example="BTC-USDT")
SYMBOL_QUERY = text("symbol", _SYMBOL_DOC, "a symbol", required=True, example="BTC-USDT")
EXCHANGE_DOC = "Exchange, or a venue name that implies a market type (`binance_spot`, `BINANCE_FUTURES`, `okx_swap`)."


def _exchange(value: str) -> tuple[str, str | None]:
    try:
        return parse_exchange(value)
    except UnknownExchange:
        raise ValueError("one of " + ", ".join(EXCHANGES) + ", or a venue name of one") from None


_EXCHANGE_SCHEMA = {"type": "string", "description": "an exchange", "examples": list(EXCHANGES)}
EXCHANGE_PATH = Param(
    "exchange", _exchange, _EXCHANGE_SCHEMA, EXCHANGE_DOC, required=True, where="path", example="binance"
)
EXCHANGE_QUERY = Param("exchange", _exchange, _EXCHANGE_SCHEMA, EXCHANGE_DOC, example="binance")
DECIMALS = choice("decimals", ("string", "number"), "Prices and quantities as strings or as numbers.", "string")
TIME = choice("time", ("rfc3339", "ms"), "Times as RFC 3339 or as epoch ms.", "rfc3339")


def as_perpetual(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """For what spot markets do not have: a symbol that does not say its market means the perpetual."""
    _, venue_market = arguments.get("exchange") or (None, None)
    if arguments.get("market_type") is not None or venue_market is not None:
        return arguments
    return {**arguments, "market_type": "perpetual"}


def resolve(catalog: Catalog, record: str, default_exchange: str, arguments: Mapping[str, Any]) -> Source:
    """The source that `symbol`, `exchange` and `market_type` of a request mean.

    Raises:
        NotFound: no producer has it.
    """
    exchange, venue_market = arguments.get("exchange") or parse_exchange(default_exchange)
    symbol: str = arguments["symbol"]
    market_type = arguments.get("market_type") or venue_market
    interval: str = arguments.get("interval") or ""
    source = find_source(catalog, record, exchange, symbol, market_type, interval)
    if source is None and catalog.refresh_after(REFRESH_AFTER_S):
        source = find_source(catalog, record, exchange, symbol, market_type, interval)
    if source is None:
        market = market_type or "spot unless the symbol says otherwise"
        raise NotFound(
            f"no {record.replace('_', ' ')} of {symbol[:64]!r} on {exchange} ({market}): "
            "see /api/v1/instruments for what there is",
            details={"symbol": symbol[:64], "exchange": exchange, "market_type": market_type, "record": record},
        )
    return source


def find_source(
    catalog: Catalog, record: str, exchange: str, symbol: str, market_type: str | None, interval: str = ""
) -> Source | None:
    """The same; None when there is none."""
    source = catalog.find_native(record, exchange, symbol.strip(), market_type or "spot", interval)
    if source is not None:
        return source
    try:
        instrument = parse_symbol(symbol, market_type).instrument
    except UnknownSymbol:
        # in none of the forms, but perhaps a name of the exchange's own that only one of its markets has
        if market_type is not None:
            return None
        return catalog.find_native(record, exchange, symbol.strip(), None, interval)
    return catalog.find_instrument(record, exchange, instrument, interval)
