"""A supervisor over tiny actors, in a process of its own, for tests that watch it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
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


class Tree:
    """One supervisor process and what can be seen of it."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.process: subprocess.Popen[str] | None = None
        self.log = data / "log"

    def start(self, actors: list[dict[str, Any]], environment: dict[str, str] | None = None, **spec: Any) -> Tree:
        spec |= {"folder": str(self.folder), "data": str(self.data), "actors": actors}
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HARNESS), json.dumps(spec)],
                stderr=log,
                text=True,
                env={**os.environ, **(environment or {})},
            )
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


@pytest.fixture
def make_tree() -> Iterator[Callable[[], Tree]]:
    base = Path(tempfile.mkdtemp(prefix="tickring-test-", dir="/dev/shm"))
    trees: list[Tree] = []

    def make() -> Tree:
        data = base / f"data-{len(trees)}"
        data.mkdir()
        tree = Tree(base / f"shm-{len(trees)}", data)
        trees.append(tree)
        return tree

    yield make
    for tree in trees:
        if tree.process is not None and tree.process.poll() is None:
            tree.process.kill()
            tree.process.wait()
        with contextlib.suppress(NotRunning):  # one that took over is no child of ours
            os.kill(tree.status()["pid"], signal.SIGKILL)
    shutil.rmtree(base)


@pytest.fixture
def tree(make_tree: Callable[[], Tree]) -> Tree:
    return make_tree()
