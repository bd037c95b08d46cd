"""What can be answered from shared memory: all streams of an instance, found by exchange, market type and symbol.

A catalog belongs to one event loop. It never closes a reader at once: one whose file was replaced or removed is
*retired*, stays readable for `RETIRE_AFTER_S`, and its holders notice the change by `Catalog.generation`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..codecs.desk.money import divide, parse_amount
from ..codecs.records import BY_NAME
from ..ringbuf import Key, LayoutMismatch, SegmentMissing, StreamReader, keys_filename

log = logging.getLogger(__name__)

RETIRE_AFTER_S = 30.0
ANY = "*"
PRICE_MAX = 1e18  # of a quote that is believed

FileId = tuple[int, int]  # device, inode: names a file for good while one of its descriptors is open


@dataclass(frozen=True, slots=True)
class Source:
    """One key of one stream: where the records of an instrument are."""

    reader: StreamReader
    key_id: int
    key: Key

    @property
    def exchange(self) -> str:
        return self.key.attributes.get("exchange", "")

    @property
    def market_type(self) -> str:
        return self.key.attributes.get("market_type", "")

    @property
    def symbol(self) -> str:
        """The pair, BTC-USDT."""
        return self.key.attributes.get("symbol", "")

    @property
    def instrument(self) -> str:
        """The canonical name in one string, BTC-USDT-PERP."""
        return self.key.attributes.get("instrument", "")

    @property
    def native(self) -> str:
        """The exchange's own name, BTCUSDT."""
        return self.key.attributes.get("native", "")

    @property
    def interval(self) -> str:
        """Of bars: 1m, 1h; empty for keys that are instruments."""
        return self.key.attributes.get("interval", "")

    @property
    def epoch(self) -> int:
        """Creation time of the stream, UNIX ns: numbering restarts only with another one."""
        return self.reader.epoch


def mid(source: Source) -> tuple[int, int] | None:
    """`(price in units of 1e-8, when it was received)` between best bid and ask; None where one of them is missing."""
    row = source.reader.latest(source.key_id)
    if row is None:
        return None
    bid, ask = float(row["bid"]), float(row["ask"])
    if not 0 < bid < PRICE_MAX or not 0 < ask < PRICE_MAX:
        return None
    return divide(parse_amount(bid)[0] + parse_amount(ask)[0], 2), int(row["ts_recv_ns"])


class _Attached:
    """One attached stream and its keys as they were last read."""

    __slots__ = ("files", "keys", "reader", "sources")

    def __init__(self, reader: StreamReader, files: tuple[FileId, FileId]) -> None:
        self.reader = reader
        self.files = files
        self.keys: list[Key] = []
        self.sources: list[Source] = []

    def refresh(self) -> bool:
        """Read keys added or changed since; True when there were any."""
        self.reader.keys.refresh()
        keys = list(self.reader.keys)
        if keys == self.keys:  # unchanged keys are the same objects, so this compares pointers
            return False
        self.keys = keys
        # One directory for all streams of a producer: an instrument's row has no bars, a row of bars has nothing else.
        bars = bool(BY_NAME[self.reader.record].key_columns)
        self.sources = [
            Source(self.reader, key.key_id, key) for key in keys if bars == bool(key.attributes.get("interval"))
        ]
        return True


def _file_id(path: Path | str) -> FileId | None:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino


