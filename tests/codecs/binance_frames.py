"""Binance frames composed for tests, and the pieces around a decoder that tests look into."""

from __future__ import annotations

import json
from typing import Any

from tickring.codecs.binance.decoder import BinanceDecoder
from tickring.codecs.sink import NoHooks, Reason
from tickring.codecs.symbols import Instrument

from .list_sink import LevelsRow, ListSink, QuoteRow, TradeRow

TIME_MS = 1_790_000_000_000
RECV_NS = 1_790_000_000_123_456_789


def frame(stream: str, data: dict[str, Any]) -> bytes:
    return compact({"stream": stream, "data": data})


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def spot_trade(number: int, price: str = "100.50000000", **changes: Any) -> dict[str, Any]:
    return {
        "e": "trade", "E": TIME_MS + 1, "s": "ABCUSDT", "t": number, "p": price, "q": "0.25000000", "T": TIME_MS,
        "m": True, "M": True, **changes,
    }  # fmt: skip


def usdm_trade(number: int, price: str = "100.50", **changes: Any) -> dict[str, Any]:
    return {
        "e": "trade", "E": TIME_MS + 1, "T": TIME_MS, "s": "ABCUSDT", "t": number, "p": price, "q": "0.250",
        "X": "MARKET", "m": False, "st": 1, **changes,
    }  # fmt: skip


def aggregate(number: int, price: str = "100.50", **changes: Any) -> dict[str, Any]:
    return {
        "e": "aggTrade", "E": TIME_MS + 1, "a": number, "s": "ABCUSDT", "p": price, "q": "0.250", "nq": "0.200",
        "f": number * 3, "l": number * 3 + 2, "T": TIME_MS, "m": False, "st": 1, **changes,
    }  # fmt: skip


def spot_quote(number: int, **changes: Any) -> dict[str, Any]:
    return {"u": number, "s": "ABCUSDT", "b": "100.40000000", "B": "7.00000000", "a": "100.60000000",
            "A": "5.00000000", **changes}  # fmt: skip


def usdm_quote(number: int, **changes: Any) -> dict[str, Any]:
    return {"e": "bookTicker", "u": number, "s": "ABCUSDT", "ps": "ABCUSDT", "b": "100.40", "B": "7.000",
            "a": "100.60", "A": "5.000", "T": TIME_MS, "E": TIME_MS + 1, "st": 1, **changes}  # fmt: skip


def spot_depth(first: int, last: int, bids: Any = (), asks: Any = (), **changes: Any) -> dict[str, Any]:
    return {"e": "depthUpdate", "E": TIME_MS + 1, "s": "ABCUSDT", "U": first, "u": last, "b": list(bids),
            "a": list(asks), **changes}  # fmt: skip


def usdm_depth(first: int, last: int, previous: int, bids: Any = (), asks: Any = (), **changes: Any) -> dict[str, Any]:
    return {"e": "depthUpdate", "E": TIME_MS + 1, "T": TIME_MS, "s": "ABCUSDT", "U": first, "u": last, "pu": previous,
            "b": list(bids), "a": list(asks), "ps": "ABCUSDT", "st": 1, **changes}  # fmt: skip


def instrument(native: str = "ABCUSDT", product: str = "spot", **changes: Any) -> Instrument:
    kind = {"spot": "spot"}.get(product, "perpetual")
    return Instrument(
        exchange="binance", product=product, native=native, base=native.removesuffix("USDT"), quote="USDT",
        market_type=kind, **changes,
    )  # fmt: skip


class Notes(NoHooks):
    """Hooks that note every call."""

    def __init__(self) -> None:
        self.wanted: list[int] = []
        self.gaps: list[tuple[int, str, int, int]] = []
        self.rejects: list[tuple[Reason, bytes]] = []
        self.controls: list[dict[str, Any]] = []
        self.shutdowns: list[int] = []

    def want_snapshot(self, key_id: int) -> None:
        self.wanted.append(key_id)

    def on_gap(self, key_id: int, kind: str, first_missing: int, last_missing: int) -> None:
        self.gaps.append((key_id, kind, first_missing, last_missing))

    def on_reject(self, reason: Reason, frame: bytes) -> None:
        self.rejects.append((reason, frame))

    def on_control(self, message: dict[str, Any]) -> None:
        self.controls.append(message)

    def on_shutdown(self, ts_event_ns: int) -> None:
        self.shutdowns.append(ts_event_ns)


class Bench:
    """A decoder with one or more instruments, its sink and its hooks."""

    def __init__(self, product: str = "spot", natives: tuple[str, ...] = ("ABCUSDT",), **options: Any) -> None:
        self.sink, self.notes = ListSink(), Notes()
        self.decoder = BinanceDecoder(product, self.sink, self.notes, **options)
        for key_id, native in enumerate(natives):
            self.decoder.add(instrument(native, product), key_id)

    def feed(self, *frames: bytes) -> list[Any]:
        """Feed frames; the records they gave."""
        before = len(self.sink.rows)
        for one in frames:
            self.decoder.on_frame(one, RECV_NS)
        return self.sink.rows[before:]

    def reasons(self) -> list[Reason]:
        return [reason for reason, _ in self.notes.rejects]


__all__ = ["Bench", "LevelsRow", "ListSink", "Notes", "QuoteRow", "TradeRow"]
