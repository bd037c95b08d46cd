"""Stop the actors in order: what feeds others first, what others talk to last.

Feeds stop, so the rings get no more records; the writer empties them into ClickHouse; the fronts say goodbye to their
clients; last come the simulator and the engine. Each rank has its own deadline, after which the late ones are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from .process import Process
from .states import State

log = logging.getLogger(__name__)

LOOK_S = 0.1
KILL_WAIT_S = 5.0  # a killed process is gone at once, unless the kernel holds it in a device


async def drain(
    processes: Sequence[Process], timeout_s: float, wake: asyncio.Event, in_a_hurry: Callable[[], bool]
) -> None:
    """Stop all, rank by rank. `wake` is set at each exit; `in_a_hurry` is asked whether waiting is still wanted."""
    for process in processes:  # nothing is started any more, whatever its rank
        if process.state is State.BACKOFF:
            process.ask_to_stop(timeout_s, for_good=True)
    for rank in sorted({process.plan.drain_rank for process in processes}):
        stage = [process for process in processes if process.plan.drain_rank == rank and process.alive]
        for process in stage:
            process.ask_to_stop(timeout_s, for_good=True)
        await _wait_for(stage, processes, timeout_s, wake, in_a_hurry)


async def _wait_for(
    stage: Sequence[Process],
    processes: Sequence[Process],
    timeout_s: float,
    wake: asyncio.Event,
    in_a_hurry: Callable[[], bool],
) -> None:
    given_up_at = time.monotonic() + timeout_s + KILL_WAIT_S
    while left := [process for process in stage if process.alive]:
        now = time.monotonic()
        if now > given_up_at:
            log.error("drain left=%s: killed and still there", ",".join(process.name for process in left))
            return
        for process in left:
            if in_a_hurry():
                process.kill("asked to stop at once")
            process.watch(now)
        # those of later ranks that die meanwhile stay dead, but are collected
        for process in processes:
            if process.state is State.BACKOFF:
                process.ask_to_stop(timeout_s, for_good=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(wake.wait(), LOOK_S)
        wake.clear()
