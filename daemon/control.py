"""The control socket: `control.sock` in the instance's folder, one JSON object per line each way.

| request | response |
|---|---|
| `{"command": "status"}` | `{"ok": true, "instance": ..., "pid": ..., "ready": ..., "actors": [...]}` |
| `{"command": "stop"}` | `{"ok": true}`, then the daemon drains and ends |
| `{"command": "restart", "actor": name}` | `{"ok": true}`: the actor is stopped in order and started again |
| `{"command": "reload"}` | `{"ok": true, "added": [names], "restarted": ..., ...}` once all that it touched run again |
| `{"command": "subscribe", ...}` | `subscriptions.Request`; as a reload, with `changed` and `symbols` |
| `{"command": "take_over"}` | `{"ok": true, "pid": ...}` once a new daemon, which this one starts, takes over |
| `{"command": "listeners"}` | `{"ok": true, "generation": ..., "listeners": [addresses]}` and those sockets |
| `{"command": "hand_over", ...}` | `{"ok": true, "drain_timeout_s": ...}`, then the daemon drains; see `takeover` |
| `{"command": "doorbell"}` | `{"ok": true, "doorbell": number}` and, as SCM_RIGHTS, that doorbell's eventfd |

An error is `{"ok": false, "error": text, "exit_code": number, "kind": class}`: the code is what a command should end
with; `field` names the member of the request that is wrong, where one is. A doorbell
is lent for as long as the connection lives. Whoever can open the socket (its owner and, if one is configured, the
group) may ask for status and doorbells; the rest is for the daemon's own user and root, whom the kernel names
(SO_PEERCRED).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from ..ringbuf.errors import TickringError
from .errors import EXIT_SOFTWARE, DaemonError, NotRunning, UnknownName, exit_code_of
from .rights import not_permitted

log = logging.getLogger(__name__)

LINE_MAX = 65_536
CONNECTIONS_MAX = 64
TIMEOUT_S = 10.0
FDS_MAX = 253  # descriptors that one message can carry (SCM_MAX_FD)
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Daemon(Protocol):
    """What the socket can ask of the supervisor."""

    def status(self) -> dict[str, Any]: ...

    def request_stop(self, why: str) -> None: ...

    def request_restart(self, name: str) -> None: ...

    def request_reload(self) -> Awaitable[dict[str, Any]]: ...

    def subscribe(self, request: dict[str, Any]) -> Awaitable[dict[str, Any]]: ...

    @property
    def handover(self) -> Handover: ...

    def lend_doorbell(self) -> tuple[int, int]: ...

    def return_doorbell(self, number: int) -> None: ...


class Handover(Protocol):
    """What the socket can ask about another daemon that takes over; see `takeover`."""

    def start(self) -> Awaitable[dict[str, Any]]: ...

    def offer(self) -> tuple[dict[str, Any], list[int]]: ...

    def accept(self, pid: int, generation: int, keep: list[str]) -> dict[str, Any]: ...


class Refused(DaemonError):
    """A command that cannot be carried out; its text goes back to the client, which ends with its exit code."""

    def __init__(self, text: str, exit_code: int = EXIT_SOFTWARE) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class ControlServer:
    """Serves the socket on the supervisor's loop. Plain sockets, since a descriptor has to travel with an answer."""

    def __init__(self, listener: socket.socket, daemon: Daemon) -> None:
        self.listener, self.daemon = listener, daemon
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._spawn(self._accept())

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.listener.close()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self.listener)
            except OSError as error:
                log.warning("control socket cannot accept: %s. Raise the limit of open files (LimitNOFILE=)", error)
                await asyncio.sleep(1)
                continue
            client.setblocking(False)
            if len(self._tasks) > CONNECTIONS_MAX:
                client.close()
                continue
            self._spawn(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        lent: list[int] = []
        buffer = b""
        try:
            while data := await loop.sock_recv(client, 4096):
                buffer += data
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    answer, fds = await self._answer(line, _peer_uid(client), lent)
                    encoded = json.dumps(answer).encode() + b"\n"
                    if fds:
                        socket.send_fds(client, [encoded], fds)  # a short line into an empty buffer: does not block
                    else:
                        await loop.sock_sendall(client, encoded)
                if len(buffer) > LINE_MAX:
                    break
        except OSError as error:
            log.debug("control connection ended: %s", error)
        finally:
            for number in lent:
                self.daemon.return_doorbell(number)
            client.close()

    async def _answer(self, line: bytes, uid: int, lent: list[int]) -> tuple[dict[str, Any], list[int]]:
        try:
            request = json.loads(line)
            handler = _COMMANDS.get(request.get("command"))
            if handler is None:
                raise Refused(f"unknown command {request.get('command')!r}; known: {', '.join(_COMMANDS)}")
            if handler in _OWNER_ONLY and uid not in (0, os.getuid()):
                raise Refused(f"user {uid} may not do that: only the daemon's own user ({os.getuid()}) and root")
            members, fds = await handler(self.daemon, request, lent)
            return {"ok": True, **members}, fds
        except (ValueError, AttributeError, KeyError, TypeError):
            error = Refused('expected one JSON object per line, such as {"command": "status"}')
        except TickringError as refusal:
            error = refusal
        named = {"field": error.field} if isinstance(error, UnknownName) else {}
        kind = type(error).__name__
        return {"ok": False, "error": str(error), "exit_code": exit_code_of(error), "kind": kind, **named}, []


Answer = tuple[dict[str, Any], list[int]]


async def _status(daemon: Daemon, request: dict[str, Any], lent: list[int]) -> Answer:
    return daemon.status(), []


async def _stop(daemon: Daemon, request: dict[str, Any], lent: list[int]) -> Answer:
    daemon.request_stop("asked over the control socket")
    return {}, []


async def _restart(daemon: Daemon, request: dict[str, Any], lent: list[int]) -> Answer:
    daemon.request_restart(str(request.get("actor")))
    return {}, []


async def _reload(daemon: Daemon, request: dict[str, Any], lent: list[int]) -> Answer:
    return await daemon.request_reload(), []


async def _subscribe(daemon: Daemon, request: dict[str, Any], lent: list[int]) -> Answer:
    return await daemon.subscribe({name: value for name, value in request.items() if name != "command"}), []


async def _take_over(daemon: Daemon, request: dict[str, Any], lent: list[int]) -> Answer:
    return await daemon.handover.start(), []


async def _listeners(daemon: Daemon, request: dict[str, Any], lent: list[int]) -> Answer:
    return daemon.handover.offer()


async def _hand_over(daemon: Daemon, request: dict[str, Any], lent: list[int]) -> Answer:
    return daemon.handover.accept(int(request["pid"]), int(request["generation"]), list(request["keep"])), []


async def _doorbell(daemon: Daemon, request: dict[str, Any], lent: list[int]) -> Answer:
    number, fd = daemon.lend_doorbell()
    lent.append(number)
    return {"doorbell": number}, [fd]


_COMMANDS: dict[str, Callable[[Daemon, dict[str, Any], list[int]], Awaitable[Answer]]] = {
    "status": _status,
    "stop": _stop,
    "restart": _restart,
    "reload": _reload,
    "subscribe": _subscribe,
    "take_over": _take_over,
    "listeners": _listeners,
    "hand_over": _hand_over,
    "doorbell": _doorbell,
}
_OWNER_ONLY = (_stop, _restart, _reload, _subscribe, _take_over, _listeners, _hand_over)


def _peer_uid(client: socket.socket) -> int:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(credentials)[1]


def ask(path: Path, command: str, *, timeout_s: float = TIMEOUT_S, **members: Any) -> dict[str, Any]:
    """Send one command and return the answer, which may take `timeout_s`.

    Raises:
        NotRunning: nobody answers there.
        NotPermitted: this user may not ask there.
        Refused: the daemon says no.
    """
    with contextlib.closing(connect(path)) as client:
        client.settimeout(timeout_s)
        return exchange(client, command, **members)[0]


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(TIMEOUT_S)
    try:
        client.connect(str(path))
    except PermissionError:
        client.close()
        raise not_permitted(path) from None
    except OSError as error:
        client.close()
        raise NotRunning(
            f"no daemon answers on {path} ({error.strerror or error}): start one with `tickring run`, "
            f"or name the instance with --instance"
        ) from None
    return client


def exchange(client: socket.socket, command: str, **members: Any) -> tuple[dict[str, Any], list[int]]:
    """One request and its answer, with the descriptors that came with it."""
    try:
        client.sendall(json.dumps({"command": command, **members}).encode() + b"\n")
        buffer, fds = b"", []
        while not buffer.endswith(b"\n"):
            data, received, _, _ = socket.recv_fds(client, LINE_MAX, FDS_MAX)
            fds += received
            if not data:
                raise NotRunning("the daemon closed the connection before it answered: it is stopping")
            buffer += data
    except OSError as error:
        raise NotRunning(f"the daemon did not answer {command!r}: {error.strerror or error}") from None
    answer = json.loads(buffer)
    if not answer.get("ok"):
        raise Refused(
            answer.get("error", "the daemon refused without a reason"), answer.get("exit_code", EXIT_SOFTWARE)
        )
    return answer, fds
