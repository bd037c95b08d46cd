"""What goes out later: frames that wait for their subscription's least interval, and looks at books."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from itertools import count

from .book import SETTLE_S, View
from .subscription import Subscription


class Cadence:
    """Timers of one worker; used from its event loop only.

    Args:
        look: called with a view when it is time to look at its book.
    """

    def __init__(self, look: Callable[[View], None]) -> None:
        self._look = look
        self._held: list[tuple[float, int, Subscription]] = []  # a heap: due, tie breaker, whose frame waits
        self._waiting: set[Subscription] = set()
        self._ties = count()
        self._release_timer: asyncio.TimerHandle | None = None

    def schedule(self, view: View) -> None:
        """Plan a look at a book: soon, but not before its cadence allows."""
        view.scheduled = True
        wait = max(view.due - time.monotonic(), SETTLE_S)
        asyncio.get_running_loop().call_later(wait, self._due, view)

    def _due(self, view: View) -> None:
        view.scheduled = False
        self._look(view)

    def hold(self, sub: Subscription) -> None:
        """A frame waits until its subscription's least interval has passed."""
        if sub not in self._waiting:
            self._waiting.add(sub)
            heapq.heappush(self._held, (sub.due, next(self._ties), sub))
            self._plan()

    def _plan(self) -> None:
        if self._held and self._release_timer is None:
            wait = max(0.0, self._held[0][0] - time.monotonic())
            self._release_timer = asyncio.get_running_loop().call_later(wait, self._release)

    def _release(self) -> None:
        self._release_timer = None
        now = time.monotonic()
        while self._held and self._held[0][0] <= now:
            _, _, sub = heapq.heappop(self._held)
            self._waiting.discard(sub)
            if sub.held is not None and sub.live:
                (frame, seq), sub.held = sub.held, None
                sub.due = now + sub.request.conflate_ms / 1000
                sub.connection.send(sub, frame, seq, seq)
        self._plan()

    def stop(self) -> None:
        if self._release_timer is not None:
            self._release_timer.cancel()
