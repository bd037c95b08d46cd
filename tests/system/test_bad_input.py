"""Starts that cannot succeed, and clients that send rubbish."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tickring.daemon.errors import EXIT_CANNOT_CREATE, EXIT_CONFIG, EXIT_TRY_AGAIN

from .conftest import trees_in
from .tree import CLIENT_TIMEOUT_S, Tree, spot, until

SYMBOL = "BTC-USDT"
SMALL = {"exchanges": spot([SYMBOL]), "simulator": {"symbols": ["BTCUSDT"], "rate": 200.0}, "front": {"workers": 1}}
SEED = 20_261_121
RUBBISH_CONNECTIONS = 200


def refused(tree: Tree, **changes: Any) -> tuple[int, list[str]]:
    """Exit code and last message of a start that fails; it must have left neither a process nor shared memory."""
    tree.start(**{**SMALL, **changes})
    code = until("the end of the daemon", lambda: tree.process.poll() is not None and (tree.process.returncode or -1))
    message = tree.log.read_text().partition("\ntickring: ")[2] or tree.log.read_text().removeprefix("tickring: ")
    assert "Traceback" not in tree.log.read_text()
    assert processes_of(tree) == []
    assert not (tree.shm / f"tickring-{tree.config['instance']['name']}").exists() or tree.shares_folder
    return code, message.strip().splitlines()


def processes_of(tree: Tree) -> list[int]:
    """Processes whose standard error is the daemon's log."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(folder / "fd/2") == str(tree.log):
                found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """A daemon that all that is done beside it leaves as it is."""
    with trees_in(tmp_path_factory.mktemp("running")) as make:
        yield make().start(**SMALL).ready()


@pytest.fixture
def second(make_tree: Callable[..., Tree]) -> Tree:
    return make_tree()


@pytest.mark.parametrize("what", ["front", "clickhouse"])
def test_port_of_another_instance_of_the_same_user_ends_the_start_in_one_line(running, second, what):
    port = running.front_port if what == "front" else running.clickhouse_port
    table = {**SMALL["front"], "port": port} if what == "front" else {"port": port}
    code, message = refused(second, **{what: table})
    assert code == EXIT_TRY_AGAIN
    assert len(message) == 1, message
    assert f"{what} cannot listen on 127.0.0.1:{port}: process {running.process.pid} " in message[0]
    assert "choose another port" in message[0]
    assert running.status()["ready"]


def test_port_that_is_free_again_lets_the_same_configuration_start(second):
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        squatter.bind(("127.0.0.1", second.front_port))
        squatter.listen()
        code, message = refused(second)
        assert code == EXIT_TRY_AGAIN and f"process {os.getpid()} " in message[0]
    second.start().ready()
    assert second.stop() == 0


def test_store_of_another_instance_ends_the_start_in_one_line(running, second):
    code, message = refused(second, instance={"data": str(running.data)})
    assert code == EXIT_TRY_AGAIN
    assert len(message) == 1, message
    engine = running.actor("clickhouse")["pid"]
    assert f"store {running.data / 'clickhouse'} is in use by process {engine} " in message[0]
    assert "give this instance another data folder" in message[0]
    assert running.select("SELECT 1") == [[1]]


def test_instance_that_runs_already_is_left_alone(running, second):
    second.shares_folder = True
    code, message = refused(second, instance={"name": running.name, "folder": str(running.shm)})
    assert code == EXIT_TRY_AGAIN
    assert len(message) == 1, message
    assert f"instance {running.name!r} runs already: process {running.process.pid} holds" in message[0]
    assert running.status()["ready"]
    before = running.published()
    until("new records", lambda: running.published() != before)


