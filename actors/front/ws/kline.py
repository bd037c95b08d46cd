"""Bars: the open one at each change, and each closed one for certain.

Both are records of one stream, so a channel has one numbering: the last record of a bar says that it is closed. The
bars before it come from the stream of closed bars, which is also filled from the exchange's history.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....codecs.record import Flag
from ....codecs.records import KLINE
from .render import FLAGS, Members, Row
from .subscription import Subscription
from .topics import RecordTopic

_CLOSED, _VOID = int(Flag.CLOSED), np.uint32(Flag.VOID)
CORRECTIONS = 8  # further closed bars looked at: one that is replaced is written again behind the others


class KlineTopic(RecordTopic):
    """The bars of one instrument and interval."""

    @property
    def tells_gaps(self) -> bool:
        return True  # one of the records may have been a closed bar

    def newest_of(self, rows: list[Row]) -> list[Row]:
        return [row for row in rows[:-1] if row[FLAGS] & _CLOSED] + rows[-1:]

    def hand_out(
        self, rows: list[Row], now: float, held: Callable[[Subscription], None], conflated: bool, urgent: bool = False
    ) -> None:
        """A closed bar ends a frame, and goes out at once."""
        start = 0
        for stop, row in enumerate(rows, 1):
            closed = bool(row[FLAGS] & _CLOSED)
            if closed or stop == len(rows):
                super().hand_out(rows[start:stop], now, held, conflated, closed)
                start = stop

    def publish_lone(self, row: Row) -> bool:
        return not row[FLAGS] & _CLOSED and super().publish_lone(row)

    def state_members(self) -> list[Members]:
        """The bar of now and the closed ones before it; those have no `seq`: their numbers are of another stream."""
        newest = self.newest(1)
        members = [self.render(row) for row in newest]
        until = members[0]["open_ts"] if members else 1 << 62
        reader, wanted = self.companions[KLINE.name], self.channel.snapshot_rows - len(members)
        if reader is None:
            return members
        rows = reader.last(self.key_id, wanted + 1 + CORRECTIONS)
        rows = rows[(rows["open_ts"] < until) & ((rows["flags"] & _VOID) == 0)]
        bars = {int(row["open_ts"]): row for row in rows}  # the last one written of each stays
        closed = [self.render(bars[open_ts].item()) for open_ts in sorted(bars)[-wanted:]]
        for one in closed:
            del one["seq"]
        return closed + members
