"""Tickers, mark prices, funding, open interest and liquidations: what the exchange sent is what stands in the rings."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path

import pytest

from tickring.actors.simulator.faults import start_fault
from tickring.codecs.record import Flag

from .feeding import SYMBOLS, USDM_NAMES, exchange, feed_config, feeding, freeze, sent, until

CHANNELS = ["agg_trade", "ticker", "mark_price", "open_interest", "liquidation"]


def test_feed_of_the_market_tier_publishes_every_report_exactly(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange(start="subscribed", start_settle_s=0.1, liquidations=0.5, speed=4.0) as simulator:
            config = feed_config(simulator, "market", channels=CHANNELS, open_interest_interval_s=0.5)
            async with feeding(shm, tmp_path, config) as running:
                for record, n in (("ticker", 9), ("mark_price", 9), ("liquidation", 9), ("open_interest", 6)):
                    await until(lambda r=record, n=n: len(running.rows(r)) >= n, f"{n} of {record}")
                await freeze(simulator)
                for symbol, name in zip(SYMBOLS, USDM_NAMES, strict=True):
                    lower = symbol.lower()

                    tickers = sent(simulator, "usdm", f"{lower}@ticker")
                    await until(
                        lambda n=name, t=tickers: len(running.rows("ticker", n)) == len(t), f"tickers of {name}"
                    )
                    for row, x in zip(running.rows("ticker", name), tickers, strict=True):
                        assert [float(row[f]) for f in ("last", "open_24h", "high_24h", "low_24h", "volume_24h")] == [
                            float(x[key]) for key in "cohlv"
                        ]
                        assert float(row["change_pct"]) == float(x["P"]) and row["ts_event_ns"] == x["E"] * 10**6

                    marks = sent(simulator, "usdm", f"{lower}@markPrice@1s")
                    await until(
                        lambda n=name, t=marks: len(running.rows("mark_price", n)) == len(t), f"marks of {name}"
                    )
                    for row, x in zip(running.rows("mark_price", name), marks, strict=True):
                        assert [float(row[f]) for f in ("mark_price", "index_price", "settle_price")] == [
                            float(x[key]) for key in "piP"
                        ]
                    changes = [(float(x["r"]), x["T"]) for x in marks]
                    changes = [c for i, c in enumerate(changes) if not i or c != changes[i - 1]]
                    rows = running.rows("funding", name)
                    rows = rows[(rows["flags"] & Flag.SETTLED) == 0]
                    assert rows[["rate", "next_funding_ts"]].tolist() == changes

                    orders = [x["o"] for x in sent(simulator, "usdm", f"{lower}@forceOrder")]
                    await until(lambda n=name, t=orders: len(running.rows("liquidation", n)) == len(t), "liquidations")
                    for row, x in zip(running.rows("liquidation", name), orders, strict=True):
                        assert [float(row[f]) for f in ("price", "quantity", "filled_quantity", "average_price")] == [
                            float(x[key]) for key in ("p", "q", "z", "ap")
                        ]
                        assert bool(row["flags"] & Flag.SELL) is (x["S"] == "SELL") and row["status"] == 0

                    interest = running.rows("open_interest", name)[-1]
                    assert interest["open_interest"] > 0 and interest["mark_price"] > 0
                    product = float(interest["open_interest"]) * float(interest["mark_price"])
                    assert abs(float(interest["usd_value"]) - product) <= 1e-9 * product
                assert running.counter("rejected", reason="inconsistent") == 0
                assert running.feed.sink.unexpected == 0

    asyncio.run(scenario())


def test_open_interest_that_is_refused_is_counted_and_asked_for_again(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange() as simulator:
            config = feed_config(simulator, "market", channels=CHANNELS, open_interest_interval_s=0.2)
            async with feeding(shm, tmp_path, config) as running:
                await until(lambda: len(running.rows("open_interest")) >= 3, "open interest of all symbols")
                start_fault(simulator, {"fault": "rest_status", "product": "usdm", "status": 500, "count": 3})
                await until(lambda: running.counter("open_interest_failed") >= 1, "a failure")
                n = len(running.rows("open_interest"))
                await until(lambda: len(running.rows("open_interest")) >= n + 3, "the next answers")

    asyncio.run(scenario())


@pytest.mark.parametrize(("tier", "trades", "suffix"), [("spot", "trade", ""), ("market", "agg_trade", "-PERP")])
def test_changed_tick_size_is_picked_up_while_the_feed_runs(
    shm: Path, tmp_path: Path, tier: str, trades: str, suffix: str
) -> None:
    async def scenario() -> None:
        product = "spot" if tier == "spot" else "usdm"
        async with exchange() as simulator:
            config = feed_config(
                simulator, tier, channels=[trades, "kline"], instruments_refresh_s=0.2, kline_preload=0,
                kline_rollups=["5m"],
            )  # fmt: skip
            async with feeding(shm, tmp_path, config) as running:
                await until(lambda: len(running.rows("trade")) > 5, "trades")
                before = running.reader("trade").keys[running.key(f"BTC-USDT{suffix}")]
                rows = simulator.source.exchange_info(product)
                changed = copy.deepcopy(rows)
                for row in changed:
                    if row["symbol"] == "BTCUSDT":
                        row["filters"] = [
                            {**each, "tickSize": "0.00001"} if each["filterType"] == "PRICE_FILTER" else each
                            for each in row["filters"]
                        ]
                simulator.source.exchange_info = lambda product: changed  # type: ignore[method-assign]
                await until(lambda: running.counter("instruments_changed") == 1, "the change is seen")
                assert before["price_precision"] != 5
                for name in (f"BTC-USDT{suffix}", f"BTC-USDT{suffix}.1m", f"BTC-USDT{suffix}.5m"):
                    keys = running.reader("trade").keys
                    keys.refresh()
                    key = keys[running.key(name)]
                    assert (key["tick"], key["price_precision"]) == ("0.00001", 5)
                assert key["interval"] == "5m"
                await asyncio.sleep(0.5)
                assert running.counter("instruments_changed") == 1

    asyncio.run(scenario())
