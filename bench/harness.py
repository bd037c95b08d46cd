"""What every benchmark shares: a measured line beside its limit and its peer, machine facts, repeated best-of runs.

A figure is a ratio or a cost per message from one run on one machine, side by side with its peer. Absolute times are
printed for orientation only.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Line:
    """One row of the table. `value` compares with `limit` in the sense of `better`; None where a peer is missing."""

    name: str
    value: float | None
    unit: str
    limit: float | None
    better: str = "lower"  # lower | higher
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "skipped"
        if self.limit is None:
            return "-"
        held = self.value <= self.limit if self.better == "lower" else self.value >= self.limit
        return "held" if held else "MISSED"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


def interleaved(functions: dict[str, Callable[[], Any]], *, rounds: int = 15) -> dict[str, float]:
    """Best CPU seconds of each function over interleaved rounds, so that noise of the machine hits all alike."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.process_time()
            function()
            best[name] = min(best[name], time.process_time() - start)
    return best


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    dirty = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "cpu": model, "cpus": os.cpu_count(), "load_1m": os.getloadavg()[0], "python": platform.python_version(),
        "kernel": platform.release(), "commit": commit + ("+" if dirty else ""),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
