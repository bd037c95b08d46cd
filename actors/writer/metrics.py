"""What the writer counts. Names and labels: `tickring_storage_*`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ...ringbuf import MetricsPage
from ...ringbuf.page import Counter

INSERT_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_P = "tickring_storage_"


class Metrics:
    """Of one way to ClickHouse: the market data's, or with the label `lane` the desk's."""

    def __init__(self, page: MetricsPage, lane: str = "") -> None:
        self.labels = {"lane": lane} if lane else {}
        counter, gauge = partial(page.counter, **self.labels), partial(page.gauge, **self.labels)
        self.page = page
        self.up = gauge(
            _P + "clickhouse_up", "1 = batches go to ClickHouse, 0 = to the spool: it is away, or the spool is replayed"
        )
        self.insert_seconds = page.histogram(_P + "insert_seconds", "Time of one insert", INSERT_SECONDS, **self.labels)
        self.insert_bytes = counter(_P + "insert_bytes_total", "Bytes of Native blocks that ClickHouse acknowledged")
        self.insert_errors = counter(_P + "clickhouse_insert_errors_total", "Inserts without an acknowledgement")
        self.error_rate = gauge(_P + "error_rate_percent", "Inserts without an acknowledgement, of the last 100")
        self.repeated = counter(
            _P + "repeated_batches_total", "Batches whose acknowledgement was lost and which were there"
        )
        self.spooled_rows = counter(_P + "spooled_rows_total", "Rows that went to the spool")
        self.replayed_rows = counter(_P + "replayed_rows_total", "Rows of the spool that reached ClickHouse")
        self.spool_bytes = gauge(_P + "spool_bytes", "Bytes of the spool on disk")
        self.spool_limit = gauge(_P + "spool_limit_bytes", "Bound of the spool; at it the oldest rows yield")
        self.spool_batches = gauge(_P + "spool_batches", "Batches in the spool")
        self.spool_torn = counter(_P + "spool_torn_total", "Records of the spool that a crash cut short, cut off")
        self.spool_broken = counter(_P + "spool_broken_total", "Records of the spool with a wrong CRC, skipped")
        self.disk_errors = counter(_P + "disk_errors_total", "Writes to spool, journal or sample file that failed")
        self.refused = counter(_P + "refused_batches_total", "Batches that ClickHouse does not take, put aside")
        self.gaps_pending = gauge(_P + "gaps_pending", "Gaps that wait for room in the ledger on disk")
        self.gaps_unrecorded = counter(_P + "gaps_unrecorded_total", "Gaps that found no place in the ledger")
        self.malformed = counter(_P + "malformed_members_total", "Members of events left out: they could not be read")
        self.streams_refused = counter(_P + "streams_refused_total", "Streams whose layout this version does not know")
        self._outcomes: list[bool] = []

    def outcome(self, ok: bool) -> None:
        """One more insert was acknowledged, or not."""
        self._outcomes.append(ok)
        del self._outcomes[:-100]
        if not ok:
            self.insert_errors.inc()
        self.error_rate.set(100.0 * self._outcomes.count(False) / len(self._outcomes))

    def lost(self, stream: str, reason: str) -> Counter:
        """Rows that will not reach ClickHouse; each is in the gap ledger."""
        return self.page.counter(
            _P + "lost_rows_total", "Rows that are in the gap ledger", stream=stream, reason=reason
        )


@dataclass
class StreamMetrics:
    """Of one stream."""

    metrics: Metrics
    stream: str
    record: str
    _processed: list[Counter] = field(default_factory=list)
    _label_of_key: np.ndarray = field(default_factory=lambda: np.empty(0, np.intp))

    def __post_init__(self) -> None:
        page, labels = self.metrics.page, {"data_type": self.record, "stream": self.stream}
        self.received = page.counter(_P + "messages_received_total", "Rows read from the ring", **labels)
        self.failed = page.counter(_P + "messages_failed_total", "Rows that will not reach ClickHouse", **labels)
        self.batches = page.counter(_P + "batch_inserts_total", "Batches that ClickHouse acknowledged", **labels)
        self.queue_rows = page.gauge(_P + "batch_queue_size", "Rows in the ring that are not yet safe", **labels)
        self.queue_bytes = page.gauge(_P + "batch_queue_bytes", "Bytes of these rows", **labels)
        self.behind = page.gauge(
            _P + "unacknowledged_rows", "Rows behind the last that ClickHouse acknowledged", **labels
        )
        self.last_message = page.gauge(
            _P + "last_message_timestamp_seconds", "Receipt of the newest row read", **labels
        )

    def count(self, rows: np.ndarray, keys: Any) -> np.ndarray:
        """Rows by exchange and market type, for `add`.

        Args:
            rows: `(n,)` of the stream's dtype.
            keys: its key directory.
        """
        key_ids = rows["key_id"]
        if len(rows) and int(key_ids.max()) >= len(self._label_of_key):
            self._learn(keys)
        return np.bincount(self._label_of_key[key_ids]) if len(rows) else np.empty(0, np.intp)

    def add(self, counts: np.ndarray) -> None:
        """Count rows that are safe."""
        for label, count in enumerate(counts.tolist()):
            if count:
                self._processed[label].inc(count)
                self.received.inc(count)

    def _learn(self, keys: Any) -> None:
        labels: dict[tuple[str, str], int] = {}
        of_key = []
        keys.refresh()
        for key in keys:
            exchange, market_type = str(key.attributes.get("exchange", "")), str(key.attributes.get("market_type", ""))
            of_key.append(labels.setdefault((exchange, market_type), len(labels)))
        self._label_of_key = np.array(of_key, np.intp)
        self._processed = [
            self.metrics.page.counter(
                _P + "messages_processed_total", "Rows that are safe, in ClickHouse or in the spool",
                data_type=self.record, exchange=exchange, market_type=market_type,
            )
            for exchange, market_type in labels
        ]  # fmt: skip
