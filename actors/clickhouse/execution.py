"""One request on its connection. Its steps run on a lane's threads, one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from ...storage.engine import Engine, EngineConnection, EngineError, Result, ResultStream
from .coding import Compressor
from .errors import syntax_error
from .native import reframe
from .request import Options
from .sessions import Session
from .statement import Statement, reaching_function, replace_strings

T = TypeVar("T")

STREAM_AFTER = 1 << 20  # bytes that are held back before an answer begins: until then an error still has its own status
_READS = frozenset(b"SELECT WITH FROM VALUES SHOW DESC DESCRIBE EXPLAIN EXISTS CHECK SET USE (".split())
_SETS = frozenset((b"SET", b"USE"))


def comment_of(options: Options) -> str:
    """Return the log_comment that a request's query runs with; by it the query is found again to be killed."""
    own = f"query_id={options.query_id}"
    return f"{options.log_comment} {own}" if options.log_comment else own


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def quote_name(name: str) -> bytes:
    """Return an identifier in backticks."""
    return b"`" + _bytes(name.replace("\\", "\\\\").replace("`", "\\`")) + b"`"


def kill(engine: Engine, comment: str) -> int:
    """Kill the query that runs with this comment; return how many there were."""
    connection = engine.connect()
    try:
        sql = b"KILL QUERY WHERE Settings['log_comment'] = {comment:String} ASYNC"
        escaped = comment.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")
        return connection.query(sql, "TabSeparated", {"comment": escaped}).body().count(b"\n")
    finally:
        connection.close()


