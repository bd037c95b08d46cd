"""The desk's channels on a whole front: the same figures as over REST, from the same streams."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

from websockets.asyncio.client import connect

from tickring.codecs.desk.canonical import Fill
from tickring.codecs.desk.money import UNIT
from tickring.ringbuf import make_bell

from ..actors.front_rig import DEADLINE_S, FrontThread
from .desk_rig import Portfolio, Topic


def test_pnl_and_fills_are_told_as_rest_tells_them(tmp_path: Path) -> None:
    bell = make_bell()
    portfolio = Portfolio(tmp_path, doorbells=[bell])
    fills = Topic(tmp_path, "exec.reports.v1", doorbells=[bell])

    async def go(front: FrontThread) -> None:
        async def receive(ws, kind: str):
            while True:
                frame = json.loads(await asyncio.wait_for(ws.recv(), DEADLINE_S))
                if frame["type"] == kind:
                    return frame

        portfolio.pnl("default", realized_pnl=7 * UNIT, total_pnl=7 * UNIT, fill_count=2)
        async with connect(f"ws://127.0.0.1:{front.port}/ws/pnl") as ws:
            data = (await receive(ws, "pnl_update"))["data"]
            told = json.loads(await asyncio.to_thread(lambda: front.get("/api/pnl/realtime").body))
            assert data["total_pnl"] == told["total_pnl"] == 7.0
            assert data["trade_count"] == 2
        async with connect(f"ws://127.0.0.1:{front.port}/ws/fills?dialect=v1") as ws:
            await receive(ws, "subscribed")
            fills.fill(Fill(
                fill_id="f-1", symbol="SOLUSDT", side="BUY", quantity=UNIT, price=3 * UNIT, timestamp=10**18,
                strategy_id="dipmaster", account_id="default", venue="binance",
            ))  # fmt: skip
            update = await receive(ws, "update")
            assert (update["channel"], update["data"]["price"]) == ("fills.default", "3")

    try:
        with FrontThread(tmp_path, bell=bell) as front:
            asyncio.run(go(front))
    finally:
        portfolio.close()
        fills.close()
        os.close(bell)
