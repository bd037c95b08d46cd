"""Settings of the portfolio."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ...codecs.desk.canonical import DEFAULT_ACCOUNT, DEFAULT_STRATEGY
from ...codecs.desk.money import parse_amount
from ...codecs.errors import MalformedAmount
from ...codecs.symbols import DOLLARS
from ...storage.client import Server

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Positive = Annotated[int, Meta(ge=1)]


class Opening(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A position that was there before the first fill."""

    symbol: str  # as the reports write it
    quantity: str  # base units, negative where short
    price: str  # quote currency, average
    account: str = DEFAULT_ACCOUNT
    strategy: str = DEFAULT_STRATEGY
    venue: str = "binance"


class Contract(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An instrument whose quantity counts contracts."""

    symbol: str  # as the reports write it
    value: str  # of one contract: base units, or quote currency where inverse
    inverse: bool = False  # settled in the base currency
    venue: str = ""  # "" = all


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`[portfolio]`: what positions begin with, and how they are valued."""

    mark_market: Literal["spot", "perpetual"] = "spot"  # whose quotes value a symbol that does not say it itself
    marks_per_second: Annotated[float, Meta(gt=0, le=50)] = 4.0  # a position is valued anew at most so often
    stale_after_s: Seconds = 60.0  # a mark that was last seen longer ago is stale
    currency: str = "USDT"  # of sums over positions
    same_currencies: list[str] = msgspec.field(default_factory=lambda: list(DOLLARS))  # counted one to one
    rates: dict[str, str] = {}  # pair, "BNB-USDT" -> price, where nothing better is known
    rate_max_age_s: Seconds = 60.0  # the quotes of now are the rate of a fill that is not older
    openings: list[Opening] = []
    contracts: list[Contract] = []
    capital: dict[str, str] = {}  # account -> what it began with, in `currency`: drawdown is a fraction of equity

    commit_interval_ms: Annotated[int, Meta(ge=1, le=10_000)] = 100  # what is folded is on disk after so long
    curve_interval_s: Seconds = 60.0  # PnL is published at least so often while positions are open
    position_capacity: Positive = 1 << 13  # records of the ring, a power of two
    pnl_capacity: Positive = 1 << 13
    keys_max: Positive = 8192  # positions and groups together
    # set by the plan
    clickhouse: Server = Server()
    default_account: str = DEFAULT_ACCOUNT  # of events that name none, as the topics take them
    default_strategy: str = DEFAULT_STRATEGY

    def __post_init__(self) -> None:
        amounts = [*self.rates.values(), *self.capital.values(), *(contract.value for contract in self.contracts)]
        amounts += [text for opening in self.openings for text in (opening.quantity, opening.price)]
        for text in amounts:
            try:
                parse_amount(text)
            except MalformedAmount as error:
                raise ValueError(str(error)) from None
        for pair in self.rates:
            if pair.count("-") != 1:
                raise ValueError(f'rates.{pair}: expected a pair such as "BNB-USDT"')
        for name in ("position_capacity", "pnl_capacity"):
            if getattr(self, name) & (getattr(self, name) - 1):
                raise ValueError(f"{name}: expected a power of two")
