"""One actor's process as the supervisor keeps it: its state, its pid, why it ended last, when it starts again."""

from __future__ import annotations

import logging
import mmap
import os
import signal
import struct
import time
from pathlib import Path
from typing import Any

from ..ringbuf import page as page_layout
from .child import Shared, Spawned, read_words, spawn
from .config import SupervisorConfig
from .errors import EXIT_CANNOT_BOOT
from .plan import ActorPlan
from .states import ALIVE, RestartPolicy, State, checked

log = logging.getLogger(__name__)

PAGE_HEAD = 4096
_HEAD = struct.Struct("<QQQ")  # magic, layout_version, pid
_WORDS = struct.Struct("<QQ")  # beat_ns, state


class PageProbe:
    """Heartbeat and state of one process, read from its page without looking at its metrics."""

    def __init__(self, path: Path, pid: int) -> None:
        self.path, self.pid = path, pid
        self._memory: mmap.mmap | None = None

    def read(self) -> tuple[int, page_layout.State] | None:
        """(beat, monotonic ns; state), or None while this process has not made its page yet."""
        memory = self._memory or self._open()
        if memory is None:
            return None
        beat_ns, state = _WORDS.unpack_from(memory, page_layout.BEAT_AT)
        return beat_ns, page_layout.State(state)

    def _open(self) -> mmap.mmap | None:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            memory = mmap.mmap(fd, PAGE_HEAD, mmap.MAP_SHARED, mmap.PROT_READ)
        finally:
            os.close(fd)
        magic, version, pid = _HEAD.unpack_from(memory, 0)
        if (magic, version, pid) != (page_layout.MAGIC, page_layout.LAYOUT_VERSION, self.pid):
            memory.close()  # the page of the process before this one
            return None
        self._memory = memory
        return memory


