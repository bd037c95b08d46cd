"""Health: what runs, what is fresh, and the one word for it all."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...codecs.record import RecordType
from ...codecs.records import (
    BOOK_TOP,
    FUNDING,
    KLINE_OPEN,
    LIQUIDATION,
    MARK_PRICE,
    OPEN_INTEREST,
    QUOTE,
    TICKER,
    TRADE,
)
from ..catalog import Source
from .activity import SERVICE
from .desk.health import kafka_issues, kafka_status, reported
from .host import used_percent
from .shapes import TEXT, schema_of
from .stamps import NS, rfc3339
from .state import FrontState

ACTIVE_S = 60.0
LOOK_S = 0.25  # a look at the newest record of every key of every type takes milliseconds
FULL_PERCENT = 95.0  # of memory or of a file system
STALE_ADVICE = "no fresh data"
OCCASIONAL = frozenset(("liquidation", "funding_rate", "open_interest"))

_WORD: dict[str, Any] = {"enum": ["healthy", "degraded", "unhealthy"]}
_OBJECT: dict[str, Any] = {"type": "object"}
SCHEMA = schema_of({
    "service": TEXT, "status": _WORD, "overall_status": _WORD, "timestamp": {"type": "string", "format": "date-time"},
    "uptime_seconds": {"type": "number"}, "version": TEXT,
    "dependencies": {**_OBJECT, "description": "name -> status"}, "checks": {**_OBJECT, "description": "name -> word"},
    "components": {**_OBJECT, "description": "name -> {name, status, last_check, details}"},
    "issues": {"type": "array", "items": TEXT},
    "coverage": {**_OBJECT, "description": "type -> exchange -> freshness"},
    "grace": {"type": "boolean", "description": "the tree has just started: unhealthy is not 503 yet"},
    "database": TEXT, "data_collection": _WORD,
})  # fmt: skip


@dataclass(frozen=True)
class Health:
    """The tree at one moment."""

    status: str  # healthy, degraded, unhealthy
    issues: list[str]
    body: dict[str, Any]
    http_status: int


def coverage_of(sources: Iterable[Source], now_ns: int, fresh_s: float) -> dict[str, dict[str, Any]]:
    """Freshness by exchange: symbols, those with a record in the last minute, time of the newest record, its age."""
    by_exchange: dict[str, list[int]] = {}
    for source in sources:
        row = source.reader.latest(source.key_id)
        by_exchange.setdefault(source.exchange, []).append(int(row["ts_recv_ns"]) if row is not None else 0)
    covered = {}
    for exchange, received in by_exchange.items():
        times = np.array(received)
        newest = int(times.max())
        age = (now_ns - newest) / NS if newest else None
        covered[exchange] = {
            "symbols": len(times), "active_symbols": int((times >= now_ns - int(ACTIVE_S * NS)).sum()),
            "last_success_ts": newest // 1_000_000 if newest else None,
            "age_seconds": None if age is None else round(max(0.0, age), 3),
            "status": "healthy" if age is not None and age <= fresh_s else "stale",
        }  # fmt: skip
    return covered


def coverage(state: FrontState, now_ns: int) -> dict[str, dict[str, dict[str, Any]]]:
    """type -> exchange -> freshness, over all keys of the type; a look is good for `LOOK_S`."""
    looked = state.covered
    if looked is not None and 0 <= now_ns - looked[0] < LOOK_S * NS:
        return looked[1]
    config = state.config
    watched: tuple[tuple[str, RecordType, float], ...] = (
        ("trade", TRADE, config.fresh_trade_s), ("quote", QUOTE, config.fresh_trade_s),
        ("orderbook", BOOK_TOP, config.fresh_book_s), ("kline", KLINE_OPEN, config.fresh_trade_s),
        ("ticker", TICKER, config.fresh_trade_s), ("mark_price", MARK_PRICE, config.fresh_trade_s),
        ("liquidation", LIQUIDATION, config.fresh_liquidation_s), ("funding_rate", FUNDING, config.fresh_other_s),
        ("open_interest", OPEN_INTEREST, config.fresh_other_s),
    )  # fmt: skip
    found = {}
    for name, record, fresh_s in watched:
        sources = state.catalog.match(record.name)
        if sources:
            found[name] = coverage_of(sources, now_ns, fresh_s)
    state.covered = now_ns, found
    return found


def examine(state: FrontState, version: str) -> Health:
    """Look at everything."""
    now_ns = time.time_ns()
    actors = state.tree.actors()
    covered = coverage(state, now_ns)
    issues = [f"actor {actor.name} is {actor.state}" for actor in actors if not actor.healthy]
    all_covered = [(name, exchange, one) for name, by in covered.items() for exchange, one in by.items()]
    # that nobody was liquidated, or that a rate has not come in the first hours, is no fault
    all_covered = [one for one in all_covered if one[0] not in OCCASIONAL]
    stale = [(name, exchange) for name, exchange, one in all_covered if one["status"] != "healthy"]
    issues += [f"{name} of {exchange}: {STALE_ADVICE}" for name, exchange in stale]
    pairs = len(all_covered)
    if not pairs:
        issues.append("no market data is produced")
    history = state.history.status
    if history == "unhealthy":
        issues.append("ClickHouse does not answer: ranges beyond memory are incomplete")
    kafka = kafka_status(state)
    issues += kafka_issues(state)
    status = "unhealthy" if not pairs or len(stale) == pairs else "degraded" if issues else "healthy"
    started_ns = state.tree.started_ns() or state.started_ns
    uptime = max(0.0, (now_ns - started_ns) / NS)
    grace = uptime < state.config.health_grace_s
    checks = {
        "kafka_consumer": kafka, "database": history, "cache": "healthy", "application": "healthy",
        "data_collection": "healthy" if pairs and not stale else "unhealthy" if len(stale) == pairs else "degraded",
        **{f"actor_{actor.name}": actor.state for actor in actors},
    }  # fmt: skip
    checked = rfc3339(now_ns)
    components = {
        actor.name: {
            "name": actor.name, "status": "healthy" if actor.healthy else "unhealthy", "last_check": checked,
            "details": {"state": actor.state, "pid": actor.pid, "beat_age_ms": round(actor.beat_age_s * 1000)},
        }
        for actor in actors
    }  # fmt: skip
    components["database"] = {
        "name": "database", "status": history if history != "disabled" else "unknown", "last_check": checked,
        "response_time": round(state.history.response_s, 6) or None,
        "details": {"configured": state.history.configured},
    }  # fmt: skip
    used = used_percent(state.ctx.folder, state.ctx.data)
    full = max(used.values()) >= FULL_PERCENT
    components |= {
        name: {"name": name, "status": word, "last_check": checked, "details": details}
        for name, word, details in (
            ("cache", "healthy", {"kind": "shared memory"}), ("websocket", "healthy", {"worker": state.ctx.name}),
            ("system", "degraded" if full else "healthy",
             {f"{name}_percent": round(percent, 1) for name, percent in used.items()}),
        )
    }  # fmt: skip
    components |= {f"reported:{name}": one for name, one in reported(state).items()}
    body = {
        "service": SERVICE, "status": status, "overall_status": status, "timestamp": checked,
        "uptime_seconds": round(uptime, 3), "version": version,
        "dependencies": {"clickhouse": history, "kafka": kafka}, "checks": checks, "components": components,
        "issues": issues, "coverage": covered, "grace": grace, "database": history,
        "data_collection": checks["data_collection"],
    }  # fmt: skip
    return Health(status, issues, body, 503 if status == "unhealthy" and not grace else 200)


def readiness(state: FrontState) -> list[str]:
    """Why this worker cannot serve yet; empty when it can."""
    reasons = []
    if not (state.catalog.all_streams() or state.desk.streams.configured):
        reasons.append(f"no stream in {state.catalog.folder}: the producers have not started")
    if state.ctx.stopping.is_set():
        reasons.append("stopping")
    return reasons
