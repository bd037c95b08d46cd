"""The set of fills: whatever the order in which it arrives, the same positions to the last bit."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tickring.actors.portfolio.book import Book, Telling
from tickring.actors.portfolio.errors import StateUnusable
from tickring.actors.portfolio.fold import DAY_NS, FIRST, RATE_UNIT, Execution, State, Terms, opened, to_units
from tickring.actors.portfolio.publish import key_text
from tickring.actors.portfolio.store import SNAPSHOT_EACH, Store
from tickring.actors.portfolio.totals import NO_MARK, Mark, Totals
from tickring.codecs.desk.canonical import ALL_SYMBOLS as ALL
from tickring.codecs.desk.money import UNIT
from tickring.codecs.desk.records import MARKS

from .messages import execution_stream
from .portfolio_oracle import fold_all, rounded, telling_of, tellings_of, true_set

KEY = ("a", "s", "binance", "BTCUSDT")


def make_book(folder: Path, **changes: Any) -> Book:
    arguments: dict[str, Any] = {
        "terms_of": lambda venue, symbol: (Terms(), False), "opening_of": lambda key, terms: State(),
        "rate_of": lambda asset, position, execution: RATE_UNIT, **changes,
    }  # fmt: skip
    return Book(Store(folder), **arguments)


def add(book: Book, tellings: Iterable[Telling]) -> None:
    book.apply(tellings)
    book.store.commit()


def picture(book: Book) -> Any:
    """Everything that follows from the fills."""
    return {
        key: (position.state, position.days, position.last)
        for key, position in book.by_key.items()
        if not position.empty
    }  # fmt: skip


def trade(ts: int, fill_id: str, quantity: int, price: int = 100, key: Any = KEY, **more: Any) -> Telling:
    execution = Execution(ts, fill_id, quantity < 0, abs(quantity) * UNIT, price * UNIT)._replace(**more)
    return Telling(key, execution, RATE_UNIT)


def totals_of(book: Book) -> dict[Any, Any]:
    totals = Totals(lambda account: 0)
    for position in book.by_key.values():
        if not position.empty:
            position.valued, position.pending = None, position.changes()
            totals.update(position, Mark(position.state.price, 0, 2), RATE_UNIT)
    return {
        name: (group.sums, group.largest_win, group.largest_loss, sorted(group.deltas.items()))
        for name, group in totals.groups.items()
    }


def test_late_fill_folds_its_key_anew(tmp_path):
    book = make_book(tmp_path)
    add(book, [trade(10, "a", 1), trade(30, "c", -2, 120), trade(20, "b", 1, 110)])
    assert book.late == 1
    other = make_book(tmp_path / "other")
    add(other, [trade(10, "a", 1), trade(20, "b", 1, 110), trade(30, "c", -2, 120)])
    assert picture(book) == picture(other)
    assert to_units(book.by_key[KEY].state.realized) == 30 * UNIT


def test_late_fill_behind_many_starts_from_a_snapshot(tmp_path):
    book = make_book(tmp_path)
    add(book, [trade(n * 10, f"{n:05}", 1 if n % 3 else -2, 100 + n % 7) for n in range(2000)])
    before = book.refolded
    add(book, [trade(19_955, "late", 5)])
    assert 0 < book.refolded - before <= SNAPSHOT_EACH + 5


def test_fill_told_by_two_variants_counts_once(tmp_path):
    book = make_book(tmp_path)
    add(book, [trade(10, "a", 1, variant=1), trade(10, "a", 1, variant=2), trade(10, "a", 1, variant=1)])
    assert book.by_key[KEY].state.fills == 1
    assert (book.folded, book.repeated, book.disagreements) == (1, 2, 0)


def test_telling_with_a_claim_replaces_one_without_at_the_same_time(tmp_path):
    book = make_book(tmp_path)
    add(book, [trade(10, "a", 1, variant=1), trade(10, "a", 1, variant=2, claim=500)])
    assert (book.by_key[KEY].state.fills, book.by_key[KEY].state.claimed) == (1, 500)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_disagreement_is_counted_kept_and_decided_alike(tmp_path, order):
    tellings = [trade(10, "a", 1, variant=1), trade(11, "a", 3, variant=2)]
    book = make_book(tmp_path)
    for n in (*order, *order):
        add(book, [tellings[n]])
    assert book.disagreements == (1 if order == (0, 1) else 2)  # told again, it disagrees with the one kept now
    assert book.by_key[KEY].state.quantity == UNIT
    rows = book.store.db.execute("SELECT count(*) FROM disagreement").fetchone()[0]
    assert rows == book.disagreements


def test_telling_of_another_symbol_moves_the_fill(tmp_path):
    other = (*KEY[:3], "ETHUSDT")
    book = make_book(tmp_path)
    add(book, [trade(5, "z", 2), trade(11, "a", 1, variant=2)])
    add(book, [trade(10, "a", 1, key=other)])
    assert book.by_key[KEY].state.quantity == 2 * UNIT
    assert book.by_key[other].state.quantity == UNIT


def test_same_fill_id_of_another_account_or_venue_is_another_fill(tmp_path):
    book = make_book(tmp_path)
    add(book, [trade(1, "a", 1), trade(1, "a", 1, key=("b", *KEY[1:])), trade(1, "a", 1, key=("a", "s", "okx", "X"))])
    assert [position.state.fills for position in book.by_key.values()] == [1, 1, 1]


def test_fee_rate_of_a_fill_is_kept_with_it(tmp_path):
    rates = iter([RATE_UNIT * 600, RATE_UNIT * 700])
    book = make_book(tmp_path, rate_of=lambda *of: next(rates))
    add(book, [Telling(KEY, trade(20, "b", 1, commission=UNIT, asset="BNB").execution)])
    add(book, [Telling(KEY, trade(10, "a", 1, commission=UNIT, asset="BNB").execution)])  # folds the other anew
    assert to_units(book.by_key[KEY].state.fees) == 1300 * UNIT
    assert book.refolded == 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_fee_counts_though_another_telling_has_none(tmp_path, order):
    without = trade(10, "a", 1, variant=1, rate=0).execution
    tellings = [Telling(KEY, without), Telling(KEY, without._replace(commission=UNIT, asset="", claim=5, rate=0))]
    book = make_book(tmp_path)
    for n in order:
        add(book, [tellings[n]])
    assert to_units(book.by_key[KEY].state.fees) == UNIT


def test_fee_without_a_currency_is_counted(tmp_path):
    book = make_book(tmp_path)
    add(book, [trade(1, "a", 1), trade(2, "b", 1, commission=UNIT), trade(3, "c", 1, commission=UNIT, asset="USDT")])
    assert (book.assumed, book.unconverted) == (1, 0)
    assert to_units(book.by_key[KEY].state.fees) == 2 * UNIT


def test_fold_that_was_cut_short_is_not_kept(tmp_path):
    def fail(*of: Any) -> int:
        raise RuntimeError("no rate today")

    book = make_book(tmp_path, rate_of=fail)
    with pytest.raises(RuntimeError):
        book.apply([trade(1, "a", 1), Telling(KEY, trade(2, "b", 1, commission=5, asset="BNB").execution)])
    with pytest.raises(StateUnusable):
        book.store.commit()
    book.store.close()
    assert make_book(tmp_path).by_key == {}


def test_state_is_there_again_after_a_restart(tmp_path):
    book = make_book(tmp_path)
    messages = list(execution_stream(random.Random(5), 500))
    add(book, tellings_of(messages))
    again = make_book(tmp_path)
    assert picture(again) == picture(book)
    assert totals_of(again) == totals_of(book)


def test_changed_opening_position_folds_anew_at_the_next_start(tmp_path):
    book = make_book(tmp_path)
    add(book, [trade(10, "a", -2, 110)])
    again = make_book(tmp_path, opening_of=lambda key, terms: opened(2 * UNIT, 100 * UNIT, 0, terms))
    assert again.by_key[KEY].state.quantity == 0
    assert to_units(again.by_key[KEY].state.realized) == 20 * UNIT
    assert picture(make_book(tmp_path)) == picture(book)


def test_damaged_file_is_put_aside(tmp_path):
    book = make_book(tmp_path)
    add(book, [trade(10, "a", 1)])
    book.store.close()
    path = tmp_path / "fills.sqlite"
    path.write_bytes(b"not a database, though it is as long as one" * 100)
    again = make_book(tmp_path)
    assert again.by_key == {}
    assert (tmp_path / "fills.sqlite.damaged").exists()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE position SET state=substr(state,1,3)||x'00'||substr(state,5)", "UPDATE position SET terms='x'",
        "UPDATE position SET state=CAST(x'80' AS TEXT)", "UPDATE day SET equity='1x'", "UPDATE day SET key=77",
        "UPDATE close SET beyond=NULL",
    ],
    ids=["state", "terms", "no-utf8", "number", "key", "close"],
)  # fmt: skip
def test_row_that_is_not_what_was_written_puts_the_file_aside(tmp_path, damage):
    book = make_book(tmp_path)
    add(book, [trade(10, "a", 1)])
    book.store.put_groups([((KEY[0], ALL, ALL), 1, 5)], [])
    book.store.db.execute(damage)
    book.store.close()
    store = Store(tmp_path)
    with pytest.raises(StateUnusable), store.unusable():
        Totals(lambda account: 0, store.closes())
        make_book(tmp_path)
    store.close()
    assert (tmp_path / "fills.sqlite.damaged").exists()
    assert make_book(tmp_path).by_key == {}


def test_damage_found_later_ends_the_actor_and_puts_the_file_aside(tmp_path):
    book = make_book(tmp_path)
    add(book, [trade(n, f"{n}", 1) for n in range(2000)])
    book.store.checkpoint()
    book.store.close()
    path = tmp_path / "fills.sqlite"
    data = bytearray(path.read_bytes())
    for page in range(8, len(data) // 4096):
        data[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    path.write_bytes(data)
    store = Store(tmp_path)
    with pytest.raises(StateUnusable) as error, store.unusable():
        list(store.fills(1, FIRST))
        list(store.days())
    assert error.value.retriable
    assert make_book(tmp_path).by_key == {}


@pytest.mark.parametrize("seed", range(4))
def test_streams_of_messages_agree_with_fractions(tmp_path, seed):
    messages = list(execution_stream(random.Random(seed), 600, late=0.2, told_twice=0.2, repeated=0.1))
    book = make_book(tmp_path)
    tellings = tellings_of(messages)
    for start in range(0, len(tellings), 37):
        add(book, tellings[start : start + 37])
    oracles = fold_all(true_set(messages))
    assert picture(book).keys() == oracles.keys()
    for key, oracle in oracles.items():
        state = book.by_key[key].state
        assert (state.quantity, state.fills) == (rounded(oracle.quantity), oracle.fills)
        assert to_units(state.fees) == rounded(oracle.fees)
        assert abs(to_units(state.realized) - rounded(oracle.realized)) <= 1
        assert to_units(state.realized - state.cost) == rounded(oracle.cash)


def test_groups_are_the_sums_of_their_positions(tmp_path):
    book = make_book(tmp_path)
    add(book, tellings_of(execution_stream(random.Random(9), 400)))
    totals = totals_of(book)
    for field in ("realized", "fees", "volume", "fills", "wins", "losses", "open", "gross_profit"):
        whole = sum(getattr(totals[account, ALL, ALL][0], field) for account in ("default", "acct-7"))
        parts = sum(getattr(sums[0], field) for name, sums in totals.items() if ALL not in name)
        assert whole == parts
    for name, (sums, _, _, days) in totals.items():
        assert sum(by for _, by in days) == sums.pnl, name


def test_groups_kept_by_differences_equal_groups_made_anew(tmp_path):
    book, totals = make_book(tmp_path), Totals(lambda account: 0)
    rng = random.Random(3)
    tellings = tellings_of(execution_stream(rng, 400, late=0.3, told_twice=0.2))
    for start in range(0, len(tellings), 11):
        for position in book.apply(tellings[start : start + 11]):
            totals.update(position, Mark(position.state.price, 0, MARKS.index("fill")), RATE_UNIT)
    kept = {
        name: (group.sums, group.largest_win, group.largest_loss,
               sorted((day, by) for day, by in group.deltas.items() if by))
        for name, group in totals.groups.items()
    }  # fmt: skip
    made = {
        name: (sums, win, loss, [(day, by) for day, by in days if by])
        for name, (sums, win, loss, days) in totals_of(book).items()
    }
    assert kept == made


def test_group_in_another_currency_is_converted(tmp_path):
    book, totals = make_book(tmp_path), Totals(lambda account: 0)
    [position] = book.apply([trade(DAY_NS, "a", 2, 3, key=(*KEY[:3], "ETHBTC"))])
    assert position.settled_in == "BTC"
    totals.update(position, Mark(4 * UNIT, 0, 1), 50_000 * RATE_UNIT)
    assert to_units(totals.groups["a", ALL, ALL].sums.unrealized) == 100_000 * UNIT
    totals.update(position, Mark(4 * UNIT, 0, 1), 0)
    assert totals.groups["a", ALL, ALL].sums.pnl == 0
    totals.update(position, NO_MARK, RATE_UNIT)
    assert totals.groups["a", ALL, ALL].sums.unrealized == 0


def test_group_whose_rate_is_known_late_has_its_days_all_the_same(tmp_path):
    book, totals = make_book(tmp_path), Totals(lambda account: 0)
    fills = [trade(day * DAY_NS, f"{day}", side, price, key=(*KEY[:3], "ETHBTC"))
             for day, side, price in ((1, 2, 3), (2, -2, 4))]  # fmt: skip
    [position] = book.apply(fills)
    totals.update(position, NO_MARK, 0)
    totals.update(position, NO_MARK, 50_000 * RATE_UNIT)
    assert to_units(totals.groups["a", ALL, ALL].start_of(3, 1)) == 100_000 * UNIT


def test_days_of_another_currency_keep_their_rates_through_a_restart(tmp_path):
    key = (*KEY[:3], "ETHBTC")
    book, totals = make_book(tmp_path), Totals(lambda account: 0)
    for day, side, price, rate in ((1, 2, 3, 50_000), (2, -2, 4, 60_000)):
        [position] = book.apply([trade(day * DAY_NS, f"{day}", side, price, key=key)])
        totals.update(position, NO_MARK, rate * RATE_UNIT)
    totals.update(position, NO_MARK, 70_000 * RATE_UNIT)  # which changes nothing of what was
    group = totals.groups["a", ALL, ALL]
    assert to_units(group.start_of(3, 1)) == 120_000 * UNIT
    book.store.put_rates("USDT", totals.new_rates)
    book.store.commit()
    again = make_book(tmp_path)
    totals = Totals(lambda account: 0, rates=again.store.rates("USDT"))
    totals.update(again.by_key[key], NO_MARK, 90_000 * RATE_UNIT)
    assert not totals.new_rates
    assert to_units(totals.groups["a", ALL, ALL].start_of(3, 1)) == 120_000 * UNIT
    assert totals.groups["a", ALL, ALL].deltas == group.deltas
    late = trade(DAY_NS + 5, "late", 1, 4, key=key)  # it makes the day of the first fill end 2 BTC higher
    [position] = again.apply([late])
    totals.update(position, NO_MARK, 90_000 * RATE_UNIT)
    assert to_units(totals.groups["a", ALL, ALL].deltas[1]) == 100_000 * UNIT


@pytest.mark.parametrize(("version", "lacks"), [(1, ("rate", "mark", "quoted")), (2, ("mark", "quoted"))])
def test_file_of_a_version_before_is_taken_on(tmp_path, version, lacks):
    book = make_book(tmp_path)
    add(book, [trade(1, "x", 1)])
    book.store.db.executescript("".join(f"DROP TABLE {name};" for name in lacks) + f"PRAGMA user_version={version}")
    book.store.close()
    again = make_book(tmp_path)
    assert picture(again) == picture(book) and list(again.store.rates("USDT")) == list(again.store.marks()) == []


def test_holding_time_of_openings_is_corrected_in_a_file_of_a_version_before(tmp_path):
    other = (*KEY[:3], "ETHUSDT")

    def opening(key: Any, terms: Terms) -> State:
        return opened(2 * UNIT, 100 * UNIT, 0, terms) if key == KEY else State()

    book = make_book(tmp_path, opening_of=opening)
    add(book, [trade(10, "a", -2), trade(10, "b", -2, key=other)])
    for position in book.by_key.values():
        position.state.holding_ns = 10**18
        book.store.put_states([(position.number, position.state, position.last)])
    book.store.db.executescript("DROP TABLE mark; DROP TABLE quoted; PRAGMA user_version=2")
    book.store.close()
    again = make_book(tmp_path, opening_of=opening)
    assert [again.by_key[key].state.holding_ns for key in (KEY, other)] == [0, 10**18]


def test_keys_with_separators_in_their_parts_have_names_of_their_own():
    assert key_text(("a|b", "s")) != key_text(("a", "b|s"))
    assert key_text(("a\\", "|s")) != key_text(("a\\|", "s"))
    assert key_text(KEY) == "a|s|binance|BTCUSDT"


def test_group_history_gives_starts_of_day_week_and_month(tmp_path):
    book, totals = make_book(tmp_path), Totals(lambda account: 1000 * RATE_UNIT)
    days = [
        trade(day * DAY_NS, f"{day}{side}", side, 100 + (5 if side < 0 else 0)) for day in range(40) for side in (1, -1)
    ]
    [position] = book.apply(sorted(days, key=lambda one: one.execution.order))
    totals.update(position, Mark(100 * UNIT, 0, 1), RATE_UNIT)
    group = totals.groups["a", ALL, ALL]
    starts = [to_units(group.start_of(40, n)) // UNIT for n in (1, 7, 30)]
    earned = [to_units(position.days[day]) // UNIT for day in (39, 33, 10)]
    assert starts == earned
    group.observe(40)
    assert group.peak == max(position.days.values())
    group.sums = group.sums._replace(unrealized=group.sums.unrealized - 100 * RATE_UNIT)
    group.observe(40)
    assert group.max_drawdown > 0
    assert group.closes[40] == group.sums.pnl - group.paper
    for one in totals.groups.values():  # a strategy and a symbol draw on what their account has
        one.sums = group.sums
        one.observe(40)
        assert one.max_drawdown == group.max_drawdown


_STREAM = list(execution_stream(random.Random(11), 120, late=0.2, told_twice=0.3, repeated=0.2))
_TELLINGS = tellings_of(_STREAM)


@pytest.fixture(scope="module")
def in_order(tmp_path_factory) -> tuple[Any, Any]:
    book = make_book(tmp_path_factory.mktemp("in-order"))
    for fill in true_set(_STREAM):
        # the telling that counts, by the rule that the book has
        variant = min(
            (m.variant for m in _STREAM if fill in m.fills), key=("api", "dashboard", "mon-rich", "mon-flat").index
        )
        add(book, [telling_of(fill, variant)])
    return picture(book), totals_of(book)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    permutation=st.permutations(range(len(_TELLINGS))), partitions=st.integers(1, 5), size=st.integers(1, 60),
    by_partition=st.booleans(),
)  # fmt: skip
def test_any_permutation_and_any_split_into_partitions_gives_the_same_state(
    tmp_path_factory, in_order, permutation: Sequence[int], partitions, size, by_partition
):
    tellings = [_TELLINGS[n] for n in permutation]
    if by_partition:  # each partition in order, one after the other
        tellings = [one for part in range(partitions) for one in _TELLINGS[part::partitions]]
    book = make_book(tmp_path_factory.mktemp("book"))
    for start in range(0, len(tellings), size):
        add(book, tellings[start : start + size])
    assert picture(book) == in_order[0]
    assert totals_of(book) == in_order[1]
    stored = make_book(book.store.path.parent)
    assert picture(stored) == in_order[0]
    book.store.close()
    stored.store.close()
