"""A front on real rings in a temporary folder, and the producer that fills them: for the tests of the front."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from tickring.actors.front import Config
from tickring.actors.front.server import Front
from tickring.actors.runtime import ActorContext
from tickring.codecs.book import BookState
from tickring.codecs.record import Flag, RecordType
from tickring.codecs.records import BOOK_DEPTH, BOOK_LEVEL, BOOK_TOP, QUOTE, TRADE
from tickring.codecs.symbols import Instrument
from tickring.ringbuf import (
    Key,
    KeyWriter,
    MetricsPage,
    StreamWriter,
    create_keys,
    create_stream,
    keys_filename,
    make_bell,
    prepare_folder,
)
from tickring.storage.client import Client, Server
from tickring.storage.native import column_names, encode_block
from tickring.storage.schema import SchemaOptions, ensure_schema, qualified_table

from ..rings import publish_rows
from ..storage.processes import Actor, running_engine

DEADLINE_S = 60.0
PRODUCER = "feed-binance-spot-0"


def instrument(base: str, quote: str = "USDT", market_type: str = "spot", **more: Any) -> Instrument:
    values = {"price_precision": 2, "quantity_precision": 5, "tick": "0.01", "lot": "0.00001", **more}
    product = "spot" if market_type == "spot" else "usdm"
    return Instrument(
        exchange="binance", product=product, native=values.pop("native", f"{base}{quote}"), base=base, quote=quote,
        market_type=market_type, **values,
    )  # fmt: skip


class Producer:
    """Creates and writes the streams of one feed."""

    RECORDS = (TRADE, QUOTE, BOOK_LEVEL, BOOK_TOP, BOOK_DEPTH)

    def __init__(
        self, folder: Path, name: str = PRODUCER, *, records: Sequence[Any] = RECORDS, epoch_ns: int | None = None,
        capacity: int = 1 << 14, keys_max: int = 64, doorbells: Sequence[int] = (),
    ) -> None:  # fmt: skip
        self.folder, self.name = folder, name
        self.writers: dict[str, StreamWriter] = {}
        self.publish: dict[str, Any] = {}
        for record in records:
            spec = record.spec(name, capacity=capacity, keys_max=keys_max)
            create_stream(folder, spec, epoch_ns or time.time_ns())
        if not (folder / keys_filename(name)).exists():
            create_keys(folder / keys_filename(name), keys_max)
        self.keys = KeyWriter(folder / keys_filename(name))
        for record in records:
            spec = record.spec(name, capacity=capacity, keys_max=keys_max)
            writer = self.writers[record.name] = StreamWriter(folder, spec, doorbells, time.time_ns())
            self.publish[record.name] = writer.publisher(record.struct, record.values)
        self.instruments: dict[int, Instrument] = {}

    def add(self, what: Instrument) -> int:
        key_id = self.keys.add(what.key, what.attributes())
        for writer in self.writers.values():
            writer.add_key(key_id)
        self.instruments[key_id] = what
        return key_id

    def trade(
        self, key_id: int, price: float = 100.0, quantity: float = 0.5, *, at_ns: int | None = None, flags: int = 0,
        trade_id: int | None = None, first: int = 0, last: int = 0,
    ) -> None:  # fmt: skip
        now = time.time_ns()
        number = self.writers["trade"].counts[key_id] + 1 if trade_id is None else trade_id
        event = now - 1_000_000 if at_ns is None else at_ns
        self.publish["trade"](key_id, max(now, event), event, flags, number, price, quantity, first, last, 0.0)

    def trades(self, key_id: int, n: int) -> None:
        for i in range(n):
            self.trade(key_id, 100.0 + i / 100, (i + 1) / 1000, flags=int(Flag.SELL) if i % 2 else 0)

    def bar_key(self, what: Instrument, interval: str) -> int:
        """The key of an instrument's bars."""
        key_id = self.keys.add(f"{what.key}.{interval}", {**what.attributes(), "interval": interval})
        for writer in self.writers.values():
            writer.add_key(key_id)
        return key_id

    def bar(
        self, key_id: int, open_ms: int, length_ms: int, close: float = 100.0, volume: float = 2.0, *,
        flags: int = int(Flag.CLOSED), record: str = "kline",
    ) -> None:  # fmt: skip
        """A bar from `close` - 1 to `close`, two above and below it."""
        values = (open_ms, open_ms + length_ms - 1, close - 1, close + 2, close - 3, close, volume, volume * close, 7,
                  volume / 2, volume * close / 2)  # fmt: skip
        end_ns = (open_ms + length_ms) * 1_000_000
        self.publish[record](key_id, max(time.time_ns(), end_ns), end_ns, flags, *values)

    def quote(self, key_id: int, bid: float = 99.5, ask: float = 100.5, *, event_ns: int = 0) -> None:
        self.publish["quote"](key_id, time.time_ns(), event_ns, 0, bid, 1.5, ask, 2.5)

    def book(self, key_id: int, levels: int = 20, mid: float = 100.0, *, state: BookState = BookState.SYNCED) -> None:
        now = time.time_ns()
        for record in (BOOK_TOP, BOOK_DEPTH):
            depth = 20 if record is BOOK_TOP else 400
            used = min(levels, depth)
            bids = [mid - 0.01 * (i + 1) for i in range(used)] + [0.0] * (depth - used)
            asks = [mid + 0.01 * (i + 1) for i in range(used)] + [0.0] * (depth - used)
            sizes = [float(i + 1) for i in range(used)] + [0.0] * (depth - used)
            values = [round(x, 2) for x in bids], sizes, [round(x, 2) for x in asks], sizes
            flat = [value for part in values for value in part]
            head = 77, 2 * used, int(state), used, used, depth
            self.publish[record.name](key_id, now, now - 1_000_000, 0, *head, *flat)

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()
        self.keys.close()


