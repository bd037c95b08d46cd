from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from tickring.daemon.control import Refused, ask, connect, exchange
from tickring.ringbuf.page import read_page

from .conftest import alive, held, service_manager, wait_for

SILENCE_S = 10  # longer than a busy machine keeps a process from its CPU


def test_tree_with_all_actors_running_is_ready_and_shows_each_of_them(tree):
    tree.start([{"name": "a", "main": "work"}, {"name": "b", "main": "work"}]).ready()
    status = tree.status()
    assert [(actor["name"], actor["state"], actor["restarts"]) for actor in status["actors"]] == [
        ("a", "running", 0),
        ("b", "running", 0),
    ]
    page = read_page(tree.folder / "supervisor.page")
    assert page.detail["actors"]["a"]["state"] == "running"
    assert tree.stop() == 0


def test_actor_killed_comes_back_with_a_new_pid(tree):
    tree.start([{"name": "a", "main": "work"}]).ready()
    first = tree.actor("a")["pid"]
    os.kill(first, signal.SIGKILL)
    again = tree.wait_actor("a", state="running", restarts=1)
    assert again["pid"] != first
    assert again["reason"] == "signal SIGKILL"


def test_actor_that_dies_at_once_every_time_is_given_up_at_the_ceiling_and_the_rest_goes_on(tree):
    tree.start(
        [{"name": "a", "main": "work"}, {"name": "b", "main": "crash"}],
        supervisor={"restarts_max": 2, "restart_delay_s": 0.05},
    ).ready()
    (tree.data / "crash").touch()
    fatal = tree.wait_actor("b", state="fatal")
    assert fatal["restarts"] == 2
    assert "more than 2 restarts in 60 s" in fatal["reason"] and "RuntimeError: boom" in fatal["reason"]
    assert [note for note in tree.notes() if note[0] == "b"] == [["b", "start"]] * 3
    assert tree.actor("a")["state"] == "running"
    assert tree.logged("actor=b given up")


def test_actor_given_up_is_started_again_on_an_operators_word(tree):
    tree.start([{"name": "b", "main": "crash"}], supervisor={"restarts_max": 0}).ready()
    (tree.data / "crash").touch()
    tree.wait_actor("b", state="fatal")
    ask(tree.folder / "control.sock", "restart", actor="b")
    wait_for("a second start", lambda: len(tree.notes()) == 2)


def test_daemon_told_to_exit_on_a_fatal_actor_drains_the_rest_and_fails(tree):
    tree.start(
        [{"name": "a", "main": "work", "rank": 1}, {"name": "b", "main": "crash"}],
        supervisor={"restarts_max": 0, "on_fatal": "exit"},
    ).ready()
    (tree.data / "crash").touch()
    assert tree.process.wait(60) == 70
    assert tree.notes()[-1] == ["a", "stop"]
    assert tree.logged("an actor was given up")


def test_actor_that_cannot_boot_is_started_once_and_ends_the_daemon_with_its_reason(tree):
    tree.start([{"name": "a", "main": "work"}, {"name": "b", "main": "cannot_boot"}])
    assert tree.process.wait(60) == 70
    assert [note for note in tree.notes() if note[0] == "b"] == [["b", "start"]]
    assert tree.logged("b: exit code 3: TickringError: store /tmp/store is locked by process 1: stop that one")


def test_actor_whose_loop_hangs_and_one_stopped_by_a_signal_are_killed_and_started_again(tree):
    actors = [{"name": "h", "main": "hang"}, {"name": "a", "main": "work"}]
    tree.start(actors, supervisor={"heartbeat_timeout_s": SILENCE_S}).ready()
    os.kill(tree.actor("a")["pid"], signal.SIGSTOP)
    for name in ("h", "a"):
        assert "no heartbeat" in tree.wait_actor(name, state="running", restarts=1)["reason"]


def test_silence_while_the_supervisor_itself_was_stopped_kills_nobody(tree):
    tree.start([{"name": "a", "main": "work"}], supervisor={"heartbeat_timeout_s": SILENCE_S}).ready()
    pid = tree.actor("a")["pid"]
    for process in (tree.process.pid, pid):
        os.kill(process, signal.SIGSTOP)
    signal.sigtimedwait([], SILENCE_S + 1)
    os.kill(tree.process.pid, signal.SIGCONT)
    wait_for("a turn of the supervisor", lambda: tree.status()["ready"])
    os.kill(pid, signal.SIGCONT)
    tree.wait_actor("a", state="running")
    assert tree.actor("a")["pid"] == pid


