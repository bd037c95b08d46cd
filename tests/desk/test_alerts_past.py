"""Alerts of the topic that only ClickHouse has."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from tickring.actors.alerts.past import past_alerts
from tickring.storage.client import Client, Server
from tickring.storage.deskschema import RAW_EVENTS, ensure_desk
from tickring.storage.nativerows import encode_rows
from tickring.storage.schema import SchemaOptions, qualified

from ..actors.front_rig import engine_fixture, server_fixture  # noqa: F401
from .messages import compose


async def stored(server: Server, values: list[tuple[str, int, int, bytes]], offsets: dict[str, int]) -> Any:
    """What is found when these raw events are stored."""
    client = Client(server)
    try:
        await ensure_desk(client, SchemaOptions(database=server.database))
        now = time.time_ns()  # what is older than its retention would not stay
        rows = [
            (topic, partition, offset, now, None, value, [], "", "", 0, now, now)
            for topic, partition, offset, value in values
        ]
        block = encode_rows([(name, kind) for name, kind, _ in RAW_EVENTS.columns], rows)
        names = [name for name, _, _ in RAW_EVENTS.columns]
        await client.insert(qualified(server.database, RAW_EVENTS.name), names, block, "one")
        return await past_alerts(client, offsets, "default")
    finally:
        await client.close()


def test_what_lies_behind_the_known_offsets_is_told(server: Server) -> None:
    rng = random.Random(1)
    values = [
        ("alerts.v1", partition, offset, compose("alerts.v1", "api", rng).value)
        for partition in range(2) for offset in range(5)
    ]  # fmt: skip
    values += [("alerts.v1", 0, 5, b"\xff rubbish"), ("risk.metrics.v1", 0, 9, b"{}")]
    alerts, ends = asyncio.run(stored(server, values, {"0": 3}))
    assert len(alerts) == 2 + 5 and ends == {"0": 6, "1": 5}


def test_without_a_table_there_is_no_past(server: Server) -> None:
    async def ask() -> Any:
        client = Client(server)
        try:
            return await past_alerts(client, {}, "default")
        finally:
            await client.close()

    assert asyncio.run(ask()) == ([], {})
