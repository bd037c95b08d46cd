"""Batches of the broker as the topic's actor takes them: the library's rules hold, whatever they are read as."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from tickring.actors.topic.link import _records, _WholeBatches

TP = TopicPartition("exec.reports.v1", 0)


def batch(first: int, n: int, *, producer: int = -1, transactional: bool = False) -> bytearray:
    """A batch of values `b"<offset>"`."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=1, is_transactional=transactional, producer_id=producer, producer_epoch=0,
        base_sequence=0, batch_size=1 << 20,
    )  # fmt: skip
    for i in range(n):
        builder.append(i, timestamp=1_741_080_000_000, key=None, value=b"%d" % (first + i), headers=[])
    data = bytearray(builder.build())
    data[:8] = first.to_bytes(8, "big")  # not under the checksum
    return data


def read(data: bytes, position: int, aborted: list[Any] | None = None) -> tuple[list[int], int]:
    """Offsets of the records from a position on, and the position behind them."""
    records = _WholeBatches(TP, MemoryRecords(data), aborted or [], position, None, None, True, fetcher.READ_COMMITTED)
    found = _records(list(records))
    assert all(one.value == b"%d" % one.offset for one in found)
    return [one.offset for one in found], records.next_fetch_offset


@pytest.mark.parametrize("position", [0, 1, 4])
def test_batches_from_a_position_inside_the_first_give_each_record_from_it_on(position: int) -> None:
    data = bytes(batch(0, 5) + batch(5, 5))
    assert read(data, position) == (list(range(position, 10)), 10)


def test_batches_before_the_position_give_nothing() -> None:
    assert read(bytes(batch(0, 5)), 5) == ([], 5)
    assert read(bytes(batch(0, 5) + batch(5, 2)), 5) == ([5, 6], 7)


def test_batch_with_a_wrong_checksum_is_refused() -> None:
    data = batch(0, 5)
    data[-1] ^= 1
    with pytest.raises(CorruptRecordException):
        read(bytes(data), 0)


def test_batch_of_an_aborted_transaction_is_left_out() -> None:
    data = bytes(batch(0, 2) + batch(2, 3, producer=7, transactional=True) + batch(5, 1))
    assert read(data, 0, [(7, 2)]) == ([0, 1, 5], 6)
