"""Record types, each declared once.

From one declaration come the numpy dtype and `struct` layout of a slot, the ClickHouse columns, the JSON and msgpack
shape on REST and WebSocket, and the OpenAPI schema. Adding a field is one line in `records`.

A slot begins with the header that all records share (see `ringbuf.layout`); the declared fields follow in order, and
the slot is filled up to a multiple of 64 bytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import Any

import numpy as np

from ..ringbuf.layout import ROW_ALIGN, ROW_HEADER, StreamSpec
from .numbers import decimal_text


class Flag(IntFlag):
    """Bits of a record's `flags`, the same for all record types."""

    SNAPSHOT = 1 << 0  # replaces what was known before instead of changing it
    LAST = 1 << 1  # last record of one exchange event
    LATE = 1 << 2  # arrived after later ones of the same key
    CONFLATED = 1 << 3  # stands for several updates
    VOID = 1 << 4  # withdrawn; readers skip it
    SELL = 1 << 5  # the aggressor sold: the buyer was the maker
    ASK = 1 << 6  # level of the ask side
    AGGREGATED = 1 << 7  # several matches of one taker order in one record
    RESYNC = 1 << 8  # first record after a gap in the exchange's sequence
    INVERSE = 1 << 9  # quantity counts contracts worth a fixed amount of quote currency
    BACKFILL = 1 << 10  # from the exchange's REST history, not from its stream
    CLOSED = 1 << 11  # a bar whose time is over
    PARTIAL = 1 << 12  # a bar that was seen only in part
    ROLLED_UP = 1 << 13  # a bar made here of shorter ones
    SETTLED = 1 << 14  # a funding rate that was paid
    ROUNDED = 1 << 15  # an amount came with more than 8 decimals and was rounded, half to even
    DEAD = 1 << 16  # an event that could not be understood: it is among the dead letters
    HEADERS = 1 << 17  # an event whose bytes begin with its headers
    REPEATED = 1 << 18  # an event whose event_id came before: kept, and counted by nothing
    MALFORMED = 1 << 19  # a stored event of which members that decide nothing could not be read, and are left out
    CUT = 1 << 20  # an event of which only a part is kept: its headers, its key or its value are too large


@dataclass(frozen=True)
class Kind:
    """How a field looks in a slot, in a table and in text."""

    name: str
    code: str  # of `struct`
    dtype: str  # of numpy
    clickhouse: str
    schema: Mapping[str, Any]  # JSON schema
    render: Callable[[Any, Mapping[str, Any]], Any]  # (value, key attributes) -> JSON value
    codec: str = "ZSTD(1)"  # of the column, in a table sorted by key and time


def _price(value: float, key: Mapping[str, Any]) -> str:
    return decimal_text(value, key.get("price_precision", 0))


def _quantity(value: float, key: Mapping[str, Any]) -> str:
    return decimal_text(value, key.get("quantity_precision", 0))


def _rate(value: float, key: Mapping[str, Any]) -> str:
    return decimal_text(value, 0)


def _integer(value: int, key: Mapping[str, Any]) -> int:
    return value


def _text(value: int, key: Mapping[str, Any]) -> str:
    return str(value)


