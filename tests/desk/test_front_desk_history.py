"""The desk over REST from memory and ClickHouse together: pages and sums across the seam, curves, old positions."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tickring.actors.front.desk.config import DeskConfig
from tickring.codecs.desk.canonical import Fill, Risk
from tickring.codecs.desk.money import UNIT, amount_bytes
from tickring.codecs.desk.records import PNL, POSITION
from tickring.codecs.record import Flag, RecordType
from tickring.ringbuf import Key
from tickring.storage.client import Client, Server
from tickring.storage.deskschema import DESK_TABLES, ensure_desk
from tickring.storage.native import column_names, encode_block
from tickring.storage.nativerows import encode_rows
from tickring.storage.schema import SchemaOptions, qualified, qualified_table

from ..actors.front_rig import FrontThread, engine_fixture, server_fixture  # noqa: F401
from ..actors.test_front_rest import eventually
from .desk_rig import Portfolio, Topic
from .test_front_fills import a_fill, walk

Place = tuple[int, int, int]  # partition, offset, item
SECOND, HOUR, DAY = 10**9, 3600 * 10**9, 86_400 * 10**9
NOW = time.time_ns()


class History:
    """Puts rows into the desk's tables as the writer does."""

    def __init__(self, server: Server) -> None:
        self.server = server
        asyncio.run(self._with(lambda client: ensure_desk(client, SchemaOptions(database=server.database))))
        self.offset = self.batches = 0

    async def _with(self, work: Any) -> None:
        client = Client(self.server)
        try:
            await work(client)
        finally:
            await client.close()

    def events(
        self, name: str, topic: str, values: Sequence[Any], *, flags: int = 0, recv_ns: int = 0,
        offset: int | None = None,
    ) -> None:  # fmt: skip
        """Items of a derived table, received a second after they happened if not at `recv_ns`, one in each event."""
        first, self.offset = self.offset if offset is None else offset, self.offset + len(values)
        self.items(name, topic, [
            (value, (0, first + n, 0), recv_ns or value.timestamp + SECOND) for n, value in enumerate(values)
        ], flags)  # fmt: skip

    def items(self, name: str, topic: str, items: Sequence[tuple[Any, Place, int]], flags: int = 0) -> None:
        """Items of a derived table, with where they came from and when they were received."""
        table, rows = DESK_TABLES[name], []
        for value, place, recv_ns in items:
            fields = msgspec.structs.asdict(value)
            own = [fields.get(column) for column, _, _ in table.own]
            rows.append((topic, *place, "api", flags, value.timestamp, recv_ns, *own))
        self.batches += 1
        block = encode_rows([(column, kind) for column, kind, _ in table.columns], rows)
        columns = [column for column, _, _ in table.columns]
        place = qualified(self.server.database, name)
        asyncio.run(self._with(lambda client: client.insert(place, columns, block, f"t{self.batches}")))

    def rows(self, record: RecordType, key: dict[str, str], rows: Sequence[dict[str, int]]) -> None:
        """Records of the portfolio's."""
        array = np.zeros(len(rows), record.dtype)
        for index, row in enumerate(rows):
            array["nth"][index] = index
            for name, value in row.items():
                amount = isinstance(value, int) and record.dtype[name].kind == "V"
                array[name][index] = np.void(amount_bytes(value)) if amount else value
        keys = [Key(0, "key", key)]
        block = encode_block(record, array, keys, 1)
        place = qualified_table(self.server.database, record)
        names = column_names(record)
        asyncio.run(self._with(lambda client: client.insert(place, names, block, f"{record.name}{key}")))


@pytest.fixture
def history(server: Server) -> History:
    return History(server)


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[Topic]:
    made = Topic(tmp_path, "exec.reports.v1")
    made.offset = 1000  # behind what is stored
    yield made
    made.close()


