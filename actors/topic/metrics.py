"""What a topic's actor shows: metrics, and the detail of its page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...ringbuf import MetricsPage
from .rings import TopicRings


@dataclass
class Progress:
    """Where the consumer stands."""

    state: str = "starting"  # connecting, resuming, consuming, held, away, missing, unauthorized
    reason: str = ""
    consumed: int = 0  # events that the broker gave us
    lost: int = 0  # events that the broker had deleted before we read them
    last_event_ns: int = 0  # the broker's time of the newest event, of an earlier life too; 0 = none
    held_s: float = 0.0  # time waited for durable readers
    detached: int = 0
    commits: int = 0
    failures: dict[str, int] = field(default_factory=dict)  # what failed: kind -> times
    ends: dict[int, int] = field(default_factory=dict)  # partition -> end of the broker's log; missing = not known
    stuck: dict[int, str] = field(default_factory=dict)  # partition -> why it is not read

    def fail(self, kind: str) -> None:
        self.failures[kind] = self.failures.get(kind, 0) + 1


class TopicMetrics:
    """The metrics of one topic on its actor's page."""

    def __init__(self, page: MetricsPage, topic: str) -> None:
        self._page, self._topic = page, topic

    def _count(self, name: str, help: str, value: float, **labels: str) -> None:
        self._page.counter(f"tickring_kafka_{name}_total", help, topic=self._topic, **labels).value = value

    def _gauge(self, name: str, help: str, value: float, **labels: str) -> None:
        self._page.gauge(f"tickring_kafka_{name}", help, topic=self._topic, **labels).set(value)

    def update(self, rings: TopicRings, progress: Progress) -> None:
        """Copy what is counted to the page."""
        tally = rings.tally
        self._count("consumed", "Events read from the topic.", progress.consumed)
        self._count("published", "Events published in shared memory.", tally.processed)
        self._count("items", "Fills or statements published.", tally.items)
        self._count("repeated", "Events whose event_id had come before.", tally.repeated)
        self._count("overflowed", "Items under the account *overflow*: the directory is full.", tally.overflowed)
        self._count("misnamed_headers", "Events with a header whose name is no UTF-8.", tally.misnamed)
        for reason, n in tally.dead_by_reason.items():
            self._count("dead_letters", "Events that could not be understood.", n, reason=reason)
        for kind, n in progress.failures.items():
            self._count("errors", "Failures, by kind; each was tried again.", n, kind=kind)
        self._count("lost", "Events that the broker had deleted before they were read.", progress.lost)
        self._count("commits", "Offsets committed, for lag tools.", progress.commits)
        self._count("held_seconds", "Time waited for durable readers.", progress.held_s)
        self._count("detached", "Dead durable readers given up.", progress.detached)
        self._gauge("up", "1 while events can be read.", float(progress.state in ("consuming", "held")))
        self._gauge("last_event_seconds", "The broker's time of the newest event.", progress.last_event_ns / 1e9)
        lags = self.lags(rings, progress)
        for partition, lag in lags.items():
            self._gauge("lag_events", "Events in the topic that are not read yet.", lag, partition=str(partition))
        for partition in rings.resume:
            stuck = float(partition in progress.stuck)
            self._gauge("stuck", "1 for a partition that cannot be read.", stuck, partition=str(partition))
        dead, failed = sum(tally.dead_by_reason.values()), sum(progress.failures.values())
        detail: dict[str, Any] = {
            "topic": self._topic, "state": progress.state, "reason": progress.reason[:500],
            "messages_consumed": progress.consumed, "messages_processed": tally.processed, "errors": dead + failed,
            "dead_letters": dict(tally.dead_by_reason.most_common(20)), "last_message_ns": progress.last_event_ns,
            "lag": sum(lags.values()) if lags else -1, "partitions": len(rings.resume),
            "stuck": {str(partition): why[:200] for partition, why in list(progress.stuck.items())[:5]},
        }  # fmt: skip
        self._page.detail = detail

    @staticmethod
    def lags(rings: TopicRings, progress: Progress) -> dict[int, int]:
        """Partition -> events not read yet."""
        return {p: max(0, end - (rings.resume.get(p) or 0)) for p, end in progress.ends.items()}
