"""The record types of market data. One declaration each; everything else follows from it (see `record`)."""

from __future__ import annotations

from .record import COUNT, EXCHANGE_ID, PRICE, QUANTITY, SMALL, UPDATE_ID, Derived, Field, Flag, RecordType, Store

_SELL, _ASK = int(Flag.SELL), int(Flag.ASK)  # plain integers: an IntFlag makes an object at each operation

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

MARKET_RECORDS: tuple[RecordType, ...] = (TRADE, QUOTE, BOOK_LEVEL, BOOK_TOP, BOOK_DEPTH)
BY_NAME: dict[str, RecordType] = {record.name: record for record in MARKET_RECORDS}

assert TRADE.slot_size == 128, "two cache lines: header, ids, price, quantity"
assert QUOTE.slot_size == 64, "one cache line"
assert BOOK_LEVEL.slot_size == 64, "one cache line"
