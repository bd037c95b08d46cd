"""Errors of a feed.

TickringError
└── FeedError
    ├── FeedConfigError       the plan gave the feed what it cannot carry
    ├── RestFailed            a REST request was answered with an error, or not at all (retriable)
    │   └── RestRefused       429 or 418: the address has asked too much (retriable, after `retry_after_s`)
    └── NoInstruments         none of the feed's symbols exists on the exchange
"""

from __future__ import annotations

from ...ringbuf.errors import TickringError


class FeedError(TickringError):
    pass


class FeedConfigError(FeedError):
    pass


class RestFailed(FeedError):
    """`status` is the HTTP status, 0 where no answer came."""

    retriable = True

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RestRefused(RestFailed):
    def __init__(self, message: str, status: int, retry_after_s: float) -> None:
        super().__init__(message, status)
        self.retry_after_s = retry_after_s


class NoInstruments(FeedError):
    pass
