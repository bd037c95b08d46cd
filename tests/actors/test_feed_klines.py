"""Bars: preloaded, whole, rolled up, and honest about what was missed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickring.actors.feed.config import Config
from tickring.actors.feed.errors import FeedConfigError, RestFailed
from tickring.actors.feed.klines import REST_CLOSE_MS, Klines
from tickring.actors.feed.protocol import streams_of
from tickring.actors.feed.rest import RestClient
from tickring.actors.ledger import Ledger
from tickring.codecs.klines import INTERVALS, Bar, bar_start, bar_stop
from tickring.codecs.record import Flag
from tickring.codecs.records import BY_NAME
from tickring.codecs.symbols import Instrument
from tickring.ringbuf import KeyWriter, StreamReader, StreamWriter, keys_filename

from .feeding import exchange, fault, feed_config, feeding, make_streams, until

MINUTE = 60_000
DAY = 20_500 * 86_400_000  # some midnight
NOON = DAY + 12 * 3_600_000
BTC = Instrument(
    exchange="binance", product="usdm", native="BTCUSDT", base="BTC", quote="USDT", market_type="perpetual"
)
CLOSED = int(Flag.CLOSED)


def exchange_bar(interval: str, open_ts: int) -> Bar:
    """The bar that the exchange of these tests has at any time: every minute trades once at its own price."""
    stop = bar_stop(interval, open_ts)
    minutes = range(open_ts // MINUTE, stop // MINUTE)
    prices = [float(1000 + minute % 977) for minute in (minutes[0], minutes[-1])]
    high = max(1000 + minute % 977 for minute in minutes[:977])
    low = min(1000 + minute % 977 for minute in minutes[:977])
    n = len(minutes)
    tenths = round(n * 0.1, 6)
    return Bar(open_ts, stop - 1, prices[0], float(high), float(low), prices[1], tenths, tenths, n, tenths, tenths)


class Rig:
    """Klines on real streams, with an exchange made of `exchange_bar` and a clock of our own."""

    def __init__(self, folder: Path, now_ms: int, **options: Any) -> None:
        options = {"kline_rollups": ["5m", "1h"], "kline_preload": 100} | options
        self.config = Config(
            product="usdm", tier="market", symbols=["BTC-USDT-PERP"], channels=["kline"], ws_url="", rest_url="",
            keys_max=16, kline_capacity=1 << 14, other_capacity=1 << 12, **options,
        )  # fmt: skip
        make_streams(folder, "feed-test", self.config)
        self.keys = KeyWriter(folder / keys_filename("feed-test"))
        self.writers = {}
        self.readers = {}
        for name in ("kline", "kline_open"):
            kind = BY_NAME[name]
            capacity = self.config.kline_capacity if name == "kline" else self.config.other_capacity
            spec = kind.spec("feed-test", capacity=capacity, keys_max=16)
            self.writers[name] = StreamWriter(folder, spec, [], 1)
            self.readers[name] = StreamReader(folder, "feed-test", name, kind.dtype)
        self.keys.add(BTC.key, BTC.attributes())
        self.now_ms = now_ms
        self.ahead_ms = 0  # of the exchange's time, our clock
        self.down = False
        self.asked: list[tuple[str, int, int]] = []
        self.hold: Callable[[], Awaitable[None]] | None = None
        self.klines = Klines(
            "feed-test", self.config, {0: BTC}, self.keys, self.writers, self.readers["kline"], self.fetch,
            lambda: (self.now_ms + self.ahead_ms) * 1_000_000, lambda: self.now_ms,
        )  # fmt: skip

    async def fetch(self, native: str, interval: str, start: int, limit: int) -> list[Bar]:
        self.asked.append((interval, start, limit))
        if self.hold is not None:
            await self.hold()
        await asyncio.sleep(0)
        if self.down:
            raise RestFailed("GET: 503", 503)
        rows = []
        at = bar_start(interval, start)
        while at <= self.now_ms and len(rows) < min(limit + 1, 1500):
            rows.append(exchange_bar(interval, at))
            at = bar_stop(interval, at)
        return rows

    def send(self, open_ts: int, *, closed: bool = True, interval: str = "1m", **changes: Any) -> None:
        self.now_ms = max(self.now_ms, open_ts + (INTERVALS[interval] if closed else 1000))
        bar = exchange_bar(interval, open_ts)._replace(**changes)
        recv_ns = self.now_ms * 1_000_000
        self.klines.kline(0, recv_ns, recv_ns, CLOSED if closed else 0, interval, *bar)

    def rows(self, interval: str, record: str = "kline") -> np.ndarray:
        key_id = self.keys.id_of(f"binance.BTC-USDT-PERP.{interval}")
        assert key_id is not None
        return self.readers[record].last(key_id, 2048)

    def bars(self, interval: str) -> list[Bar]:
        return [Bar(*row) for row in self.rows(interval)[list(Bar._fields)].tolist()]

    async def settled(self) -> None:
        await until(lambda: not self.klines.filling and not self.klines._jobs, "nothing left to fetch")
        await asyncio.sleep(0.01)

    def close(self) -> None:
        for part in (*self.readers.values(), *self.writers.values(), self.keys):
            part.close()


@contextlib.asynccontextmanager
async def rig(folder: Path, now_ms: int = NOON + 30_000, **options: Any) -> AsyncIterator[Rig]:
    made = Rig(folder, now_ms, **options)
    task = asyncio.create_task(made.klines.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        made.close()


def opens(interval: str, start: int, stop: int) -> list[int]:
    return list(range(start, stop, INTERVALS[interval]))


def test_first_start_preloads_the_newest_closed_bars_of_each_interval(shm: Path) -> None:
    async def scenario() -> None:
        async with rig(shm) as made:
            await made.settled()
            for interval in ("1m", "5m", "1h"):
                first = NOON - 100 * INTERVALS[interval]
                assert made.bars(interval) == [exchange_bar(interval, at) for at in opens(interval, first, NOON)]
                flags = made.rows(interval)["flags"]
                assert (flags == CLOSED | Flag.BACKFILL).all()
                assert made.rows(interval)["nth"].tolist() == list(range(100))
            assert [interval for interval, *_ in made.asked] == ["1m", "5m", "1h"], "short before long"

    asyncio.run(scenario())


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_bars_of_three_days_are_all_there_whatever_day_they_begin_with(shm: Path, phase: int) -> None:
    async def scenario() -> None:
        length, day = INTERVALS["3d"], INTERVALS["1d"]
        newest = bar_start("1d", NOON) // length * length + phase * day  # one of them is of now, one is over just now
        newest -= length if newest > NOON else 0

        async def fetch(native: str, interval: str, start: int, limit: int) -> list[Bar]:
            first = newest - (newest - start) // length * length
            return [exchange_bar("3d", at) for at in range(first, made.now_ms, length)][: limit + 1]

        async with rig(shm, kline_intervals=["3d"], kline_rollups=[], kline_preload=10) as made:
            made.klines._fetch = fetch
            await made.settled()
            held = [bar.open_ts for bar in made.bars("3d")]
            assert held == opens("3d", held[0], newest) and len(held) in (9, 10)
            made.now_ms = newest + 1
            made.send(newest, interval="3d")
            await made.settled()
            assert made.bars("3d")[-1] == exchange_bar("3d", newest), "the next one follows without a hole"
            assert len(made.bars("3d")) == len(held) + 1

    asyncio.run(scenario())


def test_preload_of_more_bars_than_a_request_gives_asks_again(shm: Path) -> None:
    async def scenario() -> None:
        async with rig(shm, kline_preload=1500, kline_rollups=[]) as made:
            made.config.kline_preload = 1500
            await made.settled()
            assert len(made.bars("1m")) == 1500

    asyncio.run(scenario())


def test_bars_that_close_while_older_ones_are_fetched_stay_in_order(shm: Path) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        async with rig(shm) as made:
            made.hold = gate.wait  # type: ignore[assignment]
            await until(lambda: made.asked, "the first request")
            made.send(NOON)
            made.send(NOON + MINUTE)
            assert not len(made.rows("1m"))
            assert len(made.rows("1m", "kline_open")) == 2, "the open bar does not wait"
            gate.set()
            await made.settled()
            assert [bar.open_ts for bar in made.bars("1m")] == opens("1m", NOON - 100 * MINUTE, NOON + 2 * MINUTE)

    asyncio.run(scenario())


def test_longer_bars_are_made_of_closed_minutes_from_the_middle_of_their_time_on(shm: Path) -> None:
    """Started at 12:37:30: the hour is begun with what is held of it, and is the exchange's own at 13:00."""

    async def scenario() -> None:
        async with rig(shm, NOON + 37 * MINUTE + 30_000) as made:
            await made.settled()
            for minute in range(37, 61):
                made.send(NOON + minute * MINUTE)
            assert made.bars("1h")[-1] == exchange_bar("1h", NOON)
            assert made.bars("5m")[-5:] == [exchange_bar("5m", NOON + m * MINUTE) for m in (35, 40, 45, 50, 55)]
            for interval in ("5m", "1h"):
                last = made.rows(interval)[-1]
                assert last["flags"] == CLOSED | Flag.ROLLED_UP
                members = BY_NAME["kline"].to_dict(last, {"interval": interval})
                assert members["source"] == "rolled_up" and members["closed"] and not members["partial"]
            await made.settled()
            assert made.klines.failed == made.klines.partial == 0

    asyncio.run(scenario())


