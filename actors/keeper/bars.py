"""Bars from the exchange's REST into ClickHouse: those of a range that are stored nowhere yet."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...codecs.binance.rest_market import KLINES_LIMIT_MAX, klines_path, klines_weight, parse_klines
from ...codecs.errors import CodecError
from ...codecs.klines import INTERVALS, Bar, bar_start, bar_starts, bar_stop
from ...codecs.record import Flag
from ...codecs.records import KLINE
from ...ringbuf.errors import TickringError
from ...storage.backfill import BACKFILL_EPOCH, held_bars, insert_rows
from ...storage.client import Client
from ..feed.errors import RestFailed
from ..feed.rest import RestClient
from ..ledger import BudgetExceeded, Priority
from .config import EXCHANGE, Config
from .errors import KeeperRefused
from .metrics import Metrics

log = logging.getLogger("tickring.keeper.bars")

MS = 1_000_000
CLOSE_MS = 5_000  # a bar counts as closed so long after its end
FLAGS = int(Flag.CLOSED) | int(Flag.BACKFILL)
ABSENT_AFTER_MS = 600_000  # a bar that the exchange does not have so long after its end is one that it has not
ABSENT_KEEP_S = 3600.0  # that the exchange has no bar is believed for so long
ABSENT_MAX = 1_000_000  # such bars remembered; then all are forgotten
FAILURES = (RestFailed, CodecError, BudgetExceeded)

Key = Mapping[str, Any]  # attributes of a key: an instrument's, and `interval`


class Work:
    """A range under way.

    Attributes:
        stored: bars that it has brought so far.
        left: missing ones that it leaves to the next: of a range that lacks more than may be fetched at once.
        reason: why it ended before its end; empty while it has not.
        stopping: whether it should end before its end.
    """

    def __init__(self) -> None:
        self.stored = self.left = 0
        self.reason = ""
        self.stopping = False
        self.task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Whether it is over. An error that nobody expected is raised here, where it ends the keeper."""
        if self.task is None or not self.task.done():
            return False
        if not self.task.cancelled():
            self.task.result()
        return True

    async def wait(self, seconds: float | None) -> None:
        """At most so long; who stops waiting does not stop the work."""
        if self.task is not None:
            await asyncio.wait((self.task,), timeout=seconds)

    async def stop(self) -> None:
        """Let it end with the request that is under way: a cancelled insert may still be carried out later."""
        self.stopping = True
        await self.wait(None)


