"""Sources that play the market model: in its own time, at an exact message rate, or encoded beforehand."""

from __future__ import annotations

import asyncio
import time
from array import array

from .board import EVENT_KINDS, Board, Booth, DepthStream, Message
from .config import Config
from .hub import Hub, Stream
from .instruments import make_instruments, spot_info, usdm_info
from .model import MarketModel
from .pacer import Pacer
from .reports import Reports
from .source import Source
from .wire import MS

STALL_NS = 1_000_000_000  # further behind than this, the market stands still instead of catching up in a burst
STAMPS_MAX = 20_000_000  # send times kept for each stream


class MarketSource(Source):
    """What all sources over the market model share: the markets, and REST from them."""

    def __init__(self, config: Config, hubs: dict[str, Hub]) -> None:
        super().__init__(config, hubs)
        self.epoch_ns = config.epoch_ns or time.time_ns()
        self.time_ns = self.epoch_ns  # how far the model has come
        self.model = MarketModel(
            make_instruments(config.symbols, list(config.products), config.seed),
            seed=config.seed,
            rate=config.rate,
            speed=config.speed,
            epoch_ns=self.epoch_ns,
            activity_exponent=config.activity_exponent,
            levels=config.levels,
            history=config.history_trades,
            off_book=config.off_book_trades,
            liquidations=config.liquidations,
        )
        self.board = Board(self.model.markets)
        self.events = 0

    def watch(self, stream: Stream) -> None:
        self.board.watch(stream, self.time_ns)

    def unwatch(self, stream: Stream) -> None:
        self.board.unwatch(stream)

    def begin(self, time_ns: int) -> None:
        """Let time begin at `time_ns`: before it is only the past."""
        self.time_ns = time_ns
        self.model.begin(time_ns)
        self.board.clock.begin(time_ns)

    def settle(self) -> None:
        while self.board.has_due:
            self.board.publish_due()
        self.board.clock.settle(self.time_ns)
        self.flush()

    def now_ns(self) -> int:
        return self.time_ns

    def reports(self, product: str) -> dict[str, Reports]:
        return {key[1]: booth.reports for key, booth in self.board.booths.items() if key[0] == product}

    def listed(self, product: str, symbol: str) -> bool:
        return self.board.find(product, symbol) is not None

    def exchange_info(self, product: str) -> list[dict]:
        info = spot_info if product == "spot" else usdm_info
        return [info(booth.market.instrument) for key, booth in self.board.booths.items() if key[0] == product]

    def depth(self, product: str, symbol: str, limit: int) -> bytes | None:
        return self.board.depth(product, symbol, limit, self.time_ns)

    def trades(self, product: str, symbol: str, limit: int, unit: int = MS) -> list[str] | None:
        return self.board.trades(product, symbol, limit, unit)

    def agg_trades(
        self,
        product: str,
        symbol: str,
        limit: int,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        unit: int = MS,
    ) -> list[str] | None:
        return self.board.agg_trades(product, symbol, limit, from_id, start_ms, end_ms, unit)

    def progress(self) -> dict[str, object]:
        return {"events": self.events, "epoch_ns": self.epoch_ns, "time_ns": self.time_ns}


class ModelSource(MarketSource):
    """The market model in real time, `speed` times as fast."""

    def __init__(self, config: Config, hubs: dict[str, Hub]) -> None:
        super().__init__(config, hubs)
        self.paused_ns = 0  # time skipped because this process could not run

    async def run(self) -> None:
        await self.wait_for_start()
        if not self.config.epoch_ns:  # time begins now, not when the markets were made
            self._pause(time.time_ns() - self.time_ns)
            self.paused_ns = 0
        self.begin(self.time_ns)
        tick_s = self.config.tick_ms / 1000
        speed = self.config.speed or 1.0
        begin_ns = time.monotonic_ns()
        from_ns = self.time_ns
        while True:
            target_ns = from_ns + int((time.monotonic_ns() - begin_ns) * speed)
            behind_ns = target_ns - self.time_ns
            if behind_ns > STALL_NS * max(1.0, speed):
                self._pause(behind_ns)
            self.advance(target_ns)
            self.flush()
            await asyncio.sleep(tick_s)

    def advance(self, target_ns: int) -> None:
        """Let everything happen that is due up to `target_ns`, in order of time."""
        model, board, clock = self.model, self.board, self.board.clock
        while True:
            next_ns = model.next_ns
            due_ns = board.due_ns
            clock_ns = clock.due_ns
            if min(next_ns, due_ns, clock_ns) > target_ns:
                break
            if clock_ns < next_ns and clock_ns < due_ns:
                clock.fire(max(clock_ns, self.time_ns))
            elif due_ns <= next_ns:
                board.publish_due()
            else:
                board.publish_event(model.step(), next_ns)
                self.events += 1
        self.time_ns = target_ns

    def _pause(self, nanoseconds: int) -> None:
        self.paused_ns += nanoseconds
        self.time_ns += nanoseconds
        self.model.pause(nanoseconds)
        self.board.pause(nanoseconds)

    def progress(self) -> dict[str, object]:
        return {**super().progress(), "paused_ns": self.paused_ns}


