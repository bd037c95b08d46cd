"""Reads the members of the desk's messages: one function for each kind of value, the same for all topics.

What a message must have and has not, or has and cannot be read, makes it undecidable; the text says which member.
Null is as good as absent. `Amounts` counts what was rounded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn, TypeVar

import msgspec
from msgspec import Raw, Struct

from ..errors import MalformedAmount, MalformedTime, Undecidable
from .canonical import DEFAULT_ACCOUNT, DEFAULT_STRATEGY
from .money import FACTORS, FLOAT_SHORT, SCALE, UNIT, parse_amount, vanishes
from .times import time_ns

Text = str | None
Ident = str | int | None  # some write the numbers of an exchange's ids without quotes
Number = str | int | float | None  # amounts, ratios, counts
Moment = str | int | float | None

Item = TypeVar("Item")
Made = TypeVar("Made")

INT64_MAX = 2**63 - 1
ITEMS_MAX = 65_535  # of one kind in one event: an item's number has 16 bits
KEPT_MAX = 16_384  # amounts kept with what they mean
KEPT_DIGITS = 24  # of texts that are kept
FLOAT_WHOLE = 2**53  # from there on a whole number and the float that equals it may be different amounts

# Why an event is undecidable. What does not fit its topic's byte ring is `too_large` as well.
REASONS = (
    "not_json", "not_utf8", "not_object", "unknown_variant", "missing_field", "bad_time", "bad_amount", "bad_value",
    "too_large",
)  # fmt: skip


class Defaults(NamedTuple):
    """What stands in where a producer names no account or strategy."""

    account: str = DEFAULT_ACCOUNT
    strategy: str = DEFAULT_STRATEGY


class Message(Struct, gc=False):
    """What messages of all topics may have. Each topic's struct holds the members of all its variants."""

    event_id: Ident = None
    timestamp: Moment = None
    version: Ident | float = None
    source: Text = None
    topic: Any = None  # with `key`: the mark of mon-rich
    key: Any = None
    schema_version: Any = None  # with `producer_id`: the mark of mon-flat
    producer_id: Any = None


class Amounts:
    """Text or number -> units of 1e-8. `rounded` counts inexact ones.

    `kept` has what was read lately, for hot paths to look there first: a plain dict, because a subclass is
    looked into by a slower way.
    """

    def __init__(self) -> None:
        self.kept: dict[str | int | float, int] = {}
        self.rounded = 0

    def __getitem__(self, value: str | int | float) -> int:
        """The units.

        Raises:
            MalformedAmount
        """
        units = self.kept.get(value)
        return self._read(value) if units is None else units

    def _read(self, value: str | int | float) -> int:
        # First the usual ones, with as few steps as can be; `parse_amount` says why each is right.
        if type(value) is float:
            if -FLOAT_SHORT < value < FLOAT_SHORT:
                units = round(value * UNIT)
                if units / UNIT == value:
                    return self._keep(value, units)
        elif type(value) is str and len(value) <= KEPT_DIGITS:
            whole, _, fraction = value.partition(".")
            digits = whole + fraction
            if digits.isdigit() and digits.isascii() and len(fraction) <= SCALE:
                return self._keep(value, int(digits) * FACTORS[len(fraction)])
        units, exact = parse_amount(value)
        if not exact:
            self.rounded += 1
            return units
        short = len(value) <= KEPT_DIGITS if isinstance(value, str) else abs(value) < FLOAT_WHOLE
        return self._keep(value, units) if short else units

    def _keep(self, value: str | int | float, units: int) -> int:
        if len(self.kept) >= KEPT_MAX:
            self.kept.clear()
        self.kept[value] = units
        return units

    def need(self, value: Number, name: str) -> int:
        """An amount that must be there."""
        if value is None:
            missing(name)
        try:
            return self[value]
        except MalformedAmount as error:
            raise Undecidable(f"{name}: {error}", "bad_amount") from None

    def maybe(self, value: Number, name: str) -> int | None:
        return None if value is None else self.need(value, name)

    def over(self, least: int, value: Number, name: str) -> int:
        """An amount of at least `least` units; where that is 1, also one above zero that is rounded to 0."""
        if value is None:
            missing(name)
        try:
            units = self[value]
        except MalformedAmount as error:
            raise Undecidable(f"{name}: {error}", "bad_amount") from None
        if units < least and not (least == 1 and above_zero(units, value)):
            raise Undecidable(f"{name}: {str(value)[:60]!r} is too small", "bad_value")
        return units


def above_zero(units: int, value: str | int | float) -> bool:
    """Whether an amount that was read is above zero as it was written, whatever it was rounded to."""
    return units > 0 or (units == 0 and vanishes(value))


def missing(name: str) -> NoReturn:
    raise Undecidable(f"{name}: missing", "missing_field")


def bad(name: str, value: object, expected: str) -> NoReturn:
    raise Undecidable(f"{name}: {str(value)[:60]!r}, expected {expected}", "bad_value")


def each(items: Sequence[Item] | None, name: str, read: Callable[[Item], Made]) -> list[Made]:
    """Read a list of objects; what is wrong with one of them is said with its place."""
    if not items:
        return []
    if len(items) > ITEMS_MAX:
        raise Undecidable(f"{name}: {len(items)} of them, at most {ITEMS_MAX}", "too_large")
    made: list[Made] = []  # as long as what was read before the one that failed
    try:
        for item in items:
            made.append(read(item))  # noqa: PERF401
    except Undecidable as error:
        raise Undecidable(f"{name}[{len(made)}].{error}", error.reason) from None
    return made


