"""The embedded broker as an actor: it says where it is, has its topics, and never begins to count anew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tickring.actors.broker import Config, main
from tickring.actors.runtime import ActorContext
from tickring.actors.topic.brokers import EMBEDDED, NotUp, servers
from tickring.actors.topic.positions import Positions
from tickring.ringbuf import MetricsPage
from tickring.storage.client import Server

confluent_kafka = pytest.importorskip("confluent_kafka", reason="pip install 'tickring[demo]'")
aiokafka = pytest.importorskip("aiokafka", reason="pip install 'tickring[demo]'")

TOPIC = "exec.reports.v1"
ACTOR = "topic-exec-reports-v1"
DEADLINE_S = 30.0


def with_broker(shm: Path, work: Callable[[str], Awaitable[Any]]) -> Any:
    """The result of `work`, which is given the address, while a broker runs."""

    async def run() -> Any:
        page = MetricsPage(shm, "broker", time.time_ns())
        ctx = ActorContext("broker", "broker", shm, shm, Config(topics=[TOPIC]), page)
        running = asyncio.create_task(main(ctx))
        try:
            end = time.monotonic() + DEADLINE_S
            while True:
                try:
                    return await work(servers(EMBEDDED, shm))
                except NotUp:
                    assert time.monotonic() < end and not running.done(), "the broker does not come up"
                    await asyncio.sleep(0.01)
        finally:
            ctx.stop()
            await running

    return asyncio.run(run())


async def ends(address: str) -> dict[int, int]:
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=address)
    await consumer.start()
    try:
        tps = [aiokafka.TopicPartition(TOPIC, partition) for partition in range(4)]
        return {tp.partition: end for tp, end in (await consumer.end_offsets(tps)).items()}
    finally:
        await consumer.stop()


def test_servers_are_the_configured_ones_or_not_up(shm: Path) -> None:
    assert servers("a:1,b:2", shm) == "a:1,b:2"
    with pytest.raises(NotUp):
        servers(EMBEDDED, shm)


def test_broker_has_its_topics_with_four_empty_partitions(shm: Path) -> None:
    assert with_broker(shm, ends) == dict.fromkeys(range(4), 0)


def test_broker_takes_and_gives_what_is_produced(shm: Path) -> None:
    async def there_and_back(address: str) -> list[bytes]:
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=address)
        await producer.start()
        consumer = aiokafka.AIOKafkaConsumer(TOPIC, bootstrap_servers=address, auto_offset_reset="earliest")
        await consumer.start()
        try:
            for n in range(3):
                await producer.send_and_wait(TOPIC, b"%d" % n, partition=1)
            return [(await asyncio.wait_for(consumer.getone(), DEADLINE_S)).value for _ in range(3)]
        finally:
            await producer.stop()
            await consumer.stop()

    assert with_broker(shm, there_and_back) == [b"0", b"1", b"2"]


def test_broker_of_another_life_goes_on_where_the_topic_is_read(shm: Path) -> None:
    positions = Positions(shm, ACTOR, 1)
    positions[0], positions[2] = 5, 12_345
    positions.close()
    assert with_broker(shm, ends) == {0: 5, 1: 0, 2: 12_345, 3: 0}


def test_stop_while_clickhouse_is_silent_leaves_nothing_under_way(shm: Path) -> None:
    async def stopped() -> set[Any]:
        asked = asyncio.Event()
        silent = await asyncio.start_server(lambda _reader, _writer: asked.set(), "127.0.0.1", 0)
        server = Server(url=f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}")
        page = MetricsPage(shm, "broker", time.time_ns())
        ctx = ActorContext("broker", "broker", shm, shm, Config(topics=[TOPIC], clickhouse=server), page)
        running = asyncio.create_task(main(ctx))
        async with asyncio.timeout(DEADLINE_S):
            await asked.wait()
        ctx.stop()
        await running
        silent.close()
        return {task.get_name() for task in asyncio.all_tasks()}

    assert "begin" not in asyncio.run(stopped())
