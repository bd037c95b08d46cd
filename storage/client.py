"""The connection to ClickHouse: a server, a cluster's entry point, or the embedded engine on loopback, all alike.

A thin layer over clickhouse-connect's asynchronous client: each call has a deadline and ends in a result,
`Unavailable` or `Refused`. The connection is made at the first call and again after it broke, so that a process may
start before ClickHouse does, and a password file may be written later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import clickhouse_connect.driver.asyncclient  # loaded at the first connection otherwise, by each process for itself
import msgspec
from clickhouse_connect.driver import exceptions as driver

from ..ringbuf import RingError, page_filename, read_page
from .engine import password_path
from .errors import Refused, StorageError, Unavailable

log = logging.getLogger("tickring.storage.client")

PING_TIMEOUT_S = 2.0
EMBEDDED_ACTOR = "clickhouse"  # name of the engine's actor, and of its store in the data folder
EMBEDDED_URL = "http://127.0.0.1:8123"
ROWS_OF_ONE_BLOCK = 1_048_449  # ClickHouse's own default: blocks of an insert become one until it has so many rows

# ClickHouse's error codes that say "not now" about a request that is right in itself.
# https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp (read 2026-11)
CREDENTIAL_CODES = frozenset((
    192,  # UNKNOWN_USER
    193,  # WRONG_PASSWORD
    194,  # REQUIRED_PASSWORD
    516,  # AUTHENTICATION_FAILED
))  # fmt: skip
NOT_NOW_CODES = CREDENTIAL_CODES | frozenset((
    74,  # CANNOT_READ_FROM_FILE_DESCRIPTOR
    75,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR
    159,  # TIMEOUT_EXCEEDED
    160,  # TOO_SLOW
    164,  # READONLY
    201,  # QUOTA_EXCEEDED
    202,  # TOO_MANY_SIMULTANEOUS_QUERIES
    203,  # NO_FREE_CONNECTION
    209,  # SOCKET_TIMEOUT
    210,  # NETWORK_ERROR
    225,  # NO_ZOOKEEPER
    236,  # ABORTED
    241,  # MEMORY_LIMIT_EXCEEDED
    242,  # TABLE_IS_READ_ONLY
    243,  # NOT_ENOUGH_SPACE
    252,  # TOO_MANY_PARTS
    279,  # ALL_CONNECTION_TRIES_FAILED
    285,  # TOO_FEW_LIVE_REPLICAS
    286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
    319,  # UNKNOWN_STATUS_OF_INSERT
    394,  # QUERY_WAS_CANCELLED
    439,  # CANNOT_SCHEDULE_TASK
    497,  # ACCESS_DENIED
    999,  # KEEPER_EXCEPTION
))  # fmt: skip
SCHEMA_CODES = frozenset((
    8,  # THERE_IS_NO_COLUMN
    10,  # NOT_FOUND_COLUMN_IN_BLOCK
    16,  # NO_SUCH_COLUMN_IN_TABLE
    60,  # UNKNOWN_TABLE
    81,  # UNKNOWN_DATABASE
))  # fmt: skip


class Server(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where ClickHouse is and who we are there."""

    url: str = ""  # http://host:8123 or https://host:8443; "" = the instance's embedded engine
    user: str = "default"
    password: str = ""
    password_file: str = ""  # read at each connect; wins over `password`
    database: str = "tickring"
    connect_timeout_s: float = 2.0
    timeout_s: float = 5.0  # of one request, unless the call says otherwise
    connections: int = 8  # requests at the same time; further ones wait inside their deadline
    compress: bool = False  # of answers; worth it only across a slow network


@dataclass(frozen=True)
class Place:
    """An address to connect to, looked up at each connect."""

    url: str
    password_file: Path | None


def locate(server: Server, folder: Path | None = None, data: Path | None = None) -> Place:
    """Where the server is now.

    The embedded engine says in its page where it listens, and keeps its password in its store.

    Args:
        folder: the instance's folder in shared memory.
        data: the instance's folder on disk.
    """
    password_file = Path(server.password_file).expanduser() if server.password_file else None
    if server.url:
        return Place(server.url, password_file)
    detail: Mapping[str, Any] = {}
    if folder is not None:
        with contextlib.suppress(RingError, OSError):
            detail = read_page(folder / page_filename(EMBEDDED_ACTOR)).detail
    if password_file is None:
        stated = detail.get("password_file")
        password_file = Path(stated) if stated else password_path((data or Path()) / EMBEDDED_ACTOR)
    return Place(detail.get("url") or EMBEDDED_URL, password_file)


def _read_password(server: Server, place: Place) -> str:
    if place.password_file is None:
        return server.password
    try:
        return place.password_file.read_text("utf-8").strip()
    except OSError as error:
        raise Unavailable(
            f"clickhouse {place.url}: password file {place.password_file}: {error.strerror}: "
            "start the embedded engine, or name the right file"
        ) from error


