"""Settled funding rates: the exchange's history of payments, complete in ClickHouse.

At the start what is missing is fetched: everything since the last payment that is stored, or of the configured days.
Then each perpetual is asked for again when its next payment is due, which follows from the last two. Perpetuals are
those of which some feed records the funding rate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...codecs.binance.rest_market import FundingRate, funding_rates_path, parse_funding_rates
from ...codecs.errors import CodecError
from ...codecs.record import Flag
from ...codecs.records import FUNDING
from ...ringbuf import KeyReader, RingError, keys_filename
from ...storage.backfill import BACKFILL_EPOCH, insert_rows, last_settlements
from ...storage.client import Client
from ...storage.errors import StorageError
from ..feed.errors import RestFailed
from ..feed.rest import RestClient
from ..ledger import Budget, Priority
from .config import Config
from .metrics import Metrics

log = logging.getLogger("tickring.keeper.settlements")

STARTING_NS = 60 * 10**9
RATES_MAX = 1000  # of one answer
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
MS = 1_000_000
FLAGS = int(Flag.SETTLED) | int(Flag.BACKFILL)
RING_SUFFIX = f".{FUNDING.name}.ring"

Name = tuple[str, str]  # exchange, instrument


def perpetuals(folder: Path, products: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Attributes of the perpetuals of these products whose funding rate some producer records."""
    for path in sorted(folder.glob(f"*{RING_SUFFIX}")):
        try:
            keys = KeyReader(folder / keys_filename(path.name.removesuffix(RING_SUFFIX)))
        except RingError:
            continue  # it is being made or removed: next time
        try:
            found = [key.attributes for key in keys if not key.attributes.get("interval")]
        finally:
            keys.close()
        yield from (
            one for one in found if one.get("market_type") == "perpetual" and one.get("product") in products
        )  # fmt: skip


def rate_rows(rates: list[FundingRate], interval_ms: int, ts_recv_ns: int) -> np.ndarray:
    """`(n,)` FUNDING; the number of a payment is its time."""
    rows = np.zeros(len(rates), FUNDING.dtype)
    rows["nth"] = [one.ts_ms for one in rates]
    rows["ts_recv_ns"] = ts_recv_ns
    rows["ts_event_ns"] = rows["nth"].astype(np.int64) * MS
    rows["flags"] = FLAGS
    rows["rate"] = [one.rate for one in rates]
    rows["mark_price"] = [one.mark_price for one in rates]
    times = [one.ts_ms for one in rates]
    following = [*times[1:], times[-1] + interval_ms]
    rows["next_funding_ts"] = following
    rows["funding_interval_h"] = [round((b - a) / HOUR_MS) for a, b in zip(times, following, strict=True)]
    return rows


class Settlements:
    """Keeps the payments of all perpetuals.

    Args:
        folder: of the instance in shared memory.
        rests: by product.
        budget: of the requests for funding rates, which cost no weight and have a limit of their own.
    """

    def __init__(
        self, config: Config, folder: Path, client: Client, rests: Mapping[str, RestClient], budget: Budget,
        metrics: Metrics, clock: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self._config, self._folder, self._client, self._rests = config, folder, client, rests
        self._budget, self._metrics, self._clock = budget, metrics, clock
        self._last: dict[Name, int] = {}  # time of the last payment that is stored, UNIX ms
        self._step: dict[Name, int] = {}  # ms between payments; an hour until two are known, the shortest there is
        self._vain: dict[Name, int] = {}  # when to ask again what was asked for in vain, UNIX ms
        self._known = False  # `_last` is what ClickHouse holds
        self._started_ns = clock()

    async def run(self) -> None:
        """For as long as the keeper lives."""
        while True:
            wait_s = await self.look()
            await asyncio.sleep(wait_s)

    async def look(self) -> float:
        """Fetch what is due; returns the seconds until the next look."""
        try:
            await self._learn()
        except StorageError as error:
            self._metrics.failed("clickhouse")
            log.debug("settled rates wait for ClickHouse: %s", error)
            return self._config.retry_delay_s
        starting = self._clock() - self._started_ns < STARTING_NS  # the feeds may still be numbering their keys
        wait_s = self._config.retry_delay_s if starting else self._config.funding_look_s
        for key in perpetuals(self._folder, self._rests):
            if self._due(key) <= self._clock() // MS:
                try:
                    await self._fetch(key)
                except (RestFailed, StorageError) as error:
                    at_exchange = isinstance(error, RestFailed)
                    self._metrics.failed("exchange" if at_exchange else "clickhouse")
                    log.warning("instrument=%s settled rates not fetched: %s", key["instrument"], error)
                    self._vain.pop(_name(key), None)
                    self._known &= at_exchange  # whether they were stored is looked up
                    return self._config.retry_delay_s
                except CodecError as error:
                    self._metrics.failed("exchange")
                    log.warning("instrument=%s settled rates not readable: %s", key["instrument"], error)
                    self._ask_later(key)
            wait_s = min(wait_s, max(1.0, (self._due(key) - self._clock() // MS) / 1000))
        return wait_s

    def _ask_later(self, key: Mapping[str, Any]) -> None:
        self._vain[_name(key)] = self._clock() // MS + round(self._config.funding_look_s * 1000)

    async def _learn(self) -> None:
        """What ClickHouse holds."""
        if not self._known:
            for name, times in (await last_settlements(self._client, self._config.clickhouse.database)).items():
                self._last[name] = times[0]
                self._step[name] = times[0] - times[1] if len(times) > 1 else HOUR_MS
            self._known = True

    def _due(self, key: Mapping[str, Any]) -> int:
        """When the next payment can be asked for, UNIX ms."""
        name, due = _name(key), 0
        if name in self._last:
            due = self._last[name] + self._step.get(name, HOUR_MS) + round(self._config.funding_delay_s * 1000)
        return max(due, self._vain.get(name, 0))

    async def _fetch(self, key: Mapping[str, Any]) -> None:
        """Store all payments since the last one."""
        name, product = _name(key), key["product"]
        oldest = self._clock() // MS - self._config.funding_history_days * DAY_MS
        self._ask_later(key)  # unless it is told by now
        while True:
            start = max(self._last.get(name, 0) + 1, oldest)
            await self._budget.reserve(1, Priority.ON_DEMAND)
            path = funding_rates_path(product, key["native"], RATES_MAX, start)
            body = await self._rests[product].get(path, 0)  # weighs nothing
            rates = [one for one in parse_funding_rates(body) if one.ts_ms >= start]
            if rates:
                await self._store(key, rates)
                self._vain.pop(name, None)
            if len(rates) < RATES_MAX:
                return

    async def _store(self, key: Mapping[str, Any], rates: list[FundingRate]) -> None:
        name, before = _name(key), self._last.get(_name(key))
        times = [*([before] if before else []), *(one.ts_ms for one in rates)]
        if len(times) > 1:
            self._step[name] = max(HOUR_MS, round((times[-1] - times[-2]) / HOUR_MS) * HOUR_MS)
        rows = rate_rows(rates, self._step.get(name, HOUR_MS), self._clock())
        await insert_rows(self._client, self._config.clickhouse.database, FUNDING, rows, key, BACKFILL_EPOCH)
        self._last[name] = rates[-1].ts_ms
        self._metrics.settlements.inc(len(rates))
        log.debug("instrument=%s settled rates stored=%d", key["instrument"], len(rates))


def _name(key: Mapping[str, Any]) -> Name:
    return key["exchange"], key["instrument"]
