"""REST bodies and URLs of Binance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickring.codecs.binance.rest import (
    depth_path,
    depth_weight,
    exchange_info_path,
    instrument_of_native,
    parse_depth,
    parse_exchange_info,
)
from tickring.codecs.captures import read_capture
from tickring.codecs.errors import BadResponse, CodecError, ExchangeRefused

from .binance_frames import compact

BODY: dict[str, Any] = {"lastUpdateId": 7, "bids": [["1.50", "2.0"], ["1.40", "1.0"]], "asks": [["1.60", "3.0"]]}


def test_depth_of_spot_and_of_usdm() -> None:
    spot = parse_depth(compact(BODY))
    assert spot == (7, 0, [(1.5, 2.0), (1.4, 1.0)], [(1.6, 3.0)])
    usdm = parse_depth(compact({"lastUpdateId": 7, "E": 1001, "T": 1000, "bids": BODY["bids"], "asks": BODY["asks"]}))
    assert usdm == (7, 1_000_000_000, spot.bids, spot.asks)


def test_depth_in_any_key_order_and_with_unknown_keys() -> None:
    changed = {**dict(reversed(BODY.items())), "symbol": "X", "zz": [1]}
    assert parse_depth(compact(changed)) == parse_depth(compact(BODY))


def test_empty_book_is_a_snapshot() -> None:
    assert parse_depth(b'{"lastUpdateId":7,"bids":[],"asks":[]}') == (7, 0, [], [])


@pytest.mark.parametrize(
    "changes",
    [
        {"lastUpdateId": "7"}, {"lastUpdateId": 7.0}, {"lastUpdateId": -1}, {"lastUpdateId": None}, {"bids": None},
        {"bids": [["nan", "1"]]}, {"bids": [[1.5, "1"]]}, {"asks": [["1.5", "-1"]]}, {"asks": [["0", "1"]]},
        {"asks": [["1.5"]]}, {"asks": [["1e5", "1"]]}, {"T": "5"}, {"T": 2**62},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_depth_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadResponse):
        parse_depth(compact({**BODY, **changes}))


@given(st.binary(max_size=200))
def test_any_body_raises_only_codec_errors(body: bytes) -> None:
    for parse in (parse_depth, lambda body: parse_exchange_info(body, "spot")):
        with pytest.raises(CodecError):
            parse(body)


@pytest.mark.parametrize(("code", "retriable"), [(-1003, True), (-1121, False)])
def test_error_body_carries_the_exchange_s_code(code: int, retriable: bool) -> None:
    with pytest.raises(ExchangeRefused) as caught:
        parse_depth(compact({"code": code, "msg": "Too much request weight used"}))
    assert (caught.value.code, caught.value.retriable) == (code, retriable)


def listed(**changes: Any) -> dict[str, Any]:
    return {
        "symbol": "ABCUSDT", "status": "TRADING", "baseAsset": "ABC", "quoteAsset": "USDT",
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "9", "tickSize": "0.01000000"},
            {"filterType": "LOT_SIZE", "minQty": "1", "maxQty": "9", "stepSize": "0.00100000"},
            {"filterType": "NOTIONAL", "minNotional": "5"},
        ],
        "zz": 1, **changes,
    }  # fmt: skip


def test_instruments_of_spot() -> None:
    body = compact(
        {
            "rateLimits": [
                {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
                {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300000},
            ],
            "symbols": [listed(), listed(symbol="币安USDT", baseAsset="币安"), {"symbol": 5}],
        }
    )
    info = parse_exchange_info(body, "spot")
    assert parse_exchange_info(body, "spot", only={"NONE"}).instruments == []
    assert parse_exchange_info(body, "spot", only={info.instruments[0].native}).instruments == info.instruments[:1]
    first, second = info.instruments
    assert (first.instrument, first.price_precision, first.quantity_precision, first.tick) == (
        "ABC-USDT", 2, 3, "0.01000000",
    )  # fmt: skip
    assert second.instrument == "币安-USDT"
    assert info.skipped == 1
    assert [(limit.kind, limit.interval_s, limit.limit) for limit in info.rate_limits] == [
        ("REQUEST_WEIGHT", 60, 6000), ("RAW_REQUESTS", 300, 300000),
    ]  # fmt: skip


def test_instruments_of_futures() -> None:
    usdm = compact(
        {
            "symbols": [
                listed(contractType="PERPETUAL", deliveryDate=4133404800000, onboardDate=1569398400000),
                listed(symbol="ABCUSDT_261225", contractType="CURRENT_QUARTER", deliveryDate=1798185600000),
                listed(symbol="XYZUSDT", baseAsset="XYZ", contractType="TRADIFI_PERPETUAL"),
            ]
        }
    )
    names = [i.instrument for i in parse_exchange_info(usdm, "usdm").instruments]
    assert names == ["ABC-USDT-PERP", "ABC-USDT-20261225", "XYZ-USDT-PERP"]
    coinm = compact({"symbols": [listed(symbol="ABCUSD_PERP", quoteAsset="USD", contractSize=10)]})
    [inverse] = parse_exchange_info(coinm, "coinm").instruments
    assert (inverse.instrument, inverse.inverse, inverse.contract_value) == ("ABC-USD-PERP", True, 10.0)


@pytest.mark.parametrize(
    ("native", "product", "instrument"),
    [
        ("BTCUSDT", "spot", "BTC-USDT"), ("btcusdt", "usdm", "BTC-USDT-PERP"),
        ("BTCUSDT_261225", "usdm", "BTC-USDT-20261225"),
        ("BTCUSD_PERP", "coinm", "BTC-USD-PERP"), ("BTCUSD_261225", "coinm", "BTC-USD-20261225"),
        ("BTCUSDT_261225", "spot", None), ("BTCUSD_PERP", "usdm", None), ("BTCUSD", "coinm", None), ("X", "spot", None),
        ("BTCUSDT_PERPX", "usdm", None),
    ],
)  # fmt: skip
def test_native_name_is_taken_apart_by_product(native: str, product: str, instrument: str | None) -> None:
    found = instrument_of_native(native, product)
    assert (found.instrument if found else None) == instrument


def test_urls_and_weights() -> None:
    assert depth_path("spot", "ABCUSDT") == "/api/v3/depth?symbol=ABCUSDT&limit=1000"
    assert depth_path("usdm", "ABCUSDT", 400) == "/fapi/v1/depth?symbol=ABCUSDT&limit=500"
    assert depth_path("spot", "币安USDT", 9999).endswith("%E5%B8%81%E5%AE%89USDT&limit=5000")
    assert [depth_weight("spot", n) for n in (100, 101, 1000, 5000)] == [5, 25, 50, 250]
    assert [depth_weight("usdm", n) for n in (50, 100, 500, 1000)] == [2, 5, 10, 20]
    assert exchange_info_path("usdm") == exchange_info_path("usdm", ["A"]) == "/fapi/v1/exchangeInfo"
    assert exchange_info_path("spot", ["A", "B"]) == "/api/v3/exchangeInfo?symbols=%5B%22A%22%2C%22B%22%5D"


def test_every_recorded_body_is_read(captures: Path) -> None:
    depths = infos = 0
    for path in sorted(captures.glob("binance-*/*.gz")):
        product = {"binance-usdm": "usdm", "binance-coinm": "coinm"}.get(path.parent.name, "spot")
        for entry in read_capture(path):
            if "exchangeInfo" in entry.where:
                info = parse_exchange_info(entry.payload, product)
                assert info.instruments and info.rate_limits and not info.skipped
                infos += 1
            elif entry.kind == "rest":
                snapshot = parse_depth(entry.payload)
                assert snapshot.bids and snapshot.asks
                depths += 1
    assert depths >= 40 and infos == 4
