"""Take over a running instance: a new daemon is made ready beside the old one, which stops only then.

```
old daemon                                    new daemon (tickring run --take-over)
 runs                                          imports, reads and checks the configuration, makes its plan
 runs      <── listeners ── answer, sockets ─▶ has the ports; opens those that the old one does not have
 drains    <── hand_over ────────────────────  waits for the instance's lock
 feeds end, lock released ───────────────────▶ takes the lock, attaches the rings, starts the feeds, then the others
 ends
```

Up to `hand_over` nothing of the old daemon changes, so a mistake of the new one costs nothing. After it the old one
still holds the lock until all its actors have ended: there is never a second producer of a ring. If the new daemon dies
meanwhile, the old one starts its actors again and goes on.

The listening sockets are the same ones, passed on: a connection that arrives during the change waits in their backlog.
Of what the feeds record after the writer has stopped the rings hold all, and the next writer goes on behind the last
stored record. That holds where the new plan keeps the rings as they are, so only such feeds end last; others stop
first as in any drain, and the writer empties their rings.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..actors.control import CONTROL_SOCKET
from .child import leave_words, read_words
from .control import Refused, connect, exchange
from .drain import KILL_WAIT_S
from .errors import EXIT_TRY_AGAIN, InstanceBusy
from .instance import InstanceLock, check_space, kept_producers, open_folder
from .listeners import open_listeners
from .plan import Address, Plan, by_group

if TYPE_CHECKING:
    from .supervisor import Supervisor

log = logging.getLogger(__name__)

READY_TO_ASK_S = 60.0  # a new daemon that has not asked for the instance by then is killed
LOOK_S = 0.002  # how often the lock is tried
CLEAN_UP_S = 5.0  # after its drain the old daemon has as long to let go of the lock
WORDS = "TICKRING_WORDS"  # descriptor on which a new daemon tells the one that started it why it ended


class Predecessor:
    """The daemon that runs the instance now, as the new one sees it."""

    def __init__(self, folder: Path) -> None:
        """Raises NotRunning where there is none, Refused where it is stopping."""
        self._client = connect(folder / CONTROL_SOCKET)
        answer, fds = exchange(self._client, "listeners")
        self._generation = answer["generation"]
        self._sockets: dict[Address, list[socket.socket]] = {}
        for where, fd in zip(answer["listeners"], fds, strict=True):
            os.set_inheritable(fd, False)
            self._sockets.setdefault(Address(**where), []).append(socket.socket(fileno=fd))

    def listeners(self, plan: Plan) -> dict[str, socket.socket]:
        """A socket for each actor that listens, by name: the old daemon's, or a new one on a new address.

        Further workers on an address of the old daemon get none yet: connections to a socket that listens already
        would be lost if the new daemon ended before it takes over.

        Raises:
            PortTaken, FolderUnusable
        """
        given: dict[str, socket.socket] = {}
        for address, actors in by_group(plan):
            sockets = self._sockets.pop(address, None)
            if sockets is None:
                sockets = open_listeners(address.group, address.host, address.port, len(actors))
            for opened in sockets[len(actors) :]:
                opened.close()
            given |= {actor.name: opened for actor, opened in zip(actors, sockets, strict=False)}
        for opened in (one for left in self._sockets.values() for one in left):
            opened.close()
        self._sockets.clear()
        return given

    async def hand_over(self, plan: Plan, facts: dict[str, Any] | None) -> InstanceLock:
        """Have it stop; the lock, once it has.

        Raises:
            Refused: it does not give up the instance, and goes on.
            InstanceBusy: it has not stopped in the time that it has for that.
            SpaceShort: the new plan does not fit, so it was not asked.
        """
        check_space(plan)
        members = {"pid": os.getpid(), "generation": self._generation, "keep": kept_producers(plan)}
        answer, _ = exchange(self._client, "hand_over", **members)
        given_up_at = time.monotonic() + answer["drain_timeout_s"] + KILL_WAIT_S + CLEAN_UP_S
        with contextlib.closing(self._client):
            while True:
                try:
                    return open_folder(plan, facts)
                except InstanceBusy:
                    if time.monotonic() > given_up_at:
                        raise
                await asyncio.sleep(LOOK_S)


class Handover:
    """The supervisor's side of being taken over."""

    def __init__(self, supervisor: Supervisor, command: Sequence[str]) -> None:
        """`command` starts a daemon that takes over; empty where there is none."""
        self._supervisor = supervisor
        self._command = command
        self._started: _Started | None = None
        self._asker: int | None = None  # pidfd of who takes over
        self.pid = 0  # of who takes over; 0 = nobody
        self.keep: frozenset[str] = frozenset()  # producers whose rings it goes on with

    def start(self) -> asyncio.Future[dict[str, Any]]:
        """Start a new daemon; the result comes when it takes over, or why it does not.

        Raises:
            Refused
        """
        if not self._command:
            raise Refused("this daemon was not started from a configuration file, so no other can be")
        self._refuse_if_stopping()
        if self._started is not None:
            raise Refused(f"process {self._started.process.pid} is about to take over already", EXIT_TRY_AGAIN)
        self._started = _Started(self._command, self._forget)
        log.info("instance=%s pid=%d started to take over", self._supervisor.plan.name, self._started.process.pid)
        return self._started.result

    def _forget(self) -> None:
        self._started = None

    def offer(self) -> tuple[dict[str, Any], list[int]]:
        """What a new daemon needs to know before it decides, and our listening sockets."""
        self._refuse_if_stopping()
        supervisor = self._supervisor
        addresses = {actor.name: actor.address for actor in supervisor.plan.actors if actor.address}
        offered = [(address, supervisor.listeners[name]) for name, address in addresses.items()]
        where = [{"group": at.group, "host": at.host, "port": at.port} for at, _ in offered]
        answer = {"generation": supervisor.generation, "listeners": where}
        return answer, [opened.fileno() for _, opened in offered]

    def accept(self, pid: int, generation: int, keep: Sequence[str]) -> dict[str, Any]:
        """Stop, so that process `pid` can go on."""
        self._refuse_if_stopping()
        supervisor = self._supervisor
        if generation != supervisor.generation:
            raise Refused("the configuration was changed while the new daemon read it: try again", EXIT_TRY_AGAIN)
        try:
            self._asker = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            raise Refused(f"process {pid} cannot be watched: {error}") from None
        self.pid, self.keep = pid, frozenset(keep)
        if self._started is not None and self._started.process.pid == pid:
            self._started.took_over()
        supervisor.notifier.reloading()
        supervisor.request_stop(f"process {pid} takes over")
        return {"drain_timeout_s": supervisor.plan.supervisor.drain_timeout_s}

    def _refuse_if_stopping(self) -> None:
        if self._supervisor.stop_reason:
            raise Refused(f"the daemon is stopping: {self._supervisor.stop_reason}", EXIT_TRY_AGAIN)

    def call_off(self) -> None:
        """We are to stop for good: so is who wanted to go on in our place."""
        if self._asker is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._asker, signal.SIGTERM)
            self._let_go()

    def failed(self) -> bool:
        """After the drain: whether the new daemon has died, so that we go on."""
        if self._asker is None or not _has_ended(self._asker):
            return False
        log.error(
            "instance=%s pid=%d died before it took over: this daemon goes on", self._supervisor.plan.name, self.pid
        )
        self._let_go()
        return True

    def _let_go(self) -> None:
        assert self._asker is not None, "somebody takes over"
        os.close(self._asker)
        self._asker, self.pid, self.keep = None, 0, frozenset()


