"""Ports for processes that are told where to listen.

The kernel gives any free port to whoever connects or binds next, so one that it named a moment ago may be gone when
a process that starts for a second comes to bind it. These lie below the kernel's own, and each is named once.
"""

from __future__ import annotations

import random
import socket
from itertools import count
from pathlib import Path

FIRST = 10_000
STOP = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
if STOP < FIRST + 5_000:  # a machine whose range begins low: then all are the kernel's too
    STOP = 61_000
# other runs of the tests are at work beside this one, each somewhere else; nobody's seed may change that
_candidates = (FIRST + at % (STOP - FIRST) for at in count(random.SystemRandom().randrange(STOP - FIRST)))


def free_port() -> int:
    """A port on which nobody listens, and which this process has not named before."""
    for port in _candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("the candidates never end")
