"""The newest items of a desk stream, decoded once however many ask for them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from ..codecs.record import Flag
from ..ringbuf import ByteRingReader, MetricsPage, StreamReader

log = logging.getLogger(__name__)

T = TypeVar("T")
READ_ROWS = 1024
UNREADABLE = "tickring_desk_unreadable_items_total"
# Names of the desk's actors.
ALERTS_ACTOR = "alerts"
PORTFOLIO_ACTOR = "portfolio"
_VOID = int(Flag.VOID)


def topic_actor(topic: str) -> str:
    """Name of the actor of a topic."""
    return "topic-" + topic.replace(".", "-")


class Item(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """One item of a stream: what its texts say, and the header of its record."""

    value: T
    sequence: int  # in the ring
    key_id: int
    nth: int
    recv_ns: int  # our wall clock
    event_ns: int  # the producer's
    flags: int
    partition: int = 0  # where it came from, as far as its record says
    offset: int = -1
    item: int = 0


class Recent(Generic[T]):
    """Follows one stream whose records carry JSON texts, a step behind whoever asks.

    Args:
        reader: of the stream.
        texts: the byte ring of its producer.
        kind: what the texts are.
        size: items kept.
        page: where what could not be read is counted too.

    Attributes:
        items: oldest first, in the order of their arrival.
        unreadable: items whose texts were overwritten before somebody asked, are damaged, or of another version.
        unbroken: from this sequence of the ring on, every item is among the items, or was and has made room.
    """

    def __init__(
        self, reader: StreamReader, texts: ByteRingReader, kind: type[T], size: int, page: MetricsPage | None = None
    ) -> None:
        self.reader, self.size = reader, size
        self._texts = texts
        self._decode = msgspec.json.Decoder(kind).decode
        self._origin = "offset" in (reader.dtype.names or ())
        self.items: deque[Item[T]] = deque(maxlen=size)
        self.unreadable = 0
        self._closed = False
        name = f"{reader.producer}.{reader.record}"
        self._counter = page.counter(UNREADABLE, "Items whose texts could not be read", stream=name) if page else None
        self._cursor = self.unbroken = max(reader.oldest(), reader.published() - size)
        self._whole = self._cursor == 0

    @property
    def epoch(self) -> int:
        return self.reader.epoch

    @property
    def version(self) -> int:
        """Changes with every new item."""
        return self.reader.published()

    def refresh(self) -> deque[Item[T]]:
        """Read what has come since; returns the items."""
        if self._closed:
            return self.items
        published = self.reader.published()
        while self._cursor < published:
            if published - self._cursor > self.size:
                self._cursor = self.unbroken = published - self.size
                self._whole = False
            rows, following, lost = self.reader.read(self._cursor, min(READ_ROWS, published - self._cursor))
            if not len(rows):
                break
            if lost:
                self._whole, self.unbroken = False, following - len(rows)
            self._take(rows, following - len(rows))
            self._cursor = following
        return self.items

    def _take(self, rows: Any, first: int) -> None:
        columns = [rows[name].tolist() for name in ("key_id", "nth", "ts_recv_ns", "ts_event_ns", "flags")]
        where = [rows[name].tolist() for name in ("text_at", "text_size")]
        if self._origin:
            origin = [rows[name].tolist() for name in ("partition", "offset", "item")]
        else:
            origin = [[0] * len(rows), [-1] * len(rows), [0] * len(rows)]
        unreadable, why = 0, "their texts were overwritten"
        for index, (at, size, *header) in enumerate(zip(*where, *columns, *origin, strict=True)):
            if header[4] & _VOID:
                continue
            text = self._texts.read(at, size)
            try:
                value = self._decode(text) if text is not None else None
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                value, why = None, str(error)
            if value is None:
                unreadable += 1
                self._whole, self.unbroken = False, first + index + 1
                continue
            if len(self.items) == self.size:
                self._whole = False
            self.items.append(Item(value, first + index, *header))
        if unreadable:
            self.unreadable += unreadable
            if self._counter is not None:
                self._counter.inc(unreadable)
            producer, record = self.reader.producer, self.reader.record
            log.warning("stream=%s.%s unreadable=%d from=%d: %s", producer, record, unreadable, first, why)

    def since(self, sequence: int) -> list[Item[T]]:
        """Items from a sequence of the ring on, oldest first."""
        found = []
        for item in reversed(self.refresh()):
            if item.sequence < sequence:
                break
            found.append(item)
        return found[::-1]

    def newest_first(self, key_id: int | None = None) -> Iterator[Item[T]]:
        """The items, of one key or of all."""
        for item in reversed(self.refresh()):
            if key_id is None or item.key_id == key_id:
                yield item

    def reaches(self, start_ns: int) -> bool:
        """Whether everything that arrived since then is among the items.

        An event arrives after it happened, so nothing older than the items can have happened since either.
        """
        items = self.refresh()
        return bool(items) and items[0].recv_ns < start_ns

    @property
    def whole(self) -> bool:
        """Whether the items are all there ever were in this epoch."""
        return self._whole

    def close(self) -> None:
        """Unmap. The items stay, for whoever is in the midst of an answer."""
        if not self._closed:
            self._closed = True
            self.reader.close()
            self._texts.close()
