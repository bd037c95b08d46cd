"""Temporary ranges: bars that are fetched, kept for a while and taken away again.

A range brings the bars that are stored nowhere else, under an epoch of its own; what history or another range holds
stays as it is. All ranges are in ``keeper/temporary.json`` of the data folder before anything is fetched for them, and
leave it when their bars are gone: whenever the keeper or the daemon ends, the next one goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from pathlib import Path
from typing import Any

import msgspec

from ...codecs.klines import bar_starts
from ...storage.backfill import BACKFILL_EPOCH, delete_bars
from ...storage.client import Client
from ...storage.errors import DiskUnusable, StorageError
from .bars import BarFetcher, Key, Work
from .config import Config
from .errors import KeeperRefused
from .metrics import Metrics
from .protocol import Created, Deleted, State

log = logging.getLogger("tickring.keeper.temporary")

FILE = "temporary.json"
MS = 1_000_000
MINUTE_NS = 60 * 10**9
SLEEP_MAX_S = 3600.0  # the wall clock may be set


class Range(msgspec.Struct, kw_only=True):
    """One temporary range, as it stands in the file."""

    temp_id: str
    epoch: int  # of its rows
    key: dict[str, Any]  # attributes of the key
    start_ms: int
    stop_ms: int
    expires_ns: int  # wall clock
    stored: int = 0  # bars that it has brought
    complete: bool = False  # all that the exchange has


class TemporaryRanges:
    """The ranges of an instance.

    Raises:
        DiskUnusable: the file cannot be read.
    """

    def __init__(
        self, config: Config, folder: Path, client: Client, fetcher: BarFetcher, metrics: Metrics
    ) -> None:  # fmt: skip
        self._config, self._client, self._fetcher, self._metrics = config, client, fetcher, metrics
        self._path = folder / FILE
        self._works: dict[str, Work] = {}  # by temp_id
        self._gone: dict[str, asyncio.Event] = {}  # by temp_id, for those who wait for its end
        self._changed = asyncio.Event()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._ranges = {one.temp_id: one for one in self._load()}
        except OSError as error:
            raise DiskUnusable(f"temporary ranges {self._path}: {error}: free or mend the disk") from error

    def _load(self) -> list[Range]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[Range])
        except FileNotFoundError:
            return []
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            broken = self._path.with_suffix(".broken")
            os.replace(self._path, broken)
            log.error("temporary ranges unreadable, kept as %s: %s: their bars stay in ClickHouse", broken, error)
            return []

    def _save(self) -> None:
        """Raises DiskUnusable: the file is as it was."""
        fresh = self._path.with_suffix(".new")
        try:
            with open(fresh, "wb") as file:
                file.write(msgspec.json.encode(list(self._ranges.values())))
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self._path)
        except OSError as error:
            raise DiskUnusable(f"temporary ranges {self._path}: {error}: free or mend the disk") from error
        self._metrics.temporary.set(len(self._ranges))

    async def create(self, key: Key, start_ms: int, stop_ms: int, ttl_minutes: int, wait_s: float) -> Created:
        """Keep a range. Raises KeeperRefused, DiskUnusable."""
        self._fetcher.check(key)
        bars = len(bar_starts(key["interval"], start_ms, stop_ms))
        if bars > self._config.temporary_bars_max:
            raise KeeperRefused(
                f"a range of {bars:,} {key['interval']} bars: at most {self._config.temporary_bars_max:,} are fetched",
                "too_large",
            )
        if ttl_minutes > self._config.temporary_ttl_max_minutes:
            most = self._config.temporary_ttl_max_minutes
            raise KeeperRefused(f"a life of {ttl_minutes:,} minutes: at most {most:,} are kept", "bad_request")
        if len(self._ranges) >= self._config.temporary_ranges_max:
            raise KeeperRefused(f"{len(self._ranges)} temporary ranges are kept already: delete one", "too_many")
        number, now_ns = secrets.randbits(62), time.time_ns()
        one = Range(
            temp_id=f"{number:016x}", epoch=BACKFILL_EPOCH + 1 + number, key=dict(key), start_ms=start_ms,
            stop_ms=stop_ms, expires_ns=now_ns + ttl_minutes * MINUTE_NS,
        )  # fmt: skip
        self._ranges[one.temp_id] = one
        try:
            self._save()  # before there is a bar of it
            work = self._fetch(one)
        except DiskUnusable:
            del self._ranges[one.temp_id]
            raise
        except KeeperRefused:
            del self._ranges[one.temp_id]
            self._save()
            raise
        self._changed.set()
        await work.wait(wait_s)
        self._settle(one, work)
        state: State = "unavailable" if work.reason else "complete" if work.done else "pending"
        return Created(
            temp_id=one.temp_id, state=state, expires_ms=one.expires_ns // MS, bars=bars, stored=work.stored,
            reason=work.reason,
        )  # fmt: skip

    async def delete(self, temp_id: str, wait_s: float) -> Deleted:
        one = self._ranges.get(temp_id)
        if one is None:
            return Deleted(found=False)
        one.expires_ns = 0
        self._save()
        self._changed.set()
        gone = self._gone.setdefault(temp_id, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await gone.wait()
        return Deleted(found=True, state="complete" if gone.is_set() else "pending")

    async def run(self) -> None:
        """Go on with what is not complete and take away what has expired, for as long as the keeper lives."""
        self._metrics.temporary.set(len(self._ranges))
        while True:
            self._changed.clear()
            retry = False
            for one in list(self._ranges.values()):
                try:
                    if one.expires_ns <= time.time_ns():
                        await self._remove(one)
                    elif not one.complete:
                        retry |= self._go_on(one)
                except StorageError as error:
                    retry = True
                    self._metrics.failed("disk" if isinstance(error, DiskUnusable) else "clickhouse")
                    log.warning("temporary=%s is tried again: %s", one.temp_id, error)
            wait_s = self._config.retry_delay_s if retry else self._until_next_s()
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _until_next_s(self) -> float:
        first = min((one.expires_ns for one in self._ranges.values()), default=1 << 62)
        return min(SLEEP_MAX_S, max(0.0, (first - time.time_ns()) / 1e9))

    def _fetch(self, one: Range) -> Work:
        work = self._works[one.temp_id] = self._fetcher.fetch(
            one.key, one.start_ms, one.stop_ms, most=self._config.temporary_bars_max, epoch=one.epoch
        )
        return work

    def _go_on(self, one: Range) -> bool:
        """Fetch what a range still lacks; True while it has to be looked at again."""
        work = self._works.get(one.temp_id)
        if work is not None:
            if not work.done:
                return True
            self._settle(one, work)
            if one.complete:
                return False
        try:
            self._fetch(one)
        except KeeperRefused as error:
            log.warning("temporary=%s waits: %s", one.temp_id, error)
        return True

    def _settle(self, one: Range, work: Work) -> None:
        """Note what a piece of work has brought, once it is over."""
        if work.done and self._works.get(one.temp_id) is work:
            del self._works[one.temp_id]
            one.stored += work.stored
            one.complete = not (work.reason or work.left)
            if one.temp_id in self._ranges:
                self._save()

    async def _remove(self, one: Range) -> None:
        """Take the bars of a range away. Raises StorageError: they, or its place in the file, are still there."""
        if (work := self._works.pop(one.temp_id, None)) is not None:
            await work.stop()
        await delete_bars(self._client, self._config.clickhouse.database, one.key, one.epoch)
        del self._ranges[one.temp_id]
        try:
            self._save()
        except DiskUnusable:
            self._ranges[one.temp_id] = one
            raise
        if gone := self._gone.pop(one.temp_id, None):
            gone.set()
        self._metrics.removed.inc()
        log.info("temporary=%s %s.%s removed", one.temp_id, one.key["instrument"], one.key["interval"])
