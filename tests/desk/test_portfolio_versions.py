"""Texts that this version cannot read: the portfolio counts them, asks for what matters, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tickring.actors.portfolio.statements import Statements
from tickring.actors.portfolio.store import Store
from tickring.actors.portfolio.tellings import FillRing, telling
from tickring.actors.topic.positions import Positions
from tickring.codecs.desk.canonical import MarketData
from tickring.codecs.desk.money import UNIT
from tickring.codecs.desk.records import TEXTS
from tickring.ringbuf import DirectoryFull, StreamReader, bytes_filename

from .desk_rig import Topic
from .test_front_streams import a_fill

OTHER = b'{"of":"another version"}'
NOTHING = bytes(16)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "portfolio")
    yield made
    made.close()


def test_asset_of_a_fee_is_taken_in_any_case() -> None:
    fill = msgspec.structs.replace(a_fill(1), commission=UNIT, commission_asset="usdt")
    assert telling(fill, 0).execution.asset == "USDT"


@pytest.mark.parametrize("text", [OTHER, b'["\xff"]'], ids=["version", "no-utf8"])
def test_fill_of_another_version_is_a_hole_that_clickhouse_fills(shm: Path, store: Store, text: bytes) -> None:
    topic = Topic(shm, "exec.reports.v1")
    topic.fill(a_fill(1))
    at, size = topic.texts.append(text), len(text)
    topic.publish["fill"](0, 1, 1, 0, NOTHING, NOTHING, NOTHING, topic.offset, at, size, 0, 0)
    topic.offset += 1
    topic.fill(a_fill(3))
    ring = FillRing(shm, topic.name, store, None)
    assert [one.execution.fill_id for one in ring.read(100)] == ["f-1", "f-3"]
    assert (ring.lost, ring.holes) == (1, {0: (1, 1)})
    ring.close()
    topic.close()


@pytest.mark.parametrize("text", [OTHER, b'{"event_id":"\xff"}'], ids=["version", "no-utf8"])
def test_statement_of_another_version_is_counted(shm: Path, text: bytes) -> None:
    topic, prices = Topic(shm, "market.data.v1"), []
    statements = Statements(shm, lambda *told: prices.append(told), lambda *_: None)
    at, size = topic.texts.append(text), len(text)
    topic.publish["statement"](0, 1, 1, 0, 0, at, size, 0, 0)
    topic.say(MarketData(event_id="e", timestamp=5, variant="api", symbol="SOLUSDT", price=UNIT))
    statements.refresh()
    statements.read()
    assert (statements.unreadable, prices) == (1, [("SOLUSDT", UNIT, 5)])
    statements.close()
    topic.close()


def test_streams_that_cannot_be_followed_yet_leave_nothing_open(
    shm: Path, store: Store, monkeypatch: pytest.MonkeyPatch, nothing_left_open: None
) -> None:
    def full(*_: object) -> None:
        raise DirectoryFull("all lines belong to live readers")

    fills, prices = Topic(shm, "exec.reports.v1"), Topic(shm, "market.data.v1")
    statements = Statements(shm, lambda *_: None, lambda *_: None)
    (shm / bytes_filename(prices.name, TEXTS)).unlink()
    monkeypatch.setattr(StreamReader, "register", full)
    for _ in range(3):
        with pytest.raises(DirectoryFull):
            FillRing(shm, fills.name, store, None)
        statements.refresh()
    for part in (statements, fills, prices):
        part.close()


@pytest.mark.parametrize("told", [True, False], ids=["positions-known", "positions-unknown"])
def test_rows_that_were_overwritten_are_a_hole_up_to_what_was_published(shm: Path, store: Store, told: bool) -> None:
    topic = Topic(shm, "exec.reports.v1", capacity=16)
    for n in range(4):
        topic.fill(a_fill(n))
    ring = FillRing(shm, topic.name, store, None)
    assert len(ring.read(100)) == 4
    ring.searched = True
    for n in range(4, 40):
        topic.fill(a_fill(n))
    if told:
        positions = Positions(shm, topic.name, 1)
        positions[0] = 40
        positions.close()
    found = [one.execution.fill_id for one in ring.read(100)]
    first = int(found[0].removeprefix("f-"))
    assert first > 4 and found[-1] == "f-39" and ring.lost == first - 4
    assert ring.holes == {0: (3, 39 if told else first)}  # an event may have been cut in two
    assert not ring.searched  # of other partitions all rows may be gone
    ring.close()
    topic.close()


def test_rows_left_to_clickhouse_are_exactly_the_hole(shm: Path, store: Store) -> None:
    topic = Topic(shm, "exec.reports.v1")
    for n in range(3000):
        topic.fill(a_fill(n))
    ring = FillRing(shm, topic.name, store, None)
    assert ring.crowded()
    ring.read(1000)
    assert not ring.crowded()
    ring.skip()
    assert (ring.holes, ring.skipped, ring.gap) == ({0: (1000, 2999)}, 2000, 2000)
    assert ring.filled(0, 1000, 2500) and ring.holes == {0: (2500, 2999)}
    assert not ring.filled(0, 1000, 2600)  # somebody else's view of it
    assert ring.filled(0, 2500, 3000) and not ring.holes and not store.holes(ring.topic)
    ring.close()
    topic.close()
