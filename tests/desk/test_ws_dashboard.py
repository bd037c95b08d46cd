"""The dialect of DipMaster's dashboard, frame by frame."""

from __future__ import annotations

import asyncio

import pytest

from tickring.actors.front.ws import Identity, undecided
from tickring.actors.front.ws.names import passes, read_filters
from tickring.codecs.record import Flag

from .ws_rig import plain, rig, run

AUTH = {"type": "auth", "token": "secret"}


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first frame tells the dialect, however late it comes."""
    monkeypatch.setattr(undecided, "SILENCE_S", 60.0)


class Keys:
    required = True

    async def identify(self, token: str) -> Identity | None:
        return Identity("ada", ("read",)) if token == "secret" else None


def test_the_first_frame_says_who_it_is_and_the_path_is_subscribed(shm):
    async def go(r):
        async with plain(r.front, "/ws/fills") as c:
            frame = await c.ask(AUTH)
            assert frame["type"] == "auth_success" and frame["user_id"] == "ada" and frame["timestamp"].endswith("Z")
            frame = await c.next()
            assert frame.keys() == {"type", "channel", "timestamp"}
            assert (frame["type"], frame["channel"]) == ("subscribed", "fills")
            r.fill(1)
            frame = await c.next()
            assert (frame["type"], frame["channel"], frame["priority"]) == ("data", "fills", "normal")
            (record,) = frame["data"]
            assert record["fill_id"] == "f-1" and record["quantity"] == 2.5 and record["account_id"] == "acct-7"
            assert frame["timestamp"].endswith("Z")

    with rig(shm, authenticator=Keys()) as r:
        run(r, go)


def test_whoever_does_not_say_it_is_closed(shm):
    async def go(r):
        async with plain(r.front, "/ws/fills") as c:
            await c.send({"type": "auth", "token": "wrong"})
            assert (await c.next())["type"] == "auth_error"
            assert await c.closed() == 1008 and c.ws.close_reason == "Authentication failed"
        async with plain(r.front, "/ws?dialect=dashboard") as c:
            await c.send({"type": "ping"})
            assert await c.closed() == 1008
        async with plain(r.front, "/ws/fills") as c:
            r.fill(1)
            assert await c.closed() == 1008, "no frame came in time"

    with rig(shm, authenticator=Keys(), auth_timeout_s=1.0) as r:
        run(r, go)


def test_subscribe_unsubscribe_ping_and_unknown_channels(shm):
    async def go(r):
        async with plain(r.front, "/ws") as c:
            assert (await c.ask(AUTH))["user_id"] == "anonymous"
            assert (await c.ask({"type": "ping"})).keys() == {"type", "timestamp"}
            await c.send({"type": "subscribe", "channel": "orders"})
            frame = await c.ask({"type": "subscribe", "channel": "risk"})
            assert (frame["type"], frame["channel"]) == ("subscribed", "risk"), "nothing is said of an unknown one"
            r.risk_event(1)
            frame = await c.next()
            assert frame["channel"] == "risk" and frame["data"][0]["risk_score"] == 1.0
            frame = await c.ask({"type": "unsubscribe", "channel": "risk"})
            assert (frame["type"], frame["channel"]) == ("unsubscribed", "risk")
            r.risk_event(2)
            frame = await c.ask({"type": "dance"})
            assert (frame["type"], frame["code"]) == ("error", "INVALID_PARAMETER")
            assert (await c.ask("{x"))["code"] == "INVALID_FRAME"
        async with plain(r.front, "/ws?dialect=dashboard&channels=trades") as c:
            assert (await c.next())["code"] == "NOT_SUPPORTED"

    with rig(shm) as r:
        run(r, go)


def test_critical_alerts_have_their_own_frame(shm):
    async def go(r):
        async with plain(r.front, "/ws/alerts") as c:
            await c.ask(AUTH)
            assert (await c.next())["type"] == "subscribed"
            r.alert("a-0")
            await c.next()
            for n in range(1, 4):
                r.alert(f"a-{n}", "CRITICAL" if n == 2 else "LOW")
            seen = []
            while len(seen) < 3:
                frame = await c.next()
                seen += [(one["alert_id"], frame["priority"], len(frame["data"])) for one in frame["data"]]
            assert [one[:2] for one in seen] == [("a-1", "normal"), ("a-2", "high"), ("a-3", "normal")]
            assert seen[1][2] == 1

    with rig(shm) as r:
        run(r, go)


def test_filters_merge_and_are_applied_to_each_record(shm):
    async def go(r):
        async with plain(r.front, "/ws/fills") as c:
            await c.ask(AUTH)
            await c.next()
            frame = await c.ask({"type": "filter", "filters": {"symbol": "SOLUSDT"}})
            assert frame["type"] == "filter_set" and frame["filters"] == {"symbol": "SOLUSDT"}
            frame = await c.ask({"type": "filter", "filters": {"side": "SELL"}})
            assert frame["filters"] == {"symbol": "SOLUSDT", "side": "SELL"}
            r.fill(1)
            r.fill(2, side="SELL", symbol="BTCUSDT")
            r.fill(3, side="SELL")
            assert [one["fill_id"] for one in (await c.next())["data"]] == ["f-3"]
            frame = await c.ask({"type": "filter", "filters": {"side": None}})
            assert frame["filters"] == {"symbol": "SOLUSDT"}
            r.fill(4)
            assert [one["fill_id"] for one in (await c.next())["data"]] == ["f-4"]

    with rig(shm) as r:
        run(r, go)


def test_filters_compare_numbers_as_numbers_and_symbols_in_any_form(shm):
    async def go(r):
        async with plain(r.front, "/ws/fills") as c:
            await c.ask(AUTH)
            await c.next()
            for filters in ({"price": 100}, {"price": "100.00"}, {"price": None, "symbol": "sol-usdt"}):
                await c.ask({"type": "filter", "filters": filters})
                r.fill(99, symbol="ETHUSDT")
                r.fill(100)
                (record,) = (await c.until("data"))["data"]
                assert (record["symbol"], record["price"]) == ("SOLUSDT", 100.0)

    with rig(shm) as r:
        run(r, go)


@pytest.mark.parametrize("wanted", [2.5, "2.5", "2.50", [1, 2.5]])
@pytest.mark.parametrize("told", [2.5, "2.5", "2.50"])
def test_a_number_in_a_filter_is_the_same_in_every_form(wanted, told):
    filters = read_filters({"quantity": wanted})
    assert filters is not None and passes(filters, {"quantity": told}) and not passes(filters, {"quantity": 2.05})


def test_texts_in_a_filter_that_look_like_numbers_stay_texts():
    filters = read_filters({"trade_id": "0101"})
    assert filters is not None and not passes(filters, {"trade_id": "101"})
    for odd in (float("inf"), float("nan"), 1e308, -0.0, 10**400, True, ""):
        assert read_filters({"price": odd})


def test_a_fill_that_was_said_before_is_not_said_again(shm):
    async def go(r):
        async with plain(r.front, "/ws/fills") as c:
            await c.ask(AUTH)
            await c.next()
            r.fill(1)
            assert (await c.next())["data"][0]["fill_id"] == "f-1"
            r.fill(1, flags=Flag.REPEATED)
            r.fill(2)
            assert (await c.next())["data"][0]["fill_id"] == "f-2"

    with rig(shm) as r:
        run(r, go)


def test_a_stream_that_was_made_anew_is_told_from_its_beginning(shm):
    async def go(r):
        r.fill(1)
        async with plain(r.front, "/ws/fills?dialect=dashboard") as c:
            await c.until("subscribed")
            r.remake_fills()
            seen: list[str] = []
            for n in range(7, 10):
                r.fill(n)
                await asyncio.sleep(0.3)
            while len(seen) < 3:
                seen += [one["fill_id"] for one in (await c.until("data"))["data"]]
            assert seen == ["f-7", "f-8", "f-9"]

    with rig(shm) as r:
        run(r, go)


def test_pnl_and_positions_are_arrays_of_records(shm):
    async def go(r):
        r.pnl("acct-7", 4.0)
        r.position("acct-7", -3)
        async with plain(r.front, "/ws/pnl") as c:
            await c.ask(AUTH)
            await c.next()
            frame = await c.next()
            (record,) = frame["data"]
            assert frame["channel"] == "pnl" and (record["symbol"], record["total_pnl"]) == ("SOLUSDT", 4.0)
            await c.ask({"type": "subscribe", "channel": "positions"})
            (record,) = (await c.next())["data"]
            assert (record["position_qty"], record["position_side"], record["symbol"]) == (-3.0, "SHORT", "SOLUSDT")
            r.position("acct-7", 0)
            frame = await c.next()
            assert frame["channel"] == "positions" and frame["data"][0]["position_qty"] == 0.0

    with rig(shm, positions_interval_s=0.2) as r:
        run(r, go)
