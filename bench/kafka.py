"""Kafka to shared memory: one topic's actor on a real broker, beside aiokafka's own `getmany` of the same events.

    python bench/kafka.py [--quick]

The topic is full before either starts. Both read it from its beginning in a process of their own with uvloop; the time
runs from the first event to the last one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from harness import Line

from tickring.tests.desk import broker as kafka

TOPIC = "exec.reports.v1"
PARTITIONS = 4
LIMIT_EVENTS_PER_S = 150_000
LIMIT_SHARE = 0.37  # that limit beside the library's 405,000 messages a second, where it was set: for slower machines
DEADLINE_S = 180.0
NAME = "topic-exec-reports-v1"
_ORDER = {
    "order_id": "880012", "client_order_id": "dm-5521", "symbol": "SOLUSDT", "side": "BUY", "type": "LIMIT",
    "quantity": "12.5", "price": "143.20", "stop_price": None, "status": "FILLED", "filled_quantity": "12.5",
    "remaining_quantity": "0", "create_time": "2025-03-04T09:15:26.900Z", "update_time": "2025-03-04T09:15:27.400Z",
}  # fmt: skip


def reports(i: int) -> list[dict[str, Any]]:
    """One execution report of each variant, each a fill of its own, `i` in the ids."""
    price, quantity = 2251 + i % 997 / 100, 1 + i % 89 / 10
    side, moment = ("BUY", "SELL")[i % 2], f"2025-03-04T09:{i // 60_000 % 60:02}:{i // 1000 % 60:02}.{i % 1000:03}"
    fill = {
        "fill_id": f"f-{i}", "trade_id": str(99_120_031 + i), "order_id": "880012", "symbol": "SOLUSDT", "side": side,
        "quantity": f"{quantity:.1f}", "price": f"{price:.2f}", "commission": "0.7159", "commission_asset": "USDT",
        "timestamp": f"{moment}Z",
    }  # fmt: skip
    return [
        {
            "event_id": f"0f2c7d5e-6a1b-4d0c-9c57-{i:012}", "timestamp": f"{moment}Z", "strategy_id": "dipmaster",
            "account_id": f"acct-{i % 8}", "orders": [_ORDER], "fills": [fill], "total_realized_pnl": "0",
            "total_unrealized_pnl": "-0.25", "total_commission": "0.7159", "total_cost": "1790.47",
            "slippage": "-0.25", "market_impact": "0.04", "execution_time_ms": 498, "venue": "binance",
            "metadata": {"reason": "dip-entry"},
        },
        {
            "event_id": f"b8a6f0c2-1d77-4f8e-8a44-{i:012}", "timestamp": f"{moment}Z", "version": "v1",
            "source": "order-executor", "order_id": f"{880_019 + i}", "client_order_id": "dm-5527",
            "symbol": "ETHUSDT", "side": side, "order_type": "MARKET", "order_status": "FILLED", "exec_type": "TRADE",
            "exec_id": f"x-{i}", "quantity": f"{quantity:.1f}", "price": f"{price:.2f}",
            "last_qty": f"{quantity:.1f}", "last_price": f"{price:.2f}", "cum_qty": f"{quantity:.1f}",
            "avg_price": f"{price:.2f}", "commission": "0.7204", "commission_asset": "USDT", "realized_pnl": "14.62",
            "unrealized_pnl": "0", "position_qty": "0", "position_side": "LONG", "order_time": f"{moment}Z",
            "trade_time": f"{moment}Z", "strategy_id": "dipmaster", "account_id": f"acct-{i % 8}", "venue": "binance",
        },
        {
            "event_id": f"3d9a0f56-9a34-4d0e-b3fb-{i:012}", "timestamp": f"{moment}+00:00", "version": "v1",
            "source": "dipmaster-monitoring", "execution_id": f"ex-{i}", "signal_id": "sg-411", "symbol": "BTCUSDT",
            "side": side, "quantity": round(quantity / 100, 3), "price": round(price, 2), "slippage_bps": 2.0,
            "latency_ms": 60.0, "venue": "binance", "status": "FILLED", "strategy": "dipmaster",
            "order_type": "MARKET", "commission": 0.66, "commission_asset": "USDT", "topic": TOPIC,
            "key": f"BTCUSDT_ex-{i}",
            "execution_quality": {"slippage_bps": 2.0, "latency_ms": 60.0, "venue_quality_score": 99.2},
        },
        {
            "timestamp": f"{moment}+00:00", "execution_id": f"ey-{i}", "signal_id": "sg-411", "symbol": "BTCUSDT",
            "side": side, "quantity": 0.03, "price": 83122.0, "slippage_bps": 3.1, "latency_ms": 48.0,
            "venue": "binance", "status": "PARTIAL", "fill_qty": round(quantity / 100, 3), "fill_price": 83122.5,
            "fees": 0.33, "strategy": "dipmaster", "session_id": "s-20250304",
            "event_id": f"c2b0b6e1-54a5-4a1b-9d54-{i:012}", "produced_at": f"{moment}+00:00",
            "producer_id": "dipmaster-producer", "schema_version": "1.0",
        },
    ]  # fmt: skip


def _peer(bootstrap: str, n: int, results: Any) -> None:
    """aiokafka alone: assign, seek to the beginning, getmany."""
    import uvloop
    from aiokafka import AIOKafkaConsumer, TopicPartition

    async def work() -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_bytes=16 << 20)
        await consumer.start()
        partitions = [TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        seen, started, cpu = 0, 0.0, 0.0
        while seen < n:
            fetched = await consumer.getmany(timeout_ms=200, max_records=8192)
            if fetched and not started:
                started, cpu = time.monotonic(), time.process_time()
            seen += sum(map(len, fetched.values()))
        results.put((n / (time.monotonic() - started), n / (time.process_time() - cpu)))
        await consumer.stop()

    uvloop.run(work())


def _ours(bootstrap: str, shm: str, data: str) -> None:
    """The topic's actor, until SIGTERM."""
    import uvloop

    from tickring.actors import topic
    from tickring.actors.runtime import ActorContext
    from tickring.ringbuf import MetricsPage

    async def work() -> None:
        page = MetricsPage(Path(shm), NAME, time.time_ns())
        config = topic.Config(bootstrap_servers=bootstrap, topic=TOPIC, group_id="")
        ctx = ActorContext(NAME, "topic", Path(shm), Path(data), config, page)
        ctx.stop_on_signals()
        await topic.main(ctx)

    uvloop.run(work())


