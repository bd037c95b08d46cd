"""The life of the alerts: what arrives, what the rules find, what people do."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from ...codecs.desk.canonical import Alert
from ...codecs.record import Flag
from ...storage.client import Client
from ...storage.errors import StorageError
from ...storage.offsets import stored_offsets
from ..runtime import BEAT_INTERVAL_S, ActorContext
from .book import AlertBook, Entry
from .commands import BadCommand, member, serve, unlink
from .config import Config
from .defaults import DEFAULT_RULES
from .past import past_alerts
from .produce import Producer, came_back, message, origin_of
from .publish import Publisher
from .rules import INSTANCES_MAX, Finding, Labels, Rule, Watch, alert_id
from .signals import ALERTS_TOPIC, MINUTE_S, RATES, Collector
from .store import FOLDER, Place, Store
from .told import Desk, context_of

log = logging.getLogger(__name__)

SOURCE = "tickring"
PAST_RETRY_S = 2.0
_REPEATED = int(Flag.REPEATED)
SEVERITIES = {
    "INFO": "INFO", "LOW": "LOW", "MEDIUM": "MEDIUM", "WARNING": "MEDIUM", "HIGH": "HIGH", "ERROR": "HIGH",
    "CRITICAL": "CRITICAL", "EMERGENCY": "CRITICAL",
}  # fmt: skip


class Alerts:
    """The only producer of the alert stream."""

    def __init__(self, ctx: ActorContext) -> None:
        self.ctx = ctx
        self.config: Config = ctx.config
        self.store = Store(ctx.data / FOLDER, self.config.default_account)
        self.book = AlertBook(self.store.entries.values(), self.config.resolved_max)
        self.publisher = Publisher(ctx, self.config)
        self.collector = Collector(ctx.folder, ctx.data)
        self.desk = Desk(ctx.folder, ctx.page)
        self.watch = Watch()
        self._past_wanted = asyncio.Event()
        self._past_wanted.set()
        self._missed: tuple[dict[str, int], dict[str, int]] | None = None  # offsets between which tellings were missed
        self.rules = self._all_rules()
        wanted = self.config.kafka if self.config.produce else None
        self.producer = Producer(ctx.page, wanted, ctx.folder) if wanted is not None else None
        self.origin = origin_of(ctx.folder)
        page = ctx.page
        self._raised = {
            severity: page.counter("tickring_alerts_raised_total", "Alerts raised", severity=severity)
            for severity in dict.fromkeys(SEVERITIES.values())
        }
        self._active = page.gauge("tickring_alerts_active", "Alerts that are not resolved")
        self._known = page.gauge("tickring_alerts_known", "Alerts that are remembered")
        self._overflowed = page.gauge(
            "tickring_alerts_unwatched", "Label sets that are not watched: the rules have more than can be"
        )
        self._seen: set[str] = set()  # signals that had a value since our start
        self._repeated = page.counter("tickring_alerts_repeated_total", "Tellings that changed nothing")
        self._failed = page.gauge("tickring_alerts_unwritten", "Changes that wait for room on the disk")
        self._look_s = page.gauge("tickring_alerts_look_seconds", "Time that the last look at the rules took")
        damaged = page.gauge("tickring_alerts_damaged_lines", "Lines of the state on disk that could not be read")
        damaged.set(self.store.damaged)
        self._restore()

    # -- rules ------------------------------------------------------------------------------------------------------

    def _all_rules(self) -> dict[str, Rule]:
        """Built-in rules, those of the configuration in their place, and those that somebody made over both."""
        rules = {
            rule.rule_id: msgspec.structs.replace(rule, enabled=rule.rule_id not in self.config.disabled)
            for rule in DEFAULT_RULES
        }
        rules |= {rule.rule_id: rule for rule in self.config.rules}
        return rules | self.store.rules

    def _restore(self) -> None:
        """What was active, or resolved by hand not long ago, is not raised again; it ends where its rule is gone."""
        now = time.monotonic()
        for entry in list(self.book):
            rest_s = self._rest_s(entry)
            if (entry.alert.resolved and not rest_s) or not _is_own(entry.alert):
                continue
            rule = self.rules.get(entry.alert.rule_id or "")
            if rule is not None and rule.enabled:
                doubt_s = MINUTE_S if any(one.metric_name in RATES for one in rule.conditions) else 0.0
                self.watch.restore(rule, _labels_of(entry.alert), now, doubt_s)
                if rest_s:
                    self.watch.resolved_by_hand(rule.rule_id, _labels_of(entry.alert), now + rest_s)
            elif not entry.alert.resolved:
                self._without_rule(entry)
        self._show_again()

    def _rest_s(self, entry: Entry) -> float:
        """For how long a rule does not raise again what was resolved by hand; 0 where it was not."""
        if not entry.alert.resolved or entry.alert.auto_resolved:
            return 0.0
        rest_s = self.config.again_after_s - (time.time_ns() - entry.resolved_ns) / 1e9
        return max(0.0, min(rest_s, self.config.again_after_s))

    def _show_again(self) -> None:
        """What a crash left between file and ring is in the ring now; a stream made anew gets everything."""
        if self.store.shown != self.publisher.epoch:
            for entry in self.book:
                self._changed(entry)
            self.store.put_shown(self.publisher.epoch)
            return
        oldest, there = self.publisher.held()
        for entry in self.book:
            if entry.changed_ns >= oldest and entry.changed_ns not in there:
                self.publisher.put(entry.alert, entry.changed_ns)

    # -- changes ----------------------------------------------------------------------------------------------------

    def _changed(self, entry: Entry, *, raised: bool = False) -> None:
        """Keep it first, then show it: what a crash leaves between the two is shown at the next start."""
        entry.change(time.time_ns())
        self.store.put(entry)
        self.publisher.put(entry.alert, entry.changed_ns)
        if raised:
            self._raised[entry.alert.severity].inc()

    def _take_topic(self) -> None:
        follower = self.desk.alerts
        follower.look()
        place = self.store.place
        if follower.epoch == place.epoch and follower.next < place.sequence:
            follower.next = place.sequence
        first = follower.next
        items = follower.items()
        for item in items:
            if not item.flags & _REPEATED:
                self._tell(item.value)
        if items and follower.epoch != place.epoch:
            self._past_wanted.set()  # the topic went on behind what is stored: what is stored is not all told yet
        if items:
            offsets = {**place.offsets, **{str(item.partition): item.offset + 1 for item in items}}
            if follower.next - first > len(items):  # more at once than are kept, or the ring went on without us
                self._missed = (self._missed[0] if self._missed else place.offsets), offsets
                self._past_wanted.set()
            self.store.put_place(Place(epoch=follower.epoch, sequence=follower.next, offsets=offsets))

    def _tell(self, alert: Alert) -> None:
        known = self.book.get(alert.alert_id)
        if came_back(alert, self.origin) or (known is not None and _is_own(known.alert)):
            return  # what it is, our rules and our people say
        entry = self.book.tell(alert)
        if entry is not None:
            self._changed(entry, raised=known is None and not entry.alert.resolved)

    async def _tell_past(self) -> None:
        """Take from ClickHouse what was told in a ring that is gone, or too fast. Telling twice changes nothing."""
        client, said = Client(self.config.clickhouse, self.ctx.folder, self.ctx.data), ""
        offsets, until, done = dict(self.store.place.offsets), dict[str, int](), False
        try:
            while True:
                await self._past_wanted.wait()
                self._past_wanted.clear()
                if self._missed is not None:
                    (start, until), self._missed = self._missed, None
                    offsets = dict(start) if done else offsets  # what is being asked for already begins before it
                done = False
                try:
                    # what a ring that is gone had is in the table only once nothing of it waits on disk
                    await stored_offsets(client, self.ctx.data, ALERTS_TOPIC, self.desk.alerts.epoch or 1 << 64)
                    while True:
                        alerts, ends = await past_alerts(client, offsets, self.config.default_account)
                        for alert in alerts:
                            self._tell(alert)
                        offsets |= ends
                        if not ends:
                            break
                    done, said = all(offsets.get(partition, 0) >= end for partition, end in until.items()), ""
                except StorageError as error:
                    if str(error) != said:
                        said = str(error)
                        log.info("alerts of the past: %s: asked again", error)
                if not done:  # or the writer has not stored it all yet
                    self._past_wanted.set()
                    await asyncio.sleep(PAST_RETRY_S)
        finally:
            await client.close()

    def look(self) -> None:
        """Take what arrived, and look at the rules."""
        started = time.perf_counter()
        self._take_topic()
        now = time.monotonic()
        signals = self.collector.collect(now)
        self.desk.collect(signals)
        self._seen.update(name for name, values in signals.items() if values)
        overflowed = self.watch.overflowed
        for finding in self.watch.examine(self.rules.values(), signals, now):
            self._found(finding)
        if self.watch.overflowed and not overflowed:
            log.warning("unwatched=%d label sets: more than %d; narrow the rules", self.watch.overflowed, INSTANCES_MAX)
        for entry in self.book.give_up(self.config.active_max, time.time_ns()):
            self._changed(entry)
            self._produce(entry)
        self.store.sync(self.book)
        self._show(time.perf_counter() - started)

    def _found(self, finding: Finding) -> None:
        now_ns = time.time_ns()
        if not finding.raised:
            known = self.book.get(finding.alert_id)
            if known is not None and not known.alert.resolved:
                log.info("alert=%s resolved", finding.alert_id)
                entry = self.book.resolve(finding.alert_id, "the condition is over", now_ns, auto=True)
                self._changed(entry)
                self._produce(entry)
            return
        alert = _alert_of(finding, now_ns)
        entry = self.book.raise_own(alert, now_ns, int(self.config.again_after_s * 1e9))
        if entry is not None:
            log.warning("alert=%s severity=%s: %s", alert.alert_id, alert.severity, alert.message)
            self._changed(entry, raised=True)
            self._produce(entry)

    def _produce(self, entry: Entry) -> None:
        """Tell the others that an alert of ours was raised, or is over: after `_changed`."""
        if self.producer is not None and _is_own(entry.alert):
            self.producer.put(message(entry, self.origin))

    def _show(self, took_s: float) -> None:
        active = len(self.book.active())
        self._active.set(active)
        self._known.set(len(self.book))
        self._overflowed.set(self.watch.overflowed)
        self._repeated.value = self.book.repeated
        self._failed.set(self.store.failed)
        self._look_s.set(took_s)
        self.ctx.page.detail = {"active": active, "known": len(self.book), "rules": len(self.rules)}

    def told_rules(self) -> list[dict[str, Any]]:
        """The rules, and of each whether there is anything that it looks at."""
        told = []
        for rule in self.rules.values():
            names = dict.fromkeys(one.metric_name for one in rule.conditions)
            missing = [name for name in names if name not in self._seen]
            note = f"no value of {', '.join(missing)} was seen since the alerts started" if missing else None
            told.append({**msgspec.to_builtins(rule), "seen": not missing, "note": note})
        return told

    # -- commands ---------------------------------------------------------------------------------------------------

    def acknowledge(self, request: dict[str, Any]) -> dict[str, Any]:
        entry = self.book.acknowledge(
            member(request, "alert_id", 1000), member(request, "by", default="anonymous"), time.time_ns()
        )
        self._changed(entry)
        return {"alert": entry}

    def resolve(self, request: dict[str, Any]) -> dict[str, Any]:
        alert_id = member(request, "alert_id", 1000)
        action = member(request, "action", 1000, default="resolved by hand")
        known = self.book.get(alert_id)
        over = known is not None and known.alert.resolved
        entry = self.book.resolve(alert_id, action, time.time_ns())
        self._changed(entry)
        if not over and _is_own(entry.alert):
            again_at = time.monotonic() + self.config.again_after_s
            self.watch.resolved_by_hand(entry.alert.rule_id or "", _labels_of(entry.alert), again_at)
            self._produce(entry)
        return {"alert": entry}

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """An alert that somebody raises by hand."""
        severity = SEVERITIES.get(member(request, "severity").upper())
        if severity is None:
            raise BadCommand(f"severity: expected one of {', '.join(SEVERITIES)}", "severity")
        now_ns, event_id = time.time_ns(), str(uuid.uuid4())
        status = member(request, "status", default="active").lower()
        if status not in ("active", "acknowledged"):
            raise BadCommand("status: expected active or acknowledged", "status")
        labels = request.get("labels") or {}
        if not isinstance(labels, dict) or len(labels) > 50:
            raise BadCommand("labels: expected an object of at most 50 members", "labels")
        alert = Alert(
            event_id=event_id, timestamp=now_ns, variant="", alert_id=f"manual-{event_id}", severity=severity,
            severity_raw=member(request, "severity"), code=member(request, "category", 100, default="manual").upper(),
            category=member(request, "category", 100, default="manual"), title=member(request, "name"),
            message=member(request, "description", 4000), source=member(request, "source", default=SOURCE),
            rule_id=_optional(request, "rule_id"), context=msgspec.json.encode(labels).decode(),
            account_id=_optional(request, "account_id"), symbol=_optional(request, "symbol"),
            acknowledged=status == "acknowledged",
        )  # fmt: skip
        entry = self.book.tell(alert)
        assert entry is not None, "a new id is always news"
        entry.acknowledged_by = alert.source or "" if alert.acknowledged else ""
        self._changed(entry, raised=True)
        return {"alert": entry}

    def put_rule(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make a rule, or change one."""
        given = request.get("rule")
        if not isinstance(given, Mapping):
            raise BadCommand("rule: expected an object", "rule")
        given = {"rule_id": f"rule-{uuid.uuid4()}", **given, "origin": "api"}
        severity = SEVERITIES.get(str(given.get("severity", "")).upper())
        if severity is None:
            raise BadCommand(f"severity: expected one of {', '.join(SEVERITIES)}", "severity")
        try:
            rule = msgspec.convert({**given, "severity": severity}, Rule)
        except msgspec.ValidationError as error:
            raise BadCommand(str(error), str(error).rpartition("`$.")[2].partition("`")[0].partition("[")[0]) from None
        self._change_rule(rule.rule_id, lambda: self.store.put_rule(rule))
        return {"rule": rule}

    def drop_rule(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take away what somebody made."""
        rule_id = member(request, "rule_id")
        if rule_id not in self.store.rules:
            known = "a built-in or configured rule: disable it instead" if rule_id in self.rules else "no such rule"
            raise BadCommand(f"rule {rule_id!r}: {known}", "rule_id")
        self._change_rule(rule_id, lambda: self.store.drop_rule(rule_id))
        return {}

    def _change_rule(self, rule_id: str, change: Any) -> None:
        """What the rule raised before ends, unless it is raised again at the next look."""
        change()
        self.watch.forget(rule_id)
        self.rules = self._all_rules()
        rule = self.rules.get(rule_id)
        for entry in self.book.active():
            if entry.alert.rule_id == rule_id and _is_own(entry.alert):
                if rule is not None and rule.enabled:
                    self.watch.restore(rule, _labels_of(entry.alert), time.monotonic())
                else:
                    self._without_rule(entry)

    def _without_rule(self, entry: Entry) -> None:
        self._changed(self.book.resolve(entry.alert.alert_id, "its rule is gone", time.time_ns(), auto=True))
        self._produce(entry)

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the stop."""
        server = await serve(self.ctx.folder, {
            "acknowledge": self.acknowledge, "resolve": self.resolve, "create": self.create,
            "list": lambda _: {"alerts": list(self.book)}, "rules": lambda _: {"rules": self.told_rules()},
            "put_rule": self.put_rule, "drop_rule": self.drop_rule,
        })  # fmt: skip
        background = [asyncio.create_task(self._tell_past())]
        if self.producer is not None:
            background.append(asyncio.create_task(self.producer.run()))
        self.ctx.running()
        try:
            next_look = 0.0
            while not self.ctx.stopping.is_set():
                self.ctx.beat()
                for task in background:
                    if task.done():
                        task.result()  # ends by itself only by a fault of ours
                # what arrives is shown at once; the rules are looked at less often
                if (now := time.monotonic()) >= next_look:
                    next_look = now + self.config.interval_s
                    self.look()
                else:
                    self._take_topic()
                await self.ctx.stopped_within(min(BEAT_INTERVAL_S, self.config.interval_s))
            self._take_topic()
        finally:
            server.close()
            unlink(self.ctx.folder)
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            self.store.sync(self.book)
            self.store.close()
            self.desk.close()
            self.publisher.close()


def _optional(request: dict[str, Any], name: str) -> str | None:
    return member(request, name) if request.get(name) else None


def _alert_of(finding: Finding, now_ns: int) -> Alert:
    rule, labels = finding.rule, dict(finding.labels)
    condition = rule.conditions[0]
    where = " ".join(f"{name}={value}" for name, value in finding.labels)
    text = f"{rule.name}: {condition.metric_name} is {finding.value:g}, {condition.operator} {finding.threshold:g}"
    return Alert(
        event_id=str(uuid.uuid4()), timestamp=now_ns, variant="", source=SOURCE, alert_id=finding.alert_id,
        severity=rule.severity, severity_raw=rule.severity, code=rule.rule_id.upper(), category=rule.category,
        title=rule.name, message=f"{text} ({where})" if where else text, description=rule.description or None,
        account_id=labels.get("account"), symbol=labels.get("symbol"), rule_id=rule.rule_id,
        threshold_value=_amount(finding.threshold), current_value=_amount(finding.value),
        context=context_of(finding.labels, finding.value),
    )  # fmt: skip


def _amount(value: float) -> int | None:
    return round(value * 10**8) if abs(value) < 1e18 else None


def _labels_of(alert: Alert) -> Labels:
    """The labels of an alert of ours."""
    context = msgspec.json.decode(alert.context or "{}", type=dict[str, Any])
    context.pop("value", None)
    return tuple(sorted((name, str(value)) for name, value in context.items()))


def _is_own(alert: Alert) -> bool:
    """Whether a rule raised it: others may name a rule too."""
    try:
        return alert.rule_id is not None and alert.alert_id == alert_id(alert.rule_id, _labels_of(alert))
    except msgspec.MsgspecError:  # a context that is none of ours
        return False


async def main(ctx: ActorContext) -> None:
    """Watch until the stop. Raises OSError when the data folder cannot be used."""
    alerts = Alerts(ctx)
    gc.collect()
    gc.freeze()  # what lives from here on lives as long as the process
    await alerts.run()
