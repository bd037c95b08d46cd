"""What is counted of requests: all together, and by endpoint, which tells what is slow and what fails."""

from __future__ import annotations

from typing import NamedTuple

from ...ringbuf import MetricsPage
from ...ringbuf.page import Histogram
from .endpoints import Endpoint

# 0.2, 0.5 and 5 s are what alerts ask of them
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.5, 5.0)
NO_ENDPOINT = {"endpoint": "none", "method": "none"}  # of paths that are none of ours: what clients write is no label


class Meter(NamedTuple):
    """The answers of one endpoint. Its series begin with the first one, so that a scrape has only those in use."""

    labels: dict[str, str]
    seconds: Histogram


class Served:
    """Counts answers. The totals are there from the start: a rate of them misses nothing."""

    def __init__(self, page: MetricsPage) -> None:
        self._page = page
        self._requests = page.counter("tickring_front_requests_total", "Requests answered")
        self._errors = {
            kind: page.counter("tickring_front_errors_total", "Requests refused or failed", status=kind)
            for kind in ("4xx", "5xx")
        }
        self._seconds = page.histogram("tickring_front_request_seconds", "Time spent on an answer", SECONDS)
        self._bytes = page.counter("tickring_front_sent_bytes_total", "Bytes of responses")

    def meter(self, endpoint: Endpoint | None) -> Meter:
        """Of an endpoint; None = the path is none of ours."""
        labels = NO_ENDPOINT if endpoint is None else {"endpoint": endpoint.path, "method": endpoint.method}
        told = "Time spent on an answer, by endpoint"
        return Meter(labels, self._page.histogram("tickring_front_endpoint_seconds", told, SECONDS, **labels))

    def answered(self, meter: Meter, seconds: float, status: int, size: int) -> None:
        """An answer of `size` bytes goes out."""
        self._requests.value += 1
        self._bytes.value += size
        self._seconds.observe(seconds)
        meter.seconds.observe(seconds)
        if status >= 400:
            self._fail(meter.labels, status)

    def malformed(self, status: int) -> None:
        """The answer to bytes that are no request, which is not counted as one."""
        self._fail(NO_ENDPOINT, status)

    def _fail(self, labels: dict[str, str], status: int) -> None:
        self._errors["5xx" if status >= 500 else "4xx"].value += 1
        told = "Requests refused or failed, by endpoint"
        self._page.counter("tickring_front_endpoint_errors_total", told, **labels, status=str(status)).inc()
