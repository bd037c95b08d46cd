"""Runs a real feed against the simulated exchange, both in this process's loop, rings in real shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np

from tickring.actors.feed import Config, Feed, streams
from tickring.actors.runtime import ActorContext
from tickring.actors.simulator import Config as SimulatorConfig
from tickring.actors.simulator import Simulator
from tickring.actors.simulator.config import spot_limits, usdm_limits
from tickring.actors.simulator.faults import start_fault
from tickring.codecs.records import BY_NAME
from tickring.ringbuf import MetricsPage, StreamReader, create_keys, create_stream, keys_filename

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
SPOT_NAMES = ["BTC-USDT", "ETH-USDT", "SOL-USDT"]
USDM_NAMES = [f"{name}-PERP" for name in SPOT_NAMES]


async def until(condition: Callable[[], object], what: str, deadline_s: float = 60.0) -> None:
    """Wait for a condition; the deadline only bounds a broken run."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not reached within {deadline_s} s: {what}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def exchange(**options: Any) -> AsyncIterator[Simulator]:
    """A simulated exchange on free ports, with markets in real time unless told otherwise."""
    options.setdefault("symbols", SYMBOLS)
    options.setdefault("rate", 400.0)
    options.setdefault("levels", 60)
    options.setdefault("ledger_frames_max", 200_000)
    simulator = Simulator(SimulatorConfig(spot_ws_port=0, usdm_ws_port=0, rest_port=0, **options))
    await simulator.start()
    try:
        yield simulator
    finally:
        await simulator.stop()


def fast_limits(product: str, **changes: Any) -> Any:
    limits = spot_limits() if product == "spot" else usdm_limits()
    for name, value in changes.items():
        setattr(limits, name, value)
    return limits


def feed_config(simulator: Simulator, tier: str = "spot", **changes: Any) -> Config:
    product = "spot" if tier == "spot" else "usdm"
    urls = simulator.urls
    options: dict[str, Any] = {
        "product": product,
        "tier": tier,
        "symbols": SPOT_NAMES if product == "spot" else USDM_NAMES,
        "channels": {"spot": ["trade", "quote", "book"], "public": ["quote", "book"], "market": ["agg_trade"]}[tier],
        "ws_url": urls["spot_ws"] if product == "spot" else urls[f"usdm_{tier}_ws"],
        "rest_url": urls[f"{product}_rest"],
        "backoff_max_s": 0.2, "backoff_min_s": 0.05, "overlap_s": 0.3, "keys_max": 64,
        "trade_capacity": 1 << 14, "quote_capacity": 1 << 14, "level_capacity": 1 << 16,
        "kline_capacity": 1 << 15, "other_capacity": 1 << 13,
    }  # fmt: skip
    return Config(**(options | changes))


