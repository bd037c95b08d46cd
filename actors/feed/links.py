"""Keeps a feed connected: one socket, or two while the old one is replaced.

```
connecting ──▶ connected ──▶ replacing ──▶ connected
    ▲  │           │  ▲           │
    │  └─ failed   │  └─ failed ──┘ (the old one goes on)
    └── backoff ◀──┘ lost
```

A connection is replaced before the exchange ends it: at an age, or when the exchange announces its shutdown. The new
one is opened first, both deliver for a while and the decoder drops what came before; then the old one is closed.
A connection that is lost is opened anew after a random delay whose ceiling doubles with each failure ("full jitter",
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

from picows import WSError

from ...codecs.binance.wire import subscribe, unsubscribe
from ..ledger import Budget
from .config import Config
from .connection import Connection, connect
from .protocol import SUBSCRIBE_INTERVAL_S, connection_plan

log = logging.getLogger(__name__)

LIFE_JITTER = 0.05  # feeds started together are not replaced together
STABLE_S = 30.0  # a connection that delivered for so long clears the failures before it
CLOSE_TIMEOUT_S = 1.0
RETRY_REPLACE_S = 60.0  # a replacement that failed is tried again after up to this


class LinkState(StrEnum):
    STARTING = "starting"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    REPLACING = "replacing"
    BACKOFF = "backoff"
    STOPPED = "stopped"


class Owner(Protocol):
    """What links need of the feed."""

    def data_frames(self) -> int:
        """Frames so far that were market data."""
        ...

    def overlap(self, overlapping: bool) -> None:
        """Two sockets begin or cease to deliver the same streams."""
        ...

    def lost(self) -> None:
        """No socket delivers any more: something may be missing."""
        ...

    def whole(self, since_ns: int) -> None:
        """A connection carries all streams since then, after a time in which none did. Wall clock, UNIX ns."""
        ...

    def partial(self) -> None:
        """No connection carries all streams any more."""
        ...

    def renewed(self, stream: str, since_ns: int) -> None:
        """A stream was not subscribed since then, and is again, or its connection has ended. Wall clock, UNIX ns."""
        ...


class Links:
    """The connections of a feed.

    Args:
        name: of the feed, for the log.
        owner: hears of what happens to the connections.
        config: addresses and times.
        streams: what to subscribe.
        attempts: connection attempts of the address.
        take: the decoder, called with the messages of each read.
        flush: called after each read of a socket, with one of its messages and the time of receipt.
    """

    def __init__(
        self,
        name: str,
        owner: Owner,
        config: Config,
        streams: list[str],
        attempts: Budget,
        take: Callable[[Sequence[bytes], int], object],
        flush: Callable[[bytes, int], object],
    ) -> None:
        self.state = LinkState.STARTING
        self.url, self._batches = connection_plan(config.ws_url, streams)
        self.current: Connection | None = None
        self.opened = 0
        self.failures = 0  # in a row
        self.connects = 0  # that succeeded
        self.replaced = 0
        self.lost: dict[str, int] = {}  # connections that ended, by kind of end
        self.last_error = ""
        self.bytes_of_closed = 0
        self.frames_of_closed = 0
        self._name = name
        self._owner = owner
        self._config = config
        self._attempts = attempts
        self._take = take
        self._flush = flush
        self._live: dict[int, Connection] = {}
        self._changed = asyncio.Event()  # a connection ended, or a replacement is due
        self._replace_at_s = 0.0
        self._stopping = False
        self._error: Exception | None = None
        self._seen_frames = 0
        self._data_at_s = time.monotonic()
        self._silence_s = config.watchdog_s
        self._request_ids = itertools.count(1)
        self._whole: set[int] = set()  # live connections whose streams are all subscribed
        self._asked: dict[int, int] = {}  # subscriptions that are not answered, to the number of their connection
        self._renewals: dict[int, tuple[str, int]] = {}  # of single streams: name and since when, by request

    # -- what others ask and say ----------------------------------------------------------------------------------

    @property
    def frames(self) -> int:
        return self.frames_of_closed + sum(each.frames for each in self._live.values())

    @property
    def bytes(self) -> int:
        return self.bytes_of_closed + sum(each.bytes for each in self._live.values())

    @property
    def data_age_s(self) -> float:
        """Seconds since market data came last, as of the last `watch`."""
        return time.monotonic() - self._data_at_s

    def refused(self, reason: str) -> None:
        """The exchange refused a subscription: a connection that delivers only a part is worth nothing."""
        for each in list(self._live.values()):
            each.fail(f"subscription refused: {reason}")

    async def resubscribe(self, stream: str) -> bool:
        """Unsubscribe and subscribe one stream; False where the connection is being opened or replaced anyway."""
        connection = self.current
        if self.state is not LinkState.CONNECTED:
            return False
        first, second = next(self._request_ids), next(self._request_ids)
        self._renewals[second] = stream, time.time_ns()
        for message, request_id in ((unsubscribe, first), (subscribe, second)):  # it may outlive a failed replacement
            if connection is None or connection.is_closed:
                return False
            connection.send_text(message([stream], request_id))
            await asyncio.sleep(SUBSCRIBE_INTERVAL_S)
        return True

    def replace_now(self, reason: str) -> None:
        """The exchange is about to end the connection."""
        if self.state is LinkState.CONNECTED:
            log.info("feed=%s replace the connection: %s", self._name, reason)
            self._replace_at_s = 0.0
            self._changed.set()

    def watch(self) -> None:
        """Look for silence. Called once a second from the feed's loop.

        Only market data counts: a server can answer pings and acknowledge for hours while it delivers nothing.
        """
        now = time.monotonic()
        frames = self._owner.data_frames()
        if frames != self._seen_frames:
            self._seen_frames = frames
            self._data_at_s = now
            self._silence_s = self._config.watchdog_s
        connection = self.current
        if connection is None or self.state not in (LinkState.CONNECTED, LinkState.REPLACING):
            return
        silent_for = now - max(self._data_at_s, connection.opened_s)
        if silent_for > self._silence_s:
            # Where a new connection brings nothing either the market may just be quiet: look less often.
            self._silence_s = min(self._silence_s * 2, self._config.watchdog_max_s)
            for each in list(self._live.values()):
                each.fail(f"watchdog: no market data for {silent_for:.1f} s")

    def answered(self, request_id: object) -> None:
        """The exchange has taken a request."""
        if not isinstance(request_id, int):
            return
        if (renewal := self._renewals.pop(request_id, None)) is not None:
            self._owner.renewed(*renewal)
        number = self._asked.pop(request_id, None)
        if number is not None and number not in self._asked.values():
            self._carries_all(number, time.time_ns())

    def _carries_all(self, number: int, since_ns: int) -> None:
        if number in self._live:
            if not self._whole:
                self._owner.whole(since_ns)
            self._whole.add(number)

    # -- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stay connected until `stop`. Raises what our own code raised while it took a frame."""
        while not self._stopping:
            if self._error is not None:
                raise self._error
            connection = await self._open(first=True)
            if connection is None:
                self.failures += 1
                await self._back_off()
                continue
            self._adopt(connection)
            await self._serve()
            if self._stopping:
                return
            ended = self.current
            self.current = None
            self._owner.lost()
            age_s = time.monotonic() - ended.opened_s if ended else 0.0
            self.failures = 0 if age_s > STABLE_S else self.failures + 1
            self.last_error = ended.reason if ended else ""
            log.warning(
                "feed=%s lost after %.1f s: %s. Connecting anew; what was missed goes to the gap ledger",
                self._name, age_s, self.last_error,
            )  # fmt: skip
            await self._back_off()

    def _adopt(self, connection: Connection) -> None:
        if connection is not self.current:
            self._renewals.clear()  # of the one before; this one carries every stream
        self.current = connection
        life_s = self._config.life_s * random.uniform(1.0 - LIFE_JITTER, 1.0)
        self._replace_at_s = connection.opened_s + life_s
        self.state = LinkState.CONNECTED

    async def _serve(self) -> None:
        """Until the connection has ended, replacing it as often as its life is over."""
        while self.current is not None and not self.current.is_closed and not self._stopping:
            self._changed.clear()
            delay = self._replace_at_s - time.monotonic()
            if delay > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), delay)
                continue
            await self._replace(self.current)

    async def _replace(self, old: Connection) -> None:
        self.state = LinkState.REPLACING
        self._owner.overlap(True)
        try:
            new = await self._open(first=False)
            if old.is_closed:  # too late: between the two something may be missing
                self._owner.lost()
            if new is None:
                self.state = LinkState.CONNECTED
                self._replace_at_s = time.monotonic() + random.uniform(0.0, RETRY_REPLACE_S)
                return
            delivers = await self._delivers(old, new)
            if new.is_closed:
                if not old.is_closed:
                    self._adopt(old)
                    self._replace_at_s = time.monotonic() + random.uniform(0.0, RETRY_REPLACE_S)
                return
            if not delivers:
                log.warning("feed=%s the new connection is as silent as the old one; using it", self._name)
            self._adopt(new)
            self.replaced += 1
            old.close("replaced")
            log.info("feed=%s replaced: connection %d by %d", self._name, old.number, new.number)
            await asyncio.sleep(0)  # what the old one has read already is decoded as an overlap still
        finally:
            self._owner.overlap(False)

    async def _delivers(self, old: Connection, new: Connection) -> bool:
        """Wait until the new connection has delivered for `overlap_s`; False when it stays silent."""
        deadline = time.monotonic() + self._config.overlap_max_s
        while not new.frames and not new.is_closed and time.monotonic() < deadline:
            await self._sleep(0.05)
        # An old connection that is gone cannot bring what the new one lacks: nothing to wait for.
        end = time.monotonic() + self._config.overlap_s
        while not new.is_closed and not old.is_closed and time.monotonic() < end and not self._stopping:
            await self._sleep(0.05)
        return bool(new.frames)

    async def _open(self, *, first: bool) -> Connection | None:
        """Open and subscribe a connection; None when that failed."""
        config = self._config
        if first:
            self.state = LinkState.CONNECTING
        await self._attempts.reserve(1)
        self.opened += 1
        connection = Connection(self.opened, self._take, self._flush, config.frame_bytes_max, self._ended)
        self._live[connection.number] = connection
        try:
            await connect(self.url, connection, config.connect_timeout_s, config.frame_bytes_max)
            requests = [next(self._request_ids) for _ in self._batches]
            self._asked |= dict.fromkeys(requests, connection.number)
            for batch, request_id in zip(self._batches, requests, strict=True):
                await asyncio.sleep(0.0 if request_id == requests[0] else SUBSCRIBE_INTERVAL_S)
                if connection.is_closed:
                    raise ConnectionError(connection.reason)
                connection.send_text(subscribe(batch, request_id))
        except (OSError, TimeoutError, WSError, asyncio.InvalidStateError) as error:
            connection.fail("not subscribed")
            self._live.pop(connection.number, None)
            self.last_error = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            log.warning(
                "feed=%s not connected: %s. Trying again; if this goes on, look at its ws_url and the network",
                self._name, self.last_error,
            )  # fmt: skip
            return None
        if connection.is_closed:
            self.last_error = connection.reason
            return None
        self.connects += 1
        if not self._batches:
            self._carries_all(connection.number, connection.opened_ns)
        log.info("feed=%s connected: connection %d", self._name, connection.number)
        return connection

    def _ended(self, connection: Connection) -> None:
        """Called by a connection once its socket is gone."""
        if self._live.pop(connection.number, None) is not None:
            self.frames_of_closed += connection.frames
            self.bytes_of_closed += connection.bytes
        self._asked = {request: number for request, number in self._asked.items() if number != connection.number}
        if connection.number in self._whole:
            self._whole.remove(connection.number)
            if not self._whole:
                for renewal in self._renewals.values():
                    self._owner.renewed(*renewal)
                self._renewals.clear()
                self._owner.partial()
        self._error = self._error or connection.error
        kind = connection.reason.partition(":")[0]
        self.lost[kind] = self.lost.get(kind, 0) + 1
        self._changed.set()

    async def _back_off(self) -> None:
        self.state = LinkState.BACKOFF
        config = self._config
        ceiling = min(config.backoff_max_s, config.backoff_min_s * 2 ** min(self.failures, 16))
        await self._sleep(random.uniform(0.0, ceiling))

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not beyond `stop`."""
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def stop(self) -> None:
        """Close whatever is open; returns once the sockets are gone, or after a second without them."""
        self._stopping = True
        self.state = LinkState.STOPPED
        self._changed.set()
        for each in list(self._live.values()):
            each.close("stopped")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while self._live:
                    self._changed.clear()
                    await self._changed.wait()
        for each in list(self._live.values()):
            each.fail("stopped")
