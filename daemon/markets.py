"""From `[exchanges]` to feeds: which process carries which channels and symbols, and whether its connection can."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..actors.feed.config import Config as FeedConfig
from ..actors.feed.errors import FeedConfigError
from ..actors.feed.protocol import FUTURES_ONLY, channels_of, tier_of_channel
from ..codecs.binance.wire import PRODUCTS
from .checking import join, shown
from .config import SHARDS_MAX, Settings, Spot, Usdm
from .errors import Mistake


def markets_of(settings: Settings) -> Iterator[tuple[str, Spot | Usdm]]:
    """The configured products of Binance and their tables."""
    binance = settings.exchanges.binance
    if binance and binance.spot:
        yield "spot", binance.spot
    if binance and binance.usdm:
        yield "usdm", binance.usdm


def feed_shards(settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    """Name and planned fields of each feed: one for each (product, tier, shard) that has channels to carry."""
    shards: list[tuple[str, dict[str, Any]]] = []
    for product, market in markets_of(settings):
        for tier, channels in _tiers(product, market).items():
            prefix = f"feed-binance-{product}" if tier == product else f"feed-binance-{product}-{tier}"
            common = {"exchange": "binance", "product": product, "tier": tier}
            urls = {"ws_url": _ws_url(market, tier), "rest_url": market.rest_url}
            carried = {
                symbol: [one for one in own if one in channels] for symbol, own in channels_by_symbol(market).items()
            }
            symbols = [symbol for symbol, own in carried.items() if own]
            shards += [
                (f"{prefix}-{shard}", {**common, **_channels(mine, carried, channels), **urls})
                for shard, mine in enumerate(spread(symbols, market.shards))
                if mine
            ]
    if settings.simulate:
        urls = simulator_urls(settings)
        for _, fields in shards:
            fields |= {"ws_url": urls[fields["tier"]], "rest_url": urls["rest"]}
    return shards


def channels_by_symbol(market: Spot | Usdm) -> dict[str, list[str]]:
    """Each symbol of a market and what is taken of it."""
    return {symbol: list(market.symbol_channels.get(symbol, market.channels))
            for symbol in (*market.symbols, *market.symbol_channels)}  # fmt: skip


def _channels(symbols: Sequence[str], carried: Mapping[str, Sequence[str]], in_order: Sequence[str]) -> dict[str, Any]:
    """The fields of a feed that say what it carries of these symbols."""
    channels = [one for one in in_order if any(one in carried[symbol] for symbol in symbols)]
    fewer = {symbol: carried[symbol] for symbol in symbols if len(carried[symbol]) < len(channels)}
    return {"symbols": list(symbols), "channels": channels, **({"symbol_channels": fewer} if fewer else {})}


def _tiers(product: str, market: Spot | Usdm) -> dict[str, list[str]]:
    """Channels by the tier that carries them. A tier without a single stream would be a connection for nothing: what is
    only asked for by REST goes with another one."""
    tiers: dict[str, list[str]] = {tier: [] for tier in ("public", "market") if product == "usdm"}
    for channel in dict.fromkeys([*market.channels, *itertools.chain(*channels_by_symbol(market).values())]):
        tiers.setdefault(tier_of_channel(product, channel), []).append(channel)
    streaming = [tier for tier, channels in tiers.items() if set(channels) - {"open_interest"}]
    if tiers.get("market") == ["open_interest"] and streaming:
        tiers[streaming[0]].append(*tiers.pop("market"))
    return {tier: channels for tier, channels in tiers.items() if channels}


def _ws_url(market: Spot | Usdm, tier: str) -> str:
    if isinstance(market, Spot):
        return market.ws_url
    return market.ws_public_url if tier == "public" else market.ws_market_url


def spread(symbols: Sequence[str], shards: int) -> list[list[str]]:
    """Symbols by shard. A symbol's shard follows from its name alone, so it stays when others come or go."""
    spread_out: list[list[str]] = [[] for _ in range(shards)]
    for symbol in symbols:
        spread_out[zlib.crc32(symbol.encode()) % shards].append(symbol)
    return spread_out


