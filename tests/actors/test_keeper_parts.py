"""What the keeper decides without asking anybody: pieces of a range, when a payment is due, what a row says."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickring.actors.keeper import Config, settlements
from tickring.actors.keeper.bars import chunks
from tickring.actors.keeper.errors import KeeperAway
from tickring.actors.keeper.metrics import Metrics
from tickring.actors.keeper.protocol import Delete, ask
from tickring.actors.keeper.settlements import HOUR_MS, Settlements
from tickring.actors.keeper.temporary import TemporaryRanges
from tickring.actors.ledger import Ledger
from tickring.codecs.klines import MINUTE_MS, bar_start, bar_starts, bar_stop
from tickring.codecs.records import FUNDING
from tickring.ringbuf import MetricsPage
from tickring.storage.errors import Unavailable

from .front_rig import Producer, instrument

MS = 1_000_000
NOON_MS = 1_790_000_000_000 // (8 * HOUR_MS) * 8 * HOUR_MS


@pytest.mark.parametrize("interval", ["1m", "3d", "1w", "1M"])
@pytest.mark.parametrize("offset", [0, 1, 86_400_000])
def test_bar_starts_are_those_inside(interval: str, offset: int) -> None:
    start = bar_start(interval, NOON_MS) + offset
    stop = start + 100 * 86_400_000 if interval != "1m" else start + 100 * MINUTE_MS
    found = list(bar_starts(interval, start, stop))
    at, expected = bar_start(interval, start), []
    while at < stop:
        expected += [at] if at >= start else []
        at = bar_stop(interval, at)
    assert found == expected and len(bar_starts(interval, start, start)) == (found[:1] == [start] and 0)


@given(st.sets(st.integers(0, 5000), min_size=1), st.integers(1, 1500))
def test_chunks_hold_every_bar_once_and_none_spans_more_than_one_request(minutes: set[int], most: int) -> None:
    starts = np.array(sorted(minutes), np.int64) * MINUTE_MS
    pieces = chunks(starts, "1m", most)
    assert np.concatenate(pieces).tolist() == starts.tolist()
    assert all((piece[-1] - piece[0]) // MINUTE_MS < most for piece in pieces)


# -- payments -----------------------------------------------------------------------------------------------------


class Exchange:
    """Pays every eight hours; answers as REST does, or not at all."""

    def __init__(self) -> None:
        self.now_ms = NOON_MS
        self.late_ms = 0  # how long a payment is not told of
        self.asked: list[str] = []
        self.step_h = 8

    def clock(self) -> int:
        return self.now_ms * MS

    async def get(self, path: str, weight: int, *_: Any) -> bytes:
        self.asked.append(path)
        start = int(path.rpartition("=")[2])
        first = -(-start // (self.step_h * HOUR_MS)) * self.step_h * HOUR_MS
        times = range(first, self.now_ms - self.late_ms + 1, self.step_h * HOUR_MS)[:1000]
        rows = [{"symbol": "BTCUSDT", "fundingTime": at, "fundingRate": "0.0001", "markPrice": "5"} for at in times]
        return json.dumps(rows).encode()


class Table:
    """ClickHouse's part."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: Any = np.empty(0, FUNDING.dtype)
        self.away = False
        monkeypatch.setattr(settlements, "insert_rows", self.insert)
        monkeypatch.setattr(settlements, "last_settlements", self.last)

    async def insert(self, client: Any, database: str, record: Any, rows: np.ndarray, key: Any, epoch: int) -> None:
        if self.away:
            raise Unavailable("away")
        self.rows = np.concatenate((self.rows, rows))

    async def last(self, client: Any, database: str) -> dict[tuple[str, str], list[int]]:
        if self.away:
            raise Unavailable("away")
        times = sorted(self.rows["nth"].tolist(), reverse=True)[:2]
        return {("binance", "BTC-USDT-PERP"): times} if times else {}


class Rig:
    def __init__(self, shm: Path, table: Table) -> None:
        self.shm, self.table, self.exchange = shm, table, Exchange()
        self.producer = Producer(shm, "feed-binance-usdm-market-0", records=(FUNDING,))
        for market_type in ("perpetual", "future"):
            more = {"expiry": "20261225", "native": "BTCUSDT_261225"} if market_type == "future" else {}
            self.producer.add(instrument("BTC", market_type=market_type, **more))
        self.page = MetricsPage(shm, "keeper", time.time_ns())
        self.ledger = Ledger(shm, "binance")
        self.restart()

    def restart(self) -> None:
        config = Config(funding_history_days=10, funding_delay_s=30.0, funding_look_s=300.0, retry_delay_s=5.0)
        budget = self.ledger.budget("futures.funding", 250, 300.0)
        rests: Any = {"usdm": self.exchange}
        self.kept = Settlements(config, self.shm, None, rests, budget, Metrics(self.page), self.exchange.clock)  # type: ignore[arg-type]

    def look(self) -> float:
        self.exchange.asked.clear()
        return asyncio.run(self.kept.look())

    def close(self) -> None:
        self.producer.close()
        self.page.close()
        self.ledger.close()


