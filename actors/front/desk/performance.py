"""Performance: our own figures from the portfolio, and what strategies state of themselves."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from msgspec import Raw

from ....codecs.desk.canonical import DEFAULT_STRATEGY, Performance
from ....codecs.desk.money import amount_number, divide
from ....storage.client import quote_name
from ..endpoints import Answer, Answerer, Arguments, Endpoint
from ..envelope import encode, members
from ..params import choice, flag, text
from ..stamps import NS
from ..state import FrontState
from .cursors import Place
from .curve import Curve, read_curve
from .desk import event_identity
from .form import (
    AMOUNT_SCHEMA,
    INTEGER,
    MAYBE_AMOUNT,
    MAYBE_NUMBER,
    MOMENT,
    OBJECT,
    TEXT,
    Form,
    form_of,
    lists,
    objects,
)
from .legacy import bare, modelled
from .params import (
    ACCOUNT,
    DAY_NS,
    END,
    NUMBERS,
    START,
    STRINGS,
    SYMBOL,
    TIME,
    bounds,
    chosen,
    query_params,
)
from .pnl import by_symbol, profit_factor, ratio, win_rate
from .portfolio import ALL
from .ranged import Page, page_of
from .rendered import by_form
from .running import Span
from .shelf import ALL as EVERY
from .spans import current, figures
from .stored import Table

TOPIC = "strategy.performance.v1"
LONGEST_NS = 365 * DAY_NS
SPAN_NS = 30 * DAY_NS
NEWEST = Place(1, 1000, None)  # statements that are told
DAYS_A_YEAR = 365
PERIODS = {"daily": 30, "weekly": 90, "monthly": 365}  # days told by default
WITH_RETURNS = flag("include_daily_returns", True, "Also the PnL of each day.")
WITH_DRAWDOWN = flag("include_drawdown", True, "Also the fall from the highest PnL, by day.")
PERFORMER = text(
    "strategy_id", f"Strategy; `*` for all. Without one `{DEFAULT_STRATEGY}`, or all where it has no fills.",
    "a strategy",
)  # fmt: skip
PERIOD = choice("period", tuple(PERIODS), "What is added up.", "daily")

METRICS: dict[str, Any] = objects(
    win_rate=AMOUNT_SCHEMA, profit_factor=AMOUNT_SCHEMA, sharpe_ratio=AMOUNT_SCHEMA, max_drawdown=AMOUNT_SCHEMA,
    avg_holding_time=AMOUNT_SCHEMA, total_trades=INTEGER, profitable_trades=INTEGER,
    avg_profit_per_trade=AMOUNT_SCHEMA,
)  # fmt: skip
TIME_POINT: dict[str, Any] = objects(timestamp=MOMENT, value=AMOUNT_SCHEMA)
STATED: dict[str, Any] = objects(
    timestamp=MOMENT, strategy_id=TEXT, total_trades=INTEGER, win_rate=MAYBE_NUMBER, total_pnl=MAYBE_AMOUNT,
    sharpe_ratio=MAYBE_NUMBER, max_drawdown=MAYBE_NUMBER, profit_factor=MAYBE_NUMBER,
)  # fmt: skip
STATS: dict[str, Any] = {"trade_stats": OBJECT, "win_loss_analysis": OBJECT}
RETURNS: dict[str, Any] = {"returns": lists(OBJECT), "statistics": OBJECT, "period": TEXT}


def metrics(now: Mapping[str, Any], form: Form) -> dict[str, Any]:
    """PerfMetrics. A trade is a round trip, from flat to flat; rates in percent, holding time in minutes."""
    trips = now["winning_trips"] + now["losing_trips"]
    profit = now["gross_profit"] - now["gross_loss"]
    minutes = now["holding_ns"] / trips / NS / 60 if trips else 0.0
    return {
        "win_rate": form.amount(ratio(win_rate(now))), "profit_factor": form.amount(ratio(profit_factor(now))),
        "sharpe_ratio": form.amount(ratio(now["sharpe_ratio"])),
        "max_drawdown": form.amount(ratio(100 * now["max_drawdown"])),
        "avg_holding_time": form.amount(ratio(round(minutes, 6))), "total_trades": trips,
        "profitable_trades": now["winning_trips"],
        "avg_profit_per_trade": form.amount(divide(profit, trips) if trips else 0),
    }  # fmt: skip


@dataclass(frozen=True)
class Days:
    """PnL by UTC day, oldest first."""

    starts: Sequence[int]  # UNIX ns
    pnl: Sequence[int]  # of the day, after fees
    total: Sequence[int]  # at its end
    trades: Sequence[int]  # fills of the day

    @classmethod
    def of(cls, curve: Curve) -> Days:
        points = curve.points
        return cls(
            [point.start_ns for point in points], [point.own_total for point in points],
            [point.total for point in points], [point.own_fills for point in points],
        )  # fmt: skip

    def points(self, values: Sequence[int], form: Form) -> list[dict[str, Any]]:
        """TimePoints."""
        return [
            {"timestamp": form.moment(start), "value": form.amount(value)}
            for start, value in zip(self.starts, values, strict=True)
        ]

    def drawdown(self) -> list[int]:
        """How far the total lies below its highest so far, as amounts."""
        highest, found = 0, []
        for total in self.total:
            highest = max(highest, total)
            found.append(highest - total)
        return found

    def by(self, period: str) -> dict[int, tuple[int, int]]:
        """start of the period -> (PnL, fills)."""
        found: dict[int, tuple[int, int]] = {}
        for start, pnl, trades in zip(self.starts, self.pnl, self.trades, strict=True):
            begin = period_start(start, period)
            before = found.get(begin, (0, 0))
            found[begin] = before[0] + pnl, before[1] + trades
        return found


def period_start(day_ns: int, period: str) -> int:
    """Start of the day, the week (Monday) or the month, UTC."""
    if period == "weekly":
        return day_ns - (day_ns // DAY_NS + 3) % 7 * DAY_NS  # 1970-01-01 was a Thursday
    if period == "monthly":
        day = datetime.fromtimestamp(day_ns / NS, UTC)
        return int(day.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()) * NS
    return day_ns // DAY_NS * DAY_NS


def returns(periods: Mapping[int, tuple[int, int]], period: str, form: Form) -> dict[str, Any]:
    """PnL by period and what it tells. The Sharpe ratio is for a year of 365 days."""
    values = [amount_number(pnl) for pnl, _ in periods.values()]
    mean = sum(values) / len(values) if values else 0.0
    deviation = standard_deviation(values)
    positive = sum(value > 0 for value in values)
    a_year = {"daily": DAYS_A_YEAR, "weekly": DAYS_A_YEAR / 7, "monthly": 12}[period]
    return {
        "returns": [
            {"period": form.moment(start), "pnl": form.amount(pnl), "trade_count": trades}
            for start, (pnl, trades) in periods.items()
        ],
        "statistics": {
            "total_periods": len(values), "positive_periods": positive,
            "negative_periods": sum(value < 0 for value in values), "avg_return": mean, "return_std": deviation,
            "best_period": max(values, default=0.0), "worst_period": min(values, default=0.0),
            "sharpe_ratio": mean / deviation * math.sqrt(a_year) if deviation else 0.0,
            "win_rate_percent": 100 * positive / len(values) if values else 0.0,
        },
        "period": period,
    }  # fmt: skip


def standard_deviation(values: Sequence[float]) -> float:
    """Of a sample; 0 below two values."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def trade_stats(now: Mapping[str, Any], days: Days, execution_ms: float | None, form: Form) -> dict[str, Any]:
    """Round trips, won and lost. The standard deviation is that of the days; the best and the worst are not known in
    a range."""
    wins, losses = now["winning_trips"], now["losing_trips"]
    trips, profit = wins + losses, now["gross_profit"] - now["gross_loss"]
    win, loss = divide(now["gross_profit"], wins) if wins else 0, divide(now["gross_loss"], losses) if losses else 0
    best, worst = now["largest_win"], now["largest_loss"]
    worst = None if worst is None else -worst
    return {
        "trade_stats": {
            "total_trades": trips, "profitable_trades": wins, "losing_trades": losses,
            "win_rate_percent": win_rate(now), "total_pnl": form.amount(profit),
            "avg_pnl_per_trade": form.amount(divide(profit, trips) if trips else 0),
            "best_trade": form.maybe(best), "worst_trade": form.maybe(worst),
            "pnl_standard_deviation": standard_deviation([amount_number(pnl) for pnl in days.pnl]),
            "total_commission": form.amount(now["fees"]), "avg_execution_time_ms": execution_ms,
        },
        "win_loss_analysis": {
            "profit_factor": profit_factor(now), "total_profit": form.amount(now["gross_profit"]),
            "total_loss": form.amount(-now["gross_loss"]), "avg_win": form.amount(win), "avg_loss": form.amount(-loss),
            "largest_win": form.maybe(best), "largest_loss": form.maybe(worst),
        },
    }  # fmt: skip


