"""One market of the model: a limit order book and a tape, in virtual time.

The fair price is the coin's; spot and USD-M of a coin follow the same one. An event adds, changes or removes a price
level, or is a market order; where the fair price has passed resting orders, those are partly taken and partly
withdrawn. Trades, best prices and level changes therefore always tell the same story, and a book is never crossed.
Some of the market orders on USD-M are liquidations: trades like any other, and named as such.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, insort
from collections import deque

from .coins import Coin
from .config import SPOT
from .history import Past
from .instruments import Instrument
from .tape import Tape

BID = 0
ASK = 1

FUTURES_BASIS = 2e-4
MARKET_ORDER_SHARE = 0.18  # of the events that are not forced by the fair price
SWEPT_LEVELS_MAX = 3  # levels that one market order takes
LEVELS_MIN = 10
LEVELS_AT_START = 80  # about; a price of few ticks has fewer

# (trade id, price in ticks, quantity in lots, time ns, buyer is maker, off the book)
Trade = tuple[int, int, int, int, bool, bool]
# (aggregate id, price in ticks, quantity in lots, first trade id, last trade id, time ns, buyer is maker)
AggTrade = tuple[int, int, int, int, int, int, bool]
# (quantity in lots, quote quantity in ticks times lots, limit price in ticks, time ns, a long position was sold)
Liquidation = tuple[int, int, int, int, bool]


class Market:
    """Book and tape of one symbol.

    After `event()` these say what it did: `trades` and `aggregates` in order, `changed` as one set of ticks for each
    side, `first_id` the update id of its first level change, `top_changed`, and the `liquidation` if it was one.
    """

    __slots__ = (
        "_active", "_basis", "_gap", "_liquidations", "_lots_typical", "_near", "_off_book", "_random", "_scale",
        "agg_id", "aggregates", "book", "changed", "coin", "first_id", "history", "history_agg", "instrument", "keys",
        "levels", "liquidation", "tape", "top_changed", "trade_id", "trades", "update_id",
    )  # fmt: skip

    def __init__(
        self,
        instrument: Instrument,
        coin: Coin,
        *,
        seed: int,
        levels: int,
        history: int,
        off_book: float,
        liquidations: float,
        ids_before: int,
        epoch_ns: int,
    ) -> None:
        spot = instrument.product == SPOT
        self.instrument = instrument
        self.coin = coin
        self._random = draw = random.Random(f"{seed}:{instrument.product}:{instrument.native}")
        self._active = False
        self._basis = 0.0 if spot else FUTURES_BASIS
        self._off_book = 0.0 if spot else off_book
        self._liquidations = 0.0 if spot else liquidations
        self._gap = 0 if spot else 40  # USD-M update ids are shared by all symbols: one symbol's jump
        ticks = instrument.price / instrument.tick
        self._scale = max(4.0, ticks * 4e-4)  # mean distance of a far order from the fair price, in ticks
        self._near = max(1.0, min(3.0, ticks * 5e-5))
        lot = 10.0**-instrument.quantity_digits
        self._lots_typical = max(2.0, 1500.0 / instrument.price / lot)
        self.levels = levels
        self.book: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self.keys: tuple[list[int], list[int]] = ([], [])  # ticks of bids, negated ticks of asks: ascending, best last
        # Ids of fixed width for a long time, so that frames of one kind have one length.
        # They begin further on the later the model does, so that a simulator that was started anew goes on upwards.
        first_update = draw.randrange(10**11, 2 * 10**11) if spot else draw.randrange(5 * 10**12, 6 * 10**12)
        self.update_id = first_update + 4 * ids_before * (1 + self._gap)
        self.trade_id = draw.randrange(10**11, 2 * 10**11) + ids_before
        self.agg_id = draw.randrange(10**11, 2 * 10**11) + ids_before
        past = Past(instrument, seed, ticks * (1.0 + self._basis), self._lots_typical)
        self.tape = Tape(past, epoch_ns // 1_000_000)
        self.history: deque[Trade] = deque(maxlen=history)
        self.history_agg: deque[AggTrade] = deque(maxlen=history)
        self.trades: list[Trade] = []
        self.aggregates: list[AggTrade] = []
        self.changed: tuple[set[int], set[int]] = (set(), set())
        self.first_id = 0
        self.top_changed = False
        self.liquidation: Liquidation | None = None

    # -- reading

    def prepare(self) -> Market:
        """Fill the book on first use: with thousands of symbols most are never looked at."""
        if not self._active:
            self._active = True
            fair = self._fair(self.coin.start)
            update_id = self.update_id
            for _ in range(3 * min(self.levels, LEVELS_AT_START)):
                self._quote(fair)
            self._refill(fair)
            self.update_id = update_id
            self._begin()
        return self

    def best(self) -> tuple[int, int, int, int]:
        """Return bid, its quantity, ask, its quantity, in ticks and lots."""
        bid = self.keys[BID][-1]
        ask = -self.keys[ASK][-1]
        return bid, self.book[BID][bid], ask, self.book[ASK][ask]

    def ladder(self, side: int, limit: int) -> list[tuple[int, int]]:
        """Return up to `limit` (tick, lots), best first."""
        book = self.book[side]
        keys = self.keys[side][-limit:][::-1]
        return [(key, book[key]) for key in keys] if side == BID else [(-key, book[-key]) for key in keys]

    def mark(self) -> float:
        """Return the mark price in ticks: the middle of the book, or the fair price where nobody has looked at it."""
        if not self._active:
            return self._fair(self.coin.value)
        return (self.keys[BID][-1] - self.keys[ASK][-1]) / 2

    def index(self) -> float:
        """Return the index price in ticks: the coin's fair price without the basis of the futures."""
        return self._fair(self.coin.value) / (1.0 + self._basis)

    # -- what happens

    def event(self, time_ns: int) -> None:
        """Let one market event happen."""
        self.prepare()
        self._begin()
        fair = self._fair(self.coin.at(time_ns))
        before = self.best()
        if fair >= before[2]:
            self._pass_through(ASK, fair, time_ns)
        elif fair <= before[0]:
            self._pass_through(BID, fair, time_ns)
        elif self._random.random() < MARKET_ORDER_SHARE:
            self._market_order(self._random.randrange(2), time_ns)
        else:
            self._quote(fair)
        self._refill(fair)
        self.top_changed = self.best() != before

    def single_trade(self, time_ns: int) -> None:
        """Print exactly one trade that takes part of the best level; a level of one lot is topped up first."""
        self.prepare()
        self._begin()
        before = self.best()
        side = self._random.randrange(2)
        tick = before[2 * side]
        lots = self.book[side][tick]
        if lots < 2:
            lots = self._lots() + 2
            self._set(side, tick, lots)
        taken = self._random.randrange(1, lots)
        self._print(tick, taken, time_ns, side == BID)
        self._aggregate(1)
        self._set(side, tick, lots - taken)
        self.top_changed = True

    def single_quote(self, at_top: bool) -> None:
        """Change exactly one level: the best one, or one at a drawn distance."""
        self.prepare()
        self._begin()
        before = self.best()
        if at_top:
            side = self._random.randrange(2)
            tick = before[2 * side]
            self._set(side, tick, self.book[side][tick] % 1_000_000 + 1 + self._lots() % 1000)
        else:
            self._quote((before[0] + before[2]) / 2)
            self._refill((before[0] + before[2]) / 2)
        self.top_changed = self.best() != before

    # -- parts of an event

    def _begin(self) -> None:
        self.trades = []
        self.aggregates = []
        self.changed = (set(), set())
        self.first_id = 0
        self.top_changed = False
        self.liquidation = None

    def _fair(self, logarithm: float) -> float:
        ticks = self.instrument.price / self.instrument.tick * (1.0 + self._basis) * math.exp(logarithm)
        return max(ticks, 5.0 * LEVELS_MIN)  # there must be room for bids

    def _lots(self) -> int:
        return 1 + int(self._lots_typical * self._random.expovariate(1.0) ** 2)

    def _set(self, side: int, tick: int, lots: int) -> None:
        """Store a level's quantity, 0 removes it, and count one update."""
        book = self.book[side]
        key = tick if side == BID else -tick
        keys = self.keys[side]
        if lots:
            if tick not in book:
                insort(keys, key)
            book[tick] = lots
        else:
            del book[tick]
            del keys[bisect_left(keys, key)]
        self.update_id += 1 + (int(self._gap * self._random.random()) if self._gap else 0)
        if not self.first_id:
            self.first_id = self.update_id
        self.changed[side].add(tick)

    def _quote(self, fair: float) -> None:
        """Add, change or remove one resting level around the fair price."""
        draw = self._random.random
        bids, asks = self.keys
        side = int(draw() < 0.5)
        if abs(len(bids) - len(asks)) > self.levels // 4:
            side = BID if len(bids) < len(asks) else ASK
        scale = self._near if draw() < 0.45 else self._scale
        distance = 1 + int(scale * -math.log(1.0 - draw()))
        tick = math.floor(fair) - distance if side == BID else math.ceil(fair) + distance
        if side == BID and asks:
            tick = min(tick, -asks[-1] - 1)
        elif side == ASK and bids:
            tick = max(tick, bids[-1] + 1)
        tick = max(tick, 1)
        lots = self._lots()
        if tick in self.book[side] and len(self.keys[side]) > LEVELS_MIN and draw() < 0.45:
            lots = 0
        self._set(side, tick, lots)
        keys = self.keys[side]
        if len(keys) > self.levels:  # the furthest order goes when the book is full
            self._set(side, abs(keys[0]), 0)

    def _refill(self, fair: float) -> None:
        """Keep both sides alive: after a sweep somebody quotes again."""
        for side in (BID, ASK):
            while len(self.keys[side]) < LEVELS_MIN:
                best = self.keys[1 - side][-1]
                tick = math.floor(fair) if side == BID else math.ceil(fair)
                # Wide enough for LEVELS_MIN different ticks, whatever the tick is worth.
                step = int(max(self._scale, 3 * LEVELS_MIN) * self._random.random())
                tick = min(tick, -best) - 1 - step if side == BID else max(tick, best) + 1 + step
                if tick < 1:
                    break
                self._set(side, tick, self._lots())

    def _pass_through(self, side: int, fair: float, time_ns: int) -> None:
        """Clear the resting orders of `side` that the fair price has passed: the best are taken, the rest withdrawn."""
        keys = self.keys[side]
        book = self.book[side]
        taken = self._random.randrange(1, SWEPT_LEVELS_MAX + 1)
        while len(keys) > 1:
            tick = abs(keys[-1])
            if tick > fair if side == ASK else tick < fair:
                break
            if taken:
                taken -= 1
                self._fill_level(tick, book[tick], time_ns, side == BID)
            self._set(side, tick, 0)
        # The other side follows, so that the spread stays some ticks wide.
        other = 1 - side
        distance = 1 + int(self._near * self._random.random() * 2)
        tick = math.floor(fair) - distance if other == BID else math.ceil(fair) + distance
        tick = min(tick, -keys[-1] - 1) if other == BID else max(tick, keys[-1] + 1)
        if tick > 0:
            self._set(other, tick, self._lots())

    def _market_order(self, side: int, time_ns: int) -> None:
        """Take from the best levels of `side`."""
        keys = self.keys[side]
        book = self.book[side]
        wanted = self._lots()
        tick = lots = 0
        for _ in range(SWEPT_LEVELS_MAX):
            tick = abs(keys[-1])
            lots = min(wanted, book[tick])
            self._fill_level(tick, lots, time_ns, side == BID)
            self._set(side, tick, book[tick] - lots)
            wanted -= lots
            if wanted <= 0 or len(keys) < 2:
                break
        if self._liquidations and self._random.random() < self._liquidations:
            filled = sum(trade[2] for trade in self.trades)
            quote = sum(trade[1] * trade[2] for trade in self.trades)
            reach = max(1, int(self._scale))  # the order's limit is the bankruptcy price, beyond what it got
            limit = max(1, tick - reach) if side == BID else tick + reach
            self.liquidation = (filled, quote, limit, time_ns, side == BID)
        if self._off_book and self._random.random() < self._off_book:
            self._print(tick, 1 + lots // 2, time_ns, side == BID, off_book=True)

    def _fill_level(self, tick: int, lots: int, time_ns: int, buyer_is_maker: bool) -> None:
        """Print one to three trades at one price, one for each resting order that is hit, and their aggregate."""
        orders = 1
        if lots > 3:
            orders = 1 + int(self._random.random() ** 2 * 3)
        left = lots
        for order in range(orders, 0, -1):
            part = left if order == 1 else self._random.randrange(1, left - order + 2)
            self._print(tick, part, time_ns, buyer_is_maker)
            left -= part
        self._aggregate(orders)

    def _print(self, tick: int, lots: int, time_ns: int, buyer_is_maker: bool, off_book: bool = False) -> None:
        self.trade_id += 1
        trade = (self.trade_id, tick, lots, time_ns, buyer_is_maker, off_book)
        self.trades.append(trade)
        self.history.append(trade)
        if not off_book:
            self.tape.add(self.trade_id, tick, lots, time_ns, buyer_is_maker)

    def _aggregate(self, orders: int) -> None:
        """Join the last `orders` trades, which share price and side."""
        parts = self.trades[-orders:]
        self.agg_id += 1
        lots = sum(part[2] for part in parts)
        aggregate = (self.agg_id, parts[0][1], lots, parts[0][0], parts[-1][0], parts[0][3], parts[0][4])
        self.aggregates.append(aggregate)
        self.history_agg.append(aggregate)
