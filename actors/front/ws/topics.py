"""Channels that carry records one by one. One topic for a channel, whatever the number of its readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from ....ringbuf import StreamReader
from ...catalog import Source
from .audience import Audience
from .channels import Channel
from .epochs import epoch_text
from .meters import Meters
from .names import channel_name, passes
from .outbox import Delivery
from .render import NTH, TS_RECV_NS, Members, Renderer, Row
from .wire import OPCODE_TEXT, Batch, Frame, Gap, Snapshot, Status, Update, framed

if TYPE_CHECKING:
    from .subscription import Subscription

BATCH_ROWS_MAX = 512  # a trade takes about 400 bytes, so a batch stays far below the outgoing limit
AHEAD_MAX = 1024  # records by which a client may be ahead of its worker
REPLAY_ROWS_READ = 4096  # read ahead for one replaying connection; a search of the ring is too dear for less
REPLAY_ROWS_SENT = 256
_NS_PER_MS = 1_000_000


Companions = Mapping[str, StreamReader | None]  # by record name; None where the producer has no such stream


class State(StrEnum):
    """What a channel's data is worth just now."""

    LIVE = "live"
    STALE = "stale"  # nothing came since its producer started
    RESYNCING = "resyncing"  # the book is being rebuilt
    DOWN = "down"  # its producer does not run


class GapReason(StrEnum):
    SLOW_CONSUMER = "slow_consumer"
    RESUME_EXPIRED = "resume_expired"
    UPSTREAM_GAP = "upstream_gap"
    EPOCH_CHANGED = "epoch_changed"


class Topic:
    """What all readers of one channel share.

    Attributes:
        name: canonical, echoed in every frame.
        kind, record, delivery: as the channel declares them.
        epoch: short text that changes only when numbering restarts.
        plain: subscriptions that get each frame as it is; `special`: those with filters or a least interval.
        followed: its ring is read; else it looks by itself, from `opened` to `closed`.
    """

    followed = True

    def __init__(
        self, channel: Channel, source: Source, reader: StreamReader, companions: Companions, meters: Meters,
        compress_from: int,
    ) -> None:  # fmt: skip
        self.channel = channel
        self.kind, self.record, self.delivery = channel.kind, channel.record, channel.delivery
        self.meters = meters
        self.compress_from = compress_from
        self.plain = Audience(meters)
        self.special: list[Subscription] = []
        self.members: dict[Subscription, None] = {}  # all, live or not
        self.state = State.LIVE
        self.since_ms = 0
        self.bind(source, reader, companions)

    def bind(self, source: Source, reader: StreamReader, companions: Companions) -> None:
        """Take the channel from this stream, and what else it needs from those of its companions, from now on."""
        self.source = source
        self.reader = reader
        self.companions = companions
        self.key_id = source.key_id
        self.name = channel_name(self.kind, source)
        self.epoch = epoch_text(reader)

    @property
    def readers(self) -> tuple[StreamReader, ...]:
        """Every stream it reads."""
        return (self.reader, *(reader for reader in self.companions.values() if reader is not None))

    # -- subscriptions ------------------------------------------------------------------------------------------

    def attach(self, sub: Subscription) -> None:
        """From now on it gets what is published."""
        sub.live = True
        sub.replay = ()
        self._seat(sub)

    def _seat(self, sub: Subscription) -> None:
        if sub.plain:
            self.plain.add(sub)
        else:
            self.special.append(sub)

    def _unseat(self, sub: Subscription) -> None:
        self.plain.discard(sub)
        if sub in self.special:
            self.special.remove(sub)

    def detach(self, sub: Subscription) -> None:
        self.members.pop(sub, None)
        if sub.live:
            sub.live = False
            self._unseat(sub)

    def refilter(self, sub: Subscription) -> None:
        """Its filters changed."""
        if sub.live:
            self._unseat(sub)
            self._seat(sub)

    def prepare(self, sub: Subscription) -> bool:
        """Decide where a new subscription begins; True when it resumes."""
        raise NotImplementedError

    def start(self, sub: Subscription) -> None:
        """Send what stands before the live part: gap and snapshot, unless it replays."""
        raise NotImplementedError

    def replay_some(self, sub: Subscription) -> bool:
        """Send the next part of a replay; True when it has caught up and is attached."""
        raise NotImplementedError

    def rebuild(self, sub: Subscription) -> None:
        """Start over with a snapshot: the reader was too slow, or numbering restarted."""
        raise NotImplementedError

    def seq_of(self, sub: Subscription) -> int:
        """The last seq that was meant for a subscription."""
        raise NotImplementedError

    def snapshot(self, sub: Subscription | None, depth: int, id: Any = None) -> Frame:
        """The state that the next live frame follows."""
        raise NotImplementedError

    def snapshots(self, sub: Subscription | None, depth: int, id: Any = None) -> list[Frame]:
        """The same in as many frames as it takes."""
        return [self.snapshot(sub, depth, id)]

    def rewind(self, sub: Subscription, seq: int) -> None:
        """Read back what a slow reader could not take, from `seq` on."""
        raise NotImplementedError

    def opened(self) -> None:
        """It has a subscription."""

    def closed(self) -> None:
        """It has none any more."""

    def send_gap(self, sub: Subscription, first: int, last: int, reason: GapReason) -> None:
        """Say which records do not come."""
        self.meters.gap(reason.value)
        epoch = self.epoch if reason is GapReason.EPOCH_CHANGED else None
        sub.connection.send_control(Frame(Gap(self.name, first, last, reason.value, epoch)))

    # -- status -------------------------------------------------------------------------------------------------

    def judge(self, producer_alive: bool) -> tuple[State, int]:
        """State and since when, epoch ms."""
        raise NotImplementedError

    def set_state(self, state: State, since_ms: int) -> bool:
        """Store it and tell the subscribers; True when it changed."""
        if state is self.state:
            return False
        self.state, self.since_ms = state, since_ms
        frame = self.status()
        for sub in tuple(self.members):
            if sub.form is None:
                sub.connection.send_control(frame)
        return True

    def status(self) -> Frame:
        return Frame(Status(self.name, self.state.value, self.since_ms))


