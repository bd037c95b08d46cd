"""The update of one row: written straight as JSON it is the same text as through its members."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickring.actors.front.ws.channels import BOOK, CHANNELS
from tickring.actors.front.ws.render import Renderer
from tickring.actors.front.ws.wire import Update
from tickring.codecs.record import Flag, RecordType
from tickring.ringbuf import Key

KEY = Key(
    3, "binance.币安-USDT",
    {"exchange": "binance", "market_type": "spot", "symbol": '币"安-USDT', "native": "币安USDT", "price_precision": 4,
     "interval": "1m"},
)  # fmt: skip
CHANNEL = 'trades.binance.spot.币"安-USDT'


def values_of(record: RecordType) -> st.SearchStrategy[tuple]:
    kinds = {
        "q": st.integers(0, 2**62),
        "d": st.floats(0, 1e15),
        "Q": st.integers(0, 2**62),
        "I": st.integers(0, 2**32 - 1),
    }
    words = {"liquidation status": st.integers(0, 3)}
    return st.tuples(
        *(st.one_of(st.just(0), words.get(field.kind.name, kinds[field.kind.code])) for field in record.fields)
    )


RECORDS = [channel.record for channel in CHANNELS.values() if channel.kind != BOOK]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
@given(data=st.data())
def test_update_written_as_json_equals_the_encoded_members(record: RecordType, data: st.DataObject) -> None:
    flags = data.draw(
        st.sampled_from([0, Flag.SELL, Flag.AGGREGATED, Flag.SELL | Flag.AGGREGATED | Flag.LATE, Flag.VOID])
    )
    event_ns = data.draw(st.sampled_from([0, 1_790_000_000_123_456_789]))
    packed = record.struct.pack(
        data.draw(st.integers(0, 2**60)),
        1_790_000_000_999_000_000,
        event_ns,
        3,
        int(flags),
        *data.draw(values_of(record)),
    )
    (row,) = record.struct.iter_unpack(packed)
    assert row == np.frombuffer(packed, record.dtype)[0].item()[: len(row)]
    render = Renderer(record, KEY)
    members = render(row)
    expected = msgspec.json.encode(Update(CHANNEL, members["seq"], members["ts"], members))
    assert render.make_update(CHANNEL)(row) == expected
