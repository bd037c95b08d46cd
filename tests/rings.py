"""Rows into rings, the way their producers do it."""

from __future__ import annotations

import struct

import numpy as np

from tickring.ringbuf import StreamWriter
from tickring.ringbuf.layout import ROW_HEADER


def publish_rows(writer: StreamWriter, rows: np.ndarray) -> None:
    """Publish rows one after the other; their `nth` is written here."""
    size, head = rows.itemsize, ROW_HEADER.size
    publish = writer.publisher(struct.Struct(f"{ROW_HEADER.format}{size - head}s"), ["values"])
    data = rows.tobytes()
    numbers = []
    for at in range(0, len(data), size):
        _, ts_recv_ns, ts_event_ns, key_id, flags = ROW_HEADER.unpack_from(data, at)
        numbers.append(writer.counts[key_id])
        publish(key_id, ts_recv_ns, ts_event_ns, flags, data[at + head : at + size])
    rows["nth"] = numbers
