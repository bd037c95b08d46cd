from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from pathlib import Path

import pytest

from tickring.daemon import instance
from tickring.daemon.drain import usual_share_s
from tickring.daemon.errors import FolderUnusable, SpaceShort
from tickring.daemon.instance import tidy
from tickring.daemon.plan import ActorPlan, Plan
from tickring.ringbuf.keys import KeyWriter
from tickring.ringbuf.layout import StreamSpec

from .rights import give_away, needs_root, tickring_without_rights


def stream(producer: str, record: str = "trade", capacity: int = 1024) -> StreamSpec:
    return StreamSpec(producer, record, 64, capacity, 4, 64, 1)


def plan_of(shm: Path, **streams: list[StreamSpec]) -> Plan:
    actors = tuple(
        ActorPlan(name=name, kind="fake", load=lambda: None, streams=tuple(specs), keys=4)
        for name, specs in streams.items()
    )
    return Plan(name="test", folder=shm / "tickring-test", data=shm / "data", actors=actors)


def opened(plan: Plan) -> instance.InstanceLock:
    return instance.open_folder(plan)


def test_start_makes_streams_and_keys_and_a_second_start_keeps_them(shm):
    plan = plan_of(shm, a=[stream("a"), stream("a", "quote")])
    lock = opened(plan)
    assert instance.prepare_streams(plan) == 2
    inodes = {path.name: path.stat().st_ino for path in plan.folder.iterdir()}
    assert set(inodes) >= {"a.trade.ring", "a.trade.readers", "a.quote.ring", "a.keys"}
    assert instance.prepare_streams(plan) == 0
    assert {path.name: path.stat().st_ino for path in plan.folder.iterdir()} == inodes
    lock.release()


def test_start_removes_files_that_nothing_configured_uses_and_no_others(shm):
    old = plan_of(shm, a=[stream("a")], gone=[stream("gone")])
    lock = opened(old)
    instance.prepare_streams(old)
    (old.folder / "gone.events.bytes").touch()
    (old.folder / "a.events.bytes").touch()
    (old.folder / ".a.trade.ring.123").touch()
    (old.folder / "binance.ledger").touch()
    new = plan_of(shm, a=[stream("a")])
    instance.prepare_streams(new)
    left = sorted(path.name for path in new.folder.iterdir())
    assert left == ["a.events.bytes", "a.keys", "a.trade.readers", "a.trade.ring", "binance.ledger", "lock"]
    lock.release()


def test_stream_of_another_size_is_made_anew(shm):
    plan = plan_of(shm, a=[stream("a")])
    lock = opened(plan)
    instance.prepare_streams(plan)
    assert instance.prepare_streams(plan_of(shm, a=[stream("a", capacity=2048)])) == 1
    lock.release()


def test_lost_key_directory_takes_its_streams_with_it(shm):
    plan = plan_of(shm, a=[stream("a")])
    lock = opened(plan)
    instance.prepare_streams(plan)
    KeyWriter(plan.folder / "a.keys").add("binance.BTC-USDT", {})
    assert instance.prepare_streams(plan) == 0
    (plan.folder / "a.keys").unlink()
    assert instance.prepare_streams(plan) == 1
    lock.release()


def test_folder_without_room_for_the_sum_is_refused_with_both_numbers(shm, monkeypatch):
    plan = plan_of(shm, a=[stream("a", capacity=1 << 16)])
    lock = opened(plan)
    monkeypatch.setattr(instance, "free_bytes", lambda folder: 1_000_000)
    with pytest.raises(SpaceShort) as caught:
        instance.prepare_streams(plan)
    assert caught.value.exit_code == 73
    assert "1,000,000 free" in str(caught.value)
    needed = int(str(caught.value).split(" bytes")[0].split()[-1].replace(",", ""))
    assert needed > plan.memory_bytes > (1 << 16) * 64
    assert not list(plan.folder.glob("*.ring"))
    lock.release()


def test_rings_that_are_kept_count_as_room(shm, monkeypatch):
    plan = plan_of(shm, a=[stream("a", capacity=1 << 16)])
    lock = opened(plan)
    instance.prepare_streams(plan)
    monkeypatch.setattr(instance, "free_bytes", lambda folder: 1_000_000)
    assert instance.prepare_streams(plan) == 0
    lock.release()


def test_folder_that_cannot_be_made_says_which_setting_to_change(shm):
    (shm / "file").touch()
    plan = dataclasses.replace(plan_of(shm), folder=shm / "file" / "tickring-test")
    with pytest.raises(FolderUnusable, match=r"instance\.folder"):
        instance.open_folder(plan)


@needs_root
@pytest.mark.parametrize("left", ["tickring-theirs", "tickring-theirs/lock"])
def test_run_on_what_another_user_left_says_whose_it_is_and_what_to_do(shm, tmp_path, left):
    (shm / "tickring-theirs").mkdir()
    (shm / "tickring-theirs" / "lock").touch()
    owner = give_away(shm / left)
    file = tmp_path / "tickring.toml"
    file.write_text(
        f'[instance]\nname = "theirs"\nfolder = "{shm}"\ndata = "{tmp_path}/data"\n[front]\nport = 0\n'
        '[clickhouse]\nurl = "http://127.0.0.1:9"\n[exchanges.binance.spot]\nsymbols = ["BTC-USDT"]\n'
    )
    result = tickring_without_rights("run", "-c", str(file))
    assert (result.returncode, result.stderr.count("\n")) == (73, 1), result.stderr
    assert result.stderr.startswith(f"tickring: {shm / left} belongs to user {owner}: remove it")
    assert "instance.name" in result.stderr


def test_data_folder_that_cannot_be_made_is_the_one_that_is_named(shm):
    (shm / "data").touch()
    with pytest.raises(FolderUnusable, match=rf"folder {shm}/data cannot be made"):
        opened(plan_of(shm))


def test_killed_temporary_instance_is_removed_with_its_data_by_the_next(shm):
    dead, alive, kept = (shm / f"tickring-{name}" for name in ("demo-1", "demo-2", "main"))
    data = shm / "demo-data"
    data.mkdir()
    for folder in (dead, alive, kept):
        folder.mkdir()
        (folder / "lock").write_text(
            json.dumps({"pid": 1, "temporary": True, "data": str(data) if folder == dead else ""})
        )
        (folder / "a.trade.ring").touch()
    fd = os.open(alive / "lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    instance.remove_dead(shm, "demo-")
    os.close(fd)
    assert (dead.exists(), data.exists(), alive.exists(), kept.exists()) == (False, False, True, True)


def test_stopped_daemon_takes_away_what_speaks_of_processes_that_are_gone(tmp_path):
    for name in ("front-0.page", "front-0.ws", "front-0.sock", "control.sock", "feed-0.trade.ring", "binance.ledger"):
        (tmp_path / name).touch()
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"feed-0.trade.ring", "binance.ledger"}


def test_shares_of_the_ranks_are_within_the_drain():
    shares = [usual_share_s(rank, 10.0) for rank in range(4)]
    assert shares == [5.0, 5.0, 2.5, 1.25]
    assert sum(shares[1:]) < 10.0
