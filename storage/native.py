"""Rows of a stream as a block of ClickHouse's Native format, columns straight from numpy.

A block: number of columns and of rows as LEB128, then for each column its name, its type and its values as they lie in
memory, little-endian. Source: https://clickhouse.com/docs/interfaces/specs/nativeformat (read 2026-11).

- Fixed-size types: the values, one after the other.
- Array(T): the end offset of each row as u64, then the values.
- Decimal(38, 8): 16 bytes, little-endian, two's complement: as amounts lie in their slots.
- LowCardinality(String): u64 1 (version), u64 index width with bits 9 and 10 set (own dictionary), u64 size of the
  dictionary, its strings, u64 number of rows, one index for each row. The dictionary holds only the keys of this block,
  and the index column follows from `key_id` by one look-up, so no text is touched for a row.

Blocks of rows that are no records of a stream are made in `nativerows`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from ..codecs.record import Flag, RecordType
from ..ringbuf import Key

ROWS_MAX = 1_000_000  # an insert stays one block below 1,048,449 rows
u64 = struct.Struct("<Q").pack
LOW_CARDINALITY_VERSION = 1
OWN_DICTIONARY = 1 << 9 | 1 << 10  # HasAdditionalKeys, NeedUpdateDictionary
_INDEX_TYPES = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"))
_VOID = np.uint32(Flag.VOID)


class Keys(Protocol):
    """A key directory, by row."""

    def __getitem__(self, key_id: int, /) -> Key: ...


def leb128(value: int) -> bytes:
    """Unsigned LEB128, ClickHouse's VarUInt."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def string(text: str) -> bytes:
    """A text as ClickHouse has it: its size in bytes, and they."""
    encoded = text.encode()
    return leb128(len(encoded)) + encoded


@lru_cache(maxsize=1024)
def column_head(name: str, type_name: str) -> bytes:
    """What comes before a column's values."""
    return string(name) + string(type_name)


def column_names(record: RecordType) -> list[str]:
    """Columns of a block, in its order."""
    return [name for name, _, _ in record.columns()]


def stored_rows(rows: np.ndarray) -> np.ndarray:
    """The rows that belong into history: all but the withdrawn ones."""
    void = rows["flags"] & _VOID
    return rows[void == 0] if void.any() else rows


def encode_block(record: RecordType, rows: np.ndarray, keys: Keys, epoch: int) -> bytes:
    """Encode rows as one Native block, in the order of the table.

    Args:
        record: the record type of the rows.
        rows: `(n,)` of `record.dtype`, `0 < n <= ROWS_MAX`.
        keys: the directory that `key_id` refers to.
        epoch: of the stream, stored with each row.
    """
    n = len(rows)
    assert 0 < n <= ROWS_MAX, f"a block of {n} rows: expected 1 to {ROWS_MAX}"
    columns = record.columns()
    out: list[bytes | memoryview] = [leb128(len(columns)), leb128(n)]
    key_names = record.key_names
    held, position, order = _by_key(rows["key_id"], keys, record.identity[:-2])
    for name, type_name, _ in columns:
        out.append(column_head(name, type_name))
        if name in key_names:
            append_texts(out, [_text(key, name) for key in held], position)
        elif name == "epoch":
            out.append(_raw(np.full(n, epoch, "<u8")))
        else:
            values = np.ascontiguousarray(rows[name])
            _append_values(out, values if order is None else values.take(order, axis=0))
    return b"".join(out)


def _text(key: Key, name: str) -> str:
    return str(key.attributes.get(name, ""))


def _by_key(
    key_ids: np.ndarray, keys: Keys, sorted_by: Sequence[str]
) -> tuple[list[Key], np.ndarray, np.ndarray | None]:
    """The distinct keys in the order of the table, for each row of the block which of them it has, and the rows' order.

    A ring has the rows of a key in the order of `nth`; so keys in the order of the table and a stable sort by key give
    the table's own order, which costs a radix sort here and saves the server a sort of text (a quarter of its insert).
    """
    seen = np.bincount(key_ids)
    used = np.flatnonzero(seen)
    if len(used) == 1:
        return [keys[int(used[0])]], np.zeros(len(key_ids), "<u1"), None
    held = sorted((keys[key_id] for key_id in used.tolist()), key=lambda key: [_text(key, name) for name in sorted_by])
    ranks = np.zeros(len(seen), index_type(len(used)))
    ranks[[key.key_id for key in held]] = np.arange(len(held))
    position = ranks[key_ids]
    order = np.argsort(position, kind="stable")
    return held, position[order], order


def index_type(size: int) -> np.dtype:
    """The narrowest index type of a dictionary of that size."""
    return next(dtype for dtype in _INDEX_TYPES if size <= 1 << 8 * dtype.itemsize)


def append_texts(out: list[bytes | memoryview], texts: Sequence[str], position: np.ndarray) -> None:
    """Append a LowCardinality(String) column whose row i has ``texts[position[i]]``."""
    dictionary: dict[str, int] = {}
    ranks = [dictionary.setdefault(text, len(dictionary)) for text in texts]
    dtype = index_type(len(dictionary))
    index = np.array(ranks, dtype)[position] if len(dictionary) > 1 else np.zeros(len(position), dtype)
    width = _INDEX_TYPES.index(dtype)
    out.append(u64(LOW_CARDINALITY_VERSION))
    out.append(u64(width | OWN_DICTIONARY))
    out.append(u64(len(dictionary)))
    out.extend(string(text) for text in dictionary)
    out.append(u64(len(position)))
    out.append(_raw(index))


def _append_values(out: list[bytes | memoryview], values: np.ndarray) -> None:
    if values.ndim == 2:
        n, length = values.shape
        out.append(_raw(np.arange(length, n * length + 1, length, dtype="<u8")))
    out.append(_raw(values))


def _raw(values: np.ndarray) -> memoryview:
    # Values of a kind that numpy does not compute with (V16) have no buffer format to be cast from.
    return (values.view("u1") if values.dtype.kind == "V" else values).data.cast("B")
