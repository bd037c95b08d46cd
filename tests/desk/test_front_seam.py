"""Each fill is told once, whatever of it lies in memory and what in ClickHouse."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tickring.actors.front.desk import streams
from tickring.codecs.desk.canonical import Fill
from tickring.codecs.desk.records import FILL
from tickring.storage.client import Server

from ..actors.front_rig import FrontThread, engine_fixture, server_fixture  # noqa: F401
from ..actors.test_front_rest import eventually
from .desk_rig import Topic
from .test_front_desk_history import History, Place, front_of
from .test_front_fills import a_fill, walk

SECOND, HOUR = 10**9, 3600 * 10**9
NOW = time.time_ns()
KEPT, PARTITIONS = 24, 3


@pytest.fixture
def history(server: Server) -> History:
    return History(server)


@pytest.fixture
def front(tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch) -> Iterator[FrontThread]:
    monkeypatch.setattr(streams, "KEPT", KEPT)
    with front_of(tmp_path, history.server) as running:
        yield running


class World:
    """A topic whose events are stored as they come, and whose shared memory is lost now and then.

    Attributes:
        told: the fills that were produced, by id.
    """

    def __init__(self, folder: Path, history: History, seed: int) -> None:
        self.rng, self.history, self._folder = random.Random(seed), history, folder
        self.topic = Topic(folder, "exec.reports.v1")
        self.told = dict[str, Fill]()
        self.events: list[list[list[Fill]]] = [[] for _ in range(PARTITIONS)]
        self.now = NOW - 2 * HOUR
        self.asked = 0

    def produce(self, events: int) -> None:
        """Events of one to three fills, of which some are told of a second time, in memory and in ClickHouse."""
        rng, stored = self.rng, list[tuple[Fill, Place, int]]()
        for _ in range(events):
            self.now += rng.randrange(SECOND)
            partition, fills = rng.randrange(PARTITIONS), list[Fill]()
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                if rng.random() < 0.2 and self.told:
                    fills.append(rng.choice(list(self.told.values())[-rng.choice((4, 200)) :]))
                else:
                    fills.append(a_fill(len(self.told), timestamp=self.now - rng.randrange(3 * SECOND)))
                    self.told[fills[-1].fill_id] = fills[-1]
            offset = len(self.events[partition])
            self.events[partition].append(fills)
            stored += self._publish(partition, offset)
        self.history.items("fills", self.topic.topic, stored)

    def _publish(self, partition: int, offset: int) -> list[tuple[Fill, Place, int]]:
        found = []
        for item, fill in enumerate(self.events[partition][offset]):
            place = partition, offset, item
            self.topic.fill(fill, recv_ns=self.now, place=place)
            found.append((fill, place, self.now))
        return found

    def lose_memory(self) -> None:
        """New rings: some of the newest events come again, of which ClickHouse has the rows already."""
        self.topic.close()
        for path in self._folder.glob("topic-*"):
            path.unlink()
        self.topic = Topic(self._folder, "exec.reports.v1")
        self.now += 60 * SECOND
        again = [
            (p, o)
            for p, events in enumerate(self.events)
            for o in range(len(events) - self.rng.randrange(9), len(events))
        ]
        for partition, offset in again:
            if offset >= 0:
                self.now += SECOND
                self._publish(partition, offset)

    def ask(self, front: FrontThread) -> None:
        """Pages and sums, each over a range that was not asked for before."""
        epoch, streams_seen = self.topic.writers[FILL.name].epoch, front.front.state.desk.streams

        def seen() -> bool:
            reader = streams_seen.reader(self.topic.name, FILL)
            return reader is not None and reader.epoch == epoch

        eventually(seen, "the front sees the new rings")
        self.asked += 1
        span = f"start_time={(NOW - 3 * HOUR) // 10**6 + self.asked}&end_time={NOW // 10**6}"
        expected = sorted(self.told.values(), key=lambda fill: (fill.timestamp, fill.account_id, fill.fill_id))
        names = [fill.fill_id for fill in reversed(expected)]
        size = self.rng.choice((60, 100, 1000))
        assert walk(front, f"/api/v1/fills?{span}&page_size={size}") == names
        assert front.get(f"/api/v1/fills?{span}").json["count"] == len(names)
        assert front.data(f"/api/v1/fills/summary?{span}")["total_fills"] == len(names)
        some = [fill.fill_id for fill in reversed(expected) if fill.order_id == "o-7"]
        assert [fill["fill_id"] for fill in front.data(f"/api/v1/fills?{span}&order_id=o-7")] == some


@pytest.mark.parametrize("seed", range(3))
def test_each_fill_is_told_once_whatever_memory_has_of_it(
    tmp_path: Path, front: FrontThread, history: History, seed: int
) -> None:
    world = World(tmp_path, history, seed)
    for _ in range(8):
        # more than memory holds, without anybody asking meanwhile; a few; or nothing but what came again
        world.produce(world.rng.choice((1, 5, 3 * KEPT)))
        if world.rng.random() < 0.7:
            world.ask(front)
        if world.rng.random() < 0.4:
            world.lose_memory()
            if world.rng.random() < 0.7:
                world.ask(front)
    world.ask(front)
    world.topic.close()
