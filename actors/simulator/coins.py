"""Fair prices of coins: a random walk each, with a share in one common factor."""

from __future__ import annotations

import math
import random

import numpy as np

from .history import MINUTE_MS, price_levels

FACTOR_VOLATILITY = 0.9e-4  # of the common factor, per square root of a second (about 50 % a year)
COIN_VOLATILITY = 0.7e-4  # of a coin beside the factor
REVERSION_PER_S = 2e-5  # pulls a coin back to where it started, so that a long demo stays in range


class Factor:
    """The movement that all coins share, as the logarithm of a price ratio."""

    def __init__(self, seed: int, epoch_ns: int) -> None:
        self._gauss = random.Random(f"{seed}:factor").gauss
        self._time_ns = epoch_ns
        self.value = 0.0

    def at(self, time_ns: int) -> float:
        elapsed_ns = time_ns - self._time_ns
        if elapsed_ns > 0:
            self._time_ns = time_ns
            self.value += FACTOR_VOLATILITY * math.sqrt(elapsed_ns * 1e-9) * self._gauss(0.0, 1.0)
        return self.value


class Coin:
    """Fair price of one coin relative to its start, as a logarithm."""

    def __init__(self, seed: int, base: str, factor: Factor, epoch_ns: int) -> None:
        self._random = random.Random(f"{seed}:coin:{base}")
        # The price that the coin's past leaves off with.
        self.start = float(price_levels(seed, base, np.array([epoch_ns // (MINUTE_MS * 1_000_000)]))[0])
        self._factor = factor
        self._factor_seen = 0.0
        self._beta = self._random.uniform(0.6, 1.4)
        self._time_ns = epoch_ns
        self.value = self.start

    def at(self, time_ns: int) -> float:
        elapsed_ns = time_ns - self._time_ns
        if elapsed_ns > 0:
            self._time_ns = time_ns
            factor = self._factor.at(time_ns)
            elapsed_s = elapsed_ns * 1e-9
            value = self.value - self.value * min(1.0, REVERSION_PER_S * elapsed_s)
            value += self._beta * (factor - self._factor_seen)
            value += COIN_VOLATILITY * math.sqrt(elapsed_s) * self._random.gauss(0.0, 1.0)
            self._factor_seen = factor
            self.value = value
        return self.value
