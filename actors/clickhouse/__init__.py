"""The embedded ClickHouse: the chdb engine in one process behind ClickHouse's HTTP interface, on loopback.

Used where no server is configured, so that every client (`curl`, Grafana's data source, clickhouse-connect, the writer)
is the same against it as against a server or a cluster.

Supported:

- `GET`, `HEAD` (reading only), `POST`; statement in the URL's `query`, in the body, or begun in one and ended in the
  other; multipart bodies with `query`, `param_*` and external tables; `/ping`, `/replicas_status`, `OPTIONS`.
- User `default` with the store's password by Basic authentication, `X-ClickHouse-User`/`-Key`, or `user`/`password`.
- Every statement the engine has. INSERT data in every input format, any bytes; one Native block stays one block;
  `insert_deduplication_token`. Inserts run one after the other on a lane of their own.
- Settings and `param_*` in the URL, for that request alone; `database`, `default_format`, `query_id`, `session_id`,
  `session_timeout`, `session_check`, `close_session`, `role`, `readonly`, `wait_end_of_query`, `log_comment`.
- Results streamed in the formats whose blocks can be put one after the other (Native, TabSeparated, CSV, RowBinary,
  JSONEachRow) unless `wait_end_of_query=1`; other results are made whole in the engine's memory, under its limits.
- Answers compressed by `Accept-Encoding` with `enable_http_compression=1` (lz4, zstd, gzip, deflate; br with brotli),
  bodies by `Content-Encoding` (these, xz, bz2).
- `X-ClickHouse-Format`, `-Summary`, `-Query-Id`, `-Exception-Code`, `-Exception-Tag`, `-Timezone`,
  `-Server-Display-Name`; codes, texts and HTTP status of errors as the server's.
- KILL QUERY by the client's `query_id` or the engine's; `max_execution_time`; a client that goes away while its query
  reads ends the query, while it writes does not.
- Native blocks with `client_protocol_version` 54454 to 54479 for types of fixed length, String, FixedString, Nullable,
  Array, Tuple, Map, Nested, LowCardinality and geo types. Lower versions are ignored, as by a proxy: clients find out.

Answered with the engine's own code instead:

- 48 NOT_IMPLEMENTED: `compress=1`, `decompress=1`, other content codings, other types and versions of the last point.
- 497 ACCESS_DENIED: SYSTEM SHUTDOWN, KILL, SUSPEND; users and grants; whatever leaves the store: table functions,
  engines and databases over files and addresses (file, url, remote, s3, executable ...), dictionaries, BACKUP, the
  functions file, python and arrowstream (a column of that name is qualified: t.file). One hole is left: SQL that a
  statement puts together as text for `format(Values, ...)`. Whoever has the password is not a stranger.
- 452 SETTING_CONSTRAINT_VIOLATION: settings that hold SQL as text. 358, 78: INTO OUTFILE, FROM INFILE.
- 202 TOO_MANY_SIMULTANEOUS_QUERIES: a full lane, too many sessions. 229 QUERY_IS_TOO_LARGE: body, line or header over
  its limit. 241 MEMORY_LIMIT_EXCEEDED: bodies together, or a query.
- 60 UNKNOWN_TABLE: `system.*_log` tables; the engine keeps none.
- Progress headers are never sent; `system.processes` shows the engine's ids, the client's stand in its `log_comment`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from ..runtime import ActorContext
from .config import Config
from .errors import PortTaken
from .server import EngineServer, serve

__all__ = ["Config", "EngineServer", "PortTaken", "main", "store_folder"]


def store_folder(data: Path, config: Config) -> Path:
    """Return the folder of the store and its password for an instance's data folder."""
    return data / config.folder


async def main(ctx: ActorContext) -> None:
    """Serve until the stop. Raises `StoreLocked`, `StoreUnusable`, `EngineMissing` or `PortTaken` at the start."""
    config: Config = ctx.config
    beating = asyncio.ensure_future(ctx.beat_until_stopped())
    server = EngineServer(config, store_folder(ctx.data, config), ctx.page)
    try:
        await server.start(ctx.listen)
        ctx.page.detail = {"url": f"http://{config.host}:{server.port}", "engine": server.engine.version}
        ctx.running()
        await serve(server, ctx.stopping)
        draining = asyncio.ensure_future(server.stop())
        while not draining.done():
            ctx.beat()
            await asyncio.wait([draining], timeout=0.25)
        draining.result()
    finally:
        beating.cancel()
