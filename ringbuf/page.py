"""An actor's page in shared memory: heartbeat, state and metrics, readable by anyone at any time.

File: ``<actor>.page``. The actor is its only writer.

| offset | size | field | meaning |
|---|---|---|---|
| 0 | 8 | magic | |
| 8 | 8 | layout_version | |
| 16 | 8 | pid | |
| 24 | 8 | started_ns | wall clock, UNIX ns |
| 64 | 8 | beat_ns | monotonic; stored by the loop that does the work, so a hung one looks hung |
| 72 | 8 | state | see `State` |
| 80 | 8 | values | f64 slots in use; stored AFTER their definitions |
| 88 | 8 | definitions | bytes of definitions in use |
| 128 | 4,096 - 128 | detail | u32 length, u32 CRC-32, JSON: whatever the actor wants to show |
| 4096 | 256 KiB | definitions | JSON lines, append-only: kind, name, help, labels, first slot, slots, bounds |
| 266240 | 128 KiB | values | f64 |

A metric for which there is no room left is counted by the actor and not shown; how many those are is shown. No actor
ends because it has much to tell.

Counters live in ordinary Python attributes and are copied to the page by `beat`: a counter on the hot path costs an
integer addition. A float64 holds counts up to 2^53 exactly.
"""

from __future__ import annotations

import bisect
import functools
import json
import logging
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from .errors import LayoutMismatch, RingError
from .segment import create_segment, open_segment

log = logging.getLogger("tickring.ringbuf.page")

MAGIC = int.from_bytes(b"TICKPAGE", "little")
LAYOUT_VERSION = 2
BEAT_AT, STATE_AT, VALUES_USED_AT, DEFINITIONS_USED_AT = 64, 72, 80, 88
DETAIL_AT, DETAIL_SIZE = 128, 4096 - 128
DEFINITIONS_AT, DEFINITIONS_SIZE = 4096, 256 * 1024
VALUES_AT, VALUES = 266_240, 16_384
FILE_SIZE = VALUES_AT + VALUES * 8
HIDDEN = "tickring_page_hidden_metrics"
HIDDEN_BYTES = 256  # kept for the definition of HIDDEN
DETAIL = struct.Struct("<II")
assert DEFINITIONS_AT + DEFINITIONS_SIZE == VALUES_AT


Identity = tuple[str, str, tuple[tuple[str, str], ...]]  # of a metric: kind, name, labels


class State(IntEnum):
    """What an actor says of itself."""

    STARTING = 0
    RUNNING = 1
    DRAINING = 2
    STOPPED = 3


def page_filename(actor: str) -> str:
    return f"{actor}.page"


class Counter:
    """A number that only grows."""

    __slots__ = ("slot", "value")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.value = 0

    def inc(self, n: float = 1) -> None:
        self.value += n


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("slot", "value")

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.value: float = 0

    def set(self, value: float) -> None:
        self.value = value


class Histogram:
    """Counts of observations up to each bound, their number and their sum."""

    __slots__ = ("bounds", "counts", "slot", "sum")

    def __init__(self, slot: int, bounds: Sequence[float]) -> None:
        self.slot = slot
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value


def quantile(bounds: Sequence[float], counts: Sequence[float], q: float) -> float:
    """The value below which a share `q` of the observations lies, taken as spread evenly inside each bucket.

    Of observations beyond the last bound only that is known, so they count as the last bound. 0 without any.
    """
    left = q * sum(counts)
    low = 0.0
    for high, count in zip(bounds, counts, strict=False):
        if count and left <= count:
            return low + (high - low) * left / count
        left -= count
        low = high
    return bounds[-1] if bounds and sum(counts) else 0.0


@dataclass(frozen=True)
class Sample:
    """One metric of a page: `values` is one number, or for a histogram the count per bucket and then the sum."""

    kind: str  # counter | gauge | histogram
    name: str
    help: str
    labels: Mapping[str, str]
    values: tuple[float, ...]
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True)
class PageView:
    """What a page said at one moment."""

    actor: str
    pid: int
    started_ns: int
    beat_ns: int
    state: State
    detail: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()


