"""Settings of the keeper."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ...storage.client import Server

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Positive = Annotated[int, Meta(ge=1)]
EXCHANGE = "binance"  # whose REST it speaks
BARS_MAX = 1_000_000


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`[keeper]`. Where the exchange and ClickHouse are comes from the plan."""

    rest_urls: dict[str, str] = {}  # product -> base URL
    weight_limit: Positive | None = None  # of the feeds: per minute; None = as documented, then as published
    clickhouse: Server = Server()

    # bars on demand
    bars_max: Annotated[int, Meta(ge=1, le=BARS_MAX)] = 5000  # fetched for one request, at most
    fetches_at_once: Annotated[int, Meta(ge=1, le=32)] = 4  # requests to the exchange that are under way together
    work_max: Positive = 256  # ranges being fetched; further ones are refused
    weight_patience_s: Seconds = 90.0  # longer than a window of weight: only a ban lasts so long

    # temporary ranges
    temporary_bars_max: Annotated[int, Meta(ge=1, le=BARS_MAX)] = 100_000  # of one range
    temporary_ranges_max: Positive = 100  # at the same time
    temporary_ttl_max_minutes: Positive = 30 * 1440

    # settled funding rates
    funding: bool = True
    funding_history_days: Annotated[int, Meta(ge=0, le=3650)] = 365  # fetched where nothing is stored
    funding_delay_s: Seconds = 30.0  # how long after a payment its rate is asked for
    funding_look_s: Seconds = 300.0  # how often new perpetuals are looked for, and rates that were missing asked again

    retry_delay_s: Seconds = 5.0  # pause after ClickHouse or the exchange was away
    rest_timeout_s: Seconds = 10.0