@pytest.fixture
def small_memory() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tickring-test-"))  # the path of a socket is short
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        folder.rmdir()
        pytest.skip(f"mounting a tmpfs needs root: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


def test_shared_memory_that_is_too_small_ends_the_start_in_one_line_with_the_sum(make_tree, small_memory):
    tree = make_tree(folder=small_memory)
    code, message = refused(tree)
    assert code == EXIT_CANNOT_CREATE
    assert len(message) == 1, message
    assert f"bytes in {tree.folder}, which has 8,3" in message[0] and "free" in message[0]
    assert "docker run --shm-size" in message[0] and "instance.folder" in message[0]
    # what the message says helps: rings that fit
    tree.start(feed={"trade_capacity": 1024, "quote_capacity": 1024, "level_capacity": 4096}).ready()
    assert tree.stop() == 0


def test_configuration_with_mistakes_ends_the_start_with_all_of_them(second):
    code, message = refused(
        second,
        exchanges=spot([SYMBOL, "bitcoin"], ["trade", "quotes"]),
        simulator={"symbols": ["BTCUSDT"], "sorce": "model"},
        front={"workers": 0, "port": 99_999},
        writer={"flush_interval_ms": "soon"},
    )
    assert code == EXIT_CONFIG
    assert message[0].endswith("6 mistakes in the configuration")
    expected = {
        'exchanges.binance.spot.symbols[1] = "bitcoin"': "BTC-USDT",
        'exchanges.binance.spot.channels[1] = "quotes"': "did you mean 'quote'?",
        "writer.flush_interval_ms": "60000", "front.workers = 0": "from 1 to 64", "front.port = 99999": "65535",
        "simulator.sorce": "did you mean 'source'?",
    }  # fmt: skip
    assert len(message) == 1 + len(expected)
    for start, hint in expected.items():
        assert any(f": {start}" in line and hint in line for line in message[1:]), (start, message)


def test_configuration_that_is_no_toml_or_not_there_ends_the_start_in_one_line(second):
    second.file.write_text("[exchanges\n")
    for arguments, code in ((["-c", str(second.file)], EXIT_CONFIG), (["-c", "/nowhere/tickring.toml"], 66)):
        second.launch("run", *arguments)
        assert second.process.wait(60) == code
    lines = second.log.read_text().strip().splitlines()
    assert all(line.startswith(("tickring: ", "  ")) for line in lines) and len(lines) <= 3, lines
    assert "cannot be read" in lines[-1] and "-c" in lines[-1]


# -- clients


def rubbish(rng: random.Random) -> bytes:
    """Bytes that begin more or less like a request, and go wrong somewhere."""
    request = b"GET /api/v1/trades/BTC-USDT?limit=5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 3000))
    if kind == 1:
        return request[: rng.randrange(1, len(request) - 4)]
    if kind == 2:
        broken = bytearray(request)
        for _ in range(rng.randrange(1, 6)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        return bytes(broken)
    if kind == 3:
        return b"GET /" + b"a" * rng.randrange(8000, 40_000) + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    if kind == 4:
        headers = b"".join(b"X-%d: %s\r\n" % (n, b"v" * rng.randrange(200)) for n in range(rng.randrange(90, 300)))
        return b"GET / HTTP/1.1\r\n" + headers + b"\r\n"
    if kind == 5:
        path = rng.choice([b"/api/v1/trades/%ff%fe", b"/api/v1/trades/BTC-USDT?limit=%00", b"/../../etc/passwd", b"*"])
        return b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: -7\r\n\r\n"
    return b"POST /api/v1/trades HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + rng.randbytes(50)


def send(port: int, data: bytes) -> bytes:
    """Send bytes to the front and read until it closes or has nothing to say."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), CLIENT_TIMEOUT_S) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while len(answer) < 1 << 20 and (part := client.recv(65_536)):
                answer += part
    return answer


def test_rubbish_on_sockets_is_answered_or_closed_while_others_are_served(running):
    rng = random.Random(SEED)
    pid = running.actor("front-0")["pid"]
    channel = {"channel": "trades", "exchange": "binance", "market_type": "spot", "symbol": SYMBOL, "from_seq": 0}
    with connect(f"ws://127.0.0.1:{running.front_port}/ws/v1") as good:
        good.send(json.dumps({"op": "subscribe", "channels": [channel]}))
        last = 0
        for _ in range(RUBBISH_CONNECTIONS):
            answer = send(running.front_port, rubbish(rng))
            if answer.startswith(b"HTTP/"):
                status = int(answer.split(maxsplit=2)[1])
                assert 200 <= status < 500, answer[:300]
            last = read_on(good, last, wait=False)
        bad_web_sockets(running, rng)
        last = read_on(good, last, wait=True)
    assert last > 0
    assert running.get(f"/api/v1/trades/{SYMBOL}").status == 200
    actor = running.actor("front-0")
    assert (actor["pid"], actor["restarts"]) == (pid, 0)
    assert "Traceback" not in running.log.read_text()


def read_on(socket_: Any, last: int, *, wait: bool) -> int:
    """Read what has come; each record follows the one before. Returns the last number."""
    timeout = CLIENT_TIMEOUT_S if wait else 0
    while True:
        try:
            frame = json.loads(socket_.recv(timeout))
        except TimeoutError:
            assert not wait, "nothing comes any more"
            return last
        if frame["type"] in ("update", "batch"):
            first = frame.get("first_seq", frame.get("seq"))
            assert first == last + 1, (last, frame)
            last, timeout, wait = frame.get("last_seq", frame.get("seq")), 0, False


def bad_web_sockets(tree: Tree, rng: random.Random) -> None:
    """Frames that are no protocol: each connection gets errors, and is closed when it goes on."""
    texts: list[str | bytes] = [
        "", "{", "null", "[]", "7", '"x"', '{"op":7}', '{"op":"dance"}', '{"op":"subscribe"}',
        '{"op":"subscribe","channels":7}', '{"op":"subscribe","channels":[{"channel":"trades","symbol":{}}]}',
        '{"op":"subscribe","channels":["trades.binance.spot.NOPE-USDT"]}',
        '{"op":"subscribe","channels":[{"channel":"trades.binance.spot.BTC-USDT","from_seq":-1}]}',
        '{"op":"subscribe","channels":[{"channel":"trades.binance.spot.BTC-USDT","from_seq":1e300}]}',
        '{"op":"snapshot","channel":"' + "x" * 50_000 + '"}', b"\xff\xfe\x00", "[" * 20_000,
    ]  # fmt: skip
    closed = errors = 0
    for _ in range(20):
        with connect(f"ws://127.0.0.1:{tree.front_port}/ws/v1", max_size=None) as bad:
            try:
                for _ in range(30):
                    bad.send(rng.choice(texts))
                while True:
                    errors += json.loads(bad.recv(CLIENT_TIMEOUT_S))["type"] == "error"
            except ConnectionClosed as end:
                assert end.rcvd is not None and end.rcvd.code in (1003, 1007, 1008, 1009), end
                closed += 1
    assert closed == 20 and errors >= 20
    for data in (b"\xff" * 100, b"\x88\x81abcdx", b"\x82" + b"\xff" * 9):  # a good handshake, then no frame
        with socket.create_connection(("127.0.0.1", tree.front_port), CLIENT_TIMEOUT_S) as client:
            client.sendall(
                b"GET /ws/v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert client.recv(65_536).startswith(b"HTTP/1.1 101")
            client.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(65_536):  # until it closes the connection; else the timeout ends the test
                    continue
