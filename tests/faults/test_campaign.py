"""The short form of the campaign: half a minute of it. `make faults` runs the whole."""

from __future__ import annotations

import pytest

from .campaign import Campaign, run
from .damage import DAMAGES, make_steps
from .ledgers import Lost
from .machine import Shim
from .tables import within
from .told import Stored, walk
from .verdict import Usage, judge

SEED = 20_261_121
KILLS = 12
SECONDS = 20.0  # after this no new damage is begun
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


@pytest.mark.timeout(900)
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


# -- what an outage explains


def clock(*steps: tuple[int, int]) -> Shim:
    """Of the daemon: set so many s ahead, at so many s of the machine's time."""
    shim = Shim.__new__(Shim)
    shim.works = True
    shim._steps = [(at * 10**9, ahead * 10**9) for at, ahead in steps]
    return shim


def received(at_s: int) -> Stored:
    return Stored(1, 0, (), at_s * 10**9)


@pytest.mark.parametrize(
    ("outage", "explains"),
    [((12, 18), True), ((10, 20), True), ((0, 18), True), ((5, 8), False), ((5, 18), False), ((12, 25), False)],
)
def test_hole_is_explained_by_an_outage_inside_it(outage, explains):
    of_ns = outage[0] * 10**9, outage[1] * 10**9
    assert within(clock((0, 0)), received(10), of_ns, received(20)) is explains


def test_outage_is_found_by_a_clock_that_was_stepped_meanwhile():
    shim = clock((0, 0), (15, -100), (17, 0))
    assert within(shim, received(10), (12 * 10**9, -84 * 10**9), received(20)), "it ended at 16 s"
    assert not within(shim, received(10), (12 * 10**9, -80 * 10**9), received(20)), "the clock never showed that"
    assert shim.moments(-84 * 10**9) == [16 * 10**9]
