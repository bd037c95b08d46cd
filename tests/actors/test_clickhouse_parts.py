"""The pieces of the ClickHouse HTTP interface that need no server."""

from __future__ import annotations

import gzip
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tickring.actors.clickhouse.coding import Compressor, choose_encoding, decompress
from tickring.actors.clickhouse.errors import http_status
from tickring.actors.clickhouse.native import BLOCK_INFO, reframe
from tickring.actors.clickhouse.request import Gate, Options
from tickring.actors.clickhouse.statement import reaching_function, replace_strings, scan
from tickring.storage.engine import EngineError, quote


@pytest.mark.parametrize(
    ("text", "kind", "name", "head", "data"),
    [
        (b"select 1", b"SELECT", "", b"", None),
        (b" -- c\n/* x */ SELECT 'FORMAT a' FORMAT JSON;", b"SELECT", "JSON", b"", None),
        (b"SELECT (SELECT 1 FORMAT CSV) format TSV settings max_threads=1", b"SELECT", "TSV", b"", None),
        (b"INSERT INTO t FORMAT Native\n\x00\x01", b"INSERT", "Native", b"INSERT INTO t ", b"\x00\x01"),
        (b"INSERT INTO t FORMAT CSV   1,2", b"INSERT", "CSV", b"INSERT INTO t ", b"1,2"),
        (b"INSERT INTO t FORMAT CSV \r\n\n1", b"INSERT", "CSV", b"INSERT INTO t ", b"\n1"),
        (b'insert into `a b`."format" (a, format) format CSV\n1', b"INSERT", "CSV", None, b"1"),
        (b"insert into db.format settings x='FORMAT y' format CSV\n1", b"INSERT", "CSV", None, b"1"),
        (b"insert into values values (1)", b"INSERT", "Values", b"insert into values ", b" (1)"),
        (b"INSERT INTO FUNCTION null('a Int8') VALUES (1)", b"INSERT", "Values", None, b" (1)"),
        (b"INSERT INTO TABLE t (* EXCEPT(b)) VALUES (1)", b"INSERT", "Values", None, b" (1)"),
        (b"INSERT INTO t SELECT 1", b"INSERT SELECT", "", b"", None),
        (b"INSERT INTO t (a) WITH 1 AS x SELECT x", b"INSERT SELECT", "", b"", None),
        (b"INSERT INTO t", b"INSERT", "", b"", None),
        (b"(SELECT 1)", b"(", "", b"", None),
        (b"SELECT $tag$ FORMAT JSON $tag$", b"SELECT", "", b"", None),
        (b"-- nothing", b"", "", b"", None),
        (b"", b"", "", b"", None),
    ],
)
def test_scan_finds_kind_format_and_data(
    text: bytes, kind: bytes, name: str, head: bytes | None, data: bytes | None
) -> None:
    found = scan(text)
    assert (found.kind, found.format) == (kind, name)
    assert (text[found.data_at :] if found.has_data else None) == data
    if head is not None:
        assert found.head == head


@pytest.mark.parametrize(
    "text", [b"SYSTEM SHUTDOWN", b"system /* */ kill", b"SELECT 1 INTO\nOUTFILE 'x'", b"INSERT INTO t FROM INFILE 'x'"]
)
def test_scan_marks_what_no_client_may_send(text: bytes) -> None:
    assert scan(text).forbidden


def test_scan_leaves_forbidden_words_in_strings_alone() -> None:
    assert scan(b"SELECT 'SYSTEM SHUTDOWN', `SYSTEM SHUTDOWN` -- SYSTEM SHUTDOWN").forbidden == b""


@given(st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_scan_of_any_bytes_ends_without_surprise(data: bytes) -> None:
    for text in (data, b"INSERT INTO t " + data, b"SELECT " + data):
        try:
            scan(text)
        except EngineError as error:
            assert error.code == 62


@given(st.binary(max_size=200), st.sampled_from([b"Native", b"RowBinary", b"CSV"]))
@settings(deadline=None)
def test_scan_never_changes_insert_data(data: bytes, name: bytes) -> None:
    text = b"INSERT INTO t (a, `b c`) SETTINGS x = 'y' FORMAT " + name + b"\n" + data
    found = scan(text)
    assert text[found.data_at :] == data


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"SELECT file('x')", "file"), (b"SELECT `fil\\x65` /* */ ('x')", "file"), (b'SELECT "file"(1)', "file"),
        (b"SELECT arrayMap(file, [1])", "file"), (b"SELECT * APPLY file", "file"),
        (b"SELECT * FROM Python('x')", "Python"), (b"SELECT * FROM arrowstream -- x\n ('1')", "arrowstream"),
        (b"SELECT t.file, files, 'file(1)' FROM t -- file(1)", ""), (b"SELECT 1 FORMAT ArrowStream", ""),
        (b"SELECT python FROM t WHERE a IN ('b')", ""), (b"", ""), (b"\\", ""),
    ],
)  # fmt: skip
def test_function_that_reaches_outside_is_found_where_it_is_named(text: bytes, name: str) -> None:
    assert reaching_function(text) == name


@given(st.binary(max_size=100))
def test_function_that_reaches_outside_is_looked_for_in_any_bytes(data: bytes) -> None:
    assert reaching_function(data + b" file(") in ("file", "")


