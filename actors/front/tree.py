"""The process tree as the actors' pages show it: who runs, who beats, what each one counts."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...ringbuf import PageView, State, read_pages
from .stamps import rfc3339

SUPERVISOR = "supervisor"
VIEW_AGE_S = 0.25  # pages are read again when the last look is older
KINDS = ("feed", "topic", "writer", "front", "clickhouse", "simulator", "portfolio", "alerts", "keeper", "relay")


@dataclass(frozen=True)
class Actor:
    """One process at one moment."""

    name: str
    kind: str
    pid: int
    state: str  # starting, running, draining, stopped, hung, down; or the supervisor's word: backoff, fatal, ...
    beat_age_s: float  # since the last heartbeat
    started_ns: int
    restarts: int | None
    detail: Mapping[str, Any]

    @property
    def healthy(self) -> bool:
        return self.state in ("running", "starting")

    def to_dict(self, now_ns: int) -> dict[str, Any]:
        return {
            "name": self.name, "kind": self.kind, "pid": self.pid, "state": self.state,
            "beat_age_ms": round(self.beat_age_s * 1000), "started": rfc3339(self.started_ns),
            "uptime_seconds": round(max(0, now_ns - self.started_ns) / 1e9, 3), "restarts": self.restarts,
            "detail": self.detail,
        }  # fmt: skip


def kind_of(actor: str) -> str:
    """feed-binance-spot-0 is a feed."""
    head = actor.partition("-")[0]
    return head if head in KINDS else actor


class Tree:
    """All pages of the instance, read at most four times a second."""

    def __init__(self, folder: Path, beat_stale_s: float) -> None:
        self.folder = folder
        self.beat_stale_s = beat_stale_s
        self._looked_at = float("-inf")
        self._pages: Sequence[PageView] = ()

    def pages(self) -> Sequence[PageView]:
        now = time.monotonic()
        if now - self._looked_at >= VIEW_AGE_S:
            self._pages = read_pages(self.folder)
            self._looked_at = now
        return self._pages

    def supervisor(self) -> PageView | None:
        return next((page for page in self.pages() if page.actor == SUPERVISOR), None)

    def actors(self) -> list[Actor]:
        """Every process but the supervisor; also those it knows of that have no page yet."""
        supervisor = self.supervisor()
        known: dict[str, Any] = {}
        if supervisor is not None and isinstance(supervisor.detail.get("actors"), dict):
            known = dict(supervisor.detail["actors"])
        actors = [self._actor(page, known.pop(page.actor, None)) for page in self.pages() if page.actor != SUPERVISOR]
        for name, status in known.items():
            actors.append(_without_page(name, status))
        return sorted(actors, key=lambda actor: (_rank(actor.kind), actor.name))

    def _actor(self, page: PageView, status: Any) -> Actor:
        since_ns = time.monotonic_ns() - page.beat_ns if page.beat_ns else time.time_ns() - page.started_ns
        age = max(0.0, since_ns / 1e9)
        state = page.state.name.lower()
        if page.state is not State.STOPPED and not os.path.exists(f"/proc/{page.pid}"):
            state = "down"
        elif page.state in (State.RUNNING, State.DRAINING) and age > self.beat_stale_s:
            state = "hung"
        said = _state_of(status)
        if said in ("backoff", "fatal", "stopping", "exited"):
            state = said
        return Actor(
            page.actor, kind_of(page.actor), page.pid, state, age, page.started_ns, _restarts_of(status), page.detail
        )

    def root(self) -> Actor | None:
        """The supervisor; None where the actors run without one."""
        page = self.supervisor()
        return None if page is None else self._actor(page, None)

    def started_ns(self) -> int | None:
        """Start of the daemon: the supervisor's, else the oldest actor's; None without any page."""
        supervisor = self.supervisor()
        if supervisor is not None:
            return supervisor.started_ns
        return min((page.started_ns for page in self.pages()), default=None)


def _rank(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def _state_of(status: Any) -> str:
    if isinstance(status, Mapping):
        return str(status.get("state", ""))
    return status if isinstance(status, str) else ""


def _restarts_of(status: Any) -> int | None:
    restarts = status.get("restarts") if isinstance(status, Mapping) else None
    return restarts if isinstance(restarts, int) else None


def _without_page(name: str, status: Any) -> Actor:
    pid = status.get("pid") if isinstance(status, Mapping) else None
    state = _state_of(status) or "starting"
    return Actor(name, kind_of(name), pid or 0, state, 0.0, time.time_ns(), _restarts_of(status), {})
