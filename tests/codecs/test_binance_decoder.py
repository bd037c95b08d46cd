"""Frames composed by hand, one fact at a time."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickring.codecs.binance.wire import TimeUnit, combined_path, subscribe, tier_of
from tickring.codecs.record import Flag
from tickring.codecs.sink import Reason

from .binance_frames import (
    RECV_NS,
    TIME_MS,
    Bench,
    LevelsRow,
    QuoteRow,
    TradeRow,
    aggregate,
    compact,
    frame,
    spot_depth,
    spot_quote,
    spot_trade,
    usdm_depth,
    usdm_quote,
    usdm_trade,
)

EVENT_NS = TIME_MS * 1_000_000


def combined(channel: str, data: dict[str, Any]) -> bytes:
    return frame(f"{data['s'].lower()}@{channel}", data)


# Every event: product, channel, a maker by number.
EVENTS = [
    ("spot", "trade", spot_trade),
    ("usdm", "trade", usdm_trade),
    ("spot", "aggTrade", lambda n: {k: v for k, v in aggregate(n, M=True).items() if k not in ("nq", "st")}),
    ("usdm", "aggTrade", aggregate),
    ("spot", "bookTicker", spot_quote),
    ("usdm", "bookTicker", usdm_quote),
]
EVENT_IDS = [f"{product}-{channel}" for product, channel, _ in EVENTS]


def test_spot_trade_is_a_record() -> None:
    [row] = Bench().feed(combined("trade", spot_trade(7)))
    assert row == TradeRow(0, RECV_NS, EVENT_NS, Flag.SELL, 7, 100.5, 0.25, 0, 0, 0.0)


def test_usdm_aggregate_is_a_record() -> None:
    [row] = Bench("usdm").feed(combined("aggTrade", aggregate(7)))
    assert row == TradeRow(0, RECV_NS, EVENT_NS, Flag.AGGREGATED, 7, 100.5, 0.25, 21, 23, 0.2)


def test_quote_of_spot_has_no_time_and_of_usdm_has() -> None:
    [spot] = Bench().feed(combined("bookTicker", spot_quote(7)))
    [usdm] = Bench("usdm").feed(combined("bookTicker", usdm_quote(7)))
    assert spot == QuoteRow(0, RECV_NS, 0, 0, 100.4, 7.0, 100.6, 5.0)
    assert usdm == QuoteRow(0, RECV_NS, EVENT_NS, 0, 100.4, 7.0, 100.6, 5.0)


def test_inverse_product_flags_its_records() -> None:
    bench = Bench("coinm", ("ABCUSD_PERP",))
    [row] = bench.feed(combined("aggTrade", aggregate(1, s="ABCUSD_PERP", q="5", st=2, nq="5")))
    assert row.flags == Flag.INVERSE | Flag.AGGREGATED
    assert row.quantity == 5.0


@pytest.mark.parametrize(("product", "channel", "make"), EVENTS, ids=EVENT_IDS)
def test_fast_path_equals_exact_path(product: str, channel: str, make: Any) -> None:
    """The first frame of a shape is read exactly, the second by its shape; a spaced one exactly again."""
    fast, exact = Bench(product), Bench(product)
    for number in range(10, 14):
        data = make(number)
        rows = fast.feed(combined(channel, data))
        spaced = compact({"stream": f"abcusdt@{channel}", "data": data}).replace(b'":', b'" :' + b" " * number)
        assert rows == exact.feed(spaced) and len(rows) == 1
    assert not fast.notes.rejects and not exact.notes.rejects


@pytest.mark.parametrize(("product", "channel", "make"), EVENTS, ids=EVENT_IDS)
def test_any_key_order_raw_frames_and_unknown_keys_are_read(product: str, channel: str, make: Any) -> None:
    expected = Bench(product).feed(combined(channel, make(5)))
    data = make(5)
    variants = [
        compact({"data": data, "stream": f"abcusdt@{channel}"}),
        combined(channel, dict(reversed(data.items()))),
        combined(channel, {**data, "future": {"x": [1, None]}, "zz": "π"}),
        compact(data),
        compact(dict(reversed(data.items()))),
    ]
    for variant in variants:
        bench = Bench(product)
        assert bench.feed(variant) == expected, variant
        # The next one of the same shape, now known: an id that differs in a digit gives a record of its own.
        number = b":6" if b":6" not in variant else b":7"
        assert len(bench.feed(re.sub(rb":5\b", number, variant))) == 1
        assert not bench.notes.rejects


@pytest.mark.parametrize("optional", ["st", "ps", "nq"])
def test_fields_that_came_in_2026_may_be_absent(optional: str) -> None:
    data = aggregate(5)
    data.pop(optional, None)
    [row] = Bench("usdm").feed(combined("aggTrade", data))
    assert row.quantity == 0.25


BAD_VALUES = [
    ("p", "nan"), ("p", "inf"), ("p", "-1"), ("p", "0.00"), ("p", 100.5), ("p", 100), ("p", None), ("p", True),
    ("p", "1e2"), ("p", ""), ("p", "1_0"), ("p", " 1"), ("p", "01"), ("p", "9" * 400), ("p", []), ("p", "+1"),
    ("q", "-0.1"), ("q", "-0"), ("q", "nan"), ("q", 1), ("q", None), ("q", "abc"),
    ("a", "5"), ("a", -1), ("a", 5.0), ("a", 2**63), ("a", None), ("a", True),
    ("T", 0), ("T", "1"), ("T", 2**63), ("T", 10**16), ("T", 1.5), ("E", "x"), ("E", None), ("E", -5),
    ("m", 1), ("m", "true"), ("m", None), ("f", -1), ("l", "9"), ("s", 5), ("s", None), ("e", 5), ("nq", "x"),
    ("nq", 0.2), ("st", "1"), ("st", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_bad_value_is_refused_before_and_after_its_shape_is_known(name: str, value: Any) -> None:
    bench = Bench("usdm")
    bad = combined("aggTrade", aggregate(5)).replace(
        compact({name: aggregate(5)[name]})[1:-1], compact({name: value})[1:-1], 1
    )
    assert not bench.feed(bad)
    assert bench.feed(combined("aggTrade", aggregate(5)), combined("aggTrade", aggregate(6)))
    assert not bench.feed(bad)
    expected = Reason.WRONG_TYPE
    if isinstance(value, str) and name in ("p", "q", "nq"):
        expected = Reason.BAD_NUMBER
    if type(value) is int and name in ("a", "T", "E", "f"):
        expected = Reason.BAD_NUMBER
    assert bench.reasons() == [expected, expected]
    assert bench.decoder.rejected[expected] == 2


@pytest.mark.parametrize("name", ["e", "E", "a", "s", "p", "q", "f", "l", "T", "m"])
def test_missing_field_is_refused(name: str) -> None:
    bench = Bench("usdm")
    data = aggregate(5)
    del data[name]
    bench.feed(frame("abcusdt@aggTrade", data))
    assert bench.reasons() == [Reason.MISSING_FIELD]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", Reason.NOT_JSON),
        (b"null", Reason.NOT_EVENT),
        (b"5", Reason.NOT_EVENT),
        (b'"x"', Reason.NOT_EVENT),
        (b"[]x", Reason.NOT_JSON),
        (b"[5]", Reason.NOT_EVENT),
        (b"{}", Reason.NOT_EVENT),
        (b"{", Reason.NOT_JSON),
        (b'{"a":NaN}', Reason.NOT_JSON),
        (b'{"a":"\xff"}', Reason.NOT_UTF8),
        (b"\xff\xfe", Reason.NOT_UTF8),
        (b"[" * 100_000, Reason.NOT_JSON),
        (b'{"stream":5,"data":{}}', Reason.WRONG_TYPE),
        (b'{"stream":"abcusdt@trade"}', Reason.MISSING_FIELD),
        (b'{"stream":"abcusdt@trade","data":5}', Reason.WRONG_TYPE),
        (b'{"stream":"abcusdt@tradx","data":{}}', Reason.UNKNOWN_STREAM),
        (frame("abcusdt@tradx", spot_trade(1)), Reason.UNKNOWN_STREAM),
        (frame("xyzusdt@trade", spot_trade(1)), Reason.INCONSISTENT),
        (frame("abcusdt@aggTrade", spot_trade(1)), Reason.INCONSISTENT),
        (frame("abcusdt@trade", spot_trade(1, e="trades")), Reason.UNKNOWN_EVENT),
        (frame("xyzusdt@trade", spot_trade(1, s="XYZUSDT")), Reason.UNKNOWN_SYMBOL),
        (frame("abcusdt@depth", spot_depth(9, 5)), Reason.INCONSISTENT),
        (b'{"x":"' + b"[" * (5 << 20) + b'"}', Reason.OVERSIZED),
    ],
    ids=lambda value: str(value[:24]) if isinstance(value, bytes) else None,
)
def test_bad_frame_is_counted_with_its_reason(bad: bytes, reason: Reason) -> None:
    bench = Bench()
    assert not bench.feed(bad)
    assert bench.reasons() == [reason]
    assert bench.feed(combined("trade", spot_trade(1))), "the next frame is read"


@given(st.binary(max_size=300))
def test_any_bytes_never_raise(data: bytes) -> None:
    bench = Bench()
    assert not bench.feed(data, b'{"stream":' + data, b'{"stream":"abcusdt@depth","data":' + data + b"}")


def test_digits_inserted_into_a_known_shape_are_refused() -> None:
    """Digits are what a shape leaves out: names that gained one must not pass."""
    good = combined("trade", spot_trade(7))
    bench = Bench()
    bench.feed(good)
    for at in range(len(good) + 1):
        before = len(bench.sink.rows)
        changed = good[:at] + b"1" + good[at:]
        bench.decoder.on_frame(changed, RECV_NS)
        for row in bench.sink.rows[before:]:
            # What may change is a number, or what nobody reads: the stream's name and ignored keys.
            assert row.price > 0 and math.isfinite(row.price)
            assert b'"e":"trade"' in changed and b'"s":"ABCUSDT"' in changed
            for key in (b'"E"', b'"t"', b'"p"', b'"q"', b'"T"', b'"m"', b'"data"', b'"stream"'):
                assert key in changed


def test_symbols_that_differ_in_digits_are_told_apart() -> None:
    natives = ("ABCUSDT_261225", "ABCUSDT_260925", "1000ABCUSDT", "ABCUSDT")
    bench = Bench("usdm", natives)
    for repeated in range(3):
        for key_id, native in enumerate(natives):
            for channel, data in (
                ("aggTrade", aggregate(repeated, s=native)),
                ("bookTicker", usdm_quote(repeated + 1, s=native, ps="ABCUSDT")),
                ("trade", usdm_trade(repeated, s=native)),
            ):
                [row] = bench.feed(combined(channel, data))
                assert row.key_id == key_id
    assert not bench.notes.rejects


def test_symbol_outside_ascii_is_read() -> None:
    bench = Bench("spot", ("币安USDT",))
    for number in range(3):
        assert len(bench.feed(combined("trade", spot_trade(number, s="币安USDT")))) == 1


def test_coinm_rows_on_merged_streams_are_filtered_and_counted() -> None:
    bench = Bench("usdm")
    other = usdm_quote(5, s="ABCUSD_PERP", ps="ABCUSD", st=2)
    assert not bench.feed(frame("!bookTicker", other))
    assert bench.feed(frame("!bookTicker", usdm_quote(5)))
    assert not bench.feed(frame("!bookTicker", usdm_quote(6, st=2))), "the shape is known, its st is another"
    assert bench.decoder.other_product == 2
    assert not bench.notes.rejects


def test_merged_array_gives_its_events_or_none() -> None:
    bench = Bench("usdm")
    rows = bench.feed(frame("!bookTicker", [usdm_quote(5), usdm_quote(6, st=2), usdm_quote(7)]))  # type: ignore[arg-type]
    assert [row.ts_event_ns for row in rows] == [EVENT_NS, EVENT_NS]
    assert not bench.feed(frame("!bookTicker", [usdm_quote(8), usdm_quote(9, b="nan")]))  # type: ignore[arg-type]
    assert bench.reasons() == [Reason.BAD_NUMBER]


@pytest.mark.parametrize("kind", ["INSURANCE_FUND", "ADL", "NA"])
def test_trade_outside_the_book_is_skipped_and_continues_the_ids(kind: str) -> None:
    bench = Bench("usdm")
    rows = bench.feed(
        combined("trade", usdm_trade(1)), combined("trade", usdm_trade(2)),
        combined("trade", usdm_trade(3, X=kind)), combined("trade", usdm_trade(4)), combined("trade", usdm_trade(5)),
    )  # fmt: skip
    assert [row.trade_id for row in rows] == [1, 2, 4, 5]
    assert bench.decoder.off_book == 1
    assert not bench.notes.gaps


def test_missing_trades_are_reported_as_a_range() -> None:
    bench = Bench("usdm")
    bench.feed(*(combined("aggTrade", aggregate(n)) for n in (1, 2, 6, 7, 8)))
    bench.feed(*(combined("trade", usdm_trade(n)) for n in (1, 2, 4, 5)))
    assert bench.notes.gaps == [(0, "aggregate", 3, 5), (0, "trade", 3, 3)]


def test_second_socket_repeats_nothing() -> None:
    bench = Bench("usdm")
    bench.decoder.overlapping = True
    rows = bench.feed(
        *(combined("aggTrade", aggregate(n)) for n in (1, 2, 1, 3, 2, 3, 4)),
        *(combined("bookTicker", usdm_quote(n)) for n in (10, 12, 10, 12, 15)),
    )
    assert [row.trade_id for row in rows[:4]] == [1, 2, 3, 4]
    assert len(rows) == 4 + 3
    assert bench.decoder.duplicate_quotes == 2


def test_quote_of_an_empty_side_is_zero() -> None:
    [row] = Bench().feed(combined("bookTicker", spot_quote(5, b="0.00000000", B="0.00000000")))
    assert (row.bid, row.bid_qty, row.ask) == (0.0, 0.0, 100.6)


def test_quote_without_price_and_with_quantity_is_refused() -> None:
    bench = Bench()
    bench.feed(combined("bookTicker", spot_quote(5)))
    assert not bench.feed(combined("bookTicker", spot_quote(6, b="0.00000000")))
    assert bench.reasons() == [Reason.BAD_NUMBER]


def test_events_without_a_record_are_counted_and_not_refused() -> None:
    bench = Bench()
    ticker = {"e": "24hrMiniTicker", "E": TIME_MS, "s": "ABCUSDT", "c": "1.0"}
    bench.feed(*(frame("abcusdt@miniTicker", ticker) for _ in range(3)))
    assert bench.decoder.other_events == 3
    assert not bench.notes.rejects


@pytest.mark.parametrize("channel", ["depth20", "depth5@100ms", "depth10@100ms", "rpiDepth@500ms"])
def test_partial_book_is_never_applied_as_a_change(channel: str) -> None:
    bench = Bench("usdm")
    bench.decoder.on_snapshot(0, snapshot_body(100), RECV_NS)
    bench.feed(frame("abcusdt@depth@100ms", usdm_depth(99, 101, 98, [["1.5", "2.0"]])))  # its shape is known now
    before = len(bench.sink.rows)
    bench.feed(frame(f"abcusdt@{channel}", usdm_depth(102, 103, 101, [["1.6", "2.0"]])))
    assert len(bench.sink.rows) == before
    assert bench.decoder.other_events == 1
    assert bench.decoder.book(0).update_id == 101


def test_control_answers_reach_the_hook() -> None:
    bench = Bench()
    bench.feed(
        b'{"result":null,"id":1}', b'{"result":["a@trade"],"id":2}', b'{"error":{"code":2,"msg":"Invalid"},"id":3}',
        b'{"code":2,"msg":"Invalid request"}',
    )  # fmt: skip
    assert [message.get("id") for message in bench.notes.controls] == [1, 2, 3, None]
    assert not bench.notes.rejects


def test_server_shutdown_reaches_the_hook() -> None:
    bench = Bench()
    bench.feed(
        compact({"e": "serverShutdown", "E": TIME_MS}), frame("!serverShutdown", {"e": "serverShutdown", "E": TIME_MS})
    )
    assert bench.notes.shutdowns == [EVENT_NS, EVENT_NS]


def test_microsecond_times() -> None:
    bench = Bench("spot", unit=TimeUnit.MICROSECOND)
    for number in range(2):
        [row] = bench.feed(combined("trade", spot_trade(number, T=TIME_MS * 1000 + 7, E=TIME_MS * 1000 + 9)))
        assert row.ts_event_ns == EVENT_NS + 7_000


def test_adding_an_instrument_twice_is_an_error() -> None:
    from .binance_frames import instrument

    bench = Bench()
    with pytest.raises(ValueError, match="ABCUSDT"):
        bench.decoder.add(instrument(), 5)


def test_shapes_are_bounded() -> None:
    bench = Bench()
    for number in range(2000):
        bench.feed(combined("trade", spot_trade(number, **{"k" * (number % 1500 + 1): True})))
    assert len(bench.decoder._shapes) <= 1024
    assert len(bench.sink.rows) == 2000


# -- depth frames --------------------------------------------------------------------------------------------------


def snapshot_body(update_id: int, bids: Any = (["1.4", "1.0"],), asks: Any = (["1.9", "1.0"],)) -> bytes:
    return compact({"lastUpdateId": update_id, "bids": list(bids), "asks": list(asks)})


@pytest.mark.parametrize("product", ["spot", "usdm"])
def test_depth_fast_path_equals_exact_path(product: str) -> None:
    fast, exact = Bench(product), Bench(product)
    for bench in (fast, exact):
        bench.decoder.on_snapshot(0, snapshot_body(10), RECV_NS)
    sides = [[], [["1.5", "2.0"]], [["1.25", "0.0"], ["1.5", "3.0"]]]
    number = 10
    for bids in sides:
        for asks in sides:
            number += 1
            raised = [[str(float(price) + 1), quantity] for price, quantity in asks]
            data = (
                spot_depth(number, number, bids, raised) if product == "spot"
                else usdm_depth(number, number, number - 1, bids, raised)
            )  # fmt: skip
            rows = fast.feed(frame("abcusdt@depth@100ms", data))
            assert rows == exact.feed(compact({"data": dict(reversed(data.items())), "stream": "abcusdt@depth"}))
            assert len(rows) == 1 and isinstance(rows[0], LevelsRow)
            assert rows[0].ts_event_ns == EVENT_NS + (1_000_000 if product == "spot" else 0)
    assert not fast.notes.rejects and not exact.notes.rejects
    assert fast.decoder.book(0).top(9) == exact.decoder.book(0).top(9)


BAD_LEVELS = [
    [["nan", "1"]], [["1.5", "inf"]], [["-1.5", "1"]], [["1.5", "-1"]], [["0.0", "1"]], [[1.5, "1"]], [["1.5", 1]],
    [["1.5"]], [["1.5", "1", "2"]], [["1e1", "1"]], [["1.5", "1E1"]], [[None, "1"]], [["1.5", None]], ["x"], [5],
    "x", None, 5, {}, [["1.5", "1"], ["1.6", "x"]], [[["1.5"], "1"]], [["1,5", "1"]], [["1.5.5", "1"]], [["", "1"]],
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_LEVELS, ids=str)
@pytest.mark.parametrize("side", ["b", "a"])
def test_event_with_a_bad_level_changes_nothing(side: str, bad: Any) -> None:
    bench = Bench()
    bench.decoder.on_snapshot(0, snapshot_body(10), RECV_NS)
    bench.feed(frame("abcusdt@depth@100ms", spot_depth(11, 11, [["1.5", "2.0"]])))
    top = bench.decoder.book(0).top(9)
    data = spot_depth(12, 12, [["1.55", "2.0"]], [["1.8", "2.0"]])
    data[side] = [*data[side], *bad] if isinstance(bad, list) else bad
    assert not bench.feed(frame("abcusdt@depth@100ms", data))
    assert bench.decoder.book(0).top(9) == top
    assert bench.decoder.book(0).update_id == 11
    assert len(bench.reasons()) == 1 and bench.reasons()[0] in (Reason.WRONG_TYPE, Reason.BAD_NUMBER)


@pytest.mark.parametrize(("name", "value"), [("U", "12"), ("u", 12.0), ("E", "5"), ("u", -1), ("U", None), ("E", 0)])
def test_depth_with_a_bad_number_is_refused(name: str, value: Any) -> None:
    bench = Bench()
    bench.decoder.on_snapshot(0, snapshot_body(10), RECV_NS)
    bench.feed(frame("abcusdt@depth@100ms", spot_depth(11, 11)))
    assert not bench.feed(frame("abcusdt@depth@100ms", spot_depth(12, 12, **{name: value})))
    assert len(bench.reasons()) == 1


# -- what is sent --------------------------------------------------------------------------------------------------


def test_control_frames_and_paths() -> None:
    assert subscribe(["abcusdt@trade"], 1) == b'{"method":"SUBSCRIBE","params":["abcusdt@trade"],"id":1}'
    assert combined_path(["a@trade", "b@depth@100ms"]) == "/stream?streams=a@trade/b@depth@100ms"
    assert combined_path(["a@trade"], "market", TimeUnit.MICROSECOND) == (
        "/market/stream?streams=a@trade&timeUnit=MICROSECOND"
    )
    assert [tier_of(c) for c in ("depth@100ms", "bookTicker", "trade", "aggTrade", "markPrice@1s")] == [
        "public", "public", "public", "market", "market",
    ]  # fmt: skip
