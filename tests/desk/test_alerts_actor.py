"""The alerts actor as a process: tellings, rules, commands, kills; nothing raised twice, nothing forgotten."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tickring.actors.alerts import Config, actor, byte_rings, main, streams
from tickring.actors.alerts.book import AlertBook
from tickring.actors.alerts.rules import Condition, Rule
from tickring.actors.alerts.store import Store
from tickring.actors.control import ALERTS_SOCKET, CommandRefused, NoAnswer, command
from tickring.actors.recent import Recent
from tickring.actors.runtime import ActorContext
from tickring.actors.topic.brokers import Brokers
from tickring.codecs.desk.canonical import Alert
from tickring.codecs.desk.decoder import Defaults, decoder
from tickring.codecs.desk.records import ALERT_STATE, TEXTS
from tickring.ringbuf import (
    ByteRingReader,
    MetricsPage,
    StreamReader,
    bytes_filename,
    create_byte_ring,
    create_keys,
    create_stream,
    keys_filename,
)
from tickring.storage.errors import SpoolWaits

from .desk_rig import Topic

DEADLINE_S = 60.0
RULE = Rule(
    rule_id="pressure", name="Pressure", severity="HIGH",
    conditions=[Condition(metric_name="test_pressure", operator=">", threshold=10)],
)  # fmt: skip
CONFIG = Config(
    interval_s=0.05,
    rules=[RULE],
    disabled=["memory_80", "memory_90", "cpu_70", "cpu_90", "storage_80", "storage_90", "actor_down"],
)


def _context(folder: Path, data: Path, config: Config) -> ActorContext:
    page = MetricsPage(folder, "alerts", time.time_ns())
    return ActorContext(name="alerts", kind="alerts", folder=folder, data=data, config=config, page=page)


def _run(folder: Path, data: Path, config: Config) -> None:
    ctx = _context(folder, data, config)

    async def serve() -> None:
        ctx.stop_on_signals()
        await main(ctx)

    asyncio.run(serve())


class Rig:
    """The actor in a process of its own, with what it reads and what it writes."""

    def __init__(self, root: Path) -> None:
        self.folder, self.data = root / "shm", root / "data"
        self.folder.mkdir()
        self.make_streams()
        self.topic = Topic(self.folder, "alerts.v1")
        self.page = MetricsPage(self.folder, "pump", time.time_ns())
        self.pressure = self.page.gauge("test_pressure", "for a rule")
        self.set_pressure(0)
        self.process: Any = None

    def make_streams(self) -> None:
        now = time.time_ns()
        for spec in streams("alerts", CONFIG):
            create_stream(self.folder, spec, now)
        create_keys(self.folder / keys_filename("alerts"), CONFIG.accounts_max + 1)
        for name, size in byte_rings("alerts", CONFIG).items():
            create_byte_ring(self.folder / bytes_filename("alerts", name), size, now)

    def start(self) -> None:
        self.process = get_context("fork").Process(target=_run, args=(self.folder, self.data, CONFIG))
        self.process.start()
        self.wait(lambda: self.ask("rules") is not None, "it does not answer")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None and self.process.is_alive():
            os.kill(self.process.pid, number)
            self.process.join(DEADLINE_S)
            assert not self.process.is_alive()

    def set_pressure(self, value: float) -> None:
        self.pressure.set(value)
        self.page.beat(time.monotonic_ns())

    def ask(self, name: str, /, **members: Any) -> Any:
        try:
            return asyncio.run(command(self.folder / ALERTS_SOCKET, name, 10.0, **members))
        except NoAnswer:
            return None

    def changes(self) -> list[Alert]:
        """Everything that was published, oldest first."""
        reader = StreamReader(self.folder, "alerts", ALERT_STATE.name, ALERT_STATE.dtype)
        texts = ByteRingReader(self.folder / bytes_filename("alerts", TEXTS))
        recent = Recent(reader, texts, Alert, 10_000)
        found = [item.value for item in recent.refresh()]
        recent.close()
        return found

    def wait(self, holds: Callable[[], bool], why: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, why
            time.sleep(0.02)

    def wait_states(self, alert_id: str, *states: str) -> None:
        """Exactly these states were published of an alert, in this order."""

        def seen() -> list[str]:
            return [alert.status for alert in self.changes() if alert.alert_id == alert_id]

        self.wait(lambda: seen() == list(states), f"{alert_id}: {seen()} instead of {states}")

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        self.topic.close()
        self.page.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    made.start()
    yield made
    made.close()


def telling(n: int, at: int = 0, **more: Any) -> Alert:
    values: dict[str, Any] = {
        "event_id": f"e-{n}-{at}", "timestamp": time.time_ns() + at, "variant": "api", "alert_id": f"al-{n}",
        "severity": "HIGH", "code": "X", "title": "Title", "message": "Message", **more,
    }  # fmt: skip
    return Alert(**values)


def test_what_arrives_is_published_once(rig: Rig) -> None:
    alert = telling(1)
    rig.topic.say(alert)
    rig.topic.say(alert, flags=1 << 18)  # the same event again
    rig.topic.say(alert)  # and in another one
    rig.topic.say(telling(2))
    rig.wait_states("al-2", "ACTIVE")
    assert [one.alert_id for one in rig.changes()] == ["al-1", "al-2"]


def test_a_rule_raises_one_alert_and_resolves_it(rig: Rig) -> None:
    name = "pressure{actor=pump}"
    rig.set_pressure(20)
    rig.wait_states(name, "ACTIVE")
    rig.set_pressure(1)
    rig.wait_states(name, "ACTIVE", "RESOLVED")
    assert rig.changes()[-1].auto_resolved and rig.changes()[0].current_value == 20 * 10**8


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_restart_raises_nothing_anew_and_knows_what_people_did(rig: Rig, number: int) -> None:
    rig.topic.say(telling(1))
    rig.set_pressure(20)
    rig.wait_states("pressure{actor=pump}", "ACTIVE")
    rig.wait_states("al-1", "ACTIVE")
    rig.ask("acknowledge", alert_id="al-1", by="ada")
    rig.wait_states("al-1", "ACTIVE", "ACKNOWLEDGED")
    rig.stop(number)
    rig.topic.say(telling(2))  # while it is away
    rig.start()
    rig.wait_states("al-2", "ACTIVE")
    looks = 0
    while looks < 5:  # the rules are looked at again and again
        rig.ask("list")
        looks += 1
        time.sleep(0.1)
    assert [one.alert_id for one in rig.changes()].count("pressure{actor=pump}") == 1
    known = {entry["alert"]["alert_id"]: entry for entry in rig.ask("list")["alerts"]}
    assert known["al-1"]["alert"]["acknowledged"] and known["al-1"]["acknowledged_by"] == "ada"
    rig.set_pressure(0)
    rig.wait_states("pressure{actor=pump}", "ACTIVE", "RESOLVED")


def test_what_was_resolved_by_hand_stays_so_over_a_restart_and_comes_back_later(
    still: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts, name = actor.Alerts(_context(still.folder, still.data, CONFIG)), "pressure{actor=pump}"
    still.set_pressure(20)
    alerts.look()
    alerts.resolve({"alert_id": name})
    _released(alerts)
    alerts = actor.Alerts(_context(still.folder, still.data, CONFIG))
    for _ in range(2):
        alerts.look()
    states = [one.status for one in still.changes() if one.alert_id == name]
    assert states == ["ACTIVE", "RESOLVED"]
    _released(alerts)
    now, monotonic = time.time_ns(), time.monotonic()
    monkeypatch.setattr(actor.time, "time_ns", lambda: now + 3590 * 10**9)
    alerts = actor.Alerts(_context(still.folder, still.data, CONFIG))
    for later, expected in ((0, "RESOLVED"), (30, "ACTIVE")):
        monkeypatch.setattr(actor.time, "time_ns", lambda later=later: now + (3590 + later) * 10**9)
        monkeypatch.setattr(actor.time, "monotonic", lambda later=later: monotonic + later)
        alerts.look()
        entry = alerts.book.get(name)
        assert entry is not None and entry.alert.status == expected, later
    monkeypatch.undo()
    _released(alerts)


def test_a_stream_made_anew_has_every_alert_again(rig: Rig) -> None:
    rig.topic.say(telling(1))
    rig.wait_states("al-1", "ACTIVE")
    rig.ask("resolve", alert_id="al-1", action="closed")
    rig.wait_states("al-1", "ACTIVE", "RESOLVED")
    rig.stop(signal.SIGKILL)
    for path in rig.folder.glob("alerts.*"):
        path.unlink()  # as a reboot does
    rig.make_streams()
    rig.start()
    rig.wait_states("al-1", "RESOLVED")


def _versions(rig: Rig, alert_id: str) -> list[int]:
    """What of the published changes of an alert says which is the newest."""
    reader = StreamReader(rig.folder, "alerts", ALERT_STATE.name, ALERT_STATE.dtype)
    texts = ByteRingReader(rig.folder / bytes_filename("alerts", TEXTS))
    recent = Recent(reader, texts, Alert, 10_000)
    found = [item.recv_ns for item in recent.refresh() if item.value.alert_id == alert_id]
    recent.close()
    return found


def test_the_newest_state_wins_also_after_the_clock_was_set_back(still: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    alerts = actor.Alerts(_context(still.folder, still.data, CONFIG))
    alerts._tell(telling(1))
    now = time.time_ns()
    monkeypatch.setattr(actor.time, "time_ns", lambda: now - 3600 * 10**9)
    alerts.acknowledge({"alert_id": "al-1", "by": "ada"})
    _released(alerts)
    alerts = actor.Alerts(_context(still.folder, still.data, CONFIG))  # which knows it from its file
    alerts.resolve({"alert_id": "al-1"})
    _released(alerts)
    assert [one.status for one in still.changes()] == ["ACTIVE", "ACKNOWLEDGED", "RESOLVED"]
    versions = _versions(still, "al-1")
    assert versions == sorted(set(versions)) and len(versions) == 3


def test_a_change_that_was_kept_and_not_shown_is_shown_at_the_next_start(
    still: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts = actor.Alerts(_context(still.folder, still.data, CONFIG))
    alerts._tell(telling(1))
    alerts._tell(telling(2))
    monkeypatch.setattr(alerts.publisher, "put", lambda *_: None)  # killed between the two
    alerts.acknowledge({"alert_id": "al-1", "by": "ada"})
    _released(alerts)
    for _ in range(2):
        _released(actor.Alerts(_context(still.folder, still.data, CONFIG)))
        assert [(one.alert_id, one.status) for one in still.changes()] == [
            ("al-1", "ACTIVE"), ("al-2", "ACTIVE"), ("al-1", "ACKNOWLEDGED")
        ]  # fmt: skip


def test_a_stream_made_anew_has_every_alert_although_filling_it_was_cut_short(
    still: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    alerts = actor.Alerts(_context(still.folder, still.data, CONFIG))
    for n in range(3):
        alerts._tell(telling(n))
    _released(alerts)
    for path in still.folder.glob("alerts.*"):
        path.unlink()
    still.make_streams()
    monkeypatch.setattr(Store, "put_shown", lambda *_: None)
    monkeypatch.setattr(actor.AlertBook, "__iter__", lambda book: iter([*book._entries.values()][:1]))
    _released(actor.Alerts(_context(still.folder, still.data, CONFIG)))
    monkeypatch.undo()
    _released(actor.Alerts(_context(still.folder, still.data, CONFIG)))
    assert [one.alert_id for one in still.changes()] == ["al-0", "al-0", "al-1", "al-2"]


def test_rules_can_be_made_changed_and_taken_away(rig: Rig) -> None:
    rule = {"name": "Own", "severity": "critical", "conditions": [
        {"metric_name": "test_pressure", "operator": "<", "threshold": 5, "duration": 0}
    ]}  # fmt: skip
    made = rig.ask("put_rule", rule=rule)["rule"]
    assert made["severity"] == "CRITICAL" and made["origin"] == "api"
    name = f"{made['rule_id']}{{actor=pump}}"
    rig.wait_states(name, "ACTIVE")
    rig.ask("drop_rule", rule_id=made["rule_id"])
    rig.wait_states(name, "ACTIVE", "RESOLVED")
    with pytest.raises(CommandRefused, match="no such rule"):
        rig.ask("drop_rule", rule_id=made["rule_id"])
    with pytest.raises(CommandRefused, match="built-in"):
        rig.ask("drop_rule", rule_id="kafka_lag")


def test_rules_that_look_at_nothing_say_so(rig: Rig) -> None:
    conditions = [{"metric_name": "no_such_metric", "operator": ">", "threshold": 5}]
    rig.ask("put_rule", rule={"rule_id": "typo", "name": "Own", "severity": "HIGH", "conditions": conditions})

    def told() -> dict[str, Any]:
        return {rule["rule_id"]: (rule["seen"], rule["note"]) for rule in rig.ask("rules")["rules"]}

    rig.wait(lambda: told()["pressure"] == (True, None), "its signal is there")
    assert told()["typo"] == (False, "no value of no_such_metric was seen since the alerts started")


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("acknowledge", {"alert_id": "none"}), ("acknowledge", {}), ("resolve", {"alert_id": 5}), ("nothing", {}),
        ("create", {"name": "x", "severity": "LOW", "description": "y", "rule_id": 5}),
        ("create", {"name": "x"}), ("create", {"name": "x", "severity": "LOUD", "description": "y"}),
        ("put_rule", {"rule": []}), ("put_rule", {"rule": {"name": "x", "severity": "HIGH", "conditions": []}}),
        ("put_rule", {"rule": {"name": "x", "severity": "HIGH", "conditions": [{"metric_name": "a"}]}}),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_command_gets_a_reason(rig: Rig, name: str, members: dict[str, Any]) -> None:
    with pytest.raises(CommandRefused):
        rig.ask(name, **members)
    assert rig.ask("rules") is not None


def test_somebody_can_raise_an_alert_by_hand(rig: Rig) -> None:
    made = rig.ask("create", name="Look", severity="warning", description="something is odd", source="ada")["alert"]
    assert made["alert"]["severity"] == "MEDIUM" and made["alert"]["severity_raw"] == "warning"
    rig.wait_states(made["alert"]["alert_id"], "ACTIVE")


def test_what_is_produced_tells_everybody_what_becomes_of_an_alert_and_changes_nothing_here(still: Rig) -> None:
    rules = [msgspec.structs.replace(RULE, rule_id=name) for name in ("auto", "hand", "rule")]
    config = Config(rules=rules, produce=True, kafka=Brokers(bootstrap_servers="127.0.0.1:1"))
    alerts = actor.Alerts(_context(still.folder, still.data, config))
    ids = {rule.rule_id: f"{rule.rule_id}{{actor=pump}}" for rule in rules}
    still.set_pressure(20)
    alerts.look()
    alerts.resolve({"alert_id": ids["hand"]})
    alerts.resolve({"alert_id": ids["hand"]})  # again: it was over
    alerts.rules["rule"] = msgspec.structs.replace(rules[2], enabled=False)
    entry = alerts.book.get(ids["rule"])
    assert entry is not None
    alerts._without_rule(entry)
    still.set_pressure(0)
    alerts.look()
    assert alerts.producer is not None
    sent = [alerts.producer._waiting.get_nowait() for _ in range(alerts.producer._waiting.qsize())]
    sent = [one for one in sent if b"actor=pump" in one]
    decode, seen, others = decoder("alerts.v1", Defaults()), set[str](), AlertBook()
    published = len(still.changes())
    for offset, value in enumerate(sent):
        event = decode(value, 0, offset, 0)
        assert isinstance(event, Alert) and event.event_id not in seen
        seen.add(event.event_id)
        others.tell(event)
        alerts._tell(event)
    assert len(sent) == 6 and not [one for one in others.active() if one.alert.alert_id in ids.values()]
    assert len(still.changes()) == published
    assert {one.alert.source for one in alerts.book if one.alert.alert_id in ids.values()} == {"tickring"}
    for alert_id in ids.values():
        del alerts.book._entries[alert_id]  # as when it was resolved long ago
    for offset, value in enumerate(sent):
        event = decode(value, 0, offset, 0)
        assert isinstance(event, Alert)
        alerts._tell(event)
    assert len(still.changes()) == published
    _released(alerts)


@pytest.fixture
def still(tmp_path: Path) -> Iterator[Rig]:
    """A rig whose actor does not run: a test makes it."""
    made = Rig(tmp_path)
    yield made
    made.close()


def _released(alerts: actor.Alerts) -> None:
    alerts.store.close()
    alerts.desk.close()
    alerts.publisher.close()
    alerts.ctx.page.close()


OFF = msgspec.structs.replace(RULE, enabled=False)


@pytest.mark.parametrize("rules", [[OFF], []], ids=["disabled", "gone"])
def test_an_alert_whose_rule_is_gone_after_a_restart_is_resolved(rig: Rig, rules: list[Rule]) -> None:
    name = "pressure{actor=pump}"
    rig.set_pressure(20)
    rig.wait_states(name, "ACTIVE")
    rig.stop()
    alerts = actor.Alerts(_context(rig.folder, rig.data, Config(rules=rules)))
    entry = alerts.book.get(name)
    assert entry is not None and entry.alert.resolution_action == "its rule is gone"
    _released(alerts)
    rig.wait_states(name, "ACTIVE", "RESOLVED")


def test_tellings_faster_than_they_are_taken_come_from_what_is_stored(
    still: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, stored = [telling(n) for n in range(5000)], 0

    async def past_alerts(_: Any, offsets: dict[str, int], __: str) -> tuple[list[Alert], dict[str, int]]:
        found = told[offsets.get("0", 0) : stored]
        return found, {"0": stored} if found else {}

    async def stored_offsets(*_: Any) -> dict[int, int]:
        return {0: stored}

    monkeypatch.setattr(actor, "past_alerts", past_alerts)
    monkeypatch.setattr(actor, "stored_offsets", stored_offsets)
    monkeypatch.setattr(actor, "PAST_RETRY_S", 0.01)

    async def live() -> None:
        nonlocal stored
        alerts = actor.Alerts(_context(still.folder, still.data, CONFIG))
        asking = asyncio.create_task(alerts._tell_past())
        await asyncio.sleep(0.05)
        for alert in told:
            still.topic.say(alert)
        alerts._take_topic()
        assert len(alerts.book) < 5000
        await asyncio.sleep(0.05)  # the writer has stored nothing yet
        stored = 5000
        async with asyncio.timeout(DEADLINE_S):
            while len(alerts.book) < 5000:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        _released(alerts)

    asyncio.run(live())


def test_alerts_of_a_ring_that_is_gone_are_told_once_nothing_waits_on_disk(
    still: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def stored_offsets(_: Any, __: Any, topic: str, epoch: int) -> dict[int, int]:
        asked.append((topic, epoch))
        if len(asked) < 3:
            raise SpoolWaits("batches wait")
        return {0: 1}

    async def past_alerts(_: Any, offsets: dict[str, int], __: str) -> tuple[list[Alert], dict[str, int]]:
        assert len(asked) == 3, "what waited would never be told"
        return ([telling(1)], {"0": 1}) if not offsets else ([], {})

    monkeypatch.setattr(actor, "stored_offsets", stored_offsets)
    monkeypatch.setattr(actor, "past_alerts", past_alerts)
    monkeypatch.setattr(actor, "PAST_RETRY_S", 0.01)

    async def live() -> None:
        alerts = actor.Alerts(_context(still.folder, still.data, CONFIG))
        asking = asyncio.create_task(alerts._tell_past())
        async with asyncio.timeout(DEADLINE_S):
            while not len(alerts.book):  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        _released(alerts)

    asyncio.run(live())
    assert {topic for topic, _ in asked} == {"alerts.v1"}


def test_a_damaged_line_of_the_state_is_left_out_and_counted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put_rule(RULE)
    store.close()
    with (tmp_path / "state.jsonl").open("ab") as file:
        file.write(b'{"no_rule":"\xff"}\n{"no_rule":\n')
    again = Store(tmp_path)
    assert (again.rules, again.damaged) == ({"pressure": RULE}, 2)
    again.close()


def test_a_disk_without_room_does_not_keep_the_alerts_from_starting(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put_rule(RULE)
    store.close()
    (tmp_path / "state.new").mkdir()  # the file cannot be written anew
    again = Store(tmp_path)
    assert again.rules == {"pressure": RULE} and again.failed
    (tmp_path / "state.new").rmdir()
    again.sync(())
    assert not again.failed
    again.close()
