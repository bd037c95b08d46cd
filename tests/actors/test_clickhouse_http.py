"""The embedded engine behind the ClickHouse HTTP interface: a real process, real sockets, real clients."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

clickhouse_connect = pytest.importorskip("clickhouse_connect")
pytest.importorskip("chdb", reason="the embedded engine is not installed: pip install 'tickring[embedded]'")
numpy = pytest.importorskip("numpy")

from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError  # noqa: E402

from tickring.ringbuf import read_page  # noqa: E402
from tickring.storage.engine import read_password  # noqa: E402

CHILD = """
import asyncio, json, sys, time
from pathlib import Path
import uvloop
from tickring.actors import clickhouse
from tickring.actors.runtime import ActorContext
from tickring.ringbuf import MetricsPage, TickringError

async def main(root, settings):
    shm = root / "shm"
    shm.mkdir(parents=True, exist_ok=True)
    page = MetricsPage(shm, "clickhouse", time.time_ns())
    config = clickhouse.Config(**settings)
    ctx = ActorContext(name="clickhouse", kind="clickhouse", folder=shm, data=root / "data", config=config, page=page)
    ctx.stop_on_signals()
    work = asyncio.ensure_future(clickhouse.main(ctx))
    while not page.detail and not work.done():
        await asyncio.sleep(0.01)
    if page.detail:
        print(json.dumps(dict(page.detail)), flush=True)
    try:
        await work
    except TickringError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

