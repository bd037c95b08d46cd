"""Frames of the two other dialects with something wrong about them: nobody suffers."""

from __future__ import annotations

import asyncio
import json
import os
import random
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from .ws_rig import plain, rig

SEED = int(os.environ.get("TICKRING_FUZZ_SEED", "20261121"))
CASES = int(os.environ.get("TICKRING_FUZZ_CASES", "1000"))
GOOD = [
    {"type": "auth", "token": "t"},
    {"type": "ping"},
    {"type": "subscribe", "channel": "fills"},
    {"type": "subscribe", "subscription_type": "pnl"},
    {"type": "unsubscribe", "channel": "alerts"},
    {"type": "unsubscribe", "subscription_type": "health"},
    {"type": "filter", "filters": {"symbol": "SOLUSDT", "side": ["BUY", "SELL"]}},
]
JUNK = [None, [], {}, -1, 2**70, 1e308, True, [[[]]], "*" * 300, "\u0000", {"a": {"b": []}}, "system", "positions"]


def mutated(rng: random.Random) -> str | bytes:
    content = json.loads(json.dumps(rng.choice(GOOD)))
    kind = rng.randrange(5)
    if kind == 0:
        content[rng.choice(list(content))] = rng.choice(JUNK)
    elif kind == 1:
        content[rng.choice(["filters", "channels", "id", "ts", "op", "channel", "type"])] = rng.choice(JUNK)
    elif kind == 2 and "filters" in content:
        content["filters"] = {str(n): rng.choice(JUNK) for n in range(rng.randrange(30))}
    text = json.dumps(content)
    if kind >= 3:
        data = bytearray(text.encode())
        for _ in range(rng.randrange(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.randrange(3) == 0:
            data = data[: rng.randrange(len(data))]
        text = data.decode("utf-8", "replace")
    return text.encode() if rng.randrange(8) == 0 else text


async def drain(ws: ClientConnection, dialect: str) -> None:
    """Read what comes, and see that it is of the dialect, until a pong says that all was answered."""
    while True:
        frame = json.loads(await asyncio.wait_for(ws.recv(), 30))
        assert "timestamp" in frame or frame["type"] in ("auth_error",), frame
        if dialect == "api" and frame["type"] not in ("welcome", "auth_success", "auth_error"):
            assert isinstance(frame["data"], dict), frame
        if frame["type"] == "pong":
            return


@pytest.mark.parametrize("dialect", ["api", "dashboard"])
def test_mutated_frames_disturb_nobody(shm, dialect):
    async def speak(r: Any, rng: random.Random, cases: int) -> None:
        done = 0
        while done < cases:
            async with connect(r.front.url(f"/ws/alerts?dialect={dialect}")) as ws:
                await ws.recv()
                for _ in range(10):
                    await ws.send(mutated(rng))
                done += 10
                await ws.send('{"type":"ping"}')
                await drain(ws, dialect)

    async def go(r: Any) -> None:
        rng = random.Random(f"{SEED}{dialect}")
        async with plain(r.front, "/ws/fills?dialect=dashboard") as quiet:
            await quiet.until("subscribed")
            speakers = [asyncio.create_task(speak(r, random.Random(rng.random()), CASES // 4)) for _ in range(4)]
            for n in range(50):
                r.fill(n)
                r.alert(f"a-{n}", "CRITICAL")
                await asyncio.sleep(0.01)
            await asyncio.gather(*speakers)
            seen: list[str] = []
            while len(seen) < 50:
                seen += [one["fill_id"] for one in (await quiet.until("data"))["data"]]
            assert seen == [f"f-{n}" for n in range(50)]

    with rig(shm, errors_max=1000, inbound_per_s=100_000) as r:
        asyncio.run(go(r))
        assert r.front.metric("tickring_ws_failures_total") == 0
