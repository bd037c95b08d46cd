"""From what a client means to the topic that serves it: sources in the catalog, and streams of our own to read them."""

from __future__ import annotations

from collections.abc import Callable

from ....codecs.records import BY_NAME
from ....ringbuf import LayoutMismatch, SegmentMissing, StreamReader
from ..catalog import ANY, Catalog, Source
from .book import BookTopic, View
from .channels import BOOK, CHANNELS, KLINE_KIND, Channel
from .config import WsConfig
from .errors import NOT_FOUND, FrameError
from .kline import KlineTopic
from .liveness import producer_runs
from .meters import Meters
from .names import ChannelRequest, channel_name
from .topics import Companions, RecordTopic, Topic

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
        record = CHANNELS[request.kind].record.name
        if not request.is_pattern:
            found = self.catalog.find_instrument(record, request.exchange, request.instrument, request.interval)
            return [found] if found is not None else []
        return [
            source
            for source in self.catalog.match(
                record, request.exchange, request.market_type, request.symbol, request.interval
            )
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
        channel = CHANNELS[kind]
        producer = source.reader.spec.producer
        try:
            reader, companions = self.reader(producer, channel.record.name), self.companions(producer, channel)
        except (SegmentMissing, LayoutMismatch) as error:
            raise FrameError(NOT_FOUND, f"channel {name!r} cannot be read just now: {error}", name) from None
        topic = self._make(channel, source, reader, companions)
        topic.state, topic.since_ms = topic.judge(producer_runs(reader))
        return topic

    def _make(self, channel: Channel, source: Source, reader: StreamReader, companions: Companions) -> Topic:
        compress_from = self.config.compress_from_bytes
        if channel.kind == BOOK:
            interval_ms = self.config.book_interval_ms
            return BookTopic(
                channel, source, reader, companions, self.meters, compress_from, interval_ms, self.schedule
            )
        kind = KlineTopic if channel.kind == KLINE_KIND else RecordTopic
        return kind(channel, source, reader, companions, self.meters, compress_from)

    def companions(self, producer: str, channel: Channel) -> Companions:
        """The further streams of a channel. Raises SegmentMissing where the first is not there."""
        found: dict[str, StreamReader | None] = {}
        for record in channel.companions:
            try:
                found[record.name] = self.reader(producer, record.name)
            except SegmentMissing:
                if not found:
                    raise
                found[record.name] = None
        return found

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