class Running:
    """A feed at work and readers of its streams."""

    def __init__(self, folder: Path, name: str, feed: Feed | None = None) -> None:
        self.folder = folder
        self.name = name
        self.feed = feed
        self._readers: dict[str, StreamReader] = {}
        self._read: dict[str, list[np.ndarray]] = {}
        self._cursors: dict[str, int] = {}

    def reader(self, record: str) -> StreamReader:
        if record not in self._readers:
            declared = BY_NAME[record]
            self._readers[record] = StreamReader(self.folder, self.name, record, declared.dtype, declared.fingerprint)
        return self._readers[record]

    def key(self, instrument: str) -> int:
        record = next(iter(self._readers)) if self._readers else sorted(self._records())[0]
        key_id = self.reader(record).keys.id_of(f"binance.{instrument}")
        assert key_id is not None, f"{instrument} has no key"
        return key_id

    def _records(self) -> set[str]:
        return {
            path.name.removeprefix(f"{self.name}.").removesuffix(".ring")
            for path in self.folder.glob(f"{self.name}.*.ring")
        }

    def rows(self, record: str, instrument: str | None = None) -> np.ndarray:
        """Everything published so far; asserts that nothing was lapped before we read it."""
        reader = self.reader(record)
        parts = self._read.setdefault(record, [])
        cursor = self._cursors.get(record, 0)
        while True:
            rows, cursor, lost = reader.read(cursor, 1 << 16)
            assert lost == 0, f"{record}: {lost} rows lapped before the test read them"
            if not len(rows):
                break
            parts.append(rows)
        self._cursors[record] = cursor
        rows = np.concatenate(parts) if parts else np.empty(0, reader.dtype)
        return rows if instrument is None else rows[rows["key_id"] == self.key(instrument)]

    def top(self, instrument: str) -> np.void | None:
        return self.reader("book_top").latest(self.key(instrument))

    def counter(self, name: str, **labels: str) -> float:
        assert self.feed is not None
        self.feed.metrics.update(self.feed)
        return self.feed.ctx.page.counter(f"tickring_feed_{name}_total", "", exchange="binance", **labels).value

    def synced(self) -> bool:
        feed = self.feed
        return (
            feed is not None
            and hasattr(feed, "decoder")
            and all(route.sync.book.state.name == "SYNCED" for route in feed.decoder.routes())
        )

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()


def make_streams(folder: Path, name: str, config: Config) -> None:
    """What the supervisor does before it starts a feed."""
    for spec in streams(name, config):
        create_stream(folder, spec, time.time_ns())
    if not (folder / keys_filename(name)).exists():
        create_keys(folder / keys_filename(name), config.keys_max)


@contextlib.asynccontextmanager
async def feeding(
    folder: Path, data: Path, config: Config, name: str = "feed-test", clock: Callable[[], int] = time.time_ns
) -> AsyncIterator[Running]:
    """A feed in this loop; leaves the block when it has stopped."""
    make_streams(folder, name, config)
    page = MetricsPage(folder, name, time.time_ns())
    ctx = ActorContext(name=name, kind="feed", folder=folder, data=data, config=config, page=page)
    feed = Feed(ctx, clock)
    running = Running(folder, name, feed)
    task = asyncio.create_task(feed.run())
    try:
        yield running
    finally:
        ctx.stop()
        try:
            await asyncio.wait_for(task, 60.0)
        finally:
            running.close()
            page.close()


def fault(simulator: Simulator, name: str, **parameters: Any) -> Any:
    return start_fault(simulator, {"fault": name, **parameters})


async def freeze(simulator: Simulator) -> None:
    """Stop the market and let out what is due, so that streams and books stand still and agree."""
    task = simulator._task
    assert task is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    board = simulator.source.board  # type: ignore[attr-defined]
    while board.due_ns < 1 << 62:
        board.publish_due()
    simulator.source.flush()


def sent(simulator: Simulator, product: str, stream: str) -> list[dict[str, Any]]:
    """Every message that went out on a stream, in order."""
    found = simulator.hubs[product].streams[stream]
    assert found.sent is not None and len(found.sent) == found.frames, "the simulator's ledger is too short"
    return [json.loads(payload) for payload in found.sent]


def exchange_book(simulator: Simulator, product: str, symbol: str, levels: int) -> dict[str, Any]:
    body = simulator.source.depth(product, symbol, levels)
    assert body is not None
    book = json.loads(body)
    return {
        "id": book["lastUpdateId"],
        "bids": [(float(price), float(quantity)) for price, quantity in book["bids"]],
        "asks": [(float(price), float(quantity)) for price, quantity in book["asks"]],
    }


def row_book(row: np.void) -> dict[str, Any]:
    bids, asks = int(row["bids_count"]), int(row["asks_count"])
    return {
        "id": int(row["update_id"]),
        "bids": list(zip(row["bid_price"][:bids].tolist(), row["bid_qty"][:bids].tolist(), strict=True)),
        "asks": list(zip(row["ask_price"][:asks].tolist(), row["ask_qty"][:asks].tolist(), strict=True)),
    }
