"""Trades in figures: statistics of a range, volume by interval, large trades."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...codecs.records import TRADE
from ...storage.schema import EVENT_TIME
from ..catalog import Source
from .aggregates import AGGREGATE_METADATA, Aggregate, Writer, kept_answer
from .endpoints import Answerer, Arguments, Endpoint
from .envelope import encode, joined_rows
from .folding import NOT_VOID, Parts, fold_trades, parts_of
from .history import older_than
from .merge import Recent, times_of
from .params import Param, integer
from .ranges import shown_time
from .resolve import SYMBOL_QUERY
from .rows import RowRenderer, row_schema
from .shapes import DECIMAL, INTEGER, KEY_SCHEMA, MOMENT, key_text, names_of, options_of, schema_of
from .stamps import NS
from .state import FrontState
from .trades import ALIASES, WHERE, WRITING

HOUR_NS = 3600 * NS
BUCKETS_MAX = 100

HOURS = integer("hours", 24, 1, 168, "Length of the range, which ends now.")
MINUTES = integer("interval_minutes", 60, 1, 1440, "Length of an interval; intervals are counted from 1970, UTC.")
LARGE_LIMIT = integer("limit", 100, 1, 500, "Most rows to return; the newest ones.")


def _amount(text: str) -> float:
    value = float(text) if text.isascii() else -1.0
    if not 0.01 <= value < 1e18:
        raise ValueError("a number of at least 0.01")
    return value


MIN_AMOUNT = Param(
    "min_amount", _amount, {"type": "number", "minimum": 0.01, "description": "a number of at least 0.01"},
    "Least price times quantity, quote currency.", 1000.0,
)  # fmt: skip

STATS_SCHEMA = schema_of({
    **KEY_SCHEMA, "time_range_hours": INTEGER, "total_trades": INTEGER, "total_volume": DECIMAL,
    "total_notional": DECIMAL,
    "price_stats": schema_of({name: {"type": ["string", "number", "null"]} for name in ("avg", "min", "max")}),
    "side_distribution": schema_of({
        "buy_count": INTEGER, "sell_count": INTEGER, "buy_volume": DECIMAL, "sell_volume": DECIMAL,
    }),
})  # fmt: skip
VOLUME_SCHEMA = schema_of({
    "timestamp": {**MOMENT, "description": "start of the interval"}, "trade_count": INTEGER, "volume": DECIMAL,
    "notional": DECIMAL, "avg_price": {**DECIMAL, "description": "mean of the trades' prices"},
})  # fmt: skip


def trade_statistics_endpoints(state: FrontState) -> list[Endpoint]:
    common: dict[str, Any] = {"metadata": AGGREGATE_METADATA, "errors": (400, 404)}
    notional = {**DECIMAL, "description": "price times quantity, quote currency"}
    large = row_schema(TRADE, ALIASES, **KEY_SCHEMA, notional_value=notional)
    return [
        Endpoint(
            "/api/v1/trades/stats", lambda arguments: statistics(state, arguments), "Statistics of the last hours",
            (SYMBOL_QUERY, *WHERE, HOURS, *WRITING), data=STATS_SCHEMA, **common,
        ),
        Endpoint(
            "/api/v1/trades/volume", lambda arguments: volume(state, arguments),
            f"Volume by interval, newest first, at most {BUCKETS_MAX} intervals",
            (SYMBOL_QUERY, *WHERE, MINUTES, HOURS, *WRITING), data={"type": "array", "items": VOLUME_SCHEMA}, **common,
        ),
        Endpoint(
            "/api/v1/trades/large", lambda arguments: large_trades(state, arguments),
            "Trades of at least so much money, newest first",
            (SYMBOL_QUERY, *WHERE, MIN_AMOUNT, HOURS, LARGE_LIMIT, *WRITING), data={"type": "array", "items": large},
            **common,
        ),
    ]  # fmt: skip


def _identity(name: str, source: Source, arguments: Arguments, *names: str) -> tuple[Any, ...]:
    own = tuple(arguments[one] for one in ("symbol", "decimals", "time", *names))
    return (name, source.exchange, source.instrument, source.epoch, *own)


def _metadata(source: Source, arguments: Arguments, parts: Any, count: int | None = None) -> dict[str, Any]:
    show = shown_time(options_of(arguments))
    told = parts.told() if isinstance(parts, Parts) else {
        "data_source": parts.data_source, "completeness": parts.completeness,
        **({"note": parts.note} if parts.note else {}),
    }  # fmt: skip
    return {
        **names_of(source, arguments["symbol"]), "start_time": show(parts.start_ns), "end_time": show(parts.end_ns),
        **({} if count is None else {"count": count}), **told,
    }  # fmt: skip


def statistics(state: FrontState, arguments: Arguments) -> Answerer:
    source, hours = state.source(TRADE, arguments), arguments["hours"]
    write = Writer(source, options_of(arguments))

    async def make() -> Aggregate:
        fold = await fold_trades(state, source, hours * HOUR_NS)
        prices = {"avg": fold.price_sum / fold.count, "min": fold.low, "max": fold.high} if fold.count else {}
        data = encode({
            "time_range_hours": hours, "total_trades": fold.count, "total_volume": write.quantity(fold.quantity),
            "total_notional": write.price(fold.notional),
            "price_stats": {
                name: write.price(prices[name]) if prices else None for name in ("avg", "min", "max")
            },
            "side_distribution": {
                "buy_count": fold.buys, "sell_count": fold.count - fold.buys,
                "buy_volume": write.quantity(fold.buy_quantity),
                "sell_volume": write.quantity(max(0.0, fold.quantity - fold.buy_quantity)),
            },
        })  # fmt: skip
        text = b"{" + key_text(source, arguments["symbol"]) + data[1:]
        return Aggregate(text, _metadata(source, arguments, fold), answered=fold.answered)

    return kept_answer(state, _identity("trade stats", source, arguments, "hours"), make)


def volume(state: FrontState, arguments: Arguments) -> Answerer:
    source, step = state.source(TRADE, arguments), arguments["interval_minutes"] * 60 * NS
    write = Writer(source, options_of(arguments))
    show = shown_time(options_of(arguments))
    columns = (
        f"intDiv(toUnixTimestamp64Nano({EVENT_TIME}), {{step:Int64}}) AS bucket, count(), sum(quantity), "
        "sum(price * quantity), sum(price)"
    )

    async def stored(held: Recent, start_ns: int, end_ns: int) -> list[tuple[Any, ...]] | None:
        tail = f"GROUP BY bucket ORDER BY bucket DESC LIMIT {BUCKETS_MAX}"
        return await state.history.select(
            TRADE, source, columns, held.seam, start_ns, end_ns, where=NOT_VOID, tail=tail, step=step
        )

    async def make() -> Aggregate:
        parts = await parts_of(state, source, arguments["hours"] * HOUR_NS, stored)
        buckets: dict[int, list[float]] = {bucket: list(sums) for bucket, *sums in parts.stored or ()}
        rows = parts.memory
        numbers = times_of(rows) // step
        for bucket in np.unique(numbers).tolist():
            mine = rows[numbers == bucket]
            sums = (len(mine), mine["quantity"].sum(), (mine["price"] * mine["quantity"]).sum(), mine["price"].sum())
            known = buckets.setdefault(bucket, [0, 0.0, 0.0, 0.0])
            known[:] = [a + float(b) for a, b in zip(known, sums, strict=True)]
        told = [
            {
                "timestamp": show(bucket * step), "trade_count": int(count), "volume": write.quantity(quantity),
                "notional": write.price(notional), "avg_price": write.price(prices / count),
            }
            for bucket, (count, quantity, notional, prices) in sorted(buckets.items(), reverse=True)[:BUCKETS_MAX]
        ]  # fmt: skip
        metadata = _metadata(source, arguments, parts, len(told))
        return Aggregate(encode(told), metadata, len(told), parts.answered)

    return kept_answer(state, _identity("trade volume", source, arguments, "hours", "interval_minutes"), make)


def large_trades(state: FrontState, arguments: Arguments) -> Answerer:
    source, least, limit = state.source(TRADE, arguments), arguments["min_amount"], arguments["limit"]
    options = options_of(arguments)
    write = Writer(source, options)
    order = "ORDER BY exchange DESC, instrument DESC, epoch DESC, nth DESC LIMIT {limit:UInt64}"

    async def stored(held: Recent, start_ns: int, end_ns: int) -> np.ndarray | None:
        condition, parameters = older_than(TRADE, source, held.seam, start_ns, end_ns)
        condition = f"{condition} AND {NOT_VOID} AND price * quantity >= {{least:Float64}} {order}"
        found = await state.history.rows_where(TRADE, condition, {**parameters, "least": least, "limit": limit})
        return None if found is None else found.rows

    async def make() -> Aggregate:
        parts = await parts_of(state, source, arguments["hours"] * HOUR_NS, stored)
        held = parts.memory[parts.memory["price"] * parts.memory["quantity"] >= least][::-1]
        rows = held if parts.stored is None else np.concatenate((held, parts.stored))
        rows = rows[:limit]
        renderer = RowRenderer(TRADE, source.key.attributes, options, ALIASES)
        values = (rows["price"] * rows["quantity"]).tolist()
        texts = [
            b'"notional_value":%b,%b' % (encode(write.price(value)), text)
            for value, text in zip(values, renderer.rows(rows), strict=True)
        ]
        data = joined_rows(key_text(source, arguments["symbol"]), texts)
        return Aggregate(data, _metadata(source, arguments, parts, len(texts)), len(texts), parts.answered)

    return kept_answer(state, _identity("large trades", source, arguments, "hours", "min_amount", "limit"), make)
