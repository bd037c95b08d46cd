"""The keeper as a process, beside a simulated exchange and an embedded engine that are processes too, and a front."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tickring.actors.simulator.history import LISTED_MS
from tickring.codecs.record import Flag
from tickring.codecs.records import FUNDING, KLINE
from tickring.ringbuf import read_page
from tickring.storage.backfill import BACKFILL_EPOCH
from tickring.storage.client import Server

from ..ports import free_port
from ..storage.processes import Actor, metric_of, wait_for
from .front_rig import (  # noqa: F401 - fixtures
    DEADLINE_S,
    Answered,
    FrontThread,
    Producer,
    engine_fixture,
    instance_folder,
    instrument,
    server_fixture,
    store,
)
from .test_front_rest import assert_error, eventually

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOW = time.time_ns() // 1_000_000
_days = iter((NOW // DAY - 100 + n) * DAY for n in range(90))
CANDLES = "/api/v1/candles/BTC-USDT-PERP/1m?time=ms&decimals=number&limit=1000"


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Actor]:
    """A simulated exchange with two coins."""
    ports = {name: free_port() for name in ("spot_ws_port", "usdm_ws_port", "rest_port")}
    with instance_folder() as shm:
        config = {**ports, "symbols": ["BTCUSDT", "ETHUSDT"], "rate": 1.0}
        actor = Actor("simulator", shm, tmp_path_factory.mktemp("simulator"), config)
        try:
            yield actor.start()
        finally:
            actor.kill()


class Desk:
    """An instance with two perpetuals of which nothing is stored yet: its front, and its keeper."""

    def __init__(self, folder: Path, data: Path, server: Server, exchange: Actor, **keeper: Any) -> None:
        self.folder, self.server, self.exchange = folder, server, exchange
        self.url = f"http://127.0.0.1:{exchange.config['rest_port']}"
        self.producer = Producer(folder, "feed-binance-usdm-market-0", records=(KLINE, FUNDING))
        for base in ("BTC", "ETH"):
            perpetual = instrument(base, market_type="perpetual")
            self.producer.add(perpetual)
            self.producer.bar_key(perpetual, "1m")
        keys = list(self.producer.keys)
        for record in (KLINE, FUNDING):  # the writer has made the tables: a row of an instrument that nobody asks for
            row = np.zeros(1, record.dtype)
            row["ts_recv_ns"] = row["ts_event_ns"] = time.time_ns()
            key = type(keys[0])(0, "", {**keys[0].attributes, "instrument": "XYZ-USDT-PERP", "interval": "1m"})
            store(server, record, row, [key], 1)
        clickhouse = {
            "url": server.url, "password_file": server.password_file, "database": server.database, "timeout_s": 30.0
        }  # fmt: skip
        self.keeper = Actor("keeper", folder, data, {
            "rest_urls": {"usdm": self.url, "spot": self.url}, "clickhouse": clickhouse, "retry_delay_s": 0.2,
            "funding": False, **keeper,
        })  # fmt: skip
        self.front = FrontThread(
            folder,
            history=True,
            clickhouse=server,
            history_probe_s=0.1,
            history_timeout_s=20.0,
            backfill_wait_s=60.0,
            history_total_timeout_s=20.0,
            history_hint_timeout_s=20.0,
        )

    def get(self, path: str) -> Any:
        answer = self.front.get(path)
        assert answer.status == 200, answer.body
        return answer.json

    def candles(self, start: int, stop: int, more: str = "") -> Any:
        return self.get(f"{CANDLES}&start_time={start}&end_time={stop - 1}{more}")

    def send(self, method: str, path: str, body: Any = None) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.front.port, timeout=DEADLINE_S * 3)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def create(self, start: int, stop: int, **body: Any) -> Answered:
        whole = {"symbol": "BTC-USDT-PERP", "interval": "1m", "start_time": start, "end_time": stop, **body}
        return self.send("POST", "/api/v1/temp-data/create", whole)

    def asked(self, endpoint: str = "klines") -> int:
        """Requests that the exchange has had."""
        with urllib.request.urlopen(f"{self.url}/sim/status", timeout=DEADLINE_S) as answer:
            return json.load(answer)["rest"].get(f"usdm:{endpoint}", 0)

    def fault(self, **fault: Any) -> None:
        request = urllib.request.Request(f"{self.url}/sim/faults", json.dumps(fault).encode())
        urllib.request.urlopen(request, timeout=DEADLINE_S).close()

    def metric(self, name: str, **labels: str) -> float:
        return metric_of(read_page(self.folder / "keeper.page"), name, labels)

    def stored(self, at: int, where: str = "1") -> int:
        """Bars that are stored of a day."""
        return self.count("klines", f"toUnixTimestamp64Milli(open_ts) BETWEEN {at - HOUR} AND {at + DAY} AND {where}")

    def count(self, table: str, where: str) -> int:
        question = f"SELECT count() FROM {self.server.database}.{table} WHERE instrument != 'XYZ-USDT-PERP' AND {where}"
        request = urllib.request.Request(
            self.server.url, question.encode(),
            {"X-ClickHouse-User": "default", "X-ClickHouse-Key": Path(self.server.password_file).read_text().strip()},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return int(answer.read())

    @contextlib.contextmanager
    def exchange_stopped(self) -> Iterator[None]:
        self.exchange.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.exchange.send(signal.SIGCONT)

    def in_thread(self, call: Any, *arguments: Any) -> tuple[threading.Thread, list[Any]]:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(call(*arguments)))
        thread.start()
        return thread, found

    def fetching(self) -> None:
        wait_for("a range under way", lambda: self.metric("tickring_keeper_ranges_in_work") == 1)


@contextlib.contextmanager
def running(tmp_path: Path, server: Server, exchange: Actor, **keeper: Any) -> Iterator[Desk]:
    with instance_folder() as folder:
        desk = Desk(folder, tmp_path, server, exchange, **keeper)
        try:
            desk.keeper.start()
            with desk.front as front:
                eventually(lambda: front.front.history.alive, "the engine answers the probe")
                yield desk
        finally:
            desk.keeper.kill()
            desk.producer.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, engine: Actor, exchange: Actor) -> Iterator[Desk]:
    password = str(engine.data / "clickhouse" / "password")
    server = Server(url=engine.detail()["url"], password_file=password, database="keeper", timeout_s=20.0)
    with running(tmp_path_factory.mktemp("keeper"), server, exchange, bars_max=300, temporary_ranges_max=4) as desk:
        yield desk


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper that says `pending` in time may be late with it: here the front takes none for away that is there."""
    monkeypatch.setattr("tickring.actors.keeper.protocol.GRACE_S", 60.0)


