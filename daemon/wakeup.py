"""Keep idle CPUs from sleeping so deeply that waking up takes longer than the daemon's readers may wait.

A CPU without work sleeps, and the deeper it sleeps the later it runs the process that a doorbell or a packet wakes.
Linux lets a process set a limit for all CPUs: an int32 in microseconds written to /dev/cpu_dma_latency, which holds
for as long as the descriptor is open; the smallest of all requests counts, and 0 lets an idle CPU poll instead of
sleeping at all. Source: https://www.kernel.org/doc/html/latest/admin-guide/pm/cpuidle.html (read 2026-11).
`tickring doctor` measures what it brings on a machine.

The price of 0 is power, or on a rented machine CPU time that the host counts although nothing was done.
"""

from __future__ import annotations

import grp
import logging
import os
import struct
from pathlib import Path

log = logging.getLogger(__name__)

DEVICE = Path("/dev/cpu_dma_latency")
_LIMIT = struct.Struct("=i")
RULE_FILE = "/etc/udev/rules.d/60-tickring.rules"


class WakeupLimit:
    """One request for the longest wake-up, held until it is changed or closed."""

    def __init__(self, device: Path = DEVICE) -> None:
        self.device = device
        self.limit_us: int | None = None  # as held now
        self._fd = -1

    def hold(self, limit_us: int | None) -> bool:
        """Ask for wake-ups within `limit_us`, None for no limit; False, with one line in the log, if we may not."""
        if limit_us == self.limit_us:
            return True
        self.close()
        if limit_us is None:
            return True
        try:
            self._fd = os.open(self.device, os.O_WRONLY | os.O_CLOEXEC)
            os.write(self._fd, _LIMIT.pack(limit_us))
        except OSError as error:
            self.close()
            log.warning(
                "wakeup_latency_us=%d not held: %s: %s. Idle CPUs sleep as deep as they like; to mend it: %s",
                limit_us, self.device, error.strerror, how_to_allow(error),
            )  # fmt: skip
            return False
        self.limit_us = limit_us
        log.info("wakeup_latency_us=%d held: idle CPUs wake up within it while the daemon runs", limit_us)
        return True

    def close(self) -> None:
        """Take the request back."""
        self.limit_us = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def how_to_allow(error: OSError) -> str:
    """The command after which this process's group may open the device."""
    if isinstance(error, FileNotFoundError):
        return f"start the container with --device {DEVICE}, or take supervisor.wakeup_latency_us out of the file"
    try:
        group = grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        group = str(os.getegid())
    rule = f'KERNEL=="cpu_dma_latency", GROUP="{group}", MODE="0660"'
    return (
        f"echo '{rule}' > {RULE_FILE} && udevadm control --reload && "
        f"udevadm trigger --name-match=cpu_dma_latency, then restart the daemon"
    )
