"""One feed: a fixed set of symbols of one exchange tier, from its socket into its rings.

Start: attach the rings, fetch the list of instruments, number the symbols, connect. From then on everything happens in
frame callbacks (`connection`), in REST tasks for books without a snapshot (`snapshots`), and in a slow loop that beats,
watches for silence and fills the page.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import time
from collections.abc import Callable

from ...codecs.binance.decoder import BinanceDecoder, Route
from ...codecs.binance.rest import (
    depth_path,
    depth_weight,
)
from ...codecs.binance.rest_market import KLINES_LIMIT_MAX, klines_path, klines_weight, parse_klines
from ...codecs.klines import Bar
from ...codecs.record import Flag
from ...codecs.records import BY_NAME
from ...codecs.symbols import Instrument
from ...ringbuf import KeyWriter, StreamReader, StreamSpec, StreamWriter, keys_filename, read_spec
from ..gaps import Gap, GapLedger, gaps_path
from ..ledger import Ledger, Priority
from ..runtime import BEAT_INTERVAL_S, ActorContext, Stopped
from .config import Channel, Config
from .hooks import FeedHooks
from .keys import add_keys
from .klines import Klines, series_key
from .links import Links
from .listing import Listing
from .metrics import FeedMetrics
from .newest import NewestIds
from .open_interest import OpenInterestPoller
from .outages import LIVE_RECORDS, Outages
from .protocol import connect_budget, streams_of, weight_budget
from .publish import MS, RingSink
from .rest import RestClient
from .snapshots import Snapshots
from .stream_watch import StreamWatch

log = logging.getLogger(__name__)


TRADES, AGGREGATES = "trade", "agg_trade"
FROM_REST = frozenset(("kline", "open_interest", "funding"))  # do not grow stale when the connection is lost
RESUME_IDS = 64  # newest trades of a symbol that a new process looks at to know which gap is still undecided
KLINES_PATIENCE_S = 90.0  # longer than a window: only a ban lasts so long, and live bars must not wait for its end
WATCH_INTERVAL_S = 1.0
FLUSH_INTERVAL_S = 0.025  # how late a book_depth may be written after its interval is over


def streams(name: str, config: Config) -> list[StreamSpec]:
    """The streams of a feed: those of the records that its channels bring."""
    capacities: dict[str, int] = {}
    if config.trades:
        capacities["trade"] = config.trade_capacity
    if config.quotes:
        capacities["quote"] = config.quote_capacity
    if config.books:
        capacities |= {"book_level": config.level_capacity, "book_top": 0, "book_depth": 0}
    if config.klines:
        capacities |= {"kline": config.kline_capacity, "kline_open": config.other_capacity}
    for channel in ("ticker", "mark_price", "open_interest", "liquidation"):
        if channel in config.channels:
            capacities[channel] = config.other_capacity
    if "mark_price" in config.channels:
        capacities["funding"] = config.other_capacity
    return [
        BY_NAME[record].spec(
            name, capacity=capacity, keys_max=config.keys_max, tail=config.kline_tail if record == "kline" else None
        )
        for record, capacity in capacities.items()
    ]


class Feed:
    """State of a running feed. `run` starts, works and stops it."""

    links: Links
    decoder: BinanceDecoder
    snapshots: Snapshots
    hooks: FeedHooks

    def __init__(self, ctx: ActorContext, clock: Callable[[], int] = time.time_ns) -> None:
        self.ctx = ctx
        self.config: Config = ctx.config
        self.clock = clock
        self.instruments: dict[int, Instrument] = {}  # by key id
        self.metrics = FeedMetrics(ctx.page, self.config.exchange)
        self.gaps: GapLedger[Gap] = GapLedger(gaps_path(ctx.data, ctx.name), self.config.gap_file_bytes_max)
        self.klines: Klines | None = None
        self.silence: StreamWatch | None = None
        self.instruments_changed = 0
        self.open_interest: OpenInterestPoller | None = None
        self.writers: dict[str, StreamWriter] = {}
        self.readers: dict[str, StreamReader] = {}  # of our own streams
        self.first: dict[str, int] = {}  # sequence at our start
        self._newest: NewestIds | None = None
        self._connections_lost = 0  # a snapshot asked for before is worth nothing afterwards
        self._ledger = Ledger(ctx.folder, self.config.exchange, clock=clock)
        self.weight = weight_budget(self._ledger, self.config.product, self.config.weight_limit)
        self.rest = RestClient(self.config.rest_url, self.weight, self.config.rest_timeout_s, self.metrics.count_rest)
        self.listing = Listing(ctx, self.rest)

    # -- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until the context says stop.

        Raises:
            FeedConfigError, NoInstruments, RingError: the feed cannot start as configured.
        """
        tasks: list[asyncio.Task[None]] = []
        try:
            self._attach()
            beating = asyncio.create_task(self._beat(), name="beat")
            tasks.append(beating)
            self._begin(await self.ctx.unless_stopped(self.listing.find()))
            tasks.append(asyncio.create_task(self.links.run(), name="links"))
            if self.config.books:
                tasks.append(asyncio.create_task(self._flush_depth(), name="flush"))
            if self.klines is not None:
                tasks.append(asyncio.create_task(self.klines.run(), name="klines"))
            if self.open_interest is not None:
                tasks.append(asyncio.create_task(self.open_interest.run(), name="open interest"))
            if self.silence is not None:
                tasks.append(asyncio.create_task(self.silence.run(), name="silence"))
            tasks.append(asyncio.create_task(self.listing.refresh(self.instruments, self._change), name="instruments"))
            tasks.append(asyncio.create_task(self._watch(), name="watch"))
            self.ctx.running()
            await self.ctx.unless_stopped(_first_error(tasks))
        except Stopped:
            pass
        finally:
            await self._close(tasks)

    def _attach(self) -> None:
        ctx = self.ctx
        for spec in streams(ctx.name, self.config):
            made, _ = read_spec(ctx.folder / spec.filename)
            # Sizes are the supervisor's choice; what a record is, is ours.
            expected = dataclasses.replace(spec, capacity=made.capacity, keys_max=made.keys_max)
            writer = StreamWriter(ctx.folder, expected, ctx.doorbells, self.clock())
            self.writers[spec.record] = writer
            self.first[spec.record] = writer.sequence
            dtype = BY_NAME[spec.record].dtype
            self.readers[spec.record] = StreamReader(ctx.folder, ctx.name, spec.record, dtype)
        self._keys = KeyWriter(ctx.folder / keys_filename(ctx.name))
        live = [self.readers[record] for record in LIVE_RECORDS if record in self.readers]
        self.outages = Outages(ctx.data, ctx.name, self.config.exchange, live, self.config.gap_file_bytes_max)

    def _begin(self, instruments: list[Instrument]) -> None:
        config, ctx = self.config, self.ctx
        by_instrument = {
            name: writer for name, writer in self.writers.items() if "interval" not in BY_NAME[name].key_names
        }
        self.instruments |= add_keys(self._keys, by_instrument, instruments)
        self.hooks = FeedHooks(
            ctx.name, self.instruments, self.gaps, self.readers, config.rejected_samples_per_minute,
            want_snapshot=lambda key_id: self.snapshots.want(key_id),
            shutdown=lambda reason: self.links.replace_now(reason),
            refused=lambda reason: self.links.refused(reason),
            answered=lambda request_id: self.links.answered(request_id),
        )  # fmt: skip
        self.sink = RingSink(self.writers, config.depth_publish_ms * MS)
        if config.klines:
            self.klines = Klines(
                ctx.name, config, self._with("kline"), self._keys, self.writers, self.readers["kline"],
                self._fetch_klines, self.clock, lambda: self.rest.exchange_ms(self.clock),
            )  # fmt: skip
            self.sink.kline = self.klines.kline
        if "open_interest" in config.channels:
            self.open_interest = OpenInterestPoller(
                config.product, self._with("open_interest"), self.writers["open_interest"],
                self.readers.get("mark_price"), self.rest, config.open_interest_interval_s, self.clock,
            )  # fmt: skip
        self.decoder = BinanceDecoder(config.product, self.sink, self.hooks)
        for key_id, instrument in self.instruments.items():
            self.decoder.add(instrument, key_id)
        self._resume_chains()
        self.snapshots = Snapshots(
            self._fetch_snapshot,
            lambda key_id: self.decoder.sync(key_id).wanting,
            lambda key_id: self.instruments[key_id].instrument,
            config.snapshots_at_once,
        )
        names = streams_of(config, {one.instrument: one.native for one in instruments})
        attempts = connect_budget(self._ledger, config)
        flush = self.metrics.timing(self)
        self.links = Links(ctx.name, self, config, names, attempts, self.decoder.on_frames, flush)
        if config.silence:
            self.silence = StreamWatch(
                ctx.name, config, self.instruments, self._keys, self.writers, self.decoder, self.links
            )
        # What lives from here on lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        log.info("feed=%s symbols=%d streams=%d url=%s", ctx.name, len(instruments), len(names), config.ws_url)

    def _with(self, channel: Channel) -> dict[int, Instrument]:
        """The instruments that have a channel, by key id."""
        return {
            key_id: instrument
            for key_id, instrument in self.instruments.items()
            if channel in self.config.channels_of(instrument.instrument)
        }

    def book_routes(self) -> list[Route]:
        """Of the symbols whose books are kept."""
        channels_of = self.config.channels_of
        return [route for route in self.decoder.routes() if "book" in channels_of(route.instrument.instrument)]

    def _resume_chains(self) -> None:
        """Go on counting trades where the process before us ended: what came between is a gap with known ends.

        The chain takes in the newest ids again instead of standing behind the last one: a gap before that one may still
        have waited for the id that would have proved it. Where these are all that the rings ever had, that gap may lie
        behind the ids of the life before the rings.
        """
        if "trade" not in self.readers:
            return
        reader = self.readers["trade"]
        self._newest = NewestIds(self.ctx.data, self.ctx.name, reader.epoch)
        for route in self.decoder.routes():
            held = reader.count(route.key_id) <= reader.spec.tail  # all its trades since the rings began
            for kind, ids in self._newest_ids(route).items():
                chain = route.aggregates if kind == AGGREGATES else route.trades
                if held and len(ids) < RESUME_IDS:
                    ids = self._newest.behind(route.instrument.instrument, kind, ids)
                for number in ids:
                    if number == chain.following:
                        chain.following = number + 1
                    else:
                        chain.judge(number, False, _reported_already)

    def _newest_ids(self, route: Route) -> dict[str, list[int]]:
        """Ids of an instrument's newest trades in the ring, by kind."""
        rows = self.readers["trade"].last(route.key_id, self.readers["trade"].spec.tail)
        aggregated = (rows["flags"] & Flag.AGGREGATED) != 0
        ours = (rows["flags"] & Flag.BACKFILL) == 0
        ids = {AGGREGATES: rows["trade_id"][aggregated & ours], TRADES: rows["trade_id"][~aggregated & ours]}
        return {kind: of_kind[-RESUME_IDS:].tolist() for kind, of_kind in ids.items()}

    def _keep_newest(self) -> None:
        """Write the newest trades down for a life with other rings."""
        if self._newest is not None:
            for route in self.decoder.routes():
                for kind, ids in self._newest_ids(route).items():
                    if ids:
                        self._newest.put(route.instrument.instrument, kind, ids)
            self._newest.end()

    async def _close(self, tasks: list[asyncio.Task[None]]) -> None:
        if hasattr(self, "links"):
            await self.links.stop()
            await self.snapshots.close()
            self.sink.flush()
            self.sink.flush_depth(1 << 62)  # whatever waits
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.rest.close()
        if hasattr(self, "links"):
            self.metrics.update(self)
            self._keep_newest()
        self.ctx.beat()
        self._ledger.close()
        self.gaps.close()
        if hasattr(self, "outages"):
            self.outages.ledger.close()
        for part in (*self.readers.values(), *self.writers.values()):
            part.close()
        if hasattr(self, "_keys"):
            self._keys.close()

    # -- instruments ----------------------------------------------------------------------------------------------

    def _change(self, key_id: int, instrument: Instrument) -> None:
        """The exchange has changed an instrument."""
        log.info(
            "feed=%s instrument=%s changed: tick=%s lot=%s status=%s",
            self.ctx.name, instrument.instrument, instrument.tick, instrument.lot, instrument.status,
        )  # fmt: skip
        self.instruments_changed += 1
        self.instruments[key_id] = instrument
        self._keys.add(instrument.key, instrument.attributes())
        if "kline" in self.config.channels_of(instrument.instrument):
            for interval in self.config.intervals:
                self._keys.add(*series_key(instrument, interval))

    # -- books ----------------------------------------------------------------------------------------------------

    async def _fetch_snapshot(self, key_id: int) -> None:
        """Fetch one book and hand it over, unless its connection was lost meanwhile."""
        config = self.config
        lost = self._connections_lost
        path = depth_path(config.product, self.instruments[key_id].native, config.snapshot_limit)
        body = await self.rest.get(path, depth_weight(config.product, config.snapshot_limit))
        if lost == self._connections_lost:
            self.decoder.on_snapshot(key_id, body, self.clock())

    # -- bars -----------------------------------------------------------------------------------------------------

    async def _fetch_klines(self, native: str, interval: str, start_ms: int, limit: int) -> list[Bar]:
        product = self.config.product
        limit = min(limit + 1, KLINES_LIMIT_MAX[product])  # with the one after them, which tells that they are over
        path = klines_path(product, native, interval, limit, start_ms)
        weight = klines_weight(product, limit)
        return parse_klines(await self.rest.get(path, weight, Priority.BACKFILL, KLINES_PATIENCE_S))

    async def _flush_depth(self) -> None:
        flush = self.sink.flush_depth
        while True:
            flush(self.clock())
            await asyncio.sleep(FLUSH_INTERVAL_S)

    # -- what links ask -------------------------------------------------------------------------------------------

    def data_frames(self) -> int:
        return self.links.frames - self.hooks.controls - sum(self.decoder.rejected.values())

    def overlap(self, overlapping: bool) -> None:
        self.decoder.overlapping = overlapping

    def lost(self) -> None:
        self._connections_lost += 1
        self.decoder.on_disconnect(self.clock())
        if self.silence is not None:
            self.silence.restart()

    def whole(self, since_ns: int) -> None:
        self.outages.end(since_ns)

    def partial(self) -> None:
        self.outages.begin()
        now = time.time_ns()  # the clock of receipts
        for record, writer in self.writers.items():
            if record not in FROM_REST:
                writer.set_live_since(now)

    def renewed(self, stream: str, since_ns: int) -> None:
        self.outages.renewed(stream, since_ns)

    # -- slow loops -----------------------------------------------------------------------------------------------

    def duplicates(self) -> dict[str, int]:
        decoder = self.decoder
        return {
            "trade": sum(route.trades.older + route.aggregates.older for route in decoder.routes()),
            "quote": decoder.duplicate_quotes,
            "book": sum(route.sync.older for route in decoder.routes()),
            "other": sum(stream.duplicates for route in decoder.routes() for stream in route.others.values()),
        }

    async def _beat(self) -> None:
        while True:
            self.ctx.beat()
            await asyncio.sleep(BEAT_INTERVAL_S)

    async def _watch(self) -> None:
        while True:
            self.links.watch()
            self.gaps.flush()
            self.outages.ledger.flush()
            now = time.time_ns()  # the clock of receipts
            for writer in self.writers.values():
                writer.mind_clock(now)
            self.metrics.update(self)
            await asyncio.sleep(WATCH_INTERVAL_S)


def _reported_already(first: int, last: int) -> None:
    """A gap between trades that the process before us had both: it has written it down."""


async def _first_error(tasks: list[asyncio.Task[None]]) -> None:
    """Wait until one of the feed's loops ends, which none of them does but by an error of ours."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def main(ctx: ActorContext) -> None:
    """Run the feed of a context."""
    await Feed(ctx).run()
