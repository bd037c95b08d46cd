"""Print data: JSON for programs, tables for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.table import Table


def print_json(data: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data, enc_hook=str), indent=2).decode() + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """An aligned table; with frames and colours only where a person watches, so that `awk` can read it elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(make_table(columns, rows, title))
        return
    texts = [list(columns), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[index]) for row in texts) for index in range(len(columns))]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def make_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> Table:
    """A table with frames and colours, for a terminal."""
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[_styled(cell) for cell in row])
    return table


_STYLES: Mapping[str, str] = {
    "running": "green", "starting": "yellow", "backoff": "yellow", "stopping": "yellow", "fatal": "bold red",
    "exited": "dim", "hung": "bold red", "down": "bold red", "wrong": "bold red", "ok": "green", "unknown": "dim",
}  # fmt: skip


def _styled(cell: object) -> str:
    from rich.markup import escape

    text = escape(str(cell))
    style = _STYLES.get(text)
    return f"[{style}]{text}[/]" if style else text
