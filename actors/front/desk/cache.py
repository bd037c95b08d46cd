"""Repeated questions to ClickHouse: answered once and kept for a bounded time, in memory and, where configured, in a
Redis that several machines share."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ....ringbuf import MetricsPage
from ..errors import FrontError
from ..kept import Keeper

log = logging.getLogger(__name__)

ENTRIES_MAX = 4096
AT_ONCE = 4  # questions to ClickHouse; its client has eight connections
REDIS_TIMEOUT_S = 0.05
REDIS_PAUSE_S = 5.0  # after a failure it is not asked for so long


class QueryCache:
    """Values that are JSON: lists, maps, texts, numbers.

    Args:
        keep_s: how long a value is given out; for as long again while a new one is asked for.
        redis_url: of the second layer; empty = none.
        wait_s: a request waits at most so long for a value, and is told None; the question goes on.
        at_once: questions under way.

    Raises:
        FrontError: a Redis is configured and its client is not installed.
    """

    def __init__(
        self,
        page: MetricsPage,
        keep_s: float,
        redis_url: str = "",
        *,
        wait_s: float | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        self._keep_s = keep_s
        self._kept: Keeper[Any] = Keeper(keep_s, ENTRIES_MAX, stale_s=keep_s)
        self._wait_s, self._turns = wait_s, asyncio.Semaphore(at_once)
        name, doc = "tickring_front_query_cache_total", "Questions to history, by who answered"
        self._hits = page.counter(name, doc, by="memory")
        self._shared = page.counter(name, doc, by="redis")
        self._misses = page.counter(name, doc, by="clickhouse")
        self._failures = page.counter("tickring_front_query_cache_errors_total", "Failures of the shared cache")
        self._redis = _connect(redis_url) if redis_url else None
        self._paused_until = 0.0

    async def get(self, identity: tuple[Any, ...], make: Callable[[], Awaitable[Any]]) -> tuple[Any, bool]:
        """`(value, whether it was kept)`. None, which says that ClickHouse did not answer, is not kept."""
        found = await self._kept.get(identity, lambda: self._make(identity, make), self._wait_s)
        if found is None:
            return None, False
        value, age_s = found
        if age_s > 0:
            self._hits.inc()
        return value, age_s > 0

    async def _make(self, identity: tuple[Any, ...], make: Callable[[], Awaitable[Any]]) -> Any:
        key = "tickring:" + hashlib.sha256(repr(identity).encode()).hexdigest()[:40]
        found = await self._ask_redis(key)
        if found is not None:
            self._shared.inc()
            return msgspec.json.decode(found)
        self._misses.inc()
        async with self._turns:
            value = await make()
        if value is not None:
            await self._tell_redis(key, msgspec.json.encode(value))
        return value

    async def _ask_redis(self, key: str) -> bytes | None:
        return await self._bounded(lambda redis: redis.get(key))

    async def _tell_redis(self, key: str, text: bytes) -> None:
        await self._bounded(lambda redis: redis.set(key, text, px=int(self._keep_s * 1000)))

    async def _bounded(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        if self._redis is None or time.monotonic() < self._paused_until:
            return None
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                return await call(self._redis)
        except Exception as error:  # noqa: BLE001 - a cache that fails is a cache that is not there
            self._failures.inc()
            if not self._paused_until:
                log.warning("shared cache: %s: answers go on without it", error)
            self._paused_until = time.monotonic() + REDIS_PAUSE_S
            return None

    async def close(self) -> None:
        """Let go."""
        await self._kept.close()
        if self._redis is not None:
            await self._redis.aclose()


def _connect(url: str) -> Any:
    try:
        from redis import asyncio as client
    except ImportError:
        raise FrontError("front.cache_redis needs the library 'redis': pip install 'tickring[redis]'") from None
    return client.from_url(url, socket_connect_timeout=REDIS_TIMEOUT_S, socket_timeout=REDIS_TIMEOUT_S)
