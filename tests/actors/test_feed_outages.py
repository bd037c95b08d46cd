"""What a feed says of the times in which nobody listened to streams without numbers."""

from __future__ import annotations

import asyncio
import shutil
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from tickring.actors.feed import outages as outages_module
from tickring.actors.feed import protocol
from tickring.actors.feed.outages import Outages
from tickring.actors.gaps import ALL, Outage, outages_path, read_outages
from tickring.codecs.records import TICKER
from tickring.ringbuf import StreamReader, StreamWriter, create_keys, create_stream, keys_filename

from ..rings import publish_rows
from .feeding import SYMBOLS, Running, exchange, fault, feed_config, feeding, sent, until

NAME = "feed-test"
CHANNELS = ["ticker", "mark_price"]


def told(data: Path) -> list[Outage]:
    return read_outages(outages_path(data, NAME))


def check_missing(running: Running, simulator, outages: list[Outage], before: dict[str, list[np.ndarray]]) -> int:
    """Every ticker that was sent and is not there was sent in an outage; how many there are."""
    missing = 0
    for symbol in SYMBOLS:
        name = f"{symbol[:3]}-USDT-PERP"
        now = running.rows("ticker", name)
        rows = np.concatenate([*before.get(name, []), now])
        receipts = {int(row["ts_event_ns"]) // 1_000_000: int(row["ts_recv_ns"]) for row in rows}
        said = [message["E"] for message in sent(simulator, "usdm", f"{symbol.lower()}@ticker")]
        held = [event for event in said if event in receipts]
        assert len(held) == len(rows)
        for a, b in pairwise(held):
            hole = said[said.index(a) + 1 : said.index(b)]
            missing += len(hole)
            if hole:
                assert any(
                    receipts[a] <= each.from_ns < each.to_ns <= receipts[b] for each in outages if each.stream == ALL
                ), (name, a, b, outages)
    return missing


def test_what_is_missing_of_a_stream_without_numbers_was_sent_in_an_outage(shm: Path, tmp_path: Path) -> None:
    async def work() -> None:
        async with exchange() as simulator:
            config = feed_config(simulator, "market", channels=CHANNELS, backoff_min_s=0.5, backoff_max_s=1.0)
            before: dict[str, list[np.ndarray]] = {}

            async def more(running: Running) -> None:
                count = len(running.rows("ticker"))
                await until(lambda: len(running.rows("ticker")) >= count + 3, "more tickers")

            # somebody else listens, so that there is something to miss
            (shm / "other").mkdir()
            async with feeding(shm / "other", tmp_path / "other", config, "feed-other") as other:
                await more(other)
                async with feeding(shm, tmp_path, config) as running:
                    await more(running)
                    assert [each for each in told(tmp_path) if each.from_ns != each.to_ns] == []
                    last = int(running.rows("ticker")["ts_recv_ns"][-1])
                    fault(simulator, "reset")
                    await until(lambda: running.reader("ticker").live_since_ns > last, "what is there to be stale")
                    await until(lambda: running.counter("connects") >= 2, "another connection")
                    await more(running)
                    live = running.rows("ticker")["ts_recv_ns"] >= running.reader("ticker").live_since_ns
                    assert live.any() and not live.all()
                    assert len(told(tmp_path)) >= 2 and told(tmp_path)[-1].to_ns
                assert not told(tmp_path)[-1].to_ns, "it lasts"
                await more(other)
                async with feeding(shm, tmp_path, config) as running:  # numbering goes on
                    await more(running)
                    before = {f"{s[:3]}-USDT-PERP": [running.rows("ticker", f"{s[:3]}-USDT-PERP")] for s in SYMBOLS}
                for path in shm.iterdir():
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
                await asyncio.sleep(1.5)
                async with feeding(shm, tmp_path, config) as running:
                    await more(running)
                    found = told(tmp_path)
                    assert len(found) >= 4 and all(each.from_ns < each.to_ns for each in found[1:])
                    assert check_missing(running, simulator, found, before) >= len(SYMBOLS)

    asyncio.run(work())


def test_an_outage_ends_when_the_last_subscription_is_answered(shm: Path, tmp_path: Path, monkeypatch) -> None:
    """A long list of streams is subscribed by messages, and what the first ones bring ends nothing."""
    monkeypatch.setattr(protocol, "URL_BYTES_MAX", 10)
    monkeypatch.setattr(protocol, "SUBSCRIBE_BATCH", 3)

    async def work() -> None:
        async with exchange() as simulator:
            config = feed_config(simulator, "market", channels=CHANNELS)
            async with feeding(shm, tmp_path, config) as running:
                await until(lambda: len(told(tmp_path)) == 1, "the first connection to carry all")
                seconds = protocol.SUBSCRIBE_INTERVAL_S
                opened = running.feed.links.current.opened_ns
                assert told(tmp_path)[0].to_ns - opened >= seconds * 1e9

    asyncio.run(work())


def test_a_stream_subscribed_anew_has_an_outage_of_its_own(shm: Path, tmp_path: Path) -> None:
    async def work() -> None:
        async with exchange() as simulator:
            config = feed_config(simulator, "market", channels=CHANNELS)
            async with feeding(shm, tmp_path, config) as running:
                await until(lambda: len(running.rows("ticker")) > 3, "tickers")
                since = time.time_ns()
                assert await running.feed.links.resubscribe("ethusdt@ticker")
                await until(lambda: len(told(tmp_path)) == 2, "its outage")
                (each,) = [one for one in told(tmp_path) if one.stream != ALL]
                assert each.stream == "ethusdt@ticker" and since <= each.from_ns < each.to_ns
                assert await running.feed.links.resubscribe("btcusdt@ticker")
                fault(simulator, "reset")  # whether answered by then or not, it is told once
                await until(lambda: running.counter("connects") >= 2, "another connection")
                await until(lambda: sum(one.stream == "btcusdt@ticker" for one in told(tmp_path)) == 1, "its outage")

    asyncio.run(work())


# -- lives --------------------------------------------------------------------------------------------------------


class Ring:
    """A ring of tickers of one instrument."""

    def __init__(self, folder: Path) -> None:
        create_keys(folder / keys_filename(NAME), 4)
        spec = TICKER.spec(NAME, capacity=64, keys_max=4)
        create_stream(folder, spec, 1)
        self._writer = StreamWriter(folder, spec, (), 1)
        self._writer.add_key(0)
        self.reader = StreamReader(folder, NAME, TICKER.name, TICKER.dtype)

    def receive(self, at_ns: int) -> None:
        row = np.zeros(1, TICKER.dtype)
        row["ts_recv_ns"] = at_ns
        publish_rows(self._writer, row)

    def life(self, data: Path) -> Outages:
        return Outages(data, NAME, "binance", [self.reader], 1 << 20)

    def close(self) -> None:
        self.reader.close()
        self._writer.close()


def test_a_first_life_begins_with_no_outage(shm: Path, tmp_path: Path) -> None:
    ring = Ring(shm)
    ring.life(tmp_path).end(50)
    assert told(tmp_path) == [Outage("binance", ALL, 50, 50)]
    ring.close()


def test_a_life_after_a_kill_goes_on_from_the_last_record_in_the_ring(shm: Path, tmp_path: Path) -> None:
    ring = Ring(shm)
    ring.life(tmp_path).end(50)
    ring.receive(60)
    ring.receive(70)
    ring.life(tmp_path).end(90)
    assert told(tmp_path)[1:] == [Outage("binance", ALL, 70, 90)]
    ring.close()


def test_a_life_that_was_killed_in_an_outage_leaves_its_beginning_to_the_next(shm: Path, tmp_path: Path) -> None:
    ring = Ring(shm)
    life = ring.life(tmp_path)
    life.end(50)
    ring.receive(60)
    life.begin()
    life.begin()
    ring.receive(75)  # the next connection brought a part already
    assert told(tmp_path)[1:] == [Outage("binance", ALL, 60, 0)]
    ring.life(tmp_path).end(90)
    assert told(tmp_path)[1:] == [Outage("binance", ALL, 60, 90)]
    ring.close()


def test_a_connection_that_brought_nothing_ends_when_it_began(shm: Path, tmp_path: Path) -> None:
    ring = Ring(shm)
    life = ring.life(tmp_path)
    life.end(50)
    life.begin()
    life.end(80)
    assert told(tmp_path)[1:] == [Outage("binance", ALL, 50, 80)]
    ring.close()


def test_after_a_kill_with_other_rings_nobody_knows_when_it_began(shm: Path, tmp_path: Path) -> None:
    ring = Ring(shm)
    ring.life(tmp_path).end(50)
    ring.life(tmp_path).end(90)
    assert told(tmp_path)[1:] == [Outage("binance", ALL, 0, 90)]
    ring.close()


def test_records_that_rest_brings_end_no_outage() -> None:
    assert not {"kline", "kline_open", "open_interest", "funding"} & set(outages_module.LIVE_RECORDS)
