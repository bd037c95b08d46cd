"""The HTTP server: from a socket's bytes to a lane and back."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import secrets
import socket
import string
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from ...ringbuf import MetricsPage
from ...storage.engine import Engine, EngineError, EngineLimits, Result, create_password
from . import coding
from .body import INLINE_MAX, Bodies, Held, sort
from .config import Config
from .errors import PortTaken, bad_arguments, error_text, http_status, syntax_error, too_large
from .execution import Execution, comment_of, kill
from .lanes import Lane
from .request import Gate, Options
from .sessions import Sessions
from .statement import Statement

log = logging.getLogger("tickring.clickhouse")

LINE_MAX = 1 << 20  # of the request line and of one header, as http_max_uri_size
_CONTROL = frozenset(b"KILL SHOW DESC DESCRIBE EXISTS SET USE".split())
_CONTENT_TYPES = (
    ("TabSeparated", "text/tab-separated-values; charset=UTF-8"),
    ("TSV", "text/tab-separated-values; charset=UTF-8"),
    ("CSV", "text/csv; charset=UTF-8"),
    ("JSONEachRow", "application/x-ndjson; charset=UTF-8"),
    ("JSONStringsEachRow", "application/x-ndjson; charset=UTF-8"),
    ("JSONCompactEachRow", "application/x-ndjson; charset=UTF-8"),
    ("JSON", "application/json; charset=UTF-8"),
    ("XML", "text/xml; charset=UTF-8"),
    ("Markdown", "text/markdown; charset=UTF-8"),
    ("Pretty", "text/plain; charset=UTF-8"),
    ("Vertical", "text/plain; charset=UTF-8"),
    ("Values", "text/plain; charset=UTF-8"),
    ("Null", "text/plain; charset=UTF-8"),
)
_HELP = (
    "There is no handle {path}\n\nUse / or /ping for health checks.\nOr /replicas_status for more sophisticated health "
    "checks.\n\nSend queries from your program with POST method or GET /?query=...\n"
)
_TEXT = {"Content-Type": "text/plain; charset=UTF-8"}


def content_type(output_format: str) -> str:
    """Return the Content-Type of an output format; binary ones have the general one."""
    for prefix, kind in _CONTENT_TYPES:
        if output_format.startswith(prefix):
            return kind
    return "application/octet-stream"


def summary_header(result: Result) -> str:
    """Return X-ClickHouse-Summary: JSON with every number as a string."""
    return json.dumps(
        {
            "read_rows": str(result.read_rows),
            "read_bytes": str(result.read_bytes),
            "written_rows": str(result.written_rows),
            "written_bytes": str(result.written_bytes),
            "total_rows_to_read": str(result.read_rows),
            "result_rows": str(result.written_rows or result.result_rows),
            "result_bytes": str(result.written_bytes or result.size),
            "elapsed_ns": str(result.elapsed_ns),
        },
        separators=(",", ":"),
    )


class _Connection(RequestHandler):
    """aiohttp's connection; what is no HTTP request is answered in ClickHouse's manner."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        server: EngineServer = self._manager.owner  # type: ignore[union-attr]
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, the error cannot be sent")
        if status == 500:
            log.error("request=%s %s failed", request.method, request.rel_url.path, exc_info=exc)
            error = EngineError(
                1002, "UNKNOWN_EXCEPTION", f"{type(exc).__name__} inside the HTTP interface; see its log."
            )
            server.rejected("internal")
        elif isinstance(exc, LineTooLong):
            error = too_large(f"Request line or header is longer than {LINE_MAX} bytes.")
            server.rejected("line_too_long")
        else:
            error = bad_arguments(f"Malformed HTTP request: {(message or str(exc))[:200]!r}.")
            server.rejected("malformed")
        answer = server.error_response(error)
        answer.force_close()
        return answer


