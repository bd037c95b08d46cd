"""Risk: what the desk's risk engines state, beside the limits.

A statement is a producer's claim, and is told as such; positions, exposure and PnL are our own portfolio's wherever the
account is known to it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any

from msgspec import Raw

from ....codecs.desk.canonical import Risk
from ..endpoints import Answer, Answerer, Arguments, Endpoint
from ..envelope import Spliced, encode, members
from ..history import FOREVER_NS
from ..params import Param, flag, number
from ..shapes import COMPLETENESS
from ..state import FrontState
from .cursors import Place, cursor_param, place_of
from .desk import event_identity
from .form import (
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
from .measured import CHECKS, CURRENT, LIMITS, METRIC, SUMMARY, Measured
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
from .rendered import by_form
from .running import Span, Sum
from .seam import Seam
from .series import Series
from .shelf import ALL
from .stated import TOPIC
from .stored import Table

LONGEST_NS = 90 * DAY_NS
SERIES_MAX = 10_000
IDENTITY = ("event_id",)
CURSOR = cursor_param(len(IDENTITY))
LATEST = flag("latest", False, "The newest one alone, if it is of the last hour.")
WITH_HISTORY = flag("include_historical", True, "Also the scores of the range.")
CONFIDENCE = number("confidence_level", 0.95, 0.90, 0.99, "Of the value at risk.")

SNAPSHOT: dict[str, Any] = objects(
    timestamp=MOMENT, account_id=TEXT, portfolio_value=MAYBE_AMOUNT, total_pnl=MAYBE_AMOUNT, var_1d=MAYBE_AMOUNT,
    var_5d=MAYBE_AMOUNT, var_95=MAYBE_AMOUNT, var_99=MAYBE_AMOUNT, max_drawdown=MAYBE_NUMBER, leverage=MAYBE_NUMBER,
    risk_score=MAYBE_NUMBER, num_positions={"type": ["integer", "null"]}, daily_pnl=MAYBE_AMOUNT,
    total_exposure=MAYBE_AMOUNT, strategy_id=TEXT, source=MAYBE_TEXT, variant=TEXT,
)  # fmt: skip
VAR: dict[str, Any] = {
    "var_series": lists(OBJECT), "breach_analysis": OBJECT, "current_var": OBJECT, "query_params": OBJECT,
    "timestamp": MOMENT,
}  # fmt: skip


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


def _stated(risks: Iterable[Risk]) -> list[Risk]:
    return [risk for risk in risks if risk.var_1d is not None]


def _var_points(risks: list[Risk], form: Form) -> bytes:
    """Items of `var_series` as JSON, without the brackets."""
    points = [
        {"timestamp": form.moment(risk.timestamp), "var_1d": form.maybe(risk.var_1d),
         "var_5d": form.maybe(risk.var_5d), "daily_pnl": form.maybe(risk.daily_pnl),
         "exposure": form.maybe(risk.total_exposure)}
        for risk in _stated(risks)
    ]  # fmt: skip
    return encode(points)[1:-1]


def _var_breaches(risks: list[Risk]) -> tuple[int, int]:
    """How many state a value at risk, and of how many the day's loss went beyond it."""
    stated = _stated(risks)
    return len(stated), sum(risk.daily_pnl is not None and -risk.daily_pnl > (risk.var_1d or 0) for risk in stated)


