"""Every form of a name leads to the same instrument."""

from __future__ import annotations

import pytest

from tickring.codecs.errors import UnknownExchange, UnknownSymbol
from tickring.codecs.symbols import Instrument, InstrumentIndex, Symbol, parse_exchange, parse_symbol, split_pair


@pytest.mark.parametrize(
    ("text", "market_type", "instrument"),
    [
        ("BTC-USDT", None, "BTC-USDT"),
        ("BTCUSDT", None, "BTC-USDT"),
        ("btc/usdt", None, "BTC-USDT"),
        ("Btc_Usdt", None, "BTC-USDT"),
        (" btcusdt ", None, "BTC-USDT"),
        ("BTCUSDT", "perpetual", "BTC-USDT-PERP"),
        ("BTC-USDT", "perpetual", "BTC-USDT-PERP"),
        ("BTC-USDT-PERP", None, "BTC-USDT-PERP"),
        ("BTC-USDT-PERPETUAL", None, "BTC-USDT-PERP"),
        ("BTC/USDT:USDT", None, "BTC-USDT-PERP"),
        ("btc/usd:btc", "spot", "BTC-USD-PERP"),
        ("BTC/USDT:USDT-261225", None, "BTC-USDT-20261225"),
        ("BTC/USD:BTC-261225-100000-C", None, "BTC-USD-20261225-100000-C"),
        ("btc-usdt-swap", None, "BTC-USDT-PERP"),
        ("BTCUSDT-PERP", "spot", "BTC-USDT-PERP"),
        ("BTC/USDT/PERP", None, "BTC-USDT-PERP"),
        ("BTCUSD_PERP", None, "BTC-USD-PERP"),
        ("BTC-PERPETUAL", None, "BTC-USD-PERP"),
        ("BTC_USDC-PERPETUAL", None, "BTC-USDC-PERP"),
        ("BTCUSDT_261225", None, "BTC-USDT-20261225"),
        ("BTC-USDT-20261225", None, "BTC-USDT-20261225"),
        ("BTC-25DEC26", None, "BTC-USD-20261225"),
        ("BTC-5DEC26", None, "BTC-USD-20261205"),
        ("BTC-25DEC26-100000-C", None, "BTC-USD-20261225-100000-C"),
        ("BTC-USD-261225-100000-P", None, "BTC-USD-20261225-100000-P"),
        ("BTC-USD-20261225-100000-C", None, "BTC-USD-20261225-100000-C"),
        ("BUSDTRY", None, "BUSD-TRY"),
        ("VETETH", None, "VET-ETH"),
        ("BTCFDUSD", None, "BTC-FDUSD"),
        ("1000SHIBUSDT", None, "1000SHIB-USDT"),
        ("币安人生USDT", None, "币安人生-USDT"),
    ],
)
def test_symbol_in_any_form_parses(text: str, market_type: str | None, instrument: str) -> None:
    assert parse_symbol(text, market_type).instrument == instrument


@pytest.mark.parametrize("instrument", ["BTC-USDT", "BTC-USDT-PERP", "BTC-USDT-20261225", "BTC-USD-20261225-5.5-C"])
def test_canonical_name_parses_to_itself(instrument: str) -> None:
    assert parse_symbol(instrument).instrument == instrument


@pytest.mark.parametrize(
    "text",
    ["", " ", "-", "BTC", "USDT", "BTC-", "-USDT", "BTC--USDT", "BTC-USDT-X-Y", "BTC USDT", "BTC-USDT-20261399", "a\0b",
     "BTC-USD-100000-C", "PERP", "../../etc", "B" * 80 + "-USDT", "BTC/USDT:EUR", "BTC/USDT:",
     "BTC:USDT", "BTC/USDT:USDT-X"],
)  # fmt: skip
def test_symbol_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(UnknownSymbol):
        parse_symbol(text)


