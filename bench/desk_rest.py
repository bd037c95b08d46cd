"""REST of the desk, with 10^6 fills in history: what memory holds at 1,000 requests a second, and pages of history.

One front worker; fills, positions, PnL and statements of risk arrive all the while. Reads of memory are sent on a
timetable, as in `rest_endpoints`. What a request costs the worker is measured by itself, one kind after the other and
one request at a time, so that it does not depend on how busy the machine is; what arrives meanwhile is in it.

``python bench/desk_rest.py [--quick] [--fills N]``
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from harness import Line
from rest import Child, pin
from rest_endpoints import Keeping, Timing, engine, on_timetable, request, serve, timing

from tickring.codecs.desk.canonical import Fill, Risk
from tickring.codecs.desk.money import UNIT
from tickring.codecs.desk.records import PNL
from tickring.ringbuf import prepare_folder
from tickring.storage.client import Client, Server
from tickring.storage.deskschema import ensure_desk
from tickring.storage.schema import SchemaOptions, qualified, qualified_table
from tickring.tests.desk.desk_rig import Portfolio, Topic

PER_SECOND = 1000  # requests
LIMIT_MS = 5.0
FILLS, STATEMENTS = 20_000, 10_000  # in memory at the start
FILLS_PER_S, STATEMENTS_PER_S = 300, 5  # arriving; each fill moves a position and its PnL
SPAN_S = 60  # that the fills in memory took to arrive
SECOND, HOUR = 10**9, 3600 * 10**9
ACCOUNTS = ("default", "acct-1", "acct-2", "acct-3")
SYMBOLS = tuple(f"C{i:02}USDT" for i in range(20))
STRATEGIES = ("dipmaster", "carry")

MEMORY = {
    "v1 pnl": "/api/v1/pnl",
    "v1 pnl/summary": "/api/v1/pnl/summary",
    "v1 positions": "/api/v1/positions",
    "v1 positions/exposure": "/api/v1/positions/exposure",
    "v1 fills": "/api/v1/fills",
    "v1 fills of a symbol": "/api/v1/fills?symbol={}",
    "v1 risk": "/api/v1/risk",
    "v1 risk/current": "/api/v1/risk/current",
    "legacy pnl": "/api/pnl",
    "legacy positions": "/api/positions",
    "legacy fills": "/api/fills",
    "legacy risk": "/api/risk",
}
HISTORY = {
    "fills, page 500 of 100": "/api/v1/fills?page=500&page_size=100",
    "fills of an hour": "/api/v1/fills?page_size=1000&start_time={start}&end_time={end}",
    "fills, sums of an hour": "/api/v1/fills/summary?start_time={start}&end_time={end}",
}


# -- memory -------------------------------------------------------------------------------------------------------


def fill_of(n: int, account: str, symbol: str, ts_ns: int) -> Fill:
    return Fill(
        fill_id=f"f-{n:012}", trade_id=f"{99_120_031 + n}", order_id=f"{880_012 + n // 2}", symbol=symbol,
        side=("BUY", "SELL")[n % 2], quantity=UNIT + n % 89 * 1_000_000, price=143 * UNIT + n % 997 * 1_000_000,
        commission=71_590_000, commission_asset="USDT", timestamp=ts_ns, strategy_id=STRATEGIES[n % 2],
        account_id=account, venue="binance", slippage_bps=n % 7 / 2,
    )  # fmt: skip


def risk_of(n: int, account: str, ts_ns: int) -> Risk:
    return Risk(
        event_id=f"r-{n}", timestamp=ts_ns, variant="api", strategy_id=STRATEGIES[n % 2], account_id=account,
        max_drawdown=0.018, daily_pnl=(n % 50 - 20) * UNIT, risk_score=float(n % 70), total_exposure=2100 * UNIT,
        var_1d=41 * UNIT, var_5d=92 * UNIT, sharpe_ratio=1.4, max_positions=3, current_positions=2,
    )  # fmt: skip


class Producers:
    """The topics of execution reports and risk, and the portfolio."""

    def __init__(self, folder: Path) -> None:
        size, texts = {"capacity": 1 << 15}, 1 << 25
        self.fills = Topic(folder, "exec.reports.v1", texts_bytes=texts, **size)
        self.risk = Topic(folder, "risk.metrics.v1", texts_bytes=texts, **size)
        self.fills.offset = 10**9  # behind everything that is stored
        self.portfolio = Portfolio(folder, keys_max=1024, **size)
        self.n = self.stated = 0

    def start(self) -> None:
        """A past of fills and of statements."""
        now = time.time_ns()
        for account in ACCOUNTS:
            for symbol in SYMBOLS:
                for strategy in STRATEGIES:
                    self.hold(account, strategy, symbol)
        for n in range(FILLS):
            self.fill(now - SPAN_S * SECOND + n * SPAN_S * SECOND // FILLS)
        for n in range(STATEMENTS):  # of more than the day that is asked for
            self.state(now - 26 * HOUR + n * 26 * HOUR // STATEMENTS)

    def fill(self, recv_ns: int) -> str:
        self.n += 1
        account = ACCOUNTS[0] if self.n % 2 else random.choice(ACCOUNTS)
        fill = fill_of(self.n, account, random.choice(SYMBOLS), recv_ns - 5_000_000)
        self.fills.fill(fill, recv_ns=recv_ns)
        return account

    def state(self, recv_ns: int) -> None:
        self.stated += 1
        account = ACCOUNTS[0] if self.stated % 2 else random.choice(ACCOUNTS)
        self.risk.say(risk_of(self.stated, account, recv_ns - 5_000_000), account, recv_ns=recv_ns)

    def hold(self, account: str, strategy: str, symbol: str) -> None:
        """A position, and the PnL that changes with it."""
        quantity = random.randrange(1, 10**10) * random.choice((1, -1))
        value, gain = 143 * quantity, random.randrange(-(10**10), 10**10)
        self.portfolio.position(
            account, strategy, "binance", symbol, quantity=quantity, cost=value - gain, avg_price=143 * UNIT,
            mark_price=143 * UNIT, market_value=value, unrealized_pnl=gain, realized_pnl=5 * UNIT, fees=UNIT,
        )  # fmt: skip
        for groups in ((strategy, symbol), (strategy, "ALL"), ("ALL", symbol), ("ALL", "ALL")):
            self.portfolio.pnl(
                account, *groups, realized_pnl=5 * UNIT, unrealized_pnl=gain, total_pnl=5 * UNIT + gain, fees=UNIT,
                volume=abs(value), exposure=abs(value), fill_count=self.n, winning_trips=7, losing_trips=3,
                gross_profit=9 * UNIT, gross_loss=4 * UNIT, max_drawdown=0.02, sharpe_ratio=1.2, positions=40,
            )  # fmt: skip

    def arrive(self, ready: Connection) -> None:
        """Until told to stop."""
        started, fills, stated = time.monotonic(), 0, 0
        while not ready.poll(0.002):
            passed = time.monotonic() - started
            while fills < passed * FILLS_PER_S:
                account = self.fill(time.time_ns())
                self.hold(account, random.choice(STRATEGIES), random.choice(SYMBOLS))
                fills += 1
            while stated < passed * STATEMENTS_PER_S:
                self.state(time.time_ns())
                stated += 1


def produce(folder: str, cpu: int | None, ready: Connection) -> None:
    pin(cpu)
    producers = Producers(Path(folder))
    producers.start()
    ready.send("ready")
    producers.arrive(ready)


# -- history ------------------------------------------------------------------------------------------------------


async def fill_history(server: Server, fills: int) -> None:
    """Rows made by ClickHouse itself: a day of fills, and the curve of the day before now by the minute."""
    client = Client(server)
    await ensure_desk(client, SchemaOptions(database=server.database))
    last = time.time_ns() - (SPAN_S + 1) * SECOND  # before all that memory holds
    step = 23 * HOUR // fills
    accounts, symbols = list(ACCOUNTS), list(SYMBOLS)
    await client.command(
        f"INSERT INTO {qualified(server.database, 'fills')} (topic, partition, offset, item, variant, flags, "
        "ts_event_ns, ts_recv_ns, fill_id, trade_id, order_id, symbol, side, quantity, price, commission, "
        "commission_asset, timestamp, strategy_id, account_id, venue, slippage_bps) "
        "SELECT 'exec.reports.v1', 0, number, 0, 'api', 0, at - toIntervalMillisecond(5), at, "
        "format('h-{}', toString(number)), toString(number), toString(intDiv(number, 2)), "
        f"{symbols}[1 + rand(1) % {len(symbols)}], if(number % 2, 'SELL', 'BUY'), 1 + (number % 89) / 100, "
        "143 + (number % 997) / 100, 0.7159, 'USDT', at, 'dipmaster', "
        f"if(number % 2, 'default', {accounts}[1 + rand(2) % {len(accounts)}]), 'binance', (number % 7) / 2 FROM "
        f"(SELECT number, fromUnixTimestamp64Nano(toInt64({last} - ({fills} - number) * {step}), 'UTC') AS at "
        f"FROM numbers({fills})) SETTINGS async_insert = 0",
        300.0,
    )
    minutes, first = 26 * 60, last - 26 * HOUR
    for account in ACCOUNTS:
        await client.command(
            f"INSERT INTO {qualified_table(server.database, PNL)} (account_id, strategy_id, symbol, epoch, nth, "
            "ts_recv_ns, ts_event_ns, flags, realized_pnl, unrealized_pnl, total_pnl, fees, volume, fill_count) "
            f"SELECT '{account}', 'ALL', 'ALL', 1, number, at, at, 0, number / 10, 3.5, number / 10 + 3.5, 1, 1000, "
            f"number FROM (SELECT number, fromUnixTimestamp64Nano(toInt64({first} + number * {60 * SECOND}), 'UTC') "
            f"AS at FROM numbers({minutes})) SETTINGS async_insert = 0",
            60.0,
        )
    found = await client.rows(f"SELECT count() FROM {qualified(server.database, 'fills')}")
    assert int(found[0][0]) == fills, f"{found} fills are stored instead of {fills}"
    await client.close()


def pages(port: int, count: int) -> dict[str, Timing]:
    """Questions that go to history, one after the other."""
    connection, found = Keeping(port), {}
    for name, template in HISTORY.items():
        times, size = [], 0
        for i in range(count + 1):
            end = time.time_ns() // 10**6 - random.randrange(3_600_000, 18 * 3_600_000)
            at = time.perf_counter()
            size = len(connection.get(template.format(start=end - 3_600_000, end=end)))
            if i:  # the first one opens connections behind
                times.append((time.perf_counter() - at) * 1000)
        found[name] = timing(name, times, size)
    return found


# -- load ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        cpu_us: of the worker for one request of each kind.
    """

    memory: dict[str, Timing]
    history: dict[str, Timing]
    cpu_us: dict[str, float]


