"""One answer from two places: the newest records of a key from memory, the older ones from ClickHouse.

The seam is the writer's cursor, never a time: what the ring holds from the sequence that ClickHouse has not
acknowledged yet is taken from memory, together with all that the key's tail holds; ClickHouse is asked for what lies
below the oldest of these, by `nth`. Since `nth` counts without holes, what is missing in between is known exactly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np

from ...codecs.record import Flag
from ...ringbuf import LayoutMismatch, SegmentMissing, StreamReader
from ...ringbuf.readers import ReaderFile

STORED_READER = "writer.stored"  # reader line whose cursor is the first sequence ClickHouse has not acknowledged
SCAN_ROWS = 8192  # of the ring, between two turns of the event loop

# (epoch, nth, start_ns, end_ns, limit) -> older rows, oldest first, with their epochs; None = ClickHouse gave no answer
FetchOlder = Callable[[int, int, int, int, int], Awaitable["Older | None"]]
# (epoch, nth, start_ns, end_ns) -> how many older rows there are
CountOlder = Callable[[int, int, int, int], Awaitable[int | None]]


@dataclass(frozen=True)
class Older:
    """Records from ClickHouse, oldest first."""

    rows: np.ndarray  # (n,) of the record type's dtype
    epochs: np.ndarray  # (n,) u64


@dataclass(frozen=True)
class Merged:
    """Records of a range, newest first."""

    rows: np.ndarray  # (n,) of the record type's dtype
    data_source: str  # memory, database, mixed
    completeness: float  # percent of what the range should hold, as far as that is known
    note: str = ""
    total: int | None = None  # records in the range altogether; None = not asked for, or not known


def times_of(rows: np.ndarray) -> np.ndarray:
    """Time of each record, UNIX ns: the exchange's, ours at receipt where it sends none."""
    return np.where(rows["ts_event_ns"] != 0, rows["ts_event_ns"], rows["ts_recv_ns"])


def within(rows: np.ndarray, start_ns: int, end_ns: int) -> np.ndarray:
    times = times_of(rows)
    return rows[(times >= start_ns) & (times < end_ns)]


def stored_sequence(reader: StreamReader) -> int | None:
    """First sequence of the ring that ClickHouse has not acknowledged; None when no writer follows the stream."""
    try:
        file = ReaderFile(reader.folder / reader.spec.readers_filename)
    except (SegmentMissing, LayoutMismatch, PermissionError):
        return None
    try:
        cursors = [line["cursor"] for line in file.lines() if line["name"] == STORED_READER]
    finally:
        file.close()
    return int(min(cursors)) if cursors else None  # type: ignore[call-overload]


async def unstored(reader: StreamReader, key_id: int, before_nth: int, stored: int | None) -> np.ndarray:
    """Records of a key with a smaller `nth` than given that only the ring holds: not in ClickHouse, not in the tail.

    Looks at the ring from the writer's cursor on, a piece at a time, so that other requests are answered in between.
    """
    cursor = max(stored or 0, reader.oldest())
    found = [np.empty(0, reader.dtype)]
    while True:
        rows, cursor, lost = reader.read(cursor, SCAN_ROWS)
        if lost:
            found = found[:1]  # the ring was lapped meanwhile; what lies below is ClickHouse's or lost
        if not len(rows):
            break
        mine = rows[rows["key_id"] == key_id]
        older = mine[mine["nth"] < before_nth]
        if len(older):
            found.append(older)
        if len(older) < len(mine):
            break  # the tail's records have begun
        await asyncio.sleep(0)
    return np.concatenate(found)


