"""Warm restart of the whole daemon: how long no trade comes into the ring.

The simulator sends trades at an even rate. The daemon (feed, writer, two fronts, embedded engine) is stopped with
SIGTERM and started again on the same instance as soon as it has ended, as a service manager does. What counts is the
longest time between two trades in the ring, by the time of receipt, beside the usual one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from flood import natives, simulator
from harness import Line
from latency import free_port

from tickring.codecs.records import TRADE
from tickring.ringbuf import SegmentMissing, StreamReader

RATE = 500  # messages a second
STEADY = 2 * RATE  # records before and after the restart
LIMIT_S = 1.0
DEADLINE_S = 60.0
FEED = "feed-binance-spot-0"


def configuration(name: str, folder: Path, urls: dict[str, str]) -> str:
    symbols = [native.removesuffix("USDT") + "-USDT" for native in natives(urls)]
    return f"""
[instance]
name = "{name}"
data = "{folder / "data"}"
[exchanges.binance.spot]
symbols = {json.dumps(symbols)}
channels = ["agg_trade"]
ws_url = "{urls["spot_ws"]}"
rest_url = "{urls["spot_rest"]}"
[front]
port = {free_port()}
workers = 2
[clickhouse]
port = {free_port()}
[log]
level = "WARNING"
"""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not reached within {DEADLINE_S} s: {what}")
        time.sleep(0.02)


def received(rings: Path) -> np.ndarray:
    """When each trade that the ring holds was received, UNIX ns; empty while there is no ring."""
    try:
        reader = StreamReader(rings, FEED, TRADE.name, TRADE.dtype)
    except SegmentMissing:
        return np.empty(0, np.int64)
    rows, _, _ = reader.read(0, reader.capacity)
    reader.close()
    return rows["ts_recv_ns"]


@contextlib.contextmanager
def daemon(file: Path) -> Iterator[Callable[[], None]]:
    """The daemon; yields what stops it and starts it again."""
    arguments = [sys.executable, "-m", "tickring", "run", "-c", str(file)]
    process = subprocess.Popen(arguments)

    def restart() -> None:
        nonlocal process
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
        process = subprocess.Popen(arguments)

    try:
        yield restart
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)


def restarted(folder: Path) -> tuple[float, float]:
    """`(longest, usual)` time between two trades over one restart, s."""
    name = f"bench{os.getpid()}"
    rings, file = Path("/dev/shm") / f"tickring-{name}", folder / "tickring.toml"
    try:
        with simulator({"source": "paced", "rate": RATE}) as urls:
            file.write_text(configuration(name, folder, urls))
            with daemon(file) as restart:
                until(lambda: len(received(rings)) >= STEADY, "trades before the restart")
                restart()
                before = len(received(rings))
                until(lambda: len(received(rings)) >= before + STEADY, "trades after the restart")
            between = np.diff(received(rings)) / 1e9
    finally:
        shutil.rmtree(rings, ignore_errors=True)
    return float(between.max()), float(np.median(between))


def run(quick: bool = False) -> list[Line]:
    gaps = []
    for _ in range(1 if quick else 3):
        with tempfile.TemporaryDirectory(prefix="tickring-bench-") as name:
            gaps.append(restarted(Path(name)))
    longest, usual = min(gaps)
    detail = (
        f"restarts: {', '.join(f'{gap:.2f} s' for gap, _ in gaps)}; usually {usual * 1e3:.1f} ms between two trades"
    )
    return [Line("warm restart of the daemon, time without data", longest - usual, "s", LIMIT_S, detail=detail)]


if __name__ == "__main__":
    for line in run(quick="--quick" in sys.argv):
        print(f"{line.name:50} {line.value:.2f} {line.unit} (limit {line.limit}) {line.verdict}  {line.detail}")
