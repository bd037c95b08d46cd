"""Native blocks for clients that ask for a newer revision of the format (`client_protocol_version`).

The engine writes revision 0: blocks of columns, nothing else. From revision 1 a block begins with its block info, and
from 54454 each column's type is followed by a byte that says whether its serialization is custom. clickhouse-go, and so
Grafana's data source, reads only that. To put the byte in, the length of every column has to be found, which is what
this module does (https://github.com/ClickHouse/ClickHouse/blob/master/src/Formats/NativeWriter.cpp, read 2026-11-21).
"""

from __future__ import annotations

import re
from functools import lru_cache

from .errors import not_implemented

CUSTOM_SERIALIZATION = 54454  # first revision with the byte after a column's type
REVISION_MAX = 54479  # from 54480 block info has a further field
BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"  # not overflow rows, no bucket

_FIXED = {
    **dict.fromkeys(["Int8", "UInt8", "Bool", "Enum8", "Nothing"], 1),
    **dict.fromkeys(["Int16", "UInt16", "Enum16", "Date", "BFloat16"], 2),
    **dict.fromkeys(["Int32", "UInt32", "Float32", "Date32", "DateTime", "Time", "IPv4", "Decimal32"], 4),
    **dict.fromkeys(["Int64", "UInt64", "Float64", "DateTime64", "Time64", "Decimal64"], 8),
    **dict.fromkeys(["Int128", "UInt128", "UUID", "IPv6", "Decimal128", "Point"], 16),
    **dict.fromkeys(["Int256", "UInt256", "Decimal256"], 32),
}
_ALIASES = {
    "Ring": "Array(Point)",
    "LineString": "Array(Point)",
    "Polygon": "Array(Ring)",
    "MultiLineString": "Array(LineString)",
    "MultiPolygon": "Array(Polygon)",
}
_ELEMENT_NAME = re.compile(r"(?:`(?:[^`\\]|\\.)*`|[A-Za-z_][A-Za-z0-9_.]*)\s+(?=[A-Za-z])")


class Column:
    """A column's type, as far as its length in a block depends on it."""

    __slots__ = ("inner", "kind", "width")

    def __init__(self, kind: str, width: int = 0, inner: tuple[Column, ...] = ()) -> None:
        self.kind = kind
        self.width = width
        self.inner = inner


def _split(arguments: str) -> list[str]:
    """Split at commas outside parentheses and quotes."""
    parts, depth, quote, start, skip = [], 0, "", 0, False
    for position, letter in enumerate(arguments):
        if skip:
            skip = False
        elif quote:
            skip = letter == "\\"
            quote = "" if letter == quote else quote
        elif letter in "'`\"":
            quote = letter
        elif letter == "," and depth == 0:
            parts.append(arguments[start:position].strip())
            start = position + 1
        else:
            depth += (letter == "(") - (letter == ")")
    parts.append(arguments[start:].strip())
    return parts


@lru_cache(maxsize=1024)
def column_type(text: str) -> Column:
    """Parse a type's name. Raises `EngineError` 48 for one whose length cannot be found."""
    text = _ALIASES.get(text, text)
    name, _, rest = text.partition("(")
    arguments = _split(rest[:-1]) if rest else []
    if name == "FixedString":
        return Column("fixed", int(arguments[0]))
    if name == "Decimal":
        precision = int(arguments[0])
        return Column("fixed", 4 if precision <= 9 else 8 if precision <= 18 else 16 if precision <= 38 else 32)
    if name.startswith("Interval"):
        return Column("fixed", 8)
    if name in _FIXED:
        return Column("fixed", _FIXED[name])
    if name == "String":
        return Column("string")
    if name in ("Nullable", "Array", "LowCardinality"):
        return Column(name, inner=(column_type(arguments[0]),))
    if name == "SimpleAggregateFunction":
        return column_type(arguments[1])
    if name in ("Tuple", "Nested", "Map") and arguments != [""]:
        if name != "Map":
            arguments = [_ELEMENT_NAME.sub("", part, count=1) for part in arguments]
        elements = tuple(column_type(part) for part in arguments)
        inner = Column("Tuple", inner=elements)
        return inner if name == "Tuple" else Column("Array", inner=(inner,))
    raise not_implemented(f"Type {text} in format Native with client_protocol_version; ask for another format.")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _state(column: Column) -> int:
    """Return the length of what stands before a column's rows: the key version of each LowCardinality in it."""
    return 8 if column.kind == "LowCardinality" else sum(_state(inner) for inner in column.inner)


def _rows(column: Column, data: bytes, at: int, rows: int) -> int:
    """Return where the column's rows end."""
    kind = column.kind
    if kind == "fixed":
        return at + rows * column.width
    if rows == 0 and kind != "Tuple":
        return at
    if kind == "string":
        for _ in range(rows):
            length = data[at]
            if length < 0x80:
                at += length + 1
            else:
                length, at = _varint(data, at)
                at += length
        return at
    if kind == "Nullable":
        return _rows(column.inner[0], data, at + rows, rows)
    if kind == "Array":
        at += 8 * rows
        return _rows(column.inner[0], data, at, int.from_bytes(data[at - 8 : at], "little"))
    if kind == "LowCardinality":
        index_width = 1 << (data[at] & 0xFF)
        keys = int.from_bytes(data[at + 8 : at + 16], "little")
        inner = column.inner[0]
        at = _rows(inner.inner[0] if inner.kind == "Nullable" else inner, data, at + 16, keys)
        return at + 8 + index_width * int.from_bytes(data[at : at + 8], "little")
    for inner in column.inner:
        at = _rows(inner, data, at, rows)
    return at


def reframe(data: bytes, revision: int) -> bytes:
    """Return revision 0 blocks as blocks of `revision` (from 54454 to 54479). Raises `EngineError` 48 otherwise."""
    if not CUSTOM_SERIALIZATION <= revision <= REVISION_MAX:
        raise not_implemented(f"client_protocol_version {revision} (only {CUSTOM_SERIALIZATION} to {REVISION_MAX}).")
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        block_at = at
        columns, at = _varint(data, at)
        rows, at = _varint(data, at)
        pieces += [BLOCK_INFO, data[block_at:at]]
        for _ in range(columns):
            start = at
            length, at = _varint(data, at)
            at += length
            length, at = _varint(data, at)
            name = data[at : at + length].decode()
            at += length
            pieces += [data[start:at], b"\x00"]
            if rows:
                column = column_type(name)
                start, at = at, _rows(column, data, at + _state(column), rows)
                pieces.append(data[start:at])
    assert at == len(data), f"Native blocks end at {at} of {len(data)} bytes"
    return b"".join(pieces)
