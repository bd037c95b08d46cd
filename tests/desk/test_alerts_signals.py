"""What the desk states and what the machine shows, as signals for the rules."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tickring.actors.alerts.defaults import DEFAULT_RULES
from tickring.actors.alerts.rules import Labels, Watch
from tickring.actors.alerts.signals import Collected, Collector, labels_of
from tickring.actors.alerts.told import RISK_FRESH_NS, Desk
from tickring.actors.front.served import SECONDS
from tickring.codecs.desk.canonical import Risk
from tickring.codecs.desk.records import TEXTS
from tickring.ringbuf import PageView, State, bytes_filename
from tickring.ringbuf.page import Histogram, Sample

from .desk_rig import Topic

ACCOUNT: Labels = labels_of(account="acct-7")


def collected(desk: Desk) -> float | None:
    found: Collected = {}
    desk.collect(found)
    return found.get("risk_leverage", {}).get(ACCOUNT)


def stated(at_ns: int, leverage: float) -> Risk:
    return Risk(
        event_id=f"r-{at_ns}", timestamp=at_ns, variant="dashboard", strategy_id="s", account_id="acct-7",
        leverage=leverage,
    )  # fmt: skip


def test_risk_of_an_account_is_its_newest_statement_in_whatever_order_they_arrive(shm: Path) -> None:
    topic, desk, now = Topic(shm, "risk.metrics.v1"), Desk(shm), time.time_ns()
    topic.say(stated(now - 10, 2.0), "acct-7")
    topic.say(stated(now - 20, 9.0), "acct-7")  # late, in the same look
    assert collected(desk) == 2.0
    topic.say(stated(now - 15, 8.0), "acct-7")  # and in a later one
    assert collected(desk) == 2.0
    topic.say(stated(now - 5, 1.0), "acct-7")
    assert collected(desk) == 1.0
    desk.close()
    topic.close()


def test_risk_of_a_producer_whose_clock_is_ahead_is_replaced_by_the_next(shm: Path) -> None:
    topic, desk, now = Topic(shm, "risk.metrics.v1"), Desk(shm), time.time_ns()
    topic.say(stated(now + RISK_FRESH_NS, 9.0), "acct-7")
    assert collected(desk) == 9.0
    topic.say(stated(time.time_ns(), 1.0), "acct-7", recv_ns=time.time_ns())
    assert collected(desk) == 1.0
    desk.close()
    topic.close()


def test_risk_that_was_stated_long_ago_says_nothing(shm: Path) -> None:
    topic, desk = Topic(shm, "risk.metrics.v1"), Desk(shm)
    topic.say(stated(time.time_ns() - 2 * RISK_FRESH_NS, 9.0), "acct-7")
    assert collected(desk) is None
    desk.close()
    topic.close()


def test_stream_whose_texts_are_not_there_yet_leaves_nothing_open(shm: Path, nothing_left_open: None) -> None:
    topic, desk = Topic(shm, "risk.metrics.v1"), Desk(shm)
    texts = shm / bytes_filename(topic.name, TEXTS)
    aside = texts.rename(shm / "aside")
    for _ in range(3):
        assert collected(desk) is None
    aside.rename(texts)
    topic.say(stated(time.time_ns(), 2.0), "acct-7")
    assert collected(desk) == 2.0
    desk.close()
    topic.close()


def test_requests_over_five_seconds_are_told_from_those_that_took_less(shm: Path) -> None:
    histogram = Histogram(0, SECONDS)

    def pages(_: Path) -> list[PageView]:
        values = (*map(float, histogram.counts), histogram.sum)
        sample = Sample("histogram", "tickring_front_request_seconds", "", {}, values, SECONDS)
        return [PageView("front-0", 1, 0, 0, State.RUNNING, samples=(sample,))]

    collector = Collector(shm, shm, pages=pages)
    for now, seconds, slow, p99 in ((1.0, 0.0, 0, 0.0), (2.0, 3.0, 0, 4.975), (3.0, 6.0, 1, 5.0)):
        if seconds:
            histogram.observe(seconds)
        found = collector.collect(now)
        assert (found["api_over_5s_per_minute"][()], found["api_p99_seconds"][()]) == (slow, p99), seconds


@pytest.mark.parametrize(
    ("seconds", "raised"),
    [(0.15, []), (0.24, ["api_p99"]), (0.26, ["api_p99"]), (0.6, ["api_p99", "api_p99_critical"])],
)
def test_latency_of_requests_raises_what_is_said_of_it(shm: Path, seconds: float, raised: list[str]) -> None:
    histogram, watch = Histogram(0, SECONDS), Watch()
    rules = [rule for rule in DEFAULT_RULES if rule.rule_id.startswith("api_p99")]

    def pages(_: Path) -> list[PageView]:
        values = (*map(float, histogram.counts), histogram.sum)
        sample = Sample("histogram", "tickring_front_request_seconds", "", {}, values, SECONDS)
        return [PageView("front-0", 1, 0, 0, State.RUNNING, samples=(sample,))]

    collector, found = Collector(shm, shm, pages=pages), list[str]()
    for look in range(70):
        found += [one.alert_id for one in watch.examine(rules, collector.collect(2.0 * look), 2.0 * look)]
        for _ in range(100):
            histogram.observe(seconds)
    assert found == raised


class Pages:
    """Pages of actors as a test says them."""

    def __init__(self, shm: Path) -> None:
        self.views: dict[str, PageView] = {}
        self.collector, self.now = Collector(shm, shm, pages=lambda _: list(self.views.values())), 1000.0

    def tell(self, actor: str, *samples: tuple[str, dict[str, str], float], pid: int = 1) -> None:
        told = tuple(Sample("counter", name, "", labels, (value,)) for name, labels, value in samples)
        self.views[actor] = PageView(actor, pid, pid, 0, State.RUNNING, samples=told)

    def look(self, signal: str) -> dict[Labels, float]:
        self.now += 2.0
        return self.collector.collect(self.now).get(signal, {})


def rest(status: str, value: float) -> tuple[str, dict[str, str], float]:
    return "tickring_feed_rest_total", {"exchange": "binance", "status": status}, value


BINANCE = labels_of(exchange="binance")


def test_first_refusal_of_an_exchange_counts_although_its_counter_comes_with_it(shm: Path) -> None:
    pages = Pages(shm)
    pages.tell("feed-x", rest("200", 5))
    assert pages.look("rest_refusals_per_minute") == {}
    pages.tell("feed-x", rest("200", 5), rest("418", 1))
    assert [pages.look("rest_refusals_per_minute")[BINANCE] for _ in range(3)] == [1, 1, 1]
    pages.now += 60
    assert [pages.look("rest_refusals_per_minute")[BINANCE] for _ in range(2)][-1] == 0


def test_refusals_of_an_actor_that_was_restarted_count_from_nothing(shm: Path) -> None:
    pages = Pages(shm)
    pages.tell("feed-x", rest("429", 5))
    assert pages.look("rest_refusals_per_minute") == {BINANCE: 0}, "what was before our first look is not known"
    pages.tell("feed-x", rest("429", 7), pid=2)
    assert pages.look("rest_refusals_per_minute") == {BINANCE: 7}
    pages.tell("feed-x", pid=3)
    pages.look("rest_refusals_per_minute")
    pages.tell("feed-x", rest("429", 8), pid=3)
    assert pages.look("rest_refusals_per_minute") == {BINANCE: 8}


def test_rows_that_are_lost_at_once_are_told(shm: Path) -> None:
    pages = Pages(shm)
    pages.tell("writer")
    pages.look("lost_rows_per_minute")
    pages.tell("writer", ("tickring_storage_lost_rows_total", {"stream": "feed.trade", "reason": "lapped"}, 250_000))
    assert pages.look("lost_rows_per_minute") == {(): 250_000}


def test_topic_and_feed_that_were_silent_from_the_start_are_silent_since_then(shm: Path) -> None:
    pages, began_ns = Pages(shm), time.time_ns() - 400 * 10**9
    topic = {"topic": "trade.signals.v1"}
    pages.tell("topic-trade-signals-v1", ("tickring_kafka_last_event_seconds", topic, 0.0), pid=began_ns)
    assert pages.look("topic_silent_seconds")[labels_of(**topic)] == pytest.approx(400, abs=30)
    pages.tell("topic-trade-signals-v1", ("tickring_kafka_last_event_seconds", topic, began_ns / 1e9 - 600))
    assert pages.look("topic_silent_seconds")[labels_of(**topic)] == pytest.approx(1000, abs=30)
    pages.tell("topic-alerts-v1", ("tickring_kafka_last_event_seconds", {"topic": "alerts.v1"}, began_ns / 1e9))
    assert list(pages.look("topic_silent_seconds")) == [labels_of(**topic)], "no alerts are no alert"
    exchange = {"exchange": "binance"}
    frames = ("tickring_feed_frames_total", exchange, 0.0)
    pages.tell("feed-x", ("tickring_feed_data_age_seconds", exchange, 61.0), frames)
    assert pages.look("stream_silent_seconds") == {labels_of(actor="feed-x"): 61}


def test_feed_that_publishes_nothing_for_three_minutes_is_critical(shm: Path) -> None:
    pages, watch = Pages(shm), Watch()
    rules = [rule for rule in DEFAULT_RULES if rule.rule_id == "feed_not_publishing"]
    raised = []
    for look in range(180):
        published = float(min(look, 60))  # as long as two minutes
        pages.tell("feed-x", ("tickring_feed_records_total", {"exchange": "binance", "record": "trade"}, published))
        signals = {"feed_records_per_minute": pages.look("feed_records_per_minute")}
        raised += [(look, one.rule.severity) for one in watch.examine(rules, signals, pages.now)]
    assert len(raised) == 1 and raised[0][1] == "CRITICAL"
    assert (raised[0][0] - 60) * 2 == pytest.approx(180, abs=10)
