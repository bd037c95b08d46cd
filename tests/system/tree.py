"""A whole daemon in processes of its own, and what can be seen of it from outside: sockets, files, /proc."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tickring.daemon.control import ask
from tickring.daemon.errors import NotRunning

from ..ports import free_port

DEADLINE_S = 60.0  # bounds a broken run; nothing is measured
STOP_S = 60.0
CLIENT_TIMEOUT_S = 30.0

SHM = Path("/dev/shm")
T = TypeVar("T")


def until(what: str, condition: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    """The condition's first true value."""
    end = time.monotonic() + deadline_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < end, f"not reached within {deadline_s} s: {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def toml(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> str:
    """A mapping of tables as TOML; JSON's texts, numbers, booleans and arrays are TOML's too."""
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [f"{name} = {json.dumps(value)}" for name, value in plain.items()]
    nested = [toml(value, (*path, name)) for name, value in values.items() if isinstance(value, Mapping)]
    return "\n".join([*lines, *nested]) + "\n"


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the tables of `changes` laid over it."""
    result = dict(base)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else value
    return result


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        """Of an answer in the envelope."""
        return self.json["data"]


def fetch(url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None,
          timeout_s: float = CLIENT_TIMEOUT_S) -> Response:  # fmt: skip
    request = urllib.request.Request(url, body, dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return Response(response.status, dict(response.headers), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Response(error.code, dict(error.headers), error.read())


class Tree:
    """One daemon: `tickring run -c FILE`.

    Args:
        name: of the instance.
        shm: folder in shared memory that holds the instance's folder.
        disk: folder for configuration, data and log.
    """

    def __init__(self, name: str, shm: Path, disk: Path) -> None:
        self.name, self.shm, self.disk = name, shm, disk
        self.folder = shm / f"tickring-{name}"
        self.data = disk / f"data-{name}"
        self.file = disk / f"{name}.toml"
        self.log = disk / f"{name}.log"
        self.front_port, spot, usdm, self.rest_port, self.clickhouse_port = (free_port() for _ in range(5))
        self.config: dict[str, Any] = {
            "instance": {"name": name, "folder": str(shm), "data": str(self.data)},
            "supervisor": {"restart_delay_max_s": 0.2, "restarts_max": 1000},
            "simulator": {"spot_ws_port": spot, "usdm_ws_port": usdm, "rest_port": self.rest_port},
            "clickhouse": {"port": self.clickhouse_port},
            "front": {"port": self.front_port},
            "feed": {
                "trade_capacity": 1 << 17, "quote_capacity": 1 << 16, "level_capacity": 1 << 18, "keys_max": 64,
                "backoff_min_s": 0.05, "backoff_max_s": 0.5,
            },
        }  # fmt: skip
        self.shares_folder = False  # with another daemon, which is what it is tested for
        self.process: subprocess.Popen[bytes] | None = None
        self.seen: set[int] = set()  # pids that were ours at some time

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for its processes beside those of this one."""
        return {}

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self, **changes: Any) -> Tree:
        """Start with the configuration, `changes` laid over it for good."""
        self.config = merged(self.config, changes)
        self.file.write_text(toml(self.config))
        self.launch("run", "-c", str(self.file))
        return self

    def launch(self, *arguments: str, stdout: Any = subprocess.DEVNULL) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tickring", "--log-level", "INFO", *arguments],
                stdout=stdout, stderr=log, stdin=subprocess.DEVNULL, cwd=self.disk, start_new_session=True,
                env={**os.environ, **self.environment},
            )  # fmt: skip

    def ready(self) -> Tree:
        try:
            until("all processes to run", self.is_ready)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logged()}") from None
        return self

    def is_ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.logged()
        try:
            return self.status()["ready"]
        except NotRunning:
            return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the daemon to end; its exit code."""
        assert self.process is not None
        self.pids()
        self.process.send_signal(number)
        return self.process.wait(STOP_S)

    def clean_up(self) -> None:
        """End everything that is left, by pid."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(NotRunning, OSError):
                self.pids()
            self.seen.update(children(self.process.pid))
            for pid in self.seen:  # a stopped process cannot see that its supervisor is gone
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self.process.kill()
            self.process.wait()
        until("the daemon's processes to be gone", lambda: not any(map(alive, self.seen)), STOP_S)

    def logged(self, lines: int = 60) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # -- processes ----------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        status = ask(self.folder / "control.sock", "status")
        self.seen.update(actor["pid"] for actor in status["actors"] if actor["pid"])
        return status

    def actor(self, name: str) -> dict[str, Any]:
        return next(actor for actor in self.status()["actors"] if actor["name"] == name)

    def names(self) -> list[str]:
        return [actor["name"] for actor in self.status()["actors"]]

    def pids(self) -> list[int]:
        try:
            return [actor["pid"] for actor in self.status()["actors"] if actor["pid"]]
        except NotRunning:
            return []

    def signal(self, name: str, number: int) -> int:
        """Send a signal to an actor; its pid."""
        pid = self.actor(name)["pid"]
        os.kill(pid, number)
        return pid

    def back(self, name: str, not_pid: int) -> int:
        """Wait until an actor runs again under another pid; that pid."""

        def again() -> int:
            actor = self.actor(name)
            return actor["pid"] if actor["state"] == "running" and actor["pid"] not in (0, None, not_pid) else 0

        return until(f"{name} to run again", again)

    # -- what it serves -----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.front_port}"

    def get(self, path: str, timeout_s: float = CLIENT_TIMEOUT_S) -> Response:
        return fetch(self.url + path, timeout_s=timeout_s)

    def healthy(self) -> bool:
        try:
            return self.get("/health").json["status"] == "healthy"
        except (OSError, http.client.HTTPException):
            return False

    def published(self) -> dict[str, int]:
        """Records ever, by stream that has a ring."""
        streams = self.get("/api/v1/status").data["streams"]
        return {f"{one['producer']}.{one['record']}": one["published"] for one in streams if one["capacity"]}

    def sim(self, path: str, body: Any = None) -> Any:
        """Ask the simulator's control endpoints."""
        response = self.sim_raw(path, body)
        assert response.status == 200, response
        return response.json

    def sim_raw(self, path: str, body: Any = None) -> Response:
        encoded = None if body is None else json.dumps(body).encode()
        return fetch(f"http://127.0.0.1:{self.rest_port}/sim/{path}", encoded, {"Content-Type": "application/json"})

    def select(self, query: str) -> list[list[Any]]:
        """Rows of a query on the embedded engine, over its HTTP interface; 64-bit integers are exact."""
        password = (self.data / "clickhouse" / "password").read_text().strip()
        options = urllib.parse.urlencode({"output_format_json_quote_64bit_integers": 0})
        answer = fetch(
            f"http://127.0.0.1:{self.clickhouse_port}/?{options}", f"{query} FORMAT JSONCompactEachRow".encode(),
            {"X-ClickHouse-User": "default", "X-ClickHouse-Key": password}, DEADLINE_S,
        )  # fmt: skip
        assert answer.status == 200, answer
        return [json.loads(line) for line in answer.body.splitlines()]

    def count(self, table: str) -> int:
        """Rows of a table; 0 before the writer has made it."""
        made = f"SELECT count() FROM system.tables WHERE database = 'tickring' AND name = '{table}'"
        if not self.select(made)[0][0]:
            return 0
        return self.select(f"SELECT count() FROM tickring.{table}")[0][0]

    def metric(self, name: str, **labels: str) -> float:
        """Sum of a metric over everything whose labels match; 0 where there is none."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total


class Demo(Tree):
    """`tickring demo` in a process group of its own, as a terminal starts it."""

    @property
    def out(self) -> Path:
        return self.disk / "out"

    @property
    def temporary(self) -> Path:
        return self.disk / "tmp"

    def begin(self) -> Demo:
        with self.out.open("wb") as out:
            self.launch("demo", "--port", "0", "--symbols", "3", stdout=out)
        self.name = f"demo-{self.process.pid}"
        self.folder = SHM / f"tickring-{self.name}"
        found = until("the demo's address", self._address)
        self.front_port = int(found[1])
        return self

    def _address(self) -> re.Match[str] | None:
        assert self.process.poll() is None, self.logged()
        return re.search(r"open http://127\.0\.0\.1:(\d+)/ ", self.out.read_text())

    def clean_up(self) -> None:
        super().clean_up()
        shutil.rmtree(self.folder, ignore_errors=True)  # a killed demo leaves it to the next one

    def left_behind(self) -> list[str]:
        mine = [str(path) for path in SHM.iterdir() if self.name in path.name]
        mine += [str(path) for path in self.temporary.iterdir()]
        return mine + [f"process {pid}" for pid in self.seen if alive(pid)]


def spot(symbols: Sequence[str], channels: Sequence[str] = ("trade", "quote", "book"), **more: Any) -> dict[str, Any]:
    """The tables of a spot market."""
    return {"binance": {"spot": {"symbols": list(symbols), "channels": list(channels), **more}}}


def usdm(symbols: Sequence[str], channels: Sequence[str], **more: Any) -> dict[str, Any]:
    """The tables of a USD-M market."""
    return {"binance": {"usdm": {"symbols": list(symbols), "channels": list(channels), **more}}}
