"""What a feed shows on its page. Filled in a few times a second from counters that cost the hot path nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...codecs.book import BookState
from ...ringbuf import MetricsPage

if TYPE_CHECKING:
    from .feed import Feed

SYMBOLS_SHOWN_MAX = 40  # names in the detail


class FeedMetrics:
    """Copies the feed's own counts into its page."""

    def __init__(self, page: MetricsPage) -> None:
        self._page = page
        self.rest: Counter[str] = Counter()  # answers by status; "none" where none came

    def count_rest(self, status: int) -> None:
        self.rest[str(status) if status else "none"] += 1

    def _count(self, name: str, help: str, value: float, **labels: str) -> None:
        self._page.counter(f"tickring_feed_{name}_total", help, **labels).value = value

    def _counts(self, name: str, help: str, label: str, values: Mapping[Any, int]) -> None:
        for key, value in values.items():
            if value:
                self._count(name, help, value, **{label: str(key)})

    def _gauge(self, name: str, help: str, value: float, **labels: str) -> None:
        self._page.gauge(f"tickring_feed_{name}", help, **labels).set(value)

    def update(self, feed: Feed) -> None:
        links, hooks, decoder = feed.links, feed.hooks, feed.decoder
        self._count("frames", "Messages received.", links.frames)
        self._count("bytes", "Bytes of messages received.", links.bytes)
        for record, writer in feed.writers.items():
            if writer.spec.capacity:
                published = writer.sequence - feed.first[record]
                self._count("records", "Records published, by record type.", published, record=record)
        self._counts("rejected", "Frames that gave no record, by reason.", "reason", decoder.rejected)
        self._counts("gaps", "Holes in the exchange's numbering.", "kind", hooks.gap_events)
        self._counts("missing", "Ids in those holes.", "kind", hooks.missing_ids)
        self._count("gaps_unwritten", "Gaps that could not be written to disk.", feed.gaps.failed)
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
        if feed.config.books:
            syncs = [route.sync for route in decoder.routes()]
            self._count("resyncs", "Books given up and taken anew.", sum(sync.resyncs for sync in syncs))
            self._count("snapshots", "Snapshots applied.", sum(sync.snapshots for sync in syncs))
            stale = sum(sync.snapshots_stale for sync in syncs)
            self._count("snapshots_stale", "Snapshots older than the stream.", stale)
            self._count("snapshots_failed", "Snapshot requests that failed.", feed.snapshots.failed)
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
        if feed.unknown:
            detail["unknown"] = feed.unknown[:SYMBOLS_SHOWN_MAX]
        if links.last_error:
            detail["last_error"] = links.last_error[:200]
        if feed.config.books:
            routes = feed.decoder.routes()
            others = [each.instrument.instrument for each in routes if each.sync.book.state != BookState.SYNCED]
            detail["books"] = {"synced": len(feed.instruments) - len(others), "others": others[:SYMBOLS_SHOWN_MAX]}
        blocked_s = (feed.weight.blocked_until_ns - feed.clock()) / 1e9
        if blocked_s > 0:
            detail["rest_blocked_s"] = round(blocked_s, 1)
        return detail
