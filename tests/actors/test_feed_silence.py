"""Streams that fell silent are found, markets that rest are left alone."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickring.actors.feed.silence import SEEN_MIN, SilenceDetector

from .feeding import exchange, fault, feed_config, feeding, until

DAY = 24 * 3600 * 2  # ticks of half a second
STILL_MIN = 60  # half a minute
LEARN = 1200


def market(rng: np.random.Generator, ticks: int, rates: list[float], day: float, burst: float) -> np.ndarray:
    """`(ticks, n)` bool: streams as Poisson processes under a common tide over the day and common bursts."""
    time = np.arange(ticks)
    tide = np.exp(-day * (1 + np.cos(2 * np.pi * (time / DAY + rng.random()))) / 2)
    bursts = np.repeat(rng.exponential(1.0, ticks // 240 + 1) ** burst, 240)[:ticks]
    chance = 1 - np.exp(-np.outer(tide * bursts, rates))
    return rng.random((ticks, len(rates))) < chance


def found(detector: SilenceDetector, moves: np.ndarray) -> list[tuple[int, int]]:
    counts = np.cumsum(moves, axis=0)
    return [(tick, stream) for tick in range(len(counts)) for stream in detector.tick(counts[tick])]


RATES = st.lists(st.floats(0.003, 3.0), min_size=2, max_size=6)


# A night twenty times as quiet, the first one that is seen, can look like an error beside a steady neighbour: then a
# stream is subscribed anew for nothing. Up to seven times it must not. The examples are always the same.
@settings(max_examples=4, deadline=None, derandomize=True)
@given(RATES, st.integers(0, 2**32), st.floats(0, 2), st.floats(0, 1), st.booleans(), st.booleans())
def test_quiet_market_over_days_raises_nothing(
    rates: list[float], seed: int, day: float, burst: float, alone: bool, steady: bool
) -> None:
    """Rates from six a second to one in three minutes, a night up to seven times as quiet as the day, bursts; with or
    without a stream beside them that knows no night, as mark prices are."""
    moves = market(np.random.default_rng(seed), DAY, rates, day, burst)
    if steady:
        moves[:, 0] = np.arange(DAY) % 2 == 0
    symbols = [f"S{i}" if alone else f"S{i // 3}" for i in range(len(rates))]
    assert found(SilenceDetector(symbols, STILL_MIN, LEARN), moves) == []


@settings(max_examples=12, deadline=None)
@given(st.floats(0.01, 3.0), st.floats(0.05, 3.0), st.integers(0, 2**32), st.floats(0, 1), st.booleans())
def test_stream_that_is_cut_is_found_within_a_bounded_number_of_its_own_gaps(
    rate: float, other: float, seed: int, when: float, alone: bool
) -> None:
    rng = np.random.default_rng(seed)
    learned = max(2 * LEARN, int(60 / rate), int(2 * LEARN / (1 - math.exp(-other))))
    cut = learned + int(when * learned)
    # Time stands still while nothing moves, and around a stream with neighbours it is they who must.
    bound = int((STILL_MIN + 200 * median_gap(rate)) / (1 - math.exp(-other)))
    moves = market(rng, cut + bound, [rate, other, other], 0.0, 0.0)
    moves[cut:, 0] = False
    detector = SilenceDetector(["A", "B" if alone else "A", "C" if alone else "A"], STILL_MIN, LEARN)
    alarms = found(detector, moves)
    assert {stream for _, stream in alarms} == {0}
    assert alarms[0][0] >= cut
    assert detector.silent.tolist() == [True, False, False]


def median_gap(rate: float) -> float:
    """Ticks between two ticks with a message, the median."""
    return max(1.0, math.log(2) / rate)


def test_silent_stream_is_named_again_ever_more_rarely_and_forgiven_when_it_moves() -> None:
    moves = np.ones((20_000, 3), bool)
    moves[5_000:15_000, 1] = False
    detector = SilenceDetector(["A", "A", "A"], STILL_MIN, LEARN)
    alarms = found(detector, moves)
    ticks = [tick for tick, _ in alarms]
    assert {stream for _, stream in alarms} == {1} and 5_060 <= ticks[0] <= 5_100
    assert 4 <= len(ticks) <= 12
    gaps = np.diff(ticks)
    assert (gaps[1:4] > gaps[:3]).all()
    assert not detector.silent.any()


def test_nothing_is_judged_while_nothing_moves_and_after_a_restart() -> None:
    detector = SilenceDetector(["A", "A"], STILL_MIN, LEARN)
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
    detector = SilenceDetector(["A", "A"], STILL_MIN, LEARN)
    found(detector, np.ones((5_000, 2), bool))
    excused = np.array([False, True])
    for i in range(1_000):
        assert detector.tick(np.array([5_001 + i, 5_000]), excused) == []


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
                await until(lambda: (detector._around > 60).all(), "every stream's cadence is learned")
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
