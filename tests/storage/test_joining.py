"""Batches that are sent together: which, in what order, and what the server makes of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickring.codecs.records import TRADE
from tickring.ringbuf import Key
from tickring.storage.batch import DAY_NS, Batch, BatchHead, make_batch
from tickring.storage.errors import Refused
from tickring.storage.joining import BATCHES_MAX, BYTES_MAX, joinable, joined
from tickring.storage.native import ROWS_MAX
from tickring.storage.schema import SchemaOptions, ensure_schema
from tickring.storage.spoolfile import Entry

from .processes import key_attributes, random_rows

RAW = "raw_events"


def head(table="trades", n=0, day=0, rows=1, columns=("a",), stream="p.trade", identity=True):
    return BatchHead(
        stream=stream, record="trade", table=table, columns=list(columns), epoch=1, first=n, stop=n + 1, rows=rows,
        token=f"{stream}/1/{n}/{table}", identity={"nth": n} if identity else {},
        ts_first_ns=day * DAY_NS, ts_last_ns=day * DAY_NS + 1,
    )  # fmt: skip


def entry(segment=1, size=100, uncertain=False, **of_head):
    return Entry(segment, 0, size, head(**of_head), uncertain)


@pytest.mark.parametrize(
    ("entries", "count"),
    [
        ([entry(), entry(n=1), entry(table="quotes")], 3),
        ([entry(), entry(segment=2)], 1),
        ([entry(), entry(n=1, uncertain=True)], 1),
        ([entry(uncertain=True), entry(n=1)], 1),
        ([entry(), entry(n=1, day=1)], 1),
        ([entry(), entry(table="quotes", columns="b"), entry(n=1, columns="b"), entry()], 2),
        ([entry(), entry(identity=False)], 1),
        ([entry(identity=False), entry()], 1),
        ([entry(size=BYTES_MAX), entry(n=1)], 1),
        ([entry(size=2 * BYTES_MAX), entry(n=1)], 1),
        ([entry(rows=ROWS_MAX), entry(n=1)], 1),
        ([entry(n=n) for n in range(2 * BATCHES_MAX)], BATCHES_MAX),
    ],
    ids=["several", "file", "sent before", "first sent before", "day", "columns", "no name", "first without a name",
         "size", "larger than all", "rows", "count"],
)  # fmt: skip
def test_joinable_are_batches_of_one_file_day_and_set_of_columns(entries, count):
    assert joinable(entries) == count


def test_joined_batches_are_one_for_each_table_with_a_token_of_all():
    batches = [Batch(head(table, n), bytes([n])) for n, table in enumerate(("a", "b", "a", RAW, "a", "b"))]
    one, two, three = joined(batches, last=RAW)
    assert [(b.head.table, b.head.rows, b.block) for b in (one, two, three)] == [
        ("a", 3, b"\x00\x02\x04"), ("b", 2, b"\x01\x05"), (RAW, 1, b"\x03"),
    ]  # fmt: skip
    assert one.head.identity == {"nth": 0}
    assert three is batches[3], "one batch keeps its own token"
    (again, *_), (other, *_) = joined(batches, last=RAW), joined([batches[0], batches[4]], last=RAW)
    assert again.head.token == one.head.token != other.head.token


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=30))
def test_raw_event_is_never_stored_before_what_follows_from_it_wherever_windows_end(seed, cuts):
    """Ranges of several topics, each with some of its derived tables and the raw one last, queue as they come."""
    rng = random.Random(seed)
    streams = {name: [] for name in ("x", "y", "z")}
    for name, queue in streams.items():
        for n in range(6):
            derived = rng.sample(["letters", f"{name}1", f"{name}2"], rng.randint(0, 3))
            queue += [Batch(head(table, n, stream=name), b"") for table in sorted(derived)]
            queue.append(Batch(head(RAW, n, stream=name), b""))
    spooled, left = [], {name: list(queue) for name, queue in streams.items()}
    while any(left.values()):
        name = rng.choice([name for name, queue in left.items() if queue])
        spooled.append(left[name].pop(0))
    belongs = {(b.head.stream, b.head.first): set() for b in spooled}
    for b in spooled:
        belongs[b.head.stream, b.head.first].add(b.head.table)
    stored, at = [], 0
    while at < len(spooled):
        size = cuts[at % len(cuts)]
        window, at = spooled[at : at + size], at + size
        of_token = {b.head.token: b for b in window}
        for insert in joined(window, last=RAW):
            stored += [b for b in of_token.values() if b.head.table == insert.head.table]
            there = {(b.head.stream, b.head.first, b.head.table) for b in stored}
            for stream, first, table in there:
                if table == RAW:
                    assert all((stream, first, other) in there for other in belongs[stream, first])
    assert sorted(b.head.token for b in stored) == sorted(b.head.token for b in spooled)
    for table in {b.head.table for b in spooled}:
        order = [b.head.token for b in spooled if b.head.table == table]
        assert [b.head.token for b in stored if b.head.table == table] == order


class Keys:
    def __getitem__(self, key_id):
        return Key(key_id, f"binance.S{key_id}-USDT", key_attributes(key_id))


def trades(count, rows):
    found = []
    for first in range(0, count * rows, rows):
        of_batch = random_rows(TRADE, rows, 1 + first % 5, start=first)
        of_batch["nth"] = range(first, first + rows)
        made = make_batch(TRADE, "p.trade", "trades", of_batch, Keys(), epoch=1, first=first, stop=first + rows)
        found.append(made)
    return found


def test_blocks_of_one_insert_become_one_part_and_come_again_without_doubling(with_client, server):
    batches = trades(BATCHES_MAX, 20)
    (one,) = joined(batches, last=RAW)

    async def work(client):
        await ensure_schema(client, [TRADE], SchemaOptions(database=server.database))
        table = f"{server.database}.trades"
        await client.command(f"SYSTEM STOP MERGES {table}")
        for _ in range(2):
            await client.insert(table, one.head.columns, one.block, one.head.token)
        counts = await client.rows(f"SELECT count(), uniqExact(nth), sum(nth) FROM {table}")
        parts = f"SELECT rows FROM system.parts WHERE database = '{server.database}' AND table = 'trades'"
        return counts, await client.rows(parts)

    rows = BATCHES_MAX * 20
    assert with_client(work) == ([(rows, rows, rows * (rows - 1) // 2)], [(rows,)])


def test_insert_of_which_one_block_is_refused_stores_none(with_client, server):
    batches = trades(9, 20)
    batches[7].block = batches[7].block.replace(b"Float64", b"Flaat64")
    (one,) = joined(batches, last=RAW)

    async def work(client):
        await ensure_schema(client, [TRADE], SchemaOptions(database=server.database))
        with pytest.raises(Refused):
            await client.insert(f"{server.database}.trades", one.head.columns, one.block, one.head.token)
        return await client.rows(f"SELECT count() FROM {server.database}.trades")

    assert with_client(work) == [(0,)]
