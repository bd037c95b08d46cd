"""Fixtures that every level of tests uses."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# A test is right however busy the machine is: its neighbours run beside it.
settings.register_profile("tickring", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tickring")

# With several workers a file belongs to one of them. These folders take longest: they begin first, so that none is left
# alone with a long file at the end.
LONG = ("desk", "system", "ringbuf", "daemon", "faults", "actors")
# Files that one worker takes together: each worker that needs a broker starts one.
WITH_BROKER = ("tests/desk/test_topic.py", "tests/desk/test_kafka_faults.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        order = {folder: at for at, folder in enumerate(LONG)}
        items.sort(key=lambda item: order.get(item.path.relative_to(ROOT / "tests").parts[0], len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out files, as `--dist loadfile` does, but the files with a broker as if they were one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return WITH_BROKER[0] if file in WITH_BROKER else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture
def shm() -> Iterator[Path]:
    """An empty folder in shared memory, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tickring-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nothing_left_open() -> Iterator[None]:
    """The test leaves no more descriptors open than it found."""
    gc.collect()  # what other tests left to it
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


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

    def wait(condition: Callable[[], object], what: str, deadline_s: float = 60.0) -> None:
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, f"not reached within {deadline_s} s: {what}"
            time.sleep(0.005)

    return wait
