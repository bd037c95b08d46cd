"""What changes alerts and rules: told to the alerts actor, who alone does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ....codecs.desk.canonical import Alert
from ..endpoints import Answer, Answerer, Arguments, Endpoint, Enveloped
from ..envelope import encode, members
from ..params import Param, choice, text
from ..state import FrontState
from .alerts import ALERT, ALERT_ID, CATEGORY, RESOLVED, SEVERITY, Alerts, whole_alert
from .form import INTEGER, NUMBER, OBJECT, TEXT, form_of, lists, objects

RULE_ID = text("rule_id", "The rule.", "a rule's id", where="path", required=True, example="kafka_lag")
RULE: dict[str, Any] = {"type": "object", "required": ["rule_id", "name", "severity", "conditions"]}
RULES: dict[str, Any] = objects(rules=lists(RULE), total_count=INTEGER, filtered_count=INTEGER, filters_applied=OBJECT)


def _body(name: str, doc: str, what: str, **more: Any) -> Param:
    return text(name, doc, what, where="body", **more)


def _object(name: str, doc: str, kind: Any, schema: Mapping[str, Any], **more: Any) -> Param:
    """A member of the body that is no text."""

    def parse(given: str) -> Any:
        try:
            return msgspec.json.decode(given, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError(str(schema["description"])) from None

    return Param(name, parse, schema, doc, where="body", length_max=20_000, **more)


CONDITIONS = _object(
    "conditions", "All of them must hold.", list[dict[str, Any]],
    {"type": "array", "minItems": 1, "maxItems": 10, "items": objects(
        metric_name=TEXT, operator={"enum": [">", ">=", "<", "<=", "==", "!="]}, threshold=NUMBER,
        duration={"type": "number", "minimum": 0, "maximum": 86_400, "description": "seconds"}),
     "description": "a list of {metric_name, operator, threshold, duration}"}, required=True,
)  # fmt: skip
ENABLED = _object("enabled", "Off: it is kept and not looked at.", bool, {"type": "boolean",
                  "description": "true or false"}, default=True)  # fmt: skip
LABELS = _object("labels", "What belongs to it.", dict[str, str | int | float | bool | None],
                 {"type": "object", "description": "an object of plain values"}, default=None)  # fmt: skip


def alert_command_endpoints(state: FrontState) -> list[Endpoint]:
    """Raise, acknowledge, resolve; and the rules."""
    alerts = Alerts(state)
    form = form_of("string", "rfc3339")

    def changed(name: str, *fields: str) -> Any:
        def prepare(arguments: Arguments) -> Answerer:
            async def answer() -> Answer:
                given = {field: arguments[field] for field in fields if arguments[field] is not None}
                answer = await alerts.ask(name, **given)
                alert = msgspec.convert(answer["alert"]["alert"], Alert)
                return members(encode(whole_alert(alert, form)))

            return answer

        return prepare

    def created(arguments: Arguments) -> Answerer:
        async def answer() -> Answer:
            given = {param.name: arguments[param.name] for param in _CREATE if arguments[param.name] is not None}
            answer = await alerts.ask("create", **given)
            alert = msgspec.convert(answer["alert"]["alert"], Alert)
            return Enveloped(members(encode(whole_alert(alert, form))), 201)

        return answer

    def rules(arguments: Arguments) -> Answerer:
        async def answer() -> Answer:
            every = (await alerts.ask("rules"))["rules"] if alerts.kept else []
            filters = {
                name: arguments[name] for name in ("enabled", "category", "severity") if arguments[name] is not None
            }
            found = [
                rule for rule in every
                if rule.get("enabled", True) == filters.get("enabled", rule.get("enabled", True))
                and filters.get("category", "").lower() in ("", rule.get("category", "system").lower())
                and rule["severity"] == filters.get("severity", rule["severity"])
            ]  # fmt: skip
            body = {"rules": found, "total_count": len(every), "filtered_count": len(found), "filters_applied": filters}
            return members(encode(body), count=len(found))

        return answer

    def ruled(arguments: Arguments) -> Answerer:
        async def answer() -> Answer:
            rule = {param.name: arguments[param.name] for param in _RULE if arguments[param.name] is not None}
            return Enveloped(members(encode((await alerts.ask("put_rule", rule=rule))["rule"])), 201)

        return answer

    def dropped(arguments: Arguments) -> Answerer:
        async def answer() -> Answer:
            await alerts.ask("drop_rule", rule_id=arguments["rule_id"])
            return members(encode({"rule_id": arguments["rule_id"]}))

        return answer

    errors = (400, 404, 503)
    enabled = Param("enabled", RESOLVED.parse, RESOLVED.schema, "Those that are looked at, or the others.")
    acknowledge = (ALERT_ID, _body("by", "Who has seen it.", "a name"))
    resolve = (ALERT_ID, _body("action", "What was done.", "a few words"))
    common: dict[str, Any] = {"tag": "desk"}
    return [
        Endpoint("/api/v1/alerts/rules", rules, "What is watched", (enabled, CATEGORY, SEVERITY), data=RULES,
                 errors=(400, 503), **common),
        Endpoint("/api/v1/alerts/rules", ruled, "Watch something", _RULE, "POST", 201, data=RULE, errors=(400, 503),
                 **common),
        Endpoint("/api/v1/alerts/rules/{rule_id}", dropped, "Watch it no longer", (RULE_ID,), "DELETE",
                 data=objects(rule_id=TEXT), errors=errors, **common),
        Endpoint("/api/v1/alerts", created, "Raise an alert", _CREATE, "POST", 201, data=ALERT, errors=(400, 503),
                 **common),
        Endpoint("/api/v1/alerts/{alert_id}/acknowledge", changed("acknowledge", "alert_id", "by"),
                 "Say that somebody has seen it", acknowledge, "POST", data=ALERT, errors=errors, **common),
        Endpoint("/api/v1/alerts/{alert_id}/resolve", changed("resolve", "alert_id", "action"), "Say that it is over",
                 resolve, "POST", data=ALERT, errors=errors, **common),
    ]  # fmt: skip


_CREATE: tuple[Param, ...] = (
    _body("name", "In a few words.", "a text", required=True), _body("severity", "Of it.", "a severity", required=True),
    _body("description", "What is wrong.", "a text", required=True), _body("source", "Who says so.", "a name"),
    _body("category", "Kind of alert.", "a category"), _body("rule_id", "A rule it belongs to.", "a rule's id"),
    _body("account_id", "Account.", "an account"), _body("symbol", "Symbol.", "a symbol"), LABELS,
    choice("status", ("active", "acknowledged"), "Acknowledged: by its source.", where="body"),
)  # fmt: skip
_RULE: tuple[Param, ...] = (
    _body("rule_id", "To change a rule; a new one is named by itself.", "a rule's id"),
    _body("name", "In a few words.", "a text", required=True), _body("description", "What to do.", "a text"),
    _body("severity", "Of what it raises.", "a severity", required=True),
    _body("category", "Kind of alert.", "a category"), CONDITIONS, ENABLED,
)  # fmt: skip
