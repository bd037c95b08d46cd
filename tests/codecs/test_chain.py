"""Continuity of ids, with gaps, damage, and two sockets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tickring.codecs.chain import AHEAD_MAX, OLDER_RUN_MAX, Chain


def run(
    numbers: list[int], *, overlapping: bool = False, chain: Chain | None = None
) -> tuple[list[int], list[tuple[int, int]]]:
    """What passes as new, and the gaps."""
    chain = chain or Chain()
    gaps: list[tuple[int, int]] = []
    new = []
    for number in numbers:
        if number == chain.following:
            chain.following = number + 1
            new.append(number)
        elif chain.judge(number, overlapping, lambda first, last: gaps.append((first, last))):
            new.append(number)
    return new, gaps


def test_ids_in_order_are_all_new() -> None:
    assert run([7, 8, 9, 10]) == ([7, 8, 9, 10], [])


def test_gap_is_reported_once_a_second_id_follows_it() -> None:
    assert run([1, 2, 5]) == ([1, 2, 5], [])
    assert run([1, 2, 5, 6, 7]) == ([1, 2, 5, 6, 7], [(3, 4)])


def test_two_gaps_in_a_row_are_both_reported() -> None:
    assert run([1, 2, 5, 8, 9]) == ([1, 2, 5, 8, 9], [(3, 4), (6, 7)])


def test_duplicates_are_dropped_and_counted() -> None:
    chain = Chain()
    assert run([1, 2, 3, 3, 2, 4], chain=chain) == ([1, 2, 3, 4], [])
    assert chain.older == 2


def test_one_damaged_id_is_no_gap_and_hides_nothing() -> None:
    assert run([1, 2, 900, 4, 5, 6]) == ([1, 2, 900, 4, 5, 6], [(3, 3)])
    assert run([1, 2, 900, 3, 4]) == ([1, 2, 900, 3, 4], [])


def test_damaged_first_id_does_not_hide_the_rest() -> None:
    assert run([10**12, 1, 2, 3]) == ([10**12, 1, 2, 3], [])


def test_second_socket_behind_the_first_repeats_nothing() -> None:
    assert run([1, 2, 3, 1, 4, 2, 5, 3, 4, 6, 5, 6], overlapping=True) == ([1, 2, 3, 4, 5, 6], [])


def test_second_socket_fills_what_the_first_one_missed() -> None:
    chain = Chain()
    assert run([1, 2, 4, 5, 3, 4, 5, 6], overlapping=True, chain=chain) == ([1, 2, 4, 5, 3, 6], [])
    assert chain.missing == 0


def test_second_socket_far_behind_fills_a_gap_that_was_reported() -> None:
    chain = Chain()
    numbers = [1, 2, *range(4, 4 + AHEAD_MAX + 5), 3, 4, 5]
    new, gaps = run(numbers, overlapping=True, chain=chain)
    assert new == [1, 2, *range(4, 4 + AHEAD_MAX + 5), 3]
    assert gaps == [(3, 3)]
    assert chain.missing == 0


def test_jump_that_is_caught_up_with_is_no_gap() -> None:
    assert run([1, 2, 4, 3, 4, 5], overlapping=True) == ([1, 2, 4, 3, 5], [])
    assert run([1, 2, 5, 3, 4, 5, 6], overlapping=True)[0].count(6) == 1


def test_count_that_starts_anew_is_taken_up() -> None:
    assert run([100, 101, 102, 1, 2, 3]) == ([100, 101, 102, 1, 2, 3], [])


def test_long_run_of_older_ids_starts_the_chain_anew() -> None:
    repeated = [*range(1000), *range(500, 500 + OLDER_RUN_MAX + 5)]
    new, _ = run(repeated)
    assert new[1000:] == [563, 564, 565, 566, 567, 568]


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 40))
def test_lost_ids_are_exactly_the_gaps(steps: list[int], start: int) -> None:
    """Any ascending ids that end in order: what was not sent is what is reported."""
    numbers = [start, start + 1]
    for step in steps:
        numbers.append(numbers[-1] + (step if step > 5 else 1))
    numbers += [numbers[-1] + 1, numbers[-1] + 2]
    new, gaps = run(numbers)
    assert new == numbers
    missing = [n for first, last in gaps for n in range(first, last + 1)]
    assert missing == sorted(set(range(start, numbers[-1])) - set(numbers))


@given(st.sets(st.integers(103, 159)), st.sets(st.integers(103, 159)), st.integers(1, 6))
def test_two_sockets_that_lose_different_ids_give_each_id_once(lost: set[int], lost_too: set[int], lag: int) -> None:
    one, two = ([n for n in range(100, 160) if n not in gone] for gone in (lost, lost_too))
    merged = []
    for at in range(100, 170):
        merged += [at] if at in one else []
        merged += [at - lag] if at - lag in two else []
    chain = Chain()
    new, gaps = run(merged, overlapping=True, chain=chain)
    assert sorted(new) == sorted({*one, *two})
    run([170, 171], chain=chain, overlapping=False)
    if gaps:
        assert chain.missing


def test_gap_that_both_sockets_have_is_reported_when_one_of_them_ends() -> None:
    chain = Chain()
    assert run([1, 1, 2, 2, 5, 5, 6, 6], overlapping=True, chain=chain) == ([1, 2, 5, 6], [])
    assert run([7, 8], chain=chain) == ([7, 8], [(3, 4)])
