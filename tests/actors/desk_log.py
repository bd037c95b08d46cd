"""A topic as Kafka has it, and an actor that plays it into its rings: for tests of what the writer makes of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from tickring.codecs.desk.records import EVENT, NO_KEY, TEXTS
from tickring.codecs.record import Flag
from tickring.ringbuf import (
    ByteRingWriter,
    KeyWriter,
    StreamReader,
    StreamWriter,
    bytes_filename,
    create_byte_ring,
    create_keys,
    create_stream,
    keys_filename,
)
from tickring.storage.client import Client, Server
from tickring.storage.errors import StorageError
from tickring.storage.offsets import stored_offsets

from ..desk.messages import Message, execution_stream, undecidable
from ..storage.processes import wait_for

TOPIC = "exec.reports.v1"
PARTITIONS = 3
ACTOR = "topic-exec-reports-v1"
START_NS = 1_741_080_000_000_000_000


@dataclass(frozen=True)
class Logged:
    """One message of the topic, with what the writer should make of it."""

    partition: int
    offset: int
    message: Message
    recv_ns: int

    @property
    def broker_ms(self) -> int:
        return START_NS // 1_000_000 + self.offset

    @property
    def ts_event_ns(self) -> int:
        return START_NS + self.offset * 1_000_003

    @property
    def dead(self) -> bool:
        return self.message.variant == ""

    @property
    def flags(self) -> int:
        return (int(Flag.DEAD) if self.dead else 0) | (int(Flag.HEADERS) if self.message.headers else 0)


@dataclass
class Log:
    """What was produced, in the order in which the topic's actor sees it."""

    messages: list[Logged] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)

    def produce(self, fills: int, seed: int = 0, dead: float = 0.03) -> None:
        rng = random.Random(seed)
        now = time.time_ns() // 86_400_000_000_000 * 86_400_000_000_000 + 3_600_000_000_000
        for message in execution_stream(rng, fills):
            if rng.random() < dead:
                message = Message(TOPIC, "", undecidable(rng, TOPIC), key=message.key)
            if rng.random() < 0.2:
                message = _with_headers(rng, message)
            partition = rng.randrange(PARTITIONS)
            offset = self.ends.get(partition, 0)
            self.ends[partition] = offset + 1
            self.messages.append(Logged(partition, offset, message, now + len(self.messages)))

    def raw(self) -> list[tuple[Any, ...]]:
        """All rows of the raw table, sorted, without the producer's own time of the event."""
        return sorted(
            (
                TOPIC, one.partition, one.offset, one.broker_ms, _text(one.message.key), one.message.value.hex(),
                [(name, _text(value)) for name, value in one.message.headers], one.message.variant,
                "" if one.dead else one.message.event_id, one.flags, one.ts_event_ns, one.recv_ns,
            )
            for one in self.messages
        )  # fmt: skip

    def fills(self) -> list[tuple[Any, ...]]:
        return sorted(
            (one.partition, one.offset, item, fill.fill_id, fill.account, fill.symbol, fill.side, fill.quantity,
             fill.price, fill.commission, fill.time_ms)
            for one in self.messages if not one.dead
            for item, fill in enumerate(one.message.fills)
        )  # fmt: skip

    def offsets(self, *, dead: bool) -> list[tuple[int, int]]:
        return sorted((one.partition, one.offset) for one in self.messages if one.dead is dead)


def _with_headers(rng: random.Random, message: Message) -> Message:
    headers = (("source", b"risk"), ("empty", b""), ("none", None), ("source", b"twice"))
    return replace(message, headers=headers[: rng.randint(1, 4)])


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


