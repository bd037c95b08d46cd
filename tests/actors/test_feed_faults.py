"""What a feed does when the exchange, the network or REST misbehaves."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from tickring.actors.feed import links as links_module
from tickring.actors.feed import protocol
from tickring.actors.feed.errors import FeedConfigError, NoInstruments
from tickring.actors.gaps import gaps_path, read_gaps
from tickring.codecs.record import Flag

from .feeding import (
    SPOT_NAMES,
    SYMBOLS,
    USDM_NAMES,
    Running,
    exchange,
    exchange_book,
    fast_limits,
    fault,
    feed_config,
    feeding,
    freeze,
    row_book,
    sent,
    until,
)


async def settled(running: Running, trades: int = 50) -> None:
    """Books in sync and some trades in the ring."""
    await until(running.synced, "all books in sync")
    before = len(running.rows("trade")) if running.feed.config.trades else 0
    if running.feed.config.trades:
        await until(lambda: len(running.rows("trade")) >= before + trades, f"{trades} more trades")


def test_clock_set_back_after_the_start_makes_nothing_stale_that_comes(shm: Path, tmp_path: Path) -> None:
    def ahead() -> int:
        return time.time_ns() + 3600 * 10**9  # as the clock stood when the streams were attached

    async def scenario() -> None:
        async with exchange() as simulator, feeding(shm, tmp_path, feed_config(simulator), clock=ahead) as running:
            await settled(running)
            for record in ("trade", "quote", "book_level"):

                def live(record: str = record) -> bool:
                    return running.rows(record)["ts_recv_ns"][-1] >= running.reader(record).live_since_ns

                await until(live, f"a {record} that is not stale")

    asyncio.run(scenario())


def test_feed_on_a_half_open_socket_reconnects_by_its_data_watchdog(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = fast_limits("spot", ping_interval_s=0.1, messages_per_s_max=0)  # its pings go on being answered
        async with (
            exchange(spot=limits) as simulator,
            feeding(shm, tmp_path, feed_config(simulator, watchdog_s=5.0)) as running,
        ):
            await settled(running)
            fault(simulator, "silence")
            await until(lambda: running.counter("disconnects", reason="watchdog") == 1, "the watchdog")
            await settled(running)
            assert running.counter("connects") == 2
            assert running.counter("resyncs") == 3  # each book once

    asyncio.run(scenario())


def test_feed_after_an_abrupt_end_knows_exactly_which_trades_it_missed(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            exchange() as simulator,
            feeding(shm, tmp_path, feed_config(simulator, backoff_min_s=0.4, backoff_max_s=0.8)) as running,
        ):
            await settled(running)
            for connects in (2, 3):
                fault(simulator, "reset")
                await until(lambda: running.counter("connects") == connects, "reconnect")  # noqa: B023
                await settled(running)
            await freeze(simulator)
            last = {s: sent(simulator, "spot", f"{s.lower()}@trade")[-1]["t"] for s in SYMBOLS}
            for symbol, name in zip(SYMBOLS, SPOT_NAMES, strict=True):
                await until(
                    lambda: int(running.rows("trade", name)["trade_id"][-1]) == last[symbol],  # noqa: B023
                    f"last trade of {name}",
                )
            gaps = [g for g in read_gaps(gaps_path(tmp_path, running.name)) if g.kind == "trade"]
            assert running.counter("missing", kind="trade") == sum(g.last_id - g.first_id + 1 for g in gaps) > 0
            for gap in gaps:
                rows = running.rows("trade", gap.instrument)
                before = rows[rows["trade_id"] == gap.first_id - 1]
                assert len(before) == 1 and int(before["ts_recv_ns"][0]) == gap.from_ns < gap.to_ns
                assert not len(rows[(rows["trade_id"] >= gap.first_id) & (rows["trade_id"] <= gap.last_id)])
            for name in SPOT_NAMES:
                ids = running.rows("trade", name)["trade_id"].tolist()
                lost = [i for g in gaps if g.instrument == name for i in range(g.first_id, g.last_id + 1)]
                assert sorted(ids + lost) == list(range(ids[0], ids[-1] + 1)), name
            for symbol, name in zip(SYMBOLS, SPOT_NAMES, strict=True):
                book = exchange_book(simulator, "spot", symbol, 20)
                await until(lambda: int(running.top(name)["update_id"]) == book["id"], f"book of {name}")  # noqa: B023
                assert row_book(running.top(name)) == book

    asyncio.run(scenario())


def test_feed_with_a_gap_in_one_book_resyncs_that_one_and_keeps_the_connection(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange() as simulator, feeding(shm, tmp_path, feed_config(simulator, "public")) as running:
            await settled(running)
            # The first event after a snapshot is joined to it by U and u; only from then on a broken `pu` is a gap.
            sync = next(r.sync for r in running.feed.decoder.routes() if r.native == "ETHUSDT")
            joined = sync.book.update_id
            await until(
                lambda: sync.book.update_id > joined and sync.book.prev_update_id, "an event after the snapshot"
            )
            fault(simulator, "break_chain", product="usdm", symbol="ETHUSDT")
            await until(lambda: running.counter("gaps", kind="book") == 1, "the gap")
            await settled(running)
            resyncs = {r.instrument.instrument: r.sync.resyncs for r in running.feed.decoder.routes()}
            assert resyncs == {"BTC-USDT-PERP": 0, "ETH-USDT-PERP": 1, "SOL-USDT-PERP": 0}
            assert running.counter("connects") == 1
            rows = running.rows("book_level", "ETH-USDT-PERP")
            again = rows[(rows["flags"] & Flag.RESYNC) != 0]
            assert len(again) and (again["flags"] & Flag.SNAPSHOT).all()
            (gap,) = read_gaps(gaps_path(tmp_path, running.name))
            assert (gap.instrument, gap.kind) == ("ETH-USDT-PERP", "book")
            await freeze(simulator)
            book = exchange_book(simulator, "usdm", "ETHUSDT", 20)
            await until(lambda: int(running.top("ETH-USDT-PERP")["update_id"]) == book["id"], "the book")
            assert row_book(running.top("ETH-USDT-PERP")) == book

    asyncio.run(scenario())


@pytest.mark.parametrize("tier", ["spot", "public"])
def test_feed_told_of_a_shutdown_replaces_its_socket_without_loss_or_duplicate(
    shm: Path, tmp_path: Path, tier: str
) -> None:
    product = "spot" if tier == "spot" else "usdm"

    async def scenario() -> None:
        async with exchange(start="subscribed", start_settle_s=0.1) as simulator:
            config = feed_config(simulator, tier, channels=["trade", "quote", "book"])
            async with feeding(shm, tmp_path, config) as running:
                await settled(running)
                fault(simulator, "server_shutdown", product=product, close_after_s=60.0)
                await until(lambda: running.counter("replaced") == 1, "the replacement")
                await until(lambda: len(simulator.servers[product].connections) == 1, "the old socket is gone")
                await settled(running, 100)
                await freeze(simulator)
                names = SPOT_NAMES if product == "spot" else USDM_NAMES
                for symbol, name in zip(SYMBOLS, names, strict=True):
                    lower = symbol.lower()
                    ids = [m["t"] for m in sent(simulator, product, f"{lower}@trade")]
                    await until(lambda: len(running.rows("trade", name)) >= len(ids), f"trades of {name}")  # noqa: B023
                    assert running.rows("trade", name)["trade_id"].tolist() == ids
                    quotes = [
                        tuple(float(m[f]) for f in "bBaA") for m in sent(simulator, product, f"{lower}@bookTicker")
                    ]
                    await until(lambda: len(running.rows("quote", name)) >= len(quotes), f"quotes of {name}")  # noqa: B023
                    assert running.rows("quote", name)[["bid", "bid_qty", "ask", "ask_qty"]].tolist() == quotes
                    book = exchange_book(simulator, product, symbol, 20)
                    await until(lambda: int(running.top(name)["update_id"]) == book["id"], f"book of {name}")  # noqa: B023
                    assert row_book(running.top(name)) == book
                assert running.counter("duplicates", kind="trade") > 0, "the two sockets never overlapped"
                assert running.counter("resyncs") == 0
                assert running.counter("gaps", kind="trade") == running.counter("gaps", kind="book") == 0

    asyncio.run(scenario())


def test_feed_replaces_its_connection_when_its_life_is_over(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange() as simulator:
            config = feed_config(simulator, life_s=1.0, overlap_s=0.1)
            async with feeding(shm, tmp_path, config) as running:
                await until(
                    lambda: hasattr(running.feed, "links") and running.counter("replaced") >= 2, "two replacements"
                )
                await settled(running)
                assert running.counter("resyncs") == 0
                assert not any(reason for reason in running.feed.links.lost if reason != "replaced")

    asyncio.run(scenario())


def test_feed_counts_rubbish_frames_and_keeps_the_connection(
    shm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with exchange() as simulator:
            config = feed_config(simulator, rejected_samples_per_minute=3)
            async with feeding(shm, tmp_path, config) as running:
                await settled(running)
                for payload in ("", "{", "null", "\x00\x01", '{"stream":7,"data":{}}', '{"e":"aggTrade","p":"NaN"}'):
                    fault(simulator, "garbage", count=10, payload=payload)
                fault(simulator, "garbage", count=40, payload="9" * 5000)
                rejected = running.feed.decoder.rejected
                await until(lambda: sum(rejected.values()) == 100, "100 rejected frames")
                await settled(running)
                assert running.counter("connects") == 1
                assert running.counter("gaps", kind="trade") == 0
                assert caplog.text.count("rejected=") == 3  # as many samples as were asked for

    asyncio.run(scenario())


def test_feed_refused_by_rest_asks_nothing_until_retry_after(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange() as simulator:
            fault(simulator, "rest_status", status=429, retry_after_s=2)
            before_ns = time.time_ns()
            async with feeding(shm, tmp_path, feed_config(simulator)) as running:
                await until(lambda: running.feed.weight.refusals == 1, "the refusal")
                assert running.feed.weight.blocked_until_ns >= before_ns + 2 * 10**9  # any process is told to wait
                assert simulator.rest.counts == {"spot:exchangeInfo": 1}
                await until(lambda: "last_error" in running.feed.ctx.page.detail, "the page says so")
                await settled(running)
                assert simulator.rest.counts["spot:exchangeInfo"] == 2
                assert running.counter("rest", status="429") == 1

    asyncio.run(scenario())


def test_feed_without_rest_starts_from_the_instruments_of_an_earlier_start(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange() as simulator:
            config = feed_config(simulator)
            async with feeding(shm, tmp_path, config) as running:
                await settled(running)
            fault(simulator, "rest_status", status=503, count=4)
            async with feeding(shm, tmp_path, config) as running:
                await until(lambda: len(running.rows("trade")) > 20, "trades without REST")
                await settled(running)  # books follow once REST is back

    asyncio.run(scenario())


def test_feed_without_rest_and_without_a_list_waits_and_says_so(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange() as simulator:
            fault(simulator, "rest_status", status=502, count=3)
            async with feeding(shm, tmp_path, feed_config(simulator)) as running:
                await until(lambda: running.feed.ctx.page.detail.get("state") == "waiting for REST", "the page says so")
                await settled(running)
                assert running.counter("rest", status="502") == 3

    asyncio.run(scenario())


def test_feed_given_a_snapshot_older_than_the_stream_asks_again(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange() as simulator:
            simulator.source.depth("spot", "BTCUSDT", 5)  # lets its market begin
            await asyncio.sleep(0.2)
            fault(simulator, "stale_snapshot", product="spot", symbol="BTCUSDT", count=2)
            await asyncio.sleep(0.2)
            async with feeding(shm, tmp_path, feed_config(simulator)) as running:
                await settled(running)
                assert running.counter("snapshots_stale") == 2
                assert running.counter("snapshots") == 3

    asyncio.run(scenario())


def test_feed_with_many_streams_subscribes_by_messages_within_the_limits(
    shm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "URL_BYTES_MAX", 10)
    monkeypatch.setattr(protocol, "SUBSCRIBE_BATCH", 4)
    monkeypatch.setattr(links_module, "SUBSCRIBE_INTERVAL_S", 0.25)

    async def scenario() -> None:
        async with exchange() as simulator, feeding(shm, tmp_path, feed_config(simulator)) as running:
            await settled(running)
            (connection,) = simulator.connections()
            assert len(connection.subscribed) == 9
            assert running.counter("controls") == 3  # three acknowledgements, none of them a record
            assert sum(running.feed.decoder.rejected.values()) == 0

    asyncio.run(scenario())


def test_feed_whose_symbols_do_not_exist_ends_with_an_error(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange() as simulator:
            with pytest.raises(NoInstruments, match="lists none of NOPE-USDT"):
                async with feeding(shm, tmp_path, feed_config(simulator, symbols=["NOPE-USDT"])) as running:
                    await until(lambda: running.feed.listing.unknown, "the error")

    asyncio.run(scenario())


def test_feed_with_more_streams_than_a_connection_carries_is_a_config_error(shm: Path) -> None:
    async def scenario() -> None:
        async with exchange(symbols=1) as simulator:
            config = feed_config(simulator, "public", channels=["trade", "quote", "book"])
            with pytest.raises(FeedConfigError, match="one usdm connection carries 200"):
                protocol.streams_of(config, {f"S{i}-USDT": f"S{i}USDT" for i in range(67)})
            odd = feed_config(simulator, depth_interval_ms=250)
            with pytest.raises(FeedConfigError, match="spot sends depth every 100, 1000 ms"):
                protocol.streams_of(odd, {"BTC-USDT": "BTCUSDT"})

    asyncio.run(scenario())


def test_feed_goes_on_where_the_one_before_it_ended(shm: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with exchange() as simulator:
            config = feed_config(simulator)
            async with feeding(shm, tmp_path, config) as running:
                await settled(running)
                epoch = running.reader("trade").epoch
            async with feeding(shm, tmp_path, config) as running:
                assert running.reader("trade").epoch == epoch
                await settled(running, 100)
                for name in SPOT_NAMES:
                    rows = running.rows("trade", name)
                    assert rows["nth"].tolist() == list(range(len(rows)))
                    gaps = [g for g in read_gaps(gaps_path(tmp_path, running.name)) if g.instrument == name]
                    lost = [i for g in gaps if g.kind == "trade" for i in range(g.first_id, g.last_id + 1)]
                    ids = rows["trade_id"].tolist()
                    assert sorted(ids + lost) == list(range(ids[0], ids[-1] + 1))
                assert json.dumps(running.feed.ctx.page.detail)

    asyncio.run(scenario())


def test_whatever_a_feed_gives_up_is_on_its_page(shm: Path, tmp_path: Path) -> None:
    async def breaks(key_id: int) -> bool:
        raise RuntimeError("nobody expects it")

    async def scenario() -> None:
        async with exchange() as simulator, feeding(shm, tmp_path, feed_config(simulator)) as running:
            await until(running.synced, "books")
            feed = running.feed
            assert feed is not None
            feed.sink.ticker(0, 1, 2, 0)  # it has no stream for them
            feed.gaps.failed, feed.outages.ledger.failed = 1, 2
            feed.book_routes()[0].sync.buffer_dropped = 3
            feed.snapshots._fetch, feed.snapshots._wanted = breaks, lambda key_id: True
            feed.snapshots.want(0)
            await until(lambda: running.counter("snapshots_given_up") == 1, "the snapshot is given up")
            assert running.counter("unexpected_records") == 1
            assert running.counter("gaps_unwritten") == 3
            assert running.counter("book_events_dropped") == 3

    asyncio.run(scenario())
