"""Threads for the engine's work, in lanes: a lane that is full or slow does not touch the others.

The engine releases the interpreter lock while it works, so a lane's threads run beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ...storage.engine import EngineError

T = TypeVar("T")


class Lane:
    """`threads` threads and a queue of at most `queue_max` waiting jobs."""

    def __init__(self, name: str, threads: int, queue_max: int) -> None:
        self.name = name
        self.threads = threads
        self.queue_max = queue_max
        self.busy = 0  # jobs running or waiting
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"ch-{name}")

    def check(self) -> None:
        """Raise `EngineError` 202 when no further job may be queued."""
        if self.busy >= self.threads + self.queue_max:
            raise EngineError(
                202,
                "TOO_MANY_SIMULTANEOUS_QUERIES",
                f"Too many simultaneous queries: {self.busy} on lane {self.name}, {self.threads} of them running.",
            )

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Queue a job whatever the queue's length (for what ends work rather than begins it)."""
        future = self._pool.submit(function, *args)
        self.busy += 1
        loop = asyncio.get_running_loop()
        # Counted on the event loop, like the increment: no lock.
        future.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._done))
        return future

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run a job on the lane. Cancelling the wait drops a job that has not begun; one that has goes on."""
        return await asyncio.wrap_future(self.submit(function, *args))

    def _done(self) -> None:
        self.busy -= 1

    def close(self) -> None:
        """Drop what waits; return when what runs is over."""
        self._pool.shutdown(wait=True, cancel_futures=True)