class Catalog:
    """The streams in an instance's folder.

    Attributes:
        generation: grows whenever a stream was attached or dropped, or its keys changed. Whoever keeps a `Source` or a
            reader looks it up again then; until they do, a retired reader still shows its last state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.generation = 0
        self.refreshed_at = float("-inf")  # monotonic, s
        self._attached: dict[tuple[str, str], _Attached] = {}
        self._retired: list[tuple[float, StreamReader]] = []
        self._refused: dict[tuple[str, str], tuple[FileId, FileId]] = {}
        self._by_instrument: dict[str, dict[tuple[str, str, str], Source]] = {}
        self._by_native: dict[str, dict[tuple[str, str], list[Source]]] = {}
        self.refresh()

    # -- keeping up -----------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Attach what is new or was made anew, drop what vanished, read new keys; True when anything changed."""
        now = self.refreshed_at = time.monotonic()
        self._close_retired(now)
        changed = False
        present = set()
        for name, files in self._files():
            present.add(name)
            attached = self._attached.get(name)
            if attached is not None and attached.files != files:
                self._retire(name, now)
                attached = None
                changed = True
            if attached is None:
                attached = self._attach(name, files)
            if attached is not None:
                changed |= attached.refresh()
        for name in self._attached.keys() - present:
            self._retire(name, now)
            changed = True
        if changed:
            self._reindex()
            self.generation += 1
        return changed

    def refresh_after(self, seconds: float) -> bool:
        """`refresh`, unless one was made within the last `seconds`: for callers that may come in floods."""
        return time.monotonic() - self.refreshed_at >= seconds and self.refresh()

    def _files(self) -> Iterator[tuple[tuple[str, str], tuple[FileId, FileId]]]:
        """`((producer, record), files)` of each stream of a record type that this version knows."""
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return
        for filename in names:
            stem, dot, suffix = filename.rpartition(".")
            producer, _, record = stem.rpartition(".")
            if suffix != "ring" or not dot or not producer or record not in BY_NAME or filename.startswith("."):
                continue
            ring = _file_id(self.folder / filename)
            keys = _file_id(self.folder / keys_filename(producer))
            if ring is not None and keys is not None:
                yield (producer, record), (ring, keys)

    def _attach(self, name: tuple[str, str], files: tuple[FileId, FileId]) -> _Attached | None:
        if self._refused.get(name) == files:
            return None
        producer, record = name
        kind = BY_NAME[record]
        reader = None
        try:
            reader = StreamReader(self.folder, producer, record, kind.dtype, kind.fingerprint)
            attached = _Attached(reader, files)
            attached.refresh()
            attached.keys = []  # so that the caller sees the keys as changed
        except SegmentMissing:
            attached = None  # replaced just now: the next refresh finds it
        except LayoutMismatch as error:
            log.warning("stream=%s.%s left out: %s", producer, record, error)
            self._refused[name] = files
            attached = None
        if attached is None:
            if reader is not None:
                reader.close()
            return None
        self._refused.pop(name, None)
        self._attached[name] = attached
        return attached

    def _retire(self, name: tuple[str, str], now: float) -> None:
        self._retired.append((now + RETIRE_AFTER_S, self._attached.pop(name).reader))

    def _close_retired(self, now: float) -> None:
        while self._retired and self._retired[0][0] <= now:
            self._retired.pop(0)[1].close()

    def _reindex(self) -> None:
        self._by_instrument = {}
        for (_, record), attached in sorted(self._attached.items()):
            by_instrument = self._by_instrument.setdefault(record, {})
            for source in attached.sources:
                name = (source.exchange, source.instrument, source.interval)
                # Two producers of one instrument are left over from another plan: the newer stream is the one in use.
                # A pair has several dated futures, and those are told apart by their instrument alone.
                known = by_instrument.get(name)
                if known is None or known.epoch < source.epoch:
                    by_instrument[name] = source
        self._by_native = {}
        for record, by_instrument in self._by_instrument.items():
            by_native = self._by_native.setdefault(record, {})
            for source in by_instrument.values():
                by_native.setdefault((source.exchange, source.native.upper()), []).append(source)

    def close(self) -> None:
        """Unmap everything."""
        for attached in self._attached.values():
            attached.reader.close()
        for _, reader in self._retired:
            reader.close()
        self._attached, self._retired = {}, []
        self._by_instrument, self._by_native = {}, {}

    # -- looking up -----------------------------------------------------------------------------------------------

    def streams(self, record: str) -> list[StreamReader]:
        """The streams of a record type, by producer name."""
        return [attached.reader for (_, kind), attached in sorted(self._attached.items()) if kind == record]

    def all_streams(self) -> list[StreamReader]:
        """Every stream, by producer and record type."""
        return [attached.reader for _, attached in sorted(self._attached.items())]

    def find_instrument(self, record: str, exchange: str, instrument: str, interval: str = "") -> Source | None:
        """Where an instrument's records are, by its canonical name; None when nothing produces them."""
        index = self._by_instrument.get(record)
        return index.get((exchange, instrument, interval)) if index else None

    def find_native(
        self, record: str, exchange: str, native: str, market_type: str | None = None, interval: str = ""
    ) -> Source | None:
        """The same by the exchange's own name, in any case; without a market type, if only one market has the name."""
        found = [
            source
            for source in self._by_native.get(record, {}).get((exchange, native.upper()), [])
            if source.interval == interval and market_type in (None, source.market_type)
        ]
        return found[0] if len(found) == 1 else None

    def match(
        self, record: str, exchange: str = ANY, market_type: str = ANY, symbol: str = ANY, interval: str = ANY
    ) -> list[Source]:
        """All sources that fit; ``*`` fits anything."""
        return [
            source
            for source in self._by_instrument.get(record, {}).values()
            if exchange in (ANY, source.exchange)
            and market_type in (ANY, source.market_type)
            and symbol in (ANY, source.symbol)
            and interval in (ANY, source.interval)
        ]
