"""The writer killed where memory does not help it: after a reboot, and when ClickHouse has forgotten its tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tickring.codecs.records import QUOTE, TRADE
from tickring.storage.gaps import RING_GONE

from ..rings import publish_rows
from ..storage.conftest import engine, server  # noqa: F401
from ..storage.processes import random_rows, wait_for
from .writer_instance import Instance, nursery  # noqa: F401

INTEND = "tickring.storage.journal:Journal.intend"
MARK = "tickring.storage.journal:Journal.mark"
INSERT = "tickring.storage.client:Client.insert"
APPEND = "tickring.storage.spool:Spool.append"
SENT = "tickring.storage.spool:Spool.sent"
SAMPLE = "tickring.actors.writer.sampler:SampleFile.store"


@pytest.fixture
def instance(nursery, shm, tmp_path, server) -> Iterator[Instance]:  # noqa: F811
    made = Instance(nursery, shm, tmp_path / "data", server)
    yield made
    made.close()


def reboot(instance: Instance) -> None:
    """Nothing in shared memory survives; the disk does."""
    for path in instance.shm.iterdir():
        path.unlink()


def forget_tokens(instance: Instance, record=TRADE) -> None:
    """As when more inserts than the window holds came between: no repeated insert is recognised any more."""
    instance.query(
        f"ALTER TABLE {instance.server.database}.{record.name}s MODIFY SETTING non_replicated_deduplication_window = 0",
    )


# -- shared memory wiped ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "when", "call"),
    [(INTEND, "after", 2), (INSERT, "before", 2), (INSERT, "after", 2), (MARK, "before", 3), (MARK, "after", 3)],
)
def test_writer_killed_around_an_insert_by_a_reboot_has_each_row_in_the_table_or_in_the_ledger(
    instance, target, when, call
):
    producer = instance.producer()
    instance.start_to_insert(instance.config(batch_rows=200), {"target": target, "when": when, "call": call})
    rows = producer.publish(1000)
    instance.writer.wait()
    reboot(instance)
    again = instance.producer()
    more = again.publish(70)
    instance.writer.start(instance.config())
    instance.wait_stored(again)
    gaps = instance.check_exactly(producer, rows)
    assert {gap.reason for gap in gaps} == {RING_GONE}
    assert gaps[-1].stop is None, "nobody knows how much more the ring held"
    assert instance.check_exactly(again, more) == []


@pytest.mark.parametrize(("target", "when", "call"), [(APPEND, "before", 3), (APPEND, "after", 3), (MARK, "before", 4)])
def test_writer_killed_around_the_spool_by_a_reboot_replays_what_is_on_disk(instance, target, when, call):
    producer = instance.producer()
    rows = producer.publish(1000)
    instance.writer.start(instance.away(batch_rows=200), {"target": target, "when": when, "call": call})
    instance.writer.wait()
    reboot(instance)
    again = instance.producer()
    more = again.publish(70)
    instance.writer.start(instance.config())
    instance.wait_stored(again)
    wait_for("an empty spool", lambda: instance.writer.metric("tickring_storage_spool_bytes") == 0)
    instance.check_exactly(producer, rows)
    instance.check_exactly(again, more)
    stored = sum(row[1] == producer.writer.epoch for row in instance.table())
    assert stored >= 400, "what was in the spool is in the table"


@pytest.mark.parametrize(("target", "when"), [(INSERT, "after"), (SENT, "before"), (SENT, "after")])
def test_writer_killed_while_replaying_after_a_reboot_sends_the_rest_once(instance, target, when):
    producer = instance.producer()
    rows = producer.publish(1000)
    instance.writer.start(instance.away(batch_rows=3))  # so many batches that they go in two inserts
    wait_for("all spooled", lambda: instance.cursors(producer).get("writer") == 1000)
    instance.end(producer)
    instance.writer.stop()  # it leaves an empty ring: nothing of it is lost
    reboot(instance)
    again = instance.producer()
    instance.writer.start(instance.config(), {"target": target, "when": when, "call": 2})
    instance.writer.wait()
    reboot(instance)
    again = instance.producer()
    more = again.publish(70)
    instance.writer.start(instance.config())
    instance.wait_stored(again)
    wait_for("an empty spool", lambda: instance.writer.metric("tickring_storage_spool_bytes") == 0)
    assert instance.check_exactly(producer, rows) == []
    assert instance.check_exactly(again, more) == []


@pytest.mark.parametrize(
    ("target", "when"), [(SAMPLE, "after"), (INSERT, "before"), (INSERT, "after"), (MARK, "before")]
)
def test_sample_killed_by_a_reboot_is_stored_once_and_those_of_the_new_stream_too(instance, target, when):
    producer = instance.producer(QUOTE, keys=3)
    rows = producer.publish(9)
    instance.writer.start(instance.config(), {"target": target, "when": when, "call": 1})
    instance.writer.wait()
    reboot(instance)
    again = instance.producer(QUOTE, keys=3)
    more = random_rows(QUOTE, 1, 1, seed=5)
    publish_rows(again.writer, more)
    instance.writer.start(instance.config())
    wait_for("both samples", lambda: len(instance.table(QUOTE)) == 4)
    instance.writer.stop()
    first = np.concatenate([rows[rows["key_id"] == key][-1:] for key in range(3)])
    instance.check_content((producer, first), (again, more), record=QUOTE)


# -- the deduplication window is over ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "when", "call"), [(INSERT, "before", 2), (INSERT, "after", 1), (INSERT, "after", 3), (MARK, "before", 3)]
)
def test_writer_killed_around_an_insert_whose_token_is_forgotten_compares_it_with_the_table(
    instance, target, when, call
):
    producer = instance.producer()
    instance.start_to_insert(instance.config(batch_rows=200), {"target": target, "when": when, "call": call})
    rows = producer.publish(1000)
    instance.writer.wait()
    forget_tokens(instance)
    instance.writer.start(instance.config(batch_rows=333))
    instance.wait_stored()
    instance.check_content((producer, rows))
    assert instance.gaps() == []


@pytest.mark.parametrize(("target", "when", "call"), [(INSERT, "before", 2), (INSERT, "after", 2), (SENT, "before", 1)])
def test_writer_killed_while_replaying_tokens_that_are_forgotten_compares_them_with_the_table(
    instance, target, when, call
):
    producer = instance.producer()
    rows = producer.publish(1000)
    instance.writer.start(instance.away(batch_rows=3))  # so many batches that they go in two inserts
    wait_for("all spooled", lambda: instance.cursors(producer).get("writer") == 1000)
    instance.writer.kill()
    instance.writer.start(instance.config(), {"target": target, "when": when, "call": call})
    instance.writer.wait()
    forget_tokens(instance)
    instance.writer.start(instance.config())
    instance.wait_stored()
    instance.check_content((producer, rows))


def test_sample_whose_token_is_forgotten_is_compared_with_the_table(instance):
    producer = instance.producer(QUOTE, keys=3)
    rows = producer.publish(9)
    instance.writer.start(instance.config(), {"target": INSERT, "when": "after", "call": 1})
    instance.writer.wait()
    forget_tokens(instance, QUOTE)
    instance.writer.start(instance.config())
    wait_for("compared", lambda: instance.writer.metric("tickring_storage_repeated_batches_total") == 1)
    instance.writer.stop()
    newest = np.concatenate([rows[rows["key_id"] == key][-1:] for key in range(3)])
    instance.check_content((producer, newest), record=QUOTE)


def test_writer_killed_after_an_insert_and_then_without_clickhouse_compares_the_spooled_batch_with_the_table(instance):
    producer = instance.producer()
    instance.start_to_insert(instance.config(batch_rows=200), {"target": INSERT, "when": "after", "call": 2})
    rows = producer.publish(1000)
    instance.writer.wait()
    forget_tokens(instance)
    instance.writer.start(instance.away(batch_rows=200))  # the open range is repeated, into the spool, as uncertain
    wait_for("all spooled", lambda: instance.cursors(producer).get("writer") == 1000)
    instance.writer.kill()
    instance.writer.start(instance.config())
    instance.wait_stored()
    instance.check_content((producer, rows))
    assert instance.writer.metric("tickring_storage_repeated_batches_total") >= 1
