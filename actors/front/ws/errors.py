"""Errors of the WebSocket side.

TickringError
└── FrameError    a client's frame cannot be answered as asked; becomes an `error` frame, or a row of `errors`
"""

from __future__ import annotations

from ....ringbuf.errors import TickringError

INVALID_FRAME = "INVALID_FRAME"  # not JSON, not msgpack, or not an object
INVALID_PARAMETER = "INVALID_PARAMETER"
NOT_FOUND = "NOT_FOUND"
NOT_SUPPORTED = "NOT_SUPPORTED"
LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
MISSING_AUTH_TOKEN = "MISSING_AUTH_TOKEN"
FORBIDDEN = "FORBIDDEN"
INVALID_AUTH_TOKEN = "INVALID_AUTH_TOKEN"


class FrameError(TickringError):
    """A client's frame asks for something that it cannot have.

    Attributes:
        code: machine-readable, upper case.
        channel: the channel it is about, where it is about one.
    """

    def __init__(self, code: str, message: str, channel: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.channel = channel
