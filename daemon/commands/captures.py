"""`tickring replay`: captures through the codecs, every record (or every book at the end) as one JSON line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InputMissing
from ..rights import owner_of

WRITE_BYTES = 1 << 18  # lines are written in pieces of about this size
PROGRESS_LINES = 10_000


def replay(files: Sequence[Path], exchange: str | None, product: str | None, *, books: bool) -> None:
    """Print the records of capture files in the order of the files.

    Raises:
        InputMissing: a file is not there, or cannot be read.
        CodecError: a file is no capture, or neither its folder nor an option says of which market.
    """
    from ...codecs.replay import replay_books, replay_lines

    for file in files:
        if not os.path.isfile(file):
            raise InputMissing(f"there is no capture {file}: name files as `tickring record` writes them")
        if not os.access(file, os.R_OK):
            raise InputMissing(f"capture {file} cannot be read: it belongs to user {owner_of(file)[1]}")
    work = replay_books if books else replay_lines
    write_lines(_watched(work(files, exchange=exchange, product=product), len(files)))


def write_lines(items: Iterable[Any]) -> None:
    """One JSON line for each item, in large writes."""
    encoder = msgspec.json.Encoder()
    buffer = bytearray()
    write = sys.stdout.buffer.write
    for item in items:
        encoder.encode_into(item, buffer, -1)
        buffer += b"\n"
        if len(buffer) >= WRITE_BYTES:
            write(buffer)
            buffer.clear()
    write(buffer)
    sys.stdout.buffer.flush()


def _watched(items: Iterable[Any], files: int) -> Iterator[Any]:
    """The items, with a count on stderr where a person watches and the lines themselves go elsewhere."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,} records of {task.fields[files]} files"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=None, files=files)
        for count, item in enumerate(items, 1):
            if count % PROGRESS_LINES == 0:
                progress.update(task, completed=count)
            yield item
