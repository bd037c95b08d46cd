"""Every alert and its state. Pure: times are given by the caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ...codecs.desk.canonical import Alert
from ...ringbuf.errors import TickringError

ACTIVE, ACKNOWLEDGED, RESOLVED = "ACTIVE", "ACKNOWLEDGED", "RESOLVED"
_MERGED = tuple(field for field in Alert.__struct_fields__ if field not in ("event_id", "timestamp", "variant"))


class UnknownAlert(TickringError):
    """No alert has that id."""


class Entry(msgspec.Struct, kw_only=True):
    """An alert with its history."""

    alert: Alert
    first_ns: int  # when it was first raised
    last_ns: int  # when it was last told of
    count: int = 1  # how often it was raised
    acknowledged_by: str = ""
    resolved_ns: int = 0
    changed_ns: int = 0  # when it was last published: our clock, but always above the time before

    def change(self, now_ns: int) -> None:
        """It is to be published. The newest state wins by this time, so a clock that was set back must not lower it."""
        self.changed_ns = max(self.changed_ns + 1, now_ns)


def _state_of(alert: Alert) -> str:
    return RESOLVED if alert.resolved else ACKNOWLEDGED if alert.acknowledged else ACTIVE


class AlertBook:
    """Alerts by id.

    Args:
        resolved_max: resolved alerts that are remembered; the oldest are forgotten first. An eighth more may stay for
            a while.
    """

    def __init__(self, entries: Iterable[Entry] = (), resolved_max: int = 10_000) -> None:
        self._entries = {entry.alert.alert_id: entry for entry in entries}
        self._resolved_max = resolved_max
        self._unlooked = 0  # changes since the resolved ones were last looked through
        self.repeated = 0  # tellings that changed nothing

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, alert_id: str) -> Entry | None:
        return self._entries.get(alert_id)

    def active(self) -> list[Entry]:
        """Those that are not resolved."""
        return [entry for entry in self if not entry.alert.resolved]

    def tell(self, alert: Alert) -> Entry | None:
        """What arrived on the topic; None when it changes nothing.

        The same alert may be told in several variants, and again and again: it is one. A later telling brings it up to
        date, an earlier one only fills in what was missing. An acknowledgement stays; so does a resolution, unless the
        alert is told again later.
        """
        entry = self._entries.get(alert.alert_id)
        if entry is None:
            state = msgspec.structs.replace(alert, status=_state_of(alert))
            return self._put(Entry(
                alert=state, first_ns=alert.timestamp, last_ns=alert.timestamp,
                resolved_ns=alert.timestamp if alert.resolved else 0,
            ))  # fmt: skip
        known = entry.alert
        later = alert.timestamp > entry.last_ns
        newer, older = (alert, known) if later else (known, alert)
        merged = {
            name: getattr(newer, name) if getattr(newer, name) not in (None, "") else getattr(older, name)
            for name in _MERGED
        }
        merged["acknowledged"] = known.acknowledged or alert.acknowledged
        together = alert.timestamp == entry.last_ns
        merged["resolved"] = alert.resolved if later else known.resolved or (together and alert.resolved)
        state = msgspec.structs.replace(known, **merged, timestamp=max(known.timestamp, alert.timestamp))
        state = msgspec.structs.replace(state, status=_state_of(state))
        entry.last_ns = max(entry.last_ns, alert.timestamp)
        if msgspec.structs.replace(state, timestamp=known.timestamp) == known:
            self.repeated += 1
            return None
        if known.resolved and not state.resolved:
            entry.count += 1
        entry.resolved_ns = (entry.resolved_ns or alert.timestamp) if state.resolved else 0
        entry.alert = state
        return entry

    def raise_own(self, alert: Alert, now_ns: int, again_after_ns: int) -> Entry | None:
        """A rule of ours holds; None when that is known. What comes back soon is the same alert, open again."""
        entry = self._entries.get(alert.alert_id)
        if entry is not None and not entry.alert.resolved:
            entry.last_ns = now_ns
            self.repeated += 1
            return None
        if entry is not None and now_ns - entry.resolved_ns < again_after_ns:
            entry.alert = msgspec.structs.replace(
                entry.alert, resolved=False, auto_resolved=False, resolution_time=None, resolution_action=None,
                status=ACTIVE, acknowledged=False, timestamp=now_ns, current_value=alert.current_value,
                message=alert.message, event_id=alert.event_id,
            )  # fmt: skip
            entry.last_ns, entry.resolved_ns, entry.count = now_ns, 0, entry.count + 1
            return entry
        return self._put(Entry(alert=alert, first_ns=now_ns, last_ns=now_ns))

    def acknowledge(self, alert_id: str, by: str, now_ns: int) -> Entry:
        """Somebody has seen it. Raises UnknownAlert."""
        entry = self._known(alert_id)
        if not entry.alert.acknowledged:
            entry.alert = msgspec.structs.replace(entry.alert, acknowledged=True)
            entry.alert = msgspec.structs.replace(entry.alert, status=_state_of(entry.alert))
            entry.acknowledged_by, entry.last_ns = by, max(now_ns, entry.last_ns)
        return entry

    def resolve(self, alert_id: str, action: str, now_ns: int, *, auto: bool = False) -> Entry:
        """It is over. Raises UnknownAlert."""
        entry = self._known(alert_id)
        if not entry.alert.resolved:
            entry.alert = msgspec.structs.replace(
                entry.alert, resolved=True, auto_resolved=auto, resolution_action=action, resolution_time=now_ns,
                status=RESOLVED,
            )  # fmt: skip
            entry.resolved_ns, entry.last_ns = now_ns, max(now_ns, entry.last_ns)
            self._forget()
        return entry

    def give_up(self, active_max: int, now_ns: int) -> list[Entry]:
        """Resolve the oldest beyond so many active ones: nobody looks at them, and they would be more for ever."""
        if len(self._entries) <= active_max:
            return []
        active = sorted(self.active(), key=lambda entry: entry.last_ns)
        oldest = active[: max(0, len(active) - active_max)]
        action = f"given up: more than {active_max} alerts are active"
        return [self.resolve(entry.alert.alert_id, action, now_ns, auto=True) for entry in oldest]

    def _known(self, alert_id: str) -> Entry:
        entry = self._entries.get(alert_id)
        if entry is None:
            raise UnknownAlert(f"no alert {alert_id[:200]!r}")
        return entry

    def _put(self, entry: Entry) -> Entry:
        self._entries.pop(entry.alert.alert_id, None)
        self._entries[entry.alert.alert_id] = entry
        self._forget()
        return entry

    def _forget(self) -> None:
        self._unlooked += 1
        if len(self._entries) <= self._resolved_max or self._unlooked <= self._resolved_max // 8:
            return
        self._unlooked = 0
        resolved = [entry for entry in self if entry.alert.resolved]
        if len(resolved) > self._resolved_max:
            resolved.sort(key=lambda entry: entry.resolved_ns)
            for entry in resolved[: len(resolved) - self._resolved_max]:
                del self._entries[entry.alert.alert_id]
