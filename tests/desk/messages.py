"""Messages of the desk's topics composed for tests: every topic, every variant, and streams of execution reports.

Everything follows from a seeded `random.Random`, so a failing run can be had again. `Message.fills` says, in plain
decimals, which fills a message stands for: that is what an oracle folds.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

START_MS = 1_741_080_000_000  # 2025-03-04T09:20:00Z
ACCOUNTS = ("default", "acct-7")
STRATEGIES = ("dipmaster", "breakout")

VARIANTS: dict[str, tuple[str, ...]] = {
    "exec.reports.v1": ("api", "dashboard", "mon-rich", "mon-flat"),
    "risk.metrics.v1": ("api", "dashboard", "mon-rich", "mon-flat"),
    "alerts.v1": ("api", "dashboard", "mon-rich", "mon-flat"),
    "system.health.v1": ("api", "mon-rich", "mon-flat"),
    "strategy.performance.v1": ("dashboard", "mon-rich", "mon-flat"),
    "trade.signals.v1": ("mon-rich", "mon-flat"),
    "position.updates.v1": ("mon-rich", "mon-flat"),
    "market.data.v1": ("mon-flat",),
}
TOPICS = tuple(VARIANTS)
ALL_VARIANTS = tuple((topic, variant) for topic, variants in VARIANTS.items() for variant in variants)
NO_SCHEMA = "market.data.quality.v1"  # a topic whose messages are kept raw

# symbol -> (price, step of prices, step of quantities, smallest and largest number of steps in an order)
MARKETS: dict[str, tuple[Decimal, Decimal, Decimal, int, int]] = {
    "BTCUSDT": (Decimal("83120.5"), Decimal("0.1"), Decimal("0.001"), 1, 500),
    "ETHUSDT": (Decimal("2251.40"), Decimal("0.01"), Decimal("0.01"), 1, 500),
    "SOLUSDT": (Decimal("143.20"), Decimal("0.01"), Decimal("0.1"), 1, 900),
    "SHIBUSDT": (Decimal("0.00000714"), Decimal("0.00000001"), Decimal(1_000_000), 1, 500_000),  # up to 5e11
}


@dataclass(frozen=True)
class TrueFill:
    """A fill as it happened, whichever messages tell of it."""

    account: str
    strategy: str
    venue: str
    fill_id: str
    order_id: str
    symbol: str
    side: str
    quantity: Decimal
    price: Decimal
    commission: Decimal
    commission_asset: str
    time_ms: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What names a fill once and for all."""
        return self.account, self.venue, self.fill_id


@dataclass(frozen=True)
class Message:
    """A message as a producer hands it to the broker."""

    topic: str
    variant: str
    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    event_id: str = ""
    fills: tuple[TrueFill, ...] = ()
    notes: frozenset[str] = field(default_factory=frozenset)  # late, repeated, second telling


def iso(time_ms: int, form: str = "Z") -> str:
    """ISO 8601 with milliseconds; `form` is the offset: `Z`, `+00:00`, nothing, or `+02:00` and the like."""
    moment = time_ms
    if form and form != "Z":
        hours, minutes = form[1:].split(":")
        moment += (1 if form[0] == "+" else -1) * (int(hours) * 60 + int(minutes)) * 60_000
    seconds, ms = divmod(moment, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}{form}"


def encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def some_id(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _plain(value: Decimal) -> str:
    """Without an exponent: as producers write amounts into strings."""
    return f"{value:f}"


def _amount(rng: random.Random, low: float, high: float, places: int = 2) -> str:
    return _plain(Decimal(rng.randint(round(low * 10**places), round(high * 10**places))).scaleb(-places))


def _number(rng: random.Random, low: float, high: float, places: int = 2) -> float:
    return round(rng.uniform(low, high), places)


def _choice(rng: random.Random, *words: Any) -> Any:
    return rng.choice(words)


# -- envelopes ----------------------------------------------------------------------------------------------------


def dashboard_envelope(rng: random.Random, time_ms: int) -> dict[str, Any]:
    return {"event_id": some_id(rng), "timestamp": iso(time_ms), "version": "v1", "source": "order-executor"}


def rich_envelope(rng: random.Random, time_ms: int) -> dict[str, Any]:
    return {
        "event_id": some_id(rng), "timestamp": iso(time_ms, "+00:00"), "version": "v1",
        "source": "dipmaster-monitoring",
    }  # fmt: skip


def flat_envelope(rng: random.Random, time_ms: int) -> dict[str, Any]:
    return {
        "event_id": some_id(rng), "produced_at": iso(time_ms + 3, "+00:00"), "producer_id": "dipmaster-producer",
        "schema_version": "1.0",
    }  # fmt: skip


# -- one message of each topic and variant ------------------------------------------------------------------------


def _symbol(rng: random.Random) -> tuple[str, Decimal, Decimal]:
    symbol = rng.choice(sorted(MARKETS))
    price, tick, step, low, high = MARKETS[symbol]
    return symbol, price + tick * rng.randint(-20, 20), step * rng.randint(low, high)


def _fill_of(rng: random.Random, time_ms: int) -> TrueFill:
    symbol, price, quantity = _symbol(rng)
    return TrueFill(
        account=rng.choice(ACCOUNTS), strategy=rng.choice(STRATEGIES), venue="binance",
        fill_id=f"f-{rng.getrandbits(40):x}", order_id=f"o-{rng.getrandbits(32):x}", symbol=symbol,
        side=rng.choice(("BUY", "SELL")), quantity=quantity, price=price,
        commission=Decimal(rng.randint(0, 99_999)).scaleb(-4),
        commission_asset=rng.choice(("USDT", "BNB")), time_ms=time_ms,
    )  # fmt: skip


def _by_monitoring(fill: TrueFill) -> TrueFill:
    """Monitoring names no account: what it tells belongs to the configured one."""
    return replace(fill, account="default")


def exec_api(rng: random.Random, time_ms: int, fills: tuple[TrueFill, ...]) -> dict[str, Any]:
    """An `api` report of fills that share account, strategy and venue."""
    first = fills[0]
    orders = {fill.order_id: fill for fill in fills}
    return {
        "event_id": some_id(rng), "timestamp": iso(time_ms), "strategy_id": first.strategy,
        "account_id": first.account, "venue": first.venue,
        "orders": [
            {
                "order_id": order_id, "client_order_id": f"dm-{order_id}", "symbol": fill.symbol, "side": fill.side,
                "type": "LIMIT", "quantity": _plain(fill.quantity), "price": _plain(fill.price), "stop_price": None,
                "status": "FILLED", "filled_quantity": _plain(fill.quantity), "remaining_quantity": "0",
                "create_time": iso(fill.time_ms - 500), "update_time": iso(fill.time_ms),
            }
            for order_id, fill in orders.items()
        ],
        "fills": [
            {
                "fill_id": fill.fill_id, "trade_id": f"t-{fill.fill_id}", "order_id": fill.order_id,
                "symbol": fill.symbol, "side": fill.side, "quantity": _plain(fill.quantity),
                "price": _plain(fill.price), "commission": _plain(fill.commission),
                "commission_asset": fill.commission_asset, "timestamp": iso(fill.time_ms),
            }
            for fill in fills
        ],
        "total_realized_pnl": _amount(rng, -50, 50), "total_unrealized_pnl": "0",
        "total_commission": _plain(sum((fill.commission for fill in fills), Decimal(0))),
        "total_cost": _amount(rng, 0, 5000), "slippage": _amount(rng, -1, 1), "market_impact": "0.04",
        "execution_time_ms": rng.randint(1, 900), "metadata": {"reason": "dip-entry"},
    }  # fmt: skip


def exec_dashboard(rng: random.Random, time_ms: int, fill: TrueFill, exec_type: str = "TRADE") -> dict[str, Any]:
    status = {"TRADE": "FILLED", "FILL": "FILLED", "PARTIAL_FILL": "PARTIALLY_FILLED"}.get(exec_type, exec_type)
    traded = exec_type == "TRADE"
    return {
        **dashboard_envelope(rng, time_ms), "order_id": fill.order_id, "client_order_id": f"dm-{fill.order_id}",
        "symbol": fill.symbol, "side": fill.side, "order_type": "MARKET", "order_status": status,
        "exec_type": exec_type, "exec_id": fill.fill_id, "quantity": _plain(fill.quantity * 2),
        "price": _plain(fill.price + 1), "last_qty": _plain(fill.quantity) if traded else None,
        "last_price": _plain(fill.price) if traded else None, "cum_qty": _plain(fill.quantity),
        "avg_price": _plain(fill.price), "commission": _plain(fill.commission) if traded else None,
        "commission_asset": fill.commission_asset, "realized_pnl": _amount(rng, -20, 20), "unrealized_pnl": "0",
        "position_qty": "0", "position_side": "LONG", "order_time": iso(fill.time_ms - 60),
        "trade_time": iso(fill.time_ms) if traded else None, "strategy_id": fill.strategy,
        "account_id": fill.account, "venue": fill.venue,
    }  # fmt: skip


def exec_rich(rng: random.Random, fill: TrueFill, status: str = "FILLED") -> dict[str, Any]:
    slippage, latency = _number(rng, 0, 9, 1), _number(rng, 5, 300, 1)
    return {
        **rich_envelope(rng, fill.time_ms), "execution_id": fill.fill_id, "signal_id": "sg-411",
        "symbol": fill.symbol, "side": fill.side, "quantity": float(fill.quantity), "price": float(fill.price),
        "slippage_bps": slippage, "latency_ms": latency, "venue": fill.venue, "status": status,
        "strategy": fill.strategy, "order_type": "MARKET", "commission": float(fill.commission),
        "commission_asset": fill.commission_asset, "topic": "exec.reports.v1", "key": f"{fill.symbol}_{fill.fill_id}",
        "execution_quality": {"slippage_bps": slippage, "latency_ms": latency, "venue_quality_score": 99.2},
    }  # fmt: skip


def exec_flat(rng: random.Random, fill: TrueFill, status: str = "FILLED") -> dict[str, Any]:
    """A flat report names no commission asset: its fees are in USDT."""
    partial = status == "PARTIAL"
    return {
        "timestamp": iso(fill.time_ms, "+00:00"), "execution_id": fill.fill_id, "signal_id": "sg-411",
        "symbol": fill.symbol, "side": fill.side, "quantity": float(fill.quantity * 3 if partial else fill.quantity),
        "price": float(fill.price), "slippage_bps": _number(rng, 0, 9, 1), "latency_ms": _number(rng, 5, 300, 1),
        "venue": fill.venue, "status": status, "fill_qty": float(fill.quantity) if partial else None,
        "fill_price": float(fill.price) if partial else None, "fees": float(fill.commission),
        "strategy": fill.strategy, "session_id": "s-20250304", **flat_envelope(rng, fill.time_ms),
    }  # fmt: skip


def report(rng: random.Random, variant: str, time_ms: int, fill: TrueFill) -> Message:
    """One fill as an execution report of a variant; `Message.fills` is what that variant can say of it."""
    if variant == "api":
        return _message("exec.reports.v1", variant, exec_api(rng, time_ms, (fill,)), (fill,))
    if variant == "dashboard":
        return _message("exec.reports.v1", variant, exec_dashboard(rng, time_ms, fill), (fill,))
    if variant == "mon-rich":
        return _message("exec.reports.v1", variant, exec_rich(rng, fill), (_by_monitoring(fill),))
    told = replace(_by_monitoring(fill), commission_asset="USDT")
    return _message("exec.reports.v1", variant, exec_flat(rng, told), (told,))


def _risk(rng: random.Random, variant: str, time_ms: int) -> dict[str, Any]:
    symbol, price, quantity = _symbol(rng)
    position = {
        "symbol": symbol, "quantity": _plain(quantity), "avg_price": _plain(price),
        "market_value": _amount(rng, 1, 2000), "unrealized_pnl": _amount(rng, -20, 20),
    }  # fmt: skip
    if variant == "api":
        return {
            "event_id": some_id(rng), "timestamp": iso(time_ms), "strategy_id": "dipmaster",
            "account_id": rng.choice(ACCOUNTS),
            "positions": [{**position, "realized_pnl": "0", "side": "LONG"}],
            "total_exposure": _amount(rng, 0, 5000), "max_position_size": "1000",
            "position_concentration": {symbol: "100"}, "var_1d": _amount(rng, 0, 90), "var_5d": _amount(rng, 0, 200),
            "max_drawdown": _amount(rng, 0, 8, 1), "sharpe_ratio": "1.4", "volatility": "0.31",
            "daily_pnl": _amount(rng, -90, 90), "daily_loss_limit": "-500", "max_positions": 3,
            "current_positions": 1, "risk_score": _amount(rng, 0, 100, 0),
            "risk_metrics": [{"name": "VaR_1D", "value": "41.2", "threshold": "100", "status": "NORMAL"}],
            "correlation_matrix": {symbol: {symbol: "1"}}, "metadata": {},
        }  # fmt: skip
    if variant == "dashboard":
        return {
            **dashboard_envelope(rng, time_ms), "account_id": rng.choice(ACCOUNTS),
            "portfolio_value": _amount(rng, 9000, 11000), "cash_balance": _amount(rng, 1000, 9000),
            "margin_balance": _amount(rng, 0, 3000), "total_pnl": _amount(rng, -500, 500),
            "daily_pnl": _amount(rng, -90, 90), "realized_pnl": _amount(rng, -500, 500),
            "unrealized_pnl": _amount(rng, -90, 90), "var_1d": "41.2", "max_drawdown": _amount(rng, 0, 8, 1),
            "leverage": "0.17", "risk_score": "34", "positions": [{**position, "position_side": "LONG"}],
            "num_positions": 1, "position_limit": "3000", "loss_limit": "500", "market_exposure": "1793.75",
            "currency_exposure": {"USDT": "8688.55"},
        }  # fmt: skip
    common = {
        "portfolio_id": "main_portfolio", "var_95": _number(rng, 0, 90_000), "var_99": _number(rng, 0, 90_000),
        "expected_shortfall": 91000.0, "sharpe_ratio": 1.4, "max_drawdown": _number(rng, 0, 0.3, 3),
        "leverage": _number(rng, 0, 4), "correlation_stability": 0.9,
    }  # fmt: skip
    if variant == "mon-rich":
        return {
            **rich_envelope(rng, time_ms), **common, "current_drawdown": 0.02,
            "portfolio_value": _number(rng, 1e6, 2e6), "daily_pnl": _number(rng, -2000, 2000), "position_count": 2,
            "risk_utilization": 0.4, "topic": "risk.metrics.v1", "key": f"main_portfolio_{time_ms // 1000}",
            "risk_assessment": {"risk_score": 36.0, "risk_level": "MEDIUM", "breach_alerts": []},
        }  # fmt: skip
    return {
        "timestamp": iso(time_ms, "+00:00"), **common, "active_positions": 2, "total_exposure": 640000.0,
        "unrealized_pnl": _number(rng, -500, 500), "beta": None, "volatility": 0.31, **flat_envelope(rng, time_ms),
    }  # fmt: skip


def _alert(rng: random.Random, variant: str, time_ms: int) -> dict[str, Any]:
    alert_id = f"al-{rng.randint(1, 999_999)}"
    if variant == "api":
        return {
            "event_id": some_id(rng), "timestamp": iso(time_ms), "alert_id": alert_id,
            "severity": _choice(rng, "LOW", "MEDIUM", "HIGH", "CRITICAL"), "code": "DAILY_LOSS_80",
            "title": "Daily loss near limit", "message": "80% of the daily loss budget is used",
            "source": "RISK_MANAGER", "strategy_id": "dipmaster", "account_id": rng.choice(ACCOUNTS),
            "symbol": "SOLUSDT", "context": {"window": "1d"}, "metrics": {"daily_pnl": "-401.5"},
            "auto_resolved": False, "resolution_action": None, "metadata": {},
        }  # fmt: skip
    if variant == "dashboard":
        return {
            **dashboard_envelope(rng, time_ms), "alert_id": alert_id, "alert_type": "LOSS_LIMIT",
            "severity": _choice(rng, "INFO", "WARNING", "ERROR", "CRITICAL"), "title": "Loss limit",
            "message": "Loss at 80% of limit", "description": None, "account_id": rng.choice(ACCOUNTS),
            "strategy_id": "dipmaster", "symbol": None, "order_id": None, "context": {"limit": "500"},
            "status": "ACTIVE", "acknowledged": False, "resolved": False, "threshold_value": "400",
            "current_value": _amount(rng, 400, 500),
        }  # fmt: skip
    common = {
        "alert_id": alert_id, "severity": _choice(rng, "INFO", "WARNING", "CRITICAL", "EMERGENCY"),
        "category": "CONNECTIVITY", "message": "Feed silent for 12 s", "affected_systems": ["data_pipeline"],
        "recommended_action": "reconnect", "auto_remediation": True, "tags": {"desk": "a"},
    }  # fmt: skip
    if variant == "mon-rich":
        return {
            **rich_envelope(rng, time_ms), **common, "details": {}, "resolved": False, "resolution_time": None,
            "topic": "alerts.v1", "key": alert_id,
            "alert_metadata": {"priority_score": 8, "escalation_required": True, "similar_alerts_count": 0},
        }  # fmt: skip
    return {
        "timestamp": iso(time_ms, "+00:00"), **common, "source": "monitoring_system", "correlation_id": alert_id,
        **flat_envelope(rng, time_ms),
    }  # fmt: skip


def _health(rng: random.Random, variant: str, time_ms: int) -> dict[str, Any]:
    if variant == "api":
        status = _choice(rng, "HEALTHY", "DEGRADED", "UNHEALTHY")
        return {
            "event_id": some_id(rng), "timestamp": iso(time_ms), "overall_status": status, "strategy_id": "dipmaster",
            "components": [
                {
                    "component": "DATA_PIPELINE", "status": status, "uptime_seconds": 8640,
                    "last_heartbeat": iso(time_ms - 2000), "cpu_usage": "41.5", "memory_usage": "37.0",
                    "error_rate": "1.2", "response_time_ms": "18",
                }
            ],
            "total_cpu_usage": _amount(rng, 0, 100, 1), "total_memory_usage": "37.0", "active_connections": 14,
            "total_positions": 1, "daily_trades": rng.randint(0, 90), "daily_pnl": _amount(rng, -90, 90),
            "market_data_delay_ms": 85, "execution_delay_ms": 60,
            "websocket_connections": {"binance": True, "okx": False}, "metadata": {},
        }  # fmt: skip
    common = {"health_score": _number(rng, 40, 100, 1), "status": _choice(rng, "healthy", "degraded", "unhealthy")}
    if variant == "mon-rich":
        return {
            **rich_envelope(rng, time_ms), "component_name": "trading_engine", **common,
            "cpu_usage_percent": _number(rng, 0, 100, 1), "memory_usage_percent": 30.0, "disk_usage_percent": 20.0,
            "network_latency_ms": 4.0, "api_response_time_ms": 70.0, "error_rate_percent": 0.1,
            "uptime_seconds": 8640.0, "active_connections": 14, "topic": "system.health.v1",
            "key": f"trading_engine_{time_ms // 1000}",
            "health_assessment": {"resource_stress": 22.75, "performance_impact": "MINIMAL", "recommendations": []},
        }  # fmt: skip
    return {
        "timestamp": iso(time_ms, "+00:00"), "component": "trading_engine", **common,
        "cpu_usage": _number(rng, 0, 100, 1), "memory_usage": 30.0, "disk_usage": 20.0, "network_latency": 4.0,
        "active_connections": 14, "error_rate": 0.1, "uptime_seconds": 8640.0, "details": {},
        **flat_envelope(rng, time_ms),
    }  # fmt: skip


def _performance(rng: random.Random, variant: str, time_ms: int) -> dict[str, Any]:
    won, lost = rng.randint(0, 60), rng.randint(0, 40)
    counts = {"total_trades": won + lost, "winning_trades": won, "losing_trades": lost}
    if variant == "dashboard":
        return {
            **dashboard_envelope(rng, time_ms), "strategy_id": "dipmaster", "strategy_name": "Dip entry",
            "account_id": rng.choice(ACCOUNTS), **counts, "win_rate": _amount(rng, 0, 1),
            "total_pnl": _amount(rng, -500, 500), "gross_profit": "341.0", "gross_loss": "-128.6",
            "profit_factor": "2.65", "sharpe_ratio": "1.6", "max_drawdown": "0.031", "avg_win": "12.18",
            "avg_loss": "-10.72", "largest_win": "31.0", "largest_loss": "-22.5", "avg_hold_time": "88",
            "daily_returns": ["0.004", "-0.001"], "symbol_distribution": {"SOLUSDT": 25, "ETHUSDT": 15},
            "max_capital_used": "3000", "avg_capital_used": "1400", "capital_efficiency": "0.15",
        }  # fmt: skip
    common = {
        "strategy_name": rng.choice(STRATEGIES), "win_rate": _number(rng, 0, 1), "profit_factor": 2.65,
        "sharpe_ratio": 1.6, "max_drawdown": 0.031, **counts, "total_pnl": _number(rng, -500, 500),
        "avg_win": 12.18, "avg_loss": -10.72,
    }  # fmt: skip
    if variant == "mon-rich":
        return {
            **rich_envelope(rng, time_ms), "time_window": "1h", **common, "avg_holding_time_minutes": 88.0,
            "best_trade": 31.0, "worst_trade": -22.5, "topic": "strategy.performance.v1",
            "key": f"dipmaster_1h_{time_ms // 1000}",
            "performance_assessment": {
                "performance_score": 100.0, "performance_grade": "EXCELLENT",
                "benchmark_comparison": {"win_rate_vs_benchmark": 0.15, "sharpe_vs_benchmark": 0.1},
            },
        }  # fmt: skip
    return {
        "timestamp": iso(time_ms, "+00:00"), "timeframe": "1h", **common, "active_positions": 1,
        "signals_generated": 55, "signals_executed": 40, "execution_rate": 0.727, **flat_envelope(rng, time_ms),
    }  # fmt: skip


def _signal(rng: random.Random, variant: str, time_ms: int) -> dict[str, Any]:
    symbol, price, _ = _symbol(rng)
    signal_id = f"sg-{rng.randint(1, 99_999)}"
    common = {
        "signal_id": signal_id, "strategy": rng.choice(STRATEGIES), "symbol": symbol,
        "confidence": _number(rng, 0, 1), "price": float(price),
        "technical_indicators": {"rsi": 38.0, "ma20_distance": -0.004}, "market_conditions": {"regime": "range"},
    }  # fmt: skip
    if variant == "mon-rich":
        return {
            **rich_envelope(rng, time_ms), **common, "signal_type": _choice(rng, "BUY", "SELL"),
            "expected_entry_price": float(price), "expected_holding_minutes": 60, "risk_metrics": {},
            "topic": "trade.signals.v1", "key": f"{symbol}_{signal_id}",
            "signal_quality": {
                "strength_score": 88.0, "quality_grade": "EXCELLENT", "dipmaster_compliance": {"dip_buying": True},
            },
        }  # fmt: skip
    return {
        "timestamp": iso(time_ms, "+00:00"), **common, "signal_type": _choice(rng, "BUY", "SELL", "HOLD"),
        "expected_entry": None, "expected_exit": None, "risk_score": 0.3, "correlation_id": signal_id,
        **flat_envelope(rng, time_ms),
    }  # fmt: skip


def _position(rng: random.Random, variant: str, time_ms: int) -> dict[str, Any]:
    symbol, price, quantity = _symbol(rng)
    position_id = f"ps-{rng.randint(1, 9999)}"
    common = {
        "position_id": position_id, "symbol": symbol, "side": _choice(rng, "BUY", "SELL"),
        "quantity": float(quantity), "entry_price": float(price), "current_price": float(price),
        "unrealized_pnl": _number(rng, -20, 20), "realized_pnl": _number(rng, -20, 20),
        "holding_time_minutes": rng.randint(0, 999), "strategy": rng.choice(STRATEGIES),
    }  # fmt: skip
    if variant == "mon-rich":
        return {
            **rich_envelope(rng, time_ms), **common, "signal_id": "sg-409",
            "status": _choice(rng, "OPEN", "CLOSED", "PARTIAL"), "topic": "position.updates.v1",
            "key": f"{symbol}_{position_id}",
            "position_analysis": {"pnl_percentage": 0.852, "holding_efficiency": 100.0, "exit_timing_score": 100.0},
        }  # fmt: skip
    return {
        "timestamp": iso(time_ms, "+00:00"), **common, "status": _choice(rng, "open", "closed", "partial"),
        "risk_metrics": {"mae": -0.4}, "correlation_id": position_id, **flat_envelope(rng, time_ms),
    }  # fmt: skip


def _market(rng: random.Random, variant: str, time_ms: int) -> dict[str, Any]:
    symbol, price, _ = _symbol(rng)
    return {
        "timestamp": iso(time_ms, "+00:00"), "symbol": symbol, "price": float(price), "volume": _number(rng, 0, 9999),
        "bid": float(price), "ask": float(price), "spread_bps": 1.39, "volatility": 0.52,
        "technical_indicators": {"rsi": 61.0}, "market_depth": {"bid_levels": 20, "ask_levels": 20},
        "quality_score": 0.98, "source": "binance", **flat_envelope(rng, time_ms),
    }  # fmt: skip


def _execution(rng: random.Random, variant: str, time_ms: int) -> dict[str, Any]:
    return json.loads(report(rng, variant, time_ms, _fill_of(rng, time_ms)).value)


_COMPOSERS: dict[str, Callable[[random.Random, str, int], dict[str, Any]]] = {
    "exec.reports.v1": _execution,
    "risk.metrics.v1": _risk,
    "alerts.v1": _alert,
    "system.health.v1": _health,
    "strategy.performance.v1": _performance,
    "trade.signals.v1": _signal,
    "position.updates.v1": _position,
    "market.data.v1": _market,
}


def body(topic: str, variant: str, rng: random.Random, /, time_ms: int = START_MS, **changes: Any) -> dict[str, Any]:
    """The object of a valid message, with `changes` put over it (`...` takes a member away)."""
    assert variant in VARIANTS[topic], (topic, variant)
    members = {**_COMPOSERS[topic](rng, variant, time_ms), **changes}
    return {name: value for name, value in members.items() if value is not ...}


def compose(topic: str, variant: str, rng: random.Random, /, time_ms: int = START_MS, **changes: Any) -> Message:
    """A valid message of a topic and variant. Execution reports say their fills; with `changes` they cannot."""
    if topic == "exec.reports.v1" and not changes:
        return report(rng, variant, time_ms, _fill_of(rng, time_ms))
    return _message(topic, variant, body(topic, variant, rng, time_ms, **changes))


def mixture(rng: random.Random, count: int, *, topics: tuple[str, ...] = TOPICS) -> Iterator[Message]:
    """Valid messages of all variants of some topics, one a millisecond."""
    pairs = [(topic, variant) for topic, variant in ALL_VARIANTS if topic in topics]
    for n in range(count):
        topic, variant = rng.choice(pairs)
        yield compose(topic, variant, rng, START_MS + n)


def _message(topic: str, variant: str, members: dict[str, Any], fills: tuple[TrueFill, ...] = ()) -> Message:
    headers: tuple[tuple[str, bytes], ...] = ()
    key = members.get("key") if variant == "mon-rich" else None
    if variant == "mon-flat":
        key = members.get("symbol") or members.get("component") or members.get("strategy_name")
        headers = (("content-type", b"application/json"), ("producer", b"dipmaster-producer"))
    return Message(
        topic, variant, encode(members), key.encode() if isinstance(key, str) else None, headers,
        members.get("event_id") or "", fills,
    )  # fmt: skip


# -- streams of execution reports ---------------------------------------------------------------------------------


def true_fills(rng: random.Random, count: int) -> Iterator[TrueFill]:
    """What a strategy really did: positions opened, added to, reduced, closed and turned over, one fill each 1-3 s.

    `mon-flat` can tell of fills of the account `default` with fees in USDT alone, `mon-rich` of those of `default`.
    """
    held: dict[tuple[str, str, str], Decimal] = {}
    prices = {symbol: market[0] for symbol, market in MARKETS.items()}
    time_ms = START_MS
    for n in range(count):
        symbol = rng.choice(sorted(MARKETS))
        _, tick, step, low, high = MARKETS[symbol]
        prices[symbol] = max(tick, prices[symbol] + tick * rng.randint(-12, 12))
        place = (rng.choice(ACCOUNTS), rng.choice(STRATEGIES), symbol)
        position = held.get(place, Decimal(0))
        quantity = step * rng.randint(low, high)
        buys = rng.random() < 0.5
        if position and rng.random() < 0.6:  # against the position: a part, all of it, or over to the other side
            buys = position < 0
            quantity = rng.choice(
                (step * max(1, int(abs(position) / step / 2)), abs(position), abs(position) + quantity)
            )
        held[place] = position + (quantity if buys else -quantity)
        in_bnb = rng.random() < 0.3
        commission = (quantity * prices[symbol] * Decimal("0.0004") / (600 if in_bnb else 1)).quantize(Decimal("1e-8"))
        time_ms += rng.randint(1000, 3000)
        yield TrueFill(
            account=place[0], strategy=place[1], venue="binance", fill_id=f"x-{n}", order_id=f"o-{n}", symbol=symbol,
            side="BUY" if buys else "SELL", quantity=quantity, price=prices[symbol], commission=commission,
            commission_asset="BNB" if in_bnb else "USDT", time_ms=time_ms,
        )  # fmt: skip


def tellers(fill: TrueFill) -> tuple[str, ...]:
    """The variants that can tell of a fill without loss."""
    if fill.account != "default":
        return ("api", "dashboard")
    if fill.commission_asset != "USDT":
        return ("api", "dashboard", "mon-rich")
    return ("api", "dashboard", "mon-rich", "mon-flat")


def execution_stream(
    rng: random.Random,
    fills: int,
    *,
    variants: tuple[str, ...] = ("api", "dashboard", "mon-rich", "mon-flat"),
    late: float = 0.05,
    told_twice: float = 0.05,
    repeated: float = 0.03,
    idle: float = 0.05,
) -> Iterator[Message]:
    """Execution reports of a strategy, as they arrive.

    Args:
        fills: how many there really are (`{fill.key: fill for m in stream for fill in m.fills}` has as many, where
            `variants` has `api` or `dashboard`).
        variants: who tells of them.
        late: share that arrives up to 40 messages after its time.
        told_twice: share that a second variant tells of as well, with an event id of its own.
        repeated: share of messages that are produced a second time, byte for byte.
        idle: share of messages, beside them, that carry no fill: new, cancelled and refused orders.
    """
    waiting: list[tuple[int, int, Message]] = []  # (turn, tie, message)
    tie = 0
    for turn, fill in enumerate(true_fills(rng, fills)):
        out: list[tuple[int, Message]] = []
        able = [variant for variant in tellers(fill) if variant in variants]
        if not able:
            continue
        rng.shuffle(able)
        delay = rng.randint(1, 40) if rng.random() < late else 0
        first = report(rng, able[0], fill.time_ms + 5, fill)
        out.append((turn + delay, replace(first, notes=frozenset({"late"}) if delay else frozenset())))
        if len(able) > 1 and rng.random() < told_twice:
            second = report(rng, able[1], fill.time_ms + 9, fill)
            out.append((turn + rng.randint(0, 20), replace(second, notes=frozenset({"second telling"}))))
        if rng.random() < repeated:
            out.append((turn + rng.randint(0, 20), replace(first, notes=frozenset({"repeated"}))))
        if rng.random() < idle:
            out.append((turn, _idle(rng, fill, variants)))
        for due, message in out:
            tie += 1
            waiting.append((due, tie, message))
        waiting.sort(key=lambda entry: entry[:2])
        while waiting and waiting[0][0] <= turn:
            yield waiting.pop(0)[2]
    for _, _, message in waiting:
        yield message


def _idle(rng: random.Random, fill: TrueFill, variants: tuple[str, ...]) -> Message:
    topic = "exec.reports.v1"
    variant = rng.choice(variants)
    if variant == "api":
        members = {**exec_api(rng, fill.time_ms, (fill,)), "fills": []}
        for order in members["orders"]:
            order |= {"status": "CANCELED", "filled_quantity": "0"}
        return _message(topic, variant, members)
    if variant == "dashboard":
        return _message(
            topic, variant, exec_dashboard(rng, fill.time_ms, fill, rng.choice(("NEW", "CANCELED", "REJECTED")))
        )
    refused = replace(fill, fill_id=f"refused-{fill.fill_id}", commission=Decimal(0))
    if variant == "mon-rich":
        return _message(topic, variant, exec_rich(rng, refused, "REJECTED"))
    return _message(topic, variant, exec_flat(rng, refused, rng.choice(("CANCELLED", "failed"))))


def undecidable(rng: random.Random, topic: str) -> bytes:
    """Bytes that no decoder of the topic can make sense of."""
    good = body(topic, VARIANTS[topic][0], rng)
    return rng.choice((
        b"", b"null", b"[1,2]", b"not json", b'{"a":', b"\xff\xfe{}", encode(good)[:-1],
        encode({**good, "timestamp": "yesterday"}), encode({**good, "timestamp": None}),
    ))  # fmt: skip
