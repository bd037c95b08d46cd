"""Risk events. Value at risk by horizon and by confidence are different quantities and stay apart."""

from __future__ import annotations

from typing import Any

from msgspec import Raw, Struct

from .canonical import ClaimedPosition, Risk
from .families import Family, Values, fill_owner
from .money import UNIT
from .reading import (
    Amounts,
    Defaults,
    Number,
    Text,
    each,
    json_text,
    maybe_ratio,
    maybe_text,
    missing,
    need_text,
    of_percent,
    percent_or_fraction,
)

# What `api` means by leaving a member out.
_API_AMOUNTS = {
    "total_exposure": 0, "max_position_size": 1000 * UNIT, "var_1d": 0, "var_5d": 0, "daily_pnl": 0,
    "daily_loss_limit": -500 * UNIT,
}  # fmt: skip
_API_COUNTS = {"max_positions": 3, "current_positions": 0}
_API_RATIOS = {"volatility": 0.0, "sharpe_ratio": 0.0, "max_drawdown": 0.0, "risk_score": 0.0}
_API_JSON = {"position_concentration": "{}", "risk_metrics_detail": "[]", "correlation_matrix": "{}", "metadata": "{}"}


class Position(Struct):
    symbol: Text = None
    quantity: Number = None
    avg_price: Number = None
    market_value: Number = None
    unrealized_pnl: Number = None
    realized_pnl: Number = None
    side: Text = None
    position_side: Text = None


class Assessment(Struct):
    risk_score: Number = None
    risk_level: Text = None
    breach_alerts: Raw = Raw()


def _variant(m: Any) -> str:
    if m.portfolio_id is not None:
        return "mon-flat"
    if m.portfolio_value is not None and m.cash_balance is not None:
        return "dashboard"
    return "api"


def _finish(m: Any, variant: str, values: Values, amounts: Amounts, defaults: Defaults) -> None:
    fill_owner(variant, values, defaults)
    if variant == "api":
        for name, default in {**_API_AMOUNTS, **_API_COUNTS, **_API_RATIOS, **_API_JSON}.items():
            values.setdefault(name, default)
        values["max_drawdown"] = of_percent(values["max_drawdown"])  # a limit of 5 means 5 percent
    elif variant == "dashboard":
        values.setdefault("num_positions", 0)
        for name in ("max_drawdown", "current_drawdown"):
            if name in values:
                values[name] = percent_or_fraction(values[name], name)
        for name in ("portfolio_value", "cash_balance", "total_pnl", "daily_pnl", "realized_pnl", "unrealized_pnl"):
            if name not in values:
                missing(name)
    elif "portfolio_id" not in values:
        values["portfolio_id"] = "main_portfolio"
    assessment: Assessment | None = m.risk_assessment
    if assessment is not None:
        values["risk_score"] = maybe_ratio(assessment.risk_score, "risk_assessment.risk_score")
        values["risk_level"] = maybe_text(assessment.risk_level)
        values["breach_alerts"] = json_text(assessment.breach_alerts)
    claimed = each(m.positions, "positions", lambda position: _claim(position, variant, amounts))
    values["positions"] = [p for p in claimed if p.quantity or variant != "api"]  # `api` lists those that are flat


def _claim(position: Position, variant: str, amounts: Amounts) -> ClaimedPosition:
    """Quantities are negative where short, whether the producer writes it so or says it by the side."""
    quantity = amounts.need(position.quantity, "quantity")
    side = position.side or position.position_side or ("LONG" if variant == "dashboard" else None)
    side = side and side.upper()
    return ClaimedPosition(
        symbol=need_text(position.symbol, "symbol"),
        quantity=-quantity if side == "SHORT" and quantity > 0 else quantity,
        avg_price=amounts.maybe(position.avg_price, "avg_price"),
        market_value=amounts.maybe(position.market_value, "market_value"),
        unrealized_pnl=amounts.maybe(position.unrealized_pnl, "unrealized_pnl"),
        realized_pnl=amounts.maybe(position.realized_pnl, "realized_pnl"),
        side=side,
        position_side=side if variant == "dashboard" else position.position_side,
    )


RISK = Family(
    event=Risk,
    variant=_variant,
    finish=_finish,
    also={"current_positions": ("position_count", "active_positions"), "risk_metrics_detail": ("risk_metrics",)},
    parts={"positions": list[Position] | None, "risk_assessment": Assessment | None},
    filled=frozenset({"account_id", "strategy_id"}),
)
