"""Candles in figures: what is held of an interval."""

from __future__ import annotations

import time

from ...codecs.records import KLINE
from .aggregates import Aggregate, Writer, kept_answer
from .bars import ONE_KEY, bars_between, bars_in_memory, key_parameters, source_of
from .endpoints import Answerer, Arguments
from .envelope import encode
from .errors import NotFound
from .ranges import shown_time
from .shapes import INTEGER, MOMENT, TEXT, names_of, options_of, schema_of
from .state import FrontState

MS = 1_000_000
STATS_SCHEMA = schema_of({
    "symbol": TEXT, "exchange": TEXT, "market_type": TEXT, "instrument": TEXT, "interval": TEXT,
    "total_count": INTEGER, "earliest_time": {**MOMENT, "type": ["string", "integer", "null"]},
    "latest_time": {**MOMENT, "type": ["string", "integer", "null"]},
    "price_range": schema_of({name: {"type": ["string", "number", "null"]} for name in ("min", "max")}),
    "total_volume": {"type": ["string", "number"]},
})  # fmt: skip


def candle_statistics(state: FrontState, arguments: Arguments) -> Answerer:
    interval, options = arguments["interval"], options_of(arguments)
    source, base = source_of(state, arguments, interval)
    if base != interval:
        raise NotFound(
            f"bars of {interval} are not recorded for {source.instrument}: they are made of {base} when asked for",
            details={"interval": interval, "made_of": base},
        )
    write, show = Writer(source, options), shown_time(options)
    condition = f"{ONE_KEY} AND open_ts < fromUnixTimestamp64Milli({{before:Int64}}, 'UTC')"
    columns = (
        "uniqExact(open_ts), toUnixTimestamp64Milli(min(open_ts)), toUnixTimestamp64Milli(max(open_ts)), min(low), "
        "max(high), sum(volume) * uniqExact(open_ts) / greatest(count(), 1)"
    )

    async def make() -> Aggregate:
        memory = bars_in_memory(source)
        before = int(memory["open_ts"][0]) if len(memory) else time.time_ns() // MS
        found = await state.history.values(KLINE, columns, condition, {**key_parameters(source), "before": before})
        answered = found is not None or not state.history.configured
        count, first, last, low, high, volume = len(memory), None, None, None, None, float(memory["volume"].sum())
        if count:
            first, last = int(memory["open_ts"][0]), int(memory["open_ts"][-1])
            low, high = float(memory["low"].min()), float(memory["high"].max())
        stored = next((row for row in found or () if row[0]), None)
        if stored is not None:
            count, first, last = count + stored[0], stored[1], last or stored[2]
            low = stored[3] if low is None else min(low, stored[3])
            high = stored[4] if high is None else max(high, stored[4])
            volume += stored[5]
        data = {
            **names_of(source, arguments["symbol"]), "interval": interval, "total_count": count,
            "earliest_time": None if first is None else show(first * MS),
            "latest_time": None if last is None else show(last * MS),
            "price_range": {
                "min": None if low is None else write.price(low), "max": None if high is None else write.price(high),
            },
            "total_volume": write.quantity(volume),
        }  # fmt: skip
        expected = 0 if first is None or last is None else bars_between(interval, first, last + 1)
        origin = "mixed" if stored and len(memory) else "database" if stored else "memory"
        share = 100.0 if not expected else min(100.0, round(100 * count / expected, 2))
        metadata = {
            **names_of(source, arguments["symbol"]), "interval": interval, "data_source": origin,
            "completeness": share, **({} if answered else {"note": "memory only: history did not answer"}),
        }  # fmt: skip
        return Aggregate(encode(data), metadata, answered=answered)

    identity = ("candle stats", source.exchange, source.instrument, interval, arguments["symbol"], options)
    return kept_answer(state, identity, make)