@contextlib.contextmanager
def front_of(folder: Path, server: Server, **more: Any) -> Iterator[FrontThread]:
    """A front that has ClickHouse's answer."""
    with FrontThread(folder, history=True, clickhouse=server, history_timeout_s=20.0,
                     history_total_timeout_s=20.0, **more) as running:  # fmt: skip
        eventually(lambda: running.front.history.alive, "ClickHouse answers")
        yield running


@pytest.fixture
def front(tmp_path: Path, topic: Topic, history: History) -> Iterator[FrontThread]:
    with front_of(tmp_path, history.server) as running:
        yield running


def test_pages_go_from_memory_into_history_without_a_seam(front: FrontThread, topic: Topic, history: History) -> None:
    history.events("fills", topic.topic, [a_fill(n, timestamp=NOW - HOUR + n * SECOND) for n in range(30)])
    for n in range(30, 40):
        topic.fill(a_fill(n, timestamp=NOW - HOUR + n * SECOND))
    found: list[str] = []
    for page in range(1, 6):
        answer = front.get(f"/api/v1/fills?page={page}&page_size=9").json
        assert answer["count"] == 40 and answer["metadata"]["completeness"] == 100.0
        found += [fill["fill_id"] for fill in answer["data"]]
        assert answer["pagination"]["has_next"] is (page < 5)
    assert found == [f"f-{n}" for n in range(39, -1, -1)]
    sources = [
        front.get(f"/api/v1/fills?page={page}&page_size=9").json["metadata"]["data_source"] for page in (1, 2, 4)
    ]
    assert sources == ["memory", "mixed", "database"]
    old = front.data("/api/v1/fills/f-3")
    assert old["quantity"] == "12.5" and old["timestamp"].endswith("Z")


