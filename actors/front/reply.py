"""A response as prebuilt bytes: head and body, one write.

aiohttp asks of a response `prepare`, `write_eof` and `keep_alive`. `web.Response` builds a header dict, runs signals
and serialises for each response; most of ours differ only in six header values.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from aiohttp import web

from .stamps import http_date

GZIP_LEVEL = 1  # 100 trades: 0.1 ms for a tenth of the size; level 6 takes three times as long for a tenth less
GZIP_WBITS = 31

# The page comes from here alone and loads nothing from elsewhere; JSON is no document at all.
SECURITY_HEADERS = "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"


class Reply:
    """What the gate returns to aiohttp.

    Args:
        data: the whole response, head and body, in parts. uvloop hands them to the kernel as they are (writev), so that
            a large body that is kept from request to request is not copied on the way.
        status: for the metrics.
        keep_alive: whether the connection goes on.
    """

    __slots__ = ("data", "keep_alive", "status")

    def __init__(self, data: Sequence[bytes], status: int, keep_alive: bool) -> None:
        self.data = data
        self.status = status
        self.keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write it. Raises ConnectionResetError when the client is gone."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        transport.writelines(self.data)

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to be written."""


class FlowControlledReply(Reply):
    """One that is large enough to fill the socket's buffer: the next request waits until the client has taken it."""

    __slots__ = ()

    async def prepare(self, request: web.BaseRequest) -> None:
        await Reply.prepare(self, request)
        await request.writer.drain()


class HeadBuilder:
    """Heads of responses. Those of the usual kind (200, JSON) come from a template that is made anew each second."""

    def __init__(self, version: str, limit: int) -> None:
        self._server = f"Server: tickring/{version}\r\nX-RateLimit-Limit: {limit}\r\n"
        self._second = -1
        self._usual = b""
        self._date = ""

    def usual(
        self, now_s: int, length: int, request_id: bytes, process_s: float, remaining: int, reset_s: int
    ) -> bytes:
        """Head of a 200 with JSON on a connection that stays."""
        if now_s != self._second:
            self._tick(now_s)
        return self._usual % (length, request_id, process_s, remaining, reset_s)

    def _tick(self, now_s: int) -> None:
        self._second = now_s
        self._date = f"Date: {http_date(now_s)}\r\n"
        self._usual = (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nVary: Accept-Encoding\r\n"
            f"{SECURITY_HEADERS}{self._server}{self._date}"
        ).encode() + (
            b"Content-Length: %d\r\nX-Request-ID: %b\r\nX-Process-Time: %.6f\r\n"
            b"X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n\r\n"
        )

    def any(
        self,
        *,
        now_s: int,
        status: int,
        content_type: str,
        length: int,
        request_id: str,
        process_s: float,
        remaining: int,
        reset_s: int,
        connection: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Head of any other response."""
        if now_s != self._second:
            self._tick(now_s)
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {content_type}\r\n",
            "Vary: Accept-Encoding\r\n",
            SECURITY_HEADERS, self._server, self._date,
            f"Content-Length: {length}\r\nX-Request-ID: {request_id}\r\nX-Process-Time: {process_s:.6f}\r\n",
            f"X-RateLimit-Remaining: {remaining}\r\nX-RateLimit-Reset: {reset_s}\r\n",
        ]  # fmt: skip
        if connection:
            lines.append(f"Connection: {connection}\r\n")
        for name, value in (headers or {}).items():
            clean = value.replace("\r", " ").replace("\n", " ")
            lines.append(f"{name}: {clean}\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("latin-1", "replace")


def accepts_gzip(header: str) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    if not header:
        return False
    for part in header.lower().split(","):
        coding, _, parameters = part.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            quality = parameters.replace(" ", "")
            return quality not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def gzipped(body: bytes) -> bytes:
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, GZIP_WBITS)
    return packer.compress(body) + packer.flush()
