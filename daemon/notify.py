"""Tell systemd how the daemon is: the sd_notify protocol, one datagram of `KEY=value` lines to $NOTIFY_SOCKET.

Protocol: https://www.freedesktop.org/software/systemd/man/sd_notify.html (read 2026-11). Without the variable, as on a
terminal, every call does nothing. A notification that cannot be sent is counted and never stops the daemon.
"""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger(__name__)


class Notifier:
    def __init__(self, address: str | None = None, watchdog_us: int | None = None) -> None:
        """Take address and watchdog interval from the environment unless they are given."""
        self.address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address
        self.watchdog_interval_s = (_watchdog_us() if watchdog_us is None else watchdog_us) / 1e6 / 2
        self.failures = 0
        self._status = ""
        self._watchdog_at = 0.0
        self._socket: socket.socket | None = None
        if self.address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def ready(self, status: str) -> None:
        self._status = status
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, text: str) -> None:
        if text != self._status:
            self._status = text
            self._send(f"STATUS={_one_line(text)}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        self._status = status
        self._send(f"STOPPING=1\nSTATUS={_one_line(status)}")

    def main_pid(self, pid: int) -> None:
        """Name the process that goes on in our place. From then on only it is heard."""
        self._send(f"MAINPID={pid}")

    def watchdog(self) -> None:
        """Say that the tree is healthy; called at every turn, sent at half the interval systemd waits for."""
        if self.watchdog_interval_s and (now := time.monotonic()) >= self._watchdog_at:
            self._watchdog_at = now + self.watchdog_interval_s
            self._send("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        # "@name" stands for the abstract name space, whose addresses begin with a zero byte
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            self._socket.sendto(text.encode(), address)
        except OSError as error:
            self.failures += 1
            if self.failures == 1:
                log.warning(
                    "notify socket=%s cannot be written: %s. systemd hears nothing; the unit needs NotifyAccess=main",
                    self.address, error,
                )  # fmt: skip


def _watchdog_us() -> int:
    """Interval in µs within which systemd wants to hear from us; 0 = never. Meant for one process id if that is set."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    text = os.environ.get("WATCHDOG_USEC", "0")
    return int(text) if text.isdigit() else 0


def _one_line(text: str) -> str:
    return " ".join(text.split())
