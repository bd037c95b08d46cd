"""The embedded store: lock, password, death. Each engine has a process of its own, as chdb opens one store only."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tickring.storage.engine import (
    EngineLimits,
    PasswordMissing,
    StoreLocked,
    StoreUnusable,
    create_password,
    lock_store,
    read_password,
)

pytest.importorskip("chdb", reason="the embedded engine is not installed: pip install 'tickring[embedded]'")

CHILD = """
import sys
from pathlib import Path
from tickring.actors.clickhouse.native import BLOCK_INFO, reframe
from tickring.ringbuf import TickringError
from tickring.storage.engine import Engine, EngineError
try:
    engine = Engine.open(Path(sys.argv[1]))
except TickringError as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(error.exit_code)
connection = engine.connect()
"""


def run(folder: Path, body: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD + body, str(folder)], capture_output=True, text=True, timeout=timeout
    )


def test_password_is_made_once_and_private(tmp_path: Path) -> None:
    with pytest.raises(PasswordMissing):
        read_password(tmp_path)
    password = create_password(tmp_path)
    assert len(password) >= 40
    assert create_password(tmp_path) == read_password(tmp_path) == password
    path = tmp_path / "password"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    assert create_password(tmp_path) == password
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("")  # a full disk, long ago
    assert len(create_password(tmp_path)) >= 40


def test_lock_held_by_another_process_names_it(tmp_path: Path) -> None:
    script = "import sys, time\nfrom pathlib import Path\nfrom tickring.storage.engine import lock_store\n"
    script += "lock_store(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StoreLocked, match=f"process {holder.pid} ") as caught:
            lock_store(tmp_path)
        assert caught.value.holder == holder.pid
        assert caught.value.retriable
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    os.close(lock_store(tmp_path))  # free again, whatever the dead holder left in the file


def test_lock_of_the_engine_itself_is_seen(tmp_path: Path) -> None:
    status = tmp_path / "store" / "status"
    status.parent.mkdir()
    status.write_text(f"PID: {os.getpid()}\nStarted at: today\n")
    with status.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreLocked, match=f"process {os.getpid()} "):
            lock_store(tmp_path)
    os.close(lock_store(tmp_path))


def test_store_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(StoreUnusable, match=str(path)):
        lock_store(path)


def test_store_the_engine_cannot_open_is_one_line_with_a_code(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a folder")
    done = run(tmp_path, "")
    assert done.returncode == 74, done.stderr
    assert done.stdout.startswith("StoreUnusable: ")
    assert done.stdout.count("\n") == 1
    assert "choose another data folder" in done.stdout


def test_limits_reach_the_engine(tmp_path: Path) -> None:
    body = """
sql = b"SELECT name, value FROM system.server_settings WHERE changed"
print(sorted(connection.query(sql).body().decode().split()))
"""
    done = run(tmp_path, body)
    limits = EngineLimits()
    for name, value in (
        ("mark_cache_size", limits.cache_mb << 20),
        ("background_pool_size", limits.background_threads),
        ("max_server_memory_usage", limits.memory_max_mb << 20),
    ):
        assert name in done.stdout, done.stderr
        assert f"'{value}'" in done.stdout


def test_connections_are_isolated(tmp_path: Path) -> None:
    body = """
other = engine.connect()
connection.apply({"max_threads": "7"})
connection.query(b"CREATE TEMPORARY TABLE t (a Int8)")
print(other.query(b"SELECT getSetting('max_threads') = 7").body())
for sql, params in ((b"SELECT * FROM t", {}), (b"SELECT {x:Int8}", {})):
    connection.query(b"SELECT {x:Int8}", params={"x": "1"})
    try:
        print(other.query(sql, params=params).body())
    except EngineError as error:
        print(error.code)
connection.apply({"max_threads": None})
print(connection.query(b"SELECT getSetting('max_threads') = 7").body())
try:
    connection.apply({"max_threads = 1, x": "1"})
except EngineError as error:
    print(error.code)
"""
    done = run(tmp_path, body)
    assert done.stdout.split() == ["b'0\\n'", "60", "456", "b'0\\n'", "115"], done.stderr


def test_native_of_every_measured_type_reframes_to_its_end(tmp_path: Path) -> None:
    body = """
