"""Whether a stream's producer runs."""

from __future__ import annotations

import os

from ....ringbuf import StreamReader


def producer_runs(reader: StreamReader) -> bool:
    """Whether the process that attached the stream last is still there."""
    pid = reader.producer_pid
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
