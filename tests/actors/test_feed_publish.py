"""From decoded events into rings and tails."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tickring.actors.feed.publish import DEPTH_LEVELS, TOP_LEVELS, RingSink
from tickring.codecs.book import BookState, OrderBook
from tickring.codecs.record import Flag
from tickring.codecs.records import BOOK_DEPTH, BOOK_LEVEL, BOOK_TOP, BY_NAME, QUOTE, TRADE
from tickring.ringbuf import StreamReader, StreamWriter, create_stream
from tickring.ringbuf.chunked import BATCH_MAX

MS = 1_000_000


class Rings:
    def __init__(self, folder: Path, capacity: int) -> None:
        self.writers: dict[str, StreamWriter] = {}
        self.readers: dict[str, StreamReader] = {}
        for record in (TRADE, QUOTE, BOOK_LEVEL, BOOK_TOP, BOOK_DEPTH):
            slots = max(capacity, 4 * BATCH_MAX) if record is TRADE else capacity
            spec = record.spec("feed", capacity=slots, keys_max=8)
            create_stream(folder, spec, 1)
            writer = self.writers[record.name] = StreamWriter(folder, spec, [], 0)
            for key_id in range(4):
                writer.add_key(key_id)
            self.readers[record.name] = StreamReader(folder, "feed", record.name, record.dtype)
        self.sink = RingSink(self.writers, 100 * MS)

    def close(self) -> None:
        for part in (*self.readers.values(), *self.writers.values()):
            part.close()


@pytest.fixture
def rings(shm: Path) -> Iterator[Rings]:
    made = Rings(shm, 256)
    yield made
    made.close()


def expected_rows(events: list[tuple]) -> np.ndarray:
    """The plain way: one row after the other."""
    rows, counts = [], {}
    for key_id, ts_recv_ns, ts_event_ns, flags, update_id, bids, asks in events:
        levels = [(price, quantity, 0) for price, quantity in bids] + [(p, q, int(Flag.ASK)) for p, q in asks]
        for i, (price, quantity, side) in enumerate(levels):
            last = int(Flag.LAST) if i == len(levels) - 1 else 0
            nth = counts.get(key_id, 0)
            counts[key_id] = nth + 1
            rows.append((nth, ts_recv_ns, ts_event_ns, key_id, flags | side | last, update_id, price, quantity, b""))
    return np.array(rows, BOOK_LEVEL.dtype)


def test_sink_publishes_levels_as_one_row_after_the_other_would_through_wraps_and_large_events(rings: Rings) -> None:
    rnd = random.Random(7)
    events, cursor, got = [], 0, []
    reader = rings.readers["book_level"]
    for i in range(300):
        # up to half the ring: more than one chunk of a bulk publish
        sides = [[(rnd.random(), rnd.random()) for _ in range(rnd.choice((0, 0, 1, 2, 7, 30, 60)))] for _ in range(2)]
        event = (rnd.randrange(4), 10 + i, 5 + i, rnd.choice((0, int(Flag.SNAPSHOT))), 1000 + i, *sides)
        events.append(event)
        rings.sink.levels(*event)
        rows, cursor, lost = reader.read(cursor, 1 << 16)
        assert lost == 0
        got.append(rows)
    expected = expected_rows(events)
    found = np.concatenate(got)
    assert len(found) == len(expected) > 10 * 256
    for name in ("nth", "ts_recv_ns", "ts_event_ns", "key_id", "flags", "update_id", "price", "quantity"):
        assert (found[name] == expected[name]).all(), name
    for key_id in range(4):
        assert reader.count(key_id) == int((expected["key_id"] == key_id).sum())


def test_sink_publishes_nothing_for_an_event_without_levels(rings: Rings) -> None:
    rings.sink.levels(0, 1, 2, 0, 3, [], [])
    assert rings.writers["book_level"].sequence == 0


def test_writer_attached_after_a_kill_in_a_packed_run_counts_what_was_published(shm: Path) -> None:
    rings = Rings(shm, 256)
    rings.sink.levels(1, 1, 2, 0, 3, [(1.0, 1.0)] * 5, [(2.0, 1.0)] * 3)
    rings.writers["book_level"].counts[1] = 0  # killed between publish and count
    rings.close()
    rings = Rings(shm, 256)
    assert rings.writers["book_level"].counts[1] == 8
    rings.sink.levels(1, 1, 2, 0, 4, [(1.0, 1.0)], [])
    rows, _, _ = rings.readers["book_level"].read(0, 100)
    assert rows["nth"].tolist() == list(range(9))
    rings.close()


def make_book(levels: int) -> OrderBook:
    book = OrderBook()
    book.replace([(100.0 - i, 1.0 + i) for i in range(levels)], [(101.0 + i, 2.0 + i) for i in range(levels)])
    book.state, book.update_id = BookState.SYNCED, 77
    return book


def side(row: np.void, name: str, count: int) -> list[tuple[float, float]]:
    return list(zip(row[f"{name}_price"][:count].tolist(), row[f"{name}_qty"][:count].tolist(), strict=True))


@pytest.mark.parametrize("levels", [0, 1, 3, TOP_LEVELS, DEPTH_LEVELS, 500])
def test_sink_writes_the_best_levels_and_zeroes_the_rest(rings: Rings, levels: int) -> None:
    book = make_book(levels)
    rings.sink.levels(2, 5, 6, 0, 77, [(1.0, 1.0)] * 3, [])
    rings.sink.book(2, 5, 6, book)
    for name, depth in (("book_top", TOP_LEVELS), ("book_depth", DEPTH_LEVELS)):
        row = rings.readers[name].latest(2)
        assert row is not None
        count = min(levels, depth)
        assert (int(row["update_id"]), int(row["level_count"]), int(row["state"])) == (77, 3, BookState.SYNCED)
        assert (int(row["bids_count"]), int(row["asks_count"]), int(row["depth"])) == (count, count, depth)
        assert side(row, "bid", count) == [(100.0 - i, 1.0 + i) for i in range(count)]
        assert side(row, "ask", count) == [(101.0 + i, 2.0 + i) for i in range(count)]
        for field in ("bid_price", "bid_qty", "ask_price", "ask_qty"):
            assert not row[field][count:].any()


def test_sink_writes_depth_at_most_once_an_interval_and_the_last_state_always(rings: Rings) -> None:
    sink, depth, top = rings.sink, rings.readers["book_depth"], rings.readers["book_top"]
    book = make_book(5)
    start = 1_000 * MS
    for i in range(10):  # 10 events in 90 ms
        book.update_id = i
        sink.book(0, start + i * 10 * MS, 0, book)
    assert (depth.count(0), top.count(0)) == (1, 10)
    sink.flush_depth(start + 99 * MS)
    assert depth.count(0) == 1
    sink.flush_depth(start + 101 * MS)
    assert depth.count(0) == 2
    assert int(depth.latest(0)["update_id"]) == 9  # type: ignore[index]
    sink.flush_depth(start + 500 * MS)
    assert depth.count(0) == 2  # nothing changed since
    book.update_id = 10
    sink.book(0, start + 300 * MS, 0, book)
    assert depth.count(0) == 3  # the interval is over: at once


def test_sink_writes_a_change_of_state_at_once(rings: Rings) -> None:
    book = make_book(5)
    rings.sink.book(0, 1_000 * MS, 0, book)
    book.state = BookState.RESYNCING
    rings.sink.book(0, 1_001 * MS, 0, book)
    for name in ("book_top", "book_depth"):
        assert int(rings.readers[name].latest(0)["state"]) == BookState.RESYNCING  # type: ignore[index]


def test_sink_after_a_clock_step_backwards_still_writes_what_waits(rings: Rings) -> None:
    book = make_book(5)
    rings.sink.book(0, 10_000 * MS, 0, book)
    book.update_id = 78
    rings.sink.book(0, 10_010 * MS, 0, book)
    rings.sink.flush_depth(1_000 * MS)
    assert int(rings.readers["book_depth"].latest(0)["update_id"]) == 78  # type: ignore[index]


def test_sink_without_a_stream_for_a_record_counts_it(shm: Path) -> None:
    spec = TRADE.spec("feed", capacity=1024, keys_max=8)
    create_stream(shm, spec, 1)
    writer = StreamWriter(shm, spec, [], 0)
    writer.add_key(0)
    sink = RingSink({"trade": writer})
    sink.trade(0, 1, 2, 0, 3, 4.0, 5.0, 0, 0, 0.0)
    sink.quote(0, 1, 2, 0, 1.0, 1.0, 2.0, 1.0)
    sink.levels(0, 1, 2, 0, 3, [(1.0, 1.0)], [])
    sink.book(0, 1, 2, OrderBook())
    sink.flush_depth(1)
    sink.flush()
    assert (writer.sequence, sink.unexpected) == (1, 3)
    assert set(BY_NAME) >= {"trade", "quote"}
    writer.close()
