"""Health of a whole system, or of one of its components."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ..errors import Undecidable
from .canonical import Component, SystemHealth
from .families import Family, Values
from .reading import (
    Amounts,
    Defaults,
    Moment,
    Number,
    Text,
    Words,
    each,
    lenient_time,
    maybe_count,
    maybe_ratio,
    missing,
    need_text,
)

STATES = Words(HEALTHY="healthy", DEGRADED="degraded", UNHEALTHY="unhealthy", UNKNOWN="unknown")


class WireComponent(Struct):
    component: Text = None
    status: Text = None
    uptime_seconds: Number = None
    last_heartbeat: Moment = None
    cpu_usage: Number = None
    memory_usage: Number = None
    error_rate: Number = None
    response_time_ms: Number = None


def _variant(m: Any) -> str:
    if m.overall_status is not None or m.components is not None:
        return "api"
    if m.component_name is not None:
        return "mon-rich"
    if m.component is not None:
        return "mon-flat"
    raise Undecidable("a health event without overall_status, components or component", "unknown_variant")


def _state(word: Text) -> str:
    """Words that nobody agreed on are `unknown`."""
    return STATES.get((word or "").upper(), "unknown")


def _finish(m: Any, variant: str, values: Values, amounts: Amounts, defaults: Defaults) -> None:
    values["overall_status"] = _state(values.get("overall_status"))
    if variant == "api":
        values.setdefault("strategy_id", defaults.strategy)
    else:
        if "component" not in values:
            missing("component")
        values.setdefault("health_score", 100.0)
    values["components"] = each(m.components, "components", _component)


def _component(wire: WireComponent) -> Component:
    return Component(
        name=need_text(wire.component, "component"),
        status=_state(wire.status),
        uptime_seconds=maybe_count(wire.uptime_seconds, "uptime_seconds"),
        last_heartbeat=lenient_time(wire.last_heartbeat),
        cpu_usage=maybe_ratio(wire.cpu_usage, "cpu_usage"),
        memory_usage=maybe_ratio(wire.memory_usage, "memory_usage"),
        error_rate=maybe_ratio(wire.error_rate, "error_rate"),
        response_time_ms=maybe_ratio(wire.response_time_ms, "response_time_ms"),
    )


HEALTH = Family(
    event=SystemHealth,
    variant=_variant,
    finish=_finish,
    also={
        "overall_status": ("status",),
        "component": ("component_name",),
        "total_cpu_usage": ("cpu_usage_percent", "cpu_usage"),
        "total_memory_usage": ("memory_usage_percent", "memory_usage"),
        "disk_usage": ("disk_usage_percent",),
        "network_latency_ms": ("network_latency",),
        "error_rate": ("error_rate_percent",),
        "metadata": ("health_assessment", "details"),
    },
    parts={"components": list[WireComponent] | None},
    filled=frozenset({"overall_status"}),
)
