"""What was subscribed while the daemon ran: kept beside its data, and laid over the configuration file.

`subscriptions.json` in the instance's data folder holds differences to the file: market -> symbol -> channels added and
removed. So the file still counts for everything else, and for what has not been subscribed. It is replaced whole, and
read anew by every start and reload; without it the file alone counts.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ..actors.feed.config import Channel
from ..actors.feed.keys import cache_path, load_instruments
from ..actors.feed.protocol import FUTURES_ONLY
from ..codecs.errors import UnknownSymbol
from ..codecs.symbols import Instrument, InstrumentIndex, parse_symbol
from .config import OTHER_NAMES, Settings, Spot, Usdm
from .errors import ConfigError, FolderUnusable, Mistake, NotConfigured, NotReady, UnknownName
from .loading import check_together
from .markets import channels_by_symbol, markets_of
from .plan import Plan

FILE = "subscriptions.json"
PRODUCTS = {"spot": "spot", "perpetual": "usdm", "future": "usdm"}  # by market type
CHANNELS: tuple[str, ...] = get_args(Channel)
TRADES = ("trade", "agg_trade")  # one or the other, as the market has it
_USUAL_TRADES = {"spot": "trade", "usdm": "agg_trade"}
_BY_NAME = {
    **{name.lower(): channel for name, channel in OTHER_NAMES.items()}, **{name: name for name in CHANNELS},
    "quotes": "quote", "tickers": "ticker", "liquidations": "liquidation", "klines": "kline",
}  # fmt: skip


class Difference(msgspec.Struct, omit_defaults=True):
    """Channels of a symbol that the file does not have, and those that it has and that are not wanted."""

    added: list[Channel] = []
    removed: list[Channel] = []


Overlay = dict[str, dict[str, Difference]]  # "binance.spot" -> "BTC-USDT" -> difference


class Request(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is asked for over the control socket."""

    exchange: str
    action: Literal["subscribe", "unsubscribe"]
    symbols: list[str]  # in any form
    data_types: list[str] = []  # [] = what the market has, or all that the symbol has
    market_type: str | None = None  # of symbols that do not say it


class Subscriptions:
    """A configuration and what lies over it.

    Args:
        settings: of the file, as they were last taken over.
        make_plan: from checked settings to processes.
    """

    def __init__(self, settings: Settings, make_plan: Callable[[Settings], Plan]) -> None:
        self.settings = settings
        self.path = settings.data / FILE
        self.overlay = load(self.path)
        self._make_plan = make_plan

    def plan(self, settings: Settings | None = None) -> Plan:
        """What is to run, by these settings of the file or the last ones.

        Raises:
            ConfigError: what was subscribed does not go together with the file.
        """
        return self._plan(settings or self.settings, load(self.path))

    def change(self, members: Mapping[str, Any]) -> Change:
        """What a `Request` means. Raises UnknownName, NotConfigured, NotReady."""
        try:
            return Change(self, msgspec.convert(members, Request))
        except msgspec.ValidationError as error:
            raise UnknownName("body", str(error)) from None

    def with_overlay(self, overlay: Overlay) -> Plan:
        """What is to run with another overlay, which is kept once that plan is taken over. Raises ConfigError."""
        return self._plan(self.settings, overlay, save_it=True)

    def _plan(self, settings: Settings, overlay: Overlay, *, save_it: bool = False) -> Plan:
        def adopt() -> None:
            if save_it:
                save(self.path, overlay)
            self.settings, self.overlay = settings, overlay

        plan = self._make_plan(laid_over(settings, overlay, str(self.path)))
        return dataclasses.replace(plan, adopt=adopt)