@pytest.fixture
def desk(shared: Desk) -> Iterator[Desk]:
    """With a keeper that runs, and patience."""
    if shared.keeper.process.poll() is not None:
        shared.keeper.start()
    config = shared.front.front.state.config
    patience_s = config.backfill_wait_s
    yield shared
    config.backfill_wait_s = patience_s
    wait_for("no range under way", lambda: shared.metric("tickring_keeper_ranges_in_work") == 0)


@pytest.fixture
def at() -> int:
    """Begin of a day, UNIX ms, of which no other test has asked."""
    return next(_days)


# -- bars on demand -----------------------------------------------------------------------------------------------


def test_range_that_nobody_holds_is_fetched_once_and_then_read_from_history(desk: Desk, at: int) -> None:
    before = desk.asked()
    body = desk.candles(at, at + 200 * MINUTE)
    told = body["metadata"]
    assert (told["data_source"], told["completeness"], told["backfill"]) == ("rest_api", 100, "complete")
    assert [row["timestamp"] for row in body["data"]] == [at + i * MINUTE for i in range(199, -1, -1)]
    assert {(row["source"], row["closed"], row["partial"]) for row in body["data"]} == {("rest", True, False)}
    with urllib.request.urlopen(
        f"{desk.url}/fapi/v1/klines?symbol=BTCUSDT&interval=1m&startTime={at}&limit=200", timeout=DEADLINE_S
    ) as answer:
        sent = json.load(answer)
    shown = [[row["timestamp"], *(row[name] for name in ("open", "high", "low", "close"))] for row in body["data"]]
    assert shown[::-1] == [[row[0], *map(float, row[1:5])] for row in sent]
    again = desk.candles(at, at + 200 * MINUTE)
    assert (again["data"], again["metadata"]["data_source"]) == (body["data"], "database")
    assert "backfill" not in again["metadata"]
    wider = desk.candles(at - 10 * MINUTE, at + 210 * MINUTE)
    assert (len(wider["data"]), wider["metadata"]["data_source"]) == (220, "mixed")
    arrays = desk.get(f"/api/v1/klines?symbol=BTCUSDT&interval=5m&startTime={at + 2 * HOUR}&limit=24&decimals=string")
    assert (len(arrays["data"]), arrays["metadata"]["completeness"]) == (24, 100)
    assert desk.stored(at) == desk.stored(at, f"epoch = {BACKFILL_EPOCH}") == 200 + 20 + 30
    # once for the first range and once by this test; the wider one spans both its ends, the last one follows it
    assert desk.asked() == before + 4


