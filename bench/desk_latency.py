"""From a Kafka producer to a WebSocket client: execution reports at 1,000 a second on a real broker, as fills.

    python bench/desk_latency.py [--quick]

The whole tree runs: the topic's actor, portfolio, writer, embedded engine and two fronts; a client follows the channel
`fills`. Times are from `produce()` of an event to its frame's arrival, on the clock of one machine. Every fill has to
arrive exactly once. Where the time goes follows from what is stamped on the way: when the broker acknowledged the
event to its producer, and when the topic's actor had it from the broker (`ts_recv_ns`); the rest is decoding, ring,
front and WebSocket. The peer is aiokafka alone, which has events of the same broker at the same pace, and does nothing
with them; the tree does not run meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from harness import Line, percentile
from kafka import NAME, PARTITIONS, TOPIC, reports
from latency import running

from tickring.codecs.desk.records import FILL
from tickring.ringbuf import StreamReader
from tickring.tests.desk import broker as kafka

LIMIT_MS = 5.0
PER_SECOND = 1000
WARM = 500  # events before those that are measured
DEADLINE_S = 60.0
NAME_OF_LINE = f"Kafka producer to WS client, fills at {PER_SECOND:,}/s, p50"
_FILL_ID = re.compile(rb'"fill_id":"f-(\d+)"')


def client(url: str, last_id: int, pipe: Connection) -> None:
    """Follow the fills until the last one came; sends `[(id, arrival, monotonic ns)]`."""
    import uvloop
    from client import Receiver
    from picows import WSMsgType, ws_connect

    class Fills(Receiver):
        ids = _FILL_ID

    async def work() -> None:
        subscribed, done = asyncio.Event(), asyncio.Event()
        transport, receiver = await ws_connect(lambda: Fills(last_id, subscribed, done), url)
        subscribe = {"op": "subscribe", "id": 1, "channels": [{"channel": "fills", "snapshot": False}]}
        transport.send(WSMsgType.TEXT, json.dumps(subscribe).encode())
        await subscribed.wait()
        pipe.send("ready")
        async with asyncio.timeout(DEADLINE_S + last_id / PER_SECOND):
            await done.wait()
        pipe.send([(int(one), now) for now, payload in receiver.frames for one in _FILL_ID.findall(payload)])

    uvloop.run(work())


def bare(bootstrap: str, n: int, pipe: Connection) -> None:
    """aiokafka alone, from where the topic ends now; sends `{(partition, offset): arrival, monotonic ns}` of `n`."""
    import uvloop
    from aiokafka import AIOKafkaConsumer, TopicPartition

    async def work() -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
        await consumer.start()
        partitions = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
        consumer.assign(partitions)
        for partition, end in (await consumer.end_offsets(partitions)).items():
            consumer.seek(partition, end)
        pipe.send("ready")
        arrived: dict[tuple[int, int], int] = {}
        async with asyncio.timeout(DEADLINE_S + n / PER_SECOND):
            while len(arrived) < n:
                fetched = await consumer.getmany(timeout_ms=200)
                now = time.monotonic_ns()
                arrived |= {(one.partition, one.offset): now for some in fetched.values() for one in some}
        pipe.send(arrived)
        await consumer.stop()

    uvloop.run(work())


class Producing:
    """Produces single events, each sent at once; notes when, and when the broker had it.

    A thread of its own takes the acknowledgements: to wait for them for less than a millisecond is to spin.
    """

    def __init__(self, bootstrap: str, n: int) -> None:
        from confluent_kafka import Producer

        config = {"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": "all", "log_level": 0}
        self._producer = Producer(config)
        threading.Thread(target=self._acknowledge, daemon=True).start()
        self.sent, self.acknowledged = np.zeros(n + 1, np.int64), np.zeros(n + 1, np.int64)
        self.failed: list[object] = []

    def _acknowledge(self) -> None:
        while True:
            self._producer.poll(0.1)

    def produce(self, number: int) -> None:
        (report,) = reports(number)[:1]
        report["timestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        body = msgspec.json.encode(report)

        def delivered(error: object, _: object) -> None:
            self.acknowledged[number] = time.monotonic_ns()
            if error:
                self.failed.append(error)

        self.sent[number] = time.monotonic_ns()
        self._producer.produce(TOPIC, body, partition=number % PARTITIONS, on_delivery=delivered)

    def pace(self, first: int, stop: int) -> None:
        """Events `first` to `stop`, each when it is due."""
        started = time.monotonic()
        for number in range(first, stop):
            due = started + (number - first) / PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))
            self.produce(number)
        assert not self._producer.flush(30), "not all events were acknowledged within 30 s"
        assert not self.failed, f"{len(self.failed)} events were not taken: {self.failed[0]}"


def received(rings: Path, offset_ns: int) -> dict[int, int]:
    """Number of an event -> when the topic's actor had it from the broker, monotonic ns."""
    fills = StreamReader(rings, NAME, FILL.name, FILL.dtype)
    rows, _, _ = fills.read(fills.oldest(), fills.capacity)
    fills.close()
    # each partition takes every n-th event in order
    return {
        int(offset) * PARTITIONS + int(partition): int(recv_ns) - offset_ns
        for partition, offset, recv_ns in zip(rows["partition"], rows["offset"], rows["ts_recv_ns"], strict=True)
    }