def test_open_bar_of_every_interval_is_a_latest_value(shm: Path) -> None:
    async def scenario() -> None:
        async with rig(shm, NOON + 2 * MINUTE + 30_000) as made:
            await made.settled()
            made.send(NOON + 2 * MINUTE, closed=False, close=2500.0, high=2500.0)
            for interval, n in (("1m", 1), ("5m", 3), ("1h", 3)):
                row = made.rows(interval, "kline_open")[-1]
                assert row["close"] == row["high"] == 2500.0
                assert (row["open_ts"], row["trade_count"]) == (NOON if n == 3 else NOON + 2 * MINUTE, n)
                assert row["flags"] == (Flag.ROLLED_UP if n == 3 else 0)
            made.send(NOON + 2 * MINUTE)
            assert made.rows("1m", "kline_open")[-1]["flags"] == CLOSED

    asyncio.run(scenario())


def test_bar_whose_end_was_missed_is_fetched_and_stands_in_its_place(shm: Path) -> None:
    async def scenario() -> None:
        async with rig(shm) as made:
            await made.settled()
            made.send(NOON)
            made.send(NOON + 4 * MINUTE)  # three were missed
            await made.settled()
            assert made.bars("1m")[-5:] == [exchange_bar("1m", NOON + m * MINUTE) for m in range(5)]
            flags = made.rows("1m")["flags"][-5:].tolist()
            assert flags == [CLOSED] + [CLOSED | Flag.BACKFILL] * 4, "REST had the last one too, which waited"
            assert made.bars("5m")[-1] == exchange_bar("5m", NOON) and not made.klines.partial
            told = made.rows("1m", "kline_open")
            closed = told[(told["flags"] & CLOSED) != 0]["open_ts"].tolist()
            assert sorted(closed) == [NOON + m * MINUTE for m in (1, 2, 3)], "after the fourth, which is not told again"
            made.send(NOON + 5 * MINUTE, closed=False)
            made.send(NOON + 7 * MINUTE, closed=False)
            made.send(NOON + 7 * MINUTE)  # while it was open, two ends were missed
            made.send(NOON + 8 * MINUTE, closed=False)
            await made.settled()
            assert made.rows("1m", "kline_open")[-1]["open_ts"] == NOON + 8 * MINUTE, "the open bar is the newest"

    asyncio.run(scenario())


