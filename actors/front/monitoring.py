"""Monitoring in the shapes that dashboards of market-data services read: host, performance, database, data quality."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .activity import describe, totals_of
from .endpoints import Answerer, Arguments, Endpoint
from .envelope import encode, members
from .exposition import published_of
from .health import Health, coverage, examine
from .params import choice, flag, integer, text
from .stamps import rfc3339
from .state import FrontState

SEVERITY = choice("severity", ("all", "critical", "warning", "info"), "Of the alerts.", "all")
LIMIT = integer("limit", 50, 1, 200, "Most alerts.")
SYMBOLS = text("symbols", "Comma list; all by default.", "symbols")
HOURS = integer("hours", 24, 1, 168, "Accepted; what is told here is of now.")
WITH_QUALITY = flag("include_data_quality", True, "Also the quality of the data.")
LEVELS = {"CRITICAL": "critical", "HIGH": "warning", "MEDIUM": "warning", "LOW": "info", "INFO": "info"}
SCORES = {"healthy": 100, "degraded": 60, "unhealthy": 0}
_OBJECT: dict[str, Any] = {"type": "object"}
_PAGE = os.sysconf("SC_PAGE_SIZE")


def monitoring_endpoints(state: FrontState) -> list[Endpoint]:
    def endpoint(name: str, summary: str, make: Callable[[Arguments], Any], params: tuple[Any, ...] = ()) -> Endpoint:
        def prepare(arguments: Arguments) -> Answerer:
            return lambda: members(encode(make(arguments)))

        return Endpoint(f"/api/v1/monitoring/{name}", prepare, summary, params, data=_OBJECT, tag="operation")

    return [
        endpoint("system", "The host", lambda _: system(state)),
        endpoint("performance", "Messages and the requests of this worker", lambda _: performance(state)),
        endpoint("database", "ClickHouse, as this worker sees it", lambda _: database(state)),
        endpoint("data-quality", "Freshness by type and exchange", lambda a: quality(state, a), (SYMBOLS, HOURS)),
        endpoint("alerts", "What is wrong now", lambda a: alerts(state, a), (SEVERITY, LIMIT)),
        endpoint("comprehensive", "All of these", lambda a: comprehensive(state, a), (WITH_QUALITY,)),
    ]


def system(state: FrontState) -> dict[str, Any]:
    memory = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        memory[name] = int(value.split()[0]) * 1024
    total, available = memory["MemTotal"], memory["MemAvailable"]
    disk = shutil.disk_usage(state.ctx.data)
    shm = shutil.disk_usage(state.ctx.folder)
    own = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    load = os.getloadavg()
    return {
        "timestamp": rfc3339(time.time_ns()), "cpu_count": os.cpu_count(), "load_average": load,
        "memory": {"total_bytes": total, "available_bytes": available, "percent": _percent(total - available, total)},
        "disk": {"total_bytes": disk.total, "free_bytes": disk.free, "percent": _percent(disk.used, disk.total)},
        "shared_memory": {"total_bytes": shm.total, "free_bytes": shm.free, "percent": _percent(shm.used, shm.total)},
        "process": {
            "memory_bytes": own, "cpu_seconds": round(time.process_time(), 3),
            "open_files_max": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        },
    }  # fmt: skip


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0


def performance(state: FrontState) -> dict[str, Any]:
    seen = describe(state, "", detailed=False)
    mine: dict[str, float] = {}
    for page in state.tree.pages():
        if page.actor == state.ctx.name:
            mine = {sample.name: sample.values[0] for sample in page.samples if sample.kind == "counter"}
    streams = {
        f"{reader.producer}.{reader.record}": published_of(reader) for reader in state.catalog.all_streams()
    }  # fmt: skip
    return {
        "timestamp": rfc3339(time.time_ns()), "uptime_seconds": seen["uptime_seconds"], **totals_of(state),
        "requests_total": int(mine.get("tickring_front_requests_total", 0)), "published": streams,
    }  # fmt: skip


def database(state: FrontState) -> dict[str, Any]:
    history = state.history
    return {
        "timestamp": rfc3339(time.time_ns()), "status": history.status, "configured": history.configured,
        "response_time_ms": round(history.response_s * 1000, 3) or None, "error": history.error or None,
        "last_check": rfc3339(history.checked_ns) if history.checked_ns else None,
    }  # fmt: skip


def quality(state: FrontState, arguments: Arguments) -> dict[str, Any]:
    covered = coverage(state, time.time_ns())
    all_of_them = [one for by in covered.values() for one in by.values()]
    fresh = sum(one["status"] == "healthy" for one in all_of_them)
    symbols = (arguments.get("symbols") or "").split(",")
    return {
        "timestamp": rfc3339(time.time_ns()), "quality_score": _percent(fresh, len(all_of_them)),
        "symbols": [symbol for symbol in symbols if symbol], "coverage": covered,
        "details": "/api/v1/health/data-integrity/{symbol}",
    }  # fmt: skip


def alerts(state: FrontState, arguments: Arguments) -> dict[str, Any]:
    """What the tree's health lacks, and the alerts that are not resolved."""
    found = examine(state, "")
    level = "critical" if found.status == "unhealthy" else "warning"
    now = rfc3339(time.time_ns())
    shown = [{"severity": level, "message": issue, "timestamp": now} for issue in found.issues]
    shown += [
        {"severity": LEVELS[alert.severity], "message": alert.message, "timestamp": rfc3339(alert.timestamp),
         "alert_id": alert.alert_id}
        for alert in state.desk.alerts.active()
    ]  # fmt: skip
    wanted = arguments["severity"]
    fitting = [one for one in shown if wanted in ("all", one["severity"])][: arguments["limit"]]
    return {"alerts": fitting, "total_count": len(shown), "filtered_count": len(fitting)}


def comprehensive(state: FrontState, arguments: Arguments) -> dict[str, Any]:
    found: Health = examine(state, "")
    told = {
        "timestamp": rfc3339(time.time_ns()),
        "overall_health": {"score": SCORES[found.status], "status": found.status, "issues": found.issues},
        "system": system(state), "performance": performance(state), "database": database(state),
        "alerts": alerts(state, {"severity": "all", "limit": 200}),
    }  # fmt: skip
    return {**told, "data_quality": quality(state, {})} if arguments["include_data_quality"] else told
