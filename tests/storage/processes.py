"""Actors as processes of their own, and the rings they work on, for tests that kill them."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import inspect
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from tickring.actors.runtime import ActorContext
from tickring.codecs.record import RecordType
from tickring.codecs.records import TRADE
from tickring.ringbuf import (
    KeyWriter,
    MetricsPage,
    PageView,
    StreamWriter,
    create_keys,
    create_stream,
    keys_filename,
    read_page,
)
from tickring.storage.client import Client
from tickring.storage.history import Rows, parse_rows, row_columns
from tickring.storage.schema import qualified_table

DEADLINE_S = 60.0
DRAIN_S = 70.0  # an actor told to stop does all that it has to do, however slow the machine
ROOT = Path(__file__).resolve().parents[2]


def wait_for(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The condition's first true value; fails the test when it does not come."""
    until = time.monotonic() + deadline_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < until, f"waited {deadline_s} s for {what}"
        time.sleep(0.01)


class Actor:
    """One actor in a process."""

    def __init__(self, kind: str, shm: Path, data: Path, config: dict[str, Any], log: Path | None = None) -> None:
        self.kind, self.shm, self.data, self.config = kind, shm, data, config
        self.log = log or data / f"{kind}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> Actor:
        page = self.shm / f"{self.kind}.page"
        page.unlink(missing_ok=True)
        self.data.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            command = [sys.executable, __file__, self.kind, str(self.shm), str(self.data), json.dumps(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        if wait:
            wait_for(f"{self.kind} to run", self._running)
        return self

    def _running(self) -> bool:
        assert self.process.poll() is None, (
            f"{self.kind} ended with {self.process.returncode}: {self.log.read_text()[-3000:]}"
        )
        page = self.shm / f"{self.kind}.page"
        return page.exists() and read_page(page).state == 1

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> int:
        self.send(signal.SIGTERM)
        return self.process.wait(60)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values over the labels that are not given."""
        return metric_of(read_page(self.shm / f"{self.kind}.page"), name, labels)

    def detail(self) -> dict[str, Any]:
        return dict(read_page(self.shm / f"{self.kind}.page").detail)


class Producer:
    """Writes rows of one record type into a ring."""

    def __init__(
        self, folder: Path, record: RecordType = TRADE, name: str = "feed-binance-spot-0", *, keys: int = 5,
        capacity: int = 1 << 16, epoch: int | None = None,
    ) -> None:  # fmt: skip
        self.record, self.name, self.folder = record, name, folder
        spec = record.spec(name, capacity=capacity, keys_max=max(keys, 8))
        create_stream(folder, spec, epoch or time.time_ns())
        path = folder / keys_filename(name)
        if not path.exists():
            create_keys(path, max(keys, 8))
        self.keys = KeyWriter(path)
        self.writer = StreamWriter(folder, spec, (), time.time_ns())
        for i in range(keys):
            key_id = self.keys.add(f"binance.S{i}-USDT", key_attributes(i))
            self.writer.add_key(key_id)
        self.count = keys

    def publish(self, n: int, seed: int = 0) -> np.ndarray:
        """Publish `n` random rows; returns them as published."""
        from ..rings import publish_rows  # not above: this file is also run as a script

        rows = random_rows(self.record, n, self.count, seed, self.writer.sequence)
        publish_rows(self.writer, rows)
        return rows

    @property
    def sequence(self) -> int:
        return self.writer.sequence

    def close(self) -> None:
        self.writer.close()
        self.keys.close()


def key_attributes(i: int) -> dict[str, Any]:
    return {
        "exchange": "binance", "product": "spot", "market_type": "spot",
        "symbol": f"S{i}-USDT", "instrument": f"S{i}-USDT",
        "native": f"S{i}USDT", "price_precision": 2, "quantity_precision": 5, "tick": "0.01", "lot": "0.00001",
    }  # fmt: skip


def random_rows(record: RecordType, n: int, keys: int, seed: int = 0, start: int = 0) -> np.ndarray:
    """`(n,)` rows with every field filled in; `start` makes them differ from batch to batch."""
    random = np.random.default_rng((seed, start))
    rows = np.zeros(n, record.dtype)
    now = time.time_ns()
    rows["key_id"] = random.integers(0, keys, n)
    rows["ts_recv_ns"] = now + np.arange(n)
    rows["ts_event_ns"] = now - random.integers(0, 10**9, n)
    rows["flags"] = random.integers(0, 2, n) * 32
    for field in record.fields:
        shape = n if field.length == 1 else (n, field.length)
        if field.kind.dtype == "<f8":
            rows[field.name] = np.round(random.uniform(0.01, 70_000, shape), 5)
        else:
            rows[field.name] = random.integers(1, 2**31, shape) + (start if field.length == 1 else 0)
    return rows


async def fetch_rows(client: Client, record: RecordType) -> Rows:
    """All that the record's table holds, in the order in which it came."""
    table = qualified_table(client.server.database, record)
    query = f"SELECT {row_columns(record)} FROM {table} ORDER BY exchange, instrument, epoch, nth"
    return parse_rows(record, await client.fetch(query, fmt="RowBinary"))


def stored_columns(record: RecordType, rows: np.ndarray, epoch: int) -> set[tuple[Any, ...]]:
    """The rows as the table should hold them, without the key's text: one tuple each, exact values."""
    columns = [rows[name].tolist() for name, _, _ in record.columns()[len(record.key_names) + 1 :]]
    if any(isinstance(column[0], list) for column in columns):
        columns = [[tuple(v) if isinstance(v, list) else v for v in column] for column in columns]
    instruments = [f"S{key_id}-USDT" for key_id in rows["key_id"].tolist()]
    return {(instrument, epoch, *values) for instrument, *values in zip(instruments, *columns, strict=True)}


async def _run(kind: str, shm: Path, data: Path, settings: dict[str, Any]) -> None:
    module = importlib.import_module(f"tickring.actors.{kind}")
    page = MetricsPage(shm, kind, time.time_ns())
    config = msgspec.convert(settings, module.Config)
    ctx = ActorContext(name=kind, kind=kind, folder=shm, data=data, config=config, page=page, drain_s=DRAIN_S)
    ctx.stop_on_signals()
    await module.main(ctx)


class Nursery:
    """Starts actors of one kind as forks of a process that has imported everything: some milliseconds for each life."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        command = [sys.executable, "-m", "tests.storage.processes", "nursery", kind]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def start(self, order: dict[str, Any]) -> int:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Life:
    """The lives of one actor, one after the other.

    Args:
        nursery: makes them.
        shm, data: of the instance.
    """

    def __init__(self, nursery: Nursery, shm: Path, data: Path) -> None:
        self.nursery, self.kind, self.shm, self.data = nursery, nursery.kind, shm, data
        data.mkdir(parents=True, exist_ok=True)
        self.log = data / f"{self.kind}.log"
        self.log.touch()
        self.pid = 0

    def start(self, config: dict[str, Any], die: dict[str, Any] | None = None) -> int:
        """Begin a life; with `die`, one that ends itself by SIGKILL at a call (see `_die_at`)."""
        (self.shm / f"{self.kind}.page").unlink(missing_ok=True)
        self.pid = self.nursery.start({"shm": str(self.shm), "data": str(self.data), "config": config, "die": die})
        return self.pid

    def alive(self) -> bool:
        return self.pid != 0 and Path(f"/proc/{self.pid}").exists()

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        self.wait()

    def wait(self) -> None:
        wait_for(f"{self.kind} {self.pid} to end; log: {self.log.read_text()[-2000:]}", lambda: not self.alive())

    def page(self) -> PageView | None:
        path = self.shm / f"{self.kind}.page"
        return read_page(path) if path.exists() else None

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values over the labels that are not given."""
        page = self.page()
        return 0.0 if page is None else metric_of(page, name, labels)


def metric_of(page: PageView, name: str, labels: dict[str, str]) -> float:
    return sum(
        sum(sample.values[:-1]) if sample.kind == "histogram" else sample.values[0]
        for sample in page.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def _die_at(target: str, when: str, call: int) -> None:
    """End this process by SIGKILL before or after the n-th call of ``module:Class.method``.

    The target ``fsize`` stands for a full disk instead: no file grows beyond `call` bytes.
    """
    if target == "fsize":
        resource.setrlimit(resource.RLIMIT_FSIZE, (call, call))
        return
    module_name, _, path = target.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), 0

    def count(at: str) -> None:
        nonlocal calls
        calls += at == "before"
        if calls == call and at == when:
            os.kill(os.getpid(), signal.SIGKILL)

    if inspect.iscoroutinefunction(original):

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            count("before")
            result = await original(*args, **kwargs)
            count("after")
            return result

    else:

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            count("before")
            result = original(*args, **kwargs)
            count("after")
            return result

    setattr(owner, name, wrapped)


def _nursery(kind: str) -> None:
    importlib.import_module(f"tickring.actors.{kind}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _end_with_parent()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            code = 1
            try:
                log = os.open(f"{order['data']}/{kind}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.dup2(log, 2)
                if order["die"]:
                    _die_at(**order["die"])
                uvloop.run(_run(kind, Path(order["shm"]), Path(order["data"]), order["config"]))
                code = 0
            except BaseException:
                logging.exception("%s failed", kind)
            finally:
                os._exit(code)
        print(pid, flush=True)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the test


@contextlib.contextmanager
def running_engine() -> Iterator[Actor]:
    """The embedded engine as a process, on folders that are gone afterwards; a test without one skips."""
    import pytest  # here, because the actors themselves run this file as a script

    from ..ports import free_port

    pytest.importorskip("chdb", reason="the embedded engine is not installed: pip install 'tickring[embedded]'")
    shm = Path(tempfile.mkdtemp(prefix="tickring-test-", dir="/dev/shm"))
    data = Path(tempfile.mkdtemp(prefix="tickring-test-"))
    actor = Actor("clickhouse", shm, data, {"port": free_port()})
    try:
        yield actor.start()
    finally:
        actor.kill()
        shutil.rmtree(shm, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    _end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s")
    logging.getLogger("clickhouse_connect").setLevel(logging.WARNING)
    if sys.argv[1] == "nursery":
        _nursery(sys.argv[2])
    else:
        uvloop.run(_run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])))
