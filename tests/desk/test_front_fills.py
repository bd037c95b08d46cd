"""Fills over REST: canonical and DipMaster's shapes, filters, pages, sums; from memory."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tickring.codecs.desk.canonical import Fill
from tickring.codecs.desk.money import UNIT, parse_amount
from tickring.codecs.record import Flag

from ..actors.front_rig import FrontThread, Producer, instrument
from .desk_rig import Topic

NOW = time.time_ns()
SECOND = 10**9


def a_fill(n: int, **more: Any) -> Fill:
    values: dict[str, Any] = {
        "fill_id": f"f-{n}", "trade_id": f"t-{n}", "order_id": f"o-{n // 2}", "symbol": "SOLUSDT", "side": "BUY",
        "quantity": parse_amount("12.5")[0], "price": parse_amount("143.18")[0],
        "commission": parse_amount("0.7159")[0], "commission_asset": "USDT", "timestamp": NOW - (100 - n) * SECOND,
        "strategy_id": "dipmaster", "account_id": "default", "venue": "binance", **more,
    }  # fmt: skip
    return Fill(**values)


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[Topic]:
    made = Topic(tmp_path, "exec.reports.v1")
    yield made
    made.close()


@pytest.fixture
def front(tmp_path: Path, topic: Topic) -> Iterator[FrontThread]:
    with FrontThread(tmp_path) as running:
        yield running


def test_fills_come_newest_first_with_all_their_members(front: FrontThread, topic: Topic) -> None:
    for n in range(3):
        topic.fill(a_fill(n))
    answer = front.get("/api/v1/fills").json
    assert [fill["fill_id"] for fill in answer["data"]] == ["f-2", "f-1", "f-0"]
    fill = answer["data"][0]
    assert fill["quantity"] == "12.5" and fill["commission"] == "0.7159" and fill["venue"] == "binance"
    assert fill["timestamp"].endswith("Z") and fill["realized_pnl"] is None
    assert answer["metadata"]["count"] == 3 and answer["metadata"]["data_source"] == "memory"
    assert answer["count"] == 3 and answer["pagination"]["total_count"] == 3


def test_fills_of_another_account_are_found_by_its_name_alone(front: FrontThread, topic: Topic) -> None:
    topic.fill(a_fill(1))
    topic.fill(a_fill(2, account_id="acct-7"))
    assert [fill["fill_id"] for fill in front.data("/api/v1/fills")] == ["f-1"]
    assert [fill["fill_id"] for fill in front.data("/api/v1/fills?account_id=acct-7")] == ["f-2"]
    assert len(front.data("/api/v1/fills?account_id=*")) == 2


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("symbol=ETH-USDT", ["f-3"]), ("symbol=ethusdt", ["f-3"]),
        ("symbols=ETHUSDT,SOL/USDT&side=SELL", ["f-3", "f-1"]),
        ("side=sell", ["f-3", "f-1"]), ("order_id=o-1", ["f-3", "f-2"]), ("strategy_id=other", ["f-0"]),
        ("page=2&page_size=3", ["f-0"]), ("limit=1", ["f-3"]),
    ],
)  # fmt: skip
def test_a_filter_leaves_what_it_names(front: FrontThread, topic: Topic, query: str, expected: list[str]) -> None:
    topic.fill(a_fill(0, strategy_id="other"))
    topic.fill(a_fill(1, side="SELL"))
    topic.fill(a_fill(2))
    topic.fill(a_fill(3, symbol="ETHUSDT", side="SELL"))
    assert [fill["fill_id"] for fill in front.data(f"/api/v1/fills?{query}")] == expected


def walk(front: FrontThread, path: str, name: str = "fill_id") -> list[str]:
    """What the pages of a list hold, each behind the cursor of the one before."""
    found: list[str] = []
    cursor = ""
    while True:
        answer = front.get(f"{path}{cursor}").json
        found += [row[name] for row in answer["data"]]
        pagination = answer["pagination"]
        assert pagination["has_next"] is (pagination["next_cursor"] is not None)
        assert pagination["has_prev"] is bool(cursor)
        if not pagination["has_next"]:
            return found
        cursor = f"&cursor={pagination['next_cursor']}"


def test_cursor_goes_on_below_the_last_row_while_others_arrive(front: FrontThread, topic: Topic) -> None:
    for n in random.Random(3).sample(range(20), 20):
        topic.fill(a_fill(n, timestamp=NOW - n // 7 * SECOND))  # many at one time
    assert walk(front, "/api/v1/fills?page_size=3") == [
        f"f-{n}" for n in sorted(range(20), key=lambda n: (-(n // 7), f"f-{n}"), reverse=True)
    ]
    first = front.get("/api/v1/fills?page_size=5").json
    topic.fill(a_fill(99, timestamp=NOW - SECOND // 2))
    cursor = first["pagination"]["next_cursor"]
    second = front.get(f"/api/v1/fills?page_size=5&cursor={cursor}").json
    assert not {fill["fill_id"] for fill in first["data"]} & {fill["fill_id"] for fill in second["data"]}
    assert second["query_params"]["cursor"] == cursor and second["pagination"]["page"] is None
    assert second["pagination"]["total_count"] == second["count"] == 21
    assert len(walk(front, "/api/v1/fills?page_size=4&side=BUY&account_id=*")) == 21


@pytest.mark.parametrize(
    "cursor", ["x", "W10", "WzEsMl0", "WzEsImEiXQ", "WyJhIiwiYiIsImMiLCJkIl0", "a" * 3000, "%C3%A4"]
)
def test_cursor_that_no_answer_gave_is_refused(front: FrontThread, cursor: str) -> None:
    answer = front.get(f"/api/v1/fills?cursor={cursor}")
    assert answer.status == 400 and answer.json["details"]["field"] == "cursor"


def test_page_that_steps_over_too_many_rows_is_refused(front: FrontThread) -> None:
    answer = front.get("/api/v1/fills?page=1002&page_size=100")
    assert answer.status == 400 and answer.json["error_code"] == "TIME_RANGE_TOO_LARGE"
    assert "next_cursor" in answer.json["message"]
    assert front.get("/api/v1/fills?page=1001&page_size=100").status == 200
    assert front.get("/api/fills?page=1002").json["error_code"] == "HTTP_400"


def test_fills_are_sorted_by_their_own_time(front: FrontThread, topic: Topic) -> None:
    order = list(range(20))
    random.Random(7).shuffle(order)
    for n in order:
        topic.fill(a_fill(n))
    assert [fill["fill_id"] for fill in front.data("/api/v1/fills")] == [f"f-{n}" for n in range(19, -1, -1)]


def test_a_fill_that_came_in_two_variants_counts_once(front: FrontThread, topic: Topic) -> None:
    topic.fill(a_fill(1))
    topic.fill(a_fill(1), variant="mon-flat")
    topic.fill(a_fill(2), flags=int(Flag.REPEATED))
    answer = front.get("/api/v1/fills").json
    assert [fill["fill_id"] for fill in answer["data"]] == ["f-1"] and answer["count"] == 1


def test_sums_are_exact(front: FrontThread, topic: Topic) -> None:
    big = 5 * 10**11 * UNIT
    topic.fill(a_fill(1, quantity=big, price=parse_amount("0.00001234")[0]))
    topic.fill(a_fill(2, slippage_bps=2.0))
    topic.fill(a_fill(3, slippage_bps=4.0))
    found = front.data("/api/v1/fills/summary")
    volume = Decimal("5e11") * Decimal("0.00001234") + 2 * Decimal("12.5") * Decimal("143.18")
    assert Decimal(found["total_volume"]) == volume
    assert found["total_fills"] == 3 and found["avg_slippage"] == "3" and found["total_commission"] == "2.1477"


def test_fees_of_different_assets_are_not_added_up(front: FrontThread, topic: Topic) -> None:
    topic.fill(a_fill(1))  # 0.7159 USDT
    topic.fill(a_fill(2, commission=UNIT // 100, commission_asset="SOL"))  # at its own price of 143.18
    topic.fill(a_fill(3, commission=UNIT // 1000, commission_asset="BNB"))
    topic.fill(a_fill(4, symbol="SOL-USDC", commission=-UNIT, commission_asset="USDC"))  # a rebate
    topic.fill(a_fill(5, symbol="ETHBTC", quantity=UNIT, price=UNIT // 20, commission=7, commission_asset="BTC"))
    found = front.data("/api/v1/fills/summary")
    assert Decimal(found["total_commission"]) == Decimal("0.7159") + Decimal("1.4318") - 1
    assert found["commission_by_asset"] == {
        "BNB": "0.001", "BTC": "0.00000007", "SOL": "0.01", "USDC": "-1", "USDT": "0.7159",
    }  # fmt: skip
    assert found["unconverted_commission"] == {"BNB": "0.001", "BTC": "0.00000007"}
    assert found["currency"] == "USDT" and Decimal(found["total_volume"]) == 4 * Decimal("12.5") * Decimal("143.18")
    assert found["volume_by_currency"] == {"BTC": "0.05", "USDC": "1789.75", "USDT": "5369.25"}
    volume = front.data("/api/v1/fills/analysis/volume?interval=1d")
    assert sum(Decimal(bucket["commission"]) for bucket in volume["volume_data"]) == Decimal(found["total_commission"])
    assert volume["unconverted_commission"] == found["unconverted_commission"]
    of_bitcoin = front.data("/api/v1/fills/summary?symbol=ETHBTC")
    assert (of_bitcoin["currency"], of_bitcoin["total_commission"]) == ("BTC", "0.00000007")
    assert of_bitcoin["unconverted_commission"] == {}
    assert front.get("/api/fills/summary").json["total_commission"] == found["total_commission"]


def test_fees_in_another_asset_are_converted_where_there_is_a_fresh_quote(
    tmp_path: Path, front: FrontThread, topic: Topic
) -> None:
    for n in (1, 2):
        topic.fill(a_fill(n, commission=UNIT // 1000, commission_asset="BNB"))
    topic.fill(a_fill(3, commission=5, commission_asset="OKB"))
    feed = Producer(tmp_path)
    feed.quote(feed.add(instrument("BNB", "USDC")), 600.0, 601.0)
    front.loop.call_soon_threadsafe(front.front.catalog.refresh)
    deadline = time.monotonic() + 20
    while not (found := front.data("/api/v1/fills/summary"))["conversion_rates"]:
        assert time.monotonic() < deadline, "the quote was not taken"
    assert found["conversion_rates"] == {"BNB": "600.5"} and found["total_commission"] == "1.201"
    assert found["unconverted_commission"] == {"OKB": "0.00000005"}
    assert found["commission_by_asset"] == {"BNB": "0.002", "OKB": "0.00000005"}
    volume = front.get("/api/fills/analysis/volume?interval=1d").json
    assert sum(bucket["commission"] for bucket in volume["volume_data"]) == pytest.approx(1.201)
    feed.close()


def test_volume_by_interval_adds_up(front: FrontThread, topic: Topic) -> None:
    start = (NOW // (3600 * SECOND) - 3) * 3600 * SECOND
    for n in range(6):
        topic.fill(a_fill(n, timestamp=start + n * 1800 * SECOND, price=(n + 1) * UNIT))
    found = front.data("/api/v1/fills/analysis/volume?interval=1h")
    assert [bucket["fill_count"] for bucket in found["volume_data"]] == [2, 2, 2]
    assert [bucket["avg_price"] for bucket in found["volume_data"]] == ["1.5", "3.5", "5.5"]
    assert found["volume_data"][0]["min_price"] == "1" and found["total_volume"] == "75"


def test_one_fill_is_found_by_its_id(front: FrontThread, topic: Topic) -> None:
    topic.fill(a_fill(1))
    assert front.data("/api/v1/fills/f-1")["order_id"] == "o-0"
    missing = front.get("/api/v1/fills/f-9")
    assert missing.status == 404 and missing.json["error_code"] == "NOT_FOUND"


def test_a_range_of_more_than_thirty_days_is_refused(front: FrontThread) -> None:
    answer = front.get("/api/v1/fills?start_time=2025-01-01&end_time=2025-03-01")
    assert answer.status == 400 and answer.json["error_code"] == "TIME_RANGE_TOO_LARGE"
    answer = front.get("/api/v1/fills?start_time=2025-03-01&end_time=2025-03-01")
    assert answer.status == 400 and answer.json["error_code"] == "INVALID_TIME_RANGE"


def test_the_legacy_answer_has_its_own_shape(front: FrontThread, topic: Topic) -> None:
    topic.fill(a_fill(1))
    topic.fill(a_fill(2, account_id="acct-7"))
    found = front.get("/api/fills").json
    assert set(found) == {
        "success", "timestamp", "fills", "summary", "pagination", "query_params", "execution_time_ms",
    }  # fmt: skip
    assert found["success"] is True and "+" not in found["timestamp"] and not found["timestamp"].endswith("Z")
    assert set(found["fills"][0]) == {
        "fill_id", "trade_id", "order_id", "symbol", "side", "quantity", "price", "commission", "commission_asset",
        "timestamp",
    }  # fmt: skip
    assert len(found["fills"]) == 2, "the origin knows no accounts: all of them"
    assert found["fills"][0]["quantity"] == "12.5"
    assert found["pagination"] == {
        "page": 1, "page_size": 100, "total_count": 2, "total_pages": 1, "has_next": False, "has_prev": False,
    }  # fmt: skip
    assert set(front.get("/api/fills/summary").json) == {
        "total_fills", "total_volume", "total_commission", "avg_fill_size", "avg_slippage",
    }  # fmt: skip
    assert front.get("/api/fills/f-2").json["account_id"] == "acct-7"
    volume = front.get("/api/fills/analysis/volume").json
    assert volume["total_volume"] == 25.0 and volume["query_params"]["interval"] == "1h"


def test_legacy_errors_have_the_codes_of_that_service(front: FrontThread) -> None:
    answer = front.get("/api/fills?page=0")
    assert answer.status == 422 and answer.json["detail"][0]["loc"] == ["query", "page"]
    answer = front.get("/api/fills?side=LONG")
    assert answer.status == 400 and answer.json["error_code"] == "HTTP_400"
    answer = front.get("/api/fills?start_time=2025-03-02&end_time=2025-03-01")
    assert answer.status == 400 and answer.json["error_code"] == "HTTP_400" and answer.json["success"] is False
    answer = front.get("/api/fills/none")
    assert answer.status == 404 and answer.json["error_code"] == "HTTP_404"


def test_without_the_topic_there_are_no_fills_and_no_error(tmp_path: Path) -> None:
    with FrontThread(tmp_path) as front:
        answer = front.get("/api/v1/fills")
        assert answer.status == 200 and answer.json["data"] == []
