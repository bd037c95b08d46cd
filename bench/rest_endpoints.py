"""REST by endpoint, with history filled: what memory holds at 1,000 requests a second, and history pages of 1,000 rows.

One front worker; trades arrive all the while. Reads of memory are sent on a timetable (an open loop: a slow answer does
not delay the requests behind it), and each latency counts from when the request was due. Pages of history are asked
for one after the other on two connections.

``python bench/rest_endpoints.py [--quick] [--trades N] [--klines N] [--json]``
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import select
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from harness import Line, percentile
from rest import Child, pin

from tickring.actors.front import Config
from tickring.actors.front.server import Front
from tickring.actors.runtime import ActorContext
from tickring.codecs.klines import bar_start
from tickring.codecs.record import Flag, RecordType
from tickring.codecs.records import KLINE, MARKET_RECORDS, TRADE
from tickring.codecs.symbols import Instrument
from tickring.daemon.child import ask_for_short_turns
from tickring.daemon.kinds import KINDS
from tickring.ringbuf import (
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
from tickring.storage.schema import SchemaOptions, ensure_schema, qualified_table

PRODUCER = "feed-bench-0"
SYMBOLS = 20
PER_SECOND = 1000
TRADES_PER_S = 1000
MEMORY_LIMIT_MS, PAGE_LIMIT_MS = 5.0, 100.0
PAGES = 60  # of each kind
MINUTE = 60_000
DAYS = 10  # that the trades of history are spread over

MEMORY = {
    "trades/latest": "/api/v1/trades/latest?symbol={}",
    "trades": "/api/v1/trades/{}",
    "orderbook 20": "/api/v1/orderbook/binance/{}",
    "orderbook 400": "/api/v1/orderbook/binance/{}?depth=400",
    "quote": "/api/v1/quote/binance/{}",
    "ticker": "/api/v1/ticker/binance/{}",
    "mark-price": "/api/v1/mark-price/binance/{}",
    "open-interest": "/api/v1/open-interest/binance/{}",
    "funding/current": "/api/v1/funding/current?symbol={}",
    "candles/latest": "/api/v1/candles/latest?symbol={}&limit=100",
    "klines 500": "/api/v1/klines?symbol={}&interval=1m&limit=500",
    "instruments": "/api/v1/instruments/{}",
    "health/liveness": "/api/v1/health/liveness",
}
HISTORY = {
    "trades by cursor": "/api/v1/trades/{symbol}?page_size=1000&start_time={start}&cursor={cursor}",
    "trades of a range": "/api/v1/trades/{symbol}?limit=1000&start_time={start}&end_time={end}",
    "trades, page 2 and total": "/api/v1/trades/{symbol}?page=2&page_size=1000&start_time={day}&end_time={end}",
    "candles of a range": "/api/v1/candles/{symbol}/1m?limit=1000&start_time={bar}&end_time={bar_end}",
    "klines from a start": "/api/v1/klines?symbol={symbol}&interval=1m&limit=1000&startTime={bar}",
}


@dataclass(frozen=True)
class Timing:
    """Latencies of one endpoint, ms."""

    name: str
    requests: int
    p50_ms: float
    p99_ms: float
    bytes_each: int


def perpetuals(n: int) -> list[Instrument]:
    return [
        Instrument(
            exchange="binance", product="usdm", native=f"C{i:03}USDT", base=f"C{i:03}", quote="USDT",
            market_type="perpetual", price_precision=2, quantity_precision=3,
        )
        for i in range(n)
    ]  # fmt: skip


# -- processes ----------------------------------------------------------------------------------------------------


def row_of(record: RecordType, i: int) -> list[Any]:
    """Values of one plausible record."""
    price = round(100 + (i % 1000) / 100, 2)
    values: list[Any] = []
    for field in record.fields:
        if field.length > 1:
            step = 0.01 if "price" in field.name else 0.0
            sign = -1 if field.name.startswith("bid") else 1
            values += [round(price + sign * step * (level + 1), 2) for level in range(field.length)]
        elif field.name in ("bids_count", "asks_count", "depth"):
            values.append(next(other.length for other in record.fields if other.length > 1))
        elif field.name in ("state", "status"):
            values.append(0)
        else:
            values.append(price if field.kind.dtype == "<f8" else i)
    return values


class Market:
    """Writes every record type of some perpetuals, and 1,500 bars of each."""

    def __init__(self, folder: Path) -> None:
        create_keys(folder / keys_filename(PRODUCER), 4 * SYMBOLS)
        self.keys = KeyWriter(folder / keys_filename(PRODUCER))
        self.writers: dict[str, StreamWriter] = {}
        for record in MARKET_RECORDS:
            spec = record.spec(PRODUCER, capacity=1 << 16, keys_max=4 * SYMBOLS)
            create_stream(folder, spec, time.time_ns())
            self.writers[record.name] = StreamWriter(folder, spec, [], time.time_ns())
        self.publish = {
            record.name: self.writers[record.name].publisher(record.struct, record.values) for record in MARKET_RECORDS
        }
        self.ids = [self._add(one.key, one.attributes()) for one in perpetuals(SYMBOLS)]
        self.bar_ids = [
            self._add(f"{one.key}.1m", {**one.attributes(), "interval": "1m"}) for one in perpetuals(SYMBOLS)
        ]

    def _add(self, text: str, attributes: dict[str, Any]) -> int:
        key_id = self.keys.add(text, attributes)
        for writer in self.writers.values():
            writer.add_key(key_id)
        return key_id

    def fill(self) -> None:
        now = time.time_ns()
        for record in MARKET_RECORDS:
            if not record.key_columns:
                for key_id in self.ids:
                    for i in range(1100 if record is TRADE else 2):
                        self.publish[record.name](key_id, now, now, 0, *row_of(record, i + 1))
        open_ms = bar_start("1m", now // 1_000_000)
        for key_id in self.bar_ids:
            for age in range(1500, -1, -1):
                name, flags = ("kline", int(Flag.CLOSED)) if age else ("kline_open", 0)
                at = open_ms - age * MINUTE
                self.publish[name](key_id, now, now, flags, at, at + MINUTE - 1, *row_of(KLINE, age)[2:])

    def one(self, i: int) -> None:
        """A trade, and the quote and book that follow it."""
        key_id, now = random.choice(self.ids), time.time_ns()
        for record in ("trade", "quote", "book_top"):
            self.publish[record](key_id, now, now - 1_000_000, 0, *self.rows[record][i % 64])

    rows: dict[str, list[list[Any]]]

    def run(self, ready: Connection) -> None:
        self.rows = {
            record.name: [row_of(record, i) for i in range(64)]
            for record in MARKET_RECORDS if record.name in ("trade", "quote", "book_top")
        }  # fmt: skip
        started, sent = time.monotonic(), 0
        while not ready.poll(0.002):
            due = int((time.monotonic() - started) * TRADES_PER_S)
            for i in range(sent, due):
                self.one(i)
            sent = due


def produce(folder: str, cpu: int | None, ready: Connection) -> None:
    pin(cpu)
    market = Market(Path(folder))
    market.fill()
    ready.send("ready")
    market.run(ready)


def as_actor(kind: str) -> None:
    """Share CPUs as the daemon has its processes share them."""
    os.nice(KINDS[kind].nice)
    ask_for_short_turns()


def serve(folder: str, data: str, settings: dict[str, Any], cpu: int | None, ready: Connection) -> None:
    """One front worker, until told to stop."""
    import uvloop

    pin(cpu)
    as_actor("front")

    async def run() -> None:
        path = Path(folder)
        page = MetricsPage(path, "front-0", time.time_ns())
        ctx = ActorContext(
            name="front-0", kind="front", folder=path, data=Path(data), config=Config(**settings), page=page,
            doorbells=[make_bell()], doorbell_index=0,
        )  # fmt: skip
        front = Front(ctx)
        await front.start()
        gc.collect()
        gc.freeze()  # as the actor does
        ctx.running()
        ready.send(front.port)
        asyncio.get_running_loop().add_reader(ready.fileno(), ctx.stop)
        await ctx.beat_until_stopped()
        await front.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def engine(folder: str, data: str, ready: Connection) -> None:
    """The embedded ClickHouse."""
    import uvloop

    from tickring.actors import clickhouse

    as_actor("clickhouse")

    async def run() -> None:
        page = MetricsPage(Path(folder), "clickhouse", time.time_ns())
        config = clickhouse.Config(port=0)
        ctx = ActorContext(
            name="clickhouse", kind="clickhouse", folder=Path(folder), data=Path(data), config=config, page=page
        )
        asyncio.get_running_loop().add_reader(ready.fileno(), ctx.stop)
        threading.Thread(target=tell, args=(page,), daemon=True).start()
        await clickhouse.main(ctx)

    def tell(page: MetricsPage) -> None:
        while "url" not in page.detail:
            time.sleep(0.02)
        ready.send(dict(page.detail))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# -- history ------------------------------------------------------------------------------------------------------


async def fill_history(server: Server, trades: int, klines: int, epoch: int) -> None:
    """Rows made by ClickHouse itself: what the writer does is measured elsewhere."""
    client = Client(server)
    await ensure_schema(client, [TRADE, KLINE], SchemaOptions(database=server.database))
    names = "'binance', 'perpetual', format('C{}-USDT', leftPad(toString(k), 3, '0')), "
    names += "format('C{}-USDT-PERP', leftPad(toString(k), 3, '0'))"
    each, step = trades // SYMBOLS, DAYS * 86_400 * 10**9 * SYMBOLS // trades
    at = f"fromUnixTimestamp64Nano(toInt64({epoch} + i * {step}), 'UTC')"
    for day in range(DAYS):
        await client.command(
            f"INSERT INTO {qualified_table(server.database, TRADE)} SELECT {names}, {epoch}, i, {at}, {at}, "
            f"if(i % 2, {int(Flag.SELL)}, 0), i + 1, 100 + (i % 1000) / 100, (i % 500) / 1000, 0, 0, 0 FROM "
            f"(SELECT {day * each // DAYS} + intDiv(number, {SYMBOLS}) AS i, number % {SYMBOLS} AS k "
            f"FROM numbers({trades // DAYS})) SETTINGS async_insert = 0",
            300.0,
        )
    bars = klines // SYMBOLS
    first = epoch // 10**9 // 60 * MINUTE - bars * MINUTE
    opens = f"toInt64({first} + i * {MINUTE})"
    seen = f"fromUnixTimestamp64Milli({opens} + {MINUTE}, 'UTC')"
    await client.command(
        f"INSERT INTO {qualified_table(server.database, KLINE)} SELECT {names}, '1m', {epoch}, i, {seen}, {seen}, "
        f"{int(Flag.CLOSED)}, fromUnixTimestamp64Milli({opens}, 'UTC'), "
        f"fromUnixTimestamp64Milli({opens} + {MINUTE - 1}, 'UTC'), 100, 102, 99, 101, 2.5, 250, 7, 1, 100 FROM "
        f"(SELECT intDiv(number, {SYMBOLS}) AS i, number % {SYMBOLS} AS k FROM numbers({klines})) "
        "SETTINGS async_insert = 0, max_partitions_per_insert_block = 1000",
        300.0,
    )
    for record in (TRADE, KLINE):
        found = await client.rows(f"SELECT count() FROM {qualified_table(server.database, record)}")
        print(f"history: {found[0][0]:,} {record.name}s", flush=True)
    await client.close()


# -- load ---------------------------------------------------------------------------------------------------------


_RECEIVED = memoryview(bytearray(1 << 20))


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


class Keeping:
    """A kept connection; one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parts: list[bytes] = []
        self._missing = 0

    def send(self, data: bytes) -> None:
        self._parts, self._missing = [], 0
        self.socket.sendall(data)

    def receive(self) -> bytes | None:
        """What has come: the body of the answer, which must be a 200, or None while some of it is missing."""
        data = bytes(_RECEIVED[: self.socket.recv_into(_RECEIVED)])  # a buffer for each would be new memory each time
        assert data, "the server closed a connection"
        if not self._parts:
            assert data.startswith(b"HTTP/1.1 200"), data[:600]
            at = data.find(b"Content-Length: ") + 16
            self._missing = data.find(b"\r\n\r\n") + 4 + int(data[at : data.find(b"\r", at)])
        self._parts.append(data)
        self._missing -= len(data)
        return None if self._missing else b"".join(self._parts).partition(b"\r\n\r\n")[2]

    def get(self, path: str) -> bytes:
        return self.ask(request(path))

    def ask(self, data: bytes) -> bytes:
        self.send(data)
        while True:
            body = self.receive()
            if body is not None:
                return body


