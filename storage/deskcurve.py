"""The equity curve: PNL by the minute to the day, aggregated as it arrives.

It is kept in states: each sample of a key's PNL updates, as it arrives, one row for each interval, in which the newest
sample of the bucket wins. So a month by the hour is 720 rows of a key. What arrives twice changes nothing, and a sample
that is lost is made good by the next. Buckets are of our own clock at receipt: a late fill changes what is known now,
not what was known then.

The view `pnl_curve` has what people query: `unrealized_pnl`, `cumulative_pnl` and `drawdown` at the end of each bucket;
`realized_pnl`, `total_pnl`, `trade_count`, `commission` and `volume` are what was added in it, which is the difference
to the bucket before that has any sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..codecs.desk.records import PNL
from .deskcolumns import TIME_NS, WORD
from .schema import SchemaOptions, TableSpec, days_ttl, qualified, qualified_table
from .views import marked

CURVE, CURVE_STATES, CURVE_FEED = "pnl_curve", "pnl_curve_states", "pnl_curve_feed"
CURVE_DAYS = 730
INTERVALS: Mapping[str, int] = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86_400}  # seconds
_CURVE_KEY: Sequence[tuple[str, str, str]] = (
    ("account_id", WORD, "the account"),
    ("strategy_id", WORD, "ALL for all of the account"),
    ("symbol", WORD, "ALL for all of the strategy"),
    ("interval_type", WORD, ", ".join(INTERVALS)),
    ("time_bucket", "DateTime('UTC')", "when the interval begins"),
)
# What a state holds of the newest sample.
CURVE_VALUES = (
    "realized_pnl", "unrealized_pnl", "fees", "total_pnl", "volume", "exposure", "peak_pnl", "fill_count",
    "max_drawdown", "gross_profit", "gross_loss", "winning_trips", "losing_trips", "holding_ns",
)  # fmt: skip
_KINDS = {field.name: field.kind.clickhouse for field in PNL.fields}
_VALUES = ", ".join(CURVE_VALUES)
_VALUE_KINDS = ", ".join(f"{name} {_KINDS[name]}" for name in CURVE_VALUES)


def curve_states(options: SchemaOptions) -> TableSpec:
    """One row for each key, interval and bucket."""
    return TableSpec(
        name=CURVE_STATES,
        doc="States of the equity curve; see the view pnl_curve.",
        columns=(
            *_CURVE_KEY,
            ("last", f"AggregateFunction(argMax, Tuple({_VALUE_KINDS}), {TIME_NS})", "the newest sample of the bucket"),
            ("ts_recv_ns", f"SimpleAggregateFunction(max, {TIME_NS})", "when it came"),
        ),
        order=[name for name, _, _ in _CURVE_KEY],
        partition="toYYYYMM(time_bucket)",
        ttl=days_ttl(options.retention_days.get(CURVE, CURVE_DAYS)),
        indices=(("received", "ts_recv_ns"),),
        variant="Aggregating",
    )


def curve_views(database: str) -> dict[str, str]:
    """What fills the states, and the view that reads them, by name."""
    keys = ", ".join(name for name, _, _ in _CURVE_KEY)
    intervals = ", ".join(f"('{name}', {seconds})" for name, seconds in INTERVALS.items())
    time = "toUnixTimestamp(toDateTime(ts_recv_ns, 'UTC'))"
    feed = (
        f"CREATE MATERIALIZED VIEW {qualified(database, CURVE_FEED)} TO {qualified(database, CURVE_STATES)} AS "
        f"SELECT {keys}, argMaxState(sample, received) AS last, max(received) AS ts_recv_ns FROM ("
        "SELECT account_id, strategy_id, symbol, i.1 AS interval_type, "
        f"toDateTime(intDiv({time}, i.2) * i.2, 'UTC') AS time_bucket, CAST(({_VALUES}), 'Tuple({_VALUE_KINDS})') AS "
        f"sample, ts_recv_ns AS received FROM {qualified_table(database, PNL)} ARRAY JOIN [{intervals}] AS i) "
        f"GROUP BY {keys}"
    )
    added = {"realized_pnl": "realized_pnl", "total_pnl": "total_pnl", "trade_count": "fill_count",
             "commission": "fees", "volume": "volume"}  # fmt: skip
    own = ", ".join(
        f"s.{value} - lagInFrame(s.{value}, 1, CAST(0, '{_KINDS[value]}')) OVER w AS {name}"
        for name, value in added.items()
    )
    curve = (
        f"CREATE OR REPLACE VIEW {qualified(database, CURVE)} AS "
        f"SELECT toDateTime64(time_bucket, 3, 'UTC') AS timestamp, {keys}, {own}, "
        "s.unrealized_pnl AS unrealized_pnl, s.total_pnl AS cumulative_pnl, "
        "s.peak_pnl - s.total_pnl AS drawdown, CAST(NULL, 'Nullable(Decimal(38, 8))') AS var_1d "
        f"FROM (SELECT {keys}, argMaxMerge(last) AS s FROM {qualified(database, CURVE_STATES)} GROUP BY {keys}) "
        "WINDOW w AS (PARTITION BY account_id, strategy_id, symbol, interval_type ORDER BY time_bucket "
        "ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)"
    )
    return {CURVE_FEED: marked(feed), CURVE: marked(curve)}
