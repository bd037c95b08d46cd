"""What `tickring top` shows: an instance as its shared memory and /proc tell it, at one moment and since the last look.

Nothing is asked of any process, and every file is opened for reading only: it works as well when the daemon hangs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ringbuf import PageView, State, StreamReader, read_pages
from ..ringbuf import readers as reader_file
from ..ringbuf.errors import RingError
from ..ringbuf.page import Sample, quantile
from ..ringbuf.readers import ReaderKind, process_start_time
from .instance import SUPERVISOR

BEAT_STALE_S = 5.0
# what is summed over all actors to one rate: name shown -> counter on their pages
RATES = {
    "frames_in": "tickring_feed_frames_total",
    "rows_stored": "tickring_storage_messages_processed_total",
    "rest_requests": "tickring_front_requests_total",
    "ws_frames_out": "tickring_ws_messages_sent_total",
}
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

Key = tuple[str, int, str, tuple[tuple[str, str], ...]]  # actor, pid, metric, labels


@dataclass(frozen=True, slots=True)
class ActorRow:
    name: str
    state: str  # as the actor's page and the supervisor say it; hung = no heartbeat, down = no process
    pid: int
    cpu_percent: float  # of one CPU, since the last look
    rss_bytes: int  # resident, shared memory included
    restarts: int
    beat_age_s: float
    cpus: Sequence[int]


@dataclass(frozen=True, slots=True)
class ReaderRow:
    name: str
    kind: str  # lossy or durable
    alive: bool
    lag: int  # records that it has still to read


@dataclass(frozen=True, slots=True)
class RingRow:
    stream: str
    published: int  # records ever; of a stream of latest values only, 0
    per_s: float
    capacity: int
    readers: Sequence[ReaderRow]


@dataclass(frozen=True, slots=True)
class LatencyRow:
    name: str
    labels: Mapping[str, str]
    per_s: float
    p50_s: float  # since the last look; since the start where nothing came meanwhile
    p99_s: float


@dataclass(frozen=True, slots=True)
class View:
    instance: str
    at_ns: int
    interval_s: float  # what rates are over; 0 at the first look
    daemon: str  # state of the supervisor; down = there is none
    actors: Sequence[ActorRow]
    rates: Mapping[str, float]  # per second
    rings: Sequence[RingRow]
    latencies: Sequence[LatencyRow]


class Watcher:
    """Looks at one instance again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._looked_at = 0.0
        self._ticks: dict[int, int] = {}  # pid -> CPU time used, clock ticks
        self._published: dict[tuple[str, int], int] = {}  # stream and epoch -> records
        self._counters: dict[Key, float] = {}
        self._buckets: dict[Key, tuple[float, ...]] = {}

    def look(self) -> View:
        now = time.monotonic()
        interval_s = now - self._looked_at if self._looked_at else 0.0
        self._looked_at = now
        pages = read_pages(self.folder)
        actors = self._actors(pages, interval_s)
        return View(
            instance=self.folder.name.removeprefix("tickring-"),
            at_ns=time.time_ns(),
            interval_s=interval_s,
            daemon=next((actor.state for actor in actors if actor.name == SUPERVISOR), "down"),
            actors=actors,
            rates=self._rates(pages, interval_s),
            rings=self._rings(interval_s),
            latencies=self._latencies(pages, interval_s),
        )

    def _actors(self, pages: Sequence[PageView], interval_s: float) -> list[ActorRow]:
        """The supervisor, then every actor that has a page or that the supervisor knows of."""
        supervisor = next((page for page in pages if page.actor == SUPERVISOR), None)
        said: Mapping[str, Any] = supervisor.detail.get("actors", {}) if supervisor else {}
        restarts = {
            sample.labels.get("actor"): int(sample.values[0])
            for sample in (supervisor.samples if supervisor else ())
            if sample.name == "tickring_actor_restarts"
        }
        by_name = {page.actor: page for page in pages}
        names = sorted(by_name.keys() | said.keys(), key=lambda name: (name != SUPERVISOR, name))
        ticks, rows = {}, []
        for name in names:
            page = by_name.get(name)
            pid = page.pid if page else 0
            age_s = max(0.0, (time.monotonic_ns() - page.beat_ns) / 1e9) if page and page.beat_ns else 0.0
            ticks[pid] = _cpu_ticks(pid)
            cpu = _rate(ticks[pid], self._ticks.get(pid), interval_s) * 100 / _TICKS_PER_S
            state = _state(page, age_s, said.get(name, {}).get("state", ""))
            rows.append(ActorRow(name, state, pid, cpu, _rss_bytes(pid), restarts.get(name, 0), age_s, _cpus(pid)))
        self._ticks = ticks
        return rows

    def _rates(self, pages: Sequence[PageView], interval_s: float) -> dict[str, float]:
        shown = {metric: name for name, metric in RATES.items()}
        rates = dict.fromkeys(RATES, 0.0)
        counters: dict[Key, float] = {}
        for page in pages:
            for sample in page.samples:
                if (name := shown.get(sample.name)) is not None:
                    key = _key(page, sample)
                    counters[key] = sample.values[0]
                    rates[name] += _rate(sample.values[0], self._counters.get(key), interval_s)
        self._counters = counters
        return rates

    def _rings(self, interval_s: float) -> list[RingRow]:
        rows, published = [], {}
        for path in sorted(self.folder.glob("*.ring")):
            producer, _, record = path.stem.rpartition(".")
            try:
                reader = StreamReader(self.folder, producer, record)
            except (RingError, OSError):
                continue  # it is being made or removed
            key, count, capacity = (path.stem, reader.epoch), reader.published(), reader.capacity
            reader.close()
            published[key] = count
            per_s = _rate(count, self._published.get(key), interval_s)
            rows.append(RingRow(path.stem, count, per_s, capacity, read_readers(path.with_suffix(".readers"), count)))
        self._published = published
        return rows

    def _latencies(self, pages: Sequence[PageView], interval_s: float) -> list[LatencyRow]:
        """Each histogram, that of equal names and labels of several actors added up."""
        buckets: dict[Key, tuple[float, ...]] = {}
        ever: dict[tuple[str, tuple[tuple[str, str], ...], tuple[float, ...]], list[float]] = {}
        lately: dict[Any, list[float]] = {}
        for page in pages:
            for sample in page.samples:
                if sample.kind != "histogram":
                    continue
                key, counts = _key(page, sample), sample.values[:-1]
                buckets[key] = counts
                before = self._buckets.get(key, (0.0,) * len(counts))
                group = (sample.name, tuple(sorted(sample.labels.items())), sample.bounds)
                _add(ever.setdefault(group, [0.0] * len(counts)), counts)
                news = [max(0.0, now - then) for now, then in zip(counts, before, strict=True)]
                _add(lately.setdefault(group, [0.0] * len(counts)), news)
        self._buckets = buckets
        rows = []
        for group, counts in sorted(ever.items()):
            name, labels, bounds = group
            recent = lately[group]
            seen = recent if sum(recent) else counts
            per_s = sum(recent) / interval_s if interval_s else 0.0
            rows.append(
                LatencyRow(name, dict(labels), per_s, quantile(bounds, seen, 0.5), quantile(bounds, seen, 0.99))
            )
        return rows


