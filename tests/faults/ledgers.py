"""The gap ledgers as plain JSON lines: what the feeds missed, and what the writer lost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..system.tree import Tree


@dataclass
class Lost:
    """Of one ring, what the writer says is in no table. Sequences."""

    certain: set[int] = field(default_factory=set)
    perhaps: set[int] = field(default_factory=set)  # an insert of them was under way
    rest: bool = False  # and whatever came behind: the ring is gone

    def fits(self, missing: int) -> bool:
        most = len(self.certain | self.perhaps)
        return len(self.certain) <= missing and (self.rest or missing <= most)

    def __str__(self) -> str:
        more = len(self.perhaps - self.certain)
        return f"{len(self.certain)} (perhaps {more} more){', and the rest of a ring' * self.rest}"


def json_lines(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:  # cut short by a kill
                    continue


def named_by_feed(tree: Tree, feed: str, instrument: str, kind: str) -> set[int]:
    """Numbers of the exchange that a feed says it missed."""
    folder = tree.data / "gaps"
    return {
        number
        for gap in json_lines([folder / f"{feed}.jsonl.1", folder / f"{feed}.jsonl"])
        if (gap["instrument"], gap["kind"]) == (instrument, kind)
        for number in range(gap["first_id"], gap["last_id"] + 1)
    }


def outages_by_feed(tree: Tree, feed: str, streams: Iterable[str]) -> list[tuple[int, int]]:
    """When a feed did not listen to one of the streams: from and to, by its clock. 0 = unknown."""
    folder = tree.data / "outages"
    lines = json_lines([folder / f"{feed}.jsonl.1", folder / f"{feed}.jsonl"])
    return [(one["from_ns"], one["to_ns"]) for one in lines if one["to_ns"] and one["stream"] in streams]


def lost_by_writer(tree: Tree, stream: str) -> Mapping[int, Lost]:
    """By epoch."""
    found: dict[int, Lost] = {}
    for gap in json_lines(sorted((tree.data / "writer").glob("gaps*.jsonl"))):
        if gap["stream"] != stream or gap.get("kind", "range") != "range":
            continue
        lost = found.setdefault(gap["epoch"], Lost())
        if gap["stop"] is None:
            lost.rest = True
        elif gap.get("certain", True):
            lost.certain.update(range(gap["first"], gap["stop"]))
        else:
            lost.perhaps.update(range(gap["first"], gap["stop"]))
    return found
