"""What a client is sent on each channel: snapshots, numbers, resume, filters, encodings."""

from __future__ import annotations

import asyncio
import time

import msgspec
from websockets.asyncio.client import connect

from tickring.codecs.book import BookState

from .ws_harness import DEADLINE_S, Client, client, desk

TRADES = "trades.binance.spot.BTC-USDT"
QUOTE = "quote.binance.spot.BTC-USDT"
BOOK = "book.binance.spot.BTC-USDT"


def test_welcome_is_the_first_frame_and_names_the_protocol(shm):
    async def run(front):
        async with connect(front.url(), open_timeout=DEADLINE_S) as ws:
            frame = msgspec.json.decode(await ws.recv())
        assert frame["type"] == "welcome" and frame["protocol"] == "tickring.v1"
        assert frame["encodings"] == ["json", "msgpack"] and frame["auth_required"] is False
        assert frame["data"]["connection_id"] == frame["connection_id"]

    with desk(shm) as d:
        asyncio.run(run(d.front))


def test_trades_snapshot_then_stream_brings_every_number_once(shm):
    async def run(d):
        p = d.producer
        p.trades(0, 0, 80)
        async with client(d.front) as c:
            reply = await c.subscribe(TRADES)
            assert reply["channels"] == [{"channel": TRADES, "epoch": c.epochs[TRADES], "seq": 80, "resumed": False}]
            snapshot = await c.until("snapshot")
            assert [one["seq"] for one in snapshot["data"]] == list(range(31, 81))
            for first in range(80, 1080, 10):
                p.trades(0, first, 10)
                await asyncio.sleep(0)
            await c.until_seq(TRADES, 1080)
            records = c.records[TRADES]
            assert sorted(records) == list(range(81, 1081))
            assert all(one["trade_id"] == str(seq - 1) for seq, one in records.items())
            last = records[1080]
            assert last["price"] == "110.79" and last["quantity"] == "1.50000" and last["side"] == "sell"
            assert last["symbol"] == "BTC-USDT" and last["instrument_id"] == "BTCUSDT"
            assert last["recv_ts"] - last["exchange_ts"] in (1, 2)

    with desk(shm) as d:
        asyncio.run(run(d))


def test_subscribe_during_a_storm_misses_nothing_and_repeats_nothing(shm):
    async def storm(p, stop):
        number = 0
        while not stop.is_set():
            p.trades(0, number, 7)
            number += 7
            await asyncio.sleep(0.001)

    async def run(d):
        stop = asyncio.Event()
        task = asyncio.create_task(storm(d.producer, stop))
        for snapshot in (True, False):
            for _ in range(10):
                async with client(d.front) as c:
                    await c.subscribe({"channel": TRADES, "snapshot": snapshot})
                    await c.until_seq(TRADES, c.seqs[TRADES] + 200)
        stop.set()
        await task

    with desk(shm) as d:
        asyncio.run(run(d))


def test_trades_resume_continues_after_the_last_seq(shm):
    async def run(d):
        p = d.producer
        p.trades(0, 0, 2000)
        async with client(d.front) as c:
            await c.subscribe(TRADES)
            epoch = c.epochs[TRADES]
        for seq, resumed in ((2000, True), (1999, True), (1200, True), (300, True), (0, True)):
            async with client(d.front) as c:
                reply = await c.subscribe({"channel": TRADES, "from_seq": seq, "epoch": epoch})
                assert reply["channels"][0]["resumed"] is resumed and reply["channels"][0]["seq"] == seq
                await c.until_seq(TRADES, 2000)
                assert sorted(c.records.get(TRADES, {})) == list(range(seq + 1, 2001))
                assert not c.gaps

    with desk(shm) as d:
        asyncio.run(run(d))


def test_client_that_is_ahead_of_its_worker_gets_nothing_twice(shm):
    """Another worker showed it records whose producer died before it had counted them."""

    async def run(d):
        d.producer.trades(0, 0, 100)
        async with client(d.front) as c:
            await c.subscribe(TRADES)
            epoch = c.epochs[TRADES]
        async with client(d.front) as c:
            reply = await c.subscribe({"channel": TRADES, "from_seq": 103, "epoch": epoch})
            assert reply["channels"][0]["resumed"] is True
            d.producer.trade(0, 100)
            d.producer.trades(0, 101, 5)
            await c.until_seq(TRADES, 106)
            assert sorted(c.records[TRADES]) == [104, 105, 106] and not c.gaps
            d.producer.trade(0, 106)
            await c.until_seq(TRADES, 107)

    with desk(shm) as d:
        asyncio.run(run(d))


