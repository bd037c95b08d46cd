"""What one currency is worth in another now: the quotes of the feeds."""

from __future__ import annotations

import time
from collections.abc import Callable

from ....codecs.desk.money import divide, parse_amount
from ....codecs.records import QUOTE
from ....codecs.symbols import DOLLARS, EXCHANGES
from ...catalog import Source
from ..stamps import NS
from ..state import FrontState

_PRICE_MAX = 1e18


def rates_of(state: FrontState) -> Callable[[str, str], int]:
    """`(asset, currency)` -> currency for one of the asset, units of 1e-8; 0 where no fresh quote says it."""

    def rate_now(asset: str, currency: str) -> int:
        names = (currency, *(each for each in DOLLARS if each != currency)) if currency in DOLLARS else (currency,)
        since_ns = time.time_ns() - int(state.config.fresh_trade_s * NS)
        for name in names:
            for exchange in EXCHANGES:
                source = state.catalog.find(QUOTE.name, exchange, "spot", f"{asset}-{name}")
                if source is not None and (price := _middle(source, since_ns)):
                    return price
        return 0

    return rate_now


def _middle(source: Source, since_ns: int) -> int:
    """Between best bid and ask; 0 where one is missing, or where it was received before a time."""
    row = source.reader.latest(source.key_id)
    if row is None or int(row["ts_recv_ns"]) < since_ns:
        return 0
    bid, ask = float(row["bid"]), float(row["ask"])
    if not 0 < bid < _PRICE_MAX or not 0 < ask < _PRICE_MAX:
        return 0
    return divide(parse_amount(bid)[0] + parse_amount(ask)[0], 2)
