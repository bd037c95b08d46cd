"""Rows of a stream as the members that a client reads.

Made from the record's declaration: a field added there appears here. `tolist` turns rows into tuples of Python values
once; looking up each field in a numpy record costs four times as much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ....codecs.numbers import decimal_formatter
from ....codecs.record import COUNT, EXCHANGE_ID, PRICE, QUANTITY, SMALL, TIME_MS, UPDATE_ID, Flag, RecordType
from ....ringbuf import Key

NTH, TS_RECV_NS, TS_EVENT_NS, KEY_ID, FLAGS = range(5)  # the header that every row begins with
_HEADER = 5
FLAGS_KEPT_MAX = 64
_NS_PER_MS = 1_000_000
# Bits that a reader should know of, each a member of that name when it is set.
_MARKS = tuple((flag, flag.name.lower()) for flag in (Flag.LATE, Flag.VOID, Flag.BACKFILL) if flag.name)
_AGGREGATED = int(Flag.AGGREGATED)

_PLAIN_INTEGERS = (EXCHANGE_ID, UPDATE_ID, COUNT, SMALL, TIME_MS)  # written as they are
_UPDATE = """\
def update(row):
    {row} = row
    recv_ms = recv_ns // 1000000
    seq = nth + 1
    if event_ns:
        ts = event = event_ns // 1000000
    else:
        ts, event = recv_ms, "null"
    tail = tails.get(flags)
    if tail is None:
        tail = tail_of(flags)
{before}    return f{frame}.encode()
"""

Row = tuple[Any, ...]
Members = dict[str, Any]


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
            **{name: attributes.get(name, "") for name, _, _ in record.key_columns},
        }
        price = decimal_formatter(attributes.get("price_precision", 0))
        quantity = decimal_formatter(attributes.get("quantity_precision", 0))
        self.price, self.quantity = price, quantity
        formatters: dict[str, Callable[[Any], Any]] = {PRICE.name: price, QUANTITY.name: quantity}
        scalars = [(i, field) for i, field in enumerate(record.fields, _HEADER) if field.length == 1]
        self._scalars = [field for _, field in scalars]
        self._fields = tuple(
            (i, field.name, formatters.get(field.kind.name) or _rendered(field.kind.render, attributes), field.optional)
            for i, field in scalars
        )
        self._tails: dict[int, str] = {}  # of `make_update`, the same as text
        self._by_flags: dict[int, Members] = {}  # what follows from the flags alone; few combinations occur
        ids = {field.name for _, field in scalars if field.kind is EXCHANGE_ID}
        self._aggregates = "trade_id" in ids  # then an aggregate's id is shown under its other name too
        self.ids = frozenset(ids | ({"agg_trade_id"} if self._aggregates else set()))

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
        if flags & _AGGREGATED and self._aggregates:
            members["agg_trade_id"] = members["trade_id"]
        return members

    def make_update(self, channel: str) -> Callable[[Row], bytes]:
        """Build ``update(row)``: the `update` frame of one row as JSON, the same as its members give.

        The text of the function follows from the record's declaration, as one expression: it runs in a process that has
        just been woken, where what counts is how little code and memory it touches.
        """
        record = self.record
        names = ["nth", "recv_ns", "event_ns", "key_id", "flags", *(field.name for field in record.fields)]
        scope: dict[str, Any] = {"json": _json, "tails": self._tails, "tail_of": self._tail_of}
        before, inline = [], []
        for (i, name, text, optional), field in zip(self._fields, self._scalars, strict=True):
            scope[f"text_{name}"] = text
            quote = '"' if field.kind.schema.get("type") == "string" else ""
            if field.kind in _PLAIN_INTEGERS:
                value = name
            elif field.kind in (PRICE, QUANTITY):
                value = f"text_{name}({name})"
            else:
                value, quote = f"json(text_{name}({name}))", ""
            member = f',"{name}":{quote}{{{value}}}{quote}'
            if optional:
                before.append(f"    optional_{i} = f{member!r} if {name} else ''\n")
                inline.append(f"{{optional_{i}}}")
            else:
                inline.append(member)
        if self._aggregates:
            own = ',"agg_trade_id":"{trade_id}"'
            before.append(f"    own = f{own!r} if flags & {_AGGREGATED} else ''\n")
            inline.append("{tail}{own}")
        else:
            inline.append("{tail}")
        common = _json(self._common)[1:-1].replace("{", "{{").replace("}", "}}")
        head = _json(channel).replace("{", "{{").replace("}", "}}")
        frame = (
            f'{{{{"type":"update","channel":{head},"seq":{{seq}},"ts":{{ts}},"data":{{{{"ts":{{ts}},"seq":{{seq}},'
            f'{common},"exchange_ts":{{event}},"recv_ts":{{recv_ms}}{"".join(inline)}}}}}}}}}'
        )
        source = _UPDATE.format(row=", ".join(names), before="".join(before), frame=repr(frame))
        exec(compile(source, f"<update {channel}>", "exec"), scope)  # our own text
        return scope["update"]

    def _tail_of(self, flags: int) -> str:
        if len(self._tails) >= FLAGS_KEPT_MAX:
            self._tails.clear()
        derived = self._derive(flags)
        text = self._tails[flags] = "," + _json(derived)[1:-1] if derived else ""
        return text

    def _derive(self, flags: int) -> Members:
        if len(self._by_flags) >= FLAGS_KEPT_MAX:
            self._by_flags.clear()
        derived = {one.name: one.value(flags) for one in self.record.derived}
        return derived | {name: True for flag, name in _MARKS if flags & flag}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _rendered(render: Callable[[Any, Any], Any], attributes: Any) -> Callable[[Any], Any]:
    return lambda value: render(value, attributes)
