"""What the desk states and what the machine shows, as signals for the rules."""

from __future__ import annotations

import time
from pathlib import Path

from tickring.actors.alerts.rules import Labels
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
    for now, seconds, slow, p99 in ((1.0, 0.0, 0, 0.0), (2.0, 3.0, 0, 5.0), (3.0, 6.0, 1, 10.0)):
        if seconds:
            histogram.observe(seconds)
        found = collector.collect(now)
        assert (found["api_over_5s_per_minute"][()], found["api_p99_seconds"][()]) == (slow, p99), seconds
