"""The supervisor: one plain asyncio loop that starts the actors, watches them, starts the dead again, drains them.

Everything happens in turns of one loop (`_turn`): signals, process exits and control commands only leave a note and
wake it. So no two decisions about a process are ever in flight, and each state change is in one place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from ..ringbuf.doorbell import make_bell
from ..ringbuf.errors import TickringError
from ..ringbuf.page import MetricsPage
from ..ringbuf.page import State as PageState
from . import child
from .child import Shared
from .control import ControlServer, Refused
from .drain import drain
from .errors import ActorFailed
from .instance import (
    CONTROL_SOCKET,
    SUPERVISOR,
    InstanceLock,
    create_streams,
    open_folder,
    prepare_streams,
    purge,
    tidy,
)
from .listeners import open_listeners, open_unix_listener
from .notify import Notifier
from .plan import ActorPlan, Plan
from .process import Process
from .reload import Changes, compare, merged
from .states import State

log = logging.getLogger(__name__)

TURN_BUSY_S = 0.02  # while something starts or waits to be started
TURN_QUIET_S = 0.5
ASLEEP_S = 2.0  # a turn so late means that we were stopped ourselves; the actors' silence is then no evidence
START_ORDER_WAIT_S = 2.0  # an actor waits so long for those it is started after, then it starts anyway
REAP_S = 10.0  # a killed process that is still there after this: the tree is not healthy
CONTROL_MODE, CONTROL_MODE_GROUP = 0o600, 0o660


class Supervisor:
    """Runs one instance from start to drain: `exit_code = await Supervisor(plan).run()`."""

    def __init__(
        self,
        plan: Plan,
        *,
        leave_nothing: bool = False,
        facts: dict[str, Any] | None = None,
        notifier: Notifier | None = None,
        on_ready: Callable[[Supervisor], None] | None = None,
        replan: Callable[[], Plan] | None = None,
    ) -> None:
        """Args:
        leave_nothing: remove the instance's shared memory at the end.
        facts: left in the lock file for others to read.
        on_ready: called once, when every actor runs.
        replan: makes the plan anew at SIGHUP; without it SIGHUP stops the daemon, as the end of a terminal should.
        """
        self.plan = plan
        self.leave_nothing = leave_nothing
        self.facts = facts
        self.on_ready = on_ready
        self.replan = replan
        self.notifier = notifier or Notifier()
        self.processes = {actor.name: Process(actor, plan.supervisor) for actor in plan.actors}
        self.listeners: dict[str, socket.socket] = {}
        self.doorbells: list[int] = []
        self.ready = False
        self.stop_reason = ""
        self.hurry = False  # asked twice: no more waiting
        self._lent: set[int] = set()
        self._restarts_asked: set[str] = set()
        self._reload_asked = False
        self._wake = asyncio.Event()
        self._started = time.monotonic()
        self._last_turn = self._started
        self._page: MetricsPage | None = None
        self._shared: Shared | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Start, watch until asked to stop, drain. Returns 0.

        Raises:
            DaemonError: the instance could not be started, or ended because an actor was given up.
        """
        self._started = time.monotonic()
        lock = open_folder(self.plan, self.facts)
        warm = any(self.plan.folder.glob("*.ring"))  # an earlier daemon's, which a failed start must not cost
        control: ControlServer | None = None
        try:
            self._handle_signals(asyncio.get_running_loop())
            control = self._prepare()
            control.start()
            try:
                while not self.stop_reason:
                    self._turn()
                    await self._sleep()
            finally:
                await self._drain()
            self._raise_if_failed()
            return 0
        finally:
            if control is not None:
                await control.close()
            self._clean_up(lock, everything=self.leave_nothing or (control is None and not warm))

    def _prepare(self) -> ControlServer:
        """Everything that must be there before the first fork."""
        plan = self.plan
        made = prepare_streams(plan)
        log.info(
            "instance=%s folder=%s streams=%d new=%d bytes=%d actors=%d",
            plan.name, plan.folder, len(plan.streams), made, plan.memory_bytes, len(plan.actors),
        )  # fmt: skip
        self._open_ports()
        for actor in plan.actors:
            if actor.prepare is not None:
                actor.prepare()
        self.doorbells = [make_bell() for _ in range(plan.doorbells)]
        listener = open_unix_listener(plan.folder / CONTROL_SOCKET, CONTROL_MODE_GROUP if plan.group else CONTROL_MODE)
        child.preload()
        self._page = MetricsPage(plan.folder, SUPERVISOR, time.time_ns(), plan.group or None)
        self._shared = Shared(plan.folder, plan.data, self.doorbells, plan.group, plan.log, self.listeners)
        return ControlServer(listener, self)

    def _open_ports(self) -> None:
        groups: dict[str, list[ActorPlan]] = {}
        for actor in self.plan.actors:
            if actor.address:
                groups.setdefault(actor.address.group, []).append(actor)
        for actors in groups.values():
            address = actors[0].address
            assert address is not None, "grouped by address above"
            sockets = open_listeners(address.group, address.host, address.port, len(actors))
            self.listeners |= {actor.name: opened for actor, opened in zip(actors, sockets, strict=True)}

    def _clean_up(self, lock: InstanceLock, *, everything: bool) -> None:
        for opened in self.listeners.values():
            opened.close()
        for bell in self.doorbells:
            os.close(bell)
        if self._page is not None:
            self._page.state = PageState.STOPPED
            self._page.close()
        if everything:
            purge(self.plan.folder)
        else:
            tidy(self.plan.folder)
        self.notifier.close()
        lock.release()

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop, number.name)
        if self.replan is None:
            loop.add_signal_handler(signal.SIGHUP, self.request_stop, "SIGHUP")
        else:
            loop.add_signal_handler(signal.SIGHUP, self.request_reload)

    # -- turns --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        asleep = now - self._last_turn > ASLEEP_S
        self._last_turn = now
        for process in self.processes.values():
            if asleep:
                process.forgive_silence(now)
            process.watch(now)
        self._carry_out_reload()
        self._carry_out_restarts()
        self._start_due(now)
        self._check_ready(now)
        self._give_up_if_told()
        self._report(now)

    async def _sleep(self) -> None:
        """Until something happens, at most one turn."""
        settled = all(
            process.state in (State.RUNNING, State.FATAL, State.EXITED) for process in self.processes.values()
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), TURN_QUIET_S if settled else TURN_BUSY_S)
        self._wake.clear()

    def _start_due(self, now: float) -> None:
        for process in self.processes.values():
            first = process.state is State.EXITED and process.wanted and self._may_start(process.plan, now)
            again = process.state is State.BACKOFF and now >= process.start_at
            if first or again:
                self._start(process)

    def _may_start(self, plan: ActorPlan, now: float) -> bool:
        """Whether those run that it is to be started after; it does not wait for them for ever."""
        if self.ready or now - self._started > START_ORDER_WAIT_S:
            return True
        return all(self.processes[name].state is State.RUNNING for name in plan.after if name in self.processes)

    def _start(self, process: Process) -> None:
        assert self._shared is not None, "prepared before the first turn"
        process.start(self._shared)
        assert process.spawned is not None, "it was just started"
        asyncio.get_running_loop().add_reader(process.spawned.pidfd, self._exited, process, process.spawned.pidfd)

    def _exited(self, process: Process, pidfd: int) -> None:
        """A process ended: collect it, and take a turn."""
        asyncio.get_running_loop().remove_reader(pidfd)
        asked = process.state is State.STOPPING
        if not process.ended():
            asyncio.get_running_loop().add_reader(pidfd, self._exited, process, pidfd)
        elif self._page is not None and not asked:
            self._page.counter(
                "tickring_actor_deaths_total", "Ends of actors that nobody asked for", actor=process.name
            ).inc()
        self._wake.set()

    def _carry_out_restarts(self) -> None:
        for name in sorted(self._restarts_asked):
            process = self.processes[name]
            process.policy.forgive()
            if process.alive:
                process.ask_to_stop(self.plan.supervisor.drain_timeout_s, for_good=False)
            else:
                self._start(process)
        self._restarts_asked.clear()

    def _carry_out_reload(self) -> None:
        """Apply a changed configuration to the actors that it concerns; one with mistakes changes nothing."""
        if self._reload_asked and self.replan is not None and self._shared is not None:
            self._reload_asked = False
            self.notifier.reloading()
            try:
                new = self.replan()
                changes = compare(self.plan, new, len(self.doorbells), self._lent)
                create_streams(new)
            except TickringError as error:
                log.error("instance=%s reload refused, the running configuration stays: %s", self.plan.name, error)
            else:
                self.plan = merged(self.plan, new, changes)
                self._apply(changes)
                log.info("instance=%s reloaded %s", self.plan.name, changes)
            self.notifier.ready(self._summary())
        gone = [
            name for name, process in self.processes.items() if not process.wanted and process.state is State.EXITED
        ]
        for name in gone:
            del self.processes[name]

    def _apply(self, changes: Changes) -> None:
        timeout_s = self.plan.supervisor.drain_timeout_s
        for name in changes.removed:
            self.processes[name].ask_to_stop(timeout_s, for_good=True)
        for actor in changes.changed:
            self.processes[actor.name].plan = actor
            self._restarts_asked.add(actor.name)
        for actor in changes.added:
            self.processes[actor.name] = Process(actor, self.plan.supervisor)

    def _check_ready(self, now: float) -> None:
        if self.ready or any(process.state is not State.RUNNING for process in self.processes.values()):
            return
        self.ready = True
        log.info("instance=%s ready after %.2f s actors=%d", self.plan.name, now - self._started, len(self.processes))
        self.notifier.ready(self._summary())
        if self.on_ready is not None:
            self.on_ready(self)

    def _give_up_if_told(self) -> None:
        """An actor that cannot start ends a daemon that is not ready yet: whoever started it must see that."""
        fatal = [process for process in self.processes.values() if process.state is State.FATAL]
        if fatal and (not self.ready or self.plan.supervisor.on_fatal == "exit"):
            self.request_stop(f"actor {fatal[0].name} was given up")

    def _report(self, now: float) -> None:
        """Show the tree to systemd and in the supervisor's own page."""
        if self.healthy(now):
            self.notifier.watchdog()
        if self.ready:
            self.notifier.status(self._summary())
        if self._page is not None:
            actors = {name: process.status() for name, process in self.processes.items()}
            detail = {"instance": self.plan.name, "ready": self.ready, "actors": actors}
            if detail != self._page.detail:
                self._page.detail = detail
            for name, process in self.processes.items():
                self._page.gauge("tickring_actor_restarts", "Restarts since the daemon started", actor=name).set(
                    process.restarts
                )
                up = process.state is State.RUNNING
                self._page.gauge("tickring_actor_running", "1 while the actor runs", actor=name).set(up)
            self._page.state = PageState.RUNNING if self.ready else PageState.STARTING
            self._page.beat(time.monotonic_ns())

    def healthy(self, now: float) -> bool:
        """Whether systemd may believe that we keep the tree going: nothing we killed refuses to go away.

        An actor that was given up does not count: with `on_fatal = "keep"` the rest is worth keeping.
        """
        return not any(p.killed and p.alive and now - p.killed_at > REAP_S for p in self.processes.values())

    def _summary(self) -> str:
        running = sum(process.state is State.RUNNING for process in self.processes.values())
        others = [
            f"{name} {process.state}" for name, process in self.processes.items() if process.state is not State.RUNNING
        ]
        return f"{running} of {len(self.processes)} actors running" + (f"; {', '.join(others)}" if others else "")

    async def _drain(self) -> None:
        self.notifier.stopping(f"stopping: {self.stop_reason or 'an error'}")
        log.info("instance=%s stopping: %s", self.plan.name, self.stop_reason or "an error")
        if self._page is not None:
            self._page.state = PageState.DRAINING
        await drain(list(self.processes.values()), self.plan.supervisor.drain_timeout_s, self._wake, lambda: self.hurry)
        log.info("instance=%s stopped", self.plan.name)

    def _raise_if_failed(self) -> None:
        fatal = [process for process in self.processes.values() if process.state is State.FATAL]
        if fatal and (not self.ready or self.plan.supervisor.on_fatal == "exit"):
            lines = "\n  ".join(f"{process.name}: {process.reason}" for process in fatal)
            raise ActorFailed(f"instance {self.plan.name!r} stopped, because an actor was given up:\n  {lines}")

    # -- what signals and the control socket ask for: notes for the next turn --------------------------------------

    def request_stop(self, why: str) -> None:
        self.hurry = bool(self.stop_reason) and why.startswith("SIG")
        self.stop_reason = self.stop_reason or why
        self._wake.set()

    def request_reload(self) -> None:
        self._reload_asked = True
        self._wake.set()

    def request_restart(self, name: str) -> None:
        if name not in self.processes:
            raise Refused(f"unknown actor {name!r}; known: {', '.join(self.processes)}")
        if self.stop_reason:
            raise Refused("the daemon is stopping")
        self._restarts_asked.add(name)
        self._wake.set()

    def lend_doorbell(self) -> tuple[int, int]:
        """(number, eventfd) of a doorbell that no actor owns."""
        owned = {process.plan.doorbell for process in self.processes.values()}
        for number in range(len(self.doorbells)):
            if number not in self._lent and number not in owned:
                self._lent.add(number)
                return number, self.doorbells[number]
        raise Refused(
            f"all {len(self._lent)} doorbells for outside readers are lent: poll instead, or close another reader"
        )

    def return_doorbell(self, number: int) -> None:
        self._lent.discard(number)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.doorbells[number])  # the next borrower does not hear rings meant for this one

    def status(self) -> dict[str, Any]:
        addresses = {name: opened.getsockname() for name, opened in self.listeners.items()}
        actors = []
        for name, process in self.processes.items():
            listen = addresses.get(name)
            actors.append(process.status() | ({"listen": f"{listen[0]}:{listen[1]}"} if listen else {}))
        return {
            "instance": self.plan.name,
            "pid": os.getpid(),
            "ready": self.ready,
            "stopping": self.stop_reason,
            "folder": str(self.plan.folder),
            "data": str(self.plan.data),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "actors": actors,
        }

    def port(self, group: str) -> int:
        """The port on which the actors of a group listen, as bound."""
        for actor in self.plan.actors:
            if actor.address and actor.address.group == group:
                return self.listeners[actor.name].getsockname()[1]
        raise KeyError(group)
