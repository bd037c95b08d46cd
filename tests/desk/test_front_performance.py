"""Performance and the account's overview over REST."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.actors.front.desk.performance import period_start, standard_deviation
from tickring.codecs.desk.canonical import Performance
from tickring.codecs.desk.money import UNIT

from ..actors.front_rig import FrontThread
from .desk_rig import Portfolio, Topic

DAY = 86_400 * 10**9


@pytest.fixture
def portfolio(tmp_path: Path) -> Iterator[Portfolio]:
    made = Portfolio(tmp_path)
    made.pnl(
        "default", realized_pnl=18 * UNIT, unrealized_pnl=4 * UNIT, fees=2 * UNIT, total_pnl=20 * UNIT,
        day_start_pnl=5 * UNIT, winning_trips=28, losing_trips=12, gross_profit=341 * UNIT, gross_loss=128 * UNIT,
        largest_win=31 * UNIT, largest_loss=22 * UNIT, holding_ns=40 * 88 * 60 * 10**9, max_drawdown=0.031,
        sharpe_ratio=1.6, fill_count=80,
    )  # fmt: skip
    yield made
    made.close()


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[Topic]:
    made = Topic(tmp_path, "strategy.performance.v1")
    yield made
    made.close()


@pytest.fixture
def front(tmp_path: Path, portfolio: Portfolio, topic: Topic) -> Iterator[FrontThread]:
    with FrontThread(tmp_path) as running:
        yield running


def stated(n: int, **more: Any) -> Performance:
    values: dict[str, Any] = {
        "event_id": f"p-{n}", "timestamp": time.time_ns() - (10 - n) * 10**9, "variant": "dashboard",
        "strategy_id": "dipmaster", "strategy_name": "Dip entry", "account_id": "default", "total_trades": 40 + n,
        "winning_trades": 28, "losing_trades": 12, "win_rate": 0.7, "total_pnl": 212 * UNIT, **more,
    }  # fmt: skip
    return Performance(**values)


def test_performance_tells_ours_and_what_strategies_state(front: FrontThread, topic: Topic) -> None:
    topic.say(stated(0))
    topic.say(stated(1))
    topic.say(stated(2, strategy_id="other"))
    data = front.data("/api/v1/performance")
    assert [row["total_trades"] for row in data["history"]] == [41, 40]
    assert data["summary"]["latest_performance"]["total_trades"] == 41 and data["summary"]["data_points"] == 2
    assert data["metrics"] == {
        "win_rate": "70", "profit_factor": "2.6640625", "sharpe_ratio": "1.6", "max_drawdown": "3.1",
        "avg_holding_time": "88", "total_trades": 40, "profitable_trades": 28, "avg_profit_per_trade": "5.325",
    }  # fmt: skip
    assert data["cumulative_pnl"][-1]["value"] == "20"
    assert len(front.data("/api/v1/performance?strategy_id=*")["history"]) == 3


def test_strategy_that_is_not_known_has_no_figures(front: FrontThread, topic: Topic, portfolio: Portfolio) -> None:
    topic.say(stated(1, strategy_id="grid"))
    nobody = front.get("/api/v1/performance?strategy_id=nobody").json
    assert nobody["metadata"] == {"account_id": "default", "strategy_id": "nobody"}
    assert nobody["data"]["history"] == nobody["data"]["cumulative_pnl"] == []
    assert nobody["data"]["metrics"]["total_trades"] == 0 and nobody["data"]["by_symbol_performance"] == {}
    stating = front.data("/api/v1/performance?strategy_id=grid")
    assert len(stating["history"]) == 1 and stating["metrics"]["total_trades"] == 0
    for path in ("summary", "trades", "returns"):
        answer = front.get(f"/api/v1/performance/{path}?strategy_id=nobody").json
        assert answer["metadata"]["strategy_id"] == "nobody"
    assert answer["data"]["returns"] == [] and front.data("/api/v1/performance/summary")["total_trades"] == 40
    portfolio.pnl("default", "grid", winning_trips=3)
    assert front.data("/api/v1/performance/summary?strategy_id=grid")["total_trades"] == 3
    assert front.get("/api/v1/performance/summary").json["metadata"]["strategy_id"] == "*"


def test_legacy_performance_has_its_own_shape(front: FrontThread) -> None:
    found = front.get("/api/performance").json
    assert set(found) == {
        "success", "timestamp", "metrics", "daily_returns", "cumulative_pnl", "drawdown_series",
        "by_symbol_performance", "query_params", "execution_time_ms",
    }  # fmt: skip
    assert front.get("/api/performance?include_drawdown=false").json["drawdown_series"] == []
    assert front.get("/api/performance/summary").json["win_rate"] == "70"
    trades = front.get("/api/performance/trades").json
    assert trades["trade_stats"]["worst_trade"] == -22.0 and trades["win_loss_analysis"]["total_loss"] == -128.0
    assert trades["trade_stats"]["avg_execution_time_ms"] is None
    weekly = front.get("/api/performance/returns?period=weekly").json
    assert weekly["period"] == "weekly" and weekly["statistics"]["total_periods"] == 1
    assert front.get("/api/performance/returns?period=hourly").status == 422


def test_the_overview_of_an_account(front: FrontThread, portfolio: Portfolio) -> None:
    portfolio.position(
        "default", "dipmaster", "binance", "SOLUSDT", quantity=UNIT, market_value=100 * UNIT, unrealized_pnl=4 * UNIT
    )
    found = front.data("/api/v1/summary")
    assert found["positions"] == {"count": 1, "total_value": 100.0, "total_pnl": 4.0}
    # what it was when the day began is in ClickHouse
    assert found["daily_pnl"] == {"realized": None, "unrealized": None, "total": 15.0} and found["risk"] is None


def test_periods_begin_where_people_expect() -> None:
    thursday = 0
    assert period_start(thursday, "weekly") == -3 * DAY  # Monday, 1969-12-29
    assert period_start(4 * DAY, "weekly") == 4 * DAY  # 1970-01-05 was a Monday
    assert period_start(40 * DAY, "monthly") == 31 * DAY


def test_a_deviation_needs_two_values() -> None:
    assert standard_deviation([1.0]) == 0.0
    assert standard_deviation([1.0, 3.0]) == pytest.approx(2**0.5)
