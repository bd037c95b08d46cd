from __future__ import annotations

import os
import struct
from pathlib import Path

from tickring.daemon.wakeup import WakeupLimit

from .conftest import wait_for


def test_limit_is_one_int32_held_until_it_is_changed_or_closed(tmp_path):
    device = tmp_path / "cpu_dma_latency"
    device.touch()
    limit = WakeupLimit(device)
    assert limit.hold(20) and device.read_bytes() == struct.pack("=i", 20)
    assert limit.hold(0) and device.read_bytes() == struct.pack("=i", 0)
    assert str(device) in open_files(os.getpid())
    assert limit.hold(None) and limit.limit_us is None
    assert str(device) not in open_files(os.getpid())


def test_device_that_may_not_be_opened_is_one_line_with_what_to_do(tmp_path, caplog):
    limit = WakeupLimit(tmp_path / "missing")
    assert not limit.hold(0)
    [line] = caplog.messages
    assert "No such file" in line and "--device" in line
    assert limit.limit_us is None


def open_files(pid: int) -> list[str]:
    return [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd") if os.path.lexists(entry.path)]


def test_supervisor_alone_holds_the_limit_for_its_life_and_takes_a_new_one_at_a_reload(tree):
    device = tree.data / "cpu_dma_latency"
    device.touch()
    actors = [{"name": "a", "main": "work"}]
    tree.start(actors, supervisor={"wakeup_latency_us": 7}, wakeup_device=str(device)).ready()
    assert device.read_bytes() == struct.pack("=i", 7)
    assert str(device) in open_files(tree.process.pid)
    assert str(device) not in open_files(tree.actor("a")["pid"])
    pid = tree.actor("a")["pid"]
    answer = tree.reload(actors, supervisor={"wakeup_latency_us": 0})
    assert (answer["settings"], answer["unchanged"]) == (["supervisor"], ["a"])
    assert device.read_bytes() == struct.pack("=i", 0)
    assert tree.actor("a")["pid"] == pid
    tree.reload(actors)
    wait_for("the limit to be given back", lambda: str(device) not in open_files(tree.process.pid))


def test_daemon_that_may_not_hold_the_limit_says_so_and_goes_on(tree):
    missing = Path(tree.data / "missing")
    tree.start([{"name": "a", "main": "work"}], supervisor={"wakeup_latency_us": 0}, wakeup_device=str(missing)).ready()
    assert tree.log.read_text().count("wakeup_latency_us=0 not held") == 1
    assert tree.stop() == 0
