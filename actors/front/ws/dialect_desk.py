"""What the dialects of DipMaster's API and of its dashboard have in common: channels by kind, for all accounts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from ...catalog import ANY
from .desk_channels import DESK_CHANNELS, STATES, SYSTEM, DeskSource
from .dialect import ClientFrame, Dialect, Mark
from .epochs import epoch_text
from .errors import FORBIDDEN, NOT_SUPPORTED, FrameError
from .names import SHOWN_MAX, ChannelRequest, Filters
from .outbox import Delivery
from .subscription import Subscription

log = logging.getLogger(__name__)


class DeskDialect(Dialect):
    """A dialect whose channels are named `fills` and so on, and mean all accounts that the client may see.

    Attributes:
        together: states of several accounts are shown as one.
        filters: of all its channels.
    """

    together: ClassVar[bool]
    filters: Filters | None = None

    def confirm(self, kind: str) -> None:
        """Say that a kind of channel is subscribed."""
        raise NotImplementedError

    def subscribe_kind(self, kind: str) -> None:
        """Subscribe; what comes later for further accounts belongs to it too.

        Raises:
            FrameError: the client may not have it.
        """
        if kind not in DESK_CHANNELS:
            message = f"channel {kind[:SHOWN_MAX]!r} is not served in this dialect: use {', '.join(DESK_CHANNELS)}"
            raise FrameError(NOT_SUPPORTED, message)
        identity = self.connection.identity
        if identity is None or "read" not in identity.permissions:
            raise FrameError(FORBIDDEN, f"channel {kind!r} needs the permission 'read'", kind)
        if any(request.kind == kind for request in self.connection.patterns):
            self.confirm(kind)
            return
        request = self._request(kind)
        sources = self._sources(request)
        self.connection.patterns.append(request)
        self.engine.pump_all()
        begun = self._subscribe_to(request, sources, None if request.snapshot else self.marks.pop(kind, None))
        self.confirm(kind)  # whatever happens from here on is sent
        for sub, resumed in begun:
            self.engine.begin(sub, resumed)

    def _request(self, kind: str, from_seq: int | None = None) -> ChannelRequest:
        # clients of other services are not told what was before they came, but what is now
        state = DESK_CHANNELS[kind].delivery is Delivery.CONFLATING
        filters = self.filters if kind != SYSTEM else None
        return ChannelRequest(kind=kind, account=ANY, filters=filters, snapshot=state, from_seq=from_seq)

    def _sources(self, request: ChannelRequest) -> list[Any]:
        if not (self.together and request.kind in STATES):
            return self.sources(request)
        identity = self.connection.identity
        accounts = identity.accounts if identity is not None else frozenset[str]()
        return [DeskSource(ANY if accounts is None else "+".join(sorted(accounts)), accounts=accounts)]

    def _subscribe_to(
        self, request: ChannelRequest, sources: list[Any], marks: Mapping[str, Mark] | None = None
    ) -> list[tuple[Subscription, bool]]:
        """`marks`: where to go on in each account."""
        begun = []
        for source in sources:
            if marks is not None:
                request = _going_on(request, source, marks.get(source.account))
            if len(self.connection.subs) >= self.connection.config.channels_max:
                log.warning("connection=%s has as many channels as it may have", self.connection.id)
                break
            begun.append(self.engine.subscribe(self.connection, request, source))
        return begun

    def unsubscribe_kind(self, kind: str) -> None:
        """The reverse."""
        connection = self.connection
        connection.patterns = [request for request in connection.patterns if request.kind != kind]
        for sub in tuple(connection.subs.values()):
            if sub.topic.kind == kind:
                self.engine.unsubscribe(sub)

    def leave(self) -> None:
        """Unsubscribe everything, and mark where it ends."""
        for sub in self.connection.subs.values():
            if isinstance(sub.topic.source, DeskSource):
                mark = sub.topic.seq_of(sub), sub.topic.epoch
                self.marks.setdefault(sub.topic.kind, {})[sub.topic.source.account] = mark
        for kind in {request.kind for request in self.connection.patterns}:
            self.unsubscribe_kind(kind)

    async def match_again(self) -> None:
        for request in tuple(self.connection.patterns):
            if self.together and request.kind in STATES:
                continue
            if new := self.new_matches(request, self.connection.subs):
                protected = DESK_CHANNELS[request.kind].delivery is Delivery.PROTECTED
                for sub, resumed in self._subscribe_to(self._request(request.kind, 0 if protected else None), new):
                    self.engine.begin(sub, resumed)

    @staticmethod
    def named(frame: ClientFrame) -> str:
        """The kind of channel that a frame means, by either of its members."""
        named = frame.subscription_type if frame.subscription_type is not None else frame.channel
        return named.lower() if isinstance(named, str) else ""


def _going_on(request: ChannelRequest, source: DeskSource, mark: Mark | None) -> ChannelRequest:
    """For one account, from where the client left it; from the beginning where that was in a stream that is gone."""
    seq, epoch = mark or (0, "")
    if source.reader is not None and epoch != epoch_text(source.reader):
        return msgspec.structs.replace(request, account=source.account, from_seq=0, epoch=None)
    return msgspec.structs.replace(request, account=source.account, from_seq=seq, epoch=epoch or None)
