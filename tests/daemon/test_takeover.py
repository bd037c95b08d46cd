from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from tickring.daemon.control import Refused, ask, connect, exchange
from tickring.daemon.errors import EXIT_TRY_AGAIN, NotRunning
from tickring.daemon.takeover import Predecessor

from .conftest import HARNESS, Tree, alive, held, service_manager, wait_for

FEED = {"name": "feed", "main": "work", "kind": "feed", "streams": True}
WRITER = {"name": "writer", "main": "work", "kind": "writer", "rank": 2}
FRONTS = [{"name": f"front-{i}", "main": "serve", "kind": "front", "group": "front", "rank": 3} for i in range(2)]
ACTORS = [FEED, WRITER, *FRONTS]
# The old daemon drains for as long as a test wants.
HOLDING = [FEED, WRITER | {"drains_while": "hold_drain"}, *FRONTS]
LONG_DRAIN = {"drain_timeout_s": 120}
ANSWER_S = 60.0  # until a new daemon asks for the instance


def take_over(tree: Tree, timeout_s: float = 60) -> int:
    """Have the tree replaced; the new supervisor's pid."""
    pid = ask(tree.folder / "control.sock", "take_over", timeout_s=timeout_s)["pid"]
    wait_for("the new daemon to be ready", lambda: is_ready(tree, pid))
    return pid


def is_ready(tree: Tree, pid: int) -> bool:
    try:
        status = tree.status()
    except NotRunning:
        return False
    return status["pid"] == pid and status["ready"]


def end(tree: Tree, pid: int) -> None:
    """Stop a supervisor that is no child of ours."""
    os.kill(pid, signal.SIGTERM)
    wait_for("the new daemon to end", lambda: not alive(pid))


def start_beside(tree: Tree) -> subprocess.Popen[str]:
    """A new daemon that takes over, started by ourselves."""
    spec = {"folder": str(tree.folder), "data": str(tree.data), "actors": [], "take_over": True}
    return subprocess.Popen([sys.executable, str(HARNESS), json.dumps(spec)], stderr=subprocess.PIPE, text=True)


def inodes(tree: Tree) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in tree.folder.iterdir() if path.suffix in (".ring", ".keys")}


@pytest.fixture
def running(tree: Tree) -> Tree:
    tree.start(ACTORS).ready()
    tree.plan_next(ACTORS)
    return tree


def test_new_daemon_takes_over_rings_and_ports_and_the_old_one_ends_in_order(running):
    before, old = inodes(running), running.status()
    pid = take_over(running)
    assert running.process.wait(60) == 0
    assert pid != old["pid"] and inodes(running) == before
    after = running.status()
    assert [actor["name"] for actor in after["actors"]] == [actor["name"] for actor in old["actors"]]
    assert {actor["pid"] for actor in after["actors"]}.isdisjoint(actor["pid"] for actor in old["actors"])
    listening = [[actor.get("listen") for actor in status["actors"]] for status in (old, after)]
    assert listening[0] == listening[1]
    lines = [line for line in running.notes() if line[0] in ("feed", "writer")]
    started, stopped = ([at for at, line in enumerate(lines) if line[1] == what] for what in ("start", "stop"))
    assert max(stopped) < started[2], "nothing starts before all that ran have ended"
    assert lines[stopped[-1]][0] == "feed", "its rings go on, so it ends last"
    assert json.loads((running.folder / "lock").read_text())["pid"] == pid


def test_no_connection_is_refused_while_daemons_change(running):
    host, _, port = running.actor("front-0")["listen"].partition(":")
    problems: list[Exception] = []
    answers: list[bytes] = []
    over = threading.Event()

    def knock() -> None:
        while not over.is_set():
            try:
                with socket.create_connection((host, int(port)), timeout=30) as client:
                    answers.append(client.recv(100))
            except OSError as error:
                problems.append(error)

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        for _ in range(2):
            take_over(running)
        wait_for("answers of several daemons", lambda: len({answer.split()[1] for answer in answers if answer}) > 2)
    finally:
        over.set()
        knocking.join(60)
    # a connection that the old worker has accepted and not answered yet may be cut, none may be turned away
    assert not [problem for problem in problems if isinstance(problem, ConnectionRefusedError)]


def test_more_and_fewer_workers_are_taken_over_on_the_same_port(running):
    port = running.actor("front-0")["listen"]
    for count in (4, 1):
        actors = [FEED, *[FRONTS[0] | {"name": f"front-{i}"} for i in range(count)]]
        running.plan_next(actors)
        take_over(running)
        assert [a["listen"] for a in running.status()["actors"] if "listen" in a] == [port] * count


def test_mistake_of_the_new_daemon_leaves_the_old_one_running_and_is_told(running):
    old = running.status()
    (running.data / "next.json").write_text(json.dumps({"supervisor": {"restarts_max": "many"}}))
    with pytest.raises(Refused, match=r"the running one goes on.*restarts_max"):
        take_over(running)
    assert running.status()["actors"] == old["actors"]
    running.plan_next(ACTORS)
    assert take_over(running) != old["pid"], "a later one succeeds"


def test_new_daemon_killed_before_it_asks_leaves_the_old_one_untouched(running):
    old = running.status()
    with held(running, "hold_before"), connect(running.folder / "control.sock") as client:
        client.settimeout(ANSWER_S)
        client.sendall(b'{"command": "take_over"}\n')
        [_, _, pid] = wait_for("the new daemon", lambda: [n for n in running.notes() if n[0] == "successor"])[0]
        os.kill(int(pid), signal.SIGKILL)
        answer = json.loads(client.recv(4096))
    assert not answer["ok"] and "the running one goes on" in answer["error"]
    assert running.status()["actors"] == old["actors"]


