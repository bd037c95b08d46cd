"""Alerts as their producers raise them."""

from __future__ import annotations

from typing import Any

from ..errors import Undecidable
from .canonical import Alert
from .families import Family, Values
from .reading import Amounts, Defaults, Words, missing

SEVERITIES = Words(
    "INFO", "LOW", "MEDIUM", "HIGH", "CRITICAL", WARNING="MEDIUM", WARN="MEDIUM", ERROR="HIGH", EMERGENCY="CRITICAL"
)


def _variant(m: Any) -> str:
    if m.alert_type is not None:
        return "dashboard"
    if m.category is not None:
        return "mon-flat"
    if m.code is not None:
        return "api"
    raise Undecidable("an alert without alert_type, category or code", "unknown_variant")


def _finish(m: Any, variant: str, values: Values, amounts: Amounts, defaults: Defaults) -> None:
    written = values["severity"]
    values["severity_raw"] = written
    values["severity"] = SEVERITIES.need(written, "severity")
    values["emergency"] = written.upper() == "EMERGENCY"
    if not values.get("message"):
        missing("message")
    values.setdefault("code", values.get("alert_type") or values.get("category") or "")
    if variant == "api":
        values.setdefault("strategy_id", defaults.strategy)
        values.setdefault("context", "{}")
        values.setdefault("metrics", "{}")
        if values.get("auto_resolved"):
            values["resolved"] = True
    status = values.get("status", "").upper()
    if status == "RESOLVED":
        values["resolved"] = True
    values["status"] = "RESOLVED" if values.get("resolved") else status or "ACTIVE"


ALERTS = Family(
    event=Alert,
    variant=_variant,
    finish=_finish,
    also={"context": ("details",), "metadata": ("alert_metadata",)},
)
