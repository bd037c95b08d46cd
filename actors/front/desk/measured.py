"""An account against its limits."""

from __future__ import annotations

import time
from typing import Any

from ....codecs.desk.money import UNIT, amount_number
from ..state import FrontState
from .config import Limits
from .form import AMOUNT_SCHEMA, INTEGER, MAYBE_AMOUNT, MAYBE_NUMBER, MOMENT, OBJECT, TEXT, Form, lists, objects
from .stated import Stated

SUMMARY: dict[str, Any] = objects(
    overall_risk_score=AMOUNT_SCHEMA, risk_level={"enum": ["LOW", "MEDIUM", "HIGH", "CRITICAL"]},
    active_alerts=INTEGER, breached_limits=INTEGER, var_utilization=AMOUNT_SCHEMA,
)  # fmt: skip
METRIC: dict[str, Any] = objects(
    name=TEXT, value=AMOUNT_SCHEMA, threshold=MAYBE_AMOUNT, status={"enum": ["NORMAL", "WARNING", "BREACH"]},
)  # fmt: skip
CHECK: dict[str, Any] = objects(
    current=AMOUNT_SCHEMA, limit=AMOUNT_SCHEMA, utilization_percent=AMOUNT_SCHEMA, status={"enum": ["OK", "BREACH"]},
)  # fmt: skip
CHECKS: dict[str, Any] = objects(position_limit=CHECK, daily_loss_limit=CHECK)
STATUSES = ("high", "medium", "low", "normal", "unknown")
CURRENT: dict[str, Any] = {
    "status": {"enum": list(STATUSES)}, "risk_score": MAYBE_NUMBER, "message": TEXT, "metrics": OBJECT,
    "timestamp": MOMENT,
}  # fmt: skip
LIMITS: dict[str, Any] = {"limits": OBJECT, "utilization": OBJECT, "breaches": lists(OBJECT), "timestamp": MOMENT}


def level_of(score: float) -> str:
    """LOW below 40, MEDIUM, HIGH from 60, CRITICAL from 80."""
    return "CRITICAL" if score >= 80 else "HIGH" if score >= 60 else "MEDIUM" if score >= 40 else "LOW"


_NOTHING = Stated(updated_ns=0)


