"""Alerts: what is wrong, what was, and who has seen it."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ....codecs.desk.canonical import Alert
from ...control import ALERTS_SOCKET, CommandRefused, NoAnswer, command
from ..endpoints import Answer, Answerer, Arguments, Endpoint
from ..envelope import encode, members
from ..errors import InvalidParameter, NotFound, ServiceUnavailable
from ..paging import LIMIT_MAX
from ..params import Param, choice, flag, text
from ..state import FrontState
from .cursors import Cursor, cursor_param, cut, place_of
from .form import (
    BOOLEAN,
    INTEGER,
    MAYBE_AMOUNT,
    MAYBE_TEXT,
    MOMENT,
    NUMBER,
    OBJECT,
    TEXT,
    Form,
    form_of,
    lists,
    objects,
)
from .legacy import bare, modelled
from .params import (
    ANY_ACCOUNT,
    DAY_NS,
    END,
    HOUR_NS,
    PAGE,
    PAGE_SIZE,
    START,
    STRINGS,
    SYMBOL,
    TIME,
    bounds,
    chosen,
    plain_symbol,
    query_params,
)
from .stored import Table

LONGEST_NS = 365 * DAY_NS
ACTIVE_MAX = 1000
SEVERITIES = ("INFO", "LOW", "MEDIUM", "HIGH", "CRITICAL")
_ASKED = {"WARNING": "MEDIUM", "ERROR": "HIGH", "EMERGENCY": "CRITICAL"}
COMMAND_TIMEOUT_S = 5.0
_INTEGER = re.compile(r"-?[0-9]+")
FILTERS = ("status", "severity", "category", "source", "symbol", "resolved", "account_id")


def _severity(value: str) -> str:
    word = value.upper()
    word = _ASKED.get(word, word)
    if word not in SEVERITIES:
        raise ValueError(f"one of {', '.join((*SEVERITIES, *_ASKED))}")
    return word


def _clamped(value: str) -> int:
    if not _INTEGER.fullmatch(value):
        raise ValueError("an integer")
    return min(max(int(value), 1), LIMIT_MAX)


LIMIT = Param(
    "limit", _clamped, {"type": "integer", "description": "an integer"},
    f"The same as `page_size`, but taken as 1 below it and as {LIMIT_MAX} above.",
)  # fmt: skip
SEVERITY = Param(
    "severity", _severity, {"type": "string", "enum": [*SEVERITIES, *_ASKED], "description": "a severity"},
    "WARNING, ERROR and EMERGENCY mean MEDIUM, HIGH and CRITICAL.",
)  # fmt: skip
LEGACY_SEVERITY = choice("severity", ("LOW", "MEDIUM", "HIGH", "CRITICAL"), "Of the alert.")
STATUS = choice("status", ("active", "acknowledged", "resolved"), "State of the alert.")
CATEGORY = text("category", "Kind of alert.", "a category")
SOURCE = text("source", "Who raised it.", "a source")
RESOLVED = Param("resolved", flag("resolved", False, "").parse, {"type": "boolean", "description": "true or false"},
                 "Resolved ones, or the others; both by default.")  # fmt: skip
CURSOR = cursor_param(1)
SIZE = dataclasses.replace(PAGE_SIZE, aliases=("size",))
INTERVAL = choice("interval", ("1h", "1d"), "Length of the intervals.", "1h")
ALERT_ID = text("alert_id", "The alert.", "an alert's id", where="path", required=True, example="al-301")

ALERT: dict[str, Any] = objects(
    alert_id=TEXT, id=TEXT, timestamp=MOMENT, severity={"enum": list(SEVERITIES)}, severity_raw=TEXT,
    emergency=BOOLEAN, status={"enum": ["active", "acknowledged", "resolved"]}, acknowledged=BOOLEAN,
    resolved=BOOLEAN, auto_resolved=BOOLEAN, resolution_action=MAYBE_TEXT, resolution_time={
        "type": ["string", "integer", "null"]}, code=TEXT, name=TEXT, title=TEXT, message=TEXT, description=MAYBE_TEXT,
    category=MAYBE_TEXT, source=MAYBE_TEXT, strategy_id=MAYBE_TEXT, account_id=MAYBE_TEXT, symbol=MAYBE_TEXT,
    order_id=MAYBE_TEXT, rule_id=MAYBE_TEXT, threshold_value=MAYBE_AMOUNT, current_value=MAYBE_AMOUNT, labels={},
    metrics={}, metadata={},
)  # fmt: skip
LISTED: dict[str, Any] = objects(
    alerts=lists(ALERT), total_count=INTEGER, filtered_count=INTEGER, filters_applied=OBJECT
)
SUMMARY: dict[str, Any] = objects(
    total_alerts=INTEGER, active_alerts=INTEGER, critical_alerts=INTEGER, resolved_alerts=INTEGER, alert_rate=NUMBER
)
LEGACY_ALERT: dict[str, Any] = objects(
    alert_id=TEXT, timestamp=TEXT, severity=TEXT, code=TEXT, title=TEXT, message=TEXT, source=MAYBE_TEXT,
    symbol=MAYBE_TEXT, resolved=BOOLEAN,
)  # fmt: skip
LEGACY_PAGE = objects(
    page=INTEGER, page_size=INTEGER, total_count=INTEGER, total_pages=INTEGER, has_next=BOOLEAN, has_prev=BOOLEAN
)


def _json(value: str | None) -> Any:
    return None if value is None else msgspec.Raw(value.encode())


def status_of(alert: Alert) -> str:
    return "resolved" if alert.resolved else "acknowledged" if alert.acknowledged else "active"


def whole_alert(alert: Alert, form: Form) -> dict[str, Any]:
    """With everything that is known of it."""
    return {
        "alert_id": alert.alert_id, "id": alert.alert_id, "timestamp": form.moment(alert.timestamp),
        "severity": alert.severity, "severity_raw": alert.severity_raw, "emergency": alert.emergency,
        "status": status_of(alert), "acknowledged": alert.acknowledged, "resolved": alert.resolved,
        "auto_resolved": alert.auto_resolved, "resolution_action": alert.resolution_action,
        "resolution_time": form.when(alert.resolution_time), "code": alert.code, "name": alert.title or alert.code,
        "title": alert.title, "message": alert.message, "description": alert.description,
        "category": alert.category or alert.alert_type, "source": alert.source, "strategy_id": alert.strategy_id,
        "account_id": alert.account_id, "symbol": alert.symbol, "order_id": alert.order_id, "rule_id": alert.rule_id,
        "threshold_value": form.maybe(alert.threshold_value), "current_value": form.maybe(alert.current_value),
        "labels": _json(alert.context), "metrics": _json(alert.metrics), "metadata": _json(alert.metadata),
    }  # fmt: skip


def legacy_alert(alert: Alert, form: Form) -> dict[str, Any]:
    """As DipMaster's API has it, which knows no INFO."""
    return {
        "alert_id": alert.alert_id, "timestamp": form.moment(alert.timestamp),
        "severity": "LOW" if alert.severity == "INFO" else alert.severity, "code": alert.code, "title": alert.title,
        "message": alert.message, "source": alert.source, "symbol": alert.symbol, "resolved": alert.resolved,
    }  # fmt: skip


