"""What the simulated exchange answers over REST: market data of both products, and the errors of bad parameters.

Sources: Binance spot "General endpoints", "Market Data endpoints" and "Error codes", USD-M "Market Data" and "Error
codes", read 2026-11.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from .config import SPOT, USDM, Limits
from .history import FUNDING_INTERVAL_MS, LISTED_MS
from .reports import Reports
from .rest_faults import RestFaults
from .source import Source
from .tape import DAY_MS, HOUR_MS, INTERVALS_MS, bar_start, bar_stop
from .wire import MS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_encode = msgspec.json.Encoder().encode

SPOT_DEPTH_MAX = 5000
USDM_DEPTH_LIMITS = (5, 10, 20, 50, 100, 500, 1000)
ROWS_MAX = 1000
KLINES_MAX = {SPOT: 1000, USDM: 1500}
FUNDINGS = 200  # answered when nothing is asked for


class ApiError(Exception):
    """An answer `{code, msg}` with HTTP status 400; never leaves the REST server."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Query:
    """Parameters of one request, read the way the exchange reads them."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._query = query

    def text(self, name: str) -> str:
        text = self._query.get(name)
        if not text:
            raise ApiError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        return text

    def symbol(self) -> str:
        return self.text("symbol")

    def symbols(self) -> list[str] | None:
        """Return what `symbol` or `symbols` (a JSON array) names; None = neither was sent."""
        if "symbol" in self._query:
            return [self.symbol()]
        if "symbols" not in self._query:
            return None
        try:
            return msgspec.json.decode(self._query["symbols"], type=list[str])
        except msgspec.DecodeError:
            raise ApiError(-1100, "Illegal characters found in parameter 'symbols'.") from None

    @property
    def single(self) -> bool:
        return "symbol" in self._query

    def integer(self, name: str) -> int | None:
        text = self._query.get(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 20:
            raise ApiError(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
        return int(text)

    def limit(self, default: int, most: int) -> int:
        limit = self.integer("limit")
        if limit is None:
            return default
        if limit < 1:
            raise ApiError(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(limit, most)


class Answers:
    """One method for each path: from (product, query, unit of time) to the body. Raises `ApiError`."""

    def __init__(self, source: Source, limits: dict[str, Limits], faults: RestFaults) -> None:
        self.source = source
        self.limits = limits
        self.faults = faults

    def ping(self, product: str, query: Query, unit: int) -> bytes:
        return b"{}"

    def time(self, product: str, query: Query, unit: int) -> bytes:
        return _encode({"serverTime": time.time_ns() // unit})

    def exchange_info(self, product: str, query: Query, unit: int) -> bytes:
        rows = self.source.exchange_info(product)
        if product == SPOT and (wanted := query.symbols()) is not None:
            rows = [row for row in rows if row["symbol"] in wanted]
            if len(rows) < len(set(wanted)):
                raise ApiError(-1121, "Invalid symbol.")
        limit = self.limits[product].weight_max
        limits = [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": limit}]
        if product == SPOT:
            limits += [
                {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100},
                {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 200_000},
                {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300_000},
            ]
        else:
            limits += [{"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": 1200}]
        info = {"timezone": "UTC", "serverTime": time.time_ns() // MS, "rateLimits": limits, "exchangeFilters": []}
        if product == USDM:
            info |= {
                "futuresType": "U_MARGINED",
                "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}],
            }
        return _encode(info | {"symbols": rows})

    def depth(self, product: str, query: Query, unit: int) -> bytes:
        symbol = query.symbol()
        limit = query.limit(100 if product == SPOT else 500, SPOT_DEPTH_MAX if product == SPOT else 1 << 62)
        if product == USDM and limit not in USDM_DEPTH_LIMITS:
            raise ApiError(-4021, f"Invalid depth limit. Valid limits are: {', '.join(map(str, USDM_DEPTH_LIMITS))}")
        body = self.faults.snapshot(product, symbol, lambda: self.source.depth(product, symbol, limit))
        if body is None:
            raise ApiError(-1121, "Invalid symbol.")
        return body

    def trades(self, product: str, query: Query, unit: int) -> bytes:
        rows = self.source.trades(product, query.symbol(), query.limit(500, ROWS_MAX), unit)
        return _rows(rows)

    def agg_trades(self, product: str, query: Query, unit: int) -> bytes:
        symbol = query.symbol()
        start, end, from_id = query.integer("startTime"), query.integer("endTime"), query.integer("fromId")
        if start is not None and end is not None:
            if start > end:
                raise ApiError(-1127, "End time must be greater than start time.")
            if product == USDM and end - start > HOUR_MS:
                raise ApiError(-1127, "More than 1 hours between startTime and endTime.")
        if from_id is not None and (start is not None or end is not None):
            raise ApiError(-1128, "Combination of optional parameters invalid. Recommendation: 'fromId'")
        return _rows(self.source.agg_trades(product, symbol, query.limit(500, ROWS_MAX), from_id, start, end, unit))

    def klines(self, product: str, query: Query, unit: int) -> bytes:
        symbol = query.symbol()
        interval = query.text("interval")
        start, end = query.integer("startTime"), query.integer("endTime")
        limit = query.limit(500, KLINES_MAX[product])
        if interval not in INTERVALS_MS:
            raise ApiError(-1120, "Invalid interval.")
        if start is not None and end is not None and start > end:
            if product == USDM:
                raise ApiError(-1023, "Start time is greater than end time.")
            return b"[]"
        reports = self._reports(product, symbol)
        if reports is None:
            return b"[]"
        now_ms = self.source.now_ns() // MS
        length = INTERVALS_MS[interval] or 31 * DAY_MS
        last = bar_start(interval, min(end if end is not None else now_ms, now_ms))
        first = bar_start(interval, max(LISTED_MS, last - (limit - 1) * length))
        if start is not None:
            first = bar_start(interval, max(start, LISTED_MS))
            if first < start:
                first = bar_stop(interval, first)
            last = min(last, bar_start(interval, first + (limit - 1) * length))
        stop = min(bar_stop(interval, last), now_ms + 1)
        rows = reports.market.tape.bars(interval, first, stop).tolist() if first < stop else []
        rows = rows[:limit] if start is not None else rows[-limit:]
        return _rows([reports.kline_row(interval, row, unit) for row in rows])

    def ticker(self, product: str, query: Query, unit: int) -> bytes:
        return self._each(product, query, lambda reports, now_ns: reports.rest_ticker(now_ns, unit))

    def premium_index(self, product: str, query: Query, unit: int) -> bytes:
        return self._each(product, query, Reports.premium_index)

    def open_interest(self, product: str, query: Query, unit: int) -> bytes:
        query.symbol()
        return self._each(product, query, Reports.open_interest)

    def funding_rate(self, product: str, query: Query, unit: int) -> bytes:
        wanted = query.symbols()
        start, end = query.integer("startTime"), query.integer("endTime")
        limit = query.limit(FUNDINGS, ROWS_MAX)
        if start is not None and end is not None and start > end:
            raise ApiError(-1023, "Start time is greater than end time.")
        step = FUNDING_INTERVAL_MS
        now_ms = self.source.now_ns() // MS
        last = min(end if end is not None else now_ms, now_ms) // step
        first = max(LISTED_MS // step + 1, last - limit + 1 if start is None else -(-start // step))
        times = [number * step for number in range(first, min(last, first + limit - 1) + 1)]
        chosen = self.source.reports(product).values()
        if wanted is not None:
            chosen = [each for each in [self._reports(product, symbol) for symbol in wanted] if each is not None]
        rows = sorted((row for each in chosen for row in each.funding_rows(times)), key=lambda row: row[0])
        return _rows([text for _, text in (rows[-limit:] if start is None else rows[:limit])])

    def _each(self, product: str, query: Query, write: Callable[[Reports, int], str]) -> bytes:
        """Answer with one object for `symbol`, with an array for `symbols` or all."""
        now_ns = self.source.now_ns()
        wanted = query.symbols()
        if wanted is None:
            return _rows([write(reports, now_ns) for reports in self.source.reports(product).values()])
        chosen = [self._reports(product, symbol) for symbol in wanted]
        rows = [write(reports, now_ns) for reports in chosen if reports is not None]
        return rows[0].encode() if rows and query.single else _rows(rows)

    def _reports(self, product: str, symbol: str) -> Reports | None:
        """Return a listed symbol's reports, None where the source has none."""
        reports = self.source.reports(product).get(symbol)
        if reports is None and not self.source.listed(product, symbol):
            raise ApiError(-1121, "Invalid symbol.")
        return reports


def _rows(rows: list[str] | None) -> bytes:
    if rows is None:
        raise ApiError(-1121, "Invalid symbol.")
    return ("[" + ",".join(rows) + "]").encode()
