"""Errors of the shared-memory structures, and the base of every error tickring raises on purpose.

TickringError
└── RingError
    ├── SegmentMissing        the file is not there (retriable: its producer may not have started)
    ├── LayoutMismatch        another layout version, record declaration or geometry
    ├── SegmentBusy           another live process already writes it
    ├── NoSpace               the file system cannot hold the segment (retriable: others may give room back)
    ├── DirectoryFull         a key directory or reader file has no free row
    ├── KeyTooLong            a key's text and attributes do not fit a directory row
    └── UnsupportedMachine    stores are not ordered on this CPU
"""

from __future__ import annotations


class TickringError(Exception):
    """Base of all errors raised on purpose. The text says what, where, with which values, and what to do."""

    retriable = False


class RingError(TickringError):
    """A shared-memory structure cannot be used as asked."""


class SegmentMissing(RingError):
    retriable = True


class LayoutMismatch(RingError):
    pass


class SegmentBusy(RingError):
    retriable = True


class NoSpace(RingError):
    retriable = True  # whatever took the room may give it back


class DirectoryFull(RingError):
    pass


class KeyTooLong(RingError):
    pass


class UnsupportedMachine(RingError):
    pass
