"""Captures through the same decoder that the feeds use, as plain records: one dict for each, ready for JSON.

Members: `record`, `exchange`, `market_type`, `instrument` (canonical), `native`, `ts_event_ns`, `ts_recv_ns`, then
those of the record:

- `trade`: trade_id, price, quantity, side, is_buyer_maker; of an aggregate also agg_trade_id, first_trade_id,
  last_trade_id, and quantity_ex_rpi where it is sent;
- `quote`: bid, bid_qty, ask, ask_qty;
- `orderbook`: update_type (`snapshot`, `update`), bids, asks as `[price, quantity]`, last_update_id, first_update_id,
  prev_update_id where the exchange sends it. Only what was applied to the book: events older than the snapshot, or
  after a gap until the next one, are left out;
- `kline` (open bars too, `closed` says which), `ticker`, `mark_price`, `funding`, `liquidation`: the members of the
  record type.

Prices and quantities are decimal strings. Where the exchange counts in contracts, `native_quantity` stands beside
`quantity`; inverse contracts are the same number in both. The precision comes from the instrument list if the capture
holds one, else from the decimals first seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from .binance.decoder import BinanceDecoder
from .binance.rest import instrument_of_native, parse_depth, parse_exchange_info
from .binance.wire import PRODUCTS, TimeUnit
from .book import BookState, Level, OrderBook
from .captures import Entry, EntryKind, Source, read_session, source_of
from .errors import CaptureError, CodecError
from .numbers import decimal_formatter, decimals_of
from .record import Flag, RecordType
from .records import FUNDING, KLINE, LIQUIDATION, MARK_PRICE, TICKER
from .sink import NoHooks, Reason
from .symbols import Instrument

BOOK_DEPTH = 20  # levels a side of `replay_books`

Record = dict[str, Any]


class Replay:
    """One session: its decoders, one for each exchange and product, and what they made of it.

    Args:
        exchange, product: of the captures; by default what their headers, folders or URLs say.
        on_reject: called with the reason and the frame for each frame that was refused.
    """

    def __init__(
        self,
        exchange: str | None = None,
        product: str | None = None,
        on_reject: Callable[[Reason, bytes], None] | None = None,
    ) -> None:
        self.markets: dict[Source, Market] = {}
        self.entries = 0
        self._exchange, self._product = exchange, product
        self._on_reject = on_reject
        self._sources: dict[Path, Source] = {}

    def records(self, paths: Iterable[Path | str]) -> Iterator[Record]:
        """Feed the files, in the order of their receive times, and give each record as it comes.

        Raises:
            CaptureError: a file cannot be read, or is of an exchange that cannot be replayed.
        """
        paths = [Path(path) for path in paths]
        self._sources = {path: source_of(path, self._exchange, self._product) for path in paths}
        for path, entry in read_session(paths):
            self.entries += 1
            market = self.market(path, entry)
            market.feed(entry, path)
            yield from market.take()

    def market(self, path: Path, entry: Entry) -> Market:
        source = self._sources[path]
        if not source.product:
            source = source._replace(product=entry.product)
        if source not in self.markets:
            if not source.exchange.startswith("binance") or source.product not in PRODUCTS:
                raise CaptureError(
                    f"capture {path}: exchange {source.exchange!r} with product {source.product!r} cannot be "
                    f"replayed; known are binance with {', '.join(PRODUCTS)}"
                )
            self.markets[source] = Market(source, self._on_reject)
        return self.markets[source]

    def books(self) -> Iterator[Record]:
        """Each book as it stands now."""
        for market in self.markets.values():
            yield from market.books()


def replay_lines(
    paths: Iterable[Path | str], exchange: str | None = None, product: str | None = None
) -> Iterator[Record]:
    """Every record of a session, in order. Raises `CaptureError` as `Replay.records`."""
    return Replay(exchange, product).records(paths)


def replay_books(
    paths: Iterable[Path | str], exchange: str | None = None, product: str | None = None
) -> Iterator[Record]:
    """Each book at the end of a session: `instrument`, `native`, `state`, `last_update_id`, `gaps`, `bids`, `asks`."""
    replay = Replay(exchange, product)
    for _ in replay.records(paths):
        pass
    yield from replay.books()


class Market(NoHooks):
    """The decoder of one exchange and product, the sink that makes dicts, and the instruments found so far."""

    def __init__(self, source: Source, on_reject: Callable[[Reason, bytes], None] | None = None) -> None:
        self.source = source
        self.gaps: list[tuple[str, str, int, int]] = []  # (native, kind, first missing, last missing)
        self.rejected_bodies = 0  # REST bodies that could not be read
        self._rows: list[Record] = []
        self._on_reject = on_reject
        self._listed: dict[str, Instrument] = {}
        self._faces: list[_Face] = []  # by key_id
        self._pending: bytes | None = None  # a frame whose symbol was not known yet
        self.decoder = self._decoder(TimeUnit.MILLISECOND)

    def _decoder(self, unit: TimeUnit) -> BinanceDecoder:
        return BinanceDecoder(self.source.product, self, self, unit=unit)

    # -- input ------------------------------------------------------------------------------------------------

    def feed(self, entry: Entry, path: Path) -> None:
        match entry.kind:
            case EntryKind.WS:
                self._frame(entry)
            case EntryKind.REST if entry.status == 200:
                self._body(entry, path)
            case EntryKind.CONNECT:
                if "timeUnit=MICROSECOND" in entry.where and not self._faces:
                    self.decoder = self._decoder(TimeUnit.MICROSECOND)
            case EntryKind.CLOSE:
                self.decoder.on_disconnect(entry.ts_recv_ns)

    def take(self) -> list[Record]:
        rows, self._rows = self._rows, []
        return rows

    def _frame(self, entry: Entry) -> None:
        self._pending = None
        self.decoder.on_frame(entry.payload, entry.ts_recv_ns)
        if self._pending is not None and self._discover(self._pending):
            self._pending = None
            self.decoder.on_frame(entry.payload, entry.ts_recv_ns)
        if self._pending is not None:
            self._reject(Reason.UNKNOWN_SYMBOL, self._pending)

    def _body(self, entry: Entry, path: Path) -> None:
        parts = urlsplit(entry.where)
        try:
            if parts.path.endswith("/exchangeInfo"):
                info = parse_exchange_info(entry.payload, self.source.product, self.source.exchange)
                self._listed.update((instrument.native, instrument) for instrument in info.instruments)
            elif parts.path.endswith("/depth") or not entry.where:
                symbols = parse_qs(parts.query).get("symbol")
                self._snapshot(entry, symbols[0] if symbols else self._symbol_of_snapshot(entry.payload, path))
        except CodecError:
            self.rejected_bodies += 1

    def _snapshot(self, entry: Entry, native: str | None) -> None:
        snapshot = parse_depth(entry.payload, self.decoder.unit)
        key_id = self._key_of(native, entry.payload) if native else None
        if key_id is None:
            self.rejected_bodies += 1
            return
        self.decoder.on_snapshot(key_id, snapshot, entry.ts_recv_ns)

    def _symbol_of_snapshot(self, body: bytes, path: Path) -> str | None:
        """A body that came without its URL: its own `symbol` (COIN-M), the file's name, or the only book that waits."""
        if found := re.search(rb'"symbol":"(\w+)"', body[:200]):
            return found[1].decode()
        name = _native_of_file(path, self.source.product)
        wanting = [self._faces[key_id].instrument.native for key_id in self.decoder.wanting()]
        if name and (name in self.decoder or not wanting):
            return name
        return wanting[0] if len(wanting) == 1 else None

    # -- instruments ------------------------------------------------------------------------------------------

    def _discover(self, frame: bytes) -> bool:
        """Add the instrument of a frame that was refused only because nobody had added it.

        Its symbol must stand in the stream's name too (the exact reading has compared them): a damaged symbol is none.
        """
        symbols = set(re.findall(rb'"s":"([^"]+)"', frame))
        added = False
        for symbol in symbols:
            native = symbol.decode()
            if native not in self.decoder:
                added = self._key_of(native, frame) is not None or added
        return added

    def _key_of(self, native: str, sample: bytes) -> int | None:
        """The key of an instrument, which is added first if it is not there."""
        for key_id, face in enumerate(self._faces):
            if face.instrument.native == native:
                return key_id
        instrument = self._listed.get(native) or instrument_of_native(native, self.source.product, self.source.exchange)
        if instrument is None:
            return None
        if native not in self._listed:
            price, quantity = _precisions_in(sample)
            instrument = msgspec.structs.replace(instrument, price_precision=price, quantity_precision=quantity)
        self._faces.append(_Face(instrument))
        self.decoder.add(instrument, len(self._faces) - 1)
        return len(self._faces) - 1

    # -- hooks ------------------------------------------------------------------------------------------------

    def on_reject(self, reason: Reason, frame: bytes) -> None:
        if reason is Reason.UNKNOWN_SYMBOL and self._pending is None:
            self._pending = frame
        else:
            self._pending = None
            self._reject(reason, frame)

    def _reject(self, reason: Reason, frame: bytes) -> None:
        if self._on_reject is not None:
            self._on_reject(reason, frame)

    def on_gap(self, key_id: int, kind: str, first_missing: int, last_missing: int) -> None:
        self.gaps.append((self._faces[key_id].instrument.native, kind, first_missing, last_missing))

    # -- sink -------------------------------------------------------------------------------------------------

    def trade(
        self, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, trade_id: int, price: float, quantity: float,
        first_trade_id: int, last_trade_id: int, quantity_ex_rpi: float,
    ) -> None:  # fmt: skip
        face = self._faces[key_id]
        sold = bool(flags & Flag.SELL)
        row = face.row("trade", ts_event_ns, ts_recv_ns)
        row |= {"trade_id": str(trade_id), "price": face.price(price), "quantity": face.quantity(quantity)}
        if flags & Flag.INVERSE:
            row["native_quantity"] = row["quantity"]
        row |= {"side": "sell" if sold else "buy", "is_buyer_maker": sold}
        if flags & Flag.AGGREGATED:
            row |= {
                "agg_trade_id": str(trade_id),
                "first_trade_id": str(first_trade_id),
                "last_trade_id": str(last_trade_id),
            }
            if quantity_ex_rpi:
                row["quantity_ex_rpi"] = face.quantity(quantity_ex_rpi)
        self._rows.append(row)

    def quote(
        self, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, bid: float, bid_qty: float, ask: float,
        ask_qty: float,
    ) -> None:  # fmt: skip
        face = self._faces[key_id]
        row = face.row("quote", ts_event_ns, ts_recv_ns)
        row |= {"bid": face.price(bid), "bid_qty": face.quantity(bid_qty)}
        row |= {"ask": face.price(ask), "ask_qty": face.quantity(ask_qty)}
        self._rows.append(row)

    def levels(
        self, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, update_id: int, bids: list[Level],
        asks: list[Level],
    ) -> None:  # fmt: skip
        face = self._faces[key_id]
        book = self.decoder.book(key_id)
        row = face.row("orderbook", ts_event_ns, ts_recv_ns)
        row |= {
            "update_type": "snapshot" if flags & Flag.SNAPSHOT else "update",
            "last_update_id": update_id,
        }
        if not flags & Flag.SNAPSHOT:
            row["first_update_id"] = book.first_update_id
            if self.decoder.product.futures:
                row["prev_update_id"] = book.prev_update_id
        row |= {"bids": face.levels(bids), "asks": face.levels(asks)}
        self._rows.append(row)

    def book(self, key_id: int, ts_recv_ns: int, ts_event_ns: int, book: OrderBook) -> None:
        pass

    def kline(self, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, interval: str, *values: float) -> None:
        self._add(KLINE, key_id, ts_recv_ns, ts_event_ns, flags, values, interval=interval)

    def ticker(self, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, *values: float) -> None:
        self._add(TICKER, key_id, ts_recv_ns, ts_event_ns, flags, values)

    def mark_price(self, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, *values: float) -> None:
        self._add(MARK_PRICE, key_id, ts_recv_ns, ts_event_ns, flags, values)

    def funding(self, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, *values: float) -> None:
        self._add(FUNDING, key_id, ts_recv_ns, ts_event_ns, flags, values)

    def liquidation(self, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, *values: float) -> None:
        self._add(LIQUIDATION, key_id, ts_recv_ns, ts_event_ns, flags, values)

    def _add(
        self, record: RecordType, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int,
        values: Sequence[float], **key: str,
    ) -> None:  # fmt: skip
        """A record with the members that its declaration gives it."""
        face = self._faces[key_id]
        row = face.row(record.name, ts_event_ns, ts_recv_ns)
        self._rows.append(row | record.members(values, flags, {**face.attributes, **key}))

    # -- output -----------------------------------------------------------------------------------------------

    def books(self) -> Iterator[Record]:
        for key_id, face in enumerate(self._faces):
            sync = self.decoder.sync(key_id)
            book = sync.book
            if book.state is BookState.EMPTY and not sync.wanting:
                continue  # no depth of it in the session
            bids, bid_quantities, asks, ask_quantities = book.top(BOOK_DEPTH)
            yield {
                "record": "book",
                **face.names,
                "state": book.state.name.lower(),
                "last_update_id": book.update_id,
                "gaps": sync.gaps,
                "bids": face.levels(zip(bids, bid_quantities, strict=True)),
                "asks": face.levels(zip(asks, ask_quantities, strict=True)),
            }


