"""From a ring to WebSocket clients: latency, beside a bare picows server that sends the same bytes, and CPU per frame.

    python bench/ws_fanout.py [--rate 1000] [--seconds 5] [--clients 1]

Three processes: the producer writes trades whose id is the time of writing, a front worker fans them out, a client
(picows) takes the time at each frame and checks that each number comes once. The peer is one hop too: a process that
sends a frame of the same size, told by a pipe, to the same client.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import picows
import uvloop

from tickring.actors.front.catalog import Catalog
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

CHANNEL = "trades.binance.spot.BTC-USDT"
WARM_S = 0.5


class Trade(msgspec.Struct):
    seq: int
    trade_id: str


class AnyFrame(msgspec.Struct):
    type: str
    data: msgspec.Raw = msgspec.Raw()


decode_frame = msgspec.json.Decoder(AnyFrame).decode
decode_one = msgspec.json.Decoder(Trade).decode
decode_many = msgspec.json.Decoder(list[Trade]).decode


class Listener(picows.WSListener):
    """Takes the time of each trade's arrival."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.latencies: list[int] = []
        self.seqs: list[int] = []
        self.frames = 0
        self.ready = asyncio.Event()
        self.done = asyncio.Event()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        now = time.time_ns()
        if frame.msg_type != picows.WSMsgType.TEXT:
            return
        body = decode_frame(frame.get_payload_as_memoryview())
        if body.type == "snapshot":
            self.ready.set()
            return
        if body.type not in ("update", "batch"):
            return
        self.frames += 1
        for trade in [decode_one(body.data)] if body.type == "update" else decode_many(body.data):
            self.latencies.append(now - int(trade.trade_id))
            self.seqs.append(trade.seq)
        if len(self.seqs) >= self.wanted:
            self.done.set()


def fork(child) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(0)
    return pid


def front(folder: Path, sock: socket.socket, bells: list[int], report: int) -> None:
    async def main() -> None:
        page = MetricsPage(folder, "front-0", time.time_ns())
        config = WsConfig()
        ctx = ActorContext(
            name="front-0", kind="front", folder=folder, data=folder, config=config, page=page, doorbells=bells,
            doorbell_index=0, listen=sock,
        )  # fmt: skip
        from aiohttp import web

        app = web.Application()
        setup_ws(app, ctx, Catalog(folder), config)
        runner = web.AppRunner(app, handle_signals=False)
        await runner.setup()
        await web.SockSite(runner, sock).start()
        ctx.stop_on_signals()
        before = resource.getrusage(resource.RUSAGE_SELF)
        await ctx.beat_until_stopped()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        user, system = usage.ru_utime - before.ru_utime, usage.ru_stime - before.ru_stime
        sent = page.counter("tickring_ws_messages_sent_total", "").value
        os.write(report, f"{user} {system} {sent}".encode())
        await close_ws(app)
        await runner.cleanup()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def pace(rate: int, total: int, send) -> None:
    """Call `send` `total` times, evenly; sleeping, as a feed does between two messages."""
    period = 1 / rate
    due = time.perf_counter() + WARM_S
    for number in range(total):
        rest = due - time.perf_counter()
        if rest > 0:
            time.sleep(rest)
        send(number)
        due += period


async def listen(url: str, clients: int, total: int, subscribe: bool) -> list[Listener]:
    listeners = []
    for _ in range(clients):
        listener = Listener(total)
        transport, _ = await picows.ws_connect(lambda listener=listener: listener, url)
        if subscribe:
            transport.send(picows.WSMsgType.TEXT, b'{"op":"subscribe","channels":["%s"]}' % CHANNEL.encode())
            await listener.ready.wait()
        listeners.append(listener)
    return listeners