def test_sigterm_drains_ranks_in_order(tree):
    tree.start(
        [
            {"name": "engine", "main": "work", "rank": 3},
            {"name": "front", "main": "work", "rank": 2},
            {"name": "writer", "main": "work", "rank": 1, "drain_s": 0.2},
            {"name": "feed-0", "main": "work", "rank": 0, "drains_while": "hold_drain"},
            {"name": "feed-1", "main": "work", "rank": 0},
        ],
        supervisor={"drain_timeout_s": 120},
    ).ready()
    pids = tree.pids()
    with held(tree, "hold_drain"):
        tree.process.send_signal(signal.SIGTERM)
        wait_for("one of a rank to end before another", lambda: ["feed-1", "stop"] in tree.notes())
    assert tree.process.wait(60) == 0
    stops = [name for name, what, *_ in tree.notes() if what == "stop"]
    assert stops == ["feed-1", "feed-0", "writer", "front", "engine"]
    assert not any(alive(pid) for pid in pids)


def test_actor_that_ignores_sigterm_is_killed_after_its_deadline(tree):
    tree.start([{"name": "deaf", "main": "ignore_stop"}], supervisor={"drain_timeout_s": 0.3}).ready()
    [pid] = tree.pids()
    assert tree.stop() == 0
    assert not alive(pid)
    assert tree.logged("killed: did not stop in time")


def test_drain_of_several_ranks_that_all_hang_has_one_deadline(tree):
    names = ["feed", "writer", "front", "engine"]
    actors = [{"name": name, "main": "ignore_stop", "rank": rank} for rank, name in enumerate(names)]
    tree.start(actors, supervisor={"drain_timeout_s": 4}).ready()
    pids = tree.pids()
    assert tree.stop() == 0, "four deadlines would be longer than the test waits"
    assert not any(alive(pid) for pid in pids)
    killed = [line.split("actor=")[1].split()[0] for line in tree.log.read_text().splitlines() if "killed:" in line]
    assert killed == names


def test_second_sigint_ends_the_drain_at_once(tree):
    tree.start([{"name": "deaf", "main": "ignore_stop"}], supervisor={"drain_timeout_s": 600}).ready()
    tree.process.send_signal(signal.SIGINT)
    tree.wait_actor("deaf", state="stopping")
    assert tree.stop(signal.SIGINT) == 0


def test_supervisor_killed_leaves_no_orphan(tree):
    tree.start([{"name": f"a{index}", "main": "ignore_stop"} for index in range(4)]).ready()
    pids = tree.pids()
    assert len(pids) == 4
    tree.stop(signal.SIGKILL)
    wait_for("the actors to be gone", lambda: not any(alive(pid) for pid in pids))


def test_actors_sit_on_the_cpus_they_were_given(tree):
    cpus = sorted(os.sched_getaffinity(0))
    tree.start(
        [{"name": "first", "main": "work", "cpus": cpus[:1]}, {"name": "last", "main": "work", "cpus": cpus[-1:]}]
    ).ready()
    assert os.sched_getaffinity(tree.actor("first")["pid"]) == {cpus[0]}
    assert os.sched_getaffinity(tree.actor("last")["pid"]) == {cpus[-1]}
    os.kill(tree.actor("last")["pid"], signal.SIGKILL)
    again = tree.wait_actor("last", state="running", restarts=1)
    assert os.sched_getaffinity(again["pid"]) == {cpus[-1]}


def test_actor_inherits_its_doorbells_and_listener_and_nothing_else_of_the_supervisor(tree):
    tree.start([{"name": "front-0", "main": "descriptors", "group": "front"}, {"name": "b", "main": "work"}]).ready()
    seen = json.loads((tree.data / "descriptors").read_text())
    own = {fd: target for fd, target in seen["kept"].items() if int(fd) > 2 and int(fd) not in seen["bells"]}
    assert all("eventfd" in seen["kept"][str(bell)] for bell in seen["bells"])
    listening = Path(f"/proc/{tree.process.pid}/fd")
    of_supervisor = {os.readlink(link) for link in listening.iterdir() if link.exists()}
    shared_sockets = {target for target in own.values() if target.startswith("socket:")} & of_supervisor
    assert len(shared_sockets) == 1, own
    assert not any("lock" in target or "pidfd" in target for target in own.values())


def test_front_port_survives_restarts_of_its_workers(tree):
    tree.start([{"name": f"front-{index}", "main": "serve", "group": "front"} for index in range(2)]).ready()
    host, _, port = tree.actor("front-0")["listen"].partition(":")
    assert tree.actor("front-1")["listen"] == f"{host}:{port}"
    answers = set()
    for _ in range(50):
        with socket.create_connection((host, int(port))) as client:
            answers.add(client.recv(100).split()[0])
    assert answers == {b"front-0", b"front-1"}
    for name in ("front-0", "front-1"):
        os.kill(tree.actor(name)["pid"], signal.SIGKILL)
    with socket.create_connection((host, int(port)), timeout=60) as client:  # waits in the backlog
        assert client.recv(100).startswith(b"front-")


