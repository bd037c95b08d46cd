"""Settings of the alerts."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ...storage.client import Server
from ..topic.brokers import Brokers
from .rules import Rule

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Slots = Annotated[int, Meta(ge=1024, le=1 << 22)]


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`[alerts]`: what is watched, and what becomes of it."""

    interval_s: Seconds = 2.0  # how often the rules are looked at
    rules: list[Rule] = []  # beside the built-in ones, or instead of that with the same rule_id
    disabled: list[str] = []  # built-in rules that are off
    # what comes back sooner is the same alert, open again; what was resolved by hand and still holds is raised again
    again_after_s: Seconds = 3600.0
    resolved_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000  # resolved alerts that are remembered
    active_max: Annotated[int, Meta(ge=1000, le=1_000_000)] = 20_000  # beyond it the oldest are resolved
    produce: bool = False  # our own alerts are also produced to alerts.v1
    capacity: Slots = 16_384  # slots of the alert ring
    texts_capacity: Annotated[int, Meta(ge=1 << 16, le=1 << 30)] = 1 << 24  # bytes of their texts
    accounts_max: Annotated[int, Meta(ge=1, le=4096)] = 64
    default_account: str = "default"
    kafka: Brokers | None = None  # set by [kafka]
    clickhouse: Server = Server()

    def __post_init__(self) -> None:
        for name in ("capacity", "texts_capacity"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(f"{name}: expected a power of two, {value} is none")
        seen: set[str] = set()
        for rule in self.rules:
            if rule.rule_id in seen:
                raise ValueError(f"rules: two have the rule_id {rule.rule_id!r}")
            seen.add(rule.rule_id)
