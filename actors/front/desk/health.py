"""Health of the desk's side: the topics, and what other systems report of themselves."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

from ....codecs.desk.canonical import SystemHealth
from ....ringbuf import PageView
from ..endpoints import Bare, Endpoint
from ..envelope import encode
from ..stamps import NS, rfc3339
from ..state import FrontState
from .form import INTEGER, NUMBER, OBJECT, TEXT, objects
from .shelf import ALL

TOPIC = "system.health.v1"
TOPIC_ACTORS = "topic-"
WRITER = "writer"
REPORTED_NS = 600 * NS  # what was reported longer ago says nothing of now
READS = frozenset(("consuming", "held"))
DATABASE: dict[str, Any] = objects(
    total_queries=INTEGER, avg_query_time_ms={**NUMBER, "description": "of the newest 1,000 of this worker"},
    max_query_time_ms={**NUMBER, "description": "of the same"}, connection_status=TEXT,
)  # fmt: skip
_PAGE = os.sysconf("SC_PAGE_SIZE")


def topic_pages(state: FrontState) -> list[PageView]:
    """The pages of the topics' actors."""
    return [page for page in state.tree.pages() if page.actor.startswith(TOPIC_ACTORS) and "topic" in page.detail]


def kafka_issues(state: FrontState) -> list[str]:
    """Which topics cannot be read, and why."""
    return [
        f"topic {page.detail['topic']} is {page.detail['state']}: {str(page.detail.get('reason', ''))[:200]}"
        for page in topic_pages(state)
        if page.detail["state"] not in READS
    ]


def kafka_status(state: FrontState) -> str:
    """healthy, degraded, unhealthy; disabled where no topic is followed."""
    pages = topic_pages(state)
    if not pages:
        return "disabled"
    away = len(kafka_issues(state))
    return "healthy" if not away else "unhealthy" if away == len(pages) else "degraded"


def writer_behind(state: FrontState) -> str:
    """Why ClickHouse may not have everything that was received; empty where it has, a moment's delay apart."""
    for page in state.tree.pages():
        if page.actor == WRITER:
            for detail in (page.detail, page.detail.get("desk", {})):
                oldest = detail.get("spool", {}).get("oldest")
                if oldest:
                    since = rfc3339(oldest["ts_first_ns"])
                    return f"the writer is behind: what was received since {since} may not be in ClickHouse yet"
    return ""


def kafka_stats(state: FrontState) -> dict[str, Any]:
    """`kafka_consumer` of `/health/stats`."""
    pages = topic_pages(state)
    details = [page.detail for page in pages]
    lag = {detail["topic"]: int(detail["lag"]) for detail in details}
    reading = sum(detail["state"] in READS for detail in details)

    def total(name: str) -> int:
        return sum(int(detail[name]) for detail in details)

    return {
        "total": {
            "total_messages_consumed": total("messages_consumed"),
            "total_messages_processed": total("messages_processed"), "total_errors": total("errors"),
            "total_lag": sum(max(0, one) for one in lag.values()), "running": bool(reading),
            "active_consumers": reading, "active_tasks": len(pages),
        },
        "by_topic": {
            detail["topic"]: {
                "messages_consumed": detail["messages_consumed"], "messages_processed": detail["messages_processed"],
                "errors": detail["errors"], "lag": detail["lag"], "state": detail["state"],
                "dead_letters": detail.get("dead_letters", {}),
                "last_message_time": rfc3339(detail["last_message_ns"]) if detail["last_message_ns"] else None,
            }
            for detail in details
        },
        "lag": lag,
    }  # fmt: skip


def reported(state: FrontState) -> dict[str, dict[str, Any]]:
    """What other systems reported of themselves lately, by name."""
    shelf = state.desk.statements(TOPIC)
    if shelf is None:
        return {}
    now, found = time.time_ns(), dict[str, dict[str, Any]]()
    for item in shelf.newest_first(ALL, now - REPORTED_NS, now + REPORTED_NS):
        health: SystemHealth = item.value
        name = health.component or health.strategy_id or "system"
        if name in found:
            continue
        found[name] = {
            "name": name, "status": health.overall_status, "last_check": rfc3339(health.timestamp),
            "details": {
                "health_score": health.health_score, "cpu_usage": health.total_cpu_usage,
                "memory_usage": health.total_memory_usage, "error_rate": health.error_rate,
                "market_data_delay_ms": health.market_data_delay_ms, "execution_delay_ms": health.execution_delay_ms,
                "components": {part.name: part.status for part in health.components},
            },
        }  # fmt: skip
    return found


def health_endpoints(state: FrontState) -> list[Endpoint]:
    """DipMaster's statistics."""

    def stats() -> Bare:
        return Bare(encode({
            "timestamp": rfc3339(time.time_ns()), "application": _application(state),
            "kafka_consumer": kafka_stats(state),
        }))  # fmt: skip

    def metrics() -> Bare:
        history = state.history
        took_ms = [1000 * seconds for seconds in history.took_s]
        return Bare(encode({
            "timestamp": rfc3339(time.time_ns()),
            "database": {
                "total_queries": history.asked, "avg_query_time_ms": round(sum(took_ms) / max(1, len(took_ms)), 3),
                "max_query_time_ms": round(max(took_ms, default=0.0), 3), "connection_status": history.status,
            },
            "application": _application(state),
        }))  # fmt: skip

    common: dict[str, Any] = {"enveloped": False, "public": True, "tag": "legacy", "errors": ()}
    application = {"timestamp": TEXT, "application": OBJECT}
    return [
        Endpoint(
            "/health/stats", lambda _: stats, "Counters of the process and of each topic",
            data={"type": "object", "properties": {**application, "kafka_consumer": OBJECT}}, **common,
        ),
        Endpoint(
            "/health/metrics", lambda _: metrics, "Figures of the process and of ClickHouse",
            data={"type": "object", "properties": {**application, "database": DATABASE}}, **common,
        ),
    ]  # fmt: skip


def _application(state: FrontState) -> dict[str, Any]:
    """Of this worker."""
    fields = Path("/proc/self/statm").read_text().split()
    uptime_s = (time.time_ns() - state.started_ns) / NS
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_percent": round(100 * (used.ru_utime + used.ru_stime) / max(uptime_s, 0.001), 2),
        "memory_mb": round(int(fields[1]) * _PAGE / 2**20, 1), "num_threads": _threads(),
        "num_fds": len(os.listdir("/proc/self/fd")), "uptime_seconds": round(uptime_s, 3),
    }  # fmt: skip


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))