def test_nobody_begins_between_a_record_and_its_count(shm):
    """A producer rings before it counts: who subscribes just then is shown the record, and misses nothing."""

    async def run(d):
        d.producer.trades(0, 0, 100)
        async with client(d.front) as live, client(d.front) as shown, client(d.front) as plain:
            await live.subscribe(TRADES)
            publisher, late = d.producer.sink.flush.__self__, []
            publisher._count_one, count = late.append, publisher._count_one
            d.producer.trade(0, 100)
            await live.until_seq(TRADES, 101)
            await shown.subscribe(TRADES)
            reply = await plain.subscribe({"channel": TRADES, "from_seq": 100, "epoch": live.epochs[TRADES]})
            assert reply["channels"][0]["resumed"] is True
            count(*late)
            publisher._count_one = count
            snapshot = await shown.until("snapshot")
            assert (snapshot["seq"], snapshot["data"][-1]["seq"]) == (101, 101)
            await plain.until_seq(TRADES, 101)
            d.producer.trade(0, 101)
            for one in (shown, plain):
                await one.until_seq(TRADES, 102)
                assert not one.gaps
            assert sorted(plain.records[TRADES]) == [101, 102]

    with desk(shm) as d:
        asyncio.run(run(d))


def test_trades_resume_beyond_what_is_held_names_the_gap_and_starts_over(shm):
    async def run(d):
        d.producer.trades(0, 0, 9000)
        async with client(d.front) as c:
            await c.subscribe(TRADES)
            epoch = c.epochs[TRADES]
        async with client(d.front) as c:
            reply = await c.subscribe({"channel": TRADES, "from_seq": 100, "epoch": epoch})
            assert reply["channels"][0]["resumed"] is False
            gap = await c.until("gap")
            assert (gap["from_seq"], gap["to_seq"], gap["reason"]) == (101, 9000, "resume_expired")
            assert (await c.next())["type"] == "snapshot"
            d.producer.trade(0, 9000)
            await c.until_seq(TRADES, 9001)
        async with client(d.front) as c:
            await c.subscribe({"channel": TRADES, "from_seq": 100, "epoch": "zzzz"})
            assert (await c.until("gap"))["reason"] == "epoch_changed"
            assert (await c.until("snapshot"))["seq"] == 9001

    with desk(shm) as d:
        asyncio.run(run(d))


def test_quote_snapshot_is_the_last_value_and_each_change_follows(shm):
    async def run(d):
        d.producer.quote(0, 1)
        async with client(d.front) as c:
            await c.subscribe(QUOTE)
            snapshot = await c.until("snapshot")
            assert snapshot["seq"] == 1 and snapshot["data"]["bid"] == "101.00"
            assert snapshot["data"]["exchange_ts"] is None
            for number in range(2, 102):
                d.producer.quote(0, number)
            await c.until_seq(QUOTE, 101)
            assert c.records[QUOTE][101]["ask"] == "202.00"
            assert len(c.records[QUOTE]) == 100

    with desk(shm) as d:
        asyncio.run(run(d))


def test_quote_conflated_keeps_the_newest_and_says_so(shm):
    async def run(d):
        d.producer.quote(0, 0)
        async with client(d.front) as c:
            await c.subscribe({"channel": QUOTE, "conflate": 50})
            await c.until("snapshot")
            since = time.monotonic()
            for number in range(1, 200):
                d.producer.quote(0, number)
                await asyncio.sleep(0.001)
            await c.until_seq(QUOTE, 200)
            assert c.records[QUOTE][200]["bid"] == "299.00"
            assert len(c.records[QUOTE]) <= (time.monotonic() - since) / 0.05 + 2
            assert any(frame.get("conflated") for frame in c.frames)

    with desk(shm) as d:
        asyncio.run(run(d))


def levels(first: int, n: int, step: float) -> list[tuple[float, float]]:
    return [(first + i * step, 1.0 + i) for i in range(n)]


def shown(book, depth: int) -> tuple[dict[str, str], dict[str, str]]:
    bids, bid_quantities, asks, ask_quantities = book.top(depth)
    pairs = zip(bids, bid_quantities, strict=True), zip(asks, ask_quantities, strict=True)
    return tuple({f"{p:.2f}": f"{q:.5f}" for p, q in side} for side in pairs)  # type: ignore[return-value]


