"""`tickring tail`: print records straight from shared memory, without asking any process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...codecs.desk.records import PNL, POSITION
from ...codecs.record import RecordType
from ...codecs.records import MARKET_RECORDS
from ...ringbuf.errors import SegmentMissing
from ...ringbuf.keys import Key
from ...ringbuf.stream import StreamReader
from ..checking import nearest
from ..errors import InputMissing, NotRunning
from .lines import record_line

# Of the desk those that say all in their fields; texts lie in byte rings.
BY_NAME: dict[str, RecordType] = {kind.name: kind for kind in (*MARKET_RECORDS, POSITION, PNL)}
POLL_S = 0.05
READ_ROWS = 4096
SCAN_ROWS_MAX = 1 << 18  # how far back a ring is searched for a symbol that has no tail


def tail(folder: Path, record: str, symbol: str | None, count: int, *, follow: bool, as_json: bool) -> None:
    """Print the `count` newest records in order of arrival, then with `follow` the new ones until Ctrl-C."""
    kind = BY_NAME.get(record)
    if kind is None:
        near = nearest(record, BY_NAME)
        hint = f"; did you mean {near!r}?" if near else ""
        raise InputMissing(f"unknown record type {record!r}{hint or '.'} Known: {', '.join(BY_NAME)}.")
    readers = _readers(folder, kind)
    matches = _matcher(symbol, [key for reader in readers for key in reader.keys], f"no stream of {record} in {folder}")
    tailers = [(RingTail if reader.capacity else LatestTail)(reader, kind, matches) for reader in readers]
    show = _json_line if as_json else _text_line
    newest = sorted((item for tailer in tailers for item in tailer.newest(count)), key=_received)
    _print(kind, newest[-count:] if count else [], show)
    while follow:
        items = sorted((item for tailer in tailers for item in tailer.new()), key=_received)
        _print(kind, items, show)
        for tailer in tailers:
            if lost := tailer.take_lost():
                print(
                    f"tail: {tailer.reader.producer}: {lost} records were overwritten before they could be read",
                    file=sys.stderr,
                )
        time.sleep(POLL_S)


Item = tuple[np.void, Key]


def _readers(folder: Path, kind: RecordType) -> list[StreamReader]:
    suffix = f".{kind.name}.ring"
    producers = [path.name.removesuffix(suffix) for path in sorted(folder.glob(f"*{suffix}"))]
    if not producers:
        raise NotRunning(
            f"there is no stream of {kind.name} in {folder}: nothing configured produces it, or the daemon never ran"
        )
    found = []
    for producer in producers:
        try:
            found.append(StreamReader(folder, producer, kind.name, kind.dtype, kind.fingerprint))
        except SegmentMissing:
            continue  # removed just now
    return found


def _matcher(symbol: str | None, keys: Sequence[Key], where: str) -> Callable[[Key], bool]:
    """Whether a key is the symbol: the canonical name if it is one, else every market of a pair or native name.

    Raises:
        InputMissing: no key is.
    """
    if symbol is None:
        return lambda key: True
    wanted = symbol.upper()
    for names in (("instrument",), ("symbol", "native")):

        def matches(key: Key, names: tuple[str, ...] = names) -> bool:
            return any(str(key.attributes.get(name, "")).upper() == wanted for name in names)

        if any(map(matches, keys)):
            return matches
    known = sorted({str(key.attributes.get("instrument", key.text)) for key in keys})
    near = nearest(wanted, known)
    hint = f"; did you mean {near!r}?" if near else f"; known are {', '.join(known[:20])}" if known else ""
    raise InputMissing(f"{where} has the symbol {symbol!r}{hint}")


class RingTail:
    """Newest and new records of a stream with a ring."""

    def __init__(self, reader: StreamReader, kind: RecordType, matches: Callable[[Key], bool]) -> None:
        self.reader, self.kind, self.matches = reader, kind, matches
        self.cursor = reader.published()
        self.lost = 0

    def newest(self, count: int) -> list[Item]:
        if self.kind.tail >= count:
            return [(row, key) for key in self._keys() for row in self.reader.last(key.key_id, count)]
        rows, _, _ = self.reader.read(max(0, self.cursor - SCAN_ROWS_MAX), SCAN_ROWS_MAX)
        return list(self._items(rows))[-count:]

    def new(self) -> list[Item]:
        rows, self.cursor, lost = self.reader.read(self.cursor, READ_ROWS)
        self.lost += lost
        return list(self._items(rows))

    def take_lost(self) -> int:
        lost, self.lost = self.lost, 0
        return lost

    def _items(self, rows: np.ndarray) -> Iterator[Item]:
        keys = self.reader.keys
        for row in rows:
            key = keys[int(row["key_id"])]
            if self.matches(key):
                yield row, key

    def _keys(self) -> list[Key]:
        self.reader.keys.refresh()
        return [key for key in self.reader.keys if self.matches(key)]


class LatestTail(RingTail):
    """The same of a stream that keeps only the latest values of each key: what changes between two looks is skipped."""

    def __init__(self, reader: StreamReader, kind: RecordType, matches: Callable[[Key], bool]) -> None:
        super().__init__(reader, kind, matches)
        self.counts: dict[int, int] = {}

    def newest(self, count: int) -> list[Item]:
        items = []
        for key in self._keys():
            self.counts[key.key_id] = self.reader.count(key.key_id)
            items += [(row, key) for row in self.reader.last(key.key_id, 1)]
        return items

    def new(self) -> list[Item]:
        items = []
        for key in self._keys():
            count = self.reader.count(key.key_id)
            if count != self.counts.get(key.key_id, 0):
                self.counts[key.key_id] = count
                items += [(row, key) for row in self.reader.last(key.key_id, 1)]
        return items


def _received(item: Item) -> int:
    return int(item[0]["ts_recv_ns"])


def _print(kind: RecordType, items: list[Item], show: Callable[[dict[str, Any]], str]) -> None:
    if items:
        sys.stdout.write("".join(show(record_line(kind, row, key)) for row, key in items))
        sys.stdout.flush()


def _json_line(line: dict[str, Any]) -> str:
    return msgspec.json.encode(line).decode() + "\n"


def _text_line(line: dict[str, Any]) -> str:
    at = np.datetime64(line["ts_recv_ns"], "ns").astype("datetime64[us]").item().strftime("%H:%M:%S.%f")
    hidden = {
        "record",
        "exchange",
        "market_type",
        "symbol",
        "instrument",
        "native",
        "ts_event_ns",
        "ts_recv_ns",
        "is_buyer_maker",
        "nth",
    }
    members = " ".join(f"{name}={_short(value)}" for name, value in line.items() if name not in hidden)
    return f"{at} {line['exchange'] or '-'} {line['instrument']:<18} {members}\n"


def _short(value: Any) -> str:
    """The best three of a list of levels, anything else as it is."""
    if isinstance(value, list):
        return " ".join("x".join(map(str, level)) for level in value[:3]) or "-"
    return str(value)