class Measured:
    """An account against its limits: our own positions and PnL, the producers' score and value at risk.

    Of all accounts (None) positions, PnL, exposure and value at risk are sums, and the score and the drawdown those of
    the account that is worst off; see `stated`.

    Attributes:
        stated: what producers say; None where they say nothing.
    """

    def __init__(self, state: FrontState, account: str | None) -> None:
        self.limits: Limits = state.config.desk.limits
        self.stated: Stated | None = state.desk.risk.of(account)
        rows = state.desk.portfolio.pnl(account)
        now = state.desk.portfolio.whole(account)
        said = self.stated or _NOTHING
        if rows:
            self.daily_pnl = now["total_pnl"] - now["day_start_pnl"]
            self.exposure, self.positions = now["exposure"], now["positions"]
            # ours is a fraction of a capital that may not be configured
            self.drawdown, self.sharpe = max(now["max_drawdown"], said.max_drawdown or 0.0), now["sharpe_ratio"]
        else:
            self.daily_pnl, self.exposure = said.daily_pnl or 0, said.total_exposure or 0
            self.positions = said.positions or 0
            self.drawdown, self.sharpe = said.max_drawdown or 0.0, said.sharpe_ratio or 0.0
        self.known = bool(rows) or self.stated is not None
        self.score: float | None = said.risk_score
        self.var_1d = said.var_1d or 0
        self.updated_ns = max(now["updated_ns"], said.updated_ns) or time.time_ns()

    @property
    def loss(self) -> int:
        """Of the day, positive."""
        return max(0, -self.daily_pnl)

    def against(self) -> dict[str, tuple[float, float]]:
        """limit -> (current, limit)."""
        limits = self.limits
        return {
            "positions": (self.positions, limits.max_positions),
            "daily_loss": (amount_number(self.loss), limits.daily_loss_limit),
            "drawdown": (100 * self.drawdown, limits.max_drawdown_limit),
            "var_1d": (amount_number(self.var_1d), limits.var_1d_limit),
            "exposure": (amount_number(self.exposure), limits.total_exposure_limit),
        }

    def breached(self) -> list[str]:
        return [name for name, (current, limit) in self.against().items() if current > limit]

    def summary(self, alerts: int, form: Form) -> dict[str, Any]:
        """RiskSummary."""
        score = self.score or 0.0
        used = 100 * amount_number(self.var_1d) / self.limits.var_1d_limit
        return {
            "overall_risk_score": form.amount(round(score * UNIT)), "risk_level": level_of(score),
            "active_alerts": alerts, "breached_limits": len(self.breached()),
            "var_utilization": form.amount(round(used * UNIT)),
        }  # fmt: skip

    def metrics(self, form: Form) -> list[dict[str, Any]]:
        """RiskMetrics: a breach above the limit, a warning from 80 % of it; of the Sharpe ratio a warning below."""

        def metric(name: str, value: float, limit: float) -> dict[str, Any]:
            status = "BREACH" if value > limit else "WARNING" if value >= 0.8 * limit else "NORMAL"
            return {"name": name, "value": amount(value), "threshold": amount(limit), "status": status}

        def amount(value: float) -> Any:
            return form.amount(round(value * UNIT))

        limits, sharpe = self.limits, self.sharpe
        return [
            metric("VaR_1D", amount_number(self.var_1d), limits.var_1d_limit),
            metric("Max_Drawdown", 100 * self.drawdown, limits.max_drawdown_limit),
            {"name": "Sharpe_Ratio", "value": amount(sharpe), "threshold": amount(limits.sharpe_ratio_limit),
             "status": "NORMAL" if sharpe >= limits.sharpe_ratio_limit else "WARNING"},
        ]  # fmt: skip

    def checks(self, form: Form) -> dict[str, Any]:
        """limit_checks."""

        def check(current: float, limit: float) -> dict[str, Any]:
            return {
                "current": form.amount(round(current * UNIT)), "limit": form.amount(round(limit * UNIT)),
                "utilization_percent": form.amount(round(100 * current / limit * UNIT)),
                "status": "BREACH" if current > limit else "OK",
            }  # fmt: skip

        return {
            "position_limit": check(self.positions, self.limits.max_positions),
            "daily_loss_limit": check(amount_number(self.loss), self.limits.daily_loss_limit),
        }

    def current(self, form: Form) -> dict[str, Any]:
        """The word for it, and the figures behind it."""
        score, pnl = self.score, amount_number(self.daily_pnl)
        if not self.known:
            status, message = "unknown", "nothing is known of this account"
        elif (score or 0) >= 80 or pnl < -500 or self.positions >= self.limits.max_positions:
            status, message = "high", "close to a limit or beyond it"
        elif (score or 0) >= 60 or pnl < -200:
            status, message = "medium", "worth watching"
        elif (score or 0) >= 40:
            status, message = "low", "inside the limits"
        else:
            status, message = "normal", "inside the limits"
        return {
            "status": status, "risk_score": score, "message": message,
            "metrics": {
                "daily_pnl": form.amount(self.daily_pnl), "current_positions": self.positions,
                "max_positions": self.limits.max_positions, "total_exposure": form.amount(self.exposure),
                "var_1d": form.amount(self.var_1d), "max_drawdown": 100 * self.drawdown,
            },
            "timestamp": form.moment(self.updated_ns),
        }  # fmt: skip

    def limits_told(self, form: Form) -> dict[str, Any]:
        """The limits, how far they are used, and which are passed."""
        limits = self.limits
        against = self.against()
        return {
            "limits": {
                "max_positions": limits.max_positions, "max_position_size": limits.max_position_size,
                "daily_loss_limit": limits.daily_loss_limit, "max_drawdown_limit": limits.max_drawdown_limit,
                "var_1d_limit": limits.var_1d_limit, "total_exposure_limit": limits.total_exposure_limit,
            },
            "utilization": {
                name: {"current": current, "limit": limit, "percentage": round(100 * current / limit, 4)}
                for name, (current, limit) in against.items()
            },
            "breaches": [
                {"limit_type": name, "current_value": against[name][0], "limit_value": against[name][1],
                 "breach_percentage": round(100 * against[name][0] / against[name][1] - 100, 4)}
                for name in self.breached()
            ],
            "timestamp": form.moment(self.updated_ns),
        }  # fmt: skip
