"""What a campaign does to the machine it runs on, and only there: small file systems of its own, a clock of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

FILL_CHUNK = 1 << 20


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """A file system of its own on a folder; False where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        yield not done.returncode
    finally:
        if not done.returncode:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[int]:
    """The file system of a folder without room for another byte; how many were taken."""
    ballast = folder / "ballast"
    taken = 0
    try:
        with ballast.open("wb", buffering=0) as file:
            for size in (FILL_CHUNK, 4096, 1):
                try:
                    while True:
                        taken += file.write(b"\xff" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        yield taken
    finally:
        ballast.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def descriptors(pid: int) -> int:
    """Open descriptors of a process; 0 for one that is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def proportional_bytes(pid: int) -> int:
    """Memory of a process, shared pages divided among those who share them; 0 for one that is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Clock:
    """A wall clock that can be stepped for processes started with `environment`; the machine's own is left alone.

    The embedded engine brings its own C library and keeps the machine's time.
    """

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "clock.so", folder / "clock"
        self._file.write_bytes(bytes(8))
        source = Path(__file__).with_name("clock.c")
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)]
        try:
            self.works = not subprocess.run(command, capture_output=True, check=False).returncode
        except FileNotFoundError:
            self.works = False
        self.environment = {"LD_PRELOAD": str(library), "TICKRING_TEST_CLOCK": str(self._file)} if self.works else {}

    def step(self, seconds: int) -> None:
        """Set the clock so many seconds ahead of the machine's, or behind it where negative."""
        with self._file.open("r+b") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))
