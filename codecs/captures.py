"""Recorded exchange sessions: our own format, which `tickring record` writes, and four public ones.

Our format is text, one record for each line, so that `zcat`, `grep` and `cut` read it::

    {"tickring_capture":1,"exchange":"binance","product":"spot","started_ns":1764158400000000000}
    1764158400100000000 connect public-0 wss://stream.binance.com:9443/stream?streams=btcusdt@trade
    1764158400110000000 sent public-0 - {"method":"SUBSCRIBE","params":["btcusdt@aggTrade"],"id":1}
    1764158400150000000 ws public-0 - {"stream":"btcusdt@trade","data":{...}}
    1764158400160000000 rest rest https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=1000 {...}
    1764158400170000000 rest/429 rest https://api.binance.com/api/v3/depth?symbol=ETHUSDT&limit=1000 {...}
    1764158400180000000 ws:b64 public-0 - AAEC
    1764158400190000000 close public-0 - 1001 going away

The first line is a JSON header (again at the start of each appended part). The others are: receive time (UNIX ns),
kind, connection, URL or ``-``, payload to the end of the line, each divided by one space. Kinds: ``connect``,
``close``, ``ws`` (frame received), ``sent`` (frame sent), ``rest`` (response body; other statuses than 200 as
``rest/429``). A payload that is not UTF-8 or holds a line break is written in base64 and its kind ends in ``:b64``.
A file is only ever appended to, plain or gzip (each part a member of its own); a last line without its line break was
cut off by a crash and is left out.

The public formats are those of hftbacktest, cryptofeed, crypto-msg-parser and FastMM; which one a file has is read
from its first line.
"""

from __future__ import annotations

import base64
import gzip
import heapq
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, NamedTuple

from .errors import CaptureError

HEADER_KEY = "tickring_capture"
FORMAT_VERSION = 1


class EntryKind(StrEnum):
    CONNECT = "connect"
    CLOSE = "close"
    WS = "ws"
    SENT = "sent"
    REST = "rest"


class Entry(NamedTuple):
    """One thing that happened in a recorded session."""

    ts_recv_ns: int  # wall clock of the recorder, UNIX ns; 0 = not recorded
    kind: EntryKind
    payload: bytes
    where: str = ""  # URL of a connection or request; empty = not recorded
    connection: str = ""  # which socket; empty = not recorded
    status: int = 200  # of a REST response
    product: str = ""  # exchange product of this entry, where a file holds several; else empty


class Source(NamedTuple):
    """What a file is a recording of."""

    exchange: str  # binance, binance-us, okx, deribit
    product: str  # spot, usdm, coinm; empty where entries say it themselves, or the exchange has one market


# -- reading -----------------------------------------------------------------------------------------------------


def read_capture(path: Path | str) -> Iterator[Entry]:
    """Read one file of any known format, in its own order.

    Lines that do not fit the format are given as frames, time of the line before: whoever decodes them refuses and
    counts them.

    Raises:
        CaptureError: the file cannot be opened, or its first line is of no known format.
    """
    path = Path(path)
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        return
    for pattern, reader in _FORMATS:
        if pattern.match(first):
            lines = _chain(first, lines)
            yield from reader(lines if reader is _own else map(_without_break, lines))
            return
    raise CaptureError(
        f"capture {path}: first line {first[:60]!r} is of no known format; known are tickring record, hftbacktest, "
        "cryptofeed, crypto-msg-parser, FastMM"
    )


def read_session(paths: Iterable[Path | str]) -> Iterator[tuple[Path, Entry]]:
    """Read the files of one session together, ordered by receive time; files of equal time in the order given."""
    streams = [_tagged(Path(path)) for path in paths]
    if len(streams) == 1:
        return streams[0]
    return heapq.merge(*streams, key=lambda item: item[1].ts_recv_ns)


def source_of(path: Path | str, exchange: str | None = None, product: str | None = None) -> Source:
    """Say what a file is a recording of: as given, else by its header, its folder's name or the URLs in it.

    Raises:
        CaptureError: nothing says it.
    """
    path = Path(path)
    if exchange and product:
        return Source(exchange, product)
    found = _source_of_header(path) or _FOLDERS.get(path.resolve().parent.name) or _source_of_urls(path)
    if found is None and exchange is None:
        raise CaptureError(
            f"capture {path}: neither a header, nor the folder's name ({path.resolve().parent.name!r}), nor a URL says "
            "which exchange it is of; say it with --exchange and --product"
        )
    known = found or Source("", "")
    return Source(exchange or known.exchange, product or known.product)