uvloop.run(main(Path(sys.argv[1]), json.loads(sys.argv[2])))
"""


ANSWER_S = 240.0  # bounds a broken run; no test measures time
ENDLESS = "SELECT sleepEachRow(1) FROM numbers(3000)"  # with one row in a block it can be killed each second


class Server:
    """A server process and the ways to talk to it."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.settings = {"port": 0, **settings}
        self.process: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self) -> Server:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(self.root), json.dumps(self.settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"server did not start: {self.process.stderr.read()}")
        self.port = int(json.loads(line)["url"].rpartition(":")[2])
        self.password = read_password(self.root / "data" / "clickhouse")
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def ask(
        self, body: bytes | str = b"", *, method: str = "POST", path: str = "/", auth: bool = True, **more: Any
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request with http.client: `headers`, the rest are URL fields. Returns status, headers, body."""
        headers = dict(more.pop("headers", {}))
        if auth and "X-ClickHouse-Key" not in headers:
            headers["X-ClickHouse-User"], headers["X-ClickHouse-Key"] = "default", self.password
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        try:
            fields = urlencode(more)
            content = body.encode() if isinstance(body, str) else body
            connection.request(method, path + ("?" + fields if fields else ""), content or None, headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def text(self, body: bytes | str, **more: Any) -> str:
        status, _, answer = self.ask(body, **more)
        assert status == 200, answer
        return answer.decode().rstrip("\n")

    def client(self, **more: Any) -> Any:
        return clickhouse_connect.get_client(
            host="127.0.0.1", port=self.port, username="default", password=self.password, **more
        )


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("clickhouse"), body_max_mb=64).start()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with contextlib.closing(server.client()) as client:
        yield client


def running(server: Server, fragment: str) -> int:
    sql = (
        f"SELECT countIf(position(query, '{fragment}') > 0 AND position(query, 'processes') = 0) FROM system.processes"
    )
    return int(server.text(sql))


# Interface


def test_ping_without_credentials_answers_ok(server: Server) -> None:
    for path in ("/ping", "/replicas_status", "/"):
        status, _, body = server.ask(method="GET", path=path, auth=False)
        assert (status, body) == (200, b"Ok.\n")


def test_select_over_http_has_the_servers_headers(server: Server) -> None:
    status, headers, body = server.ask("SELECT number FROM numbers(3)", query_id="my-id", default_format="JSONEachRow")
    assert status == 200
    assert [json.loads(line) for line in body.splitlines()] == [{"number": n} for n in range(3)]
    assert headers["x-clickhouse-format"] == "JSONEachRow"
    assert headers["x-clickhouse-query-id"] == "my-id"
    assert headers["x-clickhouse-timezone"]
    assert headers["x-clickhouse-server-display-name"]
    assert headers["content-type"].startswith("application/x-ndjson")
    summary = json.loads(headers["x-clickhouse-summary"])
    assert (summary["read_rows"], summary["result_rows"], summary["read_bytes"]) == ("3", "3", "24")


def test_default_format_is_tab_separated_and_a_format_clause_wins(server: Server) -> None:
    assert server.ask("SELECT 1, 'a'")[2] == b"1\ta\n"
    _, headers, body = server.ask("SELECT 1 AS x FORMAT JSONCompact -- last", default_format="CSV")
    assert headers["x-clickhouse-format"] == "JSONCompact"
    assert json.loads(body)["data"] == [[1]]
    _, headers, body = server.ask("SELECT 1", headers={"X-ClickHouse-Format": "CSVWithNames"})
    assert headers["x-clickhouse-format"] == "CSVWithNames"


def test_statement_split_over_url_and_body_is_one(server: Server) -> None:
    assert server.text("FROM numbers(5)", query="SELECT count()") == "5"


def test_get_that_writes_is_refused_as_readonly(server: Server) -> None:
    status, headers, _ = server.ask(method="GET", query="CREATE TABLE no (a Int8) ENGINE = Memory")
    assert (status, headers["x-clickhouse-exception-code"]) == (500, "164")
    assert server.text("", method="GET", query="SELECT 1", max_threads=1) == "1"


@pytest.mark.parametrize(
    ("sql", "status", "code", "name"),
    [
        ("SELECT * FROM nowhere", 404, 60, "UNKNOWN_TABLE"),
        ("SELEC 1", 400, 62, "SYNTAX_ERROR"),
        ("", 400, 62, "SYNTAX_ERROR"),
        ("SELECT 1; SELECT 2", 400, 62, "SYNTAX_ERROR"),
        ("SELECT nope", 404, 47, "UNKNOWN_IDENTIFIER"),
        ("SELECT nope()", 404, 46, "UNKNOWN_FUNCTION"),
        ("SELECT * FROM no.where", 404, 81, "UNKNOWN_DATABASE"),
        ("SELECT 1 FORMAT Nope", 404, 73, "UNKNOWN_FORMAT"),
        ("SELECT 1 SETTINGS nope = 1", 404, 115, "UNKNOWN_SETTING"),
        ("SELECT throwIf(1)", 500, 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
        ("SELECT {x:Int8}", 500, 456, "UNKNOWN_QUERY_PARAMETER"),
        ("SELECT 1 INTO OUTFILE '/tmp/x'", 500, 358, "INTO_OUTFILE_NOT_ALLOWED"),
        ("SYSTEM SHUTDOWN", 403, 497, "ACCESS_DENIED"),
        ("CREATE USER u IDENTIFIED BY 'x'", 403, 497, "ACCESS_DENIED"),
        ("SELECT * FROM system.query_log", 404, 60, "UNKNOWN_TABLE"),
        ("INSERT INTO nowhere FORMAT CSV\n1", 404, 60, "UNKNOWN_TABLE"),
        ("INSERT INTO nowhere FORMAT CSV;\n1", 400, 62, "SYNTAX_ERROR"),
    ],
)
def test_error_has_the_servers_status_code_and_text(
    server: Server, sql: str, status: int, code: int, name: str
) -> None:
    answer, headers, body = server.ask(sql)
    assert (answer, headers["x-clickhouse-exception-code"]) == (status, str(code)), body
    assert body.startswith(f"Code: {code}. DB::Exception: ".encode())
    assert f"({name}) (version ".encode() in body


def test_unknown_database_setting_and_number_in_url_are_refused(server: Server) -> None:
    assert server.ask("SELECT 1", database="nope")[1]["x-clickhouse-exception-code"] == "81"
    assert server.ask("SELECT 1", no_such_setting="1")[1]["x-clickhouse-exception-code"] == "115"
    assert server.ask("SELECT 1", **{"bad name": "1"})[1]["x-clickhouse-exception-code"] == "115"
    assert server.ask("SELECT 1", max_threads="many")[0] >= 400
    assert server.ask("SELECT 1", session_id="x", session_timeout="soon")[1]["x-clickhouse-exception-code"] == "36"
    assert server.ask("SELECT 1", session_id="x", session_timeout="99999")[1]["x-clickhouse-exception-code"] == "374"
    assert server.ask("SELECT 1", role="nobody")[1]["x-clickhouse-exception-code"] == "511"


def test_unsupported_block_framing_is_refused_with_what_to_use_instead(server: Server) -> None:
    for name in ("compress", "decompress"):
        status, headers, body = server.ask("SELECT 1", **{name: "1"})
        assert (status, headers["x-clickhouse-exception-code"]) == (501, "48")
        assert b"enable_http_compression=1" in body


# What lies outside the store


@pytest.mark.parametrize("sql", [
    "SELECT * FROM file('/etc/hostname', LineAsString)",
    "SELECT * FROM url('http://127.0.0.1:1/', CSV, 'a String')",
    "SELECT * FROM remote('127.0.0.1:9', system.one)",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM s3('http://127.0.0.1:1/bucket/key', 'CSV', 'a String')",
    "SELECT * FROM sqlite('/tmp/x', 't')",
    "SELECT * FROM filesystem('/etc')",
    "SELECT * FROM python('x')",
    "SELECT * FROM arrowstream('1')",
    "DESCRIBE TABLE file('/etc/hostname')",
    "INSERT INTO FUNCTION file('/tmp/tickring-out.csv') SELECT 1",
    "CREATE TABLE outside (a String) ENGINE = File(CSV, '/etc/hostname')",
    "CREATE TABLE outside (a String) ENGINE = URL('http://127.0.0.1:1/', CSV)",
    "CREATE DATABASE outside ENGINE = Filesystem('/etc')",
    "CREATE DICTIONARY outside (a String) PRIMARY KEY a SOURCE(HTTP(url 'http://127.0.0.1:1/')) LAYOUT(flat())",
    "BACKUP DATABASE default TO File('/tmp/tickring-backup')",
    "SELECT file('/etc/hostname')",
    "SELECT `fil\\x65` /* */ ('/etc/hostname')",
    "SELECT arrayMap(file, ['/etc/hostname'])",
    "SELECT * APPLY(file) FROM (SELECT '/etc/hostname' AS a)",
    "CREATE VIEW outside AS SELECT file('/etc/hostname')",
    "CREATE USER other",
    "GRANT ALL ON *.* TO default",
])  # fmt: skip
def test_statement_that_leaves_the_store_is_refused(server: Server, sql: str) -> None:
    status, headers, body = server.ask(sql)
    assert (status, headers.get("x-clickhouse-exception-code")) == (403, "497"), body


@pytest.mark.parametrize("sql", [
    "SELECT * FROM `/etc/hostname`",
    "SELECT * FROM executable('cat /etc/hostname', CSV, 'a String')",
    "SELECT 1 INTO OUTFILE '/tmp/tickring-out'",
    "SELECT * FROM eval('SELECT 1') SETTINGS allow_experimental_eval_table_function = 1",
    "SELECT 1 SETTINGS additional_result_filter = '1'",
])  # fmt: skip
def test_other_ways_out_of_the_store_are_errors(server: Server, sql: str) -> None:
    status, _, body = server.ask(sql)
    assert status >= 400, body
    assert not Path("/tmp/tickring-out").exists()


def test_values_and_external_tables_cannot_read_files(server: Server) -> None:
    server.text("CREATE TABLE read_values (a String) ENGINE = Memory")
    assert server.ask("INSERT INTO read_values VALUES (file('/etc/hostname'))")[0] == 403
    assert server.ask("SELECT arrayMap({f:Identifier}, ['/etc/hostname'])", param_f="file")[0] == 403
    server.text("INSERT INTO read_values VALUES ('file(''/etc/hostname'')'), (upper('x'))")
    assert server.text("SELECT a FROM read_values ORDER BY a") == "X\nfile(\\'/etc/hostname\\')"
    server.text("DROP TABLE read_values")


def test_what_stays_inside_the_store_is_allowed(server: Server) -> None:
    assert server.text("SELECT count() FROM numbers(3)") == "3"
    assert server.text("SELECT * FROM format(CSV, '1,2')") == "1\t2"
    assert server.text("SELECT 'file(x)', 'python'") == "file(x)\tpython"
    for engine in ("MergeTree ORDER BY a", "ReplacingMergeTree ORDER BY a", "Memory", "Null", "Log"):
        server.text(f"CREATE TABLE inside (a Int8) ENGINE = {engine}")
        server.text("CREATE MATERIALIZED VIEW inside_view ENGINE = Memory AS SELECT a FROM inside")
        server.text("INSERT INTO inside VALUES (1)")
        assert server.text("SELECT a FROM inside_view") == "1"
        server.text("DROP VIEW inside_view")
        server.text("DROP TABLE inside")
    server.text("CREATE FUNCTION plus_one AS x -> x + 1")
    assert server.text("SELECT plus_one(1)") == "2"
    server.text("DROP FUNCTION plus_one")


def test_unknown_path_says_what_there_is(server: Server) -> None:
    status, _, body = server.ask(method="GET", path="/play")
    assert status == 404
    assert b"/ping" in body


def test_external_table_in_multipart_is_readable_once(server: Server) -> None:
    from clickhouse_connect.driver.external import ExternalData

    with contextlib.closing(server.client()) as client:
        data = ExternalData(
            file_name="people.csv", fmt="CSV", structure="name String, age UInt8", data=b"ann,30\nbob,40\n"
        )
        rows = client.query("SELECT sum(age) FROM people", external_data=data).result_rows
        assert rows == [(70,)]
        with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
            client.query("SELECT * FROM people")


# Authentication


def test_three_ways_of_authentication_work(server: Server) -> None:
    basic = base64.b64encode(f"default:{server.password}".encode()).decode()
    assert server.ask("SELECT 1", auth=False, headers={"Authorization": f"Basic {basic}"})[0] == 200
    assert server.ask("SELECT 1", auth=False, user="default", password=server.password)[0] == 200
    assert server.ask("SELECT 1", auth=False, password=server.password)[0] == 200
    assert server.ask("SELECT 1")[0] == 200


def test_wrong_credentials_are_refused(server: Server) -> None:
    wrong = {
        "password": {"user": "default", "password": "x"},
        "user": {"user": "root", "password": server.password},
    }
    for fields in wrong.values():
        status, headers, body = server.ask("SELECT 1", auth=False, **fields)
        assert (status, headers["x-clickhouse-exception-code"]) == (403, "516"), body
        assert server.password.encode() not in body
    for authorization in ("Basic !!!", "Bearer abc", "Basic " + base64.b64encode(b"default:no").decode()):
        status, headers, _ = server.ask("SELECT 1", auth=False, headers={"Authorization": authorization})
        assert (status, headers["x-clickhouse-exception-code"]) == (403, "516")
    status, headers, _ = server.ask("SELECT 1", auth=False)
    assert (status, headers["x-clickhouse-exception-code"]) == (401, "194")
    assert headers["www-authenticate"].startswith("Basic")
    assert server.ask("SELECT 1", user="default")[1]["x-clickhouse-exception-code"] == "516"  # two ways at once


def test_password_file_is_private_and_lasts(server: Server) -> None:
    path = server.root / "data" / "clickhouse" / "password"
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(server.password) >= 32


# Parameters


@pytest.mark.parametrize(
    ("kind", "raw", "shown"),
    [
        ("String", "it's", "it\\'s"),
        ("String", "a\\tb\\\\", "a\\tb\\\\"),
        ("String", "'; DROP TABLE x; --", "\\'; DROP TABLE x; --"),
        ("String", "zażółć", "zażółć"),
        ("Array(String)", "['a','b\\'c']", "['a','b\\'c']"),
        ("Nullable(Int32)", "\\N", "\\N"),
        ("DateTime64(3, 'UTC')", "2026-01-02 03:04:05.678", "2026-01-02 03:04:05.678"),
        ("Map(String, UInt8)", "{'a':1}", "{'a':1}"),
        ("Decimal(38, 8)", "1.00000001", "1.00000001"),
        ("UUID", "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "61f0c404-5cb3-11e7-907b-a6006ad3dba0"),
    ],
)
def test_parameter_of_each_kind_arrives_whole(server: Server, kind: str, raw: str, shown: str) -> None:
    assert server.text(f"SELECT {{x:{kind}}}", param_x=raw) == shown


def test_parameter_as_identifier_in_strings_and_inserts(server: Server) -> None:
    server.text("CREATE TABLE IF NOT EXISTS ids (a UInt32) ENGINE = Memory")
    server.text("INSERT INTO {t:Identifier} VALUES ({v:UInt32})", param_t="ids", param_v="7")
    assert server.text(
        "SELECT {c:Identifier}, '{c:String}' /* {c:String} */ FROM {t:Identifier}", param_t="ids", param_c="a"
    ) == ("7\t{c:String}")
    assert server.ask("SELECT {v:UInt32}", param_v="x")[0] >= 400


def test_parameters_and_settings_of_parallel_requests_never_mix(server: Server) -> None:
    wrong: list[str] = []

    def worker(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S)
        headers = {"X-ClickHouse-User": "default", "X-ClickHouse-Key": server.password}
        for turn in range(60):
            value, limit = number * 1000 + turn, 1000 + number
            fields = {"param_x": value, "max_result_rows": limit, "wait_end_of_query": turn % 2}
            sql = "SELECT {x:UInt64}, getSetting('max_result_rows'), number FROM numbers(3)"
            connection.request("POST", "/?" + urlencode(fields), sql, headers)
            answer = connection.getresponse().read().decode()
            if answer != "".join(f"{value}\t{limit}\t{n}\n" for n in range(3)):
                wrong.append(answer)
            connection.request("POST", "/", "SELECT getSetting('max_result_rows')", headers)
            if connection.getresponse().read() != b"0\n":
                wrong.append("leaked")
        connection.close()

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert server.ask("SELECT {x:UInt64}")[1]["x-clickhouse-exception-code"] == "456"


# Sessions


def test_session_keeps_its_own_state_and_drops_the_urls(server: Server) -> None:
    ask = lambda sql, **more: server.text(sql, session_id="s1", **more)  # noqa: E731
    ask("CREATE TEMPORARY TABLE mine (a Int8)")
    ask("INSERT INTO mine VALUES (1)")
    ask("SET max_block_size = 777")
    setting = "SELECT getSetting('max_block_size'), getSetting('max_threads'), currentDatabase()"
    own = ask(setting)
    assert own.startswith("777\t")
    assert ask(setting, max_block_size=5, max_threads=1, database="system") == "5\t1\tsystem"
    assert ask(setting) == own
    assert ask("SELECT count() FROM mine") == "1"
    assert server.ask("SELECT count() FROM mine")[0] == 404
    ask("SET max_block_size = 778", max_block_size=5)
    assert ask(setting).startswith("778\t")
    _, headers, _ = server.ask("DROP TABLE mine", method="GET", session_id="s1", query="DROP TABLE mine")
    assert headers["x-clickhouse-exception-code"] == "164"
    assert ask("SELECT count() FROM mine", close_session=1) == "1"
    assert server.ask("SELECT 1", session_id="s1", session_check=1)[1]["x-clickhouse-exception-code"] == "372"


def test_session_in_use_is_locked(server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.ask, ENDLESS, session_id="busy", query_id="in busy", max_block_size=1)
        wait_until(lambda: running(server, ENDLESS) == 1)
        assert server.ask("SELECT 1", session_id="busy")[1]["x-clickhouse-exception-code"] == "373"
        server.text("KILL QUERY WHERE query_id = 'in busy'")
        assert slow.result()[1]["x-clickhouse-exception-code"] == "394"
    assert server.text("SELECT 1", session_id="busy") == "1"


# Inserts


def test_insert_of_any_bytes_is_exact(server: Server, client: Any) -> None:
    client.command("CREATE TABLE raw (id UInt32, data String) ENGINE = MergeTree ORDER BY id")
    rows = [[n, os.urandom(50) + b"\0;'\\\n" + bytes([n % 256])] for n in range(2000)]
    client.insert("raw", rows, column_names=["id", "data"])
    answer = client.query("SELECT id, data FROM raw ORDER BY id", column_formats={"data": "bytes"}).result_rows
    assert [list(row) for row in answer] == rows


def test_insert_summary_counts_rows(server: Server, client: Any) -> None:
    client.command("CREATE TABLE counted (a UInt32) ENGINE = Memory")
    summary = client.insert("counted", [[n] for n in range(100)], column_names=["a"])
    assert summary.written_rows == 100
    assert summary.query_id()


@pytest.mark.parametrize("statement_in", ["url", "body"])
def test_large_native_insert_stays_one_block_and_its_token_counts_once(server: Server, statement_in: str) -> None:
    table = f"block_{statement_in}"
    server.text(
        f"CREATE TABLE {table} (a UInt64, s String) ENGINE = MergeTree ORDER BY a "
        "SETTINGS non_replicated_deduplication_window = 100"
    )
    _, _, block = server.ask(
        "SELECT number AS a, toString(number) AS s FROM numbers(300000) FORMAT Native",
        max_block_size=300000,
        wait_end_of_query=1,
    )
    head = f"INSERT INTO {table} SETTINGS insert_deduplication_token = 'from-settings' FORMAT Native"
    for _ in range(3):
        if statement_in == "url":
            status, headers, body = server.ask(block, query=head, async_insert=0)
        else:
            status, headers, body = server.ask(head.encode() + b"\n" + block)
        assert status == 200, body
    assert json.loads(headers["x-clickhouse-summary"])["written_rows"] == "300000"
    for _ in range(2):
        server.ask(block, query=f"INSERT INTO {table} FORMAT Native", insert_deduplication_token="by-url")
    assert server.text(f"SELECT count(), uniq(_part), sum(a) FROM {table}") == f"600000\t2\t{2 * 299999 * 150000}"


def test_insert_that_breaks_off_changes_nothing(server: Server) -> None:
    server.text("CREATE TABLE whole (a UInt64) ENGINE = MergeTree ORDER BY a")
    block = server.ask("SELECT number AS a FROM numbers(1000) FORMAT Native")[2]
    for bad in (block[:-3], b"garbage" * 50, block[:9]):
        status, _, body = server.ask(bad, query="INSERT INTO whole FORMAT Native")
        assert status >= 400
        assert body.startswith(b"Code: ")
    assert server.text("SELECT count() FROM whole") == "0"
    assert server.ask(block, query="INSERT INTO whole FORMAT Native")[0] == 200


def test_insert_in_text_formats_and_from_select(server: Server) -> None:
    server.text("CREATE TABLE texts (a UInt32, s String DEFAULT 'x') ENGINE = Memory")
    server.text("INSERT INTO texts VALUES (1, 'semi;colon'), (2, 'b');")
    server.text('INSERT INTO texts FORMAT JSONEachRow\n{"a": 3, "s": "c"}\n{"a": 4}')
    server.text("5,e\r\n6,f\r\n", query="INSERT INTO texts FORMAT CSV")
    server.text("INSERT INTO texts (a) SELECT number FROM numbers(7, 2)")
    server.text("(9, 'i')", query="INSERT INTO texts VALUES")
    assert server.text("SELECT groupConcat(',')(concat(a, s)) FROM (SELECT * FROM texts ORDER BY a)") == (
        "1semi;colon,2b,3c,4x,5e,6f,7x,8x,9i"
    )


# Compression


@pytest.mark.parametrize("encoding", ["gzip", "lz4", "zstd"])
def test_compression_both_ways_with_the_client(server: Server, encoding: str) -> None:
    with contextlib.closing(server.client(compress=encoding)) as client:
        table = f"packed_{encoding}"
        client.command(f"CREATE TABLE {table} (a UInt64, s String) ENGINE = Memory")
        client.insert(table, [[n, "text" * n] for n in range(300)], column_names=["a", "s"])
        assert client.query(f"SELECT sum(a), sum(length(s)) FROM {table}").result_rows == [(44850, 4 * 44850)]
        assert len(client.query("SELECT toString(number) FROM numbers(300000)").result_rows) == 300000
        with client.query_row_block_stream("SELECT number FROM numbers(1000000)") as stream:
            assert sum(row[0] for block in stream for row in block) == 499999500000


def test_compressed_answer_only_when_asked(server: Server) -> None:
    accept = {"Accept-Encoding": "gzip, br;q=0"}
    _, headers, body = server.ask("SELECT 1", headers=accept, enable_http_compression=1)
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(body) == b"1\n"
    _, headers, body = server.ask("SELECT 1", headers=accept, enable_http_compression=0)
    assert "content-encoding" not in headers
    assert body == b"1\n"


def test_gzip_body_of_several_members_is_one_statement(server: Server) -> None:
    body = gzip.compress(b"SELECT ") + gzip.compress(b"41 + 1")
    assert server.text(body, headers={"Content-Encoding": "gzip"}) == "42"


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [
        ("gzip", b"not gzip at all", "354"),
        ("gzip", gzip.compress(b"SELECT 1")[:-6], "354"),
        ("deflate", b"\xff" * 20, "354"),
        ("zstd", b"\x00" * 30, "561"),
        ("lz4", b"\x01" * 30, "618"),
        ("snappy", b"x", "48"),
        ("gzip", gzip.compress(b"SELECT 1" + b" " * (65 << 20), 1), "229"),
    ],
    ids=["not gzip", "gzip cut short", "not deflate", "not zstd", "not lz4", "unknown encoding", "gzip of too much"],
)
def test_bad_compression_is_refused_with_the_engines_code(
    server: Server, encoding: str, body: bytes, code: str
) -> None:
    _, headers, answer = server.ask(body, headers={"Content-Encoding": encoding})
    assert headers["x-clickhouse-exception-code"] == code, answer


# Clients


def test_sync_client_reads_types_arrow_and_frames(client: Any) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    sql = (
        "SELECT number AS n, toString(number) AS s, toLowCardinality(toString(number % 3)) AS l, "
        "toDateTime64('2026-01-02 03:04:05.678', 3, 'UTC') AS t, toDecimal128('1.5', 8) AS d, "
        "[number, number + 1] AS a, if(number = 1, NULL, number) AS x FROM numbers(3)"
    )
    result = client.query(sql)
    assert result.column_names == ("n", "s", "l", "t", "d", "a", "x")
    assert result.result_rows[1][:3] == (1, "1", "1")
    assert result.result_rows[2][5] == [2, 3]
    assert [row[6] for row in result.result_rows] == [0, None, 2]
    assert result.summary["read_rows"] == "3"
    assert client.query_arrow(sql).num_rows == 3
    with client.query_arrow_stream("SELECT number FROM numbers(200000)") as stream:
        assert sum(table.num_rows for table in stream) == 200000
    frame = client.query_df(sql)
    assert list(frame["n"]) == [0, 1, 2]
    client.command("CREATE TABLE frames (n UInt64, s String) ENGINE = Memory")
    client.insert_df("frames", frame[["n", "s"]])
    client.insert_arrow("frames", client.query_arrow("SELECT toUInt64(9) AS n, 'z' AS s"))
    assert client.query_np("SELECT n FROM frames ORDER BY n").ravel().tolist() == [0, 1, 2, 9]
    assert client.query("SELECT n FROM frames WHERE n > 100").result_rows == []
    assert client.query("SELECT n, s FROM frames LIMIT 0").column_names == ("n", "s")


def test_sync_client_inserts_numpy_columns(client: Any) -> None:
    client.command("CREATE TABLE arrays (t Int64, p Float64) ENGINE = Memory")
    columns = [numpy.arange(50000, dtype=numpy.int64), numpy.linspace(0, 1, 50000)]
    client.insert("arrays", columns, column_names=["t", "p"], column_oriented=True)
    assert client.query("SELECT count(), sum(t), max(p) FROM arrays").result_rows == [(50000, 1249975000, 1.0)]


def test_sync_client_binds_settings_and_parameters(client: Any) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    rows = client.query(
        "SELECT {a:String}, {b:Array(UInt8)}, {c:DateTime('UTC')}, getSetting('max_block_size')",
        parameters={"a": "tab\t'quote'\nline\\", "b": [1, 2], "c": when},
        settings={"max_block_size": 1234},
    ).result_rows
    assert rows == [("tab\t'quote'\nline\\", [1, 2], when.replace(tzinfo=None), 1234)]
    assert client.command("SELECT getSetting('max_block_size')") != 1234
    assert client.command("SELECT %(x)s", parameters={"x": 5}) == 5


def test_sync_client_errors_carry_code_and_name(client: Any) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.query("SELECT * FROM nowhere")
    assert caught.value.code == 60
    assert caught.value.name == "UNKNOWN_TABLE"
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        client.insert("nowhere", [[1]], column_names=["a"], column_type_names=["UInt8"])
    assert client.ping()
    assert client.command("EXISTS TABLE nowhere") == 0


def test_error_while_streaming_reaches_the_client(client: Any) -> None:
    sql = "SELECT number, throwIf(number = 2000000, 'late failure') FROM numbers(3000000)"
    seen = 0
    with (
        pytest.raises(StreamFailureError, match="late failure"),
        client.query_row_block_stream(sql, settings={"max_threads": 1}) as stream,
    ):
        for block in stream:
            seen += len(block)
    assert seen > 0


def test_error_while_streaming_breaks_the_body_for_plain_clients(server: Server) -> None:
    sql = "SELECT number, throwIf(number = 2000000) FROM numbers(3000000)"
    with pytest.raises(http.client.IncompleteRead) as caught:
        server.ask(sql, max_threads=1)
    assert b"__exception__" in caught.value.partial[-2000:]
    assert server.ask(sql, wait_end_of_query=1)[1]["x-clickhouse-exception-code"] == "395"


def test_async_client_does_many_things_at_once(server: Server) -> None:
    async def go() -> None:
        client = await clickhouse_connect.get_async_client(
            host="127.0.0.1", port=server.port, username="default", password=server.password
        )
        try:
            assert await client.ping()
            await client.command("CREATE TABLE many (a UInt32, b UInt32) ENGINE = Memory")
            await asyncio.gather(
                *(client.insert("many", [[n, k] for k in range(10)], column_names=["a", "b"]) for n in range(30))
            )
            answers = await asyncio.gather(
                *(
                    client.query("SELECT {n:UInt32}, count() FROM many WHERE a = {n:UInt32}", parameters={"n": n})
                    for n in range(30)
                )
            )
            assert [answer.result_rows for answer in answers] == [[(n, 10)] for n in range(30)]
            with pytest.raises(DatabaseError, match="SYNTAX_ERROR"):
                await client.query("SELEC 1")
            pytest.importorskip("pandas")
            frame = await client.query_df("SELECT a, count() AS c FROM many GROUP BY a ORDER BY a")
            assert list(frame["c"]) == [10] * 30
        finally:
            await client.close()

    asyncio.run(go())


def test_native_of_a_newer_revision_is_what_go_clients_read(server: Server) -> None:
    """Grafana's data source (clickhouse-go) asks for revision 54460: block info, and a byte after each type."""
    sql = "SELECT 'ab' AS s, toUInt8(7) AS n, [toUInt16(1), 2] AS a FORMAT Native"
    _, headers, body = server.ask(sql, client_protocol_version=54460, default_format="Native")
    assert headers["x-clickhouse-format"] == "Native"
    assert body == (
        b"\x01\x00\x02\xff\xff\xff\xff\x00"  # block info
        b"\x03\x01"  # columns, rows
        b"\x01s\x06String\x00\x02ab"
        b"\x01n\x05UInt8\x00\x07"
        b"\x01a\rArray(UInt16)\x00\x02\0\0\0\0\0\0\0\x01\x00\x02\x00"
    )


def test_totals_are_not_lost(server: Server) -> None:
    sql = "SELECT number % 2 AS a, count() FROM numbers(4) GROUP BY a WITH TOTALS ORDER BY a"
    assert server.ask(sql)[2] == b"0\t2\n1\t2\n\n0\t4\n"


# Lanes


def test_long_queries_stop_neither_inserts_nor_ping_nor_heartbeat(server: Server) -> None:
    server.text("CREATE TABLE beside (a UInt64) ENGINE = MergeTree ORDER BY a")
    heavy = "SELECT count() FROM numbers(100000000000) WHERE cityHash64(number) = 1"
    page = server.root / "shm" / next(p.name for p in (server.root / "shm").iterdir())
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(server.ask, ENDLESS, max_block_size=1, query_id=f"slow-{n}") for n in range(2)]
        jobs += [pool.submit(server.ask, heavy, query_id="heavy")]
        wait_until(lambda: running(server, "sleepEachRow") == 2 and running(server, "cityHash64") == 1)
        beats = set()
        for number in range(40):
            assert server.ask(method="GET", path="/ping", auth=False)[2] == b"Ok.\n"
            server.text(f"INSERT INTO beside VALUES ({number})")
            beats.add(read_page(page).beat_ns)
            time.sleep(0.02)
        assert server.text("SELECT count() FROM beside") == "40"
        wait_until(lambda: beats.add(read_page(page).beat_ns) or len(beats) >= 3)
        assert all(not job.done() for job in jobs)
        for name in ("slow-0", "slow-1", "heavy"):
            server.text(f"KILL QUERY WHERE query_id = '{name}'")
        for job in jobs:
            _, headers, body = job.result(60)
            assert headers["x-clickhouse-exception-code"] == "394", body


