"""What all dialects have in common: a client's frame is read, judged, answered; who it is, and what counts against it.

A dialect is a subclass that says which frames there are and in what form they are answered. The engine and the
connection know nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from ...catalog import Source
from ..stamps import rfc3339
from .auth import Authenticator
from .connection import CLOSE_POLICY, Connection
from .desk_channels import DESK_CHANNELS, DeskSource
from .engine import Engine
from .errors import (
    FORBIDDEN,
    INVALID_AUTH_TOKEN,
    INVALID_FRAME,
    INVALID_PARAMETER,
    MISSING_AUTH_TOKEN,
    NOT_SUPPORTED,
    RATE_LIMIT_EXCEEDED,
    FrameError,
)
from .forms import Form
from .names import SHOWN_MAX, ChannelRequest, channel_name
from .wire import Error, Frame, Heartbeat, Status

MARKET_PATH = "/ws/market"  # has no channels of the desk
PROTOCOL = "tickring.v1"
ENCODINGS = ("json", "msgpack")

Scalar = str | int | float | bool | None
Mark = tuple[int, str]  # a seq and its epoch


class ClientFrame(msgspec.Struct, kw_only=True):
    """Any frame of a client. `type` is a synonym of `op`; members that are not known are passed over."""

    op: str | None = None
    type: str | None = None
    id: Scalar = None
    channels: list[Any] | None = None
    channel: Any = None
    account_id: Any = None  # of the channel
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
        form: what makes the frames of its channels; None = the engine's own.
        handlers: by what a frame says it is.
        before_auth: what may be said before it is known who the client is.
        wanted: channels named in the address, subscribed as soon as the client may have them.
        marks: by kind, the last seq of each account that was before the client came, and its epoch: what happens until
            it is known how it speaks is kept back, and not lost.
    """

    name: ClassVar[str]
    form: ClassVar[Form | None] = None
    before_auth: ClassVar[frozenset[str]] = frozenset(("auth", "ping"))

    def __init__(self, engine: Engine, connection: Connection, authenticator: Authenticator) -> None:
        self.engine = engine
        self.connection = connection
        self.authenticator = authenticator
        self.handlers: Mapping[str, Handler] = {}
        self.wanted: list[str] = []
        self.marks: dict[str, dict[str, Mark]] = {}
        self.become: Callable[[type[Dialect]], Dialect] = lambda _: self  # let another dialect answer from now on
        connection.dialect = self.name
        connection.form = self.form
        self.begun()

    # -- for a subclass to say ----------------------------------------------------------------------------------

    def begun(self) -> None:
        """It answers this connection from now on."""

    def arrived(self) -> None:
        """The client is about to be told that it is in: what happens from here on is meant for it."""

    async def subscribe_wanted(self, wanted: list[str]) -> None:
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
            await self.take(frame)
        except FrameError as error:
            self.error(error, frame.id if frame is not None else _id_of(data, binary))

    async def take(self, frame: ClientFrame) -> None:
        """Answer a frame. Raises FrameError."""
        handler = self.handlers.get(frame.what)
        if handler is None:
            message = f"op is {frame.what[:SHOWN_MAX]!r}, expected one of {', '.join(self.handlers)}"
            raise FrameError(INVALID_PARAMETER, message)
        if self.connection.identity is None and frame.what not in self.before_auth:
            raise FrameError(MISSING_AUTH_TOKEN, "say who you are first: {'op': 'auth', 'token': ...}")
        await handler(frame)

    def too_fast(self) -> None:
        """Say that the client sends too much."""
        limit = self.connection.config.inbound_per_s
        self.error(FrameError(RATE_LIMIT_EXCEEDED, f"more than {limit} frames in a second: slow down"))

    def error(self, error: FrameError, id: Scalar = None) -> None:
        """Send an `error` frame; too many of them end the connection."""
        connection = self.connection
        self.engine.meters.errors.inc()
        connection.send_control(self.error_frame(error, id))
        if connection.blame(time.monotonic()):
            connection.close(CLOSE_POLICY, "too many errors")

    def error_frame(self, error: FrameError, id: Scalar) -> Frame:
        return Frame(Error(error.code, error.message, id, error.channel))

    def heartbeat(self) -> None:
        """Say that nothing is wrong, and what has been sent."""
        seqs = {name: sub.topic.seq_of(sub) for name, sub in self.connection.subs.items()}
        self.connection.send_control(Frame(Heartbeat(now_ms(), seqs)))

    def goodbye(self) -> None:
        """The worker goes."""
        self.connection.send_control(Frame(Status("*", "down", now_ms())))

    def reply(self, kind: str, frame: ClientFrame, **members: Any) -> None:
        self.connection.send_control(Frame({"type": kind, "id": frame.id, **members}))

    # -- what it may have ---------------------------------------------------------------------------------------

    def sources(self, request: ChannelRequest) -> list[Any]:
        """Where a request's channels are, as far as the client may see them.

        Raises:
            FrameError: it may not see what it named, or nothing produces it.
        """
        identity = self.connection.identity
        if not request.account:
            return self.engine.registry.sources(request)
        if self.connection.path == MARKET_PATH:
            message = f"channel {request.name!r} is the desk's, and {MARKET_PATH} has market data only: use /ws/v1"
            raise FrameError(NOT_SUPPORTED, message, request.name)
        if identity is None or "read" not in identity.permissions:
            raise FrameError(FORBIDDEN, f"channel {request.name!r} needs the permission 'read'", request.name)
        if not request.is_pattern and not self._may_see(request.kind, request.account):
            raise FrameError(FORBIDDEN, f"channel {request.name!r} is of an account that you may not see", request.name)
        return self._visible(request.kind, self.engine.registry.sources(request))

    def new_matches(self, request: ChannelRequest, have: Collection[str]) -> list[Any]:
        """What a request that goes on fits now and the client does not have."""
        found = self._visible(request.kind, self.engine.registry.matches(request))
        new = (source for source in found if channel_name(request.kind, source) not in have)
        return [source for source in new if not request.leaves_out(source)]

    def _visible(self, kind: str, sources: Sequence[Source | DeskSource]) -> list[Any]:
        return [one for one in sources if not isinstance(one, DeskSource) or self._may_see(kind, one.account)]

    def _may_see(self, kind: str, account: str) -> bool:
        identity = self.connection.identity
        return identity is not None and (identity.may_see(account) or not DESK_CHANNELS[kind].of_account)

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
        body = {"type": "auth_success", "user_id": identity.user_id, "timestamp": self.timestamp()}
        self.connection.send_control(Frame({**body, "permissions": list(identity.permissions)}))
        return True

    def timestamp(self) -> Any:
        """Now, as this dialect writes it."""
        return rfc3339(time.time_ns())

    async def begin(self) -> None:
        """Subscribe what the address named, once it is known that the client may."""
        if not self.wanted or self.connection.identity is None:
            return
        wanted, self.wanted = self.wanted, []
        try:
            await self.subscribe_wanted(wanted)
        except FrameError as error:
            self.error(error)

    def refuse(self, code: str, message: str) -> None:
        """Say why a client may not come in, and end the connection."""
        self.connection.send_control(Frame({"type": "auth_error", "code": code, "message": message}))
        self.connection.close(CLOSE_POLICY, "Authentication failed")
