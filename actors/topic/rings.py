"""A topic's streams: what a batch of events becomes in them, and how much room its readers leave."""

from __future__ import annotations

import contextlib
import logging
import struct
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from ...codecs.desk.money import amount_bytes
from ...codecs.desk.records import DEAD_LETTER, EVENT, FILL, NO_KEY, TEXTS, VARIANT_SHIFT
from ...codecs.desk.times import TIME_MS_MAX
from ...codecs.errors import Undecidable
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
from .config import Config
from .deadlog import PREVIEW_MAX, DeadLog
from .decoding import Decode, event_id_of
from .positions import Positions
from .repeats import Repeats
from .room import Room
from .specs import live_record

log = logging.getLogger(__name__)

TOPIC_KEY = 0  # row of the topic itself in the key directory
CHUNK_EVENTS_MAX = 512  # with all that is made of them they stay in the CPU's cache
CHUNK_BYTES_MAX = 1 << 20  # events are published at the latest when their bytes reach this
OVERFLOWS_PER_LINE = 1000
TOO_LARGE = "too_large"
ITEM_BYTES = 500  # what the text of an item may have beyond its event's
HEADERS, REPEATED, ROUNDED, SELL = int(Flag.HEADERS), int(Flag.REPEATED), int(Flag.ROUNDED), int(Flag.SELL)
HEADERS_SIZE = struct.Struct("<I")
# A fill's row with its amounts in halves of 64 bits: nearly all fit in the lower one, and need no bytes object.
HALVES = struct.Struct("<qq")
FILL_ROW = struct.Struct(FILL.struct.format.replace("16s", "qq"))
FILL_VALUES = (
    "quantity", "quantity_high", "price", "price_high", "commission", "commission_high", "offset", "text_at",
    "text_size", "partition", "item",
)  # fmt: skip

_event_row = EVENT.struct.pack
_msgpack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


Fetched = Mapping[int, Sequence[Any]]  # partition -> its next records, as aiokafka has them


