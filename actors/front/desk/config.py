"""Settings of the desk's side of the front."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Seconds = Annotated[float, Meta(gt=0, le=3600)]
Limit = Annotated[float, Meta(gt=0)]


class Limits(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the risk endpoints measure an account against. Amounts in quote currency."""

    max_positions: Annotated[int, Meta(gt=0)] = 3
    max_position_size: Limit = 1000.0
    daily_loss_limit: Limit = 500.0
    max_drawdown_limit: Limit = 5.0  # percent
    var_1d_limit: Limit = 100.0
    total_exposure_limit: Limit = 5000.0
    sharpe_ratio_limit: float = 1.0  # below it is a warning


class DeskConfig(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """`[front.desk]`"""

    limits: Limits = Limits()
    cache_keep_s: Seconds = 10.0  # answers of ClickHouse are asked for anew after so long, behind those who ask
    cache_redis: str = ""  # redis://host:port/db: a second layer that several machines share
    totals_keep_s: Seconds = 30.0  # totals of pages, brought up to date by what came since
