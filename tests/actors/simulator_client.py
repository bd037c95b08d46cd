"""A client of the simulated exchange that shares no code with the product: `websockets`, `aiohttp`, plain `json`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import websockets
from websockets.asyncio.client import ClientConnection

from tickring.actors.simulator import Config, Simulator

DEADLINE_S = 60.0
TEST_S = 240.0  # bounds a broken run as a whole


@contextlib.asynccontextmanager
async def simulator(**settings: Any) -> AsyncIterator[Simulator]:
    """A running simulator on free ports."""
    settings = {"spot_ws_port": 0, "usdm_ws_port": 0, "rest_port": 0, "symbols": 4, **settings}
    played = Simulator(Config(**settings))
    await played.start()
    try:
        yield played
        played.check()
    finally:
        await played.stop()


def run(test: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TEST_S):
            await test()

    asyncio.run(bounded())


def connect(url: str, **options: Any) -> Any:
    patient = {"ping_interval": None, "open_timeout": None}
    return websockets.connect(url, max_queue=None, max_size=None, compression=None, **{**patient, **options})


async def ask(client: ClientConnection, **request: Any) -> Any:
    """Send a control request and return its reply, leaving out data frames on the way."""
    await client.send(json.dumps(request))
    while True:
        message = json.loads(await client.recv())
        if "result" in message or "code" in message:
            return message


async def closed(client: ClientConnection) -> tuple[int | None, str]:
    """Wait for the server to close; return code and reason."""
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            await client.recv()
    return client.close_code, client.close_reason or ""


async def until(condition: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  the condition is the product's state, which sets no event
            await asyncio.sleep(0.005)
    assert condition(), what


async def get(url: str, **options: Any) -> tuple[int, Any, Any]:
    """Return status, headers and decoded body of a GET."""
    async with aiohttp.ClientSession() as session, session.get(url, **options) as response:
        return response.status, response.headers, json.loads(await response.text() or "null")


async def post(url: str, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return response.status, await response.json()


async def fault(played: Simulator, name: str, **parameters: Any) -> Any:
    """Start a fault over the control endpoint."""
    status, answer = await post(played.urls["control"] + "/faults", {"fault": name, **parameters})
    assert status == 200, answer
    return answer


async def lift(played: Simulator) -> Any:
    async with aiohttp.ClientSession() as session, session.delete(played.urls["control"] + "/faults") as response:
        return await response.json()


class Gap(Exception):
    """The stream does not continue the book."""


class DocumentedBook:
    """A local order book kept exactly as the exchange's documentation says, in its plainest form.

    Spot: "How to manage a local order book correctly" (text of 2025-11-12). USD-M: "How to manage a local order book
    correctly" of the futures documentation, which ties events by `pu`.
    """

    def __init__(self, product: str) -> None:
        self.product = product
        self.buffer: list[dict[str, Any]] = []
        self.bids: dict[str, str] | None = None
        self.asks: dict[str, str] = {}
        self.local_id = 0
        self.chained = False
        self.applied = 0

    def event(self, event: dict[str, Any]) -> None:
        if self.bids is None:
            self.buffer.append(event)
        else:
            self._apply(event)

    def snapshot(self, body: dict[str, Any]) -> bool:
        """Take a snapshot; False = it is older than the first buffered event and has to be fetched again."""
        if self.buffer and body["lastUpdateId"] < self.buffer[0]["U"] - 1:
            return False
        self.bids = dict(map(tuple, body["bids"]))
        self.asks = dict(map(tuple, body["asks"]))
        self.local_id = body["lastUpdateId"]
        for event in self.buffer:
            self._apply(event)
        return True

    def _apply(self, event: dict[str, Any]) -> None:
        if self.product == "spot":
            if event["u"] <= self.local_id:
                return
            if event["U"] > self.local_id + 1:
                raise Gap(f"U {event['U']} after {self.local_id}")
        elif not self.chained:
            if event["u"] < self.local_id:
                return
            if not (event["U"] <= self.local_id <= event["u"] or event["pu"] == self.local_id):
                raise Gap(f"first event {event['U']}..{event['u']} does not span {self.local_id}")
            self.chained = True
        elif event["pu"] != self.local_id:
            raise Gap(f"pu {event['pu']} after {self.local_id}")
        for side, changes in ((self.bids, event["b"]), (self.asks, event["a"])):
            assert side is not None
            for price, quantity in changes:
                if float(quantity) == 0:
                    side.pop(price, None)
                else:
                    side[price] = quantity
        self.local_id = event["u"]
        self.applied += 1

    def top(self) -> tuple[str, str, str, str]:
        assert self.bids is not None
        bid = max(self.bids, key=float)
        ask = min(self.asks, key=float)
        return bid, self.bids[bid], ask, self.asks[ask]

    def levels(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        assert self.bids is not None
        return (
            sorted(self.bids.items(), key=lambda level: -float(level[0])),
            sorted(self.asks.items(), key=lambda level: float(level[0])),
        )
