"""The metrics of the whole tree: as Prometheus reads them, and under the names of other collectors."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tickring.actors.front.metric_aliases import ALIASES, Family, aliased
from tickring.codecs.book import BookState
from tickring.codecs.record import Flag
from tickring.codecs.records import BOOK_TOP, TRADE
from tickring.ringbuf import MetricsPage, StreamReader

from .front_rig import DEADLINE_S, PRODUCER, FrontThread, Producer, instance_folder, instrument

# All the old names that there are, by whether they can be had of ours.
SERVED = {
    "marketprism_": (
        "uptime_seconds", "cpu_usage_percent", "memory_usage_percent", "memory_usage_bytes", "disk_usage_percent",
        "active_symbols_count", "orderbook_updates_total", "orderbook_update_duration_seconds",
        "last_orderbook_update_timestamp", "orderbook_sync_status", "orderbook_waiting_for_snapshot_seconds",
        "orderbook_resync_count", "orderbook_reconnections_count", "collector_errors_total",
        "collector_last_success_timestamp_seconds", "snapshot_requests_total", "websocket_connected",
        "websocket_reconnections_total", "websocket_messages_received_total", "ws_last_inbound_timestamp",
        "errors_total", "data_validation_errors_total", "request_duration_seconds", "process_rss_bytes", "thread_count",
    ),
    "marketprism_storage_": (
        "messages_received_total", "messages_processed_total", "messages_failed_total", "batch_inserts_total",
        "batch_queue_size", "batch_queue_bytes", "clickhouse_insert_errors_total", "error_rate_percent",
        "last_message_timestamp_seconds",
    ),
    "": (
        "http_requests_total", "http_request_duration_seconds", "http_requests_errors_total",
        "websocket_connections_active", "kafka_messages_consumed_total", "exec_reports_processed_total",
        "risk_metrics_processed_total", "alerts_generated_total", "strategy_performance_updates_total",
        "system_cpu_usage_percent", "system_memory_usage_percent", "system_disk_usage_percent",
        "service_uptime_seconds",
    ),
}  # fmt: skip
NOT_SERVED = {
    "marketprism_": (
        # no queue lies between a socket and a book, and what a book keeps until its snapshot is not told
        "orderbook_queue_drops_total", "orderbook_queue_size", "orderbook_buffer_size",
        "orderbook_backlog_resyncs_total",
        # of snapshots only their outcomes are counted
        "snapshot_request_duration_seconds", "snapshot_timeouts_total", "snapshot_reconnections_total",
        # Binance's servers ping, and nobody pings them
        "ws_text_pings_total", "ws_text_pongs_total", "ws_implied_pongs_total", "ws_pong_timeouts_total",
        "ws_last_outbound_ping_timestamp",
        # there is no NATS, and no second store that is filled from the first
        "nats_connected", "nats_messages_published_total", "nats_publish_duration_seconds",
        "nats_publish_errors_total", "nats_messages_published_labeled_total", "cold_replication_enabled",
        "cold_replication_lag_minutes", "cold_success_windows_total", "cold_failed_windows_total",
        "cold_last_success_timestamp_seconds", "cold_last_error_timestamp_seconds",
    ),
}  # fmt: skip
DOCUMENTED = (
    "messages_processed", "messages_published", "errors", "uptime_seconds", "exchange_connections_active",
)  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    with instance_folder() as folder:
        spot = Producer(folder)
        btc = spot.add(instrument("BTC"))
        spot.trades(btc, 3)
        spot.book(btc)
        for name in ("feed-binance-spot-0", "feed-binance-usdm-public-0"):
            page = MetricsPage(folder, name, 1)
            labels = {"exchange": "binance"}
            page.counter("tickring_feed_frames_total", "Frames", **labels).inc(10)
            page.counter("tickring_feed_rejected_total", 'With "quotes"', reason='a"b\\c\nd', **labels).inc(2)
            page.counter("tickring_feed_snapshots_total", "Snapshots", **labels).inc(4)
            page.counter("tickring_feed_snapshots_failed_total", "Failed", **labels).inc(1)
            page.gauge("tickring_feed_connected", "Connected", **labels).set(name.endswith("spot-0"))
            seconds = page.histogram("tickring_socket_to_ring_seconds", "Time", (1e-5, 1e-3), channel="trade", **labels)
            seconds.observe(2e-5)
            page.beat(1)
            page.close()
        yield folder
        spot.close()


def seen(front: FrontThread, wanted: bytes) -> str:
    """The metrics once they show something: pages are as old as the last heartbeat."""
    until = time.monotonic() + DEADLINE_S
    while wanted not in (text := front.get("/metrics").body):
        assert time.monotonic() < until, text.decode()
        time.sleep(0.05)
    return text.decode()


def families_of(text: str) -> dict[str, list]:
    found: dict[str, list] = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in found, f"{family.name} is split"
        assert family.documentation and family.type in ("counter", "gauge", "histogram"), family
        found[family.name] = family.samples
    return found


def test_metrics_are_read_by_prometheus_and_no_series_comes_twice(folder: Path) -> None:
    with FrontThread(folder) as front:
        front.get("/api/v1/trades/latest?symbol=BTC-USDT")
        found = families_of(front.get("/metrics").body.decode())
    assert {name for name in found if not name.startswith("tickring_")} == set(DOCUMENTED)
    series = Counter(
        (sample.name, tuple(sorted(sample.labels.items()))) for samples in found.values() for sample in samples
    )
    assert not [one for one, count in series.items() if count > 1]
    [refused] = {sample.labels["reason"] for sample in found["tickring_feed_rejected"]}
    assert refused == 'a"b\\c\nd'
    buckets = {
        sample.labels["le"]: sample.value
        for sample in found["tickring_socket_to_ring_seconds"]
        if sample.name.endswith("_bucket") and sample.labels["actor"] == "feed-binance-spot-0"
    }
    assert buckets == {"1e-05": 0, "0.001": 1, "+Inf": 1}


def test_metrics_show_every_process_and_the_machine(folder: Path) -> None:
    with FrontThread(folder) as front:
        found = families_of(front.get("/metrics").body.decode())
    for name in ("cpu_seconds", "threads", "resident_bytes"):
        by_actor = {sample.labels["actor"]: sample.value for sample in found[f"tickring_actor_{name}"]}
        assert by_actor["front-0"] > 0
    [memory] = found["tickring_host_memory_percent"]
    assert 0 < memory.value < 100
    assert {sample.labels["place"] for sample in found["tickring_host_disk_percent"]} == {"shared_memory", "data"}
    assert found["tickring_active_instruments"][0].value == 1


def test_metrics_asked_for_in_a_row_are_rendered_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tickring.actors.front.exposition.TEXT_KEPT_S", 3600.0)
    with FrontThread(folder) as front:
        first = front.get("/metrics").body
        front.get("/ping")
        assert front.get("/metrics").body == first


def test_aliases_are_shown_only_where_they_are_wanted(folder: Path) -> None:
    with FrontThread(folder) as front:
        assert b"marketprism_" not in front.get("/metrics").body
    with FrontThread(folder, metrics_aliases=True) as front:
        front.get("/ping")
        found = families_of(seen(front, b'http_request_duration_seconds_sum{endpoint="/ping"} 0.'))
    [frames] = found["marketprism_websocket_messages_received"]
    assert (frames.labels, frames.value) == ({"exchange": "binance"}, 20)
    assert {(one.labels["status"], one.value) for one in found["marketprism_snapshot_requests"]} == {
        ("success", 4), ("error", 1),
    }  # fmt: skip
    assert [one.labels.get("market_type") for one in found["marketprism_snapshot_requests"]].count("spot") == 2
    [connected] = found["marketprism_websocket_connected"]
    assert connected.value == 0, "one of its connections is down"
    [updates] = found["marketprism_orderbook_updates"]
    assert (updates.labels, updates.value) == ({"exchange": "binance", "symbol": "BTC-USDT"}, 1)
    assert found["marketprism_orderbook_sync_status"][0].value == 1
    assert found["tickring_feed_frames"], "ours stay"


def test_requests_are_told_by_endpoint_as_declared_not_by_what_clients_write(folder: Path) -> None:
    trades = "/api/v1/trades/latest"
    last = b'tickring_front_endpoint_errors_total{actor="front-0",endpoint="none",method="none",status="404"} 1'
    with FrontThread(folder, metrics_aliases=True) as front:
        for path in (f"{trades}?symbol=BTC-USDT", f"{trades}?limit=2&symbol=BTC-USDT", f"{trades}?limit=x", "/nowhere"):
            front.get(path)
        found = families_of(seen(front, last))
    counts = {
        (one.labels["endpoint"], one.labels["method"]): one.value
        for one in found["tickring_front_endpoint_seconds"]
        if one.name.endswith("_count")
    }
    assert counts[(trades, "GET")] == 3 and counts[("none", "none")] == 1
    assert {endpoint for endpoint, _ in counts} <= {trades, "none", "/metrics"}
    errors = {
        (one.labels["endpoint"], one.labels["status"]): one.value for one in found["tickring_front_endpoint_errors"]
    }
    assert errors == {(trades, "400"): 1, ("none", "404"): 1}
    theirs = {one.labels["endpoint"]: one.value for one in found["http_requests"]}
    assert theirs[trades] == 3 and theirs["none"] == 1
    failed = {(one.labels["endpoint"], one.labels["status_code"]): one.value for one in found["http_requests_errors"]}
    assert failed == errors


def names_of(names: dict[str, tuple[str, ...]]) -> set[str]:
    return {prefix + name for prefix, group in names.items() for name in group}


def test_old_names_are_served_where_ours_say_the_same(folder: Path) -> None:
    families: dict[str, Family] = {
        alias.source: (
            alias.kind,
            "help",
            [({alias.only[0]: alias.only[1]} if alias.only else {}, (1.0, 0.0, 1.0), ())],
        )
        for alias in ALIASES
        if alias.source != "tickring_kafka_published_total"
    }
    topics = ("exec.reports.v1", "risk.metrics.v1", "strategy.performance.v1", "trade.signals.v1")
    published = [({"topic": topic}, (float(n),), ()) for n, topic in enumerate(topics, 1)]
    families["tickring_kafka_published_total"] = ("counter", "help", published)
    streams = [StreamReader(folder, PRODUCER, record.name, record.dtype) for record in (TRADE, BOOK_TOP)]
    found = aliased(families, streams)
    for reader in streams:
        reader.close()
    assert set(found) == names_of(SERVED)
    assert not names_of(SERVED) & names_of(NOT_SERVED)
    counted = {name: series[0][1] for name, (_, _, series) in found.items() if not name.startswith("marketprism_")}
    assert counted["exec_reports_processed_total"] == (1.0,)
    assert counted["risk_metrics_processed_total"] == (2.0,)
    assert counted["strategy_performance_updates_total"] == (3.0,)


def test_newest_records_are_told_by_type_and_by_channel(folder: Path) -> None:
    before = time.time()
    spot = Producer(folder, "feed-binance-spot-1")
    eth = spot.add(instrument("ETH"))
    spot.trade(eth, flags=int(Flag.BACKFILL), at_ns=time.time_ns() + 3_600_000_000_000)
    spot.book(eth, state=BookState.RESYNCING)
    with FrontThread(folder, metrics_aliases=True) as front:
        found = families_of(front.get("/metrics").body.decode())
    spot.close()
    told = {one.labels["data_type"]: one for one in found["marketprism_collector_last_success_timestamp_seconds"]}
    assert set(told) == {"trade", "book_top", "book_depth"} and told["trade"].labels["exchange"] == "binance"
    assert told["trade"].value > before + 3000 and before - 60 < told["book_top"].value < before + 60
    [inbound] = found["marketprism_ws_last_inbound_timestamp"]  # a trade that was asked for came over no WebSocket
    assert inbound.labels == {"exchange": "binance", "channel": "trade"} and inbound.value < before + 60
    waits = {one.labels["symbol"]: one.value for one in found["marketprism_orderbook_waiting_for_snapshot_seconds"]}
    assert waits["BTC-USDT"] == 0 and 0 < waits["ETH-USDT"] < 60


@pytest.mark.parametrize("alias", ALIASES, ids=lambda alias: f"{alias.name}-{alias.source}")
def test_every_alias_follows_its_source(alias) -> None:
    bounds = (1.0,) if alias.source.endswith("_seconds") and alias.kind != "gauge" else ()
    values = (1.0, 2.0, 5.0) if bounds else (7.0,)
    labels = dict.fromkeys(alias.labels.values(), "x") | ({alias.only[0]: alias.only[1]} if alias.only else {})
    families: dict[str, Family] = {alias.source: (alias.kind, "help", [(labels, values, bounds)])}
    kind, _, series = aliased(families, ())[alias.name]
    [(shown, told, shown_bounds)] = series
    if bounds and alias.kind == "counter":
        assert (kind, told, shown_bounds) == ("counter", (3.0,), ()), "the number of its observations"
    else:
        assert (kind, told, shown_bounds) == (alias.kind, values, bounds)
    assert shown == dict.fromkeys(alias.labels, "x") | alias.fixed
    assert kind != "counter" or alias.name.endswith("_total")


def test_aliases_of_one_name_agree_in_their_kind() -> None:
    kinds: dict[str, set[str]] = {}
    for alias in ALIASES:
        kinds.setdefault(alias.name, set()).add(alias.kind)
    assert all(len(one) == 1 for one in kinds.values())


def test_market_type_of_an_alias_is_in_the_words_of_its_dashboards() -> None:
    labels = {"data_type": "trade", "exchange": "deribit", "market_type": "option"}
    families: dict[str, Family] = {
        "tickring_storage_messages_processed_total": ("counter", "help", [(labels, (1.0,), ())])
    }
    _, _, [(shown, _, _)] = aliased(families, ())["marketprism_storage_messages_processed_total"]
    assert shown["market_type"] == "options"