@pytest.mark.parametrize("market_type", ["future", "option", "swap", ""])
def test_symbol_with_impossible_market_type(market_type: str) -> None:
    if market_type:
        with pytest.raises(UnknownSymbol):
            parse_symbol("BTC-USDT", market_type)
    else:
        assert parse_symbol("BTC-USDT", market_type).market_type == "spot"


def test_split_pair_takes_the_longest_quote() -> None:
    assert split_pair("BTCFDUSD") == ("BTC", "FDUSD")
    assert split_pair("USDT") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("binance", ("binance", None)),
        ("BINANCE_FUTURES", ("binance", "perpetual")),
        ("binance_spot", ("binance", "spot")),
        ("binance_derivatives", ("binance", "perpetual")),
        ("binance-usdm", ("binance", "perpetual")),
        ("okx_swap", ("okx", "perpetual")),
        ("okx_spot", ("okx", "spot")),
        ("OKX", ("okx", None)),
        ("deribit_options", ("deribit", "option")),
    ],
)
def test_exchange_aliases(text: str, expected: tuple[str, str | None]) -> None:
    assert parse_exchange(text) == expected


@pytest.mark.parametrize("text", ["", "kraken", "binance_", "binance_x", "spot"])
def test_unknown_exchange_is_refused(text: str) -> None:
    with pytest.raises(UnknownExchange):
        parse_exchange(text)


def instrument(native: str, base: str, quote: str, product: str = "spot", market_type: str = "spot") -> Instrument:
    return Instrument(
        exchange="binance", product=product, native=native, base=base, quote=quote, market_type=market_type
    )


@pytest.fixture
def index() -> InstrumentIndex:
    return InstrumentIndex(
        [
            instrument("BTCUSDT", "BTC", "USDT"),
            instrument("BTCUSDT", "BTC", "USDT", "usdm", "perpetual"),
            instrument("USDTUSD", "USDT", "USD"),
            instrument("BTCUSD_PERP", "BTC", "USD", "coinm", "perpetual"),
        ]
    )


def test_native_name_is_looked_up_before_it_is_taken_apart(index: InstrumentIndex) -> None:
    assert parse_symbol("USDTUSD").pair == "USD-TUSD"
    found = index.find("usdtusd")
    assert found is not None and found.symbol == "USDT-USD"


def test_shared_native_name_means_spot_unless_said_otherwise(index: InstrumentIndex) -> None:
    assert [index.find("btcusdt", market_type=kind).instrument for kind in (None, "perpetual")] == [
        "BTC-USDT",
        "BTC-USDT-PERP",
    ]  # type: ignore[union-attr]
    assert index.find("BTC/USDT-SWAP").key == "binance.BTC-USDT-PERP"  # type: ignore[union-attr]
    assert index.find("BTCUSD_PERP").instrument == "BTC-USD-PERP"  # type: ignore[union-attr]


def test_unlisted_symbol_is_none(index: InstrumentIndex) -> None:
    assert index.find("ETHUSDT") is None
    assert index.find("BTCUSDT", exchange="okx") is None
    assert index.native("ETHUSDT") is None


def test_listed_again_replaces(index: InstrumentIndex) -> None:
    before = len(index)
    index.add(Instrument(exchange="binance", product="spot", native="BTCUSDT", base="BTC", quote="USDT", tick="0.5"))
    assert len(index) == before
    assert index.native("BTCUSDT", product="spot").tick == "0.5"  # type: ignore[union-attr]


def test_instrument_attributes_say_all_names() -> None:
    future = Instrument(
        exchange="binance", product="usdm", native="BTCUSDT_261225", base="BTC", quote="USDT", market_type="future",
        expiry="20261225", tick="0.1", price_precision=1,
    )  # fmt: skip
    assert future.key == "binance.BTC-USDT-20261225"
    assert future.attributes() | {"lot": "0"} == future.attributes()
    assert future.name == Symbol("BTC", "USDT", "future", "20261225")
