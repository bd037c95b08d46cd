"""What the front makes of a subscribe request, beside a supervisor that is played: it passes it on and answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.actors.front.ws.auth import Identity
from tickring.actors.front.ws.config import WsConfig

from .front_rig import Answered, FrontThread, instance_folder
from .test_front_rest import assert_error

PATH = "/api/v1/exchanges/binance/subscribe"
BODY = {"action": "subscribe", "symbols": ["BTCUSDT"], "data_types": ["trade"]}
DONE = {
    "ok": True, "added": [], "restarted": ["feed-binance-spot-0"], "moved": [], "removed": [], "unchanged": ["writer"],
    "settings": [], "needs_restart": [], "failed": {}, "changed": True,
    "symbols": [{"symbol": "BTCUSDT", "instrument": "BTC-USDT", "market_type": "spot", "channels": ["trade"]}],
}  # fmt: skip


class Played:
    """A supervisor's control socket: keeps what it is asked, answers the same each time, or not at all."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answer: dict[str, Any] | None = DONE
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "control.sock"))
        self._listener.listen()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.asked.append(json.loads(client.makefile().readline()))
                if self.answer is not None:
                    client.sendall(json.dumps(self.answer).encode() + b"\n")
                    client.close()
                else:
                    self._silent = client  # kept open

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Keys:
    required = True

    async def identify(self, token: str) -> Identity | None:
        return {"reader": Identity("reader"), "writer": Identity("writer", ("read", "write"))}.get(token)


@pytest.fixture
def folder() -> Iterator[Path]:
    with instance_folder() as folder:
        yield folder


@pytest.fixture
def supervisor(folder: Path) -> Iterator[Played]:
    played = Played(folder)
    yield played
    played.close()


def post(front: FrontThread, body: Any = BODY, path: str = PATH, **headers: str) -> Answered:
    connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=10)
    with contextlib.closing(connection):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


def test_request_is_passed_on_and_what_changed_is_answered(folder: Path, supervisor: Played) -> None:
    with FrontThread(folder) as front:
        answer = post(front)
        assert answer.status == 200
        assert answer.json["data"] == {
            "exchange": "binance", "action": "subscribe", "changed": True, "symbols": DONE["symbols"],
            "actors": {"added": [], "restarted": ["feed-binance-spot-0"], "removed": []},
        }  # fmt: skip
        assert supervisor.asked == [
            {"command": "subscribe", "exchange": "binance", **BODY, "market_type": None}
        ]  # fmt: skip
        post(front, {**BODY, "market_type": "swap"}, "/api/v1/exchanges/binance_spot/subscribe")
        post(front, {"action": "unsubscribe", "symbols": ["A", "A"]}, "/api/v1/exchanges/BINANCE_FUTURES/subscribe")
        assert [one["market_type"] for one in supervisor.asked[1:]] == ["perpetual", "perpetual"]
        assert (supervisor.asked[2]["symbols"], supervisor.asked[2]["data_types"]) == (["A"], [])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"), (b"[1]", "body"), (b"\xff", "body"), ({}, "action"), ({**BODY, "action": "drop"}, "action"),
        ({**BODY, "symbols": []}, "symbols"), ({**BODY, "symbols": "BTCUSDT"}, "symbols"),
        ({**BODY, "symbols": [1]}, "symbols"), ({**BODY, "symbols": ["x" * 65]}, "symbols"),
        ({**BODY, "symbols": ["x"] * 501}, "symbols"), ({**BODY, "data_types": []}, "data_types"),
        ({**BODY, "market_type": "moon"}, "market_type"),
    ],
)  # fmt: skip
def test_body_of_another_form_is_400_and_names_the_member(
    folder: Path, supervisor: Played, body: Any, field: str
) -> None:
    with FrontThread(folder) as front:
        assert_error(post(front, body), 400, "INVALID_PARAMETER", field)
        assert_error(front.get(PATH), 405, "METHOD_NOT_ALLOWED")
    assert supervisor.asked == []


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("UnknownName", 400, "INVALID_PARAMETER"), ("ConfigError", 400, "INVALID_PARAMETER"),
        ("NotConfigured", 404, "NOT_FOUND"), ("NotReady", 503, "SERVICE_UNAVAILABLE"),
        ("Refused", 503, "SERVICE_UNAVAILABLE"),
    ],
)  # fmt: skip
def test_refusals_of_the_supervisor_become_statuses(
    folder: Path, supervisor: Played, kind: str, status: int, code: str
) -> None:
    supervisor.answer = {
        "ok": False,
        "error": "the symbols, because",
        "exit_code": 70,
        "kind": kind,
        "field": "symbols",
    }
    with FrontThread(folder) as front:
        answer = post(front)
        assert_error(answer, status, code, *(["symbols"] if status == 400 else []))
        assert "because" in answer.json["message"]


