"""What a check finds, and what it is told of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

FILES_SPARE = 512  # descriptors of a process beside its clients: rings, doorbells, pages


class Verdict(StrEnum):
    OK = "ok"
    WRONG = "wrong"
    UNKNOWN = "unknown"  # not to be seen from here; no reason to worry


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    verdict: Verdict
    found: str
    why: str = ""  # what comes of it, in one clause; where something is wrong
    mend: str = ""  # the command, to be run as root unless it names a file of ours


@dataclass(frozen=True)
class Needs:
    """What the configuration asks of the machine; the defaults stand for no configuration."""

    folder: Path = Path("/dev/shm")  # of shared memory
    memory_bytes: int = 0  # that rings, key directories and pages take; 0 = unknown
    held_bytes: int = 0  # of these, in files that are there already
    data: Path | None = None  # folder on disk
    disk_bytes: int = 0  # that the spool may grow to
    files: int = FILES_SPARE  # descriptors of the process with most of them
    pinned: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # hot actor -> its CPUs, as configured
    wakeup_latency_us: int | None = None
    pid: int = 0  # of the supervisor that runs; 0 = none


def ok(check: str, found: str) -> Finding:
    return Finding(check, Verdict.OK, found)


def unknown(check: str, found: str) -> Finding:
    return Finding(check, Verdict.UNKNOWN, found)


def wrong(check: str, found: str, why: str, mend: str) -> Finding:
    return Finding(check, Verdict.WRONG, found, why, mend)


def read(root: Path, path: str) -> str | None:
    """A file's text without surrounding blanks; None where it is missing or not to be read."""
    try:
        return (root / path.lstrip("/")).read_text(errors="replace").strip()
    except OSError:
        return None


def read_numbers(root: Path, path: str) -> list[int]:
    """The integers of a file; empty where it is missing or holds others."""
    text = read(root, path)
    try:
        return [int(word) for word in (text or "").split()]
    except ValueError:
        return []


def chosen(text: str) -> str:
    """Of `always [madvise] never`, the one in brackets."""
    return text.partition("[")[2].partition("]")[0] or text


def cpu_list(text: str) -> set[int]:
    """`0-2,5` as numbers; anything that is none is left out."""
    cpus: set[int] = set()
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if low.isdigit() and (not high or high.isdigit()):
            cpus |= set(range(int(low), int(high or low) + 1))
    return cpus
