"""Queries for the part of an answer that memory no longer holds."""

from __future__ import annotations

import asyncio
import signal
import time

import msgspec
import numpy as np
import pytest

from tickring.codecs.records import BOOK_TOP, TRADE
from tickring.ringbuf import Key
from tickring.storage.batch import DAY_NS
from tickring.storage.client import Client
from tickring.storage.errors import Refused, Unavailable
from tickring.storage.history import History, Seam
from tickring.storage.native import column_names, encode_block
from tickring.storage.schema import SchemaOptions, ensure_schema, qualified_table

from .processes import key_attributes, random_rows

NOW = 1_795_000_000_000_000_000
OLD, NEW = 100, 200  # epochs
KEYS = {i: Key(i, f"binance.S{i}-USDT", key_attributes(i)) for i in range(2)}


def rows_of(record, key_id, n, first_ns):
    rows = random_rows(record, n, 1, seed=key_id, start=first_ns % 1000)
    rows["key_id"] = key_id
    rows["nth"] = np.arange(n)
    rows["ts_recv_ns"] = first_ns + np.arange(n) * 10**6
    rows["ts_event_ns"] = rows["ts_recv_ns"] - 5 * 10**5
    return rows


def filled(server, work, record=TRADE):
    """Two epochs of S0 (50 rows three days ago, 100 today) and one of S1; then `work(history)`."""
    old, new = rows_of(record, 0, 50, NOW - 3 * DAY_NS), rows_of(record, 0, 100, NOW)
    other = rows_of(record, 1, 10, NOW)

    async def inside():
        client = Client(server)
        await ensure_schema(client, [record], SchemaOptions(database=server.database, retention_days={record.name: 0}))
        table = qualified_table(server.database, record)
        for epoch, rows in ((OLD, old), (NEW, new), (NEW, other)):
            await client.insert(
                table, column_names(record), encode_block(record, rows, KEYS, epoch), f"{epoch}{rows['key_id'][0]}"
            )
        await client.close()
        history = History(server, deadline_s=20)
        try:
            return await work(history)
        finally:
            await history.close()

    return asyncio.run(inside()), old, new


def same(found, expected):
    expected = expected.copy()
    expected["key_id"] = 0
    assert found.tobytes() == expected.tobytes()


def test_history_newest_first_gives_the_newest_of_the_instrument(server):
    found, _, new = filled(server, lambda history: history.trades("binance", "S0-USDT", limit=30))
    same(found.rows, new[-30:][::-1])
    assert found.epochs.tolist() == [NEW] * 30


def test_history_oldest_first_goes_through_the_epochs_in_order(server):
    found, old, new = filled(server, lambda history: history.trades("binance", "S0-USDT", limit=60, newest_first=False))
    same(found.rows, np.concatenate((old, new[:10])))
    assert found.epochs.tolist() == [OLD] * 50 + [NEW] * 10


@pytest.mark.parametrize("now_ns", [None, NOW + 10**9])
def test_history_before_a_seam_ends_right_below_it_and_goes_on_in_the_epoch_before(server, now_ns):
    found, old, new = filled(
        server,
        lambda history: history.trades("binance", "S0-USDT", before=Seam(NEW, 20), limit=40, now_ns=now_ns),
    )
    same(found.rows, np.concatenate((old[-20:], new[:20]))[::-1])


def test_history_of_a_time_range_is_half_open_and_in_the_exchanges_time(server):
    start, end = NOW - 5 * 10**5 + 10 * 10**6, NOW - 5 * 10**5 + 15 * 10**6
    found, _, new = filled(
        server,
        lambda history: history.trades("binance", "S0-USDT", start_ns=start, end_ns=end, newest_first=False),
    )
    same(found.rows, new[10:15])


def test_history_time_range_reads_few_granules(server):
    async def work(history):
        from tickring.storage.history import _query

        query, parameters = _query(TRADE, server.database, "binance", "S0-USDT", None, NOW, NOW + 10**9, None, 10, True)
        return (await history.client.fetch("EXPLAIN indexes = 1 " + query, parameters, fmt="TabSeparated")).decode()

    plan, _, _ = filled(server, work)
    assert "event_time" in plan
    assert "Partition" in plan


def test_history_of_unknown_instrument_or_no_limit_is_empty(server):
    async def work(history):
        return [
            await history.trades("binance", "S9-USDT"),
            await history.trades("okx", "S0-USDT"),
            await history.trades("binance", "S0-USDT", limit=0),
            await history.trades("binance", "' OR 1 = 1 --"),
        ]

    found, _, _ = filled(server, work)
    assert [len(rows) for rows in found] == [0, 0, 0, 0]


def test_history_of_arrays_gives_their_rows(server):
    found, _, new = filled(server, lambda history: history.rows(BOOK_TOP, "binance", "S0-USDT", limit=7), BOOK_TOP)
    same(found.rows, new[-7:][::-1])


def test_history_without_its_table_is_refused(server):
    async def work():
        history = History(server, deadline_s=20.0)
        try:
            await history.trades("binance", "S0-USDT")
        finally:
            await history.close()

    with pytest.raises(Refused):
        asyncio.run(work())


def test_history_of_a_stopped_engine_is_unavailable_and_further_calls_are_refused_at_once(engine, server):
    async def work(history):
        history.deadline_s, history._queue_max = 0.3, 3
        engine.send(signal.SIGSTOP)
        try:
            calls = [history.trades("binance", "S0-USDT") for _ in range(5)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            engine.send(signal.SIGCONT)
        history.deadline_s = 20
        return answers, history.refused, history.failed, len(await history.trades("binance", "S0-USDT", limit=5))

    (answers, refused, failed, after), _, _ = filled(server, work)
    assert all(isinstance(answer, Unavailable) for answer in answers)
    assert (refused, failed, after) == (2, 3, 5)


def test_history_with_answers_compressed_is_the_same(server):
    compressed = msgspec.structs.replace(server, compress=True)
    found, _, new = filled(
        compressed, lambda history: history.trades("binance", "S0-USDT", limit=100, now_ns=time.time_ns())
    )
    same(found.rows, new[::-1])