def stated(one: Performance, form: Form) -> dict[str, Any]:
    """What a strategy says of itself, as B has it."""
    return {
        "timestamp": form.moment(one.timestamp), "strategy_id": one.strategy_id, "total_trades": one.total_trades,
        "win_rate": one.win_rate, "total_pnl": form.amount(one.total_pnl), "sharpe_ratio": one.sharpe_ratio,
        "max_drawdown": one.max_drawdown, "profit_factor": one.profit_factor,
    }  # fmt: skip


class Performances:
    """The statements and days of one worker."""

    def __init__(self, state: FrontState) -> None:
        self.state = state
        self.table: Table[Performance] = Table(state, Performance, "strategy_performance", ("event_id",), TOPIC)

    async def days(self, account: str | None, strategy: str | None, symbol: str | None, start: int, end: int) -> Days:
        """PnL by day."""
        named = [self.state.desk.portfolio.spellings(symbol)] if symbol else []
        first = start // DAY_NS * DAY_NS
        return Days.of(await read_curve(self.state, account, named, "1d", first, end, strategy=strategy or ALL))

    async def history(self, arguments: Arguments, strategy: str | None, start: int, end: int) -> list[Performance]:
        """What strategies state, newest first."""
        key = ("*", strategy) if strategy else EVERY
        older = self.table.older({"strategy_id": strategy} if strategy else {})
        desk, moving = self.state.desk, arguments["end_time"] is None
        name = (self.table.name, strategy, arguments["start_time"], arguments["end_time"])
        found: Page[Performance] | Awaitable[Page[Performance]] = page_of(
            desk.statements(TOPIC), Span(name, key, start, end, moving), NEWEST, older, desk, event_identity
        )
        return (await found if inspect.isawaitable(found) else found).items

    async def execution_ms(self, account: str | None, strategy: str | None, start: int, end: int) -> float | None:
        """Average time of an execution, as the reports state it."""
        minute = 60 * NS
        given = {"account_id": account, "strategy_id": strategy}
        wanted = {name: value for name, value in given.items() if value is not None}
        conditions = "".join(f"{name} = {{{name}:String}} AND " for name in wanted)

        async def ask() -> list[list[Any]] | None:
            return await self.state.history.ask(
                f"SELECT avgOrNull(execution_time_ms) FROM {quote_name(self.state.history.database)}.exec_reports "
                f"WHERE {conditions}ts_event_ns >= fromUnixTimestamp64Nano({{start:Int64}}, 'UTC') "
                "AND ts_event_ns < fromUnixTimestamp64Nano({end:Int64}, 'UTC')",
                {**wanted, "start": start, "end": end}, patient=True,
            )  # fmt: skip

        if not self.state.history.configured:
            return None
        asked = "execution", account, strategy, start // minute, end // minute
        found, _ = await self.state.desk.cache.get(asked, ask)
        return None if not found else found[0][0]


