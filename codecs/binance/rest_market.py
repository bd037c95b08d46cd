"""Binance's REST bodies beside books and instruments: bars, open interest, funding.

Paths and weights: spot page of 2026-07-21, USD-M client 17.2.0 of 2026-08-19. Every field is checked as the exact
reading of the streams checks it; a body with one bad row is refused whole.

Errors of every parser: `ExchangeRefused` where the body is an error of the exchange, `BadResponse` where it is anything
else but what is documented.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Meta

from ..errors import BadResponse
from ..klines import Bar
from ..sink import Reason
from .rest import PATHS, read_document
from .strict import Refused, identifier, quantity, signed, text
from .wire import INT64_MAX, Quantity

KLINES_LIMIT_MAX = {"spot": 1000, "usdm": 1500, "coinm": 1500}
# Requests for funding rates cost no weight; an address may make so many in five minutes (fundingInfo counts too).
FUNDING_REQUESTS_PER_5_MIN = 500
OPEN_INTEREST_WEIGHT = 1

T = TypeVar("T")


def klines_path(
    product: str, native: str, interval: str, limit: int, start_ms: int | None = None, end_ms: int | None = None
) -> str:
    """Path and query of bars that open from `start_ms` to `end_ms`, both included; the newest ones without a start."""
    window = f"&startTime={start_ms}" if start_ms is not None else ""
    window += f"&endTime={end_ms}" if end_ms is not None else ""
    return f"{PATHS[product]}/klines?symbol={quote(native)}&interval={interval}&limit={limit}{window}"


def klines_weight(product: str, limit: int) -> int:
    if product == "spot":
        return 2
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10


def parse_klines(body: bytes) -> list[Bar]:
    """Bars, oldest first; the last one may be open."""
    try:
        rows = _decode_klines(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        rows = []
    # Without digits a row has one form: all are as documented, without looking at each of their values.
    plain = body.translate(None, b"0123456789").replace(b'"."', b'""')
    if rows and plain == b"[" + b",".join([_KLINE_FORM] * len(rows)) + b"]":
        bars = [Bar(row[0], row[6], *row[1:6], *row[7:11]) for row in rows]
        if all(map(_is_bar, bars)):
            return bars
    return _rows(body, "klines", _bar)


_Time = Annotated[int, Meta(ge=0, le=INT64_MAX)]
_KlineRow = tuple[
    _Time, Quantity, Quantity, Quantity, Quantity, Quantity, _Time, Quantity, _Time, Quantity, Quantity, Any
]
_decode_klines = msgspec.json.Decoder(list[_KlineRow], strict=False).decode
_KLINE_FORM = b'[,"","","","","",,"",,"","",""]'


def _is_bar(bar: Bar) -> bool:
    low, high = bar.low, bar.high
    return bar.open_ts < bar.close_ts and low <= bar.open <= high and low <= bar.close <= high


def _bar(row: Any) -> Bar:
    if type(row) is not list or len(row) < 11:
        raise Refused(Reason.WRONG_TYPE)
    opened, high, low, close = (quantity(value) for value in row[1:5])
    bar = Bar(
        identifier(row[0]), identifier(row[6]), opened, high, low, close, quantity(row[5]), quantity(row[7]),
        identifier(row[8]), quantity(row[9]), quantity(row[10]),
    )  # fmt: skip
    if not _is_bar(bar):
        raise Refused(Reason.INCONSISTENT)
    return bar


class OpenInterest(NamedTuple):
    native: str
    ts_ms: int
    open_interest: float  # base units; contracts on COIN-M


def open_interest_path(product: str, native: str) -> str:
    return f"{PATHS[product]}/openInterest?symbol={quote(native)}"


def parse_open_interest(body: bytes) -> OpenInterest:
    def row(x: dict[str, Any]) -> OpenInterest:
        ts_ms = identifier(x["time"])
        if not 0 < ts_ms <= INT64_MAX // 1_000_000:
            raise Refused(Reason.BAD_NUMBER)
        return OpenInterest(text(x["symbol"]), ts_ms, quantity(x["openInterest"]))

    return _one(body, "openInterest", row)


class FundingRate(NamedTuple):
    native: str
    ts_ms: int  # when it was paid
    rate: float
    mark_price: float  # 0 = not sent, as in rows of 2020


def funding_rates_path(
    product: str, native: str, limit: int, start_ms: int | None = None, end_ms: int | None = None
) -> str:
    """Payments from `start_ms` to `end_ms`, both included; the newest ones without. At most 1,000."""
    window = f"&startTime={start_ms}" if start_ms is not None else ""
    window += f"&endTime={end_ms}" if end_ms is not None else ""
    return f"{PATHS[product]}/fundingRate?symbol={quote(native)}&limit={limit}{window}"


def parse_funding_rates(body: bytes) -> list[FundingRate]:
    """Payments, oldest first."""

    def row(x: dict[str, Any]) -> FundingRate:
        mark = x.get("markPrice", "")
        return FundingRate(
            text(x["symbol"]), identifier(x["fundingTime"]), signed(x["fundingRate"]),
            0.0 if mark == "" else quantity(mark),
        )  # fmt: skip

    return _rows(body, "fundingRate", row)


def _rows(body: bytes, endpoint: str, read: Callable[[Any], T]) -> list[T]:
    document = read_document(body, endpoint)
    rows = [document] if type(document) is dict else document
    if type(rows) is not list:
        raise BadResponse(f"{endpoint}: expected an array, got {body[:80]!r}", Reason.WRONG_TYPE)
    found = []
    for row in rows:
        try:
            found.append(read(row))
        except KeyError as missing:
            reason = Reason.MISSING_FIELD
            raise BadResponse(f"{endpoint}: {missing} is missing in {str(row)[:80]}", reason) from None
        except TypeError:
            raise BadResponse(f"{endpoint}: a row is {str(row)[:80]}", Reason.WRONG_TYPE) from None
        except Refused as refused:
            raise BadResponse(f"{endpoint}: {refused.reason} in {str(row)[:80]}", refused.reason) from None
    return found


def _one(body: bytes, endpoint: str, read: Callable[[Any], T]) -> T:
    rows = _rows(body, endpoint, read)
    if len(rows) != 1:
        raise BadResponse(f"{endpoint}: expected one object, got {len(rows)}", Reason.WRONG_TYPE)
    return rows[0]
