"""The broker of the session, and a topic's actor as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tickring.codecs.desk.canonical import Fill
from tickring.codecs.desk.records import BY_NAME, NO_KEY, TEXTS
from tickring.codecs.record import Flag
from tickring.ringbuf import (
    ByteRingReader,
    KeyReader,
    StreamReader,
    bytes_filename,
    create_byte_ring,
    create_keys,
    create_stream,
    keys_filename,
    read_page,
)
from tickring.storage.client import Client
from tickring.tests.desk.topic_process import run_actor  # by this name a child process finds it too

from ..ports import free_port
from ..storage.conftest import engine, server  # noqa: F401 - fixtures
from . import broker as kafka

EXECUTIONS = "exec.reports.v1"
REQUIRED = "TICKRING_REQUIRE_KAFKA"  # set where Java can be had: then a missing broker is a failure
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["tickring.tests.desk.topic_process"])


class Elsewhere:
    """A broker that somebody else runs, at `KAFKA_BOOTSTRAP`; tests that damage or secure one are skipped."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap


@pytest.fixture(scope="session")
def any_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running broker: ours, or the one at `KAFKA_BOOTSTRAP`."""
    if address := os.environ.get("KAFKA_BOOTSTRAP"):
        yield Elsewhere(address)
        return
    try:
        started = kafka.Broker(tmp_path_factory.mktemp("broker"))
    except kafka.NoBroker as error:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and there is no broker: {error}")
        warnings.warn(f"tests of Kafka run on librdkafka's mock as far as it goes: {error}", stacklevel=1)
        yield kafka.Mock()
        return
    started.start()
    yield started
    started.stop()


@pytest.fixture
def broker(any_broker: Any) -> Iterator[kafka.Broker]:
    """Our own broker, which a test may kill."""
    if isinstance(any_broker, kafka.Mock):
        pytest.skip(f"needs a real broker: {kafka.INSTALL}")
    if not isinstance(any_broker, kafka.Broker):
        pytest.skip("needs a broker of its own: unset KAFKA_BOOTSTRAP")
    yield any_broker
    if any_broker.process is None or any_broker.process.poll() is not None:
        any_broker.start()


@pytest.fixture
def topic(any_broker: Any) -> str:
    """The topic of execution reports, new and empty."""
    if isinstance(any_broker, kafka.Mock):
        any_broker.renew()
        any_broker.make_topic(EXECUTIONS)
    else:
        kafka.renew_topics(any_broker.bootstrap, [EXECUTIONS])
    return EXECUTIONS


class TopicRig:
    """The streams of one topic's actor, and the actor as a process that can be killed."""

    def __init__(self, shm: Path, data: Path, topic: str, **settings: Any) -> None:
        from tickring.actors import topic as actor

        self.shm, self.data, self.topic = shm, data, topic
        self.name = "topic-" + topic.replace(".", "-")
        self.settings = {"topic": topic, "retry_delay_s": 0.05, "retry_delay_max_s": 0.5, **settings}
        self.process: Any = None
        config = msgspec.convert(self.settings, actor.Config)
        specs = actor.streams(self.name, config)
        now = time.time_ns()
        if not (shm / keys_filename(self.name)).exists():
            create_keys(shm / keys_filename(self.name), specs[0].keys_max)
        for name, capacity in actor.byte_rings(self.name, config).items():
            create_byte_ring(shm / bytes_filename(self.name, name), capacity, now)
        for spec in specs:
            create_stream(shm, spec, now)

    def start(self) -> None:
        self.process = _processes.Process(
            target=run_actor, args=(self.name, str(self.shm), str(self.data), self.settings), daemon=True
        )
        self.process.start()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.join()

    def stop(self) -> None:
        """SIGTERM; the actor must end by itself."""
        if self.process is not None and self.process.is_alive():
            self.process.terminate()
            self.process.join(60)
            late = self.process.is_alive()
            self.kill()
            assert not late, "the actor did not end within 20 s"

    # -- what it published ------------------------------------------------------------------------------------------

    def rows(self, record: str) -> np.ndarray:
        """All rows of a stream that are still in its ring, none of which may have been overwritten."""
        reader = StreamReader(self.shm, self.name, record, BY_NAME[record].dtype)
        rows, _, lost = reader.read(0, reader.capacity)
        reader.close()
        assert not lost, f"{lost} rows of {record} were overwritten: give the test a larger ring"
        return rows

    def published(self, record: str = "event") -> int:
        reader = StreamReader(self.shm, self.name, record)
        n = reader.published()
        reader.close()
        return n

    def fills(self, rows: np.ndarray) -> list[Fill]:
        """What the texts of rows of fills say."""
        return [msgspec.json.decode(text, type=Fill) for text in self.texts(rows)]

    def texts(self, rows: np.ndarray) -> list[bytes]:
        """Texts of live rows or dead letters."""
        ring = ByteRingReader(self.shm / bytes_filename(self.name, TEXTS))
        found = [ring.read(int(row["text_at"]), int(row["text_size"])) for row in rows]
        ring.close()
        assert all(text is not None for text in found)
        return [bytes(text or b"") for text in found]

    def events(self) -> list[tuple[int, int, list[Any], bytes | None, bytes]]:
        """`(partition, offset, headers, key, value)` of every event row, in the order of the ring."""
        ring = ByteRingReader(self.shm / bytes_filename(self.name, TEXTS))
        found = []
        for row in self.rows("event"):
            at, headers, key = int(row["text_at"]), [], None
            if row["flags"] & Flag.HEADERS:
                size = int.from_bytes(ring.read(at, 4) or b"", "little")
                headers = msgspec.msgpack.decode(ring.read(at + 4, size) or b"")
                at += 4 + size
            if row["key_size"] != NO_KEY:
                key = ring.read(at, int(row["key_size"]))
                at += int(row["key_size"])
            value = ring.read(at, int(row["value_size"]))
            assert value is not None
            found.append((int(row["partition"]), int(row["offset"]), headers, key, value))
        ring.close()
        return found

    @staticmethod
    def dtype(record: str) -> np.dtype:
        return BY_NAME[record].dtype

    def accounts(self) -> dict[int, str]:
        keys = KeyReader(self.shm / keys_filename(self.name))
        found = {key.key_id: key.attributes["account_id"] for key in keys if "account_id" in key.attributes}
        keys.close()
        return found

    def detail(self) -> dict[str, Any]:
        with contextlib.suppress(Exception):
            return dict(read_page(self.shm / f"{self.name}.page").detail)
        return {}

    def metric(self, name: str, **labels: str) -> float:
        samples = read_page(self.shm / f"{self.name}.page").samples
        return sum(
            one.values[0] for one in samples
            if one.name == f"tickring_kafka_{name}" and labels.items() <= one.labels.items()
        )  # fmt: skip

    def ends(self) -> dict[int, int]:
        """Partition -> events of it, after a look that each offset from 0 on is there once and in order."""
        rows = self.rows("event")
        found = {}
        for partition in np.unique(rows["partition"]).tolist():
            offsets = rows["offset"][rows["partition"] == partition]
            assert (offsets == np.arange(len(offsets))).all(), f"partition {partition}: {offsets.tolist()[:20]}"
            found[partition] = len(offsets)
        return found


