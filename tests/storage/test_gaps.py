"""The gap ledger."""

from __future__ import annotations

import logging
import resource

from tickring.storage import gaps
from tickring.storage.gaps import LAPPED, RING_GONE, SPOOL_FULL, Gap, GapLedger, gap_totals, read_gaps


def gap(first, stop=None, reason=LAPPED):
    return Gap(noticed_ns=1, stream="p.trade", epoch=7, first=first, stop=stop, reason=reason)


def test_ledger_reads_back_what_was_entered(tmp_path):
    ledger = GapLedger(tmp_path)
    entered = [gap(0, 10), gap(10, None, RING_GONE)]
    for one in entered:
        ledger.add(one)
    ledger.close()
    assert read_gaps(tmp_path) == entered


def test_ledger_with_a_torn_last_line_reads_the_others(tmp_path):
    ledger = GapLedger(tmp_path)
    ledger.add(gap(0, 10))
    ledger.add(gap(20, 30))
    ledger.path.write_bytes(ledger.path.read_bytes()[:-9])
    assert [one.first for one in read_gaps(tmp_path)] == [0]


def test_ledger_at_its_bound_begins_a_new_file(tmp_path, monkeypatch):
    monkeypatch.setattr(gaps, "BYTES_MAX", 1000)
    ledger = GapLedger(tmp_path)
    for n in range(12):
        ledger.add(gap(n, n + 1))
    assert (tmp_path / "gaps.1.jsonl").exists()
    assert [one.first for one in read_gaps(tmp_path)][-1] == 11


def test_ledger_on_a_full_disk_keeps_gaps_and_writes_them_later(tmp_path):
    ledger = GapLedger(tmp_path)
    ledger.add(gap(0, 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ledger.path.stat().st_size + 20, hard))
    try:
        ledger.add(gap(1, 2))
        ledger.add(gap(2, 3))
        assert len(ledger.pending) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    ledger.flush()
    assert [one.first for one in read_gaps(tmp_path)] == [0, 1, 2]
    assert ledger.pending == []


def test_ledger_joins_adjacent_gaps_of_a_stream_entered_together(tmp_path):
    ledger = GapLedger(tmp_path)
    ledger.add(gap(0, 10), gap(5, 6, SPOOL_FULL), gap(10, 30), gap(40, 50), gap(6, 9, SPOOL_FULL))
    assert [(one.first, one.stop, one.reason) for one in read_gaps(tmp_path)] == [
        (0, 30, LAPPED), (40, 50, LAPPED), (5, 9, SPOOL_FULL),
    ]  # fmt: skip


def test_ledger_under_many_gaps_writes_one_line_at_once_and_the_rest_as_a_sum(tmp_path, caplog, monkeypatch):
    now = 100.0
    monkeypatch.setattr(gaps.time, "monotonic", lambda: now)
    ledger = GapLedger(tmp_path)
    with caplog.at_level(logging.WARNING):
        for n in range(50):
            ledger.add(gap(10 * n, 10 * n + 5))
        assert len(caplog.messages) == 1
        assert "larger ring" in caplog.messages[0]
        now += gaps.SAY_INTERVAL_S
        ledger.flush()
        ledger.flush()
    assert len(caplog.messages) == 2
    assert "lost=245 rows gaps=49 from=10 to=495" in caplog.messages[1]


def test_totals_count_an_extent_that_was_entered_twice_once():
    entered = [gap(0, 10), gap(0, 25), gap(25, 30), gap(90, None, RING_GONE), gap(20, 22)]
    lapped, gone = gap_totals(entered)
    assert (lapped.stream, lapped.reason, lapped.rows, lapped.open) == ("p.trade", LAPPED, 30, 0)
    assert (gone.reason, gone.gaps, gone.rows, gone.open) == (RING_GONE, 1, 0, 1)
