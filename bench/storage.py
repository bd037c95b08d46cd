"""Ring to ClickHouse (embedded), end to end, beside clickhouse-connect's own insert of the same rows as numpy columns.

    python bench/storage.py [--quick]

Rings are filled first, then the writer is started: the time runs from its first acknowledged batch to its last, with
everything that belongs to it: read, encode, journal, HTTP, insert, cursors, and the engine's merges beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import msgspec
import numpy as np
from harness import Line

from tickring.actors import clickhouse, writer
from tickring.actors.runtime import ActorContext
from tickring.codecs.record import RecordType
from tickring.codecs.records import TRADE
from tickring.ringbuf import KeyWriter, MetricsPage, StreamWriter, create_keys, create_stream, keys_filename, read_page
from tickring.ringbuf.readers import ReaderFile

LIMIT_ROWS_PER_S = 1_000_000
KEYS = 50
DEADLINE_S = 120.0


def _actor(module: Any, kind: str, shm: Path, data: Path, settings: dict[str, Any]) -> None:
    import asyncio

    async def work() -> None:
        page = MetricsPage(shm, kind, time.time_ns())
        config = msgspec.convert(settings, module.Config)
        ctx = ActorContext(name=kind, kind=kind, folder=shm, data=data, config=config, page=page)
        ctx.stop_on_signals()
        await module.main(ctx)

    asyncio.run(work())


@contextlib.contextmanager
def _process(kind: str, shm: Path, data: Path, **settings: Any) -> Iterator[multiprocessing.Process]:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_spawned, args=(kind, str(shm), str(data), json.dumps(settings)), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(20)
        if process.is_alive():
            process.kill()
            process.join()


def _spawned(kind: str, shm: str, data: str, settings: str) -> None:
    _actor({"writer": writer, "clickhouse": clickhouse}[kind], kind, Path(shm), Path(data), json.loads(settings))


def _wait(what: str, condition: Any) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.001)
    return value


def trades(n: int, seed: int = 0) -> np.ndarray:
    """`(n,)` TRADE rows as a busy day has them: rising ids, prices that walk in ticks, small quantities."""
    random = np.random.default_rng(seed)
    rows = np.zeros(n, TRADE.dtype)
    rows["key_id"] = random.zipf(1.3, n) % KEYS
    rows["ts_recv_ns"] = time.time_ns() + np.cumsum(random.integers(1, 20_000, n))
    rows["ts_event_ns"] = (rows["ts_recv_ns"] - random.integers(10**6, 10**7, n)) // 10**6 * 10**6
    rows["flags"] = random.integers(0, 2, n) * 32
    rows["trade_id"] = 3_000_000_000 + np.arange(n)
    steps = random.choice(np.array([0, 0, 0, 1, -1]), n)
    rows["price"] = np.round(100.0 * (rows["key_id"] + 1) + np.cumsum(steps) / 100, 2)
    rows["quantity"] = np.round(random.exponential(0.5, n) + 0.00001, 5)
    return rows


def _fill(shm: Path, name: str, rows: np.ndarray) -> Path:
    """A ring with these rows; returns its reader file. Without tails, which the writer does not look at."""
    spec = dataclasses.replace(TRADE.spec(name, capacity=1 << (len(rows) - 1).bit_length(), keys_max=KEYS), tail=0)
    create_stream(shm, spec, time.time_ns())
    path = shm / keys_filename(name)
    create_keys(path, KEYS)
    keys = KeyWriter(path)
    for i in range(KEYS):
        attributes = {"exchange": "binance", "market_type": "spot", "symbol": f"S{i}-USDT", "instrument": f"S{i}-USDT"}
        keys.add(f"binance.S{i}-USDT", attributes)
    stream = StreamWriter(shm, spec, (), time.time_ns())
    stream.chunked(TRADE.struct, TRADE.values).extend(bytearray(rows.tobytes()))
    stream.close()
    keys.close()
    return shm / spec.readers_filename


def _stored(path: Path) -> int:
    file = ReaderFile(path)
    try:
        return next((int(str(line["cursor"])) for line in file.lines() if line["name"] == "writer.stored"), 0)
    finally:
        file.close()


def _cpu_s(pid: int | None) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _end_to_end(
    shm: Path, data: Path, database: str, rows: np.ndarray, rings: int, engine: int | None
) -> tuple[float, str]:
    """Rows per second from rings that are full when the writer starts, and what that took."""
    readers = [_fill(shm, f"feed-bench-{i}", rows) for i in range(rings)]
    total = rings * len(rows)

    def stored() -> int:
        return sum(_stored(path) for path in readers)

    try:
        with _process("writer", shm, data / database, clickhouse={
            "database": database, "url": read_page(shm / "clickhouse.page").detail["url"],
            "password_file": str(data / "clickhouse" / "password"), "timeout_s": 30.0,
        }) as process:  # fmt: skip
            first = _wait("the first batch", stored)
            started, cpu = time.monotonic(), [_cpu_s(process.pid), _cpu_s(engine)]
            _wait("all rows", lambda: stored() == total)
            seconds, done = time.monotonic() - started, total - first
            used = [(_cpu_s(pid) - before) / done * 1e6 for pid, before in zip((process.pid, engine), cpu, strict=True)]
            return done / seconds, f"CPU µs a row: writer {used[0]:.2f}, engine with merges {used[1]:.2f}"
    finally:
        for path in (*shm.glob("feed-*"), *shm.glob("writer*")):
            path.unlink()


def _column(record: RecordType, rows: np.ndarray, name: str) -> Any:
    if name in ("exchange", "market_type"):
        return np.full(len(rows), {"exchange": "binance", "market_type": "spot"}[name], dtype=object)
    if name in ("symbol", "instrument"):
        return np.array([f"S{i}-USDT" for i in range(KEYS)], dtype=object)[rows["key_id"]]
    if name == "epoch":
        return np.full(len(rows), 1, "<u8")
    values = np.ascontiguousarray(rows[name])
    return values.tolist() if name.startswith("ts_") else values  # it takes times as numbers from Python integers only


def _peer(client: Any, rows: np.ndarray) -> float:
    """Rows per second of clickhouse-connect's insert of numpy columns, in batches of the writer's size."""
    names = [name for name, _, _ in TRADE.columns()]
    client.command("CREATE TABLE IF NOT EXISTS bench_0.peer AS bench_0.trades")
    size = writer.Config().batch_rows
    started = time.monotonic()
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        columns = [_column(TRADE, part, name) for name in names]
        client.insert("peer", columns, database="bench_0", column_names=names, column_oriented=True)
    return len(rows) / (time.monotonic() - started)


def run(quick: bool = False) -> list[Line]:
    """The lines of this suite."""
    n, rounds = (1 << 19, 1) if quick else (1 << 21, 2)
    shm = Path(tempfile.mkdtemp(prefix="tickring-bench-", dir="/dev/shm"))
    data = Path(tempfile.mkdtemp(prefix="tickring-bench-"))
    rows = trades(n)
    try:
        with _process("clickhouse", shm, data, port=0) as engine:
            page = shm / "clickhouse.page"
            detail = _wait("the engine", lambda: page.exists() and dict(read_page(page).detail))
            one = max(_end_to_end(shm, data, f"bench_{i}", rows, 1, engine.pid) for i in range(rounds))
            two = max(_end_to_end(shm, data, f"bench_two_{i}", rows[: n // 2], 2, engine.pid) for i in range(rounds))
            host, port = detail["url"].removeprefix("http://").split(":")
            client = clickhouse_connect.get_client(
                host=host, port=int(port), password=(data / "clickhouse" / "password").read_text().strip()
            )
            peer = _peer(client, rows[: n // 4])
            query = "SELECT count(), uniqExact(instrument, nth) FROM bench_0.trades"
            count, distinct = client.query(query).result_rows[0]
            client.close()
        if (count, distinct) != (n, n):
            raise AssertionError(f"{count} rows stored, {distinct} of them distinct, expected {n}")
    finally:
        shutil.rmtree(shm, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
    beside = f"clickhouse-connect inserting numpy columns {peer:,.0f}"
    name = "ring to ClickHouse (embedded)"
    return [
        Line(f"{name}, one ring", one[0], "rows/s", LIMIT_ROWS_PER_S, "higher", f"{one[1]}; {beside}"),
        Line(
            f"{name}, two rings",
            two[0],
            "rows/s",
            LIMIT_ROWS_PER_S,
            "higher",
            f"{two[1]}; {n:,} trades of {KEYS} symbols",
        ),
    ]


if __name__ == "__main__":
    import sys

    for line in run(quick="--quick" in sys.argv):
        print(f"{line.name}: {line.value:,.0f} {line.unit} (limit {line.limit:,.0f}, {line.verdict}); {line.detail}")
    print(f"cpus={os.cpu_count()} load={os.getloadavg()[0]:.2f}")
