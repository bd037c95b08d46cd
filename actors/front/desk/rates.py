"""What one currency is worth in another now: the quotes of the feeds."""

from __future__ import annotations

import time
from collections.abc import Callable

from ....codecs.records import QUOTE
from ....codecs.symbols import DOLLARS, EXCHANGES
from ...catalog import mid
from ..stamps import NS
from ..state import FrontState


def rates_of(state: FrontState) -> Callable[[str, str], int]:
    """`(asset, currency)` -> currency for one of the asset, units of 1e-8; 0 where no fresh quote says it."""

    def rate_now(asset: str, currency: str) -> int:
        names = (currency, *(each for each in DOLLARS if each != currency)) if currency in DOLLARS else (currency,)
        since_ns = time.time_ns() - int(state.config.fresh_trade_s * NS)
        for name in names:
            for exchange in EXCHANGES:
                # a pair by itself is the name of its spot market
                source = state.catalog.find_instrument(QUOTE.name, exchange, f"{asset}-{name}")
                found = mid(source) if source is not None else None
                if found is not None and found[0] and found[1] >= since_ns:
                    return found[0]
        return 0

    return rate_now
