"""What this machine can see, as signals that rules look at: name -> labels -> value.

Every counter and gauge of every actor is a signal under its own name, with the actor as a further label. Beside them:

| signal | labels | what |
|---|---|---|
| stream_silent_seconds | actor | since the last market data of a feed, or since it began where none has come |
| feed_records_per_minute | actor | published in the last minute by a feed that runs |
| actor_beat_age_seconds | actor | since the last heartbeat |
| api_p99_seconds, api_over_5s_per_minute | | of the requests of the last minute, over all fronts |
| rest_refusals_per_minute | exchange | 429 and 418 |
| insert_errors_per_minute, lost_rows_per_minute | | of the writer |
| snapshot_success_percent | exchange | book snapshots of the last 5 minutes |
| kafka_lag_events, kafka_error_percent | topic | errors of the last minute |
| topic_silent_seconds | topic | since its newest event; since its actor's start where none is known; not of alerts |
| claim_difference | figure, account, symbol | what producers claim less ours, without its sign |
| disk_used_percent, shared_memory_used_percent, memory_used_percent, cpu_used_percent | | of the host |
| risk_leverage, risk_var_95, risk_var_99, drawdown | account | as stated; a fraction; our own drawdown too |
| execution_slippage_bps, execution_latency_ms | symbol | worst of the last minute |
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ...ringbuf.page import PageView, Sample, State, quantile, read_pages
from .rules import Labels

Collected = dict[str, dict[Labels, float]]
MINUTE_S = 60.0
RATES = frozenset((  # signals over a window, which say little until it has passed
    "api_p99_seconds", "api_over_5s_per_minute", "rest_refusals_per_minute", "insert_errors_per_minute",
    "lost_rows_per_minute", "feed_records_per_minute", "snapshot_success_percent", "kafka_error_percent",
    "execution_slippage_bps", "execution_latency_ms",
))  # fmt: skip
SUMS = ("rest_refusals_per_minute", "insert_errors_per_minute", "lost_rows_per_minute", "feed_records_per_minute")
ALERTS_TOPIC = "alerts.v1"
OPEN_STATES = (State.STARTING, State.RUNNING)


def labels_of(**labels: str) -> Labels:
    return tuple(sorted(labels.items()))


class Rates:
    """Increases of counters over a window."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, Labels], deque[tuple[float, float]]] = {}

    def increase(
        self, name: str, labels: Labels, value: float, now: float, window_s: float = MINUTE_S, *,
        none_at: float | None = None,
    ) -> float:  # fmt: skip
        """By how much a counter grew within the window; a counter that began anew grew by what it has.

        Args:
            none_at: when a counter that was never seen was not there yet; None = it may have been, with any value.
        """
        points = self._seen.get((name, labels))
        if points is None:
            points = self._seen[name, labels] = deque([(none_at, 0.0)] if none_at is not None else ())
        if points and value < points[-1][1]:
            points.clear()
            points.append((now, 0.0))
        points.append((now, value))
        while len(points) > 2 and points[1][0] <= now - window_s:
            points.popleft()
        return value - points[0][1]

    def forget(self, actor: str) -> None:
        """The counters of an actor began anew, each when it is first needed."""
        for key in [key for key in self._seen if ("actor", actor) in key[1]]:
            del self._seen[key]