def test_range_beyond_the_most_is_fetched_piece_by_piece(desk: Desk, at: int) -> None:
    bodies = [desk.candles(at, at + 800 * MINUTE) for _ in range(3)]
    told = [(body["metadata"]["completeness"], body["metadata"]["backfill"]) for body in bodies]
    assert told == [(37.5, "partial"), (75.0, "partial"), (100.0, "complete")]
    assert ["ask again" in body["metadata"].get("note", "") for body in bodies] == [True, True, False]
    assert [body["pagination"]["has_next"] for body in bodies] == [True, True, False]
    start = next(_days)
    first = desk.get(f"/api/v1/candles/ohlcv?symbol=BTC-USDT-PERP&start_time={start}&limit=400")
    assert (len(first["data"]), first["data"][0][0]) == (300, start)


def followed(desk: Desk, interval: str, start: int, stop: int, limit: int = 1000) -> tuple[dict[int, Any], list[str]]:
    """All bars of a range by their time, as cursors lead through it, and what was told of fetching on the way."""
    path = f"/api/v1/candles/BTC-USDT-PERP/{interval}?time=ms&start_time={start}&end_time={stop - 1}&limit={limit}"
    rows, told, more = {}, [], ""
    while more is not None:
        body = desk.get(path + more)
        rows |= {row["timestamp"]: row for row in body["data"]}
        told.append(body["metadata"].get("backfill", ""))
        cursor = body["pagination"]["next_cursor"]
        assert body["pagination"]["has_next"] is (cursor is not None) and len(told) < 100
        more = None if cursor is None else f"&cursor={cursor}"
    return rows, told


def test_longer_bars_of_more_than_is_fetched_at_once_all_come_whole_to_who_follows_the_cursor(
    desk: Desk, at: int
) -> None:
    rows, told = followed(desk, "1h", at, at + 20 * HOUR)
    assert told == ["partial", "partial", "partial", "complete"]  # 1,200 bars of a minute, 300 at once
    assert sorted(rows) == [at + i * HOUR for i in range(20)]
    assert not any(row["partial"] for row in rows.values())
    again = desk.get(f"/api/v1/candles/BTC-USDT-PERP/1h?start_time={at}&end_time={at + 20 * HOUR - 1}&limit=1000")
    assert (again["metadata"]["completeness"], again["pagination"]["has_next"]) == (100, False)
    assert "backfill" not in again["metadata"]


