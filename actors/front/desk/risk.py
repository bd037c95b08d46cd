"""Risk: what the desk's risk engines state, beside the limits.

A statement is a producer's claim, and is told as such; positions, exposure and PnL are our own portfolio's wherever the
account is known to it.
"""

from __future__ import annotations

import inspect
import time
from bisect import bisect_left, insort
from collections.abc import Awaitable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from msgspec import Raw

from ....codecs.desk.canonical import Risk
from ....codecs.desk.money import UNIT, amount_number
from ..endpoints import Answer, Answerer, Arguments, Endpoint
from ..envelope import encode, members
from ..params import Param, flag, number
from ..shapes import COMPLETENESS
from ..state import FrontState
from .config import Limits
from .form import (
    AMOUNT_SCHEMA,
    INTEGER,
    MAYBE_AMOUNT,
    MAYBE_NUMBER,
    MAYBE_TEXT,
    MOMENT,
    NUMBER,
    OBJECT,
    TEXT,
    Form,
    form_of,
    lists,
    naive,
    objects,
)
from .legacy import bare, modelled
from .params import (
    ACCOUNT,
    ANY_STRATEGY,
    DAY_NS,
    END,
    HOUR_NS,
    NUMBERS,
    PAGE,
    PAGE_SIZE,
    START,
    TIME,
    bounds,
    chosen,
    query_params,
)
from .ranged import Page, page_of
from .rendered import Rendered, Series, by_form
from .running import Span, Sum
from .shelf import ALL
from .stored import Table

TOPIC = "risk.metrics.v1"
LONGEST_NS = 90 * DAY_NS
SERIES_MAX = 10_000
LATEST = flag("latest", False, "The newest one alone, if it is of the last hour.")
WITH_HISTORY = flag("include_historical", True, "Also the scores of the range.")
CONFIDENCE = number("confidence_level", 0.95, 0.90, 0.99, "Of the value at risk.")

SNAPSHOT: dict[str, Any] = objects(
    timestamp=MOMENT, account_id=TEXT, portfolio_value=MAYBE_AMOUNT, total_pnl=MAYBE_AMOUNT, var_1d=MAYBE_AMOUNT,
    var_5d=MAYBE_AMOUNT, var_95=MAYBE_AMOUNT, var_99=MAYBE_AMOUNT, max_drawdown=MAYBE_NUMBER, leverage=MAYBE_NUMBER,
    risk_score=MAYBE_NUMBER, num_positions={"type": ["integer", "null"]}, daily_pnl=MAYBE_AMOUNT,
    total_exposure=MAYBE_AMOUNT, strategy_id=TEXT, source=MAYBE_TEXT, variant=TEXT,
)  # fmt: skip
SUMMARY: dict[str, Any] = objects(
    overall_risk_score=AMOUNT_SCHEMA, risk_level={"enum": ["LOW", "MEDIUM", "HIGH", "CRITICAL"]},
    active_alerts=INTEGER, breached_limits=INTEGER, var_utilization=AMOUNT_SCHEMA,
)  # fmt: skip
METRIC: dict[str, Any] = objects(
    name=TEXT, value=AMOUNT_SCHEMA, threshold=MAYBE_AMOUNT, status={"enum": ["NORMAL", "WARNING", "BREACH"]},
)  # fmt: skip
CHECK: dict[str, Any] = objects(
    current=AMOUNT_SCHEMA, limit=AMOUNT_SCHEMA, utilization_percent=AMOUNT_SCHEMA, status={"enum": ["OK", "BREACH"]},
)  # fmt: skip
CHECKS: dict[str, Any] = objects(position_limit=CHECK, daily_loss_limit=CHECK)
STATUSES = ("high", "medium", "low", "normal", "unknown")
CURRENT: dict[str, Any] = {
    "status": {"enum": list(STATUSES)}, "risk_score": MAYBE_NUMBER, "message": TEXT, "metrics": OBJECT,
    "timestamp": MOMENT,
}  # fmt: skip
LIMITS: dict[str, Any] = {"limits": OBJECT, "utilization": OBJECT, "breaches": lists(OBJECT), "timestamp": MOMENT}
VAR: dict[str, Any] = {
    "var_series": lists(OBJECT), "breach_analysis": OBJECT, "current_var": OBJECT, "query_params": OBJECT,
    "timestamp": MOMENT,
}  # fmt: skip


