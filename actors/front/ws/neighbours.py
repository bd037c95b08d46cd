"""What the workers tell one another of their connections: `<worker>.sock` in the instance's folder.

One line asks, one JSON text answers. Only the owner of the folder can open the sockets.
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

log = logging.getLogger(__name__)

ANSWER_S = 1.0  # a worker that takes longer is left out, and named
QUESTION_BYTES_MAX = 64
SUFFIX = ".sock"


class Neighbours:
    """Answers the other workers, and asks them.

    Args:
        names: the other workers that run now.
        answer: to a question, from this worker; None for one that it does not know.
    """

    def __init__(self, folder: Path, worker: str, names: Callable[[], list[str]], answer: Callable[[str], Any]) -> None:
        self.folder = folder
        self.worker = worker
        self._path = folder / f"{worker}{SUFFIX}"
        self._names = names
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)  # of one that was killed
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=QUESTION_BYTES_MAX)
            os.chmod(self._path, 0o600)
        except OSError as error:
            log.warning("socket=%s cannot be opened, lists show other workers only: %s", self._path, error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                question = (await reader.readline()).decode("ascii", "replace").strip()
                writer.write(msgspec.json.encode(self._answer(question)))
                await writer.drain()
        except (TimeoutError, ConnectionError, ValueError):
            pass  # it has given up on us, or is none of ours
        finally:
            writer.close()

    async def ask(self, question: str) -> tuple[dict[str, Any], list[str]]:
        """`(answers by worker, this one's too; workers that did not answer in time)`."""
        names = self._names()
        answers = await asyncio.gather(*(self._ask(name, question) for name in names))
        found = {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}
        found[self.worker] = self._answer(question)
        return dict(sorted(found.items())), [name for name in names if name not in found]

    async def _ask(self, name: str, question: str) -> Any:
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(self.folder / f"{name}{SUFFIX}")
                try:
                    writer.write(question.encode() + b"\n")
                    return msgspec.json.decode(await reader.read())
                finally:
                    writer.close()
        except (TimeoutError, OSError, msgspec.DecodeError) as error:
            log.warning("worker=%s did not answer %r: %s", name, question, error or type(error).__name__)
            return None

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await self._server.wait_closed()
            self._path.unlink(missing_ok=True)