def test_max_execution_time_ends_a_query(server: Server) -> None:
    status, headers, _ = server.ask("SELECT count() FROM numbers(100000000000)", max_execution_time=0.3)
    assert (status, headers["x-clickhouse-exception-code"]) == (408, "159")


def test_query_memory_limit_is_an_error(server: Server) -> None:
    _, headers, _ = server.ask("SELECT groupArray(number) FROM numbers(100000000)", max_memory_usage=50000000)
    assert headers["x-clickhouse-exception-code"] == "241"
    assert server.text("SELECT 1") == "1"


@pytest.mark.parametrize("form", ["whole", "streamed"])
def test_client_that_goes_away_ends_its_query(server: Server, form: str) -> None:
    sql = "SELECT count() FROM numbers(100000000000)" if form == "whole" else "SELECT number FROM numbers(100000000000)"
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S)
    connection.request("POST", "/", sql, {"X-ClickHouse-User": "default", "X-ClickHouse-Key": server.password})
    wait_until(lambda: running(server, "numbers(100000000000)") == 1)
    if form == "streamed":
        assert connection.getresponse().read(1 << 20)
    connection.close()
    wait_until(lambda: running(server, "numbers(100000000000)") == 0)
    assert server.text("SELECT 1") == "1"


def test_client_that_goes_away_does_not_end_its_insert(server: Server) -> None:
    server.text("CREATE TABLE orphan (a UInt8) ENGINE = Memory")
    credentials = {"X-ClickHouse-User": "default", "X-ClickHouse-Key": server.password}
    for rows in (3, 30, 120):  # a longer one where the last was over before its client was gone
        server.text("TRUNCATE TABLE orphan")
        sql = f"INSERT INTO orphan SELECT sleepEachRow(0.25) + 1 FROM numbers({rows})"
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S)
        connection.request("POST", "/?max_block_size=1", sql, credentials)
        wait_until(lambda sql=sql: running(server, sql) == 1 or server.text("SELECT count() FROM orphan") != "0")
        connection.close()
        if running(server, sql) == 1:
            break
    else:
        pytest.fail("no insert outlived its client's connection")
    wait_until(lambda: server.text("SELECT count() FROM orphan") == str(rows), 240)