def level_of(score: float) -> str:
    """LOW below 40, MEDIUM, HIGH from 60, CRITICAL from 80."""
    return "CRITICAL" if score >= 80 else "HIGH" if score >= 60 else "MEDIUM" if score >= 40 else "LOW"


def snapshot(risk: Risk, form: Form) -> dict[str, Any]:
    """As B has it."""
    count = risk.num_positions if risk.num_positions is not None else risk.current_positions
    return {
        "timestamp": form.moment(risk.timestamp), "account_id": risk.account_id,
        "portfolio_value": form.maybe(risk.portfolio_value), "total_pnl": form.maybe(risk.total_pnl),
        "var_1d": form.maybe(risk.var_1d), "var_5d": form.maybe(risk.var_5d), "var_95": form.maybe(risk.var_95),
        "var_99": form.maybe(risk.var_99), "max_drawdown": risk.max_drawdown, "leverage": risk.leverage,
        "risk_score": risk.risk_score, "num_positions": count, "daily_pnl": form.maybe(risk.daily_pnl),
        "total_exposure": form.maybe(risk.total_exposure), "strategy_id": risk.strategy_id, "source": risk.source,
        "variant": risk.variant,
    }  # fmt: skip


class Measured:
    """An account against its limits: our own positions and PnL, the producers' score and value at risk.

    Attributes:
        risk: the newest statement; None where there is none.
    """

    def __init__(self, state: FrontState, account: str | None) -> None:
        self.limits: Limits = state.config.desk.limits
        shelf = state.desk.statements(TOPIC)
        item = shelf.latest((account,) if account else ALL) if shelf is not None else None
        self.risk: Risk | None = item.value if item is not None else None
        rows = state.desk.portfolio.pnl(account)
        now = state.desk.portfolio.whole(account)
        risk = self.risk
        if rows:
            self.daily_pnl = now["total_pnl"] - now["day_start_pnl"]
            self.exposure, self.positions = now["exposure"], now["positions"]
            # ours is a fraction of a capital that may not be configured
            stated = (risk.max_drawdown if risk else None) or 0.0
            self.drawdown, self.sharpe = max(now["max_drawdown"], stated), now["sharpe_ratio"]
        else:
            self.daily_pnl = (risk.daily_pnl if risk else None) or 0
            self.exposure = (risk.total_exposure if risk else None) or 0
            self.positions = (risk.current_positions or risk.num_positions if risk else None) or 0
            self.drawdown = (risk.max_drawdown if risk else None) or 0.0
            self.sharpe = (risk.sharpe_ratio if risk else None) or 0.0
        self.known = bool(rows) or risk is not None
        self.var_1d = (risk.var_1d if risk else None) or 0
        self.updated_ns = max(now["updated_ns"], risk.timestamp if risk else 0) or time.time_ns()

    @property
    def score(self) -> float | None:
        """Of the newest statement that has one."""
        return self.risk.risk_score if self.risk is not None else None

    @property
    def loss(self) -> int:
        """Of the day, positive."""
        return max(0, -self.daily_pnl)

    def against(self) -> dict[str, tuple[float, float]]:
        """limit -> (current, limit)."""
        limits = self.limits
        return {
            "positions": (self.positions, limits.max_positions),
            "daily_loss": (amount_number(self.loss), limits.daily_loss_limit),
            "drawdown": (100 * self.drawdown, limits.max_drawdown_limit),
            "var_1d": (amount_number(self.var_1d), limits.var_1d_limit),
            "exposure": (amount_number(self.exposure), limits.total_exposure_limit),
        }

    def breached(self) -> list[str]:
        return [name for name, (current, limit) in self.against().items() if current > limit]

    def summary(self, alerts: int, form: Form) -> dict[str, Any]:
        """RiskSummary."""
        score = self.score or 0.0
        used = 100 * amount_number(self.var_1d) / self.limits.var_1d_limit
        return {
            "overall_risk_score": form.amount(round(score * UNIT)), "risk_level": level_of(score),
            "active_alerts": alerts, "breached_limits": len(self.breached()),
            "var_utilization": form.amount(round(used * UNIT)),
        }  # fmt: skip

    def metrics(self, form: Form) -> list[dict[str, Any]]:
        """RiskMetrics: a breach above the limit, a warning from 80 % of it; of the Sharpe ratio a warning below."""

        def metric(name: str, value: float, limit: float) -> dict[str, Any]:
            status = "BREACH" if value > limit else "WARNING" if value >= 0.8 * limit else "NORMAL"
            return {"name": name, "value": amount(value), "threshold": amount(limit), "status": status}

        def amount(value: float) -> Any:
            return form.amount(round(value * UNIT))

        limits, sharpe = self.limits, self.sharpe
        return [
            metric("VaR_1D", amount_number(self.var_1d), limits.var_1d_limit),
            metric("Max_Drawdown", 100 * self.drawdown, limits.max_drawdown_limit),
            {"name": "Sharpe_Ratio", "value": amount(sharpe), "threshold": amount(limits.sharpe_ratio_limit),
             "status": "NORMAL" if sharpe >= limits.sharpe_ratio_limit else "WARNING"},
        ]  # fmt: skip

    def checks(self, form: Form) -> dict[str, Any]:
        """limit_checks."""

        def check(current: float, limit: float) -> dict[str, Any]:
            return {
                "current": form.amount(round(current * UNIT)), "limit": form.amount(round(limit * UNIT)),
                "utilization_percent": form.amount(round(100 * current / limit * UNIT)),
                "status": "BREACH" if current > limit else "OK",
            }  # fmt: skip

        return {
            "position_limit": check(self.positions, self.limits.max_positions),
            "daily_loss_limit": check(amount_number(self.loss), self.limits.daily_loss_limit),
        }

    def current(self, form: Form) -> dict[str, Any]:
        """The word for it, and the figures behind it."""
        score, pnl = self.score, amount_number(self.daily_pnl)
        if not self.known:
            status, message = "unknown", "nothing is known of this account"
        elif (score or 0) >= 80 or pnl < -500 or self.positions >= self.limits.max_positions:
            status, message = "high", "close to a limit or beyond it"
        elif (score or 0) >= 60 or pnl < -200:
            status, message = "medium", "worth watching"
        elif (score or 0) >= 40:
            status, message = "low", "inside the limits"
        else:
            status, message = "normal", "inside the limits"
        return {
            "status": status, "risk_score": score, "message": message,
            "metrics": {
                "daily_pnl": form.amount(self.daily_pnl), "current_positions": self.positions,
                "max_positions": self.limits.max_positions, "total_exposure": form.amount(self.exposure),
                "var_1d": form.amount(self.var_1d), "max_drawdown": 100 * self.drawdown,
            },
            "timestamp": form.moment(self.updated_ns),
        }  # fmt: skip

    def limits_told(self, form: Form) -> dict[str, Any]:
        """The limits, how far they are used, and which are passed."""
        limits = self.limits
        against = self.against()
        return {
            "limits": {
                "max_positions": limits.max_positions, "max_position_size": limits.max_position_size,
                "daily_loss_limit": limits.daily_loss_limit, "max_drawdown_limit": limits.max_drawdown_limit,
                "var_1d_limit": limits.var_1d_limit, "total_exposure_limit": limits.total_exposure_limit,
            },
            "utilization": {
                name: {"current": current, "limit": limit, "percentage": round(100 * current / limit, 4)}
                for name, (current, limit) in against.items()
            },
            "breaches": [
                {"limit_type": name, "current_value": against[name][0], "limit_value": against[name][1],
                 "breach_percentage": round(100 * against[name][0] / against[name][1] - 100, 4)}
                for name in self.breached()
            ],
            "timestamp": form.moment(self.updated_ns),
        }  # fmt: skip


