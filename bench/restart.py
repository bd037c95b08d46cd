"""Warm restart of the whole daemon: how long no trade comes into the ring.

The simulator sends trades at an even rate. The daemon (feed, writer, two fronts, embedded engine) is stopped with
SIGTERM and started again on the same instance as soon as it has ended, as a service manager does; and it is replaced
by `tickring restart`, where the next daemon is ready before the last one stops. What counts is the longest time between
two trades in the ring, by the time of receipt, beside the usual one. The modules are compiled, as in an installed
package.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flood import natives, simulator
from harness import Line
from latency import free_port

from tickring.codecs.records import TRADE
from tickring.ringbuf import SegmentMissing, StreamReader

RATE = 500  # messages a second
STEADY = 2 * RATE  # records before and after the restart
TAKE_OVER_LIMIT_S = 1.0
STOP_AND_START_LIMIT_S = 2.0  # interpreter and imports come in between
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


class Daemon:
    """A daemon that is replaced while it runs."""

    def __init__(self, file: Path, rings: Path) -> None:
        self._command = [sys.executable, "-m", "tickring"]
        self._run = ["run", "-c", str(file)]
        self._which = ["--instance", rings.name.removeprefix("tickring-"), "--folder", str(rings.parent)]
        self._environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(file.parent / "compiled")}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._command, *self._run], env=self._environment)

    def stop_and_start(self) -> None:
        self.stop()
        self._process = self._start()

    def take_over(self) -> None:
        subprocess.run([*self._command, "restart", *self._which], check=True, stdout=subprocess.DEVNULL)
        self._process.wait(DEADLINE_S)

    def stop(self) -> None:
        """Stop whichever runs the instance now."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(DEADLINE_S)
        else:
            subprocess.run([*self._command, "stop", *self._which], check=False, stdout=subprocess.DEVNULL)


def restarted(folder: Path, how: Callable[[Daemon], None]) -> tuple[float, float]:
    """`(longest, usual)` time between two trades over one restart, s."""
    name = f"bench{os.getpid()}"
    rings, file = Path("/dev/shm") / f"tickring-{name}", folder / "tickring.toml"
    with simulator({"source": "paced", "rate": RATE, "start": "at_once"}) as urls:
        file.write_text(configuration(name, folder, urls))
        daemon = Daemon(file, rings)
        try:
            until(lambda: len(received(rings)) >= STEADY, "trades before the restart")
            how(daemon)
            before = len(received(rings))
            until(lambda: len(received(rings)) >= before + STEADY, "trades after the restart")
            between = np.diff(received(rings)) / 1e9
        finally:
            daemon.stop()
            until(lambda: not (rings / "control.sock").exists(), "the end of the daemon")
            shutil.rmtree(rings, ignore_errors=True)
    return float(between.max()), float(np.median(between))


WAYS = (
    ("restart of the daemon by take-over, time without data", Daemon.take_over, TAKE_OVER_LIMIT_S),
    ("stop and start of the daemon, time without data", Daemon.stop_and_start, STOP_AND_START_LIMIT_S),
)


def run(quick: bool = False) -> list[Line]:
    lines = []
    for what, how, limit in WAYS:
        gaps = []
        for _ in range(1 if quick else 3):
            with tempfile.TemporaryDirectory(prefix="tickring-bench-") as name:
                gaps.append(restarted(Path(name), how))
        longest, usual = min(gaps)
        detail = f"{', '.join(f'{gap:.2f} s' for gap, _ in gaps)}; usually {usual * 1e3:.1f} ms between two trades"
        lines.append(Line(what, longest - usual, "s", limit, detail=detail))
    return lines


if __name__ == "__main__":
    for line in run(quick="--quick" in sys.argv):
        print(f"{line.name:55} {line.value:.2f} {line.unit} (limit {line.limit}) {line.verdict}  {line.detail}")
