"""A sink of a decoder that keeps what it is given."""

from __future__ import annotations

from typing import Any, NamedTuple

from tickring.codecs.book import Level, OrderBook


class TradeRow(NamedTuple):
    key_id: int
    ts_recv_ns: int
    ts_event_ns: int
    flags: int
    trade_id: int
    price: float
    quantity: float
    first_trade_id: int
    last_trade_id: int
    quantity_ex_rpi: float


class QuoteRow(NamedTuple):
    key_id: int
    ts_recv_ns: int
    ts_event_ns: int
    flags: int
    bid: float
    bid_qty: float
    ask: float
    ask_qty: float


class LevelsRow(NamedTuple):
    key_id: int
    ts_recv_ns: int
    ts_event_ns: int
    flags: int
    update_id: int
    bids: list[Level]
    asks: list[Level]


class OtherRow(NamedTuple):
    """A record of one of the rarer types, values in the order of its declaration; of a bar the interval comes first."""

    record: str
    key_id: int
    ts_recv_ns: int
    ts_event_ns: int
    flags: int
    values: tuple[Any, ...]


class ListSink:
    """Keeps every record in one list, in order."""

    def __init__(self) -> None:
        self.rows: list[TradeRow | QuoteRow | LevelsRow | OtherRow] = []

    def trade(self, *values: Any) -> None:
        self.rows.append(TradeRow(*values))

    def quote(self, *values: Any) -> None:
        self.rows.append(QuoteRow(*values))

    def levels(self, *values: Any) -> None:
        self.rows.append(LevelsRow(*values))

    def book(self, key_id: int, ts_recv_ns: int, ts_event_ns: int, book: OrderBook) -> None:
        pass

    def kline(self, *values: Any) -> None:
        self._other("kline", *values)

    def ticker(self, *values: Any) -> None:
        self._other("ticker", *values)

    def mark_price(self, *values: Any) -> None:
        self._other("mark_price", *values)

    def funding(self, *values: Any) -> None:
        self._other("funding", *values)

    def liquidation(self, *values: Any) -> None:
        self._other("liquidation", *values)

    def _other(self, record: str, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, *values: Any) -> None:
        self.rows.append(OtherRow(record, key_id, ts_recv_ns, ts_event_ns, flags, values))
