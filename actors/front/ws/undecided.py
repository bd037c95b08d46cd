"""A connection of which it is not known yet how it speaks: it gets no data until its first frame, or the lack of one,
has told."""

from __future__ import annotations

import asyncio
import logging
import time

from ..stamps import rfc3339
from .connection import CLOSE_INTERNAL
from .desk_channels import DESK_CHANNELS
from .dialect import ClientFrame, Dialect, now_ms
from .dialect_api import Api
from .dialect_dashboard import Dashboard
from .errors import FrameError
from .outbox import Delivery
from .v1 import V1

log = logging.getLogger(__name__)

SILENCE_S = 0.25  # whoever connects to a channel's path and says nothing for so long is a client of DipMaster's API


def choose(frame: ClientFrame) -> type[Dialect] | None:
    """The dialect that a first frame shows; None where it may be any."""
    if frame.op is not None or frame.channels is not None or frame.what in ("list", "snapshot"):
        return V1
    if frame.what == "auth":
        return Dashboard
    if frame.subscription_type is not None:
        return Api
    if frame.what == "filter" or (frame.what in ("subscribe", "unsubscribe") and isinstance(frame.channel, str)):
        return Dashboard
    return V1 if frame.channel is not None else None


class Undecided(Dialect):
    """Answers until it is known who should."""

    name = "undecided"

    def begun(self) -> None:
        self.handlers = {"ping": self._ping}
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def arrived(self) -> None:
        if not self.authenticator.required:
            self._mark()

    def _mark(self) -> None:
        for kind in self.wanted:
            if DESK_CHANNELS[kind].delivery is Delivery.PROTECTED:
                self.marks[kind] = self.engine.registry.places.counts(kind)

    async def begin(self) -> None:
        """The client may have channels: with one in its address it has them soon, whether it speaks or not."""
        if self.wanted and self.connection.identity is not None and self._timer is None:
            if self.authenticator.required:
                self._mark()
            self._timer = asyncio.get_running_loop().call_later(SILENCE_S, self._silent)

    def _silent(self) -> None:
        if not self.connection.open or self.connection.dialect != self.name:
            return
        wanted, self.wanted = self.wanted, []
        api = self.become(Api)
        assert isinstance(api, Api)
        api.by_timeout, api.wanted, api.marks = True, wanted, self.marks
        self._task = asyncio.get_running_loop().create_task(self._begin(api), name=f"ws-api-{self.connection.id}")

    async def _begin(self, api: Api) -> None:
        try:
            await api.begin()
        except Exception:
            log.exception("connection=%s failed", self.connection.id)
            self.connection.close(CLOSE_INTERNAL, "internal error")

    async def take(self, frame: ClientFrame) -> None:
        kind = choose(frame)
        if kind is None:
            await super().take(frame)
            return
        if self._timer is not None:
            self._timer.cancel()
        wanted, self.wanted = self.wanted, []
        chosen = self.become(kind)
        chosen.wanted, chosen.marks = wanted, self.marks
        try:
            await chosen.take(frame)  # first what it asks for itself: that may be where it left off
        except FrameError as error:
            chosen.error(error, frame.id)
        await chosen.begin()

    async def _ping(self, frame: ClientFrame) -> None:
        """In a form that holds for every dialect."""
        now_ns = time.time_ns()
        self.reply("pong", frame, timestamp=rfc3339(now_ns), data={}, ts=frame.ts, server_ts=now_ms())

    def heartbeat(self) -> None:
        """Its client may not know such frames."""

    async def subscribe_wanted(self, wanted: list[str]) -> None:
        raise AssertionError("nothing is subscribed before it is known how")

    async def match_again(self) -> None:
        """It has no channels."""