@pytest.mark.parametrize("seed", range(2))
def test_every_way_through_the_pages_tells_each_fill_once(
    front: FrontThread, topic: Topic, history: History, seed: int
) -> None:
    """Times that many share, late ones, some that are told twice, in memory, in ClickHouse, in both."""
    rng = random.Random(seed)
    times = [NOW - HOUR + rng.randrange(12) * SECOND for _ in range(60)]
    fills = [a_fill(n, timestamp=at, account_id=f"acct-{n % 2}") for n, at in enumerate(times)]
    expected = [
        fill.fill_id
        for fill in sorted(fills, key=lambda fill: (fill.timestamp, fill.account_id, fill.fill_id), reverse=True)
    ]
    history.events("fills", topic.topic, fills[:40])
    history.events("fills", topic.topic, fills[10:14])  # stored twice
    first = topic.offset
    for fill in fills[36:]:
        topic.fill(fill, recv_ns=NOW - HOUR // 2)
    history.events("fills", topic.topic, fills[36:50], recv_ns=NOW - HOUR // 2, offset=first)
    span = f"account_id=*&start_time={(NOW - 2 * HOUR) // 10**6}&end_time={NOW // 10**6}"
    for query in (f"account_id=*&page_size={rng.randrange(1, 9)}", f"{span}&page_size=7", f"{span}&page_size=1000"):
        assert walk(front, f"/api/v1/fills?{query}") == expected, query
    for size in (4, 9, 60):
        paged: list[str] = []
        for page in range(1, 60 // size + 3):
            answer = front.get(f"/api/v1/fills?{span}&page={page}&page_size={size}").json
            paged += [fill["fill_id"] for fill in answer["data"]]
            assert answer["count"] == 60 and answer["metadata"]["completeness"] == 100.0
        assert paged == expected, size


@pytest.mark.parametrize("age", [HOUR, 30 * SECOND], ids=["long ago", "just before memory begins"])
def test_fill_told_twice_with_different_times_stands_on_one_page(
    front: FrontThread, topic: Topic, history: History, age: int
) -> None:
    fills = [a_fill(n, timestamp=NOW - age + n * SECOND) for n in range(6)]
    history.events("fills", topic.topic, fills, recv_ns=NOW - SECOND)
    history.events("fills", topic.topic, [a_fill(1, timestamp=NOW - age + 4 * SECOND + 1)], recv_ns=NOW - SECOND)
    expected = ["f-5", "f-1", "f-4", "f-3", "f-2", "f-0"]
    assert walk(front, "/api/v1/fills?page_size=2") == expected
    topic.fill(a_fill(6, timestamp=NOW - SECOND), recv_ns=NOW)
    assert walk(front, f"/api/v1/fills?page_size=2&start_time={(NOW - 2 * HOUR) // 10**6}") == ["f-6", *expected]


def test_fill_received_after_the_end_of_its_range_is_in_it(front: FrontThread, topic: Topic, history: History) -> None:
    """Also while memory, which would say where its own begins, holds nothing."""
    history.events("fills", topic.topic, [a_fill(1, timestamp=NOW - HOUR)], recv_ns=NOW)
    range_ms = f"start_time={(NOW - 2 * HOUR) // 10**6}&end_time={(NOW - HOUR // 2) // 10**6}"
    assert [fill["fill_id"] for fill in front.data(f"/api/v1/fills?{range_ms}")] == ["f-1"]
    assert front.data(f"/api/v1/fills/summary?{range_ms}")["total_fills"] == 1


def test_fill_of_an_event_that_came_again_counts_once(front: FrontThread, topic: Topic, history: History) -> None:
    """Its row was stored before shared memory was lost; the event itself was not, and came again."""
    fills = [a_fill(n, timestamp=NOW - HOUR + n * SECOND) for n in range(5)]
    history.events("fills", topic.topic, fills)
    topic.offset = 3
    for fill in fills[3:]:
        topic.fill(fill, recv_ns=NOW)
    answer = front.get("/api/v1/fills").json
    assert [fill["fill_id"] for fill in answer["data"]] == [f"f-{n}" for n in range(4, -1, -1)]
    assert answer["count"] == 5
    assert front.data("/api/v1/fills/summary")["total_fills"] == 5


def test_fill_told_again_after_the_seam_counts_once(front: FrontThread, topic: Topic, history: History) -> None:
    """Its second telling is in memory and in the table, its first one, of another variant, in the table alone."""
    fills = [a_fill(n, timestamp=NOW - HOUR + n * SECOND) for n in range(5)]
    history.events("fills", topic.topic, fills)
    first = topic.offset
    for fill in fills[3:]:
        topic.fill(fill, variant="dashboard", recv_ns=NOW)
    history.events("fills", topic.topic, fills[3:], recv_ns=NOW, offset=first)
    answer = front.get("/api/v1/fills").json
    assert [fill["fill_id"] for fill in answer["data"]] == [f"f-{n}" for n in range(4, -1, -1)]
    assert answer["count"] == 5
    assert front.data("/api/v1/fills/summary")["total_fills"] == 5


def test_fill_of_two_events_of_which_the_later_came_again_counts_once(
    front: FrontThread, topic: Topic, history: History
) -> None:
    """Both tellings were stored before shared memory was lost; the second event came again, and is in memory alone."""
    fills = [a_fill(n, timestamp=NOW - HOUR + n * SECOND) for n in range(5)]
    history.events("fills", topic.topic, fills)
    history.events("fills", topic.topic, fills[3:], recv_ns=NOW - HOUR // 2)
    topic.offset = 5
    for fill in fills[3:]:
        topic.fill(fill, variant="dashboard", recv_ns=NOW)
    answer = front.get("/api/v1/fills").json
    assert [fill["fill_id"] for fill in answer["data"]] == [f"f-{n}" for n in range(4, -1, -1)]
    assert answer["count"] == 5
    assert front.data("/api/v1/fills/summary")["total_fills"] == 5


def test_what_arrives_late_stands_where_it_happened(front: FrontThread, topic: Topic, history: History) -> None:
    history.events("fills", topic.topic, [a_fill(n, timestamp=NOW - HOUR + n * SECOND) for n in (1, 3, 5)])
    for n in (2, 4, 6):
        topic.fill(a_fill(n, timestamp=NOW - HOUR + n * SECOND))
    assert [fill["fill_id"] for fill in front.data("/api/v1/fills")] == [f"f-{n}" for n in range(6, 0, -1)]
    assert [fill["fill_id"] for fill in front.data("/api/v1/fills?page=2&page_size=2")] == ["f-4", "f-3"]


def test_filters_reach_into_history(front: FrontThread, topic: Topic, history: History) -> None:
    history.events("fills", topic.topic, [
        a_fill(1, symbol="ETH-USDT", side="SELL"), a_fill(2, account_id="acct-7"), a_fill(3, order_id="mine"),
    ])  # fmt: skip
    for query, expected in {
        "symbol=ETHUSDT": ["f-1"], "side=SELL": ["f-1"], "account_id=acct-7": ["f-2"], "order_id=mine": ["f-3"],
        "account_id=*": ["f-3", "f-2", "f-1"],
    }.items():  # fmt: skip
        assert [fill["fill_id"] for fill in front.data(f"/api/v1/fills?{query}")] == expected, query


def test_perpetual_is_found_by_each_of_its_names(front: FrontThread, topic: Topic, history: History) -> None:
    history.events("fills", topic.topic, [a_fill(1, symbol="SOL-USDT-SWAP"), a_fill(2, symbol="SOLUSDT")])
    topic.fill(a_fill(3, symbol="SOLUSDT_PERP"))
    for symbol in ("SOL-USDT-PERP", "sol-usdt-swap", "SOL/USDT-PERPETUAL"):
        assert [row["fill_id"] for row in front.data(f"/api/v1/fills?symbol={symbol}")] == ["f-3", "f-1"]


def test_a_fill_that_is_stored_twice_counts_once(front: FrontThread, topic: Topic, history: History) -> None:
    history.events("fills", topic.topic, [a_fill(1), a_fill(1), a_fill(2)])
    history.events("fills", topic.topic, [a_fill(3)], flags=int(Flag.REPEATED))
    answer = front.get("/api/v1/fills").json
    assert [fill["fill_id"] for fill in answer["data"]] == ["f-2", "f-1"] and answer["count"] == 2
    assert front.data("/api/v1/fills/summary")["total_fills"] == 2


def test_sums_are_of_both_places(front: FrontThread, topic: Topic, history: History) -> None:
    big = 5 * 10**11 * UNIT
    history.events("fills", topic.topic, [
        a_fill(1, quantity=big, price=714), a_fill(2, slippage_bps=2.0), a_fill(3, symbol="ETHUSDT")
    ])  # fmt: skip
    topic.fill(a_fill(4, slippage_bps=4.0))
    found = front.data("/api/v1/fills/summary")
    # 5e11 at 0.00000714 and three times 12.5 at 143.18
    assert found["total_fills"] == 4 and found["total_volume"] == "3575369.25" and found["avg_slippage"] == "3"
    volume = front.data("/api/v1/fills/analysis/volume?interval=1d&symbol=SOLUSDT")
    assert volume["total_fills"] == 3
    assert front.get("/api/fills").json["summary"]["total_fills"] == 4


def test_sums_of_the_last_day_lose_what_is_older(tmp_path: Path, topic: Topic, history: History) -> None:
    """Whether it left the range in ClickHouse or in memory."""
    since = time.time_ns() - 24 * HOUR
    fills = [
        a_fill(n, timestamp=since + n * SECOND // 8, symbol="ETHUSDT" if n % 3 else "SOLUSDT", slippage_bps=4.0)
        for n in range(800)
    ]
    history.events("fills", topic.topic, [fill for n, fill in enumerate(fills) if n % 2])
    for fill in fills[::2]:
        topic.fill(fill)
    with front_of(tmp_path, history.server, desk=DeskConfig(totals_keep_s=0.1)) as front:
        told, counts = list[int](), list[int]()

        def some_left() -> bool:
            found, listed = front.data("/api/v1/fills/summary"), front.get("/api/v1/fills?page_size=1").json
            told.append(found["total_fills"])
            counts.append(listed["count"])
            assert Decimal(found["total_commission"]) == told[-1] * Decimal("0.7159") and found["avg_slippage"] == "4"
            return told[0] - told[-1] > 30 and counts[0] - counts[-1] > 30

        eventually(some_left, "what is older than a day is no longer added up")
        assert told == sorted(told, reverse=True) and counts == sorted(counts, reverse=True)


def test_fees_in_both_places_are_told_by_asset(front: FrontThread, topic: Topic, history: History) -> None:
    history.events("fills", topic.topic, [
        a_fill(1, commission=UNIT // 100, commission_asset="SOL"), a_fill(2, commission=3, commission_asset="BNB"),
        a_fill(3, symbol="ETHBTC", commission=5, commission_asset="BTC"), a_fill(4),
    ])  # fmt: skip
    topic.fill(a_fill(5, commission=4, commission_asset="BNB"))
    topic.fill(a_fill(6))
    found = front.data("/api/v1/fills/summary")
    assert found["commission_by_asset"] == {"BNB": "0.00000007", "BTC": "0.00000005", "SOL": "0.01", "USDT": "1.4318"}
    assert found["unconverted_commission"] == {"BNB": "0.00000007", "BTC": "0.00000005"}
    assert found["total_commission"] == "2.8636"  # 0.01 at 143.18, and twice 0.7159
    volume = front.data("/api/v1/fills/analysis/volume?interval=5m")
    assert volume["commission_by_asset"] == found["commission_by_asset"] and volume["total_fills"] == 6


def test_statements_of_risk_come_back_from_history(front: FrontThread, history: History) -> None:
    risk = Risk(event_id="r-1", timestamp=NOW - HOUR, variant="api", strategy_id="s", account_id="default",
                var_1d=41 * UNIT, max_drawdown=0.018, risk_score=34.0)  # fmt: skip
    history.events("risk_metrics", "risk.metrics.v1", [risk])
    answer = front.get("/api/v1/risk").json
    assert answer["data"][0]["var_1d"] == 41.0 and answer["metadata"]["data_source"] == "database"


def test_the_curve_is_told_by_interval(front: FrontThread, history: History) -> None:
    bucket = NOW // HOUR * HOUR
    hours = [(bucket - 3 * HOUR, 5), (bucket - 2 * HOUR, 8), (bucket - HOUR, 6)]
    key = {"account_id": "default", "strategy_id": "ALL", "symbol": "ALL"}
    history.rows(PNL, key, [
        {"ts_recv_ns": start + minute * 60 * SECOND, "ts_event_ns": start, "total_pnl": (total + minute) * UNIT,
         "realized_pnl": total * UNIT, "fill_count": total}
        for start, total in hours for minute in (1, 59)
    ])  # fmt: skip
    answer = front.get("/api/v1/pnl?interval=1h").json
    assert [point["cumulative_pnl"] for point in answer["data"]] == [65.0, 67.0, 64.0]
    assert [point["total_pnl"] for point in answer["data"]] == [-2.0, 3.0, 64.0]
    assert answer["metadata"]["completeness"] == 100.0
    assert walk(front, "/api/v1/pnl?interval=1h&page_size=2", "cumulative_pnl") == [65.0, 67.0, 64.0]
    legacy = front.get("/api/pnl?interval=1h").json
    assert [point["value"] for point in legacy["timeseries"]] == ["64", "67", "65"]
    again = front.get("/api/v1/pnl?interval=1h")
    assert again.headers["x-cache"] == "HIT"
    returns = front.data("/api/v1/performance/returns?period=daily")
    assert sum(one["pnl"] for one in returns["returns"]) == 65.0


def test_long_curve_of_several_symbols_is_told_by_the_page(front: FrontThread, history: History) -> None:
    minute, count = 60 * SECOND, 700
    first = NOW // minute * minute - count * minute
    for symbol in ("SOLUSDT", "ETHUSDT"):
        history.rows(PNL, {"account_id": "default", "strategy_id": "ALL", "symbol": symbol}, [
            {"ts_recv_ns": first + n * minute, "ts_event_ns": first + n * minute, "total_pnl": n * n * UNIT}
            for n in range(count) if symbol == "SOLUSDT" or not n % 3
        ])  # fmt: skip
    path = f"/api/v1/pnl?symbols=SOLUSDT,ETHUSDT&interval=1m&start_time={(first + minute) // 10**6}&page_size=300"
    told, cursor = list[dict[str, Any]](), ""
    for _ in range(4):
        answer = front.get(path + cursor).json
        told += answer["data"]
        cursor = f"&cursor={answer['pagination']['next_cursor']}"
    assert not answer["pagination"]["has_next"] and answer["count"] == len(told) == 699 + 233
    for symbol, step in (("SOLUSDT", 1), ("ETHUSDT", 3)):
        mine = [point for point in told if point["symbol"] == symbol][::-1]
        numbers = range(step, count, step)
        assert [point["cumulative_pnl"] for point in mine] == [n * n for n in numbers]
        assert [point["total_pnl"] for point in mine] == [n * n - (n - step) ** 2 for n in numbers]
    legacy = front.get(f"/api/pnl?symbol=SOLUSDT&interval=1m&start_time={(first + minute) // 10**6}").json
    assert [point["value"] for point in legacy["timeseries"]] == [str(n * n) for n in range(1, count)]


def earn(history: History, account: str, symbol: str, earned: dict[int, int]) -> None:
    """PnL of an account: start of an hour -> realised until then, a minute later."""
    history.rows(PNL, {"account_id": account, "strategy_id": "ALL", "symbol": symbol}, [
        {"ts_recv_ns": start + 60 * SECOND, "ts_event_ns": start, "total_pnl": total * UNIT,
         "realized_pnl": (total - 2) * UNIT, "unrealized_pnl": 2 * UNIT, "fill_count": total}
        for start, total in earned.items()
    ])  # fmt: skip


def test_account_in_which_nothing_happens_stays_in_the_curve_of_all(front: FrontThread, history: History) -> None:
    now = NOW // HOUR * HOUR
    earn(history, "quiet", "ALL", {now - 5 * HOUR: 1000})
    earn(history, "busy", "ALL", {now - hours * HOUR: 15 - hours for hours in (5, 4, 3, 2, 1)})
    told = front.data("/api/v1/pnl?interval=1h&account_id=*")[::-1]
    assert [point["cumulative_pnl"] for point in told] == [1010.0, 1011.0, 1012.0, 1013.0, 1014.0]
    assert [point["total_pnl"] for point in told] == [1010.0, 1.0, 1.0, 1.0, 1.0]
    assert {point["unrealized_pnl"] for point in told} == {4.0}


def test_range_begins_with_what_was_there_before(tmp_path: Path, topic: Topic, history: History) -> None:
    start, portfolio = NOW // DAY * DAY - 3 * DAY, Portfolio(tmp_path)
    cases = [(interval, days) for interval in ("1m", "1h", "1d") for days in (0, 1, 40)]
    for interval, days in cases:
        for symbol, before, then in (("SOLUSDT", 1000, 1001), ("SOL-USDT", 50, 53)):
            account = f"{interval}-{days}"
            earn(history, account, symbol, {start - days * DAY: before, start + DAY // 2: then})
            portfolio.pnl(
                account, symbol=symbol, total_pnl=then * UNIT, realized_pnl=(then - 2) * UNIT,
                unrealized_pnl=2 * UNIT, fill_count=then,
            )  # fmt: skip
    with front_of(tmp_path, history.server) as front:
        for interval, days in cases:
            last, first = front.data(
                f"/api/v1/pnl?account_id={interval}-{days}&symbol=SOLUSDT&interval={interval}"
                f"&start_time={(start + 2 * HOUR) // 10**6}"
            )
            assert last["total_pnl"] == 0.0, "now"
            if (interval, days) == ("1d", 0):  # an interval has one value
                assert first["total_pnl"] == 1054.0
            else:
                assert (first["total_pnl"], first["realized_pnl"], first["cumulative_pnl"]) == (4.0, 4.0, 1054.0)
    portfolio.close()


def test_summary_of_a_range_tells_what_was_added_in_it(tmp_path: Path, topic: Topic, history: History) -> None:
    portfolio, day = Portfolio(tmp_path), NOW // DAY * DAY

    def standing(n: int) -> dict[str, int]:
        amounts = {"realized_pnl": 10 * n, "unrealized_pnl": n, "fees": n, "total_pnl": 10 * n, "volume": 100 * n,
                   "gross_profit": 12 * n, "gross_loss": 3 * n}  # fmt: skip
        counts = {"fill_count": 8 * n, "winning_trips": 3 * n, "losing_trips": n, "holding_ns": n * 240 * SECOND}
        return {**{name: amount * UNIT for name, amount in amounts.items()}, **counts}

    for account, each in (("default", (4, 3, 2, 1)), ("quiet", (9,))):  # days ago
        history.rows(PNL, {"account_id": account, "strategy_id": "ALL", "symbol": "ALL"}, [
            {"ts_recv_ns": day - ago * DAY + 3 * HOUR + 30 * SECOND, "ts_event_ns": 1, **standing(n)}
            for n, ago in enumerate(each, 1)
        ])  # fmt: skip
    portfolio.pnl("default", **{**standing(5), "largest_win": UNIT})
    portfolio.pnl("quiet", **standing(1))

    def span(start: int, end: int = 0) -> str:
        return f"?start_time={start // 10**6}" + (f"&end_time={end // 10**6}" if end else "")

    with front_of(tmp_path, history.server) as front:
        january = span(day - 4 * DAY + 4 * HOUR, day - 2 * DAY + 4 * HOUR)  # two of the four
        one = front.data(f"/api/v1/pnl/summary{january}")
        assert (one["total_realized_pnl"], one["total_pnl"], one["total_unrealized_pnl"]) == (20.0, 20.0, 3.0)
        assert (one["win_rate"], one["profit_factor"]) == (75.0, 4.0)
        assert front.get(f"/api/pnl/summary{january}").json["total_unrealized_pnl"] == "4", "of both accounts"
        trades = front.get(f"/api/performance/trades{january}").json
        assert trades["trade_stats"]["total_trades"] == 8 and trades["trade_stats"]["best_trade"] is None
        assert front.data(f"/api/v1/performance/summary{january}")["avg_holding_time"] == "1"
        assert front.data(f"/api/v1/performance/summary{span(day - DAY)}")["total_trades"] == 8, "until now"
        assert front.get("/api/performance/summary").json["total_trades"] == 24
        early = front.get(f"/api/pnl/summary{span(day - 40 * DAY, day - 30 * DAY)}").json
        assert early["total_realized_pnl"] == early["total_pnl"] == "0"
        minute = span(day - 4 * DAY + 3 * HOUR, day - 4 * DAY + 3 * HOUR + 60 * SECOND)
        assert front.get(f"/api/pnl/summary{minute}").json["total_pnl"] == "10"
    portfolio.close()


def test_overview_tells_what_was_earned_today(tmp_path: Path, topic: Topic, history: History) -> None:
    portfolio = Portfolio(tmp_path)
    earn(history, "default", "ALL", {NOW // DAY * DAY - 2 * DAY: 100})
    portfolio.pnl(
        "default", realized_pnl=99 * UNIT, unrealized_pnl=8 * UNIT, total_pnl=106 * UNIT, fees=UNIT,
        day_start_pnl=100 * UNIT,
    )  # fmt: skip
    with front_of(tmp_path, history.server) as front:
        told = front.data("/api/v1/summary")["daily_pnl"]
    assert told == {"realized": 1.0, "unrealized": 6.0, "total": 6.0}
    portfolio.close()


def test_positions_are_told_as_they_were(front: FrontThread, history: History) -> None:
    key = {"account_id": "default", "strategy_id": "s", "venue": "binance", "symbol": "SOLUSDT"}
    history.rows(POSITION, key, [
        {"ts_recv_ns": NOW - (3 - n) * HOUR, "ts_event_ns": NOW - (3 - n) * HOUR, "quantity": n * UNIT,
         "market_value": 100 * n * UNIT, "mark_price": 100 * UNIT}
        for n in range(3)
    ])  # fmt: skip
    start, end = (NOW - 24 * HOUR) // 10**6, (NOW + HOUR) // 10**6
    answer = front.get(f"/api/v1/positions?latest=false&start_time={start}&end_time={end}&page_size=2").json
    assert [row["quantity"] for row in answer["data"]] == [2.0, 1.0] and answer["pagination"]["has_next"]
    assert answer["count"] == answer["pagination"]["total_count"] == 3 and answer["pagination"]["total_pages"] == 2
    path = f"/api/v1/positions?latest=false&start_time={start}&end_time={end}&page_size=1"
    assert walk(front, path, "quantity") == [2.0, 1.0, 0.0]
    assert len(front.data(f"{path}0&symbol=sol-usdt&strategy_id=s")) == 3
    assert front.data(f"{path}&symbol=ETHUSDT") == front.data(f"{path}&strategy_id=other") == []
    assert answer["data"][0]["position_side"] == "LONG" and answer["metadata"]["data_source"] == "database"


def test_a_fill_of_the_canonical_form_survives_its_table(front: FrontThread, topic: Topic, history: History) -> None:
    fill = Fill(
        fill_id="x", symbol="SHIBUSDT", side="SELL", quantity=5 * 10**11 * UNIT + 1, price=714, commission=-1,
        commission_asset="BNB", timestamp=NOW - HOUR, strategy_id="s", account_id="default", venue="okx",
        realized_pnl=-5, slippage_bps=2.5, latency_ms=60.0,
    )  # fmt: skip
    history.events("fills", topic.topic, [fill])
    found = front.data("/api/v1/fills/x")
    assert found["quantity"] == "500000000000.00000001" and found["realized_pnl"] == "-0.00000005"
    assert found["trade_id"] is None and found["commission"] == "-0.00000001" and found["slippage_bps"] == 2.5


def test_what_memory_lacks_is_asked_for_once(tmp_path: Path, topic: Topic, history: History) -> None:
    history.events("fills", topic.topic, [a_fill(n, timestamp=NOW - HOUR + n * SECOND) for n in range(5)])
    topic.fill(a_fill(5, timestamp=NOW - HOUR + 5 * SECOND))
    with front_of(tmp_path, history.server, desk=DeskConfig(totals_keep_s=3600.0)) as front:
        assert [fill["fill_id"] for fill in front.data("/api/v1/fills")] == [f"f-{n}" for n in range(5, -1, -1)]
        asked = front.front.state.history.asked
        for n in range(6, 9):
            topic.fill(a_fill(n, timestamp=NOW - HOUR + n * SECOND))
            answer = front.get("/api/v1/fills?page_size=7").json
            assert [fill["fill_id"] for fill in answer["data"]] == [f"f-{m}" for m in range(n, n - 7, -1)]
            assert answer["count"] == n + 1 and answer["metadata"]["data_source"] == "mixed"
        # told of again, as another variant has it
        topic.fill(a_fill(3, timestamp=NOW - HOUR + 3 * SECOND, commission=77))
        told = front.data("/api/v1/fills?page_size=7")
        assert [(fill["fill_id"], fill["commission"]) for fill in told if fill["fill_id"] == "f-3"] == [
            ("f-3", "0.00000077")
        ]
        assert front.front.state.history.asked == asked
