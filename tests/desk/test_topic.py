"""A topic's actor on a real broker: what becomes of events, good and bad."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tickring.codecs.desk.money import amount_of
from tickring.codecs.record import Flag

from . import broker as kafka
from .conftest import TopicRig, report
from .test_topic_batches import batch, renamed

Wait = Callable[..., None]
Make = Callable[..., TopicRig]


def test_broker_is_a_real_one(broker: kafka.Broker, wait_for: Wait) -> None:
    """The mock of librdkafka knows neither DescribeCluster (60) nor share groups (76 and on), and has no disk."""
    keys = kafka.api_keys(broker.bootstrap)
    assert {60, 76, 77, 78} <= keys.keys()
    properties = (broker.folder / "log" / "meta.properties").read_text()
    assert f"cluster.id={broker.cluster_id}" in properties
    kafka.renew_topics(broker.bootstrap, ["exec.reports.v1"])
    wait_for((broker.folder / "log" / "exec.reports.v1-0").is_dir, "the log of the topic on the broker's disk")


def test_topic_with_events_publishes_each_offset_with_its_bytes(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    sent = [report(i, account=f"acct-{i % 3}", side="SELL" if i % 2 else "BUY") for i in range(100)]
    events = [(i % 4, f"k{i}".encode() if i % 5 else None, value, [("n", b"%d" % i)] if i % 7 == 0 else None)
              for i, value in enumerate(sent)]  # fmt: skip
    kafka.produce(any_broker.bootstrap, topic, events)
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.published() == 100, "all events")
    expected: dict[int, list[Any]] = {}
    for partition, key, value, headers in events:
        expected.setdefault(partition, []).append(([list(h) for h in headers or []], key, value))
    found: dict[int, list[Any]] = {}
    for partition, _, headers, key, value in rig.events():
        found.setdefault(partition, []).append((headers, key, value))
    assert found == expected
    assert rig.ends() == {0: 25, 1: 25, 2: 25, 3: 25}

    fills = rig.rows("fill")
    told, accounts = rig.fills(fills), rig.accounts()
    assert sorted(fill.fill_id for fill in told) == sorted(f"x-{i}" for i in range(100))
    for row, fill in zip(fills, told, strict=True):
        assert accounts[int(row["key_id"])] == fill.account_id
        assert amount_of(bytes(row["quantity"])) == fill.quantity
        assert bool(row["flags"] & Flag.SELL) == (fill.side == "SELL")
    rig.stop()


def test_fill_of_large_and_negative_amounts_has_them_in_its_row(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    large = "123456789012345678901234567890.12345678"
    sent = [
        report(1, last_qty=large, commission="-0.5"), report(2, last_price=large, commission=f"-{large}"),
        report(3, last_qty="92233720368.54775807", last_price="92233720368.54775808", commission=None),
    ]  # fmt: skip
    kafka.produce(any_broker.bootstrap, topic, [(0, None, value, None) for value in sent])
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.published() == 3, "all events")
    fills = rig.rows("fill")
    for row, fill in zip(fills, rig.fills(fills), strict=True):
        for name in ("quantity", "price", "commission"):
            assert amount_of(bytes(row[name])) == getattr(fill, name)
    units = [amount_of(bytes(row["commission"])) for row in fills]
    assert units == [-50_000_000, -12345678901234567890123456789012345678, 0]
    rig.stop()


def test_fill_beside_members_that_cannot_be_read_is_no_dead_letter(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    spoilt = {"realized_pnl": "much", "cum_qty": [], "order_time": "soon", "client_order_id": {}, "source": 5}
    kafka.produce(any_broker.bootstrap, topic, [(0, None, report(1, **spoilt), None)])
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.published() == 1, "the event")
    assert len(rig.rows("fill")) == 1 and len(rig.rows("dead_letter")) == 0
    assert not (rig.rows("event")["flags"] & Flag.DEAD).any()
    rig.stop()


def test_topic_with_poison_goes_on_and_keeps_it(any_broker: Any, topic: str, make_rig: Make, wait_for: Wait) -> None:
    poison = [b"", b"{", b"\xff\xfe", b"[]", b'{"event_id":"x"}', None, b"null", b'{"event_id": 1e999}']
    events = [(0, None, value, None) for value in poison] + [(0, None, report(1), None)]
    kafka.produce(any_broker.bootstrap, topic, events)
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.published() == len(events), "all events")
    rows = rig.rows("event")
    assert ((rows["flags"] & Flag.DEAD) != 0).tolist() == [True] * len(poison) + [False]
    assert [value for *_, value in rig.events()][:-1] == [value or b"" for value in poison]
    letters = rig.rows("dead_letter")
    assert letters["offset"].tolist() == list(range(len(poison)))
    assert all(len(json.loads(text)) == 2 for text in rig.texts(letters))
    assert len(rig.rows("fill")) == 1
    wait_for(lambda: rig.metric("dead_letters_total") == len(poison), "the count")
    log = (rig.data / f"{rig.name}.log").read_text()
    assert "dead letter" in log and "offset=1 " in log
    rig.stop()


def test_topic_with_a_header_name_that_is_no_utf8_goes_on_and_says_so(
    broker: kafka.Broker, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    kafka.produce(broker.bootstrap, topic, [(0, None, report(1), None)])
    kafka.produce_batch(broker.bootstrap, topic, bytes(renamed(batch(0, 1, name="a name", value=report(2)))))
    kafka.produce(broker.bootstrap, topic, [(0, None, report(3), None)])
    rig = make_rig(topic, bootstrap_servers=broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.published() == 3, "all events")
    assert rig.events()[1] == (0, 1, [["a \\xff\\xc3me", b"x"]], None, report(2))
    assert rig.rows("fill")["offset"].tolist() == [0, 1, 2]  # names of headers decide nothing
    wait_for(lambda: rig.metric("misnamed_headers_total") == 1, "the count")
    assert "offset=1 header names are no UTF-8" in (rig.data / f"{rig.name}.log").read_text()
    rig.stop()


def test_topic_with_repeated_event_id_marks_the_repeat_also_after_a_restart(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    kafka.produce(any_broker.bootstrap, topic, [(0, None, report(1), None), (1, None, report(2), None)])
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.published() == 2, "the first events")
    rig.stop()
    kafka.produce(any_broker.bootstrap, topic, [(2, None, report(1), None), (2, None, report(3), None)])
    rig.start()
    wait_for(lambda: rig.published() == 4, "the other events")
    rows = rig.rows("event")
    repeated = ((rows["flags"] & Flag.REPEATED) != 0).tolist()
    assert repeated == [False, False, True, False]
    fills = rig.rows("fill")
    assert ((fills["flags"] & Flag.REPEATED) != 0).tolist() == [False, False, True, False]
    rig.stop()


def test_topic_with_too_many_accounts_uses_the_overflow_account(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    names = ["a", "b", "c", "d", "x" * 600, f"topic:{topic}"]
    events = [(0, None, report(i, account=name), None) for i, name in enumerate(names * 2)]
    kafka.produce(any_broker.bootstrap, topic, events)
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap, accounts_max=2)
    rig.start()
    wait_for(lambda: rig.published() == len(events), "all events")
    fills, accounts = rig.rows("fill"), rig.accounts()
    assert [accounts[int(row["key_id"])] for row in fills] == ["a", "b", *["*overflow*"] * 4] * 2
    assert [fill.account_id for fill in rig.fills(fills)] == names * 2
    wait_for(lambda: rig.metric("overflowed_total") == 8, "the count")
    rig.stop()


def test_topic_with_huge_event_keeps_a_part_of_it_as_dead_letter(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    huge = report(1, padding="x" * 200_000)
    events = [(0, None, huge, None), (0, b"k" * 70_000, report(2), None), (0, None, report(3), None)]
    kafka.produce(any_broker.bootstrap, topic, events)
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap, fill_texts_capacity=1 << 20)
    rig.start()
    wait_for(lambda: rig.published() == 3, "all events")
    first, second, third = rig.events()
    assert first[4] == huge[:500] and len(second[3] or b"") == 65_534 and third[4] == report(3)
    assert rig.rows("dead_letter")["offset"].tolist() == [0, 1]
    rig.stop()


@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_topic_that_grows_reads_the_new_partitions_from_their_beginning(
    broker: kafka.Broker, topic: str, make_rig: Make, wait_for: Wait, reset: str
) -> None:
    rig = make_rig(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset=reset)
    rig.start()
    wait_for(lambda: rig.detail().get("state") == "consuming", "the actor reads")
    kafka.produce(broker.bootstrap, topic, [(0, None, report(1), None)])
    wait_for(lambda: rig.published() == 1, "the first event")
    kafka.add_partitions(broker.bootstrap, topic, 6)
    kafka.produce(broker.bootstrap, topic, [(5, None, report(2), None)])
    wait_for(lambda: rig.published() == 2, "the event of the new partition")
    rig.stop()


def test_topic_with_nothing_stored_begins_at_the_end_on_request_and_commits_for_lag_tools(
    broker: kafka.Broker, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    kafka.produce(broker.bootstrap, topic, [(0, None, report(i), None) for i in range(5)])
    group = f"tickring-test-{os.getpid()}"
    rig = make_rig(
        topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="latest", group_id=group, commit_interval_s=0.1
    )
    rig.start()
    wait_for(lambda: rig.detail().get("state") == "consuming", "the actor reads")
    kafka.produce(broker.bootstrap, topic, [(0, None, report(5), None), (1, None, report(6), None)])
    wait_for(lambda: rig.published() == 2, "the new events")
    assert sorted(zip(rig.rows("event")["partition"], rig.rows("event")["offset"], strict=True)) == [(0, 5), (1, 0)]
    wait_for(lambda: kafka.committed(broker.bootstrap, group, topic) == {0: 6, 1: 1, 2: 0, 3: 0}, "the commit")
    wait_for(lambda: rig.detail()["lag"] == 0, "no lag")
    wait_for(lambda: rig.detail()["messages_consumed"] == rig.detail()["messages_processed"] == 2, "the counts")
    rig.stop()


def test_topic_without_a_schema_keeps_its_events_as_they_are(
    broker: kafka.Broker, make_rig: Make, wait_for: Wait
) -> None:
    topic = "market.data.quality.v1"
    kafka.renew_topics(broker.bootstrap, [topic], partitions=1)
    kafka.produce(broker.bootstrap, topic, [(0, None, b"anything", None), (0, b"k", None, None)])
    rig = make_rig(topic, bootstrap_servers=broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.published() == 2, "both events")
    assert [(key, value) for *_, key, value in rig.events()] == [(None, b"anything"), (b"k", b"")]
    assert not (rig.rows("event")["flags"] & Flag.DEAD).any()
    rig.stop()


def test_topic_of_statements_publishes_each_in_its_canonical_form(
    broker: kafka.Broker, make_rig: Make, wait_for: Wait
) -> None:
    topic = "alerts.v1"
    kafka.renew_topics(broker.bootstrap, [topic], partitions=1)
    alert = {
        "event_id": "a-1", "timestamp": "2025-03-04T09:20:00Z", "version": "v1", "source": "risk-engine",
        "alert_id": "al-1", "alert_type": "RISK", "severity": "EMERGENCY", "title": "t", "message": "m",
        "account_id": "acct-7", "category": "RISK", "code": "C",
    }  # fmt: skip
    kafka.produce(broker.bootstrap, topic, [(0, None, json.dumps(alert).encode(), None)])
    rig = make_rig(topic, bootstrap_servers=broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.published() == 1, "the event")
    rows = rig.rows("statement")
    (text,) = rig.texts(rows)
    assert json.loads(text)["alert_id"] == "al-1" and json.loads(text)["severity"] == "CRITICAL"
    assert rig.accounts()[int(rows[0]["key_id"])] == json.loads(text).get("account_id", "default")
    rig.stop()