def test_book_deltas_keep_every_depth_equal_to_the_book(shm):
    async def run(d):
        p = d.producer
        p.book_snapshot(0, levels(1000, 450, -1.0), levels(1001, 450, 1.0))
        depths = (5, 20, 50, 200, 400)
        clients = []
        for depth in depths:
            ws = await connect(d.front.url(), max_size=None, open_timeout=DEADLINE_S)
            c = Client(ws)
            clients.append(c)
            await c.subscribe({"channel": BOOK, "depth": depth})
            await c.until("snapshot")
            assert len(c.books[BOOK][0]) == depth
        for i in range(300):
            p.book_delta(0, [(1000.0 - i % 30, float(i % 3))], [(1001.0 + i % 25, float(i % 4)), (2000.0 + i, 1.0)])
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.15)
        p.sink.flush_depth(2**62)
        p.book_delta(0, [(999.5, 7.0)], [])  # a frame for every depth, after which all must agree
        await asyncio.sleep(0.15)
        p.sink.flush_depth(2**62)
        count = p.writers["book_level"].counts[0]
        for c, depth in zip(clients, depths, strict=True):
            await c.until_seq(BOOK, count)
            assert c.books[BOOK] == shown(p.books[0], depth)
            assert sum(frame["type"] == "snapshot" for frame in c.frames) == 1
            await c.ws.close()

    with desk(shm) as d:
        asyncio.run(run(d))


def test_book_resync_sends_status_and_a_snapshot_of_the_same_epoch(shm):
    async def run(d):
        p = d.producer
        p.book_snapshot(0, levels(1000, 30, -1.0), levels(1001, 30, 1.0))
        async with client(d.front) as c:
            await c.subscribe({"channel": BOOK, "depth": 20})
            first = await c.until("snapshot")
            p.book_state(0, BookState.RESYNCING)
            assert (await c.until("status"))["state"] == "resyncing"
            p.book_snapshot(0, levels(900, 30, -1.0), levels(901, 30, 1.0))
            again = await c.until("snapshot")
            assert again["epoch"] == first["epoch"] and again["seq"] > first["seq"]
            await c.until(lambda f: f["type"] == "status" and f["state"] == "live")
            p.book_delta(0, [(899.5, 2.0)], [])
            await c.until_seq(BOOK, p.writers["book_level"].counts[0])
            assert c.books[BOOK] == shown(p.books[0], 20)

    with desk(shm) as d:
        asyncio.run(run(d))


def test_book_resume_at_the_current_seq_goes_on_without_a_snapshot(shm):
    async def run(d):
        p = d.producer
        p.book_snapshot(0, levels(1000, 30, -1.0), levels(1001, 30, 1.0))
        async with client(d.front) as keeper, client(d.fronts[1]) as other:
            await keeper.subscribe({"channel": BOOK, "depth": 20})
            snapshot = await keeper.until("snapshot")
            p.book_delta(0, [(999.0, 5.0)], [])
            await keeper.until("update")
            for front_client in (keeper, other):
                async with client(d.fronts[0] if front_client is keeper else d.fronts[1]) as c:
                    c.books[BOOK] = tuple(dict(side) for side in keeper.books[BOOK])
                    reply = await c.subscribe(
                        {"channel": BOOK, "depth": 20, "from_seq": keeper.seqs[BOOK], "epoch": snapshot["epoch"]}
                    )
                    assert reply["channels"][0]["resumed"] is True
                    p.book_delta(0, [], [(1001.0, 9.0 if front_client is keeper else 8.0)])
                    await c.until("update")
                    assert c.books[BOOK] == shown(p.books[0], 20)
                    await keeper.until_seq(BOOK, c.seqs[BOOK])
            async with client(d.front) as c:  # from a frame that the worker still keeps
                c.books[BOOK] = tuple(dict(snapshot["data"][side]) for side in ("bids", "asks"))
                reply = await c.subscribe(
                    {"channel": BOOK, "depth": 20, "from_seq": snapshot["seq"], "epoch": snapshot["epoch"]}
                )
                assert reply["channels"][0]["resumed"] is True
                await c.until_seq(BOOK, keeper.seqs[BOOK])
                assert c.books[BOOK] == shown(p.books[0], 20)

    with desk(shm, fronts=2) as d:
        asyncio.run(run(d))