def test_range_rolled_up_from_more_bars_than_one_answer_takes_goes_on_at_the_cursor(
    desk: Desk, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tickring.actors.front.bars.BASE_BARS_MAX", 150)
    rows, told = followed(desk, "1h", at + 1, at + 5 * HOUR)
    assert sorted(rows) == [at + i * HOUR for i in range(1, 5)]  # the first one begins before the range
    assert not any(row["partial"] for row in rows.values()) and set(told) <= {"", "complete"}
    first = desk.get(f"/api/v1/candles/BTC-USDT-PERP/1h?start_time={at}&end_time={at + 5 * HOUR - 1}&limit=1000")
    assert (len(first["data"]), first["metadata"]["completeness"], first["pagination"]["has_next"]) == (2, 100, True)
    arrays = (
        f"/api/v1/candles/ohlcv?symbol=BTC-USDT-PERP&interval=1h&start_time={at + HOUR}&end_time={at + 5 * HOUR - 1}"
    )
    assert [row[0] for row in desk.get(arrays)["data"]] == [at + HOUR, at + 2 * HOUR]
    newest = f"/api/v1/candles/BTC-USDT-PERP/1h?end_time={at + 5 * HOUR - 1}&limit=5"
    assert desk.get(newest)["pagination"]["has_next"]
    monkeypatch.setattr("tickring.actors.front.bars.BASE_BARS_MAX", 50)  # less than one bar takes
    rows, _ = followed(desk, "1h", at + HOUR, at + 5 * HOUR)
    assert len(rows) == 4 and not any(row["partial"] for row in rows.values())


def test_parts_of_a_bar_that_begins_before_the_range_are_not_fetched(desk: Desk, at: int) -> None:
    desk.get(f"/api/v1/candles/BTC-USDT-PERP/4h?start_time={at + 1}&end_time={at + 5 * HOUR}&limit=10")
    assert desk.stored(at, f"open_ts < fromUnixTimestamp64Milli({at + 4 * HOUR})") == 0
    assert desk.stored(at) == 240


def test_slow_exchange_leaves_an_incomplete_answer_and_the_keeper_goes_on(desk: Desk, at: int) -> None:
    desk.front.front.state.config.backfill_wait_s = 0.3
    with desk.exchange_stopped():
        told = desk.candles(at, at + 20 * MINUTE)["metadata"]
        assert (told["backfill"], told["completeness"], told["count"]) == ("pending", 0, 0)
    wait_for("the bars", lambda: desk.candles(at, at + 20 * MINUTE)["metadata"]["completeness"] == 100)


def test_requests_for_the_same_range_share_one_fetch(desk: Desk, at: int) -> None:
    before = desk.asked()
    with desk.exchange_stopped():
        threads = [desk.in_thread(desk.candles, at, at + 100 * MINUTE) for _ in range(6)]
        desk.fetching()
    for thread, found in threads:
        thread.join(DEADLINE_S * 3)
        assert found[0]["metadata"]["completeness"] == 100
    assert desk.asked() == before + 1 and desk.stored(at) == 100


def test_keeper_killed_during_a_fetch_leaves_an_answer_that_says_so(desk: Desk, at: int) -> None:
    with desk.exchange_stopped():
        thread, found = desk.in_thread(desk.candles, at, at + 30 * MINUTE)
        desk.fetching()
        desk.keeper.kill()
        thread.join(DEADLINE_S * 3)
    told = found[0]["metadata"]
    assert (told["backfill"], told["count"]) == ("unavailable", 0) and "keeper" in told["note"]
    assert desk.candles(at, at + 30 * MINUTE)["metadata"]["backfill"] == "unavailable"
    assert_error(desk.create(at, at + 50 * MINUTE), 503, "SERVICE_UNAVAILABLE")
    desk.keeper.start()
    assert desk.candles(at, at + 30 * MINUTE)["metadata"]["completeness"] == 100
    wait_for("the front's count", lambda: told_unavailable(desk) >= 2)
    assert desk.keeper.stop() == 0 and not (desk.folder / "keeper.sock").exists()


def told_unavailable(desk: Desk) -> float:
    return metric_of(
        read_page(desk.folder / "front-0.page"), "tickring_front_backfill_total", {"outcome": "unavailable"}
    )


def test_refusal_of_the_exchange_is_said_and_obeyed(desk: Desk, at: int) -> None:
    before = desk.asked()
    desk.fault(fault="rest_status", product="usdm", status=429, retry_after_s=8)
    told = desk.candles(at, at + 10 * MINUTE)["metadata"]
    assert told["backfill"] == "unavailable" and "429" in told["note"]
    desk.front.front.state.config.backfill_wait_s = 0.1
    assert desk.candles(at, at + 10 * MINUTE)["metadata"]["backfill"] == "pending"
    assert desk.asked() == before + 1  # nobody asks while the address is refused
    wait_for("the bars", lambda: desk.candles(at, at + 10 * MINUTE)["metadata"]["completeness"] == 100)
    wait_for("its count", lambda: desk.metric("tickring_keeper_rest_total", status="429") == 1)
    assert desk.metric("tickring_keeper_failures_total", at="exchange") >= 1


def test_bars_that_the_exchange_does_not_have_are_asked_for_once(desk: Desk, at: int) -> None:
    before, start = desk.asked(), LISTED_MS - 5 * MINUTE
    for _ in range(3):
        body = desk.candles(start, LISTED_MS + 5 * MINUTE)
        assert (body["metadata"]["completeness"], body["metadata"]["backfill"]) == (50, "complete")
    assert desk.asked() == before + 1


def test_newest_bars_and_ranges_without_a_start_are_never_fetched(desk: Desk, at: int) -> None:
    for path in (CANDLES, f"{CANDLES}&end_time={at}", f"{CANDLES}&cursor={at}"):
        assert "backfill" not in desk.get(path)["metadata"]


# -- temporary ranges ---------------------------------------------------------------------------------------------


def test_temporary_range_brings_what_is_missing_and_takes_only_that_away(desk: Desk, at: int) -> None:
    desk.candles(at, at + 10 * MINUTE)  # is there for good
    made = desk.create(at, at + 50 * MINUTE, ttl_minutes=30)
    assert made.status == 201
    data = made.json["data"]
    assert (data["status"], data["bars"], data["fetched"]) == ("ready", 50, 40)
    assert (data["instrument"], data["interval"], data["ttl_minutes"]) == ("BTC-USDT-PERP", "1m", 30)
    other = desk.create(at + 40 * MINUTE, at + 60 * MINUTE).json["data"]
    assert other["fetched"] == 20  # ten of them also lie in a range that may go before it
    told = desk.candles(at, at + 60 * MINUTE)["metadata"]
    assert (told["data_source"], told["completeness"]) == ("database", 100)
    gone = desk.send("DELETE", f"/api/v1/temp-data/{data['temp_id']}")
    assert (gone.status, gone.json["data"]) == (200, {"temp_id": data["temp_id"], "status": "deleted"})
    assert desk.stored(at) == 10 + 20
    assert_error(desk.send("DELETE", f"/api/v1/temp-data/{data['temp_id']}"), 404, "NOT_FOUND")
    again = desk.candles(at, at + 60 * MINUTE)
    assert (again["metadata"]["completeness"], again["metadata"]["data_source"]) == (100, "mixed")


def expire(desk: Desk) -> None:
    """What the file says after the time of all ranges is over."""
    file = desk.keeper.data / "keeper" / "temporary.json"
    ranges = json.loads(file.read_bytes())
    file.write_text(json.dumps([{**one, "expires_ns": time.time_ns()} for one in ranges]))


def test_temporary_range_outlives_its_keeper_and_ends_with_the_next(desk: Desk, at: int) -> None:
    assert desk.create(at, at + 50 * MINUTE).json["data"]["fetched"] == desk.stored(at) == 50
    desk.keeper.kill()
    desk.keeper.start()
    assert desk.stored(at) == 50
    desk.keeper.kill()
    expire(desk)
    desk.keeper.start()
    wait_for("no bars", lambda: desk.stored(at) == 0)
    wait_for("it counted", lambda: desk.metric("tickring_keeper_temporary_removed_total") >= 1)


def test_keeper_killed_before_a_temporary_range_was_fetched_fetches_it_later(desk: Desk, at: int) -> None:
    desk.front.front.state.config.backfill_wait_s = 0.1
    with desk.exchange_stopped():
        assert desk.create(at, at + 50 * MINUTE).json["data"]["status"] == "pending"
        desk.keeper.kill()
    desk.keeper.start()
    wait_for("the bars", lambda: desk.stored(at) == 50)


def test_temporary_range_deleted_while_it_is_fetched_leaves_nothing(desk: Desk, at: int) -> None:
    desk.front.front.state.config.backfill_wait_s = 0.2
    with desk.exchange_stopped():
        temp_id = desk.create(at, at + 50 * MINUTE).json["data"]["temp_id"]
        gone = desk.send("DELETE", f"/api/v1/temp-data/{temp_id}")
        assert (gone.status, gone.json["data"]["status"]) == (200, "pending")
    wait_for("its end", lambda: desk.send("DELETE", f"/api/v1/temp-data/{temp_id}").status == 404)
    assert desk.stored(at) == 0


def test_temporary_range_waits_for_an_exchange_that_refuses(desk: Desk, at: int) -> None:
    desk.fault(fault="rest_status", product="usdm", status=503)
    made = desk.create(at, at + 50 * MINUTE)
    assert (made.status, made.json["data"]["status"]) == (201, "pending") and "503" in made.json["metadata"]["note"]
    wait_for("the bars", lambda: desk.stored(at) == 50)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"symbol": None}, "INVALID_PARAMETER"),
        ({"interval": "7m"}, "INVALID_PARAMETER"),
        ({"interval": None}, "INVALID_PARAMETER"),
        ({"start_time": "yesterday"}, "INVALID_PARAMETER"),
        ({"end_time": None}, "INVALID_PARAMETER"),
        ({"ttl_minutes": 0}, "INVALID_PARAMETER"),
        ({"ttl_minutes": 10**9}, "INVALID_PARAMETER"),
        ({"ttl_minutes": [1]}, "INVALID_PARAMETER"),
        (lambda at: {"end_time": at}, "INVALID_TIME_RANGE"),
        ({"start_time": NOW + DAY, "end_time": NOW + 2 * DAY}, "INVALID_TIME_RANGE"),
        ({"start_time": NOW - 200 * DAY}, "TIME_RANGE_TOO_LARGE"),
    ],
)
def test_wrong_temporary_range_is_400(desk: Desk, at: int, body: Any, code: str) -> None:
    made = desk.create(at, at + 50 * MINUTE, **body(at) if callable(body) else body)
    assert_error(made, 400, code)


