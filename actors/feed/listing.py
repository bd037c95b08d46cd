"""The exchange's list of instruments: what our symbols are at the start, and what changes about them later."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence

from ...codecs.binance.rest import EXCHANGE_INFO_WEIGHT, exchange_info_path, parse_exchange_info
from ...codecs.errors import CodecError
from ...codecs.symbols import Instrument
from ..runtime import ActorContext
from .config import Config
from .errors import NoInstruments, RestFailed
from .keys import cache_path, choose, load_instruments, save_instruments
from .protocol import published_weight_limit
from .rest import RestClient

log = logging.getLogger(__name__)

REFRESHED_AT_ONCE = 100  # instruments asked for again in one request: the address has room for about so many


class Listing:
    """Reads the list from REST.

    Attributes:
        unknown: symbols of the plan that the exchange does not list.
    """

    def __init__(self, ctx: ActorContext, rest: RestClient) -> None:
        self.unknown: list[str] = []
        self._ctx = ctx
        self._config: Config = ctx.config
        self._rest = rest

    async def find(self) -> list[Instrument]:
        """The instruments of our symbols, from REST, or from the list of an earlier start while REST is away.

        Raises:
            NoInstruments: the exchange lists none of them.
        """
        config = self._config
        path = cache_path(self._ctx.data, config.exchange, config.product)
        attempt = 0
        while True:
            try:
                listed = await self._fetch()
            except (RestFailed, CodecError) as error:
                chosen, unknown = choose(load_instruments(path), config.exchange, config.product, config.symbols)
                if chosen and not unknown:
                    log.warning("feed=%s instruments from %s, for REST is away: %s", self._ctx.name, path, error)
                    return chosen
                attempt += 1
                log.warning("feed=%s no instruments yet, attempt %d: %s", self._ctx.name, attempt, error)
                self._ctx.page.detail = {
                    "url": config.rest_url, "state": "waiting for REST", "last_error": str(error)[:200],
                }  # fmt: skip
                ceiling = min(config.backoff_max_s, config.backoff_min_s * 2 ** min(attempt, 16))
                await asyncio.sleep(random.uniform(0.0, ceiling))
                continue
            save_instruments(path, listed)
            chosen, self.unknown = choose(listed, config.exchange, config.product, config.symbols)
            for symbol in self.unknown:
                log.error(
                    "feed=%s symbol=%s is not listed on %s %s: left out, correct or remove it in the configuration",
                    self._ctx.name, symbol, config.exchange, config.product,
                )  # fmt: skip
            gauge = self._ctx.page.gauge("tickring_feed_unknown_symbols", "Symbols the exchange does not list.")
            gauge.set(len(self.unknown))
            if not chosen:
                raise NoInstruments(
                    f"feed {self._ctx.name}: {config.exchange} {config.product} lists none of "
                    f"{', '.join(config.symbols)}: correct the symbols (they are written like BTC-USDT, BTC-USDT-PERP)"
                )
            return chosen

    async def _fetch(self, natives: Sequence[str] = ()) -> list[Instrument]:
        """Some instruments, or all. All of spot are 15 MB, which no running feed has the time to read."""
        product = self._config.product
        body = await self._rest.get(exchange_info_path(product, natives), EXCHANGE_INFO_WEIGHT[product])
        info = parse_exchange_info(body, product, self._config.exchange, natives or None)
        if info.skipped:
            log.warning("feed=%s instruments skipped as unreadable: %d", self._ctx.name, info.skipped)
        if not self._config.weight_limit:
            self._rest.budget.set_limit(published_weight_limit(info))
        return info.instruments

    async def refresh(self, instruments: Mapping[int, Instrument], changed: Callable[[int, Instrument], None]) -> None:
        """Look for changed tick sizes and precisions, for as long as the feed lives. Which symbols there are is a
        matter of the plan.

        Args:
            instruments: by key id, as they are known.
            changed: called with the key id and what the exchange says now.
        """
        config = self._config
        while True:
            await asyncio.sleep(config.instruments_refresh_s * random.uniform(0.9, 1.1))
            rows = list(instruments.items())
            for start in range(0, len(rows), REFRESHED_AT_ONCE):
                some = rows[start : start + REFRESHED_AT_ONCE]
                try:
                    found = {one.native: one for one in await self._fetch([known.native for _, known in some])}
                except (RestFailed, CodecError) as error:
                    log.warning("feed=%s instruments not looked at again: %s", self._ctx.name, error)
                    break
                for key_id, known in some:
                    now = found.get(known.native)
                    if now is not None and now != known:
                        changed(key_id, now)
