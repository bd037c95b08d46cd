"""What a range of a topic's events becomes: rows, blocks and tokens, and what is not understood."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

from tickring.codecs.desk.records import EVENT, NO_KEY
from tickring.codecs.record import Flag
from tickring.storage.deskbatch import REFUSED, Deriver, RawEvents, topic_deriver

from ..desk.messages import compose, execution_stream

TOPIC = "exec.reports.v1"


def raw_of(values, *, first=0, offset=100, flags=0, topic=TOPIC):
    rows = np.zeros(len(values), EVENT.dtype)
    rows["offset"] = offset + np.arange(len(values))
    rows["partition"], rows["key_size"], rows["flags"] = 2, NO_KEY, flags
    rows["ts_recv_ns"] = 10**18 + np.arange(len(values))
    return RawEvents(topic, "t.event", 7, first, rows, values)


def rows_of(batches):
    return {batch.head.table: batch.head.rows for batch in batches}


@pytest.fixture
def deriver():
    return topic_deriver(TOPIC, "default", "dipmaster")


@pytest.fixture
def values():
    return [message.value for message in execution_stream(random.Random(1), 50)]


def test_batches_of_a_range_end_with_the_raw_events_and_are_the_same_again(deriver, values):
    batches = deriver.batches(raw_of(values, first=30), {})
    assert [batch.head.table for batch in batches] == ["orders", "fills", "exec_reports", "raw_events"]
    assert [batch.head.token for batch in batches] == [
        f"t.event/7/30-{30 + len(values)}/{table}" for table in ("orders", "fills", "exec_reports", "raw_events")
    ]
    assert batches[-1].head.identity == {"topic": TOPIC, "partition": 2, "offset": 100}
    assert batches[1].head.identity.keys() == {"topic", "partition", "offset", "item"}
    again = topic_deriver(TOPIC, "default", "dipmaster").batches(raw_of(values, first=30), {})
    assert [(b.head, b.block) for b in again] == [(b.head, b.block) for b in batches]


def test_rows_that_are_stored_are_left_out_of_their_table_alone(deriver, values):
    every = rows_of(deriver.batches(raw_of(values), {}))
    some = rows_of(deriver.batches(raw_of(values), {"exec_reports": {2: 110}, "fills": {1: 10**6}}))
    assert some == {**every, "exec_reports": every["exec_reports"] - 10}
    ends = {table: {2: 100 + len(values)} for table in deriver.table_names}
    assert deriver.batches(raw_of(values), ends) == []


@pytest.mark.parametrize("value", [b"", b"null", b"{", b"\xff", b'{"event_id": 1}'])
def test_event_that_is_not_understood_is_a_dead_letter_and_a_raw_row(deriver, values, value):
    found = rows_of(deriver.batches(raw_of([values[0], value]), {}))
    assert found["exec_reports"] == 1
    assert (found["dead_letters"], found["raw_events"]) == (1, 2)


@pytest.mark.parametrize("value", [None, b'{"event_id": "cut of'])
def test_event_that_its_topic_did_not_keep_whole_is_too_large_whatever_is_left_of_it(deriver, values, value):
    batches = deriver.batches(raw_of([value or values[0]], flags=int(Flag.DEAD | Flag.CUT)), {})
    assert rows_of(batches) == {"dead_letters": 1, "raw_events": 1}
    assert b"too_large" in batches[0].block


def test_whole_event_that_its_topic_refused_is_a_dead_letter_that_can_be_replayed(deriver, values):
    batches = deriver.batches(raw_of(values[:1], flags=int(Flag.DEAD)), {})
    assert rows_of(batches) == {"dead_letters": 1, "raw_events": 1}
    assert b"too_large" not in batches[0].block and REFUSED.encode() in batches[0].block


def test_event_that_no_table_can_hold_is_a_dead_letter_and_the_others_are_stored(values):
    whole = topic_deriver(TOPIC, "default", "dipmaster")

    def decode(value, partition, offset, broker_ms):
        event = whole.decode(value, partition, offset, broker_ms)
        return msgspec.structs.replace(event, execution_time_ms=2**80) if offset == 101 else event

    every = rows_of(whole.batches(raw_of(values), {}))
    found = rows_of(Deriver(TOPIC, decode, whole.tables).batches(raw_of(values), {}))
    assert found["dead_letters"] == 1
    assert (found["exec_reports"], found["raw_events"]) == (every["exec_reports"] - 1, every["raw_events"])


@pytest.mark.parametrize("stamp", [1_750_000_000_000_000_000, 2**63 - 1, -(2**63), -1])
def test_event_whose_kafka_time_fits_no_column_is_stored_all_the_same(deriver, values, stamp):
    raw = raw_of(values)
    raw.rows["timestamp"][3] = stamp  # producers write what they like, nanoseconds too
    assert rows_of(deriver.batches(raw, {})) == rows_of(deriver.batches(raw_of(values), {}))


def test_event_on_which_the_decoder_breaks_is_a_dead_letter(values):
    def decode(value, partition, offset, broker_ms):
        raise ZeroDivisionError

    found = rows_of(Deriver(TOPIC, decode, ()).batches(raw_of(values), {}))
    assert found == {"dead_letters": len(values), "raw_events": len(values)}


def test_events_of_a_topic_without_a_schema_are_raw_rows_alone():
    topic = "market.data.quality.v1"
    deriver = topic_deriver(topic, "default", "dipmaster")
    assert rows_of(deriver.batches(raw_of([b"\xff", b""], topic=topic), {})) == {"raw_events": 2}


def test_risk_event_states_figures_and_positions():
    value = compose("risk.metrics.v1", "dashboard", random.Random(2)).value
    deriver = topic_deriver("risk.metrics.v1", "default", "dipmaster")
    found = rows_of(deriver.batches(raw_of([value], topic="risk.metrics.v1"), {}))
    assert found["risk_metrics"] == 1
    assert found.get("claimed_positions", 0) == len(msgspec.json.decode(value).get("positions") or ())
