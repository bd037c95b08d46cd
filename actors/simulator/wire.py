"""Messages of Binance spot and USD-M as of late 2026, written out as the exchange writes them.

Field order and number formats follow recorded frames; times are integers in milliseconds, or in microseconds where
the connection asked for `timeUnit=MICROSECOND` (spot). `unit` is nanoseconds per unit of time: 1,000,000 or 1,000.
Sources: Binance spot "WebSocket Streams" and USD-M "Websocket Market Streams" documentation, read 2026-11; the fields
`st` (product: 1 USD-M) and `ps` (pair) are sent on USD-M since 2026-06-30, `nq` is quantity without RPI orders.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import SPOT, USDM
from .instruments import Instrument
from .market import AggTrade, Trade
from .tape import INTERVALS_MS

MS = 1_000_000
US = 1_000

PUBLIC = "public"
MARKET = "market"

TEXT_FRAME = 0x81


def frame_of(payload: bytes) -> bytes:
    """Put the header of an unmasked text frame before a payload (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((TEXT_FRAME, size)) + payload
    if size < 1 << 16:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


# -- stream names


@dataclass(frozen=True)
class StreamName:
    """What a stream name asks for. `kind` is "" when no server of this product knows the stream."""

    text: str
    symbol: str = ""  # native, upper case
    # trade, aggTrade, bookTicker, depth (differences), partial (best levels), kline, ticker, miniTicker, markPrice,
    # forceOrder. Without a symbol the last four are about all markets of the product.
    kind: str = ""
    interval_ms: int = 0  # time between messages, 0 = each change
    levels: int = 0  # partial: levels on each side
    interval: str = ""  # kline: length of a bar
    tier: str = PUBLIC  # USD-M: which routed server delivers it


_SPOT_SPEEDS = {"": 1000, "100ms": 100, "1000ms": 1000}
_USDM_SPEEDS = {"": 250, "0ms": 0, "100ms": 100, "250ms": 250, "500ms": 500}
_MARK_SPEEDS = {"": 3000, "1s": 1000}
# Streams about all markets, by product. Spot's `!ticker@arr` was given up in November 2025.
ALL_MARKETS = {
    SPOT: ("!miniTicker@arr",),
    USDM: ("!miniTicker@arr", "!ticker@arr", "!markPrice@arr", "!markPrice@arr@1s", "!forceOrder@arr"),
}


def parse_stream(product: str, text: str) -> StreamName:
    """Read a stream name such as `btcusdt@depth@100ms`. Names with upper-case symbols exist but never deliver."""
    if text in ALL_MARKETS[product]:
        kind, _, speed = text[1:].replace("@arr", "").partition("@")
        return StreamName(text, kind=kind, interval_ms=_report_interval(product, kind, speed), tier=MARKET)
    symbol, _, rest = text.partition("@")
    channel, _, speed = rest.partition("@")
    if not rest or not symbol or symbol != symbol.lower():
        return StreamName(text, tier=_tier_of(channel or symbol))
    native = symbol.upper()
    if channel in ("trade", "aggTrade", "bookTicker") and not speed:
        return StreamName(text, native, channel, tier=MARKET if channel == "aggTrade" else PUBLIC)
    if channel.startswith("depth"):
        interval_ms = (_SPOT_SPEEDS if product == SPOT else _USDM_SPEEDS).get(speed)
        count = channel[5:]
        if interval_ms is not None and count == "":
            return StreamName(text, native, "depth", interval_ms)
        if interval_ms is not None and count in ("5", "10", "20"):
            return StreamName(text, native, "partial", interval_ms, int(count))
    if channel.startswith("kline_") and channel[6:] in INTERVALS_MS and not speed:
        return StreamName(text, native, "kline", interval=channel[6:], tier=MARKET)
    if channel in ("ticker", "miniTicker") and not speed:
        return StreamName(text, native, channel, _report_interval(product, channel, ""), tier=MARKET)
    if product == USDM and (channel, speed) in (("markPrice", ""), ("markPrice", "1s"), ("forceOrder", "")):
        return StreamName(text, native, channel, _report_interval(product, channel, speed), tier=MARKET)
    return StreamName(text, symbol=native, tier=_tier_of(channel))


def _report_interval(product: str, kind: str, speed: str) -> int:
    """Return the time between two messages of a ticker, mark price or liquidation stream in milliseconds."""
    if kind == "markPrice":
        return _MARK_SPEEDS[speed]
    return 2000 if product == USDM and kind != "forceOrder" else 1000


def _tier_of(channel: str) -> str:
    """Return the USD-M tier of a channel: books, best prices and raw trades are public, the rest is market."""
    if channel.startswith(("depth", "rpiDepth", "bookTicker", "trade", "!bookTicker")) and channel != "tradingSession":
        return PUBLIC
    return MARKET


# -- stream messages


def _flag(value: bool) -> str:
    return "true" if value else "false"


class SpotWire:
    """Writes the messages of one spot symbol."""

    def __init__(self, instrument: Instrument) -> None:
        self.symbol = instrument.native
        self.price = instrument.price_text
        self.quantity = instrument.quantity_text

    def trade(self, trade: Trade, event_ns: int, unit: int = MS) -> bytes:
        number, tick, lots, time_ns, maker, _ = trade
        return (
            f'{{"e":"trade","E":{event_ns // unit},"s":"{self.symbol}","t":{number},"p":"{self.price(tick)}",'
            f'"q":"{self.quantity(lots)}","T":{time_ns // unit},"m":{_flag(maker)},"M":true}}'
        ).encode()

    def agg_trade(self, aggregate: AggTrade, event_ns: int, unit: int = MS) -> bytes:
        number, tick, lots, first, last, time_ns, maker = aggregate
        return (
            f'{{"e":"aggTrade","E":{event_ns // unit},"s":"{self.symbol}","a":{number},"p":"{self.price(tick)}",'
            f'"q":"{self.quantity(lots)}","f":{first},"l":{last},"T":{time_ns // unit},"m":{_flag(maker)},"M":true}}'
        ).encode()

    def book_ticker(self, update_id: int, best: tuple[int, int, int, int], event_ns: int, unit: int = MS) -> bytes:
        bid, bid_lots, ask, ask_lots = best
        price, quantity = self.price, self.quantity
        return (
            f'{{"u":{update_id},"s":"{self.symbol}","b":"{price(bid)}","B":"{quantity(bid_lots)}",'
            f'"a":"{price(ask)}","A":"{quantity(ask_lots)}"}}'
        ).encode()

    def levels(self, levels: list[tuple[int, int]]) -> str:
        price, quantity = self.price, self.quantity
        return "[" + ",".join([f'["{price(tick)}","{quantity(lots)}"]' for tick, lots in levels]) + "]"

    def depth(
        self, first: int, last: int, previous: int, bids: str, asks: str, time_ns: int, event_ns: int, unit: int = MS
    ) -> bytes:
        return (
            f'{{"e":"depthUpdate","E":{event_ns // unit},"s":"{self.symbol}","U":{first},"u":{last},'
            f'"b":{bids},"a":{asks}}}'
        ).encode()

    def partial(
        self, first: int, last: int, previous: int, bids: str, asks: str, time_ns: int, event_ns: int, unit: int = MS
    ) -> bytes:
        return f'{{"lastUpdateId":{last},"bids":{bids},"asks":{asks}}}'.encode()

    def snapshot(self, update_id: int, bids: str, asks: str, time_ns: int, unit: int = MS) -> bytes:
        return f'{{"lastUpdateId":{update_id},"bids":{bids},"asks":{asks}}}'.encode()

    def rest_trade(self, trade: Trade, unit: int = MS) -> str:
        number, tick, lots, time_ns, maker, _ = trade
        return (
            f'{{"id":{number},"price":"{self.price(tick)}","qty":"{self.quantity(lots)}",'
            f'"quoteQty":"{self._quote(tick, lots)}","time":{time_ns // unit},'
            f'"isBuyerMaker":{_flag(maker)},"isBestMatch":true}}'
        )

    def rest_agg_trade(self, aggregate: AggTrade, unit: int = MS) -> str:
        number, tick, lots, first, last, time_ns, maker = aggregate
        return (
            f'{{"a":{number},"p":"{self.price(tick)}","q":"{self.quantity(lots)}","f":{first},"l":{last},'
            f'"T":{time_ns // unit},"m":{_flag(maker)},"M":true}}'
        )

    def _quote(self, tick: int, lots: int) -> str:
        return f"{float(self.price(tick)) * float(self.quantity(lots)):.8f}"


class UsdmWire(SpotWire):
    """Writes the messages of one USD-M symbol."""

    def trade(self, trade: Trade, event_ns: int, unit: int = MS) -> bytes:
        number, tick, lots, time_ns, maker, off_book = trade
        kind = "INSURANCE_FUND" if off_book else "MARKET"
        return (
            f'{{"e":"trade","E":{event_ns // MS},"T":{time_ns // MS},"s":"{self.symbol}","t":{number},'
            f'"p":"{self.price(tick)}","q":"{self.quantity(lots)}","X":"{kind}","m":{_flag(maker)},"st":1}}'
        ).encode()

    def agg_trade(self, aggregate: AggTrade, event_ns: int, unit: int = MS) -> bytes:
        number, tick, lots, first, last, time_ns, maker = aggregate
        quantity = self.quantity(lots)
        return (
            f'{{"e":"aggTrade","E":{event_ns // MS},"s":"{self.symbol}","a":{number},"p":"{self.price(tick)}",'
            f'"q":"{quantity}","nq":"{quantity}","f":{first},"l":{last},"T":{time_ns // MS},"m":{_flag(maker)},"st":1}}'
        ).encode()

    def book_ticker(self, update_id: int, best: tuple[int, int, int, int], event_ns: int, unit: int = MS) -> bytes:
        bid, bid_lots, ask, ask_lots = best
        price, quantity = self.price, self.quantity
        time_ms = event_ns // MS
        return (
            f'{{"e":"bookTicker","u":{update_id},"s":"{self.symbol}","ps":"{self.symbol}","b":"{price(bid)}",'
            f'"B":"{quantity(bid_lots)}","a":"{price(ask)}","A":"{quantity(ask_lots)}","T":{time_ms},"E":{time_ms},"st":1}}'
        ).encode()

    def depth(
        self, first: int, last: int, previous: int, bids: str, asks: str, time_ns: int, event_ns: int, unit: int = MS
    ) -> bytes:
        return (
            f'{{"e":"depthUpdate","E":{event_ns // MS},"T":{time_ns // MS},"s":"{self.symbol}","ps":"{self.symbol}",'
            f'"U":{first},"u":{last},"pu":{previous},"b":{bids},"a":{asks},"st":1}}'
        ).encode()

    partial = depth  # the best levels come in the same message as differences do

    def snapshot(self, update_id: int, bids: str, asks: str, time_ns: int, unit: int = MS) -> bytes:
        time_ms = time_ns // MS
        return f'{{"lastUpdateId":{update_id},"E":{time_ms},"T":{time_ms},"bids":{bids},"asks":{asks}}}'.encode()

    def rest_trade(self, trade: Trade, unit: int = MS) -> str:
        number, tick, lots, time_ns, maker, _ = trade
        return (
            f'{{"id":{number},"price":"{self.price(tick)}","qty":"{self.quantity(lots)}",'
            f'"quoteQty":"{self._quote(tick, lots)}","time":{time_ns // MS},'
            f'"isBuyerMaker":{_flag(maker)},"isRPITrade":false}}'
        )

    def rest_agg_trade(self, aggregate: AggTrade, unit: int = MS) -> str:
        number, tick, lots, first, last, time_ns, maker = aggregate
        quantity = self.quantity(lots)
        return (
            f'{{"a":{number},"p":"{self.price(tick)}","q":"{quantity}","nq":"{quantity}","f":{first},"l":{last},'
            f'"T":{time_ns // MS},"m":{_flag(maker)}}}'
        )

    def _quote(self, tick: int, lots: int) -> str:
        return f"{float(self.price(tick)) * float(self.quantity(lots)):.2f}"


def wire_of(instrument: Instrument) -> SpotWire:
    return SpotWire(instrument) if instrument.product == SPOT else UsdmWire(instrument)