def performance_endpoints(state: FrontState) -> list[Endpoint]:
    """Canonical paths, and those of DipMaster's API and dashboard."""
    return [*_canonical(state), *_legacy(state)]


_SOME = (START, END, SYMBOL)


def _canonical(state: FrontState) -> list[Endpoint]:
    performances, rendered = Performances(state), by_form(stated)

    def whole(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])
        account = chosen(arguments["account_id"])
        bounds(arguments, SPAN_NS, LONGEST_NS)

        async def answer() -> Answer:
            start, end = bounds(arguments, SPAN_NS, LONGEST_NS)
            strategy = _meant(state, account, arguments)
            states = chosen(arguments["strategy_id"] or DEFAULT_STRATEGY)
            history = await performances.history(arguments, states, start, end)
            days = await performances.days(account, strategy, arguments["symbol"], start, end)
            now = await figures(state, account, strategy, arguments, SPAN_NS, LONGEST_NS)
            body = {
                "summary": {
                    "latest_performance": stated(history[0], form) if history else None, "data_points": len(history),
                    "time_range": {"start": form.moment(start), "end": form.moment(end)},
                },
                "history": Raw(rendered[form].array(history)), "metrics": metrics(now, form),
                "daily_returns": days.points(days.pnl, form) if arguments["include_daily_returns"] else [],
                "cumulative_pnl": days.points(days.total, form),
                "drawdown_series": days.points(days.drawdown(), form) if arguments["include_drawdown"] else [],
                "by_symbol_performance": by_symbol(state, account, strategy, form),
            }  # fmt: skip
            return members(encode(body), metadata=_who(account, strategy), count=len(history))

        return answer

    def summarised(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])
        account = chosen(arguments["account_id"])
        bounds(arguments, SPAN_NS, LONGEST_NS)

        async def answer() -> Answer:
            strategy = _meant(state, account, arguments)
            now = await figures(state, account, strategy, arguments, SPAN_NS, LONGEST_NS)
            return members(encode(metrics(now, form)), metadata=_who(account, strategy))

        return answer

    def traded(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])
        account = chosen(arguments["account_id"])
        bounds(arguments, SPAN_NS, LONGEST_NS)

        async def answer() -> Answer:
            start, end = bounds(arguments, SPAN_NS, LONGEST_NS)
            strategy = _meant(state, account, arguments)
            days = await performances.days(account, strategy, arguments["symbol"], start, end)
            now = await figures(state, account, strategy, arguments, SPAN_NS, LONGEST_NS)
            execution_ms = await performances.execution_ms(account, strategy, start, end)
            told = trade_stats(now, days, execution_ms, form)
            return members(encode(told), metadata=_who(account, strategy))

        return answer

    def returned(arguments: Arguments) -> Answerer:
        form, period = form_of(arguments["decimals"], arguments["time"]), arguments["period"]
        account = chosen(arguments["account_id"])
        bounds(arguments, PERIODS[period] * DAY_NS, LONGEST_NS)

        async def answer() -> Answer:
            start, end = bounds(arguments, PERIODS[period] * DAY_NS, LONGEST_NS)
            strategy = _meant(state, account, arguments)
            days = await performances.days(account, strategy, arguments["symbol"], start, end)
            return members(encode(returns(days.by(period), period, form)), metadata=_who(account, strategy))

        return answer

    def overview(arguments: Arguments) -> Answerer:
        form, account = form_of(arguments["decimals"], arguments["time"]), chosen(arguments["account_id"])

        async def answer() -> Answer:
            return members(encode(await account_overview(state, account, form)))

        return answer

    point = lists(TIME_POINT)
    data = objects(
        summary=OBJECT, history=lists(STATED), metrics=METRICS, daily_returns=point, cumulative_pnl=point,
        drawdown_series=point, by_symbol_performance=OBJECT,
    )  # fmt: skip
    who = (ACCOUNT, PERFORMER)
    common: dict[str, Any] = {"tag": "desk"}
    performed: dict[str, Any] = {
        **common, "metadata": {"account_id": TEXT, "strategy_id": TEXT}, "errors": (400, 503),
    }  # fmt: skip
    overview_schema = objects(account_id=TEXT, timestamp=MOMENT, positions=OBJECT, daily_pnl=OBJECT, risk={
        "type": ["object", "null"],
    })  # fmt: skip
    return [
        Endpoint(
            "/api/v1/performance", whole, "Performance: ours, and as strategies state it",
            (*who, *_SOME, WITH_RETURNS, WITH_DRAWDOWN, STRINGS, TIME), data=data, **performed,
        ),
        Endpoint(
            "/api/v1/performance/summary", summarised, "Performance since the beginning, or of the range that is named",
            (*who, *_SOME, STRINGS, TIME), data=METRICS, **performed,
        ),
        Endpoint(
            "/api/v1/performance/trades", traded, "Round trips, won and lost", (*who, *_SOME, NUMBERS, TIME),
            data=objects(**STATS), **performed,
        ),
        Endpoint(
            "/api/v1/performance/returns", returned, "PnL by day, week or month", (*who, *_SOME, PERIOD, NUMBERS, TIME),
            data=objects(**RETURNS), **performed,
        ),
        Endpoint("/api/v1/summary", overview, "An account in one look", (ACCOUNT, NUMBERS, TIME),
                 data=overview_schema, **common),
    ]  # fmt: skip


