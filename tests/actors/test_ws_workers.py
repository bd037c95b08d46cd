"""What holds over all workers together: limits on connections, statistics, lists."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect as websocket

from tickring.actors.front.stamps import rfc3339
from tickring.actors.front.ws import Identity
from tickring.actors.front.ws.roster import Roster
from tickring.ringbuf import MetricsPage

from ..ringbuf.processes import fork, join
from .front_rig import FrontThread
from .test_ws_fuzz import HANDSHAKE
from .ws_harness import DEADLINE_S, client, desk, eventually

TRADES = "trades.binance.spot.BTC-USDT"
QUOTE = "quote.binance.spot.BTC-USDT"


async def refused(front) -> str | None:
    """Why a connection is refused; None when it is let in, and then it is closed again."""
    async with connect(front.url(), open_timeout=DEADLINE_S) as ws:
        try:
            await ws.recv()
        except ConnectionClosedError as closed:
            assert closed.rcvd is not None and closed.rcvd.code == 1008
            return closed.rcvd.reason
    return None


async def get(front, path: str, **headers: str):
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{front.port}{path}", headers=headers) as r:
        return r.status, await r.json()


async def get_of_all(front, path: str):
    """The same once every worker has answered: one that does not in time is left out, and said to be."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            status, body = await get(front, path)
            if not body["unanswered"]:
                return status, body


def test_connections_beyond_the_limit_are_refused_by_every_worker_at_once(shm):
    async def run(d):
        async with client(d.fronts[0]), client(d.fronts[1]) as third, client(d.fronts[1]):
            for front in d.fronts:
                assert await refused(front) == "Too many connections"
            await third.ws.close()
            async with asyncio.timeout(DEADLINE_S):
                while await refused(d.fronts[0]):  # until the worker has noticed that it is gone
                    pass
        assert d.front.metric("tickring_ws_failures_total") == 0

    with desk(shm, fronts=2, connections_max=3) as d:
        asyncio.run(run(d))


def test_refused_connections_that_do_not_answer_are_cut(shm):
    async def run(d):
        async with client(d.front):
            before = len(os.listdir(f"/proc/{d.front.pid}/fd"))
            writers = []
            for _ in range(50):
                reader, writer = await asyncio.open_connection("127.0.0.1", d.front.port)
                writer.write(HANDSHAKE)
                writers.append((reader, writer))
            for reader, writer in writers:
                data = await asyncio.wait_for(reader.read(), DEADLINE_S)  # until the server hangs up
                assert (1008).to_bytes(2, "big") + b"Too many connections" in data
                writer.close()
            await eventually(lambda: len(os.listdir(f"/proc/{d.front.pid}/fd")) <= before, "every socket is closed")
            assert d.front.metric("tickring_ws_failures_total") == 0

    with desk(shm, connections_max=1, close_grace_s=20.0) as d:
        asyncio.run(run(d))


def test_connections_of_one_address_have_a_limit_of_their_own(shm):
    async def run(d):
        async with client(d.fronts[0]), client(d.fronts[1]):
            assert await refused(d.fronts[0]) == "Too many connections from this address"

    with desk(shm, fronts=2, connections_per_address_max=2) as d:
        asyncio.run(run(d))


def test_storm_of_connects_to_all_workers_never_passes_the_limit(shm):
    async def attempt(front, open_now, most):
        async with connect(front.url(), open_timeout=60) as ws:
            try:
                await ws.recv()
            except ConnectionClosedError:
                return 0
            open_now.add(ws)
            most.append(len(open_now))
            await asyncio.sleep(0.05)
            open_now.discard(ws)
            return 1

    async def run(d):
        open_now: set = set()
        most: list[int] = []
        let_in = await asyncio.gather(*(attempt(d.fronts[i % 2], open_now, most) for i in range(120)))
        assert max(most) <= 8 and sum(let_in) >= 1

    with desk(shm, fronts=2, connections_max=8) as d:
        asyncio.run(run(d))


def test_connections_of_a_killed_worker_count_no_more(shm):
    async def run(d):
        for _ in range(3):
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(4):
                    await stack.enter_async_context(connect(d.fronts[1].url(), open_timeout=DEADLINE_S))
                assert await refused(d.fronts[0])
                d.fronts[1].kill()
                assert await refused(d.fronts[0]) is None
                status, stats = await get(d.fronts[0], "/ws/stats")
                assert status == 200 and stats["workers"] == ["front-0"] and stats["active_connections"] <= 1
                d.restart(1)
                await eventually(lambda: (d.folder / "front-1.sock").exists(), "the new worker")

    with desk(shm, fronts=2, connections_max=4) as d:
        asyncio.run(run(d))


