"""The supervisor's own page: every actor's state, restarts and deaths, for fronts, `tickring top` and scrapers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..ringbuf.page import DETAIL, DETAIL_SIZE, MetricsPage, State
from .instance import SUPERVISOR
from .process import Process
from .states import State as ActorState

REASON_SHOWN_MAX = 200


class Overview:
    """Written in turns of the supervisor's loop."""

    def __init__(self, folder: Path, group: str) -> None:
        self._page = MetricsPage(folder, SUPERVISOR, time.time_ns(), group or None)
        self._shown: set[str] = set()  # actors that have gauges

    def show(self, instance: str, processes: Mapping[str, Process], *, ready: bool) -> None:
        """Bring the page up to date, and beat."""
        detail = {"instance": instance, "ready": ready, "actors": {}}
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
