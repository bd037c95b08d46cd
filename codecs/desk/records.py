"""What of the desk lies in shared memory.

Each topic's actor produces `event` (every raw event with its bytes, the stream that the writer stores and from which
all tables of the topic follow), and one live stream of what the events say: `fill` for execution reports, `statement`
for the others. The portfolio produces `position` and `pnl`; the alerts actor `alert`.

Texts lie in the producer's byte ring ``<producer>.texts.bytes``; records carry position and size. JSON rather than
msgpack: amounts may be integers of more than 64 bits. Their form is a part of a record's fingerprint: another version's
streams are made anew instead of being misread.
"""

from __future__ import annotations

from ..record import COUNT, SMALL, TIME_MS, UPDATE_ID, Derived, Field, Flag, Kind, RecordType, Store, choice_kind
from .canonical import TOPICS, Alert, Fill
from .kinds import form
from .money import amount_of, amount_text

TEXTS = "texts"  # name of the byte ring
VARIANT_SHIFT = 28  # the top bits of `flags` say which variant an event had: index in `canonical.VARIANTS`

_SELL = int(Flag.SELL)

AMOUNT = Kind(
    "amount", "16s", "V16", "Decimal(38, 8)", {"type": "string", "pattern": r"^-?\d+(\.\d+)?$"},
    lambda value, key: amount_text(amount_of(bytes(value))),
)  # fmt: skip
RATIO = Kind("ratio", "d", "<f8", "Float64", {"type": "number"}, lambda value, key: value)
OFFSET = Kind("offset", "q", "<i8", "Int64", {"type": "integer"}, lambda value, key: value, "DoubleDelta, ZSTD(1)")
SHORT = Kind("short count", "H", "<u2", "UInt16", {"type": "integer", "minimum": 0}, lambda value, key: value)
TIME_NS = Kind(
    "time", "q", "<i8", "DateTime64(9, 'UTC')", {"type": "integer", "description": "UNIX ns"}, lambda value, key: value,
    "Delta(8), ZSTD(1)",
)  # fmt: skip

_TEXT_FIELDS = [
    Field("text_at", UPDATE_ID, "position of the record's texts in the producer's byte ring"),
    Field("text_size", SMALL, "their bytes"),
]
_ORIGIN_FIELDS = [
    Field("offset", OFFSET, "of the event in its partition"),
    Field("partition", SHORT, "of the topic"),
    Field("item", SHORT, "which item of the event, from 0"),
]
_ACCOUNT = ("account_id", "LowCardinality(String)", "the account")
_STRATEGY = ("strategy_id", "LowCardinality(String)", "the strategy")
_VENUE = ("venue", "LowCardinality(String)", "where it is held")
_SYMBOL = ("symbol", "LowCardinality(String)", "as in the fills, ALL for everything together")

EVENT = RecordType(
    "event",
    "A raw event of a topic. Its bytes are its headers (flag HEADERS: u32 size, msgpack), its key and its value.",
    [
        Field("offset", OFFSET, "in its partition"),
        Field("timestamp", TIME_MS, "the broker's, UNIX ms"),
        Field("text_at", UPDATE_ID, "position of its bytes in the producer's byte ring"),
        Field("partition", SHORT, "of the topic"),
        Field("key_size", SHORT, "bytes of its key; 65535 = it has none"),
        Field("value_size", SMALL, "bytes of its value"),
    ],
    key_columns=[("topic", "LowCardinality(String)", "name of the topic")],
    instrument=False,
    tail=0,
)
NO_KEY = 65_535

FILL = RecordType(
    "fill",
    "A part of an order that was executed. Texts: JSON of `canonical.Fill`.",
    [
        Field("quantity", AMOUNT, "base units, always positive"),
        Field("price", AMOUNT, "quote currency"),
        Field("commission", AMOUNT, "in its own asset"),
        *_ORIGIN_FIELDS[:1],
        *_TEXT_FIELDS,
        *_ORIGIN_FIELDS[1:],
    ],
    derived=[Derived("side", {"enum": ["BUY", "SELL"]}, "of the order", lambda f: "SELL" if f & _SELL else "BUY")],
    key_columns=[_ACCOUNT],
    instrument=False,
    tail=16_384,
    store=Store.OFF,  # its table follows from the raw events
    texts=form(Fill),
)

STATEMENT = RecordType(
    "statement",
    "What an event says: risk, an alert, health, performance, a signal. Texts: JSON of its `canonical` struct.",
    [*_ORIGIN_FIELDS[:1], *_TEXT_FIELDS, *_ORIGIN_FIELDS[1:]],
    key_columns=[_ACCOUNT],
    instrument=False,
    tail=1024,
    store=Store.OFF,  # its table follows from the raw events
    texts=" ".join(form(event) for event in TOPICS.values() if event is not None),
)

DEAD_LETTER = RecordType(
    "dead_letter",
    "An event that could not be understood. Texts: JSON of [reason, explanation].",
    [*_ORIGIN_FIELDS[:1], *_TEXT_FIELDS, *_ORIGIN_FIELDS[1:]],
    key_columns=[("topic", "LowCardinality(String)", "name of the topic")],
    instrument=False,
    tail=1024,
    store=Store.OFF,  # its table follows from the raw events
)

