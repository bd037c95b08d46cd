"""What a client is sent when something breaks: dead workers and producers, laps, slow readers, limits, bad frames."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus

from tickring.actors.front.ws import Identity
from tickring.ringbuf import create_stream

from ..ringbuf.processes import fork, join
from .ws_harness import CAPACITY, DEADLINE_S, Client, client, desk, eventually, narrow_socket

TRADES = "trades.binance.spot.BTC-USDT"
QUOTE = "quote.binance.spot.BTC-USDT"
BOOK = "book.binance.spot.BTC-USDT"


def levels(first: float, n: int, step: float) -> list[tuple[float, float]]:
    return [(first + i * step, 1.0 + i) for i in range(n)]


def test_resume_across_killed_workers_brings_every_trade_once(shm):
    reading: list[Client] = []  # the last is the one that reads

    async def produce(p, stop):
        number = 0
        while not stop.is_set():
            if number - max((c.seqs.get(TRADES, 0) for c in reading), default=0) < 1000:  # the ring holds more
                p.trades(0, number, 3)
                number += 3
            await asyncio.sleep(0.001)
        return number

    async def run(d):
        stop = asyncio.Event()
        producing = asyncio.create_task(produce(d.producer, stop))
        seen: list[int] = []
        seq, epoch, which = 0, None, 0
        for turn in range(6):
            async with connect(d.fronts[which].url(), max_size=None, open_timeout=DEADLINE_S) as ws:
                c = Client(ws)
                reading.append(c)
                reply = await c.subscribe({"channel": TRADES, "from_seq": seq, "epoch": epoch})
                assert reply["channels"][0]["resumed"] is True, reply
                epoch = reply["channels"][0]["epoch"]
                await c.until_seq(TRADES, seq + 120)
                if turn < 5:
                    d.fronts[which].kill()
                    with pytest.raises(ConnectionClosed):
                        while True:
                            await c.next()
                else:
                    stop.set()
                    await c.until_seq(TRADES, await producing)
                assert not c.gaps
            seen += sorted(c.records[TRADES])
            seq = c.seqs[TRADES]
            d.restart(which)
            which = 1 - which
        assert seen == list(range(1, seq + 1))

    with desk(shm, fronts=2) as d:
        asyncio.run(run(d))


def test_producer_restart_goes_on_in_the_same_epoch_and_says_stale(shm):
    async def run(d):
        p = d.producer
        p.trades(0, 0, 10)
        async with client(d.front) as c:
            await c.subscribe(TRADES)
            p.close()
            p.attach()
            status = await c.until("status")
            assert status["state"] == "stale" and status["channel"] == TRADES
            p.trade(0, 10)
            await c.until(lambda f: f["type"] == "status" and f["state"] == "live")
            await c.until_seq(TRADES, 11)

    with desk(shm) as d:
        asyncio.run(run(d))


def test_dead_producer_shows_as_down(shm):
    async def run(d):
        assert join(fork(d.producer.attach)) == 0  # becomes the producer, and dies
        async with client(d.front) as c:
            await c.subscribe(TRADES)
            status = await c.until("status")
            assert status["state"] == "down"

    with desk(shm) as d:
        d.producer.trade(0, 0)
        d.producer.close()
        try:
            asyncio.run(run(d))
        finally:
            d.producer.attach()


def test_new_ring_sends_epoch_changed_and_a_snapshot(shm):
    async def run(d):
        p = d.producer
        p.trades(0, 0, 30)
        p.quote(0, 0)
        p.book_snapshot(0, levels(1000, 30, -1.0), levels(1001, 30, 1.0))
        async with client(d.front) as c:
            await c.subscribe(TRADES, QUOTE, BOOK)
            await c.until(lambda f: f["type"] == "snapshot" and f["channel"] == BOOK)
            before = dict(c.epochs)
            os.kill(d.front.pid, signal.SIGSTOP)  # it finds all of the new ring at once, and no book without its levels
            p.close()
            for spec in p.specs.values():
                (d.folder / spec.filename).unlink()
                create_stream(d.folder, spec, time.time_ns())
            p.attach()
            p.trades(0, 500, 5)
            p.quote(0, 1)
            p.book_snapshot(0, levels(900, 30, -1.0), levels(901, 30, 1.0))
            os.kill(d.front.pid, signal.SIGCONT)
            for _ in range(3):
                gap = await c.until("gap")
                assert gap["reason"] == "epoch_changed" and gap["from_seq"] == 1
                snapshot = await c.until("snapshot")
                assert snapshot["channel"] == gap["channel"]
                assert snapshot["epoch"] == gap["epoch"] != before[gap["channel"]]
                assert snapshot["seq"] == gap["to_seq"]
            p.trade(0, 505)
            await c.until_seq(TRADES, 6)
            assert c.records[TRADES][6]["trade_id"] == "505"

    with desk(shm) as d:
        asyncio.run(run(d))


def test_lapped_worker_recovers_from_the_tail_and_names_the_rest(shm):
    async def run(d):
        p = d.producer
        p.trades(0, 0, 10)
        p.trade(1, 0)
        eth = "trades.binance.spot.ETH-USDT"
        async with client(d.front) as c:
            await c.subscribe(TRADES, eth, QUOTE)
            await c.until(lambda f: f["type"] == "snapshot" and f["channel"] == QUOTE)
            os.kill(d.front.pid, signal.SIGSTOP)
            p.trades(1, 1, 100)  # a quiet key, wholly lapped, wholly in its tail
            p.trades(0, 10, 3 * CAPACITY)
            for number in range(3 * CAPACITY):
                p.quote(0, number)
            os.kill(d.front.pid, signal.SIGCONT)
            await c.until_seq(TRADES, 10 + 3 * CAPACITY)
            await c.until_seq(eth, 101)
            await c.until_seq(QUOTE, 3 * CAPACITY)
            assert len(c.gaps[TRADES]) == 1 and eth not in c.gaps and QUOTE not in c.gaps
            first, last = c.gaps[TRADES][0]
            assert first == 11
            assert sorted(c.records[TRADES]) == list(range(last + 1, 11 + 3 * CAPACITY))
            assert len(c.records[TRADES]) >= 1024
            assert d.front.metric("tickring_ws_laps_total") >= 1 or await _page(d)

    async def _page(d):
        await eventually(lambda: d.front.metric("tickring_ws_laps_total") >= 1, "laps on the page")
        return True

    with desk(shm) as d:
        asyncio.run(run(d))


# -- slow readers -------------------------------------------------------------------------------------------------


def test_slow_reader_of_trades_gets_a_gap_with_exactly_the_dropped_range(shm):
    async def run(d):
        p = d.producer
        async with client(d.front, sock=narrow_socket(d.front), max_queue=1) as slow, client(d.front) as fast:
            for c in (slow, fast):
                await c.subscribe({"channel": TRADES, "snapshot": False})
            number = 0
            while not d.front.metric("tickring_ws_dropped_frames_total", delivery="ordered"):
                for _ in range(50):
                    p.trade(0, number)
                    number += 1
                    await asyncio.sleep(0)
                await fast.until_seq(TRADES, number)  # nobody waits for the slow one
            await slow.until_seq(TRADES, number)
            named = {seq for first, last in slow.gaps[TRADES] for seq in range(first, last + 1)}
            assert named and named.isdisjoint(slow.records[TRADES])
            assert named | set(slow.records[TRADES]) == set(range(1, number + 1))
            assert sorted(fast.records[TRADES]) == list(range(1, number + 1))

    with desk(shm, queue_frames_max=50, unsent_bytes_max=4096) as d:
        asyncio.run(run(d))


def test_slow_reader_of_quotes_gets_the_newest_without_a_gap(shm):
    async def run(d):
        p = d.producer
        async with client(d.front, sock=narrow_socket(d.front), max_queue=1) as slow:
            await slow.subscribe({"channel": QUOTE, "snapshot": False})
            number = 0
            while not d.front.metric("tickring_ws_dropped_frames_total", delivery="conflating"):
                for _ in range(50):
                    p.quote(0, number)
                    number += 1
                    await asyncio.sleep(0)
                await asyncio.sleep(0.01)
            await slow.until_seq(QUOTE, number)
            assert slow.records[QUOTE][number]["bid"] == f"{100 + number - 1}.00"
            assert len(slow.records[QUOTE]) < number and not slow.gaps
            assert any(frame.get("conflated") for frame in slow.frames)

    with desk(shm, queue_frames_max=50, unsent_bytes_max=4096) as d:
        asyncio.run(run(d))


def test_slow_reader_of_a_book_gets_a_gap_and_a_snapshot_when_it_reads_again(shm):
    async def run(d):
        p = d.producer
        p.book_snapshot(0, levels(1000, 400, -1.0), levels(1401, 400, 1.0))
        async with client(d.front, sock=narrow_socket(d.front), max_queue=1) as slow:
            await slow.subscribe({"channel": BOOK, "depth": 400})
            i = 0
            while not d.front.metric("tickring_ws_dropped_frames_total", delivery="rebuildable"):
                i += 1
                p.book_delta(0, [(1000.0 - n, float(i)) for n in range(300)], [])
                p.sink.flush_depth(2**62)
                await asyncio.sleep(0.004)
            gap = await slow.until("gap")
            assert gap["reason"] == "slow_consumer" and gap["from_seq"] == slow.seqs[BOOK] + 1
            snapshot = await slow.until("snapshot")
            assert snapshot["seq"] == gap["to_seq"]
            p.book_delta(0, [(1000.0, 12345.0)], [])
            p.sink.flush_depth(2**62)
            await slow.until_seq(BOOK, p.writers["book_level"].counts[0])
            assert slow.books[BOOK][0]["1000.00"] == "12345.00000"

    with desk(shm, queue_frames_max=20, unsent_bytes_max=4096, book_interval_ms=4) as d:
        asyncio.run(run(d))


def test_reader_that_stays_full_is_closed_with_4008(shm):
    async def run(d):
        p = d.producer
        async with client(d.front, sock=narrow_socket(d.front), max_queue=1) as slow:
            await slow.subscribe({"channel": TRADES, "snapshot": False}, {"channel": QUOTE, "snapshot": False})
            number = 0
            while not d.front.metric("tickring_ws_slow_closes_total"):
                for _ in range(20):
                    p.trade(0, number)
                    p.quote(0, number)
                    number += 1
                await asyncio.sleep(0.005)
            slow.loose = frozenset((QUOTE,))
            assert await slow.closed() == 4008

    with desk(shm, queue_frames_max=50, unsent_bytes_max=4096, slow_close_s=0.5, close_grace_s=20.0) as d:
        asyncio.run(run(d))


# -- limits -------------------------------------------------------------------------------------------------------


def test_channels_beyond_the_limit_are_refused_one_by_one(shm):
    async def run(d):
        async with client(d.front) as c:
            reply = await c.subscribe("trades.*.*.*")
            assert len(reply["channels"]) == 3
            assert reply["errors"][0]["code"] == "LIMIT_EXCEEDED"
            reply = await c.ask(op="subscribe", channels=[TRADES] * 4)
            assert reply["type"] == "error" and reply["code"] == "LIMIT_EXCEEDED"

    with desk(shm, channels_max=3) as d:
        asyncio.run(run(d))


@pytest.mark.parametrize(("path", "code"), [("/ws/v1?encoding=xml", 1003), ("/ws/nothing", 1002), ("/ws/orders", 1002)])
def test_address_that_is_not_served_is_closed_with_its_code(shm, path, code):
    async def run(d):
        async with connect(d.front.url(path), open_timeout=DEADLINE_S) as ws:
            with pytest.raises(ConnectionClosedError) as closed:
                await ws.recv()
        assert closed.value.rcvd.code == code

    with desk(shm) as d:
        asyncio.run(run(d))


def test_frame_too_big_is_closed_with_1009(shm):
    async def run(d):
        async with client(d.front) as c:
            await c.ws.send("x" * 70_000)
            assert await c.closed() == 1009

    with desk(shm) as d:
        asyncio.run(run(d))


def test_flood_of_frames_gets_errors_and_is_closed_with_1008(shm):
    async def run(d):
        async with client(d.front) as c:
            for i in range(120):
                await c.ws.send(json.dumps({"op": "ping", "id": i}))
            assert await c.closed() == 1008
            kinds = [frame["type"] for frame in c.frames]
            assert kinds.count("pong") >= 50 and kinds.count("error") == 10
            assert {f["code"] for f in c.frames if f["type"] == "error"} == {"RATE_LIMIT_EXCEEDED"}

    with desk(shm) as d:
        asyncio.run(run(d))


def test_silent_client_without_pongs_is_closed_with_4000(shm):
    async def run(d):
        reader, writer = await asyncio.open_connection("127.0.0.1", d.front.port)
        writer.write(
            b"GET /ws/v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        async with client(d.front) as alive:  # answers pings and does nothing else
            data = await asyncio.wait_for(reader.read(), DEADLINE_S)  # until the server hangs up
            assert b"\x89\x00" in data, "no ping came"
            assert (4000).to_bytes(2, "big") in data
            assert (await alive.ask(op="ping"))["type"] == "pong"
        writer.close()

    with desk(shm, ping_s=0.5, idle_timeout_s=10.0, close_grace_s=0.5) as d:
        asyncio.run(run(d))


# -- bad input ----------------------------------------------------------------------------------------------------


def test_errors_name_the_code_and_ten_of_them_close_with_1008(shm):
    async def run(d):
        async with client(d.front) as c:
            for frame, code, id in (
                ("{", "INVALID_FRAME", None),
                ("[1]", "INVALID_PARAMETER", None),
                ('{"op":"dance","id":4}', "INVALID_PARAMETER", 4),
                ('{"op":"subscribe","id":5,"channels":7}', "INVALID_PARAMETER", 5),
                ('{"op":"subscribe","channels":[]}', "INVALID_PARAMETER", None),
            ):
                await c.ws.send(frame)
                error = await c.until("error")
                assert error["code"] == code and error["message"], frame
                assert error.get("id") == id, frame
            reply = await c.subscribe(
                "orders",
                "trades.mars.spot.BTC-USDT",
                {"channel": "book", "symbol": "BTC-USDT", "depth": 7},
                {"channel": TRADES, "conflate": 5},
                "trades.binance.spot.NO-SUCH",
                QUOTE,
            )
            codes = [row["code"] for row in reply["errors"]]
            assert codes == ["NOT_SUPPORTED", *["INVALID_PARAMETER"] * 3, "NOT_FOUND"]
            assert [row["channel"] for row in reply["channels"]] == [QUOTE]
            for _ in range(5):
                await c.ws.send("{")
            assert await c.closed() == 1008

    with desk(shm) as d:
        asyncio.run(run(d))


# -- end ----------------------------------------------------------------------------------------------------------


def test_stop_says_down_and_closes_with_1001(shm):
    async def run(d):
        async with client(d.front) as c:
            await c.subscribe(TRADES)
            d.front.terminate()
            assert await c.closed() == 1001
            last = c.frames[-1]
            assert last["type"] == "status" and last["state"] == "down"
        assert d.front.wait() == 0

    with desk(shm) as d:
        asyncio.run(run(d))


class Keys:
    """Knows one key."""

    required = True

    async def identify(self, token):
        return Identity("desk", ("read",)) if token == "right" else None


def test_required_authentication_withholds_everything_until_a_token_fits(shm):
    async def run(d):
        async with client(d.front) as c:
            reply = await c.subscribe(TRADES)
            assert reply["code"] == "MISSING_AUTH_TOKEN"
            await c.send(op="auth", token="right")
            assert (await c.until("auth_success"))["user_id"] == "desk"
            assert (await c.subscribe(TRADES))["type"] == "subscribed"
        async with client(d.front, additional_headers={"X-API-Key": "right"}) as c:
            assert (await c.next())["type"] == "auth_success"
        wrong = {"type": "auth", "token": "wrong"}
        for path, frame in (("/ws/v1?token=wrong", None), ("/ws/v1", wrong)):
            async with client(d.front, path) as c:
                if frame:
                    await c.send(**frame)
                assert await c.closed() == 1008
                assert c.frames[-1]["type"] == "auth_error"

    with desk(shm, authenticator=Keys(), auth_timeout_s=60.0) as d:
        asyncio.run(run(d))


def test_client_that_does_not_authenticate_in_time_is_closed_with_1008(shm):
    async def run(d):
        async with client(d.front) as c:
            assert await c.closed() == 1008
            assert c.frames[-1]["type"] == "auth_error"

    with desk(shm, authenticator=Keys(), auth_timeout_s=1.0) as d:
        asyncio.run(run(d))


def test_client_that_does_not_authenticate_in_time_is_closed_though_the_clock_is_set_back(shm, tmp_path, monkeypatch):
    clock, set_back = time.time_ns, tmp_path / "set-back"
    monkeypatch.setattr(time, "time_ns", lambda: clock() - 3600 * 10**9 * set_back.exists())  # the worker inherits it

    async def run(d):
        async with client(d.front) as c:
            set_back.touch()
            assert await c.closed() == 1008
            assert c.frames[-1]["type"] == "auth_error"

    with desk(shm, authenticator=Keys(), auth_timeout_s=1.0) as d:
        asyncio.run(run(d))


def test_channels_of_the_address_wait_for_authentication(shm):
    async def run(d):
        d.producer.trades(0, 0, 3)
        async with client(d.front, f"/ws/market?channels={TRADES}") as c:
            await asyncio.sleep(0.2)
            assert (await c.ask(op="ping"))["type"] == "pong" and len(c.frames) == 2  # the welcome, and this
            await c.send(op="auth", token="right")
            assert (await c.until("subscribed"))["channels"][0]["channel"] == TRADES
            assert (await c.until("snapshot"))["seq"] == 3

    with desk(shm, authenticator=Keys(), auth_timeout_s=60.0) as d:
        asyncio.run(run(d))


def test_too_many_channels_in_the_address_are_an_error_frame(shm):
    async def run(d):
        async with client(d.front, f"/ws/market?channels={','.join([TRADES] * 4)}") as c:
            assert (await c.until("error"))["code"] == "LIMIT_EXCEEDED"
            assert (await c.ask(op="ping"))["type"] == "pong"

    with desk(shm, channels_max=3) as d:
        asyncio.run(run(d))


def test_dialect_that_is_not_spoken_is_refused_at_the_handshake(shm):
    async def run(d):
        with pytest.raises(InvalidStatus) as refused:
            await connect(d.front.url("/ws?dialect=morse"), open_timeout=DEADLINE_S)
        assert refused.value.response.status_code == 400

    with desk(shm) as d:
        asyncio.run(run(d))