_DECIMAL = {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"}

_DELTA, _STEADY, _FEW = "Delta(8), ZSTD(1)", "DoubleDelta, ZSTD(1)", "T64, ZSTD(1)"

# Codecs: bytes a value, measured on 41,217 trades and 139,263 quotes of BTCUSDT (2024-08-08), plain ZSTD(1) first: ids
# 1.02, Delta 0.39, DoubleDelta 0.01; prices 1.24, Delta 0.95, Gorilla 1.36, FPC 1.18; quantities 2.61, Delta 3.71,
# Gorilla 5.40; times 1.35 and 2.89, Delta 0.90 and 2.45, DoubleDelta 1.36 and 2.66; flags 0.36, T64 0.14.
PRICE = Kind("price", "d", "<f8", "Float64", _DECIMAL, _price, _DELTA)
QUANTITY = Kind("quantity", "d", "<f8", "Float64", _DECIMAL, _quantity)
EXCHANGE_ID = Kind("exchange id", "q", "<i8", "Int64", {"type": "string", "pattern": r"^-?\d+$"}, _text, _STEADY)
UPDATE_ID = Kind("update id", "q", "<i8", "Int64", {"type": "integer"}, _integer, _DELTA)
RATE = Kind("rate", "d", "<f8", "Float64", _DECIMAL, _rate)
TIME_MS = Kind(
    "time", "q", "<i8", "DateTime64(3, 'UTC')", {"type": "integer", "description": "UNIX ms"}, _integer, _DELTA
)
COUNT = Kind("count", "Q", "<u8", "UInt64", {"type": "integer", "minimum": 0}, _integer, _DELTA)
SMALL = Kind("small count", "I", "<u4", "UInt32", {"type": "integer", "minimum": 0}, _integer, _FEW)


def choice_kind(name: str, words: Sequence[str]) -> Kind:
    """A small closed set: a number in the slot and in the table, a word in text."""
    return Kind(name, "I", "<u4", "UInt32", {"enum": list(words)}, lambda value, key: words[value], _FEW)


@dataclass(frozen=True)
class Field:
    """One declared field: name, kind, what it means (unit, source, meaning of zero)."""

    name: str
    kind: Kind
    doc: str
    length: int = 1  # values per record; an array when above 1
    optional: bool = False  # zero means that the source sends none, and text output leaves it out


@dataclass(frozen=True)
class Derived:
    """A member of the text forms that follows from the flags and is not stored in the slot."""

    name: str
    schema: Mapping[str, Any]
    doc: str
    value: Callable[[int], Any]  # flags -> JSON value


class Store(Enum):
    """What of a record type goes to ClickHouse by default."""

    ALL = "all"
    SAMPLED = "sampled"  # the latest value of each key, once a second
    OFF = "off"


HEADER_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("epoch", "UInt64", "the stream's creation time, UNIX ns: nth restarts only with a new one"),
    ("nth", "UInt64", "how many records of this key came before it, in its epoch"),
    ("ts_recv_ns", "DateTime64(9, 'UTC')", "our wall clock when the bytes arrived"),
    ("ts_event_ns", "DateTime64(9, 'UTC')", "the exchange's own time; 1970 where it sends none"),
    ("flags", "UInt32", "see the flags table"),
)
_HEADER_CODECS = {"epoch": "ZSTD(1)", "nth": _STEADY, "ts_recv_ns": _DELTA, "ts_event_ns": _DELTA, "flags": _FEW}
KEY_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("exchange", "LowCardinality(String)", "binance, okx, deribit"),
    ("market_type", "LowCardinality(String)", "spot, perpetual, future, option"),
    ("symbol", "LowCardinality(String)", "pair, BTC-USDT"),
    ("instrument", "LowCardinality(String)", "canonical name in one string, BTC-USDT-PERP"),
)


