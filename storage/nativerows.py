"""Rows of Python values as a block of ClickHouse's Native format, for tables whose rows are no records of a stream.

One encoder for each type of column; each takes the column's values as a tuple. What they take:

| column | values |
|---|---|
| String | str or bytes |
| LowCardinality(String) | str |
| Decimal(38, 8) | int, units of 1e-8 |
| DateTime64(n) | int, UNIX ns; what is finer than the column is cut off |
| Float64, Int*, UInt* | float, int |
| Bool | bool, int |
| Nullable(T), LowCardinality(Nullable(String)) | the same, or None |
| Array(Tuple(String, Nullable(String))) | sequences of (str or bytes, str or bytes or None): headers of an event |

A nullable column is one byte for each row, 1 where it is NULL, and behind it the values with something in those places;
of LowCardinality(Nullable) the dictionary's first entry stands for NULL and its second is the default.
Source: https://clickhouse.com/docs/interfaces/specs/nativeformat (read 2026-11).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..codecs.desk.money import BYTES
from .native import (
    LOW_CARDINALITY_VERSION,
    OWN_DICTIONARY,
    ROWS_MAX,
    append_texts,
    column_head,
    index_type,
    leb128,
    string,
    u64,
)

Values = Sequence[Any]
Parts = list[bytes | memoryview]
Encoder = Callable[[Parts, Values], None]

_NUMBERS = {
    "Float64": "<f8", "Int64": "<i8", "Int32": "<i4", "UInt64": "<u8", "UInt32": "<u4", "UInt16": "<u2", "UInt8": "u1",
    "Bool": "u1",
}  # fmt: skip
_SIZES = {name: np.dtype(dtype).itemsize for name, dtype in _NUMBERS.items()}
_NULLABLE, _LOW_NULLABLE = "Nullable(", "LowCardinality(Nullable(String))"
_HEADERS = "Array(Tuple(String, Nullable(String)))"
_SHORT = tuple(bytes((n,)) for n in range(128))  # sizes of short texts


def encode_rows(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> bytes:
    """Encode rows as one Native block.

    Args:
        columns: `(name, ClickHouse type)`, in the order of the values of a row.
        rows: `0 < n <= ROWS_MAX`.
    """
    n = len(rows)
    assert 0 < n <= ROWS_MAX, f"a block of {n} rows: expected 1 to {ROWS_MAX}"
    out: Parts = [leb128(len(columns)), leb128(n)]
    for (name, type_name), values in zip(columns, zip(*rows, strict=True), strict=True):
        out.append(column_head(name, type_name))
        _encoder(type_name)(out, values)
    return b"".join(out)


@lru_cache(maxsize=64)
def _encoder(type_name: str) -> Encoder:
    if type_name == _LOW_NULLABLE:
        return _low_nullable
    if type_name == _HEADERS:
        return _headers
    if type_name == "LowCardinality(String)":
        return _low
    if type_name.startswith(_NULLABLE):
        return _nullable(type_name[len(_NULLABLE) : -1])
    return _plain(type_name)


def _plain(type_name: str) -> Encoder:
    if type_name == "String":
        return _strings
    if type_name == "Decimal(38, 8)":
        return _amounts
    if type_name.startswith("DateTime64("):
        return _times(10 ** (9 - int(type_name[len("DateTime64(")])))
    dtype = _NUMBERS[type_name]
    return lambda out, values: out.append(np.array(values, dtype).data.cast("B"))


def _strings(out: Parts, values: Values) -> None:
    encoded = [value.encode() if type(value) is str else value for value in values]
    out.append(b"".join([
        (_SHORT[len(data)] if len(data) < 128 else leb128(len(data))) + data for data in encoded
    ]))  # fmt: skip


def _amounts(out: Parts, values: Values) -> None:
    try:
        low = np.array(values, "<i8")
    except OverflowError:  # beyond 92 billion
        out.append(b"".join([value.to_bytes(BYTES, "little", signed=True) for value in values]))
        return
    out.append(np.stack((low, low >> 63), axis=1).data.cast("B"))


def _times(divisor: int) -> Encoder:
    def encode(out: Parts, values: Values) -> None:
        times = np.array(values, "<i8")
        out.append((times // divisor if divisor > 1 else times).data.cast("B"))

    return encode


def _nullable(type_name: str) -> Encoder:
    plain = _plain(type_name)
    filler: Any = "" if type_name == "String" else 0
    empty = 1 if type_name == "String" else BYTES if type_name.startswith("Decimal") else _SIZES.get(type_name, 8)

    def encode(out: Parts, values: Values) -> None:
        nulls = values.count(None)
        if nulls == len(values):  # most columns of most variants
            out.append(b"\1" * nulls)
            out.append(bytes(empty * nulls))
        elif not nulls:
            out.append(bytes(len(values)))
            plain(out, values)
        else:
            out.append(bytes([value is None for value in values]))
            plain(out, [filler if value is None else value for value in values])

    return encode


def _low(out: Parts, values: Values) -> None:
    seen = list(dict.fromkeys(values))
    append_texts(out, seen, _ranks(values, {text: i for i, text in enumerate(seen)}))


def _low_nullable(out: Parts, values: Values) -> None:
    position: dict[str | None, int] = {None: 0, "": 1}
    for text in dict.fromkeys(values):
        position.setdefault(text, len(position))
    ranks = _ranks(values, position)
    out.append(u64(LOW_CARDINALITY_VERSION))
    out.append(u64((ranks.dtype.itemsize.bit_length() - 1) | OWN_DICTIONARY))
    out.append(u64(len(position)))
    out.extend(string(text or "") for text in position)
    out.append(u64(len(values)))
    out.append(ranks.data.cast("B"))


def _ranks(values: Values, position: Mapping[Any, int]) -> np.ndarray:
    return np.fromiter(map(position.__getitem__, values), index_type(len(position)), len(values))


def _headers(out: Parts, values: Values) -> None:
    out.append(np.cumsum([len(headers) for headers in values], dtype="<u8").data.cast("B"))
    flat = [header for headers in values for header in headers]
    _strings(out, [name for name, _ in flat])
    out.append(bytes([value is None for _, value in flat]))
    _strings(out, ["" if value is None else value for _, value in flat])
