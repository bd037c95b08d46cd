"""Equity by day, peaks and drawdowns: what was seen of the market, through days on which nobody looked."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tickring.actors import portfolio as actor
from tickring.actors.portfolio.book import Position
from tickring.actors.portfolio.fold import DAY_NS, FIRST, RATE_UNIT, Execution, State, Terms, fold, opened
from tickring.actors.portfolio.portfolio import Portfolio
from tickring.actors.portfolio.totals import Group, Mark, Totals
from tickring.actors.runtime import ActorContext
from tickring.codecs.desk.canonical import ALL_SYMBOLS as ALL
from tickring.codecs.desk.canonical import Fill
from tickring.codecs.desk.money import UNIT, amount_of
from tickring.codecs.desk.records import PNL
from tickring.codecs.records import QUOTE as QUOTES
from tickring.codecs.symbols import Instrument
from tickring.ringbuf import MetricsPage, StreamReader, create_keys, create_stream, keys_filename

from .desk_rig import DeskProducer, Topic

NAME = "portfolio"
WHOLE = ("a", ALL, ALL)
DAY = 20_000
START = DAY * DAY_NS
SECOND = 10**9


def position_of(*fills: tuple[int, int, int], symbol: str = "BTCUSDT", opening: State | None = None) -> Position:
    """A position after fills: ``(day, signed quantity, price)``."""
    opening = opening or State()
    made = Position(1, ("a", "s", "binance", symbol), Terms(), opening, opening.copy(), FIRST)
    for n, (day, quantity, price) in enumerate(fills):
        trade(made, n, day, quantity, price)
    return made


def trade(position: Position, n: int, day: int, quantity: int, price: int) -> None:
    before = position.total
    fold(position.state, Execution(day * DAY_NS, f"{n}", quantity < 0, abs(quantity) * UNIT, price * UNIT), Terms())
    position.days[day] = position.total = position.state.equity(position.terms)
    position.changed(day, position.total - before)


def seen(totals: Totals, day: int, *marked: tuple[Position, int]) -> Group:
    """The whole account, observed with positions at quotes."""
    for position, price in marked:
        totals.update(position, Mark(price * UNIT, 0, 1), RATE_UNIT)
    for group in totals.groups.values():
        group.observe(day)
    return totals.groups[WHOLE]


def restarted(totals: Totals) -> Totals:
    """With what is stored of it."""
    groups = totals.groups.items()
    closes = [(name, day, beyond) for name, group in groups for day, beyond in group.closes.items()]
    return Totals(lambda account: 0, closes, [(name, group.peak, group.max_drawdown) for name, group in groups])


def whole(units: Iterable[int]) -> list[int]:
    return [one // RATE_UNIT for one in units]


def test_day_on_which_nobody_looked_ends_as_the_day_before():
    totals = Totals(lambda account: 0)
    seen(totals, DAY, (position_of((DAY, 1, 100)), 200))
    totals = restarted(totals)  # and away for two days
    group = seen(totals, DAY + 3, (position_of((DAY, 1, 100)), 200))
    assert whole(group.history(DAY + 3)[0]) == [100, 100, 100]
    assert group.start_of(DAY + 3, 1) == group.sums.pnl
    assert group.max_drawdown == 0


def test_day_with_fills_on_which_nobody_looked_keeps_the_marks_of_what_was_not_traded():
    totals = Totals(lambda account: 0)
    bitcoin, ether = position_of((DAY, 1, 100)), position_of((DAY, 1, 10), symbol="ETHUSDT")
    ether.number = 2
    group = seen(totals, DAY, (bitcoin, 200), (ether, 40))
    trade(ether, 1, DAY + 1, 1, 30)  # which values it at 30
    totals.update(ether, Mark(30 * UNIT, 0, 2), RATE_UNIT)
    assert whole(group.history(DAY + 3)[0]) == [130, 120, 120]


def test_flat_group_has_no_row_for_each_day():
    totals = Totals(lambda account: 0)
    flat = position_of((DAY, 1, 100), (DAY, -1, 110))
    for day in range(DAY, DAY + 5):
        seen(totals, day, (flat, 100))
    group = totals.groups[WHOLE]
    assert not group.closes
    assert whole(group.history(DAY + 5)[0]) == [10] * 5


def test_opening_without_a_fill_has_a_history():
    totals, held = Totals(lambda account: 0), position_of(opening=opened(UNIT, 100 * UNIT, 0, Terms()))
    for day, price in ((DAY, 160), (DAY + 1, 165), (DAY + 2, 175)):
        seen(totals, day, (held, price))
    group = totals.groups[WHOLE]
    assert whole(group.history(DAY + 2)[0]) == [60, 65]
    assert group.sums.pnl - group.start_of(DAY + 2, 1) == 10 * RATE_UNIT


class Clock:
    def __init__(self) -> None:
        self.now = START


class Feed(DeskProducer):
    """A feed that quotes."""

    def __init__(self, shm: Path, product: str = "spot") -> None:
        super().__init__(shm, f"feed-binance-{product}-0", (QUOTES,))
        self.product = product

    def quote(self, base: str, bid: float, ask: float | None = None, **more: Any) -> None:
        names = {"native": f"{base}USDT", "quote": "USDT", **more}
        one = Instrument(exchange="binance", product=self.product, base=base, **names)
        key_id, now = self.key(one.key, **one.attributes()), time.time_ns()
        self.publish["quote"](key_id, now, now, 0, bid, 1.0, bid if ask is None else ask, 1.0)


class Desk:
    """A portfolio that is told when to work, at the time of a clock that is set."""

    def __init__(self, shm: Path, data: Path, clock: Clock) -> None:
        self.shm, self.data, self.clock = shm, data, clock
        self.topic, self.feed = Topic(shm, "exec.reports.v1"), Feed(shm)
        self.settings: dict[str, Any] = {"capital": {"a": "1000"}}
        self.portfolio: Portfolio = None  # type: ignore[assignment]

    def start(self) -> None:
        config = msgspec.convert({"clickhouse": {"url": "http://127.0.0.1:9"}, **self.settings}, actor.Config)
        specs = actor.streams(NAME, config)
        if not (self.shm / keys_filename(NAME)).exists():
            create_keys(self.shm / keys_filename(NAME), specs[0].keys_max)
        for spec in specs:
            create_stream(self.shm, spec, time.time_ns())
        page = MetricsPage(self.shm, NAME, time.time_ns())
        self.portfolio = Portfolio(ActorContext(NAME, NAME, self.shm, self.data, config, page))
        self.portfolio.start()

    def turn(self) -> None:
        """One round of its loop, with everything due; ClickHouse has nothing."""
        one = self.portfolio
        for ring in one.rings.values():
            ring.searched = True
            ring.holes.clear()
        one.read()
        one._refresh_at = one._mark_at = one._pnl_at = one._commit_at = 0.0
        one.turn(time.monotonic())

    def at(self, now_ns: int) -> None:
        self.clock.now = now_ns
        self.turn()

    def kill(self) -> None:
        one = self.portfolio
        for ring in one.rings.values():
            ring.close()
        for part in (one.statements, one.publisher, one.marks):
            part.close()
        if one.store.changing:
            one.store.db.rollback()
        one.store.close()
        one.ctx.page.close()

    def fill(self, n: int, quantity: int, price: int, ts_ns: int, symbol: str = "BTCUSDT", **members: Any) -> None:
        self.topic.fill(Fill(**{
            "fill_id": f"f{n}", "symbol": symbol, "side": "SELL" if quantity < 0 else "BUY",
            "quantity": abs(quantity) * UNIT, "price": price * UNIT, "timestamp": ts_ns, "strategy_id": "s",
            "account_id": "a", "venue": "binance", **members,
        }))  # fmt: skip

    def pnl(self) -> dict[str, Any]:
        """What is published of the whole account."""
        reader = StreamReader(self.shm, NAME, PNL.name, PNL.dtype, PNL.fingerprint)
        try:
            keys = {tuple(key.attributes.values()): key.key_id for key in reader.keys if "venue" not in key.attributes}
            row = reader.latest(keys[WHOLE])
            assert row is not None
            return {
                name: amount_of(bytes(row[name])) / UNIT if row.dtype[name].kind == "V" else row[name].item()
                for name in row.dtype.names or ()
            }
        finally:
            reader.close()


@pytest.fixture
def run(shm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``run(script)``: a script with a portfolio whose clock it sets."""
    clock = Clock()
    monkeypatch.setattr(time, "time_ns", lambda: clock.now)
    made: list[Desk] = []

    def play(script: Callable[[Desk], None]) -> None:
        async def work() -> None:
            made.append(Desk(shm, tmp_path, clock))
            script(made[0])

        asyncio.run(work())

    yield play
    for one in made:
        one.kill()
        one.topic.close()
        one.feed.close()


