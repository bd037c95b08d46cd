"""Our own alerts on `alerts.v1`, for whoever else listens there: that one is raised, and that it is over.

They come back to us, who know them better: `came_back` tells them from those of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ...codecs.desk.canonical import Alert
from ...ringbuf import MetricsPage
from ..topic.brokers import Brokers
from .book import Entry
from .told import ALERTS_TOPIC

log = logging.getLogger(__name__)

WAITING_MAX = 1000
RETRY_S = 5.0
SEVERITIES = {"INFO": "LOW"}  # the api variant has no INFO
MARK = "tickring"  # the member of `metadata` that says whose it is
_IDS = uuid.UUID("7f1cf1a4-3f0e-5d1b-9a53-4d6a2c1e8b70")


def message(entry: Entry, origin: str) -> dict[str, Any]:
    """The `api` variant of what an alert is now. Each change is an event of its own, with its own id and time.

    Args:
        origin: who produces it, see `origin_of`.
    """
    alert = entry.alert
    changed = datetime.fromtimestamp(entry.changed_ns / 1e9, UTC)
    return {
        "event_id": str(uuid.uuid5(_IDS, f"{alert.alert_id} {entry.changed_ns}")),
        "timestamp": changed.isoformat(timespec="microseconds"), "alert_id": alert.alert_id,
        "severity": SEVERITIES.get(alert.severity, alert.severity), "code": alert.code, "title": alert.title,
        "message": alert.message, "source": "DATA_PIPELINE", "strategy_id": alert.strategy_id or "dipmaster",
        "account_id": alert.account_id, "symbol": alert.symbol, "context": {"rule_id": alert.rule_id},
        # the variant has no other word for an alert that is over, whoever ended it
        "auto_resolved": alert.resolved, "resolution_action": alert.resolution_action, "metadata": {MARK: origin},
    }  # fmt: skip


def origin_of(folder: Path) -> str:
    """Which instance of which machine this is."""
    return f"{os.uname().nodename}/{folder.name}"


def came_back(alert: Alert, origin: str) -> bool:
    """Whether we produced it."""
    try:
        metadata = msgspec.json.decode(alert.metadata or "{}")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return isinstance(metadata, dict) and metadata.get(MARK) == origin


class Producer:
    """Sends in the background; what does not fit the queue while the broker is away is counted, not kept.

    Args:
        brokers: reached as the topics reach them.
        folder: the instance's in shared memory.
    """

    def __init__(self, page: MetricsPage, brokers: Brokers, folder: Path) -> None:
        self._brokers, self._folder = brokers, folder
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(WAITING_MAX)
        self._next: bytes | None = None  # taken from the queue, and not acknowledged
        name = "tickring_alerts_produced_total"
        self._sent = page.counter(name, "Alerts produced to alerts.v1", outcome="sent")
        self._dropped = page.counter(name, "Alerts produced to alerts.v1", outcome="dropped")

    def put(self, body: dict[str, Any]) -> None:
        """Send it when there is a broker."""
        try:
            self._waiting.put_nowait(msgspec.json.encode(body))
        except asyncio.QueueFull:
            self._dropped.inc()

    async def run(self) -> None:
        """Until cancelled."""
        from aiokafka import AIOKafkaProducer
        from aiokafka.errors import KafkaError

        said = ""
        while True:
            producer: AIOKafkaProducer | None = None
            try:
                connection = self._brokers.connection(self._folder)
                producer = AIOKafkaProducer(**connection, client_id="tickring-alerts", enable_idempotence=True)
                await producer.start()
                while True:
                    if self._next is None:
                        self._next = await self._waiting.get()
                    await producer.send_and_wait(ALERTS_TOPIC, self._next)
                    self._next, said = None, ""
                    self._sent.inc()
            except (KafkaError, OSError, ValueError, RuntimeError) as error:  # see the topic's `Link.run`
                text = f"{type(error).__name__}: {error}"
                if text != said:
                    said = text
                    log.warning("alerts are not produced: %s: tried again every %.0f s", text, RETRY_S)
            finally:
                if producer is not None:
                    with contextlib.suppress(KafkaError, OSError, RuntimeError):
                        await producer.stop()
            await asyncio.sleep(RETRY_S)
