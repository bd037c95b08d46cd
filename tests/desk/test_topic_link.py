"""A session of a topic's consumer: what ends it, so that the next one begins."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from tickring.actors.topic.link import Link


async def _fails(error: Exception) -> None:
    raise error


def test_session_whose_library_no_longer_fetches_ends() -> None:
    """uvloop says of a connection that was just closed what the library does not expect, and its task ends by it."""

    async def follow() -> None:
        link: Any = Link.__new__(Link)
        link.ctx = SimpleNamespace(stopping=asyncio.Event())
        fetching = asyncio.create_task(_fails(KafkaError("the handler is closed")))
        watching = asyncio.create_task(asyncio.Event().wait())
        await asyncio.wait([fetching])
        try:
            await link._follow(SimpleNamespace(_fetcher=SimpleNamespace(_fetch_task=fetching)), watching)
        finally:
            watching.cancel()

    with pytest.raises(KafkaError, match="handler is closed"):
        asyncio.run(follow())


def test_stop_waits_for_the_question_to_clickhouse_to_end() -> None:
    """Left alone, it is cancelled a second time with the loop, and the library tells of a connection not closed."""
    closed = []

    async def asking() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            closed.append("connection")

    async def stopped() -> None:
        link: Any = Link.__new__(Link)
        link.config = SimpleNamespace(retry_delay_s=1.0)
        link.ctx = SimpleNamespace(stopping=asyncio.Event())
        link.ctx.stopping.set()
        link._asking = asyncio.create_task(asking())
        await asyncio.sleep(0)  # it has begun
        await link.run()

    asyncio.run(stopped())
    assert closed == ["connection"]