def summary(alerts: Sequence[Alert], start_ns: int, end_ns: int) -> dict[str, Any]:
    """AlertSummary; the rate is for an hour of the range."""
    resolved = sum(alert.resolved for alert in alerts)
    return {
        "total_alerts": len(alerts), "active_alerts": len(alerts) - resolved,
        "critical_alerts": sum(alert.severity == "CRITICAL" for alert in alerts), "resolved_alerts": resolved,
        "alert_rate": round(len(alerts) * HOUR_NS / (end_ns - start_ns), 6),
    }  # fmt: skip


def stats(alerts: Iterable[Alert], interval: str, form: Form) -> dict[str, Any]:
    """Alerts by interval and by source, counted by severity."""
    length = HOUR_NS if interval == "1h" else DAY_NS
    names = ("low", "medium", "high", "critical")
    by_time: dict[int, dict[str, int]] = {}
    by_source: dict[str, dict[str, int]] = {}
    for alert in alerts:
        severity = "low" if alert.severity == "INFO" else alert.severity.lower()
        start = alert.timestamp // length * length
        for counts in (
            by_time.setdefault(start, dict.fromkeys(names, 0)),
            by_source.setdefault(alert.source or "", dict.fromkeys(names, 0)),
        ):
            counts[severity] += 1
    return {
        "time_series": [{"timestamp": form.moment(start), **counts} for start, counts in sorted(by_time.items())],
        "by_source": [
            {"source": source, **counts, "total": sum(counts.values())} for source, counts in sorted(by_source.items())
        ],
    }  # fmt: skip


