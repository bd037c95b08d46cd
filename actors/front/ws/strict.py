"""What RFC 6455 asks of clients and aiohttp does not check: masks, and messages that are not mixed up.

aiohttp's parser takes frames without a mask, and a new message in the middle of a fragmented one whose parts so far
were empty. Both must end the connection with 1002 (sections 5.1 and 5.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import WebSocketError, WSCloseCode, web

if TYPE_CHECKING:
    from collections.abc import Callable

_CONTINUATION, _CONTROL = 0, 8  # opcodes; from 8 on they are of control frames
_MASK_SIZE = 4


class FrameGuard:
    """Stands before aiohttp's parser and looks at the frames' headers.

    Args:
        reader: the parser.
        fail: called with what is wrong, once.
    """

    def __init__(self, reader: Any, fail: Callable[[WebSocketError], None]) -> None:
        self._reader = reader
        self._fail = fail
        self._header = bytearray()  # of the frame that begins, as far as it has come
        self._payload = 0  # bytes of the frame's payload that are still to come
        self._in_message = False  # more fragments follow
        self._failed = False

    def feed_eof(self) -> None:
        self._reader.feed_eof()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """As the parser's: `(nothing more is taken, what is left)`."""
        if self._failed:
            return True, b""
        wrong = self._look(data)
        if not wrong:
            return self._reader.feed_data(data)
        self._failed = True
        self._fail(WebSocketError(WSCloseCode.PROTOCOL_ERROR, wrong))
        return True, b""

    def _look(self, data: bytes) -> str:
        """Go through the frames of a read; returns what is wrong with one, or nothing."""
        at, size, header = 0, len(data), self._header
        while at < size:
            if self._payload:
                step = min(self._payload, size - at)
                self._payload -= step
                at += step
                continue
            header.append(data[at])
            at += 1
            if len(header) == 2 and (wrong := self._judge(header[0], header[1])):
                return wrong
            if len(header) < 2:
                continue
            flag = header[1] & 0x7F
            extended = 2 if flag == 126 else 8 if flag == 127 else 0
            if len(header) == 2 + extended + _MASK_SIZE:
                self._payload = int.from_bytes(header[2 : 2 + extended]) if extended else flag
                header.clear()
        return ""

    def _judge(self, first: int, second: int) -> str:
        if not second & 0x80:
            return "a frame of a client without a mask"
        opcode = first & 0x0F
        if opcode >= _CONTROL:
            return ""
        if (opcode == _CONTINUATION) is not self._in_message:
            return "a message inside another one" if self._in_message else "the rest of a message that never began"
        self._in_message = not first & 0x80
        return ""


class StrictWebSocket(web.WebSocketResponse[Any]):
    """A server's side of a WebSocket whose client must keep to the rules."""

    _guard: FrameGuard | None = None

    @property
    def _parser(self) -> FrameGuard | None:  # aiohttp feeds this
        return self._guard

    @_parser.setter
    def _parser(self, reader: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        queue = self._reader
        if reader is None or queue is None:
            self._guard = None
            return
        self._guard = FrameGuard(reader, queue.set_exception)
