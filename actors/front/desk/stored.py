"""The desk's tables as canonical values: what memory no longer holds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
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
from .seam import ALL_RECEIVED, ITEMS, NO_MEMORY, Positions, Seam

T = TypeVar("T", bound=Happened)
NOT_REPEATED = f"bitAnd(flags, {int(Flag.REPEATED)}) = 0"
IN_FLAGS = frozenset(("rounded", "malformed"))  # members without a column of their own
FILTERS_KEPT = 1024
NEARBY = 2  # times as many rows are looked at as are wanted, before all are
SKEW_NS = 60 * NS  # an item's own time may be so far ahead of our clock
OUTAGE_NS = 31 * 86_400 * NS  # an event that comes again was received before at most so long ago
_HOLDS_SINCE = "fromUnixTimestamp64Nano({holds_ns:Int64}, 'UTC')"
_BEGAN = "fromUnixTimestamp64Nano({began_ns:Int64}, 'UTC')"
_NEAR = "(ts_recv_ns >= fromUnixTimestamp64Nano({near_ns:Int64}, 'UTC'))"  # nothing before can be in memory
_POSITION = f"if(topic = {{topic:String}}, offset * {ITEMS} + item, -1)"  # see `Seam`; other names are of older topics


def _from(name: str, otherwise: str = f"{_POSITION} + 1") -> str:
    """The position from which on something holds of a row's partition, or what stands for it where it is not named."""
    return f"transform(partition, {{{name}_in:Array(UInt16)}}, {{{name}:Array(Int64)}}, {otherwise})"


