"""The channels beside trades, quotes and books: bars, tickers, mark prices, funding, open interest, liquidations."""

from __future__ import annotations

import asyncio
import time

import pytest

from .ws_harness import client, desk, narrow_socket

KLINE = "kline.binance.perpetual.BTC-USDT.1m"
PERPETUAL = {"market_type": "perpetual"}
VALUES = {  # channel -> record, values, what the client reads of them
    "ticker": (
        "ticker", (100.5, 99.0, 101.0, 98.0, 12.0, 1200.0, 1.515, 100.4, 100.6, 42),
        {"last": "100.50", "volume_24h": "12.00000", "change_pct": "1.515", "trade_count_24h": 42},
    ),
    "mark_price": ("mark_price", (100.5, 100.25, 0.0), {"mark_price": "100.50", "index_price": "100.25"}),
    "funding": (
        "funding", (0.0001, 0.0, 1_790_000_000_000, 8, 100.5, 0.0),
        {"rate": "0.0001", "next_funding_ts": 1_790_000_000_000, "funding_interval_h": 8, "is_settlement": False},
    ),
    "open_interest": ("open_interest", (1234.5, 0.0, 0.0), {"open_interest": "1234.50000", "unit": "coins"}),
    "liquidation": (
        "liquidation", (0, 99.5, 2.0, 1.0, 99.4, 99.4, 1),
        {"price": "99.50", "quantity": "2.00000", "status": "partially_filled", "side": "buy"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
def test_channel_shows_its_last_value_and_each_record_after_it(shm, kind):
    record, values, shown = VALUES[kind]
    name = f"{kind}.binance.perpetual.BTC-USDT"

    async def run(d):
        d.producer.publish(record, 0, *values)
        async with client(d.front) as c, client(d.front, "/ws/market?encoding=msgpack") as packed:
            for one in (c, packed):
                await one.subscribe({"channel": name, "conflate": False})
                assert one.seqs[name] == 1
                if kind != "liquidation":
                    snapshot = await one.until("snapshot")
                    assert snapshot["seq"] == 1 and shown.items() <= snapshot["data"].items()
            d.producer.publish(record, 0, *values)
            for one in (c, packed):
                await one.until_seq(name, 2)
                assert shown.items() <= one.records[name][2].items()
            again = await c.ask(op="snapshot", channel=name)
            assert again["data"] == [] if kind == "liquidation" else again["data"]["seq"] == 2

    with desk(shm, producer=PERPETUAL) as d:
        asyncio.run(run(d))


def test_ticker_goes_out_once_a_second_with_the_newest_value(shm):
    async def run(d):
        values = VALUES["ticker"][1]
        name = "ticker.binance.perpetual.BTC-USDT"
        async with client(d.front) as c:
            await c.subscribe(name)
            await c.until("snapshot")
            since = time.monotonic()
            for number in range(100):
                d.producer.publish("ticker", 0, 100.0 + number, *values[1:])
                await asyncio.sleep(0.002)
            await c.until_seq(name, 100)
            assert c.records[name][100]["last"] == "199.00"
            assert len(c.records[name]) <= time.monotonic() - since + 2

    with desk(shm, producer=PERPETUAL) as d:
        asyncio.run(run(d))


def test_bars_show_the_last_two_and_bring_every_closed_one(shm):
    async def run(d):
        p = d.producer
        key_id = p.bars("BTC-USDT")
        for minute in range(10):
            p.bar(key_id, minute, 100.0 + minute)
            p.bar(key_id, minute, 100.5 + minute, closed=True)
        p.bar(key_id, 10, 111.0)
        async with client(d.front) as c, client(d.front) as closed_only, client(d.front) as all_changes:
            await c.subscribe(KLINE)
            await closed_only.subscribe({"channel": KLINE, "filters": {"closed": True}})
            await all_changes.subscribe({"channel": KLINE, "conflate": False})
            snapshot = await c.until("snapshot")
            for one in (closed_only, all_changes):
                await one.until("snapshot")  # what is published before it would be in it
            assert [one["open_ts"] for one in snapshot["data"]] == [540_000, 600_000]
            before, now = snapshot["data"]
            assert before["closed"] is True and before["close"] == "109.50" and "seq" not in before
            assert now["closed"] is False and now["interval"] == "1m" and now["seq"] == snapshot["seq"] == 21
            c.loose = closed_only.loose = frozenset((KLINE,))
            for minute in range(10, 40):
                for change in range(5):
                    p.bar(key_id, minute, 100.0 + change)
                p.bar(key_id, minute, 105.0, closed=True)
                await asyncio.sleep(0.005)
            last = 21 + 30 * 6
            for one in (c, closed_only, all_changes):
                await one.until_seq(KLINE, last)
                bars = [record for record in one.records[KLINE].values() if record["closed"]]
                assert [bar["open_ts"] // 60_000 for bar in bars] == list(range(10, 40))
            assert len(all_changes.records[KLINE]) == last - 21  # each number once: the client checks that
            assert len(closed_only.records[KLINE]) == 30
            assert len(c.records[KLINE]) < last - 21
        async with client(d.front) as c:
            reply = await c.subscribe({"channel": KLINE, "from_seq": last - 50, "epoch": all_changes.epochs[KLINE]})
            assert reply["channels"][0]["resumed"] is True
            await c.until_seq(KLINE, last)

    with desk(shm, producer=PERPETUAL) as d:
        asyncio.run(run(d))


def test_bars_between_two_show_the_last_two_closed_ones_and_corrections(shm):
    async def run(d):
        p = d.producer
        key_id = p.bars("BTC-USDT")
        for minute in range(3):
            p.bar(key_id, minute, 100.0 + minute, closed=True)
        p.publish("kline", key_id, 60_000, 119_999, 1.0, 2.0, 0.5, 1.5, 5.0, 5.0, 7, 2.0, 2.0, flags=1 << 11)
        async with client(d.front) as c:
            await c.subscribe(KLINE)
            snapshot = await c.until("snapshot")
            assert [(one["open_ts"], one["close"]) for one in snapshot["data"]] == [
                (60_000, "1.50"),
                (120_000, "102.00"),
            ]

    with desk(shm, producer=PERPETUAL) as d:
        asyncio.run(run(d))


def test_bars_of_a_pattern_are_those_of_its_interval(shm):
    async def run(d):
        p = d.producer
        for symbol in ("BTC-USDT", "ETH-USDT"):
            for interval in ("1m", "1h"):
                p.bars(symbol, interval)
        async with client(d.front) as c:
            reply = await c.subscribe({"channel": "kline", "exchange": "*", "market_type": "*", "interval": "1h"})
            assert [row["channel"] for row in reply["channels"]] == [
                "kline.binance.perpetual.BTC-USDT.1h", "kline.binance.perpetual.ETH-USDT.1h",
            ]  # fmt: skip
            reply = await c.subscribe("trades.*.*.*")  # the keys of bars are not instruments
            assert len(reply["channels"]) == len(p.symbols)
            assert (await c.subscribe("kline.binance.perpetual.BTC-USDT"))["errors"][0]["code"] == "INVALID_PARAMETER"
            p.bars("SOL-USDT", "1h")
            again = await c.until("subscribed")
            assert [row["channel"] for row in again["channels"]] == ["kline.binance.perpetual.SOL-USDT.1h"]

    with desk(shm, producer=PERPETUAL) as d:
        asyncio.run(run(d))


def test_slow_reader_of_bars_gets_the_newest_open_one_and_every_closed_one(shm):
    async def run(d):
        p = d.producer
        key_id = p.bars("BTC-USDT")
        async with client(d.front, sock=narrow_socket(d.front), max_queue=1) as slow, client(d.front) as fast:
            for c in (slow, fast):
                c.loose = frozenset((KLINE,))
                await c.subscribe({"channel": KLINE, "snapshot": False, "conflate": False})
            minute = 0
            while not d.front.metric("tickring_ws_dropped_frames_total", delivery="conflating"):
                p.bar(key_id, minute, 105.0, closed=True)
                for change in range(40):
                    p.bar(key_id, minute + 1, 100.0 + change)
                minute += 1
                await fast.until_seq(KLINE, p.writers["kline_open"].counts[key_id])  # nobody waits for the slow one
            p.bar(key_id, minute, 105.0, closed=True)
            await slow.until_seq(KLINE, p.writers["kline_open"].counts[key_id])
            bars = [record["open_ts"] // 60_000 for record in slow.records[KLINE].values() if record["closed"]]
            assert not slow.gaps
            assert bars == list(range(minute + 1))

    with desk(shm, producer=PERPETUAL, queue_frames_max=400, unsent_bytes_max=4096) as d:
        asyncio.run(run(d))


def test_liquidation_of_a_lapped_key_is_named_by_a_gap(shm):
    async def run(d):
        p, name = d.producer, "liquidation.binance.perpetual.BTC-USDT"
        values = VALUES["liquidation"][1]
        for _ in range(20):
            p.publish("liquidation", 0, *values)
        async with client(d.front) as c:
            await c.subscribe(name)
            epoch = c.epochs[name]
        async with client(d.front) as c:
            reply = await c.subscribe({"channel": name, "from_seq": 5, "epoch": epoch})
            assert reply["channels"][0]["resumed"] is True
            await c.until_seq(name, 20)
            assert sorted(c.records[name]) == list(range(6, 21))
        async with client(d.front) as c:
            await c.subscribe({"channel": name, "from_seq": 5, "epoch": "another"})
            assert (await c.until("gap"))["reason"] == "epoch_changed"
            p.publish("liquidation", 0, *values)
            assert (await c.until("update"))["seq"] == 21  # and no snapshot before it

    with desk(shm, producer=PERPETUAL) as d:
        asyncio.run(run(d))
