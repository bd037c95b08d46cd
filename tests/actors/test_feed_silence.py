"""Streams that fell silent are found, markets that rest are left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickring.actors.feed.silence import SEEN_MIN, SilenceDetector

from .feeding import exchange, fault, feed_config, feeding, until

TICK_S = 10.0
HOUR = int(3600 / TICK_S)  # ticks
KINDS = {"trade": 1.0, "depth": 3.0, "mark": 0.0}  # to how often they move beside trades; marks always do
THIN = 1 / 3600  # one trade an hour


class Market:
    """Symbols with a trade, a depth and a mark price stream each, as Poisson processes under a common tide and common
    bursts. How deep its ebb is, and its own bursts, each symbol has for itself.

    Args:
        symbols: from 20 trades a second to one in 100 s, and the last one thin.
        fall: how many times as quiet as by day the symbols are at ebb, the least and the most.
    """

    def __init__(self, symbols: int, seed: int, fall: tuple[float, float] = (20.0, 50.0)) -> None:
        self.random = np.random.default_rng(seed)
        rates = 10 ** self.random.uniform(-2, 1.3, symbols)
        rates[-1] = THIN
        depth = np.log(self.random.uniform(*fall, symbols))
        self.symbols = [f"S{i}" for i in range(symbols) for _ in KINDS]
        self.kinds = list(KINDS) * symbols
        self.rates = np.outer(rates, list(KINDS.values())).ravel()  # per second by day; 0: in every tick
        self.depth = np.outer(depth, (1.0, 0.7, 0.0)).ravel()

    def messages(self, tide: np.ndarray) -> np.ndarray:
        """Return `(ticks, n)` messages in each tick. The tide goes from 0, day, to 1, ebb."""
        bursts = int(120 / TICK_S)
        blocks = len(tide) // bursts + 1
        common = self.random.exponential(1.0, (blocks, 1))
        heights = common * self.random.exponential(1.0, (blocks, len(self.rates) // len(KINDS)))
        swell = np.repeat(np.repeat(heights, len(KINDS), axis=1), bursts, axis=0)[: len(tide)]
        came = self.random.poisson(self.rates * TICK_S * np.exp(-np.outer(tide, self.depth)) * swell)
        came[:, self.rates == 0] = 1
        return came

    def stream(self, kind: str, rate: float) -> int:
        """Return the stream of a kind that moves about so often."""
        return min((i for i, k in enumerate(self.kinds) if k == kind), key=lambda i: abs(np.log(self.rates[i] / rate)))


def tide(*parts: tuple[float, float]) -> np.ndarray:
    """Return the tide that goes straight to a level within so many hours, part by part."""
    levels = [0.0, *(level for _, level in parts)]
    return np.concatenate([np.linspace(levels[i], level, int(hours * HOUR)) for i, (hours, level) in enumerate(parts)])


def detector_of(market: Market, paced: tuple[str, ...] = ()) -> SilenceDetector:
    return SilenceDetector(market.symbols, market.kinds, TICK_S, still_min_s=30.0, learn_s=600.0, paced=paced)


def found(detector: SilenceDetector, messages: np.ndarray) -> list[tuple[int, int]]:
    counts = np.cumsum(messages, axis=0, dtype=np.uint64)
    return [(tick, stream) for tick in range(len(counts)) for stream in detector.tick(counts[tick])]


def found_beside(
    markets: Sequence[tuple[Sequence[str], Sequence[str], np.ndarray]],
    tick_s: float = TICK_S,
    paced: tuple[str, ...] = (),
) -> list[list[tuple[int, int]]]:
    """Return the alarms of each of several markets that one detector watches.

    They share no symbol and no kind, so none is judged by what another does; and a tick takes hardly longer for all of
    them than for one.

    Args:
        markets: symbols and kinds of its streams, and `(ticks, n)` messages. No kind is of one symbol alone.
    """
    symbols = [f"{i}:{symbol}" for i, (of, _, _) in enumerate(markets) for symbol in of]
    kinds = [f"{i}:{kind}" for i, (_, of, _) in enumerate(markets) for kind in of]
    all_paced = tuple(f"{i}:{kind}" for i in range(len(markets)) for kind in paced)
    detector = SilenceDetector(symbols, kinds, tick_s, 30.0, 600.0, all_paced)
    ends = np.cumsum([len(of) for of, _, _ in markets])
    alarms: list[list[tuple[int, int]]] = [[] for _ in markets]
    for tick, stream in found(detector, np.concatenate([came for _, _, came in markets], axis=1)):
        market = int(np.searchsorted(ends, stream, "right"))
        alarms[market].append((tick, stream - int(ends[market]) + len(markets[market][0])))
    return alarms


QUIET = {
    "first night within hours": tide((10, 0), (4, 1), (6, 1), (4, 0), (2, 0)),
    "first night within minutes": tide((10, 0), (0.2, 1), (6, 1), (0.2, 0), (2, 0)),
    "first night an hour after the start": tide((1, 0), (1, 1), (6, 1), (1, 0), (2, 0)),
    "all at once": tide((10, 0), (0.01, 1), (3, 1), (0.01, 0), (2, 0)),
    "weekend": tide((10, 0), (3, 0.6), (7, 0.6), (4, 0), (8, 0), (3, 1), (44, 1), (3, 0), (4, 0)),
}


def raised(cases: dict[str, tuple[Market, np.ndarray]]) -> dict[str, list[tuple[int, int]]]:
    """Return the alarms of markets under their tides, by case. Where a tide is over before the others, it is day."""
    longest = max(len(level) for _, level in cases.values())
    markets = []
    for market, level in cases.values():
        came = np.concatenate((market.messages(level), market.messages(np.zeros(longest - len(level)))))
        markets.append((market.symbols, market.kinds, came))
    return {case: alarms for case, alarms in zip(cases, found_beside(markets), strict=True) if alarms}


def test_market_that_falls_quiet_twenty_to_fifty_times_raises_nothing() -> None:
    nights = {when: level for when, level in QUIET.items() if when != "weekend"}
    assert not raised({
        f"{when}, {symbols} symbols, seed {seed}": (Market(symbols, seed), level)
        for when, level in nights.items() for symbols in (3, 20) for seed in range(2)
    })  # fmt: skip


def test_single_symbol_that_falls_quiet_within_hours_raises_nothing() -> None:
    for seed in range(3):
        market = Market(2, seed)
        keep = slice(0, len(KINDS))
        detector = SilenceDetector(market.symbols[keep], market.kinds[keep], TICK_S, 30.0, 600.0)
        assert found(detector, market.messages(QUIET["first night within hours"])[:, keep]) == [], seed


def test_market_on_a_weekend_and_symbol_with_one_trade_an_hour_in_five_days_raise_nothing() -> None:
    days = tide(*[(14, 0), (2, 1), (6, 1), (2, 0)] * 5)
    weekends = {f"weekend, {symbols} symbols": (Market(symbols, 0), QUIET["weekend"]) for symbols in (3, 20)}
    assert not raised({**weekends, "five days": (Market(4, 7), days)})


# Bound: ticks with a message that are missing. Sixty and three of the longest silences make up to 200 in bursts like
# these; in a first night, when only the day is known, up to 600.
@pytest.mark.parametrize("rate", [3.0, 0.3])
@pytest.mark.parametrize(("hour", "bound"), [(5, 200), (14, 600), (20, 200)], ids=["day", "first night", "next day"])
def test_one_dead_stream_among_two_hundred_is_found_in_time_and_no_other(hour: int, bound: int, rate: float) -> None:
    market = Market(67, 5)
    level = tide((6, 0), (3, 1), (6, 1), (3, 0), (10, 0))
    dead, cut = market.stream("trade", rate), hour * HOUR
    usual = 1.0 - np.exp(-market.rates[dead] * TICK_S * np.exp(-level * market.depth[dead]))
    end = cut + int(np.searchsorted(np.cumsum(usual[cut:]), bound))
    assert end < len(level), "the bound lies within what is played"
    came = market.messages(level[:end])
    came[cut:, dead] = 0
    detector = detector_of(market)
    alarms = found(detector, came)
    assert {stream for _, stream in alarms} == {dead}
    assert alarms[0][0] > cut
    assert np.flatnonzero(detector.silent).tolist() == [dead]


def test_half_of_the_streams_of_a_kind_that_die_together_are_all_found() -> None:
    market = Market(20, 3)
    came = market.messages(np.zeros(12 * HOUR))
    trades = [i for i, kind in enumerate(market.kinds) if kind == "trade" and market.rates[i] > 0.1]
    dead = trades[: len(trades) // 2 + 1]
    came[6 * HOUR :, dead] = 0
    assert {stream for _, stream in found(detector_of(market), came)} == set(dead)


def steady(n: int) -> SilenceDetector:
    """Return a detector of one symbol's streams, looked at twice a second."""
    return SilenceDetector(["A"] * n, ["trade", "depth", "mark"][:n], 0.5, 30.0, 600.0)


