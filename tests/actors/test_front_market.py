"""Bars, ticker, funding, open interest, liquidations: from memory, over real HTTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tickring.codecs.klines import bar_start
from tickring.codecs.record import Flag
from tickring.codecs.records import (
    FUNDING,
    KLINE,
    KLINE_OPEN,
    LIQUIDATION,
    MARK_PRICE,
    OPEN_INTEREST,
    QUOTE,
    TICKER,
    TRADE,
)

from .front_rig import FrontThread, Producer, instance_folder, instrument
from .test_front_rest import assert_error

MINUTE = 60_000
HOUR = 60 * MINUTE
BARS = 130


class Rig:
    """Perpetuals with everything that is told of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        records = (TRADE, QUOTE, KLINE, KLINE_OPEN, TICKER, MARK_PRICE, FUNDING, OPEN_INTEREST, LIQUIDATION)
        self.feed = Producer(folder, "feed-binance-usdm-market-0", records=records, capacity=1 << 12)
        self.btc_is = instrument("BTC", market_type="perpetual")
        self.btc = self.feed.add(self.btc_is)
        self.minutes = self.feed.bar_key(self.btc_is, "1m")
        self.now_ms = time.time_ns() // 1_000_000
        self.open_ms = bar_start("1m", self.now_ms)
        for i in range(BARS, 0, -1):
            self.feed.bar(self.minutes, self.open_ms - i * MINUTE, MINUTE, 1000.0 - i, 2.0)
        self.feed.bar(self.minutes, self.open_ms, MINUTE, 1000.0, 0.5, flags=0, record="kline_open")
        publish, now = self.feed.publish, time.time_ns()
        self.ticker()
        publish["mark_price"](self.btc, now, now, 0, 50_001.25, 50_002.5, 0.0)
        self.next_ms = bar_start("8h", self.now_ms) + 8 * HOUR
        for i, rate in enumerate((0.0001, -0.0002, 0.0003)):
            at = now - (3 - i) * 8 * HOUR * 1_000_000
            publish["funding"](self.btc, now, at, int(Flag.SETTLED), rate, 0.0, self.next_ms, 8, 50_000.0, 50_001.0)
        publish["funding"](self.btc, now, now, 0, 0.00012345, 0.0, self.next_ms, 8, 50_000.0, 0.0)
        publish["open_interest"](self.btc, now, now, 0, 81_234.567, 4.06e9, 50_001.25)
        for i in range(3):
            publish["liquidation"](
                self.btc, now, now - i, int(Flag.SELL), 0, 50_000.0 + i, 0.5, 0.5, 49_990.0, 24_995.0, 0
            )  # fmt: skip
        self.feed.quote(self.btc, 50_000.0, 50_001.0)

    def ticker(self) -> None:
        now = time.time_ns()
        self.feed.publish["ticker"](
            self.btc, now, now, 0, 50_000.5, 49_000.0, 51_000.0, 48_000.25, 1234.5, 6.1e7, 2.042, 0.0, 0.0, 99
        )  # fmt: skip


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with instance_folder() as folder:
        rig = Rig(folder)
        yield rig
        rig.feed.close()


@pytest.fixture(scope="module")
def front(rig: Rig) -> Iterator[FrontThread]:
    with FrontThread(rig.folder) as front:
        yield front


# -- candles ------------------------------------------------------------------------------------------------------


