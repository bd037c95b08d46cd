"""What a front worker counts of its WebSocket side, on its metrics page."""

from __future__ import annotations

from ....ringbuf import MetricsPage
from .outbox import Delivery

DELIVERY_BOUNDS_S = (50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 100e-3, 1.0)
GAP_REASONS = ("slow_consumer", "resume_expired", "upstream_gap", "epoch_changed")


class Meters:
    """The counters, made once."""

    def __init__(self, page: MetricsPage) -> None:
        counter, gauge = page.counter, page.gauge
        self._page = page
        self.connections = gauge("tickring_ws_connections", "open WebSocket connections")
        self.accepted = counter("tickring_ws_accepted_total", "WebSocket connections accepted")
        self.refused = counter("tickring_ws_refused_total", "WebSocket connections beyond the limit")
        self.sent = counter("tickring_ws_messages_sent_total", "frames written to clients")
        self.received = counter("tickring_ws_messages_received_total", "frames received from clients")
        self.bytes = counter("tickring_ws_bytes_sent_total", "bytes written to clients, before TLS")
        self.errors = counter("tickring_ws_errors_total", "error frames sent")
        self.failures = counter("tickring_ws_failures_total", "connections ended by an error of ours")
        self.snapshots = counter("tickring_ws_snapshots_total", "snapshot frames sent")
        self.slow_closes = counter("tickring_ws_slow_closes_total", "connections closed because they read too slowly")
        self.read_back = counter(
            "tickring_ws_read_back_total", "times a protected channel was read back from its ring for a slow reader"
        )
        self.dropped = {
            delivery.value: counter(
                "tickring_ws_dropped_frames_total", "frames dropped for slow readers", delivery=delivery.value
            )
            for delivery in Delivery
        }
        self.gaps = {
            reason: counter("tickring_ws_gaps_total", "gap frames sent", reason=reason) for reason in GAP_REASONS
        }
        self.wakes = counter("tickring_ws_wakes_total", "times the fan-out looked at its rings")
        self.rows = counter("tickring_ws_rows_total", "records read from rings for WebSocket channels")
        self.laps = counter("tickring_ws_laps_total", "times a ring overtook the fan-out")
        self.lapped = counter("tickring_ws_lapped_rows_total", "records that were overwritten before they were read")
        self.recovered = counter("tickring_ws_recovered_rows_total", "lapped records that the key's tail still held")
        self.lost = counter("tickring_ws_lost_rows_total", "lapped records of subscribed channels that were gone")
        self.lag = gauge("tickring_ws_ring_lag_rows", "most records waiting in a ring at the last look")
        self.followed = gauge("tickring_ws_rings_followed", "rings that somebody is subscribed to")
        self.delivery = page.histogram(
            "tickring_ws_delivery_seconds", "from receipt at the feed to the write to the clients", DELIVERY_BOUNDS_S
        )

    def gap(self, reason: str) -> None:
        self.gaps[reason].value += 1

    def closed(self, code: int) -> None:
        """Count a close that we began."""
        self._page.counter("tickring_ws_closes_total", "connections closed by the server", code=str(code)).value += 1
        if code == 4008:
            self.slow_closes.value += 1

    def subscribers(self, kind: str, number: int) -> None:
        """Show how many subscriptions there are to channels of a kind."""
        self._page.gauge("tickring_ws_subscriptions", "subscriptions by kind of channel", channel=kind).set(number)
