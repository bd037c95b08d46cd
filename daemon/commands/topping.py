"""The command `top`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..watching import View, Watcher
from .output import make_table, print_json, print_table

Section = tuple[str, Sequence[str], Sequence[Sequence[object]]]


def top(folder: Path, *, interval_s: float, once: bool, as_json: bool) -> None:
    """Show the instance each `interval_s` until Ctrl-C; `once`, or into a pipe, a single time after one interval."""
    watcher = Watcher(folder)
    watcher.look()
    if as_json and not once:
        while True:
            time.sleep(interval_s)
            sys.stdout.write(msgspec.json.encode(watcher.look()).decode() + "\n")
            sys.stdout.flush()
    if once or as_json or not sys.stdout.isatty():
        time.sleep(interval_s)
        view = watcher.look()
        if as_json:
            print_json(view)
        else:
            _print(view)
        return
    _live(watcher, interval_s)


def _print(view: View) -> None:
    print(headline(view))
    for title, columns, rows in sections(view):
        print(f"\n{title}")
        print_table(columns, rows)


def _live(watcher: Watcher, interval_s: float) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        while True:
            view = watcher.look()
            tables = [make_table(columns, rows, title) for title, columns, rows in sections(view)]
            live.update(Group(Text(headline(view)), *tables), refresh=True)
            time.sleep(interval_s)


def headline(view: View) -> str:
    rates = ", ".join(f"{name.replace('_', ' ')} {value:,.0f}/s" for name, value in view.rates.items())
    records = sum(ring.per_s for ring in view.rings)
    return f"instance {view.instance!r}, daemon {view.daemon}: records {records:,.0f}/s, {rates}"


def sections(view: View) -> list[Section]:
    """Title, columns and rows of each table, cells as text."""
    actors = [
        [
            row.name, row.state, row.pid or "-", f"{row.cpu_percent:.1f}", f"{row.rss_bytes / 1e6:,.0f}", row.restarts,
            f"{row.beat_age_s:.1f}", ",".join(map(str, row.cpus)) or "-",
        ]
        for row in view.actors
    ]  # fmt: skip
    rings = [
        [row.stream, f"{row.per_s:,.0f}", f"{row.published:,}", f"{row.capacity:,}", _readers(row.readers)]
        for row in view.rings
        if row.capacity
    ]
    latencies = [
        [
            row.name.removeprefix("tickring_").removesuffix("_seconds"),
            " ".join(f"{name}={value}" for name, value in row.labels.items()) or "-",
            f"{row.per_s:,.0f}", duration(row.p50_s), duration(row.p99_s),
        ]
        for row in view.latencies
        if row.p99_s and row.name.endswith("_seconds")
    ]  # fmt: skip
    return [
        ("actors", ("actor", "state", "pid", "cpu %", "rss MB", "restarts", "beat s", "cpus"), actors),
        ("rings", ("ring", "records/s", "records", "capacity", "readers behind"), rings),
        ("latencies", ("what", "of", "per s", "p50", "p99"), latencies),
    ]


def _readers(readers: Sequence[Any]) -> str:
    return ", ".join(f"{one.name} {one.lag:,}{'' if one.alive else ' (dead)'}" for one in readers) or "-"


def duration(seconds: float) -> str:
    """Three digits with their unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
