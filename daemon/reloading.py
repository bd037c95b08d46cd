"""Carry out a changed configuration in a running supervisor: one reload at a time, in turns of its loop.

A reload begins by making the new plan, checking it and opening what it needs; up to there a mistake changes nothing.
Then the actors concerned are asked to stop or are added, and the reload lasts until all of them run. Rings that nobody
produces any more go at the end, when the writer has read what is in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..ringbuf.errors import TickringError
from . import logs
from .control import Refused
from .instance import RINGS_READ_WAIT_S, check_space, remove_leftovers, unread_leftovers
from .listeners import open_more
from .plan import Plan, by_group
from .process import Process
from .reload import Changes, compare, merged
from .states import State

if TYPE_CHECKING:
    from .supervisor import Supervisor

log = logging.getLogger(__name__)

RELOAD_WAIT_S = 60.0  # an actor that does not run by then is reported as it is

Result = asyncio.Future[dict[str, Any]]
Replan = Callable[[], Plan]


@dataclasses.dataclass
class _Reload:
    """One that is under way."""

    changes: Changes
    began: float  # monotonic, s
    waiting: list[Result]
    leftovers_until: float = 0.0  # when rings go although somebody has not read them; 0 = not yet waited for


class Reloader:
    """The supervisor's reloads."""

    def __init__(self, supervisor: Supervisor, replan: Replan) -> None:
        self.supervisor = supervisor
        self.replan = replan
        self._asked: list[tuple[Result, Replan]] = []
        self._current: _Reload | None = None

    def request(self, replan: Replan | None = None) -> Result:
        """Ask for a reload. The result comes when it is over: names by what happened, or why it was refused.

        Args:
            replan: makes the plan, instead of reading the configuration again.
        """
        result: Result = asyncio.get_running_loop().create_future()
        result.add_done_callback(lambda done: done.cancelled() or done.exception())  # SIGHUP waits for nobody
        self._asked.append((result, replan or self.replan))
        return result

    def turn(self, now: float) -> None:
        """Begin a reload that was asked for, or go on with the one under way."""
        if self._current is None and self._asked:
            replan = self._asked[0][1]
            asked = [result for result, by in self._asked if by == replan]
            self._asked = [one for one in self._asked if one[1] != replan]
            self._begin(asked, replan, now)
        if self._current is not None:
            self._go_on(self._current, now)

    def give_up(self) -> None:
        """The daemon stops: tell those who wait."""
        waiting = [*(result for result, _ in self._asked), *(self._current.waiting if self._current else [])]
        for result in waiting:
            if not result.done():
                result.set_exception(Refused("the daemon is stopping"))
        self._asked, self._current = [], None

    def _begin(self, asked: list[Result], replan: Replan, now: float) -> None:
        supervisor = self.supervisor
        supervisor.notifier.reloading()
        opened: dict[str, socket.socket] = {}
        try:
            new = replan()
            changes = compare(supervisor.plan, new, len(supervisor.doorbells), supervisor.lent)
            check_space(new)
            for actor in changes.added:
                if actor.prepare is not None:
                    actor.prepare()
            opened = self._open_ports(new)
            if new.adopt is not None:
                new.adopt()
        except TickringError as error:
            for one in opened.values():
                one.close()
            log.error("instance=%s reload refused, the running configuration stays: %s", supervisor.plan.name, error)
            supervisor.notifier.ready(supervisor.summary())
            for result in asked:
                if not result.done():
                    result.set_exception(error)
            return
        log.info("instance=%s reload %s", supervisor.plan.name, changes)
        self._current = _Reload(changes, now, asked)
        self._apply(new, changes, opened)

    def _open_ports(self, new: Plan) -> dict[str, socket.socket]:
        """Sockets for the actors that listen elsewhere than until now, or did not listen."""
        supervisor = self.supervisor
        listening = {actor.name: actor.address for actor in supervisor.plan.actors}
        with contextlib.ExitStack() as undo:
            opened: dict[str, socket.socket] = {}
            for address, actors in by_group(new):
                wanting = [actor.name for actor in actors if listening.get(actor.name) != address]
                sharing = [supervisor.listeners[name] for name, where in listening.items() if where == address]
                sockets = open_more(address.group, address.host, address.port, len(wanting), sharing)
                for name, one in zip(wanting, sockets, strict=True):
                    undo.callback(one.close)
                    opened[name] = one
            undo.pop_all()
        return opened

    def _apply(self, new: Plan, changes: Changes, opened: dict[str, socket.socket]) -> None:
        supervisor = self.supervisor
        old = supervisor.plan
        supervisor.plan = plan = merged(old, new, changes)
        supervisor.generation += 1
        if old.log != plan.log:
            logs.setup(plan.log.level, plan.log.format)
        assert supervisor.shared is not None, "prepared before the first turn"
        supervisor.shared = dataclasses.replace(
            supervisor.shared, log=plan.log, drain_timeout_s=plan.supervisor.drain_timeout_s
        )
        supervisor.wakeup.hold(plan.supervisor.wakeup_latency_us)
        # An actor has a copy of its socket, so it takes connections until it stops; ours would keep them waiting.
        for name in {*opened, *changes.removed} & supervisor.listeners.keys():
            supervisor.listeners.pop(name).close()
        supervisor.listeners |= opened
        for name in changes.removed:
            supervisor.processes[name].ask_to_stop(plan.supervisor.drain_timeout_s, for_good=True)
        for actor in changes.added:
            supervisor.processes[actor.name] = Process(actor, plan.supervisor)
        for actor in plan.actors:
            supervisor.processes[actor.name].replan(actor, plan.supervisor)
        for actor in changes.moved:
            supervisor.processes[actor.name].move_to_cpus()
        for actor in changes.restarted:
            supervisor.request_restart(actor.name)

    def _go_on(self, reload: _Reload, now: float) -> None:
        supervisor, changes = self.supervisor, reload.changes
        touched = [*changes.added, *changes.restarted]
        processes = [supervisor.processes[actor.name] for actor in touched]
        stopping = [name for name in changes.removed if name in supervisor.processes]
        restarting = supervisor.restarts_asked & {actor.name for actor in touched}
        settled = all(process.state in (State.RUNNING, State.FATAL) for process in processes)
        if (stopping or restarting or not settled) and now - reload.began < RELOAD_WAIT_S:
            return
        reload.leftovers_until = reload.leftovers_until or now + RINGS_READ_WAIT_S
        if unread_leftovers(supervisor.plan) and now < reload.leftovers_until:
            return
        remove_leftovers(supervisor.plan, half_made=False)
        self._current = None
        failed = {one.name: f"{one.state}: {one.reason}" for one in processes if one.state is not State.RUNNING}
        log.info("instance=%s reloaded after %.2f s", supervisor.plan.name, time.monotonic() - reload.began)
        supervisor.notifier.ready(supervisor.summary())
        for result in reload.waiting:
            if not result.done():
                result.set_result({**changes.to_dict(), "failed": failed})
