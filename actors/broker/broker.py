"""The life of the embedded broker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from ..recent import topic_actor
from ..runtime import BEAT_INTERVAL_S, ActorContext
from ..topic.brokers import DETAIL
from ..topic.positions import SUFFIX, read_positions
from ..topic.stored import stored_positions
from .config import Config

log = logging.getLogger(__name__)

ANSWER_S = 5.0  # within which the cluster, a thread of this process, answers
FLUSH_S = 60.0


class Cluster:
    """The mock cluster: it lives in a producer, and ends with it.

    Raises:
        KafkaException: it does not answer.
    """

    def __init__(self) -> None:
        from confluent_kafka import Producer  # in an extra, and only ever loaded in this process

        self._producer = Producer({
            "bootstrap.servers": "127.0.0.1:1",  # asked for by the library, and replaced by the cluster's own
            "test.mock.num.brokers": 1, "log_level": 2, "queue.buffering.max.messages": 1_000_000,
        })  # fmt: skip
        brokers = self._producer.list_topics(timeout=ANSWER_S).brokers
        self.address = ",".join(f"{broker.host}:{broker.port}" for broker in brokers.values())

    def make(self, topic: str) -> int:
        """Make a topic; returns how many partitions it has."""
        return len(self._producer.list_topics(topic, timeout=ANSWER_S).topics[topic].partitions)

    def fill(self, topic: str, partition: int, n: int) -> None:
        """Add `n` empty records. Raises TimeoutError when they are not all taken."""
        for _ in range(n):
            while True:
                try:
                    self._producer.produce(topic, b"", partition=partition)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        if left := self._producer.flush(FLUSH_S):
            raise TimeoutError(f"topic {topic}: {left} of {n} records were not taken within {FLUSH_S:g} s")


class Broker:
    """Makes the cluster, brings its topics to where they are read, and then says where it is."""

    def __init__(self, ctx: ActorContext) -> None:
        self.ctx = ctx
        self.config: Config = ctx.config
        self.cluster = Cluster()
        self._said = ""

    async def begin(self) -> None:
        """Until clients may come."""
        for topic in self.config.topics:
            partitions = await asyncio.to_thread(self.cluster.make, topic)
            for partition, position in sorted((await self._positions(topic)).items()):
                if partition < partitions:
                    await asyncio.to_thread(self.cluster.fill, topic, partition, position)
                    log.warning(
                        "broker topic=%s partition=%d goes on at offset=%d: its log ended with the broker's last life, "
                        "and events that were not read are lost", topic, partition, position,
                    )  # fmt: skip
        self.ctx.page.detail = {DETAIL: self.cluster.address, "topics": self.config.topics}
        log.info("broker=%s topics=%d", self.cluster.address, len(self.config.topics))

    async def _positions(self, topic: str) -> Mapping[int, int]:
        """Partition -> offset of the event that the instance reads next, where it has read any."""
        found = read_positions(self.ctx.folder / f"{topic_actor(topic)}{SUFFIX}")
        return found or await stored_positions(self.ctx, topic, self._say)

    def _say(self, reason: str) -> None:
        if reason != self._said:
            self._said = reason
            log.info("broker waits: %s", reason)


async def main(ctx: ActorContext) -> None:
    """Serve until the stop. Raises KafkaException when the cluster cannot be made."""
    broker = Broker(ctx)
    ctx.running()
    beginning: asyncio.Task[Any] = asyncio.create_task(broker.begin(), name="begin")
    try:
        while not ctx.stopping.is_set():
            if beginning.done():
                beginning.result()
            ctx.beat()
            await ctx.stopped_within(BEAT_INTERVAL_S)
    finally:
        beginning.cancel()
        await asyncio.wait([beginning])  # cancelled again by the loop's end, it could not close its connection
