"""What a decoder calls: where its records go, and what it has to say beside them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from .book import Level, OrderBook


class Reason(StrEnum):
    """Why a frame was refused. Closed: it labels a counter."""

    OVERSIZED = "oversized"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_EVENT = "not_event"  # JSON, but no form the exchange sends
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    BAD_NUMBER = "bad_number"  # not a plain decimal, not finite, or outside what the field can be
    INCONSISTENT = "inconsistent"  # fields or stream name contradict one another
    UNKNOWN_SYMBOL = "unknown_symbol"
    UNKNOWN_STREAM = "unknown_stream"
    UNKNOWN_EVENT = "unknown_event"


class Sink(Protocol):
    """Takes records. Times are UNIX ns; `flags` are `Flag` bits; the calls must not keep the lists they are given."""

    # (key_id, ts_recv_ns, ts_event_ns, flags, trade_id, price, quantity, first_trade_id, last_trade_id,
    #  quantity_ex_rpi)
    trade: Callable[[int, int, int, int, int, float, float, int, int, float], Any]
    # (key_id, ts_recv_ns, ts_event_ns, flags, bid, bid_qty, ask, ask_qty)
    quote: Callable[[int, int, int, int, float, float, float, float], Any]

    # Each of the next: (key_id, ts_recv_ns, ts_event_ns, flags, *values), values as the record type declares them; of
    # a bar the interval comes before them, and its key is that of the instrument.
    kline: Callable[..., Any]
    ticker: Callable[..., Any]
    mark_price: Callable[..., Any]
    funding: Callable[..., Any]
    liquidation: Callable[..., Any]

    def levels(
        self, key_id: int, ts_recv_ns: int, ts_event_ns: int, flags: int, update_id: int,
        bids: list[Level], asks: list[Level],
    ) -> None:  # fmt: skip
        """The levels of one event or snapshot that was applied to the book, in the exchange's order."""
        ...

    def book(self, key_id: int, ts_recv_ns: int, ts_event_ns: int, book: OrderBook) -> None:
        """The book after an event was applied, or after its state changed (`ts_event_ns` 0)."""
        ...


class Hooks(Protocol):
    """What a decoder asks for and reports. None of the calls may raise or call the decoder back."""

    def want_snapshot(self, key_id: int) -> None:
        """Fetch the order book of this instrument and pass it to `on_snapshot`. Called once until it was passed."""
        ...

    def on_gap(self, key_id: int, kind: str, first_missing: int, last_missing: int) -> None:
        """Ids that the exchange sent and we did not get: `kind` is `trade`, `aggregate` or `depth`."""
        ...

    def on_reject(self, reason: Reason, frame: bytes) -> None:
        """A frame that gave no record. Called for every one; how many are logged is up to the callee."""
        ...

    def on_control(self, message: dict[str, Any]) -> None:
        """An answer to a control frame (`{"result", "id"}`), or an error (`{"code", "msg"}`, `{"error"}`)."""
        ...

    def on_shutdown(self, ts_event_ns: int) -> None:
        """The exchange will close this connection: open another one now."""
        ...


class NoHooks:
    """Hooks that do nothing; to be inherited from."""

    def want_snapshot(self, key_id: int) -> None: ...

    def on_gap(self, key_id: int, kind: str, first_missing: int, last_missing: int) -> None: ...

    def on_reject(self, reason: Reason, frame: bytes) -> None: ...

    def on_control(self, message: dict[str, Any]) -> None: ...

    def on_shutdown(self, ts_event_ns: int) -> None: ...