columns = [
    "toInt8(number)", "toUInt256(number)", "toFloat64(number)", "toBFloat16(number)", "number % 2 = 0",
    "toDate(number)",
    "toDate32(number)", "toDateTime(number, 'UTC')", "toDateTime64(number, 9, 'Europe/Warsaw')", "generateUUIDv4()",
    "toIPv4('1.2.3.4')", "toIPv6('::1')", "toDecimal32(number, 2)", "toDecimal64(number, 2)", "toDecimal128(number, 8)",
    "toDecimal256(number, 2)", "toFixedString('abc', 5)", "repeat('x', number)",
    "CAST('a', 'Enum8(\\\\'a\\\\' = 1, \\\\'b,(\\\\' = 2)')",
    "NULL", "if(number % 3 = 0, NULL, toString(number))", "range(number)", "[[toString(number)], []]",
    "arrayMap(x -> if(x = 1, NULL, x), range(number))", "(number, toString(number))",
    "CAST((number, 'x'), 'Tuple(a UInt8, `b c` String)')", "map(toString(number), [number])",
    "toLowCardinality(toString(number % 5))", "CAST(if(number = 1, NULL, 'x'), 'LowCardinality(Nullable(String))')",
    "[toLowCardinality(toString(number))]", "map(toLowCardinality('k'), number)", "(1., 2.)::Point",
    "[(1., 2.)]::Ring", "[[(1., 2.)]]::Polygon", "toIntervalDay(number)", "[]::Array(UInt8)",
    "CAST([(1, 'a')], 'Nested(a UInt8, b String)')", "toTime64(number, 3)",
]
sql = "SELECT " + ", ".join(f"{column} AS c{n}" for n, column in enumerate(columns))
sql += " FROM numbers(500) SETTINGS max_block_size = 100, enable_time_time64_type = 1, "
sql += "allow_suspicious_low_cardinality_types = 1"
for count in (500, 1):
    text = sql.replace("numbers(500)", f"numbers({count})").encode()
    data = connection.query(text, "Native").body()
    framed = reframe(data, 54460)
    blocks = framed.count(BLOCK_INFO)
    print(blocks, len(framed) - len(data) == blocks * (8 + len(columns)))
print(reframe(connection.query(b"SELECT 1 WHERE 0", "Native").body(), 54460))
"""
    done = run(tmp_path, body)
    assert done.stdout.split("\n")[:3] == ["5 True", "1 True", "b''"], done.stdout + done.stderr


def test_store_reopens_after_sigkill_and_a_replayed_token_adds_nothing(tmp_path: Path) -> None:
    body = """
import os
connection.query(b"CREATE TABLE IF NOT EXISTS t (a UInt64) ENGINE = MergeTree ORDER BY a "
                 b"SETTINGS non_replicated_deduplication_window = 1000")
for batch in range(5):
    connection.apply({"insert_deduplication_token": f"b{batch}"})
    data = b"".join(n.to_bytes(8, "little") for n in range(batch * 1000, batch * 1000 + 1000))
    connection.insert(b"INSERT INTO t", "RowBinary", [data[:777], data[777:]])
print(connection.query(b"SELECT count(), uniqExact(a) FROM t").body(), flush=True)
os.kill(os.getpid(), 9)
"""
    for _ in range(3):
        done = run(tmp_path, body)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert done.stdout == "b'5000\\t5000\\n'\n"


def test_clean_close_gives_the_lock_back(tmp_path: Path) -> None:
    done = run(
        tmp_path, "connection.close(); engine.close(); engine = Engine.open(Path(sys.argv[1])); print(engine.version)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2")


def test_insert_refused_after_its_data_was_taken_raises(tmp_path: Path) -> None:
    body = """
from tickring.storage.engine import EngineError
connection.query(b"CREATE TABLE t (a UInt64, CONSTRAINT small CHECK a < 5) ENGINE = MergeTree ORDER BY a")
connection.query(b"CREATE TABLE p (a UInt64) ENGINE = MergeTree PARTITION BY a ORDER BY a")
data = b"".join(n.to_bytes(8, "little") for n in range(500))
for table in (b"t", b"p"):
    try:
        print(connection.insert(b"INSERT INTO " + table, "RowBinary", [data]))
    except EngineError as error:
        print(error.code, connection.query(b"SELECT count() FROM " + table).body())
print(connection.insert(b"INSERT INTO p (a)", "RowBinary", [data], b"SETTINGS max_partitions_per_insert_block = 0")
      .written_rows)
"""
    done = run(tmp_path, body)
    assert done.stdout.split("\n") == ["469 b'0\\n'", "252 b'0\\n'", "500", ""], done.stdout + done.stderr