def var_analysis(series: Sequence[Risk], confidence: float, form: Form) -> dict[str, Any]:
    """Value at risk of a range, oldest first, and how often a day's loss went beyond it."""
    stated = [risk for risk in series if risk.var_1d is not None]
    breaches = sum(risk.daily_pnl is not None and -risk.daily_pnl > (risk.var_1d or 0) for risk in stated)
    expected = 100 * (1 - confidence)
    rate = 100 * breaches / len(stated) if stated else 0.0
    last = stated[-1] if stated else None
    return {
        "var_series": [
            {"timestamp": form.moment(risk.timestamp), "var_1d": form.maybe(risk.var_1d),
             "var_5d": form.maybe(risk.var_5d), "daily_pnl": form.maybe(risk.daily_pnl),
             "exposure": form.maybe(risk.total_exposure)}
            for risk in stated
        ],
        "breach_analysis": {
            "total_observations": len(stated), "var_breaches": breaches, "breach_rate_percent": round(rate, 4),
            "expected_breach_rate_percent": round(expected, 4),
            "model_accuracy": "good" if rate <= 1.5 * expected else "needs_calibration",
        },
        "current_var": {
            "var_1d": form.maybe(last.var_1d if last else None), "var_5d": form.maybe(last.var_5d if last else None),
            "confidence_level": confidence, "last_update": form.when(last.timestamp if last else None),
        },
    }  # fmt: skip


