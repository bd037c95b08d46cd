"""One WebSocket connection of the simulated exchange: requests, limits, pings, and its share of the streams.

Protocol facts: Binance spot "WebSocket Streams" and USD-M "Live Subscribing/Unsubscribing", read 2026-11.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import msgspec
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from .hub import Hub
from .wire import frame_of

_METHODS = ("SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY")
_numbers = itertools.count(1)
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

CLOSE_TIMEOUT_S = 5.0  # for the client to take what is still unsent at a close

LifeHook = Callable[["Connection"], None]


class RequestRefused(Exception):
    """A request that is answered with `{code, msg, id}`; never leaves this module."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Connection(WSListener):
    """A client of one product's server.

    `tier` is what the URL's path routed to: "public" or "market" on USD-M ("" on spot). The un-routed USD-M URL is
    "public". Streams of another tier are acknowledged and stay silent, as on the exchange.
    """

    def __init__(
        self,
        hub: Hub,
        tier: str,
        combined: bool,
        microseconds: bool,
        streams: list[str],
        backlog_bytes_max: int,
        on_open: LifeHook,
        on_close: LifeHook,
    ) -> None:
        self.number = next(_numbers)
        self.hub = hub
        self.tier = tier
        self.combined = combined
        self.microseconds = microseconds
        self.backlog_bytes_max = backlog_bytes_max
        self._requested = streams
        self._on_open = on_open
        self._on_close = on_close
        self.subscribed: dict[str, bool] = {}  # name -> whether it is attached here, in order of subscription
        self.out: list[bytes] = []
        self.muted = False
        self.withheld = 0
        self.paused = False
        self.closed = False
        self.close_reason = ""
        self.frames_sent = 0
        self.bytes_sent = 0
        self.messages_received = 0
        self.opened_at = time.monotonic()
        self._window_start = 0.0
        self._window_count = 0
        self._fragments: list[bytes] = []
        self._ping_payload: bytes | None = None  # of the ping that waits for its pong
        self._pinged_at = self.opened_at
        self.transport: WSTransport | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self._closed_at = 0.0
        self._write: Callable[[bytes], Any] = lambda data: None

    # -- life

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self._write = transport.underlying_transport.write
        if self.microseconds:
            self.hub.microseconds += 1
        self._on_open(self)
        limit = self.hub.limits.streams_max
        if limit and len(set(self._requested)) > limit:
            self.close(WSCloseCode.POLICY_VIOLATION, f"more than {limit} streams")
            return
        for name in self._requested:
            self._subscribe(name)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._leave()
        self._on_close(self)

    def _leave(self) -> None:
        """Stop taking part: no stream, no queue, no hold on the sources."""
        if self.closed:
            return
        self.closed = True
        self._closed_at = time.monotonic()
        self.writable.set()  # whoever waits to write has to notice that it is over
        self.out.clear()
        for name, attached in self.subscribed.items():
            if attached:
                self.hub.detach(self, name)
        if self.muted:
            self.hub.muted -= 1
        if self.microseconds:
            self.hub.microseconds -= 1
        if self.paused:
            self.paused = False
            self.hub.resume()

    def close(self, code: WSCloseCode, reason: str) -> None:
        """Close with a close frame."""
        transport = self.transport
        if transport is None or self.closed:
            return
        self.close_reason = reason
        self.flush()
        self._leave()
        transport.send_close(code, reason.encode())
        transport.disconnect()

    def abort(self, reason: str) -> None:
        """Drop the connection without a close frame; what the socket has not taken is lost."""
        if self.transport is not None and not self.closed:
            self.close_reason = reason
            self._leave()
            self.transport.disconnect(graceful=False)

    # -- output

    def flush(self) -> None:
        out = self.out
        if not out or self.closed:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        self.frames_sent += len(out)
        self.bytes_sent += len(data)
        out.clear()
        self._write(data)
        if self.paused and self.backlog > self.backlog_bytes_max:
            self.abort(f"more than {self.backlog_bytes_max} bytes unsent")

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken yet."""
        return 0 if self.transport is None else self.transport.underlying_transport.get_write_buffer_size()

    def write_block(self, block: bytes | bytearray | memoryview, frames: int) -> None:
        """Write frames that are already encoded and joined."""
        self.frames_sent += frames
        self.bytes_sent += len(block)
        self._write(block)  # type: ignore[arg-type]

    def pause_writing(self) -> None:
        if not self.paused and not self.closed:
            self.paused = True
            self.writable.clear()
            self.hub.pause()

    def resume_writing(self) -> None:
        if self.paused:
            self.paused = False
            self.writable.set()
            self.hub.resume()

    def mute(self, muted: bool) -> None:
        """Go silent while the socket stays open and pings are answered: a half-open connection."""
        if muted != self.muted and not self.closed:
            self.muted = muted
            self.hub.muted += 1 if muted else -1

    # -- time

    def on_time(self, now: float) -> None:
        """Send the ping that is due, and close what has outlived a deadline. Called often by the server."""
        limits = self.hub.limits
        if self.closed:
            if now - self._closed_at >= CLOSE_TIMEOUT_S and self.transport is not None:
                self.transport.disconnect(graceful=False)
        elif limits.life_s and now - self.opened_at >= limits.life_s:
            self.close(WSCloseCode.GOING_AWAY, "connection life is over")
        elif self._ping_payload is not None:
            if limits.pong_timeout_s and now - self._pinged_at >= limits.pong_timeout_s:
                self.close(WSCloseCode.POLICY_VIOLATION, "Pong timeout")
        elif limits.ping_interval_s and now - self._pinged_at >= limits.ping_interval_s:
            self._pinged_at = now
            self._ping_payload = str(time.time_ns() // 1_000_000).encode()
            self.flush()
            self.transport.send_ping(self._ping_payload)  # type: ignore[union-attr]

    # -- input

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.closed:
            return
        kind = frame.msg_type
        if kind == WSMsgType.CLOSE:
            self.close_reason = "closed by the client"
            self._leave()
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        if not self._count_message():
            return
        if kind == WSMsgType.PING:
            self.flush()
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind == WSMsgType.PONG:
            # Only the copy of our ping keeps the connection alive; any other pong is allowed and means nothing.
            if frame.get_payload_as_bytes() == self._ping_payload:
                self._ping_payload = None
        elif frame.fin and kind == WSMsgType.TEXT:
            self._answer(frame.get_payload_as_bytes())
        else:
            self._fragments.append(frame.get_payload_as_bytes())
            if frame.fin:
                message = b"".join(self._fragments)
                self._fragments.clear()
                self._answer(message)

    def _count_message(self) -> bool:
        """Count a frame of the client; False = it was one too many in this second."""
        self.messages_received += 1
        limit = self.hub.limits.messages_per_s_max
        if not limit:
            return True
        now = time.monotonic()
        if now - self._window_start >= 1.0:
            self._window_start = now
            self._window_count = 0
        self._window_count += 1
        if self._window_count <= limit:
            return True
        self.close(WSCloseCode.POLICY_VIOLATION, "Too many requests")
        return False

    def _answer(self, message: bytes) -> None:
        ident: object = None
        known_id = False
        try:
            try:
                request = _decode(message)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise RequestRefused(3, "Invalid JSON: expected value at line 1 column 1") from None
            if not isinstance(request, dict):
                raise RequestRefused(2, "Invalid request: expected an object")
            ident = _request_id(request)
            known_id = True
            result = self._perform(request)
        except RequestRefused as refusal:
            reply: dict[str, object] = {"code": refusal.code, "msg": str(refusal)}
            if known_id:
                reply["id"] = ident
        else:
            if self.closed:
                return
            reply = {"result": result, "id": ident}
        # The acknowledgement goes before the data of what it acknowledges, and after what was queued before.
        self.flush()
        self._write(frame_of(_encode(reply)))

    def _perform(self, request: dict[str, Any]) -> object:
        if "method" not in request:
            raise RequestRefused(2, f"Invalid request: missing field `method` at line 1 column {len(_encode(request))}")
        method = request["method"]
        params = request.get("params", [])
        if method not in _METHODS:
            known = ", ".join(f"`{name}`" for name in _METHODS)
            raise RequestRefused(2, f"Invalid request: unknown variant `{method}`, expected one of {known}")
        if method == "LIST_SUBSCRIPTIONS":
            if params:
                raise RequestRefused(2, "Invalid request: too many parameters")
            return list(self.subscribed)
        if not isinstance(params, list):
            raise RequestRefused(2, "Invalid request: params must be an array")
        if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
            if not all(isinstance(name, str) for name in params):
                raise RequestRefused(2, "Invalid request: stream name must be a string")
            if method == "UNSUBSCRIBE":
                for name in params:
                    self._unsubscribe(name)
            else:
                self._subscribe_all(params)
            return None
        return self._property(method, params)

    def _property(self, method: str, params: list[Any]) -> object:
        if not params or not isinstance(params[0], str):
            raise RequestRefused(2, "Invalid request: property name must be a string")
        if params[0] != "combined":
            raise RequestRefused(0, "Unknown property")
        if len(params) > (1 if method == "GET_PROPERTY" else 2):
            raise RequestRefused(2, "Invalid request: too many parameters")
        if method == "GET_PROPERTY":
            return self.combined
        if len(params) < 2 or not isinstance(params[1], bool):
            raise RequestRefused(1, "Invalid value type: expected Boolean")
        names = list(self.subscribed)
        for name in names:
            self._unsubscribe(name)
        self.combined = params[1]
        for name in names:
            self._subscribe(name)
        return None

    def _subscribe_all(self, names: list[str]) -> None:
        limit = self.hub.limits.streams_max
        if limit and len(self.subscribed.keys() | set(names)) > limit:
            self.close(WSCloseCode.POLICY_VIOLATION, f"more than {limit} streams")
            return
        for name in names:
            self._subscribe(name)

    def _subscribe(self, name: str) -> None:
        if name in self.subscribed:
            return
        attached = not self.tier or self.hub.stream(name).name.tier == self.tier
        self.subscribed[name] = attached
        if attached:
            self.hub.attach(self, name, self.combined)

    def _unsubscribe(self, name: str) -> None:
        if self.subscribed.pop(name, False):
            self.hub.detach(self, name)


def _request_id(request: dict[str, Any]) -> object:
    """Return the request's id: a 64-bit integer, at most 36 alphanumeric characters, or null."""
    ident = request.get("id", msgspec.UNSET)
    if ident is None:
        return None
    if isinstance(ident, int) and not isinstance(ident, bool) and -(1 << 63) <= ident < 1 << 63:
        return ident
    if isinstance(ident, str) and 0 < len(ident) <= 36 and all(char.isalnum() or char in "-_" for char in ident):
        return ident
    raise RequestRefused(
        2, "Invalid request: request ID must be a signed 64-bit integer, at most 36 alphanumeric characters, or null"
    )
