"""What the desk's side of the front keeps from request to request is what it would work out anew."""

from __future__ import annotations

import asyncio
import gc
import itertools
import operator
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tickring.actors.front.desk.desk import _fill_keys, fill_identity
from tickring.actors.front.desk.portfolio import READ_ROWS, LatestRows, Once
from tickring.actors.front.desk.rendered import Rendered
from tickring.actors.front.desk.running import Span, Sum, Totals
from tickring.actors.front.desk.seam import ITEMS, Seam
from tickring.actors.front.desk.series import PIECE, Series
from tickring.actors.front.desk.shelf import ALL, Shelf
from tickring.actors.front.desk.sums import Sums
from tickring.actors.front.envelope import Spliced, spliced
from tickring.actors.recent import Recent
from tickring.codecs.desk.canonical import Fill
from tickring.codecs.desk.records import FILL, POSITION, TEXTS
from tickring.codecs.record import Flag
from tickring.ringbuf import ByteRingReader, StreamReader, bytes_filename

from .desk_rig import Portfolio, Topic
from .test_front_fills import a_fill

SIZE, SECOND, NOW = 64, 10**9, time.time_ns()
DEADLINE_S = 30.0


@pytest.fixture
def topic(tmp_path: Path) -> Iterator[Topic]:
    made = Topic(tmp_path, "exec.reports.v1")
    yield made
    made.close()


@pytest.fixture
def shelf(tmp_path: Path, topic: Topic) -> Iterator[Shelf[Fill]]:
    reader = StreamReader(tmp_path, topic.name, FILL.name, FILL.dtype)
    recent = Recent(reader, ByteRingReader(tmp_path / bytes_filename(topic.name, TEXTS)), Fill, SIZE)
    yield Shelf(recent, _fill_keys, fill_identity)
    recent.close()


def put(topic: Topic, n: int, **more: Any) -> int:
    """Returns its offset."""
    topic.fill(a_fill(n, timestamp=NOW + n * SECOND), recv_ns=NOW + n * SECOND + 1, **more)
    return topic.offset - 1


class Older:
    """History: everything that was ever published."""

    def __init__(self) -> None:
        self.offsets: dict[int, int] = {}
        self.ranges: list[tuple[int, int]] = []  # that were asked for

    @property
    def asked(self) -> int:
        return len(self.ranges)

    async def count(self, seam: Seam, start: int, end: int) -> int | None:
        self.ranges.append((start, end))
        await asyncio.sleep(0)
        return sum(
            offset * ITEMS < seam.holds[0] and start <= NOW + n * SECOND < end for n, offset in self.offsets.items()
        )


def totals_of(*, keep_s: float = 60.0, wait_s: float = DEADLINE_S) -> Totals:
    return Totals(keep_s, 16, wait_s, asyncio.Semaphore(2))


def counting(older: Older | None) -> Sum[int]:
    return Sum("count", int, lambda count, _: count + 1, older.count if older else None, operator.sub)


def test_shelf_holds_what_its_stream_holds_and_little_more(topic: Topic, shelf: Shelf[Fill]) -> None:
    for n in range(5 * SIZE):
        put(topic, n)
        put(topic, n)  # the same fill again, as another variant tells it
        if not n % 7:
            shelf.refresh()
    known, first, stop = shelf.span(ALL, 0, 1 << 62)
    newest = [item.value.fill_id for item in known[first:stop]]
    assert newest == [f"f-{n}" for n in range(5 * SIZE - len(newest), 5 * SIZE)]
    assert SIZE // 2 - 1 <= len(newest) <= SIZE + 4
    left = 5 * SIZE - len(newest) - 1
    assert shelf.since_ns == NOW + left * SECOND + 2, "of one time of receipt some may be gone"
    assert [item.value.fill_id for item in shelf.arrived(shelf.next - 4)] == [f"f-{5 * SIZE - n}" for n in (2, 1)]
    assert shelf.holds(shelf.next) and shelf.holds(shelf.next - SIZE) and not shelf.holds(shelf.next - SIZE - 1)


