"""Key directory: what a producer numbers, one row for each key.

A key is what `nth` counts: a symbol, a symbol and interval, an account. The directory is append-only and has one
writer; `key_id` is the row. File: ``<producer>.keys``.

| offset | size | field | writer | ordering and meaning |
|---|---|---|---|---|
| 0 | 8 | magic | creator, once | |
| 8 | 8 | layout_version | creator, once | readers refuse any other value |
| 16 | 8 | keys_max | creator, once | rows |
| 64 | 8 | count | producer | stored AFTER the row |
| 72 | 8 | revision | producer | grows when the attributes of an existing row change |
| 4096 | 512 x keys_max | rows | producer | u32 length, u32 CRC-32, JSON: {"key": text, attributes...} |

A row's attributes may change (an exchange changes a tick size); a reader that meets a half-written row sees the CRC
disagree and looks again.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DirectoryFull, KeyTooLong, LayoutMismatch
from .layout import pages
from .segment import create_segment, lock_exclusive, open_segment, unlock

MAGIC = int.from_bytes(b"TICKKEYS", "little")
LAYOUT_VERSION = 1
COUNT_AT = 64
REVISION_AT = 72
ROWS_AT = 4096
ROW_SIZE = 512
ROW = struct.Struct("<II")
READ_ATTEMPTS_MAX = 1000


def keys_filename(producer: str) -> str:
    return f"{producer}.keys"


@dataclass(frozen=True)
class Key:
    """One row: the text that names the key among all keys of its producer, and what belongs to it."""

    key_id: int
    text: str
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]


def create_keys(path: Path, keys_max: int, *, group: str | None = None) -> None:
    """Make an empty directory."""

    def fill(memory: mmap.mmap) -> None:
        memory[0:24] = struct.pack("<QQQ", MAGIC, LAYOUT_VERSION, keys_max)

    create_segment(path, pages(ROWS_AT + ROW_SIZE * keys_max), fill, group=group)


class KeyReader:
    """A directory mapped read-only; `refresh` picks up keys added since."""

    _writable = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd, self._memory = open_segment(path, writable=self._writable)
        self._words = memoryview(self._memory).cast("Q")
        self._keys: list[Key] = []
        self._ids: dict[str, int] = {}
        self._revision = 0
        try:
            if self._words[0] != MAGIC or self._words[1] != LAYOUT_VERSION:
                raise LayoutMismatch(
                    f"key directory {path}: layout_version {self._words[1]}, expected {LAYOUT_VERSION} (offset 8): "
                    "an older daemon made it: stop that daemon, then start again"
                )
            self.keys_max = self._words[2]
            self.refresh()
        except BaseException:  # it is tried again and again
            KeyReader.close(self)
            raise

    def refresh(self) -> int:
        """Read what is new; returns the number of keys."""
        revision = self._words[REVISION_AT // 8]
        if revision != self._revision:
            self._keys = []
            self._revision = revision
        for key_id in range(len(self._keys), self._words[COUNT_AT // 8]):
            key = self._read(key_id)
            self._keys.append(key)
            self._ids[key.text] = key_id
        return len(self._keys)

    def _read(self, key_id: int) -> Key:
        at = ROWS_AT + key_id * ROW_SIZE
        for _ in range(READ_ATTEMPTS_MAX):
            length, crc = ROW.unpack_from(self._memory, at)
            text = self._memory[at + ROW.size : at + ROW.size + min(length, ROW_SIZE - ROW.size)]
            if zlib.crc32(text) == crc:
                attributes = json.loads(text)
                return Key(key_id, attributes.pop("key"), attributes)
        raise LayoutMismatch(f"key directory {self.path}: row {key_id} stays unreadable: restart its producer")

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __getitem__(self, key_id: int) -> Key:
        if key_id >= len(self._keys):
            self.refresh()
        return self._keys[key_id]

    def id_of(self, text: str) -> int | None:
        """Row of a key by its text; None when the producer has none of that name (yet)."""
        found = self._ids.get(text)
        if found is None and self._words[COUNT_AT // 8] > len(self._keys):
            self.refresh()
            found = self._ids.get(text)
        return found

    def close(self) -> None:
        self._words.release()
        self._memory.close()
        os.close(self._fd)


class KeyWriter(KeyReader):
    """The producer's side: adds keys."""

    _writable = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        lock_exclusive(self._fd, f"key directory {path.name}")

    def close(self) -> None:
        """Give up the lock and unmap."""
        unlock(self._fd)  # a process that was forked meanwhile may have the descriptor still, and so the lock
        super().close()

    def add(self, text: str, attributes: Mapping[str, Any]) -> int:
        """Add a key, or find the one of that text and bring its attributes up to date; returns its row.

        Raises:
            DirectoryFull: all rows are taken.
            KeyTooLong: text and attributes take more than a row.
        """
        body = json.dumps({"key": text, **attributes}, ensure_ascii=False, separators=(",", ":")).encode()
        if len(body) > ROW_SIZE - ROW.size:
            raise KeyTooLong(f"key {text!r}: {len(body)} bytes with its attributes, a row holds {ROW_SIZE - ROW.size}")
        key_id = self._ids.get(text)
        if key_id is not None:
            if dict(self._keys[key_id].attributes) != dict(attributes):
                self._write(key_id, body)
                self._words[REVISION_AT // 8] += 1
                self.refresh()
            return key_id
        key_id = len(self._keys)
        if key_id >= self.keys_max:
            raise DirectoryFull(
                f"key directory {self.path.name}: all {self.keys_max} rows are taken, {text!r} has no place: "
                "raise [feed] keys_max and restart, or give the feed fewer symbols"
            )
        self._write(key_id, body)
        self._words[COUNT_AT // 8] = key_id + 1
        self.refresh()
        return key_id

    def _write(self, key_id: int, body: bytes) -> None:
        at = ROWS_AT + key_id * ROW_SIZE
        self._memory[at : at + ROW.size + len(body)] = ROW.pack(len(body), zlib.crc32(body)) + body
