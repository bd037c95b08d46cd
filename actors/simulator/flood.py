"""Frames encoded beforehand and sent as fast as each socket takes them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator

import numpy as np

from .config import Config
from .connection import Connection
from .hub import Hub, Stream
from .market_source import MarketSource, Rotation
from .wire import frame_of

BLOCK_BYTES = 64 * 1024
ENCODE_TURN = 1000  # messages encoded before the event loop gets its turn

# Ids as they stand in a message: aggregate id, trade ids, update ids. `"a":[` (asks) and prices in quotes do not match.
_ID = re.compile(rb'"(a|t|f|l|u|U|pu)":(\d+)')
_FAMILY = {
    b"a": "aggregate",
    b"t": "trade",
    b"f": "trade",
    b"l": "trade",
    b"u": "update",
    b"U": "update",
    b"pu": "update",
}


class FloodBlocks:
    """The frames of one connection as one byte string, whose ids can be moved on for the next round.

    A round repeats the same frames with ids that continue, so that no receiver takes them for duplicates. Depth
    messages are sent in the first round only: repeated on top of the last round's book they would not fit it.
    """

    def __init__(self, frames: list[tuple[Stream, bytes]], combined: bool) -> None:
        self.count = len(frames)
        offset = 0
        bounds = []
        found: dict[tuple[Stream, str], list[tuple[int, bytes]]] = {}
        parts = []
        for stream, payload in frames:
            frame = frame_of(stream.head + payload + b"}") if combined else frame_of(payload)
            body = len(frame) - len(payload) - (1 if combined else 0)
            for match in _ID.finditer(payload):
                family = _FAMILY[match[1]]
                found.setdefault((stream, family), []).append((offset + body + match.start(2), match[2]))
            parts.append(frame)
            offset += len(frame)
            bounds.append(offset)
        self.data = bytearray(b"".join(parts))
        self._bounds = np.array(bounds, dtype=np.int64)
        # One entry for each stream and family of ids: where the digits are, how many, the values, the round's span.
        self._ids: list[tuple[np.ndarray, int, np.ndarray, int]] = []
        for places in found.values():
            width = len(places[0][1])
            assert all(len(digits) == width for _, digits in places), "ids of one stream change their width"
            values = np.array([int(digits) for _, digits in places], dtype=np.int64)
            positions = np.array([position for position, _ in places], dtype=np.int64)
            self._ids.append((positions, width, values, int(values.max() - values.min()) + 1))

    def move_on(self) -> None:
        """Write the ids of the next round."""
        data = np.frombuffer(self.data, dtype=np.uint8)
        for positions, width, values, span in self._ids:
            values += span
            left = values.copy()
            for place in range(width - 1, -1, -1):
                left, digit = np.divmod(left, 10)
                data[positions + place] = digit + 48

    def blocks(self, frames_max: int) -> Iterator[tuple[bytes, int]]:
        """Yield (bytes, frames) of about 64 KiB each, up to `frames_max` frames in all."""
        start = first = 0
        last = min(self.count, frames_max)
        while first < last:
            stop = int(np.searchsorted(self._bounds, start + BLOCK_BYTES, side="left")) + 1
            stop = min(stop, last)
            end = int(self._bounds[stop - 1])
            yield bytes(self.data[start:end]), stop - first
            start, first = end, stop


class FloodSource(MarketSource):
    """Every connection gets all messages of its streams, from the first to the last, at its own pace."""

    def __init__(self, config: Config, hubs: dict[str, Hub], connections: dict[str, dict[int, Connection]]) -> None:
        super().__init__(config, hubs)
        self._connections = connections
        self._snapshots: dict[tuple[str, str], bytes] = {}
        self.sent = 0
        self.rounds = 0

    async def run(self) -> None:
        await self.wait_for_start()
        frames = await self._encode()
        targets = [each for group in self._connections.values() for each in group.values() if not each.closed]
        await asyncio.gather(*(self._serve(each, frames) for each in targets))
        self.finished = True

    def depth(self, product: str, symbol: str, limit: int) -> bytes | None:
        """Return the book as it was before the first frame: whoever buffers all frames can start from it."""
        body = super().depth(product, symbol, limit)
        return self._snapshots.get((product, symbol), body)

    async def _encode(self) -> list[tuple[Stream, bytes]]:
        streams = [stream for hub in self.hubs.values() for stream in hub.streams.values() if stream.subscribed]
        for (product, symbol), booth in self.board.booths.items():
            if booth.depths:
                for depth in booth.depths:  # the first message has to hold the snapshot's update id
                    depth.first_id = booth.market.update_id
                self._snapshots[product, symbol] = super().depth(product, symbol, 5000) or b""
        rotation = Rotation(self.board, streams)
        frames: list[tuple[Stream, bytes]] = []
        wanted = self.config.flood_distinct
        if self.config.messages:
            wanted = min(wanted, self.config.messages)
        now_ns = self.time_ns = time.time_ns()  # one time for all, so that no round goes back in time
        while rotation and len(frames) < wanted:
            frames += [(stream, payload) for stream, payload, _, _ in rotation.next(now_ns)]
            if len(frames) % ENCODE_TURN == 0:
                await asyncio.sleep(0)
        for stream, payload in frames:
            stream.frames += 1
            if stream.sent is not None:
                stream.sent.append(payload)
        return frames

    async def _serve(self, connection: Connection, frames: list[tuple[Stream, bytes]]) -> None:
        mine = {connection.hub.stream(name) for name, attached in connection.subscribed.items() if attached}
        chosen = [frame for frame in frames if frame[0] in mine]
        repeated = [frame for frame in chosen if frame[0].name.kind not in ("depth", "partial")]
        left = self.config.messages or 1 << 62
        blocks = FloodBlocks(chosen, connection.combined)
        left -= await self._send(connection, blocks, left)
        if len(repeated) < len(chosen):
            blocks = FloodBlocks(repeated, connection.combined)
        while left and repeated and not connection.closed:
            blocks.move_on()
            left -= await self._send(connection, blocks, left)

    async def _send(self, connection: Connection, blocks: FloodBlocks, frames_max: int) -> int:
        sent = 0
        for block, frames in blocks.blocks(frames_max):
            while connection.paused or connection.muted:
                await (connection.writable.wait() if connection.paused else asyncio.sleep(0.01))
            if connection.closed:
                return 0
            connection.write_block(block, frames)
            sent += frames
            self.sent += frames
            await asyncio.sleep(0)
        self.rounds += 1
        return sent

    def progress(self) -> dict[str, object]:
        return {**super().progress(), "sent": self.sent, "rounds": self.rounds, "distinct": self.config.flood_distinct}