class Change:
    """One request, understood: channels by market and symbol."""

    def __init__(self, subscriptions: Subscriptions, request: Request) -> None:
        self.changed = False
        self._subscriptions, self._request = subscriptions, request
        settings = laid_over(subscriptions.settings, subscriptions.overlay, str(subscriptions.path))
        self._markets = dict(markets_of(settings)) if request.exchange == "binance" else {}
        if not self._markets:
            raise NotConfigured(f"nothing listens to {request.exchange}: add it to [exchanges] in the configuration")
        channels = {text: _channel(text) for text in request.data_types}
        market_type = request.market_type
        if market_type is None and channels and FUTURES_ONLY.issuperset(channels.values()):
            market_type = "perpetual"
        self._instruments = {text: self._instrument(text, market_type) for text in dict.fromkeys(request.symbols)}
        self._wanted = {
            one.instrument: list(self._channels(one, channels)) for one in self._instruments.values()
        }  # fmt: skip

    def plan(self) -> Plan:
        """What is to run after it. Raises ConfigError."""
        overlay = {market: dict(symbols) for market, symbols in self._subscriptions.overlay.items()}
        file = {product: channels_by_symbol(one) for product, one in markets_of(self._subscriptions.settings)}
        for instrument in self._instruments.values():
            by_file = file.get(instrument.product, {}).get(instrument.instrument, [])
            symbols = overlay.setdefault(f"{instrument.exchange}.{instrument.product}", {})
            had = _effective(by_file, symbols.pop(instrument.instrument, Difference()))
            asked = self._wanted[instrument.instrument]
            if self._request.action == "subscribe":
                has = [*had, *(one for one in asked if one not in had)]
            else:
                has = [one for one in had if one not in asked]
            self.changed |= has != had
            added, removed = [one for one in has if one not in by_file], [one for one in by_file if one not in has]
            difference = msgspec.convert({"added": added, "removed": removed}, Difference)
            if difference != Difference():
                symbols[instrument.instrument] = difference
        return self._subscriptions.with_overlay({market: symbols for market, symbols in overlay.items() if symbols})

    def now(self) -> list[dict[str, Any]]:
        """Each symbol of the request and the channels that it has."""
        subscriptions = self._subscriptions
        settings = laid_over(subscriptions.settings, subscriptions.overlay, str(subscriptions.path))
        markets = {product: channels_by_symbol(one) for product, one in markets_of(settings)}
        return [
            {
                "symbol": text, "instrument": one.instrument, "market_type": one.market_type,
                "channels": markets.get(one.product, {}).get(one.instrument, []),
            }
            for text, one in self._instruments.items()
        ]  # fmt: skip

    def _instrument(self, text: str, market_type: str | None) -> Instrument:
        """The listed instrument that a symbol means, in a market that is configured."""
        exchange, data = self._request.exchange, self._subscriptions.settings.data
        listed = {product: load_instruments(cache_path(data, exchange, product)) for product in self._markets}
        index = InstrumentIndex(one for instruments in listed.values() for one in instruments)
        try:
            found = index.find(text, exchange, market_type)
            said = parse_symbol(text, market_type).market_type if found is None else found.market_type
        except UnknownSymbol as error:
            raise UnknownName("symbols", str(error)) from None
        if found is not None and found.product in self._markets:
            return found
        product = PRODUCTS.get(said)
        if product not in self._markets:
            raise NotConfigured(
                f"symbol {text[:64]!r}: nothing listens to {said} markets of {exchange}: add them to "
                f"[exchanges.{exchange}] in the configuration"
            )
        if not listed[product]:
            raise NotReady(f"the list of {said} instruments of {exchange} has not been read yet: try again")
        raise UnknownName("symbols", f"symbol {text[:64]!r} is not listed on {exchange} ({said})")

    def _channels(self, instrument: Instrument, asked: dict[str, str]) -> Iterator[str]:
        market = self._markets[instrument.product]
        if not asked:
            yield from market.channels if self._request.action == "subscribe" else CHANNELS
        for text, channel in asked.items():
            if instrument.product == "spot" and channel in FUTURES_ONLY:
                raise UnknownName(
                    "data_types", f"data type {text!r}: {instrument.instrument} is a spot market, only futures have it"
                )
            if text.lower() not in ("trade", "trades"):
                yield channel
            elif self._request.action == "unsubscribe":
                yield from TRADES
            else:
                yield _trades(instrument.product, market, instrument.instrument)


def _channel(text: str) -> str:
    channel = _BY_NAME.get(text.lower())
    if channel is None:
        raise UnknownName("data_types", f"data type {text[:64]!r}: expected one of {', '.join(sorted(_BY_NAME))}")
    return channel


def _trades(product: str, market: Spot | Usdm, symbol: str) -> str:
    """The channel of trades that a symbol has, or its market, or markets of the kind."""
    for channels in (market.symbol_channels.get(symbol, ()), market.channels):
        for channel in TRADES:
            if channel in channels:
                return channel
    return _USUAL_TRADES[product]


def _effective(by_file: Sequence[str], difference: Difference) -> list[str]:
    kept = [one for one in by_file if one not in difference.removed]
    return kept + [one for one in difference.added if one not in kept]


def laid_over(settings: Settings, overlay: Overlay, source: str) -> Settings:
    """The settings with what was subscribed. A market that the file no longer has is passed over.

    Raises:
        ConfigError: the whole cannot be carried out.
    """
    binance = settings.exchanges.binance
    changed: dict[str, Any] = {}
    for product, market in markets_of(settings):
        by_file, own = channels_by_symbol(market), dict(market.symbol_channels)
        for symbol, difference in overlay.get(f"binance.{product}", {}).items():
            channels = _effective(by_file.get(symbol, []), difference)
            if channels or symbol in by_file:
                own[symbol] = channels  # type: ignore[assignment]
        if own != market.symbol_channels:
            changed[product] = msgspec.structs.replace(market, symbol_channels=own)
    if not changed or binance is None:
        return settings
    exchanges = msgspec.structs.replace(settings.exchanges, binance=msgspec.structs.replace(binance, **changed))
    whole = msgspec.structs.replace(settings, exchanges=exchanges)
    check_together(whole, source)
    return whole


def load(path: Path) -> Overlay:
    """Raises ConfigError where the file holds something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Overlay)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Mistake("document", f"cannot be read: {error}: mend it, or remove it")]) from None


def save(path: Path, overlay: Overlay) -> None:
    """Replace the file. Raises FolderUnusable."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with open(temporary, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(overlay), indent=2))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FolderUnusable(f"{path} cannot be written: {error.strerror}: make room or mend its rights") from None
