"""Ask the supervisor, or another owner of something, over its control socket: one JSON object per line each way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from ..ringbuf.errors import TickringError

CONTROL_SOCKET = "control.sock"  # the supervisor's, in the instance's folder
ALERTS_SOCKET = "alerts.sock"  # that of the alerts
ANSWER_BYTES_MAX = 4 << 20


class NoAnswer(TickringError):
    """Nobody answers there, or not in time; what was asked may still be carried out."""

    retriable = True


class CommandRefused(TickringError):
    """The owner says no.

    Attributes:
        kind: name of its error's class.
        field: the member of the request that is wrong; "" where it is none.
    """

    def __init__(self, text: str, kind: str, field: str = "") -> None:
        super().__init__(text)
        self.kind, self.field = kind, field


async def command(path: Path, name: str, timeout_s: float, /, **members: Any) -> dict[str, Any]:
    """Send one command; its answer.

    Raises:
        NoAnswer, CommandRefused
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=ANSWER_BYTES_MAX)
            try:
                writer.write(msgspec.json.encode({"command": name, **members}) + b"\n")
                answer = msgspec.json.decode(await reader.readuntil(b"\n"))
            finally:
                writer.close()
    except TimeoutError:
        raise NoAnswer(f"{path.name} did not answer {name!r} within {timeout_s:g} s") from None
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, msgspec.DecodeError) as error:
        raise NoAnswer(f"{path.name} did not answer {name!r}: {error}") from None
    if not answer.get("ok"):
        raise CommandRefused(str(answer.get("error")), str(answer.get("kind", "")), str(answer.get("field", "")))
    return answer
