"""What the REST server has to do wrong."""

from __future__ import annotations

import re
from collections.abc import Callable

_UPDATE_ID = re.compile(rb'"lastUpdateId":(\d+)')


class RestFaults:
    """Faults that wait for a request. All lists are taken from one request at a time."""

    def __init__(self) -> None:
        self.statuses: list[tuple[str | None, int, int]] = []  # product (None = any), status, Retry-After
        self.stale: dict[tuple[str, str], list[bytes]] = {}  # depth bodies by product and symbol
        self.old: dict[tuple[str, str], list[int]] = {}  # by how many update ids a depth body is behind

    @property
    def pending(self) -> int:
        return len(self.statuses) + sum(map(len, self.stale.values())) + sum(map(len, self.old.values()))

    def clear(self) -> None:
        self.statuses.clear()
        self.stale.clear()
        self.old.clear()

    def take_status(self, product: str) -> tuple[int, int] | None:
        for index, (wanted, status, retry_after) in enumerate(self.statuses):
            if wanted in (None, product):
                del self.statuses[index]
                return status, retry_after
        return None

    def snapshot(self, product: str, symbol: str, now: Callable[[], bytes | None]) -> bytes | None:
        """Return the depth body to answer with: the one of now, unless a fault has another one."""
        stale, old = self.stale.get((product, symbol)), self.old.get((product, symbol))
        body = stale.pop() if stale else now()
        if old and body is not None:
            behind = old.pop()
            body = _UPDATE_ID.sub(lambda id: b'"lastUpdateId":%d' % max(1, int(id[1]) - behind), body, count=1)
        return body
