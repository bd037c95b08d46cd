"""From events to rows, without a broker: what fails in the middle leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tickring.actors.runtime import ActorContext
from tickring.actors.topic import Config
from tickring.actors.topic.decoding import Decoded
from tickring.actors.topic.rings import TopicRings
from tickring.codecs.desk.canonical import Fill
from tickring.codecs.record import Flag
from tickring.ringbuf import MetricsPage

from .conftest import EXECUTIONS, TopicRig
from .test_front_streams import a_fill

Make = Callable[..., TopicRig]


def decode(value: bytes, partition: int, offset: int, broker_ms: int) -> Decoded:
    """`b"<event id> <fills>"`; what follows a "!" is a fill of which nothing can be made."""
    event_id, _, fills = value.decode().partition(" ")
    items = [object() if fill == "!" else msgspec.structs.astuple(a_fill(index)) for index, fill in enumerate(fills)]
    return event_id, 5, 1, 0, items


class Producer:
    """The producer's side of a topic in this process, published by hand."""

    def __init__(self, make_rig: Make, shm: Path, tmp_path: Path, **settings: Any) -> None:
        self.rig = make_rig(EXECUTIONS, bootstrap_servers="127.0.0.1:1", **settings)
        (tmp_path / f"{self.rig.name}.log").touch()
        self.page = MetricsPage(shm, self.rig.name, time.time_ns())
        config = msgspec.convert(self.rig.settings, Config)
        self.context = ActorContext(self.rig.name, "topic", shm, tmp_path, config, self.page)
        self.rings = TopicRings(self.context, decode)
        self.offset = 0

    def records(self, *values: bytes, headers: Any = ()) -> list[Any]:
        return [
            SimpleNamespace(offset=self.offset + n, timestamp=1_741_080_000_000, key=None, value=value, headers=headers)
            for n, value in enumerate(values)
        ]

    def publish(self, records: Iterable[Any]) -> None:
        for chunk in self.rings.chunks({0: records}, time.time_ns()):
            self.rings.publish(chunk)

    def take(self, *values: bytes, headers: Any = ()) -> None:
        self.publish(self.records(*values, headers=headers))
        self.offset += len(values)

    def close(self) -> None:
        self.rings.close()
        self.page.close()


@pytest.fixture
def producer(make_rig: Make, shm: Path, tmp_path: Path) -> Iterator[Producer]:
    made = Producer(make_rig, shm, tmp_path, fill_texts_capacity=1 << 20)
    yield made
    made.close()


def flagged(rows: Any, flag: Flag) -> list[bool]:
    return ((rows["flags"] & flag) != 0).tolist()


@pytest.mark.parametrize("values", [[b"a +!", b"a ++"], [b"x +", b"a +!", b"a ++"]], ids=["first", "second"])
def test_event_that_failed_has_not_come_before_when_its_id_comes_again(producer: Producer, values: list[bytes]) -> None:
    producer.take(*values)
    events, fills = producer.rig.rows("event"), producer.rig.rows("fill")
    assert flagged(events, Flag.DEAD)[-2:] == [True, False]
    assert not any(flagged(events, Flag.REPEATED)) and not any(flagged(fills, Flag.REPEATED))
    assert fills["offset"].tolist()[-2:] == [producer.offset - 1] * 2
    producer.take(b"a +")
    assert flagged(producer.rig.rows("event"), Flag.REPEATED)[-1]


def test_newest_event_of_an_earlier_life_is_known(producer: Producer) -> None:
    assert producer.rings.newest_ns == 0
    producer.take(b"a +")
    producer.rings.close()
    producer.rings = TopicRings(producer.context, decode)
    assert producer.rings.newest_ns == 1_741_080_000_000 * 1_000_000


def test_event_that_failed_in_the_middle_leaves_none_of_its_fills(producer: Producer) -> None:
    producer.take(b"a ++", b"b ++!", b"c +")
    fills = producer.rig.rows("fill")
    assert list(zip(fills["offset"].tolist(), fills["item"].tolist(), strict=True)) == [(0, 0), (0, 1), (2, 0)]
    texts = [msgspec.json.decode(text, type=Fill).fill_id for text in producer.rig.texts(fills)]
    assert texts == ["f-0", "f-1", "f-0"]
    assert [value for *_, value in producer.rig.events()] == [b"a ++", b"b ++!", b"c +"]
    [letter] = producer.rig.texts(producer.rig.rows("dead_letter"))
    assert msgspec.json.decode(letter)[0] == "internal_error"


def test_events_whose_batch_could_not_be_decoded_to_its_end_have_not_come_before_when_they_come_again(
    producer: Producer,
) -> None:
    def broken() -> Iterator[Any]:
        yield from producer.records(b"a +", b"b +")
        raise ValueError("the rest of it is no gzip")

    producer.take(b"x +")
    with pytest.raises(ValueError, match="gzip"):
        producer.publish(broken())
    producer.take(b"a +", b"b +", b"x +")
    assert flagged(producer.rig.rows("event"), Flag.REPEATED) == [False, False, False, True]


def test_event_with_headers_larger_than_the_ring_takes_is_a_dead_letter(producer: Producer) -> None:
    producer.take(b"a +", headers=[("h", b"x" * (1 << 21))])
    producer.take(b"b +", headers=[("h", b"x")])
    producer.take(b"c !")
    assert flagged(producer.rig.rows("event"), Flag.DEAD) == [True, False, True]
    assert flagged(producer.rig.rows("event"), Flag.CUT) == [True, False, False]
    assert producer.rig.events()[1] == (0, 1, [["h", b"x"]], None, b"b +")
