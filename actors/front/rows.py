"""Records as JSON text, derived from their declarations.

`row_renderer` writes out one function for a record type and the options of a request, as `ringbuf.publish` does for
publishing: a trade costs about 2 µs instead of 9 through `RecordType.to_dict` and an encoder. `RowCache` keeps the
texts of a key's newest records, so that each is made once, on first use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from ...codecs.numbers import decimal_formatter
from ...codecs.record import PRICE, QUANTITY, RATE, Flag, Kind, RecordType
from ..catalog import Source
from .stamps import rfc3339

encode = msgspec.json.encode
RenderRow = Callable[..., str]
DERIVED_MAX = 4096

HEADER_SCHEMA: dict[str, Any] = {
    "timestamp": {
        "type": ["string", "integer"],
        "description": "the exchange's time, ours at receipt where it sends none (RFC 3339 UTC; epoch ms with time=ms)",
    },
    "exchange_ts": {"type": ["integer", "null"], "description": "exchange's time, epoch ms; null where it sends none"},
    "recv_ts": {"type": "integer", "description": "our time at receipt, epoch ms"},
    "seq": {"type": "integer", "minimum": 1, "description": "number of the record in its key, as on WebSocket"},
}


@dataclass(frozen=True)
class Alias:
    """A further name of a field."""

    field: str
    flag: Flag | None = None  # only in records that have it
    as_time: bool = False  # the field counts UNIX ms: written like all times


@dataclass(frozen=True)
class Options:
    """How decimals and times are written."""

    decimals: str = "string"  # or number: the same digits without quotes
    time: str = "rfc3339"  # or ms


def decimal_of(kind: Kind, key: Mapping[str, Any]) -> Callable[[float], str] | None:
    """The text of a decimal at the instrument's precision; None where the kind is no decimal."""
    if kind is PRICE:
        return decimal_formatter(key.get("price_precision", 0))
    if kind is QUANTITY:
        return decimal_formatter(key.get("quantity_precision", 0))
    if kind is RATE:
        return decimal_formatter(0)
    return None


