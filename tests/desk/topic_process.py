"""A topic's actor as a process: what runs in it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from tickring.actors import topic as actor
from tickring.actors.runtime import ActorContext
from tickring.actors.topic import link  # noqa: F401 - imported once, before the processes are forked
from tickring.ringbuf import MetricsPage


def run_actor(name: str, shm: str, data: str, settings: dict[str, Any]) -> None:
    """In the actor's process."""
    logging.basicConfig(filename=f"{data}/{name}.log", level=logging.INFO)

    async def work() -> None:
        page = MetricsPage(Path(shm), name, time.time_ns())
        config = msgspec.convert(settings, actor.Config)
        ctx = ActorContext(name, "topic", Path(shm), Path(data), config, page)
        ctx.stop_on_signals()
        await actor.main(ctx)

    uvloop.run(work())
