"""REST server of the simulated exchange: paths, request weights, refusals and bans.

Weights: Binance spot "Market Data endpoints" and USD-M "Market Data", read 2026-11.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate

import msgspec
from aiohttp import web

from .config import SPOT, USDM, Limits
from .rest_answers import Answers, ApiError, Query
from .rest_faults import RestFaults
from .source import Source
from .weights import Verdict, WeightLedger
from .wire import MS, US

_encode = msgspec.json.Encoder().encode

FUNDINGS_MAX = 500  # requests for funding rates in `FUNDINGS_WINDOW_S`; they cost no weight
FUNDINGS_WINDOW_S = 300.0

# What a request costs: (highest limit, weight), then the weight beyond; or without and with a symbol.
_DEPTH_WEIGHTS = {
    SPOT: (100, ((100, 5), (500, 25), (1000, 50)), 250),
    USDM: (500, ((50, 2), (100, 5), (500, 10)), 20),
}
_USDM_KLINE_WEIGHTS = (500, ((99, 1), (499, 2), (1000, 5)), 10)
Answer = Callable[[str, Query, int], bytes]
Weight = int | Callable[[Mapping[str, str]], int]


def _by_limit(default: int, steps: tuple[tuple[int, int], ...], beyond: int) -> Weight:
    def weigh(query: Mapping[str, str]) -> int:
        text = query.get("limit", "")
        limit = int(text) if text.isascii() and text.isdigit() else default
        return next((weight for most, weight in steps if limit <= most), beyond)

    return weigh


def _by_symbol(one: int, everything: int) -> Weight:
    return lambda query: one if "symbol" in query else everything


def _spot_ticker(query: Mapping[str, str]) -> int:
    count = 1 if "symbol" in query else query.get("symbols", "," * 100).count(",") + 1
    return 2 if count <= 20 else 40 if count <= 100 else 80


class RestServer:
    """Handlers of `/api/v3` and `/fapi/v1`."""

    def __init__(
        self, source: Source, limits: dict[str, Limits], faults: RestFaults, ledger_answers_max: int = 0
    ) -> None:
        self.faults = faults
        self.answered: dict[tuple[str, str, str], deque[bytes]] = {}  # by product, last part of the path and symbol
        self._ledger_answers_max = ledger_answers_max
        self.answers = Answers(source, limits, faults)
        self.weights = {product: WeightLedger(each) for product, each in limits.items()}
        self.counts: dict[str, int] = {}
        if USDM in limits:
            own = msgspec.structs.replace(
                limits[USDM], weight_max=FUNDINGS_MAX, weight_window_s=FUNDINGS_WINDOW_S, ban_after=0
            )
            self.fundings = WeightLedger(own)

    def routes(self) -> list[web.RouteDef]:
        answers = self.answers
        paths: dict[str, list[tuple[str, Weight, Answer]]] = {
            SPOT: [
                ("/api/v3/ping", 1, answers.ping),
                ("/api/v3/time", 1, answers.time),
                ("/api/v3/exchangeInfo", 20, answers.exchange_info),
                ("/api/v3/depth", _by_limit(*_DEPTH_WEIGHTS[SPOT]), answers.depth),
                ("/api/v3/trades", 25, answers.trades),
                ("/api/v3/aggTrades", 4, answers.agg_trades),
                ("/api/v3/klines", 2, answers.klines),
                ("/api/v3/ticker/24hr", _spot_ticker, answers.ticker),
            ],
            USDM: [
                ("/fapi/v1/ping", 1, answers.ping),
                ("/fapi/v1/time", 1, answers.time),
                ("/fapi/v1/exchangeInfo", 1, answers.exchange_info),
                ("/fapi/v1/depth", _by_limit(*_DEPTH_WEIGHTS[USDM]), answers.depth),
                ("/fapi/v1/trades", 5, answers.trades),
                ("/fapi/v1/aggTrades", 20, answers.agg_trades),
                ("/fapi/v1/klines", _by_limit(*_USDM_KLINE_WEIGHTS), answers.klines),
                ("/fapi/v1/ticker/24hr", _by_symbol(1, 40), answers.ticker),
                ("/fapi/v1/premiumIndex", _by_symbol(1, 10), answers.premium_index),
                ("/fapi/v1/openInterest", 1, answers.open_interest),
                ("/fapi/v1/fundingRate", 0, answers.funding_rate),
            ],
        }
        return [
            web.get(path, self._handler(product, path.split("/", 3)[3], weight, answer))
            for product in self.weights
            for path, weight, answer in paths[product]
        ]

    def _handler(
        self, product: str, name: str, weight: Weight, answer: Answer
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            key = f"{product}:{name}"
            self.counts[key] = self.counts.get(key, 0) + 1
            fault = self.faults.take_status(product)
            cost = weight if isinstance(weight, int) else weight(request.query)
            address = request.remote or ""
            verdict = self.weights[product].charge(address, cost)
            if name == "fundingRate" and verdict.status == 200:
                own = self.fundings.charge(address, 1)
                verdict = Verdict(own.status, verdict.used, own.retry_after_s, own.banned_until_ms)
            if fault is not None:
                verdict = Verdict(fault[0], verdict.used, fault[1], int((time.time() + fault[1]) * 1000))
            date = formatdate(self.answers.source.now_ns() / 1e9, usegmt=True)
            headers = {"Date": date, "X-MBX-USED-WEIGHT": str(verdict.used), "X-MBX-USED-WEIGHT-1M": str(verdict.used)}
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
                body = answer(product, Query(request.query), unit)
            except ApiError as error:
                status = 400
                body = _encode({"code": error.code, "msg": str(error)})
            if self._ledger_answers_max and status == 200:
                told = product, name, request.query.get("symbol", "")
                self.answered.setdefault(told, deque(maxlen=self._ledger_answers_max)).append(body)
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
