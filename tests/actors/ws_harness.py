"""Real rings, front workers in processes of their own, and a client that keeps the books of what it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tickring.actors.catalog import Catalog
from tickring.actors.feed.publish import RingSink
from tickring.actors.front.ws import WsConfig, close_ws, setup_ws
from tickring.actors.runtime import ActorContext
from tickring.codecs.book import BookState, OrderBook
from tickring.codecs.record import Flag
from tickring.codecs.records import BY_NAME, MARKET_RECORDS
from tickring.ringbuf import (
    KeyWriter,
    MetricsPage,
    StreamWriter,
    create_keys,
    create_stream,
    keys_filename,
    make_bell,
    prepare_folder,
    read_page,
)

DEADLINE_S = 60.0
BELLS = 4
CAPACITY = 4096
SYMBOLS = ("BTC-USDT", "ETH-USDT", "SOL-USDT", "XRP-USDT")


def key_attributes(pair: str, market_type: str = "spot") -> dict[str, Any]:
    instrument = pair if market_type == "spot" else f"{pair}-PERP"
    return {
        "exchange": "binance", "product": "spot", "market_type": market_type, "symbol": pair, "instrument": instrument,
        "native": pair.replace("-", ""), "price_precision": 2, "quantity_precision": 5, "tick": "0.01",
    }  # fmt: skip


class Producer:
    """A feed without an exchange: the one writer of all record types of a few symbols."""

    def __init__(
        self, folder: Path, bells: Sequence[int], name: str = "feed-test-0", symbols: Sequence[str] = SYMBOLS,
        capacity: int = CAPACITY, market_type: str = "spot", epoch_ns: int | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.bells, self.name = folder, bells, name
        self.specs = {r.name: r.spec(name, capacity=capacity, keys_max=64) for r in MARKET_RECORDS}
        for spec in self.specs.values():
            create_stream(folder, spec, epoch_ns or time.time_ns())
        keys = folder / keys_filename(name)
        if not keys.exists():
            create_keys(keys, 64)
        self.market_type = market_type
        self.symbols = list(symbols)
        self.attach()

    def attach(self) -> None:
        """Become the producer, as a feed does at its start."""
        self.keys = KeyWriter(self.folder / keys_filename(self.name))
        self.writers = {
            record: StreamWriter(self.folder, spec, self.bells, time.time_ns()) for record, spec in self.specs.items()
        }
        self.publishers: dict[str, Any] = {}
        self.sink = RingSink(self.writers)
        self.books: dict[int, OrderBook] = {}
        for symbol in self.symbols:
            self.add(symbol)

    def add(self, symbol: str) -> int:
        attributes = key_attributes(symbol, self.market_type)
        key_id = self.keys.add(f"binance.{attributes['instrument']}", attributes)
        for writer in self.writers.values():
            writer.add_key(key_id)
        return key_id

    def trade(self, key_id: int, number: int) -> None:
        """A trade whose content follows from its number."""
        now = time.time_ns()
        flags = Flag.SELL if number % 2 else 0
        self.sink.trade(key_id, now, now - 1_000_000, int(flags), number, round(100 + number / 100, 2), 1.5, 0, 0, 0.0)
        self.sink.flush()

    def trades(self, key_id: int, first: int, n: int) -> None:
        for number in range(first, first + n):
            self.trade(key_id, number)

    def quote(self, key_id: int, number: int) -> None:
        now = time.time_ns()
        self.sink.quote(key_id, now, 0, 0, 100 + number, 1.0, 101 + number, 2.0)

    def bars(self, symbol: str, interval: str = "1m") -> int:
        """The key of an instrument's bars."""
        attributes = key_attributes(symbol, self.market_type) | {"interval": interval}
        key_id = self.keys.add(f"binance.{attributes['instrument']}.{interval}", attributes)
        for writer in self.writers.values():
            writer.add_key(key_id)
        return key_id

    def publish(self, record: str, key_id: int, *values: Any, flags: int = 0) -> None:
        """Any record, by its values in the order of its declaration."""
        kind, now = BY_NAME[record], time.time_ns()
        if record not in self.publishers:
            self.publishers[record] = self.writers[record].publisher(kind.struct, kind.values)
        self.publishers[record](key_id, now, now - 1_000_000, int(flags), *values)

    def bar(self, key_id: int, minute: int, close: float, *, closed: bool = False) -> None:
        """The bar of a minute: as the open one, and when it is closed as one of those too."""
        flags = Flag.CLOSED if closed else Flag(0)
        values = (minute * 60_000, minute * 60_000 + 59_999, 100.0, 110.0, 90.0, close, 5.0, 500.0, 7, 2.0, 200.0)
        if closed:
            self.publish("kline", key_id, *values, flags=flags)
        self.publish("kline_open", key_id, *values, flags=flags)

    def book_snapshot(self, key_id: int, bids: list[tuple[float, float]], asks: list[tuple[float, float]]) -> None:
        book = self.books.setdefault(key_id, OrderBook())
        book.replace(bids, asks)
        book.state, book.update_id = BookState.SYNCED, book.update_id + 1
        now = time.time_ns()
        self.sink.levels(key_id, now, now, int(Flag.SNAPSHOT), book.update_id, bids, asks)
        self.sink.book(key_id, now, now, book)

    def book_delta(self, key_id: int, bids: list[tuple[float, float]], asks: list[tuple[float, float]]) -> None:
        book = self.books[key_id]
        book.apply(bids, asks)
        book.update_id += 1
        now = time.time_ns()
        self.sink.levels(key_id, now, now, 0, book.update_id, bids, asks)
        self.sink.book(key_id, now, now, book)

    def book_state(self, key_id: int, state: BookState) -> None:
        book = self.books[key_id]
        book.state = state
        self.sink.book(key_id, time.time_ns(), 0, book)

    def close(self) -> None:
        """Let go of the locks: the publishers hold the mappings, and a mapping holds the lock."""
        writers, self.writers, self.sink = self.writers, {}, None  # type: ignore[assignment]
        self.publishers = {}
        if writers:
            gc.collect()
            for writer in writers.values():
                writer.close()
            self.keys.close()
        del writers
        gc.collect()


