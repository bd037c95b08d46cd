"""Streams of the desk as its actors write them, made by hand: for tests of what reads them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tickring.codecs.desk.canonical import VARIANTS, Alert, Event, Fill
from tickring.codecs.desk.money import amount_bytes
from tickring.codecs.desk.records import (
    ALERT_STATE,
    DEAD_LETTER,
    EVENT,
    FILL,
    NO_KEY,
    PNL,
    POSITION,
    STATEMENT,
    TEXTS,
    VARIANT_SHIFT,
)
from tickring.codecs.record import Flag, RecordType
from tickring.ringbuf import (
    ByteRingWriter,
    KeyWriter,
    StreamWriter,
    bytes_filename,
    create_byte_ring,
    create_keys,
    create_stream,
    keys_filename,
)

TEXTS_BYTES = 1 << 22


class DeskProducer:
    """One actor of the desk: its key directory, byte ring and streams."""

    def __init__(
        self, folder: Path, name: str, records: Sequence[RecordType], *, capacity: int = 1 << 12, keys_max: int = 32,
        doorbells: Sequence[int] = (), texts_bytes: int = TEXTS_BYTES,
    ) -> None:  # fmt: skip
        now = time.time_ns()
        self.folder, self.name = folder, name
        create_byte_ring(folder / bytes_filename(name, TEXTS), texts_bytes, now)
        if not (folder / keys_filename(name)).exists():
            create_keys(folder / keys_filename(name), keys_max)
        self.texts = ByteRingWriter(folder / bytes_filename(name, TEXTS))
        self.keys = KeyWriter(folder / keys_filename(name))
        self.writers: dict[str, StreamWriter] = {}
        self.publish: dict[str, Any] = {}
        for record in records:
            spec = record.spec(name, capacity=capacity, keys_max=keys_max)
            create_stream(folder, spec, now)
            writer = self.writers[record.name] = StreamWriter(folder, spec, doorbells, now)
            self.publish[record.name] = writer.publisher(record.struct, record.values)

    def key(self, text: str, **attributes: str) -> int:
        key_id = self.keys.add(text, attributes)
        for writer in self.writers.values():
            writer.add_key(key_id)
        return key_id

    def _text(self, value: Any) -> tuple[int, int]:
        body = msgspec.json.encode(value)
        return self.texts.append(body), len(body)

    def close(self) -> None:
        for part in (*self.writers.values(), self.texts, self.keys):
            part.close()


class Topic(DeskProducer):
    """The actor of a topic."""

    RECORDS = (EVENT, FILL, STATEMENT, DEAD_LETTER)

    def __init__(self, folder: Path, topic: str, **options: Any) -> None:
        super().__init__(folder, "topic-" + topic.replace(".", "-"), self.RECORDS, **options)
        self.topic = topic
        self.key(topic, topic=topic)
        self.offset = 0

    def account(self, account_id: str) -> int:
        return self.key(f"account:{account_id}", topic=self.topic, account_id=account_id)

    def raw(self, value: bytes, *, key: bytes | None = None, flags: int = 0, partition: int = 0) -> int:
        """A raw event; returns its offset."""
        offset, self.offset = self.offset, self.offset + 1
        at = self.texts.append((key or b"") + value)
        self.publish["event"](
            0, time.time_ns(), 0, flags, offset, time.time_ns() // 1_000_000, at, partition,
            NO_KEY if key is None else len(key), len(value),
        )  # fmt: skip
        return offset

    def fill(
        self, fill: Fill, *, flags: int = 0, variant: str = "api", recv_ns: int | None = None,
        place: tuple[int, int, int] | None = None,
    ) -> None:  # fmt: skip
        """Publish a fill of an event of its own, or of the place (partition, offset, item) that is given."""
        partition, offset, item = place or (0, self.offset, 0)
        at, size = self._text(fill)
        bits = flags | VARIANTS.index(variant) << VARIANT_SHIFT | (int(Flag.SELL) if fill.side == "SELL" else 0)
        self.publish["fill"](
            self.account(fill.account_id), recv_ns or time.time_ns(), fill.timestamp, bits,
            amount_bytes(fill.quantity), amount_bytes(fill.price), amount_bytes(fill.commission), offset, at, size,
            partition, item,
        )  # fmt: skip
        self.offset += place is None

    def say(self, event: Event, account: str = "default", *, flags: int = 0, recv_ns: int | None = None) -> None:
        """Publish what an event says."""
        at, size = self._text(event)
        bits = flags | VARIANTS.index(event.variant) << VARIANT_SHIFT
        self.publish["statement"](
            self.account(account), recv_ns or time.time_ns(), event.timestamp, bits, self.offset, at, size, 0, 0
        )
        self.offset += 1


class Portfolio(DeskProducer):
    """The portfolio: positions and PnL as given. Values by field name; amounts in units of 1e-8."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, "portfolio", (POSITION, PNL), **options)

    def position(self, account: str, strategy: str, venue: str, symbol: str, **values: Any) -> None:
        key_id = self.key(
            f"position:{account}|{strategy}|{venue}|{symbol}",
            account_id=account, strategy_id=strategy, venue=venue, symbol=symbol,
        )  # fmt: skip
        self._put(POSITION, key_id, values)

    def pnl(self, account: str, strategy: str = "ALL", symbol: str = "ALL", **values: Any) -> None:
        key_id = self.key(f"pnl:{account}|{strategy}|{symbol}", account_id=account, strategy_id=strategy, symbol=symbol)
        self._put(PNL, key_id, values)

    def _put(self, record: RecordType, key_id: int, values: Mapping[str, Any]) -> None:
        unknown = values.keys() - {field.name for field in record.fields}
        assert not unknown, f"no such fields: {unknown}"
        row = [
            amount_bytes(values.get(field.name, 0)) if field.kind.name == "amount" else values.get(field.name, 0)
            for field in record.fields
        ]
        now = time.time_ns()
        self.publish[record.name](key_id, now, now, 0, *row)


class Alerts(DeskProducer):
    """The alerts actor."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, "alerts", (ALERT_STATE,), **options)

    def put(self, alert: Alert) -> None:
        account = alert.account_id or "default"
        at, size = self._text(alert)
        key_id = self.key(f"account:{account}", account_id=account)
        self.publish["alert"](key_id, time.time_ns(), alert.timestamp, 0, at, size)