class Execution:
    """A statement with everything it needs: call `run`, or `start` and then `fetch` to the end.

    The connection is given back, and `on_closed` called, by the step that ends the work (result whole, stream at its
    end, error) or by `close`, whichever comes first.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        statement: Statement,
        sql: bytes,
        data: Sequence[bytes] = (),
        session: Session | None = None,
        base: Mapping[str, str] | None = None,
        on_closed: Callable[[], None] | None = None,
    ) -> None:
        self._engine = engine
        self._options = options
        self._statement = statement
        self._sql = sql
        self._data = data
        self._session = session
        self._base = dict(base or {})
        self._on_closed = on_closed
        self._connection: EngineConnection | None = None
        self._stream: ResultStream | None = None
        self._lock = threading.Lock()  # held by the step that runs
        self._abandoned = False
        self.closed = False
        self.format = statement.format or options.default_format or "TabSeparated"
        self.compressor: Compressor | None = None
        self.summary = Result()

    def run(self) -> Result:
        """Run the statement whole. Its result stays valid after the connection is gone."""
        return self._step(self._run)

    def start(self) -> tuple[list[bytes], bool]:
        """Begin to stream a SELECT: return its first blocks, and whether they are all. `summary` is of these."""
        return self._step(self._start)

    def fetch(self) -> bytes | None:
        """Return the next block, compressed if the answer is; None at the end. Raises `EngineError`."""
        return self._step(self._fetch)

    def reframed(self, result: Result) -> bytes:
        """Return a Native result in the block revision that the client asked for."""
        return reframe(result.body(), self._options.protocol_version)

    def close(self) -> None:
        """Give the connection back: now, or when the running step ends. May be called at any time, also twice."""
        self._abandoned = True
        if self._lock.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._lock.release()

    def _step(self, function: Callable[[], T]) -> T:
        try:
            with self._lock:
                try:
                    if self._abandoned or self.closed:
                        raise EngineError(394, "QUERY_WAS_CANCELLED", "Query was cancelled.")
                    answer = function()
                except BaseException:
                    self._release()
                    raise
                if self._stream is None or self._abandoned:
                    self._release()
                return answer
        finally:
            # `close` may have come while the lock was held, after the look at `_abandoned`.
            if self._abandoned and not self.closed:
                self.close()

    def _release(self) -> None:
        """Give the connection back. The lock is held."""
        if self.closed:
            return
        self.closed = True
        connection, self._connection = self._connection, None
        stream, self._stream = self._stream, None
        try:
            if connection is None:
                return
            if self._session is None:
                connection.close()
                return
            with suppress(EngineError):
                # A session's connection is used again: its stream is read to the end, which a KILL has made near.
                while stream is not None and stream.fetch() is not None:
                    pass
            for name in self._options.external:
                connection.query(b"DROP TEMPORARY TABLE IF EXISTS " + quote_name(name))
        finally:
            if self._on_closed is not None:
                self._on_closed()

    def _run(self) -> Result:
        connection = self._open()
        if self._statement.has_data:
            return connection.insert(self._statement.head, self.format, self._data, self._statement.settings)
        sql = self._sql
        self._check(connection, sql)
        if self._statement.kind == b"KILL":
            sql = self._engine_ids(connection, sql)
        return connection.query(sql, self.format, self._options.params)

    def _start(self) -> tuple[list[bytes], bool]:
        connection = self._open()
        self._check(connection, self._sql)
        self._stream = connection.stream(self._sql, self.format, self._options.params)
        self.summary = self._stream.summary
        blocks: list[bytes] = []
        size = 0
        while size < STREAM_AFTER:
            block = self._stream.fetch()
            if block is None:
                self._stream = None
                return blocks, True
            blocks.append(block)
            size += len(block)
        return blocks, False

    def _fetch(self) -> bytes | None:
        assert self._stream is not None, "fetch after the end"
        block = self._stream.fetch()
        if block is None:
            self._stream = None
            return None
        return self.compressor.compress(block) if self.compressor else block

    def _open(self) -> EngineConnection:
        """Return a connection with the request's settings, database and external tables."""
        self._stay_inside()
        options = self._options
        settings = {**options.settings, "log_comment": comment_of(options)}
        if self._session is not None:
            if options.readonly and self._statement.kind not in _READS:
                raise EngineError(164, "READONLY", "Cannot execute query in readonly mode.")
            is_set = self._statement.kind in _SETS
            connection = self._connection = self._session.prepare(self._base, settings, is_set=is_set)
            self._session.use(options.database if not is_set else "")
        else:
            connection = self._connection = self._engine.connect()
            if options.readonly:
                settings["readonly"] = str(options.readonly)  # the last one: nothing can be set after it
            connection.apply({**self._base, **settings})
            if options.database and options.database != "default":
                connection.query(b"USE " + quote_name(options.database))
        if options.role:
            connection.query(b"SET ROLE " + quote_name(options.role))
        for name, table in options.external.items():
            columns = _bytes(table.structure)
            connection.query(b"CREATE TEMPORARY TABLE " + quote_name(name) + b" (" + columns + b") ENGINE = Memory")
            connection.insert(b"INSERT INTO " + quote_name(name), table.format, [table.data])
        if self._statement.has_data and options.params:
            # Insert streams take no parameters of their own, the connection's apply to them.
            connection.apply({f"param_{name}": value for name, value in options.params.items()})
        return connection

    def _stay_inside(self) -> None:
        """Refuse functions that the engine's rights do not reach, wherever the request may name one."""
        tables = self._options.external.values()
        texts = [self._sql, *(_bytes(table.structure) for table in tables)]
        if self._statement.format.lower() == "values":  # they are expressions
            texts.append(b"".join(self._data))
        texts += [table.data for table in tables if table.format.lower() == "values"]
        if b"IDENTIFIER" in self._statement.words:
            texts += [_bytes(value) for value in self._options.params.values()]
        for text in texts:
            if name := reaching_function(text):
                raise EngineError(
                    497,
                    "ACCESS_DENIED",
                    f"default: Not enough privileges for {name}, which reads what lies outside the database. If a "
                    f"column is meant, name its table too: t.{name}.",
                )

    @staticmethod
    def _check(connection: EngineConnection, sql: bytes) -> None:
        """Refuse several statements in one request, which the engine would run."""
        if connection.classify(sql)[1] > 1:
            raise syntax_error("Syntax error (Multi-statements are not allowed).")

    @staticmethod
    def _engine_ids(connection: EngineConnection, sql: bytes) -> bytes:
        """Return a KILL QUERY with the engine's own ids in place of those that clients gave."""
        rows = connection.query(b"SELECT Settings['log_comment'], query_id FROM system.processes", "TabSeparated")
        ids = {}
        for line in rows.body().decode("utf-8", "replace").splitlines():
            comment, _, engine_id = line.rpartition("\t")
            ids[comment.rpartition("query_id=")[2]] = engine_id
        return replace_strings(sql, ids.get)
