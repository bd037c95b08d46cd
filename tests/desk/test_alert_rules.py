"""Rules and the book of alerts: pure parts."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickring.actors.alerts import rules
from tickring.actors.alerts.book import AlertBook, Entry, UnknownAlert
from tickring.actors.alerts.defaults import DEFAULT_RULES
from tickring.actors.alerts.rules import ABSENT_S, Condition, Rule, Watch, alert_id
from tickring.actors.alerts.signals import Rates, labels_of
from tickring.codecs.desk.canonical import Alert

LAG = labels_of(topic="exec.reports.v1")


def a_rule(duration: float = 0.0, threshold: float = 1000.0, **more: Any) -> Rule:
    condition = Condition(metric_name="kafka_lag_events", operator=">=", threshold=threshold, duration=duration)
    return Rule(**{"rule_id": "lag", "name": "Behind", "severity": "MEDIUM", "conditions": [condition], **more})


def look(watch: Watch, rule: Rule, value: float | None, now: float) -> list[bool]:
    signals = {"kafka_lag_events": {LAG: value}} if value is not None else {}
    return [finding.raised for finding in watch.examine([rule], signals, now)]


def test_a_rule_is_raised_once_and_ends_once() -> None:
    watch, rule = Watch(), a_rule()
    seen = [look(watch, rule, value, now) for now, value in enumerate((10, 1000, 2000, 999, 5))]
    assert seen == [[], [True], [], [False], []]


def test_a_condition_must_hold_without_interruption() -> None:
    watch, rule = Watch(), a_rule(duration=30)
    assert look(watch, rule, 2000, 0) == [] and look(watch, rule, 2000, 29) == []
    assert look(watch, rule, 0, 29.5) == [] and look(watch, rule, 2000, 30) == []
    assert look(watch, rule, 2000, 60) == [True]


def test_a_signal_that_is_gone_ends_what_it_raised_after_a_while() -> None:
    watch, rule = Watch(), a_rule()
    assert look(watch, rule, 2000, 0) == [True]
    assert look(watch, rule, None, ABSENT_S) == []
    assert look(watch, rule, None, ABSENT_S + 1) == [False]


def test_each_label_set_is_watched_by_itself() -> None:
    watch, rule = Watch(), a_rule()
    other = labels_of(topic="alerts.v1")
    found = list(watch.examine([rule], {"kafka_lag_events": {LAG: 2000.0, other: 1.0}}, 0))
    assert [finding.labels for finding in found] == [LAG]
    assert found[0].alert_id == "lag{topic=exec.reports.v1}" == alert_id("lag", LAG)


def test_all_conditions_must_hold_and_one_without_labels_goes_with_all() -> None:
    rule = a_rule(conditions=[
        Condition(metric_name="kafka_lag_events", operator=">", threshold=10),
        Condition(metric_name="open", operator="==", threshold=1),
    ])  # fmt: skip
    watch = Watch()
    lag = {LAG: 20.0}
    assert not list(watch.examine([rule], {"kafka_lag_events": lag, "open": {(): 0.0}}, 0))
    assert not list(watch.examine([rule], {"kafka_lag_events": lag}, 1)), "an unknown signal is no reason"
    assert [one.labels for one in watch.examine([rule], {"kafka_lag_events": lag, "open": {(): 1.0}}, 2)] == [LAG]


def test_what_was_active_before_a_restart_is_not_raised_again() -> None:
    watch, rule = Watch(), a_rule(duration=60)
    watch.restore(rule, LAG, 0)
    assert look(watch, rule, 2000, 1) == []
    assert look(watch, rule, 0, 2) == [False]


def test_what_was_resolved_by_hand_and_still_holds_is_raised_again_later() -> None:
    watch, rule = Watch(), a_rule()
    assert look(watch, rule, 2000, 0) == [True]
    watch.resolved_by_hand("lag", LAG, 3600)
    assert look(watch, rule, 2000, 3599) == [] and look(watch, rule, 2000, 3600) == [True]
    assert look(watch, rule, 2000, 7300) == [], "it is active"
    watch.resolved_by_hand("lag", LAG, 8000)
    assert look(watch, rule, 0, 7400) == [False] and look(watch, rule, 2000, 7500) == [True]
    assert look(watch, rule, 2000, 9000) == []


def test_an_alert_over_a_window_is_not_ended_before_the_window_has_passed_after_a_restart() -> None:
    watch, rule = Watch(), a_rule()
    watch.restore(rule, LAG, 0, doubt_s=60)
    assert look(watch, rule, 0, 1) == [], "a counter that is looked at for the first time has not grown"
    assert look(watch, rule, 2000, 30) == []
    assert look(watch, rule, 0, 60) == [False]


def test_one_of_two_signals_that_is_gone_ends_what_both_raised() -> None:
    rule = a_rule(conditions=[
        Condition(metric_name="kafka_lag_events", operator=">", threshold=10),
        Condition(metric_name="open", operator="==", threshold=1),
    ])  # fmt: skip
    watch, lag = Watch(), {LAG: 20.0}
    assert [one.raised for one in watch.examine([rule], {"kafka_lag_events": lag, "open": {(): 1.0}}, 0)] == [True]
    assert not list(watch.examine([rule], {"kafka_lag_events": lag}, 1))
    assert [one.raised for one in watch.examine([rule], {"kafka_lag_events": lag}, 200)] == [False]


def test_value_that_is_no_number_is_no_reason() -> None:
    differs = Condition(metric_name="kafka_lag_events", operator="!=", threshold=1)
    watch, rule = Watch(), a_rule(conditions=[differs])
    assert [look(watch, rule, value, 0) for value in (math.nan, math.inf, 1)] == [[], [], []]


def test_label_sets_that_are_too_many_are_counted_at_each_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "INSTANCES_MAX", 2)
    watch, signals = Watch(), {"kafka_lag_events": {labels_of(topic=str(n)): 2000.0 for n in range(5)}}
    for now in (0, 1):
        watch.examine([a_rule()], signals, now)
        assert watch.overflowed == 3
    watch.examine([a_rule()], {}, 2)
    assert watch.overflowed == 0


def test_a_disabled_rule_finds_nothing() -> None:
    assert look(Watch(), a_rule(enabled=False), 2000, 0) == []


def test_built_in_rules_have_names_of_their_own() -> None:
    assert len({rule.rule_id for rule in DEFAULT_RULES}) == len(DEFAULT_RULES)


@pytest.mark.parametrize(
    ("signal", "value", "seconds", "expected"),
    [
        ("cpu_used_percent", 70, 300, {"cpu_70": "MEDIUM"}),
        ("cpu_used_percent", 91, 300, {"cpu_70": "MEDIUM", "cpu_90": "CRITICAL"}),
        ("tickring_storage_batch_queue_size", 200_001, 599, {}),
        ("tickring_storage_batch_queue_size", 200_001, 600, {"batch_queue": "MEDIUM"}),
        ("tickring_feed_streams_silent", 1, 0, {"feed_streams_silent": "MEDIUM"}),
    ],
)
def test_built_in_rules_raise_what_they_should(
    signal: str, value: float, seconds: float, expected: dict[str, str]
) -> None:
    watch, found = Watch(), dict[str, str]()
    for now in (0.0, seconds):
        findings = watch.examine(DEFAULT_RULES, {signal: {(): value}}, now)
        found |= {one.rule.rule_id: one.rule.severity for one in findings}
    assert found == expected


def test_a_counter_that_began_anew_grew_by_what_it_has() -> None:
    rates = Rates()
    assert [rates.increase("n", (), value, now) for now, value in ((0, 5), (10, 8), (20, 2), (30, 3))] == [0, 3, 2, 3]
    assert rates.increase("n", (), 3, 200) == 0.0


# -- the book ---------------------------------------------------------------------------------------------------


def an_alert(at: int = 100, **more: Any) -> Alert:
    values: dict[str, Any] = {
        "event_id": f"e-{at}", "timestamp": at, "variant": "api", "alert_id": "al-301", "severity": "HIGH",
        "code": "DAILY_LOSS_80", "title": "Daily loss near limit", "message": "80 %", **more,
    }  # fmt: skip
    return Alert(**values)


def told(book: AlertBook, alert: Alert) -> Entry:
    entry = book.tell(alert)
    assert entry is not None
    return entry


def test_one_alert_in_two_variants_is_one() -> None:
    book = AlertBook()
    told(book, an_alert())
    again = an_alert(variant="dashboard", event_id="e-other", alert_type="LOSS_LIMIT", description="longer")
    told(book, again)  # brings what the first did not have
    assert book.tell(again) is None and len(book) == 1 and book.repeated == 1
    (entry,) = book
    assert entry.alert.alert_type == "LOSS_LIMIT" and entry.count == 1


def test_an_alert_goes_through_its_states() -> None:
    book = AlertBook()
    assert told(book, an_alert()).alert.status == "ACTIVE"
    assert book.acknowledge("al-301", "ada", 200).alert.status == "ACKNOWLEDGED"
    assert book.tell(an_alert(at=100)) is None, "an old telling does not undo an acknowledgement"
    entry = book.resolve("al-301", "position closed", 300)
    assert entry.alert.status == "RESOLVED" and entry.alert.resolution_time == 300 and not book.active()
    assert book.tell(an_alert(at=250)) is None, "what was told before the resolution does not undo it"
    assert told(book, an_alert(at=400)).alert.status == "ACKNOWLEDGED" and entry.count == 2


def test_an_unknown_alert_is_said_to_be_unknown() -> None:
    with pytest.raises(UnknownAlert, match="no alert 'x'"):
        AlertBook().acknowledge("x", "ada", 1)


def test_our_own_alert_that_comes_back_soon_is_the_same() -> None:
    book, own = AlertBook(), an_alert(alert_id="lag")
    assert book.raise_own(own, 100, 3600) is not None
    assert book.raise_own(own, 110, 3600) is None
    book.resolve("lag", "over", 200, auto=True)
    again = book.raise_own(own, 300, 3600)
    assert again is not None and again.count == 2 and again.alert.status == "ACTIVE" and len(book) == 1
    book.resolve("lag", "over", 400, auto=True)
    later = book.raise_own(own, 10_000, 3600)
    assert later is not None and later.count == 1 and later.first_ns == 10_000


def test_the_oldest_resolved_are_forgotten_and_no_active_one() -> None:
    book = AlertBook(resolved_max=2)
    for n in range(6):
        told(book, an_alert(alert_id=f"a-{n}"))
    for n in range(5):
        book.resolve(f"a-{n}", "over", 1000 + n)
    assert [entry.alert.alert_id for entry in book] == ["a-3", "a-4", "a-5"]


def test_active_alerts_beyond_the_bound_are_resolved_oldest_first() -> None:
    book = AlertBook()
    for n in range(5):
        told(book, an_alert(at=100 + n, alert_id=f"a-{n}"))
    assert [entry.alert.alert_id for entry in book.give_up(3, 1000)] == ["a-0", "a-1"]
    assert [entry.alert.alert_id for entry in book.active()] == ["a-2", "a-3", "a-4"]
    assert not book.give_up(3, 1001)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.sampled_from(["api", "dashboard", "mon-flat"])), max_size=8)
)
def test_the_order_of_tellings_of_different_times_does_not_matter(tellings: list[tuple[int, bool, str]]) -> None:
    by_time = {at: (at, resolved, variant) for at, resolved, variant in tellings}

    def fold(order: list[tuple[int, bool, str]]) -> bool | None:
        book = AlertBook()
        for at, resolved, variant in order:
            book.tell(an_alert(at=at, resolved=resolved, variant=variant))
        entry = book.get("al-301")
        return None if entry is None else entry.alert.resolved

    if by_time:
        newest = max(by_time.values())
        assert fold(sorted(by_time.values())) is newest[1]
        assert fold(tellings and [by_time[at] for at in dict.fromkeys(at for at, _, _ in tellings)]) is newest[1]


def test_entries_survive_as_json() -> None:
    book = AlertBook()
    entry = told(book, an_alert(threshold_value=5 * 10**30))
    assert msgspec.json.decode(msgspec.json.encode(entry), type=Entry) == entry
