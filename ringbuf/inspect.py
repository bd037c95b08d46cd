"""What is in an instance's folder: streams, keys, readers, pages, in plain values for printing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import layout
from .bytering import ByteRingReader
from .errors import RingError
from .keys import KeyReader
from .page import read_page
from .readers import ReaderFile, process_start_time
from .stream import StreamReader


def inspect_stream(path: Path) -> dict[str, Any]:
    """One stream file: geometry, counters, and its readers with their lag."""
    producer, record = path.name.removesuffix(".ring").rsplit(".", 1)
    reader = StreamReader(path.parent, producer, record)
    try:
        published, spec = reader.published(), reader.spec
        lines: list[dict[str, Any]] = []
        if (path.parent / spec.readers_filename).exists():
            file = ReaderFile(path.parent / spec.readers_filename)
            lines = [line | {"lag": published - int(str(line["cursor"]))} for line in file.lines()]
            file.close()
        pid = reader.producer_pid
        return {
            "file": path.name, **asdict(spec), "layout_version": layout.LAYOUT_VERSION, "epoch_ns": reader.epoch,
            "bytes": path.stat().st_size, "bytes_reserved": path.stat().st_blocks * 512,
            "producer_pid": pid, "producer_alive": bool(pid and process_start_time(pid)),
            "live_since_ns": reader.live_since_ns, "publish": published,
            "claim": reader.claimed(), "oldest": reader.oldest(), "readers": lines,
        }  # fmt: skip
    finally:
        reader.close()


def inspect_file(path: Path) -> dict[str, Any]:
    """Any file of an instance's folder by its ending; a file that cannot be read says why."""
    try:
        match path.suffix:
            case ".ring":
                return inspect_stream(path)
            case ".keys":
                keys = KeyReader(path)
                return {
                    "file": path.name,
                    "keys_max": keys.keys_max,
                    "keys": [{"key": k.text, **k.attributes} for k in keys],
                }
            case ".page":
                page = read_page(path)
                return {
                    "file": path.name,
                    "actor": page.actor,
                    "pid": page.pid,
                    "state": page.state.name.lower(),
                    "beat_ns": page.beat_ns,
                }
            case ".bytes":
                ring = ByteRingReader(path)
                return {
                    "file": path.name,
                    "capacity": ring.capacity,
                    "publish": ring.published(),
                    "epoch_ns": ring.epoch,
                }
    except (RingError, OSError) as error:
        return {"file": path.name, "error": str(error)}
    return {"file": path.name}


def inspect_folder(folder: Path) -> list[dict[str, Any]]:
    """Every stream, directory, byte ring and page of an instance."""
    return [inspect_file(p) for p in sorted(folder.iterdir()) if p.suffix in (".ring", ".keys", ".page", ".bytes")]


def layout_table() -> list[tuple[int, int, str, str, str]]:
    """`(offset, size, field, writer, meaning)` of a stream file, from the table in `layout`'s docstring."""
    rows = []
    for line in (layout.__doc__ or "").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 5 and cells[0].isdigit() and cells[1].isdigit():
            rows.append((int(cells[0]), int(cells[1]), cells[2], cells[3], cells[4]))
    return rows
