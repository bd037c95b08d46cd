"""What the rest of the simulator needs of a source of market data, and when a source begins."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from .config import Config
from .hub import Hub, Stream
from .reports import Reports
from .wire import MS


class Source(ABC):
    """Plays market data into the hubs and answers REST from the same state.

    Methods that answer REST run between two messages, so what they return fits the streams exactly. They return None
    for a symbol that is not listed.
    """

    def __init__(self, config: Config, hubs: dict[str, Hub]) -> None:
        self.config = config
        self.hubs = hubs
        self.started = False
        self.finished = False
        self.start_command = asyncio.Event()
        self.on_start: Callable[[], None] = lambda: None
        for hub in hubs.values():
            hub.on_first = self.watch
            hub.on_last = self.unwatch

    # -- streams

    @abstractmethod
    def watch(self, stream: Stream) -> None:
        """Note that a stream has its first subscriber."""

    @abstractmethod
    def unwatch(self, stream: Stream) -> None:
        """Note that a stream has lost its last subscriber."""

    @abstractmethod
    async def run(self) -> None:
        """Play until the end, or until cancelled."""

    # -- REST

    @abstractmethod
    def exchange_info(self, product: str) -> list[dict]:
        """Return the symbol entries of exchangeInfo."""

    @abstractmethod
    def depth(self, product: str, symbol: str, limit: int) -> bytes | None:
        """Return the body of a depth snapshot with up to `limit` levels on each side."""

    def trades(self, product: str, symbol: str, limit: int, unit: int = MS) -> list[str] | None:
        """Return the JSON rows of the newest trades, oldest first."""
        return None if not self.listed(product, symbol) else []

    def agg_trades(
        self,
        product: str,
        symbol: str,
        limit: int,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        unit: int = MS,
    ) -> list[str] | None:
        """Return the JSON rows of aggregate trades: the newest, or the first that match."""
        return None if not self.listed(product, symbol) else []

    def reports(self, product: str) -> dict[str, Reports]:
        """Return what tells bars, tickers, mark prices and open interest, by symbol; a capture has none."""
        return {}

    def now_ns(self) -> int:
        """Return the source's own time in UNIX nanoseconds."""
        return time.time_ns()

    @abstractmethod
    def listed(self, product: str, symbol: str) -> bool: ...

    @abstractmethod
    def progress(self) -> dict[str, object]:
        """Return how far the source has come, for the control endpoint."""

    # -- start

    async def wait_for_start(self) -> None:
        """Wait until the configured moment; the start command always counts."""
        rule = self.config.start_rule
        if rule == "command":
            await self.start_command.wait()
        elif rule == "subscribed":
            await self._wait_for_subscribers()
        self.started = True
        self.on_start()

    async def _wait_for_subscribers(self) -> None:
        loop = asyncio.get_running_loop()
        seen = 0
        settled_at = 0.0
        while not self.start_command.is_set():
            if self.config.start_streams:
                if all(self._is_subscribed(name) for name in self.config.start_streams):
                    return
            else:
                changes = sum(hub.subscriptions for hub in self.hubs.values())
                if changes != seen:
                    seen = changes
                    settled_at = loop.time() + self.config.start_settle_s
                elif self.has_subscribers() and loop.time() >= settled_at:
                    return
            await asyncio.sleep(0.01)

    def _is_subscribed(self, name: str) -> bool:
        product, _, stream = name.partition(":")
        hub = self.hubs.get(product)
        return hub is not None and stream in hub.streams and hub.streams[stream].subscribed

    def has_subscribers(self) -> bool:
        return any(stream.subscribed for hub in self.hubs.values() for stream in hub.streams.values())

    def settle(self) -> None:
        """Send what waits for its interval."""
        self.flush()

    def flush(self) -> None:
        for hub in self.hubs.values():
            hub.flush()

    async def writable(self) -> None:
        """Wait until every connection takes data again: with it a source neither loses nor piles up anything."""
        for hub in self.hubs.values():
            while hub.paused:
                try:
                    await asyncio.wait_for(hub.writable.wait(), 0.25)
                except TimeoutError:
                    continue
