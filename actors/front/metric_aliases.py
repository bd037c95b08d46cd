"""Our metrics under the names that other collectors and dashboards have for them, for who has dashboards of those.

`[front] metrics_aliases = true` adds them to /metrics. Each old name is made of one of our families: series that agree
in the labels kept are folded into one. Labels that we do not have are left out, so a query that sums over them holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ...codecs.book import BookState
from ...codecs.records import BOOK_TOP
from ...ringbuf import StreamReader
from ...ringbuf.page import Sample
from .stamps import NS

Series = tuple[Mapping[str, str], tuple[float, ...], tuple[float, ...]]  # labels, values, bounds
Family = tuple[str, str, list[Series]]  # kind, help, series

_VALUES = {"market_type": {"option": "options"}}  # label -> our value -> theirs


@dataclass(frozen=True)
class Alias:
    """One old name.

    Attributes:
        source: our family.
        labels: their label to ours; the rest of ours are folded away.
        fixed: labels with one value.
        fold: of the values of series that become one; histograms are always added up.
        kind: as its dashboards know it.
    """

    name: str
    source: str
    labels: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    fold: Callable[[float, float], float] = float.__add__
    kind: str = "gauge"
    only: tuple[str, str] | None = None  # one of our labels and the value it must have


def _same(*labels: str) -> dict[str, str]:
    return {label: label for label in labels}


_EXCHANGE = _same("exchange")
_M, _S, _OURS = "marketprism_", "marketprism_storage_", "tickring_storage_"
_DATA_DISK = ("place", "data")

ALIASES: tuple[Alias, ...] = (
    # a market data collector
    Alias(_M + "uptime_seconds", "uptime_seconds"),
    Alias(_M + "cpu_usage_percent", "tickring_host_cpu_percent"),
    Alias(_M + "memory_usage_percent", "tickring_host_memory_percent"),
    Alias(_M + "memory_usage_bytes", "tickring_actor_resident_bytes"),
    Alias(_M + "process_rss_bytes", "tickring_actor_resident_bytes"),
    Alias(_M + "thread_count", "tickring_actor_threads"),
    Alias(_M + "disk_usage_percent", "tickring_host_disk_percent", only=_DATA_DISK),
    Alias(_M + "active_symbols_count", "tickring_active_instruments"),
    Alias(_M + "orderbook_resync_count", "tickring_feed_resyncs_total", _EXCHANGE),
    Alias(_M + "orderbook_reconnections_count", "tickring_feed_disconnects_total", _EXCHANGE),
    Alias(
        _M + "collector_errors_total", "tickring_feed_rejected_total",
        {**_EXCHANGE, "code": "reason"}, kind="counter",
    ),
    Alias(
        _M + "snapshot_requests_total", "tickring_feed_snapshots_total",
        _EXCHANGE, {"status": "success"}, kind="counter",
    ),
    Alias(
        _M + "snapshot_requests_total", "tickring_feed_snapshots_failed_total",
        _EXCHANGE, {"status": "error"}, kind="counter",
    ),
    Alias(_M + "websocket_connected", "tickring_feed_connected", _EXCHANGE, fold=min),
    Alias(_M + "websocket_reconnections_total", "tickring_feed_disconnects_total", _EXCHANGE, kind="counter"),
    Alias(_M + "websocket_messages_received_total", "tickring_feed_frames_total", _EXCHANGE, kind="counter"),
    Alias(
        _M + "errors_total", "tickring_feed_rejected_total",
        {"component": "actor", "error_type": "reason"}, kind="counter",
    ),
    Alias(
        _M + "data_validation_errors_total", "tickring_feed_rejected_total",
        {**_EXCHANGE, "validation_type": "reason"}, kind="counter",
    ),
    Alias(_M + "request_duration_seconds", "tickring_front_request_seconds", kind="histogram"),
    # its storage service
    Alias(_S + "messages_received_total", _OURS + "messages_received_total", kind="counter"),
    Alias(
        _S + "messages_processed_total", _OURS + "messages_processed_total",
        _same("data_type", "exchange", "market_type"), kind="counter",
    ),
    Alias(_S + "messages_failed_total", _OURS + "messages_failed_total", kind="counter"),
    Alias(_S + "batch_inserts_total", _OURS + "batch_inserts_total", kind="counter"),
    Alias(_S + "batch_queue_size", _OURS + "batch_queue_size", _same("data_type")),
    Alias(_S + "batch_queue_bytes", _OURS + "batch_queue_bytes"),
    Alias(_S + "clickhouse_insert_errors_total", _OURS + "clickhouse_insert_errors_total", kind="counter"),
    Alias(_S + "error_rate_percent", _OURS + "error_rate_percent", fold=max),
    Alias(_S + "last_message_timestamp_seconds", _OURS + "last_message_timestamp_seconds", fold=max),
    # a trading desk's dashboard
    Alias("http_requests_total", "tickring_front_requests_total", kind="counter"),
    Alias("http_requests_errors_total", "tickring_front_errors_total", {"status_code": "status"}, kind="counter"),
    Alias("http_request_duration_seconds", "tickring_front_request_seconds", kind="histogram"),
    Alias("websocket_connections_active", "tickring_ws_connections"),
    Alias("system_cpu_usage_percent", "tickring_host_cpu_percent"),
    Alias("system_memory_usage_percent", "tickring_host_memory_percent"),
    Alias("system_disk_usage_percent", "tickring_host_disk_percent", only=_DATA_DISK),
    Alias("service_uptime_seconds", "uptime_seconds"),
)  # fmt: skip


def aliased(families: Mapping[str, Family], readers: Iterable[StreamReader]) -> dict[str, Family]:
    """The families under their old names; of our own nothing is changed.

    Args:
        families: ours.
        readers: of all streams, for what is told of each symbol's book.
    """
    found: dict[str, Family] = {}
    for alias in ALIASES:
        source = families.get(alias.source)
        if source is not None:
            family = found.setdefault(alias.name, (alias.kind, f"As {alias.source}", []))
            family[2].extend(_folded(alias, source[2]))
    for sample in _books(readers):
        found.setdefault(sample.name, (sample.kind, sample.help, []))[2].append((sample.labels, sample.values, ()))
    return found


def _folded(alias: Alias, series: Iterable[Series]) -> list[Series]:
    rows: dict[tuple[tuple[str, str], ...], tuple[list[float], tuple[float, ...]]] = {}
    fold = float.__add__ if alias.kind == "histogram" else alias.fold
    for labels, values, bounds in series:
        if alias.only is not None and labels.get(alias.only[0]) != alias.only[1]:
            continue
        kept = {theirs: labels[ours] for theirs, ours in alias.labels.items() if ours in labels}
        kept = {**{label: _VALUES.get(label, {}).get(value, value) for label, value in kept.items()}, **alias.fixed}
        identity = tuple(sorted(kept.items()))
        row = rows.get(identity)
        if row is None:
            rows[identity] = ([float(value) for value in values], bounds)
        elif row[1] == bounds:
            row[0][:] = map(fold, row[0], map(float, values))
    return [(dict(identity), tuple(values), bounds) for identity, (values, bounds) in rows.items()]


def _books(readers: Iterable[StreamReader]) -> Iterable[Sample]:
    """What is told of each symbol's order book."""
    for reader in readers:
        if reader.record != BOOK_TOP.name:
            continue
        for key in reader.keys:
            rows = reader.last(key.key_id, 1)
            if not len(rows):
                continue
            labels = {"exchange": key.attributes.get("exchange", ""), "symbol": key.attributes.get("instrument", "")}
            events, at_s = float(reader.count(key.key_id)), int(rows["ts_recv_ns"][0]) / NS
            synced = float(int(rows["state"][0]) == BookState.SYNCED)
            told = "Events of the order book"
            yield Sample("counter", _M + "orderbook_updates_total", told, labels, (events,))
            yield Sample("gauge", _M + "last_orderbook_update_timestamp", "Receipt of the last", labels, (at_s,))
            yield Sample("gauge", _M + "orderbook_sync_status", "1 = the book can be trusted", labels, (synced,))
