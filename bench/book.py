"""Order books from a real USD-M recording: levels applied for each CPU second, with level records and the top 20.

The full book is kept; every event writes its levels to a ring and the 20 best of each side to the latest values,
and the 400 best every 100 ms of the recording. Peers: the typed decode alone, and cryptofeed with its C book where
installed, read at each event and not read at all.
"""

from __future__ import annotations

import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from harness import ROOT, Line

from tickring.actors.feed.publish import RingSink
from tickring.codecs.binance.decoder import BinanceDecoder
from tickring.codecs.captures import read_capture
from tickring.codecs.records import BOOK_DEPTH, BOOK_LEVEL, BOOK_TOP
from tickring.codecs.sink import NoHooks
from tickring.codecs.symbols import Instrument
from tickring.ringbuf import StreamWriter, create_stream

CAPTURE = ROOT.parent / "shared" / "captures" / "binance-usdm" / "hftbacktest_btcusdt_20240808.gz"


class Depth(msgspec.Struct, gc=False):
    b: list[tuple[float, float]]
    a: list[tuple[float, float]]


class Combined(msgspec.Struct, gc=False):
    data: Depth


def load() -> tuple[list[tuple[int, bytes]], bytes, int]:
    """Depth frames with their receive times, the snapshot's body, and before which frame it arrived."""
    frames: list[tuple[int, bytes]] = []
    snapshot, at = b"", 0
    for entry in read_capture(CAPTURE):
        if b"@depth" in entry.payload[:60]:
            frames.append((entry.ts_recv_ns, entry.payload))
        elif entry.payload.startswith(b'{"lastUpdateId"'):
            snapshot, at = entry.payload, len(frames)
    return frames, snapshot, at


def ours(frames: list[tuple[int, bytes]], snapshot: bytes, at: int, depth_interval_ns: int) -> tuple[float, int]:
    """CPU seconds and levels published."""
    with tempfile.TemporaryDirectory(prefix="tickring-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        writers = {}
        for record in (BOOK_LEVEL, BOOK_TOP, BOOK_DEPTH):
            spec = record.spec("feed", capacity=1 << 18, keys_max=64)
            create_stream(folder, spec, 1)
            writers[record.name] = StreamWriter(folder, spec, [], time.time_ns())
            writers[record.name].add_key(0)
        decoder = BinanceDecoder("usdm", RingSink(writers, depth_interval_ns), NoHooks())
        decoder.add(
            Instrument(
                exchange="binance", product="usdm", native="BTCUSDT", base="BTC", quote="USDT", market_type="perpetual"
            ),
            0,
        )
        start = time.process_time()
        for i, (ts_recv_ns, frame) in enumerate(frames):
            if i == at:
                decoder.on_snapshot(0, snapshot, ts_recv_ns)
            decoder.on_frame(frame, ts_recv_ns)
        used = time.process_time() - start
        assert decoder.sync(0).gaps == 0, "the recording has no gap"
        levels = writers["book_level"].sequence
        for writer in writers.values():
            writer.close()
        return used, levels


def typed_decode(frames: list[tuple[int, bytes]]) -> float:
    decode = msgspec.json.Decoder(Combined, strict=False).decode
    start = time.process_time()
    for _, frame in frames:
        decode(frame)
    return time.process_time() - start


def cryptofeed(frames: list[tuple[int, bytes]], snapshot: bytes, read_top: bool) -> float | None:
    """CPU seconds of cryptofeed's own message handler on the same frames; None where it is not installed."""
    try:
        from cryptofeed.defines import L2_BOOK
        from cryptofeed.exchanges import BinanceFutures
        from cryptofeed.symbols import Symbols
        from cryptofeed.types import OrderBook
    except ImportError:
        return None
    name = "BTC-USDT-PERP"
    Symbols.set("BINANCE_FUTURES", {name: "BTCUSDT"}, {})

    async def on_book(book: Any, received: float) -> None:
        if read_top:
            sides = book.book
            for side in (sides.bids, sides.asks):
                for i in range(20):
                    side.index(i)

    feed = BinanceFutures(symbols=[name], channels=[L2_BOOK], callbacks={L2_BOOK: on_book})
    body = msgspec.json.decode(snapshot)

    def levels(side: str) -> dict[Decimal, Decimal]:
        return {Decimal(price): Decimal(quantity) for price, quantity in body[side]}

    feed._l2_book[name] = OrderBook(feed.id, name, bids=levels("bids"), asks=levels("asks"))
    feed._l2_book[name].delta = None
    feed.last_update_id[name] = body["lastUpdateId"]
    texts = [(ts / 1e9, frame.decode()) for ts, frame in frames]

    async def handle() -> float:
        start = time.process_time()
        for received, text in texts:
            await feed.message_handler(text, None, received)
        return time.process_time() - start

    import asyncio

    used = asyncio.run(handle())
    assert feed._l2_book, "cryptofeed lost its book"
    return used


def run(quick: bool = False) -> list[Line]:
    if not CAPTURE.exists():
        return [Line("L2 levels per CPU-second", None, "M/s", 1.0, "higher", f"no recording at {CAPTURE}")]
    frames, snapshot, at = load()
    rounds = 2 if quick else 5
    off = 1 << 62
    best, levels = min(ours(frames, snapshot, at, off) for _ in range(rounds))
    depth, _ = min(ours(frames, snapshot, at, 100_000_000) for _ in range(rounds))
    bare = min(typed_decode(frames) for _ in range(rounds))
    rate = levels / best / 1e6
    lines = [
        Line("L2 levels, book + level records + top 20", rate, "M/CPU-s", 1.0, "higher",
             f"{levels:,} levels, {best / len(frames) * 1e6:.1f} us an event; bare decode {levels / bare / 1e6:.2f} M"),
        Line("the same with the 400 best each 100 ms", levels / depth / 1e6, "M/CPU-s", None, "higher"),
    ]  # fmt: skip
    for read_top, limit in ((False, 1.5), (True, 20.0)):
        peer = cryptofeed(frames, snapshot, read_top)  # all of it: the book grows, and reading it gets dearer
        name = "L2 levels beside cryptofeed, its callback " + ("reads the top 20" if read_top else "reads nothing")
        if peer is None:
            lines.append(Line(name, None, "x", limit, "higher", "cryptofeed is not installed"))
        else:
            detail = f"cryptofeed {levels / peer / 1e6:.3f} M/CPU-s"
            lines.append(Line(name, peer / best, "x", limit, "higher", detail))
    return lines


if __name__ == "__main__":
    for line in run():
        print(line)
