"""The streams of a topic's actor: which ones, how large, and how many keys they will have."""

from __future__ import annotations

from ...codecs.desk.canonical import TOPICS
from ...codecs.desk.decoder import EXECUTION_REPORTS
from ...codecs.desk.records import DEAD_LETTER, EVENT, FILL, STATEMENT, TEXTS
from ...codecs.record import RecordType
from ...ringbuf import StreamSpec
from .config import Config

DEAD_CAPACITY = 4096


def live_record(topic: str) -> RecordType | None:
    """The record type of a topic's live stream; None for a topic whose events are kept as they are."""
    return (FILL if topic == EXECUTION_REPORTS else STATEMENT) if TOPICS[topic] is not None else None


def streams(name: str, config: Config) -> list[StreamSpec]:
    """The streams of a topic's actor."""
    capacities = [(EVENT, config.event_capacity), (DEAD_LETTER, DEAD_CAPACITY)]
    if (live := live_record(config.topic)) is not None:
        capacities.insert(1, (live, config.live_capacity))
    keys_max = config.accounts_max + 2
    return [record.spec(name, capacity=capacity, keys_max=keys_max) for record, capacity in capacities]


def keys_numbered(config: Config, record: str) -> int:
    """Keys that will have records in one of its streams."""
    return 1 if record in (EVENT.name, DEAD_LETTER.name) else config.accounts_max + 2


def byte_rings(name: str, config: Config) -> dict[str, int]:
    """Its byte ring, with its capacity."""
    return {TEXTS: config.fill_texts_capacity if config.topic == EXECUTION_REPORTS else config.texts_capacity}
