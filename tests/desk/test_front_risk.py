"""Risk over REST: what producers state, beside our own positions and the limits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.codecs.desk.canonical import Risk
from tickring.codecs.desk.money import UNIT

from ..actors.front_rig import FrontThread
from .desk_rig import Portfolio, Topic

SECOND = 10**9


def a_risk(n: int = 0, **more: Any) -> Risk:
    values: dict[str, Any] = {
        "event_id": f"r-{n}", "timestamp": time.time_ns() - (100 - n) * SECOND, "variant": "api",
        "strategy_id": "dipmaster", "account_id": "default", "var_1d": 41 * UNIT, "var_5d": 92 * UNIT,
        "max_drawdown": 0.018, "sharpe_ratio": 1.4, "daily_pnl": 18 * UNIT, "risk_score": 34.0,
        "current_positions": 1, "total_exposure": 1793 * UNIT, **more,
    }  # fmt: skip
    return Risk(**values)


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[Topic]:
    made = Topic(tmp_path, "risk.metrics.v1")
    yield made
    made.close()


@pytest.fixture
def front(tmp_path: Path, topic: Topic) -> Iterator[FrontThread]:
    with FrontThread(tmp_path) as running:
        yield running


def test_statements_come_newest_first(front: FrontThread, topic: Topic) -> None:
    for n in range(3):
        topic.say(a_risk(n, risk_score=float(n)))
    answer = front.get("/api/v1/risk").json
    assert [row["risk_score"] for row in answer["data"]] == [2.0, 1.0, 0.0]
    assert answer["data"][0]["var_1d"] == 41.0 and answer["data"][0]["portfolio_value"] is None
    assert answer["metadata"]["summary"]["risk_level"] == "LOW"
    newest = front.data("/api/v1/risk?latest=true")
    assert newest["risk_score"] == 2.0
    assert front.data("/api/v1/risk?latest=true&account_id=nobody") is None


def test_the_newest_statement_is_that_of_the_account_and_strategy_asked_for(front: FrontThread, topic: Topic) -> None:
    topic.say(a_risk(1, strategy_id="carry", risk_score=11.0))
    topic.say(a_risk(2, risk_score=12.0))
    topic.say(a_risk(3, risk_score=13.0, account_id="acct-7"), "acct-7")
    topic.say(a_risk(4, strategy_id="old", timestamp=time.time_ns() - 3601 * SECOND))

    def newest(query: str) -> Any:
        found = front.data(f"/api/v1/risk?latest=true&{query}")
        return found and found["risk_score"]

    assert newest("account_id=*") == 13.0 and newest("account_id=default") == 12.0
    assert newest("strategy_id=carry") == newest("strategy_id=carry&account_id=*") == 11.0
    assert newest("strategy_id=dipmaster&account_id=*") == 13.0
    for query in ("strategy_id=nosuch", "strategy_id=nosuch&account_id=*", "strategy_id=carry&account_id=acct-7"):
        assert newest(query) is None, query
    assert newest("strategy_id=old") is None, "more than an hour ago"


@pytest.mark.parametrize(
    ("risk", "status"),
    [
        ({"risk_score": 85.0}, "high"), ({"daily_pnl": -501 * UNIT}, "high"), ({"current_positions": 3}, "high"),
        ({"risk_score": 61.0}, "medium"), ({"daily_pnl": -201 * UNIT}, "medium"), ({"risk_score": 41.0}, "low"),
        ({}, "normal"),
    ],
)  # fmt: skip
def test_the_word_for_the_risk_follows_from_score_loss_and_positions(
    front: FrontThread, topic: Topic, risk: dict[str, Any], status: str
) -> None:
    topic.say(a_risk(**risk))
    assert front.data("/api/v1/risk/current")["status"] == status
    assert front.get("/api/risk/current").json["status"] == status


def test_of_an_unknown_account_nothing_is_known(front: FrontThread) -> None:
    assert front.data("/api/v1/risk/current")["status"] == "unknown"
    assert front.get("/api/risk").json["summary"]["risk_level"] == "LOW"


def test_our_own_positions_count_and_not_the_claimed_ones(tmp_path: Path, front: FrontThread, topic: Topic) -> None:
    topic.say(a_risk(current_positions=1, total_exposure=10 * UNIT))
    portfolio = Portfolio(tmp_path)
    portfolio.pnl(
        "default", positions=4, exposure=6000 * UNIT, total_pnl=-300 * UNIT, day_start_pnl=300 * UNIT, max_drawdown=0.07
    )
    front.loop.call_soon_threadsafe(front.front.state.desk.refresh)
    deadline = time.monotonic() + 10
    while front.data("/api/v1/risk/current")["metrics"]["current_positions"] != 4:
        assert time.monotonic() < deadline
    found = front.data("/api/v1/risk/limits")
    assert {breach["limit_type"] for breach in found["breaches"]} == {"positions", "daily_loss", "drawdown", "exposure"}
    assert found["utilization"]["daily_loss"] == {"current": 600.0, "limit": 500.0, "percentage": 120.0}
    legacy = front.get("/api/risk").json
    assert legacy["limit_checks"]["position_limit"]["status"] == "BREACH"
    assert legacy["summary"]["breached_limits"] == 4
    assert [metric["status"] for metric in legacy["metrics"]] == ["NORMAL", "BREACH", "WARNING"]
    portfolio.close()


def test_value_at_risk_is_held_against_what_was_lost(front: FrontThread, topic: Topic) -> None:
    for n in range(10):
        topic.say(a_risk(n, daily_pnl=-50 * UNIT if n == 3 else UNIT))
    found = front.data("/api/v1/risk/var")
    assert found["breach_analysis"] == {
        "total_observations": 10, "var_breaches": 1, "breach_rate_percent": 10.0, "expected_breach_rate_percent": 5.0,
        "model_accuracy": "needs_calibration",
    }  # fmt: skip
    assert found["current_var"]["var_1d"] == 41.0
    legacy = front.get("/api/risk/var?confidence_level=0.90").json
    assert legacy["breach_analysis"]["model_accuracy"] == "good" and len(legacy["var_series"]) == 10
    assert front.get("/api/risk/var?confidence_level=0.5").status == 422


def test_legacy_risk_has_its_own_shape(front: FrontThread, topic: Topic) -> None:
    topic.say(a_risk())
    found = front.get("/api/risk").json
    assert set(found) == {
        "success", "timestamp", "summary", "metrics", "limit_checks", "historical_metrics", "query_params",
        "execution_time_ms",
    }  # fmt: skip
    assert found["summary"]["var_utilization"] == "41" and found["historical_metrics"][0]["value"] == 34.0
    assert front.get("/api/risk?include_historical=false").json["historical_metrics"] == []
