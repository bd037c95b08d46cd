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


def test_a_state_that_is_too_large_for_a_frame_comes_in_several(shm):
    async def go(r):
        r.pnl("acct-7", 1.0)
        names = [f"S{n:02}USDT" for n in range(10)]
        for name in names:
            r.position("acct-7", 10, symbol=name)
            r.portfolio.pnl("acct-7", symbol=name)

        async def parts(c, kind="snapshot"):
            frames = [await c.until(kind)]
            while not frames[-1]["final"]:
                frames.append(await c.until(kind))
            assert len({frame["seq"] for frame in frames}) == 1
            return frames

        async with (
            plain(r.front, "/ws/positions?dialect=v1") as v1,
            plain(r.front, "/ws/pnl?dialect=v1") as pnl,
            plain(r.front, "/ws/positions?dialect=dashboard") as dashboard,
            plain(r.front, "/ws/positions?dialect=api") as api,
        ):
            frames = await parts(v1)
            assert [len(frame["data"]["positions"]) for frame in frames] == [4, 4, 2]
            assert {frame["data"]["total_count"] for frame in frames} == {10}
            assert [one["symbol"] for frame in frames for one in frame["data"]["positions"]] == names
            assert [len(frame["data"]["by_symbol"]) for frame in await parts(pnl)] == [4, 4, 3]
            assert [len((await dashboard.until("data"))["data"]) for _ in range(3)] == [4, 4, 2]
            data = (await api.until("positions_update"))["data"]
            assert len(data["positions"]) == 10 and "omitted" not in data
            await after_a_look(0.5)
            for n in range(8):
                r.position("acct-7", 20 + n, symbol=f"T{n}USDT")
            while (data := (await api.until("positions_update"))["data"])["total_count"] < 18:
                pass
            assert (len(data["positions"]), data["omitted"]) == (16, 2)
            assert data["positions"][0]["symbol"] == "T7USDT", "the largest are shown"
            assert data["total_exposure"] == 10 * 1000.0 + sum(range(20, 28)) * 100.0
            while (frames := await parts(v1))[0]["data"]["total_count"] < 18:
                pass
            assert [len(frame["data"]["positions"]) for frame in frames] == [4, 4, 4, 4, 2]
            await v1.send({"op": "snapshot", "id": 5, "channel": "positions.acct-7"})
            assert [frame["id"] for frame in await parts(v1)] == [5] * 5

    with rig(shm, positions_interval_s=0.5, frame_bytes_max=4096, options={"keys_max": 64}) as r:
        run(r, go)
