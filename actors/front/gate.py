"""Every request passes here: found, checked, answered, counted.

The usual request has been seen before in the same words: its text leads to a prepared function that returns bytes, and
one write sends them. What is not REST (WebSocket) goes on to the aiohttp application.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiohttp import HttpVersion11, web

from . import envelope
from .auth import Authenticator, NoAuthentication, authenticate, refuse_other_accounts, refuse_other_origins
from .endpoints import JSON, Answerer, Bare, Endpoint, Enveloped, Router
from .errors import FrontError, MalformedRequest, PayloadTooLarge, RateLimitExceeded, is_legacy, legacy_code
from .limiter import RateLimiter
from .reply import FlowControlledReply, HeadBuilder, Reply, accepts_gzip, gzipped
from .served import Meter, Served
from .stamps import NS, RequestIds, rfc3339
from .state import FrontState

log = logging.getLogger(__name__)

WEBSOCKET_PREFIX = "/ws"
PAGE_PATH = "/index.html"
LARGE = 128 << 10  # responses from here on are written under flow control
_NO_HEADERS: Mapping[str, str] = {}
Parts = tuple[bytes, ...]  # of a body: a large one is copied once, into the response
Fallback = Callable[[Any], Awaitable[web.StreamResponse]]
Prepared = tuple[Endpoint, Answerer, Meter]


def prefers_html(accept: str) -> bool:
    """Whether ``/`` shows the page: to whoever asks for HTML, as browsers do. Others get a banner."""
    return "text/html" in accept


def _split(target: str) -> tuple[str, str]:
    """Path and query of a request's target."""
    path, _, query = target.partition("#")[0].partition("?")
    if "://" in path[:10]:  # a proxy's absolute form
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    return path, query


