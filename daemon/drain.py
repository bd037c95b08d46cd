"""Stop the actors in order: what feeds others first, what others talk to last.

Feeds stop, so the rings get no more records; the writer empties them into ClickHouse; the fronts say goodbye to their
clients; last come the simulator and the engine. The drain as a whole has a deadline: each rank may take half of what is
left of it, the last one all, and who is late is killed. So the writer has most of the time, and one that hangs leaves
some to those after it.

Where another daemon takes over, feeds whose rings it keeps end after all others: an exchange does not wait, and the
next writer finds in the rings what this one has not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from .states import State

if TYPE_CHECKING:
    from .process import Process

log = logging.getLogger(__name__)

LOOK_S = 0.1
LAST = 1_000  # rank after all others
KILL_WAIT_S = 5.0  # a killed process is gone at once, unless the kernel holds it in a device


def usual_share_s(rank: int, timeout_s: float) -> float:
    """Seconds that an actor of a rank can count on for its stop, of a drain of `timeout_s`.

    Producers, of rank 0, end at once; each rank after them may take all of its share. The last one has twice as much.
    """
    return timeout_s / 2 ** max(1, rank)


async def drain(
    processes: Sequence[Process],
    timeout_s: float,
    wake: asyncio.Event,
    in_a_hurry: Callable[[], bool],
    kept: Collection[str] = (),
) -> None:
    """Stop all, rank by rank, within `timeout_s` and the time the kernel takes to end what was killed.

    `wake` is set at each exit; `in_a_hurry` is asked whether waiting is still wanted; `kept` are
    the producers with whose rings another daemon goes on.
    """

    def rank(process: Process) -> int:
        return LAST if process.plan.kind == "feed" and process.name in kept else process.plan.drain_rank

    over_at = time.monotonic() + timeout_s
    for process in processes:  # nothing is started any more, whatever its rank
        if process.state is State.BACKOFF:
            process.ask_to_stop(timeout_s, for_good=True)
    while ranks := {rank(process) for process in processes if process.alive}:
        left_s = max(0.0, over_at - time.monotonic())
        share_s = left_s / 2 if len(ranks) > 1 else left_s
        stage = [process for process in processes if rank(process) == min(ranks) and process.alive]
        for process in stage:
            process.ask_to_stop(share_s, for_good=True)
        if not await _wait_for(stage, processes, share_s, wake, in_a_hurry):
            processes = [process for process in processes if process not in stage]


async def _wait_for(
    stage: Sequence[Process],
    processes: Sequence[Process],
    timeout_s: float,
    wake: asyncio.Event,
    in_a_hurry: Callable[[], bool],
) -> bool:
    """Until the stage has ended; False if the kernel does not let go of one."""
    given_up_at = time.monotonic() + timeout_s + KILL_WAIT_S
    while left := [process for process in stage if process.alive]:
        now = time.monotonic()
        if now > given_up_at:
            names = ",".join(process.name for process in left)
            log.error(
                "drain left=%s: killed and still there, the kernel holds them. Look for a bad disk in dmesg", names
            )
            return False
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
    return True
