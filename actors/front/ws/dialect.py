"""What all dialects have in common: a client's frame is read, judged, answered; who it is, and what counts against it.

A dialect is a subclass that says which frames there are and in what form they are answered. The engine and the
connection know nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import msgspec

from ..stamps import rfc3339
from .auth import Authenticator
from .connection import CLOSE_POLICY, Connection
from .engine import Engine
from .errors import (
    INVALID_AUTH_TOKEN,
    INVALID_FRAME,
    INVALID_PARAMETER,
    MISSING_AUTH_TOKEN,
    RATE_LIMIT_EXCEEDED,
    FrameError,
)
from .names import SHOWN_MAX
from .wire import Error, Frame

PROTOCOL = "tickring.v1"
ENCODINGS = ("json", "msgpack")

Scalar = str | int | float | bool | None


class ClientFrame(msgspec.Struct, kw_only=True):
    """Any frame of a client. `type` is a synonym of `op`; members that are not known are passed over."""

    op: str | None = None
    type: str | None = None
    id: Scalar = None
    channels: list[Any] | None = None
    channel: Any = None
    subscription_type: str | None = None
    filters: dict[str, Any] | None = None
    ts: Scalar = None
    token: str | None = None

    @property
    def what(self) -> str:
        return (self.op or self.type or "").lower()


Handler = Callable[[ClientFrame], Awaitable[None]]

_from_json = msgspec.json.Decoder(ClientFrame).decode
_from_msgpack = msgspec.msgpack.Decoder(ClientFrame).decode
_any_json = msgspec.json.Decoder().decode
_any_msgpack = msgspec.msgpack.Decoder().decode


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def read_frame(data: bytes, binary: bool) -> ClientFrame:
    """Decode a client's frame: text is JSON, binary is msgpack.

    Raises:
        FrameError: it is neither, or a member has a type that it cannot have.
    """
    try:
        return (_from_msgpack if binary else _from_json)(data)
    except msgspec.ValidationError as error:
        raise FrameError(INVALID_PARAMETER, f"frame is not understood: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        form = "msgpack" if binary else "JSON"
        raise FrameError(INVALID_FRAME, f"frame is not {form}: {str(error)[:SHOWN_MAX]}") from None


def _id_of(data: bytes, binary: bool) -> Scalar:
    """The id of a frame that is not understood otherwise, so that the client knows which one it was."""
    try:
        frame = (_any_msgpack if binary else _any_json)(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found = frame.get("id") if isinstance(frame, dict) else None
    return found if isinstance(found, str | int | float) else None


class Dialect:
    """Answers one connection's frames.

    Attributes:
        handlers: by what a frame says it is.
        before_auth: what may be said before it is known who the client is.
        wanted: channels named in the address, subscribed as soon as the client may have them.
    """

    name: ClassVar[str]
    before_auth: ClassVar[frozenset[str]] = frozenset(("auth", "ping"))

    def __init__(self, engine: Engine, connection: Connection, authenticator: Authenticator) -> None:
        self.engine = engine
        self.connection = connection
        self.authenticator = authenticator
        self.handlers: Mapping[str, Handler] = {}
        self.wanted: list[str] = []
        connection.dialect = self.name

    # -- for a subclass to say ----------------------------------------------------------------------------------

    async def subscribe_wanted(self) -> None:
        """Subscribe what the address named."""
        raise NotImplementedError

    async def match_again(self) -> None:
        """Instruments came or went: subscribe what the connection's patterns fit now."""
        raise NotImplementedError

    # -- frames -------------------------------------------------------------------------------------------------

    def welcome(self) -> None:
        """The first frame; the same in every dialect."""
        config, now_ns = self.connection.config, time.time_ns()
        facts = {
            "connection_id": self.connection.id, "server_time": rfc3339(now_ns),
            "heartbeat_interval": config.heartbeat_s, "protocol": PROTOCOL, "encodings": list(ENCODINGS),
            "auth_required": self.authenticator.required,
        }  # fmt: skip
        said = {"type": "welcome", "ts": now_ns // 1_000_000, "timestamp": rfc3339(now_ns), **facts, "data": facts}
        self.connection.send_control(Frame(said))

    async def receive(self, data: bytes, binary: bool) -> None:
        """Answer one frame. What is wrong with it becomes an `error` frame."""
        connection = self.connection
        if not connection.heard(time.monotonic()):
            self.too_fast()
            return
        frame: ClientFrame | None = None
        try:
            frame = read_frame(data, binary)
            handler = self.handlers.get(frame.what)
            if handler is None:
                message = f"op is {frame.what[:SHOWN_MAX]!r}, expected one of {', '.join(self.handlers)}"
                raise FrameError(INVALID_PARAMETER, message)
            if connection.identity is None and frame.what not in self.before_auth:
                raise FrameError(MISSING_AUTH_TOKEN, "say who you are first: {'op': 'auth', 'token': ...}")
            await handler(frame)
        except FrameError as error:
            self.error(error, frame.id if frame is not None else _id_of(data, binary))

    def too_fast(self) -> None:
        """Say that the client sends too much."""
        limit = self.connection.config.inbound_per_s
        self.error(FrameError(RATE_LIMIT_EXCEEDED, f"more than {limit} frames in a second: slow down"))

    def error(self, error: FrameError, id: Scalar = None) -> None:
        """Send an `error` frame; too many of them end the connection."""
        connection = self.connection
        self.engine.meters.errors.inc()
        connection.send_control(Frame(Error(error.code, error.message, id, error.channel)))
        if connection.blame(time.monotonic()):
            connection.close(CLOSE_POLICY, "too many errors")

    def reply(self, kind: str, frame: ClientFrame, **members: Any) -> None:
        self.connection.send_control(Frame({"type": kind, "id": frame.id, **members}))

    # -- who it is ----------------------------------------------------------------------------------------------

    async def auth(self, frame: ClientFrame) -> None:
        """An `auth` frame."""
        if self.authenticator.required and not frame.token:
            self.refuse(MISSING_AUTH_TOKEN, "token is missing")
            return
        if await self.authenticate(frame.token or ""):
            await self.begin()

    async def authenticate(self, token: str) -> bool:
        """Answer a token with `auth_success`, or with `auth_error` and the end of the connection."""
        identity = await self.authenticator.identify(token)
        if identity is None:
            self.refuse(INVALID_AUTH_TOKEN, "the token is not valid")
            return False
        self.connection.identity = identity
        body = {"type": "auth_success", "user_id": identity.user_id, "timestamp": now_ms()}
        self.connection.send_control(Frame({**body, "permissions": list(identity.permissions)}))
        return True

    async def begin(self) -> None:
        """Subscribe what the address named, once it is known that the client may."""
        if not self.wanted or self.connection.identity is None:
            return
        try:
            await self.subscribe_wanted()
        except FrameError as error:
            self.error(error)
        self.wanted = []

    def refuse(self, code: str, message: str) -> None:
        """Say why a client may not come in, and end the connection."""
        self.connection.send_control(Frame({"type": "auth_error", "code": code, "message": message}))
        self.connection.close(CLOSE_POLICY, "authentication failed")
