"""The spool: order, crashes, bounds, a full disk."""

from __future__ import annotations

import os
import resource
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickring.storage.batch import Batch, BatchHead
from tickring.storage.errors import DiskUnusable
from tickring.storage.spool import Spool, SpoolRecordBroken

MIB = 1 << 20


def batch(n, size=1000, uncertain=False):
    head = BatchHead(
        stream="p.trade", record="trade", table="trades", columns=["a"], epoch=1, first=n, stop=n + 1, rows=1,
        token=f"p.trade/1/{n}", identity={"instrument": "X", "nth": n}, ts_first_ns=n, ts_last_ns=n,
    )  # fmt: skip
    return Batch(head, bytes([n % 251]) * size, uncertain)


def take(spool):
    """Everything in the spool, in order."""
    taken = []
    while (first := spool.first()) is not None:
        entry, found = first
        assert found.block == bytes([found.head.first % 251]) * len(found.block)
        taken.append(found.head.first)
        spool.sent(entry)
    return taken


def yielded(spool):
    """What had to yield, in order; its bytes go."""
    taken = []
    for one in spool.take_yielded():
        taken += [entry.head.first for entry in one.entries]
        one.forget()
    return taken


def files(folder):
    return sorted(folder.glob("*.spool"))


def test_spool_gives_back_in_order_and_then_holds_no_file(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(20):
        spool.append(batch(n, 300_000))
    assert len(spool) == 20
    assert yielded(spool) == []
    assert take(spool) == list(range(20))
    assert spool.size == 0
    assert files(tmp_path) == []
    assert spool.first() is None


def test_spool_opened_again_goes_on_behind_what_was_sent(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(10):
        spool.append(batch(n))
    for _ in range(4):
        spool.sent(spool.first()[0])
    again = Spool(tmp_path, 100 * MIB)
    assert [head.first for head in again.heads()] == [4, 5, 6, 7, 8, 9]
    again.append(batch(10))
    assert take(again) == [4, 5, 6, 7, 8, 9, 10]


def test_spool_opened_again_marks_the_first_batch_as_perhaps_sent(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(3):
        spool.append(batch(n, uncertain=n == 2))
    again = Spool(tmp_path, 100 * MIB)
    seen = []
    while (first := again.first()) is not None:
        seen.append(first[1].uncertain)
        again.sent(first[0])
    assert seen == [True, False, True]


def test_spool_whose_position_is_lost_marks_all_as_perhaps_sent(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(3):
        spool.append(batch(n))
    spool.sent(spool.first()[0])
    (tmp_path / "head").write_bytes(b"rubbish rubbish rubbish")
    again = Spool(tmp_path, 100 * MIB)
    assert [head.first for head in again.heads()] == [0, 1, 2]
    for _ in range(3):
        entry, found = again.first()
        assert found.uncertain
        again.sent(entry)


def test_spool_used_up_and_filled_again_after_a_restart_keeps_nothing_old(tmp_path):
    for life in range(4):
        spool = Spool(tmp_path, 100 * MIB)
        assert len(spool) == 0
        for n in range(3):
            spool.append(batch(10 * life + n))
        again = Spool(tmp_path, 100 * MIB)
        assert take(again) == [10 * life, 10 * life + 1, 10 * life + 2]


def test_spool_batch_tried_in_vain_is_looked_for_before_the_next_attempt(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    spool.append(batch(0))
    spool.append(batch(1))
    entry, found = spool.first()
    assert not found.uncertain
    spool.yield_back(entry)
    entry, found = spool.first()
    assert (found.head.first, found.uncertain) == (0, True)
    spool.sent(entry)
    assert not spool.first()[1].uncertain


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 3000), count=st.integers(1, 4))
def test_spool_cut_anywhere_in_its_last_record_loses_that_record_alone(tmp_path_factory, cut, count):
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, 100 * MIB)
    sizes = []
    for n in range(count):
        spool.append(batch(n, 700))
        sizes.append(spool.size)
    before = sizes[-2] if count > 1 else 0
    cut = before + cut % (sizes[-1] - before)
    os.truncate(files(folder)[0], cut)
    again = Spool(folder, 100 * MIB)
    assert again.counters.torn == (1 if cut > before else 0)
    again.append(batch(50))
    assert take(again) == [*range(count - 1), 50]
    shutil.rmtree(folder)


def test_spool_with_a_damaged_body_skips_it_and_says_which(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(3):
        spool.append(batch(n, 500))
    path = files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 3 + 400] ^= 1  # inside the second record's block
    path.write_bytes(data)
    again = Spool(tmp_path, 100 * MIB)
    again.sent(again.first()[0])
    with pytest.raises(SpoolRecordBroken) as broken:
        again.first()
    assert broken.value.entry.head.first == 1
    with pytest.raises(SpoolRecordBroken):
        again.first()  # until it is in the gap ledger
    again.sent(broken.value.entry)
    assert take(again) == [2]


def test_spool_at_its_bound_lets_the_oldest_file_yield_and_names_its_batches(tmp_path):
    spool = Spool(tmp_path, 8 * MIB)
    lost = []
    for n in range(100):
        spool.append(batch(n, 250_000))
        lost += yielded(spool)
        assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.name != "head") == spool.size <= 8 * MIB
    assert lost
    assert lost == list(range(len(lost)))
    assert take(spool) == list(range(len(lost), 100))


def test_spool_at_its_bound_keeps_the_batch_that_is_being_sent(tmp_path):
    spool = Spool(tmp_path, 8 * MIB)
    spool.append(batch(0, 250_000))
    entry, _ = spool.first()
    for n in range(1, 100):
        spool.append(batch(n, 250_000))
    lost = yielded(spool)
    assert 0 not in lost
    spool.sent(entry)
    assert sorted([0, *lost, *take(spool)]) == list(range(100))


def test_spool_killed_before_what_yielded_was_entered_names_it_again(tmp_path):
    spool = Spool(tmp_path, 8 * MIB)
    for n in range(10):
        spool.append(batch(n, 250_000))
    for _ in range(2):
        spool.sent(spool.first()[0])  # the first file has four: two of them are stored, and no loss
    spool.yield_back(spool.first()[0])
    for n in range(10, 60):
        spool.append(batch(n, 250_000))
    (first, *_) = spool.take_yielded()
    assert [(entry.head.first, entry.uncertain) for entry in first.entries] == [(2, True), (3, False)]
    again = Spool(tmp_path, 8 * MIB)
    (first, *_) = again._yielded
    assert [(entry.head.first, entry.uncertain) for entry in first.entries] == [(2, True), (3, False)]
    lost = yielded(again)
    assert lost == list(range(2, 2 + len(lost)))
    assert take(again) == list(range(2 + len(lost), 60))
    assert yielded(Spool(tmp_path, 8 * MIB)) == []


def test_spool_opened_with_a_lower_bound_comes_down_to_it_at_the_next_batch(tmp_path):
    spool = Spool(tmp_path, 64 * MIB)
    for n in range(100):
        spool.append(batch(n, 250_000))
    spool.close()
    again = Spool(tmp_path, 16 * MIB)
    again.append(batch(100, 250_000))
    assert again.size <= 16 * MIB
    lost = yielded(again)
    assert [*lost, *take(again)] == list(range(101))


def test_spool_hands_back_a_batch_larger_than_itself(tmp_path):
    spool = Spool(tmp_path, MIB)
    spool.append(batch(0))
    spool.append(batch(1, 2 * MIB))
    assert yielded(spool) == [1]
    assert take(spool) == [0]


def test_spool_on_a_full_disk_raises_and_goes_on_when_there_is_room(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    spool.append(batch(0, 1000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (5000, hard)
    )  # the kernel then writes up to the limit and refuses the rest
    try:
        for _ in range(3):
            with pytest.raises(DiskUnusable, match="make room"):
                spool.append(batch(1, 50_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert spool.counters.disk_errors == 3
    assert files(tmp_path)[0].stat().st_size == spool.size
    spool.append(batch(2, 50_000))
    assert take(Spool(tmp_path, 100 * MIB)) == [0, 2]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["append", "large", "send", "retry", "reopen"]), max_size=60))
def test_spool_behaves_as_a_list(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("spool")
    spool, model, n = Spool(folder, 100 * MIB), [], 0
    for step in steps:
        if step in ("append", "large"):
            spool.append(batch(n, 600_000 if step == "large" else 100))
            model.append(n)
            n += 1
        elif step == "reopen":
            spool.close()
            spool = Spool(folder, 100 * MIB)
        elif (first := spool.first()) is not None:
            assert first[1].head.first == model[0]
            if step == "send":
                spool.sent(first[0])
                model.pop(0)
            else:
                spool.yield_back(first[0])
        else:
            assert not model
        assert [head.first for head in spool.heads()] == model
    assert take(spool) == model
    shutil.rmtree(folder)


def test_spool_with_a_damaged_head_in_the_middle_keeps_what_follows(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(4):
        spool.append(batch(n, 500))
    path = files(tmp_path)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 4 + 30] ^= 1  # inside the second record's head
    path.write_bytes(data)
    again = Spool(tmp_path, 100 * MIB)
    assert (again.counters.broken, again.counters.torn) == (1, 0)
    assert take(again) == [0, 2, 3]
