"""Bars, 24 h tickers, mark prices, funding, open interest, liquidations: over real sockets, against the trades sent."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from tickring.actors.simulator.config import Config
from tickring.actors.simulator.history import CLOSE, COUNT, LISTED_MS, LOTS, OPEN, OPEN_MS
from tickring.actors.simulator.hub import Hub
from tickring.actors.simulator.instruments import make_instruments
from tickring.actors.simulator.market_source import ModelSource
from tickring.actors.simulator.model import MarketModel
from tickring.actors.simulator.tape import BARS_MAX, DAY_MS, INTERVALS_MS, bar_start, bar_stop, roll_up

from .simulator_client import connect, get, run, simulator, until

EPOCH_MS = 1_800_000_015_000  # fifteen seconds into a minute
MINUTE_MS = 60_000
HISTORIC: dict[str, Any] = {"epoch_ns": EPOCH_MS * 1_000_000, "start": "command", "symbols": 3}
LIVELY: dict[str, Any] = {**HISTORIC, "rate": 10.0}


async def collect(played: Any, urls: list[str], stop_ms: int) -> dict[str, list[Any]]:
    """Subscribe first, lead the market to `stop_ms` by hand, so that no stall of this machine shows, and return all."""
    found: dict[str, list[Any]] = defaultdict(list)
    clients = [await connect(url) for url in urls]

    async def read(client: Any, product: str) -> None:
        async for text in client:
            message = json.loads(text)
            found[f"{product}:{message['stream']}"].append(message["data"])

    products = ["spot" if url.startswith(played.urls["spot_ws"]) else "usdm" for url in urls]
    readers = [asyncio.create_task(read(*pair)) for pair in zip(clients, products, strict=True)]
    wanted = sum(url.partition("streams=")[2].count("/") + 1 for url in urls)
    await until(lambda: sum(hub.subscriptions for hub in played.hubs.values()) == wanted, "all subscriptions")
    source = played.source
    source.begin(source.time_ns)
    while source.time_ns < stop_ms * 1_000_000:
        source.advance(min(source.time_ns + 500_000_000, stop_ms * 1_000_000))
        source.flush()
        await asyncio.sleep(0)
    source.settle()
    for hub in played.hubs.values():
        for name, stream in hub.streams.items():
            key = f"{hub.product}:{name}"
            await until(lambda key=key, stream=stream: len(found[key]) == stream.frames, f"all of {key}")
    for reader in readers:
        reader.cancel()
    for client in clients:
        await client.close()
    return found


def fold(trades: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the bar of some trades, from their text alone."""
    prices = [Decimal(trade["p"]) for trade in trades]
    sizes = [Decimal(trade["q"]) for trade in trades]
    taken = [(p, q) for p, q, trade in zip(prices, sizes, trades, strict=True) if not trade["m"]]
    return {
        "o": prices[0], "h": max(prices), "l": min(prices), "c": prices[-1], "v": sum(sizes), "n": len(trades),
        "q": sum(p * q for p, q in zip(prices, sizes, strict=True)), "V": sum(q for _, q in taken),
        "Q": sum(p * q for p, q in taken), "f": trades[0]["t"], "L": trades[-1]["t"],
    }  # fmt: skip


def numbers(bar: dict[str, Any]) -> dict[str, Any]:
    return {key: bar[key] if key in "nfL" else Decimal(bar[key]) for key in "ohlcvnqVQfL"}


