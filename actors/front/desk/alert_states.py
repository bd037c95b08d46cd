"""The newest state of each alert that memory holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ....codecs.desk.canonical import Alert
from ....codecs.desk.reading import DEFAULT_ACCOUNT
from ...alerts.store import read_active
from ...recent import Recent
from .streams import DeskStreams


class AlertStates:
    """Follows the changes of alerts.

    The alerts actor tells a new stream everything it knows. What is active for longer than the stream goes back, or
    changed while nobody looked, is in the actor's file.

    Args:
        data: the instance's data folder; None = there is none to read.

    Attributes:
        account: of alerts that name none.
    """

    def __init__(self, streams: DeskStreams, data: Path | None = None) -> None:
        self._streams, self._data = streams, data
        self.account = DEFAULT_ACCOUNT
        self._recent: Recent[Alert] | None = None
        self._next = 0
        self._newest: dict[str, Alert] = {}
        self._active: dict[str, Alert] = {}

    def _refresh(self) -> None:
        recent = self._streams.alerts()
        if recent is not self._recent:
            self._recent, self._next = recent, 0
            self._newest, self._active = {}, {}
        if recent is None or recent.version == self._next:
            return
        version, items = recent.version, recent.since(self._next)
        certain = 0  # from this sequence on, items tell more than the file
        if not items or items[0].sequence > self._next or recent.unbroken > self._next:
            certain = recent.unbroken if self._take_kept() else 0
        self._next = max(self._next, version)
        for item in items:
            alert = item.value
            self._next = max(self._next, item.sequence + 1)
            if item.sequence < certain and (alert.alert_id in self._active or not alert.resolved):
                continue
            self._newest.pop(alert.alert_id, None)
            self._newest[alert.alert_id] = alert
            self._active.pop(alert.alert_id, None)
            if not alert.resolved:
                self._active[alert.alert_id] = alert

    def _take_kept(self) -> bool:
        """Changes were missed: what is active says the file. False where there is none."""
        kept = read_active(self._data) if self._data is not None else None
        if kept is None:
            return False
        active, account = kept
        self.account = account or self.account
        for alert_id in self._active.keys() - active.keys():
            del self._newest[alert_id]  # it is over, and ClickHouse knows how it ended
        self._newest = {**active, **self._newest, **active}
        self._active = active
        return True

    def all(self) -> Mapping[str, Alert]:
        """Every alert by its id, the one that changed last at the end."""
        self._refresh()
        return self._newest

    def active(self) -> list[Alert]:
        """Those that are not resolved."""
        self._refresh()
        return list(self._active.values())

    def reaches(self, start_ns: int) -> bool:
        """Whether everything that was raised since then is here, as far as memory can tell."""
        self._refresh()
        return self._recent is not None and (self._recent.whole or self._recent.reaches(start_ns))
