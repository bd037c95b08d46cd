"""What the desk's endpoints and channels of one worker share: its streams, sorted, and what is kept of its history."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

from ....codecs.desk.canonical import Event, Fill
from ....ringbuf import MetricsPage
from ...recent import Recent
from .alert_states import AlertStates
from .cache import QueryCache
from .config import DeskConfig
from .cursors import Identity
from .params import plain_symbol
from .portfolio import Portfolio
from .running import Totals
from .shelf import Shelf
from .stated import TOPIC as RISK
from .stated import StatedRisk
from .streams import DeskStreams

TOTALS_MAX = 512
LISTS_MAX = 16  # of up to 10,000 values each
TOTALS_AT_ONCE = 2  # questions to ClickHouse: more would make each slower. Connections are left beside `cache.AT_ONCE`


def fill_identity(fill: Fill) -> Identity:
    """A fill counts once, whichever variant brought it first."""
    return fill.account_id, fill.venue, fill.fill_id


def event_identity(event: Event) -> Identity:
    """An event counts once, however often it came."""
    return (event.event_id,)


def _fill_keys(fill: Fill) -> Iterable[Hashable]:
    symbol = plain_symbol(fill.symbol)
    return (fill.account_id,), (fill.account_id, symbol), ("*", symbol)


def _event_keys(event: Any) -> Iterable[Hashable]:
    """Of risk, alerts, health, performance: by account and by strategy, as far as they have them."""
    account, strategy = getattr(event, "account_id", None), getattr(event, "strategy_id", None)
    keys: list[Hashable] = []
    if account:
        keys.append((account,))
    if strategy:
        keys.append(("*", strategy))
    return keys


class Desk:
    """One worker's view. Shelves are made when they are first asked for, and again when their stream was.

    Args:
        wait_s: a request waits at most so long for what is worked out of history.
        data: the instance's data folder.
    """

    def __init__(
        self, folder: Path, page: MetricsPage, config: DeskConfig, wait_s: float = 2.0, data: Path | None = None
    ) -> None:
        self.streams = DeskStreams(folder, page)
        self.portfolio = Portfolio(self.streams)
        self.alerts = AlertStates(self.streams, data)
        turns = asyncio.Semaphore(TOTALS_AT_ONCE)
        self.totals = Totals(config.totals_keep_s, TOTALS_MAX, wait_s, turns)
        self.lists = Totals(config.totals_keep_s, LISTS_MAX, wait_s, turns)
        self.cache = QueryCache(page, config.cache_keep_s, config.cache_redis, wait_s=wait_s)
        self._shelves: dict[str, Shelf[Any]] = {}
        self.risk = StatedRisk(lambda: self.statements(RISK))

    def refresh(self) -> None:
        """Look for streams that came or went."""
        self.streams.refresh()

    def fills(self) -> Shelf[Fill] | None:
        """Fills by `(account,)`, `(account, plain symbol)` and `("*", plain symbol)`."""
        return self._shelf("fills", self.streams.fills(), _fill_keys, fill_identity)

    def statements(self, topic: str) -> Shelf[Any] | None:
        """Events of a topic by `(account,)` and `("*", strategy)`."""
        return self._shelf(topic, self.streams.statements(topic), _event_keys, event_identity)

    def active_alerts(self) -> int:
        """How many alerts are not resolved."""
        return len(self.alerts.active())

    def _shelf(self, name: str, recent: Recent[Any] | None, keys: Any, identity: Any) -> Shelf[Any] | None:
        if recent is None:
            return None
        shelf = self._shelves.get(name)
        if shelf is None or shelf.recent is not recent:
            shelf = self._shelves[name] = Shelf(recent, keys, identity)
        return shelf

    async def close(self) -> None:
        """Unmap everything."""
        await self.totals.close()
        await self.lists.close()
        await self.cache.close()
        self.streams.close()
