"""The dialect of DipMaster's API, frame by frame."""

from __future__ import annotations

from .ws_rig import WHEN, plain, rig, run

API = "/ws?dialect=api"
FRAME = {"type", "timestamp", "data"}


def test_a_path_is_confirmed_and_pings_are_answered(shm):
    async def go(r):
        async with plain(r.front, "/ws/health?dialect=api") as c:
            frame = await c.next()
            assert set(frame) == FRAME and frame["type"] == "subscription_confirmed"
            assert frame["data"] == {"subscription_type": "health", "status": "subscribed"}
            pong = await c.ask({"type": "ping"})
            assert set(pong) == FRAME and (pong["type"], pong["data"]) == ("pong", {})

    with rig(shm) as r:
        run(r, go)


def test_subscribe_and_unsubscribe_are_confirmed_and_unknown_types_refused(shm):
    async def go(r):
        async with plain(r.front, API) as c:
            for member in ("subscription_type", "channel"):
                frame = await c.ask({"type": "subscribe", member: "alerts"})
                assert frame["type"] == "subscription_confirmed"
                frame = await c.ask({"type": "unsubscribe", member: "alerts"})
                assert frame["type"] == "subscription_cancelled"
                assert frame["data"] == {"subscription_type": "alerts", "status": "unsubscribed"}
            r.alert("a-1")
            for wrong in ("fills", "risk", "", "x" * 200):
                frame = await c.ask({"type": "subscribe", "subscription_type": wrong})
                assert frame["type"] == "error" and frame["data"]["error"] == "invalid_subscription_type"
                assert set(frame["data"]) == {"error", "message"}
            assert (await c.ask("{not json"))["data"]["error"] == "invalid_frame"
            assert (await c.ask({"type": "dance"}))["data"]["error"] == "invalid_parameter"

    with rig(shm) as r:
        run(r, go)


def test_alerts_come_as_they_happen_and_critical_ones_twice(shm):
    async def go(r):
        r.alert("old")
        async with plain(r.front, API) as c:
            await c.ask({"type": "subscribe", "subscription_type": "alerts"})
            r.alert("a-1")
            frame = await c.next()
            assert frame["type"] == "alert" and frame["timestamp"].endswith("Z")
            data = {
                "alert_id": "a-1", "severity": "HIGH", "code": "VAR_LIMIT", "title": "VaR",
                "message": "over the limit", "source": "risk-engine", "symbol": "SOLUSDT", "timestamp": WHEN,
                "context": {"limit": 100}, "auto_resolved": False,
            }  # fmt: skip
            assert frame["data"].items() >= {**data, "timestamp": frame["data"]["timestamp"]}.items()
            r.alert("a-2", "CRITICAL")
            first, second = await c.next(), await c.next()
            assert (first["type"], second["type"]) == ("alert", "critical_alert")
            assert first["data"]["alert_id"] == "a-2"
            assert second["data"] == {**first["data"], "urgent": True, "requires_action": True}
            r.alert("a-2", "CRITICAL", resolved=True)
            assert (await c.next())["data"]["resolved"] is True
            r.alert("a-3", account="new-account")
            assert (await c.next())["data"]["alert_id"] == "a-3", "the first one of its account"

    with rig(shm) as r:
        run(r, go)


def test_pnl_is_that_of_all_accounts_in_numbers(shm):
    async def go(r):
        r.pnl("acct-1", 10.0, fills=3)
        r.pnl("acct-2", 5.5, fills=1, unrealized_pnl=25 * 10**6)
        async with plain(r.front, "/ws/pnl?dialect=api") as c:
            await c.until("subscription_confirmed")
            frame = await c.next()
            assert frame["type"] == "pnl_update"
            last_update = frame["data"].pop("last_update")
            assert last_update.endswith("Z")
            assert frame["data"] == {
                "total_realized_pnl": 15.5, "total_unrealized_pnl": 0.25, "total_pnl": 15.5, "total_commission": 0.0,
                "trade_count": 4, "daily_change": 13.5,
            }  # fmt: skip
            r.pnl("acct-1", 10.005, fills=3)
            await c.silent(0.5)
            r.pnl("acct-1", 10.011, fills=3)
            frame = await c.next()
            assert frame["data"]["total_pnl"] == 15.511 and frame["seq"] == 4

    with rig(shm, pnl_interval_s=0.2) as r:
        run(r, go)


def test_positions_of_a_symbol_are_one(shm):
    async def go(r):
        r.pnl("acct-1", 1.0)
        r.position("acct-1", 10)
        r.position("acct-2", -4)
        async with plain(r.front, "/ws/positions?dialect=api") as c:
            await c.until("subscription_confirmed")
            data = (await c.until("positions_update"))["data"]
            (one,) = data["positions"]
            assert set(one) == {
                "symbol", "quantity", "avg_price", "market_value", "unrealized_pnl", "side", "last_update",
            }  # fmt: skip
            assert (one["symbol"], one["quantity"], one["market_value"], one["side"]) == ("SOLUSDT", 6.0, 600.0, "LONG")
            assert data["total_count"] == 1 and data["total_exposure"] == 600.0
            assert data["total_unrealized_pnl"] == 10.0 and data["update_time"].endswith("Z")

    with rig(shm, positions_interval_s=0.2) as r:
        run(r, go)


def test_health_comes_with_each_event_and_heartbeats_in_between(shm):
    async def go(r):
        r.health_event(1)
        async with plain(r.front, "/ws/health?dialect=api") as c:
            await c.until("subscription_confirmed")
            assert (await c.until("health_update"))["data"]["daily_trades"] == 1
            r.health_event(2)
            data = (await c.until("health_update"))["data"]
            component = {
                "name": "api", "status": "healthy", "cpu_usage": 1.5, "memory_usage": 0.0, "error_rate": 0.0,
                "response_time_ms": 0.0,
            }  # fmt: skip
            assert data == {
                "overall_status": "healthy", "strategy_id": "dipmaster", "cpu_usage": 12.5, "memory_usage": 0.0,
                "active_connections": 0, "total_positions": 0, "daily_trades": 2, "daily_pnl": 1.5,
                "market_data_delay_ms": 0, "execution_delay_ms": 0, "components": [component], "timestamp": WHEN[:17]
                + data["timestamp"][17:],
            }  # fmt: skip
            r.health_event(3, strategy_id=None)
            assert (await c.until("health_update"))["data"]["strategy_id"] == "", "a text, as its clients expect"
            beat = await c.until("heartbeat")
            assert set(beat) == FRAME and beat["data"]["active_connections"] == 1
            assert beat["data"]["server_time"].endswith("Z") and beat["data"]["uptime_seconds"] > 0

    with rig(shm, heartbeat_s=1.0) as r:
        run(r, go)
