"""How a local order book follows Binance's depth stream: one state machine for each instrument, without I/O.

Spot (https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams, "How to manage a local order book
correctly", text corrected 2025-11-12): buffer events; take a snapshot; when its lastUpdateId is older than the first
buffered event, take another; drop events with u <= lastUpdateId; the first kept one has U <= lastUpdateId + 1 <= u;
from then on ignore u < local id, and U > local id + 1 is a gap.

USD-M and COIN-M (https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/
How-to-manage-a-local-order-book-correctly): drop u < lastUpdateId; the first kept one has U <= lastUpdateId <= u, or
pu == lastUpdateId as recordings show it too; from then on pu must equal the u before it. U may jump.

While a snapshot is waited for the old levels are kept, and the state says that they are old.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ..book import BookState, Level, OrderBook
from ..record import Flag
from ..sink import Hooks, Sink

BUFFERED_EVENTS_MAX = 4096  # 400 s of 100 ms events; beyond it the oldest are dropped
BUFFERED_LEVELS_MAX = 200_000
CROSSED_NS_MAX = 1_000_000_000  # a book crossed for longer is taken anew
OLDER_RUN_MAX = 20  # older events in a row after which our own id must be the wrong one
OLDER_RUN_TRAILING_MAX = 2000


class DepthEvent(NamedTuple):
    ts_recv_ns: int
    ts_event_ns: int
    first_update_id: int  # U
    update_id: int  # u
    prev_update_id: int  # pu; 0 on spot
    bids: list[Level]
    asks: list[Level]


class DepthSnapshot(NamedTuple):
    """Body of the REST depth endpoint."""

    update_id: int  # lastUpdateId
    ts_event_ns: int  # T; 0 on spot
    bids: list[Level]
    asks: list[Level]


class BookSync:
    """Keeps one book in step with its depth stream: the rule of spot."""

    __slots__ = (
        "_buffer", "_buffered_levels", "_crossed_since_ns", "_hooks", "_older_run", "_sink", "_started", "book",
        "buffer_dropped", "flags", "gaps", "key_id", "older", "overlapping", "resyncs", "snapshots", "snapshots_stale",
        "wanting",
    )  # fmt: skip

    def __init__(self, key_id: int, sink: Sink, hooks: Hooks, flags: int = 0) -> None:
        self.key_id = key_id
        self.flags = flags  # on every record
        self.book = OrderBook()
        self.wanting = False  # a snapshot was asked for and has not come
        self.overlapping = False  # two sockets deliver the same stream
        self.gaps = 0  # holes in the exchange's sequence
        self.resyncs = 0  # times the book was given up: gaps, lost connections, books crossed too long
        self.snapshots = 0  # snapshots applied
        self.snapshots_stale = 0  # snapshots older than the stream
        self.older = 0  # events that brought nothing new
        self.buffer_dropped = 0  # buffered events given up because the snapshot took too long
        self._sink = sink
        self._hooks = hooks
        self._buffer: deque[DepthEvent] = deque()
        self._buffered_levels = 0
        self._started = False  # an event was applied since the snapshot
        self._older_run = 0
        self._crossed_since_ns = 0

    # -- rules of the product; futures replace them ------------------------------------------------------------

    def _is_older(self, event: DepthEvent) -> bool:
        return event.update_id <= self.book.update_id

    def _follows(self, event: DepthEvent) -> bool:
        return event.first_update_id <= self.book.update_id + 1

    # -- input ------------------------------------------------------------------------------------------------

    def event(self, event: DepthEvent) -> None:
        """Take one event of the stream."""
        state = self.book.state
        if state is BookState.RESYNCING or state is BookState.EMPTY:
            self._keep(event)
            if not self.wanting:
                self._want()
            return
        if self._is_older(event):
            self.older += 1
            self._older_run += 1
            # Events may trail far behind a snapshot, or behind those of another socket; in step they never do.
            in_step = self._started and not self.overlapping
            if self._older_run >= (OLDER_RUN_MAX if in_step else OLDER_RUN_TRAILING_MAX):
                self._resync(event.ts_recv_ns)
                self._keep(event)
            return
        if not self._follows(event):
            self._gap(event)
            return
        self._apply(event)
        book = self.book
        if book.state is BookState.CROSSED and event.ts_recv_ns - self._crossed_since_ns > CROSSED_NS_MAX:
            self._resync(event.ts_recv_ns)

    def snapshot(self, snapshot: DepthSnapshot, ts_recv_ns: int) -> bool:
        """Take the snapshot that was asked for, or one that nobody asked for.

        Returns:
            False when it was too old, or a gap follows it: another was asked for.
        """
        self.wanting = False
        if snapshot.update_id < self.book.update_id and self.book.state not in (BookState.RESYNCING, BookState.EMPTY):
            self.snapshots_stale += 1
            return True  # the book is in step and newer
        buffer = self._buffer
        book = self.book
        held = book.update_id, book.first_update_id, book.prev_update_id, self._started
        book.update_id, book.first_update_id, book.prev_update_id, self._started = snapshot.update_id, 0, 0, False
        while buffer and self._is_older(buffer[0]):
            self._buffered_levels -= _size(buffer.popleft())
        if buffer and not self._follows(buffer[0]):
            book.update_id, book.first_update_id, book.prev_update_id, self._started = held
            self.snapshots_stale += 1
            self._want()
            return False
        book.replace(snapshot.bids, snapshot.asks)
        self.snapshots += 1
        self._older_run = 0
        self._judge_state(ts_recv_ns)
        flags = self.flags | int(Flag.SNAPSHOT) | (int(Flag.RESYNC) if self.resyncs else 0)
        self._sink.levels(
            self.key_id, ts_recv_ns, snapshot.ts_event_ns, flags, snapshot.update_id, snapshot.bids, snapshot.asks
        )
        self._sink.book(self.key_id, ts_recv_ns, snapshot.ts_event_ns, book)
        kept = list(buffer)
        buffer.clear()
        self._buffered_levels = 0
        for event in kept:
            self.event(event)
        return not self.wanting

    def lost(self, ts_recv_ns: int) -> None:
        """The connection is gone: events may be missing from here on. The next event asks for a snapshot."""
        self._buffer.clear()
        self._buffered_levels = 0
        self.wanting = False
        if self.book.state is not BookState.EMPTY:
            self.resyncs += 1
            self._set_state(BookState.RESYNCING, ts_recv_ns)

    # -- state ------------------------------------------------------------------------------------------------

    def _apply(self, event: DepthEvent) -> None:
        book = self.book
        ts_recv_ns, ts_event_ns, first, last, previous, bids, asks = event
        book.apply(bids, asks)
        book.update_id, book.first_update_id, book.prev_update_id = last, first, previous
        self._started = True
        self._older_run = 0
        self._judge_state(ts_recv_ns)
        self._sink.levels(self.key_id, ts_recv_ns, ts_event_ns, self.flags, last, bids, asks)
        self._sink.book(self.key_id, ts_recv_ns, ts_event_ns, book)

    def _judge_state(self, ts_recv_ns: int) -> None:
        book = self.book
        if not book.crossed:
            book.state = BookState.SYNCED
        elif book.state is not BookState.CROSSED:
            book.state = BookState.CROSSED
            self._crossed_since_ns = ts_recv_ns

    def _gap(self, event: DepthEvent) -> None:
        self.gaps += 1
        first = self.book.update_id + 1
        last = event.prev_update_id or event.first_update_id - 1
        self._hooks.on_gap(self.key_id, "depth", first, max(first, last))
        self._resync(event.ts_recv_ns)
        self._keep(event)

    def _resync(self, ts_recv_ns: int) -> None:
        self.resyncs += 1
        self._buffer.clear()
        self._buffered_levels = 0
        self._set_state(BookState.RESYNCING, ts_recv_ns)
        self._want()

    def _set_state(self, state: BookState, ts_recv_ns: int) -> None:
        self.book.state = state
        self._sink.book(self.key_id, ts_recv_ns, 0, self.book)

    def _want(self) -> None:
        self.wanting = True
        self._hooks.want_snapshot(self.key_id)

    def _keep(self, event: DepthEvent) -> None:
        buffer = self._buffer
        buffer.append(event)
        self._buffered_levels += _size(event)
        while len(buffer) > BUFFERED_EVENTS_MAX or (self._buffered_levels > BUFFERED_LEVELS_MAX and len(buffer) > 1):
            self._buffered_levels -= _size(buffer.popleft())
            self.buffer_dropped += 1


class FuturesBookSync(BookSync):
    """The rule of USD-M and COIN-M: each event names the one before it."""

    __slots__ = ()

    def _is_older(self, event: DepthEvent) -> bool:
        if self._started:
            return event.update_id <= self.book.update_id
        return event.update_id < self.book.update_id

    def _follows(self, event: DepthEvent) -> bool:
        local = self.book.update_id
        if event.prev_update_id == local:
            return True
        return not self._started and event.first_update_id <= local <= event.update_id


def _size(event: DepthEvent) -> int:
    return len(event.bids) + len(event.asks)