def test_replace_strings_touches_whole_literals_only() -> None:
    sql = b"KILL QUERY WHERE query_id = 'abc' AND x = 'abcd' -- 'abc'"
    assert replace_strings(sql, {"abc": "new"}.get) == b"KILL QUERY WHERE query_id = 'new' AND x = 'abcd' -- 'abc'"


@given(st.binary(max_size=100))
def test_quote_makes_one_literal_of_any_bytes(raw: bytes) -> None:
    literal = quote(raw)
    assert scan(b"SELECT " + literal + b" FORMAT CSV").format == "CSV"
    assert literal.count(b"\0") == 0


@given(
    st.lists(st.binary(max_size=3000), max_size=6),
    st.sampled_from(["gzip", "deflate", "lz4", "zstd"]),
    st.integers(1, 500),
)
@settings(deadline=None)
def test_compression_round_trip_in_any_pieces(pieces: list[bytes], encoding: str, cut: int) -> None:
    compressor = Compressor(encoding, 3)
    packed = b"".join(compressor.compress(piece) for piece in pieces) + compressor.finish()
    chunks = [packed[at : at + cut] for at in range(0, len(packed), cut)]
    whole = b"".join(pieces)
    assert b"".join(decompress(chunks, encoding, 1 << 20)) == whole
    assert b"".join(decompress([*chunks, *chunks], encoding, 1 << 20)) == whole + whole


@given(st.binary(max_size=500), st.sampled_from(["gzip", "deflate", "lz4", "zstd", "xz", "bz2"]))
@settings(deadline=None)
def test_decompression_of_any_bytes_gives_data_or_an_engine_error(data: bytes, encoding: str) -> None:
    try:
        list(decompress([data], encoding, 1 << 20))
    except EngineError as error:
        assert error.code in (354, 618, 561, 543, 612, 229)


def test_decompression_stops_at_the_limit() -> None:
    seen = 0
    with pytest.raises(EngineError) as caught:
        for piece in decompress([gzip.compress(bytes(100 << 20))], "gzip", 5 << 20):
            seen += len(piece)
    assert caught.value.code == 229
    assert seen <= 5 << 20


def test_encoding_is_chosen_among_what_is_accepted() -> None:
    assert choose_encoding("lz4,zstd,gzip") == "lz4"
    assert choose_encoding("gzip;q=0.5, deflate") == "gzip"
    assert choose_encoding("gzip;q=0") == ""
    assert choose_encoding("identity, snappy") == ""
    assert choose_encoding("") == ""


def test_options_sort_url_fields() -> None:
    url = "query=SELECT+1&param_a=x%09&max_threads=2&database=d&wait_end_of_query=1&user=u&compress=0&a_format=CSV"
    options = Options.parse(url, "POST", {}, {"enable_http_compression": "1"})
    assert options.query == b"SELECT 1"
    assert options.params == {"a": "x\t"}
    assert options.settings == {"max_threads": "2", "a_format": "CSV"}
    assert (options.database, options.wait_end, options.http_compression, options.readonly) == ("d", True, True, 0)
    assert Options.parse("", "GET", {}, {}).readonly == 2
    multipart = Options.parse("a_format=CSV&a_structure=x", "POST", {"Content-Type": "multipart/form-data; b=1"}, {})
    assert multipart.settings == {}


@given(st.text(string.printable, max_size=80))
def test_options_of_any_url_are_sorted_or_refused(url: str) -> None:
    try:
        Options.parse(url, "POST", {}, {})
    except EngineError as error:
        assert error.code in (36, 48, 374)


@given(st.text(max_size=40), st.text(max_size=40))
def test_gate_opens_for_the_password_alone(user: str, password: str) -> None:
    gate = Gate("the-password")
    with pytest.raises(EngineError) as caught:
        gate.check("", {"X-ClickHouse-User": user, "X-ClickHouse-Key": password})
    assert caught.value.code in (194, 516)
    gate.check("", {"X-ClickHouse-User": "default", "X-ClickHouse-Key": "the-password"})


def test_engine_error_of_a_nested_text_is_plain() -> None:
    text = (
        "Code: 73. DB::Exception: Code: 73. DB::Exception: Unknown format Nope. (UNKNOWN_FORMAT) (version 26.9.2.1). "
        "(UNKNOWN_FORMAT) (version 26.9.2.1 (official build)). (UNKNOWN_FORMAT)"
    )
    error = EngineError.parse(text)
    assert (error.code, error.name, error.reason) == (73, "UNKNOWN_FORMAT", "Unknown format Nope.")
    assert EngineError.parse("something else").code == 1002
    assert http_status(error.code) == 404


def test_reframe_puts_block_info_and_a_byte_per_column() -> None:
    block = b"\x02\x01\x01a\x05UInt8\x07\x01b\x06String\x02xy"
    framed = BLOCK_INFO + b"\x02\x01\x01a\x05UInt8\x00\x07\x01b\x06String\x00\x02xy"
    assert reframe(block * 2, 54460) == framed * 2
    assert reframe(b"", 54460) == b""


def test_reframe_refuses_what_it_cannot_measure() -> None:
    for block, revision in ((b"\x01\x01\x01a\x04JSON\x00", 54460), (b"\x01\x01\x01a\x05UInt8\x00", 60000)):
        with pytest.raises(EngineError) as caught:
            reframe(block, revision)
        assert caught.value.code == 48
