"""Settings of the embedded engine's actor."""

from __future__ import annotations

import msgspec


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The embedded engine. All sizes are limits; nothing is allocated ahead."""

    host: str = "127.0.0.1"
    port: int = 8123  # 0: any free one
    folder: str = "clickhouse"  # of the store, in the instance's data folder unless absolute
    query_threads: int = 8  # queries that run at once; further ones wait
    queue_max: int = 256  # requests that wait, for each lane; further ones get 202
    body_max_mb: int = 256  # of one request, compressed and decompressed
    bodies_max_mb: int = 1024  # of all requests at once
    query_memory_max_mb: int = 1024  # of one query, its result included (max_memory_usage)
    memory_max_mb: int = 4096  # of the whole engine
    cache_mb: int = 64  # of each cache
    background_threads: int = 2  # for merges
    drain_s: float = 5.0  # for running queries when the actor stops