@pytest.mark.parametrize("hours", [-1, 1])
def test_clock_of_ours_that_is_wrong_makes_no_bar_closed_that_is_open_nor_loses_one(shm: Path, hours: int) -> None:
    async def scenario() -> None:
        async with rig(shm) as made:
            made.ahead_ms = hours * 3_600_000
            await made.settled()
            assert made.bars("1m")[-1].open_ts < NOON, "the bar of now is not over"
            made.down = True
            made.send(NOON)
            made.send(NOON + 2 * MINUTE)
            await until(lambda: not made.klines.filling, "REST to be given up for now")
            made.ahead_ms, made.down = 0, False
            made.send(NOON + 3 * MINUTE)
            made.send(NOON + 4 * MINUTE)
            await until(
                lambda: {bar.open_ts for bar in made.bars("1m")} >= set(opens("1m", NOON, NOON + 5 * MINUTE)), "all"
            )
            assert all(bar == exchange_bar("1m", bar.open_ts) for bar in made.bars("1m"))

    asyncio.run(scenario())


def test_bar_missed_while_others_wait_for_rest_follows_late(shm: Path) -> None:
    async def scenario() -> None:
        async with rig(shm) as made:
            await made.settled()
            made.down = True
            for minute in (2, 3, 5):
                made.send(NOON + minute * MINUTE)
            await until(lambda: not made.klines.filling, "REST to be given up for now")
            made.down = False
            await until(lambda: len(made.bars("1m")) == 106, "all bars")
            assert sorted(made.bars("1m"))[-6:] == [exchange_bar("1m", NOON + m * MINUTE) for m in range(6)]

    asyncio.run(scenario())


