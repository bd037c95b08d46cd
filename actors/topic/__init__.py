"""Topics: from the desk's Kafka topics into shared memory, one process for each topic, each event once.

| stream | what |
|---|---|
| `event` | one row for each offset, with its bytes in ``<actor>.texts.bytes``: what is stored follows from it |
| `fill` | of execution reports: the fills, by account |
| `statement` | of the other topics: the event in its canonical form, by account |
| `dead_letter` | events that could not be understood, with the reason |

A batch is published in this order: its bytes, its live rows, its `event` rows, its positions. What a crash cuts
short is read from Kafka again behind the last `event` row, and live rows that are there already are left out. The
broker keeps what we have not read, so nothing has to be dropped: where a durable reader is behind, the topic waits.
"""

from __future__ import annotations

from .config import Config
from .specs import byte_rings, keys_numbered, streams
from .topic import main

__all__ = ["Config", "byte_rings", "keys_numbered", "main", "streams"]