MARKS = ("none", "quote", "fill", "event")
MARK_STATES = ("stale", "live")

POSITION = RecordType(
    "position",
    "A position of an account, strategy, venue and symbol, at each change and each new mark. Money is in the quote"
    " currency, or in the base currency of an inverse contract. Flag PARTIAL: some of its fills are still being read.",
    [
        Field("quantity", AMOUNT, "base units, negative where short"),
        Field("cost", AMOUNT, "what the open quantity was bought for, quote currency; negative where short"),
        Field("avg_price", AMOUNT, "cost by quantity, rounded half to even; 0 where flat"),
        Field("mark_price", AMOUNT, "what it is valued at; 0 = not known"),
        Field("market_value", AMOUNT, "quantity at mark_price, quote currency"),
        Field("unrealized_pnl", AMOUNT, "market_value less cost, quote currency"),
        Field("realized_pnl", AMOUNT, "of all closed quantity since the beginning, without fees, quote currency"),
        Field("fees", AMOUNT, "of all fills, in quote currency at the rate of their time"),
        Field("claimed_pnl", AMOUNT, "realised PnL that the producers of the reports claim, quote currency"),
        Field("trade_count", COUNT, "fills folded in"),
        Field("marked_ns", TIME_NS, "when the mark was last seen, UNIX ns"),
        Field("opened_ns", TIME_NS, "first fill of the open position, UNIX ns; 0 where flat"),
        Field("mark", choice_kind("mark", MARKS), "where the mark comes from: 0 none, 1 quote, 2 fill, 3 event"),
        Field("state", choice_kind("mark state", MARK_STATES), "0 stale, 1 live: a quote that was seen just now"),
    ],
    key_columns=[_ACCOUNT, _STRATEGY, _VENUE, _SYMBOL],
    instrument=False,
    tail=4,
    store=Store.SAMPLED,
)

PNL = RecordType(
    "pnl",
    "PnL of an account (strategy and symbol ALL), of its strategies (symbol ALL), of its symbols (strategy ALL) and of"
    " each symbol of a strategy, at each change, in the portfolio's currency.",
    [
        Field("realized_pnl", AMOUNT, "since the beginning, without fees, quote currency"),
        Field("unrealized_pnl", AMOUNT, "of the open positions at their marks, quote currency"),
        Field("fees", AMOUNT, "since the beginning, quote currency"),
        Field("total_pnl", AMOUNT, "realised and unrealised less fees, quote currency"),
        Field("volume", AMOUNT, "quantity times price of all fills, quote currency"),
        Field("exposure", AMOUNT, "sum of the market values without their signs, quote currency"),
        Field("long_exposure", AMOUNT, "of the long positions, quote currency"),
        Field("short_exposure", AMOUNT, "of the short positions, without its sign, quote currency"),
        Field("peak_pnl", AMOUNT, "highest total_pnl so far, at least 0"),
        Field("day_start_pnl", AMOUNT, "total_pnl when the UTC day began"),
        Field("week_start_pnl", AMOUNT, "total_pnl when the last 7 UTC days began, today among them"),
        Field("month_start_pnl", AMOUNT, "total_pnl when the last 30 UTC days began, today among them"),
        Field("gross_profit", AMOUNT, "of winning round trips"),
        Field("gross_loss", AMOUNT, "of losing round trips, without its sign"),
        Field("largest_win", AMOUNT, "of one round trip"),
        Field("largest_loss", AMOUNT, "of one round trip, without its sign"),
        Field("claimed_pnl", AMOUNT, "realised PnL that the producers of the reports claim"),
        Field("fill_count", COUNT, "fills folded in"),
        Field("winning_trips", COUNT, "round trips that ended with a profit after fees"),
        Field("losing_trips", COUNT, "round trips that ended with a loss after fees"),
        Field("holding_ns", COUNT, "sum of the lengths of all round trips, ns"),
        Field("max_drawdown", RATIO, "largest fall of equity from its peak so far, a fraction of the peak"),
        Field("sharpe_ratio", RATIO, "of the daily PnL of all complete UTC days, 365 a year; 0 before the third"),
        Field("positions", SMALL, "open positions"),
    ],
    key_columns=[_ACCOUNT, _STRATEGY, _SYMBOL],
    instrument=False,
    tail=4,
    store=Store.SAMPLED,
)

ALERT_STATE = RecordType(
    "alert",
    "A change of an alert: raised, raised again, acknowledged, resolved. Texts: JSON of `canonical.Alert`.",
    [*_TEXT_FIELDS],
    key_columns=[_ACCOUNT],
    instrument=False,
    tail=16_384,
    store=Store.ALL,
    texts=form(Alert),
)

DESK_RECORDS: tuple[RecordType, ...] = (EVENT, FILL, STATEMENT, DEAD_LETTER, POSITION, PNL, ALERT_STATE)
BY_NAME: dict[str, RecordType] = {record.name: record for record in DESK_RECORDS}

assert EVENT.slot_size == STATEMENT.slot_size == DEAD_LETTER.slot_size == ALERT_STATE.slot_size == 64
assert FILL.slot_size == 128