def _state(page: PageView | None, beat_age_s: float, said: str) -> str:
    """What the supervisor says of an actor that it has stopped or that died, else what can be seen of its process."""
    if said in ("backoff", "fatal", "stopping", "exited") or page is None:
        return said or "starting"
    if page.state is not State.STOPPED and not os.path.exists(f"/proc/{page.pid}"):
        return "down"
    if page.state in (State.RUNNING, State.DRAINING) and beat_age_s > BEAT_STALE_S:
        return "hung"
    return page.state.name.lower()


def read_readers(path: Path, published: int) -> list[ReaderRow]:
    """The readers of a stream, their file only looked at."""
    rows = []
    try:
        data = path.read_bytes()
    except OSError:
        return rows
    for number in range(reader_file.LINES):
        at = reader_file.LINES_AT + number * reader_file.LINE_SIZE
        kind, pid, start, _, _, cursor, name = reader_file.LINE.unpack_from(data, at)
        if kind != ReaderKind.FREE:
            alive = process_start_time(pid) == start
            label = name.rstrip(b"\0").decode(errors="replace")
            rows.append(ReaderRow(label, ReaderKind(kind).name.lower(), alive, max(0, published - cursor)))
    return rows


def _key(page: PageView, sample: Sample) -> Key:
    return page.actor, page.pid, sample.name, tuple(sorted(sample.labels.items()))


def _rate(now: float, before: float | None, interval_s: float) -> float:
    """Growth per second; a counter that was not there before began at an unknown time."""
    return 0.0 if before is None or not interval_s else max(0.0, now - before) / interval_s


def _add(totals: list[float], more: Sequence[float]) -> None:
    for index, value in enumerate(more):
        totals[index] += value


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])  # utime, stime


def _rss_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_SIZE
    except (OSError, IndexError):
        return 0


def _cpus(pid: int) -> list[int]:
    try:
        return sorted(os.sched_getaffinity(pid)) if pid else []
    except OSError:
        return []
