"""The portfolio as a process that can be killed, and a topic that publishes to it what a test says."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from tickring.actors import portfolio as actor
from tickring.actors.runtime import ActorContext
from tickring.codecs.desk.executions import Executions, fill_of
from tickring.codecs.desk.money import amount_of
from tickring.codecs.desk.reading import Defaults
from tickring.codecs.desk.records import BY_NAME, VARIANT_SHIFT
from tickring.ringbuf import (
    MetricsPage,
    State,
    StreamReader,
    create_keys,
    create_stream,
    keys_filename,
    make_bell,
    read_page,
)
from tickring.ringbuf.errors import RingError

from .desk_rig import Topic
from .messages import Message

NAME = "portfolio"
EXECUTIONS = "exec.reports.v1"


def run_actor(shm: str, data: str, settings: dict[str, Any], bell: int) -> None:
    """In the actor's process."""
    logging.basicConfig(filename=f"{data}/{NAME}.log", level=logging.INFO, force=True)

    async def work() -> None:
        page = MetricsPage(Path(shm), NAME, time.time_ns())
        config = msgspec.convert(settings, actor.Config)
        ctx = ActorContext(
            NAME, NAME, Path(shm), Path(data), config, page, doorbells=(bell,), doorbell_index=0 if bell >= 0 else None
        )
        ctx.stop_on_signals()
        await actor.main(ctx)

    uvloop.run(work())


class PortfolioRig:
    """The streams of the portfolio, and its process."""

    def __init__(self, shm: Path, data: Path, **settings: Any) -> None:
        self.shm, self.data, self.settings = shm, data, {"clickhouse": {"url": "http://127.0.0.1:9"}, **settings}
        self.process: Any = None
        self.bell = make_bell()
        self.make_streams()

    def make_streams(self) -> None:
        config = msgspec.convert(self.settings, actor.Config)
        specs = actor.streams(NAME, config)
        if not (self.shm / keys_filename(NAME)).exists():
            create_keys(self.shm / keys_filename(NAME), specs[0].keys_max)
        for spec in specs:
            create_stream(self.shm, spec, time.time_ns())

    def start(self) -> None:
        # forked, so that it inherits the doorbell; it runs nothing of ours but the actor
        self.process = multiprocessing.get_context("fork").Process(
            target=run_actor, args=(str(self.shm), str(self.data), self.settings, self.bell), daemon=True
        )
        self.process.start()

    def running(self) -> bool:
        """Whether the process that was started last is at work."""
        try:
            page = read_page(self.shm / f"{NAME}.page")
        except (RingError, OSError):
            return False
        return page.pid == self.process.pid and page.state == State.RUNNING

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        self.process.join(60)
        return self.process.exitcode

    # -- what it published ----------------------------------------------------------------------------------------

    def _latest(self, record: str) -> dict[tuple[str, ...], np.void]:
        kind = BY_NAME[record]
        reader = StreamReader(self.shm, NAME, record, kind.dtype, kind.fingerprint)
        names = [name for name, _, _ in kind.key_columns]
        found = {
            tuple(key.attributes[name] for name in names): reader.latest(key.key_id)
            for key in reader.keys
            if len(key.attributes) == len(names) and reader.count(key.key_id)
        }
        reader.close()
        return {key: row for key, row in found.items() if row is not None}

    def positions(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """The newest row of each position, amounts in units of 1e-8."""
        return {key: _values(row) for key, row in self._latest("position").items()}

    def pnl(self) -> dict[tuple[str, ...], dict[str, Any]]:
        return {key: _values(row) for key, row in self._latest("pnl").items()}

    def metric(self, name: str, **labels: str) -> float:
        """A metric as the page shows it now; 0 before there is a page."""
        try:
            samples = read_page(self.shm / f"{NAME}.page").samples
        except (RingError, OSError):
            return 0.0
        return sum(
            one.values[0] for one in samples
            if one.name == f"tickring_portfolio_{name}" and labels.items() <= one.labels.items()
        )  # fmt: skip


def _values(row: np.void) -> dict[str, Any]:
    return {
        name: amount_of(bytes(row[name])) if row.dtype[name].kind == "V" else row[name].item()
        for name in row.dtype.names or ()
        if not name.startswith("_")
    }


class Reports(Topic):
    """A topic of execution reports with partitions: publishes messages as its actor would."""

    def __init__(self, shm: Path, bell: int, starts: Sequence[int] = (), **options: Any) -> None:
        super().__init__(shm, EXECUTIONS, doorbells=(bell,), **options)
        self._decode = Executions(EXECUTIONS, Defaults()).live
        self.offsets = dict(enumerate(starts))

    def publish_message(self, message: Message, partition: int) -> None:
        offset = self.offsets.get(partition, 0)
        self.offsets[partition] = offset + 1
        _, _, variant, _, fills = self._decode(message.value, partition, offset, 0)
        for item, row in enumerate(fills):
            self._fill(fill_of(row), variant, partition, offset, item)

    def _fill(self, fill: Any, variant: int, partition: int, offset: int, item: int) -> None:
        at, size = self._text(fill)
        flags = variant << VARIANT_SHIFT
        self.publish["fill"](
            self.account(fill.account_id), time.time_ns(), fill.timestamp, flags, bytes(16), bytes(16), bytes(16),
            offset, at, size, partition, item,
        )  # fmt: skip


def wipe(shm: Path) -> None:
    """As a reboot does."""
    for path in shm.iterdir():
        path.unlink()
