"""What every actor is given, and the few lines that all of them need: heartbeat, stop, doorbell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy.ma  # noqa: F401 - `np.unique` would load it: before the fork its 7 MB are shared

from ..ringbuf import MetricsPage, State

BEAT_INTERVAL_S = 0.5
T = TypeVar("T")


class Stopped(Exception):
    """The stop came before what was waited for; never leaves an actor."""


@dataclass
class ActorContext:
    """An actor's place in the tree. Made by the supervisor's child right after the fork, or by a test."""

    name: str  # unique in the instance: feed-binance-spot-0, writer, front-1
    kind: str  # feed, writer, front, clickhouse, simulator
    folder: Path  # the instance's folder in shared memory
    data: Path  # the instance's folder on disk
    config: Any  # the kind's Config
    page: MetricsPage
    doorbells: Sequence[int] = ()  # eventfds by doorbell number
    doorbell_index: int | None = None  # this actor's own
    listen: socket.socket | None = None  # bound by the supervisor, kept across restarts of the actor
    drain_s: float = 10.0  # it may take so long to stop; then it is killed
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def beat(self) -> None:
        """Say that the work loop turns. At least once a second, from the loop that does the work."""
        self.page.beat(time.monotonic_ns())

    def running(self) -> None:
        """Say that start-up is over."""
        self.page.state = State.RUNNING
        self.beat()

    def stop(self) -> None:
        """Ask the actor to drain and return."""
        self.page.state = State.DRAINING
        self.stopping.set()

    async def stopped_within(self, seconds: float) -> bool:
        """Wait at most so long for the stop; True when it came."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # `wait_for` would make a task each time
                await self.stopping.wait()
        return self.stopping.is_set()

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """The result of `work`, which is cancelled when the stop comes first.

        Raises:
            Stopped
        """
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise Stopped
            return working.result()
        finally:
            for future in (working, stopping):
                future.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def beat_until_stopped(self) -> None:
        """For actors whose work is done in callbacks of the event loop: the loop that turns is the one that beats."""
        while not self.stopping.is_set():
            self.beat()
            await self.stopped_within(BEAT_INTERVAL_S)

    def on_bell(self, callback: Callable[[], None]) -> None:
        """Call `callback` from the event loop each time this actor's doorbell is rung."""
        assert self.doorbell_index is not None, f"actor {self.name} has no doorbell"
        fd = self.doorbells[self.doorbell_index]

        def rung() -> None:
            try:
                os.eventfd_read(fd)
            except BlockingIOError:
                return  # another look has drained it
            callback()

        asyncio.get_running_loop().add_reader(fd, rung)

    def stop_on_signals(self) -> None:
        """SIGTERM and SIGINT ask for a drain; the handlers only set the event."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