@pytest.mark.parametrize("product", ["spot", "usdm"])
def test_bars_on_the_streams_are_the_fold_of_the_trades_sent(product: str) -> None:
    async def test() -> None:
        async with simulator(**LIVELY, off_book_trades=0.1) as played:
            bars = "btcusdt@kline_1m/btcusdt@kline_3m/solusdt@kline_1m"
            trades = "btcusdt@trade/solusdt@trade"
            if product == "spot":
                urls = [f"{played.urls['spot_ws']}/stream?streams={bars}/{trades}"]
            else:
                urls = [
                    f"{played.urls['usdm_market_ws']}/stream?streams={bars}",
                    f"{played.urls['usdm_public_ws']}/stream?streams={trades}",
                ]
            found = await collect(played, urls, EPOCH_MS + 7 * MINUTE_MS)
            for symbol, interval in (("btcusdt", "1m"), ("btcusdt", "3m"), ("solusdt", "1m")):
                messages = found[f"{product}:{symbol}@kline_{interval}"]
                sent = [trade for trade in found[f"{product}:{symbol}@trade"] if trade.get("X", "MARKET") == "MARKET"]
                closed = [message for message in messages if message["k"]["x"]]
                length = INTERVALS_MS[interval]
                assert [each["k"]["t"] for each in closed] == [
                    bar_start(interval, EPOCH_MS) + number * length for number in range(len(closed))
                ]
                assert len(closed) == (7 if interval == "1m" else 2)
                for each in messages:
                    bar = each["k"]
                    assert (bar["i"], bar["T"]) == (interval, bar["t"] + length - 1)
                    inside = [trade for trade in sent if bar["t"] <= trade["T"] <= bar["T"]]
                    if not bar["x"]:
                        assert bar["t"] <= each["E"] <= bar["T"]
                        inside = [trade for trade in inside if trade["t"] <= bar["L"]]
                        assert all(trade["T"] <= each["E"] for trade in inside)
                    elif each["E"] <= bar["T"]:
                        pytest.fail(f"closed before its time: {each}")
                    if bar["t"] < EPOCH_MS and interval != "1m":
                        continue  # holds minutes of the past
                    if inside:
                        assert numbers(bar) == fold(inside)
                    else:
                        assert (bar["n"], bar["f"], bar["L"], float(bar["v"])) == (0, -1, -1, 0.0)
                # Open bars come at the exchange's pace, the closing one right after its time.
                open_times = [each["E"] for each in messages if not each["k"]["x"]][
                    :-1
                ]  # the last one is from `settle`
                pace = 2000 if product == "spot" else 250
                assert min(np.diff(open_times)) >= pace - 250
                assert max(each["E"] - each["k"]["T"] for each in closed) < 1000
                # What was sent is also what REST tells.
                rest = played.urls["spot_rest"] + ("/api/v3" if product == "spot" else "/fapi/v1")
                _, _, rows = await get(f"{rest}/klines?symbol={symbol.upper()}&interval={interval}&limit=20")
                by_time = {row[0]: row for row in rows}
                for bar in (each["k"] for each in [*closed, messages[-1]]):
                    expected = [bar[key] for key in ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q", "B")]
                    assert by_time[bar["t"]] == expected

    run(test)


def test_tickers_are_the_fold_of_all_trades_since_the_start() -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played:
            names = "btcusdt@ticker/btcusdt@miniTicker/!miniTicker@arr/btcusdt@trade/ethusdt@trade/solusdt@trade"
            market = "btcusdt@ticker/btcusdt@miniTicker/!miniTicker@arr/!ticker@arr"
            found = await collect(
                played,
                [
                    f"{played.urls['spot_ws']}/stream?streams={names}",
                    f"{played.urls['usdm_market_ws']}/stream?streams={market}",
                    f"{played.urls['usdm_public_ws']}/stream?streams=btcusdt@trade",
                ],
                EPOCH_MS + 3 * MINUTE_MS,
            )
            for product, pace in (("spot", 1000), ("usdm", 2000)):
                trades = found[f"{product}:btcusdt@trade"]
                tickers = found[f"{product}:btcusdt@ticker"]
                for each in tickers:
                    whole = fold([trade for trade in trades if trade["t"] <= each["L"]])
                    assert {key: Decimal(each[key]) for key in "ohlcvq"} == {key: whole[key] for key in "ohlcvq"}
                    assert (each["n"], each["F"], each["O"]) == (whole["n"], whole["f"], EPOCH_MS)
                    assert Decimal(each["p"]) == whole["c"] - whole["o"]
                    assert float(each["w"]) == pytest.approx(float(whole["q"] / whole["v"]), rel=1e-4)
                    assert each["C"] == each["E"]
                assert tickers[-1]["L"] == trades[-1]["t"]
                assert set(np.diff([each["E"] for each in tickers[:-1]]) % pace) == {0}
                last = found[f"{product}:btcusdt@miniTicker"][-1]
                assert {key: last[key] for key in "cohlvq"} == {key: tickers[-1][key] for key in "cohlvq"}
                rest = played.urls["spot_rest"] + ("/api/v3" if product == "spot" else "/fapi/v1")
                _, _, row = await get(f"{rest}/ticker/24hr?symbol=BTCUSDT")
                same = {"lastPrice": "c", "lastQty": "Q", "openPrice": "o", "highPrice": "h", "lowPrice": "l",
                        "volume": "v", "quoteVolume": "q", "firstId": "F", "lastId": "L", "count": "n",
                        "priceChange": "p", "priceChangePercent": "P", "weightedAvgPrice": "w",
                        "openTime": "O"}  # fmt: skip
                assert {key: row[key] for key in same} == {key: tickers[-1][short] for key, short in same.items()}
            # The arrays hold who traded since the last one, and nobody else.
            seen: dict[str, int] = defaultdict(int)
            for rows in found["spot:!miniTicker@arr"]:
                for row in rows:
                    trades = [t for t in found[f"spot:{row['s'].lower()}@trade"] if t["T"] <= row["E"]]
                    assert trades[-1]["t"] > seen[row["s"]] and Decimal(trades[-1]["p"]) == Decimal(row["c"])
                    seen[row["s"]] = trades[-1]["t"]
            assert seen.keys() == {"BTCUSDT", "ETHUSDT", "SOLUSDT"}
            assert found["usdm:!ticker@arr"][-1][0].keys() == found["usdm:btcusdt@ticker"][-1].keys()

    run(test)


def test_mark_price_stays_at_the_market_and_funding_is_announced_before_it_is_settled() -> None:
    async def test() -> None:
        hours8 = 8 * 3_600_000
        settled_ms = EPOCH_MS // hours8 * hours8 + hours8
        settings = {**LIVELY, "epoch_ns": (settled_ms - 90_000) * 1_000_000}
        async with simulator(**settings) as played:
            names = "btcusdt@markPrice/btcusdt@markPrice@1s/!markPrice@arr@1s/!markPrice@arr/btcusdt@kline_1m"
            found = await collect(
                played, [f"{played.urls['usdm_market_ws']}/stream?streams={names}"], settled_ms + 90_000
            )
            seconds = found["usdm:btcusdt@markPrice@1s"]
            assert set(np.diff([each["E"] for each in seconds[:-1]])) == {1000} and seconds[0]["E"] % 1000 == 0
            assert set(np.diff([each["E"] for each in found["usdm:btcusdt@markPrice"][:-1]])) == {3000}
            assert [row["s"] for row in found["usdm:!markPrice@arr"][0]] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
            in_arrays = {rows[0]["E"]: rows[0] for rows in found["usdm:!markPrice@arr@1s"]}
            bars = [each["k"] for each in found["usdm:btcusdt@kline_1m"]]
            low, high = min(float(bar["l"]) for bar in bars), max(float(bar["h"]) for bar in bars)
            rates = {each["T"]: each["r"] for each in seconds}
            assert list(rates) == [settled_ms, settled_ms + hours8]
            for each in seconds:
                assert in_arrays[each["E"]] == each
                assert low * 0.999 < float(each["p"]) < high * 1.001
                assert float(each["i"]) == pytest.approx(float(each["p"]), rel=2e-3)
                assert each["T"] == (settled_ms if each["E"] < settled_ms else settled_ms + hours8)
            rest = played.urls["usdm_rest"] + "/fapi/v1"
            _, _, premium = await get(f"{rest}/premiumIndex?symbol=BTCUSDT")
            assert (premium["nextFundingTime"], premium["lastFundingRate"]) == (settled_ms + hours8, seconds[-1]["r"])
            assert (premium["markPrice"], premium["indexPrice"]) == (seconds[-1]["p"], seconds[-1]["i"])
            _, _, funding = await get(f"{rest}/fundingRate?symbol=BTCUSDT")
            assert len(funding) == 200
            assert (funding[-1]["fundingTime"], funding[-1]["fundingRate"]) == (settled_ms, rates[settled_ms])
            closes = {bar["T"] + 1: bar["c"] for bar in bars if bar["x"]}
            assert Decimal(funding[-1]["markPrice"]) == Decimal(closes[settled_ms])
            assert set(np.diff([row["fundingTime"] for row in funding])) == {hours8}
            first = funding[50]["fundingTime"]
            _, _, page = await get(f"{rest}/fundingRate?symbol=BTCUSDT&startTime={first - 1}&limit=3")
            assert page == funding[50:53]
            _, _, everyone = await get(f"{rest}/fundingRate?startTime={first}&endTime={first}")
            assert [row["symbol"] for row in everyone] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
            _, _, interest = await get(f"{rest}/openInterest?symbol=BTCUSDT")
            assert list(interest) == ["symbol", "openInterest", "time"] and float(interest["openInterest"]) > 0

    run(test)


def test_liquidations_are_trades_and_the_latest_of_a_second_is_told() -> None:
    async def test() -> None:
        async with simulator(**{**LIVELY, "rate": 30.0}, liquidations=0.3) as played:
            names = "btcusdt@forceOrder/ethusdt@forceOrder/solusdt@forceOrder/!forceOrder@arr"
            trades = "btcusdt@trade/ethusdt@trade/solusdt@trade"
            found = await collect(
                played,
                [
                    f"{played.urls['usdm_market_ws']}/stream?streams={names}",
                    f"{played.urls['usdm_public_ws']}/stream?streams={trades}",
                ],
                EPOCH_MS + 3 * MINUTE_MS,
            )
            single = [each for s in ("btcusdt", "ethusdt", "solusdt") for each in found[f"usdm:{s}@forceOrder"]]
            assert len(single) > 10
            both = [sorted(json.dumps(each) for each in rows) for rows in (single, found["usdm:!forceOrder@arr"])]
            assert both[0] == both[1]
            for symbol in ("btcusdt", "ethusdt", "solusdt"):
                times = [each["E"] for each in found[f"usdm:{symbol}@forceOrder"]]
                assert len(times) < 2 or min(np.diff(times)) >= 1000
            for each in single:
                order = each["o"]
                sent = [t for t in found[f"usdm:{order['s'].lower()}@trade"] if t["T"] == order["T"]]
                assert sent and {trade["m"] for trade in sent} == {order["S"] == "SELL"}
                filled = sum(Decimal(trade["q"]) for trade in sent)
                value = sum(Decimal(trade["p"]) * Decimal(trade["q"]) for trade in sent)
                assert Decimal(order["q"]) == Decimal(order["z"]) == Decimal(order["l"]) == filled
                assert float(order["ap"]) == pytest.approx(float(value / filled), rel=1e-3)
                beyond = float(order["p"]) - float(order["ap"])
                assert beyond < 0 if order["S"] == "SELL" else beyond > 0
                assert order["T"] <= each["E"]

    run(test)


def test_fields_of_reports_are_those_of_late_2026() -> None:
    bar = "t T s i f L o c h l v n x q V Q B"
    mini = "e E s c o h l v q"
    mark = "e E s p ap P i r T st"
    expected = {
        "spot:btcusdt@kline_1m": "e E s k", "usdm:btcusdt@kline_1m": "e E s k st",
        "spot:btcusdt@ticker": "e E s p P w x c Q b B a A o h l v q O C F L n",
        "usdm:btcusdt@ticker": "e E s p P w c Q o h l v q O C F L n st",
        "spot:btcusdt@miniTicker": mini, "usdm:btcusdt@miniTicker": mini + " st",
        "usdm:btcusdt@markPrice": mark, "usdm:btcusdt@markPrice@1s": mark, "usdm:btcusdt@forceOrder": "e E o st",
    }  # fmt: skip

    async def test() -> None:
        async with simulator(**LIVELY, liquidations=0.5) as played:
            urls = []
            for product, base in (("spot", "spot_ws"), ("usdm", "usdm_market_ws")):
                names = [name.partition(":")[2] for name in expected if name.startswith(product)]
                urls.append(f"{played.urls[base]}/stream?streams={'/'.join(names)}")
            found = await collect(played, urls, EPOCH_MS + MINUTE_MS)
            for name, fields in expected.items():
                for message in found[name]:
                    assert list(message) == fields.split(), name
                    assert list(message.get("k", dict.fromkeys(bar.split()))) == bar.split()
                    assert list(message.get("o", {}) if "force" in name else {}) in (
                        [], ["s", "S", "o", "f", "q", "p", "ap", "X", "l", "z", "T"]
                    )  # fmt: skip
            spot, usdm = found["spot:btcusdt@kline_1m"][-1]["k"], found["usdm:btcusdt@kline_1m"][-1]["k"]
            decimals = [len(bar[key].partition(".")[2]) for bar in (spot, usdm) for key in "ovq"]
            assert decimals == [8, 8, 8, 1, 3, 4]  # as recorded: spot always eight, USD-M as many as it needs

    run(test)


def test_times_of_a_bar_are_microseconds_where_asked_for() -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played:
            url = f"{played.urls['spot_ws']}/stream?timeUnit=MICROSECOND&streams=btcusdt@kline_1m/btcusdt@ticker"
            found = await collect(played, [url], EPOCH_MS + MINUTE_MS)
            bar = found["spot:btcusdt@kline_1m"][0]["k"]
            assert (bar["t"] % 60_000_000, bar["T"] - bar["t"]) == (0, 59_999_999)
            assert found["spot:btcusdt@ticker"][0]["O"] == EPOCH_MS * 1000

    run(test)


# -- the past


@pytest.mark.parametrize(("path", "most"), [("/api/v3/klines", 1000), ("/fapi/v1/klines", 1500)])
def test_pages_of_past_bars_join_and_are_the_same_in_another_process(path: str, most: int) -> None:
    async def test() -> None:
        async with simulator(**HISTORIC) as played, simulator(**{**HISTORIC, "rate": 7.0, "symbols": 2}) as other:
            url = f"{played.urls['spot_rest']}{path}?symbol=ETHUSDT&interval=1m&limit={most}"
            _, _, newest = await get(url)
            assert len(newest) == most
            assert newest[-1][0] == EPOCH_MS // MINUTE_MS * MINUTE_MS
            assert set(np.diff([row[0] for row in newest])) == {MINUTE_MS}
            assert (await get(url.replace(played.urls["spot_rest"], other.urls["spot_rest"])))[2] == newest
            paged = []
            start = newest[0][0]
            while start <= EPOCH_MS:
                _, _, page = await get(url.replace(f"limit={most}", f"limit=400&startTime={start}"))
                paged += page
                start = page[-1][0] + MINUTE_MS
            assert paged == newest
            _, _, middle = await get(url + f"&startTime={newest[10][0]}&endTime={newest[19][0]}")
            assert middle == newest[10:20]
            _, _, before = await get(url.replace(f"limit={most}", f"limit=7&endTime={newest[99][6]}"))
            assert before == newest[93:100]
            assert (await get(url + f"&endTime={LISTED_MS - 1}"))[2] == []
            for row, after in itertools.pairwise(newest):
                low, open_, close, high = (float(row[at]) for at in (3, 1, 4, 2))
                assert low <= min(open_, close) <= max(open_, close) <= high
                assert 0 < float(row[9]) < float(row[5]) and row[8] > 0
                assert close == float(after[1])

    run(test)


@pytest.mark.parametrize("interval", ["5m", "1h", "4h", "1d", "1w", "1M"])
def test_longer_bars_are_the_shorter_ones_joined(interval: str) -> None:
    model = MarketModel(
        make_instruments(["BTCUSDT"], ["spot"], 1), seed=1, rate=1.0, epoch_ns=(EPOCH_MS - EPOCH_MS % 1000) * 1_000_000
    )
    tape = model.markets[0].tape
    first = bar_start(interval, EPOCH_MS - 40 * DAY_MS)
    stop = bar_stop(interval, bar_stop(interval, first))
    long, minutes = tape.bars(interval, first, stop), tape.minutes(first, stop)
    assert long[:, OPEN_MS].tolist() == [first, bar_stop(interval, first)]
    for row in long:
        inside = minutes[
            (minutes[:, OPEN_MS] >= row[OPEN_MS]) & (minutes[:, OPEN_MS] < bar_stop(interval, row[OPEN_MS]))
        ]
        assert len(inside) * MINUTE_MS == bar_stop(interval, int(row[OPEN_MS])) - row[OPEN_MS]
        assert (row[OPEN], row[CLOSE]) == (inside[0, OPEN], inside[-1, CLOSE])
        assert (row[COUNT], row[LOTS]) == (inside[:, COUNT].sum(), inside[:, LOTS].sum())


def test_market_begins_at_the_price_that_its_past_leaves_off_with() -> None:
    hubs = {product: Hub(product, Config().limits(product), 0) for product in ("spot", "usdm")}
    source = ModelSource(Config(symbols=5, epoch_ns=EPOCH_MS * 1_000_000), hubs)
    source.advance((EPOCH_MS + 30_000) * 1_000_000)
    for booth in source.board.booths.values():
        rows = booth.market.tape.minutes(EPOCH_MS - 5 * MINUTE_MS, EPOCH_MS + 1)
        if booth.market.tape.last_trade:
            assert rows[-1, OPEN] == pytest.approx(rows[-2, CLOSE], rel=5e-3)


# -- the tape by itself


def make_tape() -> Any:
    model = MarketModel(make_instruments(["BTCUSDT"], ["spot"], 1), seed=1, rate=1.0, epoch_ns=EPOCH_MS * 1_000_000)
    return model.markets[0].tape


def test_day_window_slides_by_minutes_after_24_hours() -> None:
    tape = make_tape()
    trades = [
        (number, 1000 + (number * 37) % 211, 1 + number % 5, EPOCH_MS + number * 433_000) for number in range(1, 600)
    ]
    for number, tick, lots, time_ms in trades:
        tape.add(number, tick, lots, time_ms * 1_000_000, False)
        day, begin_ms = tape.day(time_ms)
        edge = max(EPOCH_MS, bar_start("1m", time_ms) - DAY_MS + MINUTE_MS)
        inside = [trade for trade in trades[:number] if trade[3] >= edge]
        assert begin_ms == edge
        assert (day[COUNT], day[LOTS]) == (len(inside), sum(trade[2] for trade in inside))
        assert (day[OPEN], day[CLOSE]) == (inside[0][1], tick)
        assert (day[2], day[3]) == (max(trade[1] for trade in inside), min(trade[1] for trade in inside))
    day, _ = tape.day(trades[-1][3] + 2 * DAY_MS)
    assert day[COUNT] == 0 and day[OPEN] == day[CLOSE] == trades[-1][1]


def test_minutes_without_a_trade_are_flat_at_the_price_before() -> None:
    tape = make_tape()
    minute = EPOCH_MS // MINUTE_MS * MINUTE_MS
    before = tape.past.price(EPOCH_MS)
    tape.add(1, 500, 3, (minute + 2 * MINUTE_MS) * 1_000_000, True)
    tape.add(2, 700, 3, (minute + 4 * MINUTE_MS) * 1_000_000, True)
    rows = tape.minutes(minute, minute + 6 * MINUTE_MS)
    assert rows[:, CLOSE].tolist() == [before, before, 500, 500, 700, 700]
    assert rows[:, COUNT].tolist() == [0, 0, 1, 0, 1, 0]
    assert rows[[0, 1, 3, 5], 10].tolist() == [-1] * 4
    assert roll_up(rows, "3m")[:, COUNT].sum() == 2


def test_tape_keeps_a_bounded_number_of_bars_and_serves_none_older() -> None:
    tape = make_tape()
    minute = EPOCH_MS // MINUTE_MS * MINUTE_MS + MINUTE_MS
    for number in range(BARS_MAX + 10):
        tape.add(number + 1, 100 + number, 1, (minute + number * MINUTE_MS) * 1_000_000, True)
    rows = tape.minutes(0, minute + (BARS_MAX + 10) * MINUTE_MS)
    assert BARS_MAX // 2 <= len(rows) <= BARS_MAX
    assert set(np.diff(rows[:, CLOSE])) == {1} and rows[-1, CLOSE] == 100 + BARS_MAX + 9


# -- other sources


def test_paced_source_sends_bars_beside_its_messages_and_does_not_count_them() -> None:
    async def test() -> None:
        settings = {"source": "paced", "rate": 500.0, "messages": 1500, "start_settle_s": 0.05, "symbols": 2}
        async with simulator(**settings) as played:
            names = "btcusdt@trade/btcusdt@kline_1m/btcusdt@ticker"
            trades, bars, tickers = [], [], []
            async with connect(f"{played.urls['spot_ws']}/stream?streams={names}") as client:
                while len(trades) < 1500 or not bars:
                    message = json.loads(await client.recv())
                    kind = message["stream"].partition("@")[2]
                    {"trade": trades, "kline_1m": bars, "ticker": tickers}[kind].append(message["data"])
            assert played.source.sent == 1500
            for each in bars:
                bar = each["k"]
                inside = [trade for trade in trades if bar["t"] <= trade["T"] <= bar["T"] and trade["t"] <= bar["L"]]
                assert numbers(bar) == fold(inside)
            assert tickers and tickers[0]["F"] == trades[0]["t"]

    run(test)


def test_market_that_is_stopped_sends_the_open_bar_as_it_stands() -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played:
            url = f"{played.urls['usdm_market_ws']}/stream?streams=btcusdt@kline_5m"
            found = await collect(played, [url], EPOCH_MS + 100_000)
            market = played.source.board.find("usdm", "BTCUSDT").market
            assert found["usdm:btcusdt@kline_5m"][-1]["k"]["L"] == market.tape.last_trade

    run(test)
