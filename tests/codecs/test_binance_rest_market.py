"""REST bodies: bars, open interest, funding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tickring.codecs.binance.rest_market import (
    KLINES_LIMIT_MAX,
    funding_rates_path,
    klines_path,
    klines_weight,
    open_interest_path,
    parse_funding_rates,
    parse_klines,
    parse_open_interest,
)
from tickring.codecs.errors import BadResponse, ExchangeRefused
from tickring.codecs.klines import Bar

ROW = [
    1499040000000, "0.01634790", "0.80000000", "0.01575800", "0.01577100", "148976.11427815", 1499644799999,
    "2434.19055334", 308, "1756.87402397", "28.46694368", "0",
]  # fmt: skip
BAR = Bar(
    1499040000000, 1499644799999, 0.0163479, 0.8, 0.015758, 0.015771, 148976.11427815, 2434.19055334, 308,
    1756.87402397, 28.46694368,
)  # fmt: skip


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")], ids=["as sent", "spaced"])
def test_klines_are_bars(separators: tuple[str, str]) -> None:
    assert parse_klines(json.dumps([ROW, ROW], separators=separators).encode()) == [BAR, BAR]
    assert parse_klines(b"[]") == []


BAD = [(1, "nan"), (1, "01.5"), (1, 1.5), (1, "-1"), (2, "0.001"), (0, "1499040000000"), (0, 1499644799999), (8, "308"),
       (8, 1.0), (8, -1), (5, ""), (5, "1e5"), (8, 2**63)]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), BAD)
def test_klines_with_one_bad_value_are_refused_whole(place: int, value: Any) -> None:
    bad = list(ROW)
    bad[place] = value
    with pytest.raises(BadResponse):
        parse_klines(compact([ROW, bad]))


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"[[]]", b'"x"', b"null", compact([ROW[:8]])])
def test_body_that_is_no_klines_is_refused(body: bytes) -> None:
    with pytest.raises(BadResponse):
        parse_klines(body)


def test_error_of_the_exchange_is_told_from_a_body() -> None:
    for parse in (parse_klines, parse_open_interest, parse_funding_rates):
        with pytest.raises(ExchangeRefused) as caught:
            parse(b'{"code":-1121,"msg":"Invalid symbol."}')  # pyright: ignore[reportArgumentType]
        assert caught.value.code == -1121


def test_recorded_bodies_are_read(captures: Path) -> None:
    examples = captures / "doc-examples" / "nautilus" / "binance" / "test_data" / "spot" / "http_json"
    assert parse_klines((examples / "klines_response.json").read_bytes()) == [BAR]
    lines = (captures / "binance-mixed" / "crypto-msg-parser_examples.jsonl").read_text().splitlines()
    found = [parse_open_interest(compact(x["msg"])) for x in map(json.loads, lines) if x["kind"] == "open_interest"]
    assert [one.open_interest for one in found] == [2470927.0, 1275.028, 5827897.0, 84617.188]


def test_funding_rates_of_old_rows_have_no_mark_price() -> None:
    row = {"symbol": "BTCUSDT", "fundingTime": 1_700_000_000_000, "fundingRate": "-0.00010000", "markPrice": "35000.5"}
    rates = parse_funding_rates(compact([row, {**row, "markPrice": ""}, {k: row[k] for k in list(row)[:3]}]))
    assert [one[1:] for one in rates] == [(1_700_000_000_000, -0.0001, mark) for mark in (35000.5, 0.0, 0.0)]


def test_paths_and_weights() -> None:
    assert klines_path("usdm", "BTCUSDT", "1M", 1500, 5) == (
        "/fapi/v1/klines?symbol=BTCUSDT&interval=1M&limit=1500&startTime=5"
    )
    assert [klines_weight("usdm", n) for n in (1, 99, 100, 499, 500, 1000, 1001, 1500)] == [1, 1, 2, 2, 5, 5, 10, 10]
    assert klines_weight("spot", KLINES_LIMIT_MAX["spot"]) == 2
    assert open_interest_path("usdm", "BTCUSDT") == "/fapi/v1/openInterest?symbol=BTCUSDT"
    assert funding_rates_path("usdm", "BTCUSDT", 9, 1, 2).endswith("&limit=9&startTime=1&endTime=2")
    assert open_interest_path("usdm", "ÄUSDT") == "/fapi/v1/openInterest?symbol=%C3%84USDT"
