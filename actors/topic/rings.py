"""A topic's streams: what a batch of events becomes in them, and how much room its readers leave."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ...codecs.desk.records import DEAD_LETTER, EVENT, NO_KEY, TEXTS
from ...codecs.record import Flag, RecordType
from ...ringbuf import (
    DirectoryFull,
    KeyTooLong,
    KeyWriter,
    NoSpace,
    StreamReader,
    StreamWriter,
    bytes_filename,
    keys_filename,
    read_spec,
)
from ...ringbuf.bytering import ByteRingWriter
from ..runtime import ActorContext
from .accounts import OVERFLOW, Accounts
from .chunk import TOPIC_KEY, Chunk, Fetched, Tally
from .config import Config
from .deadlog import DeadLog
from .decoding import Decode, event_id_of
from .positions import Positions
from .repeats import Repeats
from .room import Room
from .rows import HEADERS_SIZE, Rows
from .specs import live_record

log = logging.getLogger(__name__)

CHUNK_BYTES_MAX = 1 << 20  # events are published at the latest when their bytes reach this
OVERFLOWS_PER_LINE = 1000


class TopicRings:
    """The producer's side of a topic's streams.

    Raises:
        RingError: they are not there, or another process produces them.
    """

    def __init__(self, ctx: ActorContext, decode: Decode | None) -> None:
        config: Config = ctx.config
        self.name, self.config, self.topic = ctx.name, config, config.topic
        self._decode = decode
        self.writers: dict[str, StreamWriter] = {}
        self.readers: dict[str, StreamReader] = {}  # of our own streams
        for record in (EVENT, DEAD_LETTER, live_record(config.topic)):
            if record is not None:
                self._attach(ctx, record)
        self.bytes = ByteRingWriter(ctx.folder / bytes_filename(ctx.name, TEXTS))
        self.positions = Positions(ctx.folder, ctx.name, self.writers["event"].epoch)
        self._publish_events = self.writers["event"].packed_publisher()
        self._dead = self.writers["dead_letter"].chunked(DEAD_LETTER.struct, DEAD_LETTER.values)
        live = live_record(config.topic)
        self.live = self.writers[live.name] if live is not None else None
        self._live = self.live.chunked(live.struct, live.values) if self.live and live else None
        self._add_keys(ctx)
        self.room = Room(
            self.writers, self.readers, live.name if live else "", self.bytes.capacity,
            stored=config.clickhouse is not None,
        )  # fmt: skip
        self.repeats = Repeats(config.repeats_kept)
        self.tally = Tally()
        self.newest_ns = 0  # the broker's time of the newest event that an earlier life published; 0 = none is left
        self.resume = self._find_ends()
        self._there = self._find_live()
        self._rows = Rows(
            decode, live=live.name if live else "", account=config.default_account, accounts=self._accounts,
            there=self._there, repeats=self.repeats, tally=self.tally, dead_log=DeadLog(config.topic),
            event_bytes_max=self.bytes.capacity // 8, chunk_bytes=min(CHUNK_BYTES_MAX, self.bytes.capacity // 32),
        )  # fmt: skip

    def _attach(self, ctx: ActorContext, record: RecordType) -> None:
        spec = record.spec(ctx.name, capacity=4, keys_max=1)
        made, _ = read_spec(ctx.folder / spec.filename)
        # sizes are the supervisor's choice; what a record is, is ours
        expected = replace(spec, capacity=made.capacity, keys_max=made.keys_max)
        self.writers[record.name] = StreamWriter(ctx.folder, expected, ctx.doorbells, time.time_ns())
        self.readers[record.name] = StreamReader(ctx.folder, ctx.name, record.name, record.dtype)

    # -- keys -------------------------------------------------------------------------------------------------------

    def _add_keys(self, ctx: ActorContext) -> None:
        self._keys = KeyWriter(ctx.folder / keys_filename(ctx.name))
        key_id = self._keys.add(f"topic:{self.topic}", {"topic": self.topic})
        assert key_id == TOPIC_KEY, f"key directory {self.name}: row {key_id} is the topic's own"
        for name in ("event", "dead_letter"):
            self.writers[name].add_key(TOPIC_KEY)
        overflow = self._keys.add(OVERFLOW, {"account_id": OVERFLOW})
        self._accounts = Accounts(self._add_account)
        if self.live is not None:
            self.live.add_key(overflow)
            self._accounts.rows[OVERFLOW] = overflow
            for key in list(self._keys)[overflow + 1 :]:
                with contextlib.suppress(NoSpace):  # then it is tried again when the account comes
                    self.live.add_key(key.key_id)
                    self._accounts.rows[key.text] = key.key_id

    def _add_account(self, account: str) -> int | None:
        """The row of an account seen for the first time; None where it gets none."""
        assert self.live is not None
        try:
            if account == self._keys[TOPIC_KEY].text:
                raise KeyTooLong(f"key {account!r}: it is the topic's own")
            key_id = self._keys.add(account, {"account_id": account})
            self.live.add_key(key_id)
        except (DirectoryFull, KeyTooLong, NoSpace) as error:
            if self.tally.overflowed % OVERFLOWS_PER_LINE == 0:
                log.warning(
                    "topic=%s account=%.100s goes under %s (see kafka.accounts_max): %s",
                    self.topic, account, OVERFLOW, error,
                )  # fmt: skip
            self.tally.overflowed += 1
            return None
        return key_id

    # -- what an earlier life left ------------------------------------------------------------------------------------

    def _find_ends(self) -> dict[int, int]:
        """Offset of the next event of each partition, as far as ring and positions tell; fills the memory of ids."""
        reader, ends = self.readers["event"], dict[int, int]()
        rows, _, _ = reader.read(reader.oldest(), reader.capacity)
        for partition in np.unique(rows["partition"]).tolist():
            ends[partition] = int(rows["offset"][rows["partition"] == partition].max()) + 1
        if len(rows):
            self.newest_ns = int(np.minimum(rows["timestamp"] * 1_000_000, rows["ts_recv_ns"]).max())
        for row in rows[-self.config.repeats_kept :] if self._decode is not None else ():
            self._remember(row)
        return ends

    def _remember(self, row: np.void) -> None:
        key_size, size = int(row["key_size"]), int(row["value_size"])
        flags, at = int(row["flags"]), int(row["text_at"])
        if flags & Flag.DEAD:
            return
        if flags & Flag.HEADERS:
            head = self.bytes.read(at, HEADERS_SIZE.size)
            if head is None:
                return
            at += HEADERS_SIZE.size + HEADERS_SIZE.unpack(head)[0]
        at += 0 if key_size == NO_KEY else key_size
        value = self.bytes.read(at, size)
        if value is not None and (event_id := event_id_of(value)):
            self.repeats.remember(event_id)

    def known(self, partition: int) -> int | None:
        """Offset of the partition's next event; None where shared memory does not tell."""
        return max((p for p in (self.resume.get(partition), self.positions[partition]) if p is not None), default=None)

    def begin(self, partition: int, position: int) -> None:
        """Nothing of the partition was published yet, or what follows is lost: go on at `position`."""
        self.positions[partition] = self.resume[partition] = position

    def _find_live(self) -> set[tuple[str, int, int, int]]:
        """Live rows behind the last `event` rows: a crash came between them, and they must not come twice."""
        found = set()
        for name, reader in self.readers.items():
            if name == "event":
                continue
            rows, _, _ = reader.read(reader.oldest(), reader.capacity)
            ends = np.zeros(1 << 16, np.int64)
            for partition in np.unique(rows["partition"]).tolist():
                ends[partition] = self.known(partition) or 0
            for row in rows[rows["offset"] >= ends[rows["partition"]]]:
                found.add((name, int(row["partition"]), int(row["offset"]), int(row["item"])))
        if found:
            log.info("topic=%s live rows without events=%d: not published again", self.topic, len(found))
        return found

    # -- from events to rows ------------------------------------------------------------------------------------------

    def chunks(self, fetched: Fetched, ts_recv_ns: int) -> Iterator[Chunk]:
        """Decode events into chunks; each must be published before the next one is asked for."""
        return self._rows.chunks(fetched, ts_recv_ns, self._place)

    def _place(self) -> tuple[int, int]:
        """Number of the next event, and position of its first byte."""
        return self.writers["event"].counts[TOPIC_KEY], self.bytes.published()

    def publish(self, chunk: Chunk) -> None:
        """Make a chunk visible: its bytes, its live rows, and then, for good, its events."""
        data, step = b"".join(chunk.parts), self.bytes.capacity // 4
        assert len(data) == chunk.size, f"byte ring {self.name}: {len(data)} bytes, planned {chunk.size}"
        position = self.bytes.append(data[:step])
        assert position == chunk.at, f"byte ring {self.name}: appended at {position}, planned {chunk.at}"
        for start in range(step, len(data), step):
            self.bytes.append(data[start : start + step])
        if self._live is not None and chunk.live:
            self._live.extend(bytearray().join(chunk.live))
        for row in chunk.dead:
            self._dead.append(*row)
        self._dead.flush()
        self._publish_events(TOPIC_KEY, b"".join(chunk.rows))
        for partition, end in chunk.ends.items():
            self.begin(partition, end)
        self.tally.processed += len(chunk.rows)
        self.tally.items += len(chunk.live)
        if self._there:
            ends = self.resume
            self._there -= {one for one in self._there if one[2] < ends.get(one[1], 0)}

    def held_by(self, chunk: Chunk) -> str:
        """The stream whose durable reader still needs what the chunk would overwrite; "" where there is room."""
        return self.room.held_by(len(chunk.rows), len(chunk.live), chunk.at + chunk.size)

    def close(self) -> None:
        for part in (*self.readers.values(), *self.writers.values(), self.bytes, self._keys, self.positions):
            part.close()
