"""What a feed shows on its page. Filled in once a second from counters that cost the hot path nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...codecs.book import BookState
from ...ringbuf import MetricsPage
from ..latency import FeedLatency
from .protocol import CHANNELS, RECORDS

if TYPE_CHECKING:
    from .feed import Feed

SYMBOLS_SHOWN_MAX = 40  # names in the detail
# How the names of these channels begin on the wire: two bytes tell them apart.
_MARKS = {CHANNELS.get(channel, channel)[:2].encode(): record for channel, record in RECORDS.items()}
assert len(_MARKS) == len(RECORDS)


class FeedMetrics:
    """Copies the feed's own counts into its page."""

    def __init__(self, page: MetricsPage, exchange: str) -> None:
        self._page = page
        self._exchange = exchange
        self._latency: FeedLatency | None = None
        self.rest: Counter[str] = Counter()  # answers by status; "none" where none came

    def count_rest(self, status: int) -> None:
        self.rest[str(status) if status else "none"] += 1

    def _count(self, name: str, help: str, value: float, **labels: str) -> None:
        self._page.counter(f"tickring_feed_{name}_total", help, exchange=self._exchange, **labels).value = value

    def _counts(self, name: str, help: str, label: str, values: Mapping[Any, int]) -> None:
        for key, value in values.items():
            if value:
                self._count(name, help, value, **{label: str(key)})

    def _gauge(self, name: str, help: str, value: float, **labels: str) -> None:
        self._page.gauge(f"tickring_feed_{name}", help, exchange=self._exchange, **labels).set(value)

    def timing(self, feed: Feed) -> Callable[[bytes, int], None]:
        """Build ``flush(message, ts_recv_ns)``: publish what a read brought, and take the time of one message."""
        records = {RECORDS[channel]: None for channel in feed.config.channels if channel in RECORDS}
        self._latency = FeedLatency(self._page, self._exchange, records, feed.writers, feed.readers)
        return self._latency.sampler(_MARKS, feed.sink.flush)

    def update(self, feed: Feed) -> None:
        links, hooks, decoder = feed.links, feed.hooks, feed.decoder
        if self._latency is not None:
            self._latency.look()
        self._count("frames", "Messages received.", links.frames)
        self._count("bytes", "Bytes of messages received.", links.bytes)
        for record, writer in feed.writers.items():
            if writer.spec.capacity:
                published = writer.sequence - feed.first[record]
                self._count("records", "Records published, by record type.", published, record=record)
        self._counts("rejected", "Frames that gave no record, by reason.", "reason", decoder.rejected)
        self._counts("gaps", "Holes in the exchange's numbering.", "kind", hooks.gap_events)
        self._counts("missing", "Ids in those holes.", "kind", hooks.missing_ids)
        unwritten = feed.gaps.failed + feed.outages.ledger.failed
        self._count("gaps_unwritten", "Gaps and outages that could not be written to disk.", unwritten)
        self._count("unexpected_records", "Records that have no stream here, dropped.", feed.sink.unexpected)
        self._counts("duplicates", "Messages that had come before.", "kind", feed.duplicates())
        self._count("off_book", "Trades outside the book, not recorded.", decoder.off_book)
        self._count("other_events", "Events without a record type.", decoder.other_events + decoder.other_product)
        self._count("controls", "Answers to control frames.", hooks.controls)
        self._count("refusals", "Control frames refused by the exchange.", hooks.refusals)
        self._count("connects", "Connections opened.", links.connects)
        self._count("connects_failed", "Connections that could not be opened.", links.opened - links.connects)
        self._count("replaced", "Connections replaced without interruption.", links.replaced)
        self._counts("disconnects", "Connections ended, by reason.", "reason", links.lost)
        self._counts("rest", "REST answers, by status.", "status", self.rest)
        self._gauge("connected", "1 while a connection delivers.", float(links.current is not None))
        self._gauge("data_age_seconds", "Since the last market data.", links.data_age_s)
        self._count("instruments_changed", "Changes of tick sizes, precisions or states.", feed.instruments_changed)
        if feed.silence is not None:
            self._counts("silent_streams", "Streams that fell silent.", "channel", feed.silence.named)
            self._count("resubscribed", "Silent streams subscribed anew.", feed.silence.resubscribed)
            self._gauge("streams_silent", "Streams silent now.", len(feed.silence.silent_names()))
        if (klines := feed.klines) is not None:
            self._gauge("klines_filling", "Keys of bars that are being fetched from REST.", klines.filling)
            self._count("klines_fetched", "Bars taken from REST.", klines.fetched)
            self._count("klines_fetch_failed", "Requests for bars that failed.", klines.failed)
            self._count("klines_partial", "Closed bars seen only in part.", klines.partial)
            self._count("klines_unexpected", "Bars nobody asked for, or of the future.", klines.unexpected)
            self._count("klines_repeated", "Closed bars that had come before.", klines.again)
            for interval, compared in klines.compared.items():
                differences = klines.differences[interval]
                self._count("klines_compared", "Bars made here and sent too.", compared, interval=interval)
                self._count("klines_different", "Of these, not the same.", differences, interval=interval)
        if feed.open_interest is not None:
            self._count("open_interest_failed", "Requests that failed.", feed.open_interest.failed)
        if feed.config.books:
            syncs = [route.sync for route in feed.book_routes()]
            self._count("resyncs", "Books given up and taken anew.", sum(sync.resyncs for sync in syncs))
            self._count("snapshots", "Snapshots applied.", sum(sync.snapshots for sync in syncs))
            stale = sum(sync.snapshots_stale for sync in syncs)
            self._count("snapshots_stale", "Snapshots older than the stream.", stale)
            self._count("snapshots_failed", "Snapshot requests that failed.", feed.snapshots.failed)
            self._count("snapshots_given_up", "Books left without a snapshot by an error.", feed.snapshots.given_up)
            dropped = sum(sync.buffer_dropped for sync in syncs)
            self._count("book_events_dropped", "Events of books whose snapshot took too long.", dropped)
            states = Counter(sync.book.state for sync in syncs)
            for state in BookState:
                self._gauge("books", "Books by state.", float(states[state]), state=state.name.lower())
        self._page.detail = self._detail(feed)

    def _detail(self, feed: Feed) -> dict[str, Any]:
        links = feed.links
        detail: dict[str, Any] = {
            "url": feed.config.ws_url,
            "state": links.state.value,
            "symbols": len(feed.instruments),
            "data_age_s": round(links.data_age_s, 2),
        }
        if feed.listing.unknown:
            detail["unknown"] = feed.listing.unknown[:SYMBOLS_SHOWN_MAX]
        if links.last_error:
            detail["last_error"] = links.last_error[:200]
        if feed.config.books:
            routes = feed.book_routes()
            others = [each.instrument.instrument for each in routes if each.sync.book.state != BookState.SYNCED]
            detail["books"] = {"synced": len(routes) - len(others), "others": others[:SYMBOLS_SHOWN_MAX]}
        blocked_s = (feed.weight.blocked_until_ns - feed.clock()) / 1e9
        if blocked_s > 0:
            detail["rest_blocked_s"] = round(blocked_s, 1)
        return detail
