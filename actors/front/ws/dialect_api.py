"""The dialect of DipMaster's API: ``{"type", "timestamp", "data"}``, four kinds of channels."""

from __future__ import annotations

import time
from typing import Any

from ..stamps import rfc3339
from .auth import Authenticator
from .connection import Connection
from .desk_channels import ALERTS, HEALTH, PNL_KIND, POSITIONS
from .dialect import ClientFrame, Scalar
from .dialect_dashboard import Dashboard
from .dialect_desk import DeskDialect
from .engine import Engine
from .errors import FrameError
from .forms import API_FORM
from .names import SHOWN_MAX
from .wire import Frame

TYPES = (ALERTS, PNL_KIND, POSITIONS, HEALTH)
INVALID_SUBSCRIPTION_TYPE = "INVALID_SUBSCRIPTION_TYPE"


class Api(DeskDialect):
    """Answers one connection's frames.

    Attributes:
        by_timeout: it was chosen because the client said nothing; an `auth` frame makes it one of the dashboard.
        path: channels named in the address.
    """

    name = "api"
    form = API_FORM
    together = True

    def __init__(self, engine: Engine, connection: Connection, authenticator: Authenticator) -> None:
        super().__init__(engine, connection, authenticator)
        self.by_timeout = False
        self.path: list[str] = []
        self.handlers = {
            "ping": self._ping, "subscribe": self._subscribe, "unsubscribe": self._unsubscribe, "auth": self._auth,
        }  # fmt: skip

    def _send(self, kind: str, data: dict[str, Any], **more: Any) -> None:
        self.connection.send_control(Frame({"type": kind, "timestamp": rfc3339(time.time_ns()), "data": data, **more}))

    def error_frame(self, error: FrameError, id: Scalar) -> Frame:
        data = {"error": error.code.lower(), "message": error.message}
        return Frame({"type": "error", "timestamp": rfc3339(time.time_ns()), "data": data, "id": id})

    def heartbeat(self) -> None:
        now_ns = time.time_ns()
        active, started_ns = self.engine.instance()
        data = {
            "server_time": rfc3339(now_ns), "active_connections": active,
            "uptime_seconds": round(max(0, now_ns - started_ns) / 1e9, 3),
        }  # fmt: skip
        self._send("heartbeat", data)

    def goodbye(self) -> None:
        """Its clients know no such frame."""

    async def subscribe_wanted(self, wanted: list[str]) -> None:
        self.path = wanted
        for kind in wanted:
            self.subscribe_kind(kind)

    def confirm(self, kind: str) -> None:
        self._send("subscription_confirmed", {"subscription_type": kind, "status": "subscribed"})

    def _type(self, frame: ClientFrame) -> str:
        kind = self.named(frame)
        if kind not in TYPES:
            raise FrameError(
                INVALID_SUBSCRIPTION_TYPE,
                f"subscription_type is {kind[:SHOWN_MAX]!r}, expected one of {', '.join(TYPES)}",
            )
        return kind

    async def _ping(self, frame: ClientFrame) -> None:
        self._send("pong", {})

    async def _subscribe(self, frame: ClientFrame) -> None:
        self.subscribe_kind(self._type(frame))

    async def _unsubscribe(self, frame: ClientFrame) -> None:
        kind = self._type(frame)
        self.unsubscribe_kind(kind)
        self._send("subscription_cancelled", {"subscription_type": kind, "status": "unsubscribed"})

    async def _auth(self, frame: ClientFrame) -> None:
        if not self.by_timeout:
            await self.auth(frame)
            return
        self.leave()
        dashboard = self.become(Dashboard)
        dashboard.wanted, dashboard.marks = self.path, self.marks
        await dashboard.take(frame)
