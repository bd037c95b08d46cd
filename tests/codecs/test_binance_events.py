"""Bars, tickers, mark prices and liquidations: composed frames, one fact at a time, and every recorded one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tickring.codecs.captures import read_session
from tickring.codecs.record import Flag
from tickring.codecs.records import BY_NAME
from tickring.codecs.replay import Replay
from tickring.codecs.sink import Reason

from .binance_frames import RECV_NS, TIME_MS, Bench, compact, frame
from .list_sink import OtherRow

EVENT_NS = (TIME_MS + 1) * 1_000_000
MINUTE = TIME_MS - TIME_MS % 60_000
HOUR_MS = 3_600_000
PAID = TIME_MS - TIME_MS % (8 * HOUR_MS) + 8 * HOUR_MS


def kline(interval: str = "1m", *, closed: bool = False, event_ms: int = TIME_MS + 1, **changes: Any) -> dict[str, Any]:
    bar = {
        "t": MINUTE, "T": MINUTE + 59_999, "s": "ABCUSDT", "i": interval, "f": 100, "L": 130, "o": "100.50",
        "c": "100.75", "h": "101.00", "l": "99.90", "v": "12.500", "n": 31, "x": closed, "q": "1255.12345", "V": "4.5",
        "Q": "452.1", "B": "0", **changes,
    }  # fmt: skip
    return {"e": "kline", "E": event_ms, "s": "ABCUSDT", "k": bar}


def ticker(number: int = 5, **changes: Any) -> dict[str, Any]:
    return {
        "e": "24hrTicker", "E": TIME_MS + 1, "s": "ABCUSDT", "p": "-1.50", "P": "-1.478", "w": "100.9", "c": "100.00",
        "Q": "0.5", "o": "101.50", "h": "103.00", "l": "99.00", "v": "1000.5", "q": "100500.25",
        "O": TIME_MS - 86_400_000, "C": TIME_MS, "F": 1, "L": 900, "n": number, **changes,
    }  # fmt: skip


def mark(event_ms: int = TIME_MS + 1, rate: str = "0.00010000", coming: int = PAID, **changes: Any) -> dict[str, Any]:
    return {
        "e": "markPriceUpdate", "E": event_ms, "s": "ABCUSDT", "p": "100.12345678", "ap": "100.1", "P": "100.2",
        "i": "100.05", "r": rate, "T": coming, "st": 1, **changes,
    }  # fmt: skip


def force(number: int = 5, **changes: Any) -> dict[str, Any]:
    order = {
        "s": "ABCUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "3.000", "p": "99.50", "ap": "99.80", "X": "FILLED",
        "l": "1.000", "z": "3.000", "T": TIME_MS, **changes,
    }  # fmt: skip
    return {"e": "forceOrder", "E": TIME_MS + number, "o": order}


EVENTS = {
    "kline_1m": ("spot", lambda n: kline(n=n)),
    "kline_4h": ("usdm", lambda n: kline("4h", closed=n % 2 == 0, n=n)),
    "ticker": ("spot", lambda n: ticker(n, b="99.90", B="1", a="100.10", A="2")),
    "markPrice@1s": ("usdm", lambda n: mark(rate=f"-0.000{n}")),
    "forceOrder": ("usdm", force),
}


@pytest.mark.parametrize("channel", EVENTS)
def test_known_shape_gives_what_the_exact_reading_gives(channel: str) -> None:
    product, make = EVENTS[channel]
    fast, exact = Bench(product), Bench(product)
    for number in (5, 17, 5000, 6):
        data = make(number)
        spaced = compact({"stream": f"abcusdt@{channel}", "data": data}).replace(b'":', b'" :')
        rows = fast.feed(frame(f"abcusdt@{channel}", data))
        assert rows == exact.feed(spaced) == Bench(product).feed(compact(data)) or channel == "markPrice@1s"
        assert rows
    assert len(fast.decoder._bare_shapes) <= 2
    assert not fast.notes.rejects and not exact.notes.rejects


def test_bar_is_a_record_with_its_interval_and_says_whether_it_is_closed() -> None:
    bench = Bench()
    values = ("1m", MINUTE, MINUTE + 59_999, 100.5, 101.0, 99.9, 100.75, 12.5, 1255.12345, 31, 4.5, 452.1)
    rows = bench.feed(frame("abcusdt@kline_1m", kline()), frame("abcusdt@kline_1m", kline(closed=True)))
    assert rows == [
        OtherRow("kline", 0, RECV_NS, EVENT_NS, 0, values),
        OtherRow("kline", 0, RECV_NS, EVENT_NS, int(Flag.CLOSED), values),
    ]


def test_interval_is_read_although_it_is_no_part_of_the_shape() -> None:
    bench = Bench()
    rows = bench.feed(*(frame(f"abcusdt@kline_{i}", kline(i)) for i in ("1m", "5m", "15m", "1m", "3m")))
    assert [row.values[0] for row in rows] == ["1m", "5m", "15m", "1m", "3m"]
    assert len(bench.decoder._bare_shapes) == 4


BAD_BARS = [
    ({"i": "5m"}, Reason.INCONSISTENT), ({"i": "7m"}, Reason.INCONSISTENT), ({"s": "ABDUSDT"}, Reason.INCONSISTENT),
    ({"h": "99.00"}, Reason.INCONSISTENT), ({"l": "100.60"}, Reason.INCONSISTENT), ({"T": MINUTE}, Reason.INCONSISTENT),
    ({"o": "0100.5"}, Reason.BAD_NUMBER), ({"o": "nan"}, Reason.BAD_NUMBER), ({"v": "-1"}, Reason.BAD_NUMBER),
    ({"v": 1.5}, Reason.WRONG_TYPE), ({"n": -1}, Reason.BAD_NUMBER), ({"n": 2**63}, Reason.BAD_NUMBER),
    ({"t": 0}, Reason.BAD_NUMBER), ({"x": 1}, Reason.WRONG_TYPE), ({"t": 2**62}, Reason.BAD_NUMBER),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), BAD_BARS, ids=lambda value: str(value))
def test_bad_bar_is_refused_whether_its_shape_is_known_or_not(changes: dict[str, Any], reason: Reason) -> None:
    bench = Bench()
    bad = frame("abcusdt@kline_1m", kline(**changes))
    assert bench.feed(bad) == []
    assert len(bench.feed(frame("abcusdt@kline_1m", kline()))) == 1
    assert bench.feed(bad) == []
    assert bench.reasons() == [reason, reason]


def test_bars_of_days_that_begin_elsewhere_are_no_records_of_ours() -> None:
    bench = Bench()
    assert bench.feed(frame("abcusdt@kline_1d@+08:00", kline("1d"))) == []
    assert bench.decoder.other_events == 1 and not bench.notes.rejects


def test_symbols_that_differ_in_digits_share_a_shape_and_keep_their_records() -> None:
    bench = Bench("spot", ("1000ABCUSDT", "2000ABCUSDT"))
    rows = []
    for native in ("1000ABCUSDT", "2000ABCUSDT", "1000ABCUSDT"):
        rows += bench.feed(frame(f"{native.lower()}@kline_1m", {**kline(s=native), "s": native}))
        rows += bench.feed(frame(f"{native.lower()}@ticker", ticker(s=native)))
    assert [row.key_id for row in rows] == [0, 0, 1, 1, 0, 0]
    assert bench.feed(frame("1000abcusdt@kline_1m", {**kline(s="2000ABCUSDT"), "s": "1000ABCUSDT"})) == []
    assert bench.reasons() == [Reason.INCONSISTENT]


def test_ticker_of_futures_has_no_best_prices() -> None:
    [row] = Bench("usdm").feed(frame("abcusdt@ticker", ticker()))
    assert row.values == (100.0, 101.5, 103.0, 99.0, 1000.5, 100500.25, -1.478, 0.0, 0.0, 5)
    [row] = Bench().feed(frame("abcusdt@ticker", ticker(b="99.90", a="100.10")))
    assert row.values[7:9] == (99.9, 100.1)


def test_mark_price_is_a_record_and_funding_one_when_it_changes() -> None:
    bench = Bench("usdm")
    rows = bench.feed(
        frame("abcusdt@markPrice@1s", mark()),
        frame("abcusdt@markPrice@1s", mark(TIME_MS + 1001)),
        frame("abcusdt@markPrice@1s", mark(TIME_MS + 2001, rate="-0.00020000")),
    )
    assert [row.record for row in rows] == ["mark_price", "funding", "mark_price", "mark_price", "funding"]
    assert rows[0].values == (100.12345678, 100.05, 100.2)
    assert rows[1].values == (0.0001, 0.0, PAID, 0, 100.12345678, 100.05)
    assert rows[4].values[0] == -0.0002


def test_funding_that_was_paid_while_we_listened_is_a_record() -> None:
    bench = Bench("usdm")
    later = PAID + 8 * HOUR_MS
    rows = bench.feed(
        frame("abcusdt@markPrice", mark(PAID - 3000)),
        frame("abcusdt@markPrice", mark(PAID + 1, rate="0.00030000", coming=later)),
    )
    paid, new = [row for row in rows if row.record == "funding"][1:]
    assert paid.flags == Flag.SETTLED and paid.ts_event_ns == PAID * 1_000_000
    assert paid.values[:4] == (0.0001, 0.0, later, 8)
    assert new.flags == 0 and new.values[:4] == (0.0003, 0.0, later, 8)


def test_funding_whose_last_rate_was_not_heard_is_no_record() -> None:
    bench = Bench("usdm")
    rows = bench.feed(
        frame("abcusdt@markPrice", mark(PAID - 60_000)),
        frame("abcusdt@markPrice", mark(PAID + 1, coming=PAID + 8 * HOUR_MS)),
    )
    assert not any(row.flags & Flag.SETTLED for row in rows)


def test_dated_future_has_a_mark_price_and_no_funding() -> None:
    rows = Bench("usdm").feed(*(frame("abcusdt@markPrice", mark(TIME_MS + i, rate="", coming=0)) for i in range(1, 4)))
    assert [row.record for row in rows] == ["mark_price"] * 3


def test_event_of_the_other_product_is_left_out_also_by_a_known_shape() -> None:
    bench = Bench("usdm")
    assert len(bench.feed(frame("abcusdt@markPrice", mark()))) == 2
    assert bench.feed(frame("abcusdt@markPrice", mark(TIME_MS + 1001, st=2))) == []
    assert bench.decoder.other_product == 1 and not bench.notes.rejects


def test_array_of_all_markets_gives_a_record_for_each_of_ours() -> None:
    bench = Bench("usdm", ("ABCUSDT", "XYZUSDT"))
    rows = bench.feed(compact({"stream": "!markPrice@arr@1s", "data": [mark(), mark(s="XYZUSDT"), mark(st=2)]}))
    assert [row.key_id for row in rows if row.record == "mark_price"] == [0, 1]
    assert bench.decoder.other_product == 1


def test_liquidation_is_a_record() -> None:
    [row] = Bench("usdm").feed(frame("abcusdt@forceOrder", force()))
    assert row == OtherRow(
        "liquidation", 0, RECV_NS, TIME_MS * 1_000_000, int(Flag.SELL), (0, 99.5, 3.0, 3.0, 99.8, 299.4, 0)
    )
    members = BY_NAME["liquidation"].members(row.values, row.flags, {"price_precision": 2, "quantity_precision": 3})
    assert members == {
        "price": "99.50", "quantity": "3.000", "filled_quantity": "3.000", "average_price": "99.80",
        "notional": "299.400", "status": "filled", "side": "sell",
    }  # fmt: skip


@pytest.mark.parametrize(("word", "status"), [("FILLED", 0), ("PARTIALLY_FILLED", 1), ("EXPIRED", 2), ("NEW", 3)])
def test_liquidation_status_of_each_word(word: str, status: int) -> None:
    [row] = Bench("usdm").feed(frame("abcusdt@forceOrder", force(X=word, S="BUY", ap="0", z="0")))
    assert row.values[-1] == status and row.flags == 0
    assert row.values[5] == 298.5, "nothing is filled: notional of the order"


@pytest.mark.parametrize("channel", EVENTS)
def test_second_socket_brings_nothing_twice(channel: str) -> None:
    product, make = EVENTS[channel]
    bench = Bench(product)
    one = frame(f"abcusdt@{channel}", make(6))
    bench.decoder.overlapping = True
    assert bench.feed(one)
    assert bench.feed(one) == []
    bench.decoder.overlapping = False
    assert bench.feed(one), "on a single socket the exchange's word counts"


SESSIONS = [
    ("binance-spot", "cryptofeed_20210404_*"), ("binance-spot", "cryptofeed_20210417_*"),
    ("binance-usdm", "cryptofeed_*"), ("binance-usdm", "fastmm_*"),
]  # fmt: skip
RECORDS = {"kline": "kline", "24hrTicker": "ticker", "markPriceUpdate": "mark_price", "forceOrder": "liquidation"}


@pytest.mark.parametrize(("folder", "pattern"), SESSIONS)
def test_every_recorded_event_is_a_record_with_its_values(captures: Path, folder: str, pattern: str) -> None:
    paths = sorted((captures / folder).glob(pattern))
    refused: list[Any] = []
    replay = Replay(on_reject=lambda reason, frame: refused.append((reason, frame)))
    found = [row for row in replay.records(paths) if row["record"] in RECORDS.values()]
    sent = [x for x in wire_events(paths) if x.get("e") in RECORDS]
    assert not refused
    assert Counter(row["record"] for row in found) == Counter(RECORDS[x["e"]] for x in sent)
    assert sent
    for row, x in zip(found, sent, strict=True):
        assert row["record"] == RECORDS[x["e"]]
        check(row, x)


def wire_events(paths: list[Path]) -> list[dict[str, Any]]:
    documents = [json.loads(e.payload) for _, e in read_session(paths) if e.kind == "ws" and b'"stream"' in e.payload]
    events: list[dict[str, Any]] = []
    for document in documents:
        data = document["data"]
        events += data if isinstance(data, list) else [data]
    return events


def check(row: dict[str, Any], x: dict[str, Any]) -> None:
    match x["e"]:
        case "kline":
            bar = x["k"]
            assert (row["interval"], row["open_ts"], row["close_ts"]) == (bar["i"], bar["t"], bar["T"])
            assert row["closed"] is bar["x"] and row["trade_count"] == bar["n"] and row["source"] == "stream"
            names = {"open": "o", "high": "h", "low": "l", "close": "c", "volume": "v", "quote_volume": "q"}
            names |= {"taker_buy_volume": "V", "taker_buy_quote_volume": "Q"}
            assert {name: float(row[name]) for name in names} == {n: float(bar[key]) for n, key in names.items()}
        case "24hrTicker":
            names = {"last": "c", "open_24h": "o", "high_24h": "h", "low_24h": "l", "volume_24h": "v"}
            names |= {"quote_volume_24h": "q", "change_pct": "P"}
            assert {name: float(row[name]) for name in names} == {n: float(x[key]) for n, key in names.items()}
        case "markPriceUpdate":
            assert float(row["mark_price"]) == float(x["p"]) and float(row.get("index_price", 0)) == float(
                x.get("i", 0)
            )
        case _:
            order = x["o"]
            assert (float(row["price"]), float(row["quantity"])) == (float(order["p"]), float(order["q"]))
            assert row["side"] == order["S"].lower()
