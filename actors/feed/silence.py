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

What was learned in a short time may be a burst. So a stream is judged only after `learn_s`, its silence included: the
others' pace decides when, a dead stream has none. And where it was heard for a part of that time, the first two must
hold as many times over as the square of what is missing: twice as briefly, four times.

A stream that died before it was learned, or never began, has taught too little, and other symbols take its place. What
each stream brought is summed up over `learn_s`, then anew over twice as long, and so on. A stream that has **nothing**
in such a window is compared, over the same time,

- to the `PEERS` symbols most like its own, of those that are no busier (`ALIKE`) in *any* other channel of its symbol.
  It is silent once each of them has moved in `MARGIN` times `EXPECTED` ticks. A thin symbol is thin in its
  other channels too: beside busy ones it has no peers;
- to any other symbol, where the exchange sends at a fixed pace (`paced`), whatever the market does. Such a channel
  says nothing of how busy a symbol is, and is never taken for a likeness.

In both cases another stream of its symbol, not a paced one, must have moved in `MARGIN` times `EXPECTED` ticks, and in
a part of all (`PLAIN`). What stays unfound: streams of the least busy symbols of a feed, those of symbols that hardly
move, and those whose peers died of the same.

Where nothing moves at all every clock stands still: that is a market at rest, or a dead connection, which has its own
watchdog. Time is counted in ticks, calls of `tick` in which anything moved. One call costs some 50 µs for 200 streams,
140 µs for 2,000, and once in `still_min_s` some 60 µs for each stream that is compared to peers. What is left to
chance: a feed of a single symbol that falls quiet many times over within minutes has nothing to be compared with; and a
symbol that is quoted plainly and for many hours not traded, where quotes alone say what it is like.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

EXPECTED = 60.0
LONGEST = 3.0
SEEN_MIN = 30  # ticks with a message before a stream is judged
PEERS = 5  # symbols that must all have what a stream never brought
ALIKE = 2.0  # a peer has so many times the messages of the symbol's other streams, at most
MARGIN = 10.0  # symbols alike differ in one channel by so much, at most
PLAIN = 0.1  # part of the ticks in which another stream of the symbol moves: bars that close without a trade are fewer
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
        paced: kinds that move at a fixed pace, whatever the market does.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        kinds: Sequence[str],
        tick_s: float,
        still_min_s: float,
        learn_s: float,
        paced: Collection[str] = (),
    ) -> None:
        n = len(symbols)
        self._symbol, self._kind = _numbered(symbols), _numbered(kinds)
        self._alone = np.bincount(self._symbol)[self._symbol] == 1
        self._only = np.bincount(self._kind)[self._kind] == 1
        self._place = np.full((self._symbol.max(initial=-1) + 1, self._kind.max(initial=-1) + 1), -1)  # of a stream
        self._place[self._symbol, self._kind] = np.arange(n)
        self._paced = np.array([kind in paced for kind in dict.fromkeys(kinds)], bool)  # by kind
        self._still_min, self._learn = still_min_s / tick_s, learn_s / tick_s
        self._forget, self._forget_usual = tick_s / FORGET_S, tick_s / FORGET_USUAL_S
        self._keep_longest = 1.0 - tick_s / FORGET_LONGEST_S
        self._counts: np.ndarray | None = None
        self._window = self._ends = 0.0  # ticks
        self._begun = np.zeros(n)  # counts when the window began
        self._heard = np.zeros(n)  # ticks with messages since
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
        """`(n,)` bool: watched for long enough, and heard often enough."""
        return (self._passed[SYMBOL] + self._still[SYMBOL] >= self._learn) & (self._seen >= SEEN_MIN)

    def tick(self, counts: np.ndarray, excused: np.ndarray | None = None) -> list[int]:
        """Take the counts of now; returns the streams that are silent, each once, and again if it stays so for long.

        Args:
            counts: `(n,)` messages so far.
            excused: `(n,)` bool: streams that are not to be judged now.
        """
        if self._counts is None:
            self._counts = counts
            self._begin(self._learn)
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
        if self._ticks % max(int(self._still_min), 1) == 0:
            named = np.union1d(named, self._missing(excused))
        if self._ticks >= self._ends:
            self._begin(self._window * 2)
        self._patience[named] = np.minimum(self._patience[named] * 2, REPEAT_MAX)
        self._still[:, named] = 0
        return named.tolist()

    def _overdue(self, streams: np.ndarray) -> np.ndarray:
        still, passed = self._still[:, streams], self._passed[:, streams]
        expected = still * self._came[:, streams]
        margin = np.maximum(self._learn / np.maximum(passed[SYMBOL], 1.0), 1.0) ** 2  # for what is known too briefly
        return (
            (expected > EXPECTED * margin * self._patience[streams] * passed).all(axis=0)
            & (still[KIND] > LONGEST * margin * self._longest[streams])
            & self.judged[streams]
        )

    def _missing(self, excused: np.ndarray | None) -> np.ndarray:
        """Return the streams that brought nothing where their peers brought plenty."""
        enough = EXPECTED * MARGIN * self._patience
        around = np.zeros(len(self._place))
        np.maximum.at(around, self._symbol, np.where(self._paced[self._kind], 0.0, self._heard))
        learned = (self._passed[SYMBOL] >= self._learn) & (self._seen >= SEEN_MIN)
        plain = np.maximum(enough, (self._ticks - self._ends + self._window) * PLAIN)
        unheard = (self._heard == 0) & (around[self._symbol] >= plain) & ~learned
        if excused is not None:
            unheard &= ~excused
        streams = np.flatnonzero(unheard)
        if not len(streams):
            return streams
        assert self._counts is not None
        heard = np.append(self._heard, np.nan)[self._place]  # (symbols, kinds); what is compared to NaN is False
        messages = np.append(self._counts - self._begun, np.nan)[self._place]
        return streams[[self._have_peers(stream, heard, messages, enough[stream]) for stream in streams.tolist()]]

    def _have_peers(self, stream: int, heard: np.ndarray, messages: np.ndarray, enough: float) -> bool:
        """Tell whether other symbols prove that this stream should have moved."""
        symbol, kind = self._symbol[stream], self._kind[stream]
        if self._paced[kind]:
            return bool((heard[:, kind] >= enough / MARGIN).any())
        others = ~self._paced & (self._place[symbol] >= 0)
        others[kind] = False
        messages = messages[:, others]
        alike = (messages <= ALIKE * messages[symbol]).all(axis=1) & (self._place[:, kind] >= 0)
        alike[symbol] = False
        peers = np.flatnonzero(alike)
        apart = np.abs(np.log1p(messages[peers]) - np.log1p(messages[symbol])).sum(axis=1)
        nearest = peers[np.argsort(apart)[:PEERS]]
        return len(nearest) == PEERS and bool((heard[nearest, kind] >= enough).all())

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
        self._heard += moved
        gap = np.where(moved & ~self.silent, self._still[KIND], 0.0)  # a silence that was an error teaches nothing
        self._longest = np.maximum(gap, self._longest * self._keep_longest)
        self._patience[moved] = 1.0
        self._still[:, moved] = 0

    def restart(self) -> None:
        """A connection began or ended: what was still may have moved unheard."""
        self._counts = None
        self._still[:] = 0

    def _begin(self, window: float) -> None:
        """Sum up anew, over so many ticks."""
        assert self._counts is not None
        self._begun = self._counts
        self._heard[:] = 0
        self._window, self._ends = window, self._ticks + window


def _numbered(names: Sequence[str]) -> np.ndarray:
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([places[name] for name in names], np.intp)
