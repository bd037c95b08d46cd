"""Every record type: its slot, its text, its schema."""

from __future__ import annotations

import numpy as np
import pytest

from tickring.codecs.record import Flag, RecordType
from tickring.codecs.records import BY_NAME, FUNDING, KLINE, KLINE_OPEN, LIQUIDATION, MARKET_RECORDS, OPEN_INTEREST

KEY = {"price_precision": 2, "quantity_precision": 3, "interval": "1m"}


@pytest.mark.parametrize("record", MARKET_RECORDS, ids=lambda record: record.name)
def test_slot_and_table_follow_from_the_declaration(record: RecordType) -> None:
    assert record.slot_size % 64 == 0 and record.struct.size == record.dtype.itemsize == record.slot_size
    assert not record.tail or record.tail & (record.tail - 1) == 0
    names = [name for name, _, _ in record.columns()]
    assert len(set(names)) == len(names) and set(record.identity) <= set(names)
    assert record.spec("feed", capacity=1024, keys_max=4).slot_size == record.slot_size
    assert BY_NAME[record.name] is record


@pytest.mark.parametrize("record", MARKET_RECORDS, ids=lambda record: record.name)
def test_text_of_a_record_has_exactly_the_members_of_its_schema(record: RecordType) -> None:
    row = np.zeros(1, record.dtype)[0]
    schema = record.json_schema()
    empty = record.to_dict(row, KEY)
    assert set(schema["required"]) <= set(empty) <= set(schema["properties"])
    for field in record.fields:
        if field.length == 1:
            row[field.name] = 1
    assert set(record.to_dict(row, KEY)) == set(schema["properties"])


def test_flags_are_different_bits() -> None:
    values = [flag.value for flag in Flag]
    assert all(value & (value - 1) == 0 for value in values) and sum(values) == (1 << len(values)) - 1


def test_bars_are_told_apart_by_interval_in_key_table_and_text() -> None:
    for record in (KLINE, KLINE_OPEN):
        assert record.identity == ("exchange", "instrument", "interval", "epoch", "nth")
        assert record.key_names == ("exchange", "market_type", "symbol", "instrument", "interval")
        assert next(iter(record.to_dict(np.zeros(1, record.dtype)[0], KEY))) == "interval"
    assert KLINE.tail >= 1500


def test_flags_of_a_bar_say_where_it_comes_from() -> None:
    def text(flags: int) -> dict[str, object]:
        return KLINE.members([0] * 11, flags, KEY)

    assert (text(0)["source"], text(Flag.BACKFILL)["source"], text(Flag.ROLLED_UP)["source"]) == (
        "stream", "rest", "rolled_up",
    )  # fmt: skip
    assert text(Flag.CLOSED)["closed"] is True and text(0)["closed"] is False
    assert text(Flag.PARTIAL)["partial"] is True and text(0)["partial"] is False


def test_small_rates_have_no_exponent_and_unknown_values_are_left_out() -> None:
    members = FUNDING.members([-0.00001012, 0.0, 1_700_000_000_000, 0, 0.0, 0.0], int(Flag.SETTLED), KEY)
    assert members == {"rate": "-0.00001012", "next_funding_ts": 1_700_000_000_000, "is_settlement": True}
    assert OPEN_INTEREST.members([5.0, 0.0, 0.0], int(Flag.INVERSE), KEY)["unit"] == "contracts"
    assert LIQUIDATION.members([0, 1.0, 1.0, 0.0, 0.0, 1.0, 2], 0, KEY)["status"] == "cancelled"
