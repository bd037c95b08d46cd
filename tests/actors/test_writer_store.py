"""The writer at its daily work: real rings, the real engine, the writer as a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from tickring.actors.writer import Config
from tickring.codecs.record import Flag
from tickring.codecs.records import BOOK_LEVEL, BOOK_TOP, QUOTE, TRADE
from tickring.ringbuf import read_page
from tickring.storage.batch import DAY_NS

from ..rings import publish_rows
from ..storage.conftest import engine, server  # noqa: F401
from ..storage.processes import random_rows, wait_for
from .writer_instance import Instance, nursery  # noqa: F401


@pytest.fixture
def instance(nursery, shm, tmp_path, server) -> Iterator[Instance]:  # noqa: F811
    made = Instance(nursery, shm, tmp_path / "data", server)
    yield made
    made.close()


def test_writer_stores_every_row_of_a_ring_value_for_value(instance):
    producer = instance.producer()
    rows = [producer.publish(1000)]
    instance.writer.start(instance.config())
    rows += [producer.publish(n, seed=n) for n in (1, 7, 5000, 20_000)]
    instance.wait_stored()
    instance.check_content((producer, np.concatenate(rows)))
    assert instance.cursors(producer) == {"writer": producer.sequence, "writer.stored": producer.sequence}
    assert instance.gaps() == []


def test_writer_batches_are_bounded_by_rows_and_end_with_the_day(instance):
    producer = instance.producer()
    rows = random_rows(TRADE, 3000, producer.count)
    rows["ts_recv_ns"] = np.sort(rows["ts_recv_ns"])
    rows["ts_recv_ns"][1500:] += DAY_NS
    publish_rows(producer.writer, rows)
    instance.writer.start(instance.config(batch_rows=1000))
    instance.wait_stored()
    instance.check_content((producer, rows))
    wait_for("four batches", lambda: instance.writer.metric("tickring_storage_batch_inserts_total") >= 4)


def test_writer_follows_several_producers_and_those_that_come_later(instance):
    first = instance.producer(name="feed-binance-spot-0")
    instance.writer.start(instance.config())
    mine = first.publish(500)
    later = instance.producer(name="feed-binance-usdm-market-0", keys=3)
    theirs = later.publish(800)
    instance.wait_stored()
    instance.check_content((first, mine), (later, theirs))


def test_writer_goes_over_to_a_ring_made_anew_and_takes_the_rest_of_the_old_one(instance):
    old = instance.producer()
    instance.writer.start(instance.config(flush_interval_ms=60_000))
    wait_for("attached", lambda: "writer" in instance.cursors(old))
    before = old.publish(300)
    instance.end(old)
    for path in instance.shm.glob("feed*"):
        path.unlink()
    new = instance.producer(keys=4)
    assert new.writer.epoch != old.writer.epoch
    after = new.publish(200)
    wait_for("the new ring attached", lambda: "writer" in instance.cursors(new))
    instance.writer.stop()
    instance.check_content((old, before), (new, after))
    assert instance.gaps() == []


def test_writer_leaves_withdrawn_rows_out(instance):
    producer = instance.producer()
    rows = random_rows(TRADE, 100, producer.count)
    rows["flags"][::3] |= np.uint32(Flag.VOID)
    publish_rows(producer.writer, rows)
    instance.writer.start(instance.config())
    instance.wait_stored()
    only_void = random_rows(TRADE, 10, producer.count)
    only_void["flags"] = int(Flag.VOID)
    publish_rows(producer.writer, only_void)
    instance.wait_stored()
    instance.check_content((producer, rows))


def test_writer_told_to_stop_empties_the_rings_first(instance):
    producer = instance.producer()
    instance.writer.start(instance.config(flush_interval_ms=60_000, batch_rows=100_000))
    wait_for("attached", lambda: "writer" in instance.cursors(producer))
    rows = producer.publish(4000)
    instance.writer.stop()
    instance.check_content((producer, rows))
    assert instance.cursors(producer)["writer.stored"] == 4000


def test_writer_told_to_stop_under_load_leaves_in_time_and_says_that_more_may_come(instance):
    producer = instance.producer()
    instance.writer.start(instance.config(batch_rows=100_000))
    wait_for("attached", lambda: "writer" in instance.cursors(producer))
    over = threading.Event()
    rows = []

    def publish() -> None:
        while not over.is_set():
            rows.append(producer.publish(10))
            time.sleep(0.001)

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        wait_for("some to be stored", lambda: instance.cursors(producer).get("writer.stored", 0) > 500)
        instance.writer.stop()
    finally:
        over.set()
        publishing.join()
    assert "not empty after" not in instance.writer.log.read_text()
    more = producer.publish(100)
    instance.end(producer)
    for path in instance.shm.iterdir():  # a reboot: nobody can know how many records it took away
        path.unlink()
    published = np.concatenate([*rows, more])
    after = instance.producer()
    instance.writer.start(instance.config())
    wait_for("attached", lambda: "writer" in instance.cursors(after))
    [gap] = instance.check_exactly(producer, published)
    assert gap.stop is None and gap.reason == "ring_gone"


def test_writer_restarted_goes_on_where_it_was(instance):
    producer = instance.producer()
    rows = []
    for life in range(3):
        instance.writer.start(instance.config())
        rows.append(producer.publish(1000, seed=life))
        instance.wait_stored()
        instance.writer.stop()
    instance.check_content((producer, np.concatenate(rows)))


def test_writer_samples_the_latest_value_of_each_changed_key_once(instance):
    producer = instance.producer(QUOTE, keys=3)
    instance.writer.start(instance.config())
    published = []
    for n in range(5):
        published.append(producer.publish(50, seed=n))
        wait_for("a sample", lambda n=n: len(instance.table(QUOTE)) >= (n + 1) if n else instance.writer.metric(
            "tickring_storage_batch_inserts_total") > 0)  # fmt: skip
    instance.writer.stop()
    rows = np.concatenate(published)
    found = instance.table(QUOTE)
    assert len(found) == len(set(found))
    by_key = {f"S{key}-USDT": rows[rows["key_id"] == key] for key in range(3)}
    members = [name for name in QUOTE.dtype.names if name not in ("nth", "key_id", "_reserved")]
    for instrument, epoch, nth, *values in found:
        row = by_key[instrument][nth]
        assert (epoch, values) == (producer.writer.epoch, [row[name].item() for name in members])
    newest = {instrument: int(of_key["nth"][-1]) for instrument, of_key in by_key.items()}
    assert {instrument: max(row[2] for row in found if row[0] == instrument) for instrument in newest} == newest


def test_writer_samples_tails_without_a_ring(instance):
    producer = instance.producer(BOOK_TOP, keys=2)
    rows = producer.publish(6)
    instance.writer.start(instance.config())
    wait_for("a sample", lambda: instance.writer.metric("tickring_storage_batch_inserts_total") > 0)
    newest = np.concatenate([rows[rows["key_id"] == key][-1:] for key in range(2)])
    instance.check_content((producer, newest), record=BOOK_TOP)


def test_writer_stores_what_the_configuration_says(instance):
    quotes = instance.producer(QUOTE, name="feed-a")
    levels = instance.producer(BOOK_LEVEL, name="feed-b")
    trades = instance.producer(TRADE, name="feed-c")
    rows, more = quotes.publish(300), levels.publish(200)
    trades.publish(100)
    instance.writer.start(instance.config(store={"quote": "all", "book_level": "all", "trade": "off"}))
    instance.wait_stored(quotes, levels)
    instance.check_content((quotes, rows), record=QUOTE)
    instance.check_content((levels, more), record=BOOK_LEVEL)
    assert instance.cursors(trades) == {}


def test_writer_says_what_it_does_on_its_page(instance):
    producer = instance.producer()
    instance.writer.start(instance.config())
    producer.publish(1234)
    instance.wait_stored()
    metric = instance.writer.metric
    wait_for("the counts", lambda: metric("tickring_storage_messages_processed_total") == 1234)
    assert (
        metric("tickring_storage_messages_processed_total", exchange="binance", market_type="spot", data_type="trade")
        == 1234
    )
    assert metric("tickring_storage_clickhouse_up") == 1
    assert metric("tickring_storage_insert_seconds") > 0
    path = instance.shm / "writer.page"
    wait_for("the stream on the page", lambda: read_page(path).detail.get("streams") == 1)
    assert read_page(path).detail["clickhouse"]["up"] is True


def test_writer_makes_the_views_that_are_asked_for(instance):
    producer = instance.producer()
    hot, cold = f"{instance.server.database}_hot", f"{instance.server.database}_cold"
    instance.writer.start(instance.config(views={hot: 3, cold: 0}))
    rows = producer.publish(100)
    instance.wait_stored()
    found = instance.query(f"SELECT h.trade_id FROM {hot}.trades AS h JOIN {cold}.trades AS c USING (trade_id, symbol)")
    assert {trade_id for (trade_id,) in found} == set(map(str, rows["trade_id"].tolist()))


def test_writer_whose_views_are_refused_stores_all_the_same(instance):
    producer = instance.producer()
    instance.writer.start(instance.config(views={"x" * 300: 0}))  # no file system takes that name
    rows = producer.publish(100)
    instance.wait_stored()
    instance.check_content((producer, rows))
    assert "xxx not made: " in instance.writer.log.read_text()


def test_writer_config_names_record_types_and_intervals():
    chosen = {"trade": 7, "kline": 0, "kline.1m": 30}
    assert msgspec.convert({"retention_days": chosen}, Config).retention_days == chosen
    for wrong in (
        {"retention_days": {"trades": 7}},
        {"retention_days": {"trade.1m": 7}},
        {"retention_days": {"trade": 36_500}},
        {"store": {"kline.1m": "all"}},
        {"views": {"tickring": 0}},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Config)