class _Factory(web.Server):
    """aiohttp's low-level server, making connections of our kind."""

    def __init__(self, owner: EngineServer, **kwargs: Any) -> None:
        super().__init__(owner.handle, handler_cancellation=True, **kwargs)
        self.owner = owner

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class EngineServer:
    """The engine of one store behind one listening socket."""

    def __init__(self, config: Config, folder: Path, page: MetricsPage) -> None:
        self.config = config
        self.folder = folder
        self.port = 0
        self._page = page
        self._running: dict[str, Execution] = {}
        self._quiet: asyncio.Event | None = None  # made by stop, set when nothing runs any more
        self._orphans: set[asyncio.Task[None]] = set()  # ending queries whose clients have gone
        queue = config.queue_max
        self._lanes = {
            "insert": Lane("insert", 1, queue),
            "query": Lane("query", config.query_threads, queue),
            "control": Lane("control", 2, queue),
        }
        self._base = {
            # As a server has them; the embedded engine's own defaults differ.
            "implicit_select": "0",
            "async_insert": "0",
            "max_memory_usage": str(config.query_memory_max_mb << 20),
        }
        self._rows = page.counter("tickring_clickhouse_insert_rows_total", "Rows written by inserts")
        self._bodies = Bodies(
            config.body_max_mb << 20,
            config.bodies_max_mb << 20,
            page.counter("tickring_clickhouse_received_bytes_total", "Bytes of request bodies"),
            self.rejected,
        )
        self._sent = page.counter("tickring_clickhouse_sent_bytes_total", "Bytes of results, before compression")
        self._seconds = {
            lane: page.histogram(
                "tickring_clickhouse_request_seconds",
                "Time from the whole request to the answer's first byte",
                (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
                lane=lane,
            )
            for lane in self._lanes
        }
        self._jobs = {
            lane: page.gauge("tickring_clickhouse_lane_jobs", "Jobs running or waiting", lane=lane)
            for lane in self._lanes
        }
        self._session_count = page.gauge("tickring_clickhouse_sessions", "Open sessions")

    async def start(self, listen: socket.socket | None = None) -> None:
        """Open the store and listen. Raises `StoreLocked`, `StoreUnusable`, `EngineMissing`, `PortTaken`."""
        config = self.config
        listen = listen or bind(config.host, config.port)
        try:
            limits = EngineLimits(
                memory_max_mb=config.memory_max_mb,
                cache_mb=config.cache_mb,
                background_threads=config.background_threads,
            )
            # On a thread: it takes about half a second, and the heartbeat goes on.
            self.engine = await asyncio.to_thread(Engine.open, self.folder, limits)
        except BaseException:
            listen.close()
            raise
        self._gate = Gate(create_password(self.folder))
        self._sessions = Sessions(self.engine)
        self._defaults = await self._lanes["control"].run(self._read_defaults)
        self._factory = _Factory(
            self,
            max_line_size=LINE_MAX,
            max_field_size=LINE_MAX,
            auto_decompress=False,
            access_log=None,
            keepalive_timeout=75.0,
        )
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._factory, sock=listen, backlog=512)
        self.port = listen.getsockname()[1]
        log.info("engine=%s store=%s listening=%s:%d", self.engine.version, self.folder, config.host, self.port)

    async def stop(self) -> None:
        """Take no new request, let the running ones end for a while, kill those that do not, close the store."""
        self._server.close()
        self._factory.pre_shutdown()  # connections close when their request is answered
        self._quiet = asyncio.Event()
        if self._running:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), self.config.drain_s)
        if self._running:
            log.warning("queries=%d killed: the engine stops", len(self._running))
            await self._lanes["control"].run(self._kill_all)
        await self._factory.shutdown(2.0)
        await asyncio.to_thread(self._close)
        log.info("store=%s closed", self.folder)

    def _close(self) -> None:
        for lane in self._lanes.values():
            lane.close()
        self._sessions.close()
        self.engine.close()

    def _kill_all(self) -> None:
        connection = self.engine.connect()
        connection.query(b"KILL QUERY WHERE 1 ASYNC")
        connection.close()

    def housekeep(self) -> None:
        """Once in a while: expire sessions, show gauges."""
        self._sessions.expire()
        self._session_count.set(len(self._sessions))
        for name, lane in self._lanes.items():
            self._jobs[name].set(lane.busy)

    def rejected(self, reason: str) -> None:
        """Count a request that never reached the engine."""
        self._page.counter(
            "tickring_clickhouse_rejected_total", "Requests refused before the engine", reason=reason
        ).inc()

    def _counted(self, kind: str, outcome: str) -> None:
        self._page.counter("tickring_clickhouse_requests_total", "Requests answered", kind=kind, outcome=outcome).inc()

    def _read_defaults(self) -> dict[str, str]:
        connection = self.engine.connect()
        names = b"'enable_http_compression', 'http_wait_end_of_query'"
        answer = connection.query(b"SELECT name, value FROM system.settings WHERE name IN (" + names + b")").body()
        connection.close()
        return dict(line.split("\t") for line in answer.decode().splitlines())

    def error_response(self, error: EngineError, query_id: str = "") -> web.Response:
        """Return the answer for an error: the server's status, headers and text."""
        headers = {**_TEXT, **self._headers(query_id), "X-ClickHouse-Exception-Code": str(error.code)}
        if error.code == 194:
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        body = error_text(error, self.engine.version).encode("utf-8", "replace")
        return web.Response(status=http_status(error.code), body=body, headers=headers)

    def _headers(self, query_id: str) -> dict[str, str]:
        headers = {"X-ClickHouse-Server-Display-Name": self.engine.display_name}
        if query_id:
            headers["X-ClickHouse-Query-Id"] = _header_safe(query_id)
        return headers

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        target = request.message.path
        path, _, raw_query = target.partition("?")
        reading = request.method in ("GET", "HEAD")
        if (reading and path in ("/ping", "/replicas_status")) or (reading and path == "/" and not raw_query):
            self._counted("ping", "ok")
            return web.Response(text="Ok.\n", headers={**_TEXT, **self._headers("")})
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=self._headers(""))
        if (reading and path not in ("/", "/query")) or request.method not in ("GET", "HEAD", "POST", "PUT"):
            self.rejected("no_such_handle")
            return web.Response(status=404, text=_HELP.format(path=path[:200]), headers=self._headers(""))
        query_id = ""
        kind, outcome = "other", "error"
        try:
            self._gate.check(raw_query, request.headers)
            options = Options.parse(raw_query, request.method, request.headers, self._defaults)
            query_id = options.query_id
            held = Held()
            try:
                chunks = await self._bodies.read(request, options, raw_query, held)
                statement, sql, data = await sort(options, chunks)
                kind = "insert" if statement.has_data else "query" if statement.answers else "command"
                _allow(statement)
                response = await self._execute(request, options, statement, sql, data)
            finally:
                self._bodies.release(held)
            outcome = "ok"
            return response
        except EngineError as error:
            if error.code in (194, 516):
                self.rejected("authentication")
            elif error.code == 202:
                self.rejected("queue_full")
            log.debug("query=%s code=%d %s", query_id, error.code, error.reason)
            answer = self.error_response(error, query_id)
            if request.content is not None and not request.content.is_eof() and error.code in (229, 241):
                answer.force_close()
            return answer
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._counted(kind, outcome)

    async def _execute(
        self,
        request: web.BaseRequest,
        options: Options,
        statement: Statement,
        sql: bytes,
        data: list[bytes],
    ) -> web.StreamResponse:
        """Queue the statement on its lane and answer with its result; a client that goes away ends what only reads."""
        name = "insert" if statement.has_data else "control" if statement.kind in _CONTROL else "query"
        lane = self._lanes[name]
        lane.check()
        if options.query_id in self._running:
            raise EngineError(
                216,
                "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING",
                f"Query with id = {options.query_id[:80]} is already running.",
            )
        session = None
        if options.session_id:
            session = self._sessions.take(
                options.session_id, options.session_timeout_s, must_exist=options.session_check
            )
        loop = asyncio.get_running_loop()

        def on_closed() -> None:  # on a lane's thread, before its job's result is seen here
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._ended, options)

        execution = Execution(self.engine, options, statement, sql, data, session, self._base, on_closed)
        self._running[options.query_id] = execution
        work = loop.create_task(self._answer(request, lane, execution, options, statement, time.monotonic()))
        try:
            # What writes is finished whoever listens.
            return await (work if statement.answers else asyncio.shield(work))
        except (asyncio.CancelledError, ConnectionError):
            if statement.answers:
                self._orphans.add(orphan := loop.create_task(self._end(execution, comment_of(options))))
                orphan.add_done_callback(self._orphans.discard)
            else:
                work.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise asyncio.CancelledError from None

    async def _end(self, execution: Execution, comment: str) -> None:
        """End a query that nobody waits for. It may not have reached the engine's list yet, so more than one look."""
        control = self._lanes["control"]
        while not execution.closed:
            await control.run(execution.close)
            if not execution.closed:
                await control.run(kill, self.engine, comment)
                await asyncio.sleep(0.1)

    def _ended(self, options: Options) -> None:
        """The connection is free again."""
        self._running.pop(options.query_id, None)
        if self._quiet is not None and not self._running:
            self._quiet.set()
        if options.session_id:
            self._sessions.give_back(options.session_id, close=options.close_session)

    async def _answer(
        self,
        request: web.BaseRequest,
        lane: Lane,
        execution: Execution,
        options: Options,
        statement: Statement,
        started: float,
    ) -> web.StreamResponse:
        """Run the statement and send what it gives: at once where it is small, in pieces where it is not."""
        headers = {**self._headers(options.query_id)}
        headers["X-ClickHouse-Timezone"] = _header_safe(
            options.settings.get("session_timezone") or self.engine.timezone
        )
        if statement.answers:
            headers["X-ClickHouse-Format"] = _header_safe(execution.format)
            headers["Content-Type"] = content_type(execution.format)
        else:
            headers["Content-Type"] = _TEXT["Content-Type"]
        if options.settings.get("add_http_cors_header", "0") not in ("0", "") and "Origin" in request.headers:
            headers["Access-Control-Allow-Origin"] = "*"
        encoding = ""
        if options.http_compression and statement.answers:
            encoding = coding.choose_encoding(request.headers.get("Accept-Encoding", ""))
        if encoding:
            headers["Content-Encoding"] = encoding
            execution.compressor = coding.Compressor(encoding, options.zlib_level)
        reframe = execution.format == "Native" and options.protocol_version >= 54454 and statement.answers
        if statement.streams(execution.format) and not (options.wait_end or reframe or "extremes" in options.settings):
            blocks, complete = await lane.run(execution.start)
            self._seconds[lane.name].observe(time.monotonic() - started)
            headers["X-ClickHouse-Summary"] = summary_header(execution.summary)
            if not complete:
                return await self._stream(request, lane, execution, headers, blocks)
            return await self._whole(request, lane, execution, headers, b"".join(blocks))
        result = await lane.run(execution.run)
        self._seconds[lane.name].observe(time.monotonic() - started)
        self._rows.inc(result.written_rows)
        headers["X-ClickHouse-Summary"] = summary_header(result)
        if reframe:
            return await self._whole(request, lane, execution, headers, await lane.run(execution.reframed, result))
        if result.size <= 1 << 18:
            return await self._whole(request, lane, execution, headers, result.body())
        return await self._pieces(request, lane, execution, headers, result)

    async def _whole(
        self, request: web.BaseRequest, lane: Lane, execution: Execution, headers: Mapping[str, str], body: bytes
    ) -> web.Response:
        """Answer with a body that is all there."""
        self._sent.inc(len(body))
        if (compressor := execution.compressor) is not None:
            if len(body) < INLINE_MAX:
                body = compressor.compress(body) + compressor.finish()
            else:
                body = await lane.run(lambda: compressor.compress(body) + compressor.finish())
        return web.Response(body=body, headers=headers)

    async def _pieces(
        self, request: web.BaseRequest, lane: Lane, execution: Execution, headers: dict[str, str], result: Result
    ) -> web.StreamResponse:
        """Send a result that lies in the engine's memory piece by piece."""
        response = web.StreamResponse(headers=headers)
        compressor = execution.compressor
        if compressor is None:
            response.content_length = result.size
        await response.prepare(request)
        for piece in result.chunks():
            self._sent.inc(len(piece))
            out = await lane.run(compressor.compress, piece) if compressor else piece
            if out:
                await response.write(out)
        if compressor is not None:
            await response.write(compressor.finish())
        await response.write_eof()
        return response

    async def _stream(
        self, request: web.BaseRequest, lane: Lane, execution: Execution, headers: dict[str, str], blocks: list[bytes]
    ) -> web.StreamResponse:
        """Send blocks as the engine makes them. An error on the way is written behind them and the connection cut."""
        tag = "".join(secrets.choice(string.ascii_lowercase) for _ in range(16))
        headers["X-ClickHouse-Exception-Tag"] = tag
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        compressor = execution.compressor
        for block in blocks:
            self._sent.inc(len(block))
            await response.write(await lane.run(compressor.compress, block) if compressor else block)
        blocks.clear()
        try:
            while (block := await lane.run(execution.fetch)) is not None:
                self._sent.inc(len(block))
                if block:
                    await response.write(block)
        except EngineError as error:
            message = error_text(error, self.engine.version)
            text = f"\r\n__exception__\r\n{tag}\r\n{message}{len(message.encode())} {tag}\r\n__exception__\r\n".encode()
            await response.write(compressor.compress(text) + compressor.finish() if compressor else text)
            self.rejected("failed_while_streaming")
            # No last chunk: whoever does not look for the tag sees a body that breaks off, never a shorter result.
            if request.transport is not None:
                request.transport.close()
            return response
        if compressor is not None:
            await response.write(compressor.finish())
        await response.write_eof()
        return response


