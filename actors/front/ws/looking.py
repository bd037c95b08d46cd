"""Channels whose topic is looked at now and then, by a timer, while somebody is subscribed."""

from __future__ import annotations

import asyncio
import logging

from .topics import Topic

log = logging.getLogger(__name__)


class LookedAt(Topic):
    """A topic with a timer of its own instead of a ring that is followed."""

    followed = False
    _timer: asyncio.TimerHandle | None = None

    def opened(self) -> None:
        """Somebody is subscribed."""
        if self._timer is None:
            self._plan()

    def closed(self) -> None:
        """Nobody is any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _plan(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._wait_s(), self._due)

    def _due(self) -> None:
        self._plan()
        try:
            self._check()
        except Exception:
            log.exception("channel %s failed; it is looked at again", self.name)

    def _wait_s(self) -> float:
        """Until the next look."""
        raise NotImplementedError

    def _check(self) -> None:
        """Look, and send what is new."""
        raise NotImplementedError
