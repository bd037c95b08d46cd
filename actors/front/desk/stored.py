"""The desk's tables as canonical values: what memory no longer holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from ....codecs.desk.money import parse_amount
from ....codecs.record import Flag
from ....storage.client import quote_name
from ..history import in_turns
from ..stamps import NS
from ..state import FrontState
from .cursors import Cursor
from .ranged import Happened
from .shelf import Shelf

T = TypeVar("T", bound=Happened)
NOT_REPEATED = f"bitAnd(flags, {int(Flag.REPEATED)}) = 0"
IN_FLAGS = frozenset(("rounded", "malformed"))  # members without a column of their own
NEARBY = 2  # times as many rows are looked at as are wanted, before all are
SKEW_NS = 60 * NS  # an item's own time may be so far ahead of our clock


@dataclass(frozen=True)
class _Member:
    name: str
    expression: str
    read: Callable[[Any], Any] | None  # from the JSON value; None = as it is


def _amount(text: str | None) -> int | None:
    return None if text is None else parse_amount(text)[0]


def _kinds(found: inspect.Type) -> tuple[str, bool]:
    """The declared kind of a field, and whether it is one value."""
    kind, single = "", True
    for part in found.types if isinstance(found, inspect.UnionType) else (found,):
        if isinstance(part, inspect.Metadata):
            kind = (part.extra or {}).get("kind", kind)
        if isinstance(part, (inspect.ListType, inspect.DictType)):
            single = False
    return kind, single


@lru_cache(maxsize=64)
def members_of(kind: type[msgspec.Struct]) -> tuple[_Member, ...]:
    """How each member of a canonical struct is read from its table."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    members = []
    for field in info.fields:
        word, single = _kinds(field.type)
        if not single or field.name in IN_FLAGS:
            continue
        column = quote_name(field.name)
        if field.name == "timestamp":
            members.append(_Member(field.name, "toUnixTimestamp64Nano(ts_event_ns)", None))
        elif word == "time":
            members.append(_Member(field.name, f"toUnixTimestamp64Nano(toDateTime64({column}, 9))", None))
        else:
            members.append(_Member(field.name, column, _amount if word == "amount" else None))
    return tuple(members)


