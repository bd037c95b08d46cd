from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tickring.daemon.control import Refused, ask
from tickring.ringbuf import ReaderKind, StreamReader, read_spec

from .conftest import alive, held, service_manager, wait_for


def work(name: str, **more) -> dict:
    return {"name": name, "main": "work", **more}


def pids(tree) -> dict[str, int]:
    return {actor["name"]: actor["pid"] for actor in tree.status()["actors"]}


def test_reload_touches_only_the_actors_that_it_concerns_and_says_which(tree):
    tree.start([work("stays"), work("goes"), work("changes")]).ready()
    before = pids(tree)
    answer = tree.reload([work("stays"), work("changes", drain_s=0.1), work("new")], deferred=["instance.name"])
    assert answer == {
        "ok": True, "added": ["new"], "restarted": ["changes"], "moved": [], "removed": ["goes"],
        "unchanged": ["stays"], "settings": [], "needs_restart": ["instance.name"], "failed": {},
    }  # fmt: skip
    after = pids(tree)
    assert list(after) == ["stays", "changes", "new"]
    assert after["stays"] == before["stays"] and after["changes"] != before["changes"]
    assert not alive(before["goes"]) and not alive(before["changes"])
    assert all(actor["state"] == "running" for actor in tree.status()["actors"])


def test_reload_with_mistakes_is_refused_with_their_exit_code_and_changes_nothing(tree):
    tree.start([work("a")]).ready()
    before = pids(tree)
    too_many = [work(f"a{index}") for index in range(65)]
    with pytest.raises(Refused, match="no doorbell is left of 64") as refused:
        tree.reload(too_many)
    assert refused.value.exit_code == 78
    assert pids(tree) == before
    assert tree.logged("reload refused, the running configuration stays")


def test_actor_that_does_not_run_after_a_reload_is_named(tree):
    tree.start([work("a")]).ready()
    answer = tree.reload([work("a"), {"name": "b", "main": "cannot_boot"}])
    assert "store /tmp/store is locked" in answer["failed"]["b"]
    assert pids(tree)["a"]


def test_reload_that_only_moves_an_actor_to_other_cpus_keeps_its_process(tree):
    cpus = sorted(os.sched_getaffinity(0))
    tree.start([work("a", cpus=cpus)]).ready()
    [pid] = tree.pids()
    answer = tree.reload([work("a", cpus=cpus[-1:])])
    assert (answer["moved"], answer["restarted"]) == (["a"], [])
    assert tree.pids() == [pid]
    assert os.sched_getaffinity(pid) == {cpus[-1]}


def test_ring_whose_size_changes_is_made_anew_and_rings_that_fit_are_kept(tree):
    tree.start([work("a", streams=True), work("b", streams=True)]).ready()
    before = {path.name: path.stat().st_ino for path in tree.folder.glob("*.ring")}
    tree.reload([work("a", streams=True, capacity=4096), work("b", streams=True, drain_s=0.1)])
    after = {path.name: path.stat().st_ino for path in tree.folder.glob("*.ring")}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"a.trade.ring", "a.quote.ring"}
    assert read_spec(tree.folder / "a.trade.ring")[0].capacity == 4096


def test_rings_that_no_actor_makes_any_more_are_removed_with_their_keys_and_pages(tree):
    tree.start([work("a", streams=True), work("b", streams=True), work("c")]).ready()
    answer = tree.reload([work("a", streams=True, records=["trade"])])
    assert (answer["restarted"], answer["removed"]) == (["a"], ["b", "c"])
    names = {path.name for path in tree.folder.iterdir()}
    assert names == {
        "a.keys", "a.page", "a.trade.ring", "a.trade.readers", "supervisor.page", "lock", "control.sock",
    }  # fmt: skip


def test_ring_that_goes_waits_for_a_durable_reader_to_have_read_it(tree):
    tree.start([work("a"), work("b", streams=True)]).ready()
    stream = StreamReader(tree.folder, "b", "trade")
    line = stream.register("test", ReaderKind.DURABLE)
    publish_by_hand(tree.folder / "b.trade.ring", 5)
    tree.plan_next([work("a")])
    tree.process.send_signal(signal.SIGHUP)
    wait_for("b to be gone", lambda: list(pids(tree)) == ["a"])
    assert (tree.folder / "b.trade.ring").exists()
    line.cursor = 5
    wait_for("the ring to be gone", lambda: not (tree.folder / "b.trade.ring").exists())
    stream.close()


