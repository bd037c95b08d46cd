"""Fixtures that every level of tests uses."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def shm() -> Iterator[Path]:
    """An empty folder in shared memory, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tickring-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of recorded exchange traffic, read in place."""
    folder = Path(os.environ.get("TICKRING_CAPTURES", ROOT.parent / "shared" / "captures"))
    if not folder.is_dir():
        pytest.skip(f"no recorded exchange traffic at {folder} (set TICKRING_CAPTURES to its folder)")
    return folder


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., None]:
    """Wait for a condition; the deadline only bounds a broken run, no test measures time."""

    def wait(condition: Callable[[], object], what: str, deadline_s: float = 30.0) -> None:
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, f"not reached within {deadline_s} s: {what}"
            time.sleep(0.005)

    return wait
