"""The consumer of one topic: one process owns it whole (`assign` and `seek`), so nothing is ever rebalanced.

A *session* is one aiokafka consumer. It ends when something failed that the library does not mend by itself, or when
the brokers do not answer for long; the next one begins after a pause. Positions are ours: they come from the rings, the
table, and only for a partition of which nothing is stored from the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
import time
from collections.abc import Coroutine, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from ..runtime import ActorContext, Stopped
from .batches import records, whole_batches
from .brokers import NotUp, servers
from .chunk import Chunk, Fetched
from .config import Config
from .metrics import Progress
from .rings import TopicRings
from .stored import stored_positions

log = logging.getLogger(__name__)

POLL_MS = 200  # getmany returns at the first event, or empty-handed after so long
POLL_BATCHES_MAX = 64  # of the producers', in one turn: few enough to stay in the CPU's cache
FETCH_BYTES_MAX = 16 << 20  # of one request; a second one is under way while the first is decoded
PARTITION_BYTES_MAX = 1 << 20
REQUEST_TIMEOUT_MS = 10_000
WATCH_INTERVAL_S = 2.0  # how often the brokers are asked for the ends of their logs
AWAY_S = 20.0  # no answer for so long: the next session begins anew with the configured addresses
METADATA_AGE_MS = 5_000  # new partitions are found within it
HELD_POLL_S = (0.001, 0.02)  # pauses while durable readers catch up
DEAD_CHECK_S = 1.0
CLOSE_S = 2.0
# ssl.SSLError is an OSError; a RuntimeError is what uvloop says of a connection that was just closed
FAILURES = (KafkaError, OSError, TimeoutError, RuntimeError)


class _LastWords(logging.Handler):
    """aiokafka tells why a connection failed in its log alone, every time anew: kept here, and said once by us."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""
        logger = logging.getLogger("aiokafka")
        logger.handlers = [self]
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


