"""Faults of the simulator, its control endpoints, and the simulator as a process and as an actor."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets

from tickring.actors.runtime import ActorContext
from tickring.actors.simulator import Config, Simulator, main
from tickring.actors.simulator.errors import PortTaken
from tickring.actors.simulator.faults import FAULTS
from tickring.ringbuf import MetricsPage, State

from .simulator_client import DocumentedBook, Gap, ask, closed, connect, fault, get, lift, post, run, simulator, until

LIVELY: dict[str, Any] = {"speed": 20.0, "rate": 70.0, "ledger_frames_max": 100_000}


def test_faults_are_listed_with_their_parameters() -> None:
    async def test() -> None:
        async with simulator(start="command") as played:
            _, _, listed = await get(played.urls["control"] + "/faults")
            assert listed.keys() == FAULTS.keys()
            assert all(row["summary"] for row in listed.values())

    run(test)


@pytest.mark.parametrize(
    "body",
    [{}, {"fault": "no such"}, {"fault": "close", "colour": "red"}, {"fault": "drop"}, {"fault": "drop", "stream": "x"},
     {"fault": "rest_status", "status": 200}, {"fault": "garbage", "count": 0}, [1], {"fault": "close", "code": 7},
     {"fault": "close", "after_s": "soon"}, {"fault": "close", "every_s": 0}, {"fault": "limits"},
     {"fault": "limits", "life_s": "x"}, {"fault": "limits", "product": "options", "life_s": 1},
     {"fault": "silent_tier", "tier": "private"}, {"fault": "old_snapshot", "symbol": "NOSUCH"},
     {"fault": "drop", "symbol": "BTCUSDT"}],
)  # fmt: skip
def test_unknown_fault_or_parameter_is_refused_by_name(body: Any) -> None:
    async def test() -> None:
        async with simulator(start="command") as played:
            status, answer = await post(played.urls["control"] + "/faults", body)
            assert status == 400 and answer["error"]

    run(test)


def test_fault_close_ends_connections_of_one_product_with_1001() -> None:
    async def test() -> None:
        async with (
            simulator(**LIVELY) as played,
            connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as spot,
            connect(played.urls["usdm_public_ws"] + "/ws/btcusdt@trade") as usdm,
        ):
            await fault(played, "close", product="spot")
            assert (await closed(spot))[0] == 1001
            await usdm.recv()

    run(test)


@pytest.mark.parametrize("fin", [False, True])
def test_fault_reset_tears_the_connection_in_the_middle_of_a_frame(fin: bool) -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played, connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as client:
            await client.recv()
            await fault(played, "reset", fin=fin)
            with pytest.raises(websockets.ConnectionClosedError) as lost:
                while True:
                    json.loads(await client.recv())  # what arrives before is whole
            assert lost.value.rcvd is None

    run(test)


def test_fault_silence_answers_pings_and_sends_no_data_until_lifted() -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played, connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as client:
            await client.recv()
            await fault(played, "silence")
            stream = played.hubs["spot"].streams["btcusdt@trade"]
            await until(lambda: stream.withheld > 20, "withheld messages")
            await (await client.ping())
            frames = stream.frames
            received = [json.loads(await client.recv())["t"] for _ in range(frames - 1)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.recv(), 0.1)
            assert stream.frames == frames
            assert (await lift(played))["lifted"] == 1
            after = json.loads(await client.recv())["t"]
            assert after > (received or [stream.first_id])[-1] + 20

    run(test)


@pytest.mark.parametrize(
    ("product", "base", "path"),
    [("spot", "spot_ws", "/api/v3/depth"), ("usdm", "usdm_public_ws", "/fapi/v1/depth")],
)
@pytest.mark.parametrize("name", ["drop", "reorder", "break_chain"])
def test_fault_on_depth_breaks_the_book_of_that_symbol_only(product: str, base: str, path: str, name: str) -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played:
            names = "btcusdt@depth@100ms/ethusdt@depth@100ms"
            async with connect(f"{played.urls[base]}/stream?streams={names}") as client:
                books = {"btcusdt": DocumentedBook(product), "ethusdt": DocumentedBook(product)}

                async def step() -> None:
                    message = json.loads(await client.recv())
                    books[message["stream"].partition("@")[0]].event(message["data"])

                for symbol, book in books.items():
                    while not book.buffer:
                        await step()
                    url = f"{played.urls['spot_rest']}{path}?symbol={symbol.upper()}&limit=1000"
                    assert book.snapshot((await get(url))[2])
                while min(book.applied for book in books.values()) < 3:
                    await step()
                hit = await fault(played, name, product=product, symbol="BTCUSDT")
                assert hit == {"streams": [f"{product}:btcusdt@depth@100ms"]}
                with pytest.raises(Gap):
                    while True:
                        await step()
                # Asked for again, the book is whole again; the other one never noticed.
                books["btcusdt"] = book = DocumentedBook(product)
                while not book.buffer:
                    await step()
                while not book.snapshot((await get(f"{played.urls['spot_rest']}{path}?symbol=BTCUSDT&limit=1000"))[2]):
                    pass
                quiet = books["ethusdt"].applied
                while book.applied < 3 or books["ethusdt"].applied < quiet + 3:
                    await step()

    run(test)


def test_fault_duplicate_sends_the_next_messages_twice() -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played, connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as client:
            await client.recv()
            await fault(played, "duplicate", stream="btcusdt@trade", product="spot", count=3)
            seen: list[int] = []
            while sum(a == b for a, b in itertools.pairwise(seen)) < 3:
                seen.append(json.loads(await client.recv())["t"])
            more = [json.loads(await client.recv())["t"] for _ in range(10)]
            assert len(set(more)) == 10

    run(test)


def test_fault_silent_stream_leaves_the_others_running() -> None:
    async def test() -> None:
        async with (
            simulator(**LIVELY) as played,
            connect(played.urls["spot_ws"] + "/stream?streams=btcusdt@trade/ethusdt@trade") as client,
        ):
            await client.recv()
            await fault(played, "silent_stream", stream="btcusdt@trade")
            stream = played.hubs["spot"].streams["btcusdt@trade"]
            frames = stream.frames
            await until(lambda: stream.withheld > 10, "withheld messages")
            assert stream.frames == frames
            before = played.hubs["spot"].streams["ethusdt@trade"].frames
            await until(lambda: played.hubs["spot"].streams["ethusdt@trade"].frames > before, "the other stream")

    run(test)


def test_fault_server_shutdown_is_announced_and_then_happens() -> None:
    async def test() -> None:
        async with (
            simulator(start="command") as played,
            connect(played.urls["spot_ws"] + "/ws") as raw,
            connect(played.urls["spot_ws"] + "/stream") as combined,
        ):
            await fault(played, "server_shutdown", close_after_s=0.05)
            message = json.loads(await raw.recv())
            assert message["e"] == "serverShutdown" and message["E"] > 10**12
            message = json.loads(await combined.recv())
            assert message["stream"] == "!serverShutdown" and message["data"]["e"] == "serverShutdown"
            assert (await closed(raw))[0] == 1001

    run(test)


def test_fault_garbage_leaves_the_stream_around_it_whole() -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played, connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as client:
            await client.recv()
            await fault(played, "garbage", payload="{nonsense")
            await fault(played, "garbage", payload="[]", count=3)
            stream = played.hubs["spot"].streams["btcusdt@trade"]
            goal = stream.frames + 20
            await until(lambda: stream.frames >= goal, "more trades")
            texts = [await client.recv() for _ in range(goal + 3)]
            rubbish = [text for text in texts if text in ("{nonsense", "[]")]
            assert rubbish == ["{nonsense", "[]", "[]", "[]"]
            sent = [payload.decode() for payload in stream.sent or ()]
            assert [text for text in texts if text not in rubbish] == sent[1:goal]

    run(test)


def test_fault_rest_status_refuses_the_next_requests() -> None:
    async def test() -> None:
        async with simulator(start="command") as played:
            await fault(played, "rest_status", status=429, retry_after_s=7, count=2, product="spot")
            url = f"{played.urls['spot_rest']}/api/v3/ping"
            assert (await get(f"{played.urls['usdm_rest']}/fapi/v1/ping"))[0] == 200
            for _ in range(2):
                status, headers, body = await get(url)
                assert (status, headers["Retry-After"], body["code"]) == (429, "7", -1003)
            assert (await get(url))[0] == 200

    run(test)


def test_fault_stale_snapshot_is_older_than_the_stream() -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played, connect(played.urls["spot_ws"] + "/ws/btcusdt@depth@100ms") as client:
            await fault(played, "stale_snapshot", product="spot", symbol="BTCUSDT")
            book = DocumentedBook("spot")
            ((stale,),) = played.rest_faults.stale.values()
            while not book.buffer or book.buffer[0]["U"] <= json.loads(stale)["lastUpdateId"] + 1:
                book.buffer = [json.loads(await client.recv())]  # as a client that begins later
            url = f"{played.urls['spot_rest']}/api/v3/depth?symbol=BTCUSDT&limit=1000"
            assert not book.snapshot((await get(url))[2])
            assert book.snapshot((await get(url))[2])

    run(test)


# -- control


def test_ledger_tells_exactly_what_was_sent() -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played:
            control = played.urls["control"]
            async with connect(played.urls["usdm_market_ws"] + "/ws/btcusdt@aggTrade") as client:
                texts = [await client.recv() for _ in range(50)]
                _, _, connections = await get(control + "/connections")
                assert [row["streams"] for row in connections] == [["btcusdt@aggTrade"]]
                assert connections[0]["tier"] == "market"
            await until(lambda: not played.connections(), "the client is gone")
            async with aiohttp.ClientSession() as session:
                async with session.get(control + "/sent?product=usdm&stream=btcusdt@aggTrade") as response:
                    assert response.headers["X-Complete"] == "1"
                    lines = (await response.text()).splitlines()
                async with session.get(control + "/sent?product=usdm&stream=nosuch") as response:
                    assert response.status == 404
            assert lines[:50] == texts
            _, _, streams = await get(control + "/streams")
            row = streams["usdm:btcusdt@aggTrade"]
            assert row["frames"] == len(lines) and row["subscribers"] == 0
            ids = [json.loads(line)["a"] for line in lines]
            assert ids == list(range(row["first_id"], row["last_id"] + 1))
            _, _, status = await get(control + "/status")
            assert status["products"]["usdm"]["frames"] == len(lines)

    run(test)


def test_start_command_begins_what_waits_for_it() -> None:
    async def test() -> None:
        async with simulator(start="command", speed=20.0) as played, connect(played.urls["spot_ws"] + "/ws") as client:
            await ask(client, method="SUBSCRIBE", params=["btcusdt@trade"], id=1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.recv(), 0.1)
            assert (await post(played.urls["control"] + "/start", None))[0] == 200
            await client.recv()

    run(test)


def test_source_waits_for_the_streams_it_was_told_to_wait_for() -> None:
    async def test() -> None:
        wanted = ["spot:btcusdt@trade", "usdm:btcusdt@aggTrade"]
        async with (
            simulator(start="subscribed", start_streams=wanted, speed=20.0) as played,
            connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as spot,
        ):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(spot.recv(), 0.1)
            assert not played.source.started
            async with connect(played.urls["usdm_market_ws"] + "/ws/btcusdt@aggTrade") as usdm:
                await usdm.recv()
                await spot.recv()

    run(test)


# -- as a process


def test_simulator_process_prints_its_urls_and_ends_on_sigterm() -> None:
    settings = json.dumps({"spot_ws_port": 0, "usdm_ws_port": 0, "rest_port": 0, "symbols": 2})
    command = [sys.executable, "-m", "tickring.actors.simulator", "--config-json", settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        urls = json.loads(process.stdout.readline())
        with urllib.request.urlopen(urls["spot_rest"] + "/api/v3/ping", timeout=60) as response:
            assert response.read() == b"{}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_simulator_process_ends_with_its_parent() -> None:
    settings = json.dumps({"spot_ws_port": 0, "usdm_ws_port": 0, "rest_port": 0, "symbols": 2})
    command = [sys.executable, "-m", "tickring.actors.simulator", "--with-parent", "--config-json", settings]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait(60) == 0


def test_bad_configuration_of_the_process_is_one_line() -> None:
    command = [sys.executable, "-m", "tickring.actors.simulator", "--config-json", '{"sauce": 1}']
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "sauce" in done.stderr and len(done.stderr.splitlines()) == 1


def test_taken_port_is_named_with_its_key() -> None:
    async def test() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            played = Simulator(Config(spot_ws_port=0, usdm_ws_port=0, rest_port=port))
            with pytest.raises(PortTaken, match=f"{port}.*rest_port"):
                await played.start()
            await played.stop()

    run(test)


def test_sockets_that_are_bound_already_are_used() -> None:
    async def test() -> None:
        sockets = {}
        for name in ("spot_ws", "usdm_ws", "rest"):
            sockets[name] = socket.create_server(("127.0.0.1", 0))
        ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}
        played = Simulator(Config(symbols=2), sockets)
        await played.start()
        assert played.urls["spot_ws"].endswith(f":{ports['spot_ws']}")
        assert (await get(f"http://127.0.0.1:{ports['rest']}/api/v3/ping"))[0] == 200
        await played.stop()

    run(test)


def test_actor_runs_beats_and_drains(shm: Path, tmp_path: Path) -> None:
    async def test() -> None:
        page = MetricsPage(shm, "simulator", time.time_ns())
        config = Config(spot_ws_port=0, usdm_ws_port=0, rest_port=0, symbols=2, speed=10.0)
        ctx = ActorContext("simulator", "simulator", shm, tmp_path, config, page)
        task = asyncio.create_task(main(ctx))
        await until(lambda: task.done() or page.state == State.RUNNING, "running")
        await until(lambda: task.done() or "urls" in page.detail, "its URLs on the page")
        async with connect(page.detail["urls"]["spot_ws"] + "/ws/btcusdt@trade") as client:
            await client.recv()
            ctx.stop()
            assert (await closed(client))[0] == 1001
        await task
        page.close()

    run(test)


def test_stopped_simulator_leaves_no_descriptor_and_no_task() -> None:
    async def test() -> None:
        before = len(os.listdir("/proc/self/fd"))
        for source in ("model", "paced", "flood"):
            async with (
                simulator(source=source, start_settle_s=0.02) as played,
                connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as client,
            ):
                await client.recv()
        await until(lambda: len(asyncio.all_tasks()) == 1, "no task left")
        assert len(os.listdir("/proc/self/fd")) <= before

    run(test)