def test_stop_kills_what_does_not_end_by_itself(tmp_path: Path) -> None:
    server = Server(tmp_path, drain_s=0.2).start()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sql = "SELECT count() FROM numbers(100000000000) WHERE cityHash64(number) = 1"
        job = pool.submit(server.ask, sql)
        wait_until(lambda: running(server, "cityHash64") == 1)
        assert server.stop() == 0
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert job.result()[1]["x-clickhouse-exception-code"] == "394"


def test_same_query_id_twice_at_once_is_refused(server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.ask, ENDLESS, query_id="twin", max_block_size=1)
        wait_until(lambda: running(server, ENDLESS) == 1)
        assert server.ask("SELECT 1", query_id="twin")[1]["x-clickhouse-exception-code"] == "216"
        server.text("KILL QUERY WHERE query_id = 'twin'")
        assert first.result()[1]["x-clickhouse-exception-code"] == "394"
    assert server.text("SELECT 1", query_id="twin") == "1"


def test_full_lane_answers_too_many_queries(tmp_path: Path) -> None:
    server = Server(tmp_path, query_threads=1, queue_max=1).start()
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.ask("SELECT sleep(1)"), range(8)))
        codes = [headers.get("x-clickhouse-exception-code", "0") for _, headers, _ in answers]
        assert set(codes) == {"0", "202"}
        assert codes.count("0") >= 2
        samples = read_page(next((tmp_path / "shm").iterdir())).samples
        rejected = {s.labels["reason"]: s.values for s in samples if s.name.endswith("rejected_total")}
        assert rejected
    finally:
        assert server.stop() == 0


