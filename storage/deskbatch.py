"""Batches of the desk: what a range of a topic's raw events becomes in the tables.

The rows of the derived tables follow from the raw events, so a range that is read again gives the same rows. They are
sent first and the raw events last: an event in the raw table says that all that follows from it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..codecs.desk.canonical import VARIANTS, Alert, Event
from ..codecs.desk.decoder import Defaults, decoder
from ..codecs.desk.records import ALERT_STATE, EVENT, NO_KEY, VARIANT_SHIFT
from ..codecs.desk.times import TIME_MS_MAX
from ..codecs.errors import Undecidable
from ..codecs.record import Flag
from .batch import Batch, BatchHead, identity_of
from .deskschema import ALERTS, DEAD_LETTERS, DERIVED, RAW_EVENTS, DeskTable, alert_values
from .native import Keys
from .nativerows import encode_rows
from .offsets import Ends

log = logging.getLogger("tickring.storage.deskbatch")

Decode = Callable[[bytes, int, int, int], Event]  # (value, partition, offset, broker's UNIX ms), raises Undecidable
HEADERS_SIZE_BYTES = 4
REFUSED = "refused"  # why an event that can be read is a dead letter: its topic's log has the true reason
Row = tuple[Any, ...]
_UNSTORABLE = (OverflowError, ValueError, TypeError)  # what a value that fits no column raises
_DEAD, _CUT, _HEADERS = int(Flag.DEAD), int(Flag.CUT), int(Flag.HEADERS)
_ROUNDED, _MALFORMED = int(Flag.ROUNDED), int(Flag.MALFORMED)
_decode_headers = msgspec.msgpack.Decoder(list[tuple[str, bytes | None]]).decode
_decode_alert = msgspec.json.Decoder(Alert).decode


@dataclass(frozen=True)
class RawEvents:
    """A range of a topic's events, in the order of its ring.

    `rows` is `(n,)` of `records.EVENT`, `texts` are their bytes.
    """

    topic: str
    stream: str
    epoch: int
    first: int
    rows: np.ndarray
    texts: Sequence[bytes]


class _Origin(NamedTuple):
    """One event: where it comes from, and what it is."""

    partition: int
    offset: int
    broker_ms: int
    flags: int
    ts_event_ns: int
    ts_recv_ns: int
    headers: Sequence[tuple[str, bytes | None]]
    key: bytes | None
    value: bytes


def _origins(raw: RawEvents) -> Iterable[_Origin]:
    names = ("partition", "offset", "timestamp", "flags", "ts_event_ns", "ts_recv_ns", "key_size")
    columns = (raw.rows[name].tolist() for name in names)
    for partition, offset, broker_ms, flags, ts_event_ns, ts_recv_ns, key_size, text in zip(
        *columns, raw.texts, strict=True
    ):
        at, headers = 0, ()
        if flags & _HEADERS:
            at = HEADERS_SIZE_BYTES + int.from_bytes(text[:HEADERS_SIZE_BYTES], "little")
            headers = _decode_headers(text[HEADERS_SIZE_BYTES:at])
        key = None
        if key_size != NO_KEY:
            key, at = text[at : at + key_size], at + key_size
        broker_ms = broker_ms if abs(broker_ms) < TIME_MS_MAX else 0
        yield _Origin(partition, offset, broker_ms, flags, ts_event_ns, ts_recv_ns, headers, key, text[at:])


class Deriver:
    """Makes the batches of one topic.

    Args:
        topic: its name.
        decode: its decoder.
        tables: the derived tables, each with what of an event becomes a row of it.
    """

    def __init__(self, topic: str, decode: Decode, tables: Sequence[DeskTable]) -> None:
        self.topic, self.decode, self.tables = topic, decode, tables
        self._times = {table: table.time_at for table in tables}
        self.malformed = 0  # members left out of the newest batches

    @property
    def table_names(self) -> list[str]:
        """In the order in which they are filled."""
        return [table.name for table in (*self.tables, DEAD_LETTERS, RAW_EVENTS)]

    def batches(self, raw: RawEvents, stored: Mapping[str, Ends]) -> list[Batch]:
        """The blocks of a range, in the order in which they are to be sent; none where all of it is stored.

        Args:
            raw: the events.
            stored: by table, up to where it has the rows of each partition; these are left out.
        """
        refused: dict[tuple[int, int], Undecidable] = {}
        while True:
            rows = self._rows(raw, refused)
            try:
                return [
                    batch for table, of_table in rows.items()
                    if (batch := self._batch(raw, table, _beyond(table, of_table, stored.get(table.name)))) is not None
                ]  # fmt: skip
            except _UNSTORABLE:
                # Rare, and one event must not keep the others out: find it and keep it as a dead letter.
                found = _unstorable(rows)
                if not found or found.keys() <= refused.keys():
                    raise
                refused |= found

    def _rows(self, raw: RawEvents, refused: Mapping[tuple[int, int], Undecidable]) -> dict[DeskTable, list[Row]]:
        """All rows by table, in the order in which they are sent."""
        rows: dict[DeskTable, list[Row]] = {table: [] for table in self.tables}
        dead: list[Row] = []
        events: list[Row] = []
        self.malformed = 0
        for origin in _origins(raw):
            event = None
            try:
                event = self._understand(origin, refused)
            except Undecidable as error:
                dead.append(_dead_row(self.topic, origin, error))
            variant = (
                VARIANTS[min(origin.flags >> VARIANT_SHIFT, len(VARIANTS) - 1)] if event is None else event.variant
            )
            where, flags = (self.topic, origin.partition, origin.offset), origin.flags
            if event is not None:
                if event.rounded:  # live, only what a fill says is looked at
                    flags |= _ROUNDED
                if event.malformed:
                    flags |= _MALFORMED
                    self.malformed += event.malformed
                for table, time_at in self._times.items():
                    rows[table] += [
                        (*where, item, variant, flags, values[time_at], origin.ts_recv_ns, *values)
                        for item, values in enumerate(table.values_of(event))
                    ]
            event_id = "" if event is None else event.event_id
            events.append((
                *where, origin.broker_ms * 1_000_000, origin.key, origin.value, origin.headers, event_id, variant,
                flags, origin.ts_event_ns, origin.ts_recv_ns,
            ))  # fmt: skip
        return {**rows, DEAD_LETTERS: dead, RAW_EVENTS: events}

    def _understand(self, origin: _Origin, refused: Mapping[tuple[int, int], Undecidable]) -> Event:
        """Decode an event.

        Raises:
            Undecidable: it is a dead letter.
        """
        if error := refused.get((origin.partition, origin.offset)):
            raise error
        if origin.flags & _CUT:  # what is left of it may read well, or fail for another reason
            raise Undecidable("only a part of it is kept: its headers, its key or its value are too large", "too_large")
        try:
            event = self.decode(origin.value, origin.partition, origin.offset, origin.broker_ms)
        except Undecidable:
            raise
        except Exception as error:
            # Our own mistake. The event is kept, and neither the writer nor the events behind it must stay behind.
            log.exception("topic=%s partition=%d offset=%d not decoded", self.topic, origin.partition, origin.offset)
            raise Undecidable(f"{type(error).__name__}: {error}"[:500], "internal_error") from error
        if origin.flags & _DEAD:  # nothing of it was told live: stored rows alone would disagree with that
            raise Undecidable("its topic refused it when it came, though it can be read by now", REFUSED)
        return event

    def _batch(self, raw: RawEvents, table: DeskTable, rows: list[Row]) -> Batch | None:
        if not rows:
            return None
        first, stop = raw.first, raw.first + len(raw.rows)
        receipts = raw.rows["ts_recv_ns"]
        names = [name for name, _, _ in table.columns]
        head = BatchHead(
            stream=raw.stream, record=EVENT.name, table=table.name, columns=names, epoch=raw.epoch, first=first,
            stop=stop, rows=len(rows), token=f"{raw.stream}/{raw.epoch}/{first}-{stop}/{table.name}",
            identity=dict(zip(table.identity, rows[0], strict=False)), replaces=bool(table.version),
            ts_first_ns=int(receipts[0]), ts_last_ns=int(receipts[-1]),
        )  # fmt: skip
        return Batch(head, encode_rows([(name, kind) for name, kind, _ in table.columns], rows))


def topic_deriver(topic: str, default_account: str, default_strategy: str) -> Deriver:
    """What makes the batches of a topic.

    Args:
        default_account, default_strategy: of events that name none, as the topic's actor has them.

    Raises:
        ValueError: no topic of the desk.
    """
    decode = decoder(topic, Defaults(account=default_account, strategy=default_strategy))
    return Deriver(topic, decode, DERIVED.get(topic, ()))


def _beyond(table: DeskTable, rows: list[Row], ends: Ends | None) -> list[Row]:
    """Those that are not stored yet. Rows begin with topic, partition and offset."""
    if not ends:
        return rows
    kept = [row for row in rows if row[2] >= ends.get(row[1], 0)]
    if len(kept) < len(rows):
        log.info("table=%s left out=%d rows that came again and are stored", table.name, len(rows) - len(kept))
    return kept


def _dead_row(topic: str, origin: _Origin, error: Undecidable) -> Row:
    return (
        topic, origin.partition, origin.offset, 0, VARIANTS[0], origin.flags, origin.ts_event_ns, origin.ts_recv_ns,
        error.reason, str(error), origin.key, origin.value,
    )  # fmt: skip


def _unstorable(rows: Mapping[DeskTable, list[Row]]) -> dict[tuple[int, int], Undecidable]:
    """The events of which a table cannot take a value."""
    found = {}
    for table, of_table in rows.items():
        columns = [(name, kind) for name, kind, _ in table.columns]
        for row in of_table:
            try:
                encode_rows(columns, [row])
            except _UNSTORABLE as error:
                found[row[1], row[2]] = Undecidable(f"table {table.name} cannot hold it: {error}"[:500], "unstorable")
    return found


def alert_batches(
    stream: str, epoch: int, first: int, rows: np.ndarray, texts: Sequence[bytes], keys: Keys
) -> list[Batch]:
    """The block of a range of the stream of alerts.

    Args:
        rows: `(n,)` of `records.ALERT_STATE`.
        texts: of the rows, JSON of `canonical.Alert`.
        keys: the directory that `key_id` refers to.
    """
    names = ("nth", "flags", "ts_event_ns", "ts_recv_ns", "key_id")
    changes: list[Row] = []
    for *values, key_id, text in zip(*(rows[name].tolist() for name in names), texts, strict=True):
        alert = _decode_alert(text)
        account = alert.account_id or str(keys[key_id].attributes.get("account_id", ""))
        nth, flags, ts_event_ns, ts_recv_ns = values
        of_alert = alert_values(msgspec.structs.replace(alert, account_id=account))
        changes.append((epoch, nth, alert.variant, flags, ts_event_ns, ts_recv_ns, *of_alert))
    head = BatchHead(
        stream=stream, record=ALERT_STATE.name, table=ALERTS.name, columns=[name for name, _, _ in ALERTS.columns],
        epoch=epoch, first=first, stop=first + len(rows), rows=len(rows),
        token=f"{stream}/{epoch}/{first}-{first + len(rows)}",
        identity=identity_of(ALERT_STATE, keys, int(rows["key_id"][0]), epoch, int(rows["nth"][0])), replaces=True,
        ts_first_ns=int(rows["ts_recv_ns"][0]), ts_last_ns=int(rows["ts_recv_ns"][-1]),
    )  # fmt: skip
    return [Batch(head, encode_rows([(name, kind) for name, kind, _ in ALERTS.columns], changes))]
