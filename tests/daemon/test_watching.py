from __future__ import annotations

import os
import signal

import pytest

from tickring.daemon import watching
from tickring.daemon.commands.topping import duration, sections
from tickring.daemon.watching import Watcher, quantile
from tickring.ringbuf import MetricsPage, ReaderKind, State, StreamReader, StreamSpec
from tickring.ringbuf.stream import create_stream

from .conftest import wait_for


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ((0, 0, 0), 0.5, 0.0),
        ((10, 0, 0), 0.5, 0.5),
        ((10, 10, 0), 0.99, 1.98),
        ((0, 4, 0), 0.5, 1.5),
        ((0, 0, 3), 0.5, 2.0),  # beyond the last bound
    ],
)
def test_quantile_is_read_from_inside_its_bucket(counts, q, expected):
    assert quantile((1.0, 2.0), counts, q) == pytest.approx(expected)


def test_look_at_an_empty_folder_shows_that_nothing_runs(shm):
    view = Watcher(shm).look()
    assert (view.daemon, view.actors, view.rings, view.latencies) == ("down", [], [], [])
    assert all(rows == [] for _, _, rows in sections(view))


def test_rates_and_quantiles_are_those_since_the_last_look(shm):
    page = MetricsPage(shm, "feed-0", 1)
    page.state = State.RUNNING
    frames = page.counter("tickring_feed_frames_total", "frames")
    seconds = page.histogram("tickring_test_seconds", "time", (0.001, 0.01), channel="trade")
    frames.inc(1000)
    seconds.observe(0.009)
    page.beat(1)
    watcher = Watcher(shm)
    first = watcher.look()
    assert first.rates["frames_in"] == 0, "over which time is not known"
    assert first.latencies[0].p50_s > 0.001
    frames.inc(50)
    for _ in range(10):
        seconds.observe(0.0005)
    page.beat(2)
    second = watcher.look()
    assert second.rates["frames_in"] * second.interval_s == pytest.approx(50, rel=0.01)
    [latency] = second.latencies
    assert (latency.labels, latency.p50_s) == ({"channel": "trade"}, pytest.approx(0.0005))
    page.close()


def test_lag_of_readers_is_shown_and_no_file_is_opened_for_writing(shm, monkeypatch):
    create_stream(shm, StreamSpec("feed-0", "trade", 64, 1024, 4, 64, 1), 1)
    with open(shm / "feed-0.trade.ring", "r+b") as file:
        file.seek(192)
        file.write((7).to_bytes(8, "little"))
    reader = StreamReader(shm, "feed-0", "trade")
    line = reader.register("writer", ReaderKind.DURABLE, None, 3)
    flags: list[int] = []
    really_open = os.open
    monkeypatch.setattr(
        os, "open", lambda path, how, *more, **kw: (flags.append(how), really_open(path, how, *more, **kw))[1]
    )
    [ring] = Watcher(shm).look().rings
    monkeypatch.undo()
    assert (ring.published, ring.capacity) == (7, 1024)
    [shown] = ring.readers
    assert (shown.name, shown.kind, shown.alive, shown.lag) == ("writer", "durable", True, 4)
    assert flags and not any(how & (os.O_WRONLY | os.O_RDWR) for how in flags)
    line.close()
    reader.close()


def test_actor_without_a_heartbeat_hangs_and_one_that_was_given_up_says_so(tree, monkeypatch):
    monkeypatch.setattr(watching, "BEAT_STALE_S", 0.8)
    tree.start([{"name": "a", "main": "work"}, {"name": "b", "main": "crash"}], supervisor={"restarts_max": 0}).ready()
    (tree.data / "crash").touch()
    tree.wait_actor("b", state="fatal")
    watcher = Watcher(tree.folder)

    def states() -> dict[str, str]:
        return {actor.name: actor.state for actor in watcher.look().actors}

    wait_for("b to be given up", lambda: states() == {"supervisor": "running", "a": "running", "b": "fatal"})
    stopped = [tree.process.pid, tree.actor("a")["pid"]]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    wait_for("both to hang", lambda: states() == {"supervisor": "hung", "a": "hung", "b": "fatal"})
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0000452, "45.2 µs"), (0.0123, "12.3 ms"), (2.5, "2.5 s"), (0, "0 µs")]
)
def test_duration_has_three_digits_and_a_unit(seconds, text):
    assert duration(seconds) == text
