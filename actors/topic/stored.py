"""How far a topic is stored, where shared memory does not tell: at a first start, after a reboot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ...storage.client import Client
from ...storage.errors import StorageError
from ...storage.offsets import stored_offsets
from ..runtime import ActorContext

RETRY_S = 0.5


async def stored_positions(ctx: ActorContext, topic: str, say: Callable[[str], None]) -> dict[int, int]:
    """Partition -> offset of the next event; a partition with nothing stored is not named.

    Waits for ClickHouse as long as it takes, and for what the writer has spooled to be there: to begin without its
    answer would store events a second time.

    Args:
        say: told what is being waited for, whenever that changes.
    """
    server = ctx.config.clickhouse
    if server is None:
        return {}
    client, said = Client(server, ctx.folder, ctx.data), ""
    try:
        while True:
            try:
                return await stored_offsets(client, ctx.data, topic)
            except StorageError as error:
                if str(error) != said:
                    said = str(error)
                    say(said)
            await asyncio.sleep(RETRY_S)
    finally:
        await client.close()
