"""Fills that are in no ring any more: their events are asked for in ClickHouse, a page at a time, while life goes on.

The raw events are sorted by topic, partition and offset, and the decoder makes of them exactly what their topic made of
them, so a fill is the same by either way. Order does not matter to a position, but a fill behind later ones folds these
anew: so the partitions are read side by side, in the order of the broker's times. Until all is there positions lack it,
which their flag PARTIAL says.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...codecs.desk.decoder import EXECUTION_REPORTS
from ...codecs.desk.executions import Executions, fill_of
from ...codecs.desk.reading import Defaults
from ...codecs.errors import Undecidable
from ...codecs.record import Flag
from ...storage.client import Client
from ...storage.errors import StorageError
from ...storage.offsets import RAW_TABLE, stored_offsets, table_ends
from ...storage.schema import qualified
from .book import Telling
from .config import Config
from .tellings import FillRing, telling

log = logging.getLogger(__name__)

PAGE_ROWS, PAGE_ROWS_MIN = 5_000, 200  # of all partitions together, and of one
PAGE_TIMEOUT_S = 60.0
RETRY_S, RETRY_MAX_S = 0.25, 5.0
QUERY = (
    "SELECT offset, toUnixTimestamp64Milli(timestamp), base64Encode(value) FROM {table} "
    "WHERE topic = {{topic:String}} AND partition = {{partition:UInt16}} AND offset >= {{offset:Int64}} "
    f"AND offset < {{{{end:Int64}}}} AND bitAnd(flags, {int(Flag.DEAD)}) = 0 ORDER BY offset LIMIT {{{{limit:UInt32}}}}"
)


@dataclass
class _Part:
    """What is being read of one partition."""

    partition: int
    first: int  # where its hole begins
    offset: int  # what is asked for next
    stop: int
    open: bool  # where its hole ends is not known
    rows: deque[tuple[int, int, int, bytes]] = field(
        default_factory=deque
    )  # highest stamp so far, offset, stamp, value

    @property
    def whole(self) -> bool:
        """Whether all of it was asked for."""
        return self.offset >= self.stop


class Past:
    """Fills the holes of the rings.

    Args:
        data: the instance's folder on disk.
        rings: those that are followed now.
        apply: folds tellings.

    Attributes:
        answers: whether ClickHouse answered when it was last asked; it is asked at least once.
    """

    def __init__(
        self,
        config: Config,
        client: Client,
        data: Path,
        rings: Callable[[], Sequence[FillRing]],
        apply: Callable[[Sequence[Telling]], None],
    ) -> None:
        self.client, self.data, self.rings, self.apply = client, data, rings, apply
        defaults = Defaults(account=config.default_account, strategy=config.default_strategy)
        self._decode = Executions(EXECUTION_REPORTS, defaults).live
        self.answers = False
        self.failures = 0  # requests without an answer
        self.events = 0
        self._asked: set[tuple[int, int]] = set()  # epoch and partition of holes of unknown end: all stored was read

    def open(self) -> int:
        """Holes that are not filled yet as far as it is known that there is something in them."""
        return sum(
            (ring.reader.epoch, partition) not in self._asked or last is not None
            for ring in self.rings()
            for partition, (_, last) in ring.holes.items()
        ) + sum(not ring.searched for ring in self.rings())

    async def run(self) -> None:
        """Until cancelled."""
        pause, failing = RETRY_S, False
        while True:
            waits = self.open()
            if waits or (not self.answers and self.rings()):
                before = self.events
                try:
                    for ring in self.rings():
                        waits -= await self._fill(ring)
                    pause = RETRY_S if waits <= 0 or self.events > before else min(2 * pause, RETRY_MAX_S)
                    self.answers, failing = True, False
                except StorageError as error:
                    self.answers = False
                    self.failures += 1
                    pause = min(2 * pause, RETRY_MAX_S)
                    if waits and not failing:
                        log.warning("past fills wait for ClickHouse: %s", error)
                        failing = True
            await asyncio.sleep(pause if waits or not self.answers else RETRY_MAX_S / 10)

    async def _fill(self, ring: FillRing) -> int:
        """Fill the holes of one ring; returns how many are done with."""
        if ring.uncertain:  # of rings before this one, all must be in the table before it is asked for the end
            ends = await stored_offsets(self.client, self.data, ring.topic, ring.reader.epoch)
        else:
            ends = await table_ends(self.client, RAW_TABLE, ring.topic)
        done = 0
        if not ring.searched and self._followed(ring):
            ring.searched = True
            done += 1
            ring.store.begin()
            for partition in ends.keys() - ring.seen.keys() - ring.holes.keys():
                ring.add_hole(partition, 0, None)
        parts = []
        for partition, (first, last) in ring.holes.items():
            end = ends.get(partition, 0)
            stop = end if last is None else min(end, last + 1)
            if last is not None or (ring.reader.epoch, partition) not in self._asked:
                parts.append(_Part(partition, first, first, max(first, stop), last is None))
        return done + await self._read(ring, parts)

    def _followed(self, ring: FillRing) -> bool:
        """Whether the ring is still there: another one in its place has holes of its own."""
        return ring in self.rings()

    async def _read(self, ring: FillRing, parts: list[_Part]) -> int:
        """Fold what is stored of some holes; returns how many are done with."""
        done, before = 0, self.events
        while parts:
            await self._fetch(parts)
            if not self._followed(ring):
                break
            known = min((part.rows[-1][0] for part in parts if part.rows and not part.whole), default=math.inf)
            taken = []
            for part in parts:
                while part.rows and part.rows[0][0] <= known:
                    taken.append((part.partition, *part.rows.popleft()))
            found = [one for partition, _, *event in taken for one in self._tellings(partition, *event)]
            self.apply(sorted(found, key=lambda one: one.execution.order))
            self.events += len(taken)
            ring.store.begin()
            for part in list(parts):
                reached = part.rows[0][1] if part.rows else part.offset
                if reached > part.first and not ring.filled(part.partition, part.first, reached):
                    parts.remove(part)  # it reaches further back by now: next time
                elif part.whole and not part.rows:
                    parts.remove(part)
                    done += self._end(ring, part)
                else:
                    part.first = ring.holes[part.partition][0]
            await asyncio.sleep(0)
        if self.events > before:
            log.info("topic=%s past events=%d folded", ring.topic, self.events - before)
        return done

    async def _fetch(self, parts: list[_Part]) -> None:
        """The next events of those partitions of which there are none at hand."""
        limit = max(PAGE_ROWS_MIN, PAGE_ROWS // len(parts))
        for part in parts:
            if not part.rows and not part.whole:
                rows = await self._page(part.partition, part.offset, part.stop, limit)
                part.offset = rows[-1][0] + 1 if len(rows) == limit else part.stop
                latest = 0
                for offset, stamp, value in rows:
                    latest = max(latest, stamp)
                    part.rows.append((latest, offset, stamp, value))

    def _end(self, ring: FillRing, part: _Part) -> bool:
        """All that is stored of a hole was folded; returns whether it is done with."""
        place = (ring.reader.epoch, part.partition)
        hole = ring.holes.get(part.partition)
        if hole is None:
            self._asked.discard(place)
        elif part.open and hole[1] is None:
            self._asked.add(place)
            ring.saw(part.partition, part.stop - 1)
        else:
            return False  # the writer has not stored it all yet
        return True

    async def _page(self, partition: int, offset: int, stop: int, limit: int) -> list[tuple[int, int, bytes]]:
        """Offset, the broker's UNIX ms and bytes of the next events."""
        answer = await self.client.fetch(
            QUERY.format(table=qualified(self.client.server.database, RAW_TABLE)),
            {"topic": EXECUTION_REPORTS, "partition": partition, "offset": offset, "end": stop, "limit": limit},
            fmt="TabSeparated", timeout_s=PAGE_TIMEOUT_S,
        )  # fmt: skip
        rows = (line.split(b"\t") for line in answer.splitlines())
        return [(int(at), int(stamp), base64.b64decode(value)) for at, stamp, value in rows]

    def _tellings(self, partition: int, offset: int, stamp: int, value: bytes) -> list[Telling]:
        try:
            _, _, variant, _, fills = self._decode(value, partition, offset, stamp)
        except Undecidable:
            return []  # a dead letter
        return [telling(fill_of(row), variant) for row in fills]
