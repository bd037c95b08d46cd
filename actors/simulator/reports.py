"""Messages and REST rows made of what a market has traded: bars, 24 h tickers, mark price, funding, liquidations.

Field order and number formats follow recorded frames and, where there are none, the documentation: Binance spot
"WebSocket Streams" and "Market Data endpoints", USD-M "Websocket Market Streams" and "Market Data", read 2026-11.
`unit` is nanoseconds per unit of time, see `wire`.
"""

from __future__ import annotations

from .config import SPOT
from .history import (
    CLOSE,
    COUNT,
    FIRST_ID,
    FUNDING_INTERVAL_MS,
    HIGH,
    LAST_ID,
    LOTS,
    LOW,
    OPEN,
    OPEN_MS,
    QUOTE,
    TAKER_LOTS,
    TAKER_QUOTE,
)
from .instruments import decimal_text
from .market import Liquidation, Market
from .tape import bar_stop
from .wire import MS

INTEREST_RATE = "0.00010000"  # of the quote asset for eight hours, on every symbol


class Reports:
    """Writes the messages of one market. Times are the model's: integers in UNIX nanoseconds, or ms where named so."""

    __slots__ = ("_price", "_quantity", "_quote", "_spot", "_st", "_symbol", "market")

    def __init__(self, market: Market) -> None:
        self.market = market
        instrument = market.instrument
        digits = instrument.price_digits + instrument.quantity_digits
        self._spot = instrument.product == SPOT
        self._symbol = instrument.native
        self._price = instrument.price_text
        self._quantity = instrument.quantity_text
        self._quote = decimal_text(digits, max(8, digits) if self._spot else digits)
        self._st = "" if self._spot else ',"st":1'

    # -- bars

    def kline(self, interval: str, row: list[int], closed: bool, event_ns: int, unit: int = MS) -> bytes:
        price, quantity, quote = self._price, self._quantity, self._quote
        start_ns, stop_ns = row[OPEN_MS] * MS, bar_stop(interval, row[OPEN_MS]) * MS
        return (
            f'{{"e":"kline","E":{event_ns // unit},"s":"{self._symbol}","k":{{"t":{start_ns // unit},'
            f'"T":{stop_ns // unit - 1},"s":"{self._symbol}","i":"{interval}","f":{row[FIRST_ID]},"L":{row[LAST_ID]},'
            f'"o":"{price(row[OPEN])}","c":"{price(row[CLOSE])}","h":"{price(row[HIGH])}","l":"{price(row[LOW])}",'
            f'"v":"{quantity(row[LOTS])}","n":{row[COUNT]},"x":{"true" if closed else "false"},'
            f'"q":"{quote(row[QUOTE])}","V":"{quantity(row[TAKER_LOTS])}","Q":"{quote(row[TAKER_QUOTE])}","B":"0"}}'
            f"{self._st}}}"
        ).encode()

    def kline_row(self, interval: str, row: list[int], unit: int = MS) -> str:
        price, quantity, quote = self._price, self._quantity, self._quote
        start_ns, stop_ns = row[OPEN_MS] * MS, bar_stop(interval, row[OPEN_MS]) * MS
        return (
            f'[{start_ns // unit},"{price(row[OPEN])}","{price(row[HIGH])}","{price(row[LOW])}","{price(row[CLOSE])}",'
            f'"{quantity(row[LOTS])}",{stop_ns // unit - 1},"{quote(row[QUOTE])}",{row[COUNT]},'
            f'"{quantity(row[TAKER_LOTS])}","{quote(row[TAKER_QUOTE])}","0"]'
        )

    # -- 24 h tickers

    def ticker(self, event_ns: int, unit: int = MS) -> bytes:
        day, begin_ms = self.market.tape.day(event_ns // MS)
        price, quantity, tape = self._price, self._quantity, self.market.tape
        change, percent, average = self._changes(day)
        before = best = ""
        if self._spot:
            bid, bid_lots, ask, ask_lots = self.market.best()
            before = f'"x":"{price(self._price_before())}",'
            best = f'"b":"{price(bid)}","B":"{quantity(bid_lots)}","a":"{price(ask)}","A":"{quantity(ask_lots)}",'
        return (
            f'{{"e":"24hrTicker","E":{event_ns // unit},"s":"{self._symbol}","p":"{change}","P":"{percent}",'
            f'"w":"{average}",{before}"c":"{price(day[CLOSE])}","Q":"{quantity(tape.last_lots)}",{best}'
            f'"o":"{price(day[OPEN])}","h":"{price(day[HIGH])}","l":"{price(day[LOW])}","v":"{quantity(day[LOTS])}",'
            f'"q":"{self._quote(day[QUOTE])}","O":{begin_ms * MS // unit},"C":{event_ns // unit},"F":{day[FIRST_ID]},'
            f'"L":{day[LAST_ID]},"n":{day[COUNT]}{self._st}}}'
        ).encode()

    def mini_ticker(self, event_ns: int, unit: int = MS) -> bytes:
        day, _ = self.market.tape.day(event_ns // MS)
        price = self._price
        return (
            f'{{"e":"24hrMiniTicker","E":{event_ns // unit},"s":"{self._symbol}","c":"{price(day[CLOSE])}",'
            f'"o":"{price(day[OPEN])}","h":"{price(day[HIGH])}","l":"{price(day[LOW])}",'
            f'"v":"{self._quantity(day[LOTS])}","q":"{self._quote(day[QUOTE])}"{self._st}}}'
        ).encode()

    def rest_ticker(self, now_ns: int, unit: int = MS) -> str:
        day, begin_ms = self.market.tape.day(now_ns // MS)
        price, quantity, tape = self._price, self._quantity, self.market.tape
        change, percent, average = self._changes(day)
        before = best = ""
        if self._spot:
            bid, bid_lots, ask, ask_lots = self.market.prepare().best()
            before = f'"prevClosePrice":"{price(self._price_before())}",'
            best = (
                f'"bidPrice":"{price(bid)}","bidQty":"{quantity(bid_lots)}","askPrice":"{price(ask)}",'
                f'"askQty":"{quantity(ask_lots)}",'
            )
        return (
            f'{{"symbol":"{self._symbol}","priceChange":"{change}","priceChangePercent":"{percent}",'
            f'"weightedAvgPrice":"{average}",{before}"lastPrice":"{price(day[CLOSE])}",'
            f'"lastQty":"{quantity(tape.last_lots)}",{best}"openPrice":"{price(day[OPEN])}",'
            f'"highPrice":"{price(day[HIGH])}","lowPrice":"{price(day[LOW])}","volume":"{quantity(day[LOTS])}",'
            f'"quoteVolume":"{self._quote(day[QUOTE])}","openTime":{begin_ms * MS // unit},'
            f'"closeTime":{now_ns // unit},"firstId":{day[FIRST_ID]},"lastId":{day[LAST_ID]},"count":{day[COUNT]}}}'
        )

    def _changes(self, day: list[int]) -> tuple[str, str, str]:
        """Return price change, the same in percent, and the average weighted by quantity."""
        ticks = day[CLOSE] - day[OPEN]
        change = ("-" if ticks < 0 else "") + self._price(abs(ticks))
        average = day[QUOTE] / day[LOTS] if day[LOTS] else 0.0
        digits = 8 if self._spot else self.market.instrument.price_digits
        return change, f"{100 * ticks / day[OPEN]:.3f}", f"{average * self.market.instrument.tick:.{digits}f}"

    def _price_before(self) -> int:
        tape = self.market.tape
        return tape.past.price(tape.start_ms)

    # -- USD-M alone: mark price, funding, open interest, liquidations

    def _mark(self, now_ms: int) -> tuple[str, str, str, int]:
        """Return mark price, index price, funding rate and the time of the next funding; no funding: "" and 0."""
        tick = self.market.instrument.tick
        rate, next_ms = "", 0
        if "_" not in self._symbol:  # dated futures pay none
            next_ms = (now_ms // FUNDING_INTERVAL_MS + 1) * FUNDING_INTERVAL_MS
            rate = f"{self.market.tape.past.funding_rates([next_ms])[0]:.8f}"
        return f"{self.market.mark() * tick:.8f}", f"{self.market.index() * tick:.8f}", rate, next_ms

    def mark_price(self, event_ns: int) -> bytes:
        mark, index, rate, next_ms = self._mark(event_ns // MS)
        return (
            f'{{"e":"markPriceUpdate","E":{event_ns // MS},"s":"{self._symbol}","p":"{mark}","ap":"{mark}",'
            f'"P":"{index}","i":"{index}","r":"{rate}","T":{next_ms},"st":1}}'
        ).encode()

    def premium_index(self, now_ns: int) -> str:
        mark, index, rate, next_ms = self._mark(now_ns // MS)
        return (
            f'{{"symbol":"{self._symbol}","markPrice":"{mark}","indexPrice":"{index}","estimatedSettlePrice":"{index}",'
            f'"lastFundingRate":"{rate}","interestRate":"{INTEREST_RATE if rate else ""}",'
            f'"nextFundingTime":{next_ms},"time":{now_ns // MS}}}'
        )

    def funding_rows(self, times_ms: list[int]) -> list[tuple[int, str]]:
        """Return (time, row) of the fundings at these times; their mark price is the last price before them."""
        if "_" in self._symbol or not times_ms:
            return []
        tape = self.market.tape
        rates = tape.past.funding_rates(times_ms)
        tick = self.market.instrument.tick
        rows = []
        for time_ms, rate, price in zip(times_ms, rates, tape.prices_at(times_ms), strict=True):
            row = (
                f'{{"symbol":"{self._symbol}","fundingTime":{time_ms},"fundingRate":"{rate:.8f}",'
                f'"markPrice":"{price * tick:.8f}"}}'
            )
            rows.append((time_ms, row))
        return rows

    def open_interest(self, now_ns: int) -> str:
        lots = self._quantity(self.market.tape.past.open_interest(now_ns // MS))
        return f'{{"symbol":"{self._symbol}","openInterest":"{lots}","time":{now_ns // MS}}}'

    def force_order(self, liquidation: Liquidation, event_ns: int) -> bytes:
        lots, quote, limit, time_ns, sold = liquidation
        digits = self.market.instrument.price_digits
        quantity = self._quantity(lots)
        return (
            f'{{"e":"forceOrder","E":{event_ns // MS},"o":{{"s":"{self._symbol}","S":"{"SELL" if sold else "BUY"}",'
            f'"o":"LIMIT","f":"IOC","q":"{quantity}","p":"{self._price(limit)}",'
            f'"ap":"{quote / lots * self.market.instrument.tick:.{digits}f}","X":"FILLED","l":"{quantity}",'
            f'"z":"{quantity}","T":{time_ns // MS}}},"st":1}}'
        ).encode()