def test_silent_stream_is_named_again_ever_more_rarely_and_forgiven_when_it_moves() -> None:
    moves = np.ones((20_000, 3), bool)
    moves[5_000:15_000, 1] = False
    detector = steady(3)
    alarms = found(detector, moves)
    ticks = [tick for tick, _ in alarms]
    assert {stream for _, stream in alarms} == {1} and 5_060 <= ticks[0] <= 5_100
    assert 4 <= len(ticks) <= 12
    gaps = np.diff(ticks)
    assert (gaps[1:4] > gaps[:3]).all()
    assert not detector.silent.any()


def test_nothing_is_judged_while_nothing_moves_and_after_a_restart() -> None:
    detector = steady(2)
    assert found(detector, np.ones((5_000, 2), bool)) == []
    still = np.full(2, 5_000)
    assert all(detector.tick(still) == [] for _ in range(100_000)), "a market at rest"
    only_first = np.stack((np.arange(5_001, 5_101), np.full(100, 5_000)), axis=1)
    alarms = []
    for i, counts in enumerate(only_first):
        if i == 50:
            detector.restart()
        alarms += detector.tick(counts)
    assert alarms == []


def test_excused_stream_is_not_judged() -> None:
    detector = steady(2)
    found(detector, np.ones((5_000, 2), bool))
    excused = np.array([False, True])
    for i in range(1_000):
        assert detector.tick(np.array([5_001 + i, 5_000]), excused) == []