def _allow(statement: Statement) -> None:
    """Refuse what no client of a server may send either."""
    if not statement.kind:
        raise syntax_error("Syntax error: failed at position 1 (end of query): Empty query.")
    if statement.forbidden == b"INTO OUTFILE":
        raise EngineError(358, "INTO_OUTFILE_NOT_ALLOWED", "INTO OUTFILE is not allowed.")
    if statement.forbidden == b"FROM INFILE":
        raise EngineError(78, "UNKNOWN_TYPE_OF_QUERY", "Query has infile and was send directly to server.")
    if statement.forbidden:
        raise EngineError(
            497,
            "ACCESS_DENIED",
            f"default: Not enough privileges for {statement.forbidden.decode()}: stop the daemon instead.",
        )


def _header_safe(text: str) -> str:
    """Return text that may stand in a header."""
    return "".join(letter for letter in text if " " <= letter <= "~")[:256]


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address. Raises `PortTaken`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listen = socket.socket(family, socket.SOCK_STREAM)
    try:
        listen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listen.bind((host, port))
    except OSError as error:
        listen.close()
        what = (
            "is in use by another process" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
        )
        raise PortTaken(
            f"ClickHouse address {host}:{port} {what}: stop it, or set clickhouse.port to a free port (0: any)"
        ) from error
    listen.setblocking(False)
    return listen


async def serve(server: EngineServer, stopping: asyncio.Event, housekeeping_s: float = 1.0) -> None:
    """Keep house until `stopping` is set."""
    while not stopping.is_set():
        server.housekeep()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), housekeeping_s)
