"""Signals, position updates and market data: monitoring alone sends them."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from .canonical import MarketData, PositionUpdate, Signal
from .families import Family, Values
from .reading import SIDES, Amounts, Defaults, Number, Text, Words, bad, maybe_ratio, maybe_text

SIGNALS = Words("BUY", "SELL", "HOLD")
STATES = Words("OPEN", "CLOSED", "PARTIAL")


class Quality(Struct):
    strength_score: Number = None
    quality_grade: Text = None


class Analysis(Struct):
    pnl_percentage: Number = None
    holding_efficiency: Number = None
    exit_timing_score: Number = None


def _finish_signal(m: Any, variant: str, values: Values, amounts: Amounts, defaults: Defaults) -> None:
    values["signal_type"] = SIGNALS.need(values["signal_type"], "signal_type")
    values.setdefault("strategy", defaults.strategy)
    if variant == "mon-rich":
        values.setdefault("expected_holding_minutes", 60)
    quality: Quality | None = m.signal_quality
    if quality is not None:
        values["strength_score"] = maybe_ratio(quality.strength_score, "signal_quality.strength_score")
        values["quality_grade"] = maybe_text(quality.quality_grade)


def _finish_position(m: Any, variant: str, values: Values, amounts: Amounts, defaults: Defaults) -> None:
    values["side"] = SIDES.need(values["side"], "side")
    values["status"] = STATES.need(values["status"], "status")
    values.setdefault("strategy", defaults.strategy)
    if values["quantity"] < 0:
        bad("quantity", m.quantity, "none below zero")
    analysis: Analysis | None = m.position_analysis
    if analysis is not None:
        for name in Analysis.__struct_fields__:
            values[name] = maybe_ratio(getattr(analysis, name), f"position_analysis.{name}")


def _nothing(m: Any, variant: str, values: Values, amounts: Amounts, defaults: Defaults) -> None:
    """Market data needs no rule of its own."""


TRADE_SIGNALS = Family(
    event=Signal,
    variant=lambda m: "mon-flat" if m.signal_quality is None else "mon-rich",
    finish=_finish_signal,
    also={"expected_entry": ("expected_entry_price",)},
    parts={"signal_quality": Quality | None},
    filled=frozenset({"strategy"}),
)
POSITION_UPDATES = Family(
    event=PositionUpdate,
    variant=lambda m: "mon-flat" if m.position_analysis is None else "mon-rich",
    finish=_finish_position,
    parts={"position_analysis": Analysis | None},
    filled=frozenset({"strategy"}),
)
MARKET_DATA = Family(event=MarketData, variant=lambda m: "mon-flat", finish=_nothing)