class TopicPlayer:
    """Publishes what the log has beyond what is published or stored, in one life of the rings.

    Args:
        stored: partition -> offset of the next event, where the rings do not tell.
    """

    def __init__(
        self, shm: Path, log: Log, stored: dict[int, int] | None = None, *, capacity: int = 1 << 13,
        texts_bytes: int = 1 << 24,
    ) -> None:  # fmt: skip
        self.log, now = log, time.time_ns()
        spec = EVENT.spec(ACTOR, capacity=capacity, keys_max=4)
        create_byte_ring(shm / bytes_filename(ACTOR, TEXTS), texts_bytes, now)
        create_stream(shm, spec, now)
        if not (shm / keys_filename(ACTOR)).exists():
            create_keys(shm / keys_filename(ACTOR), 4)
        self.texts = ByteRingWriter(shm / bytes_filename(ACTOR, TEXTS))
        self.keys = KeyWriter(shm / keys_filename(ACTOR))
        self.writer = StreamWriter(shm, spec, (), now)
        self.keys.add(f"topic:{TOPIC}", {"topic": TOPIC})
        self.writer.add_key(0)
        self._publish = self.writer.publisher(EVENT.struct, EVENT.values)
        self.name, self.record = ACTOR, EVENT
        self.next = dict(stored or {})
        reader = StreamReader(shm, ACTOR, "event", EVENT.dtype)
        for row in reader.read(reader.oldest(), reader.capacity)[0]:
            self.next[int(row["partition"])] = int(row["offset"]) + 1
        reader.close()

    def play(self, limit: int | None = None) -> None:
        """Publish what comes next, as far as the durable reader leaves room."""
        for one in self.log.messages:
            if one.offset < self.next.get(one.partition, 0):
                continue
            if limit == 0 or not self._has_room():
                return
            limit = None if limit is None else limit - 1
            self._put(one)
            self.next[one.partition] = one.offset + 1

    def _has_room(self) -> bool:
        cursor = self.writer.durable_cursor()
        return self.writer.sequence - (cursor or 0) < self.writer.spec.capacity

    def _put(self, one: Logged) -> None:
        message, head = one.message, b""
        if message.headers:
            body = msgspec.msgpack.encode([list(header) for header in message.headers])
            head = len(body).to_bytes(4, "little") + body
        at = self.texts.append(head + (message.key or b"") + message.value)
        key_size = NO_KEY if message.key is None else len(message.key)
        self._publish(0, one.recv_ns, one.ts_event_ns, one.flags, one.offset, one.broker_ms, at, one.partition,
                      key_size, len(message.value))  # fmt: skip

    @property
    def done(self) -> bool:
        return all(self.next.get(partition, 0) == end for partition, end in self.log.ends.items())

    @property
    def sequence(self) -> int:
        return self.writer.sequence

    def close(self) -> None:
        for part in (self.writer, self.texts, self.keys):
            part.close()


def ask_stored(server: Server, data: Path) -> dict[int, int]:
    """What a topic's actor asks at its start; waits as it does."""

    async def ask() -> dict[int, int] | None:
        client = Client(server)
        try:
            return await stored_offsets(client, data, TOPIC)
        except StorageError:
            return None
        finally:
            await client.close()

    answers: list[dict[int, int]] = []

    def answered() -> bool:
        if (found := asyncio.run(ask())) is not None:
            answers.append(found)
        return bool(answers)

    wait_for("stored offsets", answered)
    return answers[0]


def check_stored(query: Callable[[str], list[tuple[Any, ...]]], database: str, log: Log) -> None:
    """The tables hold what was produced, each once, value for value."""
    counts = query(f"SELECT count(), uniqExact(topic, partition, offset) FROM {database}.raw_events")
    assert counts == [(len(log.messages), len(log.messages))]
    raw = query(
        "SELECT topic, partition, offset, toUnixTimestamp64Milli(timestamp), key, lower(hex(value)), headers, variant, "
        "event_id, flags, toUnixTimestamp64Nano(ts_event_ns), toUnixTimestamp64Nano(ts_recv_ns) "
        f"FROM {database}.raw_events ORDER BY topic, partition, offset"
    )
    found = [(*row[:6], [_pair(header) for header in row[6]], *row[7:]) for row in raw]
    expected = log.raw()
    wrong = next(((f, e) for f, e in zip(found, expected, strict=True) if f != e), None)
    assert wrong is None, f"found, expected: {wrong}"
    fills = query(
        "SELECT partition, offset, item, fill_id, account_id, symbol, side, quantity, price, commission, "
        f"toUnixTimestamp64Milli(ts_event_ns) "
        f"FROM {database}.fills ORDER BY partition, offset, item"
    )
    assert fills == [tuple(v + Decimal(0) if isinstance(v, Decimal) else v for v in row) for row in log.fills()]
    for table, dead in (("exec_reports", False), ("dead_letters", True)):
        of_table = query(f"SELECT partition, offset FROM {database}.{table} ORDER BY partition, offset")
        assert of_table == log.offsets(dead=dead), table
    orders = query(f"SELECT count(), uniqExact(account_id, venue, order_id) FROM {database}.orders FINAL")[0]
    assert orders[0] == orders[1] > 0


def _pair(header: Any) -> tuple[str, str | None]:
    name, value = header.values() if isinstance(header, dict) else header
    return name, value