def costs(front: Child, requests: dict[str, list[bytes]], count: int) -> dict[str, float]:
    """CPU time of the worker for one request of each kind, microseconds, one request at a time."""
    connection, found = Keeping(front.said), {}

    for name, texts in requests.items():
        before = front.cpu_s()
        for _ in range(count):
            connection.ask(random.choice(texts))
        found[name] = (front.cpu_s() - before) / count * 1e6
    return found


def measure(*, seconds: float, fills: int, count: int) -> Result:
    cpus = sorted(os.sched_getaffinity(0))
    server_cpu, load_cpu = (cpus[0], cpus[1]) if len(cpus) > 1 else (None, None)
    affinity = os.sched_getaffinity(0)
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="tickring-bench-", dir=base))
    data = Path(tempfile.mkdtemp(prefix="tickring-"))
    prepare_folder(folder)
    children: list[Child] = []
    try:
        children.append(database := Child(engine, str(folder), str(data)))
        server = {"url": database.said["url"], "password_file": str(data / "clickhouse" / "password")}
        asyncio.run(fill_history(Server(**server, timeout_s=300.0), fills))
        children.append(Child(produce, str(folder), load_cpu))
        settings = {"port": 0, "history": True, "clickhouse": Server(**server)}
        children.append(front := Child(serve, str(folder), str(data), settings, server_cpu))
        time.sleep(2.5)  # the probe has found ClickHouse
        pin(load_cpu)
        requests = {name: [request(path.format(one)) for one in SYMBOLS] for name, path in MEMORY.items()}
        connection = Keeping(front.said)
        for text in {text for texts in requests.values() for text in texts}:  # ClickHouse has been asked once
            connection.ask(text)
        on_timetable(front.said, requests, 1.0, 200)
        memory = on_timetable(front.said, requests, seconds, PER_SECOND)
        cpu_us = costs(front, requests, count)
        history = pages(front.said, count // 10)
    finally:
        os.sched_setaffinity(0, affinity)
        for child in reversed(children):
            child.stop()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
    return Result(memory, history, cpu_us)


def lines(result: Result, fills: int) -> list[Line]:
    held = f"{PER_SECOND} req/s of all kinds on one worker, {FILLS_PER_S} fills/s arriving, {fills:,} stored"
    return [
        *(
            Line(f"desk REST p99, memory: {name}", one.p99_ms, "ms", LIMIT_MS, "lower",
                 f"p50 {one.p50_ms:.2f} ms, {result.cpu_us[name]:.0f} us of CPU, {one.bytes_each:,} bytes; {held}")
            for name, one in result.memory.items()
        ),
        *(
            Line(f"desk REST p99, history: {name}", one.p99_ms, "ms", None, "lower",
                 f"p50 {one.p50_ms:.1f} ms, {one.bytes_each:,} bytes; {fills:,} fills stored")
            for name, one in result.history.items()
        ),
    ]  # fmt: skip


def run(quick: bool = False) -> list[Line]:
    """The lines of the table."""
    fills = 10**6
    return lines(measure(seconds=6 if quick else 40, fills=fills, count=200 if quick else 1000), fills)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="shorter")
    parser.add_argument("--fills", type=int, default=10**6)
    options = parser.parse_args()
    quick = options.quick
    result = measure(seconds=6 if quick else 40, fills=options.fills, count=200 if quick else 1000)
    print(f"\n{'memory':28} requests     p50 ms     p99 ms     CPU us      bytes")
    for name, one in result.memory.items():
        cpu = result.cpu_us[name]
        print(f"{name:28} {one.requests:8} {one.p50_ms:10.2f} {one.p99_ms:10.2f} {cpu:10.0f} {one.bytes_each:10,}")
    print(f"mean CPU: {sum(result.cpu_us.values()) / len(result.cpu_us):.0f} us; load {os.getloadavg()[0]:.1f}")
    for name, one in result.history.items():
        print(f"{name:28} {one.requests:8} {one.p50_ms:10.2f} {one.p99_ms:10.2f} {one.bytes_each:10,}")


if __name__ == "__main__":
    main()
