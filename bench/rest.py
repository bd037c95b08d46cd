"""REST: the last 100 trades of random symbols while trades arrive, beside a bare aiohttp handler in the same run.

    python bench/rest.py [--seconds 0.6] [--rounds 12] [--symbols 200] [--trades-per-s 1000]

A server on one CPU, and on the other a load generator (keep-alive, no pipelining, one request under way on each
connection) with the producer of the trades. Both servers are measured in turn, in short slices, with the same
generator, and the ratio is the median over the pairs; the peer returns one constant body of the same size from an
ordinary aiohttp route. Throughput is given as requests per second, and per CPU second of the server, which a slow
generator does not flatter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from harness import Line

from tickring.actors.front import Config
from tickring.actors.front.server import Front
from tickring.actors.runtime import ActorContext
from tickring.codecs.record import Flag
from tickring.codecs.records import TRADE
from tickring.codecs.symbols import Instrument
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

PRODUCER = "feed-bench-0"
ROWS = 100
CAPACITY = 1 << 16
LIMIT_RATIO = 0.45
CONNECTIONS = 32
BODY_SAMPLE_S = 10.0


@dataclass(frozen=True)
class Load:
    """What the generator saw of one server in one round."""

    requests: int
    seconds: float
    server_cpu_s: float
    bytes_each: float
    p50_us: float
    p99_us: float
    bad: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def per_cpu_second(self) -> float:
        return self.requests / self.server_cpu_s if self.server_cpu_s else 0.0


@dataclass(frozen=True)
class RestResult:
    """Medians over the rounds."""

    front_per_s: float
    bare_per_s: float
    front_per_cpu_s: float
    bare_per_cpu_s: float
    ratio: float  # per second; median over the pairs of slices
    ratio_cpu: float  # per CPU second of the server, the same
    limit: float
    body_bytes: int
    front_p50_us: float
    front_p99_us: float
    symbols: int
    trades_per_s: int
    rounds: int


def instruments(n: int) -> list[Instrument]:
    return [
        Instrument(
            exchange="binance", product="spot", native=f"C{i:04}USDT", base=f"C{i:04}", quote="USDT",
            price_precision=2, quantity_precision=5,
        )
        for i in range(n)
    ]  # fmt: skip


class Trades:
    """Writes the trades: some for a start, then one at a time."""

    def __init__(self, folder: Path, symbols: int) -> None:
        spec = TRADE.spec(PRODUCER, capacity=CAPACITY, keys_max=symbols)
        create_stream(folder, spec, time.time_ns())
        create_keys(folder / keys_filename(PRODUCER), symbols)
        keys = KeyWriter(folder / keys_filename(PRODUCER))
        self._writer = StreamWriter(folder, spec, [], time.time_ns())
        self._keys = []
        for one in instruments(symbols):
            self._keys.append(keys.add(one.key, one.attributes()))
            self._writer.add_key(self._keys[-1])
        self._publish = self._writer.publisher(TRADE.struct, TRADE.values)
        self._keys_file = keys

    def fill(self, n: int) -> None:
        for key_id in self._keys:
            now = time.time_ns()
            for i in range(n):
                price, quantity = round(random.uniform(10, 1000), 2), round(random.uniform(0.001, 5), 5)
                self._publish(key_id, now, now - 1_000_000, 0, 10**9 + i, price, quantity, 0, 0, 0.0)

    def one(self) -> None:
        now = time.time_ns()
        key_id = random.choice(self._keys)
        price, quantity = round(random.uniform(10, 1000), 2), round(random.uniform(0.001, 5), 5)
        self._publish(key_id, now, now - 1_000_000, int(Flag.SELL), 10**9, price, quantity, 0, 0, 0.0)

    def close(self) -> None:
        self._writer.close()
        self._keys_file.close()


# -- processes ----------------------------------------------------------------------------------------------------


def _produce(folder: str, symbols: int, per_s: int, cpu: int | None, ready: Connection) -> None:
    pin(cpu)
    trades = Trades(Path(folder), symbols)
    trades.fill(2 * ROWS)
    ready.send("ready")
    started, sent = time.monotonic(), 0
    while not ready.poll(0.002):
        due = int((time.monotonic() - started) * per_s)
        for _ in range(due - sent):
            trades.one()
        sent = due
    trades.close()


def _serve_front(folder: str, cpu: int | None, ready: Connection) -> None:
    import uvloop

    pin(cpu)

    async def serve() -> None:
        path = Path(folder)
        page = MetricsPage(path, "front-0", time.time_ns())
        bell = make_bell()
        ctx = ActorContext(
            name="front-0", kind="front", folder=path, data=path, config=Config(port=0, history=False), page=page,
            doorbells=[bell], doorbell_index=0,
        )  # fmt: skip
        front = Front(ctx)
        await front.start()
        ctx.running()
        ready.send(front.port)
        asyncio.get_running_loop().add_reader(ready.fileno(), ctx.stop)
        await ctx.beat_until_stopped()
        await front.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _serve_bare(body: bytes, cpu: int | None, ready: Connection) -> None:
    import uvloop
    from aiohttp import web

    pin(cpu)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/api/v1/trades/latest", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(ready.fileno(), stop.set)
        ready.send(runner.addresses[0][1])
        await stop.wait()
        await runner.cleanup()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def pin(cpu: int | None) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


class Child:
    """A process that says when it is ready and ends when told to."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(*args, theirs), daemon=True)
        self._process.start()
        theirs.close()
        assert self._pipe.poll(60), f"{target.__name__} did not start"
        self.said = self._pipe.recv()

    def cpu_s(self) -> float:
        """Time on a CPU so far."""
        return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]) / 1e9

    def stop(self) -> None:
        self._pipe.send("stop")
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


