"""The dialect of DipMaster's dashboard: an `auth` frame first, channels, filters, arrays of records."""

from __future__ import annotations

import time
from typing import Any

from ..stamps import rfc3339
from .auth import Authenticator
from .connection import Connection
from .desk_channels import PATHS, SYSTEM
from .dialect import ClientFrame, Scalar
from .dialect_desk import DeskDialect
from .engine import Engine
from .errors import MISSING_AUTH_TOKEN, FrameError
from .forms import DASHBOARD_FORM
from .names import read_filters
from .wire import Frame


class Dashboard(DeskDialect):
    """Answers one connection's frames."""

    name = "dashboard"
    form = DASHBOARD_FORM
    together = False
    before_auth = frozenset(("auth",))

    def __init__(self, engine: Engine, connection: Connection, authenticator: Authenticator) -> None:
        super().__init__(engine, connection, authenticator)
        self._given: dict[str, Any] = {}  # filters as the client wrote them
        self.handlers = {
            "auth": self.auth, "ping": self._ping, "subscribe": self._subscribe, "unsubscribe": self._unsubscribe,
            "filter": self._filter,
        }  # fmt: skip

    def begun(self) -> None:
        self.connection.idle_timeout_s = self.connection.config.dashboard_idle_timeout_s

    def _send(self, kind: str, **members: Any) -> None:
        self.connection.send_control(Frame({"type": kind, **members, "timestamp": rfc3339(time.time_ns())}))

    def error_frame(self, error: FrameError, id: Scalar) -> Frame:
        body = {"type": "error", "code": error.code, "message": error.message, "channel": error.channel, "id": id}
        return Frame({**body, "timestamp": rfc3339(time.time_ns())})

    def heartbeat(self) -> None:
        self._send("heartbeat")

    async def take(self, frame: ClientFrame) -> None:
        if self.connection.identity is None and frame.what != "auth":
            self.refuse(MISSING_AUTH_TOKEN, "the first frame must be {'type': 'auth', 'token': ...}")
            return
        await super().take(frame)

    async def subscribe_wanted(self, wanted: list[str]) -> None:
        for kind in wanted:
            self.subscribe_kind(kind)

    def confirm(self, kind: str) -> None:
        self._send("subscribed", channel=kind)

    async def _ping(self, frame: ClientFrame) -> None:
        self._send("pong")

    async def _subscribe(self, frame: ClientFrame) -> None:
        kind = self.named(frame)
        if kind in PATHS:  # its clients expect no answer for a channel that is unknown
            self.subscribe_kind(kind)

    async def _unsubscribe(self, frame: ClientFrame) -> None:
        kind = self.named(frame)
        if kind in PATHS:
            self.unsubscribe_kind(kind)
            self._send("unsubscribed", channel=kind)

    async def _filter(self, frame: ClientFrame) -> None:
        """Filters are merged into those before; one that is null goes."""
        merged = {**self._given, **(frame.filters or {})}
        given = {name: value for name, value in merged.items() if value is not None}
        self.filters = read_filters(given)
        self._given = given
        for sub in self.connection.subs.values():
            if sub.topic.kind != SYSTEM:
                sub.filters = self.filters
                sub.topic.refilter(sub)
        self._send("filter_set", filters=given)
