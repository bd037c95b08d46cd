"""PnL and positions over REST: canonical and DipMaster's shapes, from the portfolio's streams."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.actors.front.desk.cursors import Cursor
from tickring.codecs.desk.money import UNIT

from ..actors.front_rig import FrontThread
from .desk_rig import Portfolio


@pytest.fixture
def portfolio(tmp_path: Path) -> Iterator[Portfolio]:
    made = Portfolio(tmp_path, keys_max=128)
    yield made
    made.close()


@pytest.fixture
def front(tmp_path: Path, portfolio: Portfolio) -> Iterator[FrontThread]:
    with FrontThread(tmp_path) as running:
        yield running


def pnl_values(realized: int, unrealized: int, **more: Any) -> dict[str, Any]:
    return {
        "realized_pnl": realized * UNIT, "unrealized_pnl": unrealized * UNIT, "fees": 2 * UNIT,
        "total_pnl": (realized + unrealized - 2) * UNIT, "day_start_pnl": 3 * UNIT, "week_start_pnl": 2 * UNIT,
        "month_start_pnl": UNIT, "winning_trips": 3, "losing_trips": 1, "gross_profit": 30 * UNIT,
        "gross_loss": 12 * UNIT, "max_drawdown": 0.031, "sharpe_ratio": 1.6, "fill_count": 8, "volume": 1000 * UNIT,
        **more,
    }  # fmt: skip


def hold(portfolio: Portfolio, symbol: str = "SOLUSDT", quantity: int = 10, price: int = 100, **more: Any) -> None:
    account, strategy = more.pop("account", "default"), more.pop("strategy", "dipmaster")
    value = quantity * price * UNIT
    portfolio.position(
        account, strategy, "binance", symbol,
        **{"quantity": quantity * UNIT, "cost": value - 5 * UNIT, "avg_price": (price * UNIT - UNIT // 2),
           "mark_price": price * UNIT, "market_value": value, "unrealized_pnl": 5 * UNIT, "trade_count": 1, **more},
    )  # fmt: skip


def test_the_summary_tells_what_the_portfolio_has(front: FrontThread, portfolio: Portfolio) -> None:
    portfolio.pnl("default", **pnl_values(18, 4))
    assert front.data("/api/v1/pnl/summary?decimals=string") == {
        "total_realized_pnl": "18", "total_unrealized_pnl": "4", "total_pnl": "20", "daily_pnl": "17",
        "weekly_pnl": "18", "monthly_pnl": "19", "win_rate": "75", "profit_factor": "2.5", "max_drawdown": "3.1",
        "sharpe_ratio": "1.6",
    }  # fmt: skip
    assert front.data("/api/v1/pnl/summary")["total_pnl"] == 20.0
    assert front.get("/api/pnl/summary").json["win_rate"] == "75"


def test_the_newest_state_is_told_at_once(front: FrontThread, portfolio: Portfolio) -> None:
    for realized in (1, 2, 3):
        portfolio.pnl("default", **pnl_values(realized, 0))
        assert front.data("/api/v1/pnl/realtime")["total_realized_pnl"] == float(realized)


def test_legacy_pnl_is_that_of_all_accounts_together(front: FrontThread, portfolio: Portfolio) -> None:
    portfolio.pnl("default", **pnl_values(18, 4))
    portfolio.pnl("acct-7", **pnl_values(2, 0))
    portfolio.pnl("acct-7", symbol="SOLUSDT", **pnl_values(2, 0))
    found = front.get("/api/pnl").json
    assert set(found) == {
        "success", "timestamp", "summary", "timeseries", "by_symbol", "query_params", "execution_time_ms",
    }  # fmt: skip
    assert found["summary"]["total_realized_pnl"] == "20" and found["by_symbol"]["SOLUSDT"]["realized_pnl"] == "2"
    assert found["timeseries"][-1]["value"] == "20"
    assert front.get("/api/pnl?symbol=SOL-USDT").json["by_symbol"] == {}
    assert front.get("/api/pnl/realtime?symbol=SOLUSDT").json["total_realized_pnl"] == 2.0
    assert front.get("/api/pnl?start_time=2025-01-01&end_time=2025-12-01").status == 400, "more than 90 days"


def test_the_curve_ends_with_the_interval_that_is_not_over(front: FrontThread, portfolio: Portfolio) -> None:
    portfolio.pnl("default", **pnl_values(18, 4))
    answer = front.get("/api/v1/pnl").json
    (point,) = answer["data"]
    assert point["symbol"] == "ALL" and point["cumulative_pnl"] == 20.0
    assert answer["metadata"]["summary"]["total_pnl"] == 20.0 and answer["count"] == 1


def test_symbol_in_two_spellings_is_one(front: FrontThread, portfolio: Portfolio) -> None:
    portfolio.pnl("default", symbol="SOLUSDT", **pnl_values(18, 4))
    portfolio.pnl("acct-7", symbol="SOL-USDT", **pnl_values(7, 0))
    for symbol in ("SOL-USDT", "solusdt"):
        path = f"/api/v1/pnl/realtime?symbol={symbol}&account_id="
        realized = [front.data(path + account)["total_realized_pnl"] for account in ("default", "acct-7", "*")]
        assert realized == [18.0, 7.0, 25.0]
        (point,) = front.data(f"/api/v1/pnl?symbol={symbol}&account_id=*")
        assert point["cumulative_pnl"] == 25.0
        assert front.get(f"/api/performance?symbol={symbol}").json["cumulative_pnl"][-1]["value"] == "25"


def test_summary_of_a_range_needs_history(front: FrontThread, portfolio: Portfolio) -> None:
    portfolio.pnl("default", **pnl_values(18, 4))
    for path in ("/api/v1/pnl/summary", "/api/pnl/summary", "/api/v1/performance/summary", "/api/performance/trades"):
        assert front.get(path).status == 200
        answer = front.get(f"{path}?start_time={time.time_ns() // 10**6 - 3_600_000}")
        assert answer.status == 503 and "ClickHouse" in str(answer.json)
        assert front.get(f"{path}?start_time=2026-01-02&end_time=2026-01-01").status == 400


def test_summary_of_a_list_is_of_the_symbols_that_are_named(front: FrontThread, portfolio: Portfolio) -> None:
    portfolio.pnl("default", **pnl_values(30, 0))
    for number, symbol in enumerate(("SOLUSDT", "ETHUSDT", "BTCUSDT"), 1):
        portfolio.pnl("default", symbol=symbol, **pnl_values(number, 0))
    metadata = front.get("/api/v1/pnl?symbols=SOL-USDT,ETHUSDT").json["metadata"]
    assert metadata["summary"]["total_realized_pnl"] == 3.0
    assert set(metadata["by_symbol"]) == {"SOLUSDT", "ETHUSDT"}


def test_without_a_portfolio_everything_is_nothing(tmp_path: Path) -> None:
    with FrontThread(tmp_path) as front:
        assert front.data("/api/v1/pnl") == [] and front.data("/api/v1/positions") == []
        assert front.get("/api/pnl/summary").json["total_pnl"] == "0"
        assert front.get("/api/positions").json["current_positions"] == []


def test_positions_say_what_is_held_and_where(front: FrontThread, portfolio: Portfolio) -> None:
    hold(portfolio)
    hold(portfolio, "ETHUSDT", -2, 2000)
    hold(portfolio, "BTCUSDT", 0, 0)
    hold(portfolio, account="acct-7")
    answer = front.get("/api/v1/positions").json
    sol, eth = answer["data"]
    assert sol["quantity"] == 10.0 and sol["position_side"] == "LONG" and sol["venue"] == "binance"
    assert eth["position_side"] == "SHORT" and eth["market_value"] == -4000.0
    assert answer["metadata"]["summary"] == {
        "total_positions": 2, "total_exposure": 5000.0, "total_market_value": -3000.0, "largest_position_pct": 80.0,
        "concentration_risk": "HIGH",
    }  # fmt: skip
    assert len(front.data("/api/v1/positions?account_id=*")) == 3
    assert [row["symbol"] for row in front.data("/api/v1/positions?symbol=ETH-USDT")] == ["ETHUSDT"]


def test_positions_now_are_those_of_the_symbol_asked_for(front: FrontThread, portfolio: Portfolio) -> None:
    hold(portfolio)
    hold(portfolio, "ETHUSDT", -2, 2000)
    for path in ("/api/v1/positions/current", "/api/v1/positions"):
        assert [row["symbol"] for row in front.data(path)] == ["SOLUSDT", "ETHUSDT"]
        assert [row["symbol"] for row in front.data(f"{path}?symbol=eth-usdt")] == ["ETHUSDT"]
        answer = front.get(f"{path}?symbol=NOSUCH").json
        assert (answer["data"], answer["count"], answer["metadata"]["count"]) == ([], 0, 0)


def test_positions_now_come_in_pages(front: FrontThread, portfolio: Portfolio) -> None:
    symbols = [f"C{n:03}USDT" for n in range(103)]
    for symbol in symbols:
        hold(portfolio, symbol)
    hold(portfolio, "FLATUSDT", 0)

    def page(query: str) -> tuple[list[str], dict[str, Any]]:
        answer = front.get(f"/api/v1/positions?{query}").json
        shown = [row["symbol"] for row in answer["data"]]
        pagination = answer["pagination"]
        assert (
            answer["metadata"]["count"] == len(shown) and pagination["page_size"] == answer["query_params"]["page_size"]
        )
        assert answer["count"] == pagination["total"] == pagination["total_count"]
        assert answer["metadata"]["summary"]["total_positions"] == pagination["total"], "of all pages"
        return shown, pagination

    shown, pagination = page("")
    assert shown == symbols[:100] and (pagination["total"], pagination["total_pages"]) == (103, 2)
    assert pagination["has_next"] and not pagination["has_prev"]
    assert page(f"cursor={pagination['next_cursor']}")[0] == symbols[100:]
    assert page("page_size=1000")[0] == symbols and not page("page_size=1000")[1]["has_next"]
    shown, pagination = page("page=9&page_size=1")
    assert shown == symbols[8:9] and (pagination["page"], pagination["total_pages"]) == (9, 103)
    shown, pagination = page("page=3&page_size=50")
    assert shown == symbols[100:] and not pagination["has_next"] and pagination["next_cursor"] is None
    assert page("page=4&page_size=50")[0] == [] and page("page=2&symbol=C007-USDT")[0] == []
    # prices move, and the position that was told last is closed: none of the others is skipped or told twice
    told, query = list[str](), "page_size=25"
    while True:
        shown, pagination = page(query)
        told += shown
        if not pagination["has_next"]:
            break
        hold(portfolio, "C000USDT", price=90 + len(told))
        hold(portfolio, shown[-1], 0)
        query = f"page_size=25&cursor={pagination['next_cursor']}"
    assert told == symbols
    other = Cursor(1, ("default", "dipmaster", "binance", "NOSUCH")).text
    assert front.get(f"/api/v1/positions?cursor={other}").status == 400


def test_the_exposure_is_told_by_direction_and_symbol(front: FrontThread, portfolio: Portfolio) -> None:
    hold(portfolio)
    hold(portfolio, "ETHUSDT", -2, 2000)
    found = front.data("/api/v1/positions/exposure")
    assert found["long_exposure"] == 1000.0 and found["short_exposure"] == 4000.0 and found["net_exposure"] == -3000.0
    assert found["concentration"]["ETHUSDT"] == {
        "exposure_amount": 4000.0, "exposure_percentage": 80.0, "side": "SHORT",
    }  # fmt: skip
    assert front.get("/api/positions/exposure").json["positions_count"] == 2


def test_legacy_positions_are_one_for_each_symbol(front: FrontThread, portfolio: Portfolio) -> None:
    hold(portfolio)
    hold(portfolio, strategy="breakout", price=110)
    found = front.get("/api/positions").json
    assert found["current_positions"] == [{
        "symbol": "SOLUSDT", "quantity": "20", "avg_price": "104.5", "market_value": "2100", "unrealized_pnl": "10",
        "realized_pnl": "0", "side": "LONG",
    }]  # fmt: skip
    assert found["historical_snapshots"] == []
    one = front.get("/api/positions/SOL-USDT").json
    assert one["current_position"]["quantity"] == 20.0 and one["symbol"] == "SOL-USDT"
    assert front.get("/api/positions/DOGEUSDT").json["current_position"] is None
    assert front.get("/api/positions/current").json["count"] == 1


def test_price_of_an_inverse_position_is_that_of_its_fills(front: FrontThread, portfolio: Portfolio) -> None:
    portfolio.position(
        "default", "dipmaster", "binance", "BTCUSD_PERP", quantity=10 * UNIT, cost=2 * UNIT // 100,
        avg_price=50_000 * UNIT, mark_price=50_000 * UNIT, market_value=2 * UNIT // 100,
    )  # fmt: skip
    (row,) = front.get("/api/positions").json["current_positions"]
    assert (row["avg_price"], row["market_value"]) == ("50000", "0.02")


def test_old_positions_need_a_range(front: FrontThread) -> None:
    answer = front.get("/api/v1/positions?latest=false")
    assert answer.status == 400 and answer.json["details"]["field"] == "start_time"
    answer = front.get("/api/v1/positions?latest=false&start_time=2026-01-01&end_time=2026-01-02")
    assert answer.status == 200 and answer.json["data"] == [] and "note" in answer.json["metadata"]


def test_an_unknown_position_is_not_found(front: FrontThread, portfolio: Portfolio) -> None:
    hold(portfolio)
    assert front.get("/api/v1/positions/DOGEUSDT").status == 404
    assert front.data("/api/v1/positions/SOL/USDT")[0]["symbol"] == "SOLUSDT"