def _meant(state: FrontState, account: str | None, arguments: Arguments) -> str | None:
    """The strategy that is asked for; None for all. One that is named and not known has no figures."""
    named = arguments["strategy_id"]
    if named is None:
        return DEFAULT_STRATEGY if state.desk.portfolio.pnl(account, DEFAULT_STRATEGY) else None
    return chosen(named)


async def account_overview(state: FrontState, account: str | None, form: Form) -> dict[str, Any]:
    """What an account holds, what it earned today, and what its risk engine said last.

    Of today, `total` is after fees, `realized` before them, and `unrealized` is by how much the value of what is open
    has changed. They are null where ClickHouse cannot tell what they were when the day began.
    """
    now, positions = current(state, account, None, None), state.desk.portfolio.positions(account)
    day_ns = time.time_ns() // DAY_NS * DAY_NS
    curve = await read_curve(state, account, (), "1d", day_ns, day_ns + DAY_NS)
    today = [(point.own_realized, point.own_unrealized) for point in curve.points] or [(0, 0)]
    realized, unrealized = today[-1] if state.history.configured and curve.answered else (None, None)
    said, risk = state.desk.risk.of(account), None
    if said is not None:
        risk = {
            "risk_score": said.risk_score, "max_drawdown": said.max_drawdown, "var_1d": form.maybe(said.var_1d),
            "leverage": said.leverage, "timestamp": form.moment(said.updated_ns),
        }  # fmt: skip
    return {
        "account_id": account or "*", "timestamp": form.moment(now["updated_ns"] or time.time_ns()),
        "positions": {
            "count": len(positions), "total_value": form.amount(sum(row["market_value"] for row in positions)),
            "total_pnl": form.amount(sum(row["unrealized_pnl"] for row in positions)),
        },
        "daily_pnl": {
            "realized": form.maybe(realized), "unrealized": form.maybe(unrealized),
            "total": form.amount(now["total_pnl"] - now["day_start_pnl"]),
        },
        "risk": risk,
    }  # fmt: skip