def test_wildcards_subscribe_each_match_and_follow_new_instruments(shm):
    async def run(d):
        async with client(d.front) as c:
            reply = await c.subscribe("trades.*.*.*", {"channel": "quote", "exchange": "*", "symbol": "btcusdt"})
            names = [row["channel"] for row in reply["channels"]]
            assert names == [*sorted(f"trades.binance.spot.{s}" for s in d.producer.symbols), QUOTE]
            key_id = d.producer.add("DOGE-USDT")
            again = await c.until("subscribed")
            assert [row["channel"] for row in again["channels"]] == ["trades.binance.spot.DOGE-USDT"]
            await c.until(lambda f: f["type"] == "snapshot" and "DOGE" in f["channel"])
            d.producer.trade(key_id, 0)
            await c.until_seq("trades.binance.spot.DOGE-USDT", 1)
            gone = await c.ask(op="unsubscribe", channels=["trades.*.*.*"])
            assert len(gone["channels"]) == 5
            listed = await c.ask(op="list")
            assert [row["channel"] for row in listed["channels"]] == [QUOTE]

    with desk(shm) as d:
        asyncio.run(run(d))


def test_an_instrument_that_was_unsubscribed_stays_so_when_others_come(shm):
    async def run(d):
        async with client(d.front) as c:
            await c.subscribe("trades.*.*.*", "quote.*.*.*")
            for gone in (TRADES, "trades.binance.spot.DOGE-USDT", "quote.binance.*.*"):
                assert "errors" not in await c.ask(op="unsubscribe", channels=[gone])
            d.producer.add("DOGE-USDT")
            d.producer.add("LTC-USDT")
            seen: list[str] = []
            while "trades.binance.spot.LTC-USDT" not in seen:
                seen += [row["channel"] for row in (await c.until("subscribed"))["channels"]]
            assert seen == ["trades.binance.spot.LTC-USDT"]

    with desk(shm) as d:
        asyncio.run(run(d))


def test_symbol_and_exchange_forms_are_echoed_canonically(shm):
    async def run(d):
        forms = ["BTC-USDT-PERP", "btc/usdt-perp", "BTCUSDT-SWAP", "BTC_USDT_PERPETUAL"]
        async with client(d.front) as c:
            for form in forms:
                reply = await c.subscribe({"channel": "trades", "exchange": "BINANCE_FUTURES", "symbol": form})
                assert [row["channel"] for row in reply["channels"]] == ["trades.binance.perpetual.BTC-USDT"], form
            reply = await c.subscribe({"channel": "trades", "exchange": "binance", "symbol": "BTCUSDT"})
            assert reply["channels"] == [] and reply["errors"][0]["code"] == "NOT_FOUND"

    with desk(shm, producer={"market_type": "perpetual"}) as d:
        asyncio.run(run(d))


def test_filters_pass_what_fits_and_never_renumber(shm):
    async def run(d):
        async with client(d.front) as c:
            c.loose = frozenset((TRADES,))
            await c.subscribe({"channel": TRADES, "filters": {"side": "sell"}})
            await c.until("snapshot")
            d.producer.trades(0, 0, 100)
            await c.until_seq(TRADES, 100)
            assert sorted(c.records[TRADES]) == list(range(2, 101, 2))
            reply = await c.ask(op="filter", channel=TRADES, filters={"trade_id": ["101", "103"]})
            assert reply["type"] == "filter_set"
            d.producer.trades(0, 100, 10)
            await c.until_seq(TRADES, 104)
            assert sorted(seq for seq in c.records[TRADES] if seq > 100) == [102, 104]
            await c.ask(op="filter", filters={})
            d.producer.trade(0, 110)
            await c.until_seq(TRADES, 111)

    with desk(shm) as d:
        asyncio.run(run(d))


