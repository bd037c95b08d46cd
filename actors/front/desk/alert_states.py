"""The newest state of each alert that memory holds."""

from __future__ import annotations

from collections.abc import Mapping

from ....codecs.desk.canonical import Alert
from ...recent import Recent
from .streams import DeskStreams


class AlertStates:
    """Follows the changes of alerts. The alerts actor tells a new stream everything it knows."""

    def __init__(self, streams: DeskStreams) -> None:
        self._streams = streams
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
        for item in recent.since(self._next):
            alert = item.value
            self._next = item.sequence + 1
            self._newest.pop(alert.alert_id, None)
            self._newest[alert.alert_id] = alert
            self._active.pop(alert.alert_id, None)
            if not alert.resolved:
                self._active[alert.alert_id] = alert

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
