"""The supervisor's own page: every actor's state, restarts and deaths, for fronts, `tickring top` and scrapers.

Its detail also has the newest `events`, numbered from 1 since the daemon started, so that every reader counts alike.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ringbuf.page import DETAIL, DETAIL_SIZE, MetricsPage, State
from .instance import SUPERVISOR
from .process import Process
from .states import State as ActorState

REASON_SHOWN_MAX = 200
EVENTS_SHOWN = 8  # the page has little room, and whoever reads it looks every second
MESSAGE_MAX = 120
# What is worth an event: level, and what is said of the actor.
_TELLING = {
    ActorState.RUNNING: ("info", "runs"), ActorState.BACKOFF: ("error", "ended and is started again"),
    ActorState.FATAL: ("critical", "ended and stays down"), ActorState.EXITED: ("info", "was stopped"),
}  # fmt: skip


class Overview:
    """Written in turns of the supervisor's loop."""

    def __init__(self, folder: Path, group: str) -> None:
        self._page = MetricsPage(folder, SUPERVISOR, time.time_ns(), group or None)
        self._shown: set[str] = set()  # actors that have gauges
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_SHOWN)
        self._told = 0
        self._states: dict[str, ActorState] = {}
        self._generation = 0

    def show(self, instance: str, processes: Mapping[str, Process], *, ready: bool, generation: int = 0) -> None:
        """Bring the page up to date, and beat. `generation` counts the configurations that were applied."""
        self._tell(processes, generation)
        detail = {"instance": instance, "ready": ready, "events": list(self._events), "actors": {}}
        detail["actors"] = fitting(
            {name: process.status() for name, process in processes.items()},
            DETAIL_SIZE - DETAIL.size - len(json.dumps(detail, separators=(",", ":"))),
        )
        if detail != self._page.detail:
            self._page.detail = detail
        self._shown |= processes.keys()
        for name in self._shown:  # one that a reload took out runs no more, but has a gauge for ever
            process = processes.get(name)
            running = process is not None and process.state is ActorState.RUNNING
            self._page.gauge("tickring_actor_running", "1 while the actor runs", actor=name).set(running)
            if process is not None:
                restarts = self._page.gauge("tickring_actor_restarts", "Restarts since the daemon started", actor=name)
                restarts.set(process.restarts)
        self._page.state = State.RUNNING if ready else State.STARTING
        self._page.beat(time.monotonic_ns())

    def _tell(self, processes: Mapping[str, Process], generation: int) -> None:
        """Note what happened since the last turn."""
        if generation != self._generation:
            self._generation = generation
            self._add("info", "", "the configuration was reloaded")
        for name, process in processes.items():
            state, before = process.state, self._states.get(name, ActorState.EXITED)
            if state is not before and state in _TELLING:
                level, said = _TELLING[state]
                reason = f": {process.reason}" if process.reason and level != "info" else ""
                self._add(level, name, f"{name} {said}{reason}"[:MESSAGE_MAX])
            self._states[name] = state

    def _add(self, level: str, actor: str, message: str) -> None:
        self._told += 1
        now_ms = time.time_ns() // 1_000_000
        self._events.append({"n": self._told, "ts": now_ms, "level": level, "actor": actor, "message": message})

    def count_death(self, actor: str) -> None:
        self._page.counter("tickring_actor_deaths_total", "Ends of actors that nobody asked for", actor=actor).inc()

    def draining(self) -> None:
        self._page.state = State.DRAINING

    def close(self) -> None:
        self._page.state = State.STOPPED
        self._page.close()


def fitting(statuses: dict[str, dict[str, Any]], room: int) -> dict[str, dict[str, Any]]:
    """As much of the actors' statuses as JSON of `room` bytes holds: whole, then without what else can be known (pages
    and gauges tell it), then only of those that do not run, who have no page that says why."""
    short = {
        name: {"state": status["state"], "restarts": status["restarts"], "reason": status["reason"][:REASON_SHOWN_MAX]}
        for name, status in statuses.items()
    }
    troubled = {name: status for name, status in short.items() if status["state"] != ActorState.RUNNING}
    for choice in (statuses, short, troubled):
        if len(json.dumps(choice, separators=(",", ":"))) <= room:
            return choice
    return {}
