"""Fills that are in no ring any more: their events are asked for in ClickHouse, a page at a time, while life goes on.

The raw events are sorted by topic, partition and offset, and the decoder makes of them exactly what their topic made of
them, so a fill is the same by either way. Order does not matter to a position: what is new is folded at once, and the
past when ClickHouse answers. Until then positions lack it, which their flag PARTIAL says.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Sequence

from ...codecs.desk.decoder import EXECUTION_REPORTS
from ...codecs.desk.executions import Executions
from ...codecs.desk.reading import Defaults
from ...codecs.errors import Undecidable
from ...codecs.record import Flag
from ...storage.client import Client
from ...storage.errors import StorageError
from ...storage.offsets import RAW_TABLE, Ends, table_ends
from ...storage.schema import qualified
from .book import Telling
from .config import Config
from .tellings import FillRing, telling

log = logging.getLogger(__name__)

PAGE_ROWS = 5_000
PAGE_TIMEOUT_S = 60.0
RETRY_S, RETRY_MAX_S = 0.25, 5.0
QUERY = (
    "SELECT offset, toUnixTimestamp64Milli(timestamp), base64Encode(value) FROM {table} "
    "WHERE topic = {{topic:String}} AND partition = {{partition:UInt16}} AND offset >= {{offset:Int64}} "
    f"AND offset < {{{{end:Int64}}}} AND bitAnd(flags, {int(Flag.DEAD)}) = 0 ORDER BY offset LIMIT {PAGE_ROWS}"
)


class Past:
    """Fills the holes of the rings.

    Args:
        rings: those that are followed now.
        apply: folds tellings.
    """

    def __init__(
        self,
        config: Config,
        client: Client,
        rings: Callable[[], Sequence[FillRing]],
        apply: Callable[[Sequence[Telling]], None],
    ) -> None:
        self.client, self.rings, self.apply = client, rings, apply
        defaults = Defaults(account=config.default_account, strategy=config.default_strategy)
        self._decode = Executions(EXECUTION_REPORTS, defaults).live
        self.failures = 0  # requests without an answer
        self.events = 0
        self._asked: set[tuple[str, int]] = set()  # holes of unknown end of which all that is stored was read

    def open(self) -> int:
        """Holes that are not filled yet as far as it is known that there is something in them."""
        return sum(
            (ring.topic, partition) not in self._asked or last is not None
            for ring in self.rings()
            for partition, (_, last) in ring.holes.items()
        ) + sum(not ring.searched for ring in self.rings())

    async def run(self) -> None:
        """Until cancelled."""
        pause, failing = RETRY_S, False
        while True:
            waits = self.open()
            if waits:
                try:
                    for ring in self.rings():
                        waits -= await self._fill(ring)
                    pause = RETRY_S if waits <= 0 else min(2 * pause, RETRY_MAX_S)
                    failing = False
                except StorageError as error:
                    self.failures += 1
                    pause = min(2 * pause, RETRY_MAX_S)
                    if not failing:
                        log.warning("past fills wait for ClickHouse: %s", error)
                    failing = True
            await asyncio.sleep(pause if waits else RETRY_MAX_S / 10)

    async def _fill(self, ring: FillRing) -> int:
        """Fill the holes of one ring; returns how many are done with."""
        ends = await table_ends(self.client, RAW_TABLE, ring.topic)
        done = 0
        if not ring.searched:
            ring.searched = True
            done += 1
            ring.store.begin()
            for partition in ends.keys() - ring.seen.keys() - ring.holes.keys():
                ring.add_hole(partition, 0, None)
        for partition in list(ring.holes):
            done += await self._fill_partition(ring, partition, ends)
        return done

    async def _fill_partition(self, ring: FillRing, partition: int, ends: Ends) -> bool:
        first, last = ring.holes[partition]
        place = (ring.topic, partition)
        end = ends.get(partition, 0)
        if last is not None and last >= end:
            return False  # the writer has not stored it yet
        if last is None and place in self._asked:
            return False
        stop = end if last is None else last + 1
        offset = first
        while offset < stop:
            rows = await self._page(partition, offset, stop)
            self.apply([one for at, stamp, value in rows for one in self._tellings(partition, at, stamp, value)])
            self.events += len(rows)
            if len(rows) < PAGE_ROWS:
                break
            offset = rows[-1][0] + 1
            ring.store.begin()
            ring.store.put_hole(ring.topic, partition, offset, ring.holes[partition][1])
        ring.store.begin()
        if ring.holes[partition] != (first, last):  # more of it is known since: next time
            return False
        if last is None:
            self._asked.add(place)
            ring.saw(partition, end - 1)
            ring.holes[partition] = max(first, end - 1), None
            ring.store.put_hole(ring.topic, partition, *ring.holes[partition])
        else:
            self._asked.discard(place)
            del ring.holes[partition]
            ring.store.drop_hole(ring.topic, partition)
        log.info("topic=%s partition=%d past fills folded from=%d to=%d", ring.topic, partition, first, stop)
        return True

    async def _page(self, partition: int, offset: int, stop: int) -> list[tuple[int, int, bytes]]:
        """Offset, the broker's UNIX ms and bytes of the next events."""
        answer = await self.client.fetch(
            QUERY.format(table=qualified(self.client.server.database, RAW_TABLE)),
            {"topic": EXECUTION_REPORTS, "partition": partition, "offset": offset, "end": stop},
            fmt="TabSeparated", timeout_s=PAGE_TIMEOUT_S,
        )  # fmt: skip
        rows = (line.split(b"\t") for line in answer.splitlines())
        return [(int(at), int(stamp), base64.b64decode(value)) for at, stamp, value in rows]

    def _tellings(self, partition: int, offset: int, stamp: int, value: bytes) -> list[Telling]:
        try:
            _, _, variant, _, fills = self._decode(value, partition, offset, stamp)
        except Undecidable:
            return []  # a dead letter
        return [telling(fill, variant) for fill in fills]
