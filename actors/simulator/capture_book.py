"""The order book of one captured symbol, kept beside the replay so that a late client gets a snapshot that fits."""

from __future__ import annotations

from typing import Any

import msgspec

from .config import SPOT


class DepthBody(msgspec.Struct):
    """A depth snapshot as REST answers it."""

    last_update_id: int = msgspec.field(name="lastUpdateId")
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    event_ms: int = msgspec.field(name="E", default=0)
    time_ms: int = msgspec.field(name="T", default=0)


class DepthEvent(msgspec.Struct):
    """A depth difference as a stream carries it."""

    first: int = msgspec.field(name="U")
    last: int = msgspec.field(name="u")
    bids: list[tuple[str, str]] = msgspec.field(name="b")
    asks: list[tuple[str, str]] = msgspec.field(name="a")
    event_ms: int = msgspec.field(name="E", default=0)
    time_ms: int = msgspec.field(name="T", default=0)


decode_body = msgspec.json.Decoder(DepthBody).decode
decode_event = msgspec.json.Decoder(DepthEvent).decode
_encode = msgspec.json.Encoder().encode


class CaptureBook:
    """Levels by their recorded price text. `snapshots` are the recorded ones, oldest first.

    Until the stream reaches a recorded snapshot, that snapshot is what a request gets: it is newer than the stream, and
    the documented procedure drops the events before it. From then on a request gets the levels as the replay has them.
    """

    def __init__(self, product: str, snapshots: list[DepthBody]) -> None:
        self.product = product
        self.snapshots = list(snapshots)
        self.bids: dict[str, str] = {}
        self.asks: dict[str, str] = {}
        self.last_id = 0
        self.event_ms = 0
        self.time_ms = 0
        self._based = False  # a recorded snapshot has been reached; before it the levels are only those that changed

    def apply(self, event: DepthEvent) -> None:
        while self.snapshots and event.last >= self.snapshots[0].last_update_id:
            body = self.snapshots.pop(0)
            self.bids = dict(body.bids)
            self.asks = dict(body.asks)
            self.last_id = body.last_update_id
            self._based = True
        self.event_ms, self.time_ms = event.event_ms, event.time_ms
        if event.last <= self.last_id and self.last_id:
            return
        self.last_id = event.last
        for levels, changes in ((self.bids, event.bids), (self.asks, event.asks)):
            for price, quantity in changes:
                if quantity.strip("0.") == "":
                    levels.pop(price, None)
                else:
                    levels[price] = quantity

    def body(self, limit: int) -> bytes:
        """Return the REST body: the recorded snapshot that is still ahead, else the book as replayed."""
        if self.snapshots and not self._based:
            return self._write(self.snapshots[0], limit)
        bids = sorted(self.bids.items(), key=lambda level: float(level[0]), reverse=True)
        asks = sorted(self.asks.items(), key=lambda level: float(level[0]))
        return self._write(DepthBody(self.last_id, bids, asks, self.event_ms, self.time_ms), limit)

    def recorded(self, body: DepthBody, limit: int) -> bytes:
        return self._write(body, limit)

    def _write(self, body: DepthBody, limit: int) -> bytes:
        answer: dict[str, Any] = {"lastUpdateId": body.last_update_id}
        if self.product != SPOT:
            answer |= {"E": body.event_ms, "T": body.time_ms}
        return _encode(answer | {"bids": body.bids[:limit], "asks": body.asks[:limit]})