class Front:
    """One front worker with nothing but the WebSocket side, in a process of its own."""

    def __init__(
        self, folder: Path, bells: Sequence[int], index: int = 0, authenticator: Any = None, forget: Any = None,
        **limits: Any,
    ) -> None:  # fmt: skip
        self.name = f"front-{index}"
        self.folder = folder
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = WsConfig(**limits)
        self.pid = _fork(lambda: _serve(folder, self.name, self.socket, bells, index, config, authenticator), forget)

    def url(self, path: str = "/ws/v1") -> str:
        return f"ws://127.0.0.1:{self.port}{path}"

    def metric(self, name: str, **labels: str) -> float:
        """A metric of its page, summed over the labels not given."""
        return sum(
            sample.values[0]
            for sample in read_page(self.folder / f"{self.name}.page").samples
            if sample.name == name and all(sample.labels.get(k) == v for k, v in labels.items())
        )

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        if not self.pid:
            return 0
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.socket.close()


def _fork(child: Any, forget: Any = None) -> int:
    """Run `child` in a process of its own, after `forget`, which lets go of what it must not inherit (locks)."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        logging.basicConfig(level=logging.WARNING, force=True)
        if forget is not None:
            forget()
        child()
        code = 0
    except BaseException:  # noqa: BLE001 - reported through the exit code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _serve(
    folder: Path, name: str, sock: socket.socket, bells: Sequence[int], index: int, config: WsConfig, authenticator: Any
) -> None:
    async def main() -> None:
        page = MetricsPage(folder, name, time.time_ns())
        ctx = ActorContext(
            name=name, kind="front", folder=folder, data=folder, config=config, page=page, doorbells=bells,
            doorbell_index=index, listen=sock,
        )  # fmt: skip
        app = web.Application()
        setup_ws(app, ctx, Catalog(folder), config, authenticator)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=2.0)
        await runner.setup()
        await web.SockSite(runner, sock).start()
        ctx.stop_on_signals()
        ctx.running()
        await ctx.beat_until_stopped()
        await close_ws(app)
        await runner.cleanup()

    asyncio._set_running_loop(None)  # the fork may have been made from inside a running loop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@contextlib.contextmanager
def desk(shm: Path, *, fronts: int = 1, producer: dict[str, Any] | None = None, **limits: Any) -> Iterator[Desk]:
    """A producer and front workers; everything is gone afterwards."""
    made = Desk(shm, fronts, producer or {}, limits)
    try:
        yield made
    finally:
        made.close()


class Desk:
    def __init__(self, shm: Path, fronts: int, producer: dict[str, Any], limits: dict[str, Any]) -> None:
        self.folder = shm / "tickring-test"
        prepare_folder(self.folder)
        self.bells = [make_bell() for _ in range(BELLS)]
        self.limits = limits
        self.producer = Producer(self.folder, self.bells, **producer)
        self.fronts = [Front(self.folder, self.bells, i, forget=self.producer.close, **limits) for i in range(fronts)]

    @property
    def front(self) -> Front:
        return self.fronts[0]

    def restart(self, index: int = 0) -> Front:
        """Another worker in the place of one that was killed."""
        self.fronts[index].close()
        self.fronts[index] = Front(self.folder, self.bells, index, forget=self.producer.close, **self.limits)
        return self.fronts[index]

    def close(self) -> None:
        for front in self.fronts:
            front.close()
        self.producer.close()
        for bell in self.bells:
            os.close(bell)


class Client:
    """A client that checks each frame against the rules of its channel as it comes.

    Attributes:
        frames: every frame, in order.
        seqs: by channel, the seq up to which everything came or was named by a gap.
        records: by channel, every record that came live or by replay, by seq.
        gaps: by channel, the ranges that gap frames named.
    """

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.frames: list[dict[str, Any]] = []
        self.seqs: dict[str, int] = {}
        self.epochs: dict[str, str] = {}
        self.records: dict[str, dict[int, dict[str, Any]]] = {}
        self.gaps: dict[str, list[tuple[int, int]]] = {}
        self.books: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        self.ids = iter(range(1, 1_000_000))

    # -- in -----------------------------------------------------------------------------------------------------

    async def next(self, timeout: float = DEADLINE_S) -> dict[str, Any]:
        data = await asyncio.wait_for(self.ws.recv(), timeout)
        frame = msgspec.msgpack.decode(data) if isinstance(data, bytes) else json.loads(data)
        self.take(frame)
        return frame

    async def until(self, condition: Any) -> dict[str, Any]:
        """Read frames until one fits (a predicate, or a `type`); returns it."""
        fits = condition if callable(condition) else lambda frame: frame["type"] == condition
        end = time.monotonic() + DEADLINE_S
        while True:
            frame = await self.next(max(0.01, end - time.monotonic()))
            if fits(frame):
                return frame

    async def until_seq(self, channel: str, seq: int) -> None:
        while self.seqs.get(channel, 0) < seq:
            await self.next()

    async def closed(self) -> int | None:
        """Read until the server closes; returns the code."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.next()
        return self.ws.close_code

    def take(self, frame: dict[str, Any]) -> None:
        self.frames.append(frame)
        channel = frame.get("channel")
        match frame["type"]:
            case "subscribed":
                for row in frame["channels"]:
                    self.epochs[row["channel"]] = row["epoch"]
                    self.seqs[row["channel"]] = row["seq"]
            case "snapshot":
                assert frame["final"] is True
                self.epochs[channel] = frame["epoch"]
                self.seqs[channel] = frame["seq"]
                if channel.startswith("book."):
                    sides = frame["data"]["bids"], frame["data"]["asks"]
                    self.books[channel] = tuple(dict(side) for side in sides)  # type: ignore[assignment]
            case "gap":
                self.gaps.setdefault(channel, []).append((frame["from_seq"], frame["to_seq"]))
                if frame["reason"] in ("slow_consumer", "upstream_gap") and not channel.startswith("book."):
                    assert frame["from_seq"] == self.seqs[channel] + 1, frame
                    self.seqs[channel] = frame["to_seq"]
            case "update" if channel.startswith("book."):
                self._take_book(channel, frame)
            case "update":
                assert frame["data"]["seq"] == frame["seq"]
                self._take_record(channel, frame["data"], frame.get("conflated", False))
            case "batch":
                assert [one["seq"] for one in frame["data"]][:: len(frame["data"]) - 1 or 1] in (
                    [frame["first_seq"], frame["last_seq"]], [frame["first_seq"]],
                )  # fmt: skip
                for one in frame["data"]:
                    self._take_record(channel, one, False)

    def _take_record(self, channel: str, record: dict[str, Any], conflated: bool) -> None:
        seq = record["seq"]
        if conflated or channel in self.loose:
            assert seq > self.seqs[channel]
        else:
            assert seq == self.seqs[channel] + 1, f"{channel}: {seq} after {self.seqs[channel]}"
        self.seqs[channel] = seq
        self.records.setdefault(channel, {})[seq] = record

    def _take_book(self, channel: str, frame: dict[str, Any]) -> None:
        data = frame["data"]
        assert data["prev_seq"] == self.seqs[channel]
        assert frame["seq"] > data["prev_seq"]
        self.seqs[channel] = frame["seq"]
        for side, levels in zip(self.books[channel], (data["bids"], data["asks"]), strict=True):
            for price, quantity in levels:
                if quantity == "0":
                    del side[price]
                else:
                    side[price] = quantity

    loose: frozenset[str] = frozenset()  # channels whose seqs may jump: filtered ones

    # -- out ----------------------------------------------------------------------------------------------------

    async def send(self, **frame: Any) -> int:
        """Send a frame with a fresh id; returns the id."""
        id = frame.setdefault("id", next(self.ids))
        await self.ws.send(json.dumps(frame))
        return id

    async def ask(self, **frame: Any) -> dict[str, Any]:
        """Send a frame and read until its reply."""
        id = await self.send(**frame)
        return await self.until(lambda reply: reply.get("id") == id)

    async def subscribe(self, *channels: Any) -> dict[str, Any]:
        return await self.ask(op="subscribe", channels=list(channels))


def narrow_socket(front: Front) -> socket.socket:
    """A connected socket whose kernel takes little, for clients that read slowly."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", front.port))
    sock.setblocking(False)
    return sock


@contextlib.asynccontextmanager
async def client(front: Front, path: str = "/ws/v1", **options: Any):
    """A connected client that has been welcomed."""
    options.setdefault("max_size", None)
    options.setdefault("open_timeout", DEADLINE_S)
    async with connect(front.url(path), **options) as ws:
        one = Client(ws)
        assert (await one.next())["type"] == "welcome"
        yield one


async def eventually(condition: Any, what: str) -> None:
    """Wait for a condition; the deadline only bounds a broken run."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not reached: {what}"
        await asyncio.sleep(0.01)