class _Face:
    """How one instrument shows in the output."""

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.price = decimal_formatter(instrument.price_precision)
        self.quantity = decimal_formatter(instrument.quantity_precision)
        self.attributes = instrument.attributes()
        self.names = {
            "exchange": instrument.exchange,
            "market_type": instrument.market_type,
            "instrument": instrument.instrument,
            "native": instrument.native,
        }

    def row(self, record: str, ts_event_ns: int, ts_recv_ns: int) -> Record:
        return {"record": record, **self.names, "ts_event_ns": ts_event_ns, "ts_recv_ns": ts_recv_ns}

    def levels(self, levels: Iterable[Level]) -> list[list[str]]:
        price, quantity = self.price, self.quantity
        return [[price(p), quantity(q)] for p, q in levels]


_PRICE = re.compile(rb'"(?:p|b|a|bids|asks)":(?:\[\[)?"([0-9.]+)"')
_QUANTITY = re.compile(rb'"(?:q|B|A)":"([0-9.]+)"|\[\["[0-9.]+","([0-9.]+)"')


def _precisions_in(sample: bytes) -> tuple[int, int]:
    """Decimals of the prices and quantities in a frame or body, as the exchange writes them."""
    prices = [decimals_of(text.decode()) for text in _PRICE.findall(sample)]
    quantities = [decimals_of((one or other).decode()) for one, other in _QUANTITY.findall(sample)]
    return max(prices, default=0), max(quantities, default=0)


def _native_of_file(path: Path, product: str) -> str | None:
    """The symbol in a file name such as ``hftbacktest_btcusdt_20240808.gz``."""
    words = path.name.split(".")[0].upper().split("_")
    for length in (2, 1):  # BTCUSD_PERP before BTCUSD
        for start in range(len(words) - length + 1):
            native = "_".join(words[start : start + length])
            if instrument_of_native(native, product):
                return native
    return None
