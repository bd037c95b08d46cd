"""Real sessions through the decoder: nothing missing, nothing refused, books that agree with the exchange's quotes."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tickring.codecs.captures import CaptureWriter, read_capture, read_session
from tickring.codecs.replay import Replay, replay_books, replay_lines

SESSIONS = {
    "spot-2024": ("binance-spot", "hftbacktest_*"),
    "spot-2021-04-04": ("binance-spot", "cryptofeed_20210404_*"),
    "spot-2021-04-17": ("binance-spot", "cryptofeed_20210417_*"),
    "usdm-2024": ("binance-usdm", "hftbacktest_*"),
    "usdm-2021": ("binance-usdm", "cryptofeed_*"),
    "coinm-2024": ("binance-coinm", "hftbacktest_*_20240808.gz"),
    "coinm-2021": ("binance-coinm", "cryptofeed_*"),
    "us-2021": ("binance-us", "cryptofeed_*"),
}
# Quotes that disagree with the book at the same update id, in the recording itself.
DISAGREE = {"coinm-2021": 5}


def files(captures: Path, session: str) -> list[Path]:
    folder, pattern = SESSIONS[session]
    return sorted((captures / folder).glob(pattern))


def wire_events(paths: list[Path]) -> list[dict[str, Any]]:
    """The data of every frame, read by plain json."""
    return [
        json.loads(entry.payload)["data"]
        for _, entry in read_session(paths)
        if entry.kind == "ws" and entry.payload.startswith(b'{"stream"')
    ]


@pytest.mark.parametrize("session", SESSIONS)
def test_capture_replays_whole_and_its_books_equal_the_quotes(captures: Path, session: str) -> None:
    """No frame refused, no gap, every trade and quote with the wire's values, every shared update id the same touch."""
    paths = files(captures, session)
    sent = wire_events(paths)
    wire_trades = iter([x for x in sent if x.get("e") in ("trade", "aggTrade")])
    wire_quotes = [x for x in sent if {"b", "B", "a", "A"} <= x.keys() and x.get("e", "bookTicker") == "bookTicker"]
    touch = {(x["s"], x["u"]): tuple(float(x[side]) for side in "bBaA") for x in wire_quotes}
    quotes = iter(wire_quotes)
    refused: list[Any] = []
    replay = Replay(on_reject=lambda reason, frame: refused.append((reason, frame)))
    compared = disagree = updates = 0
    for row in replay.records(paths):
        match row["record"]:
            case "trade":
                check_trade(row, next(wire_trades))
            case "quote":
                x = next(quotes)
                assert row["native"] == x["s"]
                assert [float(row[name]) for name in ("bid", "bid_qty", "ask", "ask_qty")] == [
                    float(x[side]) for side in "bBaA"
                ]
            case "orderbook" if row["update_type"] == "update":
                updates += 1
                [market] = replay.markets.values()
                book = next(route.sync.book for route in market.decoder.routes() if route.native == row["native"])
                seen = touch.get((row["native"], row["last_update_id"]))
                if seen and book.update_id == row["last_update_id"]:
                    compared += 1
                    disagree += seen != book.best()
    [market] = replay.markets.values()
    assert not refused
    assert not market.gaps
    assert not market.rejected_bodies
    assert next(wire_trades, None) is None and next(quotes, None) is None, "a trade or quote gave no record"
    for shown in replay.books():
        assert shown["state"] == "synced" and shown["gaps"] == 0 and shown["bids"] and shown["asks"]
    assert updates
    assert disagree == DISAGREE.get(session, 0), f"of {compared}"
    assert compared or session == "spot-2021-04-04", "no update id was shared"


def check_trade(row: dict[str, Any], x: dict[str, Any]) -> None:
    assert row["native"] == x["s"]
    assert row["trade_id"] == str(x.get("t", x.get("a")))
    assert float(row["price"]) == float(x["p"]) and float(row["quantity"]) == float(x["q"])
    assert row["is_buyer_maker"] is x["m"] and row["side"] == ("sell" if x["m"] else "buy")
    assert row["ts_event_ns"] == x["T"] * 1_000_000
    if x["e"] == "aggTrade":
        assert (row["agg_trade_id"], row["first_trade_id"], row["last_trade_id"]) == (
            str(x["a"]), str(x["f"]), str(x["l"]),
        )  # fmt: skip


def test_line_has_the_common_members_first_and_decimals_as_strings(captures: Path) -> None:
    seen: dict[str, dict[str, Any]] = {}
    for row in replay_lines(files(captures, "usdm-2024")[:1]):
        seen.setdefault(row["record"] + row.get("update_type", ""), row)
        if len(seen) == 4:
            break
    common = ["record", "exchange", "market_type", "instrument", "native", "ts_event_ns", "ts_recv_ns"]
    for row in seen.values():
        assert list(row)[:7] == common
        assert (row["exchange"], row["market_type"], row["instrument"], row["native"]) == (
            "binance", "perpetual", "BTC-USDT-PERP", "BTCUSDT",
        )  # fmt: skip
        assert json.loads(json.dumps(row)) == row
    assert re.fullmatch(r"\d+\.\d\d", seen["trade"]["price"])
    update = seen["orderbookupdate"]
    assert list(update)[7:] == [
        "update_type", "last_update_id", "first_update_id", "prev_update_id", "bids", "asks",
    ]  # fmt: skip
    assert all(isinstance(text, str) for level in update["bids"] + update["asks"] for text in level)


