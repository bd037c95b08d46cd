"""The desk's tables: raw events, what follows from them, alerts, and the equity curve.

Every event of a topic is one row of `raw_events`; what it says is in the derived tables, whose rows name the event they
come from by (topic, partition, offset) and their place in it by `item`. These are sorted for what is asked of them (an
account's newest rows), so a minimum and maximum of `offset` in each granule serves the few questions by origin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import Struct

from ..codecs.desk.canonical import (
    Alert,
    ClaimedPosition,
    Event,
    ExecReport,
    Fill,
    MarketData,
    Order,
    Performance,
    PositionUpdate,
    Risk,
    Signal,
    SystemHealth,
)
from ..codecs.desk.records import PNL, POSITION
from .client import Client
from .deskcolumns import TIME_NS, WORD, Columns, columns_of, getter
from .deskcurve import CURVE_FEED, curve_states, curve_views
from .errors import Refused
from .schema import PARTITION_MONTH, SchemaOptions, TableSpec, days_ttl, ensure_schema, qualified
from .views import ensure_marked, marked

log = logging.getLogger("tickring.storage.deskschema")

_WHERE: Columns = (
    ("topic", WORD, "of Kafka"),
    ("partition", "UInt16", "of the topic"),
    ("offset", "Int64", "in the partition"),
)
_WHAT: Columns = (
    ("variant", WORD, "which producer's form the event had; empty where that is not known"),
    ("flags", "UInt32", "see the flags table"),
    ("ts_event_ns", TIME_NS, "when it happened by the producer's clock; the broker's time where it gave none"),
    ("ts_recv_ns", TIME_NS, "our wall clock when the event arrived"),
)
ORIGIN_COLUMNS: Columns = (*_WHERE, ("item", "UInt16", "which item of the event, from 0"), *_WHAT)
_CODECS = {
    "offset": "Delta(8), ZSTD(1)", "ts_event_ns": "Delta(8), ZSTD(1)", "ts_recv_ns": "Delta(8), ZSTD(1)",
    "flags": "T64, ZSTD(1)", "value": "ZSTD(3)",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class DeskTable:
    """A table of the desk.

    `values_of` gives the values of `own` of each row that follows from an event; the columns of its origin come before
    them, in which `ts_event_ns` is the item's own time.
    """

    name: str
    doc: str
    own: Columns
    order: Sequence[str]  # sorting key; the origin follows
    days: int
    before: Columns = ORIGIN_COLUMNS
    identity: Sequence[str] = ("topic", "partition", "offset", "item")  # first columns of a row, which name it
    values_of: Callable[[Any], Iterable[Sequence[Any]]] = lambda event: ()
    time: str = "timestamp"  # column of `own` that says when it happened
    version: str = ""  # the newest row of a key wins by it; in ns: states of an order may be less than 1 ms apart
    indices: Sequence[str] = ("offset",)
    looked_up: Sequence[str] = ()

    @property
    def time_at(self) -> int:
        """Index in `own` of the item's own time."""
        return [name for name, _, _ in self.own].index(self.time)

    @property
    def columns(self) -> Columns:
        """In the order of the blocks."""
        return (*self.before, *self.own)

    def spec(self, options: SchemaOptions) -> TableSpec:
        """What the table is on the server."""
        order = [*self.order, *(name for name in self.identity if name not in self.order and not self.version)]
        indexed = [name for name in (*self.indices, self.time) if name != order[0]]
        return TableSpec(
            name=self.name, doc=self.doc, columns=self.columns, order=order, partition=PARTITION_MONTH,
            ttl=days_ttl(options.retention_days.get(self.name, self.days)), codecs=_CODECS,
            indices=[("received", "ts_recv_ns"), *((f"by_{name}", name) for name in indexed if name != "ts_recv_ns")],
            looked_up=self.looked_up, variant="Replacing" if self.version else "", version=self.version,
        )  # fmt: skip


RAW_EVENTS = DeskTable(
    name="raw_events",
    doc="Every event of the desk's topics as it came: one row for each offset.",
    before=_WHERE,
    own=(
        ("timestamp", "DateTime64(3, 'UTC')", "the broker's"),
        ("key", "Nullable(String)", "of the message"),
        ("value", "String", "of the message"),
        ("headers", "Array(Tuple(String, Nullable(String)))", "of the message: name and value"),
        ("event_id", "String", "given by the producer, or made of the origin; empty in a dead letter"),
        *_WHAT,
    ),
    order=("topic", "partition", "offset"),
    identity=("topic", "partition", "offset"),
    indices=(),
    days=365,
)
DEAD_LETTERS = DeskTable(
    name="dead_letters",
    doc="Events that could not be understood.",
    own=(
        ("reason", WORD, "a word to count it by"),
        ("explanation", "String", "what was expected, and what came"),
        ("key", "Nullable(String)", "of the message"),
        ("value", "String", "of the message"),
    ),
    order=("topic", "partition", "offset", "item"),
    indices=(),
    time="ts_recv_ns",
    days=365,
)

_ACCOUNT_TIME = ("account_id", "ts_event_ns")
_CARRIED = frozenset({"variant", "rounded", "malformed"})  # in the columns of the origin, and in the flags


def _of_event(event: type[Event], **table: Any) -> DeskTable:
    """A table with one row for each event."""
    own = columns_of(event, _CARRIED)
    values = getter(own)
    return DeskTable(own=own, values_of=lambda event: (values(event),), **table)


def _of_items(items: str, struct: type[Struct], **table: Any) -> DeskTable:
    """A table with one row for each item of a list of an event."""
    own, items_of = columns_of(struct), attrgetter(items)
    values = getter(own)
    return DeskTable(own=own, values_of=lambda event: map(values, items_of(event)), **table)


