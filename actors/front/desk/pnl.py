"""PnL: the curve of a range, what it adds up to, and what it is now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from msgspec import Raw

from ....codecs.desk.money import UNIT, amount_text
from ..endpoints import Answer, Answerer, Arguments, Endpoint, Enveloped
from ..envelope import encode, members
from ..params import Param, choice, flag
from ..shapes import COMPLETENESS
from ..state import FrontState
from .cursors import Cursor, cursor_param, cut, place_of
from .curve import INTERVALS, Curve, Point, read_curve
from .form import (
    AMOUNT_SCHEMA,
    FORMS,
    INTEGER,
    MAYBE_MOMENT,
    MAYBE_TEXT,
    MOMENT,
    OBJECT,
    TEXT,
    Form,
    form_of,
    lists,
    naive,
    objects,
)
from .health import writer_behind
from .legacy import bare, modelled
from .params import (
    ACCOUNT,
    ANY_STRATEGY,
    DAY_NS,
    END,
    NUMBERS,
    PAGE,
    PAGE_SIZE,
    START,
    SYMBOL,
    SYMBOLS,
    TIME,
    bounds,
    chosen,
    plain_symbol,
    query_params,
)
from .portfolio import ALL, Latest, Once, together
from .rendered import Rendered, by_form
from .spans import current, figures, ranged

LONGEST_NS, LONGEST_LEGACY_NS = 365 * DAY_NS, 90 * DAY_NS
INTERVAL = choice("interval", tuple(INTERVALS), "Length of the intervals.", "1h")
CURSOR = cursor_param(1)
WITH_SERIES = flag("include_timeseries", True, "Also the points of the range.")

POINT: dict[str, Any] = objects(
    timestamp=MOMENT, symbol=TEXT, realized_pnl=AMOUNT_SCHEMA, unrealized_pnl=AMOUNT_SCHEMA, total_pnl=AMOUNT_SCHEMA,
    cumulative_pnl=AMOUNT_SCHEMA,
)  # fmt: skip
SUMMARY: dict[str, Any] = objects(
    total_realized_pnl=AMOUNT_SCHEMA, total_unrealized_pnl=AMOUNT_SCHEMA, total_pnl=AMOUNT_SCHEMA,
    daily_pnl=AMOUNT_SCHEMA, weekly_pnl=AMOUNT_SCHEMA, monthly_pnl=AMOUNT_SCHEMA, win_rate=AMOUNT_SCHEMA,
    profit_factor=AMOUNT_SCHEMA, max_drawdown=AMOUNT_SCHEMA, sharpe_ratio=AMOUNT_SCHEMA,
)  # fmt: skip
REALTIME: dict[str, Any] = objects(
    total_realized_pnl=AMOUNT_SCHEMA, total_unrealized_pnl=AMOUNT_SCHEMA, total_pnl=AMOUNT_SCHEMA,
    total_commission=AMOUNT_SCHEMA, trade_count=INTEGER, last_update=MAYBE_MOMENT, symbol=MAYBE_TEXT,
)  # fmt: skip
BY_SYMBOL: dict[str, Any] = {"type": "object", "additionalProperties": objects(
    realized_pnl=AMOUNT_SCHEMA, unrealized_pnl=AMOUNT_SCHEMA, total_pnl=AMOUNT_SCHEMA, commission=AMOUNT_SCHEMA,
    trade_count=INTEGER, volume=AMOUNT_SCHEMA,
)}  # fmt: skip


def ratio(value: float) -> int:
    """A ratio as an amount, which `Form` writes."""
    return round(value * UNIT)


def win_rate(now: Mapping[str, Any]) -> float:
    """Percent of the round trips that ended with a profit."""
    trips = now["winning_trips"] + now["losing_trips"]
    return 100.0 * now["winning_trips"] / trips if trips else 0.0


def profit_factor(now: Mapping[str, Any]) -> float:
    """Gross profit by gross loss; 0 without a loss."""
    return now["gross_profit"] / now["gross_loss"] if now["gross_loss"] else 0.0


def summary(now: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """PnLSummary: everything there is in `now`, and of the last UTC day, 7 days, 30 days; after fees."""
    total = now["total_pnl"]
    return {
        "total_realized_pnl": form.amount(now["realized_pnl"]),
        "total_unrealized_pnl": form.amount(now["unrealized_pnl"]), "total_pnl": form.amount(total),
        "daily_pnl": form.amount(total - now["day_start_pnl"]),
        "weekly_pnl": form.amount(total - now["week_start_pnl"]),
        "monthly_pnl": form.amount(total - now["month_start_pnl"]), "win_rate": form.amount(ratio(win_rate(now))),
        "profit_factor": form.amount(ratio(profit_factor(now))),
        "max_drawdown": form.amount(ratio(100 * now["max_drawdown"])),
        "sharpe_ratio": form.amount(ratio(now["sharpe_ratio"])),
    }  # fmt: skip


def realtime(now: Mapping[str, Any], symbol: str | None, form: Form) -> dict[str, Any]:
    """What it is at this moment."""
    return {
        "total_realized_pnl": form.amount(now["realized_pnl"]),
        "total_unrealized_pnl": form.amount(now["unrealized_pnl"]), "total_pnl": form.amount(now["total_pnl"]),
        "total_commission": form.amount(now["fees"]), "trade_count": now["fill_count"],
        "last_update": form.when(now["updated_ns"] or None), "symbol": symbol,
    }  # fmt: skip


def by_symbol(
    state: FrontState, account: str | None, strategy: str | None, form: Form, named: Sequence[str] = ()
) -> dict[str, Any]:
    """PnL now of each symbol, or of those named, as JSON texts."""
    found: dict[str, list[Latest]] = {}
    for row in state.desk.portfolio.pnl_by_symbol(account, strategy or ALL):
        if not named or row.symbol in named:
            found.setdefault(row.symbol, []).append(row)
    texts = _OF_SYMBOL[form]
    return {symbol: texts.of((account, strategy, symbol), rows) for symbol, rows in sorted(found.items())}


def _of_symbol(rows: list[Latest], form: Form) -> Raw:
    now = together(rows)
    return Raw(encode({
        "realized_pnl": form.amount(now["realized_pnl"]), "unrealized_pnl": form.amount(now["unrealized_pnl"]),
        "total_pnl": form.amount(now["total_pnl"]), "commission": form.amount(now["fees"]),
        "trade_count": now["fill_count"], "volume": form.amount(now["volume"]),
    }))  # fmt: skip


_OF_SYMBOL = {form: Once(partial(_of_symbol, form=form)) for form in FORMS}


def _rank(point: Point) -> Cursor:
    return Cursor(point.start_ns, (point.symbol,))


def _point(point: Point, form: Form) -> dict[str, Any]:
    """A point of B: what was added in the interval, and the sum at its end."""
    return {
        "timestamp": form.moment(point.start_ns), "symbol": point.symbol,
        "realized_pnl": form.amount(point.own_realized), "unrealized_pnl": form.amount(point.unrealized),
        "total_pnl": form.amount(point.own_total), "cumulative_pnl": form.amount(point.total),
    }  # fmt: skip


_POINTS = by_form(_point)


def _time_point(point: Point) -> dict[str, Any]:
    return {"timestamp": naive(point.start_ns), "value": amount_text(point.total)}


_TIME_POINTS = Rendered(_time_point)


async def series_of(points: Sequence[Point]) -> Raw:
    """TimePoints of DipMaster's API: total PnL at the end of each interval."""
    return Raw(await _TIME_POINTS.long_array(points))


