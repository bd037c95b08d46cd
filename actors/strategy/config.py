"""Settings of the demo's strategy."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ...codecs.desk.canonical import DEFAULT_ACCOUNT, DEFAULT_STRATEGY


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`[strategy]`: what is traded, and how often."""

    symbols: Annotated[list[str], Meta(min_length=1)]  # of the spot market, as the exchange writes them: "BTCUSDT"
    seed: int = 1
    orders_per_s: Annotated[float, Meta(gt=0, le=100)] = 1.0  # each makes about five messages
    notional: Annotated[float, Meta(gt=0)] = 2000.0  # of an order, quote currency
    # set by the plan
    account: str = DEFAULT_ACCOUNT
    strategy: str = DEFAULT_STRATEGY
