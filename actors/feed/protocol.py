"""What a feed asks Binance for: names of streams, the URL of its connection, its budgets in the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from ...codecs.binance.rest import WEIGHT_PER_MINUTE, ExchangeInfo
from ...codecs.binance.wire import PRODUCTS, combined_path, stream_name, tier_of
from ...codecs.klines import THREE_DAYS
from ..ledger import Budget, Ledger
from .config import Config
from .errors import FeedConfigError

URL_BYTES_MAX = 4096  # longer lists of streams are subscribed by messages
SUBSCRIBE_BATCH = 50  # streams in one SUBSCRIBE message
SUBSCRIBE_INTERVAL_S = 0.5  # two messages a second, and the limits are 5 and 10 with our pongs among them


# Interval of a depth stream to the suffix of its name.
DEPTH_INTERVALS_MS: dict[str, dict[int, str]] = {
    "spot": {1000: "", 100: "@100ms"},
    "usdm": {250: "", 0: "@0ms", 100: "@100ms", 500: "@500ms"},
}
# Names in the ledger. USD-M and COIN-M spend the same request weight (since 2026-06-30).
WEIGHT_BUDGETS = {"spot": "spot.weight", "usdm": "futures.weight"}
CONNECT_BUDGETS = {"spot": "spot.connects", "usdm": "futures.connects"}
CONNECT_WINDOW_S = 300.0

# Our channels to the exchange's.
CHANNELS = {
    "trade": "trade", "agg_trade": "aggTrade", "quote": "bookTicker", "book": "depth", "ticker": "ticker",
    "mark_price": "markPrice", "liquidation": "forceOrder",
}  # fmt: skip
# The record that the messages of a channel end in; open interest, which has none, is left out.
RECORDS = {
    "trade": "trade", "agg_trade": "trade", "quote": "quote", "book": "book_level", "kline": "kline_open",
    "ticker": "ticker", "mark_price": "mark_price", "liquidation": "liquidation",
}  # fmt: skip
FUTURES_ONLY = frozenset(("mark_price", "open_interest", "liquidation"))
ROLLUP_BASE = "1m"


def tier_of_channel(product: str, channel: str) -> str:
    """The address that carries a channel of ours: on USD-M a routed tier. Open interest, which has no stream, is
    asked for where the mark prices are that it is valued at."""
    return tier_of(CHANNELS.get(channel, channel)) if product == "usdm" else product


def weight_budget(ledger: Ledger, product: str, limit: int | None) -> Budget:
    """Request weight of the address, per minute; without a limit it is the one known, at first the documented one."""
    budget = ledger.budget(WEIGHT_BUDGETS[product], limit or WEIGHT_PER_MINUTE[product], 60.0)
    if limit:
        budget.set_limit(limit)  # the file may be older than the configuration
    return budget


def connect_budget(ledger: Ledger, config: Config) -> Budget:
    """Connection attempts of the address.

    The exchange counts any five minutes, the ledger aligned ones: two neighbouring windows get half of it each.
    """
    limit = config.connection_attempts_max // 2
    budget = ledger.budget(CONNECT_BUDGETS[config.product], limit, CONNECT_WINDOW_S)
    budget.set_limit(limit)  # the file may be older than the configuration
    return budget


def published_weight_limit(info: ExchangeInfo) -> int:
    """Request weight per minute as the exchange publishes it; 0 where it does not."""
    return next((one.limit for one in info.rate_limits if one.kind == "REQUEST_WEIGHT" and one.interval_s == 60), 0)


def channels_of(config: Config, symbol: str | None = None) -> list[str]:
    """Channels on the wire: ``aggTrade``, ``depth@100ms``. Of one of the feed's symbols, or all that it has.

    Raises:
        FeedConfigError: the product has no such stream.
    """
    if config.product == "spot" and (wrong := FUTURES_ONLY & set(config.channels)):
        raise FeedConfigError(f"feed: spot has no {', '.join(sorted(wrong))}: remove it from the channels")
    if config.klines:
        _check_intervals(config)
    intervals = DEPTH_INTERVALS_MS[config.product]
    if config.books and config.depth_interval_ms not in intervals:
        raise FeedConfigError(
            f"feed: depth_interval_ms is {config.depth_interval_ms}, {config.product} sends depth every "
            f"{', '.join(map(str, sorted(intervals)))} ms: set one of these"
        )
    suffix = {
        "book": intervals.get(config.depth_interval_ms, ""),
        "mark_price": "@1s" if config.mark_price_interval_ms == 1000 else "",
    }
    channels = []
    for channel in config.channels if symbol is None else config.channels_of(symbol):
        if channel == "kline":
            channels += [f"kline_{interval}" for interval in config.kline_intervals]
        elif channel in CHANNELS:  # open interest has no stream
            channels.append(CHANNELS[channel] + suffix.get(channel, ""))
    return channels


def _check_intervals(config: Config) -> None:
    for name in ("kline_intervals", "kline_rollups"):
        intervals = getattr(config, name)
        if len(set(intervals)) < len(intervals):
            raise FeedConfigError(f"feed: {name} is {intervals}: each interval once")
    if not config.kline_intervals:
        raise FeedConfigError(f"feed: kline_intervals is empty: name at least {ROLLUP_BASE!r}")
    if THREE_DAYS in config.kline_rollups:
        raise FeedConfigError(
            f"feed: kline_rollups names {THREE_DAYS!r}, whose bars begin on a day of each symbol's own: "
            f"put {THREE_DAYS!r} into kline_intervals, so that the exchange makes them"
        )
    if config.kline_rollups and (ROLLUP_BASE not in config.kline_intervals or ROLLUP_BASE in config.kline_rollups):
        raise FeedConfigError(
            f"feed: kline_rollups are made of {ROLLUP_BASE} bars: put {ROLLUP_BASE!r} into kline_intervals alone"
        )


def streams_of(config: Config, natives: Mapping[str, str]) -> list[str]:
    """Names of all streams of the feed, symbol by symbol.

    Args:
        natives: the exchange's names by ours.

    Raises:
        FeedConfigError: more than one connection may carry.
    """
    streams = [
        stream_name(native, channel) for symbol, native in natives.items() for channel in channels_of(config, symbol)
    ]
    if not streams:
        raise FeedConfigError(f"feed: channels {config.channels} have no stream: add one that the exchange sends")
    most = PRODUCTS[config.product].streams_max
    if len(streams) > most:
        raise FeedConfigError(
            f"feed: {len(streams)} streams, one {config.product} connection carries {most}: "
            f"raise [exchanges.binance.{config.product}] shards, or take fewer symbols"
        )
    return streams


def connection_plan(base_url: str, streams: list[str]) -> tuple[str, list[list[str]]]:
    """URL of a combined connection, and what remains to be subscribed by messages, a batch each."""
    base = base_url.rstrip("/")
    url = base + combined_path(streams)
    if len(url) <= URL_BYTES_MAX:
        return url, []
    return base + combined_path([]), [streams[i : i + SUBSCRIBE_BATCH] for i in range(0, len(streams), SUBSCRIBE_BATCH)]
