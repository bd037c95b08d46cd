"""Rows of ClickHouse's tables, back in the layout of their record type, as memory has them: one encoder serves both.

They are asked for in RowBinary, whose rows are the record's own bytes, and are not parsed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..codecs.record import RecordType
from .client import quote_name

CLOCK_SKEW_NS = 3600 * 10**9  # between an exchange's clock and ours, at most
_HEADER = ("nth", "ts_recv_ns", "ts_event_ns", "flags")


@dataclass(frozen=True)
class Rows:
    """Rows of one instrument, in the order asked for.

    `rows` is `(n,)` of the record's dtype with `key_id` 0, `epochs` is `(n,)` u64.
    """

    record: RecordType
    rows: np.ndarray
    epochs: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@lru_cache(maxsize=32)
def _layout(record: RecordType) -> tuple[str, np.dtype, tuple[str, ...]]:
    """Select list, dtype of a RowBinary row, and names of the fields that are copied as they are."""
    select = ["epoch", "nth", "toUnixTimestamp64Nano(ts_recv_ns)", "toUnixTimestamp64Nano(ts_event_ns)", "flags"]
    packed: list[tuple[Any, ...]] = [
        ("epoch", "<u8"), ("nth", "<u8"), ("ts_recv_ns", "<i8"), ("ts_event_ns", "<i8"), ("flags", "<u4"),
    ]  # fmt: skip
    for field in record.fields:
        name = quote_name(field.name)
        if field.length == 1:
            select.append(name)
            packed.append((field.name, field.kind.dtype))
        else:
            # Rows from before the field was added have an empty array; the length is one or two bytes of LEB128.
            select.append(f"arrayResize({name}, {field.length})")
            packed.append((f"{field.name}.length", f"V{1 if field.length < 128 else 2}"))
            packed.append((field.name, field.kind.dtype, (field.length,)))
            assert field.length < 1 << 14, f"{record.name}.{field.name}: length {field.length}"
    return ", ".join(select), np.dtype(packed), (*_HEADER, *(field.name for field in record.fields))


def row_columns(record: RecordType) -> str:
    """Select list of whole rows, for a query in RowBinary whose answer `parse_rows` reads."""
    return _layout(record)[0]


def parse_rows(record: RecordType, answer: bytes) -> Rows:
    """Rows of a RowBinary answer to a query of `row_columns`."""
    _, packed, names = _layout(record)
    raw = np.frombuffer(answer, packed)
    rows = np.zeros(len(raw), record.dtype)
    for name in names:
        rows[name] = raw[name]
    return Rows(record, rows, raw["epoch"].copy())
