"""The query cache: in memory, and with a real Redis as its second layer."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.actors.front.desk.cache import QueryCache
from tickring.ringbuf import MetricsPage

from ..ports import free_port

pytest.importorskip("redis", reason="pip install 'tickring[redis]'")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """`(address, process)` of a server of its own."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server: apt-get install redis-server")
    port = free_port()
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    yield f"redis://127.0.0.1:{port}/0", process
    process.kill()
    process.wait()


class Questions:
    """Counts how often ClickHouse would be asked."""

    def __init__(self, answer: Any = (1, "a")) -> None:
        self.asked, self.answer = 0, answer

    async def __call__(self) -> Any:
        self.asked += 1
        return self.answer


def counted(page: MetricsPage, by: str) -> float:
    return page.counter("tickring_front_query_cache_total", "Questions to history, by who answered", by=by).value


def test_a_question_is_asked_once_and_its_hits_are_counted(tmp_path: Path) -> None:
    page = MetricsPage(tmp_path, "front-0", time.time_ns())

    async def work() -> None:
        cache, questions = QueryCache(page, 60.0), Questions()
        assert await cache.get(("curve", 1), questions) == ((1, "a"), False)
        assert await cache.get(("curve", 1), questions) == ((1, "a"), True)
        assert questions.asked == 1 and counted(page, "memory") == 1 and counted(page, "clickhouse") == 1
        await cache.close()

    asyncio.run(work())
    page.close()


def test_what_is_old_is_handed_out_while_it_is_asked_for_anew(tmp_path: Path) -> None:
    page = MetricsPage(tmp_path, "front-0", time.time_ns())

    async def work() -> None:
        cache, answered = QueryCache(page, 0.01), asyncio.Event()
        cache._kept._stale_s = 60.0

        async def again() -> int:
            await answered.wait()
            return 2

        assert await cache.get(("curve",), Questions(1)) == (1, False)
        await asyncio.sleep(0.02)
        for _ in range(3):
            assert await cache.get(("curve",), again) == (1, True)
        answered.set()
        deadline = time.monotonic() + 30
        while await cache.get(("curve",), again) != (2, True):
            assert time.monotonic() < deadline, "what was asked for anew is never handed out"
            await asyncio.sleep(0)
        await cache.close()

    asyncio.run(work())
    page.close()


def test_long_question_goes_on_when_nobody_waits_for_it(tmp_path: Path) -> None:
    page = MetricsPage(tmp_path, "front-0", time.time_ns())

    async def work() -> None:
        cache, answered, asked = QueryCache(page, 60.0, wait_s=0.05, at_once=1), asyncio.Event(), list[int]()

        async def get(n: int) -> tuple[Any, bool]:
            async def question() -> int:
                asked.append(n)
                await answered.wait()
                return n

            return await cache.get((n,), question)

        for n in (1, 1, 2, 2):
            assert await get(n) == (None, False)
        assert asked == [1]
        answered.set()
        deadline = time.monotonic() + 30
        while await get(2) != (2, True):
            assert time.monotonic() < deadline, "the second one is never asked"
            await asyncio.sleep(0)
        assert await get(1) == (1, True) and asked == [1, 2]
        await cache.close()

    asyncio.run(work())
    page.close()


def test_that_there_was_no_answer_is_not_kept(tmp_path: Path) -> None:
    page = MetricsPage(tmp_path, "front-0", time.time_ns())

    async def work() -> None:
        cache, questions = QueryCache(page, 60.0), Questions(None)
        assert await cache.get(("x",), questions) == (None, False)
        assert await cache.get(("x",), questions) == (None, False) and questions.asked == 2
        await cache.close()

    asyncio.run(work())
    page.close()


def test_machines_share_what_one_of_them_asked(tmp_path: Path, redis: tuple[str, Any]) -> None:
    address, _ = redis
    page = MetricsPage(tmp_path, "front-0", time.time_ns())

    async def work() -> None:
        questions = Questions([[1, "a"]])
        deadline = time.monotonic() + 30
        while not counted(page, "redis"):
            assert time.monotonic() < deadline, "nothing is shared"
            one, other = QueryCache(page, 60.0, address), QueryCache(page, 60.0, address)
            assert (await one.get(("shared",), questions))[0] == [[1, "a"]]
            assert (await other.get(("shared",), questions))[0] == [[1, "a"]]
            await one.close()
            await other.close()

    asyncio.run(work())
    page.close()


def test_answers_go_on_while_the_shared_cache_is_away(tmp_path: Path, redis: tuple[str, Any]) -> None:
    address, process = redis
    page = MetricsPage(tmp_path, "front-0", time.time_ns())

    async def work() -> None:
        cache, questions = QueryCache(page, 60.0, address), Questions([1])
        await cache.get(("a",), questions)
        process.kill()
        process.wait()
        assert (await cache.get(("b",), questions))[0] == [1]
        failures = page.counter("tickring_front_query_cache_errors_total", "Failures of the shared cache")
        assert failures.value >= 1
        await cache.close()

    asyncio.run(work())
    page.close()
