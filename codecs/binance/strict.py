"""The exact reading of a frame: every field there, of its documented type, in its range. Slow, and the judge of all.

The decoder sends here whatever is not of a shape it knows. What passes here is also what the fast path may take; what
does not pass is refused with a reason from the closed set `Reason`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec

from ..klines import INTERVALS
from ..sink import Reason
from .events import NO_ST
from .wire import INT64_MAX, OFF_BOOK, OTHER_EVENTS, Product, TimeUnit

FRAME_BYTES_MAX = 4 << 20  # a depth frame of 10,000 levels is 0.3 MB

_decode = msgspec.json.Decoder().decode
_DECIMAL = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_SIGNED = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_CHANNELS = {
    "trade": re.compile(r"trade"),
    "aggTrade": re.compile(r"aggTrade"),
    "bookTicker": re.compile(r"bookTicker"),
    "depthUpdate": re.compile(r"depth(?:@[0-9]+ms)?"),
    "kline": re.compile(r"kline_[0-9]+[smhdwM]"),
    "24hrTicker": re.compile(r"ticker"),
    "markPriceUpdate": re.compile(r"markPrice(?:@1s)?"),
    "forceOrder": re.compile(r"forceOrder"),
}
_ALL_MARKETS = {
    "bookTicker": ("!bookTicker",),
    "24hrTicker": ("!ticker@arr",),
    "markPriceUpdate": ("!markPrice@arr", "!markPrice@arr@1s"),
    "forceOrder": ("!forceOrder@arr",),
}
_SHIFTED_KLINE = re.compile(r"kline_[0-9]+[smhdwM]@\+08:00")  # days that begin elsewhere than in UTC
# Streams of the depth family that are no changes of the full book: the best 5, 10 or 20 levels, and RPI orders.
_OTHER_DEPTH = re.compile(r"(?:depth(?:5|10|20)|rpiDepth)(?:@[0-9]+ms)?")
_KNOWN_CHANNEL = re.compile(
    r"trade|aggTrade|bookTicker|(?:depth(?:5|10|20)?|rpiDepth)(?:@[0-9]+ms)?|blockTrade|avgPrice|referencePrice|"
    r"(?:kline|continuousKline|indexPriceKline|markPriceKline)_[0-9]+[smhdwM](?:@\+08:00)?|markPrice(?:@1s)?|"
    r"indexPrice(?:@1s)?|miniTicker|ticker|ticker_[0-9]+[hd]|forceOrder|compositeIndex|assetIndex|arr|"
    r"(?:arr|ticker|markPrice)@(?:1s|arr)|arr@1s"
)


class Refused(Exception):
    """The frame, or one of its events, is not what the exchange documents."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Event(NamedTuple):
    """One event that passed: `fields` holds its checked values, decimals as floats, levels as tuples."""

    kind: str  # the exchange's `e`; bookTicker where spot sends none; "other" for events without a record
    fields: dict[str, Any]


class Content(NamedTuple):
    stream: str  # empty in a raw frame
    events: list[Event]
    other_product: int  # events of the product that shares the stream
    control: dict[str, Any] | None  # an answer to a control frame


def price(value: Any) -> float:
    number = quantity(value)
    if not number:
        raise Refused(Reason.BAD_NUMBER)
    return number


def quantity(value: Any) -> float:
    if type(value) is not str:
        raise Refused(Reason.WRONG_TYPE)
    if not _DECIMAL.fullmatch(value):
        raise Refused(Reason.BAD_NUMBER)
    number = float(value)
    if number == inf:
        raise Refused(Reason.BAD_NUMBER)
    return number


def signed(value: Any) -> float:
    if type(value) is not str:
        raise Refused(Reason.WRONG_TYPE)
    if not _SIGNED.fullmatch(value):
        raise Refused(Reason.BAD_NUMBER)
    number = float(value)
    if abs(number) == inf:
        raise Refused(Reason.BAD_NUMBER)
    return number


def rate(value: Any) -> float:
    """A funding rate, which is empty where none is paid."""
    return 0.0 if value == "" and type(value) is str else signed(value)


def identifier(value: Any) -> int:
    if type(value) is not int:
        raise Refused(Reason.WRONG_TYPE)
    if not 0 <= value <= INT64_MAX:
        raise Refused(Reason.BAD_NUMBER)
    return value


def previous_identifier(value: Any) -> int:
    """`pu`, which is -1 where there was none before."""
    return -1 if value == -1 and type(value) is int else identifier(value)


