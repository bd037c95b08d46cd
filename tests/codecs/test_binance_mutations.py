"""Damaged frames: each is refused with a reason or is still exact, and harms nothing but itself."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tickring.codecs.binance.decoder import BinanceDecoder
from tickring.codecs.binance.rest import instrument_of_native, parse_depth
from tickring.codecs.binance.sync import DepthSnapshot
from tickring.codecs.book import OrderBook
from tickring.codecs.captures import EntryKind, read_session

from .binance_frames import Notes

SHARE_DAMAGED = 0.8  # over all sessions: more than 100,000 frames
CASES_MIN = {"hftbacktest": 52_000, "cryptofeed": 2_000}
SESSIONS = [
    # (folder, files, product, entries taken)
    ("binance-spot", "hftbacktest_btcusdt_2024080?.gz", "spot", 66_000),
    ("binance-usdm", "hftbacktest_btcusdt_20240808.gz", "usdm", 66_000),
    ("binance-spot", "cryptofeed_20210404_*.gz", "spot", 4_700),
    ("binance-usdm", "cryptofeed_20210417_*.gz", "usdm", 3_200),
]

DECIMAL = re.compile(r"(0|[1-9][0-9]*)(\.[0-9]+)?")


# -- what plain json and a small schema make of a frame -----------------------------------------------------------


def refuse_constant(name: str) -> None:
    raise ValueError(name)


def acceptable(frame: bytes, product: str, symbols: set[str]) -> bool:
    """Whether plain `json` and the documented fields let a frame pass. Independent of the decoder's own reading."""
    try:
        document = json.loads(frame.decode("utf-8"), parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        return False
    if not isinstance(document, dict):
        return False
    data = document
    if "stream" in document:
        if not isinstance(document["stream"], str):
            return False
        data = document.get("data")
    return isinstance(data, dict) and valid_event(data, product, symbols)


def valid_event(x: dict[str, Any], product: str, symbols: set[str]) -> bool:
    if x.get("e") == "forceOrder":
        order = x.get("o")
        return integers(x, "E") and isinstance(order, dict) and order.get("s") in symbols and valid_order(order)
    if x.get("s") not in symbols if isinstance(x.get("s"), str) else True:
        return False
    futures = product == "usdm"
    if "e" not in x:
        return not futures and integers(x, "u") and decimals(x, "bBaA")
    match x["e"]:
        case "trade":
            return integers(x, "EtT") and decimals(x, "pq") and positive(x["p"]) and type(x.get("m")) is bool
        case "aggTrade":
            return integers(x, "EaflT") and decimals(x, "pq") and positive(x["p"]) and type(x.get("m")) is bool
        case "bookTicker":
            return futures and integers(x, "uET") and decimals(x, "bBaA")
        case "depthUpdate":
            ids = integers(x, "EUu") and (not futures or (integers(x, "T") and type(x.get("pu")) is int))
            return ids and all(valid_levels(x.get(side)) for side in "ba")
        case "kline":
            bar = x.get("k")
            return integers(x, "E") and isinstance(bar, dict) and bar.get("s") == x["s"] and valid_bar(bar)
        case "24hrTicker":
            return integers(x, "En") and decimals(x, "cohlvq") and signed(x.get("P"))
        case "markPriceUpdate":
            return integers(x, "ET") and decimals(x, "p") and (x.get("r") == "" or signed(x.get("r")))
    return False


def valid_bar(bar: dict[str, Any]) -> bool:
    if not (integers(bar, "tTn") and decimals(bar, "ochlvqVQ") and type(bar.get("x")) is bool):
        return False
    opened, high, low, close = (float(bar[name]) for name in "ohlc")
    return bar.get("i") == "1m" and low <= min(opened, close) and max(opened, close) <= high


def valid_order(order: dict[str, Any]) -> bool:
    return integers(order, "T") and decimals(order, ["q", "p", "ap", "z"]) and order.get("S") in ("BUY", "SELL")


def signed(text: Any) -> bool:
    return type(text) is str and DECIMAL.fullmatch(text.removeprefix("-")) is not None


def integers(x: dict[str, Any], names: str) -> bool:
    return all(type(x.get(name)) is int and 0 <= x[name] < 2**63 for name in names)


def decimals(x: dict[str, Any], names: Iterable[str]) -> bool:
    return all(type(x.get(name)) is str and DECIMAL.fullmatch(x[name]) is not None for name in names)


def positive(text: str) -> bool:
    return 0 < float(text) < math.inf


def valid_levels(rows: Any) -> bool:
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and decimals({"p": row[0], "q": row[1]}, "pq") and positive(row[0])
        for row in rows
    )


# -- damage --------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 1.5, 1e5, 2**63, 10**30, "", "x", "nan", "inf", "-inf", "1e5", "1_0", " 1", "1 ", "+1",
    "-1", "0", "0x10", "01", ".5", "5.", "1,5", "１", "NaN", "1" * 400, "0." + "0" * 400 + "1", [], {}, [1], ["1", "2"],
    [["1", "2"]], [["1", "2", "3"]], [["1"]], [["nan", "1"]], [["1", "-1"]], [["0", "1"]], [[1, 2]], "BTCUSDT", "trade",
]  # fmt: skip


