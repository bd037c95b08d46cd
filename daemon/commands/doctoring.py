"""The command `doctor`."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

from ...actors.control import CONTROL_SOCKET
from ..config import Settings
from ..control import ask
from ..cpus import HOT_KINDS
from ..doctor import Needs, Verdict, examine
from ..doctor.finding import FILES_SPARE
from ..errors import NotPermitted, NotRunning
from ..instance import memory_needed
from ..loading import load
from ..plan import Plan, make_plan
from ..rights import see_allowed
from .output import print_json, print_table

EXIT_FINDINGS = 1


def doctor(config_file: Path | None, *, as_json: bool) -> int:
    """Print what is found; returns 1 if something is wrong."""
    findings = examine(Needs() if config_file is None else needs_of(load(config_file), str(config_file)))
    count = Counter(finding.verdict for finding in findings)
    if as_json:
        print_json({"ok": not count[Verdict.WRONG], "findings": findings})
        return EXIT_FINDINGS if count[Verdict.WRONG] else 0
    print_table(["verdict", "check", "found"], [[one.verdict, one.check, one.found] for one in findings])
    for one in findings:
        if one.verdict is Verdict.WRONG:
            print(f"\n{one.check}: {one.found}\n  why:  {one.why}\n  mend: {one.mend}")
    print(f"\n{count[Verdict.OK]} fine, {count[Verdict.WRONG]} wrong, {count[Verdict.UNKNOWN]} unknown")
    return EXIT_FINDINGS if count[Verdict.WRONG] else 0


def needs_of(settings: Settings, source: str) -> Needs:
    """What a configuration asks of the machine. Raises NotPermitted: its instance is another user's."""
    plan = make_plan(settings, source)
    see_allowed(plan.folder)
    needed, held = memory_needed(plan)
    return Needs(
        folder=Path(settings.instance.folder),
        memory_bytes=needed,
        held_bytes=held,
        data=plan.data,
        disk_bytes=sum(settings.settled("writer")[name] for name in ("spool_max_bytes", "desk_spool_max_bytes")),
        files=FILES_SPARE + _clients(plan),
        pinned={
            actor.name: actor.cpus
            for actor in plan.actors
            if actor.kind in HOT_KINDS and {actor.name, actor.kind} & settings.cpus.keys()
        },
        wakeup_latency_us=settings.supervisor.wakeup_latency_us,
        pid=_running(plan),
    )


def _clients(plan: Plan) -> int:
    """WebSocket clients that one front may have to hold when the others are away."""
    return max((actor.config.ws.connections_max for actor in plan.actors if actor.kind == "front"), default=0)


def _running(plan: Plan) -> int:
    with contextlib.suppress(NotRunning, NotPermitted):
        return ask(plan.folder / CONTROL_SOCKET, "status")["pid"]
    return 0