class _Started:
    """A daemon that we started to take over from us, until it does or ends."""

    def __init__(self, command: Sequence[str], over: Any) -> None:
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.result.add_done_callback(lambda done: done.cancelled() or done.exception())  # who asked may have gone
        self._over = over
        self._words, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        environment = {**os.environ, WORDS: str(write)}
        environment.pop("WATCHDOG_PID", None)  # it would be ours: the new one is to tell the service manager too
        try:
            self.process = subprocess.Popen(command, env=environment, pass_fds=[write])
        except OSError as error:
            os.close(self._words)
            raise Refused(f"{command[0]} cannot be started: {error.strerror}") from None
        finally:
            os.close(write)
        self._pidfd = os.pidfd_open(self.process.pid)
        loop.add_reader(self._pidfd, self._ended)
        self._limit = loop.call_later(READY_TO_ASK_S, self.process.kill)

    def took_over(self) -> None:
        """It has asked for the instance."""
        self._limit.cancel()
        if not self.result.done():
            self.result.set_result({"pid": self.process.pid})

    def _ended(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        self._limit.cancel()
        code = self.process.wait()
        words = read_words(self._words)
        os.close(self._pidfd)
        os.close(self._words)
        why = words or f"it ended with exit code {code}, its log says why"
        log.error("pid=%d ended and does not take over: %s", self.process.pid, why)
        if not self.result.done():
            self.result.set_exception(
                Refused(f"the new daemon could not take over, the running one goes on. {why}", max(code, 1))
            )
        self._over()


def _has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


@contextlib.contextmanager
def telling_why() -> Iterator[None]:
    """Tell the daemon that started this one why it ended, if one did."""
    fd = int(os.environ.pop(WORDS, "-1"))
    if fd >= 0:
        os.set_inheritable(fd, False)
    try:
        yield
    except Exception as error:
        leave_words(fd, error)
        raise