async def _within(seconds: float, work: Coroutine[Any, Any, Any]) -> None:
    """Let a part of the library end, whatever comes of it: its own cancelled tasks come out of it as if we were."""
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Link:
    """Follows one topic through all its sessions."""

    def __init__(self, ctx: ActorContext, rings: TopicRings, progress: Progress) -> None:
        self.ctx, self.rings, self.progress = ctx, rings, progress
        self.config: Config = ctx.config
        self.topic = self.config.topic
        self._group: str | None = self.config.group_id or None
        self._servers = self.config.bootstrap_servers
        self._words = _LastWords()
        self._assigned: set[int] = set()
        self._asking: asyncio.Task[None] | None = None
        self._answered = 0.0  # when a broker last answered, monotonic
        self._committed: dict[int, int] = {}
        self._commit_at = 0.0
        self._dead_since: dict[tuple[str, str], float] = {}

    # -- sessions -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the stop."""
        delay = self.config.retry_delay_s
        while not self.ctx.stopping.is_set():
            self._words.text = ""
            began = time.monotonic()
            try:
                with whole_batches():
                    await self._session()
            except Stopped:
                break
            except UnknownTopicOrPartitionError:
                self._state("missing", "the brokers have no such topic: create it, or take it out of [kafka] topics")
            except TopicAuthorizationFailedError:
                self._state("unauthorized", f"user {self.config.sasl_username!r} may not read it: grant READ, DESCRIBE")
            except GroupAuthorizationFailedError:
                log.warning("topic=%s group=%s may not commit offsets: none are", self.topic, self._group)
                self.progress.fail("group")
                self._group = None
            except NotUp as error:
                self._state("connecting", str(error))
                delay = self.config.retry_delay_s
            except (*FAILURES, ValueError) as error:
                self.progress.fail(type(error).__name__)
                words = f" ({self._words.text})" if self._words.text else ""
                self._state("away", f"{type(error).__name__}: {error}{words}")
            except asyncio.CancelledError as error:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                self.progress.fail("interrupted")  # one of the library's own tasks, not ours
                self._state("away", self._words.text or repr(error))
            if time.monotonic() - began > AWAY_S:
                delay = self.config.retry_delay_s
            await self.ctx.stopped_within(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, self.config.retry_delay_max_s)
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])  # cancelled again by the loop's end, it could not close its connection

    def _state(self, state: str, reason: str = "") -> None:
        progress = self.progress
        if (state, reason) != (progress.state, progress.reason):
            level = logging.INFO if state in ("connecting", "consuming", "resuming") else logging.WARNING
            if {state, progress.state} != {"consuming", "held"}:
                log.log(level, "topic=%s state=%s brokers=%s%s", self.topic, state, self.config.bootstrap_servers,
                        f": {reason}" if reason else "")  # fmt: skip
            progress.state, progress.reason = state, reason

    async def _session(self) -> None:
        if self.progress.state == "starting":
            self._state("connecting")
        connection = self.config.connection(self.ctx.folder)
        self._servers = connection["bootstrap_servers"]
        consumer = AIOKafkaConsumer(
            **connection, client_id=f"tickring-{self.ctx.name}", group_id=self._group,
            enable_auto_commit=False, auto_offset_reset="none", isolation_level="read_committed",
            fetch_max_bytes=FETCH_BYTES_MAX, max_partition_fetch_bytes=PARTITION_BYTES_MAX,
            request_timeout_ms=REQUEST_TIMEOUT_MS, metadata_max_age_ms=METADATA_AGE_MS, retry_backoff_ms=200,
        )  # fmt: skip
        watching: asyncio.Task[None] | None = None
        try:
            await self.ctx.unless_stopped(consumer.start())
            self._answered = time.monotonic()
            await self.ctx.unless_stopped(self._find_partitions(consumer))
            watching = asyncio.create_task(self._watch(consumer), name="watch")
            await self._follow(consumer, watching)
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            with contextlib.suppress(KafkaError):  # it is only for lag tools
                await self._commit(consumer, now=True)
            await _within(CLOSE_S, consumer.stop())
            await _within(CLOSE_S, consumer._client.close())  # which a failed `stop` leaves open

    # -- partitions ---------------------------------------------------------------------------------------------------

    async def _find_partitions(self, consumer: AIOKafkaConsumer) -> None:
        """Ask for the topic without having it made, which the library's own first question would."""
        client = consumer._client  # the consumer has no such question of its own
        request = MetadataRequest([self.topic], allow_auto_topic_creation=False)
        answer = (await client.send(client.get_random_node(), request)).to_object()
        for topic in answer["topics"]:
            if topic["error_code"]:
                raise for_code(topic["error_code"])(self.topic)
            await self._take_on(consumer, {partition["partition"] for partition in topic["partitions"]})

    async def _take_on(self, consumer: AIOKafkaConsumer, partitions: Iterable[int]) -> None:
        """Read these partitions on, as far as it is known from where; look for the others' positions meanwhile."""
        partitions = sorted(partitions)
        known = [partition for partition in partitions if self.rings.known(partition) is not None]
        unknown = [partition for partition in partitions if partition not in known]
        if unknown and self._asking is None:
            self._asking = asyncio.create_task(self._ask_for(consumer, unknown, grown=bool(known)), name="positions")
        await self._assign(consumer, known)

    async def _ask_for(self, consumer: AIOKafkaConsumer, partitions: list[int], *, grown: bool) -> None:
        """Find out where partitions begin that shared memory knows nothing of: behind what is stored, or as configured.

        One by which the topic has `grown` begins at its first event in any case: none came before we followed it.
        The task ends with their positions known, and `_follow` takes them on.
        """

        def say(reason: str) -> None:
            log.warning("topic=%s partitions=%s wait: %s", self.topic, partitions, reason)
            self._state("resuming", reason)

        stored = await stored_positions(self.ctx, self.topic, say)
        rest = [TopicPartition(self.topic, partition) for partition in partitions if partition not in stored]
        earliest = grown or self.config.auto_offset_reset == "earliest"
        begins = await (consumer.beginning_offsets(rest) if earliest else consumer.end_offsets(rest)) if rest else {}
        for partition, position in stored.items():
            if partition in partitions:
                self.rings.begin(partition, position)
        for tp, position in begins.items():
            self.rings.begin(tp.partition, position)
        log.info("topic=%s stored=%s begins=%s", self.topic, stored, {tp.partition: at for tp, at in begins.items()})

    async def _assign(self, consumer: AIOKafkaConsumer, partitions: list[int]) -> None:
        """Assign and seek, after a look at whether the broker still has what comes next."""
        progress = self.progress
        tps = [TopicPartition(self.topic, partition) for partition in partitions]
        begins = await consumer.beginning_offsets(tps) if tps else {}
        ends = await consumer.end_offsets(tps) if tps else {}
        progress.ends |= {tp.partition: end for tp, end in ends.items()}
        progress.stuck.clear()
        for tp in tps:
            position = self.rings.known(tp.partition) or 0
            if position > ends[tp]:
                progress.stuck[tp.partition] = (
                    f"offset {position} comes next, but the log ends at {ends[tp]}: was the topic made anew? "
                    "Its events would get numbers that are stored already. Wait until the log is longer, or give the "
                    "topic's rows another name in the table and remove the instance's shared memory"
                )
                log.error("topic=%s partition=%d not read: %s", self.topic, tp.partition, progress.stuck[tp.partition])
                self.rings.begin(tp.partition, position)
            elif position < begins[tp]:
                progress.lost += begins[tp] - position
                log.error(
                    "topic=%s partition=%d lost=%d from=%d to=%d: the broker deleted them before they were read",
                    self.topic, tp.partition, begins[tp] - position, position, begins[tp],
                )  # fmt: skip
                self.rings.begin(tp.partition, begins[tp])
            else:
                self.rings.begin(tp.partition, position)
        readable = [tp for tp in tps if tp.partition not in progress.stuck]
        self._assigned = set(partitions)
        consumer.assign(readable)
        for tp in readable:
            consumer.seek(tp, self.rings.resume[tp.partition])
        if tps:
            self._state("consuming")

    async def _mind_partitions(self, consumer: AIOKafkaConsumer) -> None:
        """Take on partitions that are new or whose positions have been found."""
        if self._asking is not None and self._asking.done():
            asking, self._asking = self._asking, None
            asking.result()
        elif not (consumer.partitions_for_topic(self.topic) or set()) - self._assigned or self._asking is not None:
            return
        await self._find_partitions(consumer)

    # -- events -------------------------------------------------------------------------------------------------------

    async def _follow(self, consumer: AIOKafkaConsumer, watching: asyncio.Task[None]) -> None:
        minded, fetched = 0.0, {}
        fetcher: Any = consumer._fetcher
        while not self.ctx.stopping.is_set():
            for task in (watching, fetcher._fetch_task):
                if task.done():  # the library's own ends by a fault alone, and then nothing is ever fetched again
                    task.result()
            if time.monotonic() - minded > 1.0:
                await self._mind_partitions(consumer)
                await self._commit(consumer)
                gc.collect(0 if fetched else 2)  # of what the library leaves, mostly when it fails
                minded = time.monotonic()
            if not consumer.assignment():
                await self.ctx.stopped_within(POLL_MS / 1000)
                continue
            try:
                fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_BATCHES_MAX)
            except OffsetOutOfRangeError as error:
                log.warning("topic=%s positions out of range: %s", self.topic, error)
                await self._find_partitions(consumer)
                continue
            if fetched:
                ts_recv_ns = time.time_ns()
                await asyncio.sleep(0)  # the next request goes out before these events are decoded
                await self._take({tp.partition: records(batches) for tp, batches in fetched.items()}, ts_recv_ns)

    async def _take(self, fetched: Fetched, ts_recv_ns: int) -> None:
        progress, rings = self.progress, self.rings
        self._answered = time.monotonic()
        if progress.state == "away":  # the questions beside the events may still go unanswered
            self._state("consuming")
        for chunk in rings.chunks(fetched, ts_recv_ns):
            progress.consumed += len(chunk.rows)
            # a producer may write any time, also one that is far off
            progress.last_event_ns = max(progress.last_event_ns, min(chunk.newest_ms * 1_000_000, ts_recv_ns))
            if rings.held_by(chunk):
                await self._wait_for_room(chunk)
            rings.publish(chunk)
            await asyncio.sleep(0)

    # -- backpressure -------------------------------------------------------------------------------------------------

    async def _wait_for_room(self, chunk: Chunk) -> None:
        """Until no durable reader needs what the chunk would overwrite. Nothing is fetched meanwhile."""
        started = last = time.monotonic()
        checked, pause = 0.0, HELD_POLL_S[0]
        while stream := self.rings.held_by(chunk):
            self._state("held", f"a durable reader of {stream} is behind")
            now = time.monotonic()
            self.progress.held_s += now - last
            last = self._answered = now
            if now - checked > DEAD_CHECK_S and now - started > DEAD_CHECK_S:
                self._mind_dead(stream, now)
                checked = now
            if await self.ctx.stopped_within(pause):
                raise Stopped  # the events stay in Kafka
            pause = min(2 * pause, HELD_POLL_S[1])
        self.progress.held_s += time.monotonic() - last
        self._dead_since.clear()
        self._state("consuming")

    def _mind_dead(self, stream: str, now: float) -> None:
        """Give up a reader that stays dead. Not of the `event` ring: nobody else would store what it has not."""
        dead = self.rings.room.dead_readers(stream)
        for line, name in dead:
            since = self._dead_since.setdefault((stream, name), now)
            if since == now:
                log.warning("topic=%s held: durable reader=%s of stream=%s is dead", self.topic, name, stream)
            if stream != "event" and now - since >= self.config.detach_after_s:
                log.error(
                    "topic=%s reader=%s of stream=%s stayed dead for %.0f s: detached, it must rebuild from what is "
                    "stored", self.topic, name, stream, now - since,
                )  # fmt: skip
                self.rings.room.detach(stream, line)
                self.progress.detached += 1
                del self._dead_since[(stream, name)]

    # -- beside the events --------------------------------------------------------------------------------------------

    async def _watch(self, consumer: AIOKafkaConsumer) -> None:
        """Ask for the ends of the logs: that is the lag, and tells whether the brokers are there."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            tps = [TopicPartition(self.topic, partition) for partition in self._assigned]
            if not tps:
                self._answered = time.monotonic()
                continue
            try:
                async with asyncio.timeout(WATCH_INTERVAL_S):
                    ends = await consumer.end_offsets(tps)
            except FAILURES as error:
                silent = time.monotonic() - self._answered
                if silent > 2 * WATCH_INTERVAL_S:
                    self.progress.fail("unreachable")
                    self._state("away", self._words.text or f"{type(error).__name__}: {error}")
                if silent > AWAY_S or self._moved():
                    raise
                continue
            self._answered = time.monotonic()
            self.progress.ends |= {tp.partition: end for tp, end in ends.items()}
            if self.progress.state == "away":
                self._state("consuming")
            if any(self.rings.resume[partition] <= self.progress.ends[partition] for partition in self.progress.stuck):
                self._assigned -= self.progress.stuck.keys()  # they are taken on again

    def _moved(self) -> bool:
        """Whether the embedded broker has begun anew, at another address."""
        with contextlib.suppress(NotUp):
            return servers(self.config.bootstrap_servers, self.ctx.folder) != self._servers
        return False

    async def _commit(self, consumer: AIOKafkaConsumer, *, now: bool = False) -> None:
        """Tell Kafka how far we are, for lag tools: we never ask for it back."""
        if self._group is None or (not now and time.monotonic() < self._commit_at):
            return
        self._commit_at = time.monotonic() + self.config.commit_interval_s
        ends = {p: self.rings.resume[p] for p in self._assigned if p not in self.progress.stuck}
        news = {p: end for p, end in ends.items() if self._committed.get(p) != end}
        if not news:
            return
        try:
            async with asyncio.timeout(1.0):
                await consumer.commit({TopicPartition(self.topic, p): end for p, end in news.items()})
        except GroupAuthorizationFailedError:
            raise
        except FAILURES:
            self.progress.fail("commit")
            return
        self._committed |= news
        self.progress.commits += 1
