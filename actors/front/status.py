"""Status, health, probes, metrics, version: what the tree says of itself."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .activity import FEATURES, SERVICE, describe
from .endpoints import Answerer, Arguments, Bare, Endpoint, Enveloped
from .envelope import encode, members
from .exposition import CONTENT_TYPE, exposition
from .health import SCHEMA as HEALTH
from .health import examine, readiness
from .params import choice, flag, text
from .stamps import rfc3339
from .state import FrontState

TEXT = "text/plain; charset=utf-8"
DETAILED = flag("detailed", False, "Also streams with their readers.")
FORMAT = choice("format", ("json", "prometheus"), "JSON, or the text that Prometheus reads.", "json")
CATEGORY = text("category", "Of the JSON form: one of its `available_categories`.", "a category")

_OBJECT: dict[str, Any] = {"type": "object"}


def package_version() -> str:
    try:
        return version(SERVICE)
    except PackageNotFoundError:
        return "unknown"


def status_endpoints(state: FrontState) -> list[Endpoint]:
    told = package_version()

    def bare(path: str, summary: str, make: Callable[[], Bare], public: bool = True, **more: Any) -> Endpoint:
        def prepare(_: Arguments) -> Answerer:
            return make

        return Endpoint(path, prepare, summary, enveloped=False, public=public, tag="operation", errors=(), **more)

    def health() -> Bare:
        found = examine(state, told)
        return Bare(encode(found.body), found.http_status)

    def enveloped_health(_: Arguments) -> Answerer:
        def answer() -> Enveloped:
            found = examine(state, told)
            return Enveloped(members(encode(found.body)), found.http_status)

        return answer

    def enveloped(value: Callable[[], Any]) -> Callable[[Arguments], Answerer]:
        return lambda _: lambda: members(encode(value()))

    def readiness_now() -> dict[str, Any]:
        reasons = readiness(state)
        word = "not_ready" if reasons else "ready"
        return {"status": word, "ready": not reasons, "timestamp": _now(), "issues": reasons}

    def ready() -> Bare:
        return Bare(encode(readiness_now()), 200)

    def ready_v1(_: Arguments) -> Answerer:
        def answer() -> Enveloped:
            found = readiness_now()
            return Enveloped(members(encode(found)), 200 if found["ready"] else 503)

        return answer

    def readyz() -> Bare:
        reasons = readiness(state)
        return Bare(("; ".join(reasons) if reasons else "ok").encode(), 503 if reasons else 200, TEXT)

    def metrics() -> Bare:
        return Bare(exposition(state), 200, CONTENT_TYPE)

    def metrics_v1(arguments: Arguments) -> Answerer:
        if arguments["format"] == "prometheus":
            return metrics
        return lambda: members(encode(_metrics_json(state, arguments["category"])))

    def status_v1(arguments: Arguments) -> Answerer:
        detailed: bool = arguments["detailed"]

        def answer() -> bytes:
            seen = describe(state, told, detailed)
            # the documented keys once more at the top, for clients of the bare form; the envelope's own keys stay
            top = {name: seen[name] for name in _DOCUMENTED_KEYS}
            return members(encode(seen), **top)

        return answer

    def status_bare(arguments: Arguments) -> Answerer:
        detailed: bool = arguments["detailed"]

        def answer() -> Bare:
            seen = describe(state, told, detailed)
            config = state.config
            configuration = {"host": config.host, "port": config.port, "history": state.history.configured}
            collecting = "running" if seen["running"] else "stopped"
            return Bare(encode({
                "api_service": "running", "data_collection": collecting, "configuration": configuration, **seen,
            }))  # fmt: skip

        return answer

    def told_version() -> Bare:
        return Bare(encode({
            "service": SERVICE, "version": told, "build_time": None, "git_commit": None,
            "python_version": platform.python_version(), "features": FEATURES,
        }))  # fmt: skip

    alive = {"status": "alive", "service": SERVICE}
    return [
        bare("/health", "Health of the tree; 503 when unhealthy after the grace", health, data=HEALTH, also=(503,)),
        bare("/health/live", "Whether this worker answers", lambda: Bare(encode({**alive, "timestamp": _now()}))),
        bare("/health/ready", "Whether this worker can serve, always 200", ready),
        bare("/livez", "`ok` while this worker answers", lambda: Bare(b"ok", 200, TEXT), content_type=TEXT),
        bare(
            "/readyz", "`ok` once this worker can serve, else 503 and the reason", readyz, content_type=TEXT,
            also=(503,),
        ),
        bare("/ping", "Pong", lambda: Bare(encode({"pong": True, "timestamp": _now()}))),
        bare("/version", "Version of the service", told_version),
        bare("/metrics", "Metrics of the whole tree, as Prometheus reads them", metrics, content_type=CONTENT_TYPE),
        Endpoint(
            "/status", status_bare, "Processes, exchanges and counters", (DETAILED,), enveloped=False, tag="operation",
        ),
        Endpoint(
            "/api/v1/status", status_v1, "Processes, exchanges and counters", (DETAILED,), data=_OBJECT,
            tag="operation",
        ),
        Endpoint(
            "/api/v1/health", enveloped_health, "Health of the tree; 503 when unhealthy after the grace", data=HEALTH,
            errors=(), also=(503,), public=True, tag="operation",
        ),
        Endpoint(
            "/api/v1/health/components", enveloped(lambda: _components(state, told)), "Health of each process",
            data=_OBJECT, public=True, tag="operation", errors=(),
        ),
        Endpoint(
            "/api/v1/health/liveness", enveloped(lambda: alive), "Whether this worker answers", data=_OBJECT,
            public=True, tag="operation", errors=(),
        ),
        Endpoint(
            "/api/v1/health/readiness", ready_v1, "Whether this worker can serve; 503 when not", data=_OBJECT,
            public=True, tag="operation", errors=(), also=(503,),
        ),
        Endpoint(
            "/api/v1/health/metrics", enveloped(lambda: _uptime(state, told)), "Uptime and counters", data=_OBJECT,
            public=True, tag="operation", errors=(),
        ),
        Endpoint(
            "/api/v1/metrics", metrics_v1, "Metrics of the whole tree", (FORMAT, CATEGORY), data=_OBJECT,
            public=True, tag="operation", other_types=(CONTENT_TYPE,),
        ),
    ]  # fmt: skip


_DOCUMENTED_KEYS = ("service", "running", "start_time", "uptime_seconds", "collector_metrics", "exchanges")


def _now() -> str:
    return rfc3339(time.time_ns())


def _components(state: FrontState, told: str) -> dict[str, Any]:
    found = examine(state, told)
    components = found.body["components"]
    return {
        "overall_health": found.status, "components": components, "total_components": len(components),
        "healthy_components": sum(one["status"] == "healthy" for one in components.values()),
        "last_check": found.body["timestamp"],
    }  # fmt: skip


def _metrics_json(state: FrontState, category: str | None) -> dict[str, Any]:
    """Metrics of one category or of all. A category is the word behind `tickring_` in the name."""
    found: list[Mapping[str, Any]] = [
        {
            "actor": page.actor, "name": sample.name, "kind": sample.kind, "labels": dict(sample.labels),
            "values": sample.values, "category": sample.name.removeprefix("tickring_").partition("_")[0],
        }
        for page in state.tree.pages()
        for sample in page.samples
    ]  # fmt: skip
    return {
        "metrics": [one for one in found if category in (None, one["category"])],
        "available_categories": sorted({one["category"] for one in found}), "last_updated": _now(),
    }  # fmt: skip


def _uptime(state: FrontState, told: str) -> dict[str, Any]:
    seen = describe(state, told, detailed=False)
    return {
        "service_uptime_seconds": seen["uptime_seconds"], "uptime_seconds": seen["uptime_seconds"], "version": told,
        "timestamp": _now(), **seen["collector_metrics"],
    }  # fmt: skip
