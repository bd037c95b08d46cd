"""The record types of market data. One declaration each; everything else follows from it (see `record`)."""

from __future__ import annotations

from .record import (
    COUNT,
    EXCHANGE_ID,
    PRICE,
    QUANTITY,
    RATE,
    SMALL,
    TIME_MS,
    UPDATE_ID,
    Derived,
    Field,
    Flag,
    RecordType,
    Store,
    choice_kind,
)

_SELL, _ASK = int(Flag.SELL), int(Flag.ASK)  # plain integers: an IntFlag makes an object at each operation
_CLOSED, _PARTIAL, _SETTLED = int(Flag.CLOSED), int(Flag.PARTIAL), int(Flag.SETTLED)
_INVERSE, _BACKFILL, _ROLLED_UP = int(Flag.INVERSE), int(Flag.BACKFILL), int(Flag.ROLLED_UP)

TRADE = RecordType(
    "trade",
    "One match, or the matches of one taker order at one price (flag AGGREGATED).",
    [
        Field("trade_id", EXCHANGE_ID, "the exchange's id, counted per symbol; of the aggregate where AGGREGATED"),
        Field("price", PRICE, "quote currency"),
        Field("quantity", QUANTITY, "base units"),
        Field("first_trade_id", EXCHANGE_ID, "first match of an aggregate; 0 = a single match", optional=True),
        Field("last_trade_id", EXCHANGE_ID, "last match of an aggregate; 0 = a single match", optional=True),
        Field(
            "quantity_ex_rpi",
            QUANTITY,
            "base units without retail price improvement orders; 0 = not sent",
            optional=True,
        ),
    ],
    derived=[
        Derived("side", {"enum": ["buy", "sell"]}, "aggressor side", lambda f: "sell" if f & _SELL else "buy"),
        Derived("is_buyer_maker", {"type": "boolean"}, "the same as side sell", lambda f: bool(f & _SELL)),
    ],
    tail=1024,
)

QUOTE = RecordType(
    "quote",
    "Best bid and ask, at each change.",
    [
        Field("bid", PRICE, "quote currency"),
        Field("bid_qty", QUANTITY, "base units"),
        Field("ask", PRICE, "quote currency"),
        Field("ask_qty", QUANTITY, "base units"),
    ],
    tail=4,
    store=Store.SAMPLED,
)

BOOK_LEVEL = RecordType(
    "book_level",
    "One changed price level of the book (side: flag ASK); quantity 0 removes it.",
    [
        Field("update_id", UPDATE_ID, "the exchange's id of the event"),
        Field("price", PRICE, "quote currency"),
        Field("quantity", QUANTITY, "base units now resting at the price; 0 = the level is gone"),
    ],
    derived=[Derived("side", {"enum": ["bid", "ask"]}, "side of the book", lambda f: "ask" if f & _ASK else "bid")],
    store=Store.OFF,
)


def _book(name: str, doc: str, depth: int, store: Store) -> RecordType:
    return RecordType(
        name,
        doc,
        [
            Field("update_id", UPDATE_ID, "the exchange's id of the last event folded in"),
            Field("level_count", COUNT, "book_level records of this key folded in so far: the book channel's seq"),
            Field("state", SMALL, "trust in the book: see BookState"),
            Field("bids_count", SMALL, "levels used on the bid side"),
            Field("asks_count", SMALL, "levels used on the ask side"),
            Field("depth", SMALL, "levels there is room for on each side"),
            Field("bid_price", PRICE, "best first, quote currency; 0 = unused", length=depth),
            Field("bid_qty", QUANTITY, "base units", length=depth),
            Field("ask_price", PRICE, "best first, quote currency; 0 = unused", length=depth),
            Field("ask_qty", QUANTITY, "base units", length=depth),
        ],
        ring=False,
        tail=4,
        store=store,
    )


BOOK_TOP = _book("book_top", "The 20 best levels of each side, at each event.", 20, Store.SAMPLED)
BOOK_DEPTH = _book("book_depth", "The 400 best levels of each side, at most every 100 ms.", 400, Store.OFF)

_BAR_SOURCES = ("stream", "rest", "rolled_up")


def _bar_source(flags: int) -> str:
    return "rest" if flags & _BACKFILL else "rolled_up" if flags & _ROLLED_UP else "stream"


def _kline(name: str, doc: str, tail: int, store: Store) -> RecordType:
    return RecordType(
        name,
        doc,
        [
            Field("open_ts", TIME_MS, "first millisecond of the bar, UNIX ms"),
            Field("close_ts", TIME_MS, "last millisecond of the bar, UNIX ms"),
            Field("open", PRICE, "quote currency"),
            Field("high", PRICE, "quote currency"),
            Field("low", PRICE, "quote currency"),
            Field("close", PRICE, "quote currency"),
            Field("volume", QUANTITY, "base units"),
            Field("quote_volume", QUANTITY, "quote currency; base units where INVERSE"),
            Field("trade_count", COUNT, "single matches"),
            Field("taker_buy_volume", QUANTITY, "base units of the volume whose aggressor bought"),
            Field("taker_buy_quote_volume", QUANTITY, "the same in quote currency; base units where INVERSE"),
        ],
        derived=[
            Derived("closed", {"type": "boolean"}, "the bar's time is over", lambda f: bool(f & _CLOSED)),
            Derived("partial", {"type": "boolean"}, "it was seen only in part", lambda f: bool(f & _PARTIAL)),
            Derived("source", {"enum": list(_BAR_SOURCES)}, "where the bar comes from", _bar_source),
        ],
        key_columns=[("interval", "LowCardinality(String)", "1m, 1h, 1d: length of the bars")],
        tail=tail,
        store=store,
    )