class Statements:
    """The statements of one worker: memory first, ClickHouse for what memory no longer holds."""

    def __init__(self, state: FrontState) -> None:
        self.state = state
        self.table: Table[Risk] = Table(
            state, Risk, "risk_metrics", ("event_id",), lambda: state.desk.statements(TOPIC)
        )

    def page(
        self, arguments: Arguments, account: str | None, strategy: str | None, span_ns: int, page: int, size: int
    ) -> Page[Risk] | Awaitable[Page[Risk]]:
        """A page of a range, newest first. Raises InvalidTimeRange."""
        start, end = bounds(arguments, span_ns, LONGEST_NS)
        filters = {name: value for name, value in (("account_id", account), ("strategy_id", strategy)) if value}
        key = (account,) if account else ("*", strategy) if strategy else ALL
        fits = (lambda risk: risk.strategy_id == strategy) if account and strategy else None
        name = ("risk", account, strategy, span_ns, arguments["start_time"], arguments["end_time"])
        asked = Span(name, key, start, end, arguments["end_time"] is None, fits)
        desk = self.state.desk
        return page_of(desk.statements(TOPIC), asked, page, size, self.table.older(filters), desk)

    async def series(self, arguments: Arguments, account: str | None, span_ns: int) -> list[Risk]:
        """The range, oldest first; its newest 10,000."""
        start, end = bounds(arguments, span_ns, LONGEST_NS)
        name = ("risk", account, None, span_ns, arguments["start_time"], arguments["end_time"])
        key = (account,) if account else ALL
        desk, table = self.state.desk, self.table.older({"account_id": account} if account else {})
        shelf = desk.statements(TOPIC)
        if shelf is not None:
            shelf.refresh()
        alone = table is None or bool(shelf is not None and shelf.since_ns and start >= shelf.since_ns)

        async def older(before: int, start: int, end: int) -> list[Risk] | None:
            assert table is not None
            found = await table.rows(before, start, end, SERIES_MAX)
            return None if found is None else found[::-1]

        what = Sum[list[Risk]]("series", list, _in_order, None if alone else older)
        found, _ = await desk.lists.of(what, Span(name, key, start, end, arguments["end_time"] is None), shelf)
        del found[: bisect_left(found, start, key=_when)], found[:-SERIES_MAX]
        return found


_when = attrgetter("timestamp")


def _in_order(series: list[Risk], risk: Risk) -> list[Risk]:
    insort(series, risk, key=_when)
    return series


def risk_endpoints(state: FrontState) -> list[Endpoint]:
    """Canonical paths, and those of DipMaster's API."""
    return [*_canonical(state), *_legacy(state)]


_LISTED: tuple[Param, ...] = (
    ACCOUNT, ANY_STRATEGY, START, END, LATEST, PAGE, PAGE_SIZE, NUMBERS, TIME,
)  # fmt: skip