async def merge(
    reader: StreamReader,
    key_id: int,
    start_ns: int,
    end_ns: int,
    wanted: int,
    fetch_older: FetchOlder | None,
    count_older: CountOlder | None = None,
) -> Merged:
    """The newest `wanted` records of a key in ``[start_ns, end_ns)``, newest first, void ones left out.

    ClickHouse is asked only where memory does not reach back far enough, or where a total is asked for.
    """
    tail = reader.last(key_id, reader.spec.tail)
    if count_older is None and _satisfies(tail, start_ns, end_ns, wanted):
        return Merged(_pick(tail, start_ns, end_ns, wanted), "memory", 100.0)
    memory = tail
    stored = stored_sequence(reader)
    if reader.capacity and len(tail) and int(tail["nth"][0]) > 0:
        memory = np.concatenate((await unstored(reader, key_id, int(tail["nth"][0]), stored), tail))
    in_memory = _pick(memory, start_ns, end_ns, wanted)
    if _reaches(memory, start_ns):
        return Merged(in_memory, "memory", 100.0, total=_count(memory, start_ns, end_ns))
    first_nth = int(memory["nth"][0]) if len(memory) else reader.count(key_id)
    total = None
    if count_older is not None:
        older_count = await count_older(reader.epoch, first_nth, start_ns, end_ns)
        total = None if older_count is None else older_count + _count(memory, start_ns, end_ns)
    if len(in_memory) >= wanted:
        return Merged(in_memory, "memory", 100.0, total=total)
    if fetch_older is None:
        completeness = _coverage(memory, start_ns, end_ns) if first_nth else 100.0
        return Merged(in_memory, "memory", completeness, "memory only: no history is configured", total)
    older = await fetch_older(reader.epoch, first_nth, start_ns, end_ns, wanted - len(in_memory))
    if older is None:
        note = "memory only: history did not answer"
        return Merged(in_memory, "memory", _coverage(memory, start_ns, end_ns), note, total)
    rows = np.concatenate((in_memory, _pick(older.rows, start_ns, end_ns, wanted)))[:wanted]
    source = ("mixed" if len(in_memory) else "database") if len(older.rows) else "memory"
    current = older.rows[older.epochs == reader.epoch]
    lost = stored is None or stored < reader.oldest()  # then not all that memory no longer holds is in ClickHouse
    if lost and first_nth and not len(current):
        note = "the writer fell behind: records may be missing"
        return Merged(rows, source, _coverage(memory, start_ns, end_ns), note, total)
    missing = _missing(older, current, first_nth)
    held = len(older.rows) + len(within(memory, start_ns, end_ns))
    note = f"{missing} records are in neither place" if missing else ""
    return Merged(rows, source, _percent(held, held + missing), note, total)


def _pick(rows: np.ndarray, start_ns: int, end_ns: int, wanted: int) -> np.ndarray:
    chosen = within(rows, start_ns, end_ns)
    chosen = chosen[(chosen["flags"] & int(Flag.VOID)) == 0]
    return chosen[::-1][:wanted]


def _count(rows: np.ndarray, start_ns: int, end_ns: int) -> int:
    return len(_pick(rows, start_ns, end_ns, len(rows)))


def _reaches(rows: np.ndarray, start_ns: int) -> bool:
    """Whether memory reaches back beyond the start of the range."""
    return bool(len(rows)) and bool(times_of(rows[:1])[0] < start_ns)


def _satisfies(rows: np.ndarray, start_ns: int, end_ns: int, wanted: int) -> bool:
    return _reaches(rows, start_ns) or len(_pick(rows, start_ns, end_ns, wanted)) >= wanted


def _missing(older: Older, current: np.ndarray, first_nth: int) -> int:
    """Records that `nth` says there were and that neither place has."""
    missing = 0
    for one in np.unique(older.epochs):
        nths = older.rows["nth"][older.epochs == one]
        missing += int(nths[-1]) - int(nths[0]) + 1 - len(nths)
    if len(current):
        missing += first_nth - 1 - int(current["nth"][-1])
    return max(0, missing)


def _coverage(memory: np.ndarray, start_ns: int, end_ns: int) -> float:
    """Share of the time range that memory covers, in percent; below 100."""
    if not len(memory) or end_ns <= start_ns:
        return 0.0
    oldest = int(times_of(memory[:1])[0])
    return _percent(max(0, end_ns - max(start_ns, oldest)), end_ns - start_ns, below=99.99)


def _percent(part: int, whole: int, below: float = 100.0) -> float:
    return min(below if part < whole or below < 100 else 100.0, round(100.0 * part / whole, 2)) if whole else 100.0
