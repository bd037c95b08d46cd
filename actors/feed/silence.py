"""Streams that fell silent: subscribed, acknowledged, and nothing comes any more, while everything around them goes on.

Silence alone proves nothing, markets do rest. So the silence of a stream is measured by what goes on around it: by the
other streams of its symbol, or of the whole feed where the symbol has only this one. Learned is how often the stream
moves while those move, and how long it was ever still. A stream is silent once

- by what moved around it, `EXPECTED` messages of it should have come (of independent messages that is a chance of
  e^-60, and the margin is for markets, whose messages are not), and
- it is still for `LONGEST` times longer than it was before, and for longer than a minimum.

Where nothing moves at all time stands still: that is a market at rest, or a dead connection, which has its own
watchdog. Time is counted in ticks, calls of `tick` in which anything moved. One call costs a few dozen microseconds,
whatever the number of streams.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EXPECTED = 60.0
LONGEST = 3.0
SEEN_MIN = 30  # ticks with a message before a stream is judged
FORGET = 1 / 20_000  # of what was learned, for each tick around it: it follows the hours of a day
FORGET_LONGEST = 1 / 200_000  # of the longest silence, for each tick: it remembers the night before
REPEAT_MAX = 64.0  # a stream that stays silent is named again after twice, four times ... as much


class SilenceDetector:
    """Watches the number of messages of each stream.

    Args:
        symbols: of each stream, in the order of the counts.
        still_min: ticks; shorter silences are never taken for an error.
        learn: ticks around a stream before it is judged.
    """

    def __init__(self, symbols: Sequence[str], still_min: float, learn: float) -> None:
        n = len(symbols)
        places = {symbol: place for place, symbol in enumerate(dict.fromkeys(symbols))}
        self._symbol = np.array([places[symbol] for symbol in symbols], np.intp)
        self._alone = np.bincount(self._symbol, minlength=len(places))[self._symbol] == 1
        self._still_min, self._learn = still_min, learn
        self._counts: np.ndarray | None = None
        self._seen = np.zeros(n)
        # Of late, up to its last message: the silence since then must not change what is expected of it.
        self._around = np.zeros(n)  # ticks in which others moved
        self._with = np.zeros(n)  # ticks in which others and it moved
        self._longest = np.zeros(n)  # ticks without it
        self._still = np.zeros(n)  # ticks since it moved
        self._still_around = np.zeros(n)  # of these, those in which others moved
        self._patience = np.ones(n)

    @property
    def silent(self) -> np.ndarray:
        """`(n,)` bool: named, and still silent."""
        return self._patience > 1.0

    def tick(self, counts: np.ndarray, excused: np.ndarray | None = None) -> list[int]:
        """Take the counts of now; returns the streams that are silent, each once, and again if it stays so for long.

        Args:
            counts: `(n,)` messages so far.
            excused: `(n,)` bool: streams that are not to be judged now.
        """
        if self._counts is None:
            self._counts = counts
            return []
        moved = counts != self._counts
        self._counts = counts
        if not moved.any():
            return []
        of_symbol = np.bincount(self._symbol, weights=moved)[self._symbol]
        around = self._alone | (of_symbol > moved)
        if excused is not None:
            self._restart(excused)
        self._learn_from(moved, around)
        named = np.flatnonzero(
            (self._around >= self._learn)
            & (self._seen >= SEEN_MIN)
            & (self._still > self._still_min)
            & (self._still > LONGEST * self._longest)
            & (self._still_around * self._with > EXPECTED * self._patience * self._around)
        )
        self._patience[named] = np.minimum(self._patience[named] * 2, REPEAT_MAX)
        self._still_around[named] = 0
        return named.tolist()

    def _learn_from(self, moved: np.ndarray, around: np.ndarray) -> None:
        self._still += 1
        self._still_around += around
        keep = np.where(moved, np.exp(-FORGET * self._still_around), 1.0)
        self._with = self._with * keep + (moved & around)
        self._around = self._around * keep + np.where(moved, self._still_around, 0.0)
        self._seen += moved
        gap = np.where(self._patience > 1.0, 0.0, self._still)  # a silence that was an error teaches nothing
        self._longest = np.maximum(np.where(moved, gap, 0.0), self._longest * (1.0 - FORGET_LONGEST))
        self._patience[moved] = 1.0
        self._still[moved] = self._still_around[moved] = 0

    def restart(self) -> None:
        """A connection began or ended: what was still may have moved unheard."""
        self._counts = None
        self._restart(np.ones(len(self._still), bool))

    def _restart(self, streams: np.ndarray) -> None:
        self._still[streams] = self._still_around[streams] = 0
