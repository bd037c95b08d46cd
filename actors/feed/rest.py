"""REST requests of a feed. Each one first reserves its weight in the address's ledger."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from ...codecs.binance.rest import USED_WEIGHT_HEADER
from ..ledger import Budget, Priority
from .errors import RestFailed, RestRefused

log = logging.getLogger(__name__)

REFUSED = (429, 418)  # too many requests; banned for not stopping
BODY_SHOWN_MAX = 200  # bytes of an error's body in messages


class RestClient:
    """GET under one base address.

    Args:
        base_url: without a trailing slash.
        budget: request weight of the address.
        timeout_s: of one request, all of it.
        counted: called with the status of each answer, 0 where none came.
    """

    def __init__(self, base_url: str, budget: Budget, timeout_s: float, counted: Callable[[int], None]) -> None:
        self.base_url = base_url.rstrip("/")
        self.budget = budget
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._counted = counted
        self._session: aiohttp.ClientSession | None = None
        self._told_ms = 0  # the exchange's time in its last answer
        self._told_at_ns = 0  # when that came, by a clock that nobody sets

    def exchange_ms(self, clock: Callable[[], int]) -> int:
        """The exchange's time, UNIX ms, as its last answer told it: ours may be wrong by hours.

        Args:
            clock: ours, UNIX ns, for as long as it has told none.
        """
        if not self._told_ms:
            return clock() // 1_000_000
        return self._told_ms + (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self._told_at_ns) // 1_000_000

    async def get(
        self, path: str, weight: int, priority: Priority = Priority.SNAPSHOT, patience_s: float | None = None
    ) -> bytes:
        """The body of a 200. Waits for the weight first, for as long as it takes or at most `patience_s`.

        Args:
            path: and query, encoded.

        Raises:
            BudgetExceeded: no weight within `patience_s`.
            RestRefused: 429 or 418; the ledger now holds everybody back.
            RestFailed: any other answer, or none.
        """
        await self.budget.reserve(weight, priority, patience_s)
        window = self.budget.window()
        where = f"GET {self.base_url}{path}"
        session = self._session = self._session or aiohttp.ClientSession(timeout=self._timeout)
        try:
            async with session.get(URL(self.base_url + path, encoded=True)) as response:
                status, headers = response.status, response.headers
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._counted(0)
            raise RestFailed(f"{where}: no answer: {error!r}", 0) from error
        self._counted(status)
        if told_ms := _time_ms(headers.get("Date")):
            self._told_ms, self._told_at_ns = told_ms, time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        used = headers.get(USED_WEIGHT_HEADER, "")
        if used.isdecimal():
            self.budget.observe(int(used), window)
        if status == 200:
            return body
        shown = body[:BODY_SHOWN_MAX].decode("utf-8", "replace")
        if status in REFUSED:
            seconds = self.budget.refused(_seconds(headers.get("Retry-After")))
            raise RestRefused(
                f"{where}: {status} {shown!r}: no request of this address for {seconds:.0f} s", status, seconds
            )
        raise RestFailed(f"{where}: {status} {shown!r}", status)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # lets the transports go


def _time_ms(date: str | None) -> int:
    """UNIX ms of an HTTP date, which has whole seconds; 0 where it is none."""
    try:
        return round(parsedate_to_datetime(date or "").timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return 0


def _seconds(retry_after: str | None) -> float | None:
    """Binance sends whole seconds; whatever else a proxy may send counts as not sent."""
    text = (retry_after or "").strip()
    return float(text) if text.isascii() and text.isdigit() else None
