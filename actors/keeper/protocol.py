"""The keeper's socket: `keeper.sock` in the instance's folder, one request and one answer on each connection.

Both are one line of JSON, tagged by `command`:

| request | answer |
|---|---|
| `Fill`: bars of a key are missing | `Filled`, when they are stored, or after `wait_s` with the state `pending` |
| `Create`: keep a temporary range | `Created` |
| `Delete`: take a temporary range away | `Deleted` |

An answer that cannot be given is a `Problem`. Only the daemon's own user can open the socket.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Literal

import msgspec

from .errors import KeeperAway, KeeperRefused

SOCKET = "keeper.sock"
LINE_MAX = 65_536
GRACE_S = 2.0  # for the answer itself, beyond the time that the request allows

State = Literal["complete", "partial", "pending", "unavailable"]


class Fill(msgspec.Struct, tag_field="command", tag="fill", kw_only=True, frozen=True):
    """Fetch the bars of a range that history lacks.

    Attributes:
        key: attributes of the key: exchange, product, market_type, symbol, instrument, native, interval.
        start_ms, stop_ms: by `open_ts`.
        oldest_first: which end of a range is fetched that holds more bars than one request may fetch.
    """

    key: dict[str, Any]
    start_ms: int
    stop_ms: int
    oldest_first: bool = False
    wait_s: float = 3.0


class Create(msgspec.Struct, tag_field="command", tag="create", kw_only=True, frozen=True):
    """Keep the bars of a range for so long; those that history lacks are fetched."""

    key: dict[str, Any]
    start_ms: int
    stop_ms: int
    ttl_minutes: int
    wait_s: float = 3.0


class Delete(msgspec.Struct, tag_field="command", tag="delete", kw_only=True, frozen=True):
    temp_id: str
    wait_s: float = 3.0


class Filled(msgspec.Struct, tag_field="answer", tag="filled", kw_only=True, frozen=True):
    """`stored` bars are there now that were not; with `partial` the range lacks more than one request may fetch, and
    the next one goes on; with `pending` more will follow; with `unavailable` `reason` says why none do."""

    state: State
    stored: int = 0
    reason: str = ""


class Created(msgspec.Struct, tag_field="answer", tag="created", kw_only=True, frozen=True):
    temp_id: str
    state: State
    expires_ms: int
    bars: int  # of the range
    stored: int  # of them that were fetched so far
    reason: str = ""


class Deleted(msgspec.Struct, tag_field="answer", tag="deleted", kw_only=True, frozen=True):
    """`found` is False where there is no such range; with `pending` its bars go when ClickHouse is back."""

    found: bool
    state: State = "complete"


class Problem(msgspec.Struct, tag_field="answer", tag="problem", kw_only=True, frozen=True):
    code: str  # see KeeperRefused
    message: str


Request = Fill | Create | Delete
Answer = Filled | Created | Deleted | Problem
decode_request = msgspec.json.Decoder(Request).decode
decode_answer = msgspec.json.Decoder(Answer).decode
encode = msgspec.json.Encoder().encode


async def ask(folder: Path, request: Request) -> Filled | Created | Deleted:
    """Ask the keeper of an instance; the answer takes `request.wait_s` at most.

    Raises:
        KeeperAway, KeeperRefused
    """
    try:
        async with asyncio.timeout(request.wait_s + GRACE_S):
            reader, writer = await asyncio.open_unix_connection(str(folder / SOCKET), limit=LINE_MAX)
            try:
                writer.write(encode(request) + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
        answer = decode_answer(line)
    except TimeoutError:
        raise KeeperAway(f"the keeper did not answer within {request.wait_s + GRACE_S:g} s") from None
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise KeeperAway(f"the keeper does not answer ({type(error).__name__})") from None
    if isinstance(answer, Problem):
        raise KeeperRefused(answer.message, answer.code)
    return answer
