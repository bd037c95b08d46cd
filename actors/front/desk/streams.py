"""The desk's streams of an instance: what its topics, its portfolio and its alerts produce."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ....codecs.desk.canonical import TOPICS, Alert, Fill
from ....codecs.desk.records import ALERT_STATE, BY_NAME, EVENT, FILL, PNL, POSITION, STATEMENT, TEXTS
from ....codecs.record import RecordType
from ....ringbuf import ByteRingReader, LayoutMismatch, MetricsPage, RingError, StreamReader, bytes_filename
from ...recent import ALERTS_ACTOR, Recent, topic_actor

log = logging.getLogger(__name__)

KEPT = 16_384  # items of a stream that are kept decoded
EXECUTIONS = "exec.reports.v1"


class DeskStreams:
    """Finds the streams and keeps their newest items. For one event loop.

    Attributes:
        generation: grows whenever a stream was found, made anew or lost.
    """

    def __init__(self, folder: Path, page: MetricsPage | None = None) -> None:
        self.folder, self._page = folder, page
        self.generation = 0
        self._readers: dict[str, tuple[int, StreamReader]] = {}  # file name -> inode, reader
        self._recents: dict[str, Recent[Any]] = {}
        self._refused: dict[str, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Attach what is new or was made anew, drop what vanished."""
        found = {}
        try:
            for entry in os.scandir(self.folder):
                stem, _, suffix = entry.name.rpartition(".")
                if suffix == "ring" and not entry.name.startswith(".") and stem.rpartition(".")[2] in BY_NAME:
                    found[entry.name] = entry.inode()
        except FileNotFoundError:
            pass
        for name, (inode, reader) in list(self._readers.items()):
            if found.get(name) != inode:
                del self._readers[name]
                recent = self._recents.pop(name, None)
                (recent or reader).close()
                self.generation += 1
        for name, inode in found.items():
            if name not in self._readers and self._refused.get(name) != inode:
                self._attach(name, inode)

    def _attach(self, name: str, inode: int) -> None:
        producer, _, record_name = name.removesuffix(".ring").rpartition(".")
        record = BY_NAME[record_name]
        try:
            reader = StreamReader(self.folder, producer, record_name, record.dtype, record.fingerprint)
        except LayoutMismatch as error:
            log.warning("stream=%s.%s left out: %s", producer, record_name, error)
            self._refused[name] = inode
            return
        except RingError:
            return  # it is being made or removed: next time
        self._readers[name] = (inode, reader)
        self.generation += 1

    def readers(self, record: RecordType) -> Iterator[StreamReader]:
        """The streams of a record type."""
        for _, reader in self._readers.values():
            if reader.record == record.name:
                yield reader

    def reader(self, producer: str, record: RecordType) -> StreamReader | None:
        """One stream; None where nobody produces it."""
        found = self._readers.get(f"{producer}.{record.name}.ring")
        return found[1] if found else None

    # -- decoded ----------------------------------------------------------------------------------------------------

    def fills(self) -> Recent[Fill] | None:
        """The newest fills; None where their topic is not followed."""
        reader = self.reader(topic_actor(EXECUTIONS), FILL)
        return self._recent(reader, Fill) if reader is not None else None

    def alerts(self) -> Recent[Alert] | None:
        """The newest changes of alerts; None where nobody keeps any."""
        reader = self.reader(ALERTS_ACTOR, ALERT_STATE)
        return self._recent(reader, Alert) if reader is not None else None

    def statements(self, topic: str) -> Recent[Any] | None:
        """The newest events of a topic in their canonical form; None where it is not followed."""
        reader, kind = self.reader(topic_actor(topic), STATEMENT), TOPICS[topic]
        return self._recent(reader, kind) if reader is not None and kind is not None else None

    def _recent(self, reader: StreamReader, kind: type[Any]) -> Recent[Any] | None:
        name = reader.path.name
        recent = self._recents.get(name)
        if recent is None:
            try:
                texts = ByteRingReader(self.folder / bytes_filename(reader.producer, TEXTS))
            except RingError:
                return None  # its producer is being set up
            recent = self._recents[name] = Recent(reader, texts, kind, KEPT, self._page)
        return recent

    @property
    def configured(self) -> bool:
        """Whether this instance follows any topic."""
        return any(reader.record in (EVENT.name, PNL.name, POSITION.name) for _, reader in self._readers.values())

    def close(self) -> None:
        """Unmap everything."""
        for name, (_, reader) in self._readers.items():
            (self._recents.pop(name, None) or reader).close()
        self._readers.clear()
