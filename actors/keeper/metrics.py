"""What the keeper counts: `tickring_keeper_*`."""

from __future__ import annotations

from ...ringbuf import MetricsPage

_P = "tickring_keeper_"


class Metrics:
    def __init__(self, page: MetricsPage) -> None:
        self._page = page
        self.bars = page.counter(_P + "bars_total", "Bars fetched from the exchange's REST and stored")
        self.settlements = page.counter(_P + "settlements_total", "Settled funding rates fetched and stored")
        self.working = page.gauge(_P + "ranges_in_work", "Ranges of bars that are being fetched")
        self.temporary = page.gauge(_P + "temporary_ranges", "Temporary ranges that are kept")
        self.removed = page.counter(_P + "temporary_removed_total", "Temporary ranges whose bars were taken away")
        self.bad_requests = page.counter(_P + "bad_requests_total", "Lines on the socket that were no request")

    def asked(self, command: str, outcome: str) -> None:
        """One request on the socket was answered."""
        name = _P + "requests_total"
        self._page.counter(name, "Requests on the socket, by outcome", command=command, outcome=outcome).inc()

    def failed(self, at: str) -> None:
        """Something was not fetched or not stored; `at` is exchange, clickhouse or disk."""
        self._page.counter(_P + "failures_total", "Work that ended because somebody was away", at=at).inc()

    def count_rest(self, status: int) -> None:
        """One more REST answer; 0 = none came."""
        name, label = _P + "rest_total", str(status) if status else "none"
        self._page.counter(name, "REST requests, by HTTP status", status=label).inc()
