"""What the writer knows about each stream beyond its own life: how far it is safe, and what it was about to store.

A batch is a closed range of a ring's sequences, and its deduplication token is made of that range. So all that a
restarted writer needs in order to repeat an interrupted insert exactly is the range: the rows are still in the ring,
which outlives the writer. One small file for each stream holds it, with two slots that are written in turn, each with a
CRC: the newest whole one counts.

| offset | size | field | meaning |
|---|---|---|---|
| 0 | 8 | generation | grows with each store; the slot is ``generation % 2`` |
| 8 | 8 | epoch_ns | of the stream; another epoch is another ring |
| 16 | 8 | safe | first sequence that is neither in ClickHouse nor in the spool |
| 24 | 8 | stop | end of the open intent: ``[safe, stop)`` may have been sent; equal to `safe` = none |
| 32 | 8 | probe_nth | header of a row of the intent: with the key it names the row for good ... |
| 40 | 4 | probe_key | ... so that the table can be asked whether the batch is there |
| 44 | 4 | drained | 1 = the ring was empty when the writer left it, so nothing is lost if it is gone |
| 48 | 4 | crc | CRC-32 of the 48 bytes before it |

The order is: intent, send, acknowledgement, next intent (which also says that the one before is safe). A SIGKILL at any
point leaves either an intent, which is repeated with the same token and the same rows, or none. Stores are not fsynced:
what an fsync guards against, the loss of power, also takes the ring with the rows that an intent speaks of, and a new
ring has a new epoch. What must survive that is in the spool, which is fsynced.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from .errors import DiskUnusable

SLOT = struct.Struct("<QQQQQII")
CRC = struct.Struct("<I")
SLOT_SIZE = 64
assert SLOT.size == 48
assert SLOT.size + CRC.size <= SLOT_SIZE


@dataclass(frozen=True)
class Position:
    """How far a stream is stored. Ranges are half-open: ``safe <= sequence < stop`` is the open intent."""

    epoch: int
    safe: int
    stop: int
    probe_key: int = 0
    probe_nth: int = 0
    drained: bool = False

    @property
    def open(self) -> bool:
        return self.stop > self.safe


class Journal:
    """The file of one stream. One process writes it.

    Raises:
        DiskUnusable: the file cannot be made.
    """

    def __init__(self, folder: Path, stream: str) -> None:
        self.path = folder / f"{stream}.journal"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                if os.fstat(self._fd).st_size < 2 * SLOT_SIZE:
                    # both slots: a disk that fills up later does not concern it
                    os.pwrite(self._fd, bytes(2 * SLOT_SIZE), 0)
            except OSError:
                os.close(self._fd)
                raise
        except OSError as error:
            raise DiskUnusable(f"journal {self.path}: {error.strerror}: make room or mend its rights") from error
        self._generation, self.position = self._load()

    def _load(self) -> tuple[int, Position | None]:
        newest: tuple[int, Position | None] = (0, None)
        for slot in range(2):
            data = os.pread(self._fd, SLOT.size + CRC.size, slot * SLOT_SIZE)
            if len(data) < SLOT.size + CRC.size or zlib.crc32(data[: SLOT.size]) != CRC.unpack_from(data, SLOT.size)[0]:
                continue
            generation, epoch, safe, stop, nth, key, drained = SLOT.unpack_from(data)
            if generation > newest[0]:
                newest = (generation, Position(epoch, safe, stop, key, nth, bool(drained)))
        return newest

    def store(self, position: Position) -> None:
        """Write a position; it is there for the next process once this returns.

        Raises:
            DiskUnusable: the position before it stands.
        """
        assert position.safe <= position.stop, f"journal {self.path.name}: {position}"
        self._generation += 1
        data = SLOT.pack(
            self._generation, position.epoch, position.safe, position.stop, position.probe_nth, position.probe_key,
            position.drained,
        )  # fmt: skip
        try:
            os.pwrite(self._fd, data + CRC.pack(zlib.crc32(data)), self._generation % 2 * SLOT_SIZE)
        except OSError as error:
            self._generation -= 1
            raise DiskUnusable(f"journal {self.path}: {error.strerror}: make room on that disk") from error
        self.position = position

    def intend(self, epoch: int, safe: int, stop: int, probe_key: int, probe_nth: int) -> None:
        """Say that ``[safe, stop)`` is about to be sent, and that everything before it is safe."""
        self.store(Position(epoch, safe, stop, probe_key, probe_nth))

    def mark(self, epoch: int, safe: int, *, drained: bool = False) -> None:
        """Say that everything before `safe` is safe and nothing is under way."""
        self.store(Position(epoch, safe, safe, drained=drained))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._fd)