def damage(frame: bytes, rng: random.Random) -> bytes:
    return rng.choice(DAMAGES)(frame, rng)


def flip_bytes(frame: bytes, rng: random.Random) -> bytes:
    out = bytearray(frame)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def swap_text(frame: bytes, rng: random.Random) -> bytes:
    out = bytearray(frame)
    out[rng.randrange(len(out))] = rng.choice(b'0123456789.,:"{}[]eE+-_ntfx \t')
    return bytes(out)


def change_digit(frame: bytes, rng: random.Random) -> bytes:
    places = [i for i, byte in enumerate(frame) if 48 <= byte <= 57]
    out = bytearray(frame)
    out[rng.choice(places)] = rng.choice(b"0123456789eE.-")
    return bytes(out)


def insert(frame: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(frame) + 1)
    return frame[:at] + rng.choice(PIECES) + frame[at:]


PIECES = (b"5", b"0", b"e", b"-", b'"', b"\\", b"\x00", b"\xff", b"\xe2\x82\xac", b" ", b",", b"NaN", b"{")


def remove(frame: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(frame))
    return frame[:at] + frame[at + rng.choice((1, 1, 1, 2, 8)) :]


def cut(frame: bytes, rng: random.Random) -> bytes:
    return frame[: rng.randrange(len(frame))] if rng.random() < 0.7 else frame[rng.randrange(1, len(frame)) :]


def unquote(frame: bytes, rng: random.Random) -> bytes:
    values = list(re.finditer(rb'"([0-9.]+)"', frame))
    found = rng.choice(values) if values else None
    return frame[: found.start()] + found[1] + frame[found.end() :] if found else b""


def quote(frame: bytes, rng: random.Random) -> bytes:
    values = list(re.finditer(rb":([0-9]+|true|false)", frame))
    found = rng.choice(values)
    return frame[: found.start(1)] + b'"' + found[1] + b'"' + frame[found.end(1) :]


def change_member(frame: bytes, rng: random.Random) -> bytes:
    document = json.loads(frame)
    target = document["data"] if rng.random() < 0.9 and "data" in document else document
    name = rng.choice(list(target))
    action = rng.random()
    if action < 0.6:
        target[name] = rng.choice(VALUES)
    elif action < 0.75:
        del target[name]
    elif action < 0.85:
        target[name + "x"] = target.pop(name)
    elif action < 0.95:
        target[rng.choice(("st", "nq", "ps", "X", "zz", "e", "p1", "U"))] = rng.choice(VALUES)
    else:
        target[name] = {name: target[name]}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def change_two_members(frame: bytes, rng: random.Random) -> bytes:
    return change_member_or_same(change_member(frame, rng), rng)


def change_member_or_same(frame: bytes, rng: random.Random) -> bytes:
    try:
        return change_member(frame, rng)
    except (ValueError, TypeError, AttributeError, IndexError):
        return frame


def change_level(frame: bytes, rng: random.Random) -> bytes:
    document = json.loads(frame)
    x = document.get("data", document)
    rows = [row for side in "ba" if isinstance(x.get(side), list) for row in x[side]]
    if not rows:
        return change_member(frame, rng)
    row = rng.choice(rows)
    if rng.random() < 0.2:
        row.append(rng.choice(VALUES))
    else:
        row[rng.randrange(2)] = rng.choice(VALUES)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def reorder(frame: bytes, rng: random.Random) -> bytes:
    """No damage at all: the same members in another order, with spaces."""
    document = json.loads(frame)
    names = list(document["data"])
    rng.shuffle(names)
    document["data"] = {name: document["data"][name] for name in names}
    if rng.random() < 0.5:
        document = {"data": document["data"], "stream": document["stream"]}
    return json.dumps(document, ensure_ascii=False).encode()


def double(frame: bytes, rng: random.Random) -> bytes:
    return rng.choice((frame + frame, frame + b"\n" + frame, b"[" + frame + b"]", b"[" + frame + b"," + frame + b"]"))


DAMAGES = [
    flip_bytes, flip_bytes, swap_text, swap_text, change_digit, change_digit, insert, remove, cut, unquote, quote,
    change_member, change_member, change_two_members, change_level, reorder, double,
]  # fmt: skip


# -- the test ------------------------------------------------------------------------------------------------------