def test_new_daemon_killed_while_the_old_one_drains_has_the_old_one_go_on(tree):
    tree.start(HOLDING, supervisor=LONG_DRAIN).ready()
    tree.plan_next(HOLDING)
    before, old = inodes(tree), tree.status()
    with held(tree, "hold_drain"):
        pid = ask(tree.folder / "control.sock", "take_over", timeout_s=ANSWER_S)["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for("the new daemon to be gone", lambda: not alive(pid))
    wait_for("the old daemon to go on", lambda: not (status := tree.status())["stopping"] and all_run(status))
    after = tree.status()
    assert after["pid"] == old["pid"] and inodes(tree) == before
    assert tree.logged("died before it took over: this daemon goes on")
    end(tree, take_over(tree))


def all_run(status: dict[str, Any]) -> bool:
    return all(actor["state"] == "running" for actor in status["actors"])


def test_of_two_new_daemons_one_takes_over_and_the_other_is_refused(tree):
    tree.start(HOLDING, supervisor=LONG_DRAIN).ready()
    tree.plan_next(HOLDING)
    with held(tree, "hold_drain"):  # the old daemon is still there when the second one asks
        with held(tree, "hold_before"):
            both = [start_beside(tree) for _ in range(2)]
            wait_for("both", lambda: len([n for n in tree.notes() if n[0] == "successor"]) == 2)
        wait_for("one to be refused", lambda: [one for one in both if one.poll() is not None])
    [refused] = [one for one in both if one.poll() is not None]
    [winner] = [one for one in both if one is not refused]
    assert refused.returncode == EXIT_TRY_AGAIN
    assert "stopping" in refused.stderr.read()
    wait_for("the other to be ready", lambda: is_ready(tree, winner.pid))
    winner.send_signal(signal.SIGTERM)
    assert winner.wait(60) == 0
    for one in both:
        one.stderr.close()


def test_second_request_while_a_new_daemon_gets_ready_is_refused(running):
    with connect(running.folder / "control.sock") as client:
        client.settimeout(ANSWER_S)
        with held(running, "hold_before"):
            client.sendall(b'{"command": "take_over"}\n')
            wait_for("the new daemon", lambda: [n for n in running.notes() if n[0] == "successor"])
            with pytest.raises(Refused, match="is about to take over already"):
                take_over(running)
        pid = json.loads(client.recv(4096))["pid"]
    wait_for("the first one to be ready", lambda: is_ready(running, pid))


def test_reload_between_question_and_request_refuses_the_new_daemon(running):
    predecessor = Predecessor(running.folder)
    running.reload([*ACTORS, {"name": "more", "main": "work"}])
    with pytest.raises(Refused, match="was changed while the new daemon read it"):
        exchange(predecessor._client, "hand_over", pid=os.getpid(), generation=predecessor._generation, keep=[])
    assert not running.status()["stopping"]
    predecessor._client.close()


def test_stop_while_another_daemon_takes_over_ends_both(tree):
    tree.start(HOLDING, supervisor=LONG_DRAIN).ready()
    tree.plan_next(HOLDING)
    with held(tree, "hold_drain"):
        pid = ask(tree.folder / "control.sock", "take_over", timeout_s=ANSWER_S)["pid"]
        tree.process.send_signal(signal.SIGTERM)
        wait_for("the new daemon to be gone", lambda: not alive(pid))
    assert tree.process.wait(60) == 0
    assert not (tree.folder / "control.sock").exists()


def test_feed_whose_rings_change_ends_before_the_writer(running):
    running.plan_next([FEED | {"capacity": 4096}, WRITER, *FRONTS])
    before = inodes(running)
    take_over(running)
    stops = [name for name, what, *_ in running.notes() if what == "stop"]
    assert stops.index("feed") < stops.index("writer"), "what it recorded must be stored before its ring is replaced"
    assert inodes(running) != before


def test_taking_over_from_nobody_is_refused(tree):
    tree.plan_next(ACTORS)
    new = start_beside(tree)
    _, said = new.communicate(timeout=60)
    assert new.returncode == 69 and "no daemon answers" in said


def test_daemon_that_is_to_leave_nothing_leaves_all_to_the_one_that_takes_over(tree):
    tree.start([FEED], leave_nothing=True).ready()
    tree.plan_next([FEED])
    before = inodes(tree)
    pid = take_over(tree)
    assert inodes(tree) == before
    end(tree, pid)
    assert not tree.folder.exists()


def test_service_manager_hears_which_process_goes_on(tree):
    with service_manager(address := str(tree.data / "notify")) as heard:
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
        tree.start([FEED], environment).ready()
        tree.plan_next([FEED])
        pid = take_over(tree)

        def goes_on() -> bool:
            ready = [at for at, text in enumerate(heard) if text.startswith("READY")]
            return len(ready) == 2 and "WATCHDOG=1" in heard[ready[1] :]

        wait_for("the new daemon to be heard", goes_on)
        kinds = [text.partition("=")[0] for text in heard if text != "WATCHDOG=1" and not text.startswith("STATUS")]
        assert f"MAINPID={pid}" in heard
        assert kinds == ["READY", "RELOADING", "MAINPID", "READY"]
        end(tree, pid)
