"""The default tree at rest: start to ready, idle CPU, memory.

One feed on a silent exchange, writer, embedded engine, two fronts, supervisor. CPU is summed from /proc over ten
seconds, the engine's process apart; memory is PSS, so that pages shared by the forked actors count once.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from harness import Line
from latency import helper, tickring_tree

IDLE_S = 10


def descendants(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def run() -> list[Line]:
    with tempfile.TemporaryDirectory(prefix="tickring-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        exchange = stack.enter_context(helper("exchange.py", "--messages", "1", "--times", str(folder / "times")))
        port = exchange.read()["port"]
        start = time.monotonic()
        _, pid, _ = stack.enter_context(tickring_tree(port, folder))
        ready = time.monotonic() - start
        time.sleep(3)  # first-time work of the engine is not idling
        pids = descendants(pid)
        before = {one: cpu_seconds(one) for one in pids}
        time.sleep(IDLE_S)
        used = {one: (cpu_seconds(one) - before[one]) / IDLE_S * 100 for one in pids}
        pss = {one: pss_bytes(one) / 1e6 for one in pids}
        engine = [one for one in pids if "clickhouse" in title(one)]
        idle = sum(share for one, share in used.items() if one not in engine)
        each = ", ".join(f"{title(one)} {used[one]:.2f} % {pss[one]:.0f} MB" for one in pids)
    return [
        Line("start to ready", ready, "s", 2.0, detail="to the first 200 of /readyz, polled each 0.1 s"),
        Line("idle CPU without the engine", idle, "%", 1.0, detail=each),
        Line("idle CPU of the engine", sum(used[one] for one in engine), "%", None, detail="its own threads included"),
        Line("PSS of the tree", sum(pss.values()), "MB", 700, detail="embedded engine included"),
    ]


if __name__ == "__main__":
    for line in run():
        print(f"{line.name:30} {line.value:.2f} {line.unit} (limit {line.limit}) {line.verdict}  {line.detail}")
    sys.exit()