LOOK_S = 0.5


def one_dead(
    symbols: int, rate: float, kinds: tuple[str, ...], dead: int, cut_s: float, hours: float = 0.5
) -> tuple[list[str], list[str], np.ndarray]:
    """Return symbols, kinds and messages of streams that all move at one rate, two looks a second; marks once a second.
    One is dead from a moment on."""
    names = list(kinds) * symbols
    came = np.random.default_rng(1).poisson(rate * LOOK_S, (int(hours * 3600 / LOOK_S), len(names)))
    marks = [i for i, kind in enumerate(names) if kind == "mark"]
    came[:, marks] = 0
    came[::2, marks] = 1
    came[int(cut_s / LOOK_S) :, dead] = 0
    return [f"S{i}" for i in range(symbols) for _ in kinds], names, came


def first_of(alarms: list[tuple[int, int]]) -> dict[int, float]:
    """Return when each stream was first named, in seconds."""
    first: dict[int, float] = {}
    for tick, stream in alarms:
        first.setdefault(stream, tick * LOOK_S)
    return first


def first_alarms(*market: Any, **more: Any) -> dict[int, float]:
    of, names, came = one_dead(*market, **more)
    return first_of(found(SilenceDetector(of, names, LOOK_S, 30.0, 600.0, ("mark",)), came))


SPOT, MARKET = ("trade", "depth", "quote"), ("trade", "kline", "mark")


@pytest.mark.parametrize("kinds", [SPOT, MARKET])
def test_stream_dead_from_the_start_or_soon_after_is_found_within_minutes_and_no_other(kinds: tuple[str, ...]) -> None:
    bounds_s = {0.0: 420.0, 5.0: 1_000.0, 60.0: 1_000.0, 300.0: 700.0}  # by when it dies
    cases = [(place, cut_s) for place in range(3) for cut_s in bounds_s]
    markets = [one_dead(10, 5.0, kinds, place, cut_s, hours=0.3) for place, cut_s in cases]
    for (place, cut_s), alarms in zip(cases, found_beside(markets, LOOK_S, ("mark",)), strict=True):
        first = first_of(alarms)
        assert list(first) == [place], (place, cut_s)
        assert first[place] < bounds_s[cut_s], (place, cut_s)


def test_stream_that_never_began_is_found_at_a_slower_pace_too() -> None:
    first = first_alarms(10, 0.3, SPOT, 0, 0.0, hours=1.5)
    assert list(first) == [0]


@pytest.mark.parametrize(("cut_s", "bound_s"), [(150.0, 1_000.0), (300.0, 800.0), (590.0, 700.0)])
def test_stream_of_a_single_symbol_that_dies_before_it_was_learned_is_found(cut_s: float, bound_s: float) -> None:
    first = first_alarms(1, 5.0, SPOT, 0, cut_s)
    assert list(first) == [0]
    assert first[0] < bound_s


@pytest.mark.parametrize("kind", KINDS)
def test_stream_that_never_began_among_two_hundred_is_found_and_no_other(kind: str) -> None:
    market = Market(67, 5)
    dead = market.stream("trade", 3.0) + list(KINDS).index(kind)
    came = market.messages(np.zeros(6 * HOUR))
    came[:, dead] = 0
    assert {stream for _, stream in found(detector_of(market, ("mark",)), came)} == {dead}


def thin_beside_busy(depth: float, seed: int) -> tuple[list[str], list[str], np.ndarray]:
    """Return symbols, kinds and messages of 24 symbols, each third one thin, with so many depth messages a second."""
    market = Market(24, seed, fall=(2.0, 50.0))
    trades, depths = (np.arange(24) * len(KINDS) + place for place in range(2))
    thin = np.arange(24) % 3 == 0
    market.rates[trades[thin]], market.rates[depths[thin]] = THIN / 4, max(depth, 1e-9)
    came = market.messages(tide((5, 0), (3, 1), (6, 1), (4, 0)))
    came[: 2 * HOUR, trades[thin]] = 0
    return market.symbols, market.kinds, came