class MetricsPage:
    """The actor's side of its page. Made anew at each start of the actor: counters then begin at zero.

    Metrics may be asked for in any thread.
    """

    def __init__(self, folder: Path, actor: str, started_ns: int, group: str | None = None) -> None:
        self.path = folder / page_filename(actor)

        def fill(memory: mmap.mmap) -> None:
            memory[0:32] = struct.pack("<QQQQ", MAGIC, LAYOUT_VERSION, os.getpid(), started_ns)

        create_segment(self.path, FILE_SIZE, fill, group=group)
        self._fd, self._memory = open_segment(self.path, writable=True)
        self._words = memoryview(self._memory).cast("Q")
        self._values = memoryview(self._memory)[VALUES_AT:].cast("d")
        self._metrics: dict[Identity, Counter | Gauge | Histogram] = {}
        self._order: list[Counter | Gauge | Histogram] = []
        self._next_slot = 0
        self._definitions = 0
        self._detail: Mapping[str, Any] = {}
        self._hidden: Gauge | None = None
        self._making = threading.Lock()  # held while a metric gets its place

    def counter(self, name: str, help: str, **labels: str) -> Counter:
        """The counter of that name and labels, made at first use."""
        return self._metric("counter", name, help, labels, 1, Counter)

    def gauge(self, name: str, help: str, **labels: str) -> Gauge:
        return self._metric("gauge", name, help, labels, 1, Gauge)

    def histogram(self, name: str, help: str, bounds: Sequence[float], **labels: str) -> Histogram:
        """A histogram with the given upper bounds, ascending, in the metric's unit."""
        return self._metric(
            "histogram", name, help, labels, len(bounds) + 2, lambda slot: Histogram(slot, bounds), tuple(bounds)
        )

    def _metric(
        self,
        kind: str,
        name: str,
        help: str,
        labels: Mapping[str, str],
        slots: int,
        make: Any,
        bounds: tuple[float, ...] = (),
    ) -> Any:
        identity = (kind, name, tuple(sorted(labels.items())))
        found = self._metrics.get(identity)
        if found is not None:
            return found
        with self._making:
            found = self._metrics.get(identity)  # another thread may have come first
            return found if found is not None else self._make(identity, help, labels, slots, make, bounds)

    def _make(
        self, identity: Identity, help: str, labels: Mapping[str, str], slots: int, make: Any,
        bounds: tuple[float, ...] = (),
    ) -> Any:  # fmt: skip
        kind, name, _ = identity
        definition = {
            "kind": kind,
            "name": name,
            "help": help,
            "labels": dict(labels),
            "slot": self._next_slot,
            "slots": slots,
        }
        line = json.dumps(definition | ({"bounds": bounds} if bounds else {}), separators=(",", ":")).encode() + b"\n"
        kept = 0 if name == HIDDEN else HIDDEN_BYTES
        if self._definitions + len(line) > DEFINITIONS_SIZE - kept or self._next_slot + slots > VALUES - bool(kept):
            return self._hide(identity, make)
        at = DEFINITIONS_AT + self._definitions
        self._memory[at : at + len(line)] = line
        metric = make(self._next_slot)
        self._next_slot += slots
        self._definitions += len(line)
        self._words[DEFINITIONS_USED_AT // 8] = self._definitions
        self._words[VALUES_USED_AT // 8] = self._next_slot
        self._metrics[identity] = metric
        self._order.append(metric)
        return metric

    def _hide(self, identity: Identity, make: Any) -> Any:
        """A metric that works and is not shown."""
        if self._hidden is None:
            why = "Metrics for which the page has no room: too many label values"
            self._hidden = self._make(("gauge", HIDDEN, ()), why, {}, 1, Gauge)
            assert self._hidden is not None, "room for it is kept"
            log.warning(
                "page=%s no room for metric=%s and what comes after it: they are counted and not shown. "
                "Run fewer streams in one process (shards, instances)", self.path.name, identity[1],
            )  # fmt: skip
        self._hidden.value += 1
        metric = self._metrics[identity] = make(0)
        return metric

    def beat(self, monotonic_ns: int) -> None:
        """Say that the work loop turns, and show the metrics as they are now."""
        values = self._values
        for metric in self._order:
            if isinstance(metric, Histogram):
                for i, count in enumerate(metric.counts):
                    values[metric.slot + i] = count
                values[metric.slot + len(metric.counts)] = metric.sum
            else:
                values[metric.slot] = metric.value
        self._words[BEAT_AT // 8] = monotonic_ns

    @property
    def state(self) -> State:
        return State(self._words[STATE_AT // 8])

    @state.setter
    def state(self, state: State) -> None:
        self._words[STATE_AT // 8] = state

    @property
    def detail(self) -> Mapping[str, Any]:
        return self._detail

    @detail.setter
    def detail(self, detail: Mapping[str, Any]) -> None:
        """Show a small JSON object; one that does not fit is replaced by a note that says so."""
        self._detail = detail
        body = json.dumps(detail, separators=(",", ":")).encode()
        if len(body) > DETAIL_SIZE - DETAIL.size:
            body = json.dumps({"truncated": len(body)}).encode()
        data = DETAIL.pack(len(body), zlib.crc32(body)) + body
        self._memory[DETAIL_AT : DETAIL_AT + len(data)] = data

    def close(self) -> None:
        self._words.release()
        self._values.release()
        self._memory.close()
        os.close(self._fd)


def read_page(path: Path) -> PageView:
    """Read an actor's page, whole.

    Raises:
        SegmentMissing, LayoutMismatch
    """
    fd, memory = open_segment(path)
    try:
        magic, version, pid, started_ns = struct.unpack_from("<QQQQ", memory, 0)
        if magic != MAGIC or version != LAYOUT_VERSION:
            raise LayoutMismatch(
                f"page {path}: layout_version {version}, expected {LAYOUT_VERSION}: restart the daemon"
            )
        beat_ns, state, slots, definitions = struct.unpack_from("<QQQQ", memory, BEAT_AT)
        return PageView(
            actor=path.name.removesuffix(".page"), pid=pid, started_ns=started_ns, beat_ns=beat_ns, state=State(state),
            detail=_read_detail(memory), samples=tuple(_read_samples(memory, slots, definitions)),
        )  # fmt: skip
    finally:
        memory.close()
        os.close(fd)


def _read_detail(memory: mmap.mmap) -> Mapping[str, Any]:
    for _ in range(100):
        length, crc = DETAIL.unpack_from(memory, DETAIL_AT)
        body = memory[DETAIL_AT + DETAIL.size : DETAIL_AT + DETAIL.size + min(length, DETAIL_SIZE - DETAIL.size)]
        if not length:
            return {}
        if zlib.crc32(body) == crc:  # else it is being written just now
            return json.loads(body)
    return {}


def _read_samples(memory: mmap.mmap, slots: int, definitions: int) -> Iterator[Sample]:
    values = struct.unpack_from(f"<{slots}d", memory, VALUES_AT)
    for line in memory[DEFINITIONS_AT : DEFINITIONS_AT + definitions].splitlines():
        one = _definition(line)
        first = one["slot"]
        if first + one["slots"] <= slots:
            yield Sample(
                one["kind"], one["name"], one["help"], one["labels"], values[first : first + one["slots"]],
                tuple(one.get("bounds", ())),
            )  # fmt: skip


@functools.lru_cache(maxsize=16_384)
def _definition(line: bytes) -> Any:
    """A line of the definitions; pages are read again and again, and their lines stay."""
    return json.loads(line)


def read_pages(folder: Path) -> list[PageView]:
    """All pages of an instance, by actor name; a page that cannot be read is left out."""
    views = []
    for path in sorted(folder.glob("*.page")):
        try:
            views.append(read_page(path))
        except (RingError, OSError, ValueError, struct.error):  # gone, of another version, or damaged
            continue
    return views
