"""REST of the simulated exchange: market data of both products with request weights and the exchange's own errors.

Weights and errors: Binance spot "General endpoints", "Market Data endpoints" and "Error codes", USD-M "Market Data",
read 2026-11.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from .config import SPOT, USDM, Limits
from .faults import RestFaults
from .source import Source
from .weights import Verdict, WeightLedger
from .wire import MS, US

_encode = msgspec.json.Encoder().encode

SPOT_DEPTH_MAX = 5000
USDM_DEPTH_LIMITS = (5, 10, 20, 50, 100, 500, 1000)
ROWS_MAX = 1000
HOUR_MS = 3_600_000


class ApiError(Exception):
    """An answer `{code, msg}` with an HTTP status; never leaves this module."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Query:
    """Parameters of one request, read the way the exchange reads them."""

    def __init__(self, request: web.Request) -> None:
        self._query = request.query

    def symbol(self) -> str:
        symbol = self._query.get("symbol")
        if not symbol:
            raise ApiError(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        return symbol

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


class RestServer:
    """Handlers of `/api/v3` and `/fapi/v1`."""

    def __init__(self, source: Source, limits: dict[str, Limits], faults: RestFaults) -> None:
        self.source = source
        self.faults = faults
        self.weights = {product: WeightLedger(each) for product, each in limits.items()}
        self.counts: dict[str, int] = {}

    def routes(self) -> list[web.RouteDef]:
        routes = []
        for product, prefix in ((SPOT, "/api/v3"), (USDM, "/fapi/v1")):
            if product not in self.weights:
                continue
            spot = product == SPOT
            # USD-M's `depth` depends on its limit; the other weights are fixed.
            for name, weight, handler in (
                ("ping", 1, self._ping),
                ("time", 1, self._time),
                ("exchangeInfo", 20 if spot else 1, self._exchange_info),
                ("depth", 0, self._depth),
                ("trades", 25 if spot else 5, self._trades),
                ("aggTrades", 4 if spot else 20, self._agg_trades),
            ):
                routes.append(web.get(f"{prefix}/{name}", self._handler(product, name, weight, handler)))
        return routes

    def _handler(
        self, product: str, name: str, weight: int, answer: Callable[[str, Query, int], bytes]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            key = f"{product}:{name}"
            self.counts[key] = self.counts.get(key, 0) + 1
            fault = self.faults.take_status(product)
            cost = weight or self._depth_weight(product, request)
            verdict = self.weights[product].charge(request.remote or "", cost)
            if fault is not None:
                verdict = Verdict(fault[0], verdict.used, fault[1], int((time.time() + fault[1]) * 1000))
            headers = {"X-MBX-USED-WEIGHT": str(verdict.used), "X-MBX-USED-WEIGHT-1M": str(verdict.used)}
            if verdict.status != 200:
                if verdict.status in (418, 429):
                    headers["Retry-After"] = str(verdict.retry_after_s)
                body = self._refusal(product, verdict)
                return web.Response(body=body, status=verdict.status, headers=headers, content_type="application/json")
            unit = MS
            if product == SPOT and request.headers.get("X-MBX-TIME-UNIT", "").upper() == "MICROSECOND":
                unit = US
            status = 200
            try:
                body = answer(product, Query(request), unit)
            except ApiError as error:
                status = error.status
                body = _encode({"code": error.code, "msg": str(error)})
            return web.Response(body=body, status=status, headers=headers, content_type="application/json")

        return handle

    def _refusal(self, product: str, verdict: Verdict) -> bytes:
        if verdict.status == 429:
            limit = self.weights[product].limits.weight_max
            message = (
                f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE. "
                "Please use WebSocket Streams for live updates to avoid polling the API."
            )
            return _encode({"code": -1003, "msg": message})
        if verdict.status == 418:
            message = (
                f"Way too much request weight used; IP banned until {verdict.banned_until_ms}. "
                "Please use WebSocket Streams for live updates to avoid bans."
            )
            return _encode({"code": -1003, "msg": message})
        if verdict.status == 503:
            return _encode(
                {"code": -1008, "msg": "Server is currently overloaded with other requests. Please try again."}
            )
        return _encode({"code": -1000, "msg": "An unknown error occurred while processing the request."})

    # -- handlers

    def _ping(self, product: str, query: Query, unit: int) -> bytes:
        return b"{}"

    def _time(self, product: str, query: Query, unit: int) -> bytes:
        return _encode({"serverTime": time.time_ns() // unit})

    def _exchange_info(self, product: str, query: Query, unit: int) -> bytes:
        rows = self.source.exchange_info(product)
        raw = query._query
        if product == SPOT and ("symbol" in raw or "symbols" in raw):
            try:
                wanted = (
                    {raw["symbol"]} if "symbol" in raw else set(msgspec.json.decode(raw["symbols"], type=list[str]))
                )
            except msgspec.DecodeError:
                raise ApiError(-1100, "Illegal characters found in parameter 'symbols'.") from None
            rows = [row for row in rows if row["symbol"] in wanted]
            if len(rows) < len(wanted):
                raise ApiError(-1121, "Invalid symbol.")
        limit = self.weights[product].limits.weight_max
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

    def _depth_weight(self, product: str, request: web.Request) -> int:
        text = request.query.get("limit", "")
        limit = int(text) if text.isascii() and text.isdigit() else (100 if product == SPOT else 500)
        steps = ((100, 5), (500, 25), (1000, 50)) if product == SPOT else ((50, 2), (100, 5), (500, 10))
        return next((weight for most, weight in steps if limit <= most), 250 if product == SPOT else 20)

    def _depth(self, product: str, query: Query, unit: int) -> bytes:
        symbol = query.symbol()
        limit = query.limit(100 if product == SPOT else 500, SPOT_DEPTH_MAX if product == SPOT else 1 << 62)
        if product == USDM and limit not in USDM_DEPTH_LIMITS:
            raise ApiError(-4021, f"Invalid depth limit. Valid limits are: {', '.join(map(str, USDM_DEPTH_LIMITS))}")
        body = self.faults.take_snapshot(product, symbol) or self.source.depth(product, symbol, limit)
        if body is None:
            raise ApiError(-1121, "Invalid symbol.")
        return body

    def _trades(self, product: str, query: Query, unit: int) -> bytes:
        rows = self.source.trades(product, query.symbol(), query.limit(500, ROWS_MAX), unit)
        return _rows(rows)

    def _agg_trades(self, product: str, query: Query, unit: int) -> bytes:
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


def _rows(rows: list[str] | None) -> bytes:
    if rows is None:
        raise ApiError(-1121, "Invalid symbol.")
    return ("[" + ",".join(rows) + "]").encode()