def test_thin_symbols_beside_busy_ones_raise_nothing_from_the_start() -> None:
    cases = [(depth, seed) for depth in (0.0, THIN, 0.05, 3.0) for seed in range(2)]
    alarms = found_beside([thin_beside_busy(*case) for case in cases], paced=("mark",))
    assert {case: some for case, some in zip(cases, alarms, strict=True) if some} == {}


def test_what_never_came_is_counted_anew_after_a_restart() -> None:
    n = 7 * len(SPOT)
    detector = SilenceDetector([f"S{i}" for i in range(7) for _ in SPOT], SPOT * 7, 0.5, 30.0, 600.0)
    moves = np.ones((600, n), bool)
    moves[:, 0] = False
    assert found(detector, moves[:590]) == []
    detector.restart()
    assert found(detector, moves[:590]) == []
    detector.restart()
    assert {stream for _, stream in found(detector, np.concatenate((moves, moves)))} == {0}


def test_excused_stream_that_never_began_is_not_judged() -> None:
    n = 7 * len(SPOT)
    detector = SilenceDetector([f"S{i}" for i in range(7) for _ in SPOT], SPOT * 7, 0.5, 30.0, 600.0)
    live = np.arange(n) > 0
    assert all(detector.tick(i * live, excused=~live) == [] for i in range(3_000))


@pytest.mark.parametrize(
    ("tier", "channels", "stream"),
    [
        ("spot", ["trade", "quote", "book"], "ethusdt@trade"),
        ("public", ["quote", "book"], "ethusdt@depth@100ms"),
        ("market", ["agg_trade", "mark_price", "kline"], "ethusdt@markPrice@1s"),
    ],
)
def test_one_silent_stream_among_live_ones_is_subscribed_anew(
    shm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, tier: str, channels: Any, stream: str
) -> None:
    async def scenario() -> None:
        product = "spot" if tier == "spot" else "usdm"
        async with exchange(rate=25.0, activity_exponent=0.0, speed=50.0) as simulator:
            config = feed_config(
                simulator, tier, channels=channels, silence_min_s=0.4, silence_learn_s=1.2, silence_tick_s=0.02,
                kline_rollups=[], kline_preload=0,
            )  # fmt: skip
            # bars that end ahead of the feed's clock are taken for errors, and their streams would fall silent too
            async with feeding(shm, tmp_path, config, clock=lambda: simulator.source.time_ns) as running:
                await until(lambda: running.feed.silence is not None, "the feed has begun")
                detector = running.feed.silence._detector
                await until(lambda: (detector._seen > 2 * SEEN_MIN).all(), "every stream was heard often enough")
                await until(lambda: detector.judged.all(), "every stream's cadence is learned")
                assert running.counter("silent_streams", channel=stream.partition("@")[2]) == 0
                hub = simulator.hubs[product]
                before = hub.streams[stream].frames
                fault(simulator, "silent_stream", product=product, stream=stream)
                channel = stream.partition("@")[2]
                await until(lambda: running.counter("silent_streams", channel=channel) >= 1, "the stream is named")
                assert f"stream={stream} is silent" in caplog.text
                await until(lambda: running.counter("resubscribed") >= 1, "it is subscribed anew")
                hub.streams[stream].filters.clear()
                await until(lambda: hub.streams[stream].frames > before + 5, "it delivers again")
                await until(lambda: not running.feed.silence.silent_names(), "and counts as live")
                assert running.counter("disconnects", reason="watchdog") == 0
                assert running.counter("connects") == 1

    asyncio.run(scenario())


def test_stream_that_never_began_is_subscribed_anew(
    shm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        stream = "ethusdt@markPrice@1s"
        # steps as short as the detector's: only ticks in which something comes count
        async with exchange(rate=50.0, activity_exponent=0.0, speed=50.0, tick_ms=4.0) as simulator:
            config = feed_config(
                simulator, "market", channels=["agg_trade", "mark_price"], silence_min_s=0.1, silence_tick_s=0.004
            )
            fault(simulator, "silent_stream", product="usdm", stream=stream)
            async with feeding(shm, tmp_path, config, clock=lambda: simulator.source.time_ns) as running:
                await until(lambda: running.feed.silence is not None, "the feed has begun")
                await until(lambda: running.counter("resubscribed") >= 1, "it is named and subscribed anew")
                assert f"stream={stream} is silent" in caplog.text
                simulator.hubs["usdm"].streams[stream].filters.clear()
                await until(lambda: not running.feed.silence.silent_names(), "it counts as live")

    asyncio.run(scenario())
