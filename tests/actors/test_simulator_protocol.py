"""The simulator's protocol, limits and REST, as an independent client sees them."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
import websockets

from tickring.actors.simulator import Limits

from .simulator_client import ask, closed, connect, get, run, simulator, until


def limits(**changed: Any) -> Limits:
    free = {"messages_per_s_max": 0, "streams_max": 0, "connections_max": 0, "ping_interval_s": 0.0}
    return Limits(**{**free, "pong_timeout_s": 0.0, "weight_max": 6000, **changed})


# -- requests


def test_requests_are_answered_as_documented() -> None:
    async def test() -> None:
        async with (
            simulator(spot=limits(), start="command") as played,
            connect(played.urls["spot_ws"] + "/ws") as client,
        ):
            both = ["btcusdt@trade", "btcusdt@depth"]
            assert await ask(client, method="SUBSCRIBE", params=both, id=1) == {"result": None, "id": 1}
            assert await ask(client, method="SUBSCRIBE", params=both[:1], id="abc-1") == {"result": None, "id": "abc-1"}
            assert await ask(client, method="LIST_SUBSCRIPTIONS", id=None) == {"result": both, "id": None}
            assert await ask(client, method="UNSUBSCRIBE", params=both[:1], id=-5) == {"result": None, "id": -5}
            assert await ask(client, method="LIST_SUBSCRIPTIONS", id=3) == {"result": both[1:], "id": 3}
            assert await ask(client, method="GET_PROPERTY", params=["combined"], id=2) == {"result": False, "id": 2}
            assert await ask(client, method="SET_PROPERTY", params=["combined", True], id=5) == {
                "result": None,
                "id": 5,
            }
            assert await ask(client, method="GET_PROPERTY", params=["combined"], id=6) == {"result": True, "id": 6}
            assert await ask(client, method="LIST_SUBSCRIPTIONS", id=7) == {"result": both[1:], "id": 7}

    run(test)


@pytest.mark.parametrize(
    ("request_text", "code", "has_id"),
    [
        ("{", 3, False),
        ("[1]", 2, False),
        ('{"id":1}', 2, True),
        ('{"method":"subscribe","params":[],"id":1}', 2, True),
        ('{"method":"SUBSCRIBE","params":["a@trade"]}', 2, False),
        ('{"method":"SUBSCRIBE","params":["a@trade"],"id":1.5}', 2, False),
        ('{"method":"SUBSCRIBE","params":["a@trade"],"id":"' + "x" * 37 + '"}', 2, False),
        ('{"method":"SUBSCRIBE","params":["a@trade"],"id":9223372036854775808}', 2, False),
        ('{"method":"SUBSCRIBE","params":[7],"id":1}', 2, True),
        ('{"method":"SUBSCRIBE","params":"a@trade","id":1}', 2, True),
        ('{"method":"SET_PROPERTY","params":["speed",true],"id":1}', 0, True),
        ('{"method":"SET_PROPERTY","params":["combined","yes"],"id":1}', 1, True),
        ('{"method":"SET_PROPERTY","params":["combined",true,1],"id":1}', 2, True),
        ('{"method":"GET_PROPERTY","params":[7],"id":1}', 2, True),
        ('{"method":"LIST_SUBSCRIPTIONS","params":["x"],"id":1}', 2, True),
    ],
)
def test_bad_request_is_answered_with_its_code_and_the_connection_lives(
    request_text: str, code: int, has_id: bool
) -> None:
    async def test() -> None:
        async with (
            simulator(spot=limits(), start="command") as played,
            connect(played.urls["spot_ws"] + "/ws") as client,
        ):
            await client.send(request_text)
            answer = json.loads(await client.recv())
            assert answer["code"] == code and answer["msg"]
            assert ("id" in answer) == has_id
            assert await ask(client, method="LIST_SUBSCRIPTIONS", id=2) == {"result": [], "id": 2}

    run(test)


def test_request_in_several_fragments_is_put_together() -> None:
    async def test() -> None:
        async with (
            simulator(spot=limits(), start="command") as played,
            connect(played.urls["spot_ws"] + "/ws") as client,
        ):
            await client.send(iter(['{"method":"LIST_', 'SUBSCRIPTIONS",', '"id":9}']))
            assert json.loads(await client.recv()) == {"result": [], "id": 9}

    run(test)


def test_raw_and_combined_urls_differ_only_in_the_wrapper() -> None:
    async def test() -> None:
        async with simulator(speed=10.0, ledger_frames_max=10_000) as played:
            async with (
                connect(played.urls["spot_ws"] + "/ws/btcusdt@trade/ethusdt@trade") as raw,
                connect(played.urls["spot_ws"] + "/stream?streams=btcusdt@trade/ethusdt@trade") as combined,
            ):
                messages = [json.loads(await combined.recv()) for _ in range(20)]
                rows = [json.loads(await raw.recv()) for _ in range(60)]
            assert all(list(message) == ["stream", "data"] for message in messages)
            assert all(message["stream"] == message["data"]["s"].lower() + "@trade" for message in messages)
            first = rows.index(messages[0]["data"])
            assert rows[first : first + 20] == [message["data"] for message in messages]

    run(test)


def test_times_are_microseconds_only_where_asked_for() -> None:
    async def test() -> None:
        async with simulator(speed=10.0) as played:
            base = played.urls["spot_ws"]
            async with (
                connect(base + "/ws/btcusdt@trade?timeUnit=MICROSECOND") as micro,
                connect(base + "/ws/btcusdt@trade") as milli,
            ):
                coarse = {(row := json.loads(await milli.recv()))["t"]: row for _ in range(20)}
                fine: dict[int, dict[str, int]] = {}
                while max(fine, default=0) < max(coarse):  # it may have come in much earlier
                    row = json.loads(await micro.recv())
                    fine[row["t"]] = row
            assert coarse.keys() <= fine.keys()
            for key in coarse:
                assert fine[key]["T"] // 1000 == coarse[key]["T"]
                assert fine[key]["T"] > 10**15

    run(test)


def test_symbol_outside_ascii_is_served_under_its_name() -> None:
    async def test() -> None:
        async with simulator(symbols=["币安人生USDT"], speed=20.0) as played:
            async with connect(played.urls["spot_ws"] + "/ws/%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9Fusdt@trade") as client:
                assert json.loads(await client.recv())["s"] == "币安人生USDT"
            status, _, body = await get(f"{played.urls['spot_rest']}/api/v3/depth", params={"symbol": "币安人生USDT"})
            assert status == 200 and body["bids"]

    run(test)


# -- tiers


def test_usdm_streams_of_another_tier_are_acknowledged_and_silent() -> None:
    async def test() -> None:
        async with simulator(speed=20.0, usdm=limits()) as played:
            streams = [
                "btcusdt@aggTrade",
                "btcusdt@bookTicker",
                "btcusdt@depth@100ms",
                "btcusdt@trade",
                "btcusdt@kline_1m",
            ]
            heard: dict[str, set[str]] = {}
            for tier in ("usdm_public_ws", "usdm_market_ws", "usdm_unrouted_ws"):
                async with connect(played.urls[tier] + "/stream") as client:
                    assert await ask(client, method="SUBSCRIBE", params=streams, id=1) == {"result": None, "id": 1}
                    heard[tier] = {json.loads(await client.recv())["stream"] for _ in range(150)}
                    assert (await ask(client, method="LIST_SUBSCRIPTIONS", id=2))["result"] == streams
            public = {"btcusdt@bookTicker", "btcusdt@depth@100ms", "btcusdt@trade"}
            assert heard == {
                "usdm_public_ws": public,
                "usdm_market_ws": {"btcusdt@aggTrade", "btcusdt@kline_1m"},
                "usdm_unrouted_ws": public,
            }  # fmt: skip

    run(test)


def test_unknown_path_is_refused_with_404() -> None:
    async def test() -> None:
        async with simulator() as played:
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(played.urls["spot_ws"] + "/public/ws").__aenter__()
            assert refused.value.response.status_code == 404

    run(test)


# -- limits


@pytest.mark.parametrize(("base", "allowed"), [("spot_ws", 5), ("usdm_public_ws", 10)])
def test_client_with_too_many_messages_in_a_second_is_disconnected(base: str, allowed: int) -> None:
    async def test() -> None:
        async with simulator() as played, connect(played.urls[base] + "/ws") as client:
            for number in range(allowed):
                await client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
            for number in range(allowed):
                assert json.loads(await client.recv())["id"] == number
            for _ in range(allowed + 1):  # pings count as well; a new second may have begun meanwhile
                await client.ping()
            assert await closed(client) == (1008, "Too many requests")

    run(test)


@pytest.mark.parametrize(("base", "most"), [("spot_ws", 1024), ("usdm_public_ws", 200)])
def test_connection_takes_as_many_streams_as_allowed_and_no_more(base: str, most: int) -> None:
    async def test() -> None:
        names = [f"sim{number}usdt@trade" for number in range(most)]
        async with simulator() as played, connect(played.urls[base] + "/ws") as client:
            await ask(client, method="SUBSCRIBE", params=names, id=1)
            assert len((await ask(client, method="LIST_SUBSCRIPTIONS", id=2))["result"]) == most
            await client.send(json.dumps({"method": "SUBSCRIBE", "params": ["onemore@trade"], "id": 3}))
            code, reason = await closed(client)
            assert (code, str(most) in reason) == (1008, True)

    run(test)


def test_connection_attempts_over_the_limit_are_refused_with_429() -> None:
    async def test() -> None:
        async with simulator(spot=limits(connections_max=3, connections_window_s=300.0)) as played:
            for _ in range(3):
                async with connect(played.urls["spot_ws"] + "/ws"):
                    pass
            with pytest.raises(websockets.InvalidStatus) as refused:
                await connect(played.urls["spot_ws"] + "/ws").__aenter__()
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["Retry-After"] == "300"
            assert played.servers["spot"].refused == 1

    run(test)


def test_ping_unanswered_beyond_its_deadline_closes_the_connection() -> None:
    async def test() -> None:
        strict = limits(ping_interval_s=0.05, pong_timeout_s=2.0)
        async with simulator(spot=strict, start="command") as played, connect(played.urls["spot_ws"] + "/ws") as mute:
            mute.protocol.recv_frame_real = mute.protocol.recv_frame  # keep `websockets` from answering pings
            pings = []
            mute.protocol.recv_frame = lambda frame: (  # type: ignore[method-assign]
                pings.append(frame.data) if frame.opcode == 9 else mute.protocol.recv_frame_real(frame)
            )
            async with connect(played.urls["spot_ws"] + "/ws") as polite:
                assert await closed(mute) == (1008, "Pong timeout")
                assert pings and pings[0].isdigit()
                await until(lambda: played.connections() and played.connections()[0].messages_received >= 5, "5 pongs")
                assert (await ask(polite, method="LIST_SUBSCRIPTIONS", id=1))["result"] == []

    run(test)


def test_unsolicited_pong_does_not_keep_a_connection_alive() -> None:
    async def test() -> None:
        strict = limits(ping_interval_s=0.05, pong_timeout_s=0.3)
        async with simulator(spot=strict, start="command") as played, connect(played.urls["spot_ws"] + "/ws") as client:
            client.protocol.recv_frame_real = client.protocol.recv_frame
            client.protocol.recv_frame = lambda frame: (  # type: ignore[method-assign]
                None if frame.opcode == 9 else client.protocol.recv_frame_real(frame)
            )

            async def pong() -> None:
                while True:
                    await client.pong(b"")
                    await asyncio.sleep(0.02)

            ponging = asyncio.create_task(pong())
            assert await closed(client) == (1008, "Pong timeout")
            ponging.cancel()
            await asyncio.gather(ponging, return_exceptions=True)

    run(test)


def test_connection_is_closed_at_the_end_of_its_life() -> None:
    async def test() -> None:
        async with simulator(spot=limits(life_s=0.1)) as played, connect(played.urls["spot_ws"] + "/ws") as client:
            assert (await closed(client))[0] == 1001

    run(test)


def test_slow_client_of_a_live_source_is_cut_at_the_backlog_limit() -> None:
    async def test() -> None:
        async with simulator(speed=20.0, rate=200.0, backlog_bytes_max=100_000) as played:
            names = "/".join(
                f"{s}@{c}" for s in ("btcusdt", "ethusdt") for c in ("trade", "bookTicker", "depth20@100ms")
            )
            narrow = socket.socket()
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            narrow.connect(("127.0.0.1", int(played.urls["spot_ws"].rpartition(":")[2])))
            narrow.setblocking(False)
            async with connect(f"{played.urls['spot_ws']}/ws/{names}", sock=narrow) as client:
                client.transport.pause_reading()
                await until(lambda: not played.connections(), "the slow connection is cut")
                client.transport.resume_reading()
                await closed(client)
            reasons = played.status()["products"]["spot"]["close_reasons"]  # type: ignore[index]
            assert reasons == {"more than 100000 bytes unsent": 1}

    run(test)


# -- REST


def test_rest_weights_are_counted_and_told() -> None:
    spot = [
        ("ping", "", 1), ("time", "", 1), ("exchangeInfo", "", 20), ("depth", "limit=100", 5),
        ("depth", "limit=500", 25), ("depth", "limit=1000", 50), ("depth", "limit=5000", 250), ("trades", "", 25),
        ("aggTrades", "", 4), ("klines", "interval=1m", 2), ("ticker/24hr", "", 2),
    ]  # fmt: skip
    usdm = [
        ("ping", "", 1), ("exchangeInfo", "", 1), ("depth", "limit=50", 2), ("depth", "limit=100", 5),
        ("depth", "limit=500", 10), ("depth", "limit=1000", 20), ("trades", "", 5), ("aggTrades", "", 20),
        ("klines", "interval=1m&limit=99", 1), ("klines", "interval=1m&limit=499", 2), ("klines", "interval=1m", 5),
        ("klines", "interval=1m&limit=1001", 10), ("ticker/24hr", "", 1), ("premiumIndex", "", 1),
        ("openInterest", "", 1), ("fundingRate", "", 0),
    ]  # fmt: skip

    async def test() -> None:
        long = {"weight_window_s": 1e9}  # one window for the whole test
        async with simulator(spot=limits(**long), usdm=limits(**long)) as played:
            for prefix, rows in (("/api/v3", spot), ("/fapi/v1", usdm)):
                total = 0
                for name, query, weight in rows:
                    url = f"{played.urls['spot_rest']}{prefix}/{name}?symbol=BTCUSDT&{query}"
                    status, headers, _ = await get(url)
                    total += weight
                    assert (status, headers["X-MBX-USED-WEIGHT-1M"]) == (200, str(total)), url
            # Without a symbol the answer holds all of them, and costs so.
            for path, weight in (
                ("/api/v3/ticker/24hr", 80), ('/api/v3/ticker/24hr?symbols=["BTCUSDT","ETHUSDT"]', 2),
                ("/fapi/v1/ticker/24hr", 40), ("/fapi/v1/premiumIndex", 10),
            ):  # fmt: skip
                ledger = played.rest.weights["spot" if "api/v3" in path else "usdm"].accounts["127.0.0.1"]
                before = ledger.used
                _, _, rows = await get(played.urls["spot_rest"] + path)
                assert (ledger.used - before, [row["symbol"] for row in rows][:2]) == (weight, ["BTCUSDT", "ETHUSDT"])

    run(test)


def test_rest_answers_are_kept_as_they_were_given_and_carry_the_exchanges_time() -> None:
    async def test() -> None:
        epoch_ns = 1_700_000_000 * 10**9
        async with simulator(ledger_answers_max=10, epoch_ns=epoch_ns, start="command") as played:
            asked = f"{played.urls['spot_rest']}/api/v3/depth?symbol=BTCUSDT&limit=5"
            given = [(await get(asked))[2] for _ in range(2)]
            _, headers, _ = await get(asked)
            assert headers["Date"] == "Tue, 14 Nov 2023 22:13:20 GMT"
            kept = [json.loads(body) for body in played.rest.answered["spot", "depth", "BTCUSDT"]]
            assert kept[:2] == given and len(kept) == 3

    run(test)


def test_rest_funding_rates_cost_no_weight_but_have_their_own_limit() -> None:
    async def test() -> None:
        async with simulator(usdm=limits(weight_window_s=1e9)) as played:
            url = f"{played.urls['usdm_rest']}/fapi/v1/fundingRate?symbol=BTCUSDT&limit=1"
            played.rest.fundings.limits.weight_max = 3
            statuses = [(await get(url))[0] for _ in range(3)]
            status, headers, body = await get(url)
            assert statuses == [200] * 3 and (status, body["code"]) == (429, -1003)
            assert int(headers["Retry-After"]) > 0
            assert (await get(f"{played.urls['usdm_rest']}/fapi/v1/ping"))[0] == 200

    run(test)


def test_rest_over_the_weight_is_refused_then_banned() -> None:
    async def test() -> None:
        strict = limits(weight_max=60, weight_window_s=1e9, ban_after=2, ban_s=0.5)
        async with simulator(spot=strict) as played:
            url = f"{played.urls['spot_rest']}/api/v3/depth?symbol=BTCUSDT&limit=1000"
            assert (await get(url))[0] == 200
            for _ in range(2):
                status, headers, body = await get(url)
                assert (status, body["code"]) == (429, -1003)
                assert int(headers["Retry-After"]) > 0
            status, headers, body = await get(url)
            assert (status, body["code"], headers["Retry-After"]) == (418, -1003, "1")
            assert "IP banned until" in body["msg"]
            # Whatever it costs: a banned address gets nothing until the ban is over.
            light = f"{played.urls['spot_rest']}/api/v3/ping"
            assert (await get(light))[0] == 418
            await asyncio.sleep(0.6)
            assert (await get(light))[0] == 200
            assert (await get(f"{played.urls['usdm_rest']}/fapi/v1/ping"))[0] == 200

    run(test)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v3/depth", 400, -1102),
        ("/api/v3/depth?symbol=", 400, -1102),
        ("/api/v3/depth?symbol=NOSUCH", 400, -1121),
        ("/api/v3/depth?symbol=BTCUSDT&limit=x", 400, -1100),
        ("/api/v3/depth?symbol=BTCUSDT&limit=0", 400, -1130),
        ("/fapi/v1/depth?symbol=BTCUSDT&limit=7", 400, -4021),
        ("/fapi/v1/depth?symbol=NOSUCH", 400, -1121),
        ("/api/v3/trades?symbol=NOSUCH", 400, -1121),
        ("/fapi/v1/aggTrades", 400, -1102),
        ("/api/v3/aggTrades?symbol=BTCUSDT&startTime=5&endTime=4", 400, -1127),
        ("/fapi/v1/aggTrades?symbol=BTCUSDT&startTime=0&endTime=3600001", 400, -1127),
        ("/api/v3/aggTrades?symbol=BTCUSDT&fromId=1&startTime=1", 400, -1128),
        ("/api/v3/exchangeInfo?symbol=NOSUCH", 400, -1121),
        ("/api/v3/exchangeInfo?symbols=x", 400, -1100),
        ("/api/v3/klines?symbol=BTCUSDT", 400, -1102),
        ("/api/v3/klines?symbol=BTCUSDT&interval=2m", 400, -1120),
        ("/api/v3/klines?symbol=NOSUCH&interval=1m", 400, -1121),
        ("/fapi/v1/klines?symbol=BTCUSDT&interval=1m&startTime=5&endTime=4", 400, -1023),
        ("/fapi/v1/klines?symbol=BTCUSDT&interval=1m&startTime=x", 400, -1100),
        ("/api/v3/ticker/24hr?symbol=NOSUCH", 400, -1121),
        ("/api/v3/ticker/24hr?symbols=x", 400, -1100),
        ("/fapi/v1/premiumIndex?symbol=NOSUCH", 400, -1121),
        ("/fapi/v1/openInterest", 400, -1102),
        ("/fapi/v1/fundingRate?symbol=NOSUCH", 400, -1121),
    ],
)
def test_rest_refuses_bad_parameters_as_the_exchange_does(path: str, status: int, code: int) -> None:
    async def test() -> None:
        async with simulator(start="command") as played:
            answered, _, body = await get(played.urls["spot_rest"] + path)
            assert (answered, body["code"]) == (status, code)

    run(test)


def test_rest_trades_and_aggregates_agree_with_the_streams() -> None:
    async def test() -> None:
        async with simulator(speed=20.0) as played:
            names = "btcusdt@trade/btcusdt@aggTrade"
            async with connect(f"{played.urls['spot_ws']}/stream?streams={names}") as client:
                messages = [json.loads(await client.recv()) for _ in range(120)]
                rest = played.urls["spot_rest"] + "/api/v3"
                _, _, trades = await get(f"{rest}/trades?symbol=BTCUSDT&limit=1000")
                first = next(m["data"]["a"] for m in messages if "agg" in m["stream"])
                _, _, rows = await get(f"{rest}/aggTrades?symbol=BTCUSDT&fromId={first}&limit=10")
            by_id = {row["id"]: (row["price"], row["qty"], row["time"], row["isBuyerMaker"]) for row in trades}
            streamed = {m["data"]["t"]: m["data"] for m in messages if m["stream"].endswith("@trade")}
            assert streamed
            for key, data in streamed.items():
                assert by_id[key] == (data["p"], data["q"], data["T"], data["m"])
            aggregates = [m["data"] for m in messages if "agg" in m["stream"]][:10]
            for row, data in zip(rows, aggregates, strict=True):
                assert row == {key: data[key] for key in ("a", "p", "q", "f", "l", "T", "m", "M")}

    run(test)


def test_exchange_info_lists_what_is_streamed_with_its_precisions() -> None:
    async def test() -> None:
        async with simulator(symbols=3) as played:
            _, _, spot = await get(f"{played.urls['spot_rest']}/api/v3/exchangeInfo")
            _, _, usdm = await get(f"{played.urls['usdm_rest']}/fapi/v1/exchangeInfo")
            assert [row["symbol"] for row in spot["symbols"]] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
            assert [row["contractType"] for row in usdm["symbols"]] == ["PERPETUAL"] * 3
            tick = next(f for f in spot["symbols"][0]["filters"] if f["filterType"] == "PRICE_FILTER")["tickSize"]
            assert tick == "0.01000000"
            assert usdm["symbols"][0]["pricePrecision"] == 1
            assert {row["rateLimitType"]: row["limit"] for row in spot["rateLimits"]}["REQUEST_WEIGHT"] == 6000

    run(test)
