"""Answers that need ClickHouse: cursors, statistics, bars and rates of a real embedded engine beside memory."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickring.actors.front.merge import Seam
from tickring.codecs.klines import bar_start
from tickring.codecs.record import Flag
from tickring.codecs.records import FUNDING, KLINE, QUOTE, TRADE
from tickring.ringbuf import ReaderKind, StreamReader
from tickring.storage.client import Server
from tickring.storage.gaps import RING_GONE, SPOOL_FULL, Gap, GapLedger

from ..rings import publish_rows
from .front_rig import (  # noqa: F401 - fixtures
    PRODUCER,
    FrontThread,
    Producer,
    engine_fixture,
    instance_folder,
    instrument,
    server_fixture,
    store,
)
from .test_front_rest import assert_error, eventually

MINUTE = 60_000
HOUR_NS = 3600 * 10**9
OLD, STORED, FRESH = 400, 2000, 500  # trades of an earlier epoch, of this one in ClickHouse, and in memory alone


class Desk:
    """An instrument whose trades lie in three places, and the front that shows them."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.now = time.time_ns()
        self.producer = Producer(folder, records=(TRADE, QUOTE, KLINE, FUNDING), capacity=1 << 12)
        self.spot, self.perp = instrument("BTC"), instrument("BTC", market_type="perpetual")
        self.btc, self.btc_perp = self.producer.add(self.spot), self.producer.add(self.perp)
        self.minutes = self.producer.bar_key(self.perp, "1m")
        self.readers = {
            record.name: StreamReader(folder, PRODUCER, record.name, record.dtype) for record in (TRADE, KLINE, FUNDING)
        }
        self.lines: list[Any] = []
        self._trades(server)
        self._bars(server)
        self._rates(server)
        for reader in self.readers.values():
            done = STORED if reader.record == "trade" else reader.published()
            self.lines.append(reader.register("writer.stored", ReaderKind.LOSSY, None, done))
        self.front = FrontThread(folder, history=True, clickhouse=server, history_probe_s=0.1, history_timeout_s=10.0,
                                 history_total_timeout_s=10.0, history_hint_timeout_s=10.0)  # fmt: skip

    def _publish_trades(self, n: int, start_ns: int, step_ns: int, first_id: int) -> np.ndarray:
        rows = np.zeros(n, TRADE.dtype)
        rows["key_id"] = self.btc
        rows["ts_event_ns"] = start_ns + np.arange(n) * step_ns
        rows["ts_recv_ns"] = rows["ts_event_ns"] + 1000
        rows["trade_id"] = first_id + np.arange(n)
        rows["price"] = 100 + np.arange(n) % 100
        rows["quantity"] = 0.5
        rows["flags"] = np.where(np.arange(n) % 4 == 0, int(Flag.SELL), 0)
        return rows

    def _trades(self, server: Server) -> None:
        reader = self.readers["trade"]
        keys = [reader.keys[i] for i in range(3)]
        # None is within an hour of the edge of the last 24 h, which moves on while the tests run.
        half = OLD // 2
        before = self._publish_trades(half, self.now - 30 * HOUR_NS, 30 * 10**9, 1)
        within = self._publish_trades(half, self.now - 22 * HOUR_NS, 30 * 10**9, 1 + half)
        old = np.concatenate((before, within))
        old["nth"] = np.arange(OLD)
        store(server, TRADE, old, keys, reader.epoch - 10**9)
        rows = self._publish_trades(STORED + FRESH, self.now - 20 * HOUR_NS, 25 * 10**9, 10_001)
        publish_rows(self.producer.writers["trade"], rows)
        read, _, _ = reader.read(0, 1 << 16)
        store(server, TRADE, read[:STORED], keys, reader.epoch)
        self.rows = np.concatenate((old, read))

    def _bars(self, server: Server) -> None:
        self.open_ms = bar_start("1m", self.now // 1_000_000)
        reader = self.readers["kline"]
        keys = [reader.keys[i] for i in range(3)]
        old = np.zeros(3001, KLINE.dtype)
        ages = np.append(np.arange(3010, 10, -1), 1500)  # the last bar a second time, from the exchange's history
        old["nth"], old["key_id"], old["flags"] = np.arange(3001), self.minutes, int(Flag.CLOSED)
        old["flags"][-1] |= int(Flag.BACKFILL)
        old["open_ts"] = self.open_ms - ages * MINUTE
        old["close_ts"] = old["open_ts"] + MINUTE - 1
        for name, above in (("open", 0), ("high", 2), ("low", -2), ("close", 1)):
            old[name] = 5000.0 - ages + above
        old["close"][-1] = old["high"][-1] = 9999.0
        old["volume"] = 1.5
        old["ts_event_ns"] = (old["open_ts"] + MINUTE) * 1_000_000
        old["ts_recv_ns"] = old["ts_event_ns"] + 10**6
        store(server, KLINE, old, keys, reader.epoch - 10**9)
        for age in range(10, 0, -1):
            self.producer.bar(self.minutes, self.open_ms - age * MINUTE, MINUTE, 5001.0 - age, 1.5)

    def _rates(self, server: Server) -> None:
        reader = self.readers["funding"]
        keys = [reader.keys[i] for i in range(3)]
        old = np.zeros(60, FUNDING.dtype)
        old["nth"], old["key_id"], old["flags"] = np.arange(60), self.btc_perp, int(Flag.SETTLED)
        old["rate"] = np.arange(-20, 40) / 1e5
        old["ts_event_ns"] = self.now - (61 - np.arange(60)) * 8 * HOUR_NS
        old["ts_recv_ns"] = old["ts_event_ns"] + 1
        store(server, FUNDING, old, keys, reader.epoch - 10**9)
        for rate, flags in ((0.0004, Flag.SETTLED), (0.0005, Flag(0))):
            at = self.now - HOUR_NS if flags else self.now
            self.producer.publish["funding"](self.btc_perp, at, at, int(flags), rate, 0.0, 1, 8, 0.0, 0.0)

    def close(self) -> None:
        for line in self.lines:
            line.close()
        for reader in self.readers.values():
            reader.close()
        self.producer.close()


@pytest.fixture(scope="module")
def desk(engine: Any) -> Iterator[Desk]:
    server = Server(
        url=engine.detail()["url"], password_file=str(engine.data / "clickhouse" / "password"), database="desk",
        timeout_s=20.0,
    )  # fmt: skip
    with instance_folder() as folder:
        desk = Desk(folder, server)
        with desk.front as front:
            eventually(lambda: front.front.history.alive, "the engine answers the probe")
            yield desk
        desk.close()


@pytest.fixture
def front(desk: Desk) -> FrontThread:
    return desk.front


def last_day(desk: Desk, hours: int = 24) -> np.ndarray:
    return desk.rows[desk.rows["ts_event_ns"] >= desk.now - hours * HOUR_NS]


# -- pages and cursors --------------------------------------------------------------------------------------------


def test_cursor_walks_through_memory_and_every_epoch_once(front: FrontThread, desk: Desk) -> None:
    seen, cursor, sources = [], "", set()
    for _ in range(20):
        query = f"start_time=0&page_size=250{'&cursor=' + cursor if cursor else ''}"
        body = front.get(f"/api/v1/trades/BTC-USDT?{query}").json
        seen += [int(row["trade_id"]) for row in body["data"]]
        sources.add(body["metadata"]["data_source"])
        assert body["metadata"]["completeness"] == 100
        cursor = body["pagination"]["next_cursor"]
        if cursor is None:
            break
    assert seen == desk.rows["trade_id"][::-1].tolist()
    assert sources == {"memory", "mixed", "database"}


def test_cursor_is_not_moved_by_new_trades(front: FrontThread, desk: Desk) -> None:
    first = front.get("/api/v1/trades/BTC-USDT?limit=10&start_time=0").json
    for _ in range(5):
        desk.producer.trade(desk.btc_perp)  # another key of the same ring
    second = front.get(f"/api/v1/trades/BTC-USDT?limit=10&cursor={first['pagination']['next_cursor']}").json
    numbers = [row["seq"] for row in (*first["data"], *second["data"])]
    assert numbers == list(range(numbers[0], numbers[0] - 20, -1))


@pytest.mark.parametrize(
    "cursor", ["x", "1", "1.", ".1", "-1.2.3", "g.1.1", "1" * 17 + ".1.1", "0x1.1.1", "1.2", "1.2.3.4"]
)
def test_cursor_of_another_form_is_400(front: FrontThread, cursor: str) -> None:
    answer = front.get(f"/api/v1/trades/BTC-USDT?cursor={cursor}")
    assert_error(answer, 400, "INVALID_PARAMETER", "cursor")


def test_totals_of_pages_count_both_places_and_are_kept(front: FrontThread, desk: Desk) -> None:
    for page in (1, 3, 2):
        body = front.get(f"/api/v1/trades/BTC-USDT?start_time=0&page={page}&page_size=700").json
        assert body["pagination"]["total"] == body["count"] == len(desk.rows)
        assert body["pagination"]["total_pages"] == 5 if page else 4
    answered = front.front.history._answered.value
    front.get("/api/v1/trades/BTC-USDT?start_time=0&page=2&page_size=600")
    assert front.front.history._answered.value == answered + 1  # the rows alone
    default = front.get("/api/v1/trades/BTC-USDT?page=1&page_size=5").json
    assert default["pagination"]["total"] == len(last_day(desk))


def test_total_of_a_range_that_is_over_is_counted_once_wherever_the_seam_goes(front: FrontThread, desk: Desk) -> None:
    history, ends = front.front.history, desk.now - 2 * 60 * 10**9
    source = front.front.catalog.find_instrument("trade", "binance", "BTC-USDT")
    assert source is not None
    below = [Seam(source.epoch, nth) for nth in (source.reader.count(desk.btc), 20, 10)]

    def ask(end_ns: int, fixed_end: int | None, seam: Seam, held: int) -> int | None:
        count = history.counter(TRADE, source, (0, fixed_end))
        return asyncio.run_coroutine_threadsafe(count(seam, 0, end_ns, held), front.loop).result(30)

    answered = history._answered.value
    totals = {ask(ends, ends, seam, held) for seam, held in zip(below, (7, 8, 9), strict=True)}
    assert len(totals) == 1 and history._answered.value == answered + 1
    now = time.time_ns()
    assert ask(now, now, below[1], 5) == ask(now, now, below[2], 15)
    assert history._answered.value == answered + 3, "its newest records may still come: counted for each seam"


# -- statistics ---------------------------------------------------------------------------------------------------


def test_trade_statistics_fold_both_places(front: FrontThread, desk: Desk) -> None:
    for hours in (24, 48):
        answer = front.get(f"/api/v1/trades/stats?symbol=BTC-USDT&hours={hours}&decimals=number")
        rows, data = last_day(desk, hours), answer.json["data"]
        sells = (rows["flags"] & int(Flag.SELL)) != 0
        assert data["total_trades"] == len(rows)
        assert data["total_volume"] == len(rows) * 0.5
        assert (data["price_stats"]["min"], data["price_stats"]["max"]) == (100, 199)
        assert data["price_stats"]["avg"] == pytest.approx(rows["price"].mean())
        assert data["side_distribution"] == {
            "buy_count": int((~sells).sum()), "sell_count": int(sells.sum()),
            "buy_volume": (~sells).sum() * 0.5, "sell_volume": sells.sum() * 0.5,
        }  # fmt: skip
        metadata = answer.json["metadata"]
        assert (metadata["data_source"], metadata["completeness"], metadata["age_seconds"]) == ("mixed", 100, 0)
        assert (answer.headers["x-cache"], answer.headers["age"]) == ("MISS", "0")
    again = front.get("/api/v1/trades/stats?symbol=BTC-USDT&hours=48&decimals=number")
    assert (again.headers["x-cache"], again.json["data"]) == ("HIT", data)
    text = front.data("/api/v1/trades/stats?symbol=BTC-USDT&hours=48")
    assert text["price_stats"]["min"] == "100.00"


def test_trade_volume_by_interval_adds_up(front: FrontThread, desk: Desk) -> None:
    rows = last_day(desk)
    body = front.get("/api/v1/trades/volume?symbol=BTC-USDT&interval_minutes=60&time=ms&decimals=number").json
    assert sum(one["trade_count"] for one in body["data"]) == len(rows)
    assert sum(one["volume"] for one in body["data"]) == len(rows) * 0.5
    starts = [one["timestamp"] for one in body["data"]]
    assert starts == sorted(starts, reverse=True)
    for one in body["data"]:
        mine = rows[rows["ts_event_ns"] // (60 * 60 * 10**9) == one["timestamp"] // 3_600_000]
        assert (one["trade_count"], one["avg_price"]) == (len(mine), pytest.approx(mine["price"].mean()))
    assert body["metadata"]["data_source"] == "mixed"


def test_large_trades_of_both_places_are_newest_first(front: FrontThread, desk: Desk) -> None:
    rows = last_day(desk)
    large = rows[rows["price"] * rows["quantity"] >= 99][::-1]
    found = front.data("/api/v1/trades/large?symbol=BTC-USDT&min_amount=99&limit=500")
    assert [int(row["trade_id"]) for row in found] == large["trade_id"].tolist()
    assert (found[0]["notional_value"], found[0]["amount"]) == ("99.50", "0.50000")
    few = front.data("/api/v1/trades/large?symbol=BTC-USDT&min_amount=99&limit=3")
    assert few == found[:3]
    assert front.data("/api/v1/trades/large?symbol=BTC-USDT") == []


def test_ticker_without_a_record_is_worked_out_of_the_trades(front: FrontThread, desk: Desk) -> None:
    desk.producer.quote(desk.btc)
    ticker = front.data("/api/v1/ticker/binance/BTC-USDT?decimals=number")
    rows = last_day(desk)
    assert (ticker["source_24h"], ticker["trade_count_24h"]) == ("trades", len(rows))
    assert (ticker["open_24h"], ticker["last"]) == (rows["price"][0], rows["price"][-1])
    assert (ticker["high_24h"], ticker["low_24h"], ticker["volume_24h"]) == (199, 100, len(rows) * 0.5)


def test_data_integrity_counts_what_is_held_and_lists_gaps(front: FrontThread, desk: Desk) -> None:
    whole = front.data("/api/v1/health/data-integrity/BTC-USDT?hours=47")
    assert (whole["status"], whole["completeness"]) == ("complete", 100)
    assert whole["records"]["trade"]["count"] == len(last_day(desk, 47))
    assert whole["records"]["trade"]["lag_records"] >= FRESH
    gaps = front.folder / "gaps"
    gaps.mkdir()
    gap = {"exchange": "binance", "instrument": "BTC-USDT", "kind": "trade", "first_id": 7, "last_id": 9}
    line = json.dumps({**gap, "from_ns": desk.now - HOUR_NS, "to_ns": desk.now})
    (gaps / f"{PRODUCER}.jsonl").write_text(line + '\n{"torn')
    found = front.data("/api/v1/health/data-integrity/BTC-USDT?hours=48")
    assert (found["status"], found["gap_count"], found["gaps"][0]["origin"]) == ("incomplete", 1, "exchange")
    assert (found["gaps"][0]["missing"], found["gaps"][0]["data_type"]) == (3, "trade")
    assert found["completeness"] == found["records"]["trade"]["completeness"] < 100
    assert found["records"]["trade"]["missing"] == 3
    assert_error(front.get("/api/v1/health/data-integrity/NOPE-USDT"), 404, "NOT_FOUND")


def test_trades_that_never_came_are_missing_where_they_would_be(front: FrontThread, desk: Desk) -> None:
    """Gaps of a feed's ledger, and no others: of books, of other instruments, outside of what is shown."""
    assert front.get("/api/v1/trades/BTC-USDT?limit=40").json["metadata"]["completeness"] == 100
    gaps = front.folder / "gaps"
    gaps.mkdir(exist_ok=True)
    newest = desk.rows[-40:]
    between = {"from_ns": int(newest["ts_recv_ns"][3]), "to_ns": int(newest["ts_recv_ns"][4])}
    gap = {"exchange": "binance", "instrument": "BTC-USDT", "kind": "trade", "first_id": 1, "last_id": 10, **between}
    lines = [
        gap | {"to_ns": desk.now - 50 * HOUR_NS, "from_ns": desk.now - 51 * HOUR_NS}, gap | {"kind": "book"},
        gap | {"instrument": "ETH-USDT"}, gap,
    ]  # fmt: skip
    (gaps / "feed-binance-spot-7.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    for path in (
        "/api/v1/trades/BTC-USDT?limit=40",
        f"/api/v1/trades/BTC-USDT?start_time={desk.now // 10**6 - 86_300_000}&limit=40",
    ):
        eventually(lambda path=path: front.get(path).json["metadata"]["completeness"] == 80.0, "the gap is seen")
        assert "10 trades never came" in front.get(path).json["metadata"]["note"]
    few = front.get("/api/v1/trades/BTC-USDT?limit=30").json["metadata"]
    assert few["completeness"] == 100 and "note" not in few
    stats = front.get("/api/v1/trades/stats?symbol=BTC-USDT&hours=23").json["metadata"]
    assert stats["completeness"] < 100 and "trades never came" in stats["note"]
    (gaps / "feed-binance-spot-7.jsonl").unlink()


def test_data_integrity_tells_when_nobody_listened(front: FrontThread, desk: Desk) -> None:
    folder = front.folder / "outages"
    folder.mkdir()
    began, ended = desk.now - HOUR_NS, desk.now - HOUR_NS // 2
    lines = [
        ("*", ended - 40 * HOUR_NS, ended - 40 * HOUR_NS),  # the first connection of all
        ("*", began, 0), ("*", began, ended), ("btcusdt@ticker", began, ended), ("ethusdt@ticker", began, ended),
        ("*", ended, 0),
    ]  # fmt: skip
    for producer in (PRODUCER, "feed-binance-usdm-market-0"):
        (folder / f"{producer}.jsonl").write_text("".join(
            json.dumps({"exchange": "binance", "stream": stream, "from_ns": first, "to_ns": last}) + "\n"
            for stream, first, last in lines
        ))  # fmt: skip
    found = front.data("/api/v1/health/data-integrity/BTC-USDT?hours=45")
    holes = [one for one in found["gaps"] if one["data_type"] == "outage"]
    assert found["status"] == "incomplete"
    assert [(one["stream"], one["status"]) for one in holes] == [
        (None, "failed"), ("btcusdt@ticker", "failed"), (None, "pending"),
    ]  # fmt: skip
    assert [one["gap_end"] is None for one in holes] == [False, False, True]
    assert {one["gap_start"] for one in holes[:2]} == {holes[1]["gap_start"]} and not holes[0]["first_id"]


def test_data_integrity_tells_what_the_writer_could_not_store(front: FrontThread, desk: Desk) -> None:
    ledger = GapLedger(front.folder / "writer")
    common = {"noticed_ns": desk.now, "epoch": 7, "reason": SPOOL_FULL, "after_ns": desk.now - HOUR_NS}
    lost = Gap(stream=f"{PRODUCER}.trade", first=10, stop=25, before_ns=desk.now - 1, **common)
    ledger.add(lost)
    ledger.add(lost)  # as after a crash
    ledger.add(Gap(stream="feed-binance-spot-9.trade", first=1, stop=None, **{**common, "reason": RING_GONE}))
    ledger.add(Gap(stream="feed-binance-usdm-market-0.trade", first=1, stop=3, **common))
    ledger.add(Gap(stream=f"{PRODUCER}.trade", first=0, stop=3, **{**common, "noticed_ns": desk.now - 90 * HOUR_NS}))
    ledger.close()
    found = front.data("/api/v1/health/data-integrity/BTC-USDT?hours=46")
    holes = [one for one in found["gaps"] if one["origin"] == "storage"]
    assert found["status"] == "incomplete"
    assert [(one["stream"], one["reason"], one["rows"], one["missing"]) for one in holes] == [
        (f"{PRODUCER}.trade", SPOOL_FULL, 15, None), ("feed-binance-spot-9.trade", RING_GONE, None, None),
    ]  # fmt: skip
    assert (holes[0]["first_id"], holes[0]["last_id"], holes[0]["data_type"]) == ("10", "24", "trade")


# -- bars and rates -----------------------------------------------------------------------------------------------


def test_candles_reach_back_into_clickhouse_and_the_best_version_wins(front: FrontThread, desk: Desk) -> None:
    path = "/api/v1/candles/BTC-USDT-PERP/1m?time=ms&decimals=number"
    newest = front.get(f"{path}&limit=5").json
    assert (newest["metadata"]["data_source"], newest["data"][0]["close"]) == ("memory", 5000.0)
    body = front.get(f"{path}&limit=1000").json
    assert [row["timestamp"] for row in body["data"]] == [desk.open_ms - i * MINUTE for i in range(1, 1001)]
    assert (body["metadata"]["data_source"], body["metadata"]["completeness"]) == ("mixed", 100)
    start = desk.open_ms - 1600 * MINUTE
    old = front.get(f"{path}&start_time={start}&end_time={start + 200 * MINUTE - 1}&limit=1000").json
    assert (len(old["data"]), old["metadata"]["data_source"]) == (200, "database")
    better = next(row for row in old["data"] if row["timestamp"] == desk.open_ms - 1500 * MINUTE)
    assert (better["close"], better["source"]) == (9999.0, "rest")
    paged = front.get(f"{path}&page=4&page_size=1000").json
    assert (paged["pagination"]["total"], len(paged["data"])) == (3010, 10)


@pytest.mark.parametrize("interval", ["1m", "1h"])
def test_candle_cursor_walks_through_memory_and_history_once(front: FrontThread, desk: Desk, interval: str) -> None:
    path = f"/api/v1/candles/BTC-USDT-PERP/{interval}?time=ms&limit={700 if interval == '1m' else 20}"
    seen, cursor = [], ""
    while True:
        body = front.get(f"{path}{'&cursor=' + cursor if cursor else ''}").json
        seen += [row["timestamp"] for row in body["data"]]
        assert body["pagination"]["has_prev"] == bool(cursor)
        assert body["pagination"]["has_next"] == (body["pagination"]["next_cursor"] is not None)
        cursor = body["pagination"]["next_cursor"]
        if cursor is None:
            break
    if interval == "1m":
        assert seen == [desk.open_ms - i * MINUTE for i in range(1, 3011)]
    else:
        assert len(seen) >= 49 and all(newer - older == 3_600_000 for newer, older in itertools.pairwise(seen))
    paged = front.get(f"{path}&page=1").json
    following = front.get(f"{path}&cursor={paged['pagination']['next_cursor']}").json
    assert following["data"] == front.get(f"{path}&page=2").json["data"]
    for wrong in ("x", "0", "-1", "1.2.3", "1" * 14):
        assert_error(front.get(f"{path}&cursor={wrong}"), 400, "INVALID_PARAMETER", "cursor")


def test_klines_from_a_start_are_the_first_ones(front: FrontThread, desk: Desk) -> None:
    start = desk.open_ms - 3005 * MINUTE
    rows = front.data(f"/api/v1/klines?symbol=BTC/USDT&interval=1m&startTime={start}&limit=2500")
    assert [row[0] for row in rows] == [start + i * MINUTE for i in range(2500)]
    newest = front.data("/api/v1/klines?symbol=BTC/USDT&interval=1m&limit=5000")
    assert len(newest) == 3010
    assert newest[-1] == [desk.open_ms - MINUTE, 4999.0, 5002.0, 4997.0, 5000.0, 1.5]
    longer = front.data("/api/v1/klines?symbol=BTC/USDT&interval=1h&limit=20")
    assert all(after[0] - before[0] == 3_600_000 for before, after in itertools.pairwise(longer))
    assert (len(longer), longer[5][5]) == (20, 90.0)


def test_candle_statistics_cover_both_places(front: FrontThread, desk: Desk) -> None:
    data = front.data("/api/v1/candles/stats?symbol=BTC-USDT-PERP&time=ms&decimals=number")
    assert (data["total_count"], data["earliest_time"]) == (3010, desk.open_ms - 3010 * MINUTE)
    assert (data["latest_time"], data["price_range"]["max"]) == (desk.open_ms - MINUTE, 9999.0)


def test_funding_statistics_and_rows_cover_both_places(front: FrontThread, desk: Desk) -> None:
    stats = front.data("/api/v1/funding/stats?symbol=BTC-USDT&days=30&decimals=number")
    assert (stats["total_records"], stats["basis"]) == (61, "settled")
    assert (stats["rate_statistics"]["min"], stats["rate_statistics"]["max"]) == (-0.0002, 0.0004)
    assert stats["distribution"] == {"positive_count": 40, "negative_count": 20, "zero_count": 1}
    few = front.data("/api/v1/funding/stats?symbol=BTC-USDT&days=1")
    assert few["total_records"] == 2  # 16 hours and one hour ago
    rows = front.get("/api/v1/funding/BTC-USDT?limit=1000").json
    assert (len(rows["data"]), rows["metadata"]["data_source"]) == (62, "mixed")
    history = front.data("/api/v1/funding/historical?symbol=BTC-USDT&days=30&interval_hours=24")
    assert sum(one["record_count"] for one in history) == 62


def test_statistics_without_clickhouse_are_memorys_and_not_kept(front: FrontThread, desk: Desk) -> None:
    history = front.front.history
    alive, history.alive = history.alive, False
    probe, history._client.ping = history._client.ping, _no_ping  # type: ignore[method-assign]
    try:
        for _ in range(2):
            answer = front.get("/api/v1/trades/stats?symbol=BTC-USDT&hours=36")
            assert answer.headers["x-cache"] == "MISS"
            assert answer.json["metadata"]["completeness"] < 100
            assert "did not answer" in answer.json["metadata"]["note"]
            assert answer.json["data"]["total_trades"] >= FRESH
    finally:
        history.alive, history._client.ping = alive, probe  # type: ignore[method-assign]


async def _no_ping(timeout_s: float = 0.0) -> bool:
    return False