def text(value: Any) -> str:
    if type(value) is not str:
        raise Refused(Reason.WRONG_TYPE)
    return value


def boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise Refused(Reason.WRONG_TYPE)
    return value


def levels(value: Any) -> list[tuple[float, float]]:
    if type(value) is not list:
        raise Refused(Reason.WRONG_TYPE)
    rows = []
    for row in value:
        if type(row) is not list or len(row) != 2:
            raise Refused(Reason.WRONG_TYPE)
        rows.append((price(row[0]), quantity(row[1])))
    return rows


def _time(unit: TimeUnit) -> Callable[[Any], int]:
    latest = INT64_MAX // unit.ns

    def time(value: Any) -> int:
        if not 0 < identifier(value) <= latest:
            raise Refused(Reason.BAD_NUMBER)
        return value

    return time


Field = tuple[str, Callable[[Any], Any]]


def _checked(item: dict[str, Any], required: list[Field]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, check in required:
        if name not in item:
            raise Refused(Reason.MISSING_FIELD)
        fields[name] = check(item[name])
    return fields


def _nested(required: list[Field]) -> Callable[[Any], dict[str, Any]]:
    def nested(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise Refused(Reason.WRONG_TYPE)
        return _checked(value, required)

    return nested


def symbol_of(kind: str, fields: dict[str, Any]) -> Any:
    """The symbol of an event, which a liquidation names inside its order."""
    order = fields.get("o") if kind == "forceOrder" else None
    return order.get("s") if type(order) is dict else fields.get("s")


_ABSENT = {"i": 0.0, "P": 0.0, "b": 0.0, "a": 0.0, "st": NO_ST}


def as_object(fields: dict[str, Any]) -> SimpleNamespace:
    """Fields of an event of `events` as attributes, as the typed decoders give them."""
    inner = {name: SimpleNamespace(**value) for name, value in fields.items() if type(value) is dict}
    return SimpleNamespace(**{**_ABSENT, **fields, **inner})


class Schema:
    """The documented events of one product."""

    def __init__(self, product: Product, unit: TimeUnit) -> None:
        self.product = product
        time = _time(unit)
        header: list[Field] = [("E", time), ("s", text)]
        quote: list[Field] = [("s", text), ("u", identifier), *((side, quantity) for side in "bBaA")]
        futures_depth: list[Field] = [("T", time), ("pu", previous_identifier)]
        self._required: dict[str, list[Field]] = {
            "trade": [*header, ("t", identifier), ("p", price), ("q", quantity), ("T", time), ("m", boolean)],
            "aggTrade": [
                *header, ("a", identifier), ("p", price), ("q", quantity),
                ("f", identifier), ("l", identifier), ("T", time), ("m", boolean),
            ],
            "bookTicker": [("E", time), ("T", time), *quote] if product.futures else quote,
            "depthUpdate": [
                *header, ("U", identifier), ("u", identifier), ("b", levels), ("a", levels),
                *(futures_depth if product.futures else ()),
            ],
            "serverShutdown": [("E", time)],
            "kline": [*header, ("k", _nested([
                ("t", time), ("T", time), ("s", text), ("i", text), *((name, quantity) for name in "ochlvqVQ"),
                ("n", identifier), ("x", boolean),
            ]))],
            "24hrTicker": [*header, *((name, quantity) for name in "cohlvq"), ("P", signed), ("n", identifier)],
            "markPriceUpdate": [*header, ("p", quantity), ("r", rate), ("T", identifier)],
            "forceOrder": [("E", time), ("o", _nested([
                ("s", text), ("S", text), *((name, quantity) for name in ("q", "p", "ap", "z")), ("X", text),
                ("T", time),
            ]))],
        }  # fmt: skip
        self._optional: dict[str, Callable[[Any], Any]] = {
            "M": boolean, "X": text, "nq": quantity, "ps": text, "st": identifier,
        }  # fmt: skip
        self._optional_of: dict[str, list[Field]] = {
            "24hrTicker": [("b", quantity), ("a", quantity)],
            "markPriceUpdate": [("i", quantity), ("P", quantity)],
        }

    def read(self, frame: bytes) -> Content:
        """Read a frame whole. Raises `Refused`, also when only one event of several is bad."""
        if len(frame) > FRAME_BYTES_MAX:
            raise Refused(Reason.OVERSIZED)
        document = _document(frame)
        if type(document) is dict and "stream" in document:
            stream = text(document["stream"])
            if "data" not in document:
                raise Refused(Reason.MISSING_FIELD)
            data = document["data"]
        else:
            stream, data = "", document
            if type(data) is dict and "e" not in data and _is_control(data):
                return Content("", [], 0, data)
        items = data if type(data) is list else [data]
        events, other_product = [], 0
        for item in items:
            if type(item) is not dict:
                raise Refused(Reason.NOT_EVENT if not stream else Reason.WRONG_TYPE)
            if self._of_other_product(item):
                other_product += 1
            else:
                events.append(self._event(stream, item))
        return Content(stream, events, other_product, None)

    def _of_other_product(self, item: dict[str, Any]) -> bool:
        st = item.get("st")
        return type(st) is int and self.product.st is not None and st != self.product.st

    def _event(self, stream: str, item: dict[str, Any]) -> Event:
        kind = self._kind(stream, item)
        if kind in OTHER_EVENTS or kind == "other":
            return Event("other", item)
        if kind not in self._required:
            raise Refused(Reason.UNKNOWN_EVENT)
        if stream and kind != "serverShutdown" and not _check_stream(stream, kind, symbol_of(kind, item)):
            return Event("other", item)
        fields = _checked(item, self._required[kind])
        for name, check in (*self._optional.items(), *self._optional_of.get(kind, ())):
            if name in item:
                fields[name] = check(item[name])
        _check_sense(kind, fields, stream)
        return Event(kind, fields)

    def _kind(self, stream: str, item: dict[str, Any]) -> str:
        if "e" in item:
            return text(item["e"])
        channel = stream.partition("@")[2]
        if not self.product.futures and (channel == "bookTicker" or stream == "!bookTicker"):
            return "bookTicker"
        if "lastUpdateId" in item and (not stream or _OTHER_DEPTH.fullmatch(channel)):
            return "other"
        if stream:
            if not _known_stream(stream):
                raise Refused(Reason.UNKNOWN_STREAM)
            raise Refused(Reason.MISSING_FIELD)
        if not self.product.futures and {"u", "s", "b", "a"} <= item.keys():
            return "bookTicker"
        raise Refused(Reason.NOT_EVENT)


def _document(frame: bytes) -> Any:
    try:
        return _decode(frame)
    except UnicodeDecodeError:
        raise Refused(Reason.NOT_UTF8) from None
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        frame.decode()
    except UnicodeDecodeError:
        raise Refused(Reason.NOT_UTF8) from None
    raise Refused(Reason.NOT_JSON)


def _is_control(document: dict[str, Any]) -> bool:
    return ("result" in document and "id" in document) or "error" in document or {"code", "msg"} <= document.keys()


def _known_stream(stream: str) -> bool:
    if stream.startswith("!"):
        return True
    return bool(_KNOWN_CHANNEL.fullmatch(stream.partition("@")[2]))


def _check_stream(stream: str, kind: str, symbol: Any) -> bool:
    """Whether the stream carries this kind of event of this symbol.

    False for events that look the same and are none of ours: partial books, bars whose days begin elsewhere.
    """
    name, _, channel = stream.partition("@")
    if stream in _ALL_MARKETS.get(kind, ()):
        return True
    if not _CHANNELS[kind].fullmatch(channel):
        other = {"depthUpdate": _OTHER_DEPTH, "kline": _SHIFTED_KLINE}.get(kind)
        if other is not None and other.fullmatch(channel):
            return False
        raise Refused(Reason.INCONSISTENT if _known_stream(stream) else Reason.UNKNOWN_STREAM)
    if type(symbol) is str and name.upper() != symbol.upper():
        raise Refused(Reason.INCONSISTENT)
    return True


def _check_sense(kind: str, fields: dict[str, Any], stream: str) -> None:
    if kind == "depthUpdate":
        if fields["U"] > fields["u"]:
            raise Refused(Reason.INCONSISTENT)
    elif kind == "aggTrade":
        if fields["f"] > fields["l"]:
            raise Refused(Reason.INCONSISTENT)
    elif kind == "kline":
        bar = fields["k"]
        if (stream and not stream.endswith(f"@kline_{bar['i']}")) or bar["s"] != fields["s"]:
            raise Refused(Reason.INCONSISTENT)
        if bar["i"] not in INTERVALS:
            raise Refused(Reason.UNKNOWN_STREAM)
    elif kind == "bookTicker":
        for side in "ba":
            if not fields[side] and fields[side.upper()]:
                raise Refused(Reason.BAD_NUMBER)


def is_off_book(fields: dict[str, Any]) -> bool:
    """Whether a USD-M trade is an entry of the insurance fund or of auto-deleveraging, and no match in the book."""
    return fields.get("X") in OFF_BOOK
