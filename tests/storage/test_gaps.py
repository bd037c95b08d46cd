"""The gap ledger."""

from __future__ import annotations

import resource

from tickring.storage import gaps
from tickring.storage.gaps import LAPPED, RING_GONE, Gap, GapLedger, read_gaps


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
