"""Decode, publish and tail of Binance aggregate trades beside the bare typed msgspec decode of the same frames.

The whole hot path behind the socket: decoder with all its checks, ring, tail, doorbell check, a reader attached.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import msgspec
from harness import Line, interleaved

from tickring.actors.feed.publish import RingSink
from tickring.codecs.binance.decoder import BinanceDecoder
from tickring.codecs.records import TRADE
from tickring.codecs.symbols import Instrument
from tickring.ringbuf import ReaderKind, StreamReader, StreamWriter, create_keys, create_stream, make_bell

FRAMES = 40_000
FIRST_ID = 1_000_000
READ = 64  # frames that arrive together: what a feed under load finds in its socket


class Trade(msgspec.Struct, gc=False):
    """The peer: exactly the fields used, typed, nothing checked."""

    a: int
    s: str
    p: float
    q: float
    f: int
    l: int  # noqa: E741 - the exchange's name
    T: int
    m: bool


class Combined(msgspec.Struct, gc=False):
    data: Trade


def name_of(key: int) -> str:
    """A coin's name in four letters, as most real ones are."""
    return "".join(chr(ord("A") + key // 26**i % 26) for i in range(4))


def frames_of(keys: int, n: int) -> list[bytes]:
    """`n` combined aggTrade frames over `keys` symbols, ids contiguous for each symbol."""
    chance = random.Random(1)
    ids = [FIRST_ID + 1000 * key for key in range(keys)]
    frames = []
    for i in range(n):
        key = chance.randrange(keys)
        ids[key] += 1
        now = 1_790_000_000_000 + i
        maker = "true" if chance.random() < 0.5 else "false"
        frames.append(
            f'{{"stream":"{name_of(key).lower()}usdt@aggTrade","data":{{"e":"aggTrade","E":{now},"s":"{name_of(key)}USDT","a":{ids[key]},'
            f'"p":"{chance.uniform(100, 70000):.2f}","q":"{chance.uniform(0.001, 9):.5f}","f":{ids[key] * 3},'
            f'"l":{ids[key] * 3 + 2},"T":{now - 1},"m":{maker},"M":true}}}}'.encode()
        )
    return frames


def make_decoder(
    folder: Path, keys: int, capacity: int = 1 << 17
) -> tuple[BinanceDecoder, RingSink, StreamWriter, StreamReader]:
    """A decoder that publishes into a stream of `keys` keys, with a reader line that wants to be woken later."""
    spec = TRADE.spec("feed", capacity=capacity, keys_max=4096)
    create_keys(folder / "feed.keys", 4096)
    create_stream(folder, spec, 1)
    bell = make_bell()
    writer = StreamWriter(folder, spec, [bell], time.time_ns())
    sink = RingSink({"trade": writer})
    decoder = BinanceDecoder("spot", sink)
    for key in range(keys):
        writer.add_key(key)
        decoder.add(
            Instrument(
                exchange="binance", product="spot", native=f"{name_of(key)}USDT", base=name_of(key), quote="USDT"
            ),
            key,
        )
    reader = StreamReader(folder, "feed", "trade", TRADE.dtype, TRADE.fingerprint)
    reader.register("writer", ReaderKind.DURABLE, 0).arm(1 << 40)
    return decoder, sink, writer, reader


def run(quick: bool = False) -> list[Line]:
    lines = []
    for keys, limit in ((20, 3.5), (2000, 4.2)):
        with tempfile.TemporaryDirectory(prefix="tickring-bench-", dir="/dev/shm") as name:
            decoder, sink, writer, reader = make_decoder(Path(name), keys)
            bare = msgspec.json.Decoder(Combined, strict=False).decode
            frames = frames_of(keys, FRAMES)
            reads = [frames[i : i + READ] for i in range(0, FRAMES, READ)]
            on_frames, flush, now = decoder.on_frames, sink.flush, time.time_ns()

            def ours(
                reads: list[list[bytes]] = reads, on_frames=on_frames, now: int = now, decoder=decoder, flush=flush
            ) -> None:
                for route in decoder.routes():
                    route.aggregates.following = FIRST_ID + 1000 * route.key_id + 1  # the same ids again
                for frames in reads:
                    on_frames(frames, now)
                    flush()

            def peer(frames: list[bytes] = frames, bare=bare) -> None:
                for frame in frames:
                    bare(frame)

            def loop(frames: list[bytes] = frames) -> None:
                for _ in frames:
                    pass

            before = writer.sequence
            ours()
            assert writer.sequence - before == FRAMES, f"{writer.sequence - before} records of {FRAMES} frames"
            best = interleaved({"ours": ours, "peer": peer, "loop": loop}, rounds=7 if quick else 25)
            value = (best["ours"] - best["loop"]) / (best["peer"] - best["loop"])
            detail = (
                f"{best['ours'] / FRAMES * 1e9:.0f} ns, typed decode {best['peer'] / FRAMES * 1e9:.0f} ns a message"
            )
            lines.append(Line(f"decode + publish + tail, {keys:,} keys", value, "x typed decode", limit, detail=detail))
            reader.close()
            writer.close()
            lines.append(append_beside_publish(keys, quick))
    return lines


def append_beside_publish(keys: int, quick: bool) -> Line:
    """What the ring alone costs: a record appended and flushed in chunks, and one published by itself."""
    chance = random.Random(2)
    order = [chance.randrange(keys) for _ in range(FRAMES)]
    with tempfile.TemporaryDirectory(prefix="tickring-bench-", dir="/dev/shm") as name:
        writers = []
        for producer in ("append", "publish"):
            spec = TRADE.spec(producer, capacity=1 << 17, keys_max=4096)
            create_stream(Path(name), spec, 1)
            writers.append(StreamWriter(Path(name), spec, [], time.time_ns()))
            for key in range(keys):
                writers[-1].add_key(key)
        chunked = writers[0].chunked(TRADE.struct, TRADE.values)
        publish, now = writers[1].publisher(TRADE.struct, TRADE.values), time.time_ns()

        def in_chunks() -> None:
            for key in order:
                chunked.append(key, now, now, 33, 1_000_000, 60_000.5, 1.25, 3_000_000, 3_000_002, 0.0)
            chunked.flush()

        def one_by_one() -> None:
            for key in order:
                publish(key, now, now, 33, 1_000_000, 60_000.5, 1.25, 3_000_000, 3_000_002, 0.0)

        best = interleaved({"append": in_chunks, "publish": one_by_one}, rounds=5 if quick else 15)
        for writer in writers:
            writer.close()
    detail = f"{best['append'] / FRAMES * 1e9:.0f} ns beside {best['publish'] / FRAMES * 1e9:.0f} ns a record"
    return Line(f"append in chunks, {keys:,} keys", best["append"] / best["publish"], "x publish", None, detail=detail)


if __name__ == "__main__":
    for line in run():
        print(f"{line.name:40} {line.value:.2f} {line.unit} (limit {line.limit}) {line.verdict}  {line.detail}")
