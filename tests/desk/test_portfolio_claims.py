"""What producers claim to hold, beside what we have."""

from __future__ import annotations

from typing import Any

import pytest

from tickring.actors.portfolio.book import Position
from tickring.actors.portfolio.claims import Claims
from tickring.actors.portfolio.fold import FIRST, State, Terms
from tickring.codecs.desk.money import UNIT


class Metrics:
    def __init__(self) -> None:
        self.differences: list[float] = []

    def claim(self, figure: str, account: str, symbol: str, ours: float, claimed: float) -> None:
        self.differences.append(claimed - ours)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def claims(metrics: Any) -> Claims:
    return Claims(metrics)


def held(quantity: int, ts_ns: int) -> Position:
    return Position(
        1, ("a", "s", "binance", "BTCUSDT"), Terms(), State(), State(quantity=quantity * UNIT, ts_ns=ts_ns), FIRST
    )


def test_claim_from_before_a_fill_is_not_compared_with_what_is_there_after_it(claims, metrics):
    claims.told("a", "s", "BTC-USDT", 5 * UNIT, 100)
    claims.compare([held(5, 99)])
    claims.compare([held(10, 101)])
    claims.told("a", "s", "BTC-USDT", 10 * UNIT, 102)
    claims.compare([held(10, 101)])
    assert metrics.differences == [0, 0]


def test_claim_of_now_that_differs_is_told_until_the_fill_is_here(claims, metrics):
    claims.told("a", "s", "BTC-USDT", 10 * UNIT, 102)
    claims.compare([held(5, 99)])
    claims.compare([held(10, 101)])
    claims.told("a", "s", "ETH-USDT", 3 * UNIT, 102)  # of which we have none
    claims.compare([held(10, 101)])
    assert metrics.differences == [5, 0, 0, 3]
