"""Which event ids came before: a bounded memory."""

from __future__ import annotations

import itertools


class Repeats:
    """Remembers at least the newest half of `kept` ids, and hardly more than `kept`.

    The hot path adds to the table itself, which tells by its length whether an id is new: one look at memory that is
    not in any cache, where a look and a store would be two.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._ids: dict[str, None] = {}  # in the order in which they came first

    def __len__(self) -> int:
        return len(self._ids)

    def table(self) -> dict[str, None]:
        """What to add ids to, for a while: when it is full, the next call returns one without the older half."""
        if len(self._ids) >= self._kept:
            self._ids = dict.fromkeys(itertools.islice(self._ids, len(self._ids) - self._kept // 2, None))
        return self._ids

    def remember(self, event_id: str) -> None:
        """It came before."""
        self.table()[event_id] = None
