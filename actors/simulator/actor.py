"""The simulator as an actor of the tree."""

from __future__ import annotations

import logging

from ..runtime import BEAT_INTERVAL_S, ActorContext
from .simulator import Simulator

logger = logging.getLogger(__name__)


async def main(ctx: ActorContext) -> None:
    """Run until the context says stop. The source lives in this event loop: a beat means that it can run."""
    simulator = Simulator(ctx.config)
    await simulator.start()
    logger.info("simulator=%s source=%s urls=%s", ctx.name, ctx.config.source, simulator.urls)
    frames, connections, sent = {}, {}, {}
    for product in simulator.hubs:
        frames[product] = ctx.page.counter(
            "tickring_simulator_frames_total", "Stream messages sent to at least one subscriber.", product=product
        )
        connections[product] = ctx.page.gauge(
            "tickring_simulator_connections", "Open client connections.", product=product
        )
        sent[product] = 0
    ctx.running()
    try:
        while not ctx.stopping.is_set():
            simulator.check()
            for product, hub in simulator.hubs.items():
                total = sum(stream.frames for stream in hub.streams.values())
                frames[product].inc(total - sent[product])
                sent[product] = total
                connections[product].set(len(simulator.servers[product].connections))
            source = simulator.source
            ctx.page.detail = {"urls": simulator.urls, "started": source.started, "finished": source.finished}
            ctx.beat()
            await ctx.stopped_within(BEAT_INTERVAL_S)
    finally:
        await simulator.stop()
