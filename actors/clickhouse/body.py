"""Request bodies: read within bounds, unpacked, and sorted into statement and insert data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from aiohttp import BodyPartReader, web

from ...ringbuf.page import Counter
from ...storage.engine import EngineError
from . import coding
from .errors import bad_arguments, too_large
from .request import Options
from .statement import Statement, scan

INLINE_MAX = 1 << 16  # bytes that are worked on in the event loop; more is work for a thread
PARTS_MAX = 1000  # of a multipart body


@dataclass(slots=True)
class Held:
    """Bytes of one request's body in memory."""

    size: int = 0


class Bodies:
    """Reads bodies, each of at most `limit` bytes and all together of at most `total_limit`."""

    def __init__(self, limit: int, total_limit: int, received: Counter, rejected: Callable[[str], None]) -> None:
        self._limit = limit
        self._total_limit = total_limit
        self._received = received
        self._rejected = rejected
        self._held = 0

    def release(self, held: Held) -> None:
        """Give back what a request held."""
        self._held -= held.size
        held.size = 0

    async def read(self, request: web.BaseRequest, options: Options, raw_query: str, held: Held) -> list[bytes]:
        """Read the body, decompressed, in pieces as they came; a multipart body goes into the options.

        Raises `EngineError`: 381 without a length, 229 over the limit, 241 when all bodies together are too much.
        """
        headers = request.headers
        if request.method in ("POST", "PUT") and "Content-Length" not in headers and "Transfer-Encoding" not in headers:
            raise EngineError(
                381,
                "HTTP_LENGTH_REQUIRED",
                "The Transfer-Encoding is not chunked and there is no Content-Length header for POST request.",
            )
        encoding = headers.get("Content-Encoding", "").strip().lower()
        coding.check_encoding(encoding)
        limit = self._limit
        if (request.content_length or 0) > limit:
            self._rejected("body_too_large")
            raise too_large(f"Request body is more than {limit} bytes.")
        if headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if headers.get("Content-Type", "").startswith("multipart/form-data"):
                options.add_form([part async for part in self._parts(request, limit, held)], raw_query)
                return []
            chunks = []
            async for chunk in request.content.iter_any():
                self._hold(len(chunk), limit, held)
                chunks.append(chunk)
        except (web.RequestPayloadError, ValueError, asyncio.IncompleteReadError) as error:
            self._rejected("bad_body")
            raise bad_arguments(f"Request body cannot be read: {str(error)[:200]}.") from error
        self._received.inc(held.size)
        if not encoding:
            return chunks
        try:
            if held.size < INLINE_MAX:
                unpacked = list(coding.decompress(chunks, encoding, limit))
            else:
                unpacked = await asyncio.to_thread(lambda: list(coding.decompress(chunks, encoding, limit)))
        except EngineError:
            self._rejected("bad_compression")
            raise
        self._hold(sum(map(len, unpacked)), 2 * limit, held)
        return unpacked

    def _hold(self, size: int, limit: int, held: Held) -> None:
        """Account for body bytes in memory."""
        held.size += size
        self._held += size
        if held.size > limit:
            self._rejected("body_too_large")
            raise too_large(f"Request body is more than {limit} bytes.")
        if self._held > self._total_limit:
            self._rejected("bodies_too_large")
            raise EngineError(
                241,
                "MEMORY_LIMIT_EXCEEDED",
                f"Request bodies in memory exceed {self._total_limit} bytes together; send again later.",
            )

    async def _parts(self, request: web.BaseRequest, limit: int, held: Held) -> AsyncIterator[tuple[str, bool, bytes]]:
        """Yield (name, is a file, content) of a multipart body."""
        reader = await request.multipart()
        for _ in range(PARTS_MAX):
            part = await reader.next()
            if part is None:
                return
            if not isinstance(part, BodyPartReader):
                raise bad_arguments("Multipart bodies inside multipart bodies are not understood.")
            content = bytearray()
            while chunk := await part.read_chunk(1 << 18):
                self._hold(len(chunk), limit, held)
                content += chunk
            yield part.name or "", part.filename is not None, bytes(content)
        raise too_large(f"Multipart body has more than {PARTS_MAX} parts.")


async def sort(options: Options, chunks: list[bytes]) -> tuple[Statement, bytes, list[bytes]]:
    """Find the statement in URL and body: return it, its text, and the insert data in pieces."""
    if options.query:
        text = options.query + b"\n"
        statement = await _scan(text)
        if statement.has_data:
            return statement, b"", [text[statement.data_at :], *chunks]
        if statement.kind != b"INSERT" and not chunks:
            return statement, text, []
        text += b"".join(chunks)
    elif chunks:
        # The head of an INSERT is nearly always in the first piece: its data is then never copied together.
        statement = await _scan(chunks[0])
        if statement.has_data and statement.data_at < len(chunks[0]):
            return statement, b"", [chunks[0][statement.data_at :], *chunks[1:]]
        text = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    else:
        text = b""
    statement = await _scan(text)
    if statement.has_data:
        return statement, b"", [text[statement.data_at :]]
    return statement, text, []


async def _scan(text: bytes) -> Statement:
    if len(text) <= INLINE_MAX or text[:6].upper() == b"INSERT":
        return scan(text)
    return await asyncio.to_thread(scan, text)
