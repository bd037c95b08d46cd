"""The spool: order, crashes, bounds, a full disk."""

from __future__ import annotations

import errno
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
    while (window := spool.first()) is not None:
        for found in window.batches:
            assert found.block == bytes([found.head.first % 251]) * len(found.block)
            taken.append(found.head.first)
        spool.sent(window.entries)
    return taken


def send(spool, count):
    """Send the first so many batches, each alone."""
    for _ in range(count):
        window = spool.first()
        if len(window.entries) > 1:
            spool.part()
            window = spool.first()
        spool.sent(window.entries)


def looked_at(spool):
    """What would be sent next: numbers, and whether they may have been sent before."""
    window = spool.first()
    return [(found.head.first, found.uncertain) for found in window.batches]


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
    send(spool, 4)
    again = Spool(tmp_path, 100 * MIB)
    assert [head.first for head in again.heads()] == [4, 5, 6, 7, 8, 9]
    again.append(batch(10))
    assert take(again) == [4, 5, 6, 7, 8, 9, 10]


def test_window_is_handed_out_again_in_a_next_life_with_just_the_same_batches(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(3):
        spool.append(batch(n))
    assert looked_at(spool) == [(0, False), (1, False), (2, False)]
    for n in range(3, 5):
        spool.append(batch(n))
    for again in (spool, Spool(tmp_path, 100 * MIB)):
        assert looked_at(again) == [(0, True), (1, True), (2, True)]
        again.append(batch(5))
    again.sent(again.first().entries)
    assert looked_at(again) == [(3, False), (4, False), (5, False)]


def test_spool_whose_head_is_lost_looks_for_each_batch_alone(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(3):
        spool.append(batch(n))
    send(spool, 1)
    (tmp_path / "head").write_bytes(b"rubbish" * 10)
    again = Spool(tmp_path, 100 * MIB)
    assert [head.first for head in again.heads()] == [0, 1, 2]
    for n in range(3):
        assert looked_at(again) == [(n, True)]
        again.sent(again.first().entries)


def test_spool_opened_again_without_having_handed_out_anything_knows_that_nothing_was_sent(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(3):
        spool.append(batch(n, uncertain=n == 1))
    again = Spool(tmp_path, 100 * MIB)
    for expected in ([(0, False)], [(1, True)], [(2, False)]):
        assert looked_at(again) == expected, "what was sent before goes alone"
        again.sent(again.first().entries)


def test_window_that_was_parted_goes_alone_in_this_life_and_the_next(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(4):
        spool.append(batch(n))
    spool.first()
    spool.append(batch(4))
    spool.part()
    assert looked_at(spool) == [(0, True)]
    spool.sent(spool.first().entries)
    for again in (spool, Spool(tmp_path, 100 * MIB)):
        assert looked_at(again) == [(1, True)]
    for n in (1, 2, 3):
        assert looked_at(again) == [(n, True)]
        again.sent(again.first().entries)
    assert looked_at(again) == [(4, False)]


def test_window_of_which_a_part_is_damaged_goes_alone(tmp_path):
    for place in ("body", "head"):
        folder = tmp_path / place
        spool = Spool(folder, 100 * MIB)
        for n in range(4):
            spool.append(batch(n, 500))
        spool.first()
        damage(files(folder)[0], 4, 2, 400 if place == "body" else 30)
        again = Spool(folder, 100 * MIB)
        assert looked_at(again) == [(0, True)]
        send(again, 2)
        if place == "body":
            with pytest.raises(SpoolRecordBroken) as broken:
                again.first()
            again.sent((broken.value.entry,))
        assert looked_at(again) == [(3, True)]


def damage(path, records, record, at):
    """One byte of a record of a file of so many of one size."""
    data = bytearray(path.read_bytes())
    data[len(data) // records * record + at] ^= 1
    path.write_bytes(data)


def test_window_ends_before_a_damaged_body(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(4):
        spool.append(batch(n, 500))
    damage(files(tmp_path)[0], 4, 2, 400)
    again = Spool(tmp_path, 100 * MIB)
    assert looked_at(again) == [(0, False), (1, False)]
    again.sent(again.first().entries)
    with pytest.raises(SpoolRecordBroken) as broken:
        again.first()
    again.sent((broken.value.entry,))
    assert looked_at(again) == [(3, False)]


def test_window_that_cannot_be_entered_is_not_handed_out(tmp_path, monkeypatch):
    spool = Spool(tmp_path, 100 * MIB)
    spool.append(batch(0))
    with monkeypatch.context() as patched:
        patched.setattr("tickring.storage.spool.os.pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
        with pytest.raises(DiskUnusable, match="make room"):
            spool.first()
    assert looked_at(spool) == [(0, False)]


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EACCES, errno.ENOMEM])
def test_window_that_cannot_be_read_just_now_stays(tmp_path, monkeypatch, code):
    spool = Spool(tmp_path, 100 * MIB)
    for n in range(3):
        spool.append(batch(n))
    for place in ("open", "pread"):
        with monkeypatch.context() as patched:
            patched.setattr(f"tickring.storage.spool.os.{place}", refuses(code))
            with pytest.raises(DiskUnusable, match=os.strerror(code)):
                spool.first()
    assert looked_at(spool) == [(0, False), (1, False), (2, False)]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOENT])
def test_window_that_will_never_be_read_is_broken(tmp_path, monkeypatch, code):
    spool = Spool(tmp_path, 100 * MIB)
    spool.append(batch(0))
    with monkeypatch.context() as patched:
        patched.setattr("tickring.storage.spool.os.open", refuses(code))
        with pytest.raises(SpoolRecordBroken):
            spool.first()


def refuses(code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    return refuse


def test_spool_used_up_and_filled_again_after_a_restart_keeps_nothing_old(tmp_path):
    for life in range(4):
        spool = Spool(tmp_path, 100 * MIB)
        assert len(spool) == 0
        for n in range(3):
            spool.append(batch(10 * life + n))
        again = Spool(tmp_path, 100 * MIB)
        assert take(again) == [10 * life, 10 * life + 1, 10 * life + 2]


def test_spool_batches_tried_in_vain_are_looked_for_before_the_next_attempt(tmp_path):
    spool = Spool(tmp_path, 100 * MIB)
    spool.append(batch(0))
    assert looked_at(spool) == [(0, False)]
    spool.append(batch(1))
    spool.yield_back()
    assert looked_at(spool) == [(0, True)]
    spool.sent(spool.first().entries)
    assert looked_at(spool) == [(1, False)]


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
    damage(files(tmp_path)[0], 3, 1, 400)
    again = Spool(tmp_path, 100 * MIB)
    again.sent(again.first().entries)
    for _ in range(2):
        with pytest.raises(SpoolRecordBroken) as broken:
            again.first()  # until it is in the gap ledger
        assert broken.value.entry.head.first == 1
    again.sent((broken.value.entry,))
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


def test_spool_at_its_bound_keeps_the_batches_that_are_being_sent(tmp_path):
    spool = Spool(tmp_path, 8 * MIB)
    for n in range(3):
        spool.append(batch(n, 250_000))
    window = spool.first()
    for n in range(3, 100):
        spool.append(batch(n, 250_000))
    lost = yielded(spool)
    assert not {0, 1, 2} & set(lost)
    spool.sent(window.entries)
    assert sorted([0, 1, 2, *lost, *take(spool)]) == list(range(100))


def test_spool_killed_before_what_yielded_was_entered_names_it_again(tmp_path):
    spool = Spool(tmp_path, 8 * MIB)
    for n in range(10):
        spool.append(batch(n, 250_000))
    send(spool, 2)  # the first file has four: two of them are stored, and no loss
    assert looked_at(spool) == [(2, True)]
    spool.yield_back()
    for n in range(10, 60):
        spool.append(batch(n, 250_000))
    (first, *_) = spool.take_yielded()
    assert [(entry.head.first, entry.uncertain) for entry in first.entries] == [(2, True), (3, True)]
    again = Spool(tmp_path, 8 * MIB)
    (first, *_) = again._yielded
    assert [(entry.head.first, entry.uncertain) for entry in first.entries] == [(2, True), (3, True)]
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
@given(st.lists(st.sampled_from(["append", "large", "send", "retry", "part", "reopen"]), max_size=60))
def test_spool_behaves_as_a_list(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("spool")
    spool, model, n = Spool(folder, 100 * MIB), [], 0
    tried, parted = [], False  # the newest window, and whether its batches go alone since
    for step in steps:
        if step in ("append", "large"):
            spool.append(batch(n, 600_000 if step == "large" else 100))
            model.append(n)
            n += 1
        elif step == "reopen":
            spool.close()
            spool = Spool(folder, 100 * MIB)
        elif (window := spool.first()) is not None:
            numbers = [found.head.first for found in window.batches]
            assert numbers == model[: len(numbers)]
            if window.batches[0].uncertain:  # what may have gone together goes together again, or each alone
                assert numbers == tried or (parted and len(numbers) == 1)
            else:
                tried, parted = numbers, False
            if step == "send":
                spool.sent(window.entries)
                del model[: len(numbers)]
            elif step == "part" and len(numbers) > 1:
                spool.part()
                parted = True
            else:
                spool.yield_back()
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
