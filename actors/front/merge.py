"""One answer from two places: the newest records of a key from memory, the older ones from ClickHouse.

The seam is the writer's cursor, never a time: what the ring holds from the sequence that ClickHouse has not
acknowledged yet is taken from memory, together with all that the key's tail holds; ClickHouse is asked for what lies
below the oldest of these, by `nth`. Since `nth` counts without holes, what is missing in between is known exactly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import numpy as np

from ...codecs.record import Flag
from ...ringbuf import LayoutMismatch, SegmentMissing, StreamReader
from ...ringbuf.readers import ReaderFile

STORED_READER = "writer.stored"  # reader line whose cursor is the first sequence ClickHouse has not acknowledged
SCAN_ROWS = 8192  # of the ring, between two turns of the event loop


@dataclass(frozen=True)
class Seam:
    """A row's identity: what is older came before it, in its epoch or an earlier one."""

    epoch: int
    nth: int
    recv_ns: int = 0  # when it was received, wall clock: older rows are looked for before that; 0 = not known


# (seam, start_ns, end_ns, limit) -> rows before the seam, oldest first; None = ClickHouse gave no answer
FetchOlder = Callable[[Seam, int, int, int], Awaitable["Older | None"]]
# (seam, start_ns, end_ns, how many the range has from the seam on) -> how many it has altogether
CountAll = Callable[[Seam, int, int, int], Awaitable[int | None]]


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
    epochs: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))  # (n,) of the rows


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


@dataclass(frozen=True)
class Recent:
    """What memory holds of a key.

    Attributes:
        rows: `(n,)`, oldest first: the key's tail, and before it what the ring alone holds.
        seam: everything from this row on is in `rows`; what lies below it is ClickHouse's.
        lost: whether some of what memory no longer holds may have missed ClickHouse too.
    """

    rows: np.ndarray
    seam: Seam
    lost: bool
    stored: int | None  # the writer's cursor; None without a writer


async def recent(reader: StreamReader, key_id: int) -> Recent:
    """All that memory holds of a key down to the writer's cursor at least."""
    tail = reader.last(key_id, reader.spec.tail)
    rows, stored = tail, stored_sequence(reader)
    if reader.capacity and len(tail) and int(tail["nth"][0]) > 0:
        rows = np.concatenate((await unstored(reader, key_id, int(tail["nth"][0]), stored), tail))
    first = int(rows["nth"][0]) if len(rows) else reader.count(key_id)
    received = int(rows["ts_recv_ns"][0]) if len(rows) else 0
    return Recent(rows, Seam(reader.epoch, first, received), stored is None or stored < reader.oldest(), stored)


