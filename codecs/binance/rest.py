"""Binance's REST bodies: order book snapshots, instrument lists, rate limits, errors; URLs and what they weigh.

Sources: https://developers.binance.com/docs/binance-spot-api-docs/rest-api (2026-07-21),
https://developers.binance.com/docs/derivatives/usds-margined-futures (client 17.2.0, 2026-08-19).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from ..errors import BadResponse, ExchangeRefused
from ..numbers import precision_of_step
from ..sink import Reason
from ..symbols import Instrument, split_pair
from . import strict
from .strict import Refused
from .sync import DepthSnapshot
from .wire import INT64_MAX, PRODUCTS, LevelTuple, Product, TimeUnit

PATHS = {"spot": "/api/v3", "usdm": "/fapi/v1", "coinm": "/dapi/v1"}

# Request weights: (limit up to, weight). The header X-MBX-USED-WEIGHT-1M tells what the exchange counted.
DEPTH_WEIGHTS: dict[str, tuple[tuple[int, int], ...]] = {
    "spot": ((100, 5), (500, 25), (1000, 50), (5000, 250)),
    "usdm": ((50, 2), (100, 5), (500, 10), (1000, 20)),
    "coinm": ((50, 2), (100, 5), (500, 10), (1000, 20)),
}
EXCHANGE_INFO_WEIGHT = {"spot": 20, "usdm": 1, "coinm": 1}
# REQUEST_WEIGHT per minute and address where exchangeInfo was not read yet. USD-M and COIN-M share theirs (2026-06-30).
WEIGHT_PER_MINUTE = {"spot": 6000, "usdm": 2400, "coinm": 2400}
USED_WEIGHT_HEADER = "X-MBX-USED-WEIGHT-1M"
# 1,000 levels cost a fifth of 5,000: two dozen symbols that resync together stay within a minute's weight.
DEPTH_LIMIT_DEFAULT = 1000
_FUTURES_DEPTH_LIMITS = (5, 10, 20, 50, 100, 500, 1000)

# Codes after which the same request may be sent again later: rate limits, overload, timeouts.
_RETRIABLE_CODES = frozenset((-1000, -1001, -1003, -1006, -1007, -1008, -1015, -1016, -1034))


def depth_path(product: str, native: str, limit: int = DEPTH_LIMIT_DEFAULT) -> str:
    """Path and query of the order book snapshot. Futures take only certain limits: the next larger one is used."""
    if product == "spot":
        limit = max(1, min(limit, 5000))
    else:
        limit = next((step for step in _FUTURES_DEPTH_LIMITS if step >= limit), _FUTURES_DEPTH_LIMITS[-1])
    return f"{PATHS[product]}/depth?symbol={quote(native)}&limit={limit}"


def depth_weight(product: str, limit: int = DEPTH_LIMIT_DEFAULT) -> int:
    steps = DEPTH_WEIGHTS[product]
    return next((weight for most, weight in steps if limit <= most), steps[-1][1])


def exchange_info_path(product: str, natives: Sequence[str] = ()) -> str:
    """Path and query of the list of instruments; spot gives some of them alone, futures always all."""
    path = f"{PATHS[product]}/exchangeInfo"
    if product != "spot" or not natives:
        return path
    names = ",".join(f'"{native}"' for native in natives)
    return f"{path}?symbols={quote(f'[{names}]')}"


class RateLimit(NamedTuple):
    kind: str  # REQUEST_WEIGHT, RAW_REQUESTS, ORDERS
    interval_s: int
    limit: int


class ExchangeInfo(NamedTuple):
    instruments: list[Instrument]
    rate_limits: list[RateLimit]
    skipped: int  # instruments that could not be read


# -- order book snapshot ----------------------------------------------------------------------------------------


class _Depth(msgspec.Struct, gc=False):
    lastUpdateId: int | float
    bids: list[LevelTuple]
    asks: list[LevelTuple]
    T: int | float = 0
    symbol: str = ""


_decode_depth = msgspec.json.Decoder(_Depth, strict=False).decode
_decode_any = msgspec.json.Decoder().decode
_LEVEL_BYTES = b"0123456789.,[]"
_LEVEL = b'""""'  # what is left of a level without those


