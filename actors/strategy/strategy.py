"""The actor: takes quotes from the feeds' rings, lets the trader act on them, and produces what is told of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from decimal import Decimal
from typing import Any

import msgspec

from ...codecs.desk.money import amount_of
from ...codecs.desk.records import POSITION
from ...ringbuf import RingError, State, StreamReader, page_filename, read_page
from ..portfolio.marks import QUOTE_STREAM, Quotes
from ..recent import PORTFOLIO_ACTOR
from ..runtime import BEAT_INTERVAL_S, ActorContext
from ..topic.brokers import EMBEDDED, NotUp, servers
from .config import Config
from .told import ALERTS, Message, Teller
from .trader import FEE_ASSET, Order, Quote, Trader

log = logging.getLogger(__name__)

EXCHANGE, MARKET = "binance", "spot"
RETRY_S = 0.2
TIMEOUT_MS = 5000
LOOK_INTERVAL_S = 2.0  # how often new quotes are looked for
# Seconds between statements.
RISK_S, HEALTH_S, PERFORMANCE_S, ALERT_S = 5.0, 10.0, 15.0, 30.0
FIRST_ALERT_S = 2.0
SCALE = Decimal("1e-8")

_encode = msgspec.json.Encoder().encode


class Strategy:
    """Trades through all its sessions. A session is one producer; with it the book begins with what is held."""

    def __init__(self, ctx: ActorContext) -> None:
        self.ctx = ctx
        self.config: Config = ctx.config
        self.rng = random.Random(self.config.seed)  # of the trader's decisions
        self.beside = random.Random(f"{self.config.seed}:beside")  # of pauses, signals and alerts
        self.quotes = Quotes(ctx.folder)
        self._told = ctx.page.counter("tickring_strategy_messages_total", "Messages produced.")
        self._orders = ctx.page.counter("tickring_strategy_orders_total", "Orders made.")
        self._failures = ctx.page.counter("tickring_strategy_failures_total", "Sessions that a failure ended.")

    async def run(self) -> None:
        """Until the stop."""
        from aiokafka.errors import KafkaError  # in an extra

        while not self.ctx.stopping.is_set():
            try:
                await self._session()
            except NotUp:
                pass
            except (KafkaError, OSError) as error:
                self._failures.inc()
                log.warning("strategy: the broker does not take messages: %s: %s", type(error).__name__, error)
            await self.ctx.stopped_within(RETRY_S)
        self.quotes.close()

    async def _session(self) -> None:
        from aiokafka import AIOKafkaProducer

        producer = AIOKafkaProducer(
            bootstrap_servers=servers(EMBEDDED, self.ctx.folder), client_id=f"tickring-{self.ctx.name}", acks=1,
            request_timeout_ms=TIMEOUT_MS,
        )  # fmt: skip
        try:
            await producer.start()
            started_ms = time.time_ns() // 1_000_000
            trader = Trader(
                self.rng, self.config.symbols, Decimal(str(self.config.notional)), f"{started_ms:x}"
            )  # fmt: skip
            await self._take_over(trader)
            teller = Teller(trader, self.config.account, self.config.strategy, started_ms)
            await _Run(self, producer, trader, teller).go()
        finally:
            await producer.stop()

    async def _take_over(self, trader: Trader) -> None:
        """Begin with the positions that the portfolio has of an earlier life."""
        page = self.ctx.folder / page_filename(PORTFOLIO_ACTOR)
        while not self.ctx.stopping.is_set():
            try:
                if read_page(page).state == State.RUNNING:
                    break
            except (RingError, OSError):
                return
            await self.ctx.stopped_within(RETRY_S)
        reader = StreamReader(self.ctx.folder, PORTFOLIO_ACTOR, POSITION.name, POSITION.dtype, POSITION.fingerprint)
        try:
            for key in reader.keys:
                names = key.attributes
                position = trader.positions.get(str(names.get("symbol")))
                mine = (names.get("account_id"), names.get("strategy_id"), names.get("venue")) == (
                    self.config.account, self.config.strategy, EXCHANGE,
                )  # fmt: skip
                row = reader.latest(key.key_id) if mine and position and reader.count(key.key_id) else None
                if row is not None and position is not None:
                    position.quantity = amount_of(bytes(row["quantity"])) * SCALE
                    position.cost = amount_of(bytes(row["cost"])) * SCALE
                    position.opened_ms, position.number = int(row["opened_ns"]) // 1_000_000, 1
        finally:
            reader.close()

    def prices(self) -> dict[str, Quote]:
        """The quotes of now, of those symbols that have both sides."""
        found = {}
        for symbol in dict.fromkeys((*self.config.symbols, f"{FEE_ASSET}USDT")):
            source = self.quotes.find_native(QUOTE_STREAM, EXCHANGE, symbol, MARKET)
            row = source.reader.latest(source.key_id) if source is not None else None
            if row is not None and 0 < float(row["bid"]) <= float(row["ask"]):
                found[symbol] = Quote(Decimal(repr(float(row["bid"]))), Decimal(repr(float(row["ask"]))))
        return found


class _Run:
    """One session's turns: what was ordered in one is executed in the next."""

    def __init__(self, strategy: Strategy, producer: Any, trader: Trader, teller: Teller) -> None:
        self.strategy, self.producer, self.trader, self.teller = strategy, producer, trader, teller
        self.rng = strategy.beside
        self._messages: list[Message] = []
        self._waiting: Order | None = None
        now = time.monotonic()
        self._due = {"risk": now, "health": now, "performance": now, "alert": now + FIRST_ALERT_S, "look": 0.0}
        self._risks = 0
        self._active: dict[str, tuple[tuple[str, str, str], str, float]] = {}  # alert -> kind, symbol, when it ends

    def _is_due(self, what: str, interval_s: float) -> bool:
        now = time.monotonic()
        if now < self._due[what]:
            return False
        self._due[what] = now + interval_s
        return True

    async def go(self) -> None:
        """Until the stop, or until the broker does not take something."""
        stopped_within, rate = self.strategy.ctx.stopped_within, self.strategy.config.orders_per_s
        while not await stopped_within(self.rng.uniform(0.5, 1.5) / (2 * rate)):
            if self._is_due("look", LOOK_INTERVAL_S):
                self.strategy.quotes.refresh()
            self._turn(self.strategy.prices(), time.time_ns() // 1_000_000)
            await self._send()

    def _turn(self, quotes: dict[str, Quote], now_ms: int) -> None:
        say = self._messages.append
        order, self._waiting = self._waiting, None
        if order is None:
            self._order(quotes, now_ms)
        elif order.outcome != "FILLED" or order.symbol not in quotes:
            outcome = "CANCELED" if order.outcome == "FILLED" else order.outcome
            self._messages += self.teller.order(order, outcome, now_ms)
        else:
            parts = self.trader.execute(order, quotes, now_ms)
            realized = sum((one.realized for one in parts), Decimal(0))
            self._messages += self.teller.executions(order, parts)
            say(self.teller.position(order.symbol, realized, quotes, parts[-1].time_ms))
            say(self.teller.risk(quotes, parts[-1].time_ms))
        self._state(quotes, now_ms)
        self._mind_alerts(now_ms)

    def _order(self, quotes: dict[str, Quote], now_ms: int) -> None:
        order = self.trader.order(quotes, now_ms)
        if order is not None:
            self._messages.append(self.teller.signal(order, round(self.rng.uniform(0.5, 0.95), 2)))
            self._messages += self.teller.order(order, "NEW", now_ms)
            self._waiting = order
            self.strategy._orders.inc()

    def _state(self, quotes: dict[str, Quote], now_ms: int) -> None:
        say = self._messages.append
        if self._is_due("risk", RISK_S):
            self._risks += 1
            say((self.teller.balance if self._risks % 2 else self.teller.risk_of_portfolio)(quotes, now_ms))
        if self._is_due("health", HEALTH_S):
            say(self.teller.health(now_ms))
        if self._is_due("performance", PERFORMANCE_S):
            say(self.teller.performance(now_ms))

    def _mind_alerts(self, now_ms: int) -> None:
        now = time.monotonic()
        for alert_id, (kind, symbol, ends) in list(self._active.items()):
            if now >= ends:
                del self._active[alert_id]
                self._messages.append(self.teller.alert(alert_id, kind, symbol, True, now_ms))
        if self._is_due("alert", ALERT_S * self.rng.uniform(0.5, 1.5)):
            alert_id, kind = f"al-{self.trader.run}-{now_ms}", self.rng.choice(ALERTS)
            symbol = self.rng.choice(self.trader.symbols)
            self._active[alert_id] = kind, symbol, now + ALERT_S * self.rng.uniform(0.7, 2.0)
            self._messages.append(self.teller.alert(alert_id, kind, symbol, False, now_ms))

    async def _send(self) -> None:
        messages, self._messages = self._messages, []
        sent = [
            await self.producer.send(topic, _encode(body), key.encode() if key else None)
            for topic, key, body in messages
        ]
        await asyncio.gather(*sent)
        self.strategy._told.inc(len(sent))


async def main(ctx: ActorContext) -> None:
    """Trade until the stop. Whatever the broker does, the actor does not end."""
    running = asyncio.create_task(Strategy(ctx).run(), name="strategy")
    ctx.running()
    try:
        while not running.done():
            ctx.beat()
            await asyncio.wait([running], timeout=BEAT_INTERVAL_S)
        running.result()
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
