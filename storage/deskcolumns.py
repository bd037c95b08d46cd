"""Columns of a table from the declaration of a canonical struct (`codecs.desk.canonical`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any

from msgspec import Struct

from ..codecs.desk.kinds import members

WORD, TIME_NS = "LowCardinality(String)", "DateTime64(9, 'UTC')"
_TYPES = {
    "amount": "Decimal(38, 8)", "ratio": "Float64", "time": "DateTime64(3, 'UTC')", "json": "String", "word": WORD,
    "text": "String", "count": "Int64", "flag": "Bool",
}  # fmt: skip

Columns = Sequence[tuple[str, str, str]]  # (name, type, comment)


def columns_of(struct: type[Struct], without: Collection[str] = ()) -> list[tuple[str, str, str]]:
    """A column for each member that is no list, in the order of the declaration."""
    return [
        (member.name, _nullable(_TYPES[member.kind]) if member.optional else _TYPES[member.kind], "")
        for member in members(struct)
        if member.kind != "items" and member.name not in without
    ]


def _nullable(kind: str) -> str:
    return "LowCardinality(Nullable(String))" if kind == WORD else f"Nullable({kind})"


def getter(columns: Columns) -> Callable[[Any], tuple[Any, ...]]:
    """The values of these columns of a struct."""
    return attrgetter(*(name for name, _, _ in columns))
