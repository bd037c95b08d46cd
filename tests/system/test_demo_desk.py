"""The demo's desk: a strategy trades on the simulated market, and everything from the broker to REST follows it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from tickring.actors.recent import topic_actor
from tickring.codecs.desk.records import EVENT
from tickring.ringbuf import StreamReader, read_page

from ..desk.messages import TrueFill
from ..desk.portfolio_oracle import fold_all, rounded, units
from .tree import Demo, until

confluent_kafka = pytest.importorskip("confluent_kafka", reason="pip install 'tickring[demo]'")
pytest.importorskip("aiokafka", reason="pip install 'tickring[demo]'")

TOPIC = "exec.reports.v1"
CHANGES = 3


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def fills_of(body: dict[str, Any]) -> Iterator[TrueFill]:
    """What a report says was executed, read as its producer wrote it; nothing of ours is used."""
    d = Decimal
    if "producer_id" in body:
        yield TrueFill(
            "default", body["strategy"], body["venue"], body["execution_id"], "", body["symbol"], body["side"],
            d(str(body["fill_qty"])), d(str(body["fill_price"])), d(str(body["fees"])), "USDT", ms(body["timestamp"]),
        )  # fmt: skip
    elif "exec_type" in body:
        if body["exec_type"] == "TRADE":
            yield TrueFill(
                body["account_id"], body["strategy_id"], body["venue"], body["exec_id"], "", body["symbol"],
                body["side"], d(body["last_qty"]), d(body["last_price"]), d(body["commission"]),
                body["commission_asset"], ms(body["trade_time"]),
            )  # fmt: skip
    else:
        for one in body["fills"]:
            yield TrueFill(
                body["account_id"], body["strategy_id"], body["venue"], one["fill_id"], "", one["symbol"], one["side"],
                d(one["quantity"]), d(one["price"]), d(one["commission"]), one["commission_asset"],
                ms(one["timestamp"]),
            )  # fmt: skip


def produced(demo: Demo) -> list[TrueFill]:
    """The fills in the broker's log, each once, in the order in which they happened."""
    address = read_page(demo.folder / "broker.page").detail["bootstrap_servers"]
    consumer = confluent_kafka.Consumer({"bootstrap.servers": address, "group.id": "test"})
    found: dict[str, TrueFill] = {}
    try:
        for partition in range(4):
            place = confluent_kafka.TopicPartition(TOPIC, partition, 0)
            _, end = consumer.get_watermark_offsets(place, timeout=30)
            consumer.assign([place])
            while place.offset < end:
                message = consumer.poll(30)
                assert message is not None and not message.error(), message and message.error()
                place.offset = message.offset() + 1
                found |= {fill.fill_id: fill for fill in fills_of(json.loads(message.value()))}
    finally:
        consumer.close()
    return sorted(found.values(), key=lambda fill: (fill.time_ms, fill.venue, fill.fill_id))


def places(demo: Demo) -> list[tuple[int, int]]:
    """Partition and offset of every event that was read, in the order of the ring."""
    reader = StreamReader(demo.folder, topic_actor(TOPIC), EVENT.name, EVENT.dtype, EVENT.fingerprint)
    try:
        rows, _, _ = reader.read(reader.oldest(), reader.capacity)
        return list(zip(rows["partition"].tolist(), rows["offset"].tolist(), strict=True))
    finally:
        reader.close()


def positions(demo: Demo) -> list[dict[str, Any]]:
    return demo.get("/api/v1/positions?decimals=string").data


def summary(demo: Demo, path: str = "/api/v1/pnl/realtime") -> dict[str, Any]:
    return demo.get(f"{path}?decimals=string").data


def test_demo_desk_moves_with_the_market_and_equals_an_independent_fold(demo: Demo) -> None:
    assert {"broker", "strategy", "portfolio", "alerts"} <= {actor["kind"] for actor in demo.status()["actors"]}
    until("positions", lambda: positions(demo))
    seen: set[str] = set()
    until("PnL that changes", lambda: seen.add(summary(demo)["total_unrealized_pnl"]) or len(seen) > CHANGES)
    until("positions in all symbols", lambda: len(positions(demo)) == 3)
    until("some fills", lambda: summary(demo)["trade_count"] >= 10)
    until("an alert", lambda: demo.get("/api/v1/alerts/active").data)

    def at_rest() -> Any:
        fills, before = produced(demo), summary(demo)
        served, now = positions(demo), summary(demo)
        counts = {before["trade_count"], now["trade_count"], len(fills), len(produced(demo))}
        return (fills, served, now) if len(counts) == 1 else None

    # So that nothing comes between two looks; the supervisor would start one anew that stands still.
    pids = [until("a strategy", lambda: demo.actor("strategy")["pid"]), demo.process.pid]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        fills, served, now = until("all fills folded", at_rest)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    oracle = {symbol: one for (_, _, _, symbol), one in fold_all(fills).items()}
    shown = {one["symbol"]: one for one in served}
    for symbol, one in oracle.items():
        got = shown.get(symbol)
        assert bool(got) == bool(one.quantity), symbol
        if got:
            assert units(Decimal(got["quantity"])) == rounded(one.quantity), symbol
            assert abs(units(Decimal(got["avg_price"])) - rounded(abs(one.average))) <= 1, symbol
            assert abs(units(Decimal(got["realized_pnl"])) - rounded(one.realized)) <= 1, symbol
    realized, fees = (sum(getattr(one, name) for one in oracle.values()) for name in ("realized", "fees"))
    assert abs(units(Decimal(now["total_realized_pnl"])) - rounded(realized)) <= len(oracle)
    assert {fill.commission_asset for fill in fills} == {"USDT"}, "BNB is not among three coins"
    assert units(Decimal(now["total_commission"])) == rounded(fees)


def test_demo_desk_goes_on_after_its_broker_was_killed_and_leaves_nothing(demo: Demo) -> None:
    until("fills", lambda: summary(demo)["trade_count"] >= 3)
    ends = len(places(demo))
    pid = demo.signal("broker", signal.SIGKILL)
    demo.back("broker", pid)
    before = summary(demo)["trade_count"]
    until("fills through the new broker", lambda: summary(demo)["trade_count"] >= before + 3)
    assert "goes on at offset" in demo.logged(2000)
    assert demo.metric("tickring_kafka_stuck") == 0
    found = places(demo)
    assert len(found) > ends and len(found) == len(set(found)), "an offset stands for one event"
    for partition in {partition for partition, _ in found}:
        offsets = [offset for of, offset in found if of == partition]
        assert offsets == list(range(len(offsets))), f"partition {partition}"
    assert demo.stop(signal.SIGINT) == 0
    assert demo.left_behind() == []
