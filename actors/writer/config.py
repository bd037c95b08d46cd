"""Settings of the writer."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ...codecs.desk import records as desk
from ...codecs.desk.canonical import DEFAULT_ACCOUNT, DEFAULT_STRATEGY
from ...codecs.record import RecordType, Store
from ...codecs.records import BY_NAME
from ...storage.client import Server
from ...storage.deskschema import DESK_TABLES
from ...storage.schema import DAYS_MAX, RETENTION_SPLITS

Milliseconds = Annotated[int, Meta(ge=10, le=60_000)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
StoreName = Literal["all", "sampled", "off"]
Days = Annotated[int, Meta(ge=0, le=DAYS_MAX)]
# Those whose rows are stored as they are; what follows from the desk's events is stored always, and whole.
RECORDS = {**BY_NAME, desk.POSITION.name: desk.POSITION, desk.PNL.name: desk.PNL}


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """When rows are sent, what is kept, and how much of the disk may stand in while ClickHouse is away."""

    # Rows wait at most so long before they are sent. What an insert costs the engine hardly depends on what it brings,
    # its part is merged later, and each stream asks for one every so often.
    flush_interval_ms: Milliseconds = 2000
    batch_rows: Annotated[int, Meta(ge=1, le=1_000_000)] = 200_000  # and at most so many are sent in one insert
    desk_batch_rows: Annotated[int, Meta(ge=1, le=100_000)] = 5_000  # the same of a topic's events
    sample_interval_ms: Milliseconds = 1000  # of sampled records: the latest value of each changed key
    store: dict[str, StoreName] = {}  # record type -> what is stored, over the record's own default
    # Record type (or `kline.1m`), or table of the desk (`fills`) -> days, over the default; 0 = for ever.
    retention_days: dict[str, Days] = {}
    insert_timeout_s: Seconds = 5.0  # without an answer for so long, ClickHouse counts as away
    retry_delay_s: Seconds = 0.1  # first pause between attempts to reach it; doubles up to the next
    retry_delay_max_s: Seconds = 2.0
    spool_max_bytes: Annotated[int, Meta(ge=1 << 20)] = 4 << 30  # at this bound the oldest market data yields
    desk_spool_max_bytes: Annotated[int, Meta(ge=1 << 20)] = 1 << 30  # of the desk's events; at it their topics wait
    refused_max_bytes: Annotated[int, Meta(ge=0)] = (
        64 << 20
    )  # of blocks that ClickHouse does not take, kept for a person
    # At a stop: what is not sent by then stays in the rings and the spool. Never more than the writer's share of the
    # daemon's drain allows, which is half of supervisor.drain_timeout_s.
    drain_timeout_s: Seconds = 4.5
    # Databases in which the tables also appear under MarketPrism's names -> days they show, 0 = all; for instance
    # marketprism_hot = 3 and marketprism_cold = 0. A view that was once made stays when it is taken out here.
    views: dict[str, Days] = {}
    engine: str = "MergeTree"  # of new tables; on a cluster for instance ReplicatedMergeTree
    clickhouse: Server = Server()
    # set by the plan: as the topics have them
    default_account: str = DEFAULT_ACCOUNT
    default_strategy: str = DEFAULT_STRATEGY

    def __post_init__(self) -> None:
        whole = {name.partition(".")[0] if name.partition(".")[0] in RETENTION_SPLITS else name
                 for name in self.retention_days}  # fmt: skip
        for key in self.store:
            if key not in RECORDS:
                raise ValueError(f"no record type {key!r}; there are {', '.join(RECORDS)}")
        for key in whole:
            if key not in RECORDS and key not in DESK_TABLES:
                raise ValueError(f"no record type or table {key!r}; there are {', '.join((*RECORDS, *DESK_TABLES))}")
        if self.clickhouse.database in self.views:
            raise ValueError(
                f"views.{self.clickhouse.database}: the tables themselves are there, name another database"
            )
        for name, choice in self.store.items():
            if choice == "all" and not RECORDS[name].ring:
                raise ValueError(f"store.{name}: only its latest values are kept in memory: expected sampled or off")

    def store_of(self, record: RecordType) -> Store:
        """What of a record type goes to ClickHouse."""
        return Store(self.store.get(record.name, record.store))
