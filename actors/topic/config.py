"""Settings of the topics: the table `[kafka]`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ...codecs.desk.canonical import DEFAULT_ACCOUNT, DEFAULT_STRATEGY, TOPICS
from ...storage.client import Server
from .brokers import Brokers

Topic = Literal[
    "exec.reports.v1", "risk.metrics.v1", "alerts.v1", "system.health.v1", "strategy.performance.v1",
    "trade.signals.v1", "position.updates.v1", "market.data.v1", "market.data.quality.v1",
]  # fmt: skip
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Capacity = Annotated[int, Meta(ge=4096, le=1 << 30)]  # a power of two
Mib = 1 << 20


class Config(Brokers, kw_only=True, forbid_unknown_fields=True):
    """Which topics are followed, how the brokers are reached, and how much of it is held in memory."""

    topics: list[Topic] = msgspec.field(default_factory=lambda: list(TOPICS))  # pyright: ignore[reportAssignmentType]
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"  # where a topic begins of which nothing is stored
    group_id: str = "tickring"  # under which offsets are committed, for lag tools only; "" = never
    default_account: str = DEFAULT_ACCOUNT  # of events that name none
    default_strategy: str = DEFAULT_STRATEGY
    event_capacity: Capacity = 1 << 16  # events of a topic in its ring
    live_capacity: Capacity = 1 << 16  # fills or statements of a topic in their ring
    # Bytes of a topic's texts. An event takes at most an eighth of it: keep it above 8 x the message.max.bytes.
    texts_capacity: Annotated[int, Meta(ge=Mib, le=1 << 36)] = 16 * Mib
    fill_texts_capacity: Annotated[int, Meta(ge=Mib, le=1 << 36)] = 64 * Mib  # the same of the execution reports
    accounts_max: Annotated[int, Meta(ge=1, le=65_536)] = 32  # further ones go under the account `*overflow*`
    repeats_kept: Annotated[int, Meta(ge=1000, le=10_000_000)] = 100_000  # event ids by which a topic knows a repeat
    # A dead durable reader of a live stream holds the topic up for so long at most; the `event` ring is never given up.
    detach_after_s: Seconds = 600.0
    retry_delay_s: Seconds = 0.2  # first pause between attempts to reach a broker; doubles up to the next
    retry_delay_max_s: Seconds = 10.0
    commit_interval_s: Seconds = 5.0
    # set by the plan
    topic: str = ""
    clickhouse: Server | None = (
        None  # None = nothing is stored anywhere but in the rings, and nobody waits for a writer
    )

    def __post_init__(self) -> None:
        sasl = self.security_protocol.startswith("SASL")
        if sasl and not (self.sasl_username and self.sasl_password_file):
            raise ValueError(f"security_protocol {self.security_protocol} needs sasl_username and sasl_password_file")
        if bool(self.ssl_cert_file) != bool(self.ssl_key_file):
            raise ValueError("ssl_cert_file and ssl_key_file belong together")
        for name in ("event_capacity", "live_capacity", "texts_capacity", "fill_texts_capacity"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(f"{name}: {value} is no power of two")


assert set(Topic.__args__) == set(TOPICS)  # pyright: ignore[reportAttributeAccessIssue]
