"""Order book channels: views of a book at a depth, and what changed between two of them.

A view is shared by all readers of one book at one depth and cadence. Its frames are made by comparing the book as it is
with the book as the readers know it, so each frame takes them from `prev_seq` exactly to `seq`, whatever came between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from ....codecs.book import BookState
from ....codecs.numbers import decimal_formatter
from ....codecs.records import BOOK_DEPTH, BOOK_TOP
from ....ringbuf import StreamReader
from ...catalog import Source
from .channels import Channel
from .meters import Meters
from .subscription import Subscription
from .topics import Companions, GapReason, State, Topic
from .wire import Frame, Snapshot, Update

TOP_DEPTH_MAX = 20  # levels of a `book_top` record; deeper views are made from `book_depth`
HISTORY_FRAMES = 64  # kept for readers that come back
SETTLE_S = 0.002  # the levels of an event come one by one, the top of the book after them
_NS_PER_MS = 1_000_000

Side = dict[float, float]  # price -> quantity

_STATES = {
    BookState.EMPTY: State.RESYNCING, BookState.RESYNCING: State.RESYNCING, BookState.SYNCED: State.LIVE,
    BookState.STALE: State.STALE, BookState.CROSSED: State.RESYNCING,
}  # fmt: skip


def changes(before: Side, after: Side) -> list[tuple[float, float]]:
    """Levels that turn one side into the other; quantity 0 removes one."""
    changed = [(price, quantity) for price, quantity in after.items() if before.get(price) != quantity]
    changed += [(price, 0.0) for price in before if price not in after]
    return changed


class View:
    """A book at one depth as its readers know it.

    Attributes:
        seq: of the last frame; the next one carries it as `prev_seq`.
        due: monotonic, s: the next frame goes out not before.
        scheduled: a look at the book is planned.
    """

    def __init__(self, topic: BookTopic, depth: int, interval_s: float) -> None:
        self.topic = topic
        self.depth = depth
        self.interval_s = interval_s
        self.subs: list[Subscription] = []
        self.seq = 0
        self.known = False  # a row was read
        self.suspended = False  # the book cannot be trusted: readers keep what they have until it can
        self.bids: Side = {}
        self.asks: Side = {}
        self.ts = 0
        self.times: dict[str, int | None] = {"exchange_ts": None, "recv_ts": 0}
        self.update_id = 0
        self.due = 0.0
        self.scheduled = False
        self.history: deque[tuple[int, int, Frame]] = deque(maxlen=HISTORY_FRAMES)  # (prev_seq, seq, frame)

    def refresh(self) -> bool:
        """Read the book and send what changed; False when there is more to come than the record shows yet."""
        topic = self.topic
        row = topic.row(self.depth)
        if row is None or int(row["state"]) == BookState.EMPTY:
            return True
        count = int(row["level_count"])
        trusted = int(row["state"]) == BookState.SYNCED and int(row["ts_recv_ns"]) >= topic.reader.live_since_ns
        if not trusted and self.known:
            self.suspended = True
            return True
        if self.known and count <= self.seq and not self.suspended:
            return count >= topic.expected
        bids, asks = self._sides(row)
        prev_seq, bids_before, asks_before = self.seq, self.bids, self.asks
        first_look, resumed = not self.known, self.suspended
        changed_bids, changed_asks = changes(bids_before, bids), changes(asks_before, asks)
        if not (first_look or resumed or changed_bids or changed_asks):
            return count >= topic.expected
        self.known, self.suspended = True, not trusted
        self.bids, self.asks, self.seq = bids, asks, max(count, self.seq)
        self.update_id = int(row["update_id"])
        self._take_times(row)
        if first_look or resumed:
            self._start_over()
        else:
            self._send(self._update(prev_seq, changed_bids, changed_asks), prev_seq)
        return count >= topic.expected

    def _start_over(self) -> None:
        """The book was rebuilt, or is known at last: a snapshot for all, with a higher seq in the same epoch."""
        self.history.clear()
        self.topic.meters.snapshots.inc(len(self.subs))
        snapshot = self.snapshot()
        for sub in self.subs:
            sub.connection.send(sub, snapshot, self.seq, self.seq)

    def _sides(self, row: np.void) -> tuple[Side, Side]:
        bids_count = min(self.depth, int(row["bids_count"]))
        asks_count = min(self.depth, int(row["asks_count"]))
        bids = zip(row["bid_price"][:bids_count].tolist(), row["bid_qty"][:bids_count].tolist(), strict=True)
        asks = zip(row["ask_price"][:asks_count].tolist(), row["ask_qty"][:asks_count].tolist(), strict=True)
        return dict(bids), dict(asks)

    def _take_times(self, row: np.void) -> None:
        event_ns, recv_ms = int(row["ts_event_ns"]), int(row["ts_recv_ns"]) // _NS_PER_MS
        event_ms = event_ns // _NS_PER_MS if event_ns else None
        self.ts = recv_ms if event_ms is None else event_ms
        self.times = {"exchange_ts": event_ms, "recv_ts": recv_ms}

    def _levels(self, levels: Any) -> list[tuple[str, str]]:
        price, quantity = self.topic.price, self.topic.quantity
        return [(price(p), quantity(q) if q else "0") for p, q in levels]

    def _update(self, prev_seq: int, bids: list[tuple[float, float]], asks: list[tuple[float, float]]) -> Frame:
        data = {
            "bids": self._levels(bids), "asks": self._levels(asks), "prev_seq": prev_seq,
            "last_update_id": self.update_id, "depth": self.depth, **self.times,
        }  # fmt: skip
        return Frame(Update(self.topic.name, self.seq, self.ts, data), compress_from=self.topic.compress_from)

    def _send(self, frame: Frame, prev_seq: int) -> None:
        self.history.append((prev_seq, self.seq, frame))
        for sub in self.subs:
            sub.connection.send(sub, frame, prev_seq + 1, self.seq)

    def snapshot(self, id: Any = None) -> Frame:
        """The book as the readers know it after the last frame."""
        data = {
            "bids": self._levels(self.bids.items()), "asks": self._levels(self.asks.items()),
            "last_update_id": self.update_id, "depth": self.depth, **self.times,
        }  # fmt: skip
        body = Snapshot(self.topic.name, self.topic.epoch, self.seq, self.ts, data, True, id)
        return Frame(body, compress_from=self.topic.compress_from)

    def frames_since(self, seq: int) -> list[tuple[int, int, Frame]] | None:
        """The frames that lead from `seq` to now; None when they are no longer kept."""
        if seq == self.seq:
            return []
        frames = list(self.history)
        for i, (prev_seq, _, _) in enumerate(frames):
            if prev_seq == seq:
                return frames[i:]
        return None


class BookTopic(Topic):
    """The book of one instrument; `reader` is the stream of its levels, which `seq` counts.

    Attributes:
        expected: how many levels the book had when we last heard of it; a view that shows fewer is looked at again.
    """

    def __init__(
        self, channel: Channel, source: Source, reader: StreamReader, companions: Companions, meters: Meters,
        compress_from: int, interval_ms: int, schedule: Callable[[View], None],
    ) -> None:  # fmt: skip
        self.views: dict[tuple[int, int], View] = {}
        self.interval_ms = interval_ms
        self.schedule = schedule
        super().__init__(channel, source, reader, companions, meters, compress_from)

    def bind(self, source: Source, reader: StreamReader, companions: Companions) -> None:
        super().bind(source, reader, companions)
        top = companions[BOOK_TOP.name]
        assert top is not None, "the registry opens the first companion, or says that there is no channel"
        self.top, self.deep = top, companions[BOOK_DEPTH.name]
        attributes = source.key.attributes
        self.price = decimal_formatter(attributes.get("price_precision", 0))
        self.quantity = decimal_formatter(attributes.get("quantity_precision", 0))
        self.expected = 0
        self.looked_at = self.top.count(self.key_id)

    def row(self, depth: int) -> np.void | None:
        """The newest record that is deep enough."""
        reader = self.top if depth <= TOP_DEPTH_MAX else self.deep
        return reader.latest(self.key_id) if reader is not None else None

    def changed(self, count: int) -> None:
        """Levels came, or the state changed: look at the book soon."""
        self.expected = max(self.expected, count)
        for view in self.views.values():
            if not view.scheduled:
                self.schedule(view)

    def replaced(self, count: int) -> None:
        """The levels up to `count` are a new book: what readers have is not a state that leads there."""
        for view in self.views.values():
            if count > view.seq:
                view.suspended = True

    def look(self) -> None:
        """Notice what no level tells: a change of state."""
        count = self.top.count(self.key_id)
        if count != self.looked_at:
            self.looked_at = count
            self.changed(self.expected)

    # -- subscriptions ------------------------------------------------------------------------------------------

    def _interval_ms(self, sub: Subscription) -> int:
        """Least intervals are rounded up to multiples of the cadence, so that there are few views."""
        wanted = max(self.interval_ms, sub.request.conflate_ms)
        return -(-wanted // self.interval_ms) * self.interval_ms

    def view_of(self, sub: Subscription) -> View:
        place = (sub.request.depth, self._interval_ms(sub))
        view = self.views.get(place)
        if view is None:
            view = self.views[place] = View(self, place[0], place[1] / 1000)
            view.refresh()
        return view

    def attach(self, sub: Subscription) -> None:
        sub.live = True
        if sub not in sub.view.subs:
            sub.view.subs.append(sub)

    def detach(self, sub: Subscription) -> None:
        self.members.pop(sub, None)
        sub.live = False
        view = sub.view
        if view is None:
            return
        sub.view = None
        if sub in view.subs:
            view.subs.remove(sub)
        if not view.subs:
            self.views.pop((view.depth, round(view.interval_s * 1000)), None)

    def refilter(self, sub: Subscription) -> None:
        pass

    def prepare(self, sub: Subscription) -> bool:
        request = sub.request
        view = sub.view = self.view_of(sub)
        if request.from_seq is not None and request.from_seq > view.seq:
            view.refresh()  # another worker was ahead of this one
        sub.position = view.seq
        if request.from_seq is None or request.epoch not in (None, self.epoch) or not view.known:
            return False
        frames = view.frames_since(request.from_seq)
        if frames is None:
            return False
        sub.position, sub.replay = request.from_seq, frames
        return True

    def start(self, sub: Subscription) -> None:
        request, view = sub.request, sub.view
        if request.from_seq is not None:
            if request.epoch not in (None, self.epoch):
                self.send_gap(sub, 1, view.seq, GapReason.EPOCH_CHANGED)
            else:
                self.send_gap(sub, min(request.from_seq, view.seq) + 1, view.seq, GapReason.RESUME_EXPIRED)
        self.rebuild(sub)
        self.attach(sub)

    def replay_some(self, sub: Subscription) -> bool:
        view = sub.view
        frames = view.frames_since(sub.position)
        if frames is None:  # the view moved on further than it remembers
            self.rebuild(sub)
        else:
            for prev_seq, seq, frame in frames:
                sub.connection.send(sub, frame, prev_seq + 1, seq)
        sub.position = view.seq
        self.attach(sub)
        return True

    def rebuild(self, sub: Subscription) -> None:
        if not sub.view.known:
            return  # nothing is known of the book: the snapshot comes with its first record
        self.meters.snapshots.inc()
        sub.connection.send_control(sub.view.snapshot())

    def snapshot(self, sub: Subscription | None, depth: int, id: Any = None) -> Frame:
        if sub is not None and sub.view is not None:
            return sub.view.snapshot(id)
        view = View(self, depth, self.interval_ms / 1000)
        view.refresh()
        return view.snapshot(id)

    def seq_of(self, sub: Subscription) -> int:
        return sub.view.seq if sub.view is not None and sub.live else sub.position

    # -- status -------------------------------------------------------------------------------------------------

    def set_state(self, state: State, since_ms: int) -> bool:
        """As for all topics; but `live` waits for the snapshot that makes the book whole."""
        if state is State.LIVE and any(view.suspended for view in self.views.values()):
            return False
        return super().set_state(state, since_ms)

    def judge(self, producer_alive: bool) -> tuple[State, int]:
        row = self.top.latest(self.key_id)
        recv_ns = int(row["ts_recv_ns"]) if row is not None else 0
        if not producer_alive:
            return State.DOWN, recv_ns // _NS_PER_MS
        live_since_ns = self.reader.live_since_ns
        if row is None or recv_ns < live_since_ns:
            return State.RESYNCING, live_since_ns // _NS_PER_MS
        return _STATES.get(BookState(int(row["state"])), State.RESYNCING), recv_ns // _NS_PER_MS
