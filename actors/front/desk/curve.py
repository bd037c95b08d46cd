"""The equity curve: PnL at the end of each interval."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ....codecs.desk.money import parse_amount
from ....storage.client import quote_name
from ....storage.deskcurve import CURVE_STATES, INTERVALS
from ..history import in_turns
from ..stamps import NS
from ..state import FrontState
from .params import DAY_NS
from .portfolio import ALL

CURVES_KEPT = 64
_AMOUNTS = ("realized_pnl", "unrealized_pnl", "total_pnl")
Spellings = tuple[str, ...]  # of one symbol, as fills write it; told by the first


class Point(msgspec.Struct, frozen=True, gc=False, eq=False):
    """PnL at the end of an interval, since the beginning and of the interval alone. Amounts in units of 1e-8."""

    start_ns: int  # of the interval
    symbol: str
    realized: int
    unrealized: int
    total: int
    fills: int
    own_realized: int
    own_unrealized: int
    own_total: int
    own_fills: int


@dataclass(frozen=True)
class Curve:
    """Points of a range by their time, oldest first, and by their symbol within it.

    Attributes:
        answered: False where ClickHouse did not answer: then there is only the point of now.
        kept: whether ClickHouse's part came from a cache.
    """

    points: Sequence[Point]
    answered: bool
    kept: bool


async def read_curve(
    state: FrontState, account: str | None, symbols: Sequence[Spellings], interval: str, start_ns: int, end_ns: int,
    *, strategy: str = ALL,
) -> Curve:  # fmt: skip
    """The curve of an account, or of all together; of the whole unless symbols are named.

    An account counts in every interval with what it had last, as it is stored only when something changes. What it had
    before the range is that of the last day that has a sample, and of the range's first day until then.
    """
    length = INTERVALS[interval] * NS
    first = start_ns // length * length
    wanted = sorted(symbols) or [(ALL,)]
    told = {spelling: one[0] for one in wanted for spelling in one}

    async def ask() -> list[list[str | int]] | None:
        values = ", ".join(
            f"s.{name} - lagInFrame(s.{name}, 1, CAST(0, 'Decimal(38, 8)')) OVER before AS {name}" for name in _AMOUNTS
        )
        sums = ", ".join(f"toString(sum({name}))" for name in (*_AMOUNTS, "fills"))
        samples, parameters = samples_until(state, account, strategy, list(told), interval, first, -(-end_ns // NS))
        return await state.history.ask(
            f"SELECT toUnixTimestamp(bucket), told, {sums} FROM (SELECT bucket, {values}, "
            "toInt64(s.fill_count) - lagInFrame(toInt64(s.fill_count), 1, toInt64(0)) OVER before AS fills, "
            "transform(toString(symbol), {symbols:Array(String)}, {told:Array(String)}) AS told "
            "FROM (SELECT account_id, symbol, argMaxMerge(last) AS s, "
            "if(time_bucket < fromUnixTimestamp({first:Int64}), toDateTime(0, 'UTC'), time_bucket) AS bucket "
            f"{samples} GROUP BY bucket, account_id, symbol) WINDOW before AS (PARTITION BY account_id, symbol "
            "ORDER BY bucket ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)) GROUP BY bucket, told ORDER BY bucket, told",
            {**parameters, "told": list(told.values()), "first": first // NS},
            patient=True,
        )  # fmt: skip

    rows, kept, answered = [], False, True
    if state.history.configured:
        # the range of a page that is asked for again and again moves on by less than an interval
        identity = ("curve", account, strategy, tuple(wanted), interval, first, -(-end_ns // length))
        found, kept = await state.desk.cache.get(identity, ask)
        answered, rows = found is not None, found or []
    points = list(await _parsed(rows)) if rows else []
    _append_now(state, account, strategy, wanted, length, first, end_ns, points)
    return Curve(points[_index(points, first) :], answered, kept)


def samples_until(
    state: FrontState, account: str | None, strategy: str, symbols: Sequence[str], interval: str, since_ns: int,
    end_s: int,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """FROM and WHERE of the states that tell how PnL stood at each moment of a range, and their parameters.

    These are the buckets of `interval` from the day of `since_ns` on, to `end_s` (UNIX s), and the days before.
    """
    one = "" if account is None else "account_id = {account:String} AND "
    return (
        f"FROM {quote_name(state.history.database)}.{CURVE_STATES} WHERE {one}strategy_id = {{strategy:String}} "
        "AND symbol IN {symbols:Array(String)} AND (interval_type = {interval:String} "
        "AND time_bucket >= fromUnixTimestamp({day:Int64}) AND time_bucket < fromUnixTimestamp({end:Int64}) "
        "OR interval_type = '1d' AND time_bucket < fromUnixTimestamp({day:Int64}))"
    ), {
        "account": account or "", "strategy": strategy, "symbols": list(symbols), "interval": interval,
        "day": since_ns // DAY_NS * DAY_NS // NS, "end": end_s,
    }  # fmt: skip


def _index(points: list[Point], start_ns: int) -> int:
    return bisect_left(points, start_ns, key=lambda point: point.start_ns)


_PARSED: dict[int, tuple[list[list[Any]], list[Point]]] = {}  # by the identity of the rows, which are kept with them


async def _parsed(rows: list[list[Any]]) -> list[Point]:
    """The points of an answer, worked out once while the answer is kept; what came before the range is at time 0."""
    kept = _PARSED.get(id(rows))
    if kept is None:
        last: dict[str, Point] = {}

        def read(row: list[Any]) -> Point:
            seconds, symbol, *amounts, fills = row
            own = [*(parse_amount(amount)[0] for amount in amounts), int(fills)]
            now = (a + b for a, b in zip(_sums(last.get(symbol)), own, strict=True))
            point = last[symbol] = Point(int(seconds) * NS, symbol, *now, *own)
            return point

        points = await in_turns(read, rows)
        if len(_PARSED) >= CURVES_KEPT:
            _PARSED.clear()
        kept = _PARSED[id(rows)] = rows, points
    return kept[1]


def _point(
    before: Point | None, start_ns: int, symbol: str, realized: int, unrealized: int, total: int, fills: int
) -> Point:
    """The point that follows one of its symbol."""
    now = realized, unrealized, total, fills
    own = tuple(a - b for a, b in zip(now, _sums(before), strict=True))
    return Point(start_ns, symbol, *now, *own)


def _sums(point: Point | None) -> tuple[int, int, int, int]:
    return (point.realized, point.unrealized, point.total, point.fills) if point is not None else (0, 0, 0, 0)


def _append_now(
    state: FrontState, account: str | None, strategy: str, symbols: Sequence[Spellings], length: int, first: int,
    end_ns: int, points: list[Point],
) -> None:  # fmt: skip
    """The interval that is not over ends, for now, with what memory holds."""
    for spellings in symbols:
        symbol, now = spellings[0], state.desk.portfolio.whole(account, strategy, spellings)
        if not now["updated_ns"]:
            continue
        bucket = now["updated_ns"] // length * length
        if not first <= bucket < end_ns:
            continue
        at = _index(points, bucket)
        before = next((points[i] for i in range(at - 1, -1, -1) if points[i].symbol == symbol), None)
        point = _point(before, bucket, symbol, *(now[name] for name in (*_AMOUNTS, "fill_count")))
        others = [other for other in points[at:] if other.symbol != symbol]
        points[at:] = sorted([*others, point], key=lambda point: (point.start_ns, point.symbol))
