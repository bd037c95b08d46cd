"""The border between memory and history, against a plain model of both: each thing counts once, at every moment."""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass

import pytest

from tickring.actors.front.desk.seam import ITEMS, Border, Seam
from tickring.actors.recent import Item

SIZE, PARTITIONS = 12, 3


@dataclass
class Row:
    """Of the table; its receipt is the first one."""

    thing: str
    partition: int
    position: int
    recv_ns: int


def history(rows: list[Row], seam: Seam) -> set[str]:
    """What `stored.Older` asks for."""

    def known(row: Row) -> bool:
        return row.position >= seam.knows.get(row.partition, row.position + 1)

    def old(row: Row) -> bool:
        return row.position < seam.holds.get(row.partition, row.position + (row.recv_ns < seam.holds_ns))

    again = {row.thing for row in rows if known(row)}
    return {row.thing for row in rows if old(row) and (known(row) or row.thing not in again)}


class World:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rows: list[Row] = []
        self.told: list[str] = []
        self.offsets = [0] * PARTITIONS
        self.again: deque[Row] = deque()
        self.now = self.sequence = 0
        self._lose()

    def _lose(self) -> None:
        self.border, self.sequence = Border(2 * SIZE), 0
        self.ring: deque[tuple[int, str, bool]] = deque()

    def lose_memory(self) -> None:
        """The newest events of each partition come again, and before those that come anew."""
        self._lose()
        self.again.clear()
        for partition in self.rng.sample(range(PARTITIONS), PARTITIONS):
            mine = [row for row in self.rows if row.partition == partition]
            self.again.extend(mine[len(mine) - self.rng.randrange(min(len(mine), 3 * SIZE) + 1) :])

    def step(self) -> None:
        rng = self.rng
        self.now += 1
        if self.again:
            self._arrive(self.again.popleft())
            return
        distance = rng.choice((3, SIZE, 3 * SIZE, 8 * SIZE))
        if self.told and rng.random() < 0.4:
            thing, partition = rng.choice(self.told[-distance:]), rng.choice((0, 0, 1))
        else:
            thing, partition = f"t{len(self.told)}", rng.choice((0, 0, 0, 2))
            self.told.append(thing)
        row = Row(thing, partition, self.offsets[partition] * ITEMS, self.now)
        self.offsets[partition] += 1
        self.rows.append(row)
        self._arrive(row)

    def _arrive(self, row: Row) -> None:
        offset, nth = divmod(row.position, ITEMS)
        item = Item(row.thing, self.sequence, 0, 0, self.now, self.now, 0, row.partition, offset, nth)
        self.ring.append((self.sequence, row.thing, self.border.take(item, row.thing)))
        self.sequence += 1

    def check(self) -> None:
        while len(self.ring) > SIZE:
            self.ring.popleft()
        if self.ring:
            self.border.leave(self.ring[0][0])
        found = Counter(thing for _, thing, counts in self.ring if counts)
        found.update(history(self.rows, self.border.seam()))
        assert found == Counter(self.told)


@pytest.mark.parametrize("seed", range(40))
def test_each_thing_counts_once_at_every_moment(seed: int) -> None:
    """Told of again at any distance, in a partition that brings nothing else, and after losses of memory."""
    world = World(seed)
    for _ in range(400):
        for _ in range(max(len(world.again), world.rng.choice((1, 1, 2, 7)))):
            world.step()
        world.check()
        if world.rng.random() < 0.02:
            world.lose_memory()


def test_what_is_remembered_is_bounded() -> None:
    border, size = Border(2 * SIZE), 0
    for n in range(100 * SIZE):
        thing = f"t{n - n % 7 * 5}"  # some are told of again
        border.take(Item(thing, n, 0, 0, n, n, 0, 0, n, 0), thing)
        border.leave(max(0, n - SIZE))
        size = max(size, len(border._last), len(border._anchors), len(border._outside))
    assert size <= 6 * SIZE
