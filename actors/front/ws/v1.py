"""The `tickring.v1` dialect: what a client may say, and what it is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from .auth import Authenticator
from .connection import CLOSE_POLICY, Connection
from .engine import Engine
from .errors import (
    INVALID_AUTH_TOKEN,
    INVALID_FRAME,
    INVALID_PARAMETER,
    LIMIT_EXCEEDED,
    MISSING_AUTH_TOKEN,
    NOT_FOUND,
    RATE_LIMIT_EXCEEDED,
    FrameError,
)
from .names import SHOWN_MAX, ChannelRequest, channel_name, read_channel, read_filters
from .subscription import Subscription
from .wire import Error, Frame

OPS = ("subscribe", "unsubscribe", "filter", "list", "snapshot", "ping", "auth")
SLICE_S = 0.002  # work done for one client before the event loop goes on to the others

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


_from_json = msgspec.json.Decoder(ClientFrame).decode
_from_msgpack = msgspec.msgpack.Decoder(ClientFrame).decode
_any_json = msgspec.json.Decoder().decode
_any_msgpack = msgspec.msgpack.Decoder().decode


def _now_ms() -> int:
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


class Slice:
    """Lets the event loop serve others while one client's long request is worked through."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def breathe(self) -> None:
        if time.monotonic() - self._began > SLICE_S:
            await asyncio.sleep(0)
            self._began = time.monotonic()


