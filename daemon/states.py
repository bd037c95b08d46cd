"""States of an actor process as its supervisor sees them, and when a dead one is started again.

    STARTING ──▶ RUNNING ──▶ STOPPING ──▶ EXITED
       │  ▲         │
       ▼  │         ▼
      BACKOFF ◀─────┘        any of the left three ──▶ FATAL   (given up: cannot boot, or died too often)

Pure: no clock and no process in here, so that the policy is tested without either.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum


class State(StrEnum):
    STARTING = "starting"  # forked; its page does not say "running" yet
    RUNNING = "running"
    BACKOFF = "backoff"  # dead; is started again when its delay is over
    STOPPING = "stopping"  # was asked to end
    EXITED = "exited"  # ended because it was asked to, or not started yet
    FATAL = "fatal"  # dead and given up


TRANSITIONS: dict[State, frozenset[State]] = {
    State.EXITED: frozenset({State.STARTING, State.FATAL}),
    State.STARTING: frozenset({State.RUNNING, State.BACKOFF, State.STOPPING, State.FATAL}),
    State.RUNNING: frozenset({State.BACKOFF, State.STOPPING, State.FATAL}),
    State.BACKOFF: frozenset({State.STARTING, State.EXITED, State.FATAL}),
    State.STOPPING: frozenset({State.EXITED}),
    State.FATAL: frozenset({State.STARTING, State.EXITED}),  # an operator restarts it, or takes it out of the file
}
ALIVE = frozenset({State.STARTING, State.RUNNING, State.STOPPING})


def checked(old: State, new: State) -> State:
    """`new`, if a process may go there from `old`; anything else is a bug of the supervisor."""
    assert new in TRANSITIONS[old], f"no transition from {old} to {new}"
    return new


@dataclass
class RestartPolicy:
    """Delay before the next start of one actor, or None when it died too often: capped, jittered, with a ceiling.

    The first restart comes after about `delay_s`, each further one after twice as long, up to `delay_max_s`; a process
    that ran for `stable_s` starts over at the shortest delay. More than `restarts_max` restarts within `window_s` is
    the ceiling. Jitter takes up to half of a delay away, so that processes which died together do not return together.
    """

    delay_s: float = 0.1
    delay_max_s: float = 10.0
    stable_s: float = 5.0
    restarts_max: int = 20
    window_s: float = 60.0
    attempts: int = 0
    recent: deque[float] = field(default_factory=deque)

    def next_delay(self, now: float, ran_for: float) -> float | None:
        """Account for one death at `now` (monotonic s) of a process that had been running for `ran_for` s."""
        while self.recent and self.recent[0] <= now - self.window_s:
            self.recent.popleft()
        if len(self.recent) >= self.restarts_max:
            return None
        self.recent.append(now)
        if ran_for >= self.stable_s:
            self.attempts = 0
        delay = min(self.delay_max_s, self.delay_s * 2 ** min(self.attempts, 30))
        self.attempts += 1
        return delay * random.uniform(0.5, 1.0)

    def forgive(self) -> None:
        """Forget all deaths: an operator asked for the restart."""
        self.attempts = 0
        self.recent.clear()
