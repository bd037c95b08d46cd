"""Errors of the keeper.

TickringError
└── KeeperError
    ├── KeeperAway       nobody answers on its socket (retriable)
    └── KeeperRefused    it answered that it cannot; `code` says why in one word
"""

from __future__ import annotations

from ...ringbuf.errors import TickringError


class KeeperError(TickringError):
    pass


class KeeperAway(KeeperError):
    retriable = True


class KeeperRefused(KeeperError):
    """`code` is one of bad_request, too_large, too_many, busy, away."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code
        self.retriable = code in ("too_many", "busy", "away")
