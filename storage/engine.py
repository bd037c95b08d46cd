"""The embedded ClickHouse engine (chdb): opening a store, its password, and connections to it.

A store is one folder and belongs to one process at a time:

| path | what |
| --- | --- |
| `<folder>/lock` | our `flock`, with the holder's pid as text; taken before the engine is loaded |
| `<folder>/password` | password of user `default`, mode 0600, made at the first start |
| `<folder>/access.xml` | what clients may do, see `Engine.open`; not for editing: it is put right at each start |
| `<folder>/store/` | the engine's own files; its `status` file is locked by the engine too |

The engine starts threads when it is imported, so it is imported only by `Engine.open`, never before a fork.

What the engine (26.9, chdb 4.4) does, measured, and what this module therefore does:

- A connection costs 0.1 ms and about 100 KB and carries its own settings, database, temporary tables and query
  parameters. One request = one connection is the isolation that is needed; nothing is ever shared between two requests.
- `SET` works for every statement kind, a `SETTINGS` clause does not (DDL). Settings are applied by one `SET`.
- `query()` cuts its text at `;` even inside binary insert data, and `send_insert` reports success for an insert that
  failed once its data had been taken (disk full, memory, constraint, too many parts). So insert data lies in a memory
  file that the statement names (`FROM INFILE`): any bytes, every error, one Native block one block.
- `streaming_cancel_query` waits for the block being computed (measured: 18 s). `KILL QUERY` does not (0.1 s).
- `SYSTEM SHUTDOWN` sends SIGTERM to the whole process group; `EngineConnection.query` must not be given it.
- Its user may read every file and address of the machine, and cannot revoke that from itself: rights are given by a
  users file, which is read only where `config-file` and `users_config` both name one. Its database `default` takes an
  unknown table for the path of a file: it is replaced by a plain one.
- A result's memory is counted against `max_memory_usage`: one that is too large is an error, not a dead process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..ringbuf.errors import TickringError

log = logging.getLogger("tickring.storage.engine")

USER = "default"
UNKNOWN_EXCEPTION = 1002
_SETTING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,255}\Z")
_CODE = re.compile(r"(?:Code: (\d+)\. )?(?:DB::Exception: )?")
# A trailing "(NAME)" or "(version 26.9.2.1)"; the engine repeats both when it rethrows.
_TRAILER = re.compile(r"[.\s]*\((?:([A-Z][A-Z0-9_]{3,})|version [0-9.]+(?: \([^()]*\))?)\)[.\s]*\Z")


# No SOURCES (file, url, remote, s3, ... as table functions, engines and databases), no dictionaries (they have sources
# too), no BACKUP, no users. Settings that hold SQL as text stay as they are: what a statement does stands in it.
_ACCESS = """<clickhouse>
    <access_control_improvements><enable_read_write_grants>true</enable_read_write_grants></access_control_improvements>
    <profiles><default><constraints>
        <allow_experimental_eval_table_function><readonly/></allow_experimental_eval_table_function>
        <additional_result_filter><readonly/></additional_result_filter>
        <additional_table_filters><readonly/></additional_table_filters>
    </constraints></default></profiles>
    <quotas><default></default></quotas>
    <users><default>
        <password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
        <grants><query>GRANT SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW,
            CREATE TEMPORARY TABLE, CREATE FUNCTION, DROP, UNDROP TABLE, TRUNCATE, OPTIMIZE, CHECK, KILL QUERY,
            MOVE PARTITION BETWEEN SHARDS, SYSTEM ON *.*</query></grants>
    </default></users>
