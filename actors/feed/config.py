"""Configuration of one feed: a fixed set of symbols of one exchange tier on one connection."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ...codecs.klines import INTERVALS

Channel = Literal[
    "trade", "agg_trade", "quote", "book", "kline", "ticker", "mark_price", "open_interest", "liquidation"
]
Interval = Literal["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"]
Seconds = Annotated[float, Meta(gt=0)]
Slots = Annotated[int, Meta(ge=1024, le=1 << 28)]


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One feed process. What to carry comes from the plan; the rest may be set in `[feed]`."""

    exchange: Literal["binance"] = "binance"
    product: Literal["spot", "usdm"]
    tier: Literal["spot", "public", "market"]  # the routed address; on USD-M it decides which channels arrive
    symbols: list[str]  # canonical: BTC-USDT, BTC-USDT-PERP
    channels: list[Channel]  # all that any of the symbols has
    symbol_channels: dict[str, list[Channel]] = {}  # of symbols that have not all of them
    ws_url: str  # without path of the streams: wss://fstream.binance.com/public
    rest_url: str

    # books
    snapshot_limit: Annotated[int, Meta(ge=5, le=5000)] = 1000  # levels on each side asked for at a sync
    snapshots_at_once: Annotated[int, Meta(ge=1, le=32)] = 4  # depth requests in flight
    depth_interval_ms: Literal[0, 100, 250, 500, 1000] = 100  # how often depth events are sent; 0 = unthrottled (USD-M)
    depth_publish_ms: Annotated[int, Meta(ge=1)] = 100  # book_depth of a symbol at most so often

    # bars
    # Taken from the exchange; those of three days can be had in no other way.
    kline_intervals: list[Interval] = msgspec.field(default_factory=lambda: ["1m"])
    # Made here of closed 1m bars. What stands in both lists is taken from the exchange and compared.
    kline_rollups: list[Interval] = msgspec.field(default_factory=lambda: ["5m", "15m", "1h", "4h", "1d"])
    kline_preload: Annotated[int, Meta(ge=0, le=1500)] = 1500  # closed bars of each key fetched at the first start
    # Closed bars of each symbol and interval in memory; older ones are read from ClickHouse. 128 bytes each, and all of
    # it is taken at once: 2048 of ten intervals of 2,000 symbols are 5 GB.
    kline_tail: Literal[128, 256, 512, 1024, 2048] = 2048

    # futures
    mark_price_interval_ms: Literal[1000, 3000] = 1000
    open_interest_interval_s: Seconds = 30.0  # how often the open interest of each symbol is asked for

    # streams that went silent
    silence: bool = True  # look for them, and subscribe them anew
    silence_min_s: Seconds = 30.0  # shorter silences are never taken for an error
    silence_learn_s: Seconds = 600.0  # how long a stream's cadence is learned before it is judged
    silence_tick_s: Seconds = 0.5  # how often the streams are looked at

    # connection
    watchdog_s: Seconds = 30.0  # no market data for so long: the connection is dead, whatever its pings say
    watchdog_max_s: Seconds = 600.0  # where reconnecting brought no data either, wait longer each time, up to this
    connect_timeout_s: Seconds = 10.0
    backoff_min_s: Seconds = 0.25  # reconnect after a random delay of up to this, doubled at each failure ...
    backoff_max_s: Seconds = 30.0  # ... up to this
    life_s: Seconds = 23 * 3600.0  # replaced at this age; the exchange cuts at 24 h
    overlap_s: Seconds = 2.0  # how long old and new connection run side by side once both deliver
    overlap_max_s: Seconds = 30.0  # ... and where the new one delivers nothing, how long the old one is kept
    frame_bytes_max: Annotated[int, Meta(ge=1024)] = 8 << 20
    # Per address in five minutes, all processes together. Of fewer than 4 no window has one to give, see the ledger.
    connection_attempts_max: Annotated[int, Meta(ge=4)] = 300

    # REST
    rest_timeout_s: Seconds = 10.0
    weight_limit: Annotated[int, Meta(ge=1)] | None = None  # per minute; None = as documented, then as published
    instruments_refresh_s: Seconds = 3600.0  # how often changed tick sizes and precisions are looked for

    # rings
    trade_capacity: Slots = 1 << 17
    quote_capacity: Slots = 1 << 17
    level_capacity: Slots = 1 << 18
    kline_capacity: Slots = 1 << 16  # closed bars: the preloaded ones pass through too
    other_capacity: Slots = 1 << 14  # of each of open bars, tickers, mark prices, funding, open interest, liquidations
    keys_max: Annotated[int, Meta(ge=1, le=1 << 20)] = 4096

    # diagnosis
    gap_file_bytes_max: Annotated[int, Meta(ge=4096)] = 4 << 20  # then it is rotated once
    rejected_samples_per_minute: Annotated[int, Meta(ge=0)] = 6  # rejected frames shown in the log

    def channels_of(self, symbol: str) -> list[Channel]:
        """Channels of one of the symbols."""
        return self.symbol_channels.get(symbol, self.channels)

    @property
    def aggregated(self) -> bool:
        return "agg_trade" in self.channels

    @property
    def trades(self) -> bool:
        return "trade" in self.channels or self.aggregated

    @property
    def quotes(self) -> bool:
        return "quote" in self.channels

    @property
    def books(self) -> bool:
        return "book" in self.channels

    @property
    def klines(self) -> bool:
        return "kline" in self.channels

    @property
    def intervals(self) -> list[str]:
        """Intervals of all bars, those made here too, the shortest first."""
        return sorted({*self.kline_intervals, *self.kline_rollups}, key=INTERVALS.__getitem__)
