"""Parameters of endpoints: one declaration gives the check and the OpenAPI description."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

import msgspec

from .errors import InvalidParameter
from .stamps import NS

TEXT_MAX = 200  # characters of one value
BODY_TEXT_MAX = 4000  # of a text in a body: an alert that comes by Kafka may say as much
EPOCH_MS_MIN = 100_000_000_000  # integers from here are milliseconds, below seconds
EPOCH_MS_MAX = 9_000_000_000_000  # year 2255: nanoseconds since 1970 still fit 64 bits
_INTEGER = re.compile(r"-?[0-9]{1,19}")
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?([eE][-+]?[0-9]{1,2})?")
_SECONDS = re.compile(r"([0-9]{1,10})\.([0-9]{1,20})")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].*)?")  # ISO 8601 has other forms, which RFC 3339 has not


@dataclass(frozen=True)
class Param:
    """One parameter.

    Args:
        parse: turns text into the value; raises ValueError with what was expected.
        aliases: other names, tried in this order when the first is absent.
    """

    name: str
    parse: Callable[[str], Any]
    schema: Mapping[str, Any]
    doc: str
    default: Any = None
    required: bool = False
    aliases: Sequence[str] = ()
    where: str = "query"
    example: str | None = field(default=None, compare=False)
    length_max: int = TEXT_MAX  # characters of the text

    def read(self, values: Mapping[str, str]) -> Any:
        """The checked value, or the default.

        Raises:
            InvalidParameter
        """
        for name in (self.name, *self.aliases):
            text = values.get(name)
            if text is None or (text == "" and not self.required):
                continue
            if len(text) > self.length_max:
                raise InvalidParameter(name, text, f"at most {self.length_max} characters")
            try:
                return self.parse(text)
            except ValueError as error:
                raise InvalidParameter(name, text, str(error)) from None
        if self.required:
            raise InvalidParameter(self.name, None, str(self.schema.get("description", "a value")))
        return self.default

    def openapi(self) -> list[dict[str, Any]]:
        """OpenAPI 3.1 parameter objects: the parameter and its aliases."""
        schema = {key: value for key, value in self.schema.items() if key != "description"}
        if self.default is not None:
            schema["default"] = self.default
        first: dict[str, Any] = {
            "name": self.name, "in": self.where, "description": self.doc,
            "required": self.required or self.where == "path", "schema": schema,
        }  # fmt: skip
        if self.example is not None:
            first["example"] = self.example
        same = {"in": self.where, "description": f"The same as `{self.name}`.", "required": False, "schema": schema}
        others = [{"name": alias, **same} for alias in self.aliases]
        return [first, *others]


def parse_query(query: str) -> dict[str, str]:
    """The members of a query string; of a repeated one the last counts."""
    values: dict[str, str] = {}
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            values[unquote_plus(name)] = unquote_plus(value)
    return values


# -- kinds of parameters ------------------------------------------------------------------------------------------


def integer(name: str, default: int | None, low: int, high: int, doc: str, **more: Any) -> Param:
    expected = f"an integer from {low} to {high}"

    def parse(text: str) -> int:
        if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
            raise ValueError(expected)
        return int(text)

    schema = {"type": "integer", "minimum": low, "maximum": high, "description": expected}
    return Param(name, parse, schema, doc, default, **more)


def number(name: str, default: float | None, low: float, high: float, doc: str, **more: Any) -> Param:
    expected = f"a number from {low:g} to {high:g}"

    def parse(text: str) -> float:
        if not _NUMBER.fullmatch(text) or not low <= float(text) <= high:
            raise ValueError(expected)
        return float(text)

    schema = {"type": "number", "minimum": low, "maximum": high, "description": expected}
    return Param(name, parse, schema, doc, default, **more)


def choice(name: str, values: Sequence[str], doc: str, default: str | None = None, **more: Any) -> Param:
    """One of a few words, in any case; the value is the word as declared."""
    known = {value.lower(): value for value in values}
    expected = "one of " + ", ".join(values)

    def parse(text: str) -> str:
        found = known.get(text.lower())
        if found is None:
            raise ValueError(expected)
        return found

    return Param(name, parse, {"type": "string", "enum": list(values), "description": expected}, doc, default, **more)


def flag(name: str, default: bool, doc: str, **more: Any) -> Param:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}

    def parse(text: str) -> bool:
        found = known.get(text.lower())
        if found is None:
            raise ValueError("true or false")
        return found

    return Param(name, parse, {"type": "boolean", "description": "true or false"}, doc, default, **more)


def text(name: str, doc: str, expected: str = "text", **more: Any) -> Param:
    """A text of at most `TEXT_MAX` characters, in a body of `BODY_TEXT_MAX`; who takes it may allow less."""
    most = BODY_TEXT_MAX if more.get("where") == "body" else TEXT_MAX
    schema = {"type": "string", "minLength": 1, "maxLength": most, "description": expected}
    return Param(name, str, schema, doc, length_max=most, **more)


def texts(name: str, doc: str, what: str, most: int, *, size: int = 64, **more: Any) -> Param:
    """A list of texts, as a member of a body; the value is a tuple without repetitions.

    Args:
        what: one of them, for messages.
        most: items of the list, of at most `size` characters each.
    """
    expected = f"a list of 1 to {most} {what}"

    def parse(text: str) -> tuple[str, ...]:
        try:
            items = msgspec.json.decode(text, type=list[str])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError(expected) from None
        if not 1 <= len(items) <= most or not all(0 < len(item) <= size for item in items):
            raise ValueError(f"{expected}, each of 1 to {size} characters")
        return tuple(dict.fromkeys(items))

    item = {"type": "string", "minLength": 1, "maxLength": size}
    schema = {"type": "array", "items": item, "minItems": 1, "maxItems": most, "description": expected}
    return Param(name, parse, schema, doc, where="body", length_max=most * (6 * size + 4), **more)


TIME_EXPECTED = "a time: RFC 3339 (no offset = UTC), epoch ms (an integer from 1e11) or epoch s"


def moment(name: str, doc: str, aliases: Sequence[str] = ()) -> Param:
    """A point in time; the value is UNIX ns."""
    return Param(name, parse_time, {"type": ["string", "number"], "description": TIME_EXPECTED}, doc, aliases=aliases)


def parse_time(text: str) -> int:
    """UNIX ns of an RFC 3339 time (no offset = UTC), epoch ms (an integer of at least 1e11) or epoch s.

    Epoch s may have decimals, as Python's `time.time()` writes them: of these nine count, and none is rounded.

    Raises:
        ValueError: none of these.
    """
    if _INTEGER.fullmatch(text):
        number = int(text)
        milliseconds = number if number >= EPOCH_MS_MIN else number * 1000
        if not 0 <= milliseconds <= EPOCH_MS_MAX:
            raise ValueError(TIME_EXPECTED)
        return milliseconds * 1_000_000
    if seconds := _SECONDS.fullmatch(text):
        ns = int(seconds[1]) * NS + int(seconds[2][:9].ljust(9, "0"))
        if ns > EPOCH_MS_MAX * 1_000_000:
            raise ValueError(TIME_EXPECTED)
        return ns
    # a plus sign that was not escaped arrives as a space: 2026-11-21T10:00:00 02:00
    if len(text) > 6 and text[-6] == " ":
        text = f"{text[:-6]}+{text[-5:]}"
    if not _DATE.fullmatch(text):
        raise ValueError(TIME_EXPECTED)
    try:
        parsed = datetime.fromisoformat(text.upper())  # RFC 3339, 5.6: "t" and "z" may be lower case
    except ValueError:
        raise ValueError(TIME_EXPECTED) from None
    aware = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    try:
        since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    except OverflowError:
        raise ValueError(TIME_EXPECTED) from None
    ns = (since.days * 86_400 + since.seconds) * NS + since.microseconds * 1000
    if not 0 <= ns <= EPOCH_MS_MAX * 1_000_000:
        raise ValueError(TIME_EXPECTED)
    return ns
