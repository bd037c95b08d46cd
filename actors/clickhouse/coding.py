"""HTTP content codings: gzip, deflate, zstd, lz4 (frames), br where brotli is installed; bodies also in xz and bz2.

lz4 and zstd come with clickhouse-connect (its own dependencies). ClickHouse's block framing (`compress=1`) is not here.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any

from ...storage.engine import EngineError
from .errors import not_implemented, too_large


def _optional(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        return None


lz4_frame = _optional("lz4.frame")
zstd = _optional("backports.zstd")
brotli = _optional("brotli")

PIECE = 1 << 20  # most bytes that one step of decompression may give


class _Inflate:
    """zlib's decompressor with the interface of the standard library's others."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)
        self.needs_input = True

    def decompress(self, data: bytes, limit: int) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, limit)
        self.needs_input = not self._inner.unconsumed_tail and len(out) < limit
        return out

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


class _Brotli:
    """brotli's decompressor with the interface of the standard library's others."""

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()
        self.needs_input = True
        self.unused_data = b""

    def decompress(self, data: bytes, limit: int) -> bytes:
        out = self._inner.process(data, output_buffer_limit=limit)
        self.needs_input = self._inner.can_accept_more_data()
        return out

    @property
    def eof(self) -> bool:
        return self._inner.is_finished()


# Content coding -> (decompressor, ClickHouse's error when the data is bad)
_DECODERS: dict[str, tuple[Callable[[], Any], int, str]] = {
    "gzip": (lambda: _Inflate(31), 354, "ZLIB_INFLATE_FAILED"),
    "x-gzip": (lambda: _Inflate(31), 354, "ZLIB_INFLATE_FAILED"),
    "deflate": (lambda: _Inflate(15), 354, "ZLIB_INFLATE_FAILED"),
    "xz": (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=256 << 20), 543, "LZMA_STREAM_DECODER_FAILED"),
    "bz2": (bz2.BZ2Decompressor, 612, "BZIP2_STREAM_DECODER_FAILED"),
}
if lz4_frame is not None:
    _DECODERS["lz4"] = (lz4_frame.LZ4FrameDecompressor, 618, "LZ4_DECODER_FAILED")
if zstd is not None:
    _DECODERS["zstd"] = (zstd.ZstdDecompressor, 561, "ZSTD_DECODER_FAILED")
if brotli is not None:
    _DECODERS["br"] = (_Brotli, 448, "BROTLI_READ_FAILED")


def check_encoding(encoding: str) -> None:
    """Raise `EngineError` 48 for a Content-Encoding that cannot be read."""
    if encoding not in _DECODERS and encoding not in ("", "identity", "none"):
        known = ", ".join(sorted(_DECODERS))
        raise not_implemented(f"Unknown compression method {encoding[:40]!r}. Known here: {known}.")


def decompress(chunks: Iterable[bytes], encoding: str, limit: int) -> Iterator[bytes]:
    """Yield the decompressed body in pieces; memory grows by one piece at a time, so a bomb meets `limit` first.

    Several frames one after the other are one body. Raises `EngineError`: the engine's code for a bad or cut body, 229
    for one of more than `limit` bytes.
    """
    if encoding in ("", "identity", "none"):
        yield from chunks
        return
    check_encoding(encoding)
    make, code, name = _DECODERS[encoding]
    decoder, begun, total = make(), False, 0
    for chunk in chunks:
        data = bytes(chunk)
        while data or not decoder.needs_input:
            begun = True
            try:
                out = decoder.decompress(data, PIECE)
            except Exception as error:
                raise EngineError(code, name, f"Request body is not valid {encoding}: {error}.") from error
            data = b""
            if out:
                total += len(out)
                if total > limit:
                    raise too_large(f"Request body is more than {limit} bytes after {encoding} decompression.")
                yield out
            if decoder.eof:
                data, decoder, begun = decoder.unused_data, make(), False
    if begun:
        raise EngineError(code, name, f"Request body ends in the middle of its {encoding} data.")


class Compressor:
    """Compresses an answer piece by piece."""

    def __init__(self, encoding: str, level: int) -> None:
        self.encoding = encoding
        if encoding == "lz4":
            inner = lz4_frame.LZ4FrameCompressor(auto_flush=True)
            self._head, self._step, self._end = inner.begin(), inner.compress, inner.flush
        elif encoding == "zstd":
            inner = zstd.ZstdCompressor(level=1)
            self._head, self._step, self._end = b"", inner.compress, inner.flush
        elif encoding == "br":
            inner = brotli.Compressor(quality=1)
            self._head, self._step, self._end = b"", inner.process, inner.finish
        else:
            inner = zlib.compressobj(level, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
            self._head, self._step, self._end = b"", inner.compress, inner.flush

    def compress(self, data: bytes) -> bytes:
        out = self._head + self._step(data)
        self._head = b""
        return out

    def finish(self) -> bytes:
        return self._head + self._end()


# Cheapest first: over loopback the processor is what is scarce.
_OFFERED = [
    name
    for name, there in (("lz4", lz4_frame), ("zstd", zstd), ("br", brotli), ("gzip", zlib), ("deflate", zlib))
    if there is not None
]


def choose_encoding(accept: str) -> str:
    """Return the content coding for an Accept-Encoding header, "" for none."""
    offered = set()
    for part in accept.lower().split(","):
        name, _, quality = part.partition(";")
        if quality.replace(" ", "") not in ("q=0", "q=0.0"):
            offered.add(name.strip())
    return next((name for name in _OFFERED if name in offered), "")