def pnl_endpoints(state: FrontState) -> list[Endpoint]:
    """Canonical paths, and those of DipMaster's API."""
    return [*_canonical(state), *_legacy(state)]


_LISTED: tuple[Param, ...] = (
    ACCOUNT, ANY_STRATEGY, START, END, SYMBOL, SYMBOLS, INTERVAL, PAGE, PAGE_SIZE, CURSOR, NUMBERS,
    TIME,
)  # fmt: skip
_NOW: tuple[Param, ...] = (ACCOUNT, ANY_STRATEGY, SYMBOL, NUMBERS, TIME)


def _symbols(arguments: Arguments) -> list[str]:
    """The symbols that are meant, each once; empty for the whole."""
    given = [arguments.get("symbol"), *(arguments.get("symbols") or "").split(",")]
    return list({plain_symbol(one.strip()): one.strip() for one in given if one and one.strip()}.values())


def _canonical(state: FrontState) -> list[Endpoint]:
    def listed(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])
        account, strategy = chosen(arguments["account_id"]), chosen(arguments["strategy_id"])
        place, asked, texts = place_of(arguments), query_params(arguments, _LISTED), _POINTS[form]
        bounds(arguments, DAY_NS, LONGEST_NS)

        async def answer() -> Answer:
            start, end = bounds(arguments, DAY_NS, LONGEST_NS)
            symbols = _symbols(arguments)
            named = [state.desk.portfolio.spellings(symbol) for symbol in symbols]
            curve = await read_curve(state, account, named, arguments["interval"], start, end, strategy=strategy or ALL)
            points = curve.points
            newest_first = range(len(points) - 1, -1, -1)
            shown, pagination = cut(newest_first, lambda index: _rank(points[index]), place)
            now = current(state, account, strategy, *symbols)
            metadata = {
                "count": len(shown), "account_id": account or "*", "interval": arguments["interval"],
                "start_time": form.moment(start), "end_time": form.moment(end), **_origin(state, curve),
                "summary": summary(now, form),
                "by_symbol": by_symbol(state, account, strategy, form, [name for one in named for name in one]),
            }  # fmt: skip
            body = members(
                texts.array([points[index] for index in shown]), metadata=metadata,
                count=len(points), pagination=pagination, query_params=asked,
            )  # fmt: skip
            return Enveloped(body, headers={"X-Cache": "HIT" if curve.kept else "MISS"})

        return answer

    def summarised(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])
        account, strategy = chosen(arguments["account_id"]), chosen(arguments["strategy_id"])
        bounds(arguments, DAY_NS, LONGEST_NS)

        async def of_range() -> Answer:
            found = await figures(state, account, strategy, arguments, DAY_NS, LONGEST_NS)
            return members(encode(summary(found, form)), metadata={"data_source": "mixed"})

        def answer() -> Answer:
            now = current(state, account, strategy, arguments["symbol"])
            return members(encode(summary(now, form)), metadata={"data_source": "memory"})

        return of_range if ranged(arguments) else answer

    def of_now(arguments: Arguments) -> Answerer:
        form, symbol = form_of(arguments["decimals"], arguments["time"]), arguments["symbol"]
        account, strategy = chosen(arguments["account_id"]), chosen(arguments["strategy_id"])

        def answer() -> Answer:
            now = current(state, account, strategy, symbol)
            return members(encode(realtime(now, symbol, form)), metadata={"data_source": "memory"})

        return answer

    common: dict[str, Any] = {"tag": "desk", "errors": (400,)}
    return [
        Endpoint(
            "/api/v1/pnl", listed, "PnL by interval, newest first", _LISTED, data=lists(POINT),
            metadata={"count": INTEGER, "account_id": TEXT, "interval": TEXT, "start_time": MOMENT, "end_time": MOMENT,
                      **COMPLETENESS, "summary": SUMMARY, "by_symbol": BY_SYMBOL}, **common,
        ),
        Endpoint(
            "/api/v1/pnl/summary", summarised, "PnL since the beginning, or of the range that is named",
            (*_NOW, START, END), data=SUMMARY, metadata={"data_source": TEXT}, tag="desk", errors=(400, 503),
        ),
        Endpoint(
            "/api/v1/pnl/realtime", of_now, "PnL now", _NOW, data=REALTIME, metadata={"data_source": TEXT}, **common,
        ),
    ]  # fmt: skip


