"""Streams that go by the clock: bars, 24 h tickers and mark prices, each at the exchange's own pace.

Cadences: Binance spot "WebSocket Streams" and USD-M "Websocket Market Streams", read 2026-11. A bar or ticker is sent
when something has changed since the last time; recorded streams send the closing bar 70 to 430 ms after the minute.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Protocol

from .config import SPOT
from .history import OPEN_MS
from .hub import Stream
from .reports import Reports
from .tape import bar_start, bar_stop
from .wire import MS, US

SPOT_KLINE_NS = 2_000 * MS
USDM_KLINE_NS = 250 * MS
CLOSING_LAG_NS = 80 * MS

Writer = Callable[[int, int], bytes]  # (time in ns, unit of time) -> message
# What writes a market's message, and what tells from the time whether there is anything new to write: 0 = nothing yet.
Entry = tuple[Writer, Callable[[int], int]]


def next_tick(time_ns: int, interval_ns: int, phase_ns: int = 0) -> int:
    """Return the first moment after `time_ns` that is `phase_ns` into an interval."""
    return ((time_ns - phase_ns) // interval_ns + 1) * interval_ns + phase_ns


class Clocked(Protocol):
    """A stream that the clock calls."""

    stream: Stream

    def begin(self, time_ns: int) -> int:
        """Take `time_ns` as the beginning; return when to come back."""
        ...

    def fire(self, time_ns: int) -> int:
        """Send what is due at `time_ns`; return when to come back."""
        ...

    def settle(self, time_ns: int) -> None:
        """Send what has changed, whatever the time."""
        ...


class KlineStream:
    """Bars of one length: the open one while trades change it, the closed one when its time is over."""

    def __init__(self, stream: Stream, reports: Reports, phase_ns: int) -> None:
        self.stream = stream
        self._reports = reports
        self._phase_ns = phase_ns
        self._tape = reports.market.tape
        self._interval = stream.name.interval
        self._cadence_ns = SPOT_KLINE_NS if stream.hub.product == SPOT else USDM_KLINE_NS
        self._start_ms = 0  # of the open bar
        self._sent = 0  # trade that was the last one when the open bar was last sent

    def begin(self, time_ns: int) -> int:
        self._start_ms = bar_start(self._interval, time_ns // MS)
        return min(time_ns + self._phase_ns % self._cadence_ns, self._closing_ns())

    def fire(self, time_ns: int) -> int:
        now_ms = time_ns // MS
        if now_ms >= (stop_ms := bar_stop(self._interval, self._start_ms)):
            self._send(stop_ms - 1, True, time_ns)
            self._start_ms = bar_start(self._interval, now_ms)
            self._sent = 0
        self.settle(time_ns)
        return min(time_ns + self._cadence_ns, self._closing_ns())

    def settle(self, time_ns: int) -> None:
        tape = self._tape
        if tape.last_trade != self._sent and tape.open_row[OPEN_MS] >= self._start_ms:
            self._send(time_ns // MS, False, time_ns)

    def _closing_ns(self) -> int:
        return bar_stop(self._interval, self._start_ms) * MS + CLOSING_LAG_NS

    def _send(self, now_ms: int, closed: bool, time_ns: int) -> None:
        row = self._tape.bar(self._interval, self._start_ms, now_ms)
        self._sent = self._tape.last_trade
        write = self._reports.kline
        micro = write(self._interval, row, closed, time_ns, US) if self.stream.microseconds else None
        self.stream.publish(write(self._interval, row, closed, time_ns), self._start_ms, micro)


class Periodic:
    """One message every `interval_ns` about those markets that have changed; none if none has.

    A stream with a symbol sends its market's message, one without an array of all.
    """

    def __init__(self, stream: Stream, interval_ns: int, entries: list[Entry], phase_ns: int) -> None:
        self.stream = stream
        self._interval_ns = interval_ns
        self._phase_ns = phase_ns
        self._entries = entries
        self._sent: list[object] = [0] * len(entries)

    def begin(self, time_ns: int) -> int:
        return next_tick(time_ns, self._interval_ns, self._phase_ns)

    def fire(self, time_ns: int) -> int:
        self.settle(time_ns)
        return self.begin(time_ns)

    def settle(self, time_ns: int) -> None:
        chosen = []
        for at, (write, state) in enumerate(self._entries):
            now = state(time_ns)
            if now and now != self._sent[at]:
                self._sent[at] = now
                chosen.append(write)
        if chosen:
            micro = self._message(chosen, time_ns, US) if self.stream.microseconds else None
            self.stream.publish(self._message(chosen, time_ns, MS), time_ns // MS, micro)

    def _message(self, writers: list[Writer], time_ns: int, unit: int) -> bytes:
        parts = [write(time_ns, unit) for write in writers]
        return parts[0] if self.stream.name.symbol else b"[" + b",".join(parts) + b"]"


def _entry(kind: str, reports: Reports) -> Entry:
    tape = reports.market.tape
    if kind == "markPrice":
        return lambda time_ns, unit: reports.mark_price(time_ns), lambda time_ns: time_ns
    write = reports.mini_ticker if kind == "miniTicker" else reports.ticker
    return write, lambda time_ns: tape.last_trade


def clocked_stream(stream: Stream, reports: list[Reports], phase_ns: int) -> Clocked:
    """Return the stream's clockwork: about one market, or about all where the name has no symbol.

    `phase_ns` keeps the markets apart, so that not all speak at the same moment.
    """
    name = stream.name
    if name.kind == "kline":
        return KlineStream(stream, reports[0], phase_ns)
    interval_ns = name.interval_ms * MS
    if not name.symbol or name.kind == "markPrice":  # these keep to whole seconds
        phase_ns = 0
    return Periodic(stream, interval_ns, [_entry(name.kind, each) for each in reports], phase_ns % interval_ns)


class Clock:
    """Calls clocked streams in order of time."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, Clocked]] = []
        self._streams: dict[Stream, Clocked] = {}
        self._order = itertools.count()

    def add(self, clocked: Clocked, time_ns: int) -> None:
        """Begin with a stream at `time_ns`; its first message comes within one of its intervals."""
        self._streams[clocked.stream] = clocked
        heapq.heappush(self._due, (clocked.begin(time_ns), next(self._order), clocked))

    def remove(self, stream: Stream) -> None:
        self._streams.pop(stream, None)

    def begin(self, time_ns: int) -> None:
        """Begin with all streams anew: time has only now started to pass."""
        streams = list(self._streams.values())
        self._due.clear()
        for clocked in streams:
            self.add(clocked, time_ns)

    @property
    def due_ns(self) -> int:
        """Time of the next call, or far away."""
        return self._due[0][0] if self._due else 1 << 63

    def fire(self, time_ns: int) -> None:
        """Call the stream that is due next; `time_ns` is the time that it is told."""
        _, _, clocked = heapq.heappop(self._due)
        if self._streams.get(clocked.stream) is clocked:
            heapq.heappush(self._due, (clocked.fire(time_ns), next(self._order), clocked))

    def settle(self, time_ns: int) -> None:
        for clocked in list(self._streams.values()):
            clocked.settle(time_ns)
