"""What the model's markets put on their streams, each consistent with the others.

Trades, best prices, depth and liquidations follow the market's events; bars, tickers and mark prices go by the clock.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable

from .clock import Clock, clocked_stream, next_tick
from .hub import Stream
from .market import ASK, BID, AggTrade, Liquidation, Market, Trade
from .reports import Reports
from .wire import MS, US, SpotWire, wire_of

# (stream, payload, id, payload in microseconds or None)
Message = tuple[Stream, bytes, int, bytes | None]

CLOCKED_KINDS = ("kline", "ticker", "miniTicker", "markPrice")
EVENT_KINDS = ("trade", "aggTrade", "bookTicker", "depth", "partial")  # one event of the market, one message
SYMBOL_PHASE_NS = 7_919 * MS  # symbols send at different moments of an interval, as on the exchange


class DepthStream:
    """Level changes of one market since the last message of one depth stream.

    `first_id` is the update id of the first change that no message has told yet (0 = none), `previous_id` the last
    update id of the last message. A snapshot taken in between has an update id that lies inside the next message.
    """

    __slots__ = ("asks", "bids", "changed_ns", "first_id", "interval_ns", "levels", "phase_ns", "previous_id", "stream")

    def __init__(self, stream: Stream, previous_id: int, phase_ns: int) -> None:
        self.stream = stream
        self.interval_ns = stream.name.interval_ms * MS
        self.levels = stream.name.levels  # 0 = differences
        self.phase_ns = phase_ns % self.interval_ns if self.interval_ns else 0
        self.bids: set[int] = set()
        self.asks: set[int] = set()
        self.first_id = 0
        self.previous_id = previous_id
        self.changed_ns = 0

    def note(self, market: Market, time_ns: int) -> bool:
        """Take in the market's last event; True = the first one since the last message."""
        began = not self.first_id
        if began:
            self.first_id = market.first_id
        if not self.levels:
            self.bids |= market.changed[BID]
            self.asks |= market.changed[ASK]
        self.changed_ns = time_ns
        return began

    def due_ns(self, time_ns: int) -> int:
        """Return when the message that begins at `time_ns` leaves."""
        return next_tick(time_ns, self.interval_ns, self.phase_ns) if self.interval_ns else time_ns

    def message(self, market: Market, wire: SpotWire, event_ns: int) -> Message:
        if self.levels:
            bids = market.ladder(BID, self.levels)
            asks = market.ladder(ASK, self.levels)
        else:
            book = market.book
            bids = [(tick, book[BID].get(tick, 0)) for tick in sorted(self.bids, reverse=True)]
            asks = [(tick, book[ASK].get(tick, 0)) for tick in sorted(self.asks)]
            self.bids.clear()
            self.asks.clear()
        first, last, previous = self.first_id, market.update_id, self.previous_id
        self.first_id = 0
        self.previous_id = last
        write = wire.partial if self.levels else wire.depth
        texts = (wire.levels(bids), wire.levels(asks))
        payload = write(first, last, previous, *texts, self.changed_ns, event_ns)
        stream = self.stream
        micro = write(first, last, previous, *texts, self.changed_ns, event_ns, US) if stream.microseconds else None
        return stream, payload, last, micro


