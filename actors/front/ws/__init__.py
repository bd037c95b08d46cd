"""The WebSocket side of the front: `setup_ws` adds it to an application, `close_ws` says goodbye to its clients."""

from __future__ import annotations

from aiohttp import web

from ...catalog import Catalog
from ...runtime import ActorContext
from ..desk.config import DeskConfig
from ..desk.desk import Desk
from .auth import Authenticator, Identity, NoAuthentication
from .config import WsConfig
from .server import WsServer
from .stats import websocket_endpoints

WS_SERVER = web.AppKey("tickring_ws_server", WsServer)

__all__ = [
    "WS_SERVER",
    "Authenticator",
    "Identity",
    "NoAuthentication",
    "WsConfig",
    "WsServer",
    "close_ws",
    "setup_ws",
    "websocket_endpoints",
]


def setup_ws(
    app: web.Application,
    ctx: ActorContext,
    catalog: Catalog,
    config: object,
    authenticator: Authenticator | None = None,
    desk: Desk | None = None,
) -> None:
    """Add the WebSocket routes and start the fan-out together with the application.

    Args:
        config: a `WsConfig`, or a configuration whose fields with the prefix ``ws_`` set it.
        desk: the desk's streams, where the worker has them; else they are opened here.
    """
    own: Desk | None = None
    if desk is None:
        desk = own = Desk(ctx.folder, ctx.page, DeskConfig(), data=ctx.data)
    server = app[WS_SERVER] = WsServer(ctx, catalog, WsConfig.of(config), desk, authenticator)
    app.router.add_get("/ws/stats", server.stats)
    app.router.add_get("/ws/connections", server.list_connections)
    for path in ("/ws", "/ws/v1", "/ws/market", "/ws/{channel}"):
        app.router.add_get(path, server.handle)

    async def start(app: web.Application) -> None:
        await server.start()

    async def shutdown(app: web.Application) -> None:
        await server.close()

    async def stop(app: web.Application) -> None:
        await server.stop()
        if own is not None:
            await own.close()

    app.on_startup.append(start)
    app.on_shutdown.append(shutdown)
    app.on_cleanup.append(stop)


async def close_ws(app: web.Application) -> None:
    """Close every connection with 1001, preceded by a `status` frame that says `down`."""
    await app[WS_SERVER].close()