class Table(Generic[T]):
    """Reads a table as values of a canonical struct.

    Args:
        kind: the struct.
        name: of the table.
        identity: columns in which rows of one thing agree: of these the first counts. Empty = each row is one.
        shelf: what memory holds of them, whose items may have an earlier row here.
    """

    def __init__(
        self, state: FrontState, kind: type[T], name: str, identity: Sequence[str] = (),
        shelf: Callable[[], Shelf[T] | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._state, self._kind = state, kind
        self._members = members_of(kind)  # type: ignore[arg-type]
        self.place = f"{quote_name(state.history.database)}.{quote_name(name)}"
        self._columns = ", ".join(member.expression for member in self._members)
        self.names, self.identity, self.shelf = tuple(identity), ", ".join(identity), shelf
        self.name = name

    async def rows(self, condition: str, parameters: Mapping[str, Any], tail: str = "") -> list[T] | None:
        """Rows that fit a condition; None without an answer."""
        answer = await self._state.history.ask(
            f"SELECT {self._columns} FROM {self.place} WHERE {condition} {tail}", parameters
        )
        return None if answer is None else await in_turns(self._value, answer)

    def _value(self, row: Sequence[Any]) -> T:
        return self._kind(**{
            member.name: member.read(value) if member.read is not None else value
            for member, value in zip(self._members, row, strict=True)
            if value is not None
        })  # fmt: skip

    async def count(self, condition: str, parameters: Mapping[str, Any]) -> int | None:
        """How many rows fit; None without an answer."""
        what = f"uniqExact({self.identity})" if self.identity else "count()"
        answer = await self._state.history.ask(f"SELECT {what} FROM {self.place} WHERE {condition}", parameters)
        return None if answer is None else int(answer[0][0])

    def older(self, filters: Mapping[str, Any]) -> Older[T] | None:
        """The rows of a range, for `ranged.page_of`; None without a history.

        Args:
            filters: column -> value, or a tuple of values of which it must be one.
        """
        return Older(self._state, self, filters) if self._state.history.configured else None

    @property
    def limit_by(self) -> str:
        """Keeps the first row of each identity."""
        return f"LIMIT 1 BY {self.identity}" if self.identity else ""


class Older(Generic[T]):
    """What a table holds of a range and a filter: items received before a time.

    What memory holds is not among them, even where it was received before: shared memory was lost, and an event whose
    rows an interrupted batch had stored came again. Nor is a thing that was told of before memory began and again
    since: memory, which does not know of the first time, counts it.
    """

    def __init__(self, state: FrontState, table: Table[T], filters: Mapping[str, Any]) -> None:
        self._state, self._table = state, table
        conditions, self._parameters = [NOT_REPEATED], dict[str, Any]()
        for name, value in filters.items():
            many = isinstance(value, (tuple, frozenset))
            slot = _slot(name)
            conditions.append(f"{name} IN {{{slot}:Array(String)}}" if many else f"{name} = {{{slot}:String}}")
            self._parameters[slot] = sorted(value) if many else value
        conditions += [
            "ts_event_ns >= fromUnixTimestamp64Nano({start:Int64}, 'UTC')",
            "ts_event_ns < fromUnixTimestamp64Nano({end:Int64}, 'UTC')",
            "ts_recv_ns >= fromUnixTimestamp64Nano({received:Int64}, 'UTC')",
            "ts_recv_ns < fromUnixTimestamp64Nano({before:Int64}, 'UTC')",
        ]
        conditions.append(
            "(ts_recv_ns >= fromUnixTimestamp64Nano({began:Int64}, 'UTC') OR "
            "offset < transform(partition, {partitions:Array(UInt16)}, {begins:Array(Int64)}, offset + 1))"
        )
        self._plain = " AND ".join(conditions)  # without what is asked of each row by its identity
        if table.identity:
            known = "fromUnixTimestamp64Nano({known:Int64}, 'UTC')"
            conditions.append(
                f"(ts_recv_ns >= {known} OR ({table.identity}) NOT IN (SELECT {table.identity} FROM {table.place} "
                f"WHERE {NOT_REPEATED} AND ts_recv_ns >= {known} "
                "AND ts_event_ns < fromUnixTimestamp64Nano({happened:Int64}, 'UTC')))"
            )
        self._condition = " AND ".join(conditions)

    def _bound(self, before_recv_ns: int, start_ns: int, end_ns: int) -> dict[str, Any]:
        received = max(0, start_ns - SKEW_NS)
        times: dict[str, Any] = {"start": start_ns, "end": end_ns, "received": received, "before": before_recv_ns}
        shelf = self._table.shelf()
        begins = dict(shelf.begins) if shelf is not None else {}
        where = {"partitions": list(begins), "begins": list(begins.values())}
        times |= {"began": shelf.began_ns if shelf is not None else 0, **where}
        if self._table.identity:
            known = shelf.known_from_ns if shelf is not None and shelf.known_from_ns else before_recv_ns
            times |= {"known": known, "happened": min(known + SKEW_NS, (1 << 63) - 1)}
        return {**self._parameters, **times}

    async def rows(
        self, before_recv_ns: int, start_ns: int, end_ns: int, limit: int, offset: int = 0, before: Cursor | None = None
    ) -> list[T] | None:
        """Newest first, those of one time by their identity, from an offset on; below a cursor, if there is one."""
        names, place = self._table.names, self._table.place
        condition, bound = "", dict[str, Any](limit=limit, offset=offset, nearby=NEARBY * (offset + limit))
        if before is not None:
            # each thing once: its newer telling may stand on an earlier page
            told_again = (
                f"SELECT {self._table.identity} FROM {place} WHERE {NOT_REPEATED} "
                "AND ts_event_ns > fromUnixTimestamp64Nano({at:Int64}, 'UTC') "
                "AND ts_event_ns < fromUnixTimestamp64Nano({near:Int64}, 'UTC')"
            )
            mine, its = ", ".join(names), ", ".join(f"{{last_{name}:String}}" for name in names)
            condition = (
                f" AND (ts_event_ns < fromUnixTimestamp64Nano({{at:Int64}}, 'UTC') OR ({mine}) < ({its})) "
                f"AND ({mine}) NOT IN ({told_again})"
            )
            bound |= {"at": before.at_ns, "near": min(end_ns, before.at_ns + SKEW_NS)}
            bound |= {f"last_{name}": text for name, text in zip(names, before.identity, strict=True)}
            end_ns = min(end_ns, before.at_ns + 1)
        order = ", ".join(f"{name} DESC" for name in ("ts_event_ns", *names))
        tail = f"ORDER BY {order} {self._table.limit_by} LIMIT {{limit:UInt64}} OFFSET {{offset:UInt64}}"
        bound |= self._bound(before_recv_ns, start_ns, end_ns)
        # That each thing is told once is found out by sorting all rows of a range: mostly the newest ones are enough,
        # and their times alone are found in the order in which they are stored.
        newest = (
            f"ts_event_ns >= (SELECT min(ts_event_ns) FROM (SELECT ts_event_ns FROM {place} WHERE {self._plain} "
            "ORDER BY ts_event_ns DESC LIMIT {nearby:UInt64}))"
        )
        found = await self._table.rows(f"{newest} AND {self._condition}{condition}", bound, tail)
        if found is None or len(found) == limit:
            return found
        return await self._table.rows(f"{self._condition}{condition}", bound, tail)

    async def count(self, before_recv_ns: int, start_ns: int, end_ns: int) -> int | None:
        return await self._table.count(self._condition, self._bound(before_recv_ns, start_ns, end_ns))

    async def grouped(
        self, columns: str, before_recv_ns: int, start_ns: int, end_ns: int, tail: str
    ) -> list[list[Any]] | None:
        """Aggregates over the rows, each thing once; None without an answer."""
        inner = f"SELECT * FROM {self._table.place} WHERE {self._condition} ORDER BY ts_event_ns {self._table.limit_by}"
        bound = self._bound(before_recv_ns, start_ns, end_ns)
        return await self._state.history.ask(f"SELECT {columns} FROM ({inner}) {tail}", bound)


def _slot(name: str) -> str:
    """A query parameter for a column, or for an expression of one."""
    return "is_" + "".join(char if char.isalnum() else "_" for char in name)