@contextlib.contextmanager
def instance_folder() -> Iterator[Path]:
    """A folder in shared memory that is gone afterwards."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="tickring-test-front-", dir=base))
    prepare_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Answered:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class FrontThread:
    """A front on an event loop of its own thread, on a real socket."""

    def __init__(self, folder: Path, authenticator: Any = None, bell: int | None = None, **config: Any) -> None:
        self.folder = folder
        self._bell = bell
        self.config = Config(**{"port": 0, "history": False, **config})
        self._authenticator = authenticator
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        page = MetricsPage(self.folder, "front-0", time.time_ns())
        bell = make_bell() if self._bell is None else self._bell
        self.ctx = ActorContext(
            name="front-0", kind="front", folder=self.folder, data=self.folder, config=self.config, page=page,
            doorbells=[bell], doorbell_index=0,
        )  # fmt: skip
        self.loop = asyncio.get_running_loop()
        self.front = Front(self.ctx, self._authenticator)
        await self.front.start()
        self.port = self.front.port
        self.ctx.running()
        self._ready.set()
        try:
            await self.ctx.beat_until_stopped()
        finally:
            await self.front.stop()
            page.close()
            if self._bell is None:
                os.close(bell)

    def __enter__(self) -> FrontThread:
        self._thread.start()
        assert self._ready.wait(DEADLINE_S), "the front did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.ctx.stop)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the front did not stop"
        if self._failure is not None:
            raise self._failure

    def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answered:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def data(self, path: str) -> Any:
        """`data` of a successful answer."""
        answer = self.get(path)
        assert answer.status == 200, answer.body
        return answer.json["data"]

    def raw(self, data: bytes, *, patience_s: float = 0.25) -> bytes:
        """Send bytes on a connection of their own; all that comes until the front closes it or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE_S) as connection:
            connection.sendall(data)
            received = b""
            with contextlib.suppress(ConnectionResetError, TimeoutError):
                while piece := connection.recv(65536):
                    received += piece
                    connection.settimeout(patience_s)
            return received

    def raw_or_nothing(self, data: bytes) -> bytes:
        """The same for bytes that may be half a request: then there is no answer to wait for."""
        with socket.create_connection(("127.0.0.1", self.port), DEADLINE_S) as connection:
            connection.sendall(data)
            connection.settimeout(0.03)
            with contextlib.suppress(ConnectionResetError, TimeoutError):
                return connection.recv(65536)
        return b""


@pytest.fixture(scope="module", name="engine")
def engine_fixture() -> Iterator[Actor]:
    """The embedded ClickHouse in a process of its own."""
    with running_engine() as engine:
        yield engine


@pytest.fixture(name="server")
def server_fixture(engine: Actor) -> Server:
    """A database of its own in that engine."""
    return Server(
        url=engine.detail()["url"], password_file=str(engine.data / "clickhouse" / "password"),
        database=f"t{uuid.uuid4().hex[:10]}", timeout_s=20.0,
    )  # fmt: skip


def store(server: Server, record: RecordType, rows: np.ndarray, keys: Sequence[Key], epoch: int) -> None:
    """Insert rows as the writer does; `keys` by `key_id`."""

    async def insert() -> None:
        client = Client(server)
        await ensure_schema(client, [record], SchemaOptions(database=server.database))
        table, block = qualified_table(server.database, record), encode_block(record, rows, keys, epoch)
        await client.insert(table, column_names(record), block, uuid.uuid4().hex)
        await client.close()

    asyncio.run(insert())


def many_trades(producer: Producer, key_ids: Sequence[int], n: int) -> None:
    """Publish `n` random trades for each key."""
    for key_id in key_ids:
        rows = np.zeros(n, TRADE.dtype)
        rows["key_id"] = key_id
        rows["ts_recv_ns"] = time.time_ns() + np.arange(n)
        rows["ts_event_ns"] = rows["ts_recv_ns"] - 1_000_000
        rows["trade_id"] = np.arange(n) + 1_000_000
        rows["price"] = [round(random.uniform(10, 1000), 2) for _ in range(n)]
        rows["quantity"] = [round(random.uniform(0.001, 5), 5) for _ in range(n)]
        rows["flags"] = [random.choice((0, int(Flag.SELL))) for _ in range(n)]
        publish_rows(producer.writers["trade"], rows)
