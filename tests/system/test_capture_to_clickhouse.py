"""What an exchange sent is what the table holds, to the last column: simulator, feed, ring, writer, ClickHouse."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import oracle
from .oracle import Market, digest, levels, table_rows, trade_rows
from .recording import record, simulator
from .tree import Tree, until

DEPTH = 400
SPOT = {"BTCUSDT": "BTC-USDT", "ETHUSDT": "ETH-USDT", "DOTUSDT": "DOT-USDT"}
CONTRACTS = {"KSMUSDT": "KSM-USDT", "YFIUSDT": "YFI-USDT", "DENTUSDT": "DENT-USDT", "XMRUSDT": "XMR-USDT"}


@dataclass(frozen=True)
class Play:
    """Captures of one product, and what of them is subscribed."""

    product: str
    files: Sequence[Path]
    channels: Sequence[str]
    pairs: Mapping[str, str]  # native -> pair
    depth_interval_ms: int = 100

    @property
    def markets(self) -> dict[str, Market]:
        kind = "spot" if self.product == "spot" else "perpetual"
        return {native: Market(kind, pair) for native, pair in self.pairs.items()}

    @property
    def streams(self) -> list[str]:
        wire = {"trade": "trade", "agg_trade": "aggTrade", "quote": "bookTicker", "book": "depth@100ms"}
        return [
            f"{self.product}:{native.lower()}@{wire[channel]}" for native in self.pairs for channel in self.channels
        ]

    @property
    def table(self) -> dict[str, Any]:
        suffix = "" if self.product == "spot" else "-PERP"
        return {"symbols": [pair + suffix for pair in self.pairs.values()], "channels": list(self.channels)}

    def rows(self) -> list[oracle.TradeRow]:
        return [row for file in self.files for row in trade_rows(oracle.messages(file), self.markets)]


def play(tree: Tree, plays: Sequence[Play]) -> None:
    """Replay captures into a daemon, as fast as its sockets take them, and wait for their end."""
    tree.start(
        exchanges={"binance": {each.product: each.table for each in plays}},
        simulator={
            "source": "capture", "speed": 0.0, "captures": [f"{p.product}:{file}" for p in plays for file in p.files],
            "start": "subscribed", "start_streams": [name for each in plays for name in each.streams],
            "hold_snapshot_s": 60.0,
        },
    ).ready()  # fmt: skip
    until("the end of the capture", lambda: tree.sim("status")["finished"])


def assert_same_trades(tree: Tree, expected: list[oracle.TradeRow], began_ns: int) -> None:
    assert expected
    until(f"{len(expected)} trades in the table", lambda: tree.count("trades") >= len(expected))
    stored = table_rows(tree.select(oracle.SELECT_TRADES))
    different = sorted(set(expected) ^ set(stored))
    assert not different, f"{len(expected)} expected, {len(stored)} stored, the first that differ: {different[:6]}"
    assert digest(stored) == digest(expected)
    # the two columns that the file cannot know: when we received it, in which life of the ring
    seen = tree.select(
        "SELECT min(toUnixTimestamp64Nano(ts_recv_ns)), max(toUnixTimestamp64Nano(ts_recv_ns)), min(epoch), max(epoch) "
        "FROM tickring.trades"
    )[0]
    assert began_ns < seen[2] <= seen[3] < seen[0] <= seen[1] < time.time_ns()


def assert_same_book(tree: Tree, product: str, native: str, market: Market) -> None:
    """REST's book is the exchange's own, as soon as it has its last update."""
    theirs = tree.sim(f"book?product={product}&symbol={native}")
    path = f"/api/v1/orderbook/binance/{market.symbol}?market_type={market.market_type}&depth={DEPTH}"
    ours = until(
        f"the last update of {market.instrument}",
        lambda: (book := tree.get(path).data)["last_update_id"] == theirs["lastUpdateId"] and book,
    )
    assert ours["state"] == "synced", ours
    for side in ("bids", "asks"):
        assert levels(ours[side], DEPTH) == levels(theirs[side], DEPTH), (market.instrument, side)


def assert_plays_through(tree: Tree, *plays: Play) -> None:
    began_ns = time.time_ns()
    play(tree, plays)
    assert_same_trades(tree, [row for each in plays for row in each.rows()], began_ns)
    for each in plays:
        for native, market in each.markets.items():
            assert_same_book(tree, each.product, native, market)
    assert tree.metric("tickring_feed_rejected_total") == 0
    assert tree.metric("tickring_storage_lost_rows_total") == 0


def test_capture_of_spot_trades_and_usdm_aggregates_ends_in_the_table_as_it_stands_in_the_file(tree, captures):
    usdm = captures / "binance-usdm"
    session = [usdm / f"cryptofeed_20210417_BINANCE_FUTURES.{part}.gz" for part in ("0", "http.4.0", "ws.5.0")]
    spot = [captures / "binance-spot" / "hftbacktest_btcusdt_20240808.gz"]
    assert_plays_through(
        tree,
        Play("spot", spot, ["trade", "quote", "book"], {"BTCUSDT": "BTC-USDT"}),
        Play("usdm", session, ["agg_trade", "quote", "book"], CONTRACTS),
    )


def test_capture_of_usdm_trades_and_spot_aggregates_ends_in_the_table_as_it_stands_in_the_file(tree, captures):
    usdm = [captures / "binance-usdm" / "hftbacktest_btcusdt_20240808.gz"]
    spot = [captures / "binance-spot" / "cryptofeed_20210404_BINANCE-ee25be.0.gz"]
    assert_plays_through(
        tree,
        Play("usdm", usdm, ["trade", "quote", "book"], {"BTCUSDT": "BTC-USDT"}),
        Play("spot", spot, ["agg_trade", "book"], SPOT),
    )


@pytest.fixture
def recorded(tmp_path) -> Path:
    """A few seconds of a seeded market, recorded by `tickring record`."""
    file = tmp_path / "recorded.gz"
    with simulator(list(SPOT), rate=400.0, speed=2.0) as urls:
        record(file, SPOT, urls)
    return file


def test_market_that_was_recorded_ends_in_the_table_as_it_stands_in_the_file(tree, recorded):
    assert_plays_through(tree, Play("spot", [recorded], ["trade", "quote", "book"], SPOT))
