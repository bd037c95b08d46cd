"""The desk's channels in `v1`: snapshots, numbers, resume, states, encodings, who may see what."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tickring.actors.alerts.book import Entry
from tickring.actors.alerts.store import FOLDER, Store
from tickring.actors.front.ws import Identity
from tickring.codecs.desk.money import UNIT
from tickring.codecs.record import Flag

from ..actors.ws_harness import Client, client, eventually, narrow_socket
from .ws_rig import NOW, plain, rig, run

FILLS, ALERTS = "fills.acct-7", "alerts.acct-7"


def test_fills_begin_with_the_last_fifty_and_go_on_one_by_one(shm):
    async def go(r):
        for n in range(1, 61):
            r.fill(n)
        async with client(r.front) as c:
            reply = await c.subscribe({"channel": "fills", "account_id": "acct-7"})
            assert reply["channels"] == [{"channel": FILLS, "epoch": c.epochs[FILLS], "seq": 60, "resumed": False}]
            snapshot = await c.until("snapshot")
            assert [one["seq"] for one in snapshot["data"]] == list(range(11, 61))
            r.fill(61, side="SELL", quantity=5 * 10**11 * UNIT)
            update = await c.until("update")
            assert (update["seq"], update["ts"]) == (61, NOW // 10**6 + 61)
            assert update["data"] == {
                "ts": NOW // 10**6 + 61, "seq": 61, "fill_id": "f-61", "trade_id": "t-61", "order_id": "o-61",
                "symbol": "SOLUSDT", "side": "SELL", "quantity": "500000000000", "price": "61", "commission": "0.01",
                "commission_asset": "USDT", "timestamp": NOW // 10**6 + 61, "strategy_id": "dipmaster",
                "account_id": "acct-7", "venue": "binance",
            }  # fmt: skip
            r.fill(61, flags=Flag.REPEATED)
            assert (await c.until("update"))["data"]["repeated"] is True

    with rig(shm) as r:
        run(r, go)


def test_a_kind_alone_means_all_accounts_and_those_that_come_later(shm):
    async def go(r):
        r.fill(1, "acct-1")
        r.fill(2, "acct-2")
        async with client(r.front) as c:
            reply = await c.subscribe("fills", "fills.acct-9")
            assert [one["channel"] for one in reply["channels"]] == ["fills.acct-1", "fills.acct-2"]
            assert "errors" not in reply
            for n in range(3):
                r.fill(n, "acct-3")
                r.fill(n, "acct-9")
            await c.until_seq("fills.acct-3", 3)
            await c.until_seq("fills.acct-9", 3)
            assert sorted(c.records["fills.acct-3"]) == [1, 2, 3], "from its first one, however late we looked"
            gone = await c.ask(op="unsubscribe", channels=["fills"])
            assert len(gone["channels"]) == 4 and "errors" not in gone
            assert (await c.ask(op="list"))["channels"] == []

    with rig(shm) as r:
        run(r, go)


def test_an_account_that_was_unsubscribed_stays_so_when_others_come(shm):
    async def go(r):
        for n in range(5):
            r.fill(n, "A")
            r.fill(n, "B")
        async with client(r.front) as c:
            await c.subscribe({"channel": "fills", "snapshot": False})
            for name in ("fills.A", "fills.D"):  # of one of them there is nothing yet
                gone = await c.ask(op="unsubscribe", channels=[name])
                assert "errors" not in gone
            for account in "ACD":
                r.fill(9, account)
            await c.until_seq("fills.C", 1)
            r.fill(9, "E")
            await c.until_seq("fills.E", 1)
            assert c.records.keys() == {"fills.C", "fills.E"}
            reply = await c.subscribe("fills")
            names = {one["channel"] for one in reply["channels"]}
            assert names == {f"fills.{account}" for account in "ABCDE"}, "all again means all"

    with rig(shm) as r:
        run(r, go)


def test_filters_hold_for_accounts_that_come_later(shm):
    async def go(r):
        r.fill(1, "A")
        async with client(r.front) as c:
            c.loose = frozenset(f"fills.{account}" for account in "ABCDE")
            await c.subscribe({"channel": "fills", "snapshot": False, "filters": {"symbol": "ETHUSDT"}})
            await c.subscribe({"channel": "fills", "snapshot": False, "filters": {"symbol": "SOLUSDT"}})
            await c.subscribe({"channel": "fills.D", "snapshot": False, "filters": {"symbol": "XRPUSDT"}})
            for account in "BD":
                for n, symbol in enumerate(("ETHUSDT", "SOLUSDT", "XRPUSDT")):
                    r.fill(n, account, symbol=symbol)
            await c.until_seq("fills.D", 3)
            await c.until_seq("fills.B", 2)
            assert (await c.ask(op="filter", filters={"symbol": "BTCUSDT"}))["type"] == "filter_set"
            for n, symbol in enumerate(("ETHUSDT", "SOLUSDT", "XRPUSDT", "BTCUSDT")):
                r.fill(n, "C", symbol=symbol)
            await c.until_seq("fills.C", 4)
            seen = {name: [one["symbol"] for one in records.values()] for name, records in c.records.items()}
            assert seen == {"fills.B": ["SOLUSDT"], "fills.D": ["XRPUSDT"], "fills.C": ["BTCUSDT"]}

    with rig(shm) as r:
        run(r, go)


def test_a_filter_for_all_channels_is_not_for_those_without_a_symbol(shm):
    async def go(r):
        r.fill(1)
        r.risk_event(1)
        r.health_event(1)
        async with client(r.front) as c:
            await c.subscribe("fills", "risk", "health", "system")
            reply = await c.ask(op="filter", filters={"symbol": "ETHUSDT"})
            assert reply["channels"] == [FILLS]
            r.risk_event(2)
            await c.until_seq("risk.acct-7", 2)
            reply = await c.ask(op="filter", channel="risk", filters={"risk_score": 4.0})
            assert reply["channels"] == ["risk.acct-7"]
            c.loose = frozenset(("risk.acct-7",))
            for n in range(3, 6):
                r.risk_event(n)
            await c.until_seq("risk.acct-7", 4)
            assert [seq for seq in c.records["risk.acct-7"] if seq > 1] == [2, 4]
            reply = await c.ask(op="filter", filters={})
            assert len(reply["channels"]) == 4, "what no filter is left of"

    with rig(shm) as r:
        run(r, go)


def test_alerts_begin_with_those_that_are_active(shm):
    async def go(r):
        r.alert("a-1")
        r.alert("a-2", "CRITICAL")
        r.alert("a-1", resolved=True, status="RESOLVED")
        async with client(r.front) as c:
            await c.subscribe("alerts")
            snapshot = await c.until("snapshot")
            assert snapshot["seq"] == 3
            assert [one["alert_id"] for one in snapshot["data"]] == ["a-2"]
            assert snapshot["data"][0]["context"] == {"limit": 100}
            r.alert("a-3")
            assert (await c.until("update"))["data"]["alert_id"] == "a-3"

    with rig(shm) as r:
        run(r, go)


def test_alerts_that_were_told_before_the_ring_goes_back_are_among_the_active(shm):
    async def go(r):
        kept = Store(r.folder / FOLDER)
        r.alert("over")
        for alert in (r.alert("old"), r.alert("other", account="acct-8"), r.alert("over", resolved=True)):
            kept.put(Entry(alert=alert, first_ns=1, last_ns=1))
        kept.close()
        for n in range(40):
            r.alert("flapping", resolved=n % 2 == 0)
        async with client(r.front) as c:
            await c.subscribe("alerts.acct-7")
            snapshot = await c.until("snapshot")
            assert [(one["alert_id"], one["seq"]) for one in snapshot["data"]] == [("old", 0), ("flapping", 43)]
            r.alert("new")
            assert (await c.until("update"))["data"]["alert_id"] == "new"

    with rig(shm, options={"capacity": 16}) as r:
        run(r, go)


def test_risk_health_and_performance_show_their_newest_event(shm):
    async def go(r):
        for n in (1, 2):
            r.risk_event(n)
            r.health_event(n)
            r.performance_event(n)
        async with client(r.front) as c:
            await c.subscribe("risk", "health", "performance")
            shown = {}
            for _ in range(3):
                snapshot = await c.until("snapshot")
                shown[snapshot["channel"]] = snapshot["data"]
            assert shown["risk.acct-7"]["var_1d"] == "2" and shown["risk.acct-7"]["max_drawdown"] == 0.018
            assert shown["health.default"]["components"] == [{"name": "api", "status": "healthy", "cpu_usage": 1.5}]
            assert shown["performance.acct-7"]["total_trades"] == 2
            r.risk_event(3)
            update = await c.until("update")
            assert (update["channel"], update["seq"], update["data"]["risk_score"]) == ("risk.acct-7", 3, 3.0)

    with rig(shm) as r:
        run(r, go)


def test_resume_across_a_restart_of_the_worker_brings_every_fill_once(shm):
    async def go(r):
        for n in range(1, 101):
            r.fill(n)
        async with client(r.front) as c:
            await c.subscribe(FILLS)
            await c.until("snapshot")
            epoch = c.epochs[FILLS]
        r.restart()
        for n in range(101, 301):
            r.fill(n)
        async with client(r.front) as c:
            wanted = {"channel": "fills", "account_id": "acct-7", "from_seq": 100, "epoch": epoch}
            reply = await c.subscribe(wanted)
            assert reply["channels"][0]["resumed"] is True
            await c.until_seq(FILLS, 300)
            assert sorted(c.records[FILLS]) == list(range(101, 301))
            assert {one["fill_id"] for one in c.records[FILLS].values()} == {f"f-{n}" for n in range(101, 301)}
        async with client(r.front) as c:
            await c.subscribe({**wanted, "epoch": "other"})
            assert (await c.until("gap"))["reason"] == "epoch_changed"
            assert (await c.until("snapshot"))["seq"] == 300

    with rig(shm) as r:
        run(r, go)


def test_a_number_given_for_all_accounts_holds_back_nothing_of_those_that_have_fewer(shm):
    async def go(r):
        for n in range(20):
            r.fill(n, "A")
        for n in range(5):
            r.fill(n, "B")
        async with client(r.front) as c:
            reply = await c.subscribe({"channel": "fills", "from_seq": 20})
            assert [one["resumed"] for one in reply["channels"]] == [True, False]
            gap = await c.until("gap")
            assert (gap["channel"], gap["from_seq"], gap["to_seq"]) == ("fills.B", 1, 5)
            assert len((await c.until("snapshot"))["data"]) == 5
            for n in range(5, 20):
                r.fill(n, "B")
            await c.until_seq("fills.B", 20)
            assert sorted(c.records["fills.B"]) == list(range(6, 21))

    with rig(shm) as r:
        run(r, go)


def test_a_number_without_an_epoch_holds_back_nothing_of_a_stream_that_was_made_anew(shm):
    async def go(r):
        r.fill(0)
        async with client(r.front) as c:
            reply = await c.subscribe({"channel": FILLS, "from_seq": 30})
            assert reply["channels"][0]["resumed"] is False
            assert (await c.until("snapshot"))["seq"] == 1
            r.fill(1)
            await c.until_seq(FILLS, 2)
            epoch = c.epochs[FILLS]
        async with client(r.front) as c:
            reply = await c.subscribe({"channel": FILLS, "from_seq": 3, "epoch": epoch})
            assert reply["channels"][0]["resumed"] is True, "another worker has shown it one more"
            r.fill(2)
            r.fill(3)
            await c.until_seq(FILLS, 4)
            assert sorted(c.records[FILLS]) == [4]

    with rig(shm) as r:
        run(r, go)


def test_two_workers_give_the_same_numbers(shm):
    async def go(r):
        r.fill(1)
        async with client(r.fronts[0]) as a, client(r.fronts[1]) as b:
            for c in (a, b):
                await c.subscribe("fills", "alerts", "pnl")
                await c.until("snapshot")
            for n in range(2, 40):
                r.fill(n)
                r.alert(f"a-{n}")
            for c in (a, b):
                await c.until_seq(FILLS, 39)
                await c.until_seq(ALERTS, 38)
            r.pnl("acct-7", 7.0)
            frames = []
            for c in (a, b):
                seen = [frame for frame in c.frames if frame.get("channel") == "pnl.acct-7" and "seq" in frame]
                frames.append(seen[0] if seen else await c.until(lambda f: f.get("channel") == "pnl.acct-7"))
            assert frames[0]["seq"] == frames[1]["seq"] == 1
            assert a.records[FILLS] == b.records[FILLS] and a.records[ALERTS] == b.records[ALERTS]
            assert a.epochs[FILLS] == b.epochs[FILLS]

    with rig(shm, fronts=2, pnl_interval_s=0.3) as r:
        run(r, go)


def test_pnl_is_told_when_it_moved_enough(shm):
    async def go(r):
        r.pnl("acct-7", 10.0)
        async with client(r.front) as c:
            reply = await c.subscribe("pnl")
            name = reply["channels"][0]["channel"]
            assert name == "pnl.acct-7" and reply["channels"][0]["seq"] == 1
            data = (await c.until("snapshot"))["data"]
            assert data["total_pnl"] == "10" and data["daily_change"] == "9" and data["trade_count"] == 1
            assert data["by_symbol"]["SOLUSDT"]["realized_pnl"] == "10"
            r.pnl("acct-7", 10.005)
            await asyncio.sleep(0.5)
            r.pnl("acct-7", 10.02)
            update = await c.until("update")
            assert (update["seq"], update["conflated"], update["data"]["total_pnl"]) == (3, True, "10.02")
            r.pnl("acct-7", 10.02, fills=2)
            assert (await c.until("update"))["data"]["trade_count"] == 2

    with rig(shm, pnl_interval_s=0.2) as r:
        run(r, go)


def test_positions_are_told_with_their_number_exposure_or_pnl(shm):
    async def go(r):
        r.pnl("acct-7", 1.0)
        r.position("acct-7", 10)
        async with client(r.front) as c:
            await c.subscribe("positions")
            data = (await c.until("snapshot"))["data"]
            assert data["total_count"] == 1 and data["total_exposure"] == "1000" and data["total_unrealized_pnl"] == "5"
            assert data["positions"][0]["quantity"] == "10"
            r.position("acct-7", 10, 100.05)  # 0.5 more exposure
            await asyncio.sleep(0.5)
            r.position("acct-7", 0)
            data = (await c.until("update"))["data"]
            assert data["seq"] == 3 and data["total_count"] == 0 and data["positions"] == []

    with rig(shm, positions_interval_s=0.2) as r:
        run(r, go)


def test_a_state_resumes_with_its_newest_value(shm):
    async def go(r):
        r.pnl("acct-7", 1.0)
        async with client(r.front) as c:
            await c.subscribe("pnl")
            epoch = c.epochs["pnl.acct-7"]
        r.pnl("acct-7", 2.0)
        r.pnl("acct-7", 3.0)
        async with client(r.front) as c:
            reply = await c.subscribe({"channel": "pnl.acct-7", "from_seq": 1, "epoch": epoch})
            assert reply["channels"][0]["resumed"] is True
            update = await c.until("update")
            assert (update["seq"], update["data"]["total_pnl"], update["conflated"]) == (3, "3", True)

    with rig(shm) as r:
        run(r, go)


def test_a_state_is_shown_to_one_whose_number_may_be_of_another_stream(shm):
    async def go(r):
        r.pnl("acct-7", 1.0)
        for wanted in ({"channel": "pnl.acct-7", "from_seq": 1}, {"channel": "pnl", "from_seq": 1}):
            async with client(r.front) as c:
                await c.subscribe(wanted)
                update = await c.until("update")
                assert (update["seq"], update["data"]["total_pnl"]) == (1, "1")

    with rig(shm) as r:
        run(r, go)


def test_a_snapshot_is_shown_of_the_one_channel_that_fits(shm):
    async def go(r):
        r.pnl("A", 1.0)
        async with client(r.front) as c:
            assert (await c.ask(op="snapshot", channel="pnl"))["channel"] == "pnl.A"
            assert (await c.ask(op="snapshot", channel="system"))["channel"] == "system"
            assert (await c.ask(op="snapshot", channel="fills"))["code"] == "NOT_FOUND"
            r.pnl("B", 2.0)
            refused = await c.ask(op="snapshot", channel="pnl")
            assert refused["code"] == "INVALID_PARAMETER" and "pnl.A, pnl.B" in refused["message"]
            for wanted in ({"channel": {"channel": "pnl", "account_id": "B"}}, {"channel": "pnl", "account_id": "B"}):
                assert (await c.ask(op="snapshot", **wanted))["data"]["total_pnl"] == "2"
            assert (await c.ask(op="snapshot", channel="pnl", account_id=7))["code"] == "INVALID_PARAMETER"

    with rig(shm) as r:
        run(r, go)


def test_msgpack_has_the_same_members(shm):
    async def go(r):
        r.alert("a-1")
        async with client(r.front, "/ws/alerts?encoding=msgpack&dialect=v1") as c:
            await c.until("subscribed")
            snapshot = await c.until("snapshot")
            assert snapshot["data"][0]["context"] == {"limit": 100} and snapshot["data"][0]["ts"] == NOW // 10**6
        async with client(r.front, "/ws/v1", subprotocols=["tickring.v1.msgpack"]) as c:
            await c.ws.send(msgspec.msgpack.encode({"op": "subscribe", "id": 1, "channels": ["alerts"]}))
            assert (await c.until("snapshot"))["data"][0]["alert_id"] == "a-1"

    with rig(shm) as r:
        run(r, go)


def test_slow_consumer_of_a_protected_channel_loses_nothing(shm):
    async def go(r):
        async with client(r.front, sock=narrow_socket(r.front), max_queue=1) as c:
            r.fill(0)
            await c.subscribe(FILLS)
            await c.until("snapshot")
            for n in range(1, 3001):
                r.fill(n, symbol="SOLUSDT" * 20)
                if n % 50 == 0:
                    await asyncio.sleep(0.002)
            await eventually(lambda: r.front.metric("tickring_ws_rows_total") >= 3000, "everything was handed out")
            await c.until_seq(FILLS, 3001)
            assert sorted(c.records[FILLS]) == list(range(2, 3002)) and not c.gaps
            r.fill(3001)
            await c.until_seq(FILLS, 3002)
        await eventually(lambda: r.front.metric("tickring_ws_read_back_total") > 0, "the queue was full")
        assert r.front.metric("tickring_ws_dropped_frames_total") == 0

    # the queue holds less than a tenth of it, in however few frames it comes
    limits = {"queue_bytes_max": 64 << 10, "unsent_bytes_max": 4096, "slow_close_s": 300.0}
    with rig(shm, options={"texts_bytes": 1 << 23}, **limits) as r:
        run(r, go)


def test_a_stream_that_was_made_anew_begins_a_new_epoch(shm):
    async def go(r):
        r.fill(1)
        async with client(r.front) as c:
            await c.subscribe(FILLS)
            await c.until("snapshot")
            epoch = c.epochs[FILLS]
            r.remake_fills()
            for n in (7, 8):
                r.fill(n)
            gap = await c.until("gap")
            assert gap["reason"] == "epoch_changed" and gap["epoch"] != epoch
            snapshot = await c.until("snapshot")
            assert snapshot["data"][-1]["fill_id"] in ("f-7", "f-8") and snapshot["epoch"] == gap["epoch"]
            r.fill(9)
            await c.until_seq(FILLS, 3)

    with rig(shm) as r:
        run(r, go)


def test_no_ring_is_followed_for_nobody(shm):
    async def go(r):
        r.fill(1)
        async with client(r.front) as c:
            await c.subscribe("fills", "alerts", "pnl")
            await eventually(lambda: r.front.metric("tickring_ws_rings_followed") == 1, "the ring of the fills")
            await c.ask(op="unsubscribe", channels=["fills", "alerts", "pnl"])
            await eventually(lambda: r.front.metric("tickring_ws_rings_followed") == 0, "nobody reads")

    with rig(shm) as r:
        run(r, go)


def test_texts_that_were_overwritten_are_named_by_a_gap(shm):
    async def go(r):
        for n in range(600):
            r.fill(n)
        async with client(r.front) as c:
            Client.loose = frozenset((FILLS,))
            try:
                await c.subscribe({"channel": FILLS, "from_seq": 0})
                gap = await c.until("gap")
                assert gap["from_seq"] == 1 and gap["reason"] == "resume_expired"
                await c.until_seq(FILLS, 600)
                assert sorted(c.records[FILLS]) == list(range(gap["to_seq"] + 1, 601))
            finally:
                Client.loose = frozenset()

    with rig(shm, options={"texts_bytes": 1 << 16}) as r:
        run(r, go)


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        ({"channel": "fills", "symbol": "SOLUSDT"}, "INVALID_PARAMETER"),
        ({"channel": "fills", "conflate": True}, "INVALID_PARAMETER"),
        ({"channel": "pnl", "filters": {"symbol": "SOLUSDT"}}, "INVALID_PARAMETER"),
        ("orders", "NOT_SUPPORTED"),
    ],
)
def test_a_channel_that_cannot_be_had_like_that_is_refused(shm, wanted, code):
    async def go(r):
        async with client(r.front) as c:
            reply = await c.subscribe(wanted)
            assert [one["code"] for one in reply["errors"]] == [code]

    with rig(shm) as r:
        run(r, go)


def test_filters_choose_and_do_not_renumber(shm):
    async def go(r):
        r.fill(0)
        async with client(r.front) as c:
            Client.loose = frozenset((FILLS,))
            try:
                await c.subscribe({"channel": FILLS, "filters": {"side": "sell"}})
                await c.until("snapshot")  # what is published before it would be in it
                for n in range(1, 7):
                    r.fill(n, side="SELL" if n % 3 == 0 else "BUY")
                await c.until_seq(FILLS, 7)
                assert sorted(c.records[FILLS]) == [4, 7]
            finally:
                Client.loose = frozenset()

    with rig(shm) as r:
        run(r, go)


class TwoUsers:
    """One sees an account, one sees all, one may not read."""

    required = True

    async def identify(self, token: str) -> Identity | None:
        return {
            "one": Identity("one", ("read",), frozenset(("acct-1",))), "all": Identity("all", ("read",)),
            "none": Identity("none", ()),
        }.get(token)  # fmt: skip


def test_a_client_has_the_accounts_that_it_may_see(shm):
    async def go(r):
        r.fill(1, "acct-1")
        r.fill(2, "acct-2")
        r.health_event(1)
        async with client(r.front, "/ws/v1?token=one") as c:
            await c.until("auth_success")
            reply = await c.subscribe("fills", "fills.acct-2", "health")
            assert [one["channel"] for one in reply["channels"]] == ["fills.acct-1", "health.default"]
            assert [one["code"] for one in reply["errors"]] == ["FORBIDDEN"]
        async with client(r.front, "/ws/v1?token=none") as c:
            await c.until("auth_success")
            reply = await c.subscribe("fills", "health")
            assert [one["code"] for one in reply["errors"]] == ["FORBIDDEN", "FORBIDDEN"]

    with rig(shm, authenticator=TwoUsers()) as r:
        run(r, go)


def test_path_of_market_data_has_no_channel_of_the_desk(shm):
    async def go(r):
        async with plain(r.front, "/ws/market?channels=alerts") as c:
            reply = await c.until("subscribed")
            assert (reply["channels"], reply["errors"][0]["code"]) == ([], "NOT_SUPPORTED")
            await c.send({"op": "subscribe", "channels": ["pnl", "system", "fills.acct-7"]})
            reply = await c.until("subscribed")
            assert reply["channels"] == [] and len(reply["errors"]) == 3
            assert "use /ws/v1" in reply["errors"][0]["message"]

    with rig(shm) as r:
        r.fill(1)
        run(r, go)
