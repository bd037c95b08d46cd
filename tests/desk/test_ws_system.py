"""The channel `system`: what the supervisor tells of its processes, numbered by it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tickring.daemon.overview import EVENTS_SHOWN, Overview
from tickring.daemon.states import State
from tickring.ringbuf import read_page

from ..actors.ws_harness import client
from .ws_rig import plain, rig


class Supervisor:
    """The page of a supervisor, and processes that are in whatever state they are said to be."""

    def __init__(self, folder: Path) -> None:
        self.overview = Overview(folder, "")
        self.processes: dict[str, Any] = {}
        self.generation = 0

    def say(self, name: str, state: State, reason: str = "") -> None:
        self.processes[name] = SimpleNamespace(
            state=state, reason=reason, restarts=0,
            status=lambda: {"state": str(state), "restarts": 0, "reason": reason},
        )  # fmt: skip
        self.show()

    def show(self) -> None:
        self.overview.show("test", self.processes, ready=True, generation=self.generation)


@contextlib.contextmanager
def supervisor(folder: Path) -> Iterator[Supervisor]:
    made = Supervisor(folder)
    try:
        yield made
    finally:
        made.overview.close()
        gc.collect()


def test_overview_numbers_what_happens_to_actors(tmp_path: Path) -> None:
    with supervisor(tmp_path) as s:
        s.say("writer", State.STARTING)
        s.say("writer", State.RUNNING)
        s.show()
        s.say("writer", State.BACKOFF, "signal SIGKILL")
        s.generation += 1
        s.show()
        events = read_page(tmp_path / "supervisor.page").detail["events"]
        assert [(one["n"], one["level"], one["message"]) for one in events] == [
            (1, "info", "writer runs"), (2, "error", "writer ended and is started again: signal SIGKILL"),
            (3, "info", "the configuration was reloaded"),
        ]  # fmt: skip
        for _ in range(EVENTS_SHOWN):
            s.say("writer", State.STARTING)
            s.say("writer", State.RUNNING)
        events = read_page(tmp_path / "supervisor.page").detail["events"]
        assert len(events) == EVENTS_SHOWN and events[-1]["n"] == 3 + EVENTS_SHOWN


def test_an_actor_that_dies_and_returns_is_told_to_each_dialect(shm):
    async def go(r, s):
        s.say("writer", State.RUNNING)
        async with (
            client(r.front) as v1,
            plain(r.front, "/ws/system?dialect=dashboard") as dashboard,
            plain(r.front, "/ws/system?dialect=api") as api,
        ):
            reply = await v1.subscribe("system")
            (row,) = reply["channels"]
            assert (row["channel"], row["seq"], row["resumed"]) == ("system", 1, False)
            await dashboard.until("subscribed")
            await api.until("subscription_confirmed")
            s.say("writer", State.BACKOFF, "exit code 70")
            s.say("writer", State.RUNNING)
            await v1.until_seq("system", 3)
            first, second = (v1.records["system"][seq] for seq in (2, 3))
            assert (first["level"], first["actor"]) == ("error", "writer") and "exit code 70" in first["message"]
            assert second["message"] == "writer runs"
            frame = await dashboard.next()
            assert (frame["channel"], frame["priority"]) == ("system", "high")
            assert frame["data"].items() >= {"type": "system", "level": "error", "message": first["message"]}.items()
            assert (await api.next())["data"]["seq"] == 2
        async with client(r.front) as c:
            reply = await c.subscribe({"channel": "system", "from_seq": 1, "epoch": row["epoch"]})
            assert reply["channels"][0]["resumed"] is True
            await c.until_seq("system", 3)
            assert sorted(c.records["system"]) == [2, 3]

    with rig(shm) as r, supervisor(r.folder) as s:
        asyncio.run(go(r, s))


def test_without_a_supervisor_there_is_nothing_to_tell(shm):
    async def go(r):
        async with client(r.front) as c:
            reply = await c.subscribe("system")
            assert reply["channels"][0]["seq"] == 0
            assert (await c.ask(op="ping"))["type"] == "pong"

    with rig(shm) as r:
        asyncio.run(go(r))