def _who(account: str | None, strategy: str | None) -> dict[str, str]:
    """Whose figures they are."""
    return {"account_id": account or "*", "strategy_id": strategy or "*"}


def _legacy(state: FrontState) -> list[Endpoint]:
    performances = Performances(state)

    async def whole(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        start, end = bounds(arguments, SPAN_NS, LONGEST_NS)
        symbol = arguments["symbol"]
        days = await performances.days(None, None, symbol, start, end)
        return {
            "metrics": metrics(await figures(state, None, None, arguments, SPAN_NS, LONGEST_NS), form),
            "daily_returns": days.points(days.pnl, form) if arguments["include_daily_returns"] else [],
            "cumulative_pnl": days.points(days.total, form),
            "drawdown_series": days.points(days.drawdown(), form) if arguments["include_drawdown"] else [],
            "by_symbol_performance": by_symbol(state, None, None, form),
        }  # fmt: skip

    async def summarised(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        return metrics(await figures(state, None, None, arguments, SPAN_NS, LONGEST_NS), form)

    async def traded(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        start, end = bounds(arguments, SPAN_NS, LONGEST_NS)
        days = await performances.days(None, None, arguments["symbol"], start, end)
        execution_ms = await performances.execution_ms(None, None, start, end)
        now = await figures(state, None, None, arguments, SPAN_NS, LONGEST_NS)
        told = trade_stats(now, days, execution_ms, form)
        return {**told, "query_params": query_params(arguments, _SOME), "timestamp": form.moment(end)}

    async def returned(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        period = arguments["period"]
        start, end = bounds(arguments, PERIODS[period] * DAY_NS, LONGEST_NS)
        days = await performances.days(None, None, arguments["symbol"], start, end)
        asked = query_params(arguments, (*_SOME, PERIOD))
        return {**returns(days.by(period), period, form), "query_params": asked, "timestamp": form.moment(end)}

    point, more = lists(TIME_POINT), {"query_params": OBJECT, "timestamp": TEXT}
    errors = (400, 422, 503)
    return [
        modelled(
            "/api/performance", "Performance of a range", (*_SOME, WITH_RETURNS, WITH_DRAWDOWN),
            {"metrics": METRICS, "daily_returns": point, "cumulative_pnl": point, "drawdown_series": point,
             "by_symbol_performance": OBJECT}, whole, errors=errors,
        ),
        bare(
            "/api/performance/summary", "Performance since the beginning, or of the range that is named", _SOME,
            METRICS["properties"], summarised, amounts="string", errors=errors,
        ),
        bare("/api/performance/trades", "Round trips, won and lost", _SOME, {**STATS, **more}, traded, errors=errors),
        bare("/api/performance/returns", "PnL by period", (*_SOME, PERIOD), {**RETURNS, **more}, returned),
    ]  # fmt: skip
