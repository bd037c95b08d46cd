"""Our metrics under the names that other collectors and dashboards have for them, for who has dashboards of those.

`[front] metrics_aliases = true` adds them to /metrics. Each old name is made of one of our families: series that agree
in the labels kept are folded into one. Labels that we do not have are left out, so a query that sums over them holds.
A name is left out where nothing of ours says the same: there is no queue behind a socket whose length could be told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...codecs.book import BookState
from ...codecs.record import Flag
from ...codecs.records import BOOK_TOP
from ...ringbuf import StreamReader
from ...ringbuf.page import Sample
from ..latency import NEWEST_LEVELS, SOCKET_TO_RING, channel_of
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
        kind: as its dashboards know it; a counter of a histogram is the number of its observations.
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
_EXCHANGE_MARKET = _same("exchange", "market_type")
_M, _S, _OURS = "marketprism_", "marketprism_storage_", "tickring_storage_"
_DATA_DISK = ("place", "data")
_PROCESSED = "tickring_kafka_published_total"
# records that the messages of a WebSocket end in
_STREAMED = frozenset(("trade", "quote", "book_level", "kline_open", "ticker", "mark_price", "liquidation"))
_ASKED_FOR = int(Flag.BACKFILL | Flag.SNAPSHOT | Flag.ROLLED_UP)  # what came over no WebSocket

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
        _M + "orderbook_update_duration_seconds", SOCKET_TO_RING, _EXCHANGE, kind="histogram",
        only=("channel", "book"),
    ),
    Alias(
        _M + "collector_errors_total", "tickring_feed_rejected_total",
        {**_EXCHANGE, "code": "reason"}, kind="counter",
    ),
    Alias(
        _M + "snapshot_requests_total", "tickring_feed_snapshots_total",
        _EXCHANGE_MARKET, {"status": "success"}, kind="counter",
    ),
    Alias(
        _M + "snapshot_requests_total", "tickring_feed_snapshots_failed_total",
        _EXCHANGE_MARKET, {"status": "error"}, kind="counter",
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
    Alias(
        _M + "request_duration_seconds", "tickring_front_endpoint_seconds", _same("endpoint", "method"),
        kind="histogram",
    ),
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
    Alias("http_requests_total", "tickring_front_endpoint_seconds", _same("endpoint"), kind="counter"),
    Alias(
        "http_requests_errors_total", "tickring_front_endpoint_errors_total",
        {**_same("endpoint"), "status_code": "status"}, kind="counter",
    ),
    Alias("http_request_duration_seconds", "tickring_front_endpoint_seconds", _same("endpoint"), kind="histogram"),
    Alias("websocket_connections_active", "tickring_ws_connections"),
    Alias("system_cpu_usage_percent", "tickring_host_cpu_percent"),
    Alias("system_memory_usage_percent", "tickring_host_memory_percent"),
    Alias("system_disk_usage_percent", "tickring_host_disk_percent", only=_DATA_DISK),
    Alias("service_uptime_seconds", "uptime_seconds"),
    Alias("kafka_messages_consumed_total", "tickring_kafka_consumed_total", _same("topic"), kind="counter"),
    Alias("exec_reports_processed_total", _PROCESSED, kind="counter", only=("topic", "exec.reports.v1")),
    Alias("risk_metrics_processed_total", _PROCESSED, kind="counter", only=("topic", "risk.metrics.v1")),
    Alias(
        "strategy_performance_updates_total", _PROCESSED, kind="counter", only=("topic", "strategy.performance.v1"),
    ),
    Alias("alerts_generated_total", "tickring_alerts_raised_total", _same("severity"), kind="counter"),
)  # fmt: skip


def aliased(families: Mapping[str, Family], readers: Iterable[StreamReader]) -> dict[str, Family]:
    """The families under their old names; of our own nothing is changed.

    Args:
        families: ours.
        readers: of all streams, for what is told of each symbol's book and of the newest records.
    """
    found: dict[str, Family] = {}
    readers = list(readers)
    markets = _markets(readers)
    for alias in ALIASES:
        source = families.get(alias.source)
        if source is not None:
            family = found.setdefault(alias.name, (alias.kind, f"As {alias.source}", []))
            family[2].extend(_folded(alias, source[2], markets))
    for sample in (*_books(readers), *_newest(readers)):
        found.setdefault(sample.name, (sample.kind, sample.help, []))[2].append((sample.labels, sample.values, ()))
    return found


def _folded(alias: Alias, series: Iterable[Series], markets: Mapping[str, str]) -> list[Series]:
    rows: dict[tuple[tuple[str, str], ...], tuple[list[float], tuple[float, ...]]] = {}
    fold = float.__add__ if alias.kind == "histogram" else alias.fold
    for labels, values, bounds in series:
        if alias.only is not None and labels.get(alias.only[0]) != alias.only[1]:
            continue
        if bounds and alias.kind == "counter":
            values, bounds = (sum(values[:-1]),), ()
        if (market := markets.get(labels.get("actor", ""))) is not None:
            labels = {"market_type": market, **labels}
        kept = {theirs: labels[ours] for theirs, ours in alias.labels.items() if ours in labels}
        kept = {**{label: _VALUES.get(label, {}).get(value, value) for label, value in kept.items()}, **alias.fixed}
        identity = tuple(sorted(kept.items()))
        row = rows.get(identity)
        if row is None:
            rows[identity] = ([float(value) for value in values], bounds)
        elif row[1] == bounds:
            row[0][:] = map(fold, row[0], map(float, values))
    return [(dict(identity), tuple(values), bounds) for identity, (values, bounds) in rows.items()]


def _markets(readers: Iterable[StreamReader]) -> dict[str, str]:
    """Producer to the market type of its keys, where all have the same."""
    found: dict[str, set[str]] = {}
    for reader in readers:
        types = found.setdefault(reader.producer, set())
        types.update(key.attributes["market_type"] for key in reader.keys if "market_type" in key.attributes)
    return {producer: types.pop() for producer, types in found.items() if len(types) == 1}


def _books(readers: Iterable[StreamReader]) -> Iterable[Sample]:
    """What is told of each symbol's order book."""
    now_ns = time.time_ns()
    for reader in readers:
        if reader.record != BOOK_TOP.name:
            continue
        for key in reader.keys:
            rows = reader.last(key.key_id, 1)
            if not len(rows):
                continue
            labels = {"exchange": key.attributes.get("exchange", ""), "symbol": key.attributes.get("instrument", "")}
            events, at_ns, state = float(reader.count(key.key_id)), int(rows["ts_recv_ns"][0]), int(rows["state"][0])
            # a book is published when it begins to wait, and then not before its snapshot
            waits_s = max(0, now_ns - at_ns) / NS if state == BookState.RESYNCING else 0.0
            told, synced = "Events of the order book", float(state == BookState.SYNCED)
            yield Sample("counter", _M + "orderbook_updates_total", told, labels, (events,))
            yield Sample("gauge", _M + "last_orderbook_update_timestamp", "Receipt of the last", labels, (at_ns / NS,))
            yield Sample("gauge", _M + "orderbook_sync_status", "1 = the book can be trusted", labels, (synced,))
            told = "Since the book waits for a snapshot; 0 = it does not"
            yield Sample("gauge", _M + "orderbook_waiting_for_snapshot_seconds", told, labels, (waits_s,))


