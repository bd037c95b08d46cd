"""Names of instruments: canonical inside, native at the exchange, and the many forms in which people write them.

| kind | canonical | pair and market type |
|---|---|---|
| spot | `BTC-USDT` | `BTC-USDT`, `spot` |
| linear perpetual | `BTC-USDT-PERP` | `BTC-USDT`, `perpetual` |
| inverse perpetual | `BTC-USD-PERP` | `BTC-USD`, `perpetual` |
| dated future | `BTC-USDT-20261225` | `BTC-USDT`, `future` |
| option | `BTC-USD-20261225-100000-C` | `BTC-USD`, `option` |

A native name is looked up in the exchange's own list of instruments (`InstrumentIndex`) and taken apart only where the
list does not know it, because a name does not always say where its base ends (`USDTUSD` is `USDT-USD`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from .errors import UnknownExchange, UnknownSymbol

MARKET_TYPES = ("spot", "perpetual", "future", "option")

# Quote assets by which an undivided name is split, tried longest first.
QUOTE_ASSETS = tuple(
    sorted(
        (
            "USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USDP", "USD1", "USDE", "DAI", "PAX", "UST", "USDS", "XUSD",
            "BFUSD", "EURI", "AEUR", "USD", "EUR", "GBP", "AUD", "TRY", "BRL", "RUB", "UAH", "NGN", "ZAR", "PLN", "RON",
            "ARS", "MXN", "COP", "CZK", "JPY", "IDRT", "BIDR", "BKRW", "BVND", "VAI", "BTC", "ETH", "BNB", "SOL", "XRP",
            "TRX", "DOGE", "DOT",
        ),
        key=lambda asset: (-len(asset), asset),
    )
)  # fmt: skip

DOLLARS = ("USD", "USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USDP", "DAI")  # count one to one where sums are made

_PERPETUAL_WORDS = frozenset(("PERP", "PERPETUAL", "SWAP"))
_MONTHS = {
    month: f"{n:02d}"
    for n, month in enumerate(
        ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"), start=1
    )
}
_DIVIDERS = re.compile(r"[-/_]")
_ASSET = re.compile(r"[^\W_]{1,32}")  # letters and digits of any script: exchanges list names outside ASCII
_SETTLED = re.compile(r"([^\W_]+)/([^\W_]+):([^\W_]+)(-.+)?")
_STRIKE = re.compile(r"\d+(\.\d+)?")


class Symbol(msgspec.Struct, frozen=True):
    """What a name says: the pair, the kind of instrument and its terms."""

    base: str
    quote: str
    market_type: str = "spot"
    expiry: str = ""  # YYYYMMDD, UTC
    strike: str = ""  # quote currency, plain decimal
    side: str = ""  # C or P

    @property
    def pair(self) -> str:
        return f"{self.base}-{self.quote}"

    @property
    def instrument(self) -> str:
        """The canonical name in one string."""
        match self.market_type:
            case "spot":
                return self.pair
            case "perpetual":
                return f"{self.pair}-PERP"
            case "future":
                return f"{self.pair}-{self.expiry}"
        return f"{self.pair}-{self.expiry}-{self.strike}-{self.side}"


def parse_symbol(text: str, market_type: str | None = None) -> Symbol:
    """Read a symbol in any form people use, in any case.

    ``BTC-USDT``, ``BTCUSDT``, ``BTC/USDT``, ``BTC_USDT``, each also with ``-PERP``, ``-PERPETUAL``, ``-SWAP`` (which
    select `perpetual`), with a date (``-20261225``, ``_261225``, ``-25DEC26``: `future`), or with date, strike and
    side (`option`). A lone base with one of these takes ``USD`` as its quote, as in ``BTC-PERPETUAL``. CCXT's names of
    contracts say what they settle in: ``BTC/USDT:USDT``, ``BTC/USD:BTC`` (`perpetual`), ``BTC/USDT:USDT-261225``.

    Args:
        market_type: of a text that does not say it itself: `spot` unless given, or `perpetual`.

    Raises:
        UnknownSymbol: the text fits none of the forms.
    """
    name = text.strip().upper()
    if ":" in name and (settled := _SETTLED.fullmatch(name)) and settled[3] in (settled[1], settled[2]):
        name = f"{settled[1]}-{settled[2]}{settled[4] or '-PERP'}"
    parts = _DIVIDERS.split(name)
    side = strike = expiry = ""
    kind = market_type or "spot"
    if len(parts) >= 3 and parts[-1] in ("C", "P", "CALL", "PUT") and _STRIKE.fullmatch(parts[-2]):
        *parts, strike, side = parts
        side, kind = side[0], "option"
    if len(parts) >= 2 and (date := _expiry(parts[-1])):
        parts.pop()
        expiry, kind = date, "option" if side else "future"
    elif len(parts) >= 2 and parts[-1] in _PERPETUAL_WORDS:
        parts.pop()
        kind = "perpetual"
    pair = _pair(parts, "USD" if kind != "spot" else "")
    wants_expiry = kind in ("future", "option")
    if pair is None or kind not in MARKET_TYPES or bool(expiry) != wants_expiry or bool(side) != (kind == "option"):
        raise UnknownSymbol(
            f"symbol {text[:64]!r} (market_type {market_type or 'not given'}) names no instrument: write it like "
            "BTC-USDT, BTC-USDT-PERP, BTC-USDT-20261225 or BTC-USD-20261225-100000-C"
        )
    return Symbol(*pair, kind, expiry, strike, side)


def _pair(parts: list[str], quote_of_lone_base: str) -> tuple[str, str] | None:
    if len(parts) == 1 and (pair := split_pair(parts[0])):
        return pair
    if len(parts) == 1 and quote_of_lone_base:
        parts = [parts[0], quote_of_lone_base]
    if len(parts) == 2 and all(map(_ASSET.fullmatch, parts)):
        return parts[0], parts[1]
    return None


def split_pair(name: str) -> tuple[str, str] | None:
    """Split an undivided upper-case name at its quote asset, the longest first: `("BTC", "USDT")` or None."""
    for quote in QUOTE_ASSETS:
        base = name[: -len(quote)]
        if base and name.endswith(quote) and _ASSET.fullmatch(base):
            return base, quote
    return None


def _expiry(part: str) -> str:
    """YYYYMMDD of ``20261225``, ``261225`` or ``25DEC26``; empty where the part is no date."""
    if part.isascii() and part.isdigit() and len(part) in (6, 8):
        date = part if len(part) == 8 else f"20{part}"
        return date if "01" <= date[4:6] <= "12" and "01" <= date[6:] <= "31" else ""
    day, month, year = part[:-5], _MONTHS.get(part[-5:-2]), part[-2:]
    if month and day.isdigit() and year.isdigit() and 1 <= int(day) <= 31:
        return f"20{year}{month}{int(day):02d}"
    return ""


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument of one exchange, as its instrument list describes it."""

    exchange: str  # binance, okx, deribit
    product: str  # the exchange's own division: spot, usdm, coinm
    native: str  # the exchange's name for it
    base: str
    quote: str
    market_type: str = "spot"
    expiry: str = ""  # YYYYMMDD of a dated future
    tick: str = "0"  # smallest price step, quote currency; 0 = not known
    lot: str = "0"  # smallest quantity step, as the exchange counts; 0 = not known
    price_precision: int = 0  # decimals
    quantity_precision: int = 0
    contract_value: float = 1.0  # base units of one unit of native quantity; quote units where `inverse`
    inverse: bool = False  # quantity counts contracts worth `contract_value` of quote currency
    status: str = "TRADING"  # the exchange's own word
    onboard_ms: int = 0  # listed since, UNIX ms; 0 = not known

    @property
    def name(self) -> Symbol:
        return Symbol(self.base, self.quote, self.market_type, self.expiry)

    @property
    def symbol(self) -> str:
        """The pair, ``BTC-USDT``."""
        return f"{self.base}-{self.quote}"

    @property
    def instrument(self) -> str:
        """The canonical name, ``BTC-USDT-PERP``."""
        return self.name.instrument

    @property
    def key(self) -> str:
        """Text of its key: ``binance.BTC-USDT-PERP``."""
        return f"{self.exchange}.{self.instrument}"

    def attributes(self) -> dict[str, Any]:
        """What a key directory row says about it."""
        return {
            "exchange": self.exchange,
            "product": self.product,
            "market_type": self.market_type,
            "symbol": self.symbol,
            "instrument": self.instrument,
            "native": self.native,
            "tick": self.tick,
            "lot": self.lot,
            "price_precision": self.price_precision,
            "quantity_precision": self.quantity_precision,
            **({"inverse": True, "contract_value": self.contract_value} if self.inverse else {}),
        }


