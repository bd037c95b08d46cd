"""The desk's part of health: topics, and what other systems report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.codecs.desk.canonical import Component, SystemHealth
from tickring.ringbuf import MetricsPage, State

from ..actors.front_rig import FrontThread
from .desk_rig import Topic


@pytest.fixture
def page(tmp_path: Path) -> Iterator[MetricsPage]:
    made = MetricsPage(tmp_path, "topic-exec-reports-v1", time.time_ns())
    made.state = State.RUNNING
    show(made, "consuming")
    yield made
    made.close()


def show(page: MetricsPage, state: str, **more: Any) -> None:
    page.detail = {
        "topic": "exec.reports.v1", "state": state, "reason": "no broker", "messages_consumed": 12,
        "messages_processed": 11, "errors": 1, "dead_letters": {"not_json": 1}, "last_message_ns": time.time_ns(),
        "lag": 3, "partitions": 4, "stuck": {}, **more,
    }  # fmt: skip
    page.beat(time.monotonic_ns())


def test_statistics_tell_of_each_topic(tmp_path: Path, page: MetricsPage) -> None:
    with FrontThread(tmp_path) as front:
        found = front.get("/health/stats").json["kafka_consumer"]
        assert found["total"] == {
            "total_messages_consumed": 12, "total_messages_processed": 11, "total_errors": 1, "total_lag": 3,
            "running": True, "active_consumers": 1, "active_tasks": 1,
        }  # fmt: skip
        assert found["lag"] == {"exec.reports.v1": 3}
        assert found["by_topic"]["exec.reports.v1"]["dead_letters"] == {"not_json": 1}
        metrics = front.get("/health/metrics").json
        assert metrics["database"]["connection_status"] == "disabled" and metrics["application"]["num_fds"] > 0


def test_a_topic_that_cannot_be_read_is_an_issue(tmp_path: Path, page: MetricsPage) -> None:
    with FrontThread(tmp_path) as front:
        body = front.get("/health").json
        assert body["checks"]["kafka_consumer"] == "healthy"
        show(page, "away")
        deadline = time.monotonic() + 10
        while front.get("/health").json["checks"]["kafka_consumer"] != "unhealthy":
            assert time.monotonic() < deadline
        body = front.get("/health").json
        assert any("exec.reports.v1 is away: no broker" in issue for issue in body["issues"])


def test_reported_health_is_among_the_components(tmp_path: Path) -> None:
    topic = Topic(tmp_path, "system.health.v1")
    topic.say(SystemHealth(
        event_id="h-1", timestamp=time.time_ns(), variant="api", overall_status="degraded", strategy_id="dipmaster",
        components=[Component(name="DATA_PIPELINE", status="degraded")],
    ))  # fmt: skip
    with FrontThread(tmp_path) as front:
        components = front.data("/api/v1/health/components")["components"]
        assert components["reported:dipmaster"]["status"] == "degraded"
        assert components["reported:dipmaster"]["details"]["components"] == {"DATA_PIPELINE": "degraded"}
        whole = front.get("/health").json
        assert whole["checks"]["kafka_consumer"] == "disabled"
        assert whole["components"].keys() >= {"database", "cache", "websocket", "system"}
        assert 0 < whole["components"]["system"]["details"]["memory_percent"] <= 100
    topic.close()