def test_missed_end_is_noticed_by_the_open_bars_after_it_but_not_at_once(shm: Path) -> None:
    async def scenario() -> None:
        async with rig(shm) as made:
            await made.settled()
            made.send(NOON, closed=False)
            requests = len(made.asked)
            made.send(NOON + MINUTE, closed=False)
            assert not made.klines.filling, "its closing bar may be on its way"
            made.now_ms += REST_CLOSE_MS + 2000
            made.send(NOON + MINUTE, closed=False)
            await made.settled()
            assert made.asked[requests:] == [("1m", NOON, 1)]
            assert made.bars("1m")[-1] == exchange_bar("1m", NOON)

    asyncio.run(scenario())


def test_missed_bar_is_partial_while_rest_is_away_and_whole_later(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr("tickring.actors.feed.klines.BACKOFF_MIN_S", 0.2)
        async with rig(shm) as made:
            await made.settled()
            made.send(NOON)
            made.send(NOON + MINUTE, closed=False, trade_count=0)
            made.down = True
            made.send(NOON + 2 * MINUTE)
            await until(lambda: len(made.rows("1m")) == 103, "the partial bar and the one after it")
            partial, after = made.rows("1m")[-2:]
            assert partial["flags"] == CLOSED | Flag.PARTIAL and partial["open_ts"] == NOON + MINUTE
            assert partial["trade_count"] == 0 and after["flags"] == CLOSED
            made.down = False
            await until(lambda: len(made.rows("1m")) == 104, "the whole bar")
            whole = made.rows("1m")[-1]
            assert whole["flags"] == CLOSED | Flag.BACKFILL | Flag.LATE
            assert made.bars("1m")[-1] == exchange_bar("1m", NOON + MINUTE)
            made.send(NOON + 3 * MINUTE)
            made.send(NOON + 4 * MINUTE)
            assert made.rows("5m")[-1]["flags"] == CLOSED | Flag.ROLLED_UP | Flag.PARTIAL
            made.now_ms += REST_CLOSE_MS + 1000
            await until(lambda: made.rows("5m")[-1]["flags"] & Flag.BACKFILL, "the whole bar of five minutes")
            assert made.bars("5m")[-1] == exchange_bar("5m", NOON)

    asyncio.run(scenario())


def test_interval_of_both_kinds_is_the_exchanges_and_is_compared(shm: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with rig(shm, kline_intervals=["1m", "5m"], kline_rollups=["5m"]) as made:
            await made.settled()
            for minute in range(20):
                if minute % 5 == 0 and minute:
                    wrong = {"close": 1.0, "low": 1.0} if minute == 15 else {}
                    made.send(NOON + (minute - 5) * MINUTE, interval="5m", **wrong)
                made.send(NOON + minute * MINUTE)
            rows = made.rows("5m")[-3:]
            assert not (rows["flags"] & Flag.ROLLED_UP).any() and len(made.rows("5m")) == 103
            assert made.klines.compared["5m"] == 4 and made.klines.differences["5m"] == 1
            assert "BTC-USDT-PERP.5m differ" in caplog.text

    asyncio.run(scenario())


def test_restarted_process_fetches_only_what_came_between(shm: Path) -> None:
    async def scenario() -> None:
        async with rig(shm) as made:
            await made.settled()
            made.send(NOON)
        async with rig(shm, NOON + 7 * MINUTE + 10_000) as made:
            await made.settled()
            assert ("1m", NOON + MINUTE, 6) in made.asked and len(made.asked) == 2
            made.send(NOON + 7 * MINUTE)
            assert [bar.open_ts for bar in made.bars("1m")] == opens("1m", NOON - 100 * MINUTE, NOON + 8 * MINUTE)
            for minute in range(8, 60):
                made.send(NOON + minute * MINUTE)
            assert made.bars("1h")[-1] == exchange_bar("1h", NOON)
            assert made.bars("5m")[-1] == exchange_bar("5m", NOON + 55 * MINUTE)
            assert made.klines.partial == 0

    asyncio.run(scenario())


def test_closed_bar_that_comes_again_is_counted_and_no_second_record(shm: Path) -> None:
    async def scenario() -> None:
        async with rig(shm) as made:
            await made.settled()
            made.send(NOON)
            made.send(NOON)
            assert made.klines.again == 1 and len(made.rows("1m")) == 101

    asyncio.run(scenario())


def test_bar_that_nobody_asked_for_is_counted(shm: Path) -> None:
    async def scenario() -> None:
        async with rig(shm) as made:
            await made.settled()
            made.send(NOON, interval="5m")  # made here, not subscribed
            made.send(NOON, interval="4h")
            assert made.klines.unexpected == 2 and not len(made.rows("5m", "kline_open"))
            bar = exchange_bar("1m", NOON + 5 * 86_400_000)
            made.klines.kline(0, 1, 1, CLOSED, "1m", *bar)
            assert made.klines.unexpected == 3, "a bar of the future makes no other look old"
            made.send(NOON)
            assert made.bars("1m")[-1] == exchange_bar("1m", NOON)

    asyncio.run(scenario())


BAD = [
    {"kline_intervals": []}, {"kline_intervals": ["1h"], "kline_rollups": ["1d"]}, {"kline_rollups": ["1m"]},
    {"kline_intervals": ["1m", "1m"]}, {"channels": ["liquidation"], "product": "spot", "tier": "spot"},
    {"channels": ["open_interest"]}, {"kline_rollups": ["3d"]},
]  # fmt: skip


@pytest.mark.parametrize("changes", BAD, ids=str)
def test_intervals_and_channels_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "product": "usdm", "tier": "market", "symbols": [], "channels": ["kline"], "ws_url": "", "rest_url": "",
    } | changes  # fmt: skip
    with pytest.raises(FeedConfigError):
        streams_of(Config(**options), {"BTC-USDT": "BTCUSDT"})


def test_streams_of_all_channels() -> None:
    config = Config(
        product="usdm", tier="market", symbols=[], ws_url="", rest_url="", kline_intervals=["1m", "1h"],
        channels=["agg_trade", "kline", "ticker", "mark_price", "open_interest", "liquidation"],
    )  # fmt: skip
    assert streams_of(config, {"BTC-USDT": "BTCUSDT"}) == [
        "btcusdt@aggTrade", "btcusdt@kline_1m", "btcusdt@kline_1h", "btcusdt@ticker", "btcusdt@markPrice@1s",
        "btcusdt@forceOrder",
    ]  # fmt: skip


@pytest.mark.parametrize("closes", [0, 4])
def test_feed_has_the_bars_of_the_simulated_exchange(shm: Path, tmp_path: Path, closes: int) -> None:
    """From socket to ring, a hundred times as fast: preloaded, from the stream, rolled up, all as REST has them."""

    async def scenario() -> None:
        start_ns = (NOON + 57 * MINUTE + 30_000) * 1_000_000
        symbols = ["BTCUSDT"]
        async with exchange(speed=100.0, epoch_ns=start_ns, start="subscribed", symbols=symbols, rate=2.0) as simulator:
            config = feed_config(
                simulator, "market", symbols=["BTC-USDT-PERP"], kline_intervals=["1m", "5m"],
                channels=["kline", "ticker", "mark_price"], kline_rollups=["5m", "1h"], kline_preload=200,
            )  # fmt: skip
            clock = lambda: simulator.source.time_ns  # noqa: E731
            async with feeding(shm, tmp_path, config, clock=clock) as running:
                reader = running.reader("kline")
                await until(lambda: reader.keys.id_of("binance.BTC-USDT-PERP.1h") is not None, "keys of the series")
                key_of = {i: running.key(f"BTC-USDT-PERP.{i}") for i in ("1m", "5m", "1h")}
                until_ts = NOON + 67 * MINUTE
                await until(lambda: running.feed.klines and not running.feed.klines.filling, "preloaded")
                for n in range(closes):  # a minute is 0.6 s: some bars end while nobody listens
                    await asyncio.sleep(0.7)
                    await until(lambda n=n: running.counter("connects") > n, "connected")
                    fault(simulator, "close", product="usdm")
                await until(
                    lambda: all(
                        len(rows := reader.last(key, 1)) and rows["close_ts"][0] + 1 >= bar_start(i, until_ts)
                        for i, key in key_of.items()
                    ),
                    "bars up to 13:07",
                    60.0,
                )
                for interval, key_id in key_of.items():
                    rows = reader.last(key_id, 2048)
                    assert not (rows["flags"] & Flag.PARTIAL).any()
                    found = {row[0]: row for row in rows[list(Bar._fields)].tolist()}
                    expected = await rest_bars(simulator, interval, min(found), max(found))
                    assert found == expected and len(rows) == len(found) >= 200
                assert running.counter("connects") >= closes
                assert running.counter("klines_compared", interval="5m") >= 1
                assert running.counter("klines_different", interval="5m") == 0

    asyncio.run(scenario())


async def rest_bars(simulator: Any, interval: str, first: int, last: int) -> dict[int, tuple[Any, ...]]:
    from tickring.codecs.binance.rest_market import klines_path, parse_klines

    from .simulator_client import get

    body = await get(simulator.urls["usdm_rest"] + klines_path("usdm", "BTCUSDT", interval, 1500, first, last))
    return {bar.open_ts: tuple(bar) for bar in parse_klines(json.dumps(body[2], separators=(",", ":")).encode())}


def test_exchange_time_is_what_its_last_answer_told_and_goes_on(shm: Path) -> None:
    async def scenario() -> None:
        async with exchange(epoch_ns=NOON * 1_000_000, start="command") as simulator:
            ledger = Ledger(shm, "binance")
            client = RestClient(
                simulator.urls["spot_rest"], ledger.budget("weight", 100, 60.0), 10.0, lambda status: None
            )
            assert client.exchange_ms(lambda: 7_000_000) == 7, "nothing is told yet"
            await client.get("/api/v3/ping", 1)
            first = client.exchange_ms(lambda: 7_000_000)
            assert NOON <= first < NOON + 60_000
            await until(lambda: client.exchange_ms(lambda: 7_000_000) > first, "it to go on")
            await client.close()
            ledger.close()

    asyncio.run(scenario())
