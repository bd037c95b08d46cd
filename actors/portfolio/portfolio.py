"""The actor: folds what the topics publish, values it with live quotes, and publishes positions and PnL.

What is folded is published at once and stored within `commit_interval_ms`; what a crash takes before that is read from
the ring again, because the ring's producer waits for the line of this reader, and leads to the same positions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Sequence

from ...codecs.desk.money import UNIT, parse_amount
from ...codecs.desk.records import FILL
from ...codecs.record import Flag
from ...ringbuf import RingError
from ...ringbuf.doorbell import SLEEP_MAX_S
from ...storage.client import Client
from ..runtime import BEAT_INTERVAL_S, ActorContext
from .book import Book, Key, Position, Telling
from .claims import Claims
from .config import Config
from .fold import DAY_NS, RATE_UNIT, VALUE_UNIT, Execution, State, Terms, opened
from .marks import QUOTE, Marks
from .metrics import Metrics
from .past import Past
from .publish import Publisher
from .statements import Statements
from .store import Store
from .tellings import FillRing
from .totals import Group, Totals

log = logging.getLogger(__name__)

READ_ROWS = 4096  # of a ring at a time
FULL = 256  # rows at once: then there are more, and the next ones are read without a pause
GATHER_S = 0.005  # fills that come one after the other are folded together; the first one is folded at once
PAST_FIRST = 20_000  # events that are to be asked for: then they come before what is in the ring
COMMIT_ROWS = 16_384  # folded since the last commit: then at once
REFRESH_INTERVAL_S = 2.0  # how often new streams are looked for
PNL_INTERVAL_S = 1.0  # PnL follows the marks so often
MARK_DAYS = 8  # of so many days the last marks are kept
LOG_BYTES = 16 << 20  # of the write-ahead log: then it is copied, beside
LOG_BYTES_WAIT = 128 << 20  # and here folding waits for it


class Portfolio:
    """State of a running portfolio."""

    def __init__(self, ctx: ActorContext) -> None:
        self.ctx = ctx
        self.config: Config = ctx.config
        self.metrics = Metrics(ctx.page)
        self.marks = Marks(ctx.folder, self.config)
        self.store = Store(ctx.data / "portfolio")
        self.rings: dict[str, FillRing] = {}
        with self.store.unusable():
            self.book = Book(self.store, self.marks.terms, self._opening, self._fee_rate, ctx.beat)
            rates = self.store.rates(self.config.currency)
            self.totals = Totals(self._capital, self.store.closes(), self.store.peaks(), rates)
            self.book.today_ns = self.totals.seen_until * DAY_NS
            self.marks.quoted.update(self.store.quoted(self.config.currency))
        self.publisher = Publisher(ctx, self.config)
        self.claims = Claims(self.metrics)
        self.statements = Statements(ctx.folder, self.marks.told, self.claims.told)
        self.client = Client(self.config.clickhouse, ctx.folder, ctx.data)
        self.past = Past(self.config, self.client, ctx.data, lambda: list(self.rings.values()), self.apply)
        self.open: dict[int, Position] = {}  # positions that are not flat
        self.foreign: dict[int, Position] = {}  # those settled in another currency than the report's
        self._woken = asyncio.Event()
        self._uncommitted = 0
        self._commit_at = self._mark_at = self._pnl_at = self._refresh_at = self._beat_at = 0.0
        self._curve = self._today = 0
        self._checkpoint: asyncio.Task[None] | None = None

    # -- configuration --------------------------------------------------------------------------------------------

    def _opening(self, key: Key, terms: Terms) -> State:
        for one in self.config.openings:
            if (one.account, one.strategy, one.venue, one.symbol) == key:
                return opened(parse_amount(one.quantity)[0], parse_amount(one.price)[0], 0, terms)
        return State()

    def _fee_rate(self, asset: str, position: Position, execution: Execution) -> int:
        return self.marks.fee_rate(asset, position, execution, time.time_ns())

    def _capital(self, account: str) -> int:
        return parse_amount(self.config.capital.get(account, "0"))[0] * UNIT

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up everything as it was, fold what has come since, and publish it."""
        self.store.begin()
        for one in self.config.openings:
            self.book.position((one.account, one.strategy, one.venue, one.symbol))
        for position in self.book.by_key.values():
            self.marks.traded(position)
        self.refresh()
        self._change_terms()
        for ring in self.rings.values():  # so that nobody is shown an older state than before
            published = ring.reader.published()
            while ring.cursor < published and ring.gap <= PAST_FIRST:
                for position in self.book.apply(ring.read(READ_ROWS)):
                    self.marks.traded(position)
                self.commit()
                self.ctx.beat()
        for position in self.book.by_key.values():
            if not position.empty:
                self.value(position)
        self.publisher.recover(self.totals)
        self.commit()
        self._set_flags()
        self.publish_all()
        log.info(
            "portfolio positions=%d open=%d groups=%d", len(self.book.by_key), len(self.open), len(self.totals.groups)
        )

    async def run(self) -> None:
        """Until the stop; then what is folded is stored."""
        if self.ctx.doorbell_index is not None:
            self.ctx.on_bell(self._woken.set)
        with self.store.unusable():
            self.start()
            past = asyncio.create_task(self.past.run(), name="past")
            self.ctx.running()
            try:
                while not self.ctx.stopping.is_set():
                    worked = self.read()
                    self.turn(time.monotonic())
                    await self._make_room()
                    await (self._sleep() if not worked else asyncio.sleep(0 if worked >= FULL else GATHER_S))
                    if past.done():
                        past.result()
                while self.read():  # the topics have stopped: empty their rings
                    self.ctx.beat()
                past.cancel()
                self.save_groups()
                self.commit()
            finally:
                past.cancel()
                await asyncio.wait([past])
                await self.close()

    async def close(self) -> None:
        """Unmap. What is not stored yet is given up."""
        if self._checkpoint is not None:
            await self._checkpoint
        self.show()
        for ring in self.rings.values():
            ring.close()
        self.statements.close()
        self.publisher.close()
        self.marks.close()
        await self.client.close()
        self.store.close()

    async def _sleep(self) -> None:
        """Until a fill comes, or something else is due."""
        if not all(self._past_first(ring) or ring.sleep() for ring in self.rings.values()):
            return
        now = time.monotonic()
        due = [
            now + SLEEP_MAX_S,
            *([self._mark_at] if self.open else ()),
            *([self._commit_at] if self._uncommitted else ()),
        ]
        pause = max(0.0, min(due) - now)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._woken.wait()
        self._woken.clear()

    # -- fills ----------------------------------------------------------------------------------------------------

    def read(self) -> int:
        """Fold what is new in the rings; returns how many rows there were."""
        rows = 0
        for ring in self.rings.values():
            if self.past.answers and ring.crowded():  # the topic is not to wait for us
                ring.skip()
                self.commit()
            if self._past_first(ring):
                continue
            before = ring.cursor
            tellings = ring.read(READ_ROWS)
            rows += ring.cursor - before
            if tellings:
                self.apply(tellings, hurry=not ring.waiting())
        if rows:
            self._due_commit(rows)
        return rows

    def _past_first(self, ring: FillRing) -> bool:
        """Whether so much lies before what is unread that this waits: each past fill would fold all behind it anew."""
        return self.past.answers and ring.gap > PAST_FIRST

    def apply(self, tellings: Sequence[Telling], hurry: bool = False) -> None:
        """Fold, and publish what changed; PnL at once where `hurry`, else with the next turn."""
        now_ns = time.time_ns()
        groups: dict[int, Group] = {}
        for position in self.book.apply(tellings):
            self.marks.traded(position)
            self.value(position)
            self.publisher.position(position, now_ns)
            if hurry:
                groups |= {id(group): group for group in self.totals.groups_of(position)}
        self._due_commit(len(tellings))
        self.publish_pnl(groups.values())

    def _change_terms(self) -> None:
        """Value anew what the exchange lists otherwise than we thought while nobody collected it."""
        for position, terms in self.book.otherwise():
            log.warning("position=%s terms=%s: folded anew", position.key, terms)
            known = position.valued is not None
            self.totals.leave(position)
            self.book.change_terms(position, terms)
            if known:
                self.value(position)
                self.publisher.position(position, time.time_ns())

    def value(self, position: Position) -> None:
        """Bring a position's value and its groups up to date."""
        if position.state.quantity:
            self.open[position.number] = position
        else:
            self.open.pop(position.number, None)
        rate = self.marks.rate(position.settled_in)
        if rate != RATE_UNIT:
            self.foreign[position.number] = position
        self.totals.update(position, self.marks.mark(position), rate)

    def _due_commit(self, rows: int) -> None:
        if not self._uncommitted:
            self._commit_at = time.monotonic() + self.config.commit_interval_ms / 1000
        self._uncommitted += rows
        if self._uncommitted >= COMMIT_ROWS:
            self.commit()

    def commit(self) -> None:
        """Store what was folded and how far the rings were read; then their producers may go over it."""
        for ring in self.rings.values():
            ring.save()
        if self.totals.new_rates:
            self.store.begin()
            self.store.put_rates(self.config.currency, self.totals.new_rates)
            self.totals.new_rates.clear()
        self.store.commit()
        for ring in self.rings.values():
            ring.saved()
        self._uncommitted = 0
        self.metrics.commits.inc()

    async def _make_room(self) -> None:
        """Copy the write-ahead log into the file when it has grown."""
        if self._checkpoint is not None and self._checkpoint.done():
            self._checkpoint.result()
            self._checkpoint = None
        size = self.metrics.file_bytes.value
        if self._checkpoint is None and size > LOG_BYTES:
            self._checkpoint = asyncio.create_task(asyncio.to_thread(self.store.checkpoint))
        if self._checkpoint is not None and size > LOG_BYTES_WAIT:
            await self._wait_for_room(self._checkpoint)
            self.commit()  # the log begins anew only once all of it is copied
            self._checkpoint = asyncio.create_task(asyncio.to_thread(self.store.checkpoint))
            await self._wait_for_room(self._checkpoint)
            self.metrics.file_bytes.set(0)

    async def _wait_for_room(self, task: asyncio.Task[None]) -> None:
        while not task.done():
            self.ctx.beat()
            await asyncio.wait([task], timeout=BEAT_INTERVAL_S)

    # -- what is due by time --------------------------------------------------------------------------------------

    def turn(self, now: float) -> None:
        """Everything that is done at times."""
        if now >= self._beat_at:
            self._beat_at = now + BEAT_INTERVAL_S
            self.show()
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_INTERVAL_S
            self.refresh()
        if now >= self._mark_at:
            self._mark_at = now + 1 / self.config.marks_per_second
            self.mark()
        if now >= self._pnl_at:
            self._pnl_at = now + PNL_INTERVAL_S
            self.second()
        if self.store.changing:
            self._due_commit(0 if self._uncommitted else 1)
            if now >= self._commit_at:
                self.commit()

    def mark(self) -> None:
        """Value the open positions whose quotes have changed."""
        now_ns = time.time_ns()
        for position in self.open.values():
            mark = self.marks.mark(position)
            if mark != position.valued.mark:
                self.totals.update(position, mark, position.valued.rate)
                self.publisher.position(position, now_ns)

    def second(self) -> None:
        """PnL after the marks, rates, claims, the equity curve, and the end of the day."""
        now_ns = time.time_ns()
        self.statements.read()
        if self._set_flags():
            self.publish_all()
        for position in self.foreign.values():  # flat ones too: what they have earned is worth what it is worth now
            rate = self.marks.rate(position.settled_in)
            if rate != position.valued.rate:
                self.totals.update(position, position.valued.mark, rate)
        for position in self.open.values():
            if self.publisher.state_of(position, now_ns) != self.publisher.live.get(position.number):
                self.publisher.position(position, now_ns)
        today, curve = now_ns // DAY_NS, now_ns // int(self.config.curve_interval_s * 1e9)
        if not any(ring.waiting() for ring in self.rings.values()):
            for group in self.totals.groups.values():
                group.renew(today)
        groups = [group for group in self.totals.groups.values() if group.dirty]
        if curve != self._curve:
            self._curve = curve
            if self.open:
                groups = [group for group in self.totals.groups.values() if group.sums.open or group.dirty]
            self.save_groups()
        if today != self._today:
            self._new_day(today)
            groups = list(self.totals.groups.values())
        self.publish_pnl(groups)
        self.claims.compare(self.book.by_key.values())

    def publish_all(self) -> None:
        """Publish every position and every group."""
        now_ns = time.time_ns()
        for position in self.book.by_key.values():
            if not position.empty:
                self.publisher.position(position, now_ns)
        self.publish_pnl(self.totals.groups.values())
        self._today = now_ns // DAY_NS
        self.book.today_ns = self._today * DAY_NS

    def publish_pnl(self, groups: Iterable[Group]) -> None:
        """Publish groups; what is seen of the market counts only while no fills are missing."""
        now_ns = time.time_ns()
        for group in groups:
            if not self.publisher.flags:
                group.observe(now_ns // DAY_NS, now_ns)
            self.publisher.pnl(group, now_ns)

    def save_groups(self) -> None:
        """Store what was seen of the market."""
        self._save_marks(time.time_ns() // DAY_NS)
        found = list(self.totals.unsaved())
        if not found:
            return
        self.store.begin()
        self.store.put_groups(
            [(group.name, day, group.closes[day]) for group in found for day in group.unsaved_days],
            [(group.name, group.peak, group.max_drawdown) for group in found],
        )
        for group in found:
            group.unsaved = False
            group.unsaved_days.clear()
        self._due_commit(1)

    def _save_marks(self, today: int) -> None:
        rows = []
        for position in self.open.values():
            price, seen_ns, kind = position.valued.mark
            if kind == QUOTE and position.marks.get(today) != (price, seen_ns):
                position.marks[today] = price, seen_ns
                rows.append((position.number, today, price, seen_ns))
        if rows or self.marks.quoted:
            self.store.begin()
            self.store.put_marks(rows)
            self.store.put_quoted(self.config.currency, self.marks.quoted.items())
            self._due_commit(1)

    def _new_day(self, today: int) -> None:
        """A day is over. Forget the marks of those that have been for long."""
        self._today, self.book.today_ns = today, today * DAY_NS
        self.store.begin()
        self.store.drop_marks(today - MARK_DAYS)
        for position in self.book.by_key.values():
            for day in [day for day in position.marks if day < today - MARK_DAYS]:
                del position.marks[day]

    def refresh(self) -> None:
        """Attach streams that are new or were made anew, leave those that are gone."""
        if self.marks.refresh():
            self._change_terms()
        self.statements.refresh()
        found = {}
        for path in self.ctx.folder.glob(f"*.{FILL.name}.ring"):
            with contextlib.suppress(FileNotFoundError):
                found[path.name.removesuffix(f".{FILL.name}.ring")] = path.stat().st_ino
        for producer, ring in list(self.rings.items()):
            if found.get(producer) != ring.inode:
                while ring.waiting():  # what came before the file was replaced is still in the old one
                    self.apply(ring.read(READ_ROWS))
                    self.ctx.beat()
                self.commit()
                del self.rings[producer]
                ring.close()
        for producer in found.keys() - self.rings.keys():
            try:
                self.rings[producer] = FillRing(self.ctx.folder, producer, self.store, self.ctx.doorbell_index)
            except RingError as error:
                log.warning("producer=%s not yet followed: %s", producer, error)

    # -- what we show ---------------------------------------------------------------------------------------------

    def _set_flags(self) -> bool:
        """Whether fills are missing; True where that has changed."""
        before, self.publisher.flags = self.publisher.flags, int(Flag.PARTIAL) if self.past.open() else 0
        return self.publisher.flags != before

    def show(self) -> None:
        """Bring the page up to date, and beat."""
        metrics, book, now_ns = self.metrics, self.book, time.time_ns()
        metrics.fills.value, metrics.repeated.value, metrics.disagreements.value = (
            book.folded, book.repeated, book.disagreements,
        )  # fmt: skip
        metrics.late.value, metrics.refolded.value, metrics.unconverted.value = (
            book.late, book.refolded, book.unconverted,
        )  # fmt: skip
        metrics.overflows.value = self.publisher.overflows
        metrics.assumed.value = book.assumed
        metrics.skipped.value = sum(ring.skipped for ring in self.rings.values())
        metrics.lost.value = sum(ring.lost for ring in self.rings.values())
        metrics.past.value, metrics.past_failures.value = self.past.events, self.past.failures
        metrics.unreadable.value = self.statements.unreadable
        metrics.clickhouse_up.set(float(self.past.answers))
        metrics.holes.set(self.past.open())
        metrics.behind.set(sum(ring.reader.published() - ring.cursor for ring in self.rings.values()))
        metrics.positions.set(len(book.by_key))
        metrics.open.set(len(self.open))
        metrics.stale.set(sum(not self.publisher.state_of(position, now_ns) for position in self.open.values()))
        metrics.no_rate.set(sum(not position.valued.rate for position in self.open.values()))
        metrics.unnamed.set(self.publisher.unnamed)
        metrics.file_bytes.set(self.store.log_bytes())
        newest = max((position.state.ts_ns for position in self.open.values()), default=0)
        metrics.last_fill.set(max(metrics.last_fill.value, newest / 1e9))
        self.ctx.page.detail = {
            "rings": sorted(self.rings), "positions": len(book.by_key), "open": len(self.open),
            "holes": self.past.open(), "fills": book.folded,
        }  # fmt: skip
        self.ctx.beat()


async def main(ctx: ActorContext) -> None:
    """Keep positions until the stop.

    Raises:
        RingError: the streams are not as configured.
        StateUnusable: the disk refuses.
    """
    await Portfolio(ctx).run()


assert RATE_UNIT == VALUE_UNIT
