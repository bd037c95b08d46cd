"""Our own alerts on `alerts.v1`, for whoever else listens there.

They come back to us as everybody's do, and count once: they are the same alerts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

import msgspec

from ...codecs.desk.canonical import Alert
from ...ringbuf import MetricsPage
from ..topic.brokers import servers
from .told import ALERTS_TOPIC

log = logging.getLogger(__name__)

WAITING_MAX = 1000
SEVERITIES = {"INFO": "LOW"}  # the api variant has no INFO


def message(alert: Alert, iso: str) -> dict[str, Any]:
    """The `api` variant of an alert."""
    return {
        "event_id": alert.event_id, "timestamp": iso, "alert_id": alert.alert_id,
        "severity": SEVERITIES.get(alert.severity, alert.severity), "code": alert.code, "title": alert.title,
        "message": alert.message, "source": "DATA_PIPELINE", "strategy_id": alert.strategy_id or "dipmaster",
        "account_id": alert.account_id, "symbol": alert.symbol, "context": {"rule_id": alert.rule_id},
        "auto_resolved": alert.auto_resolved, "resolution_action": alert.resolution_action, "metadata": {},
    }  # fmt: skip


class Producer:
    """Sends in the background; what does not fit the queue while the broker is away is counted, not kept."""

    def __init__(self, page: MetricsPage, bootstrap_servers: str, folder: Path) -> None:
        self._servers, self._folder = bootstrap_servers, folder
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(WAITING_MAX)
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

        while True:
            producer: AIOKafkaProducer | None = None
            try:
                addresses = servers(self._servers, self._folder)
                producer = AIOKafkaProducer(bootstrap_servers=addresses, enable_idempotence=True)
                await producer.start()
                while True:
                    await producer.send_and_wait(ALERTS_TOPIC, await self._waiting.get())
                    self._sent.inc()
            except (KafkaError, OSError) as error:
                log.warning("alerts are not produced: %s", error)
                self._dropped.inc()
            finally:
                if producer is not None:
                    with contextlib.suppress(KafkaError, OSError):
                        await producer.stop()
            await asyncio.sleep(5)
