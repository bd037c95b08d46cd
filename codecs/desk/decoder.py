"""From a topic's bytes to canonical events: the one place that knows which topic is decoded by what.

The tables of a topic are made of what `decoder` gives; the live stream of fills of what `Executions.live` does, which
reads a message by the same functions and refuses the same messages.
"""

from __future__ import annotations

from collections.abc import Callable

from .alerts import ALERTS
from .canonical import TOPICS, Event
from .executions import Executions
from .families import Family, Statements
from .health import HEALTH
from .others import MARKET_DATA, POSITION_UPDATES, TRADE_SIGNALS
from .performance import PERFORMANCE
from .reading import Defaults, event_id
from .risk import RISK

EXECUTION_REPORTS = "exec.reports.v1"
FAMILIES: dict[str, Family] = {
    "risk.metrics.v1": RISK,
    "alerts.v1": ALERTS,
    "system.health.v1": HEALTH,
    "strategy.performance.v1": PERFORMANCE,
    "trade.signals.v1": TRADE_SIGNALS,
    "position.updates.v1": POSITION_UPDATES,
    "market.data.v1": MARKET_DATA,
}
assert {EXECUTION_REPORTS, *FAMILIES} == {topic for topic, event in TOPICS.items() if event is not None}

Decoder = Callable[[bytes, int, int, int], Event]


def decoder(topic: str, defaults: Defaults = Defaults()) -> Decoder:  # noqa: B008
    """The decoder of a topic: `(value, partition, offset, broker_ms) -> Event`. It is for one thread.

    `partition` and `offset` make the identity of an event that has none of its own; `broker_ms` is the broker's time,
    UNIX ms, which is the time of events of topics without a schema: those are an `Event` and nothing more.

    The callable raises `Undecidable`, and nothing else, for whatever bytes.

    Raises:
        ValueError: no topic of the desk.
    """
    if topic not in TOPICS:
        raise ValueError(f"topic {topic!r} is none of the desk's: {', '.join(TOPICS)}")
    if topic == EXECUTION_REPORTS:
        return Executions(topic, defaults).full
    if topic in FAMILIES:
        return Statements(FAMILIES[topic], topic, defaults).full

    def raw(value: bytes, partition: int, offset: int, broker_ms: int) -> Event:
        return Event(
            event_id=event_id(None, topic, partition, offset), timestamp=broker_ms * 1_000_000, variant=""
        )  # fmt: skip

    return raw
