"""Decodes the topics whose events are statements: risk, alerts, health, performance, signals, positions, market data.

Most members have the same name and the same meaning in a message and in the canonical struct. So a `Family` declares
only what differs: other names, parts that are objects, how to tell the variants, and a function for the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Raw

from .canonical import DEFAULT_SOURCE, DEFAULT_VERSION, Event
from .kinds import Member, members
from .reading import (
    DECODE_ERRORS,
    Amounts,
    Defaults,
    Ident,
    Message,
    Moment,
    Number,
    Text,
    common_variant,
    event_id,
    json_text,
    maybe_count,
    maybe_ratio,
    maybe_text,
    maybe_time,
    missing,
    need_count,
    need_ratio,
    need_text,
    need_time,
    struct_decoder,
    undecidable,
)

_WIRE: dict[str, Any] = {
    "amount": Number, "ratio": Number, "count": Number, "time": Moment, "text": Ident, "word": Text,
    "flag": bool | None,
}  # fmt: skip
_ENVELOPE = frozenset(Event.__struct_fields__)

Values = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """How the messages of a topic become events.

    Args:
        event: the canonical struct.
        variant: tells the variant of a message whose envelope does not; raises where it cannot.
        finish: applies the topic's rules to the values read: (message, variant, values, amounts, defaults).
        also: other names of a member in messages; the first that is not null counts.
        parts: members of messages that are objects or lists of objects, with their types.
        filled: members that `finish` sees to, so that they may be missing.
    """

    event: type[Event]
    variant: Callable[[Any], str]
    finish: Callable[[Any, str, Values, Amounts, Defaults], None]
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    filled: frozenset[str] = frozenset()

    def own(self) -> list[Member]:
        """Members that are read one by one: not the envelope's, and no lists of structs."""
        return [m for m in members(self.event) if m.name not in _ENVELOPE and m.kind != "items"]

    def message(self) -> type[Message]:
        """The struct of a message: all members of all variants."""
        wire: list[tuple[str, Any, Any]] = []
        for member in self.own():
            for name in (member.name, *self.also.get(member.name, ())):
                if member.kind == "json":
                    wire.append((name, Raw, Raw()))
                else:
                    wire.append((name, _WIRE[member.kind], None))
        wire += [(name, kind, None) for name, kind in self.parts.items()]
        assert len({name for name, _, _ in wire}) == len(wire), "a name twice"
        return msgspec.defstruct(f"{self.event.__name__}Message", wire, bases=(Message,))  # type: ignore[return-value]


class Statements:
    """Decodes the events of one topic."""

    def __init__(self, family: Family, topic: str, defaults: Defaults) -> None:
        self._family, self._topic, self._defaults = family, topic, defaults
        self._decode = struct_decoder(family.message())
        self._amounts = Amounts()
        self._plan = [
            (member.name, (member.name, *family.also.get(member.name, ())), self._reader(member))
            for member in family.own()
        ]
        self._needed = {m.name for m in family.own() if m.required and m.name not in family.filled}

    def _reader(self, member: Member) -> Callable[[Any, str], Any]:
        need = member.required and member.name not in self._family.filled
        readers: dict[str, tuple[Callable[[Any, str], Any], Callable[[Any, str], Any]]] = {
            "amount": (self._amounts.need, self._amounts.maybe),
            "ratio": (need_ratio, maybe_ratio),
            "count": (need_count, maybe_count),
            "time": (need_time, maybe_time),
            "text": (need_text, lambda value, name: maybe_text(value)),
            "word": (need_text, lambda value, name: maybe_text(value)),
            "json": (lambda value, name: value, lambda value, name: value),
            "flag": (lambda value, name: value, lambda value, name: value),
        }
        return readers[member.kind][not need]

    def full(self, value: bytes, partition: int, offset: int, broker_ms: int = 0) -> Event:
        """The canonical event.

        Raises:
            Undecidable: with the member and what is wrong with it.
        """
        amounts = self._amounts
        amounts.rounded = 0
        try:
            m = self._decode(value)
        except DECODE_ERRORS as error:
            raise undecidable(error) from None
        variant = common_variant(m) or self._family.variant(m)
        time = need_time(m.timestamp, "timestamp")
        values: Values = {}
        for name, names, read in self._plan:
            found, wire = None, name
            for wire in names:
                found = getattr(m, wire)
                if type(found) is Raw:
                    found = json_text(found)
                if found is not None:
                    break
            if found is not None:
                found = read(found, wire)
            elif name in self._needed:
                missing(name)
            if found is not None:
                values[name] = found
        self._family.finish(m, variant, values, amounts, self._defaults)
        source = m.source or (DEFAULT_SOURCE if variant == "mon-rich" else None)
        version = maybe_text(m.version) or (DEFAULT_VERSION if variant in ("dashboard", "mon-rich") else None)
        return self._family.event(
            event_id=event_id(m.event_id, self._topic, partition, offset), timestamp=time, variant=variant,
            source=source, version=version, rounded=amounts.rounded, **values,
        )  # fmt: skip


def fill_owner(variant: str, values: Values, defaults: Defaults) -> None:
    """Account and strategy: monitoring names neither, the others must name the account."""
    if variant.startswith("mon"):
        values["account_id"] = defaults.account
    elif "account_id" not in values:
        missing("account_id")
    values.setdefault("strategy_id", defaults.strategy)