def test_temporary_range_that_cannot_be_is_refused(desk: Desk, at: int) -> None:
    assert_error(desk.create(at, at + MINUTE, symbol="NOPE-USDT"), 404, "NOT_FOUND")
    assert_error(desk.send("POST", "/api/v1/temp-data/create", [1]), 400, "INVALID_PARAMETER", "body")
    assert_error(desk.send("POST", "/api/v1/temp-data/create"), 400, "INVALID_PARAMETER", "body")
    assert_error(desk.send("GET", "/api/v1/temp-data/create"), 405, "METHOD_NOT_ALLOWED")
    assert_error(desk.send("GET", "/api/v1/temp-data/12"), 405, "METHOD_NOT_ALLOWED")
    assert_error(desk.send("DELETE", "/api/v1/temp-data/12"), 404, "NOT_FOUND")
    answers = [desk.create(at, at + 2 * MINUTE) for _ in range(5)]
    assert_error(answers[-1], 503, "SERVICE_UNAVAILABLE")
    for answer in answers:
        if answer.status == 201:
            desk.send("DELETE", f"/api/v1/temp-data/{answer.json['data']['temp_id']}")


# -- settled funding rates ----------------------------------------------------------------------------------------


def payments(desk: Desk) -> list[tuple[int, float]]:
    url = f"{desk.url}/fapi/v1/fundingRate?symbol=BTCUSDT&limit=1000&startTime={NOW - 300 * DAY}"
    with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
        rows = json.load(answer)
    return [(row["fundingTime"], float(row["fundingRate"])) for row in rows]