def on_timetable(
    port: int, requests: Mapping[str, Sequence[bytes]], seconds: float, per_second: int, connections: int = 16
) -> dict[str, Timing]:
    """Requests of all kinds in turn, each at its time on the next free connection, or as soon as one is free.

    A latency counts from when the request was due where all connections were busy then, else from when it was sent.

    Args:
        requests: of each kind those of which one is chosen at random.
    """
    names = list(requests)
    found: dict[str, list[float]] = {name: [] for name in names}
    sizes: dict[str, int] = {}
    poll, free = select.epoll(), [Keeping(port) for _ in range(connections)]
    busy: dict[int, tuple[Keeping, str, float]] = {}
    for one in free:
        poll.register(one.socket.fileno(), select.EPOLLIN)
    total, sent, now = int(seconds * per_second), 0, time.perf_counter
    started, late = now() + 0.1, False
    while sent < total or busy:
        due, at = started + sent / per_second, now()
        late |= at >= due and not free
        if sent < total and free and at >= due:
            since, late = (due if late else at), late and at - due > 1 / per_second
            # Connections in turn: the server closes those that say nothing.
            one, name = free.pop(0), names[sent % len(names)]
            one.send(random.choice(requests[name]))
            busy[one.socket.fileno()] = one, name, since
            sent += 1
            continue
        for fd, _ in poll.poll(max(0.0, min(due - at, 0.001)) if free else 0.001):
            one, name, since = busy[fd]
            body = one.receive()
            if body is not None:
                found[name].append((now() - since) * 1000)
                sizes[name] = len(body)
                free.append(one)
                del busy[fd]
    poll.close()
    return {name: timing(name, times, sizes[name]) for name, times in found.items()}


