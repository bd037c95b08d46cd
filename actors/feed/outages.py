"""When no connection carried a feed's streams, into the ledger.

An outage begins with the last record before the connection ended, or before the process did: that one is read from the
rings, which outlive it. It ends once the exchange has taken every subscription of the next connection, for what is sent
from then on arrives. It is written down when it begins and when it ends, so that a process which dies in it leaves the
beginning to the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from ...ringbuf import StreamReader
from ..gaps import ALL, GapLedger, Outage, outages_path, read_outages

# Records that only a connection brings: bars and open interest also come from REST, and while there is none.
LIVE_RECORDS = ("trade", "quote", "book_level", "ticker", "mark_price", "liquidation")


class Outages:
    """The outages of one feed.

    Args:
        data: the data folder.
        readers: its own streams of `LIVE_RECORDS`.
        bytes_max: of the file.
    """

    def __init__(
        self, data: Path, feed: str, exchange: str, readers: Iterable[StreamReader], bytes_max: int
    ) -> None:  # fmt: skip
        path = outages_path(data, feed)
        self.ledger: GapLedger[Outage] = GapLedger(path, bytes_max)
        self._exchange = exchange
        self._rings = [reader for reader in readers if reader.capacity]
        earlier = [one for one in read_outages(path) if one.stream == ALL]
        self._first = not earlier
        self._ended_ns = 0  # of the last outage
        self._since: int | None = self._newest_ns()  # None: there is none
        if earlier and not earlier[-1].to_ns:
            self._since = earlier[-1].from_ns

    def begin(self) -> None:
        """The last connection that carried all streams has ended."""
        if self._since is None:
            self._since = self._newest_ns() or self._ended_ns
            self.ledger.add(Outage(self._exchange, ALL, self._since, 0))

    def end(self, at_ns: int) -> None:
        """Since then (wall clock, UNIX ns) a connection carries all streams."""
        if self._since is not None:
            never = self._first and not self._since
            self.ledger.add(Outage(self._exchange, ALL, at_ns if never else self._since, at_ns))
            self._since, self._first, self._ended_ns = None, False, at_ns

    def renewed(self, stream: str, since_ns: int) -> None:
        """One stream was subscribed anew, and was not since then: wall clock, UNIX ns."""
        self.ledger.add(Outage(self._exchange, stream, since_ns, time.time_ns()))

    def _newest_ns(self) -> int:
        """Receipt of the newest record in the rings; 0 where they are empty."""
        newest = 0
        for ring in self._rings:
            published = ring.published()
            rows, _, _ = ring.read(max(published - 1, 0), 1)
            if len(rows):
                newest = max(newest, int(rows["ts_recv_ns"][-1]))
        return newest