def parse_depth(body: bytes, unit: TimeUnit = TimeUnit.MILLISECOND) -> DepthSnapshot:
    """Read the body of the depth endpoint (`T` in futures). Every level must be two quoted plain decimals.

    Raises:
        ExchangeRefused: the body is an error of the exchange.
        BadResponse: it is anything else.
    """
    try:
        x = _decode_depth(body)
        # Four quotes for each level, no sign, no exponent: all levels are as documented, without looking at each.
        plain = body.translate(None, _LEVEL_BYTES)
        bids, asks = _LEVEL * len(x.bids), _LEVEL * len(x.asks)
        update_id, time = x.lastUpdateId | 0, x.T | 0  # type: ignore[operator]  # refuses floats
        known = any(plain == head + bids + b'"asks":' + asks + b"}" for head in _DEPTH_HEADS)
        if known and 0 <= update_id <= INT64_MAX and 0 <= time <= INT64_MAX // unit.ns:
            return DepthSnapshot(update_id, time * unit.ns, x.bids, x.asks)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError):
        pass
    return _parse_depth_strictly(body, unit)


_DEPTH_HEADS = (b'{"lastUpdateId":"bids":', b'{"lastUpdateId":"E":"T":"bids":')


def _parse_depth_strictly(body: bytes, unit: TimeUnit) -> DepthSnapshot:
    document = _object(body, "depth")
    try:
        members = [document[name] for name in ("lastUpdateId", "bids", "asks")]
    except KeyError as missing:
        raise BadResponse(f"depth: {missing} is missing in {body[:80]!r}", Reason.MISSING_FIELD) from None
    try:
        time = strict.identifier(document.get("T", 0))
        if time > INT64_MAX // unit.ns:
            raise Refused(Reason.BAD_NUMBER)
        return DepthSnapshot(
            strict.identifier(members[0]), time * unit.ns, strict.levels(members[1]), strict.levels(members[2])
        )
    except Refused as refused:
        raise BadResponse(f"depth: {refused.reason} in {body[:80]!r}", refused.reason) from None


def _object(body: bytes, endpoint: str) -> dict[str, Any]:
    document = read_document(body, endpoint)
    if type(document) is not dict:
        raise BadResponse(f"{endpoint}: expected an object, got {body[:80]!r}", Reason.WRONG_TYPE)
    return document


def read_document(body: bytes, endpoint: str) -> Any:
    """The JSON of a body that is not an error of the exchange.

    Raises:
        ExchangeRefused, BadResponse: as `parse_depth`.
    """
    try:
        document = _decode_any(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadResponse(f"{endpoint}: body is no JSON ({error}): {body[:80]!r}", Reason.NOT_JSON) from None
    if type(document) is not dict:
        return document
    code, message = document.get("code"), document.get("msg")
    if type(code) is int and type(message) is str:
        raise ExchangeRefused(
            f"{endpoint}: Binance answered {code} {message[:200]!r}", code, message, retriable=code in _RETRIABLE_CODES
        )
    return document


# -- instruments -------------------------------------------------------------------------------------------------


class _Filter(msgspec.Struct):
    filterType: str
    tickSize: str = "0"
    stepSize: str = "0"


class _Listed(msgspec.Struct):
    symbol: str
    baseAsset: str
    quoteAsset: str
    status: str = ""
    contractStatus: str = ""  # COIN-M's name for `status`
    filters: list[_Filter] = []
    contractType: str = ""
    deliveryDate: int = 0  # UNIX ms
    onboardDate: int = 0
    contractSize: float = 1.0  # COIN-M: USD per contract


class _Name(msgspec.Struct):
    symbol: str


class _RateLimit(msgspec.Struct):
    rateLimitType: str
    interval: str
    intervalNum: int
    limit: int


class _ExchangeInfo(msgspec.Struct):
    symbols: list[msgspec.Raw]
    rateLimits: list[_RateLimit] = []


_decode_info = msgspec.json.Decoder(_ExchangeInfo).decode
_decode_listed = msgspec.json.Decoder(_Listed).decode
_decode_name = msgspec.json.Decoder(_Name).decode
_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400}