class Process:
    """An actor's process, over all its restarts. Times are monotonic seconds."""

    def __init__(self, plan: ActorPlan, config: SupervisorConfig) -> None:
        self.plan = plan
        self.config = config
        self.state = State.EXITED
        self.since_ns = time.time_ns()  # when it came into its state, wall clock
        self.reason = ""  # why it ended last
        self.restarts = 0
        self.wanted = True  # False once it was asked to stop for good
        self.start_at = 0.0  # in BACKOFF: when its delay is over
        self.kill_at = 0.0  # in STOPPING: when its time is over
        self.killed = ""  # why we killed it, until its exit is seen
        self.killed_at = 0.0
        self.spawned: Spawned | None = None
        self.started = 0.0
        self.ended_at = 0.0
        self.silent_from = 0.0  # silence before this moment does not count
        self.probe: PageProbe | None = None
        self.policy = RestartPolicy()
        self.replan(plan, config)

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def pid(self) -> int:
        return self.spawned.pid if self.spawned else 0

    @property
    def alive(self) -> bool:
        return self.state in ALIVE

    def move(self, state: State) -> None:
        old, self.state = self.state, checked(self.state, state)
        self.since_ns = time.time_ns()
        log.debug("actor=%s state=%s from=%s", self.name, state, old)

    def replan(self, plan: ActorPlan, config: SupervisorConfig) -> None:
        """Take over another plan, which its next start carries out."""
        self.plan, self.config = plan, config
        policy = self.policy
        policy.delay_s, policy.delay_max_s = config.restart_delay_s, config.restart_delay_max_s
        policy.stable_s = config.restart_stable_s
        policy.restarts_max, policy.window_s = config.restarts_max, config.restart_window_s

    def move_to_cpus(self) -> None:
        """Pin the process that runs, with all its threads, to the CPUs of its plan."""
        if self.spawned is None:
            return
        cpus = self.plan.cpus or os.sched_getaffinity(0)
        try:
            for thread in os.listdir(f"/proc/{self.pid}/task"):
                os.sched_setaffinity(int(thread), cpus)
            log.info("actor=%s pid=%d moved to cpus=%s", self.name, self.pid, ",".join(map(str, sorted(cpus))))
        except OSError as error:  # it has just ended: its next start pins it
            log.warning(
                "actor=%s pid=%d not moved to other CPUs: %s. Name CPUs of this machine in [cpus], then reload",
                self.name, self.pid, error,
            )  # fmt: skip

    def start(self, shared: Shared) -> None:
        """Fork it; the caller watches `spawned.pidfd`."""
        self.restarts += self.started > 0
        self.move(State.STARTING)
        self.killed = ""
        self.started = time.monotonic()
        self.spawned = spawn(self.plan, shared)
        self.probe = PageProbe(shared.folder / page_layout.page_filename(self.name), self.spawned.pid)
        log.info(
            "actor=%s pid=%d started%s", self.name, self.pid, f" restarts={self.restarts}" if self.restarts else ""
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; by the pidfd, so that it cannot reach a later process of the same number."""
        if self.spawned is not None:
            try:
                signal.pidfd_send_signal(self.spawned.pidfd, number)
            except ProcessLookupError:
                pass  # it has just ended

    def ask_to_stop(self, timeout_s: float, *, for_good: bool) -> None:
        """Send SIGTERM; `watch` kills it when the time is over."""
        self.wanted = self.wanted and not for_good
        if self.state in (State.STARTING, State.RUNNING):
            self.move(State.STOPPING)
            self.kill_at = time.monotonic() + timeout_s
            self.signal(signal.SIGTERM)
        elif self.state is State.STOPPING:
            self.kill_at = min(self.kill_at, time.monotonic() + timeout_s)
        elif self.state in (State.BACKOFF, State.FATAL) and for_good:
            self.move(State.EXITED)

    def kill(self, why: str) -> None:
        if not self.killed:
            self.killed = why
            self.killed_at = time.monotonic()
            log.error("actor=%s pid=%d killed: %s", self.name, self.pid, why)
        self.signal(signal.SIGKILL)

    def watch(self, now: float) -> None:
        """Look at the page: does it run now, does it still turn, is it late with stopping?"""
        if self.killed or not self.alive:
            return
        if self.state is State.STOPPING:
            if now > self.kill_at:
                self.kill("did not stop in time")
            return
        seen = self.probe.read() if self.probe else None
        beat_ns, state = seen or (0, page_layout.State.STARTING)
        if self.state is State.STARTING and state is page_layout.State.RUNNING:
            self.move(State.RUNNING)
            log.info("actor=%s pid=%d running after %.2f s", self.name, self.pid, now - self.started)
        silent = now - max(self.started, self.silent_from, beat_ns / 1e9)
        limit = self.config.start_timeout_s if self.state is State.STARTING else self.config.heartbeat_timeout_s
        if silent > limit:
            self.kill(f"no heartbeat for {silent:.1f} s (limit {limit:g} s): its loop hangs or was stopped")

    def forgive_silence(self, now: float) -> None:
        """Count silence from now on: we were asleep ourselves, and the actors may have been with us."""
        self.silent_from = now

    def ended(self) -> bool:
        """Collect the exit; False while the process lives. Decides between EXITED, BACKOFF and FATAL."""
        assert self.spawned is not None, f"actor {self.name} has no process"
        pid, status = os.waitpid(self.spawned.pid, os.WNOHANG)
        if pid == 0:
            return False
        code = os.waitstatus_to_exitcode(status)
        words = read_words(self.spawned.words)
        ran_for = time.monotonic() - self.started
        os.close(self.spawned.words)
        os.close(self.spawned.pidfd)
        self.spawned = self.probe = None
        self.ended_at = time.monotonic()
        self._decide(code, words, ran_for)
        return True

    def _decide(self, code: int, words: str, ran_for: float) -> None:
        how = self.killed or describe_exit(code)
        if self.state is State.STOPPING:
            self.reason = how if self.killed or code else "asked to stop"
            self.move(State.EXITED)
            log.info("actor=%s stopped: %s", self.name, self.reason)
            return
        self.reason = f"{how}: {words}" if words else how
        if code == EXIT_CANNOT_BOOT:
            self.give_up(self.reason)
            return
        delay = self.policy.next_delay(time.monotonic(), ran_for)
        if delay is None:
            config = self.config
            self.give_up(
                f"more than {config.restarts_max} restarts in {config.restart_window_s:g} s; last: {self.reason}"
            )
            return
        self.move(State.BACKOFF)
        self.start_at = time.monotonic() + delay
        log.error("actor=%s died after %.1f s: %s; starts again in %.2f s", self.name, ran_for, self.reason, delay)

    def give_up(self, reason: str) -> None:
        self.reason = reason
        self.move(State.FATAL)
        log.error(
            "actor=%s given up: %s. The others keep running; after mending the cause: tickring restart %s",
            self.name, reason, self.name,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """As the control socket, the CLI and the supervisor's page show it."""
        return {
            "name": self.name,
            "kind": self.plan.kind,
            "state": str(self.state),
            "pid": self.pid,
            "restarts": self.restarts,
            "since_ns": self.since_ns,
            "cpus": list(self.plan.cpus),
            "reason": self.reason,
        }


def describe_exit(code: int) -> str:
    """`exit code 70` or `signal SIGSEGV`."""
    if code >= 0:
        return f"exit code {code}" if code else "returned although nobody asked it to"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
