"""What a campaign does to the machine it runs on, and only there: small file systems of its own, a clock of its own,
and writes that are never done."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

FILL_CHUNK = 1 << 20
STEP_NS = 50_000_000  # within this a step is seen by everybody
RULE = struct.Struct("<qiiii104s")  # as `shim.c` has it


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


class Shim:
    """Rules processes that are started with `environment`: their wall clock, and a write just before which one dies.

    The embedded engine brings its own C library: it keeps the machine's time, and its writes are its own.

    Args:
        folder: for the library and the file by which it is ruled.
        ahead_s: the wall clock is so far ahead of the machine's when it is not stepped.
        file: another shim's library with a clock of its own.
    """

    def __init__(self, folder: Path, ahead_s: int = 0, file: str = "shim") -> None:
        library, self._file, self._ahead_s = folder / "shim.so", folder / file, ahead_s
        self._file.write_bytes(bytes(RULE.size))
        self._steps: list[tuple[int, int]] = []  # the machine's time, and how far ahead of it from then on, ns
        source = Path(__file__).with_name("shim.c")
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
        try:
            self.works = library.exists() or not subprocess.run(command, capture_output=True, check=False).returncode
        except FileNotFoundError:
            self.works = False
        self.environment = {"LD_PRELOAD": str(library), "TICKRING_TEST_SHIM": str(self._file)} if self.works else {}
        self.step(0)

    def step(self, seconds: int) -> None:
        """Set the clock so many seconds ahead of where it began, or behind it where negative."""
        ahead_s = self._ahead_s + seconds
        self._steps.append((time.time_ns(), ahead_s * 10**9))
        self._store(0, ahead_s.to_bytes(8, "little", signed=True))

    def moments(self, shown_ns: int) -> list[int]:
        """The machine's times at which the clock may have shown this: none, one, or two where it was set back."""
        if not self.works:
            return [shown_ns]
        ends = [at for at, _ in self._steps[1:]] + [1 << 63]
        return [
            shown_ns - ahead
            for (begin, ahead), end in zip(self._steps, ends, strict=True)
            if begin - STEP_NS <= shown_ns - ahead <= end + STEP_NS
        ]

    def arm(self, ending: str, *, marks_only: bool = False, skip: int = 0) -> None:
        """Kill a process when it is about to write to a file whose path ends so.

        Args:
            marks_only: only the writes to a journal which say that everything before them is safe.
            skip: so many of them are let through first.
        """
        rule = RULE.pack(0, 0, marks_only, skip, 0, ending.encode())
        self._store(12, rule[12:])
        self._store(8, (1).to_bytes(4, "little"))

    def disarm(self) -> int:
        """The process that died, 0 = none; from now on none will."""
        self._store(8, bytes(4))
        return self.died()

    def died(self) -> int:
        return RULE.unpack(self._file.read_bytes())[4]

    def _store(self, at: int, data: bytes) -> None:
        with self._file.open("r+b") as file:
            file.seek(at)
            file.write(data)
