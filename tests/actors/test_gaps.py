"""The gap ledger: bounded, append-only, read back whole."""

from __future__ import annotations

from pathlib import Path

from tickring.actors.front.missed import Missed
from tickring.actors.gaps import PENDING_MAX, Gap, GapLedger, Outage, gaps_path, outages_path, read_gaps, read_outages


def gap(first: int) -> Gap:
    return Gap("binance", "BTC-USDT", "trade", first, first + 1, 10, 20)


def test_gaps_are_read_back_in_order(tmp_path: Path) -> None:
    path = gaps_path(tmp_path, "feed-x")
    ledger: GapLedger[Gap] = GapLedger(path, 1 << 20)
    for i in range(5):
        ledger.add(gap(i))
    assert read_gaps(path) == [gap(i) for i in range(5)]
    assert read_gaps(gaps_path(tmp_path, "no-such-feed")) == []


def test_gap_ledger_over_its_limit_keeps_the_newest(tmp_path: Path) -> None:
    path = gaps_path(tmp_path, "feed-x")
    ledger: GapLedger[Gap] = GapLedger(path, 4096)
    for i in range(1000):
        ledger.add(gap(i))
    kept = read_gaps(path)
    assert kept == [gap(i) for i in range(1000 - len(kept), 1000)]
    assert 10 < len(kept) < 100
    assert sum(part.stat().st_size for part in path.parent.iterdir()) <= 2 * 4096


def test_gap_ledger_skips_a_torn_line(tmp_path: Path) -> None:
    path = gaps_path(tmp_path, "feed-x")
    GapLedger(path, 1 << 20).add(gap(1))
    with path.open("ab") as file:
        file.write(b'{"exchange":"bin\n{"exchange":"\xff"}\n')
    GapLedger(path, 1 << 20).add(gap(2))
    assert read_gaps(path) == [gap(1), gap(2)]
    missed = Missed(tmp_path)
    assert missed.version == 2, "requests read the same file"


def test_gap_ledger_on_a_failing_disk_keeps_the_lines_until_it_takes_them(tmp_path: Path) -> None:
    blocker = tmp_path / "gaps"
    blocker.write_text("a file where the folder should be")
    ledger: GapLedger[Gap] = GapLedger(gaps_path(tmp_path, "feed-x"), 1 << 20)
    ledger.add(gap(1))
    ledger.add(gap(2))
    assert (ledger.written, ledger.failed) == (0, 0)
    blocker.unlink()
    ledger.flush()
    assert read_gaps(ledger.path) == [gap(1), gap(2)]
    assert ledger.written == 2


def test_gap_ledger_beyond_what_it_keeps_in_memory_counts(tmp_path: Path) -> None:
    (tmp_path / "gaps").write_text("a file where the folder should be")
    ledger: GapLedger[Gap] = GapLedger(gaps_path(tmp_path, "feed-x"), 1 << 20)
    for i in range(PENDING_MAX + 3):
        ledger.add(gap(i))
    assert (ledger.written, ledger.failed) == (0, 3)


def test_outage_that_lasted_is_told_by_its_newest_line(tmp_path: Path) -> None:
    path = outages_path(tmp_path, "feed-x")
    ledger: GapLedger[Outage] = GapLedger(path, 1 << 20)
    for line in ((50, 50), (50, 0), (50, 0), (50, 80), (90, 0)):
        ledger.add(Outage("binance", "*", *line))
    ledger.add(Outage("binance", "btcusdt@ticker", 60, 61))
    found = [(one.stream, one.from_ns, one.to_ns) for one in read_outages(path)]
    assert found == [("*", 50, 50), ("*", 50, 80), ("*", 90, 0), ("btcusdt@ticker", 60, 61)]
