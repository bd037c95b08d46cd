"""Exchange to WebSocket client: tickring beside a bare relay and beside the design it replaces.

Each path runs alone, on two cores, fed by `exchange.py` with aggregate trades at an exact rate. Every frame's id and
content is checked; a lost, doubled or wrong one fails the run. Times are the monotonic clock of one machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from harness import Line, percentile

HERE = Path(__file__).resolve().parent
SYMBOLS = 20
SPIN_US = 2000  # two messages apart at 1,000 a second: the front that has the subscriber does not sleep between them


class Process:
    """A helper script that prints JSON lines and reads lines."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / arguments[0]), *arguments[1:]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE,
        )  # fmt: skip

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def helper(*arguments: str) -> Iterator[Process]:
    process = Process(*arguments)
    try:
        yield process
    finally:
        process.end()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def tickring_tree(
    exchange_port: int, folder: Path, spin_us: int = 0, workers: int = 2
) -> Iterator[tuple[int, int, Path]]:
    """The daemon with one feed, fronts, writer and embedded engine; yields (port, pid, folder of the rings)."""
    symbols = json.dumps([f"S{i:03d}-USDT" for i in range(SYMBOLS)])
    sources = f"""
[exchanges.binance.spot]
symbols = {symbols}
channels = ["agg_trade"]
ws_url = "ws://127.0.0.1:{exchange_port}"
rest_url = "http://127.0.0.1:{exchange_port}"
"""
    with running(sources, folder, spin_us, workers) as tree:
        yield tree


@contextmanager
def running(sources: str, folder: Path, spin_us: int = 0, workers: int = 2) -> Iterator[tuple[int, int, Path]]:
    """The daemon with these tables in its configuration; yields (port, pid, folder of the rings)."""
    port, name = free_port(), f"bench{os.getpid()}"
    (folder / "tickring.toml").write_text(
        f"""
[instance]
name = "{name}"
data = "{folder / "data"}"
{sources}
[front]
port = {port}
workers = {workers}
ws.spin_us = {spin_us}
[clickhouse]
port = {free_port()}
[log]
level = "WARNING"
"""
    )
    daemon = subprocess.Popen([sys.executable, "-m", "tickring", "run", "-c", str(folder / "tickring.toml"), "--purge"])
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                if time.monotonic() > deadline or daemon.poll() is not None:
                    raise RuntimeError("tickring did not become ready") from None
                time.sleep(0.1)
        yield port, daemon.pid, Path("/dev/shm") / f"tickring-{name}"
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)


def latencies(times: Path, out: Path, messages: int) -> np.ndarray:
    """Nanoseconds from send to arrival by trade id; every id exactly once, in order, with its price."""
    from exchange import price_of

    sent = np.fromfile(times, "<u8")
    rows = [line.split() for line in out.read_text().splitlines()]
    ids = [int(row[0]) for row in rows]
    first = min(ids)
    by_symbol: dict[int, int] = {}
    for trade_id in ids:  # in order for each symbol; across symbols a fan-out may group
        assert by_symbol.get(trade_id % SYMBOLS, 0) < trade_id, f"trade {trade_id} arrived out of order or twice"
        by_symbol[trade_id % SYMBOLS] = trade_id
    missing = sorted({*range(first, messages + 1)}.difference(ids))
    assert not missing, f"{len(missing)} of {messages} trades are missing: {missing[0]} to {missing[-1]}"
    assert all(float(row[2]) == float(price_of(int(row[0]))) for row in rows), "a price is wrong"
    arrived = np.zeros(messages + 1, np.uint64)
    arrived[ids] = [int(row[1]) for row in rows]
    return (arrived[first:] - sent[first : messages + 1]).astype(np.float64)


def run_relay(rate: int, messages: int, folder: Path) -> np.ndarray:
    times, out = folder / "times", folder / "out"
    with ExitStack() as stack:
        exchange = stack.enter_context(
            helper("exchange.py", "--rate", str(rate), "--messages", str(messages), "--times", str(times))
        )
        relay = stack.enter_context(helper("relay.py", f"ws://127.0.0.1:{exchange.read()['port']}/ws"))
        client = stack.enter_context(
            helper("client.py", f"ws://127.0.0.1:{relay.read()['port']}/", str(messages), str(out))
        )
        client.read()
        exchange.go()
        client.read()
    return latencies(times, out, messages)


