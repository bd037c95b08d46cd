"""The journal of a stream's position."""

from __future__ import annotations

import os
import resource

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickring.storage.errors import DiskUnusable
from tickring.storage.journal import SLOT_SIZE, Journal, Position


def test_journal_new_has_no_position(tmp_path):
    assert Journal(tmp_path / "a", "p.trade").position is None


def test_journal_opened_again_has_the_last_position(tmp_path):
    journal = Journal(tmp_path, "p.trade")
    journal.mark(9, 100)
    journal.intend(9, 100, 150, probe_key=3, probe_nth=42)
    journal.close()
    assert Journal(tmp_path, "p.trade").position == Position(9, 100, 150, 3, 42)
    assert Journal(tmp_path, "p.trade").position.open


def test_journal_drained_says_so_until_the_next_store(tmp_path):
    journal = Journal(tmp_path, "p.trade")
    journal.mark(9, 100, drained=True)
    assert Journal(tmp_path, "p.trade").position.drained
    journal.mark(9, 100)
    assert not Journal(tmp_path, "p.trade").position.drained


@settings(max_examples=60, deadline=None)
@given(
    stores=st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 1000)), min_size=1, max_size=8),
    at=st.integers(0, 63),
    bit=st.integers(0, 7),
)
def test_journal_with_a_damaged_slot_falls_back_to_the_store_before(tmp_path_factory, stores, at, bit):
    journal = Journal(tmp_path_factory.mktemp("journal"), "p.trade")
    for safe, size in stores:
        journal.store(Position(7, safe, safe + size))
    newest = len(stores) % 2 * SLOT_SIZE + at
    fd = os.open(journal.path, os.O_RDWR)
    old = os.pread(fd, 1, newest)
    os.pwrite(fd, bytes([old[0] ^ 1 << bit]), newest)
    os.close(fd)
    found = Journal(journal.path.parent, "p.trade").position
    positions = [Position(7, safe, safe + size) for safe, size in stores]
    if at >= 52:  # behind the slot's own bytes
        assert found == positions[-1]
    else:
        assert found == (positions[-2] if len(positions) > 1 else None)
    journal.close()


def test_journal_on_a_failing_disk_raises_and_the_position_before_stands(tmp_path):
    journal = Journal(tmp_path, "p.trade")
    journal.intend(7, 0, 100, 1, 2)
    before = journal.position
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(DiskUnusable, match="make room"):
            journal.mark(7, 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.position == before == Journal(tmp_path, "p.trade").position
    journal.mark(7, 100)
    assert Journal(tmp_path, "p.trade").position == journal.position
