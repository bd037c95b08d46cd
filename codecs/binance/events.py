"""Events that come a few times a second at most: bars, 24 h tickers, mark prices, liquidations.

Fields: spot page of 2026-07-21 and USD-M pages of 2026-08-19 (see `wire`). They are decoded by shape too, and end in a
`take` here, which also takes what the exact reading gives. Their shapes have no digits, so whatever digits can spoil is
left to the typed decoding (a number without any, a leading zero) and to `take` (ranges, a product's `st`, an interval,
digits of a symbol, the order of prices).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from ..klines import INTERVALS
from ..record import Flag
from ..records import LIQUIDATION_STATUSES
from ..sink import Sink
from .wire import INT64_MAX, Product, Quantity, TimeUnit

MS = 1_000_000
HOUR_MS = 3_600_000
# A payment counts as seen where the rate was last told at most so long before it: markPrice comes every 3 s.
SETTLEMENT_SEEN_NS = 30_000_000_000
_CLOSED, _SELL, _SETTLED = int(Flag.CLOSED), int(Flag.SELL), int(Flag.SETTLED)
_INTERVAL_MARKS = {interval: f'@kline_{interval}"'.encode() for interval in INTERVALS}
# `X` of an order; what is not here is `pending`.
_STATUSES = {
    word: LIQUIDATION_STATUSES.index(status)
    for word, status in (
        ("FILLED", "filled"), ("PARTIALLY_FILLED", "partially_filled"), ("CANCELED", "cancelled"),
        ("EXPIRED", "cancelled"), ("EXPIRED_IN_MATCH", "cancelled"), ("REJECTED", "cancelled"),
    )
}  # fmt: skip
_PENDING = LIQUIDATION_STATUSES.index("pending")

NO_ST = -1


class _KlineBar(msgspec.Struct, gc=False):
    t: int
    T: int
    s: str
    i: str
    o: Quantity
    c: Quantity
    h: Quantity
    l: Quantity  # noqa: E741 - the exchange's name
    v: Quantity
    n: int
    x: bool
    q: Quantity
    V: Quantity
    Q: Quantity


class KlineEvent(msgspec.Struct, gc=False):
    """``<symbol>@kline_<interval>``: the open bar each 250 ms or 2 s, the closed one once."""

    E: int
    s: str
    k: _KlineBar
    st: int = NO_ST


class TickerEvent(msgspec.Struct, gc=False):
    """``<symbol>@ticker``: each second or two. Futures send no best prices."""

    E: int
    s: str
    c: Quantity
    o: Quantity
    h: Quantity
    l: Quantity  # noqa: E741
    v: Quantity
    q: Quantity
    P: float
    n: int
    b: Quantity = 0.0
    a: Quantity = 0.0
    st: int = NO_ST


class MarkPriceEvent(msgspec.Struct, gc=False):
    """``<symbol>@markPrice[@1s]``. Dated futures send no rate (``"r":""``, ``"T":0``) and take the exact reading."""

    E: int
    s: str
    p: Quantity
    T: int
    r: float
    i: Quantity = 0.0
    P: Quantity = 0.0
    st: int = NO_ST


class _Order(msgspec.Struct, gc=False):
    s: str
    S: str
    q: Quantity
    p: Quantity
    ap: Quantity
    X: str
    z: Quantity
    T: int


class LiquidationEvent(msgspec.Struct, gc=False):
    """``<symbol>@forceOrder``: of a symbol's liquidations in one second only the latest."""

    E: int
    o: _Order
    st: int = NO_ST

    @property
    def s(self) -> str:
        return self.o.s


EVENTS: dict[str, Any] = {
    "kline": KlineEvent, "24hrTicker": TickerEvent, "markPriceUpdate": MarkPriceEvent, "forceOrder": LiquidationEvent,
}  # fmt: skip


@dataclass(frozen=True)
class Context:
    """What all streams of a decoder share."""

    sink: Sink
    product: Product
    unit: TimeUnit
    flags: int  # on every record

    def is_time(self, value: int) -> bool:
        return type(value) is int and 0 < value <= INT64_MAX // self.unit.ns

    def is_ours(self, st: int) -> bool:
        return st == NO_ST or self.product.st is None or st == self.product.st


class Stream:
    """One kind of event of one instrument: takes its events in order."""

    __slots__ = ("context", "duplicates", "key_id", "native", "newest", "overlapping")
    initial: ClassVar[Any] = 0

    def __init__(self, native: str, key_id: int, context: Context) -> None:
        self.native = native
        self.key_id = key_id
        self.context = context
        self.newest: Any = self.initial  # what tells a duplicate: the event's place in its stream
        self.duplicates = 0
        self.overlapping = False  # two sockets deliver the same stream

    def take(self, x: Any, frame: bytes, ts_recv_ns: int) -> bool:
        """Make the event's records; False when it must be read exactly, to be refused with its reason.

        Args:
            x: one of the structs above, or the same names as the exact reading gives them.
            frame: that it came in.
        """
        raise NotImplementedError

    def _again(self, place: Any) -> bool:
        """Whether the other of two sockets brought this event before. On a single one the exchange's word counts."""
        if self.overlapping and place <= self.newest:
            self.duplicates += 1
            return True
        self.newest = place
        return False