class Rotation:
    """Makes one message after the other for a fixed list of streams, whatever the model's own pace is."""

    def __init__(self, board: Board, streams: list[Stream]) -> None:
        self._turns: list[tuple[Booth, Stream]] = []
        for stream in streams:
            booth = board.find(stream.hub.product, stream.name.symbol)
            if booth is not None and stream.name.kind in EVENT_KINDS:
                self._turns.append((booth, stream))
        self._at = 0

    def __bool__(self) -> bool:
        return bool(self._turns)

    def next(self, time_ns: int) -> list[Message]:
        """Return the next stream's message. A trade comes with its aggregate where both streams are subscribed."""
        booth, stream = self._turns[self._at]
        self._at = (self._at + 1) % len(self._turns)
        market = booth.market
        kind = stream.name.kind
        if kind in ("trade", "aggTrade"):
            market.single_trade(time_ns)
        else:
            market.single_quote(at_top=kind == "bookTicker")
        mine: DepthStream | None = None
        for depth in booth.depths:
            depth.note(market, time_ns)
            if depth.stream is stream:
                mine = depth
        if mine is not None:
            return [mine.message(market, booth.wire, time_ns)]
        return [booth.ticker_message(time_ns)] if kind == "bookTicker" else booth.trade_messages(time_ns)


class PacedSource(MarketSource):
    """One message after the other at exactly `rate` a second; event times are the moment of sending.

    Bars, tickers and mark prices come beside them, at their own pace, and are not counted.

    The send time of each message in nanoseconds is kept by its id (`stamps`, pairs of id and UNIX ns), because the
    event time on the wire has only milliseconds, or microseconds on a spot connection that asked for them.
    """

    def __init__(self, config: Config, hubs: dict[str, Hub]) -> None:
        super().__init__(config, hubs)
        self.stamps: dict[Stream, array[int]] = {}
        self.sent = 0
        self.late_max_ns = 0  # furthest behind its time that a message was
        self.skipped = 0  # periods without a message because a socket took no more
        self._interval_ns = 0
        self._subscriptions = 0

    async def run(self) -> None:
        self._interval_ns = max(1, int(1e9 / self.config.rate))
        while not self.finished:
            await self.wait_for_start()
            if not self.sent:
                self.begin(time.time_ns())
            self._subscriptions = self._count_subscriptions()
            self._rotation = Rotation(self.board, self._streams())
            self._over = asyncio.get_running_loop().create_future()
            pacer = Pacer(self._interval_ns, self._on_period)
            try:
                await self._over  # until the subscriptions change, or all has been sent
            finally:
                pacer.close()

    def _count_subscriptions(self) -> int:
        return sum(hub.subscriptions for hub in self.hubs.values())

    def _streams(self) -> list[Stream]:
        return [stream for hub in self.hubs.values() for stream in hub.streams.values() if stream.subscribed]

    def _on_period(self, periods: int) -> None:
        if self._over.done():
            return
        try:
            if self._count_subscriptions() != self._subscriptions or not self._rotation:
                self._over.set_result(None)
                return
            self.late_max_ns = max(self.late_max_ns, (periods - 1) * self._interval_ns)
            if any(hub.paused for hub in self.hubs.values()):
                self.skipped += periods
                return
            for _ in range(periods):
                self._send(self._rotation)
                if self.config.messages and self.sent >= self.config.messages:
                    self.finished = True
                    self._over.set_result(None)
                    return
        except Exception as error:  # noqa: BLE001  nobody else would see it: this runs in the loop's reader callback
            self._over.set_exception(error)

    def _send(self, rotation: Rotation) -> None:
        now_ns = self.time_ns = time.time_ns()
        for stream, payload, ident, micro in rotation.next(now_ns):
            stream.publish(payload, ident, micro)
            stamps = self.stamps.get(stream)
            if stamps is None:
                stamps = self.stamps[stream] = array("q")
            if len(stamps) < 2 * STAMPS_MAX:
                stamps.append(ident)
                stamps.append(now_ns)
            self.sent += 1
        self.events += 1
        while self.board.clock.due_ns <= now_ns:
            self.board.clock.fire(now_ns)
        self.flush()

    def progress(self) -> dict[str, object]:
        return {**super().progress(), "sent": self.sent, "late_max_ns": self.late_max_ns, "skipped": self.skipped}