def test_heartbeats_and_statistics_are_those_of_the_instance(shm):
    """Whichever worker tells them, and however often that one was started."""

    async def run(d):
        started_ns = time.time_ns() - 3600 * 10**9
        page = MetricsPage(d.folder, "supervisor", started_ns)
        try:
            async with client(d.fronts[0]), client(d.fronts[1]), connect(d.fronts[1].url("/ws?dialect=api")) as ws:
                async with asyncio.timeout(DEADLINE_S):
                    while (beat := json.loads(await ws.recv()))["type"] != "heartbeat":
                        pass
                assert beat["data"]["active_connections"] == 3 and beat["data"]["uptime_seconds"] > 3600
                _, stats = await get(d.fronts[0], "/ws/stats")
                assert stats["uptime_seconds"] > 3600 and stats["start_time"] == rfc3339(started_ns)
        finally:
            page.close()

    with desk(shm, fronts=2, heartbeat_s=1.0) as d:
        asyncio.run(run(d))


def test_seats_taken_by_processes_that_race_never_exceed_the_limit(shm):
    folder = shm / "seats"
    folder.mkdir()

    def race(name: str) -> None:
        roster = Roster(folder, name, 5, 0)
        for _ in range(400):
            seats = [seat for seat, _ in (roster.enter("1.2.3.4") for _ in range(3)) if seat >= 0]
            assert roster.total() <= 5 + 3  # others may be counting themselves just now, and take it back
            for seat in seats:
                roster.leave(seat)

    watcher = Roster(folder, "watcher", 5, 0)
    pids = [fork(lambda i=i: race(f"front-{i}")) for i in range(3)]
    assert [join(pid) for pid in pids] == [0, 0, 0]
    assert watcher.total() == 0 and watcher.others() == []
    held = [watcher.enter("1.2.3.4")[0] for _ in range(7)]
    assert held[5:] == [-1, -1] and watcher.total() == 5
    watcher.close()


def test_statistics_and_lists_are_those_of_all_workers(shm):
    async def run(d):
        async with client(d.fronts[0]) as c, client(d.fronts[1], "/ws/v1?encoding=msgpack") as other:
            await c.subscribe(TRADES, QUOTE)
            await other.subscribe(TRADES)
            for front in d.fronts:
                status, stats = await get_of_all(front, "/ws/stats")
                assert status == 200 and stats["active_connections"] == 2
                assert stats["channels"] == {QUOTE: 1, TRADES: 2}
                assert stats["subscription_stats"] == {"quote": 1, "trades": 2}
                assert stats["workers"] == ["front-0", "front-1"] and stats["unanswered"] == []
                status, listed = await get_of_all(front, "/ws/connections")
                assert listed["total_count"] == 2
                assert [row["worker"] for row in listed["connections"]] == ["front-0", "front-1"]
                assert [row["encoding"] for row in listed["connections"]] == ["json", "msgpack"]
                assert [row["subscriptions"] for row in listed["connections"]] == [[QUOTE, TRADES], [TRADES]]
                assert {row["dialect"] for row in listed["connections"]} == {"v1"}

    with desk(shm, fronts=2) as d:
        asyncio.run(run(d))


def test_statistics_name_a_worker_that_does_not_answer(shm):
    async def run(d):
        async with client(d.fronts[0]) as c, client(d.fronts[1]):
            await c.subscribe(TRADES)
            os.kill(d.fronts[1].pid, signal.SIGSTOP)
            try:
                status, stats = await get(d.fronts[0], "/ws/stats")
                assert status == 200 and stats["unanswered"] == ["front-1"]
                assert stats["channels"] == {TRADES: 1} and stats["active_connections"] == 2
            finally:
                os.kill(d.fronts[1].pid, signal.SIGCONT)

    with desk(shm, fronts=2) as d:
        asyncio.run(run(d))


def test_worker_that_stops_leaves_no_files(shm):
    async def run(d):
        async with client(d.front):
            pass

    with desk(shm) as d:
        asyncio.run(run(d))
        d.front.terminate()
        assert d.front.wait() == 0
        assert not [path for path in d.folder.iterdir() if path.suffix in (".ws", ".sock")]


class Keys:
    """Knows a reader and an administrator."""

    required = True

    async def identify(self, token):
        return {"reads": Identity("r", ("read",)), "rules": Identity("a", ("read", "admin"))}.get(token)


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/ws/stats", None, 401), ("/ws/stats", "wrong", 401), ("/ws/stats", "reads", 200),
        ("/ws/connections", "reads", 403), ("/ws/connections", "rules", 200),
    ],
)  # fmt: skip
def test_statistics_need_the_permission_where_authentication_is_on(shm, path, token, status):
    async def run(d):
        assert (await get(d.front, path, **({"X-API-Key": token} if token else {})))[0] == status

    with desk(shm, authenticator=Keys()) as d:
        asyncio.run(run(d))


def test_statistics_in_the_envelope_show_each_connection_without_its_address(shm):
    folder = shm / "tickring-rest"
    folder.mkdir()
    with FrontThread(folder) as front:
        with websocket(f"ws://127.0.0.1:{front.port}/ws/v1") as ws:
            ws.recv()
            data = front.data("/api/v1/websocket/stats")
            assert data["total_connections"] == data["active_connections"] == data["accepted_connections"] == 1
            assert data["messages_sent"] == 1 and data["channels"] == {}
            (one,) = data["connection_details"]
            assert sorted(one) == ["channels", "connected_at", "connection_id", "last_heartbeat", "user_id"]
        assert "/api/v1/websocket/stats" in front.get("/openapi.json").json["paths"]
