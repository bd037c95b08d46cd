"""What other producers state about prices and positions: it values what no feed collects, and is compared with ours.

Claims change nothing here. They are kept beside our figures, and the difference is a metric.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from ...codecs.desk.canonical import TOPICS, MarketData, PositionUpdate, Risk
from ...codecs.desk.records import STATEMENT, TEXTS
from ...ringbuf import ByteRingReader, RingError, StreamReader, bytes_filename
from ..recent import topic_actor

log = logging.getLogger(__name__)

PRODUCERS = {
    topic_actor(topic): msgspec.json.Decoder(kind).decode
    for topic, kind in TOPICS.items()
    if kind in (Risk, MarketData, PositionUpdate)
}
READ_MAX = 4096
LOOK_BACK = 1024  # statements read at the start


class Statements:
    """The `statement` streams that matter here, read now and then; what was missed is told again soon.

    Args:
        price: takes a symbol's price: ``(symbol, price in units of 1e-8, event time, at the latest its receipt)``.
        claim: takes the quantity of a position: ``(account, strategy, symbol, quantity in units of 1e-8, event time)``.
    """

    def __init__(
        self, folder: Path, price: Callable[[str, int, int], None], claim: Callable[[str, str, str, int, int], None]
    ) -> None:
        self.folder, self._price, self._claim = folder, price, claim
        self._readers: dict[str, tuple[StreamReader, ByteRingReader, int]] = {}
        self._cursors: dict[str, int] = {}
        self.unreadable = 0  # of another version, or damaged
        self._claimed: dict[tuple[str, str], set[str]] = {}  # account and strategy -> symbols of the last claims

    def refresh(self) -> None:
        """Attach what is new or was made anew."""
        for producer in PRODUCERS:
            path = self.folder / f"{producer}.{STATEMENT.name}.ring"
            try:
                inode = path.stat().st_ino
            except FileNotFoundError:
                inode = 0
            known = self._readers.get(producer)
            if known is not None and known[2] != inode:
                self._leave(producer)
                known = None
            if known is None and inode:
                try:
                    reader = StreamReader(self.folder, producer, STATEMENT.name, STATEMENT.dtype, STATEMENT.fingerprint)
                    try:
                        texts = ByteRingReader(self.folder / bytes_filename(producer, TEXTS))
                    except BaseException:
                        reader.close()
                        raise
                except RingError as error:
                    log.debug("producer=%s not yet: %s", producer, error)
                    continue
                self._readers[producer] = reader, texts, inode
                self._cursors[producer] = max(0, reader.published() - LOOK_BACK)

    def _leave(self, producer: str) -> None:
        reader, texts, _ = self._readers.pop(producer)
        reader.close()
        texts.close()

    def read(self) -> None:
        """Take what is new."""
        for producer, (reader, texts, _) in self._readers.items():
            if reader.published() == self._cursors[producer]:
                continue
            rows, self._cursors[producer], _ = reader.read(self._cursors[producer], READ_MAX)
            columns = (rows[name].tolist() for name in ("text_at", "text_size", "ts_recv_ns"))
            for at, size, recv_ns in zip(*columns, strict=True):
                text = texts.read(at, size)
                if text is None:
                    continue
                try:
                    event = PRODUCERS[producer](text)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    self.unreadable += 1
                    log.debug("producer=%s statement unreadable: %s", producer, error)
                    continue
                self._take(event, recv_ns)

    def _take(self, event: object, recv_ns: int) -> None:
        # A producer's clock may be ahead: a price of the future would stand until then.
        if isinstance(event, MarketData):
            price = (event.bid + event.ask) // 2 if event.bid and event.ask else event.price
            self._price(event.symbol, price, min(event.timestamp, recv_ns))
        elif isinstance(event, PositionUpdate) and event.current_price:
            self._price(event.symbol, event.current_price, min(event.timestamp, recv_ns))
        elif isinstance(event, Risk):
            self._take_positions(event)

    def _take_positions(self, risk: Risk) -> None:
        """An event that lists positions, or says that there are none, tells of all that its strategy holds."""
        count = risk.num_positions if risk.num_positions is not None else risk.current_positions
        if not risk.positions and count != 0:
            return  # its variant lists none
        who = risk.account_id, risk.strategy_id
        before = self._claimed.get(who, set())
        now = {position.symbol for position in risk.positions}
        for position in risk.positions:
            side = position.side or position.position_side or "LONG"
            quantity = -abs(position.quantity) if side == "SHORT" else position.quantity
            self._claim(*who, position.symbol, quantity, risk.timestamp)
        for symbol in before - now:
            self._claim(*who, symbol, 0, risk.timestamp)
        self._claimed[who] = now

    def close(self) -> None:
        for producer in list(self._readers):
            self._leave(producer)