class BarFetcher:
    """Fetches ranges; those who ask for the same one at the same time share one piece of work.

    Args:
        rests: by product.
    """

    def __init__(
        self, config: Config, client: Client, rests: Mapping[str, RestClient], metrics: Metrics
    ) -> None:  # fmt: skip
        self._config, self._client, self._rests, self._metrics = config, client, rests, metrics
        self._works: dict[tuple[Any, ...], Work] = {}
        self._slots = asyncio.Semaphore(config.fetches_at_once)
        self._absent: dict[tuple[str, str, str], tuple[float, np.ndarray]] = {}  # key -> (since, open_ts)

    def check(self, key: Key) -> None:
        """Raises KeeperRefused: bars of that key cannot be fetched."""
        names = ("exchange", "product", "market_type", "symbol", "instrument", "native", "interval")
        if not all(isinstance(key.get(name), str) and key[name] for name in names) or key["interval"] not in INTERVALS:
            raise KeeperRefused(f"bars of {dict(key)!r:.200} cannot be fetched: it is no key of bars", "bad_request")
        if key["exchange"] != EXCHANGE or key["product"] not in self._rests:
            raise KeeperRefused(f"no REST address of {key['exchange']} {key['product']} is configured", "bad_request")

    def fetch(
        self, key: Key, start_ms: int, stop_ms: int, *, most: int, oldest_first: bool = True,
        epoch: int = BACKFILL_EPOCH,
    ) -> Work:  # fmt: skip
        """Begin to fetch the bars of ``[start_ms, stop_ms)`` that are missing, at most so many; or join those who do.

        Raises:
            KeeperRefused: the key is none, or too much is under way.
        """
        self.check(key)
        identity = (key["exchange"], key["instrument"], key["interval"], start_ms, stop_ms, most, oldest_first, epoch)
        work = self._works.get(identity)
        if work is None:
            if len(self._works) >= self._config.work_max:
                raise KeeperRefused(f"{len(self._works)} ranges are being fetched already: try again later", "busy")
            work = self._works[identity] = Work()
            work.task = asyncio.create_task(self._run(work, key, start_ms, stop_ms, most, oldest_first, epoch))
            work.task.add_done_callback(lambda _: self._ended(identity))
            self._metrics.working.set(len(self._works))
        return work

    def _ended(self, identity: tuple[Any, ...]) -> None:
        del self._works[identity]
        self._metrics.working.set(len(self._works))

    async def _run(
        self, work: Work, key: Key, start_ms: int, stop_ms: int, most: int, oldest_first: bool, epoch: int
    ) -> None:
        try:
            missing = await self.missing(key, start_ms, stop_ms, temporary=epoch == BACKFILL_EPOCH)
            work.left = max(0, len(missing) - most)
            missing = missing[:most] if oldest_first else missing[-most:]
            for chunk in chunks(missing, key["interval"], KLINES_LIMIT_MAX[key["product"]]):
                async with self._slots:
                    if work.stopping:
                        break
                    work.stored += await self._fetch_chunk(key, chunk, epoch)
        except TickringError as error:
            kind = "exchange" if isinstance(error, FAILURES) else "clickhouse"
            self._metrics.failed(kind)
            work.reason = str(error)[:300]
            log.warning("bars=%s.%s not fetched: %s", key["instrument"], key["interval"], error)
        if work.stored:
            log.info("bars=%s.%s fetched=%d left=%d", key["instrument"], key["interval"], work.stored, work.left)

    async def missing(self, key: Key, start_ms: int, stop_ms: int, *, temporary: bool) -> np.ndarray:
        """`open_ts` of the bars of a range that are over and not stored, `(n,)` i8, oldest first.

        Args:
            temporary: whether a bar of a temporary range counts as stored.
        """
        interval = key["interval"]
        over = bar_start(interval, time.time_ns() // MS - CLOSE_MS)
        starts = np.array(bar_starts(interval, max(0, start_ms), min(stop_ms, over)), np.int64)
        if not len(starts):
            return starts
        held = await held_bars(
            self._client, self._config.clickhouse.database, key, int(starts[0]), bar_stop(interval, int(starts[-1])),
            temporary=temporary,
        )  # fmt: skip
        since, absent = self._absent.get(_name(key), (0.0, starts[:0]))
        if time.monotonic() - since > ABSENT_KEEP_S:
            absent = starts[:0]
        return np.setdiff1d(starts, np.concatenate((_slots(interval, held.tolist()), absent)))

    async def _fetch_chunk(self, key: Key, chunk: np.ndarray, epoch: int) -> int:
        """Fetch and store neighbouring bars in one request; returns how many there were."""
        product, interval = key["product"], key["interval"]
        first, last = int(chunk[0]), int(chunk[-1])
        limit = len(bar_starts(interval, first, last + 1))
        path = klines_path(product, key["native"], interval, limit, first, bar_stop(interval, last) - 1)
        weight = klines_weight(product, limit)
        body = await self._rests[product].get(path, weight, Priority.ON_DEMAND, self._config.weight_patience_s)
        wanted = set(chunk.tolist())
        told_ms = self._rests[product].exchange_ms(time.time_ns)
        bars = [bar for bar in parse_klines(body) if bar_start(interval, bar.open_ts) in wanted]
        bars = [bar for bar in bars if bar.close_ts + CLOSE_MS <= told_ms]
        if bars:
            rows = bar_rows(bars, time.time_ns())
            await insert_rows(self._client, self._config.clickhouse.database, KLINE, rows, key, epoch)
            self._metrics.bars.inc(len(bars))
        self._remember_absent(key, wanted - set(_slots(interval, [bar.open_ts for bar in bars]).tolist()), told_ms)
        return len(bars)

    def _remember_absent(self, key: Key, missing: set[int], told_ms: int) -> None:
        """The exchange has no such bars (before a listing, while it was closed): nobody asks for them again soon."""
        starts = np.array(sorted(missing), np.int64)
        starts = starts[starts + INTERVALS[key["interval"]] < told_ms - ABSENT_AFTER_MS]
        if not len(starts):
            return
        if sum(len(known) for _, known in self._absent.values()) + len(starts) > ABSENT_MAX:
            self._absent.clear()
        since, known = self._absent.get(_name(key), (time.monotonic(), starts[:0]))
        if time.monotonic() - since > ABSENT_KEEP_S:
            since, known = time.monotonic(), starts[:0]
        self._absent[_name(key)] = since, np.union1d(known, starts)

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = [work.task for work in self._works.values() if work.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _name(key: Key) -> tuple[str, str, str]:
    return key["exchange"], key["instrument"], key["interval"]


def _slots(interval: str, starts: list[int]) -> np.ndarray:
    """`(n,)` starts of bars as `bar_starts` has them: others for bars of three days alone."""
    return np.array([bar_start(interval, start) for start in starts], np.int64)


def chunks(starts: np.ndarray, interval: str, most: int) -> list[np.ndarray]:
    """Cut `(n,)` times, oldest first, so that each piece spans at most so many bars of the interval."""
    found, span = [], most * INTERVALS[interval]
    while len(starts):
        size = int(np.searchsorted(starts, int(starts[0]) + span))
        found.append(starts[:size])
        starts = starts[size:]
    return found


def bar_rows(bars: list[Bar], ts_recv_ns: int) -> np.ndarray:
    """`(n,)` KLINE; a bar's number is the time at which it opens, and its time the one at which it closes."""
    rows = np.zeros(len(bars), KLINE.dtype)
    for name, values in zip(Bar._fields, zip(*bars, strict=True), strict=True):
        rows[name] = values
    rows["nth"] = rows["open_ts"]
    rows["ts_recv_ns"] = ts_recv_ns
    rows["ts_event_ns"] = rows["close_ts"] * MS
    rows["flags"] = FLAGS
    return rows