@dataclass
class Chunk:
    """Events on their way into the streams: bytes, rows, and how far they bring each partition.

    An event's bytes are followed by the texts of its live rows, or by that of its dead letter.
    """

    at: int  # position of the first byte
    size: int = 0
    parts: list[bytes] = field(default_factory=list)
    rows: list[bytes] = field(default_factory=list)  # of `event`, packed
    live: list[tuple[Any, ...]] = field(default_factory=list)  # what `append` of the live stream takes
    dead: list[tuple[Any, ...]] = field(default_factory=list)  # the same of `dead_letter`
    ends: dict[int, int] = field(default_factory=dict)  # partition -> offset of its next event


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
        self._chunk_bytes = min(CHUNK_BYTES_MAX, self.bytes.capacity // 32)
        self.event_bytes_max = self.bytes.capacity // 8  # of one event, and of the texts of its live rows
        self._chunk_events = min(CHUNK_EVENTS_MAX, self.writers["event"].spec.capacity // 4)
        self.positions = Positions(ctx.folder, ctx.name, self.writers["event"].epoch)
        self._publish_events = self.writers["event"].packed_publisher()
        self._dead = self.writers["dead_letter"].chunked(DEAD_LETTER.struct, DEAD_LETTER.values)
        live = live_record(config.topic)
        self.live = self.writers[live.name] if live is not None else None
        fast = (FILL_ROW, FILL_VALUES) if live is FILL else (live.struct, live.values) if live else None
        self._live = self.live.chunked(*fast) if self.live and fast else None
        self._add_keys(ctx)
        self.room = Room(
            self.writers, self.readers, live.name if live else "", self.bytes.capacity,
            stored=config.clickhouse is not None,
        )  # fmt: skip
        self.repeats = Repeats(config.repeats_kept)
        self.processed = self.items = self.repeated = self.overflowed = self.misnamed = 0
        self.dead_by_reason: Counter[str] = Counter()
        self._dead_log = DeadLog(config.topic)
        self.resume = self._find_ends()
        self._there = self._find_live()

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
            self._accounts[OVERFLOW] = overflow
            for key in list(self._keys)[overflow + 1 :]:
                with contextlib.suppress(NoSpace):  # then it is tried again when the account comes
                    self.live.add_key(key.key_id)
                    self._accounts[key.text] = key.key_id

    def _add_account(self, account: str) -> int | None:
        """The row of an account seen for the first time; None where it gets none."""
        assert self.live is not None
        try:
            if account == self._keys[TOPIC_KEY].text:
                raise KeyTooLong(f"key {account!r}: it is the topic's own")
            key_id = self._keys.add(account, {"account_id": account})
            self.live.add_key(key_id)
        except (DirectoryFull, KeyTooLong, NoSpace) as error:
            if self.overflowed % OVERFLOWS_PER_LINE == 0:
                log.warning(
                    "topic=%s account=%.100s goes under %s (see kafka.accounts_max): %s",
                    self.topic, account, OVERFLOW, error,
                )  # fmt: skip
            self.overflowed += 1
            return None
        return key_id

    # -- what an earlier life left ------------------------------------------------------------------------------------

    def _find_ends(self) -> dict[int, int]:
        """Offset of the next event of each partition, as far as ring and positions tell; fills the memory of ids."""
        reader, ends = self.readers["event"], dict[int, int]()
        rows, _, _ = reader.read(reader.oldest(), reader.capacity)
        for partition in np.unique(rows["partition"]).tolist():
            ends[partition] = int(rows["offset"][rows["partition"] == partition].max()) + 1
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
        chunk = self._new_chunk()
        decode, pack, there, accounts, encode = self._decode, _event_row, self._there, self._accounts, _json
        ids, of_fills = self.repeats.table(), self.live is not None and self.live.spec.record == FILL.name
        chunk_bytes, chunk_events, event_max = self._chunk_bytes, self._chunk_events, self.event_bytes_max
        default = self.config.default_account
        nth, at, known = self.writers["event"].counts[TOPIC_KEY], chunk.at, len(ids)
        nth_stop, at_stop = nth + chunk_events, at + chunk_bytes
        parts, rows, live = chunk.parts, chunk.rows, chunk.live
        for partition, records in fetched.items():
            offset = -1
            for record in records:
                offset, stamp, key, value = record.offset, record.timestamp, record.key, record.value
                flags, key_size, first, refused = 0, NO_KEY, at, ""
                if value is None:
                    value = b""
                if headers := record.headers:
                    try:
                        body = _msgpack(headers)
                    except UnicodeEncodeError:
                        body = _msgpack(self._named(headers, partition, offset))
                    if len(body) > event_max // 2:
                        refused = TOO_LARGE
                    else:
                        parts.append(HEADERS_SIZE.pack(len(body)) + body)
                        at += HEADERS_SIZE.size + len(body)
                        flags = HEADERS
                if key is not None:
                    if len(key) >= NO_KEY:
                        key, refused = key[: NO_KEY - 1], TOO_LARGE
                    key_size = len(key)
                    parts.append(key)
                    at += key_size
                size = len(value)
                if at - first + size > event_max:
                    value, refused = value[:PREVIEW_MAX], TOO_LARGE
                    size = len(value)
                parts.append(value)
                at += size
                ts_event_ns = stamp * 1_000_000 if 0 <= stamp < TIME_MS_MAX else 0
                if decode is not None:
                    try:
                        if refused:
                            raise Undecidable(
                                "only a part of it is kept: its headers, its key or its value are too large", refused
                            )
                        event_id, event_ns, variant, rounded, items = decode(value, partition, offset, stamp)
                        if len(items) * (size + ITEM_BYTES) > event_max:
                            self._check_texts(items)
                        own = variant << VARIANT_SHIFT
                        if rounded:
                            own |= ROUNDED
                        ids[event_id] = None
                        if len(ids) == known:
                            own |= REPEATED
                            self.repeated += 1
                        ts_event_ns = event_ns
                        flags |= own
                        if there and items:
                            items = self._leave_out(items, partition, offset)
                        number = 0
                        for item in items:
                            if item is not None:
                                text = encode(item)
                                text_size = len(text)
                                if of_fills:
                                    commission = item.commission
                                    live.append((
                                        accounts[item.account_id], ts_recv_ns, item.timestamp,
                                        own | SELL if item.side == "SELL" else own, item.quantity, 0, item.price, 0,
                                        commission, commission >> 63, offset, at, text_size, partition, number,
                                    ))  # fmt: skip
                                else:
                                    account = getattr(item, "account_id", None) or default
                                    live.append((
                                        accounts[account], ts_recv_ns, item.timestamp, own, offset, at, text_size,
                                        partition, number,
                                    ))  # fmt: skip
                                parts.append(text)
                                at += text_size
                            number += 1  # noqa: SIM113 - `enumerate` costs more than the one item
                        known = len(ids)
                    except Undecidable as error:
                        flags |= Flag.DEAD
                        at += self._take_dead(chunk, error, value, partition, offset, ts_recv_ns, ts_event_ns, at)
                    except Exception as error:  # noqa: BLE001 - our own mistake: the event is kept, the topic goes on
                        flags |= Flag.DEAD
                        if len(ids) > known:  # it has not come before if it comes again
                            ids.popitem()
                        at -= self._take_back(chunk, partition, offset)
                        mistake = Undecidable(f"{type(error).__name__}: {error}", "internal_error")
                        at += self._take_dead(chunk, mistake, value, partition, offset, ts_recv_ns, ts_event_ns, at)
                rows.append(pack(
                    nth, ts_recv_ns, ts_event_ns, TOPIC_KEY, flags, offset, stamp, first, partition, key_size, size
                ))  # fmt: skip
                nth += 1
                if nth == nth_stop or at >= at_stop:
                    chunk.size, chunk.ends[partition] = at - chunk.at, offset + 1
                    yield chunk
                    chunk = self._new_chunk()
                    parts, rows, live, there = chunk.parts, chunk.rows, chunk.live, self._there
                    ids = self.repeats.table()
                    nth, at, known = self.writers["event"].counts[TOPIC_KEY], chunk.at, len(ids)
                    nth_stop, at_stop = nth + chunk_events, at + chunk_bytes
            if offset >= 0:
                chunk.ends[partition] = offset + 1
        chunk.size = at - chunk.at
        if rows:
            yield chunk

    def _new_chunk(self) -> Chunk:
        return Chunk(self.bytes.published())

    def _named(self, headers: Sequence[tuple[str, bytes | None]], partition: int, offset: int) -> list[Any]:
        """Headers of which a name is no UTF-8, with its bytes written out: they decide nothing."""
        names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name, _ in headers]
        self.misnamed += 1
        self._dead_log.tell(partition, offset, f"header names are no UTF-8, and are kept as {names}")
        return [[name, value] for name, (_, value) in zip(names, headers, strict=True)]

    def _check_texts(self, items: Sequence[Any]) -> None:
        """A long name in every fill may make much of little."""
        texts = sum(len(_json(item)) for item in items)
        if texts > self.event_bytes_max:
            raise Undecidable(f"its {len(items)} items take {texts} bytes", TOO_LARGE)

    def _leave_out(self, items: Sequence[Any], partition: int, offset: int) -> list[Any]:
        """The items, with None for those that an earlier life has published."""
        assert self.live is not None
        there, name = self._there, self.live.spec.record
        return [None if (name, partition, offset, n) in there else item for n, item in enumerate(items)]

    @staticmethod
    def _take_back(chunk: Chunk, partition: int, offset: int) -> int:
        """Take the live rows of an event out of a chunk, and their texts; returns the bytes of these."""
        size = 0
        while chunk.live and _origin(chunk.live[-1]) == (partition, offset):
            *_, text_size, _, _ = chunk.live.pop()
            size += text_size
            chunk.parts.pop()
        return size

    def _take_dead(
        self, chunk: Chunk, error: Undecidable, value: bytes, partition: int, offset: int, ts_recv_ns: int,
        ts_event_ns: int, at: int,
    ) -> int:  # fmt: skip
        """A dead letter, with its text at `at`; returns the bytes of that."""
        self.dead_by_reason[error.reason] += 1
        self._dead_log.say(error, value, partition, offset)
        if ("dead_letter", partition, offset, 0) in self._there:
            return 0
        text = _json([error.reason, str(error)[:PREVIEW_MAX]])
        chunk.parts.append(text)
        chunk.dead.append((TOPIC_KEY, ts_recv_ns, ts_event_ns, Flag.DEAD, offset, at, len(text), partition, 0))
        return len(text)

    def publish(self, chunk: Chunk) -> None:
        """Make a chunk visible: its bytes, its live rows, and then, for good, its events."""
        data, step = b"".join(chunk.parts), self.bytes.capacity // 4
        assert len(data) == chunk.size, f"byte ring {self.name}: {len(data)} bytes, planned {chunk.size}"
        position = self.bytes.append(data[:step])
        assert position == chunk.at, f"byte ring {self.name}: appended at {position}, planned {chunk.at}"
        for start in range(step, len(data), step):
            self.bytes.append(data[start : start + step])
        if self._live is not None:
            append = self._live.append
            for row in chunk.live:
                try:
                    append(*row)
                except struct.error:
                    append(*_in_halves(row))
            self._live.flush()
            self.items += len(chunk.live)
        for row in chunk.dead:
            self._dead.append(*row)
        self._dead.flush()
        self._publish_events(TOPIC_KEY, b"".join(chunk.rows))
        for partition, end in chunk.ends.items():
            self.begin(partition, end)
        self.processed += len(chunk.rows)
        if self._there:
            ends = self.resume
            self._there = {one for one in self._there if one[2] >= ends.get(one[1], 0)}

    def held_by(self, chunk: Chunk) -> str:
        """The stream whose durable reader still needs what the chunk would overwrite; "" where there is room."""
        return self.room.held_by(len(chunk.rows), len(chunk.live), chunk.at + chunk.size)

    def close(self) -> None:
        for part in (*self.readers.values(), *self.writers.values(), self.bytes, self._keys, self.positions):
            part.close()


def _origin(row: tuple[Any, ...]) -> tuple[int, int]:
    """Partition and offset of the event of a live row: both kinds of rows end in the same five values."""
    *_, offset, _, _, partition, _ = row
    return partition, offset


def _in_halves(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The row of a fill of which an amount has more than 63 bits."""
    halves = (half for units in row[4:10:2] for half in HALVES.unpack(amount_bytes(units)))
    return (*row[:4], *halves, *row[10:])
