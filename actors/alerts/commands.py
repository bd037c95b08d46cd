"""The socket of the alerts: `alerts.sock` in the instance's folder, one JSON object per line each way.

| request | answer |
|---|---|
| `{"command": "acknowledge", "alert_id": ..., "by": ...}` | `{"ok": true, "alert": ...}` |
| `{"command": "resolve", "alert_id": ..., "action": ...}` | the same |
| `{"command": "create", "name": ..., "severity": ..., "description": ..., "source": ..., ...}` | the same |
| `{"command": "list"}` | `{"ok": true, "alerts": [...]}`: every alert that is known |
| `{"command": "rules"}` | `{"ok": true, "rules": [...]}`; `seen`: whether there is what a rule looks at |
| `{"command": "put_rule", "rule": ...}` | `{"ok": true, "rule": ...}`: made, or changed |
| `{"command": "drop_rule", "rule_id": ...}` | `{"ok": true}`; a built-in or configured rule is as it was again |

An error is `{"ok": false, "error": text, "kind": class, "field": name}`. Only the daemon's own user can open the
socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ...ringbuf.errors import TickringError
from ..control import ALERTS_SOCKET

log = logging.getLogger(__name__)

LINE_MAX = 1 << 16

Handler = Callable[[dict[str, Any]], dict[str, Any]]


class BadCommand(TickringError):
    """A request that cannot be carried out; `field` is the member that is wrong."""

    def __init__(self, text: str, field: str = "") -> None:
        super().__init__(text)
        self.field = field


async def serve(folder: Path, handlers: dict[str, Handler]) -> asyncio.Server:
    """Listen. The caller closes the server and calls `unlink`."""
    path = folder / ALERTS_SOCKET
    path.unlink(missing_ok=True)  # of one that was killed

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.LimitOverrunError):  # who asked has gone
            try:
                while line := await reader.readline():
                    writer.write(msgspec.json.encode(_answer(line, handlers)) + b"\n")
                    await writer.drain()
            finally:
                writer.close()

    mask = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(client, str(path), limit=LINE_MAX)
    finally:
        os.umask(mask)


def unlink(folder: Path) -> None:
    (folder / ALERTS_SOCKET).unlink(missing_ok=True)


def _answer(line: bytes, handlers: dict[str, Handler]) -> dict[str, Any]:
    try:
        request = msgspec.json.decode(line, type=dict[str, Any])
        name = request.pop("command", None)
        handler = handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            raise BadCommand(f"no command {str(name)[:50]!r}; there are {', '.join(handlers)}", "command")
        return {"ok": True, **handler(request)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return {"ok": False, "error": f"no request: {error}", "kind": "BadCommand", "field": ""}
    except TickringError as error:
        kind = type(error).__name__
        return {"ok": False, "error": str(error), "kind": kind, "field": getattr(error, "field", "")}
    except Exception:
        log.exception("command failed")
        return {"ok": False, "error": "something went wrong; the log has it", "kind": "InternalError", "field": ""}


def member(request: dict[str, Any], name: str, longest: int = 200, default: str | None = None) -> str:
    """A text member. Raises BadCommand."""
    value = request.get(name, default)
    if not isinstance(value, str) or not value or len(value) > longest:
        raise BadCommand(f"{name}: expected a text of 1 to {longest} characters", name)
    return value
