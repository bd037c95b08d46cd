"""Binance's messages as they are on the wire: what is decoded of each, and what is sent.

Sources: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams (text of 2026-07-21) and
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams (client 17.2.0 of
2026-08-19); fields also as in recordings of 2021 to 2026. Keys that are not named here are ignored, and `st`, `ps`,
`nq` and `ap`, which came in 2026, are optional.

The structs are filled by decoders with ``strict=False``, which reads a quoted decimal straight into a float. That mode
takes more than the exchange sends: numbers without quotes, quoted integers, ``nan``, ``1`` for true. The decoder
therefore uses it only on frames whose shape was proven before (see `decoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

INT64_MAX = 2**63 - 1

Price = Annotated[float, Meta(gt=0)]
Quantity = Annotated[float, Meta(ge=0)]
LevelTuple = tuple[Price, Quantity]

TimeMs = Annotated[int, Meta(gt=0, le=INT64_MAX // 1_000_000)]
TimeUs = Annotated[int, Meta(gt=0, le=INT64_MAX // 1_000)]


class TimeUnit(Enum):
    """Unit of the times on the wire; microseconds where the URL asks for ``timeUnit=MICROSECOND`` (spot only)."""

    MILLISECOND = 1_000_000
    MICROSECOND = 1_000

    @property
    def ns(self) -> int:
        return self.value

    @property
    def type(self) -> Any:
        return TimeMs if self is TimeUnit.MILLISECOND else TimeUs


StT = TypeVar("StT")  # allowed value of `st`
DataT = TypeVar("DataT")


class Depth(msgspec.Struct, Generic[StT], gc=False):
    """``<symbol>@depth``: changed levels. Spot chains `U` and `u`; futures send `T` and chain `pu` to the last `u`.

    The integers may decode as floats here (``1.0``); joining them with `|` is what refuses those.
    """

    e: Literal["depthUpdate"]
    E: int | float
    s: str
    U: int | float
    u: int | float
    b: list[LevelTuple]
    a: list[LevelTuple]
    T: int | float = 0
    pu: int | float = 0
    st: StT | None = None


class Frame(msgspec.Struct, Generic[DataT], gc=False):
    """A frame of a combined stream: ``{"stream": ..., "data": ...}``."""

    data: DataT


# What the fast path reads of each event, in the order of the wire. All else about the frame its shape has proven, which
# also keeps integers under 19 digits; what a shape says nothing about are the bounds given here.
_FAST_FIELDS: dict[str, tuple[tuple[str, Any], ...]] = {
    "trade": (("t", int), ("p", Price), ("q", float), ("T", "time")),
    "aggTrade": (("a", int), ("p", Price), ("q", float), ("nq", float), ("f", int), ("l", int), ("T", "time")),
    "bookTicker": (("u", int), ("b", float), ("B", float), ("a", float), ("A", float), ("T", "time")),
}


class TypedDecoders:
    """Decoders of frames whose shape is proven. Each gives an object with the event's fields in `data`."""

    def __init__(self, product: Product, unit: TimeUnit) -> None:
        self._product, self._unit = product, unit
        self._made: dict[tuple[str, frozenset[str], bool], Callable[[bytes], Any]] = {}

    def of(self, kind: str, present: Iterable[str], *, combined: bool, with_symbol: bool) -> Callable[[bytes], Any]:
        """The decoder of one shape.

        Args:
            kind: of the event.
            present: keys of its frames; `nq` reads as 0 where it is missing.
            combined: the frame is a combined stream's.
            with_symbol: read `s` too.
        """
        names = frozenset(present) & ({"T", "nq", "st"} | ({"s"} if with_symbol else set()))
        made = self._made.get((kind, names, combined))
        if made is None:
            made = self._made[kind, names, combined] = self._make(kind, names, combined)
        return made

    def _make(self, kind: str, names: frozenset[str], combined: bool) -> Callable[[bytes], Any]:
        fields: list[Any] = []
        for name, type_ in _FAST_FIELDS[kind]:
            if name == "T":
                if "T" in names:
                    fields.append((name, self._unit.type))
            elif name != "nq" or "nq" in names:
                fields.append((name, type_))
        if "s" in names:
            fields.append(("s", str))
        if "st" in names:
            fields.append(("st", self._product.st_type))
        if kind == "aggTrade" and "nq" not in names:
            fields.append(("nq", float, 0.0))
        event = msgspec.defstruct(f"Fast{kind}", fields, gc=False)
        return self.of_type(event, combined)

    @staticmethod
    @cache
    def of_type(event: Any, combined: bool) -> Callable[[bytes], Any]:
        """The decoder of an event type; in `data`, as those of `of`."""
        if combined:
            return msgspec.json.Decoder(Frame[event], strict=False).decode
        decode = msgspec.json.Decoder(event, strict=False).decode
        return lambda frame: Raw(decode(frame))