class Checked:
    """A sink that checks every value and keeps the records of the current frame."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []

    def trade(self, *row: Any) -> None:
        _, recv, event, flags, number, price, quantity, first, last, without_rpi = row
        assert 0 < price < math.inf and 0 <= quantity < math.inf and 0 <= without_rpi < math.inf, row
        for value in (recv, event, flags, number, first, last):
            assert type(value) is int and 0 <= value < 2**63, row
        self.rows.append(("trade", *row))

    def quote(self, *row: Any) -> None:
        assert all(0 <= value < math.inf for value in row[4:]), row
        assert 0 <= row[2] < 2**63, row
        self.rows.append(("quote", *row))

    def levels(self, *row: Any) -> None:
        assert all(0 < p < math.inf and 0 <= q < math.inf for side in row[5:] for p, q in side), row
        assert 0 <= row[4] < 2**63 and 0 <= row[2] < 2**63, row
        self.rows.append(("levels", *row))

    def book(self, *row: Any) -> None:
        pass

    def other(self, *row: Any) -> None:
        assert all(type(value) is int and 0 <= value < 2**63 for value in row[1:4]), row
        numbers = [value for value in row[4:] if not isinstance(value, str)]
        assert all(-math.inf < value < math.inf for value in numbers), row
        self.rows.append(("other", *row))

    kline = ticker = mark_price = liquidation = other

    def funding(self, *row: Any) -> None:
        pass  # follows from the mark prices before it, damaged ones too

    def take(self) -> list[tuple[Any, ...]]:
        rows, self.rows = self.rows, []
        return rows


def make(product: str, natives: list[str]) -> tuple[BinanceDecoder, Checked, Notes]:
    sink, notes = Checked(), Notes()
    decoder = BinanceDecoder(product, sink, notes)
    for key_id, native in enumerate(natives):
        found = instrument_of_native(native, product)
        assert found is not None
        decoder.add(found, key_id)
    return decoder, sink, notes


def as_snapshot(book: OrderBook) -> DepthSnapshot:
    bids, bid_quantities, asks, ask_quantities = book.top(100_000)
    return DepthSnapshot(
        book.update_id, 0, list(zip(bids, bid_quantities, strict=True)), list(zip(asks, ask_quantities, strict=True))
    )


@pytest.mark.parametrize("session", SESSIONS, ids=lambda s: f"{s[0]}/{s[1].split('_')[0]}")
def test_damaged_frames_are_refused_with_a_reason_and_harm_no_neighbour(
    captures: Path, session: tuple[str, str, str, int]
) -> None:
    folder, files, product, limit = session
    paths = sorted((captures / folder).glob(files))
    entries = [entry for _, entry in read_session(paths)][:limit]
    rng = random.Random(f"{folder}/{files}")
    natives = sorted(set(re.findall(r'"s":"([A-Z0-9_]+)"', " ".join(e.payload[:200].decode() for e in entries))))
    key_of = {native: key_id for key_id, native in enumerate(natives)}
    plain, plain_sink, _ = make(product, natives)
    decoder, sink, notes = make(product, natives)
    cases = harmed = given = 0
    outcomes: Counter[str] = Counter()

    for entry in entries:
        if entry.kind is EntryKind.REST and "exchangeInfo" not in entry.where:
            found = re.search(r"symbol=(\w+)", entry.where)
            key_id = key_of[found[1]] if found else 0
            snapshot = parse_depth(entry.payload)
            plain.on_snapshot(key_id, snapshot, entry.ts_recv_ns)
            decoder.on_snapshot(key_id, snapshot, entry.ts_recv_ns)
            plain_sink.take()
            sink.take()
        if entry.kind is not EntryKind.WS:
            continue
        plain.on_frame(entry.payload, entry.ts_recv_ns)
        expected = plain_sink.take()
        # A book that fell out of step gets the undamaged run's book, as a snapshot.
        for key_id in decoder.wanting():
            if not plain.sync(key_id).wanting:
                decoder.on_snapshot(key_id, as_snapshot(plain.book(key_id)), entry.ts_recv_ns)
                sink.take()
        refused_before = len(notes.rejects)
        if rng.random() < SHARE_DAMAGED:
            cases += 1
            frame = damage(entry.payload, rng)
            decoder.on_frame(frame, entry.ts_recv_ns)
            rows = sink.take()
            refused = len(notes.rejects) - refused_before
            if not acceptable(frame, product, set(natives)):
                assert not rows, f"a record of a frame that json and the schema refuse: {frame!r}: {rows}"
            if rows:
                assert not refused
                given += 1
            assert refused <= 1
            outcomes[notes.rejects[-1][0] if refused else "record" if rows else "none"] += 1
        else:
            decoder.on_frame(entry.payload, entry.ts_recv_ns)
            rows = sink.take()
            assert len(notes.rejects) == refused_before, f"untouched frame refused: {notes.rejects[-1]}"
            if rows != expected:
                assert b"@depth" in entry.payload[:60], f"untouched frame gives {rows}, undamaged run {expected}"
                harmed += 1  # its book waits for a snapshot, or holds a damaged level
    assert cases >= CASES_MIN[files.split("_")[0]]
    assert sum(decoder.rejected.values()) == len(notes.rejects)
    assert given and len(outcomes) >= 8, outcomes
    print(f"{folder}: {cases} cases, {given} with a record, {harmed} depth frames not applied, {dict(outcomes)}")
