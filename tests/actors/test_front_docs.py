"""The pages of the description, and the shapes that collectors and dashboards read."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tickring.actors.front import docs

from .front_rig import FrontThread, Producer, instance_folder, instrument
from .test_front_rest import assert_error, eventually


@pytest.fixture(scope="module")
def producer() -> Iterator[Producer]:
    with instance_folder() as folder:
        producer = Producer(folder)
        for base in ("BTC", "ETH"):
            key_id = producer.add(instrument(base))
            producer.trades(key_id, 5)
            producer.quote(key_id)
            producer.book(key_id)
        yield producer
        producer.close()


@pytest.fixture(scope="module")
def front(producer: Producer) -> Iterator[FrontThread]:
    with FrontThread(producer.folder) as front:
        yield front


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/"])
def test_pages_load_nothing_from_elsewhere(front: FrontThread, path: str) -> None:
    pytest.importorskip("offapi", reason="pip install offapi")
    page = front.get(path)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = page.body.decode()
    assert "http" not in text.replace("doctype html", "").replace("<html", "")
    parts = re.findall(r'(?:src|href)="(/[^"]+)"', text)
    assert parts
    for part in parts:
        file = front.get(part)
        assert (file.status, len(file.body) > 100) == (200, True)
        assert file.headers["content-type"].startswith(("text/javascript", "text/css"))


def test_pages_without_the_package_say_how_to_get_it(front: FrontThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "PACKAGE", "no_such_package")
    docs.packaged.cache_clear()
    front.loop.call_soon_threadsafe(lambda: front.front.state.catalog.refresh())
    answer = front.get("/docs?again")
    body = assert_error(answer, 501, "NOT_SUPPORTED")
    assert "pip install" in body["message"]
    docs.packaged.cache_clear()


def test_exchanges_and_their_stats(front: FrontThread) -> None:
    one = front.data("/api/v1/exchanges/binance/stats")
    assert (one["exchange"], one["symbols"], one["feeds"]) == ("binance", 2, ["feed-binance-spot-0"])
    assert one["records"]["trade"] == {"published": 10, "keys": 2}
    assert one["coverage"]["trade"]["symbols"] == 2
    assert front.data("/api/v1/exchanges") == [front.data("/api/v1/exchanges/binance_spot/stats")]
    assert_error(front.get("/api/v1/exchanges/okx/stats"), 404, "NOT_FOUND")
    assert_error(front.get("/api/v1/exchanges/nasdaq/stats"), 400, "INVALID_PARAMETER", "exchange")


def test_collector_paths_have_their_shapes(front: FrontThread) -> None:
    stats = front.data("/api/v1/collector/stats")
    assert stats["messages_published"] > 10
    assert {"messages_received", "messages_processed", "errors_count", "last_message_time", "exchange_stats"} <= set(
        stats
    )
    status = front.data("/api/v1/collector/status")
    assert status["status"] in ("running", "initializing")
    assert {"service", "version", "environment", "features", "supported_exchanges", "collection_stats"} <= set(status)
    assert set(front.data("/api/v1/collector/exchanges")) == {"binance"}
    data = front.data("/api/v1/collector/data?limit=1")
    assert (len(data["recent_data"]["trades"]), len(data["recent_data"]["orderbooks"])) == (1, 1)
    assert data["query_parameters"] == {"exchange": "all", "type": "all", "limit": 1}
    assert data["recent_data"]["trades"][0]["instrument"] == "ETH-USDT"
    trades = front.data("/api/v1/collector/data?type=trades&exchange=binance")
    assert (len(trades["recent_data"]["trades"]), trades["recent_data"]["orderbooks"]) == (2, [])
    assert front.data("/api/v1/collector/data?exchange=okx")["recent_data"] == {"trades": [], "orderbooks": []}


def test_collector_without_streams_is_503() -> None:
    with instance_folder() as folder, FrontThread(folder) as front:
        for name in ("stats", "status", "exchanges", "data"):
            assert_error(front.get(f"/api/v1/collector/{name}"), 503, "SERVICE_UNAVAILABLE")


def test_monitoring_paths_have_their_shapes(front: FrontThread) -> None:
    system = front.data("/api/v1/monitoring/system")
    assert 0 < system["memory"]["percent"] < 100
    assert front.data("/api/v1/monitoring/performance")["messages_published"] > 10
    assert front.data("/api/v1/monitoring/database")["status"] == "disabled"
    assert front.data("/api/v1/monitoring/data-quality?symbols=BTC-USDT,ETH-USDT")["symbols"] == [
        "BTC-USDT",
        "ETH-USDT",
    ]
    alerts = front.data("/api/v1/monitoring/alerts?severity=info")
    assert alerts["filtered_count"] == len(alerts["alerts"]) == 0
    whole = front.data("/api/v1/monitoring/comprehensive?include_data_quality=false")
    assert whole["overall_health"]["status"] in ("healthy", "degraded", "unhealthy")
    assert "data_quality" not in whole
    assert front.data("/api/v1/health/metrics")["uptime_seconds"] >= 0


def test_ticker_without_history_is_of_memory(front: FrontThread) -> None:
    ticker = eventually(
        lambda: (found := front.data("/api/v1/ticker/binance/BTC-USDT"))["trade_count_24h"] and found, "it is folded"
    )
    assert (ticker["trade_count_24h"], ticker["last"], ticker["source_24h"]) == (5, "100.04", "trades")
