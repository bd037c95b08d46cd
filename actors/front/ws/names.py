"""What a client says about channels: names, objects, wildcards, options.

A channel's name is ``{kind}.{exchange}.{market_type}.{symbol}``: the pair where the market type makes it unique (spot
and perpetual), the canonical instrument where a pair has several (dated futures, options). Bars have their interval
behind it.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ....codecs.errors import CodecError
from ....codecs.klines import INTERVALS
from ....codecs.symbols import MARKET_TYPES, parse_exchange, parse_symbol
from ...catalog import ANY, Source
from ..desk.params import plain_symbol
from .channels import ALIASES, BOOK, Channel
from .desk_channels import ALL_CHANNELS, STATES, DeskChannel, DeskSource
from .errors import INVALID_PARAMETER, LIMIT_EXCEEDED, NOT_SUPPORTED, FrameError
from .outbox import Delivery

DEPTHS = (5, 20, 50, 200, 400)
DEPTH_DEFAULT = 20
CONFLATE_DEFAULT_MS = 100
CONFLATE_MAX_MS = 60_000
FILTER_KEYS_MAX = 16
FILTER_VALUES_MAX = 64
EXCEPTIONS_MAX = 512  # of one pattern
SHOWN_MAX = 80  # characters of a client's text that go into a message

Filters = dict[str, frozenset[str]]
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]+").fullmatch


class ChannelItem(msgspec.Struct, kw_only=True):
    """A channel as an object; a plain name is one with `channel` alone."""

    channel: str
    exchange: str | None = None
    market_type: str | None = None
    symbol: str | None = None
    interval: str | None = None
    depth: int | None = None
    account_id: str | None = None
    filters: dict[str, Any] | None = None
    snapshot: bool = True
    from_seq: Annotated[int, Meta(ge=0)] | None = None
    epoch: str | None = None
    conflate: bool | int | None = None


class ChannelRequest(msgspec.Struct, kw_only=True):
    """A channel, or all that a pattern with ``*`` fits, and how it is wanted."""

    kind: str
    exchange: str = ""
    market_type: str = ""
    symbol: str = ""  # pair or ``*``
    account: str = ""  # of the desk's channels, or ``*``; empty for those of a market
    instrument: str = ""  # canonical, where a symbol was given and a market type is known
    interval: str = ""  # of bars
    depth: int = DEPTH_DEFAULT
    filters: Filters | None = None
    snapshot: bool = True
    from_seq: int | None = None
    epoch: str | None = None
    conflate_ms: int = 0  # least time between two frames; 0 = each change
    without: dict[str, ChannelRequest] = {}  # by name: what it fits and is not wanted any more

    @property
    def name(self) -> str:
        if self.account:
            return f"{self.kind}.{self.account}"
        symbol = self.symbol
        if self.market_type in ("future", "option") and self.instrument:
            symbol = self.instrument
        return _named(self.kind, self.exchange, self.market_type, symbol, self.interval)

    @property
    def is_pattern(self) -> bool:
        return ANY in (self.exchange, self.market_type, self.symbol, self.interval, self.account)

    @property
    def goes_on(self) -> bool:
        """Whether what fits it later belongs to it too: an account has no channels before its first event."""
        return self.is_pattern or bool(self.account)

    def covers(self, other: ChannelRequest) -> bool:
        """Whether everything that fits the other fits this one, as far as their names say."""
        parts = zip(self._place, other._place, strict=True)
        return all(mine in (ANY, its) for mine, its in parts) and (
            not self.instrument or self.market_type == ANY or self.instrument == other.instrument
        )

    def overlaps(self, other: ChannelRequest) -> bool:
        """Whether something may fit both."""
        return all(mine == its or ANY in (mine, its) for mine, its in zip(self._place, other._place, strict=True))

    @property
    def _place(self) -> tuple[str, ...]:
        of_desk = "desk" if self.account else ""
        return self.kind, of_desk, self.account, self.exchange, self.market_type, self.symbol, self.interval

    def but(self, other: ChannelRequest) -> ChannelRequest:
        """The same without what fits the other.

        Raises:
            FrameError: it has too many exceptions already.
        """
        without = {name: one for name, one in self.without.items() if not other.covers(one)}
        if len(without) >= EXCEPTIONS_MAX:
            message = f"{self.name!r} has {EXCEPTIONS_MAX} exceptions: unsubscribe it, and subscribe what is wanted"
            raise FrameError(LIMIT_EXCEEDED, message, other.name)
        return msgspec.structs.replace(
            self, without={**without, other.name: msgspec.structs.replace(other, filters=None)}
        )

    def leaves_out(self, source: Source | DeskSource) -> bool:
        """Whether an instrument, or an account, is one of its exceptions."""
        if not self.without:
            return False
        patterns = (one for one in self.without.values() if one.is_pattern)
        return channel_name(self.kind, source) in self.without or any(one.fits(self.kind, source) for one in patterns)

    def fits(self, kind: str, source: Source | DeskSource) -> bool:
        """Whether an instrument, or an account, is one of those meant."""
        if isinstance(source, DeskSource):
            return kind == self.kind and self.account in (ANY, source.account)
        return (
            kind == self.kind
            and not self.account
            and self.exchange in (ANY, source.exchange)
            and self.market_type in (ANY, source.market_type)
            and self.symbol in (ANY, source.symbol)
            and (self.interval == source.interval or (self.interval == ANY and bool(source.interval)))
            and (not self.instrument or self.market_type == ANY or self.instrument == source.instrument)
        )


def channel_name(kind: str, source: Source | DeskSource) -> str:
    """The canonical name of an instrument's channel, or of an account's."""
    if isinstance(source, DeskSource):
        return f"{kind}.{source.account}" if source.account else kind
    symbol = source.instrument if source.market_type in ("future", "option") else source.symbol
    return _named(kind, source.exchange, source.market_type, symbol, source.interval)


def _named(kind: str, exchange: str, market_type: str, symbol: str, interval: str) -> str:
    name = f"{kind}.{exchange}.{market_type}.{symbol}"
    return f"{name}.{interval}" if interval else name


def read_channel(item: Any) -> ChannelRequest:
    """Understand one entry of `channels`: a name or an object.

    Raises:
        FrameError: it names no channel, or an option is not possible.
    """
    if isinstance(item, str):
        item = {"channel": item}
    shown = str(item.get("channel"))[:SHOWN_MAX] if isinstance(item, dict) else None
    try:
        wanted = msgspec.convert(item, ChannelItem)
    except msgspec.ValidationError as error:
        raise FrameError(INVALID_PARAMETER, f"channel is not understood: {error}", shown) from None
    kind, *rest = wanted.channel.strip().split(".", 3)
    kind = kind.lower()
    channel = ALL_CHANNELS.get(ALIASES.get(kind, kind))
    if channel is None:
        message = f"channel {kind[:SHOWN_MAX]!r} is not served here: use {', '.join(ALL_CHANNELS)}"
        raise FrameError(NOT_SUPPORTED, message, shown)
    if isinstance(channel, DeskChannel):
        return _read_desk(wanted, channel, ".".join(rest), shown)
    place = dict(zip(("exchange", "market_type", "symbol"), rest, strict=False))
    interval = ""
    if channel.has_interval:
        place["symbol"], _, last = place.get("symbol", "").rpartition(".")
        interval = _read_interval(wanted.interval or last, shown)
    given = {
        part: getattr(wanted, part) if getattr(wanted, part) is not None else place.get(part)
        for part in ("exchange", "market_type", "symbol")
    }
    try:
        exchange, market_type, symbol, instrument = _read_place(**given)
    except CodecError as error:
        raise FrameError(INVALID_PARAMETER, str(error), shown) from None
    return ChannelRequest(
        kind=channel.kind, exchange=exchange, market_type=market_type, symbol=symbol, instrument=instrument,
        interval=interval, depth=_read_depth(wanted.depth, shown),
        filters=read_filters(wanted.filters, shown, channel.kind), snapshot=wanted.snapshot, from_seq=wanted.from_seq,
        epoch=wanted.epoch, conflate_ms=_read_conflate(wanted.conflate, channel, shown),
    )  # fmt: skip


def _read_desk(wanted: ChannelItem, channel: DeskChannel, account: str, shown: str | None) -> ChannelRequest:
    """A channel of the desk: of one account, or of all."""
    for part in ("exchange", "market_type", "symbol", "interval", "depth"):
        if getattr(wanted, part) is not None:
            message = f"{channel.kind} has no {part}: choose its account_id, and use filters for the rest"
            raise FrameError(INVALID_PARAMETER, message, shown)
    return ChannelRequest(
        kind=channel.kind, account=wanted.account_id or account or ANY,
        filters=read_filters(wanted.filters, shown, channel.kind), snapshot=wanted.snapshot, from_seq=wanted.from_seq,
        epoch=wanted.epoch, conflate_ms=_read_conflate(wanted.conflate, channel, shown),
    )  # fmt: skip


def _read_place(exchange: str | None, market_type: str | None, symbol: str | None) -> tuple[str, str, str, str]:
    """`(exchange, market_type, pair, instrument)`; what is not given is ``*``, a market type what the symbol says."""
    venue_market = None
    if exchange and exchange != ANY:
        exchange, venue_market = parse_exchange(exchange)
    market = market_type.strip().lower() if market_type else venue_market
    if market not in (None, ANY, *MARKET_TYPES):
        raise FrameError(
            INVALID_PARAMETER, f"market_type {market[:SHOWN_MAX]!r} is unknown: use {', '.join(MARKET_TYPES)} or *"
        )
    if not symbol or symbol == ANY:
        return exchange or ANY, market or ANY, ANY, ""
    found = parse_symbol(symbol, None if market == ANY else market)
    # BTC-USDT says nothing of its market, so ``*`` stays open; BTC-USDT-PERP does
    open_market = market == ANY and found.market_type == "spot"
    if open_market:
        return exchange or ANY, ANY, found.pair, ""
    return exchange or ANY, found.market_type, found.pair, found.instrument


def _read_depth(depth: int | None, shown: str | None) -> int:
    if depth is None:
        return DEPTH_DEFAULT
    if depth not in DEPTHS:
        allowed = ", ".join(map(str, DEPTHS))
        raise FrameError(INVALID_PARAMETER, f"depth is {depth}, allowed are {allowed}", shown)
    return depth


def _read_interval(interval: str, shown: str | None) -> str:
    if interval != ANY and interval not in INTERVALS:
        said = f"interval is {interval[:SHOWN_MAX]!r}" if interval else "interval is missing"
        raise FrameError(INVALID_PARAMETER, f"{said}: use one of {', '.join(INTERVALS)}", shown)
    return interval


def _read_conflate(conflate: bool | int | None, channel: Channel, shown: str | None) -> int:
    if conflate is None:
        return channel.cadence_ms
    if not conflate:
        return 0
    if channel.delivery in (Delivery.ORDERED, Delivery.PROTECTED):
        raise FrameError(INVALID_PARAMETER, f"{channel.kind} cannot be conflated: each record counts", shown)
    milliseconds = max(CONFLATE_DEFAULT_MS, channel.cadence_ms) if conflate is True else conflate
    if not 0 < milliseconds <= CONFLATE_MAX_MS:
        raise FrameError(
            INVALID_PARAMETER, f"conflate is {conflate}, expected true or milliseconds up to {CONFLATE_MAX_MS}", shown
        )
    return milliseconds


def read_filters(filters: dict[str, Any] | None, shown: str | None = None, kind: str = "") -> Filters | None:
    """`{member: the texts it may have}`; None where everything passes.

    Raises:
        FrameError: values are neither scalars nor arrays of them, or there are too many.
    """
    if not filters:
        return None
    if kind == BOOK:
        raise FrameError(INVALID_PARAMETER, "book cannot be filtered: choose its depth instead", shown)
    if kind in STATES:
        raise FrameError(INVALID_PARAMETER, f"{kind} cannot be filtered: choose its account_id instead", shown)
    if len(filters) > FILTER_KEYS_MAX:
        message = f"filters has {len(filters)} keys, at most {FILTER_KEYS_MAX} are possible"
        raise FrameError(LIMIT_EXCEEDED, message, shown)
    read: Filters = {}
    for member, wanted in filters.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        if len(values) > FILTER_VALUES_MAX or not all(isinstance(value, str | int | float) for value in values):
            raise FrameError(
                INVALID_PARAMETER,
                f"filters.{member[:SHOWN_MAX]} must be a text or number, or an array of at most {FILTER_VALUES_MAX}",
                shown,
            )
        read[member] = frozenset(filter_text(member, value) for value in values)
    return read


def filter_text(member: str, value: Any) -> str:
    """How a member's value is compared: without case, true and false as in JSON.

    Numbers are the same as texts and as JSON numbers, with and without zeros behind the point; symbols are the same in
    each of their forms.
    """
    if isinstance(value, str):
        if member == "symbol" and len(value) <= SHOWN_MAX:  # what is compared so is kept
            return plain_symbol(value)
        return _shortest(value) if _DECIMAL(value) else value.lower()
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else _shortest(f"{Decimal(repr(value)):f}")
    return str(value).lower()


def _shortest(decimal: str) -> str:
    """A number with a point, without what says nothing."""
    short = decimal.rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def passes(filters: Filters, members: dict[str, Any]) -> bool:
    """Whether a record has one of the wanted values in each filtered member."""
    return all(
        member in members and filter_text(member, members[member]) in wanted for member, wanted in filters.items()
    )
