"""The market model over real sockets: books by the documented procedure, tapes, determinism, pace, flood."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections import defaultdict
from typing import Any

import aiohttp
import pytest

from tickring.actors.simulator.config import Config
from tickring.actors.simulator.hub import Hub
from tickring.actors.simulator.instruments import make_instruments
from tickring.actors.simulator.market import ASK, BID
from tickring.actors.simulator.market_source import ModelSource
from tickring.actors.simulator.model import MarketModel

from .simulator_client import DocumentedBook, connect, get, run, simulator, until
from .test_simulator_reports import collect as lead

EPOCH_NS = 1_800_000_000_000_000_000


def make_model(seed: int, symbols: int = 5, **options: Any) -> MarketModel:
    return MarketModel(make_instruments(symbols, ["spot", "usdm"], seed), seed=seed, rate=500.0, **options)


def digest(model: MarketModel, steps: int) -> str:
    found = hashlib.sha256()
    for _ in range(steps):
        market = model.step()
        changed = [sorted(side) for side in market.changed]
        found.update(repr((market.instrument.native, market.update_id, market.best(), market.trades, changed)).encode())
    return found.hexdigest()


def test_model_with_same_seed_repeats_its_content() -> None:
    assert digest(make_model(7), 4000) == digest(make_model(7), 4000)


def test_model_with_another_seed_differs() -> None:
    assert digest(make_model(7), 500) != digest(make_model(8), 500)


def test_model_books_are_never_crossed_empty_or_out_of_order() -> None:
    model = make_model(3)
    for _ in range(15_000):
        market = model.step()
        bid, bid_lots, ask_price, ask_lots = market.best()
        assert 0 < bid < ask_price
        assert bid_lots > 0 and ask_lots > 0
    for market in model.markets:
        for side in (BID, ASK):
            assert market.keys[side] == sorted(market.keys[side])
            assert {abs(key) for key in market.keys[side]} == market.book[side].keys()
            assert min(market.book[side].values(), default=1) > 0
            assert len(market.keys[side]) <= 201


def test_model_trades_have_contiguous_ids_and_aggregates_that_cover_them() -> None:
    model = make_model(5, off_book=0.05)
    trades: dict[int, list[Any]] = defaultdict(list)
    aggregates: dict[int, list[Any]] = defaultdict(list)
    for _ in range(8000):
        market = model.step()
        trades[id(market)] += market.trades
        aggregates[id(market)] += market.aggregates
    assert any(trade[5] for rows in trades.values() for trade in rows), "no trade outside the book was printed"
    for key, rows in trades.items():
        assert [row[0] for row in rows] == list(range(rows[0][0], rows[0][0] + len(rows)))
        by_id = {row[0]: row for row in rows}
        inside = [row[0] for row in rows if not row[5]]
        covered = []
        for _, tick, lots, first, last, _, maker in aggregates[key]:
            parts = [by_id[number] for number in range(first, last + 1)]
            assert {(part[1], part[4]) for part in parts} == {(tick, maker)}
            assert sum(part[2] for part in parts) == lots
            covered += [part[0] for part in parts]
        assert covered == inside


def test_model_started_later_continues_above_the_ids_of_an_earlier_one() -> None:
    earlier = make_model(5, epoch_ns=EPOCH_NS)
    for _ in range(5000):  # ten seconds
        earlier.step()
    later = make_model(5, epoch_ns=EPOCH_NS + 11 * 10**9)
    for old, new in zip(earlier.markets, later.markets, strict=True):
        assert old.trade_id < new.trade_id
        assert old.agg_id < new.agg_id
        assert old.update_id < new.update_id


def test_model_lists_thousands_of_symbols_without_filling_their_books() -> None:
    model = make_model(1, symbols=2000)
    assert len(model.markets) == 4000
    assert len({(m.instrument.product, m.instrument.native) for m in model.markets}) == 4000
    for _ in range(50):
        model.step()
    assert sum(bool(market.keys[BID]) for market in model.markets) <= 50


def test_every_symbol_of_a_large_market_trades_whatever_its_tick_is_worth() -> None:
    model = make_model(1, symbols=2000, epoch_ns=EPOCH_NS)
    for market in model.markets:
        for step in range(12):
            market.event(EPOCH_NS + step * 10**9)
            bid, _, ask_price, _ = market.best()
            assert 0 < bid < ask_price
        assert len(market.keys[BID]) >= 10 and len(market.keys[ASK]) >= 10


def test_busy_symbols_come_first_and_quiet_ones_last() -> None:
    model = make_model(1, symbols=20)
    counts: dict[str, int] = defaultdict(int)
    for _ in range(10_000):
        counts[model.step().instrument.base] += 1
    assert counts["BTC"] > 3 * counts["XRP"] > 3 * min(counts.values()) > 0


class Follower:
    """Follows depth, bookTicker and trades of some symbols on one connection."""

    def __init__(self, product: str, symbols: list[str]) -> None:
        self.books = {symbol: DocumentedBook(product) for symbol in symbols}
        self.tickers: dict[tuple[str, int], tuple[str, str, str, str]] = {}
        self.tops: dict[tuple[str, int], tuple[str, str, str, str]] = {}
        self.trades: dict[str, list[dict[str, Any]]] = defaultdict(list)

    async def follow(self, client: Any) -> None:
        async for text in client:
            message = json.loads(text)
            if "stream" not in message:
                continue
            symbol, _, channel = message["stream"].partition("@")
            data = message["data"]
            if channel.startswith("depth"):
                book = self.books[symbol]
                book.event(data)
                if book.bids is not None:
                    self.tops[symbol, data["u"]] = book.top()
            elif channel == "bookTicker":
                self.tickers[symbol, data["u"]] = (data["b"], data["B"], data["a"], data["A"])
            else:
                self.trades[symbol].append(data)


@pytest.mark.parametrize(
    ("product", "base", "path", "depth"),
    [
        ("spot", "spot_ws", "/api/v3/depth", "depth@100ms"),
        ("spot", "spot_ws", "/api/v3/depth", "depth"),
        ("usdm", "usdm_public_ws", "/fapi/v1/depth", "depth@100ms"),
        ("usdm", "usdm_public_ws", "/fapi/v1/depth", "depth@0ms"),
    ],
)
def test_book_rebuilt_by_the_documented_procedure_equals_the_models(
    product: str, base: str, path: str, depth: str
) -> None:
    async def test() -> None:
        async with simulator(seed=11, rate=400.0, speed=8.0, tick_ms=5) as played:
            markets = {m.instrument.native: m for m in played.source.model.markets if m.instrument.product == product}
            symbols = [native.lower() for native in markets]
            names = [f"{symbol}@{channel}" for symbol in symbols for channel in (depth, "bookTicker", "trade")]
            follower = Follower(product, symbols)
            async with connect(f"{played.urls[base]}/stream?streams={'/'.join(names)}") as client:
                following = asyncio.create_task(follower.follow(client))
                for symbol, book in follower.books.items():
                    await until(lambda book=book: book.buffer, f"first event of {symbol}")
                    limit = 5000 if product == "spot" else 1000
                    while True:
                        _, _, body = await get(
                            f"{played.urls['spot_rest']}{path}?symbol={symbol.upper()}&limit={limit}"
                        )
                        if book.snapshot(body):
                            break
                await until(lambda: min(book.applied for book in follower.books.values()) >= 3, "events on top")
                await until(lambda: len(follower.tickers.keys() & follower.tops.keys()) > 10, "shared update ids")
                # The market stops, what is due goes out, and both sides have to agree on every level.
                await played.freeze()
                for symbol, book in follower.books.items():
                    await until(
                        lambda book=book, symbol=symbol: (
                            following.done() or book.local_id == markets[symbol.upper()].update_id
                        ),
                        f"last event of {symbol}",
                    )
                if following.done():
                    following.result()
                for symbol, book in follower.books.items():
                    market = markets[symbol.upper()]
                    price, quantity = market.instrument.price_text, market.instrument.quantity_text
                    expected = tuple([(price(t), quantity(q)) for t, q in market.ladder(s, 10_000)] for s in (BID, ASK))
                    assert book.levels() == expected
                shared = follower.tickers.keys() & follower.tops.keys()
                assert {key: follower.tickers[key] for key in shared} == {key: follower.tops[key] for key in shared}
                for trades in follower.trades.values():
                    ids = [trade["t"] for trade in trades]
                    assert ids == list(range(ids[0], ids[0] + len(ids)))
                following.cancel()

    run(test)


def test_partial_depth_carries_the_best_levels() -> None:
    async def test() -> None:
        async with (
            simulator(speed=10.0) as played,
            connect(played.urls["spot_ws"] + "/ws/btcusdt@depth5@100ms") as spot,
            connect(played.urls["usdm_public_ws"] + "/ws/btcusdt@depth10@100ms") as usdm,
        ):
            body = json.loads(await spot.recv())
            assert set(body) == {"lastUpdateId", "bids", "asks"}
            assert len(body["bids"]) == len(body["asks"]) == 5
            event = json.loads(await usdm.recv())
            assert event["e"] == "depthUpdate" and len(event["b"]) == len(event["a"]) == 10
            assert float(event["b"][0][0]) < float(event["a"][0][0])

    run(test)


def test_fields_of_each_message_are_those_of_late_2026() -> None:
    expected = {
        "spot:btcusdt@trade": "e E s t p q T m M",
        "spot:btcusdt@aggTrade": "e E s a p q f l T m M",
        "spot:btcusdt@bookTicker": "u s b B a A",
        "spot:btcusdt@depth@100ms": "e E s U u b a",
        "usdm:btcusdt@trade": "e E T s t p q X m st",
        "usdm:btcusdt@aggTrade": "e E s a p q nq f l T m st",
        "usdm:btcusdt@bookTicker": "e u s ps b B a A T E st",
        "usdm:btcusdt@depth@100ms": "e E T s ps U u pu b a st",
    }

    async def test() -> None:
        async with simulator(speed=10.0) as played:
            for name, fields in expected.items():
                product, _, stream = name.partition(":")
                tier = "spot_ws" if product == "spot" else f"usdm_{'market' if 'agg' in stream else 'public'}_ws"
                async with connect(f"{played.urls[tier]}/ws/{stream}") as client:
                    message = json.loads(await client.recv())
                    assert list(message) == fields.split(), name
                    assert "T" not in message or isinstance(message["T"], int)

    run(test)


def test_live_content_is_the_same_for_the_same_seed() -> None:
    names = [f"{s}@{c}" for s in ("btcusdt", "ethusdt") for c in ("trade", "aggTrade", "bookTicker", "depth@100ms")]

    async def collect() -> dict[str, list[bytes]]:
        settings = {"seed": 21, "epoch_ns": EPOCH_NS, "start": "command", "rate": 300.0}
        async with simulator(ledger_frames_max=100_000, **settings) as played:
            url = f"{played.urls['spot_ws']}/stream?streams={'/'.join(names)}"
            await lead(played, [url], EPOCH_NS // 1_000_000 + 10_000)
            streams = played.hubs["spot"].streams
            return {name: list(streams[name].sent or ())[:60] for name in names}

    async def test() -> None:
        content = await collect()
        assert all(len(sent) == 60 for sent in content.values())
        assert content == await collect()

    run(test)


def test_model_that_could_not_run_stands_still_instead_of_bursting() -> None:
    hubs = {p: Hub(p, Config().limits(p), 0) for p in ("spot", "usdm")}
    source = ModelSource(Config(symbols=3, epoch_ns=EPOCH_NS), hubs)
    source.advance(EPOCH_NS + 10**9)
    events = source.events
    source._pause(30 * 10**9)
    source.advance(EPOCH_NS + 31 * 10**9)
    assert source.events == events
    source.advance(EPOCH_NS + 32 * 10**9)
    assert events < source.events < events + 1000


def test_paced_source_sends_every_message_with_its_send_time() -> None:
    async def test() -> None:
        async with simulator(source="paced", rate=2000.0, messages=600, start_settle_s=0.05) as played:
            names = ["btcusdt@trade", "ethusdt@trade", "btcusdt@depth@100ms"]
            url = f"{played.urls['spot_ws']}/stream?timeUnit=MICROSECOND&streams={'/'.join(names)}"
            async with connect(url) as client:
                messages = [json.loads(await client.recv()) for _ in range(600)]
            assert played.source.finished
            for name in names[:2]:
                data = [message["data"] for message in messages if message["stream"] == name]
                stamps = played.source.stamps[played.hubs["spot"].streams[name]]
                pairs = list(zip(stamps[::2], stamps[1::2], strict=True))
                assert [(row["t"], row["T"]) for row in data] == [(ident, ns // 1000) for ident, ns in pairs]
                assert [row["E"] for row in data] == [row["T"] for row in data]
                assert len(data) == 200

    run(test)


def test_paced_stamps_are_served_as_pairs_of_id_and_nanoseconds() -> None:
    async def test() -> None:
        async with (
            simulator(source="paced", rate=1000.0, messages=10, start_settle_s=0.02) as played,
            connect(f"{played.urls['usdm_market_ws']}/ws/btcusdt@aggTrade") as client,
        ):
            rows = [json.loads(await client.recv()) for _ in range(10)]
            url = f"{played.urls['control']}/stamps?product=usdm&stream=btcusdt@aggTrade"
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                body = await response.read()
            pairs = list(struct.iter_unpack("<qq", body))
            assert [(row["a"], row["T"]) for row in rows] == [(ident, ns // 1_000_000) for ident, ns in pairs]

    run(test)


def test_flood_to_a_slow_reader_loses_nothing_and_keeps_little_in_memory() -> None:
    async def test() -> None:
        settings = {"source": "flood", "flood_distinct": 20_000, "messages": 70_000, "start_settle_s": 0.05}
        async with simulator(**settings) as played:
            names = ["btcusdt@trade", "ethusdt@aggTrade", "btcusdt@bookTicker"]
            key_of = dict(zip(names, "tau", strict=True))
            url = f"{played.urls['spot_ws']}/stream?streams={'/'.join(names)}"
            async with connect(url) as client:
                connection = played.connections()[0]
                client.transport.pause_reading()
                await until(lambda: connection.paused, "a full socket")
                backlog = connection.backlog
                await asyncio.sleep(0.05)
                assert connection.backlog == backlog <= 1 << 18
                client.transport.resume_reading()
                ids: dict[str, list[int]] = defaultdict(list)
                for _ in range(70_000):
                    message = json.loads(await client.recv())
                    ids[message["stream"]].append(message["data"][key_of[message["stream"]]])
            for name in names[:2]:
                assert ids[name] == list(range(ids[name][0], ids[name][0] + len(ids[name]))), name
            assert ids[names[2]] == sorted(set(ids[names[2]]))
            assert sum(map(len, ids.values())) == 70_000
            assert played.source.finished

    run(test)


@pytest.mark.parametrize(
    ("product", "base", "path"),
    [("spot", "spot_ws", "/api/v3/depth"), ("usdm", "usdm_public_ws", "/fapi/v1/depth")],
)
def test_flood_depth_fits_the_snapshot_taken_before_it(product: str, base: str, path: str) -> None:
    async def test() -> None:
        async with simulator(source="flood", flood_distinct=3000, messages=3000, start_settle_s=0.05) as played:
            book = DocumentedBook(product)
            async with connect(f"{played.urls[base]}/ws/btcusdt@depth@100ms/btcusdt@trade") as client:
                events = [json.loads(await client.recv()) for _ in range(3000)]
            for event in events:
                if event["e"] == "depthUpdate":
                    book.event(event)
            _, _, body = await get(f"{played.urls['spot_rest']}{path}?symbol=BTCUSDT&limit=1000")
            assert book.buffer[0]["U"] <= body["lastUpdateId"] <= book.buffer[0]["u"]
            assert book.snapshot(body)
            assert book.applied == 1500

    run(test)