class Gate:
    """The handler of a `web.Server`.

    Args:
        fallback: handles the paths of the WebSocket side.
        authenticator: asked for every path that is not public.
    """

    def __init__(
        self,
        state: FrontState,
        endpoints: Iterable[Endpoint],
        version: str,
        fallback: Fallback,
        authenticator: Authenticator | None = None,
    ) -> None:
        config = state.config
        self.state = state
        self.router = Router(endpoints)
        self._fallback = fallback
        self._authenticator = authenticator or NoAuthentication()
        self._locked = self._authenticator.required
        self._limiter = RateLimiter(config.rate_limit_calls, config.rate_limit_period_s, config.rate_limit_clients_max)
        self._heads = HeadBuilder(version, config.rate_limit_calls)
        self._gzip_min = config.gzip_bytes_min
        self._request_id = RequestIds()
        self._prepared: dict[str, Prepared] = {}
        self._generation = state.catalog.generation
        page = state.ctx.page
        self._served = Served(page)
        self.too_slow = page.counter(
            "tickring_front_slow_heads_total", "Connections closed before a whole request came"
        )

    async def __call__(self, request: web.BaseRequest) -> Any:
        """Answer one request."""
        started = time.perf_counter()
        request.protocol.heard = True  # type: ignore[attr-defined]
        target = request.raw_path
        if target.startswith(WEBSOCKET_PREFIX):
            return await self._fallback(request)
        if target == "/" and prefers_html(request.headers.get("Accept", "")):
            target = PAGE_PATH
        now_ns = time.time_ns()
        request_id = self._request_id()
        remaining, reset_s = self._limiter.take(request.remote or "", started, now_ns / NS)
        try:
            if remaining < 0:
                raise self._too_many(started)
            if self.state.catalog.generation != self._generation:
                self._forget()
            prepared = self._prepared.get(target)
            if prepared is None or request.method != "GET" or self._locked:
                prepared = await self._prepare(request, target)
            endpoint, answerer, meter = prepared
            answer = answerer()
            if not isinstance(answer, (bytes, Bare, Enveloped)):
                answer = await answer
            status, content_type, headers = 200, endpoint.content_type, _NO_HEADERS
            if isinstance(answer, Bare):
                parts: Parts = (answer.body, *answer.rest)
                status, content_type, headers = answer.status, answer.content_type, answer.headers
            else:
                if isinstance(answer, Enveloped):
                    answer, status, headers = answer.members, answer.status, answer.headers
                elapsed_ms = (time.perf_counter() - started) * 1000
                parts = (envelope.success_head(rfc3339(now_ns), request_id, elapsed_ms), answer, b"}")
        except Exception as error:  # noqa: BLE001 - whatever happens, the client gets an answer in our form
            failure = self._failure(error, target)
            elapsed_ms = (time.perf_counter() - started) * 1000
            parts = (envelope.error_body(failure, rfc3339(now_ns), request_id, elapsed_ms),)
            status, content_type, headers = failure.status, JSON, failure.headers
            meter = self._meter_of(target, request.method)
        return self._reply(
            request, parts, status, content_type, headers, meter, now_ns, request_id, started, remaining, reset_s
        )

    # -- finding the answer ---------------------------------------------------------------------------------------

    async def _prepare(self, request: web.BaseRequest, target: str) -> Prepared:
        """Find and check: the slow way, once for each text of a request."""
        length = request.content_length
        if length is not None and length > self.state.config.body_bytes_max:
            raise PayloadTooLarge(
                f"a body of {length:,} bytes: at most {self.state.config.body_bytes_max:,} are taken",
                details={"length": length, "max": self.state.config.body_bytes_max},
            )
        path, query = _split(target)
        endpoint, path_values = self.router.find(path, request.method)
        identity = None
        if self._locked and not endpoint.public:
            identity = await authenticate(request, self._authenticator, endpoint.permission)
        if endpoint.method != "GET":
            refuse_other_origins(request)
            arguments = endpoint.arguments(path_values, query, await self._body(request))
            if identity is not None:
                refuse_other_accounts(identity, endpoint, arguments)
            return endpoint, endpoint.prepare(arguments), self._served.meter(endpoint)
        known = self._prepared.get(target)
        if known is not None and (identity is None or identity.accounts is None):
            return known
        arguments = endpoint.arguments(path_values, query)
        if identity is not None:
            refuse_other_accounts(identity, endpoint, arguments)
        prepared = known or (endpoint, endpoint.prepare(arguments), self._served.meter(endpoint))
        if len(self._prepared) >= self.state.config.prepared_calls_max:
            self._prepared.clear()
            self.state.kept_bytes = 0
        if self.state.catalog.generation == self._generation:
            self._prepared[target] = prepared
        return prepared

    async def _body(self, request: web.BaseRequest) -> bytes:
        config = self.state.config
        try:
            async with asyncio.timeout(config.first_request_s):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise PayloadTooLarge(
                f"a body of more than {config.body_bytes_max:,} bytes", details={"max": config.body_bytes_max}
            ) from None
        except TimeoutError:
            raise MalformedRequest(f"the body did not come within {config.first_request_s:g} s") from None

    def _forget(self) -> None:
        self._prepared.clear()
        self.state.forget()
        self._generation = self.state.catalog.generation

    def _meter_of(self, target: str, method: str) -> Meter:
        """Of a request that failed, maybe before its endpoint was found."""
        try:
            return self._served.meter(self.router.find(_split(target)[0], method)[0])
        except FrontError:
            return self._served.meter(None)

    # -- failing --------------------------------------------------------------------------------------------------

    def _too_many(self, now_s: float) -> RateLimitExceeded:
        config = self.state.config
        return RateLimitExceeded(
            f"more than {config.rate_limit_calls:,} calls in {config.rate_limit_period_s:g} s: wait for Retry-After",
            details={"limit": config.rate_limit_calls, "period_s": config.rate_limit_period_s},
            headers={"Retry-After": str(self._limiter.retry_after_s(now_s))},
        )

    def _failure(self, error: Exception, target: str) -> FrontError:
        if not isinstance(error, FrontError):
            log.error("request=%s failed", target[:200], exc_info=error)
            error = FrontError("something went wrong here; the log has it under this request's path", details={})
        if is_legacy(target):
            error.code = legacy_code(error)
        return error

    # -- sending --------------------------------------------------------------------------------------------------

    def _reply(
        self, request: web.BaseRequest, parts: Parts, status: int, content_type: str, headers: Mapping[str, str],
        meter: Meter, now_ns: int, request_id: str, started: float, remaining: int, reset_s: int,
    ) -> Reply:  # fmt: skip
        length = sum(map(len, parts))
        if length >= self._gzip_min and accepts_gzip(request.headers.get("Accept-Encoding", "")):
            parts = (gzipped(b"".join(parts)),)
            length = len(parts[0])
            headers = {**headers, "Content-Encoding": "gzip"}
        process_s = time.perf_counter() - started
        now_s, remaining, get = now_ns // NS, max(0, remaining), request.method == "GET"
        # a body that nobody reads ends the connection, instead of being waited for
        keep_alive = request.keep_alive and not (request.body_exists and not request.content.is_eof())
        usual = status == 200 and get and keep_alive and not headers and content_type == JSON
        if usual and request.version == HttpVersion11:
            head = self._heads.usual(now_s, length, request_id.encode(), process_s, remaining, reset_s)
        else:
            connection = "" if request.version == HttpVersion11 else "keep-alive"
            head = self._heads.any(
                now_s=now_s, status=status, content_type=content_type, length=length, request_id=request_id,
                process_s=process_s, remaining=remaining, reset_s=reset_s, headers=headers,
                connection=connection if keep_alive else "close",
            )  # fmt: skip
        data = (head, *parts) if request.method != "HEAD" else (head,)
        self._served.answered(meter, process_s, status, len(head) + length)
        return (FlowControlledReply if length >= LARGE else Reply)(data, status, keep_alive)

    def malformed(self, error: FrontError) -> Reply:
        """The answer to bytes that are no HTTP request, or one beyond the limits; the connection ends with it."""
        now_ns, status = time.time_ns(), error.status
        request_id = self._request_id()
        body = envelope.error_body(error, rfc3339(now_ns), request_id, 0.0)
        self._served.malformed(status)
        head = self._heads.any(
            now_s=now_ns // NS, status=status, content_type=JSON, length=len(body), request_id=request_id,
            process_s=0.0, remaining=self._limiter.calls, reset_s=now_ns // NS + 1, connection="close",
        )  # fmt: skip
        return Reply((head, body), status, False)
