"""Our own description against the front: whatever it allows or forbids, the answer is one that it describes."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from tickring.actors.front.server import all_endpoints
from tickring.codecs.desk.canonical import Alert, Event, Fill, Performance, Risk
from tickring.codecs.desk.money import UNIT
from tickring.codecs.records import MARKET_RECORDS
from tickring.storage.client import Client, Server
from tickring.storage.deskschema import ensure_desk
from tickring.storage.schema import SchemaOptions, ensure_schema

from ..desk.desk_rig import Alerts, Portfolio, Topic
from ..storage.processes import Actor
from .front_rig import FrontThread, Producer, engine_fixture, instance_folder, instrument  # noqa: F401 - a fixture
from .test_front_market import Rig
from .test_front_rest import eventually

schemathesis = pytest.importorskip("schemathesis", reason="pip install 'tickring[test]'")
requests = pytest.importorskip("requests")

from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
EXAMPLES = 6  # of each operation and mode
KNOWN = {
    "symbol": ["BTC-USDT-PERP", "BTCUSDT", "btc/usdt", "BTC-USDT", "BTC-USDT-SWAP"], "exchange": ["binance"],
    "interval": ["1m", "3m", "1h"],
}  # fmt: skip
# Nothing is published while the questions are asked: that must not make the front unhealthy.
PATIENT = {"history_timeout_s": 20.0, "history_hint_timeout_s": 20.0, "health_grace_s": 86_400.0}
RULES = "/api/v1/alerts/rules"  # asks the alerts actor, who is not there
LARGE = ("/docs/", "/redoc")  # files of megabytes: once is enough


@pytest.fixture(scope="module")
def front(engine: Actor) -> Iterator[FrontThread]:
    """Everything in memory, and a ClickHouse with the tables, so that odd times and cursors become queries too."""
    server = Server(
        url=engine.detail()["url"], password_file=str(engine.data / "clickhouse" / "password"), timeout_s=20.0
    )  # fmt: skip
    asyncio.run(make_tables(server))
    with instance_folder() as folder:
        rig = Rig(folder)
        spot = Producer(folder, "feed-binance-spot-0")
        key_id = spot.add(instrument("BTC"))
        spot.trades(key_id, 300)
        spot.quote(key_id)
        spot.book(key_id, 100)
        some_desk(folder)
        with FrontThread(folder, history=True, clickhouse=server, history_probe_s=0.1, **PATIENT) as front:
            eventually(lambda: front.front.history.alive, "the engine answers the probe")
            yield front
            assert front.front.history.error == "" and front.front.history._failed.value == 0, (
                "ClickHouse refused a query"
            )
        spot.close()
        rig.feed.close()


def some_desk(folder: Path) -> None:
    """A little of everything that the desk's endpoints tell."""
    now = time.time_ns()
    common: dict[str, Any] = {"timestamp": now, "strategy_id": "dipmaster", "account_id": "default"}
    said: list[Event] = [
        Risk(event_id="r", variant="api", var_1d=41 * UNIT, risk_score=34.0, daily_pnl=-UNIT, **common),
        Performance(
            event_id="p", variant="mon-rich", strategy_name="Dip", total_trades=4, winning_trades=3, losing_trades=1,
            win_rate=0.75, total_pnl=UNIT, **common,
        ),
    ]  # fmt: skip
    for topic, event in zip(("risk.metrics.v1", "strategy.performance.v1"), said, strict=True):
        Topic(folder, topic).say(event)
    Topic(folder, "exec.reports.v1").fill(
        Fill(fill_id="f-31", symbol="SOLUSDT", side="SELL", quantity=5 * 10**19, price=714, venue="binance", **common)
    )
    portfolio = Portfolio(folder)
    portfolio.position("default", "dipmaster", "binance", "SOLUSDT", quantity=-UNIT, market_value=-100 * UNIT)
    portfolio.pnl("default", realized_pnl=UNIT, total_pnl=UNIT, gross_profit=UNIT, winning_trips=1)
    portfolio.pnl("default", symbol="SOLUSDT", realized_pnl=UNIT, total_pnl=UNIT)
    Alerts(folder).put(Alert(event_id="a", variant="", timestamp=now, alert_id="al-301", severity="INFO", context="{}"))


async def make_tables(server: Server) -> None:
    client = Client(server)
    await ensure_schema(client, MARKET_RECORDS, SchemaOptions(database=server.database))
    await ensure_desk(client, SchemaOptions(database=server.database))
    await client.close()


def narrowed(document: dict[str, Any]) -> dict[str, Any]:
    """The description with names in it that there are, so that most answers are 200."""
    known = copy.deepcopy(document)
    for item in known["paths"].values():
        for parameter in [one for operation in item.values() for one in operation["parameters"]]:
            if parameter["name"] in KNOWN:
                parameter["schema"] = {"enum": KNOWN[parameter["name"]]}
                parameter.pop("example", None)
    return known


@pytest.mark.timeout(1200)  # on a slow machine each mode takes minutes
@pytest.mark.parametrize("mode", ["known", "positive", "negative"])
def test_every_answer_matches_its_description(front: FrontThread, mode: str) -> None:
    document = front.get("/openapi.json").json
    schema = schemathesis.openapi.from_dict(narrowed(document) if mode == "known" else document)
    generation = GenerationMode.NEGATIVE if mode == "negative" else GenerationMode.POSITIVE
    answered: dict[int, int] = {}
    session = requests.Session()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.startswith(LARGE) and mode != "known":
            continue

        @given(case=operation.as_strategy(generation_mode=generation))
        @settings(
            max_examples=1 if operation.path.startswith(LARGE) else EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),
        )
        def check(case: Any) -> None:
            response = case.call(base_url=f"http://127.0.0.1:{front.port}", session=session)
            answered[response.status_code] = answered.get(response.status_code, 0) + 1
            # nobody is there who would carry out what a write asks for: 503, as it is described
            assert response.status_code != 500, response.text
            away = case.method != "GET" or case.path == RULES
            case.validate_response(response, checks=CHECKS[1:] if away else CHECKS)

        if mode == "negative" and not operation.query and not operation.path_parameters:
            continue  # nothing can be wrong
        with contextlib.suppress(Unsatisfiable):  # any text is right for some parameters
            check()
    session.close()
    assert answered.get(200, 0) > (200 if mode == "known" else 0), answered
    if mode == "negative":
        assert answered.get(400, 0) > 100, answered


def test_description_is_complete(front: FrontThread) -> None:
    """Every path and record is in it, and everything that it refers to."""
    document = front.get("/openapi.json").json
    paths = set(document["paths"])
    assert {endpoint.path for endpoint in all_endpoints(front.front.state)} <= paths
    for base in ("trades", "candles", "funding"):
        assert {f"/api/v1/{base}", f"/api/v1/{base}/latest", f"/api/v1/{base}/stats"} <= paths
    records = {"trade", "quote", "kline", "ticker", "mark_price", "funding", "open_interest", "liquidation"}
    assert records <= document["components"]["schemas"].keys()
    assert len(json.dumps(document)) < 1 << 20