class RecordTopic(Topic):
    """Records one by one, each with its number.

    Attributes:
        next: number (`nth`) of the next record to publish; all before it have been.
        tells_gaps: a record that was lost on the way is named by a gap.
    """

    @property
    def tells_gaps(self) -> bool:
        return self.delivery is Delivery.ORDERED

    def bind(self, source: Source, reader: StreamReader, companions: Companions) -> None:
        super().bind(source, reader, companions)
        self.render = Renderer(self.record, source.key)
        self.update = self.render.make_update(self.name)
        self.next = reader.count(self.key_id)
        newest = reader.latest(self.key_id)
        self.last_recv_ns = int(newest["ts_recv_ns"]) if newest is not None else 0

    def seq_of(self, sub: Subscription) -> int:
        return self.next if sub.live else sub.position

    @property
    def counted(self) -> bool:
        """Whether the tail has all that was published. A producer rings first, and counts while its readers wake up."""
        return self.reader.count(self.key_id) >= self.next

    # -- live ---------------------------------------------------------------------------------------------------

    def publish(self, rows: list[Row], now: float, held: Callable[[Subscription], None]) -> None:
        """Hand new rows of this key to the subscribers.

        Args:
            rows: as the ring gave them, in order; those already published are skipped.
            now: monotonic, s.
            held: called with a subscription that keeps its frame for later.
        """
        if rows[0][NTH] != self.next:
            rows = self._joined(rows)
            if not rows:
                return
        jumped = rows[0][NTH] > self.next
        self.next = rows[-1][NTH] + 1
        self.last_recv_ns = rows[-1][TS_RECV_NS]
        if not self.members:
            return
        if jumped and self.delivery is Delivery.CONFLATING:
            rows = self.newest_of(rows)
        self.hand_out(rows, now, held, jumped and self.delivery is Delivery.CONFLATING)

    def newest_of(self, rows: list[Row]) -> list[Row]:
        """What of some rows is worth sending where only the newest value counts."""
        return rows[-1:]

    def hand_out(
        self, rows: list[Row], now: float, held: Callable[[Subscription], None], conflated: bool, urgent: bool = False
    ) -> None:
        """Send rows to the subscribers: `conflated` where they stand for more, `urgent` where they must go at once."""
        members = [self.render(row) for row in rows]
        for start in range(0, len(members), BATCH_ROWS_MAX):
            frame = self.frame(members[start : start + BATCH_ROWS_MAX])
            frame.urgent = urgent
            self._fan_out(frame.conflated() if conflated else frame, members[start : start + BATCH_ROWS_MAX], now, held)

    def publish_lone(self, row: Row) -> bool:
        """Hand out one new row of this key in the shortest way; False, and nothing done, where there is more to it."""
        seq = row[NTH] + 1
        if seq != self.next + 1 or self.special or self.state is not State.LIVE:
            return False
        self.next = seq
        self.last_recv_ns = row[TS_RECV_NS]
        self.plain.send_small(
            lambda: framed(OPCODE_TEXT, self.update(row)), lambda: self.frame([self.render(row)]), seq
        )
        return True

    def _fan_out(self, frame: Frame, members: list[Members], now: float, held: Callable[[Subscription], None]) -> None:
        first, last = members[0]["seq"], members[-1]["seq"]
        self.plain.send(frame, first, last)
        for sub in tuple(self.special):
            mine, mine_first, mine_last = frame, first, last
            filters, ahead = sub.filters, sub.ahead
            if 0 < ahead <= last:
                sub.ahead = 0
                self.refilter(sub)
            if filters is not None or ahead >= first:
                wanted = [one for one in members if one["seq"] > ahead and (filters is None or passes(filters, one))]
                if not wanted:
                    continue
                if len(wanted) < len(members):
                    mine, mine_first, mine_last = self.frame(wanted), wanted[0]["seq"], wanted[-1]["seq"]
                    mine.urgent = frame.urgent
            if not sub.request.conflate_ms:
                sub.connection.send(sub, mine, mine_first, mine_last)
                continue
            if sub.held is not None or mine_last > mine_first:
                mine = mine.conflated()
            if mine.urgent or (sub.held is None and now >= sub.due):
                sub.held, sub.due = None, now + sub.request.conflate_ms / 1000
                sub.connection.send(sub, mine, mine_last, mine_last)
            else:
                sub.held = (mine, mine_last)
                held(sub)

    def frame(self, members: list[Members]) -> Frame:
        """One record is an `update`, several are a `batch`."""
        body: Update | Batch
        if len(members) == 1:
            body = Update(self.name, members[0]["seq"], members[0]["ts"], members[0])
        else:
            body = Batch(self.name, members[0]["seq"], members[-1]["seq"], members)
        return Frame(body, self.render.ids, self.compress_from)

    def _joined(self, rows: list[Row]) -> list[Row]:
        """Rows without those already published, and with those that a lap skipped, as far as the tail holds them."""
        rows = [row for row in rows if row[NTH] >= self.next]
        if not rows or rows[0][NTH] == self.next:
            return rows
        return self._recovered(rows[0][NTH]) + rows

    def catch_up(self) -> list[Row]:
        """What was published and did not come through the ring, as far as the tail holds it."""
        return self._recovered(self.reader.count(self.key_id))

    def _recovered(self, stop: int) -> list[Row]:
        """Records `next <= nth < stop` from the tail; what it no longer has is told to the subscribers."""
        held = self.reader.last(self.key_id, self.record.tail)
        held = held[(held["nth"] >= self.next) & (held["nth"] < stop)]
        first = int(held["nth"][0]) if len(held) else stop
        if first > self.next:
            self.meters.lost.inc(first - self.next)
            if self.tells_gaps:
                for sub in (*self.plain, *self.special):
                    self.send_gap(sub, self.next + 1, first, GapReason.UPSTREAM_GAP)
        self.meters.recovered.inc(len(held))
        return self._rows(held)

    # -- beginning ----------------------------------------------------------------------------------------------

    def prepare(self, sub: Subscription) -> bool:
        request = sub.request
        sub.position = self.next
        if request.from_seq is None or request.epoch not in (None, self.epoch):
            return False
        if request.from_seq > self.next:
            # Another worker has shown it records that we do not know of yet, or whose producer died in the middle:
            # so it is only where the number is surely one of this channel's. That of a pattern may be another
            # channel's, and one without an epoch may be of a ring that is gone.
            sure = request.epoch is not None and not request.is_pattern
            if not sure or request.from_seq > self.next + AHEAD_MAX:
                return False
            sub.ahead = sub.position = request.from_seq
            return True
        rows = self.reader.since(self.key_id, request.from_seq, REPLAY_ROWS_READ)
        if rows is None:
            return False
        sub.position, sub.replay = request.from_seq, rows
        return True

    def start(self, sub: Subscription) -> None:
        request = sub.request
        if request.from_seq is not None:
            if request.epoch not in (None, self.epoch):
                self.send_gap(sub, 1, self.next, GapReason.EPOCH_CHANGED)
            else:
                known = request.from_seq if request.from_seq <= self.next else 0  # else it is no number of ours
                self.send_gap(sub, known + 1, self.next, GapReason.RESUME_EXPIRED)
        self._send_snapshot(sub)
        self.attach(sub)

    def _send_snapshot(self, sub: Subscription) -> None:
        if not self.channel.snapshot_rows:
            return
        self.meters.snapshots.inc()
        sub.connection.send_control(self.snapshot(sub, 0))

    def rebuild(self, sub: Subscription) -> None:
        self._send_snapshot(sub)

    def replay_some(self, sub: Subscription) -> bool:
        if sub.position >= self.next:
            self.attach(sub)
            return True
        if not len(sub.replay):
            rows = self.reader.since(self.key_id, sub.position, REPLAY_ROWS_READ)
            if rows is None or not len(rows):
                self.send_gap(sub, sub.position + 1, self.next, GapReason.RESUME_EXPIRED)
                self._send_snapshot(sub)
                self.attach(sub)
                return True
            sub.replay = rows
        rows = sub.replay[:REPLAY_ROWS_SENT]
        sub.replay = sub.replay[REPLAY_ROWS_SENT:]
        self._send_replayed(sub, [row for row in self._rows(rows) if row[NTH] < self.next])
        return False

    def _send_replayed(self, sub: Subscription, rows: list[Row]) -> None:
        """Rows beyond `next` are left out: they come through the ring once the subscription is live."""
        if not rows:
            sub.replay = ()
            return
        sub.position = rows[-1][NTH] + 1
        members = [self.render(row) for row in rows]
        if sub.filters is not None:
            members = [one for one in members if passes(sub.filters, one)]
        if members:
            sub.connection.send(sub, self.frame(members), members[0]["seq"], members[-1]["seq"])

    def _rows(self, rows: np.ndarray) -> list[Row]:
        """As the ring gives them: numpy's own tuples have the unused rest of a slot too."""
        return list(self.record.struct.iter_unpack(rows.tobytes()))

    def snapshot(self, sub: Subscription | None, depth: int, id: Any = None) -> Frame:
        members, rows = self.state_members(), self.channel.snapshot_rows
        if sub is not None and sub.filters is not None:
            members = [one for one in members if passes(sub.filters, one)]
        ts = members[-1]["ts"] if members else 0
        data = members if rows != 1 else (members[-1] if members else None)
        body = Snapshot(self.name, self.epoch, self.next, ts, data, True, id)
        return Frame(body, self.render.ids, self.compress_from)

    def state_members(self) -> list[Members]:
        """What a snapshot shows, oldest first."""
        return [self.render(row) for row in self.newest(self.channel.snapshot_rows)]

    def newest(self, n: int) -> list[Row]:
        """The last `n` records that were published, oldest first."""
        ahead = max(0, self.reader.count(self.key_id) - self.next)  # not published yet
        rows: np.ndarray = self.reader.last(self.key_id, min(n + ahead, self.record.tail))
        return self._rows(rows[rows["nth"] < self.next][-n:]) if n else []

    # -- status -------------------------------------------------------------------------------------------------

    def judge(self, producer_alive: bool) -> tuple[State, int]:
        if not producer_alive:
            return State.DOWN, self.last_recv_ns // _NS_PER_MS
        live_since_ns = self.reader.live_since_ns
        if self.last_recv_ns < live_since_ns:
            return State.STALE, live_since_ns // _NS_PER_MS
        return State.LIVE, live_since_ns // _NS_PER_MS
