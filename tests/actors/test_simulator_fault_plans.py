"""Faults from the configuration and by the clock, and those that change how the exchange behaves from then on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tickring.actors.simulator import Config, Simulator
from tickring.actors.simulator.config import Limits, usdm_limits
from tickring.actors.simulator.errors import UnknownFault

from .simulator_client import DocumentedBook, ask, closed, connect, fault, get, lift, post, run, simulator, until

LIVELY: dict[str, Any] = {"speed": 20.0, "rate": 70.0, "ledger_frames_max": 100_000}


# -- when


def test_configured_fault_of_a_stream_waits_for_its_first_subscriber() -> None:
    async def test() -> None:
        faults = [{"fault": "drop", "stream": "btcusdt@trade", "product": "spot", "count": 3}]
        async with simulator(**LIVELY, faults=faults) as played:
            stream = played.hubs["spot"].streams["btcusdt@trade"]
            async with connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as client:
                first = json.loads(await client.recv())
                assert (stream.withheld, first["t"]) == (3, stream.first_id)
            assert played.faults_started == {"drop": 1}

    run(test)


def test_configured_fault_comes_again_and_again_until_lifted() -> None:
    async def test() -> None:
        faults = [{"fault": "close", "product": "spot", "after_s": 0.05, "every_s": 0.05, "reason": "again"}]
        async with simulator(**LIVELY, faults=faults) as played:
            for _ in range(3):
                async with connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as client:
                    assert await closed(client) == (1001, "again")
            _, _, status = await get(played.urls["control"] + "/status")
            assert status["faults"]["started"]["close"] >= 3
            assert (await lift(played))["lifted"] == 1
            async with connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as client:
                for _ in range(100):
                    await client.recv()

    run(test)


def test_configured_times_count_from_the_start_of_the_source() -> None:
    async def test() -> None:
        faults = [{"fault": "close", "after_s": 0.05}]
        async with (
            simulator(start="command", faults=faults) as played,
            connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as client,
        ):
            await asyncio.sleep(0.2)
            assert not played.planned_faults and played.connections()
            played.source.start_command.set()
            assert (await closed(client))[0] == 1001

    run(test)


def test_planned_fault_that_finds_nothing_is_counted_and_tries_again() -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played:
            answer = await fault(played, "drop", symbol="BTCUSDT", every_s=0.02)
            assert answer == {"starts_in_s": 0.02}
            await until(lambda: played.faults_missed >= 2, "misses")
            async with connect(played.urls["spot_ws"] + "/ws/btcusdt@depth@100ms"):
                await until(lambda: played.faults_started.get("drop", 0) >= 1, "a hit")

    run(test)


@pytest.mark.parametrize(
    "request_", [{"fault": "no such"}, {"fault": "drop", "colour": "red"}, {"fault": "close", "after_s": -1}, {}]
)
def test_configured_fault_that_does_not_exist_is_refused_at_once(request_: dict[str, Any]) -> None:
    with pytest.raises(UnknownFault):
        Simulator(Config(faults=[request_]))


# -- tiers and merged streams


def test_fault_silent_tier_acknowledges_and_never_delivers_until_lifted() -> None:
    async def test() -> None:
        faults = [{"fault": "silent_tier", "product": "usdm", "tier": "market"}]
        async with (
            simulator(**LIVELY, faults=faults) as played,
            connect(played.urls["usdm_public_ws"] + "/ws/btcusdt@trade") as public,
            connect(played.urls["usdm_market_ws"] + "/ws") as market,
        ):
            names = ["btcusdt@aggTrade", "!markPrice@arr@1s", "btcusdt@kline_1m"]
            assert await ask(market, method="SUBSCRIBE", params=names, id=1) == {"result": None, "id": 1}
            streams = played.hubs["usdm"].streams
            await until(lambda: all(streams[name].withheld > 3 for name in names), "withheld messages")
            await public.recv()
            await (await market.ping())
            assert (await ask(market, method="LIST_SUBSCRIPTIONS", id=2))["result"] == names
            assert all(streams[name].frames == 0 for name in names)
            await lift(played)
            while '"aggTrade"' not in str(await market.recv()):
                continue

    run(test)


def test_fault_silent_tier_of_spot_is_everything() -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played, connect(played.urls["spot_ws"] + "/ws/btcusdt@trade") as client:
            await client.recv()
            await fault(played, "silent_tier", product="spot")
            stream = played.hubs["spot"].streams["btcusdt@trade"]
            await until(lambda: stream.withheld > 5, "withheld messages")
            frames = stream.frames
            for _ in range(frames - 1):
                await client.recv()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.recv(), 0.1)

    run(test)


def test_fault_silent_stream_hits_one_among_many_live_ones() -> None:
    async def test() -> None:
        symbols = [f"sim{number:04d}usdt" for number in range(31, 131)]
        names = [f"{symbol}@{channel}" for symbol in symbols for channel in ("bookTicker", "trade")]
        faults = [{"fault": "silent_stream", "product": "usdm", "stream": names[77]}]
        settings = {**LIVELY, "symbols": 130, "rate": 400.0, "activity_exponent": 0.0, "faults": faults}
        async with (
            simulator(**settings) as played,
            connect(f"{played.urls['usdm_public_ws']}/stream?streams={'/'.join(names)}") as client,
        ):
            assert len(names) == 200
            heard: set[str] = set()
            while len(heard) < 199 or not played.hubs["usdm"].streams[names[77]].withheld:
                heard.add(json.loads(await client.recv())["stream"])
            assert set(names) - heard == {names[77]}

    run(test)


def test_fault_merged_rows_puts_coin_margined_markets_into_the_arrays() -> None:
    async def test() -> None:
        faults = [{"fault": "merged_rows"}]
        async with simulator(**{**LIVELY, "symbols": 3}, liquidations=0.5, faults=faults) as played:
            names = ["!markPrice@arr@1s", "!ticker@arr", "!miniTicker@arr", "!forceOrder@arr", "btcusdt@markPrice@1s"]
            seen: dict[str, set[tuple[str, int]]] = {name: set() for name in names}
            async with connect(f"{played.urls['usdm_market_ws']}/stream?streams={'/'.join(names)}") as client:
                while not all(any(st == 2 for _, st in rows) for name, rows in seen.items() if name[0] == "!"):
                    message = json.loads(await client.recv())
                    data = message["data"]
                    for row in data if isinstance(data, list) else [data]:
                        body = row.get("o", row) if message["stream"].startswith("!force") else row
                        seen[message["stream"]].add((body["s"], row["st"]))
                        assert (row["st"] == 2) == body["s"].endswith("USD_PERP")
                        assert row["st"] == 1 or body["ps"] + "_PERP" == body["s"]
            assert seen["!markPrice@arr@1s"] == {
                (base + tail, st) for base in ("BTC", "ETH", "SOL") for tail, st in (("USDT", 1), ("USD_PERP", 2))
            }
            assert seen["btcusdt@markPrice@1s"] <= {("BTCUSDT", 1)}

    run(test)


# -- snapshots


@pytest.mark.parametrize(
    ("product", "base", "path"),
    [("spot", "spot_ws", "/api/v3/depth"), ("usdm", "usdm_public_ws", "/fapi/v1/depth")],
)
def test_fault_old_snapshot_is_older_than_anything_on_the_stream(product: str, base: str, path: str) -> None:
    async def test() -> None:
        async with simulator(**LIVELY) as played, connect(played.urls[base] + "/ws/btcusdt@depth@100ms") as client:
            await fault(played, "old_snapshot", product=product, symbol="BTCUSDT", count=2)
            url = f"{played.urls['spot_rest']}{path}?symbol=BTCUSDT&limit=1000"
            book = DocumentedBook(product)
            book.event(json.loads(await client.recv()))
            for _ in range(2):
                assert not book.snapshot((await get(url))[2])
            assert book.snapshot((await get(url))[2])

    run(test)


# -- limits


def test_fault_limits_kicks_caps_and_ends_connections_until_lifted() -> None:
    async def test() -> None:
        async with simulator(start="command") as played:
            await fault(played, "limits", product="spot", messages_per_s_max=1, streams_max=2, pong_timeout_s=50)
            async with connect(played.urls["spot_ws"] + "/ws") as client:
                for number in range(3):
                    await client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
                assert await closed(client) == (1008, "Too many requests")
            async with connect(played.urls["spot_ws"] + "/ws") as client:
                await client.send(
                    json.dumps({"method": "SUBSCRIBE", "params": ["a@trade", "b@trade", "c@trade"], "id": 1})
                )
                assert await closed(client) == (1008, "more than 2 streams")
            async with connect(played.urls["usdm_public_ws"] + "/ws") as other:
                for number in range(5):
                    await ask(other, method="LIST_SUBSCRIPTIONS", id=number)
            assert (await lift(played))["lifted"] == 1
            async with connect(played.urls["spot_ws"] + "/ws") as client:
                for number in range(3):
                    await ask(client, method="LIST_SUBSCRIPTIONS", id=number)
            await fault(played, "limits", product="spot", life_s=0.05)
            async with connect(played.urls["spot_ws"] + "/ws") as client:
                assert await closed(client) == (1001, "connection life is over")

    run(test)


def test_fault_limits_on_weight_leads_to_429_then_418() -> None:
    async def test() -> None:
        async with simulator(start="command", usdm=usdm_limits()) as played:
            await fault(played, "limits", product="usdm", weight_max=3, ban_after=2, ban_s=0.2, weight_window_s=1e9)
            url = f"{played.urls['usdm_rest']}/fapi/v1/ping"
            answers = [await get(url) for _ in range(6)]
            assert [status for status, _, _ in answers] == [200, 200, 200, 429, 429, 418]
            for _, headers, body in answers[3:]:
                assert body["code"] == -1003 and int(headers["Retry-After"]) > 0
            assert (await get(f"{played.urls['spot_rest']}/api/v3/ping"))[0] == 200

    run(test)


def test_fault_rest_status_of_several_kinds_come_one_after_the_other() -> None:
    async def test() -> None:
        faults = [
            {"fault": "rest_status", "status": 429, "retry_after_s": 3, "count": 2},
            {"fault": "rest_status", "status": 418, "retry_after_s": 120},
        ]
        async with simulator(start="command", faults=faults) as played:
            url = f"{played.urls['spot_rest']}/api/v3/ping"
            answers = [await get(url) for _ in range(4)]
            assert [status for status, _, _ in answers] == [429, 429, 418, 200]
            assert [headers.get("Retry-After") for _, headers, _ in answers] == ["3", "3", "120", None]
            assert [body.get("code") for _, _, body in answers] == [-1003, -1003, -1003, None]

    run(test)


# -- names


def test_symbol_outside_ascii_is_part_of_every_stream_and_answer() -> None:
    async def test() -> None:
        native = "币安人生USDT"
        async with simulator(**LIVELY, symbols=["BTCUSDT", native], liquidations=0.5) as played:
            names = [f"{native.lower()}@{channel}" for channel in ("kline_1m", "ticker", "markPrice@1s", "forceOrder")]
            waiting = {*names, "!markPrice@arr@1s", "!ticker@arr"}
            async with connect(played.urls["usdm_market_ws"] + "/stream") as client:
                await ask(client, method="SUBSCRIBE", params=sorted(waiting), id=1)
                while waiting:
                    text = await client.recv()
                    if native in text:
                        waiting.discard(json.loads(text)["stream"])
            rest = played.urls["usdm_rest"] + "/fapi/v1"
            for path in (
                "klines?interval=1m",
                "ticker/24hr",
                "premiumIndex",
                "fundingRate",
                "openInterest",
                "aggTrades",
            ):
                path, _, query = path.partition("?")
                options = {"symbol": native} | dict([query.split("=")] if query else [])
                status, _, body = await get(f"{rest}/{path}", params=options)
                assert status == 200 and body
            status, _, body = await get(f"{played.urls['spot_rest']}/api/v3/ticker/24hr", params={"symbol": native})
            assert (status, body["symbol"]) == (200, native)

    run(test)


def test_every_limit_can_be_changed_by_its_name() -> None:
    async def test() -> None:
        async with simulator(start="command", products=["usdm"]) as played:
            before = {name: getattr(played.config.usdm, name) for name in Limits.__struct_fields__}
            status, answer = await post(
                played.urls["control"] + "/faults", {"fault": "limits", **dict.fromkeys(before, 1)}
            )
            assert (status, answer["limits"]) == (200, dict.fromkeys(before, 1))
            assert {getattr(played.config.usdm, name) for name in before} == {1}
            await lift(played)
            assert {name: getattr(played.config.usdm, name) for name in before} == before

    run(test)
