"""What an event brings for readers of now: its id, its time, its flags, and its fills or its statement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ...codecs.desk.canonical import TOPICS, VARIANTS
from ...codecs.desk.decoder import EXECUTION_REPORTS, decoder
from ...codecs.desk.executions import Executions
from ...codecs.desk.reading import Defaults

# event_id, ts_event_ns, index of its variant, rounded amounts, and what becomes live rows: rows of fills, or the event
Decoded = tuple[str, int, int, int, list[Any]]
Decode = Callable[[bytes, int, int, int], Decoded]

_VARIANT_INDEX = {name: index for index, name in enumerate(VARIANTS)}


def make_decode(topic: str, default_account: str, default_strategy: str) -> Decode | None:
    """The decoder of a topic: ``decode(value, partition, offset, broker_ms)``, which raises `Undecidable`.

    None for a topic whose events are kept as they are.
    """
    if TOPICS[topic] is None:
        return None
    defaults = Defaults(account=default_account, strategy=default_strategy)
    if topic == EXECUTION_REPORTS:
        return Executions(topic, defaults).live
    decode_event = decoder(topic, defaults)

    def decode(value: bytes, partition: int, offset: int, broker_ms: int) -> Decoded:
        event = decode_event(value, partition, offset, broker_ms)
        return event.event_id, event.timestamp, _VARIANT_INDEX[event.variant], event.rounded, [event]

    return decode


class _Identity(msgspec.Struct):
    event_id: str | int | None = None


_identity = msgspec.json.Decoder(_Identity).decode


def event_id_of(value: bytes) -> str | None:
    """The id that an event's producer gave it; None where it gave none, or where it cannot be read."""
    try:
        found = _identity(value).event_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return str(found) if found else None
