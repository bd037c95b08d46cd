"""Batches of the broker as the topic's actor takes them: the library's rules hold, whatever they are read as."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from tickring.actors.topic.batches import Batches, WholeBatches, records, whole_batches

TP = TopicPartition("exec.reports.v1", 0)


def batch(
    first: int,
    n: int,
    *,
    producer: int = -1,
    transactional: bool = False,
    name: str = "",
    compression: int = 1,
    value: bytes = b"",
) -> bytearray:
    """A batch of this value, or of `b"<offset>"`, with a header of this name."""
    headers: list[Any] = [(name, b"x")] if name else []
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=compression, is_transactional=transactional, producer_id=producer, producer_epoch=0,
        base_sequence=0, batch_size=1 << 20,
    )  # fmt: skip
    for i in range(n):
        builder.append(i, timestamp=1_741_080_000_000, key=None, value=value or b"%d" % (first + i), headers=headers)
    data = bytearray(builder.build())
    data[:8] = first.to_bytes(8, "big")  # not under the checksum
    return data


def read(data: bytes, position: int, aborted: list[Any] | None = None) -> tuple[list[int], int]:
    """Offsets of the records from a position on, and the position behind them."""
    batches = WholeBatches(TP, Batches(data), aborted or [], position, None, None, True, fetcher.READ_COMMITTED)
    found = list(records(list(batches)))
    assert all(one.value == b"%d" % one.offset for one in found)
    return [one.offset for one in found], batches.next_fetch_offset


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


@pytest.mark.parametrize("compression", [0, 1])
@pytest.mark.parametrize("position", [3, 5])
def test_batch_with_a_header_name_that_is_no_utf8_gives_its_records(compression: int, position: int) -> None:
    data = bytes(batch(0, 5) + renamed(batch(5, 5, name="a name", compression=compression)) + batch(10, 2))
    assert read(data, position) == (list(range(position, 12)), 12)
    batches = WholeBatches(TP, Batches(data), [], 5, None, None, True, fetcher.READ_COMMITTED)
    found = records([next(batches)])
    assert [one.headers for one in found] == [[(b"a \xff\xc3me".decode("utf-8", "surrogateescape"), b"x")]] * 5


def renamed(data: bytearray) -> bytearray:
    """A batch whose headers' name has bytes that are no UTF-8, under a checksum that is right."""
    head, body = data[:61], bytes(data[61:])
    packed = data[22] & 7 == 1
    body = (gzip.decompress(body) if packed else body).replace(b"a name", b"a \xff\xc3me")
    body = gzip.compress(body) if packed else body
    head[8:12] = (49 + len(body)).to_bytes(4, "big")
    head[17:21] = calc_crc32c(bytes(head[21:]) + body).to_bytes(4, "big")
    return head + bytearray(body)


def test_library_has_its_own_classes_again_after_a_session() -> None:
    usual = fetcher.PartitionRecords, fetcher.MemoryRecords
    with whole_batches():
        assert (fetcher.PartitionRecords, fetcher.MemoryRecords) == (WholeBatches, Batches)
    assert (fetcher.PartitionRecords, fetcher.MemoryRecords) == usual
