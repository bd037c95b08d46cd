"""A supervisor over tiny actors, in a process of its own, for tests that watch it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.daemon.control import ask
from tickring.daemon.errors import NotRunning

HARNESS = Path(__file__).with_name("harness.py")
DEADLINE_S = 60.0


def wait_for(what: str, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """The condition's first true value; fails the test when it does not come."""
    until = time.monotonic() + deadline_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < until, f"waited {deadline_s} s for {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def service_manager(address: str) -> Iterator[list[str]]:
    """Listens at the address as systemd does; all that it has heard so far, in order.

    It reads in a thread: a supervisor does not wait for a socket that is full, which one with ten datagrams is.
    """
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)

        def listen() -> None:
            while datagram := receiver.recv(4096):
                heard.append(datagram.decode())

        listening = threading.Thread(target=listen)
        listening.start()
        try:
            yield heard
        finally:
            receiver.shutdown(socket.SHUT_RD)  # its thread reads nothing, and ends
            listening.join()


@contextlib.contextmanager
def held(tree: Tree, name: str) -> Iterator[None]:
    """Whoever waits while that file is there waits for the end of the block."""
    (tree.data / name).touch()
    try:
        yield
    finally:
        (tree.data / name).unlink()


class Forks:
    """Starts supervisors out of one process that has imported everything."""

    def __init__(self) -> None:
        command = [sys.executable, str(HARNESS), "serve"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, **what: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class Forked:
    """A supervisor that was forked, as `subprocess.Popen` shows a process."""

    def __init__(self, forks: Forks, pid: int) -> None:
        self._forks, self.pid = forks, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forks.ask(ended=self.pid)
        return self.returncode

    def wait(self, timeout: float = DEADLINE_S) -> int:
        wait_for("the supervisor to end", lambda: self.poll() is not None, timeout)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Tree:
    """One supervisor process and what can be seen of it."""

    def __init__(self, forks: Forks, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.process: Forked | None = None
        self._forks = forks
        self.log = data / "log"

    def start(self, actors: list[dict[str, Any]], environment: dict[str, str] | None = None, **spec: Any) -> Tree:
        spec |= {"folder": str(self.folder), "data": str(self.data), "actors": actors}
        pid = self._forks.ask(spec=spec, log=str(self.log), environment=environment or {})
        self.process = Forked(self._forks, pid)
        return self

    def plan_next(self, actors: list[dict[str, Any]], **spec: Any) -> None:
        """Leave what the next reload finds."""
        spec |= {"folder": str(self.folder), "data": str(self.data), "actors": actors}
        (self.data / "next.json").write_text(json.dumps(spec))

    def reload(self, actors: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
        """Reload over the control socket; its answer."""
        self.plan_next(actors, **spec)
        return ask(self.folder / "control.sock", "reload", timeout_s=60)

    def ready(self) -> Tree:
        wait_for("the tree to be ready", self._is_ready)
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            return self.status()["ready"]
        except NotRunning:
            return False

    def status(self) -> dict[str, Any]:
        return ask(self.folder / "control.sock", "status")

    def actor(self, name: str) -> dict[str, Any]:
        return next(actor for actor in self.status()["actors"] if actor["name"] == name)

    def wait_actor(self, name: str, **members: Any) -> dict[str, Any]:
        def matching() -> dict[str, Any] | None:
            actor = self.actor(name)
            return actor if all(actor[key] == value for key, value in members.items()) else None

        return wait_for(f"{name} to be {members}", matching)

    def notes(self) -> list[list[str]]:
        path = self.data / "notes"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def pids(self) -> list[int]:
        return [actor["pid"] for actor in self.status()["actors"] if actor["pid"]]

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def logged(self, text: str) -> bool:
        return text in self.log.read_text()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture
def make_tree(forks: Forks) -> Iterator[Callable[[], Tree]]:
    base = Path(tempfile.mkdtemp(prefix="tickring-test-", dir="/dev/shm"))
    trees: list[Tree] = []

    def make() -> Tree:
        data = base / f"data-{len(trees)}"
        data.mkdir()
        tree = Tree(forks, base / f"shm-{len(trees)}", data)
        trees.append(tree)
        return tree

    yield make
    for tree in trees:
        if tree.process is not None and tree.process.poll() is None:
            tree.process.kill()
            tree.process.wait()
        with contextlib.suppress(NotRunning):  # one that took over is no child of ours
            os.kill(tree.status()["pid"], signal.SIGKILL)
    wait_for("the folder to be gone", lambda: removed(base))


def removed(folder: Path) -> bool:
    """Whether a folder could be removed: a process on its way out may still put a file there."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@pytest.fixture
def tree(make_tree: Callable[[], Tree]) -> Tree:
    return make_tree()