class V1:
    """Answers one connection's frames."""

    name = "v1"

    def __init__(self, engine: Engine, connection: Connection, authenticator: Authenticator) -> None:
        self.engine = engine
        self.connection = connection
        self.authenticator = authenticator
        connection.dialect = self.name
        self._handlers: dict[str, Callable[[ClientFrame], Any]] = {
            "subscribe": self._subscribe, "unsubscribe": self._unsubscribe, "filter": self._filter, "list": self._list,
            "snapshot": self._snapshot, "ping": self._ping, "auth": self._auth,
        }  # fmt: skip

    # -- frames -------------------------------------------------------------------------------------------------

    async def receive(self, data: bytes, binary: bool) -> None:
        """Answer one frame. What is wrong with it becomes an `error` frame."""
        connection = self.connection
        frame: ClientFrame | None = None
        try:
            if not connection.heard(time.monotonic()):
                raise FrameError(
                    RATE_LIMIT_EXCEEDED, f"more than {connection.config.inbound_per_s} frames in a second: slow down"
                )
            frame = read_frame(data, binary)
            handler = self._handlers.get(frame.what)
            if handler is None:
                message = f"op is {frame.what[:SHOWN_MAX]!r}, expected one of {', '.join(OPS)}"
                raise FrameError(INVALID_PARAMETER, message)
            if connection.identity is None and frame.what not in ("auth", "ping"):
                raise FrameError(MISSING_AUTH_TOKEN, "say who you are first: {'op': 'auth', 'token': ...}")
            await handler(frame)
        except FrameError as error:
            self.error(error, frame.id if frame is not None else _id_of(data, binary))

    def error(self, error: FrameError, id: Scalar = None) -> None:
        """Send an `error` frame; too many of them end the connection."""
        connection = self.connection
        self.engine.meters.errors.inc()
        connection.send_control(Frame(Error(error.code, error.message, id, error.channel)))
        if connection.blame(time.monotonic()):
            connection.close(CLOSE_POLICY, "too many errors")

    def _reply(self, kind: str, frame: ClientFrame, **members: Any) -> None:
        self.connection.send_control(Frame({"type": kind, "id": frame.id, **members}))

    # -- subscribe ----------------------------------------------------------------------------------------------

    async def _subscribe(self, frame: ClientFrame) -> None:
        requests, errors = self._requests(frame)
        self.engine.pump_all()  # a client that resumes may have seen more from another worker than we have handed out
        begun: list[tuple[Subscription, bool]] = []
        rows: list[dict[str, Any]] = []
        turn = Slice()
        for request in requests:
            try:
                sources = self.engine.registry.sources(request)
            except FrameError as error:
                errors.append(_error_row(error))
                continue
            if request.is_pattern and len(self.connection.patterns) < self.connection.config.channels_max:
                self.connection.patterns.append(request)
            errors += await self._take(request, sources, begun, rows, turn)
        self._reply("subscribed", frame, channels=rows, **({"errors": errors} if errors else {}))
        await self._begin(begun, turn)

    async def _take(
        self, request: ChannelRequest, sources: list[Any], begun: list[tuple[Subscription, bool]],
        rows: list[dict[str, Any]], turn: Slice,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Make the subscriptions of one request; returns the rows of `errors`."""
        engine, connection = self.engine, self.connection
        errors = []
        for i, source in enumerate(sources):
            limit = connection.config.channels_max
            if len(connection.subs) >= limit:
                message = f"a connection has at most {limit} channels, {len(sources) - i} more were asked for"
                errors.append(_error_row(FrameError(LIMIT_EXCEEDED, message, request.name)))
                break
            try:
                sub, resumed = engine.subscribe(connection, request, source)
            except FrameError as error:
                errors.append(_error_row(error))
                continue
            begun.append((sub, resumed))
            rows.append({"channel": sub.topic.name, "epoch": sub.topic.epoch, "seq": sub.position, "resumed": resumed})
            await turn.breathe()
        return errors

    async def _begin(self, begun: list[tuple[Subscription, bool]], turn: Slice) -> None:
        self.engine.pump_all()  # a snapshot shows what was handed out, so that is brought up to date first
        for sub, resumed in begun:
            if not self.connection.open:
                return
            self.engine.begin(sub, resumed)
            await turn.breathe()

    async def subscribe_names(self, names: list[str]) -> None:
        """Subscribe as if the client had asked: for channels named in the address."""
        await self._subscribe(ClientFrame(op="subscribe", channels=list(names)))

    async def match_again(self) -> None:
        """Instruments came or went: subscribe what the connection's patterns fit now."""
        begun: list[tuple[Subscription, bool]] = []
        rows: list[dict[str, Any]] = []
        turn = Slice()
        for request in tuple(self.connection.patterns):
            have, found = self.connection.subs, self.engine.registry.matches(request)
            new = [source for source in found if channel_name(request.kind, source) not in have]
            await self._take(_without_resume(request), new, begun, rows, turn)
        if rows:
            self._reply("subscribed", ClientFrame(), channels=rows)
            await self._begin(begun, turn)

    def _requests(self, frame: ClientFrame) -> tuple[list[ChannelRequest], list[dict[str, Any]]]:
        """The channels a frame names, and rows of `errors` for those that it names wrongly."""
        items = frame.channels if frame.channels is not None else []
        if frame.channel is not None:
            items = [*items, frame.channel]
        if frame.subscription_type is not None:
            items = [*items, frame.subscription_type]
        limit = self.connection.config.channels_max
        if not items:
            raise FrameError(INVALID_PARAMETER, "channels is empty: name at least one")
        if len(items) > limit:
            raise FrameError(LIMIT_EXCEEDED, f"channels has {len(items)} entries, at most {limit} are possible")
        requests, errors = [], []
        for item in items:
            try:
                requests.append(read_channel(item))
            except FrameError as error:
                errors.append(_error_row(error))
        return requests, errors

    async def _unsubscribe(self, frame: ClientFrame) -> None:
        requests, errors = self._requests(frame)
        connection, gone = self.connection, []
        for request in requests:
            if request.is_pattern:
                connection.patterns = [one for one in connection.patterns if one.name != request.name]
            mine = [sub for sub in connection.subs.values() if request.fits(sub.topic.kind, sub.topic.source)]
            if not mine and not request.is_pattern:
                errors.append(_error_row(FrameError(NOT_FOUND, "not subscribed", request.name)))
            for sub in mine:
                self.engine.unsubscribe(sub)
                gone.append(sub.topic.name)
        self._reply("unsubscribed", frame, channels=gone, **({"errors": errors} if errors else {}))

    # -- the rest -----------------------------------------------------------------------------------------------

    async def _filter(self, frame: ClientFrame) -> None:
        subs = [sub for sub in self._named(frame) if sub.topic.kind != "book"]
        if not subs:
            raise FrameError(NOT_FOUND, "no subscribed channel can be filtered")
        filters = read_filters(frame.filters)
        for sub in subs:
            sub.filters = filters
            sub.topic.refilter(sub)
        shown = {member: sorted(values) for member, values in (filters or {}).items()}
        self._reply("filter_set", frame, channels=[sub.topic.name for sub in subs], filters=shown)

    def _named(self, frame: ClientFrame) -> list[Subscription]:
        """The subscriptions a frame means: all, or those its channel fits."""
        subs = list(self.connection.subs.values())
        if frame.channel is None:
            return subs
        request = read_channel(frame.channel)
        return [sub for sub in subs if request.fits(sub.topic.kind, sub.topic.source)]

    async def _list(self, frame: ClientFrame) -> None:
        self._reply("subscriptions", frame, channels=[sub.describe() for sub in self.connection.subs.values()])

    async def _snapshot(self, frame: ClientFrame) -> None:
        if frame.channel is None:
            raise FrameError(INVALID_PARAMETER, "channel is missing: name the one to show")
        request = read_channel(frame.channel)
        if request.is_pattern:
            raise FrameError(INVALID_PARAMETER, "channel has a *: a snapshot shows one channel", request.name)
        source = self.engine.registry.sources(request)[0]
        self.engine.pump_all()
        topic = self.engine.registry.topic(request.kind, source)
        self.engine.meters.snapshots.inc()
        sub = self.connection.subs.get(topic.name)
        self.connection.send_control(topic.snapshot(sub, request.depth, frame.id))

    async def _ping(self, frame: ClientFrame) -> None:
        self._reply("pong", frame, ts=frame.ts, server_ts=_now_ms())

    async def _auth(self, frame: ClientFrame) -> None:
        authenticator = self.authenticator
        if authenticator.required and not frame.token:
            self.refuse(MISSING_AUTH_TOKEN, "token is missing")
            return
        await self.authenticate(frame.token or "")

    async def authenticate(self, token: str) -> bool:
        """Answer a token with `auth_success`, or with `auth_error` and the end of the connection."""
        identity = await self.authenticator.identify(token)
        if identity is None:
            self.refuse(INVALID_AUTH_TOKEN, "the token is not valid")
            return False
        self.connection.identity = identity
        body = {"type": "auth_success", "user_id": identity.user_id, "timestamp": _now_ms()}
        self.connection.send_control(Frame({**body, "permissions": list(identity.permissions)}))
        return True

    def refuse(self, code: str, message: str) -> None:
        """Say why a client may not come in, and end the connection."""
        self.connection.send_control(Frame({"type": "auth_error", "code": code, "message": message}))
        self.connection.close(CLOSE_POLICY, "authentication failed")


def _without_resume(request: ChannelRequest) -> ChannelRequest:
    return msgspec.structs.replace(request, from_seq=None, epoch=None)


def _error_row(error: FrameError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "channel": error.channel}


__all__ = ["OPS", "V1", "ClientFrame", "read_frame"]
