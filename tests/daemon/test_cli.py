from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tickring.daemon import instance
from tickring.daemon.commands import running, showing
from tickring.storage.engine import lock_store

from ..ports import free_port
from ..system.recording import record, simulator
from .conftest import alive, wait_for

GOOD = """
[instance]
name = "{name}"
folder = "{folder}"
data = "{folder}/data"
[exchanges.binance.spot]
symbols = ["BTC-USDT"]
[front]
port = 0
"""

DEMO_S = 180.0  # until each of its twenty processes does its part
END_S = 240.0  # of a command, which may be a whole demo


def tickring(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tickring", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=END_S, **options)


def test_version_names_what_it_runs_on():
    facts = json.loads(tickring("version", "--json").stdout)
    assert facts["python"] == sys.version.split()[0]
    assert {"tickring", "chdb", "picows", "msgspec"} <= set(facts)
    assert tickring("version").stdout.startswith("tickring ")


def test_unknown_command_and_missing_file_end_with_one_line_and_a_code(tmp_path):
    assert tickring("dance").returncode == 2
    result = tickring("run", "-c", str(tmp_path / "none.toml"))
    assert (result.returncode, result.stdout) == (66, "")
    assert result.stderr.count("\n") == 1 and "cannot be read" in result.stderr
    result = tickring("status", "--folder", str(tmp_path))
    assert result.returncode == 69 and "start one with `tickring run`" in result.stderr


def test_check_prints_the_plan_or_every_mistake(tmp_path, shm):
    file = tmp_path / "tickring.toml"
    file.write_text(GOOD.format(name="check", folder=shm))
    plan = json.loads(tickring("check", "--json", str(file)).stdout)
    assert plan["ok"] and plan["memory_bytes"] > 0
    assert "feed-binance-spot-0" in [actor["name"] for actor in plan["actors"]]
    assert "feed-binance-spot-0" in tickring("check", str(file)).stdout
    file.write_text(GOOD.format(name="Check", folder=shm) + "prt = 1\n[exchange]\n")
    result = tickring("check", str(file))
    assert result.returncode == 78
    assert f"{file}: 3 mistakes in the configuration" in result.stderr
    result = tickring("check", "--json", str(file))
    assert result.returncode == 78
    assert [mistake["path"] for mistake in json.loads(result.stdout)["mistakes"]] == [
        "instance.name",
        "exchange",
        "front.prt",
    ]
    assert tickring("run", "-c", str(file)).returncode == 78


def test_check_tells_of_rings_that_do_not_fit_and_finds_no_mistake(tmp_path, shm, monkeypatch, capsys):
    file = tmp_path / "tickring.toml"
    file.write_text(GOOD.format(name="large", folder=shm))
    monkeypatch.setattr(instance, "free_bytes", lambda folder: 1_000_000)
    assert showing.check(file, as_json=False) == 0
    said = capsys.readouterr()
    assert "no mistakes" in said.out and "1,000,000 free" in said.err
    assert showing.check(file, as_json=True) == 0
    [warning] = json.loads(capsys.readouterr().out)["warnings"]
    assert warning.startswith("`run` would refuse: the rings need ")
    assert not (shm / "tickring-large").exists()


def test_store_that_another_process_has_open_ends_the_start_with_one_line(tmp_path, shm):
    file = tmp_path / "tickring.toml"
    file.write_text(GOOD.format(name="locked", folder=shm) + f"[clickhouse]\nport = {free_port()}\n")
    lock = lock_store(shm / "data" / "clickhouse")
    result = tickring("run", "--purge", "-c", str(file))
    os.close(lock)
    assert result.returncode == 75
    assert f"is in use by process {os.getpid()}" in result.stderr
    assert not (shm / "tickring-locked").exists()


def test_layout_is_printed_as_a_table_and_as_json():
    table = tickring("inspect", "--layout").stdout.splitlines()
    assert table[0].split()[:3] == ["offset", "size", "field"]
    rows = json.loads(tickring("inspect", "--layout", "--json").stdout)
    assert [row["field"] for row in rows][:2] == ["magic", "layout_version"]


def test_replay_prints_every_record_as_one_line_and_books_at_the_end(captures):
    capture = str(captures / "binance-spot" / "hftbacktest_btcusdt_20240808.gz")
    lines = tickring("replay", capture).stdout.splitlines()
    assert len(lines) > 10_000
    trade = next(line for line in map(json.loads, lines) if line["record"] == "trade")
    assert (trade["exchange"], trade["market_type"], trade["instrument"]) == ("binance", "spot", "BTC-USDT")
    assert isinstance(trade["price"], str)
    [book] = map(json.loads, tickring("replay", "--books", capture).stdout.splitlines())
    assert book["instrument"] == "BTC-USDT" and book["gaps"] == 0


def test_replay_into_a_pipe_that_closes_ends_quietly(captures):
    capture = str(captures / "binance-spot" / "hftbacktest_btcusdt_20240808.gz")
    process = subprocess.Popen(
        [sys.executable, "-m", "tickring", "replay", capture], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


class Demo:
    """A running demo, and its address."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tickring", "demo", "--symbols", "3", *arguments]
        # a terminal sends Ctrl-C to the whole process group
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
        )
        self.folder = Path(f"/dev/shm/tickring-demo-{self.process.pid}")

    def address(self) -> str:
        for line in self.process.stdout:
            if line.startswith("open "):
                return line.split()[1]
        raise AssertionError(self.process.stderr.read())

    def status(self) -> dict:
        return json.loads(tickring("status", "--json", "--instance", self.folder.name.removeprefix("tickring-")).stdout)

    def interrupt(self) -> tuple[int, str]:
        os.killpg(self.process.pid, signal.SIGINT)
        output, _ = self.process.communicate(timeout=END_S)
        return self.process.returncode, output


@pytest.fixture
def demo():
    demos: list[Demo] = []

    def start(*arguments: str) -> Demo:
        demos.append(Demo(*arguments))
        return demos[-1]

    yield start
    for one in demos:
        if one.process.poll() is None:
            one.interrupt()


def test_demo_serves_live_data_brings_every_killed_actor_back_and_leaves_nothing_after_ctrl_c(demo):
    one = demo()
    address = one.address()
    name = one.folder.name.removeprefix("tickring-")

    def trades() -> list:
        lines = tickring("tail", "trade", "BTC-USDT", "-n", "5", "--json", "--instance", name).stdout.splitlines()
        return [json.loads(line) for line in lines]

    [*_, newest] = wait_for("trades in memory", trades, DEMO_S)
    assert (newest["record"], newest["instrument"]) == ("trade", "BTC-USDT")
    wait_for("another trade", lambda: trades()[-1]["trade_id"] != newest["trade_id"], DEMO_S)
    with urllib.request.urlopen(address, timeout=60) as page:
        assert page.status == 200
    status = one.status()
    pids = [actor["pid"] for actor in status["actors"]]
    kinds = {actor["kind"] for actor in status["actors"]}
    market = {"simulator", "clickhouse", "feed", "keeper", "writer", "front"}
    assert kinds == {*market, "broker", "strategy", "topic", "portfolio", "alerts"}
    assert len(pids) == 20 and all(map(alive, pids))
    files = json.loads(tickring("inspect", "--json", "--instance", name).stdout)["files"]
    assert any(file["file"].endswith(".trade.ring") and file["publish"] for file in files)
    [page] = json.loads(tickring("inspect", "--json", str(one.folder / "simulator.page")).stdout)["files"]
    assert page["state"] == "running"

    killed = {actor["name"]: actor["pid"] for actor in status["actors"]}
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    def all_back() -> bool:
        actors = one.status()["actors"]
        return all(actor["state"] == "running" and actor["pid"] != killed[actor["name"]] for actor in actors)

    wait_for("all actors to run again", all_back, DEMO_S)
    pids = [actor["pid"] for actor in one.status()["actors"]]
    code, output = one.interrupt()
    assert code == 0 and "nothing left behind" in output
    assert not any(map(alive, pids))
    assert not one.folder.exists() and not Path(status["data"]).exists()


def test_demo_takes_another_port_than_its_usual_one_if_that_is_taken(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(running, "DEMO_PORT", port)
        assert running.demo_settings(None, 1, "demo-x", tmp_path)["front"]["port"] == 0
    assert running.demo_settings(None, 1, "demo-x", tmp_path)["front"]["port"] == port


def test_demo_whose_port_was_asked_for_and_is_taken_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = tickring("demo", "--port", str(port), "--symbols", "1")
    assert result.returncode == 75
    assert f"front cannot listen on 127.0.0.1:{port}: process {os.getpid()}" in result.stderr


def test_demo_ends_by_itself_after_its_duration():
    result = tickring("demo", "--port", "0", "--symbols", "1", "--duration", "0.5")
    assert result.returncode == 0
    assert "stopped, nothing left behind" in result.stdout


def test_recording_of_the_simulator_replays_with_synced_books(tmp_path):
    output = tmp_path / "session.gz"
    symbols = {"BTCUSDT": "BTC-USDT", "ETHUSDT": "ETH-USDT"}
    with simulator(list(symbols)) as urls:
        said = record(output, symbols, urls)
        assert said["frames"] > 4 and said["reconnects"] == 0
        addresses = ("--ws-url", urls["spot_ws"], "--rest-url", urls["spot_rest"])
        short = tickring("record", str(tmp_path / "short"), "--symbols", "BTC-USDT", *addresses, "--duration", "0.1")
        assert short.returncode == 0, short.stderr
    books = [json.loads(line) for line in tickring("replay", "--books", str(output)).stdout.splitlines()]
    assert {book["instrument"]: (book["state"], book["gaps"]) for book in books} == {
        "BTC-USDT": ("synced", 0),
        "ETH-USDT": ("synced", 0),
    }
    records = {json.loads(line)["record"] for line in tickring("replay", str(output)).stdout.splitlines()}
    assert {"trade", "quote"} <= records