def _canonical(state: FrontState) -> list[Endpoint]:
    statements, rendered = Statements(state), by_form(snapshot)

    def listed(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])
        account, strategy = chosen(arguments["account_id"]), chosen(arguments["strategy_id"])
        page, size = arguments["page"], arguments["page_size"]
        texts, asked = rendered[form], query_params(arguments, _LISTED)
        bounds(arguments, DAY_NS, LONGEST_NS)

        def told(found: Page[Risk]) -> Answer:
            measured = Measured(state, account)
            start, end = bounds(arguments, DAY_NS, LONGEST_NS)
            metadata = {
                "count": len(found.items), "account_id": account or "*", "start_time": form.moment(start),
                "end_time": form.moment(end), "summary": measured.summary(state.desk.active_alerts(), form),
                "metrics": measured.metrics(form), "limit_checks": measured.checks(form), **found.metadata(),
            }  # fmt: skip
            return members(
                texts.array(found.items), metadata=metadata, count=found.total,
                pagination=found.pagination(page, size), query_params=asked,
            )  # fmt: skip

        async def waiting(found: Awaitable[Page[Risk]]) -> Answer:
            return told(await found)

        def newest() -> Answer:
            risk = Measured(state, account).risk
            recent = risk is not None and risk.timestamp >= time.time_ns() - HOUR_NS
            return members(
                encode(snapshot(risk, form)) if recent and risk else None, metadata={"data_source": "memory"}
            )

        def answer() -> Answer | Awaitable[Answer]:
            if arguments["latest"]:
                return newest()
            found = statements.page(arguments, account, strategy, DAY_NS, page, size)
            return waiting(found) if inspect.isawaitable(found) else told(found)

        return answer

    def measured(make: Any) -> Any:
        def prepare(arguments: Arguments) -> Answerer:
            form, account = form_of(arguments["decimals"], arguments["time"]), chosen(arguments["account_id"])
            return lambda: members(encode(make(Measured(state, account), form)))

        return prepare

    def value_at_risk(arguments: Arguments) -> Answerer:
        form, account = form_of(arguments["decimals"], arguments["time"]), chosen(arguments["account_id"])
        bounds(arguments, 30 * DAY_NS, LONGEST_NS)

        async def answer() -> Answer:
            series = await statements.series(arguments, account, 30 * DAY_NS)
            return members(encode(var_analysis(series, arguments["confidence_level"], form)))

        return answer

    common: dict[str, Any] = {"tag": "desk"}
    snapshots = {"oneOf": [lists(SNAPSHOT), SNAPSHOT, {"type": "null"}]}
    now = (ACCOUNT, NUMBERS, TIME)
    shown = {name: schema for name, schema in VAR.items() if name not in ("query_params", "timestamp")}
    return [
        Endpoint(
            "/api/v1/risk", listed, "Statements of risk, newest first", _LISTED, data=snapshots,
            metadata={"count": INTEGER, "account_id": TEXT, "start_time": MOMENT, "end_time": MOMENT,
                      "summary": SUMMARY, "metrics": lists(METRIC), "limit_checks": CHECKS, **COMPLETENESS}, **common,
        ),
        Endpoint(
            "/api/v1/risk/current", measured(lambda one, form: one.current(form)), "Risk in a word", now,
            data=objects(**CURRENT), **common,
        ),
        Endpoint(
            "/api/v1/risk/limits", measured(lambda one, form: one.limits_told(form)),
            "Limits, and how far they are used", now, data=objects(**LIMITS), **common,
        ),
        Endpoint(
            "/api/v1/risk/var", value_at_risk, "Value at risk and how often it was passed",
            (ACCOUNT, START, END, CONFIDENCE, NUMBERS, TIME), data=objects(**shown), **common,
        ),
    ]  # fmt: skip


def _score(risk: Risk) -> dict[str, Any]:
    return {"timestamp": naive(risk.timestamp), "value": risk.risk_score}


def _legacy(state: FrontState) -> list[Endpoint]:
    statements = Statements(state)
    scores = Series(Rendered(_score, 2 * SERIES_MAX), lambda risk: risk.risk_score is not None)

    async def listed(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        measured = Measured(state, None)
        series = await statements.series(arguments, None, DAY_NS) if arguments["include_historical"] else []
        bounds(arguments, DAY_NS, LONGEST_NS)
        return {
            "summary": measured.summary(state.desk.active_alerts(), form), "metrics": measured.metrics(form),
            "limit_checks": measured.checks(form),
            "historical_metrics": Raw(scores.array(series)),
        }  # fmt: skip

    async def value_at_risk(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        series = await statements.series(arguments, None, 30 * DAY_NS)
        told = var_analysis(series, arguments["confidence_level"], form)
        asked = query_params(arguments, (START, END, CONFIDENCE))
        return {**told, "query_params": asked, "timestamp": form.moment(time.time_ns())}

    point = objects(timestamp=TEXT, value=NUMBER)
    return [
        modelled(
            "/api/risk", "Risk, its limits and its history", (START, END, WITH_HISTORY),
            {"summary": SUMMARY, "metrics": lists(METRIC), "limit_checks": CHECKS, "historical_metrics": lists(point)},
            listed,
        ),
        bare("/api/risk/current", "Risk in a word", (), CURRENT, lambda _, form: Measured(state, None).current(form)),
        bare("/api/risk/limits", "Limits", (), LIMITS, lambda _, form: Measured(state, None).limits_told(form)),
        bare("/api/risk/var", "Value at risk", (START, END, CONFIDENCE), VAR, value_at_risk),
    ]  # fmt: skip
