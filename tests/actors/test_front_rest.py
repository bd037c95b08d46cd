"""REST over real sockets and real rings: shapes, parameters, symbol forms, errors, restarts."""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tickring.actors.front.ws.auth import Identity
from tickring.codecs.book import BookState
from tickring.codecs.record import Flag
from tickring.codecs.records import BOOK_TOP, QUOTE, TRADE

from .front_rig import DEADLINE_S, FrontThread, Producer, instance_folder, instrument, many_trades

ENVELOPE = {"success", "status", "message", "data", "timestamp", "request_id", "execution_time_ms"}
ERROR = ENVELOPE | {"error", "error_code", "error_message", "details", "detail"}
RFC3339_MS = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
LATEST = "/api/v1/trades/latest?symbol=BTC-USDT"


class Rig:
    """One front, one spot producer and one of futures, shared by the tests that change nothing else's answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spot = Producer(folder)
        self.futures = Producer(folder, "feed-binance-usdm-public-0")
        self.btc = self.spot.add(instrument("BTC"))
        self.eth = self.spot.add(instrument("ETH"))
        self.shib = self.spot.add(instrument("SHIB", price_precision=8, quantity_precision=0))
        self.quiet = self.spot.add(instrument("QUIET"))
        self.perp = self.futures.add(instrument("BTC", market_type="perpetual"))
        self.dated = self.futures.add(
            instrument("BTC", market_type="future", expiry="20261225", native="BTCUSDT_261225")
        )
        self.spot.trades(self.btc, 300)
        self.spot.trade(self.shib, 0.00001234, 1e9)
        self.futures.trade(self.perp, 50_000.5, 0.25, flags=int(Flag.AGGREGATED), trade_id=7, first=11, last=13)
        self.futures.trade(self.dated, 51_000.0)
        for key_id in (self.btc, self.eth):
            self.spot.quote(key_id)
            self.spot.book(key_id, 100)
        self.futures.quote(self.perp, event_ns=1_700_000_000_123_456_789)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with instance_folder() as folder:
        rig = Rig(folder)
        yield rig
        rig.spot.close()
        rig.futures.close()


@pytest.fixture(scope="module")
def front(rig: Rig) -> Iterator[FrontThread]:
    with FrontThread(rig.folder) as front:
        yield front


@pytest.fixture
def shm_folder() -> Iterator[Path]:
    with instance_folder() as folder:
        yield folder


def eventually(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {DEADLINE_S} s: {what}")


def assert_error(answer: Any, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    body = answer.json
    assert answer.status == status, body
    assert set(body) == ERROR
    assert body["success"] is False
    assert body["status"] == "error"
    assert body["data"] is None
    assert body["error"] == {"code": code, "message": body["message"], "details": body["details"]}
    assert body["error_code"] == code
    assert body["error_message"] == body["detail"] == body["message"]
    assert answer.headers["x-request-id"] == body["request_id"]
    if field is not None:
        assert body["details"]["field"] == field
        assert field in body["message"]
    return body


# -- envelope and headers -----------------------------------------------------------------------------------------


def test_envelope_of_latest_trades_has_every_member_and_header(front: FrontThread) -> None:
    answer = front.get(LATEST)
    body = answer.json
    assert answer.status == 200
    assert set(body) >= ENVELOPE
    assert (body["success"], body["status"], body["message"]) == (True, "success", "OK")
    assert RFC3339_MS.match(body["timestamp"])
    assert abs(datetime.fromisoformat(body["timestamp"]).timestamp() - time.time()) < 60
    parsed = uuid.UUID(body["request_id"])
    assert (parsed.version, parsed.variant) == (4, uuid.RFC_4122)
    assert answer.headers["x-request-id"] == body["request_id"]
    assert isinstance(body["execution_time_ms"], float)
    assert float(answer.headers["x-process-time"]) >= 0
    assert int(answer.headers["x-ratelimit-limit"]) > int(answer.headers["x-ratelimit-remaining"])
    assert int(answer.headers["x-ratelimit-reset"]) > time.time() - 1
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


def test_request_ids_differ_between_requests(front: FrontThread) -> None:
    assert len({front.get("/api/v1/health/liveness").json["request_id"] for _ in range(200)}) == 200


def test_body_is_compressed_only_for_clients_that_ask(front: FrontThread) -> None:
    plain = front.get(LATEST)
    packed = front.get(LATEST, {"Accept-Encoding": "deflate, gzip;q=0.8"})
    refused = front.get(LATEST, {"Accept-Encoding": "gzip;q=0"})
    small = front.get("/ping", {"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.body))["data"] == plain.json["data"]
    assert "content-encoding" not in refused.headers
    assert "content-encoding" not in small.headers


def test_head_request_gets_the_head_alone(front: FrontThread) -> None:
    answer = front.get(LATEST, method="HEAD")
    assert answer.status == 200
    assert answer.body == b""
    assert int(answer.headers["content-length"]) > 1000


# -- trades -------------------------------------------------------------------------------------------------------


def test_latest_trades_are_the_newest_first_with_the_records_members(front: FrontThread) -> None:
    body = front.get(f"{LATEST}&limit=3").json
    first = body["data"][0]
    assert [row["trade_id"] for row in body["data"]] == ["300", "299", "298"]
    assert first["symbol"] == first["instrument"] == "BTC-USDT"
    assert first["instrument_id"] == "BTCUSDT"
    assert (first["exchange"], first["market_type"]) == ("binance", "spot")
    assert (first["price"], first["quantity"], first["amount"]) == ("102.99", "0.30000", "0.30000")
    assert (first["side"], first["is_buyer_maker"]) == ("sell", True)
    assert first["seq"] == 300
    assert first["recv_ts"] - first["exchange_ts"] in (0, 1)
    assert RFC3339_MS.match(first["timestamp"])
    assert "first_trade_id" not in first
    assert "agg_trade_id" not in first
    assert body["count"] == body["metadata"]["count"] == 3
    assert (body["metadata"]["data_source"], body["metadata"]["completeness"]) == ("memory", 100)


def test_aggregated_trade_names_its_matches(front: FrontThread) -> None:
    row = front.data("/api/v1/trades/latest?symbol=BTC-USDT-PERP")[0]
    assert (row["trade_id"], row["agg_trade_id"]) == ("7", "7")
    assert (row["first_trade_id"], row["last_trade_id"]) == ("11", "13")
    assert (row["market_type"], row["instrument"]) == ("perpetual", "BTC-USDT-PERP")


def test_default_limit_is_100_and_1000_is_possible(front: FrontThread) -> None:
    assert len(front.data(LATEST)) == 100
    assert len(front.data(f"{LATEST}&limit=1000")) == 300
    assert len(front.data(f"{LATEST}&limit=200")) == 200


@pytest.mark.parametrize("path", [LATEST, "/api/v1/trades/BTC-USDT?", "/api/v1/trades?symbol=BTC-USDT"])
def test_options_for_decimals_and_times_change_only_the_writing(front: FrontThread, path: str) -> None:
    usual = front.data(f"{path}&limit=5")
    other = json.loads(front.get(f"{path}&limit=5&decimals=number&time=ms").body, parse_float=str)["data"]
    for row, changed in zip(usual, other, strict=True):
        assert changed["price"] == row["price"]
        assert changed["amount"] == row["amount"]
        at = datetime.fromisoformat(row["timestamp"])
        assert changed["timestamp"] == round(at.timestamp() * 1000)
        assert changed["trade_id"] == row["trade_id"]


def test_small_price_is_written_without_exponent(front: FrontThread) -> None:
    row = front.data("/api/v1/trades/latest?symbol=SHIB-USDT")[0]
    assert (row["price"], row["quantity"]) == ("0.00001234", "1000000000")
    number = front.get("/api/v1/trades/latest?symbol=SHIB-USDT&decimals=number").body
    assert b'"price":0.00001234,' in number


def test_new_trade_is_in_the_next_answer(front: FrontThread, rig: Rig) -> None:
    before = front.data("/api/v1/trades/latest?symbol=ETH-USDT")
    for _ in range(250):
        rig.spot.trade(rig.eth, random.uniform(1, 9))
        newest = front.data("/api/v1/trades/latest?symbol=ETH-USDT&limit=1")[0]
        assert newest["seq"] == rig.spot.writers["trade"].counts[rig.eth]
    after = front.data("/api/v1/trades/latest?symbol=ETH-USDT&limit=1000")
    assert len(after) == len(before) + 250
    assert [row["seq"] for row in after] == sorted((row["seq"] for row in after), reverse=True)


def test_kept_rows_equal_rows_made_anew_after_laps_of_the_tail(front: FrontThread, rig: Rig) -> None:
    key_id = rig.spot.add(instrument("LAP"))
    rig.spot.trade(key_id)
    path = "/api/v1/trades/latest?symbol=LAP-USDT&limit={}"
    eventually(lambda: front.get(path.format(1)).status == 200, "the new key is known")
    for burst in (1, 7, 99, 130, 900, 1500, 5):
        many_trades(rig.spot, [key_id], burst)
        for limit in (10, 100):
            kept = front.data(path.format(limit))
            anew = front.data(f"/api/v1/trades/LAP-USDT?start_time=0&limit={limit}")
            assert [row["seq"] for row in kept] == [row["seq"] for row in anew]
            assert kept == anew
            assert kept[0]["seq"] == rig.spot.writers["trade"].counts[key_id]


def test_void_trade_is_left_out(front: FrontThread, rig: Rig) -> None:
    key_id = rig.spot.add(instrument("VOID"))
    rig.spot.trade(key_id, trade_id=1)
    rig.spot.trade(key_id, trade_id=2, flags=int(Flag.VOID))
    rig.spot.trade(key_id, trade_id=3)
    eventually(lambda: front.get("/api/v1/trades/VOID-USDT").status == 200, "the new key is known")
    for path in ("/api/v1/trades/latest?symbol=VOID-USDT", "/api/v1/trades/VOID-USDT?start_time=0"):
        assert [row["trade_id"] for row in front.data(path)] == ["3", "1"]


def test_range_is_cut_at_both_ends_by_the_exchanges_time(front: FrontThread, rig: Rig) -> None:
    key_id = rig.spot.add(instrument("TIME"))
    base_ms = (time.time_ns() // 1_000_000_000 - 3600) * 1000
    for i in range(10):
        rig.spot.trade(key_id, trade_id=i, at_ns=(base_ms + i * 1000) * 1_000_000)
    eventually(lambda: front.get("/api/v1/trades/TIME-USDT").status == 200, "the new key is known")
    start, end = base_ms + 3000, base_ms + 7000
    texts = [datetime.fromtimestamp(ms / 1000, UTC).isoformat() for ms in (start, end)]
    queries = [
        f"start_time={start}&end_time={end}",
        f"startTime={start}&endTime={end}",
        f"start_time={start // 1000}&end_time={end // 1000}",
        f"start_time={texts[0].replace('+', '%2B')}&end_time={texts[1]}",
        f"start_time={texts[0][:19]}&end_time={texts[1][:19]}Z",
    ]
    for query in queries:
        body = front.get(f"/api/v1/trades/TIME-USDT?{query}").json
        assert [row["trade_id"] for row in body["data"]] == ["6", "5", "4", "3"], query
        assert body["metadata"]["start_time"] == f"{texts[0][:19]}.000Z"
        assert body["metadata"]["completeness"] == 100
    assert front.get(f"/api/v1/trades/TIME-USDT?start_time={start}&time=ms").json["metadata"]["start_time"] == start


def test_pages_cover_all_rows_once(front: FrontThread) -> None:
    seen = []
    for page in range(1, 5):
        body = front.get(f"/api/v1/trades/BTC-USDT?page={page}&size=80").json
        seen += [row["seq"] for row in body["data"]]
        pagination = body["pagination"]
        assert (pagination.pop("next_cursor") is not None) == (page < 4)
        assert pagination == {
            "page": page, "page_size": 80, "total": 300, "total_count": 300, "total_pages": 4,
            "has_next": page < 4, "has_prev": page > 1,
        }  # fmt: skip
        assert body["count"] == 300
        assert body["metadata"]["count"] == len(body["data"])
    assert seen == list(range(300, 0, -1))


# -- symbols ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["BTC-USDT", "BTCUSDT", "BTC_USDT", "BTC/USDT", "BTC%2FUSDT", "btc-usdt", "btcusdt", "Btc%2fUsdt"]
)
def test_every_form_of_a_spot_symbol_is_understood_and_echoed(front: FrontThread, form: str) -> None:
    shown = form.replace("%2F", "/").replace("%2f", "/")
    for path in (f"/api/v1/trades/{form}?limit=1", f"/api/v1/trades/latest?symbol={form}&limit=1"):
        body = front.get(path).json
        assert body["data"][0]["instrument"] == "BTC-USDT", path
        assert body["data"][0]["symbol"] == body["metadata"]["symbol"] == shown
    book = front.data(f"/api/v1/orderbook/binance/{form}")
    assert (book["symbol"], book["instrument"]) == ("BTC-USDT", "BTC-USDT")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("symbol=BTC-USDT-PERP", "BTC-USDT-PERP"),
        ("symbol=btc-usdt-perpetual", "BTC-USDT-PERP"),
        ("symbol=BTC_USDT_SWAP", "BTC-USDT-PERP"),
        ("symbol=BTCUSDT&market_type=perpetual", "BTC-USDT-PERP"),
        ("symbol=BTC-USDT&market_type=swap", "BTC-USDT-PERP"),
        ("symbol=BTC-USDT&exchange=BINANCE_FUTURES", "BTC-USDT-PERP"),
        ("symbol=BTC-USDT&exchange=binance_derivatives", "BTC-USDT-PERP"),
        ("symbol=BTC-USDT&exchange=binance_spot", "BTC-USDT"),
        ("symbol=BTC-USDT&exchange=Binance", "BTC-USDT"),
        ("symbol=BTC-USDT-20261225", "BTC-USDT-20261225"),
        ("symbol=BTCUSDT_261225", "BTC-USDT-20261225"),
    ],
)
def test_suffix_parameter_and_venue_name_select_the_market(front: FrontThread, query: str, expected: str) -> None:
    assert front.data(f"/api/v1/trades/latest?{query}")[0]["instrument"] == expected


@pytest.mark.parametrize("path", [
    "/api/v1/trades/NOPE-USDT", "/api/v1/trades/latest?symbol=NOPEUSDT", "/api/v1/trades?symbol=!!!",
    "/api/v1/orderbook/binance/NOPE-USDT", "/api/v1/ticker/okx/BTC-USDT", "/api/v1/quote/binance/BTC-EUR",
    "/api/v1/instruments/NOPE-USDT", "/api/v1/trades/ETH-USDT-PERP", "/api/v1/trades/%00",
])  # fmt: skip
def test_unknown_symbol_is_404(front: FrontThread, path: str) -> None:
    assert_error(front.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize("path", [
    "/api/v1/trades/latest?symbol=BTC-USDT&exchange=nasdaq", "/api/v1/trades/BTC-USDT?exchange=binance_moon",
    "/api/v1/orderbook/nasdaq/BTC-USDT", "/api/v1/ticker/x/BTC-USDT", "/api/v1/instruments?exchange=x",
])  # fmt: skip
def test_unknown_exchange_is_400(front: FrontThread, path: str) -> None:
    assert_error(front.get(path), 400, "INVALID_PARAMETER", "exchange")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/v1/trades/latest", "symbol"),
        ("/api/v1/trades", "symbol"),
        ("/api/v1/trades/BTC-USDT?limit=0", "limit"),
        ("/api/v1/trades/BTC-USDT?limit=1001", "limit"),
        ("/api/v1/trades/BTC-USDT?limit=ten", "limit"),
        ("/api/v1/trades/BTC-USDT?limit=1e2", "limit"),
        ("/api/v1/trades/BTC-USDT?limit=99999999999999999999999", "limit"),
        ("/api/v1/trades/BTC-USDT?page=0", "page"),
        ("/api/v1/trades/BTC-USDT?page_size=1001", "page_size"),
        ("/api/v1/trades/BTC-USDT?size=-1", "size"),
        ("/api/v1/trades/BTC-USDT?start_time=yesterday", "start_time"),
        ("/api/v1/trades/BTC-USDT?startTime=2026-13-01T00:00:00Z", "startTime"),
        ("/api/v1/trades/BTC-USDT?end_time=-5", "end_time"),
        ("/api/v1/trades/BTC-USDT?end_time=99999999999999999", "end_time"),
        ("/api/v1/trades/BTC-USDT?start_time=0001-01-01T00:00:00Z", "start_time"),
        ("/api/v1/trades/BTC-USDT?decimals=float", "decimals"),
        ("/api/v1/trades/BTC-USDT?time=iso", "time"),
        ("/api/v1/trades/BTC-USDT?market_type=casino", "market_type"),
        ("/api/v1/orderbook/binance/BTC-USDT?depth=0", "depth"),
        ("/api/v1/orderbook/binance/BTC-USDT?depth=401", "depth"),
        ("/api/v1/status?detailed=maybe", "detailed"),
        ("/api/v1/trades/latest?symbol=" + "A" * 300, "symbol"),
    ],
)
def test_bad_parameter_is_400_and_names_the_field(front: FrontThread, path: str, field: str) -> None:
    assert_error(front.get(path), 400, "INVALID_PARAMETER", field)


def test_empty_range_is_400(front: FrontThread) -> None:
    assert_error(front.get("/api/v1/trades/BTC-USDT?start_time=2000&end_time=1000"), 400, "INVALID_TIME_RANGE")
    future = int(time.time()) + 3600
    assert_error(front.get(f"/api/v1/trades/BTC-USDT?start_time={future}"), 400, "INVALID_TIME_RANGE")
    assert_error(front.get("/api/v1/trades/BTC-USDT?page=9000&page_size=1000"), 400, "TIME_RANGE_TOO_LARGE", "page")


# -- current values -----------------------------------------------------------------------------------------------


def test_orderbook_depth_is_20_unless_asked(front: FrontThread) -> None:
    body = front.get("/api/v1/orderbook/binance/BTC-USDT").json
    book = body["data"]
    assert (len(book["bids"]), len(book["asks"])) == (20, 20)
    assert book["bids"][:2] == [["99.99", "1.00000"], ["99.98", "2.00000"]]
    assert book["asks"][0] == ["100.01", "1.00000"]
    assert (book["last_update_id"], book["state"], book["update_type"]) == (77, "synced", "snapshot")
    assert book["seq"] == 40  # of the record with 20 levels a side
    assert body["metadata"]["state"] == "live"
    assert len(front.data("/api/v1/orderbook/binance/BTC-USDT?depth=1")["bids"]) == 1
    deep = front.data("/api/v1/orderbook/binance/BTC-USDT?depth=400")
    assert (len(deep["bids"]), deep["depth"], deep["seq"]) == (100, 400, 200)
    assert front.data("/api/v1/orderbook/binance/BTC-USDT?depth=2&decimals=number")["bids"] == [[99.99, 1], [99.98, 2]]


def test_orderbook_state_is_told(front: FrontThread, rig: Rig) -> None:
    rig.spot.book(rig.eth, 5, state=BookState.RESYNCING)
    book = front.data("/api/v1/orderbook/binance/ETH-USDT")
    assert (book["state"], len(book["bids"])) == ("resyncing", 5)


def test_quote_and_ticker_show_the_newest_values(front: FrontThread, rig: Rig) -> None:
    rig.spot.quote(rig.eth, 1.25, 1.5)
    quote = front.data("/api/v1/quote/binance/ETH-USDT")
    assert (quote["bid"], quote["bid_qty"], quote["ask"], quote["ask_qty"]) == ("1.25", "1.50000", "1.50", "2.50000")
    assert quote["exchange_ts"] is None
    assert "last" not in quote
    ticker = front.data("/api/v1/ticker/binance/BTC-USDT")
    assert (ticker["bid"], ticker["ask"], ticker["last"]) == ("99.50", "100.50", "102.99")
    perpetual = front.data("/api/v1/ticker/binance/BTC-USDT-PERP")
    assert perpetual["exchange_ts"] == 1_700_000_000_123
    assert perpetual["timestamp"] == "2023-11-14T22:13:20.123Z"


def test_key_without_a_record_yet_is_404_until_one_comes(front: FrontThread, rig: Rig) -> None:
    path = "/api/v1/quote/binance/QUIET-USDT"
    assert_error(front.get(path), 404, "NOT_FOUND")
    assert front.data("/api/v1/trades/QUIET-USDT") == []
    rig.spot.quote(rig.quiet)
    assert front.data(path)["seq"] == 1


def test_instruments_list_what_is_produced(front: FrontThread) -> None:
    body = front.get("/api/v1/instruments?market_type=perpetual").json
    assert [row["instrument"] for row in body["data"]] == ["BTC-USDT-PERP"]
    one = front.data("/api/v1/instruments/BTC-USDT")
    assert (one["base"], one["quote"], one["native"]) == ("BTC", "USDT", "BTCUSDT")
    assert (one["tick"], one["lot"]) == ("0.01", "0.00001")
    assert set(one["records"]) == {"trade", "quote", "book_level", "book_top", "book_depth"}
    assert front.data("/api/v1/instruments/BTC-USDT-20261225")["expiry"] == "2026-12-25"
    paged = front.get("/api/v1/instruments?page_size=2&page=2").json
    assert len(paged["data"]) == 2
    assert paged["pagination"]["has_prev"]


# -- status, health, metrics --------------------------------------------------------------------------------------


def test_status_shows_processes_and_streams(front: FrontThread) -> None:
    body = front.get("/api/v1/status?detailed=true").json
    for name in ("service", "running", "start_time", "uptime_seconds", "collector_metrics", "exchanges"):
        assert body[name] == body["data"][name]
    assert body["status"] == "success"
    data = body["data"]
    assert set(data["collector_metrics"]) == {"messages_processed", "messages_published", "errors_count"}
    assert set(data["exchanges"]["binance"]) >= {"connected", "messages_count", "errors_count"}
    actor = next(one for one in data["actors"] if one["name"] == "front-0")
    assert (actor["kind"], actor["state"]) == ("front", "running")
    streams = {(one["producer"], one["record"]): one for one in data["streams"]}
    assert streams["feed-binance-spot-0", "trade"]["published"] >= 301
    bare = front.get("/status").json
    assert bare["api_service"] == "running"
    assert bare["data_collection"] in ("running", "stopped")


def test_health_is_a_superset_under_both_paths(front: FrontThread) -> None:
    answer = front.get("/health")
    body = answer.json
    assert answer.status == 200
    assert set(body) >= {
        "service", "status", "overall_status", "timestamp", "uptime_seconds", "version", "dependencies", "checks",
        "components", "issues", "coverage",
    }  # fmt: skip
    assert body["coverage"]["trade"]["binance"]["active_symbols"] >= 1
    wrapped = front.get("/api/v1/health").json
    assert set(wrapped["data"]) == set(body) and wrapped["data"]["service"] == "tickring"
    described = front.get("/openapi.json").json["paths"]["/api/v1/health"]["get"]["responses"]["200"]
    schema = described["content"]["application/json"]["schema"]["properties"]["data"]
    assert set(schema["required"]) == set(schema["properties"]) == set(body)
    assert front.data("/api/v1/health/liveness")["status"] == "alive"
    assert front.data("/api/v1/health/readiness")["status"] == "ready"
    assert front.data("/api/v1/health/components")["total_components"] >= 1
    assert front.get("/health/live").json["status"] == "alive"
    assert front.get("/health/ready").json["ready"] is True
    assert (front.get("/livez").body, front.get("/readyz").body) == (b"ok", b"ok")
    assert front.get("/ping").json["pong"] is True
    assert front.get("/version").json["service"] == "tickring"


def test_metrics_are_whole_families_with_the_documented_names(front: FrontThread) -> None:
    answer = front.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = answer.body.decode()
    families: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in families, f"{name} is split"
            families[name] = kind
        elif not line.startswith("#"):
            assert re.fullmatch(r'[a-z_]+(\{([a-z_]+="[^"]*",?)*\})? (\+Inf|-?[0-9.e+-]+)', line), line
    documented = {
        "messages_processed_total": "counter", "messages_published_total": "counter", "errors_total": "counter",
        "uptime_seconds": "gauge", "exchange_connections_active": "gauge",
    }  # fmt: skip
    assert documented.items() <= families.items()
    assert all(name.startswith("tickring_") for name in families.keys() - documented.keys())
    assert 'tickring_front_request_seconds_bucket{actor="front-0",le="+Inf"}' in text
    assert front.get("/api/v1/metrics?format=prometheus").body.decode().startswith("# HELP")
    whole = front.data("/api/v1/metrics")
    assert whole["metrics"] and "front" in whole["available_categories"]
    of_front = front.data("/api/v1/metrics?category=front")["metrics"]
    assert 0 < len(of_front) < len(whole["metrics"])
    assert all(one["name"].startswith("tickring_front_") for one in of_front)


def test_health_without_fresh_data_is_503_after_the_grace(shm_folder: Path) -> None:
    producer = Producer(shm_folder)
    key_id = producer.add(instrument("BTC"))
    with FrontThread(shm_folder, health_grace_s=0.0, fresh_trade_s=1.0, fresh_book_s=1.0) as front:
        unhealthy = front.get("/health")
        assert (unhealthy.status, unhealthy.json["status"]) == (503, "unhealthy")
        assert front.get("/api/v1/health").status == 503

        def seen_fresh() -> bool:
            producer.trade(key_id)  # one may be stale before it is asked for
            return front.get("/health").json["status"] == "degraded"

        eventually(seen_fresh, "the trade is seen")
        eventually(lambda: front.get("/health").status == 503, "the trade grows stale")
    with FrontThread(shm_folder, fresh_trade_s=0.01) as front:
        within = front.get("/health")
        assert (within.status, within.json["status"], within.json["grace"]) == (200, "unhealthy", True)
    producer.close()


def test_readiness_without_streams_says_why(shm_folder: Path) -> None:
    with FrontThread(shm_folder) as front:
        answer = front.get("/readyz")
        assert answer.status == 503
        assert b"no stream" in answer.body
        assert front.get("/api/v1/health/readiness").status == 503
        assert front.get("/health/ready").json["ready"] is False
        assert_error(front.get(LATEST), 404, "NOT_FOUND")
        producer = Producer(shm_folder)
        producer.trade(producer.add(instrument("BTC")))
        eventually(lambda: front.get(LATEST).status == 200, "the stream is found")
        assert front.get("/readyz").body == b"ok"
        producer.close()


# -- restarts -----------------------------------------------------------------------------------------------------


def test_warm_restart_of_the_producer_keeps_numbering_and_epoch(shm_folder: Path) -> None:
    producer = Producer(shm_folder)
    key_id = producer.add(instrument("BTC"))
    producer.trades(key_id, 5)
    producer.quote(key_id)
    with FrontThread(shm_folder) as front:
        before = front.get(LATEST).json
        producer.close()
        producer = Producer(shm_folder)
        assert front.get("/api/v1/quote/binance/BTC-USDT").json["metadata"]["state"] == "stale"
        assert producer.add(instrument("BTC")) == key_id
        producer.trade(key_id)
        producer.quote(key_id)
        after = front.get(LATEST).json
        assert [row["seq"] for row in after["data"]] == [6, 5, 4, 3, 2, 1]
        assert after["metadata"]["epoch"] == before["metadata"]["epoch"]
        assert front.get("/api/v1/quote/binance/BTC-USDT").json["metadata"]["state"] == "live"
        producer.close()


def test_new_epoch_is_noticed_and_numbering_starts_anew(shm_folder: Path) -> None:
    producer = Producer(shm_folder)
    key_id = producer.add(instrument("BTC"))
    producer.trades(key_id, 50)
    with FrontThread(shm_folder) as front:
        before = front.get(LATEST).json
        assert before["data"][0]["seq"] == 50
        producer.close()
        for path in shm_folder.glob("feed-*"):
            path.unlink()
        producer = Producer(shm_folder)
        producer.trades(producer.add(instrument("BTC")), 2)
        body = eventually(
            lambda: len((body := front.get(LATEST).json)["data"] or ()) == 2 and body, "the new stream is used"
        )
        assert [row["seq"] for row in body["data"]] == [2, 1]
        assert body["metadata"]["epoch"] != before["metadata"]["epoch"]
        producer.close()


def test_vanished_stream_becomes_404(shm_folder: Path) -> None:
    producer = Producer(shm_folder, records=(TRADE, QUOTE, BOOK_TOP))
    producer.trade(producer.add(instrument("BTC")))
    with FrontThread(shm_folder) as front:
        assert front.get(LATEST).status == 200
        producer.close()
        for path in shm_folder.glob("feed-*.trade.*"):
            path.unlink()
        eventually(lambda: front.get(LATEST).status == 404, "the stream is dropped")


def test_changed_precision_of_an_instrument_is_taken_up(shm_folder: Path) -> None:
    producer = Producer(shm_folder)
    key_id = producer.add(instrument("BTC"))
    producer.trade(key_id, 1.5)
    with FrontThread(shm_folder) as front:
        assert front.data(LATEST)[0]["price"] == "1.50"
        producer.add(instrument("BTC", price_precision=4))
        eventually(lambda: front.data(LATEST)[0]["price"] == "1.5000", "the new precision is used")
    producer.close()


def test_answers_stay_whole_while_trades_arrive_at_full_speed(shm_folder: Path) -> None:
    producer = Producer(shm_folder)
    keys = [producer.add(instrument(f"C{i}")) for i in range(5)]
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            for key_id in keys:
                producer.trade(key_id, random.uniform(1, 1000))
            time.sleep(0)

    with FrontThread(shm_folder) as front:
        thread = threading.Thread(target=flood)
        thread.start()
        try:
            eventually(lambda: len(front.data("/api/v1/trades/latest?symbol=C4-USDT")) == 100, "enough trades came")
            for i in range(300):
                seqs = [row["seq"] for row in front.data(f"/api/v1/trades/latest?symbol=C{i % 5}-USDT")]
                assert seqs == list(range(seqs[0], seqs[0] - 100, -1))
        finally:
            stop.set()
            thread.join()
    producer.close()


# -- bad requests -------------------------------------------------------------------------------------------------


def test_unknown_path_and_method_are_told_in_our_form(front: FrontThread) -> None:
    assert_error(front.get("/api/v1/nothing"), 404, "NOT_FOUND")
    assert_error(front.get("/favicon.ico"), 404, "NOT_FOUND")
    answer = front.get(LATEST, method="POST")
    assert_error(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET, HEAD"
    assert front.get("/api/v1/trades/?symbol=BTC-USDT").status == 200  # a trailing slash does not matter


def test_too_large_a_body_is_413(front: FrontThread) -> None:
    answer = front.get(LATEST, {"Content-Length": str(11 << 20)}, method="POST")
    assert_error(answer, 413, "PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)),
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(500)) + b"\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    ],
    ids=["tls", "no-path", "version", "long-line", "long-header", "many-headers", "length", "smuggling"],
)
def test_bytes_that_are_no_request_are_refused_and_the_server_lives(front: FrontThread, data: bytes) -> None:
    received = front.raw(data)
    head, _, body = received.partition(b"\r\n\r\n")
    status, code = 400, "INVALID_PARAMETER"
    if data.startswith(b"GET /aaaa"):
        status, code = 414, "URI_TOO_LONG"
    elif b"X-Long" in data:
        status, code = 431, "HEADER_TOO_LARGE"
    assert head.startswith(b"HTTP/1.1 %d " % status), received[:200]
    assert json.loads(body)["error_code"] == code
    assert front.get("/livez").status == 200


def test_random_bytes_never_stop_the_server(front: FrontThread) -> None:
    source = random.Random(20261121)
    starts = [b"", b"GET ", b"GET / HTTP/1.1\r\n", b"GET /api/v1/trades/latest?"]
    starts.append(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n")
    for _ in range(150):
        rubbish = source.choice(starts) + source.randbytes(source.randrange(1, 400))
        received = front.raw_or_nothing(rubbish + b"\r\n\r\n")
        assert not received or received.startswith(b"HTTP/1.1 "), received[:100]
        assert not received.startswith(b"HTTP/1.1 5"), received[:300]
    assert front.get("/livez").status == 200


def test_random_targets_are_answered_without_a_5xx(front: FrontThread) -> None:
    source = random.Random(7)
    parts = ["/api/v1/trades/", "/api/v1/orderbook/binance/", "/api/v1/trades/latest?symbol=", "/api/v1/instruments/"]
    parts += ["/", "/openapi.json?"]
    alphabet = "ABCUSDT-_/%25%00%ff?&=;:@!$'()*+,.~0123456789é"
    for _ in range(300):
        target = source.choice(parts) + "".join(source.choice(alphabet) for _ in range(source.randrange(0, 30)))
        received = front.raw(b"GET " + target.encode() + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert received[9:10] in (b"2", b"4"), (target, received[:300])


def test_old_http_and_connection_headers_are_honoured(front: FrontThread) -> None:
    old = front.raw(b"GET /ping HTTP/1.0\r\n\r\n")
    assert b"Connection: close" in old
    kept = front.raw(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"Connection: keep-alive" in kept
    ping = b"GET /ping HTTP/1.1\r\nHost: x\r\n"
    # the front closes behind the second answer: silence before it ends nothing
    twice = front.raw(ping + b"\r\n" + ping + b"Connection: close\r\n\r\n", patience_s=DEADLINE_S)
    assert twice.count(b"HTTP/1.1 200 OK") == 2


def test_calls_beyond_the_limit_are_429_with_retry_after(shm_folder: Path) -> None:
    with FrontThread(shm_folder, rate_limit_calls=5, rate_limit_period_s=600.0) as front:
        remaining = [int(front.get("/ping").headers["x-ratelimit-remaining"]) for _ in range(5)]
        assert remaining == [4, 3, 2, 1, 0]
        answer = front.get("/ping")
        assert_error(answer, 429, "RATE_LIMIT_EXCEEDED")
        assert 0 < int(answer.headers["retry-after"]) <= 602


class Tokens:
    """Knows one token."""

    required = True

    async def identify(self, token: str) -> Identity | None:
        return Identity("desk") if token == "right" else None


def test_authenticator_guards_everything_that_is_not_public(rig: Rig) -> None:
    with FrontThread(rig.folder, Tokens()) as front:
        for _ in range(2):  # also once the request is prepared
            assert_error(front.get(LATEST), 401, "MISSING_AUTH_TOKEN")
            assert_error(front.get(LATEST, {"Authorization": "Bearer wrong"}), 401, "INVALID_AUTH_TOKEN")
            assert front.get(LATEST, {"Authorization": "Bearer right"}).status == 200
            assert front.get(LATEST, {"X-API-Key": "right"}).status == 200
        for path in ("/health", "/livez", "/ping", "/version", "/metrics", "/openapi.json", "/api/v1/health"):
            assert front.get(path).status == 200, path


# -- description --------------------------------------------------------------------------------------------------


def test_openapi_describes_every_endpoint_consistently(front: FrontThread) -> None:
    document = front.get("/openapi.json").json
    assert document["openapi"].startswith("3.1")
    assert {"title", "version"} <= document["info"].keys()
    ids = []
    for path, operation in [(path, one) for path, item in document["paths"].items() for one in item.values()]:
        assert path.startswith("/")
        ids.append(operation["operationId"])
        in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path))
        assert all(one["required"] for one in operation["parameters"] if one["in"] == "path")
        assert {"200", "201"} & operation["responses"].keys()
        names = [(one["in"], one["name"]) for one in operation["parameters"]]
        assert len(names) == len(set(names)), path
    assert len(ids) == len(set(ids))
    some = {"/api/v1/trades/latest", "/api/v1/orderbook/{exchange}/{symbol}", "/metrics", "/livez"}
    assert some <= document["paths"].keys()
    references = set(re.findall(r'"\$ref": ?"#/([^"]+)"', json.dumps(document)))
    for reference in references:
        at: Any = document
        for part in reference.split("/"):
            at = at[part]
    assert set(document["components"]["schemas"]) >= {"trade", "quote", "Error"}


def test_answers_match_their_described_schema(front: FrontThread) -> None:
    paths = front.get("/openapi.json").json["paths"]
    for path, asked in (
        ("/api/v1/trades/latest", LATEST),
        ("/api/v1/trades/{symbol}", "/api/v1/trades/BTC-USDT-PERP"),
        ("/api/v1/orderbook/{exchange}/{symbol}", "/api/v1/orderbook/binance/BTC-USDT"),
        ("/api/v1/ticker/{exchange}/{symbol}", "/api/v1/ticker/binance/BTC-USDT"),
        ("/api/v1/quote/{exchange}/{symbol}", "/api/v1/quote/binance/BTC-USDT-PERP"),
        ("/api/v1/instruments", "/api/v1/instruments"),
    ):
        schema = paths[path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        body = front.get(asked).json
        assert set(schema["required"]) <= body.keys()
        assert body.keys() <= schema["properties"].keys() | {"metadata"}
        described = schema["properties"]["data"]
        rows = body["data"] if described.get("type") == "array" else [body["data"]]
        described = described.get("items", described)
        for row in rows:
            assert set(described["required"]) <= row.keys(), path
            assert row.keys() <= described["properties"].keys(), path
            for name, value in row.items():
                kinds = described["properties"][name].get("type", ())
                kinds = [kinds] if isinstance(kinds, str) else kinds
                fits = {
                    "string": isinstance(value, str), "integer": isinstance(value, int), "null": value is None,
                    "number": isinstance(value, (int, float)), "boolean": isinstance(value, bool),
                    "array": isinstance(value, list),
                }  # fmt: skip
                assert not kinds or any(fits[kind] for kind in kinds), (path, name, value)


def test_root_is_the_page_for_people_and_a_banner_for_programs(front: FrontThread) -> None:
    page = front.get("/", {"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert front.get("/", {"Accept": "*/*"}).json.keys() == front.get("/").json.keys()
    banner = front.get("/", {"Accept": "application/json"}).json
    assert {"service", "version", "status", "timestamp"} <= banner.keys()


def test_connection_without_a_whole_request_is_closed_and_one_that_asked_is_kept() -> None:
    with instance_folder() as folder, FrontThread(folder, first_request_s=3.0) as front:
        kept = socket.create_connection(("127.0.0.1", front.port), timeout=DEADLINE_S)
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        slow = socket.create_connection(("127.0.0.1", front.port), timeout=DEADLINE_S)
        slow.sendall(b"GET /livez HTTP/1.1\r\nX-")
        assert slow.recv(1) == b"", "closed by the front"
        kept.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200")
        counted = re.compile(rb"^tickring_front_slow_heads_total\{.*\} 1(\.0)?$", re.MULTILINE)
        eventually(lambda: counted.search(front.get("/metrics").body), "the closed connection to be counted")
        kept.close()
        slow.close()
