"""`tickring tail` of what the portfolio publishes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tickring.daemon.commands.tailing import tail
from tickring.daemon.errors import InputMissing

from .desk_rig import Portfolio


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    portfolio = Portfolio(tmp_path)
    portfolio.position("default", "dipmaster", "binance", "SOLUSDT", quantity=12_50000000)
    portfolio.pnl("default", total_pnl=-1_50000000)
    portfolio.close()
    return tmp_path


def test_tail_of_positions_and_pnl_prints_their_amounts(folder: Path, capsys) -> None:
    tail(folder, "position", "SOLUSDT", 5, follow=False, as_json=True)
    line = json.loads(capsys.readouterr().out)
    assert (line["symbol"], line["account_id"], line["quantity"]) == ("SOLUSDT", "default", "12.5")
    tail(folder, "pnl", None, 5, follow=False, as_json=False)
    assert " total_pnl=-1.5 " in (shown := capsys.readouterr().out) and "None" not in shown


def test_tail_of_a_record_with_texts_is_refused_with_what_there_is(folder: Path) -> None:
    with pytest.raises(InputMissing, match=r"unknown record type 'fill'\. Known: trade, .*position, pnl\."):
        tail(folder, "fill", None, 5, follow=False, as_json=False)