# Bad input


def raw(server: Server, data: bytes) -> bytes:
    import socket

    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        received = b""
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(65536):
                received += chunk
                if b"\r\n\r\n" in received:
                    break
        return received


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02 nonsense\r\n\r\n",
        b"GET /?query=" + b"x" * (2 << 20) + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
    ],
    ids=["garbage", "long line", "bad chunk", "bad length"],
)
def test_bytes_that_are_no_request_are_refused_and_the_server_lives(server: Server, data: bytes) -> None:
    answer = raw(server, data)
    assert answer[:7] == b"HTTP/1."
    assert answer[9:10] == b"4"
    assert b"X-ClickHouse-Exception-Code: " in answer
    assert server.text("SELECT 1") == "1"


def test_post_without_length_is_411(server: Server) -> None:
    key = f"X-ClickHouse-User: default\r\nX-ClickHouse-Key: {server.password}\r\n".encode()
    assert raw(server, b"POST / HTTP/1.1\r\nHost: a\r\n" + key + b"\r\n")[9:12] == b"411"


def test_body_over_the_limit_is_413(server: Server) -> None:
    key = f"X-ClickHouse-User: default\r\nX-ClickHouse-Key: {server.password}\r\n".encode()
    answer = raw(server, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n" + key + b"\r\n")
    assert answer[9:12] == b"413"
    assert b"X-ClickHouse-Exception-Code: 229" in answer


def test_expect_continue_is_answered(server: Server) -> None:
    key = f"X-ClickHouse-User: default\r\nX-ClickHouse-Key: {server.password}\r\n".encode()
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 8\r\n" + key + b"\r\n"
    assert raw(server, head).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")


# Deaths


def test_killed_server_reopens_and_replays_double_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    server.text(
        "CREATE TABLE kept (batch UInt32, a UInt64) ENGINE = MergeTree ORDER BY (batch, a) "
        "SETTINGS non_replicated_deduplication_window = 10000"
    )
    sent = acknowledged = 0
    rows = 5000

    def send(batch: int, again: str = "") -> None:
        block = numpy.empty(rows, dtype=[("batch", "<u4"), ("a", "<u8")])
        block["batch"], block["a"] = batch, numpy.arange(rows)
        token = f"kept-{batch}{again}"
        server.text(block.tobytes(), query="INSERT INTO kept FORMAT RowBinary", insert_deduplication_token=token)

    password = server.password
    for round_number in range(5):
        killer = threading.Timer(0.05 + 0.07 * round_number, server.process.kill)
        killer.start()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                send(sent)
                acknowledged = sent = sent + 1
        killer.join()
        assert server.process.wait(60) == -signal.SIGKILL
        server.process.stdout.close()
        server.process.stderr.close()
        server.start()
        assert server.password == password
        assert int(server.text("SELECT uniqExact(batch) FROM kept")) >= acknowledged
        for batch in range(max(0, sent - 20), sent + 1):  # the last one may or may not have arrived
            send(batch)
        if server.text(f"SELECT count() FROM kept WHERE batch = {sent}") == "0":
            send(sent, "~1")  # killed between the token and the rows, the engine has the token: see `insert_batch`
        sent = acknowledged = sent + 1
    assert server.text("SELECT uniqExact(batch), count(), uniqExact(batch, a) FROM kept") == (
        f"{sent}\t{sent * rows}\t{sent * rows}"
    )
    assert server.stop() == 0


def test_second_server_on_a_store_or_port_says_what_to_do(server: Server, tmp_path: Path) -> None:
    def start(root: Path, **settings: Any) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(root), json.dumps(settings)], capture_output=True, text=True, timeout=240
        )
        return done.returncode, done.stderr.strip()

    other = tmp_path / "other"
    other.mkdir()
    (other / "data").symlink_to(server.root / "data")
    code, line = start(other, port=0)
    assert code == 75, line
    assert f"process {server.process.pid} " in line
    assert "another data folder" in line
    assert "\n" not in line
    code, line = start(tmp_path / "third", port=server.port)
    assert code == 71, line
    assert f"127.0.0.1:{server.port} is in use" in line
    assert "\n" not in line
    assert server.text("SELECT 1") == "1"


def test_deflate_of_zlib_is_read(server: Server) -> None:
    assert server.text(zlib.compress(b"SELECT 1"), headers={"Content-Encoding": "deflate"}) == "1"
