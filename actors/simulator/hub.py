"""Streams of one product and the connections that are subscribed to them.

A message is encoded once for its stream (twice where somebody asked for microseconds or for the combined form) and the
same bytes go to every subscriber. `Hub.flush` hands each connection all frames of a turn in one write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from .config import Limits
from .wire import StreamName, frame_of, parse_stream

# (payload, payload in microseconds or None); a filter returns what is to be sent in their place
Filter = Callable[[bytes, bytes | None], list[tuple[bytes, bytes | None]]]


class Subscriber(Protocol):
    """What the hub needs of a connection."""

    muted: bool
    microseconds: bool
    out: list[bytes]
    withheld: int

    def flush(self) -> None: ...


class Stream:
    """One stream: its subscribers by form, and the ledger of what went out on it."""

    __slots__ = (
        "combined", "filters", "first_id", "frames", "head", "hub", "last_id", "name", "raw", "sent", "withheld",
    )  # fmt: skip

    def __init__(self, hub: Hub, name: StreamName) -> None:
        self.hub = hub
        self.name = name
        self.head = b'{"stream":"' + name.text.encode() + b'","data":'
        self.raw: list[Subscriber] = []
        self.combined: list[Subscriber] = []
        self.frames = 0  # messages handed to at least one subscriber
        self.withheld = 0  # messages that a fault kept from all subscribers
        self.first_id = 0  # trade, aggregate or last update id of the first and the latest of them
        self.last_id = 0
        self.sent: deque[bytes] | None = deque(maxlen=hub.ledger_frames_max) if hub.ledger_frames_max else None
        self.filters: list[Filter] = []

    @property
    def subscribed(self) -> bool:
        return bool(self.raw or self.combined)

    @property
    def microseconds(self) -> bool:
        """Whether a subscriber wants times in microseconds, so that the caller must encode a second payload."""
        return self.hub.microseconds > 0 and any(each.microseconds for each in (*self.raw, *self.combined))

    def publish(self, payload: bytes, ident: int, micro: bytes | None = None) -> None:
        """Queue one message for all subscribers; it leaves with the next `Hub.flush`."""
        if self.filters or self.hub.muted or self.hub.silent_tiers:
            self._publish_with_faults(payload, ident, micro)
        else:
            self._queue(payload, ident, micro)

    def _queue(self, payload: bytes, ident: int, micro: bytes | None) -> None:
        self.frames += 1
        self.last_id = ident
        if not self.first_id:
            self.first_id = ident
        if self.sent is not None:
            self.sent.append(payload)
        dirty = self.hub.dirty
        if micro is not None:
            self._queue_in_both_units(payload, micro)
            return
        if self.raw:
            frame = frame_of(payload)
            for each in self.raw:
                if not each.out:
                    dirty.append(each)
                each.out.append(frame)
        if self.combined:
            frame = frame_of(b"%b%b}" % (self.head, payload))
            for each in self.combined:
                if not each.out:
                    dirty.append(each)
                each.out.append(frame)

    def _queue_in_both_units(self, payload: bytes, micro: bytes) -> None:
        for subscribers, head, tail in ((self.raw, b"", b""), (self.combined, self.head, b"}")):
            for each in subscribers:
                if not each.out:
                    self.hub.dirty.append(each)
                each.out.append(frame_of(head + (micro if each.microseconds else payload) + tail))

    def _publish_with_faults(self, payload: bytes, ident: int, micro: bytes | None) -> None:
        if self.name.tier in self.hub.silent_tiers:
            self.withheld += 1
            return
        messages = [(payload, micro)]
        for each in list(self.filters):
            messages = [out for message in messages for out in each(*message)]
        raw, combined = self.raw, self.combined
        muted = [each for each in (*raw, *combined) if each.muted]
        for each in muted:
            each.withheld += len(messages)
        if not messages or (muted and len(muted) == len(raw) + len(combined)):
            self.withheld += 1
            return
        self.raw = [each for each in raw if not each.muted]
        self.combined = [each for each in combined if not each.muted]
        for message in messages:
            self._queue(message[0], ident, message[1])
        self.raw, self.combined = raw, combined


class Hub:
    """All streams of one product."""

    def __init__(self, product: str, limits: Limits, ledger_frames_max: int) -> None:
        self.product = product
        self.limits = limits
        self.ledger_frames_max = ledger_frames_max
        self.streams: dict[str, Stream] = {}
        self.dirty: list[Subscriber] = []
        self.muted = 0  # connections that a fault keeps silent
        self.silent_tiers: set[str] = set()  # whose streams a fault keeps silent
        self.microseconds = 0  # connections that asked for microseconds
        self.paused = 0  # connections whose socket takes no more at present
        self.writable = asyncio.Event()
        self.writable.set()
        self.subscriptions = 0  # changes so far; a source waits for it to settle
        self.on_first: Callable[[Stream], None] = lambda stream: None  # set by the source
        self.on_last: Callable[[Stream], None] = lambda stream: None

    def stream(self, text: str) -> Stream:
        stream = self.streams.get(text)
        if stream is None:
            stream = self.streams[text] = Stream(self, parse_stream(self.product, text))
        return stream

    def knows(self, text: str) -> bool:
        """Tell whether a stream of this name can deliver anything."""
        return bool(parse_stream(self.product, text).kind)

    def attach(self, subscriber: Subscriber, text: str, combined: bool) -> None:
        stream = self.stream(text)
        first = not stream.subscribed
        (stream.combined if combined else stream.raw).append(subscriber)
        self.subscriptions += 1
        if first:
            self.on_first(stream)

    def detach(self, subscriber: Subscriber, text: str) -> None:
        stream = self.streams[text]
        for group in (stream.raw, stream.combined):
            if subscriber in group:
                group.remove(subscriber)
                self.subscriptions += 1
        if not stream.subscribed:
            self.on_last(stream)

    def flush(self) -> None:
        """Write out everything that was queued since the last call."""
        dirty = self.dirty
        if dirty:
            self.dirty = []
            for each in dirty:
                each.flush()

    def pause(self) -> None:
        self.paused += 1
        self.writable.clear()

    def resume(self) -> None:
        self.paused -= 1
        if not self.paused:
            self.writable.set()
