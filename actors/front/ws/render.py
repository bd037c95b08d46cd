"""Rows of a stream as the members that a client reads.

Made from the record's declaration: a field added there appears here. `tolist` turns rows into tuples of Python values
once; looking up each field in a numpy record costs four times as much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ....codecs.numbers import decimal_formatter
from ....codecs.record import EXCHANGE_ID, PRICE, QUANTITY, Flag, RecordType
from ....ringbuf import Key

NTH, TS_RECV_NS, TS_EVENT_NS, KEY_ID, FLAGS = range(5)  # the header that every row begins with
_HEADER = 5
FLAGS_KEPT_MAX = 64
_NS_PER_MS = 1_000_000
# Bits that a reader should know of, each a member of that name when it is set.
_MARKS = tuple((flag, flag.name.lower()) for flag in (Flag.LATE, Flag.VOID, Flag.BACKFILL) if flag.name)
_AGGREGATED = int(Flag.AGGREGATED)

Row = tuple[Any, ...]
Members = dict[str, Any]


def event_ms(row: Row) -> int:
    """When it happened, epoch ms: the exchange's time, or ours where it sends none."""
    return (row[TS_EVENT_NS] or row[TS_RECV_NS]) // _NS_PER_MS


class Renderer:
    """Members of the records of one key.

    Attributes:
        ids: names of the members that are exchange ids.
    """

    def __init__(self, record: RecordType, key: Key) -> None:
        attributes = key.attributes
        self.record = record
        self._common: Members = {
            "exchange": attributes.get("exchange", ""),
            "market_type": attributes.get("market_type", ""),
            "symbol": attributes.get("symbol", ""),
            "instrument_id": attributes.get("native", ""),
        }
        price = decimal_formatter(attributes.get("price_precision", 0))
        quantity = decimal_formatter(attributes.get("quantity_precision", 0))
        self.price, self.quantity = price, quantity
        formatters: dict[str, Callable[[Any], Any]] = {PRICE.name: price, QUANTITY.name: quantity}
        scalars = [(i, field) for i, field in enumerate(record.fields, _HEADER) if field.length == 1]
        self._fields = tuple(
            (i, field.name, formatters.get(field.kind.name) or _rendered(field.kind.render, attributes), field.optional)
            for i, field in scalars
        )
        self._json_common = _json(self._common)[1:-1]
        self._json_fields = tuple(
            (i, f',"{name}":{quote}', quote, text, optional)
            for (i, name, text, optional), (_, field) in zip(self._fields, scalars, strict=True)
            for quote in ('"' if field.kind.schema.get("type") == "string" else "",)
        )
        self._json_by_flags: dict[int, str] = {}
        self._by_flags: dict[int, Members] = {}  # what follows from the flags alone; few combinations occur
        ids = {field.name for _, field in scalars if field.kind is EXCHANGE_ID}
        self._own_id = next((name for name in record_ids(record) if name in ids), "")
        self._own_id_at = next((i for i, field in scalars if field.name == self._own_id), 0)
        self.ids = frozenset(ids | ({"agg_trade_id"} if self._own_id == "trade_id" else set()))

    def __call__(self, row: Row) -> Members:
        """All members of a row, in the order in which they are written."""
        nth, recv_ns, event_ns, _, flags = row[:_HEADER]
        recv_ms = recv_ns // _NS_PER_MS
        event = event_ns // _NS_PER_MS if event_ns else None
        members = {
            "ts": event or recv_ms, "seq": nth + 1, **self._common, "exchange_ts": event, "recv_ts": recv_ms,
        }  # fmt: skip
        for i, name, text, optional in self._fields:
            value = row[i]
            if value or not optional:
                members[name] = text(value)
        derived = self._by_flags.get(flags)
        if derived is None:
            derived = self._by_flags[flags] = self._derive(flags)
        members.update(derived)
        if flags & _AGGREGATED and self._own_id:
            members["agg_trade_id"] = members[self._own_id]
        return members

    def update_json(self, head: str, row: Row) -> str:
        """The `update` frame of one row as JSON, the same text as its members give, without making them.

        Written out because it is what a client waits for: the process has just been woken, so what counts is how little
        code and memory it touches until the socket.

        Args:
            head: the frame up to its number: ``{"type":"update","channel":"...","seq":``.
        """
        nth, recv_ns, event_ns, _, flags = row[:_HEADER]
        seq, recv_ms = nth + 1, recv_ns // _NS_PER_MS
        ts = event = event_ns // _NS_PER_MS
        if not event_ns:
            ts, event = recv_ms, "null"
        fields = "".join(
            [
                f"{before}{text(row[i])}{after}"
                for i, before, after, text, optional in self._json_fields
                if not optional or row[i]
            ]
        )
        tail = self._json_by_flags.get(flags)
        if tail is None:
            tail = self._json_by_flags[flags] = self._json_tail(flags)
        if flags & _AGGREGATED and self._own_id:
            tail += f',"agg_trade_id":"{row[self._own_id_at]}"'
        return (
            f'{head}{seq},"ts":{ts},"data":{{"ts":{ts},"seq":{seq},{self._json_common},'
            f'"exchange_ts":{event},"recv_ts":{recv_ms}{fields}{tail}}}}}'
        )

    def _json_tail(self, flags: int) -> str:
        if len(self._json_by_flags) >= FLAGS_KEPT_MAX:
            self._json_by_flags.clear()
        derived = self._derive(flags)
        return "," + _json(derived)[1:-1] if derived else ""

    def _derive(self, flags: int) -> Members:
        if len(self._by_flags) >= FLAGS_KEPT_MAX:
            self._by_flags.clear()
        derived = {one.name: one.value(flags) for one in self.record.derived}
        return derived | {name: True for flag, name in _MARKS if flags & flag}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def record_ids(record: RecordType) -> list[str]:
    """Names of the record's exchange ids, its own first."""
    return [field.name for field in record.fields if field.kind is EXCHANGE_ID]


def _rendered(render: Callable[[Any, Any], Any], attributes: Any) -> Callable[[Any], Any]:
    return lambda value: render(value, attributes)
