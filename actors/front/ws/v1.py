"""The `tickring.v1` dialect: what a client may say, and what it is answered."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec

from .auth import Authenticator
from .channels import BOOK
from .connection import Connection
from .desk_channels import ALL_CHANNELS, DESK_CHANNELS, STATES
from .dialect import ClientFrame, Dialect, now_ms
from .engine import Engine
from .errors import INVALID_PARAMETER, LIMIT_EXCEEDED, NOT_FOUND, FrameError
from .names import ChannelRequest, channel_name, read_channel, read_filters
from .outbox import Delivery
from .subscription import Subscription

log = logging.getLogger(__name__)

UNFILTERED = frozenset((BOOK, *STATES))
# what no symbol can be asked of: a filter for all channels is not for these
NAMELESS = frozenset(
    channel.kind
    for channel in DESK_CHANNELS.values()
    if channel.struct is None or "symbol" not in channel.struct.__struct_fields__
)
NAMED_MAX = 10  # channels in a message
SLICE_S = 0.002  # work done for one client before the event loop goes on to the others


class Slice:
    """Lets the event loop serve others while one client's long request is worked through."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def breathe(self) -> None:
        if time.monotonic() - self._began > SLICE_S:
            await asyncio.sleep(0)
            self._began = time.monotonic()


class V1(Dialect):
    """Answers one connection's frames."""

    name = "v1"

    def timestamp(self) -> int:
        return now_ms()

    def __init__(self, engine: Engine, connection: Connection, authenticator: Authenticator) -> None:
        super().__init__(engine, connection, authenticator)
        self.handlers = {
            "subscribe": self._subscribe, "unsubscribe": self._unsubscribe, "filter": self._filter, "list": self._list,
            "snapshot": self._snapshot, "ping": self._ping, "auth": self.auth,
        }  # fmt: skip

    # -- subscribe ----------------------------------------------------------------------------------------------

    async def _subscribe(self, frame: ClientFrame) -> None:
        requests, errors = self._requests(frame)
        self.engine.pump_all()  # a client that resumes may have seen more from another worker than we have handed out
        begun: list[tuple[Subscription, bool]] = []
        rows: list[dict[str, Any]] = []
        turn = Slice()
        for request in requests:
            try:
                sources = self.sources(request)
            except FrameError as error:
                errors.append(_error_row(error))
                continue
            if request.goes_on:
                self._go_on(request)
            errors += await self._take(request, sources, begun, rows, turn)
        self.reply("subscribed", frame, channels=rows, **({"errors": errors} if errors else {}))
        await self._begin(begun, turn)

    def _go_on(self, request: ChannelRequest) -> None:
        """Subscribe what fits it later too, in the place of what was said of the same channels before."""
        connection = self.connection
        connection.patterns = [one for one in connection.patterns if not request.covers(one)]
        if len(connection.patterns) < connection.config.channels_max:
            connection.patterns.append(request)

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

    async def subscribe_wanted(self, wanted: list[str]) -> None:
        mine = {request.kind for request in self.connection.patterns}
        if channels := [name for name in wanted if name not in mine]:  # what it asked for itself is not asked again
            await self._subscribe(ClientFrame(op="subscribe", channels=channels))

    async def match_again(self) -> None:
        begun: list[tuple[Subscription, bool]] = []
        rows: list[dict[str, Any]] = []
        turn = Slice()
        for request in reversed(self.connection.patterns):
            new = self.new_matches(request, self.connection.subs)
            errors = await self._take(_from_the_beginning(request), new, begun, rows, turn) if new else []
            for error in errors:
                log.info("connection=%s does not get %s: %s", self.connection.id, error["channel"], error["message"])
        if rows:
            self.reply("subscribed", ClientFrame(), channels=rows)
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
            try:
                known = self._let_go(request)
            except FrameError as error:
                errors.append(_error_row(error))
                continue
            mine = [sub for sub in connection.subs.values() if request.fits(sub.topic.kind, sub.topic.source)]
            if not mine and not request.is_pattern and not known:
                errors.append(_error_row(FrameError(NOT_FOUND, "not subscribed", request.name)))
            for sub in mine:
                self.engine.unsubscribe(sub)
                gone.append(sub.topic.name)
        self.reply("unsubscribed", frame, channels=gone, **({"errors": errors} if errors else {}))

    def _let_go(self, request: ChannelRequest) -> bool:
        """Take channels out of the patterns, for those that come later too; True where one of them fits."""
        connection = self.connection
        fitting = [one for one in connection.patterns if request.overlaps(one)]
        kept = [one for one in connection.patterns if not request.covers(one)]
        connection.patterns = [one.but(request) if request.overlaps(one) else one for one in kept]
        return bool(fitting)

    # -- the rest -----------------------------------------------------------------------------------------------

    async def _filter(self, frame: ClientFrame) -> None:
        connection, filters = self.connection, read_filters(frame.filters)
        request = read_channel(frame.channel) if frame.channel is not None else None
        spared = UNFILTERED if request is not None or filters is None else UNFILTERED | NAMELESS
        subs = [
            sub
            for sub in connection.subs.values()
            if sub.topic.kind not in spared and (request is None or request.fits(sub.topic.kind, sub.topic.source))
        ]
        patterns = [
            one for one in connection.patterns if one.kind not in spared and (request is None or request.covers(one))
        ]
        if not subs and not patterns:
            raise FrameError(NOT_FOUND, "no subscribed channel can be filtered")
        for sub in subs:
            sub.filters = filters
            sub.topic.refilter(sub)
        for one in patterns:
            one.filters = filters
        shown = {member: sorted(values) for member, values in (filters or {}).items()}
        self.reply("filter_set", frame, channels=[sub.topic.name for sub in subs], filters=shown)

    async def _list(self, frame: ClientFrame) -> None:
        self.reply("subscriptions", frame, channels=[sub.describe() for sub in self.connection.subs.values()])

    async def _snapshot(self, frame: ClientFrame) -> None:
        if frame.channel is None:
            raise FrameError(INVALID_PARAMETER, "channel is missing: name the one to show")
        item = frame.channel
        if frame.account_id is not None:
            item = {**(item if isinstance(item, dict) else {"channel": item}), "account_id": frame.account_id}
        request = read_channel(item)
        found = self.sources(request)
        if not found:
            raise FrameError(NOT_FOUND, f"channel {request.name!r}: nothing here produces it", request.name)
        if len(found) > 1:
            names = ", ".join(channel_name(request.kind, source) for source in found[:NAMED_MAX])
            more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
            message = f"channel {request.name!r} fits {len(found)}, and a snapshot shows one: choose of {names}{more}"
            raise FrameError(INVALID_PARAMETER, message, request.name)
        self.engine.pump_all()
        topic = self.engine.registry.topic(request.kind, found[0])
        self.engine.meters.snapshots.inc()
        await self.engine.counted(topic)
        sub = self.connection.subs.get(topic.name)
        for shown in topic.snapshots(sub, request.depth, frame.id):
            self.connection.send_control(shown)

    async def _ping(self, frame: ClientFrame) -> None:
        self.reply("pong", frame, ts=frame.ts, server_ts=now_ms())


def _from_the_beginning(request: ChannelRequest) -> ChannelRequest:
    """For a channel that came after its subscription. Of the desk's, each record there is was meant for it too."""
    protected = ALL_CHANNELS[request.kind].delivery is Delivery.PROTECTED
    return msgspec.structs.replace(request, from_seq=0 if protected else None, epoch=None)


def _error_row(error: FrameError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "channel": error.channel}
