"""Rules: conditions over signals, and what follows when they begin and end to hold."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ...codecs.desk.canonical import Severity

Labels = tuple[tuple[str, str], ...]  # sorted
Signals = Mapping[str, Mapping[Labels, float]]
Operator = Literal[">", ">=", "<", "<=", "==", "!="]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(max_length=1000)]

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
ABSENT_S = 120.0  # a signal that is gone for so long ends what it raised
INSTANCES_MAX = 10_000  # label sets of one rule that are watched


class Condition(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A signal beyond a threshold for `duration` seconds without interruption."""

    metric_name: Name
    operator: Operator
    threshold: Annotated[float, Meta(ge=-1e300, le=1e300)]
    duration: Annotated[float, Meta(ge=0, le=86_400)] = 0.0


class Rule(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Raises an alert for each label set for which all conditions hold.

    A signal without labels goes with the labels of the others. `origin` says who made the rule: builtin, config, api.
    """

    rule_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]
    name: Name
    description: Text = ""
    severity: Severity
    category: Annotated[str, Meta(max_length=100)] = "system"
    conditions: Annotated[list[Condition], Meta(min_length=1, max_length=10)]
    enabled: bool = True
    origin: Literal["builtin", "config", "api"] = "config"


@dataclass(frozen=True)
class Finding:
    """A rule begins or ends to hold for a label set."""

    rule: Rule
    labels: Labels
    raised: bool  # False: it is over
    value: float = 0.0  # of the first condition's signal
    threshold: float = 0.0

    @property
    def alert_id(self) -> str:
        return alert_id(self.rule.rule_id, self.labels)


def alert_id(rule_id: str, labels: Labels) -> str:
    """The name of what a rule raises for a label set: the same after a restart."""
    return f"{rule_id}{{{','.join(f'{name}={value}' for name, value in labels)}}}" if labels else rule_id


@dataclass
class _Instance:
    held_since: list[float | None]  # of each condition; monotonic s
    raised: bool = False
    seen: float = 0.0
    doubtful_until: float = 0.0  # that it does not hold is not believed before
    again_at: float = math.inf  # somebody resolved it by hand: if it still holds then, it is raised again


@dataclass
class Watch:
    """Which rules hold. Times are monotonic seconds, given by the caller."""

    _instances: dict[tuple[str, Labels], _Instance] = field(default_factory=dict)
    overflowed: int = 0  # label sets beyond INSTANCES_MAX, not watched at the last look

    def restore(self, rule: Rule, labels: Labels, now: float, doubt_s: float = 0.0) -> None:
        """An alert of the rule was active when the last life ended: it is not raised again.

        Args:
            doubt_s: for so long its signals do not say everything yet, and that it holds no more is not believed.
        """
        held: list[float | None] = [-math.inf] * len(rule.conditions)
        self._instances[rule.rule_id, labels] = _Instance(held, True, now, now + doubt_s)

    def resolved_by_hand(self, rule_id: str, labels: Labels, again_at: float) -> None:
        """What a rule raised was resolved by hand, although it may still hold."""
        instance = self._instances.get((rule_id, labels))
        if instance is not None:
            instance.again_at = again_at

    def forget(self, rule_id: str) -> None:
        """The rule was changed or removed."""
        for key in [key for key in self._instances if key[0] == rule_id]:
            del self._instances[key]

    def examine(self, rules: Iterable[Rule], signals: Signals, now: float) -> list[Finding]:
        """What began and ended since the last look."""
        found: list[Finding] = []
        self.overflowed = 0
        for rule in rules:
            if rule.enabled:
                found += self._examine(rule, signals, now)
        return found

    def _examine(self, rule: Rule, signals: Signals, now: float) -> Iterable[Finding]:
        values = [signals.get(condition.metric_name, {}) for condition in rule.conditions]
        present = dict.fromkeys(labels for one in values for labels in one if labels) or (
            {(): None} if all(() in one for one in values) else {}
        )
        for labels in present:
            seen = [one.get(labels, one.get(())) for one in values]
            if any(value is None or not math.isfinite(value) for value in seen):
                continue
            key = (rule.rule_id, labels)
            instance = self._instances.get(key)
            if instance is None:
                if len(self._instances) >= INSTANCES_MAX:
                    self.overflowed += 1
                    continue
                instance = self._instances[key] = _Instance([None] * len(rule.conditions))
            instance.seen = now
            holds = self._holds(rule, instance, [value for value in seen if value is not None], now)
            again = holds and now >= instance.again_at
            if again or (holds != instance.raised and (holds or now >= instance.doubtful_until)):
                instance.raised, instance.again_at = holds, math.inf
                yield Finding(rule, labels, holds, seen[0] or 0.0, rule.conditions[0].threshold)
        for key, instance in list(self._instances.items()):
            if key[0] == rule.rule_id and now - instance.seen > ABSENT_S:
                del self._instances[key]
                if instance.raised:
                    yield Finding(rule, key[1], False)

    @staticmethod
    def _holds(rule: Rule, instance: _Instance, values: list[float], now: float) -> bool:
        holds = True
        for index, (condition, value) in enumerate(zip(rule.conditions, values, strict=True)):
            if not _COMPARE[condition.operator](value, condition.threshold):
                instance.held_since[index] = None
                holds = False
                continue
            since = instance.held_since[index]
            if since is None:
                since = instance.held_since[index] = now
            holds = holds and now - since >= condition.duration
        return holds