</clickhouse>
"""


class EngineError(TickringError):
    """The engine refused a statement. `code` and `name` are ClickHouse's own; `reason` is its text without both."""

    def __init__(self, code: int, name: str, reason: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {reason} ({name})")
        self.code = code
        self.name = name
        self.reason = reason

    @classmethod
    def parse(cls, text: str) -> EngineError:
        """Build from an engine exception's text, which may be nested: code of the outermost, text of the innermost."""
        code, name, rest = 0, "", text.strip()
        while (match := _CODE.match(rest)) is not None and match.end() > 0:
            code = code or int(match.group(1) or 0)
            rest = rest[match.end() :]
        while (match := _TRAILER.search(rest)) is not None:
            name = name or match.group(1) or ""
            rest = rest[: match.start()]
        return cls(code or UNKNOWN_EXCEPTION, name or "UNKNOWN_EXCEPTION", rest.rstrip(". \n") + ".")


class EngineMissing(TickringError):
    """chdb is not installed."""

    exit_code = 69


class StoreLocked(TickringError):
    """Another process has the store open. `holder` is its pid, 0 when it cannot be known."""

    retriable = True
    exit_code = 75

    def __init__(self, message: str, holder: int) -> None:
        super().__init__(message)
        self.holder = holder


class StoreUnusable(TickringError):
    """The folder cannot be made, locked or opened by the engine."""

    exit_code = 74


class PasswordMissing(TickringError):
    """The password file is not there (yet: it is made when the engine first starts)."""

    retriable = True


def password_path(folder: Path) -> Path:
    """Return the path of the password file of the store in `folder`."""
    return folder / "password"


def read_password(folder: Path) -> str:
    """Return the password of user `default` of the store in `folder`. Raises `PasswordMissing`."""
    path = password_path(folder)
    try:
        password = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        password = ""
    except (OSError, UnicodeDecodeError) as error:
        raise PasswordMissing(f"password file {path} cannot be read: {error}; this user must be able to") from error
    if not password:
        raise PasswordMissing(f"password file {path} is not there; the embedded engine makes it at its first start")
    return password


def create_password(folder: Path) -> str:
    """Return the store's password; make one of 32 random bytes when there is none. For the holder of the lock only."""
    path = password_path(folder)
    with suppress(PasswordMissing):
        password = read_password(folder)
        if path.stat().st_mode & 0o077:
            log.warning("password=%s mode=%o others could read it; set to 600", path, path.stat().st_mode & 0o777)
            path.chmod(0o600)
        return password
    password = secrets.token_urlsafe(32)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    # Written aside and renamed: a reader sees no file or the whole password.
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, password.encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.replace(path)
    return password


def _describe(pid: int) -> str:
    """Say which process a pid is, for an error message."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({' '.join(command.split())[:80]})"


def _holder(path: Path, pattern: str) -> int:
    """Return the live pid that a lock file names, 0 when it names none."""
    try:
        match = re.search(pattern, path.read_text(errors="replace"))
    except OSError:
        return 0
    pid = int(match.group(1)) if match else 0
    return pid if pid and Path(f"/proc/{pid}").exists() else 0


def lock_store(folder: Path) -> int:
    """Make the folder and lock it for this process; return the lock. Raises `StoreLocked`, `StoreUnusable`.

    The engine has a lock of its own but says no more than "cannot lock": ours is taken first and names the holder. The
    engine's is looked at too, since `clickhouse local` or another chdb may have the store open.
    """
    path = folder / "lock"
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StoreUnusable(
            f"store {folder} cannot be used: {error}; choose another data folder, or mend it"
        ) from error
    for candidate, pattern in ((path, r"(\d+)"), (folder / "store" / "status", r"PID: (\d+)")):
        try:
            probe = fd if candidate is path else os.open(candidate, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _holder(candidate, pattern)
            os.close(fd)
            who = _describe(pid) if pid else "another process"
            raise StoreLocked(
                f"store {folder} is in use by {who}: stop it, or give this instance another data folder", pid
            ) from None
        finally:
            if probe != fd:
                os.close(probe)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """Sizes of the engine. The engine's own defaults are for a server that has the machine to itself."""

    memory_max_mb: int = 4096  # of the whole engine, code included
    cache_mb: int = 64  # each of the mark, primary index and other caches
    background_threads: int = 2  # merges and mutations

    def arguments(self) -> str:
        cache = self.cache_mb << 20
        values = {
            "max_server_memory_usage": self.memory_max_mb << 20,
            "background_pool_size": self.background_threads,
            "background_schedule_pool_size": 2,
            "background_common_pool_size": 1,
            "async_insert_threads": 1,
            **dict.fromkeys(
                (
                    "mark_cache_size",
                    "primary_index_cache_size",
                    "index_mark_cache_size",
                    "vector_similarity_index_cache_size",
                    "text_index_tokens_cache_size",
                    "text_index_header_cache_size",
                    "text_index_postings_cache_size",
                    "parquet_metadata_cache_size",
                    "iceberg_metadata_files_cache_size",
                    "query_condition_cache_size",
                    "compiled_expression_cache_size",
                ),
                cache,
            ),
        }
        return "&".join(f"{name}={value}" for name, value in values.items())


@dataclass(slots=True)
class Result:
    """What a statement gave back. Row and byte counts are those of `X-ClickHouse-Summary`."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    elapsed_ns: int = 0
    size: int = 0
    _native: Any = None

    @classmethod
    def of(cls, native: Any) -> Result:
        return cls(
            native.storage_rows_read(),
            native.storage_bytes_read(),
            native.rows_written(),
            native.bytes_written(),
            native.rows_read(),
            int(native.elapsed() * 1e9),
            native.size(),
            native,
        )

    def body(self) -> bytes:
        """Return a copy of the whole body."""
        return self._native.bytes() if self.size else b""

    def chunks(self, size: int = 1 << 18) -> Iterator[bytes]:
        """Yield the body in copies of at most `size` bytes: never twice in memory, the interpreter never held long.

        Copies and not views: a transport may keep what it is given after this object, which owns the memory, is gone.
        """
        if self.size <= size:
            if self.size:
                yield self.body()
            return
        wrapper = self._native.get_memview()
        view = wrapper.view()
        for start in range(0, self.size, size):
            yield bytes(view[start : start + size])


class ResultStream:
    """A SELECT whose blocks are taken one after the other, each encoded on its own in the asked format."""

    def __init__(self, connection: EngineConnection, native: Any) -> None:
        self._connection = connection
        self._native = native
        self.summary = Result()

    def fetch(self) -> bytes | None:
        """Return the next block, None at the end. Raises `EngineError`, also after blocks were returned."""
        try:
            part = self._connection.native.streaming_fetch_result(self._native)
        except RuntimeError as error:
            raise EngineError.parse(str(error)) from None
        if part is None or part.rows_read() == 0:
            return None
        summary = self.summary
        summary.read_rows += part.storage_rows_read()
        summary.read_bytes += part.storage_bytes_read()
        summary.result_rows += part.rows_read()
        summary.elapsed_ns += int(part.elapsed() * 1e9)
        body = part.bytes()
        summary.size += len(body)
        return body


def quote(value: str | bytes) -> bytes:
    """Return a ClickHouse string literal."""
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return b"'" + raw.replace(b"\\", b"\\\\").replace(b"'", b"\\'").replace(b"\0", b"\\0") + b"'"


class EngineConnection:
    """One connection, with settings, parameters, database and temporary tables of its own. For one thread at a time."""

    def __init__(self, native: Any) -> None:
        self.native = native

    def apply(self, settings: Mapping[str, str | None]) -> None:
        """Set settings for everything that follows on this connection; None returns one to its default."""
        if not settings:
            return
        parts = []
        for name, value in settings.items():
            if not _SETTING_NAME.match(name):
                raise EngineError(115, "UNKNOWN_SETTING", f"Unknown setting {name[:80]!r}.")
            parts.append(name.encode() + b" = " + (b"DEFAULT" if value is None else quote(value)))
        self.query(b"SET " + b", ".join(parts))

    def query(self, sql: bytes, output_format: str = "TabSeparated", params: Mapping[str, str] | None = None) -> Result:
        """Run one statement without insert data; `params` are values of `{name:Type}`, escaped as in TabSeparated."""
        try:
            return Result.of(self.native.query(sql, output_format, params=dict(params or {})))
        except RuntimeError as error:
            raise EngineError.parse(str(error)) from None

    def stream(self, sql: bytes, output_format: str, params: Mapping[str, str] | None = None) -> ResultStream:
        """Start a SELECT. Errors come from here or from the first `fetch`. Totals and extremes are not delivered."""
        try:
            return ResultStream(self, self.native.send_query(sql, output_format, params=dict(params or {})))
        except RuntimeError as error:
            raise EngineError.parse(str(error)) from None

    def insert(self, head: bytes, input_format: str, chunks: Iterable[bytes], settings: bytes = b"") -> Result:
        """Insert data of any bytes.

        Args:
            head: the statement up to, not including, SETTINGS, FORMAT or VALUES.
            settings: its SETTINGS clause.
        """
        data = os.memfd_create("insert", os.MFD_CLOEXEC)
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[os.write(data, view) :]
            source = b"\nFROM INFILE '/proc/self/fd/%d' COMPRESSION 'none'\n" % data
            return self.query(b"".join((head, source, settings, b"\nFORMAT ", input_format.encode())))
        finally:
            os.close(data)

    def classify(self, sql: bytes) -> tuple[str, int]:
        """Return what a text would do, READ_ONLY to CONTROL, or UNKNOWN; and its number of statements."""
        answer = self.native.classify_query(sql)
        return answer["query_class"].name, answer["statement_count"]

    def close(self) -> None:
        self.native.close()


class Engine:
    """An open store. `connect` may be called from any thread."""

    def __init__(self, folder: Path, lock_fd: int, module: Any, path: str) -> None:
        self.folder = folder
        self._lock_fd = lock_fd
        self._module = module
        self._path = path
        # The first connection stays open for as long as the store does: the engine stops with its last one.
        self._anchor = self.connect()
        facts = self._anchor.query(b"SELECT version(), timezone(), hostName()").body().decode().rstrip("\n").split("\t")
        self.version, self.timezone, self.display_name = facts

    @classmethod
    def open(cls, folder: Path, limits: EngineLimits | None = None) -> Engine:
        """Lock and open the store in `folder`; its statements reach no file and no address outside it.

        One way remains, the scalar function `file`: who hands on the statements of others must look for it.

        Raises `StoreLocked`, `EngineMissing`, `StoreUnusable`.
        """
        lock_fd = lock_store(folder)
        try:
            try:
                module: Any = import_module("chdb._chdb")
            except ImportError as error:
                raise EngineMissing(
                    f"the embedded engine is not installed ({error}): pip install 'tickring[embedded]', "
                    "or set clickhouse.url to a server"
                ) from error
            module.set_signal_handlers_enabled(0)  # a SIGTERM is the actor's to handle
            store = folder / "store"
            access = folder / "access.xml"
            path = f"{store}?{(limits or EngineLimits()).arguments()}&config-file={access}&users_config={access}"
            try:
                if not access.exists() or access.read_text("ascii", "replace") != _ACCESS:  # a full disk may have it
                    access.write_text(_ACCESS, encoding="ascii")
                engine = cls(folder, lock_fd, module, path)
                engine._replace_default()
                return engine
            except (RuntimeError, EngineError, OSError) as error:
                line = str(error).split(", Stack trace", 1)[0].splitlines()[0][:400]
                raise StoreUnusable(
                    f"store {store} cannot be opened: {line}; free space and mend rights, or choose another data folder"
                ) from error
        except BaseException:
            os.close(lock_fd)
            raise

    def _replace_default(self) -> None:
        """Make `default` the plain database beneath the one that looks for files."""
        uuid = self._anchor.query(b"SELECT uuid FROM system.databases WHERE name = 'default'").body().strip()
        self._anchor.query(b"DETACH DATABASE default")
        self._anchor.query(b"ATTACH DATABASE default UUID '" + uuid + b"' ENGINE = Atomic")

    def connect(self) -> EngineConnection:
        """Open a connection with the engine's default settings."""
        return EngineConnection(self._module.connect(self._path))

    def close(self) -> None:
        """Close the store and give the lock back."""
        self._anchor.close()
        os.close(self._lock_fd)
