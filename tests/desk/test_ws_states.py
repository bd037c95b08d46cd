"""PnL and positions in every dialect: what is worth a frame, to whom, and of what size."""

from __future__ import annotations

import asyncio
import time

from .ws_rig import plain, rig, run


def closed(r, account: str = "acct-7", symbol: str = "SOLUSDT") -> None:
    """As the portfolio closes a position."""
    r.portfolio.position(account, "dipmaster", "binance", symbol)


async def after_a_look(interval_s: float) -> None:
    """Wait until positions have just been looked at."""
    await asyncio.sleep(interval_s - time.time() % interval_s + 0.2)


def test_a_position_that_was_shown_to_one_who_came_late_is_closed_for_it_too(shm):
    """All others never heard of it: what they were told last is as true as before."""

    async def go(r):
        r.pnl("acct-7", 1.0)
        r.position("acct-7", 0)
        async with plain(r.front, "/ws/positions?dialect=v1") as early:
            await early.until("snapshot")
            await after_a_look(3)
            r.position("acct-7", 10)
            async with (
                plain(r.front, "/ws/positions?dialect=v1") as v1,
                plain(r.front, "/ws/positions?dialect=api") as api,
                plain(r.front, "/ws/positions?dialect=dashboard") as dashboard,
                plain(r.front, "/ws/v1") as asking,
            ):
                assert (await v1.until("snapshot"))["data"]["total_count"] == 1
                assert (await api.until("positions_update"))["data"]["total_count"] == 1
                assert (await dashboard.until("data"))["data"][0]["position_qty"] == 10
                await asking.send({"op": "subscribe", "channels": [{"channel": "positions", "snapshot": False}]})
                await asking.send({"op": "snapshot", "channel": "positions.acct-7"})
                assert (await asking.until("snapshot"))["data"]["total_count"] == 1
                closed(r)
                for one in (v1, asking):
                    assert (await one.until("update"))["data"]["positions"] == []
                assert (await api.until("positions_update"))["data"]["positions"] == []
                assert (await dashboard.until("data"))["data"][0]["position_qty"] == 0

    with rig(shm, positions_interval_s=3) as r:
        run(r, go)


def test_a_position_that_changed_its_side_is_told_in_every_dialect(shm):
    async def go(r):
        r.pnl("acct-7", 1.0)
        r.position("acct-7", 10)
        async with (
            plain(r.front, "/ws/positions?dialect=v1") as v1,
            plain(r.front, "/ws/positions?dialect=api") as api,
            plain(r.front, "/ws/positions?dialect=dashboard") as dashboard,
        ):
            assert (await v1.until("snapshot"))["data"]["positions"][0]["position_side"] == "LONG"
            assert (await api.until("positions_update"))["data"]["positions"][0]["side"] == "LONG"
            assert (await dashboard.until("data"))["data"][0]["position_qty"] == 10
            await after_a_look(0.5)
            r.position("acct-7", -10)
            assert (await v1.until("update"))["data"]["positions"][0]["position_side"] == "SHORT"
            assert (await api.until("positions_update"))["data"]["positions"][0]["side"] == "SHORT"
            assert (await dashboard.until("data"))["data"][0]["position_qty"] == -10

    with rig(shm, positions_interval_s=0.5) as r:
        run(r, go)


def test_a_closed_position_is_told_again_to_a_dashboard_that_may_have_missed_it(shm):
    """A client that reads slowly gets the newest frame alone, which others are not in the way of."""

    async def go(r):
        r.pnl("acct-7", 1.0)
        r.position("acct-7", 10, symbol="AAAUSDT")
        async with plain(r.front, "/ws/positions?dialect=dashboard") as c:
            await c.until("data")
            closed(r, symbol="AAAUSDT")
            assert [one["position_qty"] for one in (await c.until("data"))["data"]] == [0]
            await after_a_look(0.5)
            r.position("acct-7", 3, symbol="BBBUSDT")
            told = {one["symbol"]: one["position_qty"] for one in (await c.until("data"))["data"]}
            assert told == {"AAAUSDT": 0, "BBBUSDT": 3}

    with rig(shm, positions_interval_s=0.5) as r:
        run(r, go)