STATS: dict[str, Any] = {"time_series": lists(OBJECT), "by_source": lists(OBJECT)}


class Alerts:
    """The alerts of one worker: the newest state of each from memory, forgotten ones from ClickHouse."""

    def __init__(self, state: FrontState) -> None:
        self.state = state
        self.table: Table[Alert] = Table(state, Alert, "alerts", ("alert_id",))
        self._states = state.desk.alerts

    async def among(self, arguments: Arguments, span_ns: int, *, legacy: bool = False) -> tuple[list[Alert], int, int]:
        """`(alerts, start, end)` of a range that fit the arguments, newest first. Raises InvalidTimeRange.

        Args:
            legacy: see `_fits`.
        """
        start, end = bounds(arguments, span_ns, LONGEST_NS)
        newest = self._states.all()
        found = {key: alert for key, alert in newest.items() if start <= alert.timestamp < end}
        if not self._states.reaches(start):
            for alert in await self._older(start, end):
                if alert.alert_id not in newest:
                    found[alert.alert_id] = alert
        alerts = [alert for alert in found.values() if _fits(alert, arguments, legacy=legacy)]
        return sorted(alerts, key=_rank, reverse=True), start, end

    async def _older(self, start: int, end: int) -> list[Alert]:
        if not self.state.history.configured:
            return []
        condition = (
            "ts_event_ns >= fromUnixTimestamp64Nano({start:Int64}, 'UTC') "
            "AND ts_event_ns < fromUnixTimestamp64Nano({end:Int64}, 'UTC')"
        )
        tail = "ORDER BY ts_recv_ns DESC LIMIT 1 BY alert_id LIMIT 10000"
        return await self.table.rows(condition, {"start": start, "end": end}, tail) or []

    @property
    def kept(self) -> bool:
        """Whether this instance keeps alerts."""
        return self.state.desk.streams.alerts() is not None

    @property
    def known(self) -> int:
        """How many memory holds."""
        return len(self._states.all())

    def active(self) -> list[Alert]:
        """Those that are not resolved, newest first."""
        return sorted(self._states.active(), key=_rank, reverse=True)

    async def one(self, alert_id: str) -> Alert:
        """Raises NotFound."""
        found = self._states.all().get(alert_id)
        if found is None and self.state.history.configured:
            rows = await self.table.rows("alert_id = {id:String}", {"id": alert_id}, "ORDER BY ts_recv_ns DESC LIMIT 1")
            found = rows[0] if rows else None
        if found is None:
            raise NotFound(f"no alert {alert_id[:100]!r} is known", details={"alert_id": alert_id[:100]})
        return found

    async def ask(self, name: str, /, **request: Any) -> dict[str, Any]:
        """A command for the alerts actor, who alone changes alerts.

        Raises:
            InvalidParameter, NotFound, ServiceUnavailable
        """
        path = self.state.ctx.folder / ALERTS_SOCKET
        try:
            return await command(path, name, COMMAND_TIMEOUT_S, **request)
        except CommandRefused as refused:
            if refused.kind == "UnknownAlert" or (name == "drop_rule" and "no such rule" in str(refused)):
                raise NotFound(str(refused)) from None
            if refused.kind == "BadCommand":
                raise InvalidParameter.of(refused.field or "body", str(refused)) from None
            raise ServiceUnavailable(str(refused)) from None
        except NoAnswer as error:
            raise ServiceUnavailable(f"alerts are not kept here, or not now: {error}") from None


