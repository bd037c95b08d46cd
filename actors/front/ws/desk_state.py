"""Channels that show a state of the desk: PnL and positions, looked at now and then while somebody is subscribed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ....ringbuf import StreamReader
from .desk_channels import DeskChannel, DeskSource
from .epochs import epoch_text
from .liveness import producer_runs
from .looking import LookedAt
from .topics import GapReason, State
from .wire import Frame, Snapshot, Update, joined

if TYPE_CHECKING:
    from ..desk.desk import Desk
    from ..desk.portfolio import Latest
    from .meters import Meters
    from .subscription import Subscription

CLOSED_KEPT_NS = 60 * 10**9  # far longer than a reader may be slow
NOTHING = "none"  # the epoch while there is no portfolio
_NS_PER_MS = 1_000_000


@dataclass
class Standing:
    """A state at one moment.

    Attributes:
        seq: records that its rows have had: whoever sees the same number sees the same state.
        rows: what counts now; `changed` has those too that were closed since the last frame for all, and those that
            were lately: the frame that said so may have made room for a newer one.
        figures: what decides whether a change is worth a frame.
    """

    seq: int = 0
    recv_ns: int = 0
    rows: list[Latest] = field(default_factory=list)
    changed: list[Latest] = field(default_factory=list)
    figures: tuple[int, ...] = ()
    frames: dict[Any, Frame | None] = field(default_factory=dict)  # made of it, by form


class StateTopic(LookedAt):
    """A state of one account, or of several together.

    Args:
        open_reader: opens a portfolio's stream for us; None where there is none.
        interval_s: how often it is looked at.
        frame_bytes_max: size of a frame; a state that is larger goes out in several.
    """

    channel: DeskChannel

    def __init__(
        self, channel: DeskChannel, source: DeskSource, meters: Meters, compress_from: int, desk: Desk,
        open_reader: Callable[[], StreamReader | None], interval_s: float, frame_bytes_max: int,
    ) -> None:  # fmt: skip
        # The shapes are those of REST, which needs the front's state, which needs this package for its configuration.
        from .desk_shapes import shapes_of

        self.shapes = shapes_of(channel.kind, desk.portfolio, frame_bytes_max)
        self.interval_s = interval_s
        self._open_reader = open_reader
        self._told = Standing()  # what the last frame for all was made of
        self._apart: dict[Subscription, None] = {}  # those that were shown another one since
        self._now = Standing()
        super().__init__(channel, source, None, {}, meters, compress_from)  # type: ignore[arg-type] - see `bind`

    def bind(self, source: Any, reader: Any, companions: Any) -> None:
        self.source, self.companions = source, companions
        self.key_id = source.key_id
        self.name = f"{self.kind}.{source.account}"
        self._take_reader()

    def _take_reader(self) -> None:
        """The stream as it is now; it may come, and be made anew."""
        self.reader = self._open_reader()  # pyright: ignore[reportAttributeAccessIssue] - None: nobody produces it
        self.epoch = epoch_text(self.reader) if self.reader is not None else NOTHING

    @property
    def readers(self) -> tuple[StreamReader, ...]:
        return (self.reader,) if self.reader is not None else ()

    def _includes(self, row: Latest) -> bool:
        source = self.source
        if source.key is not None:
            return row.account == source.account
        return source.accounts is None or row.account in source.accounts

    def look(self) -> Standing:
        """The state now."""
        rows = [row for row in self.shapes.rows() if self._includes(row)]
        seq = sum(row.count for row in rows)
        if seq != self._now.seq:
            counted = self.shapes.open_rows(rows)
            recv_ns = max((row.recv_ns for row in rows), default=0)
            since_ns = min(self._told.recv_ns or recv_ns, recv_ns - CLOSED_KEPT_NS)
            still = set(map(id, counted))
            changed = [row for row in rows if id(row) in still or row.recv_ns > since_ns]
            self._now = Standing(seq, recv_ns, counted, changed, self.shapes.figures(counted))
        return self._now

    # -- the timer ----------------------------------------------------------------------------------------------

    def opened(self) -> None:
        if self._timer is None:
            self._told = self.look()
        super().opened()

    def _wait_s(self) -> float:
        """To the next full multiple of the interval by the wall clock, so that all workers look at the same time."""
        return self.interval_s - time.time() % self.interval_s

    def _check(self) -> None:
        epoch = self.epoch
        self._take_reader()
        if self.epoch != epoch:
            self._start_over(first=epoch == NOTHING)
        now = self.look()
        if now.seq and self._moved(now, self._told.figures):
            self._told = now
            self._apart.clear()
            for sub in tuple(self.members):
                if sub.live:
                    self._send(sub, now)
        elif now.seq:
            for sub in tuple(self._apart):
                if sub.live and self._moved(now, sub.shown):
                    self._send(sub, now)
        self.set_state(*self.judge(self.reader is not None and producer_runs(self.reader)))

    def _moved(self, now: Standing, before: tuple[int, ...]) -> bool:
        """Whether it differs from what was told by more than what is not worth a frame."""
        if len(before) != len(now.figures):
            return True
        return any(
            abs(new - old) > tolerance
            for new, old, tolerance in zip(now.figures, before, self.shapes.tolerances, strict=True)
        )

    def _start_over(self, *, first: bool) -> None:
        """Numbering restarted, or begins."""
        self._told, self._now = Standing(), Standing()
        self._apart.clear()
        for sub in tuple(self.members):
            if not first:
                self.send_gap(sub, 1, sub.position, GapReason.EPOCH_CHANGED)
            sub.position = 0
            if not first:
                self.rebuild(sub)

    # -- frames -------------------------------------------------------------------------------------------------

    def _show(self, sub: Subscription, now: Standing) -> None:
        """Remember what a client knows: one that came between two frames for all was shown what those may not show."""
        sub.shown = now.figures
        if now is not self._told:
            self._apart[sub] = None

    def _send(self, sub: Subscription, now: Standing) -> None:
        self._show(sub, now)
        if now.seq <= sub.position:
            return
        jumped, sub.position = now.seq > sub.position + 1, now.seq
        frame = self._frame(sub, now)
        if frame is not None:
            sub.connection.send(sub, frame.conflated() if jumped and sub.form is None else frame, now.seq, now.seq)

    def _frame(self, sub: Subscription, now: Standing) -> Frame | None:
        if sub.filters is not None and sub.form is not None:
            return sub.form.state(self, now, sub.filters)
        if sub.form not in now.frames:
            now.frames[sub.form] = sub.form.state(self, now, None) if sub.form is not None else self._update(now)
        return now.frames[sub.form]

    def _update(self, now: Standing) -> Frame:
        """What is too large for an update is a snapshot, which may have several parts."""
        parts = self._parts(now)
        if len(parts) > 1:
            return joined(self._snapshots(now, parts))
        body = Update(self.name, now.seq, now.recv_ns // _NS_PER_MS, parts[0])
        return Frame(body, compress_from=self.compress_from)

    def _parts(self, now: Standing) -> list[Any]:
        head = {"ts": now.recv_ns // _NS_PER_MS, "seq": now.seq, "account_id": self.source.account}
        return [{**head, **part} for part in self.shapes.parts(now)]

    def _snapshots(self, now: Standing, parts: list[Any], id: Any = None) -> list[Frame]:
        ts = now.recv_ns // _NS_PER_MS
        return [
            Frame(
                Snapshot(self.name, self.epoch, now.seq, ts, part, part is parts[-1], id),
                compress_from=self.compress_from,
            )
            for part in parts
        ]

    # -- subscriptions ------------------------------------------------------------------------------------------

    def attach(self, sub: Subscription) -> None:
        sub.live = True

    def detach(self, sub: Subscription) -> None:
        self.members.pop(sub, None)
        self._apart.pop(sub, None)
        sub.live = False

    def refilter(self, sub: Subscription) -> None:
        pass

    def prepare(self, sub: Subscription) -> bool:
        request, now = sub.request, self.look()
        sub.position = now.seq
        if request.from_seq is None or request.epoch not in (None, self.epoch) or request.from_seq > now.seq:
            return False
        # a number that may not be of this state says nothing of whether the client knows it: it is shown once more
        sure = request.epoch is not None and not request.is_pattern
        sub.position = request.from_seq if sure else max(0, min(request.from_seq, now.seq - 1))
        return True

    def start(self, sub: Subscription) -> None:
        request = sub.request
        if request.from_seq is not None:
            changed = request.epoch not in (None, self.epoch)
            reason = GapReason.EPOCH_CHANGED if changed else GapReason.RESUME_EXPIRED
            self.send_gap(sub, 1 if changed else min(request.from_seq, sub.position) + 1, sub.position, reason)
        self.rebuild(sub)
        self.attach(sub)

    def replay_some(self, sub: Subscription) -> bool:
        """Only the newest value counts."""
        self._send(sub, self.look())
        self.attach(sub)
        return True

    def rebuild(self, sub: Subscription) -> None:
        now = self.look()
        if sub.form is None:
            self.meters.snapshots.inc()
            for frame in self.snapshots(sub, 0):
                sub.connection.send_control(frame)
        else:
            sub.position = 0
            self._send(sub, now)

    def seq_of(self, sub: Subscription) -> int:
        return sub.position

    def snapshots(self, sub: Subscription | None, depth: int, id: Any = None) -> list[Frame]:
        now = self.look()
        if sub is not None:
            sub.position = now.seq
            self._show(sub, now)
        return self._snapshots(now, self._parts(now) if now.seq else [None], id)

    def send_gap(self, sub: Subscription, first: int, last: int, reason: GapReason) -> None:
        if sub.form is None:
            super().send_gap(sub, first, last, reason)
        else:
            self.meters.gap(reason.value)

    def judge(self, producer_alive: bool) -> tuple[State, int]:
        return (State.LIVE if producer_alive else State.DOWN), self._now.recv_ns // _NS_PER_MS
