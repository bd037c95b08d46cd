"""From rings to many WebSocket clients: 1,000 of them on 20 channels, beside a single one in the same run.

    python bench/ws_fanout.py [--clients 1000] [--channels 20] [--rate 1000] [--seconds 5]

The producer writes trades whose id is the time of writing, front workers (two; one on fewer than four CPUs) fan them
out, and one process holds all clients: plain sockets in one epoll loop, so that as little as possible of what is
measured is theirs.
It takes the time at each frame and checks that each number comes once. The peer is one hop too: a picows server that is
told by a pipe and sends a frame of the same size to the same clients. The whole way, from an exchange through the
daemon's feed to the same clients, with writer and engine attached, is measured beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import picows
import uvloop
from harness import Line
from latency import SYMBOLS, helper, tickring_tree

from tickring.actors.catalog import Catalog
from tickring.actors.front.ws import WsConfig, close_ws, setup_ws
from tickring.actors.runtime import ActorContext
from tickring.codecs.records import TRADE
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

CLIENTS, CHANNELS, RATE = 1000, 20, 1000
WORKERS = 2 if (os.cpu_count() or 1) >= 4 else 1  # producer and clients need their CPUs too
RATIO_MAX = 3.0  # of the median, many clients to one
WARM_S = 0.5
DEADLINE_S = 20.0
TEXT = 0x81
READ_BYTES = 4096  # ten frames; a larger buffer takes longer to make than to fill
CPU_SECONDS = struct.Struct("d")
QUIET_S, SETTLE_S = 3.0, 0.5  # nothing came for so long: the run is over; the second when as many reads came as records


class Trade(msgspec.Struct):
    seq: int
    trade_id: str
    first_trade_id: str | int = 0


class AnyFrame(msgspec.Struct):
    type: str
    data: msgspec.Raw = msgspec.Raw()


decode_frame = msgspec.json.Decoder(AnyFrame).decode
decode_one = msgspec.json.Decoder(Trade).decode
decode_many = msgspec.json.Decoder(list[Trade]).decode


@dataclass
class Measured:
    """What one run came to; times in µs."""

    p50: float
    p99: float
    worst: float
    frames: int
    lost: int
    cpu_per_frame: float = 0.0  # of the process that sends, µs

    def __str__(self) -> str:
        return f"p50 {self.p50:.0f} µs, p99 {self.p99:.0f} µs, worst {self.worst:.0f} µs, {self.frames:,} frames"


class Client:
    """One connection; numbers are of one channel, or of all where it has several."""

    def __init__(self, port: int, channels: Iterable[int], name: Callable[[int], str]) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self.sock.sendall(
            b"GET /ws/v1 HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        self.seqs: list[int] = []
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self.sock.recv(65536)
        self.rest = self.rest.partition(b"\r\n\r\n")[2]
        names = ",".join(f'"trades.binance.spot.{name(channel)}"' for channel in channels)
        self.sock.sendall(masked(b'{"op":"subscribe","channels":[%s]}' % names.encode()))
        wanted = len(list(channels))
        while wanted:
            wanted -= sum(decode_frame(payload).type == "snapshot" for payload in self.split(self.sock.recv(65536)))

    def split(self, data: bytes) -> list[bytes]:
        """Payloads of the text frames that are whole; a server's frames have no mask."""
        data, payloads, at = self.rest + data, [], 0
        while len(data) - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4]), at + 4
            if len(data) < start + size:
                break
            if data[at] == TEXT:
                payloads.append(data[start : start + size])
            at = start + size
        self.rest = data[at:]
        return payloads


class Crowd:
    """All clients of a run.

    Args:
        expected: records over all clients.
    """

    def __init__(self, clients: list[Client], expected: int) -> None:
        self.clients = clients
        self.expected = expected
        self.reads: list[tuple[Client, int, bytes]] = []  # whose, when, what; looked at when all is over

    def listen(self, seconds: float) -> None:
        """Read until everything came."""
        poll = select.epoll()
        by_fd = {client.sock.fileno(): (client, client.sock.recv) for client in self.clients}
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN | select.EPOLLET)  # else each is looked at twice
        reads, expected, time_ns = self.reads, self.expected, time.time_ns
        heard = until = time.monotonic() + seconds
        gc.disable()
        # a read may also be a status or a part of a frame, so their number alone does not say that everything came
        while (now := time.monotonic()) < min(until, heard + (SETTLE_S if len(reads) >= expected else QUIET_S)):
            events = poll.poll(SETTLE_S)
            if events:
                heard = now
            for fd, _ in events:
                client, recv = by_fd[fd]
                data = recv(READ_BYTES)
                reads.append((client, time_ns(), data))
                while len(data) == READ_BYTES:  # there may be more, and nobody says so again
                    try:
                        data = recv(READ_BYTES, socket.MSG_DONTWAIT)
                    except BlockingIOError:
                        break
                    reads.append((client, time_ns(), data))
                if not data:
                    poll.unregister(fd)
        gc.enable()
        poll.close()

    def measured(self, channels: int, total: int, sent: np.ndarray | None = None) -> Measured:
        """What came, in the end. `sent`: when, by first trade id, wall clock ns; else a trade's id is that time."""
        latencies, frames = [], 0
        for client, now, data in self.reads:
            for payload in client.split(data):
                frame = decode_frame(payload)
                if frame.type not in ("update", "batch"):
                    continue
                frames += 1
                for trade in [decode_one(frame.data)] if frame.type == "update" else decode_many(frame.data):
                    since = int(trade.trade_id) if sent is None else sent[int(trade.first_trade_id)]
                    latencies.append(now - since)
                    client.seqs.append(trade.seq)
        p50, p99, worst = map(float, np.percentile(np.array(latencies) / 1000, [50, 99, 100]))
        return Measured(p50, p99, worst, frames, missing(self.clients, channels, total))


