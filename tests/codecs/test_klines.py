"""Bounds of bars, and longer bars made of shorter ones."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickring.codecs.klines import (
    DAY_MS,
    INTERVALS,
    MINUTE_MS,
    PARTIAL,
    Bar,
    Fold,
    bar_start,
    bar_starts,
    bar_stop,
    over_before,
    rolls_up,
    same,
)

TIMES = st.integers(min_value=0, max_value=4_102_444_800_000)


def ms(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("interval", "start", "stop"),
    [
        ("1m", ms(2026, 3, 4, 15, 27), ms(2026, 3, 4, 15, 28)),
        ("15m", ms(2026, 3, 4, 15, 15), ms(2026, 3, 4, 15, 30)),
        ("4h", ms(2026, 3, 4, 12), ms(2026, 3, 4, 16)),
        ("1d", ms(2026, 3, 4), ms(2026, 3, 5)),
        ("1w", ms(2026, 3, 2), ms(2026, 3, 9)),  # a Monday
        ("1M", ms(2026, 3, 1), ms(2026, 4, 1)),
    ],
)
def test_bar_of_each_interval_begins_where_the_exchange_begins_it(interval: str, start: int, stop: int) -> None:
    assert bar_start(interval, ms(2026, 3, 4, 15, 27, 33)) == start
    assert bar_stop(interval, start) == stop


def test_month_ends_with_its_last_day_in_leap_years_and_at_the_turn_of_the_year() -> None:
    assert bar_stop("1M", ms(2028, 2, 1)) == ms(2028, 3, 1)
    assert bar_stop("1M", ms(2026, 12, 1)) == ms(2027, 1, 1)


@given(st.sampled_from(list(INTERVALS)), TIMES)
def test_every_time_lies_in_its_bar_and_bars_leave_no_room_between_them(interval: str, time: int) -> None:
    start = bar_start(interval, time)
    stop = bar_stop(interval, start)
    assert start <= time < stop
    assert bar_start(interval, stop) == stop and bar_start(interval, stop - 1) == start


def test_intervals_that_consist_of_others() -> None:
    assert rolls_up("1m", "1M") and rolls_up("1h", "1w") and rolls_up("1d", "1w") and rolls_up("5m", "15m")
    assert not rolls_up("1m", "1m") and not rolls_up("1w", "1M") and not rolls_up("3m", "5m")
    assert not rolls_up("3d", "1w") and not rolls_up("3d", "1M") and not rolls_up("1M", "1w")


@pytest.mark.parametrize(
    ("symbol", "first", "later"),  # of the exchange's own bars, UNIX ms
    [
        ("BTCUSDT", 1_502_928_000_000, 1_735_689_600_000), ("XRPUSDT", ms(2018, 5, 4), 1_577_750_400_000),
        ("SOLUSDT", 1_597_104_000_000, 1_784_764_800_000),
    ],
)  # fmt: skip
def test_bars_of_three_days_begin_at_the_listing_and_each_has_its_slot(symbol: str, first: int, later: int) -> None:
    assert (later - first) % INTERVALS["3d"] == 0, symbol
    opens = range(first, later + 1, INTERVALS["3d"])
    assert [*bar_starts("3d", first - INTERVALS["3d"] + 1, later + 1)] == [bar_start("3d", at) for at in opens]


def test_bars_of_three_days_are_never_made_here() -> None:
    assert not any(rolls_up(shorter, "3d") for shorter in INTERVALS)
    assert over_before("3d", ms(2026, 3, 4, 15)) == ms(2026, 3, 4, 15)  # one of any phase may be over by now
    assert over_before("1w", ms(2026, 3, 4, 15)) == ms(2026, 3, 2)


def minute(at: int, price: float = 100.0, volume: float = 0.1, **changes: float) -> Bar:
    bar = Bar(at, at + MINUTE_MS - 1, price, price + 2, price - 1, price + 1, volume, round(volume * 3, 6), 5, 0.1, 0.3)
    return bar._replace(**changes)


DAY = ms(2026, 3, 4)


def test_fold_of_five_minutes_is_the_bar_of_five_minutes() -> None:
    fold = Fold("5m")
    done = []
    for i in range(6):
        done += fold.add(minute(DAY + i * MINUTE_MS, 100.0 + i), 0)
    [(bar, flags)] = done
    assert flags == 0
    assert bar == Bar(DAY, DAY + 5 * MINUTE_MS - 1, 100.0, 106.0, 99.0, 105.0, 0.5, 1.5, 25, 0.5, 1.5)
    assert fold.state() == (minute(DAY + 5 * MINUTE_MS, 105.0)._replace(close_ts=DAY + 10 * MINUTE_MS - 1), 0)


@pytest.mark.parametrize("missing", range(5))
def test_fold_that_lacks_a_part_is_partial(missing: int) -> None:
    fold = Fold("5m")
    done = []
    for i in range(10):
        if i != missing:
            done += fold.add(minute(DAY + i * MINUTE_MS), 0)
    assert [flags for _, flags in done] == [PARTIAL, 0]
    assert done[0][0].trade_count == 20


def test_fold_with_a_partial_part_is_partial_and_bars_that_nobody_saw_are_left_out() -> None:
    fold = Fold("5m")
    done = fold.add(minute(DAY), PARTIAL) + fold.add(minute(DAY + 17 * MINUTE_MS), 0)
    assert [(bar.open_ts, flags) for bar, flags in done] == [(DAY, PARTIAL)]
    assert fold.state()[1] == PARTIAL  # type: ignore[index]
    assert fold.add(minute(DAY + 16 * MINUTE_MS), 0) == [], "older than the last: ignored"


def test_state_of_a_fold_takes_the_open_bar_on_top() -> None:
    fold = Fold("5m")
    assert fold.state() is None
    assert fold.state(minute(DAY + MINUTE_MS)) == (
        minute(DAY + MINUTE_MS)._replace(open_ts=DAY, close_ts=DAY + 5 * MINUTE_MS - 1), PARTIAL,
    )  # fmt: skip
    fold.add(minute(DAY), 0)
    bar, flags = fold.state(minute(DAY + MINUTE_MS, 120.0))  # type: ignore[misc]
    assert flags == 0 and (bar.open, bar.high, bar.close, bar.volume) == (100.0, 122.0, 121.0, 0.2)
    assert fold.state()[0].volume == 0.1, "the open bar is not folded in"  # type: ignore[index]


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 10**6)), min_size=1, max_size=3 * 60), st.data())
def test_fold_over_a_fold_is_the_fold_of_all(values: list[tuple[int, int]], data: st.DataObject) -> None:
    """Minutes to quarters to hours is minutes to hours, volumes to the last digit, whatever is missing."""
    direct, first, second = Fold("1h"), Fold("15m"), Fold("1h")
    expected, found = [], []
    at = DAY
    for price, volume in values:
        at += MINUTE_MS * data.draw(st.sampled_from((1, 1, 1, 1, 2, 20)))
        bar = minute(at, price / 100, volume / 1000)
        expected += direct.add(bar, 0)
        for quarter, flags in first.add(bar, 0):
            found += second.add(quarter, flags)
    assert expected[: len(found)] == found, "an hour may be known to be over one quarter later"
    assert len(expected) - len(found) <= 1


def test_bars_that_differ_are_told_from_bars_that_are_rounded() -> None:
    bar = minute(DAY)
    assert same(bar, bar._replace(quote_volume=bar.quote_volume * (1 + 1e-12)))
    assert not same(bar, bar._replace(volume=bar.volume * 1.001))
    assert not same(bar, bar._replace(close=bar.close + 0.01)) and not same(bar, bar._replace(trade_count=6))
    assert bar_stop("1d", DAY) - DAY == DAY_MS
