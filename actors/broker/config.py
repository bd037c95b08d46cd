"""Settings of the embedded broker."""

from __future__ import annotations

import msgspec

from ...storage.client import Server


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All of it is set by the plan: the table `[kafka]` with `bootstrap_servers = "embedded"` runs the broker."""

    topics: list[str] = []  # made before anybody asks for them
    clickhouse: Server | None = None  # where the topics' positions are looked for after shared memory was wiped
