"""The exchange simulator: Binance spot and USD-M on loopback, real protocol, from a market model or from captures."""

from __future__ import annotations

from .actor import main
from .config import Config, Limits
from .simulator import Simulator

__all__ = ["Config", "Limits", "Simulator", "main"]