def time_text(options: Options) -> Callable[[int], str]:
    """UNIX ns to the JSON text of a time."""
    if options.time == "ms":
        return lambda ns: str(ns // 1_000_000)
    return lambda ns: f'"{rfc3339(ns)}"'


class RowRenderer:
    """Writes rows of one record type, for one key's precisions, as members of a JSON object (without braces).

    Args:
        aliases: further names of fields: {"amount": Alias("quantity")}. One named `timestamp` says which field is the
            record's time, where that is not when it happened.
    """

    def __init__(
        self, record: RecordType, key: Mapping[str, Any], options: Options, aliases: Mapping[str, Alias] | None = None
    ) -> None:
        self._unpack = record.struct.iter_unpack
        self._derived: dict[int, str] = {}
        self._record = record
        self.render = self._compile(record, key, options, aliases or {})

    def _compile(
        self, record: RecordType, key: Mapping[str, Any], options: Options, aliases: Mapping[str, Alias]
    ) -> RenderRow:
        derived: dict[str, Any] = {"derived": self._derived, "derive": self._derive}
        scope: dict[str, Any] = {"time_text": time_text(options), "key": key, **derived}
        fixed = {name: key.get(name, "") for name, _, _ in record.key_columns}
        scope["fixed"] = "".join(f',"{name}":{encode(value).decode()}' for name, value in fixed.items())
        parts = [] if "timestamp" in aliases else ['"timestamp":{time_text(event or recv)}']
        if fixed:
            parts.append("{fixed}")
        for i, field in enumerate(record.fields):
            if field.length > 1:
                continue
            value, decimal = f"v{i}", decimal_of(field.kind, key)
            if decimal is not None:
                scope[f"r{i}"] = decimal
                shown = f"{{r{i}({value})}}"
                quoted = options.decimals == "string"
            else:
                kind = field.kind
                quoted = kind.schema.get("type") == "string" or "enum" in kind.schema
                scope[f"r{i}"] = kind.render
                shown = f"{{r{i}({value}, key)}}"
            shown = f'"{shown}"' if quoted else shown
            names = {field.name: Alias(field.name), **{n: of for n, of in aliases.items() if of.field == field.name}}
            for name, alias in names.items():
                text = f"{{time_text({value} * 1000000)}}" if alias.as_time else shown
                member, condition = f',"{name}":{text}', value if field.optional else ""
                if alias.flag is not None:
                    condition = f"flags & {int(alias.flag)}"
                if name == "timestamp":
                    parts.insert(0, member[1:])
                    continue
                parts.append(f"""{{f'{member}' if {condition} else ""}}""" if condition else member)
        parts.append("{derived.get(flags) or derive(flags)}")
        parts.append(',"exchange_ts":{event // 1000000 or "null"},"recv_ts":{recv // 1000000},"seq":{nth + 1}')
        values = ", ".join(f"v{i}" for i in range(len(record.fields)))
        source = f"def render(nth, recv, event, key_id, flags, {values}):\n    return f'''{''.join(parts)}'''\n"
        exec(compile(source, f"<render {record.name}>", "exec"), scope)  # our own template, names of declared fields
        return scope["render"]

    def _derive(self, flags: int) -> str:
        members = {derived.name: derived.value(flags) for derived in self._record.derived}
        text = "".join(f',"{name}":{encode(value).decode()}' for name, value in members.items())
        if len(self._derived) < DERIVED_MAX:
            self._derived[flags] = text
        return text

    def row(self, row: np.void) -> bytes:
        """Text of one record."""
        return self.render(*next(self._unpack(row.tobytes()))).encode()

    def rows(self, rows: np.ndarray) -> list[bytes]:
        """Texts of `(n,)` records, in their order; void ones are left out."""
        return [text for text, *_ in self.marked(rows)]

    def marked(self, rows: np.ndarray) -> list[tuple[bytes, int, int, int]]:
        """The same as `(text, nth, time, time of receipt)`, times in UNIX ns."""
        if not len(rows):
            return []
        render, void = self.render, int(Flag.VOID)
        return [
            (render(*values).encode(), values[0], values[2] or values[1], values[1])
            for values in self._unpack(rows.tobytes())
            if not values[4] & void
        ]


class RowCache:
    """Texts of a key's newest records, newest first.

    Memory: about 250 bytes a row, and as many rows as were ever asked for at once (at least `KEEP_MIN`, at most what
    the key's tail holds).
    """

    KEEP_MIN = 128
    SLACK = 8

    __slots__ = ("_keep", "_marks", "_reader", "_renderer", "_start", "_texts", "count", "key_id", "source")

    def __init__(self, source: Source, renderer: RowRenderer) -> None:
        self.source = source
        self._reader = reader = source.reader
        self._renderer = renderer
        self.key_id = source.key_id
        self.count = 0  # nth of the next record, as of the last look
        self._start = 0  # nth of the oldest record looked at: [_start, count) is held
        self._keep = min(self.KEEP_MIN, reader.spec.tail)
        self._texts: deque[bytes] = deque(maxlen=self._keep)
        self._marks: deque[tuple[int, int, int]] = deque(maxlen=self._keep)  # (nth, time, receipt) of each

    def oldest(self, n: int) -> tuple[int, int, int]:
        """`(nth, time, time of receipt)` of the oldest of the `n` texts that `newest` gave last, UNIX ns."""
        return self._marks[n - 1]

    def newest(self, n: int) -> list[bytes]:
        """Up to `n` texts, newest first."""
        tail = self._reader.spec.tail
        if n > self._keep:
            self._keep = min(tail, 1 << (n - 1).bit_length())
            self._texts, self._marks = deque(maxlen=self._keep), deque(maxlen=self._keep)
            self.count = self._start = 0
        count = self._reader.count(self.key_id)
        if count != self.count:
            self._advance(count)
        if len(self._texts) < n and self._start > max(0, self.count - tail):
            self._refill()
        return list(islice(self._texts, n))

    def _advance(self, count: int) -> None:
        missing = count - self.count
        if not 0 < missing <= self._keep or self.count == 0:
            self._refill()
            return
        # a few more than are missing: some may arrive between the look at the count and the copy
        rows = self._reader.last(self.key_id, missing + self.SLACK)
        known = self.count - int(rows["nth"][0]) if len(rows) else -1
        if known < 0:
            self._refill()  # the producer lapped us
        else:
            self._take(rows[known:])

    def _refill(self) -> None:
        self._texts.clear()
        self._marks.clear()
        rows = self._reader.last(self.key_id, self._keep)
        self._start = self.count = self._reader.count(self.key_id)
        if len(rows):
            self._start = int(rows["nth"][0])
            self._take(rows)

    def _take(self, rows: np.ndarray) -> None:
        for text, *mark in self._renderer.marked(rows):
            self._texts.appendleft(text)
            self._marks.appendleft((mark[0], mark[1], mark[2]))
        self.count = int(rows["nth"][-1]) + 1
        self._start = max(self._start, self.count - self._keep)


def levels_text(prices: Sequence[float], quantities: Sequence[float], key: Mapping[str, Any], options: Options) -> str:
    """Levels as a JSON array of [price, quantity]."""
    price, quantity = decimal_of(PRICE, key), decimal_of(QUANTITY, key)
    assert price is not None and quantity is not None
    if options.decimals == "string":
        levels = [f'["{price(p)}","{quantity(q)}"]' for p, q in zip(prices, quantities, strict=True)]
    else:
        levels = [f"[{price(p)},{quantity(q)}]" for p, q in zip(prices, quantities, strict=True)]
    return "[" + ",".join(levels) + "]"


def row_schema(
    record: RecordType, aliases: Mapping[str, Alias] | None = None, **members: Mapping[str, Any]
) -> dict[str, Any]:
    """OpenAPI schema of a rendered row with `members` in front."""
    own = record.json_schema()
    properties = {**members, **HEADER_SCHEMA, **own["properties"]}
    required = [*members, *HEADER_SCHEMA, *own["required"]]
    optional = {field.name for field in record.fields if field.optional}
    for name, alias in (aliases or {}).items():
        if name == "timestamp":
            continue
        schema = HEADER_SCHEMA["timestamp"] if alias.as_time else own["properties"][alias.field]
        properties[name] = {**schema, "description": f"the same as {alias.field}"}
        if alias.flag is None and alias.field not in optional:
            required.append(name)
    decimals = {f.name for f in record.fields if f.kind in (PRICE, QUANTITY, RATE)}
    decimals |= {name for name, alias in (aliases or {}).items() if alias.field in decimals}
    for name in decimals & properties.keys():
        properties[name] = {**properties[name], "type": ["string", "number"]}
    return {"type": "object", "description": own["description"], "properties": properties, "required": required}