def measure(bootstrap: str, seconds: float, folder: Path) -> list[Line]:
    """On a broker that has the topic, empty."""
    n = int(seconds * PER_SECOND)
    total = WARM + n
    kafka_table = f"""
[kafka]
bootstrap_servers = "{bootstrap}"
topics = ["{TOPIC}"]
[alerts]
disabled = ["drawdown"]
"""
    producing = Producing(bootstrap, total + n)
    with running(kafka_table, folder) as (port, _, rings):
        producing.pace(0, WARM)  # accounts, positions and everything behind them are there
        wait_for(rings, WARM)
        url = f"ws://127.0.0.1:{port}/ws/v1"
        arrived: list[tuple[int, int]] = followed(client, url, producing, WARM, n)
        at_topic = received(rings, time.time_ns() - time.monotonic_ns())
    of_bare: dict[tuple[int, int], int] = followed(bare, bootstrap, producing, total, n)
    alone = [
        (at - int(producing.sent[offset * PARTITIONS + partition])) / 1e6 for (partition, offset), at in of_bare.items()
    ]
    numbers = sorted(number for number, _ in arrived)
    assert numbers == list(range(WARM, total)), f"{len(numbers)} of {n} fills came, {len(set(numbers))} different ones"
    sent, acknowledged = producing.sent, producing.acknowledged
    whole = [(at - sent[number]) / 1e6 for number, at in arrived]
    parts = {
        "to the acknowledgement": [(acknowledged[number] - sent[number]) / 1e6 for number in numbers],
        "to the topic's actor": [(at_topic[number] - sent[number]) / 1e6 for number in numbers],
        "from there to the client": [(at - at_topic[number]) / 1e6 for number, at in arrived],
    }
    p99 = percentile(whole, 0.99)
    told = "; ".join(f"{name} p50 {np.median(ms):.2f}, p99 {percentile(ms, 0.99):.2f}" for name, ms in parts.items())
    detail = f"p99 {p99:.2f} ms; {told} ms; portfolio, writer and engine attached, {PARTITIONS} partitions"
    peer = f"which has p50 {np.median(alone):.2f}, p99 {percentile(alone, 0.99):.2f} ms"
    p50 = float(np.median(whole))
    return [
        Line(NAME_OF_LINE, p50, "ms", LIMIT_MS, "lower", detail),
        Line(f"{NAME_OF_LINE}, beside aiokafka alone", p50 / float(np.median(alone)), "x", None, "lower", peer),
    ]


def followed(target: Callable[..., None], address: str, producing: Producing, first: int, n: int) -> Any:
    """What a process that follows events `first` to `first + n` says of them; they are produced when it is ready."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=target, args=(address, n, theirs), daemon=True)
    process.start()
    assert pipe.poll(DEADLINE_S) and pipe.recv() == "ready", f"{target.__name__} was not served"
    producing.pace(first, first + n)
    assert pipe.poll(2 * DEADLINE_S), f"not all events came to {target.__name__}"
    arrived = pipe.recv()
    process.join(10)
    return arrived


def wait_for(rings: Path, events: int) -> None:
    """Until so many fills are in their ring."""
    end = time.monotonic() + DEADLINE_S
    fills = StreamReader(rings, NAME, FILL.name, FILL.dtype)
    while fills.published() < events:
        assert time.monotonic() < end, f"{fills.published()} of {events} fills came to the ring"
        time.sleep(0.01)
    fills.close()
    time.sleep(1.0)


def run(quick: bool = False) -> list[Line]:
    """The lines of this suite; without Java the figure is skipped."""
    folder = Path(tempfile.mkdtemp(prefix="tickring-bench-broker-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            broker = kafka.Broker(folder / "broker")
        except kafka.NoBroker as error:
            print(f"skipped: {error}", file=sys.stderr, flush=True)
            return [Line(NAME_OF_LINE, None, "ms", LIMIT_MS, "lower", str(error))]
        broker.start()
        stack.callback(broker.stop)
        kafka.make_topics(broker.bootstrap, [TOPIC], PARTITIONS)
        (folder / "tree").mkdir()
        return measure(broker.bootstrap, 5 if quick else 30, folder / "tree")


def main() -> None:
    for line in run(quick="--quick" in sys.argv):
        facts: dict[str, Any] = line.as_dict()
        print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
