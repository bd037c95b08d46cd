"""Configuration of one front worker."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ...storage.client import Server
from .desk.config import DeskConfig
from .ws.config import WsConfig

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Positive = Annotated[int, Meta(ge=1)]


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`[front]`: REST, WebSocket and the first page on one port, the same for all workers."""

    host: str = "127.0.0.1"  # other machines see the desk's data when this is not loopback
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    default_exchange: str = "binance"  # where a request names none

    metrics_aliases: bool = False  # /metrics also under the names of other collectors and dashboards

    # history
    history: bool = True  # False: memory only
    clickhouse: Server = Server()
    history_timeout_s: Seconds = 2.0  # a range that was asked for explicitly waits at most so long
    history_hint_timeout_s: Seconds = 0.05  # and one that was not, when memory holds fewer rows than asked for
    history_total_timeout_s: Seconds = 0.08  # a page waits at most so long for the total; the next one has it then
    history_total_keep_s: Seconds = 30.0  # and totals are kept so long, brought up to date by what came since
    aggregate_keep_s: Seconds = 10.0  # statistics over ranges are kept so long (X-Cache: HIT)
    aggregates_max: Positive = 1024
    history_probe_s: Seconds = 1.0  # so often ClickHouse is asked whether it is back; while it is away, nobody waits

    backfill_wait_s: Annotated[float, Meta(ge=0, le=60)] = 3.0  # for the keeper, where bars are missing; 0: never asked
    command_timeout_s: Seconds = 30.0  # how long a request waits for the supervisor to carry something out

    # limits
    rate_limit_calls: Positive = 10_000_000  # per client and window, counted in each worker
    rate_limit_period_s: Seconds = 60.0
    rate_limit_clients_max: Positive = 65_536
    request_line_bytes_max: Annotated[int, Meta(ge=256, le=65_536)] = 8190
    header_bytes_max: Annotated[int, Meta(ge=256, le=65_536)] = 8190
    headers_max: Annotated[int, Meta(ge=8, le=1024)] = 100
    body_bytes_max: Positive = 10 << 20
    first_request_s: Seconds = 10.0  # a connection that has sent no whole request within it is closed
    keepalive_s: Seconds = 75.0
    gzip_bytes_min: Annotated[int, Meta(ge=0)] = 1000  # bodies from this size are compressed for clients that ask
    prepared_calls_max: Positive = 4096  # parsed requests kept by their text
    row_caches_max: Positive = 2048  # keys whose newest rows are kept as text

    # health
    health_grace_s: Annotated[float, Meta(ge=0, le=86_400)] = 120.0  # after the start, health is not yet an error
    beat_stale_s: Seconds = 5.0  # an actor that has not beaten for so long is down
    fresh_trade_s: Seconds = 60.0  # market data younger than this is fresh
    fresh_book_s: Seconds = 60.0
    fresh_liquidation_s: Seconds = 3600.0
    fresh_other_s: Seconds = 28_800.0  # funding, open interest

    ws: WsConfig = WsConfig()
    desk: DeskConfig = DeskConfig()