def _origin(state: FrontState, curve: Curve) -> dict[str, Any]:
    if not curve.answered:
        return {"data_source": "memory", "completeness": 0.0, "note": "memory only: ClickHouse did not answer"}
    if not state.history.configured:
        return {"data_source": "memory", "completeness": 0.0, "note": "memory only: no history is configured"}
    if note := writer_behind(state):
        return {"data_source": "mixed", "completeness": 99.99, "note": note}
    return {"data_source": "mixed", "completeness": 100.0}


def _legacy(state: FrontState) -> list[Endpoint]:
    some = (START, END, SYMBOL)

    async def listed(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        start, end = bounds(arguments, DAY_NS, LONGEST_LEGACY_NS)
        symbol = arguments["symbol"]
        named = [state.desk.portfolio.spellings(symbol)] if symbol else []
        curve = await read_curve(state, None, named, arguments["interval"], start, end)
        return {
            "summary": summary(await figures(state, None, None, arguments, DAY_NS, LONGEST_LEGACY_NS), form),
            "timeseries": await series_of(curve.points) if arguments["include_timeseries"] else [],
            "by_symbol": {} if symbol else by_symbol(state, None, None, form),
        }

    async def summarised(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        return summary(await figures(state, None, None, arguments, DAY_NS, LONGEST_LEGACY_NS), form)

    def now(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        told = realtime(current(state, None, None, arguments["symbol"]), arguments["symbol"], form)
        return {name: value for name, value in told.items() if name != "trade_count"}

    shown = {name: schema for name, schema in REALTIME["properties"].items() if name != "trade_count"}
    point = objects(timestamp=TEXT, value=TEXT)
    return [
        modelled(
            "/api/pnl", "PnL of a range", (*some, INTERVAL, WITH_SERIES),
            {"summary": SUMMARY, "timeseries": lists(point), "by_symbol": OBJECT}, listed, errors=(400, 422, 503),
        ),
        bare(
            "/api/pnl/summary", "PnL since the beginning, or of the range that is named", some, SUMMARY["properties"],
            summarised, amounts="string", errors=(400, 422, 503),
        ),
        bare("/api/pnl/realtime", "PnL now", (SYMBOL,), shown, now),
    ]  # fmt: skip
