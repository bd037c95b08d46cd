"""Exactly once: whatever is killed and cut, each offset is in the ring once and in order, and each live item once."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tickring.actors.topic import Config as TopicConfig
from tickring.daemon.commands import deadletters
from tickring.ringbuf import ReaderKind, StreamReader

from . import broker as kafka
from .conftest import Cut, TopicRig, report

Wait = Callable[..., None]
Make = Callable[..., TopicRig]
KILLS = 25
POISON_BELOW = 40_000  # events: the ring of dead letters holds 4,096, however slow the machine is


class Load:
    """Produces reports to all partitions until told to stop; every eleventh of the first cannot be understood."""

    def __init__(self, bootstrap: str, topic: str, rate: int) -> None:
        self._bootstrap, self._topic, self._rate = bootstrap, topic, rate
        self.sent: dict[int, list[bytes]] = {partition: [] for partition in range(4)}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        numbers, producer = itertools.count(), kafka.Produces(self._bootstrap, self._topic)
        while not self._ending.wait(0.02):
            events = []
            for _ in range(self._rate // 50):
                i = next(numbers)
                value = b"{" if i % 11 == 0 and i < POISON_BELOW else report(i, account=f"acct-{i % 5}")
                self.sent[i % 4].append(value)
                events.append((i % 4, None, value, None))
            producer.produce(events)
        producer.flush()

    def finish(self) -> int:
        """Stop, and return how many events were produced and acknowledged."""
        self._ending.set()
        self._thread.join(120)
        assert not self._thread.is_alive()
        return sum(map(len, self.sent.values()))


@pytest.fixture
def loads() -> Iterator[Callable[..., Load]]:
    made: list[Load] = []

    def make(*args: Any, **settings: Any) -> Load:
        made.append(Load(*args, **settings))
        return made[-1]

    yield make
    for load in made:
        load.finish()


def assert_each_once(rig: TopicRig, load: Load) -> None:
    """Each event in the ring once, in order and with its bytes; each fill and each dead letter once."""
    found: dict[int, list[bytes]] = {partition: [] for partition in load.sent}
    for partition, offset, _, _, value in rig.events():
        assert offset == len(found[partition]), f"partition {partition}: offset {offset} after {len(found[partition])}"
        found[partition].append(value)
    assert found == load.sent
    everything = [value for values in load.sent.values() for value in values]
    ids = sorted(msgspec.json.decode(value)["exec_id"] for value in everything if value != b"{")
    fills = rig.rows("fill")
    assert sorted(fill.fill_id for fill in rig.fills(fills)) == ids
    assert len(rig.rows("dead_letter")) == len(everything) - len(ids)


def test_topic_killed_many_times_under_load_holds_every_offset_and_every_fill_once(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait, loads: Callable[..., Load]
) -> None:
    chance = random.Random(5)
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap)
    load = loads(any_broker.bootstrap, topic, rate=200)  # its rings hold what comes until the last moment
    for _ in range(KILLS):
        before = rig.published()
        rig.start()
        wait_for(lambda before=before: rig.published() > before, "some events")
        time.sleep(chance.uniform(0, 0.05))  # at any moment of its work
        rig.kill()
    total = load.finish()
    rig.start()
    wait_for(lambda: rig.published() == total, f"all {total} events")
    assert_each_once(rig, load)
    rig.stop()


def test_broker_killed_under_load_costs_nothing(
    broker: kafka.Broker, topic: str, make_rig: Make, wait_for: Wait, loads: Callable[..., Load]
) -> None:
    rig = make_rig(topic, bootstrap_servers=broker.bootstrap)
    load = loads(broker.bootstrap, topic, rate=200)
    rig.start()
    for _ in range(2):
        before = rig.published()
        wait_for(lambda before=before: rig.published() > before, "events before the kill")
        broker.kill()
        wait_for(lambda: rig.detail().get("state") == "away", "the actor says that the broker is away")
        broker.start()
        before = rig.published()
        wait_for(lambda before=before: rig.published() > before, "events after the kill")
    total = load.finish()
    wait_for(lambda: rig.published() == total, f"all {total} events")
    assert_each_once(rig, load)
    assert rig.process.is_alive()
    rig.stop()


def test_connection_cut_under_load_costs_nothing(
    broker: kafka.Broker, cut: Cut, topic: str, make_rig: Make, wait_for: Wait, loads: Callable[..., Load]
) -> None:
    rig = make_rig(topic, bootstrap_servers=broker.through)
    load = loads(broker.bootstrap, topic, rate=200)
    rig.start()
    for _ in range(3):
        before = rig.published()
        wait_for(lambda before=before: rig.published() > before, "events before the cut")
        cut.cut()
        wait_for(lambda: rig.detail().get("state") == "away", "the actor says that the broker is away")
        cut.mend()
        wait_for(lambda: rig.detail().get("state") == "consuming", "the actor is back")
    total = load.finish()
    wait_for(lambda: rig.published() == total, f"all {total} events")
    assert_each_once(rig, load)
    rig.stop()


def _take_line_and_die(shm: str, producer: str, record: str) -> None:
    StreamReader(Path(shm), producer, record).register("portfolio", ReaderKind.DURABLE)


def test_topic_gives_up_a_durable_reader_of_its_live_stream_that_stays_dead(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap, live_capacity=4096, detach_after_s=1.0)
    reader = multiprocessing.get_context("fork").Process(
        target=_take_line_and_die, args=(str(rig.shm), rig.name, "fill")
    )
    reader.start()
    reader.join()
    kafka.produce(any_broker.bootstrap, topic, [(i % 4, None, report(i), None) for i in range(6000)])
    rig.start()
    wait_for(lambda: rig.published() == 6000, "the reader is given up")
    wait_for(lambda: rig.metric("detached_total") == 1, "and that is counted")
    assert rig.metric("held_seconds_total") > 0, "the actor waited for it"
    rig.stop()


def test_topic_waits_for_a_durable_reader_of_its_events(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    events = [(i % 4, None, report(i), None) for i in range(6000)]
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap, event_capacity=4096, detach_after_s=3600)
    reader = StreamReader(rig.shm, rig.name, "event")
    line = reader.register("writer", ReaderKind.DURABLE)
    kafka.produce(any_broker.bootstrap, topic, events)
    rig.start()
    wait_for(lambda: rig.detail().get("state") == "held", "the actor waits for its reader")
    assert rig.published() <= 4096
    offsets: list[tuple[int, int]] = []
    event_reader = StreamReader(rig.shm, rig.name, "event", rig.dtype("event"))
    while len(offsets) < len(events):
        rows, cursor, lost = event_reader.read(line.cursor, 500)
        assert not lost
        offsets += zip(rows["partition"].tolist(), rows["offset"].tolist(), strict=True)
        line.cursor = cursor
    assert sorted(offsets) == [(partition, offset) for partition in range(4) for offset in range(1500)]
    wait_for(lambda: rig.metric("held_seconds_total") > 0, "the time is counted")
    event_reader.close()
    reader.close()
    rig.stop()


def test_topic_without_room_for_bytes_waits_too(any_broker: Any, topic: str, make_rig: Make, wait_for: Wait) -> None:
    events = [(0, None, report(i, padding="x" * 2000), None) for i in range(1000)]
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap, fill_texts_capacity=1 << 20)
    reader = StreamReader(rig.shm, rig.name, "event", rig.dtype("event"))
    line = reader.register("writer", ReaderKind.DURABLE)
    kafka.produce(any_broker.bootstrap, topic, events)
    rig.start()
    wait_for(lambda: rig.detail().get("state") == "held", "the actor waits for its reader")
    n = rig.published()
    assert 0 < n < 1000
    assert [value for *_, value in rig.events()] == [event[2] for event in events[:n]]
    line.cursor = n
    wait_for(lambda: rig.published() > n, "the actor goes on")
    reader.close()
    rig.stop()


@pytest.mark.parametrize("ends", [{}, {0: 4, 1: 9}])
def test_topic_with_new_rings_resumes_behind_what_is_stored(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait, stored: Callable[..., Any], ends: dict[int, int]
) -> None:
    """As after a reboot: shared memory is empty, the table knows how far it got, and ClickHouse comes late."""
    kafka.produce(any_broker.bootstrap, topic, [(i % 4, None, report(i), None) for i in range(40)])
    settings, open_store = stored(topic, ends)
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap, clickhouse=settings)
    rig.start()
    wait_for(lambda: rig.detail().get("state") == "resuming", "the actor waits for ClickHouse")
    assert rig.published() == 0
    open_store()
    wait_for(lambda: rig.published() == 40 - sum(end + 1 for end in ends.values()), "what is not stored")
    first = {int(row["partition"]): int(row["offset"]) for row in rig.rows("event")[::-1]}
    assert first == {partition: ends.get(partition, -1) + 1 for partition in range(4) if ends.get(partition) != 9}
    rig.kill()
    kafka.produce(any_broker.bootstrap, topic, [(1, None, report(40), None)])
    rig.start()  # shared memory knows all partitions by now, also the one without events: nobody has to be asked
    wait_for(lambda: int(rig.rows("event")["offset"][-1]) == 10, "the next event of a partition that had none")
    rig.stop()


def test_topic_that_was_made_anew_is_not_read_under_numbers_that_are_stored(
    broker: kafka.Broker, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    kafka.produce(broker.bootstrap, topic, [(0, None, report(i), None) for i in range(10)])
    rig = make_rig(topic, bootstrap_servers=broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.published() == 10, "all events")
    rig.stop()
    kafka.renew_topics(broker.bootstrap, [topic])
    kafka.produce(broker.bootstrap, topic, [(0, None, report(20), None), (1, None, report(21), None)])
    rig.start()
    wait_for(lambda: rig.published() == 11, "the event of the other partition")
    assert rig.ends() == {0: 10, 1: 1}
    wait_for(lambda: "0" in rig.detail()["stuck"], "the actor says so")
    kafka.produce(broker.bootstrap, topic, [(0, None, report(30 + i), None) for i in range(12)])
    wait_for(lambda: rig.published() == 14, "events with numbers that are not taken")
    rig.stop()


def test_topic_made_anew_below_a_position_without_events_is_held_back_and_read_on(
    broker: kafka.Broker, topic: str, make_rig: Make, wait_for: Wait
) -> None:
    """The position is known from its file alone: the ring has no event of the partition."""
    kafka.produce(broker.bootstrap, topic, [(0, None, report(i), None) for i in range(10)])
    rig = make_rig(topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="latest")
    rig.start()
    wait_for(lambda: rig.detail().get("state") == "consuming", "the actor reads")
    rig.stop()
    kafka.renew_topics(broker.bootstrap, [topic])
    kafka.produce(broker.bootstrap, topic, [(0, None, report(20), None), (1, None, report(21), None)])
    rig.start()
    wait_for(lambda: "0" in rig.detail().get("stuck", {}) and rig.published() == 1, "the event of the other partition")
    kafka.produce(broker.bootstrap, topic, [(0, None, report(30 + i), None) for i in range(12)])
    wait_for(lambda: rig.published() == 4, "events with numbers that are not taken")
    rig.stop()


def test_dead_letters_are_listed_and_replayed_once(
    any_broker: Any, topic: str, make_rig: Make, wait_for: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    """A letter that can be understood by now: as if the decoder had been mended, its mark stands in the ring."""
    kafka.produce(any_broker.bootstrap, topic, [(0, None, b"{", None), (0, b"k", b"[]", [("h", b"v")])])
    rig = make_rig(topic, bootstrap_servers=any_broker.bootstrap)
    rig.start()
    wait_for(lambda: rig.published() == 2, "both events")
    letters, replayed, _ = asyncio.run(deadletters._find(rig.shm, None, None, 10))
    assert [(one.place, one.value, one.key, one.headers) for one in letters] == [
        ((topic, 0, 0), b"{", None, []), ((topic, 0, 1), b"[]", b"k", [("h", b"v")]),
    ]  # fmt: skip
    assert not replayed
    assert deadletters.show(rig.shm, None, topic, 10, as_json=True) == 69  # without a writer history is not known
    assert [row["offset"] for row in msgspec.json.decode(capsys.readouterr().out)] == [0, 1]

    config = msgspec.convert(rig.settings, TopicConfig)
    asyncio.run(deadletters._produce(rig.shm, config, letters[1:]))
    wait_for(lambda: rig.published() == 3, "the replayed event")
    _, _, headers, key, value = rig.events()[-1]
    assert (headers, key, value) == ([["h", b"v"], ["tickring-replay", f"{topic}/0/1".encode()]], b"k", b"[]")
    outcome = asyncio.run(deadletters._replay(rig.shm, config, None, topic, None, dry_run=False))
    # what came of the replay is a letter of the same event, and was not understood either
    assert (outcome["replayed"], outcome["replayed before"], outcome["not understood yet"]) == (0, 0, 2)
    rig.stop()
