"""Recorded sessions: our own format and the public ones."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tickring.codecs.captures import (
    CaptureWriter,
    Entry,
    EntryKind,
    Source,
    read_capture,
    read_header,
    read_session,
    source_of,
)
from tickring.codecs.errors import CaptureError

T = 1_790_000_000_000_000_000
URL = "wss://example.test/stream?streams=a@trade"
ENTRIES = [
    Entry(T, EntryKind.CONNECT, b"", URL, "public-0"),
    Entry(T + 1, EntryKind.SENT, b'{"method":"SUBSCRIBE"}', "", "public-0"),
    Entry(T + 2, EntryKind.WS, b'{"stream":"a@trade","data":{"x":"a b  c"}}', "", "public-0"),
    Entry(T + 3, EntryKind.REST, b'{"lastUpdateId":1}', "https://example.test/depth?symbol=A", "rest"),
    Entry(T + 4, EntryKind.REST, b"slow down", "https://example.test/depth?symbol=B", "rest", 429),
    Entry(T + 5, EntryKind.WS, b"\x00\xff\n", "", "public-0"),
    Entry(T + 6, EntryKind.CLOSE, b"1001 going away", "", "public-0"),
]


@pytest.mark.parametrize("name", ["session.txt", "session.gz"])
def test_written_session_reads_back_also_when_appended_to(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for _ in range(2):
        with CaptureWriter(path, "binance", "spot", T) as writer:
            for entry in ENTRIES:
                writer.write(entry)
            assert writer.entries == len(ENTRIES)
    assert list(read_capture(path)) == ENTRIES * 2
    assert read_header(path) == {"tickring_capture": 1, "exchange": "binance", "product": "spot", "started_ns": T}
    assert source_of(path) == Source("binance", "spot")


@given(st.binary(max_size=60), st.sampled_from(EntryKind))
def test_any_payload_survives(tmp_path_factory: pytest.TempPathFactory, payload: bytes, kind: EntryKind) -> None:
    path = tmp_path_factory.mktemp("capture") / "one"
    with CaptureWriter(path, "binance", "spot", T) as writer:
        writer.write(Entry(T, kind, payload))
    assert list(read_capture(path)) == [Entry(T, kind, payload)]


@pytest.mark.parametrize("name", ["session.txt", "session.gz"])
def test_session_cut_off_at_any_byte_gives_a_prefix(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with CaptureWriter(path, "binance", "spot", T) as writer:
        for entry in ENTRIES:
            writer.write(entry)
            writer.flush()
    whole = path.read_bytes()
    lengths = set()
    header = whole.find(b"\n") if name.endswith("txt") else 0
    for size in range(header, len(whole)):
        path.write_bytes(whole[:size])
        try:
            read = list(read_capture(path))
        except CaptureError:  # not even the header is whole
            continue
        assert read == ENTRIES[: len(read)]
        lengths.add(len(read))
    assert len(lengths) > 4


def test_unknown_format_and_missing_file_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"hello\n")
    with pytest.raises(CaptureError, match="no known format"):
        list(read_capture(path))
    with pytest.raises(CaptureError, match="cannot be read"):
        list(read_capture(tmp_path / "none"))
    path.write_bytes(b"")
    assert list(read_capture(path)) == []


def test_source_is_given_or_read_from_folder_or_urls(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(f"{URL.replace('example.test', 'fstream.binance.com')} <-> 5.5\n".encode())
    assert source_of(path) == Source("binance", "usdm")
    path.write_bytes(b'1723161253937085768 {"a":1}\n')
    with pytest.raises(CaptureError, match="--exchange"):
        source_of(path)
    assert source_of(path, "binance", "spot") == Source("binance", "spot")
    folder = tmp_path / "binance-coinm"
    folder.mkdir()
    (folder / "y").write_bytes(path.read_bytes())
    assert source_of(folder / "y") == Source("binance", "coinm")


def test_hftbacktest_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    lines = b'1723161253937085768 {"stream":"a"}\n1723161253937085769 {"lastUpdateId":1}\nbroken\n'
    path.write_bytes(gzip.compress(lines))
    assert list(read_capture(path)) == [
        Entry(1723161253937085768, EntryKind.WS, b'{"stream":"a"}'),
        Entry(1723161253937085769, EntryKind.REST, b'{"lastUpdateId":1}'),
        Entry(1723161253937085769, EntryKind.WS, b"broken"),
    ]


def test_cryptofeed_lines_interleave_by_time(tmp_path: Path) -> None:
    ws, http = tmp_path / "a.ws", tmp_path / "a.http"
    ws.write_bytes(
        b'configuration: {}\nwss://h/s?streams=a <-> 1617566590.378895\nwss://h/s <- 1617566590.5: {"id":1}\n'
        b'1617566591.326123: {"n":1}\n1617566593.0: {"n":2}\n\n'
    )
    http.write_bytes(b'https://h/depth?symbol=A -> 1617566592.1065369: {"lastUpdateId":5}\n')
    entries = [entry for _, entry in read_session([ws, http])]
    assert [(entry.kind.value, entry.ts_recv_ns, entry.payload) for entry in entries] == [
        ("connect", 1617566590378895000, b""),
        ("sent", 1617566590500000000, b'{"id":1}'),
        ("ws", 1617566591326123000, b'{"n":1}'),
        ("rest", 1617566592106536900, b'{"lastUpdateId":5}'),
        ("ws", 1617566593000000000, b'{"n":2}'),
    ]
    assert entries[3].where == "https://h/depth?symbol=A"


def test_single_message_formats(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(
        b'{"kind":"trade","market":"LinearSwap","src_line":1,"msg":{"stream":"a","p":"1.50"}}\n{"kind":1}\n'
    )
    first, second = read_capture(path)
    assert (first.payload, first.product) == (b'{"stream":"a","p":"1.50"}', "usdm")
    assert second.payload == b'{"kind":1}'
    path.write_bytes(b'123\t{"a":1}\n124\t{"a":2}\n')
    assert [entry.payload for entry in read_capture(path)] == [b'{"a":1}', b'{"a":2}']
    path.write_bytes(b'{"stream":"a"}\n')
    assert [entry.payload for entry in read_capture(path)] == [b'{"stream":"a"}']


def test_every_public_capture_is_read(captures: Path) -> None:
    """Line counts as the captures' own description states them."""
    counted = {
        "binance-spot/hftbacktest_btcusdt_20240808.gz": 41249,
        "binance-usdm/hftbacktest_btcusdt_20240808.gz": 93954,
        "binance-usdm/fastmm_mark_price_stream.jsonl": 20,
        "binance-mixed/crypto-msg-parser_examples.jsonl": 51,
        "okx/fastmm_raw_perp_stream.jsonl": 30,
        "okx/cryptofeed_20220227_OKX.ws.1.0.gz": 3781,
    }
    for name, lines in counted.items():
        assert sum(1 for _ in read_capture(captures / name)) == lines, name
    for path in sorted(captures.glob("[bdo]*[!s]/*.*")):
        assert source_of(path).exchange in ("binance", "binance-us", "okx", "deribit")
        kinds = Counter(entry.kind for entry in read_capture(path))
        assert sum(kinds.values()), path
