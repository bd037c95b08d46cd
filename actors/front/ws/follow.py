"""A ring that somebody is subscribed to: where we are in it, and our wish to be woken."""

from __future__ import annotations

import logging

import numpy as np

from ....ringbuf import DirectoryFull, ReaderKind, ReaderLine, StreamReader
from ...latency import FrontLatency
from .channels import RECORDS
from .render import Row
from .topics import Topic

log = logging.getLogger(__name__)

FEW_ROWS = 32  # up to here rows are looked at one by one; above, numpy picks those that somebody wants


class Follower:
    """Follows one ring.

    Attributes:
        cursor: sequence of the next record.
        lone: ``lone(cursor)``: the next record if it is the only new one, else None.

    Args:
        reader: of the stream; the follower does not own it.
        latency: what the way of its records takes.
        name: of the line in the reader file.
        doorbell: number of this actor's doorbell; None = it is only looked at from a timer.
        rest_s: after rows came, the doorbell is asked for only so much later: for rings whose readers are served at
            a slower cadence than the ring moves.
    """

    def __init__(
        self, reader: StreamReader, latency: FrontLatency, name: str, doorbell: int | None, rest_s: float = 0.0
    ) -> None:
        self.reader = reader
        self.latency = latency
        self.producer = reader.spec.producer
        self.record = reader.spec.record
        self.rest_s = rest_s
        self.resting_until = 0.0  # monotonic, s
        self.topics: dict[int, Topic] = {}
        self._wanted = np.zeros(reader.spec.keys_max, np.bool_)
        self.cursor = reader.published()
        row = RECORDS[self.record].struct
        self._unpack, self._size = row.iter_unpack, row.size
        self.lone = reader.lone_reader(row)
        self.line: ReaderLine | None = None
        if doorbell is not None:
            try:
                self.line = reader.register(name, ReaderKind.LOSSY, doorbell, self.cursor)
            except (DirectoryFull, OSError) as error:
                log.warning("ring=%s.%s is looked at from a timer: %s", self.producer, self.record, error)

    def add(self, topic: Topic) -> None:
        self.topics[topic.key_id] = topic
        self._wanted[topic.key_id] = True

    def remove(self, topic: Topic) -> None:
        if self.topics.get(topic.key_id) is topic:
            del self.topics[topic.key_id]
            self._wanted[topic.key_id] = False

    @property
    def behind(self) -> int:
        """Records that have been published and not yet read."""
        return self.reader.published() - self.cursor

    def read_rows(self, limit: int) -> tuple[list[Row], int, int]:
        """`(rows, read, lost)`: the next rows of the keys that are wanted, how many were looked at, how many lapped."""
        data, self.cursor, lost = self.reader.read_raw(self.cursor, limit)
        read = len(data) // self._size
        if read <= FEW_ROWS:
            return list(self._unpack(data)), read, lost
        rows = np.frombuffer(data, self.reader.dtype)
        return list(self._unpack(rows[self._wanted[rows["key_id"]]].tobytes())), read, lost

    def read(self, limit: int) -> tuple[np.ndarray, int, int]:
        """The same as an array, for rows of which only keys and numbers are looked at."""
        rows, self.cursor, lost = self.reader.read(self.cursor, limit)
        read = len(rows)
        if read > FEW_ROWS:
            rows = rows[self._wanted[rows["key_id"]]]
        return rows, read, lost

    def arm(self) -> None:
        """Ask for the doorbell at the next record. Then comes `full_barrier`, then a second look."""
        if self.line is not None:
            self.line.cursor = self.cursor
            self.line.arm(self.cursor + 1)

    def close(self) -> None:
        """Give the line back."""
        if self.line is not None:
            self.line.close()
            self.line = None