def test_instrument_list_of_a_session_sets_the_precision(captures: Path) -> None:
    books = {book["native"]: book for book in replay_books(files(captures, "spot-2021-04-17"))}
    assert re.fullmatch(r"\d+\.\d{2}", books["BUSDTRY"]["bids"][0][0])
    assert books["BUSDTRY"]["instrument"] == "BUSD-TRY"
    assert re.fullmatch(r"0\.\d{8}", books["VETETH"]["bids"][0][0])


def test_coinm_counts_contracts(captures: Path) -> None:
    row = next(row for row in replay_lines(files(captures, "coinm-2021")) if row["record"] == "trade")
    assert row["native_quantity"] == row["quantity"] and "." not in row["quantity"]


def test_session_in_our_own_format_replays_to_the_same_records(captures: Path, tmp_path: Path) -> None:
    paths = files(captures, "usdm-2021")
    path = tmp_path / "session.gz"
    with CaptureWriter(path, "binance", "usdm", 0) as writer:
        for _, entry in read_session(paths):
            writer.write(entry)
    assert list(replay_lines([path])) == list(replay_lines(paths))


def test_cut_lines_give_a_gap_in_that_symbol_only(captures: Path, tmp_path: Path) -> None:
    """Ten lines of one symbol cut out: its trades and its book say so, the other symbols are untouched."""
    [source] = files(captures, "spot-2021-04-04")
    lines = gzip.decompress(source.read_bytes()).splitlines(keepends=True)
    cut = [n for n, line in enumerate(lines) if b'"stream":"btcusdt@depth' in line][100:110]
    cut += [n for n, line in enumerate(lines) if b'"stream":"ethusdt@aggTrade' in line][50:53]
    path = tmp_path / "binance-spot" / "session"
    path.parent.mkdir()
    path.write_bytes(b"".join(line for n, line in enumerate(lines) if n not in set(cut)))
    whole, damaged = Replay(), Replay()
    rows, rows_cut = list(whole.records([source])), list(damaged.records([path]))
    [market] = damaged.markets.values()
    assert {(native, kind) for native, kind, _, _ in market.gaps} == {("ETHUSDT", "aggregate"), ("BTCUSDT", "depth")}
    assert len(market.gaps) == 2
    missing = next(last - first + 1 for _, kind, first, last in market.gaps if kind == "aggregate")
    assert missing == 3
    states = {book["native"]: (book["state"], book["gaps"]) for book in damaged.books()}
    assert states == {"BTCUSDT": ("resyncing", 1), "ETHUSDT": ("synced", 0), "DOTUSDT": ("synced", 0)}

    def of(rows: list[dict[str, Any]], native: str, record: str) -> list[dict[str, Any]]:
        return [row for row in rows if row["native"] == native and row["record"] == record]

    assert of(rows, "DOTUSDT", "orderbook") == of(rows_cut, "DOTUSDT", "orderbook")
    assert of(rows, "ETHUSDT", "orderbook") == of(rows_cut, "ETHUSDT", "orderbook")
    assert of(rows, "BTCUSDT", "trade") == of(rows_cut, "BTCUSDT", "trade")
    assert len(of(rows, "ETHUSDT", "trade")) - len(of(rows_cut, "ETHUSDT", "trade")) == 3


def test_damaged_symbol_makes_no_new_instrument(captures: Path, tmp_path: Path) -> None:
    lines = gzip.decompress(files(captures, "usdm-2024")[0].read_bytes()).splitlines(keepends=True)[:2000]
    path = tmp_path / "binance-usdm" / "hftbacktest_btcusdt_20240808"
    path.parent.mkdir()
    path.write_bytes(b"".join(lines[:1000]) + b"".join(line.replace(b'"s":"BTC', b'"s":"BTD') for line in lines[1000:]))
    replay = Replay()
    assert {row["native"] for row in replay.records([path])} == {"BTCUSDT"}
    assert sum(1 for _ in replay.books()) == 1


def test_readers_agree_on_recorded_singles(captures: Path) -> None:
    path = captures / "binance-mixed" / "crypto-msg-parser_examples.jsonl"
    rows = list(replay_lines([path]))
    assert Counter(row["record"] for row in rows) == {
        "trade": 5, "quote": 5, "orderbook": 3, "kline": 5, "ticker": 10, "mark_price": 6, "funding": 6,
    }  # fmt: skip
    assert {row["market_type"] for row in rows} == {"spot", "perpetual", "future"}
    assert sum(1 for _ in read_capture(path)) == 51