def _fits(alert: Alert, arguments: Arguments, *, legacy: bool = False) -> bool:
    """Whether an alert is asked for; `legacy`: by a path that knows no INFO, and shows it as LOW."""
    account, symbol, resolved = chosen(arguments.get("account_id")), arguments.get("symbol"), arguments.get("resolved")
    severity, status = arguments.get("severity"), arguments.get("status")
    category, source = arguments.get("category"), arguments.get("source")
    return (
        (account is None or alert.account_id == account)
        and (symbol is None or (alert.symbol is not None and plain_symbol(alert.symbol) == plain_symbol(symbol)))
        and (resolved is None or alert.resolved == resolved)
        and (
            severity is None or alert.severity == severity or (legacy and (severity, alert.severity) == ("LOW", "INFO"))
        )
        and (status is None or status_of(alert) == status)
        and (category is None or category.lower() in ((alert.category or "").lower(), (alert.alert_type or "").lower()))
        and (source is None or (alert.source or "") == source)
    )


def alert_endpoints(state: FrontState) -> list[Endpoint]:
    """Canonical paths, and those of DipMaster's API."""
    alerts = Alerts(state)
    return [*_canonical(alerts), *_legacy(alerts)]


_LISTED: tuple[Param, ...] = (
    ANY_ACCOUNT, STATUS, SEVERITY, CATEGORY, SOURCE, SYMBOL, RESOLVED, START, END, PAGE, SIZE, LIMIT, CURSOR,
    STRINGS, TIME,
)  # fmt: skip


def _rank(alert: Alert) -> Cursor:
    return Cursor(alert.timestamp, (alert.alert_id,))


def _canonical(alerts: Alerts) -> list[Endpoint]:
    def listed(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])
        bounds(arguments, DAY_NS, LONGEST_NS)
        place = place_of(arguments)

        async def answer() -> Answer:
            found, start, end = await alerts.among(arguments, DAY_NS)
            shown, told = cut(found, _rank, place)
            metadata = {"count": len(shown), "start_time": form.moment(start), "end_time": form.moment(end)}
            body = {
                "alerts": [whole_alert(alert, form) for alert in shown], "total_count": alerts.known,
                "filtered_count": len(found),
                "filters_applied": {name: arguments[name] for name in FILTERS if arguments[name] is not None},
            }  # fmt: skip
            asked = query_params(arguments, _LISTED, page_size=place.size)
            return members(encode(body), metadata=metadata, count=len(found), pagination=told, query_params=asked)

        return answer

    def active(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])

        def answer() -> Answer:
            found = [alert for alert in alerts.active() if _fits(alert, arguments)]
            shown = [whole_alert(alert, form) for alert in found[:ACTIVE_MAX]]
            return members(encode(shown), metadata={"count": len(shown)}, count=len(found))

        return answer

    def summarised(arguments: Arguments) -> Answerer:
        bounds(arguments, DAY_NS, LONGEST_NS)

        async def answer() -> Answer:
            return members(encode(summary(*await alerts.among(arguments, DAY_NS))))

        return answer

    def counted(arguments: Arguments) -> Answerer:
        form = form_of("number", arguments["time"])
        bounds(arguments, 7 * DAY_NS, LONGEST_NS)

        async def answer() -> Answer:
            found, _, _ = await alerts.among(arguments, 7 * DAY_NS)
            return members(encode(stats(found, arguments["interval"], form)))

        return answer

    def one(arguments: Arguments) -> Answerer:
        form = form_of(arguments["decimals"], arguments["time"])

        async def answer() -> Answer:
            return members(encode(whole_alert(await alerts.one(arguments["alert_id"]), form)))

        return answer

    common: dict[str, Any] = {"tag": "desk"}
    return [
        Endpoint(
            "/api/v1/alerts", listed, "Alerts of a range, newest first", _LISTED, data=LISTED,
            metadata={"count": INTEGER, "start_time": MOMENT, "end_time": MOMENT}, **common,
        ),
        Endpoint(
            "/api/v1/alerts/active", active, "Alerts that are not resolved",
            (ANY_ACCOUNT, SEVERITY, SOURCE, SYMBOL, STRINGS, TIME), data=lists(ALERT), metadata={"count": INTEGER},
            **common,
        ),
        Endpoint("/api/v1/alerts/summary", summarised, "How many", (ANY_ACCOUNT, START, END), data=SUMMARY, **common),
        Endpoint(
            "/api/v1/alerts/stats", counted, "How many, by time and source", (ANY_ACCOUNT, START, END, INTERVAL, TIME),
            data=objects(**STATS), **common,
        ),
        Endpoint(
            "/api/v1/alerts/{alert_id}", one, "One alert", (ALERT_ID, STRINGS, TIME), data=ALERT, errors=(400, 404),
            **common,
        ),
    ]  # fmt: skip


