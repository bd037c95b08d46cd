"""Which event ids came before: a bounded memory."""

from __future__ import annotations

import itertools


class Repeats:
    """Remembers at least the newest half of `kept` ids, and hardly more than `kept`, by their hashes.

    The hot path adds to the table itself, which tells by its length whether an id is new: one look at memory that is
    not in any cache, where a look and a store would be two. Hashes of 64 bits, because a table of texts has to go to
    other texts to tell them apart, and keeps them all alive. That an id is taken for another one happens once in
    10^14 events.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._hashes: dict[int, None] = {}  # in the order in which they came first

    def __len__(self) -> int:
        return len(self._hashes)

    def table(self) -> dict[int, None]:
        """What to add hashes to, for a while: when it is full, the next call returns one without the older half."""
        if len(self._hashes) >= self._kept:
            older = len(self._hashes) - self._kept // 2
            self._hashes = dict.fromkeys(itertools.islice(self._hashes, older, None))
        return self._hashes

    def forget(self, n: int) -> None:
        """The newest `n` have not come."""
        for _ in range(n):
            self._hashes.popitem()

    def remember(self, event_id: str) -> None:
        """It came before."""
        self.table()[hash(event_id)] = None