# Two types: between two of the last 1,500 bars nobody wants to find 240 states of the open one.
KLINE = _kline(
    "kline",
    "A closed bar of an instrument and interval. A later record of the same open_ts replaces an earlier one.",
    2048,
    Store.ALL,
)
KLINE_OPEN = _kline(
    "kline_open",
    "The bar of now, at each change; its last record has the flag CLOSED.",
    4,
    Store.OFF,
)

TICKER = RecordType(
    "ticker",
    "The last 24 hours.",
    [
        Field("last", PRICE, "of the last trade, quote currency"),
        Field("open_24h", PRICE, "quote currency"),
        Field("high_24h", PRICE, "quote currency"),
        Field("low_24h", PRICE, "quote currency"),
        Field("volume_24h", QUANTITY, "base units"),
        Field("quote_volume_24h", QUANTITY, "quote currency; base units where INVERSE"),
        Field("change_pct", RATE, "from open_24h to last, percent"),
        Field("bid", PRICE, "quote currency; 0 = not sent", optional=True),
        Field("ask", PRICE, "quote currency; 0 = not sent", optional=True),
        Field("trade_count_24h", COUNT, "single matches"),
    ],
    tail=4,
    store=Store.SAMPLED,
)

MARK_PRICE = RecordType(
    "mark_price",
    "The price that positions are valued at, and the index it follows.",
    [
        Field("mark_price", PRICE, "quote currency"),
        Field("index_price", PRICE, "quote currency; 0 = not sent", optional=True),
        Field("settle_price", PRICE, "estimated, means something in the last hour; 0 = not sent", optional=True),
    ],
    tail=4,
    store=Store.SAMPLED,
)

FUNDING = RecordType(
    "funding",
    "The funding rate of a perpetual, when it or the time of its payment changes, and when it was paid (flag SETTLED).",
    [
        Field(
            "rate", RATE, "a fraction: 0.0001 is 1 basis point; of the coming payment, or of the one made if SETTLED"
        ),
        Field("predicted_rate", RATE, "of the payment after it; 0 = not sent", optional=True),
        Field("next_funding_ts", TIME_MS, "when it is paid, or if SETTLED the time after it, UNIX ms"),
        Field("funding_interval_h", SMALL, "hours between payments; 0 = not known", optional=True),
        Field("mark_price", PRICE, "at that moment, quote currency; 0 = not known", optional=True),
        Field("index_price", PRICE, "at that moment, quote currency; 0 = not known", optional=True),
    ],
    derived=[Derived("is_settlement", {"type": "boolean"}, "the rate was paid", lambda f: bool(f & _SETTLED))],
    tail=64,
)

OPEN_INTEREST = RecordType(
    "open_interest",
    "Contracts that are open, as last asked for.",
    [
        Field("open_interest", QUANTITY, "base units, or contracts where INVERSE"),
        Field("usd_value", QUANTITY, "open_interest at the mark price, quote currency; 0 = not known", optional=True),
        Field("mark_price", PRICE, "last known then, quote currency; 0 = not known", optional=True),
    ],
    derived=[
        Derived(
            "unit", {"enum": ["coins", "contracts"]}, "of open_interest",
            lambda f: "contracts" if f & _INVERSE else "coins",
        )
    ],
    tail=64,
)  # fmt: skip

LIQUIDATION_STATUSES = ("filled", "partially_filled", "cancelled", "pending")

LIQUIDATION = RecordType(
    "liquidation",
    "An order by which the exchange closes a position. Exchanges tell of some of them only.",
    [
        Field("liquidation_id", EXCHANGE_ID, "0 = not sent", optional=True),
        Field("price", PRICE, "of the order, quote currency"),
        Field("quantity", QUANTITY, "of the order, base units"),
        Field("filled_quantity", QUANTITY, "so far, base units; 0 = nothing, or not sent", optional=True),
        Field("average_price", PRICE, "of what is filled, quote currency; 0 = nothing, or not sent", optional=True),
        Field("notional", QUANTITY, "of what is filled, else of the order, quote currency"),
        Field(
            "status",
            choice_kind("liquidation status", LIQUIDATION_STATUSES),
            "0 filled, 1 partially_filled, 2 cancelled, 3 pending",
        ),
    ],
    derived=[
        Derived("side", {"enum": ["buy", "sell"]}, "of the order", lambda f: "sell" if f & _SELL else "buy"),
    ],
    tail=1024,
)

MARKET_RECORDS: tuple[RecordType, ...] = (
    TRADE, QUOTE, BOOK_LEVEL, BOOK_TOP, BOOK_DEPTH, KLINE, KLINE_OPEN, TICKER, MARK_PRICE, FUNDING, OPEN_INTEREST,
    LIQUIDATION,
)  # fmt: skip
BY_NAME: dict[str, RecordType] = {record.name: record for record in MARKET_RECORDS}

assert TRADE.slot_size == 128, "two cache lines: header, ids, price, quantity"
assert QUOTE.slot_size == 64, "one cache line"
assert BOOK_LEVEL.slot_size == 64, "one cache line"
assert KLINE.slot_size == KLINE_OPEN.slot_size == TICKER.slot_size == FUNDING.slot_size == LIQUIDATION.slot_size == 128
assert MARK_PRICE.slot_size == OPEN_INTEREST.slot_size == 64
