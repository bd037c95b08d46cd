"""Our own alerts on `alerts.v1`: over every way in that the broker has, as the topics read it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tickring.actors.alerts import produce
from tickring.actors.topic import Config
from tickring.actors.topic.brokers import Brokers
from tickring.ringbuf import MetricsPage, read_page

from . import broker as kafka
from .test_kafka_security import password_file

ALERTS = "alerts.v1"


@pytest.fixture
def page(shm: Path) -> Iterator[MetricsPage]:
    made = MetricsPage(shm, "alerts", time.time_ns())
    yield made
    made.close()


def outcomes(page: MetricsPage) -> dict[str, float]:
    page.beat(time.monotonic_ns())
    return {one.labels["outcome"]: one.values[0] for one in read_page(page.path).samples}


async def sent(producer: produce.Producer, page: MetricsPage, n: int, meanwhile: Any = None) -> None:
    """Run the producer until it has sent so many."""
    running = asyncio.create_task(producer.run())
    deadline = time.monotonic() + 60
    while outcomes(page)["sent"] < n:
        assert time.monotonic() < deadline and not running.done(), outcomes(page)
        await asyncio.sleep(0.02)
        if meanwhile is not None:
            meanwhile = meanwhile()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def ways_in(broker: kafka.Broker, folder: Path) -> dict[str, dict[str, Any]]:
    return {
        "tls": {
            "bootstrap_servers": broker.tls, "security_protocol": "SSL", "ssl_ca_file": str(broker.ca_file),
        },
        "sasl": {
            "bootstrap_servers": broker.sasl, "security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-256",
            "sasl_username": "desk", "sasl_password_file": password_file(folder, "desk"),
        },
    }  # fmt: skip


@pytest.mark.parametrize("way", ["tls", "sasl"])
def test_alert_is_produced_the_way_the_topics_are_read(
    broker: kafka.Broker, shm: Path, page: MetricsPage, tmp_path: Path, way: str
) -> None:
    kafka.renew_topics(broker.bootstrap, [ALERTS], partitions=1)
    brokers = Brokers(**ways_in(broker, tmp_path)[way])
    producer = produce.Producer(page, brokers, shm)
    producer.put({"alert_id": way})
    asyncio.run(sent(producer, page, 1))
    settings = {name: getattr(brokers, name) for name in brokers.__struct_fields__}
    assert asyncio.run(_first(Config(**settings), shm)) == {"alert_id": way}
    kafka.delete_topics(broker.bootstrap, [ALERTS])


async def _first(config: Config, folder: Path) -> Any:
    """The first event of the topic, read with the settings of the topics."""
    from aiokafka import AIOKafkaConsumer

    consumer = AIOKafkaConsumer(ALERTS, **config.connection(folder), auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            return msgspec.json.decode((await consumer.getone()).value or b"")
    finally:
        await consumer.stop()


def test_alert_whose_password_is_wrong_is_produced_once_it_is_right(
    broker: kafka.Broker, shm: Path, page: MetricsPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    kafka.renew_topics(broker.bootstrap, [ALERTS], partitions=1)
    monkeypatch.setattr(produce, "RETRY_S", 0.05)
    settings = {**ways_in(broker, tmp_path)["sasl"], "sasl_mechanism": "PLAIN"}
    right = Path(settings["sasl_password_file"])
    right.write_text("wrong\n")
    producer = produce.Producer(page, Brokers(**settings), shm)
    producer.put({"alert_id": "kept"})

    def mend() -> Any:
        if "alerts are not produced" not in caplog.text:
            return mend
        password_file(tmp_path, "desk")
        return None

    asyncio.run(sent(producer, page, 1, mend))
    assert outcomes(page) == {"sent": 1, "dropped": 0}
    kafka.delete_topics(broker.bootstrap, [ALERTS])
