"""The actor of one topic: attach the rings, then follow Kafka until the stop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
from typing import Any

from ..runtime import BEAT_INTERVAL_S, ActorContext
from .config import Config
from .decoding import make_decode
from .metrics import Progress, TopicMetrics
from .rings import TopicRings

log = logging.getLogger(__name__)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 32 << 20  # the most that glibc takes for the second
UNCLOSED = "Unclosed AIOKafka"  # the library lets go of a connection whose start failed, and closes it itself then


def _not_ours(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tell of what nobody awaited, as the loop does, but not of what the library mends itself."""
    if str(context.get("message", "")).startswith(UNCLOSED):
        log.debug("%s", context["message"])
    else:
        loop.default_exception_handler(context)


def _keep_memory() -> None:
    """Let glibc use again what answers of the broker lay in: given back to the kernel, it costs page faults anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


async def main(ctx: ActorContext) -> None:
    """Follow the topic until the stop. Whatever the broker does, the actor does not end.

    Raises:
        RingError: the streams are not as configured.
    """
    from .link import Link  # aiokafka is optional

    config: Config = ctx.config
    decode = make_decode(config.topic, config.default_account, config.default_strategy)
    rings = TopicRings(ctx, decode)
    progress, metrics = Progress(last_event_ns=rings.newest_ns), TopicMetrics(ctx.page, config.topic)
    log.info("topic=%s actor=%s resume=%s ids=%d", config.topic, ctx.name, rings.resume, len(rings.repeats))
    _keep_memory()
    gc.collect()
    gc.freeze()  # what lives from here on lives as long as the process
    gc.disable()  # nothing of an event is in a cycle, and looking for one cost a fifth of the time; `Link` does it
    asyncio.get_running_loop().set_exception_handler(_not_ours)
    link = Link(ctx, rings, progress)
    running = asyncio.create_task(link.run(), name=config.topic)
    ctx.running()
    try:
        while not running.done():
            metrics.update(rings, progress)
            ctx.beat()
            await asyncio.wait([running], timeout=BEAT_INTERVAL_S)
        running.result()
    finally:
        metrics.update(rings, progress)
        ctx.beat()
        rings.close()
