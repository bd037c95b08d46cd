"""Funding rates of perpetuals: as rows, now, and in figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...codecs.record import RATE, Flag
from ...codecs.records import FUNDING
from ...storage.schema import EVENT_TIME
from ..catalog import Source
from .aggregates import AGGREGATE_METADATA, Aggregate, kept_answer
from .endpoints import Answerer, Arguments, Endpoint
from .envelope import encode, members
from .folding import NOT_VOID, Parts, parts_of, rounded
from .merge import Recent, times_of
from .paging import LIMIT, RANGE_PARAMS
from .params import integer
from .ranges import Form, newest_rows, shown_time
from .resolve import SYMBOL_PATH, SYMBOL_QUERY, as_perpetual
from .rows import Alias, Options, decimal_of
from .settlements import SETTLED, payments, rates_in_range
from .shapes import (
    DECIMAL,
    INTEGER,
    KEY_SCHEMA,
    METADATA_SCHEMA,
    MOMENT,
    TEXT,
    key_metadata,
    key_text,
    names_of,
    options_of,
    schema_of,
)
from .stamps import NS
from .state import FrontState
from .trades import WHERE, WRITING

DAY_NS = 86_400 * NS
_SETTLED = int(Flag.SETTLED)
RATES_MAX = 100_000  # that statistics without a settlement in their range are made of
ALIASES = {
    "next_funding_time": Alias("next_funding_ts", as_time=True), "estimated_rate": Alias("predicted_rate"),
    "funding_rate": Alias("rate"),
}  # fmt: skip
RATES = Form(FUNDING, ALIASES, 30 * DAY_NS)

DAYS = integer("days", 30, 1, 365, "Length of the range, which ends now.")
INTERVAL_HOURS = integer("interval_hours", 8, 1, 24, "Length of an interval; intervals are counted from 1970, UTC.")
_NULLABLE = {"type": ["string", "number", "null"]}
STATS_SCHEMA = schema_of({
    **KEY_SCHEMA, "time_range_days": INTEGER, "total_records": INTEGER,
    "basis": {"enum": ["settled", "all"], "description": "payments made; every change of the rate where none is held"},
    "rate_statistics": schema_of(dict.fromkeys(("avg", "min", "max", "median", "q25", "q75"), _NULLABLE)),
    "distribution": schema_of({"positive_count": INTEGER, "negative_count": INTEGER, "zero_count": INTEGER}),
})  # fmt: skip
HISTORICAL_SCHEMA = schema_of({
    "timestamp": {**MOMENT, "description": "start of the interval"}, "avg_rate": DECIMAL, "min_rate": DECIMAL,
    "max_rate": DECIMAL, "record_count": INTEGER,
})  # fmt: skip


def funding_endpoints(state: FrontState) -> list[Endpoint]:
    def newest(arguments: Arguments) -> Answerer:
        return newest_rows(state, RATES, as_perpetual(arguments))

    def ranged(arguments: Arguments) -> Answerer:
        return rates_in_range(state, RATES, as_perpetual(arguments))

    rows: dict[str, Any] = {
        "data": {"type": "array", "items": RATES.schema()}, "metadata": METADATA_SCHEMA, "errors": (400, 404),
    }  # fmt: skip
    figures: dict[str, Any] = {"metadata": AGGREGATE_METADATA, "errors": (400, 404)}
    schema = RATES.schema()
    return [
        Endpoint(
            "/api/v1/funding", ranged, "Funding rates of a range (30 days by default), newest first",
            (SYMBOL_QUERY, *WHERE, *RANGE_PARAMS, SETTLED, *WRITING), **rows,
        ),
        Endpoint(
            "/api/v1/funding/{symbol}", ranged, "Funding rates of a range (30 days by default), newest first",
            (SYMBOL_PATH, *WHERE, *RANGE_PARAMS, SETTLED, *WRITING), **rows,
        ),
        Endpoint(
            "/api/v1/funding/latest", newest, "The newest funding rates, newest first",
            (SYMBOL_QUERY, *WHERE, LIMIT, *WRITING), **rows,
        ),
        Endpoint(
            "/api/v1/funding/current", lambda arguments: current(state, as_perpetual(arguments)),
            "The rate of the coming payment; null while none is known", (SYMBOL_QUERY, *WHERE, *WRITING),
            data={**schema, "type": ["object", "null"]}, metadata={**METADATA_SCHEMA, "state": TEXT}, errors=(400, 404),
        ),
        Endpoint(
            "/api/v1/funding/stats", lambda arguments: statistics(state, as_perpetual(arguments)),
            "Statistics of the last days", (SYMBOL_QUERY, *WHERE, DAYS, *WRITING), data=STATS_SCHEMA, **figures,
        ),
        Endpoint(
            "/api/v1/funding/historical", lambda arguments: historical(state, as_perpetual(arguments)),
            "Rates by interval, newest first", (SYMBOL_QUERY, *WHERE, DAYS, INTERVAL_HOURS, *WRITING),
            data={"type": "array", "items": HISTORICAL_SCHEMA}, **figures,
        ),
    ]  # fmt: skip


def current(state: FrontState, arguments: Arguments) -> Answerer:
    source = state.source(FUNDING, arguments)
    reader, renderer = source.reader, RATES.renderer(source, options_of(arguments))
    key = key_text(source, arguments["symbol"])
    metadata = {**key_metadata(source, arguments["symbol"]), "data_source": "memory"}

    def answer() -> bytes:
        rows = reader.last(source.key_id, reader.spec.tail)
        coming = rows[(rows["flags"] & _SETTLED) == 0]
        if not len(coming):
            return members(None, metadata=metadata)
        row = coming[-1]
        said = "live" if int(row["ts_recv_ns"]) >= reader.live_since_ns else "stale"
        return members(b"{" + key + renderer.row(row) + b"}", metadata={**metadata, "state": said})

    return answer


class RateWriter:
    """Rates as a request wants them."""

    def __init__(self, source: Source, options: Options) -> None:
        text = decimal_of(RATE, source.key.attributes)
        assert text is not None
        self._text, self._as_text = text, options.decimals == "string"

    def __call__(self, value: float) -> Any:
        short = float(f"{rounded(value):.12f}")  # a mean of rates has no more to say
        return self._text(short) if self._as_text else short


def _metadata(source: Source, arguments: Arguments, parts: Parts) -> dict[str, Any]:
    show = shown_time(options_of(arguments))
    times = {"start_time": show(parts.start_ns), "end_time": show(parts.end_ns)}
    return {**names_of(source, arguments["symbol"]), **times, **parts.told()}


def _identity(name: str, source: Source, arguments: Arguments, *names: str) -> tuple[Any, ...]:
    own = tuple(arguments[one] for one in ("symbol", "decimals", "time", *names))
    return (name, source.exchange, source.instrument, source.epoch, *own)


def statistics(state: FrontState, arguments: Arguments) -> Answerer:
    source, days = state.source(FUNDING, arguments), arguments["days"]
    write = RateWriter(source, options_of(arguments))

    async def stored(held: Recent, start_ns: int, end_ns: int) -> tuple[np.ndarray, np.ndarray] | None:
        ask = {"where": NOT_VOID, "tail": f"ORDER BY settled DESC, nth DESC LIMIT {RATES_MAX}"}
        columns = f"rate, bitAnd(flags, {_SETTLED}) != 0 AS settled"
        rows = await state.history.select(FUNDING, source, columns, held.seam, start_ns, end_ns, **ask)
        if rows is None:
            return None
        both = np.array(rows, np.float64).reshape(-1, 2)
        return both[:, 0], both[:, 1] != 0

    async def make() -> Aggregate:
        parts = await parts_of(state, source, days * DAY_NS, stored)
        old, old_settled = parts.stored or (np.empty(0), np.empty(0, bool))
        rates = np.concatenate((old, parts.memory["rate"]))
        settled = np.concatenate((old_settled, (parts.memory["flags"] & _SETTLED) != 0))
        paid = await payments(state, source, parts.start_ns, parts.end_ns)
        if paid is not None and len(paid):
            rates, settled = paid["rate"], np.ones(len(paid), bool)
        basis = "settled" if settled.any() else "all"
        rates = rates[settled] if basis == "settled" else rates
        names = ("avg", "min", "max", "median", "q25", "q75")
        figures: list[float] = []
        if len(rates):
            figures = [rates.mean(), rates.min(), rates.max(), *np.quantile(rates, (0.5, 0.25, 0.75))]
        told = (
            dict(zip(names, (write(float(one)) for one in figures), strict=True)) if figures else dict.fromkeys(names)
        )
        data = encode({
            "time_range_days": days, "total_records": len(rates), "basis": basis, "rate_statistics": told,
            "distribution": {
                "positive_count": int((rates > 0).sum()), "negative_count": int((rates < 0).sum()),
                "zero_count": int((rates == 0).sum()),
            },
        })  # fmt: skip
        text = b"{" + key_text(source, arguments["symbol"]) + data[1:]
        return Aggregate(text, _metadata(source, arguments, parts), answered=parts.answered)

    return kept_answer(state, _identity("funding stats", source, arguments, "days"), make)


def historical(state: FrontState, arguments: Arguments) -> Answerer:
    source, step = state.source(FUNDING, arguments), arguments["interval_hours"] * 3600 * NS
    write, show = RateWriter(source, options_of(arguments)), shown_time(options_of(arguments))
    bucket_of = f"intDiv(toUnixTimestamp64Nano({EVENT_TIME}), {{step:Int64}})"
    columns = f"{bucket_of} AS bucket, count(), sum(rate), min(rate), max(rate)"

    async def stored(held: Recent, start_ns: int, end_ns: int) -> list[tuple[Any, ...]] | None:
        return await state.history.select(
            FUNDING, source, columns, held.seam, start_ns, end_ns, where=NOT_VOID, tail="GROUP BY bucket", step=step
        )

    async def make() -> Aggregate:
        parts = await parts_of(state, source, arguments["days"] * DAY_NS, stored)
        buckets: dict[int, tuple[int, float, float, float]] = {
            bucket: tuple(sums) for bucket, *sums in parts.stored or ()
        }  # type: ignore[misc]
        paid = await payments(state, source, parts.start_ns, parts.end_ns)
        held = parts.memory if paid is None else np.concatenate((parts.memory, paid))
        numbers = times_of(held) // step
        for bucket in np.unique(numbers).tolist():
            rates = held["rate"][numbers == bucket]
            count, total, low, high = buckets.get(bucket, (0, 0.0, float("inf"), float("-inf")))
            buckets[bucket] = (
                count + len(rates), total + float(rates.sum()), min(low, float(rates.min())),
                max(high, float(rates.max())),
            )  # fmt: skip
        told = [
            {
                "timestamp": show(bucket * step), "avg_rate": write(total / count), "min_rate": write(low),
                "max_rate": write(high), "record_count": count,
            }
            for bucket, (count, total, low, high) in sorted(buckets.items(), reverse=True)
        ]  # fmt: skip
        return Aggregate(encode(told), _metadata(source, arguments, parts), len(told), parts.answered)

    return kept_answer(state, _identity("funding historical", source, arguments, "days", "interval_hours"), make)
