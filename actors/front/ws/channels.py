"""The channels of market data, one declaration each: what a channel carries and how it treats its readers.

What a channel's frames say follows from its record's own declaration.
"""

from __future__ import annotations

from dataclasses import dataclass

from ....codecs.desk import records as desk
from ....codecs.record import RecordType
from ....codecs.records import (
    BOOK_DEPTH,
    BOOK_LEVEL,
    BOOK_TOP,
    BY_NAME,
    FUNDING,
    KLINE,
    KLINE_OPEN,
    LIQUIDATION,
    MARK_PRICE,
    OPEN_INTEREST,
    QUOTE,
    TICKER,
    TRADE,
)
from .outbox import Delivery

RECORDS: dict[str, RecordType] = {**BY_NAME, **desk.BY_NAME}


@dataclass(frozen=True)
class Channel:
    """One kind of channel; there is a channel of it for each key of its record.

    Attributes:
        kind: first part of the channels' names.
        record: whose records are sent, and whose numbers are the channel's.
        snapshot_rows: newest records that a snapshot shows; 0 = there is no snapshot.
        cadence_ms: least time between two frames where the client says nothing; 0 = each change.
        companions: further records that a snapshot needs, of the same producer and keys; the first must be there.
    """

    kind: str
    record: RecordType
    delivery: Delivery
    snapshot_rows: int = 1
    cadence_ms: int = 0
    companions: tuple[RecordType, ...] = ()

    @property
    def has_interval(self) -> bool:
        """Whether there is one for each interval of an instrument."""
        return any(name == "interval" for name, _, _ in self.record.key_columns)


BOOK = "book"
KLINE_KIND = "kline"
CHANNELS: dict[str, Channel] = {
    channel.kind: channel
    for channel in (
        Channel("trades", TRADE, Delivery.ORDERED, snapshot_rows=50),
        Channel("quote", QUOTE, Delivery.CONFLATING),
        Channel(BOOK, BOOK_LEVEL, Delivery.REBUILDABLE, companions=(BOOK_TOP, BOOK_DEPTH)),
        Channel("ticker", TICKER, Delivery.CONFLATING, cadence_ms=1000),
        # The open bar at each change. Its last record says that it is closed: it goes out at once and is not dropped.
        Channel(
            KLINE_KIND, KLINE_OPEN, Delivery.CONFLATING, snapshot_rows=2, cadence_ms=250, companions=(KLINE,)
        ),
        Channel("mark_price", MARK_PRICE, Delivery.CONFLATING),
        Channel("funding", FUNDING, Delivery.CONFLATING),
        Channel("open_interest", OPEN_INTEREST, Delivery.CONFLATING),
        Channel("liquidation", LIQUIDATION, Delivery.ORDERED, snapshot_rows=0),
    )
}  # fmt: skip
ALIASES = {"funding_rate": "funding", "klines": KLINE_KIND, "candles": KLINE_KIND, "orderbook": BOOK}