def _executions() -> DeskTable:
    own = [*columns_of(ExecReport, _CARRIED), ("order_count", "UInt32", ""), ("fill_count", "UInt32", "")]
    values = getter(own[:-2])
    return DeskTable(
        name="exec_reports", doc="Execution reports.", own=own, order=_ACCOUNT_TIME, days=365,
        values_of=lambda event: ((*values(event), len(event.orders), len(event.fills)),),
    )  # fmt: skip


def _claims() -> DeskTable:
    of_event = [c for c in columns_of(Risk) if c[0] in ("timestamp", "strategy_id", "account_id")]
    of_item = columns_of(ClaimedPosition)
    event_values, item_values = getter(of_event), getter(of_item)
    return DeskTable(
        name="claimed_positions", doc="Positions as producers of risk events claim them; ours are in positions.",
        own=[*of_event, *of_item], order=_ACCOUNT_TIME, days=182,
        values_of=lambda event: [(*event_values(event), *item_values(item)) for item in event.positions],
    )  # fmt: skip


def _health() -> DeskTable:
    own = [*columns_of(SystemHealth, _CARRIED), ("components", "String", "JSON of the components")]
    values, encode = getter(own[:-1]), msgspec.json.Encoder().encode
    return DeskTable(
        name="system_health", doc="Health of a system or a component, as it is reported.", own=own,
        order=("ts_event_ns",), days=31,
        values_of=lambda event: ((*values(event), encode(event.components)),),
    )  # fmt: skip


# By topic, in the order in which they are filled. Alerts become rows of `alerts` through the alerts actor alone, which
# is the only one that says what state an alert is in.
DERIVED: Mapping[str, Sequence[DeskTable]] = {
    "exec.reports.v1": (
        _of_items("orders", Order, name="orders", doc="The newest state of each order; read it with FINAL.",
                  order=("account_id", "venue", "order_id"), days=365, time="update_time", version="ts_event_ns"),
        _of_items("fills", Fill, name="fills", doc="What was executed.", order=_ACCOUNT_TIME, days=365,
                  looked_up=("fill_id", "order_id")),
        _executions(),
    ),
    "risk.metrics.v1": (
        _claims(),
        _of_event(Risk, name="risk_metrics", doc="Risk as producers state it.", order=_ACCOUNT_TIME, days=182),
    ),
    "system.health.v1": (_health(),),
    "strategy.performance.v1": (
        _of_event(Performance, name="strategy_performance", doc="Performance as producers state it.",
                  order=_ACCOUNT_TIME, days=365),
    ),
    "trade.signals.v1": (
        _of_event(Signal, name="trade_signals", doc="Trading signals.", order=("strategy", "ts_event_ns"), days=365),
    ),
    "position.updates.v1": (
        _of_event(PositionUpdate, name="position_updates", doc="Positions as strategies report them.",
                  order=("strategy", "ts_event_ns"), days=182),
    ),
    "market.data.v1": (
        _of_event(MarketData, name="market_data", doc="The market as the desk's own pipeline sees it.",
                  order=("symbol", "ts_event_ns"), days=31),
    ),
}  # fmt: skip

_alert_columns = [
    (name, WORD if name == "account_id" else kind, doc) for name, kind, doc in columns_of(Alert, _CARRIED)
]
ALERTS = DeskTable(
    name="alerts",
    doc="The newest state of each alert; read it with FINAL.",
    before=(
        ("epoch", "UInt64", "the stream's creation time, UNIX ns"),
        ("nth", "UInt64", "how many changes of this account came before it, in its epoch"),
        *_WHAT,
    ),
    identity=("epoch", "nth"),
    own=_alert_columns,
    order=("alert_id",),
    version="ts_recv_ns",
    indices=(),
    days=92,
)
alert_values = getter(_alert_columns)

DESK_TABLES: Mapping[str, DeskTable] = {
    table.name: table
    for table in (RAW_EVENTS, DEAD_LETTERS, ALERTS, *(table for of_topic in DERIVED.values() for table in of_topic))
}

RISK_SUMMARY = "risk_summary_mv"


def risk_summary(database: str) -> str:
    """The statement that makes the view of risk by the hour."""
    return marked(
        f"CREATE OR REPLACE VIEW {qualified(database, RISK_SUMMARY)} AS SELECT "
        "toStartOfHour(timestamp) AS hour_bucket, strategy_id, account_id, max(risk_score) AS max_risk_score, "
        "avg(total_exposure) AS avg_exposure, max(current_positions) AS max_positions, "
        f"min(daily_pnl) AS min_daily_pnl, max(daily_pnl) AS max_daily_pnl FROM {qualified(database, 'risk_metrics')} "
        "GROUP BY hour_bucket, strategy_id, account_id"
    )


async def ensure_desk(client: Client, options: SchemaOptions) -> list[str]:
    """Make the desk's tables and views, and bring up to date what is there; returns the statements that were run.

    Raises:
        SchemaConflict, Unavailable, Refused
    """
    specs = [*(table.spec(options) for table in DESK_TABLES.values()), curve_states(options)]
    run = await ensure_schema(client, (POSITION, PNL), options, specs)
    views = {**curve_views(options.database), RISK_SUMMARY: risk_summary(options.database)}
    try:
        if any(statement.startswith(("CREATE TABLE", "RENAME TABLE")) for statement in run):
            # A view that feeds a table follows the one that it was made for, also where that was set aside.
            await client.command(f"DROP VIEW IF EXISTS {qualified(options.database, CURVE_FEED)}")
        run += await ensure_marked(client, options.database, views)
    except Refused as error:
        # Storing rows comes first: a server that does not take the views still gets them.
        log.error("views=%s not made: %s", ",".join(views), error)
    return run
