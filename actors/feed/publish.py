"""From a decoder into the rings: one function for each kind of record, bound once.

A frame's callback ends here. Nothing waits, nothing is queued, and what a record costs is one pack, one copy into the
ring, one into the tail.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...codecs.book import BookState, OrderBook
from ...codecs.record import Flag
from ...codecs.records import BOOK_DEPTH, BOOK_LEVEL, BOOK_TOP, FUNDING, LIQUIDATION, MARK_PRICE, QUOTE, TICKER, TRADE
from ...ringbuf import StreamWriter

# A book_level row in three parts: nth, what all levels of one side of an event share, and the level itself.
_LEVEL_COMMON = struct.Struct("<qqIIq")  # ts_recv_ns, ts_event_ns, key_id, flags, update_id
_LEVEL_ROW = struct.Struct(f"<Q{_LEVEL_COMMON.size}sdd8x")
assert _LEVEL_ROW.size == BOOK_LEVEL.slot_size
assert [(BOOK_LEVEL.dtype.fields or {})[name][1] for name in ("update_id", "price", "quantity")] == [32, 40, 48]

TOP_LEVELS = 20
DEPTH_LEVELS = 400
_UNUSED = tuple((0.0,) * n for n in range(DEPTH_LEVELS + 1))
MS = 1_000_000

Levels = Sequence[tuple[float, float]]
Publish = Callable[..., None]


class RingSink:
    """Where the decoder of a feed puts what it decodes (see `codecs.sink`).

    Args:
        writers: the feed's streams by record name; a record that has none is counted in `unexpected` and dropped.
        depth_interval_ns: `book_depth` of a key is written at most so often. What has changed since is written by
            `flush_depth`, which the feed calls from a timer, so that the last state is always written.
    """

    # Plain functions in attributes: as methods each record would pay for one call more.
    trade: Publish
    quote: Publish
    levels: Any  # see make_levels
    book: Any  # see make_book
    # The rarer records. `kline` sorts bars by interval first: see `klines`.
    kline: Publish
    ticker: Publish
    mark_price: Publish
    funding: Publish
    liquidation: Publish
    flush: Callable[[], None]  # publish the trades appended so far; after each read of the socket
    flush_depth: Callable[[int], None]

    def __init__(self, writers: Mapping[str, StreamWriter], depth_interval_ns: int = 100 * MS) -> None:
        self.unexpected = 0
        self.trade, self.flush = self._unexpected, lambda: None
        if TRADE.name in writers:
            chunked = writers[TRADE.name].chunked(TRADE.struct, TRADE.values)
            self.trade, self.flush = chunked.append, chunked.flush
        self.quote = self._unexpected
        if QUOTE.name in writers:
            self.quote = writers[QUOTE.name].publisher(QUOTE.struct, QUOTE.values)
        self.kline = self._unexpected
        for record in (TICKER, MARK_PRICE, FUNDING, LIQUIDATION):
            writer = writers.get(record.name)
            publish = writer.publisher(record.struct, record.values) if writer else self._unexpected
            setattr(self, record.name, publish)
        if BOOK_LEVEL.name in writers:
            self.levels = make_levels(writers[BOOK_LEVEL.name])
            self.book, self.flush_depth = make_book(
                writers[BOOK_LEVEL.name], writers[BOOK_TOP.name], writers[BOOK_DEPTH.name], depth_interval_ns
            )
        else:
            self.levels = self.book = self._unexpected
            self.flush_depth = lambda now_ns: None

    def _unexpected(self, *values: Any) -> None:
        self.unexpected += 1


def make_levels(writer: StreamWriter) -> Callable[[int, int, int, int, int, Levels, Levels], None]:
    """Build ``levels(key_id, ts_recv_ns, ts_event_ns, flags, update_id, bids, asks)``: the levels of one event.

    Bids first, as they came; the last row of the event has the flag LAST.
    """
    pack_common, pack_row, counts = _LEVEL_COMMON.pack, _LEVEL_ROW.pack, writer.counts
    publish, join = writer.packed_publisher(), b"".join
    ASK, LAST = int(Flag.ASK), int(Flag.LAST)

    def levels(
        key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, update_id: int, bids: Levels, asks: Levels
    ) -> None:
        nth = counts[key_id]
        common = pack_common(ts_recv_ns, ts_event_ns, key_id, flags, update_id)
        rows = [pack_row(i, common, price, quantity) for i, (price, quantity) in enumerate(bids, nth)]
        last = bids
        if asks:
            flags |= ASK
            last = asks
            common = pack_common(ts_recv_ns, ts_event_ns, key_id, flags, update_id)
            rows += [pack_row(i, common, price, quantity) for i, (price, quantity) in enumerate(asks, nth + len(rows))]
        elif not bids:
            return
        common = pack_common(ts_recv_ns, ts_event_ns, key_id, flags | LAST, update_id)
        rows[-1] = pack_row(nth + len(rows) - 1, common, *last[-1])
        publish(key_id, join(rows))

    return levels


def make_book(
    levels: StreamWriter, tops: StreamWriter, depths: StreamWriter, depth_interval_ns: int
) -> tuple[Callable[[int, int, int, OrderBook], None], Callable[[int], None]]:
    """Build ``book(key_id, ts_recv_ns, ts_event_ns, book)`` and ``flush_depth(now_ns)``."""
    publish_top = tops.publisher(BOOK_TOP.struct, BOOK_TOP.values)
    publish_depth = depths.publisher(BOOK_DEPTH.struct, BOOK_DEPTH.values)
    level_counts = levels.counts
    written: dict[int, tuple[int, BookState]] = {}  # when book_depth of a key was written last, and with which state
    waiting: dict[int, tuple[int, int, OrderBook]] = {}
    unused = _UNUSED

    def depth(key_id: int, ts_recv_ns: int, ts_event_ns: int, book: OrderBook) -> None:
        bid_prices, bid_quantities, ask_prices, ask_quantities = book.top(DEPTH_LEVELS)
        bids, asks = len(bid_prices), len(ask_prices)
        no_bids, no_asks = unused[DEPTH_LEVELS - bids], unused[DEPTH_LEVELS - asks]
        publish_depth(
            key_id, ts_recv_ns, ts_event_ns, 0,
            book.update_id, level_counts[key_id], book.state, bids, asks, DEPTH_LEVELS,
            *bid_prices, *no_bids, *bid_quantities, *no_bids, *ask_prices, *no_asks, *ask_quantities, *no_asks,
        )  # fmt: skip
        written[key_id] = ts_recv_ns, book.state

    def book(key_id: int, ts_recv_ns: int, ts_event_ns: int, book: OrderBook) -> None:
        bid_prices, bid_quantities, ask_prices, ask_quantities = book.top(TOP_LEVELS)
        bids, asks, state = len(bid_prices), len(ask_prices), book.state
        no_bids, no_asks = unused[TOP_LEVELS - bids], unused[TOP_LEVELS - asks]
        publish_top(
            key_id, ts_recv_ns, ts_event_ns, 0,
            book.update_id, level_counts[key_id], state, bids, asks, TOP_LEVELS,
            *bid_prices, *no_bids, *bid_quantities, *no_bids, *ask_prices, *no_asks, *ask_quantities, *no_asks,
        )  # fmt: skip
        last_ns, last_state = written.get(key_id, (0, None))
        if state is not last_state or ts_recv_ns - last_ns >= depth_interval_ns:
            waiting.pop(key_id, None)
            depth(key_id, ts_recv_ns, ts_event_ns, book)
        else:
            waiting[key_id] = ts_recv_ns, ts_event_ns, book

    def flush_depth(now_ns: int) -> None:
        for key_id in [k for k in waiting if not 0 <= now_ns - written[k][0] < depth_interval_ns]:
            depth(key_id, *waiting.pop(key_id))

    return book, flush_depth
