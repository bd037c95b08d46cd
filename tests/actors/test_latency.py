from __future__ import annotations

import asyncio
import time

import pytest

from tickring.actors.latency import (
    EXCHANGE_TO_SOCKET,
    FRONT_TO_CLIENT,
    RING_TO_FRONT,
    SOCKET_TO_RING,
    FeedLatency,
    FrontLatency,
)
from tickring.codecs.record import Flag
from tickring.codecs.records import BOOK_LEVEL, QUOTE, TRADE
from tickring.ringbuf import KeyWriter, MetricsPage, StreamReader, StreamWriter, keys_filename, read_page
from tickring.ringbuf.keys import create_keys
from tickring.ringbuf.stream import create_stream

from .ws_harness import client, desk

MS = 1_000_000


class Rig:
    def __init__(self, folder) -> None:
        self.page = MetricsPage(folder, "feed-0", 1)
        create_keys(folder / keys_filename("feed-0"), 8)
        self.keys = KeyWriter(folder / keys_filename("feed-0"))
        self.keys.add("binance.BTC-USDT", {})
        self.writers, self.readers = {}, {}
        for record in (TRADE, QUOTE, BOOK_LEVEL):
            spec = record.spec("feed-0", capacity=1024, keys_max=8)
            create_stream(folder, spec, 1)
            self.writers[record.name] = StreamWriter(folder, spec, (), 1)
            self.writers[record.name].add_key(0)
            self.readers[record.name] = StreamReader(folder, "feed-0", record.name, record.dtype)
        self.quote = self.writers["quote"].publisher(QUOTE.struct, QUOTE.values)
        self.latency = FeedLatency(self.page, "binance", ("trade", "quote", "book_level"), self.writers, self.readers)

    def histogram(self, name: str, channel: str):
        return self.page.histogram(name, "", (), exchange="binance", channel=channel)

    def close(self) -> None:
        for part in (*self.readers.values(), *self.writers.values(), self.keys, self.page):
            part.close()


@pytest.fixture
def rig(shm):
    made = Rig(shm)
    yield made
    made.close()


def test_message_of_a_read_is_timed_under_its_channel_and_stamps_its_stream(rig):
    flushed: list[int] = []
    sample = rig.latency.sampler({b"ag": "trade", b"bo": "quote", b"ti": "ticker"}, lambda: flushed.append(1))
    received = time.time_ns() - 2 * MS
    sample(b'{"stream":"btcusdt@aggTrade","data":{}}', received)
    sample(b'{"stream":"btcusdt@ticker","data":{}}', received)  # of a stream that this feed does not have
    sample(b'{"result":null,"id":1}', received)
    assert len(flushed) == 3
    trades, quotes = rig.histogram(SOCKET_TO_RING, "trade"), rig.histogram(SOCKET_TO_RING, "quote")
    assert (sum(trades.counts), sum(quotes.counts)) == (1, 0)
    assert trades.sum >= 0.002
    assert rig.readers["trade"].published_at_ns(received) >= received + 2 * MS
    assert rig.readers["trade"].published_at_ns(received + 1) == 0
    assert rig.readers["quote"].published_at_ns(received) == 0


def test_time_from_the_exchange_is_taken_of_live_records_that_have_one(rig):
    at = time.time_ns()
    for event_ns, flags in ((at - 5 * MS, 0), (0, 0), (at - 10**12, int(Flag.BACKFILL)), (at + MS, 0)):
        rig.quote(0, at, event_ns, flags, 1.0, 1.0, 2.0, 1.0)
    rig.latency.look()
    found = rig.histogram(EXCHANGE_TO_SOCKET, "quote")
    assert sum(found.counts) == 2 and found.sum == pytest.approx(0.005)
    ahead = rig.page.counter("tickring_exchange_clock_ahead_total", "", exchange="binance")
    assert ahead.value == 1, "the exchange's clock was ahead of ours"
    rig.latency.look()
    assert sum(found.counts) == 2, "a record is looked at once"


def test_levels_of_one_event_count_once(rig):
    at = time.time_ns()
    level = rig.writers["book_level"].publisher(BOOK_LEVEL.struct, BOOK_LEVEL.values)
    for n in range(10):
        level(0, at, at - MS, int(Flag.LAST) if n == 9 else 0, 7, 1.0, 1.0)
    rig.latency.look()
    assert sum(rig.histogram(EXCHANGE_TO_SOCKET, "book").counts) == 1


def test_only_the_newest_records_of_a_burst_are_looked_at(rig):
    at = time.time_ns()
    for _ in range(2000):
        rig.quote(0, at, at - MS, 0, 1.0, 1.0, 2.0, 1.0)
    rig.latency.look()
    assert sum(rig.histogram(EXCHANGE_TO_SOCKET, "quote").counts) == 64


def test_front_counts_from_publishing_where_the_feed_told_it_else_from_receipt(rig):
    front = FrontLatency(rig.page, "binance", rig.readers["trade"])
    rig.writers["trade"].sampled[1] = 3_000_000
    rig.writers["trade"].sampled[0] = 1_000_000
    front.written(1_000_000, 4_000_000, 6_000_000)
    picked, written = rig.histogram(RING_TO_FRONT, "trade"), rig.histogram(FRONT_TO_CLIENT, "trade")
    assert (picked.sum, written.sum) == (pytest.approx(0.001), pytest.approx(0.002))
    front.picked(2_000_000, 4_000_000)
    assert picked.sum == pytest.approx(0.003), "this one was not sampled by the feed"
    front.picked(1_000_000, 2_000_000)
    assert picked.sum == pytest.approx(0.003), "read before the feed took the time: no time at all"
    assert (sum(picked.counts), sum(written.counts)) == (3, 1)


def test_front_shows_both_of_its_stages_by_exchange_and_channel(shm):
    channels = {"trade": "trades.binance.spot.BTC-USDT", "quote": "quote.binance.spot.BTC-USDT"}

    def counted(view, name: str, channel: str) -> float:
        labels = {"exchange": "binance", "channel": channel}
        return sum(sum(one.values[:-1]) for one in view.samples if one.name == name and one.labels == labels)

    async def run(d):
        async with client(d.front) as c:
            await c.subscribe(*channels.values())
            for number in range(20):
                d.producer.trade(0, number)
                d.producer.quote(0, number)
                await asyncio.sleep(0.001)
            for channel in channels.values():
                await c.until_seq(channel, 20)
            until = time.monotonic() + 60
            while True:
                view = read_page(d.front.folder / f"{d.front.name}.page")
                if all(counted(view, stage, one) for stage in (RING_TO_FRONT, FRONT_TO_CLIENT) for one in channels):
                    return
                assert time.monotonic() < until, view.samples
                await asyncio.sleep(0.05)

    with desk(shm) as d:
        asyncio.run(run(d))