def test_candles_are_newest_first_with_the_bar_of_now_on_top(front: FrontThread, rig: Rig) -> None:
    body = front.get("/api/v1/candles?symbol=BTC-USDT-PERP&interval=1m&limit=3&time=ms").json
    rows = body["data"]
    assert [row["timestamp"] for row in rows] == [rig.open_ms - i * MINUTE for i in range(3)]
    assert [row["closed"] for row in rows] == [False, True, True]
    first = rows[1]
    assert (first["open"], first["high"], first["low"], first["close"]) == ("998.00", "1001.00", "996.00", "999.00")
    assert (first["volume"], first["interval"], first["source"]) == ("2.00000", "1m", "stream")
    assert (first["symbol"], first["exchange"], first["market_type"]) == ("BTC-USDT-PERP", "binance", "perpetual")
    assert (body["metadata"]["data_source"], body["metadata"]["completeness"]) == ("memory", 100)
    closed = front.data("/api/v1/candles?symbol=BTC-USDT-PERP&limit=3&closed_only=true&time=ms")
    assert [row["timestamp"] for row in closed] == [rig.open_ms - i * MINUTE for i in range(1, 4)]


@pytest.mark.parametrize("path", [
    "/api/v1/candles/latest?symbol=BTC-USDT-PERP&limit=2", "/api/v1/candles/BTC-USDT-PERP/1m?limit=2",
    "/api/v1/candles/?symbol=BTC-USDT-PERP&limit=2", "/api/v1/candles/BTC/USDT-PERP/1m?limit=2",
])  # fmt: skip
def test_every_path_of_candles_gives_the_same_rows(front: FrontThread, path: str) -> None:
    rows = front.data(path)
    assert [row["close"] for row in rows] == ["1000.00", "999.00"]


def test_candles_of_a_range_and_their_pages(front: FrontThread, rig: Rig) -> None:
    start, end = rig.open_ms - 100 * MINUTE, rig.open_ms - 10 * MINUTE
    path = f"/api/v1/candles/BTC-USDT-PERP/1m?startTime={start}&endTime={end - 1}&time=ms"
    seen = []
    for page in range(1, 5):
        body = front.get(f"{path}&page={page}&size=25").json
        seen += [row["timestamp"] for row in body["data"]]
        assert (body["pagination"]["total"], body["pagination"]["has_next"]) == (90, page < 4)
        assert (body["count"], body["metadata"]["completeness"]) == (90, 100)
    assert seen == list(range(end - MINUTE, start - 1, -MINUTE))


def test_arrays_are_oldest_first_numbers(front: FrontThread, rig: Rig) -> None:
    for path in ("candles/ohlcv?symbol=BTC-USDT-PERP", "klines?symbol=BTC/USDT", "klines/?symbol=BTCUSDT"):
        rows = front.data(f"/api/v1/{path}&interval=1m&limit=2")
        assert rows == [
            [rig.open_ms - MINUTE, 998.0, 1001.0, 996.0, 999.0, 2.0], [rig.open_ms, 999.0, 1002.0, 997.0, 1000.0, 0.5],
        ]  # fmt: skip
    start = rig.open_ms - 50 * MINUTE
    since = front.data(f"/api/v1/klines?symbol=BTCUSDT&interval=1m&startTime={start}&limit=3")
    assert [row[0] for row in since] == [start, start + MINUTE, start + 2 * MINUTE]
    text = front.data("/api/v1/klines?symbol=BTCUSDT&interval=1m&limit=1&decimals=string")
    assert text == [[rig.open_ms, "999.00", "1002.00", "997.00", "1000.00", "0.50000"]]


