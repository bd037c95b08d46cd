"""Errors of the portfolio.

TickringError
└── PortfolioError
    └── StateUnusable   its file on disk cannot be read or written (retriable)
"""

from __future__ import annotations

from ...ringbuf.errors import TickringError


class PortfolioError(TickringError):
    """Positions cannot be kept."""


class StateUnusable(PortfolioError):
    """The file with the fills cannot be read or written: a full or failing disk."""

    retriable = True
