"""The WebSocket routes: handshake, limits, dialect, liveness, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time

from aiohttp import WSMsgType, web

from ....ringbuf import RingError, read_page
from ...catalog import Catalog
from ...runtime import ActorContext
from ..desk.desk import Desk
from . import stats
from .auth import ANONYMOUS, Authenticator, NoAuthentication, handshake_token
from .config import WsConfig
from .connection import (
    CLOSE_ENCODING,
    CLOSE_GOING_AWAY,
    CLOSE_IDLE,
    CLOSE_INTERNAL,
    CLOSE_PATH,
    CLOSE_POLICY,
    CLOSE_SLOW,
    Connection,
)
from .desk_channels import PATHS, SUPERVISOR
from .dialect import MARKET_PATH, Dialect
from .dialect_api import Api
from .dialect_dashboard import Dashboard
from .engine import Engine
from .errors import FORBIDDEN, INVALID_AUTH_TOKEN, MISSING_AUTH_TOKEN, NOT_SUPPORTED
from .neighbours import Neighbours
from .roster import Roster
from .strict import StrictWebSocket
from .undecided import Undecided
from .v1 import V1
from .wire import Encoding

log = logging.getLogger(__name__)

SUBPROTOCOLS = {"tickring.v1.json": Encoding.JSON, "tickring.v1.msgpack": Encoding.MSGPACK}
ENCODINGS = {"json": Encoding.JSON, "msgpack": Encoding.MSGPACK}
DIALECTS: dict[str, type[Dialect]] = {dialect.name: dialect for dialect in (V1, Dashboard, Api)}
PATHS_V1 = ("/ws/v1", MARKET_PATH)
SWEEP_S = 1.0
INSTANCE_LOOK_S = 1.0
REFUSED_GRACE_S = 0.25  # for the closing handshake of those that are not let in
DEFLATE_WINDOW_BITS = 15  # shared compressed frames are made for this window

_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)


class WsServer:
    """The WebSocket side of one worker."""

    def __init__(
        self, ctx: ActorContext, catalog: Catalog, config: WsConfig, desk: Desk,
        authenticator: Authenticator | None = None,
    ) -> None:  # fmt: skip
        self.ctx = ctx
        self.config = config
        self.authenticator: Authenticator = authenticator or NoAuthentication()
        self.engine = Engine(ctx, catalog, config, desk)
        self.engine.on_new_keys = self._match_patterns
        self.engine.instance = self.instance
        self._instance, self._instance_at = (0, 0), -math.inf
        self.closing = False
        self._dialects: dict[str, Dialect] = {}  # by connection id
        self.roster = Roster(ctx.folder, ctx.name, config.connections_max, config.connections_per_address_max)
        self.neighbours = Neighbours(
            ctx.folder, ctx.name, self.roster.others, lambda question: stats.answer(self.engine, question)
        )
        self._sweeper: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.engine.start()
        await self.neighbours.start()
        self._sweep()

    async def close(self) -> None:
        """Tell every client that the worker goes, and close with 1001."""
        self.closing = True
        connections = list(self.engine.connections.values())
        for connection in connections:
            if dialect := self._dialects.get(connection.id):
                dialect.goodbye()
            connection.close(CLOSE_GOING_AWAY, "server shutdown")
        if connections:
            await asyncio.wait([asyncio.ensure_future(connection.closed()) for connection in connections])

    async def stop(self) -> None:
        """Close what is open and give everything back."""
        if not self.closing:
            await self.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self.neighbours.stop()
        self.engine.stop()
        self.roster.close()

    # -- one connection -----------------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A connection, from its handshake to its end."""
        if self.closing:
            return web.json_response({"error": "the server is shutting down"}, status=503, headers={"Retry-After": "5"})
        if request.headers.get("Upgrade", "").lower() != "websocket":
            body = {"error": f"{request.path} speaks WebSocket: connect with ws://"}
            return web.json_response(body, status=426, headers={"Upgrade": "websocket"})
        kind = self._dialect(request)
        if kind is None:
            name = request.query["dialect"][:40]
            body = {"code": NOT_SUPPORTED, "error": f"dialect {name!r} is unknown: use {', '.join(DIALECTS)}"}
            return web.json_response(body, status=400)
        encoding, named = self._encoding(request)
        ws = StrictWebSocket(
            protocols=tuple(SUBPROTOCOLS),
            autoping=False,
            max_msg_size=self.config.inbound_bytes_max,
            decode_text=False,
            compress=bool(self.config.compress_from_bytes) and encoding is not Encoding.MSGPACK,
            timeout=self.config.close_grace_s,
        )
        writer = await ws.prepare(request)
        assert writer is not None
        refusal, seat = self._refusal(request, encoding, named, kind), -1
        if refusal is None:
            seat, reason = self.roster.enter(request.remote or "")
            if seat < 0:
                self.engine.meters.refused.inc()
                refusal = CLOSE_POLICY, reason
        if refusal is not None:
            with contextlib.suppress(TimeoutError):  # a storm of connects must not pile up here
                async with asyncio.timeout(REFUSED_GRACE_S):
                    await ws.close(code=refusal[0], message=refusal[1].encode())
            return ws
        assert encoding is not None
        if encoding is Encoding.JSON and ws.compress and int(ws.compress) == DEFLATE_WINDOW_BITS:
            encoding = Encoding.JSON_DEFLATE
        self._bound_kernel_buffer(request)
        try:
            connection = Connection(ws, request, writer, encoding, self.config, self.engine.meters, self.engine.room)
            await self._serve(connection, request, kind)
        finally:
            self.roster.leave(seat)
        return ws

    def _dialect(self, request: web.Request) -> type[Dialect] | None:
        """The dialect that the handshake fixes, or `Undecided`; None = one that nobody speaks."""
        asked = request.query.get("dialect")
        if asked is not None:
            return DIALECTS.get(asked.lower())
        offered = {name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")}
        v1 = request.path in PATHS_V1 or "channels" in request.query or "encoding" in request.query
        return V1 if v1 or offered & SUBPROTOCOLS.keys() else Undecided

    def _encoding(self, request: web.Request) -> tuple[Encoding | None, str]:
        """What the client wants: the subprotocol, else ``?encoding=``, else JSON; None = something unknown."""
        offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        for name in offered:
            if name in SUBPROTOCOLS:
                return SUBPROTOCOLS[name], name
        name = request.query.get("encoding", "json").lower()
        return ENCODINGS.get(name), name

    def _refusal(
        self, request: web.Request, encoding: Encoding | None, named: str, kind: type[Dialect]
    ) -> tuple[int, str] | None:
        channel = request.match_info.get("channel")
        if channel is not None and channel not in PATHS:
            return CLOSE_PATH, f"channel {channel[:40]!r} has no path of its own"
        if encoding is None:
            return CLOSE_ENCODING, f"encoding {named[:40]!r} is unknown: use json or msgpack"
        if encoding is Encoding.MSGPACK and kind is not V1:
            return CLOSE_ENCODING, "msgpack is for dialect v1"
        return None

    def _bound_kernel_buffer(self, request: web.Request) -> None:
        """What the kernel took cannot be conflated any more: let it take little, so that slowness shows here."""
        limit = self.config.unsent_bytes_max
        sock = request.transport.get_extra_info("socket") if request.transport is not None else None
        if limit and sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, limit)

    async def _serve(self, connection: Connection, request: web.Request, kind: type[Dialect]) -> None:
        engine = self.engine
        engine.connections[connection.id] = connection
        engine.meters.accepted.inc()
        engine.meters.connections.set(len(engine.connections))
        dialect = self._become(connection, kind)
        named = [name for text in request.query.getall("channels", []) for name in text.split(",") if name]
        channel = request.match_info.get("channel")
        dialect.wanted = named if channel is None else [channel, *named]
        try:
            dialect.arrived()
            dialect.welcome()
            if await self._admit(dialect, request):
                await dialect.begin()
                await self._read(connection)
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            pass  # the client hung up before it was answered
        except Exception:
            log.exception("connection=%s failed", connection.id)
            engine.meters.failures.inc()
            connection.close(CLOSE_INTERNAL, "internal error")
        finally:
            self._dialects.pop(connection.id, None)
            engine.forget(connection)
            try:
                await connection.closed()
            finally:
                connection.ended()

    def _become(self, connection: Connection, kind: type[Dialect]) -> Dialect:
        """Let a dialect answer a connection from now on."""
        dialect = self._dialects[connection.id] = kind(self.engine, connection, self.authenticator)
        dialect.become = lambda kind: self._become(connection, kind)
        return dialect

    async def _admit(self, dialect: Dialect, request: web.Request) -> bool:
        """Find out who it is, as far as the handshake says; False when it was refused."""
        token = handshake_token(request)
        if token is not None:
            return await dialect.authenticate(token)
        if not self.authenticator.required:
            dialect.connection.identity = ANONYMOUS
        return True

    async def _read(self, connection: Connection) -> None:
        ws, received = connection.ws, self.engine.meters.received
        while connection.open:
            message = await ws.receive()
            kind = message.type
            if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
                received.value += 1
                await self._dialects[connection.id].receive(message.data, kind is WSMsgType.BINARY)
            elif kind is WSMsgType.PING or kind is WSMsgType.PONG:
                if not connection.heard(time.monotonic()):
                    self._dialects[connection.id].too_fast()
                elif kind is WSMsgType.PING:
                    await ws.pong(message.data)
            else:  # CLOSE, CLOSING, CLOSED, ERROR: aiohttp has answered it
                return

    # -- now and then -------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Pings, heartbeats, and the ends of those that are idle or too slow."""
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        now = time.monotonic()
        try:
            for connection in tuple(self.engine.connections.values()):
                self._look_at(connection, now)
        except Exception:
            log.exception("sweep of connections failed")

    def _look_at(self, connection: Connection, now: float) -> None:
        config, outbox = self.config, connection.outbox
        if outbox.full_since is not None and now - outbox.full_since >= config.slow_close_s:
            connection.close(CLOSE_SLOW, "slow consumer")
        elif now - connection.heard_at >= connection.idle_timeout_s:
            connection.close(CLOSE_IDLE, "idle timeout")
        elif connection.identity is None and now - connection.opened_at >= config.auth_timeout_s:
            self._dialects[connection.id].refuse(MISSING_AUTH_TOKEN, "no auth frame came in time")
        if now >= connection.ping_at:
            connection.ping_at = now + config.ping_s
            connection.ping()
        if now >= connection.heartbeat_at:
            connection.heartbeat_at = now + config.heartbeat_s
            if connection.clear:  # else it would overtake what waits, or wait itself and be old
                self._dialects[connection.id].heartbeat()

    def _match_patterns(self) -> None:
        for connection in tuple(self.engine.connections.values()):
            dialect = self._dialects.get(connection.id)
            if connection.patterns and dialect is not None:
                task = asyncio.get_running_loop().create_task(dialect.match_again(), name=f"ws-match-{connection.id}")
                self._tasks.add(task)
                task.add_done_callback(self._matched)

    def _matched(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("matching patterns again failed", exc_info=task.exception())

    # -- statistics ---------------------------------------------------------------------------------------------

    def instance(self) -> tuple[int, int]:
        """Open connections of all workers, and the daemon's start, UNIX ns. Looked up at most once a second."""
        now = time.monotonic()
        if now - self._instance_at >= INSTANCE_LOOK_S:
            self._instance = self.roster.total(), self.started_ns()
            self._instance_at = now
        return self._instance

    def started_ns(self) -> int:
        """The daemon's start, UNIX ns; where there is no supervisor, that of this worker."""
        try:
            return read_page(self.ctx.folder / f"{SUPERVISOR}.page").started_ns
        except (RingError, OSError):
            return self.engine.started_ns

    async def stats(self, request: web.Request) -> web.Response:
        return await self._permitted(request, "read") or web.json_response(await stats.stats(self))

    async def list_connections(self, request: web.Request) -> web.Response:
        """With client addresses, so it takes more than being allowed to read."""
        return await self._permitted(request, "admin") or web.json_response(await stats.connections(self))

    async def _permitted(self, request: web.Request, permission: str) -> web.Response | None:
        """The refusal of a request that may not see it; None where it may."""
        if not self.authenticator.required:
            return None
        token = handshake_token(request)
        identity = await self.authenticator.identify(token) if token is not None else None
        if identity is None:
            code = MISSING_AUTH_TOKEN if token is None else INVALID_AUTH_TOKEN
            return _refused(401, code, "send 'Authorization: Bearer <token>' or 'X-API-Key: <key>'")
        if permission not in identity.permissions:
            return _refused(403, FORBIDDEN, f"{request.path} needs the permission {permission!r}")
        return None


def _refused(status: int, code: str, message: str) -> web.Response:
    headers = {"WWW-Authenticate": 'Bearer realm="tickring"'} if status == 401 else {}
    return web.json_response({"code": code, "error": message}, status=status, headers=headers)
