"""Instruments that the market model trades: names, precisions and their exchangeInfo entries.

Prices and quantities are integers inside the model: ticks of 10^-price_digits quote units and lots of
10^-quantity_digits base units. Spot writes them with eight decimals, USD-M with the instrument's own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from .config import SPOT

QUOTES = (
    "USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USDP", "BTC", "ETH", "BNB", "TRY", "EUR", "BRL", "BIDR", "RUB", "AUD",
    "GBP", "BVND", "VAI", "NGN", "UAH", "ZAR", "DAI", "IDRT", "JPY", "USD",
)  # fmt: skip

COINS: tuple[tuple[str, float], ...] = (
    ("BTC", 61_800.0), ("ETH", 2_650.0), ("SOL", 152.0), ("XRP", 0.61), ("BNB", 512.0), ("DOGE", 0.104), ("ADA", 0.35),
    ("AVAX", 24.1), ("LINK", 10.7), ("TRX", 0.127), ("DOT", 4.85), ("LTC", 61.3), ("BCH", 352.0), ("NEAR", 4.21),
    ("UNI", 6.55), ("APT", 6.1), ("ICP", 8.2), ("ETC", 19.4), ("FIL", 3.9), ("ATOM", 4.6), ("ARB", 0.56), ("OP", 1.42),
    ("XLM", 0.101), ("VET", 0.0226), ("HBAR", 0.056), ("AAVE", 108.0), ("ALGO", 0.125), ("SAND", 0.27), ("EGLD", 28.5),
    ("PEPE", 0.0000085),
)  # fmt: skip


def decimal_text(digits: int, written: int) -> Callable[[int], str]:
    """Return a function from an integer in units of 10^-digits to text with `written` decimals."""
    if digits == 0:
        tail = "." + "0" * written if written else ""
        return lambda units: f"{units}{tail}"
    scale = 10**digits
    form = f"%d.%0{digits}d" + "0" * (written - digits)
    return lambda units: form % divmod(units, scale)


def split_native(native: str) -> tuple[str, str]:
    """Split `BTCUSDT` into base and quote by the known quote assets; an unknown quote is taken as the last four."""
    plain = native.split("_", 1)[0]
    for quote in QUOTES:
        if plain.endswith(quote) and len(plain) > len(quote):
            return plain[: -len(quote)], quote
    return plain[:-4] or plain, plain[-4:]


@dataclass
class Instrument:
    """One symbol of one product."""

    product: str
    native: str
    base: str
    quote: str
    price: float  # where the model starts
    price_digits: int
    quantity_digits: int
    price_text: Callable[[int], str] = field(init=False, repr=False)
    quantity_text: Callable[[int], str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        spot = self.product == SPOT
        self.price_text = decimal_text(self.price_digits, 8 if spot else self.price_digits)
        self.quantity_text = decimal_text(self.quantity_digits, 8 if spot else self.quantity_digits)

    @property
    def tick(self) -> float:
        return 10.0**-self.price_digits


def make_instrument(product: str, native: str, base: str, quote: str, price: float) -> Instrument:
    """Give a coin the precisions that the exchange would: about seven significant digits of price on spot."""
    magnitude = math.floor(math.log10(price))
    price_digits = min(8, max(2, 6 - magnitude))
    quantity_digits = min(8, max(0, magnitude + 1))
    if product != SPOT:
        price_digits = max(1, price_digits - 1)
        quantity_digits = max(0, quantity_digits - 2)
    return Instrument(product, native, base, quote, price, price_digits, quantity_digits)


def make_instruments(symbols: int | list[str], products: list[str], seed: int) -> list[Instrument]:
    """Return the instruments of all products, coin by coin; coins beyond the known ones are made from the seed."""
    known = dict(COINS)
    if isinstance(symbols, int):
        bases = [base for base, _ in COINS[:symbols]]
        bases += [f"SIM{index:04d}" for index in range(len(bases) + 1, symbols + 1)]
        names = [(base + "USDT", base, "USDT") for base in bases]
    else:
        names = [(native, *split_native(native)) for native in symbols]
    made = []
    for native, base, quote in names:
        price = known.get(base) or math.exp(
            random.Random(f"{seed}:price:{base}").uniform(math.log(0.01), math.log(500))
        )
        made += [make_instrument(product, native, base, quote, price) for product in products]
    return made


def _unit(digits: int, written: int) -> str:
    return decimal_text(digits, written)(1)


def spot_info(instrument: Instrument) -> dict:
    """Return the instrument's entry in `GET /api/v3/exchangeInfo`."""
    return {
        "symbol": instrument.native, "status": "TRADING", "baseAsset": instrument.base, "baseAssetPrecision": 8,
        "quoteAsset": instrument.quote, "quotePrecision": 8, "quoteAssetPrecision": 8, "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS_LIMIT", "TAKE_PROFIT_LIMIT"],
        "icebergAllowed": True, "ocoAllowed": True, "otoAllowed": True, "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": True, "cancelReplaceAllowed": True, "amendAllowed": True, "pegInstructionsAllowed": True,
        "isSpotTradingAllowed": True, "isMarginTradingAllowed": True,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": _unit(instrument.price_digits, 8),
             "maxPrice": "1000000.00000000", "tickSize": _unit(instrument.price_digits, 8)},
            {"filterType": "LOT_SIZE", "minQty": _unit(instrument.quantity_digits, 8), "maxQty": "9000000.00000000",
             "stepSize": _unit(instrument.quantity_digits, 8)},
            {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True,
             "maxNotional": "9000000.00000000", "applyMaxToMarket": False, "avgPriceMins": 5},
        ],
        "permissions": [], "permissionSets": [["SPOT", "MARGIN"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH", "DECREMENT"],
    }  # fmt: skip


def usdm_info(instrument: Instrument) -> dict:
    """Return the instrument's entry in `GET /fapi/v1/exchangeInfo`: a perpetual, or a dated future by its name."""
    _, _, expiry = instrument.native.partition("_")
    delivery_ms = 4_133_404_800_000
    contract = "PERPETUAL"
    if len(expiry) == 6 and expiry.isdigit():
        contract = "CURRENT_QUARTER"
        delivery_ms = int(datetime.strptime(expiry + "08", "%y%m%d%H").replace(tzinfo=UTC).timestamp() * 1000)
    return {
        "symbol": instrument.native, "pair": instrument.base + instrument.quote, "contractType": contract,
        "deliveryDate": delivery_ms, "onboardDate": 1_569_398_400_000, "status": "TRADING",
        "maintMarginPercent": "2.5000", "requiredMarginPercent": "5.0000", "baseAsset": instrument.base,
        "quoteAsset": instrument.quote, "marginAsset": instrument.quote, "pricePrecision": instrument.price_digits,
        "quantityPrecision": instrument.quantity_digits, "baseAssetPrecision": 8, "quotePrecision": 8,
        "underlyingType": "COIN", "underlyingSubType": [], "triggerProtect": "0.0500", "liquidationFee": "0.012500",
        "marketTakeBound": "0.05", "maxMoveOrderLimit": 10000,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": _unit(instrument.price_digits, instrument.price_digits),
             "maxPrice": "1000000", "tickSize": _unit(instrument.price_digits, instrument.price_digits)},
            {"filterType": "LOT_SIZE", "minQty": _unit(instrument.quantity_digits, instrument.quantity_digits),
             "maxQty": "1000000", "stepSize": _unit(instrument.quantity_digits, instrument.quantity_digits)},
            {"filterType": "MARKET_LOT_SIZE", "minQty": _unit(instrument.quantity_digits, instrument.quantity_digits),
             "maxQty": "10000", "stepSize": _unit(instrument.quantity_digits, instrument.quantity_digits)},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200}, {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD", "RPI"], "permissionSets": ["GRID", "COPY"],
    }  # fmt: skip