def rest_urls(settings: Settings) -> dict[str, str]:
    """Where the REST of each configured product is."""
    simulated = simulator_urls(settings)["rest"] if settings.simulate else ""
    return {product: simulated or market.rest_url for product, market in markets_of(settings)}


def simulator_urls(settings: Settings) -> dict[str, str]:
    """Addresses of the simulated exchange, by tier and "rest", in place of the real ones."""
    simulator = settings.settled("simulator")
    host = simulator["host"]
    usdm = f"ws://{host}:{simulator['usdm_ws_port']}"
    return {
        "spot": f"ws://{host}:{simulator['spot_ws_port']}",
        "public": f"{usdm}/public",
        "market": f"{usdm}/market",
        "rest": f"http://{host}:{simulator['rest_port']}",
    }


# -- what a feed can carry ----------------------------------------------------------------------------------------


def streams_carried(config: FeedConfig) -> int:
    """Streams that a feed subscribes to, all on one connection. Raises FeedConfigError."""
    usual = len(channels_of(config))
    return sum(
        len(channels_of(config, symbol)) if symbol in config.symbol_channels else usual for symbol in config.symbols
    )


def keys_numbered(config: FeedConfig, record: str | None = None) -> int:
    """Keys that a feed gives numbers to; with `record` those of them that its records have."""
    with_bars = sum("kline" in config.channels_of(symbol) for symbol in config.symbols)
    bars = with_bars * len(config.intervals)
    if record is None:
        return len(config.symbols) + bars
    return bars if record.startswith("kline") else len(config.symbols)


def check_feeds(settings: Settings) -> Iterator[Mistake]:
    """What an exchange does not have, and what one connection or one key directory cannot hold."""
    for product, market in markets_of(settings):
        path = f"exchanges.binance.{product}"
        if product == "spot" and (wrong := list(_futures_only(path, market))):
            yield from wrong
            continue
        yield from _check_market(path, product, market, settings)


def _futures_only(path: str, market: Spot | Usdm) -> Iterator[Mistake]:
    places = {f"{path}.channels": market.channels}
    places |= {join(f"{path}.symbol_channels", symbol): own for symbol, own in market.symbol_channels.items()}
    for place, channels in places.items():
        if wrong := [channel for channel in channels if channel in FUTURES_ONLY]:
            yield Mistake(place, "only futures have these: move them to [exchanges.binance.usdm]", shown(wrong))


def _check_market(path: str, product: str, market: Spot | Usdm, settings: Settings) -> Iterator[Mistake]:
    most = PRODUCTS[product].streams_max
    for name, fields in feed_shards(settings):
        if fields["product"] != product:
            continue
        config = FeedConfig(**settings.actors.get("feed", {}), **fields)
        try:
            streams = streams_carried(config)
        except FeedConfigError as error:
            yield Mistake("feed", str(error).removeprefix("feed: "))
            return
        if not streams:
            yield Mistake(f"{path}.channels", "expected one that the exchange streams beside", shown(config.channels))
        elif streams > most:
            yield Mistake(
                f"{path}.shards",
                f"{name} would carry {streams} streams ({len(config.symbols)} symbols), one connection carries {most}: "
                + _advice([*channels_by_symbol(market)], -(-streams // len(config.symbols)), most),
                str(market.shards),
            )
            return  # the other shards and tiers follow
        if (keys := keys_numbered(config)) > config.keys_max:
            yield Mistake(
                "feed.keys_max", f"{name} has {keys} keys (symbols, and each interval of bars)", str(config.keys_max)
            )
            return


def _advice(symbols: Sequence[str], streams_per_symbol: int, most: int) -> str:
    shards = fewest_shards(symbols, streams_per_symbol, most)
    if shards is None:
        return f"take fewer symbols or channels, {SHARDS_MAX} shards are not enough either"
    return f"{shards} shards would do"


def fewest_shards(symbols: Sequence[str], streams_per_symbol: int, streams_max: int) -> int | None:
    """How many shards hold the streams of all symbols; None where even the most do not."""
    for shards in range(1, SHARDS_MAX + 1):
        if max(map(len, spread(symbols, shards))) * streams_per_symbol <= streams_max:
            return shards
    return None
