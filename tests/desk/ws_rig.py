"""Front workers in processes of their own over the desk's streams made by hand, and clients of each dialect."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tickring.codecs.desk.canonical import Alert, Component, Event, Fill, Performance, Risk, SystemHealth
from tickring.codecs.desk.money import UNIT
from tickring.ringbuf import make_bell, prepare_folder

from ..actors.ws_harness import BELLS, DEADLINE_S, Front
from .desk_rig import Alerts, Portfolio, Topic

NOW = 1_741_080_000 * 10**9
WHEN = "2025-03-04T09:20:00.000Z"
EXECUTIONS, RISK, HEALTH = "exec.reports.v1", "risk.metrics.v1", "system.health.v1"
PERFORMANCE = "strategy.performance.v1"


class DeskRig:
    """Every producer of the desk, and front workers."""

    def __init__(self, shm: Path, fronts: int, authenticator: Any, limits: dict[str, Any], options: dict[str, Any]):
        self.folder = shm / "tickring-test"
        prepare_folder(self.folder)
        self.bells = [make_bell() for _ in range(BELLS)]
        self._authenticator, self._limits = authenticator, limits
        # before the producers: a child would keep their locks
        self.fronts = [Front(self.folder, self.bells, i, authenticator, **limits) for i in range(fronts)]
        shared = {"doorbells": self.bells, **options}
        self.fills = Topic(self.folder, EXECUTIONS, **shared)
        self._options = shared
        self.risk, self.health = Topic(self.folder, RISK, **shared), Topic(self.folder, HEALTH, **shared)
        self.performance = Topic(self.folder, PERFORMANCE, **shared)
        self.portfolio, self.alerts = Portfolio(self.folder, **shared), Alerts(self.folder, **shared)

    @property
    def front(self) -> Front:
        return self.fronts[0]

    def restart(self, index: int = 0) -> Front:
        """Another worker in the place of one that was killed."""
        self.fronts[index].close()
        self.fronts[index] = Front(
            self.folder, self.bells, index, self._authenticator, forget=self._close_producers, **self._limits
        )
        return self.fronts[index]

    def remake_fills(self) -> None:
        """As a daemon does whose configuration gives the stream another size."""
        self.fills.publish.clear()
        gc.collect()
        self.fills.close()
        for path in self.folder.glob(f"{self.fills.name}.*"):
            path.unlink()
        self.fills = Topic(self.folder, EXECUTIONS, **self._options)

    def _close_producers(self) -> None:
        for producer in (self.fills, self.risk, self.health, self.performance, self.portfolio, self.alerts):
            producer.publish.clear()  # they hold the mappings
            gc.collect()
            producer.close()

    def close(self) -> None:
        for front in self.fronts:
            front.close()
        self._close_producers()
        for bell in self.bells:
            os.close(bell)

    # -- events -------------------------------------------------------------------------------------------------

    def fill(self, n: int, account: str = "acct-7", **more: Any) -> None:
        flags = more.pop("flags", 0)
        values: dict[str, Any] = {
            "fill_id": f"f-{n}", "trade_id": f"t-{n}", "order_id": f"o-{n}", "symbol": "SOLUSDT", "side": "BUY",
            "quantity": 5 * UNIT // 2, "price": n * UNIT, "commission": UNIT // 100, "commission_asset": "USDT",
            "timestamp": NOW + n * 10**6, "strategy_id": "dipmaster", "account_id": account, "venue": "binance",
            **more,
        }  # fmt: skip
        self.fills.fill(Fill(**values), flags=flags)

    def alert(self, id: str, severity: str = "HIGH", account: str = "acct-7", **more: Any) -> Alert:
        values: dict[str, Any] = {
            "event_id": f"e-{id}", "timestamp": NOW, "variant": "api", "source": "risk-engine", "alert_id": id,
            "severity": severity, "code": "VAR_LIMIT", "title": "VaR", "message": "over the limit",
            "account_id": account, "symbol": "SOLUSDT", "context": '{"limit":100}', **more,
        }  # fmt: skip
        alert = Alert(**values)
        self.alerts.put(alert)
        return alert

    def say(self, topic: Topic, event: Event, account: str = "acct-7") -> None:
        topic.say(event, account)

    def risk_event(self, n: int, account: str = "acct-7") -> None:
        self.risk.say(
            Risk(
                event_id=f"r-{n}", timestamp=NOW + n, variant="api", strategy_id="dipmaster", account_id=account,
                risk_score=float(n), var_1d=n * UNIT, max_drawdown=0.018,
            ),
            account,
        )  # fmt: skip

    def health_event(self, n: int, **more: Any) -> None:
        values: dict[str, Any] = {
            "event_id": f"h-{n}", "timestamp": NOW, "variant": "api", "overall_status": "healthy",
            "strategy_id": "dipmaster", "total_cpu_usage": 12.5, "daily_trades": n, "daily_pnl": 3 * UNIT // 2,
            "components": [Component(name="api", status="healthy", cpu_usage=1.5)], **more,
        }  # fmt: skip
        self.health.say(SystemHealth(**values))

    def performance_event(self, n: int, account: str = "acct-7") -> None:
        self.performance.say(
            Performance(
                event_id=f"p-{n}", timestamp=NOW, variant="api", strategy_id="dipmaster", strategy_name="Dip",
                account_id=account, total_trades=n, winning_trades=n, losing_trades=0, win_rate=1.0,
                total_pnl=n * UNIT,
            ),
            account,
        )  # fmt: skip

    def pnl(self, account: str, realized: float, fills: int = 1, **more: int) -> None:
        units = round(realized * UNIT)
        values: dict[str, Any] = {
            "realized_pnl": units, "total_pnl": units, "fill_count": fills, "day_start_pnl": UNIT, **more,
        }  # fmt: skip
        self.portfolio.pnl(account, symbol="SOLUSDT", **values)
        self.portfolio.pnl(account, **values)

    def position(self, account: str, quantity: int, price: float = 100.0, symbol: str = "SOLUSDT") -> None:
        value = round(quantity * price * UNIT)
        self.portfolio.position(
            account, "dipmaster", "binance", symbol, quantity=quantity * UNIT, cost=value - 5 * UNIT,
            avg_price=round(price * UNIT), mark_price=round(price * UNIT), market_value=value, unrealized_pnl=5 * UNIT,
        )  # fmt: skip


@contextlib.contextmanager
def rig(
    shm: Path, *, fronts: int = 1, authenticator: Any = None, options: Any = None, **limits: Any
) -> Iterator[DeskRig]:
    """Producers and workers; everything is gone afterwards."""
    made = DeskRig(shm, fronts, authenticator, limits, options or {})
    try:
        yield made
    finally:
        made.close()


def run(made: DeskRig, coroutine: Callable[[DeskRig], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(coroutine(made))


class Plain:
    """A client that takes frames as they come."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws

    async def next(self) -> dict[str, Any]:
        return json.loads(await asyncio.wait_for(self.ws.recv(), DEADLINE_S))

    async def until(self, kind: str) -> dict[str, Any]:
        while (frame := await self.next())["type"] != kind:
            pass
        return frame

    async def send(self, frame: Any) -> None:
        await self.ws.send(frame if isinstance(frame, str) else json.dumps(frame))

    async def ask(self, frame: Any) -> dict[str, Any]:
        """Send, and read the next frame."""
        await self.send(frame)
        return await self.next()

    async def silent(self, seconds: float = 0.6) -> None:
        """Nothing comes for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                frame = await self.ws.recv()
                raise AssertionError(f"came: {frame!r}")

    async def closed(self) -> int | None:
        """Read until the server closes; returns the code."""
        end = time.monotonic() + DEADLINE_S
        with contextlib.suppress(ConnectionClosed):
            while time.monotonic() < end:
                await self.next()
        return self.ws.close_code


@contextlib.asynccontextmanager
async def plain(front: Front, path: str, **options: Any) -> AsyncIterator[Plain]:
    """A client that has been welcomed."""
    async with connect(front.url(path), max_size=None, **options) as ws:
        one = Plain(ws)
        assert (await one.next())["type"] == "welcome"
        yield one
