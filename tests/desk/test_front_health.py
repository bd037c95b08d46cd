"""The desk's part of health: topics, and what other systems report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.codecs.desk.canonical import Component, SystemHealth
from tickring.ringbuf import MetricsPage, State
from tickring.storage.errors import StorageError

from ..actors.front_rig import FrontThread
from ..actors.test_front_rest import eventually
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


def test_times_of_queries_are_those_of_the_questions_asked(tmp_path: Path) -> None:
    async def answered_after(seconds: float, error: StorageError | None = None) -> bytes:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return b""

    async def alive(timeout_s: float) -> bool:
        return True

    with FrontThread(tmp_path, history=True, history_probe_s=0.05) as front:
        history = front.front.history
        history._client.ping = alive  # type: ignore[method-assign]
        told = front.get("/health/metrics").json["database"]
        assert (told["total_queries"], told["avg_query_time_ms"], told["max_query_time_ms"]) == (0, 0.0, 0.0)
        eventually(lambda: history.alive, "the probe is answered")
        for question in (answered_after(0.1), answered_after(0), answered_after(0, StorageError("no"))):
            asyncio.run_coroutine_threadsafe(history._ask(question, hint=False), front.loop).result(10)
        told = front.get("/health/metrics").json["database"]
        took_ms = [1000 * seconds for seconds in history.took_s]
        assert told["total_queries"] == len(took_ms) == 3
        assert told["max_query_time_ms"] == round(took_ms[0], 3) > 50
        assert told["avg_query_time_ms"] == round(sum(took_ms) / 3, 3) < told["max_query_time_ms"]


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
