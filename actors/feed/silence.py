"""Streams that fell silent: subscribed, acknowledged, and nothing comes any more, while everything around them goes on.

Silence alone proves nothing, markets do rest. So the silence of a stream is not measured by the clock on the wall, but
by three clocks that slow down when its market does:

- its **symbol's** counts the ticks in which another stream of the symbol moved (or any other stream, where the symbol
  has only this one);
- its **kind's** counts the votes of the other streams of its kind, trades for trades. A stream has one vote in a tick
  at most, and the fewer the more it usually moves, so that neither a burst nor the busiest symbol sets the pace. A
  night or a weekend slows the whole kind, one dead stream among the others does not;
- its **own** counts time, and learns from its latest messages alone: it follows a symbol that rests more than others.

Learned is how far each clock goes between two messages. A stream is silent once

- **each** clock says that `EXPECTED` messages of it should have come (of independent messages that is a chance of
  e^-60, and the margin is for markets, whose messages are not),
- by its kind's clock it is still for `LONGEST` times longer than it was before, and
- it is still for longer than a minimum.

Where nothing moves at all every clock stands still: that is a market at rest, or a dead connection, which has its own
watchdog. Time is counted in ticks, calls of `tick` in which anything moved. One call costs some 50 µs for 200 streams,
140 µs for 2,000. What is left to chance: a feed of a single symbol that falls quiet many times over within minutes has
nothing to be compared with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EXPECTED = 60.0
LONGEST = 3.0
SEEN_MIN = 30  # ticks with a message before a stream is judged
VOTE = 0.5  # votes of a stream in a tick, on average, at most
FORGET_S = 10_000.0  # what was learned fades within this time: it follows the hours of a day ...
MESSAGES = 32.0  # ... but is of so many messages at least, and by its own clock of so many at most
FORGET_USUAL_S = 86_400.0  # how much a stream usually moves is learned over a day
FORGET_LONGEST_S = 100_000.0  # the longest silence is remembered for longer than one
REPEAT_MAX = 64.0  # a stream that stays silent is named again after twice, four times ... as much

SYMBOL, KIND, OWN = range(3)  # clocks


class SilenceDetector:
    """Watches the number of messages of each stream.

    Args:
        symbols: of each stream, in the order of the counts.
        kinds: of each stream: those that fall quiet together have the same.
        tick_s: time between two calls of `tick`.
        still_min_s: shorter silences are never taken for an error.
        learn_s: how long a stream is watched, while others of its symbol move, before it is judged.
    """

    def __init__(
        self, symbols: Sequence[str], kinds: Sequence[str], tick_s: float, still_min_s: float, learn_s: float
    ) -> None:
        n = len(symbols)
        self._symbol, self._kind = _numbered(symbols), _numbered(kinds)
        self._alone = np.bincount(self._symbol)[self._symbol] == 1
        self._only = np.bincount(self._kind)[self._kind] == 1
        self._still_min, self._learn = still_min_s / tick_s, learn_s / tick_s
        self._forget, self._forget_usual = tick_s / FORGET_S, tick_s / FORGET_USUAL_S
        self._keep_longest = 1.0 - tick_s / FORGET_LONGEST_S
        self._counts: np.ndarray | None = None
        self._ticks = 0
        self._usual = np.zeros(n)  # messages a tick
        self._seen = np.zeros(n)
        self._patience = np.ones(n)
        # By each clock, and up to its last message: the silence since then must not change what is expected of it.
        self._came = np.zeros((3, n))  # ticks with messages, of late ...
        self._passed = np.zeros((3, n))  # ... while the clock went on so far
        self._still = np.zeros((3, n))  # since it moved
        self._longest = np.zeros(n)  # by its kind's clock

    @property
    def silent(self) -> np.ndarray:
        """`(n,)` bool: named, and still silent."""
        return self._patience > 1.0

    @property
    def judged(self) -> np.ndarray:
        """`(n,)` bool: known for long enough."""
        return (self._passed[SYMBOL] >= self._learn) & (self._seen >= SEEN_MIN)

    def tick(self, counts: np.ndarray, excused: np.ndarray | None = None) -> list[int]:
        """Take the counts of now; returns the streams that are silent, each once, and again if it stays so for long.

        Args:
            counts: `(n,)` messages so far.
            excused: `(n,)` bool: streams that are not to be judged now.
        """
        if self._counts is None:
            self._counts = counts
            return []
        came = (counts - self._counts).astype(np.float64)
        self._counts = counts
        if not came.any():
            return []
        if excused is not None:
            self._still[:, excused] = 0
        steps = self._steps(came)
        self._still += steps
        self._learn_from(came > 0, steps)
        still = np.flatnonzero(self._still[OWN] > self._still_min)
        named = still[self._overdue(still)] if len(still) else still
        self._patience[named] = np.minimum(self._patience[named] * 2, REPEAT_MAX)
        self._still[:, named] = 0
        return named.tolist()

    def _overdue(self, streams: np.ndarray) -> np.ndarray:
        still = self._still[:, streams]
        expected = still * self._came[:, streams]
        return (
            (expected > EXPECTED * self._patience[streams] * self._passed[:, streams]).all(axis=0)
            & (still[KIND] > LONGEST * self._longest[streams])
            & self.judged[streams]
        )

    def _steps(self, came: np.ndarray) -> np.ndarray:
        """Return `(3, n)`: how far each clock of each stream goes in this tick."""
        self._ticks += 1
        self._usual += (came - self._usual) * max(1.0 / self._ticks, self._forget_usual)
        votes = np.minimum(came * (VOTE / np.maximum(self._usual, VOTE)), 1.0)
        moved = came > 0
        around = self._alone | (np.bincount(self._symbol, weights=moved)[self._symbol] > moved)
        of_kind = np.where(self._only, votes.sum(), np.bincount(self._kind, weights=votes)[self._kind])
        return np.stack((around, of_kind - votes, np.ones(len(came))))

    def _learn_from(self, moved: np.ndarray, steps: np.ndarray) -> None:
        fewest = 1.0 - 1.0 / MESSAGES
        keep = np.maximum(np.exp(-self._forget * self._still[OWN]), fewest)
        keep = np.stack((keep, keep, np.full(len(moved), fewest)))
        came = np.stack((steps[SYMBOL], moved, moved))
        self._came = np.where(moved, self._came * keep + came, self._came)
        self._passed = np.where(moved, self._passed * keep + self._still, self._passed)
        self._seen += moved
        gap = np.where(moved & ~self.silent, self._still[KIND], 0.0)  # a silence that was an error teaches nothing
        self._longest = np.maximum(gap, self._longest * self._keep_longest)
        self._patience[moved] = 1.0
        self._still[:, moved] = 0

    def restart(self) -> None:
        """A connection began or ended: what was still may have moved unheard."""
        self._counts = None
        self._still[:] = 0


def _numbered(names: Sequence[str]) -> np.ndarray:
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([places[name] for name in names], np.intp)
