"""Limits and intervals of the WebSocket side. Part of the front's configuration."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 30)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class WsConfig(msgspec.Struct, kw_only=True, frozen=True):
    """What one connection may ask of a front worker, and when it is given up."""

    connections_max: Count = 2000  # of the whole instance; beyond it a connection is closed with 1008
    connections_per_address_max: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # the same for one address; 0 = no limit
    channels_max: Count = 512  # per connection
    inbound_bytes_max: Bytes = 64 << 10  # a larger inbound frame closes with 1009
    inbound_per_s: Count = 50
    frame_bytes_max: Bytes = 1 << 20  # of a state; a larger one goes out in several frames
    queue_frames_max: Count = 1000  # frames waiting for one connection; then its channels are conflated or cut
    queue_bytes_max: Bytes = 8 << 20
    unsent_bytes_max: Annotated[int, Meta(ge=0, le=1 << 30)] = 128 << 10  # in the kernel; 0 = whatever it takes
    slow_close_s: Seconds = 10.0  # a queue that stays full for so long closes with 4008
    rebuilds_max: Count = 5  # so many book snapshots for a slow reader within the window: 4008 too
    rebuilds_window_s: Seconds = 60.0
    errors_max: Count = 10  # so many error frames within the window close with 1008
    errors_window_s: Seconds = 60.0
    ping_s: Seconds = 20.0
    idle_timeout_s: Seconds = 90.0  # neither a frame nor a pong for so long closes with 4000
    dashboard_idle_timeout_s: Seconds = 60.0  # the same for clients of the dashboard dialect
    heartbeat_s: Seconds = 30.0
    auth_timeout_s: Seconds = 10.0
    close_grace_s: Seconds = 3.0  # for the closing handshake; then the socket is cut
    book_interval_ms: Annotated[int, Meta(ge=1, le=60_000)] = 100  # the least time between two frames of a book
    pnl_interval_s: Seconds = 5.0  # so often PnL is looked at for those who are subscribed to it
    positions_interval_s: Seconds = 10.0  # the same for positions
    compress_from_bytes: Annotated[int, Meta(ge=0, le=1 << 30)] = 1024  # smaller frames go as they are; 0 = no deflate
    # After a record the worker looks at its rings for so long without sleeping, so that the next one need not wake it.
    # It takes a CPU for each worker that has subscribers: for machines where they have CPUs of their own. 0 = never.
    spin_us: Annotated[int, Meta(ge=0, le=1_000_000)] = 0

    @classmethod
    def of(cls, front: object) -> WsConfig:
        """The limits that the front's configuration sets, as fields of the same names with the prefix ``ws_``."""
        if isinstance(front, cls):
            return front
        names = [name for name in cls.__struct_fields__ if hasattr(front, f"ws_{name}")]
        return cls(**{name: getattr(front, f"ws_{name}") for name in names})
