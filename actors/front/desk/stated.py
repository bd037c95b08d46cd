"""What the desk's risk engines state of an account now: of each figure the newest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

from msgspec import Struct

from ....codecs.desk.canonical import Risk
from ...recent import Item
from ..stamps import NS
from .shelf import Shelf

TOPIC = "risk.metrics.v1"
STATED_NS = 3600 * NS  # risk is stated each minute at least: what nobody has repeated for an hour says nothing of now
ACCOUNTS_MAX = 4096  # remembered; beyond it half of them yield, whose newest statements are the oldest

# How figures of several accounts become one, as their PnL and positions do beside them. Amounts add up; for value at
# risk that is an upper bound, since what one account loses another one may win. Ratios and scores do not add up: the
# account that is worst off counts, so that none is hidden by the others.
_SUMMED = ("var_1d", "var_5d", "daily_pnl", "total_exposure", "positions")
_LARGEST = ("risk_score", "max_drawdown", "leverage")
_SMALLEST = ("sharpe_ratio",)
_HOW: dict[str, Callable[[Iterable[Any]], Any]] = {
    **dict.fromkeys(_SUMMED, sum), **dict.fromkeys(_LARGEST, max), **dict.fromkeys(_SMALLEST, min),
}  # fmt: skip


class Stated(Struct, frozen=True, kw_only=True):
    """Figures of one account, or of all. Amounts in units of 1e-8; None = nobody states it."""

    updated_ns: int  # of the newest statement
    risk_score: float | None = None  # 0 to 100
    max_drawdown: float | None = None  # a fraction
    leverage: float | None = None
    sharpe_ratio: float | None = None
    var_1d: int | None = None
    var_5d: int | None = None
    daily_pnl: int | None = None
    total_exposure: int | None = None
    positions: int | None = None


def _positions(risk: Risk) -> int | None:
    return risk.num_positions if risk.current_positions is None else risk.current_positions


_FIGURES = tuple((name, _positions if name == "positions" else attrgetter(name)) for name in _HOW)


class _Account:
    """The newest statement of each figure.

    Attributes:
        newest_ns: of them all.
        newest: name -> (time, event id, value).
    """

    __slots__ = ("newest", "newest_ns")

    def __init__(self) -> None:
        self.newest_ns = 0
        self.newest: dict[str, tuple[int, str, Any]] = {}

    def take(self, item: Item[Risk]) -> None:
        risk, newest = item.value, self.newest
        at_ns = min(item.event_ns, item.recv_ns)  # of a clock that is ahead of ours: when we received it
        if at_ns < self.newest_ns - STATED_NS:
            return
        self.newest_ns = max(self.newest_ns, at_ns)
        for name, figure in _FIGURES:
            value = figure(risk)
            if value is not None:
                known = newest.get(name)
                if known is None or (at_ns, risk.event_id) > known[:2]:
                    newest[name] = at_ns, risk.event_id, value

    def since(self, since_ns: int) -> dict[str, Any]:
        """The figures that were stated from then on."""
        return {name: value for name, (at_ns, _, value) in self.newest.items() if at_ns >= since_ns}


class StatedRisk:
    """Follows the statements: each is looked at once, however many ask.

    Producers of one account state different figures, and one that leaves a figure out does not say that it is nothing.
    So each figure is that of the newest statement that has it, of those within `STATED_NS` of the newest of all; of all
    accounts together, those within `STATED_NS` of the newest of any. Which strategy states it does not matter.

    Args:
        statements: their shelf; None where the topic is not followed.
    """

    def __init__(self, statements: Callable[[], Shelf[Risk] | None]) -> None:
        self._statements = statements
        self._shelf: Shelf[Risk] | None = None
        self._begin(None)

    def _begin(self, shelf: Shelf[Risk] | None) -> None:
        self._shelf, self._next = shelf, 0
        self._accounts: dict[str, _Account] = {}
        self._told: dict[str | None, Stated | None] = {}

    def of(self, account: str | None) -> Stated | None:
        """Of an account, or of all; None where nothing is stated."""
        self._refresh()
        if account is not None and account not in self._accounts:
            return None
        if account not in self._told:
            those = self._accounts.values() if account is None else (self._accounts[account],)
            self._told[account] = _together(those)
        return self._told[account]

    def _refresh(self) -> None:
        shelf = self._statements()
        if shelf is not self._shelf:
            self._begin(shelf)
        if shelf is None:
            return
        shelf.refresh()
        if shelf.next == self._next:
            return
        for item in reversed(shelf.arrived(self._next)):  # of most of a long past nothing counts any more
            self._account(item.value.account_id).take(item)
        self._next = shelf.next
        self._told.clear()

    def _account(self, name: str) -> _Account:
        found = self._accounts.get(name)
        if found is None:
            if len(self._accounts) >= ACCOUNTS_MAX:
                by_age = sorted(self._accounts.items(), key=lambda one: one[1].newest_ns)
                self._accounts = dict(by_age[ACCOUNTS_MAX // 2 :])
            found = self._accounts[name] = _Account()
        return found


def _together(accounts: Iterable[_Account]) -> Stated | None:
    accounts = tuple(accounts)
    newest_ns = max((one.newest_ns for one in accounts), default=None)
    if newest_ns is None:
        return None
    said = [one.since(newest_ns - STATED_NS) for one in accounts]
    figures = {}
    for name, how in _HOW.items():
        values = [figure for one in said if (figure := one.get(name)) is not None]
        if values:
            figures[name] = how(values)
    return Stated(updated_ns=newest_ns, **figures)