@pytest.fixture
def rig(shm: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    rig = Rig(shm, Table(monkeypatch))
    yield rig
    rig.close()


def test_payments_are_asked_for_when_they_are_due_and_again_when_they_are_late(rig: Rig) -> None:
    rig.look()
    assert len(rig.table.rows) == 31 and len(rig.exchange.asked) == 1  # ten days, both ends; futures pay none
    assert rig.table.rows["nth"][-1] == NOON_MS and set(rig.table.rows["funding_interval_h"].tolist()) == {8}
    assert rig.table.rows["next_funding_ts"][-1] == NOON_MS + 8 * HOUR_MS
    rig.exchange.now_ms += 8 * HOUR_MS - 10_000
    rig.look()
    assert rig.exchange.asked == []
    rig.exchange.now_ms += 41_000
    rig.exchange.late_ms = 60_000
    assert rig.look() == 300.0 and len(rig.exchange.asked) == 1
    rig.exchange.now_ms += 1_000
    rig.look()
    assert rig.exchange.asked == []  # not before the next look
    rig.exchange.now_ms += 300_000
    rig.look()
    assert len(rig.table.rows) == 32 and rig.table.rows["nth"][-1] == NOON_MS + 8 * HOUR_MS


def test_payments_missed_while_nobody_ran_are_fetched_and_no_others(rig: Rig) -> None:
    rig.look()
    rig.exchange.now_ms += 50 * HOUR_MS
    rig.restart()
    rig.look()
    assert [path.rpartition("=")[2] for path in rig.exchange.asked] == [str(NOON_MS + 1)]
    assert len(rig.table.rows) == 31 + 6 == len(np.unique(rig.table.rows["nth"]))


def test_payments_that_come_oftener_are_all_there_and_the_next_is_asked_for_sooner(rig: Rig) -> None:
    rig.look()
    rig.exchange.step_h = 4
    rig.exchange.now_ms += 8 * HOUR_MS + 60_000
    rig.look()
    assert rig.table.rows["nth"][-2:].tolist() == [NOON_MS + 4 * HOUR_MS, NOON_MS + 8 * HOUR_MS]
    rig.exchange.now_ms += 4 * HOUR_MS
    rig.look()
    assert len(rig.exchange.asked) == 1


def test_payments_wait_for_clickhouse(rig: Rig) -> None:
    rig.table.away = True
    assert rig.look() == 5.0 and rig.exchange.asked == []
    rig.table.away = False
    asyncio.run(rig.kept._learn())
    rig.table.away = True
    assert rig.look() == 5.0 and len(rig.table.rows) == 0
    rig.table.away = False
    rig.look()
    assert len(rig.table.rows) == 31


# -- the rest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"[{", b'[{"temp_id":"\xff"}]'], ids=["cut", "no-utf8"])
def test_unreadable_file_of_temporary_ranges_is_kept_aside(tmp_path: Path, shm: Path, text: bytes) -> None:
    folder = tmp_path / "keeper"
    folder.mkdir()
    (folder / "temporary.json").write_bytes(text)
    page = MetricsPage(shm, "keeper", time.time_ns())
    parts: Any = None
    TemporaryRanges(Config(), folder, parts, parts, Metrics(page))
    page.close()
    assert (folder / "temporary.broken").read_bytes() == text


def test_keeper_that_is_not_there_is_away(tmp_path: Path) -> None:
    with pytest.raises(KeeperAway, match="does not answer"):
        asyncio.run(ask(tmp_path, Delete(temp_id="x", wait_s=0.1)))


def test_line_that_is_no_answer_is_taken_for_no_keeper(tmp_path: Path) -> None:
    async def talk() -> None:
        async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'{"answer":"nothing"}\n')
            writer.close()

        server = await asyncio.start_unix_server(babble, str(tmp_path / "keeper.sock"))
        with pytest.raises(KeeperAway):
            await ask(tmp_path, Delete(temp_id="x", wait_s=0.1))
        server.close()

    asyncio.run(talk())
