"""Alerts over REST, with the alerts actor as a process behind them."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from tickring.actors.front.desk.alerts import Alerts
from tickring.actors.front.desk.params import DAY_NS
from tickring.codecs.desk.canonical import Alert

from ..actors.front_rig import FrontThread
from .test_alerts_actor import Rig, telling


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(Path(tmp_path_factory.mktemp("alerts")))
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="module")
def front(rig: Rig) -> Iterator[FrontThread]:
    with FrontThread(rig.folder) as running:
        yield running


def send(front: FrontThread, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=30)
    try:
        text = body if isinstance(body, str) else json.dumps(body if body is not None else {})
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["alert_id"] for row in rows if row["alert_id"].startswith("al-")]


def test_alerts_are_listed_filtered_and_summed(front: FrontThread, rig: Rig) -> None:
    rig.topic.say(telling(1, severity="CRITICAL", account_id="acct-7", symbol="SOLUSDT", source="RISK_MANAGER"))
    rig.topic.say(telling(2, at=1000, severity="INFO", category="CONNECTIVITY"))
    rig.topic.say(telling(3, at=2000, resolved=True))
    rig.wait(lambda: len(ids(front.data("/api/v1/alerts")["alerts"])) == 3, "they are not listed")
    data = front.data("/api/v1/alerts")
    assert ids(data["alerts"]) == ["al-3", "al-2", "al-1"] and data["total_count"] >= 3
    for query, expected in {
        "severity=LOW": [], "severity=info": ["al-2"],
        "severity=critical": ["al-1"], "symbol=SOL-USDT": ["al-1"], "resolved=true": ["al-3"],
        "status=resolved": ["al-3"], "category=connectivity": ["al-2"], "account_id=acct-7": ["al-1"],
        "source=RISK_MANAGER&page_size=1": ["al-1"],
    }.items():  # fmt: skip
        assert ids(front.data(f"/api/v1/alerts?{query}")["alerts"]) == expected, query
    for query, size in {"limit=0": 1, "limit=-5": 1, "limit=2": 2, "limit=99999999999999999999": 1000}.items():
        answer = front.get(f"/api/v1/alerts?{query}").json
        assert answer["pagination"]["page_size"] == size and len(answer["data"]["alerts"]) <= size, query
    assert front.get("/api/v1/alerts?limit=some").status == front.get("/api/v1/alerts?page_size=0").status == 400
    paged, cursor = list[dict[str, Any]](), ""
    for _ in range(3):
        answer = front.get(f"/api/v1/alerts?source=strategy&limit=1{cursor}").json
        paged += answer["data"]["alerts"]
        cursor = f"&cursor={answer['pagination']['next_cursor']}"
        if not answer["pagination"]["has_next"]:
            break
    every = front.data("/api/v1/alerts?source=strategy")["alerts"]
    assert paged == every[:3]
    assert ids(front.data("/api/v1/alerts/active")) == ["al-2", "al-1"]
    assert front.data("/api/v1/alerts/summary")["critical_alerts"] >= 1
    watched = {one.get("alert_id"): one["severity"] for one in front.data("/api/v1/monitoring/alerts")["alerts"]}
    assert watched["al-1"] == "critical" and watched["al-2"] == "info" and "al-3" not in watched
    legacy = front.get("/api/alerts").json
    assert set(legacy) == {
        "success", "timestamp", "alerts", "summary", "pagination", "query_params", "execution_time_ms",
    }  # fmt: skip
    by_id = {row["alert_id"]: row for row in legacy["alerts"]}
    assert ids(front.get("/api/alerts?severity=LOW").json["alerts"]) == ["al-2"]
    assert ids(front.get("/api/alerts/active?severity=LOW").json["active_alerts"]) == ["al-2"]
    assert by_id["al-2"]["severity"] == "LOW" and by_id["al-3"]["resolved"] is True
    assert front.get("/api/alerts/al-1").json["account_id"] == "acct-7"
    assert ids(front.get("/api/alerts/active?severity=CRITICAL").json["active_alerts"]) == ["al-1"]
    assert front.get("/api/alerts/stats?interval=1d").json["time_series"][0]["critical"] >= 1
    assert front.get("/api/alerts/summary").json["total_alerts"] >= 3
    assert front.get("/api/alerts/none").status == 404 and front.get("/api/v1/alerts/none").status == 404
    refused = front.get("/api/alerts?severity=LOUD")
    assert refused.status == 400 and refused.json["error_code"] == "HTTP_400"
    assert front.get("/api/alerts?resolved=perhaps").status == 422


def test_an_alert_is_acknowledged_and_resolved(front: FrontThread, rig: Rig) -> None:
    rig.topic.say(telling(11))
    rig.wait(lambda: front.get("/api/v1/alerts/al-11").status == 200, "it is not listed")
    status, answer = send(front, "POST", "/api/v1/alerts/al-11/acknowledge", {"by": "ada"})
    assert status == 200 and answer["data"]["status"] == "acknowledged"
    status, answer = send(front, "POST", "/api/v1/alerts/al-11/resolve", {"action": "closed the position"})
    assert answer["data"]["resolution_action"] == "closed the position"
    rig.wait(lambda: front.data("/api/v1/alerts/al-11")["resolved"], "the state is not shown")
    assert send(front, "POST", "/api/v1/alerts/none/acknowledge")[0] == 404


def test_an_alert_is_acknowledged_without_a_body(front: FrontThread, rig: Rig) -> None:
    rig.topic.say(telling(12))
    rig.wait(lambda: front.get("/api/v1/alerts/al-12").status == 200, "it is not listed")
    status, answer = send(front, "POST", "/api/v1/alerts/al-12/acknowledge", "")
    assert status == 200 and answer["data"]["acknowledged"] is True
    status, answer = send(front, "POST", "/api/v1/alerts", "")
    assert status == 400 and answer["details"]["field"] == "body", "here it is needed"


def test_an_alert_and_a_rule_can_be_made(front: FrontThread, rig: Rig) -> None:
    status, answer = send(front, "POST", "/api/v1/alerts", {
        "name": "Look", "severity": "WARNING", "description": "odd", "source": "ada", "labels": {"desk": "a"},
    })  # fmt: skip
    assert status == 201 and answer["data"]["severity"] == "MEDIUM" and answer["data"]["labels"] == {"desk": "a"}
    asked = {"name": "Look", "severity": "HIGH", "description": "odd", "source": "ada"}
    status, answer = send(front, "POST", "/api/v1/alerts", {**asked, "status": "acknowledged"})
    assert status == 201 and answer["data"]["status"] == "acknowledged" and answer["data"]["acknowledged"]
    status, answer = send(front, "POST", "/api/v1/alerts", {**asked, "status": "resolved"})
    assert status == 400 and answer["details"]["field"] == "status"
    of_data = [front.data(f"/api/v1/alerts/rules?category={name}")["filtered_count"] for name in ("data", "DATA")]
    assert of_data[0] == of_data[1] > 0
    status, answer = send(front, "POST", "/api/v1/alerts/rules", {
        "name": "Lag", "severity": "HIGH",
        "conditions": [{"metric_name": "test_pressure", "operator": ">", "threshold": 90, "duration": 0}],
    })  # fmt: skip
    assert status == 201
    rule_id = answer["data"]["rule_id"]
    assert rule_id in {rule["rule_id"] for rule in front.data("/api/v1/alerts/rules?severity=HIGH")["rules"]}
    rig.set_pressure(95)
    alert = quote(f"{rule_id}{{actor=pump}}", safe="")
    rig.wait(lambda: front.get(f"/api/v1/alerts/{alert}").status == 200, "the rule raises nothing")
    assert send(front, "DELETE", f"/api/v1/alerts/rules/{rule_id}")[0] == 200
    assert send(front, "DELETE", f"/api/v1/alerts/rules/{rule_id}")[0] == 404
    rig.set_pressure(0)


def test_an_alert_made_by_hand_may_say_as_much_as_one_from_kafka(front: FrontThread) -> None:
    said = {"name": "Look", "severity": "HIGH", "description": "x" * 4000}
    status, answer = send(front, "POST", "/api/v1/alerts", said)
    assert status == 201 and answer["data"]["message"] == said["description"]
    for longer in ({**said, "description": "x" * 4001}, {**said, "name": "x" * 201}):
        status, answer = send(front, "POST", "/api/v1/alerts", longer)
        assert status == 400 and answer["error_code"] == "INVALID_PARAMETER", answer


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x"}, {"name": "x", "severity": "HIGH", "conditions": "none"},
        {"name": "x", "severity": "HIGH", "conditions": [{"metric_name": "m", "operator": "~", "threshold": 1}]},
        {"name": "x", "severity": "LOUD", "conditions": [{"metric_name": "m", "operator": ">", "threshold": 1}]},
    ],
    ids=["nothing", "no-list", "operator", "severity"],
)  # fmt: skip
def test_a_wrong_rule_is_refused_with_a_reason(front: FrontThread, body: dict[str, Any]) -> None:
    status, answer = send(front, "POST", "/api/v1/alerts/rules", body)
    assert status == 400 and answer["error_code"] == "INVALID_PARAMETER" and answer["error_message"]


def test_without_the_actor_a_command_is_answered_503(tmp_path: Path) -> None:
    with FrontThread(tmp_path) as front:
        assert send(front, "POST", "/api/v1/alerts/x/resolve")[0] == 503
        assert front.data("/api/v1/alerts/rules")["rules"] == []
        assert front.data("/api/v1/alerts")["alerts"] == []


def test_range_that_nobody_named_is_asked_of_clickhouse_too_where_memory_does_not_reach() -> None:
    alerts = object.__new__(Alerts)
    alerts._states = SimpleNamespace(all=dict, reaches=lambda _: False)  # pyright: ignore[reportAttributeAccessIssue]

    async def older(start: int, end: int) -> list[Alert]:
        return [telling(1, timestamp=end - 1)]

    alerts._older = older  # pyright: ignore[reportAttributeAccessIssue]
    arguments: Any = {"start_time": None, "end_time": None}
    found, _, _ = asyncio.run(alerts.among(arguments, DAY_NS))
    assert [one.alert_id for one in found] == ["al-1"]
