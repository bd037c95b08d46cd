"""`tickring doctor`: what on this machine costs latency or will break the daemon, and the command that mends it.

Each check is a function that looks at files below a root folder, "/" or a copy in a test, and returns a `Finding`. What
it cannot see it calls unknown; it never raises. Only the wake-up of an idle CPU is measured instead of read.
"""

from __future__ import annotations

from pathlib import Path

from . import clock, cpus, limits, memory, wakeup
from .finding import Finding, Needs, Verdict

__all__ = ["Finding", "Needs", "Verdict", "examine", "settings"]


def examine(needs: Needs) -> list[Finding]:
    """All checks. Takes about a second, most of it for the measured wake-ups."""
    return [*settings(needs), *wakeup.wakeups(needs)]


def settings(needs: Needs, root: Path = Path("/")) -> list[Finding]:
    """Everything that is only looked at."""
    return [
        memory.shared_memory(needs, root),
        memory.disk(needs),
        memory.huge_pages(root),
        memory.swap(root),
        clock.synchronised(clock.read_kernel_clock()),
        clock.source(root),
        limits.kernel(root),
        limits.membarrier(),
        limits.open_files(needs, root),
        limits.backlog(root),
        limits.socket_buffers(root),
        cpus.governor(root),
        cpus.idle_states(needs, root),
        cpus.isolation(needs, root),
        cpus.nodes(needs, root),
    ]
