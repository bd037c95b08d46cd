"""The short form of the desk's fault campaign: a minute of it. `make faults ARGS=--desk` runs the whole."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest

from ..faults.campaign import run
from ..faults.desk import DAMAGES, DeskCampaign, make_steps
from ..faults.desk_load import traffic
from ..faults.desk_truth import true_positions
from ..faults.desk_verdict import difference, judge
from ..faults.verdict import Usage
from .broker import Broker
from .portfolio_oracle import fold_all, true_set

SEED = 20_261_121
KILLS = 8
SECONDS = 30.0  # after this no new damage is begun
ARRIVE_S = 120.0  # well below the test's own limit, so that a verdict says what is missing
SHORT = ("cut", "kill_daemon", "restart_broker", "wipe")


def test_desk_campaign_of_a_seed_is_the_same_each_time():
    assert make_steps(7, 50, 2) == make_steps(7, 50, 2) != make_steps(8, 50, 2)
    steps = make_steps(7, 100, 1)
    assert {step.name for step in steps} == DAMAGES.keys()
    assert sum(len(step.parameters["actors"]) for step in steps if step.name == "kill") >= 100
    one, other = ([next(messages) for _ in range(2000)] for messages in (traffic(7), traffic(7)))
    assert one == other


def test_positions_in_decimals_and_in_fractions_are_the_same():
    messages = [message for _, message in islice(traffic(3), 4000)]
    fills = true_set(messages)
    ours, theirs = true_positions(fills), fold_all(fills)
    assert ours.keys() == theirs.keys() and len(ours) == 16
    for key, held in ours.items():
        other = theirs[key]
        assert (held.quantity, held.fees, held.fills) == (other.quantity, other.fees, other.fills)
        assert abs(Fraction(held.realized) - other.realized) < Fraction(1, 10**30)
        assert [trip > 0 for trip in held.trips] == [trip > 0 for trip in other.trips]


def test_verdict_shows_the_first_rows_that_differ():
    rows = [("exec.reports.v1", 0, offset) for offset in range(9)]
    assert not difference(rows, reversed(rows))
    told = difference(rows[1:], rows[:-1] + rows[3:4])
    assert "1 missing: ('exec.reports.v1', 0, 8)" in told
    assert "2 too many: ('exec.reports.v1', 0, 0), ('exec.reports.v1', 0, 3)" in told


@pytest.mark.timeout(600)  # each wait in it has a bound of its own
def test_desk_after_a_short_campaign_holds_each_event_once(broker: Broker, tmp_path: Path):
    pytest.importorskip("chdb", reason="the embedded engine is not installed: pip install 'tickring[embedded]'")
    with DeskCampaign(SEED, tmp_path, broker=broker) as campaign:
        before = Usage.of(campaign.tree)
        run(campaign, make_steps(SEED, KILLS, 1, SHORT), SECONDS)
        verdicts = judge(campaign, before, ARRIVE_S)
    assert not [each for each in verdicts if not each.ok]
