"""What positions are valued at, and what one currency is worth in another: from the quotes that the feeds collect.

A symbol is found however it is written: `BTCUSDT`, `BTC-USDT`, `BTC/USDT`, or by the exchange's own name. Where no
feed collects it, a position is valued at the last price that an event or a fill of the symbol told.

A quote that is gone (one side of the book is empty, a ring was made anew, its feed is not there yet after a restart) is
worth more than what there is without it: a position keeps the last one, and a currency its last rate, which get stale.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from ...codecs.desk.money import UNIT, divide, parse_amount
from ...codecs.errors import UnknownExchange, UnknownSymbol
from ...codecs.symbols import EXCHANGES, parse_exchange, parse_symbol
from ..catalog import Catalog, FileId, Source, mid
from .book import Position
from .config import Config
from .fold import DAY_NS, RATE_UNIT, Execution, Terms
from .totals import NO_MARK, Mark

QUOTE_STREAM = "quote"
QUOTE, FILL, EVENT = 1, 2, 3  # indices in `records.MARKS`
NS = 1_000_000_000
KEPT_NS = DAY_NS  # so long a quote that is gone goes before what is newer
_SCALE = RATE_UNIT // UNIT


def last_quote(position: Position) -> Mark | None:
    """What a position was valued at last, where that was a quote."""
    if position.valued is not None:
        return position.valued.mark if position.valued.mark.kind == QUOTE else None
    return Mark(*position.marks[max(position.marks)], QUOTE) if position.marks else None


class Quotes(Catalog):
    """The quotes alone: the keys of the other streams would only take memory."""

    def _files(self) -> Iterator[tuple[tuple[str, str], tuple[FileId, FileId]]]:
        return (found for found in super()._files() if found[0][1] == QUOTE_STREAM)


class Marks:
    """Quotes of one instance."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.config = config
        self.catalog = Quotes(folder)
        self._same = {config.currency, *config.same_currencies}
        self._rates = {pair: parse_amount(text)[0] * _SCALE for pair, text in config.rates.items()}
        self._sources: dict[tuple[str, str], Source | None] = {}
        self._pairs: dict[str, Source | None] = {}
        self._generation = self.catalog.generation
        self._counts: dict[int, int] = {}  # position -> records of its quote when it was last looked at
        self._events: dict[str, Mark] = {}  # pair -> last price that an event told
        self._traded: dict[str, tuple[int, int]] = {}  # pair -> (event time, price) of its last fill
        self.quoted: dict[str, tuple[int, int]] = {}  # settlement currency -> the last rate that quotes said, and when

    def refresh(self) -> bool:
        """See which quotes there are now; returns whether that has changed."""
        self.catalog.refresh()
        if self.catalog.generation == self._generation:
            return False
        self._generation = self.catalog.generation
        self._sources.clear()
        self._pairs.clear()
        self._counts.clear()
        return True

    def close(self) -> None:
        self.catalog.close()

    # -- finding --------------------------------------------------------------------------------------------------

    def source(self, venue: str, symbol: str) -> Source | None:
        """The quotes of a symbol; None where nobody collects it."""
        place = (venue, symbol)
        if place not in self._sources:
            self._sources[place] = self._seek(venue, symbol)
        return self._sources[place]

    def _seek(self, venue: str, symbol: str) -> Source | None:
        try:
            exchange, market = parse_exchange(venue)
            exchanges = [exchange]
        except UnknownExchange:
            exchanges, market = list(EXCHANGES), None
        market = market or self.config.mark_market
        for exchange in exchanges:
            found = self.catalog.find_native(QUOTE_STREAM, exchange, symbol, market)
            if found is None:
                try:
                    instrument = parse_symbol(symbol, market).instrument
                except UnknownSymbol:
                    continue
                found = self.catalog.find_instrument(QUOTE_STREAM, exchange, instrument)
            found = found or self._elsewhere(exchange, symbol, market)
            if found is not None:
                return found
        return None

    def _elsewhere(self, exchange: str, symbol: str, market: str) -> Source | None:
        """The quotes of the pair in the other market, in whatever form the symbol is; none of another kind of terms."""
        other = "spot" if market == "perpetual" else "perpetual"
        found = self.catalog.find_native(QUOTE_STREAM, exchange, symbol)
        if found is None:
            with contextlib.suppress(UnknownSymbol):
                instrument = parse_symbol(symbol, other).instrument
                found = self.catalog.find_instrument(QUOTE_STREAM, exchange, instrument)
                if found is not None and found.key.attributes.get("inverse"):
                    return None
        return found

    def terms(self, venue: str, symbol: str) -> tuple[Terms, bool]:
        """What an instrument's quantities are worth: as configured (True), as its exchange lists it, or plain."""
        for contract in self.config.contracts:
            if contract.symbol == symbol and contract.venue in ("", venue):
                return Terms(contract.inverse, parse_amount(contract.value)[0]), True
        source = self.source(venue, symbol)
        if source is not None and source.key.attributes.get("inverse"):
            return Terms(True, parse_amount(source.key.attributes.get("contract_value", 1))[0]), False
        return Terms(), False

    # -- marks ----------------------------------------------------------------------------------------------------

    def told(self, symbol: str, price: int, ts_ns: int) -> None:
        """An event told a price of a symbol."""
        known = self._events.get(pair_of(symbol))
        if price > 0 and (known is None or known.seen_ns <= ts_ns):
            self._events[pair_of(symbol)] = Mark(price, ts_ns, EVENT)

    def mark(self, position: Position) -> Mark:
        """What a position is valued at now."""
        source = self.source(position.key[2], position.key[3])
        if source is not None:
            count = source.reader.count(source.key_id)
            if position.valued and self._counts.get(position.number) == count and position.valued.mark.kind == QUOTE:
                return position.valued.mark
            found = mid(source)
            if found is not None:
                self._counts[position.number] = count
                return Mark(*found, QUOTE)
        state = position.state
        event = self._events.get(pair_of(position.key[3]))
        if event is not None and event.seen_ns >= state.ts_ns:
            told = event
        else:
            told = Mark(state.price, state.ts_ns, FILL) if state.price else NO_MARK
        kept = last_quote(position)
        if kept is not None and told.seen_ns - kept.seen_ns <= (KEPT_NS if source is not None else 0):
            return kept
        return told

    # -- rates ----------------------------------------------------------------------------------------------------

    def traded(self, position: Position) -> None:
        """Take notice of the last price of a position's pair: it may be what a fee is converted with."""
        if position.base and position.quote:
            pair, state = f"{position.base}-{position.quote}", position.state
            if state.ts_ns >= self._traded.get(pair, (0, 0))[0] and state.price:
                self._traded[pair] = state.ts_ns, state.price

    def fee_rate(self, asset: str, position: Position, execution: Execution, now_ns: int) -> int:
        """What a fee is converted with to the settlement currency of a fill, units of 1e-16; 0 = not known.

        A fee that names no currency is taken as one in the settlement currency; `Book.assumed` counts them.
        A fee in the base currency is worth the fill's own price. Else quotes, where they and the fill are of now; the
        last fill of that pair; what is configured; and at last the quotes that there are, of whatever time.
        """
        settled = position.settled_in
        if not asset or asset == settled or (asset in self._same and settled in self._same):
            return RATE_UNIT
        price = execution.price
        if price and asset == position.base and settled == position.quote:
            return price * _SCALE
        if price and position.terms.inverse and (asset == position.quote or asset in self._same):
            return divide(RATE_UNIT * UNIT, price)
        quoted = self._quoted(asset, settled)
        age_max = self.config.rate_max_age_s * NS
        if quoted and abs(now_ns - execution.ts_ns) <= age_max and now_ns - quoted[1] <= age_max:
            return quoted[0]
        last = quoted[0] if quoted else 0
        return self._last_traded(asset, settled) or self._configured(asset, settled) or last

    def rate(self, asset: str) -> int:
        """From a settlement currency to that of the report, now; 0 = not known."""
        currency = self.config.currency
        if not asset:
            return 0  # a symbol that does not say what it is quoted in
        if asset in self._same:
            return RATE_UNIT
        if found := self._quoted(asset, currency):
            self.quoted[asset] = found
            return found[0]
        rate, seen_ns = self.quoted.get(asset, (0, 0))
        if rate and time.time_ns() - seen_ns <= KEPT_NS:
            return rate
        return self._configured(asset, currency) or self._last_traded(asset, currency)

    def _names(self, one: str, other: str) -> list[tuple[str, bool]]:
        """Pairs that say what one currency is worth in another, and whether the wrong way round."""
        ones = [one, *sorted(self._same - {one})] if one in self._same else [one]
        others = [other, *sorted(self._same - {other})] if other in self._same else [other]
        pairs = [(f"{a}-{b}", False) for a in ones for b in others]
        return pairs + [(f"{b}-{a}", True) for a in ones for b in others]

    def _quoted(self, one: str, other: str) -> tuple[int, int] | None:
        """The rate that quotes say, and when they were received."""
        for pair, reverse in self._names(one, other):
            if pair not in self._pairs:
                self._pairs[pair] = next(
                    (s for e in EXCHANGES if (s := self.catalog.find_instrument(QUOTE_STREAM, e, pair))), None
                )
            source = self._pairs[pair]
            found = mid(source) if source else None
            if found and found[0]:
                return divide(RATE_UNIT * UNIT, found[0]) if reverse else found[0] * _SCALE, found[1]
        return None

    def _last_traded(self, one: str, other: str) -> int:
        for pair, reverse in self._names(one, other):
            if (found := self._traded.get(pair)) is not None:
                return divide(RATE_UNIT * UNIT, found[1]) if reverse else found[1] * _SCALE
        return 0

    def _configured(self, one: str, other: str) -> int:
        for pair, reverse in self._names(one, other):
            if found := self._rates.get(pair):
                return divide(RATE_UNIT * RATE_UNIT, found) if reverse else found
        return 0


_pairs: dict[str, str] = {}


def pair_of(symbol: str) -> str:
    """The pair of a symbol in whatever form; the symbol itself where it has none. Few different ones: kept."""
    found = _pairs.get(symbol)
    if found is None:
        try:
            found = parse_symbol(symbol).pair
        except UnknownSymbol:
            found = symbol
        _pairs[symbol] = found
    return found
