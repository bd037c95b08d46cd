"""The simulator replaying recorded traffic: unchanged, in order, and with snapshots that fit."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.actors.simulator import Config, Simulator
from tickring.actors.simulator.errors import CaptureUnusable
from tickring.codecs.captures import CaptureWriter, Entry, EntryKind
from tickring.ringbuf.errors import TickringError

from .simulator_client import DocumentedBook, connect, get, run, simulator, until

SPOT = "binance-spot/hftbacktest_btcusdt_20240808.gz"
USDM = "binance-usdm/hftbacktest_btcusdt_20240808.gz"


def lines_of(path: Path, count: int) -> list[tuple[int, bytes]]:
    """Return (receive time, message) of the first lines of an hftbacktest file, read independently of the product."""
    with gzip.open(path) as lines:
        pairs = [line.rstrip(b"\n").split(b" ", 1) for line in itertools.islice(lines, count)]
    return [(int(time), message) for time, message in pairs]


@pytest.fixture
def short(captures: Path, tmp_path: Path) -> Iterator[Any]:
    """A function that cuts the first lines of a capture into a file of its own."""

    def cut(name: str, count: int) -> Path:
        target = tmp_path / name.replace("/", "_")
        with gzip.open(captures / name) as lines, gzip.open(target, "wb", compresslevel=1) as out:
            out.writelines(itertools.islice(lines, count))
        return target

    yield cut


def file_oracle(product: str, rows: list[tuple[int, bytes]]) -> DocumentedBook:
    """Rebuild the book straight from the file: all deltas, with the snapshot once the first of them is older."""
    book = DocumentedBook(product)
    body = None
    for _, message in rows:
        if message.startswith(b'{"lastUpdateId"'):
            body = json.loads(message)
            assert book.snapshot(body)
        elif b"@depth" in message[:40]:
            book.event(json.loads(message)["data"])
    assert body is not None
    return book


@pytest.mark.parametrize(
    ("product", "name", "base", "path", "depth"),
    [
        ("spot", SPOT, "spot_ws", "/api/v3/depth", "btcusdt@depth@100ms"),
        ("usdm", USDM, "usdm_public_ws", "/fapi/v1/depth", "btcusdt@depth@0ms"),
    ],
)
def test_capture_at_full_speed_passes_every_frame_unchanged_and_in_order(
    captures: Path, short: Any, product: str, name: str, base: str, path: str, depth: str
) -> None:
    count = 20_000
    rows = lines_of(captures / name, count)
    frames = [message for _, message in rows if not message.startswith(b'{"lastUpdateId"')]
    snapshot = next(message for _, message in rows if message.startswith(b'{"lastUpdateId"'))
    file = f"{product}:{short(name, count)}"

    async def test() -> None:
        async with simulator(source="capture", captures=[file], speed=0, start_settle_s=0.1) as played:
            names = f"{depth}/btcusdt@bookTicker/btcusdt@trade"
            async with connect(f"{played.urls[base]}/stream?streams={names}") as client:
                got = [await client.recv(decode=False)]
                book = DocumentedBook(product)
                status, _, body = await get(f"{played.urls['spot_rest']}{path}?symbol=BTCUSDT&limit=1000")
                assert status == 200
                while len(got) < len(frames):
                    got.append(await client.recv(decode=False))
            assert got == frames
            # The answer is the recorded snapshot, since the replay waits for the request where it was recorded.
            recorded = json.loads(snapshot)
            assert (body["lastUpdateId"], body["bids"], body["asks"]) == (
                recorded["lastUpdateId"], recorded["bids"], recorded["asks"],
            )  # fmt: skip
            for message in got:
                if b"@depth" in message[:40]:
                    book.event(json.loads(message)["data"])
            assert book.snapshot(body)
            assert book.levels() == file_oracle(product, rows).levels()
            await until(lambda: played.source.finished, "the end")
            progress = played.source.progress()
            assert (progress["frames"], progress["sent"], progress["unwanted"]) == (len(frames), len(frames), 0)

    run(test)


def test_late_client_gets_a_snapshot_that_fits_the_stream(captures: Path, short: Any) -> None:
    rows = lines_of(captures / USDM, 12_000)
    oracle = file_oracle("usdm", rows)

    async def test() -> None:
        file = f"usdm:{short(USDM, 12_000)}"
        settings = {"speed": 0, "start_settle_s": 0.05, "hold_snapshot_s": 0.0}
        async with simulator(source="capture", captures=[file], **settings) as played:
            url = f"{played.urls['usdm_public_ws']}/stream?streams=btcusdt@depth@0ms"
            depth = f"{played.urls['usdm_rest']}/fapi/v1/depth?symbol=BTCUSDT&limit=1000"
            async with connect(url) as first:
                for _ in range(300):
                    await first.recv()
                first.transport.pause_reading()  # hold the replay while the second client joins
                async with connect(url) as late:
                    book = DocumentedBook("usdm")
                    first.transport.resume_reading()
                    reading = asyncio.create_task(drain(first))
                    book.event(json.loads(await late.recv())["data"])
                    _, _, body = await get(depth)
                    while not (book.buffer and book.buffer[-1]["u"] == oracle.local_id):
                        book.event(json.loads(await late.recv())["data"])
                    assert book.snapshot(body)
                    assert book.local_id == oracle.local_id
                    assert book.top() == oracle.top()
                    mine, whole = book.levels(), oracle.levels()
                    for side in (0, 1):
                        assert mine[side][:300] == whole[side][:300]
                    reading.cancel()

    async def drain(client: Any) -> None:
        while True:
            await client.recv()

    run(test)


def test_depth_of_another_interval_gets_the_recorded_one_under_the_requested_name(short: Any) -> None:
    async def test() -> None:
        async with simulator(
            source="capture", captures=[f"usdm:{short(USDM, 2000)}"], speed=0, start_settle_s=0.05
        ) as played:
            url = f"{played.urls['usdm_public_ws']}/stream?streams=btcusdt@depth@100ms"
            async with connect(url) as client:
                message = json.loads(await client.recv())
                assert message["stream"] == "btcusdt@depth@100ms"
                assert message["data"]["e"] == "depthUpdate"

    run(test)


def test_capture_at_recorded_speed_keeps_the_recorded_distances(short: Any) -> None:
    async def test() -> None:
        async with simulator(
            source="capture", captures=[f"spot:{short(SPOT, 300)}"], speed=2.0, start_settle_s=0.05
        ) as played:
            loop = asyncio.get_running_loop()
            begin = loop.time()  # before the first frame is due
            async with connect(f"{played.urls['spot_ws']}/ws/btcusdt@bookTicker/btcusdt@trade") as client:
                await client.recv()
                await until(lambda: played.source.finished, "the end")
                recorded_s = (played.source.position_ns - played.source.first_ns) / 1e9
                assert (
                    loop.time() - begin >= recorded_s / 2 - 0.5
                )  # never faster than asked; how much slower is not ours

    run(test)


def test_session_in_several_files_is_interleaved_and_listed(captures: Path) -> None:
    folder = captures / "binance-usdm"
    files = [str(folder / f"cryptofeed_20210417_BINANCE_FUTURES.{part}.gz") for part in ("0", "http.4.0", "ws.5.0")]
    symbols = ["dentusdt", "ksmusdt", "xmrusdt", "yfiusdt"]

    async def test() -> None:
        async with simulator(source="capture", captures=files, speed=0, start_settle_s=0.1) as played:
            _, _, info = await get(f"{played.urls['usdm_rest']}/fapi/v1/exchangeInfo")
            assert sorted(row["symbol"] for row in info["symbols"]) == [symbol.upper() for symbol in symbols]
            assert all(row["contractType"] == "PERPETUAL" for row in info["symbols"])
            streams = "/".join(f"{symbol}@depth@100ms" for symbol in symbols)
            books = {symbol: DocumentedBook("usdm") for symbol in symbols}
            async with connect(f"{played.urls['usdm_public_ws']}/stream?streams={streams}") as client:

                async def follow() -> None:
                    async for text in client:
                        message = json.loads(text)
                        books[message["stream"].partition("@")[0]].event(message["data"])

                async def sync(symbol: str) -> None:
                    book = books[symbol]
                    await until(lambda: book.buffer, f"first event of {symbol}")
                    url = f"{played.urls['usdm_rest']}/fapi/v1/depth?symbol={symbol.upper()}&limit=1000"
                    assert book.snapshot((await get(url))[2])

                following = asyncio.create_task(follow())
                await asyncio.gather(*map(sync, symbols))
                await until(lambda: played.source.finished, "the end")
                sent = {symbol: played.hubs["usdm"].streams[f"{symbol}@depth@100ms"].last_id for symbol in symbols}
                await until(
                    lambda: all(books[s].local_id == sent[s] for s in symbols) or following.done(), "all events"
                )
                following.cancel()
            assert all(book.applied > 50 for book in books.values())

    run(test)


def test_exchange_info_is_composed_from_the_frames_where_none_was_recorded(short: Any) -> None:
    async def test() -> None:
        files = [f"spot:{short(SPOT, 3000)}", f"usdm:{short(USDM, 3000)}"]
        async with simulator(source="capture", captures=files, start="command") as played:
            _, _, spot = await get(f"{played.urls['spot_rest']}/api/v3/exchangeInfo")
            _, _, usdm = await get(f"{played.urls['usdm_rest']}/fapi/v1/exchangeInfo")
            (row,) = spot["symbols"]
            assert (row["symbol"], row["baseAsset"], row["quoteAsset"]) == ("BTCUSDT", "BTC", "USDT")
            assert row["filters"][0]["tickSize"] == "0.01000000"
            assert row["filters"][1]["stepSize"] == "0.00001000"
            (row,) = usdm["symbols"]
            assert row["quantityPrecision"] == 3
            rest = played.urls["spot_rest"]
            assert (await get(f"{rest}/api/v3/depth?symbol=NOSUCH"))[2]["code"] == -1121
            # Only the model knows bars, tickers and mark prices; a capture answers with what was recorded: nothing.
            assert (await get(f"{rest}/api/v3/klines?symbol=BTCUSDT&interval=1m"))[2] == []
            assert (await get(f"{rest}/fapi/v1/premiumIndex?symbol=NOSUCH"))[2]["code"] == -1121

    run(test)


def test_capture_in_a_loop_begins_again_with_new_connections(short: Any) -> None:
    async def test() -> None:
        file = f"spot:{short(SPOT, 200)}"
        settings = {"speed": 0, "start_settle_s": 0.05, "loop": True}
        async with simulator(source="capture", captures=[file], **settings) as played:
            rounds = []
            for _ in range(2):
                async with connect(f"{played.urls['spot_ws']}/ws/btcusdt@bookTicker/btcusdt@trade") as client:
                    rounds.append([text async for text in client])
                    assert client.close_code == 1001
            assert rounds[0] == rounds[1] and len(rounds[0]) > 100

    run(test)


@pytest.mark.parametrize("content", [b"", b"not a capture\n", b"\x1f\x8b broken"])
def test_file_that_is_no_capture_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(TickringError, match=path.name):
        Simulator(Config(source="capture", captures=[f"spot:{path}"]))


def test_missing_capture_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(TickringError, match=r"nowhere\.gz"):
        Simulator(Config(source="capture", captures=[f"usdm:{tmp_path}/nowhere.gz"]))


def test_capture_of_another_exchange_is_refused(captures: Path) -> None:
    with pytest.raises(CaptureUnusable, match="deribit"):
        Simulator(Config(source="capture", captures=[str(captures / "deribit" / "cryptofeed_20210417_DERIBIT.0.gz")]))


def test_recording_of_our_own_replays_as_the_session_it_recorded(captures: Path, tmp_path: Path) -> None:
    rows = lines_of(captures / SPOT, 3000)
    path = tmp_path / "recorded.gz"
    url = "https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=1000"
    with CaptureWriter(path, "binance", "spot", rows[0][0]) as writer:
        for time_ns, message in rows:
            if message.startswith(b'{"lastUpdateId"'):
                writer.write(Entry(time_ns, EntryKind.REST, message, url, "rest"))
            else:
                writer.write(Entry(time_ns, EntryKind.WS, message, "", "spot-0"))
        writer.write(Entry(time_ns, EntryKind.WS, b"{torn", "", "spot-0"))
    frames = [message for _, message in rows if not message.startswith(b'{"lastUpdateId"')]

    async def test() -> None:
        settings = {"speed": 0, "start_settle_s": 0.05, "hold_snapshot_s": 0.0}
        async with simulator(source="capture", captures=[str(path)], **settings) as played:
            streams = "btcusdt@depth@100ms/btcusdt@bookTicker/btcusdt@trade"
            async with connect(f"{played.urls['spot_ws']}/stream?streams={streams}") as client:
                assert [await client.recv(decode=False) for _ in frames] == frames
            await until(lambda: played.source.finished, "the end")
            assert played.source.progress()["unusable"] == 1

    run(test)
