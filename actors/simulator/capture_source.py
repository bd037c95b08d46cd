"""A source that replays recorded frames, unchanged and in their order."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import Any, NamedTuple

import msgspec
from picows import WSCloseCode

from .capture_book import CaptureBook, DepthBody, decode_body, decode_event
from .capture_files import CaptureFile, Item, capture_file, read_captures
from .config import SPOT, Config
from .connection import Connection
from .errors import CaptureUnusable
from .hub import Hub, Stream
from .instruments import Instrument, split_native, spot_info, usdm_info
from .source import Source
from .wire import MS, parse_stream

_COMBINED = b'{"stream":"'
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
TURN_NS = 2_000_000  # at recorded speed, frames that are due within this time leave together
YIELD_EVERY = 64  # at full speed, frames between two looks at sockets and requests
PRECISION_SAMPLE = 500  # messages of each symbol that are read for their decimals


class Event(NamedTuple):
    """One frame of the capture: the stream it belongs to, and the message without the combined wrapper."""

    stream: str
    payload: bytes


def split_frame(payload: bytes) -> Event | None:
    """Return stream and message of a recorded frame; None for replies and whatever else carries no market data."""
    try:
        if payload.startswith(_COMBINED):
            end = payload.index(b'"', len(_COMBINED))
            start = payload.index(b":", end) + 1
            return Event(payload[len(_COMBINED) : end].decode(), payload[start : payload.rindex(b"}")])
        message = _decode(payload)
    except ValueError:  # msgspec's decode errors are ValueErrors
        return None
    if not isinstance(message, dict) or "s" not in message:
        return None
    symbol = str(message["s"]).lower()
    kind = message.get("e", "bookTicker")
    return Event(f"{symbol}@{'depth' if kind == 'depthUpdate' else kind}", payload)


def is_depth_body(item: Item) -> bool:
    return not item.frame and b'"lastUpdateId"' in item.payload[:200]


class Contents:
    """What one pass over the files finds: streams with their counts, snapshots, instruments."""

    def __init__(self, files: list[CaptureFile]) -> None:
        self.frames: Counter[tuple[str, str]] = Counter()  # by product and stream
        self.snapshots: dict[tuple[str, str], list[DepthBody]] = {}
        self.listed: dict[tuple[str, str], dict[str, Any]] = {}  # exchangeInfo entries by product and symbol
        self.total = 0
        self._decimals: dict[tuple[str, str], list[int]] = {}
        self._sampled: Counter[tuple[str, str]] = Counter()
        self._prices: dict[tuple[str, str], float] = {}
        recorded: dict[tuple[str, str], dict[str, Any]] = {}
        for item in read_captures(files):
            if not item.frame:
                self._rest(item, recorded)
            elif (event := split_frame(item.payload)) is not None:
                self.total += 1
                self.frames[item.product, event.stream] += 1
                self._sample(item.product, event)
        if not self.total:
            raise CaptureUnusable(f"no stream frame found in {', '.join(str(file.path) for file in files)}")
        for key in self._sampled.keys() | self.snapshots.keys():
            self.listed[key] = recorded.get(key) or self._compose(*key)

    def _rest(self, item: Item, recorded: dict[tuple[str, str], dict[str, Any]]) -> None:
        if is_depth_body(item):
            self.snapshots.setdefault((item.product, item.symbol), []).append(decode_body(item.payload))
        elif "exchangeInfo" in item.url:
            for row in _decode(item.payload)["symbols"]:
                recorded[item.product, row["symbol"]] = row

    def _sample(self, product: str, event: Event) -> None:
        name = parse_stream(product, event.stream)
        key = product, name.symbol
        if name.kind not in ("trade", "aggTrade", "bookTicker", "depth") or self._sampled[key] >= PRECISION_SAMPLE:
            return
        self._sampled[key] += 1
        message = _decode(event.payload)
        if name.kind == "depth":
            pairs = [tuple(level) for side in ("b", "a") for level in message[side]]
        elif name.kind == "bookTicker":
            pairs = [(message["b"], message["B"]), (message["a"], message["A"])]
        else:
            pairs = [(message["p"], message["q"])]
        digits = self._decimals.setdefault(key, [0, 0])
        for price, quantity in pairs:
            self._prices.setdefault(key, float(price))
            for index, text in enumerate((price, quantity)):
                fraction = text.partition(".")[2]
                digits[index] = max(digits[index], len(fraction.rstrip("0") if product == SPOT else fraction))

    def _compose(self, product: str, symbol: str) -> dict[str, Any]:
        base, quote = split_native(symbol)
        price_digits, quantity_digits = self._decimals.get((product, symbol), [2, 3])
        price = self._prices.get((product, symbol), 1.0)
        instrument = Instrument(product, symbol, base, quote, price, price_digits, quantity_digits)
        return (spot_info if product == SPOT else usdm_info)(instrument)


class CaptureSource(Source):
    """Replays capture files at recorded speed, N times as fast, or as fast as the sockets take it (`speed` 0).

    A subscription to a depth stream of another interval than the recorded one gets the recorded differences under the
    requested name. At full speed the replay waits at each recorded snapshot until the symbol's depth has been asked for
    (`hold_snapshot_s`), and answers with that snapshot.
    """

    def __init__(self, config: Config, hubs: dict[str, Hub], connections: dict[str, dict[int, Connection]]) -> None:
        super().__init__(config, hubs)
        if not config.captures:
            raise CaptureUnusable("source is 'capture' but `captures` names no file")
        self._connections = connections
        self.files = [capture_file(text) for text in config.captures]
        self.contents = Contents(self.files)
        self.targets: dict[tuple[str, str], list[Stream]] = {}
        self._history: dict[tuple[str, str, str], deque[bytes]] = {}
        self._asked: set[tuple[str, str]] = set()
        self._asked_now = asyncio.Event()
        self._held: dict[tuple[str, str], DepthBody] = {}
        self.read = self.sent = self.unwanted = self.rounds = 0
        self.unusable = 0  # frames that carry no market data, or that cannot be read
        self.held_out = 0  # snapshots at which nobody asked in time
        self.position_ns = 0
        self.first_ns = 0
        self._reset()

    def _reset(self) -> None:
        self.books = {key: CaptureBook(key[0], bodies) for key, bodies in self.contents.snapshots.items()}

    # -- streams

    def watch(self, stream: Stream) -> None:
        product = stream.hub.product
        recorded = stream.name.text
        if (product, recorded) not in self.contents.frames:
            wanted = stream.name
            same = [
                name
                for listed, name in self.contents.frames
                if listed == product and wanted.kind == "depth"
                if (other := parse_stream(product, name)).kind == "depth" and other.symbol == wanted.symbol
            ]
            if not same:
                return
            recorded = same[0]
        self.targets.setdefault((product, recorded), []).append(stream)

    def unwatch(self, stream: Stream) -> None:
        for streams in self.targets.values():
            if stream in streams:
                streams.remove(stream)

    # -- replay

    async def run(self) -> None:
        while True:
            await self.wait_for_start()
            await (self._replay_timed() if self.config.speed else self._replay_flat_out())
            self.flush()
            self.rounds += 1
            if not self.config.loop:
                self.finished = True
                return
            await self.writable()
            for group in self._connections.values():
                for each in list(group.values()):
                    each.close(WSCloseCode.GOING_AWAY, "the capture begins again")
            self.started = False
            self.start_command.clear()
            self._reset()

    async def _replay_timed(self) -> None:
        begin_ns = time.monotonic_ns()
        self.first_ns = 0
        for item in read_captures(self.files):
            if not self.first_ns:
                self.first_ns = item.ts_recv_ns
            due_ns = begin_ns + int((item.ts_recv_ns - self.first_ns) / self.config.speed)
            wait_ns = due_ns - time.monotonic_ns()
            if wait_ns > TURN_NS:
                self.flush()
                await asyncio.sleep(wait_ns / 1e9)
            elif self.read % YIELD_EVERY == 0:
                self.flush()
                await asyncio.sleep(0)
            self._play(item)
            if any(hub.paused for hub in self.hubs.values()):
                self.flush()
                await self.writable()

    async def _replay_flat_out(self) -> None:
        for item in read_captures(self.files):
            if is_depth_body(item):
                await self._hold(item)
            self._play(item)
            if self.read % YIELD_EVERY == 0:
                self.flush()
                await asyncio.sleep(0)
                await self.writable()

    async def _hold(self, item: Item) -> None:
        """Wait at a recorded snapshot until it has been asked for, if somebody follows the symbol's depth."""
        key = item.product, item.symbol
        followed = any(
            streams
            and item.product == listed
            and (name := parse_stream(item.product, text)).kind == "depth"
            and name.symbol == key[1]
            for (listed, text), streams in self.targets.items()
        )
        if not followed or key in self._asked:
            return
        self.flush()
        self._held[key] = decode_body(item.payload)
        deadline = time.monotonic() + self.config.hold_snapshot_s
        while key not in self._asked and (left := deadline - time.monotonic()) > 0:
            self._asked_now.clear()
            try:
                await asyncio.wait_for(self._asked_now.wait(), left)
            except TimeoutError:
                self.held_out += 1
        del self._held[key]

    def _play(self, item: Item) -> None:
        """Send one frame on its stream and fold it into the replay's own state, in one step."""
        self.read += 1
        self.position_ns = item.ts_recv_ns
        if not item.frame:
            return
        event = split_frame(item.payload)
        if event is None:
            self.unusable += 1
            return
        product = item.product
        ident = 0
        kind = event.stream.partition("@")[2]
        if kind == "depth" or kind.startswith("depth@"):
            ident = self._fold_depth(product, event)
        elif kind in ("trade", "aggTrade"):
            ident = _ident(event.payload, b'"t":' if kind == "trade" else b'"a":')
            key = (product, event.stream.partition("@")[0].upper(), kind)
            history = self._history.get(key)
            if history is None:
                history = self._history[key] = deque(maxlen=self.config.history_trades)
            history.append(event.payload)
        elif kind == "bookTicker":
            ident = _ident(event.payload, b'"u":')
        streams = self.targets.get((product, event.stream))
        if not streams:
            self.unwanted += 1
            return
        for stream in streams:
            stream.publish(event.payload, ident)
        self.sent += 1

    def _fold_depth(self, product: str, event: Event) -> int:
        """Apply a difference to the replay's book; return its update id, 0 where it cannot be read."""
        try:
            depth = decode_event(event.payload)
        except ValueError:
            self.unusable += 1
            return 0
        key = product, event.stream.partition("@")[0].upper()
        book = self.books.get(key)
        if book is None:
            book = self.books[key] = CaptureBook(product, [])
        book.apply(depth)
        return depth.last

    # -- REST

    def listed(self, product: str, symbol: str) -> bool:
        return (product, symbol) in self.contents.listed

    def exchange_info(self, product: str) -> list[dict]:
        return [row for key, row in self.contents.listed.items() if key[0] == product]

    def depth(self, product: str, symbol: str, limit: int) -> bytes | None:
        key = product, symbol
        if key not in self.contents.listed:
            return None
        if self.started:
            self._asked.add(key)
            self._asked_now.set()
        book = self.books.get(key) or CaptureBook(product, [])
        if key in self._held:
            return book.recorded(self._held[key], limit)
        return book.body(limit)

    def trades(self, product: str, symbol: str, limit: int, unit: int = MS) -> list[str] | None:
        if not self.listed(product, symbol):
            return None
        rows = []
        for payload in list(self._history.get((product, symbol, "trade"), ()))[-limit:]:
            trade = _decode(payload)
            row = {"id": trade["t"], "price": trade["p"], "qty": trade["q"],
                   "quoteQty": f"{float(trade['p']) * float(trade['q']):.8f}", "time": trade["T"],
                   "isBuyerMaker": trade["m"], "isBestMatch": True}  # fmt: skip
            rows.append(_encode(row).decode())
        return rows

    def agg_trades(
        self,
        product: str,
        symbol: str,
        limit: int,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        unit: int = MS,
    ) -> list[str] | None:
        if not self.listed(product, symbol):
            return None
        rows = [_decode(payload) for payload in self._history.get((product, symbol, "aggTrade"), ())]
        rows = [{key: row[key] for key in ("a", "p", "q", "f", "l", "T", "m")} for row in rows]
        if from_id is not None:
            rows = [row for row in rows if row["a"] >= from_id][:limit]
        else:
            low, high = start_ms or 0, end_ms if end_ms is not None else 1 << 62
            rows = [row for row in rows if low <= row["T"] <= high]
            rows = rows[:limit] if start_ms is not None else rows[-limit:]
        return [_encode(row).decode() for row in rows]

    def progress(self) -> dict[str, object]:
        return {
            "files": [str(file.path) for file in self.files], "frames": self.contents.total, "read": self.read,
            "sent": self.sent, "unwanted": self.unwanted, "rounds": self.rounds, "position_ns": self.position_ns,
            "unusable": self.unusable, "held_out": self.held_out,
            "streams": {f"{product}:{name}": count for (product, name), count in self.contents.frames.items()},
        }  # fmt: skip


def _ident(payload: bytes, mark: bytes) -> int:
    """Return the integer after a key; 0 where it is missing."""
    start = payload.find(mark)
    if start < 0:
        return 0
    start += len(mark)
    stop = start
    while payload[stop : stop + 1].isdigit():
        stop += 1
    return int(payload[start:stop] or 0)