def test_last_change_of_a_day_is_stored_after_midnight(run):
    def script(desk: Desk) -> None:
        midnight = START + DAY_NS
        desk.clock.now = midnight - 300 * SECOND
        desk.feed.quote("BTC", 100.0)
        desk.start()
        desk.fill(1, -1, 100, desk.clock.now)
        for second in range(-299, 5):
            desk.feed.quote("BTC", 100.0 if second < -30 else 500.0)
            desk.at(midnight + second * SECOND)
        before = desk.pnl()
        assert before["day_start_pnl"] == -400
        desk.portfolio.commit()
        desk.kill()
        desk.start()
        desk.turn()
        assert desk.pnl()["day_start_pnl"] == -400

    run(script)


def climb(desk: Desk) -> None:
    """Ten bought at 100 that are quoted at 219 in the end."""
    desk.clock.now = START + 3600 * SECOND
    desk.feed.quote("BTC", 100.0)
    desk.start()
    desk.fill(1, 10, 100, desk.clock.now)
    desk.turn()
    for _ in range(119):
        desk.feed.quote("BTC", 100.0 + (desk.clock.now // SECOND - 3600) % 86_400 + 1)
        desk.at(desk.clock.now + SECOND)
    assert desk.pnl()["total_pnl"] == 1190


def test_quote_without_one_side_leaves_the_mark_that_was(run):
    def script(desk: Desk) -> None:
        climb(desk)
        desk.feed.quote("BTC", float("nan"), 219.0)
        desk.at(desk.clock.now + SECOND)
        assert (desk.pnl()["total_pnl"], desk.pnl()["max_drawdown"]) == (1190, 0)
        desk.at(desk.clock.now + 600 * SECOND)
        [position] = desk.portfolio.open.values()
        assert desk.portfolio.publisher.live[position.number] == 0  # stale

    run(script)


@pytest.mark.parametrize("ring", ["empty", "gone"])
def test_restart_before_the_first_quote_keeps_the_mark_that_was(run, ring):
    def script(desk: Desk) -> None:
        climb(desk)
        desk.portfolio.save_groups()
        desk.portfolio.commit()
        desk.kill()
        desk.feed.close()
        for path in desk.shm.glob("feed-binance-spot-0*"):
            path.unlink()
        if ring == "empty":
            desk.feed = Feed(desk.shm)
        desk.clock.now += 5 * SECOND
        desk.start()
        desk.turn()
        assert (desk.pnl()["total_pnl"], desk.pnl()["max_drawdown"]) == (1190, 0)
        if ring == "gone":  # and nobody collects it any more: the newest price counts
            desk.fill(2, 1, 210, desk.clock.now)
            desk.feed = Feed(desk.shm)
        else:
            desk.feed.quote("BTC", 210.0)
        desk.at(desk.clock.now + SECOND)
        assert desk.pnl()["total_pnl"] == 1100

    run(script)


def test_currency_whose_quote_is_gone_keeps_its_rate(run):
    def script(desk: Desk) -> None:
        desk.clock.now = START + 3600 * SECOND
        desk.feed.quote("BTC", 50_000.0)
        desk.start()
        desk.fill(1, 1, 3, desk.clock.now, "ETHBTC")
        desk.fill(2, -1, 4, desk.clock.now + 1, "ETHBTC")
        desk.turn()
        assert desk.pnl()["total_pnl"] == 50_000
        desk.feed.quote("BTC", float("nan"), 50_000.0)
        desk.at(desk.clock.now + SECOND)
        assert (desk.pnl()["total_pnl"], desk.pnl()["max_drawdown"]) == (50_000, 0)
        desk.portfolio.save_groups()
        desk.portfolio.commit()
        desk.kill()
        desk.start()
        desk.turn()
        assert (desk.pnl()["total_pnl"], desk.pnl()["max_drawdown"]) == (50_000, 0)
        desk.at(desk.clock.now + 2 * DAY_NS)  # nobody knows by now
        assert desk.pnl()["total_pnl"] == 0

    run(script)


@pytest.mark.parametrize("stored", [False, True], ids=["at-once", "after-a-restart"])
def test_late_fill_of_a_day_that_is_over_is_valued_at_the_end_of_that_day(run, stored):
    def script(desk: Desk) -> None:
        desk.clock.now = START + 10 * 3600 * SECOND
        desk.feed.quote("BTC", 100.0)
        desk.start()
        desk.fill(1, 2, 100, desk.clock.now)
        desk.turn()
        for _ in range(14):
            desk.clock.now += 3600 * SECOND
            desk.feed.quote("BTC", 150.0)
            desk.turn()
        assert desk.pnl()["day_start_pnl"] == 100
        if stored:
            desk.portfolio.commit()
            desk.kill()
            desk.start()
        desk.fill(2, -1, 120, START + 11 * 3600 * SECOND)
        desk.turn()
        row = desk.pnl()
        assert (row["total_pnl"], row["day_start_pnl"], row["peak_pnl"]) == (70, 70, 100)

    run(script)


def test_late_fill_at_a_mark_that_is_not_known_any_more_leaves_what_was_seen():
    totals, held = Totals(lambda account: 0), position_of((DAY, 2, 100))
    seen(totals, DAY, (held, 150))
    group = seen(totals, DAY + 1, (held, 150))
    held.move(Execution(DAY * DAY_NS + 5, "late", True, UNIT, 120 * UNIT, 3 * UNIT))
    trade(held, 1, DAY, -1, 120)
    totals.update(held, Mark(150 * UNIT, 0, 1), RATE_UNIT)
    group.renew(DAY + 1)
    assert whole(group.history(DAY + 1)[0]) == [97]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_peak_and_drawdown_do_not_depend_on_the_order_of_arrival(run, order):
    def script(desk: Desk) -> None:
        desk.clock.now = START + 10 * SECOND
        desk.start()
        for n in order:
            desk.fill(n, (10, -5, -5)[n], (100, 110, 130)[n], START + n)
            desk.turn()
        row = desk.pnl()
        assert (row["total_pnl"], row["peak_pnl"], row["max_drawdown"]) == (200, 200, 0)

    run(script)


def test_what_was_seen_before_the_time_of_a_late_fill_still_counts():
    group = Group(WHOLE, 0)
    for second, pnl in enumerate((0, 100, 40, 300, 30)):
        group.sums = group.sums._replace(realized=pnl * RATE_UNIT)
        group.observe(DAY, second)
    assert (group.peak, group.max_drawdown) == (300 * RATE_UNIT, 0.9)
    group.forget(3)
    assert (group.peak, group.max_drawdown) == (100 * RATE_UNIT, 0.6)


def test_fall_from_the_highest_of_a_day_is_no_fall_from_its_end():
    totals, held = Totals(lambda account: 0), position_of((DAY, 1, 1000))
    for day, price in ((DAY, 1100), (DAY, 1001), (DAY + 1, 950), (DAY + 2, 950)):
        seen(totals, day, (held, price))
    for found in (totals, restarted(totals)):
        group = seen(found, DAY + 2, (position_of((DAY, 1, 1000)) if found is not totals else held, 950))
        assert (group.peak, group.max_drawdown) == (100 * RATE_UNIT, 1.5)


def test_terms_of_a_contract_that_its_feed_tells_after_the_first_fill(run):
    def script(desk: Desk) -> None:
        desk.feed.quote("BTC", 50_000.0)
        desk.start()
        desk.fill(1, 10, 50_000, START, "BTCUSD_PERP", commission=UNIT // 10_000, commission_asset="BTC")
        desk.turn()
        coins = Feed(desk.shm, "coinm")
        listed = {"native": "BTCUSD_PERP", "quote": "USD", "market_type": "perpetual", "inverse": True}
        coins.quote("BTC", 50_000.0, contract_value=100.0, **listed)
        desk.turn()
        desk.turn()
        assert_inverse(desk.pnl())
        coins.close()
        desk.portfolio.commit()
        desk.kill()
        for path in desk.shm.glob("feed-binance-coinm-0*"):
            path.unlink()
        desk.start()  # what was found is kept without the feed
        desk.turn()
        assert_inverse(desk.pnl())

    def assert_inverse(row: dict[str, Any]) -> None:
        assert (row["exposure"], row["total_pnl"], row["fees"]) == (1000, -5, 5)
        assert (row["peak_pnl"], row["max_drawdown"]) == (0, 0.005)

    run(script)


def test_amounts_beyond_38_digits_are_cut_off_and_counted(run):
    def script(desk: Desk) -> None:
        desk.start()
        desk.fill(1, 10**28, 150, START)  # 1.5e38 units: 128 bits have room for it, Decimal(38, 8) has not
        desk.turn()
        assert desk.pnl()["exposure"] == (10**38 - 1) / UNIT
        assert desk.portfolio.publisher.overflows > 0

    run(script)
