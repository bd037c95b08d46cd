"""From what a client means to the topic that serves it: sources in the catalog, and streams of our own to read them."""

from __future__ import annotations

from collections.abc import Callable

from ....codecs.records import BOOK_DEPTH, BOOK_LEVEL, BOOK_TOP, BY_NAME
from ....ringbuf import LayoutMismatch, SegmentMissing, StreamReader
from ..catalog import ANY, Catalog, Source
from .book import BookTopic, View
from .config import WsConfig
from .errors import NOT_FOUND, FrameError
from .liveness import producer_runs
from .meters import Meters
from .names import ChannelRequest, channel_name
from .topics import RECORD_TOPICS, Topic

RECORD_OF_KIND = {topic.kind: topic.record.name for topic in RECORD_TOPICS} | {"book": BOOK_LEVEL.name}
TOPIC_OF_KIND = {topic.kind: topic for topic in RECORD_TOPICS}


REFRESH_S = 0.01  # the catalog is read for a subscription at most so often; reading it takes about 0.2 ms


class Registry:
    """Finds sources, opens streams, makes topics.

    Args:
        catalog: where streams are found; readers are our own, since the catalog closes its own when files change.
        schedule: what a book calls to have one of its views looked at.

    Attributes:
        topics: those with subscribers, by channel name.
        readers: open streams, by producer and record.
    """

    def __init__(self, catalog: Catalog, config: WsConfig, meters: Meters, schedule: Callable[[View], None]) -> None:
        self.catalog = catalog
        self.config = config
        self.meters = meters
        self.schedule = schedule
        self.topics: dict[str, Topic] = {}
        self.readers: dict[tuple[str, str], StreamReader] = {}

    def sources(self, request: ChannelRequest) -> list[Source]:
        """What a request means, in order of the channels' names.

        Raises:
            FrameError: nothing produces it.
        """
        if request.is_pattern:  # whatever has just begun belongs to it
            self.catalog.refresh_after(REFRESH_S)
        found = self._find(request)
        if not found:
            self.catalog.refresh_after(REFRESH_S)
            found = self._find(request)
        if not found and request.symbol != ANY:
            raise FrameError(NOT_FOUND, f"channel {request.name!r}: nothing here produces it", request.name)
        return sorted(found, key=lambda source: channel_name(request.kind, source))

    def matches(self, request: ChannelRequest) -> list[Source]:
        """What a pattern fits now, in order of the channels' names; may be nothing."""
        return sorted(self._find(request), key=lambda source: channel_name(request.kind, source))

    def _find(self, request: ChannelRequest) -> list[Source]:
        record = RECORD_OF_KIND[request.kind]
        if not request.is_pattern:
            found = self.catalog.find_instrument(record, request.exchange, request.instrument)
            return [found] if found is not None else []
        return [
            source
            for source in self.catalog.match(record, request.exchange, request.market_type, request.symbol)
            if request.fits(request.kind, source)
        ]

    def topic(self, kind: str, source: Source) -> Topic:
        """The topic of a channel, made at first use.

        Raises:
            FrameError: its streams are not all there.
        """
        name = channel_name(kind, source)
        topic = self.topics.get(name)
        if topic is not None:
            return topic
        producer = source.reader.spec.producer
        try:
            reader = self.reader(producer, RECORD_OF_KIND[kind])
            if kind == "book":
                top, deep = self.reader(producer, BOOK_TOP.name), self.deep(producer)
                topic = BookTopic(
                    source, reader, top, deep, self.meters, self.config.compress_from_bytes,
                    self.config.book_interval_ms, self.schedule,
                )  # fmt: skip
            else:
                topic = TOPIC_OF_KIND[kind](source, reader, self.meters, self.config.compress_from_bytes)
        except (SegmentMissing, LayoutMismatch) as error:
            raise FrameError(NOT_FOUND, f"channel {name!r} cannot be read just now: {error}", name) from None
        topic.state, topic.since_ms = topic.judge(producer_runs(reader))
        return topic

    def deep(self, producer: str) -> StreamReader | None:
        try:
            return self.reader(producer, BOOK_DEPTH.name)
        except SegmentMissing:
            return None

    def reader(self, producer: str, record: str) -> StreamReader:
        found = self.readers.get((producer, record))
        if found is None:
            kind = BY_NAME[record]
            found = StreamReader(self.catalog.folder, producer, record, kind.dtype, kind.fingerprint)
            self.readers[producer, record] = found
        return found

    def refreshed(self, producer: str, record: str) -> StreamReader | None:
        """Forget an open stream, so that the next use opens the file that is there now; returns the old one."""
        return self.readers.pop((producer, record), None)

    def close(self) -> None:
        for reader in self.readers.values():
            reader.close()
        self.readers, self.topics = {}, {}