class Collector:
    """Takes the signals of one instance."""

    def __init__(self, folder: Path, data: Path, *, pages: Callable[[Path], Iterable[PageView]] = read_pages) -> None:
        self._folder, self._data, self._pages = folder, data, pages
        self._rates = Rates()
        self._cpu: tuple[float, float] | None = None
        self._lives: dict[str, tuple[int, int]] = {}  # actor -> pid and start of its page, at the last look
        self._known: set[str] = set()  # actors of whose counters those that are new were not there at the last look
        self._looked: float | None = None

    def collect(self, now: float) -> Collected:
        """All signals as they are; `now` is monotonic."""
        found: Collected = defaultdict(dict)
        pages = list(self._pages(self._folder))
        self._take_lives(pages)
        for page in pages:
            self._take_page(page, now, found)
        self._take_requests(pages, now, found)
        self._take_rates(pages, now, found)
        self._take_host(found)
        self._looked = now
        return dict(found)

    def _take_lives(self, pages: Iterable[PageView]) -> None:
        """Counters appear with what they first count, so one that is new on a page we know has grown from 0."""
        self._known = set(self._lives)
        for page in pages:
            life = page.pid, page.started_ns
            if self._lives.setdefault(page.actor, life) != life:
                self._lives[page.actor] = life
                self._rates.forget(page.actor)

    def _grown(self, name: str, page: PageView, sample: Sample, value: float, now: float, window_s: float) -> float:
        labels = labels_of(**{**sample.labels, "actor": page.actor})
        none_at = self._looked if page.actor in self._known else None
        return self._rates.increase(name, labels, value, now, window_s, none_at=none_at)

    def _take_page(self, page: PageView, now: float, found: Collected) -> None:
        for sample in page.samples:
            if sample.kind != "histogram":
                found[sample.name][labels_of(**{**sample.labels, "actor": page.actor})] = sample.values[0]
        actor = labels_of(actor=page.actor)
        if page.state in OPEN_STATES and page.beat_ns:
            found["actor_beat_age_seconds"][actor] = max(0.0, now - page.beat_ns / 1e9)
        if page.actor.startswith("feed-"):
            ages = [sample.values[0] for sample in page.samples if sample.name == "tickring_feed_data_age_seconds"]
            if ages:
                found["stream_silent_seconds"][actor] = max(ages)

    def _take_requests(self, pages: Iterable[PageView], now: float, found: Collected) -> None:
        counts: list[float] = []
        bounds: tuple[float, ...] = ()
        for page in pages:
            for sample in page.samples:
                if sample.name == "tickring_front_request_seconds":
                    bounds = sample.bounds
                    grown = [
                        self._grown(f"request{index}", page, sample, value, now, MINUTE_S)
                        for index, value in enumerate(sample.values[:-1])
                    ]
                    counts = [a + b for a, b in zip(counts, grown, strict=True)] if counts else grown
        if bounds:
            found["api_p99_seconds"][()] = quantile(bounds, counts, 0.99)
            slow = sum(count for count, bound in zip(counts, (*bounds, float("inf")), strict=True) if bound > 5.0)
            found["api_over_5s_per_minute"][()] = slow

    def _take_rates(self, pages: Iterable[PageView], now: float, found: Collected) -> None:
        grown: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))

        def grow(name: str, page: PageView, sample: Sample, labels: Labels, window_s: float = MINUTE_S) -> None:
            series = sample.name + str(window_s)
            grown[name][labels] += self._grown(series, page, sample, sample.values[0], now, window_s)

        for page in pages:
            for sample in page.samples:
                name, labels = sample.name, sample.labels
                exchange = labels_of(exchange=labels.get("exchange", ""))
                topic = labels_of(topic=labels.get("topic", ""))
                match name:
                    case "tickring_feed_rest_total" | "tickring_keeper_rest_total":
                        if labels.get("status") in ("429", "418"):
                            grow("rest_refusals_per_minute", page, sample, exchange)
                    case "tickring_storage_clickhouse_insert_errors_total":
                        grow("insert_errors_per_minute", page, sample, ())
                    case "tickring_storage_lost_rows_total":
                        grow("lost_rows_per_minute", page, sample, ())
                    case "tickring_feed_records_total":
                        if page.state is State.RUNNING:
                            grow("feed_records_per_minute", page, sample, labels_of(actor=page.actor))
                    case "tickring_feed_snapshots_total":
                        grow("snapshots", page, sample, exchange, 300.0)
                    case "tickring_feed_snapshots_failed_total":
                        grow("snapshots_failed", page, sample, exchange, 300.0)
                    case "tickring_kafka_consumed_total":
                        grow("consumed", page, sample, topic)
                    case "tickring_kafka_dead_letters_total":
                        grow("dead", page, sample, topic)
                    case "tickring_kafka_lag_events":
                        found["kafka_lag_events"][topic] = found["kafka_lag_events"].get(topic, 0.0) + sample.values[0]
                    case "tickring_kafka_last_event_seconds":
                        if labels["topic"] != ALERTS_TOPIC:  # no alerts are no alert
                            silent_since_s = sample.values[0] or page.started_ns / 1e9
                            found["topic_silent_seconds"][topic] = max(0.0, time.time() - silent_since_s)
                    case "tickring_portfolio_claim_difference":
                        found["claim_difference"][labels_of(**labels)] = abs(sample.values[0])
        for name in SUMS:
            found[name].update(grown[name])
        _percents(found["snapshot_success_percent"], grown["snapshots"], grown["snapshots_failed"], of_failed=False)
        _percents(found["kafka_error_percent"], grown["consumed"], grown["dead"], of_failed=True)

    def _take_host(self, found: Collected) -> None:
        for name, path in (("disk_used_percent", self._data), ("shared_memory_used_percent", self._folder)):
            try:
                usage = shutil.disk_usage(path)
            except OSError:
                continue
            found[name][()] = 100.0 * usage.used / usage.total
        memory = dict(_meminfo())
        if memory.get("MemTotal"):
            found["memory_used_percent"][()] = 100.0 * (1 - memory.get("MemAvailable", 0) / memory["MemTotal"])
        busy, whole = _cpu_times()
        if self._cpu is not None and whole > self._cpu[1]:
            found["cpu_used_percent"][()] = 100.0 * (busy - self._cpu[0]) / (whole - self._cpu[1])
        self._cpu = busy, whole


def _percents(
    target: dict[Labels, float], all_of_them: Mapping[Labels, float], some: Mapping[Labels, float], *, of_failed: bool
) -> None:
    """Failed among all, or succeeded among both, in percent, where anything happened."""
    for labels in {*all_of_them, *some}:
        good, bad = all_of_them.get(labels, 0.0), some.get(labels, 0.0)
        whole = good if of_failed else good + bad
        if whole > 0:
            target[labels] = 100.0 * (bad if of_failed else good) / whole


def _meminfo() -> Iterable[tuple[str, int]]:
    for line in Path("/proc/meminfo").read_text().splitlines()[:5]:
        name, _, value = line.partition(":")
        yield name, int(value.split()[0])


def _cpu_times() -> tuple[float, float]:
    """`(busy, all)` of all CPUs since boot."""
    values = [int(value) for value in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
    return sum(values) - values[3] - values[4], float(sum(values))
