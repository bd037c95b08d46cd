"""Start of an actor process: fork, and what the child does between the fork and the actor's `main`.

Actors are forked from the supervisor, which has imported what they all need. Measured on two cores (Python 3.11) for
eight processes with numpy, msgspec, uvloop, aiohttp and picows, from the first start to the last event loop running:
forked 0.02 to 0.04 s after one import of 0.2 to 0.4 s; by `subprocess` with `pass_fds` 1.3 to 1.7 s, since each imports
again and two cores do it in turn. Start to ready must stay under 2 s with an engine that opens in half a second, so
only the fork leaves room. It also shares the memory of the modules. `forkserver` starts as fast, but its children are
not ours to wait for, and every descriptor has to be handed over one by one.

The fork is safe because the supervisor has one thread and no work in flight but its own event loop, which the child
never returns to: it closes the loop's descriptors, keeps the objects from the garbage collector, and ends by `_exit`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..actors.runtime import ActorContext
from ..ringbuf.errors import TickringError
from ..ringbuf.page import MetricsPage, State
from . import logs
from .config import Log
from .drain import usual_share_s
from .errors import EXIT_CANNOT_BOOT, EXIT_OK, EXIT_SOFTWARE, EXIT_TRY_AGAIN, ExtraMissing
from .kinds import KINDS
from .plan import ActorPlan

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
_SYS_SCHED_SETATTR = 314  # x86-64
TURN_NS = 100_000  # the shortest turn the scheduler gives
LAST_WORDS_MAX = 4096  # bytes an actor may leave about why it ended; one atomic write into a pipe
REPEATS_FLUSH_S = 5.0


@dataclass(frozen=True)
class Shared:
    """What all actors of an instance are given."""

    folder: Path
    data: Path
    doorbells: Sequence[int] = ()
    group: str = ""
    log: Log = field(default_factory=Log)
    listeners: dict[str, socket.socket] = field(default_factory=dict)  # by actor name
    drain_timeout_s: float = 10.0  # of the whole drain


@dataclass(frozen=True, slots=True)
class Spawned:
    pid: int
    pidfd: int  # readable once the process has ended
    words: int  # read end of the pipe for its last words


def preload() -> None:
    """Import what actors share, before the first fork."""
    import aiohttp.web  # noqa: F401
    import msgspec  # noqa: F401
    import numpy  # noqa: F401
    import picows  # noqa: F401
    import setproctitle  # noqa: F401
    import uvloop  # noqa: F401

    gc.collect()
    gc.freeze()  # the collector of a child does not touch these objects, so their pages stay shared


def spawn(plan: ActorPlan, shared: Shared) -> Spawned:
    """Fork one actor. Only the parent returns from here."""
    main = plan.load()  # imports happen in the parent, once
    supervisor = os.getpid()
    words_read, words_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    sys.stdout.flush()
    sys.stderr.flush()
    # a signal between the fork and the reset of its handlers would run ours in the child
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            code = EXIT_SOFTWARE
            try:
                _become_actor(plan, shared, supervisor, words_write)
                code = _run(plan, shared, main, words_write)
            except BaseException as error:  # noqa: BLE001 - nothing may unwind into the supervisor's frames
                leave_words(words_write, error)
            finally:
                os._exit(code)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(words_write)
    return Spawned(pid, os.pidfd_open(pid), words_read)


def _become_actor(plan: ActorPlan, shared: Shared, supervisor: int, words: int) -> None:
    """Cut every tie to the supervisor but the ones an actor needs."""
    gc.freeze()  # objects of the parent's loop must not be finalised here: they would close numbers that are ours now
    _die_with(supervisor)
    # Ctrl-C goes to the terminal's process group. The supervisor answers it with an ordered drain.
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    listener = shared.listeners.get(plan.name)
    keep = {0, 1, 2, words, *shared.doorbells} | ({listener.fileno()} if listener else set())
    close_all_but(keep)
    _read_nothing()
    os.environ.pop("NOTIFY_SOCKET", None)  # systemd listens to the supervisor only
    if plan.cpus:
        os.sched_setaffinity(0, plan.cpus)
    if plan.nice:
        os.nice(plan.nice)
    ask_for_short_turns()
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle(f"tickring {plan.name} [{shared.folder.name}]")
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ask_for_short_turns() -> bool:
    """Run in turns of 0.1 ms where CPUs are shared; False where the kernel does not know how (before Linux 6.12).

    The scheduler lets whoever runs finish a turn of about 3 ms before it looks at those that woke up meanwhile. A
    process that asks for short turns goes first when it wakes up, and does not keep others waiting while it works
    (EEVDF: a shorter turn has the earlier deadline). With the engine merging on the same two cores, the 99th percentile
    from exchange to client fell from 1.2 to 0.6 ms.
    """
    attributes = struct.pack("<IIQiIQQQ", 48, os.SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, TURN_NS, 0, 0)
    return ctypes.CDLL(None).syscall(_SYS_SCHED_SETATTR, 0, attributes, 0) == 0


def _die_with(supervisor: int) -> None:
    """Have the kernel kill us when the supervisor dies, however it dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor:  # it died before the call above: nobody would ever tell us
        os._exit(EXIT_SOFTWARE)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor but these."""
    edges = sorted({-1, *keep})
    highest = max(map(int, os.listdir("/proc/self/fd")), default=2)
    for low, high in zip(edges, [*edges[1:], highest + 2], strict=True):
        if low + 1 < high:  # the call would take the empty range (0, 0) for all descriptors
            os.closerange(low + 1, high)


def _read_nothing() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null:
        os.close(null)


def _run(plan: ActorPlan, shared: Shared, main, words: int) -> int:
    """Run the actor on a loop of its own; returns the exit code of the process."""
    logs.setup(shared.log.level, shared.log.format, actor=plan.name)
    page = None
    try:
        page = MetricsPage(shared.folder, plan.name, time.time_ns(), shared.group or None)
        context = ActorContext(
            name=plan.name,
            kind=plan.kind,
            folder=shared.folder,
            data=shared.data,
            config=plan.config,
            page=page,
            doorbells=shared.doorbells,
            doorbell_index=plan.doorbell,
            listen=shared.listeners.get(plan.name),
            drain_s=usual_share_s(plan.drain_rank, shared.drain_timeout_s),
        )
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(_actor(main, context))
        page.state = State.STOPPED
        return EXIT_OK
    except TickringError as error:
        leave_words(words, error)
        log.error("ended: %s: %s", type(error).__name__, error)
        booted = page is not None and page.state != State.STARTING
        if error.retriable:
            return EXIT_TRY_AGAIN
        return EXIT_SOFTWARE if booted else EXIT_CANNOT_BOOT
    except ImportError as error:
        extra = KINDS[plan.kind].extra if plan.kind in KINDS else "embedded"
        missing = ExtraMissing(f"a library is missing: {error}. Install it: pip install 'tickring[{extra}]'")
        leave_words(words, missing)
        log.error("ended: %s", missing, exc_info=True)
        return EXIT_CANNOT_BOOT
    except Exception as error:
        leave_words(words, error)
        log.exception("ended by an error that nobody expected")
        return EXIT_SOFTWARE
    finally:
        logs.flush_repeats(everything=True)
        sys.stdout.flush()


async def _actor(main, context: ActorContext) -> None:
    loop = asyncio.get_running_loop()
    context.stop_on_signals()

    def flush_repeats() -> None:
        logs.flush_repeats()
        loop.call_later(REPEATS_FLUSH_S, flush_repeats)

    flush_repeats()
    await main(context)


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def leave_words(words: int, error: BaseException) -> None:
    """Tell the supervisor why we end."""
    text = json.dumps({"type": type(error).__name__, "error": str(error)[: LAST_WORDS_MAX // 8]})
    with contextlib.suppress(OSError):
        os.write(words, text.encode()[:LAST_WORDS_MAX])


def read_words(fd: int) -> str:
    """The reason an actor left behind, or "" when it had no time to (a signal, an abort)."""
    try:
        data = os.read(fd, LAST_WORDS_MAX)
        words = json.loads(data) if data else {}
    except (OSError, ValueError):
        return ""
    return f"{words['type']}: {words['error']}" if words else ""