def publish_by_hand(path: Path, count: int) -> None:
    """Store the word that says how many records there are."""
    from tickring.ringbuf.layout import PUBLISH_AT

    with open(path, "r+b") as file:
        file.seek(PUBLISH_AT)
        file.write(count.to_bytes(8, "little"))


def serve(name: str, **more) -> dict:
    return {"name": name, "main": "serve", "group": "front", **more}


def asked(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        return client.recv(100).decode().split()[0]


def test_workers_on_a_port_come_and_go_and_the_others_keep_their_processes(tree):
    tree.start([serve("front-0")]).ready()
    port = int(tree.actor("front-0")["listen"].partition(":")[2])
    before = pids(tree)["front-0"]
    assert tree.reload([serve("front-0"), serve("front-1")])["added"] == ["front-1"]
    assert tree.actor("front-1")["listen"].endswith(f":{port}")
    assert {asked(port) for _ in range(40)} == {"front-0", "front-1"}
    assert tree.reload([serve("front-0")])["removed"] == ["front-1"]
    assert {asked(port) for _ in range(20)} == {"front-0"}
    assert pids(tree)["front-0"] == before


def test_workers_on_one_port_are_restarted_one_after_the_other(tree):
    tree.start([serve("front-0"), serve("front-1")]).ready()
    port = int(tree.actor("front-0")["listen"].partition(":")[2])
    answer = tree.reload([serve("front-0", drain_s=0.2), serve("front-1", drain_s=0.2)])
    assert answer["restarted"] == ["front-0", "front-1"]
    log = tree.log.read_text()
    assert log.index(f"actor=front-0 pid={pids(tree)['front-0']} running") < log.index("actor=front-1 state=stopping")
    assert asked(port).startswith("front-")


def test_restarted_actor_waits_for_the_restarted_one_that_it_is_started_after(tree):
    tree.start([work("late", after=["early"]), work("early")]).ready()
    tree.reload([work("late", after=["early"], drain_s=0.01), work("early", drain_s=0.5)])
    starts = [note[0] for note in tree.notes() if note[1] == "start"]
    assert starts == ["early", "late", "early", "late"]


def test_added_producer_waits_for_one_that_hands_its_keys_over(tree):
    tree.start([work("feed-0", streams=True, drain_s=0.4)]).ready()
    tree.reload([work("feed-1", streams=True)])
    assert [note[:2] for note in tree.notes()] == [["feed-0", "start"], ["feed-0", "stop"], ["feed-1", "start"]]


def test_port_that_changes_is_opened_first_and_a_taken_one_is_refused(tree):
    tree.start([serve("front-0")]).ready()
    old = int(tree.actor("front-0")["listen"].partition(":")[2])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match="cannot listen") as refused:
            tree.reload([serve("front-0", port=port)])
        assert refused.value.exit_code == 75
    assert asked(old) == "front-0"
    assert tree.reload([serve("front-0", port=port)])["restarted"] == ["front-0"]
    assert asked(port) == "front-0"
    with pytest.raises(ConnectionRefusedError):
        asked(old)


def test_systemd_hears_reloading_with_its_time_and_ready_when_it_is_over(tree):
    with service_manager(address := str(tree.data / "notify")) as heard:
        tree.start([work("a")], {"NOTIFY_SOCKET": address}).ready()
        wait_for("READY", lambda: any(text.startswith("READY=1") for text in heard))
        before = len(heard)
        tree.plan_next([work("a", drain_s=0.2)])
        tree.process.send_signal(signal.SIGHUP)
        wait_for("READY again", lambda: any(text.startswith("READY=1") for text in heard[before:]))
        kinds = [text.partition("=")[0] for text in heard[before:] if not text.startswith("STATUS")]
        assert kinds == ["RELOADING", "READY"]
        [began] = [text for text in heard if text.startswith("RELOADING=1")]
        assert int(began.partition("MONOTONIC_USEC=")[2]) > 0
        assert tree.actor("a")["restarts"] == 1


def test_reload_asked_for_while_the_daemon_stops_is_refused(tree):
    tree.start([work("a", drains_while="hold_drain")], supervisor={"drain_timeout_s": 120}).ready()
    tree.plan_next([work("a")])
    with held(tree, "hold_drain"):
        ask(tree.folder / "control.sock", "stop")
        with pytest.raises(Refused, match="stopping"):
            ask(tree.folder / "control.sock", "reload")
    assert tree.process.wait(60) == 0
