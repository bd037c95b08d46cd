"""From what a client means to the topic that serves it: sources in the catalog, and streams of our own to read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ....codecs.desk.records import TEXTS
from ....ringbuf import ByteRingReader, LayoutMismatch, SegmentMissing, StreamReader, bytes_filename
from ...catalog import ANY, Catalog, Source
from .book import BookTopic, View
from .channels import BOOK, CHANNELS, KLINE_KIND, RECORDS, Channel
from .config import WsConfig
from .desk_channels import DESK_CHANNELS, PNL_KIND, SYSTEM, DeskChannel, DeskPlaces, DeskSource
from .desk_events import EventTopic
from .desk_state import StateTopic
from .desk_system import SystemTopic
from .errors import NOT_FOUND, FrameError
from .kline import KlineTopic
from .liveness import producer_runs
from .meters import Meters
from .names import ChannelRequest, channel_name
from .topics import Companions, RecordTopic, Topic

if TYPE_CHECKING:
    from ..desk.desk import Desk

REFRESH_S = 0.01  # the catalog is read for a subscription at most so often; reading it takes about 0.2 ms


class Registry:
    """Finds sources, opens streams, makes topics.

    Args:
        catalog: where streams are found; readers are our own, since the catalog closes its own when files change.
        schedule: what a book calls to have one of its views looked at.
        desk: the desk's streams.

    Attributes:
        topics: those with subscribers, by channel name.
        readers: open streams, by producer and record.
    """

    def __init__(
        self, catalog: Catalog, config: WsConfig, meters: Meters, schedule: Callable[[View], None], desk: Desk
    ) -> None:
        self.catalog = catalog
        self.desk = desk
        self.places = DeskPlaces(desk)
        self._texts: dict[str, tuple[int, ByteRingReader]] = {}  # by producer; with the file's inode
        self._replaced_texts: list[ByteRingReader] = []  # what is still in use of byte rings that were made anew
        self.config = config
        self.meters = meters
        self.schedule = schedule
        self.topics: dict[str, Topic] = {}
        self.readers: dict[tuple[str, str], StreamReader] = {}

    def sources(self, request: ChannelRequest) -> list[Source] | list[DeskSource]:
        """What a request means, in order of the channels' names; of the desk maybe nothing yet.

        Raises:
            FrameError: nothing produces it.
        """
        if request.account:
            found_here = self.places.sources(request.kind, request.account)
            if not found_here:
                self.desk.refresh()
                found_here = self.places.sources(request.kind, request.account)
            return found_here
        if request.is_pattern:  # whatever has just begun belongs to it
            self.catalog.refresh_after(REFRESH_S)
        found = self._find(request)
        if not found:
            self.catalog.refresh_after(REFRESH_S)
            found = self._find(request)
        if not found and request.symbol != ANY:
            raise FrameError(NOT_FOUND, f"channel {request.name!r}: nothing here produces it", request.name)
        return sorted(found, key=lambda source: channel_name(request.kind, source))

    def matches(self, request: ChannelRequest) -> list[Source] | list[DeskSource]:
        """What a pattern fits now, in order of the channels' names; may be nothing."""
        if request.account:
            return self.places.sources(request.kind, request.account)
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

    def current(self, topic: Topic) -> Source | DeskSource | None:
        """Where a topic's records are now."""
        was = topic.source
        if isinstance(was, DeskSource):
            found = self.places.sources(topic.kind, was.account)
            return found[0] if found else None
        return self.catalog.find_instrument(topic.record.name, was.exchange, was.instrument, was.interval)

    def topic(self, kind: str, source: Source | DeskSource) -> Topic:
        """The topic of a channel, made at first use.

        Raises:
            FrameError: its streams are not all there.
        """
        name = channel_name(kind, source)
        topic = self.topics.get(name)
        if topic is not None:
            return topic
        try:
            if isinstance(source, DeskSource):
                return self._make_desk(DESK_CHANNELS[kind], source)
            channel = CHANNELS[kind]
            producer = source.reader.spec.producer
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

    def _make_desk(self, channel: DeskChannel, source: DeskSource) -> Topic:
        compress_from, config = self.config.compress_from_bytes, self.config
        if channel.kind == SYSTEM:
            return SystemTopic(channel, source, self.meters, compress_from, self.catalog.folder)
        if channel.struct is None:
            interval_s = config.pnl_interval_s if channel.kind == PNL_KIND else config.positions_interval_s

            def open_reader() -> StreamReader | None:
                return self.desk.streams.reader(channel.producer, channel.record)

            return StateTopic(
                channel, source, self.meters, compress_from, self.desk, open_reader, interval_s, config.frame_bytes_max
            )
        reader = self.reader(channel.producer, channel.record.name)
        topic = EventTopic(channel, source, reader, self.meters, compress_from, self.desk, self.texts)
        topic.state, topic.since_ms = topic.judge(producer_runs(reader))
        return topic

    def texts(self, producer: str) -> ByteRingReader:
        """The byte ring of a producer of the desk, as it is now."""
        path = self.catalog.folder / bytes_filename(producer, TEXTS)
        kept = self._texts.get(producer)
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            raise SegmentMissing(f"segment {path} is not there: its producer is being set up") from None
        if kept is not None and kept[0] == inode:
            return kept[1]
        if kept is not None:
            self._replaced_texts.append(kept[1])
        self._texts[producer] = (inode, ByteRingReader(path))
        return self._texts[producer][1]

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
            kind = RECORDS[record]
            found = StreamReader(self.catalog.folder, producer, record, kind.dtype, kind.fingerprint)
            self.readers[producer, record] = found
        return found

    def refreshed(self, producer: str, record: str) -> StreamReader | None:
        """Forget an open stream, so that the next use opens the file that is there now; returns the old one."""
        return self.readers.pop((producer, record), None)

    def close(self) -> None:
        for reader in (*self.readers.values(), *(texts for _, texts in self._texts.values()), *self._replaced_texts):
            reader.close()
        self._texts, self._replaced_texts = {}, []
        self.readers, self.topics = {}, {}
