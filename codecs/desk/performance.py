"""Performance of strategies as their producers state it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ..errors import Undecidable
from .canonical import Performance
from .families import Family, Values, fill_owner
from .reading import Amounts, Defaults, Number, Text, maybe_ratio, maybe_text, missing, percent_or_fraction


class Assessment(Struct):
    performance_score: Number = None
    performance_grade: Text = None


def _variant(m: Any) -> str:
    if m.gross_profit is not None or m.strategy_id is not None:
        return "dashboard"
    if m.time_window is not None:
        return "mon-rich"
    if m.timeframe is not None:
        return "mon-flat"
    raise Undecidable("no gross_profit, strategy_id, time_window or timeframe", "unknown_variant")


def _finish(m: Any, variant: str, values: Values, amounts: Amounts, defaults: Defaults) -> None:
    if variant == "dashboard":
        if "strategy_name" not in values:
            missing("strategy_name")
        for name in ("win_rate", "max_drawdown"):
            if name in values:
                values[name] = percent_or_fraction(values[name], name)
    else:
        values.setdefault("strategy_name", defaults.strategy)
        values["strategy_id"] = values["strategy_name"]
    fill_owner(variant, values, defaults)
    assessment: Assessment | None = m.performance_assessment
    if assessment is not None:
        values["performance_score"] = maybe_ratio(assessment.performance_score, "performance_score")
        values["performance_grade"] = maybe_text(assessment.performance_grade)


PERFORMANCE = Family(
    event=Performance,
    variant=_variant,
    finish=_finish,
    also={
        "time_window": ("timeframe",),
        "largest_win": ("best_trade",),
        "largest_loss": ("worst_trade",),
        "avg_hold_time": ("avg_holding_time_minutes",),
    },
    parts={"performance_assessment": Assessment | None},
    filled=frozenset({"strategy_id", "strategy_name", "account_id"}),
)
