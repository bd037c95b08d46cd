"""The words of execution reports, and what stands in for those that are missing."""

from __future__ import annotations

from .reading import Words

API, DASHBOARD, RICH, FLAT = range(1, 5)  # indexes of `canonical.VARIANTS`
VENUE = "binance"
MONITORING_FEES = "USDT"  # what the typed producer's default is; the flat one names no asset

STATUSES = Words(
    "NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "REJECTED", "EXPIRED",
    PARTIAL="PARTIALLY_FILLED", CANCELLED="CANCELED", FAILED="REJECTED",
)  # fmt: skip
ORDER_TYPES = Words(
    "MARKET", "LIMIT", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT",
    STOP="STOP_LOSS", STOP_LIMIT="STOP_LOSS_LIMIT",
)  # fmt: skip
EXEC_TYPES = Words("NEW", "PARTIAL_FILL", "FILL", "TRADE", "CANCELED", "REJECTED", "EXPIRED", CANCELLED="CANCELED")
EXECUTED = frozenset({"FILLED", "PARTIALLY_FILLED"})
