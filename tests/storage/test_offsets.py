"""How far a topic is stored: table, spool, and what an interrupted batch left."""

from __future__ import annotations

import asyncio
import time

import pytest

from tickring.storage.batch import Batch, BatchHead
from tickring.storage.client import Client, Server
from tickring.storage.deskschema import RAW_EVENTS, ensure_desk
from tickring.storage.errors import SpoolFull, SpoolWaits, Unavailable
from tickring.storage.nativerows import encode_rows
from tickring.storage.offsets import DESK_SPOOL, WRITER_FOLDER, Overlap, stored_offsets
from tickring.storage.schema import SchemaOptions, qualified
from tickring.storage.spool import Spool
from tickring.storage.spoolhead import waiting_heads


def batch(topic="a.v1", n=0, size=100):
    head = BatchHead(
        stream="t.event", record="event", table="raw_events", columns=[], epoch=1, first=n, stop=n + 1, rows=1,
        token=f"t/{n}", identity={"topic": topic, "partition": 0, "offset": n}, ts_first_ns=1, ts_last_ns=1,
    )  # fmt: skip
    return Batch(head, bytes(size))


def desk_spool(data, **options):
    return Spool(data / WRITER_FOLDER / DESK_SPOOL, 1 << 20, yields=False, **options)


def raw_row(topic, partition, offset):
    return (topic, partition, offset, 0, None, b"v", [], "e", "", 0, 0, time.time_ns())


def test_stored_offsets_are_behind_the_last_of_each_partition(with_client, tmp_path):
    rows = [raw_row("a.v1", 0, 4), raw_row("a.v1", 0, 5), raw_row("a.v1", 3, 0), raw_row("b.v1", 0, 90)]

    async def work(client):
        await ensure_desk(client, SchemaOptions(database=client.server.database))
        columns = [(name, kind) for name, kind, _ in RAW_EVENTS.columns]
        table = qualified(client.server.database, "raw_events")
        await client.insert(table, [name for name, _ in columns], encode_rows(columns, rows), "t")
        return [await stored_offsets(client, tmp_path, topic) for topic in ("a.v1", "b.v1", "c.v1")]

    assert with_client(work) == [{0: 6, 3: 1}, {0: 91}, {}]


def test_stored_offsets_without_any_table_are_none(with_client, tmp_path):
    assert with_client(lambda client: stored_offsets(client, tmp_path, "a.v1")) == {}


def test_stored_offsets_wait_for_the_spool_of_that_topic(with_client, tmp_path):
    spool = desk_spool(tmp_path)
    spool.append(batch("a.v1"))
    assert with_client(lambda client: stored_offsets(client, tmp_path, "b.v1")) == {}
    with pytest.raises(SpoolWaits, match=r"topic a\.v1: 1 batches wait"):
        with_client(lambda client: stored_offsets(client, tmp_path, "a.v1"))
    spool.sent(spool.first().entries)
    assert with_client(lambda client: stored_offsets(client, tmp_path, "a.v1")) == {}
    spool.close()


def test_stored_offsets_without_clickhouse_are_not_known(tmp_path):
    with pytest.raises(Unavailable):
        asyncio.run(stored_offsets(Client(Server(url="http://127.0.0.1:9")), tmp_path, "a.v1"))


def test_waiting_heads_of_a_spool_are_those_that_were_not_sent_whatever_is_damaged(tmp_path):
    spool = desk_spool(tmp_path)
    spool.append(batch(n=0))
    spool.sent(spool.first().entries)
    for n in range(1, 4):
        spool.append(batch(n=n))
    folder = spool.folder
    assert [head.first for head in waiting_heads(folder)] == [1, 2, 3]
    path = next(folder.glob("*.spool"))
    data = bytearray(path.read_bytes())
    data[len(data) // 3 + 30] ^= 1  # in the head of the second
    path.write_bytes(data)
    assert [head.first for head in waiting_heads(folder)] == [1, 3]
    assert waiting_heads(tmp_path / "none") == []
    spool.close()


def test_spool_that_does_not_yield_is_full_and_takes_more_when_some_is_sent(tmp_path):
    spool = desk_spool(tmp_path)
    for n in range(3):
        spool.append(batch(n=n, size=300_000))
    with pytest.raises(SpoolFull, match="bring ClickHouse back"):
        spool.append(batch(n=3, size=300_000))
    assert [head.first for head in spool.heads()] == [0, 1, 2]
    assert spool.take_yielded() == []
    while (window := spool.first()) is not None:
        spool.sent(window.entries)
    spool.append(batch(n=3, size=300_000))
    spool.close()


def test_overlap_belongs_to_its_epoch_and_ends_where_a_partition_is_beyond_it(tmp_path):
    first = Overlap(tmp_path, "t.event")
    assert not first.load(1)
    first._store(1, {"fills": {0: 10, 1: 5}, "raw_events": {0: 8}})
    again = Overlap(tmp_path, "t.event")
    assert again.load(1)
    again.passed(1, {0: 9, 1: 3})
    assert again.ends == {"fills": {0: 10, 1: 5}}
    again.passed(1, {0: 10})
    assert again.ends == {"fills": {1: 5}}
    last = Overlap(tmp_path, "t.event")
    assert not last.load(2)
    assert last.load(1)
    assert last.ends == {"fills": {1: 5}}