def test_shelf_tells_what_it_held_when_its_rings_are_gone(topic: Topic, shelf: Shelf[Fill]) -> None:
    """They may be made anew in the midst of an answer."""
    for n in range(3):
        put(topic, n)
    shelf.refresh()
    seam = shelf.seam()
    shelf.recent.close()
    assert [item.value.fill_id for item in shelf.newest_first(ALL, 0, 1 << 62)] == ["f-2", "f-1", "f-0"]
    assert shelf.seam() == seam


@pytest.mark.parametrize("seed", range(3))
def test_total_goes_on_where_memory_forgets(topic: Topic, shelf: Shelf[Fill], seed: int) -> None:
    rng, older, totals = random.Random(seed), Older(), totals_of()

    async def go() -> None:
        n = 0
        for _ in range(60):
            for _ in range(rng.randrange(SIZE // 2)):
                older.offsets[n] = put(topic, n)
                if rng.random() < 0.2:
                    put(topic, n, flags=int(Flag.REPEATED))
                n += 1
            span = Span("all", ALL, NOW + 10 * SECOND, 1 << 62)
            assert await totals.of(counting(older), span, shelf) == (max(0, n - 10), True)
        assert older.asked == 1, "the rest is counted as it comes"

    asyncio.run(go())


def test_total_is_asked_for_again_when_memory_ran_through_meanwhile(topic: Topic, shelf: Shelf[Fill]) -> None:
    older, totals = Older(), totals_of()
    span = Span("all", ALL, 0, 1 << 62)

    async def go() -> None:
        for round_ in range(1, 4):
            for n in range((round_ - 1) * 3 * SIZE, round_ * 3 * SIZE):
                older.offsets[n] = put(topic, n)
            assert await totals.of(counting(older), span, shelf) == (round_ * 3 * SIZE, True)
            assert older.asked == round_

    asyncio.run(go())


def test_total_is_handed_out_while_a_new_one_is_worked_out(topic: Topic, shelf: Shelf[Fill]) -> None:
    older, totals = Older(), totals_of(keep_s=0.05)
    totals._kept._stale_s = 60.0

    async def go() -> None:
        older.offsets[1] = put(topic, 1)
        assert await totals.of(counting(older), Span("all", ALL, 0, 1 << 62), shelf) == (1, True)
        await asyncio.sleep(0.06)
        # the first fill has left the range
        later = Span("all", ALL, NOW + 2 * SECOND, 1 << 62)
        assert await totals.of(counting(older), later, shelf) == (1, True)
        deadline = time.monotonic() + 20
        while (await totals.of(counting(older), later, shelf))[0]:
            assert time.monotonic() < deadline, "the range never moved on"
            await asyncio.sleep(0)

    asyncio.run(go())


@pytest.mark.parametrize("seed", range(3))
def test_of_a_moving_range_only_what_left_it_is_asked_for(topic: Topic, shelf: Shelf[Fill], seed: int) -> None:
    rng, older, totals = random.Random(seed), Older(), totals_of(keep_s=0.0)

    async def go() -> None:
        n, start, starts = 0, 0, []
        for _ in range(60):
            for _ in range(rng.randrange(8, SIZE // 2)):
                older.offsets[n] = put(topic, n)
                n += 1
            start = rng.randrange(start, max(start, n - SIZE) + 1)
            starts.append(NOW + start * SECOND)
            span = Span("all", ALL, starts[-1], 1 << 62)
            assert await totals.of(counting(older), span, shelf) == (n - start, True)
        moves = [(one, other) for one, other in itertools.pairwise(starts) if one < other]
        assert older.ranges == [(starts[0], 1 << 62), *moves]

    asyncio.run(go())


@pytest.mark.parametrize("seed", range(3))
def test_sums_without_those_of_some_fills_are_the_sums_of_the_rest(seed: int) -> None:
    rng = random.Random(seed)

    def sums_of(fills: list[Fill]) -> Sums:
        sums = Sums()
        for fill in fills:
            sums.add(fill)
        return sums

    fills = [
        a_fill(n, symbol=rng.choice(("SOLUSDT", "ETHBTC", "BTCUSDT")), quantity=rng.randrange(1, 10**20),
               price=rng.randrange(1, 10**12), commission=rng.randrange(-(10**6), 10**6),
               commission_asset=rng.choice(("BNB", "USDT")), slippage_bps=rng.choice((None, 1.5, -2.0)))
        for n in range(12)
    ]  # fmt: skip
    for gone in range(13):
        rest = sums_of(fills).without(sums_of(fills[:gone]))
        expected = sums_of(fills[gone:])
        assert rest is not None and replace(rest, lowest=0, highest=0) == replace(expected, lowest=0, highest=0)
    assert sums_of(fills[:3]).without(sums_of([*fills[:3], a_fill(99, symbol="XRPUSDT")])) is None


def test_total_is_worked_out_anew_where_something_may_count_twice(topic: Topic, shelf: Shelf[Fill]) -> None:
    """It may have been told of before memory began, of which memory knows nothing."""
    older, totals = Older(), totals_of(keep_s=0.0)

    async def go() -> None:
        for n in range(10, 20):
            put(topic, n)

        async def asked(start: int) -> tuple[int, int]:
            await totals.of(counting(older), Span("all", ALL, NOW + start * SECOND, 1 << 62), shelf)
            first, last = older.ranges[-1]
            return (first - NOW) // SECOND, (last - NOW) // SECOND

        whole = ((1 << 62) - NOW) // SECOND
        assert [await asked(start) for start in (1, 2, 3)] == [(1, whole), (1, 2), (2, 3)]
        put(topic, 20)
        assert await asked(4) == (3, 4)
        put(topic, 9)
        assert [await asked(start) for start in (5, 6)] == [(5, whole), (5, 6)], "in doubt only once"
        assert await asked(3) == (3, whole), "our clock was set back"

    asyncio.run(go())


def test_total_without_an_answer_is_that_of_memory(topic: Topic, shelf: Shelf[Fill]) -> None:
    totals, asked = totals_of(), list[Seam]()

    async def silent(seam: Seam, start: int, end: int) -> int | None:
        asked.append(seam)
        return None

    async def go() -> None:
        for n in range(1, 4):
            put(topic, n)
            what = Sum("count", int, lambda count, _: count + 1, silent)
            assert await totals.of(what, Span("all", ALL, 0, 1 << 62), shelf) == (n, False)
            assert len(asked) == n, "ClickHouse may be back"

    asyncio.run(go())


def test_total_that_takes_long_is_waited_for_once_and_asked_for_once(topic: Topic, shelf: Shelf[Fill]) -> None:
    """However many ask meanwhile: they are told what memory holds, and the whole when it is there."""
    totals, asked = totals_of(wait_s=0.05), list[str]()

    async def go() -> None:
        answered = asyncio.Event()

        def slow(name: str) -> Sum[int]:
            async def older(seam: Seam, start: int, end: int) -> int | None:
                asked.append(name)
                await answered.wait()
                return 100

            return Sum(name, int, lambda count, _: count + 1, older)

        def total(name: str) -> Any:
            return totals.of(slow(name), Span("all", ALL, 0, 1 << 62), shelf)

        for n in range(1, 4):
            put(topic, n)
            assert await total("one") == (n, False)
        assert asked == ["one"]
        assert await total("two") == await total("three") == (3, False)
        assert asked == ["one", "two"], "no more than two questions at once"
        answered.set()
        deadline = time.monotonic() + DEADLINE_S
        while not (await total("three"))[1]:
            assert time.monotonic() < deadline, "the whole is never told"
            await asyncio.sleep(0)
        assert await total("one") == await total("two") == await total("three") == (103, True)
        assert asked == ["one", "two", "three"]

    asyncio.run(go())


def test_what_is_ahead_of_our_clock_is_added_when_its_time_has_come(topic: Topic, shelf: Shelf[Fill]) -> None:
    totals = totals_of()

    async def total(end: int, moving: bool = True) -> int:
        span = Span(("ends", moving), ALL, 0, NOW + end * SECOND, moving)
        return (await totals.of(counting(None), span, shelf))[0]

    async def go() -> None:
        for n in (1, 5, 9):
            put(topic, n)
        assert [await total(end) for end in (2, 5, 6)] == [1, 1, 2]
        put(topic, 7)
        assert [await total(end) for end in (7, 8, 20)] == [2, 3, 4]
        assert await total(6, moving=False) == 2
        put(topic, 3)
        assert await total(6, moving=False) == 3, "late ones belong to it as well"

    asyncio.run(go())


def test_filter_and_key_tell_what_is_added(topic: Topic, shelf: Shelf[Fill]) -> None:
    totals = totals_of()

    async def total(name: str, key: Any, fits: Any = None) -> int:
        return (await totals.of(counting(None), Span(name, key, 0, 1 << 62, True, fits), shelf))[0]

    async def go() -> None:
        for round_ in (1, 2):
            for n in range(10):
                symbol = ("SOLUSDT", "ETH-USDT")[n % 2]
                topic.fill(a_fill(100 * round_ + n, symbol=symbol, side="SELL" if n < 3 else "BUY"))
            assert await total("all", ALL) == 10 * round_
            assert await total("eth", ("*", "ETHUSDT")) == 5 * round_
            assert await total("sold", ALL, lambda fill: fill.side == "SELL") == 3 * round_

    asyncio.run(go())


class Value:
    def __init__(self, n: int) -> None:
        self.n = n


def test_row_is_written_once_and_never_for_another_value() -> None:
    written: list[int] = []

    def write(value: Value) -> int:
        written.append(value.n)
        return value.n

    rows = Rendered(write, rows_kept=32)
    some = [Value(n) for n in range(5)]
    assert rows.array(some) == rows.array(some) == b"[0,1,2,3,4]" and rows.array([]) == b"[]"
    assert len(written) == 5
    for n in range(1000):  # new objects get the addresses of old ones
        assert rows.array([Value(n)]) == b"[%d]" % n
        if not n % 5:
            rows.array(some)
    assert len(written) == 1005
    del some
    gc.collect()


@dataclass
class Told:
    timestamp: int
    n: int


def numbers(values: list[Told]) -> bytes:
    return b",".join(b"%d" % value.n for value in values if value.n % 7)


@pytest.mark.parametrize("seed", range(4))
def test_series_tells_what_a_plain_list_tells(seed: int) -> None:
    rng, series, plain = random.Random(seed), Series[Told](), list[Told]()
    for n in range(3000):
        told = Told(n - rng.choice((0, 0, 0, 3, rng.randrange(900))), n)
        series.add(told)
        plain.append(told)
        plain.sort(key=lambda value: value.timestamp)
        if not n % 11:
            start, most = n - rng.choice((400, 5000)), rng.choice((300, 10_000))
            series.cut(start, most)
            plain = [value for value in plain if value.timestamp >= start][-most:]
            assert len(series) == len(plain) and list(series) == plain
            expected = b"[%b]" % numbers(plain)
            if rng.random() < 0.5:
                asyncio.run(series.prepare("numbers", numbers))
            assert b"".join(series.text("numbers", numbers)) == expected
            odd = series.last("odd", lambda values: next((one for one in reversed(values) if one.n % 2), None))
            assert odd == next((one for one in reversed(plain) if one.n % 2), None)


@pytest.mark.parametrize("rest", [{}, {"a": 1, "b": [2]}])
@pytest.mark.parametrize("texts", [{}, {"long": (b"[", b"1", b",", b"2", b"]")}, {"one": (b"[]",), "two": (b"3",)}])
def test_object_in_parts_is_the_object(rest: dict[str, Any], texts: dict[str, tuple[bytes, ...]]) -> None:
    told = spliced({**{name: Spliced(parts) for name, parts in texts.items()}, **rest})
    assert msgspec.json.decode(b"".join(told)) == rest | {
        name: msgspec.json.decode(b"".join(parts)) for name, parts in texts.items()
    }


def test_series_works_out_again_only_what_has_changed() -> None:
    made: list[int] = []

    def count(values: list[Told]) -> int:
        made.append(len(values))
        return len(values)

    series = Series([Told(n, n) for n in range(10 * PIECE)])
    assert sum(series.each("count", count)) == 10 * PIECE and made == [PIECE] * 10
    series.add(Told(10 * PIECE, 0))
    series.add(Told(3 * PIECE, 0))
    series.cut(5, 10_000)
    assert sum(series.each("count", count)) == 10 * PIECE - 3 and made[10:] == [PIECE - 5, PIECE + 1, 1]


def test_shelf_lets_go_of_as_much_as_it_takes(topic: Topic, shelf: Shelf[Fill]) -> None:
    """However long it is, a refresh costs what came since: no step lets go of everything at once."""
    rng, dropped = random.Random(1), list[int]()
    drop, most = shelf._drop, 0

    def counted(item: Any) -> None:
        dropped.append(item.sequence)
        drop(item)

    shelf._drop = counted  # type: ignore[method-assign]
    for n in range(20 * SIZE):
        topic.fill(a_fill(n, timestamp=NOW + (n - rng.randrange(9)) * SECOND, account_id=f"acct-{n % 3}"))
        if not n % 3:
            shelf.refresh()
            most = max(most, len(dropped))
            dropped.clear()
    shelf.refresh()
    assert 1 <= most <= 3
    held = {item.value.fill_id for item in shelf.newest_first(ALL, 0, 1 << 62)}
    assert held == {item.value.fill_id for item in shelf.recent.items}
    of_one = [item.value.fill_id for item in shelf.newest_first(("acct-1",), 0, 1 << 62)]
    assert set(of_one) == {fill_id for fill_id in held if int(fill_id[2:]) % 3 == 1}
    assert shelf.latest(("*", "SOLUSDT")) is shelf.latest()


def test_newest_rows_are_those_of_every_key_however_they_were_read(tmp_path: Path) -> None:
    rng, portfolio = random.Random(5), Portfolio(tmp_path, keys_max=64)
    reader = StreamReader(tmp_path, "portfolio", POSITION.name, POSITION.dtype)
    rows, expected = LatestRows(reader, POSITION), dict[tuple[str, str], int]()
    for published in (1, 3, 0, READ_ROWS + 5, 2, 7):
        for _ in range(published):
            account, symbol = f"acct-{rng.randrange(4)}", f"C{rng.randrange(8)}USDT"
            expected[account, symbol] = rng.randrange(1, 10**30)
            portfolio.position(account, "s", "binance", symbol, quantity=expected[account, symbol])
        assert {(row.account, row.symbol): row["quantity"] for row in rows.rows()} == expected
        some = {(row.account, row.symbol): row["quantity"] for row in rows.rows("acct-1")}
        assert some == {key: value for key, value in expected.items() if key[0] == "acct-1"}
        assert rows.rows("acct-9") == []
    reader.close()
    portfolio.close()


def test_what_follows_from_rows_is_made_again_for_other_rows(tmp_path: Path) -> None:
    portfolio = Portfolio(tmp_path)
    reader = StreamReader(tmp_path, "portfolio", POSITION.name, POSITION.dtype)
    rows, made = LatestRows(reader, POSITION), []
    once = Once(lambda found: made.append(1) or sum(row["quantity"] for row in found))
    portfolio.position("a", "s", "binance", "C1", quantity=3)
    assert once.of("all", rows.rows()) == once.of("all", rows.rows()) == 3 and len(made) == 1
    portfolio.position("a", "s", "binance", "C2", quantity=4)
    assert once.of("all", rows.rows()) == 7
    portfolio.position("a", "s", "binance", "C1", quantity=0)
    assert once.of("all", rows.rows()) == once.of("all", rows.rows()) == 4 and len(made) == 3
    reader.close()
    portfolio.close()