class Client:
    """Requests with deadlines to one ClickHouse. For one event loop; safe for concurrent calls.

    Args:
        server: its configuration.
        folder, data: of the instance, to find its embedded engine.
    """

    def __init__(self, server: Server, folder: Path | None = None, data: Path | None = None) -> None:
        self.server = server
        self.url = server.url or EMBEDDED_URL
        self._folder, self._data = folder, data
        self._client: Any = None
        self._connecting = asyncio.Lock()

    async def _connected(self) -> Any:
        if self._client is None:
            async with self._connecting:
                if self._client is None:
                    self._client = await self._connect()
        return self._client

    async def _connect(self) -> Any:
        place = locate(self.server, self._folder, self._data)
        parts = urlsplit(place.url)
        client = await clickhouse_connect.get_async_client(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or (8443 if parts.scheme == "https" else 8123),
            secure=parts.scheme == "https",
            proxy_path=parts.path.strip("/"),
            username=self.server.user,
            password=_read_password(self.server, place),
            database="default",  # ours may not exist yet: statements name it
            compress=self.server.compress,
            connect_timeout=self.server.connect_timeout_s,
            send_receive_timeout=3600,  # each call has a deadline of its own
            query_limit=0,
            autogenerate_session_id=False,
            connector_limit=self.server.connections,
            connector_limit_per_host=self.server.connections,
        )
        self.url = place.url
        log.info("clickhouse=%s user=%s connected version=%s", self.url, self.server.user, client.server_version)
        return client

    async def _call(self, what: str, timeout_s: float | None, request: Any) -> Any:
        seconds = self.server.timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(seconds):
                return await request(await self._connected())
        except TimeoutError:
            raise Unavailable(f"clickhouse {self.url}: no answer to {what} within {seconds:g} s") from None
        except driver.Error as error:
            raise await self._meaning(what, error) from error
        except OSError as error:
            raise Unavailable(f"clickhouse {self.url}: {what}: {error}") from error

    async def _meaning(self, what: str, error: driver.Error) -> StorageError:
        code, text = error.code or 0, str(error).strip().split("\n")[0][:600]
        message = f"clickhouse {self.url}: {what}: {text}"
        if code in CREDENTIAL_CODES:
            await self.close()  # the password file may have been written anew
        if not code or code in NOT_NOW_CODES:
            return Unavailable(message, code)
        return Refused(message, code, error.name or "")

    async def command(self, statement: str, timeout_s: float | None = None) -> None:
        """Run a statement that returns no rows."""
        await self._call(statement[:60], timeout_s, lambda client: client.command(statement))

    async def insert(
        self, table: str, columns: Sequence[str], block: bytes, token: str, timeout_s: float | None = None
    ) -> None:
        """Insert Native blocks as one block, once: a repetition with the same token is dropped by the server.

        Args:
            table: quoted, with its database.
            columns: in the block's order.
            block: see `native.encode_block`; one or several of at most `ROWS_MAX` rows together, which the server
                squashes into one, so that within one partition they are stored whole or not at all.
            token: names exactly these rows; the same token with other rows would drop them silently.

        Raises:
            Unavailable: it is unknown whether the rows were stored.
            Refused: they were not.
        """
        settings = {
            "async_insert": 0, "insert_deduplicate": 1, "insert_deduplication_token": token,
            "min_insert_block_size_rows": ROWS_OF_ONE_BLOCK, "min_insert_block_size_bytes": 0,
        }  # fmt: skip
        # As a memoryview the statement travels in the URL and the block is not copied behind it.
        await self._call(
            f"insert into {table}", timeout_s,
            lambda client: client.raw_insert(table, columns, memoryview(block), settings=settings, fmt="Native"),
        )  # fmt: skip

    async def fetch(
        self,
        query: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        fmt: str,
        timeout_s: float | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> bytes:
        """The answer of a query in a ClickHouse format. Parameters are bound by the server: ``{name:Type}``."""
        return await self._call(
            "query", timeout_s,
            lambda client: client.raw_query(query, dict(parameters or {}), settings=dict(settings or {}), fmt=fmt),
        )  # fmt: skip

    async def rows(
        self, query: str, parameters: Mapping[str, Any] | None = None, timeout_s: float | None = None
    ) -> list[tuple[Any, ...]]:
        """The answer of a small query as Python values."""
        result = await self._call("query", timeout_s, lambda client: client.query(query, dict(parameters or {})))
        return list(result.result_rows)

    async def ping(self, timeout_s: float = PING_TIMEOUT_S) -> bool:
        """Whether ClickHouse answers queries, and not only connections."""
        with contextlib.suppress(StorageError):
            await self.fetch("SELECT 1", fmt="TabSeparated", timeout_s=timeout_s)
            return True
        return False

    async def close(self) -> None:
        """Drop the connections; the next call connects again."""
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(driver.Error, OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await client.close()


def quote_name(name: str) -> str:
    """A database, table or column name in backquotes."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def quote_text(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
