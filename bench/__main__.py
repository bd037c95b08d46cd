"""`make bench`: every figure beside its limit and its peer, as a table and as JSON.

``python bench [--quick] [--only NAME] [--json FILE]``; names: decode, scale, book, flood, latency,
ws_fanout, rest, rest_endpoints, storage, kafka, desk_latency, desk_rest, portfolio, tree, restart.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from pathlib import Path

from harness import Line, machine
from rich.console import Console
from rich.table import Table

SUITES = (
    "decode", "scale", "book", "flood", "latency", "ws_fanout", "rest", "rest_endpoints", "storage", "kafka",
    "desk_latency", "desk_rest", "portfolio", "tree", "restart",
)  # fmt: skip
RESULTS = Path(__file__).resolve().parent / "results"


def run_suite(name: str, quick: bool) -> list[Line]:
    """The lines of one suite; a suite that fails is a line that says so."""
    try:
        module = importlib.import_module(name)
        return module.run(quick=True) if quick and "quick" in module.run.__code__.co_varnames else module.run()
    except Exception as error:  # noqa: BLE001 - the other suites still run, and the exit code tells
        traceback.print_exc()
        return [Line(f"{name}: failed", float("nan"), "", 0, detail=f"{type(error).__name__}: {error}")]


def show(console: Console, lines: list[Line]) -> None:
    table = Table(title="tickring figures", show_lines=False)
    for column in ("what", "measured", "limit", "verdict", "detail"):
        table.add_column(column, overflow="fold")
    for line in lines:
        value = (
            "-"
            if line.value is None
            else f"{line.value:,.3g} {line.unit}"
            if abs(line.value) < 1000
            else f"{line.value:,.0f} {line.unit}"
        )
        sign = "<=" if line.better == "lower" else ">="
        limit = (
            "-"
            if line.limit is None
            else f"{sign} {line.limit:,.3g}"
            if line.limit < 1000
            else f"{sign} {line.limit:,.0f}"
        )
        table.add_row(line.name, value, limit, line.verdict, line.detail)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs, for a look")
    parser.add_argument("--only", action="append", choices=SUITES)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    facts = machine()
    lines: list[Line] = []
    for name in arguments.only or SUITES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        lines += run_suite(name, arguments.quick)
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(facts)
    show(console, lines)
    RESULTS.mkdir(exist_ok=True)
    target = arguments.json or RESULTS / f"{time.strftime('%Y%m%dT%H%M%S')}.json"
    target.write_text(json.dumps({"machine": facts, "lines": [line.as_dict() for line in lines]}, indent=1))
    print(f"written to {target}")
    sys.exit(any(line.verdict == "MISSED" for line in lines))


if __name__ == "__main__":
    main()
