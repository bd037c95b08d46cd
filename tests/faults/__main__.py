"""`make faults`: damage a whole daemon in a seeded order, then count what is left.

``python -m tickring.tests.faults [--desk] [--seed N] [--kills N] [--rounds N] [--minutes N] [--only NAME ...]
[--folder DIR]``. With ``--desk`` the daemon follows a broker, which is damaged with it, and else an exchange.
The same seed makes the same campaign: the same damages with the same parameters in the same order.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..desk import broker
from . import damage, desk, desk_verdict, verdict
from .campaign import Campaign, run
from .verdict import Usage, Verdict


def show(console: Console, verdicts: list[Verdict]) -> None:
    table = Table()
    for column in ("what", "verdict", "seen"):
        table.add_column(column, overflow="fold")
    for one in verdicts:
        table.add_row(one.what, "ok" if one.ok else "FAILED", one.detail)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--desk", action="store_true", help="the desk's events from a broker, in place of an exchange")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs at least (200)")
    parser.add_argument("--rounds", type=int, default=2, help="how often each other damage comes (2)")
    parser.add_argument("--minutes", type=float, default=60.0, help="after this no new damage is begun (60)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these damages, and no kills but with --kills")
    parser.add_argument("--folder", type=Path, help="for logs and data, kept; else a new temporary one")
    parser.add_argument("--list", action="store_true", help="list the damages and end")
    arguments = parser.parse_args()
    damages, make_steps = damage.DAMAGES, damage.make_steps
    if arguments.desk:
        damages, make_steps = desk.DAMAGES, desk.make_steps
    if arguments.list:
        for name, one in damages.items():
            print(f"{name:28} {one.summary}")
        return 0
    if arguments.desk:
        try:
            broker.fetch()
        except broker.NoBroker as error:
            parser.error(str(error))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # mounts and processes are taken away then too
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="tickring-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    steps = make_steps(arguments.seed, arguments.kills, arguments.rounds, arguments.only or damages)
    print(f"seed {arguments.seed}, {len(steps)} steps; logs and data in {folder}", flush=True)
    kind: type[Campaign] = desk.DeskCampaign if arguments.desk else Campaign
    judge = desk_verdict.judge if arguments.desk else verdict.judge
    with kind(arguments.seed, folder, lambda line: print(line, flush=True)) as campaign:
        before = Usage.of(campaign.tree)
        run(campaign, steps, arguments.minutes * 60)
        verdicts = judge(campaign, before)
    show(Console(width=160), verdicts)
    for line in campaign.skipped:
        print(f"SKIPPED {line}")
    failed = sum(not one.ok for one in verdicts)
    print(f"seed {arguments.seed}: {'all verdicts hold' if not failed else f'{failed} verdicts FAILED'}; {folder}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
