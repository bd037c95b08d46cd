"""Fetches depth snapshots for books that cannot go on without one: one symbol at a time is one symbol's trouble."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from ...codecs.errors import CodecError
from .errors import RestFailed

log = logging.getLogger(__name__)

BACKOFF_MIN_S = 0.25
BACKOFF_MAX_S = 30.0
SLOW_AFTER = 5  # attempts after which one line says that a book still waits


class Snapshots:
    """Works off the keys that want a snapshot, a few at a time, each with its own backoff.

    Args:
        fetch: the snapshot of a key from REST, handed to its book.
        wanted: whether the key still needs one.
        name_of: of a key, for the log.
        at_once: requests in flight.
    """

    def __init__(
        self,
        fetch: Callable[[int], Awaitable[None]],
        wanted: Callable[[int], bool],
        name_of: Callable[[int], str],
        at_once: int,
    ) -> None:
        self._fetch = fetch
        self._wanted = wanted
        self._name_of = name_of
        self._slots = asyncio.Semaphore(at_once)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.failed = 0
        self.given_up = 0  # keys that an unexpected error left without one

    def want(self, key_id: int) -> None:
        """Fetch a snapshot for the key, unless one is being fetched. Cheap; may be called from a frame's callback."""
        if key_id not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._obtain(key_id))
            self._tasks[key_id] = task
            task.add_done_callback(lambda done: self._done(key_id, done))

    def _done(self, key_id: int, task: asyncio.Task[None]) -> None:
        del self._tasks[key_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.given_up += 1
            log.error("snapshot=%s gave up", self._name_of(key_id), exc_info=error)

    async def _obtain(self, key_id: int) -> None:
        attempt = 0
        while self._wanted(key_id):
            if attempt:
                ceiling = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** (attempt - 1))
                await asyncio.sleep(random.uniform(ceiling / 2, ceiling))
            attempt += 1
            async with self._slots:
                if not self._wanted(key_id):
                    return
                try:
                    await self._fetch(key_id)
                except (RestFailed, CodecError) as error:
                    self.failed += 1
                    log.warning("snapshot=%s attempt=%d: %s", self._name_of(key_id), attempt, error)
            if attempt == SLOW_AFTER:
                log.warning("snapshot=%s still not in sync after %d attempts", self._name_of(key_id), attempt)

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
