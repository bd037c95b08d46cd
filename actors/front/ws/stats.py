"""Numbers about the connections: totals over all workers from their metrics pages, lists from this one."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from ....ringbuf import read_pages
from ...runtime import ActorContext
from ..stamps import rfc3339
from .engine import Engine

_TOTALS = {
    "total_connections": "tickring_ws_connections_total",
    "active_connections": "tickring_ws_connections",
    "messages_sent": "tickring_ws_messages_sent_total",
    "messages_received": "tickring_ws_messages_received_total",
    "connection_errors": "tickring_ws_failures_total",
    "dropped_frames": "tickring_ws_dropped_frames_total",
    "gaps_sent": "tickring_ws_gaps_total",
    "snapshots_sent": "tickring_ws_snapshots_total",
    "slow_closes": "tickring_ws_slow_closes_total",
    "bytes_sent": "tickring_ws_bytes_sent_total",
}


def stats_body(engine: Engine, ctx: ActorContext, started_ns: int) -> dict[str, Any]:
    """Totals over all front workers; `channels` counts the subscribers of this worker, which is named."""
    engine.show()
    ctx.beat()  # the own page too shows the counters as they are now
    totals: Counter[str] = Counter()
    subscribers: Counter[str] = Counter()
    for page in read_pages(ctx.folder):
        for sample in page.samples:
            if sample.name == "tickring_ws_subscriptions":
                subscribers[sample.labels["channel"]] += int(sample.values[0])
            elif sample.name.startswith("tickring_ws_") and sample.kind != "histogram":
                totals[sample.name] += int(sample.values[0])
    return {
        **{member: totals[metric] for member, metric in _TOTALS.items()},
        "start_time": rfc3339(started_ns),
        "uptime_seconds": round((time.time_ns() - started_ns) / 1e9, 3),
        "subscription_stats": dict(subscribers),
        "channels": {name: len(topic.members) for name, topic in sorted(engine.topics.items())},
        "worker": ctx.name,
    }


def connections_body(engine: Engine, ctx: ActorContext) -> dict[str, Any]:
    """The connections of this worker, which is named."""
    rows = []
    for connection in engine.connections.values():
        row = connection.describe()
        row["connect_time"], row["last_ping"] = rfc3339(row["connect_time"]), rfc3339(row["last_ping"])
        rows.append(row)
    return {"connections": rows, "total_count": len(rows), "timestamp": rfc3339(time.time_ns()), "worker": ctx.name}
