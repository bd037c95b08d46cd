"""One WebSocket connection: frames go from the socket through the decoder into the rings inside one callback.

Pings of the server are answered here: picows would swallow them, and with one that ends a read the mark that nothing
follows what came before it. They say nothing about the data: whether the connection is alive is decided by `Feed` from
what the decoder accepted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

log = logging.getLogger(__name__)
# picows tells of each connection and its end at INFO and WARNING; the feed does that itself, with the reason.
_picows_log = logging.getLogger(__name__ + ".picows")
_picows_log.setLevel(logging.ERROR)

BRACE = ord("{")
READ_BUFFER_BYTES = 64 * 1024  # what one read brings stays in the second cache; picows grows it for larger frames


class Connection(WSListener):
    """The listener of one connection.

    Args:
        number: counts the connections of this feed.
        feed: the decoder: ``feed(messages, ts_recv_ns)``, those of one read. It must not raise.
        flush: called after it: publishes what they brought; ``flush(one of them, ts_recv_ns)``.
        message_bytes_max: of a message in fragments, all of them together.
        closed: called once, when the connection is gone.
    """

    def __init__(
        self,
        number: int,
        feed: Callable[[Sequence[bytes], int], object],
        flush: Callable[[bytes, int], object],
        message_bytes_max: int,
        closed: Callable[[Connection], None],
    ) -> None:
        self.number = number
        self.transport: WSTransport | None = None
        self.opened_s = 0.0  # monotonic
        self.opened_ns = 0  # wall clock
        self.counts: Callable[[], tuple[int, int]]  # messages and bytes so far
        self.reason = ""  # why it is gone
        self.error: Exception | None = None  # that our own code raised
        self.is_closed = False
        self._feed = feed
        self._flush = flush
        self._closed = closed
        self._message_bytes_max = message_bytes_max
        self._fragments: list[bytes] | None = None  # of the message that is not complete yet
        self.on_ws_frame = self._make_on_ws_frame()  # pyright: ignore[reportAttributeAccessIssue]

    # -- hot path

    def _make_on_ws_frame(self) -> Callable[[WSTransport, WSFrame], None]:
        """Build the callback. Its state lives in local variables, which are cheaper than attributes.

        The frames of one read arrived together, so they are collected and handed over at its end, with one call and one
        reading of the clock.

        The kind of a frame is dear to ask for, so what begins as a JSON object outside of a message in fragments is
        taken for a text message: no ping or pong of ours and no valid close code begins so.
        """
        feed, flush, now = self._feed, self._flush, time.time_ns
        pending: list[bytes] = []
        collect, forget = pending.append, pending.clear
        frames = size = ts = 0

        def hand_over() -> None:
            nonlocal frames, size
            frames += len(pending)
            size += sum(map(len, pending))
            one = pending[ts % len(pending)]  # any: the last is of the same channel again and again
            feed(pending, ts)
            forget()
            flush(one, ts)

        def on_ws_frame(transport: WSTransport, frame: WSFrame) -> None:
            nonlocal ts
            try:
                if not pending:
                    ts = now()
                payload = frame.get_payload_as_bytes()
                if payload and payload[0] == BRACE and frame.fin and self._fragments is None:
                    collect(payload)
                else:
                    if pending:
                        hand_over()  # what came before it; it may end the connection
                        ts = now()
                    message = self._rare(transport, frame, payload)
                    if message is not None:
                        collect(message)
                if frame.last_in_buffer and pending:
                    hand_over()
            except Exception as error:  # noqa: BLE001 - no frame raises: this is our own bug, and it ends the actor
                forget()
                self.error = self.error or error
                self.fail(f"error: {error!r}")

        def finish() -> None:
            """Hand over what a read brought before the bytes with which picows gave the connection up."""
            try:
                if pending:
                    hand_over()
            except Exception as error:  # noqa: BLE001 - as above
                forget()
                self.error = self.error or error

        self._finish = finish
        self.counts = lambda: (frames, size)
        return on_ws_frame

    @property
    def frames(self) -> int:
        """Messages handed to the decoder."""
        return self.counts()[0]

    @property
    def bytes(self) -> int:
        return self.counts()[1]

    # -- everything else

    def _rare(self, transport: WSTransport, frame: WSFrame, payload: bytes) -> bytes | None:
        """Take a frame that is not simply one message; returns the message that it completed."""
        kind = frame.msg_type
        if kind == WSMsgType.CLOSE:
            code, text = frame.get_close_code(), frame.get_close_message() or b""
            said = f"{getattr(code, 'value', code)} {text.decode('utf-8', 'replace')}".rstrip()
            self.reason = self.reason or f"closed by the exchange: {said}"
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
            return None
        if kind in (WSMsgType.PING, WSMsgType.PONG):
            if kind == WSMsgType.PING:
                transport.send_pong(payload)
            return None
        # A text that is no JSON object, a binary message, a fragment: the decoder judges what they make.
        if kind != WSMsgType.CONTINUATION or self._fragments is None:
            self._fragments = []
        self._fragments.append(payload)
        if sum(map(len, self._fragments)) > self._message_bytes_max:
            self.fail(f"oversized: a message in fragments exceeds {self._message_bytes_max} bytes")
        elif frame.fin:
            message = b"".join(self._fragments)
            self._fragments = None
            return message
        return None

    # -- life

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.opened_s, self.opened_ns = time.monotonic(), time.time_ns()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.is_closed = True
        self._finish()
        self.reason = self.reason or "connection lost"
        self._closed(self)

    def send_text(self, message: bytes) -> None:
        assert self.transport is not None
        self.transport.send(WSMsgType.TEXT, message)

    def close(self, reason: str) -> None:
        """Close politely: a close frame, then the end of the socket."""
        self._end(reason, graceful=True)

    def fail(self, reason: str) -> None:
        """Drop the socket at once: its peer no longer answers, or cannot be trusted."""
        self._end(reason, graceful=False)

    def _end(self, reason: str, *, graceful: bool) -> None:
        if self.transport is None or self.is_closed:
            return
        self.reason = self.reason or reason
        if graceful:
            self.transport.send_close(WSCloseCode.OK)
        self.transport.disconnect(graceful=graceful)


async def connect(url: str, connection: Connection, timeout_s: float, frame_bytes_max: int) -> None:
    """Open the connection of a listener.

    Raises:
        OSError, TimeoutError, picows.WSError: it could not be opened.
    """
    async with asyncio.timeout(timeout_s):
        await ws_connect(
            lambda: connection, url,
            websocket_handshake_timeout=timeout_s,
            logger_name=_picows_log,
            enable_auto_pong=False,
            max_frame_size=frame_bytes_max,
            read_buffer_init_size=READ_BUFFER_BYTES,
        )  # fmt: skip
    if connection.transport is None:  # picows returns as if connected when the peer hangs up during the handshake
        raise ConnectionResetError("hung up before the handshake was over")
