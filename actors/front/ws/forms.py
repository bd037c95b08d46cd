"""What the frames of a desk channel look like to the clients of other services: DipMaster's API and its dashboard.

Numbers are JSON numbers, times RFC 3339. `v1` needs no form: its frames are the engine's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ....codecs.desk.canonical import Alert, SystemHealth
from ....codecs.desk.money import amount_number
from ....codecs.record import Flag
from ..stamps import rfc3339
from .desk_channels import ALERTS, HEALTH
from .desk_events import told
from .names import Filters, passes
from .wire import Frame, Joined, joined

if TYPE_CHECKING:
    from .desk_events import Entry, EventTopic
    from .desk_state import Standing, StateTopic
    from .topics import Topic

Made = tuple[Frame, int, int]  # a frame, and the first and last seq in it
CRITICAL = "CRITICAL"
_NOT_COUNTED = int(Flag.VOID | Flag.REPEATED)
_NS_PER_MS = 1_000_000


class Form:
    """How a dialect shows what a channel carries. One object for all its connections, so that frames are shared."""

    def events(self, topic: EventTopic, entries: list[Entry], filters: Filters | None) -> list[Made]:
        """Frames of some records. Those that were withdrawn, or said before, are left out."""
        counted = [entry for entry in entries if not entry.flags & _NOT_COUNTED]
        return list(self._events(topic, counted, filters)) if counted else []

    def _events(self, topic: EventTopic, entries: list[Entry], filters: Filters | None) -> Iterator[Made]:
        raise NotImplementedError

    def state(self, topic: StateTopic, standing: Standing, filters: Filters | None) -> Frame | None:
        """The frame of a state."""
        raise NotImplementedError

    def system(self, topic: Topic, seq: int, event: dict[str, Any]) -> Frame:
        """The frame of an event of this daemon."""
        raise NotImplementedError


def plain(entry: Entry) -> dict[str, Any]:
    """Everything an event says."""
    return told(entry.value, amount_number, rfc3339)


def now_text() -> str:
    return rfc3339(time.time_ns())


# -- DipMaster's API ------------------------------------------------------------------------------------------------


class ApiForm(Form):
    """``{"type", "timestamp", "data"}``, one event in each."""

    def frame(self, topic: Topic, kind: str, timestamp: str, data: Any, seq: int) -> Frame:
        body = {"type": kind, "timestamp": timestamp, "data": data, "channel": topic.name, "seq": seq}
        return Frame(body, compress_from=topic.compress_from)

    def _events(self, topic: EventTopic, entries: list[Entry], filters: Filters | None) -> Iterator[Made]:
        for entry in entries:
            seq, stamp = entry.seq, rfc3339(entry.value.timestamp)
            if topic.kind == ALERTS:
                data = api_alert(entry.value)
                frame = self.frame(topic, "alert", stamp, data, seq)
                if needs_action(entry.value):
                    urgent = {**data, "urgent": True, "requires_action": True}
                    frame = Joined([frame, self.frame(topic, "critical_alert", stamp, urgent, seq)])
            else:
                data = api_health(entry.value) if topic.kind == HEALTH else plain(entry)
                frame = self.frame(topic, f"{topic.kind}_update", stamp, data, seq)
            yield frame, seq, seq

    def state(self, topic: StateTopic, standing: Standing, filters: Filters | None) -> Frame:
        return self.frame(topic, f"{topic.kind}_update", now_text(), topic.shapes.api(standing), standing.seq)

    def system(self, topic: Topic, seq: int, event: dict[str, Any]) -> Frame:
        return self.frame(topic, "system_update", event["timestamp"], event, seq)


def needs_action(alert: Alert) -> bool:
    """Whether an alert is critical, and nobody has looked after it yet."""
    return alert.severity == CRITICAL and not (alert.resolved or alert.acknowledged)


def api_alert(alert: Alert) -> dict[str, Any]:
    """An alert as DipMaster's API has it, with what became of it."""
    shown = told(alert, amount_number, rfc3339)
    context = shown.get("context")
    return {
        "alert_id": alert.alert_id, "severity": alert.severity, "code": alert.code, "title": alert.title,
        "message": alert.message, "source": alert.source or "", "symbol": alert.symbol,
        "timestamp": rfc3339(alert.timestamp), "context": context if isinstance(context, dict) else {},
        "auto_resolved": alert.auto_resolved, "status": alert.status, "acknowledged": alert.acknowledged,
        "resolved": alert.resolved, "account_id": alert.account_id,
    }  # fmt: skip


def api_health(health: SystemHealth) -> dict[str, Any]:
    """Health as DipMaster's API has it; what was not stated is 0."""
    return {
        "overall_status": health.overall_status, "strategy_id": health.strategy_id or "",
        "cpu_usage": health.total_cpu_usage or 0.0, "memory_usage": health.total_memory_usage or 0.0,
        "active_connections": health.active_connections or 0, "total_positions": health.total_positions or 0,
        "daily_trades": health.daily_trades or 0, "daily_pnl": amount_number(health.daily_pnl or 0),
        "market_data_delay_ms": health.market_data_delay_ms or 0,
        "execution_delay_ms": health.execution_delay_ms or 0,
        "components": [
            {
                "name": one.name, "status": one.status, "cpu_usage": one.cpu_usage or 0.0,
                "memory_usage": one.memory_usage or 0.0, "error_rate": one.error_rate or 0.0,
                "response_time_ms": one.response_time_ms or 0.0,
            }
            for one in health.components
        ],
        "timestamp": rfc3339(health.timestamp),
    }  # fmt: skip


# -- the dashboard --------------------------------------------------------------------------------------------------


class DashboardForm(Form):
    """``{"type": "data", "channel", "data", "timestamp", "priority"}``: what came together, in one frame."""

    def frame(self, topic: Topic, data: Any, seq: int, *, high: bool = False) -> Frame:
        body = {
            "type": "data", "channel": topic.kind, "data": data, "timestamp": now_text(),
            "priority": "high" if high else "normal", "seq": seq,
        }  # fmt: skip
        return Frame(body, compress_from=topic.compress_from)

    def _events(self, topic: EventTopic, entries: list[Entry], filters: Filters | None) -> Iterator[Made]:
        together: list[dict[str, Any]] = []
        first = last = 0
        for entry in entries:
            record = plain(entry)
            if filters is not None and not passes(filters, record):
                continue
            alone = topic.kind == ALERTS and needs_action(entry.value)
            if together and alone:
                yield self.frame(topic, together, last), first, last
                together = []
            if alone:
                yield self.frame(topic, [record], entry.seq, high=True), entry.seq, entry.seq
                continue
            first = entry.seq if not together else first
            last = entry.seq
            together.append(record)
        if together:
            yield self.frame(topic, together, last), first, last

    def state(self, topic: StateTopic, standing: Standing, filters: Filters | None) -> Frame | None:
        records = topic.shapes.dashboard(standing)
        if filters is not None:
            records = [record for record in records if passes(filters, record)]
        frames = [self.frame(topic, part, standing.seq) for part in topic.shapes.cut(records)]
        return joined(frames) if records else None

    def system(self, topic: Topic, seq: int, event: dict[str, Any]) -> Frame:
        return self.frame(topic, event, seq, high=True)


API_FORM, DASHBOARD_FORM = ApiForm(), DashboardForm()