def _cpu_s(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _measure_ours(context: Any, bootstrap: str, n: int) -> tuple[float, float]:
    """Events per second and per CPU-second from the first published event to the last."""
    from tickring.actors import topic
    from tickring.codecs.desk.records import TEXTS
    from tickring.ringbuf import (
        StreamReader,
        bytes_filename,
        create_byte_ring,
        create_keys,
        create_stream,
        keys_filename,
    )

    shm = Path(tempfile.mkdtemp(prefix="tickring-bench-", dir="/dev/shm"))
    data = Path(tempfile.mkdtemp(prefix="tickring-bench-"))
    try:
        config = topic.Config(bootstrap_servers=bootstrap, topic=TOPIC)
        specs = topic.streams(NAME, config)
        create_keys(shm / keys_filename(NAME), specs[0].keys_max)
        create_byte_ring(shm / bytes_filename(NAME, TEXTS), topic.byte_rings(NAME, config)[TEXTS], time.time_ns())
        for spec in specs:
            create_stream(shm, spec, time.time_ns())
        events, fills = StreamReader(shm, NAME, "event"), StreamReader(shm, NAME, "fill")
        process = context.Process(target=_ours, args=(bootstrap, str(shm), str(data)), daemon=True)
        process.start()
        end = time.monotonic() + DEADLINE_S
        first = 0
        started = cpu = 0.0
        while (published := events.published()) < n:
            if time.monotonic() > end:
                raise TimeoutError(f"{published} of {n} events published within {DEADLINE_S} s")
            if published and not first:
                first, started, cpu = published, time.monotonic(), _cpu_s(process.pid)
            time.sleep(0.002)
        seconds, used = time.monotonic() - started, _cpu_s(process.pid) - cpu
        if fills.published() != n:
            raise AssertionError(f"{fills.published()} fills of {n} events")
        process.terminate()
        process.join(20)
        events.close()
        fills.close()
        return (n - first) / seconds, (n - first) / used
    finally:
        shutil.rmtree(shm, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)


def run(quick: bool = False) -> list[Line]:
    """The lines of this suite; without Java the figure is skipped."""
    name, n, rounds = "Kafka topic to ring", 200_000 if quick else 600_000, 1 if quick else 5
    context = multiprocessing.get_context("spawn")
    folder = Path(tempfile.mkdtemp(prefix="tickring-bench-broker-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            broker = kafka.Broker(folder / "broker")
        except kafka.NoBroker as error:
            return [Line(name, None, "events/s", LIMIT_EVENTS_PER_S, "higher", str(error))]
        broker.start()
        stack.callback(broker.stop)
        return [
            *_lines(context, broker, f"{name}, reports of all four variants in turn", (0, 1, 2, 3), n, rounds),
            *_lines(context, broker, f"{name}, reports of one order event each", (1, 2, 3), n, rounds),
        ]


def _lines(context: Any, broker: kafka.Broker, name: str, variants: tuple[int, ...], n: int, rounds: int) -> list[Line]:
    kafka.renew_topics(broker.bootstrap, [TOPIC], PARTITIONS)
    size = _fill(broker.bootstrap, n, variants)
    ours, peers = [], []
    for _ in range(rounds):
        results = context.Queue()
        peer = context.Process(target=_peer, args=(broker.bootstrap, n, results), daemon=True)
        peer.start()
        peers.append(results.get(timeout=DEADLINE_S))
        peer.join()
        ours.append(_measure_ours(context, broker.bootstrap, n))
    (rate, per_cpu), (peer_rate, peer_per_cpu) = max(ours), max(peers)
    detail = (
        f"{per_cpu:,.0f} per CPU-second; aiokafka getmany alone {peer_rate:,.0f}, {peer_per_cpu:,.0f} per CPU-second; "
        f"{size} bytes on average, 1 fill each, {PARTITIONS} partitions"
    )
    return [
        Line(name, rate, "events/s", LIMIT_EVENTS_PER_S, "higher", detail),
        Line(f"{name}, beside getmany alone", rate / peer_rate, "x", LIMIT_SHARE, "higher", "the best of each"),
    ]


def _fill(bootstrap: str, n: int, variants: tuple[int, ...] = (0, 1, 2, 3)) -> int:
    """Produce `n` reports; returns their mean size."""
    values = (msgspec.json.encode(reports(i)[variant]) for i in range(n) for variant in variants)
    events = [(i % PARTITIONS, None, value, None) for i, value in enumerate(itertools.islice(values, n))]
    kafka.produce(bootstrap, TOPIC, events)
    return sum(len(event[2]) for event in events) // n


if __name__ == "__main__":
    import sys

    for line in run(quick="--quick" in sys.argv):
        print(json.dumps(line.as_dict(), indent=1))
