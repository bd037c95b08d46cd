"""The catalog of streams: finding, following restarts, retiring."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tickring.actors import catalog as catalog_module
from tickring.actors.catalog import Catalog
from tickring.codecs.records import QUOTE, TRADE
from tickring.ringbuf import create_stream

from .front_rig import PRODUCER, Producer, instance_folder, instrument


@pytest.fixture
def folder() -> Iterator[Path]:
    with instance_folder() as folder:
        yield folder


@pytest.fixture
def producer(folder: Path) -> Iterator[Producer]:
    producer = Producer(folder, records=(TRADE, QUOTE))
    producer.add(instrument("BTC"))
    producer.add(instrument("ETH"))
    yield producer
    producer.close()


def test_catalog_of_a_missing_folder_is_empty() -> None:
    catalog = Catalog(Path("/dev/shm/tickring-test-no-such-folder"))
    assert catalog.all_streams() == []
    assert catalog.match("trade") == []


def test_source_is_found_by_every_name(folder: Path, producer: Producer) -> None:
    catalog = Catalog(folder)
    found = catalog.find_instrument("trade", "binance", "BTC-USDT")
    assert found is not None
    assert (found.exchange, found.market_type) == ("binance", "spot")
    assert found.symbol == found.instrument == "BTC-USDT"
    assert catalog.find_native("trade", "binance", "btcusdt") is found
    assert catalog.find_native("trade", "binance", "BTCUSDT", "perpetual") is None
    assert catalog.find_instrument("quote", "binance", "BTC-USDT") is not found
    assert catalog.find_instrument("trade", "binance", "BTC-USDT-PERP") is None
    assert catalog.find_instrument("funding", "binance", "BTC-USDT") is None
    catalog.close()


def test_match_takes_wildcards(folder: Path, producer: Producer) -> None:
    catalog = Catalog(folder)
    assert {source.symbol for source in catalog.match("trade", "*", "*", "*")} == {"BTC-USDT", "ETH-USDT"}
    assert [source.symbol for source in catalog.match("trade", "binance", "spot", "ETH-USDT")] == ["ETH-USDT"]
    assert catalog.match("trade", "okx") == []
    catalog.close()


def test_new_key_grows_the_generation_once(folder: Path, producer: Producer) -> None:
    catalog = Catalog(folder)
    before = catalog.generation
    assert not catalog.refresh()
    assert catalog.generation == before
    producer.add(instrument("SOL"))
    assert catalog.find_instrument("trade", "binance", "SOL-USDT") is None
    assert catalog.refresh()
    assert catalog.find_instrument("trade", "binance", "SOL-USDT") is not None
    assert catalog.generation == before + 1
    assert not catalog.refresh()
    catalog.close()


def test_replaced_stream_is_attached_anew_and_the_old_reader_lives_on_for_a_while(
    folder: Path, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(folder)
    old = catalog.find_instrument("trade", "binance", "BTC-USDT")
    assert old is not None
    producer.trade(old.key_id)
    producer.writers["trade"].close()
    (folder / f"{PRODUCER}.trade.ring").unlink()
    create_stream(folder, TRADE.spec(PRODUCER, capacity=1 << 14, keys_max=64), time.time_ns())
    assert catalog.refresh()
    new = catalog.find_instrument("trade", "binance", "BTC-USDT")
    assert new is not None
    assert new.epoch > old.epoch
    assert old.reader.count(old.key_id) == 1
    assert new.reader.count(new.key_id) == 0
    later = time.monotonic() + catalog_module.RETIRE_AFTER_S + 1
    monkeypatch.setattr(catalog_module.time, "monotonic", lambda: later)
    catalog.refresh()
    with pytest.raises((ValueError, TypeError)):
        old.reader.count(old.key_id)
    catalog.close()
    producer.writers.pop("trade")


def test_vanished_stream_is_dropped(folder: Path, producer: Producer) -> None:
    catalog = Catalog(folder)
    (folder / f"{PRODUCER}.trade.ring").unlink()
    assert catalog.refresh()
    assert [reader.record for reader in catalog.all_streams()] == ["quote"]
    assert catalog.match("trade") == []
    catalog.close()


def test_stream_of_another_declaration_is_left_out_and_not_tried_again(
    folder: Path, producer: Producer, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / f"{PRODUCER}.trade.ring"
    data = bytearray(path.read_bytes()[:4096])
    data[40] ^= 0xFF  # the fingerprint
    with path.open("r+b") as file:
        file.write(data)
    catalog = Catalog(folder)
    assert [reader.record for reader in catalog.all_streams()] == ["quote"]
    catalog.refresh()
    assert sum("left out" in record.message for record in caplog.records) == 1
    catalog.close()


def test_instrument_of_two_producers_is_taken_from_the_newer_stream(folder: Path, producer: Producer) -> None:
    newer = Producer(folder, "feed-binance-spot-1", records=(TRADE,), epoch_ns=time.time_ns() + 10**9)
    newer.add(instrument("BTC"))
    catalog = Catalog(folder)
    found = catalog.find_instrument("trade", "binance", "BTC-USDT")
    assert found is not None
    assert found.reader.producer == "feed-binance-spot-1"
    assert len(catalog.streams("trade")) == 2
    assert len(catalog.match("trade", symbol="BTC-USDT")) == 1
    catalog.close()
    newer.close()