def parse_exchange_info(
    body: bytes, product: str, exchange: str = "binance", only: Collection[str] | None = None
) -> ExchangeInfo:
    """Read the list of instruments. One that cannot be read is skipped and counted, the others stay.

    Args:
        only: native names; the others are passed over, which takes a tenth of the time.

    Raises:
        ExchangeRefused, BadResponse: as `parse_depth`.
    """
    try:
        info = _decode_info(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _object(body, "exchangeInfo")
        raise BadResponse(f"exchangeInfo: {error}", Reason.WRONG_TYPE) from None
    instruments, skipped = [], 0
    for raw in info.symbols:
        try:
            if only is not None and _decode_name(raw).symbol not in only:
                continue
            instruments.append(_instrument(_decode_listed(raw), PRODUCTS[product], exchange))
        except (msgspec.DecodeError, UnicodeDecodeError, ArithmeticError, ValueError):
            skipped += 1
    limits = [
        RateLimit(limit.rateLimitType, _SECONDS.get(limit.interval, 60) * limit.intervalNum, limit.limit)
        for limit in info.rateLimits
    ]
    return ExchangeInfo(instruments, limits, skipped)


def _instrument(listed: _Listed, product: Product, exchange: str) -> Instrument:
    steps = {entry.filterType: entry for entry in listed.filters}
    tick = steps["PRICE_FILTER"].tickSize if "PRICE_FILTER" in steps else "0"
    lot = steps["LOT_SIZE"].stepSize if "LOT_SIZE" in steps else "0"
    expiry = _expiry_of(listed.symbol) if product.futures else ""
    return Instrument(
        exchange=exchange,
        product=product.name,
        native=listed.symbol,
        base=listed.baseAsset,
        quote=listed.quoteAsset,
        market_type="future" if expiry else product.market_type,
        expiry=expiry,
        tick=tick,
        lot=lot,
        price_precision=precision_of_step(tick),
        quantity_precision=precision_of_step(lot),
        contract_value=listed.contractSize,
        inverse=product.inverse,
        status=listed.status or listed.contractStatus,
        onboard_ms=listed.onboardDate,
    )


def _expiry_of(native: str) -> str:
    """20261225 of ``BTCUSDT_261225``; deliveryDate is no help: perpetuals have one too, in the year 2100."""
    date = native.rpartition("_")[2] if "_" in native else ""
    return f"20{date}" if len(date) == 6 and date.isascii() and date.isdigit() else ""


def instrument_of_native(native: str, product: str, exchange: str = "binance") -> Instrument | None:
    """Take a native name apart where no list knows it; None where it does not look like one of the product."""
    rules = PRODUCTS[product]
    native = native.upper()
    name, _, suffix = native.partition("_")
    pair = split_pair(name)
    expiry = _expiry_of(native)
    if pair is None or (suffix and not expiry and not (rules.inverse and suffix == "PERP")):
        return None
    if (expiry and not rules.futures) or (rules.inverse and not suffix):
        return None
    return Instrument(
        exchange=exchange, product=product, native=native, base=pair[0], quote=pair[1],
        market_type="future" if expiry else rules.market_type, expiry=expiry, inverse=rules.inverse,
        contract_value=(100.0 if pair[0] == "BTC" else 10.0) if rules.inverse else 1.0,
    )  # fmt: skip