def masked(text: bytes) -> bytes:
    """A client's text frame; a mask of zeros changes nothing."""
    size = len(text)
    head = bytes((TEXT, 0x80 | size)) if size < 126 else bytes((TEXT, 0x80 | 126)) + size.to_bytes(2, "big")
    return head + bytes(4) + text


def symbol(channel: int) -> str:
    return f"SYM{channel}-USDT"


def fork(child: Callable[[], None]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            child()
        except BaseException:  # noqa: BLE001 - a child has nobody above it who would say so
            traceback.print_exc()
        finally:
            os._exit(0)
    return pid


@contextmanager
def ended(pids: list[int]) -> Iterator[None]:
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_uvloop(main: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())  # type: ignore[arg-type]


def report_cpu(before: resource.struct_rusage, fd: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    os.write(fd, CPU_SECONDS.pack(usage.ru_utime - before.ru_utime + usage.ru_stime - before.ru_stime))


def reported_cpu(fd: int, processes: int) -> float:
    """CPU seconds of so many processes."""
    return sum(CPU_SECONDS.unpack(os.read(fd, CPU_SECONDS.size))[0] for _ in range(processes))


def listeners(count: int) -> list[socket.socket]:
    """Sockets on one port, between which the kernel spreads connections."""
    first = socket.create_server(("127.0.0.1", 0), backlog=1024, reuse_port=True)
    return [first] + [
        socket.create_server(first.getsockname(), backlog=1024, reuse_port=True) for _ in range(count - 1)
    ]


def front(folder: Path, index: int, sock: socket.socket, bells: list[int], ready: int, report: int) -> None:
    async def main() -> None:
        from aiohttp import web

        name = f"front-{index}"
        page = MetricsPage(folder, name, time.time_ns())
        config = WsConfig()
        ctx = ActorContext(
            name=name, kind="front", folder=folder, data=folder, config=config, page=page, doorbells=bells,
            doorbell_index=index, listen=sock,
        )  # fmt: skip
        app = web.Application()
        setup_ws(app, ctx, Catalog(folder), config)
        runner = web.AppRunner(app, handle_signals=False)
        await runner.setup()
        await web.SockSite(runner, sock).start()
        ctx.stop_on_signals()
        gc.collect()
        gc.freeze()  # as the front does
        started = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, started.set)
        os.write(ready, b"x")
        await started.wait()
        before = resource.getrusage(resource.RUSAGE_SELF)
        await ctx.beat_until_stopped()
        report_cpu(before, report)
        await close_ws(app)
        await runner.cleanup()

    run_uvloop(main)


def pace(rate: int, total: int, send: Callable[[int], None]) -> None:
    """Call `send` `total` times, evenly; sleeping, as a feed does between two messages."""
    period = 1 / rate
    due = time.perf_counter() + WARM_S
    for number in range(total):
        rest = due - time.perf_counter()
        if rest > 0:
            time.sleep(rest)
        send(number)
        due += period


def gather(port: int, clients: int, channels: int, total: int, name: Callable[[int], str] = symbol) -> Crowd:
    """Connect everybody: one client takes all channels, several take one each."""
    if clients == 1:
        return Crowd([Client(port, range(channels), name)], total)
    crowd = [Client(port, (i % channels,), name) for i in range(clients)]
    return Crowd(crowd, audience(clients, channels, total))


def audience(clients: int, channels: int, total: int) -> int:
    """Records over all clients, of which each has its channel."""
    of_channel = [len(range(channel, total, channels)) for channel in range(channels)]
    return sum(of_channel[i % channels] for i in range(clients))


def missing(clients: list[Client], channels: int, total: int) -> int:
    """Numbers that did not come, or came twice."""
    lost = 0
    for i, client in enumerate(clients):
        mine = range(channels) if len(clients) == 1 else (i % channels,)
        expected = sorted(seq for c in mine for seq in range(1, len(range(c, total, channels)) + 1))
        lost += abs(len(expected) - len(client.seqs)) or sum(
            a != b for a, b in zip(expected, sorted(client.seqs), strict=True)
        )
    return lost


def tickring(clients: int, channels: int, rate: int, seconds: float, workers: int = WORKERS) -> Measured:
    """One run with front workers."""
    folder = Path(tempfile.mkdtemp(prefix="tickring-bench-", dir="/dev/shm")) / "tickring-bench"
    prepare_folder(folder)
    spec = TRADE.spec("feed-bench-0", capacity=1 << 16, keys_max=64)
    create_stream(folder, spec, time.time_ns())
    create_keys(folder / keys_filename(spec.producer), 64)
    bells = [make_bell() for _ in range(workers)]
    total = int(rate * seconds)
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()
    socks = listeners(workers)
    report_read, report_write = os.pipe()

    def produce() -> None:
        keys = KeyWriter(folder / keys_filename(spec.producer))
        writer = StreamWriter(folder, spec, bells, time.time_ns())
        key_ids = []
        for channel in range(channels):
            name = symbol(channel)
            attributes = {
                "exchange": "binance", "market_type": "spot", "symbol": name, "instrument": name,
                "native": name.replace("-", ""), "price_precision": 2, "quantity_precision": 5,
            }  # fmt: skip
            key_ids.append(keys.add(f"binance.{name}", attributes))
            writer.add_key(key_ids[-1])
        publish = writer.publisher(TRADE.struct, TRADE.values)
        os.write(ready_write, b"x")
        os.read(go_read, 1)

        def send(number: int) -> None:
            now = time.time_ns()
            publish(key_ids[number % channels], now, now, 0, now, 65000.12, 0.00123, 0, 0, 0.0)

        pace(rate, total, send)
        time.sleep(DEADLINE_S)

    pids = [fork(produce)]
    try:
        with ended(pids):
            os.read(ready_read, 1)
            pids += [
                fork(lambda i=i: front(folder, i, socks[i], bells, ready_write, report_write)) for i in range(workers)
            ]
            for _ in range(workers):
                os.read(ready_read, 1)
            crowd = gather(socks[0].getsockname()[1], clients, channels, total)
            for pid in pids[1:]:
                os.kill(pid, signal.SIGUSR1)
            os.write(go_write, b"x")
            crowd.listen(seconds + DEADLINE_S)
            for pid in pids[1:]:
                os.kill(pid, signal.SIGTERM)
            measured = crowd.measured(channels, total)
            measured.cpu_per_frame = reported_cpu(report_read, workers) * 1e6 / measured.frames
    finally:
        shutil.rmtree(folder.parent)
        for sock in socks:
            sock.close()
        for fd in (ready_read, ready_write, go_read, go_write, report_read, report_write, *bells):
            os.close(fd)
    return measured


def whole(clients: int, rate: int, seconds: float, workers: int = WORKERS) -> Measured:
    """One run from an exchange through the daemon."""
    total = int(rate * seconds)
    with tempfile.TemporaryDirectory(prefix="tickring-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        exchange = stack.enter_context(
            helper("exchange.py", "--rate", str(rate), "--messages", str(total), "--times", str(folder / "times"))
        )
        port, _, _ = stack.enter_context(tickring_tree(exchange.read()["port"], folder, workers=workers))
        crowd = gather(port, clients, SYMBOLS, total, lambda channel: f"S{channel:03d}-USDT")
        exchange.go()
        crowd.listen(seconds + DEADLINE_S)
        offset_ns = time.time_ns() - time.monotonic_ns()
        sent = np.fromfile(folder / "times", "<u8").astype(np.int64) + offset_ns
    return crowd.measured(SYMBOLS, total, sent)


def bare(clients: int, channels: int, rate: int, seconds: float) -> Measured:
    """One run of the peer."""
    total = int(rate * seconds)
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    read_end, write_end = os.pipe()
    report_read, report_write = os.pipe()

    def source() -> None:
        def send(number: int) -> None:
            os.write(write_end, time.time_ns().to_bytes(8, "little"))

        pace(rate, total, send)
        time.sleep(DEADLINE_S)

    def relay() -> None:
        async def main() -> None:
            audiences: list[list[picows.WSTransport]] = [[] for _ in range(channels)]
            counts = [0] * channels

            class Server(picows.WSListener):
                def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
                    text = frame.get_payload_as_utf8_text()
                    for channel in range(channels):
                        if f'.{symbol(channel)}"' in text:
                            audiences[channel].append(transport)
                            transport.send(picows.WSMsgType.TEXT, b'{"type":"snapshot"}')

            server = await picows.ws_create_server(lambda request: Server(), sock=sock)
            number = 0

            def readable() -> None:
                nonlocal number
                stamp = int.from_bytes(os.read(read_end, 8), "little")
                channel = number % channels
                number += 1
                counts[channel] += 1
                seq = counts[channel]
                text = b'{"type":"update","channel":"%s","seq":%d,"data":{"seq":%d,"trade_id":"%d","pad":"%s"}}' % (
                    symbol(channel).encode(), seq, seq, stamp, b"x" * 240,
                )  # fmt: skip
                for transport in audiences[channel]:
                    transport.send(picows.WSMsgType.TEXT, text)

            loop = asyncio.get_running_loop()
            loop.add_reader(read_end, readable)
            before = resource.getrusage(resource.RUSAGE_SELF)
            loop.add_signal_handler(signal.SIGTERM, lambda: report_cpu(before, report_write))
            await server.serve_forever()

        run_uvloop(main)

    pids = [fork(relay)]
    try:
        with ended(pids):
            crowd = gather(sock.getsockname()[1], clients, channels, total)
            pids.append(fork(source))
            crowd.listen(seconds + DEADLINE_S)
            os.kill(pids[0], signal.SIGTERM)
            measured = crowd.measured(channels, total)
            measured.cpu_per_frame = reported_cpu(report_read, 1) * 1e6 / measured.frames
    finally:
        sock.close()
        for fd in (read_end, write_end, report_read, report_write):
            os.close(fd)
    return measured


def run(quick: bool = False) -> list[Line]:
    """One client and many, from a front worker and from the peer, in turns; the best of each."""
    raise_file_limit()
    seconds, rounds = (3.0, 1) if quick else (8.0, 3)
    names = ("one", "many", "whole one", "whole many", "bare one", "bare many")
    found: dict[str, list[Measured]] = {name: [] for name in names}
    for _ in range(rounds):
        found["one"].append(tickring(1, CHANNELS, RATE, seconds))
        found["many"].append(tickring(CLIENTS, CHANNELS, RATE, seconds))
        found["whole one"].append(whole(1, RATE, seconds))
        found["whole many"].append(whole(CLIENTS, RATE, seconds))
        found["bare one"].append(bare(1, CHANNELS, RATE, seconds))
        found["bare many"].append(bare(CLIENTS, CHANNELS, RATE, seconds))
    best = {name: min(measured, key=lambda one: one.p50) for name, measured in found.items()}
    one, many = best["one"], best["many"]
    bare_one, bare_many = best["bare one"], best["bare many"]
    whole_one, whole_many = best["whole one"], best["whole many"]
    lost = sum(measured.lost for name in names[:4] for measured in found[name])
    what = f"WS fan-out, {CLIENTS:,} clients on {CHANNELS} channels at {RATE:,} msg/s"
    return [
        Line(f"{what}: records lost", float(lost), "", 0, detail=f"{sum(m.frames for m in found['many']):,} frames"),
        Line(
            f"{what}: p50 from the exchange to that of one client", whole_many.p50 / whole_one.p50, "x", RATIO_MAX,
            detail=f"the whole daemon, {WORKERS} front worker(s); many: {whole_many}; one: {whole_one}",
        ),
        Line(
            f"{what}: p50 from the ring to that of one client", many.p50 / one.p50, "x", RATIO_MAX,
            detail=f"many: {many}; one: {one}; bare picows relay: {bare_many.p50:.0f} and {bare_one.p50:.0f} µs",
        ),
        Line(
            "WS fan-out: CPU of the worker for one frame to the bare relay's",
            many.cpu_per_frame / bare_many.cpu_per_frame, "x", None,
            detail=f"{many.cpu_per_frame:.1f} µs to {bare_many.cpu_per_frame:.1f} µs",
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--channels", type=int, default=CHANNELS)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    raise_file_limit()
    print(
        f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, {arguments.rate} records/s for {arguments.seconds} s"
    )
    for _ in range(arguments.rounds):
        ways: dict[str, Callable[[int], Measured]] = {
            "bare relay": lambda clients: bare(clients, arguments.channels, arguments.rate, arguments.seconds),
            "tickring": lambda clients: tickring(clients, arguments.channels, arguments.rate, arguments.seconds),
            "the whole daemon": lambda clients: whole(clients, arguments.rate, arguments.seconds),
        }
        for name, way in ways.items():
            for clients in dict.fromkeys((1, arguments.clients)):
                measured = way(clients)
                cpu = f"{measured.cpu_per_frame:.1f} µs CPU a frame, {measured.lost} lost"
                print(f"{name}, {clients} client(s) on {arguments.channels} channels: {measured}, {cpu}")


if __name__ == "__main__":
    main()
