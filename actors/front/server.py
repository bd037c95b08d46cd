"""The front worker: REST, WebSocket and the first page on one socket, from shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import Iterable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.web_protocol import RequestHandler

from ..catalog import Catalog
from ..runtime import ActorContext
from . import openapi
from .auth import Authenticator
from .books import book_endpoints
from .candles import candle_endpoints
from .collector import collector_endpoints
from .config import Config
from .derivatives import derivative_endpoints
from .desk.endpoints import desk_endpoints
from .docs import docs_endpoints
from .endpoints import Answerer, Arguments, Bare, Endpoint
from .envelope import encode
from .errors import FrontError, HeaderTooLarge, MalformedRequest, UriTooLong
from .funding import funding_endpoints
from .gate import Gate
from .history import History
from .instruments import instrument_endpoints
from .integrity import integrity_endpoints
from .monitoring import monitoring_endpoints
from .page import page_endpoints
from .reply import Reply
from .state import FrontState
from .status import package_version, status_endpoints
from .subscribing import subscribe_endpoints
from .temporary import temporary_endpoints
from .tickers import ticker_endpoints
from .tokens import token_endpoints
from .trade_statistics import trade_statistics_endpoints
from .trades import trade_endpoints
from .tree import Tree
from .ws import WS_SERVER, close_ws, setup_ws, websocket_endpoints

log = logging.getLogger(__name__)

REFRESH_S = 1.0
BACKLOG = 1024
DRAIN_SHARE = 0.8  # of the time for the stop: clients say goodbye in half of it, requests under way end in the rest


class FrontProtocol(RequestHandler):
    """A connection. Differs from aiohttp's in how bytes that are no request are answered, counted and logged."""

    __slots__ = ("_gate", "_patience", "heard")

    def __init__(self, manager: web.Server, gate: Gate, **options: object) -> None:
        super().__init__(manager, **options)  # type: ignore[arg-type]
        self._gate = gate
        self._patience: asyncio.TimerHandle | None = None
        self.heard = False  # a request has come; set by the gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._patience = self._loop.call_later(self._gate.state.config.first_request_s, self._end_unless_heard)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._patience is not None:
            self._patience.cancel()  # it would keep the connection's memory
        super().connection_lost(exc)

    def _end_unless_heard(self) -> None:
        """Who sends a head byte by byte holds a connection for nothing. Later heads are bounded by the keep-alive."""
        if not self.heard and self.transport is not None:
            self._gate.too_slow.inc()
            self.transport.close()

    def handle_error(  # type: ignore[override] - a Reply has what is asked of a response
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> Reply:
        if isinstance(exc, HttpProcessingError):
            text = (exc.message or message or "not an HTTP request").partition("\n")[0]
            log.debug("client=%s sent no request: %s", request.remote, text)
            return self._gate.malformed(self._meaning(exc, text))
        log.error("client=%s request failed", request.remote, exc_info=exc)
        return self._gate.malformed(FrontError("something went wrong here"))

    def _meaning(self, exc: HttpProcessingError, text: str) -> FrontError:
        if isinstance(exc, LineTooLong):
            # the parser says which limit was passed, and `header_limit` sees to it that the two differ
            if exc.args[1] == self._gate.state.config.request_line_bytes_max:
                return UriTooLong(f"a request line of more than {exc.args[1]} bytes", details={"max": exc.args[1]})
            return HeaderTooLarge(f"a header of more than {exc.args[1]} bytes", details={"max": exc.args[1]})
        return MalformedRequest(f"not an HTTP request: {text[:200]}")


def header_limit(config: Config) -> int:
    """Longest header in bytes, never the same as the longest request line."""
    return config.header_bytes_max + (config.header_bytes_max == config.request_line_bytes_max)


class FrontServer(web.Server):
    """Makes the protocol of each connection."""

    def __init__(self, gate: Gate, **options: object) -> None:
        self._gate = gate
        super().__init__(gate, **options)  # type: ignore[arg-type]

    def __call__(self) -> RequestHandler:
        return FrontProtocol(self, self._gate, loop=self._loop, **self._kwargs)


def all_endpoints(state: FrontState, more: Iterable[Endpoint] = ()) -> list[Endpoint]:
    """Everything that is answered, and its description; `more` are those of the WebSocket side."""
    endpoints = [
        *more,
        *trade_endpoints(state), *trade_statistics_endpoints(state), *book_endpoints(state), *ticker_endpoints(state),
        *candle_endpoints(state), *funding_endpoints(state), *derivative_endpoints(state),
        *instrument_endpoints(state), *status_endpoints(state), *collector_endpoints(state, package_version()),
        *subscribe_endpoints(state), *temporary_endpoints(state), *token_endpoints(),
        *desk_endpoints(state),
        *integrity_endpoints(state), *monitoring_endpoints(state), *page_endpoints(state), *docs_endpoints(),
    ]  # fmt: skip
    described: list[Bare] = []

    def describe(_: Arguments) -> Answerer:
        return lambda: described[0]

    endpoints.append(
        Endpoint("/openapi.json", describe, "This description", enveloped=False, public=True, tag="operation")
    )
    described.append(Bare(encode(openapi.document(endpoints, package_version()))))
    return endpoints


def listening_socket(ctx: ActorContext) -> socket.socket:
    """The supervisor's socket for this worker, or one of our own where there is none."""
    if ctx.listen is not None:
        return ctx.listen
    config: Config = ctx.config
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((config.host, config.port))
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


class Front:
    """One worker, from its first socket to its last."""

    def __init__(self, ctx: ActorContext, authenticator: Authenticator | None = None) -> None:
        config: Config = ctx.config
        self.ctx = ctx
        self.catalog = Catalog(ctx.folder)
        tree = Tree(ctx.folder, config.beat_stale_s)
        self.history = History(ctx)
        self.state = FrontState(ctx, config, self.catalog, tree, self.history)
        self._authenticator = authenticator
        self._app = web.Application(client_max_size=config.body_bytes_max)
        self._app_runner: web.AppRunner | None = None
        self._server: FrontServer | None = None
        self._listener: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        config = self.state.config
        setup_ws(self._app, self.ctx, self.catalog, config.ws, self._authenticator, self.state.desk)
        self._app_runner = web.AppRunner(self._app, access_log=None)
        await self._app_runner.setup()
        inner = self._app_runner.server
        assert inner is not None
        gate = Gate(
            self.state,
            all_endpoints(self.state, websocket_endpoints(self._app[WS_SERVER])),
            package_version(),
            inner.request_handler,
            self._authenticator,
        )
        self._server = FrontServer(
            gate, request_factory=inner.request_factory, access_log=None, keepalive_timeout=config.keepalive_s,
            max_line_size=config.request_line_bytes_max, max_field_size=header_limit(config),
            max_headers=config.headers_max,
        )  # fmt: skip
        sock = listening_socket(self.ctx)
        self.port = sock.getsockname()[1] if sock.family != socket.AF_UNIX else 0
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._server, sock=sock, backlog=BACKLOG)
        self._tasks = [
            loop.create_task(self._refresh(), name="catalog"),
            loop.create_task(self.history.probe_until(self.ctx.stopping), name="history probe"),
        ]
        log.info("front=%s port=%d streams=%d", self.ctx.name, self.port, len(self.catalog.all_streams()))

    async def _refresh(self) -> None:
        while not await self.ctx.stopped_within(REFRESH_S):
            self.catalog.refresh_after(REFRESH_S * 0.9)  # the channels look too, where there are any
            self.state.desk.refresh()

    async def stop(self) -> None:
        """Take no more connections, say goodbye to those there are, and let go."""
        loop = asyncio.get_running_loop()
        over_at = loop.time() + DRAIN_SHARE * self.ctx.drain_s
        if self._listener is not None:
            self._listener.close()
        if self._app_runner is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SHARE * self.ctx.drain_s / 2):
                    await close_ws(self._app)
        if self._server is not None:
            self._server.pre_shutdown()  # idle connections end here; those with a request under way after its answer
            await asyncio.sleep(0)
            # aiohttp waits twice: for the request, and for what it cancels then
            await self._server.shutdown((over_at - loop.time()) / 2)
        if self._app_runner is not None:
            await self._app_runner.cleanup()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.state.aggregates.close()
        await self.state.desk.close()
        await self.history.close()
        self.catalog.close()


async def main(ctx: ActorContext) -> None:
    """Serve until asked to stop."""
    front = Front(ctx)
    await front.start()
    try:
        gc.collect()
        gc.freeze()  # what lives from here on lives as long as the process: a collection need not look at it again
        ctx.running()
        await ctx.beat_until_stopped()
    finally:
        await front.stop()
