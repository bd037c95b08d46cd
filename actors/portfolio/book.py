"""The set of fills and what follows from it: positions by account, strategy, venue and symbol.

A fill is named by account, venue and fill id, and counts once. Where several messages tell of it, the telling that
counts does not depend on which arrived first: it is the one with the earliest event time, and among those of one time
the one that comes first by `precedence`. A telling with other numbers is counted, and kept beside it.

A fill behind all others of its key is folded into its state; any other (late, or another telling of one that is there)
makes the key fold anew from the snapshot before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from ...codecs.desk.money import UNIT, divide
from ...codecs.errors import UnknownSymbol
from ...codecs.symbols import parse_symbol
from .errors import StateDamaged
from .fold import DAY_NS, FIRST, Execution, Order, State, Terms, fold
from .store import SNAPSHOT_EACH, Store

Key = tuple[str, str, str, str]  # account, strategy, venue, symbol
PROGRESS_EACH = 4096  # fills folded anew between two signs of life


class Telling(NamedTuple):
    """A fill as one message tells it."""

    key: Key
    execution: Execution  # its rate is found when it is folded
    rate: int | None = None  # units of 1e-16; None = find it


class Moved(NamedTuple):
    """A sum of fills. Money in units of 1e-16 of the settlement currency."""

    quantity: int = 0
    value: int = 0
    fees: int = 0


class Position:
    """A key and its state. `days` is equity after the last fill of each UTC day, in order."""

    __slots__ = (
        "base", "days", "key", "last", "marks", "moved", "number", "opening", "pending", "quote", "settled_in", "since",
        "state", "terms", "total", "valued",
    )  # fmt: skip

    def __init__(self, number: int, key: Key, terms: Terms, opening: State, state: State, last: Order) -> None:
        self.number, self.key, self.terms, self.opening, self.state, self.last = (
            number, key, terms, opening, state, last,
        )  # fmt: skip
        self.total = state.equity(terms)  # after the last fill
        self.days: dict[int, int] = {}
        self.pending: dict[int, int] = {}  # day -> change of equity that the groups do not have yet
        self.moved: dict[int, Moved] = {}  # day that was over -> what came to it since, that the groups do not have yet
        self.since: int | None = None  # event time from which on it was folded anew since the groups looked
        self.valued: Any = None  # the totals' own: what the groups have of it
        self.marks: dict[int, tuple[int, int]] = {}  # day -> the last quote it was valued at, and when that was seen
        try:
            symbol = parse_symbol(key[3])
            self.base, self.quote = symbol.base, symbol.quote
        except UnknownSymbol:
            self.base, self.quote = key[3], ""
        self.settle()

    def settle(self) -> None:
        """Find what its terms settle it in."""
        self.settled_in = self.base if self.terms.inverse else self.quote

    @property
    def empty(self) -> bool:
        """Nothing is known of it but its name."""
        return not self.state.fills and not self.opening.quantity

    def changes(self) -> dict[int, int]:
        """Day -> by how much equity changed on it."""
        found, before = {}, 0
        for day, equity in self.days.items():
            found[day], before = equity - before, equity
        return found

    def changed(self, day: int, by: int) -> None:
        self.pending[day] = self.pending.get(day, 0) + by

    def move(self, execution: Execution, by: int = 1) -> None:
        """A fill came to a day that was over (1), or went from it (-1)."""
        day = execution.ts_ns // DAY_NS
        signed = -by * execution.quantity if execution.sell else by * execution.quantity
        fee = by * divide(execution.commission * execution.rate, UNIT)
        quantity, value, fees = self.moved.get(day, Moved())
        self.moved[day] = Moved(quantity + signed, value + self.terms.value(signed, execution.price), fees + fee)


def precedence(key: Key, execution: Execution) -> tuple[Any, ...]:
    """What tellings of one fill are sorted by; the least counts. One with a claim goes before one without."""
    ts_ns, _, sell, quantity, price, commission, asset, _, claim, variant = execution
    return ts_ns, claim is None, variant, key, sell, quantity, price, commission, asset, claim or 0


def agree(key: Key, one: Execution, other_key: Key, other: Execution) -> bool:
    """Whether two tellings say the same; not every variant tells of fees."""
    return (
        key == other_key
        and (one.sell, one.quantity, one.price) == (other.sell, other.quantity, other.price)
        and (
            not one.commission or not other.commission or (one.commission, one.asset) == (other.commission, other.asset)
        )
    )


class Book:
    """All positions, in memory and in the store.

    Args:
        store: its file.
        terms_of: what an instrument's quantities are worth, by venue and symbol; asked when a key is new, and by
            `otherwise`. The second value says whether it is configured, and then it holds for known keys too.
        opening_of: what a key had before its first fill.
        rate_of: rate by which a fee is converted: ``(asset, position, execution)`` to units of 1e-16, 0 = not known.
        progress: called now and then while a long fold goes on.

    Attributes:
        today_ns: fills before it came to a day that was over.
    """

    def __init__(
        self,
        store: Store,
        terms_of: Callable[[str, str], tuple[Terms, bool]],
        opening_of: Callable[[Key, Terms], State],
        rate_of: Callable[[str, Position, Execution], int],
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.store = store
        self._terms_of, self._opening_of, self._rate_of, self._progress = terms_of, opening_of, rate_of, progress
        self.by_key: dict[Key, Position] = {}
        self._by_number: dict[int, Position] = {}
        self._books = store.books()
        self._new_days: dict[tuple[int, int], int] = {}
        self.today_ns = FIRST[0]
        self.folded = self.repeated = self.disagreements = self.late = self.refolded = self.unconverted = 0
        self.assumed = 0  # fees that name no currency
        self._load()

    def _load(self) -> None:
        outdated = []
        for number, key, terms, opening_text, state, last in self.store.positions():
            configured, fixed = self._terms_of(key[2], key[3])
            terms = configured if fixed else terms
            opening = self._opening_of(key, terms)
            position = self._take(Position(number, key, terms, opening, state, last))
            if _text(terms, opening) != opening_text:
                outdated.append(position)
        try:
            for number, day, equity in self.store.days():
                self._by_number[number].days[day] = equity
            for number, day, price, seen_ns in self.store.marks():
                self._by_number[number].marks[day] = price, seen_ns
        except KeyError as error:
            raise StateDamaged(f"no position {error}") from error
        for position in self.by_key.values():
            position.pending = position.changes()
        if outdated:  # the configuration says something else than before
            self.store.begin()
            for position in outdated:
                self._put(position)
                self._refold(position, FIRST)
            self._save(outdated)
            self.store.commit()

    def _take(self, position: Position) -> Position:
        self.by_key[position.key] = self._by_number[position.number] = position
        return position

    def _put(self, position: Position) -> None:
        self.store.put_position(
            position.number, position.key, position.terms, _text(position.terms, position.opening), position.state,
            position.last,
        )  # fmt: skip

    def position(self, key: Key) -> Position:
        """The position of a key, made if it is new."""
        found = self.by_key.get(key)
        if found is None:
            terms, _ = self._terms_of(key[2], key[3])
            opening = self._opening_of(key, terms)
            found = self._take(Position(len(self._by_number) + 1, key, terms, opening, opening.copy(), FIRST))
            self._put(found)
        return found

    def otherwise(self) -> list[tuple[Position, Terms]]:
        """Positions whose exchange lists other terms than they began with: it was not known then."""
        found = ((position, *self._terms_of(*position.key[2:])) for position in self.by_key.values())
        return [
            (position, terms) for position, terms, fixed in found
            if terms != position.terms and (fixed or terms != Terms())
        ]  # fmt: skip

    def change_terms(self, position: Position, terms: Terms) -> None:
        """Fold a position anew, inside a transaction that stays open; its groups must have left it."""
        store, number = self.store, position.number
        try:
            store.begin()
            position.terms, position.opening = terms, self._opening_of(position.key, terms)
            position.settle()
            position.days, position.pending, position.moved = {}, {}, {}
            fees = [one for one in store.fills(number, FIRST) if one.commission]
            for execution in fees:  # they are converted to another currency
                rate = self._rate_of(execution.asset, position, execution)
                store.put_rate(number, execution._replace(rate=rate))
            self._put(position)
            self._refold(position, FIRST)
            self._save([position])
        except BaseException:
            store.broken = True
            raise

    def apply(self, tellings: Iterable[Telling]) -> list[Position]:
        """Add fills, in whatever order, inside a transaction that stays open; returns the positions that changed."""
        try:
            return self._apply(tellings)
        except BaseException:
            self.store.broken = True
            raise

    def _apply(self, tellings: Iterable[Telling]) -> list[Position]:
        self.store.begin()
        by_key, put_fill = self.by_key, self.store.put_fill
        changed: dict[int, Position] = {}
        anew: dict[int, Order] = {}  # positions to be folded anew, and from where on
        for key, execution, rate in tellings:
            position = by_key.get(key) or self.position(key)
            book = self._books.get((key[0], key[2])) or self._add_book(key[0], key[2])
            if rate is None and execution.commission:
                rate = self._rate_of(execution.asset, position, execution)
            if rate:
                execution = execution._replace(rate=rate)
            order = (execution.ts_ns, execution.fill_id)
            if put_fill(position.number, book, execution):
                self.folded += 1
                self.late += order <= position.last
                if execution.commission:
                    self.unconverted += not rate
                    self.assumed += not execution.asset
            elif (dropped := self._replace(position, book, execution)) is not None:
                other, where = dropped
                changed[other.number] = other
                anew[other.number] = min(anew.get(other.number, where), where)
            else:
                continue
            changed[position.number] = position
            if execution.ts_ns < self.today_ns:
                position.move(execution)
            if order > position.last and position.number not in anew:
                self._append(position, execution)
            else:
                anew[position.number] = min(anew.get(position.number, order), order)
        for number, order in anew.items():
            self._refold(self._by_number[number], order)
        self._save(changed.values())
        return list(changed.values())

    def _replace(self, position: Position, book: int, execution: Execution) -> tuple[Position, Order] | None:
        """Put another telling of a fill in the place of the one that counts so far, or leave that where it comes first.

        Returns:
            Where the one before was; None where it stays.
        """
        number, kept = self.store.find(book, execution.fill_id)
        known = self._by_number[number]
        self.repeated += 1
        if not agree(position.key, execution, known.key, kept):
            self.disagreements += self.store.put_disagreement(book, kept, execution._replace(rate=0))
        if precedence(position.key, execution) >= precedence(known.key, kept):
            return None
        if kept.commission and (execution.asset, position) == (kept.asset, known):
            execution = execution._replace(rate=kept.rate)
        if kept.ts_ns < self.today_ns:
            known.move(kept, -1)
        self.store.drop_fill(number, kept.order)
        self.store.put_fill(position.number, book, execution)
        return known, kept.order

    def _add_book(self, account: str, venue: str) -> int:
        number = len(self._books) + 1
        self.store.put_book(number, account, venue)
        self._books[(account, venue)] = number
        return number

    def _append(self, position: Position, execution: Execution) -> None:
        state, terms = position.state, position.terms
        fold(state, execution, terms)
        equity, before = state.equity(terms), position.total
        position.last = (execution.ts_ns, execution.fill_id)
        day = execution.ts_ns // DAY_NS
        position.days[day] = self._new_days[position.number, day] = position.total = equity
        position.changed(day, equity - before)
        if not state.fills % SNAPSHOT_EACH:
            self.store.put_snapshot(position.number, position.last, state)

    def _refold(self, position: Position, order: Order) -> None:
        """Fold a key anew from the snapshot before `order` on."""
        store, number = self.store, position.number
        position.since = order[0] if position.since is None else min(position.since, order[0])
        snapshot = store.snapshot_before(number, order)
        for day, by in position.changes().items():
            position.changed(day, -by)
        position.last, position.state = snapshot or (FIRST, position.opening.copy())
        kept = position.last[0] // DAY_NS if snapshot else -(1 << 62)
        position.days = {day: equity for day, equity in position.days.items() if day <= kept}
        for place in [place for place in self._new_days if place[0] == number and place[1] > kept]:
            del self._new_days[place]
        store.drop_days(number, kept)
        state, terms, days = position.state, position.terms, position.days
        if snapshot:
            days[kept] = self._new_days[number, kept] = state.equity(terms)
        for execution in store.fills(number, position.last):
            fold(state, execution, terms)
            position.last = (execution.ts_ns, execution.fill_id)
            day = execution.ts_ns // DAY_NS
            days[day] = self._new_days[number, day] = state.equity(terms)
            if not state.fills % SNAPSHOT_EACH:
                store.put_snapshot(number, position.last, state)
            self.refolded += 1
            if not self.refolded % PROGRESS_EACH:
                self._progress()
        position.total = state.equity(terms)
        for day, by in position.changes().items():
            position.changed(day, by)

    def _save(self, positions: Iterable[Position]) -> None:
        self.store.put_states([(one.number, one.state, one.last) for one in positions])
        if self._new_days:
            self.store.put_days([(*place, equity) for place, equity in self._new_days.items()])
            self._new_days.clear()


def _text(terms: Terms, opening: State) -> str:
    """What a position follows from beside its fills, to be compared."""
    return msgspec.json.encode((terms, opening)).decode()
