"""Answers that are worked out once and kept for a bounded time, however many ask for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Keeper(Generic[T]):
    """Values by identity, each at most `keep_s` old.

    Whoever asks while a value is being worked out waits for that one. A `None` is handed out and not kept.

    Args:
        stale_s: for so long beyond it a value is still handed out, while a new one is being worked out.
        entries_max: values kept; the oldest yields.
        worth: whether a value is kept, or only handed to those who wait for it.
    """

    def __init__(
        self, keep_s: float, entries_max: int, worth: Callable[[T], bool] = lambda _: True, *, stale_s: float = 0.0
    ) -> None:
        self._worth, self._stale_s = worth, stale_s
        self.keep_s = keep_s
        self._entries_max = entries_max
        self._values: dict[Hashable, tuple[float, T]] = {}
        self._working: dict[Hashable, tuple[float, asyncio.Task[T | None]]] = {}  # since when

    def fresh(self, identity: Hashable) -> tuple[T, float] | None:
        """`(value, age in seconds)` of a kept value."""
        found = self._values.get(identity)
        if found is None:
            return None
        age = time.monotonic() - found[0]
        return (found[1], age) if age < self.keep_s else None

    async def get(
        self, identity: Hashable, make: Callable[[], Awaitable[T | None]], wait_s: float | None = None
    ) -> tuple[T, float] | None:
        """The kept value, or a new one with age 0. Who stops waiting does not stop the work.

        Args:
            wait_s: when work took so long, nobody waits for it any more: None until it is done.
        """
        found = self.fresh(identity)
        if found is not None:
            return found
        stale = self._values.get(identity)
        working = self._working.get(identity)
        if working is None:
            task = asyncio.ensure_future(self._make(identity, make))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # read, if by nobody else
            working = self._working[identity] = time.monotonic(), task
        if stale is not None and time.monotonic() - stale[0] < self.keep_s + self._stale_s:
            return stale[1], time.monotonic() - stale[0]
        since, task = working
        if wait_s is not None:
            left = since + wait_s - time.monotonic()
            if left <= 0 or not (await asyncio.wait([task], timeout=left))[0]:
                return None
        value = await asyncio.shield(task)
        return None if value is None else (value, 0.0)

    def last(self, identity: Hashable) -> T | None:
        """The kept value, however old."""
        found = self._values.get(identity)
        return None if found is None else found[1]

    def drop(self, identity: Hashable) -> None:
        """Forget a value."""
        self._values.pop(identity, None)

    async def _make(self, identity: Hashable, make: Callable[[], Awaitable[T | None]]) -> T | None:
        try:
            value = await make()
            if value is not None and self._worth(value):
                self._values.pop(identity, None)
                while len(self._values) >= self._entries_max:
                    self._values.pop(next(iter(self._values)))
                self._values[identity] = (time.monotonic(), value)
            return value
        finally:
            del self._working[identity]

    async def close(self) -> None:
        """Stop what is being worked out."""
        tasks = [task for _, task in self._working.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
