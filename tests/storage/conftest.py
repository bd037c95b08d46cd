"""One embedded engine for all tests of storage, and a database of its own for each test."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tickring.storage.client import Client, Server

from .processes import Actor, running_engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Actor]:
    """The embedded engine as a process."""
    with running_engine() as engine:
        yield engine


def new_database(engine: Actor) -> Server:
    """The engine, with a database that nobody else uses."""
    return Server(
        url=engine.detail()["url"],
        password_file=str(engine.data / "clickhouse" / "password"),
        database=f"t{uuid.uuid4().hex[:10]}",
        timeout_s=20.0,
    )


@pytest.fixture
def server(engine: Actor) -> Server:
    """The engine, with a database that no other test uses."""
    return new_database(engine)


@pytest.fixture
def with_client(server: Server) -> Callable[[Callable[[Client], Any]], Any]:
    """Run a coroutine function with a connected client, and close the client behind it."""

    def run(work: Callable[[Client], Any]) -> Any:
        async def inside() -> Any:
            client = Client(server)
            try:
                return await work(client)
            finally:
                await client.close()

        return asyncio.run(inside())

    return run
