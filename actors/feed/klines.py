"""Bars of a feed: from the exchange, and longer ones made of them; whole from the first to the last.

Each pair of instrument and interval is a `Series`. What the exchange sends is published as it comes: every state of the
open bar as `kline_open`, the closed one as `kline` too. A closed bar of the exchange is whole, however late we came to
listen; what can be missing is the bar whose end we did not hear. Then the bars from there on are fetched from REST and
published first, in order; those that came meanwhile wait. While REST is away they do not wait: what was seen of the
missed bar is published as PARTIAL, and the whole one follows, LATE, when REST is back.

The newest bars of a series are fetched in the same way at the first start. A longer bar made here begins with what is
held of its time then.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from ...codecs.errors import CodecError
from ...codecs.klines import INTERVALS, Bar, Fold, bar_start, bar_stop, over_before, rolls_up, same
from ...codecs.record import Flag
from ...codecs.records import KLINE, KLINE_OPEN
from ...codecs.symbols import Instrument
from ...ringbuf import KeyWriter, StreamReader, StreamWriter
from ..ledger import BudgetExceeded
from .config import Config
from .errors import RestFailed
from .protocol import ROLLUP_BASE

log = logging.getLogger(__name__)

MS = 1_000_000
CLOSED, PARTIAL, ROLLED_UP = int(Flag.CLOSED), int(Flag.PARTIAL), int(Flag.ROLLED_UP)
BACKFILL, LATE = int(Flag.BACKFILL), int(Flag.LATE)
LATE_CLOSE_NS = 5_000_000_000  # a closing bar comes within half a second; after so long it is missed
REST_CLOSE_MS = 5_000  # the last bar of an answer counts as closed so long after its end
ROLLED_OPEN_NS = 1_000_000_000  # the open state of a bar made here is published at most so often
FILLS_AT_ONCE = 2
ROWS_AT_ONCE = 100  # published before the loop turns: live data must not wait for history
BACKOFF_MIN_S, BACKOFF_MAX_S = 1.0, 60.0
RESUME_BARS = 64  # among so many of the newest records is the newest bar, late ones between them
ATTEMPTS_MAX = 10  # for bars that REST answers without

# (product's bars of one interval: native, interval, first ms, at most so many) -> bars, the last one may be open
Fetch = Callable[[str, str, int, int], Awaitable[list[Bar]]]


@dataclass(eq=False)
class Series:
    """The bars of one instrument and interval."""

    instrument: Instrument
    interval: str
    key_id: int
    rolled: bool  # made here
    fold: Fold | None = None  # what makes it, or checks it
    longer: list[Series] = field(default_factory=list)  # that are made, or checked, with these
    shorter: list[Series] = field(default_factory=list)  # that it can be made of, the longest first
    next_ts: int = 0  # first ms that no closed bar has covered; 0 = nothing known yet
    open: Bar | None = None  # newest state that came
    open_header: tuple[int, int, int] = (0, 0, 0)  # its ts_recv_ns, ts_event_ns, flags
    since: int = 0  # open_ts of the first bar that the stream told us of
    unended: Bar | None = None  # last state of a bar whose end was not heard
    filling: bool = False
    waiting: list[tuple[Bar, int, int, int]] = field(default_factory=list)  # (bar, ts_recv_ns, ts_event_ns, flags)
    overdue_ns: int = 0  # since when a bar's end is missed; 0 = none is
    shown_ns: int = 0
    folded: Bar | None = None  # newest whole bar as made here, to compare with
    told: Bar | None = None  # ... as the exchange told it

    @property
    def name(self) -> str:
        return f"{self.instrument.instrument}.{self.interval}"


@dataclass(order=True)
class Job:
    """A stretch of bars to be fetched."""

    rank: tuple[int, int]  # what the exchange sends before what is made of it, short before long
    number: int
    series: Series = field(compare=False)
    start: int = field(compare=False)
    stop: int | None = field(compare=False)  # None: to the end, and bars of the stream wait for it
    attempt: int = field(compare=False, default=0)


class Klines:
    """All series of a feed.

    Args:
        name: of the feed, for the log.
        config: intervals, how many bars to preload.
        instruments: by their own key id.
        keys: where the keys of the series are added.
        writers, reader: the feed's own `kline` and `kline_open`, and `kline` to read from.
        fetch: bars from REST.
        clock: wall clock, UNIX ns.
        exchange_ms: the exchange's time, UNIX ms, which says which bars are over; None = the wall clock is right.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        instruments: Mapping[int, Instrument],
        keys: KeyWriter,
        writers: Mapping[str, StreamWriter],
        reader: StreamReader,
        fetch: Fetch,
        clock: Callable[[], int],
        exchange_ms: Callable[[], int] | None = None,
    ) -> None:
        self.fetched = 0  # bars from REST
        self.failed = 0  # requests for them that failed
        self.partial = 0  # bars published as PARTIAL
        self.unexpected = 0  # bars of intervals that nobody asked for, or of the future
        self.again = 0  # closed bars that had come before
        self.compared: Counter[str] = Counter()  # whole bars of both kinds, by interval
        self.differences: Counter[str] = Counter()  # those that were not the same
        self._name, self._config, self._fetch, self._clock = name, config, fetch, clock
        self._exchange_ms = exchange_ms or (lambda: clock() // MS)
        self._reader = reader
        self._publish_closed = writers[KLINE.name].publisher(KLINE.struct, KLINE.values)
        self._publish_open = writers[KLINE_OPEN.name].publisher(KLINE_OPEN.struct, KLINE_OPEN.values)
        self._series: dict[tuple[int, str], Series] = {}
        self._jobs: list[Job] = []
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        for instrument_id, instrument in instruments.items():
            self._add(instrument_id, instrument, keys, writers)

    # -- keys -----------------------------------------------------------------------------------------------------

    def _add(
        self, instrument_id: int, instrument: Instrument, keys: KeyWriter, writers: Mapping[str, StreamWriter]
    ) -> None:
        config = self._config
        base: Series | None = None
        mine: list[Series] = []
        for interval in config.intervals:
            key_id = keys.add(*series_key(instrument, interval))
            for record in (KLINE, KLINE_OPEN):
                writers[record.name].add_key(key_id)
            rolled = interval not in config.kline_intervals
            series = Series(instrument, interval, key_id, rolled)
            series.shorter = [other for other in reversed(mine) if rolls_up(other.interval, interval)]
            mine.append(series)
            self._series[instrument_id, interval] = series
            base = series if interval == ROLLUP_BASE else base
            if interval in config.kline_rollups and base is not None:
                series.fold = Fold(interval)
                base.longer.append(series)
            self._resume(series)

    def _resume(self, series: Series) -> None:
        """Go on where the process before us ended; fetch what came since, or the newest bars if nothing is held."""
        rows = self._reader.last(series.key_id, RESUME_BARS)
        held_to = int(rows["close_ts"].max()) + 1 if len(rows) else 0
        now_ms = self._clock() // MS
        current = over_before(series.interval, now_ms)
        first = current - self._config.kline_preload * INTERVALS[series.interval]
        series.next_ts = held_to
        start = max(held_to, bar_start(series.interval, max(first, 0)))
        if start < current or series.rolled:  # one made here begins with what is held of its time
            self._fill(series, start)

    # -- the stream -----------------------------------------------------------------------------------------------

    def kline(
        self, instrument_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, interval: str, *values: float
    ) -> None:
        """Take a bar of the exchange's stream, open or closed."""
        series = self._series.get((instrument_id, interval))
        bar = Bar(*values)  # pyright: ignore[reportArgumentType]
        # A bar of the future, whatever it is, would make all others look old.
        now_ms, length = max(self._clock() // MS, self._exchange_ms()), INTERVALS[interval]
        if series is None or series.rolled or bar.open_ts > now_ms + length or bar.close_ts >= bar.open_ts + length:
            self.unexpected += 1
            return
        self._publish_open(series.key_id, ts_recv_ns, ts_event_ns, flags, *values)
        if series.open is not None and series.next_ts <= series.open.open_ts < bar.open_ts:
            series.unended = series.open
        series.open, series.open_header = bar, (ts_recv_ns, ts_event_ns, flags)
        series.since = series.since or bar.open_ts
        if flags & CLOSED:
            self._closed(series, bar, ts_recv_ns, ts_event_ns, flags)
            return
        if series.next_ts and bar.open_ts > series.next_ts and not series.filling:
            series.overdue_ns = series.overdue_ns or ts_recv_ns
            if ts_recv_ns - series.overdue_ns > LATE_CLOSE_NS:
                self._fill(series, series.next_ts)
        for longer in series.longer:
            if longer.rolled and not longer.filling and ts_recv_ns - longer.shown_ns >= ROLLED_OPEN_NS:
                longer.shown_ns = ts_recv_ns
                assert longer.fold is not None
                if state := longer.fold.state(bar):
                    open_flags = flags | ROLLED_UP | state[1]
                    self._publish_open(longer.key_id, ts_recv_ns, ts_event_ns, open_flags, *state[0])

    def _closed(self, series: Series, bar: Bar, ts_recv_ns: int, ts_event_ns: int, flags: int) -> None:
        closed = (bar, ts_recv_ns, ts_event_ns, flags)
        if series.filling:
            series.waiting.append(closed)
        elif bar.open_ts < series.next_ts:
            self.again += 1
        elif series.next_ts and bar.open_ts > series.next_ts:
            series.waiting.append(closed)
            self._fill(series, series.next_ts)
        else:
            self._publish(series, *closed)

    # -- publishing -----------------------------------------------------------------------------------------------

    def _publish(self, series: Series, bar: Bar, ts_recv_ns: int, ts_event_ns: int, flags: int) -> None:
        """Publish the next closed bar of a series, and what it completes."""
        if bar.open_ts < series.next_ts:
            self.again += 1
            return
        self._publish_closed(series.key_id, ts_recv_ns, ts_event_ns, flags | CLOSED, *bar)
        if flags & (BACKFILL | PARTIAL) and not series.rolled:
            self._show_end(series, bar, ts_recv_ns, ts_event_ns, flags | CLOSED)
        series.next_ts = bar.close_ts + 1
        series.overdue_ns = 0
        if flags & PARTIAL:
            self.partial += 1
        elif series.fold is not None and not series.rolled:
            series.told = bar
            self._compare(series)
        for longer in series.longer:
            if longer.rolled and longer.filling:
                continue  # it begins with what is held when its own bars are there
            assert longer.fold is not None
            for folded, partial in longer.fold.add(bar, flags):
                self._folded(longer, folded, ts_recv_ns, ts_event_ns, partial)

    def _show_end(self, series: Series, bar: Bar, ts_recv_ns: int, ts_event_ns: int, flags: int) -> None:
        """Tell who follows the open bars of a bar whose end the stream did not tell; the open one stays the newest."""
        if series.open is None or bar.open_ts < series.since:
            return
        if any(bar.open_ts == closed[0].open_ts for closed in series.waiting):
            return  # the stream has told it
        self._publish_open(series.key_id, ts_recv_ns, ts_event_ns, flags, *bar)
        if series.open.open_ts > bar.open_ts and not series.open_header[2] & CLOSED:
            self._publish_open(series.key_id, *series.open_header, *series.open)

    def _folded(self, series: Series, bar: Bar, ts_recv_ns: int, ts_event_ns: int, partial: int) -> None:
        """A bar was made here: publish it, or compare it where the exchange sends it too."""
        if not series.rolled:
            if not partial:
                series.folded = bar
                self._compare(series)
            return
        if bar.open_ts < series.next_ts:
            return  # REST gave it
        flags = CLOSED | ROLLED_UP | partial
        missing = series.next_ts if 0 < series.next_ts < bar.open_ts else bar.open_ts
        self._publish_open(series.key_id, ts_recv_ns, ts_event_ns, flags, *bar)
        self._publish(series, bar, ts_recv_ns, ts_event_ns, flags)
        stop = bar.close_ts + 1 if partial else bar.open_ts
        if missing < stop:
            self._push(Job(_rank(series), next(self._numbers), series, missing, stop))

    def _compare(self, series: Series) -> None:
        made, told = series.folded, series.told
        if made is None or told is None or made.open_ts != told.open_ts:
            return
        self.compared[series.interval] += 1
        if not same(made, told):
            self.differences[series.interval] += 1
            log.warning("feed=%s bars=%s differ: the exchange's %s, made here %s", self._name, series.name, told, made)
        series.folded = series.told = None

    # -- REST -----------------------------------------------------------------------------------------------------

    def _fill(self, series: Series, start: int) -> None:
        """Fetch the bars from `start` on; closed ones that come meanwhile wait."""
        series.filling, series.overdue_ns = True, 0
        self._push(Job(_rank(series), next(self._numbers), series, start, None))

    def _push(self, job: Job) -> None:
        heapq.heappush(self._jobs, job)
        self._changed.set()

    async def run(self) -> None:
        """Fetch what is missing, for as long as the feed lives."""
        await asyncio.gather(*(self._work() for _ in range(FILLS_AT_ONCE)))

    @property
    def filling(self) -> int:
        """Series whose bars are being fetched."""
        return sum(series.filling for series in self._series.values())

    async def _work(self) -> None:
        while True:
            while not self._jobs:
                self._changed.clear()
                await self._changed.wait()
            job = heapq.heappop(self._jobs)
            if job.series.rolled and any(shorter.filling for shorter in job.series.shorter):
                self._push(job)
                await asyncio.sleep(0.05)
                continue
            await self._do(job)

    async def _do(self, job: Job) -> None:
        series = job.series
        try:
            await self._fetch_bars(job)
        except (RestFailed, CodecError, BudgetExceeded) as error:
            self.failed += 1
            log.warning("feed=%s bars=%s not fetched: %s", self._name, series.name, error)
            if job.stop is None:
                job.stop = self._release(series, failed=True)
            self._again_later(job)
            return
        if job.stop is None:
            missing_to = series.waiting[0][0].open_ts if series.waiting else job.start
            self._release(series, failed=False)
            job.stop = missing_to  # REST answered without them
        if job.attempt < ATTEMPTS_MAX:  # the newest of them may not be over for REST
            self._again_later(job)

    def _again_later(self, job: Job) -> None:
        assert job.stop is not None
        if job.start < job.stop:
            job.attempt += 1
            ceiling = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(job.attempt, 16))
            asyncio.get_running_loop().call_later(random.uniform(ceiling / 2, ceiling), self._push, job)

    async def _fetch_bars(self, job: Job) -> None:
        """Publish what REST has of a job; `job.start` moves on with it."""
        series, interval = job.series, job.series.interval
        while True:
            now_ms = self._clock() // MS
            stop = over_before(interval, now_ms) if job.stop is None else job.stop
            if job.start >= stop:
                return
            wanted = -(-(stop - job.start) // INTERVALS[interval])
            rows = await self._fetch(series.instrument.native, interval, job.start, wanted)
            now_ns = self._clock()
            over = [row for row in rows[:-1] if job.start <= row.open_ts and row.close_ts < stop]
            told_ms = self._exchange_ms() - REST_CLOSE_MS
            over += [row for row in rows[-1:] if row.close_ts < stop and row.close_ts < told_ms]
            for n, bar in enumerate(over, 1):
                if job.stop is None:
                    self._publish(series, bar, now_ns, bar.close_ts * MS, BACKFILL)
                else:  # newer ones were published while REST was away
                    flags = CLOSED | BACKFILL | LATE
                    self._publish_closed(series.key_id, now_ns, bar.close_ts * MS, flags, *bar)
                    if not series.rolled:
                        self._show_end(series, bar, now_ns, bar.close_ts * MS, flags)
                job.start = bar.close_ts + 1
                if n % ROWS_AT_ONCE == 0:
                    await asyncio.sleep(0)
            self.fetched += len(over)
            if len(over) < len(rows) or not rows:
                return

    def _release(self, series: Series, *, failed: bool) -> int:
        """Publish what waited; returns where the stretch that is still missing ends."""
        waiting, series.waiting, series.filling = series.waiting, [], False
        # A bar that ended a moment ago may still be told by the stream.
        now_ms = (self._clock() - LATE_CLOSE_NS) // MS
        stop = waiting[0][0].open_ts if waiting else bar_start(series.interval, now_ms)
        if series.open is not None:
            stop = min(stop, series.open.open_ts)  # whatever our clock says, that one is not over
        seen, series.unended = series.unended, None
        if failed:
            if seen is not None and series.next_ts <= seen.open_ts < stop:
                now_ns = self._clock()
                self._publish(series, seen, now_ns, now_ns, PARTIAL)
            if series.next_ts:
                series.next_ts = max(series.next_ts, stop)
        for n, closed in enumerate(waiting):
            if n and series.next_ts < closed[0].open_ts:  # the stream was away while these waited
                self._push(Job(_rank(series), next(self._numbers), series, series.next_ts, closed[0].open_ts))
            self._publish(series, *closed)
        if series.rolled:
            self._begin(series)
        return stop

    # -- bars made here ---------------------------------------------------------------------------------------------

    def _begin(self, series: Series) -> None:
        """Make the bar of now of the longest bars that are held of its time."""
        base = series.shorter[-1]
        series.fold = Fold(series.interval)
        at = series.next_ts or bar_start(series.interval, base.next_ts)
        held = [self._held(other, at) for other in series.shorter]
        now_ns = self._clock()
        while at < base.next_ts:
            bar, flags = next((bars[at] for bars in held if at in bars), (None, 0))
            if bar is None:
                at = bar_stop(base.interval, at)
                continue
            for folded, partial in series.fold.add(bar, flags):
                self._folded(series, folded, now_ns, folded.close_ts * MS, partial)
            at = bar.close_ts + 1

    def _held(self, series: Series, start: int) -> dict[int, tuple[Bar, int]]:
        """Closed bars from `start` on, by the time they open; of several the one that came last."""
        rows = self._reader.last(series.key_id, self._reader.spec.tail)
        rows = rows[rows["open_ts"] >= start]
        bars = zip(rows[list(Bar._fields)].tolist(), rows["flags"].tolist(), strict=True)
        return {values[0]: (Bar(*values), flags) for values, flags in bars}


def _rank(series: Series) -> tuple[int, int]:
    return int(series.rolled), INTERVALS[series.interval]


def series_key(instrument: Instrument, interval: str) -> tuple[str, dict[str, object]]:
    """Text and attributes of a series' key: ``binance.BTC-USDT-PERP.1m``."""
    return f"{instrument.key}.{interval}", {**instrument.attributes(), "interval": interval}