_FOLDERS = {
    "binance-spot": Source("binance", "spot"),
    "binance-usdm": Source("binance", "usdm"),
    "binance-coinm": Source("binance", "coinm"),
    "binance-us": Source("binance-us", "spot"),
    "binance-mixed": Source("binance", ""),
    "okx": Source("okx", ""),
    "deribit": Source("deribit", ""),
}
_HOSTS = (
    (re.compile(r"//(fapi|fstream)[\w.-]*\.(binance|binancefuture)\.com"), Source("binance", "usdm")),
    (re.compile(r"//(dapi|dstream)[\w.-]*\.(binance|binancefuture)\.com"), Source("binance", "coinm")),
    (re.compile(r"//(api|stream)\.binance\.us"), Source("binance-us", "spot")),
    (re.compile(r"//[\w.-]*binance\.(com|vision)"), Source("binance", "spot")),
    (re.compile(r"//[\w.-]*okx\.com"), Source("okx", "")),
    (re.compile(r"//[\w.-]*deribit\.com"), Source("deribit", "")),
)
_URL_LINES = 50  # lines in which a URL is looked for


def _source_of_header(path: Path) -> Source | None:
    header = read_header(path)
    if header and isinstance(header.get("exchange"), str):
        return Source(header["exchange"], str(header.get("product", "")))
    return None


def read_header(path: Path | str) -> dict[str, Any] | None:
    """The header of a file in our own format; None for other formats."""
    first = next(_lines(Path(path)), b"")
    if not _OWN.match(first):
        return None
    header: dict[str, Any] = json.loads(first)
    return header


def _source_of_urls(path: Path) -> Source | None:
    for _, line in zip(range(_URL_LINES), _lines(path), strict=False):
        url = line[:200].decode(errors="replace")
        for host, source in _HOSTS:
            if host.search(url):
                return source
    return None


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their line breaks; of a compressed file that was cut off, what can be unpacked."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[assignment]
            try:
                yield from stream
            except (EOFError, zlib.error, gzip.BadGzipFile):
                return
    except OSError as error:
        raise CaptureError(f"capture {path}: cannot be read: {error.strerror or error}") from None


def _chain(first: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from lines


def _without_break(line: bytes) -> bytes:
    return line.removesuffix(b"\n")


def _tagged(path: Path) -> Iterator[tuple[Path, Entry]]:
    for entry in read_capture(path):
        yield path, entry


def _own(lines: Iterator[bytes]) -> Iterator[Entry]:
    last = 0
    for line in lines:
        if _OWN.match(line) or not line.endswith(b"\n"):
            continue  # a header, or the line that a crash cut off
        parts = line[:-1].split(b" ", 4)
        if len(parts) == 5 and parts[0].isdigit():
            try:
                entry = _own_entry(parts)
            except ValueError:
                pass
            else:
                last = entry.ts_recv_ns
                yield entry
                continue
        yield Entry(last, EntryKind.WS, line[:-1])


def _own_entry(parts: list[bytes]) -> Entry:
    time, kind, connection, where, payload = parts
    name, _, encoding = kind.decode().partition(":")
    name, _, status = name.partition("/")
    if encoding:
        payload = base64.b64decode(payload, validate=True)
    url = where.decode() if where != b"-" else ""
    socket = connection.decode() if connection != b"-" else ""
    return Entry(int(time), EntryKind(name), payload, url, socket, int(status or 200))


def _hftbacktest(lines: Iterator[bytes]) -> Iterator[Entry]:
    last = 0
    for line in lines:
        time, space, payload = line.partition(b" ")
        if space and time.isdigit():
            last = int(time)
        else:
            payload = line
        kind = EntryKind.REST if payload.startswith(b'{"lastUpdateId"') else EntryKind.WS
        yield Entry(last, kind, payload)


def _cryptofeed(lines: Iterator[bytes]) -> Iterator[Entry]:
    last = 0
    for line in lines:
        if not line or line.startswith(b"configuration:"):
            continue
        if found := _CRYPTOFEED.match(line):
            url, arrow, time = found["url"], found["arrow"], found["time"]
            last = _ns_of_seconds(time)
            where = url.decode(errors="replace").strip() if url else ""
            yield Entry(last, _ARROWS[arrow], line[found.end() :], where)
        else:
            yield Entry(last, EntryKind.WS, line)


def _crypto_msg_parser(lines: Iterator[bytes]) -> Iterator[Entry]:
    for line in lines:
        try:
            document = json.loads(line)
            message, market = document["msg"], document["market"]
        except (ValueError, KeyError, TypeError):
            yield Entry(0, EntryKind.WS, line)
            continue
        # The message stands verbatim at the end of the line: take it from there, not written anew.
        at = line.find(b'"msg":') + 6
        payload = line[at:-1].strip()
        if isinstance(message, str):
            payload = message.encode()
        kind = EntryKind.REST if document.get("kind") in ("l2_snapshot", "open_interest") else EntryKind.WS
        yield Entry(0, kind, payload, product=_MARKETS.get(market, ""))


def _fastmm(lines: Iterator[bytes]) -> Iterator[Entry]:
    for line in lines:
        time, tab, payload = line.partition(b"\t")
        # The number before the tab is of a monotonic clock: it orders, and dates nothing.
        yield Entry(0, EntryKind.WS, payload if tab and time.isdigit() else line)


def _ns_of_seconds(text: bytes) -> int:
    seconds, _, fraction = text.partition(b".")
    return int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))


