"""Which dead letters are listed and replayed."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from tickring.actors.topic import Config
from tickring.codecs.desk.records import NO_KEY
from tickring.codecs.record import Flag
from tickring.daemon.commands import deadletters
from tickring.daemon.commands.deadletters import REPLAY_HEADER

from ..desk.conftest import report
from ..desk.desk_rig import Topic

TOPIC = "exec.reports.v1"
GOOD = report(1)
CONFIG = Config(bootstrap_servers="none:9092")


class Held(Topic):
    """A topic whose ring has dead letters."""

    def put(self, value, reason="", headers=(), flags=0):
        """An event, a letter where there is a reason; returns its offset."""
        offset, self.offset = self.offset, self.offset + 1
        body = msgspec.msgpack.encode(list(headers)) if headers else b""
        at = self.texts.append((len(body).to_bytes(4, "little") + body if headers else b"") + value)
        flags |= (Flag.HEADERS if headers else 0) | (Flag.DEAD if reason else 0)
        now = time.time_ns()
        self.publish["event"](0, now, 0, flags, offset, now // 10**6, at, 0, NO_KEY, len(value))
        if reason:
            at, size = self._text([reason, "why"])
            self.publish["dead_letter"](0, now, 0, flags, offset, at, size, 0, 0)
        return offset


def header(offset):
    return (REPLAY_HEADER, f"{TOPIC}/0/{offset}".encode())


@pytest.fixture
def held(shm):
    topic = Held(shm, TOPIC)
    yield topic
    topic.close()


@pytest.fixture
def replay(shm, monkeypatch):
    """Replays, and returns the outcome with what was produced as `(origin, offset)`."""
    produced = []

    async def produce(folder, config, letters):
        produced.extend((one.origin[2], one.offset) for one in letters)

    monkeypatch.setattr(deadletters, "_produce", produce)

    def run(server=None, reason=None):
        produced.clear()
        outcome = asyncio.run(deadletters._replay(shm, CONFIG, server, TOPIC, reason, dry_run=False))
        return {what: n for what, n in outcome.items() if n and what != "complaint"}, list(produced)

    return run


def test_letter_is_replayed_until_its_replay_is_understood(held, replay):
    first = held.put(GOOD, "internal_error")
    assert replay() == ({"replayed": 1}, [(first, first)])
    again = held.put(GOOD, "internal_error", [("h", b"v"), header(first)])
    assert replay() == ({"replayed": 1}, [(first, first)])
    assert replay(reason="bad_value") == ({}, [])
    held.put(GOOD, headers=[header(first)])
    assert replay() == ({"replayed before": 1}, [])
    assert again != first


def test_refused_replay_stands_for_a_letter_that_is_gone(held, replay):
    copies = [held.put(GOOD, "internal_error", [header(12_345)]) for _ in range(2)]
    assert replay() == ({"replayed": 1}, [(12_345, copies[0])])


def test_letter_on_which_the_decoder_breaks_keeps_no_other_from_its_replay(held, replay, monkeypatch, capsys):
    held.put(b"breaks", "internal_error")
    good, held_decoder = held.put(GOOD, "internal_error"), deadletters.decoder

    def broken(topic, defaults):
        decode = held_decoder(topic, defaults)
        return lambda value, *where: 1 / 0 if value == b"breaks" else decode(value, *where)

    monkeypatch.setattr(deadletters, "decoder", broken)
    assert replay() == ({"replayed": 1, "not understood yet": 1}, [(good, good)])
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_letter_that_is_not_whole_is_not_replayed(held, replay, monkeypatch):
    held.put(GOOD, "too_large", flags=Flag.CUT)
    assert replay() == ({"bytes not whole": 1}, [])


class Tables:
    """Stands in for the client: the newest letters, and their events as they are a moment later."""

    def __init__(self, letters, events, copies=()):
        self.letters, self.events, self.copies = letters, events, copies
        self.asked = []

    async def rows(self, statement, parameters):
        self.asked.append(statement)
        if "explanation" in statement:
            return self.letters
        return self.copies if "arrayExists" in statement else self.events


def stored(tables, count=20):
    return asyncio.run(deadletters._stored(tables, "tickring", None, count))


def event_row(offset, value=b"{"):
    return (TOPIC, 0, offset, "", 1, value.hex(), [])


def test_letter_stored_while_they_are_looked_for_is_passed_over():
    tables = Tables([(TOPIC, 0, 7, 5, "bad_value", "why")], [event_row(8), event_row(7)])
    (letter,), _ = stored(tables)
    assert (letter.place, letter.value) == ((TOPIC, 0, 7), b"{")


def test_both_questions_are_for_the_same_newest_letters_and_copies_that_are_letters_count_for_nothing():
    tables = Tables([], [], [(f"{TOPIC}/0/3",)])
    assert stored(tables, 7) == ([], {(TOPIC, 0, 3)})
    newest = "ORDER BY ts_recv_ns DESC, topic, partition, offset LIMIT 7"
    assert [newest in statement for statement in tables.asked] == [True, True, False]
    assert "event_id != ''" in tables.asked[2]


def test_reason_that_the_topic_knows_is_shown_instead_of_what_the_tables_say(held, shm, server_of_tables):
    offset = held.put(GOOD, "internal_error")
    server_of_tables(Tables([(TOPIC, 0, offset, 5, "refused", "readable by now")], [event_row(offset, GOOD)]))
    (letter,), _, _ = asyncio.run(deadletters._find(shm, deadletters.Server(url="http://none"), TOPIC, 10))
    assert (letter.reason, letter.explanation, letter.value) == ("internal_error", "why", GOOD)


@pytest.fixture
def server_of_tables(monkeypatch):
    def use(tables):
        async def close():
            pass

        tables.close = close
        monkeypatch.setattr(deadletters, "Client", lambda server: tables)

    return use
