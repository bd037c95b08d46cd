"""From events to rows: what each event becomes in its topic's streams."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from ...codecs.desk.money import amount_bytes
from ...codecs.desk.records import EVENT, FILL, NO_KEY, STATEMENT, VARIANT_SHIFT
from ...codecs.desk.times import TIME_MS_MAX
from ...codecs.errors import Undecidable
from ...codecs.record import Flag
from .accounts import Accounts
from .chunk import TOPIC_KEY, Chunk, Fetched, Tally
from .deadlog import PREVIEW_MAX, DeadLog
from .decoding import Decode
from .repeats import Repeats

CHUNK_EVENTS_MAX = 256  # with all that is made of them they stay in the CPU's cache
TOO_LARGE = "too_large"
ITEM_BYTES = 500  # what the text of an item may have beyond its event's
HEADERS, REPEATED, ROUNDED, SELL = int(Flag.HEADERS), int(Flag.REPEATED), int(Flag.ROUNDED), int(Flag.SELL)
HEADERS_SIZE = struct.Struct("<I")
# A fill's row with amounts of 64 bits without a sign, as nearly all are, and without `nth`, which the stream writes.
SMALL_FILL = struct.Struct(FILL.struct.format.replace("Q", "8x", 1).replace("16s", "Q8x"))

There = set[tuple[str, int, int, int]]  # record, partition, offset, item
Place = Callable[[], tuple[int, int]]  # number of the next event, and position of its first byte

_event_row, _small_fill_row, _statement_row = EVENT.struct.pack, SMALL_FILL.pack, STATEMENT.struct.pack
_msgpack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


class Rows:
    """Makes chunks of a topic's events.

    Args:
        decode: of the topic's events; None where they are kept as they are.
        live: name of the live record; "" where there is none.
        account: of an item that names none.
        accounts: gives keys of the live stream.
        there: live rows that an earlier life has published, whose events come again.
        event_bytes_max: of one event, and of the texts of its live rows.
        chunk_bytes: events are published at the latest when their bytes reach this.
    """

    def __init__(
        self, decode: Decode | None, *, live: str, account: str, accounts: Accounts, there: There,
        repeats: Repeats, tally: Tally, dead_log: DeadLog, event_bytes_max: int, chunk_bytes: int,
    ) -> None:  # fmt: skip
        self._decode, self._live, self._account, self._accounts = decode, live, account, accounts
        self._there, self._repeats, self._tally, self._dead_log = there, repeats, tally, dead_log
        self._event_bytes_max, self._chunk_bytes = event_bytes_max, chunk_bytes
        self._known = 0  # ids that had come when the chunk in the making began

    def chunks(self, fetched: Fetched, ts_recv_ns: int, place: Place) -> Iterator[Chunk]:
        """Decode events into chunks; each must be published before the next one is asked for.

        Raises:
            Exception: of the records, which may be decoded only now. Those of the chunk that had begun come again.
        """
        try:
            yield from self._chunks(fetched, ts_recv_ns, place)
        except Exception:
            self._repeats.forget(len(self._repeats) - self._known)
            raise

    def _chunks(self, fetched: Fetched, ts_recv_ns: int, place: Place) -> Iterator[Chunk]:
        decode, pack, pack_fill, there = self._decode, _event_row, _small_fill_row, self._there
        account_rows, account_row = self._accounts.rows, self._accounts.row
        ids, encode, of_fills = self._repeats.table(), _json, self._live == FILL.name
        event_max, default = self._event_bytes_max, self._account
        nth, at = place()
        chunk, nth_stop, at_stop = Chunk(at), nth + CHUNK_EVENTS_MAX, at + self._chunk_bytes
        known = self._known = len(ids)
        parts, rows, live = chunk.parts, chunk.rows, chunk.live
        for partition, records in fetched.items():
            offset = stamp = -1
            for record in records:
                offset, stamp, first = record.offset, record.timestamp, at
                key, value = record.key, record.value
                flags, key_size, refused = 0, NO_KEY, ""
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
                if decode is None:
                    ts_event_ns = _broker_ns(stamp)
                else:
                    made = len(live)
                    try:
                        if refused:
                            raise Undecidable(
                                "only a part of it is kept: its headers, its key or its value are too large", refused
                            )
                        event_id, ts_event_ns, variant, rounded, items = decode(value, partition, offset, stamp)
                        if len(items) * (size + ITEM_BYTES) > event_max:
                            self._check_texts(items)
                        own = variant << VARIANT_SHIFT
                        if rounded:
                            own |= ROUNDED
                        ids[hash(event_id)] = None
                        if len(ids) == known:
                            own |= REPEATED
                            self._tally.repeated += 1
                        flags |= own
                        if there and items:
                            items = self._leave_out(items, partition, offset)
                        number = 0
                        for item in items:
                            if item is not None:
                                text = encode(item)
                                text_size = len(text)
                                if of_fills:
                                    (
                                        _, _, _, _, side, quantity, price, commission, _, time, _, account, _, _, _, _,
                                        _,
                                    ) = item  # fmt: skip
                                    try:
                                        key_id = account_rows[account]
                                    except KeyError:
                                        key_id = account_row(account)
                                    sold = own | SELL if side == "SELL" else own
                                    try:
                                        row = pack_fill(
                                            ts_recv_ns, time, key_id, sold, quantity, price, commission, offset, at,
                                            text_size, partition, number,
                                        )  # fmt: skip
                                    except struct.error:
                                        row = _fill_row(
                                            ts_recv_ns, time, key_id, sold, quantity, price, commission, offset, at,
                                            text_size, partition, number,
                                        )  # fmt: skip
                                else:
                                    account = getattr(item, "account_id", None) or default
                                    row = _statement_row(
                                        0, ts_recv_ns, item.timestamp, account_row(account), own, offset, at, text_size,
                                        partition, number,
                                    )  # fmt: skip
                                live.append(row)
                                parts.append(text)
                                at += text_size
                            number += 1  # noqa: SIM113 - `enumerate` costs more than the one item
                        known = len(ids)
                    except Undecidable as error:
                        flags |= Flag.DEAD | Flag.CUT if refused else Flag.DEAD
                        ts_event_ns = _broker_ns(stamp)
                        at += self._take_dead(chunk, error, value, partition, offset, ts_recv_ns, ts_event_ns, at)
                    except Exception as error:  # noqa: BLE001 - our own mistake: the event is kept, the topic goes on
                        flags |= Flag.DEAD
                        if len(ids) > known:  # it has not come before if it comes again
                            ids.popitem()
                        while len(live) > made:  # nothing of it is shown
                            live.pop()
                            at -= len(parts.pop())
                        ts_event_ns = _broker_ns(stamp)
                        mistake = Undecidable(f"{type(error).__name__}: {error}", "internal_error")
                        at += self._take_dead(chunk, mistake, value, partition, offset, ts_recv_ns, ts_event_ns, at)
                rows.append(pack(
                    nth, ts_recv_ns, ts_event_ns, TOPIC_KEY, flags, offset, stamp, first, partition, key_size, size
                ))  # fmt: skip
                nth += 1
                if nth == nth_stop or at >= at_stop:
                    chunk.size, chunk.ends[partition] = at - chunk.at, offset + 1
                    chunk.newest_ms = max(chunk.newest_ms, stamp)
                    yield chunk
                    nth, at = place()
                    chunk, nth_stop, at_stop = Chunk(at), nth + CHUNK_EVENTS_MAX, at + self._chunk_bytes
                    parts, rows, live = chunk.parts, chunk.rows, chunk.live
                    ids = self._repeats.table()
                    known = self._known = len(ids)
            if offset >= 0:
                chunk.ends[partition] = offset + 1
                chunk.newest_ms = max(chunk.newest_ms, stamp)
        chunk.size = at - chunk.at
        if rows:
            yield chunk

    def _named(self, headers: Sequence[tuple[str, bytes | None]], partition: int, offset: int) -> list[Any]:
        """Headers of which a name is no UTF-8, with its bytes written out: they decide nothing."""
        names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name, _ in headers]
        self._tally.misnamed += 1
        self._dead_log.tell(partition, offset, f"header names are no UTF-8, and are kept as {names}")
        return [[name, value] for name, (_, value) in zip(names, headers, strict=True)]

    def _check_texts(self, items: Sequence[Any]) -> None:
        """A long name in every fill may make much of little."""
        texts = sum(len(_json(item)) for item in items)
        if texts > self._event_bytes_max:
            raise Undecidable(f"its {len(items)} items take {texts} bytes", TOO_LARGE)

    def _leave_out(self, items: Sequence[Any], partition: int, offset: int) -> list[Any]:
        """The items, with None for those that an earlier life has published."""
        there, name = self._there, self._live
        return [None if (name, partition, offset, n) in there else item for n, item in enumerate(items)]

    def _take_dead(
        self, chunk: Chunk, error: Undecidable, value: bytes, partition: int, offset: int, ts_recv_ns: int,
        ts_event_ns: int, at: int,
    ) -> int:  # fmt: skip
        """A dead letter, with its text at `at`; returns the bytes of that."""
        self._tally.dead_by_reason[error.reason] += 1
        self._dead_log.say(error, value, partition, offset)
        if ("dead_letter", partition, offset, 0) in self._there:
            return 0
        text = _json([error.reason, str(error)[:PREVIEW_MAX]])
        chunk.parts.append(text)
        chunk.dead.append((TOPIC_KEY, ts_recv_ns, ts_event_ns, Flag.DEAD, offset, at, len(text), partition, 0))
        return len(text)


def _broker_ns(stamp: int) -> int:
    """The broker's UNIX ms as UNIX ns; 0 where a producer wrote one that is none."""
    return stamp * 1_000_000 if 0 <= stamp < TIME_MS_MAX else 0


def _fill_row(
    ts_recv_ns: int, time: int, key_id: int, flags: int, quantity: int, price: int, commission: int, *origin: int
) -> bytes:
    """A fill's row with amounts of any size."""
    amounts = map(amount_bytes, (quantity, price, commission))
    return FILL.struct.pack(0, ts_recv_ns, time, key_id, flags, *amounts, *origin)