# -- load ---------------------------------------------------------------------------------------------------------


def request_text(symbol: str) -> bytes:
    return f"GET /api/v1/trades/latest?symbol={symbol} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def generate(port: int, requests: list[bytes], seconds: float, server: Child, connections: int = CONNECTIONS) -> Load:
    """Send random requests on each connection, one after the other, and check that each answer is whole."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    pending: dict[int, list[Any]] = {}  # fd -> [missing bytes, sent at]
    for _ in range(connections):
        one = socket.create_connection(("127.0.0.1", port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[one.fileno()] = one
        poll.register(one.fileno(), select.EPOLLIN)
    choose, now = random.choice, time.perf_counter
    latencies: list[float] = []
    done = received = bad = 0
    cpu = server.cpu_s()
    started = now()
    ends = started + seconds
    for fd, one in sockets.items():
        one.send(choose(requests))
        pending[fd] = [0, now()]
    while (at := now()) < ends:
        for fd, _ in poll.poll(1):
            one, waiting = sockets[fd], pending[fd]
            data = one.recv(1 << 18)
            if not data:
                raise ConnectionError("the server closed a connection")
            missing = waiting[0]
            if not missing:
                head = data.find(b"\r\n\r\n")
                length = data.find(b"Content-Length: ") + 16
                bad += not data.startswith(b"HTTP/1.1 200")
                missing = head + 4 + int(data[length : data.find(b"\r", length)])
            missing -= len(data)
            received += len(data)
            waiting[0] = missing
            if not missing:
                done += 1
                at = now()
                latencies.append(at - waiting[1])
                waiting[1] = at
                one.send(choose(requests))
    elapsed = now() - started
    used = server.cpu_s() - cpu
    for one in sockets.values():
        one.close()
    ordered = sorted(latencies)
    return Load(
        done, elapsed, used, received / max(1, done), ordered[len(ordered) // 2] * 1e6,
        ordered[int(len(ordered) * 0.99)] * 1e6, bad,
    )  # fmt: skip


def fetch(port: int, request: bytes) -> bytes:
    """Body of one answer."""
    with socket.create_connection(("127.0.0.1", port), BODY_SAMPLE_S) as one:
        one.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        data = b"".join(iter(lambda: one.recv(65536), b""))
    return data.partition(b"\r\n\r\n")[2]


def measure(
    *, seconds: float = 0.6, rounds: int = 12, symbols: int = 200, trades_per_s: int = 1000,
    report: Callable[[str], None] = print,
) -> RestResult:  # fmt: skip
    """Measure both servers, `rounds` times in turn, `seconds` each: short slices, so that noise hits both alike."""
    cpus = sorted(os.sched_getaffinity(0))
    server_cpu, load_cpu = (cpus[0], cpus[1]) if len(cpus) > 1 else (None, None)
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="tickring-bench-rest-", dir=base))
    prepare_folder(folder)
    affinity = os.sched_getaffinity(0)
    children: list[Child] = []
    try:
        producer = Child(_produce, str(folder), symbols, trades_per_s, load_cpu)
        children.append(producer)
        front = Child(_serve_front, str(folder), server_cpu)
        children.append(front)
        requests = [request_text(one.symbol) for one in instruments(symbols)]
        body = fetch(front.said, requests[0])
        assert len(json.loads(body)["data"]) == ROWS
        bare = Child(_serve_bare, body, server_cpu)
        children.append(bare)
        pin(load_cpu)
        loads: dict[str, list[Load]] = {"front": [], "bare": []}
        for server in (front, bare):
            generate(server.said, requests, seconds, server)  # warm
        for _ in range(rounds):
            for name, server in (("front", front), ("bare", bare)):
                load = generate(server.said, requests, seconds, server)
                assert not load.bad, f"{load.bad} answers of {name} were not 200"
                loads[name].append(load)
                report(
                    f"{name:5} {load.per_second:9,.0f} req/s {load.per_cpu_second:9,.0f} per CPU s "
                    f"p50 {load.p50_us:6,.0f} us p99 {load.p99_us:6,.0f} us {load.bytes_each:8,.0f} bytes"
                )
    finally:
        os.sched_setaffinity(0, affinity)
        for child in reversed(children):
            child.stop()
        shutil.rmtree(folder, ignore_errors=True)

    def middle(name: str, value: Callable[[Load], float]) -> float:
        return median(value(load) for load in loads[name])

    pairs = list(zip(loads["front"], loads["bare"], strict=True))
    per_s = {name: middle(name, lambda load: load.per_second) for name in loads}
    per_cpu = {name: middle(name, lambda load: load.per_cpu_second) for name in loads}
    return RestResult(
        front_per_s=per_s["front"], bare_per_s=per_s["bare"], front_per_cpu_s=per_cpu["front"],
        bare_per_cpu_s=per_cpu["bare"],
        ratio=median(a.per_second / b.per_second for a, b in pairs),
        ratio_cpu=median(a.per_cpu_second / b.per_cpu_second for a, b in pairs),
        limit=LIMIT_RATIO, body_bytes=len(body),
        front_p50_us=middle("front", lambda load: load.p50_us), front_p99_us=middle("front", lambda load: load.p99_us),
        symbols=symbols, trades_per_s=trades_per_s, rounds=rounds,
    )  # fmt: skip


def run(quick: bool = False) -> list[Line]:
    """The lines of the table."""
    result = measure(rounds=4 if quick else 12, report=lambda _: None)
    beside = (
        f"{result.front_per_s:,.0f} req/s beside {result.bare_per_s:,.0f} of a bare aiohttp handler, "
        f"{result.body_bytes:,} bytes, {result.symbols} symbols, {result.trades_per_s:,} trades/s"
    )
    return [
        Line("REST last 100 trades / bare aiohttp, req/s", result.ratio, "x", LIMIT_RATIO, "higher", beside),
        Line(
            "the same, per CPU second of the server", result.ratio_cpu, "x", LIMIT_RATIO, "higher",
            f"{result.front_per_cpu_s:,.0f} beside {result.bare_per_cpu_s:,.0f} requests",
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--symbols", type=int, default=200)
    parser.add_argument("--trades-per-s", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quiet: Callable[[str], None] = (lambda _: None) if options.json else print
    result = measure(
        seconds=options.seconds, rounds=options.rounds, symbols=options.symbols, trades_per_s=options.trades_per_s,
        report=quiet,
    )  # fmt: skip
    if options.json:
        print(json.dumps(asdict(result)))
        return
    print(
        f"\nlast {ROWS} trades, {result.symbols} symbols, {result.trades_per_s:,} trades/s arriving, one worker, "
        f"Python {platform.python_version()}: {result.front_per_s:,.0f} req/s, bare aiohttp "
        f"{result.bare_per_s:,.0f} req/s of the same {result.body_bytes:,} bytes: ratio {result.ratio:.2f} "
        f"({result.ratio_cpu:.2f} per CPU second), to hold: {result.limit}"
    )


if __name__ == "__main__":
    main()
