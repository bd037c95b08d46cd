"""What the tree does: its processes, exchanges, streams and counters, in the documented shapes."""

from __future__ import annotations

import time
from typing import Any

from .exposition import published_of, reader_lines
from .stamps import NS, rfc3339
from .state import FrontState
from .tree import Actor

SERVICE = "tickring"
FEATURES = (
    "trades", "quote", "orderbook", "ticker", "candles", "funding", "open_interest", "liquidation", "history",
    "websocket", "metrics",
)  # fmt: skip


def describe(state: FrontState, told: str, detailed: bool) -> dict[str, Any]:
    """The tree in the documented shape, and each process and stream."""
    now_ns = time.time_ns()
    root, actors = state.tree.root(), state.tree.actors()
    started_ns = state.tree.started_ns() or state.started_ns
    totals = totals_of(state)
    feeds = [actor for actor in actors if actor.kind in ("feed", "topic")]
    running = bool(feeds) and any(actor.state == "running" for actor in feeds)
    exchanges = exchanges_of(state, actors)
    word = "running" if running else "initializing"
    return {
        "service": SERVICE, "running": running, "state": word, "status": word,
        "start_time": rfc3339(started_ns), "version": told,
        "uptime_seconds": round(max(0, now_ns - started_ns) / NS, 3),
        "environment": state.folder_name, "features": FEATURES, "supported_exchanges": sorted(exchanges),
        "collector_metrics": totals, "collection_stats": totals, "exchanges": exchanges,
        "worker": state.ctx.name, "history": {"status": state.history.status, "error": state.history.error or None},
        "supervisor": None if root is None else {**root.to_dict(now_ns), "detail": {}},
        "actors": [actor.to_dict(now_ns) for actor in actors], "streams": _streams(state, detailed),
    }  # fmt: skip


def totals_of(state: FrontState) -> dict[str, int]:
    processed = errors = 0
    for page in state.tree.pages():
        for sample in page.samples:
            if sample.name == "tickring_feed_frames_total":
                processed += int(sample.values[0])
            elif sample.name == "tickring_feed_rejected_total":
                errors += int(sample.values[0])
    published = sum(published_of(reader) for reader in state.catalog.all_streams())
    return {"messages_processed": processed, "messages_published": published, "errors_count": errors}


def exchanges_of(state: FrontState, actors: list[Actor]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    pages = {page.actor: page for page in state.tree.pages()}
    for reader in state.catalog.all_streams():
        for key in list(reader.keys)[:1]:
            exchange = key.attributes.get("exchange", "")
            one = found.setdefault(exchange, {"connected": False, "messages_count": 0, "errors_count": 0, "feeds": []})
            if reader.producer not in one["feeds"]:
                one["feeds"].append(reader.producer)
    for one in found.values():
        for actor in actors:
            if actor.name not in one["feeds"] or actor.name not in pages:
                continue
            values: dict[str, float] = {}
            for sample in pages[actor.name].samples:
                values[sample.name] = values.get(sample.name, 0.0) + sample.values[0]
            connected = values.get("tickring_feed_connected", 1.0) > 0
            one["connected"] = one["connected"] or (actor.state == "running" and connected)
            one["messages_count"] += int(values.get("tickring_feed_frames_total", 0))
            one["errors_count"] += int(values.get("tickring_feed_rejected_total", 0))
    return found


def _streams(state: FrontState, detailed: bool) -> list[dict[str, Any]]:
    return [
        {
            "producer": reader.producer, "record": reader.record, "published": published_of(reader),
            "capacity": reader.capacity, "tail": reader.spec.tail, "keys": len(reader.keys),
            "epoch_ns": str(reader.epoch), "live_since": rfc3339(reader.live_since_ns),
            "producer_pid": reader.producer_pid,
            **({"readers": reader_lines(reader)} if detailed else {}),
        }
        for reader in state.catalog.all_streams()
    ]  # fmt: skip