def test_longer_candles_are_made_of_shorter_ones(front: FrontThread, rig: Rig) -> None:
    rows = front.data("/api/v1/candles?symbol=BTC-USDT-PERP&interval=1h&time=ms")
    newest = bar_start("1h", rig.now_ms) - HOUR
    whole = next(row for row in rows if row["timestamp"] == newest)
    closes = [1000.0 - (rig.open_ms - newest) // MINUTE + i for i in range(60)]
    assert (float(whole["open"]), float(whole["close"])) == (closes[0] - 1, closes[-1])
    assert (float(whole["high"]), float(whole["low"])) == (closes[-1] + 2, closes[0] - 3)
    assert (float(whole["volume"]), whole["trade_count"]) == (120.0, 420)
    assert (whole["interval"], whole["source"], whole["partial"]) == ("1h", "rolled_up", False)
    intervals = front.get("/api/v1/candles/intervals?symbol=BTC-USDT-PERP").json
    assert intervals["metadata"]["recorded"] == ["1m"]
    assert intervals["data"][:3] == ["1m", "3m", "5m"]
    assert intervals["data"][-1] == "1M"
    assert_error(front.get("/api/v1/candles/stats?symbol=BTC-USDT-PERP&interval=1h"), 404, "NOT_FOUND")


def test_missing_bar_shows_in_the_completeness(front: FrontThread, rig: Rig) -> None:
    what = instrument("HOLE", market_type="perpetual")
    key_id = rig.feed.bar_key(what, "1m")
    for i in (10, 9, 8, 6, 5, 4, 3, 2, 1):
        rig.feed.bar(key_id, rig.open_ms - i * MINUTE, MINUTE)
    rig.feed.bar(key_id, rig.open_ms - 9 * MINUTE, MINUTE, 55.0, flags=int(Flag.CLOSED | Flag.BACKFILL))
    front.loop.call_soon_threadsafe(front.front.catalog.refresh)
    start = rig.open_ms - 10 * MINUTE
    path = f"/api/v1/candles/HOLE-USDT-PERP/1m?start_time={start}&end_time={rig.open_ms - 1}&time=ms"
    body = front.get(path).json
    assert len(body["data"]) == 9
    assert body["metadata"]["completeness"] == 90
    replaced = next(row for row in body["data"] if row["timestamp"] == rig.open_ms - 9 * MINUTE)
    assert (replaced["close"], replaced["source"]) == ("55.00", "rest")


def test_candle_statistics_tell_what_is_held(front: FrontThread, rig: Rig) -> None:
    answer = front.get("/api/v1/candles/stats?symbol=BTC-USDT-PERP&time=ms")
    data = answer.json["data"]
    assert (data["total_count"], data["earliest_time"]) == (BARS, rig.open_ms - BARS * MINUTE)
    assert (data["price_range"], float(data["total_volume"])) == ({"min": "867.00", "max": "1001.00"}, 2.0 * BARS)
    assert answer.headers["x-cache"] == "MISS"
    again = front.get("/api/v1/candles/stats?symbol=BTC-USDT-PERP&time=ms")
    assert (again.headers["x-cache"], again.json["data"]) == ("HIT", data)
    assert again.json["metadata"]["age_seconds"] >= 0


@pytest.mark.parametrize("query", [
    "symbol=BTC-USDT-PERP&interval=7m", "symbol=BTC-USDT-PERP&interval=1H", "symbol=BTC-USDT-PERP&limit=1001",
    "symbol=BTC-USDT-PERP&start_time=2000&end_time=1000",
])  # fmt: skip
def test_bad_candle_parameters_are_400(front: FrontThread, query: str) -> None:
    assert front.get(f"/api/v1/candles?{query}").status == 400


def test_interval_that_cannot_be_made_is_400_with_those_that_can(front: FrontThread) -> None:
    body = assert_error(front.get("/api/v1/candles?symbol=BTC-USDT-PERP&interval=3d"), 400, "INVALID_PARAMETER")
    assert "1m, 3m, 5m, 15m, 30m, 1h, 2h, 4h, 6h, 8h, 12h, 1d, 1w, 1M" in str(body)
    assert "3d" not in front.data("/api/v1/candles/intervals?symbol=BTC-USDT-PERP")


def test_candles_of_an_instrument_without_bars_are_404(front: FrontThread) -> None:
    assert_error(front.get("/api/v1/candles?symbol=NOPE-USDT"), 404, "NOT_FOUND")
    assert_error(front.get("/api/v1/klines?symbol=NOPEUSDT&interval=1h"), 404, "NOT_FOUND")


# -- the rest -----------------------------------------------------------------------------------------------------


def test_ticker_has_the_last_24_hours_of_the_exchange(front: FrontThread) -> None:
    ticker = front.data("/api/v1/ticker/binance/BTC-USDT-PERP")
    assert (ticker["bid"], ticker["ask"], ticker["last"]) == ("50000.00", "50001.00", "50000.50")
    assert (ticker["open_24h"], ticker["high_24h"], ticker["low_24h"]) == ("49000.00", "51000.00", "48000.25")
    assert (ticker["volume_24h"], ticker["quote_volume_24h"]) == ("1234.50000", "61000000.00000")
    assert (ticker["change_pct"], ticker["trade_count_24h"], ticker["source_24h"]) == ("2.042", 99, "ticker")


def test_mark_price_and_open_interest_are_the_newest_records(front: FrontThread) -> None:
    mark = front.data("/api/v1/mark-price/binance/BTC-USDT-PERP")
    assert (mark["mark_price"], mark["index_price"]) == ("50001.25", "50002.50")
    assert "settle_price" not in mark
    for symbol in ("BTC-USDT-PERP", "BTC-USDT", "btcusdt"):
        found = front.data(f"/api/v1/open-interest/binance/{symbol}")
        assert (found["open_interest"], found["unit"]) == ("81234.56700", "coins")
        assert found["instrument"] == "BTC-USDT-PERP"


def test_liquidations_are_newest_first_with_their_status_as_a_word(front: FrontThread) -> None:
    body = front.get("/api/v1/liquidations/binance/BTC-USDT?limit=2").json
    assert [row["price"] for row in body["data"]] == ["50002.00", "50001.00"]
    assert (body["data"][0]["side"], body["data"][0]["status"]) == ("sell", "filled")
    assert body["pagination"]["has_next"] is True
    cursor = body["pagination"]["next_cursor"]
    rest = front.get(f"/api/v1/liquidations/binance/BTC-USDT?limit=2&cursor={cursor}").json
    assert [row["price"] for row in rest["data"]] == ["50000.00"]
    assert rest["pagination"]["next_cursor"] is None


def test_funding_rows_current_and_figures(front: FrontThread, rig: Rig) -> None:
    rows = front.data("/api/v1/funding/BTC-USDT")
    assert [row["rate"] for row in rows] == ["0.00012345", "0.0003", "-0.0002", "0.0001"]
    assert [row["is_settlement"] for row in rows] == [False, True, True, True]
    now = front.data("/api/v1/funding/current?symbol=BTCUSDT&time=ms")
    assert (now["rate"], now["next_funding_time"], now["funding_interval_h"]) == ("0.00012345", rig.next_ms, 8)
    assert len(front.data("/api/v1/funding/latest?symbol=BTC-USDT&limit=2")) == 2
    stats = front.data("/api/v1/funding/stats?symbol=BTC-USDT&decimals=number")
    assert (stats["total_records"], stats["basis"]) == (3, "settled")
    assert stats["distribution"] == {"positive_count": 2, "negative_count": 1, "zero_count": 0}
    figures = stats["rate_statistics"]
    assert (figures["min"], figures["max"], figures["median"]) == (-0.0002, 0.0003, 0.0001)
    history = front.get("/api/v1/funding/historical?symbol=BTC-USDT&interval_hours=8").json
    assert sum(row["record_count"] for row in history["data"]) == 4
    assert history["metadata"]["completeness"] == 100


def test_instrument_lists_the_records_that_it_has(front: FrontThread) -> None:
    records = front.data("/api/v1/instruments/BTC-USDT-PERP")["records"]
    assert {"kline", "kline_open", "ticker", "funding", "open_interest", "liquidation"} <= set(records)
    assert records.count("kline") == 1


def test_health_covers_every_type(front: FrontThread, rig: Rig) -> None:
    rig.ticker()  # the last one may have been long ago
    covered = front.get("/health").json["coverage"]
    assert {"trade", "kline", "ticker", "funding_rate", "open_interest", "liquidation"} <= covered.keys()
    assert covered["ticker"]["binance"]["status"] == "healthy"
    assert covered["kline"]["binance"]["symbols"] == 2
