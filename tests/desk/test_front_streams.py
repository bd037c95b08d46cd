"""The front's view of the desk's streams: found, followed, decoded once, lost and found again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tickring.actors.alerts.book import Entry
from tickring.actors.alerts.store import FOLDER, Store
from tickring.actors.front.desk.alert_states import AlertStates
from tickring.actors.front.desk.streams import DeskStreams
from tickring.actors.recent import Recent
from tickring.codecs.desk.canonical import Alert, Fill, Risk
from tickring.codecs.desk.money import UNIT
from tickring.codecs.desk.records import FILL
from tickring.codecs.record import Flag
from tickring.ringbuf import MetricsPage, read_page

from .desk_rig import Alerts, Topic

NOW = 1_741_080_000 * 10**9


def a_fill(n: int, account: str = "acct-7", **more: object) -> Fill:
    values = {
        "fill_id": f"f-{n}", "symbol": "SOLUSDT", "side": "BUY", "quantity": 5 * 10**11 * UNIT, "price": n * UNIT,
        "timestamp": NOW + n, "strategy_id": "dipmaster", "account_id": account, "venue": "binance", **more,
    }  # fmt: skip
    return Fill(**values)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def topic(folder: Path) -> Iterator[Topic]:
    made = Topic(folder, "exec.reports.v1")
    yield made
    made.close()


def recent_of(streams: DeskStreams) -> Recent[Fill]:
    found = streams.fills()
    assert found is not None
    return found


def test_fills_that_were_published_come_back_as_they_were(folder: Path, topic: Topic) -> None:
    streams = DeskStreams(folder)
    fills = [a_fill(n, account) for n, account in enumerate(("acct-7", "default", "acct-7"))]
    for fill in fills:
        topic.fill(fill)
    recent = recent_of(streams)
    assert [item.value for item in recent.refresh()] == fills
    assert [item.nth for item in recent.items] == [0, 0, 1]
    assert recent.whole
    mine = [item.value.fill_id for item in recent.newest_first(topic.account("acct-7"))]
    assert mine == ["f-2", "f-0"]
    streams.close()


def test_an_item_is_decoded_once(folder: Path, topic: Topic) -> None:
    streams = DeskStreams(folder)
    topic.fill(a_fill(1))
    first = recent_of(streams).refresh()[0]
    topic.fill(a_fill(2))
    assert recent_of(streams).refresh()[0] is first
    streams.close()


def test_items_whose_texts_were_overwritten_are_counted(folder: Path) -> None:
    topic = Topic(folder, "exec.reports.v1", texts_bytes=1 << 12)
    for n in range(40):
        topic.fill(a_fill(n))
    streams = DeskStreams(folder)
    recent = recent_of(streams)
    kept = [item.value.fill_id for item in recent.refresh()]
    assert recent.unreadable > 0 and len(kept) + recent.unreadable == 40
    assert kept[-1] == "f-39" and not recent.whole
    streams.close()
    topic.close()


@pytest.mark.parametrize("text", [b'{"fill_id":"f-2","of":"another version"}', b'["\xff"]'], ids=["version", "no-utf8"])
def test_items_of_another_version_are_counted_and_the_others_are_read(folder: Path, topic: Topic, text: bytes) -> None:
    page = MetricsPage(folder, "front-0", 1)
    streams = DeskStreams(folder, page)
    topic.fill(a_fill(1))
    at, size = topic.texts.append(text), len(text)
    topic.publish["fill"](1, 1, NOW, 0, bytes(16), bytes(16), bytes(16), 1, at, size, 0, 0)
    topic.fill(a_fill(3))
    recent = recent_of(streams)
    assert [item.value.fill_id for item in recent.refresh()] == ["f-1", "f-3"]
    assert recent.unreadable == 1 and not recent.whole
    page.beat(1)
    [counted] = [one for one in read_page(page.path).samples if one.name == "tickring_desk_unreadable_items_total"]
    assert (counted.labels, counted.values[0]) == ({"stream": "topic-exec-reports-v1.fill"}, 1)
    streams.close()
    page.close()


def an_alert(name: str, *, resolved: bool = False) -> Alert:
    return Alert(
        event_id=f"e-{name}", timestamp=NOW, variant="", alert_id=name, severity="HIGH", code="X", title="Title",
        message="Message", resolved=resolved,
    )  # fmt: skip


def test_active_alerts_that_the_ring_no_longer_has_are_those_of_the_file(folder: Path, tmp_path: Path) -> None:
    producer, kept = Alerts(folder, capacity=16), Store(tmp_path / FOLDER)

    def change(name: str, *, resolved: bool = False) -> None:
        kept.put(Entry(alert=an_alert(name, resolved=resolved), first_ns=1, last_ns=1))
        producer.put(an_alert(name, resolved=resolved))

    def many() -> None:
        for n in range(20):
            change("flapping", resolved=n % 2 == 1)

    streams = DeskStreams(folder)
    streams.refresh()
    states = AlertStates(streams, tmp_path)
    change("first")
    change("ended")
    assert [one.alert_id for one in states.active()] == ["first", "ended"]
    change("second")
    change("ended", resolved=True)
    many()  # while nobody asks
    for one in (states, AlertStates(streams, tmp_path)):  # another one that is started now
        assert [alert.alert_id for alert in one.active()] == ["first", "second"]
        assert "ended" not in one.all()
    streams.close()
    kept.close()
    producer.close()


def test_a_withdrawn_item_is_left_out(folder: Path, topic: Topic) -> None:
    topic.fill(a_fill(1))
    topic.fill(a_fill(2), flags=int(Flag.VOID))
    streams = DeskStreams(folder)
    assert [item.value.fill_id for item in recent_of(streams).refresh()] == ["f-1"]
    streams.close()


def test_only_the_newest_are_kept(folder: Path, topic: Topic) -> None:
    streams = DeskStreams(folder)
    reader = next(streams.readers(FILL))
    recent = Recent(reader, recent_of(streams)._texts, Fill, 10)
    for n in range(25):
        topic.fill(a_fill(n))
    assert [item.value.fill_id for item in recent.refresh()] == [f"f-{n}" for n in range(15, 25)]
    assert not recent.whole
    assert recent.reaches(recent.items[0].recv_ns + 1) and not recent.reaches(recent.items[0].recv_ns)
    streams.close()


def test_statements_of_a_topic_are_found_by_its_name(folder: Path) -> None:
    topic = Topic(folder, "risk.metrics.v1")
    risk = Risk(event_id="e", timestamp=NOW, variant="api", strategy_id="s", account_id="acct-7", var_1d=41 * UNIT)
    topic.say(risk, "acct-7")
    streams = DeskStreams(folder)
    recent = streams.statements("risk.metrics.v1")
    assert recent is not None and [item.value for item in recent.refresh()] == [risk]
    assert streams.statements("alerts.v1") is None
    streams.close()
    topic.close()


def test_a_stream_made_anew_is_followed_from_its_start(folder: Path) -> None:
    topic = Topic(folder, "exec.reports.v1")
    streams = DeskStreams(folder)
    topic.fill(a_fill(1))
    assert len(recent_of(streams).refresh()) == 1
    generation = streams.generation
    topic.close()
    shutil.rmtree(folder)
    folder.mkdir()
    again = Topic(folder, "exec.reports.v1")
    again.fill(a_fill(7))
    streams.refresh()
    assert [item.value.fill_id for item in recent_of(streams).refresh()] == ["f-7"]
    assert streams.generation > generation
    streams.close()
    again.close()
