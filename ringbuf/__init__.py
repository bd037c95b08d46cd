"""Shared memory, and nothing about trading: streams, byte rings, key directories, readers, doorbells, pages."""

from .bytering import ByteRingReader, ByteRingWriter, bytes_filename, create_byte_ring
from .doorbell import Bell, full_barrier, make_bell
from .errors import (
    DirectoryFull,
    KeyTooLong,
    LayoutMismatch,
    NoSpace,
    RingError,
    SegmentBusy,
    SegmentMissing,
    TickringError,
    UnsupportedMachine,
)
from .keys import Key, KeyReader, KeyWriter, create_keys, keys_filename
from .layout import StreamSpec, require_ordered_stores
from .page import MetricsPage, PageView, State, page_filename, read_page, read_pages
from .readers import ReaderKind, ReaderLine
from .segment import free_bytes, prepare_folder
from .stream import StreamReader, StreamWriter, create_stream, read_spec

__all__ = [
    "Bell",
    "ByteRingReader",
    "ByteRingWriter",
    "DirectoryFull",
    "Key",
    "KeyReader",
    "KeyTooLong",
    "KeyWriter",
    "LayoutMismatch",
    "MetricsPage",
    "NoSpace",
    "PageView",
    "ReaderKind",
    "ReaderLine",
    "RingError",
    "SegmentBusy",
    "SegmentMissing",
    "State",
    "StreamReader",
    "StreamSpec",
    "StreamWriter",
    "TickringError",
    "UnsupportedMachine",
    "bytes_filename",
    "create_byte_ring",
    "create_keys",
    "create_stream",
    "free_bytes",
    "full_barrier",
    "keys_filename",
    "make_bell",
    "page_filename",
    "prepare_folder",
    "read_page",
    "read_pages",
    "read_spec",
    "require_ordered_stores",
]
