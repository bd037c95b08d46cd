"""Whole daemons that are always taken away again."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .tree import SHM, Demo, Tree


@contextlib.contextmanager
def trees_in(disk: Path) -> Iterator[Callable[..., Tree]]:
    """Makes daemons, not started yet, each with a name, ports and folders of its own."""
    pytest.importorskip("chdb", reason="the embedded engine is not installed: pip install 'tickring[embedded]'")
    shm = Path(tempfile.mkdtemp(prefix="tickring-test-", dir=SHM))
    trees: list[Tree] = []

    def make(kind: type[Tree] = Tree, folder: Path = shm) -> Tree:
        tree = kind(f"test-{os.getpid()}-{len(trees)}", folder, disk)
        trees.append(tree)
        return tree

    try:
        yield make
    finally:
        try:
            for tree in trees:
                tree.clean_up()
        finally:
            shutil.rmtree(shm, ignore_errors=True)


@pytest.fixture
def make_tree(tmp_path: Path) -> Iterator[Callable[..., Tree]]:
    with trees_in(tmp_path) as make:
        yield make


@pytest.fixture
def tree(make_tree: Callable[..., Tree]) -> Tree:
    return make_tree()


@pytest.fixture
def demo(make_tree, monkeypatch) -> Demo:
    demo = make_tree(Demo, SHM)
    demo.temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(demo.temporary))
    return demo.begin()