async def merge(
    reader: StreamReader,
    key_id: int,
    start_ns: int,
    end_ns: int,
    wanted: int,
    fetch_older: FetchOlder | None,
    count_all: CountAll | None = None,
    before: Seam | None = None,
) -> Merged:
    """The newest `wanted` records of a key in ``[start_ns, end_ns)``, newest first, void ones left out.

    ClickHouse is asked only where memory does not reach back far enough, or where a total is asked for; for both at
    the same time.

    Args:
        before: only records that came before this one.
    """
    current_epoch = before is None or before.epoch == reader.epoch
    if current_epoch and count_all is None:
        tail = _before(reader.last(key_id, reader.spec.tail), before)
        if _satisfies(tail, start_ns, end_ns, wanted):
            return _merged(_pick(tail, start_ns, end_ns, wanted), reader.epoch, "memory", 100.0)
    held = await recent(reader, key_id)
    memory, seam = held.rows, held.seam
    if not current_epoch:
        assert before is not None
        memory, seam = memory[:0], before
    elif before is not None and before.nth < reader.count(key_id):
        memory, seam = _before(memory, before), min(before, seam, key=lambda one: one.nth)
    in_memory = _pick(memory, start_ns, end_ns, wanted)
    held_in_range = 0 if count_all is None else _count(memory, start_ns, end_ns)
    if _reaches(memory, start_ns):
        total = None if count_all is None else held_in_range
        return _merged(in_memory, reader.epoch, "memory", 100.0, total=total)
    counting = count_all and asyncio.ensure_future(count_all(seam, start_ns, end_ns, held_in_range))
    older = None
    if len(in_memory) < wanted and fetch_older is not None:
        older = await fetch_older(seam, start_ns, end_ns, wanted - len(in_memory))
    total = await counting if counting is not None else None
    if len(in_memory) >= wanted:
        return _merged(in_memory, reader.epoch, "memory", 100.0, total=total)
    if older is None:
        share = coverage(memory, start_ns, end_ns) if seam.nth or fetch_older is not None else 100.0
        note = "memory only: history did not answer"
        if fetch_older is None:
            note = "memory only: no history is configured"
        return _merged(in_memory, reader.epoch, "memory", share, note, total)
    found = Merged(
        np.concatenate((in_memory, _pick(older.rows, start_ns, end_ns, wanted)))[:wanted],
        ("mixed" if len(in_memory) else "database") if len(older.rows) else "memory",
        100.0, "", total,
        np.concatenate((np.full(len(in_memory), reader.epoch, np.uint64), _epochs(older, start_ns, end_ns)))[:wanted],
    )  # fmt: skip
    current = older.rows[older.epochs == seam.epoch]
    if held.lost and seam.nth and not len(current) and current_epoch:
        note = "the writer fell behind: records may be missing"
        return replace(found, completeness=coverage(memory, start_ns, end_ns), note=note)
    # between what was found and the seam lies what happened after the range, unless the range goes on behind the seam
    goes_on = before is not None or (len(memory) > 0 and int(times_of(memory[:1])[0]) < end_ns)
    missing = _missing(older, current, seam.nth if goes_on else None)
    whole = len(older.rows) + len(within(memory, start_ns, end_ns))
    note = f"{missing} records are in neither place" if missing else ""
    return replace(found, completeness=percent(whole, whole + missing), note=note)


def _merged(
    rows: np.ndarray, epoch: int, source: str, completeness: float, note: str = "", total: int | None = None
) -> Merged:
    return Merged(rows, source, completeness, note, total, np.full(len(rows), epoch, np.uint64))


def _before(rows: np.ndarray, seam: Seam | None) -> np.ndarray:
    return rows if seam is None else rows[rows["nth"] < seam.nth]


def _epochs(older: Older, start_ns: int, end_ns: int) -> np.ndarray:
    """Epochs of the rows that `_pick` takes."""
    times = times_of(older.rows)
    chosen = (times >= start_ns) & (times < end_ns) & ((older.rows["flags"] & int(Flag.VOID)) == 0)
    return older.epochs[chosen][::-1]


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


def _missing(older: Older, current: np.ndarray, first_nth: int | None) -> int:
    """Records that `nth` says there were and neither place has. `first_nth`: of memory, where they lead up to it."""
    missing = 0
    for one in np.unique(older.epochs):
        nths = older.rows["nth"][older.epochs == one]
        missing += int(nths[-1]) - int(nths[0]) + 1 - len(nths)
    if len(current) and first_nth is not None:
        missing += first_nth - 1 - int(current["nth"][-1])
    return max(0, missing)


def coverage(memory: np.ndarray, start_ns: int, end_ns: int) -> float:
    """Share of the time range that memory covers, in percent; below 100."""
    if not len(memory) or end_ns <= start_ns:
        return 0.0
    oldest = int(times_of(memory[:1])[0])
    return percent(max(0, end_ns - max(start_ns, oldest)), end_ns - start_ns, below=99.99)


def percent(part: int, whole: int, below: float = 100.0) -> float:
    return min(below if part < whole or below < 100 else 100.0, round(100.0 * part / whole, 2)) if whole else 100.0
