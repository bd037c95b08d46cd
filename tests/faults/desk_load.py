"""The load of the desk's campaign: what producers tell a broker, and exactly what of it the broker has taken."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from ..desk.messages import (
    NO_SCHEMA,
    START_MS,
    TOPICS,
    VARIANTS,
    Message,
    compose,
    execution_stream,
    mixture,
    undecidable,
)

EXECUTIONS, ALERTS, RISK = "exec.reports.v1", "alerts.v1", "risk.metrics.v1"
ALL_TOPICS = (*TOPICS, NO_SCHEMA)
PARTITIONS = 4
DEAD = "undecidable"  # note of a message that nobody can understand
ENDLESS = 1 << 62
FLUSH_S = 180.0  # a broker that was killed is back long before
POLL_S = 0.01
# how often each kind of message comes, of 100
EXECUTION, OTHER, ALERT, WITHOUT_SCHEMA, UNDECIDABLE = 55, 32, 8, 3, 2


@dataclass(frozen=True, slots=True)
class Produced:
    """A message as the broker has it."""

    message: Message
    partition: int
    offset: int
    timestamp_ms: int

    @property
    def where(self) -> tuple[str, int, int]:
        return self.message.topic, self.partition, self.offset

    @property
    def dead(self) -> bool:
        return DEAD in self.message.notes


def alerts(rng: random.Random) -> Iterator[Message]:
    """Alerts, each of its own id; some are told again some messages later, in another variant or byte for byte."""
    waiting: deque[tuple[int, Message]] = deque()
    for n in count():
        while waiting and waiting[0][0] <= n:
            yield waiting.popleft()[1]
        variant, told = rng.choice(VARIANTS[ALERTS]), {"alert_id": f"al-{n}"}
        first = compose(ALERTS, variant, rng, START_MS + 10 * n, **told)
        yield first
        if rng.random() < 0.1:
            waiting.append((n + 5, first))
        if rng.random() < 0.3:
            other = rng.choice([name for name in VARIANTS[ALERTS] if name != variant])
            over = {"resolved": True, "status": "RESOLVED"} if other == "dashboard" and rng.random() < 0.5 else {}
            waiting.append((n + 5, compose(ALERTS, other, rng, START_MS + 10 * n + 5000, **told, **over)))


def traffic(seed: int) -> Iterator[tuple[int, Message]]:
    """Messages without end, each with its partition: all topics and variants, in the order of the seed."""
    rng = random.Random(seed)
    executions = execution_stream(random.Random(rng.random()), ENDLESS, late=0.1, told_twice=0.1)
    plain = tuple(topic for topic in TOPICS if topic not in (EXECUTIONS, ALERTS))
    others, told = mixture(random.Random(rng.random()), ENDLESS, topics=plain), alerts(random.Random(rng.random()))
    weights = (EXECUTION, OTHER, ALERT, WITHOUT_SCHEMA, UNDECIDABLE)
    recent: deque[Message] = deque(maxlen=50)
    while True:
        kind = rng.choices(range(len(weights)), weights)[0]
        if kind == 0:
            message = next(executions)
        elif kind == 1:
            repeat = recent and rng.random() < 0.05  # by a producer that heard no acknowledgement
            message = rng.choice(recent) if repeat else next(others)
            recent.append(message)
        elif kind == 2:
            message = next(told)
        elif kind == 3:
            message = Message(NO_SCHEMA, "", json.dumps({"quality": rng.random()}).encode(), b"a key")
        else:
            topic = rng.choice(TOPICS)
            message = Message(topic, "", undecidable(rng, topic), notes=frozenset({DEAD}))
        yield rng.randrange(PARTITIONS), message


class Load(threading.Thread):
    """Produces traffic to a broker at a rate; idempotent, and again until acknowledged.

    Attributes:
        produced: everything that was acknowledged.
        failed: what the broker did not take, which must be nothing.
    """

    def __init__(self, bootstrap: str, seed: int, rate: float) -> None:
        from confluent_kafka import Producer

        super().__init__(name="load", daemon=True)
        self._producer = Producer({
            "bootstrap.servers": bootstrap, "enable.idempotence": True, "message.timeout.ms": 0, "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000, "reconnect.backoff.max.ms": 500, "log_level": 2,
        })  # fmt: skip
        self._seed, self._interval_s = seed, 1 / rate
        self._asked: deque[tuple[int, Message]] = deque()  # to be produced beside the traffic
        self._ending = threading.Event()
        self.produced: list[Produced] = []
        self.failed: list[str] = []

    def say(self, message: Message, partition: int = 0) -> None:
        """Produce a message beside the traffic; from any thread."""
        self._asked.append((partition, message))

    def run(self) -> None:
        due = time.monotonic()
        messages = traffic(self._seed)
        while not self._ending.is_set():
            while self._asked:
                self._produce(*self._asked.popleft())
            if due <= time.monotonic():
                self._produce(*next(messages))
                due += self._interval_s
                self._producer.poll(0)
            else:
                self._producer.poll(POLL_S)

    def _produce(self, partition: int, message: Message) -> None:
        now_ms = time.time_ns() // 1_000_000

        def delivered(error: object, record: object) -> None:
            if error is not None:
                self.failed.append(f"{message.topic}/{partition}: {error}")
            else:
                offset: int = record.offset()  # type: ignore[attr-defined]
                self.produced.append(Produced(message, partition, offset, now_ms))

        self._producer.produce(
            message.topic, message.value, message.key, partition, on_delivery=delivered, timestamp=now_ms,
            headers=list(message.headers),
        )  # fmt: skip

    def finish(self) -> Sequence[Produced]:
        """End the traffic and wait until the broker has all of it."""
        if not self._ending.is_set():
            self._ending.set()
            self.join(30)
            left = self._producer.flush(FLUSH_S)
            assert not left, f"{left} messages were not acknowledged within {FLUSH_S} s"
            assert not self.failed, f"the broker refused {len(self.failed)}, first {self.failed[0]}"
        return self.produced


def leverage(value: float, account: str) -> Message:
    """A statement of risk of now, for the built-in rule `leverage`."""
    now_ms = time.time_ns() // 1_000_000
    rng = random.Random(now_ms)
    return replace(compose(RISK, "dashboard", rng, now_ms, account_id=account, leverage=str(value)), key=b"rule")
