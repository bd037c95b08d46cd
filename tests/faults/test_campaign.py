"""The short form of the campaign: half a minute of it. `make faults` runs the whole."""

from __future__ import annotations

import pytest

from .campaign import Campaign, run
from .damage import DAMAGES, make_steps
from .verdict import Usage, judge

SEED = 20_261_121
KILLS = 12
SECONDS = 30.0  # after this no new damage is begun
SHORT = (
    "cut", "kill_daemon", "oversized", "storm", "exchange:drop", "exchange:reset", "exchange:duplicate",
    "exchange:break_chain",
)  # fmt: skip


def test_campaign_of_a_seed_is_the_same_each_time():
    assert make_steps(7, 50, 2) == make_steps(7, 50, 2) != make_steps(8, 50, 2)
    steps = make_steps(7, 200, 1)
    assert {step.name for step in steps} == DAMAGES.keys()
    assert sum(len(step.parameters["actors"]) for step in steps if step.name == "kill") >= 200


def test_daemon_after_a_short_campaign_holds_what_was_sent_less_its_gap_ledgers(tmp_path):
    pytest.importorskip("chdb", reason="the embedded engine is not installed: pip install 'tickring[embedded]'")
    with Campaign(SEED, tmp_path) as campaign:
        before = Usage.of(campaign.tree)
        run(campaign, make_steps(SEED, KILLS, 1, SHORT), SECONDS)
        verdicts = judge(campaign, before)
    assert not [each for each in verdicts if not each.ok]
