"""Room for the rings and the spool, and what the kernel may do with the rings' pages."""

from __future__ import annotations

import os
from pathlib import Path

from .finding import Finding, Needs, chosen, ok, read, read_numbers, unknown, wrong

MEMORY_TYPES = ("tmpfs", "ramfs", "hugetlbfs")
SWAPPINESS_MAX = 10


def shared_memory(needs: Needs, root: Path) -> Finding:
    """Is the folder in memory, and do the rings fit?"""
    check = "shared memory"
    try:
        stat = os.statvfs(needs.folder)
    except OSError as error:
        return unknown(check, f"{needs.folder}: {error.strerror}")
    size, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    mount, kind = mounted_at(needs.folder, root)
    found = f"{needs.folder}: {_mib(size)} MiB, {_mib(free)} free"
    if kind and kind not in MEMORY_TYPES:
        why = "the kernel writes every record to that disk"
        return wrong(check, f"{found}, on {kind}", why, 'set instance.folder = "/dev/shm"')
    if not needs.memory_bytes:
        return unknown(check, f"{found}; what is needed follows from a configuration: name one with -c")
    missing = needs.memory_bytes - needs.held_bytes
    found += f", {_mib(needs.memory_bytes)} needed" + (f" ({_mib(needs.held_bytes)} held)" if needs.held_bytes else "")
    if missing > free:
        enough = -(-(size + missing - free) // (1 << 20))
        mend = f"mount -o remount,size={enough}m {mount}   (container: --shm-size={enough}m)"
        return wrong(check, found, "the daemon refuses to start when its rings do not fit", mend)
    return ok(check, found)


def mounted_at(folder: Path, root: Path) -> tuple[str, str]:
    """(mount point, file system type) of a folder; the type is "" where it cannot be told."""
    found, kind = str(folder), ""
    longest = -1
    for line in (read(root, "proc/self/mounts") or "").splitlines():
        _, point, this_kind, *_ = [*line.split(), "", "", ""]
        if point and folder.is_relative_to(point) and len(point) >= longest:
            found, kind, longest = point, this_kind, len(point)
    return found, kind


def disk(needs: Needs) -> Finding:
    """Can the spool grow to its limit?"""
    check = "disk"
    if needs.data is None:
        return unknown(check, "where data go follows from a configuration: name one with -c")
    folder = next(place for place in (needs.data, *needs.data.absolute().parents) if place.exists())
    try:
        stat = os.statvfs(folder)
    except OSError as error:
        return unknown(check, f"{folder}: {error.strerror}")
    free = stat.f_bavail * stat.f_frsize
    found = f"{needs.data}: {_mib(free)} MiB free, the spool may take {_mib(needs.disk_bytes)}"
    if free < needs.disk_bytes:
        why = "the disk is full before the spool is, and what comes then is lost while ClickHouse is away"
        return wrong(check, found, why, f"free the disk, or set writer.spool_max_bytes = {free // 2}")
    return ok(check, found)


def huge_pages(root: Path) -> Finding:
    check = "transparent huge pages"
    text = read(root, "sys/kernel/mm/transparent_hugepage/enabled")
    if text is None:
        return unknown(check, "the kernel does not say")
    if chosen(text) == "always":
        why = "the kernel stops processes to gather huge pages, and the engine takes more memory"
        return wrong(check, "always", why, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
    return ok(check, chosen(text))


def swap(root: Path) -> Finding:
    """Rings are pages without a file, which a kernel that swaps early takes away although there is room."""
    check = "swap"
    devices = read(root, "proc/swaps")
    if devices is None:
        return unknown(check, "the kernel does not say")
    if len(devices.splitlines()) < 2:
        return ok(check, "none")
    [swappiness] = read_numbers(root, "proc/sys/vm/swappiness") or [-1]
    if swappiness > SWAPPINESS_MAX:
        why = "rings in swap are read from the disk"
        return wrong(check, f"on, vm.swappiness={swappiness}", why, "sysctl -w vm.swappiness=1   (or: swapoff -a)")
    return ok(check, f"on, vm.swappiness={swappiness}")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f}"
