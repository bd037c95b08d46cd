"""One client: its socket, what waits for it, and what counts against it.

aiohttp does the handshake, parses what comes in and closes. What goes out is written to the transport directly: frames
are encoded and framed once for all clients, so a frame for one more client costs a call of `transport.write`. A task
exists only while the client reads too slowly.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..stamps import rfc3339
from .config import WsConfig
from .meters import Meters
from .names import ChannelRequest
from .outbox import Outbox
from .subscription import Subscription
from .wire import PING, Encoding, Frame

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from .auth import Identity
    from .forms import Form

log = logging.getLogger(__name__)

WRITE_BUFFER_BYTES = 64 << 10  # in the transport; what is beyond waits in the outbox, where it can be dropped

FLUSH_LOOK_S = 0.02

CLOSE_GOING_AWAY = 1001
CLOSE_PATH = 1002
CLOSE_ENCODING = 1003
CLOSE_POLICY = 1008
CLOSE_INTERNAL = 1011
CLOSE_IDLE = 4000
CLOSE_SLOW = 4008


class Connection:
    """A client's connection.

    Attributes:
        subs: by channel name; `patterns` are those that were given with ``*`` and go on matching. Where several fit,
            the one that was given last counts.
        replaying: subscriptions that are behind, served one after the other.
    """

    def __init__(
        self, ws: web.WebSocketResponse, request: web.Request, writer: AbstractStreamWriter, encoding: Encoding,
        config: WsConfig, meters: Meters, on_room: Callable[[Connection], None],
    ) -> None:  # fmt: skip
        transport = request.transport
        assert transport is not None, "the handshake has just gone through it"
        self.id = str(uuid.uuid4())
        self.ws = ws
        self.peer = request.remote or ""
        self.path = request.path
        self.encoding = encoding
        self.config = config
        self.meters = meters
        self.identity: Identity | None = None
        self.dialect = ""
        self.form: Form | None = None  # of the frames of its channels; None = as `v1` has them
        self.idle_timeout_s = config.idle_timeout_s
        self.connected_ns = time.time_ns()
        self.open = True
        self._clear = True
        self.subs: dict[str, Subscription] = {}
        self.patterns: list[ChannelRequest] = []
        self.replaying: deque[Subscription] = deque()
        self.dropped = 0
        now = time.monotonic()
        self.opened_at = now
        self.heard_at = now
        self.ping_at = now + config.ping_s
        self.heartbeat_at = now + config.heartbeat_s
        self.transport = transport
        self.outbox = Outbox(config.queue_frames_max, config.queue_bytes_max, encoding, self._dropped, meters.gap)
        self._protocol = request.protocol
        self._writer = writer
        self._on_room = on_room
        self._drainer: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None
        self._errors: deque[float] = deque()
        self._rebuilds: deque[float] = deque()
        self._tokens, self._tokens_at = float(config.inbound_per_s), now
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        transport.set_protocol(_Watched(self._protocol, self._transport_full))

    # -- out ----------------------------------------------------------------------------------------------------

    @property
    def clear(self) -> bool:
        """Nothing waits and the transport takes more, so a frame can be written at once."""
        return self._clear

    @clear.setter
    def clear(self, clear: bool) -> None:
        if clear is not self._clear:
            self._clear = clear
            for sub in self.subs.values():
                sub.topic.plain.resort()

    def send(self, sub: Subscription | None, frame: Frame, first: int, last: int) -> None:
        """Send a frame of a channel: at once, or when the client has read what is before it. Never raises."""
        try:
            if self._clear:
                self._write(frame.wire(self.encoding))
            elif self.open:
                self._queue(sub, frame, first, last)
        except Exception as error:  # noqa: BLE001 - logged there
            self.write_failed(error)

    def write_failed(self, error: Exception) -> None:
        """A frame could not be written."""
        if self.transport.is_closing():  # under us, and uvloop raises; the reading side ends the connection
            self.clear = False
            return
        log.error("connection=%s failed", self.id, exc_info=error)
        self.meters.failures.value += 1
        self.close(CLOSE_INTERNAL, "internal error")

    def send_control(self, frame: Frame) -> None:
        """Send what is never dropped: replies, errors, snapshots, gaps, status."""
        self.send(None, frame, 0, 0)

    def _queue(self, sub: Subscription | None, frame: Frame, first: int, last: int) -> None:
        self.outbox.put(sub, frame, first, last, time.monotonic())
        if self.outbox.overflowed:
            self.close(CLOSE_SLOW, "replies are not read")

    def _write(self, wire: bytes) -> None:
        self.transport.write(wire)
        self.meters.sent.value += 1
        self.meters.bytes.value += len(wire)

    def _transport_full(self) -> None:
        """Called by the transport from inside a write, or later when the socket did not take it."""
        self.clear = False
        if self._drainer is None and self.open:
            self._drainer = asyncio.get_running_loop().create_task(self._drain(), name=f"ws-drain-{self.id}")

    async def _drain(self) -> None:
        """Write what waits, as fast as the client reads it, until nothing does."""
        try:
            while self.open:
                await self._writer.drain()
                if self._protocol.transport is None:
                    return
                self._write_waiting()
                if not self._protocol.writing_paused:
                    self.clear = not self.outbox and self.open
                    if self.clear:
                        self._on_room(self)  # may send, and so fill the transport again
                    if self.clear:
                        return
        except (ConnectionError, RuntimeError):
            pass  # the client is gone; the reading side ends the connection
        finally:
            self._drainer = None

    def _write_waiting(self) -> None:
        outbox, protocol = self.outbox, self._protocol
        frames = size = 0
        while outbox and not protocol.writing_paused:
            wires: list[bytes] = []
            many = 0
            while many < WRITE_BUFFER_BYTES and (wire := outbox.pop()) is not None:
                wires.append(wire)
                many += len(wire)
            self.transport.writelines(wires)  # one system call
            frames += len(wires)
            size += many
        self.meters.sent.inc(frames)
        self.meters.bytes.inc(size)
        outbox.relax()

    def _dropped(self, delivery: str, frames: int) -> None:
        self.dropped += frames
        self.meters.dropped[delivery].value += frames

    def ping(self) -> None:
        """A protocol ping, unless the client is not reading anyway."""
        if self.clear and not self.transport.is_closing():
            self.transport.write(PING)

    # -- what counts against it ---------------------------------------------------------------------------------

    def heard(self, now: float) -> bool:
        """Count an inbound frame; False when there were too many."""
        self.heard_at = now
        limit = self.config.inbound_per_s
        self._tokens = min(limit, self._tokens + (now - self._tokens_at) * limit)
        self._tokens_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def blame(self, now: float) -> bool:
        """Count an error frame; True when there were too many and the connection must go."""
        return _too_many(self._errors, now, self.config.errors_window_s, self.config.errors_max)

    def rebuilt(self, now: float) -> bool:
        """Count a snapshot for a slow reader; True when there were too many."""
        return _too_many(self._rebuilds, now, self.config.rebuilds_window_s, self.config.rebuilds_max)

    # -- end ----------------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str) -> None:
        """Close with a code. Returns at once; the socket is cut if the client does not answer in time."""
        if not self.open:
            return
        self.open = self.clear = False
        self.outbox.clear()
        self.meters.closed(code)
        log.info("connection=%s peer=%s closed code=%d reason=%s", self.id, self.peer, code, reason)
        self._closer = asyncio.get_running_loop().create_task(self._close(code, reason), name=f"ws-close-{self.id}")

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(self.config.close_grace_s):
                await self.ws.close(code=code, message=reason.encode()[:120], drain=False)
                # A slow client first reads what was written before the close, and nobody tells us when it has.
                while self._protocol.transport is not None and self.transport.get_write_buffer_size():  # noqa: ASYNC110
                    await asyncio.sleep(FLUSH_LOOK_S)
        except (TimeoutError, ConnectionError, RuntimeError):
            pass
        finally:
            # `close` of a transport waits for what a dead client will never read
            self.transport.abort()

    async def closed(self) -> None:
        """Wait for the closing handshake that `close` began."""
        if self._closer is not None:
            await asyncio.wait([self._closer])

    def ended(self) -> None:
        """The socket is gone, whoever closed it."""
        self.open = self.clear = False
        self.outbox.clear()
        if self._drainer is not None:
            self._drainer.cancel()

    def describe(self) -> dict[str, Any]:
        """For the list of connections."""
        return {
            "connection_id": self.id,
            "client_ip": self.peer,
            "connect_time": rfc3339(self.connected_ns),
            "last_ping": rfc3339(time.time_ns() - round((time.monotonic() - self.heard_at) * 1e9)),
            "subscriptions": sorted(self.subs),
            "state": "connected" if self.open else "disconnected",
            "user_id": self.identity.user_id if self.identity else None,
            "dialect": self.dialect,
            "encoding": "msgpack" if self.encoding is Encoding.MSGPACK else "json",
            "queue_depth": self.outbox.frames,
            "dropped_frames": self.dropped,
        }


class _Watched(asyncio.Protocol):
    """What a transport talks to: aiohttp's protocol, and we hear at once that the transport is full.

    Asking after each write instead costs more than the write.
    """

    def __init__(self, protocol: asyncio.Protocol, on_full: Callable[[], None]) -> None:
        self.data_received = protocol.data_received
        self.eof_received = protocol.eof_received
        self.connection_lost = protocol.connection_lost
        self.resume_writing = protocol.resume_writing
        self._pause_writing = protocol.pause_writing
        self._on_full = on_full

    def pause_writing(self) -> None:
        self._pause_writing()
        self._on_full()


def _too_many(times: deque[float], now: float, window_s: float, limit: int) -> bool:
    times.append(now)
    while times[0] < now - window_s:
        times.popleft()
    return len(times) >= limit
