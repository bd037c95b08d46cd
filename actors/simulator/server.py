"""WebSocket servers of the simulated exchange: one port for spot, one for USD-M with its routed paths."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import parse_qs, unquote

from picows import (
    WSCloseCode,
    WSListener,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from .config import SPOT, Limits
from .connection import Connection
from .hub import Hub
from .wire import MARKET, PUBLIC

logger = logging.getLogger(__name__)
# picows reports each connection at INFO; the control endpoint already tells who is connected.
_picows_logger = logging.getLogger(__name__ + ".picows")
_picows_logger.setLevel(logging.WARNING)

CLOSE_GRACE_S = 0.05  # for clients to take the close frame when the server stops
MESSAGE_BYTES_MAX = 64 * 1024  # largest frame taken from a client


class WsServer:
    """One product's WebSocket server and its open connections."""

    def __init__(self, hub: Hub, backlog_bytes_max: int) -> None:
        self.hub = hub
        self.connections: dict[int, Connection] = {}
        self.attempts = 0
        self.refused = 0
        self.closed = 0
        self.close_reasons: dict[str, int] = {}
        self.on_open: Callable[[Connection], None] = lambda connection: None
        self._backlog_bytes_max = backlog_bytes_max
        self._recent: deque[float] = deque()
        self._server: asyncio.Server | None = None
        self._clock: asyncio.TimerHandle | None = None

    async def start(self, sock: socket.socket) -> None:
        self._server = await ws_create_server(
            self._accept,
            sock=sock,
            logger_name=_picows_logger,
            enable_auto_pong=False,  # a ping counts against the message limit, so we answer it ourselves
            max_frame_size=MESSAGE_BYTES_MAX,
            read_buffer_init_size=4096,
        )
        self._tick()

    async def stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
        if self._server is not None:
            self._server.close()
        for each in list(self.connections.values()):
            each.close(WSCloseCode.GOING_AWAY, "server is shutting down")
        if self.connections:
            await asyncio.sleep(CLOSE_GRACE_S)
        for each in list(self.connections.values()):
            if each.transport is not None:
                each.transport.disconnect(graceful=False)
        transports = [each.transport for each in self.connections.values() if each.transport is not None]
        await asyncio.gather(*(transport.wait_disconnected() for transport in transports), return_exceptions=True)

    # -- handshake

    def _accept(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener | None:
        """Route an upgrade request; None answers 404."""
        limits = self.hub.limits
        self.attempts += 1
        if limits.connections_max and not self._admit(limits):
            self.refused += 1
            response = WSUpgradeResponse.create_error_response(
                429, b"too many connection attempts", {"Retry-After": str(int(limits.connections_window_s))}
            )
            return WSUpgradeResponseWithListener(response, None)
        path, _, query = request.path.decode("latin-1").partition("?")
        tier = ""
        if self.hub.product != SPOT:
            tier = PUBLIC  # the retired un-routed URL still delivers the public tier
            for routed in (PUBLIC, MARKET):
                if path.startswith(f"/{routed}/"):
                    path = path[len(routed) + 1 :]
                    tier = routed
        options = parse_qs(query, encoding="utf-8")
        if path == "/stream":
            combined = True
            names = options.get("streams", [""])[-1].split("/")
        elif path == "/ws" or path.startswith("/ws/"):
            combined = False
            names = unquote(path[4:]).split("/")
        else:
            return None
        micro = self.hub.product == SPOT and options.get("timeUnit", [""])[-1].upper() == "MICROSECOND"
        streams = [name for name in names if name]
        return Connection(
            self.hub, tier, combined, micro, streams, self._backlog_bytes_max, self._opened, self._disconnected
        )

    def _admit(self, limits: Limits) -> bool:
        now = time.monotonic()
        recent = self._recent
        while recent and now - recent[0] >= limits.connections_window_s:
            recent.popleft()
        if len(recent) >= limits.connections_max:
            return False
        recent.append(now)
        return True

    def _opened(self, connection: Connection) -> None:
        self.connections[connection.number] = connection
        self.on_open(connection)

    def _disconnected(self, connection: Connection) -> None:
        self.connections.pop(connection.number, None)
        self.closed += 1
        reason = connection.close_reason or "connection lost"
        self.close_reasons[reason] = self.close_reasons.get(reason, 0) + 1

    # -- time

    def _tick(self) -> None:
        limits = self.hub.limits
        shortest = min([s for s in (limits.ping_interval_s, limits.pong_timeout_s, limits.life_s) if s], default=60.0)
        now = time.monotonic()
        for each in list(self.connections.values()):
            each.on_time(now)
        self._clock = asyncio.get_running_loop().call_later(min(1.0, max(0.01, shortest / 5)), self._tick)
