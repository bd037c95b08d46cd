"""What the kernel can do and how much it allows: version, barriers, open files, sockets."""

from __future__ import annotations

import re
from pathlib import Path

from ...ringbuf.doorbell import register_producer
from ..listeners import BACKLOG
from .finding import Finding, Needs, ok, read, read_numbers, unknown, wrong

SHORT_TURNS_SINCE = (6, 12)
BUFFER_BYTES_MIN = 4 << 20  # a second of a busy connection; it is what Linux allows by default


def kernel(root: Path) -> Finding:
    check = "kernel"
    text = read(root, "proc/sys/kernel/osrelease")
    found = re.match(r"(\d+)\.(\d+)", text or "")
    if not found:
        return unknown(check, "the kernel does not say")
    if (int(found[1]), int(found[2])) < SHORT_TURNS_SINCE:
        why = "processes cannot ask for short turns, so one that works keeps others of its CPU waiting for 3 ms"
        mend = "install a kernel of 6.12 or later (Debian: apt-get install -t bookworm-backports linux-image-amd64)"
        return wrong(check, f"{text}", why, mend)
    return ok(check, f"{text}")


def membarrier() -> Finding:
    check = "membarrier"
    if register_producer():
        return ok(check, "available")
    mend = "use Linux 4.16 or later, and allow membarrier in the container's seccomp profile"
    return wrong(check, "not available", "a sleeping reader may be woken up to 100 ms late", mend)


def open_files(needs: Needs, root: Path) -> Finding:
    """Of the daemon that runs, else of this process, whose limits a daemon started here would have."""
    check = "open files"
    text = read(root, f"proc/{needs.pid or 'self'}/limits") or ""
    found = re.search(r"^Max open files\s+(\S+)", text, re.MULTILINE)
    if not found:
        return unknown(check, "the kernel does not say")
    whose = f"process {needs.pid}" if needs.pid else "this shell"
    allowed = f"{found[1]} for {whose}, {needs.files} needed"
    if found[1].isdigit() and int(found[1]) < needs.files:
        mend = f"ulimit -n {needs.files}   (systemd: LimitNOFILE= in the unit; container: --ulimit nofile=...)"
        return wrong(check, allowed, "fronts refuse clients and feeds cannot reconnect", mend)
    return ok(check, allowed)


def backlog(root: Path) -> Finding:
    check = "listen backlog"
    numbers = read_numbers(root, "proc/sys/net/core/somaxconn")
    if len(numbers) != 1:
        return unknown(check, "the kernel does not say")
    if numbers[0] < BACKLOG:
        why = "clients that come while a front restarts are turned away sooner than need be"
        return wrong(check, f"net.core.somaxconn={numbers[0]}", why, f"sysctl -w net.core.somaxconn={BACKLOG * 4}")
    return ok(check, f"net.core.somaxconn={numbers[0]}")


def socket_buffers(root: Path) -> Finding:
    """TCP grows a connection's buffers up to the third number by itself; nothing here sets sizes of its own."""
    check = "socket buffers"
    found, commands = [], []
    for name, smallest in (("rmem", BUFFER_BYTES_MIN), ("wmem", BUFFER_BYTES_MIN)):
        sizes = read_numbers(root, f"proc/sys/net/ipv4/tcp_{name}")
        if len(sizes) != 3:
            return unknown(check, "the kernel does not say")
        found.append(f"net.ipv4.tcp_{name}={sizes[2]}")
        if sizes[2] < smallest:
            commands.append(f"sysctl -w net.ipv4.tcp_{name}='{sizes[0]} {sizes[1]} {smallest}'")
    if commands:
        why = "a burst that a busy process has not read yet stalls the connection, and exchanges drop slow readers"
        return wrong(check, ", ".join(found), why, " && ".join(commands))
    return ok(check, ", ".join(found))
