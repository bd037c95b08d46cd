"""What the exchange sent is what stands in the rings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tickring.codecs.record import Flag

from .feeding import (
    SPOT_NAMES,
    SYMBOLS,
    USDM_NAMES,
    exchange,
    exchange_book,
    feed_config,
    feeding,
    freeze,
    row_book,
    sent,
    until,
)


def trade_tuple(message: dict, *, aggregated: bool) -> tuple:
    number = message["a" if aggregated else "t"]
    first, last = (message["f"], message["l"]) if aggregated else (0, 0)
    return number, float(message["p"]), float(message["q"]), first, last, message["T"] * 10**6, message["m"]


def row_tuples(rows: np.ndarray) -> list[tuple]:
    return [
        (
            int(row["trade_id"]), float(row["price"]), float(row["quantity"]), int(row["first_trade_id"]),
            int(row["last_trade_id"]), int(row["ts_event_ns"]), bool(row["flags"] & Flag.SELL),
        )
        for row in rows
    ]  # fmt: skip


def test_feed_of_spot_publishes_every_trade_quote_and_level_exactly(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            exchange(start="subscribed", start_settle_s=0.1) as simulator,
            feeding(shm, tmp_path, feed_config(simulator)) as running,
        ):
            await until(running.synced, "all books in sync")
            await until(lambda: len(running.rows("trade")) > 300, "300 trades")
            await freeze(simulator)
            for symbol, name in zip(SYMBOLS, SPOT_NAMES, strict=True):
                lower = symbol.lower()
                trades = [trade_tuple(m, aggregated=False) for m in sent(simulator, "spot", f"{lower}@trade")]
                await until(lambda: len(running.rows("trade", name)) == len(trades), f"trades of {name}")  # noqa: B023
                assert row_tuples(running.rows("trade", name)) == trades
                assert running.rows("trade", name)["nth"].tolist() == list(range(len(trades)))

                quotes = [
                    tuple(float(m[field]) for field in "bBaA") for m in sent(simulator, "spot", f"{lower}@bookTicker")
                ]
                await until(lambda: len(running.rows("quote", name)) == len(quotes), f"quotes of {name}")  # noqa: B023
                rows = running.rows("quote", name)
                assert rows[["bid", "bid_qty", "ask", "ask_qty"]].tolist() == quotes

                book = exchange_book(simulator, "spot", symbol, 20)
                await until(lambda: int(running.top(name)["update_id"]) == book["id"], f"book of {name}")  # noqa: B023
                assert row_book(running.top(name)) == book
                deep = exchange_book(simulator, "spot", symbol, 400)
                depth = running.reader("book_depth")
                await until(
                    lambda: int(depth.latest(running.key(name))["update_id"]) == deep["id"],  # noqa: B023
                    f"depth of {name} is written last when the market stands still",
                )
                assert row_book(depth.latest(running.key(name))) == deep
                assert running.counter("gaps", kind="trade") == running.counter("gaps", kind="book") == 0

    asyncio.run(scenario())


def test_feed_levels_rebuild_the_book_by_themselves(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange() as simulator, feeding(shm, tmp_path, feed_config(simulator, "public")) as running:
            await until(running.synced, "all books in sync")
            await until(lambda: len(running.rows("book_level")) > 1000, "1,000 levels")
            await freeze(simulator)
            for symbol, name in zip(SYMBOLS, USDM_NAMES, strict=True):
                book = exchange_book(simulator, "usdm", symbol, 1000)
                await until(lambda: int(running.top(name)["update_id"]) == book["id"], f"book of {name}")  # noqa: B023
                rows = running.rows("book_level", name)
                top = running.top(name)
                assert int(top["level_count"]) == len(rows)
                sides: tuple[dict, dict] = ({}, {})
                fresh = True
                for row in rows:
                    if row["flags"] & Flag.SNAPSHOT and fresh:
                        sides = ({}, {})
                    fresh = bool(row["flags"] & Flag.LAST)
                    side = sides[bool(row["flags"] & Flag.ASK)]
                    side[float(row["price"])] = float(row["quantity"])
                    if not row["quantity"]:
                        del side[float(row["price"])]
                assert sorted(sides[0].items(), reverse=True) == book["bids"]
                assert sorted(sides[1].items()) == book["asks"]
                assert rows["flags"][-1] & Flag.LAST

    asyncio.run(scenario())


def test_feed_of_market_tier_publishes_aggregated_trades_only(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            exchange(start="subscribed", start_settle_s=0.1) as simulator,
            feeding(shm, tmp_path, feed_config(simulator, "market")) as running,
        ):
            await until(lambda: len(running.rows("trade")) > 200, "200 trades")
            await freeze(simulator)
            for symbol, name in zip(SYMBOLS, USDM_NAMES, strict=True):
                trades = [
                    trade_tuple(m, aggregated=True) for m in sent(simulator, "usdm", f"{symbol.lower()}@aggTrade")
                ]
                await until(lambda: len(running.rows("trade", name)) == len(trades), f"trades of {name}")  # noqa: B023
                rows = running.rows("trade", name)
                assert row_tuples(rows) == trades
                assert (rows["flags"] & Flag.AGGREGATED).all()
            assert not (shm / "feed-test.quote.ring").exists()
            key = running.reader("trade").keys[running.key("BTC-USDT-PERP")]
            assert key["market_type"] == "perpetual" and key["symbol"] == "BTC-USDT" and key["native"] == "BTCUSDT"

    asyncio.run(scenario())


def test_feed_with_an_unknown_symbol_names_it_and_carries_the_others(
    shm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with exchange() as simulator:
            config = feed_config(simulator, symbols=["BTC-USDT", "NOPE-USDT"])
            async with feeding(shm, tmp_path, config) as running:
                await until(lambda: len(running.rows("trade")) > 5, "trades")
                assert running.feed.listing.unknown == ["NOPE-USDT"]
                await until(lambda: "unknown" in running.feed.ctx.page.detail, "the page says so")
                assert "symbol=NOPE-USDT is not listed" in caplog.text

    asyncio.run(scenario())
