"""Risk over REST: what producers state, beside our own positions and the limits."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tickring.actors.front.desk import stated
from tickring.actors.front.desk.config import DeskConfig
from tickring.actors.front.desk.desk import Desk
from tickring.actors.front.desk.stated import STATED_NS
from tickring.codecs.desk.canonical import Risk
from tickring.codecs.desk.money import UNIT
from tickring.ringbuf import MetricsPage

from ..actors.front_rig import FrontThread
from .desk_rig import Portfolio, Topic

SECOND = 10**9
HOW: dict[str, Any] = {
    "risk_score": max, "max_drawdown": max, "leverage": max, "sharpe_ratio": min, "var_1d": sum, "var_5d": sum,
    "daily_pnl": sum, "total_exposure": sum, "positions": sum,
}  # fmt: skip


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


def test_a_producer_that_states_no_score_hides_none(front: FrontThread, topic: Topic) -> None:
    topic.say(a_risk(1, risk_score=85.0, var_1d=120 * UNIT, current_positions=2))
    topic.say(Risk(
        event_id="flat", timestamp=time.time_ns() - 50 * SECOND, variant="mon-flat", strategy_id="dipmaster",
        account_id="default", portfolio_id="main_portfolio", var_95=52 * UNIT, var_99=80 * UNIT, max_drawdown=0.06,
    ))  # fmt: skip
    answer = front.get("/api/v1/risk?decimals=number").json
    assert answer["data"][0]["risk_score"] is None, "statements are told as they are"
    assert answer["metadata"]["summary"]["risk_level"] == "CRITICAL"
    assert {one["name"]: (one["value"], one["status"]) for one in answer["metadata"]["metrics"]} == {
        "VaR_1D": (120.0, "BREACH"), "Max_Drawdown": (6.0, "BREACH"), "Sharpe_Ratio": (1.4, "NORMAL"),
    }  # fmt: skip
    current = front.data("/api/v1/risk/current")
    assert (current["status"], current["risk_score"], current["metrics"]["current_positions"]) == ("high", 85.0, 2)
    assert front.get("/api/risk").json["summary"]["overall_risk_score"] == "85"
    topic.say(a_risk(60, risk_score=20.0))
    assert front.data("/api/v1/risk/current")["risk_score"] == 20.0


def test_what_was_stated_long_before_the_newest_statement_counts_no_more(front: FrontThread, topic: Topic) -> None:
    now = time.time_ns()
    topic.say(a_risk(1, risk_score=85.0, timestamp=now - 3 * STATED_NS))
    assert front.data("/api/v1/risk/current")["risk_score"] == 85.0, "nothing newer is known"
    topic.say(a_risk(2, risk_score=61.0, timestamp=now - STATED_NS, account_id="acct-7"), "acct-7")
    topic.say(a_risk(3, risk_score=None, var_1d=None, timestamp=now - STATED_NS + 1))
    found = front.data("/api/v1/risk/current")
    assert (found["risk_score"], found["metrics"]["var_1d"], found["metrics"]["daily_pnl"]) == (None, 0.0, 18.0)
    assert front.data("/api/v1/risk/current?account_id=*")["risk_score"] == 61.0
    # by a clock that is a day ahead of ours
    topic.say(a_risk(4, risk_score=5.0, timestamp=now + 86_400 * SECOND, account_id="ahead"), "ahead")
    topic.say(a_risk(5, risk_score=70.0, timestamp=now))
    assert front.data("/api/v1/risk/current?account_id=*")["risk_score"] == 70.0


def test_all_accounts_together_are_sums_and_the_worst_of_them(front: FrontThread, topic: Topic) -> None:
    topic.say(a_risk(1, risk_score=82.0, daily_pnl=-300 * UNIT, current_positions=2, sharpe_ratio=0.5))
    topic.say(
        a_risk(2, account_id="acct-7", risk_score=10.0, daily_pnl=-250 * UNIT, max_drawdown=0.04, var_1d=7 * UNIT),
        "acct-7",
    )
    legacy, canonical = front.get("/api/risk/current").json, front.data("/api/v1/risk/current?account_id=*")
    assert legacy["metrics"] == canonical["metrics"]
    assert (canonical["risk_score"], canonical["status"]) == (82.0, "high")
    assert canonical["metrics"] == {
        "daily_pnl": -550.0, "current_positions": 3, "max_positions": 3, "total_exposure": 3586.0, "var_1d": 48.0,
        "max_drawdown": 4.0,
    }  # fmt: skip
    whole = front.get("/api/risk").json
    assert (
        whole["summary"]["overall_risk_score"] == "82" and whole["limit_checks"]["daily_loss_limit"]["current"] == "550"
    )
    assert {one["name"]: one["value"] for one in whole["metrics"]}["Sharpe_Ratio"] == "0.5"
    assert front.data("/api/v1/risk/current?account_id=acct-7")["risk_score"] == 10.0
    assert {one["limit_type"] for one in front.data("/api/v1/risk/limits?account_id=*")["breaches"]} == {"daily_loss"}


def test_accounts_that_are_remembered_are_bounded(
    tmp_path: Path, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stated, "ACCOUNTS_MAX", 4)
    page = MetricsPage(tmp_path, "front-0", time.time_ns())
    desk = Desk(tmp_path, page, DeskConfig())
    for n in range(20):
        topic.say(a_risk(n, account_id=f"a-{n}", risk_score=float(n)))
        assert n % 3 or desk.risk.of(f"a-{n}") is not None
        assert len(desk.risk._accounts) <= 4
    told = desk.risk.of(None)
    assert told is not None and told.risk_score == 19.0 and desk.risk.of("a-0") is None
    asyncio.run(desk.close())
    page.close()


@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept_of_statements_is_what_all_of_them_say(tmp_path: Path, topic: Topic, seed: int) -> None:
    rng, now = random.Random(seed), time.time_ns()
    page = MetricsPage(tmp_path, "front-0", now)
    desk, said = Desk(tmp_path, page, DeskConfig()), list[Risk]()
    names = ("risk_score", "max_drawdown", "leverage", "sharpe_ratio", "var_1d", "var_5d", "daily_pnl",
             "total_exposure", "current_positions", "num_positions")  # fmt: skip

    def figure(risk: Risk, name: str) -> Any:
        if name == "positions":
            return risk.num_positions if risk.current_positions is None else risk.current_positions
        return getattr(risk, name)

    def expected(account: str | None) -> dict[str, Any] | None:
        those = sorted((r for r in said if account in (None, r.account_id)), key=lambda r: (r.timestamp, r.event_id))
        if not those:
            return None
        valid = [r for r in those if r.timestamp >= those[-1].timestamp - STATED_NS]
        found: dict[str, Any] = {"updated_ns": those[-1].timestamp}
        for name, together in HOW.items():
            newest = {r.account_id: value for r in valid if (value := figure(r, name)) is not None}
            found[name] = together(newest.values()) if newest else None
        return found

    for n in range(300):
        members: dict[str, Any] = {name: rng.choice((None, rng.randrange(100))) for name in names}
        account = rng.choice(("default", "a", "b", "b"))
        at = now - rng.randrange(3 * STATED_NS) if n % 2 else now - (300 - n) * 30 * SECOND
        said.append(Risk(
            event_id=f"r-{n}", timestamp=at, variant="api", strategy_id="s", account_id=account, **members
        ))  # fmt: skip
        topic.say(said[-1], account)
        for asked in (None, "default", "a", "b", "nobody") if rng.random() < 0.3 else ():
            found = desk.risk.of(asked)
            assert (None if found is None else msgspec.structs.asdict(found)) == expected(asked)
    asyncio.run(desk.close())
    page.close()


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
