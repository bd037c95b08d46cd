"""How much room the durable readers of a topic's streams leave: what they have not read must not be overwritten."""

from __future__ import annotations

from collections.abc import Mapping

from ...ringbuf import StreamReader, StreamWriter
from ...ringbuf.readers import ReaderFile


class Room:
    """Looks at the readers' lines.

    Args:
        writers, readers: of the topic's streams, by record.
        live: name of the live stream; "" where there is none.
        capacity: of the byte ring.
        stored: whether a writer is to read all events, which then wait for it also before it first comes.
    """

    def __init__(
        self,
        writers: Mapping[str, StreamWriter],
        readers: Mapping[str, StreamReader],
        live: str,
        capacity: int,
        *,
        stored: bool,
    ) -> None:
        self._writers, self._readers, self._live = writers, readers, live
        self._capacity, self._stored = capacity, stored
        self._unread_from = readers["event"].oldest()

    def held_by(self, events: int, items: int, end: int) -> str:
        """The stream whose durable reader still needs what would be overwritten; "" where there is room.

        Args:
            events, items: rows that `event` and the live stream are to take.
            end: position behind the bytes that are to be written.
        """
        needs = [("event", events)]
        if self._live:
            needs.append((self._live, items))
        bytes_end = end - self._capacity
        for name, n in needs:
            writer = self._writers[name]
            cursor = writer.durable_cursor()
            if cursor is None:
                if name != "event" or not self._stored:
                    continue
                cursor = self._unread_from  # the writer has not come yet, or for the first time
            if cursor >= writer.sequence:
                continue
            if writer.sequence + n - cursor > writer.spec.capacity:
                return name
            rows, _, lost = self._readers[name].read(cursor, 1)
            if not lost and len(rows) and int(rows["text_at"][0]) < bytes_end:
                return name
        return ""

    def dead_readers(self, record: str) -> list[tuple[int, str]]:
        """(line, name) of durable readers of a stream whose process is gone."""
        file = ReaderFile(self._writers[record].path.with_suffix(".readers"))
        try:
            return [
                (int(str(line["line"])), str(line["name"]))
                for line in file.lines()
                if line["kind"] == "durable" and not line["alive"]
            ]
        finally:
            file.close()

    def detach(self, record: str, line: int) -> None:
        """Take a dead reader's line away: it must rebuild from what is stored."""
        file = ReaderFile(self._writers[record].path.with_suffix(".readers"))
        file.leave(line)
        file.close()
