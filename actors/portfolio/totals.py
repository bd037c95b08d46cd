"""Sums over positions: of an account, of its strategies, and of each symbol, in the currency of the report.

A group is `(account, strategy, symbol)`, where `ALL` stands for all of them: `(a, ALL, ALL)`, `(a, s, ALL)`,
`(a, ALL, x)` and `(a, s, x)`. Sums are kept up to date by differences, so a fill costs the same however many positions
there are.

What follows from fills alone (everything realised, and equity at the prices of the fills by day) is the same however
they arrived. What was seen of the market beside them cannot be had again: the last difference of each day between
equity at the marks and at the prices of the fills (`closes`), the peak, and the largest drawdown. Nor can the rate of
another settlement currency on a day: the first one that a change of the day was converted with holds for all of them.

A fill that comes to a day that was over changes its equity by what it paid and by what it bought, at the mark of the
end of that day. Where that is not known any more, equity stays what was seen, but for the fee.

Peak and drawdown are of what was seen and of the ends of the days. A fill behind later ones of its key shows that what
was seen since its time was not so: that does not count any more, as far as it is remembered when it was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ...codecs.desk.canonical import ALL_SYMBOLS as ALL
from ...codecs.desk.money import UNIT, divide
from . import statistics
from .book import Position
from .fold import DAY_NS, FIRST, RATE_UNIT

Name = tuple[str, str, str]  # account, strategy, symbol


class Mark(NamedTuple):
    """What a position is valued at."""

    price: int = 0  # units of 1e-8; 0 = not known
    seen_ns: int = 0  # our clock, of a quote; the event's own, of a fill or an event
    kind: int = 0  # index in `records.MARKS`


NO_MARK = Mark()
SEEN_MAX = 32  # peaks and drawdowns of a group that are remembered, the older ones less densely


class Sums(NamedTuple):
    """What adds up. Money in units of 1e-16."""

    realized: int = 0
    unrealized: int = 0
    fees: int = 0
    volume: int = 0
    long_exposure: int = 0
    short_exposure: int = 0
    gross_profit: int = 0
    gross_loss: int = 0
    claimed: int = 0
    fills: int = 0
    wins: int = 0
    losses: int = 0
    holding_ns: int = 0
    open: int = 0

    @property
    def pnl(self) -> int:
        return self.realized + self.unrealized - self.fees


NOTHING = Sums()


class Valued(NamedTuple):
    """A position at its mark. Market value and cost are positive where long, also of inverse contracts."""

    mark: Mark
    rate: int  # from its settlement currency to that of the report, units of 1e-16
    market_value: int
    cost: int
    unrealized: int
    sums: Sums
    wins_of: tuple[int, int]  # largest win and loss


def value(position: Position, mark: Mark, rate: int) -> Valued:
    """A position at a mark; without one its unrealised PnL counts as 0."""
    state, terms = position.state, position.terms
    worth = terms.value(state.quantity, mark.price) if mark.price else state.cost
    unrealized = worth - state.cost
    sign = -1 if terms.inverse else 1
    market_value, cost = sign * worth, sign * state.cost
    money = (
        state.realized, unrealized, state.fees, state.volume, max(0, market_value), max(0, -market_value),
        state.gross_profit, state.gross_loss, state.claimed * UNIT,
    )  # fmt: skip
    largest = (state.largest_win, state.largest_loss)
    if rate != RATE_UNIT:
        money = tuple(divide(one * rate, RATE_UNIT) for one in money)
        largest = (divide(largest[0] * rate, RATE_UNIT), divide(largest[1] * rate, RATE_UNIT))
    counts = (state.fills, state.wins, state.losses, state.holding_ns, int(state.quantity != 0))
    sums = Sums._make((*money, *counts))
    return Valued(mark, rate, market_value, cost, unrealized, sums, largest)


class Group:
    """One group and its history by day."""

    def __init__(self, name: Name, capital: int) -> None:
        self.name, self.capital = name, capital
        self.members: list[Position] = []
        self.sums = NOTHING
        self.largest_win = self.largest_loss = 0
        self.peak = 0  # highest PnL
        self.max_drawdown = 0.0
        self._seen = [(FIRST[0], 0, 0.0)]  # when both were seen to grow, and what they were then
        self._of_days = (0, 0.0)  # as the ends of the days have them
        self.deltas: dict[int, int] = {}  # day -> change of equity at the prices of the fills
        self.closes: dict[int, int] = {}  # day -> what the marks last said beyond that
        self.paper = 0  # sum of the deltas
        self.parts: dict[Name, Group] = {}  # of a sum over strategies or symbols: what it is the sum of
        self.dirty = True  # to be published
        self.unsaved = False  # its peak has changed
        self.unsaved_days: set[int] = set()  # whose closes have
        self._history: tuple[int, list[int], float] = (0, [], 0.0)  # day, equity of the days before, Sharpe ratio
        self._outdated = False  # a fill of a day before came since
        self._carried = 0  # what the marks last said beyond the fills before this day

    def add(self, new: Sums, old: Sums) -> None:
        self.sums = Sums._make(a + b - c for a, b, c in zip(self.sums, new, old, strict=True))
        self.dirty = True

    def add_days(self, changes: dict[int, int]) -> None:
        """Changes of equity by day."""
        for day, by in changes.items():
            self.deltas[day] = self.deltas.get(day, 0) + by
            self.paper += by
            self._outdated |= day < self._history[0]

    def seek_largest(self) -> None:
        """Look at all members: one of them has folded anew."""
        self.largest_win = max((one.valued.wins_of[0] for one in self.members if one.valued), default=0)
        self.largest_loss = max((one.valued.wins_of[1] for one in self.members if one.valued), default=0)

    def history(self, today: int) -> tuple[list[int], float]:
        """Equity at the end of each day before this one, and the Sharpe ratio of those days, as of the last `renew`."""
        if self._history[0] != today:
            self._outdated = True
            self.renew(today)
        return self._history[1], self._history[2]

    def renew(self, today: int) -> None:
        """Take late fills of earlier days into the history: it is gone through, so not at each of them."""
        if self._outdated:
            self._outdated = False
            _, series = statistics.equities(self.deltas, self.closes, today - 1, self._unseen)
            self._carried = series[-1] - sum(by for day, by in self.deltas.items() if day < today) if series else 0
            highest, peak, fall = max(self._seen[-1][1], max(series, default=0)), 0, 0.0
            for pnl in series:
                peak = max(peak, pnl)
                # the highest of a day may have been higher than its end, so a fall is at least the lesser of these
                falls = (statistics.drawdown(self.capital, top, pnl) for top in (peak, highest))
                fall = max(fall, min(falls))
            self._of_days = peak, fall
            self._join()
            daily = [after - before for before, after in zip([0, *series], series, strict=False)]
            self._history = today, series, statistics.sharpe_ratio(daily)
            self.dirty = True

    def _unseen(self, day: int) -> int:
        """What the marks said beyond the fills on a day with fills on which nobody looked.

        A symbol that was traded is valued by its fills; the others are what they were.
        """
        return sum(part.beyond(day) for part in self.parts.values())

    def beyond(self, day: int) -> int:
        """What the marks last said beyond the fills, as of the end of a day; nothing once there were fills since."""
        if self.closes:
            for back in range(day, min(self.closes) - 1, -1):
                if back in self.closes:
                    return self.closes[back]
                if back in self.deltas:
                    break
        return 0

    def start_of(self, today: int, days: int) -> int:
        """PnL when the last `days` days began, this one among them."""
        series, _ = self.history(today)
        return series[-days] if len(series) >= days else 0

    def _join(self) -> None:
        _, peak, fall = self._seen[-1]
        self.peak, self.max_drawdown = max(peak, self._of_days[0]), max(fall, self._of_days[1])

    def restore(self, peak: int, fall: float) -> None:
        """Begin with peak and drawdown as they were seen before."""
        self._seen = [(FIRST[0], peak, fall)]
        self._join()

    def forget(self, since_ns: int) -> None:
        """What was seen since then was not so."""
        seen, before = self._seen, len(self._seen)
        while len(seen) > 1 and seen[-1][0] >= since_ns:
            seen.pop()
        if len(seen) < before:
            self._join()
            self._outdated = self.dirty = self.unsaved = True

    def correct(self, shifts: dict[int, int]) -> None:
        """Changes, by day, of what the marks said beyond the fills."""
        for day in self.closes.keys() & shifts.keys():
            self.closes[day] += shifts[day]
            self.unsaved_days.add(day)
            self._outdated = True

    def observe(self, today: int, now_ns: int = 0) -> None:
        """Take notice of PnL at the marks of now."""
        pnl = self.sums.pnl
        self.history(today)
        beyond, known = pnl - self.paper, self.closes.get(today)
        if beyond != known and (known is not None or beyond or self._carried):  # 0 is what is not told otherwise
            self.closes[today] = beyond
            self.unsaved_days.add(today)
        fall = statistics.drawdown(self.capital, self.peak, pnl)
        if pnl > self.peak or fall > self.max_drawdown:
            self.peak = max(self.peak, pnl)
            self.max_drawdown = max(self.max_drawdown, fall)
            self._seen.append((now_ns, self.peak, self.max_drawdown))
            if len(self._seen) > SEEN_MAX:
                del self._seen[1 : SEEN_MAX // 2 : 2]
            self.unsaved = True


class Totals:
    """All groups.

    Args:
        capital_of: what an account began with, units of 1e-16.
        closes, peaks, rates: as they were stored.

    Attributes:
        new_rates: that are not stored yet: settlement currency, UTC day, units of 1e-16.
    """

    def __init__(
        self,
        capital_of: Callable[[str], int],
        closes: Iterable[tuple[Name, int, int]] = (),
        peaks: Iterable[tuple[Name, int, float]] = (),
        rates: Iterable[tuple[str, int, int]] = (),
    ) -> None:
        self._capital_of = capital_of
        self._rates = {(asset, day): rate for asset, day, rate in rates}
        self.new_rates: list[tuple[str, int, int]] = []
        self.groups: dict[Name, Group] = {}
        self._of: dict[int, tuple[Group, ...]] = {}  # by number of the position
        for name, day, beyond in closes:
            self._group(name).closes[day] = beyond
        for name, peak, fall in peaks:
            self._group(name).restore(peak, fall)

    def _group(self, name: Name) -> Group:
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(name, self._capital_of(name[0]))
        return group

    def groups_of(self, position: Position) -> tuple[Group, ...]:
        found = self._of.get(position.number)
        if found is None:
            account, strategy, _, symbol = position.key
            names = ((account, ALL, ALL), (account, strategy, ALL), (account, ALL, symbol), (account, strategy, symbol))
            found = self._of[position.number] = tuple(map(self._group, names))
            for group in found:
                group.members.append(position)
            for group in found[:3]:
                group.parts[names[3]] = found[3]
        return found

    def update(self, position: Position, mark: Mark, rate: int) -> None:
        """Bring the groups of a position up to date."""
        old: Valued | None = position.valued
        new = position.valued = value(position, mark, rate)
        pending: dict[int, int] = {}
        if rate:  # else what changed by day waits until there is one
            pending, position.pending = position.pending, {}
        if rate != RATE_UNIT:
            asset = position.settled_in
            pending = {day: divide(by * self._rate_on(asset, day, rate), RATE_UNIT) for day, by in pending.items()}
        groups = self.groups_of(position)
        if position.moved and rate:
            self._correct(position, pending, rate, groups)
        if position.since is not None:
            for group in groups:
                group.forget(position.since)
            position.since = None
        before = old.sums if old else NOTHING
        for group in groups:
            if new.sums != before:
                group.add(new.sums, before)
            if pending:
                group.add_days(pending)
            if old and (new.wins_of[0] < old.wins_of[0] or new.wins_of[1] < old.wins_of[1]):
                group.seek_largest()
            else:
                group.largest_win = max(group.largest_win, new.wins_of[0])
                group.largest_loss = max(group.largest_loss, new.wins_of[1])

    def leave(self, position: Position) -> None:
        """Take a position out of its groups, with what the marks said of its symbol: it was not valued as it is."""
        if position.valued is None:
            return
        asset, own = position.settled_in, position.valued.rate == RATE_UNIT
        days = {}
        for day, by in position.changes().items():
            by -= position.pending.get(day, 0)
            days[day] = -by if own else -divide(by * self._rates.get((asset, day), 0), RATE_UNIT)
        groups = self.groups_of(position)
        said = {day: -beyond for day, beyond in groups[-1].closes.items()}
        for group in groups:
            group.add(NOTHING, position.valued.sums)
            group.add_days(days)
            group.correct(said)
        position.valued = None
        for group in groups:
            group.seek_largest()

    def _correct(self, position: Position, pending: dict[int, int], rate: int, groups: Iterable[Group]) -> None:
        """Fills have come to days that were over: equity at the marks of their ends, see above."""
        moved, position.moved = position.moved, {}
        days = {day for group in groups for day in group.closes if day >= min(moved)}
        shifts: dict[int, int] = {}
        for day in days:
            parts = [by for of, by in moved.items() if of <= day]
            quantity, value, fees = (sum(column) for column in zip(*parts, strict=True))
            mark = position.marks.get(day)
            by = position.terms.value(quantity, mark[0]) - value - fees if mark else -fees
            if rate != RATE_UNIT:
                by = divide(by * self._rates.get((position.settled_in, day), rate), RATE_UNIT)
            shifts[day] = by - sum(change for of, change in pending.items() if of <= day)
        for group in groups:
            group.correct(shifts)

    def _rate_on(self, asset: str, day: int, now: int) -> int:
        """The rate of a day, which is that of now where nothing of the day was converted yet."""
        known = self._rates.get((asset, day))
        if known is None:
            known = self._rates[asset, day] = now
            self.new_rates.append((asset, day, now))
        return known

    @property
    def seen_until(self) -> int:
        """The day behind the last one of which anything was seen."""
        return max((day + 1 for group in self.groups.values() for day in group.closes), default=FIRST[0] // DAY_NS)

    def unsaved(self) -> Iterator[Group]:
        """Groups of which something is to be stored."""
        return (group for group in self.groups.values() if group.unsaved or group.unsaved_days)
