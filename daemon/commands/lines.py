"""A stored record as one line of JSON, the way `tickring replay` writes a decoded one."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...codecs.record import RecordType
from ...ringbuf.keys import Key

SIDES = ("bid", "ask")


def record_line(kind: RecordType, row: np.void, key: Key) -> dict[str, Any]:
    """Names and times first, then the record's own members; of a book its levels as [price, quantity], best first."""
    attributes = key.attributes
    line: dict[str, Any] = {
        "record": kind.name,
        "exchange": attributes.get("exchange"),
        "market_type": attributes.get("market_type"),
        "instrument": attributes.get("instrument", key.text),
        "native": attributes.get("native"),
        "nth": int(row["nth"]),
        "ts_event_ns": int(row["ts_event_ns"]),
        "ts_recv_ns": int(row["ts_recv_ns"]),
        **kind.to_dict(row, attributes),
    }
    arrays = {field.name: field.kind for field in kind.fields if field.length > 1}
    for side in SIDES:
        price, quantity = f"{side}_price", f"{side}_qty"
        if price in arrays:
            used = int(row[f"{side}s_count"])
            line[f"{side}s"] = [
                [arrays[price].render(p, attributes), arrays[quantity].render(q, attributes)]
                for p, q in zip(row[price][:used].tolist(), row[quantity][:used].tolist(), strict=True)
            ]
    return line