def _newest(readers: Iterable[StreamReader]) -> Iterable[Sample]:
    """When the newest record of each type came, and the newest of each channel over a WebSocket."""
    received: dict[tuple[str, str, str], int] = {}  # name, exchange, data type or channel -> UNIX ns
    for reader in readers:
        exchanges = {one for key in reader.keys if (one := key.attributes.get("exchange"))}
        if len(exchanges) != 1:
            continue
        [exchange] = exchanges
        rows = _last_rows(reader)
        sent = rows[(rows["flags"] & _ASKED_FOR) == 0] if reader.record in _STREAMED else rows[:0]
        for name, told, of in (
            ("collector_last_success_timestamp_seconds", rows, reader.record),
            ("ws_last_inbound_timestamp", sent, channel_of(reader.record)),
        ):
            if len(told):
                one = name, exchange, of
                received[one] = max(received.get(one, 0), int(told["ts_recv_ns"].max()))
    for (name, exchange, of), at_ns in sorted(received.items()):
        labels = {"exchange": exchange, "channel" if name.startswith("ws_") else "data_type": of}
        yield Sample("gauge", _M + name, "Receipt of the newest record", labels, (at_ns / NS,))


def _last_rows(reader: StreamReader) -> np.ndarray:
    """`(n,)` newest records of a stream; of one without a ring, the newest of each key."""
    if reader.capacity:
        newest = NEWEST_LEVELS if reader.record in _STREAMED else 1
        return reader.read(max(0, reader.published() - newest), newest)[0]
    return np.concatenate([np.empty(0, reader.dtype), *(reader.last(key.key_id, 1) for key in reader.keys)])
