"""What the kernel tells of our processes and of the machine, as metrics."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...ringbuf.page import Sample

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Scrapes:
    """What is kept from one rendering of the metrics to the next."""

    text: bytes = b""
    at_s: float = float("-inf")  # when it was made, monotonic
    busy: int = 0  # CPU time of the machine then, clock ticks
    total: int = 0

    def cpu_percent(self) -> float:
        """Share of the machine's CPU time that was used since the last call; at the first one since boot."""
        try:
            ticks = [int(one) for one in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
        except (OSError, ValueError):
            return 0.0
        total = sum(ticks)
        busy = total - ticks[3] - ticks[4]  # idle, iowait
        spent, passed = busy - self.busy, total - self.total
        self.busy, self.total = busy, total
        return 100.0 * spent / passed if passed > 0 else 0.0


def process_samples(actor: str, pid: int) -> Iterable[Sample]:
    """CPU time, memory and threads of one process; nothing once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return
    labels = {"actor": actor}
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    yield Sample("counter", "tickring_actor_cpu_seconds_total", "CPU time of the process", labels, (cpu_s,))
    yield Sample("gauge", "tickring_actor_threads", "Threads of the process", labels, (float(fields[17]),))
    resident = float(int(fields[21]) * _PAGE_SIZE)
    told = "Resident memory of the process, shared memory that it has touched included"
    yield Sample("gauge", "tickring_actor_resident_bytes", told, labels, (resident,))


def host_samples(scrapes: Scrapes, folder: Path, data: Path) -> Iterable[Sample]:
    """Use of the machine: CPU, memory, the file systems of the rings and of the data."""
    yield Sample("gauge", "tickring_host_cpu_percent", "CPU time used, all CPUs = 100", {}, (scrapes.cpu_percent(),))
    used = used_percent(folder, data)
    memory = used.pop("memory")
    yield Sample("gauge", "tickring_host_memory_percent", "Memory that is not available", {}, (memory,))
    for name, percent in used.items():
        yield Sample("gauge", "tickring_host_disk_percent", "Use of the file system", {"place": name}, (percent,))


def used_percent(folder: Path, data: Path) -> dict[str, float]:
    """How much of the memory, and of the file systems of the rings and of the data, is in use."""
    found = {"memory": _memory_percent()}
    for name, place in (("shared_memory", folder), ("data", data)):
        usage = shutil.disk_usage(place)
        found[name] = 100.0 * usage.used / usage.total
    return found


def _memory_percent() -> float:
    facts = {}
    for line in Path("/proc/meminfo").read_text().splitlines()[:3]:  # MemTotal, MemFree, MemAvailable
        name, _, value = line.partition(":")
        facts[name] = int(value.split()[0])
    return 100.0 * (1 - facts["MemAvailable"] / facts["MemTotal"])
