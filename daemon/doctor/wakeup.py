"""How long an idle CPU takes to run the process that an eventfd wakes: measured, without and with a wake-up limit."""

from __future__ import annotations

import os
import signal
import statistics
import struct
import time
from collections.abc import Iterator

from ..wakeup import DEVICE, WakeupLimit, how_to_allow
from .finding import Finding, Needs, ok, unknown, wrong

PINGS = 300
PAUSE_S = 0.001  # between pings, so that both CPUs fall asleep
SLOW_US = 30.0  # an awake CPU takes 3 to 10
_STAMP = struct.Struct("<q")


def wakeups(needs: Needs) -> Iterator[Finding]:
    """What a wake-up costs as the machine is, and whether the limit that would shorten it may be set."""
    try:
        as_is_us = measure_us()
    except OSError as error:
        yield unknown("wake-up", f"cannot be measured: {error.strerror}")
        return
    limit, limited_us = WakeupLimit(), None
    try:
        os.close(os.open(DEVICE, os.O_WRONLY | os.O_CLOEXEC))
        refused = None
    except OSError as error:
        refused = error
    if refused is None:
        try:
            limit.hold(needs.wakeup_latency_us or 0)
            limited_us = measure_us()
        finally:
            limit.close()
    yield cost(as_is_us, limited_us, needs)
    yield permission(refused, needs)


def cost(as_is_us: float, limited_us: float | None, needs: Needs) -> Finding:
    """Judge the measurement. While a daemon holds its limit, `as_is_us` is already under it."""
    check = "wake-up"
    found = f"p50 {as_is_us:.0f} µs" + ("" if limited_us is None else f", {limited_us:.0f} µs with a limit")
    asked = needs.wakeup_latency_us is not None
    now_us = limited_us if asked and limited_us is not None else as_is_us
    if now_us <= SLOW_US:
        return ok(check, found)
    if asked:
        why = "the machine is busy, or its host takes the CPUs away"
        return wrong(check, found, why, "look for other work with `top`, or rent CPUs that are not shared")
    why = "each record waits so long at every process on its way that was asleep"
    return wrong(check, found, why, "set supervisor.wakeup_latency_us = 0 (idle CPUs then poll, which takes power)")


def permission(refused: OSError | None, needs: Needs) -> Finding:
    """May this user hold a limit?"""
    check = "wake-up limit"
    asked = needs.wakeup_latency_us
    setting = "supervisor.wakeup_latency_us is not set" if asked is None else f"supervisor.wakeup_latency_us = {asked}"
    if refused is None:
        return ok(check, f"{DEVICE} may be opened; {setting}")
    found = f"{DEVICE}: {refused.strerror}; {setting}"
    if asked is None:
        return unknown(check, found)
    return wrong(check, found, "the daemon runs without the limit", how_to_allow(refused))


def measure_us(pings: int = PINGS) -> float:
    """Median time from one process's write into an eventfd to another's return from reading it, µs.

    The reader waits on the last CPU that we may use, the writer runs on the first; with one CPU they share it.
    """
    cpus = sorted(os.sched_getaffinity(0))
    bell = os.eventfd(0, os.EFD_CLOEXEC)
    stamps_read, stamps_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, cpus[-1:])
            while True:
                os.eventfd_read(bell)
                os.write(stamps_write, _STAMP.pack(time.monotonic_ns()))
        finally:
            os._exit(1)
    try:
        os.sched_setaffinity(0, cpus[:1])
        taken = []
        for _ in range(pings):
            time.sleep(PAUSE_S)
            rung_ns = time.monotonic_ns()
            os.eventfd_write(bell, 1)
            taken.append(_STAMP.unpack(os.read(stamps_read, _STAMP.size))[0] - rung_ns)
        return statistics.median(taken) / 1e3
    finally:
        os.sched_setaffinity(0, cpus)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (bell, stamps_read, stamps_write):
            os.close(fd)
