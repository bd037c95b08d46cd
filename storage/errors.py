"""Errors of history: ClickHouse, its schema, and the disk that stands in for it.

TickringError
└── StorageError
    ├── Unavailable       ClickHouse gave no answer, or cannot serve now (retriable)
    ├── Refused           ClickHouse understood and said no, and would say so again
    ├── SchemaConflict    a table is not what its record type asks for
    ├── SpoolWaits        the question can be answered when the spool has been replayed (retriable)
    └── DiskUnusable      spool or journal cannot be written: full or failing (retriable)
        └── SpoolFull     a spool that does not yield is at its bound
"""

from __future__ import annotations

from ..ringbuf.errors import TickringError


class StorageError(TickringError):
    """History cannot be written or read as asked."""


class Unavailable(StorageError):
    """ClickHouse gave no answer, or one that may be different later. `code` is its own error code, 0 without an answer.

    Whether the request was carried out is unknown.
    """

    retriable = True

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Refused(StorageError):
    """ClickHouse refused the request. `code` and `name` are its own."""

    def __init__(self, message: str, code: int, name: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = name


class SchemaConflict(StorageError):
    pass


class DiskUnusable(StorageError):
    retriable = True


class SpoolFull(DiskUnusable):
    pass


class SpoolWaits(StorageError):
    retriable = True
