"""The fan-out of one worker: from the rings to every subscribed connection, in one callback.

The doorbell wakes `_wake`, which reads what is new in each followed ring, renders and encodes each record once and
writes it to the transports: no task, no queue and no wait lie between a record and its readers. Only then, when the
sockets have been written, it asks for the next bell, makes a barrier and looks again. A timer looks too, so that a lost
bell costs at most its period.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ....codecs.record import Flag
from ....ringbuf import LayoutMismatch, SegmentMissing, StreamReader, full_barrier
from ....ringbuf.doorbell import SLEEP_MAX_S
from ...catalog import Catalog, Source
from ...latency import FrontLatency
from ...runtime import ActorContext
from .book import BookTopic, View
from .cadence import Cadence
from .config import WsConfig
from .connection import CLOSE_INTERNAL, CLOSE_SLOW, Connection
from .desk_channels import ALL_CHANNELS, DESK_CHANNELS, DeskSource
from .errors import NOT_SUPPORTED, FrameError
from .follow import Follower
from .liveness import producer_runs
from .meters import Meters
from .names import ChannelRequest
from .outbox import Delivery
from .registry import Registry
from .render import KEY_ID, NTH, TS_RECV_NS, Row
from .subscription import PATIENCE, Subscription
from .topics import GapReason, RecordTopic, State, Topic

if TYPE_CHECKING:
    from ..desk.desk import Desk

log = logging.getLogger(__name__)

ROWS_PER_TURN = 512  # of one ring; then the event loop gets to its sockets before the next turn
TURNS_MAX = 64  # in a row, where all that is new goes out at once
LEVELS_PER_TURN = 16_384  # only their keys are looked at
BOOK_REST_S = 0.01  # books go out ten times a second; a bell for each level would be a waste
SWEEP_S = 1.0
COUNT_LOOK_S = 0.001
IDLE_TICK_S = 0.5  # while nobody is subscribed to anything
_SNAPSHOT = np.uint32(Flag.SNAPSHOT)


class Engine:
    """All topics of one worker and the pump that serves them.

    Args:
        ctx: whose doorbell wakes us.
        desk: the desk's streams.
    """

    def __init__(self, ctx: ActorContext, catalog: Catalog, config: WsConfig, desk: Desk) -> None:
        self.ctx = ctx
        self.catalog = catalog
        self.config = config
        self.meters = Meters(ctx.page)
        self.connections: dict[str, Connection] = {}
        self.followers: dict[tuple[str, str, int], Follower] = {}  # by producer, record and epoch
        self._followed: tuple[Follower, ...] = ()  # the same; replaced, so that a loop over it may change it
        self._cadence = Cadence(self._look)
        self.registry = Registry(catalog, config, self.meters, self._cadence.schedule, desk)
        self.topics = self.registry.topics
        self._generation: object = (catalog.generation, None)
        self.started_ns = time.time_ns()
        self._spin_s = config.spin_us / 1e6
        self._spin_until = 0.0  # monotonic
        self._arming = False
        self._running = False
        self._swept_at = 0.0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        # open connections of the instance, and its start, UNIX ns: whoever knows more than this worker says so
        self.instance: Callable[[], tuple[int, int]] = lambda: (len(self.connections), self.started_ns)
        self.on_new_keys: Any = None  # called when the catalog changed, for subscriptions with ``*``

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen to the doorbell; from the event loop."""
        self._loop = asyncio.get_running_loop()
        self._running = True
        if self.ctx.doorbell_index is not None:
            self.ctx.on_bell(self._wake)
        self._tick()

    def stop(self) -> None:
        """Give every line back and unmap; from the event loop."""
        self._running = False
        self._cadence.stop()
        for timer in self._timers.values():
            timer.cancel()
        if self.ctx.doorbell_index is not None:
            self._loop.remove_reader(self.ctx.doorbells[self.ctx.doorbell_index])
        for topic in self.topics.values():
            topic.closed()
        for follower in self.followers.values():
            follower.close()
        self.followers, self._followed = {}, ()
        self.registry.close()

    # -- the pump -----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._running:
            return
        more = self._lone_rows() and self.pump()
        if self._spin_s:
            self._spin_until = time.monotonic() + self._spin_s
        if not self._arming:
            self._arming = True
            self._loop.call_soon(self._wake_again if more else self._rest)

    def _lone_rows(self) -> bool:
        """Hand out what most wakes are for: one record in a ring. True when something else is there too."""
        self.meters.wakes.value += 1
        rest = False
        for follower in self._followed:
            cursor = follower.cursor
            row = None if follower.rest_s else follower.lone(cursor)
            if row is None:
                rest |= follower.behind > 0
                continue
            picked_ns = time.time_ns()
            follower.cursor = cursor + 1
            self.meters.rows.value += 1
            topic = follower.topics.get(row[KEY_ID])
            if topic is None:
                continue
            try:
                handed_out = topic.publish_lone(row)  # type: ignore[attr-defined]
            except Exception:  # noqa: BLE001 - logged there; the pump must go on for all others
                topic.next = row[NTH] + 1  # type: ignore[attr-defined]
                self._failed([topic], f"channel {topic.name}")
                continue
            if not handed_out:
                self._publish(topic, [row], time.monotonic())
            written_ns = time.time_ns()
            if handed_out:
                self.meters.delivery.observe((written_ns - row[TS_RECV_NS]) / 1e9)
            follower.latency.written(row[TS_RECV_NS], picked_ns, written_ns)
        return rest

    def _wake_again(self) -> None:
        self._arming = False
        self._wake()

    def _rest(self) -> None:
        """Ask for the next bell. Runs when the event loop has written the sockets."""
        self._arming = False
        if not self._running:
            return
        now = time.monotonic()
        if now < self._spin_until:
            self._arming = True
            self._loop.call_soon(self._spin)
            return
        resting, ready = [], []
        for follower in self.followers.values():
            (ready if follower.resting_until <= now else resting).append(follower)
        for follower in ready:
            follower.arm()
        full_barrier()  # pairs with the alarm load of the producers
        if resting and "rest" not in self._timers:
            until = min(follower.resting_until for follower in resting)
            self._timers["rest"] = self._loop.call_later(until - now, self._rested)
        if any(follower.behind for follower in ready):
            self._wake()

    def _spin(self) -> None:
        """Look without a bell, once in each turn of the event loop."""
        self._arming = False
        now = time.monotonic()
        if any(follower.resting_until <= now and follower.behind for follower in self._followed):
            self._wake()
        else:
            self._rest()

    def _rested(self) -> None:
        self._timers.pop("rest", None)
        self._wake()

    def pump(self) -> bool:
        """Hand out what is new; True when there is more than one turn takes."""
        more = False
        now = time.monotonic()
        for follower in self._followed:
            if follower.resting_until <= now and follower.behind > 0:
                try:
                    more |= self._levels(follower, now) if follower.rest_s else self._records(follower, now)
                except Exception:  # noqa: BLE001 - logged there; the pump must go on for all others
                    self._failed(follower.topics.values(), f"ring {follower.producer}.{follower.record}")
        return more

    def pump_all(self) -> None:
        """Hand out everything that is new, as far as a bounded number of turns goes."""
        for _ in range(TURNS_MAX):
            if not self.pump():
                return

    def _records(self, follower: Follower, now: float) -> bool:
        rows, read, lost = follower.read_rows(ROWS_PER_TURN)
        picked_ns = time.time_ns()
        self.meters.rows.value += read
        topics = follower.topics
        for topic, mine in _by_topic(rows, topics):
            self._publish(topic, mine, now)
        if rows:
            follower.latency.written(rows[-1][TS_RECV_NS], picked_ns, time.time_ns())
        if lost:
            self._lapped(follower, lost)
        return read == ROWS_PER_TURN

    def _publish(self, topic: Any, rows: list[Row], now: float) -> None:
        try:
            if len(rows) > 1 or not topic.publish_lone(rows[0]):
                topic.publish(rows, now, self._cadence.hold)
            if topic.state is not State.LIVE:
                topic.set_state(*topic.judge(True))
        except Exception:  # noqa: BLE001 - logged there; the pump must go on for all others
            topic.next = max(topic.next, rows[-1][NTH] + 1)
            self._failed([topic], f"channel {topic.name}")
        self.meters.delivery.observe((time.time_ns() - rows[-1][TS_RECV_NS]) / 1e9)

    def _lapped(self, follower: Follower, lost: int) -> None:
        """Keys that go on see the hole by their numbers; those that went quiet are found by the next sweep."""
        self.meters.laps.inc()
        self.meters.lapped.inc(lost)
        self._swept_at = 0.0
        log.warning(
            "ring=%s.%s lost=%d to=%d: read too late. What the tails still hold is sent; raise [front] workers, or the "
            "capacity of this ring in [feed]", follower.producer, follower.record, lost, follower.cursor,
        )  # fmt: skip

    def _catch_up(self, topic: Any, now: float) -> None:
        if isinstance(topic, RecordTopic) and (rows := topic.catch_up()):
            self._publish(topic, rows, now)

    def _levels(self, follower: Follower, now: float) -> bool:
        rows, read, lost = follower.read(LEVELS_PER_TURN)
        if len(rows):
            follower.latency.picked(int(rows["ts_recv_ns"][-1]), time.time_ns())
        follower.resting_until = now + follower.rest_s
        self.meters.rows.value += read
        if lost:
            self.meters.laps.inc()
            for topic in follower.topics.values():
                topic.changed(0)  # type: ignore[attr-defined]
        replaced = rows[(rows["flags"] & _SNAPSHOT) != 0]
        for key_id, nth in zip(replaced["key_id"].tolist(), replaced["nth"].tolist(), strict=True):
            topic = follower.topics.get(key_id)
            if isinstance(topic, BookTopic):
                topic.replaced(nth + 1)
        counts = dict(zip(rows["key_id"].tolist(), rows["nth"].tolist(), strict=True))  # the last of each key stays
        for key_id, nth in counts.items():
            topic = follower.topics.get(key_id)
            if isinstance(topic, BookTopic):
                topic.changed(nth + 1)
        return read == LEVELS_PER_TURN

    def _failed(self, topics: Iterable[Topic], where: str) -> None:
        """An error of ours: log it and let go of those whom it concerns, and of nobody else."""
        log.exception("%s failed: its subscribers are disconnected", where)
        for topic in tuple(topics):
            for sub in tuple(topic.members):
                self.meters.failures.inc()
                sub.connection.close(CLOSE_INTERNAL, "internal error")

    # -- now and then -------------------------------------------------------------------------------------------

    def _look(self, view: View) -> None:
        """Bring the readers of a book up to date."""
        if not self._running or not view.subs:
            return
        seq, topic = view.seq, view.topic
        try:
            complete = view.refresh()
        except Exception:  # noqa: BLE001 - logged there; the pump must go on for all others
            self._failed([topic], f"channel {topic.name}")
            return
        if view.seq != seq or not complete:
            view.due = time.monotonic() + view.interval_s
        if not complete:
            self._cadence.schedule(view)
        if view.suspended or topic.state is not State.LIVE:
            topic.set_state(*topic.judge(producer_runs(topic.reader)))

    def _tick(self) -> None:
        """The bound of every sleep, and what has to be done now and then."""
        if not self._running:
            return
        self._timers["tick"] = self._loop.call_later(SLEEP_MAX_S if self.followers else IDLE_TICK_S, self._tick)
        try:
            lag = max((follower.behind for follower in self.followers.values()), default=0)
            self.meters.lag.set(lag)
            if lag:
                self._wake()
            now = time.monotonic()
            if now - self._swept_at >= SWEEP_S:
                self._swept_at = now
                self._sweep(now)
        except Exception:
            log.exception("sweep failed")

    def _sweep(self, now: float) -> None:
        for topic in tuple(self.topics.values()):
            if isinstance(topic, BookTopic):
                topic.look()
        self._find_missed(now)
        self.catalog.refresh_after(SWEEP_S * 0.9)
        generation = (self.catalog.generation, self.registry.places.version() if self._desk_wanted() else None)
        if generation != self._generation:
            self._generation = generation
            self._rebind()
            if self.on_new_keys is not None:
                self.on_new_keys()
        runs: dict[int, bool] = {}
        for topic in tuple(self.topics.values()):
            if not topic.followed:
                continue
            pid = topic.reader.producer_pid
            if pid not in runs:
                runs[pid] = producer_runs(topic.reader)
            topic.set_state(*topic.judge(runs[pid]))
        self.show()

    def _desk_wanted(self) -> bool:
        """Whether anybody has or waits for a channel of the desk."""
        return any(topic.kind in DESK_CHANNELS for topic in self.topics.values()) or any(
            request.account for connection in self.connections.values() for request in connection.patterns
        )

    def _find_missed(self, now: float) -> None:
        """Records that the ring did not show: lapped ones, or the one that was being counted when the topic began."""
        counted = [
            (follower, follower.reader.published(), topic, follower.reader.count(topic.key_id))
            for follower in self.followers.values()
            for topic in follower.topics.values()
            if isinstance(topic, RecordTopic)
        ]
        self.pump_all()
        for follower, published, topic, number in counted:
            if topic.next < number and follower.cursor >= published:  # what was counted had been published before
                self._catch_up(topic, now)

    def show(self) -> None:
        meters = self.meters
        meters.connections.set(len(self.connections))
        meters.followed.set(len(self.followers))
        numbers = dict.fromkeys(ALL_CHANNELS, 0)
        for topic in self.topics.values():
            numbers[topic.kind] += len(topic.members)
        for kind, number in numbers.items():
            meters.subscribers(kind, number)

    # -- rings ---------------------------------------------------------------------------------------------------

    def _follow(self, topic: Topic) -> None:
        """See to it that the topic's ring is read."""
        self.topics[topic.name] = topic
        if not topic.followed:
            topic.opened()
            return
        place = (topic.reader.spec.producer, topic.reader.spec.record, topic.reader.epoch)
        follower = self.followers.get(place)
        if follower is None:
            rest_s = BOOK_REST_S if isinstance(topic, BookTopic) else 0.0
            latency = FrontLatency(self.ctx.page, topic.source.exchange, topic.reader)
            follower = self.followers[place] = Follower(
                topic.reader, latency, f"ws.{self.ctx.name}", self.ctx.doorbell_index, rest_s
            )
            self._followed = tuple(self.followers.values())
            if not self._arming:
                self._arming = True
                self._loop.call_soon(self._rest)
        follower.add(topic)

    def _unfollow(self, topic: Topic) -> None:
        if not topic.followed:
            topic.closed()
            return
        place = (topic.reader.spec.producer, topic.reader.spec.record, topic.reader.epoch)
        follower = self.followers.get(place)
        if follower is not None:
            follower.remove(topic)
            if not follower.topics:
                follower.close()
                del self.followers[place]
                self._followed = tuple(self.followers.values())

    def _rebind(self) -> None:
        """The catalog changed: move topics whose stream was made anew, or that another producer has now."""
        replaced: dict[tuple[str, str], StreamReader] = {}
        for topic in tuple(self.topics.values()):
            source = self.registry.current(topic) if topic.followed else None
            if source is None or source.reader is None or source.key is None or topic.source.key is None:
                continue  # it keeps what it has: its producer is down, or not there yet
            reader = topic.reader
            same = (source.reader.spec.producer, source.epoch) == (reader.spec.producer, reader.epoch)
            if same and source.key.attributes == topic.source.key.attributes:
                continue
            try:
                self._move(topic, source, same, replaced)
            except (SegmentMissing, LayoutMismatch) as error:
                log.warning("channel=%s stays on its old stream: %s", topic.name, error)
            except Exception:  # noqa: BLE001 - logged there; the pump must go on for all others
                self._failed([topic], f"channel {topic.name}")
        in_use = {id(reader) for reader in self.registry.readers.values()}
        for topic in self.topics.values():
            in_use |= {id(reader) for reader in topic.readers}
        for reader in replaced.values():
            if id(reader) not in in_use:
                reader.close()

    def _move(self, topic: Topic, source: Any, same: bool, replaced: dict[tuple[str, str], StreamReader]) -> None:
        """`source` is of the topic's own kind."""
        self.pump_all()  # whatever the old stream still has
        if same:
            next_record = getattr(topic, "next", 0)
            topic.bind(source, topic.reader, topic.companions)
            if isinstance(topic, RecordTopic):
                topic.next = next_record
            return
        producer, record = source.reader.spec.producer, source.reader.spec.record
        self._unfollow(topic)
        for name in (record, *topic.companions):
            if (producer, name) not in replaced and (old := self.registry.refreshed(producer, name)) is not None:
                replaced[producer, name] = old
        topic.bind(source, self.registry.reader(producer, record), self.registry.companions(producer, topic.channel))
        self._follow(topic)
        for sub in tuple(topic.members):
            self._start_over(topic, sub)

    def _start_over(self, topic: Topic, sub: Subscription) -> None:
        """Numbering restarted under a subscription."""
        sub.connection.outbox.rebuild.pop(sub, None)
        if sub in sub.connection.replaying:
            sub.connection.replaying.remove(sub)
        sub.held, sub.replay = None, ()
        topic.detach(sub)
        topic.members[sub] = None
        if isinstance(topic, BookTopic):
            sub.view = topic.view_of(sub)
        last = sub.view.seq if sub.view is not None else topic.next  # type: ignore[attr-defined]
        topic.send_gap(sub, 1, last, GapReason.EPOCH_CHANGED)
        if sub.form is not None and sub.delivery is Delivery.PROTECTED:  # no snapshot shows what has come already
            topic.rewind(sub, 1)
            self.room(sub.connection)
            return
        topic.rebuild(sub)
        topic.attach(sub)

    # -- subscriptions ------------------------------------------------------------------------------------------

    def subscribe(
        self, connection: Connection, request: ChannelRequest, source: Source | DeskSource
    ) -> tuple[Subscription, bool]:
        """Make a subscription that has not begun yet; `(it, whether it resumes)`.

        Raises:
            FrameError
        """
        topic = self.registry.topic(request.kind, source)
        if isinstance(topic, BookTopic) and topic.deep is None and request.depth > 20:
            message = f"channel {topic.name!r} has 20 levels a side: use depth 5 or 20"
            raise FrameError(NOT_SUPPORTED, message, topic.name)
        old = connection.subs.get(topic.name)
        if old is not None:
            self.unsubscribe(old)
        sub = Subscription(connection, topic, request)
        self._follow(topic)  # before `prepare`, so that what is published from here on is read
        resumed = topic.prepare(sub)
        topic.members[sub] = None
        connection.subs[topic.name] = sub
        return sub, resumed

    def begin(self, sub: Subscription, resumed: bool) -> None:
        """Send what stands before the live part, and go live as soon as that is through."""
        topic, request = sub.topic, sub.request
        if sub.connection.subs.get(topic.name) is not sub:
            return
        if self._must_wait(sub):
            self._loop.call_later(COUNT_LOOK_S, self.begin, sub, resumed)
            return
        if topic.state is not State.LIVE and sub.form is None:
            sub.connection.send_control(topic.status())
        shown = request.snapshot and topic.channel.snapshot_rows > 0  # else nothing stands for what came since
        if resumed or (not shown and request.from_seq is None):
            sub.connection.replaying.append(sub)
            self.room(sub.connection)
        else:
            topic.start(sub)

    def room(self, connection: Connection) -> None:
        """A connection takes more: rebuild what it was too slow for, go on replaying."""
        outbox = connection.outbox
        while connection.open and connection.clear and outbox.rebuild:
            sub, first = next(iter(outbox.rebuild.items()))
            if self._must_wait(sub):
                self._loop.call_later(COUNT_LOOK_S, self.room, connection)
                return
            del outbox.rebuild[sub]
            if sub.delivery is Delivery.PROTECTED:
                self.meters.read_back.inc()
                sub.topic.rewind(sub, first)
                continue
            if connection.rebuilt(time.monotonic()):
                connection.close(CLOSE_SLOW, "too many snapshots")
                return
            sub.topic.send_gap(sub, first, sub.topic.seq_of(sub), GapReason.SLOW_CONSUMER)
            sub.topic.rebuild(sub)
        while connection.open and connection.clear and connection.replaying:
            sub = connection.replaying[0]
            if self._must_wait(sub):
                self._loop.call_later(COUNT_LOOK_S, self.room, connection)
                return
            if sub.topic.replay_some(sub) and connection.replaying and connection.replaying[0] is sub:
                connection.replaying.popleft()

    def _must_wait(self, sub: Subscription) -> bool:
        """Whether records that were published are not in their tail yet, where snapshots and replays look for them."""
        if not isinstance(sub.topic, RecordTopic) or sub.topic.counted or not sub.patience:
            return False
        sub.patience -= 1
        return True

    async def counted(self, topic: Topic) -> None:
        """Wait until the tail has what was handed out, but not for ever."""
        for _ in range(PATIENCE):
            if not isinstance(topic, RecordTopic) or topic.counted:
                return
            await asyncio.sleep(COUNT_LOOK_S)

    def unsubscribe(self, sub: Subscription) -> None:
        """End a subscription; what waits for it is dropped."""
        connection, topic = sub.connection, sub.topic
        if connection.subs.get(topic.name) is sub:
            del connection.subs[topic.name]
        if sub in connection.replaying:
            connection.replaying.remove(sub)
        sub.held = None
        connection.outbox.forget(sub)
        topic.detach(sub)
        if not topic.members and self.topics.get(topic.name) is topic:
            del self.topics[topic.name]
            self._unfollow(topic)

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.pop(connection.id, None)
        self.meters.connections.set(len(self.connections))
        for sub in tuple(connection.subs.values()):
            self.unsubscribe(sub)


def _by_topic(rows: list[Row], topics: dict[int, Topic]) -> Iterable[tuple[Topic, list[Row]]]:
    """Rows of subscribed keys, together for each key, in order."""
    if len(rows) == 1:
        topic = topics.get(rows[0][KEY_ID])
        return ((topic, rows),) if topic is not None else ()
    groups: dict[int, list[Row]] = {}
    for row in rows:
        key_id = row[KEY_ID]
        if key_id in topics:
            groups.setdefault(key_id, []).append(row)
    return [(topics[key_id], mine) for key_id, mine in groups.items()]
