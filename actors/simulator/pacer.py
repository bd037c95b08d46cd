"""A periodic wake-up finer than the event loop's own timers, whose epoll waits count whole milliseconds."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_ITIMERSPEC = struct.Struct("@llll")  # interval seconds and nanoseconds, first expiry seconds and nanoseconds


class Pacer:
    """A timerfd in the event loop. `callback(periods)` is told how many periods have passed since the last call (>= 1).

    The callback runs straight from the loop's reader: a task that waits on a future would cost a second turn of the
    loop for each period.
    """

    def __init__(self, interval_ns: int, callback: Callable[[int], None]) -> None:
        # os.timerfd_create exists only from Python 3.13 on.
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        seconds, nanoseconds = divmod(interval_ns, 1_000_000_000)
        if libc.timerfd_settime(self._fd, 0, _ITIMERSPEC.pack(seconds, nanoseconds, seconds, nanoseconds), None) < 0:
            error = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(error, "timerfd_settime")
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._ring)

    def _ring(self) -> None:
        self._callback(int.from_bytes(os.read(self._fd, 8), "little"))

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
