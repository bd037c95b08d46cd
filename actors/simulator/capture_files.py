"""Recorded exchange traffic as one sequence in order of receipt, with the product and symbol of each entry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from ...codecs.captures import EntryKind, read_session, source_of
from .config import SPOT, USDM
from .errors import CaptureUnusable

_STREAM_SYMBOL = re.compile(rb'\{"stream":"([^@"!]+)@')


class Item(NamedTuple):
    """A frame, or a response body and whose it is."""

    ts_recv_ns: int
    product: str
    frame: bool
    payload: bytes
    url: str = ""
    symbol: str = ""  # of a depth body


@dataclass(frozen=True)
class CaptureFile:
    path: Path
    product: str


def capture_file(text: str) -> CaptureFile:
    """Read `PATH`, or `spot:PATH` and `usdm:PATH` where neither header, folder nor a URL says the product.

    Raises:
        CaptureError: nothing says it.
        CaptureUnusable: it is of another exchange or product.
    """
    for product in (SPOT, USDM):
        if text.startswith(product + ":"):
            return CaptureFile(Path(text[len(product) + 1 :]), product)
    source = source_of(text)
    if source.product not in (SPOT, USDM):
        raise CaptureUnusable(
            f"capture {text} is of {source.exchange} {source.product or '(several products)'}; the simulator plays "
            f"{SPOT} and {USDM} (write spot:{text} or usdm:{text} to play it as that)"
        )
    return CaptureFile(Path(text), source.product)


def read_captures(files: list[CaptureFile]) -> Iterator[Item]:
    """Yield frames and successful response bodies of all files, interleaved by receive time.

    Raises:
        CaptureError: a file cannot be read or is of no known format.
    """
    products = {file.path: file.product for file in files}
    # One recorder writes depth bodies without a URL, in files of one symbol each: the frames around them say which.
    symbols = {file.path: "_".join(file.path.name.split("_")[1:-1]).upper() for file in files}
    for path, entry in read_session([file.path for file in files]):
        product = entry.product or products[path]
        if entry.kind is EntryKind.WS:
            match = _STREAM_SYMBOL.match(entry.payload)
            if match is not None:
                symbols[path] = match[1].decode().upper()
            yield Item(entry.ts_recv_ns, product, True, entry.payload)
        elif entry.kind is EntryKind.REST and entry.status == 200:
            named = parse_qs(urlsplit(entry.where).query).get("symbol")
            symbol = named[0].upper() if named else symbols[path]
            yield Item(entry.ts_recv_ns, product, False, entry.payload, entry.where, symbol)