@pytest.fixture
def make_rig(shm: Path, tmp_path: Path) -> Iterator[Callable[..., TopicRig]]:
    """``make_rig(topic, bootstrap_servers=..., **settings)``; what it made is stopped afterwards."""
    made: list[TopicRig] = []

    def make(topic: str, **settings: Any) -> TopicRig:
        made.append(TopicRig(shm, tmp_path, topic, **settings))
        return made[-1]

    yield make
    for rig in made:
        if rig.process is not None and rig.process.is_alive():
            rig.kill()
        for line in (rig.data / f"{rig.name}.log").read_text().splitlines()[-60:]:
            print(line[:400])  # pytest shows it where the test failed


class Cut:
    """A proxy before the broker's listener `through`, whose connections a test can cut."""

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._pairs: list[socket.socket] = []
        self.open = True
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if not self.open:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                self._pairs += [client, server]
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Break every connection and take no new ones until `mend`."""
        self.open = False
        pairs, self._pairs = self._pairs, []
        for one in pairs:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def mend(self) -> None:
        self.open = True

    def close(self) -> None:
        self.cut()
        self._server.close()


@pytest.fixture
def cut(broker: kafka.Broker) -> Iterator[Cut]:
    proxy = Cut(broker.proxy_port, broker.through_port)
    yield proxy
    proxy.close()


def report(i: int, account: str = "default", side: str = "BUY", **members: Any) -> bytes:
    """An execution report of the dashboard's kind that is a fill, with `i` in all its ids."""
    return msgspec.json.encode({
        "event_id": f"e-{i}", "timestamp": "2025-03-04T09:16:02.051Z", "version": "v1", "source": "order-executor",
        "order_id": f"o-{i}", "symbol": "ETHUSDT", "side": side, "order_type": "MARKET", "order_status": "FILLED",
        "exec_type": "TRADE", "exec_id": f"x-{i}", "quantity": "0.80", "price": "2251.40", "last_qty": "0.80",
        "last_price": "2251.35", "commission": "0.7204", "commission_asset": "USDT",
        "trade_time": "2025-03-04T09:16:02.044Z", "strategy_id": "dipmaster", "account_id": account, "venue": "binance",
        **members,
    })  # fmt: skip


@pytest.fixture
def stored(server: Any) -> Iterator[Callable[..., Any]]:  # noqa: F811
    """``stored(topic, {partition: offset})``: an engine whose table of raw events answers so.

    Returns the settings of a server that nobody answers for until the function beside them is called.
    """
    with contextlib.ExitStack() as stack:

        def make(topic: str, ends: dict[int, int]) -> tuple[dict[str, Any], Callable[[], None]]:
            asyncio.run(_store(server, topic, ends))
            port = free_port()
            target = int(server.url.rpartition(":")[2])
            settings = {"url": f"http://127.0.0.1:{port}", "password_file": server.password_file,
                        "database": server.database, "timeout_s": 20.0}  # fmt: skip
            return settings, lambda: stack.callback(Cut(port, target).close)

        yield make


async def _store(target: Any, topic: str, ends: dict[int, int]) -> None:
    client = Client(target)
    table = f"{target.database}.raw_events"
    await client.command(f"CREATE DATABASE {target.database}")
    await client.command(
        f"CREATE TABLE {table} (topic String, partition UInt16, offset Int64) ENGINE = MergeTree ORDER BY tuple()"
    )
    for partition, offset in ends.items():
        await client.command(f"INSERT INTO {table} SELECT '{topic}', {partition}, number FROM numbers({offset + 1})")
    await client.close()
