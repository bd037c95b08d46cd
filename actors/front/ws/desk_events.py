"""Channels that carry the desk's own events one by one: fills, alerts, performance, risk, health."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ....codecs.desk.kinds import members as members_of
from ....codecs.desk.money import amount_text
from ....codecs.record import Flag
from ....ringbuf import ByteRingReader, StreamReader
from .desk_channels import ALERTS, DeskChannel, DeskSource
from .names import passes
from .outbox import Delivery
from .render import FLAGS, NTH, TS_EVENT_NS, TS_RECV_NS, Members, Row
from .topics import Companions, GapReason, RecordTopic, State
from .wire import Frame, Snapshot

if TYPE_CHECKING:
    from ..desk.desk import Desk
    from .forms import Form
    from .meters import Meters
    from .subscription import Subscription

ROWS_MAX = 256  # of one frame
BYTES_MAX = 384 << 10  # of texts in one frame; as members they take up to twice as many
UNKNOWN_BYTES = 1024  # taken for the text of an item that was kept decoded
_NS_PER_MS = 1_000_000
_MARKS = tuple((int(flag), flag.name.lower()) for flag in (Flag.VOID, Flag.REPEATED) if flag.name)


class Entry(NamedTuple):
    """One record, read."""

    seq: int
    ts: int  # of the event, epoch ms
    flags: int
    size: int  # bytes of its text
    value: Any  # its canonical struct


def told(value: msgspec.Struct, amount: Callable[[int], Any], moment: Callable[[int], Any]) -> dict[str, Any]:
    """The members of a canonical struct that it has, amounts and times as given."""
    shown: dict[str, Any] = {}
    for name, kind, *_ in members_of(type(value)):
        found = getattr(value, name)
        if found is None:
            continue
        if kind == "amount":
            found = amount(found)
        elif kind == "time":
            found = moment(found)
        elif kind == "json":
            found = _parsed(found)
        elif kind == "items":
            found = [told(one, amount, moment) for one in found]
        shown[name] = found
    return shown


def _parsed(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def whole_members(entry: Entry) -> Members:
    """What `v1` shows: everything, amounts as text, times as epoch ms."""
    shown = {"ts": entry.ts, "seq": entry.seq, **told(entry.value, amount_text, lambda ns: ns // _NS_PER_MS)}
    if entry.flags:
        shown.update({name: True for flag, name in _MARKS if entry.flags & flag})
    return shown


class TextRenderer:
    """Members of the records of one key, whose texts lie in their producer's byte ring."""

    ids: frozenset[str] = frozenset()

    def __init__(self, channel: DeskChannel, texts: ByteRingReader) -> None:
        assert channel.struct is not None, channel.kind
        names = [
            "nth",
            "ts_recv_ns",
            "ts_event_ns",
            "key_id",
            "flags",
            *(field.name for field in channel.record.fields),
        ]
        self._at, self._size = names.index("text_at"), names.index("text_size")
        self._texts = texts
        self._decode = msgspec.json.Decoder(channel.struct).decode

    def read(self, row: Row) -> Entry | None:
        """A record with what its text says; None where the text was overwritten, or is damaged."""
        size = row[self._size]
        text = self._texts.read(row[self._at], size)
        if text is None:
            return None
        try:
            value = self._decode(text)
        except msgspec.DecodeError:
            return None
        return Entry(row[NTH] + 1, (row[TS_EVENT_NS] or row[TS_RECV_NS]) // _NS_PER_MS, row[FLAGS], size, value)

    def segments(self, rows: list[Row]) -> Iterator[tuple[list[Entry], tuple[int, int]]]:
        """`(entries, lost)`: parts of the rows that fit a frame, and between them the seqs that cannot be read."""
        entries: list[Entry] = []
        size = first_lost = 0
        for row in rows:
            entry = self.read(row)
            if entry is None:
                if entries:
                    yield entries, (0, 0)
                    entries, size = [], 0
                first_lost = first_lost or row[NTH] + 1
                continue
            if first_lost:
                yield [], (first_lost, row[NTH])
                first_lost = 0
            entries.append(entry)
            size += entry.size
            if size >= BYTES_MAX or len(entries) >= ROWS_MAX:
                yield entries, (0, 0)
                entries, size = [], 0
        if entries:
            yield entries, (0, 0)
        if first_lost:
            yield [], (first_lost, rows[-1][NTH] + 1)


class EventTopic(RecordTopic):
    """The events of one account.

    Args:
        texts: opens the byte ring of a producer.

    Attributes:
        others: subscriptions that take other frames than those of `v1`, by what makes theirs.
    """

    channel: DeskChannel

    def __init__(
        self, channel: DeskChannel, source: Any, reader: StreamReader, meters: Meters, compress_from: int, desk: Desk,
        texts: Callable[[str], ByteRingReader],
    ) -> None:  # fmt: skip
        self._desk, self._open_texts = desk, texts
        self.others: dict[Form, list[Subscription]] = {}
        super().__init__(channel, source, reader, {}, meters, compress_from)

    def bind(self, source: Any, reader: StreamReader, companions: Companions) -> None:
        super(RecordTopic, self).bind(source, reader, companions)
        self.texts = TextRenderer(self.channel, self._open_texts(reader.producer))
        self.render = self.texts  # pyright: ignore[reportAttributeAccessIssue] - what frames ask of it, it has
        self.next = reader.count(self.key_id)
        newest = reader.latest(self.key_id)
        self.last_recv_ns = int(newest["ts_recv_ns"]) if newest is not None else 0

    @property
    def tells_gaps(self) -> bool:
        return self.delivery is Delivery.PROTECTED

    def judge(self, producer_alive: bool) -> tuple[State, int]:
        """An account that is quiet since its producer started is not stale: events come when they happen."""
        return (State.LIVE if producer_alive else State.DOWN), self.last_recv_ns // _NS_PER_MS

    def send_gap(self, sub: Subscription, first: int, last: int, reason: GapReason) -> None:
        if sub.form is None:
            super().send_gap(sub, first, last, reason)
        else:
            self.meters.gap(reason.value)

    # -- subscriptions ------------------------------------------------------------------------------------------

    def _seat(self, sub: Subscription) -> None:
        if sub.form is None:
            super()._seat(sub)
        else:
            self.others.setdefault(sub.form, []).append(sub)

    def _unseat(self, sub: Subscription) -> None:
        if sub.form is None:
            super()._unseat(sub)
        elif sub in (subs := self.others.get(sub.form, [])):
            subs.remove(sub)
            if not subs:
                del self.others[sub.form]

    def rewind(self, sub: Subscription, seq: int) -> None:
        """Read back from the ring what a slow reader could not take, from `seq` on, and what came since."""
        if sub.live:
            sub.live = False
            self._unseat(sub)
        sub.position, sub.replay = seq - 1, ()
        if sub not in sub.connection.replaying:
            sub.connection.replaying.append(sub)

    # -- frames -------------------------------------------------------------------------------------------------

    def publish_lone(self, row: Row) -> bool:
        return False

    def hand_out(
        self, rows: list[Row], now: float, held: Callable[[Subscription], None], conflated: bool, urgent: bool = False
    ) -> None:
        for entries, (first_lost, last_lost) in self.texts.segments(rows):
            if not entries:
                self.meters.lost.inc(last_lost - first_lost + 1)
                for sub in (*self.plain, *self.special):
                    self.send_gap(sub, first_lost, last_lost, GapReason.UPSTREAM_GAP)
                continue
            if self.special or any(True for _ in self.plain):
                members = [whole_members(entry) for entry in entries]
                frame = self.frame(members)
                self._fan_out(frame.conflated() if conflated else frame, members, now, held)
            for form, subs in tuple(self.others.items()):
                shared = form.events(self, entries, None)
                for sub in tuple(subs):
                    if not sub.ahead and sub.filters is None:
                        mine = shared
                    else:
                        mine = form.events(self, [one for one in entries if one.seq > sub.ahead], sub.filters)
                        if sub.ahead <= entries[-1].seq:
                            sub.ahead = 0
                    for made, first, last in mine:
                        sub.connection.send(sub, made, first, last)

    def _send_replayed(self, sub: Subscription, rows: list[Row]) -> None:
        if not rows:
            sub.replay = ()
            return
        sub.position = rows[-1][NTH] + 1
        for entries, lost in self.texts.segments(rows):
            if entries:
                self._send(sub, entries)
            else:
                self.send_gap(sub, *lost, GapReason.RESUME_EXPIRED)

    def _send(self, sub: Subscription, entries: list[Entry]) -> None:
        if sub.form is not None:
            for made, first, last in sub.form.events(self, entries, sub.filters):
                sub.connection.send(sub, made, first, last)
            return
        members = self._wanted(sub, entries)
        if members:
            sub.connection.send(sub, self.frame(members), members[0]["seq"], members[-1]["seq"])

    def _wanted(self, sub: Subscription | None, entries: list[Entry]) -> list[Members]:
        members = [whole_members(entry) for entry in entries]
        filters = sub.filters if sub is not None else None
        return members if filters is None else [one for one in members if passes(filters, one)]

    # -- the state a client begins with -------------------------------------------------------------------------

    def _send_snapshot(self, sub: Subscription) -> None:
        if sub.form is None:
            self.meters.snapshots.inc()
            for frame in self.snapshots(sub, 0):
                sub.connection.send_control(frame)
        elif self.delivery is Delivery.CONFLATING:
            self._send(sub, self._state_entries())

    def snapshots(self, sub: Subscription | None, depth: int, id: Any = None) -> list[Frame]:
        """The state in as many frames as it takes; the last one is `final`."""
        entries = self._state_entries()
        parts: list[list[Entry]] = [[]]
        size = 0
        for entry in entries:
            if parts[-1] and (size + entry.size > BYTES_MAX or len(parts[-1]) >= ROWS_MAX):
                parts.append([])
                size = 0
            parts[-1].append(entry)
            size += entry.size
        alone = self.channel.snapshot_rows == 1 and self.kind != ALERTS
        frames = []
        for part in parts:
            members = self._wanted(sub, part)
            data = (members[-1] if members else None) if alone else members
            ts = part[-1].ts if part else 0
            body = Snapshot(self.name, self.epoch, self.next, ts, data, part is parts[-1], id)
            frames.append(Frame(body, compress_from=self.compress_from))
        return frames

    def _state_entries(self) -> list[Entry]:
        """What a snapshot shows, oldest first: the newest records, of alerts those that are active."""
        if self.kind != ALERTS:
            read = map(self.texts.read, self.newest(self.channel.snapshot_rows))
            return [entry for entry in read if entry is not None]
        recent = self._desk.streams.alerts()
        if recent is None or recent.epoch != self.reader.epoch:
            return []
        newest: dict[str, Entry] = {}
        states = self._desk.alerts
        active = states.active()  # before the items, so that these have what came meanwhile
        items = recent.refresh()
        held = {item.value.alert_id for item in items}
        assert isinstance(self.source, DeskSource)
        for alert in active:
            # told so long ago that the ring has gone on, and its number with it
            if alert.alert_id not in held and (alert.account_id or states.account) == self.source.account:
                newest[alert.alert_id] = Entry(0, alert.timestamp // _NS_PER_MS, 0, UNKNOWN_BYTES, alert)
        for item in items:
            if item.key_id == self.key_id and item.nth < self.next:
                newest.pop(item.value.alert_id, None)
                ts = (item.event_ns or item.recv_ns) // _NS_PER_MS
                newest[item.value.alert_id] = Entry(item.nth + 1, ts, item.flags, UNKNOWN_BYTES, item.value)
        return [entry for entry in newest.values() if not entry.value.resolved]
