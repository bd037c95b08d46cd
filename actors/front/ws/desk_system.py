"""The channel `system`: actors that start, end and come back, and reloads, as the supervisor's page tells them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....ringbuf import RingError, read_page
from ..stamps import rfc3339
from .desk_channels import SUPERVISOR, DeskChannel, DeskSource
from .looking import LookedAt
from .names import passes
from .topics import GapReason, State
from .wire import Frame, Snapshot, Update

if TYPE_CHECKING:
    from .meters import Meters
    from .subscription import Subscription

LOOK_S = 1.0
_NS_PER_MS = 1_000_000


class SystemTopic(LookedAt):
    """What happens to the daemon's processes. The supervisor numbers it, from 1 at each start of the daemon."""

    def __init__(
        self, channel: DeskChannel, source: DeskSource, meters: Meters, compress_from: int, folder: Path
    ) -> None:
        self._path = folder / f"{SUPERVISOR}.page"
        self._events: list[dict[str, Any]] = []  # the newest
        self.next = 0  # number of the last event that was sent
        super().__init__(channel, source, None, {}, meters, compress_from)  # type: ignore[arg-type] - it has no stream

    def bind(self, source: Any, reader: Any, companions: Any) -> None:
        self.source, self.companions = source, companions
        self.key_id, self.name, self.epoch = 0, self.kind, "none"
        self._look()
        self.next = self._events[-1]["seq"] if self._events else 0

    @property
    def readers(self) -> tuple[Any, ...]:
        return ()

    def _look(self) -> None:
        try:
            page = read_page(self._path)
        except (RingError, OSError):
            return  # actors that run without a supervisor
        epoch = f"{page.started_ns // _NS_PER_MS:x}"
        if epoch != self.epoch:
            self.epoch, self.next = epoch, 0
        self._events = [
            {
                "ts": one["ts"], "seq": one["n"], "type": "system", "level": one["level"], "message": one["message"],
                "actor": one["actor"], "timestamp": rfc3339(one["ts"] * _NS_PER_MS),
            }
            for one in page.detail.get("events", [])
        ]  # fmt: skip

    # -- the timer ----------------------------------------------------------------------------------------------

    def _wait_s(self) -> float:
        return LOOK_S

    def _check(self) -> None:
        epoch = self.epoch
        self._look()
        if self.epoch != epoch:
            for sub in self.members:
                self.send_gap(sub, 1, sub.position, GapReason.EPOCH_CHANGED)
                sub.position = 0
        for sub in tuple(self.members):
            if sub.live:
                self._send(sub)
        self.next = self._events[-1]["seq"] if self._events else 0

    def _send(self, sub: Subscription) -> None:
        """What came since the last one that it has got."""
        for event in self._events:
            seq = event["seq"]
            if seq <= sub.position:
                continue
            if seq > sub.position + 1:
                self.send_gap(sub, sub.position + 1, seq - 1, GapReason.UPSTREAM_GAP)
            sub.position = seq
            if sub.filters is not None and not passes(sub.filters, event):
                continue
            if sub.form is not None:
                frame = sub.form.system(self, seq, event)
            else:
                frame = Frame(Update(self.name, seq, event["ts"], event))
            sub.connection.send(sub, frame, seq, seq)

    def send_gap(self, sub: Subscription, first: int, last: int, reason: GapReason) -> None:
        if sub.form is None:
            super().send_gap(sub, first, last, reason)
        else:
            self.meters.gap(reason.value)

    # -- subscriptions ------------------------------------------------------------------------------------------

    def attach(self, sub: Subscription) -> None:
        sub.live = True

    def detach(self, sub: Subscription) -> None:
        self.members.pop(sub, None)
        sub.live = False

    def refilter(self, sub: Subscription) -> None:
        pass

    def prepare(self, sub: Subscription) -> bool:
        self._look()
        request, newest = sub.request, self._events[-1]["seq"] if self._events else 0
        sub.position = newest
        oldest = self._events[0]["seq"] if self._events else 1
        since = request.from_seq
        if since is None or request.epoch not in (None, self.epoch) or not oldest - 1 <= since <= newest:
            return False
        sub.position = since
        return True

    def start(self, sub: Subscription) -> None:
        since = sub.request.from_seq
        if since is not None:
            changed = sub.request.epoch not in (None, self.epoch)
            reason = GapReason.EPOCH_CHANGED if changed else GapReason.RESUME_EXPIRED
            self.send_gap(sub, 1 if changed else min(since, sub.position) + 1, sub.position, reason)
        self.attach(sub)

    def replay_some(self, sub: Subscription) -> bool:
        self._send(sub)
        self.attach(sub)
        return True

    def rebuild(self, sub: Subscription) -> None:
        pass

    def seq_of(self, sub: Subscription) -> int:
        return sub.position

    def snapshot(self, sub: Subscription | None, depth: int, id: Any = None) -> Frame:
        return Frame(Snapshot(self.name, self.epoch, self.next, 0, None, True, id))

    def judge(self, producer_alive: bool) -> tuple[State, int]:
        return State.LIVE, 0