_OWN = re.compile(rb'\{"tickring_capture":')
_CRYPTOFEED = re.compile(rb"(?:(?P<url>[a-z]+://\S+) (?P<arrow><->|<-|->) )?(?P<time>\d{1,11}(?:\.\d+)?)(?:: |$)")
_ARROWS = {None: EntryKind.WS, b"<->": EntryKind.CONNECT, b"<-": EntryKind.SENT, b"->": EntryKind.REST}
_MARKETS = {
    "Spot": "spot", "LinearSwap": "usdm", "LinearFuture": "usdm", "InverseSwap": "coinm", "InverseFuture": "coinm",
}  # fmt: skip
_FORMATS = (
    (_OWN, _own),
    (re.compile(rb"\d{16,20} "), _hftbacktest),
    (re.compile(rb"configuration:|[a-z]+://\S+ (<->|<-|->) |\d{9,11}(\.\d+)?: "), _cryptofeed),
    (re.compile(rb'\{"kind":'), _crypto_msg_parser),
    (re.compile(rb"\d+\t|[\[{]"), _fastmm),
)


# -- writing -----------------------------------------------------------------------------------------------------


class CaptureWriter:
    """Appends a session to a file in our own format.

    Args:
        path: created with its header, or appended to; compressed where the name ends in ``.gz``.
        exchange, product, started_ns: for the header.
    """

    def __init__(self, path: Path | str, exchange: str, product: str, started_ns: int) -> None:
        self.path = Path(path)
        self.entries = 0
        if self.path.suffix == ".gz":
            self._file: IO[bytes] = gzip.open(self.path, "ab", compresslevel=6)  # type: ignore[assignment]  # noqa: SIM115
        else:
            self._file = io.BufferedWriter(io.FileIO(self.path, "ab"))
        header = {HEADER_KEY: FORMAT_VERSION, "exchange": exchange, "product": product, "started_ns": started_ns}
        self._file.write(json.dumps(header, separators=(",", ":")).encode() + b"\n")

    def write(self, entry: Entry) -> None:
        kind: str = entry.kind.value
        if entry.status != 200:
            kind += f"/{entry.status}"
        payload = entry.payload
        if b"\n" in payload or b"\r" in payload or not _is_utf8(payload):
            kind += ":b64"
            payload = base64.b64encode(payload)
        head = f"{entry.ts_recv_ns} {kind} {_word(entry.connection)} {_word(entry.where)} "
        self._file.write(head.encode() + payload + b"\n")
        self.entries += 1

    def flush(self) -> None:
        """Hand what was written to the system; a crash then costs at most the line being written."""
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> CaptureWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _word(text: str) -> str:
    return "".join("%20" if char.isspace() else char for char in text) or "-"
