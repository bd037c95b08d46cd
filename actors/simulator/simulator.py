"""The simulated exchange as a whole: servers, hubs, one source, faults. Usable in any event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web

from .capture_source import CaptureSource
from .config import SPOT, USDM, Config, Limits
from .connection import Connection
from .control import ControlServer
from .errors import PortTaken
from .faults import WHEN, check_fault, start_fault
from .flood import FloodSource
from .hub import Hub
from .market_source import ModelSource, PacedSource
from .rest import RestServer
from .rest_faults import RestFaults
from .server import WsServer
from .source import Source

logger = logging.getLogger(__name__)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("simulator source ended", exc_info=error)


class Simulator:
    """Plays Binance spot and USD-M on loopback.

    `await start()` binds and begins; `urls` are then the base URLs a client needs; `await stop()` closes everything.
    `sockets` takes listening sockets that are bound already, by name: "spot_ws", "usdm_ws", "rest".
    """

    def __init__(self, config: Config | None = None, sockets: dict[str, socket.socket] | None = None) -> None:
        self.config = config = config or Config()
        self.hubs = {
            product: Hub(product, config.limits(product), config.ledger_frames_max) for product in config.products
        }
        self.servers = {product: WsServer(hub, self._backlog_max()) for product, hub in self.hubs.items()}
        for request in config.faults:
            check_fault(request)
        self.rest_faults = RestFaults()
        self.limits_before: dict[str, Limits] = {}  # of products whose limits a fault has changed
        self.planned_faults: list[asyncio.TimerHandle] = []
        self.faults_started: dict[str, int] = {}
        self.faults_missed = 0  # planned ones that found nothing to hit
        self.source: Source = self._make_source()
        limits = {product: config.limits(product) for product in self.hubs}
        self.rest = RestServer(self.source, limits, self.rest_faults, config.ledger_answers_max)
        self.urls: dict[str, str] = {}
        self._sockets = dict(sockets or {})
        self._runner: web.AppRunner | None = None
        self._task: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []

    def _backlog_max(self) -> int:
        """Live sources cut a slow client, as the exchange does; the others wait for it, so that nothing is lost."""
        return self.config.backlog_bytes_max if self.config.source == "model" else 1 << 62

    def _make_source(self) -> Source:
        connections = {product: server.connections for product, server in self.servers.items()}
        match self.config.source:
            case "model":
                return ModelSource(self.config, self.hubs)
            case "paced":
                return PacedSource(self.config, self.hubs)
            case "flood":
                return FloodSource(self.config, self.hubs, connections)
            case "capture":
                return CaptureSource(self.config, self.hubs, connections)

    # -- life

    async def start(self) -> None:
        """Bind all ports and begin.

        Raises `PortTaken` with the port and its configuration key, and `UnknownFault` for a configured one that
        finds nothing to hit.
        """
        config = self.config
        for request in config.faults:
            if not WHEN.keys() & request.keys():
                start_fault(self, request)
        if SPOT in self.servers:
            await self.servers[SPOT].start(self._listen("spot_ws", config.spot_ws_port))
        if USDM in self.servers:
            await self.servers[USDM].start(self._listen("usdm_ws", config.usdm_ws_port))
        application = web.Application()
        application.add_routes([*self.rest.routes(), *ControlServer(self).routes()])
        self._runner = runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.SockSite(runner, self._listen("rest", config.rest_port)).start()
        self.urls = self._make_urls()
        self.source.on_start = self._plan_faults
        self._task = asyncio.get_running_loop().create_task(self.source.run())
        self._task.add_done_callback(_report)

    def _plan_faults(self) -> None:
        """Count the times of the configured faults from now on: the source begins."""
        self.source.on_start = lambda: None
        for request in self.config.faults:
            if WHEN.keys() & request.keys():
                start_fault(self, request)

    def _listen(self, name: str, port: int) -> socket.socket:
        sock = self._sockets.get(name)
        if sock is None:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((self.config.host, port))
            except OSError as error:
                sock.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                raise PortTaken(
                    f"port {port} on {self.config.host} is in use (simulator, {name}_port): stop what listens there, "
                    f"or set {name}_port to another port or to 0"
                ) from error
            sock.listen(1024)
            self._sockets[name] = sock
        sock.setblocking(False)
        return sock

    def _make_urls(self) -> dict[str, str]:
        host = self.config.host
        ports = {name: sock.getsockname()[1] for name, sock in self._sockets.items()}
        urls = {"control": f"http://{host}:{ports['rest']}/sim"}
        if SPOT in self.hubs:
            urls |= {"spot_ws": f"ws://{host}:{ports['spot_ws']}", "spot_rest": f"http://{host}:{ports['rest']}"}
        if USDM in self.hubs:
            base = f"ws://{host}:{ports['usdm_ws']}"
            urls |= {"usdm_public_ws": f"{base}/public", "usdm_market_ws": f"{base}/market", "usdm_unrouted_ws": base}
            urls |= {"usdm_rest": f"http://{host}:{ports['rest']}"}
        return urls

    async def wait(self) -> None:
        """Wait for the source: returns when it is finished, raises what ended it."""
        assert self._task is not None, "start() has not been called"
        await asyncio.shield(self._task)

    def check(self) -> None:
        """Raise what ended the source, if something did."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def freeze(self) -> None:
        """End the source and send what is due: afterwards the streams have told everything that the books hold."""
        assert self._task is not None, "start() has not been called"
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.source.settle()

    async def stop(self) -> None:
        for timer in self._timers:
            timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for server in self.servers.values():
            await server.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        for sock in self._sockets.values():
            sock.close()

    # -- looking in

    def connections(self) -> list[Connection]:
        return [each for server in self.servers.values() for each in server.connections.values() if not each.closed]

    def call_later(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> asyncio.TimerHandle:
        """Run something later, unless the simulator stops first."""
        loop = asyncio.get_running_loop()
        self._timers = [timer for timer in self._timers if timer.when() > loop.time()]
        self._timers.append(loop.call_later(delay_s, call, *arguments))
        return self._timers[-1]

    def status(self) -> dict[str, object]:
        products = {}
        for product, hub in self.hubs.items():
            server, weights = self.servers[product], self.rest.weights[product]
            products[product] = {
                "connections": len(server.connections), "attempts": server.attempts, "refused": server.refused,
                "closed": server.closed, "close_reasons": server.close_reasons, "paused": hub.paused,
                "streams": sum(stream.subscribed for stream in hub.streams.values()),
                "frames": sum(stream.frames for stream in hub.streams.values()),
                "weights": {address: {"used": account.used, "used_max": account.used_max}
                            for address, account in weights.accounts.items()},
                "rest_refused": weights.refusals,
            }  # fmt: skip
        return {
            "source": self.config.source, "started": self.source.started, "finished": self.source.finished,
            "urls": self.urls, "progress": self.source.progress(), "products": products, "rest": self.rest.counts,
            "faults": {"started": self.faults_started, "missed": self.faults_missed},
        }  # fmt: skip
