from __future__ import annotations

from tickring.daemon.cpus import assign

ACTORS = [
    ("clickhouse", "clickhouse"),
    ("feed-a", "feed"),
    ("feed-b", "feed"),
    ("writer", "writer"),
    ("front-0", "front"),
]


def test_two_cpus_are_shared_by_all():
    assert set(assign(ACTORS, [0, 1], {}, auto=True).values()) == {(0, 1)}


def test_many_cpus_give_feeds_and_fronts_one_each_and_share_the_rest():
    cpus = assign(ACTORS, range(8), {}, auto=True)
    assert (cpus["feed-a"], cpus["feed-b"], cpus["front-0"]) == ((7,), (6,), (5,))
    assert cpus["writer"] == cpus["clickhouse"] == (0, 1, 2, 3, 4)


def test_four_cpus_keep_two_for_everybody_else():
    cpus = assign(ACTORS, range(4), {}, auto=True)
    assert (cpus["feed-a"], cpus["feed-b"]) == ((3,), (2,))
    assert cpus["front-0"] == cpus["writer"] == (0, 1)


def test_explicit_cpus_win_by_name_over_kind_and_are_given_to_nobody_else():
    cpus = assign(ACTORS, range(8), {"feed": [7], "feed-b": [6], "writer": [0]}, auto=True)
    assert (cpus["feed-a"], cpus["feed-b"], cpus["writer"]) == ((7,), (6,), (0,))
    assert cpus["front-0"] == (5,)
    assert cpus["clickhouse"] == (1, 2, 3, 4)


def test_automatic_pinning_can_be_switched_off():
    cpus = assign(ACTORS, range(8), {"writer": [0]}, auto=False)
    assert cpus["writer"] == (0,)
    assert cpus["feed-a"] == tuple(range(8))