class Raw:
    """Gives a raw event the form of a combined frame."""

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = data


@dataclass(frozen=True)
class Product:
    """One of Binance's markets with streams of its own."""

    name: str
    market_type: str  # of an instrument without a date
    futures: bool  # depth chains by `pu`, quotes have times
    st: int | None  # its value of `st`; None where the field does not exist
    inverse: bool  # quantities count contracts worth quote currency
    streams_max: int  # per connection

    @property
    def st_type(self) -> Any:
        return Annotated[int, Meta(ge=self.st, le=self.st)] if self.st is not None else int


PRODUCTS = {
    product.name: product
    for product in (
        # Spot page of 2026-07-21.
        Product("spot", "spot", False, None, False, 1024),
        # 1,024 streams on an older page, 200 on a newer one.
        Product("usdm", "perpetual", True, 1, False, 200),
        Product("coinm", "perpetual", True, 2, True, 200),
    )
}

# Kinds of match (`X` of USD-M `@trade`) that did not happen in the order book.
OFF_BOOK = frozenset(("INSURANCE_FUND", "ADL", "NA"))

# Events the exchange documents and this codec makes no record of.
OTHER_EVENTS = frozenset(
    (
        "continuous_kline", "24hrMiniTicker", "1hTicker", "4hTicker", "1dTicker", "compositeIndex", "contractInfo",
        "assetIndexUpdate", "avgPrice", "blockTrade", "referencePrice", "indexPriceUpdate", "indexPrice_kline",
        "markPrice_kline", "tradingSession",
    )
)  # fmt: skip


def request(method: str, params: list[Any] | None, request_id: int | str | None) -> bytes:
    """A control frame. `request_id`: 64-bit integer, at most 36 alphanumeric characters, or None."""
    members: dict[str, Any] = {"method": method}
    if params is not None:
        members["params"] = params
    return msgspec.json.encode(members | {"id": request_id})


def subscribe(streams: list[str], request_id: int | str | None) -> bytes:
    return request("SUBSCRIBE", streams, request_id)


def unsubscribe(streams: list[str], request_id: int | str | None) -> bytes:
    return request("UNSUBSCRIBE", streams, request_id)


def stream_name(native: str, channel: str) -> str:
    """``btcusdt@aggTrade``: names of streams are lower case, channels are not."""
    return f"{native.lower()}@{channel}"


def combined_path(streams: list[str], tier: str = "", unit: TimeUnit = TimeUnit.MILLISECOND) -> str:
    """Path and query of a combined connection: ``/stream?streams=a/b``; USD-M puts its tier before it.

    Args:
        tier: ``public`` (bookTicker, depth, trade) or ``market`` (aggTrade and the rest) of USD-M since 2026-03-06.
    """
    path = f"/{tier}/stream" if tier else "/stream"
    query = f"streams={'/'.join(streams)}" if streams else ""
    if unit is TimeUnit.MICROSECOND:
        query += f"{'&' if query else ''}timeUnit=MICROSECOND"
    return f"{path}?{query}" if query else path


CHANNEL_TIERS = {"bookTicker": "public", "depth": "public", "rpiDepth": "public", "trade": "public"}


def tier_of(channel: str) -> str:
    """Which routed base of USD-M serves a channel: ``public`` or ``market``."""
    return CHANNEL_TIERS.get(channel.partition("@")[0], "market")