def test_taken_port_is_noticed_even_if_its_owner_allows_sharing(make_tree):
    first = make_tree().start([{"name": "front-0", "main": "serve", "group": "front"}]).ready()
    port = int(first.actor("front-0")["listen"].partition(":")[2])
    second = make_tree().start([{"name": "front-0", "main": "serve", "group": "front"}], port=port)
    assert second.process.wait(60) == 75
    message = second.log.read_text()
    assert f"front cannot listen on 127.0.0.1:{port}: process {first.process.pid}" in message
    assert "choose another port" in message


def test_second_supervisor_of_one_instance_is_refused_with_the_pid_of_the_first(make_tree):
    first, second = make_tree(), make_tree()
    first.start([{"name": "a", "main": "work"}]).ready()
    second.folder = first.folder
    second.start([{"name": "a", "main": "work"}])
    assert second.process.wait(60) == 75
    assert f"process {first.process.pid} holds" in second.log.read_text()
    assert first.status()["ready"]


def test_actor_waits_for_the_one_it_is_started_after(tree):
    tree.start([{"name": "late", "main": "work", "after": ["early"]}, {"name": "early", "main": "work"}]).ready()
    assert [note[0] for note in tree.notes()] == ["early", "late"]


def test_systemd_hears_ready_status_watchdog_and_stopping(tree, tmp_path):
    with service_manager(address := str(tree.data / "notify")) as heard:
        tree.start([{"name": "a", "main": "work"}], {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}).ready()
        wait_for("READY", lambda: "READY=1\nSTATUS=1 of 1 actors running" in heard)
        wait_for("the watchdog to be fed", lambda: heard.count("WATCHDOG=1") >= 3)
        tree.process.send_signal(signal.SIGTERM)
        wait_for("STOPPING", lambda: heard[-1] == "STOPPING=1\nSTATUS=stopping: SIGTERM")
        tree.process.wait(60)
        assert tree.notes()  # the actor ran, and it is the supervisor alone that was heard


def test_control_socket_lends_a_doorbell_for_the_life_of_a_connection(tree):
    tree.start([{"name": "a", "main": "work"}]).ready()
    with connect(tree.folder / "control.sock") as client:
        answer, [fd] = exchange(client, "doorbell")
        assert answer["doorbell"] == 1
        os.eventfd_write(fd, 1)
        assert os.eventfd_read(fd) == 1
        os.close(fd)
        second, fds = exchange(client, "doorbell")
        assert second["doorbell"] == 2
        os.close(fds[0])

    def returned() -> bool:
        with connect(tree.folder / "control.sock") as client:
            answer, fds = exchange(client, "doorbell")
            os.close(fds[0])
            return answer["doorbell"] == 1

    wait_for("the doorbells to be free again", returned)


def test_control_socket_is_private_and_refuses_what_it_does_not_know(tree):
    tree.start([{"name": "a", "main": "work"}]).ready()
    path = tree.folder / "control.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Refused, match="known: status, stop, restart, reload, subscribe, take_over, listeners"):
        ask(path, "dance")
    with pytest.raises(Refused, match="unknown actor 'z'; known: a") as refused:
        ask(path, "restart", actor="z")
    assert refused.value.exit_code == 65
    ask(path, "stop")
    assert tree.process.wait(60) == 0


def test_actor_restarted_by_an_operator_is_drained_first(tree):
    tree.start([{"name": "a", "main": "work"}]).ready()
    ask(tree.folder / "control.sock", "restart", actor="a")
    tree.wait_actor("a", state="running", restarts=1)
    assert [note[1] for note in tree.notes()] == ["start", "stop", "start"]


def test_stop_leaves_the_rings_for_a_warm_start_and_purge_leaves_nothing(make_tree):
    tree = make_tree().start([{"name": "a", "main": "work", "streams": True}]).ready()
    assert tree.stop() == 0
    left = sorted(path.name for path in tree.folder.iterdir())
    assert left == ["a.keys", "a.quote.readers", "a.quote.ring", "a.trade.readers", "a.trade.ring", "lock"]
    inode = (tree.folder / "a.trade.ring").stat().st_ino
    tree.start([{"name": "a", "main": "work", "streams": True}], leave_nothing=True).ready()
    assert (tree.folder / "a.trade.ring").stat().st_ino == inode
    assert tree.stop() == 0
    assert not tree.folder.exists()
