"""`tickring record`: write what the exchange sends, untouched, into a capture that `replay` and the simulator read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from ...actors.feed.config import Config as FeedConfig
from ...actors.feed.protocol import SUBSCRIBE_INTERVAL_S, connection_plan, streams_of
from ...codecs.binance.rest import depth_path, exchange_info_path, parse_exchange_info
from ...codecs.captures import CaptureWriter, Entry, EntryKind
from ..checking import nearest
from ..errors import DaemonError, FolderUnusable, InputMissing
from ..loading import check
from ..markets import feed_shards
from .output import print_json

EXCHANGE = "binance"
SNAPSHOT_DELAY_S = 1.0  # depth events come first, so that the snapshot falls between them
SNAPSHOT_INTERVAL_S = 0.5  # a request of weight 5 to 50 twice a second stays far below every limit
RECONNECT_MAX_S = 30.0
FLUSH_S = 1.0
FRAME_BYTES_MAX = 8 << 20
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)  # Binance pings every 20 s, or 180 s


class ExchangeRefused(DaemonError):
    """The exchange cannot be reached or says no before anything was recorded."""

    exit_code = 69


def record(
    output: Path,
    product: str,
    symbols: Sequence[str],
    channels: Sequence[str],
    ws_url: str | None,
    rest_url: str | None,
    *,
    duration_s: float | None,
    as_json: bool,
) -> None:
    """Record until Ctrl-C, SIGTERM or the end of the duration.

    Raises:
        ConfigError: symbols or channels that do not exist in that form.
        InputMissing: the exchange does not list a symbol.
        ExchangeRefused, FolderUnusable
    """
    market: dict[str, Any] = {"symbols": list(symbols), "channels": list(channels)}
    if ws_url:
        market |= (
            {"ws_url": ws_url}
            if product == "spot"
            else {"ws_public_url": f"{ws_url}/public", "ws_market_url": f"{ws_url}/market"}
        )
    if rest_url:
        market["rest_url"] = rest_url
    settings = check({"exchanges": {EXCHANGE: {product: market}}}, "options")
    feeds = [(name, FeedConfig(**fields)) for name, fields in feed_shards(settings)]
    try:
        writer = CaptureWriter(output, EXCHANGE, product, time.time_ns())
    except OSError as error:
        raise FolderUnusable(f"cannot write {output}: {error.strerror}. Choose another file.") from None
    with writer:
        recorder = Recorder(writer, product, feeds)
        asyncio.run(recorder.run(duration_s))
    summary = {
        "file": str(output),
        "frames": recorder.frames,
        "bytes": recorder.received_bytes,
        "reconnects": recorder.reconnects,
    }
    if as_json:
        print_json(summary)
    else:
        print(
            ", ".join(f"{name} {value:,}" if isinstance(value, int) else f"{value}:" for name, value in summary.items())
        )


class Recorder:
    """One session: REST and every connection into one file, in order of arrival."""

    def __init__(self, writer: CaptureWriter, product: str, feeds: Sequence[tuple[str, FeedConfig]]) -> None:
        self.writer, self.product, self.feeds = writer, product, feeds
        self.frames = self.received_bytes = self.reconnects = 0

    async def run(self, duration_s: float | None) -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, over.set)
        if duration_s is not None:
            loop.call_later(duration_s, over.set)
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            natives = await self._natives(session)
            work = [asyncio.create_task(self._follow(session, name, feed, natives)) for name, feed in self.feeds]
            work.append(asyncio.create_task(self._show()))
            stop = asyncio.create_task(over.wait())
            done, _ = await asyncio.wait([stop, *work], return_when=asyncio.FIRST_COMPLETED)
            for task in [stop, *work]:
                task.cancel()
            await asyncio.gather(stop, *work, return_exceptions=True)
            for task in done - {stop}:
                task.result()  # a follower only ends by an error of ours

    def _write(self, kind: EntryKind, payload: bytes, connection: str, where: str = "", status: int = 200) -> None:
        self.writer.write(Entry(time.time_ns(), kind, payload, where, connection, status))

    async def _get(self, session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
        async with session.get(url) as response:
            body = await response.read()
            self._write(EntryKind.REST, body, "rest", url, response.status)
            return response.status, body

    async def _natives(self, session: aiohttp.ClientSession) -> dict[str, str]:
        """The exchange's own names of the symbols asked for."""
        url = self.feeds[0][1].rest_url.rstrip("/") + exchange_info_path(self.product)
        try:
            status, body = await self._get(session, url)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ExchangeRefused(f"{url} cannot be reached: {error}. Check the network, or give --rest-url.") from None
        if status != 200:
            raise ExchangeRefused(f"{url} answers {status}: {body[:200].decode(errors='replace')}")
        listed = {
            instrument.instrument: instrument.native
            for instrument in parse_exchange_info(body, self.product).instruments
        }
        for symbol in {symbol for _, feed in self.feeds for symbol in feed.symbols}:
            if symbol not in listed:
                near = nearest(symbol, listed)
                raise InputMissing(
                    f"{self.product} has no symbol {symbol!r}{f'; did you mean {near!r}?' if near else ''}"
                )
        return listed

    async def _follow(
        self, session: aiohttp.ClientSession, name: str, feed: FeedConfig, natives: dict[str, str]
    ) -> None:
        """Keep one connection, and connect again when it ends."""
        own = {symbol: natives[symbol] for symbol in feed.symbols}
        url, batches = connection_plan(feed.ws_url, streams_of(feed, own))
        failures = 0
        while True:
            try:
                async with session.ws_connect(url, max_msg_size=FRAME_BYTES_MAX) as socket:
                    self._write(EntryKind.CONNECT, b"", name, url)
                    snapshots = asyncio.create_task(self._snapshots(session, feed, list(own.values())))
                    try:
                        async for payload in self._frames(socket, name, batches):
                            failures = 0
                            self.frames += 1
                            self.received_bytes += len(payload)
                            self._write(EntryKind.WS, payload, name)
                    finally:
                        snapshots.cancel()
                    self._write(EntryKind.CLOSE, f"{socket.close_code or 1006}".encode(), name)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                print(f"record: {name}: {type(error).__name__}: {error}", file=sys.stderr)
            self.reconnects += 1
            failures += 1
            await asyncio.sleep(random.uniform(0, min(RECONNECT_MAX_S, 2.0**failures)))

    async def _frames(
        self, socket: aiohttp.ClientWebSocketResponse, name: str, batches: Sequence[Sequence[str]]
    ) -> AsyncIterator[bytes]:
        for number, batch in enumerate(batches, 1):
            request = json.dumps({"method": "SUBSCRIBE", "params": list(batch), "id": number}, separators=(",", ":"))
            await socket.send_str(request)
            self._write(EntryKind.SENT, request.encode(), name)
            await asyncio.sleep(SUBSCRIBE_INTERVAL_S)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                yield message.data.encode()
            elif message.type is aiohttp.WSMsgType.BINARY:
                yield message.data

    async def _snapshots(self, session: aiohttp.ClientSession, feed: FeedConfig, natives: Sequence[str]) -> None:
        if not feed.books:
            return
        await asyncio.sleep(SNAPSHOT_DELAY_S)
        for native in natives:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await self._get(
                    session, feed.rest_url.rstrip("/") + depth_path(feed.product, native, feed.snapshot_limit)
                )
            await asyncio.sleep(SNAPSHOT_INTERVAL_S)

    async def _show(self) -> None:
        """Flush the file each second; where a person watches, say how much there is."""
        while True:
            await asyncio.sleep(FLUSH_S)
            self.writer.flush()
            if sys.stderr.isatty():
                print(
                    f"\r{self.frames:,} frames, {self.received_bytes / 1e6:,.1f} MB ",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
