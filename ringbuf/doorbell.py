"""Waking sleeping readers.

Each actor owns one eventfd, its *doorbell*; a producer rings the doorbells of those readers whose ``wake_at`` has been
reached. The handshake is Dekker's: the reader stores ``wake_at`` and then looks at ``publish``; the producer stores
``publish`` and then looks at the alarm. Each side needs a full barrier between its store and its load, or both may see
the old value and a bell stays silent. The barrier of the producer would be paid for every record, so the reader pays
for both: `membarrier(2)` with GLOBAL_EXPEDITED makes every running thread of a registered process execute one.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import threading

log = logging.getLogger("tickring.ringbuf.doorbell")

SLEEP_MAX_S = 0.1  # every sleep is bounded, whatever happens to a bell

_SYS_MEMBARRIER = 324  # x86-64
_GLOBAL_EXPEDITED = 1 << 1
_REGISTER_GLOBAL_EXPEDITED = 1 << 2

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_fence = threading.Lock()


def local_barrier() -> None:
    """Order this thread's earlier stores before its later loads (a lock is an atomic read-modify-write)."""
    _fence.acquire()
    _fence.release()


def register_producer() -> bool:
    """Let readers run a barrier on this process; False where the kernel does not offer it."""
    if _syscall(_SYS_MEMBARRIER, _REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0:
        return True
    log.warning(
        "membarrier=unavailable errno=%d: a bell may come up to %d ms late",
        ctypes.get_errno(), SLEEP_MAX_S * 1000,
    )  # fmt: skip
    return False


def full_barrier() -> None:
    """Order this thread's stores before its later loads, here and on every registered producer."""
    if _syscall(_SYS_MEMBARRIER, _GLOBAL_EXPEDITED, 0, 0) != 0:
        local_barrier()


def make_bell() -> int:
    """A new doorbell: a non-blocking eventfd. Inherited by the actors, so the supervisor makes it before it forks."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


class Bell:
    """The reader's side of a doorbell, for code without an event loop."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def wait(self, timeout_s: float = SLEEP_MAX_S) -> bool:
        """Sleep until rung, at most `timeout_s` and never longer than 100 ms; True when rung."""
        if not self._poll.poll(min(timeout_s, SLEEP_MAX_S) * 1000):
            return False
        drain(self.fd)
        return True


def drain(fd: int) -> None:
    """Forget the rings so far."""
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        pass


def ring(fd: int) -> None:
    """Wake the owner of the bell; a bell that has been rung 2^64 times is still rung."""
    try:
        os.eventfd_write(fd, 1)
    except BlockingIOError:
        pass
