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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..actors.control import CONTROL_SOCKET
from ..ringbuf.doorbell import make_bell
from ..ringbuf.errors import RingError
from . import child
from .child import Shared
from .control import ControlServer, Refused
from .drain import drain
from .errors import ActorFailed, UnknownName
from .instance import (
    RINGS_READ_WAIT_S,
    InstanceLock,
    make_streams,
    open_folder,
    prepare_streams,
    purge,
    tidy,
    unread_misfits,
)
from .listeners import open_more, open_unix_listener
from .logs import flush_repeats
from .notify import Notifier
from .overview import Overview
from .plan import Plan, by_group
from .process import Process
from .reloading import Reloader
from .states import State
from .subscriptions import Subscriptions
from .takeover import Handover, Predecessor
from .wakeup import DEVICE, WakeupLimit

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
        on_ready: Callable[[Supervisor], None] | None = None,
        replan: Callable[[], Plan] | None = None,
        subscriptions: Subscriptions | None = None,
        predecessor: Predecessor | None = None,
        successor: Sequence[str] = (),
        wakeup_device: Path = DEVICE,
    ) -> None:
        """Args:
        leave_nothing: remove the instance's shared memory at the end.
        facts: left in the lock file for others to read.
        on_ready: called once, when every actor runs.
        replan: makes the plan anew at SIGHUP; without it SIGHUP stops the daemon, as the end of a terminal should.
        subscriptions: makes the plan anew when clients subscribe.
        predecessor: the daemon that runs the instance now and is to hand it over.
        successor: command line of a daemon that takes over from this one.
        """
        self.plan = plan
        self.leave_nothing = leave_nothing
        self.facts = facts
        self.on_ready = on_ready
        self.hangup_stops = replan is None
        self.subscriptions = subscriptions
        replan = replan or (subscriptions.plan if subscriptions else None)
        self.reloader = None if replan is None else Reloader(self, replan)
        self.predecessor = predecessor
        self.handover = Handover(self, successor)
        self.generation = 0  # of the plan: how often it was changed
        self.notifier = Notifier()
        self.processes = {actor.name: Process(actor, plan.supervisor) for actor in plan.actors}
        self.listeners: dict[str, socket.socket] = {}
        self.doorbells: list[int] = []
        self.ready = False
        self.stop_reason = ""
        self.hurry = False  # asked twice: no more waiting
        self.wakeup = WakeupLimit(wakeup_device)
        self.lent: set[int] = set()
        self.restarts_asked: set[str] = set()
        self._wake = asyncio.Event()
        self._started = time.monotonic()
        self._prepared = self._started  # from when on actors may start
        self._last_turn = self._started
        self._overview: Overview | None = None
        self.shared: Shared | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Start, watch until asked to stop, drain. Returns 0.

        Raises:
            DaemonError: the instance could not be started, or ended because an actor was given up.
        """
        self._started = time.monotonic()
        child.preload()
        lock = await self._take_instance()
        warm = any(self.plan.folder.glob("*.ring"))  # an earlier daemon's, which a failed start must not cost
        control: ControlServer | None = None
        try:
            self._handle_signals(asyncio.get_running_loop())
            control = self._prepare()
            control.start()
            self._prepared = time.monotonic()
            while True:
                try:
                    while not self.stop_reason:
                        self._turn()
                        await self._sleep()
                finally:
                    await self._drain()
                if not self.handover.failed():
                    break
                self._go_on()
            self._raise_if_failed()
            return 0
        finally:
            if control is not None:
                await control.close()
            leave_nothing = self.leave_nothing and not self.handover.pid
            self._clean_up(lock, everything=leave_nothing or (control is None and not warm))
            flush_repeats(everything=True)

    async def _take_instance(self) -> InstanceLock:
        """The right to run the instance, from its predecessor if there is one."""
        if self.predecessor is None:
            return open_folder(self.plan, self.facts)
        self.listeners = self.predecessor.listeners(self.plan)
        lock = await self.predecessor.hand_over(self.plan, self.facts)
        log.info("instance=%s taken over after %.2f s", self.plan.name, time.monotonic() - self._started)
        return lock

    def _prepare(self) -> ControlServer:
        """Everything that must be there before the first fork."""
        plan = self.plan
        made = prepare_streams(plan)
        log.info(
            "instance=%s folder=%s streams=%d new=%d bytes=%d actors=%d",
            plan.name, plan.folder, len(plan.streams), made, plan.memory_bytes, len(plan.actors),
        )  # fmt: skip
        self._open_ports()
        self.wakeup.hold(plan.supervisor.wakeup_latency_us)
        for actor in plan.actors:
            if actor.prepare is not None:
                actor.prepare()
        self.doorbells = [make_bell() for _ in range(plan.doorbells)]
        listener = open_unix_listener(plan.folder / CONTROL_SOCKET, CONTROL_MODE_GROUP if plan.group else CONTROL_MODE)
        self._overview = Overview(plan.folder, plan.group)
        self.shared = Shared(
            plan.folder, plan.data, self.doorbells, plan.group, plan.log, self.listeners,
            plan.supervisor.drain_timeout_s,
        )  # fmt: skip
        return ControlServer(listener, self)

    def _open_ports(self) -> None:
        for address, actors in by_group(self.plan):
            taken_over = [self.listeners[actor.name] for actor in actors if actor.name in self.listeners]
            wanting = [actor.name for actor in actors if actor.name not in self.listeners]
            sockets = open_more(address.group, address.host, address.port, len(wanting), taken_over)
            self.listeners |= dict(zip(wanting, sockets, strict=True))

    def _clean_up(self, lock: InstanceLock, *, everything: bool) -> None:
        self.wakeup.close()
        for opened in self.listeners.values():
            opened.close()
        for bell in self.doorbells:
            os.close(bell)
        if self._overview is not None:
            self._overview.close()
        if everything:
            purge(self.plan.folder)
        else:
            tidy(self.plan.folder)
        if self.handover.pid:
            self.notifier.main_pid(self.handover.pid)
        self.notifier.close()
        lock.release()

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request_stop, number.name)
        if self.hangup_stops:
            loop.add_signal_handler(signal.SIGHUP, self.request_stop, "SIGHUP")
        else:
            loop.add_signal_handler(signal.SIGHUP, lambda: None if self.stop_reason else self.request_reload())

    # -- turns --------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        asleep = now - self._last_turn > ASLEEP_S
        self._last_turn = now
        for process in self.processes.values():
            if asleep:
                process.forgive_silence(now)
            process.watch(now)
        self._forget_removed()
        if self.reloader is not None:
            self.reloader.turn(now)
        self._carry_out_restarts()
        self._start_due(now)
        self._check_ready(now)
        self._give_up_if_told()
        self._report(now)

    async def _sleep(self) -> None:
        """Until something happens, at most one turn."""
        settled = all(
            process.state in (State.RUNNING, State.FATAL) or (process.state is State.EXITED and not process.wanted)
            for process in self.processes.values()
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TURN_QUIET_S if settled else TURN_BUSY_S):
                await self._wake.wait()
        self._wake.clear()

    def _start_due(self, now: float) -> None:
        for process in sorted(self.processes.values(), key=lambda one: one.plan.drain_rank):  # producers first
            first = process.state is State.EXITED and process.wanted and self._may_start(process, now)
            again = process.state is State.BACKOFF and now >= process.start_at
            if first or again:
                self._start(process)

    def _may_start(self, process: Process, now: float) -> bool:
        """Whether nothing is in the way of a start that was asked for; it does not wait for others for ever."""
        plan = process.plan
        first = [self.processes[name] for name in plan.after if name in self.processes]
        if any(map(self._is_between, first)) and now - max(self._prepared, process.ended_at) <= START_ORDER_WAIT_S:
            return False
        if not plan.streams:
            return True
        # symbols may move from one producer to another, and two must not record the same ones
        if any(one.state is State.STOPPING and one.plan.kind == plan.kind for one in self.processes.values()):
            return False
        return now - process.ended_at > RINGS_READ_WAIT_S or not unread_misfits(self.plan.folder, plan)

    def _start(self, process: Process) -> None:
        assert self.shared is not None, "prepared before the first turn"
        try:
            make_streams(self.plan, process.plan)
        except RingError as error:
            process.give_up(str(error))
            return
        process.start(self.shared)
        assert process.spawned is not None, "it was just started"
        asyncio.get_running_loop().add_reader(process.spawned.pidfd, self._exited, process, process.spawned.pidfd)

    def _exited(self, process: Process, pidfd: int) -> None:
        """A process ended: collect it, and take a turn."""
        asyncio.get_running_loop().remove_reader(pidfd)
        asked = process.state is State.STOPPING
        if not process.ended():
            asyncio.get_running_loop().add_reader(pidfd, self._exited, process, pidfd)
        elif self._overview is not None and not asked:
            self._overview.count_death(process.name)
        self._wake.set()

    def _carry_out_restarts(self) -> None:
        """Of workers on one port one after the other, so that the port is always served."""
        for name in sorted(self.restarts_asked):
            process = self.processes[name]
            if any(self._is_between(other) for other in self._beside(process)):
                continue
            self.restarts_asked.discard(name)
            process.policy.forgive()
            if process.alive:
                process.ask_to_stop(self.plan.supervisor.drain_timeout_s, for_good=False)
            elif process.state is not State.EXITED:
                process.move(State.EXITED)  # from where it is started like any other

    def _beside(self, process: Process) -> list[Process]:
        """The other workers on its port."""
        address = process.plan.address
        return [
            one for one in self.processes.values() if address and one is not process and one.plan.address == address
        ]

    @staticmethod
    def _is_between(process: Process) -> bool:
        return process.state in (State.STOPPING, State.EXITED, State.STARTING)

    def _forget_removed(self) -> None:
        """Let go of actors that a reload took out, once they have ended."""
        gone = [one.name for one in self.processes.values() if not one.wanted and one.state is State.EXITED]
        for name in gone:
            self.restarts_asked.discard(name)
            del self.processes[name]

    def _check_ready(self, now: float) -> None:
        if self.ready or any(process.state is not State.RUNNING for process in self.processes.values()):
            return
        self.ready = True
        log.info("instance=%s ready after %.2f s actors=%d", self.plan.name, now - self._started, len(self.processes))
        self.notifier.ready(self.summary())
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
            self.notifier.status(self.summary())
        if self._overview is not None:
            self._overview.show(self.plan.name, self.processes, ready=self.ready, generation=self.generation)
        flush_repeats()

    def healthy(self, now: float) -> bool:
        """Whether systemd may believe that we keep the tree going: nothing we killed refuses to go away.

        An actor that was given up does not count: with `on_fatal = "keep"` the rest is worth keeping.
        """
        return not any(p.killed and p.alive and now - p.killed_at > REAP_S for p in self.processes.values())

    def summary(self) -> str:
        running = sum(process.state is State.RUNNING for process in self.processes.values())
        others = [
            f"{name} {process.state}" for name, process in self.processes.items() if process.state is not State.RUNNING
        ]
        return f"{running} of {len(self.processes)} actors running" + (f"; {', '.join(others)}" if others else "")

    async def _drain(self) -> None:
        if self.reloader is not None:
            self.reloader.give_up()
        if not self.handover.pid:
            self.notifier.stopping(f"stopping: {self.stop_reason or 'an error'}")
        log.info("instance=%s stopping: %s", self.plan.name, self.stop_reason or "an error")
        if self._overview is not None:
            self._overview.draining()
        await drain(
            list(self.processes.values()), self.plan.supervisor.drain_timeout_s, self._wake, lambda: self.hurry,
            self.handover.keep,
        )  # fmt: skip
        log.info("instance=%s stopped", self.plan.name)

    def _go_on(self) -> None:
        """Start everything again: who wanted to take over has died."""
        self.stop_reason = ""
        planned = {actor.name for actor in self.plan.actors}
        for process in self.processes.values():
            process.wanted = process.name in planned
        self.notifier.ready(self.summary())

    def _raise_if_failed(self) -> None:
        fatal = [process for process in self.processes.values() if process.state is State.FATAL]
        if fatal and (not self.ready or self.plan.supervisor.on_fatal == "exit"):
            reasons = "; ".join(f"{process.name}: {process.reason}" for process in fatal)
            raise ActorFailed(f"instance {self.plan.name!r} stopped, because an actor was given up: {reasons}")

    # -- what signals and the control socket ask for: notes for the next turn --------------------------------------

    def request_stop(self, why: str) -> None:
        if self.handover.pid and self.stop_reason:
            self.handover.call_off()
            self.notifier.stopping(f"stopping: {why}")
            self.stop_reason = ""
        self.hurry = bool(self.stop_reason) and why.startswith("SIG")
        self.stop_reason = self.stop_reason or why
        self._wake.set()

    def request_reload(self) -> asyncio.Future[dict[str, Any]]:
        """Re-read the configuration; the result comes when all actors that it concerns run as it says."""
        if self.reloader is None:
            raise Refused("this daemon has no configuration file to read again")
        if self.stop_reason:
            raise Refused("the daemon is stopping")
        self._wake.set()
        return self.reloader.request()

    async def subscribe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Change what the feeds carry, for good; the answer comes when all actors that it concerns run so."""
        if self.subscriptions is None or self.reloader is None:
            raise Refused("this daemon has no configuration that could be changed")
        if self.stop_reason:
            raise Refused("the daemon is stopping")
        change = self.subscriptions.change(request)
        self._wake.set()
        result = await self.reloader.request(change.plan)
        return {**result, "changed": change.changed, "symbols": change.now()}

    def request_restart(self, name: str) -> None:
        if name not in self.processes:
            raise UnknownName("actor", f"unknown actor {name!r}; known: {', '.join(self.processes)}")
        if self.stop_reason:
            raise Refused("the daemon is stopping")
        self.restarts_asked.add(name)
        self._wake.set()

    def lend_doorbell(self) -> tuple[int, int]:
        """(number, eventfd) of a doorbell that no actor owns."""
        owned = {process.plan.doorbell for process in self.processes.values()}
        for number in range(len(self.doorbells)):
            if number not in self.lent and number not in owned:
                self.lent.add(number)
                return number, self.doorbells[number]
        raise Refused(
            f"all {len(self.lent)} doorbells for outside readers are lent: poll instead, or close another reader"
        )

    def return_doorbell(self, number: int) -> None:
        self.lent.discard(number)
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
