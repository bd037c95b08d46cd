"""`tickring storage status` against a whole daemon."""

from __future__ import annotations

import contextlib
import json
import os
import signal

import pytest

from tickring.actors.gaps import Gap, GapLedger, Outage, gaps_path, outages_path
from tickring.daemon.commands.storing import _kept, _missed, _state
from tickring.ringbuf import read_page

from .conftest import wait_for
from .test_cli import demo, tickring  # noqa: F401


def look(name, *options):
    done = tickring("storage", "status", "--instance", name, *options)
    return done, json.loads(done.stdout) if "--json" in options else {}


def test_storage_status_tells_of_tables_spool_cursors_and_gaps(demo):  # noqa: F811
    one = demo("--port", "0", "--symbols", "2")
    one.address()
    name = one.folder.name.removeprefix("tickring-")

    def stored():
        done, facts = look(name, "--json")
        if done.returncode == 69:  # an engine that has just begun, on a busy machine, may not answer in time
            return None
        assert done.returncode == 0, done.stderr
        trades = next(table for table in facts["tables"] if table["table"] == "trades")
        return trades["rows"] > 0 and facts["clickhouse"]["up"] and (facts, trades)

    # an engine that everything else on the machine goes before takes its time until nothing waits in the spool
    facts, trades = wait_for("stored trades", stored, deadline_s=150.0)
    assert 0 < trades["bytes_compressed"] <= trades["bytes_on_disk"]
    assert trades["partitions"] in (1, 2)
    assert 0 < trades["oldest_ns"] <= trades["newest_ns"]
    assert trades["ttl"] == "toDateTime(ts_recv_ns) + toIntervalDay(90)"
    assert (facts["spool"]["bytes"], facts["spool"]["batches"], facts["spool"]["bytes_max"]) == (0, 0, 4 << 30)
    cursors = {line["stream"]: line for line in facts["cursors"]}
    line = cursors["feed-binance-spot-0.trade"]
    assert line["alive"] and line["lag_rows"] == line["published"] - line["safe"] >= 0
    assert facts["gaps"] == []

    stopped: set[int] = set()

    def without_an_engine():
        # the supervisor ends one that stands still and starts another, so it is always the present one
        engine = next(actor["pid"] for actor in one.status()["actors"] if actor["name"] == "clickhouse")
        if engine not in (0, *stopped):
            with contextlib.suppress(ProcessLookupError):
                os.kill(engine, signal.SIGSTOP)
            stopped.add(engine)
        if not read_page(one.folder / "writer.page").detail["spool"]["oldest"]:
            return None
        done, _ = look(name)
        return done.returncode == 69 and "no answer" in done.stdout and "oldest waiting batch: " in done.stdout and done

    done = wait_for("a waiting batch, and no answer", without_an_engine, deadline_s=150.0)
    assert "tables are not known" in done.stdout and "feed-binance-spot-0.trade" in done.stdout
    for engine in stopped:
        with contextlib.suppress(ProcessLookupError):  # the supervisor may have ended it meanwhile
            os.kill(engine, signal.SIGCONT)
    done = wait_for("tables again", lambda: (d := look(name)[0]).returncode == 0 and d, deadline_s=150.0)
    assert "trades" in done.stdout and "90 d" in done.stdout


def test_storage_status_without_a_daemon_ends_with_one_line(tmp_path):
    done = tickring("storage", "status", "--folder", str(tmp_path))
    assert done.returncode == 69
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "start one with" in done.stderr


@pytest.mark.parametrize(
    ("ttl", "said"),
    [
        ("", "for ever"),
        ("toDateTime(ts_recv_ns) + toIntervalDay(90)", "90 d"),
        ("toDateTime(ts_recv_ns) + toIntervalDay(multiIf(interval = '15m', 30, 1095))", "30 to 1095 d"),
        ("toDateTime(ts_recv_ns) + toIntervalMonth(2)", "toDateTime(ts_recv_ns) + toIntervalMonth(2)"),
    ],
)
def test_retention_is_said_in_days(ttl, said):
    assert _kept(ttl) == said


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"up": True, "catching_up": False, "reason": ""}, "takes rows"),
        ({"up": False, "catching_up": True, "reason": "catching up: 12 batches left"}, "catching up: 12 batches left"),
        ({"up": False, "catching_up": False, "reason": "no answer"}, "away: no answer"),
        ({}, "away: starting"),
    ],
)
def test_state_of_clickhouse_is_said_in_words(told, said):
    assert _state(told) == said


def test_what_feeds_missed_is_summed_by_feed_and_kind(tmp_path):
    ledger = GapLedger(gaps_path(tmp_path, "feed-x"), 1 << 20)
    for kind, first, last, at in (("trade", 5, 9, 100), ("trade", 20, 20, 300), ("book", 1, 50, 200)):
        ledger.add(Gap("binance", "BTC-USDT", kind, first, last, at - 1, at))
    outages = GapLedger(outages_path(tmp_path, "feed-x"), 1 << 20)
    for begin, end in ((50, 50), (70, 0), (70, 80), (90, 0)):
        outages.add(Outage("binance", "*", begin, end))
    found = [
        (t.stream, t.reason, t.gaps, t.rows, t.open, t.first_noticed_ns, t.last_noticed_ns) for t in _missed(tmp_path)
    ]
    assert found == [
        ("feed-x.trade", "not_received", 2, 6, 0, 100, 300), ("feed-x.book", "not_received", 1, 0, 0, 200, 200),
        ("feed-x", "not_connected", 2, 0, 1, 80, 90),
    ]  # fmt: skip
