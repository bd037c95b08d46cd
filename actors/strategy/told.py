"""What happened, as the messages of several producers: each function returns the topic, the key and the body.

The members are those that desks' producers send in the variants `api`, `dashboard` and `mon-flat`; amounts are texts in
the first two and numbers in the last.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from .trader import CAPITAL, Execution, Order, Quote, Trader

Message = tuple[str, str | None, dict[str, Any]]  # topic, key, body
VENUE = "binance"
SOURCE = "demo-strategy"
VAR_95, VAR_99, SHORTFALL = Decimal("0.021"), Decimal("0.034"), Decimal("0.041")  # shares of the exposure
LATENCY_MS = 48.0


def iso(time_ms: int, offset: str = "Z") -> str:
    """UTC with milliseconds."""
    return f"{datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}{offset}"


def text(value: Decimal) -> str:
    """At most eight decimals, without an exponent."""
    short = f"{value:.8f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def number(value: Decimal) -> float:
    return float(text(value))


def _api(time_ms: int) -> dict[str, Any]:
    return {"event_id": str(uuid.uuid4()), "timestamp": iso(time_ms)}


def _dashboard(time_ms: int) -> dict[str, Any]:
    return {**_api(time_ms), "version": "v1", "source": SOURCE}


def _flat(time_ms: int) -> dict[str, Any]:
    return {
        "timestamp": iso(time_ms, "+00:00"), "event_id": str(uuid.uuid4()), "produced_at": iso(time_ms + 1, "+00:00"),
        "producer_id": SOURCE, "schema_version": "1.0",
    }  # fmt: skip


def _order_of(order: Order, status: str, filled: Decimal, time_ms: int) -> dict[str, Any]:
    return {
        "order_id": order.order_id, "client_order_id": f"dm-{order.order_id}", "symbol": order.symbol,
        "side": order.side, "type": "LIMIT", "quantity": text(order.quantity), "price": text(order.price),
        "stop_price": None, "status": status, "filled_quantity": text(filled),
        "remaining_quantity": text(order.quantity - filled), "create_time": iso(order.time_ms),
        "update_time": iso(time_ms),
    }  # fmt: skip


@dataclass(frozen=True)
class Teller:
    """Tells of one strategy of one account."""

    trader: Trader
    account: str
    strategy: str
    started_ms: int

    # -- orders and executions ------------------------------------------------------------------------------------

    def order(self, order: Order, status: str, time_ms: int) -> list[Message]:
        """A new order, or one that ended without an execution. Monitoring tells of executions alone."""
        if order.reporter == "api":
            return [self._report(order, [], time_ms, status, Decimal(0))]
        if order.reporter == "dashboard":
            return [self._event(order, time_ms, order_status=status, exec_type=status)]
        return []

    def executions(self, order: Order, parts: Sequence[Execution]) -> list[Message]:
        """All executions of an order."""
        if order.reporter == "api":
            return [self._report(order, parts, parts[-1].time_ms, "FILLED", order.quantity)]
        return [self._traded(one) if order.reporter == "dashboard" else self._executed(one) for one in parts]

    def _report(self, order: Order, parts: Sequence[Execution], time_ms: int, status: str, filled: Decimal) -> Message:
        fills = [
            {
                "fill_id": one.fill_id, "trade_id": f"t-{one.fill_id}", "order_id": order.order_id,
                "symbol": order.symbol, "side": order.side, "quantity": text(one.quantity), "price": text(one.price),
                "commission": text(one.commission), "commission_asset": one.commission_asset,
                "timestamp": iso(one.time_ms),
            }
            for one in parts
        ]  # fmt: skip
        traded = sum((one.quantity * one.price for one in parts), Decimal(0))
        return "exec.reports.v1", None, {
            **_api(time_ms), "strategy_id": self.strategy, "account_id": self.account, "venue": VENUE,
            "orders": [_order_of(order, status, filled, time_ms)], "fills": fills,
            "total_realized_pnl": text(sum((one.realized for one in parts), Decimal(0))),
            "total_unrealized_pnl": "0", "total_cost": text(traded), "slippage": "0", "market_impact": "0",
            "execution_time_ms": time_ms - order.time_ms, "metadata": {"signal_id": order.signal_id},
        }  # fmt: skip

    def _event(self, order: Order, time_ms: int, **more: Any) -> Message:
        return "exec.reports.v1", order.symbol, {
            **_dashboard(time_ms), "order_id": order.order_id, "client_order_id": f"dm-{order.order_id}",
            "symbol": order.symbol, "side": order.side, "order_type": "LIMIT", "quantity": text(order.quantity),
            "price": text(order.price), "order_time": iso(order.time_ms), "strategy_id": self.strategy,
            "account_id": self.account, "venue": VENUE, **more,
        }  # fmt: skip

    def _traded(self, one: Execution) -> Message:
        order, position = one.order, self.trader.positions[one.order.symbol]
        return self._event(
            order, one.time_ms, order_status="FILLED" if one.last else "PARTIALLY_FILLED", exec_type="TRADE",
            exec_id=one.fill_id, last_qty=text(one.quantity), last_price=text(one.price), avg_price=text(one.price),
            commission=text(one.commission), commission_asset=one.commission_asset, realized_pnl=text(one.realized),
            position_qty=text(position.quantity), position_side="LONG" if position.quantity >= 0 else "SHORT",
            trade_time=iso(one.time_ms),
        )  # fmt: skip

    def _executed(self, one: Execution) -> Message:
        order = one.order
        slipped = abs(one.price - order.price) / order.price * 10_000
        return "exec.reports.v1", order.symbol, {
            **_flat(one.time_ms), "execution_id": one.fill_id, "signal_id": order.signal_id, "symbol": order.symbol,
            "side": order.side, "quantity": number(order.quantity), "price": number(order.price),
            "slippage_bps": round(float(slipped), 2), "latency_ms": LATENCY_MS, "venue": VENUE,
            "status": "FILLED" if one.last else "PARTIAL", "fill_qty": number(one.quantity),
            "fill_price": number(one.price), "fees": number(one.commission), "strategy": self.strategy,
            "session_id": f"s-{self.trader.run}",
        }  # fmt: skip

    # -- beside them ----------------------------------------------------------------------------------------------

    def signal(self, order: Order, confidence: float) -> Message:
        """Why an order was made."""
        return "trade.signals.v1", order.symbol, {
            **_flat(order.time_ms), "signal_id": order.signal_id, "strategy": self.strategy, "symbol": order.symbol,
            "signal_type": order.side, "confidence": confidence, "price": number(order.price),
            "technical_indicators": {"rsi": round(100 * confidence, 1)}, "market_conditions": {"regime": "range"},
            "expected_entry": number(order.price), "expected_exit": None, "risk_score": round(1 - confidence, 2),
            "correlation_id": order.signal_id,
        }  # fmt: skip

    def position(self, symbol: str, realized: Decimal, quotes: Mapping[str, Quote], time_ms: int) -> Message:
        """A position after an execution that realised so much."""
        position = self.trader.positions[symbol]
        number_of = f"ps-{self.trader.run}-{symbol}-{position.number}"
        return "position.updates.v1", symbol, {
            **_flat(time_ms), "position_id": number_of, "symbol": symbol,
            "side": "BUY" if position.quantity >= 0 else "SELL", "quantity": number(abs(position.quantity)),
            "entry_price": number(position.average), "current_price": number(quotes[symbol].mid),
            "unrealized_pnl": number(self.trader.value(symbol, quotes) - position.cost),
            "realized_pnl": number(realized), "holding_time_minutes": (time_ms - position.opened_ms) // 60_000,
            "strategy": self.strategy, "status": "open" if position.quantity else "closed", "risk_metrics": {},
            "correlation_id": number_of,
        }  # fmt: skip

    def risk(self, quotes: Mapping[str, Quote], time_ms: int) -> Message:
        """What is held, after each change of it."""
        trader, exposure = self.trader, self.trader.exposure(quotes)
        positions = [
            {
                "symbol": symbol, "quantity": text(one.quantity), "avg_price": text(one.average),
                "market_value": text(trader.value(symbol, quotes)),
                "unrealized_pnl": text(trader.value(symbol, quotes) - one.cost), "realized_pnl": "0",
                "side": "LONG" if one.quantity > 0 else "SHORT" if one.quantity else "FLAT",
            }
            for symbol, one in trader.positions.items() if one.number
        ]  # fmt: skip
        var = exposure * VAR_95
        return "risk.metrics.v1", self.account, {
            **_api(time_ms), "strategy_id": self.strategy, "account_id": self.account, "positions": positions,
            "total_exposure": text(exposure), "max_position_size": text(4 * trader.notional), "var_1d": text(var),
            "var_5d": text(var * Decimal("2.236")), "volatility": "0.31", "sharpe_ratio": "0",
            "max_drawdown": text(100 * trader.drawdown), "daily_pnl": text(trader.realized),
            "daily_loss_limit": "-5000", "max_positions": len(trader.symbols), "current_positions": len(trader.held()),
            "risk_score": text(min(Decimal(100), 100 * exposure / CAPITAL)),
            "risk_metrics": [{"name": "VaR_1D", "value": text(var), "threshold": "5000", "status": "NORMAL"}],
        }  # fmt: skip

    def risk_of_portfolio(self, quotes: Mapping[str, Quote], time_ms: int) -> Message:
        """The same as monitoring sees it."""
        trader, exposure = self.trader, self.trader.exposure(quotes)
        return "risk.metrics.v1", "main_portfolio", {
            **_flat(time_ms), "portfolio_id": "main_portfolio", "var_95": number(exposure * VAR_95),
            "var_99": number(exposure * VAR_99), "expected_shortfall": number(exposure * SHORTFALL),
            "sharpe_ratio": 0.0, "max_drawdown": number(trader.drawdown), "leverage": number(exposure / CAPITAL),
            "correlation_stability": 0.9, "active_positions": len(trader.held()), "total_exposure": number(exposure),
            "unrealized_pnl": number(trader.unrealized(quotes)), "beta": None, "volatility": 0.31,
        }  # fmt: skip

    def balance(self, quotes: Mapping[str, Quote], time_ms: int) -> Message:
        """The same as the dashboard sees it."""
        trader, exposure, unrealized = self.trader, self.trader.exposure(quotes), self.trader.unrealized(quotes)
        total = trader.realized + unrealized
        return "risk.metrics.v1", self.account, {
            **_dashboard(time_ms), "account_id": self.account, "portfolio_value": text(CAPITAL + total),
            "cash_balance": text(CAPITAL + trader.realized - exposure), "total_pnl": text(total),
            "daily_pnl": text(total), "realized_pnl": text(trader.realized), "unrealized_pnl": text(unrealized),
            "leverage": text(exposure / CAPITAL), "max_drawdown": text(trader.drawdown),
            "num_positions": len(trader.held()), "market_exposure": text(exposure),
        }  # fmt: skip

    def health(self, time_ms: int) -> Message:
        """Of the trading engine."""
        return "system.health.v1", "trading_engine", {
            **_flat(time_ms), "component": "trading_engine", "health_score": 97.0, "status": "healthy",
            "cpu_usage": 12.0, "memory_usage": 30.0, "disk_usage": 20.0, "network_latency": 4.0,
            "active_connections": len(self.trader.symbols), "error_rate": 0.1,
            "uptime_seconds": (time_ms - self.started_ms) / 1000, "details": {},
        }  # fmt: skip

    def performance(self, time_ms: int) -> Message:
        """Since the strategy began."""
        wins, losses = self.trader.wins, self.trader.losses
        trades, profit, loss = len(wins) + len(losses), sum(wins, Decimal(0)), sum(losses, Decimal(0))
        return "strategy.performance.v1", self.strategy, {
            **_dashboard(time_ms), "strategy_id": self.strategy, "strategy_name": "Demo", "account_id": self.account,
            "total_trades": trades, "winning_trades": len(wins), "losing_trades": len(losses),
            "win_rate": text(Decimal(len(wins)) / trades if trades else Decimal(0)), "total_pnl": text(profit + loss),
            "gross_profit": text(profit), "gross_loss": text(loss),
            "profit_factor": text(-profit / loss if loss else Decimal(0)), "max_drawdown": text(self.trader.drawdown),
            "avg_win": text(profit / len(wins) if wins else Decimal(0)),
            "avg_loss": text(loss / len(losses) if losses else Decimal(0)),
            "largest_win": text(max(wins, default=Decimal(0))), "largest_loss": text(min(losses, default=Decimal(0))),
            "max_capital_used": text(CAPITAL), "avg_capital_used": text(CAPITAL), "capital_efficiency": "0.1",
        }  # fmt: skip

    def alert(self, alert_id: str, kind: tuple[str, str, str], symbol: str, resolved: bool, time_ms: int) -> Message:
        """An alert of a kind (type, severity, title), raised or resolved."""
        alert_type, severity, title = kind
        return "alerts.v1", alert_id, {
            **_dashboard(time_ms), "alert_id": alert_id, "alert_type": alert_type, "severity": severity,
            "title": title, "message": f"{title}: {symbol}", "description": None, "account_id": self.account,
            "strategy_id": self.strategy, "symbol": symbol, "order_id": None, "context": {},
            "status": "RESOLVED" if resolved else "ACTIVE", "acknowledged": False, "resolved": resolved,
        }  # fmt: skip


ALERTS = (
    ("POSITION_SIZE", "WARNING", "A position is near its limit"),
    ("SLIPPAGE", "INFO", "Executions slip more than usual"),
    ("LOSS_LIMIT", "ERROR", "The loss of the day is near its limit"),
    ("CONNECTIVITY", "WARNING", "Orders are acknowledged slowly"),
)