class RecordType:
    """A record type and everything that follows from its declaration.

    Args:
        name: also the name of its streams, its channel's record and its table.
        doc: one sentence.
        fields: in slot order.
        derived: text members that follow from the flags.
        key_columns: what a key of this type is beyond its instrument, as `KEY_COLUMNS`; attributes of the key.
        instrument: False for keys that are no instrument of an exchange: `key_columns` are all there is then.
        ring: False for latest values that nobody follows as a stream.
        tail: records kept for each key (power of two), 0 = counts only.
        store: what goes to ClickHouse by default.
        texts: form of the texts that its records point to: a part of the fingerprint, as they are of the layout.
    """

    def __init__(
        self,
        name: str,
        doc: str,
        fields: Sequence[Field],
        *,
        derived: Sequence[Derived] = (),
        key_columns: Sequence[tuple[str, str, str]] = (),
        instrument: bool = True,
        ring: bool = True,
        tail: int = 0,
        store: Store = Store.ALL,
        texts: str = "",
    ) -> None:
        self.name, self.doc = name, doc
        self.fields, self.derived = tuple(fields), tuple(derived)
        self.key_columns = tuple(key_columns)
        self._key_base = KEY_COLUMNS if instrument else ()
        self.ring, self.tail, self.store = ring, tail, store
        codes = "".join(f"{f.length if f.length > 1 else ''}{f.kind.code}" for f in self.fields)
        used = struct.calcsize("<" + ROW_HEADER.format.lstrip("<") + codes)
        self.slot_size = -(-used // ROW_ALIGN) * ROW_ALIGN
        self.struct = struct.Struct(f"{ROW_HEADER.format}{codes}{self.slot_size - used}x")
        self.dtype = np.dtype(self._dtype(used))
        self.fingerprint = zlib.crc32(repr(self.dtype.descr).encode()) << 32 | zlib.crc32(
            f"{name}:{tail}{texts}".encode()
        )
        # Names for `StreamWriter.publisher`: plain parameters, or one star where fields are arrays.
        self.values = tuple(f.name for f in self.fields) if all(f.length == 1 for f in self.fields) else ("*values",)
        assert self.struct.size == self.dtype.itemsize == self.slot_size
        self._scalars = tuple(f for f in self.fields if f.length == 1)

    def _dtype(self, used: int) -> list[tuple[Any, ...]]:
        columns: list[tuple[Any, ...]] = [
            ("nth", "<u8"), ("ts_recv_ns", "<i8"), ("ts_event_ns", "<i8"), ("key_id", "<u4"), ("flags", "<u4"),
        ]  # fmt: skip
        for f in self.fields:
            columns += [(f.name, f.kind.dtype) if f.length == 1 else (f.name, f.kind.dtype, (f.length,))]
        if used < self.slot_size:
            columns.append(("_reserved", f"V{self.slot_size - used}"))
        return columns

    def __repr__(self) -> str:
        return f"RecordType({self.name!r}, {self.slot_size} bytes)"

    def spec(self, producer: str, *, capacity: int, keys_max: int, tail: int | None = None) -> StreamSpec:
        """The stream of this record type by one producer; `capacity` slots where it has a ring, a `tail` of its own."""
        return StreamSpec(
            producer=producer, record=self.name, slot_size=self.slot_size, capacity=capacity if self.ring else 0,
            tail=self.tail if tail is None else tail, keys_max=keys_max, fingerprint=self.fingerprint,
        )  # fmt: skip

    # -- text forms ---------------------------------------------------------------------------------------------

    def to_dict(self, row: np.void, key: Mapping[str, Any]) -> dict[str, Any]:
        """The record's own members for JSON and msgpack: decimals and exchange ids as strings.

        Args:
            row: one record of `dtype`.
            key: the attributes of its key; `price_precision` and `quantity_precision` pad the decimals, and those
                named in `key_columns` are members.
        """
        return self.members([row[field.name].item() for field in self._scalars], int(row["flags"]), key)

    def members(self, values: Sequence[Any], flags: int, key: Mapping[str, Any]) -> dict[str, Any]:
        """The same of the values of the fields that are no arrays."""
        members: dict[str, Any] = {name: key.get(name, "") for name, _, _ in self.key_columns}
        for field, value in zip(self._scalars, values, strict=True):
            if value or not field.optional:
                members[field.name] = field.kind.render(value, key)
        for derived in self.derived:
            members[derived.name] = derived.value(flags)
        return members

    def json_schema(self) -> dict[str, Any]:
        """OpenAPI 3.1 schema of `to_dict`."""
        properties: dict[str, Any] = {name: {"type": "string", "description": doc} for name, _, doc in self.key_columns}
        properties |= {f.name: {**f.kind.schema, "description": f.doc} for f in self._scalars}
        properties |= {d.name: {**d.schema, "description": d.doc} for d in self.derived}
        required = [name for name, _, _ in self.key_columns]
        required += [f.name for f in self._scalars if not f.optional] + [d.name for d in self.derived]
        return {"type": "object", "description": self.doc, "properties": properties, "required": required}

    # -- ClickHouse ---------------------------------------------------------------------------------------------

    def columns(self) -> list[tuple[str, str, str]]:
        """`(name, ClickHouse type, comment)` of the table, keys first, then the header, then the fields."""
        own = [
            (f.name, f.kind.clickhouse if f.length == 1 else f"Array({f.kind.clickhouse})", f.doc) for f in self.fields
        ]
        return [*self._key_base, *self.key_columns, *HEADER_COLUMNS, *own]

    def codecs(self) -> dict[str, str]:
        """Compression codecs of the table's columns by name; those of the key have a dictionary instead."""
        return {**_HEADER_CODECS, **{f.name: f.kind.codec for f in self.fields}}

    @property
    def key_names(self) -> tuple[str, ...]:
        """Columns that are attributes of the key."""
        return tuple(name for name, _, _ in (*self._key_base, *self.key_columns))

    @property
    def identity(self) -> tuple[str, ...]:
        """Columns that name one row for good, and the order of the table."""
        base = ("exchange", "instrument") if self._key_base else ()
        return (*base, *(name for name, _, _ in self.key_columns), "epoch", "nth")