def test_settled_rates_are_complete_after_a_start_and_shown_in_order(
    tmp_path: Path, server: Server, exchange: Actor
) -> None:
    with running(tmp_path, server, exchange, funding=True) as desk:
        paid = payments(desk)
        wait_for("the last payment of both", lambda: desk.count("fundings", f"nth = {paid[-1][0]}") == 2)
        path = "/api/v1/funding/BTC-USDT?time=ms&decimals=number"
        rows = desk.get(f"{path}&start_time={NOW - 300 * DAY}&limit=1000&settled=true")
        assert [(row["timestamp"], row["rate"]) for row in rows["data"]] == paid[::-1]
        assert {row["is_settlement"] for row in rows["data"]} == {True}
        assert {row["funding_interval_h"] for row in rows["data"]} == {8}
        assert rows["metadata"]["data_source"] == "database"
        # what the stream told lies between them
        key_id = 0
        told = sorted({*(at * 10**6 for at, _ in paid[-3:]), *(at * 10**6 + 5 * 10**8 for at, _ in paid[-6:])})
        for at in told:
            desk.producer.publish["funding"](key_id, at, at, 0, 0.5, 0.0, 1, 8, 0.0, 0.0)
        seen, cursor = [], ""
        while True:
            body = desk.get(f"{path}&limit=4&start_time={paid[-10][0]}{cursor}")
            seen += [(row["timestamp"], row["is_settlement"]) for row in body["data"]]
            if body["pagination"]["next_cursor"] is None:
                break
            cursor = f"&cursor={body['pagination']['next_cursor']}"
        whole = desk.get(f"{path}&limit=1000&start_time={paid[-10][0]}")["data"]
        assert seen == [(row["timestamp"], row["is_settlement"]) for row in whole]
        assert sorted(at for at, settled in seen if settled) == [at for at, _ in paid[-10:]]
        assert sorted(at for at, settled in seen if not settled) == [at // 10**6 for at in told]
        assert [at // 1000 for at, _ in seen] == sorted((at // 1000 for at, _ in seen), reverse=True)
        paged = desk.get(f"{path}&page=2&page_size=5&start_time={paid[-10][0]}")
        assert [(row["timestamp"], row["is_settlement"]) for row in paged["data"]] == seen[5:10]
        assert paged["pagination"]["total"] == len(seen)
        stats = desk.get("/api/v1/funding/stats?symbol=BTC-USDT&days=3&decimals=number")["data"]
        recent = [rate for at, rate in paid if at >= time.time_ns() // 10**6 - 3 * DAY]
        assert (stats["total_records"], stats["basis"]) == (len(recent), "settled")
        assert stats["rate_statistics"]["max"] == pytest.approx(max(recent))
        assert desk.get("/api/v1/health/data-integrity/BTC-USDT-PERP")["data"]["records"]["funding"]["missing"] == 0


def test_only_payments_that_are_missing_are_fetched(tmp_path: Path, server: Server, exchange: Actor) -> None:
    with running(tmp_path, server, exchange, funding=True, funding_history_days=10) as desk:
        wait_for("both", lambda: desk.metric("tickring_keeper_settlements_total") >= 58)
        rows, asked = desk.count("fundings", "1"), desk.asked("fundingRate")
        desk.keeper.kill()
        desk.keeper.start()
        time.sleep(0.5)  # it would have asked by now
        assert desk.asked("fundingRate") == asked and desk.count("fundings", "1") == rows
        assert desk.count("fundings", f"flags != {int(Flag.SETTLED | Flag.BACKFILL)}") == 0


def test_keeper_that_nobody_asks_sleeps(desk: Desk, at: int) -> None:
    def ticks() -> int:
        fields = Path(f"/proc/{desk.keeper.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before, since = ticks(), time.monotonic()
    time.sleep(2.0)
    share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - since)
    assert share <= 0.2  # a tick or two, and what the machine adds; a loop that spins takes all
