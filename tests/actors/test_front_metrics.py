"""The metrics of the whole tree: as Prometheus reads them, and under the names of other collectors."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tickring.actors.front.metric_aliases import ALIASES, Family, aliased
from tickring.ringbuf import MetricsPage

from .front_rig import DEADLINE_S, FrontThread, Producer, instance_folder, instrument

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
        found = families_of(seen(front, b"http_request_duration_seconds_sum 0."))
    [frames] = found["marketprism_websocket_messages_received"]
    assert (frames.labels, frames.value) == ({"exchange": "binance"}, 20)
    assert {(one.labels["status"], one.value) for one in found["marketprism_snapshot_requests"]} == {
        ("success", 8), ("error", 2),
    }  # fmt: skip
    [connected] = found["marketprism_websocket_connected"]
    assert connected.value == 0, "one of its connections is down"
    [updates] = found["marketprism_orderbook_updates"]
    assert (updates.labels, updates.value) == ({"exchange": "binance", "symbol": "BTC-USDT"}, 1)
    assert found["marketprism_orderbook_sync_status"][0].value == 1
    assert found["tickring_feed_frames"], "ours stay"


@pytest.mark.parametrize("alias", ALIASES, ids=lambda alias: f"{alias.name}-{alias.source}")
def test_every_alias_follows_its_source(alias) -> None:
    bounds = (1.0,) if alias.kind == "histogram" else ()
    values = (1.0, 2.0, 5.0) if bounds else (7.0,)
    labels = dict.fromkeys(alias.labels.values(), "x") | ({alias.only[0]: alias.only[1]} if alias.only else {})
    families: dict[str, Family] = {alias.source: (alias.kind, "help", [(labels, values, bounds)])}
    kind, _, series = aliased(families, ())[alias.name]
    [(shown, told, shown_bounds)] = series
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