class InstrumentIndex:
    """Instruments by every name they have: native, canonical, and the pair with its market type."""

    def __init__(self, instruments: Iterable[Instrument] = ()) -> None:
        self._by_native: dict[str, list[Instrument]] = {}
        self._by_instrument: dict[str, list[Instrument]] = {}
        for instrument in instruments:
            self.add(instrument)

    def add(self, instrument: Instrument) -> None:
        """Add it, or replace the one of the same exchange, product and native name."""
        for names, name in (
            (self._by_native, instrument.native.upper()),
            (self._by_instrument, instrument.instrument),
        ):
            known = names.setdefault(name, [])
            known[:] = [
                other
                for other in known
                if (other.exchange, other.product, other.native)
                != (instrument.exchange, instrument.product, instrument.native)
            ]
            known.append(instrument)

    def native(self, name: str, exchange: str | None = None, product: str | None = None) -> Instrument | None:
        """The instrument of a native name, in any case; None where it is not known."""
        for instrument in self._by_native.get(name.upper(), ()):
            if exchange in (None, instrument.exchange) and product in (None, instrument.product):
                return instrument
        return None

    def find(self, text: str, exchange: str | None = None, market_type: str | None = None) -> Instrument | None:
        """The instrument that a person's text means: native names first, then the forms of `parse_symbol`.

        A native name that several markets share (``BTCUSDT``: spot and perpetual) means `spot` unless `market_type`
        says otherwise. None where no known instrument fits; raises `UnknownSymbol` where the text fits no form.
        """
        for instrument in self._by_native.get(text.strip().upper(), ()):
            if exchange in (None, instrument.exchange) and instrument.market_type == (market_type or "spot"):
                return instrument
        for instrument in self._by_instrument.get(parse_symbol(text, market_type).instrument, ()):
            if exchange in (None, instrument.exchange):
                return instrument
        return self.native(text.strip(), exchange) if market_type is None else None

    def __iter__(self) -> Iterator[Instrument]:
        for known in self._by_native.values():
            yield from known

    def __len__(self) -> int:
        return sum(map(len, self._by_native.values()))


EXCHANGES = ("binance", "okx", "deribit")
_MARKET_WORDS = {
    "spot": "spot", "us": "spot",
    "perpetual": "perpetual", "perp": "perpetual", "swap": "perpetual", "derivatives": "perpetual",
    "futures": "perpetual", "usdm": "perpetual", "usdsm": "perpetual", "coinm": "perpetual", "delivery": "perpetual",
    "future": "future", "option": "option", "options": "option",
}  # fmt: skip


def parse_exchange(text: str) -> tuple[str, str | None]:
    """Read an exchange or one of its venue names: ``BINANCE_FUTURES`` is `("binance", "perpetual")`.

    The market type is None where the text is the bare exchange.

    Raises:
        UnknownExchange: neither an exchange nor a venue name of one.
    """
    exchange, divider, word = text.strip().lower().replace("-", "_").partition("_")
    market_type = _MARKET_WORDS.get(word)
    if exchange not in EXCHANGES or (divider and market_type is None):
        raise UnknownExchange(f"exchange {text[:64]!r} is unknown: use one of {', '.join(EXCHANGES)}")
    return exchange, market_type