_CAME_AGAIN = f"(ts_recv_ns < {_BEGAN} AND {_POSITION} >= {_from('began')})"
# Of an event that came again memory does not know whether it repeats one from before.
_COUNTS = f"({NOT_REPEATED} OR {_CAME_AGAIN})"


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
        identity: columns in which rows of one thing agree: of these the first counts.
        topic: whose events memory has too; needed for `older`.
    """

    def __init__(self, state: FrontState, kind: type[T], name: str, identity: Sequence[str], topic: str = "") -> None:
        self._state, self._kind = state, kind
        self._members = members_of(kind)  # type: ignore[arg-type]
        self.place = f"{quote_name(state.history.database)}.{quote_name(name)}"
        self._columns = ", ".join(member.expression for member in self._members)
        self.names, self.identity = tuple(identity), ", ".join(identity)
        self.name, self.topic = name, topic
        self._early: tuple[Seam, list[list[Any]]] = NO_MEMORY, []
        self._older: dict[Hashable, Older[T]] = {}

    async def rows(
        self, condition: str, parameters: Mapping[str, Any], tail: str = "", *, patient: bool = False
    ) -> list[T] | None:
        """Rows that fit a condition; None without an answer."""
        query = f"SELECT {self._columns} FROM {self.place} WHERE {condition} {tail}"
        answer = await self._state.history.ask(query, parameters, patient=patient)
        return None if answer is None else await in_turns(self._value, answer)

    def _value(self, row: Sequence[Any]) -> T:
        return self._kind(**{
            member.name: member.read(value) if member.read is not None else value
            for member, value in zip(self._members, row, strict=True)
            if value is not None
        })  # fmt: skip

    async def count(self, condition: str, parameters: Mapping[str, Any]) -> int | None:
        """How many rows fit; None without an answer."""
        query = f"SELECT uniqExact({self.identity}) FROM {self.place} WHERE {condition}"
        answer = await self._state.history.ask(query, parameters, patient=True)
        return None if answer is None else int(answer[0][0])

    def older(self, filters: Mapping[str, Any]) -> Older[T] | None:
        """The rows of a range, for `ranged.page_of`; None without a history.

        Args:
            filters: column -> value, or a tuple of values of which it must be one.
        """
        if not self._state.history.configured:
            return None
        key = tuple(filters.items())
        found = self._older.get(key)
        if found is None:
            if len(self._older) >= FILTERS_KEPT:
                self._older.clear()
            found = self._older[key] = Older(self._state, self, filters)
        return found

    async def early_ns(self, seam: Seam) -> int | None:
        """When the first item after `seam.knows` was received, by its row; None without an answer.

        That may be before memory began: its rows were stored, shared memory was lost, and its event came again.
        """
        if seam is NO_MEMORY:
            return seam.knows_ns
        asked, rows = self._early
        if (asked.began_ns, asked.began) != (seam.began_ns, seam.began):
            answer = await self._state.history.ask(
                f"SELECT partition, max({_POSITION}), toUnixTimestamp64Nano(min(ts_recv_ns)) FROM {self.place} WHERE "
                f"{_CAME_AGAIN} AND offset >= {{least:Int64}} "
                "AND ts_recv_ns >= fromUnixTimestamp64Nano({most:Int64}, 'UTC') GROUP BY partition",
                {
                    "topic": self.topic, "began_ns": seam.began_ns, **_positions(began=seam.began),
                    "least": min(seam.began.values()) // ITEMS, "most": max(0, seam.began_ns - OUTAGE_NS),
                },
            )  # fmt: skip
            if answer is None:
                return None
            rows = answer
            self._early = seam, rows
        return min([seam.knows_ns, *(int(ns) for partition, last, ns in rows if int(last) >= seam.knows[partition])])

    @property
    def limit_by(self) -> str:
        """Keeps the first row of each identity."""
        return f"LIMIT 1 BY {self.identity}"


class Older(Generic[T]):
    """What a table holds of a range and a filter: items that came before a seam.

    A thing that was told of before memory began and again since is not among them: memory, which does not know of the
    first time, counts it.
    """

    def __init__(self, state: FrontState, table: Table[T], filters: Mapping[str, Any]) -> None:
        self._state, self._table = state, table
        conditions, self._parameters = [_COUNTS], dict[str, Any]()
        for name, value in filters.items():
            many = isinstance(value, (tuple, frozenset))
            slot = _slot(name)
            conditions.append(f"{name} IN {{{slot}:Array(String)}}" if many else f"{name} = {{{slot}:String}}")
            self._parameters[slot] = sorted(value) if many else value
        conditions += [
            "ts_event_ns >= fromUnixTimestamp64Nano({start:Int64}, 'UTC')",
            "ts_event_ns < fromUnixTimestamp64Nano({end:Int64}, 'UTC')",
            "ts_recv_ns >= fromUnixTimestamp64Nano({received:Int64}, 'UTC')",
            # of a partition of which memory has nothing: all that has come so far
            f"(NOT {_NEAR} OR {_POSITION} < {_from('holds', f'{_POSITION} + (ts_recv_ns < {_HOLDS_SINCE})')})",
        ]
        self._plain = " AND ".join(conditions)  # without what is asked of each row by its identity
        known = f"({_NEAR} AND {_POSITION} >= {_from('knows')})"
        self._condition = (
            f"{self._plain} AND ({known} OR ({table.identity}) NOT IN (SELECT {table.identity} FROM {table.place} "
            f"WHERE {_COUNTS} AND ts_event_ns < fromUnixTimestamp64Nano({{happened:Int64}}, 'UTC') AND {known}))"
        )

    async def _bound(self, seam: Seam, start_ns: int, end_ns: int) -> dict[str, Any] | None:
        """Parameters of the condition; None without an answer."""
        early = await self._table.early_ns(seam)
        if early is None:
            return None
        return {
            "topic": self._table.topic, "start": start_ns, "end": end_ns, "received": max(0, start_ns - SKEW_NS),
            "began_ns": seam.began_ns, "holds_ns": seam.holds_ns, "near_ns": max(0, early - SKEW_NS),
            "happened": min(seam.knows_ns + SKEW_NS, ALL_RECEIVED),
            **_positions(began=seam.began, holds=seam.holds, knows=seam.knows), **self._parameters,
        }  # fmt: skip

    async def rows(
        self, seam: Seam, start_ns: int, end_ns: int, limit: int, offset: int = 0, before: Cursor | None = None,
        *, patient: bool = False,
    ) -> list[T] | None:  # fmt: skip
        """Newest first, those of one time by their identity, from an offset on; below a cursor, if there is one."""
        names, place = self._table.names, self._table.place
        condition, bound = "", dict[str, Any](limit=limit, offset=offset, nearby=NEARBY * (offset + limit))
        if before is not None:
            # each thing once: its newer telling may stand on an earlier page
            told_again = (
                f"SELECT {self._table.identity} FROM {place} WHERE {_COUNTS} "
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
        common = await self._bound(seam, start_ns, end_ns)
        if common is None:
            return None
        bound |= common
        # That each thing is told once is found out by sorting all rows of a range: mostly the newest ones are enough,
        # and their times alone are found in the order in which they are stored.
        newest = (
            f"ts_event_ns >= (SELECT min(ts_event_ns) FROM (SELECT ts_event_ns FROM {place} WHERE {self._plain} "
            "ORDER BY ts_event_ns DESC LIMIT {nearby:UInt64}))"
        )
        found = await self._table.rows(f"{newest} AND {self._condition}{condition}", bound, tail, patient=patient)
        if found is None or len(found) == limit:
            return found
        return await self._table.rows(f"{self._condition}{condition}", bound, tail, patient=patient)

    async def count(self, seam: Seam, start_ns: int, end_ns: int) -> int | None:
        bound = await self._bound(seam, start_ns, end_ns)
        return None if bound is None else await self._table.count(self._condition, bound)

    async def grouped(self, columns: str, seam: Seam, start_ns: int, end_ns: int, tail: str) -> list[list[Any]] | None:
        """Aggregates over the rows, each thing once, by its first telling; None without an answer."""
        # Fills lie by account and time, so that nothing is sorted. Of one thing it is the order of its tellings.
        inner = (
            f"SELECT * FROM {self._table.place} WHERE {self._condition} "
            f"ORDER BY {self._table.names[0]}, ts_event_ns {self._table.limit_by}"
        )
        bound = await self._bound(seam, start_ns, end_ns)
        if bound is None:
            return None
        return await self._state.history.ask(f"SELECT {columns} FROM ({inner}) {tail}", bound, patient=True)


def _slot(name: str) -> str:
    """A query parameter for a column, or for an expression of one."""
    return "is_" + "".join(char if char.isalnum() else "_" for char in name)


def _positions(**positions: Positions) -> dict[str, Any]:
    """Parameters of `_from`."""
    told = dict[str, Any]()
    for name, of_partition in positions.items():
        told |= {f"{name}_in": list(of_partition), name: list(of_partition.values())}
    return told
