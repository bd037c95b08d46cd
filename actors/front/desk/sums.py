"""Sums over fills: what was traded, and what it cost.

Amounts of different currencies are never added. What a fill itself tells is converted: a fee in its quote currency is
that amount, one in its base currency is worth the fill's own price, as the portfolio counts it. Any other fee (BNB) is
converted at the quotes of now where there are any, since the rate of its time is not in the fill; these rates are told.
What is left is told in its own asset. Dollar currencies count one to one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any

from ....codecs.desk.canonical import Fill
from ....codecs.desk.money import SCALE, UNIT, divide, parse_amount
from ....codecs.errors import UnknownSymbol
from ....codecs.symbols import DOLLARS, parse_symbol
from .form import AMOUNT_SCHEMA, INTEGER, OBJECT, TEXT, Form, lists, objects

DEFAULT_CURRENCY = "USDT"
RateNow = Callable[[str, str], int]  # (asset, currency) -> currency for one of the asset, 0 = not known
_WHOLE = Context(prec=100)

# the columns of `Sums.of`, in its order, and what they are grouped by
_FEE, _PRICE = "toDecimal256(commission, 8)", "toDecimal256(price, 8)"
CHARGED_BY = "symbol, commission_asset"
SUMS = (
    f"{CHARGED_BY}, count(), sum(quantity), sum(ifNull(slippage_bps, 0)), count(slippage_bps), min(price), max(price), "
    f"sum(toDecimal256(quantity, 8) * {_PRICE}), sum({_FEE}), sum({_FEE} * {_PRICE})"
)


@dataclass(slots=True)
class Charged:
    """Fills of one symbol with their fees in one asset."""

    value: int = 0  # quantity times price, quote currency, units of 1e-16
    fees: int = 0  # in the asset, units of 1e-8
    fees_at_price: int = 0  # fees times the price of their fill, units of 1e-16


@lru_cache(maxsize=8192)
def pair_of(symbol: str) -> tuple[str, str]:
    """Base and quote currency; without a quote where the name does not say it."""
    try:
        found = parse_symbol(symbol)
    except UnknownSymbol:
        return symbol, ""
    return found.base, found.quote


@dataclass
class Sums:
    """Sums over fills: exact."""

    fills: int = 0
    quantity: int = 0
    slippage: float = 0.0  # basis points
    slipped: int = 0  # fills that state one
    lowest: int = 0
    highest: int = 0
    charged: dict[tuple[str, str], Charged] = field(default_factory=dict)  # by symbol and the asset of the fee

    @classmethod
    def of(cls, row: Sequence[Any]) -> Sums:
        """From a row of `SUMS`: of the fills of one symbol with their fees in one asset."""
        symbol, asset, fills, quantity, slippage, slipped, lowest, highest, value, fees, at_price = row
        charged = Charged(_units(value, 2 * SCALE), _units(fees, SCALE), _units(at_price, 2 * SCALE))
        return cls(
            int(fills), parse_amount(quantity)[0], float(slippage), int(slipped), parse_amount(lowest)[0],
            parse_amount(highest)[0], {(symbol, asset): charged},
        )  # fmt: skip

    @property
    def value(self) -> int:
        """Quantity times price of all, whatever the currency, units of 1e-16."""
        return sum(one.value for one in self.charged.values())

    @property
    def average_size(self) -> int:
        return divide(self.quantity, self.fills) if self.fills else 0

    def add(self, fill: Fill) -> None:
        """One fill more."""
        price, quantity = fill.price, fill.quantity
        if not self.fills or price < self.lowest:
            self.lowest = price
        if price > self.highest:
            self.highest = price
        self.fills += 1
        self.quantity += quantity
        names = fill.symbol, fill.commission_asset
        charged = self.charged.get(names)
        if charged is None:
            charged = self.charged[names] = Charged()
        charged.value += quantity * price
        charged.fees += fill.commission
        charged.fees_at_price += fill.commission * price
        if fill.slippage_bps is not None:
            self.slippage += fill.slippage_bps
            self.slipped += 1

    def merge(self, other: Sums) -> None:
        """Those of other fills."""
        if other.fills:
            self.lowest = min(self.lowest, other.lowest) if self.fills else other.lowest
            self.highest = max(self.highest, other.highest)
        self.fills += other.fills
        self.quantity += other.quantity
        self.slippage += other.slippage
        self.slipped += other.slipped
        for names, one in other.charged.items():
            charged = self.charged.setdefault(names, Charged())
            charged.value += one.value
            charged.fees += one.fees
            charged.fees_at_price += one.fees_at_price

    def without(self, other: Sums) -> Sums | None:
        """Those of the rest, with the extremes of all; None where the others are not among these."""
        if not self.charged.keys() >= other.charged.keys():
            return None
        charged = {}
        for names, one in self.charged.items():
            gone = other.charged.get(names, Charged())
            if one.value < gone.value:
                return None
            if one.value > gone.value:  # nothing is traded for nothing: there are others
                charged[names] = Charged(
                    one.value - gone.value, one.fees - gone.fees, one.fees_at_price - gone.fees_at_price
                )
        return Sums(
            self.fills - other.fills, self.quantity - other.quantity, self.slippage - other.slippage,
            self.slipped - other.slipped, self.lowest, self.highest, charged,
        )  # fmt: skip


def _units(text: Any, scale: int) -> int:
    return int(Decimal(text).scaleb(scale, _WHOLE))


@dataclass(frozen=True)
class Money:
    """What `Sums` come to in one currency.

    Attributes:
        currency: the quote currency of most of the volume; other dollars count as this one where it is a dollar.
        volume: of the fills that are quoted in it.
        commission: all fees that a fill itself tells in it.
        volumes: by quote currency; "" where a symbol does not say it, which counts one to one, as in the portfolio.
        commissions: all fees by their asset.
        unconverted: those that are not in `commission`.
        rates: at which some were converted now: asset -> currency for one of it.
    """

    currency: str
    volume: int
    commission: int
    volumes: dict[str, int]
    commissions: dict[str, int]
    unconverted: dict[str, int]
    rates: dict[str, int]


def money(sums: Sums, rate_now: RateNow, currency: str = "") -> Money:
    """Volume and fees of some fills.

    Args:
        rate_now: currency for one of an asset, 0 = not known: `(asset, currency)`.
        currency: what they are told in; empty: that of most of the volume.
    """
    volumes, commissions = dict[str, int](), dict[str, int]()
    for (symbol, asset), one in sums.charged.items():
        _, quote = pair_of(symbol)
        volumes[quote] = volumes.get(quote, 0) + one.value
        if one.fees:
            commissions[asset] = commissions.get(asset, 0) + one.fees
    currency = currency or max((quote for quote in volumes if quote), key=volumes.__getitem__, default=DEFAULT_CURRENCY)
    same = {*(DOLLARS if currency in DOLLARS else (currency,)), ""}
    total, unconverted = 0, dict[str, int]()
    for (symbol, asset), one in sums.charged.items():
        base, quote = pair_of(symbol)
        if (asset or quote) in same:
            total += one.fees * UNIT
        elif asset == base and quote in same:
            total += one.fees_at_price
        elif one.fees:
            unconverted[asset] = unconverted.get(asset, 0) + one.fees
    rates = {asset: rate for asset in unconverted if (rate := rate_now(asset, currency))}
    total += sum(unconverted.pop(asset) * rate for asset, rate in rates.items())
    return Money(
        currency, divide(sum(value for quote, value in volumes.items() if quote in same), UNIT), divide(total, UNIT),
        {quote: divide(value, UNIT) for quote, value in volumes.items()}, commissions, unconverted,
        rates,
    )  # fmt: skip


def _amounts(units: Mapping[str, int], form: Form) -> dict[str, Any]:
    return {name: form.amount(value) for name, value in sorted(units.items())}


def summary(sums: Sums, told: Money, form: Form) -> dict[str, Any]:
    """FillSummary: amounts in one currency, average slippage in basis points of the fills that state one."""
    slippage = round(sums.slippage / sums.slipped * 1e8) if sums.slipped else 0
    return {
        "total_fills": sums.fills, "total_volume": form.amount(told.volume),
        "total_commission": form.amount(told.commission), "avg_fill_size": form.amount(sums.average_size),
        "avg_slippage": form.amount(slippage),
    }  # fmt: skip


def currencies(told: Money, form: Form) -> dict[str, Any]:
    """Of which currency a summary is, and what it leaves out."""
    return {
        "currency": told.currency, "volume_by_currency": _amounts(told.volumes, form),
        "commission_by_asset": _amounts(told.commissions, form),
        "unconverted_commission": _amounts(told.unconverted, form), "conversion_rates": _amounts(told.rates, form),
    }  # fmt: skip


def whole_of(buckets: Mapping[int, Sums]) -> Sums:
    """All of them in one."""
    whole = Sums()
    for sums in buckets.values():
        whole.merge(sums)
    return whole


def volume_buckets(buckets: Mapping[int, Sums], whole: Sums, told: Money, form: Form) -> dict[str, Any]:
    """Volume by interval, oldest first; all values in the currency of the whole."""
    data = []
    for start, sums in sorted(buckets.items()):
        mine = money(sums, lambda asset, _: told.rates.get(asset, 0), told.currency)
        data.append({
            "timestamp": form.moment(start), "volume": form.amount(sums.quantity), "value": form.amount(mine.volume),
            "fill_count": sums.fills,
            "avg_price": form.amount(divide(sums.value, sums.quantity) if sums.quantity else 0),
            "min_price": form.amount(sums.lowest), "max_price": form.amount(sums.highest),
            "commission": form.amount(mine.commission),
        })  # fmt: skip
    return {
        "volume_data": data, "total_volume": form.amount(whole.quantity), "total_value": form.amount(told.volume),
        "total_fills": whole.fills, "avg_fill_size": form.amount(whole.average_size),
    }  # fmt: skip


_BY_NAME: dict[str, Any] = {"type": "object", "additionalProperties": AMOUNT_SCHEMA}
SUMMARY: dict[str, Any] = objects(
    total_fills=INTEGER, total_volume=AMOUNT_SCHEMA, total_commission=AMOUNT_SCHEMA, avg_fill_size=AMOUNT_SCHEMA,
    avg_slippage=AMOUNT_SCHEMA,
)  # fmt: skip
CURRENCIES: dict[str, Any] = {
    "currency": {**TEXT, "description": "of total_volume and total_commission, other dollars one to one"},
    "volume_by_currency": {**_BY_NAME, "description": "all volume by quote currency; that of none counts one to one"},
    "commission_by_asset": {**_BY_NAME, "description": "all fees in their own asset"},
    "unconverted_commission": {**_BY_NAME, "description": "fees that total_commission leaves out"},
    "conversion_rates": {**_BY_NAME, "description": "quotes of now at which fees in other assets were converted"},
}  # fmt: skip
VOLUME: dict[str, Any] = objects(
    volume_data=lists(OBJECT), total_volume=AMOUNT_SCHEMA, total_value=AMOUNT_SCHEMA, total_fills=INTEGER,
    avg_fill_size=AMOUNT_SCHEMA,
)  # fmt: skip