def test_actors_that_do_not_run_afterwards_are_503_and_named(folder: Path, supervisor: Played) -> None:
    supervisor.answer = {**DONE, "failed": {"feed-binance-spot-0": "backoff: no memory"}}
    with FrontThread(folder) as front:
        answer = post(front)
        assert_error(answer, 503, "SERVICE_UNAVAILABLE")
        assert answer.json["details"]["failed"] == {"feed-binance-spot-0": "backoff: no memory"}


def test_supervisor_that_is_not_there_or_silent_is_503(folder: Path) -> None:
    with FrontThread(folder, command_timeout_s=0.2) as front:
        assert_error(post(front), 503, "SERVICE_UNAVAILABLE")
        played = Played(folder)
        played.answer = None
        answer = post(front)
        assert_error(answer, 503, "SERVICE_UNAVAILABLE")
        assert "within 0.2 s" in answer.json["message"]
        played.close()


def test_key_needs_the_permission_to_write(folder: Path, supervisor: Played) -> None:
    with FrontThread(folder, Keys()) as front:
        assert_error(post(front), 401, "MISSING_AUTH_TOKEN")
        assert_error(post(front, **{"X-API-Key": "nobody"}), 401, "INVALID_AUTH_TOKEN")
        assert_error(post(front, **{"X-API-Key": "reader"}), 403, "FORBIDDEN")
        assert supervisor.asked == []
        assert post(front, **{"X-API-Key": "writer"}).status == 200
        assert front.get("/api/v1/exchanges", {"X-API-Key": "reader"}).status == 200


def test_page_of_another_site_changes_nothing(folder: Path, supervisor: Played) -> None:
    with FrontThread(folder) as front:
        assert_error(post(front, Origin="http://evil.example"), 403, "FORBIDDEN")
        assert_error(post(front, Origin="null"), 403, "FORBIDDEN")
        assert supervisor.asked == []
        assert post(front, Origin=f"http://127.0.0.1:{front.port}").status == 200


def test_worker_stops_within_its_share_of_the_drain_whatever_its_clients_do(folder: Path, supervisor: Played) -> None:
    supervisor.answer = None
    deaf = socket.socket()
    with FrontThread(folder, ws=WsConfig(close_grace_s=600.0), command_timeout_s=600.0) as front, deaf:
        front.ctx.drain_s = 1.0
        deaf.connect(("127.0.0.1", front.port))
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13"
        deaf.sendall(
            f"GET /ws/v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}\r\n\r\n".encode()
        )
        assert b"101" in deaf.recv(100)
        connection = http.client.HTTPConnection("127.0.0.1", front.port)
        connection.request("POST", PATH, json.dumps(BODY))
        until_asked(supervisor)
    connection.close()


def until_asked(supervisor: Played) -> None:
    deadline = time.monotonic() + 10
    while not supervisor.asked:
        assert time.monotonic() < deadline
        time.sleep(0.01)
