"""How long records take from the exchange to a client: four stages, sampled, as histograms on the actors' pages.

| histogram | from | to | who samples which records |
|---|---|---|---|
| `tickring_exchange_to_socket_seconds` | the exchange's own time of the event | receipt of its bytes | feed: the newest of each stream, once a second |
| `tickring_socket_to_ring_seconds` | receipt | published, bells rung | feed: any one of each read of a socket |
| `tickring_ring_to_front_seconds` | published | read from the ring | front: the last of each look at a ring |
| `tickring_front_to_client_seconds` | read from the ring | written to the sockets of the clients | front: the same |

Labels: `exchange`, `channel`. The first stage is between two clocks: an exchange whose clock is ahead of ours counts as
0 and in `tickring_exchange_clock_ahead_total`. The last two concern WebSocket channels; books are handed out at a cadence
of their own and have no last stage. Whatever is sampled is sampled after the record went on: it waits for no clock.
"""  # noqa: E501 - a table

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from ..codecs.record import Flag
from ..ringbuf import MetricsPage, StreamReader, StreamWriter

# Between two machines, and inside one.
FAR_BOUNDS_S = (0.5e-3, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
NEAR_BOUNDS_S = (
    5e-6, 10e-6, 20e-6, 35e-6, 50e-6, 75e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 50e-3, 0.25, 1.0,
)  # fmt: skip
EXCHANGE_TO_SOCKET = "tickring_exchange_to_socket_seconds"
SOCKET_TO_RING = "tickring_socket_to_ring_seconds"
RING_TO_FRONT = "tickring_ring_to_front_seconds"
FRONT_TO_CLIENT = "tickring_front_to_client_seconds"

CHANNELS = {"book_level": "book", "kline_open": "kline"}  # of records that are not named as their channel
NEWEST = 64  # records of a stream looked at at once; of a book's levels more, for they come in runs
NEWEST_LEVELS = 256
# What does not come from the exchange at the moment at which it happens.
_NOT_LIVE = int(Flag.BACKFILL | Flag.SNAPSHOT | Flag.ROLLED_UP | Flag.LATE)
_LAST = int(Flag.LAST)


def channel_of(record: str) -> str:
    return CHANNELS.get(record, record)


class FeedLatency:
    """The stages that a feed sees.

    Args:
        page: the feed's own.
        exchange: the label.
        records: the streams that its frames end in; not what is asked for by REST, or made here.
        writers, readers: the feed's own streams by record.
    """

    def __init__(
        self,
        page: MetricsPage,
        exchange: str,
        records: Iterable[str],
        writers: Mapping[str, StreamWriter],
        readers: Mapping[str, StreamReader],
    ) -> None:
        self._writers = writers
        self._near, self._far = {}, []
        for record in records:
            labels = {"exchange": exchange, "channel": channel_of(record)}
            self._near[record] = page.histogram(
                SOCKET_TO_RING, "From receipt of a record to its publishing", NEAR_BOUNDS_S, **labels
            )
            far = page.histogram(
                EXCHANGE_TO_SOCKET, "From the exchange's time of an event to receipt", FAR_BOUNDS_S, **labels
            )
            self._far.append((readers[record], far))
        self._seen = {reader.record: reader.published() for reader, _ in self._far}
        self._ahead = page.counter(
            "tickring_exchange_clock_ahead_total", "Sampled events later than their receipt", exchange=exchange
        )

    def sampler(self, marks: Mapping[bytes, str], flush: Callable[[], object]) -> Callable[[bytes, int], None]:
        """Build ``flush(message, ts_recv_ns)``, for any message of a read: publish what it brought, then take the time.

        Args:
            marks: the two bytes behind the first ``@`` of a message, which name its channel, to the record it makes.
            flush: publishes what the read brought.
        """
        now = time.time_ns
        by_mark = {
            mark: (self._near[record].observe, self._writers[record].sampled)
            for mark, record in marks.items()
            if record in self._near
        }

        def flush_timed(message: bytes, ts_recv_ns: int) -> None:
            flush()
            at = message.find(b"@") + 1
            found = by_mark.get(message[at : at + 2])
            if found is not None:
                observe, sampled = found
                now_ns = now()
                sampled[1] = now_ns
                sampled[0] = ts_recv_ns  # pairs with the load in `StreamReader.published_at_ns`
                observe((now_ns - ts_recv_ns) * 1e-9)

        return flush_timed

    def look(self) -> None:
        """Compare the exchange's time of the newest records with their receipt."""
        for reader, histogram in self._far:
            published, seen = reader.published(), self._seen[reader.record]
            if published == seen:
                continue
            self._seen[reader.record] = published
            levels = reader.record == "book_level"
            newest = NEWEST_LEVELS if levels else NEWEST
            rows, _, _ = reader.read(max(seen, published - newest), newest)
            wanted = (rows["ts_event_ns"] > 0) & ((rows["flags"] & _NOT_LIVE) == 0)
            if levels:
                wanted &= (rows["flags"] & _LAST) != 0
            for late_ns in (rows["ts_recv_ns"][wanted] - rows["ts_event_ns"][wanted]).tolist():
                if late_ns < 0:
                    self._ahead.inc()
                    late_ns = 0
                histogram.observe(late_ns * 1e-9)


class FrontLatency:
    """The stages of one ring that a front worker sees."""

    __slots__ = ("_picked", "_published_at_ns", "_written")

    def __init__(self, page: MetricsPage, exchange: str, reader: StreamReader) -> None:
        labels = {"exchange": exchange, "channel": channel_of(reader.record)}
        self._published_at_ns = reader.published_at_ns
        self._picked = page.histogram(
            RING_TO_FRONT, "From publishing of a record to the front's reading", NEAR_BOUNDS_S, **labels
        ).observe
        self._written = page.histogram(
            FRONT_TO_CLIENT, "From the front's reading of a record to the write to its clients", NEAR_BOUNDS_S, **labels
        ).observe

    def picked(self, ts_recv_ns: int, picked_ns: int) -> None:
        """A record was read from the ring. Where the feed did not sample its publishing, that counts here too."""
        published_ns = self._published_at_ns(ts_recv_ns) or ts_recv_ns
        # the bell rings before the time is taken: a front may be faster
        self._picked((picked_ns - published_ns) * 1e-9 if picked_ns > published_ns else 0.0)

    def written(self, ts_recv_ns: int, picked_ns: int, written_ns: int) -> None:
        """A record was read and written to its clients."""
        self.picked(ts_recv_ns, picked_ns)
        self._written((written_ns - picked_ns) * 1e-9)
