"""Batches where the library has records: each record is copied there into a dataclass of eleven fields.

That is two thirds of what `getmany` costs. What counts (checksums, aborted transactions, control batches, positions)
stays the library's own work.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import google_crc32c
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

LENGTH_AT, RECORDS_AT, MAGIC_AT = 8, 12, 16  # of a batch: its length in bytes, from RECORDS_AT on
CHECKED_AT = 21  # from here on it is under its checksum

# By the CPU's own instruction, in the place of the library's table
crc32c: Callable[[bytes], int] | None = google_crc32c.value if google_crc32c.implementation == "c" else None


class _Names(bytearray):
    """Bytes of a batch, of which a header's name may be any: the library's decoder takes its slices' texts."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Names(found) if isinstance(at, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> str:
        return super().decode(encoding, "surrogateescape")


class _AnyNames(_DefaultRecordBatchPy):  # pyright: ignore[reportGeneralTypeIssues] - its decoder is what is wanted
    """A batch decoded in Python, with the names of headers as they are; what is no UTF-8 in them becomes surrogates.

    The protocol says that names are UTF-8, but brokers take whatever a producer sends.
    """

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer = _Names(self._buffer)


class _Later:
    """The records of a batch, decoded when they are asked for: used at once, they are in the CPU's cache.

    Attributes:
        offset: of the last record that the batch had when it was produced.
        position: records before it are left out; a batch may begin before what was asked for.
    """

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch, self._data = batch, data
        self.offset, self.position = batch.next_offset - 1, 0

    def __iter__(self) -> Iterator[Any]:
        try:
            found = list(self._batch)
        except UnicodeDecodeError:
            found = list(_AnyNames(bytes(self._data)))
        if found and found[0].offset < self.position:
            found = [one for one in found if one.offset >= self.position]
        return iter(found)


class _Batch:
    """A batch that gives its records as one."""

    def __init__(self, batch: Any, data: memoryview) -> None:
        self._batch, self._data = batch, data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[_Later]:
        yield _Later(self._batch, self._data)

    def validate_crc(self) -> bool:
        if crc32c is None or self._data[MAGIC_AT] != 2:
            return bool(self._batch.validate_crc())
        return bool(self._batch.crc == crc32c(bytes(self._data[CHECKED_AT:])))


class Batches:
    """The batches of one partition's part of an answer.

    Args:
        data: as the broker sent them.
    """

    def __init__(self, data: bytes) -> None:
        records = MemoryRecords(data)
        self.has_next, self.size_in_bytes, self._next = records.has_next, records.size_in_bytes, records.next_batch
        self._data, self._at = memoryview(data), 0

    def next_batch(self) -> _Batch:
        start = self._at
        size = int.from_bytes(self._data[start + LENGTH_AT : start + RECORDS_AT], "big")
        self._at = start + RECORDS_AT + size
        return _Batch(self._next(), self._data[start : self._at])


class WholeBatches(fetcher.PartitionRecords):
    """Batches in the place of records."""

    def _consumer_record(self, tp: Any, record: Any) -> Any:
        record.position = self.next_fetch_offset
        return record


@contextlib.contextmanager
def whole_batches() -> Iterator[None]:
    """While a session lasts. The library has no place to pass them, and nothing else of this process consumes."""
    usual = fetcher.PartitionRecords, fetcher.MemoryRecords
    fetcher.PartitionRecords, fetcher.MemoryRecords = WholeBatches, Batches
    try:
        yield
    finally:
        fetcher.PartitionRecords, fetcher.MemoryRecords = usual


def records(batches: Iterable[Any]) -> Iterator[Any]:
    """They have `offset`, `timestamp`, `key`, `value` and `headers`, which is what we read."""
    return itertools.chain.from_iterable(batches)
