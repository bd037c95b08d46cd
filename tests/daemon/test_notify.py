from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tickring.daemon.notify import Notifier


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """The service manager's end, in the abstract name space."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0tickring-test-{os.getpid()}")
        receiver.settimeout(5)
        yield receiver


def notifier_for(manager: socket.socket, watchdog_us: int = 0) -> Notifier:
    return Notifier("@" + manager.getsockname()[1:].decode(), watchdog_us)


def test_messages_are_one_datagram_each_of_lines(manager):
    notifier = notifier_for(manager)
    notifier.ready("3 of 3\nrunning")
    assert manager.recv(1000) == b"READY=1\nSTATUS=3 of 3 running"
    notifier.stopping("bye")
    assert manager.recv(1000) == b"STOPPING=1\nSTATUS=bye"


def test_reload_carries_its_monotonic_time(manager):
    notifier_for(manager).reloading()
    state, time_line = manager.recv(1000).split(b"\n")
    assert state == b"RELOADING=1"
    assert time_line.startswith(b"MONOTONIC_USEC=") and int(time_line.partition(b"=")[2]) > 0


def test_status_is_sent_only_when_it_changes(manager):
    notifier = notifier_for(manager)
    for text in ("a", "a", "b"):
        notifier.status(text)
    assert [manager.recv(1000), manager.recv(1000)] == [b"STATUS=a", b"STATUS=b"]
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1000)


def test_watchdog_is_fed_at_half_its_interval(manager):
    notifier = notifier_for(manager, watchdog_us=60_000_000)
    for _ in range(10):
        notifier.watchdog()
    assert manager.recv(1000) == b"WATCHDOG=1"
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1000)


def test_watchdog_meant_for_another_process_is_not_ours(monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    assert Notifier("").watchdog_interval_s == 0.5
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert Notifier("").watchdog_interval_s == 0


def test_without_a_manager_nothing_happens_and_a_dead_one_is_counted(tmp_path):
    Notifier("").ready("x")
    notifier = Notifier(str(tmp_path / "nobody"))
    notifier.ready("x")
    assert notifier.failures == 1
    notifier.close()
