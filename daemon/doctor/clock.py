"""The wall clock, with which every record is stamped at receipt."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from .finding import Finding, ok, read, unknown, wrong

_STA_UNSYNC, _STA_NANO = 0x0040, 0x2000
OFFSET_MAX_S = 1e-3  # latencies from the exchange's clock to ours are milliseconds
FAST_SOURCES = ("tsc", "kvm-clock", "hyperv_clocksource_tsc_page")


class _Timex(ctypes.Structure):
    """`struct timex` of x86-64 (adjtimex(2)); what is not read here is padding."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("_rest", ctypes.c_byte * 160),
    )


@dataclass(frozen=True, slots=True)
class KernelClock:
    """What the kernel knows of its clock's rightness."""

    synchronised: bool
    offset_s: float  # that is still to be corrected
    error_max_s: float


def read_kernel_clock() -> KernelClock | None:
    """By adjtimex(2), which tells without any right as long as it changes nothing; None where it fails."""
    timex = _Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
        return None
    unit = 1e-9 if timex.status & _STA_NANO else 1e-6
    return KernelClock(not timex.status & _STA_UNSYNC, timex.offset * unit, timex.maxerror * 1e-6)


def synchronised(clock: KernelClock | None) -> Finding:
    check = "clock"
    if clock is None:
        return unknown(check, "the kernel does not say")
    if not clock.synchronised:
        why = "ts_recv_ns, latencies and signed requests drift from the exchange's time"
        return wrong(check, "not synchronised", why, "apt-get install chrony && systemctl enable --now chrony")
    found = f"synchronised, offset {clock.offset_s * 1e3:+.3f} ms, error at most {clock.error_max_s * 1e3:.0f} ms"
    if abs(clock.offset_s) > OFFSET_MAX_S:
        return wrong(check, found, "latencies from exchange to us are off by as much", "chronyc makestep")
    return ok(check, found)


def source(root: Path) -> Finding:
    check = "clock source"
    folder = "sys/devices/system/clocksource/clocksource0"
    name = read(root, f"{folder}/current_clocksource")
    if not name:
        return unknown(check, "the kernel does not say")
    if name in FAST_SOURCES:
        return ok(check, name)
    others = [one for one in (read(root, f"{folder}/available_clocksource") or "").split() if one in FAST_SOURCES]
    mend = f"echo {others[0]} > /{folder}/current_clocksource" if others else "boot with tsc=reliable"
    return wrong(check, name, "each look at the clock is a system call or slower, and every record takes one", mend)
