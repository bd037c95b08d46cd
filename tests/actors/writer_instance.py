"""An instance with a writer and nothing else, for tests that look at what reaches ClickHouse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import numpy as np
import pytest

from tickring.actors.writer.follower import DURABLE_LINE, STORED_LINE
from tickring.codecs.record import Flag, RecordType
from tickring.codecs.records import TRADE
from tickring.ringbuf.readers import ReaderFile
from tickring.storage.client import Server
from tickring.storage.gaps import Gap, read_gaps

from ..storage.processes import Life, Nursery, Producer, stored_columns, wait_for


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery("writer")
    yield made
    made.close()


class Instance:
    """Rings in shared memory, a writer over them, and the table on the other side."""

    def __init__(self, nursery: Nursery, shm: Path, data: Path, server: Server) -> None:
        self.shm, self.data, self.server = shm, data, server
        self.producers: list[Producer] = []
        self.writer = Life(nursery, shm, data)
        self._client: Any = None

    def config(self, **more: Any) -> dict[str, Any]:
        clickhouse = {
            "url": self.server.url,
            "password_file": self.server.password_file,
            "database": self.server.database,
        }
        return {
            "flush_interval_ms": 20, "sample_interval_ms": 100, "retry_delay_s": 0.05, "retry_delay_max_s": 0.2,
            "drain_timeout_s": 60.0, "clickhouse": {**clickhouse, **more.pop("clickhouse", {})}, **more,
        }  # fmt: skip

    def start_to_insert(self, config: dict[str, Any], die: dict[str, Any]) -> None:
        """Begin a life that ends at a call, and wait until it sends every batch in an insert of its own.

        Rows that are published earlier may go to the spool, where the engine is slow, and from there in one insert: the
        call would never come. So may those of an insert without an answer in time, so it has all the time it needs.
        """
        self.writer.start({**config, "insert_timeout_s": 60.0}, die)
        wait_for("ClickHouse up", lambda: self.writer.metric("tickring_storage_clickhouse_up") == 1)

    def away(self, **more: Any) -> dict[str, Any]:
        """A configuration in which nobody answers."""
        return self.config(clickhouse={"url": "http://127.0.0.1:9"}, **more)

    def producer(self, *args: Any, **kwargs: Any) -> Producer:
        producer = Producer(self.shm, *args, **kwargs)
        self.producers.append(producer)
        return producer

    def end(self, producer: Producer) -> None:
        """It publishes no more."""
        self.producers.remove(producer)
        producer.close()

    def cursors(self, producer: Producer) -> dict[str, int]:
        """Of the writer's two lines; empty before it has them."""
        file = ReaderFile(self.shm / f"{producer.name}.{producer.record.name}.readers")
        try:
            return {str(line["name"]): int(str(line["cursor"])) for line in file.lines()}
        finally:
            file.close()

    def wait_stored(self, *producers: Producer) -> None:
        """Until ClickHouse has acknowledged everything, and the writer has noted that."""
        for producer in producers or self.producers:
            wait_for(
                f"all of {producer.name} stored: {self.cursors(producer)} of {producer.sequence}; "
                f"log: {self.writer.log.read_text()[-2000:]}",
                lambda producer=producer: all(
                    self.cursors(producer).get(line) == producer.sequence for line in (STORED_LINE, DURABLE_LINE)
                ),
            )

    def table(self, record: RecordType = TRADE) -> list[tuple[Any, ...]]:
        """All rows of a record type's table: instrument, epoch, nth, times in ns, flags, own fields."""
        names = [
            "instrument",
            "epoch",
            "nth",
            "toUnixTimestamp64Nano(ts_recv_ns)",
            "toUnixTimestamp64Nano(ts_event_ns)",
            "flags",
        ]
        names += [field.name for field in record.fields]
        result = self.query(f"SELECT {', '.join(names)} FROM {self.server.database}.{record.name}s")
        return [tuple(tuple(v) if isinstance(v, list) else v for v in row) for row in result]

    def query(self, text: str) -> list[tuple[Any, ...]]:
        if self._client is None:
            password = Path(self.server.password_file).read_text().strip()
            host, port = self.server.url.removeprefix("http://").split(":")
            self._client = clickhouse_connect.get_client(
                host=host, port=int(port), username="default", password=password,
                autogenerate_session_id=False,  # an engine that is killed in between knows no session
            )  # fmt: skip
        return list(self._client.query(text).result_rows)

    def check_content(self, *published: tuple[Producer, np.ndarray], record: RecordType = TRADE) -> None:
        """The table holds these rows and no others, each once, value for value."""
        expected: set[tuple[Any, ...]] = set()
        for producer, rows in published:
            kept = rows[(rows["flags"] & np.uint32(Flag.VOID)) == 0]
            expected |= stored_columns(record, kept, producer.writer.epoch)
        found = self.table(record)
        missing, extra = expected - set(found), set(found) - expected
        assert not missing, f"{len(missing)} rows are missing, for instance {next(iter(missing))}"
        assert not extra, f"{len(extra)} rows are not ours, for instance {next(iter(extra))}"
        assert len(found) == len(expected), f"{len(found) - len(expected)} rows are doubled"

    def check_exactly(self, producer: Producer, rows: np.ndarray) -> list[Gap]:
        """The table and the gap ledger together hold what was published, and no row is in both; returns the gaps.

        Args:
            rows: all that the producer ever published, so that a row's index is its sequence.
        """
        gaps = [gap for gap in self.gaps() if gap.epoch == producer.writer.epoch]
        lost, uncertain = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
        for gap in gaps:
            (lost if gap.certain else uncertain)[gap.first : gap.stop] = True
        found = [row for row in self.table(producer.record) if row[1] == producer.writer.epoch]
        assert len(set(found)) == len(found), f"{len(found) - len(set(found))} rows are doubled"
        must, may = (stored_columns(producer.record, rows[mask], producer.writer.epoch)
                     for mask in (~lost & ~uncertain, ~lost))  # fmt: skip
        assert not must - set(found), f"{len(must - set(found))} rows are missing unsaid"
        assert not set(found) - may, f"{len(set(found) - may)} rows are in the table and in the ledger"
        return gaps

    def gaps(self) -> list[Gap]:
        return read_gaps(self.data / "writer")

    def close(self) -> None:
        self.writer.kill()
        if self._client is not None:
            self._client.close()
        for producer in self.producers:
            producer.close()
