"""The equity curve: PnL at the end of each interval."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ....codecs.desk.money import parse_amount
from ....storage.client import quote_name
from ..history import in_turns
from ..stamps import NS
from ..state import FrontState
from .portfolio import ALL

INTERVALS = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86_400}
CURVES_KEPT = 64
_VALUES = ("realized_pnl", "unrealized_pnl", "fees", "total_pnl", "volume", "fill_count")


class Point(msgspec.Struct, frozen=True, gc=False, eq=False):
    """PnL at the end of an interval, since the beginning. Amounts in units of 1e-8."""

    start_ns: int  # of the interval
    symbol: str
    realized: int
    unrealized: int
    fees: int
    total: int
    volume: int
    fills: int


@dataclass(frozen=True)
class Curve:
    """Points of a range by their time, oldest first, and by their symbol within it.

    Attributes:
        before: the last point before the range of each symbol, from which the first differs.
        answered: False where ClickHouse did not answer: then there is only the point of now.
        kept: whether ClickHouse's part came from a cache.
    """

    points: Sequence[Point]
    before: dict[str, Point]
    answered: bool
    kept: bool


async def read_curve(
    state: FrontState, account: str | None, symbols: frozenset[str], interval: str, start_ns: int, end_ns: int,
    *, strategy: str = ALL,
) -> Curve:  # fmt: skip
    """The curve of an account, or of all together; of the whole unless symbols are named (as in the fills)."""
    length = INTERVALS[interval] * NS
    first = start_ns // length * length
    wanted = tuple(sorted(symbols)) or (ALL,)

    async def ask() -> list[list[str | int]] | None:
        sums = ", ".join(f"toString(sum(s.{name}))" for name in _VALUES)
        table = f"{quote_name(state.history.database)}.pnl_curve_states"
        one = "" if account is None else "account_id = {account:String} AND "
        return await state.history.ask(
            f"SELECT toUnixTimestamp(bucket), symbol, {sums} FROM (SELECT time_bucket AS bucket, account_id, symbol, "
            f"argMaxMerge(last) AS s FROM {table} WHERE {one}strategy_id = {{strategy:String}} "
            "AND symbol IN {symbols:Array(String)} AND interval_type = {interval:String} "
            "AND time_bucket >= fromUnixTimestamp({first:Int64}) AND time_bucket < fromUnixTimestamp({end:Int64}) "
            "GROUP BY time_bucket, account_id, symbol) GROUP BY bucket, symbol ORDER BY bucket, symbol",
            {"account": account or "", "strategy": strategy, "symbols": list(wanted), "interval": interval,
             "first": (first - length) // NS, "end": -(-end_ns // NS)},
            patient=True,
        )  # fmt: skip

    rows, kept, answered = [], False, True
    if state.history.configured:
        # the range of a page that is asked for again and again moves on by less than an interval
        identity = ("curve", account, strategy, wanted, interval, first, -(-end_ns // length))
        found, kept = await state.desk.cache.get(identity, ask)
        answered, rows = found is not None, found or []
    stored = await _parsed(rows) if rows else []
    begins = bisect_left(stored, first, key=lambda point: point.start_ns)
    before, points = {point.symbol: point for point in stored[:begins]}, stored[begins:]
    _append_now(state, account, strategy, wanted, length, first, end_ns, points)
    return Curve(points, before, answered, kept)


_PARSED: dict[int, tuple[list[list[Any]], list[Point]]] = {}  # by the identity of the rows, which are kept with them


async def _parsed(rows: list[list[Any]]) -> list[Point]:
    """The points of an answer, worked out once while the answer is kept."""
    kept = _PARSED.get(id(rows))
    if kept is None:
        points = await in_turns(_point, rows)
        if len(_PARSED) >= CURVES_KEPT:
            _PARSED.clear()
        kept = _PARSED[id(rows)] = rows, points
    return kept[1]


def _point(row: list[Any]) -> Point:
    seconds, symbol, *values = row
    realized, unrealized, fees, total, volume = (parse_amount(value)[0] for value in values[:5])
    return Point(int(seconds) * NS, symbol, realized, unrealized, fees, total, volume, int(values[5]))


def _append_now(
    state: FrontState, account: str | None, strategy: str, symbols: Sequence[str], length: int, first: int,
    end_ns: int, points: list[Point],
) -> None:  # fmt: skip
    """The interval that is not over ends, for now, with what memory holds."""
    for symbol in symbols:
        now = state.desk.portfolio.whole(account, strategy, symbol)
        if not now["updated_ns"]:
            continue
        bucket = now["updated_ns"] // length * length
        if not first <= bucket < end_ns:
            continue
        point = Point(
            bucket, symbol, now["realized_pnl"], now["unrealized_pnl"], now["fees"], now["total_pnl"], now["volume"],
            now["fill_count"],
        )  # fmt: skip
        at = bisect_left(points, bucket, key=lambda point: point.start_ns)
        others = [other for other in points[at:] if other.symbol != symbol]
        points[at:] = sorted([*others, point], key=lambda point: (point.start_ns, point.symbol))


def before_of(curve: Curve, index: int) -> Point | None:
    """The point of the same symbol before one of a curve."""
    points = curve.points
    symbol = points[index].symbol
    for earlier in range(index - 1, -1, -1):
        if points[earlier].symbol == symbol:
            return points[earlier]
    return curve.before.get(symbol)


def differences(curve: Curve) -> list[tuple[Point, Point | None]]:
    """Each point with the one of its symbol before it."""
    last: dict[str, Point] = dict(curve.before)
    found = []
    for point in curve.points:
        found.append((point, last.get(point.symbol)))
        last[point.symbol] = point
    return found
