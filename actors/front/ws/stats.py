"""Numbers about the connections, over all workers."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....ringbuf import read_pages
from ..endpoints import Answerer, Arguments, Endpoint
from ..envelope import encode, members
from ..stamps import rfc3339
from .engine import Engine
from .wire import Encoding

if TYPE_CHECKING:
    from .server import WsServer

CHANNELS, CONNECTIONS, SPOKEN = "channels", "connections", "spoken"  # what workers ask one another
_TOTALS = {
    "total_connections": "tickring_ws_accepted_total",
    "messages_sent": "tickring_ws_messages_sent_total",
    "messages_received": "tickring_ws_messages_received_total",
    "connection_errors": "tickring_ws_failures_total",
    "dropped_frames": "tickring_ws_dropped_frames_total",
    "gaps_sent": "tickring_ws_gaps_total",
    "snapshots_sent": "tickring_ws_snapshots_total",
    "slow_closes": "tickring_ws_slow_closes_total",
    "bytes_sent": "tickring_ws_bytes_sent_total",
}


def answer(engine: Engine, question: str) -> Any:
    """What this worker says of itself: subscribers by channel, or its connections."""
    if question == CHANNELS:
        return {name: len(topic.members) for name, topic in engine.topics.items()}
    if question == SPOKEN:
        connections = engine.connections.values()
        encodings = Counter("msgpack" if one.encoding is Encoding.MSGPACK else "json" for one in connections)
        return {"dialects": Counter(one.dialect for one in connections), "encodings": encodings}
    if question == CONNECTIONS:
        return [connection.describe() for connection in engine.connections.values()]
    return None


def page_totals(folder: Path) -> dict[str, int]:
    """Counters of all workers, from their metrics pages: at most a heartbeat old.

    Each worker counts from its own start, so what one counted before it was started again is not in them: they may be
    of a shorter time than `uptime_seconds` says.
    """
    totals: Counter[str] = Counter()
    for page in read_pages(folder):
        for sample in page.samples:
            if sample.name.startswith("tickring_ws_") and sample.kind == "counter":
                totals[sample.name] += int(sample.values[0])
    return {member: totals[metric] for member, metric in _TOTALS.items()}


async def stats(server: WsServer) -> dict[str, Any]:
    """Totals and subscribers; a worker that did not answer is named, and its subscribers are missing.

    `start_time` and `uptime_seconds` are the daemon's; the totals are `page_totals`.
    """
    server.ctx.beat()  # the own page too shows the counters as they are now
    answers, unanswered = await server.neighbours.ask(CHANNELS)
    channels: Counter[str] = Counter()
    for subscribers in answers.values():
        channels.update(subscribers)
    spoken = {"dialects": Counter[str](), "encodings": Counter[str]()}
    for said in (await server.neighbours.ask(SPOKEN))[0].values():
        for what, counts in spoken.items():
            counts.update(said[what])
    kinds: Counter[str] = Counter()
    for name, subscribers in channels.items():
        kinds[name.partition(".")[0]] += subscribers
    started_ns = server.started_ns()
    return {
        **page_totals(server.ctx.folder),
        "active_connections": server.roster.total(),
        "start_time": rfc3339(started_ns),
        "uptime_seconds": round(max(0, time.time_ns() - started_ns) / 1e9, 3),
        "subscription_stats": dict(sorted(kinds.items())),
        "channels": dict(sorted(channels.items())),
        **{what: dict(sorted(counts.items())) for what, counts in spoken.items()},
        "workers": list(answers), "unanswered": unanswered,
    }  # fmt: skip


async def connections(server: WsServer) -> dict[str, Any]:
    """Every connection of every worker that answered."""
    answers, unanswered = await server.neighbours.ask(CONNECTIONS)
    rows = [{**row, "worker": worker} for worker, mine in answers.items() for row in mine]
    return {
        "connections": rows, "total_count": len(rows), "timestamp": rfc3339(time.time_ns()),
        "workers": list(answers), "unanswered": unanswered,
    }  # fmt: skip


def websocket_endpoints(server: WsServer) -> list[Endpoint]:
    """The same in the envelope. Here `total_connections` are those that are open."""

    async def answer_now() -> bytes:
        totals, listed = await stats(server), await connections(server)
        details = [
            {
                "connection_id": row["connection_id"], "user_id": row["user_id"], "channels": row["subscriptions"],
                "connected_at": row["connect_time"], "last_heartbeat": row["last_ping"],
            }
            for row in listed["connections"]
        ]  # fmt: skip
        accepted = totals["total_connections"]
        return members(encode({
            **totals, "total_connections": len(details), "accepted_connections": accepted,
            "connection_details": details,
        }))  # fmt: skip

    def prepare(_: Arguments) -> Answerer:
        return answer_now

    summary = "WebSocket connections, channels and counters over all workers"
    return [Endpoint("/api/v1/websocket/stats", prepare, summary, data={"type": "object"}, tag="operation", errors=())]
