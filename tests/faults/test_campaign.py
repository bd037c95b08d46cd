"""The short form of the campaign: half a minute of it. `make faults` runs the whole."""

from __future__ import annotations

import pytest

from .campaign import Campaign, run
from .damage import DAMAGES, make_steps
from .ledgers import Lost
from .told import Stored, walk
from .verdict import Usage, judge

SEED = 20_261_121
KILLS = 12
SECONDS = 25.0  # after this no new damage is begun
MIDNIGHT_S = 15.0  # the market's day ends so long after the beginning
SHORT = (
    "cut", "kill_daemon", "kill_at_mark", "reboot", "oversized", "storm", "exchange:drop", "exchange:reset",
    "exchange:duplicate", "exchange:break_chain",
)  # fmt: skip


def test_campaign_of_a_seed_is_the_same_each_time():
    assert make_steps(7, 50, 2) == make_steps(7, 50, 2) != make_steps(8, 50, 2)
    steps = make_steps(7, 200, 1)
    assert {step.name for step in steps} == DAMAGES.keys()
    assert sum(len(step.parameters["actors"]) for step in steps if step.name == "kill") >= 200


def test_daemon_after_a_short_campaign_holds_what_was_sent_less_its_gap_ledgers(tmp_path):
    pytest.importorskip("chdb", reason="the embedded engine is not installed: pip install 'tickring[embedded]'")
    with Campaign(SEED, tmp_path, midnight_s=MIDNIGHT_S) as campaign:
        before = Usage.of(campaign.tree)
        run(campaign, make_steps(SEED, KILLS, 1, SHORT), SECONDS)
        verdicts = judge(campaign, before)
    assert not [each for each in verdicts if not each.ok]


# -- how rows are laid beside what was sent


def rows(*values: int) -> list[Stored]:
    return [Stored(1, nth, (value,)) for nth, value in enumerate(values)]


def test_walk_of_everything_that_was_sent_finds_nothing():
    assert walk([(1,), (2,), (2,), (3,)], rows(1, 2, 2, 3)) == ([], [], 0, 0)


def test_walk_tells_what_is_missing_between_two_rows_and_behind_the_last():
    one, five = rows(1, 5)
    assert walk([(0,), (1,), (2,), (3,), (5,), (6,)], [one, five]) == ([], [(one, five)], 2, 1)


def test_walk_tells_a_row_that_was_never_sent_or_comes_twice_or_out_of_order():
    for wrong in (rows(1, 9), rows(1, 1), rows(2, 1)):
        assert walk([(1,), (2,), (3,)], wrong).strangers == wrong[1:]


def test_walk_of_a_message_that_was_sent_twice_takes_one_row_or_two():
    for stored in (rows(1, 2, 3), rows(1, 2, 2, 3)):
        assert walk([(1,), (2,), (2,), (3,)], stored) == ([], [], 0, 0)


def test_ledger_fits_what_it_names_for_certain_and_perhaps():
    lost = Lost({1, 2}, {2, 3})
    assert [lost.fits(missing) for missing in range(5)] == [False, False, True, True, False]
    assert Lost({1}, set(), rest=True).fits(1000)
