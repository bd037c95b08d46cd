"""Continuity of ids that an exchange counts up by one, such as trade ids: what is new, a duplicate, missing.

Ids normally come one after the other and are compared with `Chain.following` alone. Everything else goes through
`Chain.judge`. A jump is not believed at once: the id that jumped is new, but the chain moves there only when a second
id comes from just beyond it. So one id damaged on its way neither makes the ids behind it look like duplicates nor
reports a gap of millions.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

HOLES_MAX = 64  # ranges still missing that a chain remembers, so that a second socket can fill them
STEP_MAX = 1000  # a second id at most this far beyond a jump confirms it
AHEAD_MAX = 256  # ids beyond a gap after which a second socket is no longer expected to fill it
OLDER_RUN_MAX = 64  # older ids in a row after which the chain starts anew: the exchange restarted its count
OLDER_RUN_OVERLAPPING_MAX = 4096  # the same while a second socket repeats what the first one brought

GapHook = Callable[[int, int], None]  # (first missing id, last missing id)


class Chain:
    """The ids of one kind for one instrument."""

    __slots__ = ("_ahead", "_expected", "_holes", "_older_at", "_older_run", "_since", "following", "missing", "older")

    def __init__(self) -> None:
        self.following = -1  # the id that needs no judging; -1 = judge every id: none yet, or a jump is undecided
        self.missing = 0  # ids of confirmed gaps, less those that came after all
        self.older = 0  # ids that had been there before
        self._since = -1  # every id from here to `_expected` was there; -1 = none yet
        self._expected = -1  # what follows the chain
        self._ahead: list[int] = []  # ids that jumped off the chain, ascending; one at most on a single connection
        self._holes: list[tuple[int, int]] = []
        self._older_run = 0
        self._older_at = -1  # `_expected` at the last older id: a chain that moved on ends the run

    def judge(self, number: int, overlapping: bool, on_gap: GapHook) -> bool:
        """Say whether an id other than `following` is new, and report the gap once it is certain.

        Args:
            overlapping: two sockets deliver the same stream, one behind the other: what one missed the other may
                bring, and lower ids are duplicates. On a single connection only those are that surely were there.
        """
        if self.following >= 0:  # the chain stands where the caller left it
            self._expected = self.following
        if len(self._ahead) > 1 and not overlapping:
            self._confirm(on_gap)  # the second socket is gone
        expected = self._expected
        if number == expected:
            self._go_on(number + 1, overlapping)
            return True
        if overlapping:
            return self._judge_overlapping(number, on_gap)
        if self._since <= number < expected:
            # The single id that a jump settled on may have been the damaged one, and this the one it looked like.
            return number == self._since == expected - 1 or self._again(number, OLDER_RUN_MAX)
        ahead = self._ahead
        if ahead and ahead[0] <= number <= ahead[0] + STEP_MAX:
            if number > ahead[0]:
                ahead.append(number)
            self._confirm(on_gap)
            return True
        if number < expected:
            self._filled(number)
        ahead[:] = (number,)
        self.following = -1
        return True

    def _judge_overlapping(self, number: int, on_gap: GapHook) -> bool:
        if number < self._expected:
            return self._filled(number) or self._again(number, OLDER_RUN_OVERLAPPING_MAX)
        ahead = self._ahead
        if number in ahead:
            return self._again(number, OLDER_RUN_OVERLAPPING_MAX)
        insort(ahead, number)
        self.following = -1
        if self._expected < 0 or len(ahead) > AHEAD_MAX:
            self._confirm(on_gap)
        return True

    def _go_on(self, following: int, overlapping: bool) -> None:
        """The chain goes on in order: an open jump was one damaged id, unless it is next or two sockets overlap."""
        ahead = self._ahead
        while ahead and ahead[0] <= following:
            following = max(following, ahead.pop(0) + 1)
        if not overlapping:
            ahead.clear()
        self._expected = following
        self.following = -1 if ahead else following

    def _confirm(self, on_gap: GapHook) -> None:
        """The chain goes on beyond what jumped ahead: what lies between is missing."""
        ahead = self._ahead
        expected = self._expected
        since = ahead[0]
        for number in ahead:
            if 0 <= expected < number:
                self._gap(expected, number - 1, on_gap)
            if number != expected:
                since = number
            expected = number + 1
        self._since = since
        self.following = self._expected = expected
        ahead.clear()

    def _gap(self, first: int, last: int, on_gap: GapHook) -> None:
        self.missing += last - first + 1
        self._holes.append((first, last))
        del self._holes[:-HOLES_MAX]
        on_gap(first, last)

    def _filled(self, number: int) -> bool:
        for n, (first, last) in enumerate(self._holes):
            if first <= number <= last:
                rest = ((first, number - 1), (number + 1, last))
                self._holes[n : n + 1] = [part for part in rest if part[0] <= part[1]]
                self.missing -= 1
                return True
        return False

    def _again(self, number: int, run_max: int) -> bool:
        self.older += 1
        self._older_run = self._older_run + 1 if self._older_at == self._expected else 1
        self._older_at = self._expected
        if self._older_run < run_max:
            return False
        self._since, self.following = number, number + 1
        self._ahead.clear()
        self._holes.clear()
        self._older_run = 0
        return True