def _legacy(alerts: Alerts) -> list[Endpoint]:
    async def listed(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        found, start, end = await alerts.among(arguments, DAY_NS, legacy=True)
        shown, told = cut(found, _rank, place_of(arguments))
        return {
            "alerts": [legacy_alert(alert, form) for alert in shown], "summary": summary(found, start, end),
            "pagination": {name: told[name] for name in LEGACY_PAGE["properties"]},
        }  # fmt: skip

    def active(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        now = time.time_ns()
        found = [alert for alert in alerts.active() if _fits(alert, arguments, legacy=True)]
        found = [alert for alert in found if alert.timestamp >= now - 7 * DAY_NS][:ACTIVE_MAX]
        rows = [
            {**legacy_alert(alert, form), "age_hours": round((now - alert.timestamp) / HOUR_NS, 4)} for alert in found
        ]
        by_severity: dict[str, list[Any]] = {}
        for row in rows:
            by_severity.setdefault(row["severity"], []).append(row)
        return {"active_alerts": rows, "total_count": len(rows), "by_severity": by_severity,
                "timestamp": form.moment(now)}  # fmt: skip

    async def summarised(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        return summary(*await alerts.among(arguments, DAY_NS))

    async def counted(arguments: Arguments, form: Form) -> Mapping[str, Any]:
        found, _, end = await alerts.among(arguments, 7 * DAY_NS)
        asked = query_params(arguments, (START, END, INTERVAL))
        return {**stats(found, arguments["interval"], form), "query_params": asked, "timestamp": form.moment(end)}

    def one(arguments: Arguments, form: Form) -> Awaitable[Mapping[str, Any]]:
        async def told() -> Mapping[str, Any]:
            alert = await alerts.one(arguments["alert_id"])
            return {
                **legacy_alert(alert, form), "strategy_id": alert.strategy_id, "account_id": alert.account_id,
                "resolution_action": alert.resolution_action, "context": _json(alert.context) or {},
                "metrics": _json(alert.metrics) or {}, "metadata": _json(alert.metadata) or {},
            }  # fmt: skip

        return told()

    listed_params = (START, END, LEGACY_SEVERITY, SOURCE, SYMBOL, RESOLVED, PAGE, PAGE_SIZE)
    aged = objects(**LEGACY_ALERT["properties"], age_hours=NUMBER)
    more = {"strategy_id": MAYBE_TEXT, "account_id": MAYBE_TEXT, "resolution_action": MAYBE_TEXT, "context": OBJECT,
            "metrics": OBJECT, "metadata": OBJECT}  # fmt: skip
    return [
        modelled(
            "/api/alerts", "Alerts of a range", listed_params,
            {"alerts": lists(LEGACY_ALERT), "summary": SUMMARY, "pagination": LEGACY_PAGE}, listed,
        ),
        bare(
            "/api/alerts/active", "Alerts that are not resolved", (LEGACY_SEVERITY, SOURCE),
            {"active_alerts": lists(aged), "total_count": INTEGER, "by_severity": OBJECT, "timestamp": TEXT}, active,
        ),
        bare("/api/alerts/summary", "How many", (START, END), SUMMARY["properties"], summarised),
        bare(
            "/api/alerts/stats", "How many, by time and source", (START, END, INTERVAL),
            {**STATS, "query_params": OBJECT, "timestamp": TEXT}, counted,
        ),
        bare(
            "/api/alerts/{alert_id}", "One alert", (ALERT_ID,), {**LEGACY_ALERT["properties"], **more}, one,
            errors=(404, 422),
        ),
    ]  # fmt: skip