def timing(name: str, times: list[float], size: int) -> Timing:
    return Timing(name, len(times), percentile(times, 0.5), percentile(times, 0.99), size)


def pages(port: int, epoch: int, trades: int, klines: int, count: int) -> dict[str, Timing]:
    """Pages of history, two clients at once."""
    found: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    each, bars = trades // SYMBOLS, klines // SYMBOLS
    step_ms = DAYS * 86_400_000 / each
    first_bar = epoch // 10**9 // 60 * MINUTE - bars * MINUTE

    def client(number: int, name: str, template: str, times: list[float]) -> None:
        connection = Keeping(port)
        source = random.Random(number)
        for i in range(count // 2 + 1):
            nth = source.randrange(2000, each)
            bar = first_bar + source.randrange(0, max(1, bars - 1001)) * MINUTE
            end = epoch // 10**6 + int(nth * step_ms)
            path = template.format(
                symbol=source.choice(perpetuals(SYMBOLS)).instrument, start=epoch // 10**6, end=end,
                cursor=f"{epoch:x}.{nth:x}.{end // 1000:x}",
                day=max(epoch // 10**6, end - 86_400_000), bar=bar, bar_end=bar + 1000 * MINUTE,
            )  # fmt: skip
            at = time.perf_counter()
            body = connection.get(path)
            if i:  # the first one also opens what its connection needs
                times.append((time.perf_counter() - at) * 1000)
            sizes[name] = len(body)

    for name, template in HISTORY.items():
        times: list[float] = []
        threads = [threading.Thread(target=client, args=(number, name, template, times)) for number in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found[name] = times
    return {name: timing(name, times, sizes[name]) for name, times in found.items()}


def measure(*, seconds: float, trades: int, klines: int, count: int = PAGES) -> tuple[list[Timing], list[Timing]]:
    """`(reads of memory, pages of history)`."""
    cpus = sorted(os.sched_getaffinity(0))
    server_cpu, load_cpu = (cpus[0], cpus[1]) if len(cpus) > 1 else (None, None)
    affinity = os.sched_getaffinity(0)
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder, data = (
        Path(tempfile.mkdtemp(prefix="tickring-bench-", dir=base)),
        Path(tempfile.mkdtemp(prefix="tickring-")),
    )
    prepare_folder(folder)
    children: list[Child] = []
    try:
        children.append(database := Child(engine, str(folder), str(data)))
        server = {"url": database.said["url"], "password_file": str(data / "clickhouse" / "password")}
        epoch = time.time_ns() - (DAYS + 1) * 86_400 * 10**9
        asyncio.run(fill_history(Server(**server, timeout_s=300.0), trades, klines, epoch))
        children.append(Child(produce, str(folder), load_cpu))
        settings = {"port": 0, "history": True, "clickhouse": Server(**server)}
        children.append(front := Child(serve, str(folder), str(data), settings, server_cpu))
        time.sleep(2.5)  # the probe has found ClickHouse
        pin(load_cpu)
        symbols = [one.instrument for one in perpetuals(SYMBOLS)]
        requests = {name: [request(path.format(symbol)) for symbol in symbols] for name, path in MEMORY.items()}
        on_timetable(front.said, requests, 1.0, 200)  # warm
        memory = on_timetable(front.said, requests, seconds, PER_SECOND)
        history = pages(front.said, epoch, trades, klines, count)
    finally:
        os.sched_setaffinity(0, affinity)
        for child in reversed(children):
            child.stop()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
    return list(memory.values()), list(history.values())


def run(quick: bool = False) -> list[Line]:
    """The lines of the table."""
    trades, klines = (10**6, 10**5) if quick else (10**7, 10**6)
    memory, history = measure(seconds=4 if quick else 20, trades=trades, klines=klines, count=30 if quick else PAGES)
    held = f"{PER_SECOND} req/s of all kinds on one worker, {TRADES_PER_S} trades/s arriving"
    stored = f"{trades:,} trades and {klines:,} klines stored, two clients"
    return [
        *(
            Line(f"REST p99, memory: {one.name}", one.p99_ms, "ms", MEMORY_LIMIT_MS, "lower",
                 f"p50 {one.p50_ms:.2f} ms, {one.bytes_each:,} bytes; {held}")
            for one in memory
        ),
        *(
            Line(f"REST p99, history: {one.name}", one.p99_ms, "ms", PAGE_LIMIT_MS, "lower",
                 f"p50 {one.p50_ms:.1f} ms, {one.bytes_each:,} bytes; {stored}")
            for one in history
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the history, shorter")
    parser.add_argument("--trades", type=int)
    parser.add_argument("--klines", type=int)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    trades = options.trades or (10**6 if options.quick else 10**7)
    klines = options.klines or (10**5 if options.quick else 10**6)
    seconds = min(options.seconds, 4.0) if options.quick else options.seconds
    memory, history = measure(seconds=seconds, trades=trades, klines=klines, count=30 if options.quick else PAGES)
    if options.json:
        print(json.dumps({"memory": [*map(asdict, memory)], "history": [*map(asdict, history)]}))
        return
    for title, found in (("memory", memory), ("history", history)):
        print(f"\n{title:28} requests     p50 ms     p99 ms      bytes")
        for one in found:
            print(f"{one.name:28} {one.requests:8} {one.p50_ms:10.2f} {one.p99_ms:10.2f} {one.bytes_each:10,}")


if __name__ == "__main__":
    main()