def tickring(rate: int, seconds: float, clients: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="tickring-bench-", dir="/dev/shm")) / "tickring-bench"
    prepare_folder(folder)
    spec = TRADE.spec("feed-bench-0", capacity=1 << 16, keys_max=64)
    create_stream(folder, spec, time.time_ns())
    create_keys(folder / keys_filename(spec.producer), 64)
    bells = [make_bell()]
    total = int(rate * seconds)
    go_read, go_write = os.pipe()
    sock = socket.create_server(("127.0.0.1", 0))
    report_read, report_write = os.pipe()

    def produce() -> None:
        keys = KeyWriter(folder / keys_filename(spec.producer))
        attributes = {
            "exchange": "binance", "market_type": "spot", "symbol": "BTC-USDT", "instrument": "BTC-USDT",
            "native": "BTCUSDT", "price_precision": 2, "quantity_precision": 5,
        }  # fmt: skip
        key_id = keys.add("binance.BTC-USDT", attributes)
        writer = StreamWriter(folder, spec, bells, time.time_ns())
        writer.add_key(key_id)
        publish = writer.publisher(TRADE.struct, TRADE.values)
        os.read(go_read, 1)

        def send(number: int) -> None:
            now = time.time_ns()
            publish(key_id, now, now, 0, now, 65000.12, 0.00123, 0, 0, 0.0)

        pace(rate, total, send)
        time.sleep(1)

    pids = [fork(produce)]
    time.sleep(0.3)
    pids.append(fork(lambda: front(folder, sock, bells, report_write)))
    try:

        async def main() -> list[Listener]:
            listeners = await listen(f"ws://127.0.0.1:{sock.getsockname()[1]}/ws/v1", clients, total, subscribe=True)
            os.write(go_write, b"x")
            await asyncio.gather(*(listener.done.wait() for listener in listeners))
            return listeners

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            listeners = runner.run(main())
        os.kill(pids[1], signal.SIGTERM)
        user, system, _ = map(float, os.read(report_read, 100).split())
        for listener in listeners:
            assert listener.seqs == list(range(1, total + 1)), "numbers missing or repeated"
        show(f"tickring ring -> client, {clients} client(s)", listeners)
        frames = sum(listener.frames for listener in listeners)
        micros = 1e6 / frames
        print(f"  front CPU per frame: {user * micros:.0f} µs user, {system * micros:.0f} µs system, {frames} frames")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(folder.parent)


def bare(rate: int, seconds: float, clients: int) -> None:
    total = int(rate * seconds)
    sock = socket.create_server(("127.0.0.1", 0))
    read_end, write_end = os.pipe()

    def source() -> None:
        os.close(read_end)
        message = bytearray(8)

        def send(number: int) -> None:
            os.write(write_end, time.time_ns().to_bytes(8, "little"))

        time.sleep(1.0)
        pace(rate, total, send)
        del message
        time.sleep(1)

    def relay() -> None:
        async def main() -> None:
            transports: list[picows.WSTransport] = []

            class Server(picows.WSListener):
                def on_ws_connected(self, transport: picows.WSTransport) -> None:
                    transports.append(transport)

            server = await picows.ws_create_server(lambda request: Server(), sock=sock)
            number = 0

            def readable() -> None:
                nonlocal number
                data = os.read(read_end, 8)
                number += 1
                stamp = int.from_bytes(data, "little")
                text = b'{"type":"update","channel":"%s","seq":%d,"data":{"seq":%d,"trade_id":"%d","pad":"%s"}}' % (
                    CHANNEL.encode(), number, number, stamp, b"x" * 220,
                )  # fmt: skip
                for transport in transports:
                    transport.send(picows.WSMsgType.TEXT, text)

            asyncio.get_running_loop().add_reader(read_end, readable)
            await server.serve_forever()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    pids = [fork(relay)]
    try:

        async def main() -> list[Listener]:
            listeners = await listen(f"ws://127.0.0.1:{sock.getsockname()[1]}/", clients, total, subscribe=False)
            pids.append(fork(source))
            await asyncio.gather(*(listener.done.wait() for listener in listeners))
            return listeners

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            listeners = runner.run(main())
        show(f"bare pipe -> picows -> client, {clients} client(s)", listeners)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def show(name: str, listeners: list[Listener]) -> None:
    micros = np.concatenate([np.array(listener.latencies) for listener in listeners]) / 1000
    p50, p99, worst = np.percentile(micros, [50, 99, 100])
    print(f"{name}: p50 {p50:.0f} µs, p99 {p99:.0f} µs, worst {worst:.0f} µs, {len(micros)} records")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    print(
        f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, {arguments.rate} records/s for {arguments.seconds} s"
    )
    for _ in range(arguments.rounds):
        bare(arguments.rate, arguments.seconds, arguments.clients)
        tickring(arguments.rate, arguments.seconds, arguments.clients)


if __name__ == "__main__":
    main()
