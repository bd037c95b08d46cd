"""What a topic's events are on their way: a chunk of what is published at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

TOPIC_KEY = 0  # row of the topic itself in the key directory

Fetched = Mapping[int, Iterable[Any]]  # partition -> its next records, as aiokafka has them


@dataclass
class Chunk:
    """Events on their way into the streams: bytes, rows, and how far they bring each partition.

    An event's bytes are followed by the texts of its live rows, or by that of its dead letter.
    """

    at: int  # position of the first byte
    size: int = 0
    parts: list[bytes] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)  # of `event`, packed
    live: list[bytes] = field(default_factory=list)  # of the live stream, packed
    dead: list[tuple[Any, ...]] = field(default_factory=list)  # what `append` of `dead_letter` takes
    ends: dict[int, int] = field(default_factory=dict)  # partition -> offset of its next event
    newest_ms: int = 0  # the broker's time of the last event of a partition, the latest of these


@dataclass
class Tally:
    """What is counted of a topic's events."""

    processed: int = 0
    items: int = 0  # fills or statements
    repeated: int = 0  # events whose id had come before
    overflowed: int = 0  # items whose account got no key of its own
    misnamed: int = 0  # events with a header whose name is no UTF-8
    dead_by_reason: Counter[str] = field(default_factory=Counter)