def run_tickring(rate: int, messages: int, folder: Path, spin_us: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latency to the client, and of it the share up to the ring (receive stamp), both in ns by trade."""
    times, out = folder / "times", folder / "out"
    subscribe = json.dumps({"op": "subscribe", "id": 1, "channels": [{"channel": "trades", "exchange": "binance",
                            "market_type": "spot", "symbol": "*", "snapshot": False}]})  # fmt: skip
    with ExitStack() as stack:
        exchange = stack.enter_context(
            helper("exchange.py", "--rate", str(rate), "--messages", str(messages), "--times", str(times))
        )
        port, _, rings = stack.enter_context(tickring_tree(exchange.read()["port"], folder, spin_us))
        client = stack.enter_context(
            helper("client.py", f"ws://127.0.0.1:{port}/ws/v1", str(messages), str(out), subscribe)
        )
        client.read()
        exchange.go()
        client.read()
        received = ring_times(rings)
    return latencies(times, out, messages), to_ring(times, received)


def ring_times(rings: Path) -> np.ndarray:
    """(trade id, receive stamp on the wall clock) of what the ring holds."""
    from tickring.codecs.records import TRADE
    from tickring.ringbuf import StreamReader

    reader = StreamReader(rings, "feed-binance-spot-0", "trade", TRADE.dtype)
    rows, _, _ = reader.read(0, reader.capacity)
    reader.close()
    return np.stack((rows["first_trade_id"], rows["ts_recv_ns"]))


def to_ring(times: Path, received: np.ndarray) -> np.ndarray:
    offset = time.time_ns() - time.monotonic_ns()
    sent = np.fromfile(times, "<u8").astype(np.int64)[received[0]] + offset
    return (received[1] - sent).astype(np.float64)


def run_replaced(rate: int, messages: int, folder: Path) -> np.ndarray | None:
    """The collector, Redis and FastAPI; None where one of them is not installed."""
    try:
        import fastapi  # noqa: F401
        import redis  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        return None
    server = shutil.which("redis-server")
    if server is None:
        return None
    times, out, redis_port = folder / "times", folder / "out", free_port()
    with ExitStack() as stack:
        store = subprocess.Popen([server, "--port", str(redis_port), "--save", ""], stdout=subprocess.DEVNULL)
        stack.callback(lambda: (store.kill(), store.wait()))
        exchange = stack.enter_context(
            helper("exchange.py", "--rate", str(rate), "--messages", str(messages), "--times", str(times))
        )
        port = exchange.read()["port"]
        api = stack.enter_context(helper("replaced.py", "api", str(redis_port)))
        api_port = api.read()["port"]
        time.sleep(1)
        client = stack.enter_context(helper("client.py", f"ws://127.0.0.1:{api_port}/ws", str(messages), str(out)))
        client.read()
        collector = stack.enter_context(
            helper("replaced.py", "collector", f"ws://127.0.0.1:{port}/ws", str(redis_port))
        )
        collector.read()
        time.sleep(1)
        exchange.go()
        client.read()
    return latencies(times, out, messages)


def _summary(name: str, values: np.ndarray) -> str:
    return f"{name} p50 {np.median(values) / 1e3:.0f} us, p99 {percentile(values.tolist(), 0.99) / 1e3:.0f} us"


def run(quick: bool = False) -> list[Line]:
    lines: list[Line] = []
    for rate, seconds in ((1000, 5 if quick else 15), (10_000, 5 if quick else 60)):
        messages = rate * seconds
        with tempfile.TemporaryDirectory(prefix="tickring-bench-") as name:
            folder = Path(name)
            relay = run_relay(rate, messages, folder)
            ours, ring = run_tickring(rate, messages, folder)
            spinning = run_tickring(rate, messages, folder, SPIN_US)[0] if rate == 1000 else None
            relay = np.concatenate(
                (relay, run_relay(rate, messages, folder))
            )  # before and after: the machine may drift
            replaced = run_replaced(rate, messages, folder) if rate == 1000 else None
        p50 = float(np.median(ours) / np.median(relay))
        p99 = percentile(ours.tolist(), 0.99) / percentile(relay.tolist(), 0.99)
        detail = f"{_summary('tickring', ours)}; {_summary('relay', relay)}"
        lines.append(Line(f"exchange to WS client, {rate:,} msg/s, p50", p50, "x relay", 1.5, detail=detail))
        if rate == 1000:
            lines.append(Line(f"exchange to WS client, {rate:,} msg/s, p99", p99, "x relay", 1.5, detail=detail))
            assert spinning is not None
            name, detail = f"the same with ws.spin_us = {SPIN_US}", _summary("tickring", spinning)
            value = float(np.median(spinning) / np.median(relay))
            lines.append(Line(f"{name}, p50", value, "x relay", 1.5, detail=detail))
            value = percentile(spinning.tolist(), 0.99) / percentile(relay.tolist(), 0.99)
            lines.append(Line(f"{name}, p99", value, "x relay", 1.5, detail=detail))
            share = float(np.median(ring) / np.median(ours))
            lines.append(Line("exchange to ring, share of that path", share, "", 0.4, detail=_summary("to ring", ring)))
            if replaced is None:
                versus, detail = None, "needs redis-server, fastapi, uvicorn, redis"
            else:
                versus, detail = float(np.median(ours) / np.median(replaced)), _summary("replaced", replaced)
            lines.append(Line("tickring beside the replaced design, p50", versus, "x replaced", 1 / 3, detail=detail))
        else:
            tenth = len(ours) // 10
            growth = float(np.median(ours[-tenth:]) / np.median(ours[tenth : 2 * tenth]))
            lines.append(
                Line(f"growth over {seconds} s at {rate:,} msg/s", growth, "x", 1.5, detail="last tenth / second tenth")
            )
    return lines


if __name__ == "__main__":
    for line in run(quick="--quick" in sys.argv):
        print(line)
