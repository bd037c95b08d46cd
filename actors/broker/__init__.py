"""The embedded broker: librdkafka's mock cluster in one process, for the demo and for trying things out.

It speaks Kafka's own protocol on a port of loopback that it chooses, and says it on its page. It is no store: its log
is in memory alone, about 5 MiB of each of four partitions, and it ends with the process. Groups have one member, and
topics are made on first use.

Offsets never begin anew, because events have them for names: a new life of the broker fills its log with empty records
up to where the instance has read each partition, and goes on from there.
"""

from __future__ import annotations

from .broker import main
from .config import Config

__all__ = ["Config", "main"]
