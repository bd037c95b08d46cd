"""The local book follows the documented procedure of each product."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tickring.codecs.binance import sync as rules
from tickring.codecs.binance.sync import BookSync, DepthEvent, DepthSnapshot, FuturesBookSync
from tickring.codecs.book import BookState
from tickring.codecs.record import Flag

from .binance_frames import Notes
from .list_sink import LevelsRow, ListSink

S = 1_000_000_000


class World:
    def __init__(self, kind: type[BookSync] = BookSync) -> None:
        self.sink, self.notes = ListSink(), Notes()
        self.sync = kind(0, self.sink, self.notes)
        self.now = 1000 * S

    def event(self, first: int, last: int, previous: int = 0, bids: Any = (), asks: Any = ()) -> None:
        self.now += S // 10
        self.sync.event(DepthEvent(self.now, self.now, first, last, previous, list(bids), list(asks)))

    def snapshot(self, update_id: int, bids: Any = ((10.0, 1.0),), asks: Any = ((20.0, 1.0),)) -> bool:
        return self.sync.snapshot(DepthSnapshot(update_id, 0, list(bids), list(asks)), self.now)

    @property
    def applied(self) -> list[tuple[int, bool]]:
        rows = [row for row in self.sink.rows if isinstance(row, LevelsRow)]
        return [(row.update_id, bool(row.flags & Flag.SNAPSHOT)) for row in rows]

    @property
    def state(self) -> BookState:
        return self.sync.book.state


def test_spot_first_event_asks_for_one_snapshot() -> None:
    world = World()
    world.event(1, 5)
    world.event(6, 9)
    assert world.notes.wanted == [0]
    assert world.state is BookState.EMPTY
    assert not world.applied


def test_spot_snapshot_drops_older_events_and_applies_the_rest() -> None:
    world = World()
    for first, last in ((1, 5), (6, 9), (10, 12)):
        world.event(first, last, bids=[(float(last), 1.0)])
    assert world.snapshot(7)
    assert world.applied == [(7, True), (9, False), (12, False)]
    assert world.state is BookState.SYNCED
    assert world.sync.book.best()[:2] == (12.0, 1.0)


@pytest.mark.parametrize(("first", "last", "fits"), [(5, 8, True), (8, 8, True), (8, 9, True), (9, 9, False)])
def test_spot_first_kept_event_must_cover_the_next_id(first: int, last: int, fits: bool) -> None:
    world = World()
    world.event(first, last)
    assert world.snapshot(7) is fits
    assert (world.state is BookState.SYNCED) is fits
    assert world.notes.wanted == [0] if fits else [0, 0]
    assert world.sync.snapshots_stale == (0 if fits else 1)


def test_spot_snapshot_older_than_the_stream_keeps_the_buffer() -> None:
    world = World()
    world.event(10, 12)
    assert not world.snapshot(5)
    world.event(13, 15)
    assert world.snapshot(11)
    assert world.applied == [(11, True), (12, False), (15, False)]


def test_spot_gap_resyncs_and_keeps_the_old_levels() -> None:
    world = World()
    world.snapshot(10)
    world.event(11, 12)
    world.event(15, 16)
    assert world.state is BookState.RESYNCING
    assert world.notes.gaps == [(0, "depth", 13, 14)]
    assert world.notes.wanted == [0]
    assert world.sync.gaps == 1
    assert world.sync.book.best()[0] == 10.0, "old levels stay"
    assert world.snapshot(15, bids=[(11.0, 1.0)])
    assert world.applied[-2:] == [(15, True), (16, False)]
    assert world.state is BookState.SYNCED
    flags = [row.flags for row in world.sink.rows if isinstance(row, LevelsRow)]
    assert flags[0] == Flag.SNAPSHOT and flags[-2] == Flag.SNAPSHOT | Flag.RESYNC and flags[-1] == 0


def test_spot_overlapping_event_is_applied_and_older_one_ignored() -> None:
    world = World()
    world.snapshot(10)
    world.event(8, 12)
    world.event(9, 12)
    world.event(9, 11)
    assert world.applied == [(10, True), (12, False)]
    assert world.sync.older == 2
    assert world.state is BookState.SYNCED


def test_usdm_first_event_forms() -> None:
    # (U, u, pu, lastUpdateId) -> applied
    for event, update_id, fits in (
        ((5, 9, 4), 7, True),
        ((7, 7, 4), 7, True),
        ((9, 12, 7), 7, True),  # pu == lastUpdateId
        ((9, 12, 6), 7, False),
        ((8, 12, 8), 7, False),
    ):
        world = World(FuturesBookSync)
        world.event(*event)
        assert world.snapshot(update_id) is fits, (event, update_id)


def test_usdm_drops_events_before_the_snapshot_and_keeps_the_one_that_ends_at_it() -> None:
    world = World(FuturesBookSync)
    world.event(1, 5, 0)
    world.event(6, 9, 5)
    world.event(12, 14, 9)
    assert world.snapshot(9)
    assert world.applied == [(9, True), (9, False), (14, False)]


def test_usdm_ids_may_jump_as_long_as_pu_chains() -> None:
    world = World(FuturesBookSync)
    world.snapshot(10)
    world.event(8, 12, 7)
    world.event(100, 120, 12)
    assert world.sync.gaps == 0
    world.event(130, 140, 125)
    assert world.sync.gaps == 1
    assert world.notes.gaps == [(0, "depth", 121, 125)]
    assert world.state is BookState.RESYNCING


def test_usdm_repeated_event_is_ignored() -> None:
    world = World(FuturesBookSync)
    world.snapshot(10)
    world.event(8, 12, 7)
    world.event(8, 12, 7)
    world.event(13, 15, 12)
    assert world.sync.gaps == 0
    assert world.applied == [(10, True), (12, False), (15, False)]


@pytest.mark.parametrize("kind", [BookSync, FuturesBookSync])
def test_snapshot_of_a_quiet_symbol_is_taken_without_events(kind: type[BookSync]) -> None:
    world = World(kind)
    assert world.snapshot(10)
    assert world.state is BookState.SYNCED
    world.event(11, 11, 10)
    assert world.applied == [(10, True), (11, False)]


def test_lost_connection_makes_the_book_old_until_a_new_snapshot() -> None:
    world = World()
    world.snapshot(10)
    world.sync.lost(world.now)
    assert world.state is BookState.RESYNCING
    assert world.notes.wanted == []
    world.event(20, 21)
    assert world.notes.wanted == [0]
    assert world.snapshot(20)
    assert world.state is BookState.SYNCED


def test_crossed_book_says_so_and_is_taken_anew_when_it_stays_crossed() -> None:
    world = World()
    world.snapshot(10)
    world.event(11, 11, bids=[(21.0, 1.0)])
    assert world.state is BookState.CROSSED
    world.event(12, 12, bids=[(21.0, 0.0)])
    assert world.state is BookState.SYNCED
    world.event(13, 13, bids=[(21.0, 1.0)])
    for n in range(14, 26):
        world.event(n, n)
    assert world.state is BookState.RESYNCING
    assert world.sync.resyncs == 1 and world.sync.gaps == 0


def test_buffer_is_bounded_and_counts_what_it_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "BUFFERED_EVENTS_MAX", 10)
    world = World()
    for n in range(1, 31):
        world.event(n, n)
    assert world.sync.buffer_dropped == 20
    assert not world.snapshot(15), "event 16 was dropped: a newer snapshot is needed"
    assert world.snapshot(25)


def test_our_own_wrong_id_is_noticed() -> None:
    world = World()
    world.snapshot(10)
    world.event(11, 10**12)
    for n in range(12, 12 + rules.OLDER_RUN_MAX):
        world.event(n, n)
    assert world.state is BookState.RESYNCING
    assert world.sync.gaps == 0


def test_snapshot_nobody_needs_does_not_turn_the_book_back() -> None:
    world = World()
    world.snapshot(10)
    world.event(11, 15)
    assert world.snapshot(12)
    assert world.sync.book.update_id == 15
    assert world.sync.snapshots == 1


@pytest.mark.parametrize("kind", [BookSync, FuturesBookSync])
def test_any_losses_end_in_the_exchange_s_book(kind: type[BookSync]) -> None:
    """Random events, losses, duplicates and late snapshots: a synced book always equals the exchange's."""
    rng = random.Random(kind.__name__)
    for _ in range(60):
        world = World(kind)
        bids: dict[float, float] = {}
        asks: dict[float, float] = {}
        number = previous = 100
        snapshots: list[DepthSnapshot] = []
        for _ in range(200):
            first = number + 1
            number += rng.randrange(1, 4)
            changes = [(float(rng.randrange(1, 50)), float(rng.choice((0, 1, 2)))) for _ in range(rng.randrange(4))]
            rises = [(float(rng.randrange(60, 99)), float(rng.choice((0, 1, 2)))) for _ in range(rng.randrange(4))]
            for side, levels in ((bids, changes), (asks, rises)):
                side.update(levels)
                for price in [price for price, quantity in side.items() if not quantity]:
                    del side[price]
            event = (first, number, previous if kind is FuturesBookSync else 0, changes, rises)
            previous = number
            if rng.random() > 0.05:
                world.event(*event)
            if rng.random() < 0.05:
                world.event(*event)
            snapshots.append(DepthSnapshot(number, 0, list(bids.items()), list(asks.items())))
            if world.sync.wanting and rng.random() < 0.3:
                late = snapshots[-min(len(snapshots), rng.choice((1, 1, 2, 5)))]
                world.sync.snapshot(late, world.now)
            if world.state is BookState.SYNCED and world.sync.book.update_id == number:
                book = world.sync.book
                assert dict(zip(*book.top(200)[:2], strict=True)) == bids
                assert dict(zip(*book.top(200)[2:], strict=True)) == asks
        assert world.sync.snapshots