def test_msgpack_says_the_same_as_json(shm):
    def as_json(frame):
        """Exchange ids are integers in msgpack and text in JSON; all else is equal."""

        def convert(record):
            return {k: str(v) if k in ("trade_id", "first_trade_id") else v for k, v in record.items()}

        data = frame.get("data")
        if isinstance(data, list):
            return {**frame, "data": [convert(one) for one in data]}
        return {**frame, "data": convert(data)} if isinstance(data, dict) else frame

    async def run(d):
        p = d.producer
        p.trades(0, 0, 60)
        p.book_snapshot(0, levels(1000, 30, -1.0), levels(1001, 30, 1.0))
        sub = [TRADES, QUOTE, {"channel": BOOK, "depth": 5}]
        async with (
            client(d.front, subprotocols=["tickring.v1.json"]) as a,
            client(d.front, subprotocols=["tickring.v1.msgpack"]) as b,
            client(d.front, "/ws/v1?encoding=msgpack") as b2,
        ):
            assert a.ws.subprotocol == "tickring.v1.json" and b.ws.subprotocol == "tickring.v1.msgpack"
            assert b2.ws.subprotocol is None
            await b.ws.send(msgspec.msgpack.encode({"op": "subscribe", "id": 7, "channels": sub}))
            for c in (a, b2):
                await c.send(op="subscribe", channels=sub, id=7)
            for c in (a, b, b2):
                await c.until(lambda f: f["type"] == "snapshot" and f["channel"] == BOOK)
            p.trades(0, 60, 5)
            p.quote(0, 3)
            p.book_delta(0, [(999.0, 3.0)], [])
            kept = []
            for c in (a, b, b2):
                await c.until_seq(TRADES, 65)
                while c.seqs.get(QUOTE, 0) < 1 or c.seqs[BOOK] < p.writers["book_level"].counts[0]:
                    await c.next()
                kept.append(sorted((as_json(f) for f in c.frames[1:]), key=str))
            assert kept[0] == kept[1] == kept[2]
            assert isinstance(b.records[TRADES][65]["trade_id"], int)

    with desk(shm) as d:
        asyncio.run(run(d))


def test_snapshot_op_shows_the_state_with_the_id_of_the_question(shm):
    async def run(d):
        d.producer.trades(0, 0, 3)
        async with client(d.front) as c:
            reply = await c.ask(op="snapshot", channel=TRADES)
            assert reply["type"] == "snapshot" and reply["seq"] == 3
            reply = await c.ask(op="snapshot", channel="trades.binance.spot.*")
            assert reply["code"] == "INVALID_PARAMETER"

    with desk(shm) as d:
        asyncio.run(run(d))


def test_compressed_client_gets_the_same_content(shm):
    async def run(d):
        d.producer.trades(0, 0, 500)
        async with client(d.front) as a, client(d.front, compression=None) as b:
            assert "permessage-deflate" in a.ws.response.headers.get("Sec-WebSocket-Extensions", "")
            for c in (a, b):
                await c.subscribe({"channel": TRADES, "from_seq": 0})
                await c.until_seq(TRADES, 500)
            assert a.records == b.records

    with desk(shm) as d:
        asyncio.run(run(d))


def test_market_path_subscribes_the_channels_of_its_address(shm):
    async def run(d):
        async with client(d.front, f"/ws/market?channels={TRADES},{QUOTE}") as c:
            reply = await c.until("subscribed")
            assert [row["channel"] for row in reply["channels"]] == [TRADES, QUOTE]

    with desk(shm) as d:
        asyncio.run(run(d))


def test_heartbeat_names_the_last_seq_of_each_channel(shm):
    async def run(d):
        d.producer.trades(0, 0, 9)
        async with client(d.front) as c:
            await c.subscribe(TRADES)
            beat = await c.until("heartbeat")
            assert beat["seqs"] == {TRADES: 9}

    with desk(shm, heartbeat_s=0.5) as d:
        asyncio.run(run(d))


def test_ping_and_auth_are_answered_without_authentication(shm):
    async def run(d):
        async with client(d.front) as c:
            pong = await c.ask(op="ping", ts=5)
            assert pong["type"] == "pong" and pong["ts"] == 5 and pong["server_ts"] > 10**12
            await c.send(type="auth", token="x")
            assert (await c.until("auth_success"))["user_id"] == "anonymous"
        async with client(d.front, "/ws?token=abc") as c:
            assert (await c.next())["type"] == "auth_success"

    with desk(shm) as d:
        asyncio.run(run(d))


def test_burst_of_one_trade_for_each_of_many_keys_reaches_everybody(shm):
    symbols = [f"SYM{i}-USDT" for i in range(50)]

    async def run(d):
        async with client(d.front) as c:
            reply = await c.subscribe("trades.*.*.*")
            assert len(reply["channels"]) == 50
            for number in range(20):
                now = time.time_ns()
                for key_id in range(50):
                    d.producer.sink.trade(key_id, now, now, 0, number, 1.0, 1.0, 0, 0, 0.0)
                d.producer.sink.flush()
                await asyncio.sleep(0.001)
            for symbol in symbols:
                await c.until_seq(f"trades.binance.spot.{symbol}", 20)

    with desk(shm, producer={"symbols": symbols}) as d:
        asyncio.run(run(d))
        assert d.front.metric("tickring_ws_failures_total") == 0