class Bars(Stream):
    """The bars of one instrument, all intervals."""

    __slots__ = ()

    def __init__(self, native: str, key_id: int, context: Context) -> None:
        super().__init__(native, key_id, context)
        self.newest: dict[str, tuple[int, int, bool]] = {}

    def take(self, x: Any, frame: bytes, ts_recv_ns: int) -> bool:
        bar, context = x.k, self.context
        mark = _INTERVAL_MARKS.get(bar.i)
        if mark is None or (mark not in frame and b"@kline_" in frame) or not is_bar(x, bar, self.native):
            return False
        if not (context.is_time(x.E) and context.is_time(bar.t) and context.is_time(bar.T) and context.is_ours(x.st)):
            return False
        place = (bar.t, x.E, bar.x)
        if self.overlapping and place <= self.newest.get(bar.i, ()):
            self.duplicates += 1
            return True
        self.newest[bar.i] = place
        scale = context.unit.ns
        context.sink.kline(
            self.key_id, ts_recv_ns, x.E * scale, context.flags | _CLOSED if bar.x else context.flags, bar.i,
            bar.t * scale // MS, bar.T * scale // MS, bar.o, bar.h, bar.l, bar.c, bar.v, bar.q, bar.n, bar.V, bar.Q,
        )  # fmt: skip
        return True


def is_bar(x: Any, bar: Any, native: str) -> bool:
    """Whether a bar makes sense: the symbol is the event's, prices and times are in order."""
    low, high = bar.l, bar.h
    in_order = bar.t < bar.T and low <= bar.o <= high and low <= bar.c <= high
    return bar.s == native and in_order and 0 <= bar.n <= INT64_MAX


class Tickers(Stream):
    """The 24 h statistics of one instrument."""

    __slots__ = ()

    def take(self, x: Any, frame: bytes, ts_recv_ns: int) -> bool:
        context = self.context
        if not (context.is_time(x.E) and context.is_ours(x.st) and 0 <= x.n <= INT64_MAX):
            return False
        if not self._again(x.E):
            context.sink.ticker(
                self.key_id, ts_recv_ns, x.E * context.unit.ns, context.flags,
                x.c, x.o, x.h, x.l, x.v, x.q, x.P, x.b, x.a, x.n,
            )  # fmt: skip
        return True


class Marks(Stream):
    """The mark price of one instrument, and its funding: a record when rate or time change, and when it was paid.

    The rate of a payment is the last one told before it; where none was told shortly before, there is no record of the
    payment, and the exchange's history has it.
    """

    __slots__ = ("_at_ns", "_index", "_interval_h", "_mark", "_next", "_rate")

    def __init__(self, native: str, key_id: int, context: Context) -> None:
        super().__init__(native, key_id, context)
        self._rate, self._next, self._interval_h = 0.0, 0, 0
        self._mark = self._index = 0.0
        self._at_ns = 0

    def take(self, x: Any, frame: bytes, ts_recv_ns: int) -> bool:
        context = self.context
        if not (context.is_time(x.E) and context.is_ours(x.st) and 0 <= x.T <= INT64_MAX // context.unit.ns):
            return False
        if self._again(x.E):
            return True
        at_ns, sink = x.E * context.unit.ns, context.sink
        sink.mark_price(self.key_id, ts_recv_ns, at_ns, context.flags, x.p, x.i, x.P)
        coming = x.T * context.unit.ns // MS
        if coming and (x.r != self._rate or coming != self._next):
            if self._next and coming > self._next:
                self._paid(ts_recv_ns, coming)
            sink.funding(self.key_id, ts_recv_ns, at_ns, context.flags, x.r, 0.0, coming, self._interval_h, x.p, x.i)
            self._rate, self._next = x.r, coming
        self._mark, self._index, self._at_ns = x.p, x.i, at_ns
        return True

    def _paid(self, ts_recv_ns: int, coming: int) -> None:
        due_ns = self._next * MS
        if coming - self._next <= 24 * HOUR_MS:
            self._interval_h = round((coming - self._next) / HOUR_MS)
        if due_ns - self._at_ns <= SETTLEMENT_SEEN_NS:
            self.context.sink.funding(
                self.key_id, ts_recv_ns, due_ns, self.context.flags | _SETTLED,
                self._rate, 0.0, coming, self._interval_h, self._mark, self._index,
            )  # fmt: skip


class Liquidations(Stream):
    """Liquidation orders of one instrument."""

    __slots__ = ()
    initial = ()

    def take(self, x: Any, frame: bytes, ts_recv_ns: int) -> bool:
        order, context = x.o, self.context
        if not (context.is_time(x.E) and context.is_time(order.T) and context.is_ours(x.st)):
            return False
        if order.S not in ("BUY", "SELL"):
            return False
        if not self._again((x.E, order.T)):
            filled, average = order.z, order.ap
            factors = (filled, average) if filled and average else (order.q, order.p)
            notional = float(Decimal(repr(factors[0])) * Decimal(repr(factors[1])))
            context.sink.liquidation(
                self.key_id, ts_recv_ns, order.T * context.unit.ns,
                context.flags | _SELL if order.S == "SELL" else context.flags,
                0, order.p, order.q, filled, average, notional, _STATUSES.get(order.X, _PENDING),
            )  # fmt: skip
        return True


STREAMS: Mapping[str, type[Stream]] = {
    "kline": Bars, "24hrTicker": Tickers, "markPriceUpdate": Marks, "forceOrder": Liquidations,
}  # fmt: skip
