"""The keeper's life: its socket, its three kinds of work, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from ...codecs.binance.rest_market import FUNDING_REQUESTS_PER_5_MIN
from ...ringbuf.errors import TickringError
from ...storage.client import Client
from ..feed.protocol import weight_budget
from ..feed.rest import RestClient
from ..ledger import Ledger
from ..runtime import ActorContext
from .bars import BarFetcher
from .config import EXCHANGE, Config
from .errors import KeeperRefused
from .metrics import Metrics
from .protocol import (
    LINE_MAX,
    SOCKET,
    Answer,
    Create,
    Created,
    Delete,
    Deleted,
    Fill,
    Filled,
    Problem,
    Request,
    decode_request,
    encode,
)
from .settlements import Settlements
from .temporary import TemporaryRanges

log = logging.getLogger("tickring.keeper")

FUNDING_BUDGET = "futures.funding"
FUNDING_PRODUCTS = ("usdm",)
WAIT_MAX_S = 60.0  # that a request may ask to be waited for


class Keeper:
    """State of a running keeper."""

    def __init__(self, ctx: ActorContext) -> None:
        config: Config = ctx.config
        self.ctx, self.config = ctx, config
        self.metrics = Metrics(ctx.page)
        self.client = Client(config.clickhouse, ctx.folder, ctx.data)
        self.ledger = Ledger(ctx.folder, EXCHANGE)
        self.rests = {product: self._rest(product, url) for product, url in config.rest_urls.items()}
        self.fetcher = BarFetcher(config, self.client, self.rests, self.metrics)
        self.temporary = TemporaryRanges(config, ctx.data / "keeper", self.client, self.fetcher, self.metrics)
        paying = {product: rest for product, rest in self.rests.items() if product in FUNDING_PRODUCTS}
        self.settlements: Settlements | None = None
        if paying and config.funding:
            # the exchange counts any five minutes, the ledger aligned ones: two neighbouring windows get half each
            budget = self.ledger.budget(FUNDING_BUDGET, FUNDING_REQUESTS_PER_5_MIN // 2, 300.0)
            self.settlements = Settlements(config, ctx.folder, self.client, paying, budget, self.metrics)

    def _rest(self, product: str, url: str) -> RestClient:
        budget = weight_budget(self.ledger, product, self.config.weight_limit)
        return RestClient(url, budget, self.config.rest_timeout_s, self.metrics.count_rest)

    async def run(self) -> None:
        """Work until the context says stop."""
        loops: list[Callable[[], Awaitable[None]]] = [self.temporary.run, self.ctx.beat_until_stopped]
        if self.settlements is not None:
            loops.append(self.settlements.run)
        server = await self._listen()
        tasks = [asyncio.ensure_future(loop()) for loop in loops]
        log.info("keeper=%s products=%s", self.ctx.name, ",".join(self.rests))
        self.ctx.running()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # only the beat ends by itself
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.fetcher.close()
            for rest in self.rests.values():
                await rest.close()
            await self.client.close()
            self.ledger.close()
            self._path.unlink(missing_ok=True)

    @property
    def _path(self) -> Path:
        return self.ctx.folder / SOCKET

    async def _listen(self) -> asyncio.Server:
        self._path.unlink(missing_ok=True)  # of a keeper that was killed
        mask = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._serve, str(self._path), limit=LINE_MAX)
        finally:
            os.umask(mask)

    # -- the socket -----------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError):  # who asked has gone, or never ended its line
            try:
                writer.write(encode(await self._answer(await reader.readline())) + b"\n")
                await writer.drain()
            finally:
                writer.close()

    async def _answer(self, line: bytes) -> Answer:
        try:
            request = decode_request(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.metrics.bad_requests.inc()
            return Problem(code="bad_request", message=f"no request of the keeper's: {error}")
        command = type(request).__name__.lower()
        try:
            answer = await self._carry_out(request)
        except KeeperRefused as error:
            self.metrics.asked(command, error.code)
            return Problem(code=error.code, message=str(error))
        except TickringError as error:
            log.error("command=%s failed: %s", command, error)
            self.metrics.asked(command, "failed")
            return Problem(code="away", message=str(error)[:300])
        self.metrics.asked(command, answer.state)
        return answer

    async def _carry_out(self, request: Request) -> Filled | Created | Deleted:
        wait_s = min(max(request.wait_s, 0.0), WAIT_MAX_S)
        match request:
            case Create(key=key, start_ms=start, stop_ms=stop, ttl_minutes=ttl):
                return await self.temporary.create(key, start, stop, ttl, wait_s)
            case Delete(temp_id=temp_id):
                return await self.temporary.delete(temp_id, wait_s)
            case Fill():
                return await self._fill(request, wait_s)

    async def _fill(self, request: Fill, wait_s: float) -> Filled:
        work = self.fetcher.fetch(
            request.key, request.start_ms, request.stop_ms, most=self.config.bars_max, oldest_first=request.oldest_first
        )
        await work.wait(wait_s)
        if not work.done:
            return Filled(state="pending", stored=work.stored, reason="the bars are still being fetched")
        state = "unavailable" if work.reason else "partial" if work.left else "complete"
        return Filled(state=state, stored=work.stored, reason=work.reason)


async def main(ctx: ActorContext) -> None:
    """Run the keeper of a context."""
    await Keeper(ctx).run()
