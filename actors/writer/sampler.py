"""Stores samples of a stream whose every record would be too much: the latest value of each changed key, once a second.

A sample is made of what the tails hold at that moment, so it cannot be made again: it goes to a file at once, with the
numbers up to which each key has been sampled. The samples of a flush interval are sent in one batch. After a crash they
are sent again from the file, with the same token, also when the stream itself is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ...codecs.record import RecordType
from ...ringbuf import ReaderKind, StreamReader
from ...storage.batch import SAMPLE, Batch, BatchHead, make_batch
from ...storage.errors import DiskUnusable
from ...storage.journal import Journal
from ...storage.schema import table_name
from .delivery import Delivery
from .follower import DURABLE_LINE, STORED_LINE
from .metrics import Metrics, StreamMetrics

log = logging.getLogger("tickring.writer.sampler")

FILE = struct.Struct("<QQIII")  # epoch, number, keys, size of the head, CRC-32 of what follows


@dataclass(frozen=True)
class Sample:
    """What the file holds: the batch of the last samples, and for each key how many records it had then."""

    epoch: int
    number: int
    counts: np.ndarray
    batch: Batch | None


class SampleFile:
    """The last samples of a stream, and for each key how many records it had then.

    File ``<stream>.sample``, replaced whole: header (see `FILE`), counts as u64, JSON of the `BatchHead`, Native block.
    """

    def __init__(self, folder: Path, stream: str) -> None:
        self.path = folder / f"{stream}.sample"

    def load(self) -> Sample | None:
        """The last sample, of whatever epoch; None when there is none."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        if len(data) < FILE.size:
            return None
        epoch, number, keys, head_size, crc = FILE.unpack_from(data)
        if zlib.crc32(data[FILE.size :]) != crc:
            return None
        head_at = FILE.size + 8 * keys
        head = data[head_at : head_at + head_size]
        batch = Batch(msgspec.json.decode(head, type=BatchHead), data[head_at + head_size :]) if head else None
        return Sample(epoch, number, np.frombuffer(data, "<u8", keys, FILE.size).copy(), batch)

    def store(self, epoch: int, number: int, counts: np.ndarray, batch: Batch | None) -> None:
        """Replace the file. It need not survive a loss of power: the stream does not either.

        Raises:
            DiskUnusable
        """
        head = msgspec.json.encode(batch.head) if batch else b""
        body = b"".join((counts.astype("<u8").tobytes(), head, batch.block if batch else b""))
        temporary = self.path.with_suffix(".new")
        try:
            temporary.write_bytes(FILE.pack(epoch, number, len(counts), len(head), zlib.crc32(body)) + body)
            os.replace(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise DiskUnusable(f"sample {self.path}: {error.strerror}: make room on that disk") from error


class Sampler:
    """One stream with one epoch; works on its tails."""

    def __init__(
        self, reader: StreamReader, record: RecordType, folder: Path, delivery: Delivery, metrics: Metrics
    ) -> None:
        self.reader, self.record, self.delivery = reader, record, delivery
        self.config = delivery.config
        self.stream = f"{reader.producer}.{reader.record}"
        self.metrics = StreamMetrics(metrics, self.stream, record.name)
        self.journal = Journal(folder, f"{self.stream}.samples")
        self.file = SampleFile(folder, self.stream)
        self.leaving = False
        self._leave = asyncio.Event()
        self._counts = np.zeros(0, np.uint64)
        self.number = 0  # of the next batch of samples
        self._held: tuple[np.ndarray, Batch] | None = None  # samples that are not sent yet, and what they make
        self._send_at = 0.0  # monotonic, s
        self._repeat: Batch | None = None
        try:
            self._take_up()
            leave_lines(reader)
        except BaseException:  # it is tried again and again
            self.journal.close()
            raise

    def _take_up(self) -> None:
        found, last = self.journal.position, self.file.load()
        self.number = found.safe if found is not None and found.epoch == self.reader.epoch else 0
        if last is None:
            return
        if last.epoch == self.reader.epoch:
            self._counts, self.number = last.counts, max(self.number, last.number + 1)
        if last.batch is not None and (found is None or found.epoch != last.epoch or found.safe <= last.number):
            self._repeat = last.batch
            last.batch.uncertain = True

    async def run(self) -> None:
        """Sample until told to leave, then once more."""
        log.info(
            "stream=%s epoch=%d sampling each=%d ms", self.stream, self.reader.epoch, self.config.sample_interval_ms
        )
        if self._repeat is not None:
            try:
                await self._send(self._repeat)
            except DiskUnusable as error:  # the spool is full: others wait at their source, a sample is given up
                log.warning("stream=%s sample of the last life given up: %s", self.stream, error)
                self.metrics.metrics.disk_errors.inc()
                self.metrics.failed.inc(self._repeat.head.rows)
            self._repeat = None
        while True:
            last = self.leaving
            await self._sample()
            if last:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.sample_interval_ms / 1000):
                    await self._leave.wait()

    async def _sample(self) -> None:
        """Take a sample, and send what is held when it is due."""
        try:
            await self._take()
            if self._held is not None and (self.leaving or time.monotonic() >= self._send_at):
                # Of one number only what is sent first: its token is that of these rows.
                held, self._held, self.number = self._held, None, self.number + 1
                await self._send_held(*held)
        except DiskUnusable as error:
            # A sample that is neither stored nor on disk is given up: the next one is as good.
            log.warning("stream=%s samples given up: %s", self.stream, error)  # a repeated line is written once
            self.metrics.metrics.disk_errors.inc()

    async def _take(self) -> None:
        """Hold a sample of the keys that have changed, in the file together with those that are held already.

        Raises:
            DiskUnusable: it is not held.
        """
        reader = self.reader
        keys = reader.keys.refresh()
        counts = np.fromiter((reader.count(key_id) for key_id in range(keys)), np.uint64, keys)
        before = np.zeros(keys, np.uint64)
        before[: len(self._counts)] = self._counts[:keys]
        changed = np.flatnonzero(counts > before)
        newest = [rows for key_id in changed.tolist() if len(rows := reader.last(key_id, 1))]
        if not newest:
            return
        rows = np.concatenate(newest)
        before[rows["key_id"]] = rows["nth"] + 1  # a record that came since the count was read is in the sample too
        held = rows if self._held is None else np.concatenate([self._held[0], rows])
        batch = make_batch(
            self.record, self.stream, table_name(self.record), held, reader.keys,
            epoch=reader.epoch, first=self.number, stop=self.number + 1, kind=SAMPLE,
        )  # fmt: skip
        self.metrics.last_message.set(int(rows["ts_recv_ns"].max()) / 1e9)
        if batch is not None:
            try:
                await asyncio.to_thread(self.file.store, reader.epoch, self.number, before, batch)
            except DiskUnusable:
                self.metrics.failed.inc(len(rows))
                raise
            if self._held is None:
                self._send_at = time.monotonic() + self.config.flush_interval_ms / 1000
            self._held = held, batch
        self._counts = before

    async def _send_held(self, rows: np.ndarray, batch: Batch) -> None:
        try:
            await self._send(batch)
        except DiskUnusable:
            self.metrics.failed.inc(len(rows))
            raise
        self.metrics.add(self.metrics.count(rows, self.reader.keys))

    async def _send(self, batch: Batch) -> None:
        await self.delivery.deliver(batch)
        if batch.head.epoch == self.reader.epoch:
            self.journal.mark(self.reader.epoch, batch.head.stop)

    def acknowledged(self, head: BatchHead) -> None:
        """ClickHouse has a sample of this stream."""
        self.metrics.batches.inc()

    def leave(self) -> None:
        """Take a last sample and return from `run`."""
        self.leaving = True
        self._leave.set()

    def close(self) -> None:
        self.journal.close()
        self.reader.close()


def leave_lines(reader: StreamReader) -> None:
    """Give back lines of a life in which the stream was stored whole: nobody moves their cursors any more."""
    reader.register(DURABLE_LINE, ReaderKind.DURABLE).close()
    reader.register(STORED_LINE, ReaderKind.LOSSY).close()