class ForceStream:
    """Liquidations of one market: of those in one interval only the latest is told."""

    __slots__ = ("latest", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.latest: Liquidation | None = None

    def note(self, liquidation: Liquidation) -> bool:
        """Take in a liquidation; True = the first one since the last message."""
        began = self.latest is None
        self.latest = liquidation
        return began

    def due_ns(self, time_ns: int) -> int:
        return next_tick(time_ns, self.stream.name.interval_ms * MS)


class Booth:
    """One market and those of its streams that somebody is subscribed to and that follow its events."""

    __slots__ = ("agg_trade", "depths", "forces", "index", "market", "reports", "ticker", "trade", "wire")

    def __init__(self, market: Market, index: int) -> None:
        self.market = market
        self.index = index
        self.wire = wire_of(market.instrument)
        self.reports = Reports(market)
        self.trade: Stream | None = None
        self.agg_trade: Stream | None = None
        self.ticker: Stream | None = None
        self.depths: list[DepthStream] = []
        self.forces: list[ForceStream] = []

    def watch(self, stream: Stream) -> None:
        kind = stream.name.kind
        if kind == "trade":
            self.trade = stream
        elif kind == "aggTrade":
            self.agg_trade = stream
        elif kind == "bookTicker":
            self.ticker = stream
        elif kind in ("depth", "partial"):
            self.market.prepare()
            self.depths.append(DepthStream(stream, self.market.update_id, self.index * SYMBOL_PHASE_NS))
        elif kind == "forceOrder":
            self.forces.append(ForceStream(stream))

    def unwatch(self, stream: Stream) -> None:
        if self.trade is stream:
            self.trade = None
        elif self.agg_trade is stream:
            self.agg_trade = None
        elif self.ticker is stream:
            self.ticker = None
        else:
            self.depths = [each for each in self.depths if each.stream is not stream]
            self.forces = [each for each in self.forces if each.stream is not stream]

    def trade_messages(self, event_ns: int) -> list[Message]:
        """Return what the last event put on the trade streams."""
        market, wire = self.market, self.wire
        messages: list[Message] = []
        if self.trade is not None:
            micro = self.trade.microseconds
            for trade in market.trades:
                second = wire.trade(trade, event_ns, US) if micro else None
                messages.append((self.trade, wire.trade(trade, event_ns), trade[0], second))
        if self.agg_trade is not None:
            micro = self.agg_trade.microseconds
            for aggregate in market.aggregates:
                second = wire.agg_trade(aggregate, event_ns, US) if micro else None
                messages.append((self.agg_trade, wire.agg_trade(aggregate, event_ns), aggregate[0], second))
        return messages

    def ticker_message(self, event_ns: int) -> Message:
        market = self.market
        assert self.ticker is not None, market.instrument.native
        payload = self.wire.book_ticker(market.update_id, market.best(), event_ns)
        return self.ticker, payload, market.update_id, payload if self.ticker.microseconds else None


class Board:
    """All markets by product and symbol, the messages that wait for the end of an interval, and the clock's."""

    def __init__(self, markets: Iterable[Market]) -> None:
        self.booths: dict[tuple[str, str], Booth] = {}
        for index, market in enumerate(markets):
            self.booths[market.instrument.product, market.instrument.native] = Booth(market, index)
        self.of_market = {id(booth.market): booth for booth in self.booths.values()}
        self.clock = Clock()
        self._due: list[tuple[int, int, Booth, DepthStream | ForceStream]] = []
        self._order = itertools.count()

    def find(self, product: str, symbol: str) -> Booth | None:
        return self.booths.get((product, symbol))

    def _booths(self, stream: Stream) -> list[Booth]:
        """Return the markets that a stream is about."""
        if stream.name.symbol:
            booth = self.find(stream.hub.product, stream.name.symbol)
            return [] if booth is None else [booth]
        return [booth for key, booth in self.booths.items() if key[0] == stream.hub.product]

    def watch(self, stream: Stream, time_ns: int) -> None:
        booths = self._booths(stream) if stream.name.kind else []
        if not booths:
            return
        if stream.name.kind in CLOCKED_KINDS:
            reports = [booth.reports for booth in booths]
            self.clock.add(clocked_stream(stream, reports, booths[0].index * SYMBOL_PHASE_NS), time_ns)
            return
        for booth in booths:
            booth.watch(stream)

    def unwatch(self, stream: Stream) -> None:
        self.clock.remove(stream)
        for booth in self._booths(stream):
            booth.unwatch(stream)

    # -- publishing

    def publish_event(self, market: Market, time_ns: int) -> None:
        """Put a market's last event on its streams; depth messages may become due later."""
        booth = self.of_market[id(market)]
        for stream, payload, ident, micro in booth.trade_messages(time_ns):
            stream.publish(payload, ident, micro)
        if booth.ticker is not None and market.top_changed:
            stream, payload, ident, micro = booth.ticker_message(time_ns)
            stream.publish(payload, ident, micro)
        if booth.depths and market.first_id:
            for depth in booth.depths:
                if depth.note(market, time_ns):
                    heapq.heappush(self._due, (depth.due_ns(time_ns), next(self._order), booth, depth))
        if booth.forces and market.liquidation is not None:
            for force in booth.forces:
                if force.note(market.liquidation):
                    heapq.heappush(self._due, (force.due_ns(time_ns), next(self._order), booth, force))

    @property
    def due_ns(self) -> int:
        """Time of the next message that waits for the end of its interval, or far away."""
        return self._due[0][0] if self._due else 1 << 63

    @property
    def has_due(self) -> bool:
        return bool(self._due)

    def publish_due(self) -> None:
        """Send the message whose interval ends next."""
        time_ns, _, booth, waiting = heapq.heappop(self._due)
        if isinstance(waiting, ForceStream):
            liquidation, waiting.latest = waiting.latest, None
            if waiting in booth.forces and liquidation is not None:
                waiting.stream.publish(booth.reports.force_order(liquidation, time_ns), time_ns // MS)
        elif waiting in booth.depths:
            stream, payload, ident, micro = waiting.message(booth.market, booth.wire, time_ns)
            stream.publish(payload, ident, micro)

    def pause(self, nanoseconds: int) -> None:
        self._due = [(due + nanoseconds, *rest) for due, *rest in self._due]  # type: ignore[misc]

    # -- REST

    def depth(self, product: str, symbol: str, limit: int, time_ns: int) -> bytes | None:
        booth = self.find(product, symbol)
        if booth is None:
            return None
        market = booth.market.prepare()
        levels = booth.wire.levels
        return booth.wire.snapshot(
            market.update_id, levels(market.ladder(BID, limit)), levels(market.ladder(ASK, limit)), time_ns
        )

    def trades(self, product: str, symbol: str, limit: int, unit: int) -> list[str] | None:
        booth = self.find(product, symbol)
        if booth is None:
            return None
        history: list[Trade] = list(booth.market.history)[-limit:]
        return [booth.wire.rest_trade(trade, unit) for trade in history]

    def agg_trades(
        self,
        product: str,
        symbol: str,
        limit: int,
        from_id: int | None,
        start_ms: int | None,
        end_ms: int | None,
        unit: int,
    ) -> list[str] | None:
        booth = self.find(product, symbol)
        if booth is None:
            return None
        rows: list[AggTrade] = list(booth.market.history_agg)
        if from_id is not None:
            rows = [row for row in rows if row[0] >= from_id][:limit]
        elif start_ms is not None or end_ms is not None:
            low = (start_ms or 0) * MS
            high = (end_ms + 1) * MS if end_ms is not None else 1 << 63
            rows = [row for row in rows if low <= row[5] < high]
            rows = rows[:limit] if start_ms is not None else rows[-limit:]
        else:
            rows = rows[-limit:]
        return [booth.wire.rest_agg_trade(row, unit) for row in rows]
