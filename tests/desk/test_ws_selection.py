"""How a connection's dialect is chosen, and what it is told before."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tickring.actors.front.ws import Identity, undecided

from ..actors.ws_harness import client, eventually
from .ws_rig import plain, rig, run


class Keys:
    required = True

    async def identify(self, token: str) -> Identity | None:
        return Identity("ada", ("read", "admin")) if token == "secret" else None


@pytest.mark.parametrize(
    ("frame", "reply"),
    [
        ({"op": "subscribe", "channels": ["fills"]}, {"type": "subscribed", "id": None}),
        ({"type": "subscribe", "channels": ["fills"], "id": 4}, {"type": "subscribed", "id": 4}),
        ({"type": "list"}, {"type": "subscriptions"}),
        ({"type": "auth", "token": "x"}, {"type": "auth_success"}),
        ({"type": "subscribe", "channel": "fills"}, {"type": "subscribed", "channel": "fills"}),
        ({"type": "subscribe", "subscription_type": "alerts"}, {"type": "subscription_confirmed"}),
    ],
)
def test_the_first_frame_chooses(shm, frame, reply):
    async def go(r):
        async with plain(r.front, "/ws") as c:
            pong = await c.ask({"type": "ping"})
            assert pong["type"] == "pong" and {"timestamp", "data"} <= pong.keys(), "in a form for everybody"
            assert (await c.ask({"type": "dance"}))["type"] == "error"
            assert (await c.ask(frame)).items() >= reply.items()

    with rig(shm) as r:
        run(r, go)


def test_silence_on_a_path_chooses_the_api_and_auth_moves_it_to_the_dashboard(shm):
    async def go(r):
        async with plain(r.front, "/ws/fills") as c:
            assert (await c.next())["data"] == {"subscription_type": "fills", "status": "subscribed"}
            r.fill(1)
            frame = await c.next()
            assert frame["type"] == "fills_update" and frame["data"]["price"] == 1.0
            await c.send({"type": "auth", "token": "x"})
            r.fill(9)
            while (frame := await c.next())["type"] != "auth_success":
                assert frame["data"]["fill_id"] == "f-9"
            assert (await c.next())["type"] == "subscribed"
            r.fill(2)
            seen: list[str] = []  # of one that came during the change nobody knows which dialect shows it
            while "f-2" not in seen:
                frame = await c.next()
                assert frame["type"] == "data"
                seen += [one["fill_id"] for one in frame["data"]]
            assert seen in (["f-2"], ["f-9", "f-2"])

    with rig(shm) as r:
        run(r, go)


def test_a_fill_that_was_shown_before_it_was_counted_is_not_shown_twice(shm):
    async def go(r):
        async with plain(r.front, "/ws/fills") as c:
            assert (await c.next())["type"] == "subscription_confirmed"
            for n in (1, 9):
                r.fill(n)
                assert (await c.next())["data"]["fill_id"] == f"f-{n}"
            counts, key = r.fills.writers["fill"].counts, r.fills.account("acct-7")
            counts[key] -= 1  # as between the bell and the count
            assert (await c.ask({"type": "auth", "token": "x"}))["type"] == "auth_success"
            assert (await c.next())["type"] == "subscribed"
            counts[key] += 1
            r.fill(2)
            frame = await c.next()
            assert [one["fill_id"] for one in frame["data"]] == ["f-2"]

    with rig(shm) as r:
        run(r, go)


def test_no_data_before_the_dialect_is_known(shm, monkeypatch):
    monkeypatch.setattr(undecided, "SILENCE_S", 2.0)  # the first frame comes before it is over

    async def go(r):
        async with plain(r.front, "/ws/fills") as c:
            r.fill(1)
            await c.send({"type": "ping"})
            assert (await c.next())["type"] == "pong"
            assert (await c.next())["type"] == "subscription_confirmed"
            frame = await c.next()
            assert frame["data"].get("fill_id") == "f-1", f"it was only kept back: {frame}"
        async with plain(r.front, "/ws") as c:
            await c.silent(0.5)

    with rig(shm) as r:
        run(r, go)


def test_no_data_before_it_is_known_who_it_is(shm):
    async def go(r):
        async with plain(r.front, "/ws/fills") as c:
            r.fill(1)
            await c.silent(0.6)
        async with plain(r.front, "/ws/fills?token=secret") as c:
            assert (await c.next())["type"] == "auth_success"
            assert (await c.next())["type"] == "subscription_confirmed"

    with rig(shm, authenticator=Keys()) as r:
        run(r, go)


def test_what_the_first_frame_asks_for_is_not_subscribed_twice(shm):
    async def go(r):
        for n in range(9):
            r.fill(n)
        async with client(r.front, "/ws/fills") as c:
            reply = await c.subscribe({"channel": "fills", "from_seq": 4})
            assert reply["channels"][0]["resumed"] is True
            await c.until_seq("fills.acct-7", 9)
            r.fill(9)
            await c.until_seq("fills.acct-7", 10)
            assert [frame["type"] for frame in c.frames].count("subscribed") == 1

    with rig(shm) as r:
        run(r, go)


@pytest.mark.parametrize(
    ("path", "code"), [("/ws/orders", 1002), ("/ws/fills?dialect=api&encoding=msgpack", 1003), ("/ws?encoding=x", 1003)]
)
def test_paths_and_encodings_that_are_not_served_are_closed(shm, path, code):
    async def go(r):
        async with connect(r.front.url(path)) as ws:
            with contextlib.suppress(Exception):
                await ws.recv()
            await ws.wait_closed()
            assert ws.close_code == code

    with rig(shm) as r:
        run(r, go)


def test_ten_errors_end_a_connection_in_every_dialect(shm):
    async def go(r):
        for path in ("/ws", "/ws?dialect=api", "/ws?dialect=dashboard"):
            async with plain(r.front, path) as c:
                for _ in range(10):
                    await c.send("nonsense")
                assert await c.closed() == 1008

    with rig(shm) as r:
        run(r, go)


def test_the_lists_name_dialects_encodings_and_channels(shm):
    async def read(front: Any, path: str) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
        writer.close()
        return json.loads(body)

    async def go(r):
        r.fill(1)
        async with (
            plain(r.front, "/ws/fills?dialect=dashboard") as b,
            plain(r.front, "/ws/pnl?dialect=api") as a,
            client(r.front, "/ws/fills?encoding=msgpack"),
        ):
            await b.until("subscribed")
            await a.until("subscription_confirmed")
            await eventually(lambda: r.front.metric("tickring_ws_connections") == 3, "all are there")
            stats = await read(r.front, "/ws/stats")
            assert stats["dialects"] == {"api": 1, "dashboard": 1, "v1": 1}
            assert stats["encodings"] == {"json": 2, "msgpack": 1}
            assert stats["channels"]["pnl.*"] == 1 and stats["subscription_stats"]["pnl"] == 1
            listed = await read(r.front, "/ws/connections")
            assert {row["dialect"] for row in listed["connections"]} == {"api", "dashboard", "v1"}

    with rig(shm) as r:
        run(r, go)