async def var_analysis(series: Series[Risk], confidence: float, form: Form) -> dict[str, Any]:
    """Value at risk of a range, oldest first, and how often a day's loss went beyond it."""
    points = partial(_var_points, form=form)
    await series.prepare(("var", form), points)
    counts = series.each("breaches", _var_breaches)
    observed, breaches = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    expected = 100 * (1 - confidence)
    rate = 100 * breaches / observed if observed else 0.0
    last = series.last("stated", lambda risks: (_stated(risks) or [None])[-1])
    return {
        "var_series": Raw(b"".join(series.text(("var", form), points))),
        "breach_analysis": {
            "total_observations": observed, "var_breaches": breaches, "breach_rate_percent": round(rate, 4),
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
        self.table: Table[Risk] = Table(state, Risk, "risk_metrics", IDENTITY, TOPIC)

    def page(
        self, arguments: Arguments, account: str | None, strategy: str | None, span_ns: int, place: Place
    ) -> Page[Risk] | Awaitable[Page[Risk]]:
        """A page of a range, newest first. Raises InvalidTimeRange."""
        start, end = bounds(arguments, span_ns, LONGEST_NS)
        filters = {name: value for name, value in (("account_id", account), ("strategy_id", strategy)) if value}
        key, fits = _where(account, strategy)
        name = ("risk", account, strategy, span_ns, arguments["start_time"], arguments["end_time"])
        asked = Span(name, key, start, end, arguments["end_time"] is None, fits)
        desk = self.state.desk
        return page_of(desk.statements(TOPIC), asked, place, self.table.older(filters), desk, event_identity)

    def newest(self, account: str | None, strategy: str | None) -> Risk | None:
        """The newest one, if it is of the last hour."""
        shelf = self.state.desk.statements(TOPIC)
        if shelf is None:
            return None
        key, fits = _where(account, strategy)
        for item in shelf.newest_first(key, time.time_ns() - HOUR_NS, FOREVER_NS):
            if fits is None or fits(item.value):
                return item.value
        return None

    async def series(self, arguments: Arguments, account: str | None, span_ns: int) -> Series[Risk]:
        """The range, its newest 10,000. It goes on growing."""
        start, end = bounds(arguments, span_ns, LONGEST_NS)
        name = ("risk", account, None, span_ns, arguments["start_time"], arguments["end_time"])
        key = (account,) if account else ALL
        desk, table = self.state.desk, self.table.older({"account_id": account} if account else {})
        shelf = desk.statements(TOPIC)
        if shelf is not None:
            shelf.refresh()
        alone = table is None or bool(shelf is not None and shelf.since_ns and start >= shelf.since_ns)

        async def older(seam: Seam, start: int, end: int) -> Series[Risk] | None:
            assert table is not None
            found = await table.rows(seam, start, end, SERIES_MAX, patient=True)
            return None if found is None else Series(found[::-1])

        what = Sum[Series[Risk]]("series", Series[Risk], _one_more, None if alone else older)
        found, _ = await desk.lists.of(what, Span(name, key, start, end, arguments["end_time"] is None), shelf)
        found.cut(start, SERIES_MAX)
        return found


def _where(account: str | None, strategy: str | None) -> tuple[Hashable, Callable[[Risk], bool] | None]:
    """The shelf's key of an account and a strategy, and what it does not tell apart."""
    key = (account,) if account else ("*", strategy) if strategy else ALL
    return key, (lambda risk: risk.strategy_id == strategy) if account and strategy else None


def _one_more(series: Series[Risk], risk: Risk) -> Series[Risk]:
    series.add(risk)
    return series


def risk_endpoints(state: FrontState) -> list[Endpoint]:
    """Canonical paths, and those of DipMaster's API."""
    return [*_canonical(state), *_legacy(state)]


_LISTED: tuple[Param, ...] = (
    ACCOUNT, ANY_STRATEGY, START, END, LATEST, PAGE, PAGE_SIZE, CURSOR, NUMBERS, TIME,
)  # fmt: skip


def _canonical(state: FrontState) -> list[Endpoint]:
    statements, rendered = Statements(state), by_form(snapshot)

    def listed(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])
        account, strategy = chosen(arguments["account_id"]), chosen(arguments["strategy_id"])
        place = place_of(arguments)
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
                pagination=found.pagination(place), query_params=asked,
            )  # fmt: skip

        async def waiting(found: Awaitable[Page[Risk]]) -> Answer:
            return told(await found)

        def newest() -> Answer:
            risk = statements.newest(account, strategy)
            return members(encode(snapshot(risk, form)) if risk else None, metadata={"data_source": "memory"})

        def answer() -> Answer | Awaitable[Answer]:
            if arguments["latest"]:
                return newest()
            found = statements.page(arguments, account, strategy, DAY_NS, place)
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
            return members(encode(await var_analysis(series, arguments["confidence_level"], form)))

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


def _scores(risks: list[Risk]) -> bytes:
    """TimePoints of the scores as JSON, without the brackets."""
    scored = [risk for risk in risks if risk.risk_score is not None]
    return encode([{"timestamp": naive(risk.timestamp), "value": risk.risk_score} for risk in scored])[1:-1]


def _legacy(state: FrontState) -> list[Endpoint]:
    statements = Statements(state)

    async def history(arguments: Arguments) -> Spliced:
        series = await statements.series(arguments, None, DAY_NS)
        await series.prepare("scores", _scores)
        return Spliced(series.text("scores", _scores))

    async def listed(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        bounds(arguments, DAY_NS, LONGEST_NS)
        scores = await history(arguments) if arguments["include_historical"] else []
        measured = Measured(state, None)
        return {
            "summary": measured.summary(state.desk.active_alerts(), form), "metrics": measured.metrics(form),
            "limit_checks": measured.checks(form), "historical_metrics": scores,
        }  # fmt: skip

    async def value_at_risk(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        series = await statements.series(arguments, None, 30 * DAY_NS)
        told = await var_analysis(series, arguments["confidence_level"], form)
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
