from __future__ import annotations

import pytest

from tickring.daemon.states import TRANSITIONS, RestartPolicy, State, checked


def test_every_state_can_be_left_and_reached():
    reached = {new for following in TRANSITIONS.values() for new in following}
    assert reached == set(State) == set(TRANSITIONS)
    assert all(TRANSITIONS.values())


def test_transition_that_does_not_exist_is_refused():
    assert checked(State.STARTING, State.RUNNING) is State.RUNNING
    with pytest.raises(AssertionError, match="no transition from exited to running"):
        checked(State.EXITED, State.RUNNING)


def test_restart_delays_double_up_to_their_cap_with_jitter_below():
    policy = RestartPolicy(delay_s=1, delay_max_s=8, restarts_max=100)
    delays = [policy.next_delay(float(n), ran_for=0) for n in range(6)]
    for delay, full in zip(delays, [1, 2, 4, 8, 8, 8], strict=True):
        assert full / 2 <= delay <= full


def test_actor_that_ran_for_a_while_starts_over_at_the_shortest_delay():
    policy = RestartPolicy(delay_s=1, delay_max_s=64, stable_s=5)
    for n in range(4):
        policy.next_delay(float(n), ran_for=0)
    assert policy.next_delay(100.0, ran_for=5) <= 1


def test_ceiling_counts_only_restarts_within_the_window():
    policy = RestartPolicy(restarts_max=3, window_s=60)
    assert [policy.next_delay(at, 0) is None for at in (0, 1, 2, 3)] == [False, False, False, True]
    assert policy.next_delay(60.5, 0) is not None
    assert policy.next_delay(60.6, 0) is None
    policy.forgive()
    assert policy.next_delay(60.7, 0) is not None