def event_id(value: Ident, topic: str, partition: int, offset: int) -> str:
    """The producer's, else one that follows from where the event lies."""
    if value is None or value == "":
        return hashlib.blake2b(f"{topic}:{partition}:{offset}".encode(), digest_size=16).hexdigest()
    return value if type(value) is str else str(value)


def need_text(value: Ident, name: str) -> str:
    """A text, or the number of an id, that must be there and not empty."""
    if not value:
        if value == 0:
            return "0"
        missing(name)
    return value if type(value) is str else str(value)


def maybe_text(value: Ident | float) -> str | None:
    """A text, or a number as one; None where it is empty."""
    if value is None or type(value) is str:
        return value or None
    return str(value)


def need_time(value: Moment, name: str) -> int:
    """UNIX ns."""
    if value is None:
        missing(name)
    try:
        return time_ns(value)
    except MalformedTime as error:
        raise Undecidable(f"{name}: {error}", "bad_time") from None


def maybe_time(value: Moment, name: str) -> int | None:
    return None if value is None else need_time(value, name)


def lenient_time(value: Moment) -> int | None:
    """UNIX ns of a time that orders nothing: None where it cannot be read."""
    try:
        return None if value is None else time_ns(value)
    except MalformedTime:
        return None


def need_ratio(value: Number, name: str) -> float:
    if value is None:
        missing(name)
    try:
        ratio = float(value)
    except (ValueError, OverflowError):
        bad(name, value, "a number")
    if not math.isfinite(ratio):
        bad(name, value, "a finite number")
    return ratio


def maybe_ratio(value: Number, name: str) -> float | None:
    return None if value is None else need_ratio(value, name)


def lenient_ratio(value: Number) -> float | None:
    """A figure that nobody decides by: None where it cannot be read."""
    try:
        return maybe_ratio(value, "")
    except Undecidable:
        return None


def percent_or_fraction(value: Number, name: str) -> float | None:
    """A fraction; what is beyond 1 was written in percent."""
    ratio = maybe_ratio(value, name)
    return of_percent(ratio) if ratio is not None and abs(ratio) > 1 else ratio


def of_percent(ratio: float) -> float:
    """A percentage as a fraction, with the same digits: 1.8 is 0.018 and not 0.018000000000000002."""
    return float(Decimal(repr(ratio)).scaleb(-2))


def maybe_count(value: Number, name: str) -> int | None:
    """A whole number of 64 bits; 3.0 and "3" are whole as well."""
    if value is None:
        return None
    if type(value) is not int:
        ratio = need_ratio(value, name)
        if abs(ratio) > 2**53 or not ratio.is_integer():
            bad(name, value, "a whole number")
        value = int(ratio)
    if abs(value) > INT64_MAX:
        bad(name, value, "a whole number of 64 bits")
    return value


def need_count(value: Number, name: str) -> int:
    count = maybe_count(value, name)
    if count is None:
        missing(name)
    return count


def json_text(raw: Raw) -> str | None:
    """A part of the message as it came; None where it is absent or null."""
    try:
        text = str(raw, "utf-8")  # type: ignore[arg-type]
    except UnicodeDecodeError as error:
        raise undecidable(error) from None
    return None if text in ("", "null") else text


class Words(dict["str | None", str]):
    """A closed set of words in any case -> the canonical word. Other cases than upper and lower are found slowly."""

    def __init__(self, *same: str, **others: str) -> None:
        canonical = {word: word for word in same} | others
        super().__init__()
        for word, meaning in canonical.items():
            self[word] = self[word.lower()] = self[word.upper()] = meaning

    def need(self, value: Text, name: str) -> str:
        if not value:
            missing(name)
        word = self.get(value) or self.get(value.upper())
        if word is None:
            bad(name, value, f"one of {', '.join(sorted({w.upper() for w in self if w}))}")
        return word

    def maybe(self, value: Text, name: str) -> str | None:
        return self.need(value, name) if value else None


SIDES = Words("BUY", "SELL")


def common_variant(message: Message) -> str:
    """The variants that the envelope tells, the same for all topics; empty where it does not."""
    if type(message.topic) is str and type(message.key) is str:
        return "mon-rich"
    if message.schema_version is not None and message.producer_id is not None:
        return "mon-flat"
    return ""


def struct_decoder(struct: type[Struct]) -> Callable[[bytes], Any]:
    """A typed decode of a whole message, in C."""
    return msgspec.json.Decoder(struct).decode


def undecidable(error: Exception) -> Undecidable:
    """What a failed decode means. It is one of `DECODE_ERRORS`."""
    if isinstance(error, msgspec.ValidationError):
        text = str(error)
        if "$" not in text and text.startswith("Expected `object`"):
            return Undecidable(f"the message: {text}", "not_object")
        return Undecidable(text, "bad_value")
    if isinstance(error, UnicodeDecodeError):
        return Undecidable(f"not UTF-8: {error.reason} at byte {error.start}", "not_utf8")
    if isinstance(error, RecursionError):
        return Undecidable("nested too deeply", "not_json")
    return Undecidable(f"{error}", "not_json")


DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
